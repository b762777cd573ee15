"""The scripted upstream: sockets and HTTP/1.1. A thread accepts, and each connection has one; all
end when it is closed. Over TLS `http2` takes the connections that negotiate it."""

import contextlib
import http
import socket
import ssl
import struct
import threading
import time

import http2
from answer import Request, Store, now

# A connection on which nothing happens ends after so long (s).
IDLE = 120


class Upstream(Store):
    """Listens on a free port of loopback. `tls` is a pair of files. Over HTTP/2 it speaks
    nothing else."""

    def __init__(self, tls=None, is_http2=False, bucket=None):
        super().__init__(bucket)
        self.context = None
        self.is_http2 = is_http2
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*tls)
            self.context.set_alpn_protocols(["h2" if is_http2 else "http/1.1"])
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.connections = []
        self.count = 0
        self.is_closed = False
        # oddities of connections: accept and never answer; end after so many requests without
        # saying so
        self.is_mute = False
        self.requests_max = None
        # connections up to this number are never answered again
        self.silent_up_to = 0
        self.http2 = http2.Oddities()
        self.tunnel_certificate = None
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def scheme(self):
        return "https" if self.context else "http"

    @property
    def url(self):
        host = "localhost" if self.context else "127.0.0.1"
        return f"{self.scheme}://{host}:{self.port}"

    def accept(self):
        while not self.is_closed:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.count += 1
                number = self.count
                self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection, number), daemon=True).start()

    def serve(self, connection, number):
        try:
            self.converse(connection, number)
        except (OSError, ValueError):
            pass
        finally:
            with contextlib.suppress(OSError):
                connection.close()

    def converse(self, connection, number):
        """All that happens on one connection."""
        connection.settimeout(IDLE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.is_mute:
            connection.recv(1 << 20)
            time.sleep(IDLE)
        if self.is_http2:
            http2.serve(self, connection, number)
            return
        if not self.context:
            Connection(self, connection, number).run()
            return
        with self.context.wrap_socket(connection, server_side=True) as secure:
            with self.lock:
                if connection in self.connections:
                    self.connections.remove(connection)
                self.connections.append(secure)
            Connection(self, secure, number).run()

    def tunnel(self, connection):
        """As the proxy of CONNECT: it is the server behind itself, over TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.tunnel_certificate)
        Connection(self, context.wrap_socket(connection, server_side=True), 1).run()

    def stop_listening(self):
        """As if the process had ended: new connections are refused, old ones are cut."""
        self.is_closed = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.stop_connections()

    def silence(self):
        """What is connected now stays so, and is never answered again, as behind an address
        translation that was lost; new connections are fine."""
        with self.lock:
            self.silent_up_to = self.count

    def stop_connections(self):
        with self.lock:
            open_ones, self.connections = self.connections, []
        for connection in open_ones:
            reset(connection)

    close = stop_listening


class Connection:
    """One connection of HTTP/1.1."""

    def __init__(self, upstream, connection, number):
        self.upstream = upstream
        self.socket = connection
        self.reader = connection.makefile("rb")
        self.number = number
        self.requests = 0

    def run(self):
        while request := self.read():
            if self.number <= self.upstream.silent_up_to:
                time.sleep(IDLE)
            if request.method == "CONNECT":
                self.socket.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self.upstream.tunnel(self.socket)
                return
            answer = self.upstream.answer(request)
            if not self.write(request, answer):
                return
            if self.requests == self.upstream.requests_max:
                return

    def read(self):
        line = self.reader.readline(65536).decode("latin-1")
        if not line.endswith("\r\n"):
            return None
        method, target, version = line.split()
        headers = {}
        while (line := self.reader.readline(65536).decode("latin-1")) not in ("\r\n", ""):
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        self.requests += 1
        return Request(method, target, headers, version[5:], self.requests, self.number)

    def write(self, request, answer):
        """Sends one answer; whether the connection goes on."""
        time.sleep(answer.delay)
        if answer.act and answer.act(self, request) is False:
            return False
        if answer.raw is not None:
            self.send(answer.raw, answer)
            return False
        has_body = ((request.method != "HEAD" or answer.head_body)
                    and answer.status not in (204, 304))
        framing = answer.framing if has_body or answer.framing != "close" else "length"
        if request.version == "1.0" and framing == "chunked":
            framing = "close"
        self.socket.sendall(answer.before + self.head(request, answer, framing))
        if has_body:
            time.sleep(answer.body_delay)
            if not self.body(answer, framing):
                return False
        is_kept = request.headers.get("connection", "").lower() != "close"
        return is_kept and framing != "close" and answer.after == "open"

    def head(self, request, answer, framing):
        headers = {"Date": now(), "Server": "lab"} | answer.headers
        length = len(answer.body) if answer.length is None else answer.length
        if framing == "length" and answer.status not in (204, 304):
            headers.setdefault("Content-Length", str(length))
        elif framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        if framing == "close" or answer.after == "close":
            headers["Connection"] = "close"
        known = answer.status in list(http.HTTPStatus)
        reason = http.HTTPStatus(answer.status).phrase if known else "Odd"
        lines = [f"HTTP/1.1 {answer.status} {reason}"]
        for name, value in headers.items():
            values = value if isinstance(value, list) else [value]
            lines += [f"{name}: {one}" for one in values if one is not None]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def body(self, answer, framing):
        """Sends the body; false if it broke off."""
        body = answer.body if answer.cut_at is None else answer.body[:answer.cut_at]
        sent = 0
        for piece in split(body, answer):
            if framing == "chunked":
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            if answer.pause and sent <= answer.pause_at < sent + len(piece):
                time.sleep(answer.pause)
            self.socket.sendall(piece)
            sent += len(piece)
            if answer.gap:
                time.sleep(answer.gap)
        if answer.cut_at is not None:
            if answer.cut == "hang":
                time.sleep(IDLE)
            if answer.cut == "rst":
                time.sleep(0.05)
                reset(self.socket)
            return False
        if framing == "chunked":
            fields = "".join(f"{name}: {value}\r\n" for name, value in answer.trailers.items())
            self.socket.sendall(f"0\r\n{fields}\r\n".encode())
        return True

    def send(self, text, answer):
        for piece in split(text, answer):
            self.socket.sendall(piece)
            time.sleep(answer.gap)


def split(body, answer):
    """The writes of a body; a pause ends one."""
    size = answer.pieces or max(len(body), 1)
    if not answer.pieces and answer.pause:
        return [part for part in (body[:answer.pause_at], body[answer.pause_at:]) if part]
    return [body[at:at + size] for at in range(0, len(body), size)]


def reset(connection):
    """Closes with RST."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        connection.close()
