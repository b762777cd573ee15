//! The hot tier: small objects, remembered absences and NAR claims, in tables of quick_cache. Lives
//! as long as the process; every budget is in bytes, overhead included; the tables' locks are never
//! held across an await. Called by `cache` alone.

mod hot;
mod shelf;

pub use hot::Hot;

use crate::config;
use crate::metrics::Metrics;
use crate::object::{Key, KeyHash, Meta, NarClaim, Tags};
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult};
use quick_cache::{DefaultHashBuilder, Weighter};
use shelf::{Counts, ENTRY_OVERHEAD, Shelf};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Claims take this part of the hot tier's budget.
const CLAIMS_DIVISOR: u64 = 16;

/// Bytes and objects that a tier holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
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
    /// The hash of the key of the narinfo that claims it.
    pub by: KeyHash,
    /// How many purges had been raised before it came.
    pub since: u64,
}

/// The hot tier.
#[derive(Clone)]
pub struct Memory {
    hot: Arc<Shelf>,
    absent: Arc<Shelf>,
    claims: Arc<Cache<Key, HeldClaim, ClaimWeigher>>,
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
    pub fn new(settings: &config::Memory, metrics: &Metrics) -> Self {
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
            has_variants: Arc::default(),
        }
    }

    /// The object of the key with this text, if it is hot.
    pub fn get(&self, key: &str) -> Option<Arc<Hot>> {
        self.hot.get(key)
    }

    /// Keeps a small object under its key; whatever was remembered of its absence is forgotten.
    pub fn put(&self, key: &Key, hot: &Arc<Hot>) {
        self.absent.remove(key.as_str());
        self.note(key);
        self.hot.put(key.as_str(), hot);
    }

    /// Keeps a small object that was read from disk, unless something newer came meanwhile, which
    /// is given instead.
    pub fn heat(&self, key: &Key, hot: Arc<Hot>) -> Arc<Hot> {
        if self.absent.has(key.as_str(), |_| true) {
            return hot;
        }
        self.note(key);
        self.hot.put_new(key.as_str(), hot)
    }

    /// The remembered absence of the key with this text.
    pub fn absent(&self, key: &str) -> Option<Arc<Hot>> {
        self.absent.get(key)
    }

    /// Remembers that there is no such object, unless one is hot that was inserted on disk as
    /// `before` or later; false then. Has its own budget: never evicts an object.
    pub fn put_absent(&self, key: &Key, absence: &Arc<Hot>, before: u64) -> bool {
        let is_newer = |hot: &Hot| hot.insertion().is_some_and(|own| own.sequence >= before);
        if self.hot.has(key.as_str(), is_newer) {
            return false;
        }
        self.hot.remove(key.as_str());
        self.absent.put(key.as_str(), absence);
        true
    }

    /// What a narinfo said of the NAR `key`.
    pub fn claim(&self, key: &Key) -> Option<HeldClaim> {
        self.claims.get(key)
    }

    /// Keeps what a narinfo says of the NAR `key`; what was held before.
    pub fn put_claim(&self, key: Key, claim: HeldClaim) -> Option<HeldClaim> {
        let before = self.claims.peek(&key);
        self.claims.insert(key, claim);
        before
    }

    /// Keeps a claim that was read from disk, unless another one came meanwhile, which is given
    /// instead.
    pub fn heat_claim(&self, key: &Key, claim: HeldClaim) -> HeldClaim {
        match self.claims.get_value_or_guard(key, None) {
            GuardResult::Value(newer) => newer,
            GuardResult::Guard(place) => match place.insert(claim.clone()) {
                Ok(()) => claim,
                // One that came meanwhile.
                Err(claim) => self.claims.get(key).unwrap_or(claim),
            },
            GuardResult::Timeout => claim,
        }
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
        let was_hot = self.hot.remove(key.as_str());
        let was_known = self.absent.remove(key.as_str()) || was_hot;
        let may_vary = self.has_variants.load(Ordering::Relaxed) && !key.is_variant();
        let is_variant = |other: &Key| other.is_variant() && other.primary() == *key;
        (may_vary && self.remove_matching(is_variant) > 0) || was_known
    }

    /// Forgets that there is no such object, and nothing else.
    pub fn forget_absence(&self, key: &Key) {
        self.absent.remove(key.as_str());
    }

    /// Forgets what is kept under exactly this key, and no variant of it.
    pub fn remove_one(&self, key: &Key) {
        self.hot.remove(key.as_str());
        self.absent.remove(key.as_str());
    }

    fn note(&self, key: &Key) {
        if key.is_variant() {
            self.has_variants.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets every key that `matches`; how many of the hot ones there were.
    pub fn remove_matching(&self, matches: impl Fn(&Key) -> bool) -> u64 {
        let matches = |hot: &Hot| hot.key().is_none_or(|key| matches(&key));
        let removed = self.hot.remove_matching(matches);
        self.absent.remove_matching(matches);
        removed
    }

    /// Forgets every object of `site` that has one of `tags`, remembered absences included; how
    /// many of the hot ones there were.
    pub fn remove_tagged(&self, site: &str, tags: &Tags) -> u64 {
        let matches = |hot: &Hot| hot.is_tagged(site, tags);
        self.absent.remove_matching(matches);
        self.hot.remove_matching(matches)
    }

    /// Makes every object that `matches` stale; how many there were that were not. Remembered
    /// absences that match are forgotten. What is kept anew meanwhile stays as it is.
    pub fn invalidate(&self, matches: impl Fn(&Hot) -> bool) -> u64 {
        self.absent.remove_matching(&matches);
        self.hot
            .take_matching(|hot| !hot.facts.is_invalidated && matches(hot), |hot| self.stale(&hot))
    }

    /// The same for `key` and all its variants.
    pub fn invalidate_key(&self, key: &Key) -> u64 {
        self.absent.remove(key.as_str());
        let own = self.hot.take(key.as_str(), |hot| !hot.facts.is_invalidated);
        if let Some(hot) = &own {
            self.stale(hot);
        }
        let is_variant = |hot: &Hot| {
            hot.key().is_some_and(|other| other.is_variant() && other.primary() == *key)
        };
        let may_vary = self.has_variants.load(Ordering::Relaxed) && !key.is_variant();
        u64::from(own.is_some()) + if may_vary { self.invalidate(is_variant) } else { 0 }
    }

    fn stale(&self, hot: &Hot) {
        let meta = Meta { is_invalidated: true, ..hot.meta() };
        let stale = Hot::copy_of(&meta, &hot.body(), hot.insertion());
        self.heat(&meta.key, Arc::new(stale));
    }

    /// What the hot objects take.
    pub fn usage(&self) -> Usage {
        Usage { bytes: self.hot.bytes(), objects: self.hot.objects() }
    }

    /// What the remembered absences take.
    pub fn absent_usage(&self) -> Usage {
        Usage { bytes: self.absent.bytes(), objects: self.absent.objects() }
    }
}

/// Counts of what leaves a tier: one addition for each.
fn counts(tier: &str, metrics: &Metrics) -> Counts {
    let counter = |reason| metrics.evictions.with_label_values(&[tier, reason]);
    Counts { size: counter("size"), replaced: counter("replaced"), removed: counter("removed") }
}

#[derive(Debug, Clone)]
struct ClaimWeigher;

impl Weighter<Key, HeldClaim> for ClaimWeigher {
    fn weight(&self, key: &Key, _: &HeldClaim) -> u64 {
        (ENTRY_OVERHEAD + key.as_str().len() + size_of::<(Key, HeldClaim)>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::nix::Class;
    use crate::object::{Lifetime, Proof, Tag, Variant};
    use http::{HeaderMap, HeaderValue, StatusCode};

    pub(super) fn meta(path: &str) -> Meta {
        Meta {
            key: Key::new("s", path, None),
            class: Class::Narinfo,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            origin: "o".into(),
            request_time: Timestamp::from_secs(0),
            response_time: Timestamp::from_secs(0),
            age_at_response: 0,
            lifetime: Lifetime::Seconds(1),
            is_invalidated: false,
            proof: Proof::Parsed,
            variant: Variant::default(),
        }
    }

    fn memory(size: u64, absent_size: u64) -> Memory {
        Memory::new(&config::Memory { size, absent_size }, &Metrics::new().unwrap())
    }

    fn named(path: &str) -> Key {
        Key::new("s", path, None)
    }

    fn hot(path: &str, bytes: usize) -> Arc<Hot> {
        Arc::new(Hot::new(&meta(path), &vec![0; bytes]))
    }

    fn put(memory: &Memory, path: &str, bytes: usize) {
        memory.put(&named(path), &hot(path, bytes));
    }

    fn put_absent(memory: &Memory, path: &str) {
        memory.put_absent(&named(path), &hot(path, 0), 0);
    }

    #[test]
    fn an_object_and_its_absence_exclude_each_other() {
        let memory = memory(1 << 20, 1 << 20);
        let key = named("/a");
        put_absent(&memory, "/a");
        assert!(memory.absent(key.as_str()).is_some());
        put(&memory, "/a", 10);
        assert!(memory.absent(key.as_str()).is_none());
        assert!(memory.get(key.as_str()).is_some());
        put_absent(&memory, "/a");
        assert!(memory.get(key.as_str()).is_none());
        assert!(memory.remove(&key));
        assert!(!memory.remove(&key));
    }

    #[test]
    fn what_is_read_from_disk_replaces_nothing_newer() {
        let memory = memory(1 << 20, 1 << 20);
        put(&memory, "/a", 2);
        assert_eq!(memory.heat(&named("/a"), hot("/a", 1)).length(), 2);
        put_absent(&memory, "/a");
        memory.heat(&named("/a"), hot("/a", 1));
        let key = named("/a");
        assert!(memory.get(key.as_str()).is_none() && memory.absent(key.as_str()).is_some());
        assert_eq!(memory.heat(&named("/b"), hot("/b", 1)).length(), 1);
        assert!(memory.get(named("/b").as_str()).is_some());
        let claim = |size| {
            let claim = NarClaim { file_hash: None, file_size: Some(size), source: None };
            HeldClaim { claim, by: key.hash(), since: 0 }
        };
        assert_eq!(memory.put_claim(key.clone(), claim(2)), None);
        assert_eq!(memory.heat_claim(&key, claim(1)), claim(2));
        assert_eq!(memory.claim(&key), Some(claim(2)));
        memory.forget_claim(&key, &claim(1));
        assert_eq!(memory.put_claim(key.clone(), claim(3)), Some(claim(2)));
    }

    #[test]
    fn an_object_is_forgotten_with_its_variants() {
        let memory = memory(1 << 20, 1 << 20);
        let (key, other) = (named("/a"), named("/b"));
        let vary = |value| {
            let value = HeaderValue::from_static(value);
            Variant::new([(http::header::ACCEPT, Some(value))])
        };
        let one = |key: Key| {
            let hot = Hot::new(&Meta { key: key.clone(), ..meta("/a") }, b"");
            memory.put(&key, &Arc::new(hot));
        };
        for key in [key.variant(&vary("x")), key.variant(&vary("y")), other.variant(&vary("x"))] {
            one(key);
        }
        assert!(memory.remove(&key.variant(&vary("x"))));
        assert!(memory.get(key.variant(&vary("y")).as_str()).is_some());
        assert!(memory.remove(&key) && !memory.remove(&key));
        assert!(memory.get(key.variant(&vary("y")).as_str()).is_none());
        assert!(memory.get(other.variant(&vary("x")).as_str()).is_some());
    }

    #[test]
    fn an_object_is_made_stale_with_its_variants_and_nothing_else() {
        let memory = memory(1 << 20, 1 << 20);
        let (key, other) = (named("/a"), named("/b"));
        let value = HeaderValue::from_static("x");
        let variant = Variant::new([(http::header::ACCEPT, Some(value))]);
        let keys = [key.clone(), key.variant(&variant), other.clone(), other.variant(&variant)];
        for key in &keys {
            let hot = Hot::new(&Meta { key: key.clone(), ..meta("/a") }, b"body");
            memory.put(key, &Arc::new(hot));
        }
        assert_eq!((memory.invalidate_key(&key), memory.invalidate_key(&key)), (2, 0));
        let is_stale = |key: &Key| memory.get(key.as_str()).unwrap().facts.is_invalidated;
        assert_eq!(keys.each_ref().map(is_stale), [true, true, false, false]);
        assert_eq!(memory.invalidate_key(&keys[3]), 1);
        assert_eq!(keys.each_ref().map(is_stale), [true, true, false, true]);
    }

    #[test]
    fn an_absence_does_not_take_the_place_of_what_was_inserted_later() {
        let memory = memory(1 << 20, 1 << 20);
        let key = named("/a");
        let insertion = crate::object::Insertion { disk: 0, sequence: 7 };
        memory.put(&key, &Arc::new(Hot::copy_of(&meta("/a"), b"", Some(insertion))));
        assert!(!memory.put_absent(&key, &hot("/a", 0), 7));
        assert!(memory.get(key.as_str()).is_some() && memory.absent(key.as_str()).is_none());
        assert!(memory.put_absent(&key, &hot("/a", 0), 8));
        assert!(memory.get(key.as_str()).is_none() && memory.absent(key.as_str()).is_some());
    }

    #[test]
    fn absences_never_evict_objects() {
        let memory = memory(1 << 20, 1 << 14);
        put(&memory, "/kept", 100);
        for number in 0..10_000 {
            put_absent(&memory, &format!("/{number}"));
        }
        assert!(memory.get(named("/kept").as_str()).is_some());
        assert!(memory.absent_usage().bytes <= 1 << 14);
    }

    #[test]
    fn the_budget_holds() {
        let memory = memory(1 << 18, 1 << 14);
        for number in 0..1_000 {
            put(&memory, &format!("/{number}"), 4_096);
        }
        let usage = memory.usage();
        assert!(usage.bytes <= 1 << 18, "{usage:?}");
        assert!(usage.objects > 10, "{usage:?}");
    }

    #[test]
    fn what_has_no_room_at_all_is_not_kept_and_counted() {
        let metrics = Metrics::new().unwrap();
        let settings = config::Memory { size: 1 << 16, absent_size: 1 << 14 };
        let memory = Memory::new(&settings, &metrics);
        put(&memory, "/a", 1);
        put(&memory, "/a", 1 << 16);
        assert!(memory.get(named("/a").as_str()).is_none());
        let count = |reason| metrics.evictions.with_label_values(&["memory", reason]).get();
        assert_eq!((count("size"), count("replaced")), (1, 1));
    }

    /// Two keys may have the same digest.
    #[test]
    fn an_object_of_another_key_is_not_found() {
        let memory = memory(1 << 20, 1 << 20);
        memory.put(&named("/a"), &hot("/b", 1));
        assert!(memory.get(named("/a").as_str()).is_none());
        assert!(!memory.remove(&named("/a")));
        let mine = memory.heat(&named("/a"), hot("/a", 2));
        assert_eq!(mine.length(), 2);
        put(&memory, "/a", 3);
        assert_eq!(memory.get(named("/a").as_str()).unwrap().length(), 3);
    }

    #[test]
    fn a_prefix_can_be_forgotten() {
        let memory = memory(1 << 20, 1 << 20);
        put(&memory, "/log/a", 1);
        put(&memory, "/b", 1);
        put_absent(&memory, "/log/c");
        assert_eq!(memory.remove_matching(|key| key.path().starts_with("/log/")), 1);
        assert!(memory.get(named("/b").as_str()).is_some());
        assert!(memory.absent(named("/log/c").as_str()).is_none());
    }

    fn put_tagged(memory: &Memory, path: &str, tags: &'static str) {
        let mut meta = meta(path);
        meta.headers.insert("surrogate-key", HeaderValue::from_static(tags));
        memory.put(&named(path), &Arc::new(Hot::new(&meta, b"body")));
    }

    #[test]
    fn what_has_a_tag_is_forgotten_or_made_stale_together() {
        let memory = memory(1 << 20, 1 << 20);
        for (path, tags) in [("/a", "x y"), ("/b", "y"), ("/c", "z")] {
            put_tagged(&memory, path, tags);
        }
        put(&memory, "/d", 1);
        let tags = Tags::new([Tag::parse("y").unwrap()]);
        assert_eq!(memory.invalidate(|hot| hot.is_tagged("other", &tags)), 0);
        assert_eq!(memory.invalidate(|hot| hot.is_tagged("s", &tags)), 2);
        assert_eq!(memory.invalidate(|hot| hot.is_tagged("s", &tags)), 0, "stale already");
        let hot = |path| memory.get(named(path).as_str());
        assert!(
            hot("/a").unwrap().facts.is_invalidated && !hot("/c").unwrap().facts.is_invalidated
        );
        assert_eq!(hot("/b").unwrap().body(), "body");
        assert_eq!(memory.remove_tagged("s", &tags), 2);
        assert!(hot("/a").is_none() && hot("/c").is_some() && hot("/d").is_some());
    }

    #[test]
    fn what_leaves_is_counted_by_reason() {
        let metrics = Metrics::new().unwrap();
        let settings = config::Memory { size: 1 << 18, absent_size: 1 << 14 };
        let memory = Memory::new(&settings, &metrics);
        let count = |tier, reason| metrics.evictions.with_label_values(&[tier, reason]).get();
        put(&memory, "/a", 10);
        put(&memory, "/a", 20);
        memory.remove(&named("/a"));
        for number in 0..1_000 {
            put(&memory, &format!("/{number}"), 4_096);
            put_absent(&memory, &format!("/absent/{number}"));
        }
        let (held, absent) = (memory.usage().objects, memory.absent_usage().objects);
        assert_eq!((count("memory", "replaced"), count("memory", "removed")), (1, 1));
        assert_eq!(count("memory", "size"), 1_000 - held);
        assert_eq!(count("absent", "size"), 1_000 - absent);
    }
}
