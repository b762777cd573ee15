//! Builds everything, runs it, drains it. The building may fail, each failure with one clear
//! error; what runs afterwards cannot. Called by `cli` and by the integration tests.

mod admin;
mod drain;
mod filters;
mod heal;
mod purging;
mod readiness;
mod sites;
#[cfg(test)]
mod tests;
mod uploads;
mod written;

use crate::admin::{self as admin_door, AdminListener};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::cluster::{InstanceName, NameError};
use crate::config::{Config, Server};
use crate::engine::{
    AnswerBody, Answering, ClientConnection, Engine, EngineParts, FastAnswer, SimpleRequest, Sites,
};
use crate::fill::Fills;
use crate::front::{Door, Front, Handler, ListenError};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::purge::Purger;
use crate::store::{Disks, OpenError};
use crate::sync::Mutex;
use crate::tasks::{BlockingError, Tasks};
use crate::telemetry::{self, AccessLog, AccessLogSink};
use crate::tls::{Certificates, Protocols, TlsError};
use drain::Stages;
pub use filters::FilterError;
use filters::SiteFilters;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use readiness::ReadinessSources;
use sites::SitesError;
use std::net::SocketAddr;
use std::sync::Arc;
use uploads::UploadNotices;

/// What the environment of the process brings, so that tests can bring something else.
#[derive(Debug)]
pub struct Surroundings {
    /// The time.
    pub clock: Clock,
    /// The destination of the access log.
    pub access_log: AccessLogSink,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { clock: Clock::System, access_log: AccessLogSink::Stdout }
    }
}

/// Why the edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The disk tier.
    #[error("disk: {0}")]
    Store(#[from] OpenError),
    /// A public listener.
    #[error(transparent)]
    Bind(#[from] ListenError),
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] admin_door::AdminBindError),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A site's origins or keys.
    #[error(transparent)]
    Sites(#[from] SitesError),
    /// A site's absence filter, at a reload.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The access log.
    #[error(transparent)]
    AccessLog(#[from] telemetry::AccessLogError),
    /// This instance's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A thread at start.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// A running edge.
#[derive(Debug)]
pub struct RunningEdge {
    /// What the public listeners are bound to.
    pub addresses: Vec<(Door, SocketAddr)>,
    /// What the admin listener is bound to.
    pub admin: Option<SocketAddr>,
    /// The counters.
    pub metrics: Metrics,
    engine: Arc<Engine>,
    config: Mutex<Config>,
    certificates: Option<Certificates>,
    filters: Arc<SiteFilters>,
    clock: Clock,
    stages: Stages,
    log: Arc<AccessLog>,
}

/// Starts an edge as `config` says. Must be called inside a runtime.
///
/// An origin that cannot be reached does not hold it up: it serves what it holds, and says in its
/// log and readiness what is wrong.
pub async fn start(config: Config, surroundings: Surroundings) -> Result<RunningEdge, StartError> {
    let metrics = Metrics::new()?;
    let stages = Stages::default();
    let tasks = stages.work.clone();
    let clock = surroundings.clock;
    let instance = InstanceName::new(&config.server.name)?;
    let certificates = certificates(&config.server, &tasks).await?;
    let filters = Arc::new(SiteFilters::new(&config, clock.clone(), metrics.clone()));
    let tls = tls_settings(&config.server, certificates.as_ref())?;
    let front = Front::bind(&config.server, tls)?;
    let addresses = front.local_addresses();
    let by_name = filters.by_name();
    let sites = Sites::new(sites::build(&config, &addresses, &clock, &metrics, &tasks, &by_name)?);
    name(&config, &metrics);
    let admin = config.admin.listen.map(AdminListener::bind).transpose()?;
    let log = Arc::new(AccessLog::start(config.log.access, surroundings.access_log, &metrics)?);
    let store = open_store(&config, &metrics, &stages.store).await?;
    let cache = Cache::new(Memory::new(&config.memory, &metrics), store, tasks.clone());
    let limits = &config.server.limits;
    let fills = Fills::new(cache.clone(), clock.clone(), metrics.clone(), tasks.clone(), limits);
    let engine = Arc::new(Engine::new(EngineParts {
        sites,
        cache: cache.clone(),
        fills,
        clock: clock.clone(),
        metrics: metrics.clone(),
        log: Arc::clone(&log),
        limits: config.server.limits.clone(),
        instance: instance.as_str().into(),
    }));
    if let Some(damaged) = cache.store().and_then(Disks::damaged_keys) {
        let heal = heal::run(Arc::clone(&engine), damaged, metrics.clone(), tasks.stopping());
        tasks.spawn("heal", heal);
    }
    let admin_address = admin.as_ref().and_then(AdminListener::local_address);
    if let Some(door) = admin {
        let purger = Purger::new(cache.clone(), metrics.clone());
        let uploads = UploadNotices {
            engine: Arc::clone(&engine),
            purger: purger.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
        };
        let ready = ReadinessSources {
            engine: Arc::clone(&engine),
            cache,
            leaving: stages.leaving.clone(),
        };
        let token_file = config.admin.token_file.clone();
        let filters = Arc::clone(&filters);
        let parts = admin::parts(ready, purger, metrics.clone(), uploads, filters, token_file);
        door.serve(parts, &stages.admin);
    }
    filters.load(&tasks);
    front.serve(Arc::new(EngineService(Arc::clone(&engine))), &metrics, &tasks);
    tasks.spawn("probe", readiness::probe(engine.sites()));
    say_serving(&instance, &addresses, admin_address);
    Ok(RunningEdge {
        addresses,
        admin: admin_address,
        metrics,
        engine,
        config: Mutex::new(config),
        certificates,
        filters,
        clock,
        stages,
        log,
    })
}

impl RunningEdge {
    /// Takes over what may change while running: sites, origins, keys, lifetimes, certificates. If
    /// anything is wrong, everything stays as it was. Returns the changed sections that need a
    /// restart.
    pub async fn reload(&self, config: Config) -> Result<Vec<&'static str>, StartError> {
        let (filters, looked_at) = (Arc::clone(&self.filters), config.clone());
        let looking = move || filters.prepare(&looked_at);
        let tasks = &self.stages.work;
        let prepared = tasks.blocking("absence filters", looking).await??;
        let filters = prepared.filters();
        let (clock, metrics, addresses) = (&self.clock, &self.metrics, &self.addresses);
        let sites = sites::build(&config, addresses, clock, metrics, tasks, filters)?;
        if let (Some(certificates), Some(tls)) = (&self.certificates, &config.server.tls) {
            let (certificates, tls) = (certificates.clone(), tls.clone());
            tasks.blocking("certificates", move || certificates.reload(&tls)).await??;
        }
        let filters = Arc::clone(&self.filters);
        tasks.blocking("absence filters", move || filters.adopt(prepared)).await?;
        self.engine.replace_sites(Sites::new(sites));
        name(&config, &self.metrics);
        tasks.spawn("probe", readiness::probe(self.engine.sites()));
        let mut current = self.config.lock();
        let needs_restart = sections_that_differ(&current, &config);
        // What needs a restart stays as it runs, so that the next reload says so again.
        let running = std::mem::replace(&mut *current, config);
        current.server = running.server;
        current.admin = running.admin;
        current.memory = running.memory;
        current.disks = running.disks;
        current.log = running.log;
        Ok(needs_restart)
    }

    /// Says that it is not ready, stops accepting after `[server.timeouts] lame_duck`, lets answers
    /// under way end within `drain`, then closes the admin listener, then the store. True if
    /// everything ended by itself.
    pub async fn drain(self) -> bool {
        let timeouts = self.config.lock().server.timeouts.clone();
        let has_ended = self.stages.drain(&timeouts).await;
        drop(self.engine);
        if let Some(log) = Arc::into_inner(self.log) {
            log.close();
        }
        has_ended
    }
}

fn say_serving(
    instance: &InstanceName,
    addresses: &[(Door, SocketAddr)],
    admin: Option<SocketAddr>,
) {
    tracing::info!(
        instance = instance.as_str(),
        addresses = ?addresses.iter().map(|(_, address)| address).collect::<Vec<_>>(),
        ?admin,
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
}

/// Tells the metrics which sites and origins there are.
fn name(config: &Config, metrics: &Metrics) {
    let sites = config.sites.iter().map(|site| site.name.clone());
    let origins = config.sites.iter().flat_map(|site| &site.origins);
    metrics.name(sites.collect(), origins.map(|origin| origin.name.clone()).collect());
}

fn sections_that_differ(old: &Config, new: &Config) -> Vec<&'static str> {
    let sections = [
        ("[server]", needs_restart(&old.server) != needs_restart(&new.server)),
        ("[admin]", old.admin != new.admin),
        ("[memory]", old.memory != new.memory),
        ("[disk]", old.disks != new.disks),
        ("[log]", old.log != new.log),
    ];
    sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// The part of `[server]` that a reload does not take over: all but the certificates.
fn needs_restart(server: &Server) -> Server {
    let mut server = server.clone();
    if let Some(tls) = &mut server.tls {
        tls.certificates.clear();
    }
    server
}

/// The engine behind the doors.
struct EngineService(Arc<Engine>);

impl Handler<AnswerBody> for EngineService {
    fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Arc<ClientConnection>,
    ) -> Answering<AnswerBody> {
        self.0.handle(request, connection)
    }

    fn fast_path(
        &self,
        request: &SimpleRequest<'_>,
        connection: &Arc<ClientConnection>,
        out: &mut Vec<u8>,
    ) -> FastAnswer<AnswerBody> {
        self.0.fast_path(request, connection, out)
    }

    fn refused(
        &self,
        request: &Request<Incoming>,
        status: StatusCode,
        connection: &Arc<ClientConnection>,
    ) {
        self.0.log_refused(request, status, connection);
    }

    fn unreadable(&self, status: StatusCode, connection: &Arc<ClientConnection>) {
        self.0.log_unreadable(status, connection);
    }
}

async fn certificates(server: &Server, tasks: &Tasks) -> Result<Option<Certificates>, StartError> {
    let Some(tls) = server.tls.clone() else { return Ok(None) };
    Ok(Some(tasks.blocking("certificates", move || Certificates::load(&tls)).await??))
}

fn tls_settings(
    server: &Server,
    certificates: Option<&Certificates>,
) -> Result<Option<Arc<rustls::ServerConfig>>, TlsError> {
    let protocols = if server.http2 { Protocols::Http2AndHttp1 } else { Protocols::Http1 };
    certificates.map(|certificates| certificates.server_config(protocols)).transpose()
}

async fn open_store(
    config: &Config,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Result<Option<Disks>, StartError> {
    if config.disks.is_empty() {
        return Ok(None);
    }
    let disks = config.disks.clone();
    let (metrics, own_tasks) = (metrics.clone(), tasks.clone());
    let opened = tasks.blocking("open", move || Disks::open(&disks, metrics, own_tasks)).await?;
    Ok(Some(opened?))
}
