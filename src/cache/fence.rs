//! The fence that stops a purged object from coming back: a fill takes a ticket when it begins
//! and publishes only while no purge that covers its key has been raised since. One per process;
//! its lock is held while an object is published and never across an await.

use crate::object::{Key, Meta};
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

    /// Whether a purge that may be of `key` was raised since `ticket`. Waits only where any was.
    pub fn is_raised_since(&self, ticket: Ticket, key: &Key) -> bool {
        ticket != self.ticket() && !self.raised.read().allows(ticket, |scope| scope.may_cover(key))
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
    fn allows(&self, ticket: Ticket, covers: impl Fn(&Scope) -> bool) -> bool {
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
                .any(|(_, scope)| covers(scope))
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
        assert!(fence.leave_unseen(before, &key("/a")).is_none());
        assert!(fence.leave_unseen(before, &key("/b")).is_some());
        assert!(fence.leave_unseen(fence.ticket(), &key("/a")).is_some());
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
