//! Fetching again what a check of the disk found damaged and dropped, as a request for it would: so
//! that who asks next need not wait. Called by the assembly, for one object at a time.

use super::Engine;
use super::generic::Place;
use super::site::Site;
use crate::cache::Hit;
use crate::fill::{Asker, Sought, Wanted};
use crate::nix::Class;
use crate::nix::class::classify;
use crate::object::Key;
use crate::origin::FetchReason;
use crate::policy::generic::request::Wishes;
use crate::rfc::CdnLoop;
use http::HeaderMap;
use std::sync::Arc;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refetched {
    /// It is stored again.
    Stored,
    /// It was there: somebody asked for it meanwhile, or memory holds it.
    Present,
    /// No site serves it any more, or no origin gave it.
    Failed,
}

impl Refetched {
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
    /// Fetches the object of `key` where it is not stored. Bounded by the deadlines of the origins.
    pub async fn refetch(&self, key: &Key) -> Refetched {
        if self.is_stored(key).await {
            return Refetched::Present;
        }
        let sites = self.sites();
        let Some(site) = sites.named(key.site()) else { return Refetched::Failed };
        if site.upstream.site.caching.is_some() {
            return self.refetch_page(key, site).await;
        }
        if site.key_space() != key.space() {
            return Refetched::Failed;
        }
        let wanted = Wanted {
            upstream: Arc::clone(&site.upstream),
            key: key.clone(),
            path: key.path().into(),
            query: key.query().map(Into::into),
            // What has no class by its path was named by a narinfo.
            class: classify(key.path()).filter(|_| key.query().is_none()).unwrap_or(Class::Nar),
            cdn_loop: CdnLoop::default().extended(&self.instance),
            asker: Asker::default(),
            reason: Some(FetchReason::Heal),
        };
        let Ok((_, flight)) = self.fills.join(wanted, None, None) else { return Refetched::Failed };
        flight.ended().await;
        if self.is_stored(key).await { Refetched::Stored } else { Refetched::Failed }
    }

    /// As a client without a wish would ask for it; which one selects a variant, its key does not
    /// tell.
    async fn refetch_page(&self, key: &Key, site: &Site) -> Refetched {
        let Some(place) = Place::of_space(site, key.space()).filter(|_| !key.is_variant()) else {
            return Refetched::Failed;
        };
        let mut headers = HeaderMap::new();
        place.tell(&mut headers);
        headers.insert("cdn-loop", CdnLoop::default().extended(&self.instance));
        let sought = Sought {
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
            return Refetched::Failed;
        };
        flight.ended().await;
        if self.is_stored(key).await { Refetched::Stored } else { Refetched::Failed }
    }

    async fn is_stored(&self, key: &Key) -> bool {
        matches!(self.cache.lookup(key).await, Some(Hit::Memory(_) | Hit::Disk(_)))
    }
}
