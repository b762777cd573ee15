//! The cache, the fills, the store and the engine in one thread, with a virtual clock, a virtual
//! disk and a scripted origin, all driven by one seed. After each answer a plain model (`model`)
//! says what the client may have got. The same seed gives the same run.
//!
//! `NARTHEX_SIMULATOR_SEEDS=N` runs N seeds, `NARTHEX_SIMULATOR_SEED=S` one of them and shows its
//! events and its log:
//!
//! ```text
//! NARTHEX_SIMULATOR_SEED=4711 cargo test --lib simulator -- --nocapture
//! ```

mod client;
mod model;
mod origin;
mod scene;
mod seed;

use seed::{Outcome, run};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of a plain run of the tests.
const SEEDS: u64 = 60;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_seed_keeps_to_the_model() {
    if let Some(seed) = variable("NARTHEX_SIMULATOR_SEED") {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
        let log = log.without_time().with_ansi(false).with_writer(std::io::stderr).finish();
        let outcome = tracing::subscriber::with_default(log, || run(seed, true));
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        return;
    }
    let (first, count) = (
        variable("NARTHEX_SIMULATOR_FIRST").unwrap_or(0),
        variable("NARTHEX_SIMULATOR_SEEDS").unwrap_or(SEEDS),
    );
    let (next, steps) = (AtomicU64::new(first), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut failed: Vec<(u64, Vec<String>)> = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count || failed.len() >= 3 {
                    return failed;
                }
                let outcome = std::panic::catch_unwind(|| run(seed, false));
                let Ok(Outcome { violations, steps: own, .. }) = outcome else {
                    failed.push((seed, vec!["a panic".to_owned()]));
                    continue;
                };
                steps.fetch_add(own, Ordering::Relaxed);
                if !violations.is_empty() {
                    eprintln!("seed {seed}: {violations:#?}");
                    failed.push((seed, violations));
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a simulation")).collect()
    });
    failed.sort();
    eprintln!("{count} seeds, {} steps", steps.load(Ordering::Relaxed));
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_seed_runs_the_same_way_each_time() {
    let seeds = variable("NARTHEX_SIMULATOR_SEEDS").unwrap_or(SEEDS);
    for seed in 0..seeds.div_ceil(100).max(10) {
        let (one, other) = (run(seed, false), run(seed, false));
        assert_eq!((one.trace, one.steps), (other.trace, other.steps), "seed {seed}");
    }
}
