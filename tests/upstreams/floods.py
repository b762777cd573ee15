"""A client of HTTP/2 that sends control frames without end. What it floods directly is a real
nginx."""

import contextlib
import socket
import ssl
import struct
import subprocess
import time

from measure import FAILED, RIGHT

FRAMES = 1_000_000
PATIENCE = 15
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NGINX = """
daemon off; user root; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port} ssl http2; root {folder};
        ssl_certificate {certificate}; ssl_certificate_key {key}; }}
}}
"""


def frame(kind, body, flags=0):
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + b"\0\0\0\0" + body


def ping(number):
    return frame(6, struct.pack(">Q", number))


def settings(number):
    return frame(4, struct.pack(">HI", 4, 65535 + number % 2))


def flood(way, one):
    """Right if the connection is ended long before all frames are answered."""
    with server(way) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(PREFACE + frame(4, b""))
        answered, ended, end = 0, False, time.monotonic() + PATIENCE
        batch = b"".join(one(number) for number in range(100))
        try:
            for _ in range(FRAMES // 100):
                connection.sendall(batch)
                data = connection.recv(1 << 20)
                answered += len(data)
                if not data or time.monotonic() > end:
                    ended = not data
                    break
        except OSError:
            ended = True
    return (RIGHT, "ended") if ended else (FAILED, "answered without end")


@contextlib.contextmanager
def server(way):
    """A connection to the edge, or to a fresh nginx over TLS."""
    if way.edge:
        with socket.create_connection(("127.0.0.1", way.edge.port)) as connection:
            yield connection
        return
    from harness import wait_until
    from row import next_ports
    port = next_ports(1)[0]
    config = way.folder / "nginx.conf"
    config.write_text(NGINX.format(folder=way.folder, port=port, certificate=way.certificate,
                                   key=way.certificate.replace(".pem", ".key")))
    nginx = subprocess.Popen(["nginx", "-p", str(way.folder), "-c", str(config)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("nginx listens", lambda: can_connect(port), 20)
        context = ssl.create_default_context(cafile=way.certificate)
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", port)) as plain, \
                context.wrap_socket(plain, server_hostname="localhost") as connection:
            yield connection
    finally:
        nginx.terminate()
        nginx.wait(20)


def can_connect(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
