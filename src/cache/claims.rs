//! What narinfos say of NARs: remembered in memory, read from disk. A claim counts as long as its
//! narinfo was not purged; which one that is, it knows by the hash of its key.
//!
//! Nothing is looked for when a purge comes: a claim that is held says how many purges had been
//! raised before it came, and the second fence is asked each time it is used. A claim that may come
//! from what was purged since is forgotten and read again from disk, where a narinfo that goes
//! takes its claim with it.

use super::{Cache, ClaimOf};
use crate::memory::HeldClaim;
use crate::nix::Class;
use crate::object::{Key, KeyHash, NarClaim};
use crate::store::ClaimUnknown;

impl Cache {
    /// What a narinfo said of `key`, where its class is that of NARs.
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
            if self.heating.allows_hash(held.since, key.site(), held.by) {
                return Ok(Some(held.claim));
            }
            self.memory.forget_claim(key, &held);
        }
        let since = self.heating.purges();
        let Some(store) = &self.store else { return Ok(None) };
        let Some((by, claim)) = store.claim(key).await? else { return Ok(None) };
        let found = HeldClaim { claim: claim.clone(), by, since };
        let heat = || self.memory.heat_claim(key, found);
        let heated = self.heating.leave_hash(since, (key.site(), by), heat);
        Ok(Some(heated.map_or(claim, |held| held.claim)))
    }

    /// Keeps what the narinfo with this hash says; whether it says something else than the one
    /// before. Waits for nothing.
    pub(super) fn put_claim(&self, by: KeyHash, (nar, claim): ClaimOf) -> bool {
        let says = (claim.file_hash, claim.file_size);
        let since = self.heating.purges();
        let before = self.memory.put_claim(nar, HeldClaim { claim, by, since });
        before.is_some_and(|before| (before.claim.file_hash, before.claim.file_size) != says)
    }
}
