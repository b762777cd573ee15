"""What a scripted upstream answers, and the rules that change it: an oddity is a rule of one line.
Both protocols (`upstream` and `http2`) send the same answers."""

import base64
import email.utils
import fnmatch
import hashlib
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

# When the objects were made.
MADE = "Sun, 01 Nov 2026 12:00:00 GMT"


@dataclass
class Request:
    """One request as it came; `headers` have names in lower case."""

    method: str
    target: str
    headers: dict
    version: str = "1.1"
    # the how-manieth request of its connection, from 1
    number: int = 1
    # the how-manieth connection of its upstream, from 1
    connection: int = 1

    @property
    def path(self):
        target = self.target
        if "://" in target:
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        return urllib.parse.unquote(target.partition("?")[0])

    @property
    def query(self):
        return self.target.partition("?")[2]


@dataclass
class Answer:
    """A response and how its bytes arrive. Times in seconds."""

    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    # "length", "chunked", "close" (ended by the end of the connection)
    framing: str = "length"
    # bytes in each write (0: all at once), and the gap between two writes
    pieces: int = 0
    gap: float = 0
    # before the first byte of the head; between head and body
    delay: float = 0
    body_delay: float = 0
    # a pause after so many bytes of the body
    pause_at: int = 0
    pause: float = 0
    # the body stops after so many bytes: "fin", "rst" or "hang"; over HTTP/2 a reset of the
    # stream with `cut_code`
    cut_at: int | None = None
    cut: str = "fin"
    cut_code: int = 2
    # whether `Range` counts
    ranges: bool = True
    # written verbatim in place of head and body; then the connection ends
    raw: bytes | None = None
    # written verbatim before the head (interim answers)
    before: bytes = b""
    # announced in place of the length
    length: int | None = None
    # whether HEAD is sent the body too
    head_body: bool = False
    # the last chunk's trailer fields
    trailers: dict = field(default_factory=dict)
    # "open", "close" (announced) or "silent" (not announced)
    after: str = "open"
    # HTTP/2: padding of each DATA frame, and what to do before the answer
    padding: int = 0
    act: object = None


@dataclass
class Rule:
    """Changes the answers of the paths that match; the first `times` of them, or each."""

    pattern: str
    changes: dict
    times: int | None
    methods: str
    apply: object
    hits: int = 0

    def matches(self, request):
        if self.times is not None and self.hits >= self.times:
            return False
        is_method = request.method in self.methods.split()
        return is_method and fnmatch.fnmatchcase(request.path, self.pattern)


class Store:
    """The objects of an upstream, the rules on them, and what was asked."""

    def __init__(self, bucket=None):
        self.objects = {}
        self.rules = []
        self.asked = []
        self.lock = threading.Lock()
        # the name of the bucket if this is an S3 server, whose paths begin with it
        self.bucket = bucket
        # what all paths begin with
        self.base = ""
        self.latency = 0
        self.last_modified = MADE

    def put(self, path, body, content_type="application/octet-stream", **headers):
        self.objects[path] = (body, {"Content-Type": content_type} | headers)

    def odd(self, pattern, times=None, methods="GET HEAD", apply=None, **changes):
        """From now on answers for `pattern` have these fields of `Answer`. `apply` is called
        with request and answer, and may return another answer."""
        rule = Rule(pattern, changes, times, methods, apply)
        self.rules.append(rule)
        return rule

    def answer(self, request):
        """What the rules make of what is stored."""
        with self.lock:
            self.asked.append((time.monotonic(), request))
            rules = [rule for rule in self.rules if rule.matches(request)]
            for rule in rules:
                rule.hits += 1
        answer = self.stored(request)
        answer.delay = self.latency
        for rule in rules:
            for name, value in rule.changes.items():
                if name == "headers":
                    answer.headers = answer.headers | value
                else:
                    setattr(answer, name, value)
            if rule.apply:
                answer = rule.apply(request, answer) or answer
        return ranged(request, answer)

    def key_of(self, request):
        path = request.path
        if not path.startswith(self.base):
            return None
        path = path[len(self.base):]
        if self.bucket and path.startswith(f"/{self.bucket}/"):
            return path[len(self.bucket) + 1:]
        return None if self.bucket else path

    def stored(self, request):
        found = self.objects.get(self.key_of(request))
        if found is None:
            return self.missing(request)
        body, headers = found
        tag = base64.b16encode(hashlib.md5(body).digest()).decode().lower()
        usual = {"Date": now(), "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if self.last_modified:
            usual["Last-Modified"] = self.last_modified
        if self.bucket:
            usual["x-amz-request-id"] = "0123456789ABCDEF"
        return Answer(body=body, headers=usual | headers)

    def missing(self, request):
        if self.bucket:
            return xml_error(404, "NoSuchKey")
        return Answer(404, b"404\n", {"Content-Type": "text/plain", "Date": now()})


def now():
    return email.utils.formatdate(usegmt=True)


def xml_error(status, code, **fields):
    """An error as S3 servers send it."""
    more = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    text = (f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
            f"<Message>said by the lab</Message>{more}<RequestId>0123</RequestId></Error>")
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


def ranged(request, answer):
    """The part that `Range` asks for, as nginx answers it; 304 if the entity tag is known."""
    tag = answer.headers.get("ETag")
    if answer.status == 200 and tag and request.headers.get("if-none-match") == tag:
        answer.status, answer.body = 304, b""
        return answer
    wanted = request.headers.get("range", "")
    if not (answer.ranges and answer.status == 200 and wanted.startswith("bytes=")):
        return answer
    if request.headers.get("if-range", tag) != tag:
        return answer
    first, _, last = wanted[6:].partition("-")
    if "," in wanted or not first.isdigit():
        return answer
    total, start = len(answer.body), int(first)
    end = min(int(last), total - 1) if last.isdigit() else total - 1
    if start >= total or end < start:
        answer.status, answer.body = 416, b""
        answer.headers = answer.headers | {"Content-Range": f"bytes */{total}"}
        return answer
    answer.status, answer.body = 206, answer.body[start:end + 1]
    answer.headers = answer.headers | {"Content-Range": f"bytes {start}-{end}/{total}"}
    return answer
