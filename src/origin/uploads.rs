//! Which clients' uploads an origin gets at once. One per origin, as long lived as it; its lock is
//! short and never held across an await. Called by `slots`.
//!
//! - A client that has a quarter of the places gets none of the last quarter.
//! - Uploads wait in a queue: the proven ones first, the slow ones last (`upload_body`), and each
//!   of these in the order of their arrival. A free place goes to the first upload of a client that
//!   may have it. An upload that brings nothing therefore delays none that goes on.
//! - While uploads wait that are not slow themselves, as many slow ones are ended as let one of
//!   them in each. Each ended upload is one of the client that has most places. For an upload that
//!   is not proven, it is one of a client that has more places than its own, or one of its own.
//! - No upload is ended after its answer has begun.

use super::asker::Asker;
use super::upload_body::{Evidence, PAUSE_MAX, Pulse, UploadBody};
use crate::client::OutboundBody;
use crate::sync::Mutex;
use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// One place in so many is kept from clients that have as many.
const KEPT_FROM_CLIENT: usize = 4;
/// How often slow uploads are looked for while others wait.
const LOOK: Duration = Duration::from_millis(250);

/// The places of all uploads.
#[derive(Debug)]
pub(super) struct UploadQueue {
    /// How long a new upload may bring nothing before it is slow.
    grace: Duration,
    places: Mutex<UploadPlaces>,
}

/// A place among the uploads under way, until it is dropped.
#[derive(Debug)]
pub(super) struct UploadPlace {
    uploads: Arc<UploadQueue>,
    id: u64,
    pulse: Arc<Pulse>,
}

#[derive(Debug)]
struct UploadPlaces {
    next: u64,
    holders: HashMap<u64, UploadHolder>,
    shares: Shares,
    /// In the order of their arrival. None of them may have a place that is free.
    queue: VecDeque<QueueEntry>,
    /// When slow uploads were last looked for; none if one that was found has left.
    looked_at: Option<Instant>,
}

/// How many places are taken, and by which clients.
#[derive(Debug, Clone)]
struct Shares {
    max: usize,
    taken: usize,
    by_client: HashMap<Asker, usize>,
}

#[derive(Debug)]
struct UploadHolder {
    client: Asker,
    pulse: Arc<Pulse>,
}

/// An upload that waits, until its receiver is dropped.
#[derive(Debug)]
struct QueueEntry {
    client: Asker,
    pulse: Arc<Pulse>,
    give: oneshot::Sender<UploadPlace>,
}

impl UploadQueue {
    /// Places for `max` uploads; a new one may bring nothing for up to `grace`.
    pub(super) fn new(max: usize, grace: Duration) -> Arc<Self> {
        let places = Mutex::new(UploadPlaces::new(max));
        Arc::new(Self { grace: grace.min(PAUSE_MAX), places })
    }

    /// An upload that has arrived.
    pub(super) fn arrived(&self, client: Asker, body: OutboundBody) -> UploadBody {
        UploadBody::new(client, body, self.grace)
    }

    /// The next place that this upload may have. None if it is broken, or its entry in the queue is
    /// lost. Cancel safe: a place that is not taken goes to the next.
    pub(super) async fn place(self: &Arc<Self>, body: &mut UploadBody) -> Option<UploadPlace> {
        let (give, mut given) = oneshot::channel();
        let pulse = Arc::clone(body.pulse());
        if let Some(place) = self.admit(QueueEntry { client: body.client(), pulse, give }) {
            return Some(place);
        }
        let mut is_proven = false;
        loop {
            self.look();
            tokio::select! {
                biased;
                place = &mut given => return place.ok(),
                () = body.prove(), if !is_proven => is_proven = true,
                () = sleep(LOOK) => {}
            }
            if body.is_broken() {
                return None;
            }
        }
    }

    /// Whether a client has so many places that it gets none of the last quarter.
    pub(super) fn has_full_share(&self, client: Asker) -> bool {
        let shares = &self.places.lock().shares;
        client.is_known() && shares.of(client) >= shares.kept().max(1)
    }

    /// A place, if there is one now; else the upload waits from now on.
    fn admit(self: &Arc<Self>, entry: QueueEntry) -> Option<UploadPlace> {
        let mut places = self.places.lock();
        if places.shares.admits(entry.client, None) {
            return Some(self.enter(&mut places, entry.client, entry.pulse));
        }
        places.queue.push_back(entry);
        None
    }

    fn enter(
        self: &Arc<Self>,
        places: &mut UploadPlaces,
        client: Asker,
        pulse: Arc<Pulse>,
    ) -> UploadPlace {
        pulse.enters();
        let id = places.enter(UploadHolder { client, pulse: Arc::clone(&pulse) });
        UploadPlace { uploads: Arc::clone(self), id, pulse }
    }

    /// Gives a place back, and what is free to the first that wait and may have it.
    fn release(self: &Arc<Self>, id: u64) {
        let now = Instant::now();
        let mut given = Vec::new();
        let mut places = self.places.lock();
        places.leave(id);
        while let Some(QueueEntry { client, pulse, give }) = places.first_admitted(now) {
            given.push((give, self.enter(&mut places, client, pulse)));
        }
        drop(places);
        for (give, place) in given {
            // If its upload has left, the place is released again.
            drop(give.send(place));
        }
        self.look();
    }

    /// Ends slow uploads if that makes room for others that wait.
    fn look(&self) {
        let now = Instant::now();
        let mut places = self.places.lock();
        let is_recent = places.looked_at.is_some_and(|looked_at| now < looked_at + LOOK);
        if is_recent || places.queue.is_empty() {
            return;
        }
        places.looked_at = Some(now);
        places.forget_gone();
        let to_end = places.to_end(now);
        drop(places);
        for pulse in to_end {
            pulse.end();
        }
    }
}

impl UploadPlace {
    /// Never ends the upload from now on: its answer has begun.
    pub(super) fn spare(&self) {
        self.pulse.spare();
    }

    /// Whether all of the body has come.
    pub(super) fn is_ended(&self) -> bool {
        self.pulse.is_ended()
    }
}

impl Drop for UploadPlace {
    fn drop(&mut self) {
        self.uploads.release(self.id);
    }
}

impl UploadPlaces {
    fn new(max: usize) -> Self {
        Self {
            next: 0,
            holders: HashMap::new(),
            shares: Shares { max, taken: 0, by_client: HashMap::new() },
            queue: VecDeque::new(),
            looked_at: None,
        }
    }

    fn enter(&mut self, holder: UploadHolder) -> u64 {
        self.next += 1;
        self.shares.enter(holder.client);
        self.holders.insert(self.next, holder);
        self.next
    }

    fn leave(&mut self, id: u64) {
        let Some(UploadHolder { client, pulse }) = self.holders.remove(&id) else { return };
        if pulse.is_ending() {
            self.looked_at = None;
        }
        self.shares.leave(client);
        self.forget_gone();
    }

    /// Drops uploads that have left.
    fn forget_gone(&mut self) {
        self.queue.retain(|entry| !entry.give.is_closed());
    }

    /// The uploads that wait, with their positions in the queue, in the order of their turns.
    fn turns(&self, now: Instant) -> Vec<(Evidence, usize, &QueueEntry)> {
        let entries = self.queue.iter().enumerate();
        let mut turns: Vec<_> =
            entries.map(|(at, entry)| (entry.pulse.evidence(now), at, entry)).collect();
        turns.sort_by_key(|(evidence, at, _)| (*evidence, *at));
        turns
    }

    /// Takes the first that waits and may have a place out of the queue.
    fn first_admitted(&mut self, now: Instant) -> Option<QueueEntry> {
        if self.shares.is_full() {
            return None;
        }
        let turns = self.turns(now);
        let mut admitted =
            turns.iter().filter(|(.., entry)| self.shares.admits(entry.client, None));
        let at = admitted.next().map(|(_, at, _)| *at)?;
        self.queue.remove(at)
    }

    /// The slow uploads to end, so that those that wait have their places. What is ending already
    /// counts as gone.
    fn to_end(&self, now: Instant) -> Vec<Arc<Pulse>> {
        let (mut shares, mut slow) = (self.shares.clone(), Vec::new());
        for holder in self.holders.values() {
            if holder.pulse.is_ending() {
                shares.leave(holder.client);
            } else if let Some(slow_for) = holder.pulse.slow_for(now) {
                slow.push((slow_for, holder));
            }
        }
        slow.sort_by_key(|(slow_for, _)| Reverse(*slow_for));
        let mut slow: Vec<_> = slow.into_iter().map(|(_, holder)| holder).collect();
        let mut to_end = Vec::new();
        for (evidence, _, entry) in self.turns(now) {
            if !shares.admits(entry.client, None) {
                let Some(at) = shares.to_end_for(entry.client, evidence, &slow) else { continue };
                let holder = slow.remove(at);
                shares.leave(holder.client);
                to_end.push(Arc::clone(&holder.pulse));
            }
            shares.enter(entry.client);
        }
        to_end
    }
}

impl Shares {
    /// How many are kept from clients that have as many.
    fn kept(&self) -> usize {
        self.max / KEPT_FROM_CLIENT
    }

    /// How many this client has.
    fn of(&self, client: Asker) -> usize {
        self.by_client.get(&client).copied().unwrap_or_default()
    }

    fn is_full(&self) -> bool {
        self.taken >= self.max
    }

    /// Whether a client may have a place, if an upload of the client `leaving` has left.
    fn admits(&self, client: Asker, leaving: Option<Asker>) -> bool {
        let taken = self.taken.saturating_sub(usize::from(leaving.is_some()));
        let free = self.max.saturating_sub(taken);
        let own = self.of(client).saturating_sub(usize::from(leaving == Some(client)));
        free > 0 && (!client.is_known() || own < self.kept() || free > self.kept())
    }

    fn enter(&mut self, client: Asker) {
        self.taken += 1;
        *self.by_client.entry(client).or_default() += 1;
    }

    fn leave(&mut self, client: Asker) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(count) = self.by_client.get_mut(&client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_client.remove(&client);
            }
        }
    }

    /// Which of the `slow` uploads, the slowest first, makes room for one of this client.
    fn to_end_for(
        &self,
        client: Asker,
        evidence: Evidence,
        slow: &[&UploadHolder],
    ) -> Option<usize> {
        let own = self.of(client);
        let may_end = |of: Asker| match evidence {
            Evidence::Proven => true,
            Evidence::New => self.of(of) > own || of == client,
            Evidence::Slow => false,
        };
        let candidates = slow.iter().enumerate().filter(|(_, holder)| {
            may_end(holder.client) && self.admits(client, Some(holder.client))
        });
        let best = candidates.max_by_key(|(at, holder)| (self.of(holder.client), Reverse(*at)));
        best.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests;
