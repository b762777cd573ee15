"""A narthex process under test: its configuration, its metrics, its memory."""

import json
import re
import signal
from pathlib import Path

from harness import Failed, Response, fetch, free_ports, remove_tree, wait_until

TOKEN = "token-of-the-end-to-end-test"


def table(header, settings):
    """A table of TOML; a setting that is a dictionary is a table below it, and one that is
    `None` is left out."""
    settings = {key: value for key, value in settings.items() if value is not None}
    name = header.strip("[]")
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()
             if key not in tables]
    below = (table(f"[{name}.{key}]", value) for key, value in tables.items())
    return "\n".join([header, *lines, *below]) + "\n"


class Edge:
    """One `narthex serve` with a folder of its own."""

    def __init__(self, binary, programs, folder, name, origins, **options):
        """`origins` are URLs, or settings with a URL, in the order of their priority. Options:
        `keys` (trusted public keys), `tls` (a certificate and key pair of files), `env`,
        `disk_size`, `ports` (three free ones), `site` (its settings)."""
        self.binary, self.programs, self.name = binary, programs, name
        self.folder = Path(folder) / name
        remove_tree(self.folder)
        self.folder.mkdir(parents=True)
        self.env = options.get("env")
        self.process = None
        self.port, self.admin_port, self.tls_port = options.get("ports") or free_ports(3)
        self.config = self.folder / "narthex.toml"
        self.config.write_text(self.text(origins, options))

    def text(self, origins, options):
        (self.folder / "token").write_text(TOKEN)
        tls = ""
        if options.get("tls"):
            certificate, key = options["tls"]
            tls = (f'[server.tls]\nlisten = ["127.0.0.1:{self.tls_port}"]\n'
                   f'[[server.tls.certificates]]\ncertificate = "{certificate}"\nkey = "{key}"\n')
        site = {"trusted_public_keys": list(options.get("keys", []))} | options.get("site", {})
        text = (
            f'[server]\nlisten = ["127.0.0.1:{self.port}"]\nname = "{self.name}"\n{tls}'
            f'[admin]\nlisten = "127.0.0.1:{self.admin_port}"\n'
            f'token_file = "{self.folder}/token"\n'
            '[memory]\nsize = "64MiB"\n'
            f'[disk]\npath = "{self.folder}/disk"\nsize = "{options.get("disk_size", "8GiB")}"\n'
            '[log]\naccess = "json"\nlevel = "info"\n'
            + table("[[site]]", site))
        for number, origin in enumerate(origins):
            settings = origin if isinstance(origin, dict) else {"url": origin}
            text += table("[[site.origin]]", {"priority": 10 * (number + 1)} | settings)
        return text

    def start(self):
        """Starts the process and waits until it is ready."""
        command = [self.binary, "serve", "--config", self.config]
        return self.start_with(command)

    def start_with(self, command):
        self.process = self.programs.start(self.name, command, env=self.env)
        wait_until(f"{self.name} is ready", self.is_ready, 30)
        return self

    def is_ready(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.returncode}:\n"
                         + self.programs.log(self.name))
        return fetch(self.admin + "/readyz").status == 200

    def stop(self):
        """Drains it; its exit status."""
        return self.programs.stop(self.process)

    def kill(self):
        """Ends it as a crash would."""
        return self.programs.stop(self.process, signal.SIGKILL)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self):
        return f"https://127.0.0.1:{self.tls_port}"

    @property
    def admin(self):
        return f"http://127.0.0.1:{self.admin_port}"

    def get(self, path, headers=None, method="GET") -> Response:
        return fetch(f"{self.url}/{path}", headers, method)

    def metric(self, name, **labels):
        """The sum of a metric's series that have these label values."""
        total = 0.0
        for line in fetch(self.admin + "/metrics").body.decode().splitlines():
            series = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
            if series and series[1] == name:
                present = dict(re.findall(r'(\w+)="([^"]*)"', series[2] or ""))
                if all(present.get(key) == value for key, value in labels.items()):
                    total += float(series[3])
        return int(total)

    def origin_requests(self, **labels):
        return self.metric("narthex_origin_requests_total", **labels)

    def nar_fetches(self):
        """How many NARs were asked of the origin. One that comes slowly, as on a busy machine,
        comes in pieces; each is a further request and counts with its NAR."""
        pieces = self.metric("narthex_fill_pieces_total")
        return self.origin_requests(**{"class": "nar"}) - pieces

    def settle(self):
        """Waits until no fill is under way."""
        wait_until(f"the fills of {self.name} end",
                   lambda: self.metric("narthex_fills_running") == 0)

    def resident_peak(self):
        """The largest resident set since the start or the last reset, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def resident(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024
