//! One cell: the origin has an object and sends it in pieces, clients read it while it comes, and
//! then it is asked for again, whole and by ranges. Every byte that a client receives is compared.

use super::cell::{Bounds, Cell, Kind, Reader};
use super::client::{Answer, Outcome, Pace, Question};
use super::covering::Draw;
use super::faults::pieces::Pieces;
use super::faults::script::{Script, says};
use super::object::{Claim, Noise, Object};
use super::origin::{Origins, framed, host};
use parking_lot::Mutex;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an object may take to become a hit once a client has all of it.
const STORED_WITHIN: Duration = Duration::from_secs(20);
/// Clients that ask for a range at the same time.
const RANGES: u64 = 4;

/// What outcome of a cell. Ordered: a cell has the worst of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Right,
    /// Not a hit afterwards, although it must be kept.
    NotStored,
    /// The edge took more memory than a window.
    TooLarge,
    /// A right body is refused a second and a half after a wrong one.
    StillRefused,
    /// Nothing outcome any more.
    Hung,
    /// A reset or an error, although the origin sent a right body.
    Cut,
    /// A clean end of other bytes.
    WrongBytes,
}

pub(crate) const VERDICTS: [Verdict; 7] = [
    Verdict::Right,
    Verdict::WrongBytes,
    Verdict::Cut,
    Verdict::Hung,
    Verdict::StillRefused,
    Verdict::NotStored,
    Verdict::TooLarge,
];

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Right => "right",
            Self::NotStored => "NOT STORED",
            Self::TooLarge => "TOO LARGE",
            Self::StillRefused => "STILL REFUSED",
            Self::Hung => "HUNG",
            Self::Cut => "CUT",
            Self::WrongBytes => "WRONG BYTES",
        })
    }
}

/// A verdict and what led to it.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) verdict: Verdict,
    pub(crate) detail: String,
}

impl Finding {
    pub(crate) fn right() -> Self {
        Self { verdict: Verdict::Right, detail: String::new() }
    }

    /// Takes the worse one; of two alike, the first.
    pub(crate) fn add(&mut self, verdict: Verdict, detail: impl fmt::Display) {
        if verdict > self.verdict {
            *self = Self { verdict, detail: detail.to_string() };
        }
    }

    /// Adds what a client got of an origin that sends right bodies.
    pub(crate) fn add_answer(&mut self, what: &str, answer: &Answer) {
        match &answer.outcome {
            Outcome::Right => {}
            Outcome::Wrong(how) => self.add(Verdict::WrongBytes, format!("{what}: {how}")),
            Outcome::Refused(how) => self.add(Verdict::Cut, format!("{what}: {how}")),
            Outcome::Hung(how) => self.add(Verdict::Hung, format!("{what}: {how}")),
        }
    }
}

/// What all cells of a run share.
pub(crate) struct World {
    pub(crate) edge: SocketAddr,
    pub(crate) origins: Origins,
    pub(crate) noise: Noise,
    pub(crate) seed: u64,
    pub(crate) bounds: Bounds,
    /// Objects so far.
    pub(crate) number: AtomicU64,
    /// Objects that may be stored.
    pub(crate) objects: Mutex<Vec<StoredObject>>,
}

/// An object that may be stored.
pub(crate) struct StoredObject {
    /// The cell that it belongs to.
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) object: Object,
    /// Whether it was a hit in the end.
    pub(crate) is_hit: bool,
}

impl World {
    pub(crate) fn object(&self, kind: Kind, bytes: u64, claim: Claim) -> Object {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.noise.object(number, kind, bytes, claim)
    }

    /// A question for the whole of an object.
    pub(crate) fn question<'a>(&self, host: &'a str, path: &'a str) -> Question<'a> {
        Question { edge: self.edge, host, path, range: None, pace: Pace::Fast, seen: None }
    }

    /// Asks for the narinfo of an object, if it has one.
    pub(crate) async fn ask_narinfo(&self, host: &str, object: &Object, finding: &mut Finding) {
        let Some((path, text)) = &object.narinfo else { return };
        self.origins.say(path, says(text.clone()));
        let answer = self.question(host, path).ask(text.as_bytes()).await;
        finding.add_answer("narinfo", &answer);
    }
}

/// The answer of an origin that has this object.
pub(crate) fn script(object: &Object, pieces: Pieces, draw: &mut Draw) -> Script {
    let script = says(object.body.clone())
        .etag(&format!("\"{:x}\"", draw.next()))
        .field("cache-control", "max-age=86400")
        .in_pieces(pieces);
    if draw.below(2) == 0 { script.field("accept-ranges", "bytes") } else { script }
}

/// One cell while it runs.
struct Play<'a> {
    world: &'a World,
    cell: Cell,
    host: String,
    object: Object,
    pieces: Pieces,
}

/// Plays a cell.
pub(crate) async fn play_cell(world: &World, cell: Cell) -> Finding {
    let name = cell.to_string();
    let mut draw = Draw::new(world.seed, &name);
    let bytes = cell.body_bytes();
    // An empty body is never right for a hash that is not its own.
    let is_refused = bytes == 0 && cell.kind().is_proven();
    let claim = if is_refused { Claim::Other } else { Claim::Right };
    let play = Play {
        world,
        cell,
        host: host(cell.kind(), cell.channel()),
        object: world.object(cell.kind(), bytes, claim),
        pieces: cell.pieces(&mut draw, world.bounds),
    };
    let mut finding = Finding::right();
    world.ask_narinfo(&play.host, &play.object, &mut finding).await;
    let answer = framed(script(&play.object, play.pieces, &mut draw), cell.channel());
    world.origins.say(&play.object.path, answer);
    let answers = play.read(&mut draw).await;
    for (what, answer) in &answers {
        let is_clean = matches!(answer.outcome, Outcome::Right | Outcome::Wrong(_));
        if is_refused && is_clean {
            finding.add(Verdict::WrongBytes, format!("{what}: a clean, empty {}", answer.status));
        }
        // An empty body has no range.
        if !is_refused && (bytes > 0 || answer.status != 416) {
            finding.add_answer(what, answer);
        }
    }
    if !is_refused {
        let is_hit = play.ask_again(&mut draw, &mut finding).await;
        let Play { host, object, .. } = play;
        world.objects.lock().push(StoredObject { name, host, object, is_hit });
    }
    finding
}

impl Play<'_> {
    fn question(&self) -> Question<'_> {
        self.world.question(&self.host, &self.object.path)
    }

    /// Whether the edge must keep the object: it is proven by a hash, or its origin says how long
    /// it is.
    fn is_stored(&self) -> bool {
        !self.object.body.is_empty()
            && (self.cell.kind().is_proven() || self.cell.channel().has_length())
    }

    /// What the clients get while the body comes.
    async fn read(&self, draw: &mut Draw) -> Vec<(&'static str, Answer)> {
        let body = &self.object.body;
        match self.cell.reader() {
            Reader::First => vec![("first", self.question().ask(body).await)],
            Reader::Slow => {
                let question = Question { pace: Pace::Slow, ..self.question() };
                vec![("slow", question.ask(body).await)]
            }
            Reader::Late => {
                let seen = AtomicU64::new(0);
                let first = Question { seen: Some(&seen), ..self.question() };
                let late = async {
                    self.half_way(&seen).await;
                    self.question().ask(body).await
                };
                let (first, late) = tokio::join!(first.ask(body), late);
                vec![("first", first), ("late", late)]
            }
            Reader::Range => vec![("range", self.ask_range(self.range(draw)).await)],
            Reader::Ranges => {
                let ranges = (0..RANGES).map(|_| self.ask_range(self.range(draw)));
                let asked: Vec<_> = ranges.collect();
                let mut answers = Vec::new();
                for answer in futures_util::future::join_all(asked).await {
                    answers.push(("range of several", answer));
                }
                answers
            }
        }
    }

    /// Waits until half of the body has come, or as long as half of it takes the origin.
    async fn half_way(&self, seen: &AtomicU64) {
        let half = self.object.body.len() as u64 / 2;
        let begun = Instant::now();
        while !self.world.origins.is_asked(&self.object.path) && begun.elapsed() < STORED_WITHIN {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let until = Instant::now() + self.pieces.duration(self.object.body.len() as u64) / 2;
        while seen.load(Ordering::Relaxed) < half && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A range of the body, which may be empty: then one of its first byte.
    fn range(&self, draw: &mut Draw) -> Range<u64> {
        let length = (self.object.body.len() as u64).max(1);
        let first = draw.below(length);
        first..first + 1 + draw.below(length - first)
    }

    async fn ask_range(&self, range: Range<u64>) -> Answer {
        let question = Question { range: Some(range), ..self.question() };
        question.ask(&self.object.body).await
    }

    /// Asks again when the body has come: whole, and for its first byte, its end, and a part.
    /// Whether the whole was a hit.
    async fn ask_again(&self, draw: &mut Draw, finding: &mut Finding) -> bool {
        let body = &self.object.body;
        if matches!(self.cell.reader(), Reader::Range | Reader::Ranges) {
            finding.add_answer("whole behind ranges", &self.question().ask(body).await);
        }
        let is_stored = self.is_stored() && finding.verdict == Verdict::Right;
        if is_stored && !self.becomes_hit().await {
            finding.add(Verdict::NotStored, "no hit afterwards");
        }
        let whole = self.question().ask(body).await;
        finding.add_answer(if whole.is_hit { "hit" } else { "again" }, &whole);
        if is_stored && !whole.is_hit {
            finding.add(Verdict::NotStored, "a hit, and then none");
        }
        let length = body.len() as u64;
        let ranges = [0..1, length.saturating_sub(20_000)..length, self.range(draw)];
        for range in ranges.into_iter().filter(|_| length > 0) {
            let answer = self.ask_range(range.clone()).await;
            finding.add_answer(&format!("bytes {range:?}, hit: {}", answer.is_hit), &answer);
        }
        whole.is_hit
    }

    async fn becomes_hit(&self) -> bool {
        let until = Instant::now() + STORED_WITHIN;
        while Instant::now() < until {
            if self.question().is_stored().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }
}
