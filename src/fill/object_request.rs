//! A request for an object of a binary cache, and the heads that are made of what origins say of
//! it. Values only.

use super::error::{FillError, Rejection};
use super::proof::ExpectedBody;
use super::site_origins::{Demand, SiteOrigins};
use crate::cache::Cache;
use crate::config::{AskOrder, LifetimeTerms};
use crate::nix::Class;
use crate::object::{Key, Lifetime, Meta, Proof, Variant};
use crate::origin::{Ask, Asker, FetchReason, Method, Response, Retries};
use crate::policy;
use crate::policy::response::{AdmittedHead, Coding, ObjectReply, ObjectVerdict, Times};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::Arc;

/// An object that is wanted.
#[derive(Debug, Clone)]
pub struct ObjectRequest {
    /// The origins of its site.
    pub upstream: Arc<SiteOrigins>,
    /// Its key.
    pub key: Key,
    /// The path to ask for: canonical, decoded, with a leading `/`.
    pub path: Arc<str>,
    /// The query to ask for.
    pub query: Option<Arc<str>>,
    /// Its class.
    pub class: Class,
    /// The whole `CDN-Loop` to send, this instance included.
    pub cdn_loop: HeaderValue,
    /// The client that asks.
    pub asker: Asker,
    /// Why, if the request for it does not tell by itself.
    pub reason: Option<FetchReason>,
}

/// A response that may be sent to a client.
#[derive(Debug, Clone)]
pub struct AdmittedObject {
    /// Its head.
    pub meta: Meta,
    /// Whether it may be stored.
    pub keep: Keep,
    /// Whether its bytes are the file itself, so that hashes and grammars apply to them.
    pub coding: Coding,
    /// `Cache-Status` of the caches on the way.
    pub upstream_status: Vec<HeaderValue>,
}

/// Whether a response may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It may.
    IfVerified,
    /// It may not.
    Never,
}

impl ObjectRequest {
    pub(super) fn demand(&self) -> Demand {
        Demand { asker: self.asker, class: self.class, upstream: Arc::clone(&self.upstream) }
    }

    pub(super) fn ask(&self, method: Method) -> Ask {
        Ask {
            method,
            path: Arc::clone(&self.path),
            query: self.query.clone(),
            class: self.class,
            range: None,
            if_none_match: None,
            if_modified_since: None,
            if_match: None,
            cdn_loop: Some(self.cdn_loop.clone()),
            only: None,
            prefer: None,
            avoid: Vec::new(),
            retries: Retries::Usual,
            reason: self.reason,
        }
    }

    /// `ask`, a question for this object, put to the origin that the narinfo of a NAR came from: to
    /// it first if the file's hash is known, which proves what any origin sends; to it alone if it
    /// is not, since another origin may have another file by that name. If the
    /// rules of the site never ask that origin for the file, others are asked.
    pub(super) async fn sourced(&self, cache: &Cache, ask: Ask) -> Ask {
        let origins = &self.upstream.site.origins;
        if self.class != Class::Nar || origins.len() < 2 {
            return ask;
        }
        let Ok(Some(claim)) = cache.claim(&self.key).await else { return ask };
        let position = claim.source.and_then(|source| self.upstream.trusted.position(source));
        let Some(position) = position else { return ask };
        let turns = origins.get(position).map(|origin| &origin.turns);
        let is_asked =
            turns.is_some_and(|turns| turns.turn(self.class, &self.path) != AskOrder::Never);
        let is_proven = ExpectedBody::of(&self.path, Some(&claim)).file_hash.is_some();
        if is_proven || !is_asked {
            return Ask { prefer: Some(position), ..ask };
        }
        Ask { only: Some(position), ..ask }
    }

    /// How long what is wanted stays fresh, and serves when it is not.
    pub fn terms(&self) -> LifetimeTerms {
        self.upstream.site.lifetimes.of(self.class, self.key.path())
    }

    /// The head of what an origin sent, and what may be done with it.
    pub fn admit(&self, response: &Response) -> Result<AdmittedObject, FillError> {
        self.admit_head(response, response.status, &response.headers)
    }

    fn admit_head(
        &self,
        response: &Response,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<AdmittedObject, FillError> {
        let times = Times { request: response.request_time, response: response.response_time };
        let reply = ObjectReply { class: self.class, status, headers, times };
        let (keep, admission) = match policy::response::admit(&reply, &self.terms()) {
            ObjectVerdict::Store(admission) => (Keep::IfVerified, admission),
            ObjectVerdict::Pass(reason, admission) => {
                let (path, reason) = (self.key.path(), reason.as_str());
                tracing::debug!(path, reason, "response not storable");
                (Keep::Never, admission)
            }
            ObjectVerdict::Unusable(fault) => {
                return Err(FillError::Rejected {
                    origin: Arc::clone(&response.origin_name),
                    rejection: Rejection::Head { detail: fault.to_string() },
                });
            }
        };
        Ok(AdmittedObject {
            keep,
            coding: admission.coding,
            meta: self.meta(StatusCode::OK, &response.origin_name, times, &admission),
            upstream_status: admission.upstream_cache_status,
        })
    }

    /// The head of the whole object of `length` bytes that a 206 is a part of.
    pub(super) fn admit_part(
        &self,
        response: &Response,
        length: u64,
    ) -> Result<AdmittedObject, FillError> {
        let mut headers = response.headers.clone();
        headers.remove(header::CONTENT_RANGE);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        self.admit_head(response, StatusCode::OK, &headers)
    }

    /// The head of an absence that every origin agreed on, the last of them at position `origin`,
    /// and whether it may be remembered.
    pub fn absence(&self, headers: &HeaderMap, origin: usize, times: Times) -> (Meta, Keep) {
        let origin = self.upstream.origins.name(origin);
        if let Some(admission) = policy::response::admit_absence(headers, times, &self.terms()) {
            let meta = self.meta(StatusCode::NOT_FOUND, &origin, times, &admission);
            return (meta, Keep::IfVerified);
        }
        let unkept = AdmittedHead {
            headers: HeaderMap::new(),
            lifetime: Lifetime::Seconds(0),
            age_at_response: 0,
            length: None,
            coding: Coding::Identity,
            upstream_cache_status: Vec::new(),
        };
        (self.meta(StatusCode::NOT_FOUND, &origin, times, &unkept), Keep::Never)
    }

    fn meta(
        &self,
        status: StatusCode,
        origin: &Arc<str>,
        times: Times,
        admission: &AdmittedHead,
    ) -> Meta {
        Meta {
            key: self.key.clone(),
            class: self.class,
            status,
            headers: admission.headers.clone(),
            origin: Arc::clone(origin),
            request_time: times.request,
            response_time: times.response.edge,
            age_at_response: admission.age_at_response,
            lifetime: admission.lifetime,
            is_invalidated: false,
            proof: Proof::Length,
            variant: Variant::default(),
        }
    }
}
