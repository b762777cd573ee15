"""An origin of one huge object whose bytes are computed, not stored, and readers that compare what
they get with it as it comes. The origin can be killed in mid-body and started again on its port."""

import random
import re
import selectors
import socket
import struct
import threading
import time

# Not a divisor of 4 GiB, so that an offset cut to 32 bits does not meet the same bytes.
PERIOD = (64 << 20) - 4093
PIECE = 256 << 10


class Giant:
    """The object: `size` bytes that depend on their offset."""

    def __init__(self, size, seed=11):
        self.size = size
        self.noise = random.Random(seed).randbytes(PERIOD)

    def bytes(self, first, count):
        """At most `count` bytes from offset `first`; fewer at the end and where the noise turns."""
        at = first % PERIOD
        return self.noise[at:at + min(count, self.size - first)]

    def feed(self, digest):
        """Takes the whole object into a digest."""
        at = 0
        while at < self.size:
            piece = self.bytes(at, 8 << 20)
            digest.update(piece)
            at += len(piece)
        return digest


class Origin:
    """Serves a giant at one path, with a strong tag and ranges."""

    def __init__(self, giant, path):
        self.giant, self.path = giant, path
        self.sent, self.dies_at, self.deaths = 0, None, 0
        self.lock = threading.Lock()
        self.connections = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.begin()

    def begin(self):
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections.add(connection)
            threading.Thread(target=self.converse, args=(connection,), daemon=True).start()

    def converse(self, connection):
        try:
            with connection.makefile("rb") as lines:
                while self.answer(connection, lines):
                    pass
        except (OSError, ValueError):
            pass
        finally:
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    def answer(self, connection, lines):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = lines.readline()
            if not line:
                return False
            head += line
        size = self.giant.size
        if head.split(b" ")[1].decode() != "/" + self.path:
            connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            return True
        asked = re.search(rb"(?i)\r\nrange: bytes=(\d+)-\r\n", head)
        at = int(asked[1]) if asked else 0
        status = "206 Part" if asked else "200 Yes"
        place = f"Content-Range: bytes {at}-{size - 1}/{size}\r\n" if asked else ""
        connection.sendall(f"HTTP/1.1 {status}\r\nETag: \"giant\"\r\n{place}"
                           f"Content-Length: {size - at}\r\n\r\n".encode())
        while at < size:
            piece = self.giant.bytes(at, PIECE)
            connection.sendall(piece)
            at += len(piece)
            with self.lock:
                self.sent += len(piece)
                is_due = self.dies_at is not None and self.sent >= self.dies_at
            if is_due:
                self.kill()
                return False
        return True

    def kill(self):
        """Listens no more and resets its connections."""
        with self.lock:
            self.dies_at = None
            self.deaths += 1
            connections = list(self.connections)
        # Without this the thread in accept() would keep it open.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in connections:
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RD)
            except OSError:
                pass
            connection.close()

    def die_again_and_again(self, after, pauses):
        """Dies when it has sent each of the numbers of bytes in `after`, and is away for the
        pause (s) that belongs to it."""
        self.dies_at = after[0]

        def run():
            for number, pause in enumerate(pauses):
                while self.deaths <= number:
                    time.sleep(0.01)
                time.sleep(pause)
                self.dies_at = after[number + 1] if number + 1 < len(after) else None
                self.listener = socket.create_server(("127.0.0.1", self.port))
                self.begin()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


class Reader:
    """One client: a GET from an offset to the end, compared as it comes."""

    def __init__(self, port, path, giant, first=0, last=None):
        self.giant, self.at = giant, first
        self.end = giant.size if last is None else last + 1
        self.head, self.error = b"", None
        self.connection = socket.create_connection(("127.0.0.1", port))
        wants_all = first == 0 and last is None
        asked = "" if wants_all else f"Range: bytes={first}-{'' if last is None else last}\r\n"
        self.status = b"200" if wants_all else b"206"
        self.connection.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: e2e\r\n{asked}Connection: close\r\n\r\n".encode())
        self.connection.setblocking(False)

    def read(self):
        """Takes what is there; whether there may be more."""
        try:
            piece = self.connection.recv(PIECE)
        except BlockingIOError:
            return True
        except OSError as error:
            return self.over(repr(error))
        if not piece:
            return self.over(None if self.at == self.end else f"ended at {self.at}")
        if not self.head.endswith(b"\r\n\r\n"):
            head, found, rest = (self.head + piece).partition(b"\r\n\r\n")
            self.head = head + found
            if not found:
                return True
            if self.head.split(b" ")[1] != self.status:
                return self.over(self.head.splitlines()[0].decode())
            piece = rest
        while piece:
            wanted = self.giant.bytes(self.at, len(piece))
            if self.at + len(piece) > self.end or piece[:len(wanted)] != wanted:
                return self.over(f"other bytes from {self.at}")
            self.at += len(wanted)
            piece = piece[len(wanted):]
        return True

    def over(self, error):
        self.error = error
        return False


def read_all(readers):
    """Reads every reader to its end; the errors there were."""
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader.connection, selectors.EVENT_READ, reader)
        left = len(readers)
        while left:
            ready = selector.select(timeout=180)
            if not ready:
                return ["nothing came for 180 s"]
            for key, _ in ready:
                if not key.data.read():
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                    left -= 1
    return [reader.error for reader in readers if reader.error]
