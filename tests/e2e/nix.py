"""The real Nix: makes a small signed cache in a chroot store, and is the client that fetches
from it. Nothing is written outside the folders it is given; needs root, for Nix's sandbox."""

import json
import os
import random
import subprocess
from pathlib import Path

from harness import Failed, output_of, remove_tree

PROGRAMS = ["nix", "nix-store"]

# Layers of packages that refer to each other through their text, as real ones do; a few are
# larger, one has two outputs. `blob` is data that does not compress.
EXPRESSION = """\
{ blob, blobBlocks }:
let
  make = { name, deps, blocks, skip, outputs ? [ "out" ] }: derivation {
    inherit name outputs deps;
    system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-ec" ''
      mkdir -p $out/bin $out/share
      echo "building $name"
      for dep in $deps; do echo "$dep/bin" >> $out/share/search-path; done
      echo "#! /bin/sh" > $out/bin/${name}; echo "echo $out" >> $out/bin/${name}
      dd if=${blob} of=$out/share/data bs=4096 skip=${toString skip} count=${toString blocks}
      if [ -n "''${doc:-}" ]; then mkdir $doc; echo "$out explained" > $doc/${name}.txt; fi
      echo "built $name"
    '' ];
  };
  blocksOf = number: if builtins.elem number [ 7 18 29 ] then 500 else 1 + number;
  packages = builtins.genList (number: make {
    name = "package-${toString number}-1.${toString number}";
    deps = map (step: builtins.elemAt packages (number - step))
      (builtins.filter (step: step <= number) [ 1 3 7 ]);
    blocks = blocksOf number;
    skip = number * (blobBlocks / 50);
    outputs = if number == 18 then [ "out" "doc" ] else [ "out" ];
  }) 36;
  last = builtins.elemAt packages 35;
in {
  system = derivation {
    name = "whole-system"; system = builtins.currentSystem; builder = "/bin/sh";
    PATH = "/usr/bin:/bin"; deps = [ last blob (builtins.elemAt packages 18).doc ];
    args = [ "-ec" "mkdir $out; echo $deps > $out/parts; echo whole system built" ];
  };
}
"""

SETTINGS = """\
experimental-features = nix-command ca-derivations
build-users-group =
substituters =
substitute = false
builders =
max-jobs = 2
sandbox = true
sandbox-fallback = false
filter-syscalls = false
sandbox-paths = /bin=/usr/bin /usr=/usr /lib=/usr/lib /lib64=/usr/lib64
"""


def environment(folder, settings, certificate=None):
    """An environment in which Nix reads and writes below `folder` alone."""
    folder = Path(folder)
    for part in ["conf", "home", "cache"]:
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "nix.conf").write_text(settings)
    dropped = ("NIX_", "AWS_", "XDG_", "http_proxy", "https_proxy", "all_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    places = {"HOME": "home", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "conf",
              "XDG_DATA_HOME": "home", "XDG_STATE_HOME": "home", "NIX_CONF_DIR": "conf"}
    kept |= {name: str(folder / place) for name, place in places.items()}
    kept |= {"NIX_USER_CONF_FILES": "", "LC_ALL": "C"}
    if certificate:
        kept["NIX_SSL_CERT_FILE"] = str(certificate)
    return kept


class Cache:
    """A signed binary cache in a folder, and what is in it."""

    def __init__(self, folder, blob_bytes):
        self.folder = Path(folder)
        self.cache = self.folder / "cache"
        self.blob_bytes = blob_bytes
        self.environment = environment(self.folder, SETTINGS)
        self.store = f"local?root={self.folder}/store"

    def make(self):
        """Builds, signs and writes everything; about half a minute."""
        blob = self.folder / "blob"
        blob.write_bytes(random.Random(20260801).randbytes(self.blob_bytes))
        expression = self.folder / "packages.nix"
        expression.write_text(EXPRESSION)
        secret, self.public_key = self.make_key("e2e-cache-1")
        built = json.loads(self.nix(
            "build", "--impure", "--no-link", "--json", "-f", expression, "system",
            "--arg", "blob", f'builtins.path {{ path = {blob}; name = "blob"; }}',
            "--arg", "blobBlocks", str(self.blob_bytes // 4096)))
        self.root, derivation = built[0]["outputs"]["out"], built[0]["drvPath"]
        destination = (f"file://{self.cache}?compression=xz&compression-level=1"
                       f"&write-nar-listing=true&secret-key={secret}")
        self.nix("copy", "--no-check-sigs", "--to", destination, self.root)
        self.nix("store", "copy-log", "--to", f"file://{self.cache}", derivation)
        info = self.cache / "nix-cache-info"
        info.write_text("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")
        self.read()

    def nix(self, *arguments):
        command, rest = arguments[0], list(arguments[1:])
        named = ["nix", command, rest.pop(0)] if command == "store" else ["nix", command]
        return output_of([*named, "--store", self.store, *rest], env=self.environment)

    def make_key(self, name):
        """A signing key pair; the path of the secret and the text of the public key."""
        secret = self.folder / f"{name}.secret"
        text = output_of(["nix", "key", "generate-secret", "--key-name", name],
                         env=self.environment)
        secret.write_text(text)
        with open(secret, "rb") as file:
            public = subprocess.run(["nix", "key", "convert-secret-to-public"], stdin=file,
                                    env=self.environment, capture_output=True, check=True)
        return secret, public.stdout.decode().strip()

    def read(self):
        """Reads every narinfo that was written."""
        self.narinfos = {}
        for path in sorted(self.cache.glob("*.narinfo")):
            fields = dict(line.split(": ", 1) for line in path.read_text().splitlines())
            self.narinfos[fields["StorePath"]] = fields | {"file": path.name}
        self.closure = self.closure_of(self.root)
        self.largest = max(self.narinfos.values(), key=lambda fields: int(fields["FileSize"]))
        if len(self.closure) < 30:
            raise Failed(f"the sample cache is too small: {len(self.closure)} paths")

    def closure_of(self, root):
        seen, todo = set(), [root]
        while todo:
            path = todo.pop()
            if path not in seen:
                seen.add(path)
                references = self.narinfos[path]["References"].split()
                todo += [f"/nix/store/{name}" for name in references]
        return seen

    def nar_urls(self, paths):
        return {self.narinfos[path]["URL"] for path in paths}


class Client:
    """A Nix client with an empty store and empty caches of its own, whose only substituter is
    the edge."""

    # how long a command may take (s)
    deadline = 600

    def __init__(self, folder, url, public_key, certificate=None, options=""):
        self.folder = Path(folder)
        self.url = url
        settings = (
            "experimental-features = nix-command ca-derivations\n"
            f"substituters = {url}\ntrusted-public-keys = {public_key}\nrequire-sigs = true\n"
            "build-users-group =\nsandbox = false\nmax-jobs = 16\nfallback = false\n" + options)
        self.environment = environment(self.folder, settings, certificate)
        self.store = f"local?root={self.folder}/store"

    def realise(self, *roots):
        """Substitutes the closures, as `nix build` does; the client's exit status."""
        env = dict(self.environment, NIX_REMOTE=self.store)
        return self.run(["nix-store", "--realise", *roots], env)

    def copy(self, *roots):
        """`nix copy --from`; the client's exit status."""
        command = ["nix", "copy", "--from", self.url, "--to", self.store, *roots]
        return self.run(command, self.environment)

    def run(self, command, env):
        with open(self.folder / "client.log", "wb") as log:
            return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=log, timeout=self.deadline, check=False).returncode

    def log_tail(self):
        lines = (self.folder / "client.log").read_text(errors="replace").splitlines()
        return " / ".join(lines[-3:])

    def ask(self, *command):
        """What a `nix` command prints, asked of the edge."""
        named = list(command)
        at = 2 if named[0] == "store" else 1
        full = ["nix", *named[:at], "--store", self.url, *named[at:]]
        return output_of(full, env=self.environment, expect=None)

    def closure(self, *roots):
        env = dict(self.environment, NIX_REMOTE=self.store)
        text = output_of(["nix-store", "--query", "--requisites", *roots], env=env, expect=None)
        return set(text.split())

    def verify(self, paths):
        """Whether every path has the contents and a signature that it should."""
        command = ["nix", "store", "verify", "--store", self.store, "--sigs-needed", "1"]
        return self.run([*command, *sorted(paths)], self.environment) == 0

    def remove(self):
        remove_tree(self.folder)
