//! An S3 bucket as an origin: addresses keys, signs, tells absence from broken credentials. One
//! per origin, as long lived as it; no lock across an await.
//!
//! What a refusal may mend is tried once each: the time of signatures is corrected by the origin's
//! clock, the region by what the origin names (`place`), and keys are looked for again.

mod list;
mod place;

pub use list::Page;
pub(super) use place::BucketPlace;

use super::credentials::KeyRing;
use super::exchange::{Ask, FetchError, Method};
use super::key_endpoints::KeyEndpoints;
use super::key_source::{KeySource, Keys};
use super::setup_error::OriginSetupError;
use super::sign::{Signable, signed_fields};
use super::skew::{Skew, SkewUpdate};
use super::verdict::{Absence, AnswerVerdict, Dialect};
use super::wire::{Exchange, OriginReply, ResponseHead, USER_AGENT, Wire, ask_fields, learning};
use crate::client::{OutboundRequest, no_body};
use crate::config::S3;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use place::NamedPlace;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A bucket.
#[derive(Debug)]
pub(super) struct S3Origin {
    wire: Wire,
    /// The place of the bucket, as far as is known.
    place: Mutex<Arc<BucketPlace>>,
    /// Whether it was logged that the bucket sends requests to another URL.
    is_redirect_told: AtomicBool,
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
        let place = BucketPlace::of(config).ok_or_else(|| OriginSetupError::Endpoint {
            origin: Arc::clone(&wire.name),
            endpoint: config.endpoint.clone().unwrap_or_default(),
        })?;
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
        Ok(Self {
            wire,
            place: Mutex::new(Arc::new(place)),
            is_redirect_told: AtomicBool::new(false),
            fields,
            keys,
            skew,
            is_bucket_seen: AtomicBool::new(false),
        })
    }

    /// Asks for `ask`.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<OriginReply, FetchError> {
        self.with_keys(|keys| async move { self.ask_with(ask, keys.as_deref()).await }).await
    }

    /// Asks once, by `asked`; a second time if the bucket is in another region than was known, if
    /// the clock was corrected, or if the keys were refused and there are others by now.
    async fn with_keys<T, F>(&self, asked: impl Fn(Option<Arc<Keys>>) -> F) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, FetchError>>,
    {
        let keys = self.keys.keys().await?;
        let (offset, place) = (self.skew.millis(), self.place());
        let mut answer = asked(keys.clone()).await;
        if answer.is_err() && !Arc::ptr_eq(&place, &self.place()) {
            answer = asked(keys.clone()).await;
        }
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
        let place = self.place();
        let url = place.url(&ask.path);
        let request = |ask: &Ask| self.signed(ask.method, &url, ask_fields(ask), &place, keys);
        let mut exchange = self.wire.send(ask.purpose(), request(ask)?).await?;
        let is_plain_absence = exchange.status == StatusCode::NOT_FOUND
            && ask.method == Method::Head
            && self.is_bucket_seen.load(Ordering::Relaxed);
        let verdict = if is_plain_absence {
            AnswerVerdict::Absent(Absence::Known)
        } else {
            let learn = || request(&learning(ask));
            self.wire.judge(Dialect::S3, ask, &mut exchange, learn).await?
        };
        if verdict == AnswerVerdict::Redirect {
            // Boxed, since it is rare: every request would be as large.
            return Box::pin(self.redirected(ask, exchange, &place, keys)).await;
        }
        if let AnswerVerdict::Refused { code, region, .. } = &verdict {
            if is_of_the_clock(code) {
                self.correct_clock(&exchange.heard);
            }
            self.learn_region(&place, region.as_deref());
        }
        if matches!(verdict, AnswerVerdict::Found | AnswerVerdict::Absent(Absence::Known)) {
            self.is_bucket_seen.store(true, Ordering::Relaxed);
        }
        self.wire.settle(ask, exchange, verdict)
    }

    /// Follows a redirect of a bucket once. If it names the region, that is learnt and the error is
    /// that it was not known; a URL of the same service is asked for this object alone.
    async fn redirected(
        &self,
        ask: &Ask,
        mut exchange: Exchange,
        place: &BucketPlace,
        keys: Option<&Keys>,
    ) -> Result<OriginReply, FetchError> {
        let status = exchange.status;
        let named = self.named_place(ask.method, &mut exchange).await?;
        if self.learn_region(place, named.region.as_deref()) == RegionUpdate::Learnt {
            return Err(self.elsewhere(status, &named));
        }
        let Some(url) = named.location.as_ref().filter(|url| place.permits(url)) else {
            return Err(self.elsewhere(status, &named));
        };
        if !self.is_redirect_told.swap(true, Ordering::Relaxed) {
            let (origin, host) = (&self.wire.name, url.authority().map(ToString::to_string));
            tracing::warn!(%origin, host, "bucket redirects requests, see endpoint in its url");
        }
        let url = url.to_string();
        let request = |ask: &Ask| self.signed(ask.method, &url, ask_fields(ask), place, keys);
        let mut exchange = self.wire.send(ask.purpose(), request(ask)?).await?;
        let learn = || request(&learning(ask));
        let verdict = self.wire.judge(Dialect::S3, ask, &mut exchange, learn).await?;
        if verdict == AnswerVerdict::Redirect {
            return Err(self.wire.protocol("redirects a second time"));
        }
        self.wire.settle(ask, exchange, verdict)
    }

    /// What a redirect says of the bucket's place.
    async fn named_place(
        &self,
        method: Method,
        exchange: &mut Exchange,
    ) -> Result<NamedPlace, FetchError> {
        let fault = match method {
            Method::Get => self.wire.fault(exchange).await?,
            Method::Head => None,
        };
        Ok(NamedPlace::of(&exchange.heard.headers, fault.as_ref()))
    }

    /// The error of a redirect that is not followed.
    fn elsewhere(&self, status: StatusCode, named: &NamedPlace) -> FetchError {
        let host = named.location.as_ref().and_then(Uri::host);
        self.wire.protocol(match (&named.region, host) {
            (Some(region), _) => {
                format!("answered {status}: the bucket is in the region {region:?}")
            }
            (None, Some(host)) => format!(
                "answered {status} to the host {host:?}, which is not of this service; check the \
                 endpoint and the region"
            ),
            (None, None) => format!(
                "answered {status}: the bucket is in another region, or the endpoint is wrong"
            ),
        })
    }

    /// Uses `region` from now on, if it is not the one of `place`, which was asked.
    fn learn_region(&self, asked: &BucketPlace, region: Option<&str>) -> RegionUpdate {
        let Some(moved) = region.and_then(|region| asked.in_region(region)) else {
            return RegionUpdate::None;
        };
        let mut place = self.place.lock();
        if **place == *asked {
            let (origin, region) = (&self.wire.name, moved.region());
            tracing::warn!(%origin, region, "bucket is in another region, write region in its url");
            *place = Arc::new(moved);
        }
        RegionUpdate::Learnt
    }

    fn place(&self) -> Arc<BucketPlace> {
        Arc::clone(&self.place.lock())
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

    /// A request with `fields` and those that every request has, signed for the region of `place`
    /// if there are `keys`.
    fn signed(
        &self,
        method: Method,
        url: &str,
        mut fields: HeaderMap,
        place: &BucketPlace,
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
                    region: place.region(),
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

/// Whether a region that was named is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RegionUpdate {
    /// It is the one that is used, or it cannot be used.
    None,
    /// It is used from now on.
    Learnt,
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

#[cfg(test)]
mod tests;
