//! Tests of the client against servers that speak TLS and HTTP/2, or nothing at all.

use super::http2::STREAMS_MAX;
use super::limits::{AGE_MAX, STREAM_WINDOW_BYTES};
use super::*;
use crate::sync::Mutex;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};

/// A TLS server for `localhost` that answers with the HTTP version it is spoken to in.
struct TlsServer {
    address: SocketAddr,
    ca_file: tempfile::NamedTempFile,
    connections: Arc<Mutex<usize>>,
}

/// How many bytes `/large` has: as many as a stream's window.
const LARGE: usize = STREAM_WINDOW_BYTES as usize;

/// Says which version the request came by, sends much, or tells the length of the request's body.
async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = match request.uri().path() {
        "/large" => Bytes::from(vec![b'x'; LARGE]),
        "/length" => request.into_body().collect().await?.to_bytes().len().to_string().into(),
        _ => format!("{:?}", request.version()).into(),
    };
    Ok(Response::new(Full::new(body)))
}

/// An HTTP/2 server with small windows: its streams take few bytes at once.
fn http2_server() -> http2::Builder<TokioExecutor> {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server.initial_stream_window_size(1_000);
    server
}

async fn tls_server(protocols: &[&[u8]]) -> TlsServer {
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    tls_server_with(protocols, params).await
}

async fn tls_server_with(protocols: &[&[u8]], params: CertificateParams) -> TlsServer {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let mut ca_file = tempfile::NamedTempFile::new().unwrap();
    ca_file.write_all(certificate.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::<Mutex<usize>>::default();
    let accepted = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            *accepted.lock() += 1;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(respond);
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream = TokioIo::new(stream);
                if is_h2 {
                    let _ = http2_server().serve_connection(stream, service).await;
                } else {
                    let _ = http1::Builder::new().serve_connection(stream, service).await;
                }
            });
        }
    });
    TlsServer { address, ca_file, connections }
}

fn client(trust: &TlsTrust, requests_max: usize) -> Client {
    speaking(trust, requests_max, HttpVersion::Auto)
}

fn speaking(trust: &TlsTrust, requests_max: usize, version: HttpVersion) -> Client {
    let connect = Duration::from_secs(5);
    let first_byte = Duration::from_secs(15);
    let settings = ClientSettings { connect, first_byte, requests_max, version };
    Client::new(trust, settings, ProxyRule::default())
}

fn get(scheme: &str, host: &str, address: SocketAddr) -> OutboundRequest {
    request("GET", &format!("{scheme}://{host}:{}/x", address.port()), no_body())
}

fn request(method: &str, uri: &str, body: OutboundBody) -> OutboundRequest {
    Request::builder().method(method).uri(uri).body(body).unwrap()
}

fn bytes(length: usize) -> OutboundBody {
    Full::from(vec![b'x'; length]).map_err(|never| match never {}).boxed_unsync()
}

async fn text(inbound: Inbound) -> String {
    let bytes = inbound.body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// FAULTS.md G19b.
#[tokio::test]
async fn a_connection_that_is_in_use_all_the_time_is_replaced_once_it_is_old() {
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let server = tls_server(&[protocol]).await;
        let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
        let client = client(&trust, 200);
        for request in 0..12 {
            text(client.send(get("https", "localhost", server.address)).await.unwrap()).await;
            let old = usize::from(AGE_MAX.as_secs() <= request * 30);
            assert_eq!(*server.connections.lock(), 1 + old, "{request}");
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(30)).await;
            tokio::time::resume();
        }
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_its_file_is_given() {
    for (protocols, expected) in
        [(&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0"), (&[&b"http/1.1"[..]][..], "HTTP/1.1")]
    {
        let server = tls_server(protocols).await;
        let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
        let trusting = client(&trust, 200);
        for _ in 0..3 {
            let request = get("https", "localhost", server.address);
            assert_eq!(text(trusting.send(request).await.unwrap()).await, expected);
        }
        assert_eq!(*server.connections.lock(), 1);

        let doubting = client(&TlsTrust::load(None, None).unwrap(), 200);
        let error = doubting.send(get("https", "localhost", server.address)).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect(..)), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        let other_name = trusting.send(get("https", "127.0.0.1", server.address)).await;
        assert!(matches!(other_name, Err(ClientError::Connect(..))));
    }
}

/// UPSTREAMS.md row 28.
#[tokio::test]
async fn a_server_may_present_the_authority_of_the_ca_file_itself() {
    let named = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let server = tls_server_with(&[b"http/1.1"], named("localhost")).await;
    let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
    let request = || get("https", "localhost", server.address);
    assert_eq!(text(client(&trust, 200).send(request()).await.unwrap()).await, "HTTP/1.1");

    let other = tls_server_with(&[b"http/1.1"], named("localhost")).await;
    let doubting = TlsTrust::load(Some(other.ca_file.path()), None).unwrap();
    assert!(client(&doubting, 200).send(request()).await.is_err(), "another authority's file");
    let request = get("https", "127.0.0.1", server.address);
    assert!(client(&trust, 200).send(request).await.is_err(), "another name");

    let mut expired = named("localhost");
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let server = tls_server_with(&[b"http/1.1"], expired).await;
    let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
    let request = get("https", "localhost", server.address);
    assert!(client(&trust, 200).send(request).await.is_err(), "an expired one");
}

#[test]
fn one_way_is_left_to_frame_a_response() {
    let settled = |lines: &[(&'static str, &'static str)]| {
        let mut response = Response::builder();
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        let mut head = response.body(()).unwrap().into_parts().0;
        settle_head(&mut head).map(|_| {
            let lines = head.headers.iter();
            let lines = lines.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
            lines.collect::<Vec<_>>()
        })
    };
    let (length, coding) = ("content-length", "transfer-encoding");
    let chunked = Ok(vec!["transfer-encoding: chunked".to_owned()]);
    assert_eq!(settled(&[(length, "5"), (length, "5")]), Ok(vec!["content-length: 5".to_owned()]));
    assert_eq!(settled(&[(length, "5"), (coding, "chunked")]), chunked);
    assert_eq!(settled(&[(coding, "chunked"), (coding, "Chunked")]), chunked);
    for codings in [&[(coding, "gzip")][..], &[(coding, "gzip, chunked")], &[(coding, "")]] {
        settled(codings).unwrap_err();
    }
    let long: &'static str = "x".repeat(HEAD_BYTES_MAX).leak();
    settled(&[("x", long)]).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = client(&TlsTrust::load(None, None).unwrap(), 200);
    let sending = client.send(get("https", "127.0.0.1", address));
    let (result, silent) = tokio::join!(sending, listener.accept());
    let error = result.unwrap_err();
    assert!(matches!(error, ClientError::Connect(..)), "{error}");
    assert!(error.to_string().contains("no connection within 5 s"), "{error}");
    drop(silent);
}

#[tokio::test]
async fn an_http2_connection_is_left_only_when_it_is_full() {
    let server = tls_server(&[b"h2", b"http/1.1"]).await;
    let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
    let client = client(&trust, STREAMS_MAX * 2);
    let mut held = Vec::new();
    for _ in 0..STREAMS_MAX {
        held.push(client.send(get("https", "localhost", server.address)).await.unwrap());
    }
    assert_eq!(*server.connections.lock(), 1);
    held.push(client.send(get("https", "localhost", server.address)).await.unwrap());
    assert_eq!(*server.connections.lock(), 2);
    drop(held);
    drop(client.send(get("https", "localhost", server.address)).await.unwrap());
    assert_eq!(*server.connections.lock(), 2);
}

#[tokio::test]
async fn the_version_is_the_one_that_is_set() {
    let both = tls_server(&[b"h2", b"http/1.1"]).await;
    let old = tls_server(&[b"http/1.1"]).await;
    for (server, version, expected) in [
        (&both, HttpVersion::Auto, Ok("HTTP/2.0")),
        (&both, HttpVersion::Http1, Ok("HTTP/1.1")),
        (&both, HttpVersion::Http2, Ok("HTTP/2.0")),
        (&old, HttpVersion::Http1, Ok("HTTP/1.1")),
        (&old, HttpVersion::Http2, Err(())),
    ] {
        let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
        let client = speaking(&trust, 10, version);
        match (client.send(get("https", "localhost", server.address)).await, expected) {
            (Ok(inbound), Ok(expected)) => assert_eq!(text(inbound).await, expected),
            (Err(ClientError::Connect(..)), Err(())) => {}
            (other, _) => panic!("{version:?}: {other:?}"),
        }
    }
}

/// A server without TLS that takes connections for as long as `serve` serves them.
async fn plain_server<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            tokio::spawn(serve(listener.accept().await.unwrap().0));
        }
    });
    address
}

#[tokio::test]
async fn http2_without_tls_needs_no_negotiation() {
    let server = plain_server(|stream| async {
        let serving = http2_server().serve_connection(TokioIo::new(stream), service_fn(respond));
        drop(serving.await);
    });
    let (server, trust) = (server.await, TlsTrust::load(None, None).unwrap());
    let client = speaking(&trust, 10, HttpVersion::Http2);
    assert_eq!(
        text(client.send(get("http", "localhost", server)).await.unwrap()).await,
        "HTTP/2.0"
    );
}

#[tokio::test]
async fn bodies_that_nobody_reads_do_not_hold_up_others() {
    let server = tls_server(&[b"h2"]).await;
    let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
    let client = client(&trust, STREAMS_MAX);
    let uri = format!("https://localhost:{}/large", server.address.port());
    let mut unread = Vec::new();
    for _ in 0..STREAMS_MAX - 1 {
        unread.push(client.send(request("GET", &uri, no_body())).await.unwrap());
    }
    let small = client.send(get("https", "localhost", server.address)).await.unwrap();
    assert_eq!(text(small).await, "HTTP/2.0");
    for inbound in unread {
        assert_eq!(inbound.body.size_hint().exact(), Some(LARGE as u64));
        assert_eq!(inbound.body.collect().await.unwrap().to_bytes().len(), LARGE);
    }
    assert_eq!(*server.connections.lock(), 1);
}

#[tokio::test]
async fn a_body_is_sent_as_the_server_takes_it() {
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let server = tls_server(&[protocol]).await;
        let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
        let client = client(&trust, 10);
        let uri = format!("https://localhost:{}/length", server.address.port());
        for length in [0, 1, 1_000, 1_001, 300_000] {
            let sent = client.send(request("POST", &uri, bytes(length))).await.unwrap();
            assert_eq!(text(sent).await, length.to_string());
        }
        assert_eq!(*server.connections.lock(), 1);
    }
}

/// A body of so many pieces of so many bytes, with a gap before each.
fn pieces(count: usize, bytes: usize, gap: Duration) -> OutboundBody {
    let pieces = stream::iter(0..count).then(move |_| async move {
        tokio::time::sleep(gap).await;
        Ok(Frame::data(Bytes::from(vec![b'x'; bytes])))
    });
    OutboundBody::new(StreamBody::new(pieces))
}

/// A body that breaks off after its first piece.
fn broken() -> OutboundBody {
    let first = Frame::data(Bytes::from_static(b"x"));
    OutboundBody::new(StreamBody::new(stream::iter([Ok(first), Err("gone".into())])))
}

/// FAULTS.md G9.
#[tokio::test]
async fn a_body_that_its_client_does_not_finish_is_no_fault_of_the_server() {
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let server = tls_server(&[protocol]).await;
        let trust = TlsTrust::load(Some(server.ca_file.path()), None).unwrap();
        let client = client(&trust, 10);
        let uri = format!("https://localhost:{}/length", server.address.port());
        let seconds = Duration::from_secs;
        for (body, expected) in [
            (broken(), UploadError::Broken),
            (pieces(2, 1, seconds(3_600)), UploadError::Slow),
            (pieces(200, 1, seconds(5)), UploadError::Slow),
        ] {
            text(client.send(get("https", "localhost", server.address)).await.unwrap()).await;
            tokio::time::pause();
            let sent = client.send(request("PUT", &uri, body));
            let sent = tokio::time::timeout(seconds(120), sent).await.expect("an end in time");
            tokio::time::resume();
            let is_expected = matches!(sent, Err(ClientError::Upload(error)) if error == expected);
            assert!(is_expected, "{protocol:?} {expected:?}: {sent:?}");
        }
        text(client.send(get("https", "localhost", server.address)).await.unwrap()).await;
        let connections = if protocol == b"h2" { 1 } else { 4 };
        assert_eq!(*server.connections.lock(), connections);
        tokio::time::pause();
        let sent = client.send(request("PUT", &uri, pieces(100, 10_000, seconds(5)))).await;
        assert_eq!(text(sent.unwrap()).await, "1000000");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn requests_wait_for_the_only_connection_that_a_server_permits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut server = http2_server();
        server.max_concurrent_streams(2);
        drop(server.serve_connection(TokioIo::new(stream), service_fn(respond)).await);
    });
    let client = speaking(&TlsTrust::load(None, None).unwrap(), 100, HttpVersion::Http2);
    let asked = (0..6).map(|_| async {
        text(client.send(get("http", "localhost", address)).await.unwrap()).await
    });
    for answered in futures_util::future::join_all(asked).await {
        assert_eq!(answered, "HTTP/2.0");
    }
}

/// A server of HTTP/2 that closes each connection with GOAWAY before it takes a request.
async fn closing_server(connections: &Arc<AtomicUsize>) -> SocketAddr {
    let connections = Arc::clone(connections);
    plain_server(move |stream| {
        connections.fetch_add(1, Ordering::Relaxed);
        async {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            connection.abrupt_shutdown(h2::Reason::NO_ERROR);
            drop(std::future::poll_fn(|cx| connection.poll_closed(cx)).await);
        }
    })
    .await
}

#[tokio::test]
async fn requests_that_are_never_processed_fail_after_a_bounded_number_of_connections() {
    let connections = Arc::default();
    let server = closing_server(&connections).await;
    let client = speaking(&TlsTrust::load(None, None).unwrap(), 100, HttpVersion::Http2);
    let asked = (0..20).map(|_| client.send(get("http", "localhost", server)));
    for answered in futures_util::future::join_all(asked).await {
        assert!(matches!(answered, Err(ClientError::Broken(..))), "{answered:?}");
    }
    let connections = connections.load(Ordering::Relaxed);
    assert!((RESENDS_MAX as usize..=20).contains(&connections), "{connections}");
}

#[tokio::test]
async fn a_server_that_closes_every_connection_at_once_is_asked_once() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let connections = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&connections);
        let server = plain_server(move |stream| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { drop(stream) }
        });
        let server = server.await;
        let client = speaking(&TlsTrust::load(None, None).unwrap(), 100, version);
        let answered = client.send(get("http", "localhost", server)).await;
        assert!(
            matches!(answered, Err(ClientError::Broken(..) | ClientError::Connect(..))),
            "{answered:?}"
        );
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{version:?}");
    }
}

#[test]
fn a_chain_names_every_link_once() {
    let inner = std::io::Error::other("inner");
    let outer =
        ClientError::Connect(ErrorChain::of(&std::io::Error::other(inner)), FailureShare::First);
    assert_eq!(ErrorChain::of(&outer).to_string(), "cannot connect: inner");
}
