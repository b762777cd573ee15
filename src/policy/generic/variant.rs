//! What of a request selects a stored response (RFC 9111 section 4.1): the fields that its `Vary`
//! names, in a form in which values that mean the same are the same. Pure.

use crate::object::Variant;
use crate::rfc::grammar;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Bytes of one value that are compared; what is longer counts as too long to be selected by.
const VALUE_BYTES_MAX: usize = 1_024;
/// Names that one response may vary by.
const NAMES_MAX: usize = 16;

/// What a response varies by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Varies {
    /// Nothing: it answers every request.
    No,
    /// These fields of the request.
    By(Vec<HeaderName>),
    /// Something that is not in the request, or too much: it answers no other request.
    Any,
}

impl Varies {
    /// What a response with these fields varies by. A member that is no field name counts as `*`.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for line in headers.get_all(header::VARY) {
            for member in grammar::list_members(line.as_bytes()) {
                match HeaderName::from_bytes(member) {
                    Ok(name) if name.as_str() != "*" => names.push(name),
                    _ => return Self::Any,
                }
            }
        }
        names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        match names.len() {
            0 => Self::No,
            1..=NAMES_MAX => Self::By(names),
            _ => Self::Any,
        }
    }

    /// Whether `variant` is selected by the same fields.
    pub fn is_by(&self, variant: &Variant) -> bool {
        let others = variant.fields().iter().map(|(name, _)| name);
        matches!(self, Self::By(names) if names.iter().eq(others))
    }

    /// The variant that `request` selects; none if one of its values is too long to be compared.
    pub fn select(&self, request: &HeaderMap) -> Option<Variant> {
        match self {
            Self::No => Some(Variant::default()),
            Self::By(names) => selected(names.iter(), request),
            Self::Any => None,
        }
    }
}

/// Whether `request` selects a stored response of this variant.
pub fn selects(request: &HeaderMap, variant: &Variant) -> bool {
    let names = variant.fields().iter().map(|(name, _)| name);
    selected(names, request).is_some_and(|own| own == *variant)
}

/// Whether a stored response of this variant, in the language that its `Content-Language` names, is
/// what `request` would get although the two do not agree in `Accept-Language`: they agree in all
/// other fields, and the request wants that one language above all others. The origin has that
/// language, so a request that prefers it gets it (RFC 9110 section 12.5.4).
pub fn is_preferred(request: &HeaderMap, variant: &Variant, stored: &HeaderMap) -> bool {
    let others = variant.fields().iter().map(|(name, _)| name);
    let others = others.filter(|name| **name != header::ACCEPT_LANGUAGE);
    let Some(own) = selected(others, request) else { return false };
    let agrees = own.fields().iter().all(|field| variant.fields().contains(field));
    let varies = variant.fields().iter().any(|(name, _)| *name == header::ACCEPT_LANGUAGE);
    let mut languages = stored.get_all(header::CONTENT_LANGUAGE).iter();
    match (languages.next(), languages.next(), favourite(request)) {
        (Some(language), None, Some(favourite)) => {
            agrees && varies && language.as_bytes().eq_ignore_ascii_case(&favourite)
        }
        _ => false,
    }
}

/// The one language that a request gives the highest weight.
fn favourite(request: &HeaderMap) -> Option<Vec<u8>> {
    let lines = request.get_all(header::ACCEPT_LANGUAGE).iter();
    let mut weighted: Vec<(u16, Vec<u8>)> = lines
        .flat_map(|line| grammar::list_members(line.as_bytes()))
        .map(|member| {
            let mut parts = grammar::parameters(member);
            let name = grammar::trim(parts.next().unwrap_or_default()).to_ascii_lowercase();
            (parts.find_map(weight).unwrap_or(1_000), name)
        })
        .collect();
    weighted.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let mut weighted = weighted.into_iter();
    let (weight, name) = weighted.next()?;
    let is_alone = weighted.next().is_none_or(|(next, _)| next < weight);
    (is_alone && weight > 0 && name != b"*").then_some(name)
}

/// The weight that a parameter `q=0.5` gives, in thousandths; none for another parameter.
fn weight(parameter: &[u8]) -> Option<u16> {
    let mut halves = parameter.splitn(2, |byte| *byte == b'=');
    if !grammar::trim(halves.next()?).eq_ignore_ascii_case(b"q") {
        return None;
    }
    let value = std::str::from_utf8(grammar::trim(halves.next()?)).ok()?;
    let (whole, rest) = value.split_once('.').unwrap_or((value, ""));
    let thousandths = format!("{rest:0<3}");
    match (whole, thousandths.get(..3).and_then(|digits| digits.parse::<u16>().ok())) {
        ("1", Some(_)) => Some(1_000),
        ("0", Some(thousandths)) => Some(thousandths),
        _ => Some(0),
    }
}

fn selected<'a>(
    names: impl Iterator<Item = &'a HeaderName>,
    request: &HeaderMap,
) -> Option<Variant> {
    let fields: Option<Vec<_>> = names
        .map(|name| {
            let has_field = request.contains_key(name);
            let value = if has_field { Some(normal(name, request)?) } else { None };
            Some((name.clone(), value))
        })
        .collect();
    fields.map(Variant::new)
}

/// The value of the field `name`, its lines in one, without white space around its members and
/// without empty ones; in lower case and sorted if neither case nor order says anything. None if it
/// is too long.
fn normal(name: &HeaderName, request: &HeaderMap) -> Option<HeaderValue> {
    let lines = request.get_all(name).iter();
    let mut members: Vec<Vec<u8>> =
        lines.flat_map(|line| grammar::list_members(line.as_bytes())).map(without_spaces).collect();
    if is_preference(name) {
        for member in &mut members {
            member.make_ascii_lowercase();
        }
        members.sort();
        members.dedup();
    }
    let value = members.join(&b", "[..]);
    if value.len() > VALUE_BYTES_MAX {
        return None;
    }
    HeaderValue::from_bytes(&value).ok()
}

/// Fields that list what is accepted: neither the case of a member nor its place among the others
/// says anything, only its weight.
fn is_preference(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::ACCEPT | header::ACCEPT_CHARSET | header::ACCEPT_ENCODING | header::ACCEPT_LANGUAGE
    )
}

/// A member without the white space that may stand around `;` and `=`, outside quoted strings.
fn without_spaces(member: &[u8]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> =
        grammar::parameters(member).map(|parameter| grammar::trim(parameter).to_vec()).collect();
    parts.join(&b";"[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::fields;

    fn by(names: &[&'static str]) -> Varies {
        Varies::By(names.iter().map(|name| HeaderName::from_static(name)).collect())
    }

    fn is_selected(vary: &str, stored: &[(&str, &str)], asked: &[(&str, &str)]) -> bool {
        let varies = Varies::of(&fields(&[("vary", vary)]));
        varies.select(&fields(stored)).is_some_and(|variant| selects(&fields(asked), &variant))
    }

    #[test]
    fn the_names_are_told_once_and_a_star_means_all() {
        let varies = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            Varies::of(&fields(&lines))
        };
        assert_eq!(varies(&[]), Varies::No);
        assert_eq!(varies(&["", ", ,"]), Varies::No);
        assert_eq!(varies(&["Foo, bar", "FOO"]), by(&["bar", "foo"]));
        for any in [&["*"][..], &["*, *"], &["", "*"], &["a, *"], &["a b"]] {
            assert_eq!(varies(any), Varies::Any, "{any:?}");
        }
        let many: Vec<String> = (0..=NAMES_MAX).map(|number| format!("x{number}")).collect();
        assert_eq!(varies(&[&many.join(",")]), Varies::Any);
    }

    #[test]
    fn a_request_selects_what_it_agrees_with_in_every_field() {
        for (vary, stored, asked, expected) in [
            ("a", &[("a", "1")][..], &[("a", "1")][..], true),
            ("a", &[("a", "1")], &[("a", "2")], false),
            ("a", &[("a", "1")], &[], false),
            ("a", &[], &[("a", "1")], false),
            ("a", &[], &[("b", "1")], true),
            ("a", &[("a", "")], &[], false),
            ("a, b", &[("a", "1"), ("b", "2")], &[("b", "2"), ("a", "1"), ("c", "3")], true),
            ("a, b", &[("a", "1"), ("b", "2")], &[("a", "1")], false),
        ] {
            assert_eq!(is_selected(vary, stored, asked), expected, "{vary} {stored:?} {asked:?}");
        }
    }

    #[test]
    fn what_means_the_same_is_the_same() {
        for (name, stored, asked, expected) in [
            ("foo", &["1, 2"][..], &["1", "2"][..], true),
            ("foo", &["1,2"], &[" 1 ,, 2 "], true),
            ("foo", &["1, 2"], &["2, 1"], false),
            ("foo", &["a"], &["A"], false),
            ("foo", &["\"a,  b\""], &["\"a, b\""], false),
            ("accept-language", &["en, de"], &["de, EN"], true),
            ("accept-language", &["en;q=0.5, de"], &["de, en; q=0.5"], true),
            ("accept-language", &["en;q=0.5, de"], &["de;q=0.5, en"], false),
            ("accept-encoding", &["gzip, br"], &["br", "gzip"], true),
        ] {
            let lines = |values: &[&'static str]| {
                values.iter().map(|value| (name, *value)).collect::<Vec<_>>()
            };
            let found = is_selected(name, &lines(stored), &lines(asked));
            assert_eq!(found, expected, "{name} {stored:?} {asked:?}");
        }
    }

    #[test]
    fn who_wants_the_stored_language_most_gets_it() {
        let languages = |value| fields(&[("accept-language", value), ("a", "1")]);
        let varies = Varies::of(&fields(&[("vary", "a, accept-language")]));
        let variant = varies.select(&languages("en, de")).unwrap();
        let stored = fields(&[("content-language", "DE")]);
        for (asked, expected) in [
            ("fr;q=0.5, de;q=1.0", true),
            ("de", true),
            ("de;q=0.2, en;q=0.19", true),
            ("de, fr", false),
            ("fr, de;q=0.9", false),
            ("de;q=0", false),
            ("*", false),
            ("de-CH, de;q=0.9", false),
        ] {
            assert_eq!(is_preferred(&languages(asked), &variant, &stored), expected, "{asked}");
        }
        let other = fields(&[("accept-language", "de"), ("a", "2")]);
        assert!(!is_preferred(&other, &variant, &stored));
        assert!(!is_preferred(&languages("de"), &variant, &HeaderMap::new()));
        assert!(!is_preferred(&languages("de"), &Variant::default(), &stored));
    }

    #[test]
    fn a_value_that_is_too_long_selects_nothing() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        let varies = by(&["a"]);
        assert_eq!(varies.select(&fields(&[("a", &long)])), None);
        assert!(varies.select(&fields(&[("a", "x")])).is_some());
        assert_eq!(Varies::Any.select(&HeaderMap::new()), None);
    }
}
