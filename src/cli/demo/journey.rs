//! What one client's journey through the edge cost: plain numbers, by class of request. Pure.

use super::client_error::DemoClientError;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything one client asked for, to fetch one closure.
#[derive(Debug, Default)]
pub struct Journey {
    /// `nix-cache-info`.
    pub cache_info: ClassCost,
    /// The narinfos.
    pub narinfo: ClassCost,
    /// The NARs.
    pub nar: ClassCost,
    /// From the first request to the last verified byte.
    pub elapsed: Duration,
    /// What did not come, or came wrong.
    pub failures: Vec<JourneyFailure>,
}

/// What the requests of one class cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassCost {
    /// Requests sent.
    pub requests: u64,
    /// Body bytes received.
    pub bytes: u64,
    /// From each request to its last byte, summed.
    pub time: Duration,
    /// How many answers the edge gave in which way, by the label of their `Cache-Status`.
    pub outcomes: BTreeMap<String, u64>,
}

/// One request that failed.
#[derive(Debug)]
pub struct JourneyFailure {
    /// The path asked for.
    pub path: String,
    /// What went wrong.
    pub error: DemoClientError,
}

/// What one request cost, whether or not it succeeded.
#[derive(Debug, Clone, Default)]
pub struct RequestCost {
    /// Body bytes received.
    pub bytes: u64,
    /// From the request to the last byte.
    pub time: Duration,
    /// The label of the answer's `Cache-Status`; `None` if no head came.
    pub outcome: Option<String>,
}

impl Journey {
    /// Requests of all classes.
    pub fn requests(&self) -> u64 {
        self.cache_info.requests + self.narinfo.requests + self.nar.requests
    }

    /// Body bytes of all classes.
    pub fn bytes(&self) -> u64 {
        self.cache_info.bytes + self.narinfo.bytes + self.nar.bytes
    }

    /// Whether everything came and everything verified.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.nar.requests > 0
    }
}

impl ClassCost {
    /// Adds one request.
    pub fn add(&mut self, spent: RequestCost) {
        self.requests += 1;
        self.bytes += spent.bytes;
        self.time += spent.time;
        let outcome = spent.outcome.unwrap_or_else(|| "no answer".to_owned());
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    /// The mean time of a request; zero if there was none.
    pub fn mean_time(&self) -> Duration {
        u32::try_from(self.requests)
            .ok()
            .and_then(|requests| self.time.checked_div(requests))
            .unwrap_or_default()
    }
}

/// The label of what the nearest cache named `cache` says in `Cache-Status` (RFC 9211 section 2):
/// its `detail` if it gives one, else `hit`, or why it went forward (`miss`, `stale`, ...).
/// `collapsed` is added to the latter. `None` if that cache says nothing.
pub fn outcome_label(cache_status: &str, cache: &str) -> Option<String> {
    // The last member is that of the cache nearest to the client.
    let members = split_unquoted(cache_status, ',');
    let parameters = members.iter().rev().find_map(|member| {
        let mut items = split_unquoted(member, ';').into_iter().map(str::trim);
        (items.next()?.trim_matches('"') == cache).then(|| items.collect::<Vec<_>>())
    })?;
    let value_of = |name: &str| {
        parameters.iter().find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            (key == name).then(|| value.trim_matches('"').to_owned())
        })
    };
    if let Some(detail) = value_of("detail") {
        return Some(detail);
    }
    if parameters.contains(&"hit") {
        return Some("hit".to_owned());
    }
    let forward = value_of("fwd")?;
    let is_collapsed = parameters.iter().any(|p| matches!(*p, "collapsed" | "collapsed=?1"));
    Some(if is_collapsed { format!("{forward}, collapsed") } else { forward })
}

/// Splits at each `separator` outside quoted strings (RFC 8941 section 3.3.3).
fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    text.split(|character: char| {
        let ends_part = !is_quoted && character == separator;
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        ends_part
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_caches_word_counts() {
        let label = |text| outcome_label(text, "narthex");
        assert_eq!(label("narthex; hit; ttl=30").as_deref(), Some("hit"));
        assert_eq!(label("narthex;hit;detail=hit_memory").as_deref(), Some("hit_memory"));
        assert_eq!(label("narthex; fwd=miss; stored").as_deref(), Some("miss"));
        let collapsed = "narthex; fwd=miss; fwd-status=200; collapsed";
        assert_eq!(label(collapsed).as_deref(), Some("miss, collapsed"));
        assert_eq!(label("narthex; fwd=miss, narthex; hit").as_deref(), Some("hit"));
        assert_eq!(label("\"narthex\"; hit, other; fwd=miss").as_deref(), Some("hit"));
        let quoted = "narthex; detail=\"a, b; c\"; hit";
        assert_eq!(label(quoted).as_deref(), Some("a, b; c"));
        let escaped = "other; detail=\"a\\\", narthex; hit\"";
        assert_eq!(label(escaped), None);
        assert_eq!(label(""), None);
        assert_eq!(label("other; hit"), None);
    }

    #[test]
    fn a_cost_adds_up() {
        let mut cost = ClassCost::default();
        assert_eq!(cost.mean_time(), Duration::ZERO);
        for (millis, outcome) in [(10, Some("miss")), (20, Some("miss")), (60, None)] {
            cost.add(RequestCost {
                bytes: 5,
                time: Duration::from_millis(millis),
                outcome: outcome.map(str::to_owned),
            });
        }
        assert_eq!((cost.requests, cost.bytes), (3, 15));
        assert_eq!(cost.mean_time(), Duration::from_millis(30));
        assert_eq!(cost.outcomes["miss"], 2);
        assert_eq!(cost.outcomes["no answer"], 1);
    }
}
