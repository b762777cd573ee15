//! TLS through the real process: names choose certificates, ALPN the protocol, SIGHUP renews.

use super::edge::{DEADLINE, Edge, Settings, site};
use super::origin::{CACHE_INFO, Origin};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::cell::Cell;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { issuer: Issuer::new(params, key), roots }
    }

    /// Writes a new certificate for a name over the old one.
    fn issue(&self, settings: &Settings, name: &str) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let files = ["crt", "key"].map(|kind| settings.folder().join(format!("{name}.{kind}")));
        std::fs::write(&files[0], params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        files
    }

    async fn connect(
        &self,
        edge: &Edge,
        name: &str,
        protocols: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TcpStream::connect(edge.addresses[1]).await?;
        let name = name.to_owned().try_into().unwrap();
        timeout(DEADLINE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await?
    }

    /// The certificate that a client which asks for `name` is shown.
    async fn shown(&self, edge: &Edge, name: &str) -> CertificateDer<'static> {
        let stream = self.connect(edge, name, &[]).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

fn settings_with(certificates: &[[PathBuf; 2]], settings: &Settings) -> String {
    let mut text = settings.process.clone();
    text.push_str("[server.tls]\nlisten = [\"127.0.0.1:0\"]\n");
    for [certificate, key] in certificates {
        let (certificate, key) = (certificate.display(), key.display());
        writeln!(text, "[[server.tls.certificates]]").unwrap();
        writeln!(text, "certificate = \"{certificate}\"\nkey = \"{key}\"").unwrap();
    }
    text
}

struct Scene {
    authority: Authority,
    settings: Settings,
    edge: Edge,
    origin: Origin,
}

fn scene() -> Scene {
    let (origin, authority) = (Origin::start(), Authority::new());
    let mut settings = Settings::new();
    let certificates = ["a.example", "b.example"].map(|name| authority.issue(&settings, name));
    settings.process = settings_with(&certificates, &settings);
    let edge = settings.start(&site(origin.url()));
    Scene { authority, settings, edge, origin }
}

#[tokio::test]
async fn names_choose_certificates_and_alpn_the_protocol() {
    let Scene { authority, edge, origin, .. } = scene();
    for name in ["a.example", "b.example"] {
        for (protocols, version) in [
            (&[b"h2".as_slice(), b"http/1.1"][..], Version::HTTP_2),
            (&[b"http/1.1"], Version::HTTP_11),
            (&[], Version::HTTP_11),
        ] {
            let stream = authority.connect(&edge, name, protocols).await.unwrap();
            let io = TokioIo::new(stream);
            let url = if version == Version::HTTP_2 {
                format!("https://{name}/nix-cache-info")
            } else {
                "/nix-cache-info".to_owned()
            };
            let request = Request::get(url).version(version).header("host", name);
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = if version == Version::HTTP_2 {
                let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
                let (mut sender, connection) = shaken.await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            } else {
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            };
            assert_eq!((response.status().as_u16(), response.version()), (200, version));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), CACHE_INFO);
        }
    }
    // Only the first certificate is left, and it has another name.
    assert!(authority.connect(&edge, "c.example", &[]).await.is_err());
    edge.process.stdout.wait(0, &["TLSv1.3", "HTTP/2"]);
    drop(origin);
}

#[tokio::test]
async fn a_renewed_certificate_is_served_after_a_signal_and_a_bad_one_is_not() {
    let Scene { authority, settings, edge, .. } = scene();
    let old = authority.shown(&edge, "a.example").await;
    let [certificate, key] = authority.issue(&settings, "a.example");
    // Not before it is told.
    assert_eq!(authority.shown(&edge, "a.example").await, old);
    let said = edge.process.stderr.count();
    edge.process.signal(Signal::HUP);
    edge.process.stderr.wait(said, &["narthex::cli::serve: reloaded"]);
    let renewed = authority.shown(&edge, "a.example").await;
    assert_ne!(renewed, old);
    // A key that belongs to another certificate: the last good pair stays.
    let [_, other] = authority.issue(&settings, "other.example");
    std::fs::copy(other, key).unwrap();
    let said = edge.process.stderr.count();
    edge.process.signal(Signal::HUP);
    let line = edge.process.stderr.wait(said, &["ERROR", "reload refused"]);
    assert!(
        line.contains(&certificate.display().to_string()) || line.contains("a.example"),
        "{line}"
    );
    assert_eq!(authority.shown(&edge, "a.example").await, renewed);
}

/// FAULTS.md F15d: a certificate that cannot be read, as on a file system that hangs.
#[test]
fn a_reload_that_hangs_is_ended_by_a_signal() {
    let Scene { settings, mut edge, origin, .. } = scene();
    let certificate = settings.folder().join("a.example.crt");
    std::fs::remove_file(&certificate).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&certificate).status().unwrap();
    assert!(made.success());
    edge.process.signal(Signal::HUP);
    // Opens when the edge has begun to read, and gives it nothing.
    let _writer = std::fs::File::options().write(true).open(&certificate).unwrap();
    assert_eq!(edge.get("/nix-cache-info").status, 200, "it serves meanwhile");
    assert_eq!(edge.terminate(), Some(0));
    drop(origin);
}

/// FAULTS.md Held: handshakes during reloads.
#[tokio::test]
async fn every_handshake_during_reloads_gets_the_old_certificate_or_the_new() {
    let Scene { authority, settings, edge, .. } = scene();
    let (is_over, shaken) = (Cell::new(false), Cell::new(0_u32));
    let reloading = async {
        let mut shown = authority.shown(&edge, "a.example").await;
        for _ in 0..20 {
            authority.issue(&settings, "a.example");
            edge.process.signal(Signal::HUP);
            let old = shown.clone();
            while shown == old {
                shown = authority.shown(&edge, "a.example").await;
            }
        }
        is_over.set(true);
    };
    let shaking = async |name: &str| {
        while !is_over.get() {
            let shown = authority.shown(&edge, name).await;
            assert!(!shown.is_empty());
            shaken.set(shaken.get() + 1);
        }
    };
    let all = async {
        let shaking = ["a.example", "b.example", "a.example"].map(|name| Box::pin(shaking(name)));
        tokio::join!(Box::pin(reloading), join_all(shaking));
    };
    timeout(3 * DEADLINE, all).await.expect("every certificate is shown");
    assert!(shaken.get() > 20, "{} handshakes", shaken.get());
}
