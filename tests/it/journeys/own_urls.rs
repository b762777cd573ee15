//! Narinfos with a `URL` that spells out its host, or begins with `/`: they are served with the
//! path of their NAR in the edge.

use crate::harness::{Edge, Origin, Package, Setup, noise, says};

/// The narinfo of `package` with another `URL`.
fn with_url(package: &Package, url: &str) -> String {
    let own = format!("URL: {}\n", &package.nar_path[1..]);
    package.narinfo().replace(&own, &format!("URL: {url}\n"))
}

#[tokio::test]
async fn a_url_of_the_own_origin_is_served_as_a_path_of_the_edge() {
    for seed in 1..6 {
        let origin = Origin::start().await;
        let package = Package::new(seed, 10_000);
        let url = match seed {
            1 => format!("{}{}", origin.url(), package.nar_path),
            2 => format!("{}{}", origin.url().replace("http:", "https:"), package.nar_path),
            3 => package.nar_path.clone(),
            4 => format!("/{}", package.nar_path),
            _ => format!("http://cache.test{}", package.nar_path),
        };
        let script = says(with_url(&package, &url)).etag("\"a\"");
        origin.say(&package.narinfo_path, script);
        origin.say(&package.nar_path, says(package.nar.clone()));
        let edge = Setup::default().site("hosts = ['cache.test']");
        let edge = edge.start(&[&origin]).await;
        for outcome in ["miss", "hit_memory"] {
            let said = edge.get(&package.narinfo_path).await;
            said.expect(200, outcome).with(package.narinfo().as_bytes());
            assert_eq!(said.field("etag"), "W/\"a\"");
        }
        // The claim is known under that path: a wrong body is found out.
        let whole = package.nar.len();
        origin.say(&package.nar_path, says(noise(99, whole)));
        edge.get(&package.nar_path).await.expect(502, "origin_failed");
        origin.say(&package.nar_path, says(package.nar.clone()));
        edge.pass_time(1);
        edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
        edge.pass_time(86_400);
        let said = edge.get(&package.narinfo_path).await;
        said.expect(200, "revalidated").with(package.narinfo().as_bytes());
    }
}

#[tokio::test]
async fn a_url_of_another_host_stays_as_it_is() {
    let origin = Origin::start().await;
    let package = Package::new(7, 10);
    let narinfo = with_url(&package, "https://elsewhere.example.org/nar/a.nar.zst");
    origin.say(&package.narinfo_path, says(narinfo.clone()).etag("\"a\""));
    let edge = Edge::before(&origin).await;
    let said = edge.get(&package.narinfo_path).await;
    said.expect(200, "miss").with(narinfo.as_bytes());
    assert_eq!(said.field("etag"), "\"a\"");
}
