//! Fetches of generic sites: one for each object at a time, with an answer for every reader that
//! may share it; revalidation; and requests that only pass through. Called through `Fills`; the
//! leader is a task of its own, as for every fill.
//!
//! What an answer says decides whether it is stored. If it may be stored and no disk takes it, its
//! readers share it if memory has room for it (see `relay`). Readers that joined and may not share
//! it (it varies, or is private) ask for themselves. Then for a while no request waits for another
//! answer of that object (hit for miss).

use super::body_origins::BodyOrigins;
use super::checked_body;
use super::error::{FillError, JoinError, Rejection};
use super::flight::{EndOnDrop, FillOutcome, Flight, FlightReader, Provenance};
use super::page_request::{self, PageRequest, passed};
use super::pass_through::PassThroughBody;
use super::proof::ExpectedBody;
use super::ranges::salvage;
use super::registry::{FillEpoch, FillRole, JoinRequest, LeadGuard, Registry};
use super::relay::WindowExtent;
use super::request::FillStart;
use super::resources::{Resources, RunningCount};
use super::resumable_body::{BodyCheck, BodyRequest, FetchedBody, ResumableBody};
use crate::cache::{
    Cache, CachedObject, FenceEpoch, PublishError, Purging, SMALL_BYTES_MAX, Scope, Stale,
};
use crate::clock::Timestamp;
use crate::config::{Caching, CachingRule};
use crate::memory::Hot;
use crate::nix::Class;
use crate::object::{Key, Lifetime, Meta, Variant};
use crate::origin::Response;
use crate::policy::generic::Directives;
use crate::policy::generic::fields::Divided;
use crate::policy::generic::reuse::{Outage, may_bridge};
use crate::policy::generic::storing::{
    self, Confirmation, GenericPassReason, GenericReply, StorableResponse, StoringVerdict,
};
use crate::policy::response::Times;
use crate::policy::revalidation;
use crate::rfc::Validators;
use crate::store::{ObjectWriter, Withhold};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::Arc;

/// Joins the fetch of `request`, or begins one: see `Fills::seek_since`.
pub(super) fn join(
    registry: &Arc<Registry>,
    request: PageRequest,
    (stale, looked): (Option<Stale>, Option<FillEpoch>),
    now: Timestamp,
) -> Result<(FillRole, FlightReader), JoinError> {
    let resources = &registry.resources;
    if resources.hit_for_miss.holds(&request.key, now, &resources.cache) {
        return Ok((FillRole::Lead, begin_alone(resources, request, stale, now)?));
    }
    join_or_begin(registry, request, looked, FillStart::Stale(stale), now)
}

/// As [`join`]; a fetch that begins takes up the answer `given` to GET, with a ticket of the moment
/// before that was asked for.
pub(super) fn join_with(
    registry: &Arc<Registry>,
    request: PageRequest,
    (given, ticket): (Response, FenceEpoch),
    now: Timestamp,
) -> Result<(FillRole, FlightReader), JoinError> {
    let before = FillStart::Given(Box::new(given), ticket);
    join_or_begin(registry, request, None, before, now)
}

fn join_or_begin(
    registry: &Arc<Registry>,
    request: PageRequest,
    looked: Option<FillEpoch>,
    before: FillStart,
    now: Timestamp,
) -> Result<(FillRole, FlightReader), JoinError> {
    let (key, demand) = (request.key.clone(), Some(request.demand()));
    let wish = JoinRequest { key: &key, demand, looked, ticket: before.ticket() };
    let lead = |(), landing: LeadGuard| async move {
        Box::pin(lead(landing.resources(), &landing.flight, &request, before, now)).await;
    };
    registry.join_or_begin(wish, || Ok(()), lead)
}

/// Begins a fetch that no other request joins.
pub(super) fn begin_alone(
    resources: &Arc<Resources>,
    request: PageRequest,
    stale: Option<Stale>,
    now: Timestamp,
) -> Result<FlightReader, JoinError> {
    let reader = FlightReader::first(resources.cache.ticket());
    let flight = Arc::clone(&reader.flight);
    let demand = request.demand();
    let place = resources.places.admit(&demand, &flight.readers).ok_or(JoinError::NoRoom)?;
    let for_task = Arc::clone(resources);
    resources.tasks.spawn("fill", async move {
        let resources = for_task;
        let _running = RunningCount::begin(&resources.metrics);
        let flight = EndOnDrop(flight);
        let leading = Box::pin(lead(&resources, &flight.0, &request, FillStart::Stale(stale), now));
        place.hold(&demand, &flight.0.readers, leading).await;
    });
    Ok(reader)
}

/// Keeps the small answer to a write: see `Fills::keep`.
pub(super) async fn keep(
    resources: &Arc<Resources>,
    request: &PageRequest,
    (response, ticket): (Response, FenceEpoch),
    now: Timestamp,
) -> FlightReader {
    let flight = FlightReader::first(ticket);
    let fetch = PageFill { resources, flight: &flight, request, now };
    if let Some(caching) = request.caching() {
        let rule = caching.rule(request.key.path());
        if let Err(error) = fetch.answered(response, (caching, rule)).await {
            flight.announce(FillOutcome::Failed(Arc::new(error)));
        }
    }
    flight.end();
    flight
}

/// Fetches what is requested and announces the outcome to `flight`.
async fn lead(
    resources: &Arc<Resources>,
    flight: &Flight,
    request: &PageRequest,
    before: FillStart,
    now: Timestamp,
) {
    let fetch = PageFill { resources, flight, request, now };
    let fetched = match before {
        FillStart::Stale(stale) => fetch.run(resources.cache.unpurged(stale)).await,
        FillStart::Given(given, _) => fetch.take_up(*given).await,
    };
    let result = fetched.unwrap_or_else(|error| {
        let result = error.log(&request.key);
        flight.announce(FillOutcome::Failed(Arc::new(error)));
        result
    });
    resources.metrics.fills.with_label_values(&[Class::Other.as_str(), result]).inc();
}

struct PageFill<'a> {
    resources: &'a Arc<Resources>,
    flight: &'a Flight,
    request: &'a PageRequest,
    now: Timestamp,
}

impl PageFill<'_> {
    fn cache(&self) -> &Cache {
        &self.resources.cache
    }

    async fn run(&self, stale: Option<CachedObject>) -> Result<&'static str, FillError> {
        let request = self.request;
        let Some(caching) = request.caching() else { return Err(FillError::NoResult) };
        let rule = caching.rule(request.key.path());
        let conditions = stale.as_ref().and_then(|stale| conditions(&stale.meta()));
        let mut headers = HeaderMap::clone(&request.headers);
        let is_conditional = conditions.is_some();
        headers.extend(conditions.unwrap_or_default());
        let mut response = self.forward(headers).await?;
        if response.status == StatusCode::NOT_MODIFIED && is_conditional {
            if let Some(stale) = &stale
                && self.confirmed(stale, &response, (caching, rule)).await
            {
                return Ok("confirmed");
            }
            response = self.forward(HeaderMap::clone(&request.headers)).await?;
        }
        if is_trouble(response.status)
            && let Some(stale) = stale
        {
            let stored = stale.meta();
            let directives = Directives::of(&stored.headers, &caching.targeted);
            let why = (Outage::ServerError, self.now);
            if may_bridge(&stored, &directives, &request.wishes, rule, why) {
                self.flight
                    .announce(FillOutcome::Whole { found: stale, provenance: Provenance::Bridged });
                return Ok("failed");
            }
        }
        self.answered(response, (caching, rule)).await
    }

    async fn forward(&self, headers: HeaderMap) -> Result<Response, FillError> {
        let forward = self.request.forward(headers);
        let forwarding = page_request::forward(&self.request.upstream, forward);
        Ok(self.flight.readers.while_open(forwarding).await??)
    }

    /// Goes on with an answer that has come already.
    async fn take_up(&self, given: Response) -> Result<&'static str, FillError> {
        let Some(caching) = self.request.caching() else { return Err(FillError::NoResult) };
        let rule = caching.rule(self.request.key.path());
        self.answered(given, (caching, rule)).await
    }

    /// Renews what a 304 confirmed; false if it speaks of another response than the stored one.
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
        let (status, wishes) = (old.status, &self.request.wishes);
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
        let (found, provenance, own) = match confirmed {
            Confirmation::Renewed(storable) if self.selects(&storable, &old.variant) => {
                let StorableResponse { fields: Divided { shared, own }, lifetime, .. } = storable;
                let meta = meta(shared, lifetime);
                let found = self.cache().touch(self.flight.ticket, stale.clone(), meta).await;
                (found, Provenance::Confirmed, own)
            }
            // A request that selects another variant by the same fields says nothing of this one.
            Confirmation::Renewed(StorableResponse { fields, varies, .. })
                if varies.is_by(&old.variant) =>
            {
                (for_one(fields.shared), Provenance::ConfirmedForOne, fields.own)
            }
            Confirmation::ForOne(Divided { shared, own }) => {
                (for_one(shared), Provenance::ConfirmedForOne, own)
            }
            Confirmation::Renewed(StorableResponse { fields, .. })
            | Confirmation::Withdrawn(fields) => {
                self.cache().purge(Scope::Key(old.key.clone()), Purging::Soft).await;
                (for_one(fields.shared), Provenance::NotStored, fields.own)
            }
        };
        self.flight.set_own(own);
        self.flight.announce(FillOutcome::Whole { found, provenance });
        true
    }

    /// Whether the request selects `variant` of a response.
    fn selects(&self, storable: &StorableResponse, variant: &Variant) -> bool {
        storable.varies.select(&self.request.headers).is_some_and(|own| own == *variant)
    }

    async fn answered(
        &self,
        response: Response,
        (caching, rule): (&Caching, &CachingRule),
    ) -> Result<&'static str, FillError> {
        let times = Times { request: response.request_time, response: response.response_time };
        let wishes = &self.request.wishes;
        let (status, headers) = (response.status, &response.headers);
        let reply = GenericReply { status, headers, wishes, times };
        let (storable, variant) = match storing::admit(&reply, rule, &caching.targeted) {
            StoringVerdict::Store(storable) => {
                match storable.varies.select(&self.request.headers) {
                    Some(variant) => (storable, variant),
                    None => return Ok(self.pass(response, GenericPassReason::VaryAny)),
                }
            }
            StoringVerdict::Pass(reason) => return Ok(self.pass(response, reason)),
        };
        if !response.is_framed {
            return Ok(self.pass(response, GenericPassReason::Unframed));
        }
        self.resources.hit_for_miss.end(&self.request.key);
        self.flight.set_own(storable.fields.own.clone());
        let meta = self.request.meta(&response, *storable, variant);
        if response.content_length.is_some_and(|length| length <= SMALL_BYTES_MAX) {
            return self.whole(meta, response).await;
        }
        self.stream(meta, response).await
    }

    /// Gives the answer to the one reader that caused it.
    fn pass(&self, response: Response, reason: GenericPassReason) -> &'static str {
        let key = &self.request.key;
        tracing::debug!(path = key.path(), reason = reason.as_str(), "response not storable");
        // What one request says about itself is no reason that other requests do not share an
        // answer, nor is an error: the next answer may be one for all.
        let is_of_request =
            matches!(reason, GenericPassReason::RequestNoStore | GenericPassReason::Authorization);
        let is_error = response.status.is_client_error() || response.status.is_server_error();
        if !is_of_request && !is_error {
            let now = response.response_time.edge;
            self.resources.hit_for_miss.begin(key, now, self.flight.ticket);
        }
        self.flight.announce_pass_through(self.passing(response));
        "passed"
    }

    /// The answer for one client; if its entity tag tells what may continue it, it is resumed when
    /// it breaks off.
    fn passing(&self, response: Response) -> PassThroughBody {
        let key = &self.request.key;
        let is_tagged = Validators::of(&response.headers).etag.is_some_and(|tag| tag.is_strong());
        let is_identified = response.status == StatusCode::OK && is_tagged;
        if response.content_length.is_none() || !is_identified {
            return passed_on(key, response);
        }
        let mut headers = response.headers.clone();
        crate::rfc::hop_by_hop::remove(&mut headers);
        let meta = Arc::new(passed(key, &response, headers));
        let body = self.resumable(response, meta.headers.clone());
        PassThroughBody::lasting(meta, body)
    }

    /// The body of an answer with these fields, which is resumed when it breaks off.
    fn resumable(&self, response: Response, mut headers: HeaderMap) -> ResumableBody {
        if response.status != StatusCode::OK {
            // Only of a 200 there are ranges.
            headers.remove(header::ETAG);
        }
        let source = FetchedBody {
            upstream: Arc::clone(&self.request.upstream),
            metrics: self.resources.metrics.clone(),
            key: self.request.key.clone(),
            request: BodyRequest::Page(self.request.clone()),
            body_origins: BodyOrigins::default(),
        };
        ResumableBody::new(source, response, headers, BodyCheck::ByLength)
    }

    async fn whole(&self, meta: Meta, response: Response) -> Result<&'static str, FillError> {
        let mut body = self.resumable(response, meta.headers.clone());
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
        let (found, provenance, result) = match kept.await {
            Ok(found) => (found, Provenance::Stored, "stored"),
            Err(error) => {
                not_kept(&meta, &error);
                let hot = CachedObject::Hot(Arc::new(Hot::new(&meta, &body)));
                (hot, Provenance::NotStored, "not_stored")
            }
        };
        self.flight.announce(FillOutcome::Whole { found, provenance });
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
                self.flight.announce_pass_through(self.passing(response));
                return Ok("passed");
            }
            let (resources, ticket) = (Arc::clone(self.resources), self.flight.ticket);
            let body = self.resumable(response, meta.headers.clone());
            let expected = ExpectedBody::default();
            let body =
                checked_body::CheckedBody::new(Arc::new(meta), body, expected, resources, ticket);
            let sharing = self.flight.share(body, self.request.demand(), WindowExtent::Whole);
            return Ok(Box::pin(sharing).await);
        };
        let growing = writer.growing();
        let mut body = self.resumable(response, meta.headers.clone());
        let shown = Arc::new(meta.clone());
        let read = growing.clone();
        self.flight.announce(FillOutcome::Streaming { meta: shown, growing: read, must_be: None });
        if let Err(error) = self.feed(&mut body, &mut writer).await {
            let broke_off = matches!(
                error,
                FillError::Body(_) | FillError::Rejected { .. } | FillError::GivenUp(_)
            );
            if let Some(length) = body.total().filter(|_| broke_off) {
                Box::pin(salvage(self.resources, self.flight.ticket, (meta, length), &growing))
                    .await;
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
    async fn feed(
        &self,
        body: &mut ResumableBody,
        writer: &mut ObjectWriter,
    ) -> Result<(), FillError> {
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

/// An answer as a body for one client.
pub(super) fn passed_on(key: &Key, response: Response) -> PassThroughBody {
    let mut headers = response.headers.clone();
    crate::rfc::hop_by_hop::remove(&mut headers);
    let trailer = response.headers.get(header::TRAILER).cloned();
    let meta = Arc::new(passed(key, &response, headers));
    PassThroughBody::plain(meta, response.body, response.content_length, trailer)
}

/// Statuses that tell of trouble at the origin, which a stale response may bridge (RFC 5861).
fn is_trouble(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
