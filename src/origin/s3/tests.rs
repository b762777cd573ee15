//! Tests of buckets: against a server that verifies signatures, and against scripted answers.

use super::super::testing::{
    Act, Scripted, ask, bench, found, head, key_files, origins, s3_origin, says, says_fault, site,
    whole, word,
};
use super::*;
use crate::config::S3Credentials;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use s3s::auth::{S3Auth, SecretKey, SimpleAuth};
use s3s::dto::{GetObjectInput, GetObjectOutput, StreamingBlob};
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A private bucket; each object holds its own key; `missing` is absent.
struct Echo;

#[async_trait::async_trait]
impl S3 for Echo {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let payer = request.headers.get("x-amz-request-payer");
        if request.credentials.is_none() || payer.is_none_or(|payer| payer != "requester") {
            return Err(s3_error!(AccessDenied));
        }
        if request.input.bucket != "bucket" {
            return Err(s3_error!(NoSuchBucket));
        }
        if request.input.key == "missing" {
            return Err(s3_error!(NoSuchKey));
        }
        let key = Bytes::from(request.input.key.into_bytes());
        let length = i64::try_from(key.len()).unwrap();
        let body = StreamingBlob::from(s3s::Body::from(key));
        Ok(S3Response::new(GetObjectOutput {
            body: Some(body),
            content_length: Some(length),
            ..GetObjectOutput::default()
        }))
    }
}

async fn verifying(auth: impl S3Auth) -> SocketAddr {
    let mut builder = S3ServiceBuilder::new(Echo);
    builder.set_auth(auth);
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service.clone());
            tokio::spawn(connection);
        }
    });
    address
}

async fn verifying_one_key() -> SocketAddr {
    verifying(SimpleAuth::from_single(ID, SecretKey::from(SECRET))).await
}

#[tokio::test]
async fn a_verifying_server_gives_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let keys = key_files(folder.path(), ID, SECRET);
    let origins = origins(vec![s3_origin(verifying_one_key().await, keys)]);
    for path in [
        "/nix-cache-info",
        "/nar/0000.nar.xz",
        "/realisations/sha256:abc!out.doi",
        "/a b+c%d",
        "/log/x@y=z&q,(1)*'~.drv",
        "/\u{e9}\u{1f600}",
        "/a//b",
        "/?list-type=2",
    ] {
        let response = found(origins.fetch(&ask(path)).await);
        assert_eq!(whole(response).await, &path.as_bytes()[1..], "{path}");
    }
    assert_eq!(word(&origins.fetch(&ask("/missing")).await), "absent");
    assert!(origins.health()[0].is_up);
    assert!(origins.probe().await.iter().all(|(_, result)| result.is_ok()));
}

#[tokio::test]
async fn wrong_keys_and_a_wrong_clock_are_never_absence() {
    let folder = tempfile::tempdir().unwrap();
    let address = verifying_one_key().await;
    for (id, secret, expected) in
        [(ID, "wrong", "SignatureDoesNotMatch"), ("AKIDOTHER", SECRET, "NotSignedUp")]
    {
        let origins = origins(vec![s3_origin(address, key_files(folder.path(), id, secret))]);
        let error = origins.fetch(&ask("/missing")).await.unwrap_err();
        let FetchError::Credentials { code, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(code, expected);
        assert!(origins.probe().await[0].1.is_err());
        assert!(!origins.health()[0].is_up);
    }
    let keys = key_files(folder.path(), ID, SECRET);
    let bench = bench(&site(vec![s3_origin(address, keys)]));
    bench.clock.advance(Duration::from_hours(24));
    // The server says what time it is: signatures are dated by that from then on.
    let corrections = bench.metrics.origin_clock_corrections.with_label_values(&["s3"]);
    for path in ["/x", "/y"] {
        assert_eq!(word(&bench.origins.fetch(&ask(path)).await), "found");
        assert_eq!(corrections.get(), 1);
    }
    assert!(bench.origins.health()[0].is_up);
    assert_eq!(word(&bench.origins.fetch(&ask("/missing")).await), "absent");
}

#[tokio::test]
async fn a_wrong_clock_that_nothing_corrects_is_told_and_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    let keys = || key_files(folder.path(), ID, SECRET);
    let silent = Scripted::always(says_fault(403, "RequestTimeTooSkewed")).await;
    let error = origins(vec![s3_origin(silent.address, keys())]).fetch(&ask("/x")).await;
    assert!(error.unwrap_err().to_string().contains("RequestTimeTooSkewed"));
    assert_eq!(silent.asked(), 1);
    // One that refuses whatever it is told is asked twice, not for ever.
    let body = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    let date = vec![("date", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned())];
    let stubborn = Scripted::always(Act::Answer(403, date, body)).await;
    let answer = origins(vec![s3_origin(stubborn.address, keys())]).fetch(&ask("/x")).await;
    assert_eq!((word(&answer), stubborn.asked()), ("credentials", 2));
}

#[tokio::test]
async fn an_expired_token_is_looked_for_again_once() {
    let folder = tempfile::tempdir().unwrap();
    let expired = says_fault(400, "ExpiredToken");
    let (home, renewed) = (folder.path().to_owned(), says(200, "here"));
    let mut asked = 0;
    let server = Scripted::start(move |_| {
        asked += 1;
        if asked > 1 {
            return renewed.clone();
        }
        key_files(&home, "AKIDRENEWED", SECRET);
        expired.clone()
    })
    .await;
    let keys = key_files(folder.path(), ID, SECRET);
    let origins = origins(vec![s3_origin(server.address, keys)]);
    assert_eq!(whole(found(origins.fetch(&ask("/x")).await)).await, b"here");
    assert!(server.heads()[1].contains("Credential=AKIDRENEWED/"));
    let lasting = Scripted::always(says_fault(400, "ExpiredToken")).await;
    let keys = key_files(folder.path(), ID, SECRET);
    let origins = self::origins(vec![s3_origin(lasting.address, keys)]);
    assert_eq!(word(&origins.fetch(&ask("/x")).await), "credentials");
    assert_eq!(lasting.asked(), 1, "the same keys were sent again");
}

#[tokio::test]
async fn rotated_key_files_serve_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let keys = key_files(folder.path(), ID, "old");
    let origins = origins(vec![s3_origin(verifying_one_key().await, keys)]);
    assert_eq!(word(&origins.fetch(&ask("/x")).await), "credentials");
    key_files(folder.path(), ID, SECRET);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    assert_eq!(word(&origins.fetch(&ask("/x")).await), "found");
    assert!(origins.health()[0].is_up);
}

#[tokio::test]
async fn anonymous_requests_go_unsigned() {
    let server = Scripted::always(says(200, "public")).await;
    let origins = origins(vec![s3_origin(server.address, S3Credentials::Anonymous)]);
    assert_eq!(whole(found(origins.fetch(&ask("/x")).await)).await, b"public");
    let head = &server.heads()[0];
    assert!(head.starts_with("GET /bucket/x HTTP/1.1\r\n"), "{head}");
    assert!(!head.contains("authorization") && !head.contains("x-amz-date"), "{head}");
    assert!(head.contains("x-amz-request-payer: requester\r\n"), "{head}");
}

#[tokio::test]
async fn missing_keys_send_nothing_and_say_what_is_missing() {
    let server = Scripted::always(says(200, "")).await;
    let folder = tempfile::tempdir().unwrap();
    let source = S3Credentials::Files {
        access_key_id: folder.path().join("none"),
        secret_access_key: folder.path().join("none"),
        session_token: None,
    };
    let origins = origins(vec![s3_origin(server.address, source)]);
    let error = origins.fetch(&ask("/x")).await.unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("none"), "{error}");
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn the_session_token_and_the_range_are_sent_and_the_range_is_unsigned() {
    let fields = vec![("content-range", "bytes 1-2/3".to_owned())];
    let server = Scripted::always(Act::Answer(206, fields, "bc")).await;
    let folder = tempfile::tempdir().unwrap();
    let mut keys = key_files(folder.path(), ID, SECRET);
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "TOKEN==\n").unwrap();
    if let S3Credentials::Files { session_token, .. } = &mut keys {
        *session_token = Some(token_file);
    }
    let origins = origins(vec![s3_origin(server.address, keys)]);
    let range = Some(super::super::RangeAsked { first: 1, last: None });
    let response = found(origins.fetch(&Ask { range, ..ask("/x") }).await);
    assert_eq!(whole(response).await, b"bc");
    let head = &server.heads()[0];
    for part in [
        "range: bytes=1-\r\n",
        "x-amz-security-token: TOKEN==\r\n",
        "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-request-payer;\
         x-amz-security-token,",
    ] {
        assert!(head.contains(part), "{part} is not in {head}");
    }
    assert_eq!(head.matches("host:").count(), 1);
}

#[tokio::test]
async fn the_table_of_refusals_over_the_wire_with_get_and_head() {
    for (status, code, expected) in [
        (404, "NoSuchKey", "absent"),
        (404, "NoSuchBucket", "credentials"),
        (410, "", "absent"),
        (403, "AccessDenied", "absent"),
        (403, "NoSuchKey", "absent"),
        (403, "SignatureDoesNotMatch", "credentials"),
        (403, "InvalidAccessKeyId", "credentials"),
        (403, "RequestTimeTooSkewed", "credentials"),
        (403, "", "status"),
        (400, "ExpiredToken", "credentials"),
        (400, "InvalidToken", "credentials"),
        (400, "AuthorizationHeaderMalformed", "credentials"),
        (400, "InvalidArgument", "status"),
        (401, "", "credentials"),
        (301, "PermanentRedirect", "protocol"),
        (429, "SlowDown", "status"),
    ] {
        for question in [ask("/x"), head("/x")] {
            let act = if code.is_empty() { says(status, "") } else { says_fault(status, code) };
            let server = Scripted::always(act).await;
            let origins = origins(vec![s3_origin(server.address, S3Credentials::Anonymous)]);
            let answer = origins.fetch(&question).await;
            assert_eq!(word(&answer), expected, "{status} {code} {:?}", question.method);
        }
    }
}

#[tokio::test]
async fn a_404_whose_document_breaks_off_is_believed_only_if_its_code_came() {
    for (document, expected) in [
        ("", "broken"),
        ("<Error><Code>NoSuch", "broken"),
        ("<Error><Code>NoSuchKey</Code>", "absent"),
    ] {
        let cut = format!("HTTP/1.1 404 x\r\ncontent-length: 200\r\n\r\n{document}");
        let server = Scripted::always(Act::RawAndClose(cut)).await;
        let origins = origins(vec![s3_origin(server.address, S3Credentials::Anonymous)]);
        assert_eq!(word(&origins.fetch(&ask("/x")).await), expected, "{document:?}");
    }
}

#[tokio::test]
async fn a_heads_404_is_believed_once_the_bucket_was_seen() {
    let server = Scripted::start(|head| {
        if head.contains("/here") { says(200, "x") } else { says_fault(404, "NoSuchKey") }
    })
    .await;
    let origins = origins(vec![s3_origin(server.address, S3Credentials::Anonymous)]);
    assert_eq!(word(&origins.fetch(&head("/gone")).await), "absent");
    assert_eq!(server.asked(), 2);
    assert!(server.heads()[1].contains("range: bytes=0-0\r\n"));
    assert_eq!(word(&origins.fetch(&head("/gone")).await), "absent");
    assert_eq!(server.asked(), 3);
}
