"""The store paths of the lab: made and signed by the real Nix once for each run, and narinfos and
NARs of them in every form. Nothing is written outside the folder it is given."""

import bz2
import gzip
import hashlib
import lzma
import random
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import nix  # noqa: E402
from harness import output_of  # noqa: E402

NIX32 = "0123456789abcdfghijklmnpqrsvwxyz"
SUFFIXES = {"xz": ".nar.xz", "bzip2": ".nar.bz2", "gzip": ".nar.gz", "zstd": ".nar.zst",
            "br": ".nar.br", "none": ".nar"}
EXPRESSION = """\
let one = name: builtins.path { path = %s + "/${name}"; inherit name; };
in builtins.toFile "root" "${one "small"} ${one "medium"}"
"""


def nix32(digest):
    """A hash as Nix writes it."""
    number = int.from_bytes(digest, "little")
    length = (len(digest) * 8 + 4) // 5
    return "".join(NIX32[number >> (5 * at) & 31] for at in reversed(range(length)))


def compress(coding, body):
    """The body in a form that Nix knows by the name `coding`."""
    if coding == "xz":
        return lzma.compress(body, preset=0)
    if coding == "bzip2":
        return bz2.compress(body, 1)
    if coding == "gzip":
        return gzip.compress(body, 1, mtime=0)
    if coding == "none":
        return body
    command = {"zstd": ["zstd", "-q", "-1", "-c"], "br": ["brotli", "-q", "1", "-c"]}[coding]
    return subprocess.run(command, input=body, capture_output=True, check=True).stdout


class StorePath:
    """One signed path: what its narinfo says, and its NAR."""

    def __init__(self, fields, nar):
        self.fields = fields
        self.nar = nar
        self.store_path = fields["StorePath"]
        self.name = self.store_path.removeprefix("/nix/store/")
        self.hash = self.name[:32]
        self.narinfo_path = f"/{self.hash}.narinfo"
        self.nar_hash = fields["NarHash"].removeprefix("sha256:")
        self.packed = {}

    def file(self, coding="xz"):
        """The NAR, compressed; the same bytes at each call."""
        if coding not in self.packed:
            self.packed[coding] = compress(coding, self.nar)
        return self.packed[coding]

    def file_path(self, coding="xz"):
        """The name of that file on cache.nixos.org: the hash of the file."""
        return f"/nar/{nix32(hashlib.sha256(self.file(coding)).digest())}{SUFFIXES[coding]}"

    def narinfo(self, coding="xz", url=None, **changes):
        """Its text; `changes` replace fields (`None` removes one)."""
        body = self.file(coding)
        fields = {
            "StorePath": self.store_path, "URL": url or self.file_path(coding)[1:],
            "Compression": coding, "FileHash": "sha256:" + nix32(hashlib.sha256(body).digest()),
            "FileSize": len(body), "NarHash": self.fields["NarHash"],
            "NarSize": len(self.nar), "References": self.fields["References"],
            "Sig": self.fields["Sig"]} | changes
        lines = (f"{name}: {value}\n" for name, value in fields.items() if value is not None)
        return "".join(lines).encode()


class Sample(nix.Cache):
    """The paths `small` (3 KB), `medium` (700 KB), `twin` with the same NAR, `large` (6 MB),
    `text` (6 MB that compress well) and `root`, which refers to the first two."""

    def __init__(self, folder):
        super().__init__(folder, blob_bytes=0)
        self.paths = {}

    def make(self):
        """Adds the paths to a store, signs them, and reads their NARs."""
        source = self.folder / "source"
        source.mkdir(parents=True)
        chance = random.Random(17)
        words = "\n".join(f"{chance.getrandbits(32)} line" for _ in range(160))
        (source / "small").write_text(words)
        (source / "medium").write_bytes(chance.randbytes(700_000))
        (source / "twin").write_bytes((source / "medium").read_bytes())
        lines = (f"line {number} of {chance.getrandbits(10)}\n" for number in range(400_000))
        (source / "text").write_text("".join(lines))
        (source / "large").write_bytes(chance.randbytes(5_000_000) + b"text " * 200_000)
        secret, self.public_key = self.make_key("lab-cache-1")
        roots = [self.nix("eval", "--impure", "--raw", "--expr", EXPRESSION % source)]
        for name in ["large", "twin", "text"]:
            expression = f'"${{builtins.path {{ path = {source}/{name}; name = "{name}"; }}}}"'
            roots.append(self.nix("eval", "--impure", "--raw", "--expr", expression))
        self.nix("copy", "--no-check-sigs", "--to",
                 f"file://{self.cache}?compression=none&secret-key={secret}", *roots)
        self.read()
        for path in self.paths.values():
            path.file()

    def read(self):
        for place in self.cache.glob("*.narinfo"):
            fields = dict(line.split(": ", 1) for line in place.read_text().splitlines()
                          if ": " in line) | {}
            fields.setdefault("References", "")
            path = StorePath(fields, (self.cache / fields["URL"]).read_bytes())
            self.paths[path.name[33:]] = path

    def __getattr__(self, name):
        paths = self.__dict__.get("paths", {})
        if name in paths:
            return paths[name]
        raise AttributeError(name)


def certificate(folder, name="localhost", authority=False):
    """A self-signed certificate for loopback; the files of the certificate and the key."""
    folder = Path(folder)
    config = folder / f"{name}.conf"
    config.write_text(
        "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n"
        f"[name]\nCN = {name}\n[extensions]\n"
        "subjectAltName = DNS:localhost, IP:127.0.0.1, DNS:*.lab.test\n"
        f"basicConstraints = critical, CA:{'TRUE' if authority else 'FALSE'}\n")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    output_of(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
               "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-config", config,
               "-keyout", key, "-out", cert])
    return cert, key
