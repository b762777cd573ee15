//! Targeted cache control (RFC 9213): response fields such as `CDN-Cache-Control`, which speak to
//! some caches alone and take the place of `Cache-Control` there. Pure. Called once for each
//! response that might be stored, and for each look-up that finds one.

use super::cache_control::{CacheControl, DELTA_SECONDS_MAX, Delta, Flag};
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// A field of which caching is one purpose among others.
const SURROGATE_CONTROL: &str = "surrogate-control";

/// The directives of the first of `targets` that `headers` have in a valid form, with a member at
/// least; none if no such field is there, so that `Cache-Control` and `Expires` count.
///
/// What is no Structured Field of the dictionary kind does not count at all; a member with a value
/// of another type than its directive is left out (RFC 9213 section 2.1), but for `private` and
/// `no-cache`: with any value but `?0` they are the plain directive, so that a value that names
/// fields keeps more from being shared, never less. `Surrogate-Control` speaks of more than
/// caching, so it counts only if it says `max-age` or `no-store`.
pub fn directives(headers: &HeaderMap, targets: &[HeaderName]) -> Option<CacheControl> {
    targets.iter().find_map(|target| {
        let lines: Vec<&[u8]> =
            headers.get_all(target).iter().map(http::HeaderValue::as_bytes).collect();
        let members: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
        let found = of(&members);
        let counts = if target.as_str() == SURROGATE_CONTROL {
            found.seconds(Delta::MaxAge).is_some() || found.has(Flag::NoStore)
        } else {
            !members.is_empty()
        };
        counts.then_some(found)
    })
}

fn of(members: &Dictionary) -> CacheControl {
    let mut found = CacheControl::default();
    for (name, entry) in members {
        let value = match entry {
            ListEntry::Item(item) => Some(&item.bare_item),
            ListEntry::InnerList(_) => None,
        };
        if let Some(flag) = flag(name.as_str()) {
            let is_plain = matches!(value, Some(BareItem::Boolean(true)));
            let is_off = matches!(value, Some(BareItem::Boolean(false)));
            if is_plain || (!is_off && matches!(flag, Flag::Private | Flag::NoCache)) {
                found = found.with(flag);
            }
        } else if let (Some(delta), Some(BareItem::Integer(seconds))) =
            (delta(name.as_str()), value)
        {
            let seconds = i64::from(*seconds).clamp(0, i64::from(DELTA_SECONDS_MAX));
            found.lower(delta, u32::try_from(seconds).unwrap_or(0));
        }
    }
    found
}

fn flag(name: &str) -> Option<Flag> {
    Some(match name {
        "no-store" => Flag::NoStore,
        "no-cache" => Flag::NoCache,
        "private" => Flag::Private,
        "public" => Flag::Public,
        "must-revalidate" => Flag::MustRevalidate,
        "proxy-revalidate" => Flag::ProxyRevalidate,
        "immutable" => Flag::Immutable,
        "must-understand" => Flag::MustUnderstand,
        "no-transform" => Flag::NoTransform,
        _ => return None,
    })
}

fn delta(name: &str) -> Option<Delta> {
    Some(match name {
        "max-age" => Delta::MaxAge,
        "s-maxage" => Delta::SharedMaxAge,
        "stale-while-revalidate" => Delta::StaleWhileRevalidate,
        "stale-if-error" => Delta::StaleIfError,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::{any, prop};
    use proptest::proptest;

    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");
    const OWN: HeaderName = HeaderName::from_static("narthex-cache-control");

    fn found(lines: &[(&HeaderName, &str)]) -> Option<CacheControl> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        directives(&headers, &[OWN, CDN])
    }

    #[test]
    fn the_first_target_counts_and_the_others_do_not() {
        let both = found(&[(&CDN, "max-age=5, public"), (&OWN, "max-age=7")]).unwrap();
        assert_eq!(both.seconds(Delta::MaxAge), Some(7));
        assert!(!both.has(Flag::Public));
        let lines = found(&[(&CDN, "max-age=5"), (&CDN, "private, x=1")]).unwrap();
        assert_eq!(lines.seconds(Delta::MaxAge), Some(5));
        assert!(lines.has(Flag::Private));
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn what_is_no_structured_field_does_not_count() {
        for bad in ["max-age=10000, &&&&&", "MaX-aGe=3600", "max-age =100", "max-age= 100", ""] {
            assert_eq!(found(&[(&CDN, bad)]), None, "{bad}");
        }
        let next = found(&[(&OWN, "&"), (&CDN, "max-age=3")]).unwrap();
        assert_eq!(next.seconds(Delta::MaxAge), Some(3));
    }

    #[test]
    fn a_value_of_another_type_is_left_out() {
        let lines = "max-age=\"10\", private=?0, no-store=1, s-maxage=-5, immutable;x=1";
        let odd = found(&[(&CDN, lines)]).unwrap();
        assert_eq!(odd.seconds(Delta::MaxAge), None);
        assert_eq!(odd.seconds(Delta::SharedMaxAge), Some(0));
        assert!(!odd.has(Flag::Private) && !odd.has(Flag::NoStore) && odd.has(Flag::Immutable));
        let huge = found(&[(&CDN, "max-age=99999999999")]).unwrap();
        assert_eq!(huge.seconds(Delta::MaxAge), Some(DELTA_SECONDS_MAX));
    }

    /// FAULTS.md G4b.
    #[test]
    fn a_restriction_that_names_fields_is_the_plain_one() {
        for value in ["private=\"x\"", "private=x", "private=(\"x\" \"y\")", "private=1"] {
            assert!(found(&[(&CDN, value)]).unwrap().has(Flag::Private), "{value}");
            let value = value.replace("private", "no-cache");
            assert!(found(&[(&CDN, &value)]).unwrap().has(Flag::NoCache), "{value}");
        }
        assert!(!found(&[(&CDN, "private=?0, public")]).unwrap().has(Flag::Private));
    }

    /// FAULTS.md G4a.
    #[test]
    fn surrogate_control_counts_if_it_speaks_of_storing() {
        let name = HeaderName::from_static(SURROGATE_CONTROL);
        for (value, counts) in [
            ("content=\"ESI/1.0\"", false),
            ("content=\"ESI/1.0\", max-age=5", true),
            ("no-store", true),
            ("max-age=x", false),
            ("private", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(&name, HeaderValue::from_static(value));
            let found = directives(&headers, std::slice::from_ref(&name));
            assert_eq!(found.is_some(), counts, "{value}");
        }
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert(CDN, value);
                directives(&headers, &[CDN]);
            }
        }
    }
}
