//! Tests of plain upstreams: what is sent, what each answer means, where redirects may lead.

use super::super::exchange::{Answer, Method, RangeAsked};
use super::super::testing::{
    Act, Scripted, ask, bench, found, head, http_origin, origin, origins, says, says_fault, site,
    whole, word,
};
use super::super::{OriginUrl, exchange};
use super::resolve;
use crate::config::Site;
use http::{HeaderValue, Uri, header};

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
            let methods: Vec<String> =
                server.heads().iter().map(|head| head[..4].trim().to_owned()).collect();
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
    let Ok(Answer::NotModified { headers, origin, request_time, response_time }) =
        bench.origins.fetch(&held).await
    else {
        panic!("not a 304");
    };
    assert_eq!((headers[header::AGE].as_bytes(), origin), (&b"7"[..], 0));
    assert_eq!((request_time, response_time), (bench.clock.now(), bench.clock.now()));
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
async fn redirects_lead_only_to_listed_hosts() {
    let target = Scripted::always(says(200, "moved")).await;
    let location = format!("http://{}/there?x=1#part", target.address);
    let server = Scripted::always(Act::Answer(302, vec![("location", location)], "")).await;
    let plain = site(vec![http_origin("one", &server)]);
    let refused = bench(&plain).origins.fetch(&ask("/x")).await;
    assert!(refused.unwrap_err().to_string().contains("follow_redirects_to"));
    assert_eq!(target.asked(), 0);

    for listed in ["127.0.0.1".to_owned(), target.address.to_string()] {
        let site = redirecting(plain.clone(), &[&listed]);
        let response = found(bench(&site).origins.fetch(&ask("/x")).await);
        assert_eq!(whole(response).await, b"moved");
    }
    assert!(target.heads()[0].starts_with("GET /there?x=1 HTTP/1.1\r\n"));
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
        ("/x?to=http://y", "https://a.example:8/x?to=http://y"),
    ] {
        assert_eq!(resolve(&from, location), expected);
    }
}
