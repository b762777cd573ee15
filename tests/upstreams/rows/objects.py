"""What the objects look like: rows 9 to 20 of the known upstreams."""

import gzip
import time

from answer import Answer
from measure import Call, Get, Many, Nix
from row import by_nix, info, nar, row, usual
from sample import compress

PAGE = b"<!DOCTYPE html><html><body>This site is down for maintenance</body></html>\n" * 20
CODINGS = {"gzip": gzip.compress, "br": lambda body: compress("br", body),
           "zstd": lambda body: compress("zstd", body), "xz": lambda body: compress("xz", body)}


def spoilt(world, coding, spoil, **more):
    """As attic: no FileHash, and a body that is not what it should be."""
    one, path = world.upstream(), world.sample.medium
    place = world.attic(one, path, coding)
    one.odd(place, body=spoil(path.file(coding)), ranges=False, **more)
    return usual(path, coding, place)


def flip(body):
    return body[:300_000] + bytes([body[300_000] ^ 4]) + body[300_001:]


@row(9)
def flipped_bit_without_file_hash(world):
    """No FileHash, zstd: a bit of the body is flipped."""
    return spoilt(world, "zstd", flip)


@row(9)
def flipped_bit_without_file_hash_xz(world):
    """No FileHash, xz: a bit of the body is flipped."""
    return spoilt(world, "xz", flip)


@row(9)
def short_without_file_hash(world):
    """No FileHash, chunked: the body ends cleanly after half of it."""
    return spoilt(world, "zstd", lambda body: body[:350_000], framing="chunked")


@row(9)
def empty_without_file_hash(world):
    """No FileHash: the body is empty, with a length of 0."""
    return spoilt(world, "zstd", lambda body: b"")


@row(9)
def page_without_file_hash(world):
    """No FileHash: a web page in place of the NAR."""
    return spoilt(world, "xz", lambda body: PAGE)


@row(10)
def chunked_without_file_hash(world):
    """No FileHash, chunked, 20 readers at once."""
    one, path = world.upstream(), world.sample.large
    place = world.attic(one, path)
    one.odd(place, framing="chunked", pieces=65536, gap=0.02, ranges=False)
    readers = [(place, path.file("zstd"))] * 20
    return [info(path), Many(readers), nar(path, "zstd", place), *by_nix(path)]


@row(11)
def two_narinfos_of_one_nar(world):
    """Two narinfos name one NAR URL with different FileHash; the body satisfies the second."""
    one = world.upstream()
    first, second = world.sample.medium, world.sample.twin
    url = f"nar/{first.nar_hash}.nar.xz"
    world.publish(one, first, url=url, FileHash="sha256:" + "0" * 52, FileSize=700_000)
    world.publish(one, second, url=url)
    return [Nix([first]), Nix([second]), Nix([first, second]), nar(second, place="/" + url)]


@row(12)
def renewed_narinfo_at_the_same_url(world):
    """A renewed narinfo names other bytes at the URL of the old ones."""
    one, path = world.upstream(), world.sample.medium
    world.site = {"lifetimes": {"narinfo": "1s"}}
    place = world.attic(one, path, "zstd")

    def renew():
        world.attic(one, path, "xz")
        time.sleep(1.5)

    return [info(path), nar(path, "zstd", place), info(path, before=renew),
            nar(path, "xz", place), *by_nix(path)]


@row(13)
def deleted_nar(world):
    """A NAR was deleted, and a newer narinfo names another one."""
    one, path = world.upstream(), world.sample.medium

    def replace():
        del one.objects[path.file_path()]
        world.publish(one, path, "zstd")

    old = Get(path.file_path(), None, before=replace)
    return [info(path), old, Nix([path]), Nix([path])]


def encoded(world, coding):
    one = world.upstream()
    for path in [world.sample.small, world.sample.medium]:
        one.put(path.narinfo_path, CODINGS[coding](path.narinfo()), "text/x-nix-narinfo",
                **{"Content-Encoding": coding})
    return one


@row(14)
def narinfo_encoded_gzip(world):
    """Narinfos stored under Content-Encoding gzip."""
    encoded(world, "gzip")
    return [info(world.sample.small), info(world.sample.small), Nix([world.sample.medium])]


@row(14)
def narinfo_encoded_br(world):
    """Narinfos stored under Content-Encoding br, as nix copy narinfo-compression=br does."""
    encoded(world, "br")
    return [info(world.sample.small), info(world.sample.small), Nix([world.sample.medium])]


# Mic92/niks3#459: narinfos are stored compressed with zstd.
@row(14)
def narinfo_encoded_zstd(world):
    """Narinfos stored under Content-Encoding zstd, as niks3 does."""
    encoded(world, "zstd")
    return [info(world.sample.small), info(world.sample.small), Nix([world.sample.medium])]


@row(14)
def narinfo_encoded_xz(world):
    """Narinfos stored under Content-Encoding xz, which Nix decodes and curl does not."""
    encoded(world, "xz")
    return by_nix(world.sample.medium, world.sample.small)


@row(15)
def nar_encoded_unasked(world):
    """A NAR under Content-Encoding gzip that was not asked for."""
    one, path = world.upstream(), world.sample.medium
    one.put(path.file_path(), gzip.compress(path.file(), 1), **{"Content-Encoding": "gzip"})
    return [info(path), nar(path), nar(path, accepts=False), nar(path)]


@row(16)
def content_addressed_fixed(world):
    """CA: fixed:r:sha256, and no signature."""
    one, path = world.upstream(), world.sample.medium
    world.publish(one, path, Sig=None, CA=path.fields["CA"])
    return [*usual(path), *by_nix(path)]


@row(16)
def content_addressed_text(world):
    """CA: text:sha256, and no signature; the references have one."""
    one, path = world.upstream(), world.sample.root
    world.publish(one, path, Sig=None, CA=path.fields["CA"])
    return [info(path), *by_nix(path)]


@row(17)
def nar_url_with_query(world):
    """As harmonia: the NAR's URL has a query, and the client remembers the narinfo."""
    one, path = world.upstream(), world.sample.medium
    url = f"nar/{path.nar_hash}.nar?hash={path.hash}"
    world.publish(one, path, "none", url)

    def strict(request, answer):
        return answer if request.query == f"hash={path.hash}" else Answer(400, b"no hash\n")

    one.odd("/nar/*", apply=strict)
    return [nar(path, "none", "/" + url), info(path), nar(path, "none", "/" + url),
            *by_nix(path)]


@row(18)
def small_objects_without_length(world):
    """Small objects, chunked; then the edge restarts while the upstream is down."""
    one = world.upstream()
    paths = ["/" + world.sample.small.hash + ".ls", "/log/" + "a" * 32 + "-x.drv",
             "/debuginfo/" + "b" * 40, "/nix-cache-info"]
    text = b'{"version":1,"root":{"type":"regular","size":3}}'
    for path in paths[:3]:
        one.put(path, text, "application/json")
    one.odd("*", framing="chunked", headers={"ETag": None})
    bodies = {path: one.objects[path][0] for path in paths}

    def restart(way):
        one.stop_listening()
        if way.edge:
            way.edge.stop()
            way.edge.restart()
        return 3, "down"

    return [*(Get(path, body) for path, body in bodies.items()),
            *(Get(path, body) for path, body in bodies.items()),
            Call(restart), Get("/nix-cache-info", bodies["/nix-cache-info"])]


# NixOS/nix#2124: narinfos with a full URL.
@row(19)
def narinfo_with_absolute_url(world):
    """The URL field of a narinfo is absolute."""
    one, path = world.upstream(), world.sample.medium
    place = path.file_path()
    world.publish(one, path, url=one.url + place)
    one.put(place, path.file())
    return [info(path), *by_nix(path)]


# The edge serves it without the slash, so no client asks the edge for a path that begins with //.
@row(19)
def narinfo_url_with_slash(world):
    """The URL field of a narinfo begins with a slash."""
    one, path = world.upstream(), world.sample.medium
    place = path.file_path()
    world.publish(one, path, url=place)
    one.put(place, path.file())
    one.put("/" + place, path.file())
    return [info(path), nar(path), *by_nix(path)]


# kalbasit/ncps#108, kalbasit/ncps#1492: harmonia compresses raw NARs in transit.
@row(20, patience=40)
def raw_nars_over_a_slow_line(world):
    """Compression: none, zstd in transit, over a line of 1 MB/s."""
    one, path = world.upstream(), world.sample.text
    place = world.publish(one, path, "none")

    def transit(request, answer):
        if "zstd" in request.headers.get("accept-encoding", ""):
            answer.body = path.file("zstd")
            answer.headers = answer.headers | {"Content-Encoding": "zstd", "ETag": None}
        return answer

    one.odd(place, apply=transit, framing="chunked", pieces=10_000, gap=0.01, ranges=False)
    return usual(path, "none", place)
