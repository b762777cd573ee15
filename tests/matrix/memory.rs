//! What small pieces cost in memory: while a body comes in them and a slow client reads it, the
//! edge takes little more than at rest.

use super::cell::{CHANNELS, Channel, KINDS, Kind};
use super::client::{Pace, Question};
use super::covering::Draw;
use super::edge::Edge;
use super::faults::pieces::{Gap, Pieces, Size};
use super::object::Claim;
use super::origin::{framed, host};
use super::play::{Finding, Verdict, World, script};
use super::{Failure, Form};
use std::fmt;
use std::time::Duration;

const BODY_BYTES_MAX: u64 = 6 << 20;
/// What a fill and its readers may take beyond what the edge takes at rest.
const GROWTH_BYTES_MAX: u64 = 40 << 20;

/// A body in very small pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryCase {
    piece_bytes: u64,
    gap: Gap,
    channel: Channel,
    kind: Kind,
}

impl MemoryCase {
    /// All of it in pieces, of which there are so many at most that the origin makes them in time.
    fn body_bytes(&self, form: Form) -> u64 {
        let count_max = match (self.gap, self.channel, form) {
            (Gap::Joined, Channel::Chunked, Form::Full) => 1_000_000,
            (Gap::Joined, Channel::Chunked, Form::Short) => 300_000,
            (Gap::Joined, _, Form::Full) => 200_000,
            (_, _, _) => 60_000,
        };
        BODY_BYTES_MAX.min(count_max * self.piece_bytes)
    }
}

impl fmt::Display for MemoryCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channel = CHANNELS.iter().find(|(_, own)| *own == self.channel);
        let channel = channel.map_or("", |(name, _)| name);
        let kind = KINDS.iter().find(|(_, own)| *own == self.kind).map_or("", |(name, _)| name);
        let gap = if self.gap == Gap::Joined { "joined" } else { "none" };
        write!(f, "memory/{}/{gap}/{channel}/{kind}", self.piece_bytes)
    }
}

/// The cases of a form: pieces that are written together are what an edge receives fastest.
pub(crate) fn plan(form: Form) -> Vec<MemoryCase> {
    let mut all = Vec::new();
    for (gap, channel) in [
        (Gap::Joined, Channel::Chunked),
        (Gap::Joined, Channel::Http2Open),
        (Gap::BackToBack, Channel::Length),
        (Gap::BackToBack, Channel::Tls),
    ] {
        for kind in [Kind::Name, Kind::Unproven, Kind::Generic] {
            for piece_bytes in [1, 7] {
                all.push(MemoryCase { piece_bytes, gap, channel, kind });
            }
        }
    }
    all.retain(|case| match (case.channel, case.kind) {
        (Channel::Chunked, Kind::Name | Kind::Generic) | (Channel::Http2Open, Kind::Unproven) => {
            true
        }
        (_, _) => form == Form::Full,
    });
    all
}

/// Plays one, and what it took in memory; `at_rest` is what the edge takes without it, in bytes.
pub(crate) async fn play(
    world: &World,
    (edge, at_rest): (&Edge, u64),
    (case, form): (MemoryCase, Form),
) -> Result<(Finding, u64), Failure> {
    let host = host(case.kind, case.channel);
    let object = world.object(case.kind, case.body_bytes(form), Claim::Right);
    let mut finding = Finding::right();
    world.ask_narinfo(&host, &object, &mut finding).await;
    let size = Size::Fixed(case.piece_bytes);
    let pieces = Pieces { size, gap: case.gap, count_max: u64::MAX };
    let mut draw = Draw::new(world.seed, &case.to_string());
    let answer = framed(script(&object, pieces, &mut draw), case.channel);
    world.origins.say(&object.path, answer);
    let slow = Question { pace: Pace::Slow, ..world.question(&host, &object.path) };
    let fast = world.question(&host, &object.path);
    let clients = async { tokio::join!(slow.ask(&object.body), fast.ask(&object.body)) };
    tokio::pin!(clients);
    let mut most = 0;
    let (slow, fast) = loop {
        most = most.max(edge.resident_bytes()?);
        tokio::select! {
            answers = &mut clients => break answers,
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    };
    finding.add_answer("slow", &slow);
    finding.add_answer("fast", &fast);
    let growth = most.saturating_sub(at_rest);
    if growth > GROWTH_BYTES_MAX {
        finding.add(Verdict::TooLarge, format!("{} MiB more than at rest", growth >> 20));
    }
    Ok((finding, growth))
}
