//! Several edges in a row: a folder, a shield in front of it, points of presence before that.

use super::client::{Reply, get};
use super::edge::{DEADLINE, Edge, Settings, site};
use super::origin::{CACHE_INFO, Origin, nar_path, noise, sample, write_folder};
use std::sync::Barrier;
use std::time::Instant;
use tempfile::TempDir;

fn url(edge: &Edge) -> String {
    format!("http://{}", edge.address())
}

/// A site with lifetimes of its own.
fn remembering(origin: &str, lifetimes: &str) -> String {
    format!("[[site]]\n[site.lifetimes]\n{lifetimes}\n[[site.origin]]\nurl = \"{origin}\"\n")
}

fn age(reply: &Reply) -> u64 {
    reply.value("age").map_or(0, |age| age.parse().unwrap())
}

/// Asks until the answer comes from the store: a fetch ends a little after its last reader.
fn until_hit(edge: &Edge, path: &str) -> Reply {
    let until = Instant::now() + DEADLINE;
    loop {
        let reply = edge.get(path);
        assert_eq!(reply.status, 200, "{reply:?}");
        if reply.values("cache-status").iter().any(|cache| cache.starts_with("narthex; hit")) {
            return reply;
        }
        assert!(Instant::now() < until, "{reply:?}");
    }
}

/// Seconds that the last `Cache-Status` gives the answer.
fn time_to_live(reply: &Reply) -> i64 {
    let last = reply.values("cache-status").last().copied().unwrap();
    let (_, rest) = last.split_once("ttl=").unwrap_or_else(|| panic!("{reply:?}"));
    rest.split(';').next().unwrap().trim().parse().unwrap()
}

#[test]
fn a_closure_travels_from_a_folder_through_two_tiers() {
    let (cache, sample) = (TempDir::new().unwrap(), sample());
    write_folder(&sample, cache.path());
    let shield = Edge::of(format!("file://{}", cache.path().display()));
    let pops = [Edge::of(url(&shield)), Edge::of(url(&shield))];
    for object in &sample.objects {
        for pop in &pops {
            let reply = pop.get(&format!("/{}", object.key));
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.body, object.bytes, "{}", object.key);
        }
    }
    // The shield read each file once, the points of presence asked it once each.
    let read = shield.metric("narthex_origin_requests_total", &[]);
    // A slow machine makes hedges of narinfos.
    let hedges = shield.metric("narthex_origin_hedges_total", &["event=\"begun\""]);
    let probes = 1;
    let objects = u64::try_from(sample.objects.len()).unwrap();
    assert!(read <= objects + probes + hedges, "{read} requests, {hedges} of them hedges");
}

#[test]
fn twenty_clients_of_two_points_of_presence_make_one_request_to_the_origin() {
    let origin = Origin::start();
    let body = noise(3 << 20, 1);
    let path = nar_path(&body);
    let gate = origin.put_held(&path, body.clone());
    let shield = Edge::of(origin.url());
    let pops = [Edge::of(url(&shield)), Edge::of(url(&shield))];
    let begin = Barrier::new(20);
    let replies = std::thread::scope(|scope| {
        let clients = (0..20).map(|number| {
            let (pop, begin, path) = (&pops[number % 2], &begin, &path);
            scope.spawn(move || {
                begin.wait();
                pop.get(path)
            })
        });
        let clients = clients.collect::<Vec<_>>();
        // The body ends when every client waits for it.
        let until = Instant::now() + DEADLINE;
        while !pops.iter().all(all_wait) {
            assert!(Instant::now() < until);
        }
        gate.open();
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(origin.requests_for(&path), 1);
    for reply in &replies {
        assert_eq!((reply.status, reply.is_whole), (200, true), "{reply:?}");
        assert!(reply.body == body, "{} other bytes", reply.body.len());
        let caches = reply.values("cache-status");
        assert!(caches.iter().all(|cache| cache.starts_with("narthex")), "{caches:?}");
    }
    assert_eq!(shield.metric("narthex_origin_requests_total", &["class=\"nar\""]), 1);
    for pop in &pops {
        assert_eq!(pop.metric("narthex_origin_requests_total", &["class=\"nar\""]), 1);
        let requests = |outcome| pop.metric("narthex_requests_total", &["class=\"nar\"", outcome]);
        assert_eq!(requests("outcome=\"miss\""), 1);
        let joined = requests("outcome=\"collapsed\"") + requests("outcome=\"hit");
        assert_eq!(joined, 9);
    }
}

/// Whether ten clients wait for the one fetch of a point of presence.
fn all_wait(pop: &Edge) -> bool {
    pop.metric("narthex_connections", &["door=\"plain\""]) >= 10
        && pop.metric("narthex_fills_running", &[]) >= 1
}

#[test]
fn the_age_and_the_caches_on_the_way_are_told() {
    let origin = Origin::start();
    let body = noise(100_000, 2);
    let path = nar_path(&body);
    origin.put_page(&path, 200, "Age: 1000\r\n", body);
    let shield = Edge::of(origin.url());
    let pop = Edge::of(url(&shield));
    let stored = until_hit(&shield, &path);
    assert!(age(&stored) >= 1000, "{stored:?}");
    let through = pop.get(&path);
    let caches = through.values("cache-status").join(", ");
    let (first, last) = caches.split_once(", narthex").unwrap_or_else(|| panic!("{caches}"));
    assert!(first.starts_with("narthex; hit"), "{caches}");
    assert!(last.contains("fwd=uri-miss") && last.contains("stored"), "{caches}");
    assert!(age(&through) >= 1000, "{through:?}");
    // From the point of presence's own store the shield has no say any more.
    let stored = until_hit(&pop, &path);
    assert_eq!(stored.values("cache-status").len(), 1, "{stored:?}");
    assert!(age(&stored) >= 1000, "{stored:?}");
}

#[test]
fn a_point_of_presence_serves_on_without_its_shield() {
    let origin = Origin::start();
    let body = noise(300_000, 3);
    let path = nar_path(&body);
    origin.put(&path, body.clone());
    let mut shield = Edge::of(origin.url());
    let pop = Edge::of(url(&shield));
    assert_eq!(pop.get(&path).body, body);
    assert_eq!(pop.get("/nix-cache-info").status, 200);
    shield.kill();
    let reply = pop.get(&path);
    assert_eq!((reply.status, reply.body == body), (200, true));
    assert_eq!(pop.get("/nix-cache-info").status, 200);
    assert_eq!(pop.get("/nar/unknown.nar.xz").status, 502);
}

#[test]
fn a_circle_of_caches_ends_at_once() {
    let (one, other) = (Settings::new(), Settings::new());
    let first = one.start(&site("http://127.0.0.1:1"));
    let second = other.start(&site(url(&first)));
    one.write(&site(url(&second)));
    first.process.signal(rustix::process::Signal::HUP);
    first.process.stderr.wait(0, &["narthex::cli::serve: reloaded"]);
    let reply = first.get("/nar/unknown.nar.xz");
    assert!(matches!(reply.status, 502 | 508), "{reply:?}");
    first.process.stderr.wait(0, &["WARN", "circle"]);
    let direct = super::client::ask(
        first.address(),
        "/nar/unknown.nar.xz",
        &format!("CDN-Loop: {}\r\n", instance(&first)),
    );
    assert_eq!(direct.status, 508, "{direct:?}");
    let requests = [&first, &second].map(|edge| edge.metric("narthex_requests_total", &[]));
    assert!(requests.iter().sum::<u64>() < 20, "{requests:?}");
}

/// The name of an edge in `CDN-Loop`.
fn instance(edge: &Edge) -> String {
    let line = edge.process.stderr.wait(0, &["serving", "instance="]);
    let (_, rest) = line.split_once("instance=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

#[test]
fn the_time_at_the_shield_counts_for_an_absence() {
    let origin = Origin::start();
    let shield = Settings::new().start(&remembering(&origin.url(), "absent = \"10s\""));
    let pop = Settings::new().start(&remembering(&url(&shield), "absent = \"10s\""));
    let path = "/nar/unknown.nar.xz";
    assert_eq!(shield.get(path).status, 404);
    let until = Instant::now() + DEADLINE;
    while age(&shield.get(path)) < 1 {
        assert!(Instant::now() < until);
    }
    let fetched = pop.get(path);
    assert_eq!(fetched.status, 404);
    let remembered = pop.get(path);
    assert_eq!(remembered.status, 404);
    assert!(time_to_live(&remembered) <= 9, "{remembered:?}");
    assert!(age(&remembered) >= 1, "{remembered:?}");
    assert_eq!(origin.requests_for(path), 1);
    assert_eq!(get(shield.admin, "/healthz").status, 200);
}

#[test]
fn an_object_is_not_fresh_longer_than_the_origin_says() {
    let origin = Origin::start();
    origin.put_page("/nix-cache-info", 200, "Cache-Control: max-age=100\r\n", CACHE_INFO);
    let shield = Edge::of(origin.url());
    let pop = Edge::of(url(&shield));
    for edge in [&shield, &pop] {
        let stored = until_hit(edge, "/nix-cache-info");
        assert!(time_to_live(&stored) <= 100, "{stored:?}");
    }
}
