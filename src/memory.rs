//! The hot tier: small objects, remembered absences and NAR claims, in moka. Lives as long as the
//! process; every budget is in bytes, overhead included; moka's own striped locks are never held
//! across an await. Called by `cache` alone.

use crate::config;
use crate::metrics::Metrics;
use crate::object::{Insertion, Key, Meta, NarClaim};
use bytes::Bytes;
use http::HeaderValue;
use moka::notification::RemovalCause;
use moka::sync::Cache as Moka;
use prometheus::IntCounter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What moka keeps beside each entry, in bytes of resident memory: measured at 320-410.
const ENTRY_OVERHEAD: usize = 400;

/// What one header field costs beside its text: its slot in the map and two `Bytes` handles.
const FIELD_OVERHEAD: usize = 104;

/// Claims take this part of the hot tier's budget.
const CLAIMS_DIVISOR: u64 = 16;

/// A small object, whole.
#[derive(Debug)]
pub struct Hot {
    /// Its head.
    pub meta: Arc<Meta>,
    /// Its body.
    pub body: Bytes,
    copy_of: Option<CopyOf>,
}

/// The insertion on disk that a hot object is a copy of, and when its use was last noted there.
#[derive(Debug)]
struct CopyOf {
    insertion: Insertion,
    noted: AtomicU32,
}

impl Hot {
    /// An object that is nowhere else.
    pub fn new(meta: Arc<Meta>, body: Bytes) -> Self {
        Self { meta, body, copy_of: None }
    }

    /// A copy of an insertion on disk, where there is one.
    pub fn copy_of(meta: Arc<Meta>, body: Bytes, insertion: Option<Insertion>) -> Self {
        let noted = AtomicU32::new(u32::MAX);
        let copy_of = insertion.map(|insertion| CopyOf { insertion, noted });
        Self { meta, body, copy_of }
    }

    /// The insertion on disk that it is a copy of.
    pub fn insertion(&self) -> Option<Insertion> {
        self.copy_of.as_ref().map(|copy_of| copy_of.insertion)
    }

    /// Calls `note` with the insertion on disk, if its use has not been noted in this epoch; once
    /// `note` says that it has noted it, not again in this epoch. Otherwise reads one atomic
    /// number.
    pub fn note_use(&self, epoch: u32, note: impl FnOnce(Insertion) -> bool) {
        let Some(copy_of) = &self.copy_of else { return };
        // Two at once may both note it: no harm.
        if copy_of.noted.load(Ordering::Relaxed) != epoch && note(copy_of.insertion) {
            copy_of.noted.store(epoch, Ordering::Relaxed);
        }
    }
}

/// Bytes and objects that a tier holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, overhead included.
    pub bytes: u64,
    /// Objects.
    pub objects: u64,
}

/// The hot tier.
#[derive(Debug, Clone)]
pub struct Memory {
    hot: Moka<Key, Arc<Hot>>,
    absent: Moka<Key, Arc<Meta>>,
    claims: Moka<Key, NarClaim>,
    /// Whether a variant was ever kept: only then does forgetting an object look for more of them.
    has_variants: Arc<AtomicBool>,
}

impl Memory {
    /// An empty tier with the budgets of `settings`; what leaves it is counted in `metrics`.
    pub fn new(settings: &config::Memory, metrics: &Metrics) -> Self {
        let claims_size = settings.size / CLAIMS_DIVISOR;
        let evictions = Evictions::new("memory", metrics);
        let absent_evictions = Evictions::new("absent", metrics);
        Self {
            hot: Moka::builder()
                .max_capacity(settings.size - claims_size)
                .weigher(|key: &Key, hot: &Arc<Hot>| {
                    weight(key, &hot.meta).saturating_add(capped(hot.body.len()))
                })
                .eviction_listener(move |_, _, cause| evictions.count(cause))
                .support_invalidation_closures()
                .build(),
            absent: Moka::builder()
                .max_capacity(settings.absent_size)
                .weigher(|key: &Key, meta: &Arc<Meta>| weight(key, meta))
                .eviction_listener(move |_, _, cause| absent_evictions.count(cause))
                .support_invalidation_closures()
                .build(),
            claims: Moka::builder()
                .max_capacity(claims_size)
                .weigher(|key: &Key, _: &NarClaim| {
                    capped(ENTRY_OVERHEAD + key.as_str().len() + size_of::<NarClaim>())
                })
                .build(),
            has_variants: Arc::default(),
        }
    }

    /// The object of the key with this text, if it is hot.
    pub fn get(&self, key: &str) -> Option<Arc<Hot>> {
        self.hot.get(key)
    }

    /// Keeps a small object; whatever was remembered of its absence is forgotten.
    pub fn put(&self, hot: Arc<Hot>) {
        self.absent.invalidate(&hot.meta.key);
        self.note(&hot);
        self.hot.insert(hot.meta.key.clone(), hot);
    }

    /// Keeps a small object that was read from disk, unless something newer came meanwhile, which
    /// is given instead.
    pub fn heat(&self, hot: Arc<Hot>) -> Arc<Hot> {
        let key = &hot.meta.key;
        if self.absent.contains_key(key) {
            return hot;
        }
        self.note(&hot);
        self.hot.entry_by_ref(key).or_insert(Arc::clone(&hot)).into_value()
    }

    /// The remembered absence of the key with this text.
    pub fn absent(&self, key: &str) -> Option<Arc<Meta>> {
        self.absent.get(key)
    }

    /// Remembers that there is no such object. Has its own budget: never evicts an object.
    pub fn put_absent(&self, meta: Arc<Meta>) {
        self.hot.invalidate(&meta.key);
        self.absent.insert(meta.key.clone(), meta);
    }

    /// What a narinfo said of the NAR `key`.
    pub fn claim(&self, key: &Key) -> Option<NarClaim> {
        self.claims.get(key)
    }

    /// Keeps what a narinfo says of the NAR `key`.
    pub fn put_claim(&self, key: Key, claim: NarClaim) {
        self.claims.insert(key, claim);
    }

    /// Keeps a claim that was read from disk, unless a newer one came meanwhile, which is given
    /// instead.
    pub fn heat_claim(&self, key: &Key, claim: NarClaim) -> NarClaim {
        self.claims.entry_by_ref(key).or_insert(claim).into_value()
    }

    /// Forgets every claim; those on disk are read again.
    pub fn clear_claims(&self) {
        self.claims.invalidate_all();
    }

    /// Forgets `key`, its absence and all its variants included; true when there was anything.
    pub fn remove(&self, key: &Key) -> bool {
        let was_hot = self.hot.remove(key).is_some();
        let was_known = self.absent.remove(key).is_some() || was_hot;
        let may_vary = self.has_variants.load(Ordering::Relaxed) && !key.is_variant();
        let is_variant = |other: &Key| other.is_variant() && other.primary() == *key;
        (may_vary && self.remove_matching(is_variant) > 0) || was_known
    }

    /// Forgets what is kept under exactly this key, and no variant of it.
    pub fn remove_one(&self, key: &Key) {
        self.hot.invalidate(key);
        self.absent.invalidate(key);
    }

    fn note(&self, hot: &Hot) {
        if hot.meta.key.is_variant() {
            self.has_variants.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets every key that `matches`; how many of the hot ones there were.
    pub fn remove_matching(&self, matches: impl Fn(&Key) -> bool) -> u64 {
        let mut removed = 0;
        for (key, _) in &self.hot {
            if matches(&key) {
                self.hot.invalidate(&*key);
                removed += 1;
            }
        }
        for (key, _) in &self.absent {
            if matches(&key) {
                self.absent.invalidate(&*key);
            }
        }
        removed
    }

    /// What the hot objects take.
    pub fn usage(&self) -> Usage {
        self.hot.run_pending_tasks();
        Usage { bytes: self.hot.weighted_size(), objects: self.hot.entry_count() }
    }

    /// What the remembered absences take.
    pub fn absent_usage(&self) -> Usage {
        self.absent.run_pending_tasks();
        Usage { bytes: self.absent.weighted_size(), objects: self.absent.entry_count() }
    }
}

/// Counts what leaves a tier, by reason: one addition for each.
#[derive(Debug)]
struct Evictions {
    size: IntCounter,
    replaced: IntCounter,
    removed: IntCounter,
}

impl Evictions {
    fn new(tier: &str, metrics: &Metrics) -> Self {
        let counter = |reason| metrics.evictions.with_label_values(&[tier, reason]);
        Self { size: counter("size"), replaced: counter("replaced"), removed: counter("removed") }
    }

    fn count(&self, cause: RemovalCause) {
        match cause {
            // Nothing has a lifetime here: what is stale stays until room is needed.
            RemovalCause::Size | RemovalCause::Expired => self.size.inc(),
            RemovalCause::Replaced => self.replaced.inc(),
            RemovalCause::Explicit => self.removed.inc(),
        }
    }
}

fn weight(key: &Key, meta: &Meta) -> u32 {
    let fields: usize = meta
        .headers
        .iter()
        .map(|(name, value)| FIELD_OVERHEAD + name.as_str().len() + value.len())
        .sum();
    let varies = meta.variant.fields().iter();
    let varies: usize = varies
        .map(|(name, value)| {
            FIELD_OVERHEAD + name.as_str().len() + value.as_ref().map_or(0, HeaderValue::len)
        })
        .sum();
    capped(ENTRY_OVERHEAD + size_of::<Meta>() + key.as_str().len() + fields + varies)
}

fn capped(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::nix::Class;
    use crate::object::{Lifetime, Proof, Variant};
    use http::{HeaderMap, StatusCode};

    fn meta(path: &str) -> Arc<Meta> {
        Arc::new(Meta {
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
        })
    }

    fn memory(size: u64, absent_size: u64) -> Memory {
        Memory::new(&config::Memory { size, absent_size }, &Metrics::new().unwrap())
    }

    fn hot(path: &str, bytes: usize) -> Arc<Hot> {
        Arc::new(Hot::new(meta(path), Bytes::from(vec![0; bytes])))
    }

    #[test]
    fn an_object_and_its_absence_exclude_each_other() {
        let memory = memory(1 << 20, 1 << 20);
        let key = Key::new("s", "/a", None);
        memory.put_absent(meta("/a"));
        assert!(memory.absent(key.as_str()).is_some());
        memory.put(hot("/a", 10));
        assert!(memory.absent(key.as_str()).is_none());
        assert!(memory.get(key.as_str()).is_some());
        memory.put_absent(meta("/a"));
        assert!(memory.get(key.as_str()).is_none());
        assert!(memory.remove(&key));
        assert!(!memory.remove(&key));
    }

    #[test]
    fn what_is_read_from_disk_replaces_nothing_newer() {
        let memory = memory(1 << 20, 1 << 20);
        memory.put(hot("/a", 2));
        assert_eq!(memory.heat(hot("/a", 1)).body.len(), 2);
        memory.put_absent(meta("/a"));
        memory.heat(hot("/a", 1));
        let key = Key::new("s", "/a", None);
        assert!(memory.get(key.as_str()).is_none() && memory.absent(key.as_str()).is_some());
        assert_eq!(memory.heat(hot("/b", 1)).body.len(), 1);
        assert!(memory.get(Key::new("s", "/b", None).as_str()).is_some());
        let claim = |size| NarClaim { file_hash: None, file_size: Some(size) };
        memory.put_claim(key.clone(), claim(2));
        assert_eq!(memory.heat_claim(&key, claim(1)), claim(2));
        assert_eq!(memory.claim(&key), Some(claim(2)));
    }

    #[test]
    fn an_object_is_forgotten_with_its_variants() {
        let memory = memory(1 << 20, 1 << 20);
        let (key, other) = (Key::new("s", "/a", None), Key::new("s", "/b", None));
        let vary = |value| {
            let value = HeaderValue::from_static(value);
            Variant::new([(http::header::ACCEPT, Some(value))])
        };
        let one = |key: Key| {
            let meta = Arc::new(Meta { key, ..Meta::clone(&meta("/a")) });
            Arc::new(Hot { meta, body: Bytes::new(), copy_of: None })
        };
        for key in [key.variant(&vary("x")), key.variant(&vary("y")), other.variant(&vary("x"))] {
            memory.put(one(key));
        }
        assert!(memory.remove(&key.variant(&vary("x"))));
        assert!(memory.get(key.variant(&vary("y")).as_str()).is_some());
        assert!(memory.remove(&key) && !memory.remove(&key));
        assert!(memory.get(key.variant(&vary("y")).as_str()).is_none());
        assert!(memory.get(other.variant(&vary("x")).as_str()).is_some());
    }

    #[test]
    fn absences_never_evict_objects() {
        let memory = memory(1 << 20, 1 << 14);
        memory.put(hot("/kept", 100));
        for number in 0..10_000 {
            memory.put_absent(meta(&format!("/{number}")));
        }
        assert!(memory.get(Key::new("s", "/kept", None).as_str()).is_some());
        assert!(memory.absent_usage().bytes <= 1 << 14);
    }

    #[test]
    fn the_budget_holds() {
        let memory = memory(1 << 18, 1 << 14);
        for number in 0..1_000 {
            memory.put(hot(&format!("/{number}"), 4_096));
        }
        let usage = memory.usage();
        assert!(usage.bytes <= 1 << 18, "{usage:?}");
        assert!(usage.objects > 10, "{usage:?}");
    }

    #[test]
    fn a_prefix_can_be_forgotten() {
        let memory = memory(1 << 20, 1 << 20);
        memory.put(hot("/log/a", 1));
        memory.put(hot("/b", 1));
        memory.put_absent(meta("/log/c"));
        assert_eq!(memory.remove_matching(|key| key.path().starts_with("/log/")), 1);
        assert!(memory.get(Key::new("s", "/b", None).as_str()).is_some());
        assert!(memory.absent(Key::new("s", "/log/c", None).as_str()).is_none());
    }

    #[test]
    fn what_leaves_is_counted_by_reason() {
        let metrics = Metrics::new().unwrap();
        let settings = config::Memory { size: 1 << 18, absent_size: 1 << 14 };
        let memory = Memory::new(&settings, &metrics);
        let count = |tier, reason| metrics.evictions.with_label_values(&[tier, reason]).get();
        memory.put(hot("/a", 10));
        memory.put(hot("/a", 20));
        memory.remove(&Key::new("s", "/a", None));
        for number in 0..1_000 {
            memory.put(hot(&format!("/{number}"), 4_096));
            memory.put_absent(meta(&format!("/absent/{number}")));
        }
        let (held, absent) = (memory.usage().objects, memory.absent_usage().objects);
        assert_eq!((count("memory", "replaced"), count("memory", "removed")), (1, 1));
        assert_eq!(count("memory", "size"), 1_000 - held);
        assert_eq!(count("absent", "size"), 1_000 - absent);
    }

    #[test]
    fn a_use_is_noted_once_in_an_epoch() {
        let alone = Hot::new(meta("/a"), Bytes::new());
        alone.note_use(0, |_| panic!("it is nowhere else"));
        let copy = Hot::copy_of(meta("/a"), Bytes::new(), Some(Insertion { disk: 1, sequence: 7 }));
        let mut noted = Vec::new();
        for (epoch, is_noted) in [(0, false), (0, true), (0, true), (1, true), (1, true)] {
            copy.note_use(epoch, |insertion| {
                noted.push((epoch, insertion.sequence, is_noted));
                is_noted
            });
        }
        assert_eq!(noted, [(0, 7, false), (0, 7, true), (1, 7, true)]);
    }
}
