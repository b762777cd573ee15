//! A process killed at every step: a fixed script runs against a store, and at each step the
//! folder is copied as SIGKILL would leave it. Each copy must open, and hold for every key what
//! it held before or after the operation that was cut short, and nothing else: no wrong byte, no
//! file without a record, totals that are right. A power cut besides: the last journal cut and
//! flipped at many places.

use crate::clock::Timestamp;
use crate::object::{Meta, NarClaim, Sha256};
use crate::store::check::report::{CheckReport, CheckStage, Mode};
use crate::store::format;
use crate::store::handle::Store;
use crate::store::tests::{
    Bench, KIB, MIB, OBSERVER, append, bytes, digest, key, meta, put_with, read,
};
use crate::store::{OpenError, fsck};
use crate::sync::Mutex;
use rustix::fs::SeekFrom;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const NAMES: [&str; 9] = ["info", "a", "b", "c", "e1", "e2", "e3", "e4", "last"];
const LIMIT: usize = 4 * MIB;
/// Times that a folder is read.
const READS_MAX: usize = 20;

/// What a store holds under each name: its body and when it was confirmed; and the claims.
type Held = BTreeMap<&'static str, Option<(Sha256, i64)>>;
type Claims = BTreeMap<&'static str, Option<NarClaim>>;

#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    held: Held,
    claims: Claims,
}

/// One operation of the script.
enum Step {
    Put(&'static str, u64, usize),
    PutClaim(&'static str, u64, &'static str),
    Touch(&'static str, i64),
    Remove(&'static str),
    RemoveMatching(&'static str),
    Abandon(&'static str, usize),
    Reopen,
    Clear,
}

const SCRIPT: [Step; 22] = [
    Step::PutClaim("info", 1, "a"),
    Step::Put("a", 2, 70 * KIB),
    Step::Put("b", 3, MIB + 200 * KIB),
    Step::Put("c", 4, 5 * KIB),
    // A larger one for a large one, a file for a small body, a small body for a file.
    Step::Put("a", 5, 300 * KIB),
    Step::Put("c", 6, 70 * KIB),
    Step::Put("c", 7, 6 * KIB),
    Step::Touch("b", 1_800_000_000),
    Step::Touch("c", 1_800_000_001),
    Step::PutClaim("info", 8, "b"),
    Step::Remove("a"),
    Step::Put("a", 9, 90 * KIB),
    Step::Abandon("b", 2 * MIB - 64 * KIB),
    Step::Reopen,
    Step::Touch("a", 1_800_000_002),
    Step::RemoveMatching("/nar/c"),
    // Each pushes others out.
    Step::Put("e1", 10, MIB),
    Step::Put("e2", 11, MIB),
    Step::Put("e3", 12, MIB),
    Step::Put("e4", 13, MIB),
    Step::Clear,
    Step::Put("last", 14, 80 * KIB),
];

/// Every body that the script ever puts under a name.
fn versions(name: &str) -> Vec<Sha256> {
    let put = SCRIPT.iter().filter_map(|step| match step {
        Step::Put(of, seed, length) if *of == name => Some(digest(&bytes(*seed, *length))),
        Step::PutClaim(of, seed, _) if *of == name => Some(digest(&bytes(*seed, 300))),
        Step::Put(..)
        | Step::PutClaim(..)
        | Step::Touch(..)
        | Step::Remove(_)
        | Step::RemoveMatching(_)
        | Step::Abandon(..)
        | Step::Reopen
        | Step::Clear => None,
    });
    put.collect()
}

/// What a store holds; every byte is one that was put under this name.
async fn look(store: &Store) -> State {
    let mut state = State::default();
    for name in NAMES {
        let found = store.get(&key(name)).await;
        let mut held = None;
        if let Some(found) = found {
            let body = digest(&read(&found).await);
            assert!(versions(name).contains(&body), "{name}: a body that was never put");
            assert_eq!(body, found.sha256);
            held = Some((body, found.meta.response_time.secs()));
        }
        state.held.insert(name, held);
        state.claims.insert(name, store.claim(&key(name)));
    }
    state
}

/// What is in the index: objects, their charges, and how many have a file.
fn recorded(store: &Store) -> (u64, u64, usize) {
    let access = store.disk.catalog.index.access();
    let page = access.open().unwrap().page(None, 1000).unwrap();
    let heads: Vec<_> = page.iter().map(|(_, r)| format::decode_head(r).unwrap()).collect();
    let charges = heads.iter().map(format::RecordHead::charge).sum();
    let files = heads.iter().filter(|head| head.place.is_file()).count();
    (heads.len() as u64, charges, files)
}

/// Copies a folder as it is, holes and all, into an empty one.
pub(super) fn copy(from: &Path, to: &Path) {
    at_rest(from, || {
        std::fs::remove_dir_all(to)?;
        std::fs::create_dir(to)?;
        try_to_copy(from, to)
    });
}

/// Reads a folder. If a file goes or shrinks meanwhile, what was read is no state that ever was:
/// the folder is read anew.
fn at_rest<T>(folder: &Path, read: impl Fn() -> io::Result<T>) -> T {
    for _ in 0..READS_MAX {
        match read() {
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof]
                    .contains(&error.kind()) => {}
            whole => return whole.unwrap(),
        }
    }
    panic!("{} does not come to rest", folder.display());
}

fn try_to_copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&copied)?;
            try_to_copy(&path, &copied)?;
            continue;
        }
        let (source, target) = (File::open(&path)?, File::create(&copied)?);
        let length = source.metadata()?.len();
        target.set_len(length)?;
        for (start, end) in data(&source, length)? {
            let mut piece = vec![0; usize::try_from(end - start).unwrap()];
            source.read_exact_at(&mut piece, start)?;
            target.write_all_at(&piece, start)?;
        }
    }
    Ok(())
}

/// The parts of a file that are no holes.
fn data(file: &File, length: u64) -> io::Result<Vec<(u64, u64)>> {
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < length {
        let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(at)) else { break };
        let Ok(end) = rustix::fs::seek(file, SeekFrom::Hole(start)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        parts.push((start, end));
        at = end;
    }
    Ok(parts)
}

/// A digest of all that a folder holds.
fn fingerprint(folder: &Path) -> io::Result<Sha256> {
    let mut files = Vec::new();
    super::list(folder, &mut files)?;
    files.sort();
    let mut all = Vec::new();
    for path in files {
        all.extend_from_slice(path.strip_prefix(folder).unwrap().to_string_lossy().as_bytes());
        let file = File::open(&path)?;
        for (start, end) in data(&file, file.metadata()?.len())? {
            let mut piece = vec![0; usize::try_from(end - start).unwrap()];
            file.read_exact_at(&mut piece, start)?;
            all.extend_from_slice(&start.to_le_bytes());
            all.extend_from_slice(&piece);
        }
    }
    Ok(digest(&all))
}

/// A folder as a kill at one step left it.
struct Image {
    operation: usize,
    step: &'static str,
    place: TempDir,
}

/// Takes images, one of each state that a kill can leave within an operation.
#[derive(Default)]
struct Camera {
    operation: usize,
    steps: usize,
    seen: HashSet<Sha256>,
    images: Vec<Image>,
}

impl Camera {
    fn take(&mut self, folder: &Path, step: &'static str) {
        self.steps += 1;
        if !self.seen.insert(at_rest(folder, || fingerprint(folder))) {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        copy(folder, place.path());
        self.images.push(Image { operation: self.operation, step, place });
    }

    fn next(&mut self, operation: usize) {
        self.operation = operation;
        self.seen.clear();
    }
}

/// Watches the stores that this thread opens in `folder` from now on.
fn watch(folder: &Path, camera: &Arc<Mutex<Camera>>) {
    let (folder, camera) = (folder.to_owned(), Arc::clone(camera));
    OBSERVER.set(Some(Arc::new(move |step| camera.lock().take(&folder, step))));
}

async fn perform(bench: &mut Bench, store: Store, step: &Step) -> Store {
    let claim = || NarClaim {
        file_hash: Some(Sha256([3; 32])),
        file_size: Some(7),
        source: None,
        contents: None,
    };
    match *step {
        Step::Put(name, seed, length) => {
            let body = bytes(seed, length);
            // What finds no room does when it is asked for again.
            if put_with(&store, &key(name), &body, None).await.is_err() {
                put_with(&store, &key(name), &body, None).await.unwrap();
            }
        }
        Step::PutClaim(name, seed, nar) => {
            let claim = Some((key(nar), claim()));
            put_with(&store, &key(name), &bytes(seed, 300), claim).await.unwrap();
        }
        Step::Touch(name, seconds) => {
            let found = store.get(&key(name)).await.unwrap();
            let newer = Meta { response_time: Timestamp::from_secs(seconds), ..meta(&key(name)) };
            assert!(store.touch_meta(&key(name), found.sha256, &newer));
        }
        Step::Remove(name) => assert!(store.remove(&key(name))),
        Step::RemoveMatching(prefix) => assert_eq!(store.remove_matching("main", prefix), 1),
        Step::Abandon(name, length) => {
            let mut pending = store.begin(&key(name), Some(length as u64)).await.unwrap();
            append(&mut pending, &bytes(99, length)).await.unwrap();
            drop(pending.seal().await.unwrap());
        }
        Step::Reopen => {
            bench.close(store).await;
            return bench.open().await;
        }
        Step::Clear => assert!(store.clear() > 0),
    }
    store
}

fn check(folder: &Path, mode: Mode) -> CheckReport {
    let report = Mutex::new(CheckReport::default());
    fsck(folder, mode, &report).unwrap();
    report.into_inner()
}

/// Opens an image and holds it against the states before and after the operation.
async fn examine(image: Image, states: &[State]) {
    let Image { operation, step, place } = image;
    let what = format!("operation {operation}, killed when {step}");
    let report = check(place.path(), Mode::Report);
    assert_eq!((report.problems, report.stage), (vec![], CheckStage::Ended), "{what}");
    let mut bench = Bench::new(LIMIT);
    bench.place = place;
    let store = bench.open().await;
    let state = look(&store).await;
    let (before, after) = (&states[operation], &states[operation + 1]);
    for name in NAMES {
        let held = &state.held[name];
        assert!(
            [&before.held[name], &after.held[name]].contains(&held),
            "{what}: {name} is {held:?}, before {:?}, after {:?}",
            before.held[name],
            after.held[name]
        );
        let claim = &state.claims[name];
        let claims = [&before.claims[name], &after.claims[name]];
        assert!(claims.contains(&claim), "{what}: the claim about {name}");
    }
    let (objects, bytes, files) = recorded(&store);
    let usage = store.usage();
    assert_eq!((usage.objects, usage.bytes), (objects, bytes), "{what}: totals");
    assert_eq!(bench.files().len(), files, "{what}: files without a record");
    assert_eq!(bench.damaged(), 0, "{what}");
    bench.close(store).await;
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_what_was_before_or_after() {
    let camera = Arc::new(Mutex::new(Camera::default()));
    let mut bench = Bench::new(LIMIT);
    watch(bench.place.path(), &camera);
    let mut store = bench.open().await;
    let mut states = vec![look(&store).await];
    for (operation, step) in SCRIPT.iter().enumerate() {
        camera.lock().next(operation);
        store = perform(&mut bench, store, step).await;
        camera.lock().take(bench.place.path(), "all is done");
        states.push(look(&store).await);
    }
    OBSERVER.set(None);
    // The script does what it is for.
    let holds = |at: usize, name: &str| states[at].held[name].is_some();
    assert!(holds(20, "e4") && ["a", "b", "e1", "e2", "e3"].iter().any(|name| !holds(20, name)));
    assert!(holds(22, "last") && !holds(21, "e4"));
    let camera = std::mem::take(&mut *camera.lock());
    assert!(camera.steps > 150, "{} steps", camera.steps);
    assert!(camera.images.len() > 60, "{} images", camera.images.len());

    // A kill while the next start finishes what was cut short.
    let again = Arc::new(Mutex::new(Camera::default()));
    for image in &camera.images {
        if !["a record is to be written", "a record is dropped"].contains(&image.step) {
            continue;
        }
        let mut bench = Bench::new(LIMIT);
        copy(image.place.path(), bench.place.path());
        again.lock().next(image.operation);
        watch(bench.place.path(), &again);
        let store = bench.open().await;
        OBSERVER.set(None);
        bench.close(store).await;
    }
    let again = std::mem::take(&mut *again.lock());
    assert!(again.images.len() > 10, "{} images", again.images.len());
    for image in camera.images.into_iter().chain(again.images) {
        examine(image, &states).await;
    }
}

/// Opens what a power cut left; what is damaged there is found and repaired.
async fn survive(place: TempDir, what: &str) {
    let mut bench = Bench::new(LIMIT);
    bench.place = place;
    if let Err(refused) = bench.try_open() {
        assert!(matches!(refused, OpenError::Index { .. }), "{what}: {refused}");
        assert!(refused.to_string().contains("narthex fsck --repair"), "{what}: {refused}");
        let report = check(bench.place.path(), Mode::Repair);
        assert_eq!(report.stage, CheckStage::Ended, "{what}: {report:?}");
    }
    let store = bench.open().await;
    look(&store).await;
    bench.close(store).await;
    let report = check(bench.place.path(), Mode::Repair);
    assert_eq!(report.problem_count, report.repaired_count, "{what}: {report:?}");
    let report = check(bench.place.path(), Mode::Report);
    assert_eq!(report.problems, [], "{what}");
}

#[tokio::test]
async fn a_torn_journal_gives_no_wrong_byte() {
    let mut bench = Bench::new(LIMIT);
    let mut store = bench.open().await;
    for step in SCRIPT.iter().take(16) {
        store = perform(&mut bench, store, step).await;
    }
    let image = tempfile::tempdir().unwrap();
    copy(bench.place.path(), image.path());
    let mut journals = Vec::new();
    super::list(&image.path().join("index"), &mut journals).unwrap();
    journals.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    journals.sort();
    let journal = journals.last().unwrap();
    let file = File::open(journal).unwrap();
    let end = data(&file, file.metadata().unwrap().len()).unwrap().last().unwrap().1;
    let name = journal.strip_prefix(image.path()).unwrap();
    let torn = |number: u64, is_flipped: bool| {
        let place = tempfile::tempdir().unwrap();
        copy(image.path(), place.path());
        let offset = end * number / 20 + number;
        let file = File::options().read(true).write(true).open(place.path().join(name)).unwrap();
        if is_flipped {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
        } else {
            file.set_len(offset).unwrap();
        }
        (place, format!("journal {} at {offset}", if is_flipped { "flipped" } else { "cut" }))
    };
    for number in 0..20 {
        let (place, what) = torn(number, false);
        survive(place, &what).await;
        if number % 3 == 0 {
            let (place, what) = torn(number, true);
            survive(place, &what).await;
        }
    }
}
