//! Large bodies of generic sites that may be stored and that no disk takes: one fetch for all
//! requests that may share the answer, and for no other.

use crate::harness::{Arriving, Edge, Gate, Origin, Script, Setup, noise, says};
use bytes::Bytes;
use futures_util::future::join_all;

const MIB: usize = 1 << 20;
/// More than a window of memory and the buffers of a reader's connection.
const LONG: usize = 32 * MIB;

async fn edge(origin: &Origin, disk_size: &str) -> Edge {
    let setup = Setup::default().disk_size(disk_size);
    setup.site("kind = \"generic\"").start(&[origin]).await
}

fn fresh(body: &Bytes) -> Script {
    says(body.clone()).field("cache-control", "max-age=60")
}

/// FAULTS.md C4.
#[tokio::test]
async fn thirty_readers_of_what_no_disk_takes_cost_one_request() {
    let origin = Origin::start().await;
    let page = noise(60, 3 * MIB);
    for script in [fresh(&page), fresh(&page).etag("\"a\"")] {
        let edge = edge(&origin, "0").await;
        let (gate, before) = (Gate::default(), origin.count("/a"));
        let own = script.field("cache-control", "private=\"x-user\"").field("x-user", "one");
        origin.say("/a", own.held_at(2 * MIB, &gate));
        let mut readers = Vec::new();
        for number in 0..30 {
            let mut reader = edge.client().begin("/a", &[]).await;
            reader.read_to(100_000).await;
            assert_eq!(reader.outcome(), if number == 0 { "pass" } else { "collapsed" });
            assert_eq!(reader.headers.contains_key("x-user"), number == 0);
            readers.push(reader);
        }
        gate.open();
        for said in join_all(readers.into_iter().map(Arriving::rest)).await {
            said.expect_status(200).with(&page);
        }
        edge.until_idle().await;
        assert_eq!(origin.count("/a"), before + 1);
    }
}

#[tokio::test]
async fn answers_of_one_client_are_fetched_for_each() {
    let origin = Origin::start().await;
    let page = noise(61, MIB);
    for (field, value) in
        [("cache-control", "private"), ("cache-control", "no-store"), ("vary", "*")]
    {
        let edge = edge(&origin, "0").await;
        let (gate, before) = (Gate::default(), origin.count("/a"));
        let script = says(page.clone()).field(field, value);
        let script =
            if field == "vary" { script.field("cache-control", "max-age=60") } else { script };
        origin.say("/a", script.held_at(500_000, &gate));
        let mut readers = Vec::new();
        for _ in 0..3 {
            let mut reader = edge.client().begin("/a", &[]).await;
            reader.read_to(100_000).await;
            assert_eq!(reader.outcome(), "pass", "{field}: {value}");
            readers.push(reader);
        }
        gate.open();
        for said in join_all(readers.into_iter().map(Arriving::rest)).await {
            said.expect_status(200).with(&page);
        }
        assert_eq!(origin.count("/a"), before + 3, "{field}: {value}");
        let no_store = [("cache-control", "no-store")];
        edge.read_with("/a", &no_store).await.expect(200, "pass").with(&page);
    }
}

#[tokio::test]
async fn a_request_that_selects_another_variant_asks_for_itself() {
    let origin = Origin::start().await;
    let (german, english) = (noise(62, MIB), noise(63, MIB));
    let edge = edge(&origin, "0").await;
    let gate = Gate::default();
    let script = |page| {
        let tagged = fresh(page).etag(&format!("\"{}\"", page[0]));
        tagged.field("vary", "accept-language").held_at(500_000, &gate)
    };
    origin.say_in_turn("/a", vec![script(&german), script(&english)]);
    let mut readers = Vec::new();
    for (language, page, outcome) in
        [("de", &german, "pass"), ("en", &english, "pass"), ("de", &german, "collapsed")]
    {
        let mut reader = edge.client().begin("/a", &[("accept-language", language)]).await;
        reader.read_to(100_000).await;
        assert_eq!(reader.outcome(), outcome, "{language}");
        readers.push((reader, page));
    }
    gate.open();
    for (reader, page) in readers {
        reader.rest().await.expect_status(200).with(page);
    }
    assert_eq!(origin.count("/a"), 2);
}

/// FAULTS.md C4.
#[tokio::test]
async fn a_slow_reader_of_a_shared_page_gets_all_of_it_although_it_changes() {
    let origin = Origin::start().await;
    let (page, other) = (noise(64, 5 * MIB), noise(65, 5 * MIB));
    let edge = edge(&origin, "0").await;
    let gate = Gate::default();
    origin.say_in_turn("/a", vec![fresh(&page).held_at(100_000, &gate), fresh(&other)]);
    let mut fast = edge.client().begin("/a", &[]).await;
    fast.read_to(1).await;
    let slow = edge.client().begin("/a", &[]).await;
    gate.open();
    fast.rest().await.expect(200, "pass").with(&page);
    slow.rest().await.expect(200, "collapsed").with(&page);
    assert_eq!(origin.count("/a"), 1);
    edge.get("/a").await.expect(200, "pass").with(&other);
}

/// A reader that falls behind could not go on.
#[tokio::test]
async fn a_page_that_memory_has_no_room_for_is_fetched_for_each_reader() {
    let origin = Origin::start().await;
    let page = noise(66, LONG);
    let edge = edge(&origin, "0").await;
    for script in [fresh(&page), fresh(&page).chunked(), fresh(&page).etag("\"a\"")] {
        let (gate, before) = (Gate::default(), origin.count("/a"));
        origin.say_in_turn("/a", vec![script.clone().held_at(100_000, &gate), script]);
        let mut fast = edge.client().begin("/a", &[]).await;
        fast.read_to(1).await;
        let slow = edge.client().begin("/a", &[]).await;
        gate.open();
        fast.rest().await.expect(200, "pass").with(&page);
        slow.rest().await.expect(200, "pass").with(&page);
        assert_eq!(origin.count("/a"), before + 2);
    }
}
