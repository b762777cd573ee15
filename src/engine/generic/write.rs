//! Requests that write. Each is sent by a task of its own, so that what it may have changed is
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

use super::request::GenericRequest;
use super::target::GenericTarget;
use super::{deliver, fetch};
use crate::cache::{FenceEpoch, SMALL_BYTES_MAX};
use crate::config::OriginUrl;
use crate::engine::answer::{self, ClientAnswer};
use crate::engine::site::ServedSite;
use crate::fill::{FillRole, Fills};
use crate::object::Key;
use crate::origin::{ForwardRequest, Response};
use crate::outcome::Outcome;
use crate::policy::generic::invalidation::{self, RequestAuthority};
use crate::policy::generic::{Directives, fields, storing};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use std::sync::Arc;

/// What the task of a write needs.
struct PendingWrite {
    site: Arc<ServedSite>,
    target: GenericTarget,
    uri: Uri,
    authority: String,
}

/// The result of a write, with a ticket if it may have been done.
struct ForwardedWrite {
    response: Response,
    ticket: Option<FenceEpoch>,
}

/// Sends a write to the origin, and drops what it may have changed.
pub(super) async fn write(request: &GenericRequest<'_>, forward: ForwardRequest) -> ClientAnswer {
    let write = PendingWrite {
        site: Arc::clone(request.site),
        target: request.target.clone(),
        uri: request.parts.uri.clone(),
        authority: authority(request),
    };
    let (engine, began) = (Arc::clone(request.engine), request.engine.cache.ticket());
    let written = request.engine.fills.in_own_task("write", async move {
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
        response.map(|response| ForwardedWrite { response, ticket })
    });
    let ForwardedWrite { response, ticket } = match written.await {
        Ok(written) => written,
        Err(error) => return answer::failed(&error),
    };
    let fills: &Fills = &request.engine.fills;
    if let Some(ticket) = ticket
        && is_as_if_read(request, &response)
    {
        let flight = fills.keep(&request.sought(None), response, ticket).await;
        let answer = fetch::flight_answer(request, FillRole::Lead, &flight, None).await;
        return answer.unwrap_or_else(|| answer::fault("an answer was lost"));
    }
    deliver::passing(request, fills.passing(&request.target.key, response), Outcome::Pass)
}

/// Whether the answer to a POST may be stored for GET (RFC 9110 section 9.3.3). It must be small,
/// say how long it is fresh, and say that it is the contents of its own URL. It must not depend on
/// a field that a GET would lack.
fn is_as_if_read(request: &GenericRequest<'_>, response: &Response) -> bool {
    let authority = authority(request);
    let scheme = request.target.address.scheme();
    let place = RequestAuthority { scheme, authority: &authority, origins: &[] };
    let directives = Directives::of(&response.headers, &request.caching.targeted);
    request.parts.method == Method::POST
        && response.status == StatusCode::OK
        && response.content_length.is_some_and(|length| length <= SMALL_BYTES_MAX)
        && storing::is_explicit(&response.headers, &directives)
        && invalidation::is_of_itself(&request.parts.uri, place, &response.headers)
        && !fields::has_unkeyed(&request.parts.headers, &request.caching.request_headers)
}

/// The host that a request names, as it came.
fn authority(request: &GenericRequest<'_>) -> String {
    let of_uri = request.parts.uri.authority().map(ToString::to_string);
    let host = || Some(request.parts.headers.get(header::HOST)?.to_str().ok()?.to_owned());
    of_uri.or_else(host).unwrap_or_default()
}

impl PendingWrite {
    /// The keys of what the write may have changed, if it was answered with these fields; its own
    /// is the last one.
    fn stale(&self, answered: &HeaderMap) -> Vec<Key> {
        let origins = self.site.upstream.site.origins.iter();
        let origins: Vec<&str> = origins.filter_map(|origin| host(&origin.url)).collect();
        let scheme = self.target.address.scheme();
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
