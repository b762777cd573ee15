//! A private S3 origin in this process: `s3s` on a loopback port, refusing what is not signed.
//! Lives until dropped or until the tasks it was started on drain. Serves `narthex demo` and the
//! integration tests.

use super::s3_bucket::Bucket;
use crate::tasks::Tasks;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Error, S3ErrorCode, S3Result};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections served at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 1024;

/// From the first byte of a request to the end of its head.
const REQUEST_HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Wait after an accept that failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// How long answers under way may go on after the stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// What an origin is started with.
#[derive(Debug, Clone)]
pub struct S3OriginSettings {
    /// The only bucket.
    pub bucket: String,
    /// The only key id that is accepted in signatures.
    pub access_key_id: String,
    /// The secret that belongs to it.
    pub secret_access_key: String,
    /// Wait before each answer, as a far-away origin would.
    pub first_byte_delay: Duration,
    /// Bytes a second of each body; HTTP/1.1, so also of each connection. `None`: no limit.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// A running private S3 origin, path-style, on 127.0.0.1. Dropping it stops it.
#[derive(Debug)]
pub struct DemoS3Origin {
    address: SocketAddr,
    bucket: Bucket,
    counts: Arc<S3OriginCounts>,
    _stop: DropGuard,
}

/// What reached the origin, refused requests included.
#[derive(Debug, Default)]
struct S3OriginCounts {
    requests: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
}

/// Knows the one key; another id is `InvalidAccessKeyId`, as Amazon answers.
struct OneKey {
    access_key_id: String,
    secret_access_key: SecretKey,
}

impl S3OriginSettings {
    /// An origin for `bucket` as quick as it can be.
    pub fn new(bucket: &str, access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            bucket: bucket.to_owned(),
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            first_byte_delay: Duration::ZERO,
            bytes_per_second: None,
        }
    }
}

impl DemoS3Origin {
    /// Starts an empty bucket on a free port of 127.0.0.1. Fails if none can be bound.
    pub async fn start(settings: S3OriginSettings, tasks: &Tasks) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let bucket =
            Bucket::new(settings.bucket, settings.first_byte_delay, settings.bytes_per_second);
        let mut builder = S3ServiceBuilder::new(bucket.clone());
        builder.set_auth(OneKey {
            access_key_id: settings.access_key_id,
            secret_access_key: SecretKey::from(settings.secret_access_key),
        });
        let counts = Arc::new(S3OriginCounts::default());
        let stop = tasks.stopping().child_token();
        let doors = Doors {
            service: builder.build(),
            counts: Arc::clone(&counts),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn("demo origin", doors.accept(listener));
        Ok(Self { address, bucket, counts, _stop: stop.drop_guard() })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://address`, for the `endpoint` of an `s3://` URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stores `bytes` under `key` (no leading `/`), in place of what was there.
    pub fn put(&self, key: &str, bytes: Bytes, content_type: &str) {
        self.bucket.put(key, bytes, content_type);
    }

    /// Forgets `key`; true when it was there.
    pub fn remove(&self, key: &str) -> bool {
        self.bucket.remove(key)
    }

    /// Requests that arrived, refused ones included.
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Requests answered 403: unsigned, or signed wrongly.
    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// Connections accepted.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Requests for `key` that passed the signature check.
    pub fn requests_for(&self, key: &str) -> u64 {
        self.bucket.requests_for(key)
    }

    /// Requests that passed the signature check, by key.
    pub fn requests_by_key(&self) -> HashMap<String, u64> {
        self.bucket.requests_by_key()
    }

    /// Body bytes of objects sent.
    pub fn bytes_sent(&self) -> u64 {
        self.bucket.bytes_sent()
    }
}

#[async_trait::async_trait]
impl S3Auth for OneKey {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key_id {
            return Ok(self.secret_access_key.clone());
        }
        Err(S3Error::with_message(
            S3ErrorCode::InvalidAccessKeyId,
            "The AWS access key Id you provided does not exist in our records.",
        ))
    }
}

/// The listener's task and those of its connections.
#[derive(Clone)]
struct Doors {
    service: S3Service,
    counts: Arc<S3OriginCounts>,
    stop: CancellationToken,
    tasks: Tasks,
}

impl Doors {
    /// Accepts until the stop.
    async fn accept(self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = async {
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
                let Ok((stream, _)) = listener.accept().await else {
                    // The client hung up, or there are no file descriptors left: not at once.
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                };
                self.counts.connections.fetch_add(1, Ordering::Relaxed);
                let doors = self.clone();
                self.tasks.spawn("demo origin connection", async move {
                    doors.serve(stream).await;
                    drop(permit);
                });
            }
        };
        self.stop.run_until_cancelled(accepting).await;
    }

    /// Serves one connection to its end; after the stop only what is under way, for a moment.
    async fn serve(self, stream: TcpStream) {
        // Without it the edge's small requests wait for delayed acknowledgements.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.answer(request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_HEAD_DEADLINE)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // How a client's connection ends is of no interest here.
            _ = connection.as_mut() => return,
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = tokio::time::timeout(STOP_GRACE, connection).await;
    }

    async fn answer(
        &self,
        request: http::Request<Incoming>,
    ) -> Result<s3s::HttpResponse, s3s::HttpError> {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let response = Service::call(&self.service, request).await;
        if response.as_ref().is_ok_and(|r| r.status() == http::StatusCode::FORBIDDEN) {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        response
    }
}

#[cfg(test)]
pub(in crate::cli::demo) mod tests {
    use super::*;
    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{
        PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign,
    };
    use aws_sigv4::sign::v4;
    use http::{HeaderMap, StatusCode};
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use hyper_util::client::legacy::connect::HttpConnector;
    use hyper_util::rt::TokioExecutor;

    const BODY: &[u8] = b"StorePath: /nix/store/demo\n";

    struct Scene {
        origin: DemoS3Origin,
        client: Client<HttpConnector, Empty<Bytes>>,
        tasks: Tasks,
    }

    struct Said {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    }

    impl Scene {
        async fn new() -> Self {
            let tasks = Tasks::new();
            let settings = S3OriginSettings::new("cache", "AKIDDEMO", "secret");
            let origin = DemoS3Origin::start(settings, &tasks).await.unwrap();
            origin.put("a.narinfo", Bytes::from_static(BODY), "text/x-nix-narinfo");
            let client = Client::builder(TokioExecutor::new()).build_http();
            Self { origin, client, tasks }
        }

        async fn ask(&self, method: &str, path: &str, key: Option<(&str, &str)>) -> Said {
            self.ask_with(method, path, key, &[]).await
        }

        async fn signed(&self, path: &str, fields: &[(&str, &str)]) -> Said {
            self.ask_with("GET", path, Some(("AKIDDEMO", "secret")), fields).await
        }

        async fn ask_with(
            &self,
            method: &str,
            path: &str,
            key: Option<(&str, &str)>,
            fields: &[(&str, &str)],
        ) -> Said {
            let uri = format!("{}{path}", self.origin.endpoint());
            let mut request = http::Request::builder().method(method).uri(&uri);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let mut request = request.body(Empty::<Bytes>::new()).unwrap();
            if let Some((id, secret)) = key {
                signature(method, &uri, id, secret).apply_to_request_http1x(&mut request);
            }
            let (head, body) = self.client.request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Said { status: head.status, headers: head.headers, body }
        }
    }

    /// What makes a request one that the origin trusts.
    pub(in crate::cli::demo) fn signature(
        method: &str,
        uri: &str,
        id: &str,
        secret: &str,
    ) -> aws_sigv4::http_request::SigningInstructions {
        let identity = Credentials::new(id, secret, None, None, "test").into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("s3")
            .time(std::time::SystemTime::now())
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let request =
            SignableRequest::new(method, uri, std::iter::empty(), SignableBody::Bytes(&[]))
                .unwrap();
        sign(request, &parameters).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn it_refuses_whoever_does_not_sign_or_signs_wrongly() {
        let scene = Scene::new().await;
        for (key, code) in [
            (None, "<Code>AccessDenied</Code>"),
            (Some(("AKIDDEMO", "guess")), "<Code>SignatureDoesNotMatch</Code>"),
            (Some(("AKIDOTHER", "secret")), "<Code>InvalidAccessKeyId</Code>"),
        ] {
            let said = scene.ask("GET", "/cache/a.narinfo", key).await;
            let text = String::from_utf8_lossy(&said.body);
            assert_eq!(said.status, StatusCode::FORBIDDEN, "{text}");
            assert!(text.contains(code), "{text}");
        }
        assert_eq!((scene.origin.requests(), scene.origin.refused()), (3, 3));
        assert_eq!(scene.origin.requests_for("a.narinfo"), 0);
        assert_eq!(scene.origin.bytes_sent(), 0);
    }

    #[tokio::test]
    async fn a_signed_request_gets_the_object_with_its_validators() {
        let scene = Scene::new().await;
        let said = scene.signed("/cache/a.narinfo", &[]).await;
        assert_eq!((said.status, &*said.body), (StatusCode::OK, BODY));
        assert_eq!(said.headers["content-type"], "text/x-nix-narinfo");
        assert_eq!(said.headers["content-length"], BODY.len().to_string());
        assert_eq!(said.headers["accept-ranges"], "bytes");
        let tag = said.headers["etag"].to_str().unwrap();
        assert_eq!(tag.len(), 34);
        assert!(said.headers.contains_key("last-modified"));
        let head = scene.ask("HEAD", "/cache/a.narinfo", Some(("AKIDDEMO", "secret"))).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        assert_eq!(head.headers["content-length"], BODY.len().to_string());
        assert_eq!(head.headers["etag"], tag);
        assert_eq!(scene.origin.requests_for("a.narinfo"), 2);
        assert_eq!(scene.origin.bytes_sent(), BODY.len() as u64);
    }

    #[tokio::test]
    async fn ranges_are_cut_and_impossible_ones_refused() {
        let scene = Scene::new().await;
        let length = BODY.len();
        let last = length - 1;
        for (range, bytes, content_range) in [
            ("bytes=5-9", &BODY[5..10], format!("bytes 5-9/{length}")),
            ("bytes=5-", &BODY[5..], format!("bytes 5-{last}/{length}")),
            ("bytes=-4", &BODY[length - 4..], format!("bytes {}-{last}/{length}", length - 4)),
        ] {
            let said = scene.signed("/cache/a.narinfo", &[("range", range)]).await;
            assert_eq!((said.status, &*said.body), (StatusCode::PARTIAL_CONTENT, bytes));
            assert_eq!(said.headers["content-range"], content_range);
        }
        let said = scene.signed("/cache/a.narinfo", &[("range", "bytes=900-")]).await;
        assert_eq!(said.status, StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(said.headers["content-range"], format!("bytes */{length}"));
    }

    #[tokio::test]
    async fn conditions_are_judged() {
        let scene = Scene::new().await;
        let first = scene.signed("/cache/a.narinfo", &[]).await;
        let tag = first.headers["etag"].to_str().unwrap();
        let date = first.headers["last-modified"].to_str().unwrap();
        for (name, value, status) in [
            ("if-none-match", tag, StatusCode::NOT_MODIFIED),
            ("if-none-match", "\"another\"", StatusCode::OK),
            ("if-match", tag, StatusCode::OK),
            ("if-match", "\"another\"", StatusCode::PRECONDITION_FAILED),
            ("if-modified-since", date, StatusCode::NOT_MODIFIED),
            ("if-unmodified-since", date, StatusCode::OK),
            (
                "if-unmodified-since",
                "Thu, 01 Jan 1970 00:00:00 GMT",
                StatusCode::PRECONDITION_FAILED,
            ),
        ] {
            let said = scene.signed("/cache/a.narinfo", &[(name, value)]).await;
            assert_eq!(said.status, status, "{name}: {value}");
            if status == StatusCode::NOT_MODIFIED {
                assert_eq!((said.body.len(), &said.headers["etag"]), (0, &first.headers["etag"]));
            }
        }
        // One connection did for all of it.
        assert_eq!(scene.origin.connections(), 1);
    }

    #[tokio::test]
    async fn objects_come_change_and_go() {
        let scene = Scene::new().await;
        let said = scene.signed("/cache/b.ls", &[]).await;
        assert_eq!(said.status, StatusCode::NOT_FOUND);
        assert!(String::from_utf8_lossy(&said.body).contains("<Code>NoSuchKey</Code>"));
        scene.origin.put("b.ls", Bytes::from_static(b"{}"), "application/json");
        assert_eq!(&*scene.signed("/cache/b.ls", &[]).await.body, b"{}");
        assert!(scene.origin.remove("b.ls"));
        assert!(!scene.origin.remove("b.ls"));
        assert_eq!(scene.signed("/cache/b.ls", &[]).await.status, StatusCode::NOT_FOUND);
        assert_eq!(scene.origin.requests_by_key().get("b.ls"), Some(&3));
        let said = scene.signed("/other/a.narinfo", &[]).await;
        assert!(String::from_utf8_lossy(&said.body).contains("<Code>NoSuchBucket</Code>"));
    }

    #[tokio::test]
    async fn a_listing_goes_on_where_it_stopped() {
        let scene = Scene::new().await;
        scene.origin.put("b.narinfo", Bytes::new(), "text/x-nix-narinfo");
        let said = scene.signed("/cache?list-type=2&max-keys=1", &[]).await;
        let text = String::from_utf8_lossy(&said.body);
        assert!(text.contains("<Key>a.narinfo</Key>"), "{text}");
        assert!(text.contains("<IsTruncated>true</IsTruncated>"), "{text}");
        let said = scene.signed("/cache?list-type=2&start-after=a.narinfo", &[]).await;
        let text = String::from_utf8_lossy(&said.body);
        assert!(!text.contains("a.narinfo</Key>"), "{text}");
        assert!(text.contains("<Key>b.narinfo</Key>"), "{text}");
    }

    #[tokio::test]
    async fn a_dropped_origin_stops() {
        let scene = Scene::new().await;
        assert_eq!(scene.signed("/cache/a.narinfo", &[]).await.status, StatusCode::OK);
        let address = scene.origin.address();
        drop((scene.origin, scene.client));
        assert!(scene.tasks.drain(Duration::from_secs(30)).await);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
