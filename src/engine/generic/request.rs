//! A request for a generic site: what it asks for, what it permits, and what goes to an origin for
//! it. Owned by its task; no locks.

use super::target::GenericTarget;
use crate::cache::CachedObject;
use crate::clock::Timestamp;
use crate::config::Caching;
use crate::engine::connection::ClientConnection;
use crate::engine::file_fallback::{FallbackRequest, FileFallback};
use crate::engine::site::ServedSite;
use crate::engine::state::Engine;
use crate::fill::{Asker, FillRequest, PageForm, RequestForm};
use crate::object::Meta;
use crate::origin::InterimObserver;
use crate::policy::generic::fields::AnswerUse;
use crate::policy::generic::request::{ForwardingLimit, RequestHandling, Wishes, way};
use crate::policy::generic::reuse::{Outage, Reuse, judge, may_bridge, revalidation_wait};
use crate::policy::generic::variant::selects;
use crate::policy::generic::{Directives, fields};
use crate::rfc::CdnLoop;
use crate::store::Stored;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The field that tells origins the address of the client.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request for a generic site while it is decided.
pub(super) struct GenericRequest<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) site: &'a Arc<ServedSite>,
    pub(super) caching: &'a Arc<Caching>,
    pub(super) parts: &'a Parts,
    pub(super) connection: &'a Arc<ClientConnection>,
    pub(super) target: GenericTarget,
    /// The fields that go to the origin and select a variant, without conditions and ranges.
    pub(super) fields: OnceLock<HeaderMap>,
    pub(super) reach: ForwardingLimit,
    pub(super) wishes: Wishes,
    pub(super) passed: &'a CdnLoop,
    pub(super) now: Timestamp,
}

impl GenericRequest<'_> {
    pub(super) fn directives(&self, meta: &Meta) -> Directives {
        Directives::of(&meta.headers, &self.caching.targeted)
    }

    /// Whether this request may get `stale` if an origin has no usable answer.
    pub(super) fn may_bridge(&self, stale: &CachedObject, outage: Outage) -> bool {
        let (meta, rule) = (stale.meta(), self.caching.rule(self.target.key.path()));
        may_bridge(&meta, &self.directives(&meta), &self.wishes, rule, outage, self.now)
    }

    /// Provenance long an origin is waited for before `stale` is sent; none if it may not be sent.
    pub(super) fn revalidation_wait(&self, stale: &CachedObject) -> Option<Duration> {
        let (meta, caching) = (stale.meta(), self.caching);
        let rule = caching.rule(self.target.key.path());
        revalidation_wait(&meta, &self.directives(&meta), &self.wishes, rule, self.now)
    }

    /// Whether this request may share an answer that is arriving: the answer began after the
    /// request, or may be reused already.
    pub(super) fn may_share(&self, meta: &Meta) -> bool {
        let rule = self.caching.rule(self.target.key.path());
        selects(self.fields(), &meta.variant)
            && (meta.response_time >= self.now
                || judge(meta, &self.directives(meta), &self.wishes, rule, self.now)
                    != Reuse::Confirm)
    }

    pub(super) fn sought(&self, interim: Option<InterimObserver>) -> FillRequest {
        let headers = Arc::new(self.fields().clone());
        let (caching, wishes) = (Arc::clone(self.caching), self.wishes);
        FillRequest {
            upstream: Arc::clone(&self.site.upstream),
            key: self.target.key.clone(),
            path: Arc::clone(&self.target.path),
            query: self.target.query.clone(),
            asker: Asker::at(self.connection.peer.ip()),
            form: RequestForm::Page(PageForm { caching, headers, wishes, interim }),
        }
    }

    /// The fields that go to the origin, without conditions and ranges. They select a variant too.
    pub(super) fn fields(&self) -> &HeaderMap {
        self.fields.get_or_init(|| {
            let fate = match way(&self.parts.method) {
                RequestHandling::Cached => AnswerUse::MayBeStored,
                RequestHandling::Through | RequestHandling::Write | RequestHandling::Refused => {
                    AnswerUse::PassedOn
                }
            };
            let further = &self.caching.request_headers;
            let mut headers = fields::forwarded(&self.parts.headers, fate, further);
            fields::unconditional(&mut headers);
            headers.insert("cdn-loop", self.passed.extended(&self.engine.instance));
            let address = self.connection.peer.ip().to_canonical().to_string();
            if let Ok(address) = HeaderValue::try_from(address) {
                headers.insert(FORWARDED_FOR, address);
            }
            self.target.address.tell(&mut headers);
            if let ForwardingLimit::FurtherWith(left) = &self.reach {
                headers.insert(header::MAX_FORWARDS, left.clone());
            }
            headers
        })
    }

    /// Passes interim answers to the client if its connection can; HTTP/1.0 has none (RFC 9110
    /// section 15.2).
    pub(super) fn interim(&self) -> Option<InterimObserver> {
        let interims =
            self.connection.interims().filter(|_| self.parts.version == Version::HTTP_11);
        interims.map(|interims| {
            let (interims, turn) = (Arc::clone(interims), interims.turn());
            let heard: InterimObserver =
                Arc::new(move |status: StatusCode, headers: &HeaderMap| {
                    interims.put(turn, status, headers);
                });
            heard
        })
    }

    /// The fallback of a stored body.
    pub(super) fn file_fallback(&self, stored: &Stored, end: Option<u64>) -> Box<FileFallback> {
        let request = FallbackRequest::Page(Box::new(self.sought(None)));
        FileFallback::of(self.engine, request, stored, end)
    }
}
