//! Tests of the client against servers that speak TLS and HTTP/2, or nothing at all.

use super::*;
use crate::sync::Mutex;
use http_body_util::{BodyExt, Full};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::PrivateKeyDer;
use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// A TLS server for `localhost` that answers with the HTTP version it is spoken to in.
struct TlsServer {
    address: SocketAddr,
    ca_file: tempfile::NamedTempFile,
    connections: Arc<Mutex<usize>>,
}

async fn tls_server(protocols: &[&[u8]]) -> TlsServer {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut ca_file = tempfile::NamedTempFile::new().unwrap();
    ca_file.write_all(issued.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
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
                let service = service_fn(|request: Request<Incoming>| async move {
                    let version = format!("{:?}", request.version());
                    Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::from(version)))
                });
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream = TokioIo::new(stream);
                if is_h2 {
                    let server = http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(stream, service).await;
                } else {
                    let _ = http1::Builder::new().serve_connection(stream, service).await;
                }
            });
        }
    });
    TlsServer { address, ca_file, connections }
}

fn client(trust: &Trust, requests_max: usize) -> Client {
    let connect = Duration::from_secs(5);
    let first_byte = Duration::from_secs(15);
    Client::new(trust, ClientSettings { connect, first_byte, requests_max })
}

fn get(scheme: &str, host: &str, address: SocketAddr) -> OutboundRequest {
    let uri = format!("{scheme}://{host}:{}/x", address.port());
    Request::builder().uri(uri).body(no_body()).unwrap()
}

async fn text(inbound: Inbound) -> String {
    let bytes = inbound.body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_its_file_is_given() {
    for (protocols, expected) in
        [(&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0"), (&[&b"http/1.1"[..]][..], "HTTP/1.1")]
    {
        let server = tls_server(protocols).await;
        let trust = Trust::load(Some(server.ca_file.path()), None).unwrap();
        let trusting = client(&trust, 200);
        for _ in 0..3 {
            let request = get("https", "localhost", server.address);
            assert_eq!(text(trusting.send(request).await.unwrap()).await, expected);
        }
        assert_eq!(*server.connections.lock(), 1);

        let doubting = client(&Trust::load(None, None).unwrap(), 200);
        let error = doubting.send(get("https", "localhost", server.address)).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect(_)), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        let other_name = trusting.send(get("https", "127.0.0.1", server.address)).await;
        assert!(matches!(other_name, Err(ClientError::Connect(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = client(&Trust::load(None, None).unwrap(), 200);
    let sending = client.send(get("https", "127.0.0.1", address));
    let (result, silent) = tokio::join!(sending, listener.accept());
    let error = result.unwrap_err();
    assert!(matches!(error, ClientError::Connect(_)), "{error}");
    assert!(error.to_string().contains("no connection within 5 s"), "{error}");
    drop(silent);
}

#[tokio::test]
async fn a_lane_is_left_only_when_it_is_full() {
    let server = tls_server(&[b"h2", b"http/1.1"]).await;
    let trust = Trust::load(Some(server.ca_file.path()), None).unwrap();
    let client = client(&trust, REQUESTS_PER_LANE * 2);
    assert_eq!(client.lanes.len(), 2);
    let mut held = Vec::new();
    for _ in 0..REQUESTS_PER_LANE {
        held.push(client.send(get("https", "localhost", server.address)).await.unwrap());
    }
    assert_eq!(*server.connections.lock(), 1);
    held.push(client.send(get("https", "localhost", server.address)).await.unwrap());
    assert_eq!(*server.connections.lock(), 2);
    drop(held);
    assert!(client.lanes.iter().all(|lane| lane.running.load(Ordering::Relaxed) == 0));
    drop(client.send(get("https", "localhost", server.address)).await.unwrap());
    assert_eq!(*server.connections.lock(), 2);
}

#[test]
fn a_chain_names_every_link_once() {
    let inner = std::io::Error::other("inner");
    let outer = ClientError::Connect(Box::new(std::io::Error::other(inner)));
    assert_eq!(Chain::of(&outer).to_string(), "cannot connect: inner");
}
