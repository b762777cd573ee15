"""What every part of the end-to-end test shares: printing checks, running programs, stopping
exactly those that were started. Used by `run` and the modules beside it; Python's standard
library only."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


class Checks:
    """Counts what passed and what failed, and prints one line for each."""

    def __init__(self):
        self.passed = 0
        self.failures = []

    def expect(self, claim, is_true, detail=""):
        """Prints the claim with `ok` or `FAILED`; the detail says what was seen."""
        word = "ok" if is_true else "FAILED"
        print(f"  {word:6} {claim}" + (f" ({detail})" if detail != "" else ""), flush=True)
        if is_true:
            self.passed += 1
        else:
            self.failures.append(claim)
        return is_true

    def equal(self, claim, seen, wanted):
        """Like `expect`; prints what was wanted where it differs."""
        detail = f"{seen!r}"[:120] if seen == wanted else f"{seen!r}, wanted {wanted!r}"
        return self.expect(claim, seen == wanted, detail)


class Programs:
    """Programs started in the background, stopped by their own process id, last first."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.running = []

    def start(self, name, command, env=None, cwd=None):
        """Starts `command`; its output goes to NAME.log in the folder."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=env, cwd=cwd, start_new_session=True)
        process.name = name
        self.running.append(process)
        return process

    def stop(self, process, how=signal.SIGTERM, deadline=30):
        """Ends one program and waits for it; kills it after the deadline (s)."""
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(deadline)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        if process in self.running:
            self.running.remove(process)
        return process.returncode

    def stop_all(self):
        for process in reversed(list(self.running)):
            self.stop(process)

    def log(self, name, lines=6):
        """The last lines of a program's output."""
        path = self.folder / f"{name}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join("    | " + line for line in text.splitlines()[-lines:])


class Failed(Exception):
    """A step that the rest needs did not work."""


def output_of(command, env=None, deadline=300, expect=0):
    """Runs a program to its end and returns what it printed; raises `Failed` otherwise."""
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True,
                          text=True, timeout=deadline, stdin=subprocess.DEVNULL, check=False)
    if expect is not None and done.returncode != expect:
        tail = (done.stderr or done.stdout).strip().splitlines()[-6:]
        raise Failed(f"{command[0]} ended with {done.returncode}: " + " / ".join(tail))
    return done.stdout


def wait_until(what, is_so, deadline=60):
    """Polls until `is_so` returns something true, and returns it; raises `Failed` at the
    deadline (s)."""
    end = time.monotonic() + deadline
    while True:
        seen = is_so()
        if seen:
            return seen
        if time.monotonic() > end:
            raise Failed(f"not within {deadline} s: {what}")
        time.sleep(0.05)


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on at the moment."""
    sockets = []
    for _ in range(count):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        sockets.append(listener)
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


class Response:
    """Status, fields and body of an answer."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body


def fetch(url, headers=None, method="GET", deadline=60):
    """One request; every status is an answer. A broken connection has the status 0."""
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=deadline) as answer:
            return Response(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        return Response(error.code, error.headers, error.read())
    except OSError as error:
        return Response(0, {}, str(error).encode())
    except Exception as error:  # http.client raises its own kinds for short bodies
        return Response(0, {}, repr(error).encode())


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def remove_tree(folder):
    """Removes a folder, read-only store paths included."""
    if not Path(folder).exists():
        return
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o755)
    shutil.rmtree(folder)


def say(text):
    print(text, flush=True)


def complain(text):
    print(text, file=sys.stderr, flush=True)
