//! Large bodies that may be stored and that no disk takes: one fetch for all readers that come in
//! time, and never bytes of two bodies in one answer.

use crate::faults::pieces::{Gap, Pieces, Size};
use crate::harness::{Arriving, Edge, Gate, Origin, Script, Setup, noise, path_of_nar, says};
use bytes::Bytes;
use futures_util::future::join_all;

const MIB: usize = 1 << 20;
/// More than a window of memory and the buffers of a reader's connection.
const LONG: usize = 32 * MIB;

async fn without_disk(origin: &Origin) -> Edge {
    Setup::default().disk_size("0").start(&[origin]).await
}

fn damaged(body: &Bytes, at: usize) -> Bytes {
    let mut damaged = body.to_vec();
    damaged[at] ^= 1;
    damaged.into()
}

/// FAULTS.md C4.
#[tokio::test]
async fn thirty_readers_without_a_disk_cost_one_request() {
    let origin = Origin::start().await;
    let nar = noise(30, 6 * MIB);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).held_at(3 * MIB, &gate));
    let edge = without_disk(&origin).await;
    let mut readers = Vec::new();
    for number in 0..30 {
        let mut reader = edge.client().begin(&path, &[]).await;
        reader.read_to(400_000).await;
        assert_eq!(reader.outcome(), if number == 0 { "pass" } else { "collapsed" });
        readers.push(reader);
    }
    let part = edge.read_with(&path, &[("range", "bytes=100-199999")]).await;
    part.expect(206, "collapsed").with(&nar[100..200_000]);
    edge.client().head(&path).await.expect(200, "collapsed").with(b"");
    gate.open();
    for said in join_all(readers.into_iter().map(Arriving::rest)).await {
        said.expect_status(200).with(&nar);
    }
    edge.until_idle().await;
    assert_eq!(origin.count(&path), 1);
    assert_eq!(edge.metric("narthex_fills_total{class=\"nar\",result=\"passed\"}").await, 1);
}

/// FAULTS.md C4.
#[tokio::test]
async fn readers_that_ask_at_once_for_an_object_above_the_size_share_its_fetch() {
    let origin = Origin::start().await;
    let nar = noise(31, 33 * MIB);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).held_at(100_000, &gate));
    let edge = Setup::default().disk_size("32MiB").start(&[&origin]).await;
    let mut readers = Vec::new();
    for _ in 0..12 {
        readers.push(edge.client().begin(&path, &[]).await);
    }
    // One that falls behind later asks for itself.
    assert_eq!(origin.count(&path), 1);
    gate.open();
    let asking = readers.into_iter().map(|reader| {
        let nar = nar.clone();
        tokio::spawn(async move { reader.compare(&nar).await })
    });
    for asked in asking.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap(), (Some(nar.len()), false));
    }
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
}

#[tokio::test]
async fn a_reader_that_falls_behind_goes_on_with_the_same_bytes_and_holds_up_no_other() {
    let origin = Origin::start().await;
    let nar = noise(32, LONG);
    for path in [path_of_nar(&nar, "nar.xz"), path_of_nar(&nar, "nar.zst")] {
        let gate = Gate::default();
        let script = says(nar.clone()).etag("\"a\"").without_ranges();
        origin.say(&path, script.held_at(100_000, &gate));
        let edge = without_disk(&origin).await;
        let slow = edge.client().begin(&path, &[]).await;
        let fast = edge.client().begin(&path, &[]).await;
        gate.open();
        fast.rest().await.expect(200, "collapsed").with(&nar);
        slow.rest().await.expect(200, "pass").with(&nar);
        assert_eq!(origin.count(&path), 2);
        edge.until_idle().await;
    }
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_cut_if_what_it_has_and_the_rest_are_not_the_object() {
    let origin = Origin::start().await;
    let nar = noise(33, LONG);
    let path = path_of_nar(&nar, "nar.xz");
    for (first, second) in [
        (damaged(&nar, 10), nar.clone()),
        (nar.clone(), damaged(&nar, LONG - 1)),
        (damaged(&nar, 10), damaged(&nar, LONG - 1)),
    ] {
        let gate = Gate::default();
        let is_right = first == nar;
        let first = says(first).etag("\"same\"").held_at(100_000, &gate);
        origin.say_in_turn(&path, vec![first, says(second).etag("\"same\"")]);
        let edge = without_disk(&origin).await;
        let before = origin.count(&path);
        let mut slow = edge.client().begin(&path, &[]).await;
        slow.read_to(60_000).await;
        let fast = edge.client().begin(&path, &[]).await;
        gate.open();
        assert_eq!(fast.rest().await.is_cut, !is_right);
        let slow = slow.rest().await;
        assert_eq!(origin.count(&path), before + 2);
        assert!(slow.is_cut, "{} bytes were ended as if whole", slow.body.len());
        assert!(slow.body.len() <= LONG - (16 << 10));
    }
}

/// No byte of it is fetched again: at the end of a large body that would be silence for minutes.
#[tokio::test]
async fn a_reader_that_falls_behind_asks_for_what_it_has_not() {
    let origin = Origin::start().await;
    let nar = noise(45, LONG);
    for path in [path_of_nar(&nar, "nar.xz"), path_of_nar(&nar, "nar.zst")] {
        let gate = Gate::default();
        let whole = says(nar.clone()).etag("\"same\"");
        origin.say_in_turn(&path, vec![whole.clone().held_at(100_000, &gate), whole]);
        let edge = without_disk(&origin).await;
        let mut slow = edge.client().begin(&path, &[]).await;
        slow.read_to(60_000).await;
        let fast = edge.client().begin(&path, &[]).await;
        gate.open();
        fast.rest().await.expect(200, "collapsed").with(&nar);
        slow.rest().await.expect(200, "pass").with(&nar);
        let asked = origin.asked(&path).pop().unwrap();
        let range = asked.field("range").unwrap();
        let first = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        assert!(first.unwrap().parse::<usize>().unwrap() >= 60_000, "{range}");
    }
}

#[tokio::test]
async fn a_body_that_nothing_goes_on_with_is_fetched_for_each_reader() {
    let origin = Origin::start().await;
    let nar = noise(46, LONG);
    let path = path_of_nar(&nar, "nar.zst");
    let gate = Gate::default();
    let whole = says(nar.clone());
    origin.say_in_turn(&path, vec![whole.clone().held_at(100_000, &gate), whole]);
    let edge = without_disk(&origin).await;
    let mut fast = edge.client().begin(&path, &[]).await;
    fast.read_to(1).await;
    let slow = edge.client().begin(&path, &[]).await;
    gate.open();
    fast.rest().await.expect(200, "pass").with(&nar);
    slow.rest().await.expect(200, "pass").with(&nar);
    assert_eq!(origin.count(&path), 2);
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_cut_if_another_object_is_there_by_now() {
    let origin = Origin::start().await;
    let nar = noise(34, LONG);
    let path = path_of_nar(&nar, "nar.zst");
    // Of a length that the client was told, and longer in truth: the proof would come too late.
    let proven = path_of_nar(&nar, "nar.xz");
    let longer = [&damaged(&nar, LONG - 3_000_000)[..], &vec![b'x'; 500_000]].concat();
    let gate = Gate::default();
    let first = says(nar.clone()).held_at(100_000, &gate);
    origin.say_in_turn(&proven, vec![first, says(longer).chunked()]);
    let edge = without_disk(&origin).await;
    let slow = edge.client().begin(&proven, &[]).await;
    let fast = edge.client().begin(&proven, &[]).await;
    gate.open();
    fast.rest().await.expect(200, "collapsed").with(&nar);
    assert!(slow.rest().await.is_cut);
    for second in [
        says(nar.clone()).etag("\"other\""),
        says(nar.slice(..LONG - 1)).etag("\"same\""),
        says([&nar[..], b"and more"].concat()).etag("\"same\"").without_ranges().chunked(),
        says(nar.clone()).etag("\"same\"").field("content-encoding", "br"),
    ] {
        let gate = Gate::default();
        let first = says(nar.clone()).etag("\"same\"").held_at(100_000, &gate);
        origin.say_in_turn(&path, vec![first, second]);
        let edge = without_disk(&origin).await;
        let slow = edge.client().begin(&path, &[]).await;
        let fast = edge.client().begin(&path, &[]).await;
        gate.open();
        fast.rest().await.expect(200, "collapsed").with(&nar);
        assert!(slow.rest().await.is_cut);
    }
}

/// FAULTS.md C4.
#[tokio::test]
async fn a_reader_that_falls_behind_asks_again_while_the_origin_is_in_trouble() {
    let origin = Origin::start().await;
    let nar = noise(42, LONG);
    for path in [path_of_nar(&nar, "nar.xz"), path_of_nar(&nar, "nar.zst")] {
        for status in [503, 429] {
            let gate = Gate::default();
            let (whole, trouble) = (says(nar.clone()).etag("\"a\""), Script::status(status));
            let first = whole.clone().held_at(100_000, &gate);
            // As often as one request is repeated, and once more.
            let troubles = vec![trouble; 3];
            origin.say_in_turn(&path, [vec![first], troubles, vec![whole]].concat());
            let edge = without_disk(&origin).await;
            let before = origin.count(&path);
            let slow = edge.client().begin(&path, &[]).await;
            let fast = edge.client().begin(&path, &[]).await;
            gate.open();
            fast.rest().await.expect(200, "collapsed").with(&nar);
            slow.rest().await.expect(200, "pass").with(&nar);
            assert_eq!(origin.count(&path), before + 5, "{path} {status}");
            edge.until_idle().await;
        }
    }
}

/// FAULTS.md C4.
#[tokio::test]
async fn a_reader_that_falls_behind_waits_for_an_origin_that_is_away() {
    let origin = Origin::start().await;
    let nar = noise(43, LONG);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    let whole = says(nar.clone());
    origin.say_in_turn(&path, vec![whole.clone().held_at(100_000, &gate), whole]);
    let edge = without_disk(&origin).await;
    let slow = edge.client().begin(&path, &[]).await;
    let fast = edge.client().begin(&path, &[]).await;
    gate.open();
    fast.rest().await.expect(200, "collapsed").with(&nar);
    edge.until_idle().await;
    origin.die();
    let slow = tokio::spawn(slow.rest());
    edge.until_metric("narthex_fills_running", 1).await;
    origin.revive().await;
    slow.await.unwrap().expect(200, "pass").with(&nar);
}

/// FAULTS.md C4.
#[tokio::test]
async fn a_reader_that_falls_behind_goes_on_at_another_origin() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let nar = noise(44, LONG);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    let first = says(nar.clone()).held_at(100_000, &gate);
    one.say_in_turn(&path, vec![first, says(damaged(&nar, 5).slice(1..))]);
    other.say(&path, says(nar.clone()));
    let edge = Setup::default().disk_size("0").start(&[&one, &other]).await;
    let slow = edge.client().begin(&path, &[]).await;
    let fast = edge.client().begin(&path, &[]).await;
    gate.open();
    fast.rest().await.expect(200, "collapsed").with(&nar);
    slow.rest().await.expect(200, "pass").with(&nar);
    assert_eq!((one.count(&path), other.count(&path)), (2, 1));
}

/// FAULTS.md C4.
#[tokio::test]
async fn shared_bodies_that_come_slowly_take_no_place_from_other_objects() {
    let origin = Origin::start().await;
    let few = "[server.limits]\nfills_max = 4";
    let edge = Setup::default().disk_size("0").tables(few).start(&[&origin]).await;
    let gate = Gate::default();
    let mut readers = Vec::new();
    for seed in 50..60 {
        let nar = noise(seed, MIB);
        let path = path_of_nar(&nar, "nar.xz");
        origin.say(&path, says(nar.clone()).held_at(500_000, &gate));
        let mut reader = edge.client().begin(&path, &[]).await;
        reader.read_to(100_000).await;
        readers.push((reader, nar));
    }
    let (_, nar) = &readers[0];
    let shared = edge.client().begin(&path_of_nar(nar, "nar.xz"), &[]).await;
    assert_eq!(shared.outcome(), "collapsed");
    gate.open();
    for (reader, nar) in readers {
        reader.rest().await.expect(200, "pass").with(&nar);
    }
}

#[tokio::test]
async fn a_fetch_is_not_kept_for_a_reader_that_went_on_alone() {
    let origin = Origin::start().await;
    let nar = noise(35, 2 * LONG);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    let whole = says(nar.clone());
    origin.say_in_turn(&path, vec![whole.clone().held_at(100_000, &gate), whole]);
    let edge = without_disk(&origin).await;
    let mut slow = edge.client().begin(&path, &[]).await;
    let mut fast = edge.client().begin(&path, &[]).await;
    gate.open();
    fast.read_to(24 * MIB).await;
    slow.read_to(24 * MIB).await;
    edge.until_metric("narthex_fills_running", 2).await;
    drop(fast);
    edge.until_metric("narthex_fills_running", 1).await;
    slow.rest().await.expect(200, "pass").with(&nar);
    edge.until_idle().await;
    assert_eq!(origin.count(&path), 2);
}

#[tokio::test]
async fn a_wrong_body_reaches_no_reader_whole() {
    let origin = Origin::start().await;
    let nar = noise(36, MIB);
    let path = path_of_nar(&nar, "nar.xz");
    for script in [says(damaged(&nar, 10)), says(damaged(&nar, 10)).chunked()] {
        let gate = Gate::default();
        origin.say(&path, script.held_at(MIB - 10, &gate));
        let edge = without_disk(&origin).await;
        let before = origin.count(&path);
        let mut readers = Vec::new();
        for _ in 0..5 {
            let mut reader = edge.client().begin(&path, &[]).await;
            reader.read_to(900_000).await;
            readers.push(reader);
        }
        gate.open();
        for said in join_all(readers.into_iter().map(Arriving::rest)).await {
            assert!(said.is_cut, "a clean end");
            assert!(said.body.len() <= MIB - (16 << 10), "{} bytes", said.body.len());
        }
        assert_eq!(origin.count(&path), before + 1);
    }
}

#[tokio::test]
async fn a_request_after_a_purge_does_not_join_what_came_before() {
    let origin = Origin::start().await;
    let (old, new) = (noise(37, MIB), noise(38, MIB));
    let path = path_of_nar(&old, "nar.zst");
    let gate = Gate::default();
    origin.say_in_turn(&path, vec![says(old.clone()).held_at(500_000, &gate), says(new.clone())]);
    let edge = without_disk(&origin).await;
    let mut before = edge.client().begin(&path, &[]).await;
    before.read_to(100_000).await;
    edge.purge(&format!("{{\"path\": \"{path}\"}}")).await;
    edge.get(&path).await.expect(200, "pass").with(&new);
    gate.open();
    before.rest().await.expect(200, "pass").with(&old);
    assert_eq!(origin.count(&path), 2);
}

#[tokio::test]
async fn readers_that_leave_end_nothing_for_others_and_the_last_ends_the_fetch() {
    let origin = Origin::start().await;
    let nar = noise(39, MIB);
    let path = path_of_nar(&nar, "nar.xz");
    let gates = [Gate::default(), Gate::default()];
    let scripts = gates.iter().map(|gate| says(nar.clone()).held_at(500_000, gate)).collect();
    origin.say_in_turn(&path, scripts);
    let edge = without_disk(&origin).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = edge.client().begin(&path, &[]).await;
        reader.read_to(100_000).await;
        readers.push(reader);
    }
    drop(readers.remove(0));
    gates[0].open();
    for reader in readers {
        reader.rest().await.expect(200, "collapsed").with(&nar);
    }
    edge.until_idle().await;
    assert_eq!(origin.count(&path), 1);

    let mut only = edge.client().begin(&path, &[]).await;
    only.read_to(100_000).await;
    drop(only);
    edge.until_idle().await;
    gates[1].open();
    edge.get(&path).await.expect(200, "pass").with(&nar);
    assert_eq!(origin.count(&path), 3);
}

#[tokio::test]
async fn a_range_far_behind_what_has_come_is_asked_for_by_itself() {
    let origin = Origin::start().await;
    let nar = noise(40, 16 * MIB);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).etag("\"a\"").held_at(500_000, &gate));
    let edge = without_disk(&origin).await;
    let mut whole = edge.client().begin(&path, &[]).await;
    whole.read_to(100_000).await;
    let far = edge.read_with(&path, &[("range", "bytes=12000000-12000009")]).await;
    far.expect(206, "pass").with(&nar[12_000_000..12_000_010]);
    gate.open();
    whole.rest().await.expect(200, "pass").with(&nar);
}

#[tokio::test]
async fn a_body_in_pieces_of_every_size_is_whole_for_every_reader() {
    let origin = Origin::start().await;
    let nar = noise(41, 3 * MIB);
    let path = path_of_nar(&nar, "nar.xz");
    for size in [Size::Fixed(1), Size::Fixed(4_097), Size::Drawn(41)] {
        let gate = Gate::default();
        let pieces = Pieces { size, gap: Gap::BackToBack, count_max: 5_000 };
        let script = says(nar.clone()).chunked().in_pieces(pieces);
        origin.say(&path, script.held_at(100_000, &gate));
        let edge = without_disk(&origin).await;
        let before = origin.count(&path);
        let mut readers = Vec::new();
        for _ in 0..8 {
            let mut reader = edge.client().begin(&path, &[]).await;
            reader.read_to(1).await;
            readers.push(reader);
        }
        gate.open();
        for said in join_all(readers.into_iter().map(Arriving::rest)).await {
            said.expect_status(200).with(&nar);
        }
        assert_eq!(origin.count(&path), before + 1);
    }
}

#[tokio::test]
async fn many_bodies_at_once_are_each_right() {
    let origin = Origin::start().await;
    let edge = without_disk(&origin).await;
    let gate = Gate::default();
    let mut readers = Vec::new();
    for seed in 100..140 {
        let nar = noise(seed, MIB);
        let path = path_of_nar(&nar, "nar.xz");
        origin.say(&path, says(nar.clone()).held_at(500_000, &gate));
        for _ in 0..2 {
            readers.push((edge.client().begin(&path, &[]).await, path.clone(), nar.clone()));
        }
    }
    gate.open();
    let read = readers.into_iter().map(|(reader, path, nar)| async move {
        reader.rest().await.expect_status(200).with(&nar);
        path
    });
    for path in join_all(read).await {
        assert_eq!(origin.count(&path), 1);
    }
}
