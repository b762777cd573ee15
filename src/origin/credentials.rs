//! The keys of an S3 origin: found when first needed, kept, and found anew before they expire, when
//! their files may have changed, and when the origin refuses them. One per bucket, as long lived as
//! it; the keys are swapped whole; the locks guard points in time and the search under way, and are
//! never held across an await.
//!
//! One task looks at a time, however many requests wait for it, and within a deadline. While there
//! are valid keys no request waits. The keys are renewed in the background before they expire: by a
//! quarter of their lifetime, at most ten minutes. A random part of up to half of that is added, so
//! that edges do not ask at the same moment. If that fails, the old keys stay in use until they
//! expire, and the search is repeated. A reload of the configuration begins with a new ring; the
//! timer of the old one ends with it.

use super::exchange::FetchError;
use super::key_source::{FoundKeys, KeyLookup, KeySource, Keys};
use super::meters::{KeysFound, OriginMeters};
use super::skew::Skew;
use crate::clock::{Clock, Timestamp};
use crate::sync::Mutex;
use crate::tasks::Tasks;
use arc_swap::ArcSwapOption;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Refused keys are looked for again at most this often, and missing keys are looked for elsewhere
/// no more often.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// Keys that do not expire are looked for again this often while there are requests: their files
/// may have changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Looking for keys ends after this long, whatever it waits for.
const LOAD_DEADLINE: Duration = Duration::from_secs(20);
/// A renewal that failed is tried again after this long at least, and twice this at most.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Keys are renewed this long before they expire, at most, and half of it earlier by chance.
const AHEAD_MAX: Duration = Duration::from_mins(10);

/// The source of an origin's keys, and those that were found there.
#[derive(Debug)]
pub(super) struct KeyRing(Arc<Ring>);

#[derive(Debug)]
struct Ring {
    origin: Arc<str>,
    source: KeySource,
    clock: Clock,
    skew: Arc<Skew>,
    meters: OriginMeters,
    tasks: Tasks,
    kept: ArcSwapOption<CurrentKeys>,
    moments: Mutex<KeySearch>,
}

#[derive(Debug)]
struct CurrentKeys {
    keys: Arc<Keys>,
    expires: Option<Timestamp>,
    /// When they are looked for again: by the wall clock if they expire.
    renew_at: Option<Timestamp>,
    look_at: Instant,
}

/// What came of looking for keys; `None` while it goes on.
type SearchResult = Option<Result<Arc<Keys>, Arc<str>>>;

#[derive(Debug, Default)]
struct KeySearch {
    looking: Option<watch::Receiver<SearchResult>>,
    reloaded: Option<Instant>,
    /// When looking failed last, and why.
    failed: Option<(Instant, Arc<str>)>,
    timer: Option<AbortHandle>,
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some(timer) = self.moments.get_mut().timer.take() {
            timer.abort();
        }
    }
}

impl KeyRing {
    /// The keys that `source` has, by the time that `skew` makes of the clock's; nothing is looked
    /// for yet.
    pub(super) fn new(
        origin: Arc<str>,
        source: KeySource,
        clock: Clock,
        skew: Arc<Skew>,
        meters: OriginMeters,
        tasks: Tasks,
    ) -> Self {
        let (kept, moments) = (ArcSwapOption::empty(), Mutex::default());
        Self(Arc::new(Ring { origin, source, clock, skew, meters, tasks, kept, moments }))
    }

    /// The keys to sign with; `None` if requests go unsigned.
    ///
    /// Fails with [`FetchError::Credentials`], code `missing`, that says what was looked for.
    pub(super) async fn keys(&self) -> Result<Option<Arc<Keys>>, FetchError> {
        let ring = &self.0;
        if ring.source.is_anonymous() {
            return Ok(None);
        }
        let now = ring.skew.now(&ring.clock);
        let Some(kept) = ring.kept.load_full().filter(|kept| kept.serves_at(now)) else {
            return ring.load().await.map(Some);
        };
        if kept.is_due(now) && !ring.has_failed_within(RETRY_AFTER) {
            drop(ring.look());
        }
        Ok(Some(Arc::clone(&kept.keys)))
    }

    /// Other keys than the `refused` ones, if there are any by now.
    pub(super) async fn other_than(&self, refused: &Keys) -> Option<Arc<Keys>> {
        let ring = &self.0;
        let kept = ring.kept.load_full().map(|kept| Arc::clone(&kept.keys));
        if let Some(keys) = kept.filter(|keys| **keys != *refused) {
            return Some(keys);
        }
        if !ring.may_reload() {
            return None;
        }
        ring.wait(ring.look()).await.ok().filter(|keys| **keys != *refused)
    }
}

impl CurrentKeys {
    fn serves_at(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        match self.renew_at {
            Some(at) => now >= at,
            None => Instant::now() >= self.look_at,
        }
    }
}

impl Ring {
    /// Keys that serve, once they are found. What failed elsewhere a moment ago fails at once.
    async fn load(self: &Arc<Self>) -> Result<Arc<Keys>, FetchError> {
        if self.source.reach() == KeyLookup::Remote {
            let failed = self.moments.lock().failed.clone();
            if let Some((at, why)) = failed
                && at.elapsed() < RELOAD_EVERY
            {
                return Err(self.missing(&why));
            }
        }
        self.wait(self.look()).await
    }

    fn may_reload(&self) -> bool {
        let mut moments = self.moments.lock();
        if moments.reloaded.is_some_and(|at| at.elapsed() < RELOAD_EVERY) {
            return false;
        }
        moments.reloaded = Some(Instant::now());
        true
    }

    fn has_failed_within(&self, span: Duration) -> bool {
        self.moments.lock().failed.as_ref().is_some_and(|(at, _)| at.elapsed() < span)
    }

    async fn wait(
        &self,
        mut looking: watch::Receiver<SearchResult>,
    ) -> Result<Arc<Keys>, FetchError> {
        // The task that looks keeps its own deadline, and its end is heard however it comes.
        let outcome = looking.wait_for(Option::is_some).await;
        match outcome.ok().and_then(|outcome| outcome.clone()) {
            Some(Ok(keys)) => Ok(keys),
            Some(Err(why)) => Err(self.missing(&why)),
            None => Err(self.missing("looking for them was broken off")),
        }
    }

    /// Joins the search under way, or begins one.
    fn look(self: &Arc<Self>) -> watch::Receiver<SearchResult> {
        let mut moments = self.moments.lock();
        if let Some(looking) = &moments.looking
            && looking.has_changed().is_ok()
        {
            return looking.clone();
        }
        let (told, looking) = watch::channel(None);
        moments.looking = Some(looking.clone());
        drop(moments);
        let ring = Arc::clone(self);
        self.tasks.spawn("origin keys", async move {
            let outcome = ring.find().await;
            ring.moments.lock().looking = None;
            told.send_replace(Some(outcome));
        });
        looking
    }

    async fn find(self: &Arc<Self>) -> Result<Arc<Keys>, Arc<str>> {
        let found = tokio::time::timeout(LOAD_DEADLINE, self.source.find()).await;
        let late = || format!("no source answered within {} s", LOAD_DEADLINE.as_secs());
        match found.unwrap_or_else(|_| Err(late())) {
            Ok(found) => Ok(self.keep(found)),
            Err(why) => {
                let why: Arc<str> = why.into();
                self.fail(&why);
                Err(why)
            }
        }
    }

    fn keep(self: &Arc<Self>, FoundKeys { keys, expires }: FoundKeys) -> Arc<Keys> {
        let before = self.kept.load_full();
        let is_same =
            before.is_some_and(|before| *before.keys == keys && before.expires == expires);
        let now = self.skew.now(&self.clock);
        let ahead = expires.map(|expires| ahead(expires.since(now)));
        let keys = Arc::new(keys);
        self.kept.store(Some(Arc::new(CurrentKeys {
            keys: Arc::clone(&keys),
            expires,
            renew_at: expires.zip(ahead).map(|(expires, ahead)| earlier(expires, ahead)),
            look_at: Instant::now() + LOOK_EVERY,
        })));
        if !is_same {
            self.meters.keys(KeysFound::Yes);
        }
        if self.moments.lock().failed.take().is_some() {
            tracing::info!(origin = %self.origin, "keys found again");
        }
        if let (Some(expires), Some(ahead)) = (expires, ahead) {
            self.renew_in(expires.since(now).saturating_sub(ahead));
        }
        keys
    }

    fn fail(self: &Arc<Self>, why: &Arc<str>) {
        self.meters.keys(KeysFound::No);
        let before = self.moments.lock().failed.replace((Instant::now(), Arc::clone(why)));
        let now = self.skew.now(&self.clock);
        let kept = self.kept.load_full().filter(|kept| kept.serves_at(now));
        let Some(kept) = kept else { return };
        if before.is_none() {
            let seconds = kept.expires.map(|expires| expires.since(now).as_secs());
            tracing::warn!(
                origin = %self.origin,
                error = &**why,
                expire_in_seconds = seconds,
                "keys not renewed, old ones stay in use"
            );
        }
        if kept.expires.is_some() {
            self.renew_in(RETRY_AFTER + jitter(RETRY_AFTER));
        }
    }

    /// Looks for keys in so long, unless this ring is gone by then, or the process drains.
    fn renew_in(self: &Arc<Self>, wait: Duration) {
        let (ring, stop): (Weak<Self>, _) = (Arc::downgrade(self), self.tasks.stopping());
        let timer = self.tasks.spawn("origin keys timer", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {
                    if let Some(ring) = ring.upgrade() {
                        drop(ring.look());
                    }
                }
            }
        });
        let before = self.moments.lock().timer.replace(timer.abort_handle());
        if let Some(before) = before {
            before.abort();
        }
    }

    fn missing(&self, detail: &str) -> FetchError {
        FetchError::Credentials {
            origin: Arc::clone(&self.origin),
            code: "missing".to_owned(),
            detail: detail.to_owned(),
        }
    }
}

/// How long before their end keys are renewed that have `left`.
fn ahead(left: Duration) -> Duration {
    let ahead = (left / 4).min(AHEAD_MAX);
    ahead + jitter(ahead / 2)
}

fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(at.millis().saturating_sub(millis))
}

/// A span below `most`, drawn anew each time.
fn jitter(most: Duration) -> Duration {
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(crate::random::u64().map_or(0, |random| random % millis))
}

#[cfg(test)]
mod tests;
