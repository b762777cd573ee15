//! A scripted HTTP/1 server on loopback, and short ways to sites and questions, for the tests of
//! this module's files.

use super::exchange::{Ask, FetchError, Method};
use super::{OriginAnswer, Origins, Response};
use crate::client::Trusts;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::config::{
    AbsenceOf, BreakerSettings, BudgetSettings, CacheInfoOverride, Exposure, HttpVersion,
    LifetimeTerms, Lifetimes, Login, Origin, OriginNecessity, OriginProxy, OriginTimeouts,
    OriginTurns, OriginUrl, Prices, S3, S3Addressing, S3Credentials, Signatures, Site,
};
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the scripted server does with a request.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// A well-formed answer; its body is left out for HEAD.
    Answer(u16, Vec<(&'static str, String)>, &'static str),
    /// These bytes, and the connection stays open.
    Raw(String),
    /// These bytes, and the connection is closed.
    RawAndClose(String),
    /// The same as `Answer`, after a while.
    After(Duration, u16, &'static str),
    /// Nothing, ever.
    Hang,
}

/// An answer without further fields.
pub(super) fn says(status: u16, body: &'static str) -> Act {
    Act::Answer(status, Vec::new(), body)
}

/// An answer with an S3 error document of the given code.
pub(super) fn says_fault(status: u16, code: &'static str) -> Act {
    let body = format!("<Error><Code>{code}</Code><Message></Message></Error>");
    Act::Answer(status, Vec::new(), String::leak(body))
}

type Script = Box<dyn FnMut(&str) -> Act + Send>;

/// A server that does what its script says.
#[derive(Clone)]
pub(super) struct Scripted {
    pub(super) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    script: Arc<Mutex<Script>>,
}

impl Scripted {
    /// `script` is given each request's head.
    pub(super) async fn start(script: impl FnMut(&str) -> Act + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            connections: Arc::default(),
            script: Arc::new(Mutex::new(Box::new(script))),
        };
        let accepting = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *accepting.connections.lock() += 1;
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        server
    }

    /// The same answer to everything.
    pub(super) async fn always(act: Act) -> Self {
        Self::start(move |_| act.clone()).await
    }

    /// These answers one after the other, the last for ever.
    pub(super) async fn sequence(acts: Vec<Act>) -> Self {
        let mut at = 0;
        Self::start(move |_| {
            let act = acts[at.min(acts.len() - 1)].clone();
            at += 1;
            act
        })
        .await
    }

    /// The heads of the requests so far.
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().clone()
    }

    /// How many requests came so far.
    pub(super) fn asked(&self) -> usize {
        self.heads.lock().len()
    }

    /// How many connections were opened so far.
    pub(super) fn connections(&self) -> usize {
        *self.connections.lock()
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut read = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            let head = String::from_utf8(read.drain(..end).collect()).unwrap();
            self.heads.lock().push(head.clone());
            let act = (self.script.lock())(&head);
            let (bytes, closes) = match act {
                Act::Answer(status, fields, body) => {
                    (rendered(status, &fields, body, &head), false)
                }
                Act::After(wait, status, body) => {
                    tokio::time::sleep(wait).await;
                    (rendered(status, &[], body, &head), false)
                }
                Act::Raw(bytes) => (bytes, false),
                Act::RawAndClose(bytes) => (bytes, true),
                Act::Hang => return std::future::pending().await,
            };
            if stream.write_all(bytes.as_bytes()).await.is_err() || closes {
                return;
            }
        }
    }
}

fn rendered(status: u16, fields: &[(&str, String)], body: &str, head: &str) -> String {
    let mut text = format!("HTTP/1.1 {status} x\r\n");
    for (name, value) in fields {
        text.extend([*name, ": ", value, "\r\n"]);
    }
    if status != 304 {
        text.extend(["content-length: ", &body.len().to_string(), "\r\n"]);
    }
    text.push_str("\r\n");
    if !head.starts_with("HEAD ") && status != 304 {
        text.push_str(body);
    }
    text
}

/// GET of the whole object at `path`.
pub(super) fn ask(path: &str) -> Ask {
    Ask { path: path.into(), class: Class::Other, reason: None, ..Ask::probe() }
}

/// HEAD of the object at `path`.
pub(super) fn head(path: &str) -> Ask {
    Ask { method: Method::Head, ..ask(path) }
}

/// An origin with the deadlines of the defaults.
pub(super) fn origin(name: &str, url: OriginUrl) -> Origin {
    Origin {
        name: name.to_owned(),
        url,
        priority: 0,
        http_version: HttpVersion::Auto,
        ca_file: None,
        proxy: OriginProxy::None,
        login: Login::None,
        exposure: Exposure::Permitted,
        identity: None,
        trusted_public_keys: Vec::new(),
        signatures: None,
        turns: OriginTurns::default(),
        timeouts: OriginTimeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(15),
            between_bytes: Duration::from_secs(10),
            resume: Duration::from_mins(1),
        },
        connections_max: 200,
        weight: 0,
        absence: AbsenceOf::Next,
        necessity: OriginNecessity::Required,
        breaker: BreakerSettings {
            failures: 10,
            open_max: Duration::from_secs(10),
            probe_idle: Duration::ZERO,
        },
        budget: BudgetSettings { retries_percent: 20, hedges_percent: 5 },
        prices: Prices::default(),
    }
}

/// A plain upstream.
pub(super) fn http_origin(name: &str, server: &Scripted) -> Origin {
    let url = format!("http://{}", server.address).parse().unwrap();
    origin(name, OriginUrl::Http(url))
}

/// A bucket called `bucket`, with the given credentials, requester pays.
pub(super) fn s3_origin(address: SocketAddr, credentials: S3Credentials) -> Origin {
    let bucket = S3 {
        bucket: "bucket".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://{address}")),
        prefix: String::new(),
        addressing: S3Addressing::Path,
        requester_pays: true,
        credentials,
    };
    origin("s3", OriginUrl::S3(bucket))
}

/// Key files in `folder`.
pub(super) fn key_files(folder: &Path, id: &str, secret: &str) -> S3Credentials {
    let file = |name: &str, value: &str| {
        let path = folder.join(name);
        std::fs::write(&path, format!("{value}\n")).unwrap();
        path
    };
    S3Credentials::Files {
        access_key_id: file("id", id),
        secret_access_key: file("secret", secret),
        session_token: None,
    }
}

/// A site with these origins.
pub(super) fn site(origins: Vec<Origin>) -> Site {
    Site {
        name: "main".to_owned(),
        hosts: Vec::new(),
        trusted_public_keys: Vec::new(),
        signatures: Signatures::Off,
        cache_info: CacheInfoOverride::default(),
        lifetimes: Lifetimes {
            fresh: [Duration::from_secs(1); Class::ALL.len()],
            otherwise: LifetimeTerms {
                absent: Duration::from_secs(1),
                stale_if_error: Duration::from_secs(1),
                ..LifetimeTerms::default()
            },
            rules: Vec::new(),
        },
        caching: None,
        absence_filter: None,
        base_path: String::new(),
        follow_redirects_to: Vec::new(),
        origins,
    }
}

/// Origins under test, with what they report to.
pub(super) struct Bench {
    pub(super) origins: Origins,
    pub(super) metrics: Metrics,
    pub(super) clock: ManualClock,
}

/// The origins of `site`, by a clock that stands at the real time.
pub(super) fn bench(site: &Site) -> Bench {
    let metrics = Metrics::new().unwrap();
    let clock = ManualClock::starting_at(Timestamp::from(std::time::SystemTime::now()));
    let origins = Origins::new(
        site,
        Clock::Manual(clock.clone()),
        metrics.clone(),
        Tasks::new(),
        &mut Trusts::default(),
    )
    .unwrap();
    Bench { origins, metrics, clock }
}

/// The origins of a site with these.
pub(super) fn origins(origins: Vec<Origin>) -> Origins {
    bench(&site(origins)).origins
}

/// The object, which must have been found.
pub(super) fn found(answer: Result<OriginAnswer<Response>, FetchError>) -> Response {
    match answer {
        Ok(OriginAnswer::Found(response)) => response,
        other => panic!("not found: {other:?}"),
    }
}

/// The whole body, which must come to its end.
pub(super) async fn whole(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(piece) = response.body.chunk().await.unwrap() {
        body.extend_from_slice(&piece);
    }
    body
}

/// One word for an answer, for tables.
pub(super) fn word(answer: &Result<OriginAnswer<Response>, FetchError>) -> &'static str {
    match answer {
        Ok(OriginAnswer::Found(_)) => "found",
        Ok(OriginAnswer::NotModified { .. }) => "not modified",
        Ok(OriginAnswer::Absent { .. }) => "absent",
        Ok(OriginAnswer::Changed) => "changed",
        Err(FetchError::Connect { .. }) => "connect",
        Err(FetchError::Broken { .. }) => "broken",
        Err(FetchError::FirstByte { .. }) => "first byte",
        Err(FetchError::Upload { .. }) => "upload",
        Err(FetchError::Credentials { .. }) => "credentials",
        Err(FetchError::Status { .. }) => "status",
        Err(FetchError::Protocol { .. }) => "protocol",
        Err(FetchError::Folder { .. }) => "folder",
        Err(FetchError::Busy { .. }) => "busy",
        Err(FetchError::Open { .. }) => "open",
        Err(FetchError::Throttled { .. }) => "throttled",
        Err(FetchError::Optional(_)) => "optional",
    }
}
