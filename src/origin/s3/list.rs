//! Lists the keys of a bucket (ListObjectsV2), page by page, for `narthex filter build`. Pages are
//! asked for by the last key before them, so a listing goes on after any failure, and stretches
//! of the keys can be listed at once. No locks.

use super::{BucketPlace, S3Origin, is_of_the_clock};
use crate::client::{ErrorChain, FailureShare, OutboundRequest};
use crate::nix::Class;
use crate::origin::exchange::{FetchError, FetchReason, Method, RequestPurpose};
use crate::origin::key_source::Keys;
use crate::origin::response::Response;
use crate::origin::verdict::{AnswerVerdict, Dialect, by_fault};
use crate::rfc::path::encode_path;
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use std::sync::Arc;

/// The longest page that is read: 1,000 keys of 1,024 bytes, each byte percent-encoded.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// Some keys of a bucket, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The keys, decoded.
    pub keys: Vec<String>,
    /// Whether there are more behind them.
    pub has_more: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    is_truncated: bool,
    encoding_type: Option<String>,
    #[serde(default)]
    contents: Vec<ListedObject>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedObject {
    key: String,
}

impl S3Origin {
    /// The keys behind `after`, as many as one page has.
    pub(crate) async fn page(&self, after: &str) -> Result<Page, FetchError> {
        self.with_keys(|keys| async move { self.page_with(after, keys.as_deref()).await }).await
    }

    async fn page_with(&self, after: &str, keys: Option<&Keys>) -> Result<Page, FetchError> {
        let purpose = RequestPurpose { class: Class::Other, reason: FetchReason::Miss };
        let place = self.place();
        let request = self.listing(&place, after, keys)?;
        let mut exchange = self.wire.send(purpose, request).await?;
        let status = exchange.status;
        if status.is_redirection() {
            let named = self.named_place(Method::Get, &mut exchange).await?;
            self.learn_region(&place, named.region.as_deref());
            return Err(self.elsewhere(status, &named));
        }
        if status != StatusCode::OK {
            let fault = self.wire.fault(&mut exchange).await?;
            return Err(match by_fault(Dialect::S3, status, fault.as_ref()) {
                AnswerVerdict::Refused { code, detail, region } => {
                    if is_of_the_clock(&code) {
                        self.correct_clock(&exchange.heard);
                    }
                    self.learn_region(&place, region.as_deref());
                    FetchError::Credentials { origin: Arc::clone(&self.wire.name), code, detail }
                }
                AnswerVerdict::Absent(_) => FetchError::Credentials {
                    origin: Arc::clone(&self.wire.name),
                    code: "AccessDenied".to_owned(),
                    detail: "the bucket may not be listed: allow s3:ListBucket".to_owned(),
                },
                AnswerVerdict::Found
                | AnswerVerdict::NotModified
                | AnswerVerdict::Changed
                | AnswerVerdict::Redirect
                | AnswerVerdict::Unclear
                | AnswerVerdict::Status
                | AnswerVerdict::Protocol(_) => FetchError::Status {
                    origin: Arc::clone(&self.wire.name),
                    status,
                    retry_after_seconds: None,
                },
            });
        }
        let response = self.wire.response(Class::Other, Method::Get, exchange)?;
        let document = self.document(response).await?;
        let page = parse(&document).map_err(|detail| self.wire.protocol(detail))?;
        // The next page, asked for by the last key, would miss some.
        let is_in_order =
            page.keys.is_sorted() && page.keys.first().is_none_or(|key| **key > *after);
        if is_in_order { Ok(page) } else { Err(self.wire.protocol("a listing out of order")) }
    }

    async fn document(&self, mut response: Response) -> Result<Vec<u8>, FetchError> {
        let mut document = Vec::new();
        loop {
            match response.body.chunk().await {
                Ok(None) => return Ok(document),
                Ok(Some(piece)) if document.len() + piece.len() <= PAGE_BYTES_MAX => {
                    document.extend_from_slice(&piece);
                }
                Ok(Some(_)) => return Err(self.wire.protocol("a listing of more than 8 MiB")),
                Err(error) => {
                    return Err(FetchError::Broken {
                        origin: Arc::clone(&self.wire.name),
                        source: ErrorChain::of(&error),
                        share: FailureShare::First,
                    });
                }
            }
        }
    }

    fn listing(
        &self,
        place: &BucketPlace,
        after: &str,
        keys: Option<&Keys>,
    ) -> Result<OutboundRequest, FetchError> {
        let slash = if place.bucket_url.rsplit("//").next().is_some_and(|rest| rest.contains('/')) {
            ""
        } else {
            "/"
        };
        let mut text = format!("{}{slash}?encoding-type=url&list-type=2", place.bucket_url);
        if !after.is_empty() {
            // A query, unlike a path, has its slashes encoded for the signature.
            text = format!("{text}&start-after={}", encode_path(after).replace('/', "%2F"));
        }
        self.signed(Method::Get, &text, HeaderMap::new(), place, keys)
    }
}

fn parse(document: &[u8]) -> Result<Page, String> {
    let listing: Listing = quick_xml::de::from_reader(document)
        .map_err(|error| format!("a listing that cannot be read: {error}"))?;
    // A service that knows no encoding says so, and writes the keys as they are.
    let is_encoded = listing.encoding_type.as_deref() == Some("url");
    let decoded = |ListedObject { key }| {
        if !is_encoded {
            return Ok(key);
        }
        let key = key.replace('+', " ");
        let key = percent_decode_str(&key).decode_utf8();
        key.map(std::borrow::Cow::into_owned).map_err(|_| "a key that is not UTF-8".to_owned())
    };
    let keys = listing.contents.into_iter().map(decoded).collect::<Result<Vec<_>, _>>()?;
    if listing.is_truncated && keys.is_empty() {
        return Err("a listing that says that there is more, and nothing of it".to_owned());
    }
    Ok(Page { keys, has_more: listing.is_truncated })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_its_keys_are_decoded() {
        let page = parse(
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult \
              xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name><Prefix/>\
              <KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType>\
              <IsTruncated>true</IsTruncated><Contents><Key>a%2Bb+c</Key><Size>1</Size></Contents>\
              <Contents><Key>nar/x</Key><ETag>&quot;e&quot;</ETag></Contents></ListBucketResult>",
        );
        let keys = vec!["a+b c".to_owned(), "nar/x".to_owned()];
        assert_eq!(page, Ok(Page { keys, has_more: true }));
        let empty = parse(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>");
        assert_eq!(empty, Ok(Page { keys: Vec::new(), has_more: false }));
        let plain = b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a+%41</Key>\
                      </Contents></ListBucketResult>";
        assert_eq!(parse(plain).unwrap().keys, ["a+%41"]);
    }

    #[test]
    fn what_is_no_page_is_never_the_end_of_a_listing() {
        for document in [
            &b""[..],
            b"<html>busy</html>",
            b"<ListBucketResult></ListBucketResult>",
            b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key>",
            b"<Error><Code>SlowDown</Code></Error>",
        ] {
            assert!(parse(document).is_err(), "{document:?}");
        }
    }
}
