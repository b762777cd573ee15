//! A plain HTTP server as an origin: a public binary cache, a parent Narthex, any web server. One
//! per origin, as long lived as it; no locks.
//!
//! What lets the edge in goes to the origin's own scheme, host and port alone: not to the target of
//! a redirect, and the client's certificate is not shown there either. A 401 or 403 of an origin
//! that is sent something tells of that, never of the object.

use super::exchange::{Ask, FetchError, FetchReason, Method, RequestPurpose};
use super::forward::ForwardRequest;
use super::login::Keeper;
use super::response::Response;
use super::verdict::{AnswerVerdict, Dialect};
use super::wire::{Exchange, OriginReply, USER_AGENT, Wire, ask_fields, learning};
use crate::client::{Client, OutboundRequest, no_body};
use crate::nix::Class;
use crate::rfc::authority::canonical_host;
use crate::rfc::path::encode_path;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri, header};

/// The longest chain of redirects that is followed.
const REDIRECTS_MAX: usize = 5;

/// An upstream.
#[derive(Debug)]
pub(super) struct HttpOrigin {
    wire: Wire,
    base: BaseUrl,
    /// Hosts (`host` or `host:port`, lower case) that redirects may lead to.
    redirects_to: Vec<String>,
    keeper: Keeper,
    /// The client for targets of redirects: without the certificate that is shown to the origin
    /// itself, and by any version of HTTP. None if the origin has neither of its own.
    elsewhere: Option<Wire>,
}

/// The URL below which the paths of an upstream lie.
#[derive(Debug)]
struct BaseUrl {
    scheme: Scheme,
    authority: Authority,
    /// The path prefix, without a trailing slash.
    prefix: String,
}

impl BaseUrl {
    /// The URL of `path`, encoded and with a leading `/`, and of a query; none if it is no path.
    fn url(&self, path: &str, query: Option<&str>) -> Option<Uri> {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let path = path.starts_with('/').then(|| format!("{}{path}{query}", self.prefix))?;
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .ok()
    }
}

/// What a request carries beside what is asked.
#[derive(Debug, Clone, Copy)]
struct OriginRequestHead<'a> {
    uri: &'a Uri,
    /// Sent to the origin itself alone.
    authorization: Option<&'a HeaderValue>,
}

impl HttpOrigin {
    /// The upstream at `base`; nothing is asked yet.
    pub(super) fn new(
        wire: Wire,
        base: &Uri,
        redirects_to: &[String],
        keeper: Keeper,
        elsewhere: Option<Client>,
    ) -> Self {
        // A checked configuration has both.
        let base = BaseUrl {
            scheme: base.scheme().cloned().unwrap_or(Scheme::HTTP),
            authority: base
                .authority()
                .cloned()
                .unwrap_or_else(|| Authority::from_static("invalid")),
            prefix: base.path().trim_end_matches('/').to_owned(),
        };
        let redirects_to = redirects_to.iter().map(|host| host.to_ascii_lowercase()).collect();
        let elsewhere = elsewhere.map(|client| Wire { client, ..wire.clone() });
        Self { wire, base, redirects_to, keeper, elsewhere }
    }

    /// Asks once, and again for each permitted redirect; a second time if the credentials were
    /// refused and their file holds others by now.
    ///
    /// Never sends `Accept-Encoding`: objects stored with a content coding come as stored, others
    /// without one.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<OriginReply, FetchError> {
        let authorization = self.keeper.authorization().await?;
        let answer = self.ask_with(ask, authorization.as_ref()).await;
        let (Err(FetchError::Credentials { .. }), Some(refused)) = (&answer, &authorization) else {
            return answer;
        };
        match self.keeper.other_than(refused).await {
            Some(other) => self.ask_with(ask, Some(&other)).await,
            None => answer,
        }
    }

    async fn ask_with(
        &self,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<OriginReply, FetchError> {
        let mut uri = self.url(&encode_path(&ask.path), ask.query.as_deref())?;
        let home = uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let is_home = place(&uri) == place(&home);
            let authorization = authorization.filter(|_| is_home);
            let away = self.elsewhere.as_ref().filter(|_| !is_home);
            let wire = away.unwrap_or(&self.wire);
            let carried = OriginRequestHead { uri: &uri, authorization };
            let mut exchange = wire.send(ask.purpose(), self.request(ask, carried)?).await?;
            if self.keeper.has_any() && is_refusal(exchange.status) {
                return Err(self.keeper.refused(exchange.status.as_str()));
            }
            let learn = || self.request(&learning(ask), carried);
            let verdict = wire.judge(Dialect::Plain, ask, &mut exchange, learn).await?;
            if verdict != AnswerVerdict::Redirect {
                return wire.settle(ask, exchange, verdict);
            }
            uri = self.redirected(&uri, &exchange)?;
        }
        Err(self.wire.protocol(format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// Sends a client's request on, once; the answer may have any status, and redirects are the
    /// client's business.
    ///
    /// The edge adds its credentials to requests that only read, if the client sends none: no
    /// client writes to an origin by the edge's rights. A 401 or 403 to such a request is a fault
    /// of the origin, since the client cannot change it. To a probe it is an answer: an origin that
    /// serves its objects may refuse the path that the probe asks for.
    pub(super) async fn forward(
        &self,
        forward: ForwardRequest,
        purpose: RequestPurpose,
    ) -> Result<Response, FetchError> {
        let is_own = forward.method.is_safe()
            && forward.body.is_none()
            && !forward.headers.contains_key(header::AUTHORIZATION);
        if !is_own || !self.keeper.has_any() {
            return self.forward_with(forward, purpose, None).await;
        }
        let authorization = self.keeper.authorization().await?;
        let again = forward.again();
        let response = self.forward_with(forward, purpose, authorization.as_ref()).await?;
        if !is_refusal(response.status) || purpose.reason == FetchReason::Probe {
            return Ok(response);
        }
        let other = match &authorization {
            Some(refused) => self.keeper.other_than(refused).await,
            None => None,
        };
        let refused = self.keeper.refused(response.status.as_str());
        let Some(other) = other else { return Err(refused) };
        let response = self
            .forward_with(
                again,
                RequestPurpose { reason: FetchReason::Retry, ..purpose },
                Some(&other),
            )
            .await?;
        if is_refusal(response.status) { Err(refused) } else { Ok(response) }
    }

    async fn forward_with(
        &self,
        forward: ForwardRequest,
        purpose: RequestPurpose,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, FetchError> {
        let ForwardRequest { method, path, query, mut headers, body, interim, .. } = forward;
        let uri = self.url(&path, query.as_deref())?;
        let may_be_part = headers.contains_key(header::RANGE);
        let has_condition = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE]
            .iter()
            .any(|n| headers.contains_key(n));
        let asked = if method == http::Method::HEAD { Method::Head } else { Method::Get };
        headers.append(header::VIA, HeaderValue::from_static("1.1 narthex"));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(body.map_or_else(no_body, |body| body.content))
            .map_err(|error| self.wire.protocol(format!("no request for {path}: {error}")))?;
        *request.headers_mut() = headers;
        if let Some(interim) = interim {
            hyper::ext::on_informational(&mut request, move |response| {
                interim(response.status(), response.headers());
            });
        }
        let exchange = self.wire.send(purpose, request).await?;
        let is_asked_for = match exchange.status {
            StatusCode::PARTIAL_CONTENT => may_be_part,
            StatusCode::NOT_MODIFIED => has_condition,
            _ => true,
        };
        if !is_asked_for {
            let status = exchange.status;
            return Err(self.wire.protocol(format!("answered {status}, which was not asked for")));
        }
        self.wire.response(Class::Other, asked, exchange)
    }

    fn url(&self, path: &str, query: Option<&str>) -> Result<Uri, FetchError> {
        let url = self.base.url(path, query);
        url.ok_or_else(|| self.wire.protocol(format!("no URL for the path {path:?}")))
    }

    fn uri(&self, text: &str) -> Result<Uri, FetchError> {
        text.parse().map_err(|error| self.wire.protocol(format!("no URL {text:?}: {error}")))
    }

    fn request(
        &self,
        ask: &Ask,
        carried: OriginRequestHead<'_>,
    ) -> Result<OutboundRequest, FetchError> {
        let OriginRequestHead { uri, authorization } = carried;
        let mut fields = ask_fields(ask);
        if let Some(authorization) = authorization {
            fields.insert(header::AUTHORIZATION, authorization.clone());
        }
        fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        fields.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        fields.insert(header::VIA, HeaderValue::from_static("1.1 narthex"));
        if let Some(cdn_loop) = &ask.cdn_loop {
            fields.insert("cdn-loop", cdn_loop.clone());
        }
        let mut request = Request::builder()
            .method(ask.method.as_http())
            .uri(uri.clone())
            .body(no_body())
            .map_err(|error| self.wire.protocol(format!("no request for {uri}: {error}")))?;
        *request.headers_mut() = fields;
        Ok(request)
    }

    /// The target of a redirect, if it is permitted: the origin's own host, or a listed one, never
    /// from https to http.
    fn redirected(&self, from: &Uri, exchange: &Exchange) -> Result<Uri, FetchError> {
        let status = exchange.status;
        let location = exchange.heard.headers.get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let location = location.filter(|location| !location.is_empty()).ok_or_else(|| {
            self.wire.protocol(format!("answered {status} without a usable Location"))
        })?;
        let target = self.uri(&resolve(from, location))?;
        let own = self.base.authority.host().to_ascii_lowercase();
        let is_listed = target.authority().is_some_and(|authority| {
            let whole = authority.as_str().to_ascii_lowercase();
            let host = authority.host().to_ascii_lowercase();
            let host = canonical_host(&host);
            *host == *canonical_host(&own)
                || self.redirects_to.iter().any(|listed| *listed == whole || **listed == *host)
        });
        let has_user = target.authority().is_some_and(|a| a.as_str().contains('@'));
        if !is_listed || has_user {
            let host = target.host().unwrap_or_default();
            return Err(self.wire.protocol(format!(
                "answered {status} to the host {host:?}, which the site's `follow_redirects_to` \
                 does not list"
            )));
        }
        match (from.scheme_str(), target.scheme_str()) {
            (Some("http"), Some("http" | "https")) | (Some("https"), Some("https")) => Ok(target),
            _ => Err(self.wire.protocol(format!("answered {status} from https to http"))),
        }
    }
}

/// Whether the status refuses the credentials of the request, or the lack of them.
fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Scheme, host and port: what is sent to let the edge in leaves for one of these only.
fn place(uri: &Uri) -> (Option<&str>, String, u16) {
    let scheme = uri.scheme_str();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let usual = if scheme == Some("https") { 443 } else { 80 };
    (scheme, host, uri.port_u16().unwrap_or(usual))
}

/// `location` as seen from `from`, without a fragment (RFC 3986 section 5.2). An absolute one stays
/// to the letter: a signature may cover it.
fn resolve(from: &Uri, location: &str) -> String {
    let location = location.split('#').next().unwrap_or_default();
    let is_scheme =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if location.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme)) {
        return location.to_owned();
    }
    let joined = url::Url::parse(&from.to_string()).and_then(|from| from.join(location));
    joined.map_or_else(|_| location.to_owned(), String::from)
}

#[cfg(test)]
mod tests;
