//! From values to the origins of a site, and what is wrong between them. Pure; called by `sites`.

use super::model::{
    AbsenceOf, BreakerSettings, BudgetSettings, HttpVersion, Origin, OriginNecessity,
    OriginTimeouts, OriginUrl, Prices, S3, S3Addressing, S3Credentials,
};
use super::origin_access::{self, OriginTransport};
use super::origin_url::{self, ParsedOriginUrl, S3Url};
use super::problem::{ProblemReport, Spot};
use super::scope::TableValues;
use super::trust;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The origin names in use, each with its place in the file and its URL.
pub(super) type TakenOrigins = BTreeMap<String, (Spot, OriginUrl)>;

/// What to say of a name that is no label.
pub(super) const NOT_A_LABEL: &str = "is not a name; write 1 to 100 printable characters without \
     spaces, quotes and backslashes, such as \"main\"";

/// The longest prefix of keys: a key of S3 has 1,024 bytes.
const PREFIX_BYTES_MAX: usize = 900;

/// The region of a bucket if its URL names none, as in Nix.
const REGION_DEFAULT: &str = "us-east-1";

/// Settings that mean something to a bucket only.
const S3_ONLY: [&str; 9] = [
    PREFIX,
    "site.origin.requester_pays",
    "site.origin.addressing",
    PROFILE,
    ACCESS_KEY_ID,
    SECRET_ACCESS_KEY,
    SESSION_TOKEN,
    SOURCE,
    ANONYMOUS,
];
const PREFIX: &str = "site.origin.prefix";
const PROFILE: &str = "site.origin.credentials.profile";
const ACCESS_KEY_ID: &str = "site.origin.credentials.access_key_id_file";
const SECRET_ACCESS_KEY: &str = "site.origin.credentials.secret_access_key_file";
const SESSION_TOKEN: &str = "site.origin.credentials.session_token_file";
const SOURCE: &str = "site.origin.credentials.source";
const ANONYMOUS: &str = "site.origin.credentials.anonymous";

/// The origins of the site in `scope`, lowest priority first.
pub(super) fn origins(
    scope: &TableValues,
    taken: &mut TakenOrigins,
    report: &mut ProblemReport,
) -> Vec<Origin> {
    let scopes = scope.scopes("site.origin");
    if !scope.has_table("site.origin") && scopes.is_empty() {
        let message = "is missing; write [[site.origin]] with url = \"https://HOST\"";
        report.problem(scope.spot_of("site.origin").problem(message));
    }
    let mut in_this_site = BTreeMap::new();
    let mut origins: Vec<Origin> = Vec::new();
    for scope in scopes {
        let Some(origin) = origin(scope, report) else { continue };
        check_name(&origin, scope, &mut in_this_site, taken, report);
        origins.push(origin);
    }
    origins.sort_by_key(|origin| origin.priority);
    origins
}

/// Whether a text can stand in logs and metrics as a name.
pub(super) fn is_label(text: &str) -> bool {
    let is_plain =
        |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\');
    (1..=100).contains(&text.len()) && text.chars().all(is_plain)
}

/// One origin; `None` if its URL is missing or wrong, which is reported.
fn origin(scope: &TableValues, report: &mut ProblemReport) -> Option<Origin> {
    let url = url(scope, report);
    let url = match url {
        Some(ParsedOriginUrl::S3(url)) => Some(OriginUrl::S3(s3(scope, url, report))),
        Some(ParsedOriginUrl::Http(uri)) => Some(OriginUrl::Http(uri)),
        Some(ParsedOriginUrl::File(folder)) => Some(OriginUrl::File(folder)),
        None => None,
    }?;
    if !matches!(url, OriginUrl::S3(_)) {
        for path in S3_ONLY.iter().filter(|path| scope.is_given(path)) {
            let message = "belongs to an s3:// origin only; leave it out here";
            report.problem(scope.spot_of(path).problem(message));
        }
    }
    if scope.is_given("site.origin.ca_file") && !is_tls(&url) {
        let message = "belongs to an origin asked over https only; leave it out here";
        report.problem(scope.spot_of("site.origin.ca_file").problem(message));
    }
    let name = scope.text("site.origin.name");
    if let Some(name) = name.as_ref().filter(|name| !is_label(&name.value)) {
        report.problem(name.spot.problem_with(&name.value, NOT_A_LABEL));
    }
    let http_version = http_version(scope, &url, report);
    let way = if is_tls(&url) { OriginTransport::Tls } else { OriginTransport::Plain };
    Some(Origin {
        proxy: origin_access::proxy(scope, &url, report),
        login: origin_access::login(scope, &url, report),
        exposure: origin_access::exposure(scope),
        identity: origin_access::identity(scope, way, report),
        trusted_public_keys: origin_access::own_keys(scope, report),
        signatures: scope.text("site.origin.signatures").map(|text| trust::signatures(&text.value)),
        turns: origin_access::turns(scope, report),
        name: name.map_or_else(|| default_name(&url), |name| name.value),
        url,
        priority: scope.count("site.origin.priority"),
        http_version,
        ca_file: scope.path("site.origin.ca_file"),
        timeouts: OriginTimeouts {
            connect: scope.duration("site.origin.timeouts.connect"),
            first_byte: scope.duration("site.origin.timeouts.first_byte"),
            between_bytes: scope.duration("site.origin.timeouts.between_bytes"),
            resume: scope.duration("site.origin.timeouts.resume"),
        },
        connections_max: scope.count("site.origin.connections_max"),
        weight: scope.count("site.origin.weight"),
        absence: match scope.text("site.origin.absence") {
            Some(text) if text.value == "final" => AbsenceOf::Final,
            Some(_) | None => AbsenceOf::Next,
        },
        necessity: if scope.is_true("site.origin.optional") {
            OriginNecessity::Optional
        } else {
            OriginNecessity::Required
        },
        breaker: BreakerSettings {
            failures: scope.count("site.origin.breaker.failures"),
            open_max: scope.duration("site.origin.breaker.open_max"),
            probe_idle: scope.duration("site.origin.breaker.probe_idle"),
        },
        budget: BudgetSettings {
            retries_percent: scope.count("site.origin.budget.retries"),
            hedges_percent: scope.count("site.origin.budget.hedges"),
        },
        prices: Prices {
            thousand_gets: scope.count("site.origin.prices.thousand_gets"),
            thousand_heads: scope.count("site.origin.prices.thousand_heads"),
            gib: scope.count("site.origin.prices.gib"),
        },
    })
}

fn http_version(scope: &TableValues, url: &OriginUrl, report: &mut ProblemReport) -> HttpVersion {
    let path = "site.origin.http_version";
    if scope.is_given(path) && matches!(url, OriginUrl::File(_)) {
        let message = "belongs to an origin asked over http or https only; leave it out here";
        report.problem(scope.spot_of(path).problem(message));
    }
    match scope.text(path).as_ref().map(|text| text.value.as_str()) {
        Some("1.1") => HttpVersion::Http1,
        Some("2") => HttpVersion::Http2,
        Some(_) | None => HttpVersion::Auto,
    }
}

fn url(scope: &TableValues, report: &mut ProblemReport) -> Option<ParsedOriginUrl> {
    let path = "site.origin.url";
    if !scope.is_given(path) {
        let message = "is missing; write url = \"s3://BUCKET?region=REGION\", \"https://HOST\", \
             \"http://HOST:PORT\" or \"file:///FOLDER\"";
        report.problem(scope.spot_of(path).problem(message));
    }
    let text = scope.text(path)?;
    let faults = match origin_url::parse(&text.value) {
        Ok(parsed) => return Some(parsed),
        Err(faults) => faults,
    };
    for fault in faults {
        report.problem(text.spot.problem_with(&text.value, fault));
    }
    None
}

fn s3(scope: &TableValues, url: S3Url, report: &mut ProblemReport) -> S3 {
    if !url.ignored.is_empty() {
        let message = format!(
            "has parameters that mean nothing to an edge and change nothing: {}",
            url.ignored.join(", ")
        );
        report.warning(scope.spot_of("site.origin.url").problem(message));
    }
    let requester_pays = scope.is_true("site.origin.requester_pays");
    let credentials = credentials(scope, url.profile, report);
    if requester_pays && credentials == S3Credentials::Anonymous {
        let message = "does not go with anonymous = true, since requests that are paid for must be \
             signed; leave one out";
        report.problem(scope.spot_of("site.origin.requester_pays").problem(message));
    }
    let given = scope.text("site.origin.addressing");
    let addressing = match given.as_ref().map(|text| text.value.as_str()) {
        Some("path") => S3Addressing::Path,
        Some(_) => S3Addressing::VirtualHost,
        None => url.addressing.unwrap_or(
            // No certificate covers a bucket's name with a dot in front of Amazon's.
            if url.endpoint.is_some() || url.bucket.contains('.') {
                S3Addressing::Path
            } else {
                S3Addressing::VirtualHost
            },
        ),
    };
    S3 {
        bucket: url.bucket,
        region: url.region.unwrap_or_else(|| REGION_DEFAULT.to_owned()),
        endpoint: url.endpoint,
        prefix: prefix(scope, report),
        addressing,
        requester_pays,
        credentials,
    }
}

/// The prefix of the keys, without a trailing slash.
fn prefix(scope: &TableValues, report: &mut ProblemReport) -> String {
    let Some(prefix) = scope.text(PREFIX) else { return String::new() };
    let trimmed = prefix.value.strip_suffix('/').unwrap_or(&prefix.value);
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || c == '\\')
    };
    if trimmed.len() > PREFIX_BYTES_MAX || !trimmed.split('/').all(is_part) {
        let message = "is not a prefix of keys; write parts with a slash between them, none of \
             them empty, \".\" or \"..\", such as \"nix/main\"";
        report.problem(prefix.spot.problem_with(&prefix.value, message));
    }
    trimmed.to_owned()
}

/// The source of the keys; more than one is reported as a problem.
fn credentials(
    scope: &TableValues,
    url_profile: Option<String>,
    report: &mut ProblemReport,
) -> S3Credentials {
    let files = [ACCESS_KEY_ID, SECRET_ACCESS_KEY, SESSION_TOKEN];
    let has_files = files.iter().any(|path| scope.is_given(path));
    let is_anonymous = scope.is_true(ANONYMOUS);
    let profile = scope.text(PROFILE).map(|profile| profile.value);
    if let (Some(profile), Some(other)) = (&profile, &url_profile)
        && profile != other
    {
        let message = format!("is not the profile {other:?} of the URL; leave one out");
        report.problem(scope.spot_of(PROFILE).problem_with(profile, message));
    }
    if profile.as_deref() == Some("") {
        let message = "is not a profile; write profile = \"NAME\", or leave it out";
        report.problem(scope.spot_of(PROFILE).problem_with("", message));
    }
    let profile = profile.or(url_profile);
    let source = scope.text(SOURCE);
    let sources = [has_files, is_anonymous, profile.is_some(), source.is_some()];
    if sources.into_iter().filter(|is_given| *is_given).count() > 1 {
        let message = "name more than one source of keys; keep one of: a profile, key files, \
             source, anonymous = true";
        report.problem(scope.spot_of("site.origin.credentials").problem(message));
    }
    if is_anonymous {
        return S3Credentials::Anonymous;
    }
    if has_files {
        return key_files(scope, report);
    }
    match (source.as_ref().map(|word| word.value.as_str()), profile) {
        (Some("environment"), _) => S3Credentials::Environment,
        (Some("web-identity"), _) => S3Credentials::WebIdentity,
        (Some("container"), _) => S3Credentials::Container,
        (Some("instance"), _) => S3Credentials::Instance,
        (Some(_) | None, Some(profile)) => S3Credentials::Profile(profile),
        (Some(_) | None, None) => S3Credentials::Usual,
    }
}

fn key_files(scope: &TableValues, report: &mut ProblemReport) -> S3Credentials {
    let mut file = |path: &'static str| -> PathBuf {
        if !scope.is_given(path) {
            let key = path.rsplit('.').next().unwrap_or(path);
            let message = format!("is missing beside the other key file; write {key} = \"FILE\"");
            report.problem(scope.spot_of(path).problem(message));
        }
        scope.path(path).unwrap_or_default()
    };
    S3Credentials::Files {
        access_key_id: file(ACCESS_KEY_ID),
        secret_access_key: file(SECRET_ACCESS_KEY),
        session_token: scope.path(SESSION_TOKEN),
    }
}

/// Names are told apart in logs and metrics: within a site always, between sites if one name would
/// stand for two URLs.
fn check_name(
    origin: &Origin,
    scope: &TableValues,
    in_this_site: &mut TakenOrigins,
    taken: &mut TakenOrigins,
    report: &mut ProblemReport,
) {
    let spot = scope.spot_of("site.origin.name");
    let of_another_site = taken.get(&origin.name).filter(|(_, url)| *url != origin.url);
    if let Some((first, _)) = in_this_site.get(&origin.name).or(of_another_site) {
        let message = format!("is also the name of the origin at {first}; write name = \"OTHER\"");
        report.problem(spot.problem_with(&origin.name, message));
    }
    let entry = (spot, origin.url.clone());
    in_this_site.entry(origin.name.clone()).or_insert_with(|| entry.clone());
    taken.entry(origin.name.clone()).or_insert(entry);
}

/// The host with its port and path, the bucket, or the folder.
fn default_name(url: &OriginUrl) -> String {
    match url {
        OriginUrl::S3(s3) if s3.prefix.is_empty() => s3.bucket.clone(),
        OriginUrl::S3(s3) => format!("{}/{}", s3.bucket, s3.prefix),
        OriginUrl::File(folder) => folder.display().to_string(),
        OriginUrl::Http(uri) => {
            let authority = uri.authority().map_or("", http::uri::Authority::as_str);
            format!("{authority}{}", uri.path().trim_end_matches('/'))
        }
    }
}

fn is_tls(url: &OriginUrl) -> bool {
    match url {
        OriginUrl::Http(uri) => uri.scheme_str() == Some("https"),
        OriginUrl::S3(s3) => s3.endpoint.as_ref().is_none_or(|url| url.starts_with("https://")),
        OriginUrl::File(_) => false,
    }
}
