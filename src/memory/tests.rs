//! What the hot tier keeps, in what order, and within which budgets.

use super::*;
use crate::clock::Timestamp;
use crate::object::{Tag, Variant};
use crate::sync::Mutex;
use http::HeaderValue;
use std::sync::atomic::AtomicU64;

pub(super) fn meta(path: &str) -> Meta {
    Meta::of_a_narinfo(&named(path))
}

fn memory(size: u64, absent_size: u64) -> Memory {
    Memory::new(&config::MemorySettings { size, absent_size }, &Metrics::new().unwrap())
}

fn named(path: &str) -> Key {
    Key::new("s", path, None)
}

/// A number for a publication.
fn next_order() -> u64 {
    static ORDERS: AtomicU64 = AtomicU64::new(0);
    ORDERS.fetch_add(1, Ordering::Relaxed)
}

fn hot(path: &str, bytes: usize) -> Arc<Hot> {
    Arc::new(Hot::published(&meta(path), &vec![0; bytes], next_order()))
}

fn publish(memory: &Memory, key: &Key, hot: &Arc<Hot>) -> bool {
    let response_time = hot.facts.response_time;
    let coming = NewObject { hot: Some(hot), order: hot.order(), response_time, since: u64::MAX };
    memory.publish(key, &coming)
}

fn put(memory: &Memory, path: &str, bytes: usize) {
    assert!(publish(memory, &named(path), &hot(path, bytes)));
}

fn put_meta(memory: &Memory, meta: &Meta) {
    let hot = Hot::published(meta, b"body", next_order());
    assert!(publish(memory, &meta.key, &Arc::new(hot)));
}

fn put_absent(memory: &Memory, path: &str) -> bool {
    memory.put_absent(&named(path), &hot(path, 0))
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
    let heat = |path| {
        let key = named(path);
        memory.heat(&key, hot(path, 1), memory.seen(&key)).length()
    };
    assert_eq!(heat("/a"), 2);
    put_absent(&memory, "/a");
    heat("/a");
    let key = named("/a");
    assert!(memory.get(key.as_str()).is_none() && memory.absent(key.as_str()).is_some());
    assert_eq!(heat("/b"), 1);
    assert!(memory.get(named("/b").as_str()).is_some());
    let (key, seen) = (named("/c"), memory.seen(&named("/c")));
    supersede(&memory, &key);
    memory.heat(&key, hot("/c", 1), seen);
    assert!(memory.get(key.as_str()).is_none(), "something large has come");
}

/// Publishes what is not kept here.
fn supersede(memory: &Memory, key: &Key) {
    let (order, response_time) = (next_order(), Timestamp::from_secs(0));
    let coming = NewObject { hot: None, order, response_time, since: u64::MAX };
    assert!(memory.publish(key, &coming));
}

#[test]
fn of_two_publications_the_later_stays_whichever_is_shown_first() {
    let key = named("/a");
    let is_there = |memory: &Memory| memory.get(key.as_str()).is_some();
    let memory = memory(1 << 20, 1 << 20);
    let (older, newer) = (hot("/a", 1), hot("/a", 2));
    assert!(publish(&memory, &key, &newer) && publish(&memory, &key, &older));
    assert_eq!(memory.get(key.as_str()).unwrap().length(), 2);
    let older = hot("/a", 1);
    supersede(&memory, &key);
    assert!(!is_there(&memory), "something large takes its place");
    publish(&memory, &key, &older);
    assert!(!is_there(&memory));
    assert!(!memory.put_absent(&key, &older), "nor does an older absence");
    assert!(memory.absent(key.as_str()).is_none());
    let older = hot("/a", 1);
    assert!(put_absent(&memory, "/a"));
    publish(&memory, &key, &older);
    assert!(!is_there(&memory) && memory.absent(key.as_str()).is_some());
    put(&memory, "/a", 3);
    assert!(is_there(&memory) && memory.absent(key.as_str()).is_none());
}

#[test]
fn a_response_that_came_earlier_is_refused_if_a_later_one_was_published_meanwhile() {
    let (memory, key) = (memory(1 << 20, 1 << 20), named("/a"));
    let since = next_order();
    let at = |seconds| {
        let meta = Meta { response_time: Timestamp::from_secs(seconds), ..meta("/a") };
        Arc::new(Hot::published(&meta, b"", next_order()))
    };
    let publish = |hot: &Arc<Hot>, since| {
        let response_time = hot.facts.response_time;
        let coming = NewObject { hot: Some(hot), order: hot.order(), response_time, since };
        memory.publish(&key, &coming)
    };
    assert!(publish(&at(2), since));
    assert!(!publish(&at(1), since));
    let response_time = || memory.get(key.as_str()).unwrap().facts.response_time;
    assert_eq!(response_time(), Timestamp::from_secs(2));
    assert!(publish(&at(2), since), "none came before the other");
    assert!(publish(&at(1), next_order()), "it was asked for later");
    assert_eq!(response_time(), Timestamp::from_secs(1));
}

#[test]
fn a_new_head_is_for_the_publication_that_it_was_made_for() {
    let (memory, key) = (memory(1 << 20, 1 << 20), named("/a"));
    let there = |memory: &Memory| memory.get(key.as_str()).map(|hot| hot.facts.response_time);
    let renewed = |hot: &Hot| {
        let meta = Meta { response_time: Timestamp::from_secs(9), ..hot.meta() };
        Arc::new(hot.with_meta(&meta))
    };
    let (first, second) = (hot("/a", 1), hot("/a", 1));
    publish(&memory, &key, &first);
    memory.renew(&key, &renewed(&second), None);
    assert_eq!(there(&memory), Some(Timestamp::from_secs(0)));
    memory.renew(&key, &renewed(&first), None);
    assert_eq!(there(&memory), Some(Timestamp::from_secs(9)));
    memory.remove(&key);
    memory.renew(&key, &renewed(&first), None);
    assert_eq!(there(&memory), None);
    let seen = memory.seen(&key);
    memory.renew(&key, &renewed(&first), Some(seen));
    assert_eq!(there(&memory), Some(Timestamp::from_secs(9)), "the disk has it");
    supersede(&memory, &key);
    memory.renew(&key, &renewed(&first), Some(seen));
    assert_eq!(there(&memory), None);
}

/// What a disk has, small or large, under the number that it got there.
struct Disk(u64, Option<Arc<Hot>>);

impl Disk {
    fn insert(&mut self, length: Option<usize>) -> u64 {
        self.0 += 1;
        let hot = |bytes| Hot::published(&meta("/a"), &vec![0; bytes], self.0);
        self.1 = length.map(|bytes| Arc::new(hot(bytes)));
        self.0
    }
}

/// FAULTS.md S14a.
#[test]
fn in_any_order_of_steps_memory_has_what_the_disk_has_or_nothing() {
    crate::sync::orders::check(1_000, || {
        let tiers = Arc::new((memory(1 << 20, 1 << 20), Mutex::new(Disk(0, None))));
        tiers.1.lock().insert(Some(1));
        let publishing = |length: Option<usize>| {
            let tiers = Arc::clone(&tiers);
            shuttle::thread::spawn(move || {
                let (order, hot) = {
                    let mut disk = tiers.1.lock();
                    (disk.insert(length), disk.1.clone())
                };
                let (hot, response_time) = (hot.as_ref(), Timestamp::from_secs(0));
                let coming = NewObject { hot, order, response_time, since: u64::MAX };
                tiers.0.publish(&named("/a"), &coming);
            })
        };
        let other = Arc::clone(&tiers);
        let looking = shuttle::thread::spawn(move || {
            let ((memory, disk), key) = (&*other, named("/a"));
            let seen = memory.seen(&key);
            let found = disk.lock().1.clone();
            let Some(stale) = found.map(|hot| memory.heat(&key, hot, seen)) else { return };
            let seen = memory.seen(&key);
            let stored = disk.lock().1.clone();
            let is_stored = stored.is_some_and(|hot| hot.order() == stale.order());
            memory.renew(&key, &stale, is_stored.then_some(seen));
        });
        for begun in [publishing(Some(2)), publishing(None), looking] {
            begun.join().unwrap();
        }
        let stored = tiers.1.lock().1.as_ref().map(|hot| hot.order());
        let hot = tiers.0.get(named("/a").as_str()).map(|hot| hot.order());
        assert!(hot.is_none() || hot == stored, "{hot:?} in memory, {stored:?} on disk");
    });
}

#[test]
fn what_an_older_narinfo_said_takes_no_place_from_what_a_newer_one_says() {
    let (memory, key) = (memory(1 << 20, 1 << 20), named("/nar/a"));
    let claim = |order| {
        let claim =
            NarClaim { file_hash: None, file_size: Some(order), source: None, contents: None };
        HeldClaim { claim, by: Claimant::Stored(key.hash()), since: 0, order }
    };
    let heat = |order| memory.heat_claim(&key, claim(order), memory.seen(&key));
    assert_eq!(memory.put_claim(key.clone(), claim(2)), None);
    assert_eq!(heat(0), claim(2));
    assert_eq!(memory.put_claim(key.clone(), claim(1)), None);
    assert_eq!(memory.claim(&key), Some(claim(2)));
    memory.forget_claim(&key, &claim(1));
    assert_eq!(memory.put_claim(key.clone(), claim(3)), Some(claim(2)));
    memory.forget_claim(&key, &claim(3));
    let seen = memory.seen(&key);
    memory.put_claim(key.clone(), claim(2));
    assert_eq!(memory.claim(&key), None, "the disk tells");
    memory.heat_claim(&key, claim(0), seen);
    assert_eq!(memory.claim(&key), None, "it was read before");
    assert_eq!((heat(0), memory.claim(&key)), (claim(0), Some(claim(0))));
    memory.put_claim(key.clone(), claim(2));
    assert_eq!(memory.claim(&key), None, "the disk tells");
}

#[test]
fn an_object_is_forgotten_with_its_variants() {
    let memory = memory(1 << 20, 1 << 20);
    let (key, other) = (named("/a"), named("/b"));
    let vary = |value| {
        let value = HeaderValue::from_static(value);
        Variant::new([(http::header::ACCEPT, Some(value))])
    };
    let one = |key: Key| put_meta(&memory, &Meta { key, ..meta("/a") });
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
        put_meta(&memory, &Meta { key: key.clone(), ..meta("/a") });
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
    let absence = |order| Arc::new(Hot::published(&meta("/a"), b"", order));
    let insertion = crate::object::Insertion { disk: 0, sequence: 7 };
    publish(&memory, &key, &Arc::new(Hot::copy_of(&meta("/a"), b"", insertion)));
    assert!(!memory.put_absent(&key, &absence(7)));
    assert!(memory.get(key.as_str()).is_some() && memory.absent(key.as_str()).is_none());
    assert!(memory.put_absent(&key, &absence(8)));
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
    let settings = config::MemorySettings { size: 1 << 16, absent_size: 1 << 14 };
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
    publish(&memory, &named("/a"), &hot("/b", 1));
    assert!(memory.get(named("/a").as_str()).is_none());
    assert!(!memory.remove(&named("/a")));
    let mine = memory.heat(&named("/a"), hot("/a", 2), memory.seen(&named("/a")));
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
    put_meta(memory, &meta);
}

#[test]
fn what_has_a_tag_is_forgotten_or_made_stale_together() {
    let memory = memory(1 << 20, 1 << 20);
    for (path, tags) in [("/a", "x y"), ("/b", "y"), ("/c", "z")] {
        put_tagged(&memory, path, tags);
    }
    put(&memory, "/d", 1);
    let tags = PurgeTags::new([Tag::parse("y").unwrap()]);
    assert_eq!(memory.invalidate(|hot| hot.is_tagged("other", &tags)), 0);
    assert_eq!(memory.invalidate(|hot| hot.is_tagged("s", &tags)), 2);
    assert_eq!(memory.invalidate(|hot| hot.is_tagged("s", &tags)), 0, "stale already");
    let hot = |path| memory.get(named(path).as_str());
    assert!(hot("/a").unwrap().facts.is_invalidated && !hot("/c").unwrap().facts.is_invalidated);
    assert_eq!(hot("/b").unwrap().body(), "body");
    assert_eq!(memory.remove_tagged("s", &tags), 2);
    assert!(hot("/a").is_none() && hot("/c").is_some() && hot("/d").is_some());
}

#[test]
fn what_leaves_is_counted_by_reason() {
    let metrics = Metrics::new().unwrap();
    let settings = config::MemorySettings { size: 1 << 18, absent_size: 1 << 14 };
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
