//! Stored files over HTTP/2: their bytes are read when they are written: the same bytes as ever,
//! and never one that was not compared.

use crate::harness::{Arriving, Edge, Origin, noise, path_of_nar, says};
use bytes::Bytes;
use futures_util::future::join_all;
use rustix::fs::{Advice, fadvise};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const LENGTH: usize = 3 << 20;
/// The windows that a client begins with (RFC 9113 section 6.9.2).
const WINDOW: u32 = 65_535;

async fn stored(seed: u64) -> (Edge, Origin, String, Bytes) {
    let origin = Origin::start().await;
    let nar = noise(seed, LENGTH);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()));
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    (edge, origin, path, nar)
}

#[tokio::test]
async fn answers_side_by_side_have_their_own_bytes() {
    let (edge, _origin, path, nar) = stored(1).await;
    let spans = [(0, LENGTH - 1), (1, 16_384), (7, 300_000), (262_143, 262_144), (5, 5)];
    let ranges = spans.map(|(first, last)| format!("bytes={first}-{last}"));
    let fields = ranges.each_ref().map(|range| [("range", range.as_str())]);
    let asked = fields.each_ref().map(|fields| (path.as_str(), &fields[..]));
    for window in [WINDOW, 1 << 20, 1_001] {
        let answers = edge.client().begin_http2(&asked, window).await;
        let all = join_all(answers.into_iter().map(Arriving::rest)).await;
        for (said, (first, last)) in all.iter().zip(spans) {
            said.expect(206, "hit_disk").with(&nar[first..=last]);
        }
    }
}

/// Has the pages of a file leave the page cache. One that is in use stays at first.
async fn leave_the_page_cache(file: &File) {
    for _ in 0..5 {
        fadvise(file, 0, None, Advice::DontNeed).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The client has room for 64 KiB. What comes next was promised when the pages were there, and is
/// read when they are not any more.
#[tokio::test]
async fn what_left_the_page_cache_before_it_was_written_is_compared_first() {
    for is_flipped in [false, true] {
        let (edge, origin, path, nar) = stored(2).await;
        let mut answers = edge.client().begin_http2(&[(&path, &[])], WINDOW).await;
        let mut reader = answers.pop().unwrap();
        reader.read_to(1_000).await;
        let file = OpenOptions::new().write(true).open(&edge.object_files()[0]).unwrap();
        if is_flipped {
            file.write_at(&[nar[200_000] ^ 1], 200_000).unwrap();
        }
        file.sync_all().unwrap();
        leave_the_page_cache(&file).await;
        let said = reader.rest().await;
        if is_flipped {
            assert!(said.is_cut && said.body.len() <= 200_000, "{said:?}");
            assert!(said.body == nar[..said.body.len()], "a byte that was not compared");
            edge.until_metric("narthex_damaged_objects_total{tier=\"disk\"}", 1).await;
        } else {
            said.expect(200, "hit_disk").with(&nar);
            assert_eq!(origin.count(&path), 1);
        }
    }
}
