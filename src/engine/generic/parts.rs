//! Requests for what is not stored as a whole: ranges are kept, and what is here in part answers
//! (RFC 9111 sections 3.3 and 3.4). Part of the table of `generic`; holds no lock.
//!
//! | here in part          | the client gets           | outcome         |
//! |-----------------------|---------------------------|-----------------|
//! | all that is asked for | it                        | hit_disk        |
//! | that, stale           | it, once confirmed        | revalidated     |
//! | that, stale           | it, where its origin is in trouble and that is permitted | hit_stale |
//! | that, stale           | it, where its origin is silent and that is permitted | hit_stale |
//! | some of it            | it, the rest as it comes  | miss, collapsed |
//! | nothing, a range      | it, as it comes           | miss, collapsed |
//! | nothing that may be kept | its origin's answer    | pass            |
//!
//! Requests with credentials, and those that forbid storing, have no part in this.

use super::Request;
use super::deliver::{Delivery, Here};
use crate::engine::answer::{self, Answer};
use crate::fill::{Came, Confirmed, FillError, Find, Paged, PartHandle};
use crate::origin::Response;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::generic::reuse::{Outage, Reuse, judge, may_bridge, revalidation_wait};
use crate::policy::generic::selection::{GenericSelection, Several, select};
use crate::policy::request::{ReadMethod, RequestRefusal};
use crate::rfc::ContentRange;
use crate::rfc::range::{ByteRanges, ByteSpan, Resolved};
use http::{Method, StatusCode, header};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Fields that make the answer to a range depend on what is stored, so that an origin is asked for
/// exactly what the client wants where nothing is.
const CONDITIONS: [header::HeaderName; 5] = [
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// What a request comes to for what is not stored as a whole.
pub(super) enum Parted {
    Answer(Box<Answer>),
    /// What is stored has changed: look again.
    Again,
    /// No part of it is here, or comes to be.
    Nothing,
}

impl From<Answer> for Parted {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

/// Whether what is here in part may be used, and how it came about.
enum Usable {
    Yes(Outcome),
    /// As far as nothing is missing: its origin is in trouble.
    IfHere,
    No(Parted),
}

impl Request<'_> {
    /// The answer out of what is here in part, or comes to be for it.
    pub(super) async fn parted(&self) -> Parted {
        let headers = &self.parts.headers;
        let ranges = ByteRanges::of(headers);
        let is_unread = ranges.is_none() && headers.contains_key(header::RANGE);
        if self.parts.method != Method::GET
            || self.wishes.is_authorized
            || self.wishes.forbids_storing()
            || is_unread
        {
            return Parted::Nothing;
        }
        let is_plain = !CONDITIONS.iter().any(|name| headers.contains_key(name));
        let find = match &ranges {
            Some(ranges) if is_plain && !self.wishes.wants_stored_only() => Find::Asked(ranges),
            _ => Find::Known,
        };
        match self.engine.fills.page(&self.sought(None), find, self.now).await {
            Paged::Known(handle) => self.known(handle, ranges.as_ref()).await,
            Paged::Whole(role, flight) => match self.landed(role, &flight, None).await {
                Some(answer) => answer.into(),
                None => Parted::Nothing,
            },
            Paged::Again => Parted::Again,
            Paged::Unknown => Parted::Nothing,
            Paged::Alone(response) => self.alone(*response, ranges.as_ref()),
            Paged::Failed(error) => answer::failed(&error).into(),
            Paged::NotJoined(error) => self.not_joined(error, None).into(),
        }
    }

    async fn known(&self, handle: PartHandle, ranges: Option<&ByteRanges>) -> Parted {
        let length = handle.length();
        let resolved = ranges.map(|ranges| ranges.resolve(length));
        if matches!(resolved, Some(Resolved::Multiple(_))) {
            return Parted::Nothing;
        }
        let several = (Some(length), Several::AsWhole);
        let stored = handle.meta();
        let selected = select(ReadMethod::Get, &self.parts.headers, &stored.headers, several);
        let span = match selected {
            GenericSelection::Whole => Some(ByteSpan { first: 0, last: length.saturating_sub(1) }),
            GenericSelection::Part(span) => Some(span),
            GenericSelection::Parts(_) => return Parted::Nothing,
            GenericSelection::NotModified
            | GenericSelection::PreconditionFailed
            | GenericSelection::Unsatisfiable { .. } => None,
        };
        let (hit, must_be_here) = match self.usable(&handle, span).await {
            Usable::Yes(hit) => (hit, self.wishes.wants_stored_only()),
            Usable::IfHere => (Outcome::HitStale, true),
            Usable::No(parted) => return parted,
        };
        let Some(span) = span else {
            return self.delivery(&handle.meta(), Some(length), hit).without_body().into();
        };
        if must_be_here && !handle.holds(&bytes_of(span)) {
            return Parted::Nothing;
        }
        self.part_of(handle, (selected, span), hit).await
    }

    /// Whether what is here in part may be used for this request; confirmed where it must be, and
    /// not waited for too long if all of `span` is here.
    async fn usable(&self, handle: &PartHandle, span: Option<ByteSpan>) -> Usable {
        let meta = handle.meta();
        let (directives, wishes) = (self.directives(&meta), &self.wishes);
        let rule = self.caching.rule(self.target.key.path());
        let is_new = handle.is_learned_now();
        let reuse = judge(&meta, &directives, wishes, rule, self.now);
        if is_new || reuse == Reuse::Serve {
            return Usable::Yes(Outcome::HitDisk);
        }
        if wishes.wants_stored_only() {
            return Usable::No(answer::refused(RequestRefusal::NotStored).into());
        }
        let may_bridge = |outage| may_bridge(&meta, &directives, wishes, rule, (outage, self.now));
        let wait = match reuse {
            Reuse::ServeAndRefresh => Some(Duration::ZERO),
            Reuse::Serve | Reuse::Confirm => {
                revalidation_wait(&meta, &directives, wishes, rule, self.now)
            }
        };
        let is_here = || span.is_none_or(|span| handle.holds(&bytes_of(span)));
        match handle.confirm(wait.filter(|_| is_here())).await {
            Some(Confirmed::Same) => Usable::Yes(Outcome::Revalidated),
            Some(Confirmed::Other) => Usable::No(Parted::Again),
            Some(Confirmed::Trouble) if may_bridge(Outage::ServerError) => Usable::IfHere,
            Some(Confirmed::Trouble | Confirmed::Unsaid) => Usable::No(Parted::Nothing),
            Some(Confirmed::Failed(_)) if may_bridge(Outage::Disconnected) => Usable::IfHere,
            Some(Confirmed::Failed(error)) => Usable::No(answer::failed(&error).into()),
            None => Usable::IfHere,
        }
    }

    async fn part_of(
        &self,
        handle: PartHandle,
        (selected, span): (GenericSelection, ByteSpan),
        hit: Outcome,
    ) -> Parted {
        let (length, is_new) = (handle.length(), handle.is_learned_now());
        let reader = match handle.open(span).await {
            Ok(reader) => reader,
            Err(error) => return unopened(&error),
        };
        let outcome = match reader.came() {
            Came::Here => hit,
            Came::Began => Outcome::Miss,
            Came::Joined => Outcome::Collapsed,
            Came::Passed => Outcome::Pass,
        };
        let here = if is_new { Here::Nothing } else { Here::Part };
        let meta = reader.meta();
        let delivery = Delivery { here, ..self.delivery(&meta, Some(length), outcome) };
        delivery.part(reader, selected).into()
    }

    /// An answer for this request alone: as it is, or what the client asked for of it.
    fn alone(&self, response: Response, ranges: Option<&ByteRanges>) -> Parted {
        let part = policy::continuation::part(&response.headers);
        let is_part = response.status == StatusCode::PARTIAL_CONTENT;
        let passing = |response| self.engine.fills.passing(&self.target.key, response);
        if !is_part {
            return self.passing(passing(response), Outcome::Pass).into();
        }
        let (Some((here, length)), Some(asked)) = (part, ranges.and_then(ByteRanges::stretch))
        else {
            return Parted::Nothing;
        };
        let end = length.map_or(u64::MAX, |length| length.saturating_sub(1));
        let span = ByteSpan { first: asked.first, last: asked.last.min(end) };
        if span.first < here.first || span.last > here.last || span.first > span.last {
            return Parted::Nothing;
        }
        let passing = passing(response);
        let (meta, range) = (Arc::clone(&passing.meta), ContentRange::Part { span, length });
        let sent = (span.first - here.first, span.length());
        self.delivery(&meta, None, Outcome::Pass).sliced(passing, range, sent).into()
    }
}

/// What a reader comes to that got no byte.
fn unopened(error: &Arc<FillError>) -> Parted {
    match &**error {
        FillError::Changed | FillError::Unread => Parted::Again,
        FillError::Unranged => Parted::Nothing,
        FillError::NoRoom => answer::shed().into(),
        FillError::Fetch(_)
        | FillError::Body(_)
        | FillError::GivenUp(_)
        | FillError::Rejected { .. }
        | FillError::Write(_)
        | FillError::Relayed(_)
        | FillError::Behind
        | FillError::Lost => answer::failed(error).into(),
    }
}

fn bytes_of(span: ByteSpan) -> Range<u64> {
    span.first..span.last.saturating_add(1)
}
