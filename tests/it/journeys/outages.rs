//! The origin dies in mid-body, again and again, and comes back: no reader notices anything.

use crate::harness::{Brittle, Edge, Setup, noise, path_of_nar};
use bytes::Bytes;

async fn before(origin: &Brittle, timeouts: &str) -> Edge {
    let table = format!("url = \"{}\"\nname = \"origin-0\"", origin.url());
    Setup::default().timeouts(timeouts).start_before(&[table]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_readers_do_not_notice_that_the_origin_dies_again_and_again() {
    const LENGTH: u64 = 32 << 20;
    let nar = noise(1, 32 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let origin = Brittle::start(&path, nar.clone()).await;
    origin.dies_at(1_500_000);
    let edge = before(&origin, "between_bytes = \"20s\"").await;
    // A range that comes before any request for the whole has a fetch of its own: here the whole is
    // under way first.
    let whole = edge.client().begin(&path, &[]).await;
    assert_eq!(whole.status, 200);
    let compared = nar.clone();
    let whole = tokio::spawn(async move { whole.compare(&compared).await });
    let readers: Vec<_> = (1..200_usize)
        .map(|number| {
            let (client, path, nar) = (edge.client(), path.clone(), nar.clone());
            tokio::spawn(async move { read_from(client, &path, &nar, number * 10_007).await })
        })
        .collect();
    for more in [10_000, 4_000_000, 1, 9_000_000, 700_000, u64::MAX / 2] {
        origin.until_dead().await;
        origin.revive(origin.sent() + more).await;
    }
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(whole.await.unwrap(), (Some(nar.len()), false));
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    let received = "narthex_origin_bytes_total{class=\"nar\",origin=\"origin-0\"}";
    let received = edge.metric(received).await;
    assert!((LENGTH..LENGTH + LENGTH / 100).contains(&received), "{received}");
}

async fn read_from(client: crate::harness::Client, path: &str, nar: &Bytes, first: usize) {
    let range = format!("bytes={first}-");
    let fields = [("range", &*range)];
    let fields = if first == 0 { &[][..] } else { &fields[..] };
    let arriving = client.begin(path, fields).await;
    assert_eq!(arriving.status, if first == 0 { 200 } else { 206 });
    assert_eq!(arriving.compare(&nar[first..]).await, (Some(nar.len() - first), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pieces_of_an_object_survive_the_deaths_of_its_origin() {
    const LENGTH: u64 = 24 << 20;
    let nar = noise(4, 24 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let origin = Brittle::start_ranged(&path, nar.clone()).await;
    origin.dies_at(3_500_000);
    let table = format!("url = \"{}\"\nname = \"origin-0\"", origin.url());
    let pieces = "[server.pieces]\nsize = \"1MiB\"\nper_fill_max = 4\nafter = \"0s\"";
    let edge = Setup::default().tables(pieces).start_before(&[table]).await;
    let whole = edge.client().begin(&path, &[]).await;
    let compared = nar.clone();
    let whole = tokio::spawn(async move { whole.compare(&compared).await });
    for more in [10_000, 4_000_000, 1, 3_000_000, 700_000, u64::MAX / 2] {
        origin.until_dead().await;
        origin.revive(origin.sent() + more).await;
    }
    assert_eq!(whole.await.unwrap(), (Some(nar.len()), false));
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    let received = "narthex_origin_bytes_total{class=\"nar\",origin=\"origin-0\"}";
    let received = edge.metric(received).await;
    assert!((LENGTH..2 * LENGTH).contains(&received), "{received}");
}

#[tokio::test]
async fn an_origin_that_does_not_come_back_in_time_cuts_its_readers() {
    let nar = noise(2, 1 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let origin = Brittle::start(&path, nar.clone()).await;
    origin.dies_at(300_000);
    let edge = before(&origin, "resume = \"200ms\"").await;
    let said = edge.get(&path).await;
    assert!(said.is_cut && said.body == nar[..said.body.len()]);
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
    origin.revive(u64::MAX).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
}

#[tokio::test]
async fn a_body_that_is_not_stored_survives_the_death_of_its_origin_too() {
    let nar = noise(3, 4 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let origin = Brittle::start(&path, nar.clone()).await;
    origin.dies_at(300_000);
    let table = format!("url = \"{}\"\nname = \"origin-0\"", origin.url());
    let edge = Setup::default().disk_size("0").start_before(&[table]).await;
    let reading = {
        let (client, path, nar) = (edge.client(), path.clone(), nar.clone());
        tokio::spawn(async move { read_from(client, &path, &nar, 0).await })
    };
    for more in [100_000, 1_000_000, u64::MAX / 2] {
        origin.until_dead().await;
        origin.revive(origin.sent() + more).await;
    }
    reading.await.unwrap();
}
