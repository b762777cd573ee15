"""Processes under test: started, waited for, measured from /proc, stopped by their ids."""

import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from client import Fault

TICKS = os.sysconf("SC_CLK_TCK")


def free_ports(count):
    """Ports of 127.0.0.1 that nobody has just now, outside of the range that the kernel takes those
    of clients from: a load may be on beside this one."""
    ports = []
    while len(ports) < count:
        port = random.randrange(10_000, 30_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in ports:
            ports.append(port)
    return ports


def children_of_all():
    """The children of every process, from /proc."""
    children = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(place.name))
    return children


class Server:
    """A server under test, with all its processes."""

    def __init__(self, name, command, port, folder, tls_port=None, environment=None):
        self.name, self.port, self.tls_port = name, port, tls_port
        self.folder = folder
        self.log_file = folder / "output.log"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, env=environment)
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.stop()
                    raise Fault(f"{name} did not start:\n{self.log_tail()}") from None
                time.sleep(0.05)

    def log_tail(self):
        """The last lines that it wrote, for the report of a fault."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-10:])

    def processes(self):
        """Its process, that one's children, theirs and so on."""
        children = children_of_all()
        found = [self.process.pid]
        for process in found:
            found.extend(children.get(process, []))
        return found

    def cpu(self):
        """Processor seconds of each of its processes by id, threads that ended included."""
        return {process: process_cpu_seconds(process) for process in self.processes()}

    def cpu_since(self, before):
        """Processor seconds since `cpu` gave `before`. What a process spent that ended since
        is lost: nginx ends the one that reads its folder a minute after the start."""
        return sum(seconds - before.get(process, 0) for process, seconds in self.cpu().items())

    def memory(self, field):
        """The sum of VmRSS or VmHWM over its processes, in MiB."""
        total = 0
        for process in self.processes():
            status = Path(f"/proc/{process}/status").read_text()
            found = re.search(rf"{field}:\s+(\d+)", status)
            total += int(found[1]) if found else 0
        return total / 1024

    def stop(self):
        """Ends it, and what is left of its children."""
        found = self.processes() if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for process in found[1:]:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass


def process_cpu_seconds(process):
    """Two lower bounds of it, and the higher is taken: `stat` has the threads that ended but
    counts whole ticks, the `schedstat` of the threads has nanoseconds but only of those that
    live. 0 where the process is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0
    coarse = (int(fields[11]) + int(fields[12])) / TICKS
    fine = 0
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            fine += int(thread.read_text().split()[0])
        except OSError:
            continue
    return max(coarse, fine / 1e9)
