//! An S3 bucket as an origin: addresses keys, signs, tells absence from broken credentials. One
//! per origin, as long lived as it; no lock across an await.
//!
//! What a refusal may mend is tried once each: the time of signatures is corrected by the origin's
//! clock, and keys are looked for again.

mod list;

pub use list::Page;

use super::credentials::KeyRing;
use super::exchange::{Ask, FetchError, Method};
use super::key_endpoints::KeyEndpoints;
use super::key_source::{KeySource, Keys};
use super::setup_error::OriginSetupError;
use super::sign::{Signable, signed_fields};
use super::skew::{Skew, SkewUpdate};
use super::verdict::{Absence, AnswerVerdict, Dialect};
use super::wire::{OriginReply, ResponseHead, USER_AGENT, Wire, ask_fields, learning};
use crate::client::{OutboundRequest, no_body};
use crate::config::{S3, S3Addressing};
use crate::rfc::path::encode_path;
use crate::tasks::Tasks;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A bucket.
#[derive(Debug)]
pub(super) struct S3Origin {
    wire: Wire,
    /// The URL of the bucket: `scheme://host[:port]`, the path of the endpoint and, with path
    /// addressing, `/bucket`.
    bucket_url: String,
    /// What stands before the paths of objects: the same, and the prefix of their keys.
    base: String,
    region: String,
    fields: &'static [(&'static str, &'static str)],
    keys: KeyRing,
    skew: Arc<Skew>,
    /// Whether an answer has shown that the bucket exists: then a HEAD's 404, which has no error
    /// document, is taken for absence at once.
    is_bucket_seen: AtomicBool,
}

impl S3Origin {
    /// The bucket that `config` describes; nothing is asked yet.
    pub(super) fn new(
        wire: Wire,
        config: &S3,
        endpoints: KeyEndpoints,
        tasks: Tasks,
    ) -> Result<Self, OriginSetupError> {
        let bucket_url = bucket_url(config).ok_or_else(|| OriginSetupError::Endpoint {
            origin: Arc::clone(&wire.name),
            endpoint: config.endpoint.clone().unwrap_or_default(),
        })?;
        let base = if config.prefix.is_empty() {
            bucket_url.clone()
        } else {
            format!("{bucket_url}/{}", encode_path(&config.prefix))
        };
        let fields: &[_] =
            if config.requester_pays { &[("x-amz-request-payer", "requester")] } else { &[] };
        let region = config.region.clone();
        // Another service than AWS's has its own names of regions.
        let aws_region = config.endpoint.is_none().then(|| region.clone());
        let source =
            KeySource::new(config.credentials.clone(), aws_region, endpoints, tasks.clone());
        let skew = Arc::<Skew>::default();
        let (name, clock) = (Arc::clone(&wire.name), wire.clock.clone());
        let (time, meters) = (Arc::clone(&skew), wire.meters.clone());
        let keys = KeyRing::new(name, source, clock, time, meters, tasks);
        let is_bucket_seen = AtomicBool::new(false);
        Ok(Self { wire, bucket_url, base, region, fields, keys, skew, is_bucket_seen })
    }

    /// Asks for `ask`.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<OriginReply, FetchError> {
        self.with_keys(|keys| async move { self.ask_with(ask, keys.as_deref()).await }).await
    }

    /// Asks once, by `asked`; a second time if the clock was corrected, or if the keys were refused
    /// and there are others by now.
    async fn with_keys<T, F>(&self, asked: impl Fn(Option<Arc<Keys>>) -> F) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, FetchError>>,
    {
        let keys = self.keys.keys().await?;
        let offset = self.skew.millis();
        let mut answer = asked(keys.clone()).await;
        let Some(used) = keys else { return answer };
        if is_refused_for(&answer, is_of_the_clock) && self.skew.millis() != offset {
            answer = asked(Some(Arc::clone(&used))).await;
        }
        if !is_refused_for(&answer, is_of_the_keys) {
            return answer;
        }
        match self.keys.other_than(&used).await {
            Some(others) => asked(Some(others)).await,
            None => answer,
        }
    }

    async fn ask_with(&self, ask: &Ask, keys: Option<&Keys>) -> Result<OriginReply, FetchError> {
        let mut exchange = self.wire.send(ask.purpose(), self.request(ask, keys)?).await?;
        let is_plain_absence = exchange.status == StatusCode::NOT_FOUND
            && ask.method == Method::Head
            && self.is_bucket_seen.load(Ordering::Relaxed);
        let verdict = if is_plain_absence {
            AnswerVerdict::Absent(Absence::Known)
        } else {
            let learn = || self.request(&learning(ask), keys);
            self.wire.judge(Dialect::S3, ask, &mut exchange, learn).await?
        };
        if let AnswerVerdict::Refused { code, .. } = &verdict
            && is_of_the_clock(code)
        {
            self.correct_clock(&exchange.heard);
        }
        if matches!(verdict, AnswerVerdict::Found | AnswerVerdict::Absent(Absence::Known)) {
            self.is_bucket_seen.store(true, Ordering::Relaxed);
        }
        self.wire.settle(ask, exchange, verdict)
    }

    /// Learns by how much this machine's clock is wrong from the answer that refuses its time.
    fn correct_clock(&self, heard: &ResponseHead) {
        if let SkewUpdate::Offset { millis } =
            self.skew.hear(&heard.headers, heard.response_time.wall)
        {
            self.wire.meters.clock_corrected();
            tracing::warn!(
                origin = %self.wire.name,
                seconds = millis / 1_000,
                "own clock is wrong, signatures use the origin's time"
            );
        }
    }

    /// The request for the key that is `ask`'s path behind the prefix, without its leading slash.
    fn request(&self, ask: &Ask, keys: Option<&Keys>) -> Result<OutboundRequest, FetchError> {
        let url = format!("{}{}", self.base, encode_path(&ask.path));
        self.signed(ask.method, &url, ask_fields(ask), keys)
    }

    /// A request with `fields` and those that every request has, signed if there are `keys`.
    fn signed(
        &self,
        method: Method,
        url: &str,
        mut fields: HeaderMap,
        keys: Option<&Keys>,
    ) -> Result<OutboundRequest, FetchError> {
        let uri: Uri =
            url.parse().map_err(|error| self.wire.protocol(format!("no URL: {url}: {error}")))?;
        fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        match keys {
            None => {
                for (name, value) in self.fields {
                    fields.insert(*name, HeaderValue::from_static(value));
                }
            }
            Some(keys) => {
                let what = Signable {
                    method,
                    uri: &uri,
                    region: &self.region,
                    fields: self.fields,
                    at: self.skew.now(&self.wire.clock),
                };
                let signed =
                    signed_fields(what, keys).map_err(|error| FetchError::Credentials {
                        origin: Arc::clone(&self.wire.name),
                        code: "unusable".to_owned(),
                        detail: error.to_string(),
                    })?;
                fields.extend(signed);
            }
        }
        let mut request = Request::builder()
            .method(method.as_http())
            .uri(uri)
            .body(no_body())
            .map_err(|error| self.wire.protocol(format!("no request for {url}: {error}")))?;
        *request.headers_mut() = fields;
        Ok(request)
    }
}

/// Whether the answer is a refusal with a code of this kind.
fn is_refused_for<T>(answer: &Result<T, FetchError>, is_of: fn(&str) -> bool) -> bool {
    matches!(answer, Err(FetchError::Credentials { code, .. }) if is_of(code))
}

fn is_of_the_clock(code: &str) -> bool {
    code == "RequestTimeTooSkewed"
}

/// Whether other keys may serve; what tells of the bucket, the region or the account does not.
fn is_of_the_keys(code: &str) -> bool {
    let of_others = [
        "NoSuchBucket",
        "RequestExpired",
        "AuthorizationHeaderMalformed",
        "AccountProblem",
        "unusable",
    ];
    !is_of_the_clock(code) && !of_others.contains(&code)
}

/// What stands before a key in its URL; `None` if the endpoint is not `scheme://host[:port]` with
/// or without a path.
pub(super) fn bucket_url(config: &S3) -> Option<String> {
    let region = &config.region;
    let amazon = || {
        let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
        format!("https://s3.{region}.amazonaws.com{suffix}")
    };
    let endpoint = config.endpoint.clone().unwrap_or_else(amazon);
    let uri: Uri = endpoint.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    if !matches!(scheme, "http" | "https") || uri.query().is_some() {
        return None;
    }
    let path = uri.path().trim_end_matches('/');
    let bucket = encode_path(&config.bucket);
    let base = match config.addressing {
        S3Addressing::Path => format!("{scheme}://{authority}{path}/{bucket}"),
        S3Addressing::VirtualHost => format!("{scheme}://{bucket}.{authority}{path}"),
    };
    base.parse::<Uri>().ok().map(|_| base)
}

#[cfg(test)]
mod tests;
