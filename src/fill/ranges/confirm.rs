//! Whether what is here in part is still what its origin has. One request for each object at a
//! time, in a task of its own: a client that leaves, or that gets what is stale, cancels nothing,
//! and the answer renews the head for later requests. A short lock, never across an await.

use super::confirming::{ConfirmRequest, PartConfirmation};
use super::flight::PartFlight;
use super::handle::PartHandle;
use super::object::PartObject;
use super::run::break_off;
use super::stretch::LaterHead;
use crate::fill::error::FillError;
use crate::fill::flight::FillOutcome;
use crate::fill::heads;
use crate::fill::request::{OriginChoice, OriginQuestion};
use crate::fill::resources::RunningCount;
use crate::origin::{OriginAnswer, RangeAsked};
use crate::policy::response::Times;
use crate::policy::revalidation::Conditions;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

impl PartHandle {
    /// What an origin says to what is here in part; `None` if it has not answered `wait` after it
    /// was first asked.
    pub async fn confirm(&self, wait: Option<Duration>) -> Option<PartConfirmation> {
        let confirming = self.confirming();
        let begun = confirming.begun;
        match wait {
            Some(wait) => timeout_at(begun + wait, confirming.said()).await.ok(),
            None => Some(confirming.said().await),
        }
    }

    /// The request under way, or a new one.
    fn confirming(&self) -> ConfirmRequest {
        let mut under_way = self.object.confirming.lock();
        if let Some(confirming) = under_way.as_ref().filter(|c| c.is_under_way()) {
            return confirming.clone();
        }
        let (tell, said) = watch::channel(None);
        let confirming = ConfirmRequest { begun: Instant::now(), said };
        *under_way = Some(confirming.clone());
        drop(under_way);
        let (flight, object) = (Arc::clone(&self.flight), Arc::clone(&self.object));
        let running = RunningCount::begin(&flight.resources().metrics);
        let tasks = flight.resources().tasks.clone();
        tasks.spawn("part confirmation", async move {
            let _running = running;
            let said = if flight.request.is_page() {
                Box::pin(by_condition(&flight, &object)).await
            } else {
                Box::pin(by_head(&flight, &object)).await
            };
            tell.send_replace(Some(said));
        });
        confirming
    }
}

/// Asks for the head of the object.
async fn by_head(flight: &PartFlight, object: &PartObject) -> PartConfirmation {
    let outcome = match heads::join(&flight.registry, flight.request.clone(), None) {
        Ok((_, asked)) => asked.outcome().await,
        Err(_) => return PartConfirmation::Failed(Arc::new(FillError::NoRoom)),
    };
    match outcome {
        FillOutcome::Head { admitted, length } if object.identity.is_of(&admitted.meta, length) => {
            if let Some(part) = object.part() {
                let meta = admitted.meta.clone();
                flight.resources().cache.touch_part(flight.ticket, part, meta).await;
            }
            PartConfirmation::Same
        }
        FillOutcome::Head { .. } | FillOutcome::Absent(_) => other(flight, object).await,
        FillOutcome::Failed(error) => PartConfirmation::Failed(error),
        FillOutcome::Streaming { .. } | FillOutcome::Whole { .. } | FillOutcome::Passing => {
            PartConfirmation::Failed(Arc::new(FillError::NoResult))
        }
    }
}

/// Asks whether the object still holds, and renews its head then; of what is another, for no more
/// than its first byte.
async fn by_condition(flight: &PartFlight, object: &PartObject) -> PartConfirmation {
    let if_none_match = object.meta().etag().cloned();
    let question = OriginQuestion {
        range: Some(RangeAsked { first: 0, last: Some(0) }),
        conditions: Conditions { if_none_match, if_modified_since: None },
        ..flight.request.question(OriginChoice::default())
    };
    let status = match flight.request.fetch(&question).await {
        Ok(OriginAnswer::NotModified { headers, request_time, response_time, .. }) => {
            let times = Times { request: request_time, response: response_time };
            let later = LaterHead::of(headers, times);
            let Some(part) = object.part() else { return other(flight, object).await };
            if later.renew(flight, part).await {
                return PartConfirmation::Same;
            }
            return other(flight, object).await;
        }
        Ok(OriginAnswer::Found(response)) => response.status.as_u16(),
        Ok(OriginAnswer::Absent { .. } | OriginAnswer::Changed) => 404,
        Err(error) => return PartConfirmation::Failed(Arc::new(error.into())),
    };
    match status {
        500 | 502 | 503 | 504 => PartConfirmation::Trouble,
        200..=299 | 404 | 410 | 412 | 416 => other(flight, object).await,
        _ => PartConfirmation::Unsaid,
    }
}

async fn other(flight: &PartFlight, object: &PartObject) -> PartConfirmation {
    break_off(flight, object, Arc::new(FillError::Changed)).await;
    PartConfirmation::Other
}
