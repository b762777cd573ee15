//! Hit for miss: objects of generic sites with recent answers that could not be shared. For a
//! minute no request for such an object waits for the answer to another request. One map for each
//! kind of fetch, bounded. A stored answer or a purge ends the minute. A short lock of its own.

use crate::cache::{Cache, FenceEpoch};
use crate::clock::Timestamp;
use crate::object::Key;
use quick_cache::sync::Cache as Recent;
use std::time::Duration;

/// For how long no request waits for another one after an answer could not be shared.
const ALONE: Duration = Duration::from_mins(1);
/// Objects of which that is remembered.
const OBJECTS_MAX: usize = 16_384;

/// The objects that each request asks for itself.
#[derive(Debug)]
pub(super) struct HitForMiss(Recent<Key, (Timestamp, FenceEpoch)>);

impl Default for HitForMiss {
    fn default() -> Self {
        Self(Recent::new(OBJECTS_MAX))
    }
}

impl HitForMiss {
    /// The answer that came at `now`, to a fetch with this ticket, could not be shared.
    pub(super) fn begin(&self, key: &Key, now: Timestamp, ticket: FenceEpoch) {
        self.0.insert(key.clone(), (now.plus(ALONE), ticket));
    }

    /// An answer is stored for every request.
    pub(super) fn end(&self, key: &Key) {
        self.0.remove(key);
    }

    /// Whether, at `now` in edge time, each request for `key` asks for itself.
    pub(super) fn holds(&self, key: &Key, now: Timestamp, cache: &Cache) -> bool {
        let begun = self.0.get(key);
        begun.is_some_and(|(until, ticket)| now < until && !cache.is_purged_since(ticket, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Purging, Scope};
    use crate::clock::{Clock, ManualClock, Moment};
    use crate::config;
    use crate::memory::Memory;
    use crate::metrics::Metrics;
    use crate::tasks::Tasks;

    /// FAULTS.md S6.
    #[tokio::test]
    async fn a_clock_that_is_set_back_does_not_lengthen_the_minute() {
        let settings = config::MemorySettings { size: 1 << 20, absent_size: 1 << 16 };
        let cache =
            Cache::new(Memory::new(&settings, &Metrics::new().unwrap()), None, Tasks::new());
        let manual = ManualClock::starting_at(Timestamp::from_secs(100_000));
        let clock = Clock::Manual(manual.clone());
        let (alone, key) = (HitForMiss::default(), Key::new("web", "/a", None));
        // As of an answer that came now.
        let Moment { edge, .. } = clock.moment();
        alone.begin(&key, edge, cache.ticket());
        manual.set_back(Duration::from_hours(2));
        manual.advance(ALONE.saturating_sub(Duration::from_millis(1)));
        assert!(alone.holds(&key, clock.now(), &cache));
        manual.advance(Duration::from_millis(1));
        assert!(!alone.holds(&key, clock.now(), &cache));
        alone.begin(&key, clock.now(), cache.ticket());
        assert!(alone.holds(&key, clock.now(), &cache));
        cache.purge(Scope::Key(key.clone()), Purging::Hard).await;
        assert!(!alone.holds(&key, clock.now(), &cache));
    }
}
