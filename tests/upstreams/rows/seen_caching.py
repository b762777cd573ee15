"""What people met with lifetimes, dates, validators and second origins. Each row names the
report."""

import email.utils
import time

from answer import xml_error
from measure import Get, Nix
from row import info, nar, row, usual


def clock(world, hours):
    """An upstream whose clock is wrong by so many hours."""
    one = world.upstream()
    world.site = {"lifetimes": {"narinfo": "1h"}}

    def shift(request, answer):
        date = email.utils.formatdate(time.time() + hours * 3600, usegmt=True)
        answer.headers = answer.headers | {"Date": date}

    one.odd("*", apply=shift)
    path = world.sample.medium
    return [info(path), *usual(path)]


# tempesta-tech/tempesta#1706, mnot/redbot#16
@row()
def clock_behind_by_a_day(world):
    """The upstream's clock is a day behind."""
    return clock(world, -24)


# mnot/redbot#203
@row()
def clock_ahead_by_a_day(world):
    """The upstream's clock is a day ahead."""
    return clock(world, 24)


# aws/aws-sdk-go-v2#3409
@row()
def aged_by_a_cache_before(world):
    """Age: 100000 and Via of a cache between."""
    one = world.upstream()
    one.odd("*", headers={"Age": "100000", "Via": "1.1 varnish", "X-Cache": "HIT"})
    return [info(world.sample.medium), *usual(world.sample.medium)]


# geolens-io/geolens#1605, rclone/rclone#8137
@row()
def vary_on_everything(world):
    """Vary: Origin, Accept-Encoding on everything."""
    one, path = world.upstream(), world.sample.medium
    one.odd("*", headers={"Vary": "Origin, Accept-Encoding"})
    return [info(path), nar(path), nar(path, headers={"Origin": "https://a.test"}), Nix([path])]


# FRiCKLE/ngx_cache_purge#16, http-tests/cache-tests#54: answers that vary without end
@row()
def vary_by_all(world):
    """Vary: * on everything."""
    one = world.upstream()
    one.odd("*", headers={"Vary": "*"})
    return usual(world.sample.medium)


# cachix/cachix#735
@row()
def confirmed_with_304(world):
    """A stale narinfo is confirmed by its entity tag."""
    world.upstream()
    path = world.sample.medium
    world.site = {"lifetimes": {"narinfo": "1s"}}
    stale = lambda: time.sleep(1.5)
    return [info(path), info(path, before=stale), info(path), Nix([path])]


# tweag/nix-store-gcs-proxy#8, flokli/nix-casync#34
@row()
def without_validators(world):
    """No entity tag and no Last-Modified; the narinfo gets stale and is renewed."""
    one, path = world.upstream(), world.sample.medium
    one.last_modified = None
    one.odd("*", headers={"ETag": None})
    world.site = {"lifetimes": {"narinfo": "1s"}}

    def renew():
        world.publish(one, path, "zstd")
        time.sleep(1.5)

    return [*usual(path), Nix([path], before=renew), nar(path, "zstd")]


# The same with a server that says 304 to everything once it was asked: a broken cache before it.
# kornelski/rusty-http-cache-semantics#35, npm/cli#3656
@row()
def wrongly_not_modified(world):
    """304 to a request without a condition, once."""
    one, path = world.upstream(), world.sample.medium
    one.odd(path.narinfo_path, times=1, status=304, body=b"")
    return [info(path), info(path, before=lambda: time.sleep(1.2)), nar(path)]


# NixOS/nix#6901, NixOS/nix#12681
@row()
def first_of_two_refuses(world):
    """The first of two origins refuses connections."""
    dead, good = world.upstream(), world.upstream()
    dead.stop_listening()
    world.origins, world.direct = [dead.url, good.url], [good.url]
    return [*usual(world.sample.medium), Nix([world.sample.root])]


# NixOS/nix#15785, NixOS/nix#4383
@row()
def first_of_two_says_502(world):
    """The first of two origins has nix-cache-info, and answers 502 to all else."""
    bad, good = world.upstream(), world.upstream()
    for pattern in ["*.narinfo", "/nar/*"]:
        bad.odd(pattern, status=502, body=b"bad gateway", ranges=False)
    world.origins, world.direct = [bad.url, good.url], [good.url]
    return [*usual(world.sample.medium), Nix([world.sample.root])]


# NixOS/nix#15419: a cache far away, beside a near one
@row()
def first_of_two_is_slow(world):
    """The first of two origins takes a second for each answer, and lacks the path."""
    far, good = world.upstream(publish=False), world.upstream()
    far.latency = 1
    world.origins, world.direct = [far.url, good.url], [good.url]
    return usual(world.sample.medium)


# kalbasit/ncps#50, ustclug/discussions#536: a mirror that has thrown the NAR away
@row()
def nar_is_gone_from_the_first(world):
    """The first of two origins has the narinfo and lost the NAR; the second has both."""
    first, second = world.upstream(), world.upstream()
    path = world.sample.medium
    del first.objects[path.file_path()]
    world.origins, world.direct = [first.url, second.url], [second.url]
    return [*usual(path), Nix([path])]


# NixOS/nix#2661: the only cache is away for a while
@row()
def away_while_stale_is_stored(world):
    """The upstream refuses connections while a stale narinfo and the NAR are stored."""
    one, path = world.upstream(), world.sample.medium
    world.site = {"lifetimes": {"narinfo": "1s"}}

    def leave():
        one.stop_listening()
        time.sleep(1.5)

    return [*usual(path), info(path, before=leave), nar(path)]


# NixOS/nix#4445 with a bucket: refused keys are no absence
@row()
def keys_are_refused(world):
    """InvalidAccessKeyId for everything, as after a change of keys."""
    one, path = world.upstream(bucket="cache"), world.sample.small
    one.odd("*", apply=lambda *_: xml_error(403, "InvalidAccessKeyId"))
    return [info(path), Get("/nix-cache-info", one.objects["/nix-cache-info"][0])]
