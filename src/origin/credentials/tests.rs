//! Tests of keys: each place that they come from, answered in this process; when they are looked
//! for, and what happens if that fails.

use super::super::key_endpoints::{self, KeyEndpoints};
use super::super::testing::{Act, Scripted, says};
use super::*;
use crate::client::{Client, ClientSettings, ProxyRule, TlsTrust};
use crate::clock::ManualClock;
use crate::config::{HttpVersion, Prices, S3Credentials};
use crate::metrics::Metrics;
use bytes::Bytes;
use reqsign_core::{Context, HttpSend, StaticEnv};
use std::path::Path;

/// What a ring is made with.
struct Setting<'a> {
    source: S3Credentials,
    home: &'a Path,
    variables: &'a [(&'a str, &'a str)],
}

struct Bench {
    ring: KeyRing,
    clock: ManualClock,
    metrics: Metrics,
}

impl Setting<'_> {
    fn bench(self) -> Bench {
        let settings = ClientSettings {
            connect: key_endpoints::CONNECT,
            first_byte: key_endpoints::ANSWER,
            requests_max: 1,
            version: HttpVersion::Auto,
        };
        let client =
            Client::new(&TlsTrust::load(None, None).unwrap(), settings, ProxyRule::default());
        self.asking(KeyEndpoints::new(client))
    }

    /// A ring that asks endpoints by `http`.
    fn asking(self, http: impl HttpSend) -> Bench {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = StaticEnv {
            home_dir: Some(self.home.to_path_buf()),
            envs: self.variables.iter().map(own).collect(),
        };
        let context = Context::new().with_env(environment).with_http_send(http);
        let (tasks, metrics) = (Tasks::new(), Metrics::new().unwrap());
        let source = KeySource::within(self.source, None, context, tasks.clone());
        let clock = ManualClock::starting_at(Timestamp::from(std::time::SystemTime::now()));
        let meters = OriginMeters::new(metrics.clone(), "o".into(), Prices::default());
        let (time, skew) = (Clock::Manual(clock.clone()), Arc::default());
        let ring = KeyRing::new("o".into(), source, time, skew, meters, tasks);
        Bench { ring, clock, metrics }
    }
}

impl Bench {
    async fn id(&self) -> String {
        self.ring.keys().await.unwrap().unwrap().access_key_id.clone()
    }

    async fn fault(&self) -> String {
        let error = self.ring.keys().await.unwrap_err();
        assert!(!error.may_retry());
        error.to_string()
    }

    /// Waits until no search for keys is under way.
    async fn until_looked(&self) {
        let looking = self.ring.0.moments.lock().looking.clone();
        if let Some(mut looking) = looking {
            let _ = looking.wait_for(Option::is_some).await;
        }
    }

    fn counted(&self, result: &str) -> u64 {
        self.metrics.origin_keys.with_label_values(&["o", result]).get()
    }

    /// What a service says of keys that expire in so many seconds.
    fn said(&self, id: &str, seconds: u64) -> String {
        said(id, self.clock.now().plus(Duration::from_secs(seconds)))
    }
}

/// No instance's metadata is asked.
const NO_INSTANCE: (&str, &str) = ("AWS_EC2_METADATA_DISABLED", "true");

/// What the endpoints of containers and instances say.
fn said(id: &str, expires: Timestamp) -> String {
    format!(
        "{{\"Code\":\"Success\",\"AccessKeyId\":\"{id}\",\"SecretAccessKey\":\"hush\",\
         \"Token\":\"hush-too\",\"Expiration\":\"{}\"}}",
        rfc3339(expires)
    )
}

fn rfc3339(at: Timestamp) -> String {
    let at: reqsign_core::time::Timestamp =
        reqsign_core::time::Timestamp::from_second(at.secs()).unwrap();
    at.format_rfc3339_zulu()
}

fn soon() -> Timestamp {
    Timestamp::from(std::time::SystemTime::now()).plus(Duration::from_hours(1))
}

fn answer(text: String) -> Act {
    says(200, String::leak(text))
}

fn setting<'a>(
    source: S3Credentials,
    home: &'a tempfile::TempDir,
    variables: &'a [(&'a str, &'a str)],
) -> Setting<'a> {
    Setting { source, home: home.path(), variables }
}

/// A folder with AWS's files.
fn home(credentials: &str, config: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
    std::fs::write(home.path().join(".aws/config"), config).unwrap();
    home
}

#[tokio::test]
async fn the_environment_comes_first_and_then_the_profile() {
    let home = home(
        "[default]\naws_access_key_id = D\naws_secret_access_key = S\n\
         [mirror]\naws_access_key_id = M\naws_secret_access_key = S\naws_session_token = T\n",
        "",
    );
    let both = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "S")];
    let usual = || S3Credentials::Usual;
    assert_eq!(setting(usual(), &home, &both).bench().id().await, "E");
    assert_eq!(setting(usual(), &home, &[]).bench().id().await, "D");
    let named = [("AWS_PROFILE", "mirror")];
    let bench = setting(usual(), &home, &named).bench();
    let keys = bench.ring.keys().await.unwrap().unwrap();
    assert_eq!((keys.access_key_id.as_str(), keys.session_token.as_deref()), ("M", Some("T")));
    let profile = S3Credentials::Profile("mirror".to_owned());
    assert_eq!(setting(profile, &home, &both).bench().id().await, "M");
    let empty = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
    assert_eq!(setting(usual(), &home, &empty).bench().id().await, "D");
    let alone = setting(S3Credentials::Environment, &home, &empty).bench();
    assert!(alone.fault().await.contains("AWS_ACCESS_KEY_ID"));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = [("AWS_SHARED_CREDENTIALS_FILE", "/none/credentials"), NO_INSTANCE];
    let text = setting(S3Credentials::Usual, &home, &elsewhere).bench().fault().await;
    let parts = ["AWS_ACCESS_KEY_ID", "`default`", "/none/credentials", "/.aws/config"];
    for part in parts.into_iter().chain([NO_INSTANCE.0]) {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    for (source, part) in [
        (S3Credentials::WebIdentity, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (S3Credentials::Container, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        (S3Credentials::Instance, NO_INSTANCE.0),
        (S3Credentials::Profile("x".to_owned()), "`x`"),
    ] {
        let text = setting(source, &home, &[NO_INSTANCE]).bench().fault().await;
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_key_files_are_read_again_but_not_all_the_time() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, value: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, value).unwrap();
        path
    };
    let source = S3Credentials::Files {
        access_key_id: file("id", "one\n"),
        secret_access_key: file("secret", "s"),
        session_token: None,
    };
    let bench = setting(source, &home, &[]).bench();
    let ring = &bench.ring;
    let one = ring.keys().await.unwrap().unwrap();
    assert_eq!(one.access_key_id, "one");
    assert!(ring.other_than(&one).await.is_none());
    file("id", "two\n");
    assert!(ring.other_than(&one).await.is_none(), "read again too soon");
    assert_eq!(bench.id().await, "one");
    tokio::time::advance(RELOAD_EVERY).await;
    let two = ring.other_than(&one).await.unwrap();
    assert_eq!(two.access_key_id, "two");
    assert_eq!(bench.id().await, "two");
    assert_eq!(ring.other_than(&one).await.unwrap().access_key_id, "two");
    assert!(!format!("{ring:?}").contains("two"));
    // One that changes is read while requests go on with what was read before.
    file("id", "three\n");
    tokio::time::advance(LOOK_EVERY).await;
    assert_eq!(bench.id().await, "two");
    bench.until_looked().await;
    assert_eq!(bench.id().await, "three");
    assert_eq!(bench.counted("found"), 3);
}

#[tokio::test]
async fn a_key_file_that_is_not_one_value_is_named() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("id");
    std::fs::write(&path, "a b\n").unwrap();
    let source = S3Credentials::Files {
        access_key_id: path.clone(),
        secret_access_key: path.clone(),
        session_token: None,
    };
    let text = setting(source, &home, &[]).bench().fault().await;
    assert!(text.contains(&path.display().to_string()), "{text}");
}

#[tokio::test]
async fn anonymous_needs_no_keys() {
    let home = tempfile::tempdir().unwrap();
    let bench = setting(S3Credentials::Anonymous, &home, &[]).bench();
    assert!(bench.ring.keys().await.unwrap().is_none());
}

#[tokio::test]
async fn a_container_is_asked_with_its_token_for_all_requests_at_once() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), "pod-token\n").unwrap();
    let server = Scripted::always(answer(said("C", soon()))).await;
    let uri = format!("http://{}/v1/credentials", server.address);
    let token = home.path().join("token").display().to_string();
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str()),
    ];
    for source in [S3Credentials::Usual, S3Credentials::Container] {
        let before = server.asked();
        let bench = setting(source, &home, &variables).bench();
        let (one, other) = tokio::join!(bench.id(), bench.id());
        assert_eq!((one.as_str(), other.as_str()), ("C", "C"));
        assert_eq!(server.asked(), before + 1);
        assert!(server.heads().last().unwrap().contains("authorization: pod-token"));
        assert_eq!((bench.counted("found"), bench.counted("failed")), (1, 0));
    }
    // Keys are asked for over plain http on this machine and its link alone.
    let far = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/credentials")];
    let text = setting(S3Credentials::Usual, &home, &far).bench().fault().await;
    assert!(text.contains("192.0.2.1 is asked for keys over plain http"), "{text}");
}

#[tokio::test]
async fn the_metadata_of_an_instance_is_asked_by_a_session() {
    let home = tempfile::tempdir().unwrap();
    let keys = said("I", soon());
    let server = Scripted::start(move |head| {
        let path = head.split(' ').nth(1).unwrap_or("");
        match path {
            "/latest/api/token" if head.starts_with("PUT ") => says(200, "session"),
            _ if !head.contains("x-aws-ec2-metadata-token: session") => says(401, ""),
            "/latest/meta-data/iam/security-credentials/" => says(200, "role"),
            "/latest/meta-data/iam/security-credentials/role" => answer(keys.clone()),
            _ => says(404, ""),
        }
    })
    .await;
    let endpoint = format!("http://{}", server.address);
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str())];
    for source in [S3Credentials::Usual, S3Credentials::Instance] {
        let bench = setting(source, &home, &variables).bench();
        assert_eq!(bench.id().await, "I");
        let keys = bench.ring.keys().await.unwrap().unwrap();
        assert_eq!(keys.session_token.as_deref(), Some("hush-too"));
    }
}

/// Sends to a server on loopback what was meant for AWS.
#[derive(Debug)]
struct Rerouted {
    endpoints: KeyEndpoints,
    to: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl HttpSend for Rerouted {
    async fn http_send(
        &self,
        mut request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        let meant = request.uri().to_string();
        self.asked.lock().push((meant, request.body().clone()));
        *request.uri_mut() = format!("http://{}/", self.to).parse().unwrap();
        self.endpoints.http_send(request).await
    }
}

#[tokio::test]
async fn a_role_is_taken_on_by_a_web_identity() {
    let at = soon();
    let xml = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>R</AccessKeyId><SecretAccessKey>hush</SecretAccessKey>\
         <SessionToken>hush-too</SessionToken><Expiration>{}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        rfc3339(at)
    );
    let server = Scripted::always(answer(xml)).await;
    let home = home(
        "",
        "[default]\nregion = eu-west-1\n[profile edge]\nrole_arn = arn:aws:iam::1:role/r\n\
         web_identity_token_file = ~/token\nregion = eu-central-1\nrole_session_name = edge-1\n\
         [profile chained]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = default\n",
    );
    let token = home.path().join("token");
    std::fs::write(&token, "web-token\n").unwrap();
    let token = token.display().to_string();
    let variables = [
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/v"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
        ("AWS_REGION", "us-west-2"),
    ];
    let asked = Arc::<Mutex<Vec<(String, Bytes)>>>::default();
    let rerouted = || {
        let settings = ClientSettings {
            connect: key_endpoints::CONNECT,
            first_byte: key_endpoints::ANSWER,
            requests_max: 1,
            version: HttpVersion::Auto,
        };
        let client =
            Client::new(&TlsTrust::load(None, None).unwrap(), settings, ProxyRule::default());
        let endpoints = KeyEndpoints::new(client);
        Rerouted { endpoints, to: server.address, asked: Arc::clone(&asked) }
    };
    let profile = || S3Credentials::Profile("edge".to_owned());
    for (source, variables, host, role) in [
        (S3Credentials::Usual, &variables[..], "sts.us-west-2.amazonaws.com", "role%2Fv"),
        (S3Credentials::WebIdentity, &variables[..], "sts.us-west-2.amazonaws.com", "role%2Fv"),
        (profile(), &[][..], "sts.eu-central-1.amazonaws.com", "role%2Fr"),
    ] {
        let bench = setting(source, &home, variables).asking(rerouted());
        assert_eq!(bench.id().await, "R");
        let (uri, body) = asked.lock().last().unwrap().clone();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(uri, format!("https://{host}/"));
        assert!(body.contains(role) && body.contains("WebIdentityToken=web-token"), "{body}");
    }
    assert!(asked.lock().last().unwrap().1.ends_with(b"RoleSessionName=edge-1"));
    let chained = S3Credentials::Profile("chained".to_owned());
    let text = setting(chained, &home, &[]).asking(rerouted()).fault().await;
    assert!(text.contains("web_identity_token_file"), "{text}");
    std::fs::remove_file(home.path().join("token")).unwrap();
    let text = setting(profile(), &home, &[]).asking(rerouted()).fault().await;
    assert!(text.contains("token file"), "{text}");
}

/// A container's endpoint that says what it is told to, and what asks it.
async fn container(home: &tempfile::TempDir) -> (Bench, Arc<Mutex<Act>>, Scripted) {
    let act = Arc::new(Mutex::new(says(500, "")));
    let said = Arc::clone(&act);
    let server = Scripted::start(move |_| said.lock().clone()).await;
    let uri = format!("http://{}/", server.address);
    let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str())];
    let bench = setting(S3Credentials::Container, home, &variables).bench();
    (bench, act, server)
}

#[tokio::test]
async fn keys_are_renewed_in_the_background_before_they_expire() {
    let home = tempfile::tempdir().unwrap();
    let (bench, act, server) = container(&home).await;
    *act.lock() = answer(bench.said("one", 3_600));
    assert_eq!(bench.id().await, "one");
    *act.lock() = answer(bench.said("two", 7_200));
    bench.clock.advance(Duration::from_mins(44));
    assert_eq!(bench.id().await, "one");
    bench.until_looked().await;
    assert_eq!(server.asked(), 1, "renewed too soon");
    bench.clock.advance(Duration::from_mins(7));
    assert_eq!(bench.id().await, "one", "a request has waited");
    bench.until_looked().await;
    assert_eq!((bench.id().await.as_str(), server.asked()), ("two", 2));
    assert_eq!(bench.counted("found"), 2);
    assert!(bench.ring.0.moments.lock().timer.is_some(), "nothing renews an idle edge's keys");
}

#[tokio::test]
async fn keys_that_cannot_be_renewed_serve_until_they_expire() {
    let home = tempfile::tempdir().unwrap();
    let (bench, act, server) = container(&home).await;
    *act.lock() = answer(bench.said("one", 3_600));
    assert_eq!(bench.id().await, "one");
    *act.lock() = says(500, "");
    bench.clock.advance(Duration::from_mins(55));
    assert_eq!(bench.id().await, "one");
    bench.until_looked().await;
    assert_eq!(bench.counted("failed"), 1);
    assert_eq!(bench.id().await, "one");
    bench.until_looked().await;
    assert_eq!(server.asked(), 2, "asked again at once");
    bench.clock.advance(Duration::from_mins(6));
    assert!(bench.fault().await.contains("500"));
    let asked = server.asked();
    assert!(bench.fault().await.contains("500"));
    assert_eq!(server.asked(), asked, "what failed a moment ago was asked again");
}

#[tokio::test(start_paused = true)]
async fn looking_for_keys_has_a_deadline() {
    #[derive(Debug)]
    struct Silent;

    impl HttpSend for Silent {
        async fn http_send(
            &self,
            _: http::Request<Bytes>,
        ) -> reqsign_core::Result<http::Response<Bytes>> {
            std::future::pending().await
        }
    }

    let home = tempfile::tempdir().unwrap();
    let bench = setting(S3Credentials::Instance, &home, &[]).asking(Silent);
    assert!(bench.fault().await.contains("no source answered within 20 s"));
}

#[tokio::test(start_paused = true)]
async fn a_timer_renews_keys_that_nobody_asks_for() {
    #[derive(Debug)]
    struct Counting(Arc<Mutex<usize>>);

    impl HttpSend for Counting {
        async fn http_send(
            &self,
            _: http::Request<Bytes>,
        ) -> reqsign_core::Result<http::Response<Bytes>> {
            *self.0.lock() += 1;
            Ok(http::Response::new(said("T", soon()).into()))
        }
    }

    let home = tempfile::tempdir().unwrap();
    let asked = Arc::<Mutex<usize>>::default();
    let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/")];
    let bench =
        setting(S3Credentials::Container, &home, &variables).asking(Counting(Arc::clone(&asked)));
    assert_eq!(bench.id().await, "T");
    assert_eq!(*asked.lock(), 1);
    tokio::time::sleep(Duration::from_mins(52)).await;
    bench.until_looked().await;
    assert_eq!(*asked.lock(), 2);
    drop(bench);
    tokio::time::sleep(Duration::from_hours(10)).await;
    assert_eq!(*asked.lock(), 2, "the timer outlives its ring");
}
