//! The sources of the answers of the program `fault-origin`: a folder, or another origin that it
//! stands before. As long lived as the program; no locks.

use super::fault::Fault;
use super::reply::{Asked, Content, Framing, Manner, Reply};
use super::script::{Conditions, Script, Stored};
use super::wire::Source;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Fields of one connection alone (RFC 9110 section 7.6.1), and those that are made anew.
const NOT_PASSED: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// Preconditions (RFC 9110 section 13.1).
const PRECONDITIONS: [&str; 5] =
    ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"];

/// A folder as `nix copy --to file://` writes it.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Source for Folder {
    async fn reply(&self, asked: &Asked, conditions: Conditions) -> io::Result<Reply> {
        if !matches!(&*asked.method, "GET" | "HEAD") {
            return Ok(Reply::bare(405, "405\n"));
        }
        let Some(path) = below(&self.0, &asked.target) else {
            return Ok(Reply::bare(400, "400\n"));
        };
        match tokio::fs::metadata(&path).await {
            Ok(metadata) if metadata.is_file() => {
                let modified = metadata.modified()?;
                let age = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                let length = metadata.len();
                let script = Script::of(Stored::File { path, length })
                    .etag(&format!("\"{:x}-{length:x}\"", age.as_nanos()))
                    .last_modified(&httpdate::fmt_http_date(modified));
                Ok(script.reply(asked, conditions))
            }
            Ok(_) | Err(_) => Ok(Reply::bare(404, "404\n")),
        }
    }

    fn spoilt(&self, asked: &Asked, fault: Fault) {
        report(asked, fault);
    }
}

/// The file that a target names; `None` if it leads out of the folder.
fn below(folder: &Path, target: &str) -> Option<PathBuf> {
    let path = Path::new(target.split('?').next()?.strip_prefix('/')?);
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    is_plain.then(|| folder.join(path))
}

/// What name the other origin is asked under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// Its own.
    Own,
    /// The one that the client asked for: a signature of S3 covers it.
    AsAsked,
}

/// Another origin.
#[derive(Debug)]
pub(crate) struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Without a slash at its end.
    base: String,
    host: Host,
}

impl Upstream {
    /// The origin at `base`, `http://` or `https://`. The public authorities are trusted.
    pub(crate) fn new(base: &str, host: Host) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore { roots })
            .with_no_client_auth();
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let connector = builder.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), host })
    }

    fn request(
        &self,
        asked: &Asked,
        conditions: Conditions,
    ) -> Result<http::Request<Empty<Bytes>>, http::Error> {
        let uri = format!("{}{}", self.base, asked.raw_target);
        let mut request = http::Request::builder().method(&*asked.method).uri(uri);
        for (name, value) in &asked.fields {
            let is_passed = !NOT_PASSED.contains(&&**name)
                && (name != "host" || self.host == Host::AsAsked)
                && (conditions == Conditions::Heeded || !PRECONDITIONS.contains(&&**name));
            if is_passed {
                request = request.header(name, value);
            }
        }
        request.body(Empty::new())
    }
}

impl Source for Upstream {
    async fn reply(&self, asked: &Asked, conditions: Conditions) -> io::Result<Reply> {
        if !matches!(&*asked.method, "GET" | "HEAD") {
            return Ok(Reply::bare(405, "405\n"));
        }
        let request = self.request(asked, conditions).map_err(io::Error::other)?;
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => return Ok(Reply::bare(502, format!("{error}\n"))),
        };
        let (head, body) = response.into_parts();
        let fields = head.headers.iter().filter(|(name, _)| !NOT_PASSED.contains(&name.as_str()));
        let fields = fields.map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        let length = match (&*asked.method, head.headers.get("content-length")) {
            ("HEAD", Some(length)) => length.to_str().ok().and_then(|length| length.parse().ok()),
            _ => body.size_hint().exact(),
        };
        Ok(Reply {
            status: head.status.as_u16(),
            fields: fields.collect(),
            framing: if length.is_some() { Framing::Length } else { Framing::Chunked },
            content: Content::Passed { body, length, waiting: Bytes::new() },
            manner: Manner::default(),
        })
    }

    fn spoilt(&self, asked: &Asked, fault: Fault) {
        report(asked, fault);
    }
}

/// One line for each fault, for a script that counts them.
#[expect(clippy::print_stdout, reason = "this is what the program says")]
fn report(asked: &Asked, fault: Fault) {
    println!("{fault} {} {}", asked.method, asked.raw_target);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::plan::{Plan, parse_rules};
    use crate::faults::wire::{Door, Server, listen};
    use crate::harness::{Client as Asking, Origin, says};
    use tokio::net::TcpListener;
    use tokio_util::sync::{CancellationToken, DropGuard};

    async fn before<S: Source>(source: S, rules: &str) -> (Asking, DropGuard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Plan::new(1, parse_rules(rules).unwrap()).unwrap();
        let life = CancellationToken::new();
        let server = Arc::new(Server { source, plan, clock: parking_lot::Mutex::default() });
        tokio::spawn(listen(listener, Door::Plain, server, life.clone()));
        (Asking { address }, life.drop_guard())
    }

    #[tokio::test]
    async fn a_folder_is_served_with_ranges_and_conditions_and_spoilt() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("nar")).unwrap();
        std::fs::write(folder.path().join("nar/x"), "0123456789").unwrap();
        std::fs::write(folder.path().join("y"), "y").unwrap();
        let source = || Folder(folder.path().to_owned());
        let (client, _life) = before(source(), "500@0").await;
        let whole = client.get("/nar/x").await;
        assert_eq!((whole.status.as_u16(), whole.text()), (200, "0123456789"));
        let fields = [("range", "bytes=2-4"), ("if-match", whole.field("etag"))];
        let part = client.read_with("/nar/x", &fields).await;
        assert_eq!((part.status.as_u16(), part.text()), (206, "234"));
        assert_eq!(part.field("content-range"), "bytes 2-4/10");
        let same = client.read_with("/nar/x", &[("if-none-match", whole.field("etag"))]).await;
        assert_eq!(same.status, 304);
        for (target, status) in [("/nar", 404), ("/nar/none", 404), ("/../x", 400)] {
            assert_eq!(client.get(target).await.status, status, "{target}");
        }
        let (client, _life) = before(source(), "cut:4").await;
        let cut = client.get("/nar/x").await;
        assert_eq!((cut.is_cut, cut.text()), (true, "0123"));
        let (client, _life) = before(source(), "pieces:3").await;
        assert_eq!(client.get("/nar/x").await.text(), "0123456789");
    }

    #[tokio::test]
    async fn another_origin_is_passed_on_and_spoilt() {
        let origin = Origin::start().await;
        origin.say("/a b", says("0123456789").etag("\"a\""));
        origin.say("/chunked", says("01234").chunked());
        let source = || Upstream::new(&origin.url(), Host::AsAsked).unwrap();
        let (client, _life) = before(source(), "500@0").await;
        let part = client.read_with("/a%20b", &[("range", "bytes=7-")]).await;
        assert_eq!((part.status.as_u16(), part.text(), part.field("etag")), (206, "789", "\"a\""));
        assert_eq!(origin.asked("/a b")[0].field("host"), Some("cache.test"));
        assert_eq!(client.get("/chunked").await.text(), "01234");
        assert_eq!(client.get("/none").await.status, 404);
        assert_eq!(client.head("/a%20b").await.field("content-length"), "10");
        let own = Upstream::new(&origin.url(), Host::Own).unwrap();
        let (client, _life) = before(own, "replaced:5").await;
        let other = client.read_with("/a%20b", &[("if-match", "\"b\"")]).await;
        assert_eq!((other.text(), other.field("etag")), ("0123446789", "\"changed\""));
        let host = origin.asked("/a b").pop().unwrap().field("host").map(str::to_owned);
        assert_eq!(host, origin.url().strip_prefix("http://").map(str::to_owned));
        let (client, _life) = before(source(), "cut:8").await;
        let cut = client.read_with("/a%20b", &[("range", "bytes=7-")]).await;
        assert_eq!((cut.is_cut, cut.text()), (true, "7"));
    }
}
