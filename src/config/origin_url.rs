//! The URL of an origin: Nix's own form of S3 stores, HTTP upstreams and folders. Pure; called by
//! `sites`.

use super::model::S3Addressing;
use super::problem::without_secrets;
use http::Uri;
use percent_encoding::percent_decode_str;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// What the URL of an origin says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ParsedOriginUrl {
    /// `s3://`.
    S3(S3Url),
    /// `http://` or `https://`, without a trailing `/` behind a path.
    Http(Uri),
    /// `file://`.
    File(PathBuf),
}

/// What an `s3://` URL says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct S3Url {
    /// The bucket.
    pub(super) bucket: String,
    /// `region`.
    pub(super) region: Option<String>,
    /// `endpoint` with `scheme`: `scheme://host[:port]`, and a path without a trailing `/`.
    pub(super) endpoint: Option<String>,
    /// `profile`.
    pub(super) profile: Option<String>,
    /// `addressing-style`, unless it is `auto`.
    pub(super) addressing: Option<S3Addressing>,
    /// Parameters that mean something to Nix and nothing here.
    pub(super) ignored: Vec<String>,
}

/// What to write, for a text that is no such URL.
const WANTED: &str =
    "write s3://BUCKET?region=REGION, https://HOST, http://HOST:PORT or file:///FOLDER";

/// Parameters of Nix's S3 stores that say how a client writes or picks: nothing to an edge.
const IGNORED: [&str; 20] = [
    "buffer-size",
    "compression",
    "compression-level",
    "index-debug-info",
    "local-nar-cache",
    "log-compression",
    "ls-compression",
    "multipart-chunk-size",
    "multipart-threshold",
    "multipart-upload",
    "narinfo-compression",
    "parallel-compression",
    "path-info-cache-size",
    "priority",
    "secret-key",
    "secret-keys",
    "storage-class",
    "trusted",
    "want-mass-query",
    "write-nar-listing",
];

/// Reads the URL of an origin; every fault in it is told.
pub(super) fn parse(text: &str) -> Result<ParsedOriginUrl, Vec<String>> {
    let text = text.trim();
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(vec![format!("is not an origin URL; {}", hint(text))]);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "s3" => parse_s3(rest).map(ParsedOriginUrl::S3),
        "http" | "https" => {
            parse_http(text).map(ParsedOriginUrl::Http).map_err(|message| vec![message])
        }
        "file" => parse_file(rest).map(ParsedOriginUrl::File).map_err(|message| vec![message]),
        _ => Err(vec![format!("has a scheme that is none of s3, http, https, file; {WANTED}")]),
    }
}

/// What was probably meant by a text without a scheme.
fn hint(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    if text.starts_with('/') {
        format!("for a folder write file://{}", without_secrets(text))
    } else if text.contains('.') && !text.starts_with('.') && text.chars().all(is_plain) {
        format!("write https://{text}, or another of s3://, http://, file://")
    } else {
        WANTED.to_owned()
    }
}

fn parse_s3(rest: &str) -> Result<S3Url, Vec<String>> {
    let (bucket, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut faults = Vec::new();
    let bucket = bucket.strip_suffix('/').unwrap_or(bucket);
    if bucket.contains('/') {
        faults.push(
            "has a path behind the bucket; write s3://BUCKET, and beside it prefix = \"PATH\""
                .into(),
        );
    } else if !is_bucket(bucket) {
        faults.push(
            "does not name a bucket (3 to 63 letters, digits, '.', '-', '_'); write \
             s3://BUCKET?region=REGION"
                .into(),
        );
    }
    let mut url = S3Url { bucket: bucket.to_owned(), ..S3Url::default() };
    let (mut endpoint, mut scheme) = (None, None);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let Ok(value) = percent_decode_str(value).decode_utf8() else {
            let name = without_secrets(name);
            faults.push(format!("has a value of {name:?} that is not UTF-8; write it in ASCII"));
            continue;
        };
        match (name, value.as_ref()) {
            ("region", value) if is_word(value) => url.region = Some(value.to_owned()),
            ("profile", value) if is_word(value) => url.profile = Some(value.to_owned()),
            ("region" | "profile", _) => {
                faults.push(format!("has no {name} in {name}=; write {name}=NAME"));
            }
            ("endpoint", value) => endpoint = Some(value.to_owned()),
            ("scheme", value @ ("http" | "https")) => scheme = Some(value.to_owned()),
            ("scheme", _) => faults.push("has a scheme= that is neither http nor https".into()),
            ("addressing-style", "path") => url.addressing = Some(S3Addressing::Path),
            ("addressing-style", "virtual") => url.addressing = Some(S3Addressing::VirtualHost),
            ("addressing-style", "auto") => {}
            ("addressing-style", _) => {
                faults.push("has an addressing-style= that is none of auto, path, virtual".into());
            }
            (name, _) if IGNORED.contains(&name) => url.ignored.push(name.to_owned()),
            (name, _) => faults.push(format!(
                "has the parameter {:?}, which is none of region, endpoint, profile, scheme",
                without_secrets(name)
            )),
        }
    }
    match join_endpoint(endpoint.as_deref(), scheme.as_deref()) {
        Ok(endpoint) => url.endpoint = endpoint,
        Err(fault) => faults.push(fault),
    }
    if faults.is_empty() { Ok(url) } else { Err(faults) }
}

/// `scheme://host[:port]` from `endpoint=`, which may lack the scheme, and `scheme=`.
fn join_endpoint(endpoint: Option<&str>, scheme: Option<&str>) -> Result<Option<String>, String> {
    let Some(endpoint) = endpoint else {
        return match scheme {
            Some("http") => Err("has scheme=http without endpoint=; Amazon is always asked over \
                 https: leave scheme out"
                .to_owned()),
            _ => Ok(None),
        };
    };
    let whole = match endpoint.split_once("://") {
        None => format!("{}://{endpoint}", scheme.unwrap_or("https")),
        Some((own, _)) if scheme.is_some_and(|scheme| scheme != own) => {
            let own = format!("{}://", without_secrets(own));
            return Err(format!("has an endpoint= with {own:?} and another scheme=; keep one"));
        }
        Some(_) => endpoint.to_owned(),
    };
    let wanted = "write endpoint=http://HOST:PORT or endpoint=https://HOST";
    let uri = parse_http(&whole).map_err(|fault| format!("has an endpoint= that {fault}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority)) => {
            let path = uri.path().trim_end_matches('/');
            Ok(Some(format!("{scheme}://{authority}{path}")))
        }
        _ => Err(format!("has no endpoint in endpoint=; {wanted}")),
    }
}

fn parse_http(text: &str) -> Result<Uri, String> {
    let wanted = "write https://HOST or http://HOST:PORT";
    if text.contains('#') {
        return Err(format!("has a fragment (#), which is not part of a URL here; {wanted}"));
    }
    let uri: Uri = text.parse().map_err(|error| format!("is not a URL: {error}; {wanted}"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("has no host; {wanted}"));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(format!("is neither http nor https; {wanted}"));
    }
    if authority.as_str().contains('@') {
        return Err(format!("has a user or password, which is never sent to an origin; {wanted}"));
    }
    if authority.host().is_empty() {
        return Err(format!("has no host; {wanted}"));
    }
    let address = authority.host().strip_prefix('[').map(|rest| rest.trim_end_matches(']'));
    if address.is_some_and(|address| address.parse::<Ipv6Addr>().is_err()) {
        return Err(format!(
            "has no IPv6 address in its brackets, which has no zone (%) either; {wanted}"
        ));
    }
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or("");
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(format!("has a port that is not 1 to 65535; {wanted}"));
    }
    if uri.query().is_some() {
        return Err(format!("has a query (?), which is dropped; {wanted}"));
    }
    let path = uri.path().trim_end_matches('/');
    if path.split('/').any(|part| matches!(part, "." | "..")) || path.contains("//") {
        return Err(format!("has a path with empty parts, '.' or '..'; {wanted}"));
    }
    let path = if path.is_empty() { "/" } else { path };
    let built = Uri::builder().scheme(scheme).authority(authority.as_str()).path_and_query(path);
    built.build().map_err(|error| format!("is not a URL: {error}; {wanted}"))
}

fn parse_file(rest: &str) -> Result<PathBuf, String> {
    let wanted = "write file:///FOLDER, with three slashes";
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(format!("does not name an absolute folder; {wanted}"));
    }
    if path.contains(['?', '#']) {
        return Err(format!("has a query or fragment, which a folder has not; {wanted}"));
    }
    let path = percent_decode_str(path).decode_utf8();
    let path = path.map_err(|_| format!("has a path that is not UTF-8; {wanted}"))?;
    if path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(format!("has a path with a NUL or '..'; {wanted}"));
    }
    let trimmed = path.trim_end_matches('/');
    Ok(PathBuf::from(if trimmed.is_empty() { "/" } else { trimmed }))
}

fn is_bucket(text: &str) -> bool {
    let is_bucket = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (3..=63).contains(&text.len())
        && text.chars().all(is_bucket)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !text.contains("..")
}

/// A region or profile: printable, without spaces, at most 128 bytes.
fn is_word(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::proptest;

    fn s3(text: &str) -> S3Url {
        match parse(text) {
            Ok(ParsedOriginUrl::S3(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn fault(text: &str) -> String {
        parse(text).unwrap_err().join("\n")
    }

    #[test]
    fn s3_urls_are_read_as_nix_writes_them() {
        let url = s3("s3://nix-cache?region=eu-west-1&profile=x&endpoint=http://127.0.0.1:3900");
        assert_eq!(url.bucket, "nix-cache");
        assert_eq!(url.region.as_deref(), Some("eu-west-1"));
        assert_eq!(url.profile.as_deref(), Some("x"));
        assert_eq!(url.endpoint.as_deref(), Some("http://127.0.0.1:3900"));
        assert_eq!(s3("s3://nix-cache"), S3Url { bucket: "nix-cache".into(), ..S3Url::default() });
    }

    #[test]
    fn an_endpoint_takes_its_scheme_from_beside() {
        let endpoint = |text: &str| s3(&format!("s3://abc?{text}")).endpoint.unwrap();
        assert_eq!(endpoint("endpoint=minio:9000"), "https://minio:9000");
        assert_eq!(endpoint("endpoint=minio:9000&scheme=http"), "http://minio:9000");
        assert_eq!(endpoint("scheme=http&endpoint=[::1]:9000"), "http://[::1]:9000");
        assert_eq!(endpoint("endpoint=http%3A%2F%2Fh%3A1&scheme=http"), "http://h:1");
        assert_eq!(endpoint("endpoint=https://h/"), "https://h");
        assert!(fault("s3://abc?endpoint=http://h&scheme=https").contains("keep one"));
        assert!(fault("s3://abc?scheme=http").contains("leave scheme out"));
        assert_eq!(endpoint("endpoint=h/storage/v1/s3/"), "https://h/storage/v1/s3");
        assert!(fault("s3://abc?endpoint=http://h/x/../y").contains("'..'"));
        assert!(fault("s3://abc?endpoint=").contains("endpoint="));
    }

    #[test]
    fn every_fault_of_an_s3_url_is_told() {
        let faults = fault("s3://a/b?regoin=x&scheme=ftp&region=&addressing-style=x");
        for part in ["path behind the bucket", "\"regoin\"", "neither http", "region=NAME", "auto"]
        {
            assert!(faults.contains(part), "{part}: {faults}");
        }
        assert!(fault("s3://?region=x").contains("does not name a bucket"));
        assert!(fault("s3://abc?profile=a%20b").contains("profile=NAME"));
        assert!(fault("s3://abc?region=%ff").contains("UTF-8"));
    }

    #[test]
    fn what_only_nix_needs_is_told_apart() {
        let url = s3("s3://abc?compression=zstd&addressing-style=virtual");
        assert_eq!(url.ignored, ["compression"]);
        assert_eq!(url.addressing, Some(S3Addressing::VirtualHost));
    }

    /// FAULTS.md G18a.
    #[test]
    fn http_urls_keep_a_prefix_without_its_slash() {
        let http = |text: &str| match parse(text) {
            Ok(ParsedOriginUrl::Http(uri)) => uri.to_string(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(http("https://cache.nixos.org"), "https://cache.nixos.org/");
        assert_eq!(http("http://[::1]:8080/"), "http://[::1]:8080/");
        assert_eq!(http("http://h/a/b/"), "http://h/a/b");
        assert!(fault("https://me:secret@h").contains("user or password"));
        assert!(fault("https://h?x=1").contains("query"));
        assert!(fault("https://h#x").contains("fragment"));
        assert!(fault("http://h:0").contains("port"));
        assert!(fault("http://[fe80::1%25eth0]:8080").contains("zone"));
        assert!(fault("http://[not-an-address]/").contains("IPv6"));
        assert!(fault("http://h:99999").contains("write https://HOST"));
        assert!(fault("http://h/../x").contains("'..'"));
        assert!(fault("http://").contains("write https://HOST"));
    }

    #[test]
    fn folders_are_absolute() {
        assert_eq!(parse("file:///srv/a%20b/"), Ok(ParsedOriginUrl::File("/srv/a b".into())));
        assert_eq!(parse("file://localhost/srv"), Ok(ParsedOriginUrl::File("/srv".into())));
        assert!(fault("file://srv/cache").contains("three slashes"));
        assert!(fault("file:///srv/%2e%2e/etc").contains("'..'"));
    }

    #[test]
    fn a_text_without_a_scheme_gets_the_right_hint() {
        assert!(fault("s3:/x").contains("is not an origin URL; write s3://BUCKET?region=REGION"));
        assert!(fault("cache.nixos.org").contains("write https://cache.nixos.org"));
        assert!(fault("/srv/cache").contains("write file:///srv/cache"));
        assert!(fault("ftp://h").contains("none of s3, http, https, file"));
    }

    proptest! {
        #[test]
        fn no_text_panics(any in "\\PC{0,40}", scheme in "(s3|http|https|file)://\\PC{0,40}") {
            let _ = (parse(&any), parse(&scheme));
        }
    }
}
