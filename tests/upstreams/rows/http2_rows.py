"""What upstreams do that speak HTTP/2: row 3 of the known upstreams, and what its neighbours do."""

import time

import h2.settings
from hyperframe import frame

from measure import Get, Many, Nix
from row import by_nix, info, nar, row, usual
from sample import NIX32

Settings = h2.settings.SettingCodes


def crowd(world, upstream, count=120):
    """So many narinfos, as pairs of path and text."""
    world.site = {"signatures": "off"}
    world.keys = []
    pairs = []
    for number in range(count):
        name = "".join(NIX32[number >> shift & 31] for shift in (10, 5, 0)) + "0" * 29
        text = world.sample.small.narinfo(
            StorePath=f"/nix/store/{name}-thing-{number}", url=f"nar/{name}.nar.xz", Sig=None)
        upstream.put(f"/{name}.narinfo", text, "text/x-nix-narinfo")
        pairs.append((f"/{name}.narinfo", text))
    return pairs


@row(3)
def goaway_after_5_requests(world):
    """GOAWAY(NO_ERROR) after 5 requests on a connection; 120 narinfos, 25 at once."""
    one = world.upstream(h2=True)
    one.http2.goaway_after = 5
    return [Many(crowd(world, one))]


@row(3)
def goaway_after_2_requests_by_nix(world):
    """GOAWAY after two requests of a connection, pieces of 1,448 bytes; a closure by Nix."""
    one = world.upstream(h2=True)
    one.http2.goaway_after = 2
    one.odd("/nar/*", pieces=1448)
    return by_nix(world.sample.root)


# kalbasit/ncps#990: GOAWAY with PROTOCOL_ERROR in the middle of many requests.
@row()
def goaway_with_an_error(world):
    """GOAWAY(PROTOCOL_ERROR) after 60 requests, and the connection ends, as of cachix."""
    one = world.upstream(h2=True)
    one.http2.goaway_after, one.http2.goaway_code = 60, 1
    one.latency = 0.02
    return [Many(crowd(world, one))]


@row()
def refused_streams(world):
    """Each seventh stream is reset with REFUSED_STREAM."""
    one = world.upstream(h2=True)
    pairs = crowd(world, one)
    one.http2.reset_every = 7
    return [Many(pairs)]


@row()
def connection_dies_with_twenty_streams(world):
    """The connection ends without a word while 20 streams are open on it."""
    one = world.upstream(h2=True)
    pairs = crowd(world, one)
    one.latency = 0.05
    one.http2.dies_with = 20
    return [Many(pairs), Many(pairs[:50])]


@row()
def one_stream_at_a_time(world):
    """SETTINGS_MAX_CONCURRENT_STREAMS is 1."""
    one = world.upstream(h2=True)
    one.http2.streams_max = 1
    return [Many(crowd(world, one)), Nix([world.sample.large])]


@row()
def settings_that_change(world):
    """After each answer the settings change: streams, windows, header table, frame size."""
    one = world.upstream(h2=True)
    turns = [
        {Settings.MAX_CONCURRENT_STREAMS: 40, Settings.INITIAL_WINDOW_SIZE: 1},
        {Settings.HEADER_TABLE_SIZE: 0, Settings.MAX_FRAME_SIZE: 100_000},
        {Settings.MAX_CONCURRENT_STREAMS: 100, Settings.HEADER_TABLE_SIZE: 65536},
    ]

    def change(connection):
        connection.change(turns[connection.requests % 3])

    one.http2.after_answer = change
    return [Many(crowd(world, one)), *usual(world.sample.large)]


# NixOS/nix#1254, cachix/cachix#507: "Stream error in the HTTP/2 framing layer" in mid-NAR.
@row()
def reset_once_in_mid_body(world):
    """The first answer is reset with INTERNAL_ERROR in mid-body; Nix tries again."""
    one, path = world.upstream(h2=True), world.sample.large
    one.odd(path.file_path(), times=1, cut_at=2_000_000)
    return [info(path), nar(path), Nix([path])]


@row()
def reset_with_no_error(world):
    """The first answer is reset with NO_ERROR in mid-body: no end of the message."""
    one, path = world.upstream(h2=True), world.sample.large
    one.odd(path.file_path(), times=1, cut_at=2_000_000, cut_code=0)
    return [info(path), nar(path), nar(path)]


@row()
def reset_with_enhance_your_calm(world):
    """The first two answers are reset with ENHANCE_YOUR_CALM before a byte of the body."""
    one, path = world.upstream(h2=True), world.sample.medium
    one.odd(path.file_path(), times=2, cut_at=0, cut_code=11)
    return [info(path), Nix([path]), nar(path)]


@row()
def padded_frames(world):
    """DATA frames of 700 bytes, each padded with 200 more, without a length."""
    one, path = world.upstream(h2=True), world.sample.medium
    one.odd(path.file_path(), padding=200, pieces=700, framing="none")
    return usual(path)


@row()
def trailers_at_the_end(world):
    """Trailer fields behind the body, as gRPC gateways send them."""
    one, path = world.upstream(h2=True), world.sample.medium
    one.odd(path.file_path(), framing="none", trailers={"x-checksum": "1"})
    return usual(path)


@row()
def unknown_frames_and_pings(world):
    """Frames of unknown types, ALTSVC and PING between the answers."""
    one = world.upstream(h2=True)

    def chat(connection):
        unknown = frame.ExtensionFrame(type=0xFA, stream_id=0, flag_byte=0, body=b"grease")
        unknown.body_len = 6
        connection.raw(unknown)
        connection.raw(frame.AltSvcFrame(0, origin=b"lab", field=b"h3=\":443\""))
        with connection.changed:
            connection.h2.ping(b"12345678")
            connection.flush()

    one.http2.after_answer = chat
    return [Many(crowd(world, one)), *usual(world.sample.medium)]


@row()
def early_hints(world):
    """103 before each answer, as CDNs send it."""
    one, path = world.upstream(h2=True), world.sample.medium

    def hint(connection, request, stream=None):
        with connection.changed:
            connection.h2.send_headers(stream, [(":status", "103"), ("link", "</x>")])
            connection.flush()

    one.odd("*", act=hint)
    return usual(path)


@row()
def large_heads(world):
    """A head of 20 KB in several frames: policies and cookies of a CDN."""
    one, path = world.upstream(h2=True), world.sample.small
    one.odd("*", headers={"Content-Security-Policy": "a" * 20_000})
    return usual(path)


@row()
def end_of_stream_without_the_body(world):
    """A length is announced, and the stream ends cleanly after half of it."""
    one, path = world.upstream(h2=True), world.sample.medium
    one.odd(path.file_path(), times=1, body=path.file()[:300_000], length=len(path.file()),
            ranges=False)
    return [info(path), nar(path), Nix([path])]


@row()
def streams_after_idle(world):
    """The connection ends while it is idle, and the next request finds it dead."""
    one, path = world.upstream(h2=True), world.sample.medium

    def cut():
        one.stop_connections()
        time.sleep(0.3)

    return [info(path), nar(path, before=cut), Get("/absent.narinfo", None, before=cut)]


# golang/go#36026, open-telemetry/opentelemetry-collector-contrib#31672
@row(slow=True)
def connection_falls_silent(world):
    """The connection in use falls silent, without an end; new ones are answered."""
    one = world.upstream(h2=True)
    pairs = crowd(world, one)
    one.latency = 0.05
    return [Many(pairs[:20]), Many(pairs[20:40], before=one.silence), Many(pairs[40:90])]


# kubernetes/client-go#374, labring/aiproxy#531
@row(slow=True)
def connection_falls_silent_in_use(world):
    """The connection falls silent with 12 requests on it; clients give up after 5 s."""
    one = world.upstream(h2=True)
    pairs = crowd(world, one)
    one.latency, one.http2.silent_after = 0.05, 12
    return [Many(pairs[:25], patience=5), Many(pairs[40:90])]
