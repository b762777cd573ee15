//! Fetches an object again that a check of the disk found damaged and dropped, so that the next
//! request need not wait. Called by the assembly, for one object at a time.

use super::generic::RequestAddress;
use super::site::ServedSite;
use super::state::Engine;
use crate::cache::Hit;
use crate::fill::{Asker, ObjectRequest, PageRequest};
use crate::nix::Class;
use crate::nix::class::classify;
use crate::object::Key;
use crate::origin::FetchReason;
use crate::policy::generic::request::Wishes;
use crate::rfc::CdnLoop;
use http::HeaderMap;
use std::sync::Arc;

/// The result of a refetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefetchResult {
    /// It is stored again.
    Stored,
    /// It is stored already, since a request fetched it, or memory has it.
    Present,
    /// No site serves it now, or no origin sent it.
    Failed,
}

impl RefetchResult {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Present => "present",
            Self::Failed => "failed",
        }
    }
}

impl Engine {
    /// Fetches the object of `key` if it is not stored. The deadlines of the origins bound it.
    pub async fn refetch(&self, key: &Key) -> RefetchResult {
        if self.is_stored(key).await {
            return RefetchResult::Present;
        }
        let sites = self.sites();
        let Some(site) = sites.named(key.site()) else { return RefetchResult::Failed };
        if site.upstream.site.caching.is_some() {
            return self.refetch_page(key, site).await;
        }
        if site.key_space() != key.space() {
            return RefetchResult::Failed;
        }
        let wanted = ObjectRequest {
            upstream: Arc::clone(&site.upstream),
            key: key.clone(),
            path: key.path().into(),
            query: key.query().map(Into::into),
            // A path without a class was named by a narinfo, so it is a NAR.
            class: classify(key.path()).filter(|_| key.query().is_none()).unwrap_or(Class::Nar),
            cdn_loop: CdnLoop::default().extended(&self.instance),
            asker: Asker::default(),
            reason: Some(FetchReason::Heal),
        };
        let Ok((_, flight)) = self.fills.join(wanted, None, None) else {
            return RefetchResult::Failed;
        };
        flight.ended().await;
        if self.is_stored(key).await { RefetchResult::Stored } else { RefetchResult::Failed }
    }

    /// Fetches a page as for a client without cache directives. A variant is not fetched again,
    /// since its key does not tell which fields select it.
    async fn refetch_page(&self, key: &Key, site: &ServedSite) -> RefetchResult {
        let Some(address) =
            RequestAddress::of_space(site, key.space()).filter(|_| !key.is_variant())
        else {
            return RefetchResult::Failed;
        };
        let mut headers = HeaderMap::new();
        address.tell(&mut headers);
        headers.insert("cdn-loop", CdnLoop::default().extended(&self.instance));
        let sought = PageRequest {
            upstream: Arc::clone(&site.upstream),
            key: key.clone(),
            path: key.path().into(),
            query: key.query().map(Into::into),
            headers: Arc::new(headers),
            wishes: Wishes::default(),
            asker: Asker::default(),
            interim: None,
        };
        let Ok((_, flight)) = self.fills.seek(sought, None, self.clock.now()) else {
            return RefetchResult::Failed;
        };
        flight.ended().await;
        if self.is_stored(key).await { RefetchResult::Stored } else { RefetchResult::Failed }
    }

    async fn is_stored(&self, key: &Key) -> bool {
        matches!(self.cache.lookup(key).await, Some(Hit::Memory(_) | Hit::Disk(_)))
    }
}
