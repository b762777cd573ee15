"""AWS Signature Version 4 for single requests to an S3 server, after the description in the
Amazon S3 API reference, "Authenticating Requests (AWS Signature Version 4)"."""

import datetime
import hashlib
import hmac
import urllib.parse


class Keys:
    """An access key's id and secret, and the region that they sign for."""

    def __init__(self, identity, secret, region):
        self.identity = identity
        self.secret = secret
        self.region = region


def signed_headers(keys, method, host, path, body, headers):
    """The fields to send: those given, the date, the body's hash and the signature. `path` is
    decoded and has no query."""
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    body_hash = hashlib.sha256(body).hexdigest()
    fields = {name.lower(): value.strip() for name, value in headers.items()}
    fields |= {"host": host, "x-amz-date": stamp, "x-amz-content-sha256": body_hash}
    names = sorted(fields)
    canonical = "\n".join([
        method, urllib.parse.quote(path, safe="/-_.~"), "",
        *(f"{name}:{fields[name]}" for name in names), "",
        ";".join(names), body_hash])
    scope = f"{day}/{keys.region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    key = ("AWS4" + keys.secret).encode()
    for part in [*scope.split("/"), text]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    fields["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.identity}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={key.hex()}")
    return fields
