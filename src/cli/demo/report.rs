//! What the demo says, as text: pure functions from numbers to lines.

use super::journey::{ClassCost, Journey};
use super::progress::Screen;
use super::sample::{BUCKET, Sample};
use crate::nix::narinfo::NarInfo;
use http::StatusCode;
use indicatif::DecimalBytes;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// Failures that are named one by one.
const FAILURES_NAMED: usize = 10;

/// Requests that reached the origin, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OriginRequests {
    /// For `nix-cache-info`.
    pub cache_info: u64,
    /// For narinfos.
    pub narinfo: u64,
    /// For NARs.
    pub nar: u64,
    /// For anything else.
    pub other: u64,
}

/// A journey, and what it cost the origin.
#[derive(Debug)]
pub struct JourneyReport {
    /// `cold` or `warm`.
    pub title: &'static str,
    /// What the client saw.
    pub journey: Journey,
    /// What the origin saw.
    pub origin: OriginRequests,
    /// Body bytes that the origin sent.
    pub origin_bytes: u64,
}

/// Bytes and objects of one tier, as the edge's metrics tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// `memory` or `disk`.
    pub name: String,
    /// Objects held.
    pub objects: u64,
    /// Bytes held.
    pub bytes: u64,
}

/// The addresses of all listeners.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The edge, for clients.
    pub edge: SocketAddr,
    /// The edge, for operators.
    pub admin: Option<SocketAddr>,
    /// The private origin.
    pub origin: SocketAddr,
}

impl OriginRequests {
    /// Sums counts by key (without a leading `/`).
    pub fn from_keys(counts: &HashMap<String, u64>) -> Self {
        let mut sums = Self::default();
        for (key, count) in counts {
            let sum = match key.as_str() {
                "nix-cache-info" => &mut sums.cache_info,
                key if key.ends_with(".narinfo") => &mut sums.narinfo,
                key if key.starts_with("nar/") => &mut sums.nar,
                _ => &mut sums.other,
            };
            *sum += count;
        }
        sums
    }

    /// What came after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cache_info: self.cache_info.saturating_sub(earlier.cache_info),
            narinfo: self.narinfo.saturating_sub(earlier.narinfo),
            nar: self.nar.saturating_sub(earlier.nar),
            other: self.other.saturating_sub(earlier.other),
        }
    }

    /// All of them.
    pub fn total(self) -> u64 {
        self.cache_info + self.narinfo + self.nar + self.other
    }
}

/// The addresses of everything, before the first client comes.
///
/// `unsigned` is what the origin answers to a request without a signature.
pub fn scene(
    screen: Screen,
    sample: &Sample,
    addresses: Addresses,
    unsigned: Option<StatusCode>,
) -> String {
    let mut text = format!("{}\n", heading(screen, "Narthex demo"));
    let paths = sample.paths.len();
    let bytes = DecimalBytes(sample.object_bytes());
    let key = sample.public_key.name();
    push(&mut text, "sample", &format!("{paths} store paths, {bytes}, signed by {key}"));
    let origin = addresses.origin;
    push(&mut text, "origin", &format!("http://{origin}, private S3 bucket '{BUCKET}'"));
    if let Some(status) = unsigned {
        push(&mut text, "", &format!("SigV4 only: an unsigned GET is answered {status}"));
    }
    push(&mut text, "edge", &format!("http://{}", addresses.edge));
    if let Some(admin) = addresses.admin {
        push(&mut text, "admin", &format!("http://{admin}/metrics"));
    }
    text
}

/// What every class of request cost on each leg.
pub fn costs(screen: Screen, legs: &[JourneyReport]) -> String {
    let mut text = format!("{}\n", heading(screen, "What it cost"));
    let header = ["", "", "requests", "bytes", "to origin", "mean time", "answered"];
    row(&mut text, header);
    for leg in legs {
        let journey = &leg.journey;
        let mut title = leg.title;
        for (class, cost, origin) in [
            ("nix-cache-info", &journey.cache_info, leg.origin.cache_info),
            ("narinfo", &journey.narinfo, leg.origin.narinfo),
            ("nar", &journey.nar, leg.origin.nar),
        ] {
            row(
                &mut text,
                [
                    title,
                    class,
                    &cost.requests.to_string(),
                    &DecimalBytes(cost.bytes).to_string(),
                    &origin.to_string(),
                    &duration(cost.mean_time()),
                    &outcomes(cost),
                ],
            );
            title = "";
        }
        row(
            &mut text,
            [
                "",
                "together",
                &journey.requests().to_string(),
                &DecimalBytes(journey.bytes()).to_string(),
                &leg.origin.total().to_string(),
                "",
                &format!("in {}", duration(journey.elapsed)),
            ],
        );
    }
    text
}

/// What the cache did about it, in words.
pub fn verdict(legs: &[JourneyReport], tiers: &[Tier]) -> String {
    let mut text = String::new();
    for leg in legs {
        let JourneyReport { title, origin, origin_bytes, .. } = leg;
        let sentence = match origin.total() {
            0 => "the origin was not asked for anything".to_owned(),
            1 => format!("the origin was asked once and sent {}", DecimalBytes(*origin_bytes)),
            requests => format!(
                "the origin was asked {requests} times and sent {}",
                DecimalBytes(*origin_bytes)
            ),
        };
        push(&mut text, title, &sentence);
        for failure in leg.journey.failures.iter().take(FAILURES_NAMED) {
            push(&mut text, "failed", &format!("{}: {}", failure.path, failure.error));
        }
        let unnamed = leg.journey.failures.len().saturating_sub(FAILURES_NAMED);
        if unnamed > 0 {
            push(&mut text, "failed", &format!("{unnamed} more"));
        }
    }
    if legs.iter().all(|leg| leg.journey.is_complete()) {
        let checked = "every signature, FileHash and NarHash was checked and is right";
        push(&mut text, "bytes", checked);
    }
    for tier in tiers {
        let held = format!("{} objects, {}", tier.objects, DecimalBytes(tier.bytes));
        push(&mut text, &tier.name, &held);
    }
    text
}

/// Command lines to try; `root` has the largest closure.
pub fn try_next(screen: Screen, sample: &Sample, root: &NarInfo, addresses: Addresses) -> String {
    let edge = format!("http://{}", addresses.edge);
    let path = root.store_dir.join(&root.store_path);
    let hash_part = root.store_path.hash_part();
    let nix = "nix --extra-experimental-features nix-command";
    let key = &sample.public_key;
    let mut text = format!("{}\n", heading(screen, "Try next"));
    command(
        &mut text,
        "a narinfo, and what the edge says of it",
        &[&format!("curl -i {edge}/{hash_part}.narinfo")],
    );
    if let Some(large) = sample.paths.iter().max_by_key(|info| info.file_size) {
        command(
            &mut text,
            "a piece of the largest NAR",
            &[&format!("curl -s -D - -o /dev/null -r 1000000-1999999 {edge}/{}", large.url)],
        );
    }
    command(
        &mut text,
        "the closure, by a real Nix client, into a store of its own",
        &[
            &format!("{nix} copy --refresh --from {edge} --to /tmp/narthex-demo-store \\"),
            &format!("  --option trusted-public-keys '{key}' \\"),
            &format!("  {path}"),
        ],
    );
    command(
        &mut text,
        "what is in a path, and how it was built",
        &[
            &format!("{nix} store ls --refresh --store {edge} -lR {path}"),
            &format!("{nix} log --refresh --option substituters '' --store {edge} {path}"),
        ],
    );
    let origin = addresses.origin;
    command(
        &mut text,
        "the origin itself is private: this is 403",
        &[&format!("curl -i http://{origin}/{BUCKET}/nix-cache-info")],
    );
    if let Some(admin) = addresses.admin {
        command(
            &mut text,
            "what the operators see",
            &[&format!("curl -s http://{admin}/metrics | grep ^narthex_")],
        );
    }
    text
}

/// Bytes and objects by tier, from the Prometheus text of the admin listener.
pub fn tiers(metrics: &str) -> Vec<Tier> {
    let value = |name: &str, tier: &str| {
        let line = format!("{name}{{tier=\"{tier}\"}} ");
        metrics.lines().find_map(|text| text.strip_prefix(&line)?.trim().parse().ok())
    };
    ["memory", "disk"]
        .iter()
        .filter_map(|name| {
            Some(Tier {
                name: (*name).to_owned(),
                objects: value("narthex_stored_objects", name)?,
                bytes: value("narthex_stored_bytes", name)?,
            })
        })
        .collect()
}

/// A line that stands out on a terminal.
pub fn heading(screen: Screen, text: &str) -> String {
    match screen {
        Screen::Terminal => format!("\x1b[1m{text}\x1b[0m"),
        Screen::Plain => text.to_owned(),
    }
}

/// A duration with three or four digits.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.001 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{:.0} us", seconds * 1e6)
    }
}

/// `52 miss`, or several of them, the most frequent first.
fn outcomes(cost: &ClassCost) -> String {
    let mut outcomes: Vec<_> = cost.outcomes.iter().collect();
    outcomes.sort_by(|(_, one), (_, other)| other.cmp(one));
    let texts: Vec<_> = outcomes.iter().map(|(label, count)| format!("{count} {label}")).collect();
    texts.join("; ")
}

fn push(text: &mut String, label: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {label:<8} {value}");
}

fn row(text: &mut String, cells: [&str; 7]) {
    let [leg, class, requests, bytes, origin, time, answered] = cells;
    let line = format!(
        "  {leg:<5} {class:<15} {requests:>8}  {bytes:>9}  {origin:>9}  {time:>9}  {answered}"
    );
    text.push_str(line.trim_end());
    text.push('\n');
}

fn command(text: &mut String, title: &str, lines: &[&str]) {
    // As above.
    let _ = writeln!(text, "  # {title}");
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::journey::RequestCost;
    use super::*;

    fn cost(requests: u64, millis: u64, outcome: &str) -> ClassCost {
        let mut cost = ClassCost::default();
        for _ in 0..requests {
            cost.add(RequestCost {
                bytes: 1_500,
                time: Duration::from_millis(millis),
                outcome: Some(outcome.to_owned()),
            });
        }
        cost
    }

    fn leg(title: &'static str, outcome: &str, origin: OriginRequests) -> JourneyReport {
        let journey = Journey {
            cache_info: cost(1, 20, outcome),
            narinfo: cost(52, 25, outcome),
            nar: cost(52, 1_250, outcome),
            elapsed: Duration::from_millis(4_321),
            failures: Vec::new(),
        };
        JourneyReport { title, journey, origin, origin_bytes: origin.total() * 1_500 }
    }

    #[test]
    fn the_table_is_aligned() {
        let origin = OriginRequests { cache_info: 1, narinfo: 52, nar: 52, other: 0 };
        let legs = [leg("cold", "miss", origin), leg("warm", "hit", OriginRequests::default())];
        let expected = "\
What it cost
                        requests      bytes  to origin  mean time  answered
  cold  nix-cache-info         1    1.50 kB          1    20.0 ms  1 miss
        narinfo               52   78.00 kB         52    25.0 ms  52 miss
        nar                   52   78.00 kB         52     1.25 s  52 miss
        together             105  157.50 kB        105             in 4.32 s
  warm  nix-cache-info         1    1.50 kB          0    20.0 ms  1 hit
        narinfo               52   78.00 kB          0    25.0 ms  52 hit
        nar                   52   78.00 kB          0     1.25 s  52 hit
        together             105  157.50 kB          0             in 4.32 s
";
        assert_eq!(costs(Screen::Plain, &legs), expected);
        let expected = "  cold     the origin was asked 105 times and sent 157.50 kB
  warm     the origin was not asked for anything
  bytes    every signature, FileHash and NarHash was checked and is right
  disk     3 objects, 1.20 MB
";
        let disk = Tier { name: "disk".to_owned(), objects: 3, bytes: 1_200_000 };
        assert_eq!(verdict(&legs, &[disk]), expected);
    }

    #[test]
    fn origin_requests_are_told_apart_by_key() {
        let counts = [("nix-cache-info", 2), ("a.narinfo", 3), ("nar/a.nar.xz", 4), ("a.ls", 5)];
        let counts = counts.map(|(key, count)| (key.to_owned(), count)).into();
        let sums = OriginRequests::from_keys(&counts);
        assert_eq!(sums, OriginRequests { cache_info: 2, narinfo: 3, nar: 4, other: 5 });
        let earlier = OriginRequests { cache_info: 2, narinfo: 1, nar: 0, other: 0 };
        assert_eq!(sums.since(earlier).total(), 11);
    }

    #[test]
    fn tiers_are_read_from_the_metrics() {
        let metrics = "# HELP narthex_stored_bytes x\n\
            narthex_stored_bytes{tier=\"disk\"} 4096\n\
            narthex_stored_bytes{tier=\"memory\"} 10\n\
            narthex_stored_objects{tier=\"disk\"} 2\n";
        let disk = Tier { name: "disk".to_owned(), objects: 2, bytes: 4096 };
        assert_eq!(tiers(metrics), vec![disk]);
        assert_eq!(tiers("<html>"), vec![]);
    }

    #[test]
    fn durations_keep_their_digits() {
        assert_eq!(duration(Duration::from_micros(90)), "90 us");
        assert_eq!(duration(Duration::from_micros(1_250)), "1.2 ms");
        assert_eq!(duration(Duration::from_millis(61_234)), "61.23 s");
    }
}
