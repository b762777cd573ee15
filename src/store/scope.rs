//! What a purge covers. Values only; made by whoever purges.

use crate::object::Key;

/// What a purge covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One object with all its variants.
    Key(Key),
    /// Every object of a site whose path begins so.
    Prefix {
        /// The site's name.
        site: String,
        /// The beginning of the path, with its leading `/`.
        prefix: String,
    },
    /// Every object of every site.
    All,
}

impl Scope {
    /// Whether `key` is covered.
    pub fn covers(&self, key: &Key) -> bool {
        match self {
            Self::Key(purged) => purged == key || (key.is_variant() && *purged == key.primary()),
            Self::Prefix { site, prefix } => {
                key.site() == site && key.path().starts_with(prefix.as_str())
            }
            Self::All => true,
        }
    }
}
