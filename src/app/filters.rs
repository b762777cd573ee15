//! The absence filters of the sites: made at the start, carried over a reload, told of uploads. One
//! map by the site's name, behind a lock that is never held across an await.
//!
//! A reload looks at every file first, and takes them over only once nothing else can fail.

use crate::clock::Clock;
use crate::config::{AbsenceFilter, Config};
use crate::filter::{Filter, FilterUpdate, LoadError};
use crate::metrics::Metrics;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use std::collections::HashMap;
use std::sync::Arc;

/// Filters by the names of their sites.
pub(super) type ByName = HashMap<String, Arc<Filter>>;

/// Why a site's filter cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[error("site {site}: absence filter: {source}")]
pub struct FilterError {
    /// The site's name.
    pub site: String,
    /// What is wrong.
    pub source: LoadError,
}

/// The filters of the process.
#[derive(Debug)]
pub(super) struct SiteFilters {
    by_name: Mutex<ByName>,
    clock: Clock,
    metrics: Metrics,
}

/// What a reload will take over.
#[derive(Debug)]
pub(super) struct PreparedFilters {
    by_name: ByName,
    changes: Vec<(Arc<Filter>, AbsenceFilter, FilterUpdate)>,
}

impl PreparedFilters {
    /// The filters of the sites to come.
    pub(super) fn filters(&self) -> &ByName {
        &self.by_name
    }
}

fn configured(config: &Config) -> impl Iterator<Item = (&str, &AbsenceFilter)> {
    config.sites.iter().filter_map(|site| Some((site.name.as_str(), site.absence_filter.as_ref()?)))
}

impl SiteFilters {
    /// The filters of `config`, none of them loaded.
    pub(super) fn new(config: &Config, clock: Clock, metrics: Metrics) -> Self {
        let made = |(name, settings): (&str, &AbsenceFilter)| {
            let filter = Filter::new(name, settings.clone(), clock.clone(), metrics.clone());
            (name.to_owned(), Arc::new(filter))
        };
        let by_name = Mutex::new(configured(config).map(made).collect());
        Self { by_name, clock, metrics }
    }

    /// Loads them beside everything else: a large file holds up no start.
    pub(super) fn load(&self, tasks: &Tasks) {
        for filter in self.by_name().into_values() {
            let own = tasks.clone();
            tasks.spawn("absence filter", async move {
                if let Err(error) = own.blocking("absence filter", move || filter.start()).await {
                    tracing::error!(%error, "absence filter not loaded");
                }
            });
        }
    }

    /// The filters as they are now.
    pub(super) fn by_name(&self) -> ByName {
        self.by_name.lock().clone()
    }

    /// Sets the gauges of all; called before metrics are read.
    pub(super) fn show(&self) {
        self.by_name().values().for_each(|filter| filter.show());
    }

    /// Looks at what `config` says of filters; nothing is changed. Blocking.
    pub(super) fn prepare(&self, config: &Config) -> Result<PreparedFilters, FilterError> {
        let old = self.by_name();
        let mut prepared = PreparedFilters { by_name: HashMap::new(), changes: Vec::new() };
        for (name, settings) in configured(config) {
            let failed = |source| FilterError { site: name.to_owned(), source };
            let kept = old.get(name).filter(|filter| filter.serves(settings));
            let filter = if let Some(filter) = kept {
                // What was wrong with its journal at the start need not keep the rest from
                // changing.
                if let Err(error) = filter.open() {
                    tracing::error!(site = name, %error, "absence filter stays unused");
                }
                Arc::clone(filter)
            } else {
                let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
                let filter = Filter::new(name, settings.clone(), clock, metrics);
                filter.open().map_err(failed)?;
                Arc::new(filter)
            };
            let newer = filter.look(settings).map_err(failed)?;
            prepared.changes.push((Arc::clone(&filter), settings.clone(), newer));
            prepared.by_name.insert(name.to_owned(), filter);
        }
        Ok(prepared)
    }

    /// Takes over what was prepared. Blocking.
    pub(super) fn adopt(&self, prepared: PreparedFilters) {
        for (filter, settings, newer) in prepared.changes {
            filter.adopt(Some(settings), newer);
        }
        *self.by_name.lock() = prepared.by_name;
    }
}
