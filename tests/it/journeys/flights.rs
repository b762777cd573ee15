//! One fetch for each key, however many ask, and whoever leaves.

use crate::harness::{Edge, Gate, Origin, Package, Script, noise, path_of_nar, says};

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
        assert!(["miss", "collapsed", "hit_memory"].contains(&&*said.outcome()), "{said:?}");
        said.expect(200, &said.outcome()).with(package.narinfo().as_bytes());
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
        assert!(["absent", "hit_absent"].contains(&&*said.outcome()), "{said:?}");
        said.expect(404, &said.outcome()).with(b"");
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
    use crate::harness::Setup;
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
