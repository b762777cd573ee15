//! What is printed: every metric, but for series of sites and origins that an earlier config named
//! and the present one does not. One for each registry; a mutex held while series are picked.

use super::registrar::{MetricEntry, Registrar};
use crate::sync::Mutex;
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{Encoder, TextEncoder};
use std::collections::BTreeSet;

/// The metrics of a registry, and the names that the config gives.
#[derive(Debug)]
pub(super) struct Export {
    registered: Registrar,
    names: Mutex<ConfiguredNames>,
}

impl Export {
    /// What `registered` has made.
    pub(super) fn of(registered: Registrar) -> Self {
        Self { registered, names: Mutex::default() }
    }

    /// The metrics as they are documented, in the order of their registration.
    pub(super) fn entries(&self) -> &[MetricEntry] {
        &self.registered.entries
    }

    /// Takes over what the config names now.
    pub(super) fn name(&self, sites: BTreeSet<String>, origins: BTreeSet<String>) {
        let mut names = self.names.lock();
        names.sites.replace(sites);
        names.origins.replace(origins);
    }

    /// The Prometheus text exposition.
    pub(super) fn text(&self) -> Result<String, prometheus::Error> {
        let mut families = self.registered.registry.gather();
        debug_assert_eq!(self.undocumented(&families), Vec::<String>::new());
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

    /// LabelValues of labels that the definitions do not name.
    fn undocumented(&self, families: &[MetricFamily]) -> Vec<String> {
        let mut found = Vec::new();
        for MetricEntry { definition, .. } in self.entries() {
            let family = families.iter().find(|family| family.name() == definition.name);
            let series = family.map(MetricFamily::get_metric).unwrap_or_default();
            for pair in series.iter().flat_map(Metric::get_label) {
                let is_known = definition
                    .labels
                    .iter()
                    .any(|label| label.name == pair.name() && label.permits(pair.value()));
                if !is_known {
                    found.push(format!("{} {}={}", definition.name, pair.name(), pair.value()));
                }
            }
        }
        found
    }
}

/// What the config names and named, by label.
#[derive(Debug, Default)]
struct ConfiguredNames {
    sites: LabelNames,
    origins: LabelNames,
}

/// The names of one kind.
#[derive(Debug, Default)]
struct LabelNames {
    now: BTreeSet<String>,
    gone: BTreeSet<String>,
}

impl LabelNames {
    fn replace(&mut self, now: BTreeSet<String>) {
        self.gone.append(&mut self.now);
        self.gone.retain(|name| !now.contains(name));
        self.now = now;
    }
}

impl ConfiguredNames {
    /// Whether `value` of `label` was named by an earlier config alone.
    fn is_gone(&self, label: &str, value: &str) -> bool {
        match label {
            "site" => self.sites.gone.contains(value),
            "origin" => self.origins.gone.contains(value),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;

    #[test]
    fn a_value_of_a_label_that_no_definition_names_is_found() {
        let metrics = Metrics::new().unwrap();
        for scope in ["object", "nothing"] {
            metrics.purges.with_label_values(&[scope]).inc();
        }
        metrics.origin_up.with_label_values(&["any.example"]).set(1);
        let families = metrics.printed.registered.registry.gather();
        let found = metrics.printed.undocumented(&families);
        assert_eq!(found, ["narthex_purges_total scope=nothing"]);
    }
}
