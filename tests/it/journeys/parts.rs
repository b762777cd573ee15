//! Ranges of objects that are not stored as a whole: what is asked of the origin, what is kept,
//! what becomes of it.

use crate::harness::{Edge, Gate, Made, Said, Setup, VirtualOrigin, Wish, eventually};

const CHUNK: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Narinfos prove nothing of this path; its origin's tag ties its parts.
fn path(number: u64) -> String {
    format!("/nar/{number:052}.nar.zst")
}

/// An edge that completes nothing in the background.
fn without_completion() -> Setup {
    Setup::default()
        .disk_size("4GiB")
        .tables("[server.limits]\ncompletion_size_max = 0\nconnections_per_address_max = 1000")
}

async fn before(setup: Setup, origin: &VirtualOrigin) -> Edge {
    setup.start_before(&[origin.table()]).await
}

async fn range(edge: &Edge, path: &str, range: &str) -> Said {
    edge.read_with(path, &[("range", range)]).await
}

/// Expects a 206 with these bytes of an object.
#[track_caller]
fn expect_part(said: &Said, outcome: &str, object: &Made, first: u64, last: u64) {
    said.expect(206, outcome).with(&object.bytes(first..last + 1));
    let named = format!("bytes {first}-{last}/{}", object.length);
    assert_eq!(said.field("content-range"), named);
    assert_eq!(said.field("etag"), object.etag);
}

fn asked(first: u64, last: Option<u64>, path: &str) -> Wish {
    let (method, path) = ("GET".to_owned(), path.to_owned());
    Wish { method, path, range: Some((first, last)), if_match: None }
}

#[tokio::test]
async fn a_range_of_a_cold_object_brings_in_its_chunks_alone() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, GIB), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    let said = range(&edge, &path, "bytes=5000000-5000009").await;
    expect_part(&said, "miss", &object, 5_000_000, 5_000_009);
    assert_eq!(origin.wishes(), [asked(4 * CHUNK, Some(5 * CHUNK - 1), &path)]);
    assert_eq!(origin.sent(), CHUNK);
    edge.until_idle().await;

    let said = range(&edge, &path, "bytes=4194304-5242879").await;
    expect_part(&said, "hit_disk", &object, 4 * CHUNK, 5 * CHUNK - 1);
    assert!(!said.field("age").is_empty());
    let said = range(&edge, &path, "bytes=5242870-5242890").await;
    expect_part(&said, "miss", &object, 5_242_870, 5_242_890);
    let wishes = origin.wishes();
    assert_eq!(wishes.len(), 2);
    assert_eq!(wishes[1].range, Some((5 * CHUNK, Some(6 * CHUNK - 1))));
    assert_eq!(wishes[1].if_match.as_deref(), Some("\"v1\""));
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_chunks_total{result=\"fetched\"}").await, 2);
    assert_eq!(edge.metric("narthex_part_objects").await, 1);
    let bytes = edge.metric("narthex_part_bytes").await;
    assert!((2 * CHUNK..2 * CHUNK + 8192).contains(&bytes), "{bytes}");
    assert_eq!(edge.metric("narthex_stored_objects{tier=\"disk\"}").await, 1);
    assert_eq!(edge.metric("narthex_stored_bytes{tier=\"disk\"}").await, bytes);
}

/// The amplification that every network of caches has had: a byte of a gigabyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_of_each_of_many_cold_gigabytes_costs_a_chunk_of_each() {
    let objects: u64 = if cfg!(debug_assertions) { 60 } else { 1000 };
    let origin = VirtualOrigin::start().await;
    for number in 0..objects {
        origin.set(&path(number), Some(Made::new(number + 1, GIB)));
    }
    let edge = before(without_completion(), &origin).await;
    for batch in (0..objects).collect::<Vec<_>>().chunks(20) {
        let asking = batch.iter().map(|number| {
            let (client, path) = (edge.client(), path(*number));
            tokio::spawn(async move { client.read_with(&path, &[("range", "bytes=0-0")]).await })
        });
        for (number, said) in batch.iter().zip(asking.collect::<Vec<_>>()) {
            expect_part(&said.await.unwrap(), "miss", &Made::new(number + 1, GIB), 0, 0);
        }
    }
    edge.until_idle().await;
    let sent = origin.sent();
    assert!(sent * 100 <= objects * CHUNK * 105, "{sent} bytes for {objects} chunks");
    assert_eq!(origin.wishes().len() as u64, objects);
}

#[tokio::test]
async fn a_resumed_download_starts_where_it_stopped() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 40 * CHUNK + 77), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    let first = 25 * CHUNK + 12_345;
    let said = range(&edge, &path, &format!("bytes={first}-")).await;
    expect_part(&said, "miss", &object, first, object.length - 1);
    assert_eq!(origin.wishes(), [asked(25 * CHUNK, None, &path)]);
    edge.until_idle().await;
    let said = range(&edge, &path, "bytes=24117248-").await;
    expect_part(&said, "miss", &object, 23 * CHUNK, object.length - 1);
    let wishes = origin.wishes();
    assert_eq!(wishes[1].range, Some((23 * CHUNK, Some(25 * CHUNK - 1))), "what is here is not");
    assert_eq!(wishes.len(), 2);
}

#[tokio::test]
async fn a_range_far_ahead_of_a_fill_does_not_wait_for_it() {
    for whole in [true, false] {
        let origin = VirtualOrigin::start().await;
        let (object, path) = (Made::new(1, 64 * CHUNK), path(1));
        origin.set(&path, Some(object.clone()));
        let gate = Gate::default();
        origin.hold(2 * CHUNK, &gate);
        let edge = before(without_completion(), &origin).await;
        let fields: &[(&str, &str)] = if whole { &[] } else { &[("range", "bytes=1048577-")] };
        let mut slow = edge.client().begin(&path, fields).await;
        slow.read_to(1000).await;
        let said = range(&edge, &path, "bytes=52428800-52428899").await;
        assert_eq!(said.status, 206, "while the other is held");
        assert!(said.body == object.bytes(50 * CHUNK..50 * CHUNK + 100));
        gate.open();
        let said = slow.rest().await;
        let first = if whole { 0 } else { CHUNK + 1 };
        assert!(!said.is_cut && said.body == object.bytes(first..object.length), "{whole}");
        edge.until_idle().await;
    }
}

#[tokio::test]
async fn a_range_near_what_a_fill_brings_reads_along() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 8 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let gate = Gate::default();
    origin.hold(2 * CHUNK, &gate);
    let edge = before(without_completion(), &origin).await;
    let mut whole = edge.client().begin(&path, &[]).await;
    whole.read_to(1000).await;
    let near = edge.client().begin(&path, &[("range", "bytes=3000000-3000009")]).await;
    gate.open();
    expect_part(&near.rest().await, "collapsed", &object, 3_000_000, 3_000_009);
    whole.rest().await.expect(200, "miss");
    assert_eq!(origin.wishes().len(), 1);
}

#[tokio::test]
async fn many_readers_of_one_range_cost_one_fetch() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, GIB), path(1));
    origin.set(&path, Some(object.clone()));
    let gate = Gate::default();
    origin.hold(100_000, &gate);
    let edge = before(without_completion(), &origin).await;
    let mut readers = Vec::new();
    for number in 0..20_u64 {
        let asked = format!("bytes={}-{}", number * 1000, 2 * CHUNK + number);
        let mut reader = edge.client().begin(&path, &[("range", &asked)]).await;
        reader.read_to(1000).await;
        readers.push(reader);
    }
    gate.open();
    for (number, reader) in (0_u64..).zip(readers) {
        let outcome = if number == 0 { "miss" } else { "collapsed" };
        let (first, last) = (number * 1000, 2 * CHUNK + number);
        expect_part(&reader.rest().await, outcome, &object, first, last);
    }
    assert_eq!((origin.wishes().len(), origin.sent()), (1, 3 * CHUNK), "{:?}", origin.wishes());
}

#[tokio::test]
async fn a_gap_that_finds_no_room_yet_refuses_no_answer() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 8 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let limits = "[server.limits]\ncompletion_size_max = 0\nfills_max = 1";
    let edge = before(Setup::default().disk_size("4GiB").tables(limits), &origin).await;
    range(&edge, &path, "bytes=0-9").await.expect_status(206);
    edge.until_idle().await;
    let gate = Gate::default();
    origin.hold(100_000, &gate);
    let mut second = edge.client().begin(&path, &[("range", "bytes=1048576-2097151")]).await;
    second.read_to(1000).await;
    // The first chunk is here, the second arrives, and nothing may bring the third as yet.
    let mut all = edge.client().begin(&path, &[("range", "bytes=0-3145727")]).await;
    all.read_to(1000).await;
    gate.open();
    let said = all.rest().await;
    assert!(said.status == 206 && !said.is_cut && said.body == object.bytes(0..3 * CHUNK));
    second.rest().await.expect_status(206);
    assert_eq!(origin.sent(), 3 * CHUNK);
}

#[tokio::test]
async fn suffixes_and_ranges_that_do_not_fit() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 20 * CHUNK + 5), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    let last = object.length - 1;
    expect_part(&range(&edge, &path, "bytes=-10").await, "miss", &object, last - 9, last);
    let methods: Vec<String> = origin.wishes().into_iter().map(|wish| wish.method).collect();
    assert_eq!(methods, ["HEAD", "GET"]);
    assert_eq!(origin.sent(), CHUNK + 5);
    edge.until_idle().await;
    let beyond = range(&edge, &path, &format!("bytes={}-", object.length)).await;
    beyond.expect(416, "hit_disk").with(b"");
    assert_eq!(beyond.field("content-range"), format!("bytes */{}", object.length));
    let other = self::path(2);
    origin.set(&other, Some(object.clone()));
    let far = range(&edge, &other, "bytes=99999999999-").await;
    far.expect(416, "pass").with(b"");
    assert_eq!(far.field("content-range"), format!("bytes */{}", object.length));
    let absent = self::path(3);
    range(&edge, &absent, "bytes=5-9").await.expect(404, "absent");
    range(&edge, &absent, "bytes=5-9").await.expect(404, "hit_absent");
    assert_eq!(origin.sent(), CHUNK + 5);
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_part_objects").await, 1);
}

#[tokio::test]
async fn several_ranges_that_touch_are_one_and_others_are_the_whole() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 10 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    let said = range(&edge, &path, "bytes=5-9,0-4").await;
    expect_part(&said, "miss", &object, 0, 9);
    assert_eq!(origin.sent(), CHUNK);
    edge.until_idle().await;
    let said = range(&edge, &path, "bytes=0-1,500-501").await;
    said.expect(200, "miss").with(&object.bytes(0..object.length));
}

#[tokio::test]
async fn conditions_are_judged_once_the_head_is_known() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 10 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    let with = |name, value| [("range", "bytes=0-9"), (name, value)];
    edge.read_with(&path, &with("if-none-match", "\"v1\"")).await.expect(304, "pass");
    edge.until_idle().await;
    edge.read_with(&path, &with("if-none-match", "\"v1\"")).await.expect(304, "hit_disk");
    edge.read_with(&path, &with("if-match", "\"v2\"")).await.expect(412, "hit_disk");
    let same = edge.read_with(&path, &with("if-range", "\"v1\"")).await;
    expect_part(&same, "hit_disk", &object, 0, 9);
    assert_eq!(origin.sent(), CHUNK);
    let other = edge.read_with(&path, &with("if-range", "\"v2\"")).await;
    other.expect(200, "miss").with(&object.bytes(0..object.length));
}

/// FAULTS.md Held: objects of 5 GiB.
#[tokio::test]
async fn bytes_beyond_four_gibibytes_are_the_right_ones() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 5 * GIB + 3), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion().disk_size("6GiB"), &origin).await;
    for (first, last) in [
        (4 * GIB - 1, 4 * GIB),
        (4 * GIB + 5, 4 * GIB + 4 * CHUNK),
        (5 * GIB - 10, 5 * GIB + 2),
        (u64::from(u32::MAX), u64::from(u32::MAX)),
    ] {
        let said = range(&edge, &path, &format!("bytes={first}-{last}")).await;
        expect_part(&said, &said.outcome(), &object, first, last);
        edge.until_idle().await;
    }
    let said = range(&edge, &path, &format!("bytes={}-", 5 * GIB - 10)).await;
    expect_part(&said, "hit_disk", &object, 5 * GIB - 10, 5 * GIB + 2);
    assert!(origin.sent() < 10 * CHUNK, "{}", origin.sent());
}

#[tokio::test]
async fn little_that_is_missing_is_fetched_in_the_background() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 9 * CHUNK + 1), path(1));
    origin.set(&path, Some(object.clone()));
    let mut edge = before(Setup::default(), &origin).await;
    expect_part(
        &range(&edge, &path, "bytes=4194304-4194304").await,
        "miss",
        &object,
        4 * CHUNK,
        4 * CHUNK,
    );
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_completions_total{result=\"stored\"}").await, 1);
    assert_eq!(edge.metric("narthex_part_objects").await, 0);
    assert_eq!(edge.metric("narthex_part_bytes").await, 0);
    edge.get(&path).await.expect(200, "hit_disk").with(&object.bytes(0..object.length));
    assert_eq!(origin.sent(), object.length);
    edge.restart().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&object.bytes(0..object.length));
    assert_eq!(edge.objects_on_disk().1, 1);
    assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 0);
}

#[tokio::test]
async fn what_is_here_in_part_outlives_a_restart() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 100 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let mut edge = before(without_completion(), &origin).await;
    let (first, last) = (7 * CHUNK + 5, 9 * CHUNK + 5);
    let asked = format!("bytes={first}-{last}");
    expect_part(&range(&edge, &path, &asked).await, "miss", &object, first, last);
    edge.until_idle().await;
    let bytes = edge.metric("narthex_stored_bytes{tier=\"disk\"}").await;
    edge.restart().await;
    expect_part(&range(&edge, &path, &asked).await, "hit_disk", &object, first, last);
    assert_eq!(origin.sent(), 3 * CHUNK);
    edge.until_metric("narthex_part_objects", 1).await;
    assert_eq!(edge.metric("narthex_stored_bytes{tier=\"disk\"}").await, bytes);
    assert_eq!(edge.metric("narthex_part_bytes").await, bytes);
}

#[tokio::test]
async fn a_damaged_chunk_is_fetched_again() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 100 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let mut edge = before(without_completion(), &origin).await;
    let asked = "bytes=3145728-5242879";
    expect_part(&range(&edge, &path, asked).await, "miss", &object, 3 * CHUNK, 5 * CHUNK - 1);
    edge.until_idle().await;
    assert!(edge.stop().await);
    flip(&edge.object_files()[0], 4 * CHUNK + 77);
    edge.start_again().await;
    // All of it seems to be here until it is read.
    let said = range(&edge, &path, asked).await;
    expect_part(&said, &said.outcome(), &object, 3 * CHUNK, 5 * CHUNK - 1);
    assert_eq!(origin.sent(), 3 * CHUNK);
    assert_eq!(edge.metric("narthex_chunks_total{result=\"damaged\"}").await, 1);
    edge.until_idle().await;
    let said = range(&edge, &path, asked).await;
    expect_part(&said, "hit_disk", &object, 3 * CHUNK, 5 * CHUNK - 1);
}

fn flip(file: &std::path::Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[tokio::test]
async fn an_object_that_changes_is_never_mixed() {
    let origin = VirtualOrigin::start().await;
    let (old, new, path) = (Made::new(1, 100 * CHUNK), Made::new(2, 100 * CHUNK), path(1));
    origin.set(&path, Some(old.clone()));
    let edge = before(without_completion(), &origin).await;
    expect_part(&range(&edge, &path, "bytes=0-9").await, "miss", &old, 0, 9);
    edge.until_idle().await;
    origin.set(&path, Some(new.clone()));
    expect_part(&range(&edge, &path, "bytes=0-9").await, "hit_disk", &old, 0, 9);
    // The second chunk is not here: its origin says that there is another object now, before any
    // byte of the first one is sent.
    let said = range(&edge, &path, "bytes=1048570-1048590").await;
    expect_part(&said, "miss", &new, 1_048_570, 1_048_590);
    assert_eq!(edge.metric("narthex_parts_dropped_total{reason=\"changed\"}").await, 1);
    edge.until_idle().await;
    origin.set(&path, Some(old.clone()));
    // Nothing was sent yet: begun anew, unseen.
    let said = range(&edge, &path, "bytes=5242880-5242889").await;
    expect_part(&said, "miss", &old, 5 * CHUNK, 5 * CHUNK + 9);
    edge.until_idle().await;
    origin.set(&path, None);
    range(&edge, &path, "bytes=9437184-9437189").await.expect(404, "absent");
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
    assert_eq!(edge.metric("narthex_part_objects").await, 0);
}

#[tokio::test]
async fn what_nothing_ties_together_passes_through() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made { etag: String::new(), ..Made::new(1, 100 * CHUNK) }, path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    for _ in 0..2 {
        let said = range(&edge, &path, "bytes=5242885-5242890").await;
        expect_part(&said, "pass", &object, 5_242_885, 5_242_890);
    }
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
    assert!(origin.sent() <= 2 * CHUNK);
}

#[tokio::test]
async fn without_a_disk_the_range_alone_passes_through() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, GIB), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion().disk_size("0"), &origin).await;
    let said = range(&edge, &path, "bytes=5242885-5242890").await;
    expect_part(&said, "pass", &object, 5_242_885, 5_242_890);
    let said = range(&edge, &path, "bytes=-6").await;
    expect_part(&said, "pass", &object, GIB - 6, GIB - 1);
    assert_eq!(origin.sent(), 12);
    assert_eq!(edge.metric("narthex_range_bytes_total{what=\"passed\"}").await, 12);
}

#[tokio::test]
async fn an_origin_that_sends_no_parts_is_filled_from_as_a_whole() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made { knows_ranges: false, ..Made::new(1, 4 * CHUNK) }, path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    let said = range(&edge, &path, "bytes=2097152-2097161").await;
    expect_part(&said, "miss", &object, 2 * CHUNK, 2 * CHUNK + 9);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&object.bytes(0..object.length));
    assert_eq!(origin.wishes().len(), 1, "its answer to the range was taken up");
}

#[tokio::test]
async fn a_purge_stops_what_began_before_it() {
    let origin = VirtualOrigin::start().await;
    let (old, new, path) = (Made::new(1, 30 * CHUNK), Made::new(2, 30 * CHUNK), path(1));
    let edge = before(Setup::default(), &origin).await;
    for purge in
        [format!("{{\"path\": \"{path}\"}}"), format!("{{\"path\": \"{path}\", \"soft\": true}}")]
    {
        let gate = Gate::default();
        origin.set(&path, Some(old.clone()));
        origin.hold(1_500_000, &gate);
        let mut reader = edge.client().begin(&path, &[("range", "bytes=2097152-7000000")]).await;
        reader.read_to(100_000).await;
        edge.purge(&purge).await.expect(200, "");
        origin.set(&path, Some(new.clone()));
        gate.open();
        let said = reader.rest().await;
        assert!(!said.is_cut && said.body == old.bytes(2 * CHUNK..7_000_001), "readers go on");
        edge.until_idle().await;
        let said = range(&edge, &path, "bytes=2097152-2097160").await;
        expect_part(&said, "miss", &new, 2 * CHUNK, 2 * CHUNK + 8);
        edge.until_idle().await;
        edge.get(&path).await.expect(200, "hit_disk").with(&new.bytes(0..new.length));
        edge.purge(&purge.replace(", \"soft\": true", "")).await.expect(200, "");
        assert_eq!(edge.objects_on_disk(), (0, 0));
    }
}

#[tokio::test]
async fn every_purge_takes_what_is_here_in_part() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 300 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    for purge in [
        format!("{{\"path\": \"{path}\"}}"),
        format!("{{\"path\": \"{path}\", \"soft\": true}}"),
        "{\"prefix\": \"/nar/\"}".to_owned(),
        "{\"all\": true}".to_owned(),
    ] {
        let said = range(&edge, &path, "bytes=2097152-2097160").await;
        expect_part(&said, "miss", &object, 2 * CHUNK, 2 * CHUNK + 8);
        edge.until_idle().await;
        assert_eq!(edge.objects_on_disk().1, 1);
        let said = edge.purge(&purge).await;
        assert_eq!(said.status, 200, "{purge}: {}", said.text());
        assert_eq!(edge.objects_on_disk(), (0, 0), "{purge}");
        assert_eq!(edge.metric("narthex_part_bytes").await, 0);
        assert_eq!(edge.metric("narthex_stored_bytes{tier=\"disk\"}").await, 0);
    }
}

#[tokio::test]
async fn a_whole_takes_the_place_of_a_part() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 6 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    expect_part(&range(&edge, &path, "bytes=9-9").await, "miss", &object, 9, 9);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "miss").with(&object.bytes(0..object.length));
    edge.until_idle().await;
    expect_part(&range(&edge, &path, "bytes=9-9").await, "hit_disk", &object, 9, 9);
    assert_eq!(edge.objects_on_disk().1, 1);
    assert_eq!(edge.metric("narthex_part_objects").await, 0);
    assert_eq!(edge.metric("narthex_stored_objects{tier=\"disk\"}").await, 1);
}

#[tokio::test]
async fn parts_are_evicted_like_others() {
    let origin = VirtualOrigin::start().await;
    let edge = before(without_completion().disk_size("20MiB"), &origin).await;
    for number in 0..40 {
        let object = Made::new(number + 1, 15 * CHUNK);
        origin.set(&path(number), Some(object.clone()));
        let said = range(&edge, &path(number), "bytes=1048576-3145727").await;
        expect_part(&said, "miss", &object, CHUNK, 3 * CHUNK - 1);
        edge.until_idle().await;
        let bytes = edge.metric("narthex_stored_bytes{tier=\"disk\"}").await;
        assert!(bytes <= 20 * CHUNK, "{bytes}");
    }
    let files = edge.objects_on_disk().1 as u64;
    assert!((4..10).contains(&files), "{files}");
    assert_eq!(edge.metric("narthex_part_objects").await, files);
    // One that would never fit as a whole passes.
    origin.set(&path(99), Some(Made::new(99, GIB)));
    range(&edge, &path(99), "bytes=5-9").await.expect(206, "pass");
}

#[tokio::test]
async fn a_client_that_leaves_costs_little() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, GIB), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    let mut reader = edge.client().begin(&path, &[("range", "bytes=104857600-")]).await;
    assert!(
        reader.read_to(1000).await == &object.bytes(100 * CHUNK..100 * CHUNK + 1000)[..1000]
            || reader.read_to(1000).await.len() > 1000
    );
    drop(reader);
    edge.until_idle().await;
    assert!(origin.sent() < 64 * CHUNK, "{}", origin.sent());
    assert!(edge.metric("narthex_chunks_total{result=\"fetched\"}").await < 40);
}

#[tokio::test]
async fn a_stale_part_is_confirmed_by_its_head() {
    let origin = VirtualOrigin::start().await;
    let (object, path) = (Made::new(1, 30 * CHUNK), path(1));
    origin.set(&path, Some(object.clone()));
    let edge = before(without_completion(), &origin).await;
    expect_part(&range(&edge, &path, "bytes=0-9").await, "miss", &object, 0, 9);
    edge.until_idle().await;
    edge.pass_time(400 * 86_400);
    expect_part(&range(&edge, &path, "bytes=0-9").await, "revalidated", &object, 0, 9);
    expect_part(&range(&edge, &path, "bytes=0-9").await, "hit_disk", &object, 0, 9);
    edge.pass_time(400 * 86_400);
    let other = Made::new(2, 30 * CHUNK);
    origin.set(&path, Some(other.clone()));
    expect_part(&range(&edge, &path, "bytes=0-9").await, "miss", &other, 0, 9);
    eventually("three requests for bytes or heads", || origin.wishes().len() == 4).await;
}
