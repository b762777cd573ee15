//! What every part of one object must agree with: its strong entity tag if there is one, its length
//! always. A value.

use crate::fill::error::FillError;
use crate::object::Meta;
use crate::origin::{FetchError, Response};
use crate::policy::continuation::{self, BrokenBody, ContinuationError, Tie};
use crate::rfc::EntityTag;
use http::{HeaderMap, HeaderValue, header};
use std::ops::Range;
use std::sync::Arc;

/// What every part of one object must agree with.
#[derive(Debug, Clone)]
pub(super) struct PartIdentity {
    pub(super) headers: HeaderMap,
    /// The entity tag, if it is a strong one.
    pub(super) etag: Option<HeaderValue>,
    pub(super) length: u64,
}

impl PartIdentity {
    /// That of an object with this head and length.
    pub(super) fn new(meta: &Meta, length: u64) -> Self {
        let is_strong = |etag: &&HeaderValue| EntityTag::parse(etag).is_some_and(|e| e.is_strong());
        Self { etag: meta.etag().filter(is_strong).cloned(), headers: meta.headers.clone(), length }
    }

    /// Whether pieces that come at different times can be told to be of one object.
    pub(super) fn ties_parts(&self) -> bool {
        self.etag.is_some()
    }

    /// Whether a head is of the same object.
    pub(super) fn is_of(&self, meta: &Meta, length: Option<u64>) -> bool {
        let is_same = match &self.etag {
            Some(own) => meta.etag() == Some(own),
            None => meta.etag() == self.headers.get(header::ETAG),
        };
        is_same && length == Some(self.length)
    }

    /// The offset behind the last byte of an answer to a request for `asked`, if it fits.
    pub(super) fn check(&self, asked: &Range<u64>, response: &Response) -> Result<u64, FillError> {
        let begun =
            BrokenBody { headers: &self.headers, length: Some(self.length), offset: asked.start };
        let last = asked.end.saturating_sub(1);
        let checked = continuation::check_stretch(&begun, last, response.status, &response.headers);
        match checked {
            Ok((continuation, end)) if continuation.tie == Tie::EntityTag => Ok(end),
            Ok(_) | Err(ContinuationError::OtherLength { .. } | ContinuationError::OtherObject) => {
                Err(FillError::Changed)
            }
            Err(error) => Err(FillError::Fetch(FetchError::Protocol {
                origin: Arc::clone(&response.origin_name),
                detail: error.to_string(),
            })),
        }
    }
}
