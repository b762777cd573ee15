//! The fence that stops a purged object from coming back. A fill takes a ticket when it begins;
//! what it brings becomes visible only if no purge that covers it was raised since. Two per process
//! (see the module above); a short lock, never held across I/O or an await.
//!
//! # What is remembered
//!
//! Purges are numbered. Each site remembers by itself: of single objects and of tags the last purge
//! of each name ([`NAMES_MAX`] of them), and the last [`PREFIXES_MAX`] prefixes. What a site has
//! forgotten counts as a purge of all of that site: its fills that are older are refused, those of
//! other sites are not. A purge of everything is one number.
//!
//! Uploads that notices tell of are numbered by themselves, and hold back absences alone: there may
//! be hundreds a second, and an object that takes minutes to fetch has to pass them all. If a site
//! has forgotten uploads, an older absence is not published, and a fill is joined as before.
//!
//! Never: a purge that covers the object and is younger than the ticket, and leave all the same.

use crate::object::tags::{self, TagHash};
use crate::object::{Key, KeyHash, Meta};
use crate::store::Scope;
use crate::sync::RwLock;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

/// The last purges of so many objects and of so many tags of one site are remembered, and the last
/// uploads of so many objects. At the highest rate of notices seen from S3, that is minutes of
/// uploads.
const NAMES_MAX: usize = 65_536;

/// Purges of prefixes that are remembered of one site.
const PREFIXES_MAX: usize = 1_024;

/// A moment, counted in purges, in uploads and in publications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FenceEpoch {
    purges: u64,
    uploads: u64,
    /// The number of the next publication at that time; what is below it was there before.
    pub(super) publications: u64,
}

/// The purges and the uploads that were raised.
#[derive(Debug, Default)]
pub struct Fence {
    raised: RwLock<RaisedPurges>,
    /// Purges raised so far; changed under the lock alone.
    purges: AtomicU64,
    /// Uploads raised so far; changed under the lock alone.
    uploads: AtomicU64,
}

#[derive(Debug, Default)]
struct RaisedPurges {
    purges: u64,
    uploads: u64,
    /// The last purge of everything.
    all: u64,
    sites: HashMap<Box<str>, SiteFence>,
}

/// What was raised of one site.
#[derive(Debug, Default)]
struct SiteFence {
    keys: Latest<KeyHash>,
    tags: Latest<TagHash>,
    /// The last purge by any tag.
    tagged: u64,
    prefixes: VecDeque<(u64, String)>,
    /// The last purge of a prefix that was forgotten.
    forgotten: u64,
    uploads: Latest<KeyHash>,
}

/// The number under which each of many names was raised last.
#[derive(Debug)]
struct Latest<N> {
    last: HashMap<N, u64>,
    /// What was raised, oldest first; also what was raised again since.
    order: VecDeque<(u64, N)>,
    /// The highest number that was forgotten.
    forgotten: u64,
}

impl<N> Default for Latest<N> {
    fn default() -> Self {
        Self { last: HashMap::new(), order: VecDeque::new(), forgotten: 0 }
    }
}

impl<N: Hash + Eq + Copy> Latest<N> {
    fn note(&mut self, name: N, number: u64) {
        self.last.insert(name, number);
        self.order.push_back((number, name));
        while self.last.len() > NAMES_MAX
            && let Some((number, name)) = self.order.pop_front()
        {
            if self.last.get(&name) == Some(&number) {
                self.last.remove(&name);
                self.forgotten = number;
            }
        }
        if self.order.len() > 2 * NAMES_MAX {
            let last = &self.last;
            self.order.retain(|(number, name)| last.get(name) == Some(number));
        }
    }

    /// Whether a name is known to have been raised since.
    fn is_known_since(&self, name: N, ticket: u64) -> bool {
        self.last.get(&name).is_some_and(|number| *number > ticket)
    }

    /// Whether a name was raised since, or may have been.
    fn may_be_since(&self, name: N, ticket: u64) -> bool {
        self.forgotten > ticket || self.is_known_since(name, ticket)
    }
}

impl Fence {
    /// A ticket of this moment, when `publications` is the number of the next publication. Never
    /// waits.
    pub fn ticket(&self, publications: u64) -> FenceEpoch {
        FenceEpoch {
            purges: self.purges(),
            uploads: self.uploads.load(Ordering::Acquire),
            publications,
        }
    }

    /// How many purges have been raised. Never waits.
    pub fn purges(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Whether no purge was raised, since there were `purges`, that may cover the object of `site`
    /// with this hash of its key.
    pub fn allows_hash(&self, purges: u64, site: &str, hash: KeyHash) -> bool {
        purges == self.purges() || self.raised.read().allows_hash(purges, site, hash)
    }

    /// As [`Fence::leave`] for something that comes from the object with this hash of its key.
    pub fn leave_hash<T>(
        &self,
        purges: u64,
        site: &str,
        hash: KeyHash,
        publish: impl FnOnce() -> T,
    ) -> Option<T> {
        let raised = self.raised.read();
        raised.allows_hash(purges, site, hash).then(publish)
    }

    /// Whether an object with these heads may be published: no purge of any of them was raised
    /// since `ticket`. What is published later may be older than a purge: see [`Fence::leave`].
    pub fn allows(&self, ticket: FenceEpoch, heads: &[&Meta]) -> bool {
        let raised = self.raised.read();
        heads.iter().all(|meta| raised.allows_head(ticket, meta))
    }

    /// Calls `publish` while no purge can be raised, if an object with these heads may be
    /// published: its new head and, if it was confirmed, its former head.
    /// `publish` does neither I/O nor anything with this fence.
    pub fn leave<T>(
        &self,
        ticket: FenceEpoch,
        heads: &[&Meta],
        publish: impl FnOnce() -> T,
    ) -> Option<T> {
        let raised = self.raised.read();
        heads.iter().all(|meta| raised.allows_head(ticket, meta)).then(publish)
    }

    /// As [`Fence::leave`] for an absence, which an upload of the object since `ticket` holds back
    /// too.
    pub fn leave_absent<T>(
        &self,
        ticket: FenceEpoch,
        meta: &Meta,
        publish: impl FnOnce() -> T,
    ) -> Option<T> {
        let raised = self.raised.read();
        let is_uploaded = || {
            let site = raised.sites.get(meta.key.site());
            site.is_some_and(|site| {
                site.uploads.may_be_since(meta.key.primary().hash(), ticket.uploads)
            })
        };
        let allows = raised.allows_head(ticket, meta)
            && (ticket.uploads == raised.uploads || !is_uploaded());
        allows.then(publish)
    }

    /// Whether a purge that may be of `key` was raised, or `key` was uploaded, since `ticket`.
    /// Waits only if any was, and then for no I/O.
    pub fn is_raised_since(&self, ticket: FenceEpoch, key: &Key) -> bool {
        let uploads = self.uploads.load(Ordering::Acquire);
        if (self.purges(), uploads) == (ticket.purges, ticket.uploads) {
            return false;
        }
        let raised = self.raised.read();
        let is_uploaded = || {
            let site = raised.sites.get(key.site());
            site.is_some_and(|s| s.uploads.is_known_since(key.primary().hash(), ticket.uploads))
        };
        !raised.allows_key(ticket, key) || (ticket.uploads != raised.uploads && is_uploaded())
    }

    /// Raises a purge: holds back every older fill of what it covers. Waits for those that publish
    /// now, which do no I/O.
    pub fn raise(&self, scope: &Scope) {
        let mut raised = self.raised.write();
        self.purges.store(raised.note(scope), Ordering::Release);
    }

    /// Raises the purge of an object by a write to it. A ticket of that moment, when `publications`
    /// is the next publication, for what the write has brought; none if another purge that may be
    /// of the object was raised since `began`, before the write.
    pub fn raise_written(
        &self,
        key: &Key,
        began: FenceEpoch,
        publications: u64,
    ) -> Option<FenceEpoch> {
        let mut raised = self.raised.write();
        let is_alone = raised.allows_key(began, key);
        let purges = raised.note(&Scope::Key(key.clone()));
        self.purges.store(purges, Ordering::Release);
        is_alone.then(|| FenceEpoch { purges, uploads: raised.uploads, publications })
    }

    /// Holds back the absences that older fills bring of these: they were uploaded.
    pub fn raise_uploads(&self, keys: &[Key]) {
        let mut raised = self.raised.write();
        for key in keys {
            raised.uploads += 1;
            let number = raised.uploads;
            raised.site(key.site()).uploads.note(key.hash(), number);
        }
        self.uploads.store(raised.uploads, Ordering::Release);
    }
}

impl RaisedPurges {
    fn site(&mut self, name: &str) -> &mut SiteFence {
        self.sites.entry(name.into()).or_default()
    }

    /// Notes a purge; its number.
    fn note(&mut self, scope: &Scope) -> u64 {
        self.purges += 1;
        let number = self.purges;
        match scope {
            Scope::Key(key) => self.site(key.site()).keys.note(key.hash(), number),
            Scope::Prefix { site, prefix } => self.site(site).note_prefix(prefix, number),
            Scope::Tags { site, tags } => {
                let own = self.site(site);
                own.tagged = number;
                tags.hashes(site).into_iter().for_each(|tag| own.tags.note(tag, number));
            }
            Scope::All => {
                self.all = number;
                // An older one of a site says nothing more; its uploads do.
                for site in self.sites.values_mut() {
                    *site = SiteFence {
                        uploads: std::mem::take(&mut site.uploads),
                        ..SiteFence::default()
                    };
                }
            }
        }
        number
    }

    fn allows_head(&self, ticket: FenceEpoch, meta: &Meta) -> bool {
        let is_tagged = |site: &SiteFence| {
            let own = tags::hashes(meta.key.site(), tags::lines(&meta.headers));
            own.into_iter().any(|tag| site.tags.may_be_since(tag, ticket.purges))
        };
        self.allows(ticket, &meta.key, is_tagged)
    }

    /// Any tag might be one of the object's.
    fn allows_key(&self, ticket: FenceEpoch, key: &Key) -> bool {
        self.allows(ticket, key, |_| true)
    }

    /// Any tag and any prefix might be of it.
    fn allows_hash(&self, purges: u64, site: &str, hash: KeyHash) -> bool {
        if purges == self.purges {
            return true;
        }
        let is_covered = |site: &SiteFence| {
            let prefix = site.prefixes.back().map_or(0, |(number, _)| *number);
            site.keys.may_be_since(hash, purges)
                || site.forgotten.max(prefix).max(site.tagged) > purges
        };
        self.all <= purges && !self.sites.get(site).is_some_and(is_covered)
    }

    fn allows(
        &self,
        ticket: FenceEpoch,
        key: &Key,
        is_tagged: impl Fn(&SiteFence) -> bool,
    ) -> bool {
        if ticket.purges == self.purges {
            return true;
        }
        if self.all > ticket.purges {
            return false;
        }
        let Some(site) = self.sites.get(key.site()) else { return true };
        let is_purged = || {
            site.keys.may_be_since(key.hash(), ticket.purges)
                || (key.is_variant() && site.keys.may_be_since(key.primary().hash(), ticket.purges))
        };
        !(site.forgotten > ticket.purges
            || is_purged()
            || site.has_prefix_of(key, ticket)
            || (site.tagged > ticket.purges && is_tagged(site)))
    }
}

impl SiteFence {
    fn note_prefix(&mut self, prefix: &str, number: u64) {
        if self.prefixes.len() == PREFIXES_MAX
            && let Some((oldest, _)) = self.prefixes.pop_front()
        {
            self.forgotten = oldest;
        }
        self.prefixes.push_back((number, prefix.to_owned()));
    }

    fn has_prefix_of(&self, key: &Key, ticket: FenceEpoch) -> bool {
        let since = self.prefixes.iter().rev().take_while(|(number, _)| *number > ticket.purges);
        since.into_iter().any(|(_, prefix)| key.path().starts_with(prefix.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests;
    use crate::object::{PurgeTags, Tag, Variant};
    use crate::sync::Mutex;
    use http::{HeaderName, HeaderValue, StatusCode};
    use std::sync::Arc;

    fn key(path: &str) -> Key {
        Key::new("s", path, None)
    }

    fn absence(path: &str) -> Meta {
        Meta { status: StatusCode::NOT_FOUND, ..tests::meta(&key(path)) }
    }

    /// Whether something of `key` may be published while its head is not at hand.
    fn allows(fence: &Fence, ticket: FenceEpoch, key: &Key) -> bool {
        let may = !fence.is_raised_since(ticket, key);
        let by_hash = fence.allows_hash(ticket.purges, key.site(), key.hash());
        assert!(may || !by_hash || key.is_variant(), "the hash alone tells less");
        may
    }

    fn allows_absence(fence: &Fence, ticket: FenceEpoch, path: &str) -> bool {
        fence.leave_absent(ticket, &absence(path), || ()).is_some()
    }

    #[test]
    fn a_fill_that_began_before_a_purge_may_not_publish_after_it() {
        let fence = Fence::default();
        let before = fence.ticket(0);
        fence.raise(&Scope::Key(key("/a")));
        assert!(!allows(&fence, before, &key("/a")));
        assert!(allows(&fence, before, &key("/b")));
        assert!(allows(&fence, fence.ticket(0), &key("/a")));
    }

    #[test]
    fn an_absence_that_was_found_before_an_upload_is_not_published_after_it() {
        let fence = Fence::default();
        let before = fence.ticket(0);
        fence.raise_uploads(&[key("/a"), key("/b")]);
        assert!(!allows_absence(&fence, before, "/a"));
        assert!(allows_absence(&fence, before, "/c"));
        assert!(allows_absence(&fence, fence.ticket(0), "/a"));
        assert!(fence.allows(before, &[&absence("/a")]), "only absences are held back");
        assert!(fence.is_raised_since(before, &key("/b")));
        assert!(!fence.is_raised_since(before, &key("/c")));
        fence.raise(&Scope::Key(key("/c")));
        assert!(!allows_absence(&fence, before, "/c"));
    }

    #[test]
    fn among_more_uploads_than_are_remembered_no_absence_of_that_site_is_published() {
        let fence = Fence::default();
        let before = fence.ticket(0);
        fence.raise_uploads(&[key("/0")]);
        let early = fence.ticket(0);
        for number in 1..=NAMES_MAX {
            fence.raise_uploads(&[key(&format!("/{number}"))]);
        }
        assert!(!allows_absence(&fence, before, "/other"));
        assert!(allows_absence(&fence, early, "/other"));
        let elsewhere = tests::meta(&Key::new("t", "/other", None));
        assert!(fence.leave_absent(before, &elsewhere, || ()).is_some());
        assert!(!fence.is_raised_since(before, &key("/0")), "forgotten: joined as before");
        assert!(fence.is_raised_since(before, &key("/1")));
    }

    #[test]
    fn prefixes_and_all_cover_what_they_say() {
        let name = HeaderName::from_static("accept");
        let variant = key("/log/x").variant(&Variant::new([(name, None)]));
        let prefix = Scope::Prefix { site: "s".into(), prefix: "/log/".into() };
        for (scope, covered, others) in [
            (prefix, vec![key("/log/x"), variant.clone()], vec![key("/lo")]),
            (Scope::Key(key("/log/x")), vec![variant.clone()], vec![key("/log/y")]),
            (Scope::Key(variant.clone()), vec![variant], vec![key("/log/x")]),
            (Scope::All, vec![key("/anything"), Key::new("t", "/log/x", None)], vec![]),
        ] {
            let fence = Fence::default();
            let before = fence.ticket(0);
            fence.raise(&scope);
            for key in covered {
                assert!(scope.may_cover(&key) && !allows(&fence, before, &key), "{key:?}");
            }
            for key in others.into_iter().chain([Key::new("t", "/log/x", None)]) {
                assert_eq!(scope.may_cover(&key), scope == Scope::All, "{key:?}");
                assert_eq!(allows(&fence, before, &key), scope != Scope::All, "{key:?}");
            }
        }
    }

    #[test]
    fn of_what_only_the_hash_is_known_any_prefix_and_any_tag_of_its_site_is() {
        let tags = PurgeTags::new([Tag::parse("y").unwrap()]);
        for (scope, is_covered) in [
            (Scope::Key(key("/a")), true),
            (Scope::Key(key("/b")), false),
            (Scope::Prefix { site: "s".to_owned(), prefix: "/b/".to_owned() }, true),
            (Scope::Tags { site: "s".to_owned(), tags }, true),
            (Scope::Prefix { site: "t".to_owned(), prefix: "/".to_owned() }, false),
            (Scope::All, true),
        ] {
            let fence = Fence::default();
            let before = fence.purges();
            fence.raise(&scope);
            let by = ("s", key("/a").hash());
            assert_eq!(fence.allows_hash(before, by.0, by.1), !is_covered, "{scope:?}");
            assert_eq!(fence.leave_hash(before, by.0, by.1, || ()).is_none(), is_covered);
            assert!(fence.allows_hash(fence.purges(), by.0, by.1));
        }
    }

    #[test]
    fn a_tag_covers_the_heads_that_have_it_and_what_shows_no_head() {
        let fence = Fence::default();
        let tagged = |tags: &'static str| {
            let mut meta = tests::meta(&key("/a"));
            meta.headers.insert("surrogate-key", HeaderValue::from_static(tags));
            meta
        };
        let before = fence.ticket(0);
        let tags = PurgeTags::new([Tag::parse("y").unwrap()]);
        fence.raise(&Scope::Tags { site: "s".to_owned(), tags });
        assert!(!fence.allows(before, &[&tagged("x y")]));
        assert!(fence.allows(before, &[&tagged("x z")]));
        assert!(!fence.allows(before, &[&tagged("z"), &tagged("y")]), "before it was confirmed");
        assert!(!allows(&fence, before, &key("/a")));
        assert!(allows(&fence, before, &Key::new("t", "/a", None)));
        let many = (0..200).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        let mut unfindable = tests::meta(&key("/a"));
        unfindable.headers.insert("surrogate-key", HeaderValue::from_str(&many).unwrap());
        assert!(!fence.allows(before, &[&unfindable]), "it goes with every tag of its site");
    }

    #[test]
    fn writes_to_one_site_cost_the_fills_of_another_nothing() {
        let fence = Fence::default();
        let before = fence.ticket(0);
        let elsewhere = Key::new("t", "/long", None);
        for number in 0..4_097 {
            fence.raise(&Scope::Key(key(&format!("/{number}"))));
        }
        assert!(allows(&fence, before, &elsewhere));
        assert!(allows(&fence, before, &key("/other")), "nor those of other objects");
        for number in 4_097..=NAMES_MAX {
            fence.raise(&Scope::Key(key(&format!("/{number}"))));
        }
        assert!(!allows(&fence, before, &key("/other")), "the site has forgotten one");
        assert!(allows(&fence, before, &elsewhere));
        for number in 0..=PREFIXES_MAX {
            let prefix = format!("/{number}/");
            fence.raise(&Scope::Prefix { site: "u".to_owned(), prefix });
        }
        assert!(!allows(&fence, before, &Key::new("u", "/other", None)));
        assert!(allows(&fence, before, &elsewhere));
    }

    #[test]
    fn one_object_that_is_written_again_and_again_takes_the_place_of_no_other() {
        let fence = Fence::default();
        let before = fence.ticket(0);
        fence.raise(&Scope::Key(key("/purged")));
        for _ in 0..3 * NAMES_MAX {
            fence.raise(&Scope::Key(key("/busy")));
        }
        assert!(!allows(&fence, before, &key("/purged")));
        assert!(!allows(&fence, before, &key("/busy")));
        assert!(allows(&fence, before, &key("/other")));
        assert!(fence.raised.read().sites["s"].keys.order.len() <= 2 * NAMES_MAX);
    }

    #[test]
    fn a_purge_of_everything_makes_room_and_holds_back_all_that_is_older() {
        let fence = Fence::default();
        let before = fence.ticket(0);
        fence.raise(&Scope::Key(key("/a")));
        fence.raise_uploads(&[key("/b")]);
        fence.raise(&Scope::All);
        let after = fence.ticket(0);
        fence.raise(&Scope::Key(key("/c")));
        assert!(!allows(&fence, before, &Key::new("t", "/x", None)));
        assert!(allows(&fence, after, &key("/a")) && !allows(&fence, after, &key("/c")));
        let absence = |path| fence.leave_absent(fence.ticket(0), &absence(path), || ()).is_some();
        assert!(absence("/b") && !allows_absence(&fence, before, "/b"));
    }

    /// One object as memory and a disk have it, and the fences between them.
    #[derive(Default)]
    struct Tiers {
        publishing: Fence,
        heating: Fence,
        memory: Mutex<Option<u8>>,
        disk: Mutex<Option<u8>>,
    }

    impl Tiers {
        fn publish(&self, ticket: FenceEpoch, version: u8) {
            {
                let mut disk = self.disk.lock();
                if self.publishing.allows(ticket, &[&tests::meta(&key("/a"))]) {
                    *disk = Some(version);
                }
            }
            let show = || *self.memory.lock() = Some(version);
            self.publishing.leave(ticket, &[&tests::meta(&key("/a"))], show);
        }

        fn look_up(&self) {
            let ticket = self.heating.ticket(0);
            let Some(version) = *self.disk.lock() else { return };
            let heat = || {
                self.memory.lock().get_or_insert(version);
            };
            self.heating.leave(ticket, &[&tests::meta(&key("/a"))], heat);
        }

        fn purge(&self) {
            self.publishing.raise(&Scope::Key(key("/a")));
            *self.memory.lock() = None;
            *self.disk.lock() = None;
            self.heating.raise(&Scope::Key(key("/a")));
            *self.memory.lock() = None;
        }
    }

    #[test]
    fn in_any_order_what_was_fetched_before_a_purge_is_nowhere_after_it() {
        crate::sync::orders::check(5_000, || {
            let tiers = Arc::new(Tiers::default());
            let ticket = tiers.publishing.ticket(0);
            let other = |work: fn(&Tiers, FenceEpoch)| {
                let tiers = Arc::clone(&tiers);
                shuttle::thread::spawn(move || work(&tiers, ticket))
            };
            let publishing = other(|tiers, ticket| tiers.publish(ticket, 1));
            let looking = other(|tiers, _| (0..2).for_each(|_| tiers.look_up()));
            tiers.purge();
            let later = tiers.publishing.ticket(0);
            let after = [*tiers.memory.lock(), *tiers.disk.lock()];
            publishing.join().unwrap();
            looking.join().unwrap();
            assert_eq!(after, [None; 2]);
            assert_eq!([*tiers.memory.lock(), *tiers.disk.lock()], [None; 2]);
            tiers.publish(later, 2);
            assert_eq!([*tiers.memory.lock(), *tiers.disk.lock()], [Some(2); 2]);
        });
    }
}
