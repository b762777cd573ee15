//! Bodies that break off and go on with bytes that may be of another object: a NAR is judged by its
//! hash at its end, and a reader of a part, which ends before that, must not get some of both.

use crate::harness::{Edge, Gate, Origin, Script, Setup, noise, path_of_nar, says};
use bytes::Bytes;

const PART: &[(&str, &str)] = &[("range", "bytes=0-799999")];

/// The NAR of a seed, and another body of its length.
fn two(seed: u64) -> (Bytes, Bytes, String) {
    let (one, other) = (noise(seed, 1_000_000), noise(seed + 100, 1_000_000));
    let path = path_of_nar(&one, "nar.xz");
    (one, other, path)
}

/// Origins of which the first breaks off in the NAR once the gate is open, and has nothing more of
/// it; the second says `rest`.
async fn broken(one: &Bytes, path: &str, gate: &Gate, rest: Script) -> (Origin, Origin) {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let begun = says(one.clone()).etag("\"one\"").held_at(500_000, gate).cut_at(600_000);
    first.say_in_turn(path, vec![begun, Script::status(503)]);
    second.say(path, rest);
    (first, second)
}

#[tokio::test]
async fn a_part_ends_where_another_object_goes_on() {
    for disk in ["64 MiB", "0"] {
        let (one, other, path) = two(1);
        for rest in [
            says(other.clone()).etag("\"two\""),
            says(other.clone()),
            says(other.clone()).etag("\"two\"").without_ranges(),
        ] {
            let gate = Gate::default();
            let (first, second) = broken(&one, &path, &gate, rest).await;
            let edge = Setup::default().disk_size(disk).start(&[&first, &second]).await;
            let mut whole = edge.client().begin(&path, &[]).await;
            whole.read_to(100_000).await;
            let mut part = edge.client().begin(&path, PART).await;
            assert_eq!(part.status.as_u16(), 206, "{disk}");
            assert!(part.read_to(100_000).await.starts_with(&one[..100_000]));
            gate.open();
            let part = part.rest().await;
            assert!(part.is_cut, "{disk}: {} bytes", part.body.len());
            assert!(part.body == one[..part.body.len()], "{disk}: of the first object only");
            assert!(whole.rest().await.is_cut, "{disk}");
        }
    }
}

#[tokio::test]
async fn a_part_waits_for_the_proof_of_what_goes_on_elsewhere() {
    let (one, _, path) = two(2);
    let (gate, last) = (Gate::default(), Gate::default());
    let rest = says(one.clone()).etag("\"two\"").held_at(300_000, &last);
    let (first, second) = broken(&one, &path, &gate, rest).await;
    let edge = Setup::default().start(&[&first, &second]).await;
    let mut whole = edge.client().begin(&path, &[]).await;
    whole.read_to(100_000).await;
    let part = edge.client().begin(&path, PART).await;
    gate.open();
    // The whole goes on meanwhile.
    whole.read_to(850_000).await;
    last.open();
    part.rest().await.expect(206, "collapsed").with(&one[..800_000]);
    whole.rest().await.expect(200, "miss").with(&one);
}

#[tokio::test]
async fn a_part_that_ends_before_the_doubt_is_whole() {
    let (one, other, path) = two(3);
    let gate = Gate::default();
    let rest = says(other).etag("\"two\"");
    let (first, second) = broken(&one, &path, &gate, rest).await;
    let edge = Setup::default().start(&[&first, &second]).await;
    let mut whole = edge.client().begin(&path, &[]).await;
    whole.read_to(100_000).await;
    let part = edge.client().begin(&path, &[("range", "bytes=0-599999")]).await;
    gate.open();
    part.rest().await.expect(206, "collapsed").with(&one[..600_000]);
    assert!(whole.rest().await.is_cut);
}

#[tokio::test]
async fn a_cold_part_without_a_tag_is_not_continued_by_another_object() {
    let origin = Origin::start().await;
    let (one, other) = (noise(4, 40 << 20), noise(104, 40 << 20));
    let path = path_of_nar(&one, "nar.xz");
    origin.say_in_turn(&path, vec![says(one.clone()).cut_at(300_000), says(other)]);
    let edge = Edge::before(&origin).await;
    let fields = [("range", "bytes=20971520-21971519")];
    let part = edge.read_with(&path, &fields).await;
    assert_eq!(part.status.as_u16(), 206);
    assert!(part.is_cut);
    assert!(part.body == one[20_971_520..][..part.body.len()]);
}

#[tokio::test]
async fn two_parts_without_a_tag_are_asked_for_each_by_itself() {
    let origin = Origin::start().await;
    let (one, other) = (noise(5, 40 << 20), noise(105, 40 << 20));
    let path = path_of_nar(&one, "nar.xz");
    origin.say_in_turn(&path, vec![says(one.clone()), says(other.clone())]);
    let edge = Edge::before(&origin).await;
    let ask = async |range: &str| edge.read_with(&path, &[("range", range)]).await;
    let first = ask("bytes=20971520-21971519").await;
    first.expect_status(206).with(&one[20_971_520..21_971_520]);
    edge.until_idle().await;
    let both = ask("bytes=20971520-22971519").await;
    both.expect_status(206).with(&other[20_971_520..22_971_520]);
}
