//! Origins behind an HTTP proxy: plain http in absolute form, https through CONNECT.

use crate::faults::secure::Identity;
use crate::harness::{Edge, Origin, Package, Script, Setup, says};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The name and password of the proxies, and how they are sent.
const LOGIN: &str = "edge:hu%73h@";
const SENT: &str = "Basic ZWRnZTpodXNo";

/// A proxy that opens tunnels and answers nothing else. It keeps the lines that it was sent.
struct Tunnels {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, lines) = (listener.local_addr().unwrap(), Arc::default());
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(tunnel(stream, Arc::clone(&kept)));
            }
        });
        Self { address, lines }
    }

    fn count(&self, line: &str) -> usize {
        self.lines.lock().iter().filter(|own| *own == line).count()
    }
}

/// Opens a tunnel if the right credentials are sent.
async fn tunnel(stream: TcpStream, kept: Arc<Mutex<Vec<String>>>) {
    let (mut stream, mut lines) = (BufReader::new(stream), Vec::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    kept.lock().extend(lines.iter().cloned());
    let asked = lines[0].split(' ').collect::<Vec<_>>();
    let is_let_in = lines.contains(&format!("Proxy-Authorization: {SENT}"));
    if asked[0] != "CONNECT" || !is_let_in {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        let _ = stream.write_all(refusal).await;
        return;
    }
    let mut onward = TcpStream::connect(asked[1]).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
}

async fn edge(table: String) -> Edge {
    Setup::default().start_before(&[table]).await
}

/// Nowhere is the password of the proxy.
async fn tells_no_password(edge: &Edge) {
    let (metrics, ready) = (edge.admin().get("/metrics").await, edge.admin().get("/readyz").await);
    for text in [metrics.text(), ready.text()] {
        assert!(!text.contains("hush") && !text.contains("hu%73h"), "{text}");
        assert!(!text.contains("ZWRnZTpodXNo"), "{text}");
    }
}

#[tokio::test]
async fn a_plain_origin_is_asked_of_its_proxy_by_whole_urls() {
    // No name server knows this host: all that comes is what the proxy gives.
    let (proxy, package) = (Origin::start().await, Package::new(1, 100_000));
    let url = |path: &str| format!("http://cache.test:81{path}");
    proxy.say(&url(&package.narinfo_path), says(package.narinfo()));
    proxy.say(&url(&package.nar_path), says(package.nar.clone()));
    let address = proxy.url().replace("http://", &format!("http://{LOGIN}"));
    let table = format!("url = \"{}\"\nname = \"far\"\nproxy = \"{address}\"", url(""));
    let edge = edge(table).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    let asked = proxy.asked(&url(&package.nar_path));
    assert_eq!(asked[0].field("host"), Some("cache.test:81"));
    assert_eq!(asked[0].field("proxy-authorization"), Some(SENT));
    tells_no_password(&edge).await;
    // A redirect within the origin's host goes the same way.
    let moved = Package::new(2, 10);
    let place = "http://cache.test/elsewhere";
    proxy.say(&url(&moved.narinfo_path), Script::status(302).field("location", place));
    proxy.say(place, says(moved.narinfo()));
    edge.get(&moved.narinfo_path).await.expect(200, "miss");
    // What the proxy says when it cannot reach the origin is the origin's failure.
    proxy.say(&url("/nix-cache-info"), Script::status(502));
    edge.get("/nix-cache-info").await.expect(502, "origin_failed");
    proxy.die();
    edge.get(&Package::new(3, 10).narinfo_path).await.expect(502, "origin_failed");
    let ready = edge.admin().get("/readyz").await;
    let place = proxy.url().replace("http://", "through the proxy ");
    assert!(ready.text().contains(&place), "{}", ready.text());
    tells_no_password(&edge).await;
}

#[tokio::test]
async fn a_secure_origin_is_asked_through_a_tunnel() {
    let (folder, identity) = (TempDir::new().unwrap(), Identity::new().unwrap());
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &identity.authority).unwrap();
    let (origin, proxy) = (Origin::start_secure(identity).await, Tunnels::start().await);
    let package = Package::new(1, 100_000);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.clone()));
    let table = |login: &str| {
        format!(
            "url = \"{}\"\nca_file = \"{}\"\nproxy = \"http://{login}{}\"",
            origin.url(),
            ca_file.display(),
            proxy.address
        )
    };
    let let_in = edge(table(LOGIN)).await;
    let_in.get(&package.narinfo_path).await.expect(200, "miss");
    let_in.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    let place = origin.url().replace("https://", "");
    assert!(proxy.count(&format!("CONNECT {place} HTTP/1.1")) > 0);
    assert_eq!(origin.asked(&package.nar_path)[0].field("proxy-authorization"), None);
    tells_no_password(&let_in).await;
    let refused = edge(table("edge:wrong@")).await;
    refused.get(&package.narinfo_path).await.expect(502, "origin_failed");
    let ready = refused.admin().get("/readyz").await;
    assert!(ready.text().contains("proxy authorization required"), "{}", ready.text());
}
