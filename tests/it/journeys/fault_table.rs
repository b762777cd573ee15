//! Each fault of an origin against each state of an object: what the client got, and what was
//! kept. The expectations are written by hand; `fault_table.md` beside this file is made of them,
//! for readers.

mod expected;

use crate::harness::{Edge, Fault, Origin, Package, Place, Said, Script, Setup, Strikes, says};
use expected::{Bucket, ROWS, Row};
use narthex::clock::Clock;
use std::fmt::Write;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::Semaphore;

const MIB: usize = 1 << 20;
const DAY: u64 = 86_400;
/// Edges at work at the same time.
const ABREAST: usize = 12;
const DOCUMENT: &str = include_str!("fault_table.md");

/// What the edge has of an object when the client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NarinfoFresh,
    NarinfoStale,
    NarinfoNotHere,
    /// There is none at the origin either, and what the edge remembered of that has run out.
    NarinfoNowhere,
    NarCold,
    NarInPart,
    NarOnDisk,
}

const STATES: [(State, &str); 7] = [
    (State::NarinfoFresh, "narinfo fresh"),
    (State::NarinfoStale, "narinfo stale"),
    (State::NarinfoNotHere, "narinfo not here"),
    (State::NarinfoNowhere, "narinfo nowhere"),
    (State::NarCold, "NAR cold"),
    (State::NarInPart, "NAR in part"),
    (State::NarOnDisk, "NAR on disk"),
];

/// What the origin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Upstream,
    Bucket,
}

impl Row {
    fn expected(&self, kind: Kind, strikes: Strikes) -> [&'static str; 7] {
        let mut cells = if strikes == Strikes::Once { self.once } else { self.for_good };
        match (kind, &self.bucket) {
            (Kind::Upstream, _) | (Kind::Bucket, Bucket::Same) => {}
            (Kind::Bucket, Bucket::Nowhere([once, for_good])) => {
                cells[3] = if strikes == Strikes::Once { once } else { for_good };
            }
            (Kind::Bucket, Bucket::Always(all)) => cells = *all,
        }
        cells
    }
}

/// What is played against one origin.
struct Play {
    origin: Origin,
    edge: Edge,
    kind: Kind,
    strikes: Strikes,
    _keys: TempDir,
}

impl Play {
    async fn before(kind: Kind, strikes: Strikes) -> Self {
        let origin = Origin::start().await;
        let keys = TempDir::new().unwrap();
        let file = keys.path().join("key");
        std::fs::write(&file, "a-key").unwrap();
        let file = file.display();
        let table = match kind {
            Kind::Upstream => format!("url = \"{}\"\n", origin.url()),
            Kind::Bucket => format!(
                "url = \"s3://cache?region=us-east-1&endpoint={}\"\ncredentials = \
                 {{ access_key_id_file = \"{file}\", secret_access_key_file = \"{file}\" }}\n",
                origin.url()
            ),
        };
        let resume = if strikes == Strikes::Once { "20s" } else { "300ms" };
        let timeouts = "connect = \"5s\"\nfirst_byte = \"20s\"\nbetween_bytes = \"20s\"";
        let setup = Setup::default().timeouts(&format!("{timeouts}\nresume = \"{resume}\""));
        let setup = setup.tables("[server.limits]\ncompletion_size_max = 0");
        let edge = setup.start_before(&[table]).await;
        origin.go_by(Clock::Manual(edge.manual()));
        Self { origin, edge, kind, strikes, _keys: keys }
    }

    /// What the origin calls an object.
    fn target(&self, path: &str) -> String {
        match self.kind {
            Kind::Upstream => path.to_owned(),
            Kind::Bucket => format!("/cache{path}"),
        }
    }

    /// Plays a row; what the client got in each state.
    async fn row(&self, row: &Row) -> [String; 7] {
        let mut seen = [const { String::new() }; 7];
        for (number, (state, _)) in STATES.iter().enumerate() {
            let cell = Cell::new(*state, number as u64 + 1);
            cell.prepare(self).await;
            seen[number] = cell.play(self, row).await;
        }
        seen
    }

    /// The origin begins to fail in this way, and the edge has little patience with it.
    async fn fail(&self, cell: &Cell, row: &Row) {
        if let Some(deadline) = row.deadline {
            let patient = format!("{deadline} = \"20s\"");
            let hasty = self.edge.text.replace(&patient, &format!("{deadline} = \"300ms\""));
            assert_ne!(hasty, self.edge.text);
            self.edge.reload(&hasty).await.unwrap();
        }
        let fault = (row.fault)(cell);
        if (fault, self.strikes) == (Fault::Refuse, Strikes::ForGood) {
            self.origin.die();
        } else {
            self.origin.fail(&self.target(&cell.path), fault, self.strikes);
        }
    }

    /// The origin is sound again.
    async fn recover(&self, cell: &Cell, row: &Row) {
        self.edge.until_idle().await;
        if ((row.fault)(cell), self.strikes) == (Fault::Refuse, Strikes::ForGood) {
            self.origin.revive().await;
        }
        self.origin.recover();
        if row.deadline.is_some() {
            self.edge.reload(&self.edge.text).await.unwrap();
        }
    }
}

/// An object in its state.
struct Cell {
    state: State,
    package: Package,
    path: String,
    body: bytes::Bytes,
}

impl Cell {
    fn new(state: State, seed: u64) -> Self {
        let length = if state == State::NarInPart { MIB + 100_000 } else { 100_000 };
        let package = Package::new(seed, length);
        let (path, body) = match state {
            State::NarinfoFresh
            | State::NarinfoStale
            | State::NarinfoNotHere
            | State::NarinfoNowhere => (package.narinfo_path.clone(), package.narinfo().into()),
            State::NarCold | State::NarInPart | State::NarOnDisk => {
                (package.nar_path.clone(), package.nar.clone())
            }
        };
        Self { state, package, path, body }
    }

    /// A place that has not come yet, if the object is here in part.
    fn late(&self) -> Place {
        let length = self.body.len();
        Place::Object((length - length.min(50_000) / 2) as u64)
    }

    /// A place that a hash or a signature speaks for.
    fn proven(&self) -> Place {
        let text = std::str::from_utf8(&self.body).ok();
        let signed = text.and_then(|text| text.find("NarHash: sha256:"));
        signed.map_or_else(|| self.late(), |at| Place::Object(at as u64 + 20))
    }

    /// Brings the edge into the state, while the origin is sound.
    async fn prepare(&self, play: &Play) {
        let Play { origin, edge, .. } = play;
        let narinfo = says(self.package.narinfo()).etag("\"narinfo\"");
        origin.say(&play.target(&self.package.narinfo_path), narinfo);
        let nar = says(self.package.nar.clone()).etag("\"nar\"");
        origin.say(&play.target(&self.package.nar_path), nar);
        match self.state {
            State::NarinfoNotHere => {}
            State::NarinfoFresh => drop(edge.get(&self.path).await.expect(200, "miss")),
            State::NarinfoStale => {
                edge.get(&self.path).await.expect(200, "miss");
                edge.pass_time(DAY);
            }
            State::NarinfoNowhere => {
                origin.say(&play.target(&self.path), Script::fault(404, "NoSuchKey"));
                edge.get(&self.path).await.expect(404, "absent");
                edge.pass_time(10);
            }
            State::NarCold | State::NarInPart | State::NarOnDisk => {
                edge.get(&self.package.narinfo_path).await.expect(200, "miss");
            }
        }
        match self.state {
            State::NarInPart => {
                let part = edge.read_with(&self.path, &[("range", "bytes=0-99")]).await;
                part.expect(206, "miss").with(&self.body[..100]);
            }
            State::NarOnDisk => drop(edge.get(&self.path).await.expect(200, "miss")),
            State::NarinfoFresh
            | State::NarinfoStale
            | State::NarinfoNotHere
            | State::NarinfoNowhere
            | State::NarCold => {}
        }
        edge.until_idle().await;
    }

    /// Asks while the origin fails, and again when it is sound; what came of both.
    async fn play(&self, play: &Play, row: &Row) -> String {
        play.fail(self, row).await;
        let said = play.edge.client().try_to_read(&self.path, &[]).await;
        let got = self.judge(said.as_ref(), row);
        play.recover(self, row).await;
        let asked = play.origin.count(&play.target(&self.path));
        let then = self.ask_until_right(play, row).await;
        let is_asked = play.origin.count(&play.target(&self.path)) > asked;
        assert_eq!(is_asked, !then.starts_with("hit_"), "{} {:?}: {then}", row.name, self.state);
        format!("{got}; {then}")
    }

    /// What the client got. Nothing wrong or truncated ever ends cleanly, and nothing is absent
    /// but what the origin has not.
    fn judge(&self, said: Option<&Said>, row: &Row) -> String {
        let what = format!("{} {:?}: {said:?}", row.name, self.state);
        let Some(said) = said else { return "cut".to_owned() };
        let status = said.status.as_u16();
        match status {
            200 if said.is_cut => {
                // A bit that was turned may have gone out: the cut tells that it is not to be used.
                let is_turned = matches!((row.fault)(self), Fault::Flip(_) | Fault::Replaced(_));
                assert!(is_turned || self.body.starts_with(&said.body), "{what}");
                return format!("{status} {}, cut", said.outcome());
            }
            200 => assert!(said.body == self.body, "{what}"),
            404 => assert_eq!(self.state, State::NarinfoNowhere, "{what}"),
            _ => assert!(matches!(status, 500..=599) && !said.is_cut, "{what}"),
        }
        format!("{status} {}", said.outcome())
    }

    /// Asks until the answer is the right one: an origin that has failed, and a key that came
    /// wrong, may be given a rest. No other answer is there meanwhile but that the origin fails.
    async fn ask_until_right(&self, play: &Play, row: &Row) -> String {
        let right = if self.state == State::NarinfoNowhere { 404 } else { 200 };
        for turn in 0..2_000 {
            let said = play.edge.get(&self.path).await;
            if said.status == right {
                let is_right = right == 404 || said.body == self.body;
                assert!(is_right && !said.is_cut, "{} {:?}: {said:?}", row.name, self.state);
                return said.outcome() + if turn == 0 { "" } else { " later" };
            }
            assert_eq!(said.outcome(), "origin_failed", "{} {:?}: {said:?}", row.name, self.state);
            play.edge.pass_time(1);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{} {:?}: no right answer any more", row.name, self.state);
    }
}

fn markdown() -> String {
    let mut text = String::new();
    for (title, strikes) in
        [("The fault strikes once", Strikes::Once), ("The fault stays", Strikes::ForGood)]
    {
        write!(text, "\n## {title}\n\n| fault |").unwrap();
        for (_, name) in STATES {
            write!(text, " {name} |").unwrap();
        }
        text += "\n|---|---|---|---|---|---|---|---|\n";
        for row in ROWS {
            let mut cells = row.expected(Kind::Upstream, strikes).map(str::to_owned);
            let bucket = row.expected(Kind::Bucket, strikes);
            for (cell, of_bucket) in cells.iter_mut().zip(bucket) {
                if cell != of_bucket {
                    *cell = format!("{cell} (bucket: {of_bucket})");
                }
            }
            writeln!(text, "| {} | {} |", row.name, cells.join(" | ")).unwrap();
        }
    }
    text
}

#[test]
fn the_document_says_what_is_expected() {
    let (head, _) = DOCUMENT.split_once("\n## ").unwrap();
    let wanted = format!("{head}{}", markdown());
    assert!(wanted == DOCUMENT, "tests/it/journeys/fault_table.md must be:\n{wanted}");
}

/// Whether a cell came out as it was to. A reset takes what its client has not read yet with it,
/// so that one that is to come behind a head may come without. A reader that looks at its fill
/// only after the first try has failed gets the second try whole, if the fault strikes once.
fn is_as(seen: &str, wanted: &str, strikes: Strikes) -> bool {
    let overtaken = wanted.split_once(", cut; ").map(|(_, then)| format!("cut; {then}"));
    let is_second_try = strikes == Strikes::Once && seen == wanted.replacen(", cut; ", "; ", 1);
    seen == wanted || overtaken.as_deref() == Some(seen) || is_second_try
}

async fn play(kind: Kind) {
    let room = Arc::new(Semaphore::new(ABREAST));
    let mut playing = Vec::new();
    for row in ROWS {
        for strikes in [Strikes::Once, Strikes::ForGood] {
            let room = Arc::clone(&room);
            playing.push(tokio::spawn(async move {
                let _turn = room.acquire_owned().await;
                let seen = Play::before(kind, strikes).await.row(row).await;
                let wanted = row.expected(kind, strikes);
                let is_wanted =
                    seen.iter().zip(wanted).all(|(seen, wanted)| is_as(seen, wanted, strikes));
                (!is_wanted).then(|| format!("{} {strikes:?}:\n{seen:#?}", row.name))
            }));
        }
    }
    let mut other = Vec::new();
    for playing in playing {
        other.extend(playing.await.unwrap());
    }
    assert!(other.is_empty(), "{} rows came out otherwise:\n{}", other.len(), other.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_gets_while_an_upstream_fails() {
    play(Kind::Upstream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_gets_while_a_bucket_fails() {
    play(Kind::Bucket).await;
}
