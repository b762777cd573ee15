//! What goes wrong with a fill: why none begins, why a body is refused, why a fill brought nothing.
//! Values only.

use crate::client::UploadError;
use crate::nix::nar_file::NarFileError;
use crate::object::{Key, Sha256};
use crate::origin::{BodyError, FetchError};
use crate::store::{Broken, WriteError};
use std::sync::Arc;

/// Why a fill brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// No origin gave a usable answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The body could not be read to its end.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is not what was promised.
    #[error("origin {origin}: the body {rejection}")]
    Rejected {
        /// The origin's name.
        origin: Arc<str>,
        /// Why.
        rejection: Rejection,
    },
    /// It broke off, and no origin continued it until its deadline.
    #[error("{0}; no origin continued it")]
    GivenUp(Box<FillError>),
    /// The object is not the one that is stored in part.
    #[error("the object has changed at its origin since its first part was fetched")]
    Changed,
    /// The origin sends the whole although a part is asked for.
    #[error("the origin does not send parts of this object")]
    Unranged,
    /// As many fetches are under way as allowed.
    #[error("as many fills are under way as [server.limits] fills_max allows")]
    NoRoom,
    /// The disk gave up under it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Why the fetch ended that a reader shares with others.
    #[error(transparent)]
    Relayed(Arc<FillError>),
    /// A reader has left a shared fetch, and no origin has sent the same body once more.
    #[error("its reader fell behind a shared fetch, and no origin has sent the same body again")]
    Behind,
    /// It broke off, and what goes on may be of another object: a part ends before the whole is
    /// proven.
    #[error("the origin may have replaced the object while it was sent")]
    Doubtful,
    /// What it holds could not be looked at.
    #[error("its contents could not be read to judge them: {0}")]
    Unjudged(Arc<Broken>),
    /// It has no reader, and its place was given to another fill, or its origin is too slow.
    #[error("it has no reader, and is too slow or gives its place to another")]
    Unread,
    /// The fill ended without a result: a fault inside Narthex.
    #[error("the fill ended without a result")]
    NoResult,
}

impl FillError {
    /// Whether the fault is one of time: 504 rather than 502.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_timeout(),
            Self::GivenUp(error) => error.is_timeout(),
            Self::Relayed(error) => error.is_timeout(),
            Self::Body(BodyError::Stalled { .. }) => true,
            Self::Body(BodyError::Broken { .. })
            | Self::Rejected { .. }
            | Self::Changed
            | Self::Unranged
            | Self::NoRoom
            | Self::Write(_)
            | Self::Behind
            | Self::Doubtful
            | Self::Unjudged(_)
            | Self::Unread
            | Self::NoResult => false,
        }
    }

    /// Why no origin gave a usable answer, if it is that.
    fn fetch(&self) -> Option<&FetchError> {
        if let Self::Relayed(error) = self {
            return error.fetch();
        }
        if let Self::Fetch(error) = self { Some(error) } else { None }
    }

    /// Whether the client has as many uploads under way as its share of the origin allows: 503.
    pub fn is_over_share(&self) -> bool {
        self.fetch().is_some_and(FetchError::is_over_share)
    }

    /// Whether the object counts as absent, since only optional origins failed: 404.
    pub fn is_of_optional_origin(&self) -> bool {
        matches!(self.fetch(), Some(FetchError::Optional(_)))
    }

    /// What is wrong with the body of the request itself, if that is the cause.
    pub fn upload(&self) -> Option<UploadError> {
        self.fetch().and_then(FetchError::upload)
    }

    /// Whether the origin may have carried out a request that writes, although it failed here.
    pub fn may_have_been_done(&self) -> bool {
        self.fetch().is_none_or(FetchError::may_have_reached)
    }

    /// Whether a body broke off, so that what came of it is right as far as it goes.
    pub(super) fn is_broken_off(&self) -> bool {
        match self {
            Self::Body(_) | Self::GivenUp(_) => true,
            Self::Rejected { rejection, .. } => matches!(rejection, Rejection::Short { .. }),
            Self::Fetch(_)
            | Self::Changed
            | Self::Unranged
            | Self::NoRoom
            | Self::Write(_)
            | Self::Relayed(_)
            | Self::Behind
            | Self::Doubtful
            | Self::Unjudged(_)
            | Self::Unread
            | Self::NoResult => false,
        }
    }

    /// The origin of a body that was rejected, and the reason.
    pub(super) fn rejected(&self) -> Option<(&str, &Rejection)> {
        match self {
            Self::Rejected { origin, rejection } => Some((origin, rejection)),
            Self::GivenUp(error) => error.rejected(),
            Self::Relayed(error) => error.rejected(),
            Self::Fetch(_)
            | Self::Body(_)
            | Self::Changed
            | Self::Unranged
            | Self::NoRoom
            | Self::Write(_)
            | Self::Behind
            | Self::Doubtful
            | Self::Unjudged(_)
            | Self::Unread
            | Self::NoResult => None,
        }
    }

    /// Logs that it ended the fill of `key`; the metric label of its result. An open breaker was
    /// logged when it opened, and the outage of an optional origin when it began; each request that
    /// they concern is in the access log alone.
    pub(super) fn log(&self, key: &Key) -> &'static str {
        let (site, path, error) = (key.site(), key.path(), self as &dyn std::error::Error);
        if matches!(self, Self::Unread) {
            tracing::info!(site, path, "fill without readers ended");
            return "unread";
        }
        if matches!(self, Self::Fetch(FetchError::Open { .. } | FetchError::Optional(_))) {
            tracing::debug!(site, path, error, "fill failed");
        } else {
            tracing::warn!(site, path, error, "fill failed");
        }
        "failed"
    }
}

/// Why a body is not what was promised.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// It ended early.
    #[error("ended after {actual} of {expected} bytes")]
    Short {
        /// Bytes declared.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// It went on past its declared length.
    #[error("goes on past its {expected} bytes")]
    Long {
        /// Bytes declared.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// It broke off, and the answer that was to continue it is of another object. That answer is
    /// dropped; another origin may continue the body.
    #[error("was to go on with {expected}, but: {actual}")]
    Continuation {
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// Its head contradicts itself.
    #[error("has an unusable head: {detail}")]
    Head {
        /// What is wrong.
        detail: String,
    },
    /// It is longer than objects of its class may be.
    #[error("is longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// Bytes received.
        actual: u64,
    },
    /// Its length is not the narinfo's FileSize.
    #[error("is {actual} bytes long, its narinfo says {expected}")]
    FileSize {
        /// Bytes the narinfo says.
        expected: u64,
        /// Bytes declared or received.
        actual: u64,
    },
    /// Its SHA-256 is not the FileHash.
    #[error("has SHA-256 {actual}, expected {expected}")]
    FileHash {
        /// What the name or the narinfo says.
        expected: Sha256,
        /// What came.
        actual: Sha256,
    },
    /// It does not hold the NAR that its narinfo promises.
    #[error("{error}")]
    Contents {
        /// What is wrong.
        error: NarFileError,
    },
    /// It is not a narinfo, or another path's.
    #[error("is not the narinfo that was asked for: {detail}")]
    Narinfo {
        /// What is wrong.
        detail: String,
    },
    /// It is not a `nix-cache-info`.
    #[error("is not a nix-cache-info: {detail}")]
    CacheInfo {
        /// What is wrong.
        detail: String,
    },
    /// Its store path does not follow from its content address, and no trusted key has signed it.
    #[error("has neither a good signature nor the path of its content address: {detail}")]
    ContentAddress {
        /// What is wrong.
        detail: String,
    },
    /// No trusted key has signed it.
    #[error("carries no good signature by a trusted key: {detail}")]
    Signature {
        /// What is wrong.
        detail: String,
    },
}

impl Rejection {
    /// The metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Short { .. } => "short",
            Self::Long { .. } => "long",
            Self::Continuation { .. } => "continuation",
            Self::Head { .. } => "head",
            Self::TooLarge { .. } => "too_large",
            Self::FileSize { .. } => "file_size",
            Self::FileHash { .. } => "file_hash",
            Self::Contents { .. } => "nar_hash",
            Self::Narinfo { .. } => "narinfo",
            Self::CacheInfo { .. } => "cache_info",
            Self::ContentAddress { .. } => "content_address",
            Self::Signature { .. } => "signature",
        }
    }

    /// What was promised and what came, for the log.
    pub(super) fn expected_and_actual(&self) -> (String, String) {
        match self {
            Self::Short { expected, actual }
            | Self::Long { expected, actual }
            | Self::TooLarge { limit: expected, actual }
            | Self::FileSize { expected, actual } => (expected.to_string(), actual.to_string()),
            Self::FileHash { expected, actual } => (expected.to_string(), actual.to_string()),
            Self::Contents { error } => ("the NAR of its narinfo".to_owned(), error.to_string()),
            Self::Continuation { expected, actual } => (expected.clone(), actual.clone()),
            Self::Head { detail } => ("a usable head".to_owned(), detail.clone()),
            Self::Narinfo { detail } => ("the narinfo asked for".to_owned(), detail.clone()),
            Self::CacheInfo { detail } => ("a nix-cache-info".to_owned(), detail.clone()),
            Self::ContentAddress { detail } => {
                ("the store path of its contents".to_owned(), detail.clone())
            }
            Self::Signature { detail } => ("a trusted signature".to_owned(), detail.clone()),
        }
    }

    /// Whether the origin is likely to send the same again. A body that is cut may be whole the
    /// next time, and a page in place of a narinfo comes from a gateway in trouble. An object with
    /// wrong contents keeps them for a while.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Short { .. }
            | Self::Continuation { .. }
            | Self::Head { .. }
            | Self::Narinfo { .. }
            | Self::CacheInfo { .. } => false,
            Self::Long { .. }
            | Self::TooLarge { .. }
            | Self::FileSize { .. }
            | Self::FileHash { .. }
            | Self::Contents { .. }
            | Self::ContentAddress { .. }
            | Self::Signature { .. } => true,
        }
    }
}

/// Why there is no fill to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// As many are under way as allowed.
    #[error("as many fills are under way as [server.limits] fills_max allows")]
    NoRoom,
    /// One has ended since the cache was looked at: look again before you begin another.
    #[error("a fill has ended meanwhile")]
    Ended,
    /// All recent bodies were wrong, so no origin is asked for a while.
    #[error("all recent bodies were invalid; no origin is asked for {seconds} s")]
    Wrong {
        /// How long.
        seconds: u64,
    },
}
