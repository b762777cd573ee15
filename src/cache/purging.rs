//! Purges: memory, then each disk, then memory again, as the module above says. Each runs to its
//! end as a task of its own, whether or not its caller waits. Called by `purge`, and for what a
//! write has changed by `engine`.

use super::fence::FenceEpoch;
use super::tiers::Cache;
use crate::object::Key;
use crate::store::{PurgeOutcome, Purging, Scope};
use crate::tasks::BlockingError;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Cache {
    /// Makes everything in `scope` go or become stale, as `purging` says. What fills and
    /// confirmations under way bring of it is not kept: it may be what is purged. Waits a few
    /// seconds at most for a disk that does not come further. Cancel safe: the purge goes on.
    pub async fn purge(&self, scope: Scope, purging: Purging) -> PurgeOutcome {
        self.fence.raise(&scope);
        self.carry_out(scope, purging).await
    }

    /// Makes the object of `key` go, since it was written to by a request that had the ticket
    /// `began` before it was sent. A ticket for what that has brought; none if the object may have
    /// been purged since otherwise: then it was written to once more, maybe. Cancel safe: the purge
    /// goes on.
    pub async fn purge_written(&self, key: Key, began: FenceEpoch) -> Option<FenceEpoch> {
        let ticket = self.fence.raise_written(&key, began, self.next_order());
        self.carry_out(Scope::Key(key), Purging::Hard).await;
        ticket
    }

    /// Carries out a purge that was raised.
    async fn carry_out(&self, scope: Scope, purging: Purging) -> PurgeOutcome {
        let (tell, told) = oneshot::channel();
        let cache = self.clone();
        self.tasks.spawn("purge", async move {
            // The receiver is there, or waits no more.
            let _ = tell.send(cache.go_through(&scope, purging).await);
        });
        told.await.unwrap_or_else(|error| {
            tracing::error!(%error, "purge not completed; purge again");
            PurgeOutcome::FAILED
        })
    }

    async fn go_through(&self, scope: &Scope, purging: Purging) -> PurgeOutcome {
        let from_memory = self.forget(scope, purging).await;
        let from_disk = match &self.store {
            Some(store) => store.purge(scope, purging).await,
            None => PurgeOutcome::of(0),
        };
        // Look-ups have made hot what the disks still held, and those under way might yet.
        self.heating.raise(scope);
        let again = self.forget(scope, purging).await;
        PurgeOutcome {
            objects: from_disk.objects.max(from_memory.objects),
            holds: from_disk.holds.max(from_memory.holds).max(again.holds),
        }
    }

    /// Goes through memory.
    async fn forget(&self, scope: &Scope, purging: Purging) -> PurgeOutcome {
        let (cache, scope) = (self.clone(), scope.clone());
        let work = move || {
            PurgeOutcome::of(match purging {
                Purging::Hard => cache.drop_hot(&scope),
                Purging::Soft => cache.invalidate_hot(&scope),
            })
        };
        self.tasks.blocking("purge", work).await.unwrap_or_else(|error| {
            tracing::error!(%error, "purge not completed; purge again");
            PurgeOutcome::FAILED
        })
    }

    fn drop_hot(&self, scope: &Scope) -> u64 {
        match scope {
            Scope::Key(key) => {
                self.variants.forget(key);
                u64::from(self.memory.remove(key))
            }
            // Other variants of the same objects stay. If there is no disk, only a list leads to
            // them.
            Scope::Tags { site, tags } => self.memory.remove_tagged(site, tags),
            Scope::Prefix { .. } | Scope::All => {
                if *scope == Scope::All {
                    self.memory.clear_claims();
                }
                self.variants.forget_matching(|key| scope.may_cover(key));
                self.memory.remove_matching(|key| scope.may_cover(key))
            }
        }
    }

    fn invalidate_hot(&self, scope: &Scope) -> u64 {
        match scope {
            Scope::Key(key) => self.memory.invalidate_key(key),
            Scope::Tags { site, tags } => self.memory.invalidate(|hot| hot.is_tagged(site, tags)),
            Scope::Prefix { .. } | Scope::All => {
                self.memory.invalidate(|hot| hot.key().is_none_or(|key| scope.may_cover(&key)))
            }
        }
    }

    /// Forgets that these were absent: they were uploaded. Fills under way that find them absent do
    /// not have it remembered, and are joined no more. What is stored stays; the disk remembers no
    /// absence.
    pub async fn forget_absences(&self, keys: Vec<Key>) -> Result<(), BlockingError> {
        let (fence, memory) = (Arc::clone(&self.fence), self.memory.clone());
        let forgetting = move || {
            fence.raise_uploads(&keys);
            for key in &keys {
                memory.forget_absence(key);
            }
        };
        self.tasks.blocking("uploads", forgetting).await
    }
}
