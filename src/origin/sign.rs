//! Signs requests to S3 with Signature Version 4, in header fields. Pure: the time is given.

use super::exchange::Method;
use super::key_source::Keys;
use crate::client::host_field;
use crate::clock::Timestamp;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use reqsign_aws_core::constants::{X_AMZ_CONTENT_SHA_256, X_AMZ_DATE, X_AMZ_SECURITY_TOKEN};
use reqsign_aws_core::signing::{canonical_request_string, canonicalize_query};
use reqsign_core::SigningRequest;
use reqsign_core::hash::{hex_hmac_sha256, hex_sha256, hmac_sha256};
use reqsign_core::time;
use std::error::Error;

/// SHA-256 of nothing: a request to an origin never has a body.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signable<'a> {
    /// `GET` or `HEAD`.
    pub method: Method,
    /// Absolute, its path encoded once.
    pub uri: &'a Uri,
    /// The region of the signature's scope.
    pub region: &'a str,
    /// Fields to send and to sign beside `host`, `x-amz-content-sha256`, `x-amz-date` and
    /// `x-amz-security-token`.
    pub fields: &'a [(&'a str, &'a str)],
    /// The time that the signature names.
    pub at: Timestamp,
}

/// The request cannot be signed: the keys hold characters that a header field may not.
#[derive(Debug, thiserror::Error)]
#[error("the request cannot be signed: {0}")]
pub(super) struct SignError(String);

/// The fields to add to the request, `fields` included. They are those of Amazon S3's "Signature
/// Calculations for the Authorization Header": the path is encoded once and not normalised.
pub(super) fn signed_fields(what: Signable<'_>, keys: &Keys) -> Result<HeaderMap, SignError> {
    let wrong = |error: &dyn Error| SignError(error.to_string());
    let at = time::Timestamp::from_millisecond(what.at.millis()).map_err(|error| wrong(&error))?;
    let (date, moment) = (at.format_date(), at.format_iso8601());
    let host = host_field(what.uri).ok_or_else(|| SignError("the URL has no host".to_owned()))?;
    let own = [(X_AMZ_CONTENT_SHA_256, EMPTY_SHA256), (X_AMZ_DATE, moment.as_str())];
    let token = keys.session_token.as_deref().map(|token| (X_AMZ_SECURITY_TOKEN, token));
    let mut headers = HeaderMap::with_capacity(what.fields.len() + own.len() + 3);
    headers.insert(HOST, host);
    for (name, value) in what.fields.iter().copied().chain(own).chain(token) {
        let name = HeaderName::try_from(name).map_err(|error| wrong(&error))?;
        headers.insert(name, sensitive(value)?);
    }
    let request = Request::builder().method(what.method.as_http()).uri(what.uri.clone()).body(());
    let (mut parts, ()) = request.map_err(|error| wrong(&error))?.into_parts();
    parts.headers = headers;
    let request = SigningRequest::build(&mut parts).map_err(|error| wrong(&error))?;
    let canonical = canonical_request_string(&request, &canonicalize_query(&request, &[]))
        .map_err(|error| wrong(&error))?;
    let scope = format!("{date}/{}/s3/aws4_request", what.region);
    let digest = hex_sha256(canonical.as_bytes());
    let text = format!("{ALGORITHM}\n{moment}\n{scope}\n{digest}");
    let secret = format!("AWS4{}", keys.secret_access_key);
    let key = [date.as_str(), what.region, "s3", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| hmac_sha256(&key, part.as_bytes()));
    let authorization = format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={}, Signature={}",
        keys.access_key_id,
        request.header_name_to_vec_sorted().join(";"),
        hex_hmac_sha256(&key, text.as_bytes()),
    );
    let mut headers = request.headers;
    headers.insert(AUTHORIZATION, sensitive(&authorization)?);
    // The client writes it, in the form of the protocol.
    headers.remove(HOST);
    Ok(headers)
}

/// A value that is never printed.
fn sensitive(value: &str) -> Result<HeaderValue, SignError> {
    let mut value = HeaderValue::try_from(value).map_err(|error| SignError(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of Amazon's documentation.
    fn example_keys() -> Keys {
        Keys {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
        }
    }

    fn signed(uri: &'static str, fields: &[(&str, &str)], keys: &Keys) -> HeaderMap {
        let what = Signable {
            method: Method::Get,
            uri: &Uri::from_static(uri),
            region: "us-east-1",
            fields,
            at: Timestamp::from_secs(1_369_353_600),
        };
        signed_fields(what, keys).unwrap()
    }

    /// Amazon S3 API Reference, "Signature Calculations for the Authorization Header", examples
    /// "GET Object", "GET Bucket Lifecycle" and "Get Bucket (List Objects)".
    #[test]
    fn amazons_published_examples() {
        let scope =
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";
        for (uri, fields, names, signature) in [
            (
                "https://examplebucket.s3.amazonaws.com/test.txt",
                &[("range", "bytes=0-9")][..],
                "host;range;x-amz-content-sha256;x-amz-date",
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                "https://examplebucket.s3.amazonaws.com/?lifecycle",
                &[][..],
                "host;x-amz-content-sha256;x-amz-date",
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J",
                &[][..],
                "host;x-amz-content-sha256;x-amz-date",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let headers = signed(uri, fields, &example_keys());
            let expected = format!("{scope}, SignedHeaders={names}, Signature={signature}");
            assert_eq!(headers["authorization"], expected);
            assert_eq!(headers["x-amz-date"], "20130524T000000Z");
            assert_eq!(headers["x-amz-content-sha256"], EMPTY_SHA256);
        }
    }

    #[test]
    fn requester_pays_and_the_session_token_are_signed() {
        let keys = Keys { session_token: Some("token==".to_owned()), ..example_keys() };
        let headers = signed(
            "http://127.0.0.1:3900/bucket/a%20b",
            &[("x-amz-request-payer", "requester")],
            &keys,
        );
        assert_eq!(headers["x-amz-security-token"], "token==");
        assert_eq!(headers["x-amz-request-payer"], "requester");
        let names = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-request-payer;\
            x-amz-security-token,";
        assert!(headers["authorization"].to_str().unwrap().contains(names));
        assert_eq!(headers.len(), 5);
    }

    #[test]
    fn keys_that_no_field_can_hold_are_an_error() {
        let keys = Keys { access_key_id: "AK\nIA".to_owned(), ..example_keys() };
        let uri = Uri::from_static("http://h/b/k");
        let at = Timestamp::from_secs(0);
        let what = Signable { method: Method::Get, uri: &uri, region: "r", fields: &[], at };
        assert!(signed_fields(what, &keys).is_err());
    }
}
