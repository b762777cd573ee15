//! Pages that a site makes itself: `nix-cache-info` with its overrides, and a landing page if the
//! origin has no `index.html`.

use super::answer::{self, ClientAnswer};
use super::body::AnswerBody;
use super::site::ServedSite;
use crate::config::CacheInfoOverride;
use crate::nix::Class;
use crate::nix::cache_info::CacheInfoFields;
use crate::nix::store_path::StoreDir;
use crate::outcome::Outcome;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

/// The landing page.
const LANDING_PAGE: &str = include_str!("landing.html");

/// The `nix-cache-info` of a site if its origin has none.
const BARE_CACHE_INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";

/// Whether the site changes objects of `class`. Then the conditions and ranges of a request are not
/// for the origin's answer.
pub(super) fn is_own(site: &ServedSite, class: Class) -> bool {
    class == Class::CacheInfo && site.upstream.site.cache_info != CacheInfoOverride::default()
}

/// Replaces the answer by the site's own page, if the config or the absence at the origin asks for
/// it.
#[inline]
pub(super) fn adapt(answer: ClientAnswer, site: &ServedSite, class: Class) -> ClientAnswer {
    if may_adapt(class) { adapted(answer, site, class) } else { answer }
}

/// Whether a site may have a page of its own for objects of `class`.
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

fn adapted(answer: ClientAnswer, site: &ServedSite, class: Class) -> ClientAnswer {
    if is_own(site, class) {
        cache_info(answer, &site.upstream.site.cache_info)
    } else if class == Class::Index && answer.status == StatusCode::NOT_FOUND {
        landing_page(answer, site)
    } else {
        answer
    }
}

/// `nix-cache-info` with the overrides of the site. They apply to that of the origin, or to a
/// default while no origin has one: without it clients would not use the cache at all.
fn cache_info(answer: ClientAnswer, overrides: &CacheInfoOverride) -> ClientAnswer {
    let from_origin = (answer.status == StatusCode::OK).then(|| answer.body.in_memory()).flatten();
    let is_missing = matches!(
        answer.outcome,
        Outcome::OriginFailed | Outcome::AbsentOptional | Outcome::Absent | Outcome::HitAbsent
    );
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

fn landing_page(answer: ClientAnswer, site: &ServedSite) -> ClientAnswer {
    let keys = site.upstream.site.trusted_public_keys.join(" ");
    let text =
        LANDING_PAGE.replace("{site}", &escape(site.name())).replace("{keys}", &escape(&keys));
    page(without_origin(answer), text, "text/html; charset=utf-8")
}

/// The answer without anything of an origin: its `Cache-Status` and `Age` go too.
fn without_origin(answer: ClientAnswer) -> ClientAnswer {
    let outcome = Outcome::Local;
    ClientAnswer { headers: answer::own_head(outcome), outcome, ..answer }
}

fn page(answer: ClientAnswer, text: String, kind: &'static str) -> ClientAnswer {
    let body = Bytes::from(text);
    let mut own = answer;
    own.status = StatusCode::OK;
    own.headers.remove(header::ETAG);
    own.headers.remove(header::LAST_MODIFIED);
    own.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    own.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    own.body = AnswerBody::whole(body);
    own
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
