//! The sites that are served, found by host name, else the default one. Made at start and at each
//! reload, then only read.

use crate::fill::SiteOrigins;
use crate::filter::Filter;
use crate::metrics::{Metrics, Shard};
use crate::nix::Class;
use crate::outcome::Outcome;
use prometheus::{Histogram, IntCounter};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// A site, with one set of counters for each shard, so that threads need not share them.
#[derive(Debug)]
pub struct ServedSite {
    /// Its origins and settings.
    pub upstream: Arc<SiteOrigins>,
    /// Its absence filter, if it has one.
    pub filter: Option<Arc<Filter>>,
    name: Arc<str>,
    key_space: String,
    ports: Ports,
    metrics: Metrics,
    /// One for each shard of the metrics, made at its first answer.
    meters: Box<[OnceLock<Arc<SiteMeters>>]>,
}

/// The ports of the listeners, except the default ports of the schemes.
#[derive(Debug, Clone, Default)]
pub struct Ports(Vec<(&'static str, u16)>);

impl Ports {
    /// The ports of these listeners, each with the scheme of its clients' URLs.
    pub fn of(listeners: impl IntoIterator<Item = (&'static str, u16)>) -> Self {
        let is_usual = |listener: &(&str, u16)| matches!(listener, ("http", 80) | ("https", 443));
        let mut ports: Vec<_> = listeners.into_iter().filter(|one| !is_usual(one)).collect();
        ports.sort_unstable();
        ports.dedup();
        Self(ports)
    }

    /// The ports of one scheme.
    pub(super) fn by(&self, scheme: &str) -> impl Iterator<Item = u16> {
        self.0.iter().filter(move |(own, _)| *own == scheme).map(|(_, port)| *port)
    }
}

/// The counters of a site in one shard.
#[derive(Debug)]
pub(super) struct SiteMeters {
    site: Arc<str>,
    shard: Shard,
    metrics: Metrics,
    counters: [[OnceLock<Option<Counters>>; Outcome::ALL.len()]; Class::ALL.len()],
    seconds: [OnceLock<Option<Histogram>>; Class::ALL.len()],
}

/// The counters of one kind of answer.
#[derive(Debug, Clone)]
pub(super) struct Counters {
    /// Requests.
    pub requests: IntCounter,
    /// Body bytes.
    pub bytes: IntCounter,
}

impl ServedSite {
    /// A site without requests yet.
    pub fn new(
        upstream: Arc<SiteOrigins>,
        filter: Option<Arc<Filter>>,
        ports: Ports,
        metrics: Metrics,
    ) -> Self {
        let key_space = upstream.site.key_space();
        Self {
            name: upstream.site.name.as_str().into(),
            upstream,
            filter,
            key_space,
            ports,
            metrics,
            meters: (0..Shard::count()).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, for a record that outlives it.
    pub(super) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The first part of the keys of its objects.
    pub fn key_space(&self) -> &str {
        &self.key_space
    }

    /// The ports at which its clients reach it.
    pub(super) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The counters for the calling thread.
    pub(super) fn meters(&self) -> Option<&Arc<SiteMeters>> {
        let shard = Shard::of_thread();
        let cell = self.meters.get(shard.index())?;
        Some(cell.get_or_init(|| {
            Arc::new(SiteMeters {
                site: self.shared_name(),
                shard,
                metrics: self.metrics.clone(),
                counters: Default::default(),
                seconds: Default::default(),
            })
        }))
    }
}

impl SiteMeters {
    pub(super) fn counters(&self, class: Class, outcome: Outcome) -> Option<&Counters> {
        let cell = self.counters.get(class.index())?.get(outcome.index())?;
        let counters = cell.get_or_init(|| {
            let answered = self.metrics.answered(self.shard, &self.site, class, outcome);
            answered.map(|(requests, bytes)| Counters { requests, bytes })
        });
        counters.as_ref()
    }

    pub(super) fn seconds(&self, class: Class) -> Option<&Histogram> {
        let cell = self.seconds.get(class.index())?;
        let seconds =
            cell.get_or_init(|| self.metrics.answer_seconds(self.shard, &self.site, class));
        seconds.as_ref()
    }
}

/// Every site, by host name.
#[derive(Debug, Default)]
pub struct Sites {
    by_host: HashMap<String, Arc<ServedSite>>,
    default: Option<Arc<ServedSite>>,
    all: Vec<Arc<ServedSite>>,
}

impl Sites {
    /// Indexes `sites` by their hosts; the one without hosts is the default.
    pub fn new(sites: Vec<ServedSite>) -> Self {
        let mut indexed = Self::default();
        for site in sites {
            let site = Arc::new(site);
            for host in &site.upstream.site.hosts {
                indexed.by_host.insert(host.clone(), Arc::clone(&site));
            }
            if site.upstream.site.hosts.is_empty() {
                indexed.default = Some(Arc::clone(&site));
            }
            indexed.all.push(site);
        }
        indexed
    }

    /// The site of `host` (lower case, without a port), else the default one.
    pub fn route(&self, host: Option<&str>) -> Option<&Arc<ServedSite>> {
        host.and_then(|host| self.by_host.get(host)).or(self.default.as_ref())
    }

    /// The site called `name`.
    pub fn named(&self, name: &str) -> Option<&Arc<ServedSite>> {
        self.all.iter().find(|site| site.name() == name)
    }

    /// Every site, in the order of the config.
    pub fn all(&self) -> &[Arc<ServedSite>] {
        &self.all
    }
}
