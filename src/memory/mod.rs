//! The hot tier: small objects, remembered absences and NAR claims, in tables of quick_cache. Lives
//! as long as the process; every budget is in bytes, overhead included; the tables' locks are never
//! held across an await. Called by `cache` alone.
//!
//! The table is quick_cache's: a look-up takes less than a fifth of moka's, and no housekeeping
//! runs in the requests. It finds an object by 64 bits of the text of its key, drawn with a secret,
//! and the object itself compares the key. The list of field names is shared by all objects that
//! have the same ones ([`hot`]).
//!
//! # What is newer stays
//!
//! Publications are numbered, and each object, absence and claim here knows the number of its own.
//! Every change is made under a lock of its key ([`history`]), which compares the numbers:
//! - A publication ([`Memory::publish`]) takes no place from what has a higher number, and an
//!   absence none from what was published since its fetch began.
//! - What was read from a disk ([`Memory::heat`]) stays only if nothing of its key was published
//!   since the look-up began.
//! - A new head ([`Memory::renew`]) is for the publication that it was made for alone, if that is
//!   there still: in memory, or on the disk, if nothing was published since that said so.
//!
//! If nothing of a key is here, and something newer may have been, what comes is not kept: then the
//! disk tells.

mod history;
mod hot;
mod shelf;
#[cfg(test)]
mod tests;

pub use history::HistoryMark;
pub use hot::Hot;

use crate::clock::Timestamp;
use crate::config;
use crate::metrics::Metrics;
use crate::object::{Key, KeyHash, Meta, NarClaim, PurgeTags};
use history::{Histories, History};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Weighter};
use shelf::{ENTRY_OVERHEAD, RemovalCounters, Shelf};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Claims take this part of the hot tier's budget.
const CLAIMS_DIVISOR: u64 = 16;

/// Bytes and objects that a tier holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierUsage {
    /// Bytes, overhead included.
    pub bytes: u64,
    /// Objects.
    pub objects: u64,
}

/// A claim about a NAR, and what tells whether it still counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldClaim {
    /// What is claimed.
    pub claim: NarClaim,
    /// The narinfo that claims it.
    pub by: Claimant,
    /// How many purges had been raised before it came.
    pub since: u64,
    /// The number of the publication of its narinfo; 0 if it was read from a disk.
    pub order: u64,
}

/// The narinfo that makes a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimant {
    /// A disk has it, and the claim with it; the hash of its key.
    Stored(KeyHash),
    /// It is in memory alone, under this key.
    Hot(Key),
}

impl Claimant {
    /// The hash of its key.
    pub fn hash(&self) -> KeyHash {
        match self {
            Self::Stored(hash) => *hash,
            Self::Hot(key) => key.hash(),
        }
    }
}

/// An object that is to become visible.
#[derive(Debug, Clone, Copy)]
pub struct NewObject<'a> {
    /// The object itself; none if it is not kept in memory.
    pub hot: Option<&'a Arc<Hot>>,
    /// Its number among the publications.
    pub order: u64,
    /// When its head came.
    pub response_time: Timestamp,
    /// The number of the next publication when its fetch began.
    pub since: u64,
}

/// The hot tier.
#[derive(Clone)]
pub struct Memory {
    hot: Arc<Shelf>,
    absent: Arc<Shelf>,
    claims: Arc<Cache<Key, HeldClaim, ClaimWeigher>>,
    histories: Arc<Histories>,
    /// Whether a variant was ever kept: only then does forgetting an object look for more of them.
    has_variants: Arc<AtomicBool>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hot, absent, .. } = self;
        f.debug_struct("Memory").field("hot", hot).field("absent", absent).finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty tier with the budgets of `settings`; what leaves it is counted in `metrics`.
    pub fn new(settings: &config::MemorySettings, metrics: &Metrics) -> Self {
        let claims_size = settings.size / CLAIMS_DIVISOR;
        let claims = Cache::with_options(
            shelf::options(claims_size),
            ClaimWeigher,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        );
        Self {
            hot: Arc::new(Shelf::new(settings.size - claims_size, counts("memory", metrics))),
            absent: Arc::new(Shelf::new(settings.absent_size, counts("absent", metrics))),
            claims: Arc::new(claims),
            histories: Arc::default(),
            has_variants: Arc::default(),
        }
    }

    /// The object of the key with this text, if it is hot.
    pub fn get(&self, key: &str) -> Option<Arc<Hot>> {
        self.hot.get(key)
    }

    /// This moment, before `key` is looked up on disk.
    pub fn seen(&self, key: &Key) -> HistoryMark {
        self.histories.of(key.as_str()).seen()
    }

    /// Makes an object visible in place of what is older, be it here or not; false if a response is
    /// here that came later and was published while this one was fetched.
    pub fn publish(&self, key: &Key, coming: &NewObject<'_>) -> bool {
        let mut history = self.histories.of(key.as_str());
        let there = self.hot.peek(key.as_str());
        let is_later = |there: &Arc<Hot>| {
            there.order() >= coming.since && there.facts.response_time > coming.response_time
        };
        if there.as_ref().is_some_and(is_later) {
            return false;
        }
        let is_newest = self.is_newest(&history, key, coming.order);
        history.count(coming.order);
        if is_newest {
            self.absent.remove(key.as_str());
            match coming.hot {
                Some(hot) => self.keep(key, hot),
                None => _ = self.hot.remove(key.as_str()),
            }
        }
        true
    }

    /// Whether what was published of `key` under this number is newer than all that is known.
    fn is_newest(&self, history: &History, key: &Key, order: u64) -> bool {
        let there = self.hot.peek(key.as_str()).or_else(|| self.absent.peek(key.as_str()));
        there.map_or_else(|| history.is_before(order), |there| there.order() <= order)
    }

    fn keep(&self, key: &Key, hot: &Arc<Hot>) {
        if key.is_variant() {
            self.has_variants.store(true, Ordering::Relaxed);
        }
        self.hot.put(key.as_str(), hot);
    }

    /// Keeps a small object that was read from disk since `seen`, unless something newer came
    /// meanwhile; gives that instead if it is here.
    pub fn heat(&self, key: &Key, hot: Arc<Hot>, seen: HistoryMark) -> Arc<Hot> {
        let history = self.histories.of(key.as_str());
        if let Some(there) = self.hot.peek(key.as_str()) {
            return there;
        }
        if history.is_as(seen) && self.absent.peek(key.as_str()).is_none() {
            self.keep(key, &hot);
        }
        hot
    }

    /// Gives a publication another head, if it is there still: here, or on the disk, which had it
    /// at `stored` or later.
    pub fn renew(&self, key: &Key, hot: &Arc<Hot>, stored: Option<HistoryMark>) {
        let history = self.histories.of(key.as_str());
        let is_there = match self.hot.peek(key.as_str()) {
            Some(there) => there.order() == hot.order(),
            None => {
                stored.is_some_and(|seen| history.is_as(seen))
                    && self.absent.peek(key.as_str()).is_none()
            }
        };
        if is_there {
            self.keep(key, hot);
        }
    }

    /// The remembered absence of the key with this text.
    pub fn absent(&self, key: &str) -> Option<Arc<Hot>> {
        self.absent.get(key)
    }

    /// Remembers that there is no such object, unless one was published since the fetch began that
    /// says so; false then. Has its own budget: never evicts an object.
    pub fn put_absent(&self, key: &Key, absence: &Arc<Hot>) -> bool {
        let history = self.histories.of(key.as_str());
        let is_right = match self.hot.peek(key.as_str()) {
            Some(there) => there.order() < absence.order(),
            None => self.is_newest(&history, key, absence.order()),
        };
        if is_right {
            self.hot.remove(key.as_str());
            self.absent.put(key.as_str(), absence);
        }
        is_right
    }

    /// What a narinfo said of the NAR `key`.
    pub fn claim(&self, key: &Key) -> Option<HeldClaim> {
        self.claims.get(key)
    }

    /// Keeps what a narinfo says of the NAR `key`, in place of what an older one said; what was
    /// held before.
    pub fn put_claim(&self, key: Key, claim: HeldClaim) -> Option<HeldClaim> {
        let mut history = self.histories.of(key.as_str());
        let before = self.claims.peek(&key);
        let is_newest = history.is_before(claim.order.saturating_add(1));
        history.count(claim.order);
        if is_newest {
            self.claims.insert(key, claim);
            return before;
        }
        // One that is older, or may be, goes as well: the disk tells.
        self.claims.remove_if(&key, |there| there.order <= claim.order);
        None
    }

    /// Keeps a claim that was read from disk since `seen`, unless another one came meanwhile, which
    /// is given instead if it is here.
    pub fn heat_claim(&self, key: &Key, claim: HeldClaim, seen: HistoryMark) -> HeldClaim {
        let history = self.histories.of(key.as_str());
        if let Some(there) = self.claims.peek(key) {
            return there;
        }
        if history.is_as(seen) {
            self.claims.insert(key.clone(), claim.clone());
        }
        claim
    }

    /// Forgets a claim, if it is still this one.
    pub fn forget_claim(&self, key: &Key, held: &HeldClaim) {
        self.claims.remove_if(key, |there| there == held);
    }

    /// Forgets every claim; those on disk are read again.
    pub fn clear_claims(&self) {
        self.claims.clear();
    }

    /// Forgets `key`, its absence and all its variants included; true when there was anything.
    pub fn remove(&self, key: &Key) -> bool {
        let was_known = {
            let _history = self.histories.of(key.as_str());
            let was_hot = self.hot.remove(key.as_str());
            self.absent.remove(key.as_str()) || was_hot
        };
        let may_vary = self.has_variants.load(Ordering::Relaxed) && !key.is_variant();
        let is_variant = |other: &Key| other.is_variant() && other.primary() == *key;
        (may_vary && self.remove_matching(is_variant) > 0) || was_known
    }

    /// Forgets that there is no such object, and nothing else.
    pub fn forget_absence(&self, key: &Key) {
        let _history = self.histories.of(key.as_str());
        self.absent.remove(key.as_str());
    }

    /// Forgets every key that `matches`; how many of the hot ones there were.
    pub fn remove_matching(&self, matches: impl Fn(&Key) -> bool) -> u64 {
        self.remove_hot(|hot| hot.key().is_none_or(|key| matches(&key)))
    }

    /// Forgets every object of `site` that has one of `tags`, remembered absences included; how
    /// many of the hot ones there were.
    pub fn remove_tagged(&self, site: &str, tags: &PurgeTags) -> u64 {
        self.remove_hot(|hot| hot.is_tagged(site, tags))
    }

    fn remove_hot(&self, matches: impl Fn(&Hot) -> bool) -> u64 {
        self.remove_from(&self.absent, &matches);
        self.remove_from(&self.hot, &matches)
    }

    fn remove_from(&self, tier: &Shelf, matches: impl Fn(&Hot) -> bool) -> u64 {
        let removed = tier.matching(matches).filter(|hot| {
            let _history = self.histories.of(hot.key_str());
            // Not what came in its place meanwhile: that was published after the purge.
            tier.remove_exactly(hot)
        });
        removed.count() as u64
    }

    /// Makes every object that `matches` stale; how many there were that were not. Remembered
    /// absences that match are forgotten. What is kept anew meanwhile stays as it is.
    pub fn invalidate(&self, matches: impl Fn(&Hot) -> bool) -> u64 {
        self.remove_from(&self.absent, &matches);
        self.hot.matching(matches).filter(|hot| self.make_stale(hot)).count() as u64
    }

    /// The same for `key` and all its variants.
    pub fn invalidate_key(&self, key: &Key) -> u64 {
        self.forget_absence(key);
        let own = self.hot.peek(key.as_str()).is_some_and(|hot| self.make_stale(&hot));
        let is_variant = |hot: &Hot| {
            hot.key().is_some_and(|other| other.is_variant() && other.primary() == *key)
        };
        let may_vary = self.has_variants.load(Ordering::Relaxed) && !key.is_variant();
        u64::from(own) + if may_vary { self.invalidate(is_variant) } else { 0 }
    }

    /// Makes an object stale that is there still and is not; whether it has.
    fn make_stale(&self, hot: &Arc<Hot>) -> bool {
        let key = hot.key_str();
        let _history = self.histories.of(key);
        let is_there = self.hot.peek(key).is_some_and(|there| Arc::ptr_eq(&there, hot));
        if !is_there || hot.facts.is_invalidated {
            return false;
        }
        let meta = Meta { is_invalidated: true, ..hot.meta() };
        self.hot.put(key, &Arc::new(hot.with_meta(&meta)));
        true
    }

    /// What the hot objects take.
    pub fn usage(&self) -> TierUsage {
        TierUsage { bytes: self.hot.bytes(), objects: self.hot.objects() }
    }

    /// What the remembered absences take.
    pub fn absent_usage(&self) -> TierUsage {
        TierUsage { bytes: self.absent.bytes(), objects: self.absent.objects() }
    }
}

/// Counts of what leaves a tier: one addition for each.
fn counts(tier: &str, metrics: &Metrics) -> RemovalCounters {
    let counter = |reason| metrics.evictions.with_label_values(&[tier, reason]);
    RemovalCounters {
        size: counter("size"),
        replaced: counter("replaced"),
        removed: counter("removed"),
    }
}

#[derive(Debug, Clone)]
struct ClaimWeigher;

impl Weighter<Key, HeldClaim> for ClaimWeigher {
    fn weight(&self, key: &Key, held: &HeldClaim) -> u64 {
        let by = match &held.by {
            Claimant::Stored(_) => 0,
            Claimant::Hot(narinfo) => narinfo.as_str().len(),
        };
        (ENTRY_OVERHEAD + key.as_str().len() + by + size_of::<(Key, HeldClaim)>()) as u64
    }
}
