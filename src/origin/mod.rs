//! Upstreams: pick, sign, retry, fail over, remember health. One [`Origins`] per site, as long
//! lived as its configuration; cloning shares it; no lock across an await. Called by `fill`
//! alone, and by `app` for the self test at start.

mod credentials;
pub mod exchange;
mod fault;
mod file;
mod forward;
mod health;
mod http;
mod meters;
mod response;
mod s3;
mod sign;
mod upstream;
mod verdict;
mod wire;

pub use exchange::{Answer, Ask, BodyError, FetchError, Method, RangeAsked, Retries};
pub use forward::{Forward, Interim};
pub use health::OriginHealth;
pub use response::{Response, ResponseBody};
pub use s3::Page;

use crate::client::{Client, ClientSettings, TrustError, Trusts};
use crate::clock::Clock;
use crate::config::{Origin, OriginUrl, Site};
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::tasks::Tasks;
use file::FolderOrigin;
use forward::Standing;
use futures_util::future::join_all;
use health::Health;
use http::HttpOrigin;
use meters::Meters;
use s3::S3Origin;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};
use upstream::{Kind, Upstream};
use wire::Wire;

/// What the self test asks for: every binary cache has it.
const PROBE_PATH: &str = "/nix-cache-info";

/// The origins of one site, in the order in which they are asked.
#[derive(Debug, Clone)]
pub struct Origins {
    upstreams: Arc<[Upstream]>,
    recovery: Arc<Notify>,
}

/// Why a site's origins cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OriginSetupError {
    /// The certificate authorities cannot be used.
    #[error("origin {origin}: {source}")]
    Trust {
        /// The origin's name.
        origin: Arc<str>,
        /// What is wrong with them.
        source: TrustError,
    },
    /// The endpoint, with the bucket's name, is no address.
    #[error("origin {origin}: endpoint {endpoint:?} must be http[s]://host[:port], nothing more")]
    Endpoint {
        /// The origin's name.
        origin: Arc<str>,
        /// The configured endpoint; empty for Amazon's own.
        endpoint: String,
    },
}

impl Origins {
    /// The origins of `site`. Reads certificate files, but for those that `trusts` has; connects to
    /// nothing and needs no keys yet, so that an edge starts while its origins are away.
    pub fn new(
        site: &Site,
        clock: Clock,
        metrics: Metrics,
        tasks: Tasks,
        trusts: &mut Trusts,
    ) -> Result<Self, OriginSetupError> {
        let recovery = Arc::<Notify>::default();
        let mut setup =
            Setup { site, clock, metrics, tasks, trusts, recovery: Arc::clone(&recovery) };
        let upstreams = site.origins.iter().enumerate();
        let upstreams = upstreams.map(|(position, origin)| setup.upstream(position, origin));
        Ok(Self { upstreams: upstreams.collect::<Result<Vec<_>, _>>()?.into(), recovery })
    }

    /// Asks the origins in their order until one has the object or says that it has not changed.
    ///
    /// An origin that says absent or fails is followed by the next. The answer is absent only
    /// where every origin asked said so; where one failed and none had the object, the first
    /// failure is the result. Each origin is asked at most three times, and only before a head
    /// has arrived. Those to avoid come last. Dropping the future ends the request.
    pub async fn fetch(&self, ask: &Ask) -> Result<Answer<Response>, FetchError> {
        let (mut absent, mut failure) = (None, None);
        let is_meant = |upstream: &&Upstream| ask.only.is_none_or(|only| only == upstream.position);
        let (last, first): (Vec<_>, Vec<_>) = self
            .upstreams
            .iter()
            .filter(is_meant)
            .partition(|upstream| ask.avoid.contains(&upstream.position));
        for upstream in first.into_iter().chain(last) {
            match upstream.ask(ask).await {
                Ok(answer @ Answer::Absent { .. }) => absent = Some(answer),
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::debug!(path = %ask.path, %error, "origin failed");
                    failure.get_or_insert(error);
                }
            }
        }
        match (failure, absent) {
            (Some(error), _) => Err(error),
            (None, Some(absent)) => Ok(absent),
            (None, None) => Err(FetchError::Protocol {
                origin: ask.only.map_or_else(|| "none".into(), |only| only.to_string().into()),
                detail: "no origin has this position".to_owned(),
            }),
        }
    }

    /// Sends a client's request to the origins in their order until one has a final answer.
    ///
    /// A request that may be repeated goes on to the next origin where one fails, is in trouble
    /// (500, 502, 503, 504) or has no such object; any other goes to the first alone. Absence is
    /// the answer only where every origin asked said so; else the first trouble is. Dropping the
    /// future ends the request.
    pub async fn forward(&self, forward: Forward) -> Result<Response, FetchError> {
        let only = forward.only;
        let is_meant = |upstream: &&Upstream| only.is_none_or(|only| only == upstream.position);
        let mut upstreams = self.upstreams.iter().filter(is_meant).peekable();
        let (mut next, mut trouble, mut absent) = (Some(forward), None, None);
        while let (Some(forward), Some(upstream)) = (next.take(), upstreams.next()) {
            if forward.may_repeat() && upstreams.peek().is_some() {
                next = Some(forward.again());
            }
            match upstream.forward(forward).await {
                Ok(response) => match forward::standing(response.status) {
                    Standing::Final => return Ok(response),
                    Standing::Absent => absent = Some(response),
                    Standing::Trouble => {
                        trouble.get_or_insert(Ok(response));
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "origin failed");
                    trouble.get_or_insert(Err(error));
                }
            }
        }
        match (trouble, absent) {
            (Some(trouble), _) => trouble,
            (None, Some(absent)) => Ok(absent),
            (None, None) => Err(FetchError::Protocol {
                origin: "none".into(),
                detail: "there is no origin".to_owned(),
            }),
        }
    }

    /// The self test at start: asks every origin at once for `nix-cache-info`, so that wrong
    /// addresses and credentials are seen in the log, in [`Origins::health`] and in the result
    /// before a client meets them. Ends within each origin's deadlines.
    pub async fn probe(&self) -> Vec<(Arc<str>, Result<(), FetchError>)> {
        let ask = Ask {
            method: Method::Get,
            path: PROBE_PATH.into(),
            query: None,
            class: Class::CacheInfo,
            range: None,
            if_none_match: None,
            if_modified_since: None,
            if_match: None,
            cdn_loop: None,
            only: None,
            avoid: Vec::new(),
            retries: Retries::Usual,
        };
        let probes = self
            .upstreams
            .iter()
            .map(|upstream| async { (Arc::clone(&upstream.name), upstream.probe(&ask).await) });
        join_all(probes).await
    }

    /// The keys behind `after` in the bucket that is the origin at `position`, as many as a page
    /// has, in order; never fewer than there are. Asked once.
    pub async fn page(&self, position: usize, after: &str) -> Result<Page, FetchError> {
        match self.upstreams.get(position).map(|upstream| &upstream.kind) {
            Some(Kind::S3(origin)) => origin.page(after).await,
            Some(Kind::Http(_) | Kind::Folder(_)) | None => Err(FetchError::Protocol {
                origin: self.name(position),
                detail: "is no bucket, and cannot be listed".to_owned(),
            }),
        }
    }

    /// Completes when one of the origins that was not usable answers usably, from the moment of
    /// this call on: whoever waits for an origin to come back need not find out by asking.
    pub fn recovered(&self) -> impl Future<Output = ()> + use<> {
        Arc::clone(&self.recovery).notified_owned()
    }

    /// The state of every origin, in their order.
    pub fn health(&self) -> Vec<OriginHealth> {
        self.upstreams.iter().map(Upstream::health).collect()
    }

    /// The name of the origin at `position`.
    pub fn name(&self, position: usize) -> Arc<str> {
        let upstream = self.upstreams.get(position);
        upstream.map_or_else(|| "none".into(), |upstream| Arc::clone(&upstream.name))
    }

    /// How many origins there are: positions are below this.
    pub fn len(&self) -> usize {
        self.upstreams.len()
    }

    /// Whether there is none; a checked configuration always has one.
    pub fn is_empty(&self) -> bool {
        self.upstreams.is_empty()
    }
}

/// What the origins of one site are made with.
struct Setup<'a> {
    site: &'a Site,
    clock: Clock,
    metrics: Metrics,
    tasks: Tasks,
    trusts: &'a mut Trusts,
    recovery: Arc<Notify>,
}

impl Setup<'_> {
    fn upstream(&mut self, position: usize, origin: &Origin) -> Result<Upstream, OriginSetupError> {
        let name: Arc<str> = origin.name.as_str().into();
        let meters = Meters::new(self.metrics.clone(), Arc::clone(&name));
        let kind = match &origin.url {
            OriginUrl::S3(bucket) => {
                let wire = self.wire(position, origin)?;
                Kind::S3(Box::new(S3Origin::new(wire, bucket, self.tasks.clone())?))
            }
            OriginUrl::Http(base) => {
                let wire = self.wire(position, origin)?;
                let hosts = &self.site.follow_redirects_to;
                Kind::Http(Box::new(HttpOrigin::new(wire, base, hosts)))
            }
            OriginUrl::File(root) => Kind::Folder(Box::new(FolderOrigin {
                name: Arc::clone(&name),
                position,
                root: root.clone(),
                clock: self.clock.clone(),
                meters: meters.clone(),
                tasks: self.tasks.clone(),
                timeouts: origin.timeouts.clone(),
            })),
        };
        let slots = origin.connections_max.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Upstream {
            health: Health::new(Arc::clone(&name), meters, Arc::clone(&self.recovery)),
            name,
            position,
            kind,
            slots: Arc::new(Semaphore::new(slots)),
            slot_deadline: origin.timeouts.connect,
            clock: self.clock.clone(),
        })
    }

    fn wire(&mut self, position: usize, origin: &Origin) -> Result<Wire, OriginSetupError> {
        let name: Arc<str> = origin.name.as_str().into();
        let trust = self
            .trusts
            .load(origin.ca_file.as_deref())
            .map_err(|source| OriginSetupError::Trust { origin: Arc::clone(&name), source })?;
        let settings = ClientSettings {
            connect: origin.timeouts.connect,
            first_byte: origin.timeouts.first_byte,
            requests_max: origin.connections_max,
        };
        Ok(Wire {
            meters: Meters::new(self.metrics.clone(), Arc::clone(&name)),
            name,
            position,
            client: Client::new(&trust, settings),
            clock: self.clock.clone(),
            timeouts: origin.timeouts.clone(),
        })
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
