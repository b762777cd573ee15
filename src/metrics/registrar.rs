//! Makes metrics of their definitions and enters each in the registry. One for each registry,
//! until [`super::Metrics`] is made; no locks.

use super::definition::{Definition, MetricKind};
use super::sharded::ShardedMetric;
use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

/// A metric of the registry, as it is documented.
#[derive(Debug)]
pub(super) struct MetricEntry {
    pub(super) kind: MetricKind,
    pub(super) definition: &'static Definition,
}

/// The metrics made so far.
#[derive(Debug, Default)]
pub(super) struct Registrar {
    pub(super) registry: Registry,
    pub(super) entries: Vec<MetricEntry>,
}

type Registration<M> = Result<M, prometheus::Error>;

impl Registrar {
    pub(super) fn counters(&mut self, what: &'static Definition) -> Registration<IntCounterVec> {
        self.enter(MetricKind::Counter, what, what.counters()?)
    }

    pub(super) fn sharded_counters(
        &mut self,
        what: &'static Definition,
    ) -> Registration<ShardedMetric<IntCounterVec>> {
        self.enter(MetricKind::Counter, what, ShardedMetric::new(|| what.counters())?)
    }

    pub(super) fn counter(&mut self, what: &'static Definition) -> Registration<IntCounter> {
        self.enter(MetricKind::Counter, what, IntCounter::with_opts(what.options())?)
    }

    pub(super) fn sums(&mut self, what: &'static Definition) -> Registration<CounterVec> {
        let made = CounterVec::new(what.options(), &what.label_names())?;
        self.enter(MetricKind::Counter, what, made)
    }

    /// With counters of the whole process, which every registry shows.
    pub(super) fn process_wide(
        mut self,
        what: &'static Definition,
        counters: &IntCounterVec,
    ) -> Registration<Self> {
        self.enter(MetricKind::Counter, what, counters.clone())?;
        Ok(self)
    }

    pub(super) fn gauges(&mut self, what: &'static Definition) -> Registration<IntGaugeVec> {
        let made = IntGaugeVec::new(what.options(), &what.label_names())?;
        self.enter(MetricKind::Gauge, what, made)
    }

    pub(super) fn gauge(&mut self, what: &'static Definition) -> Registration<IntGauge> {
        self.enter(MetricKind::Gauge, what, IntGauge::with_opts(what.options())?)
    }

    pub(super) fn ratios(&mut self, what: &'static Definition) -> Registration<GaugeVec> {
        let made = GaugeVec::new(what.options(), &what.label_names())?;
        self.enter(MetricKind::Gauge, what, made)
    }

    pub(super) fn seconds(&mut self, what: &'static Definition) -> Registration<HistogramVec> {
        self.enter(MetricKind::Histogram, what, what.seconds()?)
    }

    pub(super) fn sharded_seconds(
        &mut self,
        what: &'static Definition,
    ) -> Registration<ShardedMetric<HistogramVec>> {
        self.enter(MetricKind::Histogram, what, ShardedMetric::new(|| what.seconds())?)
    }

    fn enter<M>(
        &mut self,
        kind: MetricKind,
        definition: &'static Definition,
        metric: M,
    ) -> Registration<M>
    where
        M: Collector + Clone + 'static,
    {
        self.registry.register(Box::new(metric.clone()))?;
        self.entries.push(MetricEntry { kind, definition });
        Ok(metric)
    }
}
