//! Conditions and ranges, of what is stored and of what is still arriving.

use crate::harness::{Edge, Gate, Origin, Said, noise, path_of_nar, says};
use bytes::Bytes;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// An edge that holds a NAR of `length` bytes.
async fn stored(length: usize) -> (Edge, Origin, String, Bytes) {
    let origin = Origin::start().await;
    let nar = noise(1, length);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()).etag("\"tag\"").last_modified(DATE));
    let edge = Edge::before(&origin).await;
    edge.get(&path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    (edge, origin, path, nar)
}

async fn range(edge: &Edge, path: &str, range: &str) -> Said {
    edge.read_with(path, &[("range", range)]).await
}

#[tokio::test]
async fn conditions_are_answered_from_what_is_stored() {
    for length in [1 << 10, 1 << 20] {
        let (edge, origin, path, nar) = stored(length).await;
        let hit = if length < 1 << 16 { "hit_memory" } else { "hit_disk" };
        for field in [
            ("if-none-match", "\"tag\""),
            ("if-none-match", "W/\"tag\", \"x\""),
            ("if-none-match", "*"),
            ("if-modified-since", DATE),
        ] {
            let said = edge.read_with(&path, &[field]).await;
            said.expect(304, hit).with(b"");
            assert_eq!((said.field("etag"), said.field("content-length")), ("\"tag\"", ""));
        }
        for field in
            [("if-match", "\"other\""), ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:36 GMT")]
        {
            edge.read_with(&path, &[field]).await.expect(412, hit).with(b"");
        }
        for field in [
            ("if-none-match", "\"other\""),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT"),
            ("if-match", "\"tag\""),
        ] {
            edge.read_with(&path, &[field]).await.expect(200, hit).with(&nar);
        }
        assert_eq!(origin.count(&path), 1);
    }
}

#[tokio::test]
async fn ranges_of_what_is_stored() {
    for length in [1_000_usize, 300_000] {
        let (edge, origin, path, nar) = stored(length).await;
        let hit = if length < 1 << 16 { "hit_memory" } else { "hit_disk" };
        let (end, far) = (length - 1, length * 2);
        for (asked, first, last) in [
            ("bytes=0-0".to_owned(), 0, 0),
            ("bytes=10-19".to_owned(), 10, 19),
            ("bytes=10-".to_owned(), 10, end),
            (format!("bytes=10-{far}"), 10, end),
            ("bytes=-5".to_owned(), length - 5, end),
            (format!("bytes=-{far}"), 0, end),
            (format!("bytes={end}-"), end, end),
            ("bytes=0-5,6-9".to_owned(), 0, 9),
        ] {
            let said = range(&edge, &path, &asked).await;
            said.expect(206, hit).with(&nar[first..=last]);
            assert_eq!(said.field("content-range"), format!("bytes {first}-{last}/{length}"));
            assert_eq!(said.field("content-length"), (last - first + 1).to_string());
        }
        for asked in [format!("bytes={length}-"), "bytes=-0".to_owned()] {
            let said = range(&edge, &path, &asked).await;
            said.expect(416, hit).with(b"");
            assert_eq!(said.field("content-range"), format!("bytes */{length}"));
        }
        for asked in ["bytes=0-1,500-501", "bytes=5-2", "lines=1-2"] {
            range(&edge, &path, asked).await.expect(200, hit).with(&nar);
        }
        let if_range = |tag| [("range", "bytes=5-9"), ("if-range", tag)];
        let same = edge.read_with(&path, &if_range("\"tag\"")).await;
        same.expect(206, hit).with(&nar[5..=9]);
        let other = edge.read_with(&path, &if_range("\"other\"")).await;
        other.expect(200, hit).with(&nar);
        assert_eq!(origin.count(&path), 1);
    }
}

#[tokio::test]
async fn ranges_of_what_is_still_arriving() {
    let origin = Origin::start().await;
    let nar = noise(2, 1 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).etag("\"tag\"").held_at(500_000, &gate));
    let edge = Edge::before(&origin).await;

    let mut first = edge.client().begin(&path, &[]).await;
    assert_eq!((first.status.as_u16(), &*first.outcome()), (200, "miss"));
    assert!(first.read_to(500_000).await == &nar[..500_000]);

    let part = range(&edge, &path, "bytes=100-199999").await;
    part.expect(206, "collapsed").with(&nar[100..200_000]);
    let beyond = range(&edge, &path, "bytes=1048576-").await;
    beyond.expect(416, "collapsed");
    let known = edge.read_with(&path, &[("if-none-match", "\"tag\"")]).await;
    known.expect(304, "collapsed").with(b"");
    let head = edge.client().head(&path).await;
    head.expect(200, "collapsed").with(b"");
    assert_eq!(head.field("content-length"), "1048576");

    let mut resumed = edge.client().begin(&path, &[("range", "bytes=400000-")]).await;
    assert_eq!(resumed.status.as_u16(), 206);
    assert!(resumed.read_to(100_000).await == &nar[400_000..500_000]);
    let tail = edge.client().begin(&path, &[("range", "bytes=-10")]).await;
    gate.open();
    tail.rest().await.expect(206, "collapsed").with(&nar[nar.len() - 10..]);
    resumed.rest().await.expect(206, "collapsed").with(&nar[400_000..]);
    first.rest().await.expect(200, "miss").with(&nar);
    assert_eq!(origin.count(&path), 1);
}

#[tokio::test]
async fn a_range_of_a_cold_object_brings_in_the_whole() {
    let origin = Origin::start().await;
    let nar = noise(3, 1 << 20);
    let path = path_of_nar(&nar, "nar.xz");
    origin.say(&path, says(nar.clone()));
    let edge = Edge::before(&origin).await;
    range(&edge, &path, "bytes=1000000-").await.expect(206, "miss").with(&nar[1_000_000..]);
    edge.until_idle().await;
    edge.get(&path).await.expect(200, "hit_disk").with(&nar);
    assert_eq!(origin.count(&path), 1);
    assert_eq!(origin.asked(&path)[0].field("range"), None);
}

#[tokio::test]
async fn a_range_of_a_body_without_a_length_waits_for_its_end() {
    let origin = Origin::start().await;
    let nar = noise(4, 300_000);
    let path = path_of_nar(&nar, "nar.xz");
    let gate = Gate::default();
    origin.say(&path, says(nar.clone()).chunked().held_at(200_000, &gate));
    let edge = Edge::before(&origin).await;
    let mut first = edge.client().begin(&path, &[]).await;
    assert_eq!(first.headers.get("content-length"), None);
    first.read_to(100_000).await;
    let waiting = {
        let (client, path) = (edge.client(), path.clone());
        tokio::spawn(async move { client.read_with(&path, &[("range", "bytes=299990-")]).await })
    };
    gate.open();
    waiting.await.unwrap().expect(206, "collapsed").with(&nar[299_990..]);
    first.rest().await.expect(200, "miss").with(&nar);
    assert_eq!(origin.count(&path), 1);
}
