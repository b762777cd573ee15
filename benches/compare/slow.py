"""Origins that are far away: Narthex beside nginx, which fetches large objects by `slice`, and
beside asking the origin directly (slow_origin.py).

`nar-far`: a cold NAR from an origin that answers after 100 ms and brings 2 MB/s on a connection.
`narinfo-far`: cold narinfos from an origin that answers after 20 ms, but one in twenty after 2 s.
"""

import random
import select
import statistics
import sys
import time

import cold
import objects
import report
from client import Connection, Fault, timed_get
from peers import HERE, Lab
from servers import Server, free_ports

MIB = 1 << 20
LATENCY, RATE = 0.1, 2_000_000
NEAR_LATENCY, NEAR_RATE, SLOW_SHARE, SLOW_SECONDS = 0.02, 50_000_000, 0.05, 2.0
LOOK_UPS = 25
SMALL = 15
TIME_LIMIT = 600
PEERS = ["nginx-slice", "narthex"]


def origin(lab, *behaviour):
    (port,) = free_ports(1)
    command = [sys.executable, HERE / "slow_origin.py", port, lab.folder / "objects", *behaviour]
    return Server("origin", command, port, lab.folder)


def measure(options, folder, started):
    """All figures, by work and server."""
    lab = Lab(folder, options.narthex)
    chance = random.Random(11)
    (folder / "objects" / "nar").mkdir(parents=True)
    stock = objects.Objects(folder / "objects")
    stock.write("/nix-cache-info", b"StoreDir: /nix/store\n")
    path = stock.add_nar(chance, options.slow_size * MIB)
    small = [stock.add_nar(chance, MIB) for _ in range(SMALL)]
    for _ in range(options.slow_narinfos):
        stock.add_narinfo(chance, stock.narinfos)
    rows = {"nar-far": {}, "narinfo-far": {}}
    far = origin(lab, LATENCY, RATE, 0, 0)
    near = origin(lab, NEAR_LATENCY, NEAR_RATE, SLOW_SHARE, SLOW_SECONDS)
    started += [far, near]
    for _ in range(options.rounds):
        for name in ["directly", *PEERS]:
            row = of_server(lab, name, far, started,
                            lambda port: nar(port, far.port, (path, small), stock))
            rows["nar-far"].setdefault(name, []).append(row)
            row = of_server(lab, name, near, started,
                            lambda port: narinfos(port, stock))
            rows["narinfo-far"].setdefault(name, []).append(row)
            print(f"{name} done", file=sys.stderr, flush=True)
    return {work: {name: {key: report.summary([row[key] for row in taken]) for key in taken[0]}
                   for name, taken in servers.items()} for work, servers in rows.items()}


def of_server(lab, name, behind, started, work):
    """`work` through a server that has nothing yet, and what the origin was asked for it."""
    server = behind if name == "directly" else lab.start(name, behind.port)
    if server is not behind:
        started.append(server)
        timed_get_of_any(server.port)
    before = asked(behind.port)
    row = work(server.port)
    row["asked"] = asked(behind.port) - before
    if server is not behind:
        started.remove(server)
        lab.remove(server)
    return row


def timed_get_of_any(port):
    """Has a server answer once, so that what it does at its first start is over."""
    connection = Connection(port, time_limit=TIME_LIMIT)
    connection.get("/nix-cache-info", keep=False)
    connection.close()


def asked(port):
    connection = Connection(port)
    count = int(connection.get("/count", keep=True)[1])
    connection.close()
    return count


def nar(port, origin_port, paths, stock):
    """The whole of the large one, and how much later the first byte of small ones comes than from
    the origin."""
    path, small = paths
    connection = Connection(port, time_limit=TIME_LIMIT)
    _, total, length = timed_get(connection, path)
    connection.close()
    if length != stock.sizes[path]:
        raise Fault(f"port {port}: {length} bytes for {path}")
    return {"total": total, "first": cold.nars(port, origin_port, small)["first_byte"]}


def narinfos(port, stock):
    """Each narinfo once, with as many under way as Nix has; latencies in ms."""
    todo, idle, busy, taken = list(stock.narinfos), [], {}, []
    idle = [Connection(port, time_limit=TIME_LIMIT) for _ in range(LOOK_UPS)]
    everybody = list(idle)
    while todo or busy:
        while todo and idle:
            connection, path = idle.pop(), todo.pop()
            connection.send(path)
            busy[connection.socket] = (connection, path, time.perf_counter())
        for ready in select.select(list(busy), [], [])[0]:
            connection, path, start = busy.pop(ready)
            status, body, _ = connection.receive(keep=True)
            if status != 200 or body != stock.narinfos[path]:
                raise Fault(f"port {port}: status {status} for {path}")
            taken.append((time.perf_counter() - start) * 1e3)
            idle.append(connection)
    for connection in everybody:
        connection.close()
    ranks = statistics.quantiles(taken, n=1000, method="inclusive")
    return {"p50": ranks[499], "p95": ranks[949], "p99": ranks[989]}


def show(results):
    titles = {
        "nar-far": "a cold NAR; origin: 100 ms, 2 MB/s a connection",
        "narinfo-far": "cold narinfos; origin: 20 ms, one in twenty 2 s",
    }
    columns = {"total": "all of it s", "first": "first byte + ms", "p50": "p50 ms", "p95": "p95 ms",
               "p99": "p99 ms", "asked": "at the origin"}
    for work, servers in results.items():
        keys = [key for key in columns if any(key in row for row in servers.values())]
        lines = [(name, [row[key]["median"] for key in keys]) for name, row in servers.items()]
        report.show_table(f"{work}: {titles[work]}", [columns[key] for key in keys], lines)
