//! Several upstreams with their own credentials, their own trusted keys, and rules of what each is
//! asked for; which origin the NAR of a narinfo comes from.

use crate::harness::{
    Edge, Origin, Package, Script, Setup, noise, path_of_nar, says, trusted_key, untrusted_key,
};
use std::path::Path;
use tempfile::TempDir;

/// An origin called `name`, with these lines.
fn table(name: &str, origin: &Origin, lines: &str) -> String {
    format!("url = \"{}\"\nname = \"{name}\"\n{lines}", origin.url())
}

/// The lines of an origin that wants what `lines` name, over plain http.
fn let_in(lines: &str) -> String {
    format!("credentials = {{ plain_http = true, {lines} }}")
}

/// Trusting the key that narinfos are signed with by default, or the other one.
fn trusting(key: &narthex::nix::signature::SecretKey) -> String {
    format!("trusted_public_keys = [\"{}\"]", key.public_key().unwrap())
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

async fn two() -> (Origin, Origin) {
    (Origin::start().await, Origin::start().await)
}

async fn edge(tables: &[String]) -> Edge {
    Setup::default().start_before(tables).await
}

#[tokio::test]
async fn a_private_upstream_is_sent_its_own_credentials_and_the_public_one_none() {
    let folder = TempDir::new().unwrap();
    let netrc = "machine 127.0.0.1 login edge password netrc-word\n";
    let ways = [
        (format!("token_file = '{}'", write(folder.path(), "token", "tok\n")), "Bearer tok"),
        (
            format!("user = 'edge', password_file = '{}'", write(folder.path(), "word", "a b\n")),
            "Basic ZWRnZTphIGI=",
        ),
        (
            format!("netrc_file = '{}'", write(folder.path(), "netrc", netrc)),
            "Basic ZWRnZTpuZXRyYy13b3Jk",
        ),
    ];
    for (seed, (lines, sent)) in (10..).zip(ways) {
        let (private, public) = two().await;
        let (own, known) = (Package::new(seed, 10), Package::new(seed + 100, 10));
        private.say(&own.narinfo_path, says(own.narinfo()));
        public.say(&known.narinfo_path, says(known.narinfo()));
        let tables = [table("private", &private, &let_in(&lines)), table("public", &public, "")];
        let edge = edge(&tables).await;
        edge.get(&own.narinfo_path).await.expect(200, "miss");
        edge.get(&known.narinfo_path).await.expect(200, "miss");
        let asked = private.asked(&own.narinfo_path);
        assert_eq!(asked[0].field("authorization"), Some(sent));
        assert_eq!(public.asked(&known.narinfo_path)[0].field("authorization"), None);
    }
}

#[tokio::test]
async fn refused_credentials_are_never_absence_and_are_told_by_origin_and_file() {
    let folder = TempDir::new().unwrap();
    let file = write(folder.path(), "token", "hush\n");
    let (private, public) = two().await;
    let (own, known) = (Package::new(1, 10), Package::new(2, 10));
    for status in [401, 403] {
        private.say(&own.narinfo_path, Script::status(status));
        private.say(&known.narinfo_path, Script::status(status));
        public.say(&known.narinfo_path, says(known.narinfo()));
        let lines = let_in(&format!("token_file = '{file}'"));
        let edge = edge(&[table("private", &private, &lines), table("public", &public, "")]).await;
        edge.get(&own.narinfo_path).await.expect(502, "origin_failed");
        edge.get(&own.narinfo_path).await.expect(502, "origin_failed");
        let ready = edge.admin().get("/readyz").await;
        assert!(ready.text().contains("origin private") && ready.text().contains(&file));
        assert!(!ready.text().contains("hush"), "{}", ready.text());
        assert_eq!(edge.metric("narthex_origin_up{origin=\"private\"}").await, 0);
        // What others have is served meanwhile, and nothing was learnt from the refusals.
        edge.get(&known.narinfo_path).await.expect(200, "miss");
        private.say(&own.narinfo_path, says(own.narinfo()));
        edge.get(&own.narinfo_path).await.expect(200, "miss");
    }
}

#[tokio::test]
async fn a_reload_takes_a_token_that_was_mended() {
    let folder = TempDir::new().unwrap();
    let private = Origin::start().await;
    let own = Package::new(1, 10);
    let lines = let_in(&format!("token_file = '{}/token'", folder.path().display()));
    let edge = edge(&[table("private", &private, &lines)]).await;
    private.say(&own.narinfo_path, says(own.narinfo()));
    edge.get(&own.narinfo_path).await.expect(502, "origin_failed");
    assert_eq!(private.count(&own.narinfo_path), 0, "asked without a token");
    write(folder.path(), "token", "tok\n");
    edge.reload(&edge.text).await.unwrap();
    edge.get(&own.narinfo_path).await.expect(200, "miss");
}

#[tokio::test]
async fn a_narinfo_that_fails_the_check_of_its_origin_is_asked_of_the_next() {
    let (first, second) = two().await;
    let third = Origin::start().await;
    let good = Package::new(1, 10);
    let narinfo = Package::new(1, 10).signed_by(Some(untrusted_key())).narinfo();
    // Its key is the one of the third alone.
    first.say(&good.narinfo_path, says(narinfo.clone()));
    second.say(&good.narinfo_path, says("<html>a page</html>"));
    third.say(&good.narinfo_path, says(narinfo.clone()));
    let tables = [
        table("first", &first, ""),
        table("second", &second, &trusting(&trusted_key())),
        table("third", &third, &trusting(&untrusted_key())),
    ];
    let edge = edge(&tables).await;
    edge.get(&good.narinfo_path).await.expect(200, "miss").with(narinfo.as_bytes());
    let rejected = |origin: &str, reason: &str| {
        format!("narthex_rejected_bodies_total{{origin=\"{origin}\",reason=\"{reason}\"}}")
    };
    assert_eq!(edge.metric(&rejected("first", "signature")).await, 1);
    assert_eq!(edge.metric(&rejected("second", "narinfo")).await, 1);
    edge.get(&good.narinfo_path).await.expect(200, "hit_memory");
}

#[tokio::test]
async fn a_narinfo_that_fails_the_check_is_no_absence_where_the_others_have_none() {
    let (first, second) = two().await;
    let bad = Package::new(1, 10).signed_by(Some(untrusted_key()));
    first.say(&bad.narinfo_path, says(bad.narinfo()));
    let edge = edge(&[table("first", &first, ""), table("second", &second, "")]).await;
    edge.get(&bad.narinfo_path).await.expect(502, "origin_failed");
    assert_eq!(second.count(&bad.narinfo_path), 1);
}

#[tokio::test]
async fn a_stored_narinfo_serves_while_its_key_is_trusted_for_its_origin() {
    let (first, second) = two().await;
    let package = Package::new(1, 10);
    first.say(&package.narinfo_path, says(package.narinfo()));
    let tables = |first_lines: &str, second_lines: &str| {
        [table("first", &first, first_lines), table("second", &second, second_lines)]
    };
    let (good, other) = (trusting(&trusted_key()), trusting(&untrusted_key()));
    let mut edge = edge(&tables(&good, &other)).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.until_idle().await;
    let text = edge.text.clone();
    // Another name, and a further key, change nothing.
    let key = untrusted_key().public_key().unwrap();
    let further = good.replace(']', &format!(", \"{key}\"]"));
    let more = text.replace(&good, &further).replace("\"first\"", "\"renamed\"");
    edge.reload(&more).await.unwrap();
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    // The key goes over to the other origin: what the first has is not to be believed any more.
    let swap = |text: &str, name: &str, before: &str, after: &str| {
        let named = |key: &str| format!("name = \"{name}\"\n{key}");
        assert!(text.contains(&named(before)));
        text.replace(&named(before), &named(after))
    };
    let swapped = swap(&swap(&text, "first", &good, &other), "second", &other, &good);
    edge.reload(&swapped).await.unwrap();
    edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
    edge.text.clone_from(&swapped);
    edge.restart().await;
    edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
    edge.text.clone_from(&text);
    edge.restart().await;
    edge.get(&package.narinfo_path).await.expect(200, "hit_disk");
    assert_eq!(second.count(&package.narinfo_path), 2);
}

#[tokio::test]
async fn rules_say_which_upstream_is_asked_first_and_which_never() {
    let (first, second) = two().await;
    let nar = noise(1, 1_000);
    let path = path_of_nar(&nar, "nar.xz");
    let package = Package::new(2, 10);
    for origin in [&first, &second] {
        origin.say(&path, says(nar.clone()));
        origin.say(&package.narinfo_path, says(package.narinfo()));
    }
    let log = "/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-x.drv";
    let listing = package.narinfo_path.replace(".narinfo", ".ls");
    first.say(log, says("a log"));
    let tables = [
        table("first", &first, "never_for = [\"/log/*\"]\nonly_for = [\"*.narinfo\", \"nar\"]"),
        table("second", &second, "first_for = [\"nar\"]\nnever_for = [\"listing\"]"),
    ];
    let edge = edge(&tables).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!((first.count(&path), second.count(&path)), (0, 1));
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    let counts = |path: &str| (first.count(path), second.count(path));
    assert_eq!(counts(&package.narinfo_path), (1, 0));
    edge.get(log).await.expect(404, "absent");
    assert_eq!(counts(log), (0, 1));
    edge.get(&listing).await.expect(404, "absent");
    assert_eq!(counts(&listing), (0, 0), "asked although no rule lets it be asked");
}

/// Two origins, of which the second has the narinfo; each has a file at the NAR's path.
async fn narinfo_of_the_second(package: &Package) -> (Origin, Origin, Edge) {
    let (first, second) = two().await;
    second.say(&package.narinfo_path, says(package.narinfo()));
    let edge = edge(&[table("first", &first, ""), table("second", &second, "")]).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.until_idle().await;
    (first, second, edge)
}

#[tokio::test]
async fn a_nar_comes_from_the_origin_of_its_narinfo() {
    let nar = noise(2, 100_000);
    let file = zstd::encode_all(&*nar, 1).unwrap().into();
    let unnamed = Package::new(2, 1).holding(&nar, file).without_file_claims();
    for package in [Package::new(1, 100_000), unnamed] {
        let (first, second, mut edge) = narinfo_of_the_second(&package).await;
        first.say(&package.nar_path, says(noise(9, 100_000)).etag("\"a\""));
        second.say(&package.nar_path, says(package.nar.clone()).etag("\"b\""));
        // What is known of it is known after a restart too.
        edge.restart().await;
        edge.client().head(&package.nar_path).await.expect(200, "pass");
        edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
        assert_eq!(first.count(&package.nar_path), 0);
    }
}

#[tokio::test]
async fn a_range_of_a_nar_comes_from_the_origin_of_its_narinfo() {
    let package = Package::new(1, 5_000_000).without_file_claims();
    let (first, second, edge) = narinfo_of_the_second(&package).await;
    first.say(&package.nar_path, says(noise(9, 5_000_000)).etag("\"a\""));
    second.say(&package.nar_path, says(package.nar.clone()).etag("\"b\""));
    for offset in [2_500_000_usize, 4_000_000] {
        let range = format!("bytes={offset}-{}", offset + 99);
        let said = edge.read_with(&package.nar_path, &[("range", &*range)]).await;
        assert_eq!(said.status, 206);
        said.with(&package.nar[offset..offset + 100]);
    }
    edge.until_idle().await;
    assert_eq!(first.count(&package.nar_path), 0);
}

#[tokio::test]
async fn without_a_hash_no_other_origin_stands_in() {
    for answer in [Script::status(503), Script::status(404)] {
        let package = Package::new(1, 100_000).without_file_claims();
        let (first, second, edge) = narinfo_of_the_second(&package).await;
        first.say(&package.nar_path, says(noise(9, 100_000)).etag("\"a\""));
        second.say(&package.nar_path, answer);
        let said = edge.get(&package.nar_path).await;
        assert!([404, 502].contains(&said.status.as_u16()), "{}", said.status);
        assert_eq!(first.count(&package.nar_path), 0);
    }
}

#[tokio::test]
async fn with_a_hash_another_origin_stands_in_and_its_bytes_are_proven() {
    let package = Package::new(1, 100_000);
    let (first, second, edge) = narinfo_of_the_second(&package).await;
    second.say(&package.nar_path, Script::status(503));
    first.say(&package.nar_path, says(package.nar.clone()));
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);

    let package = Package::new(2, 100_000);
    let (first, second, edge) = narinfo_of_the_second(&package).await;
    second.say(&package.nar_path, Script::status(404));
    first.say(&package.nar_path, says(noise(9, 100_000)));
    // A reader of it gets no end.
    let said = edge.get(&package.nar_path).await;
    assert!(said.is_cut || said.status == 502, "{said:?}");
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk().1, 0);

    // What nothing can prove is no stand-in: a coded answer is not the file itself.
    let package = Package::new(3, 100_000);
    let (first, second, edge) = narinfo_of_the_second(&package).await;
    second.say(&package.nar_path, Script::status(503));
    let coded = says(noise(9, 1_000)).field("content-encoding", "gzip");
    first.say(&package.nar_path, coded);
    edge.get(&package.nar_path).await.expect(502, "origin_failed");
}

#[tokio::test]
async fn a_body_without_file_hash_goes_on_elsewhere_and_what_it_holds_decides() {
    // Of a format that is not read.
    let nar = noise(1, 1_000_000);
    let file = [&[0x04, 0x22, 0x4d, 0x18][..], &nar].concat().into();
    let package = Package::new(1, 1).holding(&nar, file).without_file_claims();
    let (first, second, edge) = narinfo_of_the_second(&package).await;
    let whole = says(package.nar.clone()).etag("\"same\"");
    let turns = vec![whole.clone().cut_at(300_000), Script::status(503)];
    second.say_in_turn(&package.nar_path, turns.clone());
    first.say(&package.nar_path, whole);
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    assert_eq!(first.asked(&package.nar_path)[0].field("range"), Some("bytes=300000-"));

    let package = Package::new(2, 1_000_000).without_file_claims();
    let lines = "[site.origin.timeouts]\nresume = \"300ms\"";
    let (first, second) = two().await;
    second.say(&package.narinfo_path, says(package.narinfo()));
    let tables = [table("first", &first, ""), table("second", &second, "")];
    let timeouts = lines.split_once('\n').unwrap().1;
    let edge = Setup::default().timeouts(timeouts).start_before(&tables).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    let whole = says(package.nar.clone()).etag("\"same\"");
    second.say_in_turn(&package.nar_path, vec![whole.cut_at(300_000), Script::status(503)]);
    let other = says(noise(9, 1_000_000)).etag("\"other\"").unconditional();
    first.say(&package.nar_path, other);
    let said = edge.get(&package.nar_path).await;
    // Its contents are what decides, at its end.
    assert!(said.is_cut, "{said:?}");
}

/// UPSTREAMS.md row 18.
#[tokio::test]
async fn small_objects_without_a_length_are_kept_if_their_end_is_certain() {
    let origin = Origin::start().await;
    let log = "/log/0123456789abcdfghijklmnpqrsvwxyz-hello.drv";
    let listing = "/0123456789abcdfghijklmnpqrsvwxyz.ls";
    let info = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";
    for (path, body) in [("/nix-cache-info", info), (listing, "{}"), (log, "built")] {
        origin.say(path, says(body).chunked());
        let edge = Edge::before(&origin).await;
        edge.get(path).await.expect(200, "miss").with(body.as_bytes());
        edge.until_idle().await;
        let asked = origin.count(path);
        let said = edge.get(path).await;
        assert!(said.outcome().starts_with("hit"), "{path}: {}", said.outcome());
        assert_eq!(origin.count(path), asked, "{path}");
    }
    origin.say(log, says("cut?").until_close());
    let edge = Edge::before(&origin).await;
    for _ in 0..2 {
        edge.get(log).await.expect(200, "pass");
    }
}

/// UPSTREAMS.md row 36.
#[tokio::test]
async fn a_client_cannot_tell_an_origin_another_address() {
    let origin = Origin::start().await;
    origin.say("/a", says("x").field("cache-control", "private"));
    let edge = Setup::default().site("kind = \"generic\"").start(&[&origin]).await;
    let forged = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-real-ip", "192.0.2.1"),
        ("true-client-ip", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1"),
    ];
    edge.read_with("/a", &forged).await.expect(200, "pass");
    let asked = &origin.asked("/a")[0];
    assert_eq!(asked.field("x-forwarded-for"), Some("127.0.0.1"));
    for (name, _) in &forged[1..] {
        assert_eq!(asked.field(name), None, "{name}");
    }
}
