//! Whether what is here in part is still what its origin has. One request for each object at a
//! time, in a task of its own: a client that leaves, or that gets what is stale, cancels nothing,
//! and the answer renews the head for later requests. A short lock, never across an await.

use super::confirming::{ConfirmRequest, PartConfirmation};
use super::flight::PartFlight;
use super::handle::PartHandle;
use super::object::PartObject;
use super::page_head::{LaterHead, renewed};
use super::run::break_off;
use crate::fill::error::FillError;
use crate::fill::flight::FillOutcome;
use crate::fill::heads;
use crate::fill::object_request::ObjectRequest;
use crate::fill::page_request::PageRequest;
use crate::fill::request::FillRequest;
use crate::fill::resources::RunningCount;
use crate::policy::response::Times;
use crate::rfc::conditional::Validators;
use http::StatusCode;
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
            let said = match &flight.request {
                FillRequest::Object(request) => Box::pin(by_head(&flight, &object, request)).await,
                FillRequest::Page(request) => Box::pin(by_page(&flight, &object, request)).await,
            };
            tell.send_replace(Some(said));
        });
        confirming
    }
}

/// Asks for the head of the object.
async fn by_head(
    flight: &PartFlight,
    object: &PartObject,
    request: &ObjectRequest,
) -> PartConfirmation {
    let outcome = match heads::join(&flight.registry, request.clone(), None) {
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

/// Asks whether the response still holds, and renews its head then.
async fn by_page(
    flight: &PartFlight,
    object: &PartObject,
    request: &PageRequest,
) -> PartConfirmation {
    let old = object.meta();
    let response = match request.confirm(old.etag()).await {
        Ok(response) => response,
        Err(error) => return PartConfirmation::Failed(Arc::new(error.into())),
    };
    match response.status.as_u16() {
        500 | 502 | 503 | 504 => return PartConfirmation::Trouble,
        200..=299 | 304 | 404 | 410 | 412 | 416 => {}
        _ => return PartConfirmation::Unsaid,
    }
    let tags = (Validators::of(&old.headers).etag, Validators::of(&response.headers).etag);
    let is_same = match (response.status, tags) {
        (StatusCode::NOT_MODIFIED, (Some(own), Some(told))) => own.matches_weakly(&told),
        (StatusCode::NOT_MODIFIED, _) => true,
        _ => false,
    };
    let times = Times { request: response.request_time, response: response.response_time };
    let told = LaterHead { headers: response.headers.clone(), times };
    let renewed = is_same.then(|| renewed(request, &old, &told)).flatten();
    let (Some(meta), Some(part)) = (renewed, object.part()) else {
        return other(flight, object).await;
    };
    flight.resources().cache.touch_part(flight.ticket, part, meta).await;
    PartConfirmation::Same
}

async fn other(flight: &PartFlight, object: &PartObject) -> PartConfirmation {
    break_off(flight, object, Arc::new(FillError::Changed)).await;
    PartConfirmation::Other
}
