//! The small grammar that header fields share (RFC 9110 section 5.6): tokens, white space,
//! quoted strings, lists, numbers. Pure; linear in its input whatever that is. Called by the
//! parsers beside it and by `policy`.

/// Whether `byte` may stand in a token (RFC 9110 section 5.6.2).
pub const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Whether `bytes` are one token.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// `bytes` without optional white space (spaces and tabs) at both ends.
pub const fn trim(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [b' ' | b'\t', tail @ ..] = rest {
        rest = tail;
    }
    while let [head @ .., b' ' | b'\t'] = rest {
        rest = head;
    }
    rest
}

/// The length of the quoted string that `bytes` begin with, both quotes included; `None` if they
/// begin with none or it does not end.
pub fn quoted_length(bytes: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    let (b'"', rest) = bytes.split_first()? else {
        return None;
    };
    for (position, byte) in rest.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return position.checked_add(2),
            _ => {}
        }
    }
    None
}

/// A number of digits only, as a `u64`: no sign, no space, no overflow.
pub fn strict_number(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// A number of digits only; what does not fit becomes `u64::MAX`.
pub fn saturating_number(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

/// The members of a list field's value: split at commas outside quoted strings, trimmed, empty
/// ones left out (RFC 9110 section 5.6.1.2). A quote that is never closed, and any after it,
/// counts as an ordinary byte, so nothing can hide behind it.
pub fn list_members(value: &[u8]) -> Members<'_> {
    Members { rest: value, separator: b',', quotes: Quotes::Matter }
}

/// As [`list_members`], split at semicolons: a list member's value and its parameters.
pub fn parameters(member: &[u8]) -> Members<'_> {
    Members { rest: member, separator: b';', quotes: Quotes::Matter }
}

/// Iterator of [`list_members`] and [`parameters`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    rest: &'a [u8],
    separator: u8,
    quotes: Quotes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Matter,
    Plain,
}

impl Members<'_> {
    /// How many bytes there are before the next separator.
    fn member_length(&mut self) -> usize {
        let mut length = 0;
        while let Some((byte, _)) = self.rest.get(length..).and_then(<[u8]>::split_first) {
            if *byte == self.separator {
                break;
            }
            let step = match (*byte, self.quotes) {
                (b'"', Quotes::Matter) => self.rest.get(length..).and_then(quoted_length),
                _ => Some(1),
            };
            if step.is_none() {
                self.quotes = Quotes::Plain;
            }
            length += step.unwrap_or(1);
        }
        length
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let length = self.member_length();
            let (member, rest) = self.rest.split_at_checked(length)?;
            self.rest = rest.split_first().map_or(&[], |(_, after)| after);
            let member = trim(member);
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop};
    use proptest::proptest;

    fn members(value: &str) -> Vec<String> {
        list_members(value.as_bytes()).map(|m| String::from_utf8_lossy(m).into_owned()).collect()
    }

    #[test]
    fn lists_split_outside_quotes_and_lose_empty_members() {
        assert_eq!(members("a, b ,,\tc=\"x, \\\" y\", "), ["a", "b", "c=\"x, \\\" y\""]);
        assert_eq!(members(" , ,"), Vec::<String>::new());
    }

    #[test]
    fn an_unclosed_quote_hides_nothing() {
        assert_eq!(members("a=\"b, no-store"), ["a=\"b", "no-store"]);
        assert_eq!(members("\"\\\"\\\", x"), ["\"\\\"\\\"", "x"]);
    }

    #[test]
    fn numbers_are_digits_only() {
        assert_eq!(strict_number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(strict_number(b"18446744073709551616"), None);
        assert_eq!(saturating_number(b"18446744073709551616"), Some(u64::MAX));
        for bad in ["", "+1", "-1", " 1", "1 ", "0x1", "1_0"] {
            assert_eq!(strict_number(bad.as_bytes()), None, "{bad}");
            assert_eq!(saturating_number(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn many_unclosed_quotes_cost_linear_time() {
        let value = format!("\"{}", "\\\"".repeat(200_000));
        assert_eq!(list_members(value.as_bytes()).count(), 1);
    }

    proptest! {
        #[test]
        fn splitting_loses_only_separators_and_space(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            for member in list_members(&bytes) {
                assert!(!member.is_empty());
                assert_eq!(member, trim(member));
                assert!(bytes.windows(member.len()).any(|window| window == member));
            }
        }

        #[test]
        fn members_come_back(names in prop::collection::vec("[a-z0-9=]{1,8}", 0..8)) {
            assert_eq!(members(&names.join(" , ")), names);
        }

        #[test]
        fn strict_numbers_are_those_that_print_back(number: u64) {
            assert_eq!(strict_number(number.to_string().as_bytes()), Some(number));
        }
    }
}
