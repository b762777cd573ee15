#!/usr/bin/env python3
"""slow_origin.py PORT FOLDER LATENCY BYTES_PER_SECOND SLOW_SHARE SLOW_SECONDS: an origin as it is far
away, on 127.0.0.1. Every answer begins LATENCY seconds after its request, one in 1 / SLOW_SHARE
SLOW_SECONDS after it, and a connection brings at most BYTES_PER_SECOND. Serves the files of FOLDER
with a strong tag, whole or by one range. `/count` says how many requests it has had."""

import hashlib
import random
import re
import socket
import sys
import threading
import time
from pathlib import Path

SO_MAX_PACING_RATE = 47
PIECE = 1 << 18


class Origin:
    def __init__(self, folder, latency, rate, slow_share, slow_seconds):
        self.folder, self.latency, self.rate = folder, latency, rate
        self.slow_share, self.slow_seconds = slow_share, slow_seconds
        self.count, self.lock, self.chance = 0, threading.Lock(), random.Random(7)

    def serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, self.rate)
        requests = connection.makefile("rb")
        try:
            while line := requests.readline():
                fields = {}
                while (field := requests.readline()) not in (b"\r\n", b""):
                    name, _, value = field.decode("latin-1").partition(":")
                    fields[name.strip().lower()] = value.strip()
                self.answer(connection, line.decode("latin-1").split(), fields)
        except OSError:
            pass
        finally:
            connection.close()

    def answer(self, connection, line, fields):
        method, path = line[0], line[1].partition("?")[0]
        if path == "/count":
            text = str(self.count).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            return
        with self.lock:
            self.count += 1
            is_slow = self.chance.random() < self.slow_share
        time.sleep(self.slow_seconds if is_slow else self.latency)
        file = self.folder / path[1:]
        if ".." in path or not file.is_file():
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        size = file.stat().st_size
        first, last, status = 0, size - 1, "200 OK"
        head = f"ETag: \"{hashlib.sha256(path.encode()).hexdigest()[:32]}\"\r\n"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", fields.get("range", ""))
        if asked and int(asked[1]) < size:
            first = int(asked[1])
            last = min(int(asked[2] or last), last)
            status = "206 Partial Content"
            head += f"Content-Range: bytes {first}-{last}/{size}\r\n"
        head = (f"HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\n{head}"
                f"Content-Length: {last + 1 - first}\r\n\r\n")
        connection.sendall(head.encode())
        if method == "HEAD":
            return
        with file.open("rb") as body:
            body.seek(first)
            left = last + 1 - first
            while left:
                piece = body.read(min(PIECE, left))
                connection.sendall(piece)
                left -= len(piece)


def main():
    port, folder, latency, rate, slow_share, slow_seconds = sys.argv[1:]
    origin = Origin(Path(folder), float(latency), int(rate), float(slow_share),
                    float(slow_seconds))
    with socket.create_server(("127.0.0.1", int(port)), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=origin.serve, args=[connection], daemon=True).start()


if __name__ == "__main__":
    main()
