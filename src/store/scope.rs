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
