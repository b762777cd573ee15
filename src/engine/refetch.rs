//! Fetches an object again that a check of the disk found damaged and dropped, so that the next
//! request need not wait. Called by the assembly, for one object at a time.

use super::generic::RequestAddress;
use super::site::ServedSite;
use super::state::Engine;
use crate::cache::Hit;
use crate::config::Caching;
use crate::fill::{Asker, FillRequest, ObjectForm, PageForm, RequestForm};
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
        let form = match &site.upstream.site.caching {
            Some(caching) => page_form(key, site, caching, &self.instance),
            None => object_form(key, site, &self.instance),
        };
        let Some(form) = form else { return RefetchResult::Failed };
        let wanted = FillRequest {
            upstream: Arc::clone(&site.upstream),
            key: key.clone(),
            path: key.path().into(),
            query: key.query().map(Into::into),
            asker: Asker::default(),
            form,
        };
        let Ok((_, flight)) = self.fills.join(wanted, None, None) else {
            return RefetchResult::Failed;
        };
        flight.ended().await;
        if self.is_stored(key).await { RefetchResult::Stored } else { RefetchResult::Failed }
    }

    async fn is_stored(&self, key: &Key) -> bool {
        matches!(self.cache.lookup(key).await, Some(Hit::Memory(_) | Hit::Disk(_)))
    }
}

/// How an object of a binary cache is fetched; none if the site does not serve it now.
fn object_form(key: &Key, site: &ServedSite, instance: &str) -> Option<RequestForm> {
    (site.key_space() == key.space()).then(|| {
        RequestForm::Object(ObjectForm {
            // A path without a class was named by a narinfo, so it is a NAR.
            class: classify(key.path()).filter(|_| key.query().is_none()).unwrap_or(Class::Nar),
            cdn_loop: CdnLoop::default().extended(instance),
            reason: Some(FetchReason::Heal),
        })
    })
}

/// How a page is fetched: as for a client without cache directives. A variant is not fetched
/// again, since its key does not tell which fields select it.
fn page_form(
    key: &Key,
    site: &ServedSite,
    caching: &Arc<Caching>,
    instance: &str,
) -> Option<RequestForm> {
    let address = RequestAddress::of_space(site, key.space()).filter(|_| !key.is_variant())?;
    let mut headers = HeaderMap::new();
    address.tell(&mut headers);
    headers.insert("cdn-loop", CdnLoop::default().extended(instance));
    Some(RequestForm::Page(PageForm {
        caching: Arc::clone(caching),
        headers: Arc::new(headers),
        wishes: Wishes::default(),
        interim: None,
    }))
}
