//! Large objects in pieces: over several connections at once, joined in order, and over one where
//! an origin is not fit for it. The first connection is held by a gate, so that what is told comes
//! about whatever the machine's pace.

use crate::harness::{
    Arriving, Edge, Gate, Origin, Package, Script, Setup, noise, path_of_nar, says,
};
use bytes::Bytes;
use std::collections::BTreeSet;

const MIB: usize = 1 << 20;
/// The offset at which the first connection stops.
const HELD_AT: usize = 300_000;

/// Pieces of 1 MiB, four at once, whatever the pace.
fn setup() -> Setup {
    Setup::default().tables("[server.pieces]\nsize = \"1MiB\"\nper_fill_max = 4\nafter = \"0s\"")
}

fn pieces(result: &str) -> String {
    format!("narthex_fill_pieces_total{{result=\"{result}\"}}")
}

/// `body` with a strong tag, from an origin that says that it knows ranges.
fn ranged(body: &Bytes) -> Script {
    says(body.clone()).etag("\"one\"").field("accept-ranges", "bytes")
}

/// An object that nothing proves but its tag and length.
fn unproven(seed: u64, length: usize) -> (String, Bytes) {
    let package = Package::new(seed, length).without_file_claims();
    (package.nar_path, package.nar)
}

/// Asks for `path`, with its first answer held; waits for `asked` requests in all.
async fn begin(edge: &Edge, origin: &Origin, path: &str, asked: usize) -> Arriving {
    let arriving = edge.client().begin(path, &[]).await;
    origin.until_asked(path, asked).await;
    arriving
}

#[tokio::test]
async fn all_behind_the_first_piece_comes_while_the_first_connection_stands_still() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(1, 10 * MIB + 123_456);
    let gate = Gate::default();
    origin.say_in_turn(&path, vec![ranged(&nar).held_at(HELD_AT, &gate), ranged(&nar)]);
    let edge = setup().start(&[&origin]).await;
    let mut arriving = begin(&edge, &origin, &path, 10).await;
    assert_eq!(arriving.read_to(HELD_AT).await.len(), HELD_AT, "the front is shown as it comes");
    gate.open();
    arriving.rest().await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    let asked = origin.asked(&path);
    assert_eq!(asked[0].field("range"), None);
    let ranges: BTreeSet<_> = asked[1..].iter().filter_map(|a| a.field("range")).collect();
    let last = nar.len() - 1;
    let due: Vec<String> = (1..10)
        .map(|n| format!("bytes={}-{}", n * MIB, if n == 9 { last } else { (n + 1) * MIB - 1 }))
        .collect();
    assert_eq!(ranges, due.iter().map(|range| &**range).collect());
    assert!(asked[1..].iter().all(|asked| asked.field("if-match") == Some("\"one\"")));
    assert_eq!((asked.len(), edge.metric(&pieces("joined")).await), (10, 9));
}

#[tokio::test]
async fn the_rest_of_what_comes_at_a_good_pace_is_not_asked_for_in_pieces() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(2, 4 * MIB);
    origin.say(&path, ranged(&nar));
    let hour = "[server.pieces]\nsize = \"1MiB\"\nafter = \"1h\"";
    let edge = Setup::default().tables(hour).start(&[&origin]).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!(origin.count(&path), 1);
}

#[tokio::test]
async fn only_what_is_large_and_tied_together_comes_in_pieces_and_where_ranges_are_known() {
    let (small, large) = (noise(3, 2 * MIB), noise(4, 4 * MIB));
    let tagless = |body: &Bytes| says(body.clone()).field("accept-ranges", "bytes");
    for (script, setting) in [
        (ranged(&small), ""),
        (says(large.clone()).etag("\"one\""), ""),
        (tagless(&large), ""),
        (tagless(&large).etag("W/\"one\""), ""),
        (ranged(&large).chunked(), ""),
        (ranged(&large).field("content-encoding", "br"), ""),
        (ranged(&large), "per_fill_max = 0\n"),
    ] {
        let origin = Origin::start().await;
        let path = "/nar/0000000000000000000000000000000000000000000000000000.nar.zst";
        origin.say(path, script);
        let tables = format!("[server.pieces]\n{setting}size = \"1MiB\"\nafter = \"0s\"");
        let edge = Setup::default().tables(&tables).start(&[&origin]).await;
        assert_eq!(edge.get(path).await.status.as_u16(), 200);
        assert_eq!(origin.count(path), 1);
    }
}

#[tokio::test]
async fn a_hash_ties_pieces_together_where_there_is_no_tag() {
    let origin = Origin::start().await;
    let nar = noise(5, 5 * MIB);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    let script = says(nar.clone()).field("accept-ranges", "bytes");
    origin.say_in_turn(&path, vec![script.clone().held_at(HELD_AT, &gate), script]);
    let edge = setup().start(&[&origin]).await;
    let arriving = begin(&edge, &origin, &path, 5).await;
    gate.open();
    arriving.rest().await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(edge.metric(&pieces("joined")).await, 4);
}

#[tokio::test]
async fn a_reader_of_a_part_gets_no_piece_that_no_tag_ties_before_the_proof() {
    let origin = Origin::start().await;
    let (nar, other) = (noise(8, 5 * MIB), noise(9, 5 * MIB));
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    let script = |body: &Bytes| says(body.clone()).field("accept-ranges", "bytes");
    origin.say_in_turn(&path, vec![script(&nar).held_at(HELD_AT, &gate), script(&other)]);
    let edge = setup().start(&[&origin]).await;
    let whole = begin(&edge, &origin, &path, 5).await;
    let part = edge.client().begin(&path, &[("range", "bytes=0-2999999")]).await;
    assert_eq!(part.status.as_u16(), 206);
    gate.open();
    let part = part.rest().await;
    assert!(part.is_cut && part.body == nar[..part.body.len()], "{} bytes", part.body.len());
    assert!(whole.rest().await.is_cut);
}

/// What an origin may do to a piece so that all of the object comes over the first connection.
fn unfit(nar: &Bytes) -> Vec<Script> {
    let other = noise(77, nar.len());
    vec![
        ranged(nar).without_ranges(),
        ranged(&other).etag("\"two\""),
        ranged(&other).etag("\"two\"").unconditional(),
        ranged(&nar.slice(..nar.len() - 1)),
        ranged(nar).content_range("bytes 0-99/100"),
        ranged(nar).content_range(&format!("bytes 7-1048582/{}", nar.len())),
        Script::status(503),
        Script::status(404),
        Script::status(403),
        ranged(nar).field("content-encoding", "br"),
    ]
}

#[tokio::test]
async fn what_is_no_piece_of_the_object_leaves_it_to_the_first_connection() {
    let (path, nar) = unproven(6, 6 * MIB);
    for script in unfit(&nar) {
        let origin = Origin::start().await;
        let gate = Gate::default();
        let told = format!("{script:?}");
        origin.say_in_turn(&path, vec![ranged(&nar).held_at(HELD_AT, &gate), script]);
        let edge = setup().start(&[&origin]).await;
        let arriving = begin(&edge, &origin, &path, 5).await;
        gate.open();
        let said = arriving.rest().await;
        assert!(!said.is_cut && said.body == nar, "{}", told.split("body").next().unwrap());
        edge.until_idle().await;
        edge.get(&path).await.expect(200, "hit_disk").with(&nar);
        assert_eq!(edge.metric(&pieces("joined")).await, 0);
    }
}

#[tokio::test]
async fn a_piece_that_breaks_off_is_continued() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(7, 5 * MIB);
    let gate = Gate::default();
    let cut = ranged(&nar).cut_at(400_000);
    origin.say_in_turn(&path, vec![ranged(&nar).held_at(HELD_AT, &gate), cut]);
    let edge = setup().start(&[&origin]).await;
    // Each of four pieces comes in three answers.
    let arriving = begin(&edge, &origin, &path, 1 + 4 * 3).await;
    gate.open();
    arriving.rest().await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(origin.count(&path), 1 + 4 * 3);
    let continued = "narthex_fill_resumes_total{result=\"continued\"}";
    assert_eq!(edge.metric(continued).await, 8);
}

#[tokio::test]
async fn a_first_connection_that_breaks_off_is_continued_before_the_pieces() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(8, 6 * MIB);
    origin.say_in_turn(&path, vec![ranged(&nar).cut_at(HELD_AT), ranged(&nar)]);
    let edge = setup().start(&[&origin]).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    let ranges = origin.asked(&path);
    let rest = format!("bytes={HELD_AT}-");
    let resumed = ranges.iter().filter_map(|asked| asked.field("range"));
    assert_eq!(resumed.filter(|range| range.starts_with(&rest)).count(), 1);
}

#[tokio::test]
async fn a_piece_that_stands_still_when_its_turn_has_come_is_read_as_it_comes() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(9, 3 * MIB);
    let (first, second) = (Gate::default(), Gate::default());
    let held = ranged(&nar).held_at(500_000, &second);
    let whole = ranged(&nar).held_at(HELD_AT, &first);
    origin.say_in_turn(&path, vec![whole, held]);
    let edge = setup().start(&[&origin]).await;
    let mut arriving = begin(&edge, &origin, &path, 3).await;
    first.open();
    let shown = MIB + 500_000;
    assert!(*arriving.read_to(shown).await == nar[..shown], "what a piece has is shown");
    second.open();
    arriving.rest().await.expect(200, "miss").with(&nar);
}

#[tokio::test]
async fn a_connection_that_stands_still_alone_is_relieved() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(15, 12 * MIB);
    let gate = Gate::default();
    origin.say_in_turn(&path, vec![ranged(&nar).held_at(HELD_AT, &gate), ranged(&nar)]);
    let pieces_of_four = "[server.pieces]\nsize = \"4MiB\"\nafter = \"0s\"";
    let edge = Setup::default().tables(pieces_of_four).start(&[&origin]).await;
    let arriving = begin(&edge, &origin, &path, 5).await;
    let asked = origin.asked(&path);
    let firsts = asked.iter().filter_map(|asked| asked.field("range")?.strip_prefix("bytes="));
    let firsts: BTreeSet<usize> =
        firsts.map(|range| range.split('-').next().unwrap().parse().unwrap()).collect();
    assert_eq!(firsts, [2, 3, 4, 8].map(|first| first * MIB).into());
    gate.open();
    arriving.rest().await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!((origin.count(&path), edge.metric(&pieces("joined")).await), (5, 4));
}

#[tokio::test]
async fn wrong_bytes_in_a_piece_are_never_whole_and_never_kept() {
    let origin = Origin::start().await;
    let nar = noise(10, 4 * MIB);
    let path = path_of_nar(&nar, "nar.xz");
    let mut other = nar.to_vec();
    other[5 * MIB / 2] ^= 1;
    let gate = Gate::default();
    let wrong = ranged(&other.into());
    let first = ranged(&nar).held_at(HELD_AT, &gate);
    origin.say_in_turn(&path, vec![first, wrong.clone(), wrong.clone(), wrong.clone(), wrong]);
    let edge = setup().start(&[&origin]).await;
    let arriving = begin(&edge, &origin, &path, 4).await;
    gate.open();
    let said = arriving.rest().await;
    assert!(said.is_cut && said.body.len() < nar.len(), "{said:?}");
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
    let rejected = "narthex_rejected_bodies_total{origin=\"origin-0\",reason=\"file_hash\"}";
    assert_eq!(edge.metric(rejected).await, 2);
}

#[tokio::test]
async fn a_purge_overtakes_an_object_that_comes_in_pieces() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(11, 4 * MIB);
    let gate = Gate::default();
    origin.say_in_turn(&path, vec![ranged(&nar).held_at(HELD_AT, &gate), ranged(&nar)]);
    let edge = setup().start(&[&origin]).await;
    let arriving = begin(&edge, &origin, &path, 4).await;
    assert_eq!(edge.purge(&format!("{{\"path\": \"{path}\"}}")).await.status, 200);
    gate.open();
    arriving.rest().await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
}

#[tokio::test]
async fn a_client_that_leaves_and_one_that_joins_change_nothing() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(12, 5 * MIB);
    let gate = Gate::default();
    origin.say_in_turn(&path, vec![ranged(&nar).held_at(HELD_AT, &gate), ranged(&nar)]);
    let edge = setup().start(&[&origin]).await;
    let leaving = begin(&edge, &origin, &path, 5).await;
    let joining = edge.client().begin(&path, &[]).await;
    drop(leaving);
    gate.open();
    joining.rest().await.with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(origin.count(&path), 5);
}

#[tokio::test]
async fn a_narinfo_finds_a_connection_while_pieces_take_all_that_they_may() {
    let origin = Origin::start().await;
    let (path, nar) = unproven(13, 12 * MIB);
    let package = Package::new(14, 1_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let gate = Gate::default();
    origin.say(&path, ranged(&nar).held_at(HELD_AT, &gate));
    let six = format!("url = \"{}\"\nname = \"few\"\nconnections_max = 6", origin.url());
    let edge = setup().start_before(&[six]).await;
    let arriving = begin(&edge, &origin, &path, 1 + 3).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    assert_eq!(origin.count(&path), 1 + 3, "half of the connections are left");
    gate.open();
    arriving.rest().await.expect(200, "miss").with(&nar);
}
