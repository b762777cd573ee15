"""The objects of the comparison: what the origin's folder holds, and who is asked for what.

A system upgrade, as the work kinds `upgrade` and `closure-cold` have it, is made from what is
known of cache.nixos.org: 2,315 requests and 13 Gbit a second are 702 kB a request; an upgrade is
2,656 paths and 7.4 GB, so 2.8 MB a NAR, while a narinfo has about 1 kB: a quarter of the requests
is for NARs. 980 requests a second reach the bucket at 30 kB each, and at a byte hit ratio of 98 %
few of them are NARs; the rest are misses of narinfos and absences, which that cache never keeps:
at most 42 % of all requests. Taken here: of 100 requests 25 for NARs, 45 for narinfos that exist
and 30 for narinfos that do not. The sizes of the NARs have the mean of 2.8 MB (SIZES)."""

import base64
import hashlib
import itertools
import os
import random
from dataclasses import dataclass, field

KIB, MIB = 1 << 10, 1 << 20
LETTERS = b"0123456789abcdfghijklmnpqrsvwxyz"
TABLE = bytes(LETTERS[byte & 31] for byte in range(256))
# NARs of an upgrade: the share in percent of each size. Mean 2.66 MiB.
SIZES = [(36, 8 * KIB), (30, 64 * KIB), (15, 512 * KIB), (12, 4 * MIB), (5, 16 * MIB),
         (2, 64 * MIB)]
UPGRADE_NARS, UPGRADE_NARINFOS, UPGRADE_ABSENT = 200, 360, 240
ABSENT_KEYS = 4000
WRITTEN = 1_600_000_000  # Last-Modified of all, as seconds since 1970
PICKS = 200_000
ZIPF = 0.9
# names of keys that the origin lacks begin so, no other does: the floor goes by it
ABSENT_PREFIX = "0000"


def nix32(digest):
    """Nix's base 32 of bytes."""
    number = int.from_bytes(digest, "little")
    places = range((len(digest) * 8 - 1) // 5, -1, -1)
    return "".join(chr(LETTERS[(number >> (5 * place)) & 31]) for place in places)


def letters(chance, count):
    """Random letters of Nix's base 32, as a hash: 52 of them hold 256 bits."""
    text = chance.randbytes(count).translate(TABLE).decode()
    return "1" + text[1:] if count == 52 or text.startswith(ABSENT_PREFIX) else text


def store_name(chance):
    return f"{letters(chance, 32)}-package-with-a-name-1.2.3"


def narinfo(chance, own, file_hash, size):
    """The text of a narinfo, about 1 KiB; `own` is the name of its store path."""
    return (
        f"StorePath: /nix/store/{own}\nURL: nar/{file_hash}.nar.xz\nCompression: xz\n"
        f"FileHash: sha256:{file_hash}\nFileSize: {size}\n"
        f"NarHash: sha256:{letters(chance, 52)}\nNarSize: {size * 4}\n"
        f"References: {' '.join(store_name(chance) for _ in range(8))}\n"
        f"Deriver: {store_name(chance)}.drv\n"
        f"Sig: bench-1:{base64.b64encode(chance.randbytes(64)).decode()}\n").encode()


@dataclass
class Objects:
    """What the origin holds. Paths begin with a slash; the bodies of narinfos are in memory,
    those of NARs in the files below `folder`."""
    folder: object
    narinfos: dict = field(default_factory=dict)
    upgrade_narinfos: dict = field(default_factory=dict)
    nars: dict = field(default_factory=dict)
    upgrade_nars: list = field(default_factory=list)
    sizes: dict = field(default_factory=dict)

    def body(self, path):
        """The bytes that a GET of the path must bring; None where the origin has no such key."""
        known = self.narinfos.get(path) or self.upgrade_narinfos.get(path)
        if known is None and path in self.sizes:
            return (self.folder / path[1:]).read_bytes()
        return known

    def write(self, path, body):
        """Old, as most objects are: what changed a second ago is stale again soon for a cache
        that goes by Last-Modified."""
        file = self.folder / path[1:]
        file.write_bytes(body)
        os.utime(file, (WRITTEN, WRITTEN))

    def add_nar(self, chance, size):
        # randbytes makes less than 256 MiB at once.
        body = b"".join(chance.randbytes(min(size - at, 64 * MIB))
                        for at in range(0, size, 64 * MIB))
        path = f"/nar/{nix32(hashlib.sha256(body).digest())}.nar.xz"
        self.write(path, body)
        self.sizes[path] = size
        return path

    def add_narinfo(self, chance, into, nar=None):
        own = store_name(chance)
        file_hash = nar[5:57] if nar else letters(chance, 52)
        path = f"/{own[:32]}.narinfo"
        into[path] = narinfo(chance, own, file_hash, self.sizes.get(nar, 123456))
        self.write(path, into[path])

    def absent(self, number, count):
        """Paths of narinfos that the origin does not have: others for every number."""
        chance = random.Random(f"absent {number}")
        return [f"/{ABSENT_PREFIX}{letters(chance, 28)}.narinfo" for _ in range(count)]


def make(folder, narinfos):
    """Fills the origin's folder."""
    chance = random.Random(11)
    (folder / "nar").mkdir(parents=True)
    (folder / "nix-cache-info").write_text(
        "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")
    objects = Objects(folder)
    for work, size, count in [("nar-64K", 64 * KIB, 256), ("nar-1M", MIB, 48),
                              ("nar-64M", 64 * MIB, 4)]:
        objects.nars[work] = [objects.add_nar(chance, size) for _ in range(count)]
    for percent, size in SIZES:
        count = UPGRADE_NARS * percent // 100
        objects.upgrade_nars += (objects.nars["nar-64M"][:count] if size == 64 * MIB
                                 else [objects.add_nar(chance, size) for _ in range(count)])
    for _ in range(narinfos):
        objects.add_narinfo(chance, objects.narinfos)
    nars = itertools.chain(objects.upgrade_nars, itertools.repeat(None))
    for _, nar in zip(range(UPGRADE_NARINFOS), nars):
        objects.add_narinfo(chance, objects.upgrade_narinfos, nar)
    return objects


def zipf_order(paths):
    """PICKS of the paths: the one of rank r has a weight of 1 / r ** ZIPF."""
    chance = random.Random(12)
    paths = list(paths)
    chance.shuffle(paths)
    weights = list(itertools.accumulate(1 / rank ** ZIPF for rank in range(1, len(paths) + 1)))
    return chance.choices(paths, cum_weights=weights, k=PICKS)


def upgrade_order(objects, absent):
    """Upgrades one after another, each with all its requests in an order of its own: so every
    stretch of it has the same share of large NARs."""
    chance = random.Random(13)
    one = [*objects.upgrade_narinfos, *objects.upgrade_nars, *absent]
    return [path for _ in range(50) for path in chance.sample(one, len(one))]
