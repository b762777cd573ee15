//! What is stored is damaged or goes while it is read: a miss, a count, never a wrong byte.

use crate::harness::{Edge, Origin, noise, path_of_nar, says};
use bytes::Bytes;
use std::fs::OpenOptions;

const LENGTH: usize = 8 << 20;

/// An edge that holds one NAR in one file.
async fn stored(seed: u64) -> (Edge, Origin, String, Bytes) {
    let origin = Origin::start().await;
    let nar = noise(seed, LENGTH);
    let path = path_of_nar(&nar, "nar.xz");
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

#[tokio::test]
async fn a_file_cut_under_its_reader_cuts_the_reader() {
    let (edge, origin, path, nar) = stored(2).await;
    let mut reader = edge.client().begin(&path, &[]).await;
    reader.read_to(1_000).await;
    truncate(&edge, 1_000_000);
    let said = reader.rest().await;
    assert!(said.is_cut && said.body == nar[..said.body.len()]);
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!(origin.count(&path), 2);
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
