"""A TCP relay that breaks connections: after a number of bytes towards the client it resets
both sides, a given number of times; then it relays whole."""

import socket
import struct
import threading


class Cutter:
    """Listens on a free port of loopback and relays to `port` until it is closed."""

    def __init__(self, port, cut_after, cuts):
        self.target = port
        self.cut_after = cut_after
        self.cuts_left = cuts
        self.cuts_made = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            for ends in [(client, server, False), (server, client, True)]:
                threading.Thread(target=self.relay, args=ends, daemon=True).start()

    def relay(self, source, sink, is_answer):
        passed = 0
        try:
            while piece := source.recv(65536):
                passed += len(piece)
                if is_answer and passed > self.cut_after and self.take_cut():
                    reset(sink)
                    break
                sink.sendall(piece)
            else:
                sink.shutdown(socket.SHUT_WR)
                return
        except OSError:
            pass
        reset(source)

    def take_cut(self):
        with self.lock:
            if self.cuts_left == 0:
                return False
            self.cuts_left -= 1
            self.cuts_made += 1
            return True

    def close(self):
        self.listener.close()


def reset(connection):
    """Closes with RST, waking a thread that reads from it."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass
    connection.close()
