//! Overlapping ranges by many clients at once, of an object that changes, from an origin that
//! breaks off, over restarts, held against the plainest model there is: every byte is that of the
//! version which the answer's tag names, and what ends cleanly has all of them.

use crate::harness::{Edge, Made, Said, Setup, VirtualOrigin};

const CHUNK: u64 = 1 << 20;
const PATH: &str = "/nar/0000000000000000000000000000000000000000000000000000.nar.zst";

struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// A range of an object of `length` bytes: first byte, and the one behind the last.
    fn range(&mut self, length: u64) -> (String, u64, u64) {
        let first = self.below(length);
        match self.below(4) {
            0 => (format!("bytes={first}-"), first, length),
            1 => (format!("bytes=-{}", length - first), first, length),
            _ => {
                let last = (first + self.below(3 * CHUNK)).min(length - 1);
                (format!("bytes={first}-{last}"), first, last + 1)
            }
        }
    }
}

/// Whether the answer is one that the model allows; true where it is whole.
fn judge(said: &Said, version: impl Fn(u64) -> Made, first: u64, end: u64) -> bool {
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

async fn storm(edge: &Edge, seed: u64, length: u64) -> (u64, u64) {
    let clients = (0..6_u64).map(|number| {
        let client = edge.client();
        let mut draw = Draw(seed * 1000 + number + 1);
        tokio::spawn(async move {
            let mut whole = 0;
            for _ in 0..8 {
                let (asked, first, end) = draw.range(length);
                let said = client.read_with(PATH, &[("range", &asked)]).await;
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

async fn rounds(seed: u64, completion: &str) {
    let length = 11 * CHUNK + seed * 7919;
    let origin = VirtualOrigin::start().await;
    let limits = format!("[server.limits]\ncompletion_size_max = \"{completion}\"");
    let setup = Setup::default().tables(&limits);
    let mut edge = setup.start_before(&[origin.table()]).await;
    let mut draw = Draw(seed);
    for version in 1..=3 {
        origin.set(PATH, Some(Made::new(version, length)));
        origin.cut_by(draw.below(1 << 30) + 1);
        let (whole, all) = storm(&edge, seed * 10 + version, length).await;
        assert!(whole * 2 > all, "{whole} of {all}");
        if draw.below(2) == 0 {
            edge.restart().await;
        }
    }
    origin.cut_by(0);
    edge.purge("{\"all\": true}").await;
    let (whole, all) = storm(&edge, seed * 10 + 9, length).await;
    assert_eq!(whole, all, "nothing is in the way now");
    edge.until_idle().await;
    assert_eq!(edge.metric("narthex_damaged_objects_total{tier=\"disk\"}").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_an_object_that_changes_are_those_of_the_model() {
    for seed in 1..=2 {
        rounds(seed, "1B").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_an_object_that_is_completed_are_those_of_the_model() {
    for seed in 3..=4 {
        rounds(seed, "64MiB").await;
    }
}
