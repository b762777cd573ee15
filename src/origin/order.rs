//! Decides which of a site's origins are asked for a path, and in which order. First come the
//! origins that the rules ask first, then the origin of the narinfo. The others follow by priority;
//! among equals those with a weight come first, then the order of the file. Origins that gave wrong
//! bodies come last. Pure; called by `Origins` for each request.
//!
//! Which of several weighted origins comes first is drawn by the path, not by chance (weighted
//! rendezvous hashing). The same path goes to the same origin from every edge and after every
//! restart. So a cache behind an origin holds each object once, and a body is continued by its
//! first origin. An origin that is added or taken away moves only the paths that it gains or gives
//! up.

use super::exchange::Ask;
use super::upstream::Upstream;
use crate::config::AskOrder;
use crate::nix::Class;
use crate::nix::hash::sha256;
use std::sync::Arc;

/// Those that may be asked for an object, in their order.
pub(super) fn in_order<'u>(upstreams: &'u [Arc<Upstream>], ask: &Ask) -> Vec<&'u Arc<Upstream>> {
    let mut asked = with_a_turn(upstreams, ask.only, ask.class, &ask.path);
    asked.sort_by_key(|(turn, upstream)| {
        let is_last = ask.avoid.contains(&upstream.position);
        (is_last, *turn, ask.prefer != Some(upstream.position))
    });
    asked.into_iter().map(|(_, upstream)| upstream).collect()
}

/// Those that may be sent a client's request for `path`, in their order.
pub(super) fn for_forward<'u>(
    upstreams: &'u [Arc<Upstream>],
    path: &str,
) -> Vec<&'u Arc<Upstream>> {
    let mut asked = with_a_turn(upstreams, None, Class::Other, path);
    asked.sort_by_key(|(turn, _)| *turn);
    asked.into_iter().map(|(_, upstream)| upstream).collect()
}

/// Those that may be asked for `path`, by priority and weight, with their turns.
fn with_a_turn<'u>(
    upstreams: &'u [Arc<Upstream>],
    only: Option<usize>,
    class: Class,
    path: &str,
) -> Vec<(AskOrder, &'u Arc<Upstream>)> {
    ordered(upstreams, |upstream| rank(upstream), path)
        .into_iter()
        .filter(|upstream| only.is_none_or(|only| only == upstream.position))
        .map(|upstream| (upstream.turns.turn(class, path), upstream))
        .filter(|(turn, _)| *turn != AskOrder::Never)
        .collect()
}

/// The position of an origin among the others.
#[derive(Debug, Clone, Copy)]
struct Rank<'a> {
    /// Lower is asked first.
    priority: u32,
    /// Its share among those of its priority; 0 for none.
    weight: u32,
    /// Its name, to draw by.
    name: &'a str,
}

/// The position of `upstream`.
fn rank(upstream: &Upstream) -> Rank<'_> {
    Rank { priority: upstream.priority, weight: upstream.weight, name: &upstream.name }
}

/// The origins in the order in which they are asked for `path`; they come sorted by priority.
fn ordered<'a, T>(origins: &'a [T], rank_of: impl Fn(&'a T) -> Rank<'a>, path: &str) -> Vec<&'a T> {
    let mut ordered: Vec<&T> = origins.iter().collect();
    if origins.iter().any(|origin| rank_of(origin).weight > 0) {
        // Stable: what has no weight stays in the order of the file.
        ordered.sort_by_cached_key(|origin| {
            let rank = rank_of(origin);
            (rank.priority, draw(rank, path))
        });
    }
    ordered
}

/// Origins with lower draws are asked earlier. The draws are exponential with the weights as rates,
/// so each origin has the least one with a probability in proportion to its weight.
fn draw(rank: Rank<'_>, path: &str) -> u64 {
    if rank.weight == 0 {
        return u64::MAX;
    }
    let digest = sha256(format!("{}\n{path}", rank.name).as_bytes());
    let bits = u32::from_be_bytes(digest.first_chunk::<4>().copied().unwrap_or_default());
    let uniform = (f64::from(bits) + 0.5) / (f64::from(u32::MAX) + 1.0);
    // Positive floats are in the order of their bits.
    (-uniform.ln() / f64::from(rank.weight)).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn named(name: &'static str, priority: u32, weight: u32) -> Rank<'static> {
        Rank { priority, weight, name }
    }

    fn names(origins: &[Rank<'static>], path: &str) -> Vec<&'static str> {
        ordered(origins, |origin| *origin, path).iter().map(|origin| origin.name).collect()
    }

    fn paths() -> impl Iterator<Item = String> {
        (0..20_000).map(|number| format!("/{number}.narinfo"))
    }

    #[test]
    fn without_weights_the_order_is_that_of_priority_and_file() {
        let origins = [named("b", 5, 0), named("a", 5, 0), named("c", 10, 0)];
        assert!(paths().all(|path| names(&origins, &path) == ["b", "a", "c"]));
    }

    #[test]
    fn paths_are_shared_by_weight_and_priorities_stay_apart() {
        let origins =
            [named("a", 5, 1), named("b", 5, 3), named("last", 5, 0), named("far", 9, 1_000)];
        let mut first = BTreeMap::<_, u32>::new();
        for path in paths() {
            let names = names(&origins, &path);
            assert_eq!(names[2..], ["last", "far"]);
            *first.entry(names[0]).or_default() += 1;
        }
        assert!((4_700..5_300).contains(&first["a"]), "{first:?}");
        assert_eq!(first["a"] + first["b"], 20_000);
    }

    #[test]
    fn an_origin_less_moves_its_own_paths_only() {
        let all = [named("a", 0, 2), named("b", 0, 2), named("c", 0, 2)];
        let fewer = [all[0], all[2]];
        for path in paths() {
            let before = names(&all, &path);
            let kept: Vec<_> = before.iter().copied().filter(|name| *name != "b").collect();
            assert_eq!(names(&fewer, &path), kept);
        }
    }
}
