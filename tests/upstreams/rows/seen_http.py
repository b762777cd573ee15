"""What people met in front of HTTP servers and behind proxies. Each row names the report."""

import gzip
import time

from answer import Answer
from measure import Get, Many, Nix
from row import by_nix, info, nar, row, usual
from rows.http2_rows import crowd


def raw(head, body):
    """A rule of verbatim bytes, after which the connection ends."""
    return {"raw": head.replace("\n", "\r\n").encode("latin-1") + b"\r\n" + body}


# manic-systems/ncro#85
@row()
def body_behind_head(world):
    """nix-serve sends the body of a HEAD, and so spoils the connection for the next request."""
    one, path = world.upstream(), world.sample.small
    one.odd("*", head_body=True)
    return [Get(path.narinfo_path, 200, method="HEAD"), *usual(path)]


# nix-community/harmonia#578
@row()
def content_encoding_identity(world):
    """Content-Encoding: identity on NARs."""
    one = world.upstream()
    one.odd("/nar/*", headers={"Content-Encoding": "identity"})
    return [*usual(world.sample.medium), *by_nix(world.sample.medium)]


def as_200(request, answer):
    """A range is answered 200 with the part alone."""
    if answer.status == 200 and "range" in request.headers and "cut" not in request.headers:
        start = int(request.headers["range"][6:].partition("-")[0])
        total = len(answer.body)
        answer.headers = answer.headers | {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        answer.body = answer.body[start:]
    return answer


# nix-community/harmonia#1139, StarryReverie/selector4nix#150, treeverse/lakeFS#6100
@row()
def part_with_status_200(world):
    """The first answer breaks off; the rest comes with status 200."""
    one, path = world.upstream(), world.sample.large
    one.odd(path.file_path(), times=1, cut_at=2_000_000)
    one.odd(path.file_path(), ranges=False, apply=as_200)
    return [info(path), nar(path), nar(path)]


# NixOS/infra#1106
@row()
def resumed_with_416(world):
    """The first answer breaks off; the range for the rest is answered 416."""
    one, path = world.upstream(), world.sample.large
    one.odd(path.file_path(), times=1, cut_at=2_000_000)

    def refuse(request, answer):
        return Answer(416, b"", {"Content-Range": "bytes */0"}) \
            if "range" in request.headers else answer

    one.odd(path.file_path(), apply=refuse, ranges=False)
    return [info(path), Nix([path]), nar(path)]


# erickutcher/httpdownloader#242: python -m http.server
@row()
def without_ranges(world):
    """No ranges; the first answer breaks off."""
    one, path = world.upstream(), world.sample.large
    one.odd(path.file_path(), times=1, cut_at=2_000_000)
    one.odd(path.file_path(), ranges=False, headers={"Accept-Ranges": None, "ETag": None})
    return [info(path), Nix([path]), nar(path)]


# 781flyingdutchman/background_downloader#541
@row()
def entity_tags_that_differ(world):
    """Each backend has its own entity tag; the first answer breaks off."""
    one, path = world.upstream(), world.sample.large
    one.odd(path.file_path(), times=1, cut_at=2_000_000)
    tags = iter(f'"{number}"' for number in range(10_000))

    def tag(request, answer):
        answer.headers = answer.headers | {"ETag": next(tags)}

    one.odd(path.file_path(), apply=tag)
    return [info(path), nar(path), nar(path)]


# BitMiracle-AI/Dormice#86, chimera-nas/chimera#475
@row()
def replaced_in_mid_download(world):
    """The object is replaced while it is read, and If-Range is ignored."""
    one, path = world.upstream(), world.sample.large
    place = world.publish(one, path, "zstd", f"nar/{path.nar_hash}.nar.zst")
    one.odd(place, times=1, cut_at=2_000_000)
    other = path.file("zstd")[:1_000_000] + bytes(4_000_000)
    asked = []

    def replace(request, answer):
        request.headers.pop("if-range", None)
        asked.append(request)
        if len(asked) > 1:
            answer.body = other

    one.odd(place, apply=replace)
    return [info(path), nar(path, "zstd", place)]


# xroche/httrack#428
@row()
def range_that_begins_before(world):
    """A range is answered from the 64 KiB block that it lies in."""
    one, path = world.upstream(), world.sample.large
    one.odd(path.file_path(), times=1, cut_at=2_000_001)

    def align(request, answer):
        wanted = request.headers.get("range")
        if wanted:
            start = int(wanted[6:].partition("-")[0]) // 65536 * 65536
            request.headers["range"] = f"bytes={start}-"
            request.headers.pop("if-range", None)

    one.odd(path.file_path(), apply=align)
    return [info(path), nar(path), nar(path)]


# h2o/h2o#281, sozu-proxy/sozu#1442
@row()
def closed_without_a_word(world):
    """The connection ends after each answer, without Connection: close; 100 narinfos."""
    one = world.upstream()
    pairs = crowd(world, one, 100)
    one.requests_max = 1
    return [Many(pairs), Many(pairs[:20])]


# caddyserver/caddy#6452
@row()
def reset_while_idle(world):
    """Idle connections are gone when the next request needs one."""
    one, path = world.upstream(), world.sample.medium

    def cut():
        one.stop_connections()
        time.sleep(0.2)

    return [info(path), nar(path, before=cut), info(world.sample.small, before=cut)]


# golang/go#36026
@row(slow=True)
def silent_while_idle(world):
    """Idle connections are silent, without an end, when the next request uses one."""
    one, path = world.upstream(), world.sample.medium
    return [info(path), nar(path, before=one.silence), info(world.sample.small)]


# kubernetes/ingress-nginx#11244
@row()
def closed_before_the_head_once(world):
    """The first request of each path is closed without an answer."""
    one, path = world.upstream(), world.sample.medium
    for place in [path.narinfo_path, path.file_path()]:
        one.odd(place, times=1, raw=b"")
    return [info(path), nar(path), Nix([path])]


# edolstra/nix-serve#55: "Transferred a partial file"
@row()
def partial_twice(world):
    """The first two answers end before their length, without ranges."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), times=2, cut_at=300_000)
    one.odd(path.file_path(), ranges=False)
    return [info(path), Nix([path]), nar(path)]


# varnishcache/varnish-cache#1729, nginx/nginx#1228
@row()
def length_and_chunks(world):
    """Content-Length and Transfer-Encoding: chunked in one head."""
    one, path = world.upstream(), world.sample.medium
    one.odd("*", framing="chunked", apply=lambda request, answer: with_length(answer))
    return usual(path)


def with_length(answer):
    answer.headers = answer.headers | {"Content-Length": str(len(answer.body))}


# nginx/nginx#304, kubernetes/ingress-nginx#11162
@row()
def chunked_twice(world):
    """The field Transfer-Encoding: chunked stands there twice."""
    one, path = world.upstream(), world.sample.medium
    body = path.file()
    head = ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nConnection: close\n"
            "Transfer-Encoding: chunked\n")
    one.odd(path.file_path(), **raw(head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)))
    return usual(path)


# Clinical-Genomics/scout#3584, MarSeventh/CloudFlare-ImgBed#549
@row()
def length_twice(world):
    """Two equal fields Content-Length."""
    one, path = world.upstream(), world.sample.medium
    length = str(len(path.file()))
    one.odd(path.file_path(), headers={"Content-Length": [length, length]}, ranges=False)
    return usual(path)


# varnishcache/varnish-cache#909
@row()
def misspelt_transfer_encoding(world):
    """Transfer-Enconding: chunked: the chunks arrive as the body."""
    one, path = world.upstream(), world.sample.medium
    body = path.file()
    head = "HTTP/1.1 200 OK\nTransfer-Enconding: chunked\nConnection: close\n"
    one.odd(path.file_path(), **raw(head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)))
    return usual(path)


# amphp/http-server#93, vislee/leevis.com#166
@row()
def invalid_chunks(world):
    """A chunk's size is no number, in the middle of the first answer."""
    one, path = world.upstream(), world.sample.medium
    head = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n"
    body = b"%x\r\n%s\r\nzz\r\n" % (300_000, path.file()[:300_000])
    one.odd(path.file_path(), times=1, **raw(head, body))
    return [info(path), nar(path), nar(path)]


# NixOS/nix#4533
@row()
def truncated_without_length(world):
    """No length, and the connection ends early: the end looks clean."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), times=1, framing="close", body=path.file()[:400_000],
            ranges=False)
    return [info(path), nar(path), Nix([path])]


# lalinsky/dusty#159
@row()
def interim_answers(world):
    """100 and 103 before each answer, over HTTP/1.1."""
    one = world.upstream()
    hint = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    one.odd("*", before=hint)
    return [*usual(world.sample.medium), Nix([world.sample.small])]


# pottava/aws-s3-proxy#20
@row()
def length_of_the_uncoded_body(world):
    """gzip for a client that takes it, with the length of the body before the coding."""
    one, path = world.upstream(), world.sample.small
    text = path.narinfo()

    def coded(request, answer):
        if "gzip" in request.headers.get("accept-encoding", ""):
            answer.headers = answer.headers | {"Content-Encoding": "gzip"}
            answer.body, answer.length = gzip.compress(text), len(text)
            answer.cut_at = len(answer.body)
        return answer

    one.odd(path.narinfo_path, apply=coded)
    return [info(path), info(path, accepts=False)]


# varnishcache/varnish-cache#2903
@row()
def gzip_that_is_none(world):
    """Content-Encoding: gzip on a body that is not coded."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), headers={"Content-Encoding": "gzip"})
    return [info(path), nar(path, accepts=False), nar(path)]


# nginx/nginx#1585
@row()
def head_of_70_kb(world):
    """A head of 70 KB in ten fields."""
    one = world.upstream()
    one.odd("*", headers={f"X-Policy-{number}": "a" * 7000 for number in range(10)})
    return usual(world.sample.medium)


# cloudflare/cloudflare-docs#17623: a CDN's own fields come on top of those of the origin
@row()
def hundred_and_fifty_fields(world):
    """150 fields in each head."""
    one = world.upstream()
    one.odd("*", headers={f"X-Field-{number}": "a" for number in range(150)})
    return usual(world.sample.medium)


# hyperium/hyper#2083
@row()
def field_that_is_not_ascii(world):
    """A field with bytes of UTF-8, as in a file's name."""
    one = world.upstream()
    name = 'attachment; filename="\u00e4\u00f6.nar"'.encode().decode("latin-1")
    one.odd("*", headers={"Content-Disposition": name})
    return usual(world.sample.medium)


# seanmonstar/httparse#29, hyperium/hyper#1587
@row()
def no_reason_phrase(world):
    """HTTP/1.1 200 without a reason, not even a space; a field without a value."""
    one, path = world.upstream(), world.sample.medium
    body = path.file()
    head = f"HTTP/1.1 200\nServer:\nContent-Length: {len(body)}\n"
    one.odd(path.file_path(), **raw(head, body))
    return usual(path)


# httprb/http#674
@row()
def field_without_colon(world):
    """A line of the head has no colon."""
    one, path = world.upstream(), world.sample.medium
    body = path.file()
    head = f"HTTP/1.1 200 OK\nContent-Length: {len(body)}\nver\n"
    one.odd(path.file_path(), **raw(head, body))
    return usual(path)


# hyperium/hyper#594
@row()
def bare_line_feeds(world):
    """The lines of the head end with LF alone."""
    one, path = world.upstream(), world.sample.medium
    body = path.file()
    head = f"HTTP/1.1 200 OK\nContent-Length: {len(body)}\nConnection: close\n\n"
    one.odd(path.file_path(), raw=head.encode() + body)
    return usual(path)


# NixOS/nix#13857: python -m http.server
@row()
def answers_of_http_1_0(world):
    """HTTP/1.0 with a length, and the connection ends."""
    one = world.upstream()

    def old(request, answer):
        body = b"" if request.method == "HEAD" else answer.body
        head = (f"HTTP/1.0 {answer.status} OK\r\nServer: SimpleHTTP/0.6\r\n"
                f"Content-Length: {len(answer.body)}\r\n\r\n")
        answer.raw = head.encode() + body
        return answer

    one.odd("*", apply=old, ranges=False)
    return [*usual(world.sample.medium), Nix([world.sample.root])]


# lancachenet/monolithic#201
@row()
def cookies_on_everything(world):
    """Set-Cookie in each answer, as of a CDN."""
    one = world.upstream()
    one.odd("*", headers={"Set-Cookie": "__cf_bm=abc; path=/; HttpOnly"})
    return [info(world.sample.medium), *usual(world.sample.medium)]


# NixOS/infra#727: objects without lifetimes, or with short ones
@row()
def lifetimes_of_zero(world):
    """Expires in the past and max-age=0 on everything."""
    one = world.upstream()
    one.odd("*", headers={"Expires": "Thu, 01 Jan 1970 00:00:00 GMT",
                          "Cache-Control": "max-age=0, must-revalidate"})
    return [info(world.sample.medium), *usual(world.sample.medium)]


# varnishcache/varnish-cache#1761
@row()
def no_content(world):
    """204 in place of a narinfo that exists: the first answer of each."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.narinfo_path, times=1, status=204)
    return [info(path), info(path, before=lambda: time.sleep(1.2)), nar(path)]


# NixOS/infra#57: slow and stalling transfers
@row(patience=40, slow=True)
def slow_line(world):
    """5 MB over a line of 1 MB/s, with ranges."""
    one, path = world.upstream(), world.sample.large
    one.odd(path.file_path(), pieces=20_000, gap=0.02)
    return usual(path)
