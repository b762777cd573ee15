//! An edge with another edge as its origin, and edges that ask each other in a circle.

use crate::harness::{Edge, Gate, Origin, Package, Setup, noise, path_of_nar, says};

/// An edge called `child` before `parent`.
async fn child_of(parent: &Edge) -> Edge {
    let table = format!("url = \"http://{}\"\nname = \"parent\"", parent.client().address);
    Setup::default().named("child").start_before(&[table]).await
}

#[tokio::test]
async fn a_parent_is_an_origin_like_any_other() {
    let origin = Origin::start().await;
    let package = Package::new(1, 300_000);
    origin.say(&package.narinfo_path, says(package.narinfo()).etag("\"n\""));
    origin.say(&package.nar_path, says(package.nar.clone()).etag("\"a\""));
    let parent = Edge::before(&origin).await;
    let child = child_of(&parent).await;
    let path = &package.narinfo_path;
    parent.get(path).await.expect(200, "miss");
    parent.pass_time(100);
    let cold = child.get(path).await;
    cold.expect(200, "miss").with(package.narinfo().as_bytes());
    assert_eq!(cold.field("age"), "100");
    let members: Vec<_> = cold.field("cache-status").split(", ").collect();
    assert_eq!(members.len(), 2, "{members:?}");
    assert!(members[0].contains("hit_memory"), "{members:?}");
    child.pass_time(10);
    assert_eq!(child.get(path).await.field("age"), "110");
    // What the parent had for a while is fresh for as much less.
    child.pass_time(86_400 - 111);
    child.get(path).await.expect(200, "hit_memory");
    child.pass_time(1);
    child.get(path).await.expect(200, "revalidated");

    child.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    child.until_idle().await;
    child.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
    let asked = &origin.asked(&package.nar_path);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].field("cdn-loop"), Some("child, edge"));
    let absent = Package::new(2, 1).narinfo_path;
    child.get(&absent).await.expect(404, "absent");
    parent.get(&absent).await.expect(404, "hit_absent");
}

#[tokio::test]
async fn bytes_flow_through_two_tiers_while_they_arrive() {
    let origin = Origin::start().await;
    let nar = noise(3, 2 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).etag("\"a\"").held_at(1 << 20, &gate));
    let parent = Edge::before(&origin).await;
    let child = child_of(&parent).await;
    let mut reader = child.client().begin(&path, &[]).await;
    reader.read_to(1_000_000).await;
    gate.open();
    reader.rest().await.expect(200, "miss").with(&nar);
    assert_eq!(origin.count(&path), 1);
}

#[tokio::test]
async fn a_circle_ends() {
    let origin = Origin::start().await;
    let first = Edge::before(&origin).await;
    let second = child_of(&first).await;
    let back = format!("http://{}", second.client().address);
    first.reload(&first.text.replace(&origin.url(), &back)).await.unwrap();
    let path = Package::new(4, 1).narinfo_path;
    first.get(&path).await.expect(502, "origin_failed");
    second.get(&path).await.expect(502, "origin_failed");
    assert_eq!(origin.count_all(), 0);
    assert!(first.metric("narthex_requests_refused_total{reason=\"loop\"}").await > 0);
}

#[tokio::test]
async fn a_storm_of_ranges_over_a_body_that_breaks_off_again_and_again() {
    let origin = Origin::start().await;
    let nar = noise(5, 6 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let whole = says(nar.clone()).etag("\"a\"");
    let gate = Gate::default();
    let turns = vec![
        whole.clone().held_at(700_000, &gate).cut_at(1_300_000),
        whole.clone().cut_at(1),
        whole.clone().cut_at(2_000_000),
        whole.clone().without_ranges().cut_at(5_000_000),
        whole,
    ];
    origin.say_in_turn(&path, turns);
    let edge = Edge::before(&origin).await;
    let asking: Vec<_> = (0..60_u64)
        .map(|number| {
            let (client, path, nar) = (edge.client(), path.clone(), nar.clone());
            tokio::spawn(async move {
                let first = usize::try_from(number * 7_919 * 13 % (6 << 20)).unwrap();
                let last = (first + usize::try_from(number * 40_009).unwrap()).min(nar.len() - 1);
                let range = format!("bytes={first}-{last}");
                let said = client.read_with(&path, &[("range", &range)]).await;
                said.expect_one_of(206, &["miss", "collapsed", "hit_disk", "pass"])
                    .with(&nar[first..=last]);
            })
        })
        .collect();
    origin.until_asked(&path, 1).await;
    gate.open();
    for asked in asking {
        asked.await.unwrap();
    }
    edge.until_idle().await;
    edge.get(&path).await.with(&nar);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    let asked = origin.count(&path);
    assert!((5..30).contains(&asked), "{asked} requests for 6 chunks that break off 4 times");
}
