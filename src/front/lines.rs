//! The filter in front of HTTP/1: no line ends in a bare line feed. Pure; one per connection, fed
//! by `socket` with all that it reads. A file of its own, without other modules, since
//! `tests/fuzz` takes it in by path.

/// How the lines of HTTP/1 end. A line feed alone ends a line for hyper (RFC 9112 section 2.2
/// allows that) and not for every proxy in front of this one: two requests to one of them and a
/// single one to the other. No request here has a body, so every line feed ends a line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    last_byte: u8,
    was_refused: bool,
}

/// Whether a line of `bytes`, which begin a line, ends in a line feed alone.
pub(super) fn has_bare_line_feed(bytes: &[u8]) -> bool {
    !memchr::memchr_iter(b'\n', bytes).all(|at| is_paired(bytes, at, 0))
}

/// Whether the line feed at a place in `bytes`, before which there was `last_byte`, has its
/// carriage return.
fn is_paired(bytes: &[u8], at: usize, last_byte: u8) -> bool {
    let before = at.checked_sub(1).and_then(|before| bytes.get(before)).copied();
    before.unwrap_or(last_byte) == b'\r'
}

/// Whether there was a bare line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// None.
    No,
    /// The first of the connection.
    First,
    /// A later one.
    Again,
}

impl Lines {
    /// Makes each line feed without a carriage return before it a NUL, which no parser takes.
    pub(super) fn refuse_bare_line_feeds(&mut self, bytes: &mut [u8]) -> Refused {
        let mut last_byte = self.last_byte;
        self.last_byte = bytes.last().copied().unwrap_or(last_byte);
        if memchr::memchr_iter(b'\n', bytes).all(|at| is_paired(bytes, at, last_byte)) {
            return Refused::No;
        }
        let mut refused = Refused::No;
        for byte in bytes {
            let is_bare = *byte == b'\n' && last_byte != b'\r';
            last_byte = *byte;
            if is_bare {
                *byte = 0;
                let was_refused = std::mem::replace(&mut self.was_refused, true);
                refused = match refused {
                    Refused::No if was_refused => Refused::Again,
                    Refused::No => Refused::First,
                    Refused::First | Refused::Again => refused,
                };
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::proptest;

    fn seen(pieces: &[&[u8]]) -> Vec<u8> {
        let mut lines = Lines::default();
        let look = |piece: &&[u8]| {
            let mut bytes = piece.to_vec();
            let refused = lines.refuse_bare_line_feeds(&mut bytes);
            assert_eq!(refused == Refused::No, bytes == *piece);
            bytes
        };
        pieces.iter().flat_map(look).collect()
    }

    #[test]
    fn only_a_bare_line_feed_is_changed() {
        assert_eq!(seen(&[b"a\r\nb\r\n\r\n"]), b"a\r\nb\r\n\r\n");
        assert_eq!(seen(&[b"a\nb\r\n\n"]), b"a\0b\r\n\0");
        // Every line feed is one to a parser, the one after a masked one too.
        assert_eq!(seen(&[b"\n", b"\r", b"\n", b"", b"\n\n"]), b"\0\r\n\0\0");
        let mut lines = Lines::default();
        let mut refused = || lines.refuse_bare_line_feeds(&mut b"\n\n".to_vec());
        assert_eq!([refused(), refused()], [Refused::First, Refused::Again]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(
            pieces in proptest::collection::vec(r"[ab\r\n]{0,5}", 0..6)
        ) {
            let whole = pieces.concat();
            let pieces = pieces.iter().map(String::as_bytes).collect::<Vec<_>>();
            let expected = whole.bytes().scan(0, |last, byte| {
                let is_bare = byte == b'\n' && *last != b'\r';
                *last = byte;
                Some(if is_bare { 0 } else { byte })
            });
            assert_eq!(seen(&pieces), expected.collect::<Vec<_>>());
        }
    }
}
