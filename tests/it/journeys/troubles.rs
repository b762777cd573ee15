//! A disk that gives up, and a folder in place of an origin.

use crate::harness::{Edge, Gate, Origin, Package, Setup, noise, path_of_nar, says};
use tempfile::TempDir;

#[tokio::test]
async fn an_edge_whose_disk_goes_away_proxies_on() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let (old, new) = (Package::new(1, 1 << 20), Package::new(2, 1 << 20));
    for package in [&old, &new] {
        origin.say(&package.narinfo_path, says(package.narinfo()));
        origin.say(&package.nar_path, says(package.nar.clone()));
    }
    edge.get(&old.narinfo_path).await.expect(200, "miss");
    edge.get(&old.nar_path).await.expect(200, "miss").with(&old.nar);
    edge.until_idle().await;
    edge.lose_disk();
    let fetched = ["miss", "pass"];
    for (package, outcomes) in [(&old, &["hit_memory"][..]), (&new, &fetched[..])] {
        let narinfo = edge.get(&package.narinfo_path).await;
        narinfo.expect_one_of(200, outcomes).with(package.narinfo().as_bytes());
        for _ in 0..2 {
            let nar = edge.get(&package.nar_path).await;
            nar.expect_one_of(200, &["hit_disk", "miss", "pass"]).with(&package.nar);
        }
    }
    let range = [("range", "bytes=5-9")];
    let part = edge.read_with(&new.nar_path, &range).await;
    part.expect_one_of(206, &["hit_disk", "miss", "pass"]).with(&new.nar[5..=9]);
}

#[tokio::test]
async fn a_body_whose_length_only_its_narinfo_says_passes_where_the_disk_has_no_room() {
    let origin = Origin::start().await;
    let package = Package::new(3, 40 << 20);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.clone()).chunked());
    let edge = Setup::default().disk_size("32MiB").start(&[&origin]).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    let said = edge.get(&package.nar_path).await;
    said.expect(200, "pass").with(&package.nar);
    assert_eq!(said.field("content-length"), package.nar.len().to_string());
    let part = edge.read_with(&package.nar_path, &[("range", "bytes=1000-1999")]).await;
    part.expect(206, "pass").with(&package.nar[1000..2000]);
}

#[tokio::test]
async fn a_body_whose_length_only_its_narinfo_says_has_ranges_while_it_arrives() {
    let origin = Origin::start().await;
    let package = Package::new(6, 1 << 20);
    let gate = Gate::default();
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.clone()).chunked().held_at(500_000, &gate));
    let edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    let part = edge.read_with(&package.nar_path, &[("range", "bytes=1000-1999")]).await;
    part.expect(206, "miss").with(&package.nar[1000..2000]);
    gate.open();
    edge.until_idle().await;
    edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
}

#[tokio::test]
async fn another_length_than_the_narinfos_is_never_whole_without_a_head_that_says_so() {
    let package = Package::new(7, 1 << 20);
    let longer = [&package.nar[..], b"more"].concat();
    for wrong in [package.nar.slice(..1_000_000), longer.into()] {
        let origin = Origin::start().await;
        origin.say(&package.narinfo_path, says(package.narinfo()));
        origin.say(&package.nar_path, says(wrong).chunked());
        let edge = Edge::before(&origin).await;
        edge.get(&package.narinfo_path).await.expect(200, "miss");
        assert!(edge.get(&package.nar_path).await.is_cut);
        edge.until_idle().await;
        assert_eq!(edge.objects_on_disk(), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_outgrows_the_disk_reaches_its_readers_all_the_same() {
    let origin = Origin::start().await;
    let nar = noise(8, 48 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    // Nothing says how long it is, so it is begun; the disk holds 32 MiB.
    let whole = says(nar.clone()).chunked();
    origin.say_in_turn(&path, vec![whole.clone().held_at(40 << 20, &gate), whole]);
    let edge = Setup::default().disk_size("32MiB").start(&[&origin]).await;
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (client, path, nar) = (edge.client(), path.clone(), nar.clone());
            tokio::spawn(async move { client.begin(&path, &[]).await.compare(&nar).await })
        })
        .collect();
    edge.until_metric("narthex_fills_adrift_total", 1).await;
    // It is not joined any more: another request fetches for itself.
    let later = edge.get(&path).await;
    later.expect_one_of(200, &["miss", "pass"]).with(&nar);
    assert_eq!(origin.count(&path), 2);
    gate.open();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), (Some(nar.len()), false));
    }
    edge.until_idle().await;
    assert_eq!(edge.objects_on_disk(), (0, 0));
}

#[tokio::test]
async fn wrong_bytes_that_outgrow_the_disk_never_end_cleanly() {
    let origin = Origin::start().await;
    let nar = noise(9, 48 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let mut wrong = nar.to_vec();
    wrong[5] ^= 1;
    origin.say(&path, says(wrong).chunked());
    let edge = Setup::default().disk_size("32MiB").start(&[&origin]).await;
    assert!(edge.get(&path).await.is_cut);
    edge.until_idle().await;
    assert_eq!((edge.objects_on_disk(), origin.count(&path)), ((0, 0), 2));
}

#[tokio::test]
async fn a_folder_is_an_origin() {
    let folder = TempDir::new().unwrap();
    let package = Package::new(4, 300_000);
    std::fs::create_dir(folder.path().join("nar")).unwrap();
    let put = |path: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(&path[1..]), bytes).unwrap();
    };
    put("/nix-cache-info", b"StoreDir: /nix/store\n");
    put(&package.narinfo_path, package.narinfo().as_bytes());
    put(&package.nar_path, &package.nar);
    let table = format!("url = \"file://{}\"\nname = \"folder\"", folder.path().display());
    let edge = Setup::default().start_before(&[table]).await;
    let path = &package.narinfo_path;
    let cold = edge.get(path).await;
    cold.expect(200, "miss").with(package.narinfo().as_bytes());
    assert_eq!(cold.field("content-type"), "text/x-nix-narinfo");
    edge.get(path).await.expect(200, "hit_memory");
    edge.client().head(&package.nar_path).await.expect(200, "pass");
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    edge.until_idle().await;
    edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
    edge.pass_time(86_400);
    edge.get(path).await.expect(200, "revalidated");
    edge.get(&Package::new(5, 1).narinfo_path).await.expect(404, "absent");
    edge.get("/%2e%2e/%2e%2e/etc/passwd").await.expect(400, "refused");
    std::fs::remove_file(folder.path().join(&path[1..])).unwrap();
    edge.pass_time(86_400);
    edge.get(path).await.expect(404, "absent");
}
