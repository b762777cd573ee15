//! What defines a metric: name, type, help and labels. Constants only, and the values they make.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

/// Bounds of the buckets of every histogram.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The name of a metric, its help and its labels.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: &'static [Label],
}

/// A label of a metric.
#[derive(Debug)]
pub(super) struct Label {
    pub(super) name: &'static str,
    pub(super) values: LabelValues,
}

/// The values that a label takes.
#[derive(Debug)]
pub(super) enum LabelValues {
    /// What the config or an origin gives, in words.
    Given(&'static str),
    /// Those of a type that many metrics are split by.
    Shared(fn() -> Vec<LabelValue>),
    /// Those of one metric.
    Own(&'static [LabelValue]),
}

/// One value of a label, and its meaning; an empty meaning if the value says it.
pub(super) type LabelValue = (&'static str, &'static str);

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric with this name, help text and labels.
pub(super) const fn define(
    name: &'static str,
    help: &'static str,
    labels: &'static [Label],
) -> Definition {
    Definition { name, help, labels }
}

impl Definition {
    /// The names of the labels.
    pub(super) fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    /// The options of a counter or gauge.
    pub(super) fn options(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    /// Counters that no registry knows.
    pub(super) fn counters(&self) -> Result<IntCounterVec, prometheus::Error> {
        IntCounterVec::new(self.options(), &self.label_names())
    }

    /// Histograms that no registry knows.
    pub(super) fn seconds(&self) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(self.name, self.help).buckets(SECONDS.to_vec());
        HistogramVec::new(options, &self.label_names())
    }
}

impl Label {
    /// Whether the label may have this value.
    pub(super) fn permits(&self, value: &str) -> bool {
        match &self.values {
            LabelValues::Given(_) => true,
            LabelValues::Shared(values) => values().iter().any(|(known, _)| *known == value),
            LabelValues::Own(values) => values.iter().any(|(known, _)| *known == value),
        }
    }
}

impl MetricKind {
    /// Its name in the Prometheus text format.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}
