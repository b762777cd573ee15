"""What people met with buckets: S3, Ceph, MinIO, Garage, R2, B2, GCS. Each row names the report."""

import datetime
import email.utils
import gzip
import time

from answer import Answer, ranged, xml_error
from measure import Get, Nix
from row import by_nix, info, nar, row, usual
from rows.rights import redirect, with_keys


# rclone/rclone#555, Mic92/niks3#212
@row()
def slow_down_twice(world):
    """503 SlowDown for the first two requests of each key, as B2 and S3 send it."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    for place in [path.narinfo_path, path.file_path()]:
        one.odd("/cache" + place, times=2, apply=lambda *_: xml_error(503, "SlowDown"))
    return usual(path)


# Mic92/niks3#212
@row()
def too_many_requests_once(world):
    """429 with Retry-After: 1 for the first request of each path."""
    one, path = world.upstream(), world.sample.medium
    for place in [path.narinfo_path, path.file_path()]:
        one.odd(place, times=1, status=429, body=b"too many requests", ranges=False,
                headers={"Retry-After": "1"})
    return usual(path)


# skoobe/riofs#17, aws/aws-sdk-cpp#558
@row()
def internal_error_once(world):
    """500 InternalError once for each key."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    for place in [path.narinfo_path, path.file_path()]:
        one.odd("/cache" + place, times=1, apply=lambda *_: xml_error(500, "InternalError"))
    return usual(path)


# apache/arrow-rs#6508, boto/botocore#342
@row()
def error_with_status_200(world):
    """200 with an error in XML, once for each key."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    for place in [path.narinfo_path, path.file_path()]:
        one.odd("/cache" + place, times=1, apply=lambda *_: xml_error(200, "InternalError"))
    again = lambda: time.sleep(1.2)
    return [info(path), info(path, before=again), nar(path), nar(path, before=again)]


# NixOS/nix#1655, NixOS/nix#4352: 403 for absent keys of a bucket that may not be listed
@row()
def denied_if_absent(world):
    """AccessDenied for absent keys."""
    one = world.upstream(bucket="cache")
    one.missing = lambda request: xml_error(403, "AccessDenied")
    absent = f"/{'0' * 32}.narinfo"
    return [Get(absent, None), info(world.sample.small), Get(absent, None),
            Nix([world.sample.root])]


# NixOS/nix#4445: refused for a moment, and remembered as absent
@row()
def refused_for_a_moment(world):
    """401 for a moment: an absence for some clients, and a fault of the upstream."""
    one, path = world.upstream(), world.sample.small
    one.odd("*.narinfo", times=2, status=401, body=b"no", ranges=False)
    return [info(path), info(path), info(path, before=lambda: time.sleep(2))]


# The same of a bucket that is gone: Ceph and MinIO answer 404 for both.
@row()
def bucket_is_gone(world):
    """404 NoSuchBucket for a key that the bucket had."""
    one, path = world.upstream(bucket="cache"), world.sample.small
    one.odd("*", times=2, apply=lambda *_: xml_error(404, "NoSuchBucket"))
    return [info(path), info(path), info(path, before=lambda: time.sleep(2))]


# aws/aws-sdk-js#399, ex-aws/ex_aws#159
@row()
def clock_of_the_bucket(world):
    """The bucket's clock is two hours ahead: RequestTimeTooSkewed."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    with_keys(world, one)
    ahead = datetime.timedelta(hours=2)

    def check(request, answer):
        now = datetime.datetime.now(datetime.timezone.utc) + ahead
        answer.headers = answer.headers | {"Date": email.utils.format_datetime(now, True)}
        stamp = request.headers.get("x-amz-date")
        if not stamp:
            return answer
        sent = datetime.datetime.strptime(stamp + "+0000", "%Y%m%dT%H%M%SZ%z")
        if abs((now - sent).total_seconds()) < 900:
            return answer
        error = xml_error(403, "RequestTimeTooSkewed",
                          ServerTime=now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        error.headers |= {"Date": email.utils.format_datetime(now, True)}
        return error

    one.odd("*", apply=check)
    return usual(path)


# NixOS/nix#15019: GCS changes Accept-Encoding, so it must not be signed
@row()
def accept_encoding_is_changed(world):
    """Accept-Encoding is changed on the way: a signature over it is refused."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    with_keys(world, one)

    def check(request, answer):
        signed = request.headers.get("authorization", "")
        return xml_error(403, "SignatureDoesNotMatch") if "accept-encoding" in signed else answer

    one.odd("*", apply=check)
    return usual(path)


# mozilla/sccache#265, aws/aws-sdk-ruby#133, rusoto/rusoto#63
@row()
def temporary_redirect(world):
    """307 TemporaryRedirect of a new bucket, to another endpoint of the same host."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    other = world.upstream(bucket="cache")
    one.odd("*", apply=redirect(lambda request: other.url + request.path, 307))
    return usual(path)


# apache/arrow-rs-object-store#774, #782: GCS transcoding
@row()
def transcoded_without_length(world):
    """As GCS: chunked, without length or entity tag; gzip for clients that take it."""
    one, path = world.upstream(), world.sample.small

    def transcode(request, answer):
        text = path.narinfo()
        answer.headers = answer.headers | {"ETag": None, "x-goog-stored-content-length": "300",
                                           "Accept-Ranges": None, "Vary": "Accept-Encoding"}
        is_coded = "gzip" in request.headers.get("accept-encoding", "")
        if is_coded:
            answer.headers["Content-Encoding"] = "gzip"
        answer.body = gzip.compress(text) if is_coded else text
        return answer

    one.odd(path.narinfo_path, apply=transcode, framing="chunked", ranges=False)
    return [info(path), info(path, accepts=False), Nix([path]), info(path)]


# rclone/rclone#8137
@row()
def head_without_length(world):
    """As R2: HEAD has no length if gzip is accepted."""
    one, path = world.upstream(), world.sample.medium
    one.odd("*", methods="HEAD", framing="chunked", headers={"Vary": "Accept-Encoding"})
    return [Get(path.file_path(), 200, method="HEAD"), *usual(path)]


# rustfs/rustfs#2786
@row()
def head_is_not_allowed(world):
    """HEAD is answered 405, GET is fine."""
    one, path = world.upstream(), world.sample.medium
    one.odd("*", methods="HEAD", status=405, body=b"", ranges=False)
    return [Get(path.narinfo_path, 200, method="HEAD"), info(path), nar(path),
            *by_nix(path, how="copy")]


# rustfs/rustfs#1857, versity/versitygw#2398, noobaa/noobaa-core#9138
@row()
def encoding_aws_chunked(world):
    """Content-Encoding: aws-chunked on objects whose bytes are whole."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    one.odd("*", headers={"Content-Encoding": "aws-chunked"})
    return [info(path, accepts=False), nar(path, accepts=False), info(path), nar(path),
            Nix([path])]


# brendanhay/amazonka#681, aws/aws-sdk#498
@row()
def encoding_without_a_value(world):
    """Content-Encoding with an empty value."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    one.odd("*", headers={"Content-Encoding": ""})
    return [*usual(path), Nix([path])]


# NixOS/hydra#871, dnbert/prm#46
@row()
def plus_in_a_key(world):
    """S3 takes a plus sign in a path for a space."""
    one = world.upstream(bucket="cache")
    text = b"built\n"
    place = "/log/z3mh2s1s1jh2krb1n1qx5ilmdw34f564-gtk+-2.24.32.drv"
    one.put(place, text, "text/plain")

    def plus(request, answer):
        is_plain = "+" in request.target
        return xml_error(404, "NoSuchKey") if is_plain else answer

    one.odd("/cache/log/*", apply=plus)
    return [Get(place.replace("+", "%2B"), text), Get(place, text)]


# minio/minio#14868, minio/minio#19649: an object whose end cannot be read
@row(patience=70, slow=True)
def end_that_cannot_be_read(world):
    """Each answer, also to a range, ends before the last 100,000 bytes."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    whole = len(path.file())

    def short(request, answer):
        answer.cut_at = max(0, len(answer.body) - 100_000)
        return answer

    one.odd("/cache" + path.file_path(), ranges=False,
            apply=lambda request, answer: short(request, ranged_by(request, answer, whole)))
    return [info(path), nar(path)]


def ranged_by(request, answer, whole):
    answer.ranges = True
    answer = ranged(request, answer)
    answer.ranges = False
    return answer


# ceph/ceph#22231, versity/versitygw#2052
@row()
def refused_range(world):
    """Ceph answers a range that it cannot satisfy with 416, and others with the whole."""
    world.upstream(bucket="cache")
    path = world.sample.medium
    total = len(path.file())
    beyond = Get(path.file_path(), 416, headers={"Range": f"bytes={total}-"}, accepts=False)
    last = Get(path.file_path(), path.file()[-100:], accepts=False,
               headers={"Range": f"bytes={total - 100}-"})
    return [info(path), last, beyond, nar(path)]


# cachix/cachix#271, tuna/tunasync-scripts#136, ustclug/discussions#536
@row()
def redirect_to_nothing(world):
    """A NAR is redirected to a bucket which no longer has it."""
    one, path = world.upstream(), world.sample.medium
    bucket = world.upstream(bucket="gone", publish=False)
    one.odd(path.file_path(), apply=redirect(f"{bucket.url}/gone{path.file_path()}"))
    world.direct_base = ""
    world.site = {"follow_redirects_to": ["127.0.0.1"]}
    return [info(path), Get(path.file_path(), None), info(world.sample.small)]


# aws-amplify/aws-sdk-ios#254
@row()
def redirect_in_a_circle(world):
    """302 to itself without end, for one NAR."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.file_path(), apply=redirect(one.url + path.file_path()))
    return [info(path), Get(path.file_path(), path.file()), info(world.sample.small)]


def unavailable(*_):
    return Answer(503, b"<html>starting</html>", {"Content-Type": "text/html"})


# kalbasit/ncps#255: an upstream that is away while it restarts
@row(slow=True)
def away_for_five_seconds(world):
    """503 for five seconds from the first request, then right; Nix asks."""
    one, path = world.upstream(), world.sample.medium
    began = []

    def away(request, answer):
        began.append(time.monotonic())
        return unavailable() if time.monotonic() < began[0] + 5 else answer

    one.odd("/nar/*", apply=away, ranges=False)
    return [info(path), Nix([path]), nar(path)]
