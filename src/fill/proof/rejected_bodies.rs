//! Objects with recent bodies that were rejected. A body that is wrong from every origin is not
//! downloaded twice for each request, and an origin that gave a wrong one is asked after the
//! others. One per process; bounded; a short lock, never across an await. Called by `Fills` and the
//! leaders.
//!
//! After as many wrong bodies in a row as a fill has tries, a key is refused for a second, and for
//! twice as long each time that it comes wrong again, up to 5 min; then an origin is asked again. A
//! right body ends that, and so does a purge of the key, which is how an operator says that the
//! origin was mended, and a claim that is not the one that the bodies were held against. Nothing
//! here is about another key, or about the origin itself.

use crate::cache::{Cache, FenceEpoch};
use crate::clock::{Clock, Timestamp};
use crate::object::{Key, NarClaim};
use crate::sync::Mutex;
use std::time::Duration;

/// Tries of one fill: the first, and one refetch of a body that was not what was promised.
pub(in crate::fill) const TRIES_MAX: u32 = 2;
/// Keys that are remembered.
const ENTRIES_MAX: usize = 4_096;
/// How long a key is refused the first time.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// How long it is refused at most.
const PAUSE_MAX: Duration = Duration::from_mins(5);

/// What is remembered.
#[derive(Debug)]
pub(in crate::fill) struct RejectedBodies {
    clock: Clock,
    entries: Mutex<quick_cache::unsync::Cache<Key, RejectionRecord>>,
}

#[derive(Debug, Clone)]
struct RejectionRecord {
    /// Of the fill that noted it last.
    basis: Basis,
    /// Wrong bodies since the last refusal began, or the last right one.
    count: u32,
    /// Origins that gave them.
    sources: Vec<usize>,
    pause: Duration,
    refused_until: Option<Timestamp>,
    forgotten_at: Timestamp,
}

/// What a fill of a key began with: what it finds wrong counts as long as that holds.
#[derive(Debug, Clone)]
pub(in crate::fill) struct Basis {
    began: Timestamp,
    ticket: FenceEpoch,
    claim: Option<NarClaim>,
}

impl Basis {
    /// Whether the key was not purged since, and no other claim is held by now.
    fn holds(&self, key: &Key, cache: &Cache) -> bool {
        let is_same = |held: NarClaim| self.claim.as_ref().is_some_and(|c| c.says_the_same(&held));
        !cache.is_purged_since(self.ticket, key) && cache.held_claim(key).is_none_or(is_same)
    }
}

/// What to do about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fill) enum Advice {
    /// Ask, these origins last.
    Ask {
        /// Their positions.
        avoid: Vec<usize>,
    },
    /// Do not ask for so many seconds.
    Refuse {
        /// Seconds, rounded up.
        seconds: u64,
    },
}

impl RejectedBodies {
    pub(in crate::fill) fn new(clock: Clock) -> Self {
        Self { clock, entries: Mutex::new(quick_cache::unsync::Cache::new(ENTRIES_MAX)) }
    }

    /// What a fill of `key` that begins now begins with.
    pub(in crate::fill) fn basis(&self, ticket: FenceEpoch, key: &Key, cache: &Cache) -> Basis {
        Basis { began: self.clock.now(), ticket, claim: cache.held_claim(key) }
    }

    /// What to do about `key` now.
    pub(in crate::fill) fn advice(&self, key: &Key, cache: &Cache) -> Advice {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get(key) else { return Advice::Ask { avoid: Vec::new() } };
        let now = self.clock.now();
        if entry.is_over(now) || !entry.basis.holds(key, cache) {
            entries.remove(key);
            return Advice::Ask { avoid: Vec::new() };
        }
        match entry.refused_until {
            Some(until) if until > now => {
                let left = until.since(now);
                Advice::Refuse { seconds: left.as_secs() + u64::from(left.subsec_nanos() > 0) }
            }
            Some(_) | None => Advice::Ask { avoid: entry.sources.clone() },
        }
    }

    /// Notes that the bodies of `key` from `sources` were wrong, `count` of them, by a fill that
    /// began with `basis`. Gives how long the key is refused now, if it is.
    pub(in crate::fill) fn note(
        &self,
        key: &Key,
        basis: Basis,
        sources: Vec<usize>,
        count: u32,
    ) -> Option<Duration> {
        let now = self.clock.now();
        let mut entries = self.entries.lock();
        let known = entries.remove(key).map(|(_, entry)| entry);
        let known = known.filter(|entry| !entry.is_over(now));
        let mut entry = known.unwrap_or_else(|| RejectionRecord::new(basis.clone(), now));
        entry.came_from(sources);
        // What began before the refusal is over says nothing of what an origin sends after it.
        let is_late = entry.refused_until.is_some_and(|until| basis.began < until);
        let pause = if is_late { None } else { entry.add(basis, now, count) };
        entries.insert(key.clone(), entry);
        pause
    }

    /// Has the origin at `source` asked after the others for `key`, by what began with `basis`. Its
    /// body was right, and yet another one may serve better.
    pub(in crate::fill) fn avoid(&self, key: &Key, basis: Basis, source: usize) {
        self.note(key, basis, vec![source], 0);
    }

    /// Notes that the origins at `sources` gave a right body of `key`. Others that gave a wrong one
    /// are still asked after them.
    pub(in crate::fill) fn right(&self, key: &Key, sources: &[usize]) {
        let mut entries = self.entries.lock();
        let Some((key, mut entry)) = entries.remove(key) else { return };
        entry.sources.retain(|source| !sources.contains(source));
        if !entry.sources.is_empty() {
            (entry.count, entry.pause, entry.refused_until) = (0, Duration::ZERO, None);
            entries.insert(key, entry);
        }
    }
}

impl RejectionRecord {
    fn new(basis: Basis, now: Timestamp) -> Self {
        Self {
            basis,
            count: 0,
            sources: Vec::new(),
            pause: Duration::ZERO,
            refused_until: None,
            forgotten_at: now.plus(PAUSE_MAX),
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.forgotten_at
    }

    fn came_from(&mut self, sources: Vec<usize>) {
        for source in sources {
            if !self.sources.contains(&source) {
                self.sources.push(source);
            }
        }
    }

    fn add(&mut self, basis: Basis, now: Timestamp, count: u32) -> Option<Duration> {
        self.basis = basis;
        self.count = self.count.saturating_add(count);
        if self.count < TRIES_MAX {
            self.forgotten_at = now.plus(PAUSE_MAX);
            return None;
        }
        self.count = 0;
        self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        let until = now.plus(self.pause);
        self.refused_until = Some(until);
        self.forgotten_at = until.plus(PAUSE_MAX);
        Some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Purging, Scope};
    use crate::clock::ManualClock;
    use crate::config;
    use crate::memory::Memory;
    use crate::metrics::Metrics;
    use crate::object::Meta;
    use crate::tasks::Tasks;
    use bytes::Bytes;

    fn key(number: usize) -> Key {
        Key::new("main", &format!("/nar/{number}.nar.zst"), None)
    }

    fn bench() -> (RejectedBodies, ManualClock, Cache) {
        let manual = ManualClock::starting_at(Timestamp::from_secs(1_000));
        let settings = config::MemorySettings { size: 1 << 20, absent_size: 1 << 16 };
        let memory = Memory::new(&settings, &Metrics::new().unwrap());
        let cache = Cache::new(memory, None, Tasks::new());
        (RejectedBodies::new(Clock::Manual(manual.clone())), manual, cache)
    }

    #[test]
    fn a_key_that_stays_wrong_is_refused_for_longer_each_time() {
        let (wrong, manual, cache) = bench();
        let key = key(1);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let basis = wrong.basis(cache.ticket(), &key, &cache);
            assert_eq!(wrong.note(&key, basis.clone(), vec![0], 1), None);
            assert!(matches!(wrong.advice(&key, &cache), Advice::Ask { .. }));
            let pause = wrong.note(&key, basis, vec![1], 1);
            assert_eq!(pause, Some(Duration::from_secs(seconds)));
            assert_eq!(wrong.advice(&key, &cache), Advice::Refuse { seconds });
            manual.advance(Duration::from_millis(seconds * 1_000 - 1));
            assert_eq!(wrong.advice(&key, &cache), Advice::Refuse { seconds: 1 });
            manual.advance(Duration::from_millis(1));
            assert_eq!(wrong.advice(&key, &cache), Advice::Ask { avoid: vec![0, 1] });
        }
        manual.advance(PAUSE_MAX);
        assert_eq!(wrong.advice(&key, &cache), Advice::Ask { avoid: vec![] });
    }

    #[tokio::test]
    async fn a_purge_and_a_right_body_end_it() {
        let (wrong, _manual, cache) = bench();
        let key = key(1);
        assert!(wrong.note(&key, wrong.basis(cache.ticket(), &key, &cache), vec![0], 2).is_some());
        cache.purge(Scope::Key(key.clone()), Purging::Hard).await;
        assert_eq!(wrong.advice(&key, &cache), Advice::Ask { avoid: vec![] });
        assert!(wrong.note(&key, wrong.basis(cache.ticket(), &key, &cache), vec![0], 2).is_some());
        wrong.right(&key, &[0]);
        assert_eq!(wrong.advice(&key, &cache), Advice::Ask { avoid: vec![] });
    }

    /// FAULTS.md S8.
    #[tokio::test]
    async fn another_claim_ends_it_and_the_same_does_not() {
        let (wrong, _manual, cache) = bench();
        let (nar, narinfo) = (key(1), Key::new("main", "/a.narinfo", None));
        let claim = |size| NarClaim {
            file_hash: None,
            file_size: Some(size),
            source: None,
            contents: None,
        };
        let publish = async |size| {
            let (meta, claim) = (Meta::of_a_narinfo(&narinfo), (nar.clone(), claim(size)));
            let body = Bytes::from_static(b"a narinfo");
            cache.publish_small(cache.ticket(), meta, body, Some(claim)).await.unwrap();
        };
        publish(1).await;
        assert!(wrong.note(&nar, wrong.basis(cache.ticket(), &nar, &cache), vec![0], 2).is_some());
        publish(1).await;
        assert_eq!(wrong.advice(&nar, &cache), Advice::Refuse { seconds: 1 });
        // What was held is gone before the other one comes.
        cache.purge(Scope::Key(narinfo.clone()), Purging::Hard).await;
        assert_eq!(cache.claim(&nar).await, Ok(None));
        assert_eq!(wrong.advice(&nar, &cache), Advice::Refuse { seconds: 1 });
        publish(2).await;
        assert_eq!(wrong.advice(&nar, &cache), Advice::Ask { avoid: vec![] });
    }

    #[test]
    fn a_fill_that_began_before_the_refusal_is_over_does_not_renew_it() {
        let (wrong, manual, cache) = bench();
        let key = key(1);
        let begin = || wrong.basis(cache.ticket(), &key, &cache);
        let (first, second) = (begin(), begin());
        assert_eq!(wrong.note(&key, first, vec![0], 2), Some(PAUSE_FIRST));
        manual.advance(PAUSE_FIRST / 2);
        let third = begin();
        assert_eq!(wrong.note(&key, second, vec![1], 2), None);
        manual.advance(PAUSE_FIRST / 2);
        assert_eq!(wrong.note(&key, third, vec![0], 2), None);
        assert_eq!(wrong.advice(&key, &cache), Advice::Ask { avoid: vec![0, 1] });
        assert_eq!(wrong.note(&key, begin(), vec![0], 2), Some(2 * PAUSE_FIRST));
    }

    #[test]
    fn the_refusal_grows_only_while_every_body_is_wrong() {
        let (wrong, manual, cache) = bench();
        let key = key(1);
        let note = || wrong.note(&key, wrong.basis(cache.ticket(), &key, &cache), vec![0], 1);
        for _ in 0..3 {
            assert_eq!(note(), None);
            assert_eq!(note(), Some(PAUSE_FIRST));
            manual.advance(PAUSE_FIRST);
            // Another origin has it right: the first one is asked after it from now on.
            wrong.right(&key, &[1]);
            assert_eq!(wrong.advice(&key, &cache), Advice::Ask { avoid: vec![0] });
            assert_eq!(note(), None);
            wrong.right(&key, &[1]);
        }
    }

    /// FAULTS.md S6.
    #[test]
    fn a_clock_that_is_set_back_neither_ends_nor_lengthens_a_refusal() {
        let (wrong, manual, cache) = bench();
        let key = key(1);
        let note = || wrong.note(&key, wrong.basis(cache.ticket(), &key, &cache), vec![0], 2);
        assert_eq!(note(), Some(PAUSE_FIRST));
        manual.set_back(Duration::from_hours(2));
        assert_eq!(wrong.advice(&key, &cache), Advice::Refuse { seconds: 1 });
        manual.advance(PAUSE_FIRST);
        assert_eq!(wrong.advice(&key, &cache), Advice::Ask { avoid: vec![0] });
        assert_eq!(note(), Some(2 * PAUSE_FIRST));
    }

    #[test]
    fn another_key_is_not_refused() {
        let (wrong, _manual, cache) = bench();
        assert!(
            wrong.note(&key(1), wrong.basis(cache.ticket(), &key(1), &cache), vec![0], 2).is_some()
        );
        assert_eq!(wrong.advice(&key(2), &cache), Advice::Ask { avoid: vec![] });
    }

    #[test]
    fn it_is_bounded() {
        let (wrong, _manual, cache) = bench();
        for number in 0..2 * ENTRIES_MAX {
            wrong.note(&key(number), wrong.basis(cache.ticket(), &key(number), &cache), vec![0], 2);
        }
        assert!(wrong.entries.lock().len() <= ENTRIES_MAX);
    }
}
