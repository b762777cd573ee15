//! Narinfos with a `CA` field: a store path that follows from its contents needs no signature.

use crate::harness::{Edge, Origin, Setup, noise, says, trusted_key};
use bytes::Bytes;
use narthex::nix::hash::{NixHash, sha256};
use narthex::nix::narinfo::NarInfo;
use narthex::nix::store_path::{SelfReference, StoreDir, StorePath};

/// A NAR with a narinfo that has a content address and no signature.
struct Addressed {
    nar: Bytes,
    narinfo: NarInfo,
}

impl Addressed {
    fn new(seed: u64) -> Self {
        let (store_dir, nar) = (StoreDir::default(), noise(seed, 100));
        let nar_sha256 = sha256(&nar);
        let absent = SelfReference::Absent;
        let store_path = StorePath::source(&store_dir, "tree", nar_sha256, &[], absent).unwrap();
        let narinfo = NarInfo {
            store_dir,
            store_path,
            url: format!("nar/{seed}.nar"),
            compression: "none".to_owned(),
            file_hash: None,
            file_size: None,
            nar_sha256,
            nar_size: nar.len() as u64,
            references: Vec::new(),
            deriver: None,
            system: None,
            signatures: Vec::new(),
            content_address: Some(format!("fixed:r:{}", NixHash::Sha256(nar_sha256))),
        };
        Self { nar, narinfo }
    }

    fn path(&self) -> String {
        format!("/{}.narinfo", self.narinfo.store_path.hash_part())
    }

    fn sign(&mut self) {
        let signature = trusted_key().sign(self.narinfo.fingerprint().as_bytes()).unwrap();
        self.narinfo.signatures.push(signature.to_string());
    }
}

async fn rejected(edge: &Edge, reason: &str) -> u64 {
    let name = format!("narthex_rejected_bodies_total{{origin=\"origin-0\",reason=\"{reason}\"}}");
    edge.metric(&name).await
}

#[tokio::test]
async fn a_path_that_follows_from_its_contents_needs_no_signature() {
    let origin = Origin::start().await;
    let addressed = Addressed::new(1);
    let (path, text) = (addressed.path(), addressed.narinfo.to_string());
    origin.say(&path, says(text.clone()).chunked());
    origin.say("/nar/1.nar", says(addressed.nar.clone()));
    let mut edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss").with(text.as_bytes());
    edge.get(&path).await.expect(200, "hit_memory").with(text.as_bytes());
    edge.get("/nar/1.nar").await.expect(200, "miss").with(&addressed.nar);
    if edge.has_disk() {
        edge.restart().await;
        edge.get(&path).await.expect_one_of(200, &["hit_disk", "hit_memory"]);
    }
    assert_eq!(origin.count(&path), 1);
}

#[tokio::test]
async fn a_path_that_does_not_follow_is_502_and_counted() {
    let origin = Origin::start().await;
    let mut addressed = Addressed::new(2);
    let other = NixHash::Sha256(sha256(b"other contents"));
    addressed.narinfo.content_address = Some(format!("fixed:r:{other}"));
    let path = addressed.path();
    origin.say(&path, says(addressed.narinfo.to_string()));
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(502, "origin_failed");
    assert_eq!(rejected(&edge, "content_address").await, 2);
    // A client without required signatures takes it, and so does the edge.
    let lax = Setup::default().signatures("warn").start(&[&origin]).await;
    lax.get(&path).await.expect(200, "miss");
}

/// Nix falls back to the signatures then.
#[tokio::test]
async fn a_signature_stands_beside_a_wrong_content_address() {
    let origin = Origin::start().await;
    let mut addressed = Addressed::new(3);
    addressed.narinfo.content_address = Some("fixed:git:sha1:nonsense".to_owned());
    addressed.sign();
    let path = addressed.path();
    origin.say(&path, says(addressed.narinfo.to_string()));
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss");
    edge.get(&path).await.expect(200, "hit_memory");
    assert_eq!(rejected(&edge, "content_address").await, 0);
}
