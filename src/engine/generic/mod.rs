//! Requests for sites of kind `generic`: the decision table of an HTTP cache (RFC 9111 section 4).
//! Called by `Engine::handle`; holds no lock.
//!
//! | stored                | origin says        | the client gets          | outcome          |
//! |-----------------------|--------------------|--------------------------|------------------|
//! | may be used           | is not asked       | it                       | hit_memory, hit_disk |
//! | may be used meanwhile | is asked after     | it                       | hit_stale        |
//! | must be confirmed     | 304                | it                       | revalidated      |
//! | must be confirmed     | nothing, nothing in time, or 5xx | it, where permitted | hit_stale |
//! | anything, or nothing  | an answer          | it, of any status   | miss, pass, collapsed |
//! | nothing usable        | nothing            | 502 or 504               | origin_failed    |
//!
//! What is here in part, and ranges of what is not stored, are in `parts`.
//!
//! A method that is not GET or HEAD goes to the origin as it came. Where it is a write and was
//! done, what it may have changed is dropped before the client hears of it.

mod deliver;
mod parts;
mod target;
mod write;

pub(super) use target::Place;

use super::answer::{self, Answer};
use super::body::Body;
use super::connection::Connection;
use super::rescue::{Lost, Rescue};
use super::site::Site;
use super::tally::Begun;
use super::upload::Upload;
use super::{Answering, Engine};
use crate::cache::{CachedObject, Hit, Stale};
use crate::client::{BoxError, OutboundBody};
use crate::clock::Timestamp;
use crate::config::Caching;
use crate::fill::{Asker, FlightReader, How, Landed, NotJoined, Passing, Role, Sought};
use crate::nix::Class;
use crate::object::{Meta, Variant};
use crate::origin::{ClientBody, ForwardRequest, InterimObserver, Retries};
use crate::outcome::Outcome;
use crate::policy::generic::fields::AnswerUse;
use crate::policy::generic::request::{ForwardingLimit, RequestHandling, Wishes, reach, way};
use crate::policy::generic::reuse::{Outage, Reuse, judge, may_bridge, revalidation_wait};
use crate::policy::generic::variant::{is_preferred, selects};
use crate::policy::generic::{Directives, fields};
use crate::policy::request::RequestRefusal;
use crate::rfc::{Authority, CdnLoop};
use crate::store::Stored;
use bytes::Bytes;
use deliver::{Delivery, Here};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use http_body_util::BodyExt;
use parts::Parted;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use target::Target;

/// Times that what is stored is looked at where it changes meanwhile.
const TRIES_MAX: u32 = 3;

/// The client's address, as origins are told it.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request for a generic site, as it came.
pub(super) struct Asked {
    pub(super) parts: Parts,
    pub(super) site: Arc<Site>,
    pub(super) passed: CdnLoop,
    pub(super) body: Option<OutboundBody>,
}

/// A request on its way through the table.
struct Request<'a> {
    engine: &'a Arc<Engine>,
    site: &'a Arc<Site>,
    caching: &'a Caching,
    parts: &'a Parts,
    connection: &'a Arc<Connection>,
    target: Target,
    /// What goes to the origin and selects a variant: without conditions and ranges.
    fields: OnceLock<HeaderMap>,
    reach: ForwardingLimit,
    wishes: Wishes,
    passed: &'a CdnLoop,
    now: Timestamp,
}

/// The body of a client's request, as it goes to an origin; none where it has none.
pub(super) fn outbound<B>(body: B, connection: &Arc<Connection>) -> Option<OutboundBody>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return None;
    }
    Some(Upload::new(body, connection).map_err(Into::into).boxed_unsync())
}

impl Engine {
    /// Answers a request for a generic site.
    pub(super) fn generic(
        self: &Arc<Self>,
        asked: Asked,
        connection: &Arc<Connection>,
        begun: Begun,
        now: Timestamp,
    ) -> Answering<Body> {
        let (engine, connection) = (Arc::clone(self), Arc::clone(connection));
        Answering::Later(Box::pin(async move {
            let Asked { parts, site, passed, body } = asked;
            let answer = engine.generic_answer(&parts, (&site, &passed), body, &connection, now);
            let mut answer = with_interims(&connection, Box::pin(answer)).await;
            if let Some(caching) = &site.upstream.site.caching {
                fields::dress(&mut answer.headers, caching);
            }
            engine.response(answer, &parts, begun, Some((&site, Class::Other)))
        }))
    }

    async fn generic_answer(
        self: &Arc<Self>,
        parts: &Parts,
        (site, passed): (&Arc<Site>, &CdnLoop),
        body: Option<OutboundBody>,
        connection: &Arc<Connection>,
        now: Timestamp,
    ) -> Answer {
        let Some(caching) = &site.upstream.site.caching else {
            return answer::fault("a site without caching rules was asked as a generic one");
        };
        let reach = reach(&parts.method, parts.uri.path(), &parts.headers);
        if reach == ForwardingLimit::Here {
            return answer::options();
        }
        let named = Authority::of(&parts.uri, &parts.headers).ok();
        let place = Place::of(site, named.as_ref(), connection);
        let bytes_max = self.limits.path_bytes_max;
        if fields::has_further_coding(&parts.headers) {
            return answer::refused(RequestRefusal::TransferCoding);
        }
        let target = match Target::of(&parts.uri, (site, caching), place, bytes_max) {
            Ok(target) => target,
            Err(error) => return answer::refused(RequestRefusal::Path(error)),
        };
        let mut request = Request {
            engine: self,
            site,
            caching,
            parts,
            connection,
            target,
            fields: OnceLock::new(),
            reach,
            wishes: Wishes::of(&parts.headers, caching.request_control),
            passed,
            now,
        };
        match way(&parts.method) {
            RequestHandling::Cached => request.cached().await,
            RequestHandling::Through | RequestHandling::Write => request.through(body).await,
            RequestHandling::Refused => answer::refused(RequestRefusal::Method),
        }
    }
}

impl Request<'_> {
    async fn cached(&mut self) -> Answer {
        for _ in 0..TRIES_MAX {
            self.now = self.engine.clock.now();
            if let Some(answer) = Box::pin(self.try_cached()).await {
                return answer;
            }
        }
        self.through(None).await
    }

    /// None where what is stored has changed meanwhile: look again.
    async fn try_cached(&self) -> Option<Answer> {
        let cache = &self.engine.cache;
        let looked = cache.ticket();
        let headers = &self.parts.headers;
        let hit = cache
            .lookup_selected(&self.target.key, |variant| selects(self.fields(), variant))
            .await;
        let hit = match hit {
            None if headers.contains_key(header::ACCEPT_LANGUAGE) => {
                let is_preferred = |variant: &Variant, meta: &Meta| {
                    is_preferred(self.fields(), variant, &meta.headers)
                };
                cache.lookup_similar(&self.target.key, is_preferred).await
            }
            hit => hit,
        };
        let (found, outcome) = match hit {
            Some(Hit::Memory(found)) => (Some(found), Outcome::HitMemory),
            Some(Hit::Disk(found)) => (Some(found), Outcome::HitDisk),
            Some(Hit::Absent(_)) | None => (None, Outcome::Miss),
        };
        let rule = self.caching.rule(self.target.key.path());
        if let Some(found) = &found {
            let (meta, directives) = (found.meta(), self.directives(&found.meta()));
            match judge(&meta, &directives, &self.wishes, rule, self.now) {
                Reuse::Serve => return Some(self.found(found, outcome)),
                Reuse::ServeAndRefresh => {
                    self.refresh(Stale { found: found.clone(), looked });
                    return Some(self.found(found, Outcome::HitStale));
                }
                Reuse::Confirm => {}
            }
        } else {
            match Box::pin(self.parted()).await {
                Parted::Answer(answer) => return Some(*answer),
                Parted::Again => return None,
                Parted::Nothing => {}
            }
        }
        if self.wishes.wants_stored_only() {
            return Some(answer::refused(RequestRefusal::NotStored));
        }
        let wants_part = self.parts.headers.contains_key(header::RANGE) && found.is_none();
        let is_head = self.parts.method == Method::HEAD;
        if wants_part || (is_head && found.is_none()) {
            return Some(self.through(None).await);
        }
        Some(self.fetched(found.map(|found| Stale { found, looked })).await)
    }

    fn directives(&self, meta: &Meta) -> Directives {
        Directives::of(&meta.headers, &self.caching.targeted)
    }

    /// Has a stale response confirmed in the background; not for a request whose answer may not be
    /// stored: others would join it in vain.
    fn refresh(&self, stale: Stale) {
        if self.wishes.forbids_storing() {
            return;
        }
        let sought = self.sought(None);
        if let Err(error) = self.engine.fills.seek(sought, Some(stale), self.now) {
            tracing::debug!(path = self.target.key.path(), %error, "not refreshed");
        }
    }

    /// The answer of a fetch, joined or begun.
    async fn fetched(&self, stale: Option<Stale>) -> Answer {
        let fills = &self.engine.fills;
        let found = stale.as_ref().map(|stale| &stale.found);
        for _ in 0..TRIES_MAX {
            let joined = if self.wishes.forbids_storing() {
                let alone = fills.seek_alone(self.sought(self.interim()), stale.clone(), self.now);
                alone.map(|flight| (Role::Lead, flight))
            } else {
                fills.seek(self.sought(self.interim()), stale.clone(), self.now)
            };
            let (role, flight) = match joined {
                Ok(joined) => joined,
                Err(error) => return self.not_joined(error, found),
            };
            if let Some(answer) = self.landed(role, &flight, found).await {
                return answer;
            }
            if !flight.is_too_late() {
                break;
            }
        }
        // What the other brought is not for this request.
        match fills.seek_alone(self.sought(self.interim()), stale.clone(), self.now) {
            Ok(flight) => match self.landed(Role::Lead, &flight, found).await {
                Some(answer) => answer,
                None => answer::fault("a fetch of one's own brought another's answer"),
            },
            Err(error) => self.not_joined(error, found),
        }
    }

    fn not_joined(&self, error: NotJoined, stale: Option<&CachedObject>) -> Answer {
        self.bridged(stale).unwrap_or_else(|| match error {
            NotJoined::Wrong { seconds } => answer::wrong(seconds),
            NotJoined::NoRoom | NotJoined::Ended => answer::shed(),
        })
    }

    /// A stale response in place of an origin that cannot be asked, where that is permitted.
    fn bridged(&self, stale: Option<&CachedObject>) -> Option<Answer> {
        let stale = stale.filter(|stale| self.may_bridge(stale, Outage::Disconnected))?;
        Some(self.found(stale, Outcome::HitStale))
    }

    /// Whether this request may get `stale` in place of an origin that has no usable answer.
    fn may_bridge(&self, stale: &CachedObject, outage: Outage) -> bool {
        let (meta, rule) = (stale.meta(), self.caching.rule(self.target.key.path()));
        may_bridge(&meta, &self.directives(&meta), &self.wishes, rule, (outage, self.now))
    }

    /// How long an origin is waited for before `stale` is sent; none if it may not be.
    fn revalidation_wait(&self, stale: &CachedObject) -> Option<Duration> {
        let (meta, caching) = (stale.meta(), self.caching);
        let rule = caching.rule(self.target.key.path());
        revalidation_wait(&meta, &self.directives(&meta), &self.wishes, rule, self.now)
    }

    /// The answer of a flight; none where it may not be shared with who only joined it.
    async fn landed(
        &self,
        role: Role,
        flight: &FlightReader,
        stale: Option<&CachedObject>,
    ) -> Option<Answer> {
        let is_own = role == Role::Lead;
        let is_for_this = |meta: &Meta| is_own || self.may_share(meta);
        let outcome = if is_own { Outcome::Miss } else { Outcome::Collapsed };
        let bridge = stale.and_then(|stale| Some((stale, self.revalidation_wait(stale)?)));
        let landed = match bridge {
            None => flight.landed().await,
            Some((stale, wait)) => match flight.landed_within(wait).await {
                Some(landed) => landed,
                None => return Some(self.found(stale, Outcome::HitStale)),
            },
        };
        let answer = match landed {
            Landed::Streaming { meta, growing, .. } => {
                let length = growing.length();
                is_for_this(&meta)
                    .then(|| self.delivery(&meta, length, outcome).growing(growing, flight))
            }
            Landed::Whole { found, how } => {
                let (is_shared, outcome) = match how {
                    How::Stored => (true, outcome),
                    How::Confirmed => (true, Outcome::Revalidated),
                    How::ConfirmedForOne => (is_own, Outcome::Revalidated),
                    How::Bridged => {
                        (is_own || self.may_bridge(&found, Outage::ServerError), Outcome::HitStale)
                    }
                    How::NotStored => (is_own, Outcome::Pass),
                };
                let is_for_this =
                    is_shared && (is_own || selects(self.fields(), &found.meta().variant));
                is_for_this.then(|| self.found(&found, outcome))
            }
            Landed::Passing if is_own || flight.is_shared() => {
                match flight.take_passing(Asker::at(self.connection.peer.ip())) {
                    Some(passing) => is_for_this(&passing.meta).then(|| {
                        self.passing(passing, if is_own { Outcome::Pass } else { outcome })
                    }),
                    None if flight.is_too_late() => None,
                    None => Some(answer::untaken()),
                }
            }
            Landed::Passing | Landed::Absent(_) | Landed::Head { .. } => None,
            Landed::Failed(error) => {
                Some(self.bridged(stale).unwrap_or_else(|| answer::failed(&error)))
            }
        };
        answer.map(|mut answer| {
            if is_own {
                answer.headers.extend(flight.take_own());
            }
            answer
        })
    }

    /// Whether an answer that is under way may be this request's too: it began after the request
    /// came, or may be reused by now.
    fn may_share(&self, meta: &Meta) -> bool {
        let rule = self.caching.rule(self.target.key.path());
        selects(self.fields(), &meta.variant)
            && (meta.response_time >= self.now
                || judge(meta, &self.directives(meta), &self.wishes, rule, self.now)
                    != Reuse::Confirm)
    }

    /// Sends the request on as it came, and what a write may have changed is dropped.
    async fn through(&self, body: Option<OutboundBody>) -> Answer {
        let mut headers = self.fields().clone();
        for name in fields::CONDITIONS {
            for value in self.parts.headers.get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
        if let Some(length) = self.content_length(body.as_ref()) {
            headers.insert(header::CONTENT_LENGTH, length);
        }
        let client = Asker::at(self.connection.peer.ip());
        let body = body.map(|content| ClientBody { client, content });
        let forward = ForwardRequest {
            method: self.parts.method.clone(),
            path: Arc::clone(&self.target.path),
            query: self.target.query.clone(),
            headers,
            body,
            interim: self.interim(),
            only: None,
            retries: Retries::Usual,
        };
        if way(&self.parts.method) == RequestHandling::Write {
            return self.write(forward).await;
        }
        match self.engine.fills.through(&self.site.upstream, forward).await {
            Ok(response) => {
                let passing = self.engine.fills.passing(&self.target.key, response);
                self.passing(passing, Outcome::Pass)
            }
            Err(error) => answer::failed(&error),
        }
    }

    /// How long the body is that goes to the origin, as far as it is told: no body is told too, of
    /// methods that have one (RFC 9110 section 8.6).
    fn content_length<T>(&self, body: Option<&T>) -> Option<HeaderValue> {
        let stated = self.parts.headers.get(header::CONTENT_LENGTH);
        let has_meaning = matches!(self.parts.method, Method::POST | Method::PUT | Method::PATCH);
        match (stated, body) {
            (stated, Some(_)) => stated.cloned(),
            (Some(stated), None) if stated == "0" => Some(HeaderValue::from(0)),
            (_, None) => has_meaning.then(|| HeaderValue::from(0)),
        }
    }

    fn sought(&self, interim: Option<InterimObserver>) -> Sought {
        Sought {
            upstream: Arc::clone(&self.site.upstream),
            key: self.target.key.clone(),
            path: Arc::clone(&self.target.path),
            query: self.target.query.clone(),
            headers: Arc::new(self.fields().clone()),
            wishes: self.wishes,
            asker: Asker::at(self.connection.peer.ip()),
            interim,
        }
    }

    /// The fields that go to the origin, but for conditions and ranges. They select a variant, too.
    fn fields(&self) -> &HeaderMap {
        self.fields.get_or_init(|| {
            let fate = match way(&self.parts.method) {
                RequestHandling::Cached => AnswerUse::MayBeStored,
                RequestHandling::Through | RequestHandling::Write | RequestHandling::Refused => {
                    AnswerUse::PassedOn
                }
            };
            let further = &self.caching.request_headers;
            let mut headers = fields::forwarded(&self.parts.headers, fate, further);
            fields::unconditional(&mut headers);
            headers.insert("cdn-loop", self.passed.extended(&self.engine.instance));
            let address = self.connection.peer.ip().to_canonical().to_string();
            if let Ok(address) = HeaderValue::try_from(address) {
                headers.append(FORWARDED_FOR, address);
            }
            self.target.place.tell(&mut headers);
            if let ForwardingLimit::FurtherWith(left) = &self.reach {
                headers.insert(header::MAX_FORWARDS, left.clone());
            }
            headers
        })
    }

    /// Tells the client of interim answers, where its connection can: HTTP/1.0 has none (RFC 9110
    /// section 15.2).
    fn interim(&self) -> Option<InterimObserver> {
        let interims =
            self.connection.interims().filter(|_| self.parts.version == Version::HTTP_11);
        interims.map(|interims| {
            let (interims, turn) = (Arc::clone(interims), interims.turn());
            let heard: InterimObserver =
                Arc::new(move |status: StatusCode, headers: &HeaderMap| {
                    interims.put(turn, status, headers);
                });
            heard
        })
    }

    /// What goes on with a stored body whose file fails.
    fn rescue(&self, stored: &Stored) -> Box<Rescue> {
        Rescue::of(self.engine, Lost::Page(Box::new(self.sought(None))), stored)
    }

    fn found(&self, found: &CachedObject, outcome: Outcome) -> Answer {
        self.delivery(&found.meta(), Some(found.length()), outcome).found(found)
    }

    fn passing(&self, passing: Passing, outcome: Outcome) -> Answer {
        let meta = Arc::clone(&passing.meta);
        let delivery = self.delivery(&meta, passing.length(), outcome);
        delivery.passing(passing)
    }

    fn delivery<'d>(
        &'d self,
        meta: &'d Meta,
        length: Option<u64>,
        outcome: Outcome,
    ) -> Delivery<'d> {
        Delivery { request: self, meta, length, outcome, here: Here::AsTold }
    }
}

/// Waits for `answer`; each time an interim answer comes, the connection is polled meanwhile.
async fn with_interims<F>(connection: &Connection, mut answer: F) -> Answer
where
    F: Future<Output = Answer> + Unpin,
{
    let Some(interims) = connection.interims() else { return answer.await };
    interims.open();
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut answer => break answer,
            () = interims.come() => {}
        }
    };
    interims.close();
    answer
}
