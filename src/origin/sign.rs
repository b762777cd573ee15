//! Signs requests to S3 with Signature Version 4, in header fields. Pure: the time is given.

use super::key_source::Keys;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use std::time::SystemTime;

/// SHA-256 of nothing: a request to an origin never has a body.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signable<'a> {
    /// `GET` or `HEAD`.
    pub method: &'static str,
    /// Absolute, its path encoded once.
    pub uri: &'a Uri,
    /// The region of the signature's scope.
    pub region: &'a str,
    /// Fields to send and to sign beside `host`, `x-amz-content-sha256`, `x-amz-date` and
    /// `x-amz-security-token`.
    pub fields: &'a [(&'a str, &'a str)],
    /// The time that the signature names.
    pub at: SystemTime,
}

/// The request cannot be signed: the keys hold characters that a header field may not.
#[derive(Debug, thiserror::Error)]
#[error("the request cannot be signed: {0}")]
pub(super) struct SignError(String);

/// The fields to add to the request, `fields` included.
pub(super) fn signed_fields(what: Signable<'_>, keys: &Keys) -> Result<HeaderMap, SignError> {
    let wrong = |error: &dyn std::error::Error| SignError(error.to_string());
    let identity = Credentials::new(
        keys.access_key_id.as_str(),
        keys.secret_access_key.as_str(),
        keys.session_token.clone(),
        None,
        "narthex",
    )
    .into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(what.region)
        .name("s3")
        .time(what.at)
        .settings(settings())
        .build()
        .map_err(|error| wrong(&error))?
        .into();
    let body = SignableBody::Precomputed(EMPTY_SHA256.to_owned());
    let request =
        SignableRequest::new(what.method, what.uri.to_string(), what.fields.iter().copied(), body)
            .map_err(|error| wrong(&error))?;
    let output = sign(request, &params).map_err(|error| wrong(&error))?;
    let (instructions, _) = output.into_parts();
    let (signing, _) = instructions.into_parts();
    let mut headers = HeaderMap::with_capacity(signing.len() + what.fields.len());
    let signing = signing.iter().map(|field| (field.name(), field.value()));
    for (name, value) in what.fields.iter().copied().chain(signing) {
        let name = HeaderName::try_from(name).map_err(|error| wrong(&error))?;
        let mut value = HeaderValue::try_from(value).map_err(|error| wrong(&error))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// S3 does not encode the path again and does not normalise it; the payload's hash is a field.
fn settings() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.signature_location = SignatureLocation::Headers;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

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
            method: "GET",
            uri: &Uri::from_static(uri),
            region: "us-east-1",
            fields,
            at: Timestamp::from_secs(1_369_353_600).to_system_time(),
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
        let at = SystemTime::UNIX_EPOCH;
        let what = Signable { method: "GET", uri: &uri, region: "r", fields: &[], at };
        assert!(signed_fields(what, &keys).is_err());
    }
}
