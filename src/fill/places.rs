//! How many fills may be under way, for which clients and sites, and which of them make room for
//! others. One per process; its lock is short and never held across an await.
//!
//! A fill goes on if its last reader leaves. Without a reader it is ended by any of these:
//!
//! - There is no place for a fill that has a reader. Of the fills without a reader that could give
//!   it theirs, the one that has had none for longest is ended.
//! - A fill of the same site waits for its first byte, has a reader, and requests wait for a
//!   connection to an origin of the site. At a time no more are ended than wait.
//! - It brings less than [`FORWARD_BYTES`] in [`SLOW`].
//! - No disk takes its object (see `relay`), or its disk failed and its window in memory is full
//!   (see `store`).
//!
//! If no disk takes the object of a fill, the fill gives its place back when its head is here: its
//! readers and the memory of windows bound it.
//!
//! What it was about to store is dropped; it is never published.
//!
//! # Shares
//!
//! - A fill of a small object, such as a narinfo, may have any place. An eighth of the places is
//!   never given to other objects, and a quarter never to such objects of one site.
//! - A client that has a quarter of the places gets none of the last quarter, be it of all places
//!   or of those that objects of this size or site may have.

use super::readers::FillReaders;
use super::resume_deadline::FORWARD_BYTES;
use super::site_origins::Demand;
use crate::origin::Asker;
use crate::sync::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

/// One place in so many is kept from objects that are not small.
const KEPT_FROM_LARGE: usize = 8;
/// One place in so many is kept from such objects of one site.
const KEPT_FROM_SITE: usize = 4;
/// One place in so many is kept from clients that have as many.
const KEPT_FROM_CLIENT: usize = 4;

/// How long a fill without readers may take for [`FORWARD_BYTES`].
const SLOW: Duration = Duration::from_mins(1);

/// How often a fill that waits for its first byte looks whether requests wait for a connection to
/// its origins.
const LOOK: Duration = Duration::from_millis(250);

/// The places of all fills.
#[derive(Debug)]
pub(super) struct FillPlaces {
    max: usize,
    table: Mutex<PlaceTable>,
    /// Notified when a place is free or may be taken from a fill without readers.
    changed: Notify,
}

/// A place among the fills under way, until it is dropped.
#[derive(Debug)]
pub(super) struct FillPlace {
    places: Arc<FillPlaces>,
    id: u64,
}

#[derive(Debug, Default)]
struct PlaceTable {
    next: u64,
    holders: HashMap<u64, PlaceHolder>,
    /// The fills that have no reader, by their places; longest without one first.
    unread: BTreeMap<u64, u64>,
    large: usize,
    large_by_site: HashMap<String, usize>,
    by_asker: HashMap<Asker, usize>,
    /// How many fills of a site were ended for their connections a moment ago, since when.
    ended_of: HashMap<String, (Instant, usize)>,
}

#[derive(Debug)]
struct PlaceHolder {
    account: PlaceAccount,
    readers: FillReaders,
    /// Its key in `unread`.
    unread: Option<u64>,
}

/// The client, the site and the size that a place is counted for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PlaceAccount {
    asker: Asker,
    site: String,
    size: Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    All,
    Large,
    LargeOfSite,
    Client,
}

impl Obstacle {
    /// Whether `asked` may get a place if `holder` gives up its own.
    fn is_less_without(self, holder: &PlaceAccount, asked: &PlaceAccount) -> bool {
        match self {
            Self::All => true,
            Self::Large => holder.size == Size::Large,
            Self::LargeOfSite => holder.size == Size::Large && holder.site == asked.site,
            Self::Client => holder.asker == asked.asker,
        }
    }
}

impl PlaceAccount {
    fn of(demand: &Demand) -> Self {
        let size = if demand.class.is_small() { Size::Small } else { Size::Large };
        Self { asker: demand.asker, site: demand.upstream.site.name.clone(), size }
    }
}

impl FillPlaces {
    /// Room for `max` fills.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, table: Mutex::default(), changed: Notify::new() })
    }

    /// A place for a fill with these readers, if need be that of one without readers.
    pub(super) fn admit(
        self: &Arc<Self>,
        demand: &Demand,
        readers: &FillReaders,
    ) -> Option<FillPlace> {
        let account = PlaceAccount::of(demand);
        let mut table = self.table.lock();
        while let Some(obstacle) = table.obstacle(self.max, &account) {
            let helps = |holder: &PlaceAccount| obstacle.is_less_without(holder, &account);
            if !table.end_unread(helps) {
                return None;
            }
        }
        Some(self.enter(&mut table, account, readers))
    }

    /// As [`FillPlaces::admit`], waiting until `deadline`.
    pub(super) async fn wait(
        self: &Arc<Self>,
        demand: &Demand,
        readers: &FillReaders,
        deadline: Instant,
    ) -> Option<FillPlace> {
        let admitted = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(place) = self.admit(demand, readers) {
                    return place;
                }
                changed.await;
            }
        };
        timeout_at(deadline, admitted).await.ok()
    }

    /// A place for a fill that no reader waits for, if there is one to spare.
    pub(super) fn spare(
        self: &Arc<Self>,
        demand: &Demand,
        readers: &FillReaders,
    ) -> Option<FillPlace> {
        let account = PlaceAccount::of(demand);
        let mut table = self.table.lock();
        let is_free = table.obstacle(self.max, &account).is_none();
        is_free.then(|| self.enter(&mut table, account, readers))
    }

    fn enter(
        self: &Arc<Self>,
        table: &mut PlaceTable,
        account: PlaceAccount,
        readers: &FillReaders,
    ) -> FillPlace {
        let id = table.enter(account, readers);
        FillPlace { places: Arc::clone(self), id }
    }
}

impl FillPlace {
    /// Does `work`, which fetches what `demand` says, and holds the place until that is done or
    /// gives it back through `readers`. Until then, the fetch is ended through `readers` if it has
    /// none and is not worth its place.
    pub(super) async fn hold<T>(
        self,
        demand: &Demand,
        readers: &FillReaders,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = readers.place_given_back() => {}
            never = self.watch(demand, readers) => match never {},
        }
        drop(self);
        work.await
    }

    async fn watch(&self, demand: &Demand, readers: &FillReaders) -> Infallible {
        let begun = readers.received();
        loop {
            tokio::select! {
                biased;
                () = readers.none() => {}
                never = self.press(demand, || readers.received() == begun) => match never {},
            }
            self.places.table.lock().is_unread(self.id);
            self.places.changed.notify_waiters();
            tokio::select! {
                biased;
                () = readers.some() => {}
                never = end_if_slow(readers) => match never {},
            }
            self.places.table.lock().is_read(self.id);
        }
    }

    /// While this fill waits for its first byte: if requests wait for a connection to its origins,
    /// takes one from a fill without readers.
    async fn press(&self, demand: &Demand, waits: impl Fn() -> bool) -> Infallible {
        while waits() {
            sleep(LOOK).await;
            let waiting = demand.upstream.origins.waiting(demand.class);
            if waits() && waiting > 0 {
                self.places.table.lock().end_one_of(&demand.upstream.site.name, waiting);
            }
        }
        std::future::pending().await
    }
}

async fn end_if_slow(readers: &FillReaders) -> Infallible {
    loop {
        let before = readers.received();
        sleep(SLOW).await;
        if readers.received().saturating_sub(before) < FORWARD_BYTES {
            readers.close_if_none();
        }
    }
}

impl Drop for FillPlace {
    fn drop(&mut self) {
        self.places.table.lock().leave(self.id);
        self.places.changed.notify_waiters();
    }
}

impl PlaceTable {
    /// Why there is no place among `max` for one more. Of several obstacles, the one that takes the
    /// others with it when it goes.
    fn obstacle(&self, max: usize, account: &PlaceAccount) -> Option<Obstacle> {
        let free = max.saturating_sub(self.holders.len());
        let of_site = self.large_by_site.get(&account.site).copied().unwrap_or_default();
        let (free_to_site, free_to_large) = match account.size {
            Size::Small => (free, free),
            Size::Large => (
                (max - max / KEPT_FROM_SITE).saturating_sub(of_site).min(free),
                (max - max / KEPT_FROM_LARGE).saturating_sub(self.large).min(free),
            ),
        };
        let own = self.by_asker.get(&account.asker).copied().unwrap_or_default();
        let kept = max / KEPT_FROM_CLIENT;
        let is_over = own >= kept && free_to_site.min(free_to_large) <= kept;
        if is_over && account.asker.is_known() {
            return Some(Obstacle::Client);
        }
        match (free_to_site, free_to_large, free) {
            (1.., 1.., 1..) => None,
            (_, _, 0) if account.size == Size::Small => Some(Obstacle::All),
            (0, _, _) if of_site >= max - max / KEPT_FROM_SITE => Some(Obstacle::LargeOfSite),
            (_, 0, _) if self.large >= max - max / KEPT_FROM_LARGE => Some(Obstacle::Large),
            (_, _, _) => Some(Obstacle::All),
        }
    }

    fn enter(&mut self, account: PlaceAccount, readers: &FillReaders) -> u64 {
        if account.size == Size::Large {
            self.large += 1;
            *self.large_by_site.entry(account.site.clone()).or_default() += 1;
        }
        *self.by_asker.entry(account.asker).or_default() += 1;
        let id = self.number();
        let holder = PlaceHolder { account, readers: readers.clone(), unread: None };
        self.holders.insert(id, holder);
        id
    }

    fn leave(&mut self, id: u64) {
        let Some(PlaceHolder { account, unread, .. }) = self.holders.remove(&id) else { return };
        if let Some(unread) = unread {
            self.unread.remove(&unread);
        }
        if account.size == Size::Large {
            self.large = self.large.saturating_sub(1);
            take_one(&mut self.large_by_site, &account.site);
        }
        take_one(&mut self.by_asker, &account.asker);
    }

    /// The fill in this place has no reader.
    fn is_unread(&mut self, id: u64) {
        let number = self.number();
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.unread = Some(number);
            self.unread.insert(number, id);
        }
    }

    /// The fill in this place has a reader.
    fn is_read(&mut self, id: u64) {
        if let Some(unread) = self.holders.get_mut(&id).and_then(|holder| holder.unread.take()) {
            self.unread.remove(&unread);
        }
    }

    /// Ends the fill that has had no reader for longest of those that `is_meant`, and takes its
    /// place back; false if there is none.
    fn end_unread(&mut self, is_meant: impl Fn(&PlaceAccount) -> bool) -> bool {
        let ended = self.unread.values().copied().find(|id| {
            let holder = self.holders.get(id);
            holder.is_some_and(|holder| is_meant(&holder.account) && holder.readers.close_if_none())
        });
        if let Some(id) = ended {
            self.leave(id);
        }
        ended.is_some()
    }

    /// Ends a fill of `site` without readers, so that it gives up its connection, unless as many
    /// were ended a moment ago as requests are waiting.
    fn end_one_of(&mut self, site: &str, waiting: usize) {
        let now = Instant::now();
        self.ended_of.retain(|_, (since, _)| now < *since + LOOK);
        let (since, ended) = self.ended_of.get(site).copied().unwrap_or((now, 0));
        if ended < waiting && self.end_unread(|holder| holder.site == site) {
            self.ended_of.insert(site.to_owned(), (since, ended + 1));
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Takes one from a count, and removes a count of zero.
fn take_one<K: std::hash::Hash + Eq + Clone>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    fn account(client: u8, of: &str, size: Size) -> PlaceAccount {
        PlaceAccount { asker: Asker::at([192, 0, 2, client].into()), site: of.to_owned(), size }
    }

    /// As many places as `shares` get one after the other.
    fn entered(
        table: &mut PlaceTable,
        max: usize,
        shares: impl IntoIterator<Item = PlaceAccount>,
    ) -> usize {
        let readers = FillReaders::default();
        let admitted = shares.into_iter().take_while(|share| {
            let is_admitted = table.obstacle(max, share).is_none();
            if is_admitted {
                table.enter(share.clone(), &readers);
            }
            is_admitted
        });
        admitted.count()
    }

    /// FAULTS.md S5.
    #[test]
    fn nars_leave_an_eighth_to_narinfos_and_those_of_a_site_a_quarter_to_others() {
        let mut table = PlaceTable::default();
        let nars = |site: &'static str| (0..).map(move |client| account(client, site, Size::Large));
        assert_eq!(entered(&mut table, 16, nars("one")), 12);
        assert_eq!(entered(&mut table, 16, nars("two")), 2);
        let narinfos = (100..).map(|client| account(client, "one", Size::Small));
        assert_eq!(entered(&mut table, 16, narinfos), 2);
        assert_eq!(table.obstacle(16, &account(1, "two", Size::Small)), Some(Obstacle::All));
        for id in table.holders.keys().copied().collect::<Vec<_>>() {
            table.leave(id);
        }
        assert!(table.by_asker.is_empty() && table.large_by_site.is_empty() && table.large == 0);
    }

    /// FAULTS.md S5.
    #[test]
    fn a_client_with_a_quarter_of_the_places_gets_none_of_the_last_quarter() {
        let mut table = PlaceTable::default();
        let of_client = |client| std::iter::repeat_with(move || account(client, "a", Size::Small));
        assert_eq!(entered(&mut table, 16, of_client(1)), 12);
        assert_eq!(table.obstacle(16, &account(1, "a", Size::Small)), Some(Obstacle::Client));
        assert_eq!(entered(&mut table, 16, of_client(2)), 4);
        let mut table = PlaceTable::default();
        let nars = |client| std::iter::repeat_with(move || account(client, "a", Size::Large));
        assert_eq!(entered(&mut table, 16, nars(1)), 8);
        assert_eq!(entered(&mut table, 16, nars(2)), 4);
        let mut table = PlaceTable::default();
        let own = || PlaceAccount { asker: Asker::default(), ..account(1, "a", Size::Small) };
        assert_eq!(entered(&mut table, 16, std::iter::repeat_with(own)), 16);
    }

    /// FAULTS.md S5.
    #[test]
    fn no_fill_is_ended_in_vain() {
        let mut table = PlaceTable::default();
        for client in 1..=12 {
            table.enter(account(client, "one", Size::Large), &FillReaders::default());
        }
        let narinfos = (20..).map(|client| account(client, "two", Size::Small));
        assert_eq!(entered(&mut table, 16, narinfos), 4);
        let nar = account(30, "one", Size::Large);
        assert_eq!(table.obstacle(16, &nar), Some(Obstacle::LargeOfSite));
        assert_eq!(table.obstacle(16, &account(30, "two", Size::Large)), Some(Obstacle::All));
        assert_eq!(table.obstacle(4, &account(1, "one", Size::Small)), Some(Obstacle::Client));
    }

    /// FAULTS.md S5.
    #[test]
    fn the_fill_that_has_had_no_reader_for_longest_is_ended_and_none_that_has_one() {
        let mut table = PlaceTable::default();
        let readers: Vec<_> = (0..4).map(|_| FillReaders::default()).collect();
        let mut enter =
            |at: usize, site: &str| table.enter(account(1, site, Size::Large), &readers[at]);
        let ids = [enter(0, "a"), enter(1, "a"), enter(2, "b"), enter(3, "a")];
        let _reader = readers[1].enter().unwrap();
        for id in [ids[1], ids[3], ids[2], ids[0]] {
            table.is_unread(id);
        }
        table.is_read(ids[3]);
        let of_a = |holder: &PlaceAccount| holder.site == "a";
        assert!(table.end_unread(of_a));
        assert!(!table.end_unread(of_a));
        let ended: Vec<_> = readers.iter().map(FillReaders::is_closed).collect();
        assert_eq!(ended, [true, false, false, false]);
        assert_eq!(table.holders.len(), 3);
        // Its place is given back once.
        table.leave(ids[0]);
        assert_eq!((table.holders.len(), table.large), (3, 3));
    }

    /// FAULTS.md S5.
    #[tokio::test(start_paused = true)]
    async fn no_more_fills_are_ended_for_their_connections_than_requests_wait() {
        let mut table = PlaceTable::default();
        let readers: Vec<_> = (0..9).map(|_| FillReaders::default()).collect();
        for readers in &readers {
            let id = table.enter(account(1, "a", Size::Large), readers);
            table.is_unread(id);
        }
        let ended = || readers.iter().filter(|readers| readers.is_closed()).count();
        for (waiting, expected) in [(0, 0), (2, 2), (1, 3)] {
            for _ in 0..3 {
                table.end_one_of("a", waiting);
                table.end_one_of("b", waiting);
            }
            assert_eq!(ended(), expected);
            tokio::time::advance(LOOK).await;
        }
        table.end_one_of("b", 1);
        assert!(table.ended_of.is_empty(), "what was ended a while ago is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fill_that_brings_little_is_ended_if_it_has_no_reader() {
        let readers = FillReaders::default();
        let mut ending = Box::pin(end_if_slow(&readers));
        let _ = timeout(SLOW / 2, &mut ending).await;
        readers.came(FORWARD_BYTES);
        let _ = timeout(SLOW, &mut ending).await;
        assert!(!readers.is_closed());
        let reader = readers.enter();
        let _ = timeout(SLOW, &mut ending).await;
        assert!(!readers.is_closed());
        drop(reader);
        let _ = timeout(SLOW, &mut ending).await;
        assert!(readers.is_closed());
    }
}
