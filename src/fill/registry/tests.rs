//! Tests of the map of fills: what requests, purges and leaders do to it at the same time.

use super::*;
use crate::cache::{Cache, Purging, Scope};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::config::{Limits, MemorySettings, PieceSettings};
use crate::fill::flight::FillOutcome;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use std::time::Duration;
use tokio::sync::oneshot;

/// A fill that goes on until its test ends it.
struct Joined {
    role: FillRole,
    reader: FlightReader,
    end: oneshot::Sender<()>,
}

fn registry() -> Arc<Registry> {
    let limits = Limits {
        connections_max: 1,
        connections_per_address_max: 1,
        request_headers_max: 1,
        request_head_bytes_max: 1,
        path_bytes_max: 1,
        streams_max: 1,
        fills_max: 1,
        completion_size_max: 0,
        completions_max: 1,
        pieces: PieceSettings { size: 1, per_fill_max: 0, max: 1, after: Duration::ZERO },
    };
    let memory = MemorySettings { size: 1 << 20, absent_size: 1 << 16 };
    let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::new());
    let cache = Cache::new(Memory::new(&memory, &metrics), None, tasks.clone());
    let clock = Clock::Manual(ManualClock::starting_at(Timestamp::from_secs(1_000)));
    Registry::new(Arc::new(Resources::new(cache, clock, metrics, tasks, &limits)))
}

fn key() -> Key {
    Key::new("s", "/a", None)
}

/// Joins the fill of the key, or begins one.
fn join(registry: &Arc<Registry>, looked: Option<FillEpoch>) -> Result<Joined, JoinError> {
    let (end, ended) = oneshot::channel();
    let request = JoinRequest { key: &key(), demand: None, looked, ticket: None };
    let lead = |(), landing: LeadGuard| async move {
        let _: Result<(), _> = ended.await;
        drop(landing);
    };
    let (role, reader) = registry.join_or_begin(request, || Ok(()), lead)?;
    Ok(Joined { role, reader, end })
}

/// Has a fill end, and waits until its leader has left the map.
async fn end(joined: Joined) {
    joined.end.send(()).unwrap();
    joined.reader.ended().await;
    // The leader leaves the map in the same step.
    tokio::task::yield_now().await;
}

#[tokio::test]
async fn a_request_that_looked_before_a_fill_ended_looks_again() {
    let registry = registry();
    let before = registry.mark();
    let first = join(&registry, Some(before)).unwrap();
    assert_eq!(first.role, FillRole::Lead);
    assert_eq!(join(&registry, Some(before)).unwrap().role, FillRole::Follow);
    end(first).await;
    assert_eq!(join(&registry, Some(before)).err(), Some(JoinError::Ended));
    let after = registry.mark();
    assert_ne!(before, after);
    assert_eq!(join(&registry, Some(after)).unwrap().role, FillRole::Lead);
}

#[tokio::test]
async fn a_request_after_a_purge_joins_no_older_fill_and_that_one_ends_alone() {
    let registry = registry();
    let older = join(&registry, None).unwrap();
    registry.resources.cache.purge(Scope::Key(key()), Purging::Hard).await;
    let newer = join(&registry, None).unwrap();
    assert_eq!(newer.role, FillRole::Lead);
    end(older).await;
    // The older one has left the map to the newer one, and counts for no request.
    assert_eq!(join(&registry, None).unwrap().role, FillRole::Follow);
    assert_eq!(registry.mark(), FillEpoch(0));
    end(newer).await;
    assert_eq!(registry.mark(), FillEpoch(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_requests_at_once_one_begins_the_fill() {
    for _ in 0..50 {
        let registry = registry();
        let joins = (0..16).map(|_| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move { join(&registry, None).unwrap() })
        });
        let joins: Vec<_> = joins.collect();
        let mut joined = Vec::new();
        for join in joins {
            joined.push(join.await.unwrap());
        }
        let leads = joined.iter().filter(|joined| joined.role == FillRole::Lead).count();
        assert_eq!(leads, 1);
        assert_eq!(registry.resources.metrics.fills_running.get(), 1);
    }
}

#[tokio::test]
async fn a_leader_that_tells_nothing_leaves_no_reader_waiting() {
    let registry = registry();
    let joined = join(&registry, None).unwrap();
    let follower = join(&registry, None).unwrap();
    end(joined).await;
    assert!(matches!(follower.reader.outcome().await, FillOutcome::Failed(_)));
    assert_eq!(join(&registry, None).unwrap().role, FillRole::Lead);
}
