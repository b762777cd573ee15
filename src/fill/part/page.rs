//! Responses of generic sites that are here in part (RFC 9111 sections 3.3 and 3.4): how one
//! begins, and how it is confirmed. Called by `engine`, and by the runs of this module.
//!
//! A part is what one strong entity tag ties together: the head must be one that may be stored for
//! everybody, must not vary, and every later answer must have the same tag, the same length, and
//! still permit storing; else the part is dropped and who reads it is reset, or begins anew where
//! it has got no byte yet. So no answer ever has bytes of two representations. What varies has no
//! parts, and where variants of an object are stored it gets none: which of both would be newer,
//! nobody could tell.
//!
//! The first request asks for whole chunks. Where its answer may not be kept it is for the one who
//! asked alone; whoever waited for it asks by itself. After a 206 of that kind nobody waits again
//! for a while.
//!
//! Purge, eviction, restart and a whole object that takes the place of the part are as for the
//! parts of binary caches (see the module above).

use super::PartHandle;
use super::cursors::Cursors;
use super::flight::{PartFlight, PartLanded};
use super::learn::{Learning, in_chunks};
use super::object::{Kind, Object, Told as ToldBy};
use super::stretch::{Identity, Stretch, Told};
use super::subject::Subject;
use crate::cache::FenceEpoch;
use crate::clock::Timestamp;
use crate::fill::generic::{Rest, Sought};
use crate::fill::steady::Checked;
use crate::fill::{FillError, Fills, FlightReader, NotJoined, Role, Running, Shared};
use crate::object::{Meta, Variant};
use crate::origin::{Response, Retries};
use crate::policy::continuation;
use crate::policy::generic::storing::{
    self, Confirmation, GenericPassReason, GenericReply, StorableResponse, StoringVerdict,
};
use crate::policy::response::Times;
use crate::rfc::range::{ByteRanges, ByteSpan};
use crate::store::{CHUNK_BYTES, Growing, Part};
use http::{StatusCode, header};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that are copied at a time of a body that broke off.
const SALVAGED_BYTES: u64 = 256 << 10;

/// What is to be found out.
#[derive(Debug, Clone, Copy)]
pub enum Find<'r> {
    /// What is here in part; no origin is asked.
    Known,
    /// That, or else what an origin says to a request for these ranges.
    Asked(&'r ByteRanges),
}

/// What a request comes to for a response that is not stored as a whole.
#[derive(Debug)]
pub enum Paged {
    /// It is here in part.
    Known(PartHandle),
    /// The whole is being fetched: read along.
    Whole(Role, FlightReader),
    /// It may be stored as a whole by now: look again.
    Again,
    /// Nothing is known of it: ask as if there were no parts.
    Unknown,
    /// The answer to the request for a stretch, for this request alone.
    Alone(Box<Response>),
    /// No usable answer.
    Failed(Arc<FillError>),
    /// Nothing may be fetched for it now.
    NotJoined(NotJoined),
}

impl Fills {
    /// What is here of a response that is not stored as a whole, or comes to be.
    pub async fn page(&self, sought: &Sought, find: Find<'_>, now: Timestamp) -> Paged {
        let (key, shared) = (&sought.key, &self.shared);
        let is_alone = shared.parts.alone.holds(key, now, &shared.cache);
        let find = if is_alone { Find::Known } else { find };
        if let Find::Asked(ranges) = find
            && let Some(flight) = self.whole_under_way(key)
            && super::is_near(&flight, ranges).await
        {
            return Paged::Whole(Role::Follow, flight);
        }
        let stretch = match find {
            Find::Known => None,
            Find::Asked(ranges) => ranges.stretch(),
        };
        if stretch.is_none() && !self.knows(sought).await {
            return Paged::Unknown;
        }
        let subject = Subject::Page(sought.clone());
        let (role, flight, is_known) = PartFlight::enter(shared, &subject);
        let (first, end) = stretch.map_or((0, 0), |s| (s.first, s.last.saturating_add(1)));
        let Some(cursor) = Cursors::register(&flight.cursors, first, end) else {
            return Paged::Again;
        };
        if role == Role::Lead {
            let learning = Learning::new(Arc::clone(&flight));
            let running = Running::begin(&shared.metrics);
            shared.tasks.spawn("part", async move {
                let _running = running;
                Box::pin(learning.run(stretch)).await;
            });
        }
        match flight.landed().await {
            PartLanded::Known(object) => Paged::Known(PartHandle {
                is_learned_now: !is_known && matches!(object.told, ToldBy::ByOrigin { .. }),
                object,
                cursor,
                role,
                flight,
            }),
            PartLanded::Whole(began, whole) => {
                let is_own = role == Role::Lead && began == Role::Lead;
                Paged::Whole(if is_own { Role::Lead } else { Role::Follow }, whole)
            }
            PartLanded::Stored => Paged::Again,
            PartLanded::Alone => {
                let taken = (role == Role::Lead).then(|| flight.alone.lock().take()).flatten();
                taken.map_or(Paged::Unknown, Paged::Alone)
            }
            PartLanded::Unknown | PartLanded::Absent(_) => Paged::Unknown,
            PartLanded::Failed(error) => Paged::Failed(error),
            PartLanded::NotJoined(refused) => Paged::NotJoined(refused),
        }
    }

    /// Whether anything is here in part.
    async fn knows(&self, sought: &Sought) -> bool {
        let flight = self.shared.parts.under_way.lock().get(&sought.key).cloned();
        // Not under the lock, which a flight that is dropped takes.
        let is_of_use = flight.and_then(|flight| flight.upgrade()).is_some_and(|f| f.is_of_use());
        is_of_use || self.shared.cache.part(&sought.key).await.is_some()
    }
}

impl Learning {
    /// Asks for the chunks of a stretch.
    pub(super) async fn by_page(
        &self,
        sought: &Sought,
        stretch: ByteSpan,
    ) -> Result<(), FillError> {
        let asked = in_chunks(stretch);
        let last = (asked.end != u64::MAX).then(|| asked.end.saturating_sub(1));
        let rest = Rest { first: asked.start, last, same: None, retries: Retries::Usual };
        let asking = sought.stretch(rest, None);
        let mut response = self.flight.cursors.readers.while_open(asking).await??;
        if response.status == StatusCode::OK {
            self.whole_page(sought, response);
            return Ok(());
        }
        let part = continuation::part(&response.headers);
        let part = part.filter(|_| response.status == StatusCode::PARTIAL_CONTENT);
        let Some((span, Some(length))) = part else {
            self.alone(response);
            return Ok(());
        };
        if span.first == 0 && span.last.checked_add(1) == Some(length) {
            response.status = StatusCode::OK;
            response.headers.remove(header::CONTENT_RANGE);
            // It has said how long it is, so its end is known however it is framed.
            (response.content_length, response.is_framed) = (Some(length), true);
            self.whole_page(sought, response);
            return Ok(());
        }
        match self.begin(sought, &response, (asked, length)).await {
            Some((object, part, asked)) => {
                let begun = Stretch::of(&self.flight, &object.identity, response, asked);
                self.kept(object, &part, Some(begun)).await;
            }
            None => self.alone(response),
        }
        Ok(())
    }

    /// What is kept of the response that `response` is the stretch `asked` of; none where it may
    /// not be kept in parts.
    async fn begin(
        &self,
        sought: &Sought,
        response: &Response,
        (asked, length): (Range<u64>, u64),
    ) -> Option<(Arc<Object>, Part, Range<u64>)> {
        let meta = whole_of(sought, response)?;
        let identity = Identity::new(&meta, length, Checked::ByLength);
        let asked = asked.start..asked.end.min(length);
        if !identity.ties_parts() || identity.check(&asked, response).is_err() {
            return None;
        }
        let part = self.flight.shared.cache.begin_part(meta, length).await?;
        let told = ToldBy::ByOrigin { upstream_status: Vec::new() };
        let object = Object::new(Arc::new(identity), Kind::Kept(part.clone()), told);
        Some((Arc::new(object), part, asked))
    }

    /// Fetches the whole, with the answer that is here already.
    fn whole_page(&self, sought: &Sought, given: Response) {
        let fills = Fills { shared: Arc::clone(&self.flight.shared) };
        let given_at = given.response_time.edge;
        let landed = match fills.seek_with(sought.clone(), (given, self.flight.ticket), given_at) {
            Ok((role, flight)) => PartLanded::Whole(role, flight),
            Err(NotJoined::Ended) => PartLanded::Stored,
            Err(refused @ (NotJoined::NoRoom | NotJoined::Wrong { .. })) => {
                PartLanded::NotJoined(refused)
            }
        };
        self.flight.land(landed);
    }

    /// Gives an answer to who caused the question; of a part that may not be kept, nobody waits for
    /// the next for a while.
    fn alone(&self, response: Response) {
        if response.status == StatusCode::PARTIAL_CONTENT {
            let (flight, now) = (&self.flight, response.response_time.edge);
            flight.shared.parts.alone.begin(flight.subject.key(), now, flight.ticket);
        }
        *self.flight.alone.lock() = Some(Box::new(response));
        self.flight.land(PartLanded::Alone);
    }
}

/// The head of the whole that a 206 is a part of, where it may be stored for everybody.
fn whole_of(sought: &Sought, response: &Response) -> Option<Meta> {
    let mut headers = response.headers.clone();
    headers.remove(header::CONTENT_RANGE);
    let caching = sought.upstream.site.caching.as_ref()?;
    let times = Times { request: response.request_time, response: response.response_time };
    let (status, wishes) = (StatusCode::OK, &sought.wishes);
    let reply = GenericReply { status, headers: &headers, wishes, times };
    let rule = caching.rule(sought.key.path());
    let StoringVerdict::Store(storable) = storing::admit(&reply, rule, &caching.targeted) else {
        return None;
    };
    // What is for the client that asked alone would not come out of a part.
    if !storable.fields.own.is_empty() {
        return None;
    }
    let varies = storable.varies.select(&sought.headers);
    varies.filter(Variant::is_empty)?;
    let meta = sought.meta(response, *storable, Variant::default());
    Some(Meta { status, ..meta })
}

/// Gives a part the fields that a later answer about it states (RFC 9111 sections 3.2 and 3.4).
pub(super) async fn renew(flight: &PartFlight, part: &Part, told: &Told) {
    let Subject::Page(sought) = &flight.subject else { return };
    if let Some(meta) = renewed(sought, &part.meta(), told) {
        flight.shared.cache.touch_part(flight.ticket, part, meta).await;
    }
}

/// The head `old` as a later answer about the same renews it; none where that forbids storing it.
pub(super) fn renewed(sought: &Sought, old: &Meta, told: &Told) -> Option<Meta> {
    let caching = sought.upstream.site.caching.as_ref()?;
    let times = told.times;
    let (status, wishes) = (StatusCode::OK, &sought.wishes);
    let reply = GenericReply { status, headers: &told.headers, wishes, times };
    let rule = caching.rule(sought.key.path());
    let confirmed = storing::confirmed(&old.headers, &reply, rule, &caching.targeted);
    let Confirmation::Renewed(StorableResponse { fields, lifetime, varies, .. }) = confirmed else {
        return None;
    };
    varies.select(&sought.headers).filter(Variant::is_empty)?;
    Some(Meta {
        request_time: times.request,
        response_time: times.response.edge,
        age_at_response: crate::rfc::age::initial_age(&told.headers, times.into()),
        lifetime,
        is_invalidated: false,
        headers: fields.shared,
        ..old.clone()
    })
}

/// Whether an answer to a request for more of what is stored permits to store it.
pub(in crate::fill) fn permits(sought: &Sought, response: &Response) -> bool {
    let Some(caching) = sought.upstream.site.caching.as_ref() else { return false };
    let times = Times { request: response.request_time, response: response.response_time };
    let (status, headers, wishes) = (StatusCode::OK, &response.headers, &sought.wishes);
    let rule = caching.rule(sought.key.path());
    match storing::admit(&GenericReply { status, headers, wishes, times }, rule, &caching.targeted)
    {
        StoringVerdict::Store(storable) => {
            storable.varies.select(&sought.headers).is_some_and(|variant| variant.is_empty())
        }
        // Stale as it comes, and nothing to confirm it by but the tag that ties the parts.
        StoringVerdict::Pass(reason) => reason == GenericPassReason::Useless,
    }
}

/// Keeps the chunks that have come of a body of so many bytes that broke off and that nobody
/// continues now, where its tag tells later whether what continues it is the same. Its readers wait
/// meanwhile for what is a copy within the page cache.
pub(in crate::fill) async fn salvage(
    shared: &Shared,
    ticket: FenceEpoch,
    (meta, length): (Meta, u64),
    growing: &Growing,
) {
    let come = growing.visible() - growing.visible() % CHUNK_BYTES;
    let is_tied = Identity::new(&meta, length, Checked::ByLength).ties_parts();
    let is_read_in_part = shared.parts.under_way.lock().contains_key(&meta.key);
    let may_be_part = meta.status == StatusCode::OK && meta.variant.is_empty();
    if come == 0 || !is_tied || is_read_in_part || !may_be_part {
        return;
    }
    let (site, path) = (meta.key.site().to_owned(), meta.key.path().to_owned());
    let Some(part) = shared.cache.begin_part(meta, length).await else { return };
    let Some(mut run) = part.claim(0, come) else { return };
    while run.received() < come {
        let at = run.received();
        let left = (CHUNK_BYTES - at % CHUNK_BYTES).min(SALVAGED_BYTES);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let Ok(bytes) = growing.read(at, left).await else { break };
        if bytes.is_empty() || run.append(bytes).await.is_err() {
            break;
        }
    }
    let finished = run.finish().await;
    drop(run);
    match (finished, shared.cache.keep_part(ticket, &part).await) {
        (Ok(()), Ok(())) => tracing::info!(site, path, come, length, "what came of it is kept"),
        (Err(error), _) => tracing::debug!(site, path, %error, "what came of it is not kept"),
        (_, Err(error)) => tracing::debug!(site, path, %error, "what came of it is not kept"),
    }
}
