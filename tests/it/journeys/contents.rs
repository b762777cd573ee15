//! NARs that only their contents prove: narinfos without `FileHash`, and narinfos that are wrong
//! about a file that holds the right NAR. As Nix, which looks at `NarHash` and `NarSize` alone.

use crate::harness::{Edge, Origin, Package, Said, Setup, noise, says};
use bytes::Bytes;
use std::io::Write;

fn zstd(nar: &[u8]) -> Bytes {
    zstd::encode_all(nar, 1).unwrap().into()
}

fn xz(nar: &[u8]) -> Bytes {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(nar).unwrap();
    encoder.finish().unwrap().into()
}

/// A package with a NAR of this length in a file that `compress` makes; its narinfo says nothing
/// of the file.
fn package(seed: u64, length: usize, compress: fn(&[u8]) -> Bytes) -> Package {
    let nar = noise(seed, length);
    let file = compress(&nar);
    Package::new(seed, 1).holding(&nar, file).without_file_claims()
}

/// An edge that has read the narinfo.
async fn edge(setup: Setup, origin: &Origin, package: &Package) -> Edge {
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let edge = setup.start(&[origin]).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge
}

fn rejected(reason: &str) -> String {
    format!("narthex_rejected_bodies_total{{origin=\"origin-0\",reason=\"{reason}\"}}")
}

fn damages(file: &Bytes) -> [Bytes; 5] {
    let mut flipped = file.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    let page = format!("<html>{}</html>", "x".repeat(file.len())).into();
    [flipped.into(), file.slice(..file.len() - 1), file.slice(..1), Bytes::new(), page]
}

#[tokio::test]
async fn a_nar_without_file_hash_is_proven_by_what_it_holds() {
    for (seed, length) in [(1, 500_000), (2, 20_000)] {
        for compress in [zstd, xz] {
            for is_chunked in [false, true] {
                let (origin, package) = (Origin::start().await, package(seed, length, compress));
                let edge = edge(Setup::default(), &origin, &package).await;
                let script = says(package.nar.clone());
                let script = if is_chunked { script.chunked() } else { script };
                origin.say(&package.nar_path, script);
                edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
                edge.until_idle().await;
                let hit = edge.get(&package.nar_path).await;
                hit.expect_one_of(200, &["hit_disk", "hit_memory"]).with(&package.nar);
                assert_eq!(origin.count(&package.nar_path), 1);
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_nar_without_file_hash_never_ends_as_if_it_were_whole() {
    for disk in ["64 MiB", "0"] {
        for (seed, length) in [(3, 500_000), (4, 20_000)] {
            for compress in [zstd, xz] {
                let package = package(seed, length, compress);
                for damaged in damages(&package.nar) {
                    for is_chunked in [false, true] {
                        let origin = Origin::start().await;
                        let setup = Setup::default().disk_size(disk);
                        let edge = edge(setup, &origin, &package).await;
                        let script = says(damaged.clone());
                        let script = if is_chunked { script.chunked() } else { script };
                        origin.say(&package.nar_path, script);
                        let said = edge.client().try_to_read(&package.nar_path, &[]).await;
                        let is_end = |it: &Said| !it.is_cut && it.status.as_u16() != 502;
                        let told = format!("{} bytes, {disk}: {said:?}", damaged.len());
                        assert!(!said.as_ref().is_some_and(is_end), "{told}");
                        edge.until_idle().await;
                        assert!(edge.metric(&rejected("nar_hash")).await >= 1);
                        origin.say(&package.nar_path, says(package.nar.clone()));
                        edge.pass_time(2);
                        let right = edge.get(&package.nar_path).await;
                        right.expect_one_of(200, &["miss", "pass"]).with(&package.nar);
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_passes_is_proven_by_what_it_holds() {
    let (origin, package) = (Origin::start().await, package(5, 3_000_000, zstd));
    let edge = edge(Setup::default().disk_size("0"), &origin, &package).await;
    origin.say(&package.nar_path, says(package.nar.clone()));
    edge.get(&package.nar_path).await.expect(200, "pass").with(&package.nar);
}

#[tokio::test]
async fn what_a_narinfo_says_wrongly_of_its_file_does_not_count() {
    for (hash, size) in [(true, false), (false, true), (true, true)] {
        for length in [500_000, 20_000] {
            let origin = Origin::start().await;
            let nar = noise(6, length);
            let package = Package::new(6, 1).holding(&nar, zstd(&nar));
            let other = Package::new(6, 1).holding(&nar, xz(&nar));
            let mut text = package.unsigned();
            let (right, wrong) = (package.file_claims(), other.file_claims());
            if hash {
                text = text.replace(&right.0, &wrong.0);
            }
            if size {
                text = text.replace(&right.1, &wrong.1);
            }
            origin.say(&package.narinfo_path, says(package.sign(text)));
            origin.say(&package.nar_path, says(package.nar.clone()));
            let edge = Edge::before(&origin).await;
            edge.get(&package.narinfo_path).await.expect(200, "miss");
            edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
            edge.until_idle().await;
            let hit = edge.get(&package.nar_path).await;
            hit.expect_one_of(200, &["hit_disk", "hit_memory"]).with(&package.nar);
        }
    }
}

#[tokio::test]
async fn a_format_that_is_not_read_is_delivered_and_not_stored() {
    let origin = Origin::start().await;
    let nar = noise(7, 300_000);
    let lz4: Bytes = [&[0x04, 0x22, 0x4d, 0x18][..], &nar].concat().into();
    let package = Package::new(7, 1).holding(&nar, lz4).without_file_claims();
    let edge = edge(Setup::default(), &origin, &package).await;
    origin.say(&package.nar_path, says(package.nar.clone()));
    for times in 1..=2 {
        edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
        edge.until_idle().await;
        assert_eq!(origin.count(&package.nar_path), times);
    }
}

#[tokio::test]
async fn what_a_narinfo_says_of_the_contents_outlives_a_restart() {
    let (origin, package) = (Origin::start().await, package(8, 500_000, zstd));
    let mut edge = edge(Setup::default(), &origin, &package).await;
    let [flipped, ..] = damages(&package.nar);
    origin.say(&package.nar_path, says(flipped));
    edge.restart().await;
    assert!(edge.get(&package.nar_path).await.is_cut);
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk().1, 0);
}

#[tokio::test]
async fn ranges_of_an_object_that_only_its_contents_prove_are_completed_only_if_it_is_right() {
    for is_right in [true, false] {
        let (origin, package) = (Origin::start().await, package(9, 24 << 20, zstd));
        let edge = edge(Setup::default(), &origin, &package).await;
        let [flipped, ..] = damages(&package.nar);
        let body = if is_right { package.nar.clone() } else { flipped };
        origin.say(&package.nar_path, says(body.clone()).etag("\"one\""));
        for part in ["bytes=9000000-30000000", "bytes=0-9999999"] {
            edge.read_with(&package.nar_path, &[("range", part)]).await.expect_status(206);
        }
        edge.until_idle().await;
        let said = edge.get(&package.nar_path).await;
        if is_right {
            said.expect(200, "hit_disk").with(&package.nar);
        } else {
            assert!(said.is_cut || said.status.as_u16() == 502, "{said:?}");
        }
    }
}

#[tokio::test]
async fn a_stored_nar_does_not_outlive_a_narinfo_that_says_something_else_of_it() {
    for claims_file in [true, false] {
        let origin = Origin::start().await;
        let [one, two] = [11, 12].map(|seed| {
            let nar = noise(seed, 300_000);
            let package = Package::new(10, 1).holding(&nar, zstd(&nar));
            if claims_file { package } else { package.without_file_claims() }
        });
        let edge = edge(Setup::default(), &origin, &one).await;
        let purge = format!("{{\"path\": \"{}\"}}", one.narinfo_path);
        origin.say(&one.nar_path, says(one.nar.clone()));
        edge.get(&one.nar_path).await.expect(200, "miss").with(&one.nar);
        edge.until_idle().await;
        // The same narinfo once more changes nothing.
        edge.pass_time(2 * 86_400);
        edge.get(&one.narinfo_path).await.expect_status(200);
        edge.get(&one.nar_path).await.expect(200, "hit_disk").with(&one.nar);
        origin.say(&two.narinfo_path, says(two.narinfo()));
        origin.say(&two.nar_path, says(two.nar.clone()));
        edge.purge(&purge).await;
        edge.get(&two.narinfo_path).await.expect(200, "miss");
        edge.get(&two.nar_path).await.expect(200, "miss").with(&two.nar);
    }
}
