//! Bodies that break off, and bodies that are not what was promised.

use crate::harness::{
    Edge, Fault, Gate, Origin, Package, Script, Setup, Strikes, noise, path_of_nar, says,
};
use bytes::Bytes;

/// A rejected body's counter.
fn rejected(reason: &str) -> String {
    format!("narthex_rejected_bodies_total{{origin=\"origin-0\",reason=\"{reason}\"}}")
}

fn resumed(result: &str) -> String {
    format!("narthex_fill_resumes_total{{result=\"{result}\"}}")
}

fn damaged(bytes: &Bytes) -> Vec<u8> {
    let mut other = bytes.to_vec();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    other
}

#[tokio::test]
async fn a_cut_body_with_a_strong_tag_is_continued_unseen() {
    let origin = Origin::start().await;
    let package = Package::new(1, 1_000_000).without_file_claims();
    let path = &package.nar_path;
    let whole = says(package.nar.clone()).etag("\"same\"");
    let turns = vec![whole.clone().cut_at(400_000), whole.clone().cut_at(100_000), whole];
    origin.say_in_turn(path, turns);
    let edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss").with(&package.nar);
    edge.until_idle().await;
    edge.get(path).await.expect(200, "hit_disk").with(&package.nar);
    let asked = origin.asked(path);
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].field("range"), None);
    for (asked, offset) in asked[1..].iter().zip([400_000, 500_000]) {
        assert_eq!(asked.field("range"), Some(&*format!("bytes={offset}-")));
        assert_eq!(asked.field("if-match"), Some("\"same\""));
    }
    assert_eq!(edge.metric(&resumed("continued")).await, 2);
}

/// A hash of the whole protects no reader of a range.
#[tokio::test]
async fn a_range_does_not_go_on_with_another_file_beside_a_hash() {
    let origin = Origin::start().await;
    let package = Package::new(40, 6_000_000);
    let (path, other) = (&package.nar_path, noise(41, 6_000_000));
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let old = says(package.nar.clone()).field("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    let new = says(other).field("last-modified", "Mon, 07 Nov 1994 08:49:37 GMT");
    origin.say_in_turn(path, vec![old.cut_at(300_000), new]);
    let edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    let said = edge.read_with(path, &[("range", "bytes=2097152-4194303")]).await;
    let right = &package.nar[2_097_152..4_194_304];
    assert!(said.is_cut && right.starts_with(&said.body), "{} bytes", said.body.len());
}

#[tokio::test]
async fn a_cut_body_without_a_tag_is_continued_where_a_hash_will_prove_it() {
    let origin = Origin::start().await;
    let package = Package::new(2, 1_000_000);
    let by_name = noise(3, 1_000_000);
    let name = path_of_nar(&by_name, "nar.xz");
    origin.say(&package.narinfo_path, says(package.narinfo()));
    for (path, body) in [(&package.nar_path, &package.nar), (&name, &by_name)] {
        let whole = says(body.clone());
        origin.say_in_turn(path, vec![whole.clone().cut_at(300_000), whole]);
    }
    let edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    edge.get(&name).await.expect(200, "miss").with(&by_name);
    for path in [&package.nar_path, &name] {
        let asked = origin.asked(path);
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1].field("range"), Some("bytes=300000-"));
        assert_eq!(asked[1].field("if-match"), None);
    }
}

#[tokio::test]
async fn a_cut_body_is_continued_on_the_next_origin() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let nar = noise(4, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let whole = says(nar.clone()).etag("\"same\"");
    let turns = vec![whole.clone().cut_at(300_000), Script::status(503)];
    first.say_in_turn(&path, turns);
    second.say(&path, whole);
    let edge = Setup::default().start(&[&first, &second]).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!(second.asked(&path)[0].field("range"), Some("bytes=300000-"));
}

#[tokio::test]
async fn an_origin_without_ranges_is_read_again_from_the_start() {
    let origin = Origin::start().await;
    let nar = noise(5, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let whole = says(nar.clone()).without_ranges();
    origin.say_in_turn(
        &path,
        vec![whole.clone().cut_at(300_000), whole.clone().cut_at(200_000), whole],
    );
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(origin.count(&path), 3);
}

#[tokio::test]
async fn an_origin_without_ranges_that_never_comes_further_is_given_up() {
    let origin = Origin::start().await;
    let nar = noise(29, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()).without_ranges().cut_at(100_000));
    let edge = Setup::default().timeouts("resume = \"300ms\"").start(&[&origin]).await;
    assert!(edge.get(&path).await.is_cut);
    edge.until_idle().await;
    assert!((2..=5).contains(&origin.count(&path)), "{}", origin.count(&path));
}

/// At most the first request, and those that follow a break after 0 s, 0.1 s and 0.3 s, or half of
/// that; and nothing is fetched again from the start.
fn expect_a_few_requests(origin: &Origin, path: &str, whole: usize) {
    let asked = origin.asked(path);
    assert!((2..=4).contains(&asked.len()), "{} requests", asked.len());
    let wholes = asked.iter().filter(|asked| asked.field("range").is_none()).count();
    assert_eq!(wholes, whole);
}

#[tokio::test]
async fn an_origin_that_breaks_off_again_and_again_is_asked_a_few_times() {
    for (number, script) in [
        // Nothing but a head; a few bytes each time; a clean end before the end.
        says("").cut_at(0),
        says("").reset_at(0),
        says("").cut_at(1_000),
    ]
    .into_iter()
    .enumerate()
    {
        for has_hash in [true, false] {
            let origin = Origin::start().await;
            let package = Package::new(40 + number as u64, 1_000_000).without_file_claims();
            let by_name = path_of_nar(&package.nar, "nar.xz");
            let path = if has_hash { &by_name } else { &package.nar_path };
            let whole = says(package.nar.clone()).etag("\"a\"");
            let rest = script.clone().with_body(package.nar.clone()).etag("\"a\"");
            origin.say_in_turn(path, vec![whole.cut_at(100_000), rest]);
            let edge = Setup::default().timeouts("resume = \"300ms\"").start(&[&origin]).await;
            assert!(edge.get(path).await.is_cut);
            edge.until_idle().await;
            expect_a_few_requests(&origin, path, 1);
        }
    }
}

#[tokio::test]
async fn an_origin_that_closes_before_the_first_byte_is_asked_a_few_times() {
    let origin = Origin::start().await;
    let nar = noise(43, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).held_at(100_000, &gate).cut_at(150_000));
    let edge = Setup::default().timeouts("resume = \"300ms\"").start(&[&origin]).await;
    let mut arriving = edge.client().begin(&path, &[]).await;
    arriving.read_to(50_000).await;
    origin.fail(&path, Fault::ResetBeforeHead, Strikes::ForGood);
    gate.open();
    assert!(arriving.rest().await.is_cut);
    edge.until_idle().await;
    expect_a_few_requests(&origin, &path, 1);
}

#[tokio::test]
async fn a_range_from_an_origin_that_breaks_off_again_and_again_costs_a_few_requests() {
    let origin = Origin::start().await;
    let package = Package::new(44, 4 << 20).without_file_claims();
    let path = &package.nar_path;
    let whole = says(package.nar.clone()).etag("\"a\"");
    origin.say_in_turn(path, vec![whole.clone().cut_at(100_000), whole.cut_at(0)]);
    let limits = "[server.limits]\ncompletion_size_max = 0";
    let setup = Setup::default().timeouts("resume = \"300ms\"").tables(limits);
    let edge = setup.start(&[&origin]).await;
    let said = edge.read_with(path, &[("range", "bytes=1048576-3000000")]).await;
    assert!(said.is_cut);
    edge.until_idle().await;
    expect_a_few_requests(&origin, path, 0);
}

#[tokio::test]
async fn a_page_from_an_origin_that_breaks_off_again_and_again_costs_a_few_requests() {
    let origin = Origin::start().await;
    let body = noise(45, 1_000_000);
    let page = says(body).field("cache-control", "max-age=60").etag("\"a\"");
    origin.say_in_turn("/a", vec![page.clone().cut_at(100_000), page.cut_at(0)]);
    let setup = Setup::default().site("kind = \"generic\"").timeouts("resume = \"300ms\"");
    let edge = setup.start(&[&origin]).await;
    assert!(edge.get("/a").await.is_cut);
    edge.until_idle().await;
    expect_a_few_requests(&origin, "/a", 1);
}

#[tokio::test]
async fn a_body_that_comes_forward_with_each_request_is_brought_to_its_end() {
    let origin = Origin::start().await;
    let nar = noise(46, 6 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()).cut_at(300_000));
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!(origin.count(&path), nar.len().div_ceil(300_000));
}

#[tokio::test]
async fn a_silent_origin_does_not_keep_the_next_from_going_on() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let nar = noise(30, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    first.say_in_turn(&path, vec![says(nar.clone()).cut_at(100_000), Script::hangs()]);
    second.say(&path, says(nar.clone()));
    let timeouts = "first_byte = \"20s\"\nresume = \"2s\"";
    let edge = Setup::default().timeouts(timeouts).start(&[&first, &second]).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!(second.asked(&path)[0].field("range"), Some("bytes=100000-"));
}

#[tokio::test]
async fn a_chunked_body_that_breaks_off_is_continued_where_a_hash_will_prove_it() {
    let origin = Origin::start().await;
    let nar = noise(6, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let whole = says(nar.clone()).chunked();
    origin.say_in_turn(&path, vec![whole.clone().cut_at(300_000), whole]);
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(origin.count(&path), 2);
}

#[tokio::test]
async fn another_object_never_continues_a_body() {
    let origin = Origin::start().await;
    let package = Package::new(7, 1_000_000).without_file_claims();
    let path = &package.nar_path;
    let one = says(package.nar.clone()).etag("\"one\"");
    let other = says(noise(8, 1_000_000)).etag("\"two\"");
    origin.say_in_turn(
        path,
        vec![
            one.cut_at(400_000),
            other.clone(),
            other.clone().cut_at(50_000),
            other.cut_at(50_000),
        ],
    );
    let edge = Setup::default().timeouts("resume = \"300ms\"").start(&[&origin]).await;
    let said = edge.get(path).await;
    assert_eq!((said.status.as_u16(), said.is_cut), (200, true));
    assert!(said.body.len() <= 400_000);
    assert!(said.body == package.nar[..said.body.len()], "bytes of another object");
    edge.until_idle().await;
    assert_eq!(origin.asked(path)[1].field("if-match"), Some("\"one\""));
    assert_eq!(edge.metric(&resumed("changed")).await, 1);
}

#[tokio::test]
async fn a_cut_body_that_nothing_proves_is_reset_and_not_kept() {
    let origin = Origin::start().await;
    let package = Package::new(9, 1_000_000).without_file_claims();
    let path = &package.nar_path;
    origin.say(path, says(package.nar.clone()).cut_at(400_000));
    let edge = Edge::before(&origin).await;
    let said = edge.get(path).await;
    assert!(said.is_cut);
    assert!(said.body == package.nar[..said.body.len()]);
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
    assert_eq!(origin.count(path), 2);
    origin.say(path, says(package.nar.clone()));
    edge.get(path).await.expect(200, "miss").with(&package.nar);
}

#[tokio::test]
async fn a_stalled_body_is_continued() {
    let origin = Origin::start().await;
    let nar = noise(10, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let whole = says(nar.clone()).etag("\"a\"");
    let never = Gate::default();
    origin.say_in_turn(&path, vec![whole.clone().held_at(300_000, &never), whole]);
    let edge = Setup::default().timeouts("between_bytes = \"100ms\"").start(&[&origin]).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!(origin.asked(&path)[1].field("range"), Some("bytes=300000-"));
}

#[tokio::test]
async fn wrong_bytes_are_never_whole_never_kept_and_fetched_once_more() {
    for (size, seed) in [(1_000, 11), (64 << 10, 12), (65_537, 13), (1_000_000, 14)] {
        let origin = Origin::start().await;
        let package = Package::new(seed, size);
        let path = &package.nar_path;
        origin.say(&package.narinfo_path, says(package.narinfo()));
        origin.say(path, says(damaged(&package.nar)).etag("\"a\""));
        let edge = Edge::before(&origin).await;
        edge.get(&package.narinfo_path).await.expect(200, "miss");
        let said = edge.get(path).await;
        assert!(said.is_cut || said.status == 502, "{size}");
        edge.until_idle().await;
        assert_eq!(origin.count(path), 2);
        assert_eq!(edge.metric(&rejected("file_hash")).await, 2);
        assert_eq!(edge.objects_on_disk(), (0, 0));
        origin.say(path, says(package.nar.clone()));
        edge.pass_time(10);
        edge.get(path).await.expect(200, "miss").with(&package.nar);
    }
}

#[tokio::test]
async fn a_body_that_is_always_wrong_is_not_fetched_for_each_request() {
    let origin = Origin::start().await;
    let nar = noise(22, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(damaged(&nar)));
    let edge = Edge::before(&origin).await;
    assert!(edge.get(&path).await.is_cut);
    edge.until_idle().await;
    assert_eq!(origin.count(&path), 2);
    for round in [1_u64, 2, 4, 8] {
        for _ in 0..3 {
            let said = edge.get(&path).await;
            said.expect(502, "origin_failed");
            assert_eq!(said.field("retry-after"), round.to_string());
        }
        edge.pass_time(round);
        let before = origin.count(&path);
        assert!(edge.get(&path).await.is_cut);
        edge.until_idle().await;
        assert_eq!(origin.count(&path), before + 2);
    }
    assert_eq!(edge.metric("narthex_fills_spared_total").await, 12);
    origin.say(&path, says(nar.clone()));
    edge.get(&path).await.expect(502, "origin_failed");
    assert_eq!(edge.purge(&format!("{{\"path\": \"{path}\"}}")).await.status, 200);
    edge.get(&path).await.expect(200, "miss").with(&nar);
}

#[tokio::test]
async fn an_origin_that_is_right_again_is_asked_a_second_after_a_wrong_body() {
    let origin = Origin::start().await;
    let nar = noise(32, 300_000);
    let (path, other) = (path_of_nar(&nar, "nar.xz"), path_of_nar(&nar[1..], "nar.xz"));
    let wrong = says(damaged(&nar));
    // The two tries of one fill.
    origin.say_in_turn(&path, vec![wrong.clone(), wrong.clone(), says(nar.clone())]);
    origin.say(&other, says(nar.slice(1..)));
    let edge = Edge::before(&origin).await;
    assert!(edge.get(&path).await.is_cut);
    edge.until_idle().await;
    let refused = edge.get(&path).await;
    refused.expect(502, "origin_failed");
    assert_eq!(refused.field("retry-after"), "1");
    // Another object of the same origin is not refused.
    edge.get(&other).await.expect(200, "miss").with(&nar[1..]);
    edge.pass_time(1);
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    // The right body has ended it: the next refusal is as short as the first.
    edge.purge("{\"all\": true}").await;
    origin.say(&path, wrong);
    assert!(edge.get(&path).await.is_cut);
    edge.until_idle().await;
    assert_eq!(edge.get(&path).await.field("retry-after"), "1");
}

#[tokio::test]
async fn right_bodies_between_wrong_ones_are_not_refused() {
    let origin = Origin::start().await;
    let nar = noise(33, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    let (wrong, right) = (says(damaged(&nar)), says(nar.clone()));
    let turns = [&wrong, &right].into_iter().cycle().take(8).cloned().collect();
    origin.say_in_turn(&path, turns);
    // Without a disk each body passes, checked, to its reader alone.
    let edge = Setup::default().disk_size("0").start(&[&origin]).await;
    for _ in 0..4 {
        assert!(edge.get(&path).await.is_cut);
        edge.get(&path).await.expect(200, "pass").with(&nar);
    }
}

#[tokio::test]
async fn a_wrong_body_is_fetched_once_more_from_another_origin() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let nar = noise(23, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    first.say(&path, says(damaged(&nar)));
    second.say(&path, says(nar.clone()));
    let edge = Setup::default().start(&[&first, &second]).await;
    assert!(edge.get(&path).await.is_cut);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!((first.count(&path), second.count(&path)), (1, 1));
    assert_eq!(edge.metric(&rejected("file_hash")).await, 1);
    assert_eq!(edge.metric("narthex_fills_spared_total").await, 0);

    let small = noise(24, 3_000);
    let path = path_of_nar(&small, "nar.xz");
    first.say(&path, says(damaged(&small)));
    second.say(&path, says(small.clone()));
    edge.get(&path).await.expect(200, "miss").with(&small);
    assert_eq!((first.count(&path), second.count(&path)), (1, 1));
}

#[tokio::test]
async fn an_origin_that_sends_wrong_bytes_is_asked_last_also_where_nothing_is_stored() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let nar = noise(25, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    first.say(&path, says(damaged(&nar)));
    second.say(&path, says(nar.clone()));
    let edge = Setup::default().disk_size("0").start(&[&first, &second]).await;
    assert!(edge.get(&path).await.is_cut);
    for _ in 0..2 {
        edge.get(&path).await.expect(200, "pass").with(&nar);
    }
    assert_eq!((first.count(&path), second.count(&path)), (1, 2));
    second.say(&path, says(damaged(&nar)));
    for _ in 0..2 {
        assert!(edge.get(&path).await.is_cut);
    }
    edge.get(&path).await.expect(502, "origin_failed");
}

#[tokio::test]
async fn a_body_goes_on_at_an_origin_with_another_tag_where_a_hash_will_prove_it() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let nar = noise(26, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let turns = vec![says(nar.clone()).etag("\"one\"").cut_at(300_000), Script::status(503)];
    first.say_in_turn(&path, turns);
    second.say(&path, says(nar.clone()).etag("\"two\""));
    let edge = Setup::default().start(&[&first, &second]).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!(second.asked(&path)[0].field("range"), Some("bytes=300000-"));
    assert_eq!(second.asked(&path)[0].field("if-match"), None);
}

#[tokio::test]
async fn an_origin_with_another_object_does_not_keep_the_next_from_going_on() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let package = Package::new(27, 1_000_000).without_file_claims();
    let path = &package.nar_path;
    let one = says(package.nar.clone()).etag("\"one\"");
    let other = says(noise(28, 1_000_000)).etag("\"other\"");
    first.say_in_turn(path, vec![one.clone().cut_at(300_000), other]);
    second.say(path, one);
    let edge = Setup::default().start(&[&first, &second]).await;
    edge.get(path).await.expect(200, "miss").with(&package.nar);
    assert_eq!(edge.metric(&rejected("continuation")).await, 1);
    assert_eq!(edge.metric(&resumed("continued")).await, 1);
}

#[tokio::test]
async fn a_refetch_that_is_right_is_kept() {
    let origin = Origin::start().await;
    let nar = noise(15, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say_in_turn(&path, vec![says(damaged(&nar)), says(nar.clone())]);
    let edge = Edge::before(&origin).await;
    assert!(edge.get(&path).await.is_cut);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(edge.metric(&rejected("file_hash")).await, 1);
}

#[tokio::test]
async fn a_small_nar_that_is_right_at_the_second_fetch_is_served_at_once() {
    let origin = Origin::start().await;
    let nar = noise(16, 10_000);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say_in_turn(&path, vec![says(damaged(&nar)), says(nar.clone())]);
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
}

#[tokio::test]
async fn another_length_than_the_narinfos_is_refused_by_its_head() {
    let origin = Origin::start().await;
    let package = Package::new(17, 1_000_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.slice(..900_000)));
    let edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.nar_path).await.expect(502, "origin_failed");
    // Asked once more, its contents decide: a wrong FileSize alone would not count.
    assert_eq!(edge.metric(&rejected("file_size")).await, 1);
    assert_eq!(edge.metric(&rejected("file_hash")).await, 1);
    assert_eq!(origin.count(&package.nar_path), 2);
}

#[tokio::test]
async fn a_name_and_a_narinfo_that_disagree_both_prove_a_file() {
    for is_named in [false, true] {
        let origin = Origin::start().await;
        let body = noise(18, 100_000);
        let named = path_of_nar(if is_named { &body } else { b"something else" }, "nar.xz");
        let package = Package::at(18, 100_000, &named);
        let right = package.narinfo();
        let text = if is_named { Package::at(20, 100_000, &named).narinfo() } else { right };
        let seed = if is_named { 20 } else { 18 };
        let narinfo_path = Package::at(seed, 1, &named).narinfo_path;
        origin.say(&narinfo_path, says(text));
        origin.say(&named, says(body.clone()));
        let edge = Edge::before(&origin).await;
        edge.get(&narinfo_path).await.expect(200, "miss");
        edge.get(&named).await.expect(200, "miss").with(&body);
        edge.until_idle().await;
        edge.get(&named).await.expect(200, "hit_disk").with(&body);
        let wrong = noise(21, 100_000);
        edge.purge(&format!("{{\"path\": \"{named}\"}}")).await;
        origin.say(&named, says(wrong));
        assert!(edge.get(&named).await.is_cut);
    }
}

#[tokio::test]
async fn claims_outlive_a_restart() {
    let origin = Origin::start().await;
    let package = Package::new(19, 100_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(damaged(&package.nar)));
    let mut edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.restart().await;
    assert!(edge.get(&package.nar_path).await.is_cut);
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
}

#[tokio::test]
async fn what_a_narinfo_says_of_its_nar_outlives_the_nar() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).await;
    for (seed, is_purged) in [(30, false), (31, true)] {
        let package = Package::new(seed, 200_000);
        let path = &package.nar_path;
        origin.say(&package.narinfo_path, says(package.narinfo()));
        edge.get(&package.narinfo_path).await.expect(200, "miss");
        if is_purged {
            origin.say(path, says(package.nar.clone()));
            edge.get(path).await.expect(200, "miss");
            edge.until_idle().await;
            edge.purge(&format!("{{\"path\": \"{path}\"}}")).await;
        } else {
            edge.get(path).await.expect(404, "absent");
            edge.pass_time(60);
        }
        edge.restart().await;
        origin.say(path, says(damaged(&package.nar)));
        assert!(edge.get(path).await.is_cut, "{is_purged}");
        edge.until_idle().await;
        edge.pass_time(10);
        origin.say(path, says(package.nar.clone()));
        edge.get(path).await.expect(200, "miss").with(&package.nar);
        edge.until_idle().await;
    }
}
