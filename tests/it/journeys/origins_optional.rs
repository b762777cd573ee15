//! Optional origins: while one is down it counts as not having the object, and that is forgotten.

use crate::harness::{Edge, Origin, Package, Script, Setup, says};

/// An origin called `name`, which is optional or not.
fn table(name: &str, origin: &Origin, optional: bool) -> String {
    let breaker = "[site.origin.breaker]\nfailures = 0";
    format!("url = \"{}\"\nname = \"{name}\"\noptional = {optional}\n{breaker}", origin.url())
}

async fn edge(tables: &[String]) -> Edge {
    Setup::default().start_before(tables).await
}

#[tokio::test]
async fn while_an_optional_origin_is_down_names_never_seen_are_absent_and_that_is_forgotten() {
    let (good, away) = (Origin::start().await, Origin::start().await);
    let (known, late) = (Package::new(1, 10), Package::new(2, 50_000));
    good.say(&known.narinfo_path, says(known.narinfo()));
    away.say(&late.narinfo_path, says(late.narinfo()));
    away.say(&late.nar_path, says(late.nar.clone()));
    away.die();
    let edge = edge(&[table("good", &good, false), table("away", &away, true)]).await;
    edge.get(&known.narinfo_path).await.expect(200, "miss");
    for path in [&late.narinfo_path, &late.narinfo_path, &late.nar_path] {
        let said = edge.get(path).await;
        assert_eq!(said.expect(404, "absent_optional").field("cache-control"), "no-store");
        said.with(b"404");
    }
    edge.client().head(&late.nar_path).await.expect(404, "absent_optional");
    edge.read_with(&late.nar_path, &[("range", "bytes=1-2")]).await.expect_status(404);
    assert_eq!(good.count(&late.narinfo_path), 2);
    let answers = "narthex_requests_total{class=\"narinfo\",outcome=\"absent_optional\",\
                   site=\"main\"}";
    assert_eq!(edge.metric(answers).await, 2);
    away.revive().await;
    edge.get(&late.narinfo_path).await.expect(200, "miss").with(late.narinfo().as_bytes());
    edge.get(&late.nar_path).await.expect(200, "miss").with(&late.nar);
    // If all answer, an absence is one again.
    let none = Package::new(3, 10).narinfo_path;
    edge.get(&none).await.expect(404, "absent");
    edge.get(&none).await.expect(404, "hit_absent");
}

#[tokio::test]
async fn a_stale_object_still_serves_while_its_optional_origin_is_down() {
    let origin = Origin::start().await;
    let (package, other) = (Package::new(1, 10), Package::new(2, 10));
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let edge = edge(&[table("uplink", &origin, true)]).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.pass_time(2 * 24 * 3_600);
    origin.die();
    edge.get(&other.narinfo_path).await.expect(404, "absent_optional");
    edge.get(&package.narinfo_path).await.expect(200, "hit_stale");
    origin.revive().await;
    edge.get(&package.narinfo_path).await.expect_one_of(200, &["revalidated", "miss"]);
}

#[tokio::test]
async fn only_an_outage_of_an_optional_origin_makes_an_absence() {
    for (status, answer, outcome) in [
        (500, 404, "absent_optional"),
        (503, 404, "absent_optional"),
        (429, 404, "absent_optional"),
        (401, 502, "origin_failed"),
        (400, 502, "origin_failed"),
    ] {
        let origin = Origin::start().await;
        let path = Package::new(1, 10).narinfo_path;
        origin.say(&path, Script::status(status));
        let edge = edge(&[table("origin", &origin, true)]).await;
        edge.get(&path).await.expect(answer, outcome);
    }
    // The failure of an origin that is needed stays one.
    let (needed, away) = (Origin::start().await, Origin::start().await);
    needed.die();
    away.die();
    let edge = edge(&[table("away", &away, true), table("needed", &needed, false)]).await;
    edge.get(&Package::new(1, 10).narinfo_path).await.expect(502, "origin_failed");
}
