//! Before a private S3 bucket that verifies signatures: what is signed, absent, refused.

use crate::harness::{Edge, Package, Setup, noise, path_of_nar};
use narthex::cli::demo::s3_origin::{DemoS3Origin, S3OriginSettings};
use narthex::tasks::Tasks;
use tempfile::TempDir;

struct Bucket {
    origin: DemoS3Origin,
    folder: TempDir,
}

impl Bucket {
    async fn start() -> Self {
        let settings = S3OriginSettings::new("cache", "AKIDTEST", "a-secret");
        let origin = DemoS3Origin::start(settings, &Tasks::new()).await.unwrap();
        Self { origin, folder: TempDir::new().unwrap() }
    }

    /// An edge that knows this id and secret, by the system's clock: signatures carry the time.
    async fn edge(&self, id: &str, secret: &str) -> Edge {
        let folder = self.folder.path();
        std::fs::write(folder.join("id"), id).unwrap();
        std::fs::write(folder.join("secret"), secret).unwrap();
        let table = format!(
            "url = \"s3://cache?region=us-east-1&endpoint={}\"\nname = \"bucket\"\n\
             credentials = {{ access_key_id_file = \"{folder}/id\", \
             secret_access_key_file = \"{folder}/secret\" }}",
            self.origin.endpoint(),
            folder = folder.display(),
        );
        Setup::default().by_real_time().start_before(&[table]).await
    }
}

#[tokio::test]
async fn objects_of_a_private_bucket_are_served_and_kept() {
    let bucket = Bucket::start().await;
    let package = Package::new(1, 1_000_000);
    let put = |path: &str, body: bytes::Bytes| {
        bucket.origin.put(&path[1..], body, "application/octet-stream");
    };
    put(&package.narinfo_path, package.narinfo().into());
    put(&package.nar_path, package.nar.clone());
    let edge = bucket.edge("AKIDTEST", "a-secret").await;
    let path = &package.narinfo_path;
    edge.get(path).await.expect(200, "miss").with(package.narinfo().as_bytes());
    edge.get(path).await.expect(200, "hit_memory");
    edge.client().head(&package.nar_path).await.expect(200, "pass");
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    edge.until_idle().await;
    edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
    let odd = format!("/realisations/sha256:{}!out.doi", "d".repeat(64));
    put(&odd, "{}".into());
    edge.get(&odd.replace('!', "%21")).await.expect(200, "miss").with(b"{}");
    edge.get("/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-g++.drv").await.expect(404, "absent");
    assert_eq!(bucket.origin.refused(), 0);
}

#[tokio::test]
async fn wrong_keys_are_502_never_absence_and_loud() {
    for (id, secret, code) in
        [("AKIDTEST", "wrong", "SignatureDoesNotMatch"), ("AKIDX", "x", "InvalidAccessKeyId")]
    {
        let bucket = Bucket::start().await;
        let nar = noise(2, 1_000);
        let path = path_of_nar(&nar, "nar.xz");
        bucket.origin.put(&path[1..], nar, "application/x-nix-nar");
        let edge = bucket.edge(id, secret).await;
        edge.until_metric("narthex_origin_up{origin=\"bucket\"}", 0).await;
        edge.get(&path).await.expect(502, "origin_failed");
        edge.client().head(&path).await.expect(502, "origin_failed");
        edge.get(&Package::new(3, 1).narinfo_path).await.expect(502, "origin_failed");
        let ready = edge.admin().get("/readyz").await;
        assert!(ready.text().contains(code), "{}", ready.text());
    }
}

#[tokio::test]
async fn a_reload_takes_keys_that_were_corrected_in_their_files() {
    let bucket = Bucket::start().await;
    let nar = noise(4, 1_000);
    let path = path_of_nar(&nar, "nar.xz");
    bucket.origin.put(&path[1..], nar.clone(), "application/x-nix-nar");
    let edge = bucket.edge("AKIDTEST", "wrong").await;
    edge.get(&path).await.expect(502, "origin_failed");
    std::fs::write(bucket.folder.path().join("secret"), "a-secret").unwrap();
    edge.reload(&edge.text).await.unwrap();
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_metric("narthex_origin_up{origin=\"bucket\"}", 1).await;
}
