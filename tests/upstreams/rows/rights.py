"""Redirects, rights, regions, and what stands between: rows 21 to 29, 35 and 36 of the known
upstreams."""

import time

import floods
from answer import Answer, xml_error
from measure import Call, Get, Nix
from row import by_nix, info, nar, row, usual


def redirect(place, status=302):
    """A rule that sends every request for a path to another place."""
    def apply(request, answer):
        target = place(request) if callable(place) else place
        return Answer(status, b"", {"Location": target})
    return apply


@row(21)
def redirect_to_a_relative_place(world):
    """302 to a relative location, by two steps."""
    one, path = world.upstream(), world.sample.medium
    place = path.file_path()
    one.put("/files" + place, path.file())
    one.odd(place, apply=redirect(lambda request: f"../moved{place}"))
    one.odd("/moved*", apply=redirect(lambda request: f"/files{place}?x=1", 301))
    return [*usual(path), Nix([path])]


@row(21)
def redirect_to_another_port(world):
    """307 to another port of the same host."""
    one, path = world.upstream(), world.sample.medium
    other = world.upstream()
    one.odd(path.file_path(), apply=redirect(other.url + path.file_path(), 307))
    return [*usual(path), Nix([path])]


@row(21)
def redirect_to_https(world):
    """All is redirected from http to https of the same host."""
    one, path = world.upstream(), world.sample.medium
    secure = world.upstream(tls=True)
    base = secure.url.replace("localhost", "127.0.0.1")
    one.odd("*", apply=redirect(lambda request: base + request.path, 301))
    certificate = str(world.plain_certificate[0])
    world.env = {"SSL_CERT_FILE": certificate, "NIX_SSL_CERT_FILE": certificate}
    return [*usual(path), Nix([path])]


def presigned(world, **more):
    """NARs are redirected to a bucket on another host, which takes the signed method alone."""
    one, path = world.upstream(), world.sample.medium
    bucket = world.upstream(tls=True)
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=600&X-Amz-Signature=abc"
    one.odd("/nar/*", apply=redirect(lambda request: f"{bucket.url}{request.path}?{query}"))
    leaks = []

    def check(request, answer):
        if "authorization" in request.headers or request.headers.get("cookie"):
            leaks.append(request)
        if request.method != "GET" or "X-Amz-Signature" not in request.query:
            return xml_error(403, "SignatureDoesNotMatch")
        return answer

    bucket.odd("*", apply=check)
    certificate = str(world.plain_certificate[0])
    world.env = {"SSL_CERT_FILE": certificate, "NIX_SSL_CERT_FILE": certificate}
    world.site = {"follow_redirects_to": ["localhost"]} | more
    return path


# cachix/cachix#703, Mic92/niks3#459, zhaofengli/attic#46.
@row(22)
def redirect_to_presigned_urls(world):
    """302 to presigned URLs of a bucket on another host."""
    path = presigned(world)
    return [*usual(path), *by_nix(path)]


# artifact-keeper/artifact-keeper#3208, allenai/cached_path#252.
@row(22)
def head_of_a_presigned_url(world):
    """HEAD of a NAR whose URL is presigned for GET."""
    path = presigned(world)
    return [info(path), Get(path.file_path(), 200, method="HEAD"), nar(path)]


@row(23)
def bucket_denies_all(world):
    """A bucket whose policy changed: AccessDenied for every key, while a narinfo is stored."""
    one, path = world.upstream(bucket="cache"), world.sample.small
    world.site = {"lifetimes": {"narinfo": "1s", "cache_info": "1s"}}

    def deny():
        one.odd("*", apply=lambda request, answer: xml_error(403, "AccessDenied"))
        time.sleep(1.5)

    cache_info = one.objects["/nix-cache-info"][0]
    return [Get("/nix-cache-info", cache_info), info(path), info(path, before=deny),
            Get("/nix-cache-info", cache_info)]


def region_check(answer_wrong):
    """A rule of a bucket in eu-central-1; anonymous requests are let through."""
    def apply(request, answer):
        scope = request.headers.get("authorization", "/eu-central-1/")
        return answer if "/eu-central-1/" in scope else answer_wrong(request)
    return apply


def with_keys(world, one):
    world.env = {"AWS_ACCESS_KEY_ID": "AKIALAB", "AWS_SECRET_ACCESS_KEY": "lab"}
    world.origins = [{"url": world.s3_url(one)}]


@row(24)
def region_named_by_400(world):
    """A bucket in another region: 400 AuthorizationHeaderMalformed names it."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    with_keys(world, one)
    one.odd("*", apply=region_check(lambda request: xml_error(
        400, "AuthorizationHeaderMalformed", Region="eu-central-1")))
    return usual(path)


@row(24)
def region_named_by_301(world):
    """A bucket in another region: 301 PermanentRedirect names it in a field, without a place."""
    one, path = world.upstream(bucket="cache"), world.sample.medium
    with_keys(world, one)

    def moved(request):
        answer = xml_error(301, "PermanentRedirect")
        answer.headers["x-amz-bucket-region"] = "eu-central-1"
        return answer

    one.odd("*", apply=region_check(moved))
    return usual(path)


@row(25)
def one_of_two_does_not_sign(world):
    """Of two caches one signs and the other does not, which the settings say."""
    signed, other = world.upstream(publish=False), world.upstream(publish=False)
    path = world.sample.medium
    world.publish(signed, world.sample.small)
    world.publish(other, path, Sig=None)
    world.origins = [{"url": signed.url}, {"url": other.url, "signatures": "off"}]
    world.direct = [signed.url, other.url]
    return [info(world.sample.small), *usual(path)]


@row(25)
def one_of_two_is_down(world):
    """Of two caches one is down and optional: the other's absences are absences."""
    good, dead = world.upstream(), world.upstream()
    dead.stop_listening()
    world.origins = [{"url": good.url}, {"url": dead.url, "optional": True}]
    world.direct = [good.url]
    return [info(world.sample.small), Get(f"/{'0' * 32}.narinfo", None)]


@row(26)
def private_objects(world):
    """Cache-Control: private, no-store for objects that a hash proves."""
    one, path = world.upstream(), world.sample.medium
    one.odd("*", headers={"Cache-Control": "private, no-store"})
    return [info(path), info(path), nar(path), nar(path)]


@row(27)
def behind_an_http_proxy(world):
    """Reachable through an HTTP proxy alone."""
    one = world.upstream()
    world.proxy = one.url
    world.direct = ["http://cache.lab.test"]
    world.origins = [{"url": "http://cache.lab.test"}]
    world.env = {"http_proxy": one.url, "HTTP_PROXY": one.url, "NO_PROXY": ""}
    return usual(world.sample.medium)


@row(27)
def behind_a_connect_proxy(world):
    """https, reachable through CONNECT of an HTTP proxy alone."""
    one = world.upstream()
    one.tunnel_certificate = world.plain_certificate
    world.proxy = one.url
    world.direct = ["https://cache.lab.test"]
    world.origins = [{"url": "https://cache.lab.test",
                      "ca_file": str(world.plain_certificate[0])}]
    world.env = {"https_proxy": one.url, "HTTPS_PROXY": one.url, "NO_PROXY": ""}
    return usual(world.sample.medium)


@row(28)
def self_signed_authority(world):
    """A self-signed certificate (CA:TRUE) named as ca_file."""
    world.upstream(tls=world.ca_certificate)
    world.certificate = str(world.ca_certificate[0])
    world.origin = {"ca_file": world.certificate}
    return [*usual(world.sample.medium), Nix([world.sample.small])]


@row(28)
def certificates_by_environment(world):
    """The certificates to trust are named by NIX_SSL_CERT_FILE alone."""
    one = world.upstream(tls=True)
    world.origins = [{"url": one.url}]
    world.env = {"NIX_SSL_CERT_FILE": str(world.plain_certificate[0])}
    return usual(world.sample.medium)


@row(29)
def bucket_with_a_prefix(world):
    """The cache lies below a prefix of its bucket's keys."""
    one = world.upstream(bucket="cache")
    one.objects = {"/nix/main" + key: value for key, value in one.objects.items()}
    world.origins = [{"url": world.s3_url(one), "prefix": "nix/main",
                      "credentials": {"anonymous": True}}]
    world.direct_base = "/cache/nix/main"
    return usual(world.sample.medium)


@row(29)
def endpoint_below_a_path(world):
    """The endpoint of a bucket lies below a path."""
    one = world.upstream(bucket="cache")
    one.base = "/s3/api"
    world.origins = [{"url": world.s3_url(one, "/s3/api"), "credentials": {"anonymous": True}}]
    world.direct_base = "/s3/api/cache"
    return usual(world.sample.medium)


# NixOS/nix#2337: a cache in a subdirectory; attic's are always.
@row(29)
def upstream_below_a_path(world):
    """An HTTP cache below a path, as attic's are."""
    one = world.upstream()
    one.base = world.direct_base = "/team/main"
    world.origins = [{"url": one.url + "/team/main"}]
    return [*usual(world.sample.medium), Nix([world.sample.root])]


@row(29)
def clients_below_a_path(world):
    """Clients ask below /nix-channels/store, as of a mirror."""
    one = world.upstream()
    world.site = {"base_path": "/nix-channels/store"}
    one.base = world.direct_base = world.edge_base = "/nix-channels/store"
    world.origins = [{"url": one.url + "/nix-channels/store"}]
    return [*usual(world.sample.medium), Nix([world.sample.root])]


@row(35)
def flood_of_pings(world):
    """A client sends PING frames without end; nginx stands beside the edge."""
    world.upstream()
    return [Call(lambda way: floods.flood(way, floods.ping))]


@row(35)
def flood_of_settings(world):
    """A client sends SETTINGS frames without end; nginx stands beside the edge."""
    world.upstream()
    return [Call(lambda way: floods.flood(way, floods.settings))]


@row(36)
def forwarded_fields(world):
    """A generic site: the client says in four fields that it is another one."""
    one = world.upstream()
    world.site = {"kind": "generic", "trusted_public_keys": None}
    names = ["X-Forwarded-For", "X-Real-IP", "True-Client-IP", "Forwarded"]

    def echo(request, answer):
        told = [name for name in names if "192.0.2.1" in request.headers.get(name.lower(), "")]
        return Answer(200, f"believed: {told}\n".encode(), {"Cache-Control": "no-store"})

    one.odd("/echo", apply=echo)
    forged = {name: "for=192.0.2.1" if name == "Forwarded" else "192.0.2.1" for name in names}
    return [Get("/echo", b"believed: []\n", headers=forged)]
