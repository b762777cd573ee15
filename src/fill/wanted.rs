//! An object that is wanted, and the heads that are made of what origins say of it. Values only.

use super::Upstream;
use crate::nix::Class;
use crate::object::{Key, Lifetime, Meta, Proof};
use crate::origin::{Ask, Method, Response, Said};
use crate::policy;
use crate::policy::response::Storable;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::sync::Arc;

/// An object that is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where it comes from.
    pub upstream: Arc<Upstream>,
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
}

impl Wanted {
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
        }
    }

    /// The head of what an origin sent, and whether it may be stored.
    pub fn meta_of(&self, response: &Response) -> (Meta, Storable) {
        let admitted = policy::response::admit(
            self.class,
            &response.headers,
            response.request_time,
            response.response_time,
            &self.upstream.site.lifetimes,
        );
        let meta = Meta {
            key: self.key.clone(),
            class: self.class,
            status: StatusCode::OK,
            headers: admitted.headers,
            origin: Arc::clone(&response.origin_name),
            request_time: response.request_time,
            response_time: response.response_time,
            age_at_response: admitted.age,
            lifetime: admitted.lifetime,
            is_invalidated: false,
            proof: Proof::Length,
        };
        (meta, admitted.storable)
    }

    /// The head of an absence.
    pub fn absent_meta(&self, said: &Said) -> Meta {
        let lifetime = self.upstream.site.lifetimes.absent.as_secs();
        Meta {
            key: self.key.clone(),
            class: self.class,
            status: StatusCode::NOT_FOUND,
            headers: HeaderMap::new(),
            origin: self.upstream.origins.name(said.origin),
            request_time: said.request_time,
            response_time: said.response_time,
            age_at_response: policy::response::age_of(
                &said.headers,
                said.request_time,
                said.response_time,
            ),
            lifetime: Lifetime::Seconds(u32::try_from(lifetime).unwrap_or(u32::MAX)),
            is_invalidated: false,
            proof: Proof::Length,
        }
    }
}
