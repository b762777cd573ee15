//! One decision table for requests to a binary cache that memory alone does not answer. Picks the
//! way: what is stored, the absence filter, a range, or a fill. Holds no lock.

use super::answer::{self, Answer};
use super::connection::Connection;
use super::deliver::Asked;
use super::fetch::{self, Again};
use super::state::Engine;
use super::target::Routed;
use super::{local, lookup, ranged};
use crate::fill::Asker;
use crate::policy::request::{ReadMethod, Refusal, Upstream};
use http::HeaderMap;
use http::request::Parts;
use std::sync::Arc;

pub(super) async fn answer(
    engine: &Arc<Engine>,
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
    let now = engine.clock.now();
    let asked = Asked { method, headers, connection, engine, routed, now };
    let answer = look_up(&asked).await;
    local::adapt(answer, &routed.site, class)
}

async fn look_up(asked: &Asked<'_>) -> Answer {
    let (engine, routed) = (asked.engine, asked.routed);
    let mark = engine.fills.mark();
    let stale = match lookup::stored(asked).await {
        Ok(answer) => return answer,
        Err(stale) => stale,
    };
    if routed.upstream == Upstream::StoredOnly {
        return answer::refused(Refusal::NotStored);
    }
    if stale.is_none() && routed.is_absent_by_filter() {
        return answer::absent_by_filter();
    }
    let wanted = routed.wanted(&engine.instance, Asker::at(asked.connection.peer.ip()));
    if stale.is_none()
        && let Some(answer) = ranged::answer(asked, &wanted).await
    {
        return answer;
    }
    if let Ok(answer) = fetch::fill(asked, &wanted, stale, Some(mark)).await {
        return answer;
    }
    // What is stored by now may have come since the request was first looked at.
    let asked = &Asked { now: engine.clock.now(), ..*asked };
    match lookup::stored(asked).await {
        Ok(answer) => answer,
        Err(stale) => {
            let filled = fetch::fill(asked, &wanted, stale, None).await;
            filled.unwrap_or_else(|Again| answer::fault("a fill ended before it began"))
        }
    }
}
