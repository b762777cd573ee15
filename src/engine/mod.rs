//! One request, one decision table. One engine per process, shared by every connection; reads the
//! cache, begins fills, and is the one place that picks an [`Outcome`]. Holds no lock.
//!
//! | stored            | origin says      | the client gets        | outcome          |
//! |-------------------|------------------|------------------------|------------------|
//! | fresh             | is not asked     | the object             | hit_memory, hit_disk |
//! | absence, fresh    | is not asked     | 404                    | hit_absent       |
//! | stale             | 304              | the object             | revalidated      |
//! | stale             | nothing usable   | the stale object       | hit_stale        |
//! | stale or nothing  | an object        | it, while it arrives   | miss, collapsed, pass |
//! | stale or nothing  | there is none    | 404                    | absent           |
//! | nothing           | nothing usable   | 502 or 504             | origin_failed    |
//!
//! A range of what is not stored as a whole goes its own way, chunk by chunk: see `ranged`.

mod answer;
mod body;
mod connection;
mod deliver;
mod local;
mod ranged;
mod refetch;
mod rescue;
mod site;
mod spans;
mod tail;
mod tally;
mod target;

pub use body::Body;
pub use connection::{Connection, Transport};
pub use refetch::Refetched;
pub use site::{Site, Sites};
pub use spans::{Piece, Sent, Spans};

use crate::cache::{Cache, Found, Hit};
use crate::clock::Clock;
use crate::config::{Limits, Signatures};
use crate::fill::{Fills, Flight, How, Landed, Mark, NotJoined, Role, Wanted};
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::object::Proof;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::freshness::Freshness;
use crate::policy::request::{Plan, ReadMethod, Refusal, Upstream};
use crate::rfc::CdnLoop;
use crate::rfc::authority::{Authority, HostError};
use crate::telemetry::AccessLog;
use answer::Answer;
use arc_swap::ArcSwap;
use deliver::Asked;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use std::sync::Arc;
use std::time::Instant;
use target::Target;

/// What an engine is made of.
#[derive(Debug)]
pub struct EngineParts {
    /// The sites at start.
    pub sites: Sites,
    /// The tiers.
    pub cache: Cache,
    /// The fills.
    pub fills: Fills,
    /// The time.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The access log.
    pub log: Arc<AccessLog>,
    /// Limits on requests.
    pub limits: Limits,
    /// This instance's name in `CDN-Loop`.
    pub instance: Arc<str>,
}

/// Answers requests.
#[derive(Debug)]
pub struct Engine {
    sites: ArcSwap<Sites>,
    cache: Cache,
    fills: Fills,
    clock: Clock,
    metrics: Metrics,
    log: Arc<AccessLog>,
    limits: Limits,
    instance: Arc<str>,
}

/// What is known of a request once it is routed.
#[derive(Debug, Clone)]
struct Routed {
    site: Arc<Site>,
    passed: CdnLoop,
    target: Target,
    method: ReadMethod,
    upstream: Upstream,
}

/// What was looked for may be stored by now.
#[derive(Debug)]
struct Again;

impl Engine {
    /// An engine of `parts`.
    pub fn new(parts: EngineParts) -> Self {
        Self {
            sites: ArcSwap::from_pointee(parts.sites),
            cache: parts.cache,
            fills: parts.fills,
            clock: parts.clock,
            metrics: parts.metrics,
            log: parts.log,
            limits: parts.limits,
            instance: parts.instance,
        }
    }

    /// The sites as they are now.
    pub fn sites(&self) -> Arc<Sites> {
        self.sites.load_full()
    }

    /// Puts other sites in place; requests under way end with the old ones.
    pub fn replace_sites(&self, sites: Sites) {
        self.sites.store(Arc::new(sites));
    }

    /// Answers `request`. Never fails: what goes wrong becomes a status, or a body that is cut.
    ///
    /// The client's own body, if it sent one, is dropped unread.
    pub async fn handle<B>(
        self: &Arc<Self>,
        request: Request<B>,
        connection: &Arc<Connection>,
    ) -> Response<Body> {
        let (started, timestamp) = (Instant::now(), self.clock.now());
        let said = tally::Said::of(&request, timestamp);
        let (parts, _) = request.into_parts();
        let (routed, answer) = match self.route(&parts).await {
            Ok(routed) => {
                let answer = self.answer(&parts, &routed, connection).await;
                (Some(routed), answer)
            }
            Err(answer) => (None, *answer),
        };
        if let Some(reason) = answer.refused {
            self.metrics.requests_refused.with_label_values(&[reason]).inc();
        }
        let tally = tally::Tally {
            started,
            said: Some(said),
            connection: Arc::clone(connection),
            log: Arc::clone(&self.log),
            class: routed.as_ref().map_or(Class::Other, |routed| routed.target.class),
            site: routed.map(|routed| routed.site),
            outcome: answer.outcome,
            origin: answer.origin.clone(),
            status: answer.status,
            request_id: answer.request_id.clone(),
            bytes: 0,
        };
        answer.into_response(&parts, tally)
    }

    /// Logs a request that the doors refused by themselves, with `status`.
    pub fn log_refused<B>(
        &self,
        request: &Request<B>,
        status: StatusCode,
        connection: &Arc<Connection>,
    ) {
        drop(tally::Tally {
            started: Instant::now(),
            said: Some(tally::Said::of(request, self.clock.now())),
            connection: Arc::clone(connection),
            log: Arc::clone(&self.log),
            class: Class::Other,
            site: None,
            outcome: Outcome::Refused,
            origin: None,
            status,
            request_id: answer::request_id(),
            bytes: 0,
        });
    }

    /// Everything that is decided before the cache is asked.
    async fn route(&self, parts: &Parts) -> Result<Routed, Box<Answer>> {
        self.try_route(parts).await.map_err(|refusal| match refusal {
            None => Box::new(answer::preflight()),
            Some(refusal) => Box::new(answer::refused(refusal)),
        })
    }

    /// The route, or the refusal; no refusal for a preflight.
    async fn try_route(&self, parts: &Parts) -> Result<Routed, Option<Refusal>> {
        let host = match Authority::of(&parts.uri, &parts.headers) {
            Ok(authority) => Some(authority.host),
            Err(HostError::Missing) if parts.version <= Version::HTTP_10 => None,
            Err(error) => return Err(Some(error.into())),
        };
        let (method, upstream) = match policy::request::plan(&parts.method, &parts.headers)? {
            Plan::Object { method, upstream } => (method, upstream),
            Plan::Preflight => return Err(None),
        };
        let sites = self.sites();
        let site = sites.route(host.as_deref()).ok_or(Refusal::UnknownHost)?;
        let passed = CdnLoop::of(&parts.headers).map_err(Refusal::from)?;
        if passed.contains(&self.instance) {
            return Err(Some(Refusal::Loop));
        }
        let target = target::of(&parts.uri, site, &self.cache, self.limits.path_bytes_max).await?;
        Ok(Routed { site: Arc::clone(site), passed, target, method, upstream })
    }

    async fn answer(
        self: &Arc<Self>,
        parts: &Parts,
        routed: &Routed,
        connection: &Arc<Connection>,
    ) -> Answer {
        let class = routed.target.class;
        let empty = HeaderMap::new();
        // Conditions and ranges of a request are not for an answer that is only raw material.
        let (method, headers) = if local::is_own(&routed.site, class) {
            (ReadMethod::Get, &empty)
        } else {
            (routed.method, &parts.headers)
        };
        let now = self.clock.now();
        let asked = Asked { method, headers, connection, engine: self, routed, now };
        let answer = self.look_up(&asked, routed).await;
        local::adapt(answer, &routed.site, class)
    }

    async fn look_up(&self, asked: &Asked<'_>, routed: &Routed) -> Answer {
        let mark = self.fills.mark();
        let stale = match self.stored(asked, routed).await {
            Ok(answer) => return answer,
            Err(stale) => stale,
        };
        if routed.upstream == Upstream::StoredOnly {
            return answer::refused(Refusal::NotStored);
        }
        let wanted = self.wanted(routed);
        let wants_head_alone = asked.method == ReadMethod::Head && wanted.class == Class::Nar;
        if wants_head_alone && stale.is_none() && !self.fills.is_under_way(&wanted.key) {
            return self.head(asked, &wanted).await;
        }
        if stale.is_none()
            && let Some(answer) = self.ranged(asked, routed, &wanted).await
        {
            return answer;
        }
        match self.fill(asked, &wanted, stale, Some(mark)).await {
            Ok(answer) => answer,
            Err(Again) => match self.stored(asked, routed).await {
                Ok(answer) => answer,
                Err(stale) => {
                    let filled = self.fill(asked, &wanted, stale, None).await;
                    filled.unwrap_or_else(|Again| answer::fault("a fill ended before it began"))
                }
            },
        }
    }

    fn wanted(&self, routed: &Routed) -> Wanted {
        Wanted {
            upstream: Arc::clone(&routed.site.upstream),
            key: routed.target.key.clone(),
            path: Arc::clone(&routed.target.path),
            query: routed.target.query.clone(),
            class: routed.target.class,
            cdn_loop: routed.passed.extended(&self.instance),
        }
    }

    /// The answer from what is stored, if that may be used as it is; else what there is.
    async fn stored(&self, asked: &Asked<'_>, routed: &Routed) -> Result<Answer, Option<Found>> {
        let found = match self.cache.lookup(&routed.target.key).await {
            Some(Hit::Absent(meta)) => match policy::freshness::judge(&meta, asked.now) {
                Freshness::Fresh { .. } => {
                    return Ok(deliver::absent(asked, &meta, Outcome::HitAbsent.into()));
                }
                Freshness::Stale { .. } => None,
            },
            Some(Hit::Memory(found)) => Some((found, Outcome::HitMemory)),
            Some(Hit::Disk(found)) => Some((found, Outcome::HitDisk)),
            None => None,
        };
        let found = found.filter(|(found, _)| is_trusted(&routed.site, found));
        let Some((found, outcome)) = found else { return Err(None) };
        match policy::freshness::judge(found.meta(), asked.now) {
            Freshness::Fresh { .. } => Ok(deliver::found(asked, &found, outcome.into())),
            Freshness::Stale { .. } => Err(Some(found)),
        }
    }

    /// The answer of a fill, joined or begun; none where one has ended since `looked`.
    async fn fill(
        &self,
        asked: &Asked<'_>,
        wanted: &Wanted,
        stale: Option<Found>,
        looked: Option<Mark>,
    ) -> Result<Answer, Again> {
        let (role, flight) = match self.fills.join(wanted.clone(), stale.clone(), looked) {
            Ok(joined) => joined,
            Err(NotJoined::Ended) => return Err(Again),
            Err(error @ (NotJoined::NoRoom | NotJoined::Wrong { .. })) => {
                let refused = || match error {
                    NotJoined::Wrong { seconds } => answer::wrong(seconds),
                    NotJoined::NoRoom | NotJoined::Ended => answer::shed(),
                };
                return Ok(match stale {
                    Some(stale) => self.stale_or(asked, wanted, &stale, refused),
                    None => refused(),
                });
            }
        };
        Ok(self.landed(asked, wanted, stale, &flight, role).await)
    }

    /// The answer of a flight.
    async fn landed(
        &self,
        asked: &Asked<'_>,
        wanted: &Wanted,
        stale: Option<Found>,
        flight: &Flight,
        role: Role,
    ) -> Answer {
        let outcome = match role {
            Role::Lead => Outcome::Miss,
            Role::Follow => Outcome::Collapsed,
        };
        match flight.landed().await {
            Landed::Streaming { meta, growing, must_be: _ } => {
                deliver::streaming(asked, &self.cache, &meta, growing, flight, outcome).await
            }
            Landed::Whole { found, how } => {
                let outcome = match how {
                    How::Stored => outcome,
                    How::NotStored => Outcome::Pass,
                    How::Confirmed => Outcome::Revalidated,
                };
                deliver::found(
                    asked,
                    &found,
                    deliver::How { outcome, upstream_status: flight.upstream_status() },
                )
            }
            Landed::Absent(meta) => deliver::absent(
                asked,
                &meta,
                deliver::How {
                    outcome: Outcome::Absent,
                    upstream_status: flight.upstream_status(),
                },
            ),
            Landed::Passing => self.pass(asked, wanted, flight).await,
            Landed::Failed(error) => {
                let failed = || answer::failed(&error);
                match stale {
                    Some(stale) => self.stale_or(asked, wanted, &stale, failed),
                    None => failed(),
                }
            }
        }
    }

    fn stale_or(
        &self,
        asked: &Asked<'_>,
        wanted: &Wanted,
        stale: &Found,
        otherwise: impl FnOnce() -> Answer,
    ) -> Answer {
        let lifetimes = &wanted.upstream.site.lifetimes;
        let now = self.clock.now();
        if policy::freshness::may_serve_stale_if_error(stale.meta(), now, lifetimes) {
            deliver::found(asked, stale, Outcome::HitStale.into())
        } else {
            otherwise()
        }
    }

    /// A body that cannot be kept: the first reader takes it, every other asks for itself.
    async fn pass(&self, asked: &Asked<'_>, wanted: &Wanted, flight: &Flight) -> Answer {
        if let Some(passing) = flight.take_passing() {
            return deliver::passing(asked, passing, flight);
        }
        let own = self.fills.pass(wanted).await;
        match own.landed().await {
            Landed::Passing => match own.take_passing() {
                Some(passing) => deliver::passing(asked, passing, &own),
                None => answer::fault("a body passed to nobody"),
            },
            Landed::Whole { found, .. } => deliver::found(asked, &found, Outcome::Pass.into()),
            Landed::Absent(meta) => deliver::absent(asked, &meta, Outcome::Absent.into()),
            Landed::Failed(error) => answer::failed(&error),
            Landed::Streaming { .. } => answer::fault("a body that is not kept streams"),
        }
    }

    /// The head of a NAR that is not stored: its body is not fetched for it.
    async fn head(&self, asked: &Asked<'_>, wanted: &Wanted) -> Answer {
        deliver::head(asked, wanted, self.fills.head(wanted).await)
    }
}

/// Whether what is stored proves as much as the site asks for now: a narinfo that was stored while
/// signatures were not required does not serve once they are.
fn is_trusted(site: &Site, found: &Found) -> bool {
    let meta = found.meta();
    meta.class != Class::Narinfo
        || meta.proof == Proof::Signature
        || site.upstream.site.signatures != Signatures::Require
}
