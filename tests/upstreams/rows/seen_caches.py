"""What people met with binary caches and the software that serves them. Each row names the
report."""

import gzip
import time

from measure import Get, Nix
from row import by_nix, info, nar, row, usual
from rows.objects import PAGE, flip
from sample import NIX32, compress


def hex_of(text):
    """A hash in base 32 as hexadecimal digits."""
    number = 0
    for letter in text:
        number = number * 32 + NIX32.index(letter)
    return number.to_bytes(32, "little").hex()


# kalbasit/ncps#806, kalbasit/ncps#831, nix-community/harmonia#122
@row()
def url_of_nix_serve(world):
    """As nix-serve: nar/STOREHASH-NARHASH.nar, raw, chunked, without FileHash."""
    one, path = world.upstream(), world.sample.medium
    url = f"nar/{path.hash}-{path.nar_hash}.nar"
    place = world.publish(one, path, "none", url, FileHash=None, FileSize=None)
    one.odd(place, framing="chunked", ranges=False)
    return [*usual(path, "none", place), *by_nix(path)]


# kalbasit/ncps#1314, Mic92/niks3#451
@row()
def as_niks3(world):
    """As niks3: zstd, without FileHash and FileSize."""
    one, path = world.upstream(), world.sample.medium
    url = f"nar/{path.nar_hash}.nar.zst"
    place = world.publish(one, path, "zstd", url, FileHash=None, FileSize=None)
    return [*usual(path, "zstd", place), *by_nix(path)]


# kalbasit/ncps#1470, kalbasit/ncps#1474
@row()
def as_attic(world):
    """As attic: zstd under the name STOREHASH.nar."""
    one, path = world.upstream(), world.sample.medium
    place = world.attic(one, path)
    return [*usual(path, "zstd", place), *by_nix(path)]


# cachix/cachix#120, cachix/cachix#271
@row()
def as_cachix(world):
    """As cachix: FileHash and the NAR's name in hexadecimal digits, Deriver unknown."""
    one, path = world.upstream(), world.sample.medium
    name = hex_of(path.file_path()[5:57])
    place = world.publish(one, path, "xz", f"nar/{name}.nar.xz", FileHash=f"sha256:{name}",
                          Deriver="unknown-deriver")
    return [*usual(path, "xz", place), *by_nix(path)]


# cachix/cachix#120: hexadecimal hashes, here of the contents too
@row()
def nar_hash_in_hexadecimal(world):
    """NarHash in hexadecimal digits; the signature is over base 32."""
    one, path = world.upstream(), world.sample.medium
    world.publish(one, path, NarHash="sha256:" + hex_of(path.nar_hash))
    return by_nix(path)


# NixOS/nix#4464
@row()
def url_without_extension(world):
    """nar/NARHASH without an extension, compressed with xz."""
    one, path = world.upstream(), world.sample.medium
    place = world.publish(one, path, "xz", f"nar/{path.nar_hash}")
    return [*usual(path, "xz", place), *by_nix(path)]


# kalbasit/ncps#1329, kalbasit/ncps#1331
@row()
def url_of_a_uuid(world):
    """An opaque name: nar/UUID.nar."""
    one, path = world.upstream(), world.sample.medium
    url = "nar/6f1c2a52-3b0e-4c57-9e0b-2f4d5c6b7a89.nar"
    place = world.publish(one, path, "zstd", url)
    return [*usual(path, "zstd", place), *by_nix(path)]


# kalbasit/ncps#165: a store that spreads its files over folders
@row()
def url_in_folders(world):
    """NARs in folders: nar/1/1d/HASH.nar.xz."""
    one, path = world.upstream(), world.sample.medium
    name = path.file_path()[5:]
    place = world.publish(one, path, "xz", f"nar/{name[0]}/{name[:2]}/{name}")
    return [*usual(path, "xz", place), *by_nix(path)]


# NixOS/nix#2124
@row()
def url_outside_of_nar(world):
    """NARs elsewhere: files/main/NAME.nar.xz."""
    one, path = world.upstream(), world.sample.medium
    place = world.publish(one, path, "xz", f"files/main/{path.name}.nar.xz")
    return [*usual(path, "xz", place), *by_nix(path)]


# EphraimSiegfried/gachix#4: no word on the compression; Nix takes bzip2 then
@row()
def no_compression_field(world):
    """No Compression field, and a body of bzip2."""
    one, path = world.upstream(), world.sample.medium
    place = world.publish(one, path, "bzip2", Compression=None)
    return [*usual(path, "bzip2", place), *by_nix(path)]


# kalbasit/ncps#1392: the declared compression is not that of the file
@row()
def other_compression_than_declared(world):
    """Compression: xz, and raw bytes under that name, without FileHash: no client can use it."""
    one, path = world.upstream(), world.sample.medium
    world.publish(one, path, "xz", f"nar/{path.hash}.nar.xz", body=path.nar, FileHash=None,
                  FileSize=None)
    return [info(path), Get(f"/nar/{path.hash}.nar.xz", path.file("xz")), Nix([path])]


# kalbasit/ncps#733, kalbasit/ncps#911: sizes and hashes that an earlier step left behind
@row()
def wrong_file_size(world):
    """FileSize is that of another form; the body is right."""
    one, path = world.upstream(), world.sample.medium
    place = world.attic(one, path, "zstd")
    one.put(path.narinfo_path, path.narinfo("zstd", place[1:], FileSize=123_456, FileHash=None))
    return [*usual(path, "zstd", place), *by_nix(path)]


# kalbasit/ncps#911, NixOS/nixpkgs#533028
@row()
def wrong_file_hash(world):
    """FileHash is that of another form; the contents have the NarHash."""
    one, path = world.upstream(), world.sample.medium
    place = world.publish(one, path, "zstd", f"nar/{path.nar_hash}.nar.zst",
                          FileHash="sha256:" + "1" * 52)
    return [info(path), nar(path, "zstd", place), *by_nix(path)]


# NixOS/nixpkgs#533028, NixOS/hydra#1804
@row()
def contents_that_contradict(world):
    """The body has neither the FileHash nor the NarHash."""
    one, path = world.upstream(), world.sample.medium
    place = world.publish(one, path, "zstd", f"nar/{path.nar_hash}.nar.zst",
                          body=world.sample.large.file("zstd"))
    return [info(path), nar(path, "zstd", place), Nix([path])]


# kalbasit/ncps#1155, zhaofengli/attic#101: a truncated NAR that is kept
@row()
def truncated_and_then_mended(world):
    """The stored NAR is short; it is mended after a while."""
    one, path = world.upstream(), world.sample.medium
    rule = one.odd(path.file_path(), body=path.file()[:500_000], ranges=False)

    def mend():
        one.rules.remove(rule)
        time.sleep(2.5)

    return [info(path), nar(path), Nix([path], before=mend), nar(path)]


# input-output-hk/haskell.nix#2341, powerofthe69/nix-gaming-edge#26
@row()
def page_for_a_narinfo(world):
    """200 with a web page for narinfos; later the cache is back."""
    one, path = world.upstream(), world.sample.medium
    rule = one.odd("*.narinfo", body=PAGE, headers={"Content-Type": "text/html"})

    def back():
        one.rules.remove(rule)
        time.sleep(2.5)

    return [info(path), info(path, before=back), Nix([path])]


# cachix/cachix#120
@row()
def empty_narinfo(world):
    """An empty narinfo, once."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.narinfo_path, times=1, body=b"")
    return [info(path), info(path, before=lambda: time.sleep(1.5)), Nix([path])]


# NixOS/nix#4533 of a narinfo: cut within the signature
@row()
def truncated_narinfo(world):
    """A narinfo without a length that is cut within its signature, once."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.narinfo_path, times=1, body=path.narinfo()[:-40], framing="close")
    return [info(path), info(path, before=lambda: time.sleep(1.5)), Nix([path])]


# NixOS/nix#2024: signatures of several keys
@row()
def several_signatures(world):
    """Signatures of unknown keys before the known one, and fields that Nix does not know."""
    one, path = world.upstream(), world.sample.medium
    other = "other-cache-1:" + path.fields["Sig"].partition(":")[2]
    text = path.narinfo().replace(
        b"Sig: ", f"Sig: {other}\nX-Pushed-By: ci\nSystem: x86_64-linux\nSig: ".encode())
    one.put(path.narinfo_path, text)
    return [*usual(path), *by_nix(path)]


# NixOS/infra#162
@row()
def types_of_no_use(world):
    """application/octet-stream or no type on everything, and no Last-Modified."""
    one = world.upstream()
    one.last_modified = None
    one.odd("*.narinfo", headers={"Content-Type": None})
    one.odd("/nix-cache-info", headers={"Content-Type": "application/octet-stream"})
    return [*usual(world.sample.medium), *by_nix(world.sample.root)]


# NixOS/nix#13857, ryan4yin/nixos-and-flakes-book#177: a cache without nix-cache-info
@row()
def no_cache_info(world):
    """nix-cache-info is absent; the rest is there."""
    one = world.upstream()
    del one.objects["/nix-cache-info"]
    return [Get("/nix-cache-info", None), *usual(world.sample.medium)]


# NixOS/nix#2333, fzakaria/nix-http-binary-cache-api-spec#1
@row()
def listing_with_brotli(world):
    """A listing stored with brotli, under Content-Encoding: br or without it."""
    one = world.upstream()
    text = b'{"version":1,"root":{"type":"regular","size":3}}'
    coded = compress("br", text)
    first, second = f"/{'a' * 32}.ls", f"/{'b' * 32}.ls"
    one.put(first, coded, "application/json", **{"Content-Encoding": "br"})
    one.put(second, coded, "application/json")
    return [Get(first, text), Get(first, text), Get(second, coded), Get(second, coded)]


# NixOS/hydra#871: logs are stored with a coding
@row()
def log_with_gzip(world):
    """A build log stored under Content-Encoding: gzip."""
    one = world.upstream()
    place = "/log/z3mh2s1s1jh2krb1n1qx5ilmdw34f564-hello.drv"
    one.put(place, gzip.compress(b"built\n" * 1000), "text/plain",
            **{"Content-Encoding": "gzip"})
    return [Get(place, b"built\n" * 1000), Get(place, b"built\n" * 1000)]


# cachix/cachix#689, powerofthe69/nix-gaming-edge#26, lilyinstarlight/nixos-cosmic#511
@row()
def cdn_errors_twice(world):
    """522 and 530 of a CDN before the right answer; Nix asks."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.narinfo_path, times=2, status=522, body=b"error code: 522", ranges=False)
    one.odd(path.file_path(), times=2, status=530, body=b"error code: 1033", ranges=False)
    return [Nix([path]), nar(path)]


# cachix/cachix#703, NixOS/nix#3340, lilyinstarlight/nixos-cosmic#511
@row()
def cannot_serve_nar(world):
    """500 "Cannot serve NAR" three times, then right; Nix asks."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), times=3, status=500, body=b"Cannot serve NAR", ranges=False)
    return [info(path), Nix([path]), nar(path)]


# NixOS/infra#207
@row()
def one_object_too_large(world):
    """503 "Response object too large" for one NAR, always; the others are fine."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), status=503, body=b"Response object too large", ranges=False)
    return [info(path), nar(path), *usual(world.sample.small),
            Nix([world.sample.large])]


# NixOS/nix#781, NixOS/nix#4028
@row()
def uploaded_after_a_miss(world):
    """A path is asked for, then uploaded, then asked for again two seconds later."""
    one, path = world.upstream(), world.sample.medium
    held = one.objects.pop(path.narinfo_path)

    def upload():
        one.objects[path.narinfo_path] = held
        time.sleep(2)

    return [Get(path.narinfo_path, None), info(path, before=upload), Nix([path])]


# nix-community/harmonia#120, nix-community/harmonia#248
@row()
def other_software_at_the_same_address(world):
    """The cache moves from nix-serve to another server, and NARs get new names."""
    one, path = world.upstream(), world.sample.medium
    world.site = {"lifetimes": {"narinfo": "2s"}}
    old = world.publish(one, path, "none", f"nar/{path.hash}-{path.nar_hash}.nar",
                        FileHash=None, FileSize=None)

    def move():
        del one.objects[old]
        world.publish(one, path, "none", f"nar/{path.nar_hash}.nar?hash={path.hash}")
        time.sleep(2.5)

    return [info(path), Nix([path], before=move), Nix([path])]


# NixOS/nix#2035, NixOS/nix#3969: rebuilt with other contents
@row()
def rebuilt_with_other_contents(world):
    """A body with a flipped bit is replaced by the right one under the same name."""
    one, path = world.upstream(), world.sample.medium
    place = world.attic(one, path, "xz", body=flip(path.file()))

    def mend():
        world.attic(one, path, "xz")
        time.sleep(2.5)

    return [Nix([path]), Nix([path], before=mend), nar(path, "xz", place)]
