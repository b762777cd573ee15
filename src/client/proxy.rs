//! Which proxy a connection to an origin goes through: by the setting of the origin, else by the
//! variables of the environment, as curl reads them. Made with the client, then only read.
//!
//! A request for an `http://` URL goes to the proxy in absolute form. Every other connection is a
//! tunnel that the proxy opens on CONNECT, with TLS to the origin inside. The name and password of
//! a proxy are sent to that proxy alone, and no text has them.

use super::message::BoxError;
use crate::config::{HttpVersion, OriginProxy};
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;

/// The port of a proxy that names none, as for curl.
const PORT_DEFAULT: u16 = 1080;
/// What the variables are not for: services of this machine.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";
/// What no proxy is for: endpoints that hand out keys to this machine alone.
const KEY_ENDPOINTS: &str = "169.254.0.0/16,fd00:ec2::/32,localhost,127.0.0.0/8,::1";

/// The variables that name proxies.
#[derive(Clone, Default)]
pub struct ProxyVariables {
    http: String,
    https: String,
    no_proxy: String,
}

impl ProxyVariables {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Those that `variable` gives: `http_proxy`, and `https_proxy`, `all_proxy` and `no_proxy` in
    /// small letters or capitals. A variable that is empty names no proxy.
    ///
    /// `HTTP_PROXY` is not read, as in curl: a web server gives the field `Proxy` of a request that
    /// name.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&str; 2]| names.into_iter().find_map(&variable);
        let all = || first(["all_proxy", "ALL_PROXY"]).unwrap_or_default();
        Self {
            http: variable("http_proxy").unwrap_or_else(all),
            https: first(["https_proxy", "HTTPS_PROXY"]).unwrap_or_else(all),
            // curl takes spaces for commas.
            no_proxy: first(["no_proxy", "NO_PROXY"])
                .unwrap_or_default()
                .replace(char::is_whitespace, ","),
        }
    }

    /// The schemes with a variable that names no HTTP proxy.
    pub fn unusable(&self) -> Vec<&'static str> {
        let is_unusable = |value: &str, target: &'static str| {
            let matcher = Matcher::builder().all(value).build();
            let proxy = matcher.intercept(&Uri::from_static(target));
            !value.is_empty() && proxy.is_none_or(|proxy| Proxy::of(&proxy).is_none())
        };
        let mut unusable = Vec::new();
        if is_unusable(&self.http, "http://h/") {
            unusable.push("http");
        }
        if is_unusable(&self.https, "https://h/") {
            unusable.push("https");
        }
        unusable
    }
}

/// What is asked through a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyUse {
    /// An origin.
    Origin,
    /// The endpoints that hand out its keys, some of which are on this machine or beside it.
    KeyEndpoints,
}

/// Which proxy is for which target.
#[derive(Debug, Clone, Default)]
pub struct ProxyRule(Option<Arc<Matcher>>);

impl ProxyRule {
    /// The rule of an origin with this setting.
    pub fn of(setting: &OriginProxy, variables: &ProxyVariables, of: ProxyUse) -> Self {
        let matcher = match setting {
            OriginProxy::None => return Self(None),
            OriginProxy::Url(url) => Matcher::builder().all(url.as_str()).no(match of {
                ProxyUse::Origin => "",
                ProxyUse::KeyEndpoints => KEY_ENDPOINTS,
            }),
            OriginProxy::Environment => {
                let spared = match of {
                    ProxyUse::Origin => LOOPBACK,
                    ProxyUse::KeyEndpoints => KEY_ENDPOINTS,
                };
                let builder = Matcher::builder().http(&variables.http).https(&variables.https);
                builder.no(format!("{},{spared}", variables.no_proxy))
            }
        };
        Self(Some(Arc::new(matcher.build())))
    }

    /// The host and port of the proxy for `target`.
    pub fn place(&self, target: &Uri) -> Option<String> {
        self.proxy(target).map(|proxy| proxy.place())
    }

    /// How a request for `target` names it on its connection, by these versions of HTTP.
    pub(super) fn target_form(&self, target: &Uri, version: HttpVersion) -> TargetForm {
        match self.hop(target, version) {
            Hop::Direct | Hop::Tunnel(_) => TargetForm::Path,
            Hop::Forward(proxy) => TargetForm::Whole { authorization: proxy.authorization },
        }
    }

    /// The peer of a connection for `target`. Only HTTP/1.1 has an absolute form that a proxy
    /// takes.
    fn hop(&self, target: &Uri, version: HttpVersion) -> Hop {
        let is_plain = target.scheme() == Some(&Scheme::HTTP);
        match self.proxy(target) {
            None => Hop::Direct,
            Some(proxy) if is_plain && version != HttpVersion::Http2 => Hop::Forward(proxy),
            Some(proxy) => Hop::Tunnel(proxy),
        }
    }

    fn proxy(&self, target: &Uri) -> Option<Proxy> {
        Proxy::of(&self.0.as_ref()?.intercept(target)?)
    }
}

/// How the first line of a request names its target (RFC 9112 section 3.2).
#[derive(Debug, Clone)]
pub(super) enum TargetForm {
    /// The path and the query: what answers is the server itself, or a tunnel to it.
    Path,
    /// The whole URL: a proxy answers, which is sent this.
    Whole {
        /// `Proxy-Authorization`.
        authorization: Option<HeaderValue>,
    },
}

/// The peer of a connection.
enum Hop {
    Direct,
    Forward(Proxy),
    Tunnel(Proxy),
}

#[derive(Debug, Clone)]
struct Proxy {
    /// `http://host:port/`.
    address: Uri,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// None if it is asked by anything but plain HTTP.
    fn of(found: &Intercept) -> Option<Self> {
        let address = found.uri();
        if address.scheme() != Some(&Scheme::HTTP) {
            return None;
        }
        let port = address.port_u16().unwrap_or(PORT_DEFAULT);
        let address = with_port(address, port)?;
        Some(Self { address, authorization: found.basic_auth().cloned() })
    }

    fn place(&self) -> String {
        self.address.authority().map(ToString::to_string).unwrap_or_default()
    }
}

/// `uri` with this port, and without a path.
fn with_port(uri: &Uri, port: u16) -> Option<Uri> {
    let authority = format!("{}:{port}", uri.host()?);
    let built = Uri::builder().scheme(uri.scheme()?.clone()).authority(authority);
    built.path_and_query("/").build().ok()
}

/// No connection through a proxy.
#[derive(Debug, thiserror::Error)]
#[error("through the proxy {proxy}: {source}")]
struct ProxyError {
    /// Its host and port.
    proxy: String,
    source: BoxError,
}

/// Connects to the target, or to its proxy, which then opens a tunnel to the target if need be.
#[derive(Debug, Clone)]
pub(super) struct ProxyConnector<C> {
    pub(super) tcp: C,
    pub(super) rule: ProxyRule,
    pub(super) version: HttpVersion,
}

impl<C> Service<Uri> for ProxyConnector<C>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        match self.rule.hop(&target, self.version) {
            Hop::Direct => {
                let connecting = self.tcp.call(target);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
            Hop::Forward(proxy) => {
                let connecting = self.tcp.call(proxy.address.clone());
                Box::pin(async move { connecting.await.map_err(|error| failed(&proxy, error)) })
            }
            Hop::Tunnel(proxy) => {
                let usual = if target.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
                let target = with_port(&target, target.port_u16().unwrap_or(usual));
                let mut tunnel = Tunnel::new(proxy.address.clone(), self.tcp.clone());
                if let Some(authorization) = proxy.authorization.clone() {
                    tunnel = tunnel.with_auth(authorization);
                }
                let opening = target.map(|target| tunnel.call(target));
                Box::pin(async move {
                    match opening {
                        Some(opening) => opening.await.map_err(|error| failed(&proxy, error)),
                        None => Err(failed(&proxy, "the request names no host")),
                    }
                })
            }
        }
    }
}

fn failed(proxy: &Proxy, source: impl Into<BoxError>) -> BoxError {
    Box::new(ProxyError { proxy: proxy.place(), source: source.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyUrl;

    fn variables(given: &[(&str, &str)]) -> ProxyVariables {
        ProxyVariables::read(|name| {
            let found = given.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn place(rule: &ProxyRule, target: &'static str) -> Option<String> {
        rule.place(&Uri::from_static(target))
    }

    #[test]
    fn the_variables_are_read_as_curl_reads_them() {
        let (plain, secure) = ("http://cache.example/", "https://cache.example/");
        for (given, of_plain, of_secure) in [
            (&[][..], None, None),
            (&[("http_proxy", "http://p:8")], Some("p:8"), None),
            (&[("HTTP_PROXY", "http://p:8")], None, None),
            (&[("https_proxy", "p:8")], None, Some("p:8")),
            (&[("HTTPS_PROXY", "http://me:hush@p")], None, Some("p:1080")),
            (&[("ALL_PROXY", "http://[::1]:8/")], Some("[::1]:8"), Some("[::1]:8")),
            (&[("all_proxy", "a:1"), ("https_proxy", "")], Some("a:1"), None),
            (&[("https_proxy", "s:1"), ("HTTPS_PROXY", "b:2")], None, Some("s:1")),
            (&[("all_proxy", "a:1"), ("no_proxy", "example")], None, None),
            (&[("all_proxy", "a:1"), ("NO_PROXY", "x y,.cache.example")], None, None),
            (&[("all_proxy", "a:1"), ("NO_PROXY", "*")], None, None),
            (&[("all_proxy", "a:1"), ("no_proxy", "che.example")], Some("a:1"), Some("a:1")),
        ] {
            let rule =
                ProxyRule::of(&OriginProxy::Environment, &variables(given), ProxyUse::Origin);
            assert_eq!(place(&rule, plain).as_deref(), of_plain, "{given:?}");
            assert_eq!(place(&rule, secure).as_deref(), of_secure, "{given:?}");
        }
    }

    #[test]
    fn this_machine_and_its_key_endpoints_are_asked_directly() {
        let given = variables(&[("all_proxy", "p:8"), ("no_proxy", "10.0.0.0/8")]);
        let rule = ProxyRule::of(&OriginProxy::Environment, &given, ProxyUse::Origin);
        for direct in ["http://127.0.0.1:9/", "http://localhost/", "https://[::1]/"] {
            assert_eq!(place(&rule, direct), None, "{direct}");
        }
        assert_eq!(place(&rule, "http://10.1.2.3/"), None);
        assert!(place(&rule, "http://11.1.2.3/").is_some());
        let url = OriginProxy::Url(ProxyUrl::parse("http://p:8").unwrap());
        let rule = ProxyRule::of(&url, &given, ProxyUse::Origin);
        assert!(place(&rule, "http://127.0.0.1:9/").is_some(), "as the setting says");
        for setting in [url, OriginProxy::Environment] {
            let rule = ProxyRule::of(&setting, &given, ProxyUse::KeyEndpoints);
            for direct in
                ["http://169.254.169.254/", "http://[fd00:ec2::254]/", "http://127.0.0.1/"]
            {
                assert_eq!(place(&rule, direct), None, "{direct}");
            }
            assert!(place(&rule, "https://sts.amazonaws.com/").is_some());
        }
        let none = ProxyRule::of(&OriginProxy::None, &given, ProxyUse::Origin);
        assert_eq!(place(&none, "https://cache.example/"), None);
    }

    #[test]
    fn what_is_no_http_proxy_is_told_and_passwords_are_not() {
        assert_eq!(variables(&[("all_proxy", "socks5://p:8")]).unusable(), ["http", "https"]);
        assert_eq!(variables(&[("https_proxy", "http://a b")]).unusable(), ["https"]);
        assert!(
            variables(&[("https_proxy", "http://me:hush@p:8"), ("http_proxy", "")])
                .unusable()
                .is_empty()
        );
        let url = OriginProxy::Url(ProxyUrl::parse("http://me:hush@p:8").unwrap());
        let rule = ProxyRule::of(&url, &ProxyVariables::default(), ProxyUse::Origin);
        let target = Uri::from_static("http://cache.example/");
        let form = rule.target_form(&target, HttpVersion::Auto);
        let TargetForm::Whole { authorization: Some(sent) } = &form else { panic!("{form:?}") };
        assert_eq!(sent, "Basic bWU6aHVzaA==");
        for text in [format!("{form:?} {rule:?} {url:?}"), rule.place(&target).unwrap()] {
            assert!(!text.contains("hush") && !text.contains("bWU6"), "{text}");
        }
        let tunnelled = rule.target_form(&target, HttpVersion::Http2);
        assert!(matches!(tunnelled, TargetForm::Path));
        let secure = rule.target_form(&Uri::from_static("https://h/"), HttpVersion::Auto);
        assert!(matches!(secure, TargetForm::Path));
    }
}
