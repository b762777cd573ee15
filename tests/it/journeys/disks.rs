//! Several disks: one goes away and comes back, and clients notice nothing.

use crate::harness::{Edge, Made, Origin, Setup, VirtualOrigin, noise, path_of_nar, says};
use bytes::Bytes;

/// An edge with two disks that holds these NARs, and the paths of the NARs.
async fn two_disks(origin: &Origin, count: u64) -> (Edge, Vec<(String, Bytes)>) {
    let edge = Setup::default().disks(2).start(&[origin]).await;
    let mut nars = Vec::new();
    for seed in 0..count {
        let nar = noise(seed, 100_000);
        let path = path_of_nar(&nar, "nar.xz");
        origin.say(&path, says(nar.clone()).etag("\"a\""));
        edge.get(&path).await.expect(200, "miss").with(&nar);
        nars.push((path, nar));
    }
    edge.until_idle().await;
    (edge, nars)
}

fn of_disk(edge: &Edge, name: &str, number: usize) -> String {
    format!("narthex_disk_{name}{{disk=\"{}\"}}", edge.disk_label(number))
}

#[tokio::test]
async fn one_of_two_disks_goes_and_comes_back() {
    let origin = Origin::start().await;
    let (edge, nars) = two_disks(&origin, 16).await;
    let lost = edge.metric(&of_disk(&edge, "stored_objects", 1)).await;
    assert!(lost > 0 && lost < 16, "{lost} of 16 are on the second disk");
    edge.take_disk(1);
    edge.until_metric(&of_disk(&edge, "writable", 1), 0).await;
    let mut fetched = 0;
    for (path, nar) in &nars {
        let said = edge.get(path).await;
        said.expect_one_of(200, &["hit_disk", "miss"]).with(nar);
        fetched += u64::from(said.outcome() == "miss");
    }
    assert!(fetched <= lost, "{fetched} fetched again, {lost} were lost");
    edge.until_idle().await;
    for (path, nar) in &nars {
        edge.get(path).await.expect(200, "hit_disk").with(nar);
    }
    edge.bring_disk_back(1);
    edge.until_metric(&of_disk(&edge, "writable", 1), 1).await;
    for (path, nar) in &nars {
        edge.get(path).await.expect(200, "hit_disk").with(nar);
    }
}

#[tokio::test]
async fn what_is_purged_while_its_disk_is_away_is_fetched_anew() {
    let origin = Origin::start().await;
    let (mut edge, nars) = two_disks(&origin, 8).await;
    edge.take_disk(1);
    edge.until_metric(&of_disk(&edge, "stored_objects", 1), 0).await;
    assert_eq!(edge.purge("{\"all\": true}").await.status, 200);
    edge.bring_disk_back(1);
    edge.restart().await;
    for (path, nar) in &nars {
        let before = origin.count(path);
        edge.get(path).await.expect(200, "miss").with(nar);
        assert!(origin.count(path) > before, "{path} was purged");
    }
}

#[tokio::test]
async fn a_path_that_only_a_disk_that_is_away_may_know_is_not_called_absent() {
    let origin = Origin::start().await;
    let (edge, _) = two_disks(&origin, 1).await;
    edge.get("/packages/a.tar").await.expect(404, "refused");
    edge.take_disk(1);
    edge.until_metric(&of_disk(&edge, "writable", 1), 0).await;
    let said = edge.get("/packages/a.tar").await;
    said.expect(503, "refused");
    assert!(said.headers.contains_key("retry-after"));
    edge.bring_disk_back(1);
    edge.until_metric(&of_disk(&edge, "writable", 1), 1).await;
    edge.get("/packages/a.tar").await.expect(404, "refused");
}

#[tokio::test]
async fn readiness_names_the_disk_that_is_out() {
    let origin = Origin::start().await;
    let (edge, _) = two_disks(&origin, 1).await;
    let ready = edge.admin().get("/readyz").await;
    let checks: serde_json::Value = serde_json::from_slice(&ready.body).unwrap();
    let named = format!("disk {}", edge.disk_label(1));
    assert!(checks["checks"].as_array().unwrap().iter().any(|check| check["name"] == named));
    assert_eq!(ready.status, 200);
}

#[tokio::test]
async fn ranges_of_cold_objects_are_kept_on_either_disk_over_a_restart() {
    const CHUNK: u64 = 1 << 20;
    let origin = VirtualOrigin::start().await;
    let setup = Setup::default().disks(2).tables("[server.limits]\ncompletion_size_max = 0");
    let mut edge = setup.start_before(&[origin.table()]).await;
    let objects = (0..16).map(|number| {
        let (path, object) =
            (format!("/nar/{number:052}.nar.zst"), Made::new(number + 1, 5 * CHUNK));
        origin.set(&path, Some(object.clone()));
        (path, object)
    });
    let objects: Vec<_> = objects.collect();
    for outcome in ["miss", "hit_disk", "hit_disk"] {
        for (path, object) in &objects {
            let said = edge.read_with(path, &[("range", "bytes=2000000-2000099")]).await;
            said.expect(206, outcome).with(&object.bytes(2_000_000..2_000_100));
        }
        edge.until_idle().await;
        let parts = [0, 1].map(|number| of_disk(&edge, "stored_objects", number));
        let [one, other] = [edge.metric(&parts[0]).await, edge.metric(&parts[1]).await];
        assert!(one > 0 && other > 0 && one + other == 16, "{one} and {other}");
        assert_eq!(edge.metric("narthex_part_objects").await, 16);
        edge.restart().await;
    }
    assert_eq!(origin.wishes().len(), objects.len());
    // The whole takes the place of its part.
    for (path, object) in &objects {
        edge.get(path).await.expect(200, "miss").with(&object.bytes(0..object.length));
    }
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_part_objects").await, 0);
    assert_eq!(edge.metric("narthex_stored_objects{tier=\"disk\"}").await, 16);
}

#[tokio::test]
async fn what_is_served_from_memory_stays_on_the_disk_that_has_it() {
    let origin = Origin::start().await;
    let (mut edge, nars) = two_disks(&origin, 4).await;
    let narinfo = "/log/00000000000000000000000000000000-a.drv";
    origin.say(narinfo, says(Bytes::from_static(b"small")).etag("\"a\""));
    edge.get(narinfo).await.expect(200, "miss");
    edge.get(narinfo).await.expect(200, "hit_memory");
    edge.restart().await;
    edge.get(narinfo).await.expect(200, "hit_disk");
    edge.get(narinfo).await.expect(200, "hit_memory");
    for (path, nar) in &nars {
        edge.get(path).await.expect(200, "hit_disk").with(nar);
    }
}
