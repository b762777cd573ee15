//! Responses of generic sites that are here in part: what is asked of the origin, what is kept,
//! what is made of it, and that two representations are never mixed.

use crate::harness::{Edge, Gate, Origin, Said, Script, Setup, noise, says};
use bytes::Bytes;
use tempfile::TempDir;

const CHUNK: usize = 1 << 20;

fn fresh(body: &Bytes) -> Script {
    says(body.clone()).field("cache-control", "max-age=60").etag("\"1\"")
}

/// An edge that completes nothing in the background.
async fn edge(origin: &Origin) -> Edge {
    let limits = "[server.limits]\ncompletion_size_max = 0";
    Setup::default().site("kind = \"generic\"").tables(limits).start(&[origin]).await
}

async fn range(edge: &Edge, first: usize, last: usize) -> Said {
    edge.read_with("/a", &[("range", &*format!("bytes={first}-{last}"))]).await
}

#[track_caller]
fn expect_part(said: &Said, outcome: &str, body: &Bytes, first: usize, last: usize) {
    said.expect(206, outcome).with(&body[first..=last]);
    assert_eq!(said.field("content-range"), format!("bytes {first}-{last}/{}", body.len()));
    assert_eq!(said.field("content-length"), (last - first + 1).to_string());
}

/// The ranges that were asked for, and what they were to be a part of.
fn asked(origin: &Origin) -> Vec<(Option<String>, Option<String>)> {
    let field = |asked: &crate::harness::Asked, name| asked.field(name).map(str::to_owned);
    let asked = origin.asked("/a");
    asked.iter().map(|asked| (field(asked, "range"), field(asked, "if-range"))).collect()
}

fn ask(range: &str, tag: Option<&str>) -> (Option<String>, Option<String>) {
    (Some(range.to_owned()), tag.map(str::to_owned))
}

#[tokio::test]
async fn ranges_are_kept_and_the_whole_is_made_of_them() {
    let origin = Origin::start().await;
    let body = noise(1, 4 * CHUNK + 77);
    origin.say("/a", fresh(&body).field("x-b", "1"));
    let mut edge = edge(&origin).await;
    expect_part(&range(&edge, 1_500_000, 1_500_099).await, "miss", &body, 1_500_000, 1_500_099);
    edge.until_idle().await;
    edge.pass_time(5);
    let said = range(&edge, CHUNK, 2 * CHUNK - 1).await;
    expect_part(&said, "hit_disk", &body, CHUNK, 2 * CHUNK - 1);
    assert_eq!(said.field("age"), "5");
    assert_eq!(asked(&origin), [ask("bytes=1048576-2097151", None)]);
    origin.say("/a", fresh(&body).field("x-b", "2"));
    let said = range(&edge, 2 * CHUNK - 10, 2 * CHUNK + 10).await;
    expect_part(&said, "miss", &body, 2 * CHUNK - 10, 2 * CHUNK + 10);
    assert!(said.field("cache-status").contains("; fwd=partial; fwd-status=206;"));
    assert_eq!(asked(&origin)[1..], [ask("bytes=2097152-3145727", Some("\"1\""))]);
    edge.until_idle().await;
    // What the later answer said counts for all of it.
    for said in [said, range(&edge, CHUNK, CHUNK).await] {
        assert_eq!((said.field("x-b"), said.field("age")), ("2", "0"));
    }
    edge.restart().await;
    expect_part(&range(&edge, CHUNK, 3 * CHUNK - 1).await, "hit_disk", &body, CHUNK, 3 * CHUNK - 1);
    let last = body.len() - 1;
    let said = edge.read_with("/a", &[("range", "bytes=-7")]).await;
    expect_part(&said, "miss", &body, last - 6, last);
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_part_objects").await, 1);
    edge.get("/a").await.expect(200, "miss").with(&body);
    assert_eq!(
        asked(&origin)[2..],
        [
            ask("bytes=4194304-", Some("\"1\"")),
            ask("bytes=0-1048575", Some("\"1\"")),
            ask("bytes=3145728-4194303", Some("\"1\"")),
        ]
    );
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_part_objects").await, 0);
    edge.restart().await;
    edge.get("/a").await.expect(200, "hit_disk").with(&body);
    assert_eq!(origin.count("/a"), 5);
}

#[tokio::test]
async fn two_representations_are_never_mixed() {
    for is_heeded in [true, false] {
        for is_whole in [true, false] {
            let origin = Origin::start().await;
            let (old, new) = (noise(2, 4 * CHUNK), noise(3, 4 * CHUNK));
            origin.say("/a", fresh(&old));
            let edge = edge(&origin).await;
            expect_part(&range(&edge, 0, 9).await, "miss", &old, 0, 9);
            edge.until_idle().await;
            let changed = fresh(&new).etag("\"2\"");
            origin.say("/a", if is_heeded { changed } else { changed.unconditional() });
            if is_whole {
                let said = edge.get("/a").await;
                said.expect(200, "miss").with(&new);
            } else {
                let (first, last) = (CHUNK - 5, CHUNK + 5);
                expect_part(&range(&edge, first, last).await, "miss", &new, first, last);
            }
            edge.until_idle().await;
            expect_part(&range(&edge, 0, 9).await, "hit_disk", &new, 0, 9);
        }
    }
}

#[tokio::test]
async fn a_change_in_the_middle_of_an_answer_cuts_it() {
    let origin = Origin::start().await;
    let (old, new) = (noise(4, 6 * CHUNK), noise(5, 6 * CHUNK));
    origin.say("/a", fresh(&old));
    let edge = edge(&origin).await;
    for at in [0, 2, 4] {
        range(&edge, at * CHUNK, (at + 1) * CHUNK - 1).await.expect(206, "miss");
        edge.until_idle().await;
    }
    // The first gap is fetched of the old one, the next is of the new one.
    origin.say_in_turn("/a", vec![fresh(&old), fresh(&new).etag("\"2\"")]);
    let said = edge.get("/a").await;
    assert!(said.is_cut && said.body == old[..said.body.len()], "{} bytes", said.body.len());
    edge.until_idle().await;
    edge.get("/a").await.expect(200, "miss").with(&new);
}

#[tokio::test]
async fn a_stretch_does_not_go_on_with_what_may_not_be_stored() {
    let origin = Origin::start().await;
    let body = noise(41, 3 * CHUNK);
    let private = says(body.clone()).field("cache-control", "private").etag("\"1\"");
    origin.say_in_turn("/a", vec![fresh(&body).cut_at(100_000), private]);
    let edge = edge(&origin).await;
    let said = range(&edge, 0, 2 * CHUNK - 1).await;
    assert!(said.is_cut && body.starts_with(&said.body), "{} bytes", said.body.len());
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_part_objects").await, 0);
    expect_part(&range(&edge, 5, 9).await, "pass", &body, 5, 9);
}

#[tokio::test]
async fn an_origin_that_sends_no_more_ranges_drops_no_part() {
    let origin = Origin::start().await;
    let body = noise(42, 4 * CHUNK);
    origin.say("/a", fresh(&body));
    let edge = edge(&origin).await;
    range(&edge, 0, 9).await.expect(206, "miss");
    edge.until_idle().await;
    let whole = fresh(&body).without_ranges();
    origin.say_in_turn("/a", vec![fresh(&body).cut_at(100_000), whole]);
    let said = range(&edge, 2 * CHUNK, 3 * CHUNK - 1).await;
    assert!(said.is_cut && body[2 * CHUNK..].starts_with(&said.body));
    edge.until_idle().await;
    expect_part(&range(&edge, 5, 9).await, "hit_disk", &body, 5, 9);
}

#[tokio::test]
async fn a_change_while_the_first_chunk_arrives_begins_anew() {
    let origin = Origin::start().await;
    let (old, new) = (noise(24, 3 * CHUNK), noise(25, 3 * CHUNK));
    let gate = Gate::default();
    origin.say("/a", fresh(&old).held_at(100_000, &gate));
    let edge = edge(&origin).await;
    let mut first = edge.client().begin("/a", &[("range", "bytes=0-199999")]).await;
    first.read_to(100).await;
    origin.say("/a", fresh(&new).etag("\"2\""));
    let whole = edge.client().begin("/a", &[]).await;
    gate.open();
    whole.rest().await.expect(200, "miss").with(&new);
    let said = first.rest().await;
    assert!(said.is_cut && old.starts_with(&said.body), "{} bytes", said.body.len());
}

#[tokio::test]
async fn what_may_not_be_kept_in_parts_passes() {
    let body = noise(6, 3 * CHUNK);
    let plain = || says(body.clone()).field("cache-control", "max-age=60");
    for (script, is_sound) in [
        (plain(), true),
        (plain().etag("W/\"1\""), true),
        (fresh(&body).field("set-cookie", "a=b"), true),
        (plain().last_modified("Sun, 06 Nov 1994 08:49:37 GMT"), true),
        (plain().etag("\"1\"").field("vary", "accept-a"), true),
        (says(body.clone()).etag("\"1\"").field("cache-control", "no-store"), true),
        (says(body.clone()).etag("\"1\"").field("cache-control", "private, max-age=60"), true),
        (fresh(&body).content_range("bytes 1048577-2097151/3145728"), false),
    ] {
        let origin = Origin::start().await;
        origin.say("/a", script);
        let edge = edge(&origin).await;
        for _ in 0..2 {
            let said = range(&edge, 1_500_000, 1_500_009).await;
            if is_sound {
                expect_part(&said, "pass", &body, 1_500_000, 1_500_009);
            }
        }
        edge.until_idle().await;
        assert_eq!(edge.metric("narthex_part_objects").await, 0);
        let asked = asked(&origin);
        assert_eq!(asked[0], ask("bytes=1048576-2097151", None));
        assert_eq!(*asked.last().unwrap(), ask("bytes=1500000-1500009", None));
    }
}

#[tokio::test]
async fn requests_that_say_more_than_a_range_go_as_they_are() {
    let origin = Origin::start().await;
    let body = noise(7, 3 * CHUNK);
    origin.say("/a", fresh(&body));
    let edge = edge(&origin).await;
    for field in [
        ("authorization", "Basic eDp5"),
        ("cache-control", "no-store"),
        ("if-range", "\"1\""),
        ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let said = edge.read_with("/a", &[("range", "bytes=5-9"), field]).await;
        said.expect(206, "pass").with(&body[5..10]);
        assert_eq!(origin.asked("/a").last().unwrap().field("range"), Some("bytes=5-9"));
        assert_eq!(origin.asked("/a").last().unwrap().field(field.0), Some(field.1));
    }
    let only = [("range", "bytes=5-9"), ("cache-control", "only-if-cached")];
    edge.read_with("/a", &only).await.expect(504, "refused");
    let count = origin.count("/a");
    range(&edge, 5, 9).await.expect(206, "miss");
    edge.until_idle().await;
    edge.read_with("/a", &only).await.expect(206, "hit_disk").with(&body[5..10]);
    let all = [("cache-control", "only-if-cached")];
    edge.read_with("/a", &all).await.expect(504, "refused");
    let same = [("range", "bytes=5-9"), ("if-range", "\"1\"")];
    edge.read_with("/a", &same).await.expect(206, "hit_disk").with(&body[5..10]);
    edge.read_with("/a", &[("if-none-match", "\"1\"")]).await.expect(304, "hit_disk");
    assert_eq!(origin.count("/a"), count + 1);
    let other = [("range", "bytes=5-9"), ("if-range", "\"2\"")];
    edge.read_with("/a", &other).await.expect(200, "miss").with(&body);
}

#[tokio::test]
async fn a_stale_part_is_confirmed_before_it_is_used() {
    let origin = Origin::start().await;
    let (old, new) = (noise(8, 3 * CHUNK), noise(9, 3 * CHUNK));
    let script = says(old.clone()).etag("\"1\"");
    origin.say("/a", script.field("cache-control", "max-age=60, stale-if-error=100"));
    let edge = edge(&origin).await;
    range(&edge, 0, 9).await.expect(206, "miss");
    edge.until_idle().await;
    edge.pass_time(60);
    expect_part(&range(&edge, 5, 9).await, "revalidated", &old, 5, 9);
    assert_eq!(origin.asked("/a")[1].field("if-none-match"), Some("\"1\""));
    expect_part(&range(&edge, 5, 9).await, "hit_disk", &old, 5, 9);
    edge.pass_time(60);
    origin.say("/a", Script::status(503));
    expect_part(&range(&edge, 5, 9).await, "hit_stale", &old, 5, 9);
    range(&edge, CHUNK, CHUNK).await.expect(503, "pass");
    origin.say("/a", fresh(&new).etag("\"2\""));
    expect_part(&range(&edge, 5, 9).await, "miss", &new, 5, 9);
    edge.until_idle().await;
    expect_part(&range(&edge, 5, 9).await, "hit_disk", &new, 5, 9);
}

#[tokio::test]
async fn an_answer_that_says_nothing_of_the_object_drops_no_part() {
    for status in [302, 403, 429] {
        let origin = Origin::start().await;
        let body = noise(8, 3 * CHUNK);
        origin.say("/a", fresh(&body));
        let edge = edge(&origin).await;
        range(&edge, 0, 9).await.expect(206, "miss");
        edge.until_idle().await;
        edge.pass_time(60);
        origin.say("/a", Script::status(status));
        range(&edge, 5, 9).await.expect(status, "pass");
        origin.say("/a", fresh(&body));
        expect_part(&range(&edge, 5, 9).await, "revalidated", &body, 5, 9);
    }
}

#[tokio::test]
async fn an_origin_that_sends_the_whole_is_kept_as_a_whole() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let (large, small) = (noise(10, 3 * CHUNK), noise(11, 1_000));
    for (path, script, body, hit) in [
        ("/deaf", fresh(&large).without_ranges(), &large, "hit_disk"),
        ("/small", fresh(&small), &small, "hit_memory"),
        // One answer that is all of it needs nothing to tie it to another.
        (
            "/untagged",
            says(small.clone()).field("cache-control", "max-age=60"),
            &small,
            "hit_memory",
        ),
    ] {
        origin.say(path, script);
        let said = edge.read_with(path, &[("range", "bytes=100-199")]).await;
        said.expect(206, "miss").with(&body[100..200]);
        edge.until_idle().await;
        edge.get(path).await.expect(200, hit).with(body);
        assert_eq!(origin.count(path), 1);
    }
    let said = edge.read_with("/none", &[("range", "bytes=100-199")]).await;
    said.expect(404, "pass");
    let said = edge.read_with("/small2", &[("range", "bytes=2000-")]).await;
    said.expect(404, "pass");
    origin.say("/beyond", fresh(&large));
    let said = edge.read_with("/beyond", &[("range", "bytes=9999999-")]).await;
    said.expect(416, "pass");
}

#[tokio::test]
async fn what_changes_or_purges_the_object_drops_its_parts() {
    let origin = Origin::start().await;
    let body = noise(12, 3 * CHUNK);
    let edge = edge(&origin).await;
    for change in ["purge", "soft", "write", "variant"] {
        origin.say("/a", fresh(&body));
        range(&edge, 0, 9).await.expect(206, "miss");
        edge.until_idle().await;
        range(&edge, 0, 9).await.expect(206, "hit_disk");
        match change {
            "purge" => drop(edge.purge("{\"path\": \"/a\"}").await),
            "soft" => drop(edge.purge("{\"path\": \"/a\", \"soft\": true}").await),
            "write" => {
                origin.say("/a", Script::status(204));
                edge.client().post("/a", &[], "x").await.expect(204, "pass");
            }
            _ => {
                origin.say("/a", fresh(&body).etag("\"2\"").field("vary", "accept-a"));
                edge.get("/a").await.expect(200, "miss").with(&body);
                edge.until_idle().await;
            }
        }
        assert_eq!(edge.metric("narthex_part_objects").await, 0, "{change}");
    }
    // It has variants: requests that select none of them ask for themselves.
    let asked = [("range", "bytes=5-9"), ("accept-a", "1")];
    edge.read_with("/a", &asked).await.expect(206, "pass").with(&body[5..10]);
    assert_eq!(origin.asked("/a").last().unwrap().field("range"), Some("bytes=5-9"));
}

#[tokio::test]
async fn many_readers_of_one_range_cost_one_fetch() {
    let origin = Origin::start().await;
    let body = noise(13, 3 * CHUNK);
    let gate = Gate::default();
    origin.say("/a", fresh(&body).held_at(100_000, &gate));
    let edge = edge(&origin).await;
    let mut readers = Vec::new();
    for first in [1_100_000, 1_100_500, 1_060_000] {
        let asked = format!("bytes={first}-{}", 2 * CHUNK + 5);
        let mut reader = edge.client().begin("/a", &[("range", &*asked)]).await;
        reader.read_to(100).await;
        readers.push((first, reader));
    }
    gate.open();
    for (at, (first, reader)) in readers.into_iter().enumerate() {
        let outcome = if at == 0 { "miss" } else { "collapsed" };
        reader.rest().await.expect(206, outcome).with(&body[first..2 * CHUNK + 6]);
    }
    assert_eq!(asked(&origin), [ask("bytes=1048576-3145727", None)]);
}

#[tokio::test]
async fn a_private_range_is_for_its_asker_alone() {
    let origin = Origin::start().await;
    let body = noise(14, 3 * CHUNK);
    let gate = Gate::default();
    let private = || says(body.clone()).field("cache-control", "private").etag("\"1\"");
    let turns = vec![private().field("x-for", "1").held(&gate), private().field("x-for", "2")];
    origin.say_in_turn("/a", turns);
    let edge = edge(&origin).await;
    let one = async { range(&edge, 5, 9).await };
    let other = async {
        origin.until_asked("/a", 1).await;
        let said = range(&edge, 5, 9);
        tokio::pin!(said);
        // It has joined, or has yet to: either way it asks for itself.
        tokio::select! {
            biased;
            said = &mut said => return said,
            () = tokio::task::yield_now() => gate.open(),
        }
        said.await
    };
    let (one, other) = tokio::join!(one, other);
    assert_eq!((one.field("x-for"), other.field("x-for")), ("1", "2"));
    for said in [one, other] {
        expect_part(&said, "pass", &body, 5, 9);
    }
}

#[tokio::test]
async fn a_body_that_nobody_continues_is_kept_as_far_as_it_came() {
    let origin = Origin::start().await;
    let body = noise(15, 4 * CHUNK);
    let site = "kind = \"generic\"";
    let timeouts = "resume = \"50ms\"";
    let limits = "[server.limits]\ncompletion_size_max = 0";
    let setup = Setup::default().site(site).timeouts(timeouts).tables(limits);
    let edge = setup.start(&[&origin]).await;
    let cut = fresh(&body).cut_at(2 * CHUNK + 500);
    origin.say_in_turn("/a", vec![cut, Script::status(503)]);
    let said = edge.get("/a").await;
    assert!(said.is_cut && said.body == body[..said.body.len()]);
    edge.until_idle().await;
    expect_part(&range(&edge, 1_000, 2_000_000).await, "hit_disk", &body, 1_000, 2_000_000);
    origin.say("/a", fresh(&body));
    let before = origin.count("/a");
    edge.get("/a").await.expect(200, "miss").with(&body);
    assert_eq!(asked(&origin)[before..], [ask("bytes=2097152-", Some("\"1\""))]);
    edge.until_idle().await;
    edge.get("/a").await.expect(200, "hit_disk").with(&body);
}

#[tokio::test]
async fn a_part_is_completed_in_the_background_where_little_is_missing() {
    let origin = Origin::start().await;
    let body = noise(16, 3 * CHUNK);
    origin.say("/a", fresh(&body));
    let edge = Setup::default().site("kind = \"generic\"").start(&[&origin]).await;
    range(&edge, CHUNK, CHUNK).await.expect(206, "miss");
    edge.until_idle().await;
    edge.get("/a").await.expect(200, "hit_disk").with(&body);
    assert_eq!(edge.metric("narthex_part_objects").await, 0);
}

#[tokio::test]
async fn ranges_of_a_folder_are_kept_like_those_of_any_origin() {
    let folder = TempDir::new().unwrap();
    let body = noise(17, 3 * CHUNK);
    std::fs::write(folder.path().join("a"), &body).unwrap();
    let table = format!("url = \"file://{}\"\nname = \"folder\"", folder.path().display());
    let site = "kind = \"generic\"\n[site.caching]\nttl_default = \"60s\"";
    let edge = Setup::default().site(site).start_before(&[table]).await;
    range(&edge, 3 * CHUNK, 3 * CHUNK + 9).await.expect(416, "pass");
    expect_part(&range(&edge, CHUNK, CHUNK + 9).await, "miss", &body, CHUNK, CHUNK + 9);
    edge.until_idle().await;
    edge.get("/a").await.expect(200, "hit_disk").with(&body);
    range(&edge, 3 * CHUNK, 3 * CHUNK + 9).await.expect(416, "hit_disk");
}
