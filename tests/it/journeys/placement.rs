//! A cache that does not lie at the root: below a prefix of a bucket's keys, and below a path of
//! the edge.

use crate::harness::{Origin, Package, Setup, noise, path_of_nar, says};
use narthex::cli::demo::s3_origin::{DemoS3Origin, S3OriginSettings};
use narthex::tasks::Tasks;

const BASE: &str = "/nix-channels/store";

#[tokio::test]
async fn clients_ask_below_the_base_path_and_origins_without_it() {
    let origin = Origin::start().await;
    let package = Package::new(1, 300_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.clone()));
    let setup = Setup::default().site(&format!("base_path = \"{BASE}\""));
    let edge = setup.start(&[&origin]).await;
    let narinfo = format!("{BASE}{}", package.narinfo_path);
    let nar = format!("{BASE}{}", package.nar_path);
    edge.get(&narinfo).await.expect(200, "miss").with(package.narinfo().as_bytes());
    edge.get(&narinfo).await.expect(200, "hit_memory").with(package.narinfo().as_bytes());
    edge.get(&narinfo.replace("/store", "/%73tore")).await.expect(200, "hit_memory");
    edge.get(&nar).await.expect(200, "miss").with(&package.nar);
    edge.until_idle().await;
    edge.get(&nar).await.expect(200, "hit_disk").with(&package.nar);
    let part = edge.read_with(&nar, &[("range", "bytes=5-9")]).await;
    part.expect_status(206).with(&package.nar[5..10]);
    for outside in [&*package.narinfo_path, "/", "/nix-channels", "/nix-channels/stored/x"] {
        edge.get(outside).await.expect(404, "refused");
    }
    edge.get(BASE).await.expect(200, "local");
    let refused = "narthex_requests_refused_total{reason=\"outside_base\"}";
    assert_eq!(edge.metric(refused).await, 4);
    // A purge names the path that the object has.
    let purged = edge.purge(&format!("{{\"paths\": [\"{}\"]}}", package.narinfo_path)).await;
    assert!(purged.expect_status(200).text().contains(":1"), "{}", purged.text());
    edge.get(&narinfo).await.expect(200, "miss");
    assert_eq!((origin.count(&package.narinfo_path), origin.count(&package.nar_path)), (2, 1));
}

#[tokio::test]
async fn objects_lie_below_the_prefix_of_a_bucket() {
    let settings = S3OriginSettings::new("cache", "AKIDTEST", "a-secret");
    let bucket = DemoS3Origin::start(settings, &Tasks::new()).await.unwrap();
    let (package, other) = (Package::new(1, 100_000), noise(2, 1_000));
    let put = |path: &str, body: bytes::Bytes| {
        bucket.put(&format!("nix main/x{path}"), body, "application/octet-stream");
    };
    put(&package.narinfo_path, package.narinfo().into());
    put(&package.nar_path, package.nar.clone());
    let outside = path_of_nar(&other, "nar.xz");
    bucket.put(&outside[1..], other, "application/x-nix-nar");
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("id"), "AKIDTEST").unwrap();
    std::fs::write(folder.path().join("secret"), "a-secret").unwrap();
    let table = format!(
        "url = \"s3://cache?region=us-east-1&endpoint={}\"\nprefix = \"nix main/x/\"\n\
         credentials = {{ access_key_id_file = \"{folder}/id\", \
         secret_access_key_file = \"{folder}/secret\" }}",
        bucket.endpoint(),
        folder = folder.path().display(),
    );
    let edge = Setup::default().by_real_time().start_before(&[table]).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    edge.get(&outside).await.expect(404, "absent");
    assert_eq!(bucket.refused(), 0);
    // The notice of an upload below the prefix ends a remembered absence.
    let late = Package::new(3, 10);
    edge.get(&late.narinfo_path).await.expect(404, "absent");
    put(&late.narinfo_path, late.narinfo().into());
    let notice = |key: &str| {
        format!(
            "{{\"Records\": [{{\"eventName\": \"ObjectCreated:Put\", \"s3\": {{\"bucket\": \
             {{\"name\": \"cache\"}}, \"object\": {{\"key\": \"{key}\"}}}}}}]}}"
        )
    };
    edge.notice("/api/v1/uploads", &notice(&late.narinfo_path[1..])).await.expect_status(200);
    edge.get(&late.narinfo_path).await.expect(404, "hit_absent");
    let key = format!("nix+main/x{}", late.narinfo_path);
    edge.notice("/api/v1/uploads", &notice(&key)).await.expect_status(200);
    edge.get(&late.narinfo_path).await.expect(200, "miss");
}
