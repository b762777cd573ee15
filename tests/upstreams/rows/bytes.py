"""How bytes arrive: rows 1 to 8 of the known upstreams."""

import time

from measure import Get, Nix
from row import by_nix, info, nar, row, usual


@row(1)
def pieces_of_500_bytes(world):
    """A body in writes of 500 bytes, 0.2 ms apart."""
    one, path = world.upstream(), world.sample.medium
    place = world.publish(one, path, "zstd")
    one.odd(place, pieces=500, gap=0.0002)
    return usual(path, "zstd", place)


@row(1)
def pieces_of_2048_bytes(world):
    """6 MiB in writes of 2,048 bytes, back to back, chunked."""
    one, path = world.upstream(), world.sample.large
    one.odd(path.file_path(), pieces=2048, framing="chunked")
    return usual(path)


@row(1)
def tls_records_of_1369_bytes(world):
    """TLS records of 1,369 bytes, 0.2 ms apart, over HTTP/1.1."""
    one, path = world.upstream(tls=True), world.sample.medium
    one.odd(path.file_path(), pieces=1369, gap=0.0002)
    return usual(path)


@row(1)
def tls_records_over_http2(world):
    """DATA frames of 1,369 bytes over HTTP/2."""
    one, path = world.upstream(h2=True), world.sample.large
    one.odd(path.file_path(), pieces=1369)
    return usual(path)


@row(2)
def empty_without_length(world):
    """200 without a length and with an empty body, chunked."""
    one, path = world.upstream(), world.sample.small
    one.odd(path.file_path(), framing="chunked", body=b"", ranges=False)
    return usual(path)


@row(2)
def empty_ended_by_close(world):
    """200 with an empty body, ended by the end of the connection."""
    one, path = world.upstream(), world.sample.small
    one.odd(path.file_path(), framing="close", body=b"", ranges=False)
    return usual(path)


@row(4, patience=70, slow=True)
def first_byte_after_20_s(world):
    """The first byte of a NAR comes after 20 s."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), delay=20)
    return usual(path)


@row(4, patience=70, slow=True)
def pause_of_13_s(world):
    """A pause of 13 s in mid-body."""
    one, path = world.upstream(), world.sample.large
    one.odd(path.file_path(), pause_at=2_000_000, pause=13)
    return usual(path)


@row(5, slow=True)
def mute_while_stale_is_stored(world):
    """Accepts and never answers, while a stale narinfo is stored."""
    one, path = world.upstream(), world.sample.small
    world.site = {"lifetimes": {"narinfo": "1s"}}

    def mute():
        time.sleep(1.5)
        one.odd("*", delay=60)

    return [info(path), info(path, before=mute)]


@row(6, slow=True)
def first_of_two_is_mute(world):
    """The first of two origins accepts and never answers."""
    mute, good = world.upstream(), world.upstream()
    mute.is_mute = True
    world.origins = [mute.url, good.url]
    world.direct = [good.url]
    return [info(world.sample.small), info(world.sample.medium)]


@row(7, slow=True)
def one_wrong_body(world):
    """One wrong body, then right ones: the client tries again after a second."""
    one, path = world.upstream(), world.sample.medium
    body = bytearray(path.file())
    body[300_000] ^= 1
    one.odd(path.file_path(), times=1, body=bytes(body))
    again = lambda: time.sleep(1.2)
    return [info(path), nar(path), nar(path, before=again), nar(path)]


@row(7)
def one_short_body(world):
    """One short body with a right length field, then right ones."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), times=1, cut_at=400_000)
    return [info(path), Nix([path]), nar(path)]


@row(8, patience=70, slow=True)
def breaks_off_always(world):
    """Breaks off in mid-body again and again."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), cut_at=100_000, ranges=False)
    return [info(path), nar(path)]


@row(8, patience=70, slow=True)
def closes_before_the_first_byte(world):
    """Closes before the first byte, always."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), raw=b"")
    return [info(path), nar(path)]


@row()
def polite(world):
    """No oddity at all: the lab itself, by curl."""
    world.upstream()
    return [Get("/nix-cache-info", b"StoreDir: /nix/store\n"), *usual(world.sample.large)]


@row()
def polite_by_nix(world):
    """No oddity at all: the lab itself, by Nix."""
    world.upstream()
    return by_nix(world.sample.root, world.sample.small)
