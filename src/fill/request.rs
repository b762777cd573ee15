//! What a fill is asked to bring, of either kind of site, and what is here before it asks an
//! origin. Values only.

use super::object_request::ObjectRequest;
use super::page_request::PageRequest;
use super::proof::ExpectedBody;
use super::site_origins::{Demand, SiteOrigins};
use crate::cache::{Cache, FenceEpoch, Stale};
use crate::object::Key;
use crate::origin::Response;
use crate::policy::response::Coding;
use std::sync::Arc;

/// What a fill is asked to bring.
#[derive(Debug, Clone)]
pub(super) enum FillRequest {
    /// An object of a binary cache.
    Object(ObjectRequest),
    /// A response of a generic site; of those in part, one that does not vary, as the first request
    /// for it asked.
    Page(PageRequest),
}

/// What is here before anything is fetched.
#[derive(Debug)]
pub(super) enum FillStart {
    /// What is stored, to be confirmed.
    Stale(Option<Stale>),
    /// An answer to GET, and a ticket of the moment before it was asked for.
    Given(Box<Response>, FenceEpoch),
}

impl FillStart {
    /// The ticket that a fill has from what is here.
    pub(super) fn ticket(&self) -> Option<FenceEpoch> {
        match self {
            Self::Stale(_) => None,
            Self::Given(_, ticket) => Some(*ticket),
        }
    }
}

impl FillRequest {
    /// Its key.
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Object(request) => &request.key,
            Self::Page(request) => &request.key,
        }
    }

    /// Its path, for logs.
    pub(super) fn path(&self) -> &Arc<str> {
        match self {
            Self::Object(request) => &request.path,
            Self::Page(request) => &request.path,
        }
    }

    /// What a fill of it is for.
    pub(super) fn demand(&self) -> Demand {
        match self {
            Self::Object(request) => request.demand(),
            Self::Page(request) => request.demand(),
        }
    }

    /// The origins of its site.
    pub(super) fn upstream(&self) -> &Arc<SiteOrigins> {
        match self {
            Self::Object(request) => &request.upstream,
            Self::Page(request) => &request.upstream,
        }
    }

    /// What proves the whole, if its head says that it is coded so.
    pub(super) async fn expected(&self, cache: &Cache, coding: Coding) -> ExpectedBody {
        match (self, coding) {
            (Self::Object(request), Coding::Identity) => {
                let claim = cache.claim_of_nar(&request.key, request.class).await;
                ExpectedBody::as_known(&request.path, claim)
            }
            (Self::Object(_), Coding::Encoded) | (Self::Page(_), _) => ExpectedBody::default(),
        }
    }
}
