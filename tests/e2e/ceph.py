"""A real S3 server: Ceph's RADOS gateway over one monitor and one object store daemon, all from
Debian's packages, in a temporary folder, on loopback, with one private bucket."""

import http.client
import os
import uuid
from pathlib import Path
from urllib.parse import quote

from harness import Failed, free_ports, output_of, wait_until
from sigv4 import Keys, signed_headers

PROGRAMS = ["ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"]
REGION = "us-east-1"

CONFIG = """\
[global]
fsid = {cluster}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
ms mon client mode = crc
run dir = {folder}/run
admin socket = {folder}/run/$name.sock
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
crash dir = {folder}/run
mon data = {folder}/monitor
osd data = {folder}/objects
rgw data = {folder}/gateway
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon max pg per osd = 1000
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {bytes}
osd memory target = 939524096
osd op num shards = 1
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
"""


class Ceph:
    """A running gateway with its bucket."""

    def __init__(self, folder, programs, size):
        self.folder = Path(folder)
        self.programs = programs
        self.bucket = "nix-cache"
        self.keys = Keys("E2EACCESSKEY", "e2e-secret-of-the-test", REGION)
        self.gateway = None
        self.size = size

    def start(self):
        """Starts the three daemons and makes the bucket; about ten seconds."""
        for part in ["run", "log", "monitor", "objects", "gateway"]:
            (self.folder / part).mkdir(parents=True)
        self.port, first, second = free_ports(3)
        monitor = f"[v2:127.0.0.1:{first},v1:127.0.0.1:{second}]"
        cluster = str(uuid.uuid4())
        self.config = self.folder / "ceph.conf"
        self.config.write_text(CONFIG.format(
            cluster=cluster, monitor=monitor, folder=self.folder, bytes=self.size, port=self.port))
        chosen = ["-c", self.config]
        map_file = self.folder / "monmap"
        output_of(["monmaptool", "--create", "--fsid", cluster, "--addv", "a", monitor, map_file])
        output_of(["ceph-mon", *chosen, "-i", "a", "--mkfs", "--monmap", map_file])
        self.programs.start("ceph-mon", ["ceph-mon", *chosen, "-i", "a", "-f"])
        identity = str(uuid.uuid4())
        number = output_of(["timeout", "60", "ceph", *chosen, "osd", "new", identity]).strip()
        output_of(["ceph-osd", *chosen, "-i", number, "--mkfs", "--osd-uuid", identity])
        self.programs.start("ceph-osd", ["ceph-osd", *chosen, "-i", number, "-f"])
        wait_until("the object store daemon is up", lambda: "1 up" in output_of(
            ["timeout", "60", "ceph", *chosen, "osd", "stat"]))
        output_of(["radosgw-admin", *chosen, "user", "create", "--uid", "e2e", "--display-name",
                   "e2e", "--access-key", self.keys.identity, "--secret-key", self.keys.secret])
        self.start_gateway()
        self.make_bucket(self.bucket)

    def start_gateway(self):
        self.gateway = self.programs.start(
            "radosgw", ["radosgw", "-c", self.config, "-n", "client.rgw.a", "-f"])
        wait_until("the S3 gateway answers", self.answers, 60)

    def stop_gateway(self):
        self.programs.stop(self.gateway)

    def answers(self):
        try:
            return self.request("GET", "/", b"")[0] in (200, 403)
        except OSError:
            return False

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def origin_url(self, bucket=None, extra=""):
        """The bucket as an origin URL in Nix's own form."""
        return f"s3://{bucket or self.bucket}?region={REGION}&endpoint={self.endpoint}{extra}"

    def environment(self):
        """The process environment with this server's keys."""
        return dict(os.environ, AWS_ACCESS_KEY_ID=self.keys.identity,
                    AWS_SECRET_ACCESS_KEY=self.keys.secret, AWS_EC2_METADATA_DISABLED="true")

    def request(self, method, path, body, headers=None):
        """One signed request; status and body."""
        host = f"127.0.0.1:{self.port}"
        signed = signed_headers(self.keys, method, host, path, body, headers or {})
        connection = http.client.HTTPConnection(host, timeout=120)
        try:
            connection.request(method, quote(path), body=body, headers=signed)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def make_bucket(self, name):
        status, body = self.request("PUT", f"/{name}", b"")
        if status != 200:
            raise Failed(f"cannot make the bucket {name}: {status} {body!r}")

    def put(self, key, body, content_type, bucket=None):
        """Stores one object; `key` is the decoded name."""
        path = f"/{bucket or self.bucket}/{key}"
        status, answer = self.request("PUT", path, body, {"content-type": content_type})
        if status != 200:
            raise Failed(f"cannot store {path}: {status} {answer!r}")

    def upload(self, cache):
        """Stores every file of a cache folder, narinfos last; returns their number."""
        files = [path for path in Path(cache).rglob("*") if path.is_file()]
        files.sort(key=lambda path: (path.suffix == ".narinfo", str(path)))
        for path in files:
            key = str(path.relative_to(cache))
            self.put(key, path.read_bytes(), content_type_of(key))
        return len(files)


def content_type_of(key):
    """The content type with which Nix itself uploads an object of that name."""
    if key.endswith(".narinfo"):
        return "text/x-nix-narinfo"
    if key.startswith("nar/"):
        return "application/x-nix-nar"
    if key.startswith("log/"):
        return "text/plain; charset=utf-8"
    if key == "nix-cache-info":
        return "text/x-nix-cache-info"
    return "application/json"
