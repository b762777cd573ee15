//! What narinfos say of NARs: remembered in memory, read from disk. A claim counts as long as its
//! narinfo was not purged; which one that is, it knows.
//!
//! Nothing is looked for when a purge comes: a claim that is held says how many purges had been
//! raised before it came, and the second fence is asked each time it is used. A claim that may come
//! from what was purged since is forgotten and read again from disk; there, a narinfo that is
//! removed takes its claim with it. One that is on no disk counts if its narinfo is still in
//! memory.

use super::found::{CachedObject, ClaimOf, Hit};
use super::tiers::Cache;
use crate::memory::{Claimant, HeldClaim};
use crate::nix::{Class, class};
use crate::object::{Key, NarClaim, Sha256};
use crate::store::{ClaimUnknown, Published, Purging, Scope};

impl Cache {
    /// What a narinfo said of `key`, if its class is that of NARs.
    pub async fn claim_of_nar(
        &self,
        key: &Key,
        class: Class,
    ) -> Result<Option<NarClaim>, ClaimUnknown> {
        if class == Class::Nar { self.claim(key).await } else { Ok(None) }
    }

    /// What a narinfo said of the NAR `key`. An error says nothing about whether one did: a disk
    /// does not tell.
    pub async fn claim(&self, key: &Key) -> Result<Option<NarClaim>, ClaimUnknown> {
        if let Some(held) = self.memory.claim(key) {
            let is_unpurged = self.heating.allows_hash(held.since, key.site(), held.by.hash());
            if is_unpurged || self.is_made_by_hot(&held) {
                return Ok(Some(held.claim));
            }
            self.memory.forget_claim(key, &held);
        }
        let (since, seen) = (self.heating.purges(), self.memory.seen(key));
        let Some(store) = &self.store else { return Ok(None) };
        let Some((by, claim)) = store.claim(key).await? else { return Ok(None) };
        let found = HeldClaim { claim: claim.clone(), by: Claimant::Stored(by), since, order: 0 };
        let heat = || self.memory.heat_claim(key, found, seen);
        let heated = self.heating.leave_hash(since, key.site(), by, heat);
        Ok(Some(heated.map_or(claim, |held| held.claim)))
    }

    /// The key of the narinfo that is known to claim the NAR `nar`, and its claim. None if that is
    /// not known for certain.
    pub async fn claimant(&self, nar: &Key) -> Option<(Key, NarClaim)> {
        // What a disk tells is held in memory from then on.
        let claim = self.claim(nar).await.ok()??;
        let narinfo = match self.memory.claim(nar)?.by {
            Claimant::Hot(narinfo) => narinfo,
            Claimant::Stored(hash) => self.store.as_ref()?.key_of(hash).await?,
        };
        Some((narinfo, claim))
    }

    /// What is held in memory of what a narinfo said of the NAR `key`, be it purged or not. Never
    /// waits.
    pub fn held_claim(&self, key: &Key) -> Option<NarClaim> {
        self.memory.claim(key).map(|held| held.claim)
    }

    /// Drops what is stored of the NAR that the narinfo `by` is about to name, if the narinfo says
    /// something else of it than before, and the file is not the one that it says. What another
    /// narinfo says of the same NAR changes nothing.
    pub async fn drop_contradicted(&self, by: &Key, (nar, claim): &ClaimOf) {
        let Some(Hit::Memory(found) | Hit::Disk(found)) = self.lookup(nar).await else { return };
        let before = match self.claimant(nar).await {
            Some((narinfo, _)) if narinfo != *by => return,
            Some((_, before)) => Some(before),
            None => None,
        };
        let sha256 = match &found {
            CachedObject::Hot(hot) => Sha256::of(&hot.body()),
            CachedObject::Stored(stored) => stored.sha256,
        };
        let is_same = before.is_some_and(|before| before.says_the_same(claim));
        let is_named = class::file_hash_of(nar.path()) == Some(sha256.0);
        if !is_same && !is_named && claim.file_hash != Some(sha256) {
            let (site, path) = (nar.site(), nar.path());
            tracing::info!(site, path, "dropped: a narinfo says something else of it now");
            self.purge(Scope::Key(nar.clone()), Purging::Hard).await;
        }
    }

    /// Whether the narinfo that makes this claim is in memory alone, and there still. What a purge
    /// covers is not there any more when the second fence is raised.
    fn is_made_by_hot(&self, held: &HeldClaim) -> bool {
        match &held.by {
            Claimant::Stored(_) => false,
            Claimant::Hot(narinfo) => {
                let hot = self.memory.get(narinfo.as_str());
                hot.is_some_and(|hot| hot.order() == held.order)
            }
        }
    }

    /// Keeps what a narinfo that is published says, if that is newer than what is held.
    pub(super) fn put_claim(&self, published: &Published, (nar, claim): ClaimOf) -> PutClaim {
        let by = match published.disk {
            Some(_) => Claimant::Stored(published.key.hash()),
            None => Claimant::Hot(published.key.clone()),
        };
        let (since, order) = (self.heating.purges(), published.order);
        let held = HeldClaim { claim, by, since, order };
        let before = self.memory.put_claim(nar.clone(), held.clone());
        let is_news = before.is_some_and(|before| !before.claim.says_the_same(&held.claim));
        PutClaim { nar, held, is_news }
    }
}

/// A claim that is held.
pub(super) struct PutClaim {
    pub(super) nar: Key,
    pub(super) held: HeldClaim,
    /// Whether it says something else than the one before.
    pub(super) is_news: bool,
}
