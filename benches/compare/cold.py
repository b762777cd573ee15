"""The work kinds that begin with an empty cache, each time in a server started for it, which has
answered once.

`nar-cold`: NARs of 64 MiB, each asked for once, on one connection; the origin is asked directly
for the same ones in turn. The origin answers from memory, so this shows what a fill costs: on a
small machine the origin, the cache and the client share the cores. `nar-cold-1G`: the same with
an origin behind a line of 1 Gbit/s, as a real one is at best (the floor, paced by the kernel).
`closure-cold`: the requests of an upgrade (objects.py) by a client with as much under way as Nix
has: 25 look-ups, then 16 NARs."""

import statistics
import time

import report
from client import Connection, Fault, fetch_at_once, timed_get
from objects import UPGRADE_ABSENT
from peers import program

GIB = 1 << 30
LOOK_UPS, DOWNLOADS = 25, 16
GIGABIT = 125_000_000  # bytes a second
NAMES = ["nar-cold", "nar-cold-1G", "closure-cold"]


def round_of_all(lab, names, stock, only, number, samples):
    """Every cold work for every server but the floor; who goes first changes with the round."""
    names = [name for name in names if name != "floor"]
    turn = number % len(names)
    for work in NAMES:
        if work not in only or (work == "nar-cold-1G" and not program("cc")):
            continue
        rows = samples.setdefault(work, {})
        if work == "closure-cold":
            rows.setdefault("origin", []).append(closure(lab, lab.origin_port, stock))
        for name in names[turn:] + names[:turn]:
            origin = lab.start("floor", pace=GIGABIT) if work == "nar-cold-1G" else None
            port = origin.port if origin else lab.origin_port
            server = lab.start(name, port)
            try:
                wake(server.port, stock)
                before = server.cpu()
                if work == "closure-cold":
                    row = closure(lab, server.port, stock)
                else:
                    row = nars(server.port, port, stock.nars["nar-64M"])
                spent = server.cpu_since(before)
                row["cpu"] = spent if work == "closure-cold" else spent * GIB / row.pop("bytes")
                rows.setdefault(name, []).append(row)
            finally:
                lab.remove(server)
                if origin:
                    lab.remove(origin)


def wake(port, stock):
    """Has a server answer once, so that what it does at its first start is over: it may take
    connections before its new folder is made, as Narthex does."""
    connection = Connection(port)
    connection.get(stock.absent("start", 1)[0], keep=False)
    connection.close()


def nars(port, origin_port, paths):
    """Each NAR from the origin directly and through the cache, in changing order."""
    direct, cached = Connection(origin_port), Connection(port)
    taken = {direct: [], cached: []}
    for number, path in enumerate(paths):
        for connection in [direct, cached] if number % 2 else [cached, direct]:
            taken[connection].append(timed_get(connection, path))
    direct.close()
    cached.close()
    extras = [through[0] - straight[0]
              for through, straight in zip(taken[cached], taken[direct])]
    seconds = {connection: sum(one[1] for one in taken[connection]) for connection in taken}
    return {"throughput": seconds[direct] / seconds[cached],
            "first_byte": statistics.median(extras) * 1e3,
            "bytes": sum(one[2] for one in taken[cached])}


def closure(lab, port, stock):
    """Seconds that a whole upgrade took, requests a second, and how many the origin had; each
    answer must have the status and length due."""
    absent = set(stock.absent("closure", UPGRADE_ABSENT))
    lengths = {path: len(body) for path, body in stock.upgrade_narinfos.items()}
    lengths.update(stock.sizes)

    def check(path, status, length):
        if status != (404 if path in absent else 200) or length != lengths.get(path, length):
            raise Fault(f"port {port}: status {status} and {length} bytes for {path}")

    asked, start = lab.origin_requests(), time.perf_counter()
    fetch_at_once(port, [*stock.upgrade_narinfos, *absent], LOOK_UPS, check)
    fetch_at_once(port, stock.upgrade_nars, DOWNLOADS, check)
    wall = time.perf_counter() - start
    count = len(stock.upgrade_narinfos) + len(absent) + len(stock.upgrade_nars)
    return {"wall": wall, "rate": count / wall, "asked": lab.origin_requests() - asked - 1}


def figures(samples):
    """Medians and spreads by work, server and figure."""
    return {work: {server: {key: report.summary([row[key] for row in taken])
                            for key in taken[0]}
                   for server, taken in rows.items()}
            for work, rows in samples.items()}


def show(rows):
    titles = {
        "nar-cold": "CPU in s/GiB, throughput over asking the origin, first byte later by ms",
        "nar-cold-1G": "the same behind 1 Gbit/s",
        "closure-cold": "until all of it was there: seconds, requests/s, requests that the "
                        "origin had, CPU seconds of the server",
    }
    columns = {"wall": "seconds", "rate": "requests/s", "asked": "at the origin", "cpu": "CPU",
               "throughput": "throughput", "first_byte": "first byte"}
    for work, servers in rows.items():
        keys = [key for key in columns if any(key in row for row in servers.values())]
        lines = []
        for server, row in servers.items():
            values = [row[key]["median"] if key in row else None for key in keys]
            lines.append((server, values + [narthex_ratio(servers, server)]))
        lines.sort(key=lambda line: line[0] != "narthex")
        report.show_table(f"{work}: {titles[work]}",
                          [columns[key] for key in keys] + ["narthex/it, CPU"], lines)


def narthex_ratio(servers, server):
    """Narthex's CPU over a server's."""
    if server == "narthex" or "cpu" not in servers[server] or "narthex" not in servers:
        return None
    return servers["narthex"]["cpu"]["median"] / max(servers[server]["cpu"]["median"], 1e-9)
