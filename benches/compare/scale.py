"""What grows and what must not: `run --scale` measures Narthex alone, with narinfos from memory.

CPU for each narinfo hit and resident memory with more objects in memory (in the order of real
traffic, Zipf, and spread evenly, where each hit misses the processor's caches), with more
connections, with more sites, and resident memory of idle connections and under a load of minutes.
Rounds are interleaved, medians shown; the time counted begins when all connections stand. What is
stored, up to ten million objects, is measured by `cargo bench --bench store`. The origin is the
floor, which makes a narinfo for any name. Needs twice as many open files as connections."""

import itertools
import random
import re
import resource
import statistics
import sys
import time
import urllib.request
from dataclasses import dataclass, field

import peers
import report
from client import Connection, Fault, fetch_all
from load import Wrk
from objects import letters, narinfo, store_name, zipf_order

OBJECTS = [10_000, 100_000, 1_000_000]
CONNECTIONS = [10, 100, 1_000, 10_000]
SITES = [1, 20, 200]
FEW = 10_000  # narinfos where their number is not what grows
USUAL = 32  # connections where their number is not what grows
SETTLE_MAX = 60  # seconds until all connections of a load stand
SPARE_FILES = 200
MEMORY = "4GiB"


def tell(text):
    print(text, file=sys.stderr, flush=True)


def metric(server, name, label=""):
    """The sum of a metric of a Narthex over all its labels, or those of which `label` is one."""
    config = (server.folder / "narthex.toml").read_text()
    address = re.search(r'\[admin\]\nlisten = "([^"]+)"', config)[1]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines
               if line.startswith(f"{name}{{") and label in line)


def answered(server):
    return metric(server, "narthex_requests_total", 'outcome="hit_memory"')


def hits(server, connections, paths_file, seconds):
    """CPU in us for each hit, and hits a second, while a load of that many connections is on."""
    begun = metric(server, "narthex_connections")
    with Wrk(server, paths_file, connections, SETTLE_MAX + seconds, server.folder.parent) as load:
        end = time.monotonic() + SETTLE_MAX
        while metric(server, "narthex_connections") < begun + connections:
            if time.monotonic() > end:
                raise Fault(f"no {connections} connections within {SETTLE_MAX} s")
            time.sleep(0.2)
        before, count, start = server.cpu(), answered(server), time.perf_counter()
        time.sleep(seconds)
        spent = server.cpu_since(before)
        count, took = answered(server) - count, time.perf_counter() - start
        load.end()
        load.count()
    return spent * 1e6 / count, count / took


def floor(server, connections, paths_file, seconds):
    """The same for the floor, which does not say when its connections stand: they count too."""
    before = server.cpu()
    with Wrk(server, paths_file, connections, seconds, server.folder.parent) as load:
        count = load.count()
    return server.cpu_since(before) * 1e6 / count.requests, count.requests / count.seconds


@dataclass
class Row:
    """One size of one thing that grows, and what was measured."""
    name: str
    server: object
    connections: int
    paths_file: object
    how: object = hits
    cpu: list = field(default_factory=list)
    rate: list = field(default_factory=list)
    memory: list = field(default_factory=list)

    def measure(self, seconds):
        cpu, rate = self.how(self.server, self.connections, self.paths_file, seconds)
        self.cpu.append(cpu)
        self.rate.append(rate)
        self.memory.append(self.server.memory("VmRSS"))

    def figures(self):
        return {"cpu": report.summary(self.cpu), "rate": report.summary(self.rate),
                "rss_mib": statistics.median(self.memory)}


class Scale:
    """The servers, their objects, and the files with the order of requests."""

    def __init__(self, lab, started):
        self.lab, self.started = lab, started
        chance = random.Random(21)
        name = store_name(chance)
        body = narinfo(chance, name, letters(chance, 52), 123456)
        (lab.folder / "objects" / "nar").mkdir(parents=True)
        peers.write_ready_answers(lab, body)
        place = (lab.folder / "ready").read_bytes().index(name.encode())
        self.origin = lab.start("floor", name_at=place)
        started.append(self.origin)

    def paths(self, count):
        chance = random.Random(22)
        return [f"/{letters(chance, 32)}.narinfo" for _ in range(count)]

    def write(self, name, lines):
        file = self.lab.folder / f"scale-{name}.paths"
        file.write_text("".join(line + "\n" for line in lines))
        return file

    def start(self, sites=1):
        server = self.lab.start("narthex-scale", self.origin.port, MEMORY=MEMORY,
                                SITES="".join(self.site(number, sites) for number in range(sites)))
        self.started.append(server)
        return server

    def site(self, number, sites):
        """The configuration of one site of so many; where it is the only one, it has no host."""
        hosts = f'hosts = ["site-{number}.test"]' if sites > 1 else ""
        return (f'[[site]]\nname = "site-{number}"\n{hosts}\nsignatures = "off"\n'
                f'[[site.origin]]\nurl = "http://127.0.0.1:{self.origin.port}"\n')

    def warm(self, server, paths):
        """Every path once; it is answered by the origin, so in memory from now on."""
        tell(f"warming {len(paths)} objects")
        fetch_all(server.port, paths, USUAL, self.found(server))

    def objects(self, counts):
        """Rows with that many objects in memory."""
        rows = []
        for count in counts:
            server, paths = self.start(), self.paths(count)
            self.warm(server, paths)
            chance = random.Random(23)
            orders = {"Zipf": zipf_order(paths), "even": chance.choices(paths, k=200_000)}
            for kind, order in orders.items():
                file = self.write(f"{count}-{kind}", order)
                rows.append(Row(f"{count:,} {kind}", server, USUAL, file))
        return rows

    def connections(self, server, counts):
        """Rows with that many connections, all of them busy; and of the floor, since the kernel
        has its part in what they cost."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
        file = self.lab.folder / f"scale-{FEW}-Zipf.paths"
        for count in counts:
            if count > files:
                tell(f"{count} connections are left out: a process may open {files} files")
        return [row for count in counts if count <= files for row in
                [Row(f"{count:,}", server, count, file),
                 Row(f"{count:,}, floor", self.origin, count, file, floor)]]

    def sites(self, counts):
        """Rows with that many sites, asked in turn for objects of their own; names and objects are
        as many in each row."""
        rows = []
        for count in counts:
            server = self.start(count)
            hosts = [f"site-{number}.test" for number in range(count)]
            asked = list(zip(self.paths(FEW), itertools.cycle(hosts)))
            by_host = {host: [path for path, at in asked if at == host] for host in hosts}
            for host, paths in by_host.items():
                fetch_all(server.port, paths, 4, self.found(server), host=host)
            order = random.Random(24).choices(asked, k=100_000)
            file = self.write(f"{count}-sites", [f"{path} {host}" for path, host in order])
            rows.append(Row(f"{count:,}", server, USUAL, file))
        return rows

    def found(self, server):
        def check(path, status, _):
            if status != 200:
                raise Fault(f"status {status} for {path}\n{server.log_tail()}")
        return check


def idle(server, count, paths_file, path, seconds):
    """Resident memory that a connection takes which has had one answer and waits, in KiB, and the
    CPU of a hit on a few busy ones beside that many idle ones."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
    count = min(count, files)
    before = server.memory("VmRSS")
    connections = []
    try:
        for _ in range(count):
            connections.append(Connection(server.port, piece=4096))
            if connections[-1].get(path, keep=False)[0] != 200:
                raise Fault(f"no answer on connection {len(connections)}")
        taken = (server.memory("VmRSS") - before) * 1024 / count
        cpu, _ = hits(server, USUAL, paths_file, seconds)
    finally:
        for connection in connections:
            connection.close()
    return {"connections": count, "kib": taken, "cpu": cpu}


def steady(server, paths_file, seconds, parts):
    """Resident memory in MiB at the end of each part of a long load."""
    seen = []
    with Wrk(server, paths_file, USUAL, seconds, server.folder.parent) as load:
        for _ in range(parts):
            time.sleep(seconds / (parts + 1))
            seen.append(server.memory("VmRSS"))
        load.count()
    return seen


def measure(lab, options, started):
    """All rows; returns the results. Servers that it starts are added to `started`."""
    scale = Scale(lab, started)
    tables = {}
    tables["objects"] = scale.objects(options.scale_objects)
    if FEW not in options.scale_objects:
        raise Fault(f"--scale-objects must have {FEW} among them")
    first = tables["objects"][0]
    tables["connections"] = scale.connections(first.server, CONNECTIONS)
    tables["sites"] = scale.sites(SITES)
    for number in range(options.rounds):
        for rows in tables.values():
            turn = number % len(rows)
            for row in rows[turn:] + rows[:turn]:
                row.measure(options.seconds)
        tell(f"round {number + 1} of {options.rounds} done")
    result = {name: {row.name: row.figures() for row in rows} for name, rows in tables.items()}
    server = scale.start()
    paths = scale.paths(FEW)
    scale.warm(server, paths)
    result["idle"] = idle(server, CONNECTIONS[-1], first.paths_file, paths[0], options.seconds)
    tell("a load of minutes")
    result["steady"] = {"seconds": options.scale_minutes * 60, "rss_mib": steady(
        first.server, first.paths_file, options.scale_minutes * 60, 6)}
    return result


def show(result):
    titles = {"objects": "narinfo hits by objects in memory", "sites": "by sites, over Host",
              "connections": "by connections, all busy"}
    for name, title in titles.items():
        rows = result[name]
        report.show_table(
            f"{title}: CPU in us/request, requests/s, resident MiB",
            ["CPU", "(min", "max)", "rate", "resident"],
            [(size, [row["cpu"]["median"], row["cpu"]["min"], row["cpu"]["max"],
                     row["rate"]["median"], row["rss_mib"]]) for size, row in rows.items()])
    resting = result["idle"]
    report.show_table(
        f"{resting['connections']} idle connections beside {USUAL} busy ones",
        ["KiB each", "CPU"], [("", [resting["kib"], resting["cpu"]])])
    lasting = result["steady"]
    columns = [f"{number + 1}/{len(lasting['rss_mib'])}"
               for number in range(len(lasting["rss_mib"]))]
    report.show_table(f"resident MiB over a load of {lasting['seconds']} s", columns,
                      [("", lasting["rss_mib"])])
