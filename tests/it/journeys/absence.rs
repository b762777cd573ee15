//! What is not there, what seems not to be, and which origin is asked next.

use crate::harness::{Edge, Origin, Package, Script, Setup, noise, path_of_nar, says};

#[tokio::test]
async fn an_absence_is_remembered_for_ten_seconds() {
    let origin = Origin::start().await;
    let package = Package::new(1, 10);
    let path = &package.narinfo_path;
    let edge = Edge::before(&origin).await;
    let cold = edge.get(path).await;
    cold.expect(404, "absent").with(b"404");
    assert_eq!(cold.field("content-type"), "text/plain");
    assert_eq!(cold.field("access-control-allow-origin"), "*");
    edge.pass_time(9);
    edge.get(path).await.expect(404, "hit_absent").with(b"404");
    edge.client().head(path).await.expect(404, "hit_absent").with(b"");
    assert_eq!(origin.count(path), 1);
    edge.pass_time(1);
    origin.say(path, says(package.narinfo()));
    edge.get(path).await.expect(200, "miss");
    edge.get(path).await.expect(200, "hit_memory");
    assert_eq!(origin.count(path), 2);
}

#[tokio::test]
async fn nothing_but_absence_is_remembered_as_absence() {
    for status in [400, 403, 429, 500, 503] {
        let origin = Origin::start().await;
        let package = Package::new(2, 10);
        let path = &package.narinfo_path;
        origin.say(path, Script::status(status));
        let edge = Edge::before(&origin).await;
        let failed = edge.get(path).await;
        failed.expect(502, "origin_failed");
        assert_ne!(failed.field("x-request-id"), "");
        origin.say(path, says(package.narinfo()));
        edge.get(path).await.expect(200, "miss");
    }
}

#[tokio::test]
async fn gone_and_the_words_of_s3_are_absence() {
    for script in [
        Script::status(410),
        Script::fault(403, "AccessDenied"),
        Script::fault(403, "NoSuchKey"),
        Script::fault(404, "NoSuchKey"),
    ] {
        let origin = Origin::start().await;
        let path = Package::new(3, 10).narinfo_path;
        origin.say(&path, script);
        let edge = Edge::before(&origin).await;
        edge.get(&path).await.expect(404, "absent");
        edge.get(&path).await.expect(404, "hit_absent");
        assert_eq!(origin.count(&path), 1);
    }
}

#[tokio::test]
async fn a_failing_origin_is_asked_three_times_and_no_more() {
    let origin = Origin::start().await;
    let path = Package::new(4, 10).narinfo_path;
    origin.say(&path, Script::status(500));
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(502, "origin_failed");
    assert_eq!(origin.count(&path), 3);
    let name = "narthex_origin_requests_total\
                {class=\"narinfo\",origin=\"origin-0\",status=\"500\"}";
    assert_eq!(edge.metric(name).await, 3);
}

#[tokio::test]
async fn an_origin_that_says_nothing_is_504_and_never_absence() {
    let origin = Origin::start().await;
    let package = Package::new(5, 10);
    origin.say(&package.narinfo_path, Script::hangs());
    let setup = Setup::default().timeouts("first_byte = \"100ms\"");
    let edge = setup.start(&[&origin]).await;
    edge.get(&package.narinfo_path).await.expect(504, "origin_failed");
    origin.say(&package.narinfo_path, says(package.narinfo()));
    edge.get(&package.narinfo_path).await.expect(200, "miss");
}

#[tokio::test]
async fn a_dead_origin_is_502_and_never_absence() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    origin.die();
    let path = Package::new(6, 10).narinfo_path;
    edge.get(&path).await.expect(502, "origin_failed");
    edge.get(&path).await.expect(502, "origin_failed");
    edge.client().head("/nar/none.nar.xz").await.expect(502, "origin_failed");
}

#[tokio::test]
async fn the_second_origin_has_what_the_first_has_not() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let edge = Setup::default().start(&[&first, &second]).await;
    let package = Package::new(7, 10);
    second.say(&package.narinfo_path, says(package.narinfo()));
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    assert_eq!((first.count_all(), second.count_all()), (1, 1));

    let nar = noise(7, 200_000);
    let path = path_of_nar(&nar, "nar.xz");
    first.say(&path, Script::status(500));
    second.say(&path, says(nar.clone()));
    edge.get(&path).await.expect(200, "miss").with(&nar);
    assert_eq!((first.count(&path), second.count(&path)), (3, 1));
    let entry = edge.log(2).await.pop().unwrap();
    assert_eq!(entry["origin"], "origin-1");

    let absent = Package::new(8, 10).narinfo_path;
    edge.get(&absent).await.expect(404, "absent");
    assert_eq!((first.count(&absent), second.count(&absent)), (1, 1));
}

#[tokio::test]
async fn absent_here_and_failing_there_is_not_absent() {
    for (one, other) in [(404, 500), (500, 404)] {
        let (first, second) = (Origin::start().await, Origin::start().await);
        let edge = Setup::default().start(&[&first, &second]).await;
        let path = Package::new(9, 10).narinfo_path;
        first.say(&path, Script::status(one));
        second.say(&path, Script::status(other));
        edge.get(&path).await.expect(502, "origin_failed");
        first.say(&path, Script::status(404));
        second.say(&path, Script::status(404));
        edge.get(&path).await.expect(404, "absent");
    }
}

#[tokio::test]
async fn a_head_of_an_absent_nar_is_404_and_a_head_never_makes_an_object() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let nar = noise(10, 100_000);
    let path = path_of_nar(&nar, "nar.xz");
    edge.client().head(&path).await.expect(404, "absent").with(b"");
    edge.client().head(&path).await.expect(404, "hit_absent").with(b"");
    edge.get(&path).await.expect(404, "hit_absent");
    origin.say(&path, says(nar.clone()));
    edge.pass_time(10);
    edge.client().head(&path).await.expect(200, "pass").with(b"");
    edge.get(&path).await.expect(200, "miss").with(&nar);
    let methods: Vec<_> = origin.asked(&path).into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "GET"]);
}
