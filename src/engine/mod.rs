//! One request, one decision table. One engine per process, shared by every connection; reads the
//! cache, begins fills, and is the one place that picks an [`Outcome`]. Holds no lock.
//!
//! | stored            | origin says      | the client gets        | outcome          |
//! |-------------------|------------------|------------------------|------------------|
//! | fresh             | is not asked     | the object             | hit_memory, hit_disk |
//! | absence, fresh    | is not asked     | 404                    | hit_absent       |
//! | stale             | 304              | the object             | revalidated      |
//! | stale             | nothing usable, or nothing in time | the stale object | hit_stale |
//! | stale or nothing  | an object        | it, while it arrives   | miss, collapsed, pass |
//! | stale or nothing  | there is none    | 404                    | absent           |
//! | nothing, and the site's filter knows it for absent: is not asked | 404 | absent_filter |
//! | nothing           | nothing usable   | 502 or 504             | origin_failed    |
//!
//! "In time" is `revalidation_wait` after the fill began: the fill goes on, and what it brings is
//! for later requests. Once the head of a replacement is here, a request gets that, however slowly
//! its body comes: the stored object is known to be out of date then.
//!
//! A range of what is not stored as a whole goes its own way, chunk by chunk: see `ranged`.

mod answer;
mod body;
mod connection;
mod deliver;
mod express;
mod generic;
mod interim;
mod local;
mod portion;
mod ranged;
mod refetch;
mod rescue;
mod row;
mod site;
mod spans;
mod tail;
mod tally;
mod target;
mod upload;

pub use body::Body;
pub use connection::{Connection, Transport, Turns};
pub use express::{PlainRequest, Taken};
pub use interim::Interims;
pub use portion::{Portion, Stretch};
pub use refetch::Refetched;
pub use site::{Ports, Site, Sites};
pub use spans::{Piece, Sent, Spans};

use crate::cache::{Cache, CachedObject, Hit, Stale};
use crate::client::BoxError;
use crate::clock::{Clock, Moment, Timestamp};
use crate::config::{Limits, Signatures};
use crate::fill::{Asker, Fills, FlightReader, How, Landed, Mark, NotJoined, Role, Wanted};
use crate::filter::FilterVerdict;
use crate::memory::Hot;
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::object::{Facts, Key, Proof};
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::request::{OriginUse, ReadMethod, RequestPlan, RequestRefusal};
use crate::rfc::CdnLoop;
use crate::rfc::authority::Authority;
use crate::store::Stored;
use crate::telemetry::AccessLog;
use answer::Answer;
use arc_swap::ArcSwap;
use bytes::Bytes;
use deliver::Asked;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use std::sync::Arc;
use std::time::Duration;
use tally::Begun;
use target::{Path, Target};

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

/// An answer, at once or once it is there.
pub enum Answering<B> {
    /// It is there.
    Now(Response<B>),
    /// It has to be waited for.
    Later(BoxFuture<'static, Response<B>>),
}

/// What is known of a request before anything is looked up.
#[derive(Debug)]
enum Way<'s, 'p> {
    /// It reads an object of a binary cache.
    Object(ObjectWay<'s, 'p>),
    /// It is for a generic site.
    Generic { site: &'s Arc<Site>, passed: CdnLoop },
}

/// What is known of a request for an object of a binary cache.
#[derive(Debug)]
struct ObjectWay<'s, 'p> {
    site: &'s Arc<Site>,
    passed: CdnLoop,
    path: Path<'p>,
    method: ReadMethod,
    upstream: OriginUse,
}

impl ObjectWay<'_, '_> {
    /// The same, to be kept while the answer is waited for.
    fn kept(self) -> KeptWay {
        let Self { site, passed, path, method, upstream } = self;
        KeptWay { site: Arc::clone(site), passed, path: path.kept(), method, upstream }
    }
}

/// An [`ObjectWay`] that borrows nothing.
#[derive(Debug)]
struct KeptWay {
    site: Arc<Site>,
    passed: CdnLoop,
    path: Path<'static>,
    method: ReadMethod,
    upstream: OriginUse,
}

/// What is stored and may be used as it is.
enum Usable {
    Object(CachedObject, Outcome),
    Absence(Arc<Hot>),
}

/// What may be used as it is and is in memory.
enum InMemory {
    Object(Arc<Hot>, Outcome),
    Absence(Arc<Hot>),
}

/// What is known of a request once it is routed.
#[derive(Debug, Clone)]
struct Routed {
    site: Arc<Site>,
    passed: CdnLoop,
    target: Target,
    method: ReadMethod,
    upstream: OriginUse,
}

impl Routed {
    /// Whether the site's absence filter knows that there is no such object.
    fn is_absent_by_filter(&self) -> bool {
        let Some(filter) = &self.site.filter else { return false };
        filter.check(&self.target.path, self.target.class) == Some(FilterVerdict::Absent)
    }
}

/// A stale object that serves if no origin answers, or none in time.
struct Bridge {
    stale: CachedObject,
    /// How long the answer is waited for, from the beginning of the fill.
    wait: Duration,
}

/// What was looked for may be stored by now.
#[derive(Debug)]
struct Again;

/// Why a body that cannot be kept is not to be had from a flight.
#[derive(Debug, Clone, Copy)]
enum Untaken {
    /// Readers share it, and its first byte is gone.
    Late,
    /// Its one reader has it.
    ByAnother,
}

/// Flights that a request joins or begins when it comes too late for a shared body.
const TURNS_MAX: u32 = 3;

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

    /// What it serves from.
    #[cfg(test)]
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The sites as they are now.
    pub fn sites(&self) -> Arc<Sites> {
        self.sites.load_full()
    }

    /// Puts other sites in place; requests under way end with the old ones.
    pub fn replace_sites(&self, sites: Sites) {
        self.sites.store(Arc::new(sites));
    }

    /// Answers `request`, at once where memory holds the answer. Never fails: what goes wrong
    /// becomes a status, or a body that is cut.
    ///
    /// The client's own body, if it sent one, goes to the origin of a generic site, and is dropped
    /// unread elsewhere.
    pub fn handle<B>(
        self: &Arc<Self>,
        request: Request<B>,
        connection: &Arc<Connection>,
    ) -> Answering<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Moment { edge: now, wall } = self.clock.moment();
        let begun = Begun::of(&request, wall, connection, &self.log);
        let (mut parts, body) = request.into_parts();
        let sites = self.sites.load();
        let way = match self.way(&parts, &sites) {
            Ok(Way::Object(way)) => way,
            Ok(Way::Generic { site, passed }) => {
                let (site, body) = (Arc::clone(site), generic::outbound(body, connection));
                let asked = generic::Asked { parts, site, passed, body };
                return self.generic(asked, connection, begun, now);
            }
            Err(refusal) => {
                let answer = refusal.map_or_else(answer::preflight, answer::refused);
                return Answering::Now(self.response(answer, &parts, begun, None));
            }
        };
        if let Some((hit, class)) = self.in_memory(way.site, &way.path, now) {
            let site = way.site;
            let answer = hit.answer(way.method, std::mem::take(&mut parts.headers), now, &begun);
            let answer = local::adapt(answer, site, class);
            return Answering::Now(self.response(answer, &parts, begun, Some((site, class))));
        }
        if let Some((stored, outcome, routed)) = self.open_file(&way, now) {
            let (headers, none) = (std::mem::take(&mut parts.headers), HeaderMap::new());
            let asked = Asked {
                method: routed.method,
                headers: &none,
                connection,
                engine: self,
                routed: &routed,
                now,
            };
            let answer = deliver::stored(&asked, headers, &stored, outcome);
            let counted = Some((&*routed.site, routed.target.class));
            return Answering::Now(self.response(answer, &parts, begun, counted));
        }
        let (way, engine, connection) = (way.kept(), Arc::clone(self), Arc::clone(connection));
        let later = async move { engine.later(&parts, way, &connection, begun).await };
        Answering::Later(Box::pin(later))
    }

    /// The answer to what memory alone has no answer to.
    async fn later(
        self: &Arc<Self>,
        parts: &Parts,
        way: KeptWay,
        connection: &Arc<Connection>,
        begun: Begun,
    ) -> Response<Body> {
        let target = target::of(&parts.uri, &way.site, way.path, &self.cache).await;
        match target {
            Ok(target) => {
                let KeptWay { site, passed, method, upstream, .. } = way;
                let routed = Routed { site, passed, target, method, upstream };
                let answer = self.answer(parts, &routed, connection).await;
                self.response(answer, parts, begun, Some((&routed.site, routed.target.class)))
            }
            Err(refusal) => self.response(answer::refused(refusal), parts, begun, None),
        }
    }

    /// `answer` as the connection takes it, with its account.
    fn response(
        &self,
        answer: Answer,
        parts: &Parts,
        begun: Begun,
        counted: Option<(&Site, Class)>,
    ) -> Response<Body> {
        if let Some(reason) = answer.refused {
            self.metrics.requests_refused.with_label_values(&[reason]).inc();
        }
        let tally = begun.tally(&answer, counted);
        answer.into_response(&parts.method, parts.version, tally)
    }

    /// Logs a request that the doors refused by themselves, with `status`.
    pub fn log_refused<B>(
        &self,
        request: &Request<B>,
        status: StatusCode,
        connection: &Arc<Connection>,
    ) {
        Begun::of(request, self.clock.wall(), connection, &self.log).refused(status);
    }

    /// Logs bytes that the doors could not read as a request and answered with `status`: without a
    /// method or a target, which are not known.
    pub fn log_unreadable(&self, status: StatusCode, connection: &Arc<Connection>) {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("*");
        if let Ok(unknown) = Method::from_bytes(b"-") {
            *request.method_mut() = unknown;
        }
        self.log_refused(&request, status, connection);
    }

    /// What is decided before anything is looked up; no refusal for a preflight.
    fn way<'s, 'p>(
        &self,
        parts: &'p Parts,
        sites: &'s Sites,
    ) -> Result<Way<'s, 'p>, Option<RequestRefusal>> {
        let named = Authority::of_request(parts.version, &parts.uri, &parts.headers);
        let named = named.map_err(RequestRefusal::from)?;
        let site = sites.route(named.as_ref().map(|authority| &*authority.host));
        if let Some(site) = site.filter(|site| site.upstream.site.caching.is_some()) {
            return Ok(Way::Generic { site, passed: self.passed(parts)? });
        }
        let (method, upstream) = match policy::request::plan(&parts.method, &parts.headers)? {
            RequestPlan::Object { method, upstream } => (method, upstream),
            RequestPlan::Preflight => return Err(None),
        };
        let site = site.ok_or(RequestRefusal::UnknownHost)?;
        let passed = self.passed(parts)?;
        let path = Path::of(&parts.uri, self.limits.path_bytes_max)?;
        Ok(Way::Object(ObjectWay { site, passed, path, method, upstream }))
    }

    /// The caches that a request has passed, of which this is none.
    fn passed(&self, parts: &Parts) -> Result<CdnLoop, RequestRefusal> {
        let passed = CdnLoop::of(&parts.headers).map_err(RequestRefusal::from)?;
        if passed.contains(&self.instance) { Err(RequestRefusal::Loop) } else { Ok(passed) }
    }

    /// What memory holds for a request and may be used as it is; its class.
    fn in_memory(&self, site: &Site, path: &Path<'_>, now: Timestamp) -> Option<(InMemory, Class)> {
        let class = path.class_without_claim()?;
        if local::is_own(site, class) {
            return None;
        }
        let hit = Key::with_text(site.key_space(), path.as_str(), |key| self.cache.peek(key));
        match usable(site, hit, now) {
            Ok(Usable::Object(CachedObject::Hot(hot), outcome)) => {
                Some((InMemory::Object(hot, outcome), class))
            }
            Ok(Usable::Absence(absence)) => Some((InMemory::Absence(absence), class)),
            Ok(Usable::Object(CachedObject::Stored(_), _)) | Err(_) => None,
        }
    }

    /// What may be used as it is and whose file is open since it was asked for lately, with the
    /// request as it is routed.
    fn open_file(
        &self,
        way: &ObjectWay<'_, '_>,
        now: Timestamp,
    ) -> Option<(Stored, Outcome, Routed)> {
        let class = way.path.class_without_claim()?;
        if local::is_own(way.site, class) {
            return None;
        }
        let key = Key::new(way.site.key_space(), way.path.as_str(), None);
        let hit = Hit::Disk(CachedObject::Stored(self.cache.recent(&key)?));
        let Ok(Usable::Object(CachedObject::Stored(stored), outcome)) =
            usable(way.site, Some(hit), now)
        else {
            return None;
        };
        let target = Target { key, path: way.path.as_str().into(), query: None, class };
        let (site, passed, method) = (Arc::clone(way.site), way.passed.clone(), way.method);
        Some((stored, outcome, Routed { site, passed, target, method, upstream: way.upstream }))
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
        if routed.upstream == OriginUse::StoredOnly {
            return answer::refused(RequestRefusal::NotStored);
        }
        if stale.is_none() && routed.is_absent_by_filter() {
            return answer::absent_by_filter();
        }
        let wanted = self.wanted(routed, Asker::at(asked.connection.peer.ip()));
        if stale.is_none()
            && let Some(answer) = self.ranged(asked, routed, &wanted).await
        {
            return answer;
        }
        if let Ok(answer) = self.fill(asked, &wanted, stale, Some(mark)).await {
            return answer;
        }
        // What is stored by now may have come since the request was first looked at.
        let asked = &Asked { now: self.clock.now(), ..*asked };
        match self.stored(asked, routed).await {
            Ok(answer) => answer,
            Err(stale) => {
                let filled = self.fill(asked, &wanted, stale, None).await;
                filled.unwrap_or_else(|Again| answer::fault("a fill ended before it began"))
            }
        }
    }

    fn wanted(&self, routed: &Routed, asker: Asker) -> Wanted {
        Wanted {
            upstream: Arc::clone(&routed.site.upstream),
            key: routed.target.key.clone(),
            path: Arc::clone(&routed.target.path),
            query: routed.target.query.clone(),
            class: routed.target.class,
            cdn_loop: routed.passed.extended(&self.instance),
            asker,
            reason: None,
        }
    }

    /// The answer from what is stored, if that may be used as it is; else what there is.
    async fn stored(&self, asked: &Asked<'_>, routed: &Routed) -> Result<Answer, Option<Stale>> {
        let looked = self.cache.ticket();
        let hit = self.cache.lookup(&routed.target.key).await;
        let usable = usable(&routed.site, hit, asked.now);
        Ok(match usable.map_err(|found| found.map(|found| Stale { found, looked }))? {
            Usable::Object(found, outcome) => deliver::found(asked, &found, outcome.into()),
            Usable::Absence(absence) => {
                deliver::absent(asked, &absence.meta(), Outcome::HitAbsent.into())
            }
        })
    }

    /// The answer of a fill, joined or begun; none where one has ended since `looked`. The body of
    /// a NAR is not fetched for its head alone.
    async fn fill(
        &self,
        asked: &Asked<'_>,
        wanted: &Wanted,
        stale: Option<Stale>,
        looked: Option<Mark>,
    ) -> Result<Answer, Again> {
        let bridge = stale.as_ref().and_then(|stale| Bridge::of(&stale.found, wanted, asked.now));
        let wants_head_alone = asked.method == ReadMethod::Head && wanted.class == Class::Nar;
        let joined = if wants_head_alone && stale.is_none() {
            self.fills.head(wanted.clone(), looked)
        } else {
            self.fills.join(wanted.clone(), stale.clone(), looked)
        };
        let bridge = bridge.as_ref();
        match joined {
            Ok(joined) => Ok(self.landed(asked, wanted, (stale, bridge), joined).await),
            Err(NotJoined::Ended) => Err(Again),
            Err(NotJoined::NoRoom) => Ok(Bridge::or(bridge, asked, answer::shed)),
            Err(NotJoined::Wrong { seconds }) => {
                Ok(Bridge::or(bridge, asked, || answer::wrong(seconds)))
            }
        }
    }

    /// The answer of a flight; that of the stale object where the flight does not land in time. A
    /// request that comes too late for a body that readers share joins or begins another flight.
    async fn landed(
        &self,
        asked: &Asked<'_>,
        wanted: &Wanted,
        (stale, bridge): (Option<Stale>, Option<&Bridge>),
        mut joined: (Role, FlightReader),
    ) -> Answer {
        for turn in 0..=TURNS_MAX {
            match self.try_landed(asked, wanted, bridge, joined).await {
                Ok(answer) => return answer,
                Err(Untaken::Late) if turn < TURNS_MAX => {}
                Err(Untaken::Late | Untaken::ByAnother) => break,
            }
            joined = match self.fills.join(wanted.clone(), stale.clone(), None) {
                Ok(joined) => joined,
                Err(NotJoined::Wrong { seconds }) => {
                    return Bridge::or(bridge, asked, || answer::wrong(seconds));
                }
                Err(NotJoined::NoRoom | NotJoined::Ended) => break,
            };
        }
        self.pass(asked, wanted, bridge).await
    }

    /// The answer of a flight, unless it is a body that cannot be kept, and not to be had: then the
    /// flight is left.
    async fn try_landed(
        &self,
        asked: &Asked<'_>,
        wanted: &Wanted,
        bridge: Option<&Bridge>,
        (role, flight): (Role, FlightReader),
    ) -> Result<Answer, Untaken> {
        let landed = match bridge {
            None => flight.landed().await,
            Some(bridge) => match flight.landed_within(bridge.wait).await {
                Some(landed) => landed,
                None => return Ok(bridge.answer(asked)),
            },
        };
        let came = match role {
            Role::Lead => Outcome::Miss,
            Role::Follow => Outcome::Collapsed,
        };
        let upstream_status = flight.upstream_status();
        let by = |outcome| deliver::How { outcome, upstream_status };
        Ok(match landed {
            Landed::Streaming { meta, growing, must_be: _ } => {
                deliver::streaming(asked, &self.cache, &meta, growing, &flight, came).await
            }
            Landed::Whole { found, how } => {
                let outcome = match how {
                    How::Stored => came,
                    How::NotStored => Outcome::Pass,
                    How::Confirmed | How::ConfirmedForOne => Outcome::Revalidated,
                    How::Bridged => Outcome::HitStale,
                };
                deliver::found(asked, &found, by(outcome))
            }
            Landed::Head { admitted, length } => deliver::head(asked, &admitted.meta, length),
            Landed::Absent(meta) => deliver::absent(asked, &meta, by(Outcome::Absent)),
            Landed::Passing => match flight.take_passing(wanted.asker) {
                Some(passing) => deliver::passing(asked, passing, (role, &flight)),
                None if flight.is_too_late() => return Err(Untaken::Late),
                None => return Err(Untaken::ByAnother),
            },
            Landed::Failed(error) => Bridge::or(bridge, asked, || answer::failed(&error)),
        })
    }

    /// The answer to a request that asks for itself, since the body is another reader's.
    async fn pass(&self, asked: &Asked<'_>, wanted: &Wanted, bridge: Option<&Bridge>) -> Answer {
        let own = self.fills.pass(wanted).await;
        match own.landed().await {
            Landed::Passing => match own.take_passing(wanted.asker) {
                Some(passing) => deliver::passing(asked, passing, (Role::Lead, &own)),
                None => answer::untaken(),
            },
            Landed::Whole { found, .. } => deliver::found(asked, &found, Outcome::Pass.into()),
            Landed::Absent(meta) => deliver::absent(asked, &meta, Outcome::Absent.into()),
            Landed::Failed(error) => Bridge::or(bridge, asked, || answer::failed(&error)),
            Landed::Streaming { .. } | Landed::Head { .. } => {
                answer::fault("a body that is not kept streams")
            }
        }
    }
}

impl Bridge {
    /// What `stale` is to a request that came at `now`; none if it may not serve unconfirmed.
    fn of(stale: &CachedObject, wanted: &Wanted, now: Timestamp) -> Option<Self> {
        let wait = policy::freshness::revalidation_wait(&stale.meta(), now, &wanted.terms())?;
        Some(Self { stale: stale.clone(), wait })
    }

    fn answer(&self, asked: &Asked<'_>) -> Answer {
        deliver::found(asked, &self.stale, Outcome::HitStale.into())
    }

    /// The answer of `bridge`, or `otherwise` without one.
    fn or(bridge: Option<&Self>, asked: &Asked<'_>, otherwise: impl FnOnce() -> Answer) -> Answer {
        bridge.map_or_else(otherwise, |bridge| bridge.answer(asked))
    }
}

/// What of a look-up's result may be used as it is; else what is stale.
fn usable(site: &Site, hit: Option<Hit>, now: Timestamp) -> Result<Usable, Option<CachedObject>> {
    let (found, outcome) = match hit {
        Some(Hit::Absent(absence)) => {
            let is_fresh = policy::freshness::judge(&absence.facts, now).is_fresh();
            return if is_fresh { Ok(Usable::Absence(absence)) } else { Err(None) };
        }
        Some(Hit::Memory(found)) => (found, Outcome::HitMemory),
        Some(Hit::Disk(found)) => (found, Outcome::HitDisk),
        None => return Err(None),
    };
    let facts = found.facts();
    if !is_trusted(site, &facts) {
        return Err(None);
    }
    let is_fresh = policy::freshness::judge(&facts, now).is_fresh();
    if is_fresh { Ok(Usable::Object(found, outcome)) } else { Err(Some(found)) }
}

impl InMemory {
    /// The answer; its fields take the place of the request's, `headers`. Its origin is only for
    /// the log.
    fn answer(
        self,
        method: ReadMethod,
        headers: HeaderMap,
        now: Timestamp,
        begun: &Begun,
    ) -> Answer {
        let (mut answer, hot) = match &self {
            Self::Object(hot, outcome) => (deliver::hot(method, headers, now, hot, *outcome), hot),
            Self::Absence(hot) => {
                (deliver::hot_absence(headers, now, hot, Outcome::HitAbsent), hot)
            }
        };
        answer.origin = begun.is_logged().then(|| Arc::clone(&hot.origin));
        answer
    }
}

/// Whether what is stored proves as much as the site asks for now: a narinfo that was stored while
/// signatures were not required does not serve once they are, nor one signed by a key that is not
/// trusted any more for the origin that it came from.
fn is_trusted(site: &Site, facts: &Facts) -> bool {
    if facts.class != Class::Narinfo || site.upstream.site.signatures != Signatures::Require {
        return true;
    }
    match facts.proof {
        Proof::SignedBy(mark) => site.upstream.trusted.accepts(mark),
        Proof::Length | Proof::FileHash | Proof::Parsed | Proof::Signature => false,
    }
}

#[cfg(test)]
mod tests;
