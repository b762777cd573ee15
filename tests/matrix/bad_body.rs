//! Wrong bodies, in pieces, of NARs with a known hash: no client may see a clean end, and a
//! second later the right body is fetched.

use super::cell::{CHANNELS, Channel, KINDS, Kind};
use super::client::Outcome;
use super::covering::{Draw, covering};
use super::faults::pieces::{Gap, Pieces, Size};
use super::faults::script::says;
use super::object::Claim;
use super::origin::{framed, host};
use super::play::{Finding, Verdict, World, script};
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// A bit of its first byte.
    First,
    /// A bit of a byte in the middle.
    Middle,
    /// A bit of its last byte.
    Last,
    /// It is short, and well framed.
    Short,
    Empty,
}

const DAMAGES: [(&str, Damage); 5] = [
    ("first", Damage::First),
    ("middle", Damage::Middle),
    ("last", Damage::Last),
    ("short", Damage::Short),
    ("empty", Damage::Empty),
];

const PIECES: [u64; 4] = [7, 500, 1448, 65_536];

const BODIES: [(&str, u64); 4] =
    [("1", 1), ("4096", 4096), ("1MiB+1", (1 << 20) + 1), ("6MiB", 6 << 20)];

/// The gap between two pieces.
const GAP: Gap = Gap::Apart(Duration::from_micros(100));
/// A second, and half of one for the machine.
const REST: Duration = Duration::from_millis(1500);

const LEVELS: [usize; 5] = [DAMAGES.len(), PIECES.len(), BODIES.len(), CHANNELS.len(), 2];

/// A wrong body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BadBody([usize; 5]);

impl BadBody {
    fn damage(&self) -> Damage {
        DAMAGES[self.0[0]].1
    }

    fn channel(&self) -> Channel {
        CHANNELS[self.0[3]].1
    }

    fn kind(&self) -> Kind {
        KINDS[self.0[4]].1
    }
}

impl fmt::Display for BadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [damage, pieces, body, channel, kind] = self.0;
        let (damage, pieces, body) = (DAMAGES[damage].0, PIECES[pieces], BODIES[body].0);
        write!(f, "bad/{damage}/{pieces}/{body}/{}/{}", CHANNELS[channel].0, KINDS[kind].0)
    }
}

/// All wrong bodies.
pub(crate) fn every() -> Vec<BadBody> {
    plan(LEVELS.len(), 0)
}

/// Each combination of values of any `strength` dimensions is in one of them.
pub(crate) fn plan(strength: usize, seed: u64) -> Vec<BadBody> {
    let rows = covering(&LEVELS, strength, &mut Draw::new(seed, "bad"));
    rows.iter().filter_map(|row| row[..].try_into().ok()).map(BadBody).collect()
}

/// Plays a wrong body, and then the right one.
pub(crate) async fn play(world: &World, bad: BadBody) -> Finding {
    let mut draw = Draw::new(world.seed, &bad.to_string());
    let host = host(bad.kind(), bad.channel());
    let object = world.object(bad.kind(), BODIES[bad.0[2]].1, Claim::Right);
    let size = Size::Fixed(PIECES[bad.0[1]]);
    let pieces = Pieces { size, gap: GAP, count_max: world.bounds.apart / 4 };
    let mut finding = Finding::right();
    world.ask_narinfo(&host, &object, &mut finding).await;
    let wrong = says(spoil(&object.body, bad.damage(), &mut draw)).in_pieces(pieces);
    world.origins.say(&object.path, framed(wrong.etag("\"wrong\""), bad.channel()));
    let question = world.question(&host, &object.path);
    let (first, second) = tokio::join!(question.ask(&object.body), question.ask(&object.body));
    for (what, answer) in [("first", first), ("second", second)] {
        match answer.outcome {
            Outcome::Refused(_) => {}
            Outcome::Right | Outcome::Wrong(_) => finding.add(
                Verdict::WrongBytes,
                format!("{what}: a clean end of a wrong body: {:?}", answer.outcome),
            ),
            Outcome::Hung(how) => finding.add(Verdict::Hung, format!("{what}: {how}")),
        }
    }
    world.origins.say(&object.path, framed(script(&object, pieces, &mut draw), bad.channel()));
    tokio::time::sleep(REST).await;
    let mut later = question.ask(&object.body).await;
    if matches!(later.outcome, Outcome::Refused(_)) {
        // A fetch that had begun before the origin was right ended after the pause began.
        tokio::time::sleep(REST).await;
        later = question.ask(&object.body).await;
    }
    match later.outcome {
        Outcome::Right => {}
        Outcome::Wrong(how) => finding.add(Verdict::WrongBytes, format!("later: {how}")),
        Outcome::Hung(how) => finding.add(Verdict::Hung, format!("later: {how}")),
        Outcome::Refused(how) => finding.add(Verdict::StillRefused, format!("later: {how}")),
    }
    finding
}

fn spoil(body: &Bytes, damage: Damage, draw: &mut Draw) -> Bytes {
    let mut wrong = body.to_vec();
    let last = wrong.len() - 1;
    let middle = last / 2;
    match damage {
        Damage::First => wrong[0] ^= 1,
        Damage::Middle => wrong[middle] ^= 1,
        Damage::Last => wrong[last] ^= 1,
        Damage::Short => {
            let missing = 1 + draw.below(wrong.len().min(20_000) as u64);
            wrong.truncate(wrong.len() - usize::try_from(missing).unwrap_or(1));
        }
        Damage::Empty => wrong.clear(),
    }
    wrong.into()
}
