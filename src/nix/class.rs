//! Which class of object a path names. Pure.

/// The class of an object in a binary cache; a closed set, used as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Class {
    /// `<32 nix32>.narinfo`.
    Narinfo,
    /// `nar/...`.
    Nar,
    /// `<hash>.ls`.
    Listing,
    /// `log/<drv>`.
    Log,
    /// `debuginfo/<build-id>`.
    Debuginfo,
    /// `realisations/<id>.doi` and `build-trace-v2/<drv>/<out>.doi`.
    Realisation,
    /// `nix-cache-info`.
    CacheInfo,
    /// `index.html`, also asked for as `/`.
    Index,
    /// Anything else.
    Other,
}

impl Class {
    /// Every class, in the order of the metric's label values.
    pub const ALL: [Self; 9] = [
        Self::Narinfo,
        Self::Nar,
        Self::Listing,
        Self::Log,
        Self::Debuginfo,
        Self::Realisation,
        Self::CacheInfo,
        Self::Index,
        Self::Other,
    ];

    /// The name in logs, metrics and the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Narinfo => "narinfo",
            Self::Nar => "nar",
            Self::Listing => "listing",
            Self::Log => "log",
            Self::Debuginfo => "debuginfo",
            Self::Realisation => "realisation",
            Self::CacheInfo => "cache_info",
            Self::Index => "index",
            Self::Other => "other",
        }
    }

    /// The position in [`Class::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}
