"""A row of the lab: a function that scripts an upstream and returns the steps of a client. It is
called once for each way, so that no state is shared between them."""

import threading
from dataclasses import dataclass, field

from measure import Get, Nix
from upstream import Upstream

ROWS = []
CACHE_INFO = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"
PORTS = iter(range(20000, 31000))
PORTS_LOCK = threading.Lock()


@dataclass
class Row:
    script: object
    number: int | None
    patience: float
    slow: bool

    @property
    def name(self):
        return self.script.__name__.replace("_", "-")

    @property
    def text(self):
        return self.script.__doc__.strip().splitlines()[0]


def row(number=None, patience=25, slow=False):
    """Makes a row of a function. `number` is its row in the table of known upstreams; a slow
    row begins first."""
    def add(script):
        ROWS.append(Row(script, number, patience, slow))
        return script
    return add


@dataclass
class World:
    """What one way of one row runs in: the upstreams, and the settings of the edge."""

    sample: object
    plain_certificate: tuple
    ca_certificate: tuple
    ports: list = field(default_factory=list)
    upstreams: list = field(default_factory=list)
    # settings of the edge: of the site, of each origin (URLs are added in order)
    site: dict = field(default_factory=dict)
    origin: dict = field(default_factory=dict)
    origins: list | None = None
    env: dict = field(default_factory=dict)
    # what clients have between host and path: directly, and of the edge
    direct_base: str = ""
    edge_base: str = ""
    # what the client asks directly, if not the first upstream
    direct: list | None = None
    proxy: str | None = None
    # the certificate that clients trust; the public keys that the edge trusts
    certificate: str = ""
    keys: list | None = None
    # whether this is the way through the edge
    is_edge: bool = False

    def upstream(self, tls=False, h2=False, bucket=None, publish=True):
        """A new upstream, with the sample cache on it. `tls` may be a certificate and key."""
        pair = tls if isinstance(tls, tuple) else self.plain_certificate
        one = Upstream(pair if tls or h2 else None, h2, bucket)
        self.upstreams.append(one)
        one.put("/nix-cache-info", CACHE_INFO, "text/x-nix-cache-info")
        if publish:
            for path in self.sample.paths.values():
                self.publish(one, path)
        if bucket:
            self.direct_base = f"/{bucket}"
        return one

    def publish(self, upstream, path, coding="xz", url=None, body=None, headers=None, **changes):
        """The narinfo of a path, and its NAR in that compression."""
        place = "/" + (url or path.file_path(coding)[1:])
        upstream.put(path.narinfo_path, path.narinfo(coding, url, **changes),
                     "text/x-nix-narinfo")
        upstream.put(place.partition("?")[0], path.file(coding) if body is None else body,
                     "application/x-nix-nar", **(headers or {}))
        return place

    def attic(self, upstream, path, coding="zstd", **more):
        """As attic has it: the NAR by the hash of its path, and no FileHash."""
        return self.publish(upstream, path, coding, f"nar/{path.hash}.nar", FileHash=None,
                            FileSize=None, **more)

    def origin_settings(self):
        if self.origins is not None:
            return self.origins
        settings = []
        for one in self.upstreams[:1]:
            if one.bucket:
                url, extra = self.s3_url(one), {"credentials": {"anonymous": True}}
            else:
                url, extra = one.url, {}
            if one.context:
                extra = extra | {"ca_file": str(self.plain_certificate[0])}
            settings.append({"url": url} | extra | self.origin)
        return settings

    def s3_url(self, one, path=""):
        return (f"s3://{one.bucket}?endpoint=http://127.0.0.1:{one.port}{path}"
                "&region=us-east-1")

    def count(self):
        return sum(len(one.asked) for one in self.upstreams)

    def close(self):
        for one in self.upstreams:
            one.close()


def nar(path, coding="xz", place=None, **more):
    """A request for the NAR of a path."""
    return Get(place or path.file_path(coding), path.file(coding), **more)


def info(path, **more):
    """A request for the narinfo of a path."""
    return Get(path.narinfo_path, path.narinfo(), **more)


def usual(path, coding="xz", place=None):
    """The narinfo, the NAR, and the NAR once more."""
    return [info(path), nar(path, coding, place), nar(path, coding, place)]


def by_nix(*paths, how="realise"):
    """Two clients, one after the other."""
    return [Nix(list(paths), how), Nix(list(paths), how)]


def next_ports(count):
    """Ports below those that the kernel gives to connections."""
    import socket
    found = []
    with PORTS_LOCK:
        while len(found) < count:
            port = next(PORTS)
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            found.append(port)
    return found
