//! What a purge covers. Values only; made by `purge`.

use crate::object::{Key, Meta, PurgeTags};

/// What becomes of what a purge covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purging {
    /// It goes.
    Hard,
    /// It becomes stale: confirmed or replaced at the next request, and still there while no
    /// origin answers. What is here in part goes.
    Soft,
}

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeOutcome {
    /// Objects that were stored and are no more, or are stale now.
    pub objects: u64,
    /// For how long it holds.
    pub holds: PurgeHold,
}

/// For how long a purge holds; the weaker ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PurgeHold {
    /// It outlasts the process and a power cut.
    Always,
    /// No disk could take it or note it, or its sync is late: what is purged may come back after a
    /// restart or a power cut.
    UntilRestart,
    /// A part of it was not carried out.
    InPart,
}

impl PurgeOutcome {
    /// A purge of so many objects that outlasts the process.
    pub const fn of(objects: u64) -> Self {
        Self { objects, holds: PurgeHold::Always }
    }

    /// One that was not carried out.
    pub const FAILED: Self = Self { objects: 0, holds: PurgeHold::InPart };

    /// The outcome of both of two purges.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let objects = self.objects.saturating_add(other.objects);
        Self { objects, holds: self.holds.max(other.holds) }
    }
}

/// What a purge covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One object with all its variants.
    Key(Key),
    /// Every object of a site with a path that begins so.
    Prefix {
        /// The site's name.
        site: String,
        /// The beginning of the path, with its leading `/`.
        prefix: String,
    },
    /// Every object of a site that has one of these tags from its origin.
    Tags {
        /// The site's name.
        site: String,
        /// The tags.
        tags: PurgeTags,
    },
    /// Every object of every site.
    All,
}

impl Scope {
    /// The site that it is of; none for all of them.
    pub fn site(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key.site()),
            Self::Prefix { site, .. } | Self::Tags { site, .. } => Some(site),
            Self::All => None,
        }
    }

    /// Whether `key` is covered, or may be: only an object itself tells its tags.
    pub fn may_cover(&self, key: &Key) -> bool {
        match self {
            Self::Key(purged) => purged == key || (key.is_variant() && *purged == key.primary()),
            Self::Prefix { site, prefix } => {
                key.site() == site && key.path().starts_with(prefix.as_str())
            }
            Self::Tags { site, .. } => key.site() == site,
            Self::All => true,
        }
    }

    /// Whether an object with this head is covered.
    pub fn covers(&self, meta: &Meta) -> bool {
        match self {
            Self::Tags { tags, .. } => {
                self.may_cover(&meta.key) && tags.covers_fields(&meta.headers)
            }
            Self::Key(_) | Self::Prefix { .. } | Self::All => self.may_cover(&meta.key),
        }
    }
}
