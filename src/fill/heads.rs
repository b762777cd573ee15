//! The head of an object alone: one request for each object at a time, whose answer every asker
//! gets. An absence is remembered as that of a fill is; nothing else is kept. Called by `engine`,
//! and where a range needs a length first.

use super::flight::{FlightReader, Landed};
use super::trusted::sourced;
use super::{FillError, Fills, Landing, Mark, NotJoined, Role, Wanted};
use crate::origin::{FetchError, Method, OriginAnswer};
use crate::policy::response::Times;
use std::sync::Arc;

impl Fills {
    /// The flight that tells the head of `wanted`: a fill of it that is under way, else a request
    /// for its head, joined or begun. `looked` is as for [`Fills::join`].
    pub fn head(
        &self,
        wanted: Wanted,
        looked: Option<Mark>,
    ) -> Result<(Role, FlightReader), NotJoined> {
        match self.whole_under_way(&wanted.key) {
            Some(flight) => Ok((Role::Follow, flight)),
            None => self.head_alone(wanted, looked),
        }
    }

    /// As [`Fills::head`], whatever fill is under way: it lands as a head, an absence or a failure.
    pub(super) fn head_alone(
        &self,
        wanted: Wanted,
        looked: Option<Mark>,
    ) -> Result<(Role, FlightReader), NotJoined> {
        let key = wanted.key.clone();
        let (asked, since, advised) = ((&key, None), (looked, None), || Ok(()));
        self.begin_or_join(asked, since, advised, |(), landing| async move {
            let landed = ask(&landing, &wanted).await.unwrap_or_else(|error| {
                error.log(&wanted.key);
                Landed::Failed(Arc::new(error))
            });
            landing.flight.land(landed);
        })
    }
}

async fn ask(landing: &Landing, wanted: &Wanted) -> Result<Landed, FillError> {
    let Landing { shared, flight, .. } = landing;
    let ask = sourced(&shared.cache, wanted, wanted.ask(Method::Head)).await;
    match wanted.upstream.origins.fetch(&ask).await? {
        OriginAnswer::Found(response) => {
            let admitted = Arc::new(wanted.admit(&response)?);
            Ok(Landed::Head { admitted, length: response.content_length })
        }
        OriginAnswer::Absent { headers, origin, request_time, response_time } => {
            let times = Times { request: request_time, response: response_time };
            let (meta, keep) = wanted.absence(&headers, origin, times);
            Ok(Landed::Absent(shared.absent(flight.ticket, meta, keep).await))
        }
        OriginAnswer::NotModified { origin, .. } => {
            Err(unasked(wanted.upstream.origins.name(origin), "304"))
        }
        OriginAnswer::Changed => Err(unasked("one of several".into(), "412 or 416")),
    }
}

fn unasked(origin: Arc<str>, what: &str) -> FillError {
    let detail = format!("{what} to a HEAD without conditions");
    FillError::Fetch(FetchError::Protocol { origin, detail })
}
