//! Sites of kind `generic`: requests that write. The edge drops what they may have changed, whether
//! or not their clients stay. Slow ones hold up no other request, and are no fault of their origin.

use crate::harness::{Edge, Fault, Gate, Origin, Script, Setup, Strikes, says};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn fresh(body: &'static str) -> Script {
    says(body).field("cache-control", "max-age=600")
}

async fn edge(origin: &Origin) -> Edge {
    Setup::default().site("kind = \"generic\"").start(&[origin]).await
}

/// A connection that has sent this.
async fn connection(edge: &Edge, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(edge.client().address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// The status of the answer to this, written as it is.
async fn raw(edge: &Edge, text: &str) -> String {
    let mut stream = connection(edge, text).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).chars().skip(9).take(3).collect()
}

/// FAULTS.md G13a.
#[tokio::test]
async fn a_write_invalidates_although_its_client_leaves() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    origin.say("/a", fresh("old"));
    edge.get("/a").await.expect(200, "miss");
    let gate = Gate::default();
    origin.say("/a", Script::status(200).held(&gate));
    let text = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx";
    let stream = connection(&edge, text).await;
    origin.until_asked("/a", 2).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    gate.open();
    origin.say("/a", fresh("new"));
    for _ in 0..1_000 {
        if edge.get("/a").await.body == "new" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the old answer stays");
}

/// FAULTS.md G13b.
#[tokio::test]
async fn a_write_of_unknown_fate_invalidates() {
    for (fault, status) in [(Fault::ResetBeforeHead, 502), (Fault::Hang, 504)] {
        let origin = Origin::start().await;
        let edge = Setup::default().site("kind = \"generic\"").timeouts("first_byte = \"1s\"");
        let edge = edge.start(&[&origin]).await;
        origin.say("/a", fresh("old"));
        edge.get("/a").await.expect(200, "miss");
        origin.fail("/a", fault, Strikes::ForGood);
        edge.client().post("/a", &[], "x").await.expect(status, "origin_failed");
        origin.recover();
        origin.say("/a", fresh("new"));
        edge.get("/a").await.expect(200, "miss").with(b"new");
    }
}

/// FAULTS.md G13b.
#[tokio::test]
async fn a_write_of_which_a_gateway_knows_no_fate_invalidates() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    origin.say("/a", fresh("old"));
    edge.get("/a").await.expect(200, "miss");
    for (status, outcome) in
        [(500, "hit_memory"), (503, "hit_memory"), (502, "miss"), (504, "miss")]
    {
        origin.say("/a", Script::status(status));
        edge.client().post("/a", &[], "x").await.expect(status, "pass");
        origin.say("/a", fresh("old"));
        edge.get("/a").await.expect(200, outcome);
    }
}

/// FAULTS.md G14.
#[tokio::test]
async fn a_write_without_a_body_says_that_it_has_none() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    origin.say("/a", Script::status(204));
    for (at, method) in ["POST", "PUT", "PATCH"].into_iter().enumerate() {
        let text = format!(
            "{method} /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(raw(&edge, &text).await, "204");
        assert_eq!(origin.asked("/a")[at].field("content-length"), Some("0"), "{method}");
    }
    assert_eq!(raw(&edge, "GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await, "204");
    assert_eq!(origin.asked("/a")[3].field("content-length"), None);
}

/// FAULTS.md G16g.
#[tokio::test]
async fn an_answer_to_a_post_is_kept_only_if_a_get_would_have_told_its_origin_as_much() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let answer = fresh("of the post").field("content-location", "/a");
    for (field, written, read, body) in [
        (("x-unknown", "evil"), "pass", "miss", "of the get"),
        (("accept", "text/html"), "miss", "hit_memory", "of the post"),
    ] {
        origin.say("/a", answer.clone());
        let said = edge.client().post("/a", &[field], "x").await;
        said.expect(200, written).with(b"of the post");
        origin.say("/a", fresh("of the get"));
        edge.get("/a").await.expect(200, read).with(body.as_bytes());
    }
}

/// FAULTS.md G9.
#[tokio::test]
async fn uploads_that_trickle_leave_slots_to_others() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one"));
    let edge = Setup::default().site("kind = \"generic\"");
    let url = format!("url = \"{}\"\nname = \"origin-0\"\nconnections_max = 8", origin.url());
    let edge = edge.start_before(&[url]).await;
    let mut slow = Vec::new();
    for number in 0..8 {
        let text =
            format!("PUT /slow{number} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nx");
        slow.push(connection(&edge, &text).await);
    }
    let text = "GET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(&edge, text).await, "404");
    edge.get("/a").await.expect(200, "miss");
    drop(slow);
}

/// FAULTS.md G16e.
#[tokio::test]
async fn a_body_that_its_client_does_not_finish_is_no_fault_of_the_origin() {
    let origin = Origin::start().await;
    origin.say("/a", Script::hangs());
    let edge = Setup::default().site("kind = \"generic\"").timeouts("first_byte = \"1s\"");
    let edge = edge.start(&[&origin]).await;
    edge.until_metric("narthex_origin_up{origin=\"origin-0\"}", 1).await;
    for (body, status) in [
        ("transfer-encoding: chunked\r\n\r\n1\r\nx\r\nno size\r\n", "400"),
        ("content-length: 2\r\n\r\nx", "408"),
    ] {
        assert_eq!(raw(&edge, &format!("PUT /a HTTP/1.1\r\nhost: x\r\n{body}")).await, status);
    }
    assert!(edge.log(2).await.iter().all(|line| line["response_state"] == "refused"));
    assert_eq!(edge.metric("narthex_origin_up{origin=\"origin-0\"}").await, 1);
}

#[tokio::test]
async fn what_a_write_says_of_other_places_goes_too() {
    let origin = Origin::start().await;
    let host = origin.url().replace("http://", "");
    let locations = [
        "https://cache.test/b".to_owned(),
        format!("http://{host}/b"),
        "/{b}".to_owned(),
        "http://cache.test:8080/b".to_owned(),
    ];
    for location in locations {
        let edge = edge(&origin).await;
        let path = if location.contains('{') { "/{b}" } else { "/b" };
        let target = path.replace('{', "%7B").replace('}', "%7D");
        origin.say(path, fresh("old"));
        edge.get(&target).await.expect(200, "miss");
        origin.say("/a", Script::status(201).field("location", &location));
        edge.client().post("/a", &[], "x").await.expect(201, "pass");
        edge.get(&target).await.expect(200, "miss");
    }
}

/// FAULTS.md G16e.
#[tokio::test]
async fn a_write_in_absolute_form_makes_its_location_stale() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    origin.say("/b", fresh("old"));
    edge.get("/b").await.expect(200, "miss");
    for location in ["https://cache.test/b", "b"] {
        origin.say("/a", Script::status(201).field("location", location));
        let text = "POST http://cache.test/a HTTP/1.1\r\nhost: cache.test\r\n\
                    content-length: 1\r\nconnection: close\r\n\r\nx";
        assert_eq!(raw(&edge, text).await, "201");
        edge.get("/b").await.expect(200, "miss");
    }
}

/// FAULTS.md G16c.
#[tokio::test]
async fn a_coded_body_is_not_passed_on_as_if_it_were_plain() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let text = "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\
                connection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    assert_eq!(raw(&edge, text).await, "501");
    assert_eq!(origin.count("/a"), 0);
}
