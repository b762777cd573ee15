//! Narinfos and a `nix-cache-info` that their origin stores under a content coding: they are
//! decoded, checked and served plain.

use crate::harness::{Edge, Origin, Package, Script, Setup, says, untrusted_key};
use bytes::Bytes;
use flate2::Compression;
use std::io::{Read, Write};

fn gzip(body: &[u8]) -> Bytes {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(body).unwrap();
    packed.finish().unwrap().into()
}

fn xz(body: &[u8]) -> Bytes {
    let mut packed = Vec::new();
    liblzma::read::XzEncoder::new(body, 0).read_to_end(&mut packed).unwrap();
    packed.into()
}

fn coded(body: impl Into<Bytes>, coding: &str) -> Script {
    says(body).field("content-encoding", coding)
}

async fn rejected(edge: &Edge, reason: &str) -> u64 {
    let name = format!("narthex_rejected_bodies_total{{origin=\"origin-0\",reason=\"{reason}\"}}");
    edge.metric(&name).await
}

#[tokio::test]
async fn a_narinfo_under_a_coding_is_checked_and_served_plain() {
    let package = Package::new(1, 10);
    let narinfo = package.narinfo();
    let plain = narinfo.as_bytes();
    for (body, coding) in [
        (gzip(plain), "gzip"),
        (zstd::encode_all(plain, 3).unwrap().into(), "zstd"),
        (xz(plain), "xz"),
        (gzip(&xz(plain)), "xz, gzip"),
    ] {
        let origin = Origin::start().await;
        let length = body.len();
        let script = coded(body, coding).etag("\"a\"").field("content-md5", "x");
        origin.say(&package.narinfo_path, script);
        origin.say(&package.nar_path, says(package.nar.clone()));
        let edge = Edge::before(&origin).await;
        for outcome in ["miss", "hit_memory"] {
            let said = edge.get(&package.narinfo_path).await;
            said.expect(200, outcome).with(plain);
            assert_eq!(said.field("content-encoding"), "", "{coding}");
            assert_eq!(said.field("content-md5"), "");
            assert_eq!(said.field("etag"), "W/\"a\"");
            assert_eq!(said.field("content-length"), plain.len().to_string());
            assert_ne!(length, plain.len());
        }
        // What it claims proves its NAR.
        edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
        edge.get(&package.nar_path).await.expect(200, "hit_memory");
        edge.pass_time(86_400);
        let again = edge.get(&package.narinfo_path).await;
        again.expect(200, "revalidated").with(plain);
        assert_eq!(again.field("content-encoding"), "");
        let asked = origin.asked(&package.narinfo_path);
        assert_eq!(asked[1].field("if-none-match"), Some("W/\"a\""));
    }
}

#[tokio::test]
async fn a_narinfo_under_a_coding_needs_a_signature_as_any_other() {
    let origin = Origin::start().await;
    let package = Package::new(2, 10).signed_by(Some(untrusted_key()));
    origin.say(&package.narinfo_path, coded(gzip(package.narinfo().as_bytes()), "gzip"));
    let edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
    assert_eq!(rejected(&edge, "signature").await, 2);
}

#[tokio::test]
async fn a_coded_body_that_is_cut_or_a_bomb_is_502_and_not_kept() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let package = Package::new(3, 10);
    let packed = gzip(package.narinfo().as_bytes());
    origin.say(&package.narinfo_path, coded(packed.slice(..packed.len() - 9), "gzip"));
    edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
    assert_eq!(rejected(&edge, "narinfo").await, 2);
    let bomb = zstd::encode_all(&*vec![b'a'; 64 << 20], 1).unwrap();
    assert!(bomb.len() < 1 << 20);
    origin.say(&package.narinfo_path, coded(bomb, "zstd"));
    edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
    assert_eq!(rejected(&edge, "too_large").await, 2);
}

#[tokio::test]
async fn a_coding_that_is_not_known_stays_as_it_is() {
    let origin = Origin::start().await;
    let package = Package::new(4, 10);
    let body = Bytes::from_static(b"LZIP");
    origin.say(&package.narinfo_path, coded(body.clone(), "lzip"));
    Edge::before(&origin).await.get(&package.narinfo_path).await.expect(502, "origin_failed");
    let edge = Setup::default().signatures("off").start(&[&origin]).await;
    let said = edge.get(&package.narinfo_path).await;
    said.expect(200, "miss").with(&body);
    assert_eq!(said.field("content-encoding"), "lzip");
}

#[tokio::test]
async fn a_nix_cache_info_under_a_coding_is_checked_and_served_plain() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    origin.say("/nix-cache-info", coded(gzip(b"<html>sign in</html>"), "gzip"));
    edge.get("/nix-cache-info").await.expect(502, "origin_failed");
    let info = b"StoreDir: /nix/store\nPriority: 41\n";
    origin.say("/nix-cache-info", coded(gzip(info), "gzip"));
    for outcome in ["miss", "hit_memory"] {
        let said = edge.get("/nix-cache-info").await;
        said.expect(200, outcome).with(info);
        assert_eq!(said.field("content-encoding"), "");
    }
}
