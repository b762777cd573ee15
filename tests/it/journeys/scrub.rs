//! Bits flip on the disk: no client gets one, and the scrubber finds them before a request does.

use crate::harness::{Edge, Origin, Setup, noise, path_of_nar, says};
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt;

const LENGTH: usize = 3 << 20;

/// An edge that holds one NAR in one file, and was asked for it twice.
async fn stored(setup: Setup) -> (Edge, Origin, String, Bytes) {
    let origin = Origin::start().await;
    let nar = noise(5, LENGTH);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()).etag("\"a\"").field("cache-control", "max-age=60"));
    let edge = setup.start(&[&origin]).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    (edge, origin, path, nar)
}

fn flip(edge: &Edge, offset: u64) {
    let path = &edge.object_files()[0];
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_reaches_nobody_and_the_object_is_fetched_again() {
    for offset in [1 << 20, 2_000_000, LENGTH as u64 - 1] {
        let (mut edge, origin, path, nar) = stored(Setup::default()).await;
        edge.restart().await;
        flip(&edge, offset);
        let said = edge.get(&path).await;
        assert!(nar.starts_with(&said.body), "a wrong byte was given out");
        assert!(said.is_cut || said.body == nar, "ended as if it were whole");
        edge.until_idle().await;
        assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 1);
        let again = edge.get(&path).await;
        assert_eq!(again.status, 200);
        again.with(&nar);
        edge.until_idle().await;
        edge.get(&path).await.expect(200, "hit_disk").with(&nar);
        assert_eq!(origin.count(&path), 2);
    }
}

#[tokio::test]
async fn the_scrubber_finds_a_flipped_bit_and_what_was_in_use_is_fetched_again() {
    for site in ["", "kind = \"generic\""] {
        the_scrubber_heals(site).await;
    }
}

async fn the_scrubber_heals(site: &str) {
    let setup = Setup::default().site(site);
    let (edge, origin, path, nar) =
        stored(setup.tables("scrub_pass = \"1s\"\nscrub_rate = \"1GiB\"")).await;
    flip(&edge, 1_234_567);
    edge.until_metric("narthex_check_faults_total{by=\"scrub\",kind=\"body\"}", 1).await;
    edge.until_metric("narthex_healed_objects_total{result=\"stored\"}", 1).await;
    assert_eq!(origin.count(&path), 2, "no request asked for it");
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(origin.count(&path), 2);
    assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 1);
    if !site.contains("generic") {
        let labels = "class=\"nar\",method=\"get\",origin=\"origin-0\",reason=\"heal\"";
        let healing = format!("narthex_origin_requests_by_reason_total{{{labels}}}");
        assert_eq!(edge.metric(&healing).await, 1);
    }
}
