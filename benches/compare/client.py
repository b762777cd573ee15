"""A small HTTP/1.1 client for warming, checking and cold requests; the load is made by wrk and
h2load. Answers must have a Content-Length, as all of these have."""

import socket
import ssl
import threading
import time

PIECE = 1 << 20


class Fault(Exception):
    """A server under test did what it must not."""


class Connection:
    """One kept connection. Blocking; `time_limit` is for each wait."""

    def __init__(self, port, context=None, time_limit=60, piece=PIECE, host=None):
        self.port, self.host = port, host or f"127.0.0.1:{port}"
        self.socket = socket.create_connection(("127.0.0.1", port), time_limit)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = memoryview(bytearray(piece))

    def send(self, path):
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())

    def receive(self, keep):
        """The answer: status, body (its length where it is not kept), and the moment at which
        its first byte after the head came."""
        filled, end = 0, -1
        while end < 0:
            filled += self.read_into(filled)
            end = bytes(self.buffer[:filled]).find(b"\r\n\r\n")
        head = bytes(self.buffer[:end]).decode("latin-1")
        status = int(head.split(" ", 2)[1])
        fields = dict(line.lower().split(":", 1) for line in head.split("\r\n")[1:])
        if "content-length" not in fields:
            raise Fault(f"port {self.port}: no length in\n{head}")
        length = int(fields["content-length"])
        body = bytearray(self.buffer[end + 4:filled]) if keep else None
        got = filled - end - 4
        if got == 0 and length:
            got = self.read_into(0)
            if keep:
                body += self.buffer[:got]
        first = time.perf_counter()
        while got < length:
            more = self.read_into(0)
            got += more
            if keep:
                body += self.buffer[:more]
        return status, body if keep else got, first

    def read_into(self, at):
        more = self.socket.recv_into(self.buffer[at:])
        if not more:
            raise Fault(f"port {self.port}: connection closed within an answer")
        return more

    def get(self, path, keep):
        self.send(path)
        return self.receive(keep)

    def close(self):
        self.socket.close()


def timed_get(connection, path):
    """Seconds to the first byte of the body, and to its last; the body must be there."""
    start = time.perf_counter()
    status, length, first = connection.get(path, keep=False)
    end = time.perf_counter()
    if status != 200:
        raise Fault(f"port {connection.port}: {status} for {path}")
    return first - start, end - start, length


def fetch_all(port, paths, connections, check, keep=True, host=None):
    """Gets all paths, as many at once as there are connections, and gives each answer to
    check(path, status, body). One thread: each connection has a request under way while the
    answers are read in turn."""
    idle = [Connection(port, host=host) for _ in range(min(connections, len(paths)))]
    everybody, busy = list(idle), []
    try:
        for path in paths:
            if not idle:
                connection, asked = busy.pop(0)
                status, body, _ = connection.receive(keep)
                check(asked, status, body)
                idle.append(connection)
            connection = idle.pop()
            connection.send(path)
            busy.append((connection, path))
        for connection, asked in busy:
            status, body, _ = connection.receive(keep)
            check(asked, status, body)
    finally:
        for connection in everybody:
            connection.close()


def fetch_at_once(port, paths, connections, check):
    """As `fetch_all`, with a thread for each connection, as large bodies want it; bodies are
    not kept, `check` gets their lengths. A fault in any thread is raised."""
    todo, faults = iter(list(paths)), []
    lock = threading.Lock()

    def work():
        try:
            connection = Connection(port)
            while True:
                with lock:
                    path = next(todo, None)
                if path is None or faults:
                    break
                status, length, _ = connection.get(path, keep=False)
                check(path, status, length)
            connection.close()
        except (Fault, OSError) as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise Fault(str(faults[0]))


def tls_context(certificate):
    context = ssl.create_default_context(cafile=str(certificate))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
