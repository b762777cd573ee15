//! Which of a site's origins are asked for an object, and in which order. Pure.

use super::exchange::Ask;
use super::forward::Forward;
use super::upstream::Upstream;
use crate::config::Turn;
use crate::nix::Class;

/// Those that may be asked, in their order: what gave wrong bodies last; before the others what is
/// to be asked first by its rules, and then where the narinfo came from.
pub(super) fn in_order<'u>(upstreams: &'u [Upstream], ask: &Ask) -> Vec<&'u Upstream> {
    let mut asked: Vec<_> = upstreams
        .iter()
        .filter(|upstream| ask.only.is_none_or(|only| only == upstream.position))
        .map(|upstream| (upstream.turns.turn(ask.class, &ask.path), upstream))
        .filter(|(turn, _)| *turn != Turn::Never)
        .collect();
    asked.sort_by_key(|(turn, upstream)| {
        let is_last = ask.avoid.contains(&upstream.position);
        (is_last, *turn, ask.prefer != Some(upstream.position))
    });
    asked.into_iter().map(|(_, upstream)| upstream).collect()
}

/// The same for a client's request.
pub(super) fn for_forward<'u>(upstreams: &'u [Upstream], forward: &Forward) -> Vec<&'u Upstream> {
    let mut asked: Vec<_> = upstreams
        .iter()
        .filter(|upstream| forward.only.is_none_or(|only| only == upstream.position))
        .map(|upstream| (upstream.turns.turn(Class::Other, &forward.path), upstream))
        .filter(|(turn, _)| *turn != Turn::Never)
        .collect();
    asked.sort_by_key(|(turn, _)| *turn);
    asked.into_iter().map(|(_, upstream)| upstream).collect()
}
