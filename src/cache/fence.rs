//! The fence that stops a purged object from coming back: a fill takes a ticket when it begins
//! and publishes only while no purge that covers its key has been raised since. One per process;
//! its lock is held while an object is published and never across an await.

use crate::object::Key;
use crate::store::Scope;
use parking_lot::{RwLock, RwLockReadGuard};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Raised scopes that are remembered; a ticket older than all of them is refused.
const REMEMBERED_MAX: usize = 4_096;

/// When a fill began, counted in purges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// Leave to publish; purges wait until it is dropped.
#[derive(Debug)]
pub struct Leave<'a> {
    _guard: RwLockReadGuard<'a, Raised>,
}

/// The purges that were raised, newest last.
#[derive(Debug, Default)]
pub struct Fence {
    raised: RwLock<Raised>,
    /// Purges raised so far; changed under the lock alone.
    count: AtomicU64,
}

#[derive(Debug, Default)]
struct Raised {
    count: u64,
    recent: VecDeque<(u64, Scope)>,
}

impl Fence {
    /// A ticket for a fill that begins now. Never waits.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.count.load(Ordering::Acquire))
    }

    /// Leave to publish `key`, unless a purge of it was raised since `ticket`.
    pub fn leave(&self, ticket: Ticket, key: &Key) -> Option<Leave<'_>> {
        let raised = self.raised.read();
        raised.allows(ticket, key).then_some(Leave { _guard: raised })
    }

    /// Whether a purge of `key` was raised since `ticket`. Waits only where any was.
    pub fn is_raised_since(&self, ticket: Ticket, key: &Key) -> bool {
        ticket != self.ticket() && !self.raised.read().allows(ticket, key)
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

impl Raised {
    fn allows(&self, ticket: Ticket, key: &Key) -> bool {
        if ticket.0 == self.count {
            return true;
        }
        let knows_all = self.recent.front().is_some_and(|(first, _)| *first <= ticket.0 + 1);
        knows_all
            && !self
                .recent
                .iter()
                .rev()
                .take_while(|(at, _)| *at > ticket.0)
                .any(|(_, scope)| scope.covers(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Variant;
    use http::HeaderName;

    fn key(path: &str) -> Key {
        Key::new("s", path, None)
    }

    #[test]
    fn a_fill_that_began_before_a_purge_may_not_publish_after_it() {
        let fence = Fence::default();
        let before = fence.ticket();
        fence.raise(Scope::Key(key("/a")));
        assert!(fence.leave(before, &key("/a")).is_none());
        assert!(fence.leave(before, &key("/b")).is_some());
        assert!(fence.leave(fence.ticket(), &key("/a")).is_some());
    }

    #[test]
    fn prefixes_and_all_cover_what_they_say() {
        let prefix = Scope::Prefix { site: "s".into(), prefix: "/log/".into() };
        assert!(prefix.covers(&key("/log/x")));
        let name = HeaderName::from_static("accept");
        let variant = key("/log/x").variant(&Variant::new([(name, None)]));
        assert!(prefix.covers(&variant) && Scope::Key(key("/log/x")).covers(&variant));
        assert!(!Scope::Key(variant).covers(&key("/log/x")));
        assert!(!prefix.covers(&key("/lo")));
        assert!(!prefix.covers(&Key::new("t", "/log/x", None)));
        assert!(Scope::All.covers(&key("/anything")));
    }

    #[test]
    fn a_ticket_older_than_what_is_remembered_is_refused() {
        let fence = Fence::default();
        let before = fence.ticket();
        for number in 0..REMEMBERED_MAX {
            fence.raise(Scope::Key(key(&format!("/{number}"))));
        }
        assert!(fence.leave(before, &key("/other")).is_some());
        fence.raise(Scope::Key(key("/one-more")));
        assert!(fence.leave(before, &key("/other")).is_none());
    }
}
