//! What is stored is damaged or goes while it is read: a miss, a count, never a wrong byte.

use crate::harness::{Edge, Origin, Script, noise, path_of_nar, says};
use bytes::Bytes;
use std::fs::OpenOptions;

const LENGTH: usize = 8 << 20;
/// The offset at which a file is cut under its reader: at the end of a chunk, so that the chunk
/// before stays what it was. Of one that is cut in its middle the kernel may drop pages that are on
/// their way, and read them again: what went out then cannot be proven, and its reader is cut off.
const CUT: u64 = 2 << 20;

/// What says that a NAR is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Name,
    Tag,
}

fn rescued(result: &str) -> String {
    format!("narthex_body_rescues_total{{result=\"{result}\"}}")
}

/// An edge that holds one NAR in one file.
async fn stored(seed: u64) -> (Edge, Origin, String, Bytes) {
    stored_with(seed, Proof::Name).await
}

async fn stored_with(seed: u64, proof: Proof) -> (Edge, Origin, String, Bytes) {
    let origin = Origin::start().await;
    let nar = noise(seed, LENGTH);
    let path = path_of_nar(&nar, if proof == Proof::Name { "nar.xz" } else { "nar.zst" });
    origin.say(&path, says(nar.clone()).etag("\"a\""));
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    assert_eq!(edge.object_files().len(), 1);
    (edge, origin, path, nar)
}

fn truncate(edge: &Edge, bytes: u64) {
    let file = OpenOptions::new().write(true).open(&edge.object_files()[0]).unwrap();
    file.set_len(bytes).unwrap();
}

/// Sees to it that what is read next of the file comes from the disk.
fn let_go(edge: &Edge) {
    let file = OpenOptions::new().write(true).open(&edge.object_files()[0]).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[tokio::test]
async fn the_kernel_sends_what_it_has_and_no_more_than_was_asked_for() {
    const SENT: &str = "narthex_sendfile_bytes_total";
    let (edge, _origin, path, nar) = stored(8).await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(edge.metric(SENT).await, LENGTH as u64);
    let mut sent = LENGTH;
    let spans = [(0, 0), (1, 8_192), (1_048_575, 1_048_576), (5_000_001, 7_777_777)];
    for (first, last) in spans {
        let range = format!("bytes={first}-{last}");
        let said = edge.client().ask("GET", &path, &[("range", &*range)]).await;
        said.expect(206, "hit_disk").with(&nar[first..=last]);
        if last - first >= 8_191 {
            sent += last - first + 1;
        }
    }
    assert_eq!(edge.metric(SENT).await, sent as u64, "a copy of few bytes costs less");
}

#[tokio::test]
async fn what_left_the_page_cache_under_a_reader_is_compared_before_it_is_sent() {
    for is_flipped in [false, true] {
        let (edge, origin, path, nar) = stored(9).await;
        let mut reader = edge.client().begin(&path, &[]).await;
        reader.read_to(1_000).await;
        if is_flipped {
            let file = OpenOptions::new().write(true).open(&edge.object_files()[0]).unwrap();
            let flipped = nar[LENGTH - 10] ^ 1;
            std::os::unix::fs::FileExt::write_at(&file, &[flipped], LENGTH as u64 - 10).unwrap();
        }
        let_go(&edge);
        reader.rest().await.expect(200, "hit_disk").with(&nar);
        let fetched = if is_flipped { 2 } else { 1 };
        assert_eq!(origin.count(&path), fetched);
        assert_eq!(edge.metric(&rescued("continued")).await, fetched as u64 - 1);
    }
}

#[tokio::test]
async fn an_answer_with_damage_that_nobody_asked_about_in_time_is_never_whole() {
    let (edge, origin, path, nar) = stored(10).await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    let file = OpenOptions::new().write(true).open(&edge.object_files()[0]).unwrap();
    let at = LENGTH as u64 / 2 + 77;
    std::os::unix::fs::FileExt::write_at(&file, &[nar[LENGTH / 2 + 77] ^ 1], at).unwrap();
    let_go(&edge);
    // Cut if all of it was in the page cache a second ago, and rescued if it was not.
    let said = edge.client().begin(&path, &[]).await.rest().await;
    assert!(if said.is_cut { said.body.len() < LENGTH } else { said.body == nar });
    edge.until_idle().await;
    edge.get(&path).await.with(&nar);
    assert_eq!(origin.count(&path), 2);
    assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 1);
}

#[tokio::test]
async fn a_short_or_missing_file_is_a_miss_and_is_fetched_again() {
    for is_missing in [false, true] {
        let (edge, origin, path, nar) = stored(1).await;
        if is_missing {
            std::fs::remove_file(&edge.object_files()[0]).unwrap();
        } else {
            truncate(&edge, 1_000);
        }
        edge.get(&path).await.expect(200, "miss").with(&nar);
        edge.until_idle().await;
        edge.get(&path).await.expect(200, "hit_disk").with(&nar);
        assert_eq!(origin.count(&path), 2);
        assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 1);
    }
}

/// FAULTS.md Held: truncation under sendfile.
#[tokio::test]
async fn a_reader_whose_file_is_cut_goes_on_out_of_a_new_fill() {
    let (edge, origin, path, nar) = stored(2).await;
    let mut readers = Vec::new();
    for first in [0, 1_000, 5_000_000] {
        let range = format!("bytes={first}-");
        let mut reader = edge.client().begin(&path, &[("range", &range)]).await;
        reader.read_to(1_000).await;
        readers.push((first, reader));
    }
    truncate(&edge, CUT);
    for (first, reader) in readers {
        reader.rest().await.expect(206, "hit_disk").with(&nar[first..]);
    }
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(origin.count(&path), 2);
    assert_eq!(edge.metric(&rescued("continued")).await, 3);
    assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 1);
}

/// FAULTS.md Held: truncation under sendfile.
#[tokio::test]
async fn a_reader_whose_file_is_cut_is_cut_where_there_is_no_such_object_any_more() {
    for (is_away, result) in [(true, "failed"), (false, "changed")] {
        let (edge, origin, path, nar) = stored_with(4, Proof::Tag).await;
        let mut reader = edge.client().begin(&path, &[]).await;
        reader.read_to(1_000).await;
        truncate(&edge, CUT);
        let other = says(noise(5, LENGTH)).etag("\"b\"");
        origin.say(&path, if is_away { Script::status(404) } else { other });
        let said = reader.rest().await;
        assert!(said.is_cut && said.body == nar[..said.body.len()]);
        assert_eq!(edge.metric(&rescued(result)).await, 1);
    }
}

#[tokio::test]
async fn a_reader_whose_file_is_cut_goes_on_where_a_strong_tag_says_the_same() {
    for is_chunked in [false, true] {
        let (edge, origin, path, nar) = stored_with(6, Proof::Tag).await;
        if is_chunked {
            origin.say(&path, says(nar.clone()).etag("\"a\"").chunked());
        }
        let mut reader = edge.client().begin(&path, &[]).await;
        reader.read_to(1_000).await;
        truncate(&edge, CUT);
        reader.rest().await.expect(200, "hit_disk").with(&nar);
        assert_eq!((origin.count(&path), edge.metric(&rescued("continued")).await), (2, 1));
    }
}

#[tokio::test]
async fn a_reader_whose_file_is_cut_goes_on_without_a_disk_that_takes_it() {
    let (edge, origin, path, nar) = stored(7).await;
    let mut reader = edge.client().begin(&path, &[]).await;
    reader.read_to(1_000).await;
    truncate(&edge, CUT);
    edge.lose_disk();
    reader.rest().await.expect(200, "hit_disk").with(&nar);
    assert_eq!((origin.count(&path), edge.metric(&rescued("continued")).await), (2, 1));
}

#[tokio::test]
async fn a_reader_of_a_purged_object_gets_all_of_it() {
    let (edge, _origin, path, nar) = stored(3).await;
    let mut reader = edge.client().begin(&path, &[]).await;
    reader.read_to(1_000).await;
    assert!(edge.purge("{\"all\": true}").await.text().contains(":1"));
    assert_eq!(edge.object_files().len(), 0);
    reader.rest().await.expect(200, "hit_disk").with(&nar);
}
