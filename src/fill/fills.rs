//! The door of this module: what `engine` asks of fills. One per process; cloning shares it.

use super::error::{FillError, JoinError};
use super::flight::{Flight, FlightReader};
use super::pass_through::PassThroughBody;
use super::ranges::{self, PartRegistry, PartSearch, RangeOutcome};
use super::registry::{FillEpoch, FillRole, Registry};
use super::request::{self, FillRequest, FillStart};
use super::resources::Resources;
use super::rules::unstored_head;
use super::site_origins::SiteOrigins;
use super::{heads, leader};
use crate::cache::{Cache, FenceEpoch, Stale};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::object::Key;
use crate::origin::{ForwardRequest, Response};
use crate::tasks::Tasks;
use std::sync::Arc;

/// Begins fills and joins readers to them.
#[derive(Debug, Clone)]
pub struct Fills {
    registry: Arc<Registry>,
    parts: Arc<PartRegistry>,
}

impl Fills {
    /// Nothing under way, and never more at once than `limits` allow.
    pub fn new(
        cache: Cache,
        clock: Clock,
        metrics: Metrics,
        tasks: Tasks,
        limits: &config::Limits,
    ) -> Self {
        let resources = Resources::new(cache, clock, metrics, tasks, limits);
        let registry = Registry::new(Arc::new(resources));
        Self { registry, parts: PartRegistry::new(limits) }
    }

    /// Does `work` in a task of its own, so that it goes on if its caller does not wait.
    pub async fn in_own_task<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, FillError>> + Send + 'static,
    ) -> Result<T, FillError>
    where
        T: Send + 'static,
    {
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = Box::pin(work);
        self.registry.resources.tasks.spawn(name, async move {
            // The receiver is there, or waits no more.
            drop(tell.send(work.await));
        });
        told.await.unwrap_or(Err(FillError::NoResult))
    }

    /// This moment; to be taken before the cache is looked at. Never waits.
    pub fn mark(&self) -> FillEpoch {
        self.registry.mark()
    }

    /// Joins the fill of `request`, or begins one. `stale` is what is stored, to be revalidated,
    /// unless it was purged since it was looked up.
    ///
    /// With `looked`, begins none if one of the same object has ended since then: its object is in
    /// the cache now, and was not when the cache was looked at. Three kinds of fill are not joined:
    /// one that a purge has overtaken, since a request after the purge asks anew; one that lost its
    /// disk, since what it still has is for its own readers; one that is being ended for want of
    /// readers. If recent answers of the object could not be shared, begins one that no other
    /// request joins.
    pub fn join(
        &self,
        request: FillRequest,
        stale: Option<Stale>,
        looked: Option<FillEpoch>,
    ) -> Result<(FillRole, FlightReader), JoinError> {
        leader::join(&self.registry, request, looked, FillStart::Stale(stale))
    }

    /// Begins a fill that no other request joins.
    pub fn begin_alone(
        &self,
        request: FillRequest,
        stale: Option<Stale>,
    ) -> Result<FlightReader, JoinError> {
        leader::begin_alone(&self.registry.resources, request, FillStart::Stale(stale))
    }

    /// Fetches an object for one reader alone and stores nothing. It is for the second and later
    /// readers of an object that may not be stored, and for those that come too late to share it.
    pub async fn pass(&self, request: &FillRequest) -> Flight {
        leader::pass(&self.registry.resources, request).await
    }

    /// The flight that tells the head of `request`: a fill of it that is under way, else a request
    /// for its head, joined or begun. `looked` is as for [`Fills::join`].
    pub fn head(
        &self,
        request: FillRequest,
        looked: Option<FillEpoch>,
    ) -> Result<(FillRole, FlightReader), JoinError> {
        match self.registry.whole_under_way(&request.key) {
            Some(flight) => Ok((FillRole::Follow, flight)),
            None => heads::join(&self.registry, request, looked),
        }
    }

    /// What is here in part of an object that is not stored as a whole, or what an origin says to
    /// a request for a range of it.
    pub async fn part(&self, request: &FillRequest, find: PartSearch<'_>) -> RangeOutcome {
        ranges::find(&self.registry, &self.parts, request, find).await
    }

    /// Sends a request to the origins and returns the answer as it comes, for this client alone.
    pub async fn through(
        &self,
        upstream: &SiteOrigins,
        forward: ForwardRequest,
    ) -> Result<Response, FillError> {
        Ok(request::send_on(upstream, forward).await?)
    }

    /// The answer of [`Fills::through`] as a body for one client.
    pub fn passing(&self, key: &Key, response: Response) -> PassThroughBody {
        PassThroughBody::plain(Arc::new(unstored_head(key, &response)), response)
    }

    /// Stores the small answer to a write that is what GET would bring, if it may be stored and
    /// says how long it is fresh. The outcome is told as for a fetch.
    ///
    /// `ticket` is that of the purge by the write ([`Cache::purge_written`]).
    pub async fn keep(
        &self,
        request: &FillRequest,
        response: Response,
        ticket: FenceEpoch,
    ) -> FlightReader {
        leader::keep(&self.registry.resources, request, response, ticket).await
    }
}
