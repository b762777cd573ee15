//! What small pieces cost in memory: while a body comes in them and a slow client reads it, the
//! edge takes little more than at rest.

use super::Failure;
use super::cell::{Bounds, CHANNELS, Channel, KINDS, Kind};
use super::client::{Pace, Question};
use super::covering::Draw;
use super::edge::Edge;
use super::faults::pieces::{Gap, Pieces, Size};
use super::object::Claim;
use super::origin::{framed, host};
use super::play::{Finding, Verdict, World, script};
use std::fmt;
use std::time::Duration;

const BODY_BYTES: u64 = 6 << 20;
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
    /// Pieces at most: as many as there are, if they cost little to make.
    fn count_max(&self, bounds: Bounds) -> u64 {
        let are_cheap = (self.gap, self.channel) == (Gap::Joined, Channel::Chunked);
        if are_cheap { bounds.joined } else { bounds.back_to_back }
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

/// All of them: pieces that are written together are what an edge receives fastest.
pub(crate) fn every() -> Vec<MemoryCase> {
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
    all
}

/// Those of the short form.
pub(crate) fn short() -> Vec<MemoryCase> {
    let is_short = |case: &MemoryCase| match (case.channel, case.kind) {
        (Channel::Chunked, Kind::Name | Kind::Generic) | (Channel::Http2Open, Kind::Unproven) => {
            true
        }
        (_, _) => false,
    };
    every().into_iter().filter(is_short).collect()
}

/// Plays one, and what it took in memory; `at_rest` is what the edge takes without it, in bytes.
pub(crate) async fn play(
    world: &World,
    edge: &Edge,
    at_rest: u64,
    case: MemoryCase,
) -> Result<(Finding, u64), Failure> {
    let host = host(case.kind, case.channel);
    let object = world.object(case.kind, BODY_BYTES, Claim::Right);
    let mut finding = Finding::right();
    world.ask_narinfo(&host, &object, &mut finding).await;
    let size = Size::Fixed(case.piece_bytes);
    let pieces = Pieces { size, gap: case.gap, count_max: case.count_max(world.bounds) };
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
