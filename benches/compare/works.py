"""The work kinds with everything stored: warming, checking, and one round of load."""

import itertools
import resource
import subprocess
import sys
from dataclasses import dataclass

from client import Connection, Fault, fetch_all, tls_context
from load import h2load, h2load_paced, read_by_lines, wrk
from objects import ABSENT_KEYS, UPGRADE_ABSENT, upgrade_order, zipf_order
from peers import HERE, needed, program

GIB = 1 << 30
WARM_CONNECTIONS = 16
MISSES_MAX = 3  # in a load, of what is stored: told, and no fault yet


@dataclass(frozen=True)
class Work:
    """A kind of load. `unit` is what the processor time is for: a request (us) or a GiB (s).
    `streams` is 0 for HTTP/1.1. `failed_share` is the share of answers that must be 404. `rate` is
    how often a second each connection asks, 0 for as often as it can; `line` is how many bytes a
    second each connection takes, 0 for as many as come."""
    name: str
    unit: str
    connections: int
    tls: bool = False
    streams: int = 0
    rate: int = 0
    line: int = 0
    paths: str = ""
    failed_share: float = 0.0
    has_floor: bool = True

    @property
    def paths_name(self):
        return self.paths or self.name


LINE = 25_000_000  # bytes a second: 200 Mbit/s
# As fast as it can, the latency is that of a queue, and the server that answers most has the most
# to do with the cores that it shares with its client; `narinfo-paced` is a quarter to a half of
# what the slowest peer does, the same for all.
# Eight clients with 25 look-ups under way each are what Nix does over HTTP/2; one connection
# with 100 streams is the most that it has under way. Clients on lines of their own take the same from
# every server that keeps up: otherwise who is faster makes the reader faster, and over loopback pays
# for more of its packets.
WORKS = [
    Work("narinfo", "request", 32),
    Work("narinfo-paced", "request", 128, rate=32, paths="narinfo"),
    Work("narinfo-404", "request", 32, failed_share=1.0),
    Work("nar-64K", "request", 32),
    Work("nar-1M", "GiB", 8),
    Work("nar-64M", "GiB", 4),
    Work("nar-1M-lines", "GiB", 40, line=LINE, paths="nar-1M"),
    Work("nar-64M-lines", "GiB", 40, line=LINE, paths="nar-64M"),
    Work("upgrade", "GiB", 16, failed_share=0.3),
    Work("narinfo-h2", "request", 8, tls=True, streams=25, paths="narinfo", has_floor=False),
    Work("nar-64M-tls", "GiB", 4, tls=True, paths="nar-64M", has_floor=False),
    Work("nar-64M-h2", "GiB", 1, tls=True, streams=100, paths="nar-64M", has_floor=False),
]


@dataclass
class Sample:
    """One server's figures in one round: processor time for each unit, that of the server and its
    clients together, units a second, latencies in ms."""
    cpu: float
    cpu_of_both: float
    rate: float
    latencies: dict


def cpu_of_ended_children():
    """Seconds of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Field:
    """The servers that take turns, the objects, and the files with the order of requests."""

    def __init__(self, lab, servers, objects, works):
        self.lab, self.servers, self.objects, self.works = lab, servers, objects, works
        self.orders = {name: list(paths) for name, paths in objects.nars.items()}
        if any(work.paths_name == "narinfo" for work in works):
            self.orders["narinfo"] = zipf_order(objects.narinfos)
        for name, paths in self.orders.items():
            self.write(name, paths)
        if any(work.line for work in works):
            subprocess.run([needed("cc"), "-O2", "-o", lab.folder / "reader", HERE / "reader.c"],
                           check=True)

    def write(self, name, paths):
        (self.lab.folder / f"{name}.paths").write_text("".join(path + "\n" for path in paths))

    def takes_part(self, server, work):
        if server.name == "floor":
            return work.has_floor
        return bool(server.tls_port) or not work.tls

    def warm(self, server):
        """Every object through a server, each byte compared with the origin's; then the NARs and
        every fiftieth narinfo once more, as they are stored now, over TLS too."""
        names = {work.paths_name for work in self.works}
        nars = [path for name in names for path in self.objects.nars.get(name, [])]
        if "upgrade" in names:
            nars += [path for path in self.objects.upgrade_nars if path not in nars]
        narinfos = list(self.objects.narinfos) if "narinfo" in names else []
        if "upgrade" in names:
            narinfos += self.objects.upgrade_narinfos
        if server.name == "floor":
            fetch_all(server.port, nars, 4, self.checker(server))
            return
        for paths in [narinfos, narinfos[::50]]:
            fetch_all(server.port, paths, WARM_CONNECTIONS, self.checker(server))
        for _ in range(2):
            fetch_all(server.port, nars, 4, self.checker(server))
        if server.tls_port and any(work.tls for work in self.works):
            self.check_tls(server, [path for path in nars if "nar-64M" in names][:1]
                           + narinfos[:1])

    def checker(self, server):
        def check(path, status, body):
            if status != 200 or body != self.objects.body(path):
                raise Fault(f"{server.name}: status {status}, wrong answer for {path}\n"
                            f"{server.log_tail()}")
        return check

    def check_tls(self, server, paths):
        """The bytes over TLS, with HTTP/1.1 and with HTTP/2 (where nghttp is installed)."""
        connection = Connection(server.tls_port, tls_context(self.lab.certificate))
        nghttp = program("nghttp")
        for path in paths:
            status, body, _ = connection.get(path, keep=True)
            self.checker(server)(path, status, body)
            if nghttp:
                url = f"https://localhost:{server.tls_port}{path}"
                done = subprocess.run([nghttp, "--no-dep", "--window-bits=30",
                                       "--connection-window-bits=30", url],
                                      capture_output=True, check=True, timeout=60)
                self.checker(server)(path, 200, done.stdout)
        connection.close()

    def prepare_absences(self, work, number):
        """Absences are kept for a minute: each round has others, and each server is asked for all
        of them just before its load."""
        if work.name == "narinfo-404":
            absent = self.objects.absent(f"{work.name} {number}", ABSENT_KEYS)
            self.write(work.name, absent)
        elif work.name == "upgrade":
            absent = self.objects.absent(f"{work.name} {number}", UPGRADE_ABSENT)
            self.write(work.name, upgrade_order(self.objects, absent))
        else:
            absent = []
        return absent

    def load(self, server, work, absent, seconds):
        """One load; it must be of hits (all but MISSES_MAX, or one in a thousand), and every
        status as wanted."""
        def check(path, status, _):
            if status != 404:
                raise Fault(f"{server.name}: status {status}, not 404, for {path}")
        fetch_all(server.port, absent, WARM_CONNECTIONS, check)
        paths_file = self.lab.folder / f"{work.paths_name}.paths"
        asked, before = self.lab.origin_requests(), server.cpu()
        clients_before = cpu_of_ended_children()
        if work.line:
            count = read_by_lines(server, paths_file, work.connections, work.line, seconds,
                                  self.lab.folder)
        elif work.rate:
            count = h2load_paced(server, paths_file, work.connections, work.rate, seconds,
                                 self.lab.folder)
        elif work.streams:
            count = h2load(server, paths_file, work.connections, work.streams, seconds,
                           self.lab.folder)
        else:
            count = wrk(server, paths_file, work.connections, seconds, self.lab.folder, work.tls)
        spent = server.cpu_since(before)
        of_both = spent + cpu_of_ended_children() - clients_before
        asked = self.lab.origin_requests() - asked - 1
        if asked:
            finding = f"{server.name}: {work.name}: {asked} requests went on to the origin"
            if asked > max(MISSES_MAX, count.requests // 1000):
                raise Fault(finding)
            print(finding, file=sys.stderr, flush=True)
        if abs(count.failed_share - work.failed_share) > (0.1 if work.name == "upgrade" else 0):
            raise Fault(f"{server.name}: {work.name}: {count.failed_share:.3f} of the answers "
                        "have a status of 400 or more")
        if work.unit == "request":
            each = 1e6 / count.requests
            return Sample(spent * each, of_both * each, count.requests / count.seconds,
                          count.latencies)
        each = GIB / count.bytes
        return Sample(spent * each, of_both * each, count.bytes / GIB / count.seconds,
                      count.latencies)

    def round(self, number, seconds, samples):
        """Every work for every server; who goes first changes with the round."""
        turn = number % len(self.servers)
        for work in self.works:
            absent = self.prepare_absences(work, number)
            for server in itertools.chain(self.servers[turn:], self.servers[:turn]):
                if self.takes_part(server, work):
                    samples.setdefault(work.name, {}).setdefault(server.name, []).append(
                        self.load(server, work, absent, seconds))
