//! What is printed: every metric, but for series of sites and origins that an earlier config named
//! and the present one does not. One for each registry; a mutex held while series are picked.

use crate::sync::Mutex;
use prometheus::{Encoder, Registry, TextEncoder};
use std::collections::BTreeSet;

/// The metrics of a registry, and the names that the config gives.
#[derive(Debug)]
pub(super) struct Printed {
    registry: Registry,
    names: Mutex<Names>,
}

impl Printed {
    /// Those of `registry`.
    pub(super) fn of(registry: Registry) -> Self {
        Self { registry, names: Mutex::default() }
    }

    /// Takes over what the config names now.
    pub(super) fn name(&self, sites: BTreeSet<String>, origins: BTreeSet<String>) {
        let mut names = self.names.lock();
        names.sites.replace(sites);
        names.origins.replace(origins);
    }

    /// The Prometheus text exposition.
    pub(super) fn text(&self) -> Result<String, prometheus::Error> {
        let mut families = self.registry.gather();
        let names = self.names.lock();
        for family in &mut families {
            family.mut_metric().retain(|series| {
                !series.get_label().iter().any(|label| names.is_gone(label.name(), label.value()))
            });
        }
        drop(names);
        families.retain(|family| !family.get_metric().is_empty());
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&families, &mut buffer)?;
        String::from_utf8(buffer).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// What the config names and named, by label.
#[derive(Debug, Default)]
struct Names {
    sites: Named,
    origins: Named,
}

/// The names of one kind.
#[derive(Debug, Default)]
struct Named {
    now: BTreeSet<String>,
    gone: BTreeSet<String>,
}

impl Named {
    fn replace(&mut self, now: BTreeSet<String>) {
        self.gone.append(&mut self.now);
        self.gone.retain(|name| !now.contains(name));
        self.now = now;
    }
}

impl Names {
    /// Whether `value` of `label` was named by an earlier config alone.
    fn is_gone(&self, label: &str, value: &str) -> bool {
        match label {
            "site" => self.sites.gone.contains(value),
            "origin" => self.origins.gone.contains(value),
            _ => false,
        }
    }
}
