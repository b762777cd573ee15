//! Replays a trace through a policy and counts what it saved. Pure; called by `main`.

use crate::policy::{Objects, Policy};
use crate::random::mix;
use crate::traces::Trace;
use std::collections::HashSet;

/// The part of a trace that fills the cache and is not counted, in percent.
pub(crate) const WARM_UP_PERCENT: usize = 25;

/// What came of a replay, over the part of the trace that counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratios {
    /// Requests answered from the cache, of all; percent.
    pub(crate) object_hits: f64,
    /// Bytes answered from the cache, of all; percent.
    pub(crate) byte_hits: f64,
    /// Bytes of memory for each object in the index.
    pub(crate) index_bytes: f64,
}

/// What the policies need to know of a trace's objects.
pub(crate) fn objects(trace: &Trace) -> Objects {
    Objects {
        charges: trace.bodies.iter().map(|&body| narthex::store::charge(body)).collect(),
        hashes: (0..trace.bodies.len() as u64).map(mix).collect(),
    }
}

/// Bytes that all objects take which the trace asks for.
pub(crate) fn footprint(trace: &Trace, objects: &Objects) -> u64 {
    let asked: HashSet<u32> = trace.requests.iter().copied().collect();
    asked.into_iter().map(|object| objects.charges[object as usize]).sum()
}

/// Replays all of it. What is larger than `limit` is never taken in.
pub(crate) fn replay(
    trace: &Trace,
    objects: &Objects,
    limit: u64,
    policy: &mut dyn Policy,
) -> Ratios {
    let warm_up = trace.requests.len() * WARM_UP_PERCENT / 100;
    let (mut asked, mut asked_bytes, mut hits, mut hit_bytes) = (0_u64, 0_u64, 0_u64, 0_u64);
    for (number, &object) in trace.requests.iter().enumerate() {
        let body = trace.bodies[object as usize];
        let is_hit = policy.hit(object);
        if !is_hit && objects.charges[object as usize] <= limit {
            policy.insert(object);
        }
        if number >= warm_up {
            asked += 1;
            asked_bytes += body;
            hits += u64::from(is_hit);
            hit_bytes += if is_hit { body } else { 0 };
        }
    }
    Ratios {
        object_hits: percent(hits, asked),
        byte_hits: percent(hit_bytes, asked_bytes),
        index_bytes: policy.index_bytes(),
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
