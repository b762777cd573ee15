//! One origin of a site: its slots, its retries, its state. As long lived as the site; no lock
//! across an await. Called by `Origins`.

use super::exchange::{Answer, Ask, FetchError, Retries};
use super::file::FolderOrigin;
use super::forward::{self, Forward};
use super::health::{Health, OriginHealth};
use super::http::HttpOrigin;
use super::response::Response;
use super::s3::S3Origin;
use super::verdict::Absence;
use super::wire::{Heard, Reply};
use crate::clock::Clock;
use crate::config::OriginTurns;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Further tries after the first, where an error permits them.
const RETRIES_MAX: u32 = 2;
/// The shortest wait before another try, in milliseconds.
const BACKOFF_MILLIS_MIN: u64 = 50;
/// The longest.
const BACKOFF_MILLIS_MAX: u64 = 250;
/// What is read of the probe's answer.
const PROBE_BYTES_MAX: usize = 64 * 1024;

/// One origin.
#[derive(Debug)]
pub(super) struct Upstream {
    pub name: Arc<str>,
    pub position: usize,
    /// What it is asked for, and when.
    pub turns: OriginTurns,
    pub kind: Kind,
    pub slots: Arc<Semaphore>,
    /// How long a request waits for a slot.
    pub slot_deadline: Duration,
    pub health: Health,
    pub clock: Clock,
}

/// How an origin is asked.
#[derive(Debug)]
pub(super) enum Kind {
    S3(Box<S3Origin>),
    Http(Box<HttpOrigin>),
    Folder(Box<FolderOrigin>),
}

impl Kind {
    async fn ask(&self, ask: &Ask) -> Result<Reply, FetchError> {
        match self {
            Self::S3(origin) => origin.ask(ask).await,
            Self::Http(origin) => origin.ask(ask).await,
            Self::Folder(origin) => origin.ask(ask).await,
        }
    }
}

impl Upstream {
    /// Asks, again where the error permits it, and remembers how it went.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Answer<Response>, FetchError> {
        let permit = self.slot().await?;
        let retries_max = match ask.retries {
            Retries::Usual => RETRIES_MAX,
            Retries::None => 0,
        };
        let mut retries = 0;
        let reply = loop {
            match self.kind.ask(ask).await {
                Err(error) if error.may_retry() && retries < retries_max => {
                    retries += 1;
                    tracing::debug!(origin = %self.name, %error, retries, "asking again");
                    tokio::time::sleep(backoff()).await;
                }
                reply => break reply,
            }
        };
        self.remember(&reply);
        reply.map(|reply| self.answer(reply, permit))
    }

    /// Sends a client's request on, again where it may be repeated and the error permits it, and
    /// remembers how it went.
    pub(super) async fn forward(&self, forward: Forward) -> Result<Response, FetchError> {
        let permit = self.slot().await?;
        let may_repeat = forward.may_repeat();
        let (mut next, mut retries) = (forward, 0);
        let response = loop {
            let again = may_repeat.then(|| next.again());
            match (self.forward_once(next).await, again) {
                (Err(error), Some(again)) if error.may_retry() && retries < RETRIES_MAX => {
                    retries += 1;
                    tracing::debug!(origin = %self.name, %error, retries, "asking again");
                    tokio::time::sleep(backoff()).await;
                    next = again;
                }
                (response, _) => break response,
            }
        };
        match &response {
            Ok(_) => self.health.usable(),
            Err(error) => self.health.failed(error),
        }
        response.map(|response| Response { body: response.body.permitted(permit), ..response })
    }

    async fn forward_once(&self, forward: Forward) -> Result<Response, FetchError> {
        if let Kind::Http(origin) = &self.kind {
            return origin.forward(forward).await;
        }
        let now = self.clock.now();
        match forward.ask() {
            Some(ask) => {
                let reply = self.kind.ask(&ask).await?;
                Ok(forward::as_response((&ask, reply), now, self.position, &self.name))
            }
            None => Ok(forward::read_only(now, self.position, &self.name)),
        }
    }

    /// Asks for `nix-cache-info` once, as a test of this origin's address and credentials.
    ///
    /// `AccessDenied` is an error here: every binary cache has that object.
    pub(super) async fn probe(&self, ask: &Ask) -> Result<(), FetchError> {
        let _permit = self.slot().await?;
        let reply = match self.kind.ask(ask).await {
            Ok(Reply::Absent(_, Absence::Denied)) => Err(FetchError::Credentials {
                origin: Arc::clone(&self.name),
                code: "AccessDenied".to_owned(),
                detail: format!(
                    "{} may not be read: check the keys and the bucket's policy",
                    ask.path
                ),
            }),
            reply => reply,
        };
        self.remember(&reply);
        match reply? {
            Reply::Found(response) => drain(*response).await,
            Reply::Absent(..) => {
                tracing::warn!(origin = %self.name, path = %ask.path, "origin has no such object");
            }
            Reply::NotModified(_) | Reply::Changed => {}
        }
        Ok(())
    }

    /// The state now.
    pub(super) fn health(&self) -> OriginHealth {
        self.health.now()
    }

    async fn slot(&self) -> Result<OwnedSemaphorePermit, FetchError> {
        let slot = Arc::clone(&self.slots).acquire_owned();
        match tokio::time::timeout(self.slot_deadline, slot).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(FetchError::Busy { origin: Arc::clone(&self.name) }),
        }
    }

    /// `AccessDenied` proves nothing: it is how absence looks to who may not list the bucket, and
    /// how every key looks under a wrong policy.
    fn remember(&self, reply: &Result<Reply, FetchError>) {
        match reply {
            Ok(Reply::Absent(_, Absence::Denied)) => {}
            Ok(_) => self.health.usable(),
            Err(error) => self.health.failed(error),
        }
    }

    fn answer(&self, reply: Reply, permit: OwnedSemaphorePermit) -> Answer<Response> {
        let origin = self.position;
        match reply {
            Reply::Found(response) => {
                let response = *response;
                Answer::Found(Response { body: response.body.permitted(permit), ..response })
            }
            Reply::NotModified(Heard { headers, request_time, response_time }) => {
                Answer::NotModified { headers, origin, request_time, response_time }
            }
            Reply::Absent(Heard { headers, request_time, response_time }, _) => {
                Answer::Absent { headers, origin, request_time, response_time }
            }
            Reply::Changed => Answer::Changed,
        }
    }
}

/// Reads a small body to its end, so that its connection can be used again.
async fn drain(mut response: Response) {
    let mut read = 0;
    while read < PROBE_BYTES_MAX
        && let Ok(Some(piece)) = response.body.chunk().await
    {
        read += piece.len();
    }
}

/// A wait of 50 to 250 ms, drawn anew each time so that requests that failed together do not
/// come back together.
fn backoff() -> Duration {
    let span = BACKOFF_MILLIS_MAX - BACKOFF_MILLIS_MIN + 1;
    let jitter = getrandom::u64().map_or(0, |random| random % span);
    Duration::from_millis(BACKOFF_MILLIS_MIN + jitter)
}
