//! Fetches of generic sites: one for each object at a time, whose answer every reader gets whom it
//! may be shared with; revalidation; and requests that only pass through. Called by `engine`; the
//! leader is a task of its own, as for every fill.
//!
//! What an answer says decides whether it is kept. If it might be and no disk takes it, readers
//! share it all the same if memory has room for it (see `relay`). Readers that joined and may
//! not share it (it varies, or is private) ask for themselves, and for a while no request waits
//! for an answer of that object again (hit for miss).

use super::flight::{Ending, Flight, FlightReader, How, Landed};
use super::part::page::{permits, salvage};
use super::passing::{self, Passing};
use super::relay::Kept;
use super::steady::{Checked, Question, Source, Steady};
use super::trail::Trail;
use super::verify::Expected;
use super::{
    Asker, Before, Demand, FillError, Fills, Landing, Mark, NotJoined, Rejection, Role, Shared,
    Upstream, relay,
};
use crate::cache::{
    Cache, CachedObject, FenceEpoch, PublishError, Purging, SMALL_BYTES_MAX, Scope, Stale,
};
use crate::clock::Timestamp;
use crate::config::{Caching, CachingRule};
use crate::memory::Hot;
use crate::nix::Class;
use crate::object::{Key, Lifetime, Meta, Proof, Variant};
use crate::origin::{FetchError, ForwardRequest, InterimObserver, OriginAnswer, Response, Retries};
use crate::policy::generic::fields::Divided;
use crate::policy::generic::request::Wishes;
use crate::policy::generic::reuse::{Outage, may_bridge};
use crate::policy::generic::storing::{
    self, Confirmation, GenericPassReason, GenericReply, StorableResponse, StoringVerdict,
};
use crate::policy::generic::{Directives, fields};
use crate::policy::response::Times;
use crate::policy::revalidation;
use crate::rfc::Validators;
use crate::store::{ObjectWriter, Withhold};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::fmt;
use std::sync::Arc;

/// What a client wants of a generic site.
#[derive(Clone)]
pub struct Sought {
    /// Where it comes from.
    pub upstream: Arc<Upstream>,
    /// The object's key, without a variant.
    pub key: Key,
    /// The path as it stands in the request line.
    pub path: Arc<str>,
    /// The query to ask for.
    pub query: Option<Arc<str>>,
    /// The fields to ask with: no conditions, no ranges.
    pub headers: Arc<HeaderMap>,
    /// What the client says about stored answers.
    pub wishes: Wishes,
    /// The client that asks.
    pub asker: Asker,
    /// What hears of interim answers.
    pub interim: Option<InterimObserver>,
}

/// A stretch of a response that has come in part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'a> {
    /// Offset of its first byte.
    pub(super) first: u64,
    /// Offset of its last byte; `None` for the end.
    pub(super) last: Option<u64>,
    /// The strong entity tag that it must still have.
    pub(super) same: Option<&'a HeaderValue>,
    /// Whether an origin that fails is asked again at once.
    pub(super) retries: Retries,
}

impl fmt::Debug for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sought").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Sought {
    pub(super) fn demand(&self) -> Demand {
        let upstream = Arc::clone(&self.upstream);
        Demand { asker: self.asker, class: Class::Other, upstream }
    }

    fn forward(&self, headers: HeaderMap) -> ForwardRequest {
        ForwardRequest {
            method: Method::GET,
            path: Arc::clone(&self.path),
            query: self.query.clone(),
            headers,
            body: None,
            interim: self.interim.clone(),
            only: None,
            retries: Retries::Usual,
        }
    }

    /// Asks for a stretch; of the origin at `only`, or of all.
    pub(super) async fn stretch(
        &self,
        rest: Rest<'_>,
        only: Option<usize>,
    ) -> Result<Response, FetchError> {
        let mut headers = HeaderMap::clone(&self.headers);
        let last = rest.last.map(|last| last.to_string()).unwrap_or_default();
        if let Ok(range) = HeaderValue::try_from(format!("bytes={}-{last}", rest.first)) {
            headers.insert(header::RANGE, range);
        }
        if let Some(same) = rest.same {
            headers.insert(header::IF_RANGE, same.clone());
        }
        let retries = rest.retries;
        let forward = ForwardRequest { only, interim: None, retries, ..self.forward(headers) };
        let mut response = self.upstream.origins.forward(forward).await?;
        date(&mut response);
        Ok(response)
    }

    /// Asks whether what has this tag is what there is still; of what is another, for no more of it
    /// than its first byte.
    pub(super) async fn confirm(&self, etag: Option<&HeaderValue>) -> Result<Response, FetchError> {
        let mut headers = HeaderMap::clone(&self.headers);
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        if let Some(etag) = etag {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        }
        let mut response = self.upstream.origins.forward(self.forward(headers)).await?;
        date(&mut response);
        Ok(response)
    }

    /// As [`Sought::rest`], of any origin; what may not be stored is not the same any more.
    pub(super) async fn piece(&self, rest: Rest<'_>) -> Result<OriginAnswer<Response>, FetchError> {
        Ok(match self.rest(rest, None).await? {
            OriginAnswer::Found(response) => {
                let is_part = response.status == StatusCode::PARTIAL_CONTENT;
                let is_same = response.headers.get(header::ETAG) == rest.same;
                let may_stay = is_same && (!is_part || permits(self, &response));
                if may_stay { OriginAnswer::Found(response) } else { OriginAnswer::Changed }
            }
            answer @ (OriginAnswer::NotModified { .. }
            | OriginAnswer::Absent { .. }
            | OriginAnswer::Changed) => answer,
        })
    }

    /// Asks for a stretch of what is the same still; of the origin at `only`, or of all.
    pub(super) async fn rest(
        &self,
        rest: Rest<'_>,
        only: Option<usize>,
    ) -> Result<OriginAnswer<Response>, FetchError> {
        let response = self.stretch(rest, only).await?;
        let (origin, headers) = (response.origin, response.headers.clone());
        let (request_time, response_time) = (response.request_time, response.response_time);
        Ok(match response.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => OriginAnswer::Found(response),
            StatusCode::NOT_MODIFIED => {
                OriginAnswer::NotModified { headers, origin, request_time, response_time }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                OriginAnswer::Absent { headers, origin, request_time, response_time }
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
                OriginAnswer::Changed
            }
            status => {
                let origin = response.origin_name;
                return Err(FetchError::Status { origin, status, retry_after_seconds: None });
            }
        })
    }

    fn caching(&self) -> Option<&Caching> {
        self.upstream.site.caching.as_ref()
    }

    pub(super) fn meta(
        &self,
        response: &Response,
        storable: StorableResponse,
        variant: Variant,
    ) -> Meta {
        let key = if variant.is_empty() { self.key.clone() } else { self.key.variant(&variant) };
        Meta {
            key,
            status: response.status,
            headers: storable.fields.shared,
            age_at_response: storable.age_at_response,
            lifetime: storable.lifetime,
            variant,
            ..passed(&self.key, response, HeaderMap::new())
        }
    }
}

/// The head of an answer that is not kept.
fn passed(key: &Key, response: &Response, headers: HeaderMap) -> Meta {
    let times = Times { request: response.request_time, response: response.response_time };
    Meta {
        key: key.clone(),
        class: Class::Other,
        status: response.status,
        age_at_response: crate::rfc::age::initial_age(&response.headers, times.into()),
        headers,
        origin: Arc::clone(&response.origin_name),
        request_time: response.request_time,
        response_time: response.response_time.edge,
        lifetime: Lifetime::Seconds(0),
        is_invalidated: false,
        proof: Proof::Length,
        variant: Variant::default(),
    }
}

impl Fills {
    /// Joins the fetch of what is `sought`, or begins one; `stale` is what is stored of it.
    ///
    /// Where answers of the object could not be shared of late, begins one that nobody joins.
    pub fn seek(
        &self,
        sought: Sought,
        stale: Option<Stale>,
        now: Timestamp,
    ) -> Result<(Role, FlightReader), NotJoined> {
        self.seek_since(sought, stale, now, None)
    }

    /// As [`Fills::seek`]; with `looked`, begins none where one of the same object has ended since:
    /// look again at what is stored.
    pub fn seek_since(
        &self,
        sought: Sought,
        stale: Option<Stale>,
        now: Timestamp,
        looked: Option<Mark>,
    ) -> Result<(Role, FlightReader), NotJoined> {
        if self.shared.alone.holds(&sought.key, now, &self.shared.cache) {
            return Ok((Role::Lead, self.seek_alone(sought, stale, now)?));
        }
        let (key, demand) = (sought.key.clone(), sought.demand());
        self.begin_or_join(
            (&key, Some(demand)),
            (looked, None),
            || Ok(()),
            |(), landing: Landing| async move {
                lead(&landing.shared, &landing.flight, &sought, Before::Stale(stale), now).await;
            },
        )
    }

    /// As [`Fills::seek`]; a fetch that begins takes up the answer `given` to GET, with a ticket of
    /// the moment before that was asked for.
    pub(super) fn seek_with(
        &self,
        sought: Sought,
        (given, ticket): (Response, FenceEpoch),
        now: Timestamp,
    ) -> Result<(Role, FlightReader), NotJoined> {
        let (key, demand) = (sought.key.clone(), sought.demand());
        let begun = |(), landing: Landing| async move {
            let before = Before::Given(Box::new(given), ticket);
            lead(&landing.shared, &landing.flight, &sought, before, now).await;
        };
        self.begin_or_join((&key, Some(demand)), (None, Some(ticket)), || Ok(()), begun)
    }

    /// Begins a fetch that nobody else joins.
    pub fn seek_alone(
        &self,
        sought: Sought,
        stale: Option<Stale>,
        now: Timestamp,
    ) -> Result<FlightReader, NotJoined> {
        let reader = FlightReader::first(self.shared.cache.ticket());
        let flight = Arc::clone(&reader.flight);
        let demand = sought.demand();
        let place = self.shared.room.admit(&demand, &flight.readers).ok_or(NotJoined::NoRoom)?;
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn("fill", async move {
            let _running = super::Running::begin(&shared.metrics);
            let flight = Ending(flight);
            let leading = Box::pin(lead(&shared, &flight.0, &sought, Before::Stale(stale), now));
            place.hold(&demand, &flight.0.readers, leading).await;
        });
        Ok(reader)
    }

    /// Sends a request on whose answer is nobody else's, and gives that as it comes.
    pub async fn through(
        &self,
        upstream: &Upstream,
        forward: ForwardRequest,
    ) -> Result<Response, FillError> {
        let mut response = upstream.origins.forward(forward).await?;
        date(&mut response);
        Ok(response)
    }

    /// The answer of [`Fills::through`] as a body for one client.
    pub fn passing(&self, key: &Key, response: Response) -> Passing {
        passed_on(key, response)
    }

    /// Keeps the small answer to a write that is what GET would bring, if it may be stored and says
    /// how long it is fresh; what it came to is told as for a fetch.
    ///
    /// `ticket` is that of the purge by the write ([`Cache::purge_written`]).
    pub async fn keep(
        &self,
        sought: &Sought,
        (response, ticket): (Response, FenceEpoch),
        now: Timestamp,
    ) -> FlightReader {
        let flight = FlightReader::first(ticket);
        let fetch = Fetch { shared: &self.shared, flight: &flight, sought, now };
        if let Some(caching) = sought.caching() {
            let rule = caching.rule(sought.key.path());
            if let Err(error) = fetch.answered(response, (caching, rule)).await {
                flight.land(Landed::Failed(Arc::new(error)));
            }
        }
        flight.end();
        flight
    }
}

/// Fetches what is sought and tells `flight`.
async fn lead(
    shared: &Arc<Shared>,
    flight: &Flight,
    sought: &Sought,
    before: Before,
    now: Timestamp,
) {
    let fetch = Fetch { shared, flight, sought, now };
    let fetched = match before {
        Before::Stale(stale) => fetch.run(shared.cache.unpurged(stale)).await,
        Before::Given(given, _) => fetch.take_up(*given).await,
    };
    let result = fetched.unwrap_or_else(|error| {
        let result = error.log(&sought.key);
        flight.land(Landed::Failed(Arc::new(error)));
        result
    });
    shared.metrics.fills.with_label_values(&[Class::Other.as_str(), result]).inc();
}

struct Fetch<'a> {
    shared: &'a Arc<Shared>,
    flight: &'a Flight,
    sought: &'a Sought,
    now: Timestamp,
}

impl Fetch<'_> {
    fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    async fn run(&self, stale: Option<CachedObject>) -> Result<&'static str, FillError> {
        let sought = self.sought;
        let Some(caching) = sought.caching() else { return Err(FillError::Lost) };
        let rule = caching.rule(sought.key.path());
        let conditions = stale.as_ref().and_then(|stale| conditions(&stale.meta()));
        let mut headers = HeaderMap::clone(&sought.headers);
        let is_conditional = conditions.is_some();
        headers.extend(conditions.unwrap_or_default());
        let mut response = self.forward(headers).await?;
        if response.status == StatusCode::NOT_MODIFIED && is_conditional {
            if let Some(stale) = &stale
                && self.confirmed(stale, &response, (caching, rule)).await
            {
                return Ok("confirmed");
            }
            response = self.forward(HeaderMap::clone(&sought.headers)).await?;
        }
        if is_trouble(response.status)
            && let Some(stale) = stale
        {
            let stored = stale.meta();
            let directives = Directives::of(&stored.headers, &caching.targeted);
            let why = (Outage::ServerError, self.now);
            if may_bridge(&stored, &directives, &sought.wishes, rule, why) {
                self.flight.land(Landed::Whole { found: stale, how: How::Bridged });
                return Ok("failed");
            }
        }
        self.answered(response, (caching, rule)).await
    }

    async fn forward(&self, headers: HeaderMap) -> Result<Response, FillError> {
        let forwarding = self.sought.upstream.origins.forward(self.sought.forward(headers));
        let mut response = self.flight.readers.while_open(forwarding).await??;
        date(&mut response);
        Ok(response)
    }

    /// Goes on with an answer that is here.
    async fn take_up(&self, given: Response) -> Result<&'static str, FillError> {
        let Some(caching) = self.sought.caching() else { return Err(FillError::Lost) };
        let rule = caching.rule(self.sought.key.path());
        self.answered(given, (caching, rule)).await
    }

    /// Keeps what a 304 confirmed; false where it speaks of another response than the stored one.
    async fn confirmed(
        &self,
        stale: &CachedObject,
        response: &Response,
        (caching, rule): (&Caching, &CachingRule),
    ) -> bool {
        let old = stale.meta();
        let tags = (Validators::of(&old.headers).etag, Validators::of(&response.headers).etag);
        if let (Some(stored), Some(confirmed)) = tags
            && !stored.matches_weakly(&confirmed)
        {
            return false;
        }
        let times = Times { request: response.request_time, response: response.response_time };
        let (status, wishes) = (old.status, &self.sought.wishes);
        let reply = GenericReply { status, headers: &response.headers, wishes, times };
        let confirmed = storing::confirmed(&old.headers, &reply, rule, &caching.targeted);
        let meta = |headers, lifetime| Meta {
            request_time: times.request,
            response_time: times.response.edge,
            age_at_response: crate::rfc::age::initial_age(&response.headers, times.into()),
            headers,
            lifetime,
            is_invalidated: false,
            ..Meta::clone(&old)
        };
        let for_one = |shared| stale.with_meta(Arc::new(meta(shared, Lifetime::Seconds(0))));
        let (found, how, own) = match confirmed {
            Confirmation::Renewed(storable) if self.selects(&storable, &old.variant) => {
                let StorableResponse { fields: Divided { shared, own }, lifetime, .. } = storable;
                let meta = meta(shared, lifetime);
                let found = self.cache().touch(self.flight.ticket, stale.clone(), meta).await;
                (found, How::Confirmed, own)
            }
            // A request that selects another variant by the same fields says nothing of this one.
            Confirmation::Renewed(StorableResponse { fields, varies, .. })
                if varies.is_by(&old.variant) =>
            {
                (for_one(fields.shared), How::ConfirmedForOne, fields.own)
            }
            Confirmation::ForOne(Divided { shared, own }) => {
                (for_one(shared), How::ConfirmedForOne, own)
            }
            Confirmation::Renewed(StorableResponse { fields, .. })
            | Confirmation::Withdrawn(fields) => {
                self.cache().purge(Scope::Key(old.key.clone()), Purging::Soft).await;
                (for_one(fields.shared), How::NotStored, fields.own)
            }
        };
        self.flight.set_own(own);
        self.flight.land(Landed::Whole { found, how });
        true
    }

    /// Whether the request selects `variant` of a response.
    fn selects(&self, storable: &StorableResponse, variant: &Variant) -> bool {
        storable.varies.select(&self.sought.headers).is_some_and(|own| own == *variant)
    }

    async fn answered(
        &self,
        response: Response,
        (caching, rule): (&Caching, &CachingRule),
    ) -> Result<&'static str, FillError> {
        let times = Times { request: response.request_time, response: response.response_time };
        let wishes = &self.sought.wishes;
        let (status, headers) = (response.status, &response.headers);
        let reply = GenericReply { status, headers, wishes, times };
        let (storable, variant) = match storing::admit(&reply, rule, &caching.targeted) {
            StoringVerdict::Store(storable) => match storable.varies.select(&self.sought.headers) {
                Some(variant) => (storable, variant),
                None => return Ok(self.pass(response, GenericPassReason::VaryAny)),
            },
            StoringVerdict::Pass(reason) => return Ok(self.pass(response, reason)),
        };
        if !response.is_framed {
            return Ok(self.pass(response, GenericPassReason::Unframed));
        }
        self.shared.alone.end(&self.sought.key);
        self.flight.set_own(storable.fields.own.clone());
        let meta = self.sought.meta(&response, *storable, variant);
        if response.content_length.is_some_and(|length| length <= SMALL_BYTES_MAX) {
            return self.whole(meta, response).await;
        }
        self.stream(meta, response).await
    }

    /// Gives the answer to the reader who caused it alone.
    fn pass(&self, response: Response, reason: GenericPassReason) -> &'static str {
        let key = &self.sought.key;
        tracing::debug!(path = key.path(), reason = reason.as_str(), "not to be kept");
        // What one request says about itself is nothing that others should go alone for, nor is an
        // error: the next answer may be one for all.
        let is_of_request =
            matches!(reason, GenericPassReason::RequestNoStore | GenericPassReason::Authorization);
        let is_error = response.status.is_client_error() || response.status.is_server_error();
        if !is_of_request && !is_error {
            let now = response.response_time.edge;
            self.shared.alone.begin(key, now, self.flight.ticket);
        }
        self.flight.land_passing(self.passing(response));
        "passed"
    }

    /// The answer for one client; where its tag says what goes on with it, it does not break off.
    fn passing(&self, response: Response) -> Passing {
        let key = &self.sought.key;
        if response.content_length.is_none() || !is_identified(&response) {
            return passed_on(key, response);
        }
        let mut headers = response.headers.clone();
        crate::rfc::hop_by_hop::remove(&mut headers);
        let meta = Arc::new(passed(key, &response, headers));
        let body = self.steady(response, meta.headers.clone());
        Passing::lasting(meta, body)
    }

    /// The body of an answer with these fields, which goes on where it breaks off.
    fn steady(&self, response: Response, mut headers: HeaderMap) -> Steady {
        if response.status != StatusCode::OK {
            // Only of a 200 there are ranges.
            headers.remove(header::ETAG);
        }
        let source = Source {
            upstream: Arc::clone(&self.sought.upstream),
            metrics: self.shared.metrics.clone(),
            key: self.sought.key.clone(),
            question: Question::Page(self.sought.clone()),
            trail: Trail::default(),
        };
        Steady::new(source, response, headers, Checked::ByLength)
    }

    async fn whole(&self, meta: Meta, response: Response) -> Result<&'static str, FillError> {
        let mut body = self.steady(response, meta.headers.clone());
        let mut collected = BytesMut::new();
        let readers = &self.flight.readers;
        while let Some(piece) = readers.while_open(body.chunk()).await?? {
            readers.came(piece.len() as u64);
            collected.extend_from_slice(&piece);
            if collected.len() as u64 > SMALL_BYTES_MAX {
                let (limit, actual) = (SMALL_BYTES_MAX, collected.len() as u64);
                return Err(FillError::Rejected {
                    origin: Arc::clone(&meta.origin),
                    rejection: Rejection::TooLarge { limit, actual },
                });
            }
        }
        let body = collected.freeze();
        let kept = self.cache().publish_small(self.flight.ticket, meta.clone(), body.clone(), None);
        let (found, how, result) = match kept.await {
            Ok(found) => (found, How::Stored, "stored"),
            Err(error) => {
                not_kept(&meta, &error);
                let hot = CachedObject::Hot(Arc::new(Hot::new(&meta, &body)));
                (hot, How::NotStored, "not_stored")
            }
        };
        self.flight.land(Landed::Whole { found, how });
        Ok(result)
    }

    /// A body that readers follow while it is written.
    async fn stream(&self, meta: Meta, response: Response) -> Result<&'static str, FillError> {
        let length = response.content_length;
        let Some(mut writer) = self.cache().begin(&meta.key, length, Withhold::End).await else {
            // Nothing comes behind a body that is shared.
            if length.is_none() || response.headers.contains_key(header::TRAILER) {
                // They are in the head that this reader gets.
                self.flight.set_own(HeaderMap::new());
                self.flight.land_passing(self.passing(response));
                return Ok("passed");
            }
            let (shared, ticket) = (Arc::clone(self.shared), self.flight.ticket);
            let body = self.steady(response, meta.headers.clone());
            let expected = Expected::default();
            let body = passing::Checked::new(Arc::new(meta), body, expected, shared, ticket);
            return Ok(Box::pin(relay::share(
                body,
                self.flight,
                self.sought.demand(),
                Kept::Whole,
            ))
            .await);
        };
        let growing = writer.growing();
        let mut body = self.steady(response, meta.headers.clone());
        let shown = Arc::new(meta.clone());
        let read = growing.clone();
        self.flight.land(Landed::Streaming { meta: shown, growing: read, must_be: None });
        if let Err(error) = self.feed(&mut body, &mut writer).await {
            let broke_off = matches!(
                error,
                FillError::Body(_) | FillError::Rejected { .. } | FillError::GivenUp(_)
            );
            if let Some(length) = body.total().filter(|_| broke_off) {
                Box::pin(salvage(self.shared, self.flight.ticket, (meta, length), &growing)).await;
            }
            return Err(error);
        }
        let Ok(proven) = writer.end().await?.prove() else { return Ok("not_stored") };
        match self.cache().publish(self.flight.ticket, proven, meta.clone()).await {
            Ok(_) => Ok("stored"),
            Err(error) => {
                not_kept(&meta, &error);
                Ok("not_stored")
            }
        }
    }

    /// Takes in a body to its end: then all of its bytes are here, if it has said how many it has.
    async fn feed(&self, body: &mut Steady, writer: &mut ObjectWriter) -> Result<(), FillError> {
        let readers = &self.flight.readers;
        while let Some(piece) = readers.while_open(body.chunk()).await?? {
            readers.came(piece.len() as u64);
            writer.append(piece).await?;
        }
        Ok(())
    }
}

fn not_kept(meta: &Meta, error: &PublishError) {
    tracing::info!(site = meta.key.site(), path = meta.key.path(), %error, "not kept");
}

fn date(response: &mut Response) {
    let times = Times { request: response.request_time, response: response.response_time };
    fields::dated(&mut response.headers, times);
}

/// The fields that ask whether what is stored still holds.
fn conditions(stored: &Meta) -> Option<HeaderMap> {
    let conditions = revalidation::conditions(stored)?;
    let mut headers = HeaderMap::new();
    let mut add = |name, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    };
    add(header::IF_NONE_MATCH, conditions.if_none_match);
    add(header::IF_MODIFIED_SINCE, conditions.if_modified_since);
    Some(headers)
}

/// Whether a strong tag tells what goes on with it.
fn is_identified(response: &Response) -> bool {
    let is_tagged = Validators::of(&response.headers).etag.is_some_and(|tag| tag.is_strong());
    response.status == StatusCode::OK && is_tagged
}

fn passed_on(key: &Key, response: Response) -> Passing {
    let mut headers = response.headers.clone();
    crate::rfc::hop_by_hop::remove(&mut headers);
    let trailer = response.headers.get(header::TRAILER).cloned();
    let meta = Arc::new(passed(key, &response, headers));
    Passing::plain(meta, response.body, response.content_length, trailer)
}

/// Statuses that tell of trouble at the origin, which a stale response may bridge (RFC 5861).
fn is_trouble(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
