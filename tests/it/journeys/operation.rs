//! What operators see and do: metrics, the access log, limits of the disk, reload, drain.

use crate::harness::{Edge, Gate, Origin, Package, Script, Setup, noise, path_of_nar, says};

#[tokio::test]
async fn the_metrics_that_dashboards_rely_on() {
    let origin = Origin::start().await;
    let package = Package::new(1, 200_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.clone()));
    let edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    edge.get(&package.nar_path).await.expect(200, "miss");
    edge.until_idle().await;
    edge.read_with(&package.nar_path, &[("range", "bytes=0-9")]).await.expect(206, "hit_disk");
    edge.client().head(&package.nar_path).await.expect(200, "hit_disk");
    edge.get(&Package::new(2, 1).narinfo_path).await.expect(404, "absent");
    edge.get("/robots.txt").await.expect(404, "refused");
    edge.log(7).await;

    let narinfo = package.narinfo().len();
    let requests = |class: &str, outcome: &str| {
        let labels = format!("class=\"{class}\",outcome=\"{outcome}\",site=\"main\"");
        (
            format!("narthex_requests_total{{{labels}}}"),
            format!("narthex_response_bytes_total{{{labels}}}"),
        )
    };
    for (class, outcome, count, bytes) in [
        ("narinfo", "miss", 1, narinfo),
        ("narinfo", "hit_memory", 1, narinfo),
        ("narinfo", "absent", 1, 3),
        ("nar", "miss", 1, 200_000),
        ("nar", "hit_disk", 2, 10),
    ] {
        let (requests, response_bytes) = requests(class, outcome);
        assert_eq!(edge.metric(&requests).await, count, "{requests}");
        assert_eq!(edge.metric(&response_bytes).await, bytes as u64, "{response_bytes}");
    }
    for (name, value) in [
        ("narthex_origin_requests_total{class=\"narinfo\",origin=\"origin-0\",status=\"200\"}", 1),
        ("narthex_origin_requests_total{class=\"narinfo\",origin=\"origin-0\",status=\"404\"}", 1),
        ("narthex_origin_requests_total{class=\"nar\",origin=\"origin-0\",status=\"200\"}", 1),
        ("narthex_origin_bytes_total{class=\"nar\",origin=\"origin-0\"}", 200_000),
        ("narthex_origin_bytes_total{class=\"narinfo\",origin=\"origin-0\"}", narinfo),
        ("narthex_stored_objects{tier=\"memory\"}", 1),
        ("narthex_stored_objects{tier=\"disk\"}", 2),
        ("narthex_stored_objects{tier=\"absent\"}", 1),
        ("narthex_origin_up{origin=\"origin-0\"}", 1),
        ("narthex_fills_total{class=\"nar\",result=\"stored\"}", 1),
        ("narthex_fills_running", 0),
        ("narthex_requests_refused_total{reason=\"outside_cache\"}", 1),
    ] {
        assert_eq!(edge.metric(name).await, value as u64, "{name}");
    }
    assert!(edge.metric("narthex_stored_bytes{tier=\"disk\"}").await >= 200_000);
}

#[tokio::test]
async fn the_access_log_says_what_happened() {
    let origin = Origin::start().await;
    let package = Package::new(3, 200_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let edge = Edge::before(&origin).await;
    let target = format!("{}?x=%22\\", package.narinfo_path);
    edge.read_with(&target, &[("user-agent", "Nix/2.34")]).await.expect(200, "miss");
    edge.get("/robots.txt").await;
    let refused = edge.read_with("/x", &[("cdn-loop", "edge")]).await;
    let lines = edge.log(3).await;
    let first = &lines[0];
    for (name, value) in [
        ("response_state", "miss"),
        ("request_method", "GET"),
        ("request_protocol", "HTTP/1.1"),
        ("url", &*target),
        ("host", "cache.test"),
        ("site", "main"),
        ("class", "narinfo"),
        ("origin", "origin-0"),
        ("request_user_agent", "Nix/2.34"),
        ("timestamp", "2026-05-28T20:26:40.000Z"),
    ] {
        assert_eq!(first[name], value, "{name}");
    }
    assert_eq!(first["response_status"], 200);
    assert_eq!(first["response_body_size"], package.narinfo().len());
    assert_eq!(
        (&lines[1]["response_state"], &lines[1]["response_status"]),
        (&"refused".into(), &404.into())
    );
    assert_eq!(lines[2]["request_id"], refused.field("x-request-id"));
}

#[tokio::test]
async fn the_disk_never_takes_more_than_its_size() {
    let origin = Origin::start().await;
    let edge = Setup::default().disk_size("40MiB").start(&[&origin]).await;
    let mut paths = Vec::new();
    for seed in 0..60 {
        let nar = noise(seed, 1 << 20);
        let path = path_of_nar(&nar, "nar.xz");
        origin.say(&path, says(nar.clone()));
        edge.get(&path).await.expect(200, "miss").with(&nar);
        edge.until_idle().await;
        assert!(edge.objects_on_disk().0 <= 40 << 20, "{:?}", edge.objects_on_disk());
        paths.push((path, nar));
    }
    let stored = edge.metric("narthex_stored_bytes{tier=\"disk\"}").await;
    assert!(stored <= 40 << 20 && stored > 20 << 20, "{stored}");
    let (path, nar) = &paths[59];
    edge.get(path).await.expect(200, "hit_disk").with(nar);
    let mut hits = 0;
    for (path, nar) in &paths {
        let said = edge.client().head(path).await;
        hits += usize::from(said.outcome() == "hit_disk");
        assert_eq!(said.field("content-length"), nar.len().to_string());
    }
    assert!((20..40).contains(&hits), "{hits}");
}

#[tokio::test]
async fn a_drain_lets_bodies_finish() {
    let origin = Origin::start().await;
    let nar = noise(4, 1 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).held_at(500_000, &gate));
    let mut edge = Edge::before(&origin).await;
    let mut reader = edge.client().begin(&path, &[]).await;
    reader.read_to(400_000).await;
    let address = edge.client().address;
    let stopping = async { edge.stop().await };
    let reading = async {
        // Once the listener is gone the drain has begun.
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        gate.open();
        reader.rest().await
    };
    let (ended, said) = tokio::join!(stopping, reading);
    said.expect(200, "miss").with(&nar);
    assert!(ended);
}

#[tokio::test]
async fn a_reload_takes_another_origin_and_serves_nothing_of_the_old_one() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let (one, two) = (Package::new(5, 10), Package::new(6, 10));
    first.say(&one.narinfo_path, says(one.narinfo()));
    second.say(&two.narinfo_path, says(two.narinfo()));
    let edge = Edge::before(&first).await;
    edge.get(&one.narinfo_path).await.expect(200, "miss");
    edge.get(&two.narinfo_path).await.expect(404, "absent");
    let text = edge.text.replace(&first.url(), &second.url()).replace("16MiB", "32MiB");
    assert_eq!(edge.reload(&text).await.unwrap(), ["[memory]"]);
    edge.get(&one.narinfo_path).await.expect(404, "absent");
    edge.get(&two.narinfo_path).await.expect(200, "miss");
    edge.reload(&edge.text).await.unwrap();
    first.die();
    edge.get(&one.narinfo_path).await.expect(200, "hit_memory");
}

#[tokio::test]
async fn a_narinfo_stored_without_a_signature_does_not_serve_once_one_is_required() {
    let origin = Origin::start().await;
    let package = Package::new(8, 10).signed_by(None);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let edge = Setup::default().signatures("off").start(&[&origin]).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    edge.reload(&edge.text.replace("\"off\"", "\"require\"")).await.unwrap();
    edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
}

#[tokio::test]
async fn a_reload_that_cannot_be_taken_changes_nothing() {
    let origin = Origin::start().await;
    let package = Package::new(7, 10);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let edge = Edge::before(&origin).await;
    let text = edge
        .text
        .replace("name = \"origin-0\"", "name = \"moved\"\nca_file = \"/nonexistent/ca.pem\"")
        .replace(&origin.url(), "https://localhost:1");
    let error = edge.reload(&text).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/ca.pem"), "{error}");
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    assert_eq!(edge.log(1).await[0]["origin"], "origin-0");
}

#[tokio::test]
async fn readiness_names_what_is_wrong_and_stays_ready() {
    let origin = Origin::start().await;
    origin.say("/nix-cache-info", Script::status(500));
    let edge = Edge::before(&origin).await;
    edge.until_metric("narthex_origin_up{origin=\"origin-0\"}", 0).await;
    let said = edge.admin().get("/readyz").await;
    assert_eq!(said.status, 200);
    let report: serde_json::Value = serde_json::from_slice(&said.body).unwrap();
    assert_eq!(report["ready"], true);
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "origin origin-0 of site main");
    assert_eq!(check.unwrap()["ok"], false, "{report}");
    assert!(check.unwrap()["detail"].as_str().unwrap().contains("500"), "{report}");
    assert_eq!(edge.admin().get("/healthz").await.status, 200);
}

/// The reason of a request to an origin is told also if no client asked for it.
#[tokio::test]
async fn what_completes_a_part_is_counted_as_that() {
    let origin = Origin::start().await;
    let nar = noise(3, 3 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()).etag("\"a\""));
    let edge = Edge::before(&origin).await;
    let range = ("range", "bytes=1048576-1048580");
    edge.client().ask("GET", &path, &[range]).await.expect(206, "miss");
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    let labels =
        |reason| format!("class=\"nar\",method=\"get\",origin=\"origin-0\",reason=\"{reason}\"");
    for (reason, count) in [("part", 1), ("completion", 2), ("miss", 0)] {
        let name = format!("narthex_origin_requests_by_reason_total{{{}}}", labels(reason));
        assert_eq!(edge.metric(&name).await, count, "{reason}");
    }
}
