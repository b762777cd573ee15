//! The bucket behind the demo's S3 origin: objects in memory, and what S3 answers for them.
//! Shared by every connection; one lock around the map of objects, never held across an await.

use super::paced_body::PacedBody;
use crate::clock::Clock;
use crate::nix::hash::{base16, sha256};
use crate::sync::{Mutex, RwLock};
use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue};
use s3s::dto::{
    ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput,
    ListObjectsV2Input, ListObjectsV2Output, Object, Range, StreamingBlob, Timestamp,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::ops;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Keys in one listing, at most; what S3 allows.
const LISTED_MAX: usize = 1000;

/// Keys that have their requests counted one by one; further keys count only in the sum.
const COUNTED_KEYS_MAX: usize = 65_536;

/// A bucket in memory. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Bucket(Arc<BucketState>);

/// What the clones of a [`Bucket`] share.
#[derive(Debug)]
struct BucketState {
    name: String,
    objects: RwLock<BTreeMap<String, Arc<BucketObject>>>,
    requests_by_key: Mutex<HashMap<String, u64>>,
    bytes_sent: Arc<AtomicU64>,
    first_byte_delay: Duration,
    bytes_per_second: Option<NonZeroU64>,
}

/// One object.
#[derive(Debug)]
struct BucketObject {
    bytes: Bytes,
    content_type: String,
    entity_tag: ETag,
    last_modified: SystemTime,
}

/// The conditional fields of a request (RFC 9110 section 13.1), as s3s parsed them.
struct S3Conditions<'a> {
    expected_tag: Option<&'a ETagCondition>,
    known_tag: Option<&'a ETagCondition>,
    changed_since: Option<&'a Timestamp>,
    unchanged_since: Option<&'a Timestamp>,
}

impl Bucket {
    /// An empty bucket that waits `first_byte_delay` before each answer and sends each body at
    /// most at `bytes_per_second`.
    pub fn new(
        name: String,
        first_byte_delay: Duration,
        bytes_per_second: Option<NonZeroU64>,
    ) -> Self {
        Self(Arc::new(BucketState {
            name,
            objects: RwLock::default(),
            requests_by_key: Mutex::default(),
            bytes_sent: Arc::default(),
            first_byte_delay,
            bytes_per_second,
        }))
    }

    /// Stores `bytes` under `key`, in place of what was there. Bodies under way go on with the
    /// old bytes.
    pub fn put(&self, key: &str, bytes: Bytes, content_type: &str) {
        let stored = Arc::new(BucketObject {
            entity_tag: ETag::Strong(entity_tag_value(&bytes)),
            bytes,
            content_type: content_type.to_owned(),
            last_modified: whole_seconds(Clock::System.wall().to_system_time()),
        });
        self.0.objects.write().insert(key.to_owned(), stored);
    }

    /// Forgets `key`; true when it was there.
    pub fn remove(&self, key: &str) -> bool {
        self.0.objects.write().remove(key).is_some()
    }

    /// Requests for each key that passed the signature check, whether or not the key exists.
    pub fn requests_by_key(&self) -> HashMap<String, u64> {
        self.0.requests_by_key.lock().clone()
    }

    /// Requests for `key` that passed the signature check.
    pub fn requests_for(&self, key: &str) -> u64 {
        self.0.requests_by_key.lock().get(key).copied().unwrap_or(0)
    }

    /// Body bytes of objects handed to connections.
    pub fn bytes_sent(&self) -> u64 {
        self.0.bytes_sent.load(Ordering::Relaxed)
    }

    /// Counts a request, waits as long as this origin takes, and finds the object.
    async fn open(&self, bucket: &str, key: &str) -> S3Result<Arc<BucketObject>> {
        self.count(key);
        if !self.0.first_byte_delay.is_zero() {
            tokio::time::sleep(self.0.first_byte_delay).await;
        }
        self.check_name(bucket)?;
        let found = self.0.objects.read().get(key).cloned();
        found.ok_or_else(|| {
            S3Error::with_message(S3ErrorCode::NoSuchKey, "The specified key does not exist.")
        })
    }

    fn check_name(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.0.name {
            return Ok(());
        }
        Err(S3Error::with_message(
            S3ErrorCode::NoSuchBucket,
            "The specified bucket does not exist.",
        ))
    }

    fn count(&self, key: &str) {
        let mut counts = self.0.requests_by_key.lock();
        if let Some(count) = counts.get_mut(key) {
            *count += 1;
        } else if counts.len() < COUNTED_KEYS_MAX {
            counts.insert(key.to_owned(), 1);
        }
    }
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let stored = self.open(&input.bucket, &input.key).await?;
        stored.judge(&S3Conditions {
            expected_tag: input.if_match.as_ref(),
            known_tag: input.if_none_match.as_ref(),
            changed_since: input.if_modified_since.as_ref(),
            unchanged_since: input.if_unmodified_since.as_ref(),
        })?;
        let (bytes, content_range) = stored.cut(input.range.as_ref())?;
        let content_length = length_field(bytes.len());
        let body = PacedBody::new(bytes, self.0.bytes_per_second, Arc::clone(&self.0.bytes_sent));
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(StreamingBlob::from(s3s::Body::http_body(body))),
            content_length: Some(content_length),
            content_range,
            content_type: Some(stored.content_type.clone()),
            e_tag: Some(stored.entity_tag.clone()),
            last_modified: Some(stored.last_modified.into()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let stored = self.open(&input.bucket, &input.key).await?;
        stored.judge(&S3Conditions {
            expected_tag: input.if_match.as_ref(),
            known_tag: input.if_none_match.as_ref(),
            changed_since: input.if_modified_since.as_ref(),
            unchanged_since: input.if_unmodified_since.as_ref(),
        })?;
        let (bytes, content_range) = stored.cut(input.range.as_ref())?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length_field(bytes.len())),
            content_range,
            content_type: Some(stored.content_type.clone()),
            e_tag: Some(stored.entity_tag.clone()),
            last_modified: Some(stored.last_modified.into()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.check_name(&input.bucket)?;
        if input.delimiter.is_some() {
            return Err(S3Error::with_message(
                S3ErrorCode::NotImplemented,
                "This bucket lists keys without a delimiter only.",
            ));
        }
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.as_ref().or(input.start_after.as_ref());
        let wanted = input.max_keys.and_then(|keys| usize::try_from(keys).ok());
        let wanted = wanted.unwrap_or(LISTED_MAX).min(LISTED_MAX);
        let objects = self.0.objects.read();
        let mut matching = objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && after.is_none_or(|a| *key > a));
        let contents: Vec<Object> = matching.by_ref().take(wanted).map(listed).collect();
        let is_truncated = matching.next().is_some();
        let last = contents.last().and_then(|object| object.key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(self.0.name.clone()),
            key_count: i32::try_from(contents.len()).ok(),
            max_keys: i32::try_from(wanted).ok(),
            is_truncated: Some(is_truncated),
            next_continuation_token: last.filter(|_| is_truncated),
            prefix: input.prefix,
            contents: Some(contents),
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            ..ListObjectsV2Output::default()
        }))
    }
}

impl BucketObject {
    /// Judges the conditions in the order of RFC 9110 section 13.2.2.
    fn judge(&self, conditions: &S3Conditions<'_>) -> S3Result<()> {
        let last_modified = Timestamp::from(self.last_modified);
        let is_as_expected = match (conditions.expected_tag, conditions.unchanged_since) {
            (Some(ETagCondition::Any), _) | (None, None) => true,
            (Some(ETagCondition::ETag(tag)), _) => self.entity_tag.strong_cmp(tag),
            (None, Some(since)) => last_modified <= *since,
        };
        if !is_as_expected {
            return Err(self.refusal(S3ErrorCode::PreconditionFailed, HeaderMap::new()));
        }
        let is_known = match (conditions.known_tag, conditions.changed_since) {
            (Some(ETagCondition::Any), _) => true,
            (Some(ETagCondition::ETag(tag)), _) => self.entity_tag.weak_cmp(tag),
            (None, Some(since)) => last_modified <= *since,
            (None, None) => false,
        };
        if is_known {
            return Err(self.refusal(S3ErrorCode::NotModified, HeaderMap::new()));
        }
        Ok(())
    }

    /// The bytes that `range` names, and their `Content-Range` unless they are all.
    fn cut(&self, range: Option<&Range>) -> S3Result<(Bytes, Option<String>)> {
        let length = self.bytes.len() as u64;
        let Some(range) = range else {
            return Ok((self.bytes.clone(), None));
        };
        let Some((span, indices)) =
            range.check(length).ok().and_then(|span| indices(&span).map(|indices| (span, indices)))
        else {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::try_from(format!("bytes */{length}")) {
                headers.insert(CONTENT_RANGE, value);
            }
            return Err(self.refusal(S3ErrorCode::InvalidRange, headers));
        };
        let last = span.end.saturating_sub(1);
        let content_range = format!("bytes {}-{last}/{length}", span.start);
        Ok((self.bytes.slice(indices), Some(content_range)))
    }

    /// An answer without the object: its validators, and `headers` beside them.
    fn refusal(&self, code: S3ErrorCode, mut headers: HeaderMap) -> S3Error {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        if let Ok(tag) = self.entity_tag.to_http_header() {
            headers.insert(ETAG, tag);
        }
        if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(self.last_modified)) {
            headers.insert(LAST_MODIFIED, date);
        }
        let mut error = S3Error::new(code);
        error.set_headers(headers);
        error
    }
}

fn indices(span: &ops::Range<u64>) -> Option<ops::Range<usize>> {
    Some(usize::try_from(span.start).ok()?..usize::try_from(span.end).ok()?)
}

fn length_field(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn listed((key, stored): (&String, &Arc<BucketObject>)) -> Object {
    Object {
        key: Some(key.clone()),
        size: Some(length_field(stored.bytes.len())),
        e_tag: Some(stored.entity_tag.clone()),
        last_modified: Some(stored.last_modified.into()),
        ..Object::default()
    }
}

/// 32 hexadecimal digits of the bytes' SHA-256: the form of an S3 entity tag.
fn entity_tag_value(bytes: &[u8]) -> String {
    let mut text = base16(&sha256(bytes));
    text.truncate(32);
    text
}

/// HTTP dates have whole seconds; so has `Last-Modified`, or conditionals never match.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
}
