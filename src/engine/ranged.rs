//! Ranges of objects that are not stored as a whole. Decides nothing that holds for whole objects
//! too: conditions, and which bytes are meant, are judged as for those, once the head is known.
//!
//! | asked bytes            | the client gets       | outcome         |
//! |------------------------|-----------------------|-----------------|
//! | all here, head fresh   | them                  | hit_disk        |
//! | all here, head stale   | them, once confirmed  | revalidated     |
//! | the same, and no origin confirms it in time | them | hit_stale |
//! | some missing           | them, as they arrive  | miss, collapsed |
//! | not kept               | them, passed through  | pass            |

use super::answer::{self, Answer};
use super::deliver::{self, Asked};
use super::{fetch, lookup};
use crate::fill::{Came, Confirmed, FillError, NotJoined, PartHandle, Ranged, Wanted};
use crate::nix::Class;
use crate::object::Meta;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::Selection;
use crate::policy::request::ReadMethod;
use crate::rfc::range::{ByteRanges, ByteSpan};
use std::borrow::Cow;
use std::sync::Arc;

/// Times that an answer is looked for before the first byte of one is here.
const TRIES_MAX: u32 = 3;

/// What became of a try.
enum Tried {
    Answer(Box<Answer>),
    /// What is here in part is out of date, or the whole may be stored by now.
    Again,
    /// The whole is to be had, as for a request without ranges.
    AsWhole,
}

impl From<Answer> for Tried {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

/// The answer to a request for ranges of what is not stored as a whole; none where the whole is
/// to be had.
pub(super) async fn answer(asked: &Asked<'_>, wanted: &Wanted) -> Option<Answer> {
    if asked.method != ReadMethod::Get || is_small(wanted.class) {
        return None;
    }
    let ranges = ByteRanges::of(asked.headers)?;
    for _ in 0..TRIES_MAX {
        match Box::pin(try_ranged(asked, wanted, &ranges)).await {
            Tried::Answer(answer) => return Some(*answer),
            Tried::Again => {}
            Tried::AsWhole => return None,
        }
    }
    None
}

async fn try_ranged(asked: &Asked<'_>, wanted: &Wanted, ranges: &ByteRanges) -> Tried {
    match asked.engine.fills.part(wanted, ranges).await {
        Ranged::Known(handle) => part(asked, wanted, handle).await,
        Ranged::Whole(role, flight) => {
            fetch::landed(asked, wanted, (None, None), (role, flight)).await.into()
        }
        Ranged::Again => {
            // What is stored by now may have come since the request was first looked at.
            let asked = Asked { now: asked.engine.clock.now(), ..*asked };
            match lookup::stored(&asked).await {
                Ok(answer) => answer.into(),
                Err(Some(_)) => Tried::AsWhole,
                Err(None) => Tried::Again,
            }
        }
        Ranged::Absent(meta) => deliver::absent(asked, &meta, Outcome::Absent.into()).into(),
        Ranged::Failed(error) => answer::failed(&error).into(),
        Ranged::NotJoined(NotJoined::Wrong { seconds }) => answer::wrong(seconds).into(),
        Ranged::NotJoined(NotJoined::NoRoom | NotJoined::Ended) => answer::shed().into(),
    }
}

/// The answer of what is here in part.
async fn part(asked: &Asked<'_>, wanted: &Wanted, handle: PartHandle) -> Tried {
    let (meta, length) = (handle.meta(), Some(handle.length()));
    let stored = || Cow::Borrowed(&meta.headers);
    let selection = policy::selection::select(asked.method, asked.headers, stored, length);
    let freshness = policy::freshness::judge(&meta.facts(), asked.now);
    let is_fresh = handle.is_learned_now() || freshness.is_fresh();
    let hit = if is_fresh {
        Outcome::HitDisk
    } else {
        let is_here = match &selection {
            Selection::Whole => false,
            Selection::Part(span) => handle.holds(&(span.first..span.last.saturating_add(1))),
            Selection::NotModified
            | Selection::PreconditionFailed
            | Selection::Unsatisfiable { .. } => true,
        };
        let wait = policy::freshness::revalidation_wait(&meta, asked.now, &wanted.terms());
        let wait = wait.filter(|_| is_here);
        match (handle.confirm(wait).await, wait) {
            (Some(Confirmed::Same), _) => Outcome::Revalidated,
            (Some(Confirmed::Other), _) => return Tried::Again,
            (Some(_), Some(_)) | (None, _) => Outcome::HitStale,
            (Some(Confirmed::Failed(error)), None) => return answer::failed(&error).into(),
            (Some(Confirmed::Trouble | Confirmed::Unsaid), None) => return Tried::AsWhole,
        }
    };
    let meta = handle.meta();
    match selection {
        Selection::Whole => Tried::AsWhole,
        Selection::Part(span) => part_of(asked, (&meta, handle), span, hit).await,
        Selection::NotModified
        | Selection::PreconditionFailed
        | Selection::Unsatisfiable { .. } => {
            let outcome = if handle.is_learned_now() { Outcome::Pass } else { hit };
            let how = deliver::How { outcome, upstream_status: handle.upstream_status() };
            deliver::without_body(asked, &meta, handle.length(), how).into()
        }
    }
}

async fn part_of(
    asked: &Asked<'_>,
    (meta, handle): (&Arc<Meta>, PartHandle),
    span: ByteSpan,
    hit: Outcome,
) -> Tried {
    let upstream_status = handle.upstream_status().to_vec();
    let length = handle.length();
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
    let how = deliver::How { outcome, upstream_status: &upstream_status };
    deliver::part(asked, meta, length, reader, how).into()
}

/// What a reader comes to that got no byte.
fn unopened(error: &Arc<FillError>) -> Tried {
    match &**error {
        FillError::Changed | FillError::Unread => Tried::Again,
        FillError::Unranged => Tried::AsWhole,
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

/// Objects of these classes are small, and checked before a byte of them is sent.
const fn is_small(class: Class) -> bool {
    matches!(class, Class::Narinfo | Class::CacheInfo)
}
