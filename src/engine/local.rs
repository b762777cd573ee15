//! What a site answers in its own way: an overridden `nix-cache-info`, and a landing page where
//! the origin has no `index.html`.

use super::answer::{self, Answer};
use super::body::Body;
use super::site::Site;
use crate::config::CacheInfoOverride;
use crate::nix::Class;
use crate::nix::cache_info::CacheInfoFields;
use crate::nix::store_path::StoreDir;
use crate::outcome::Outcome;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

/// The page of a site whose origin has none.
const LANDING_PAGE: &str = include_str!("landing.html");

/// What a site without any word of an origin says of itself.
const BARE_CACHE_INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";

/// Whether the site answers objects of `class` in its own words, on top of the origin's: then the
/// conditions and ranges of a request are not for the origin's answer.
pub(super) fn is_own(site: &Site, class: Class) -> bool {
    class == Class::CacheInfo && site.upstream.site.cache_info != CacheInfoOverride::default()
}

/// Puts the site's own answer in place of the origin's where the config or the origin's absence
/// asks for it.
#[inline]
pub(super) fn adapt(answer: Answer, site: &Site, class: Class) -> Answer {
    if may_adapt(class) { adapted(answer, site, class) } else { answer }
}

/// Whether a site may have an answer of its own to a request for an object of `class`.
#[inline]
pub(super) const fn may_adapt(class: Class) -> bool {
    match class {
        Class::CacheInfo | Class::Index => true,
        Class::Narinfo
        | Class::Nar
        | Class::Listing
        | Class::Debuginfo
        | Class::Realisation
        | Class::Log
        | Class::Other => false,
    }
}

fn adapted(answer: Answer, site: &Site, class: Class) -> Answer {
    if is_own(site, class) {
        cache_info(answer, &site.upstream.site.cache_info)
    } else if class == Class::Index && answer.status == StatusCode::NOT_FOUND {
        landing_page(answer, site)
    } else {
        answer
    }
}

/// `nix-cache-info` with the overrides of the site: on top of the origin's, or of a bare one while
/// no origin has one, so that clients do not leave the whole cache out.
fn cache_info(answer: Answer, overrides: &CacheInfoOverride) -> Answer {
    let from_origin = (answer.status == StatusCode::OK).then(|| answer.body.in_memory()).flatten();
    let is_missing =
        matches!(answer.outcome, Outcome::OriginFailed | Outcome::Absent | Outcome::HitAbsent);
    let original = match from_origin {
        Some(text) => text,
        None if is_missing => Bytes::from_static(BARE_CACHE_INFO.as_bytes()),
        None => return answer,
    };
    let store_dir = overrides.store_dir.as_deref().and_then(|dir| StoreDir::new(dir).ok());
    let overrides = CacheInfoFields {
        store_dir,
        wants_mass_query: overrides.want_mass_query,
        priority: overrides.priority,
    };
    let Ok(printed) = overrides.apply(&original) else { return answer };
    let answer = if answer.status == StatusCode::OK { answer } else { without_origin(answer) };
    page(answer, printed, "text/x-nix-cache-info")
}

fn landing_page(answer: Answer, site: &Site) -> Answer {
    let keys = site.upstream.site.trusted_public_keys.join(" ");
    let text =
        LANDING_PAGE.replace("{site}", &escape(site.name())).replace("{keys}", &escape(&keys));
    page(without_origin(answer), text, "text/html; charset=utf-8")
}

/// An answer in which nothing is of an origin: its `Cache-Status` and `Age` go too.
fn without_origin(answer: Answer) -> Answer {
    let outcome = Outcome::Local;
    Answer { headers: answer::own_head(outcome), outcome, ..answer }
}

fn page(answer: Answer, text: String, kind: &'static str) -> Answer {
    let body = Bytes::from(text);
    let mut own = answer;
    own.status = StatusCode::OK;
    own.headers.remove(header::ETAG);
    own.headers.remove(header::LAST_MODIFIED);
    own.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    own.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    own.body = Body::whole(body);
    own
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
