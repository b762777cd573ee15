//! TLS listeners: protocols, names, reloads, and connections that end as plain ones do.

use super::harness::{Edge, noise, reset, rest, server, until};
use crate::config::{CertificateFiles, Tls};
use crate::engine::Transport;
use crate::front::{Door, Front, ListenError};
use crate::tls::{Certificates, Protocols};
use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, version};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A private authority, and the folder of what it issued.
pub(super) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        let folder = TempDir::new().unwrap();
        Self { folder, issuer: Issuer::new(params, key), roots }
    }

    pub(super) fn issue(&self, name: &str) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let files = CertificateFiles {
            certificate: self.folder.path().join(format!("{name}.crt")),
            key: self.folder.path().join(format!("{name}.key")),
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A client that trusts it.
    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth()
    }

    async fn connect(
        &self,
        edge: &Edge,
        name: &str,
        alpn: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_over(edge.connect().await, name, alpn, versions).await
    }

    pub(super) async fn connect_over(
        &self,
        stream: TcpStream,
        name: &str,
        alpn: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.client(versions);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = name.to_owned().try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

pub(super) const ALL: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// A server with a TLS listener only, and its certificates.
pub(super) fn tls_server(
    certificates: Vec<CertificateFiles>,
) -> (crate::config::Server, Certificates) {
    let mut server = server();
    let tls = Tls { listen: std::mem::take(&mut server.listen), certificates };
    let certificates = Certificates::load(&tls).unwrap();
    server.tls = Some(tls);
    (server, certificates)
}

pub(super) fn start(server: &crate::config::Server, certificates: &Certificates) -> Edge {
    let config = certificates.server_config(Protocols::Http2AndHttp1).unwrap();
    Edge::start_with(server, Some(config))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn http1_runs_under_both_versions_of_tls() {
    let authority = Authority::new();
    let (server, certificates) = tls_server(vec![authority.issue("a.example")]);
    let edge = start(&server, &certificates);
    for (version, name) in [(&version::TLS13, "TLSv1.3"), (&version::TLS12, "TLSv1.2")] {
        let mut client =
            authority.connect(&edge, "a.example", &[b"http/1.1"], &[version]).await.unwrap();
        client.write_all(GET).await.unwrap();
        // Ended by close_notify: rustls makes anything else an error.
        assert!(rest(&mut client).await.ends_with("hello"));
        let connection = Arc::clone(edge.connections.lock().last().unwrap());
        let Transport::Tls { protocol, cipher } = connection.transport else { panic!("plain") };
        assert_eq!(protocol, name);
        assert!(cipher.starts_with("TLS_") && !cipher.starts_with("TLS_13"), "{cipher}");
    }
    assert_eq!(edge.refused("tls_handshake"), 0);
}

#[tokio::test]
async fn a_client_that_comes_again_resumes_its_session() {
    let authority = Authority::new();
    let (server, certificates) = tls_server(vec![authority.issue("a.example")]);
    let edge = start(&server, &certificates);
    for version in [&version::TLS13, &version::TLS12] {
        let connector = TlsConnector::from(Arc::new(authority.client(&[version])));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let name = "a.example".try_into().unwrap();
            let mut client = connector.connect(name, edge.connect().await).await.unwrap();
            client.write_all(GET).await.unwrap();
            assert!(rest(&mut client).await.ends_with("hello"));
            assert_eq!(client.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
        }
    }
}

#[tokio::test]
async fn http2_is_chosen_by_alpn() {
    let authority = Authority::new();
    let (server, certificates) = tls_server(vec![authority.issue("a.example")]);
    let edge = start(&server, &certificates);
    let client = authority.connect(&edge, "a.example", &[b"h2", b"http/1.1"], ALL).await.unwrap();
    let io = TokioIo::new(client);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://a.example/").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(edge.open_connections(Door::Tls), 1);
}

/// Around the sizes of records, frames, and what is sent at once.
const SIZES: [usize; 9] = [1, 255, 256, 16_000, 16_384, 16_385, 114_688, 131_071, 1_000_000];

#[tokio::test]
async fn answers_of_every_size_come_whole_side_by_side_and_one_by_one() {
    let authority = Authority::new();
    let (server, certificates) = tls_server(vec![authority.issue("a.example")]);
    let edge = start(&server, &certificates);
    let client = authority.connect(&edge, "a.example", &[b"h2"], ALL).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let asked = SIZES.map(|size| {
        let request = Request::get(format!("https://a.example/bytes?{size}"));
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())
    });
    let answers = join_all(asked).await.into_iter().map(|response| response.unwrap().collect());
    for (answer, size) in join_all(answers).await.into_iter().zip(SIZES) {
        assert!(answer.unwrap().to_bytes() == noise(size), "{size}");
    }
    for size in SIZES {
        let mut client = authority.connect(&edge, "a.example", &[], ALL).await.unwrap();
        client.write_all(format!("GET /bytes?{size} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(&noise(size)), "{size}");
    }
}

/// What waits to be encrypted or sent is no sign of a reader.
#[tokio::test]
async fn a_client_that_takes_nothing_is_reset_under_tls() {
    let authority = Authority::new();
    let (mut server, certificates) = tls_server(vec![authority.issue("a.example")]);
    server.timeouts.write_stall = Duration::from_millis(200);
    let edge = start(&server, &certificates);
    // HTTP/2: SETTINGS with a window of 1 GiB, such a window for the connection, GET /endless.
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
        \0\0\x06\x04\0\0\0\0\0\0\x04\x40\0\0\0\
        \0\0\x04\x08\0\0\0\0\0\x40\0\0\0\
        \0\0\x0f\x01\x05\0\0\0\x01\x82\x87\x44\x08/endless\x41\x01a";
    for (protocol, asked) in [
        (b"http/1.1".as_slice(), b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n".as_slice()),
        (b"h2", http2),
    ] {
        let mut client = authority.connect(&edge, "a.example", &[protocol], ALL).await.unwrap();
        client.write_all(asked).await.unwrap();
        reset(client.get_ref().0).await;
    }
    assert_eq!(edge.asked.lock().len(), 2);
    assert_eq!(edge.refused("write_stall"), 2);
}

/// What is encrypted and waits for room in the socket belongs to the answer: the deadline for the
/// client to close its side begins after it.
#[tokio::test]
async fn the_end_of_an_answer_waits_for_a_slow_reader() {
    let authority = Authority::new();
    let (server, certificates) = tls_server(vec![authority.issue("a.example")]);
    let edge = start(&server, &certificates);
    let connector = TlsConnector::from(Arc::new(authority.client(ALL)));
    // The kernel takes some 256 KiB: one of these ends among the seven records behind it.
    for size in [300_000, 350_000, 400_000, 450_000] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(edge.address).await.unwrap();
        let mut client = connector.connect("a.example".try_into().unwrap(), stream).await.unwrap();
        client.write_all(format!("GET /bytes?{size} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 1];
        client.read_exact(&mut answer).await.unwrap();
        tokio::time::pause();
        tokio::time::advance(Duration::from_mins(1)).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        tokio::time::resume();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(&noise(size)), "{} bytes of {size} came", answer.len());
    }
}

#[tokio::test]
async fn the_name_asked_for_chooses_the_certificate() {
    let authority = Authority::new();
    let certificates = vec![authority.issue("a.example"), authority.issue("b.example")];
    let (server, certificates) = tls_server(certificates);
    let edge = start(&server, &certificates);
    authority.connect(&edge, "a.example", &[], ALL).await.unwrap();
    authority.connect(&edge, "b.example", &[], ALL).await.unwrap();
    // Only the first is left, and this client rejects it.
    assert!(authority.connect(&edge, "c.example", &[], ALL).await.is_err());
}

#[tokio::test]
async fn a_reload_serves_new_connections_while_old_ones_go_on() {
    let authority = Authority::new();
    let files = authority.issue("a.example");
    let (server, certificates) = tls_server(vec![files.clone()]);
    let edge = start(&server, &certificates);
    let mut old = authority.connect(&edge, "a.example", &[], ALL).await.unwrap();
    let renamed = Tls { listen: Vec::new(), certificates: vec![authority.issue("b.example")] };
    certificates.reload(&renamed).unwrap();
    authority.connect(&edge, "b.example", &[], ALL).await.unwrap();
    assert!(authority.connect(&edge, "a.example", &[], ALL).await.is_err());
    old.write_all(GET).await.unwrap();
    assert!(rest(&mut old).await.ends_with("hello"));
}

#[tokio::test]
async fn a_handshake_that_stalls_or_fails_is_let_go() {
    let authority = Authority::new();
    let (mut server, certificates) = tls_server(vec![authority.issue("a.example")]);
    server.timeouts.tls_handshake = Duration::from_millis(50);
    let edge = start(&server, &certificates);
    // The head of a handshake record of 512 bytes that never come.
    assert_eq!(edge.exchange(b"\x16\x03\x01\x02\x00").await, "");
    assert_eq!(edge.refused("tls_handshake_timeout"), 1);
    edge.exchange("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(edge.refused("tls_handshake"), 1);
    assert!(edge.asked.lock().is_empty());
}

/// Neither close_notify nor a clean FIN: the client must not take what it got for whole.
#[tokio::test]
async fn a_cut_body_ends_with_a_reset_under_tls() {
    let authority = Authority::new();
    let (server, certificates) = tls_server(vec![authority.issue("a.example")]);
    let edge = start(&server, &certificates);
    let mut client = authority.connect(&edge, "a.example", &[], ALL).await.unwrap();
    client.write_all(b"GET /cut HTTP/1.0\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let error = client.read_to_end(&mut bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_kept_connection_is_idle_and_not_reading_a_head() {
    let authority = Authority::new();
    let (mut server, certificates) = tls_server(vec![authority.issue("a.example")]);
    server.timeouts.idle = Duration::from_millis(50);
    let edge = start(&server, &certificates);
    let mut client = authority.connect(&edge, "a.example", &[], ALL).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    until(&mut client, "hello").await;
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(edge.refused("request_head"), 0);
}

#[tokio::test]
async fn a_tls_listener_needs_certificates() {
    let authority = Authority::new();
    let (server, _) = tls_server(vec![authority.issue("a.example")]);
    let error = Front::bind(&server, None).unwrap_err();
    assert!(matches!(error, ListenError::NoCertificates { .. }), "{error}");
}

/// As without TLS: what tells is the end of the client's side, not its `close_notify`.
#[tokio::test(start_paused = true)]
async fn a_client_that_half_closed_is_answered_in_time_or_let_go() {
    let authority = Authority::new();
    let (server, certificates) = tls_server(vec![authority.issue("a.example")]);
    let edge = start(&server, &certificates);
    for is_answered in [true, false] {
        let alpn: &[&[u8]] = &[b"http/1.1"];
        let mut client = authority.connect(&edge, "a.example", alpn, ALL).await.unwrap();
        client.write_all(b"GET /held HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        edge.reached.notified().await;
        let asked = Instant::now();
        tokio::time::sleep(Duration::from_secs(25)).await;
        if is_answered {
            edge.release.notify_one();
        }
        let mut text = String::new();
        let end = client.read_to_string(&mut text).await;
        assert_eq!(text.ends_with("\r\n\r\nheld"), is_answered, "{text}");
        let reset = end.err().map(|error| error.kind());
        assert_eq!(reset, (!is_answered).then_some(ErrorKind::ConnectionReset));
        assert!(asked.elapsed() < Duration::from_mins(1), "{:?}", asked.elapsed());
    }
}
