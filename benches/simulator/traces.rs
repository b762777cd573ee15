//! Traces made from a seed: what clients of a binary cache ask for, with its sizes. Pure; called
//! by `main`. A path is two objects, its narinfo and then its NAR, as a client fetches them.

use crate::random::{Random, Zipf};

/// Requests and the sizes of what they ask for.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Its name in the table.
    pub(crate) name: String,
    /// Its parameters, for the head of the table.
    pub(crate) about: String,
    /// The body of each object in bytes; its position is its number.
    pub(crate) bodies: Vec<u64>,
    /// The objects asked for, in order.
    pub(crate) requests: Vec<u32>,
}

/// How large a trace is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Paths that the Zipf part asks for.
    pub(crate) paths: u32,
    /// Paths fetched in all; each is two requests.
    pub(crate) fetches: u32,
    /// The seed of the random numbers.
    pub(crate) seed: u64,
}

const NARINFO_MEDIAN_BYTES: f64 = 1000.0;
const NARINFO_SIGMA: f64 = 0.3;
const NAR_MEDIAN_BYTES: f64 = 80.0 * 1024.0;
/// Gives a mean of 650 KiB.
const NAR_SIGMA: f64 = 2.047;
const NAR_BYTES_MIN: f64 = 100.0;
const NAR_BYTES_MAX: f64 = 5e9;

/// The exponent of the Zipf part if there is another part beside it.
const BACKGROUND_ALPHA: f64 = 0.9;

/// Paths that only scans ask for, for each path of the Zipf part.
const ARCHIVE_RATIO: u32 = 4;
const SCANS: u32 = 4;
/// How much of the time a scan runs.
const SCAN_TIME: f64 = 0.4;
/// How much of all fetches are a scan's while it runs.
const SCAN_SHARE: f64 = 0.5;

const CLOSURE_PATHS: u32 = 2656;
/// How many of these paths every client needs; the others ever fewer do, the last one in ten.
const CLOSURE_CORE: u32 = CLOSURE_PATHS / 3;
const RELEASES: u32 = 8;
const BURST_SHARE: f64 = 0.5;
/// The mean time from a release to a client's upgrade, in intervals between releases.
const UPGRADE_MEAN: f64 = 0.25;
/// The time one upgrade takes, in intervals between releases.
const UPGRADE_TIME: f64 = 0.02;

/// What all sizes are drawn from, for the head of the table.
pub(crate) fn sizes_about() -> String {
    format!(
        "sizes log-normal: narinfo median {NARINFO_MEDIAN_BYTES} B, sigma {NARINFO_SIGMA}; NAR \
         median {} KiB, sigma {NAR_SIGMA} (mean 650 KiB), {NAR_BYTES_MIN} B to {} GB; size and \
         popularity independent",
        NAR_MEDIAN_BYTES / 1024.0,
        NAR_BYTES_MAX / 1e9,
    )
}

/// A fixed set of paths, each as popular as its rank says.
pub(crate) fn zipf(shape: Shape, alpha: f64) -> Trace {
    let mut random = Random::new(shape.seed, 1);
    let ranks = Zipf::new(shape.paths, alpha);
    let mut requests = Vec::with_capacity(shape.fetches as usize * 2);
    for _ in 0..shape.fetches {
        requests.extend(path_objects(ranks.sample(&mut random)));
    }
    Trace {
        name: format!("zipf {alpha}"),
        about: format!("{} fetches of {} paths by rank, alpha {alpha}", shape.fetches, shape.paths),
        bodies: bodies(shape, shape.paths),
        requests,
    }
}

/// A Zipf working set, and crawlers that fetch what no other client does: old releases, each path
/// once.
pub(crate) fn scan(shape: Shape) -> Trace {
    let mut random = Random::new(shape.seed, 2);
    let ranks = Zipf::new(shape.paths, BACKGROUND_ALPHA);
    let mut requests = Vec::with_capacity(shape.fetches as usize * 2);
    let archive = shape.paths * ARCHIVE_RATIO;
    let mut crawled = 0;
    for fetch in 0..shape.fetches {
        let time = f64::from(fetch) / f64::from(shape.fetches) * f64::from(SCANS);
        let is_scanned = time.fract() < SCAN_TIME && random.unit() < SCAN_SHARE;
        let path = if is_scanned {
            crawled += 1;
            shape.paths + crawled % archive
        } else {
            ranks.sample(&mut random)
        };
        requests.extend(path_objects(path));
    }
    Trace {
        name: "scan".to_owned(),
        about: format!(
            "{} fetches: {} paths by rank, alpha {BACKGROUND_ALPHA}; {SCANS} scans, running {} % \
             of the time at {} % of the fetches, of an archive of {archive} more paths, each once",
            shape.fetches,
            shape.paths,
            SCAN_TIME * 100.0,
            SCAN_SHARE * 100.0,
        ),
        bodies: bodies(shape, shape.paths + archive),
        requests,
    }
}

/// A Zipf background, and releases: many clients fetch the whole new closure of each soon after.
pub(crate) fn burst(shape: Shape) -> Trace {
    let mut random = Random::new(shape.seed, 3);
    let ranks = Zipf::new(shape.paths, BACKGROUND_ALPHA);
    let of_release = f64::from(shape.fetches) * BURST_SHARE / f64::from(RELEASES);
    let mut timed = Vec::with_capacity(shape.fetches as usize * 2);
    let mut clients = 0_u32;
    for release in 0..RELEASES {
        let first = shape.paths + release * CLOSURE_PATHS;
        let mut fetched = 0_usize;
        while (fetched as f64) < of_release {
            let wait = random.exponential(UPGRADE_MEAN);
            let start = f64::from(release) + wait;
            let wanted = wanted_paths(&mut random, first);
            fetched += wanted.len();
            clients += 1;
            let steps = (wanted.len() * 2) as f64;
            let narinfos = wanted.iter().map(|path| narinfo(*path));
            let objects = narinfos.chain(wanted.iter().map(|path| narinfo(*path) + 1));
            let timing = |(step, object)| (start + UPGRADE_TIME * step as f64 / steps, object);
            timed.extend(objects.enumerate().map(timing));
        }
    }
    for _ in 0..(f64::from(shape.fetches) * (1.0 - BURST_SHARE)) as u64 {
        let time = random.unit() * f64::from(RELEASES);
        timed.extend(path_objects(ranks.sample(&mut random)).map(|object| (time, object)));
    }
    timed.sort_by(|left, right| left.0.total_cmp(&right.0));
    Trace {
        name: "burst".to_owned(),
        about: format!(
            "{} fetches: {} % of {} paths by rank, alpha {BACKGROUND_ALPHA}; the rest from \
             {RELEASES} releases of {CLOSURE_PATHS} new paths, {clients} clients in all, each \
             taking the first third and ever fewer of the others, after a wait of mean \
             {UPGRADE_MEAN} intervals, over {UPGRADE_TIME} intervals",
            shape.fetches,
            (1.0 - BURST_SHARE) * 100.0,
            shape.paths,
        ),
        bodies: bodies(shape, shape.paths + RELEASES * CLOSURE_PATHS),
        requests: timed.into_iter().map(|(_, object)| object).collect(),
    }
}

/// The paths of one closure that one client does not have yet.
fn wanted_paths(random: &mut Random, first: u32) -> Vec<u32> {
    let beyond = f64::from(CLOSURE_PATHS - CLOSURE_CORE);
    let is_wanted = |rank: &u32| {
        let share = 1.0 - 0.9 * f64::from(rank.saturating_sub(CLOSURE_CORE)) / beyond;
        random.unit() < share
    };
    (0..CLOSURE_PATHS).filter(is_wanted).map(|rank| first + rank).collect()
}

fn narinfo(path: u32) -> u32 {
    path * 2
}

fn path_objects(path: u32) -> [u32; 2] {
    [narinfo(path), narinfo(path) + 1]
}

fn bodies(shape: Shape, paths: u32) -> Vec<u64> {
    let mut random = Random::new(shape.seed, 4);
    let sizes = (0..paths).flat_map(|_| {
        let narinfo = random.log_normal(NARINFO_MEDIAN_BYTES, NARINFO_SIGMA);
        let nar = random.log_normal(NAR_MEDIAN_BYTES, NAR_SIGMA);
        [narinfo as u64, nar.clamp(NAR_BYTES_MIN, NAR_BYTES_MAX) as u64]
    });
    sizes.collect()
}
