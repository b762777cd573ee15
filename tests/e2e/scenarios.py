"""What the end-to-end test claims, one function for each scenario. Each gets the `World` with the
cache, the S3 server and the binary, starts its own edges, and leaves none running."""

import hashlib
import json
import random
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from cutter import Cutter
from edge import Edge
from faults import FaultOrigin
from giant import Giant, Origin, Reader, read_all
from harness import fetch, output_of, sha256_of, wait_until
from nix import Client

MIB = 1 << 20


class World:
    """What the scenarios share."""

    def __init__(self, binary, folder, programs, checks, cache, s3):
        self.binary, self.folder, self.programs = binary, folder, programs
        self.checks, self.cache, self.s3 = checks, cache, s3
        self.clients = 0

    def edge(self, name, origins, **options):
        options.setdefault("keys", [self.cache.public_key])
        options.setdefault("env", self.s3.environment())
        return Edge(self.binary, self.programs, self.folder, name, origins, **options).start()

    def client(self, url, **options):
        self.clients += 1
        folder = self.folder / f"client-{self.clients}"
        return Client(folder, url, self.cache.public_key, **options)

    def fetch_closure(self, claim, url, how="realise", **options):
        """A client with an empty store fetches the whole closure; checks that all of it is
        there, and is what was signed."""
        client = self.client(url, **options)
        status = getattr(client, how)(self.cache.root)
        have = client.closure(self.cache.root)
        is_whole = status == 0 and have == self.cache.closure and client.verify(have)
        detail = f"{len(have)} paths" if is_whole else f"{len(have)} paths: {client.log_tail()}"
        self.checks.expect(claim, is_whole, detail)
        client.remove()


def closure_from_s3(world):
    """Cold, warm, by copy; logs and listings; purge; drain."""
    checks, cache = world.checks, world.cache
    checks.equal("the bucket is private",
                 fetch(f"{world.s3.endpoint}/{world.s3.bucket}/nix-cache-info").status, 403)
    edge = world.edge("edge", [world.s3.origin_url()])
    world.fetch_closure("a client fetches the closure cold", edge.url)
    edge.settle()
    checks.equal("each NAR was asked of the bucket once",
                 edge.nar_fetches(), len(cache.nar_urls(cache.closure)))
    before = edge.origin_requests()
    world.fetch_closure("another client fetches it warm", edge.url)
    world.fetch_closure("nix copy --from fetches it warm", edge.url, how="copy")
    checks.equal("warm asked the bucket for nothing", edge.origin_requests() - before, 0)
    client = world.client(edge.url)
    shown = client.ask("path-info", "-r", cache.root).split()
    checks.equal("nix path-info sees the closure", set(shown) >= cache.closure, True)
    checks.expect("nix log shows the build log",
                  "whole system built" in client.ask("log", cache.root))
    checks.expect("nix store ls lists a path",
                  "parts" in client.ask("store", "ls", "-R", cache.root))
    realisation_names(world, edge)
    purge(world, edge)
    checks.equal("SIGTERM drains and ends with 0", edge.stop(), 0)


def realisation_names(world, edge):
    """The two spellings of a realisation's name are one object."""
    name = "sha256:" + hashlib.sha256(b"e2e").hexdigest() + "!out.doi"
    body = json.dumps({"id": name.removesuffix(".doi"), "outPath": "x", "signatures": []})
    world.s3.put(f"realisations/{name}", body.encode(), "application/json")
    old = edge.get(f"realisations/{name}")
    before = edge.origin_requests()
    new = edge.get("realisations/" + name.replace("!", "%21"))
    world.checks.equal("both spellings of a realisation give its bytes",
                       (old.status, old.body, new.body), (200, body.encode(), body.encode()))
    world.checks.equal("the second spelling asked for nothing", edge.origin_requests() - before, 0)


def purge(world, edge):
    path = world.cache.narinfos[world.cache.root]["file"]
    edge.get(path)
    before = edge.origin_requests()
    output_of([world.binary, "purge", "--config", edge.config, f"/{path}"])
    answer = edge.get(path)
    world.checks.equal("a purged narinfo is asked of the origin again",
                       (answer.status, edge.origin_requests() - before), (200, 1))


def interrupted(world):
    """A NAR cut in the middle and resumed: by curl, by a reader that leaves, by Nix."""
    checks, largest = world.checks, world.cache.largest
    url, size = largest["URL"], int(largest["FileSize"])
    wanted = sha256_of(world.cache.cache / url)
    edge = world.edge("edge", [world.s3.origin_url()])
    file = world.folder / "resumed.nar"
    common = ["curl", "--silent", "--show-error", "--noproxy", "*", "-o", file, f"{edge.url}/{url}"]
    output_of([*common, "--limit-rate", "8M", "--max-time", "2"], expect=28)
    partial = file.stat().st_size
    checks.expect("curl is cut midway", 0 < partial < size, f"{partial} of {size} bytes")
    output_of([*common, "--continue-at", "-"])
    checks.equal("curl resumes to the same bytes", sha256_of(file), wanted)
    edge.settle()
    checks.equal("the NAR left the bucket once",
                 edge.nar_fetches(), 1)
    tail = edge.get(url, {"Range": f"bytes={size - 100}-"})
    checks.equal("a range of the end is 206 with its place",
                 (tail.status, tail.headers.get("Content-Range"), len(tail.body)),
                 (206, f"bytes {size - 100}-{size - 1}/{size}", 100))
    checks.equal("a range beyond the end is 416",
                 edge.get(url, {"Range": f"bytes={size}-"}).status, 416)
    cutter = Cutter(edge.port, cut_after=15 * MIB, cuts=3)
    world.fetch_closure("a client whose connections break resumes to the end",
                        f"http://127.0.0.1:{cutter.port}")
    checks.equal("the connections did break", cutter.cuts_made, 3)
    cutter.close()
    edge.stop()


def stampede(world, readers=40, size=None):
    """Many readers of one cold NAR at once: one request, whole bodies, flat memory."""
    checks = world.checks
    if size:
        data = random.Random(7).randbytes(64 * MIB) * (size // (64 * MIB))
        url = f"nar/{nix32(hashlib.sha256(data).digest())}.nar.xz"
        world.s3.put(url, data, "application/x-nix-nar")
        wanted, size = hashlib.sha256(data).hexdigest(), len(data)
        del data
    else:
        url, size = world.cache.largest["URL"], int(world.cache.largest["FileSize"])
        wanted = sha256_of(world.cache.cache / url)
    edge = world.edge("edge", [world.s3.origin_url()])
    before = edge.resident()
    digests = read_at_once(f"{edge.url}/{url}", readers)
    checks.equal(f"{readers} readers of a cold NAR of {size} bytes get it whole",
                 digests.count(wanted), readers)
    checks.equal("the bucket was asked once", edge.nar_fetches(), 1)
    growth = (edge.resident_peak() - before) // MIB
    checks.expect("memory grew by less than 64 MiB", growth < 64, f"{growth} MiB")
    edge.stop()


def read_at_once(url, readers):
    """The SHA-256 of what each reader got."""
    digests = []
    gate = threading.Barrier(readers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read():
        digest = hashlib.sha256()
        gate.wait()
        try:
            with opener.open(url, timeout=600) as answer:
                while piece := answer.read(1 << 20):
                    digest.update(piece)
            digests.append(digest.hexdigest())
        except Exception as error:  # a cut body is a reader without a digest
            digests.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return digests


def outage(world, readers=200, size=1 << 30):
    """The origin is killed at random offsets of a cold NAR while many read it."""
    checks, dice = world.checks, random.Random(3)
    giant = Giant(size)
    url = f"nar/{nix32(giant.feed(hashlib.sha256()).digest())}.nar.xz"
    origin = Origin(giant, url)
    edge = world.edge("edge", [f"http://127.0.0.1:{origin.port}"])
    before = edge.resident()
    offsets = sorted(dice.randrange(size // 50, size * 9 // 10) for _ in range(8))
    pauses = [dice.uniform(0.1, 4) for _ in offsets]
    dying = origin.die_again_and_again(offsets, pauses)
    begin = time.monotonic()
    errors = read_all([Reader(edge.port, url, giant) for _ in range(readers)])
    seconds = time.monotonic() - begin
    dying.join(10)
    checks.equal(f"{readers} readers of {size} bytes notice nothing of {len(offsets)} deaths",
                 errors, [])
    checks.equal("the origin did die", origin.deaths, len(offsets))
    fetched = edge.metric("narthex_origin_bytes_total", **{"class": "nar"})
    checks.expect("at most 1 % of bytes is fetched twice", size <= fetched <= size * 1.01,
                  f"{fetched / size:.5f} times its size, {origin.sent / size:.5f} left the origin")
    growth = (edge.resident_peak() - before) // MIB
    checks.expect("memory grew by less than 64 MiB", growth < 64, f"{growth} MiB")
    rate = readers * size / seconds / (1 << 30)
    checks.expect("it took a while", True, f"{seconds:.0f} s, {rate:.2f} GiB/s to the readers")
    edge.stop()


def giant_object(world, size=5 << 30):
    """A NAR of 5 GiB: memory stays flat, resume and ranges beyond 4 GiB are right."""
    checks, giant = world.checks, Giant(size)
    url = f"nar/{nix32(giant.feed(hashlib.sha256()).digest())}.nar.xz"
    origin = Origin(giant, url)
    edge = world.edge("edge", [f"http://127.0.0.1:{origin.port}"])
    before = edge.resident()
    beyond = (4 << 30) + 12_345
    dying = origin.die_again_and_again([1 << 30, beyond], [0.5, 0.5])
    begin = time.monotonic()
    spans = [(0, None), (beyond - 1_000_000, beyond + 1_000_000), (beyond, None)]
    errors = read_all([Reader(edge.port, url, giant, *span) for span in spans])
    seconds = time.monotonic() - begin
    dying.join(10)
    checks.equal("a reader from the start, one of a part and one of the rest get it cold",
                 (errors, origin.deaths), ([], 2))
    fetched = edge.metric("narthex_origin_bytes_total", **{"class": "nar"})
    # A range far ahead of the fill is fetched for itself.
    wanted = size + (size - beyond) + (4 << 20)
    checks.expect("the origin's deaths cost no bytes", fetched <= wanted * 1.01,
                  f"{fetched} for {wanted}, {size / seconds / MIB:.0f} MiB/s from a cold start")
    edge.settle()
    spans = [(0, None), (size - 1, None), ((4 << 30) - 1, 4 << 30), (beyond, None)]
    spans += [((1 << 32) + offset, (1 << 32) + offset + 70_000) for offset in (-70_000, 0, 1)]
    errors = read_all([Reader(edge.port, url, giant, *span) for span in spans])
    checks.equal("and so do readers of what is stored", errors, [])
    said = edge.get(url, {"Range": "bytes=-5"})
    checks.equal("a range of the end says where it is",
                 (said.status, said.headers.get("Content-Range"), said.body),
                 (206, f"bytes {size - 5}-{size - 1}/{size}", giant.bytes(size - 5, 5)))
    file = world.folder / "giant.part"
    with open(file, "wb") as part:
        part.truncate(beyond)
    output_of(["curl", "--silent", "--show-error", "--noproxy", "*", "--continue-at", "-",
               "-o", file, f"{edge.url}/{url}"], deadline=600)
    with open(file, "rb") as part:
        part.seek(beyond)
        at, is_same = beyond, True
        while piece := part.read(1 << 20):
            is_same = is_same and piece[:len(giant.bytes(at, len(piece)))] \
                == giant.bytes(at, len(piece))
            at += len(piece)
    file.unlink()
    checks.equal("curl resumes beyond 4 GiB", (at, is_same), (size, True))
    growth = (edge.resident_peak() - before) // MIB
    checks.expect("memory grew by less than 64 MiB", growth < 64, f"{growth} MiB")
    edge.stop()


def nix32(digest):
    """Nix's base 32 of a digest."""
    letters = "0123456789abcdfghijklmnpqrsvwxyz"
    number = int.from_bytes(digest, "little")
    length = (len(digest) * 8 - 1) // 5 + 1
    return "".join(letters[(number >> (5 * place)) & 31] for place in reversed(range(length)))


def bad_bytes(world):
    """What is wrong at the origin reaches nobody and is never stored."""
    checks, cache, bucket = world.checks, world.cache, "spoilt"
    world.s3.make_bucket(bucket)
    info = (cache.cache / "nix-cache-info").read_bytes()
    world.s3.put("nix-cache-info", info, "text/x-nix-cache-info", bucket)
    root, largest = cache.narinfos[cache.root], cache.largest
    text = (cache.cache / root["file"]).read_text()
    forged = "".join(line + "\n" for line in text.splitlines() if not line.startswith("Refer"))
    forged += "References: \n"
    world.s3.put(root["file"], forged.encode(), "text/x-nix-narinfo", bucket)
    page = b"<html><body>all is well</body></html>"
    names = sorted(set(cache.narinfos) - {cache.root, largest["StorePath"]})
    html = cache.narinfos[names[0]]["file"]
    world.s3.put(html, page, "text/x-nix-narinfo", bucket)
    good = (cache.cache / largest["file"]).read_bytes()
    world.s3.put(largest["file"], good, "text/x-nix-narinfo", bucket)
    nar = bytearray((cache.cache / largest["URL"]).read_bytes())
    nar[len(nar) // 2] ^= 1
    world.s3.put(largest["URL"], bytes(nar), "application/x-nix-nar", bucket)
    edge = world.edge("edge", [world.s3.origin_url(bucket)])
    for claim, path in [("a narinfo with a wrong signature is 502", root["file"]),
                        ("an HTML page for a narinfo is 502", html)]:
        statuses = (edge.get(path).status, edge.get(path).status)
        checks.equal(claim + ", each time", statuses, (502, 502))
    checks.expect("they were asked for each time, so not stored",
                  edge.origin_requests(**{"class": "narinfo"}) >= 4)
    checks.equal("a good narinfo beside them is served", edge.get(largest["file"]).body, good)
    answer = edge.get(largest["URL"])
    checks.expect("nobody gets a NAR with a wrong byte whole",
                  answer.status != 200 or len(answer.body) < len(nar), answer.status)
    edge.settle()
    checks.expect("it was counted", edge.metric("narthex_rejected_bodies_total") >= 1)
    checks.equal("an absent narinfo is 404", edge.get("0" * 32 + ".narinfo").status, 404)
    checks.equal("a path outside the grammar is refused without asking",
                 edge.get("nar/..%2f..%2fetc").status in (400, 404), True)
    edge.stop()
    other = world.edge("edge", [world.s3.origin_url()], keys=[cache.make_key("stranger-1")[1]])
    checks.equal("a narinfo signed by a key that is not trusted is 502",
                 other.get(root["file"]).status, 502)
    other.stop()


def wrong_keys(world):
    """Credentials that do not serve are an upstream fault, never absence."""
    env = dict(world.s3.environment(), AWS_SECRET_ACCESS_KEY="not-the-secret")
    edge = Edge(world.binary, world.programs, world.folder, "edge", [world.s3.origin_url()],
                env=env, keys=[world.cache.public_key])
    edge.process = world.programs.start("edge", [world.binary, "serve", "--config", edge.config],
                                        env=env)
    wait_until("the edge answers", lambda: edge.get("nix-cache-info").status)
    path = world.cache.narinfos[world.cache.root]["file"]
    world.checks.equal("with wrong keys every narinfo is 502, none is 404",
                       [edge.get(path).status, edge.get("0" * 32 + ".narinfo").status], [502, 502])
    edge.stop()


def tls(world):
    """TLS with a private authority: HTTP/2 by ALPN, and a Nix client that trusts it."""
    authority, certificate, key = make_certificate(world.folder)
    edge = world.edge("edge", [world.s3.origin_url()], tls=(certificate, key))
    world.fetch_closure("a client fetches the closure over TLS", edge.tls_url,
                        certificate=authority)
    url = f"{edge.tls_url}/{world.cache.largest['URL']}"
    for flag, version in [("--http2", "2"), ("--http1.1", "1.1")]:
        file = world.folder / "tls.nar"
        seen = output_of(["curl", "--silent", "--show-error", "--noproxy", "*", flag, "--cacert",
                          authority, "-o", file, "-w", "%{http_version} %{http_code}", url])
        world.checks.equal(f"curl {flag} over TLS is served so", seen, f"{version} 200")
        world.checks.equal("with the right bytes", sha256_of(file),
                           sha256_of(world.cache.cache / world.cache.largest["URL"]))
    edge.stop()


def make_certificate(folder):
    """A private authority and a certificate for 127.0.0.1: authority, chain and key files."""
    authority, key = folder / "authority.pem", folder / "authority.key"
    leaf, leaf_key, request = folder / "leaf.pem", folder / "leaf.key", folder / "leaf.csr"
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    output_of(["openssl", "req", "-x509", *elliptic, "-days", "2", "-keyout", key, "-out",
               authority, "-subj", "/CN=e2e authority"])
    output_of(["openssl", "req", *elliptic, "-keyout", leaf_key, "-out", request,
               "-subj", "/CN=127.0.0.1"])
    extension = folder / "leaf.ext"
    extension.write_text("subjectAltName = IP:127.0.0.1\n")
    output_of(["openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", key,
               "-CAcreateserial", "-days", "2", "-extfile", extension, "-out", leaf])
    return authority, leaf, leaf_key


def points_of_presence(world):
    """Two edges behind a shield, one of them killed.

    One request at the bucket for what both want at once; the edge that was killed serves what it
    holds while its origin is away."""
    checks, cache = world.checks, world.cache
    shield = world.edge("shield", [world.s3.origin_url()])
    pops = [world.edge(name, [shield.url]) for name in ("pop-1", "pop-2")]
    digests = []
    url = cache.largest["URL"]
    threads = [threading.Thread(target=lambda pop=pop: digests.extend(
        read_at_once(f"{pop.url}/{url}", 4))) for pop in pops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checks.equal("both points of presence give the NAR whole to everybody",
                 digests.count(sha256_of(cache.cache / url)), 8)
    checks.equal("the bucket was asked for it once", shield.nar_fetches(), 1)
    for pop in pops:
        world.fetch_closure(f"a client fetches the closure through {pop.name}", pop.url)
    checks.equal("each NAR left the bucket once", shield.nar_fetches(),
                 len(cache.nar_urls(cache.closure)))
    answer = pops[0].get(url, method="HEAD")
    checks.expect("Age and Cache-Status tell where it came from",
                  answer.headers.get("Age") is not None
                  and "narthex" in answer.headers.get("Cache-Status", ""),
                  answer.headers.get("Cache-Status"))
    for pop in pops:
        pop.settle()
    pops[0].kill()
    shield.stop()
    pops[0].start()
    world.fetch_closure("killed and started again, with its origin away, it serves the closure",
                        pops[0].url)
    asked = [pops[0].origin_requests(**{"class": name}) for name in ("narinfo", "nar")]
    checks.equal("without asking for a narinfo or a NAR", asked, [0, 0])
    for pop in pops:
        pop.stop()


def folder_and_office(world):
    """A folder as the origin, and `serve` with flags alone in front of a plain upstream."""
    folder = world.edge("folder", [f"file://{world.cache.cache}"])
    world.fetch_closure("a client fetches the closure from a folder", folder.url)
    office = Edge(world.binary, world.programs, world.folder, "office", [])
    office.start_with([
        world.binary, "serve", "--listen", f"127.0.0.1:{office.port}",
        "--admin", f"127.0.0.1:{office.admin_port}", "--origin", folder.url,
        "--disk", office.folder / "disk", "--disk-size", "1GiB"])
    world.fetch_closure("and through an edge with no configuration file", office.url)
    before = office.origin_requests()
    world.fetch_closure("and again", office.url)
    world.checks.equal("which asked for nothing", office.origin_requests() - before, 0)
    office.stop()
    folder.stop()


def commands(world):
    """`config` and `check`, and the files of deploy/compose."""
    checks = world.checks
    for file in sorted((Path(__file__).parents[2] / "deploy" / "compose").glob("*.toml")):
        checks.equal(f"check passes {file.name}", check(world, file)[0], 0)
    reference = output_of([world.binary, "config"])
    bad = world.folder / "bad.toml"
    bad.write_text('[server]\nlisten = ["nowhere"]\nlisteners = 1\n[disk]\nsize = "much"\n')
    checks.expect("config prints the reference", "[[site.origin]]" in reference)
    printed = world.folder / "reference.toml"
    printed.write_text(reference)
    checks.equal("check passes what config prints", check(world, printed)[0], 0)
    status, said = check(world, bad)
    checks.equal("check ends with 2 for a bad file", status, 2)
    checks.expect("and names every problem at once",
                  all(word in said for word in ["server.listen", "listeners", "disk.size"]))


def check(world, file):
    """The exit status of `narthex check`, and what it said."""
    done = subprocess.run([world.binary, "check", "--config", file], capture_output=True,
                          text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


def failing_origin(world):
    """An origin that fails a fifth of all requests and cuts a fifth of all bodies.

    Before the bucket, then with a folder; each time the origin goes away after the first fetch."""
    checks, s3 = world.checks, world.s3
    for seed, name in [(1, "bucket"), (2, "folder")]:
        if name == "bucket":
            origin = FaultOrigin(world.programs, seed, "--upstream", s3.endpoint, "--keep-host")
            url = s3.origin_url().replace(s3.endpoint, origin.url)
        else:
            origin = FaultOrigin(world.programs, seed, "--folder", world.cache.cache)
            url = origin.url
        edge = world.edge("edge", [url])
        world.fetch_closure(f"a client fetches the closure from a failing {name}", edge.url)
        edge.settle()
        (failed, cut), asked = origin.struck(), edge.origin_requests()
        checks.expect("it did fail and cut, about a fifth of the time each",
                      asked / 10 < failed < asked / 3 and asked / 10 < cut < asked / 3,
                      f"{failed} failed and {cut} cut of {asked}")
        told = edge.metric("narthex_requests_total", outcome="origin_failed")
        checks.expect("of which the client was told little", told * 20 <= asked, told)
        origin.stop()
        before = edge.nar_fetches()
        world.fetch_closure(f"and an empty store again when the {name} is gone", edge.url)
        checks.equal("without asking for a NAR",
                     edge.nar_fetches() - before, 0)
        edge.stop()


def origin_away(world):
    """The last one: the S3 server goes away for good."""
    edge = world.edge("edge", [world.s3.origin_url()])
    world.fetch_closure("a client fetches the closure while the bucket is there", edge.url)
    edge.settle()
    world.s3.stop_gateway()
    world.fetch_closure("and again when it is gone", edge.url)
    absent = edge.get("0" * 32 + ".narinfo").status
    world.checks.expect("what is not stored is a fault, not an absence", absent in (502, 504),
                        absent)
    edge.kill()
    edge.start()
    world.fetch_closure("and after kill -9 and a start without an origin", edge.url)
    edge.stop()


ALL = [commands, closure_from_s3, interrupted, stampede, bad_bytes, wrong_keys, tls,
       points_of_presence, folder_and_office, failing_origin, origin_away]
