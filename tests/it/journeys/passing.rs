//! What is not kept: streamed whole, with ranges, and never ended cleanly when it is wrong.

use crate::harness::{Edge, Gate, Origin, Package, Script, Setup, noise, path_of_nar, says};

async fn without_disk(origin: &Origin) -> Edge {
    Setup::default().disk_size("0").start(&[origin]).await
}

#[tokio::test]
async fn without_a_disk_nars_pass_and_narinfos_stay_in_memory() {
    let origin = Origin::start().await;
    let package = Package::new(1, 1_000_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.clone()).etag("\"a\""));
    let edge = without_disk(&origin).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    for _ in 0..2 {
        edge.get(&package.nar_path).await.expect(200, "pass").with(&package.nar);
    }
    let path = &package.nar_path;
    for (range, first, last) in
        [("bytes=0-9", 0, 9), ("bytes=500000-", 500_000, 999_999), ("bytes=-7", 999_993, 999_999)]
    {
        let said = edge.read_with(path, &[("range", range)]).await;
        said.expect(206, "pass").with(&package.nar[first..=last]);
        assert_eq!(said.field("content-range"), format!("bytes {first}-{last}/1000000"));
    }
    edge.read_with(path, &[("range", "bytes=1000000-")]).await.expect(416, "pass");
    edge.read_with(path, &[("if-none-match", "\"a\"")]).await.expect(304, "pass");
}

#[tokio::test]
async fn an_object_larger_than_the_disk_passes() {
    let origin = Origin::start().await;
    let nar = noise(2, 40 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()));
    let edge = Setup::default().disk_size("32MiB").start(&[&origin]).await;
    edge.get(&path).await.expect(200, "pass").with(&nar);
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
    let small = noise(3, 1 << 20);
    let path = path_of_nar(&small, "nar.xz");
    origin.say(&path, says(small.clone()));
    edge.get(&path).await.expect(200, "miss").with(&small);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&small);
}

#[tokio::test]
async fn wrong_bytes_that_pass_never_end_cleanly() {
    let origin = Origin::start().await;
    let nar = noise(4, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let mut wrong = nar.to_vec();
    wrong[0] ^= 1;
    for script in [says(wrong.clone()), says(wrong.clone()).chunked()] {
        let gate = Gate::default();
        origin.say(&path, script.held_at(999_990, &gate));
        let edge = without_disk(&origin).await;
        let mut arriving = edge.client().begin(&path, &[]).await;
        arriving.read_to(900_000).await;
        gate.open();
        let said = arriving.rest().await;
        assert!(said.is_cut, "a clean end");
        assert!(said.body.len() <= nar.len() - (16 << 10), "{} bytes", said.body.len());
    }
}

#[tokio::test]
async fn a_passing_body_that_breaks_off_is_continued() {
    let origin = Origin::start().await;
    let nar = noise(5, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let whole = says(nar.clone());
    origin.say_in_turn(&path, vec![whole.clone().cut_at(300_000), whole]);
    let edge = without_disk(&origin).await;
    edge.get(&path).await.expect(200, "pass").with(&nar);
    assert_eq!(origin.count(&path), 2);
}

#[tokio::test]
async fn readers_of_what_may_not_be_stored_each_get_their_own() {
    let origin = Origin::start().await;
    let nar = noise(6, 1_000_000);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).field("cache-control", "no-store").held(&gate));
    let edge = without_disk(&origin).await;
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let (client, path) = (edge.client(), path.clone());
            tokio::spawn(async move { client.get(&path).await })
        })
        .collect();
    origin.until_asked(&path, 1).await;
    gate.open();
    for asked in asking {
        asked.await.unwrap().expect(200, "pass").with(&nar);
    }
    assert_eq!(origin.count(&path), 5);
}

#[tokio::test]
async fn what_an_origin_forbids_to_store_is_not_stored() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for (size, control) in [(100, "no-store"), (100, "private"), (200_000, "no-store")] {
        let nar = noise(7, size);
        let path = path_of_nar(&nar, "nar.xz");
        let before = origin.count(&path);
        origin.say(&path, says(nar.clone()).field("cache-control", control));
        edge.get(&path).await.expect(200, "pass").with(&nar);
        edge.get(&path).await.expect(200, "pass").with(&nar);
        assert_eq!(origin.count(&path), before + 2);
    }
    assert_eq!(edge.objects_on_disk(), (0, 0));
}

#[tokio::test]
async fn a_nar_without_a_length_is_kept_only_where_a_hash_proves_it() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let unproven = Package::new(8, 200_000);
    origin.say(&unproven.nar_path, says(unproven.nar.clone()).chunked());
    for _ in 0..2 {
        edge.get(&unproven.nar_path).await.expect(200, "pass").with(&unproven.nar);
    }
    for script in [says("").chunked(), says("").until_close()] {
        for size in [10, 200_000] {
            let nar = noise(9 + size as u64, size);
            let path = path_of_nar(&nar, "nar.xz");
            edge.purge(&format!("{{\"path\": \"{path}\"}}")).await;
            origin.say(&path, script.clone().with_body(nar.clone()));
            edge.get(&path).await.expect(200, "miss").with(&nar);
            edge.until_idle().await;
            let warm = edge.get(&path).await;
            assert!(warm.outcome().starts_with("hit_"), "{size} {warm:?}");
            assert_eq!(warm.field("content-length"), size.to_string());
        }
    }
}

#[tokio::test]
async fn a_listing_under_a_coding_passes_untouched() {
    let origin = Origin::start().await;
    let path = "/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv.ls";
    let coded = noise(10, 5_000);
    origin.say(
        path,
        says(coded.clone())
            .field("content-encoding", "br")
            .field("content-type", "application/json")
            .field("x-amz-request-id", "secret")
            .field("x-amz-meta-note", "kept")
            .field("set-cookie", "a=b")
            .field("server", "AmazonS3"),
    );
    let edge = Edge::before(&origin).await;
    for outcome in ["miss", "hit_memory"] {
        let said = edge.get(path).await;
        said.expect(200, outcome).with(&coded);
        for (name, value) in [
            ("content-encoding", "br"),
            ("content-type", "application/json"),
            ("x-amz-request-id", ""),
            ("x-amz-meta-note", "kept"),
            ("set-cookie", ""),
            ("server", ""),
            ("access-control-allow-origin", "*"),
        ] {
            assert_eq!(said.field(name), value, "{name}");
        }
    }
    let asked = &origin.asked(path)[0];
    assert_eq!(asked.field("accept-encoding"), None);
}

#[tokio::test]
async fn a_continuation_that_is_shorter_than_it_says_is_no_end() {
    let origin = Origin::start().await;
    let nar = noise(20, 1_000_000);
    let package = Package::new(20, 0);
    let path = &package.nar_path;
    let part = Script::status(206)
        .etag("\"same\"")
        .field("content-range", "bytes 400000-999999/1000000")
        .with_body(nar.slice(400_000..700_000))
        .chunked();
    let begun = says(nar.clone()).etag("\"same\"").chunked().cut_at(400_000);
    origin.say_in_turn(path, vec![begun, part, Script::status(412)]);
    let edge = Edge::before(&origin).await;
    let said = edge.get(path).await;
    assert!(said.is_cut, "{} of {} bytes were ended as if whole", said.body.len(), nar.len());
}
