//! HTTP caching of sites of kind `generic`, to the letter of RFC 9111: what is stored and for how
//! long, when it is used again, what selects it, and what a write makes stale. Pure. `engine` and
//! `fill` ask.
//!
//! Nothing here knows Nix: what a response says decides, within the bounds of the site's rules.
//!
//! - `request`: what a method and the wishes of a client mean.
//! - `storing`: RFC 9111 sections 3 and 4.2. `fields`: sections 3.1 and 3.2.
//! - `reuse`: RFC 9111 section 4, RFC 5861, RFC 8246. `variant`: section 4.1.
//! - `invalidation`: RFC 9111 section 4.4.
//!
//! The fields of a response that are not stored go to the client that caused it. A 304 to a
//! request with credentials or `no-store` changes nothing that is stored.

pub mod fields;
pub mod invalidation;
pub mod request;
pub mod reuse;
pub mod selection;
pub mod storing;
pub mod variant;

use crate::rfc::cache_control::{CacheControl, QualifiedFields, qualified};
use crate::rfc::targeted;
use http::{HeaderMap, HeaderName};

/// What a response's own fields say about caching it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The directives that count.
    pub control: CacheControl,
    /// Whether they come from a targeted field, so that `Cache-Control` and `Expires` do not count.
    pub is_targeted: bool,
    /// For what `no-cache` is given.
    pub no_cache: QualifiedFields,
    /// For what `private` is given.
    pub private: QualifiedFields,
}

impl Directives {
    /// Those of a response with these fields; `targets` are the targeted fields to obey, the first
    /// one first.
    pub fn of(headers: &HeaderMap, targets: &[HeaderName]) -> Self {
        use crate::rfc::cache_control::Flag;
        let whole = |flag, control: &CacheControl| {
            if control.has(flag) { QualifiedFields::Whole } else { QualifiedFields::No }
        };
        match targeted::directives(headers, targets) {
            Some(control) => Self {
                no_cache: whole(Flag::NoCache, &control),
                private: whole(Flag::Private, &control),
                control,
                is_targeted: true,
            },
            None => Self {
                control: CacheControl::of(headers),
                is_targeted: false,
                no_cache: qualified(headers, "no-cache"),
                private: qualified(headers, "private"),
            },
        }
    }

    /// Whether the whole response may be used only after its origin has confirmed it.
    pub fn must_be_confirmed(&self) -> bool {
        self.no_cache == QualifiedFields::Whole
    }
}
