//! The first step of a request: finds its site, refuses what must be refused, and answers at once
//! what memory or an open file holds. Hands the rest to the decision tables. Holds no lock.

use super::answer::{self, Answering};
use super::body::AnswerBody;
use super::connection::ClientConnection;
use super::deliver::{self, ReadRequest};
use super::generic;
use super::lookup::{self, ObjectRoute, OwnedRoute};
use super::request_record::PendingRecord;
use super::site::{ServedSite, Sites};
use super::site_pages;
use super::state::Engine;
use super::table;
use super::target::{self, Path, RoutedRequest};
use crate::client::BoxError;
use crate::clock::Moment;
use crate::policy;
use crate::policy::request::{RequestPlan, RequestRefusal};
use crate::rfc::CdnLoop;
use crate::rfc::authority::Authority;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use std::sync::Arc;

/// What is known of a request before any look-up.
#[derive(Debug)]
enum Route<'s, 'p> {
    /// It reads an object of a binary cache.
    Object(ObjectRoute<'s, 'p>),
    /// It is for a generic site.
    Generic { site: &'s Arc<ServedSite>, passed: CdnLoop },
}

impl Engine {
    /// Answers `request`, at once if memory has the answer. Never fails: an error becomes a status,
    /// or a body that is cut.
    ///
    /// The client's own body, if there is one, goes to the origin of a generic site. Other sites
    /// drop it unread.
    pub fn handle<B>(
        self: &Arc<Self>,
        request: Request<B>,
        connection: &Arc<ClientConnection>,
    ) -> Answering<AnswerBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Moment { edge: now, wall } = self.clock.moment();
        let record = PendingRecord::of(&request, wall, connection, &self.log);
        let (mut parts, body) = request.into_parts();
        let sites = self.sites.load();
        let route = match self.route(&parts, &sites) {
            Ok(Route::Object(route)) => route,
            Ok(Route::Generic { site, passed }) => {
                let (site, body) = (Arc::clone(site), generic::outbound(body, connection));
                let asked = generic::IncomingRequest { parts, site, passed, body };
                return generic::answer(self, asked, connection, record, now);
            }
            Err(refusal) => {
                let answer = refusal.map_or_else(answer::preflight, answer::refused);
                return Answering::Now(answer.respond(&self.metrics, &parts, record, None));
            }
        };
        if let Some((hit, class)) = lookup::in_memory(&self.cache, route.site, &route.path, now) {
            let site = route.site;
            let answer = hit.answer(route.method, std::mem::take(&mut parts.headers), now, &record);
            let answer = site_pages::adapt(answer, site, class);
            return Answering::Now(answer.respond(
                &self.metrics,
                &parts,
                record,
                Some((site, class)),
            ));
        }
        if let Some((stored, outcome, routed)) = lookup::open_file(&self.cache, &route, now) {
            let (headers, none) = (std::mem::take(&mut parts.headers), HeaderMap::new());
            let asked = ReadRequest {
                method: routed.method,
                headers: &none,
                connection,
                engine: self,
                routed: &routed,
                now,
            };
            let answer = deliver::stored(&asked, headers, &stored, outcome);
            let counted = Some((&*routed.site, routed.target.class));
            return Answering::Now(answer.respond(&self.metrics, &parts, record, counted));
        }
        let (route, engine, connection) = (route.kept(), Arc::clone(self), Arc::clone(connection));
        let later = async move { engine.later(&parts, route, &connection, record).await };
        Answering::Later(Box::pin(later))
    }

    /// The answer to a request that memory and open files cannot answer.
    async fn later(
        self: &Arc<Self>,
        parts: &Parts,
        route: OwnedRoute,
        connection: &Arc<ClientConnection>,
        record: PendingRecord,
    ) -> Response<AnswerBody> {
        let target = target::of(&parts.uri, &route.site, route.path, &self.cache).await;
        match target {
            Ok(target) => {
                let OwnedRoute { site, passed, method, upstream, .. } = route;
                let routed = RoutedRequest { site, passed, target, method, upstream };
                let answer = table::answer(self, parts, &routed, connection).await;
                answer.respond(
                    &self.metrics,
                    parts,
                    record,
                    Some((&routed.site, routed.target.class)),
                )
            }
            Err(refusal) => answer::refused(refusal).respond(&self.metrics, parts, record, None),
        }
    }

    /// Logs a request that the front refused by itself with `status`.
    pub fn log_refused<B>(
        &self,
        request: &Request<B>,
        status: StatusCode,
        connection: &Arc<ClientConnection>,
    ) {
        PendingRecord::of(request, self.clock.wall(), connection, &self.log).refused(status);
    }

    /// Logs bytes that the front could not read as a request and answered with `status`. Their
    /// method and target are not known.
    pub fn log_unreadable(&self, status: StatusCode, connection: &Arc<ClientConnection>) {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("*");
        if let Ok(unknown) = Method::from_bytes(b"-") {
            *request.method_mut() = unknown;
        }
        self.log_refused(&request, status, connection);
    }

    /// The decisions before any look-up. The error is `None` for a preflight, which is answered
    /// like a refusal.
    fn route<'s, 'p>(
        &self,
        parts: &'p Parts,
        sites: &'s Sites,
    ) -> Result<Route<'s, 'p>, Option<RequestRefusal>> {
        let named = Authority::of_request(parts.version, &parts.uri, &parts.headers);
        let named = named.map_err(RequestRefusal::from)?;
        let site = sites.route(named.as_ref().map(|authority| &*authority.host));
        if let Some(site) = site.filter(|site| site.upstream.site.caching.is_some()) {
            return Ok(Route::Generic { site, passed: self.passed(parts)? });
        }
        let (method, upstream) = match policy::request::plan(&parts.method, &parts.headers)? {
            RequestPlan::Object { method, upstream } => (method, upstream),
            RequestPlan::Preflight => return Err(None),
        };
        let site = site.ok_or(RequestRefusal::UnknownHost)?;
        let passed = self.passed(parts)?;
        let path = Path::of(&parts.uri, &site.upstream.site.base_path, self.limits.path_bytes_max)?;
        Ok(Route::Object(ObjectRoute { site, passed, path, method, upstream }))
    }

    /// The caches that a request has passed, an error if this one is among them.
    fn passed(&self, parts: &Parts) -> Result<CdnLoop, RequestRefusal> {
        let passed = CdnLoop::of(&parts.headers).map_err(RequestRefusal::from)?;
        if passed.contains(&self.instance) { Err(RequestRefusal::Loop) } else { Ok(passed) }
    }
}
