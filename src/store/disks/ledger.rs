//! Which disks have yet to make up for which purges, and the file that says so on every disk. Pure
//! but for [`read`] and [`write()`], which block; no locks.
//!
//! A purge that a disk cannot carry out, since it is out or fails, is owed by it: nothing that it
//! covers is served from that disk before it is carried out there. The disks that are in write
//! down what the others owe, each all of it, in a file of their own beside the store, so that it is
//! known after a restart too, whichever of them comes back. What a disk owes is bounded: beyond
//! that it owes everything of the site that has most purges, and everything if there are too many
//! sites for that.
//!
//! # Why a purge holds whatever comes and goes
//!
//! Each disk has a name of its own, drawn once, and knows the names of those that were ever in with
//! it. While it is in, every disk that it knows and that is out owes each purge, on its record.
//! When a disk comes in ([`Ledger::admit`]):
//! - Known on both sides: each gets what it owes on the other's record; nothing was purged without
//!   one of them seeing it but what is written there.
//! - Unknown to those that are in: it has never been in with them, or in another life. It owes
//!   everything if they have ever seen a purge, and they do if it has, unless it is kin: some
//!   disk is known on both sides, and the next two rules hold.
//! - One that is in, unknown to the one that comes, has come in while that was out: it may have
//!   missed what that one saw while it was without the others, which is what those owe on its
//!   record; if none of those is in, all that is on its record.
//! - One that is out, known to the one that comes alone: it may have missed what the others saw
//!   without the one that comes, which is what that owes on their record.
//! - A record that cannot be read is that of an unknown disk.
//!
//! What no disk that is in has seen cannot be known: a disk that starts alone, while another has
//! gone that was purged without it, serves what it holds until that one comes back. A purge while
//! no disk takes a write holds until the process ends; that is logged as an error.

use crate::nix::hash::sha256;
use crate::object::{Key, KeyHash, PurgeTags, Tag};
use crate::store::scope::Scope;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Purges that one disk may owe before it owes all of a site in place of some.
const OWED_MAX: usize = 1024;
/// Disks that are remembered, in or out.
const MEMBERS_MAX: usize = 256;
/// The file, and what it is written as.
const NAME: &str = "PURGES";
const NAME_NEW: &str = "PURGES.new";
/// How it begins; the number is the version of its form.
const MAGIC: [u8; 17] = *b"narthex-purges 2\n";
/// How one began that could say nothing of tags.
const MAGIC_1: [u8; 17] = *b"narthex-purges 1\n";
/// Bytes of a digest of the rest, behind the magic.
const DIGEST_BYTES: usize = 32;
/// Bytes that the file may have: every member owing the most of the longest keys stays below.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A disk's own name, drawn when it was first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct DiskId(pub(super) [u8; 16]);

impl DiskId {
    /// A name that no disk has.
    pub(super) fn draw() -> io::Result<Self> {
        let random = || crate::random::u64().map_err(io::Error::other);
        let (high, low) = (u128::from(random()?), u128::from(random()?));
        Ok(Self((high << 64 | low).to_be_bytes()))
    }
}

/// What a disk owes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owed {
    /// Everything; then the others say nothing.
    is_all: bool,
    keys: BTreeSet<Key>,
    /// Sites and prefixes of paths.
    prefixes: BTreeSet<(String, String)>,
    /// Sites and tags.
    tags: BTreeSet<(String, Tag)>,
    /// How often a purge was added, those that were owed already too. Not written down.
    added: u64,
}

impl Owed {
    /// Everything.
    pub(super) fn all() -> Self {
        Self { is_all: true, ..Self::default() }
    }

    /// Whether it is nothing.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_all && self.len() == 0
    }

    /// Purges.
    pub(super) fn len(&self) -> usize {
        self.keys.len() + self.prefixes.len() + self.tags.len() + usize::from(self.is_all)
    }

    /// Whether a purge that is, or may be, of `key` is among it: only an object itself tells its
    /// tags, so while a tag is owed nothing of its site is served from that disk.
    pub(super) fn covers(&self, key: &Key) -> bool {
        let has_prefix = |(site, prefix): &(String, String)| {
            key.site() == site && key.path().starts_with(prefix.as_str())
        };
        let has_key =
            || self.keys.contains(key) || (key.is_variant() && self.keys.contains(&key.primary()));
        let is_of_site = |(site, _): &(String, Tag)| key.site() == site;
        self.is_all
            || has_key()
            || self.prefixes.iter().any(has_prefix)
            || self.tags.iter().any(is_of_site)
    }

    /// Whether a purge that may be of the object of `site` with this key hash is among it.
    pub(super) fn may_cover(&self, site: &str, hash: KeyHash) -> bool {
        let is_key = |key: &Key| key.site() == site && key.hash() == hash;
        self.is_all
            || self.prefixes.iter().any(|(own, _)| own == site)
            || self.tags.iter().any(|(own, _)| own == site)
            || self.keys.iter().any(is_key)
    }

    /// Adds a purge; false if it was owed already.
    pub(super) fn add(&mut self, scope: &Scope) -> bool {
        self.added += 1;
        if self.is_all || scope.site().is_some_and(|site| self.has_site(site)) {
            return false;
        }
        let is_new = match scope {
            Scope::Key(key) => self.keys.insert(key.clone()),
            Scope::Prefix { site, prefix } => self.prefixes.insert((site.clone(), prefix.clone())),
            Scope::Tags { site, tags } => {
                let before = self.tags.len();
                self.tags.extend(tags.iter().map(|tag| (site.clone(), tag.clone())));
                self.tags.len() > before
            }
            Scope::All => true,
        };
        if *scope == Scope::All {
            self.owe_all();
        } else if self.len() > OWED_MAX {
            self.shorten();
        }
        is_new
    }

    /// Whether everything of a site is among it.
    fn has_site(&self, site: &str) -> bool {
        self.prefixes.contains(&whole(site))
    }

    fn owe_all(&mut self) {
        *self = Self { added: self.added, ..Self::all() };
    }

    /// Owes everything of the site that has most purges in place of these, so that the others pay
    /// nothing for it; everything if no site has more than one.
    fn shorten(&mut self) {
        let keys = self.keys.iter().map(Key::site);
        let prefixes = self.prefixes.iter().map(|(site, _)| site.as_str());
        let tags = self.tags.iter().map(|(site, _)| site.as_str());
        let mut counts = BTreeMap::<&str, usize>::new();
        for site in keys.chain(prefixes).chain(tags) {
            *counts.entry(site).or_default() += 1;
        }
        let largest = counts.into_iter().max_by_key(|(_, count)| *count);
        let Some((site, 2..)) = largest else { return self.owe_all() };
        let site = site.to_owned();
        self.keys.retain(|key| key.site() != site);
        self.prefixes.retain(|(own, _)| *own != site);
        self.tags.retain(|(own, _)| *own != site);
        self.prefixes.insert(whole(&site));
    }

    /// Adds what another owes.
    pub(super) fn join(&mut self, other: &Self) {
        for scope in other.scopes() {
            self.add(&scope);
        }
    }

    /// Every purge.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        if self.is_all {
            return vec![Scope::All];
        }
        let prefix = |(site, prefix): &(String, String)| Scope::Prefix {
            site: site.clone(),
            prefix: prefix.clone(),
        };
        let keys = self.keys.iter().cloned().map(Scope::Key);
        let tag = |(site, tag): &(String, Tag)| Scope::Tags {
            site: site.clone(),
            tags: PurgeTags::new([tag.clone()]),
        };
        keys.chain(self.prefixes.iter().map(prefix)).chain(self.tags.iter().map(tag)).collect()
    }
}

/// The prefix that covers all of a site.
fn whole(site: &str) -> (String, String) {
    (site.to_owned(), "/".to_owned())
}

/// A disk that was ever in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// The folder, as it was named last.
    pub(super) path: String,
    /// The mount point of its file system; empty for `/`.
    pub(super) mount: String,
    /// What it owes.
    pub(super) owed: Owed,
}

/// Every disk that was ever in, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) members: BTreeMap<DiskId, Member>,
    /// Whether any of them was in when something was purged.
    pub(super) has_purged: bool,
}

/// The disk that comes in.
#[derive(Debug)]
pub(super) struct Joiner {
    /// Its name.
    pub(super) id: DiskId,
    /// Its place; what it owes counts for nothing here.
    pub(super) place: Member,
    /// Its own record, if it has one.
    pub(super) record: Option<Ledger>,
    /// Whether it holds nothing, so that it owes nothing.
    pub(super) is_empty: bool,
}

impl Ledger {
    /// What a disk owes; `None` for nothing.
    pub(super) fn owed(&self, id: DiskId) -> Option<&Owed> {
        self.members.get(&id).map(|member| &member.owed).filter(|owed| !owed.is_empty())
    }

    /// Notes that all disks but `done` owe a purge; whether there is anything to write down.
    pub(super) fn owe(&mut self, scope: &Scope, done: &[DiskId]) -> bool {
        let is_first = !std::mem::replace(&mut self.has_purged, true);
        let others = self.members.iter_mut().filter(|(id, _)| !done.contains(id));
        others.fold(is_first, |is_new, (_, member)| member.owed.add(scope) || is_new)
    }

    /// Notes that a disk owes a purge; whether that is new.
    pub(super) fn owe_one(&mut self, id: DiskId, scope: &Scope) -> bool {
        self.members.get_mut(&id).is_some_and(|member| member.owed.add(scope))
    }

    /// Notes that a disk has carried out what it owed. False if it owes more by now: then all
    /// of it stays, since an object may have been written between two purges of the same.
    pub(super) fn settle(&mut self, id: DiskId, done: &Owed) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        let is_all_of_it = member.owed.added == done.added;
        if is_all_of_it {
            member.owed = Owed { added: done.added, ..Owed::default() };
        }
        is_all_of_it
    }

    /// Takes a disk in among those `present`; see this file's head for what it and the others owe
    /// from then on. Whether it was known before, or is the first.
    pub(super) fn admit(&mut self, joiner: Joiner, present: &[DiskId]) -> bool {
        let Joiner { id, place, record, is_empty } = joiner;
        let is_first = self.members.is_empty() && present.is_empty();
        let is_known = is_first || self.members.contains_key(&id);
        let record = record.unwrap_or_default();
        let is_kin = record.members.keys().any(|known| self.members.contains_key(known));
        let owes_all = !is_known && (is_kin || self.has_purged);
        if !is_kin && record.has_purged {
            self.members.values_mut().for_each(|member| member.owed = Owed::all());
        }
        self.has_purged |= record.has_purged;
        let missed_by_newer = record.seen_without(present, self);
        let missed_by_older = self.owed(id).cloned().unwrap_or_default();
        for (other, member) in &mut self.members {
            match record.members.get(other) {
                Some(recorded) => member.owed.join(&recorded.owed),
                None => member.owed.join(&missed_by_newer),
            }
        }
        for (other, recorded) in record.members {
            if self.members.contains_key(&other) {
                continue;
            }
            let mut member = recorded;
            if is_known && !is_first {
                member.owed.join(&missed_by_older);
            } else if owes_all && other != id {
                member.owed = Owed::all();
            }
            self.members.insert(other, member);
        }
        let own = self.members.entry(id).or_default();
        if is_empty {
            own.owed = Owed::default();
        } else if owes_all {
            own.owed = Owed::all();
        }
        (own.path, own.mount) = (place.path, place.mount);
        self.forget_some(id, present);
        is_known
    }

    /// What the disk with this record may have seen purged that a disk has missed which it does
    /// not know, while others that are `present` know that one.
    fn seen_without(&self, present: &[DiskId], others: &Self) -> Owed {
        let mut seen = Owed::default();
        if present.iter().any(|id| self.members.contains_key(id)) {
            present.iter().filter_map(|id| self.owed(*id)).for_each(|owed| seen.join(owed));
        } else if self.members.keys().any(|id| others.members.contains_key(id)) {
            self.members.values().for_each(|member| seen.join(&member.owed));
        }
        seen
    }

    /// Forgets disks that are out if there are too many; such a one is unknown from then on.
    fn forget_some(&mut self, joined: DiskId, present: &[DiskId]) {
        while self.members.len() > MEMBERS_MAX {
            let is_out = |id: &&DiskId| **id != joined && !present.contains(id);
            let Some(id) = self.members.keys().find(is_out).copied() else { return };
            self.members.remove(&id);
        }
    }
}

/// The record as it is written; its version is in [`MAGIC`].
#[derive(Serialize, Deserialize)]
struct LedgerForm<M> {
    own: DiskId,
    has_purged: bool,
    members: Vec<M>,
}

/// What is written of a disk, but for its tags: all that was under [`MAGIC_1`].
#[derive(Serialize, Deserialize)]
struct MemberForm {
    id: DiskId,
    path: String,
    mount: String,
    owes_all: bool,
    keys: Vec<String>,
    prefixes: Vec<(String, String)>,
}

/// The tags that a disk owes, each with its site.
type TagsForm = Vec<(String, String)>;

/// The bytes of a record: the magic, the SHA-256 of the rest, the rest.
pub(super) fn encode(own: DiskId, ledger: &Ledger) -> Result<Vec<u8>, postcard::Error> {
    let members = ledger.members.iter().map(|(id, member)| {
        let mut keys: Vec<_> = member.owed.keys.iter().map(|k| k.as_str().to_owned()).collect();
        let mut prefixes: Vec<_> = member.owed.prefixes.iter().cloned().collect();
        let tag = |(site, tag): &(String, Tag)| (site.clone(), tag.as_str().to_owned());
        let mut tags: TagsForm = member.owed.tags.iter().map(tag).collect();
        keys.sort_unstable();
        prefixes.sort_unstable();
        tags.sort_unstable();
        let form = MemberForm {
            id: *id,
            path: member.path.clone(),
            mount: member.mount.clone(),
            owes_all: member.owed.is_all,
            keys,
            prefixes,
        };
        (form, tags)
    });
    let form = LedgerForm::<(MemberForm, TagsForm)> {
        own,
        has_purged: ledger.has_purged,
        members: members.collect(),
    };
    let rest = postcard::to_stdvec(&form)?;
    Ok([&MAGIC[..], &sha256(&rest), &rest].concat())
}

/// The record in these bytes, and its disk; `None` if they are not whole.
pub(super) fn decode(bytes: &[u8]) -> Option<(DiskId, Ledger)> {
    if let Some(rest) = bytes.strip_prefix(&MAGIC_1) {
        let LedgerForm { own, has_purged, members } = proven::<LedgerForm<MemberForm>>(rest)?;
        let members = members.into_iter().map(|member| read_member(member, Vec::new()));
        return Some((own, Ledger { members: members.collect(), has_purged }));
    }
    let rest = bytes.strip_prefix(&MAGIC)?;
    let LedgerForm { own, has_purged, members } =
        proven::<LedgerForm<(MemberForm, TagsForm)>>(rest)?;
    let members = members.into_iter().map(|(member, tags)| read_member(member, tags));
    Some((own, Ledger { members: members.collect(), has_purged }))
}

/// What stands behind the magic, if its digest is right.
fn proven<'a, T: Deserialize<'a>>(rest: &'a [u8]) -> Option<T> {
    let (digest, rest) = rest.split_at_checked(DIGEST_BYTES)?;
    if digest != sha256(rest) {
        return None;
    }
    postcard::from_bytes(rest).ok()
}

/// A disk as it was written down; it owes everything where what it owes cannot be read.
fn read_member(member: MemberForm, tags: TagsForm) -> (DiskId, Member) {
    let keys: Option<BTreeSet<Key>> = member.keys.iter().map(|key| Key::from_stored(key)).collect();
    let tag = |(site, tag): (String, String)| Some((site, Tag::parse(&tag).ok()?));
    let tags: Option<BTreeSet<(String, Tag)>> = tags.into_iter().map(tag).collect();
    let owed = match (keys, tags) {
        (Some(keys), Some(tags)) if !member.owes_all => {
            let prefixes = member.prefixes.into_iter().collect();
            Owed { is_all: false, keys, prefixes, tags, added: 0 }
        }
        _ => Owed::all(),
    };
    (member.id, Member { path: member.path, mount: member.mount, owed })
}

/// The record in a disk's folder, and the disk's name; `None` if there is none that is whole.
pub(super) fn read(folder: &Path) -> io::Result<Option<(DiskId, Ledger)>> {
    let file = match File::open(folder.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(decode(&bytes))
}

/// Writes the record in a disk's folder, whole or not at all, so that it survives a power cut.
pub(super) fn write(folder: &Path, own: DiskId, ledger: &Ledger) -> io::Result<()> {
    let bytes = encode(own, ledger).map_err(io::Error::other)?;
    let new = folder.join(NAME_NEW);
    let mut file = File::create(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join(NAME))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
