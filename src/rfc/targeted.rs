//! Targeted cache control (RFC 9213): response fields such as `CDN-Cache-Control`, which speak to
//! some caches alone and take the place of `Cache-Control` there. Pure. Called once for each
//! response that might be stored, and for each look-up that finds one.

use super::cache_control::{CacheControl, DELTA_SECONDS_MAX, Delta, Flag};
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// The directives of the first of `targets` that `headers` have in a valid form, with a member at
/// least; none where no such field is there, so that `Cache-Control` and `Expires` count.
///
/// What is no Structured Field of the dictionary kind does not count at all; a member whose value
/// has another type than its directive is left out (RFC 9213 section 2.1).
pub fn directives(headers: &HeaderMap, targets: &[HeaderName]) -> Option<CacheControl> {
    targets.iter().find_map(|target| {
        let lines: Vec<&[u8]> =
            headers.get_all(target).iter().map(http::HeaderValue::as_bytes).collect();
        let members: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
        (!members.is_empty()).then(|| of(&members))
    })
}

fn of(members: &Dictionary) -> CacheControl {
    let mut found = CacheControl::default();
    for (name, entry) in members {
        let ListEntry::Item(item) = entry else { continue };
        match &item.bare_item {
            BareItem::Boolean(true) => {
                if let Some(flag) = flag(name.as_str()) {
                    found = found.with(flag);
                }
            }
            BareItem::Integer(seconds) => {
                if let Some(delta) = delta(name.as_str()) {
                    let seconds = i64::from(*seconds).clamp(0, i64::from(DELTA_SECONDS_MAX));
                    found.lower(delta, u32::try_from(seconds).unwrap_or(0));
                }
            }
            BareItem::Boolean(false)
            | BareItem::Decimal(_)
            | BareItem::String(_)
            | BareItem::ByteSequence(_)
            | BareItem::Token(_)
            | BareItem::Date(_)
            | BareItem::DisplayString(_) => {}
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
