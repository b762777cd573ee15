//! Entity tags (RFC 9110 section 8.8.3): strict parse, the two comparisons, lists of them. Pure.

use http::HeaderValue;

/// An entity tag, borrowed from the field that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'a> {
    /// What stands between the quotes.
    opaque: &'a [u8],
    strength: Strength,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strength {
    Strong,
    Weak,
}

/// What an `If-Match` or `If-None-Match` line lists.
#[derive(Debug, Clone)]
pub enum TagList<'a> {
    /// `*`.
    Any,
    /// Entity tags.
    Tags(EntityTags<'a>),
}

/// The tags of a list; ends at the first thing that is none.
#[derive(Debug, Clone)]
pub struct EntityTags<'a> {
    rest: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Reads a field that is exactly one entity tag; `None` for anything else, an unquoted one
    /// included.
    pub fn parse(value: &'a HeaderValue) -> Option<Self> {
        match Self::split(value.as_bytes())? {
            (tag, []) => Some(tag),
            _ => None,
        }
    }

    /// Whether it is a strong one.
    pub fn is_strong(&self) -> bool {
        self.strength == Strength::Strong
    }

    /// The strong comparison: both are strong and equal.
    pub fn matches_strongly(&self, other: &EntityTag<'_>) -> bool {
        self.is_strong() && other.is_strong() && self.opaque == other.opaque
    }

    /// The weak comparison: equal, whatever their strength.
    pub fn matches_weakly(&self, other: &EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// The tag that `bytes` begin with, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (strength, quoted) = match bytes.strip_prefix(b"W/") {
            Some(quoted) => (Strength::Weak, quoted),
            None => (Strength::Strong, bytes),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let length = inner.iter().position(|byte| *byte == b'"')?;
        let (opaque, rest) = inner.split_at_checked(length)?;
        let is_valid = opaque.iter().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..));
        is_valid.then_some((Self { opaque, strength }, rest.strip_prefix(b"\"")?))
    }
}

impl<'a> TagList<'a> {
    /// Reads one line of `If-Match` or `If-None-Match`.
    pub fn parse(value: &'a HeaderValue) -> Self {
        match super::grammar::trim(value.as_bytes()) {
            b"*" => Self::Any,
            rest => Self::Tags(EntityTags { rest }),
        }
    }
}

impl<'a> Iterator for EntityTags<'a> {
    type Item = EntityTag<'a>;

    fn next(&mut self) -> Option<EntityTag<'a>> {
        while let [b' ' | b'\t' | b',', rest @ ..] = self.rest {
            self.rest = rest;
        }
        let (tag, after) = EntityTag::split(self.rest)?;
        self.rest = super::grammar::trim(after);
        if !matches!(self.rest, [] | [b',', ..]) {
            self.rest = &[];
            return None;
        }
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop};
    use proptest::proptest;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    fn listed(text: &str) -> Vec<String> {
        match TagList::parse(&value(text)) {
            TagList::Any => vec!["*".into()],
            TagList::Tags(tags) => {
                tags.map(|tag| String::from_utf8_lossy(tag.opaque).into_owned()).collect()
            }
        }
    }

    #[test]
    fn only_a_quoted_tag_is_a_tag() {
        for good in ["\"\"", "\"a\"", "W/\"a\"", "\"a,b\\\"", "\"d41d8cd98f-12\""] {
            assert!(EntityTag::parse(&value(good)).is_some(), "{good}");
        }
        for bad in ["", "a", "\"a", "a\"", "w/\"a\"", "W/a", "\"a\" ", "\"a\"b", "\"a b\"", "*"] {
            assert!(EntityTag::parse(&value(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_comparisons_of_the_rfc() {
        // RFC 9110 section 8.8.3.2, table 3.
        for (left, right, strong, weak) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
        ] {
            let (left, right) = (value(left), value(right));
            let (left, right) =
                (EntityTag::parse(&left).unwrap(), EntityTag::parse(&right).unwrap());
            assert_eq!(left.matches_strongly(&right), strong);
            assert_eq!(left.matches_weakly(&right), weak);
        }
    }

    #[test]
    fn lists_end_at_the_first_fault() {
        assert_eq!(listed("\"a\", W/\"b,c\" ,,\"d\""), ["a", "b,c", "d"]);
        assert_eq!(listed("*"), ["*"]);
        assert_eq!(listed("\"a\", b, \"c\""), ["a"]);
        assert_eq!(listed("\"a\" \"b\""), Vec::<String>::new());
        assert_eq!(listed("abc"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn lists_never_panic_and_end(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes)
                && let TagList::Tags(tags) = TagList::parse(&value)
            {
                assert!(tags.count() <= bytes.len());
            }
        }

        #[test]
        fn what_is_listed_is_found(names in prop::collection::vec("[!#-~]{0,6}", 1..6)) {
            let text = names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
            assert_eq!(listed(&text), names);
        }
    }
}
