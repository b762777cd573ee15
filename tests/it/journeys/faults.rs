//! A thousand faults that an origin makes, seeded: nothing wrong ends cleanly, nothing wrong is
//! kept.

use crate::harness::{Draw, Edge, Origin, Package, Script, Setup, noise, path_of_nar, says};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

const FAULTS: usize = 1_000;
/// Faults at work at the same time.
const ABREAST: usize = 50;
/// Below, at and above what is checked whole in memory, held back, and written in one go.
const SIZES: [usize; 6] = [900, 16_384, 65_536, 70_001, 300_007, 600_000];

impl Draw {
    /// A number below `limit`, to be an index.
    fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap() % limit.max(1)
    }
}

/// What says what an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Name,
    Claim,
    /// Nothing but its length and a strong tag.
    Tag,
    Narinfo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Flip,
    FlipChunked,
    Short,
    Cut,
    Reset,
    Long,
    Surplus,
    OtherTag,
    OtherTagInASilentPart,
    OtherLength,
    OtherRange,
}

const FOR_PROVEN: [Fault; 11] = [
    Fault::Flip,
    Fault::FlipChunked,
    Fault::Short,
    Fault::Cut,
    Fault::Reset,
    Fault::Long,
    Fault::Surplus,
    Fault::OtherTag,
    Fault::OtherTagInASilentPart,
    Fault::OtherLength,
    Fault::OtherRange,
];
/// Without a hash, an object that is another from its first byte on is that other object.
const FOR_TAGGED: [Fault; 6] = [
    Fault::Cut,
    Fault::Reset,
    Fault::OtherTag,
    Fault::OtherTagInASilentPart,
    Fault::OtherLength,
    Fault::OtherRange,
];
const FOR_NARINFOS: [Fault; 3] = [Fault::Flip, Fault::Cut, Fault::Reset];

struct Case {
    kind: Kind,
    fault: Fault,
    path: String,
    body: Bytes,
    /// The offset at which a reader that resumes begins.
    from: usize,
}

impl Case {
    /// The case with this number, and what the origin has to be told for it.
    fn new(number: usize, draw: &mut Draw, all: &Bytes) -> (Self, Vec<(String, Vec<Script>)>) {
        let length = SIZES[draw.index(SIZES.len())];
        let kind = [Kind::Name, Kind::Claim, Kind::Tag, Kind::Narinfo][draw.index(4)];
        let body = all.slice(number * 8..number * 8 + length);
        let mut package = Package::new(number as u64, 1);
        package.nar = body.clone();
        let (path, body, faults) = match kind {
            Kind::Name => (path_of_nar(&body, "nar.xz"), body, &FOR_PROVEN[..]),
            Kind::Claim => (package.nar_path.clone(), body, &FOR_PROVEN[..]),
            Kind::Tag => (package.nar_path.clone(), body, &FOR_TAGGED[..]),
            Kind::Narinfo => {
                (package.narinfo_path.clone(), package.narinfo().into(), &FOR_NARINFOS[..])
            }
        };
        let fault = faults[draw.index(faults.len())];
        let from = draw.index(body.len());
        let case = Self { kind, fault, path, body, from };
        let mut told = vec![(case.path.clone(), case.scripts(draw, all))];
        if kind == Kind::Claim {
            told.push((package.narinfo_path.clone(), vec![says(package.narinfo())]));
        }
        (case, told)
    }

    fn scripts(&self, draw: &mut Draw, all: &Bytes) -> Vec<Script> {
        let (body, length) = (&self.body, self.body.len());
        let right = says(body.clone()).etag("\"right\"");
        let at = draw.index(length);
        let cut = right.clone().cut_at(at);
        // Asked for the whole, it is another object and no fault.
        let other = says(all.slice(all.len() - length..)).for_ranges_alone();
        match self.fault {
            Fault::Flip => vec![right.with_body(self.flipped(draw))],
            Fault::FlipChunked => vec![right.with_body(self.flipped(draw)).chunked()],
            Fault::Short => vec![right.with_body(body.slice(..draw.index(length)))],
            Fault::Cut => vec![cut.clone(), cut, right],
            Fault::Reset => vec![right.clone().reset_at(at), right],
            Fault::Long => {
                let longer = [&body[..], &all[..=draw.index(50_000)]].concat();
                let longer = right.with_body(longer);
                vec![if draw.index(2) == 0 { longer } else { longer.chunked() }]
            }
            Fault::Surplus => vec![right.surplus(1 + draw.index(1_000))],
            Fault::OtherTag => vec![cut, other.etag("\"other\"")],
            // Conditions are ignored, and the tag is another or none.
            Fault::OtherTagInASilentPart => {
                let tags = [("etag", "\"other\""), ("etag", "W/\"right\""), ("x", "y")];
                let (name, value) = tags[draw.index(3)];
                vec![cut, other.unconditional().field(name, value)]
            }
            Fault::OtherLength => {
                let shorter = body.slice(..length - 1);
                vec![cut, right.with_body(shorter).for_ranges_alone()]
            }
            Fault::OtherRange => {
                let first = (at + 1 + draw.index(length - 1)) % length;
                let range = format!("bytes {first}-{}/{length}", length - 1);
                vec![cut, other.etag("\"right\"").content_range(&range)]
            }
        }
    }

    /// The body with one bit turned; of a narinfo, in what is signed.
    fn flipped(&self, draw: &mut Draw) -> Vec<u8> {
        let mut wrong = self.body.to_vec();
        let at = match self.kind {
            Kind::Narinfo => {
                let text = std::str::from_utf8(&self.body).unwrap();
                text.find("NarHash: sha256:").unwrap() + 16 + draw.index(52)
            }
            Kind::Name | Kind::Claim | Kind::Tag => draw.index(wrong.len()),
        };
        wrong[at] ^= 1 << draw.index(8);
        wrong
    }

    /// Three readers at once; how many got all of it.
    async fn play(&self, edge: &Edge) -> usize {
        let range = format!("bytes={}-", self.from);
        let fields = [("range", &*range)];
        let client = edge.client();
        let (whole, again, rest) = tokio::join!(
            client.try_to_read(&self.path, &[]),
            client.try_to_read(&self.path, &[]),
            client.try_to_read(&self.path, &fields)
        );
        let mut right = 0;
        for said in [whole, again, rest].into_iter().flatten() {
            let first = if said.status == 206 { self.from } else { 0 };
            match said.status.as_u16() {
                200 | 206 if !said.is_cut => {
                    assert!(said.body == self.body[first..], "{:?} {:?}", self.kind, self.fault);
                    right += 1;
                }
                200 | 206 => {}
                // The origin says that there is less.
                416 if self.fault == Fault::Short => {}
                status => assert_eq!(status, 502, "{:?} {:?}", self.kind, self.fault),
            }
        }
        right
    }
}

/// Plays `count` cases; how many readers got all, by kind and fault.
async fn play(
    seed: u64,
    count: usize,
    disk_size: &str,
) -> (Edge, Origin, Vec<Arc<Case>>, BTreeMap<(Kind, Fault), (usize, usize)>) {
    let origin = Origin::start().await;
    let mut edge = Setup::default().disk_size(disk_size).start(&[&origin]).await;
    let all = noise(seed, 2 << 20);
    let mut draw = Draw(seed);
    let (mut cases, mut outcomes) = (Vec::new(), BTreeMap::new());
    for begin in (0..count).step_by(ABREAST) {
        let mut playing = Vec::new();
        let shared = Arc::new(edge);
        for number in begin..count.min(begin + ABREAST) {
            let (case, told) = Case::new(number, &mut draw, &all);
            for (path, scripts) in told {
                origin.say_in_turn(&path, scripts);
                if case.kind == Kind::Claim && path.ends_with(".narinfo") {
                    shared.get(&path).await.expect(200, "miss");
                }
            }
            let (case, edge) = (Arc::new(case), Arc::clone(&shared));
            cases.push(Arc::clone(&case));
            playing.push(tokio::spawn(async move {
                let right = case.play(&edge).await;
                ((case.kind, case.fault), right)
            }));
        }
        for playing in playing {
            let (what, right) = playing.await.unwrap();
            let (readers, whole) = outcomes.entry(what).or_insert((0, 0));
            *readers += 3;
            *whole += right;
        }
        edge = Arc::into_inner(shared).unwrap();
    }
    (edge, origin, cases, outcomes)
}

fn check_what_was_seen(seen: &BTreeMap<(Kind, Fault), (usize, usize)>) {
    for ((kind, fault), (readers, whole)) in seen {
        match fault {
            // Survived: the body goes on, or is fetched again.
            Fault::Surplus => assert_eq!(readers, whole, "{kind:?} {fault:?}"),
            Fault::Cut | Fault::Reset if *kind != Kind::Narinfo => {
                assert_eq!(readers, whole, "{kind:?} {fault:?}");
            }
            Fault::Cut | Fault::Reset => {}
            Fault::OtherTag
            | Fault::OtherTagInASilentPart
            | Fault::OtherLength
            | Fault::OtherRange
            | Fault::Flip
            | Fault::FlipChunked
            | Fault::Short
            | Fault::Long => assert_eq!(*whole, 0, "{kind:?} {fault:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_wrong_ends_cleanly_or_is_kept() {
    let kept = FAULTS * 3 / 4;
    let (edge, origin, cases, seen) = play(0x5eed, kept, "512MiB").await;
    check_what_was_seen(&seen);
    edge.until_idle().await;
    // Whatever is served now was kept.
    let mut hits = 0;
    for case in &cases {
        origin.say(&case.path, Script::status(404));
        let said = edge.get(&case.path).await;
        if said.status == 200 {
            assert!(said.outcome().starts_with("hit_"), "{}", said.outcome());
            said.with(&case.body);
            hits += 1;
        }
    }
    assert!(hits > kept / 20, "{hits}");
    for reason in ["file_hash", "long", "continuation", "short"] {
        let name =
            format!("narthex_rejected_bodies_total{{origin=\"origin-0\",reason=\"{reason}\"}}");
        assert!(edge.metric(&name).await > 0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_wrong_ends_cleanly_without_a_disk() {
    let (_edge, _origin, _cases, seen) = play(0xface, FAULTS / 4, "0").await;
    check_what_was_seen(&seen);
}
