//! The place of a bucket: its region, and the URL of its objects. An answer may name another region
//! or another URL; both are used only if they are of the same service, since what is sent there is
//! signed. Values; the origin keeps one place and replaces it.

use crate::config::{S3, S3Addressing};
use crate::origin::fault::S3ErrorDocument;
use crate::rfc::path::encode_path;
use http::{HeaderMap, Uri, header};

/// The field that names the region of a bucket.
const REGION_FIELD: &str = "x-amz-bucket-region";
/// The longest name of a region that is believed.
const REGION_BYTES_MAX: usize = 64;

/// The place of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::origin) struct BucketPlace {
    /// Its region is the one that signatures name.
    bucket: S3,
    /// The URL of the bucket: `scheme://host[:port]`, the path of the endpoint and, with path
    /// addressing, `/bucket`.
    pub(in crate::origin) bucket_url: String,
    /// What stands before the paths of objects: the same, and the prefix of their keys.
    base: String,
}

impl BucketPlace {
    /// The place that `bucket` tells; none if the endpoint is not `scheme://host[:port]` with or
    /// without a path.
    pub(in crate::origin) fn of(bucket: &S3) -> Option<Self> {
        let uri: Uri = endpoint(bucket).parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        if !matches!(scheme, "http" | "https") || uri.query().is_some() {
            return None;
        }
        let path = uri.path().trim_end_matches('/');
        let name = encode_path(&bucket.bucket);
        let bucket_url = match bucket.addressing {
            S3Addressing::Path => format!("{scheme}://{authority}{path}/{name}"),
            S3Addressing::VirtualHost => format!("{scheme}://{name}.{authority}{path}"),
        };
        bucket_url.parse::<Uri>().ok()?;
        let base = if bucket.prefix.is_empty() {
            bucket_url.clone()
        } else {
            format!("{bucket_url}/{}", encode_path(&bucket.prefix))
        };
        Some(Self { bucket: bucket.clone(), bucket_url, base })
    }

    /// The region that signatures name.
    pub(super) fn region(&self) -> &str {
        &self.bucket.region
    }

    /// The URL of the object at `path`, which has a leading slash.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{}", self.base, encode_path(path))
    }

    /// The same bucket in another region: none if that is its own one, or if it is another service,
    /// with other keys. An endpoint that has the region in its host follows it.
    pub(super) fn in_region(&self, region: &str) -> Option<Self> {
        let is_chinese = |region: &str| region.starts_with("cn-");
        let is_other_service =
            self.bucket.endpoint.is_none() && is_chinese(region) != is_chinese(self.region());
        if region == self.region() || !is_region(region) || is_other_service {
            return None;
        }
        let endpoint = self.bucket.endpoint.as_ref();
        let endpoint = endpoint.map(|url| with_region(url, self.region(), region));
        Self::of(&S3 { region: region.to_owned(), endpoint, ..self.bucket.clone() })
    }

    /// Whether a signed request may go to `target`: to the host of this service, which may have the
    /// bucket's name before it and another region in it, and never from https to http. Amazon's own
    /// service is only followed by region.
    pub(super) fn permits(&self, target: &Uri) -> bool {
        let Ok(own) = endpoint(&self.bucket).parse::<Uri>() else { return false };
        let (Some(host), Some(own_host)) = (target.host(), own.host()) else { return false };
        let is_secure_enough = match (own.scheme_str(), target.scheme_str()) {
            (_, Some("https")) => true,
            (own, Some("http")) => own == Some("http"),
            _ => false,
        };
        let has_user = target.authority().is_none_or(|authority| authority.as_str().contains('@'));
        let host = host.to_ascii_lowercase();
        let name = format!("{}.", self.bucket.bucket.to_ascii_lowercase());
        let hosts = [Some(&*host), host.strip_prefix(&*name)];
        let is_own = |host: &str| is_same_service(own_host, self.region(), host);
        self.bucket.endpoint.is_some()
            && is_secure_enough
            && !has_user
            && hosts.into_iter().flatten().any(is_own)
    }
}

/// What an answer says of the place of a bucket.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NamedPlace {
    /// Its region.
    pub(super) region: Option<String>,
    /// The URL to ask instead.
    pub(super) location: Option<Uri>,
}

impl NamedPlace {
    /// What a redirect with these fields and this error document says. The region is named by a
    /// field, by the document, or by a host of Amazon's.
    pub(super) fn of(headers: &HeaderMap, fault: Option<&S3ErrorDocument>) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let location = text(header::LOCATION.as_str());
        let location = location.and_then(|location| location.parse::<Uri>().ok());
        let host = location.as_ref().and_then(Uri::host);
        let endpoint = fault.and_then(|fault| fault.endpoint.as_deref());
        let region = text(REGION_FIELD)
            .or_else(|| fault.and_then(|fault| fault.region.as_deref()))
            .or_else(|| host.and_then(amazon_region))
            .or_else(|| endpoint.and_then(amazon_region));
        let region = region.filter(|region| is_region(region)).map(str::to_owned);
        Self { region, location }
    }
}

/// The service of a bucket.
fn endpoint(bucket: &S3) -> String {
    let region = &bucket.region;
    let amazon = || {
        let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
        format!("https://s3.{region}.amazonaws.com{suffix}")
    };
    bucket.endpoint.clone().unwrap_or_else(amazon)
}

/// Whether a text can be the name of a region, and a part of a host.
fn is_region(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=REGION_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_part)
}

/// `url` with the region `old` in its host, if it has it there, replaced.
fn with_region(url: &str, old: &str, region: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let end = rest.find(['/', ':']).unwrap_or(rest.len());
    let (host, rest) = rest.split_at(end);
    let is_named = has_region_label(host);
    let labels = host.split('.').map(|label| if is_named && label == old { region } else { label });
    format!("{scheme}://{}{rest}", labels.collect::<Vec<_>>().join("."))
}

/// Whether one label of a host may be a region: not the name of a machine, nor of a domain.
fn has_region_label(host: &str) -> bool {
    host.split('.').count() > 2
}

/// Whether `other` is the host `own`, with another region in place of `region` at most.
fn is_same_service(own: &str, region: &str, other: &str) -> bool {
    let is_named = has_region_label(own);
    let (own, other): (Vec<_>, Vec<_>) = (own.split('.').collect(), other.split('.').collect());
    let is_same = |(own, other): (&&str, &&str)| {
        own.eq_ignore_ascii_case(other)
            || (is_named && own.eq_ignore_ascii_case(region) && is_region(other))
    };
    own.len() == other.len() && own.iter().zip(&other).all(is_same)
}

/// The region in a host of Amazon's S3: `[BUCKET.]s3.REGION.amazonaws.com` or
/// `[BUCKET.]s3-REGION.amazonaws.com`.
fn amazon_region(host: &str) -> Option<&str> {
    let host = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let (before, last) = host.rsplit_once('.').unwrap_or(("", host));
    let service = before.rsplit('.').next().unwrap_or_default();
    let region = if service == "s3" { Some(last) } else { last.strip_prefix("s3-") };
    region.filter(|region| is_region(region))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::S3Credentials;

    fn bucket(endpoint: Option<&str>, region: &str, addressing: S3Addressing) -> S3 {
        S3 {
            bucket: "nix-cache".to_owned(),
            region: region.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            prefix: String::new(),
            addressing,
            requester_pays: false,
            credentials: S3Credentials::Anonymous,
        }
    }

    fn place(endpoint: Option<&str>, region: &str) -> BucketPlace {
        BucketPlace::of(&bucket(endpoint, region, S3Addressing::VirtualHost)).unwrap()
    }

    #[test]
    fn buckets_are_addressed_both_ways() {
        let (path, host) = (S3Addressing::Path, S3Addressing::VirtualHost);
        for (endpoint, region, addressing, expected) in [
            (None, "us-east-1", path, "https://s3.us-east-1.amazonaws.com/nix-cache"),
            (None, "us-east-1", host, "https://nix-cache.s3.us-east-1.amazonaws.com"),
            (None, "cn-north-1", host, "https://nix-cache.s3.cn-north-1.amazonaws.com.cn"),
            (Some("http://127.0.0.1:3900"), "garage", path, "http://127.0.0.1:3900/nix-cache"),
            (Some("http://[::1]:3900/"), "r", path, "http://[::1]:3900/nix-cache"),
            (Some("https://s3.example"), "r", host, "https://nix-cache.s3.example"),
            (Some("https://h/s3/api"), "r", path, "https://h/s3/api/nix-cache"),
            (Some("https://h/s3/api/"), "r", host, "https://nix-cache.h/s3/api"),
        ] {
            let place = BucketPlace::of(&bucket(endpoint, region, addressing)).unwrap();
            assert_eq!(place.bucket_url, expected);
            assert_eq!(place.url("/a b"), format!("{expected}/a%20b"));
            let prefix = "nix main/x".to_owned();
            let place = S3 { prefix, ..bucket(endpoint, region, addressing) };
            let place = BucketPlace::of(&place).unwrap();
            assert_eq!(place.url("/a"), format!("{expected}/nix%20main/x/a"));
        }
    }

    #[test]
    fn another_region_is_another_host_if_hosts_name_regions() {
        let url = |place: &BucketPlace, region: &str| {
            place.in_region(region).map(|place| (place.bucket_url.clone(), place.bucket.region))
        };
        let amazon = place(None, "us-east-1");
        let moved = "https://nix-cache.s3.eu-west-1.amazonaws.com".to_owned();
        assert_eq!(url(&amazon, "eu-west-1"), Some((moved, "eu-west-1".to_owned())));
        for wrong in ["us-east-1", "cn-north-1", "", "a.b", "a/b", "a@b", &"x".repeat(65)] {
            assert_eq!(url(&amazon, wrong), None, "{wrong}");
        }
        let own = place(Some("https://s3.us-east-1.example:8/x"), "us-east-1");
        let moved = "https://nix-cache.s3.eu-1.example:8/x".to_owned();
        assert_eq!(url(&own, "eu-1"), Some((moved, "eu-1".to_owned())));
        let own = place(Some("http://127.0.0.1:3900"), "us-east-1");
        assert_eq!(own.in_region("garage").unwrap().bucket_url, own.bucket_url);
    }

    #[test]
    fn signed_requests_stay_with_the_service() {
        let own = place(Some("https://s3.us-east-1.example"), "us-east-1");
        for (target, is_permitted) in [
            ("https://s3.us-east-1.example/nix-cache/x", true),
            ("https://nix-cache.s3.eu-1.example:8443/x", true),
            ("https://S3.EU-1.EXAMPLE/x", true),
            ("http://s3.us-east-1.example/x", false),
            ("https://other.s3.us-east-1.example/x", false),
            ("https://s3.us-east-1.example.org/x", false),
            ("https://s3.example/x", false),
            ("https://us-east-1.s3.example/x", false),
            ("https://me@s3.us-east-1.example/x", false),
            ("/x", false),
        ] {
            assert_eq!(own.permits(&target.parse().unwrap()), is_permitted, "{target}");
        }
        let plain = place(Some("http://127.0.0.1:1"), "us-east-1");
        assert!(plain.permits(&Uri::from_static("http://127.0.0.1:2/x")));
        assert!(!plain.permits(&Uri::from_static("http://127.0.0.2:1/x")));
        let amazon = place(None, "us-east-1");
        assert!(!amazon.permits(&Uri::from_static("https://s3.us-east-1.amazonaws.com/x")));
    }

    #[test]
    fn a_place_is_named_in_several_ways() {
        let named = |fields: &[(&'static str, &str)], document: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, value.parse().unwrap());
            }
            NamedPlace::of(&headers, S3ErrorDocument::parse(document.as_bytes()).as_ref()).region
        };
        let document = |more: &str| format!("<Error><Code>PermanentRedirect</Code>{more}</Error>");
        let region = Some("eu-west-1".to_owned());
        assert_eq!(named(&[("x-amz-bucket-region", "eu-west-1")], ""), region);
        assert_eq!(named(&[], &document("<Region>eu-west-1</Region>")), region);
        let host = "<Endpoint>a.b.s3-eu-west-1.amazonaws.com</Endpoint>";
        assert_eq!(named(&[], &document(host)), region);
        let location = "https://nix-cache.s3.eu-west-1.amazonaws.com/x";
        assert_eq!(named(&[("location", location)], ""), region);
        for host in ["s3.amazonaws.com", "x.execute-api.eu-west-1.amazonaws.com", "eu-west-1"] {
            let document = document(&format!("<Endpoint>{host}</Endpoint>"));
            assert_eq!(named(&[], &document), None, "{host}");
        }
        assert_eq!(named(&[("x-amz-bucket-region", "a.b")], ""), None);
    }
}
