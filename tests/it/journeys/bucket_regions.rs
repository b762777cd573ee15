//! Buckets that are elsewhere than their URL says, and name the place: another region by 400 or
//! 301, another URL by 307.

use crate::harness::{Edge, Origin, Package, Script, Setup, says};
use tempfile::TempDir;

/// An edge before a bucket called `cache` at `origin`, with keys; it is told us-east-1.
async fn edge(origin: &Origin, folder: &TempDir) -> Edge {
    for name in ["id", "secret"] {
        std::fs::write(folder.path().join(name), "word").unwrap();
    }
    let table = format!(
        "url = \"s3://cache?region=us-east-1&endpoint={}\"\nname = \"bucket\"\n\
         credentials = {{ access_key_id_file = \"{folder}/id\", \
         secret_access_key_file = \"{folder}/secret\" }}",
        origin.url(),
        folder = folder.path().display(),
    );
    Setup::default().start_before(&[table]).await
}

fn key(path: &str) -> String {
    format!("/cache{path}")
}

/// The regions that requests for `path` were signed for.
fn regions(origin: &Origin, path: &str) -> Vec<String> {
    let scope = |field: &str| field.split('/').nth(2).unwrap().to_owned();
    let asked = origin.asked(&key(path));
    asked.iter().map(|asked| scope(asked.field("authorization").unwrap())).collect()
}

#[tokio::test]
async fn the_region_that_a_bucket_names_is_used_from_then_on() {
    let field = "x-amz-bucket-region";
    for wrong in [
        Script::fault_with(400, "AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>"),
        Script::fault_with(301, "PermanentRedirect", "").field(field, "eu-central-1"),
        Script::fault_with(307, "TemporaryRedirect", "<Region>eu-central-1</Region>"),
        Script::fault_with(
            301,
            "PermanentRedirect",
            "<Endpoint>cache.s3.eu-central-1.amazonaws.com</Endpoint>",
        ),
    ] {
        let (origin, folder) = (Origin::start().await, TempDir::new().unwrap());
        let (first, second) = (Package::new(1, 50_000), Package::new(2, 10));
        let narinfo = says(first.narinfo());
        origin.say(&key("/nix-cache-info"), says("StoreDir: /nix/store\n"));
        origin.say_in_turn(&key(&first.narinfo_path), vec![wrong, narinfo]);
        origin.say(&key(&first.nar_path), says(first.nar.clone()));
        origin.say(&key(&second.narinfo_path), says(second.narinfo()));
        let edge = edge(&origin, &folder).await;
        edge.get(&first.narinfo_path).await.expect(200, "miss");
        assert_eq!(regions(&origin, &first.narinfo_path), ["us-east-1", "eu-central-1"]);
        edge.get(&first.nar_path).await.expect(200, "miss").with(&first.nar);
        edge.get(&second.narinfo_path).await.expect(200, "miss");
        for path in [&first.nar_path, &second.narinfo_path] {
            assert_eq!(regions(&origin, path), ["eu-central-1"]);
        }
    }
}

#[tokio::test]
async fn a_redirect_within_the_service_is_followed_for_its_object() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let (folder, package) = (TempDir::new().unwrap(), Package::new(1, 50_000));
    for path in [&package.narinfo_path, &package.nar_path] {
        let place = format!("{}{}", other.url(), key(path));
        let moved = Script::fault_with(307, "TemporaryRedirect", "").field("location", &place);
        origin.say(&key(path), moved);
    }
    other.say(&key(&package.narinfo_path), says(package.narinfo()));
    other.say(&key(&package.nar_path), says(package.nar.clone()));
    let edge = edge(&origin, &folder).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    assert_eq!(regions(&other, &package.nar_path), ["us-east-1"]);
}

#[tokio::test]
async fn nothing_signed_goes_to_another_service() {
    let (origin, folder) = (Origin::start().await, TempDir::new().unwrap());
    let path = Package::new(1, 10).narinfo_path;
    let foreign = "http://localhost:1/cache/x";
    origin.say(
        &key(&path),
        Script::fault_with(307, "TemporaryRedirect", "").field("location", foreign),
    );
    let edge = edge(&origin, &folder).await;
    // After its self test.
    edge.until_metric("narthex_origin_up{origin=\"bucket\"}", 1).await;
    edge.get(&path).await.expect(502, "origin_failed");
    let ready = edge.admin().get("/readyz").await;
    assert!(ready.text().contains("which is not of this service"), "{}", ready.text());
    // A bucket that names one region after another is asked twice at most.
    let path = Package::new(2, 10).narinfo_path;
    let wrong = |region: &str| {
        let region = format!("<Region>{region}</Region>");
        Script::fault_with(400, "AuthorizationHeaderMalformed", &region)
    };
    origin.say_in_turn(&key(&path), vec![wrong("a-1"), wrong("b-1"), wrong("c-1")]);
    edge.get(&path).await.expect(502, "origin_failed");
    assert_eq!(origin.count(&key(&path)), 2);
}
