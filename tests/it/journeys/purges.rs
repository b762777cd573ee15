//! Purging, also while what is purged is being fetched.

use crate::harness::{Edge, Gate, Origin, Package, Setup, noise, path_of_nar, says};

fn path_request(path: &str, soft: &str) -> String {
    format!("{{\"path\": \"{path}\"{soft}}}")
}

const SOFT: &str = ", \"soft\": true";

#[tokio::test]
async fn a_purged_path_is_asked_for_again() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).await;
    for (seed, size) in [(1, 1_000), (2, 200_000)] {
        let nar = noise(seed, size);
        let path = path_of_nar(&nar, "nar.xz");
        origin.say(&path, says(nar.clone()));
        edge.get(&path).await.expect(200, "miss");
        edge.until_idle().await;
        let purged = edge.purge(&path_request(&path, "")).await;
        assert_eq!(
            (purged.status.as_u16(), purged.text().trim()),
            (200, "{\"lasting\":true,\"purged\":1}")
        );
        edge.restart().await;
        edge.get(&path).await.expect(200, "miss").with(&nar);
        assert_eq!(origin.count(&path), 2);
    }
    assert!(edge.purge(&path_request("/nar/none", "")).await.text().contains(":0"));
}

#[tokio::test]
async fn a_remembered_absence_is_purged() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for soft in ["", SOFT] {
        let package = Package::new(soft.len() as u64, 10);
        let path = &package.narinfo_path;
        edge.get(path).await.expect(404, "absent");
        origin.say(path, says(package.narinfo()));
        edge.get(path).await.expect(404, "hit_absent");
        edge.purge(&path_request(path, soft)).await;
        edge.get(path).await.expect(200, "miss");
    }
}

#[tokio::test]
async fn a_softly_purged_object_is_confirmed_or_bridges_an_outage() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for (seed, size) in [(3, 1_000), (4, 200_000)] {
        let nar = noise(seed, size);
        let path = path_of_nar(&nar, "nar.xz");
        origin.say(&path, says(nar.clone()).etag("\"a\""));
        edge.get(&path).await.expect(200, "miss");
        edge.until_idle().await;
        assert!(edge.purge(&path_request(&path, SOFT)).await.text().contains(":1"));
        edge.get(&path).await.expect(200, "revalidated").with(&nar);
        let hit = if size < 1 << 16 { "hit_memory" } else { "hit_disk" };
        edge.get(&path).await.expect(200, hit);
        edge.purge(&path_request(&path, SOFT)).await;
        origin.say(&path, crate::harness::Script::status(500));
        edge.get(&path).await.expect(200, "hit_stale").with(&nar);
    }
}

#[tokio::test]
async fn a_fill_that_began_before_a_purge_never_commits_after_it() {
    for request in [
        "{\"path\": \"PATH\"}",
        "{\"path\": \"PATH\", \"soft\": true}",
        "{\"prefix\": \"/nar/\"}",
        "{\"all\": true}",
    ] {
        let origin = Origin::start().await;
        let package = Package::new(5, 500_000).without_file_claims();
        let (path, old) = (&package.nar_path, &package.nar);
        let new = noise(6, 400_000);
        let gate = Gate::default();
        let turns = vec![says(old.clone()).held_at(200_000, &gate), says(new.clone())];
        origin.say_in_turn(path, turns);
        let edge = Edge::before(&origin).await;
        let mut before = edge.client().begin(path, &[]).await;
        before.read_to(100_000).await;
        let purged = edge.purge(&request.replace("PATH", path)).await;
        assert_eq!(purged.status, 200, "{request}");
        // A request after the purge gets what is there after it, while the old fill still runs.
        edge.get(path).await.expect(200, "miss").with(&new);
        gate.open();
        before.rest().await.expect(200, "miss").with(old);
        edge.until_idle().await;
        edge.get(path).await.expect(200, "hit_disk").with(&new);
        assert_eq!(origin.count(path), 2, "{request}");
    }
}

/// FAULTS.md C5.
#[tokio::test]
async fn a_range_of_a_body_without_a_length_is_served_although_it_is_purged_meanwhile() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for (seed, soft) in [(20, ""), (21, SOFT)] {
        let nar = noise(seed, 300_000);
        let path = path_of_nar(&nar, "nar.xz");
        let gate = Gate::default();
        origin.say(&path, says(nar.clone()).chunked().held_at(200_000, &gate));
        let asking = {
            let (client, path) = (edge.client(), path.clone());
            tokio::spawn(
                async move { client.read_with(&path, &[("range", "bytes=150000-")]).await },
            )
        };
        origin.until_asked(&path, 1).await;
        assert_eq!(edge.purge(&path_request(&path, soft)).await.status, 200);
        gate.open();
        let said = asking.await.unwrap();
        said.expect(206, "miss").with(&nar[150_000..]);
        assert_eq!(said.field("content-range"), "bytes 150000-299999/300000");
        edge.until_idle().await;
        edge.get(&path).await.expect(200, "miss").with(&nar);
        assert_eq!(origin.count(&path), 2);
    }
}

#[tokio::test]
async fn a_confirmation_that_began_before_a_soft_purge_does_not_undo_it() {
    let origin = Origin::start().await;
    let package = Package::new(7, 10);
    let path = &package.narinfo_path;
    let gate = Gate::default();
    let script = says(package.narinfo()).etag("\"a\"");
    origin.say_in_turn(path, vec![script.clone(), script.clone().held(&gate), script]);
    let edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss");
    edge.pass_time(86_400);
    let waiting = {
        let (client, path) = (edge.client(), path.clone());
        tokio::spawn(async move { client.get(&path).await })
    };
    origin.until_asked(path, 2).await;
    edge.purge(&path_request(path, SOFT)).await;
    gate.open();
    waiting.await.unwrap().expect(200, "revalidated");
    edge.until_idle().await;
    edge.get(path).await.expect(200, "revalidated");
    assert_eq!(origin.count(path), 3);
}

#[tokio::test]
async fn prefixes_and_everything() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let (one, two) = (noise(8, 1_000), noise(9, 200_000));
    let paths = [path_of_nar(&one, "nar.xz"), path_of_nar(&two, "nar.xz")];
    let package = Package::new(10, 10);
    origin.say(&paths[0], says(one));
    origin.say(&paths[1], says(two));
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let narinfo = &package.narinfo_path;
    for path in paths.iter().chain([narinfo]) {
        edge.get(path).await.expect(200, "miss");
    }
    edge.until_idle().await;
    assert!(edge.purge("{\"prefix\": \"/nar/\"}").await.text().contains(":2"));
    edge.get(narinfo).await.expect(200, "hit_memory");
    for path in &paths {
        edge.get(path).await.expect(200, "miss");
    }
    edge.until_idle().await;
    assert!(edge.purge("{\"all\": true}").await.text().contains(":3"));
    edge.get(narinfo).await.expect(200, "miss");
    for scope in ["prefix", "all"] {
        let name = format!("narthex_purges_total{{scope=\"{scope}\"}}");
        assert_eq!(edge.metric(&name).await, 1);
    }
}

#[tokio::test]
async fn a_purge_takes_paths_as_clients_write_them() {
    let origin = Origin::start().await;
    let digest = "c".repeat(64);
    let plain = format!("/realisations/sha256:{digest}!out.doi");
    origin.say(&plain, says("{}"));
    let edge = Edge::before(&origin).await;
    edge.get(&plain).await.expect(200, "miss");
    let purged = edge.purge(&path_request(&plain.replace('!', "%21"), "")).await;
    assert!(purged.text().contains(":1"));
    edge.get(&plain).await.expect(200, "miss");
}

#[tokio::test]
async fn a_purge_is_for_who_has_the_token() {
    let origin = Origin::start().await;
    let package = Package::new(11, 10);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    let request = "{\"all\": true}";
    for fields in [vec![], vec![("authorization", "Bearer wrong")]] {
        let said = edge.admin().post("/api/v1/purge", &fields, request).await;
        assert_eq!(said.status, 401);
    }
    assert_eq!(edge.client().post("/api/v1/purge", &[], "").await.status, 405);
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    for wrong in [
        "{}",
        "{\"all\": false}",
        "{\"path\": \"x\"}",
        "{\"path\": \"/%zz\"}",
        "nonsense",
        "{\"path\": \"/a\", \"site\": \"other\"}",
        "{\"all\": true, \"soft\": true}",
    ] {
        let said = edge.purge(wrong).await;
        assert!(said.status.is_client_error(), "{wrong} {said:?}");
    }
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
}

#[tokio::test]
async fn a_soft_purge_of_a_response_that_varies_makes_each_variant_stale() {
    let origin = Origin::start().await;
    let mut edge = Setup::default().site("kind = \"generic\"").start(&[&origin]).await;
    for size in [1_000, 200_000] {
        let path = format!("/{size}");
        let script = |language: &str, seed| {
            let tag = format!("\"{language}\"");
            let script = says(noise(seed, size)).field("cache-control", "max-age=600").etag(&tag);
            script.field("vary", "Accept-Language")
        };
        let languages = [("de", 20), ("en", 21)];
        for (language, seed) in languages {
            origin.say(&path, script(language, seed));
            edge.read_with(&path, &[("accept-language", language)]).await.expect(200, "miss");
            edge.until_idle().await;
        }
        for is_restarted in [false, true] {
            if is_restarted {
                edge.restart().await;
            }
            let purged = edge.purge(&path_request(&path, SOFT)).await;
            assert_eq!(
                purged.text().trim(),
                "{\"lasting\":true,\"purged\":2}",
                "{size} {is_restarted}"
            );
            for (language, seed) in languages {
                origin.say(&path, script(language, seed));
                let said = edge.read_with(&path, &[("accept-language", language)]).await;
                said.expect(200, "revalidated").with(&noise(seed, size));
            }
        }
    }
}

#[tokio::test]
async fn purges_of_one_site_hold_back_no_fill_of_another() {
    let origin = Origin::start().await;
    let other = format!(
        "[[site]]\nname = \"other\"\nhosts = [\"other.test\"]\nkind = \"generic\"\n\
         [[site.origin]]\nurl = \"{}\"\n",
        origin.url()
    );
    let setup = Setup::default().tables(&other).site("hosts = [\"main.test\"]");
    let edge = setup.start(&[&origin]).await;
    let host = [("host", "main.test")];
    let package = Package::new(30, 500_000);
    let gate = Gate::default();
    origin.say(&package.nar_path, says(package.nar.clone()).held_at(200_000, &gate));
    let mut before = edge.client().begin(&package.nar_path, &host).await;
    before.read_to(100_000).await;
    let paths: Vec<String> = (0..4_097).map(|number| format!("\"/{number:04}\"")).collect();
    let request = format!("{{\"site\": \"other\", \"paths\": [{}]}}", paths.join(","));
    assert_eq!(edge.purge(&request).await.status, 200);
    gate.open();
    before.rest().await.expect(200, "miss").with(&package.nar);
    edge.until_idle().await;
    let said = edge.read_with(&package.nar_path, &host).await;
    said.expect(200, "hit_disk").with(&package.nar);
}
