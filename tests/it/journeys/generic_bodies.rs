//! Bodies of generic sites: ranges of what is stored, bodies that break off, and stored ones that
//! turn out damaged under their readers.

use crate::harness::{Edge, Gate, Origin, Said, Script, Setup, noise, says};
use bytes::Bytes;
use std::fs::OpenOptions;

const FRESH: &str = "max-age=60";
const CHUNK: usize = 1 << 20;

fn metric(name: &str, result: &str) -> String {
    format!("narthex_{name}_total{{result=\"{result}\"}}")
}

fn fresh(body: &Bytes) -> Script {
    says(body.clone()).field("cache-control", FRESH)
}

async fn edge(origin: &Origin) -> Edge {
    Setup::default().site("kind = \"generic\"").start(&[origin]).await
}

/// The parts of a `multipart/byteranges` body: their fields and bytes.
fn parts(said: &Said) -> Vec<(String, Vec<u8>)> {
    let kind = said.field("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let (delimiter, end) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}--\r\n"));
    let body = said.body.strip_suffix(end.as_bytes()).unwrap();
    let mut rest = body.strip_prefix(delimiter.as_bytes()).unwrap();
    let (mut parts, between) = (Vec::new(), format!("\r\n{delimiter}"));
    loop {
        let next = rest.windows(between.len()).position(|window| window == between.as_bytes());
        let part = &rest[..next.unwrap_or(rest.len())];
        let head = part.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let fields = String::from_utf8(part[..head].to_vec()).unwrap();
        parts.push((fields, part[head + 4..].to_vec()));
        match next {
            Some(next) => rest = &rest[next + between.len()..],
            None => return parts,
        }
    }
}

#[tokio::test]
async fn ranges_of_what_is_stored() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    for (path, length, hit) in [("/a", 10_000, "hit_memory"), ("/b", 3 * CHUNK, "hit_disk")] {
        let body = noise(1, length);
        origin.say(path, fresh(&body).etag("\"1\"").field("content-type", "text/x"));
        edge.get(path).await.expect(200, "miss").with(&body);
        edge.until_idle().await;
        let ask = async |ranges: &str| edge.read_with(path, &[("range", ranges)]).await;
        let said = ask("bytes=-3").await;
        said.expect(206, hit).with(&body[length - 3..]);
        assert_eq!(
            said.field("content-range"),
            format!("bytes {}-{}/{length}", length - 3, length - 1)
        );
        let said = ask("bytes=5000-5009,0-9,-1").await;
        said.expect(206, hit);
        assert_eq!(said.field("content-length"), said.body.len().to_string());
        assert!(!said.headers.contains_key("content-range"));
        let part = |first: usize, last: usize| {
            let fields =
                format!("Content-Type: text/x\r\nContent-Range: bytes {first}-{last}/{length}");
            (fields, body[first..=last].to_vec())
        };
        assert_eq!(parts(&said), [part(5_000, 5_009), part(0, 9), part(length - 1, length - 1)]);
        // Close together, so one; too many, or as much as all of it, so the whole.
        ask("bytes=0-9,100-109").await.expect(206, hit).with(&body[..110]);
        let many: Vec<_> = (0..17).map(|at| format!("{0}-{0}", at * 500)).collect();
        for ranges in [&*format!("bytes={}", many.join(",")), "bytes=x"] {
            ask(ranges).await.expect(200, hit).with(&body);
        }
        let said = ask("bytes=9999999-,99999999-").await;
        said.expect(416, hit).with(b"");
        assert_eq!(said.field("content-range"), format!("bytes */{length}"));
        let asked = [("range", "bytes=0-0,500-500"), ("if-range", "\"1\"")];
        assert_eq!(parts(&edge.read_with(path, &asked).await).len(), 2);
        let asked = [("range", "bytes=0-0,500-500"), ("if-range", "W/\"1\"")];
        edge.read_with(path, &asked).await.expect(200, hit).with(&body);
        assert_eq!(origin.count(path), 1);
    }
}

#[tokio::test]
async fn a_date_permits_ranges_only_where_it_is_long_past() {
    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let origin = Origin::start().await;
    let body = noise(2, 1_000);
    let edge = edge(&origin).await;
    for (path, date, status) in
        [("/a", "Sun, 06 Nov 1994 08:50:37 GMT", 206), ("/b", "Sun, 06 Nov 1994 08:49:38 GMT", 200)]
    {
        origin.say(
            path,
            says(body.clone())
                .last_modified(CHANGED)
                .field("date", date)
                .field("cache-control", "max-age=4000000000"),
        );
        edge.get(path).await.expect(200, "miss");
        let asked = [("range", "bytes=0-0"), ("if-range", CHANGED)];
        assert_eq!(edge.read_with(path, &asked).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_cut_body_with_a_strong_tag_goes_on_unseen() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let body = noise(3, 3 * CHUNK);
    let small = noise(4, 10_000);
    for (path, whole, cuts) in [
        ("/large", fresh(&body), [400_000, 100_000]),
        ("/chunked", fresh(&body).chunked(), [400_000, 100_000]),
        ("/deaf", fresh(&body).without_ranges(), [400_000, 700_000]),
        ("/alone", says(body.clone()).field("cache-control", "no-store"), [400_000, 100_000]),
        ("/small", fresh(&small), [4_000, 1_000]),
    ] {
        let body = if path == "/small" { &small } else { &body };
        let whole = whole.etag("\"same\"");
        let turns = cuts.map(|bytes| whole.clone().cut_at(bytes));
        origin.say_in_turn(path, [&turns[..], &[whole]].concat());
        let outcome = if path == "/alone" { "pass" } else { "miss" };
        edge.read_with(path, &[("accept-a", "1")]).await.expect(200, outcome).with(body);
        edge.until_idle().await;
        let asked = origin.asked(path);
        assert_eq!(asked.len(), 3, "{path}");
        let next = if path == "/deaf" { cuts[1] } else { cuts[0] + cuts[1] };
        for (asked, offset) in asked[1..].iter().zip([cuts[0], next]) {
            assert_eq!(asked.field("range"), Some(&*format!("bytes={offset}-")), "{path}");
            assert_eq!(asked.field("if-range"), Some("\"same\""));
            assert_eq!(asked.field("accept-a"), Some("1"));
        }
    }
    for (path, hit) in [("/large", "hit_disk"), ("/chunked", "hit_disk"), ("/deaf", "hit_disk")] {
        edge.get(path).await.expect(200, hit).with(&body);
    }
    edge.get("/small").await.expect(200, "hit_memory").with(&small);
    assert_eq!(edge.metric(&metric("fill_resumes", "continued")).await, 10);
}

/// FAULTS.md C6e.
#[tokio::test]
async fn a_cut_body_that_nothing_ties_together_is_cut_for_the_client() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let (body, other) = (noise(5, CHUNK), noise(6, CHUNK));
    for (path, first, second) in [
        ("/untagged", fresh(&body), fresh(&body)),
        ("/weak", fresh(&body).etag("W/\"a\""), fresh(&body).etag("W/\"a\"")),
        ("/other", fresh(&body).etag("\"a\""), fresh(&other).etag("\"b\"")),
        // It does not heed If-Range: its 206 is of another object.
        ("/deaf", fresh(&body).etag("\"a\""), fresh(&other).etag("\"b\"").unconditional()),
        ("/shifted", fresh(&body).etag("\"a\""), {
            fresh(&body).etag("\"a\"").content_range("bytes 400001-1048575/1048576")
        }),
    ] {
        origin.say_in_turn(path, vec![first.cut_at(400_000), second]);
        let said = edge.get(path).await;
        assert!(said.is_cut && said.body == body[..said.body.len()], "{path}");
        // That is told before the end is known: it is kept if it ends well.
        assert!(said.field("cache-status").contains("; stored"), "{path}: {said:?}");
        edge.until_idle().await;
        assert_eq!(edge.object_files().len(), 0, "{path}");
    }
}

/// An edge that holds a body in one file.
async fn stored(origin: &Origin, script: Script, body: &Bytes) -> Edge {
    origin.say("/a", script);
    let edge = edge(origin).await;
    edge.read_with("/a", &[("accept-a", "1")]).await.expect(200, "miss").with(body);
    edge.until_idle().await;
    assert_eq!(edge.object_files().len(), 1);
    edge
}

/// Cuts the file at the end of a chunk.
fn truncate(edge: &Edge) {
    let file = OpenOptions::new().write(true).open(&edge.object_files()[0]).unwrap();
    file.set_len(2 * CHUNK as u64).unwrap();
}

#[tokio::test]
async fn a_reader_whose_file_is_damaged_goes_on_where_a_strong_tag_says_the_same() {
    let body = noise(7, 8 * CHUNK);
    for varies in [false, true] {
        let origin = Origin::start().await;
        let script = fresh(&body).etag("\"a\"");
        let script = if varies { script.field("vary", "accept-a") } else { script };
        let edge = stored(&origin, script, &body).await;
        let mut readers = Vec::new();
        for ranges in ["bytes=0-", "bytes=1000-", "bytes=6000000-6000999,0-3000000"] {
            let asked = [("range", ranges), ("accept-a", "1")];
            let mut reader = edge.client().begin("/a", &asked).await;
            reader.read_to(1_000).await;
            readers.push(reader);
        }
        truncate(&edge);
        let mut said = Vec::new();
        for reader in readers {
            said.push(reader.rest().await);
        }
        said[0].expect(206, "hit_disk").with(&body);
        said[1].expect(206, "hit_disk").with(&body[1_000..]);
        let parts = parts(&said[2]);
        assert_eq!(parts[0].1, body[6_000_000..6_001_000]);
        assert_eq!(parts[1].1, body[..=3_000_000]);
        edge.until_idle().await;
        edge.read_with("/a", &[("accept-a", "1")]).await.expect(200, "hit_disk").with(&body);
        assert_eq!(origin.count("/a"), 2);
        assert!(edge.metric(&metric("body_rescues", "continued")).await >= 2);
        assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 1);
    }
}

#[tokio::test]
async fn a_reader_whose_file_is_damaged_is_cut_where_nothing_says_the_same() {
    let (body, other) = (noise(8, 8 * CHUNK), noise(9, 8 * CHUNK));
    for (before, after, result) in [
        (fresh(&body), fresh(&body), "changed"),
        (fresh(&body).etag("W/\"a\""), fresh(&body).etag("W/\"a\""), "changed"),
        (fresh(&body).etag("\"a\""), fresh(&other).etag("\"b\""), "changed"),
        (fresh(&body).etag("\"a\""), Script::status(404).etag("\"a\""), "changed"),
    ] {
        let origin = Origin::start().await;
        let edge = stored(&origin, before, &body).await;
        let mut reader = edge.client().begin("/a", &[]).await;
        reader.read_to(1_000).await;
        truncate(&edge);
        origin.say("/a", after);
        let said = reader.rest().await;
        assert!(said.is_cut && said.body == body[..said.body.len()]);
        assert_eq!(edge.metric(&metric("body_rescues", result)).await, 1);
        assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 1);
    }
}

#[tokio::test]
async fn a_reader_who_comes_late_to_a_body_that_is_continued_gets_all_of_it() {
    let origin = Origin::start().await;
    let body = noise(10, 3 * CHUNK);
    let gate = Gate::default();
    let whole = fresh(&body).etag("\"a\"");
    let turns = vec![whole.clone().cut_at(500_000), whole.held_at(500_000, &gate)];
    origin.say_in_turn("/a", turns);
    let edge = edge(&origin).await;
    let mut first = edge.client().begin("/a", &[]).await;
    first.read_to(900_000).await;
    let second = edge.client().begin("/a", &[("range", "bytes=100-")]).await;
    gate.open();
    first.rest().await.expect(200, "miss").with(&body);
    second.rest().await.with(&body[100..]);
}
