//! Sites of kind `generic`: what of an answer enters the stored response, and what goes to the
//! client that caused it alone (RFC 9111 sections 3.1, 3.5 and 5.2.2.7).

use crate::harness::{Edge, Gate, Origin, Script, Setup, noise, says};
use bytes::Bytes;

const FRESH: &str = "max-age=60";
const ALICE: [(&str, &str); 1] = [("authorization", "Bearer alice-secret")];

fn fresh(body: &'static str) -> Script {
    says(body).field("cache-control", FRESH).etag("\"1\"")
}

async fn edge(origin: &Origin) -> Edge {
    Setup::default().site("kind = \"generic\"").start(&[origin]).await
}

/// An edge that holds `/a`, stale.
async fn with_stale(origin: &Origin) -> Edge {
    let edge = edge(origin).await;
    origin.say("/a", fresh("one"));
    edge.get("/a").await.expect(200, "miss");
    edge.pass_time(61);
    edge
}

/// FAULTS.md G3.
#[tokio::test]
async fn a_304_to_one_client_changes_nothing_for_others() {
    for fields in [&ALICE[..], &[("cache-control", "no-store")]] {
        let origin = Origin::start().await;
        let edge = with_stale(&origin).await;
        origin.say("/a", fresh("one").field("x-user", "alice"));
        let own = edge.read_with("/a", fields).await;
        assert_eq!(own.expect(200, "revalidated").with(b"one").field("x-user"), "alice");
        origin.say("/a", fresh("one"));
        for outcome in ["revalidated", "hit_memory"] {
            let said = edge.get("/a").await;
            assert_eq!(said.expect(200, outcome).with(b"one").field("x-user"), "", "{fields:?}");
        }
    }
}

#[tokio::test]
async fn a_304_to_credentials_that_may_be_shared_renews_what_is_stored() {
    let origin = Origin::start().await;
    let edge = with_stale(&origin).await;
    let public = says("one").etag("\"1\"").field("cache-control", "public, max-age=60");
    origin.say("/a", public.field("x-new", "1"));
    edge.read_with("/a", &ALICE).await.expect(200, "revalidated");
    let said = edge.get("/a").await;
    assert_eq!(said.expect(200, "hit_memory").field("x-new"), "1");
}

/// FAULTS.md G3, G19c.
#[tokio::test]
async fn readers_who_join_the_confirmation_for_credentials_ask_for_themselves() {
    let origin = Origin::start().await;
    let edge = with_stale(&origin).await;
    let gate = Gate::default();
    let own = fresh("one").field("x-user", "alice").held(&gate);
    origin.say_in_turn("/a", vec![own, fresh("one")]);
    let alice = {
        let client = edge.client();
        tokio::spawn(async move { client.read_with("/a", &ALICE).await })
    };
    origin.until_asked("/a", 2).await;
    let other = {
        let client = edge.client();
        tokio::spawn(async move { client.get("/a").await })
    };
    // While this one is answered, the other one joins.
    edge.get("/b").await.expect(404, "pass");
    gate.open();
    assert_eq!(alice.await.unwrap().expect(200, "revalidated").field("x-user"), "alice");
    let other = other.await.unwrap();
    assert_eq!(other.expect(200, "revalidated").field("x-user"), "");
}

/// FAULTS.md G3, G16a.
#[tokio::test]
async fn what_one_request_permits_is_not_sent_to_those_that_join_it() {
    let origin = Origin::start().await;
    let edge = with_stale(&origin).await;
    let gate = Gate::default();
    let failing = Script::status(500);
    origin.say_in_turn("/a", vec![failing.clone().held(&gate), failing]);
    let asking = |fields: &'static [(&str, &str)]| {
        let client = edge.client();
        tokio::spawn(async move { client.read_with("/a", fields).await })
    };
    let patient = asking(&[("cache-control", "stale-if-error=600")]);
    origin.until_asked("/a", 2).await;
    let other = asking(&[]);
    // While this one is answered, the other one joins.
    edge.get("/b").await.expect(404, "pass");
    gate.open();
    patient.await.unwrap().expect(200, "hit_stale").with(b"one");
    other.await.unwrap().expect(500, "pass");
}

#[tokio::test]
async fn a_request_whose_answer_may_not_be_stored_refreshes_nothing() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let control = "max-age=60, stale-while-revalidate=60";
    origin.say("/a", says("one").etag("\"1\"").field("cache-control", control));
    edge.get("/a").await.expect(200, "miss");
    edge.pass_time(61);
    let no_store = [("cache-control", "no-store")];
    edge.read_with("/a", &no_store).await.expect(200, "hit_stale").with(b"one");
    edge.until_idle().await;
    assert_eq!(origin.count("/a"), 1);
    edge.get("/a").await.expect(200, "hit_stale");
    origin.until_asked("/a", 2).await;
    edge.until_idle().await;
    edge.get("/a").await.expect(200, "hit_memory");
    assert_eq!(origin.count("/a"), 2);
}

#[tokio::test]
async fn a_cookie_of_a_304_goes_to_the_client_that_caused_it_alone() {
    for cookies in ["strip", "pass"] {
        let origin = Origin::start().await;
        let caching = format!("[site.caching]\nset_cookie = \"{cookies}\"");
        let site = format!("kind = \"generic\"\n{caching}");
        let edge = Setup::default().site(&site).start(&[&origin]).await;
        origin.say("/a", fresh("one"));
        edge.get("/a").await.expect(200, "miss");
        edge.pass_time(61);
        origin.say("/a", fresh("one").field("set-cookie", "a=b"));
        let own = edge.get("/a").await;
        assert_eq!(own.expect(200, "revalidated").field("set-cookie"), "a=b", "{cookies}");
        let again = edge.get("/a").await;
        assert!(!again.expect(200, "hit_memory").headers.contains_key("set-cookie"), "{cookies}");
    }
}

/// FAULTS.md G3.
#[tokio::test]
async fn a_field_that_private_names_goes_to_the_client_that_caused_it_alone() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let large = noise(1, 300_000);
    let control = "max-age=60, private=\"x-user\"";
    for (path, hit, body) in [("/a", "hit_memory", noise(2, 10)), ("/b", "hit_disk", large.clone())]
    {
        let script = says(body).etag("\"1\"").field("cache-control", control);
        origin.say(path, script.clone().field("x-user", "alice"));
        assert_eq!(edge.get(path).await.expect(200, "miss").field("x-user"), "alice");
        edge.until_idle().await;
        assert_eq!(edge.get(path).await.expect(200, hit).field("x-user"), "");
        edge.pass_time(61);
        // What names the field may be in the stored response alone.
        origin.say(path, says("").etag("\"1\"").field("x-user", "bob"));
        assert_eq!(edge.get(path).await.expect(200, "revalidated").field("x-user"), "bob");
        assert_eq!(edge.get(path).await.expect(200, hit).field("x-user"), "");
    }
}

/// FAULTS.md G3.
#[tokio::test]
async fn what_belongs_to_the_credentials_of_one_client_reaches_no_other() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let names = ["authentication-info", "dpop-nonce", "x-csrf-token"];
    let with_own = |script: Script, value: &str| {
        names.iter().fold(script, |script, name| script.field(name, value))
    };
    let public =
        |body: Bytes| says(body).etag("\"1\"").field("cache-control", "public, max-age=60");
    for (path, hit, body) in
        [("/a", "hit_memory", noise(2, 10)), ("/b", "hit_disk", noise(1, 300_000))]
    {
        origin.say(path, with_own(public(body), "of alice"));
        let alice = edge.read_with(path, &ALICE).await;
        alice.expect(200, "miss");
        edge.until_idle().await;
        let other = edge.get(path).await;
        other.expect(200, hit);
        edge.pass_time(61);
        origin.say(path, with_own(public(Bytes::new()), "of bob"));
        let bob = edge.get(path).await;
        bob.expect(200, "revalidated");
        let after = edge.get(path).await;
        after.expect(200, hit);
        for name in names {
            assert_eq!([alice.field(name), bob.field(name)], ["of alice", "of bob"], "{name}");
            assert_eq!([other.field(name), after.field(name)], ["", ""], "{name}");
        }
    }
}

#[tokio::test]
async fn a_part_has_no_field_that_private_names() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let script = says(noise(3, 3 << 20)).etag("\"1\"");
    let script = script.field("cache-control", "max-age=60, private=\"x-user\"");
    origin.say("/a", script.field("x-user", "alice"));
    for _ in 0..2 {
        let part = edge.read_with("/a", &[("range", "bytes=0-9")]).await;
        assert_eq!(part.expect(206, "pass").field("x-user"), "alice");
    }
}

/// FAULTS.md G4a.
#[tokio::test]
async fn what_says_nothing_of_storing_leaves_cache_control_in_force() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let private = says("one").field("cache-control", "private, no-store");
    let private = private.last_modified("Mon, 01 Jan 2024 00:00:00 GMT");
    origin.say("/a", private.field("surrogate-control", "content=\"ESI/1.0\""));
    for _ in 0..2 {
        edge.get("/a").await.expect(200, "pass");
    }
    let timed = says("one").field("cache-control", "private, no-store");
    origin.say("/b", timed.field("surrogate-control", "content=\"ESI/1.0\", max-age=60"));
    edge.get("/b").await.expect(200, "miss");
    edge.get("/b").await.expect(200, "hit_memory");
}

/// FAULTS.md G4b.
#[tokio::test]
async fn a_targeted_private_that_names_fields_is_plainly_private() {
    for control in ["max-age=60, private=\"x-user\"", "max-age=60, private=(\"x-user\")"] {
        let origin = Origin::start().await;
        let edge = edge(&origin).await;
        let script = says("one").field("cdn-cache-control", control);
        origin.say("/a", script.field("x-user", "alice"));
        for _ in 0..2 {
            edge.get("/a").await.expect(200, "pass");
        }
        let script = says("one").etag("\"1\"");
        let control = control.replace("private", "no-cache");
        origin.say("/b", script.field("cdn-cache-control", &control));
        edge.get("/b").await.expect(200, "miss");
        edge.get("/b").await.expect(200, "revalidated");
    }
}
