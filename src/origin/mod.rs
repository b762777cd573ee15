//! Upstreams: pick, sign, retry, hedge, fail over, remember health. One [`Origins`] per site, as
//! long lived as its configuration; cloning shares it; no lock across an await. Called by `fill`
//! alone, and by `app` for the self test at start.
//!
//! What is remembered of an origin (its breaker, pace, budgets and times) is about the origin, not
//! about any object. A purge does not touch it, and a restart or a reload begins anew. The only
//! answer to a client that is made of it is the failure of an origin that was not asked.
//!
//! # An origin in trouble
//!
//! - The next origin is asked after an absence, unless that is final, and after a failure. A path
//!   is absent if all origins said so (`order`).
//! - The outage of an optional origin counts as an absence if no other origin has the object or
//!   fails. It reaches `fill` as an error of its own, so that a stale object serves as in any
//!   outage and no tier remembers the 404.
//! - A breaker skips an origin after failures in a row. One that took a deadline counts more, since
//!   each further request would pay for the doubt. An origin skipped by its breaker counts as
//!   failed, never as absent, so `stale_if_error` holds (`breaker`). Probes are sent by `watch`, so
//!   no client pays for them.
//! - An origin that throttles gets half of its requests, and more again by steps. Narinfos go
//!   first, and every fourth request is of another class (`pace`).
//! - An origin that says nothing for far longer than usual has the next one asked beside it, and
//!   is asked after it while that goes on (`silence`).
//! - Retries are a fifth of the requests, beside a reserve of ten. Hedges are a twentieth of the
//!   requests for small objects, without a reserve (`budget`).
//! - A hedge is sent after twice the lower bound of the observed 95th percentile (`first_bytes`).
//!   The percentile itself would miss a slow twentieth half of the time.
//! - An eighth of `connections_max` is never given to NARs (`slots`).
//! - A connection that is lost, or not made, is one failure for the breaker and one retry of the
//!   budget, however many requests it had.
//! - Each phase has a deadline that any progress renews: connection, upload, first byte, and each
//!   piece of a body. No body has a deadline for the whole.
//! - Whatever status an HTTP origin of a generic site answers with is about the path: its breaker
//!   counts only requests without an answer, and its pace ignores 429 and 503.

mod answers;
mod asker;
mod breaker;
mod budget;
mod cost;
mod credentials;
mod drain;
pub mod exchange;
mod fault;
mod file;
mod first_bytes;
mod forward;
mod health;
mod hedge;
mod http;
mod jitter;
mod key_endpoints;
mod key_source;
mod login;
mod meters;
mod netrc;
mod order;
mod pace;
mod response;
mod s3;
mod secret;
mod setup_error;
mod sign;
mod silence;
mod skew;
mod slots;
mod upload_body;
mod uploads;
mod upstream;
mod verdict;
mod watch;
mod wire;

pub use asker::Asker;
pub use exchange::{
    Ask, BodyError, FetchError, FetchReason, Method, OriginAnswer, RangeAsked, Retries, SlotLimit,
};
pub use forward::{ForwardRequest, InterimObserver};
pub use health::OriginHealth;
pub use response::{Response, ResponseBody};
pub use s3::Page;
pub use setup_error::OriginSetupError;
pub use upload_body::ClientBody;

use crate::client::{
    Client, ClientSettings, ProxyRule, ProxyUse, ProxyVariables, TlsTrust, Trusts,
};
use crate::clock::{Clock, Moment, Timestamp};
use crate::config::{
    AbsenceOf, CertificateFiles, HttpVersion, Origin, OriginProxy, OriginUrl, Site,
};
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use ::http::HeaderMap;
use answers::{AfterAttempt, OriginAnswers};
use breaker::{Breaker, Probes};
use budget::Budget;
use drain::Drains;
use file::{FolderContents, FolderOrigin};
use first_bytes::FirstBytes;
use forward::AnswerStanding;
use futures_util::future::join_all;
use health::HealthRecord;
use http::HttpOrigin;
use key_endpoints::KeyEndpoints;
use login::Keeper;
use meters::{HedgeFate, OriginMeters};
use pace::OriginPacer;
use s3::{BucketPlace, S3Origin};
use silence::{LARGE_SILENCE_MAX, SILENCE_MAX, Silence};
use slots::Slots;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use upstream::{OriginKind, ProbeTarget, Upstream, is_small};
use watch::OriginWatch;
use wire::Wire;

/// How the endpoints that hand out keys are asked.
const KEY_ENDPOINT_SETTINGS: ClientSettings = ClientSettings {
    connect: key_endpoints::CONNECT,
    first_byte: key_endpoints::ANSWER,
    requests_max: key_endpoints::REQUESTS_MAX,
    version: HttpVersion::Auto,
};

/// The origins of one site, in the order in which they are asked.
#[derive(Debug, Clone)]
pub struct Origins {
    upstreams: Arc<[Arc<Upstream>]>,
    recovery: Arc<Notify>,
}

impl Origins {
    /// The origins of `site`. Reads certificate files, but for those that `trusts` has; connects to
    /// nothing and needs no keys yet, so that an edge starts while its origins are away.
    pub fn new(
        site: &Site,
        clock: Clock,
        metrics: Metrics,
        tasks: Tasks,
        trusts: &mut Trusts,
    ) -> Result<Self, OriginSetupError> {
        let recovery = Arc::<Notify>::default();
        let mut setup = Setup {
            site,
            clock,
            metrics,
            tasks,
            trusts,
            proxies: ProxyVariables::of_process(),
            recovery: Arc::clone(&recovery),
        };
        let upstreams = site.origins.iter().enumerate();
        let upstreams = upstreams.map(|(position, origin)| setup.upstream(position, origin));
        Ok(Self { upstreams: upstreams.collect::<Result<Vec<_>, _>>()?.into(), recovery })
    }

    /// Asks the origins in their order for this path until one has the object or says that it has
    /// not changed. Only origins for this path are asked; if there are none, it is absent.
    ///
    /// An origin that says absent or fails is followed by the next, unless its absence is final.
    /// The answer is absent only if every origin asked said so; if one failed, or was left alone,
    /// and none had the object, the first failure is the result. The outage of an optional origin
    /// is the result only if no other failed, and as [`FetchError::Optional`].
    ///
    /// Each origin is asked at most three times, and only before a head has arrived; for a small
    /// object a further time, or the next origin of the same priority, if the first answer is slow.
    /// Those to avoid come last. Dropping the future ends the request.
    pub async fn fetch(&self, ask: &Ask) -> Result<OriginAnswer<Response>, FetchError> {
        let mut said = OriginAnswers::default();
        let mut left: VecDeque<&Arc<Upstream>> = order::in_order(&self.upstreams, ask).into();
        // Those that say nothing come after the others.
        left.make_contiguous().sort_by_key(|upstream| upstream.silence.holds());
        while let Some(upstream) = left.pop_front() {
            let next = left.front().copied();
            let answers = match next.filter(|next| may_stand_in(ask, upstream, next)) {
                None => {
                    let partner = partner(ask, upstream, next);
                    asked(ask, upstream, partner, &AtomicBool::new(false)).await
                }
                Some(stand_in) => asked_beside(ask, upstream, stand_in).await,
            };
            for (upstream, answer) in answers {
                // An origin that was asked beside another is not asked again.
                left.retain(|other| other.position != upstream.position);
                match said.hear(upstream, answer) {
                    AfterAttempt::Answer(answer) => return Ok(*answer),
                    AfterAttempt::NothingMore => left.clear(),
                    AfterAttempt::GoOn => {}
                }
            }
        }
        match said.result() {
            // The rest of a body is no object by itself.
            Some(Err(FetchError::Optional(error))) if ask.only.is_some() => Err(*error),
            Some(result) => result,
            None if ask.only.is_none_or(|only| only < self.upstreams.len()) => Ok(self.nowhere()),
            None => Err(FetchError::Protocol {
                origin: ask.only.map_or_else(|| "none".into(), |only| only.to_string().into()),
                detail: "no origin has this position".to_owned(),
            }),
        }
    }

    /// Sends a client's request to the origins in their order until one has a final answer.
    ///
    /// A request that may be repeated goes on to the next origin if one fails, is in trouble (500,
    /// 502, 503, 504) or has no such object; any other goes to the first alone. Absence is the
    /// answer only if every origin asked said so; else the first trouble is. An origin of another
    /// priority than the first is another service, so it gets no credentials and no cookies that
    /// were meant for that. Dropping the future ends the request.
    pub async fn forward(&self, forward: ForwardRequest) -> Result<Response, FetchError> {
        let upstreams = order::for_forward(&self.upstreams, &forward.path);
        // The first of all, also if another one alone is asked: for the rest of a body.
        let first = upstreams.first().map(|upstream| upstream.priority);
        let only = forward.only;
        let is_asked = |one: &&Arc<Upstream>| only.is_none_or(|only| only == one.position);
        let (mut next, mut trouble, mut absent) = (Some(forward), None, None);
        let mut upstreams = upstreams.into_iter().filter(is_asked).peekable();
        while let (Some(forward), Some(upstream)) = (next.take(), upstreams.next()) {
            let has_next = upstreams.peek().is_some();
            next = (has_next && forward.may_repeat()).then(|| forward.again());
            let is_peer = first == Some(upstream.priority);
            let forward = if is_peer { forward } else { forward.anonymous() };
            match upstream.forward(forward).await {
                Ok(response) => match forward::standing(response.status) {
                    AnswerStanding::Final => return Ok(response),
                    AnswerStanding::Absent => {
                        absent = Some(response);
                        if upstream.absence == AbsenceOf::Final {
                            next = None;
                        }
                    }
                    AnswerStanding::Trouble => {
                        trouble.get_or_insert(Ok(response));
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "origin failed");
                    trouble.get_or_insert(Err(error));
                }
            }
        }
        match (trouble, absent) {
            (Some(trouble), _) => trouble,
            (None, Some(absent)) => Ok(absent),
            (None, None) => Err(FetchError::Protocol {
                origin: "none".into(),
                detail: "no origin is asked for this path: see only_for and never_for".to_owned(),
            }),
        }
    }

    /// What is said of an object that no origin is ever asked for: it is nowhere.
    fn nowhere(&self) -> OriginAnswer<Response> {
        let epoch = Moment::at(Timestamp::from_secs(0));
        let now = self.upstreams.first().map_or(epoch, |one| one.clock.moment());
        let headers = HeaderMap::new();
        OriginAnswer::Absent { headers, origin: 0, request_time: now.edge, response_time: now }
    }

    /// The self test at start: probes every origin at once, so that wrong addresses and
    /// credentials are seen in the log, in [`Origins::health`] and in the result before a client
    /// meets them. Ends within each origin's deadlines. From then on those that are to be probed
    /// while they are idle are.
    pub async fn probe(&self) -> Vec<(Arc<str>, Result<(), FetchError>)> {
        let probes = self
            .upstreams
            .iter()
            .map(|upstream| async { (Arc::clone(&upstream.name), upstream.probe().await) });
        let results = join_all(probes).await;
        for upstream in self.upstreams.iter() {
            upstream.watch_idle();
        }
        results
    }

    /// The keys behind `after` in the bucket that is the origin at `position`, as many as a page
    /// has, in order; never fewer than there are. Asked once.
    pub async fn page(&self, position: usize, after: &str) -> Result<Page, FetchError> {
        match self.upstreams.get(position).map(|upstream| &upstream.kind) {
            Some(OriginKind::S3(origin)) => origin.page(after).await,
            Some(OriginKind::Http(_) | OriginKind::Folder(_)) | None => Err(FetchError::Protocol {
                origin: self.name(position),
                detail: "is no bucket, and cannot be listed".to_owned(),
            }),
        }
    }

    /// Completes when one of the origins that was not usable answers usably, from the moment of
    /// this call on: a caller waits for an origin to come back without asking it.
    pub fn recovered(&self) -> impl Future<Output = ()> + use<> {
        Arc::clone(&self.recovery).notified_owned()
    }

    /// Requests for objects that wait for a connection to an origin which has none left for an
    /// object of this class.
    pub fn waiting(&self, class: Class) -> usize {
        self.upstreams.iter().map(|upstream| upstream.slots.waiting(class)).sum()
    }

    /// The state of every origin, in their order.
    pub fn health(&self) -> Vec<OriginHealth> {
        self.upstreams.iter().map(|upstream| upstream.health()).collect()
    }

    /// The name of the origin at `position`.
    pub fn name(&self, position: usize) -> Arc<str> {
        let upstream = self.upstreams.get(position);
        upstream.map_or_else(|| "none".into(), |upstream| Arc::clone(&upstream.name))
    }

    /// How many origins there are: positions are below this.
    pub fn len(&self) -> usize {
        self.upstreams.len()
    }

    /// Whether there is none; a checked configuration always has one.
    pub fn is_empty(&self) -> bool {
        self.upstreams.is_empty()
    }
}

/// Whether an origin may be asked beside the one before it that says nothing.
fn may_stand_in(ask: &Ask, upstream: &Upstream, next: &Upstream) -> bool {
    let is_usable = next.breaker.is_closed() && next.pacer.is_free();
    let is_due = upstream.absence == AbsenceOf::Next && ask.retries == Retries::Usual;
    is_usable && is_due && !ask.avoid.contains(&next.position)
}

/// What `upstream` says, and `partner` if it is slower than usual and a hedge `is_begun`.
async fn asked<'a>(
    ask: &Ask,
    upstream: &'a Arc<Upstream>,
    partner: Option<&'a Arc<Upstream>>,
    is_begun: &AtomicBool,
) -> Vec<UpstreamAnswer<'a>> {
    match partner {
        None => vec![(upstream, upstream.ask(ask).await)],
        Some(partner) => {
            let answers = hedged(ask, upstream, partner, is_begun).await;
            answers.into_iter().flatten().collect()
        }
    }
}

/// The same, and what `stand_in` says if `upstream` says nothing for far longer than usual: the
/// first good answer counts.
async fn asked_beside<'a>(
    ask: &Ask,
    upstream: &'a Arc<Upstream>,
    stand_in: &'a Arc<Upstream>,
) -> Vec<UpstreamAnswer<'a>> {
    let (partner, is_hedged) = (partner(ask, upstream, Some(stand_in)), AtomicBool::new(false));
    // As a hedge, it is asked sooner, if the budget allows that.
    let is_partner = partner.is_some_and(|partner| partner.position == stand_in.position);
    let beside = Ask { reason: Some(FetchReason::Hedge), ..ask.clone() };
    let begin = || {
        if is_partner && is_hedged.load(Ordering::Relaxed) {
            return None;
        }
        let slot =
            stand_in.slots.now(ask.class).filter(|_| may_stand_in(ask, upstream, stand_in))?;
        upstream.meters.hedged(HedgeFate::Begun);
        Some(Box::pin(async {
            let answer = stand_in.ask_in(&beside, slot).await;
            vec![(stand_in, answer)]
        }))
    };
    let is_good = |answers: &Vec<UpstreamAnswer<'_>>| {
        let mut said = answers.iter().map(|(_, said)| said);
        said.any(|said| said.as_ref().is_ok_and(|it| !matches!(it, OriginAnswer::Absent { .. })))
    };
    let usual = upstream.first_bytes.hedge_after().unwrap_or_default();
    // How long an origin takes for a large object says less of it.
    let silence = if is_small(ask) { SILENCE_MAX } else { LARGE_SILENCE_MAX };
    let own = Box::pin(asked(ask, upstream, partner, &is_hedged));
    let raced = hedge::race(own, usual.max(silence), begin, is_good).await;
    let has_answered =
        |(by, said): &UpstreamAnswer<'_>| by.position == upstream.position && said.is_ok();
    match &raced.first {
        None => {
            upstream.meters.hedged(HedgeFate::Won);
            if is_small(ask) {
                upstream.is_silent();
            }
        }
        Some(own) if own.iter().any(has_answered) => upstream.silence.end(),
        Some(_) => {}
    }
    raced.first.into_iter().chain(raced.second).flatten().collect()
}

/// The origin to ask beside `upstream` if it is slow: the `next` one, if it is of the same priority
/// and may be asked at once, else itself. None if it is not known what slow is, or if no origin is
/// to be asked twice.
fn partner<'a>(
    ask: &Ask,
    upstream: &'a Arc<Upstream>,
    next: Option<&'a Arc<Upstream>>,
) -> Option<&'a Arc<Upstream>> {
    if !is_small(ask) || ask.retries == Retries::None {
        return None;
    }
    upstream.hedges.earn();
    upstream.first_bytes.hedge_after()?;
    let is_peer = |next: &&Arc<Upstream>| {
        next.priority == upstream.priority
            && upstream.absence == AbsenceOf::Next
            && !ask.avoid.contains(&next.position)
            && next.breaker.is_closed()
            && next.pacer.is_free()
    };
    Some(next.filter(is_peer).unwrap_or(upstream))
}

type UpstreamAnswer<'a> = (&'a Arc<Upstream>, Result<OriginAnswer<Response>, FetchError>);

/// Asks `upstream`, and `partner` too if it is slow: what each of them said, the answer that
/// counts behind the one that does not.
async fn hedged<'a>(
    ask: &Ask,
    upstream: &'a Arc<Upstream>,
    partner: &'a Arc<Upstream>,
    is_begun: &AtomicBool,
) -> [Option<UpstreamAnswer<'a>>; 2] {
    let is_same = partner.position == upstream.position;
    let hedge = Ask { reason: Some(FetchReason::Hedge), retries: Retries::None, ..ask.clone() };
    let begin = || {
        let may_be_asked = partner.breaker.is_closed() && partner.pacer.is_free();
        let slot = partner.slots.now(ask.class).filter(|_| may_be_asked)?;
        if !upstream.hedges.spend() {
            upstream.meters.hedged(HedgeFate::Refused);
            return None;
        }
        upstream.meters.hedged(HedgeFate::Begun);
        is_begun.store(true, Ordering::Relaxed);
        Some(Box::pin(partner.ask_in(&hedge, slot)))
    };
    let is_good = |said: &Result<OriginAnswer<Response>, FetchError>| match said {
        // The absence of one of several is no answer yet.
        Ok(OriginAnswer::Absent { .. }) => is_same,
        Ok(_) => true,
        Err(_) => false,
    };
    let wait = upstream.first_bytes.hedge_after().unwrap_or(Duration::MAX);
    let raced = hedge::race(Box::pin(upstream.ask(ask)), wait, begin, is_good).await;
    if raced.second.as_ref().is_some_and(&is_good) {
        upstream.meters.hedged(HedgeFate::Won);
    }
    // If both answered, one of the two is not good: a failure of the same origin that has
    // answered since is none.
    let (first, second) = match (raced.first, raced.second) {
        (Some(Err(_)), Some(second)) if is_same => (None, Some(second)),
        (Some(first), Some(Err(_))) if is_same => (Some(first), None),
        spoken => spoken,
    };
    [first.map(|said| (upstream, said)), second.map(|said| (partner, said))]
}

/// What the origins of one site are made with.
struct Setup<'a> {
    site: &'a Site,
    clock: Clock,
    metrics: Metrics,
    tasks: Tasks,
    trusts: &'a mut Trusts,
    proxies: ProxyVariables,
    recovery: Arc<Notify>,
}

impl Setup<'_> {
    fn upstream(
        &mut self,
        position: usize,
        origin: &Origin,
    ) -> Result<Arc<Upstream>, OriginSetupError> {
        let name: Arc<str> = origin.name.as_str().into();
        let meters = self.meters(origin);
        self.tell_proxy(origin);
        let kind = self.kind(position, origin)?;
        let (probing, probes) = match kind {
            _ if self.site.caching.is_none() => (ProbeTarget::CacheInfo, Probes::Tell),
            OriginKind::Http(_) => (ProbeTarget::Head("/"), Probes::MayMislead),
            // A bucket has no root.
            OriginKind::S3(_) | OriginKind::Folder(_) => {
                (ProbeTarget::Head("/nix-cache-info"), Probes::Tell)
            }
        };
        let deadline = origin.timeouts.connect;
        let recovery = Arc::clone(&self.recovery);
        Ok(Arc::new(Upstream {
            position,
            priority: origin.priority,
            weight: origin.weight,
            absence: origin.absence,
            necessity: origin.necessity,
            turns: origin.turns.clone(),
            kind,
            slots: Slots::new(Arc::clone(&name), origin.connections_max, deadline),
            breaker_settings: origin.breaker,
            breaker: Breaker::new(origin.breaker, probes, meters.clone()),
            probing,
            pacer: OriginPacer::new(meters.clone()),
            turn_deadline: deadline,
            retries: Budget::of_retries(origin.budget.retries_percent),
            hedges: Budget::of_hedges(origin.budget.hedges_percent),
            first_bytes: FirstBytes::default(),
            silence: Silence::default(),
            watch: OriginWatch::new(self.tasks.clone()),
            asked_at: Mutex::new(Instant::now()),
            health: HealthRecord::new(Arc::clone(&name), meters.clone(), recovery),
            meters,
            clock: self.clock.clone(),
            name,
        }))
    }

    fn kind(&mut self, position: usize, origin: &Origin) -> Result<OriginKind, OriginSetupError> {
        Ok(match &origin.url {
            OriginUrl::S3(bucket) => {
                let wire = self.wire(position, origin)?;
                let trust = self.trust(origin, None)?;
                let proxies = ProxyRule::of(&origin.proxy, &self.proxies, ProxyUse::KeyEndpoints);
                let client = Client::new(&trust, KEY_ENDPOINT_SETTINGS, proxies);
                let endpoints = KeyEndpoints::new(client);
                OriginKind::S3(Box::new(S3Origin::new(
                    wire,
                    bucket,
                    endpoints,
                    self.tasks.clone(),
                )?))
            }
            OriginUrl::Http(base) => {
                let wire = self.wire(position, origin)?;
                let hosts = &self.site.follow_redirects_to;
                let is_special =
                    origin.identity.is_some() || origin.http_version != HttpVersion::Auto;
                let elsewhere = if is_special {
                    Some(self.client(origin, None, HttpVersion::Auto)?)
                } else {
                    None
                };
                let keeper = Keeper::new(origin, base, self.tasks.clone());
                OriginKind::Http(Box::new(HttpOrigin::new(wire, base, hosts, keeper, elsewhere)))
            }
            OriginUrl::File(root) => OriginKind::Folder(Box::new(FolderOrigin {
                name: origin.name.as_str().into(),
                position,
                root: root.clone(),
                holds: if self.site.caching.is_some() {
                    FolderContents::Files
                } else {
                    FolderContents::BinaryCache
                },
                clock: self.clock.clone(),
                meters: self.meters(origin),
                tasks: self.tasks.clone(),
                timeouts: origin.timeouts.clone(),
            })),
        })
    }

    fn meters(&self, origin: &Origin) -> OriginMeters {
        OriginMeters::new(self.metrics.clone(), origin.name.as_str().into(), origin.prices)
    }

    fn wire(&mut self, position: usize, origin: &Origin) -> Result<Wire, OriginSetupError> {
        let name: Arc<str> = origin.name.as_str().into();
        Ok(Wire {
            meters: self.meters(origin),
            name,
            position,
            client: self.client(origin, origin.identity.as_ref(), origin.http_version)?,
            clock: self.clock.clone(),
            timeouts: origin.timeouts.clone(),
            drains: Drains::new(self.tasks.clone()),
        })
    }

    /// A client that shows `identity` if it is asked for a certificate.
    fn client(
        &mut self,
        origin: &Origin,
        identity: Option<&CertificateFiles>,
        version: HttpVersion,
    ) -> Result<Client, OriginSetupError> {
        let trust = self.trust(origin, identity)?;
        let settings = ClientSettings {
            connect: origin.timeouts.connect,
            first_byte: origin.timeouts.first_byte,
            requests_max: origin.connections_max,
            version,
        };
        Ok(Client::new(&trust, settings, self.proxy_rule(origin)))
    }

    fn proxy_rule(&self, origin: &Origin) -> ProxyRule {
        ProxyRule::of(&origin.proxy, &self.proxies, ProxyUse::Origin)
    }

    /// Logs which proxy an origin is asked through, and what in the environment names none.
    fn tell_proxy(&self, origin: &Origin) {
        let url = match &origin.url {
            OriginUrl::S3(bucket) => {
                BucketPlace::of(bucket).and_then(|place| place.bucket_url.parse().ok())
            }
            OriginUrl::Http(url) => Some(url.clone()),
            OriginUrl::File(_) => None,
        };
        let Some(url) = url else { return };
        if let Some(proxy) = self.proxy_rule(origin).place(&url) {
            tracing::info!(origin = origin.name, proxy, "origin is asked through a proxy");
        }
        let is_unusable = |scheme: &&str| url.scheme_str() == Some(*scheme);
        if origin.proxy == OriginProxy::Environment
            && let Some(scheme) = self.proxies.unusable().into_iter().find(is_unusable)
        {
            let name = origin.name.as_str();
            tracing::warn!(
                origin = name,
                scheme,
                "proxy variable is no http://HOST:PORT, not used"
            );
        }
    }

    fn trust(
        &mut self,
        origin: &Origin,
        identity: Option<&CertificateFiles>,
    ) -> Result<TlsTrust, OriginSetupError> {
        self.trusts.load(origin.ca_file.as_deref(), identity).map_err(|source| {
            OriginSetupError::Trust { origin: origin.name.as_str().into(), source }
        })
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
