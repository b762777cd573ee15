//! Which keys a site trusts, and what a narinfo without a good signature gets. Pure; called by
//! `sites`.

use super::model::{Origin, OriginUrl, Signatures};
use super::problem::{ProblemReport, Spotted, quote};
use super::scope::TableValues;
use crate::nix::signature::CACHE_NIXOS_ORG;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A site's keys and how strictly they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SiteTrust {
    /// `name:base64`.
    pub(super) keys: Vec<String>,
    /// What a narinfo without a good signature gets.
    pub(super) signatures: Signatures,
}

/// Public caches with a well-known key: host and key.
const KNOWN_KEYS: [(&str, &str); 1] = [("cache.nixos.org", CACHE_NIXOS_ORG)];

/// Ed25519 (RFC 8032): bytes of a public key, and of a secret key as Nix writes it.
const PUBLIC_KEY_BYTES: usize = 32;
const SECRET_KEY_BYTES: usize = 64;

/// What the word of a setting means.
pub(super) fn signatures(word: &str) -> Signatures {
    match word {
        "off" => Signatures::Off,
        "warn" => Signatures::Warn,
        _ => Signatures::Require,
    }
}

/// The keys and the strictness of a site. An origin that has keys of its own keeps them; each other
/// gets those of the site. An origin that is not checked needs none. Faults are reported.
pub(super) fn trust(
    scope: &TableValues,
    origins: &mut [Origin],
    report: &mut ProblemReport,
) -> SiteTrust {
    let has_own = |origin: &&Origin| !origin.trusted_public_keys.is_empty();
    let checked = || origins.iter().filter(|one| one.signatures != Some(Signatures::Off));
    let own_count = checked().filter(has_own).count();
    let open_count = checked().count() - own_count;
    let known: Vec<_> = checked().filter(|one| !has_own(one)).filter_map(known_key).collect();
    let keys = match scope.is_given("site.trusted_public_keys") {
        true => given_keys(scope, &known, report),
        false if known.len() == open_count => {
            let mut keys: Vec<String> = known.iter().map(|(_, key)| (*key).to_owned()).collect();
            keys.dedup();
            keys
        }
        false => Vec::new(),
    };
    let given = scope.text("site.signatures");
    // If keys or origins are wrong already, what follows from them is not reported too.
    let is_doubtful = scope.is_wrong("site.trusted_public_keys")
        || origins.len() < scope.scopes("site.origin").len();
    let has_keys = !keys.is_empty() || (open_count == 0 && own_count > 0) || is_doubtful;
    let is_left_open = !scope.is_given("site.trusted_public_keys") && known.len() + own_count > 0;
    let signatures = match given.as_ref().map(|text| text.value.as_str()) {
        Some("off") => Signatures::Off,
        Some(word) if !has_keys => {
            let message = "needs keys; write trusted_public_keys = [\"NAME:BASE64\"], or \
                 signatures = \"off\"";
            report.problem(scope.spot_of("site.signatures").problem_with(word, message));
            Signatures::Require
        }
        Some(word) => signatures(word),
        None if has_keys => Signatures::Require,
        None if is_left_open && !scope.is_wrong("site.signatures") => {
            report.problem(scope.spot_of("site.signatures").problem(left_open(&known)));
            Signatures::Require
        }
        None => Signatures::Off,
    };
    if keys.is_empty() && !is_doubtful {
        told_without_keys(scope, report);
    }
    let mut all = keys.clone();
    for origin in origins {
        if origin.trusted_public_keys.is_empty() {
            origin.trusted_public_keys.clone_from(&keys);
        }
        for key in &origin.trusted_public_keys {
            if !all.contains(key) {
                all.push(key.clone());
            }
        }
    }
    SiteTrust { keys: all, signatures }
}

/// Tells of each origin that is to be checked by itself, has no keys of its own and gets none.
fn told_without_keys(scope: &TableValues, report: &mut ProblemReport) {
    for origin in scope.scopes("site.origin") {
        let Some(rule) = origin.text("site.origin.signatures") else { continue };
        let has_own = origin.is_given("site.origin.trusted_public_keys");
        if signatures(&rule.value) != Signatures::Off && !has_own {
            let message = "needs keys; write trusted_public_keys = [\"NAME:BASE64\"] for this \
                 origin or for the site, or signatures = \"off\"";
            report.problem(rule.spot.problem_with(&rule.value, message));
        }
    }
}

/// The message if some origins have keys and others have none.
fn left_open(known: &[(&str, &str)]) -> String {
    let Some((host, key)) = known.first() else {
        return "is not set, and some of this site's origins have trusted_public_keys and others \
             none; write them for every origin or for the site, or signatures = \"off\""
            .to_owned();
    };
    format!(
        "is not set, and only {host} of this site's origins has a known key; write \
         trusted_public_keys with the keys of every origin, among them {key:?}, or signatures = \
         \"off\""
    )
}

/// The keys as given; wrong ones, and a well-known origin without its key, are told.
fn given_keys(
    scope: &TableValues,
    known: &[(&str, &str)],
    report: &mut ProblemReport,
) -> Vec<String> {
    let given = scope.texts("site.trusted_public_keys");
    for key in &given {
        check_public_key(key, report);
    }
    let keys: Vec<String> = given.into_iter().map(|key| key.value).collect();
    for (host, key) in known {
        if !keys.is_empty() && !keys.iter().any(|given| given == key) {
            let message = format!(
                "has not the key that {host} signs with, so its narinfos count as unsigned; add \
                 {key:?}"
            );
            report.warning(scope.spot_of("site.trusted_public_keys").problem(message));
        }
    }
    keys
}

fn known_key(origin: &Origin) -> Option<(&'static str, &'static str)> {
    let OriginUrl::Http(uri) = &origin.url else {
        return None;
    };
    let host = uri.host()?;
    KNOWN_KEYS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(host))
}

/// Tells what is wrong with a public key.
pub(super) fn check_public_key(key: &Spotted<String>, report: &mut ProblemReport) {
    if let Err((found, message)) = fault_of_key(&key.value) {
        let mut problem = key.spot.problem(message);
        problem.found = Some(quote(found));
        report.problem(problem);
    }
}

/// Whether `text` is `name:base64` of an Ed25519 public key; else the part that may be quoted,
/// never a secret, and what is wrong.
fn fault_of_key(text: &str) -> Result<(), (&str, String)> {
    let wanted = "write NAME:BASE64 as in Nix's trusted-public-keys";
    let Some((name, base64)) = text.split_once(':') else {
        return Err((text, format!("is not a public key; {wanted}")));
    };
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err((text, format!("has no name before the colon; {wanted}")));
    }
    match STANDARD.decode(base64).map(|bytes| bytes.len()) {
        Ok(PUBLIC_KEY_BYTES) => Ok(()),
        Ok(SECRET_KEY_BYTES) => Err((
            name,
            "names a secret key, which must never stand here; write what nix key \
             convert-secret-to-public makes of it"
                .to_owned(),
        )),
        Ok(bytes) => Err((text, format!("has a key of {bytes} bytes, not of 32; {wanted}"))),
        Err(error) => Err((text, format!("has a key that is not base64: {error}; {wanted}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_a_name_and_32_bytes() {
        for (_, key) in KNOWN_KEYS {
            assert_eq!(fault_of_key(key), Ok(()));
        }
        let fault = |text: &str| fault_of_key(text).unwrap_err().1;
        assert!(fault("cache.nixos.org-1").contains("is not a public key"));
        assert!(fault(":AAAA").contains("no name"));
        assert!(fault("a b:AAAA").contains("no name"));
        assert!(fault("a:AAAA").contains("a key of 3 bytes"));
        assert!(fault("a:!").contains("not base64"));
    }

    #[test]
    fn a_secret_key_is_not_quoted() {
        let secret = format!("mine-1:{}", STANDARD.encode([7; SECRET_KEY_BYTES]));
        let (found, message) = fault_of_key(&secret).unwrap_err();
        assert_eq!(found, "mine-1");
        assert!(message.contains("secret key"));
    }
}
