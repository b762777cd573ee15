//! Tests of plain upstreams: what is sent, what each answer means, which redirects are followed.

use super::super::exchange::{Method, OriginAnswer, RangeAsked, Retries};
use super::super::testing::{
    Act, Scripted, ask, bench, found, head, http_origin, origin, origins, says, says_fault, site,
    whole, word,
};
use super::super::{ForwardRequest, OriginUrl, exchange};
use super::resolve;
use crate::config::{CertificateFiles, Login, Origin, Site};
use bytes::Bytes;
use http::{HeaderValue, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

#[tokio::test]
async fn the_request_is_built_from_the_question_alone() {
    let server = Scripted::always(Act::Answer(
        206,
        vec![("content-range", "bytes 2-4/9".to_owned())],
        "abc",
    ))
    .await;
    let url = format!("http://{}/prefix", server.address).parse().unwrap();
    let origins = origins(vec![origin("one", OriginUrl::Http(url))]);
    let question = exchange::Ask {
        query: Some("a=b%20c".into()),
        range: Some(RangeAsked { first: 2, last: Some(4) }),
        if_match: Some(HeaderValue::from_static("\"tag\"")),
        cdn_loop: Some(HeaderValue::from_static("fra, ams")),
        ..ask("/nar/a b+c!.nar")
    };
    let response = found(origins.fetch(&question).await);
    assert_eq!((response.status.as_u16(), response.content_length), (206, Some(3)));
    assert_eq!(whole(response).await, b"abc");
    let heads = server.heads();
    let mut lines = heads[0].trim_end().lines();
    assert_eq!(lines.next(), Some("GET /prefix/nar/a%20b%2Bc%21.nar?a=b%20c HTTP/1.1"));
    let mut fields: Vec<&str> = lines.collect();
    fields.sort_unstable();
    let host = format!("host: {}", server.address);
    let agent = format!("user-agent: narthex/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        fields,
        [
            "accept: */*",
            "cdn-loop: fra, ams",
            host.as_str(),
            "if-match: \"tag\"",
            "range: bytes=2-4",
            agent.as_str(),
            "via: 1.1 narthex",
        ]
    );
}

#[tokio::test]
async fn a_forbidden_object_is_absent_only_in_the_words_of_s3() {
    for (act, expected) in [
        (says_fault(403, "AccessDenied"), "absent"),
        (says_fault(403, "NoSuchKey"), "absent"),
        (says_fault(403, "SignatureDoesNotMatch"), "status"),
        (says(403, "<html>blocked</html>"), "status"),
        (says(403, ""), "status"),
    ] {
        for question in [ask("/x"), head("/x")] {
            let server = Scripted::always(act.clone()).await;
            let answer = origins(vec![http_origin("one", &server)]).fetch(&question).await;
            assert_eq!(word(&answer), expected, "{act:?}");
            let heads = server.heads();
            let methods: Vec<&str> =
                heads.iter().filter_map(|head| head.split(' ').next()).collect();
            match question.method {
                Method::Get => assert_eq!(methods, ["GET"]),
                Method::Head => assert_eq!(methods, ["HEAD", "GET"]),
            }
        }
    }
}

#[tokio::test]
async fn revalidation_and_continuation() {
    let tag = || Some(HeaderValue::from_static("\"a\""));
    let held = exchange::Ask { if_none_match: tag(), ..ask("/x") };
    let fields = vec![("etag", "\"a\"".to_owned()), ("age", "7".to_owned())];
    let server = Scripted::always(Act::Answer(304, fields, "")).await;
    let bench = bench(&site(vec![http_origin("one", &server)]));
    let Ok(OriginAnswer::NotModified { headers, origin, request_time, response_time }) =
        bench.origins.fetch(&held).await
    else {
        panic!("not a 304");
    };
    assert_eq!((headers[header::AGE].as_bytes(), origin), (&b"7"[..], 0));
    assert_eq!((request_time, response_time.wall), (bench.clock.now(), bench.clock.now()));
    assert_eq!(word(&bench.origins.fetch(&ask("/x")).await), "protocol");

    for status in [412, 416] {
        let server = Scripted::always(says(status, "")).await;
        let part = exchange::Ask {
            range: Some(RangeAsked { first: 2, last: None }),
            if_match: tag(),
            ..ask("/x")
        };
        let origins = origins(vec![http_origin("one", &server)]);
        assert_eq!(word(&origins.fetch(&part).await), "changed");
        assert_eq!(word(&origins.fetch(&ask("/x")).await), "status");
    }
}

#[tokio::test]
async fn a_part_that_was_not_asked_for_is_refused() {
    for range in ["bytes 0-2/9", "bytes 2-5/9", "bytes 2-3/9", ""] {
        let fields = vec![("content-range", range.to_owned())];
        let server = Scripted::always(Act::Answer(206, fields, "abc")).await;
        let question =
            exchange::Ask { range: Some(RangeAsked { first: 2, last: Some(4) }), ..ask("/x") };
        let answer = origins(vec![http_origin("one", &server)]).fetch(&question).await;
        assert_eq!(word(&answer), "protocol", "{range}");
    }
}

#[tokio::test]
async fn head_gives_the_length_and_no_body() {
    let server = Scripted::always(says(200, "body")).await;
    let origins = origins(vec![http_origin("one", &server)]);
    let response = found(origins.fetch(&head("/x")).await);
    assert_eq!(response.content_length, Some(4));
    assert_eq!(whole(response).await, b"");
    assert_eq!(whole(found(origins.fetch(&ask("/x")).await)).await, b"body");
    assert_eq!(server.connections(), 1);
}

fn redirecting(site: Site, to: &[&str]) -> Site {
    Site { follow_redirects_to: to.iter().map(|host| (*host).to_owned()).collect(), ..site }
}

#[tokio::test]
async fn redirects_lead_only_to_the_own_host_and_to_listed_ones() {
    let target = Scripted::always(says(200, "moved")).await;
    let port = target.address.port();
    let location = format!("http://localhost:{port}/there?x=1#part");
    let server = Scripted::always(Act::Answer(302, vec![("location", location)], "")).await;
    let plain = site(vec![http_origin("one", &server)]);
    let refused = bench(&plain).origins.fetch(&ask("/x")).await;
    assert!(refused.unwrap_err().to_string().contains("follow_redirects_to"));
    assert_eq!(target.asked(), 0);

    for listed in ["localhost".to_owned(), format!("localhost:{port}")] {
        let site = redirecting(plain.clone(), &[&listed]);
        let response = found(bench(&site).origins.fetch(&ask("/x")).await);
        assert_eq!(whole(response).await, b"moved");
    }
    assert!(target.heads()[0].starts_with("GET /there?x=1 HTTP/1.1\r\n"));

    // UPSTREAMS.md row 21.
    let location = format!("http://{}/own", target.address);
    let server = Scripted::always(Act::Answer(302, vec![("location", location)], "")).await;
    let response = found(origins(vec![http_origin("one", &server)]).fetch(&ask("/x")).await);
    assert_eq!(whole(response).await, b"moved");
}

#[tokio::test]
async fn a_circle_of_redirects_ends() {
    let fields = vec![("location", "/again".to_owned())];
    let server = Scripted::always(Act::Answer(301, fields, "")).await;
    let site = redirecting(site(vec![http_origin("one", &server)]), &["127.0.0.1"]);
    assert_eq!(word(&bench(&site).origins.fetch(&ask("/x")).await), "protocol");
    assert_eq!(server.asked(), 6);
}

#[tokio::test]
async fn odd_redirects_are_refused() {
    for location in ["http://user@127.0.0.1/x", "ftp://127.0.0.1/x", "", "http://"] {
        let fields = vec![("location", location.to_owned())];
        let server = Scripted::always(Act::Answer(302, fields, "")).await;
        let site = redirecting(site(vec![http_origin("one", &server)]), &["other"]);
        assert_eq!(word(&bench(&site).origins.fetch(&ask("/x")).await), "protocol", "{location}");
        assert_eq!(server.asked(), 1);
    }
}

#[test]
fn locations_are_resolved() {
    let from = Uri::from_static("https://a.example:8/b/c?d");
    for (location, expected) in [
        ("https://o.example/x#y", "https://o.example/x"),
        ("//o.example/x", "https://o.example/x"),
        ("/x?y", "https://a.example:8/x?y"),
        ("x", "https://a.example:8/b/x"),
        ("../x", "https://a.example:8/x"),
        ("x?to=http://y", "https://a.example:8/b/x?to=http://y"),
        ("https://o.example/a'b?c=%2f", "https://o.example/a'b?c=%2f"),
        ("/x?to=http://y", "https://a.example:8/x?to=http://y"),
    ] {
        assert_eq!(resolve(&from, location), expected);
    }
}

/// An upstream that wants the token in `folder`, over plain http.
fn with_token(server: &Scripted, folder: &tempfile::TempDir, token: &str) -> Origin {
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, token).unwrap();
    Origin { login: Login::Bearer { token_file }, ..http_origin("private", server) }
}

#[tokio::test]
async fn a_refusal_of_an_upstream_that_lets_the_edge_in_is_never_absence() {
    let folder = tempfile::tempdir().unwrap();
    for act in [says(401, ""), says(403, ""), says_fault(403, "NoSuchKey"), says_fault(403, "X")] {
        for question in [ask("/x"), head("/x")] {
            let server = Scripted::always(act.clone()).await;
            let origins = origins(vec![with_token(&server, &folder, "hush")]);
            let error = origins.fetch(&question).await.unwrap_err();
            let text = format!("{error} {:?}", origins.health());
            assert!(text.contains("private") && text.contains("the token in"), "{text}");
            assert!(!text.contains("hush"), "{text}");
            assert_eq!(server.asked(), 1);
            assert!(!origins.health()[0].is_up);
            assert!(server.heads()[0].contains("authorization: Bearer hush\r\n"));
        }
    }
}

#[tokio::test]
async fn a_token_that_was_mended_serves_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let server = Scripted::start(move |head| {
        if head.contains("Bearer new") {
            return says(200, "here");
        }
        std::fs::write(&file, "new").unwrap();
        says(401, "")
    })
    .await;
    let origins = origins(vec![with_token(&server, &folder, "old")]);
    assert_eq!(whole(found(origins.fetch(&ask("/x")).await)).await, b"here");
    assert_eq!(server.asked(), 2);
    assert!(origins.health()[0].is_up);
}

#[tokio::test]
async fn what_lets_the_edge_in_goes_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = Scripted::always(says(200, "here")).await;
    let target = format!("http://{}/y", elsewhere.address);
    let server = Scripted::start(move |head| {
        let location = if head.starts_with("GET /x ") { "/z" } else { &target };
        Act::Answer(302, vec![("location", location.to_owned())], "")
    })
    .await;
    let listed = vec![elsewhere.address.to_string(), server.address.to_string()];
    let origins = vec![with_token(&server, &folder, "hush")];
    let site = Site { follow_redirects_to: listed, ..site(origins) };
    let origins = bench(&site).origins;
    assert_eq!(whole(found(origins.fetch(&ask("/x")).await)).await, b"here");
    assert!(server.heads().iter().all(|head| head.contains("Bearer hush")));
    assert_eq!((server.asked(), elsewhere.asked()), (2, 1));
    assert!(!elsewhere.heads()[0].contains("authorization"));
}

#[tokio::test]
async fn a_clients_request_is_let_in_where_it_only_reads() {
    let folder = tempfile::tempdir().unwrap();
    let server = Scripted::start(|head| {
        if head.contains("/refused") { says(403, "no") } else { says(200, "here") }
    })
    .await;
    let origins = origins(vec![with_token(&server, &folder, "hush")]);
    let forward = |method: http::Method, path: &str, headers: http::HeaderMap| ForwardRequest {
        method,
        path: path.into(),
        query: None,
        headers,
        body: None,
        interim: None,
        only: None,
        retries: Retries::Usual,
    };
    let own = [(header::AUTHORIZATION, HeaderValue::from_static("Basic own"))];
    for (method, headers, sent) in [
        (http::Method::GET, http::HeaderMap::new(), Some("Bearer hush")),
        (http::Method::GET, http::HeaderMap::from_iter(own), Some("Basic own")),
        (http::Method::DELETE, http::HeaderMap::new(), None),
    ] {
        let request = forward(method, "/x", headers);
        assert_eq!(origins.forward(request).await.unwrap().status, 200);
        let head = server.heads().pop().unwrap();
        let line = head.lines().find_map(|line| line.strip_prefix("authorization: "));
        assert_eq!(line, sent, "{head}");
    }
    let refused = forward(http::Method::GET, "/refused", http::HeaderMap::new());
    let error = origins.forward(refused).await.unwrap_err();
    assert!(error.to_string().contains("the token in"), "{error}");
    let refused = forward(http::Method::DELETE, "/refused", http::HeaderMap::new());
    assert_eq!(origins.forward(refused).await.unwrap().status, 403);
}

/// FAULTS.md G1.
#[tokio::test]
async fn a_refusal_is_an_answer_to_the_probe_of_a_generic_site_alone() {
    let folder = tempfile::tempdir().unwrap();
    for status in [401, 403] {
        let server = Scripted::always(says(status, "")).await;
        let private = || vec![with_token(&server, &folder, "hush")];
        let generic = Site { caching: Some(Arc::default()), ..site(private()) };
        let origins = bench(&generic).origins;
        assert!(origins.probe().await[0].1.is_ok(), "{status}");
        assert!(origins.health()[0].is_up);
        assert!(server.heads()[0].starts_with("HEAD / "));
        let binary_cache = bench(&site(private())).origins;
        assert!(binary_cache.probe().await[0].1.is_err());
        assert!(!binary_cache.health()[0].is_up);
    }
}

/// A TLS server for `localhost` that may be shown a certificate that `edge` has signed. It
/// redirects a request for `/x` to `away`, and answers any other whether it was shown one.
async fn tls_server(edge: &rcgen::Certificate, away: Option<SocketAddr>) -> (SocketAddr, String) {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(edge.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let is_shown = stream.get_ref().1.peer_certificates().is_some();
            let answer = service_fn(move |request: http::Request<Incoming>| async move {
                let mut response = http::Response::new(Full::<Bytes>::from(is_shown.to_string()));
                if let Some(away) = away.filter(|_| request.uri().path() == "/x") {
                    *response.status_mut() = http::StatusCode::FOUND;
                    let location = format!("https://localhost:{}/y", away.port());
                    response.headers_mut().insert(header::LOCATION, location.parse().unwrap());
                }
                Ok::<_, Infallible>(response)
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(serving);
        }
    });
    (address, issued.cert.pem())
}

#[tokio::test]
async fn a_certificate_is_shown_to_the_origin_alone() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let edge = rcgen::generate_simple_self_signed(vec!["edge".to_owned()]).unwrap();
    let (elsewhere, other_pem) = tls_server(&edge.cert, None).await;
    let (home, own_pem) = tls_server(&edge.cert, Some(elsewhere)).await;
    let identity = CertificateFiles {
        certificate: write("client.pem", edge.cert.pem()),
        key: write("client-key.pem", edge.signing_key.serialize_pem()),
    };
    let url = format!("https://localhost:{}", home.port()).parse().unwrap();
    let shown = Origin {
        ca_file: Some(write("ca.pem", own_pem + &other_pem)),
        identity: Some(identity),
        ..origin("private", OriginUrl::Http(url))
    };
    for (origin, expected) in [
        (shown.clone(), ["true", "false"]),
        (Origin { identity: None, ..shown }, ["false", "false"]),
    ] {
        let listed = vec![format!("localhost:{}", elsewhere.port())];
        let site = Site { follow_redirects_to: listed, ..site(vec![origin]) };
        let origins = bench(&site).origins;
        for (path, expected) in ["/own", "/x"].into_iter().zip(expected) {
            let body = whole(found(origins.fetch(&ask(path)).await)).await;
            assert_eq!(body, expected.as_bytes(), "{path}");
        }
    }
}
