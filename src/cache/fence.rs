//! The fence that stops a purged object from coming back: a fill takes a ticket when it begins
//! and publishes only while no purge that covers its key has been raised since. One per process;
//! its lock is held while an object is published and never across an await.
//!
//! Uploads that notices tell of raise a fence of their own, which holds back absences alone: there
//! may be hundreds a second, and an object that takes minutes to fetch has to pass them all. Where
//! more came than are remembered, an absence is not published, and a fill is joined as before.

use crate::object::{Key, Meta};
use crate::store::Scope;
use crate::sync::{RwLock, RwLockReadGuard};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

/// Raised scopes that are remembered; a ticket older than all of them is refused.
const REMEMBERED_MAX: usize = 4_096;

/// Uploads that are remembered: minutes of them, at the most that S3 was seen to tell of.
const UPLOADS_MAX: usize = 65_536;

/// When a fill began, counted in purges and in uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    purges: u64,
    uploads: u64,
}

/// Leave to publish; purges wait until it is dropped.
#[derive(Debug)]
pub struct Leave<'a> {
    _guard: RwLockReadGuard<'a, Raised>,
}

/// Leave to publish an absence; purges, and notices of uploads, wait until it is dropped.
#[derive(Debug)]
pub struct AbsentLeave<'a> {
    _purges: Leave<'a>,
    _uploads: RwLockReadGuard<'a, Uploads>,
}

/// The purges that were raised, newest last.
#[derive(Debug, Default)]
pub struct Fence {
    raised: RwLock<Raised>,
    /// Purges raised so far; changed under the lock alone.
    count: AtomicU64,
    uploads: RwLock<Uploads>,
    /// Uploads so far; changed under their lock alone.
    uploads_count: AtomicU64,
}

/// The uploads that notices told of, each with its number.
#[derive(Debug, Default)]
struct Uploads {
    count: u64,
    last: HashMap<Key, u64>,
    order: VecDeque<(u64, Key)>,
}

#[derive(Debug, Default)]
struct Raised {
    count: u64,
    recent: VecDeque<(u64, Scope)>,
}

impl Fence {
    /// A ticket for a fill that begins now. Never waits.
    pub fn ticket(&self) -> Ticket {
        Ticket {
            purges: self.count.load(Ordering::Acquire),
            uploads: self.uploads_count.load(Ordering::Acquire),
        }
    }

    /// Leave to publish an absence, unless a purge of it was raised, or the object uploaded, since
    /// `ticket`.
    pub fn leave_absent(&self, ticket: Ticket, meta: &Meta) -> Option<AbsentLeave<'_>> {
        let purges = self.leave(ticket, &[meta])?;
        let uploads = self.uploads.read();
        let allows = uploads.is_known_since(ticket) && !uploads.has_since(ticket, &meta.key);
        allows.then_some(AbsentLeave { _purges: purges, _uploads: uploads })
    }

    /// Holds back the absences that older fills bring of these: they were uploaded. Waits for those
    /// who publish an absence now. Blocking.
    pub fn raise_uploads(&self, keys: &[Key]) {
        let mut uploads = self.uploads.write();
        for key in keys {
            uploads.note(key);
        }
        self.uploads_count.store(uploads.count, Ordering::Release);
    }

    /// Leave to publish an object with these heads, the one that it gets and, where that was
    /// confirmed, the one that it had; unless a purge of either was raised since `ticket`.
    pub fn leave(&self, ticket: Ticket, heads: &[&Meta]) -> Option<Leave<'_>> {
        let raised = self.raised.read();
        let covers = |scope: &Scope| heads.iter().any(|meta| scope.covers(meta));
        let allows = raised.allows(ticket, covers);
        allows.then_some(Leave { _guard: raised })
    }

    /// Leave to publish something of `key` whose head is not at hand, unless a purge that may be of
    /// it was raised since `ticket`.
    pub fn leave_unseen(&self, ticket: Ticket, key: &Key) -> Option<Leave<'_>> {
        let raised = self.raised.read();
        let allows = raised.allows(ticket, |scope| scope.may_cover(key));
        allows.then_some(Leave { _guard: raised })
    }

    /// Whether a purge that may be of `key` was raised, or `key` was uploaded, since `ticket`.
    /// Waits only where any was.
    pub fn is_raised_since(&self, ticket: Ticket, key: &Key) -> bool {
        let now = self.ticket();
        let is_purged = || !self.raised.read().allows(ticket, |scope| scope.may_cover(key));
        (ticket.purges != now.purges && is_purged())
            || (ticket.uploads != now.uploads && self.uploads.read().has_since(ticket, key))
    }

    /// Raises a purge: waits for those who publish now, and holds back every older fill. Blocking.
    pub fn raise(&self, scope: Scope) {
        let mut raised = self.raised.write();
        raised.count += 1;
        let count = raised.count;
        self.count.store(count, Ordering::Release);
        if raised.recent.len() == REMEMBERED_MAX {
            raised.recent.pop_front();
        }
        raised.recent.push_back((count, scope));
    }
}

impl Uploads {
    fn note(&mut self, key: &Key) {
        self.count += 1;
        if self.order.len() == UPLOADS_MAX
            && let Some((number, oldest)) = self.order.pop_front()
            && self.last.get(&oldest) == Some(&number)
        {
            self.last.remove(&oldest);
        }
        self.last.insert(key.clone(), self.count);
        self.order.push_back((self.count, key.clone()));
    }

    /// Whether `key` is known to have been uploaded since `ticket`.
    fn has_since(&self, ticket: Ticket, key: &Key) -> bool {
        self.last.get(&key.primary()).is_some_and(|number| *number > ticket.uploads)
    }

    /// Whether every upload since `ticket` is remembered.
    fn is_known_since(&self, ticket: Ticket) -> bool {
        ticket.uploads == self.count
            || self.order.front().is_some_and(|(first, _)| *first <= ticket.uploads + 1)
    }
}

impl Raised {
    fn allows(&self, ticket: Ticket, covers: impl Fn(&Scope) -> bool) -> bool {
        if ticket.purges == self.count {
            return true;
        }
        let knows_all = self.recent.front().is_some_and(|(first, _)| *first <= ticket.purges + 1);
        knows_all
            && !self
                .recent
                .iter()
                .rev()
                .take_while(|(at, _)| *at > ticket.purges)
                .any(|(_, scope)| covers(scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests;
    use crate::object::Variant;
    use http::{HeaderName, StatusCode};

    fn key(path: &str) -> Key {
        Key::new("s", path, None)
    }

    fn absence(path: &str) -> Meta {
        Meta { status: StatusCode::NOT_FOUND, ..tests::meta(&key(path)) }
    }

    #[test]
    fn a_fill_that_began_before_a_purge_may_not_publish_after_it() {
        let fence = Fence::default();
        let before = fence.ticket();
        fence.raise(Scope::Key(key("/a")));
        assert!(fence.leave_unseen(before, &key("/a")).is_none());
        assert!(fence.leave_unseen(before, &key("/b")).is_some());
        assert!(fence.leave_unseen(fence.ticket(), &key("/a")).is_some());
    }

    #[test]
    fn an_absence_that_was_found_before_an_upload_is_not_published_after_it() {
        let fence = Fence::default();
        let before = fence.ticket();
        fence.raise_uploads(&[key("/a"), key("/b")]);
        assert!(fence.leave_absent(before, &absence("/a")).is_none());
        assert!(fence.leave_absent(before, &absence("/c")).is_some());
        assert!(fence.leave_absent(fence.ticket(), &absence("/a")).is_some());
        assert!(fence.leave(before, &[&absence("/a")]).is_some(), "only absences are held back");
        assert!(fence.is_raised_since(before, &key("/b")));
        assert!(!fence.is_raised_since(before, &key("/c")));
        fence.raise(Scope::Key(key("/c")));
        assert!(fence.leave_absent(before, &absence("/c")).is_none());
    }

    #[test]
    fn among_more_uploads_than_are_remembered_no_absence_is_published() {
        let fence = Fence::default();
        let before = fence.ticket();
        fence.raise_uploads(&[key("/0")]);
        let early = fence.ticket();
        for number in 1..=UPLOADS_MAX {
            fence.raise_uploads(&[key(&format!("/{number}"))]);
        }
        assert!(fence.leave_absent(before, &absence("/other")).is_none());
        assert!(fence.leave_absent(early, &absence("/other")).is_some());
        assert!(!fence.is_raised_since(before, &key("/0")), "forgotten: joined as before");
        assert!(fence.is_raised_since(before, &key("/1")));
    }

    #[test]
    fn prefixes_and_all_cover_what_they_say() {
        let prefix = Scope::Prefix { site: "s".into(), prefix: "/log/".into() };
        assert!(prefix.may_cover(&key("/log/x")));
        let name = HeaderName::from_static("accept");
        let variant = key("/log/x").variant(&Variant::new([(name, None)]));
        assert!(prefix.may_cover(&variant) && Scope::Key(key("/log/x")).may_cover(&variant));
        assert!(!Scope::Key(variant).may_cover(&key("/log/x")));
        assert!(!prefix.may_cover(&key("/lo")));
        assert!(!prefix.may_cover(&Key::new("t", "/log/x", None)));
        assert!(Scope::All.may_cover(&key("/anything")));
    }

    #[test]
    fn a_ticket_older_than_what_is_remembered_is_refused() {
        let fence = Fence::default();
        let before = fence.ticket();
        for number in 0..REMEMBERED_MAX {
            fence.raise(Scope::Key(key(&format!("/{number}"))));
        }
        assert!(fence.leave_unseen(before, &key("/other")).is_some());
        fence.raise(Scope::Key(key("/one-more")));
        assert!(fence.leave_unseen(before, &key("/other")).is_none());
    }
}
