//! The proxy of an origin, and how its setting is read. Pure; called by `origins`.

use super::model::OriginUrl;
use super::problem::ProblemReport;
use super::scope::TableValues;
use http::Uri;
use std::fmt;

/// Which proxy an origin is asked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginProxy {
    /// The one that the variables of the environment name for it, if they do.
    Environment,
    /// None, whatever the environment says.
    None,
    /// This one.
    Url(ProxyUrl),
}

/// The URL of an HTTP proxy, with a name and a password if it asks for them; these are in no text
/// that is printed for debugging.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    /// `http://[NAME[:PASSWORD]@]HOST:PORT`; none if `text` is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let is_address = !authority.host().is_empty() && authority.port_u16().is_some();
        let is_bare = uri.path() == "/" && uri.query().is_none();
        let is_proxy = uri.scheme_str() == Some("http") && is_address && is_bare;
        is_proxy.then(|| Self(text.to_owned()))
    }

    /// The URL, secrets included.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.0.rsplit_once('@').map_or(&*self.0, |(_, place)| place);
        f.debug_tuple("ProxyUrl").field(&place).finish()
    }
}

/// The proxy of the origin at `url`; what is wrong is told, without the value, which may hold a
/// password.
pub(super) fn proxy(
    scope: &TableValues,
    url: &OriginUrl,
    report: &mut ProblemReport,
) -> OriginProxy {
    let path = "site.origin.proxy";
    let Some(text) = scope.text(path) else { return OriginProxy::Environment };
    if matches!(url, OriginUrl::File(_)) {
        let message = "belongs to an origin asked over http or https only; leave it out here";
        report.problem(text.spot.problem(message));
    }
    if text.value == "none" {
        return OriginProxy::None;
    }
    let Some(url) = ProxyUrl::parse(&text.value) else {
        let message = "is neither \"none\" nor the URL of an HTTP proxy; write \
             \"http://HOST:PORT\", or \"http://NAME:PASSWORD@HOST:PORT\" with each character \
             percent-encoded that a URL cannot have there";
        report.problem(text.spot.problem(message));
        return OriginProxy::Environment;
    };
    OriginProxy::Url(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_asked_over_http_at_a_port() {
        for good in ["http://p:3128", "http://p:3128/", "http://a:b%40c@[::1]:8"] {
            assert!(ProxyUrl::parse(good).is_some(), "{good}");
        }
        for bad in [
            "p:3128",
            "http://p",
            "https://p:1",
            "socks5://p:1",
            "http://p:1/x",
            "",
            "http://a b@p:1",
        ] {
            assert!(ProxyUrl::parse(bad).is_none(), "{bad}");
        }
        let debug = format!("{:?}", ProxyUrl::parse("http://me:hush@p:3128"));
        assert_eq!(debug, "Some(ProxyUrl(\"p:3128\"))");
    }
}
