//! What a request with notices of uploads says, and what becomes of it. Pure; the assembly gives
//! the handler that carries it out. The notices themselves are read by `filter`.

use crate::filter::{Event, NoticeError};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Takes notices of uploads; the feed sends again what was answered with an error. If the client
/// leaves, the future is dropped: a handler that spawns the work completes it all the same.
pub type UploadsHandler = Arc<
    dyn Fn(UploadsRequest) -> BoxFuture<'static, Result<UploadsReply, UploadsError>> + Send + Sync,
>;

/// A request with notices of uploads.
#[derive(Debug)]
pub struct UploadsRequest {
    /// The site's name, from `?site=`; `None` for every site of the buckets that are named.
    pub site: Option<String>,
    /// The notices, or why they cannot be read.
    pub notices: Result<Vec<Event>, NoticeError>,
}

/// What was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadsReply {
    /// Uploads of objects that some site has.
    pub uploads: u64,
    /// Everything else: other events, keep-alives, uploads to buckets of no site.
    pub others: u64,
}

/// Why notices were not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadsError {
    /// No site has that name.
    #[error("no site is named {name:?}; the names are in the config")]
    UnknownSite {
        /// The name.
        name: String,
    },
    /// It cannot be told which site's feed speaks.
    #[error("several sites have an absence filter; name the site of this feed with ?site=NAME")]
    WhichSite,
    /// They cannot be read, so the uploads that they tell of stay unknown.
    #[error("{0}")]
    Unreadable(#[from] NoticeError),
    /// They cannot be noted now.
    #[error("{detail}")]
    Refused {
        /// Why, and what to do.
        detail: String,
    },
}

/// The site that the query of a request names.
pub(super) fn site_of(query: Option<&str>) -> Option<String> {
    let pairs = url::form_urlencoded::parse(query?.as_bytes());
    pairs.filter(|(name, _)| name == "site").map(|(_, value)| value.into_owned()).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_name_the_site() {
        assert_eq!(site_of(Some("a=b&site=my%20site")), Some("my site".to_owned()));
        for none in [None, Some(""), Some("sites=a")] {
            assert_eq!(site_of(none), None);
        }
    }
}
