//! What held when it was tried hard, and is to hold: ranges between purges, and objects of more
//! bytes than 32 bits count.

use crate::harness::{Client, Draw, Made, Said, Setup, VirtualOrigin, eventually};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const PATH: &str = "/nar/0000000000000000000000000000000000000000000000000000.nar.zst";
const LENGTH: u64 = (1 << 20) + 300_777;
const CLIENTS: u64 = 6;
const ROUNDS: u64 = 25;
/// Answers that come between two purges at least.
const ANSWERS: u64 = 8;

/// What the clients of a storm share.
#[derive(Debug, Default)]
struct Storm {
    /// The version that an origin had when the last purge was answered.
    least: AtomicU64,
    /// Whole answers.
    answers: AtomicU64,
    is_over: AtomicBool,
}

/// The version of an answer, each byte of which must be of that; none if it has no bytes.
fn version_of(said: &Said, first: u64, end: u64) -> Option<u64> {
    let span = match said.status.as_u16() {
        200 => 0..LENGTH,
        206 => first..end,
        // It changed under its reader, before the first byte.
        502 => return None,
        status => panic!("{status}: {said:?}"),
    };
    let version = said.field("etag").trim_matches(|c| c == '"' || c == 'v').parse().unwrap();
    let right = Made::new(version, LENGTH).bytes(span);
    assert!(right.starts_with(&said.body), "other bytes than those of {version}");
    assert!(said.is_cut || said.body.len() == right.len(), "a short end that looks clean");
    Some(version)
}

async fn ask_until_over(client: Client, storm: Arc<Storm>, seed: u64) {
    let mut draw = Draw(seed);
    while !storm.is_over.load(Ordering::Acquire) {
        let least = storm.least.load(Ordering::Acquire);
        let first = draw.below(LENGTH);
        let end = (first + 1 + draw.below(200_000)).min(LENGTH);
        let range = format!("bytes={first}-{}", end - 1);
        let condition = format!("\"v{}\"", least + draw.below(2));
        let fields = [("range", &*range), ("if-range", &*condition)];
        // Half of them whatever the version.
        let count = 1 + usize::from(draw.below(2) == 0);
        let said = client.read_with(PATH, &fields[..count]).await;
        if let Some(version) = version_of(&said, first, end) {
            assert!(version >= least, "{version} was purged, {least} is there");
            storm.answers.fetch_add(u64::from(!said.is_cut), Ordering::AcqRel);
        }
    }
}

/// FAULTS.md Held: ranges against purges.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_between_purges_are_of_one_version_and_of_none_that_was_purged() {
    let origin = VirtualOrigin::start().await;
    origin.set(PATH, Some(Made::new(1, LENGTH)));
    let edge = Setup::default().start_before(&[origin.table()]).await;
    let storm = Arc::new(Storm { least: AtomicU64::new(1), ..Storm::default() });
    let clients = (1..=CLIENTS)
        .map(|seed| tokio::spawn(ask_until_over(edge.client(), Arc::clone(&storm), seed)));
    let clients: Vec<_> = clients.collect();
    let path = format!("{{\"path\": \"{PATH}\"}}");
    let soft = path.replace('}', ", \"soft\": true}");
    let purges = [
        &*path,
        &*soft,
        "{\"prefix\": \"/nar/\"}",
        "{\"all\": true}",
        "{\"prefix\": \"/nar/\", \"soft\": true}",
    ];
    for (version, purge) in (2..ROUNDS + 2).zip(purges.iter().cycle()) {
        let wanted = storm.answers.load(Ordering::Acquire) + ANSWERS;
        let have_come = || storm.answers.load(Ordering::Acquire) >= wanted;
        let is_lost = || clients.iter().any(JoinHandle::is_finished);
        eventually("answers", || have_come() || is_lost()).await;
        origin.set(PATH, Some(Made::new(version, LENGTH)));
        edge.purge(purge).await.expect_status(200);
        storm.least.store(version, Ordering::Release);
    }
    storm.is_over.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 0);
}

/// FAULTS.md Held: objects of 5 GiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_beyond_four_gibibytes_comes_whole() {
    // Of bytes that follow only from the places without holes.
    let (border, length) = (4_u64 << 30, (4_u64 << 30) + (16 << 20) + 3);
    let marks = [0, border - 4, border, border + 8, length - 8].map(|at| (at, !at));
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("nar")).unwrap();
    std::fs::write(folder.path().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let file = std::fs::File::create(folder.path().join(&PATH[1..])).unwrap();
    file.set_len(length).unwrap();
    for (at, mark) in marks {
        file.write_all_at(&mark.to_le_bytes(), at).unwrap();
    }
    let url = format!("url = \"file://{}\"", folder.path().display());
    let edge = Setup::default().disk_size("0").start_before(&[url]).await;
    // All of it takes a debug build a minute.
    let begin = if cfg!(debug_assertions) { border - (64 << 20) } else { 0 };
    let range = format!("bytes={begin}-");
    let fields = [("range", &*range)];
    let fields = if begin == 0 { &[][..] } else { &fields };
    let arriving = edge.client().begin(PATH, fields).await;
    assert_eq!(arriving.status, if begin == 0 { 200 } else { 206 });
    assert_eq!(arriving.headers["content-length"], (length - begin).to_string());
    let zeros = vec![0; 1 << 20];
    let mut expected = Vec::new();
    let is_right = |at: usize, piece: &[u8]| {
        let first = begin + at as u64;
        let end = first + piece.len() as u64;
        if marks.iter().all(|(mark, _)| end <= *mark || mark + 8 <= first) {
            return piece.chunks(zeros.len()).all(|part| part == &zeros[..part.len()]);
        }
        expected.clear();
        expected.resize(piece.len(), 0);
        for (mark, value) in marks {
            for (offset, byte) in (mark..).zip(value.to_le_bytes()) {
                if (first..end).contains(&offset) {
                    expected[usize::try_from(offset - first).unwrap()] = byte;
                }
            }
        }
        piece == expected
    };
    let (seen, is_cut) = arriving.compare_by(is_right).await;
    assert_eq!((seen.map(|seen| seen as u64), is_cut), (Some(length - begin), false));
}
