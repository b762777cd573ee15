//! Tests of a whole filter: files built of random keys, notices, restarts, and the promise that
//! nothing that is in the bucket is ever said to be absent.

use super::{Builder, Event, Filter, FilterFacts, FilterVerdict, TakeError};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::config::AbsenceFilter;
use crate::metrics::Metrics;
use crate::nix::Class;
use proptest::prelude::{ProptestConfig, prop, proptest};
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

fn settings(folder: &Path) -> AbsenceFilter {
    AbsenceFilter {
        file: folder.join("filter"),
        journal: folder.join("uploads"),
        bucket: "cache".to_owned(),
        feed_timeout: Duration::from_mins(5),
        feed_retention: Duration::from_hours(1),
        uploads_max: 1_000,
    }
}

fn build(folder: &Path, keys: &HashSet<String>, at: Timestamp) {
    let mut builder = Builder::new(folder).unwrap();
    builder.add("nix-cache-info").unwrap();
    for key in keys {
        builder.add(key).unwrap();
    }
    let (bucket, source) = ("cache".to_owned(), "test".to_owned());
    let facts = FilterFacts { bucket, complete_up_to: at, source, built: at };
    let built = builder.finish(facts, &folder.join("filter"), |_| ()).unwrap();
    assert_eq!(built.given, keys.len() as u64 + 1);
}

fn filter(folder: &Path, clock: &ManualClock) -> Filter {
    let clock = Clock::Manual(clock.clone());
    let filter = Filter::new("main", settings(folder), clock, Metrics::new().unwrap());
    filter.start();
    filter
}

fn uploaded(key: &str, at: Timestamp) -> Event {
    Event::Uploaded { bucket: "cache".to_owned(), key: key.to_owned(), at: Some(at) }
}

fn verdict(filter: &Filter, key: &str) -> FilterVerdict {
    filter.check(&format!("/{key}"), Class::Narinfo).unwrap()
}

/// What may happen to a bucket and its edge.
#[derive(Debug, Clone, Copy)]
enum Step {
    Upload,
    Rebuild,
    Restart,
    Look,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_that_is_in_the_bucket_is_ever_absent(
        first in prop::collection::hash_set("[0-9a-d]{32}", 0..300),
        steps in prop::collection::vec((0..8_u8, "[0-9a-d]{32}"), 1..40),
    ) {
        let folder = TempDir::new().unwrap();
        let folder = folder.path();
        let clock = ManualClock::starting_at(Timestamp::from_secs(1_780_000_000));
        let mut bucket: HashSet<String> =
            first.iter().map(|hash| format!("{hash}.narinfo")).collect();
        build(folder, &bucket, clock.now());
        let begun = clock.now();
        let mut edge = filter(folder, &clock);
        let stated = |now| Event::Delivered { since: begun, up_to: now };
        edge.take(&[Event::KeepAlive { at: None }, stated(clock.now())]).unwrap();
        let mut answered = 0;
        for (kind, hash) in steps {
            clock.advance(Duration::from_secs(1));
            let key = format!("{hash}.narinfo");
            let step = match kind {
                0..=3 => Step::Upload,
                4 => Step::Rebuild,
                5 => Step::Restart,
                _ => Step::Look,
            };
            match step {
                Step::Upload => {
                    bucket.insert(key.clone());
                    edge.take(&[uploaded(&key, clock.now())]).unwrap();
                }
                Step::Rebuild => {
                    build(folder, &bucket, clock.now());
                    let settings = settings(folder);
                    let newer = edge.look(&settings).unwrap();
                    edge.adopt(Some(settings), newer);
                }
                Step::Restart => {
                    drop(edge);
                    edge = filter(folder, &clock);
                    assert_eq!(verdict(&edge, &key), FilterVerdict::Aside);
                    edge.take(&[stated(clock.now())]).unwrap();
                }
                Step::Look => {
                    let nar = format!("/nar/{hash}.nar");
                    assert!(edge.check(&nar, Class::Nar).is_none());
                }
            }
            for key in &bucket {
                assert_eq!(verdict(&edge, key), FilterVerdict::Maybe, "{key}");
            }
            answered += usize::from(verdict(&edge, "00000000000000000000000000000000.narinfo")
                == FilterVerdict::Absent);
        }
        assert!(answered > 0 || bucket.len() > 300 || edge.report().is_answering);
    }
}

#[test]
fn without_a_file_notices_are_noted_and_without_a_journal_refused() {
    let folder = TempDir::new().unwrap();
    let clock = ManualClock::starting_at(Timestamp::from_secs(1_780_000_000));
    let key = "00000000000000000000000000000001.narinfo";
    let unopened = Filter::new(
        "main",
        settings(folder.path()),
        Clock::Manual(clock.clone()),
        Metrics::new().unwrap(),
    );
    let refused = unopened.take(&[uploaded(key, clock.now())]).unwrap_err();
    assert!(matches!(refused, TakeError::NoJournal { .. }), "{refused}");
    let edge = filter(folder.path(), &clock);
    edge.take(&[uploaded(key, clock.now())]).unwrap();
    assert_eq!(verdict(&edge, key), FilterVerdict::Aside);
    // The upload came after what the file knows, and stays noted.
    let at = Timestamp::from_millis(clock.now().millis() - 1);
    build(folder.path(), &HashSet::new(), at);
    let newer = edge.look(&settings(folder.path())).unwrap();
    edge.adopt(None, newer);
    edge.take(&[Event::Delivered { since: at, up_to: clock.now() }]).unwrap();
    assert_eq!(verdict(&edge, key), FilterVerdict::Maybe);
    assert_eq!(verdict(&edge, &key.replace('1', "2")), FilterVerdict::Absent);
}

/// FAULTS.md F5: the bucket's clock dates an upload before the moment up to which a file is
/// complete that does not know it.
#[test]
fn an_upload_that_a_slow_clock_dates_too_early_stays_noted() {
    let folder = TempDir::new().unwrap();
    let clock = ManualClock::starting_at(Timestamp::from_secs(1_000_000));
    build(folder.path(), &HashSet::new(), clock.now());
    let edge = filter(folder.path(), &clock);
    edge.take(&[Event::KeepAlive { at: None }]).unwrap();
    clock.advance(Duration::from_mins(10));
    edge.take(&[Event::KeepAlive { at: None }]).unwrap();
    build(folder.path(), &HashSet::new(), clock.now());
    clock.advance(Duration::from_secs(10));
    let key = "b6gvzjyb2pg0kjfwrjmg1vfhh54ad73z.narinfo";
    let behind = Timestamp::from_millis(clock.now().millis() - 200_000);
    edge.take(&[uploaded(key, behind)]).unwrap();
    for _ in 0..2 {
        let newer = edge.look(&settings(folder.path())).unwrap();
        edge.adopt(None, newer);
        assert_eq!(verdict(&edge, key), FilterVerdict::Maybe);
    }
    let other = "z6gvzjyb2pg0kjfwrjmg1vfhh54ad73z.narinfo";
    assert_eq!(verdict(&edge, other), FilterVerdict::Absent, "the filter answers");
}

/// FAULTS.md S6.
#[test]
fn an_upload_that_comes_while_the_clock_is_set_back_stays_noted() {
    let folder = TempDir::new().unwrap();
    let clock = ManualClock::starting_at(Timestamp::from_secs(1_000_000));
    build(folder.path(), &HashSet::new(), clock.wall());
    let edge = filter(folder.path(), &clock);
    let key = "b6gvzjyb2pg0kjfwrjmg1vfhh54ad73z.narinfo";
    clock.set_back(Duration::from_hours(2));
    edge.take(&[uploaded(key, clock.wall())]).unwrap();
    clock.set_right();
    edge.take(&[Event::KeepAlive { at: None }]).unwrap();
    clock.advance(Duration::from_secs(10));
    build(folder.path(), &HashSet::new(), clock.wall());
    let newer = edge.look(&settings(folder.path())).unwrap();
    edge.adopt(None, newer);
    assert_eq!(verdict(&edge, key), FilterVerdict::Maybe);
    let other = "z6gvzjyb2pg0kjfwrjmg1vfhh54ad73z.narinfo";
    assert_eq!(verdict(&edge, other), FilterVerdict::Absent, "the filter answers");
}

#[test]
fn a_file_of_the_future_is_refused() {
    let folder = TempDir::new().unwrap();
    let clock = ManualClock::starting_at(Timestamp::from_secs(1_780_000_000));
    build(folder.path(), &HashSet::new(), clock.now().plus(Duration::from_millis(1)));
    let edge = filter(folder.path(), &clock);
    let report = edge.report();
    assert!(!report.is_answering && report.detail.contains("has not come"), "{}", report.detail);
}
