//! Requests that write. A task of its own sends each on, so that what it may have changed is
//! dropped even if its client leaves. Part of the table of `generic`; holds no lock.
//!
//! | origin says                 | stored of it, and of what it names      | the client gets |
//! |-----------------------------|-----------------------------------------|-----------------|
//! | 2xx, 3xx                    | dropped before the client is answered   | the answer      |
//! | 502, 504                    | of it, dropped; of what it names, stays | the answer      |
//! | another status              | stays                                   | the answer      |
//! | nothing, perhaps done       | dropped                                 | 502 or 504      |
//! | nothing, never sent         | stays                                   | 502, 503 or 504 |
//! | nothing, the body broke off | dropped                                 | 400 or 408      |

use super::target::Target;
use super::{Directives, Request};
use crate::cache::{FenceEpoch, SMALL_BYTES_MAX};
use crate::config::OriginUrl;
use crate::engine::answer::{self, Answer};
use crate::engine::site::Site;
use crate::fill::{Fills, Role};
use crate::object::Key;
use crate::origin::{ForwardRequest, Response};
use crate::outcome::Outcome;
use crate::policy::generic::invalidation::{self, RequestAuthority};
use crate::policy::generic::{fields, storing};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use std::sync::Arc;

/// What of a write its task needs.
struct Write {
    site: Arc<Site>,
    target: Target,
    uri: Uri,
    authority: String,
}

/// What a write came to; with a ticket if it may have been done.
struct Written {
    response: Response,
    ticket: Option<FenceEpoch>,
}

impl Request<'_> {
    /// Sends a write on, and drops what it may have changed.
    pub(super) async fn write(&self, forward: ForwardRequest) -> Answer {
        let write = Write {
            site: Arc::clone(self.site),
            target: self.target.clone(),
            uri: self.parts.uri.clone(),
            authority: self.authority(),
        };
        let (engine, began) = (Arc::clone(self.engine), self.engine.cache.ticket());
        let written = self.engine.fills.in_own_task("write", async move {
            let response = engine.fills.through(&write.site.upstream, forward).await;
            let stale = match &response {
                Ok(response) if invalidation::is_success(response.status) => {
                    write.stale(&response.headers)
                }
                Ok(response) if invalidation::is_of_unknown_fate(response.status) => {
                    write.stale(&HeaderMap::new())
                }
                Err(error) if error.may_have_been_done() => write.stale(&HeaderMap::new()),
                Ok(_) | Err(_) => Vec::new(),
            };
            let mut ticket = None;
            // The write's own key comes last: its ticket is for what the write has brought.
            for key in stale {
                ticket = engine.cache.purge_written(key, began).await;
            }
            response.map(|response| Written { response, ticket })
        });
        let Written { response, ticket } = match written.await {
            Ok(written) => written,
            Err(error) => return answer::failed(&error),
        };
        let fills: &Fills = &self.engine.fills;
        if let Some(ticket) = ticket
            && self.is_as_if_read(&response)
        {
            let flight = fills.keep(&self.sought(None), (response, ticket), self.now).await;
            let answer = self.landed(Role::Lead, &flight, None).await;
            return answer.unwrap_or_else(|| answer::fault("an answer was lost"));
        }
        self.passing(fills.passing(&self.target.key, response), Outcome::Pass)
    }

    /// Whether the answer to a POST may be kept for GET (RFC 9110 section 9.3.3): it is small, says
    /// how long it is fresh, and that it is what its own URL holds. The origin has made it of no
    /// field that it would not get with a GET.
    fn is_as_if_read(&self, response: &Response) -> bool {
        let authority = self.authority();
        let scheme = self.target.place.scheme();
        let place = RequestAuthority { scheme, authority: &authority, origins: &[] };
        let directives = Directives::of(&response.headers, &self.caching.targeted);
        self.parts.method == Method::POST
            && response.status == StatusCode::OK
            && response.content_length.is_some_and(|length| length <= SMALL_BYTES_MAX)
            && storing::is_explicit(&response.headers, &directives)
            && invalidation::is_of_itself(&self.parts.uri, place, &response.headers)
            && !fields::has_unkeyed(&self.parts.headers, &self.caching.request_headers)
    }

    fn authority(&self) -> String {
        let of_uri = self.parts.uri.authority().map(ToString::to_string);
        let host = || Some(self.parts.headers.get(header::HOST)?.to_str().ok()?.to_owned());
        of_uri.or_else(host).unwrap_or_default()
    }
}

impl Write {
    /// The keys of what the write may have changed, if it was answered with these fields; its own
    /// is the last one.
    fn stale(&self, answered: &HeaderMap) -> Vec<Key> {
        let origins = self.site.upstream.site.origins.iter();
        let origins: Vec<&str> = origins.filter_map(|origin| host(&origin.url)).collect();
        let scheme = self.target.place.scheme();
        let place = RequestAuthority { scheme, authority: &self.authority, origins: &origins };
        let mut paths = invalidation::also_stale(&self.uri, place, answered);
        let query = self.target.query.as_ref().map(|query| format!("?{query}"));
        paths.push(format!("{}{}", self.target.path, query.unwrap_or_default()));
        let keys = paths.iter().filter_map(|path| self.site.generic_keys(path)).flatten();
        let mut keys: Vec<Key> = keys.filter(|key| *key != self.target.key).collect();
        keys.push(self.target.key.clone());
        keys
    }
}

fn host(url: &OriginUrl) -> Option<&str> {
    match url {
        OriginUrl::Http(url) => url.host(),
        OriginUrl::S3(_) | OriginUrl::File(_) => None,
    }
}
