"""What a client gets: by curl and by the real Nix client, directly or through an edge. The
verdict is computed from it."""

import contextlib
import hashlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import nix  # noqa: E402

# How good an answer is for a client. A false 404 is worse than an error: a client keeps it.
RIGHT, FAILED, ABSENT, WRONG = 3, 2, 1, 0
WORDS = {RIGHT: "right", FAILED: "failed", ABSENT: "false 404", WRONG: "WRONG"}
# A client of the edge may wait this much longer (s), or this many times as long.
SLOWER, TIMES = 2, 2
# Of many requests, so many more may fail by chance.
SLACK = 4
# The edge may send an upstream so many requests, or so many times as many as the client does.
REQUESTS, REQUEST_TIMES = 10, 3
SIGNED = ("StorePath", "NarHash", "NarSize", "References")


@dataclass
class Seen:
    """What came of one step."""

    rank: int
    status: str
    seconds: float
    requests: int = 0
    # of a step of many requests: how many were right
    right: int = 0
    # SHA-256 of the bytes that curl ended up with
    digest: str = ""

    @property
    def what(self):
        return f"{WORDS[self.rank]} ({self.status})"

    def __str__(self):
        bytes_seen = f" sha256:{self.digest[:8]}" if self.digest and self.rank == WRONG else ""
        return (f"{WORDS[self.rank]} {self.status}{bytes_seen} {self.seconds:.1f}s "
                f"{self.requests}rq")


@dataclass
class Get:
    """One request by curl. `expect` is what a right client ends up with: the decoded bytes, `None`
    for an absence, or a status."""

    path: str
    expect: object
    headers: dict = field(default_factory=dict)
    method: str = "GET"
    accepts: bool = True
    # called before the request
    before: object = None


@dataclass
class Many:
    """Requests by one curl, so many at once: pairs of a path and its bytes."""

    pairs: list
    at_once: int = 25
    # how long each is waited for, if not as long as others of the row
    patience: float | None = None
    before: object = None


@dataclass
class Nix:
    """A fresh Nix client fetches paths; `how` is `realise` or `copy`."""

    paths: list
    how: str = "realise"
    before: object = None


@dataclass
class Call:
    """Anything else: a function of the base URL and the way, which returns (rank, status)."""

    function: object
    before: object = None


@dataclass
class Way:
    """How a client reaches the objects, and how long it is patient."""

    urls: list
    certificate: str
    folder: Path
    public_key: str
    patience: float = 25
    proxy: str | None = None
    edge: object = None


def digest_of(path, body):
    """What tells right bytes from wrong ones. An edge may write a narinfo anew and may answer
    for itself in nix-cache-info, so of these only the meaning counts."""
    if path.endswith(".narinfo"):
        fields = dict(line.split(": ", 1) for line in
                      body.decode("utf-8", "replace").splitlines() if ": " in line)
        if any(name not in fields for name in ("StorePath", "NarHash", "URL")):
            return "no narinfo"
        # Without a value the space may be missing.
        body = "\n".join(fields.get(name, "").strip() for name in SIGNED).encode()
    elif path.endswith("/nix-cache-info"):
        body = b"\n".join(line for line in body.splitlines() if line.startswith(b"StoreDir"))
    return hashlib.sha256(body).hexdigest()[:16]


def judge(step, status, is_clean, path, body):
    """The rank of one answer."""
    if isinstance(step.expect, int):
        return RIGHT if status == step.expect else FAILED
    is_absent = status in (403, 404, 410)
    if step.expect is None:
        return RIGHT if is_absent else FAILED if status >= 400 or not is_clean else WRONG
    if is_absent:
        return ABSENT
    if status not in (200, 206) or not is_clean:
        return FAILED
    return RIGHT if digest_of(path, body) == digest_of(path, step.expect) else WRONG


def curl(step, way, url):
    output = way.folder / "body"
    output.write_bytes(b"")
    command = ["curl", "-sS", "-g", "--path-as-is", "-L", "--max-redirs", "10", "--max-time",
               str(way.patience), "-o", str(output), "-w", "%{http_code}", "--cacert",
               way.certificate]
    command += ["--proxy", way.proxy] if way.proxy else ["--noproxy", "*"]
    command += ["--compressed"] if step.accepts else []
    command += ["-I"] if step.method == "HEAD" else []
    for name, value in step.headers.items():
        command += ["-H", f"{name}: {value}"]
    done = subprocess.run([*command, url + step.path], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, check=False, timeout=way.patience + 30)
    status = int(done.stdout.strip()[:3] or 0)
    body = b"" if step.method == "HEAD" else output.read_bytes()
    rank = judge(step, status, done.returncode == 0, step.path, body)
    word = f"{status}" if done.returncode == 0 else f"{status}/curl{done.returncode}"
    return rank, word, hashlib.sha256(body).hexdigest()


def get(step, way):
    """Asks one URL after the other until an answer is right, as a client with several caches."""
    for url in way.urls:
        seen = curl(step, way, url)
        if seen[0] == RIGHT or url == way.urls[-1]:
            return seen
    raise AssertionError("no URL")


def many(step, way):
    config = way.folder / "many"
    folder = way.folder / f"many.{time.monotonic_ns()}"
    folder.mkdir()
    paths = [path for path, _ in step.pairs]
    patience = step.patience or way.patience
    text = "".join(f'url = "{way.urls[0]}{path}"\noutput = "{folder}/{number}"\n'
                   for number, path in enumerate(paths))
    config.write_text(text)
    command = ["curl", "-sS", "-Z", "--parallel-max", str(step.at_once), "--max-time",
               str(patience), "--cacert", way.certificate, "--noproxy", "*",
               "-w", "%{filename_effective} %{http_code} %{exitcode}\n", "-K", str(config)]
    ended = {}
    with open(way.folder / "many.out", "w+") as output:
        # curl may wait without end for streams of a connection that died
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stdout=output, stderr=subprocess.DEVNULL, check=False,
                           stdin=subprocess.DEVNULL, timeout=patience + 3)
        output.seek(0)
        for line in re.findall(r"^.*/\d+ \d+ \d+$", output.read(), re.M):
            name, status, code = line.rsplit(" ", 2)
            ended[int(Path(name).name)] = (int(status), code == "0")
    ranks = []
    for number, path in enumerate(paths):
        place = folder / str(number)
        body = place.read_bytes() if place.exists() else b""
        status, is_clean = ended.get(number, (0, False))
        one = Get(path, step.pairs[number][1])
        ranks.append(judge(one, status, is_clean, path, body))
    right = ranks.count(RIGHT)
    return min(ranks), f"{right}/{len(ranks)}"


class Client(nix.Client):
    deadline = 100


def run_nix(step, way):
    folder = way.folder / f"nix.{time.monotonic_ns()}"
    folder.mkdir()
    client = Client(folder, " ".join(way.urls), way.public_key, way.certificate,
                    "connect-timeout = 5\nnarinfo-cache-negative-ttl = 0\n")
    roots = [path.store_path for path in step.paths]
    try:
        code = getattr(client, step.how)(*roots)
    except subprocess.TimeoutExpired:
        code = "timeout"
    rank = RIGHT if code == 0 else FAILED
    for path in step.paths if code == 0 else []:
        place = folder / "store" / path.store_path[1:]
        dumped = subprocess.run(["nix-store", "--dump", str(place)], capture_output=True,
                                env=client.environment, check=False).stdout
        if dumped != path.nar:
            rank = WRONG
    client.remove()
    return rank, f"nix {code}"


def take(step, way, count):
    """Plays one step; `count` tells how often the upstreams were asked so far."""
    if step.before:
        step.before()
    asked = count()
    began = time.monotonic()
    played = {Many: many, Nix: run_nix}
    digest = ""
    if isinstance(step, Get):
        rank, word, digest = get(step, way)
    elif isinstance(step, Call):
        rank, word = step.function(way)
    else:
        rank, word = played[type(step)](step, way)
    seconds = time.monotonic() - began
    if way.edge:
        settle(way.edge)
    right = int(word.partition("/")[0]) if isinstance(step, Many) else 0
    return Seen(rank, word, seconds, count() - asked, right, digest)


def settle(edge):
    """Waits a moment for what a step started in the background."""
    end = time.monotonic() + 3
    while edge.metric("narthex_fills_running") and time.monotonic() < end:
        time.sleep(0.05)


def is_slower(one, other):
    """Whether an answer of the same rank took too long."""
    longest = max(one.seconds + SLOWER, TIMES * one.seconds)
    return other.rank == one.rank and other.seconds > longest


def is_worse_by_time_alone(direct, edge):
    """A busy machine may be the reason, so such a row is played once more."""
    quick = [replace(other, seconds=one.seconds) if is_slower(one, other) else other
             for one, other in zip(direct, edge)]
    return compare(direct, edge)[0] == "worse" != compare(direct, quick)[0]


def compare(direct, edge):
    """The verdict of a row and its reason."""
    better = []
    for number, (one, other) in enumerate(zip(direct, edge), 1):
        if other.rank == WRONG:
            return "worse", f"step {number}: wrong bytes end cleanly"
        if other.rank < one.rank:
            return "worse", f"step {number}: {one.what} became {other.what}"
        if other.rank == one.rank == FAILED and other.right < one.right - SLACK:
            return "worse", f"step {number}: {one.what} became {other.what}"
        if is_slower(one, other):
            return "worse", f"step {number}: {one.seconds:.1f} s became {other.seconds:.1f} s"
        if other.rank == one.rank and other.requests > max(
                REQUESTS, REQUEST_TIMES * one.requests):
            return "worse", f"step {number}: {one.requests} requests became {other.requests}"
        if other.rank > one.rank or other.right > one.right + SLACK:
            better.append(f"step {number}: {one.what} became {other.what}")
    saved = [number for number, (one, other) in enumerate(zip(direct, edge), 1)
             if number > 1 and other.requests < one.requests]
    if saved:
        better.append("fewer upstream requests in step " + ", ".join(map(str, saved)))
    return ("better", "; ".join(better)) if better else ("equal", "")
