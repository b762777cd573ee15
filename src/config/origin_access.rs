//! Reads the credentials of an HTTP origin, its proxy, its own trusted keys and the objects that it
//! is asked for. Reports what is wrong with them. Pure; called by `origins`.

use super::access::{Exposure, Login, Objects, OriginProxy, OriginTurns, ProxyUrl};
use super::caching::PathPattern;
use super::model::{CertificateFiles, OriginUrl};
use super::problem::ProblemReport;
use super::scope::TableValues;
use super::trust::check_public_key;
use crate::nix::Class;

const USER: &str = "site.origin.credentials.user";
const PASSWORD: &str = "site.origin.credentials.password_file";
const TOKEN: &str = "site.origin.credentials.token_file";
const NETRC: &str = "site.origin.credentials.netrc_file";
const CERTIFICATE: &str = "site.origin.credentials.client_certificate_file";
const KEY: &str = "site.origin.credentials.client_key_file";
const PLAIN_HTTP: &str = "site.origin.credentials.plain_http";

/// Settings that mean something to an HTTP origin only.
const HTTP_ONLY: [&str; 5] = [USER, PASSWORD, TOKEN, NETRC, PLAIN_HTTP];

/// What is sent to be let in by the origin at `url`; what is wrong is told.
pub(super) fn login(scope: &TableValues, url: &OriginUrl, report: &mut ProblemReport) -> Login {
    let OriginUrl::Http(uri) = url else {
        for path in HTTP_ONLY.iter().filter(|path| scope.is_given(path)) {
            let message = "belongs to an http:// or https:// origin only; leave it out here";
            report.problem(scope.spot_of(path).problem(message));
        }
        return Login::None;
    };
    let given = |path: &&&str| scope.is_given(path);
    let ways = [[USER, PASSWORD].iter().any(|path| given(&path)), given(&&TOKEN), given(&&NETRC)];
    if ways.into_iter().filter(|is_given| *is_given).count() > 1 {
        let message = "name more than one way in; keep one of: user with password_file, \
             token_file, netrc_file";
        report.problem(scope.spot_of("site.origin.credentials").problem(message));
    }
    let login = if let Some(token_file) = scope.path(TOKEN) {
        Login::Bearer { token_file }
    } else if let Some(file) = scope.path(NETRC) {
        Login::Netrc { file }
    } else {
        basic(scope, report)
    };
    let is_plain = uri.scheme_str() == Some("http");
    if is_plain && login != Login::None && !scope.is_true(PLAIN_HTTP) {
        let message = "would send a password or token over plain http, which others can read on \
             the way; write https:// in the url, or plain_http = true";
        report.problem(scope.spot_of("site.origin.credentials").problem(message));
    }
    login
}

/// Whether that may go over plain http.
pub(super) fn exposure(scope: &TableValues) -> Exposure {
    if scope.is_true(PLAIN_HTTP) { Exposure::Permitted } else { Exposure::Never }
}

fn basic(scope: &TableValues, report: &mut ProblemReport) -> Login {
    let (user, password_file) = (scope.text(USER), scope.path(PASSWORD));
    match (user, password_file) {
        (Some(user), Some(password_file)) => {
            let is_name = |c: char| !c.is_control() && c != ':';
            if user.value.is_empty() || !user.value.chars().all(is_name) {
                let message = "is not a user's name; write one without a colon and without \
                     control characters";
                report.problem(user.spot.problem_with(&user.value, message));
            }
            Login::Basic { user: user.value, password_file }
        }
        (Some(_), None) if !scope.is_given(PASSWORD) => {
            let message = "is missing beside user; write password_file = \"FILE\"";
            report.problem(scope.spot_of(PASSWORD).problem(message));
            Login::None
        }
        (None, Some(_)) if !scope.is_given(USER) => {
            let message = "is missing beside password_file; write user = \"NAME\"";
            report.problem(scope.spot_of(USER).problem(message));
            Login::None
        }
        (Some(_) | None, Some(_) | None) => Login::None,
    }
}

/// The certificate that is shown to the origin; `is_tls` says whether it is asked over https.
pub(super) fn identity(
    scope: &TableValues,
    way: OriginTransport,
    report: &mut ProblemReport,
) -> Option<CertificateFiles> {
    let (certificate, key) = (scope.path(CERTIFICATE), scope.path(KEY));
    for (path, other) in [(CERTIFICATE, KEY), (KEY, CERTIFICATE)] {
        if !scope.is_given(path) {
            continue;
        }
        if way == OriginTransport::Plain {
            let message = "belongs to an origin asked over https only; leave it out here";
            report.problem(scope.spot_of(path).problem(message));
        } else if !scope.is_given(other) {
            let key = other.rsplit('.').next().unwrap_or(other);
            let message = format!("is missing beside the other file; write {key} = \"FILE\"");
            report.problem(scope.spot_of(other).problem(message));
        }
    }
    Some(CertificateFiles { certificate: certificate?, key: key? })
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

/// How an origin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OriginTransport {
    /// Over https.
    Tls,
    /// Over plain http, or not over a network at all.
    Plain,
}

/// The origin's own public keys; none if it has those of its site.
pub(super) fn own_keys(scope: &TableValues, report: &mut ProblemReport) -> Vec<String> {
    let path = "site.origin.trusted_public_keys";
    let given = scope.texts(path);
    if scope.is_given(path) && given.is_empty() && !scope.is_wrong(path) {
        let message = "has no keys; write [\"NAME:BASE64\"], or leave it out for those of the site";
        report.problem(scope.spot_of(path).problem(message));
    }
    for key in &given {
        check_public_key(key, report);
    }
    given.into_iter().map(|key| key.value).collect()
}

/// What the origin is asked for, and when.
pub(super) fn turns(scope: &TableValues, report: &mut ProblemReport) -> OriginTurns {
    let turns = OriginTurns {
        only_for: objects(scope, "site.origin.only_for", report),
        never_for: objects(scope, "site.origin.never_for", report),
        first_for: objects(scope, "site.origin.first_for", report),
    };
    let is_all = |some: &Objects| *some == Objects::Paths(PathPattern::new("*"));
    if turns.never_for.iter().any(is_all) {
        let message = "leaves nothing to ask this origin for; leave the origin out";
        report.problem(scope.spot_of("site.origin.never_for").problem(message));
    }
    turns
}

fn objects(scope: &TableValues, path: &str, report: &mut ProblemReport) -> Vec<Objects> {
    let mut objects = Vec::new();
    for text in scope.texts(path) {
        let class = Class::ALL.into_iter().find(|class| class.as_str() == text.value);
        if let Some(class) = class {
            objects.push(Objects::Class(class));
        } else if text.value.starts_with(['/', '*']) {
            objects.push(Objects::Paths(PathPattern::new(text.value)));
        } else {
            let known = Class::ALL.map(Class::as_str).join(", ");
            let message = format!(
                "is neither a path, which begins with / or *, nor a class of objects; write one \
                 of {known}, or \"/PATH/*\""
            );
            report.problem(text.spot.problem_with(&text.value, message));
        }
    }
    objects
}
