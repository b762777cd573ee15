//! What the origins of a site said to one question, and what follows from it. Values.

use super::exchange::{FetchError, OriginAnswer};
use super::response::Response;
use super::upstream::Upstream;
use crate::config::{AbsenceOf, OriginNecessity};

/// What the origins said so far.
#[derive(Default)]
pub(super) struct OriginAnswers {
    absent: Option<OriginAnswer<Response>>,
    failure: Option<FetchError>,
    /// The outage of an optional origin.
    outage: Option<FetchError>,
}

/// What follows from what one origin said.
pub(super) enum AfterAttempt {
    /// It is the answer.
    Answer(Box<OriginAnswer<Response>>),
    /// No other origin is asked.
    NothingMore,
    /// The next one is asked.
    GoOn,
}

impl OriginAnswers {
    pub(super) fn hear(
        &mut self,
        upstream: &Upstream,
        answer: Result<OriginAnswer<Response>, FetchError>,
    ) -> AfterAttempt {
        match answer {
            Ok(answer @ OriginAnswer::Absent { .. }) => {
                self.absent = Some(answer);
                match upstream.absence {
                    AbsenceOf::Next => AfterAttempt::GoOn,
                    AbsenceOf::Final => AfterAttempt::NothingMore,
                }
            }
            Ok(answer) => AfterAttempt::Answer(Box::new(answer)),
            Err(error) => {
                tracing::debug!(origin = %upstream.name, %error, "origin failed");
                if upstream.necessity == OriginNecessity::Optional && error.is_outage() {
                    self.outage.get_or_insert(error);
                } else {
                    self.failure.get_or_insert(error);
                }
                AfterAttempt::GoOn
            }
        }
    }

    /// Absence only if no origin failed; none if none was asked.
    pub(super) fn result(self) -> Option<Result<OriginAnswer<Response>, FetchError>> {
        match (self.failure, self.outage, self.absent) {
            (Some(error), _, _) => Some(Err(error)),
            (None, Some(outage), _) => Some(Err(FetchError::Optional(Box::new(outage)))),
            (None, None, Some(absent)) => Some(Ok(absent)),
            (None, None, None) => None,
        }
    }
}
