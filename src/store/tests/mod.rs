//! The store as its callers use it, and what it makes of every torn state. Each test has a folder
//! of its own.

mod checks;
mod claims;
mod damage;
mod disks;
mod faults;
mod halves;
mod key_filter;
mod kills;
mod memory_only;
mod order;
mod out_of_order;
mod parts;
mod reads;
mod reserve;
mod syncs;
mod tags;
mod tier;
mod variants;

pub(super) use faults::Faults;

use faults::OBSERVER;

use crate::clock::Timestamp;
use crate::config::Disk;
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::object::{Key, Lifetime, Meta, NarClaim, Proof, Sha256, Variant};
use crate::store::body::read::{Stored, StoredBody};
use crate::store::commit::ConfirmedBody;
use crate::store::erasure::Erasure;
use crate::store::error::{Broken, OpenError, WriteError};
use crate::store::format;
use crate::store::handle::Store;
use crate::store::tier_share::TierShare;
use crate::store::{CheckReport, ObjectWriter, Part, Purging, Scope, SealedObject, Withhold};
use crate::store::{commit, lookup, part, probe};
use crate::tasks::Tasks;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl ObjectWriter {
    /// Ends a body that is right, and writes it out.
    async fn seal(self) -> Result<SealedObject, WriteError> {
        self.end().await?.prove()?.seal()
    }
}

/// What the tier does with its stores.
impl Store {
    /// Begins to write an object of which only the end is withheld.
    async fn begin(&self, key: &Key, length: Option<u64>) -> Result<ObjectWriter, WriteError> {
        self.begin_withholding(key, length, Withhold::End).await
    }

    async fn begin_withholding(
        &self,
        key: &Key,
        length: Option<u64>,
        withhold: Withhold,
    ) -> Result<ObjectWriter, WriteError> {
        let displaces = self.disk.catalog.displaces(key.hash(), length);
        let reservation = self.reserve(key, length, displaces).await?;
        Ok(ObjectWriter::new(Arc::clone(&self.disk), key.clone(), length, withhold, reservation))
    }

    /// The object under a key, with its body open for reading; `None` if there is none or it
    /// is damaged (then it is dropped and counted). Cancel safe.
    async fn get(&self, key: &Key) -> Option<Stored> {
        let (store, key) = (Arc::clone(&self.disk), key.clone());
        self.disk
            .lanes
            .changes
            .blocking("store get", move || lookup::find(&store, &key))
            .await
            .ok()
            .flatten()
    }

    /// What the check that goes on, or else the last one, found.
    fn checked(&self) -> CheckReport {
        self.disk.checks.report.lock().clone()
    }

    /// The part that is kept of an object, opened for reading and writing. Cancel safe.
    async fn part(&self, key: &Key) -> Option<Part> {
        let (store, key) = (Arc::clone(&self.disk), key.clone());
        let open = Arc::clone(&self.open_parts);
        self.disk
            .lanes
            .changes
            .blocking("store part", move || part::find_part(&store, &open, &key))
            .await
            .ok()
            .flatten()
    }

    /// Drops what is kept of an object in part; true if there was any. Blocking.
    fn remove_part(&self, key: &Key) -> bool {
        part::drop_part(&self.disk.catalog, key.hash(), Erasure::Any).unwrap_or(false)
    }

    /// Replaces the metadata of the object under `key`, if its body still has
    /// this digest; true if it was replaced.
    fn touch_meta(&self, key: &Key, sha256: Sha256, meta: &Meta) -> bool {
        let confirmed = ConfirmedBody { sha256, response_time: Timestamp::from_secs(0) };
        commit::rewrite_meta(&self.disk.catalog, key.hash(), confirmed, meta, &|| true)
            .unwrap_or(false)
    }

    /// What a stored narinfo claims about the NAR `nar`.
    fn claim(&self, nar: &Key) -> Option<NarClaim> {
        lookup::find_claim(&self.disk.catalog, nar).unwrap().map(|claimed| claimed.claim)
    }

    /// The variants that are stored of the object under `key`.
    fn variants(&self, key: &Key) -> Vec<(Key, Variant)> {
        lookup::find_variants(&self.disk.catalog, key).unwrap()
    }

    /// Makes everything in `scope` go; how many objects there were.
    fn purge(&self, scope: &Scope) -> u64 {
        self.disk.catalog.purge(scope, Purging::Hard).unwrap_or_default()
    }

    /// Drops the object under `key`, all its variants, and the claims they make; true if there
    /// was any.
    fn remove(&self, key: &Key) -> bool {
        self.purge(&Scope::Key(key.clone())) > 0
    }

    /// Drops every object of `site` with a path that begins with `prefix`, and the claims they
    /// make; returns the number of objects.
    fn remove_matching(&self, site: &str, prefix: &str) -> u64 {
        let scope = Scope::Prefix { site: site.to_owned(), prefix: prefix.to_owned() };
        self.purge(&scope)
    }

    /// Drops every object and every claim; returns the number of objects.
    fn clear(&self) -> u64 {
        self.purge(&Scope::All)
    }
}

impl SealedObject {
    /// Puts the object in the store, whatever was purged.
    pub(crate) fn commit(
        self,
        meta: Meta,
        claim: Option<(Key, NarClaim)>,
    ) -> Result<Stored, WriteError> {
        self.commit_if(meta, claim, u64::MAX, &|| true).map(Option::unwrap)
    }
}

struct Bench {
    place: TempDir,
    size: u64,
    scrub_pass: Duration,
    metrics: Metrics,
    tasks: Tasks,
    damaged: mpsc::Sender<Key>,
    /// Objects in use that a check found damaged.
    damaged_keys: mpsc::Receiver<Key>,
}

impl Bench {
    fn new(size: usize) -> Self {
        let (damaged, damaged_keys) = mpsc::channel(16);
        Self {
            damaged,
            damaged_keys,
            place: tempfile::tempdir().unwrap(),
            size: size as u64,
            scrub_pass: Duration::ZERO,
            metrics: Metrics::new().unwrap(),
            tasks: Tasks::new(),
        }
    }

    fn disk(&self) -> Disk {
        let path = self.place.path().to_owned();
        Disk { path, size: self.size, scrub_pass: self.scrub_pass, scrub_rate: 1 << 40 }
    }

    fn try_open(&self) -> Result<Store, OpenError> {
        let tier = TierShare::alone(self.damaged.clone());
        Store::open(tier, &self.disk(), self.metrics.clone(), &self.tasks)
    }

    async fn open(&self) -> Store {
        let store = self.try_open().unwrap();
        store.loaded().await;
        store
    }

    /// Closes the store, background tasks and all, so that it can be opened again.
    async fn close(&mut self, store: Store) {
        assert!(self.tasks.drain(Duration::from_secs(30)).await);
        self.tasks = Tasks::new();
        assert_eq!(Arc::strong_count(&store.disk), 1, "something still holds the store");
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for folder in ["objects", "tmp"] {
            list(&self.place.path().join(folder), &mut files).unwrap();
        }
        files
    }

    fn damaged(&self) -> u64 {
        self.metrics.damaged_objects.with_label_values(&["disk"]).get()
    }

    fn gauges(&self) -> (i64, i64) {
        let bytes = self.metrics.stored_bytes.with_label_values(&["disk"]).get();
        (bytes, self.metrics.stored_objects.with_label_values(&["disk"]).get())
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Waits until something holds, and fails with `what` if it never does.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let asking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asking).await.expect(what);
}

pub(super) fn key(name: &str) -> Key {
    Key::new("main", &format!("/nar/{name}"), None)
}

pub(super) fn meta(key: &Key) -> Meta {
    let mut headers = HeaderMap::new();
    headers.append("etag", HeaderValue::from_static("\"a\""));
    Meta {
        key: key.clone(),
        class: Class::Nar,
        status: StatusCode::OK,
        headers,
        origin: Arc::from("s3"),
        request_time: Timestamp::from_secs(1_700_000_000),
        response_time: Timestamp::from_secs(1_700_000_001),
        age_at_response: 0,
        lifetime: Lifetime::Forever,
        is_invalidated: false,
        proof: Proof::FileHash,
        variant: Variant::default(),
    }
}

/// Bytes that differ from place to place and from one `seed` to the other.
fn bytes(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut body = Vec::with_capacity(length + 8);
    while body.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        body.extend_from_slice(&(state >> 11).to_le_bytes());
    }
    body.truncate(length);
    body.into()
}

fn digest(body: &[u8]) -> Sha256 {
    Sha256::of(body)
}

async fn append(pending: &mut ObjectWriter, body: &Bytes) -> Result<(), WriteError> {
    let mut rest = body.clone();
    while !rest.is_empty() {
        pending.append(rest.split_to(rest.len().min(16 * KIB))).await?;
    }
    Ok(())
}

async fn put(store: &Store, key: &Key, body: &Bytes) -> Result<Stored, WriteError> {
    put_with(store, key, body, None).await
}

async fn put_with(
    store: &Store,
    key: &Key,
    body: &Bytes,
    claim: Option<(Key, NarClaim)>,
) -> Result<Stored, WriteError> {
    let mut pending = store.begin(key, Some(body.len() as u64)).await?;
    append(&mut pending, body).await?;
    let sealed = pending.seal().await?;
    assert_eq!((sealed.length, sealed.sha256), (body.len() as u64, digest(body)));
    sealed.commit(meta(key), claim)
}

async fn read(stored: &Stored) -> Bytes {
    match &stored.body {
        StoredBody::Bytes(bytes) => bytes.clone(),
        StoredBody::File(file) => {
            let mut body = Vec::new();
            loop {
                let offset = body.len() as u64;
                let chunk = match file.read_now(offset, 64 * KIB) {
                    Some(chunk) => chunk,
                    None => file.read(offset, 64 * KIB).await.unwrap(),
                };
                if chunk.is_empty() {
                    return body.into();
                }
                body.extend_from_slice(&chunk);
            }
        }
    }
}

async fn held(store: &Store, key: &Key) -> Option<Bytes> {
    Some(read(&store.get(key).await?).await)
}

const SIZES: [usize; 6] = [0, 1, 64 * KIB - 1, 64 * KIB, 256 * KIB, 3 * MIB + 7];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_found_before_and_after_a_restart() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for size in SIZES {
        let (key, body) = (key(&size.to_string()), bytes(size as u64, size));
        let stored = put(&store, &key, &body).await.unwrap();
        assert_eq!(read(&stored).await, body, "as committed, {size} bytes");
        assert_eq!(held(&store, &key).await.unwrap(), body, "as found, {size} bytes");
    }
    let before = store.usage();
    assert_eq!((before.objects, before.reserved_bytes), (SIZES.len() as u64, 0));
    assert_eq!(bench.files().len(), 3, "small bodies have no files");
    bench.close(store).await;

    let store = bench.try_open().unwrap();
    for size in SIZES {
        let found = store.get(&key(&size.to_string())).await.unwrap();
        assert_eq!(read(&found).await, bytes(size as u64, size));
        assert_eq!(found.sha256, digest(&bytes(size as u64, size)));
        assert_eq!(format!("{:?}", found.meta), format!("{:?}", meta(&found.meta.key)));
    }
    assert!(store.get(&key("never")).await.is_none());
    store.loaded().await;
    assert_eq!(store.usage(), before);
    assert_eq!(bench.gauges(), (i64::try_from(before.bytes).unwrap(), 6));
    assert_eq!(bench.damaged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_leaves_no_trace() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for size in SIZES {
        let (key, body) = (key("a"), bytes(1, size));
        for length in [None, Some(size as u64)] {
            let mut pending = store.begin(&key, length).await.unwrap();
            append(&mut pending, &body).await.unwrap();
            let reader = pending.growing();
            drop(pending);
            assert!(matches!(reader.read(size as u64, 1).await, Err(Broken::Abandoned)));

            let mut pending = store.begin(&key, length).await.unwrap();
            append(&mut pending, &body).await.unwrap();
            let reader = pending.growing();
            drop(pending.end().await.unwrap());
            assert!(matches!(reader.read(size as u64, 1).await, Err(Broken::Abandoned)));

            let mut pending = store.begin(&key, length).await.unwrap();
            append(&mut pending, &body).await.unwrap();
            drop(pending.seal().await.unwrap());
        }
        assert!(store.get(&key).await.is_none());
    }
    assert_eq!((store.usage().bytes, store.usage().reserved_bytes), (0, 0));
    assert_eq!(bench.files(), [] as [PathBuf; 0]);
    bench.close(store).await;
    assert_eq!(bench.open().await.usage().objects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_length_than_declared_is_refused() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let mut pending = store.begin(&key("a"), Some(10)).await.unwrap();
    pending.append(bytes(1, 9)).await.unwrap();
    let error = pending.append(bytes(1, 2)).await.unwrap_err();
    assert!(matches!(error, WriteError::Length { declared: 10, received: 11 }));
    let error = pending.seal().await.unwrap_err();
    assert!(matches!(error, WriteError::Length { declared: 10, received: 9 }));
    assert!(store.health().is_writable);
    assert_eq!(store.usage().reserved_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_leaves_readers_of_the_old_body_alone() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let key = key("a");
    let (old, new) = (bytes(1, MIB), bytes(2, 2 * MIB));
    put(&store, &key, &old).await.unwrap();
    let reader = store.get(&key).await.unwrap();
    put(&store, &key, &new).await.unwrap();
    assert_eq!(read(&reader).await, old);
    assert_eq!(held(&store, &key).await.unwrap(), new);
    assert_eq!(bench.files().len(), 1);
    put(&store, &key, &bytes(3, 10)).await.unwrap();
    assert_eq!(held(&store, &key).await.unwrap(), bytes(3, 10));
    assert_eq!((bench.files().len(), store.usage().objects), (0, 1));
    assert_eq!(store.usage().bytes, format::charge(10));
    assert!(store.remove(&key));
    assert!(!store.remove(&key));
    assert_eq!((store.usage().bytes, bench.damaged()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_fills_never_pass_the_limit() {
    let bench = Bench::new(8 * MIB);
    let store = bench.open().await;
    let fills: Vec<_> = (0..4_u64)
        .map(|worker| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..25_u64 {
                    let number = worker * 100 + round;
                    let size = usize::try_from(number % 7).unwrap() * 150 * KIB + 700;
                    let key = key(&number.to_string());
                    let result = put(&store, &key, &bytes(number, size)).await;
                    assert!(matches!(result, Ok(_) | Err(WriteError::Busy { .. })), "{result:?}");
                    let usage = store.usage();
                    assert!(usage.bytes + usage.reserved_bytes <= usage.limit_bytes, "{usage:?}");
                }
            })
        })
        .collect();
    for fill in fills {
        fill.await.unwrap();
    }
    let on_disk: u64 = bench.files().iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(on_disk <= 8 * MIB as u64);
    assert!(store.usage().bytes > 4 * MIB as u64, "the limit is made use of");
    assert_eq!(store.usage().reserved_bytes, 0);
    assert!(bench.metrics.evictions.with_label_values(&["disk", "size"]).get() > 10);
    assert_eq!((bench.damaged(), store.health().is_writable), (0, true));
    let counted =
        store.disk.catalog.index.access().open().unwrap().page(None, 1000).unwrap().len() as u64;
    assert_eq!(counted, store.usage().objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_outlives_what_is_not() {
    let bench = Bench::new(2 * MIB);
    let store = bench.open().await;
    for number in 0..20_u64 {
        put(&store, &key(&number.to_string()), &bytes(number, 200 * KIB)).await.unwrap();
        assert!(store.get(&key("0")).await.is_some(), "after {number}");
    }
    assert!(store.get(&key("1")).await.is_none());
    assert!(store.get(&key("19")).await.is_some());
    let error = store.begin(&key("huge"), Some(2 * MIB as u64)).await.unwrap_err();
    assert!(matches!(error, WriteError::TooLarge { .. }));
    assert!(store.get(&key("0")).await.is_some(), "nothing was evicted for what never fits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_met_by_evicting_once_then_by_refusing() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for number in 0..8_u64 {
        put(&store, &key(&number.to_string()), &bytes(number, MIB)).await.unwrap();
    }
    store.disk.catalog.faults.is_out.store(true, Ordering::Relaxed);
    store.disk.catalog.faults.full.store(1, Ordering::Relaxed);
    put(&store, &key("a"), &bytes(1, MIB)).await.unwrap();
    assert_eq!(held(&store, &key("a")).await.unwrap(), bytes(1, MIB));
    assert!(store.usage().objects < 8);
    let path = bench.place.path().display().to_string();
    let errors = || bench.metrics.store_errors.with_label_values(&[&*path, "space"]).get();
    assert_eq!(errors(), 0);
    store.disk.catalog.faults.full.store(u32::MAX, Ordering::Relaxed);
    let error = put(&store, &key("b"), &bytes(1, MIB)).await.unwrap_err();
    assert!(matches!(error, WriteError::NoSpace { .. }), "{error}");
    assert!(errors() > 0);
    // Again and again; or a probe, which fails too, comes before.
    for _ in 0..2 {
        put(&store, &key("b"), &bytes(1, MIB)).await.unwrap_err();
    }
    store.disk.catalog.faults.full.store(0, Ordering::Relaxed);
    let refused = store.begin(&key("b"), Some(1)).await.unwrap_err();
    assert!(matches!(&refused, WriteError::Refused { detail } if detail.contains("no space")));
    assert!(!store.health().is_writable);
    assert_eq!((store.usage().reserved_bytes, bench.damaged()), (0, 0));
    store.disk.catalog.faults.is_out.store(false, Ordering::Relaxed);
    assert!(probe::probe(&store.disk) && store.health().is_writable, "{:?}", store.health());
    put(&store, &key("b"), &bytes(1, MIB)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_index_is_opened_again() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, MIB)).await.unwrap();
    store.disk.catalog.index.mark_failed();
    let refused = store.begin(&key("b"), Some(1)).await.unwrap_err();
    assert!(matches!(refused, WriteError::Refused { .. }), "{refused}");
    assert!(!store.health().is_writable);
    assert_eq!(held(&store, &key("a")).await.unwrap(), bytes(1, MIB), "reads go on");
    assert!(probe::probe(&store.disk));
    put(&store, &key("b"), &bytes(2, 100)).await.unwrap();
    assert_eq!(held(&store, &key("a")).await.unwrap(), bytes(1, MIB));
    assert_eq!(held(&store, &key("b")).await.unwrap(), bytes(2, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_metadata_is_for_the_same_body_only() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let key = key("a");
    let stored = put(&store, &key, &bytes(1, MIB)).await.unwrap();
    let newer = Meta { response_time: Timestamp::from_secs(1_800_000_000), ..meta(&key) };
    assert!(!store.touch_meta(&key, Sha256([0; 32]), &newer));
    assert!(store.touch_meta(&key, stored.sha256, &newer));
    drop(stored);
    bench.close(store).await;
    let store = bench.open().await;
    let found = store.get(&key).await.unwrap();
    assert_eq!(found.meta.response_time, newer.response_time);
    assert_eq!(read(&found).await, bytes(1, MIB));
    let late = Meta { response_time: Timestamp::from_secs(1_700_000_000), ..meta(&key) };
    assert!(!store.touch_meta(&key, found.sha256, &late), "an older response");
    assert_eq!(store.get(&key).await.unwrap().meta.response_time, newer.response_time);
    let Stored { meta: there, sha256, .. } = store.get(&key).await.unwrap();
    let confirmed = ConfirmedBody { sha256, response_time: there.response_time };
    let touched = commit::rewrite_meta(&store.disk.catalog, key.hash(), confirmed, &late, &|| true);
    assert!(touched.unwrap(), "the clock was set back since what it confirms came");
    assert!(store.remove(&key));
    assert!(!store.touch_meta(&key, found.sha256, &newer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_lives_as_long_as_the_object_that_makes_it() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let (one, two, nar) = (key("1.narinfo"), key("2.narinfo"), key("a.nar.xz"));
    let claim = |size| NarClaim {
        file_hash: Some(Sha256([3; 32])),
        file_size: Some(size),
        source: None,
        contents: None,
    };
    put_with(&store, &one, &bytes(1, 100), Some((nar.clone(), claim(1)))).await.unwrap();
    assert_eq!(store.claim(&nar), Some(claim(1)));
    assert_eq!(store.claim(&one), None);
    put_with(&store, &two, &bytes(2, 100), Some((nar.clone(), claim(2)))).await.unwrap();
    assert_eq!(store.claim(&nar), Some(claim(2)));
    assert!(store.remove(&one));
    assert_eq!(store.claim(&nar), Some(claim(2)), "another object makes it too");
    put(&store, &two, &bytes(2, 100)).await.unwrap();
    assert_eq!(store.claim(&nar), None, "its object was replaced by one that makes none");
    put_with(&store, &two, &bytes(2, 100), Some((nar.clone(), claim(2)))).await.unwrap();
    put(&store, &nar, &bytes(3, 100)).await.unwrap();
    assert!(store.remove(&nar));
    assert_eq!(store.remove_matching("main", nar.path()), 0);
    assert_eq!(store.claim(&nar), Some(claim(2)), "a NAR that comes again is checked again");
    let access = store.disk.catalog.index.access();
    let mut change = access.open().unwrap().change();
    change.set_claim(nar.hash(), b"garbage");
    change.commit().unwrap();
    assert_eq!((store.claim(&nar), bench.damaged()), (None, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn purges_take_what_they_name_and_no_more() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(1, 70 * KIB);
    for site in ["main", "other"] {
        for path in ["/nar/1", "/nar/2", "/log/1"] {
            put(&store, &Key::new(site, path, None), &body).await.unwrap();
        }
    }
    assert_eq!(store.remove_matching("main", "/nar/"), 2);
    assert_eq!(store.remove_matching("main", "/nar/"), 0);
    assert!(store.get(&Key::new("main", "/log/1", None)).await.is_some());
    assert!(store.get(&Key::new("other", "/nar/1", None)).await.is_some());
    assert_eq!(store.clear(), 4);
    assert_eq!((store.usage().bytes, store.usage().objects), (0, 0));
    assert_eq!(bench.files(), [] as [PathBuf; 0]);
    put(&store, &key("a"), &body).await.unwrap();
    assert_eq!(held(&store, &key("a")).await.unwrap(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_store_in_the_same_folder_is_refused() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    assert!(matches!(bench.try_open(), Err(OpenError::Locked { .. })));
    put(&store, &key("a"), &bytes(1, 10)).await.unwrap();
}

/// A real full file system, if this user may mount one.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_system_fills_up_and_the_store_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16m", "none"])
        .arg(place.path())
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a_small_file_system_fills_up: this user may not mount a tmpfs");
        return;
    }
    let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::new());
    let disk = Disk {
        path: place.path().to_owned(),
        size: 64 * MIB as u64,
        scrub_pass: Duration::ZERO,
        scrub_rate: 1 << 40,
    };
    let outcome = {
        let tier = TierShare::alone(mpsc::channel(1).0);
        let store = Store::open(tier, &disk, metrics, &tasks).unwrap();
        let store_of = store.clone();
        let filling = tokio::spawn(async move {
            for number in 0..40_u64 {
                put(&store_of, &key(&number.to_string()), &bytes(number, MIB)).await.unwrap();
            }
            let last = key("39");
            assert_eq!(held(&store_of, &last).await.unwrap(), bytes(39, MIB));
            assert!(store_of.usage().bytes < 16 * MIB as u64);
        });
        filling.await
    };
    tasks.drain(Duration::from_secs(30)).await;
    let _ = std::process::Command::new("umount").arg("-l").arg(place.path()).status();
    outcome.unwrap();
}
