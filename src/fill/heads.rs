//! The head of an object alone: one request for each object at a time, and every client that waits
//! gets its answer. An absence is remembered as that of a fill is; nothing else is stored. Called
//! through `Fills`, and for ranges that need the object's length first.

use super::doubt::doubt_narinfo;
use super::error::{FillError, JoinError};
use super::flight::{FillOutcome, FlightReader};
use super::registry::{FillEpoch, FillRole, JoinRequest, LeadGuard, Registry};
use super::request::{FillRequest, OriginQuestion};
use crate::origin::{FetchError, Method, OriginAnswer};
use crate::policy::response::Times;
use std::sync::Arc;

/// Joins or begins the request for the head of an object, whatever fill is under way: it lands as
/// a head, an absence or a failure. `looked` is as for `Fills::join`.
pub(super) fn join(
    registry: &Arc<Registry>,
    request: FillRequest,
    looked: Option<FillEpoch>,
) -> Result<(FillRole, FlightReader), JoinError> {
    let key = request.key.clone();
    let wish = JoinRequest { key: &key, demand: None, looked, ticket: None };
    let lead = |(), landing: LeadGuard| async move {
        let outcome = ask(&landing, &request).await.unwrap_or_else(|error| {
            error.log(&request.key);
            FillOutcome::Failed(Arc::new(error))
        });
        landing.flight.announce(outcome);
    };
    registry.join_or_begin(wish, || Ok(()), lead)
}

async fn ask(landing: &LeadGuard, request: &FillRequest) -> Result<FillOutcome, FillError> {
    let resources = landing.resources();
    let choice = request.choice(&resources.cache).await;
    let question = OriginQuestion { method: Method::Head, ..request.question(choice) };
    match request.fetch(&question).await? {
        OriginAnswer::Found(response) => {
            let admitted = Arc::new(request.admit(&response)?);
            Ok(FillOutcome::Head { admitted, length: response.content_length })
        }
        OriginAnswer::Absent { headers, origin, request_time, response_time } => {
            let times = Times { request: request_time, response: response_time };
            let (meta, keep) = request.absence(&headers, origin, times);
            let absent = resources.absent(landing.flight.ticket, meta, keep).await;
            doubt_narinfo(resources, &request.upstream, &request.key, request.class()).await;
            Ok(FillOutcome::Absent(absent))
        }
        OriginAnswer::NotModified { origin, .. } => {
            Err(unasked(request.upstream.origins.name(origin), "304"))
        }
        OriginAnswer::Changed => Err(unasked("one of several".into(), "412 or 416")),
    }
}

fn unasked(origin: Arc<str>, what: &str) -> FillError {
    let detail = format!("{what} to a HEAD without conditions");
    FillError::Fetch(FetchError::Protocol { origin, detail })
}
