//! HTTP/2 clients that flood frames of control, beside one that downloads with a small window.

use crate::harness::{Edge, Origin, Package, says};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The preface, and empty SETTINGS.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingpong";
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\xff\xff";
/// Adds one byte to the window of the connection.
const WINDOW_UPDATE: &[u8] = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01";
const REFUSED: &str = "narthex_connections_refused_total{reason=\"control_frames\"}";

#[tokio::test]
async fn a_client_that_floods_is_let_go_and_counted() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for (count, one) in (1..).zip([PING, SETTINGS, WINDOW_UPDATE]) {
        let mut client = TcpStream::connect(edge.client().address).await.unwrap();
        let (mut reading, mut writing) = client.split();
        let frames = [OPENING, &one.repeat(100_000)].concat();
        let sent = async { writing.write_all(&frames).await.ok() };
        let mut said = Vec::new();
        let ended = reading.read_to_end(&mut said);
        let (_, _) = tokio::join!(sent, ended);
        assert!(said.len() < 500_000, "{}", said.len());
        edge.until_metric(REFUSED, count).await;
    }
}

/// It sends two updates for each piece of a body.
#[tokio::test]
async fn a_client_with_a_small_window_is_served() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let package = Package::new(1, 8 << 20);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    origin.say(&package.nar_path, says(package.nar.clone()));
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    let asked = [(&*package.nar_path, &[][..])];
    for answer in edge.client().begin_http2(&asked, 1024).await {
        let said = answer.rest().await;
        assert!(said.body == package.nar && !said.is_cut);
    }
    assert_eq!(edge.metric(REFUSED).await, 0);
}
