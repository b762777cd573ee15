//! Metrics that every request adds to. Each thread has a shard of its own, so that cores do not
//! pass one cache line around; a scrape gets the sum. Made once at start and shared; no locks
//! of its own.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

/// Shards at most: threads beyond share them.
const SHARDS_MAX: usize = 64;

static COUNT: LazyLock<usize> = LazyLock::new(|| {
    let threads = available_parallelism().map_or(1, usize::from);
    threads.saturating_mul(2).min(SHARDS_MAX)
});

/// Which shard a thread adds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard(usize);

impl Shard {
    /// That of the calling thread.
    pub fn of_thread() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: Shard = Shard(NEXT.fetch_add(1, Ordering::Relaxed) % *COUNT);
        }
        OWN.with(|own| *own)
    }

    /// How many there are.
    pub fn count() -> usize {
        *COUNT
    }

    /// Its position among them.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// A metric once for each shard.
#[derive(Debug, Clone)]
pub(super) struct ShardedMetric<M>(Arc<[M]>);

impl<M> ShardedMetric<M> {
    /// As many as there are shards, each made by `make`; all must have the same name and labels.
    pub(super) fn new(
        mut make: impl FnMut() -> Result<M, prometheus::Error>,
    ) -> Result<Self, prometheus::Error> {
        (0..Shard::count()).map(|_| make()).collect::<Result<_, _>>().map(Self)
    }

    /// That of `shard`.
    pub(super) fn shard(&self, shard: Shard) -> Option<&M> {
        self.0.get(shard.index())
    }
}

impl<M: Collector> Collector for ShardedMetric<M> {
    fn desc(&self) -> Vec<&Desc> {
        self.0.first().map(Collector::desc).unwrap_or_default()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.iter().flat_map(Collector::collect);
        let Some(mut all) = families.next() else { return Vec::new() };
        let kind = all.get_field_type();
        let mut sums = HashMap::new();
        for metric in families.fold(all.take_metric(), |mut metrics, mut family| {
            metrics.append(&mut family.take_metric());
            metrics
        }) {
            let labels: Vec<String> =
                metric.get_label().iter().map(|label| label.value().to_owned()).collect();
            match sums.entry(labels) {
                Entry::Vacant(first) => {
                    first.insert(metric);
                }
                Entry::Occupied(mut sum) => add(sum.get_mut(), &metric, kind),
            }
        }
        all.set_metric(sums.into_values().collect());
        vec![all]
    }
}

/// Adds what another shard counted under the same labels.
fn add(sum: &mut Metric, other: &Metric, kind: MetricType) {
    match kind {
        MetricType::COUNTER => {
            let mut counter = sum.get_counter().clone();
            counter.set_value(counter.get_value() + other.get_counter().get_value());
            sum.set_counter(counter);
        }
        MetricType::HISTOGRAM => {
            let (mut histogram, other) = (sum.get_histogram().clone(), other.get_histogram());
            let count = histogram.get_sample_count() + other.get_sample_count();
            histogram.set_sample_count(count);
            histogram.set_sample_sum(histogram.get_sample_sum() + other.get_sample_sum());
            let mut buckets = histogram.get_bucket().to_vec();
            for (bucket, other) in buckets.iter_mut().zip(other.get_bucket()) {
                bucket.set_cumulative_count(bucket.cumulative_count() + other.cumulative_count());
            }
            histogram.set_bucket(buckets);
            sum.set_histogram(histogram);
        }
        // None of these is sharded.
        MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::proto::Bucket;
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

    fn all() -> impl Iterator<Item = Shard> {
        (0..Shard::count()).map(Shard)
    }

    #[test]
    fn what_every_shard_counted_is_added_up() {
        let counters =
            ShardedMetric::new(|| IntCounterVec::new(Opts::new("requests", "help"), &["class"]))
                .unwrap();
        for shard in all() {
            counters.shard(shard).unwrap().with_label_values(&["nar"]).inc_by(2);
        }
        let own = counters.shard(Shard::of_thread()).unwrap();
        own.with_label_values(&["narinfo"]).inc();
        let [family] = <[_; 1]>::try_from(counters.collect()).unwrap();
        let mut seen: Vec<_> = family
            .get_metric()
            .iter()
            .map(|metric| (metric.get_label()[0].value(), metric.get_counter().get_value()))
            .collect();
        seen.sort_by_key(|(class, _)| class.to_owned());
        let nars = f64::from(u32::try_from(Shard::count() * 2).unwrap());
        assert_eq!(seen, [("nar", nars), ("narinfo", 1.0)]);
    }

    #[test]
    fn histograms_are_added_bucket_by_bucket() {
        let make = || {
            let options = HistogramOpts::new("seconds", "help").buckets(vec![1.0, 2.0]);
            HistogramVec::new(options, &["class"])
        };
        let seconds = ShardedMetric::new(make).unwrap();
        for shard in all() {
            seconds.shard(shard).unwrap().with_label_values(&["nar"]).observe(1.5);
        }
        let families = seconds.collect();
        let histogram = families[0].get_metric()[0].get_histogram();
        let count = u64::try_from(Shard::count()).unwrap();
        assert_eq!(histogram.get_sample_count(), count);
        let buckets = histogram.get_bucket().iter().map(Bucket::cumulative_count);
        assert_eq!(buckets.collect::<Vec<_>>(), [0, count]);
    }
}
