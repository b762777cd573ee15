//! The checked configuration, as the rest of the program sees it. Values only: a [`Config`] is
//! valid. Made by the readers of this module's siblings, never by hand outside tests. Every default
//! stands in the definitions beside it, not here.

use super::access::{Exposure, Login, OriginProxy, OriginTurns};
use super::caching::Caching;
use super::lifetimes::Lifetimes;
use crate::nix::hash::{base16, sha256};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything an operator may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[server]`: the public listeners.
    pub server: Server,
    /// `[admin]`: metrics, health and purge.
    pub admin: AdminSettings,
    /// `[memory]`: the hot tier.
    pub memory: MemorySettings,
    /// `[disk]`: the folders of the disk tier; none if it is switched off.
    pub disks: Vec<Disk>,
    /// `[log]`.
    pub log: Log,
    /// `[[site]]`, in the order of the file; never empty.
    pub sites: Vec<Site>,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Plain listeners: HTTP/1.1, and HTTP/2 by prior knowledge.
    pub listen: Vec<SocketAddr>,
    /// This instance's name in `CDN-Loop` and logs; unique among the PoPs that ask each other.
    pub name: String,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// `[server.tls]`.
    pub tls: Option<Tls>,
    /// `[server.limits]`.
    pub limits: Limits,
    /// `[server.timeouts]`.
    pub timeouts: ServerTimeouts,
}

/// `[server.tls]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// TLS listeners.
    pub listen: Vec<SocketAddr>,
    /// Certificates, chosen by SNI; the first serves clients that send none.
    pub certificates: Vec<CertificateFiles>,
}

/// `[[server.tls.certificates]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateFiles {
    /// PEM chain, leaf first.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// `[server.limits]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Open connections over all listeners.
    pub connections_max: usize,
    /// Open connections from one address.
    pub connections_per_address_max: usize,
    /// Header fields of a request.
    pub request_headers_max: usize,
    /// Bytes of a request's head.
    pub request_head_bytes_max: usize,
    /// Bytes of a request's path.
    pub path_bytes_max: usize,
    /// Concurrent streams of an HTTP/2 connection.
    pub streams_max: u32,
    /// Fills under way at once, over all sites.
    pub fills_max: usize,
    /// Bytes that are fetched in the background, at most, to complete an object of which a range
    /// was asked for; 0 for never.
    pub completion_size_max: u64,
    /// Objects that are completed in the background at once.
    pub completions_max: usize,
    /// Fetching in pieces.
    pub pieces: PieceSettings,
}

/// `[server.pieces]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PieceSettings {
    /// Bytes of a piece.
    pub size: u64,
    /// Pieces of one object under way at once, beside its first connection.
    pub per_fill_max: usize,
    /// Pieces under way at once, over all objects.
    pub max: usize,
    /// How long the rest of an object must take at the pace of its first connection for pieces of
    /// it to be fetched.
    pub after: Duration,
}

/// `[server.timeouts]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerTimeouts {
    /// From accept to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// From the first byte of a request to the end of its head.
    pub request_head: Duration,
    /// An open connection without a request.
    pub idle: Duration,
    /// A client that takes no byte of a response.
    pub write_stall: Duration,
    /// From SIGTERM until the listeners close.
    pub lame_duck: Duration,
    /// From then until open responses are cut.
    pub drain: Duration,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminSettings {
    /// The admin listener; `None` if it is switched off.
    pub listen: Option<SocketAddr>,
    /// File with the bearer token of the purge interface; without it, purging is off.
    pub token_file: Option<PathBuf>,
}

/// `[memory]`.
#[derive(Debug, Clone, PartialEq)]
pub struct MemorySettings {
    /// Bytes the hot tier may take, overhead included.
    pub size: u64,
    /// Bytes remembered absences may take, overhead included.
    pub absent_size: u64,
}

/// One folder of `[disk]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Disk {
    /// The folder; created if it is missing.
    pub path: PathBuf,
    /// Bytes it may take.
    pub size: u64,
    /// How long the scrubber takes to read everything once; zero if it is off.
    pub scrub_pass: Duration,
    /// Bytes a second that the scrubber may read.
    pub scrub_rate: u64,
}

impl Disk {
    /// A folder that is not scrubbed.
    pub const fn unscrubbed(path: PathBuf, size: u64) -> Self {
        Self { path, size, scrub_pass: Duration::ZERO, scrub_rate: u64::MAX }
    }
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// The access log's form.
    pub access: AccessLogForm,
    /// Filter of the diagnostic log: `error`, `warn`, `info`, `debug`, `trace`, or directives.
    pub level: String,
}

/// The access log's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogForm {
    /// One JSON object a line.
    Json,
    /// The combined log format.
    Combined,
    /// None.
    Off,
}

/// `[[site]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Its name in keys, logs and metrics; by default its first host, or `default`.
    pub name: String,
    /// Host names, lower case, without a port; empty for the default site.
    pub hosts: Vec<String>,
    /// Public keys, `name:base64`; checked to parse.
    pub trusted_public_keys: Vec<String>,
    /// What a narinfo without a good signature gets.
    pub signatures: Signatures,
    /// `[site.cache_info]`.
    pub cache_info: CacheInfoOverride,
    /// `[site.lifetimes]`; without meaning for the kind `generic`.
    pub lifetimes: Lifetimes,
    /// How a site of kind `generic` caches; none for a binary cache.
    pub caching: Option<Arc<Caching>>,
    /// `[site.absence_filter]`.
    pub absence_filter: Option<AbsenceFilter>,
    /// The path that its clients ask below, without a trailing `/`; empty for none.
    pub base_path: String,
    /// Hosts that an origin's redirect may lead to; empty: redirects are faults.
    pub follow_redirects_to: Vec<String>,
    /// `[[site.origin]]`, sorted by priority, lowest first; never empty.
    pub origins: Vec<Origin>,
}

impl Site {
    /// The first part of the keys of its objects: its name and, behind a `#`, what its kind and its
    /// set of origins are known by. What one kind of site has stored, the other has not checked.
    /// Objects of other origins are never served in their place; credentials, priorities, timeouts
    /// and the scheme of an HTTP origin make no difference.
    pub fn key_space(&self) -> String {
        let mut places: Vec<_> = self.origins.iter().map(|origin| origin.url.place()).collect();
        places.sort_unstable();
        places.dedup();
        if self.caching.is_some() {
            places.push("generic".to_owned());
        }
        let digest = sha256(places.join("\n").as_bytes());
        let head = digest.first_chunk::<4>().copied().unwrap_or_default();
        format!("{}#{}", self.name, base16(&head))
    }
}

/// `[site.absence_filter]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsenceFilter {
    /// What `narthex filter build` made.
    pub file: PathBuf,
    /// The file for uploads that the filter does not know.
    pub journal: PathBuf,
    /// The bucket of the keys that it knows, and of the uploads that its feed reports.
    pub bucket: String,
    /// How long nothing may be heard of the feed.
    pub feed_timeout: Duration,
    /// How long the feed tries again to deliver what was not taken.
    pub feed_retention: Duration,
    /// Uploads that are noted, at most.
    pub uploads_max: u64,
}

/// What a narinfo without a good signature gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signatures {
    /// 502, and it is never stored.
    Require,
    /// A log line and a count.
    Warn,
    /// No check.
    Off,
}

/// `[site.cache_info]`: fields of `nix-cache-info` that this site answers in its own way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheInfoOverride {
    /// `Priority`; lower is asked first.
    pub priority: Option<u32>,
    /// `WantMassQuery`.
    pub want_mass_query: Option<bool>,
    /// `StoreDir`.
    pub store_dir: Option<String>,
}

/// `[[site.origin]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// Its name in logs and metrics; by default the host, bucket or folder of its URL.
    pub name: String,
    /// Its URL.
    pub url: OriginUrl,
    /// Lower is asked first.
    pub priority: u32,
    /// The versions of HTTP that it is asked by.
    pub http_version: HttpVersion,
    /// PEM file of certificate authorities to trust beside, or instead of, the system's.
    pub ca_file: Option<PathBuf>,
    /// The proxy that it is asked through.
    pub proxy: OriginProxy,
    /// What is sent to an HTTP origin to be let in.
    pub login: Login,
    /// Whether that may be sent over plain http.
    pub exposure: Exposure,
    /// The certificate that is shown to an origin asked over https.
    pub identity: Option<CertificateFiles>,
    /// The public keys, `name:base64`, one of which must have signed what is a narinfo of this
    /// origin: its own, else those of the site. Checked to parse.
    pub trusted_public_keys: Vec<String>,
    /// What a narinfo of this origin without a good signature gets; none for that of the site.
    pub signatures: Option<Signatures>,
    /// For which paths it is asked, and when.
    pub turns: OriginTurns,
    /// `[site.origin.timeouts]`.
    pub timeouts: OriginTimeouts,
    /// Requests under way at once.
    pub connections_max: usize,
    /// Its share among the origins of its priority; 0: none, it is asked after those that share.
    pub weight: u32,
    /// What its word that there is no such object is worth.
    pub absence: AbsenceOf,
    /// Whether its outage makes an object absent.
    pub necessity: OriginNecessity,
    /// `[site.origin.breaker]`.
    pub breaker: BreakerSettings,
    /// `[site.origin.budget]`.
    pub budget: BudgetSettings,
    /// `[site.origin.prices]`.
    pub prices: Prices,
}

/// The versions of HTTP that an origin is asked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// What the origin chooses of HTTP/2 and HTTP/1.1 over TLS; HTTP/1.1 without TLS.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without TLS too.
    Http2,
}

/// What an origin's word that there is no such object is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsenceOf {
    /// The next origin may have it.
    Next,
    /// No origin behind this one has it: none is asked.
    Final,
}

/// Whether a site is of use without an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginNecessity {
    /// What it may have is not called absent while it fails.
    Required,
    /// While it fails, it counts as not having the object.
    Optional,
}

/// `[site.origin.breaker]`: when an origin is left alone, and how it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// What failures in a row come to until the origin is left alone; 0: it never is.
    pub failures: u32,
    /// The longest time between two looks at an origin that is left alone.
    pub open_max: Duration,
    /// An origin that was not asked for so long is probed; zero: never.
    pub probe_idle: Duration,
}

/// `[site.origin.budget]`: what may be asked beyond what is wanted, in percent of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Retries.
    pub retries_percent: u32,
    /// Hedges; 0: none.
    pub hedges_percent: u32,
}

/// `[site.origin.prices]`, in billionths of whatever currency is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prices {
    /// Of a thousand GET requests.
    pub thousand_gets: u64,
    /// Of a thousand HEAD requests.
    pub thousand_heads: u64,
    /// Of a GiB of bodies.
    pub gib: u64,
}

impl Origin {
    /// What a narinfo is marked with that came from here and was signed by `key`: the same as long
    /// as both are, whatever else the configuration says.
    pub fn trust_mark(&self, key: &str) -> u32 {
        let text = format!("{}\n{key}", self.url.place());
        u32::from_be_bytes(sha256(text.as_bytes()).first_chunk().copied().unwrap_or_default())
    }

    /// What its objects are known to come from, whatever its name and its place in the order.
    pub fn source_mark(&self) -> u32 {
        let place = self.url.place();
        u32::from_be_bytes(sha256(place.as_bytes()).first_chunk().copied().unwrap_or_default())
    }
}

/// The URL of an origin.
#[derive(Debug, Clone, PartialEq)]
pub enum OriginUrl {
    /// `s3://bucket?region=..&endpoint=..&profile=..`.
    S3(S3),
    /// `http://` or `https://`; a path prefix is kept, without a trailing `/`.
    Http(http::Uri),
    /// `file://`: a folder as `nix copy --to file://` writes it.
    File(PathBuf),
}

impl OriginUrl {
    /// The place of the objects, whatever the way to them.
    fn place(&self) -> String {
        match self {
            Self::S3(s3) => {
                let endpoint = s3.endpoint.as_deref().unwrap_or("");
                let bucket = format!("s3 {endpoint} {}", s3.bucket);
                if s3.prefix.is_empty() { bucket } else { format!("{bucket}/{}", s3.prefix) }
            }
            Self::Http(url) => {
                let authority = url.authority().map_or("", http::uri::Authority::as_str);
                format!("http {authority} {}", url.path().trim_end_matches('/'))
            }
            Self::File(folder) => format!("file {}", folder.display()),
        }
    }
}

/// An S3 bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// The bucket's name.
    pub bucket: String,
    /// The region that signatures name.
    pub region: String,
    /// `scheme://host[:port]` of another service than Amazon's, and the path that it lies below.
    pub endpoint: Option<String>,
    /// The prefix of the keys of its objects, without slashes at its ends; empty for none.
    pub prefix: String,
    /// The position of the bucket's name in URLs.
    pub addressing: S3Addressing,
    /// Whether `x-amz-request-payer: requester` is sent.
    pub requester_pays: bool,
    /// The source of the keys.
    pub credentials: S3Credentials,
}

/// The position of the bucket's name in URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Addressing {
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    VirtualHost,
}

/// The source of an S3 origin's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Credentials {
    /// The first that there is: `AWS_ACCESS_KEY_ID` and its companions, a web identity, the default
    /// profile, a container's endpoint, the instance's metadata.
    Usual,
    /// `AWS_ACCESS_KEY_ID` and its companions alone.
    Environment,
    /// A role taken on by the token of `AWS_WEB_IDENTITY_TOKEN_FILE`.
    WebIdentity,
    /// The endpoint that `AWS_CONTAINER_CREDENTIALS_FULL_URI` or its companion names.
    Container,
    /// The metadata endpoint of an EC2 instance (IMDSv2).
    Instance,
    /// A section of the shared credentials and config files.
    Profile(String),
    /// One value a file; read again whenever the origin refuses them.
    Files {
        /// File of the access key's id.
        access_key_id: PathBuf,
        /// File of the secret.
        secret_access_key: PathBuf,
        /// File of the session token.
        session_token: Option<PathBuf>,
    },
    /// Requests go unsigned: a public bucket.
    Anonymous,
}

/// `[site.origin.timeouts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginTimeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// From the request to the response's head.
    pub first_byte: Duration,
    /// Between two pieces of a body.
    pub between_bytes: Duration,
    /// Without a byte of a body that broke off, until its readers are given up.
    pub resume: Duration,
}
