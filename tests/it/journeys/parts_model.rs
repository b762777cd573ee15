//! Overlapping ranges by many clients at once, of an object that changes, from an origin that
//! breaks off, over restarts, held against the plainest model there is: every byte is that of the
//! version which the answer's tag names, and what ends cleanly has all of them. Of a binary cache
//! and of a generic site.

use crate::harness::{Draw, Edge, Made, Said, Setup, VirtualOrigin};

const CHUNK: u64 = 1 << 20;
const PATH: &str = "/nar/0000000000000000000000000000000000000000000000000000.nar.zst";

impl Draw {
    /// A range of an object of `length` bytes: first byte, and the one behind the last; of a
    /// generic site also all of it, by no range, and its first byte.
    fn range(&mut self, length: u64, site: &str) -> (String, u64, u64) {
        let first = self.below(length);
        match self.below(if site.is_empty() { 4 } else { 6 }) {
            5 => ("bytes=0-0".to_owned(), 0, 1),
            4 => (String::new(), 0, length),
            0 => (format!("bytes={first}-"), first, length),
            1 => (format!("bytes=-{}", length - first), first, length),
            _ => {
                let last = (first + self.below(3 * CHUNK)).min(length - 1);
                (format!("bytes={first}-{last}"), first, last + 1)
            }
        }
    }
}

/// What a generic site is told with.
const GENERIC: &str = "kind = \"generic\"\n[site.caching]\nttl_default = \"60s\"";

/// Whether the answer is one that the model allows; true if it is whole.
fn judge(said: &Said, version: impl Fn(u64) -> Made, first: u64, end: u64) -> bool {
    if said.status == 200 {
        let whole = said.field("etag").trim_matches(|c| c == '"' || c == 'v').parse().unwrap();
        let right = version(whole);
        assert!(said.body == right.bytes(0..said.body.len() as u64), "other bytes than of {whole}");
        assert!(said.is_cut || said.body.len() as u64 == right.length, "a short end");
        return !said.is_cut;
    }
    if said.status != 206 {
        assert!([502, 504, 503].contains(&said.status.as_u16()), "{}", said.status);
        return false;
    }
    let tag = said.field("etag").trim_matches(|c| c == '"' || c == 'v');
    let object = version(tag.parse().unwrap());
    let right = object.bytes(first..end);
    assert!(said.body.len() <= right.len(), "too many bytes");
    assert!(said.body == right[..said.body.len()], "other bytes than those of {tag}");
    assert!(said.is_cut || said.body.len() == right.len(), "a short end that looks clean");
    !said.is_cut
}

async fn storm(edge: &Edge, seed: u64, length: u64, site: &'static str) -> (u64, u64) {
    let clients = (0..6_u64).map(|number| {
        let client = edge.client();
        let mut draw = Draw(seed * 1000 + number + 1);
        tokio::spawn(async move {
            let mut whole = 0;
            for _ in 0..8 {
                let (asked, first, end) = draw.range(length, site);
                let range = [("range", &*asked)];
                let fields = if asked.is_empty() { &[][..] } else { &range };
                let said = client.read_with(PATH, fields).await;
                whole += u64::from(judge(&said, |seed| Made::new(seed, length), first, end));
            }
            whole
        })
    });
    let (mut whole, mut all) = (0, 0);
    for client in clients.collect::<Vec<_>>() {
        whole += client.await.unwrap();
        all += 8;
    }
    (whole, all)
}

async fn rounds(seed: u64, completion: &str, site: &'static str) {
    let length = 11 * CHUNK + seed * 7919;
    let origin = VirtualOrigin::start().await;
    let limits = format!("[server.limits]\ncompletion_size_max = \"{completion}\"");
    let setup = Setup::default().tables(&limits).site(site);
    let mut edge = setup.start_before(&[origin.table()]).await;
    let mut draw = Draw(seed);
    for version in 1..=3 {
        origin.set(PATH, Some(Made::new(version, length)));
        origin.cut_by(draw.below(1 << 30) + 1);
        let (whole, all) = storm(&edge, seed * 10 + version, length, site).await;
        assert!(whole * 2 > all, "{whole} of {all}");
        if draw.below(2) == 0 {
            edge.restart().await;
        }
    }
    origin.cut_by(0);
    edge.purge("{\"all\": true}").await;
    let (whole, all) = storm(&edge, seed * 10 + 9, length, site).await;
    assert_eq!(whole, all, "nothing is in the way now");
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 0);
}

/// FAULTS.md Held: ranges and conditions against a model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_an_object_that_changes_are_those_of_the_model() {
    for seed in 1..=2 {
        rounds(seed, "1B", "").await;
    }
}

/// FAULTS.md Held: ranges and conditions against a model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_an_object_that_is_completed_are_those_of_the_model() {
    for seed in 3..=4 {
        rounds(seed, "64MiB", "").await;
    }
}

/// FAULTS.md Held: ranges and conditions against a model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_a_generic_site_are_those_of_the_model() {
    rounds(5, "1B", GENERIC).await;
    rounds(6, "64MiB", GENERIC).await;
}
