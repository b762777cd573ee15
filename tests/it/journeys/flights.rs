//! One fetch for each key, however many ask, and whichever of them leave.

use crate::harness::{Edge, Gate, Origin, Package, Said, Script, Setup, noise, path_of_nar, says};

#[tokio::test]
async fn fifty_readers_of_a_stalled_nar_cost_one_request() {
    let origin = Origin::start().await;
    let nar = noise(1, 2 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).held_at(1 << 20, &gate));
    let edge = Edge::before(&origin).await;
    let mut readers = Vec::new();
    for _ in 0..50 {
        let mut reader = edge.client().begin(&path, &[]).await;
        reader.read_to(100_000).await;
        readers.push(reader);
    }
    let mut outcomes = Vec::new();
    for reader in &readers {
        outcomes.push(reader.outcome());
    }
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "miss").count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "collapsed").count(), 49);
    gate.open();
    for (reader, outcome) in readers.into_iter().zip(outcomes) {
        reader.rest().await.expect(200, &outcome).with(&nar);
    }
    assert_eq!(origin.count(&path), 1);
}

#[tokio::test]
async fn fifty_askers_of_a_slow_narinfo_cost_one_request() {
    let origin = Origin::start().await;
    let package = Package::new(1, 10);
    let gate = Gate::default();
    origin.say(&package.narinfo_path, says(package.narinfo()).held(&gate));
    let edge = Edge::before(&origin).await;
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let (client, path) = (edge.client(), package.narinfo_path.clone());
            tokio::spawn(async move { client.get(&path).await })
        })
        .collect();
    origin.until_asked(&package.narinfo_path, 1).await;
    gate.open();
    for asked in asking {
        let said = asked.await.unwrap();
        said.expect_one_of(200, &["miss", "collapsed", "hit_memory"])
            .with(package.narinfo().as_bytes());
    }
    assert_eq!(origin.count(&package.narinfo_path), 1);
}

#[tokio::test]
async fn fifty_heads_of_an_absent_nar_cost_one_request() {
    let origin = Origin::start().await;
    let path = path_of_nar(&noise(6, 10), "nar.xz");
    let gate = Gate::default();
    origin.say(&path, Script::status(404).held(&gate));
    let edge = Edge::before(&origin).await;
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let (client, path) = (edge.client(), path.clone());
            tokio::spawn(async move { client.head(&path).await })
        })
        .collect();
    origin.until_asked(&path, 1).await;
    gate.open();
    for asked in asking {
        let said = asked.await.unwrap();
        said.expect_one_of(404, &["absent", "hit_absent"]).with(b"");
    }
    edge.get(&path).await.expect(404, "hit_absent");
    assert_eq!(origin.count(&path), 1);
    // A purge ends what is remembered, and what is under way is not joined after it.
    assert_eq!(edge.purge(&format!("{{\"path\": \"{path}\"}}")).await.status, 200);
    edge.client().head(&path).await.expect(404, "absent");
    assert_eq!(origin.count(&path), 2);
}

#[tokio::test]
async fn a_head_joins_the_fill_that_is_under_way() {
    let origin = Origin::start().await;
    let nar = noise(7, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).held_at(100_000, &gate));
    let edge = Edge::before(&origin).await;
    let reader = edge.client().begin(&path, &[]).await;
    let head = edge.client().head(&path).await;
    head.expect(200, "collapsed").with(b"");
    assert_eq!(head.field("content-length"), "300000");
    gate.open();
    reader.rest().await.expect(200, "miss").with(&nar);
    assert_eq!(origin.count(&path), 1);
}

#[tokio::test]
async fn a_reader_that_leaves_cancels_nothing() {
    let origin = Origin::start().await;
    let nar = noise(2, 2 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).held_at(1 << 20, &gate));
    let edge = Edge::before(&origin).await;
    let mut only = edge.client().begin(&path, &[]).await;
    only.read_to(100_000).await;
    drop(only);
    // The access log tells that the edge knows.
    assert_eq!(edge.log(1).await[0]["response_state"], "miss");
    gate.open();
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(origin.count(&path), 1);
}

#[tokio::test]
async fn a_reader_that_leaves_before_the_head_cancels_nothing() {
    let origin = Origin::start().await;
    let package = Package::new(3, 10);
    let gate = Gate::default();
    origin.say(&package.narinfo_path, says(package.narinfo()).held(&gate));
    let edge = Edge::before(&origin).await;
    let asking = {
        let (client, path) = (edge.client(), package.narinfo_path.clone());
        tokio::spawn(async move { client.get(&path).await })
    };
    origin.until_asked(&package.narinfo_path, 1).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    gate.open();
    edge.until_idle().await;
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    assert_eq!(origin.count(&package.narinfo_path), 1);
}

#[tokio::test]
async fn a_fill_beyond_the_limit_is_shed_and_nothing_else_is() {
    let origin = Origin::start().await;
    let (first, second) = (Package::new(4, 10), Package::new(5, 10));
    let gate = Gate::default();
    origin.say(&first.narinfo_path, says(first.narinfo()).held(&gate));
    origin.say(&second.narinfo_path, says(second.narinfo()));
    let setup = Setup::default().tables("[server.limits]\nfills_max = 1");
    let edge = setup.start(&[&origin]).await;
    let waiting = {
        let (client, path) = (edge.client(), first.narinfo_path.clone());
        tokio::spawn(async move { client.get(&path).await })
    };
    origin.until_asked(&first.narinfo_path, 1).await;
    let shed = edge.get(&second.narinfo_path).await;
    shed.expect(503, "shed");
    assert_eq!(shed.field("retry-after"), "5");
    gate.open();
    waiting.await.unwrap().expect(200, "miss");
    edge.until_idle().await;
    edge.get(&first.narinfo_path).await.expect(200, "hit_memory");
    edge.get(&second.narinfo_path).await.expect(200, "miss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_on_what_comes_at_once_costs_one_request_each() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for seed in 100..130 {
        let package = Package::new(seed, 100_000);
        origin.say(&package.narinfo_path, says(package.narinfo()));
        origin.say(&package.nar_path, says(package.nar.clone()));
        for path in [&package.narinfo_path, &package.nar_path] {
            let asking: Vec<_> = (0..16)
                .map(|_| {
                    let (client, path) = (edge.client(), path.clone());
                    tokio::spawn(async move { client.get(&path).await.status })
                })
                .collect();
            for asked in asking {
                assert_eq!(asked.await.unwrap(), 200);
            }
            assert_eq!(origin.count(path), 1, "{seed} {path}");
        }
    }
}

/// GET of `path` until it is not shed: that a client has left is not seen at once.
async fn admitted(edge: &Edge, path: &str) -> Said {
    for _ in 0..10_000 {
        let said = edge.get(path).await;
        if said.outcome() != "shed" {
            return said;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("{path} is shed for good");
}

/// What the edge counts of fills of NARs that were ended for want of readers.
const UNREAD: &str = "narthex_fills_total{class=\"nar\",result=\"unread\"}";

/// FAULTS.md S5.
#[tokio::test]
async fn a_fill_without_readers_makes_room_for_one_that_has_a_reader() {
    let origin = Origin::start().await;
    let (first, second) = (noise(8, 2 << 20), noise(9, 300_000));
    let (path, other) = (path_of_nar(&first, "nar.xz"), path_of_nar(&second, "nar.xz"));
    let gate = Gate::default();
    origin.say(&path, says(first.clone()).held_at(1 << 20, &gate));
    origin.say(&other, says(second.clone()));
    let setup = Setup::default().tables("[server.limits]\nfills_max = 1");
    let edge = setup.start(&[&origin]).await;
    let mut only = edge.client().begin(&path, &[]).await;
    only.read_to(100_000).await;
    edge.get(&other).await.expect(503, "shed");
    drop(only);
    admitted(&edge, &other).await.expect(200, "miss").with(&second);
    edge.until_metric(UNREAD, 1).await;
    edge.until_idle().await;
    gate.open();
    // Nothing of the first one is stored.
    edge.get(&path).await.expect(200, "miss").with(&first);
    edge.until_idle().await;
    assert_eq!((origin.count(&path), origin.count(&other)), (2, 1));
    edge.get(&path).await.expect(200, "hit_disk").with(&first);
}

/// FAULTS.md S5.
#[tokio::test]
async fn a_range_without_readers_makes_room_for_a_fill_that_has_a_reader() {
    let origin = Origin::start().await;
    let (first, second) = (noise(10, 4 << 20), noise(11, 300_000));
    let (path, other) = (path_of_nar(&first, "nar.xz"), path_of_nar(&second, "nar.xz"));
    let gate = Gate::default();
    let whole = says(first.clone()).etag("\"a\"");
    origin.say_in_turn(&path, vec![whole.clone().held_at(300_000, &gate), whole]);
    origin.say(&other, says(second.clone()));
    let setup = Setup::default().tables("[server.limits]\nfills_max = 1");
    let edge = setup.start(&[&origin]).await;
    let fields = [("range", "bytes=2097152-2900000")];
    let mut only = edge.client().begin(&path, &fields).await;
    only.read_to(100_000).await;
    edge.get(&other).await.expect(503, "shed");
    drop(only);
    admitted(&edge, &other).await.expect(200, "miss").with(&second);
    edge.until_idle().await;
    edge.read_with(&path, &fields).await.with(&first[2_097_152..=2_900_000]);
    gate.open();
}

/// FAULTS.md S5.
#[tokio::test]
async fn fills_without_readers_give_up_the_connections_of_their_origin() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let url = format!("url = \"{}\"\nname = \"few\"\nconnections_max = 2", origin.url());
    let edge = Setup::default().start_before(&[url]).await;
    for seed in 12..14 {
        let nar = noise(seed, 2 << 20);
        let path = path_of_nar(&nar, "nar.xz");
        origin.say(&path, says(nar).held_at(1 << 20, &gate));
        let mut only = edge.client().begin(&path, &[]).await;
        only.read_to(100_000).await;
    }
    let nar = noise(14, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()));
    edge.get(&path).await.expect(200, "miss").with(&nar);
    gate.open();
}
