"""Load by wrk (HTTP/1.1), h2load (HTTP/2, or at a fixed rate) and reader.c (clients on slow lines), and what they counted in
one form: requests, bytes, seconds, share of answers with another status than 200, and percentiles of latency in ms."""

import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from client import Fault

HERE = Path(__file__).resolve().parent
BEGIN_MS = 7  # from one connection of a paced load to the next
PERCENTILES = [("p50", 50), ("p99", 99), ("p99.9", 99.9)]


@dataclass
class Count:
    """What a load generator counted. Latencies in ms, by the names of PERCENTILES."""
    requests: int
    bytes: int
    seconds: float
    failed_share: float
    latencies: dict


def start(command, folder, **variables):
    """A load generator, which takes its TLS ciphers from the folder."""
    environment = dict(os.environ, OPENSSL_CONF=str(folder / "openssl.cnf"), **variables)
    return subprocess.Popen([str(part) for part in command], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcome(process, seconds):
    """What it printed, at its end."""
    try:
        output, errors = process.communicate(timeout=seconds + 120)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
    if process.returncode:
        raise Fault(f"{process.args[0]} failed:\n{output}{errors}")
    return output


class Wrk:
    """A load while it is on: one thread of wrk, which takes one core at most. Ended with its
    block, if it has not ended by itself."""

    def __init__(self, server, paths_file, connections, seconds, folder, tls=False):
        self.server, self.seconds = server, seconds
        url = f"https://localhost:{server.tls_port}" if tls else f"http://127.0.0.1:{server.port}"
        command = ["wrk", "-t", 1, "-c", connections, "-d", f"{seconds}s", "--timeout", "30s",
                   "-s", HERE / "paths.lua", url]
        self.process = start(command, folder, PATHS=str(paths_file))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self):
        """Ends it before its time; what it counted until then is still to be had."""
        self.process.send_signal(signal.SIGINT)

    def count(self):
        """What it counted, when its time is over."""
        return counted_by_wrk(self.server, outcome(self.process, self.seconds))


def wrk(server, paths_file, connections, seconds, folder, tls=False):
    """A whole load by wrk."""
    with Wrk(server, paths_file, connections, seconds, folder, tls) as load:
        return load.count()


def counted_by_wrk(server, output):
    counted = json.loads(re.search(r"^RESULT (.*)$", output, re.M)[1])
    if counted["faults"] or not counted["requests"]:
        raise Fault(f"{server.name}: wrk met faults: {counted}\n{output}")
    return Count(counted["requests"], counted["bytes"], counted["microseconds"] / 1e6,
                 counted["statuses"] / counted["requests"],
                 {name: counted[name] / 1e3 for name, _ in PERCENTILES})


def read_by_lines(server, paths_file, connections, line, seconds, folder):
    """Clients that take `line` bytes a second each; where a server falls behind, the rate tells. No
    latencies: the reader looks every 5 ms."""
    command = [folder / "reader", server.port, paths_file, connections, line, seconds]
    output = outcome(start(command, folder), seconds)
    answers, moved, spent = re.findall(r"[\d.]+", output)
    if int(moved) < 1 << 20:
        raise Fault(f"{server.name}: next to nothing came within {seconds} s:\n{output}")
    return Count(int(answers), int(moved), float(spent), 0.0, {})


def h2load(server, paths_file, connections, streams, seconds, folder):
    """One thread of h2load, with a window of 8 MiB for each stream: curl, and so Nix, grants 10 MB.
    Percentiles are over the answers that ended within the time."""
    output, log_file = run_h2load(
        f"https://localhost:{server.tls_port}", paths_file,
        ["-c", connections, "-m", streams, "-w", 23, "-W", 30, "-D", seconds], seconds, folder)
    if "Application protocol: h2" not in output:
        raise Fault(f"{server.name}: h2load did not speak HTTP/2:\n{output}")
    return counted(server, output, log_file, seconds)


def h2load_paced(server, paths_file, connections, rate, seconds, folder):
    """The same rate of requests for every server, over HTTP/1.1: each connection asks `rate` times
    a second. They begin one after the other, so that they do not ask all at once. A wait counts
    from when the request is sent; that is late where the answer before it has not come, so the
    pause between two of them must be far above any usual wait."""
    requests, begin = connections * rate * seconds, f"--rate-period={BEGIN_MS}ms"
    output, log_file = run_h2load(
        f"http://127.0.0.1:{server.port}", paths_file,
        ["--h1", "-c", connections, "-r", 1, begin, f"--rps={rate}", "-n", requests],
        seconds, folder)
    spent = float(re.search(r"finished in ([\d.]+)s", output)[1])
    if spent > 1.3 * (seconds + connections * BEGIN_MS / 1e3):
        raise Fault(f"{server.name}: it falls behind {rate * connections} requests a second")
    return counted(server, output, log_file, spent)


def run_h2load(base, paths_file, options, seconds, folder):
    """h2load's output, and the file with the time of each request."""
    log_file, urls_file = folder / "h2load.log", folder / "h2load.urls"
    with open(paths_file, encoding="ascii") as paths, open(urls_file, "w", encoding="ascii") as out:
        out.writelines(base + path for path in paths)
    log_file.unlink(missing_ok=True)
    command = ["h2load", "-t", 1, *options, "-i", urls_file, f"--log-file={log_file}"]
    return outcome(start(command, folder), seconds), log_file


def counted(server, output, log_file, seconds):
    """What h2load counted; every answer must be a 200."""
    requests = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    moved = re.search(r"\((\d+)\) total", output)
    codes = [int(code) for code in
             re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx",
                       output).groups()]
    if any(codes[1:]) or any(int(count) for count in requests.groups()[2:]):
        raise Fault(f"{server.name}: h2load met faults:\n{output}")
    if int(moved[1]) < 1 << 20:
        raise Fault(f"{server.name}: next to nothing came within {seconds} s: let a load take "
                    f"longer (--seconds)\n{output}")
    waits = sorted(int(line.split("\t")[2]) for line in open(log_file, encoding="ascii"))
    latencies = {name: waits[min(len(waits) - 1, int(len(waits) * percent / 100))] / 1e3
                 for name, percent in PERCENTILES} if waits else {}
    return Count(int(requests[1]), int(moved[1]), seconds, 0.0, latencies)
