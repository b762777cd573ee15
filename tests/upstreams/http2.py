"""The HTTP/2 side of the scripted upstream, on Debian's python3-h2. A thread reads each connection,
and each stream has one that writes its answer. What h2 would not send is written as raw frames."""

import contextlib
import socket
import ssl
import threading
import time
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe import frame

from answer import Request

PATIENCE = 60


@dataclass
class Oddities:
    """What connections of an upstream do beside answering."""

    # GOAWAY after so many requests; what comes behind is left unprocessed
    goaway_after: int | None = None
    goaway_code: int = 0
    # each connection dies (FIN) when so many streams are open at once
    dies_with: int | None = None
    # one connection falls silent, without an end, with its n-th request
    silent_after: int | None = None
    # each n-th stream is reset with this code before its answer
    reset_every: int = 0
    reset_code: int = 7
    # streams at once, announced behind the first settings; more are refused
    streams_max: int | None = None
    # called with the connection after each answered request
    after_answer: object = None


class Pipe:
    """TLS that one thread may read while others write: Python's own sockets cannot do that."""

    def __init__(self, connection, context):
        self.socket = connection
        self.lock = threading.Lock()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        while not self.is_ready():
            if not (data := connection.recv(65536)):
                raise OSError("no handshake")
            self.incoming.write(data)

    def is_ready(self):
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.socket.sendall(self.outgoing.read())
        return True

    def recv(self, size):
        while True:
            with self.lock, contextlib.suppress(ssl.SSLWantReadError):
                return self.tls.read(size)
            if not (data := self.socket.recv(65536)):
                return b""
            with self.lock:
                self.incoming.write(data)

    def sendall(self, data):
        with self.lock:
            self.tls.write(data)
            self.socket.sendall(self.outgoing.read())

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Connection:
    def __init__(self, upstream, connection, number):
        self.upstream = upstream
        self.socket = connection
        self.number = number
        config = h2.config.H2Configuration(
            client_side=False, header_encoding="latin-1", validate_outbound_headers=False,
            normalize_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.changed = threading.Condition(threading.RLock())
        self.requests = 0
        self.open = set()
        self.last = 0
        self.is_over = False
        self.is_mute = False
        self.is_changing = True

    def run(self):
        odd = self.upstream.http2
        self.h2.initiate_connection()
        self.flush()
        if odd.streams_max:
            # Clients may open more until they know, so h2 is not told.
            self.raw(frame.SettingsFrame(0, settings={3: odd.streams_max}))
        while data := self.socket.recv(65536):
            if self.is_mute or self.number <= self.upstream.silent_up_to:
                continue
            with self.changed:
                try:
                    events = self.h2.receive_data(data)
                except h2.exceptions.ProtocolError:
                    self.flush()
                    return
                for event in events:
                    self.on(event)
                self.flush()
                self.changed.notify_all()
            if self.is_over and not self.open:
                return

    def on(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.on_request(event)
        elif isinstance(event, h2.events.StreamReset):
            self.open.discard(event.stream_id)
        elif isinstance(event, h2.events.SettingsAcknowledged):
            self.is_changing = False

    def change(self, settings):
        """New settings, if the last ones are acknowledged: h2 cannot tell two apart."""
        with self.changed:
            if not self.is_changing:
                self.is_changing = True
                self.h2.update_settings(settings)
                self.flush()

    def on_request(self, event):
        odd = self.upstream.http2
        fields = dict(event.headers)
        self.requests += 1
        if self.is_over:
            return
        request = Request(fields[":method"], fields[":path"],
                          {name.lower(): value for name, value in event.headers}, "2",
                          self.requests, self.number)
        if odd.reset_every and self.requests % odd.reset_every == 0:
            self.h2.reset_stream(event.stream_id, odd.reset_code)
            return
        if odd.streams_max and len(self.open) >= odd.streams_max:
            self.h2.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self.open.add(event.stream_id)
        self.last = event.stream_id
        if odd.dies_with and len(self.open) >= odd.dies_with:
            self.upstream.http2.dies_with = None
            raise OSError("the connection dies")
        if odd.silent_after and self.requests >= odd.silent_after:
            odd.silent_after = None
            self.is_mute = True
        if odd.goaway_after and self.requests >= odd.goaway_after:
            self.goaway(odd.goaway_code)
            if odd.goaway_code:
                raise OSError("an error ends the connection")
        threading.Thread(target=self.answer, args=(event.stream_id, request),
                         daemon=True).start()

    def goaway(self, code=0):
        """A graceful end: open streams go on, and later ones are ignored."""
        self.is_over = True
        self.raw(frame.GoAwayFrame(0, last_stream_id=self.last, error_code=code))

    def raw(self, one):
        """Writes a frame past h2."""
        with self.changed:
            self.flush()
            self.socket.sendall(one.serialize())

    def flush(self):
        with self.changed:
            if (data := self.h2.data_to_send()) and not self.is_mute:
                self.socket.sendall(data)

    def answer(self, stream, request):
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError, KeyError):
            self.write(stream, request, self.upstream.answer(request))
            if self.upstream.http2.after_answer:
                self.upstream.http2.after_answer(self)
        with self.changed:
            self.open.discard(stream)
            if self.is_over and not self.open:
                with contextlib.suppress(OSError):
                    self.socket.close()

    def write(self, stream, request, answer):
        time.sleep(answer.delay)
        if answer.act and answer.act(self, request, stream) is False:
            return
        has_body = request.method != "HEAD" and answer.status not in (204, 304)
        headers = [(":status", str(answer.status))]
        for name, value in answer.headers.items():
            values = value if isinstance(value, list) else [value]
            headers += [(name.lower(), one) for one in values if one is not None]
        length = len(answer.body) if answer.length is None else answer.length
        if answer.framing == "length" and answer.status not in (204, 304):
            headers.append(("content-length", str(length)))
        with self.changed:
            self.h2.send_headers(stream, headers, end_stream=not has_body)
            self.flush()
        if has_body:
            time.sleep(answer.body_delay)
            self.body(stream, answer)

    def body(self, stream, answer):
        body = answer.body if answer.cut_at is None else answer.body[:answer.cut_at]
        at = 0
        while at < len(body):
            if answer.pause and at >= answer.pause_at:
                time.sleep(answer.pause)
                answer.pause = 0
            with self.changed:
                window = self.h2.local_flow_control_window(stream) - answer.padding - 1
                size = min(window, self.h2.max_outbound_frame_size - answer.padding - 1,
                           answer.pieces or 1 << 20, len(body) - at)
                if answer.pause and at < answer.pause_at:
                    size = min(size, answer.pause_at - at)
                if size <= 0:
                    if not self.changed.wait(PATIENCE):
                        return
                    continue
                self.h2.send_data(stream, body[at:at + size],
                                  pad_length=answer.padding or None)
                self.flush()
            at += size
            if answer.gap:
                time.sleep(answer.gap)
        with self.changed:
            if answer.cut_at is not None:
                self.h2.reset_stream(stream, answer.cut_code)
            elif answer.trailers:
                self.h2.send_headers(stream, list(answer.trailers.items()), end_stream=True)
            else:
                self.h2.end_stream(stream)
            self.flush()


def serve(upstream, connection, number):
    pipe = Pipe(connection, upstream.context)
    try:
        if pipe.tls.selected_alpn_protocol() == "h2":
            Connection(upstream, pipe, number).run()
    finally:
        pipe.close()
