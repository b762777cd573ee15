//! Fresh, stale, confirmed, replaced, and stale while the origin is away.

use crate::harness::{Edge, Origin, Package, Script, Setup, noise, path_of_nar, says};

const DAY: u64 = 86_400;

#[tokio::test]
async fn a_stale_object_is_confirmed_by_its_entity_tag() {
    let origin = Origin::start().await;
    let package = Package::new(1, 10);
    let path = &package.narinfo_path;
    origin.say(path, says(package.narinfo()).etag("\"one\""));
    let mut edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss");
    edge.pass_time(DAY - 1);
    edge.get(path).await.expect(200, "hit_memory");
    edge.pass_time(1);
    let confirmed = edge.get(path).await;
    confirmed.expect(200, "revalidated").with(package.narinfo().as_bytes());
    assert_eq!(origin.asked(path)[1].field("if-none-match"), Some("\"one\""));
    let fresh = edge.get(path).await;
    fresh.expect(200, "hit_memory").with(package.narinfo().as_bytes());
    assert_eq!(fresh.field("age"), "0");
    assert_eq!(origin.count(path), 2);
    edge.restart().await;
    edge.get(path).await.expect(200, "hit_disk");
    assert_eq!(origin.count(path), 2);
}

#[tokio::test]
async fn a_stale_nar_on_disk_is_confirmed_by_its_date() {
    let origin = Origin::start().await;
    let package = Package::new(2, 200_000).without_file_claims();
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    origin.say(&package.nar_path, says(package.nar.clone()).last_modified(date));
    let edge = Edge::before(&origin).await;
    edge.get(&package.nar_path).await.expect(200, "miss");
    edge.until_idle().await;
    edge.pass_time(DAY);
    edge.get(&package.nar_path).await.expect(200, "revalidated").with(&package.nar);
    assert_eq!(origin.asked(&package.nar_path)[1].field("if-modified-since"), Some(date));
    edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
    assert_eq!(origin.count(&package.nar_path), 2);
}

#[tokio::test]
async fn a_stale_object_is_replaced_or_goes() {
    let origin = Origin::start().await;
    let path = "/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-hello.drv";
    origin.say(path, says("old").etag("\"one\""));
    let edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss").with(b"old");
    edge.pass_time(DAY);
    origin.say(path, says("new").etag("\"two\""));
    edge.get(path).await.expect(200, "miss").with(b"new");
    edge.get(path).await.expect(200, "hit_memory").with(b"new");
    edge.pass_time(DAY);
    origin.say(path, Script::status(404));
    edge.get(path).await.expect(404, "absent");
    origin.die();
    edge.get(path).await.expect(404, "hit_absent");
    edge.pass_time(10);
    edge.get(path).await.expect(502, "origin_failed");
}

#[tokio::test]
async fn an_outage_is_bridged_for_as_long_as_configured() {
    let origin = Origin::start().await;
    let package = Package::new(3, 10);
    let path = &package.narinfo_path;
    origin.say(path, says(package.narinfo()).etag("\"one\""));
    let setup = Setup::default().site("[site.lifetimes]\nstale_if_error = \"1h\"");
    let edge = setup.start(&[&origin]).await;
    edge.get(path).await.expect(200, "miss");
    origin.die();
    edge.pass_time(DAY + 3_599);
    let stale = edge.get(path).await;
    stale.expect(200, "hit_stale").with(package.narinfo().as_bytes());
    assert_eq!(stale.field("age"), "89999");
    edge.pass_time(1);
    edge.get(path).await.expect(502, "origin_failed");
}

#[tokio::test]
async fn whatever_an_origin_says_in_its_trouble_is_an_outage() {
    let origin = Origin::start().await;
    let package = Package::new(4, 10);
    let path = &package.narinfo_path;
    origin.say(path, says(package.narinfo()).etag("\"one\""));
    let edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss");
    edge.pass_time(DAY);
    for script in [
        Script::status(503),
        Script::status(403),
        Script::fault(403, "InvalidAccessKeyId"),
        says("<html>maintenance</html>"),
        says(package.narinfo()).cut_at(20),
    ] {
        origin.say(path, script);
        edge.get(path).await.expect(200, "hit_stale").with(package.narinfo().as_bytes());
    }
    origin.say(path, says(package.narinfo()).etag("\"one\""));
    edge.get(path).await.expect(200, "revalidated");
}

#[tokio::test]
async fn a_proven_nar_is_never_asked_for_again() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let nar = noise(5, 100_000);
    let by_name = path_of_nar(&nar, "nar.bz2");
    origin.say(&by_name, says(nar.clone()).field("cache-control", "max-age=5"));
    edge.get(&by_name).await.expect(200, "miss");
    let package = Package::new(6, 100_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.clone()));
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.nar_path).await.expect(200, "miss");
    edge.until_idle().await;
    edge.pass_time(DAY * 365 * 20);
    edge.get(&by_name).await.expect(200, "hit_disk").with(&nar);
    edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
    assert_eq!((origin.count(&by_name), origin.count(&package.nar_path)), (1, 1));
}

#[tokio::test]
async fn an_origin_shortens_a_lifetime() {
    let origin = Origin::start().await;
    let path = "/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-hello.drv";
    origin.say(path, says("x").field("cache-control", "max-age=60").etag("\"a\""));
    let edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss");
    edge.pass_time(59);
    edge.get(path).await.expect(200, "hit_memory");
    edge.pass_time(1);
    edge.get(path).await.expect(200, "revalidated");
}

#[tokio::test]
async fn a_stale_object_without_a_validator_is_fetched_again() {
    let origin = Origin::start().await;
    let path = "/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-hello.drv";
    origin.say(path, says("x"));
    let edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss");
    edge.pass_time(DAY);
    edge.get(path).await.expect(200, "miss");
    let again = &origin.asked(path)[1];
    assert_eq!((again.field("if-none-match"), again.field("if-modified-since")), (None, None));
}

#[tokio::test]
async fn fifty_askers_of_a_stale_object_cost_one_request() {
    use crate::harness::Gate;
    let origin = Origin::start().await;
    let package = Package::new(7, 10);
    let path = &package.narinfo_path;
    let gate = Gate::default();
    let script = says(package.narinfo()).etag("\"a\"");
    origin.say_in_turn(path, vec![script.clone(), script.held(&gate)]);
    let edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss");
    edge.pass_time(DAY);
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let (client, path) = (edge.client(), path.clone());
            tokio::spawn(async move { client.get(&path).await })
        })
        .collect();
    origin.until_asked(path, 2).await;
    gate.open();
    for asked in asking {
        let said = asked.await.unwrap();
        said.expect_one_of(200, &["revalidated", "hit_memory"]).with(package.narinfo().as_bytes());
    }
    assert_eq!(origin.count(path), 2);
}
