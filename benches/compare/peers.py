"""The servers of the comparison, and how each is started in a folder of its own. Nothing is
installed: what is missing is named."""

import os
import re
import resource
import shutil
import subprocess
import urllib.request
from pathlib import Path

from client import Fault
from servers import Server, free_ports

HERE = Path(__file__).resolve().parent
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
# name: program, Debian's package, how it tells its version, whether it does TLS here
PEERS = {
    "nginx": ("nginx", "nginx-light", ["-v"], True),
    "nginx-tuned": ("nginx", "nginx-light", ["-v"], True),
    "varnish": ("varnishd", "varnish", ["-V"], False),
    "trafficserver": ("traffic_server", "trafficserver", ["--version"], True),
    "squid": ("squid", "squid", ["-v"], False),
    "floor": ("cc", "gcc libc6-dev", ["--version"], False),
}


def program(name):
    return shutil.which(name, path=PATH)


def version(path, *arguments):
    """The first version number that a program tells of itself."""
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[.\w-]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def find(wanted):
    """Names of the wanted peers that are installed, with versions, and lines about the rest."""
    found, missing = {}, []
    for name in wanted:
        binary, package, question, _ = PEERS[name]
        path = program(binary)
        if path:
            found[name] = version(path, *question)
        else:
            missing.append(f"{name} is left out: no {binary}; apt-get install {package}")
    return found, missing


class Lab:
    """Where everything is: the temporary folder, the origin's ports, certificate and key."""

    def __init__(self, folder, narthex, before=None):
        self.folder, self.narthex = folder, narthex.resolve()
        self.before = before and before.resolve()
        self.origin_port, self.status_port = free_ports(2)
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self.count = 0
        subprocess.run(
            [needed("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
             "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.key, "-out",
             self.certificate], check=True, capture_output=True)
        os.chmod(self.key, 0o644)
        # wrk and h2load take their ciphers from here: the same for every server
        (folder / "openssl.cnf").write_text(
            "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = default\n"
            "[default]\nCiphersuites = TLS_AES_128_GCM_SHA256\n")

    def fill_in(self, name, values):
        """The committed configuration `name` with the names between at signs replaced."""
        text = (HERE / "config" / name).read_text()
        values = {"CERTIFICATE": self.certificate, "KEY": self.key,
                  "CORES": len(os.sched_getaffinity(0)),
                  "OPEN_FILES": resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2,
                  "USER": "user root root;" if os.geteuid() == 0 else "", **values}
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        return text

    def origin(self):
        values = {"FOLDER": self.folder, "PORT": self.origin_port,
                  "STATUS_PORT": self.status_port}
        return Server("origin", nginx_command(self, "origin.conf", self.folder, values),
                      self.origin_port, self.folder)

    def origin_requests(self):
        """Requests that the origin has had, this one among them."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self.status_port}/status"
        with opener.open(url, timeout=10) as answer:
            return int(answer.read().split()[9])

    def start(self, name, origin_port=None, pace=0, name_at=0, **more):
        """Starts a peer, or narthex, with an empty cache in a new folder. For the floor: `pace`
        is bytes a second on each connection, 0 for no limit, and `name_at` where in its ready
        answer the asked name goes. `more` is to be filled in too."""
        self.count += 1
        folder = self.folder / f"{name}-{self.count}"
        folder.mkdir()
        port, tls_port, admin_port = free_ports(3)
        values = {"FOLDER": folder, "PORT": port, "TLS_PORT": tls_port, "ADMIN_PORT": admin_port,
                  "ORIGIN_PORT": origin_port or self.origin_port, "PACE": pace,
                  "NAME_AT": name_at, **more}
        make = {"narthex": narthex_command, "narthex-scale": narthex_command,
                "before": before_command,
                "varnish": varnish_command, "squid": squid_command,
                "trafficserver": trafficserver_command, "floor": floor_command}.get(name)
        if make:
            command = make(self, folder, {"NAME": name, **values})
        else:
            command = nginx_command(self, f"{name}.conf", folder, values)
        does_tls = name in ("narthex", "before") or (name in PEERS and PEERS[name][3])
        return Server(name, command, port, folder, tls_port if does_tls else None)

    def remove(self, server):
        """Stops a server and empties its files. They are removed with everything at the end: on ext4
        whoever makes files near others that were just removed looks at each of those first, for
        minutes, so that the next server would pay for it (a file of 64 KiB 1.3 ms, else 0.2)."""
        server.stop()
        for folder, _, names in os.walk(server.folder):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    os.truncate(path, 0)


def needed(name):
    path = program(name)
    if not path:
        raise Fault(f"{name} is missing")
    return path


def give(folder, account):
    """Makes an account the owner of a folder, where the script runs as root."""
    if os.geteuid() == 0:
        for place in [folder, *folder.rglob("*")]:
            shutil.chown(place, account, account)


def nginx_command(lab, name, folder, values):
    (folder / name).write_text(lab.fill_in(name, values))
    return [needed("nginx"), "-e", folder / "start.log", "-c", folder / name]


def narthex_command(lab, folder, values):
    (folder / "narthex.toml").write_text(lab.fill_in(f"{values['NAME']}.toml", values))
    return [lab.narthex, "serve", "--config", folder / "narthex.toml"]


def before_command(lab, folder, values):
    return [lab.before, *narthex_command(lab, folder, {**values, "NAME": "narthex"})[1:]]


def varnish_command(lab, folder, values):
    (folder / "varnish.vcl").write_text(lab.fill_in("varnish.vcl", values))
    return [needed("varnishd"), "-F", "-j", "none", "-n", folder / "work", "-T", "none",
            "-a", f"127.0.0.1:{values['PORT']}", "-f", folder / "varnish.vcl",
            "-s", "malloc,3g", "-p", "thread_pools=2", "-p", "timeout_idle=600"]


def squid_command(lab, folder, values):
    (folder / "squid").mkdir()
    give(folder, "proxy")
    (folder / "squid.conf").write_text(lab.fill_in("squid.conf", values))
    return [needed("squid"), "-N", "-f", folder / "squid.conf"]


def trafficserver_command(lab, folder, values):
    account = "trafficserver" if os.geteuid() == 0 else "#-1"
    places = {name: folder / name for name in ["etc", "run", "log", "cache", "state"]}
    for place in places.values():
        place.mkdir()
    records = lab.fill_in("trafficserver-records.config", {**values, "ACCOUNT": account,
                                                           "FOLDER": lab.folder})
    texts = {
        "records.config": records,
        "remap.config": f"map / http://127.0.0.1:{values['ORIGIN_PORT']}/\n",
        "storage.config": f"{places['cache']} 4G\n",
        "ssl_multicert.config":
            f"dest_ip=* ssl_cert_name={lab.certificate} ssl_key_name={lab.key}\n",
        "ip_allow.yaml":
            "ip_allow:\n  - apply: in\n    ip_addrs: 127.0.0.1\n    action: allow\n"
            "    methods: ALL\n",
    }
    for name, text in texts.items():
        (places["etc"] / name).write_text(text)
    layout = {"prefix": "/usr", "exec_prefix": "/usr", "bindir": "/usr/bin", "sbindir": "/usr/bin",
              "libexecdir": "/usr/lib/trafficserver/modules", "datadir": "/usr/share",
              "sysconfdir": places["etc"], "localstatedir": places["state"],
              "runtimedir": places["run"], "logdir": places["log"], "cachedir": places["cache"]}
    (folder / "runroot.yaml").write_text(
        "".join(f"{key}: {value}\n" for key, value in layout.items()))
    give(folder, account)
    return [needed("traffic_server"), f"--run-root={folder / 'runroot.yaml'}"]


def floor_command(lab, folder, values):
    subprocess.run([needed("cc"), "-O2", "-pthread", "-o", folder / "floor", HERE / "floor.c"],
                   check=True)
    return [folder / "floor", values["PORT"], lab.folder / "objects" / "nar",
            lab.folder / "ready", lab.folder / "absent", values["PACE"],
            values["NAME_AT"]]


def write_ready_answers(lab, body):
    """What the floor answers: a narinfo, and an absence, heads included."""
    for name, status, text in [("ready", "200 OK", body), ("absent", "404 Not Found", b"404")]:
        kind = "text/x-nix-narinfo" if name == "ready" else "text/plain"
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n"
        (lab.folder / name).write_bytes(head.encode() + text)
