//! NARs that were deleted while their narinfo is stored: the next request for the narinfo finds
//! what exists now.

use crate::harness::{Edge, Origin, Package, Script, Setup, says};

#[tokio::test]
async fn the_404_of_a_nar_makes_its_narinfo_stale() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).await;
    let old = Package::new(1, 10);
    let new = Package::at(1, 20, "/nar/new.nar.zst");
    origin.say(&old.narinfo_path, says(old.narinfo()).etag("\"old\""));
    edge.get(&old.narinfo_path).await.expect(200, "miss");
    if edge.has_disk() {
        edge.restart().await;
    }
    origin.say(&new.narinfo_path, says(new.narinfo()).etag("\"new\""));
    origin.say(&new.nar_path, says(new.nar.clone()));
    edge.get(&old.nar_path).await.expect(404, "absent");
    let renewed = edge.get(&old.narinfo_path).await;
    renewed.expect(200, "miss").with(new.narinfo().as_bytes());
    edge.get(&new.nar_path).await.expect(200, "miss").with(&new.nar);
    // The old place says nothing of the new narinfo.
    edge.pass_time(60);
    edge.get(&old.nar_path).await.expect(404, "absent");
    edge.get(&new.narinfo_path).await.expect(200, "hit_memory");
    assert_eq!(origin.count(&new.narinfo_path), 2);
}

#[tokio::test]
async fn a_head_and_a_range_that_find_a_nar_absent_do_the_same() {
    for fields in [None, Some(("range", "bytes=1-2"))] {
        let origin = Origin::start().await;
        let edge = Edge::before(&origin).await;
        let package = Package::new(2, 10);
        origin.say(&package.narinfo_path, says(package.narinfo()).etag("\"a\""));
        edge.get(&package.narinfo_path).await.expect(200, "miss");
        edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
        match fields {
            None => {
                edge.client().head(&package.nar_path).await.expect(404, "absent");
            }
            Some(range) => {
                edge.read_with(&package.nar_path, &[range]).await.expect(404, "absent");
            }
        }
        edge.get(&package.narinfo_path).await.expect(200, "miss");
        edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    }
}

#[tokio::test]
async fn the_path_is_found_at_another_origin() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let here = Package::new(3, 10);
    let there = Package::at(3, 20, "/nar/there.nar.zst");
    first.say(&here.narinfo_path, says(here.narinfo()).etag("\"a\""));
    second.say(&there.narinfo_path, says(there.narinfo()).etag("\"a\""));
    second.say(&there.nar_path, says(there.nar.clone()));
    let edge = Setup::default().start(&[&first, &second]).await;
    edge.get(&here.narinfo_path).await.expect(200, "miss").with(here.narinfo().as_bytes());
    edge.get(&here.nar_path).await.expect(404, "absent");
    edge.get(&here.narinfo_path).await.expect(200, "miss").with(there.narinfo().as_bytes());
    edge.get(&there.nar_path).await.expect(200, "miss").with(&there.nar);
    assert_eq!(first.count(&here.narinfo_path), 1);
}

#[tokio::test]
async fn a_nar_that_cannot_be_had_says_nothing_of_its_narinfo() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let package = Package::new(4, 10);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, Script::status(500));
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.nar_path).await.expect(502, "origin_failed");
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
}
