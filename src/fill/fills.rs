//! The door of this module: what `engine` asks of fills. One per process; cloning shares it.

use super::error::{FillError, JoinError};
use super::flight::{Flight, FlightReader};
use super::object_request::ObjectRequest;
use super::page_request::{self, PageRequest};
use super::pass_through::PassThroughBody;
use super::ranges::{self, PageRangeOutcome, PartRegistry, PartSearch, RangeOutcome};
use super::registry::{FillEpoch, FillRole, Registry};
use super::request::FillStart;
use super::resources::Resources;
use super::site_origins::SiteOrigins;
use super::{heads, leader, page_leader};
use crate::cache::{Cache, FenceEpoch, Stale};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::metrics::Metrics;
use crate::object::Key;
use crate::origin::{ForwardRequest, Response};
use crate::rfc::range::ByteRanges;
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
    /// readers.
    pub fn join(
        &self,
        request: ObjectRequest,
        stale: Option<Stale>,
        looked: Option<FillEpoch>,
    ) -> Result<(FillRole, FlightReader), JoinError> {
        leader::join(&self.registry, request, looked, FillStart::Stale(stale))
    }

    /// Fetches an object for one reader alone and stores nothing. It is for the second and later
    /// readers of an object that may not be stored, and for those that come too late to share it.
    pub async fn pass(&self, request: &ObjectRequest) -> Flight {
        leader::pass(&self.registry.resources, request).await
    }

    /// The flight that tells the head of `request`: a fill of it that is under way, else a request
    /// for its head, joined or begun. `looked` is as for [`Fills::join`].
    pub fn head(
        &self,
        request: ObjectRequest,
        looked: Option<FillEpoch>,
    ) -> Result<(FillRole, FlightReader), JoinError> {
        match self.registry.whole_under_way(&request.key) {
            Some(flight) => Ok((FillRole::Follow, flight)),
            None => heads::join(&self.registry, request, looked),
        }
    }

    /// The outcome of a request for `ranges` of an object that is not stored as a whole.
    pub async fn part(&self, request: &ObjectRequest, ranges: &ByteRanges) -> RangeOutcome {
        ranges::of_object(&self.registry, &self.parts, request, ranges).await
    }

    /// What is stored in part of a response, or is arriving.
    pub async fn page(
        &self,
        request: &PageRequest,
        find: PartSearch<'_>,
        now: Timestamp,
    ) -> PageRangeOutcome {
        ranges::of_page(&self.registry, &self.parts, (request, now), find).await
    }

    /// Joins the fetch of `request`, or begins one; `stale` is what is stored of it.
    ///
    /// If recent answers of the object could not be shared, begins one that no other request joins.
    pub fn seek(
        &self,
        request: PageRequest,
        stale: Option<Stale>,
        now: Timestamp,
    ) -> Result<(FillRole, FlightReader), JoinError> {
        self.seek_since(request, stale, now, None)
    }

    /// As [`Fills::seek`]; with `looked`, begins none if one of the same object has ended since:
    /// look again at what is stored.
    pub fn seek_since(
        &self,
        request: PageRequest,
        stale: Option<Stale>,
        now: Timestamp,
        looked: Option<FillEpoch>,
    ) -> Result<(FillRole, FlightReader), JoinError> {
        page_leader::join(&self.registry, request, (stale, looked), now)
    }

    /// Begins a fetch that no other request joins.
    pub fn seek_alone(
        &self,
        request: PageRequest,
        stale: Option<Stale>,
        now: Timestamp,
    ) -> Result<FlightReader, JoinError> {
        page_leader::begin_alone(&self.registry.resources, request, stale, now)
    }

    /// Sends a request to the origins and returns the answer as it comes, for this client alone.
    pub async fn through(
        &self,
        upstream: &SiteOrigins,
        forward: ForwardRequest,
    ) -> Result<Response, FillError> {
        Ok(page_request::forward(upstream, forward).await?)
    }

    /// The answer of [`Fills::through`] as a body for one client.
    pub fn passing(&self, key: &Key, response: Response) -> PassThroughBody {
        page_leader::passed_on(key, response)
    }

    /// Stores the small answer to a write that is what GET would bring, if it may be stored and
    /// says how long it is fresh. The outcome is told as for a fetch.
    ///
    /// `ticket` is that of the purge by the write ([`Cache::purge_written`]).
    pub async fn keep(
        &self,
        request: &PageRequest,
        (response, ticket): (Response, FenceEpoch),
        now: Timestamp,
    ) -> FlightReader {
        page_leader::keep(&self.registry.resources, request, (response, ticket), now).await
    }
}
