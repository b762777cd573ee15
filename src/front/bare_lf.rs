//! A filter in front of HTTP/1: no line of a head ends in a bare line feed. Bodies pass unchanged.
//! Pure; one for each connection, fed by `socket` with all that it reads. It imports no other
//! module, since `tests/fuzz` takes this file in by path.

/// Bytes of a line that are kept: the fields that tell the length of a body are shorter.
const LINE_BYTES_MAX: usize = 256;

/// Follows the lines of HTTP/1. A line feed alone ends a line for hyper (RFC 9112 section 2.2
/// allows that), but not for every proxy in front of Narthex. Such a proxy would see one request,
/// and hyper two. The filter learns from the heads where heads and bodies begin, as hyper does. If
/// a head does not tell, hyper refuses the request, and the filter changes nothing more.
#[derive(Debug, Default)]
pub(super) struct BareLfFilter {
    part: MessagePart,
    /// The beginning of the present line.
    line: Vec<u8>,
    /// Bytes of that line.
    length: usize,
    last_byte: u8,
    framing: Framing,
    was_refused: bool,
}

/// Which part of a message the next byte belongs to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum MessagePart {
    /// The first line of a request, or empty lines before it.
    #[default]
    Start,
    /// The other lines of a head.
    Head,
    /// A body, and how many of its bytes are missing.
    Body(u64),
    /// The line in front of a chunk.
    ChunkSize,
    /// A chunk and the line end behind it, and how many of these bytes are missing.
    Chunk(u64),
    /// The lines behind the last chunk.
    Trailers,
    /// Something that hyper refuses.
    Unknown,
}

/// What a head says about the body behind it.
#[derive(Debug, Default, Clone, Copy)]
struct Framing {
    length: Option<u64>,
    is_chunked: Option<bool>,
    is_unclear: bool,
}

impl Framing {
    /// Reads a line of so many bytes. `line` may lack its end.
    fn see(&mut self, line: &[u8], length: usize) {
        let is_whole = line.len().saturating_add(2) == length;
        let Some(colon) = memchr::memchr(b':', line) else { return };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("content-length") {
            let digits = Some(value).filter(|value| value.iter().all(u8::is_ascii_digit));
            let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
            self.length = digits.and_then(|digits| digits.parse().ok());
            self.is_unclear |= self.length.is_none() || !is_whole;
        } else if is("transfer-encoding") {
            let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            self.is_chunked = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            self.is_unclear |= !is_whole;
        }
    }

    /// What comes behind the head.
    fn next(self) -> MessagePart {
        match (self.is_unclear, self.is_chunked, self.length) {
            (true, ..) | (false, Some(false), _) => MessagePart::Unknown,
            (false, Some(true), _) => MessagePart::ChunkSize,
            (false, None, None | Some(0)) => MessagePart::Start,
            (false, None, Some(length)) => MessagePart::Body(length),
        }
    }
}

/// The part behind the line in front of a chunk.
fn chunk(line: &[u8]) -> MessagePart {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    let size = std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    match (size, rest.first()) {
        (Some(0), None | Some(b' ' | b'\t' | b';')) => MessagePart::Trailers,
        (Some(size), None | Some(b' ' | b'\t' | b';')) => {
            MessagePart::Chunk(size.saturating_add(2))
        }
        _ => MessagePart::Unknown,
    }
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

/// Whether a piece of a line is its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PieceEnd {
    /// It ends in a line feed.
    Line,
    /// More of the line comes.
    Nothing,
}

/// Whether a bare line feed was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BareLf {
    /// None.
    No,
    /// The first of the connection.
    First,
    /// A later one.
    Again,
}

impl BareLfFilter {
    /// Replaces each line feed of a head that has no carriage return before it by NUL, which no
    /// parser accepts.
    pub(super) fn refuse_bare_line_feeds(&mut self, bytes: &mut [u8]) -> BareLf {
        let (mut refused, mut rest) = (BareLf::No, bytes);
        while !rest.is_empty() {
            let taken = match self.part {
                MessagePart::Unknown => return refused,
                MessagePart::Body(left) | MessagePart::Chunk(left) => self.skip(left, rest.len()),
                MessagePart::Start
                | MessagePart::Head
                | MessagePart::ChunkSize
                | MessagePart::Trailers => {
                    let end = memchr::memchr(b'\n', rest);
                    let taken = end.map_or(rest.len(), |at| at.saturating_add(1));
                    let line = rest.get_mut(..taken).unwrap_or_default();
                    let ends = if end.is_some() { PieceEnd::Line } else { PieceEnd::Nothing };
                    if self.refuses(line, ends) {
                        refused = self.note(refused);
                    }
                    taken
                }
            };
            rest = rest.get_mut(taken..).unwrap_or_default();
        }
        refused
    }

    /// Whether the bytes so far end with a whole request, or there are none.
    pub(super) fn is_between_requests(&self) -> bool {
        self.part == MessagePart::Start && self.length == 0
    }

    /// Passes over a body or a chunk that lacks `left` bytes; at most `here` of them have come.
    fn skip(&mut self, left: u64, here: usize) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(here);
        let left = left.saturating_sub(taken as u64);
        self.part = match (self.part, left) {
            (MessagePart::Chunk(_), 0) => MessagePart::ChunkSize,
            (MessagePart::Chunk(_), left) => MessagePart::Chunk(left),
            (_, 0) => MessagePart::Start,
            (_, left) => MessagePart::Body(left),
        };
        taken
    }

    /// Takes a piece of a line. Returns whether its line feed was made a NUL.
    fn refuses(&mut self, piece: &mut [u8], ends: PieceEnd) -> bool {
        let Some((last, before)) = piece.split_last_mut() else { return false };
        let is_end =
            ends == PieceEnd::Line && before.last().copied().unwrap_or(self.last_byte) == b'\r';
        let is_bare = ends == PieceEnd::Line && !is_end;
        if is_bare && self.part == MessagePart::ChunkSize {
            // hyper takes none in front of a chunk.
            self.part = MessagePart::Unknown;
            return false;
        }
        if is_bare {
            *last = 0;
        }
        self.last_byte = *last;
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len()).min(piece.len());
        let (kept, is_first) = (piece.get(..room).unwrap_or_default(), self.length == 0);
        if is_end && is_first {
            self.end_line(kept, piece.len());
            return false;
        }
        self.length = self.length.saturating_add(piece.len());
        self.line.extend_from_slice(kept);
        if is_end {
            let (mut line, length) =
                (std::mem::take(&mut self.line), std::mem::take(&mut self.length));
            self.end_line(&line, length);
            line.clear();
            self.line = line;
        }
        is_bare
    }

    /// Goes on after a line of so many bytes that ended in CRLF.
    fn end_line(&mut self, line: &[u8], length: usize) {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        self.part = match (self.part, line.is_empty()) {
            (MessagePart::Start | MessagePart::Trailers, true) => MessagePart::Start,
            (MessagePart::Start, false) => MessagePart::Head,
            (MessagePart::Head, true) => std::mem::take(&mut self.framing).next(),
            (MessagePart::Head, false) => {
                self.framing.see(line, length);
                MessagePart::Head
            }
            (MessagePart::ChunkSize, _) => chunk(line),
            (part, _) => part,
        };
        self.last_byte = 0;
    }

    fn note(&mut self, refused: BareLf) -> BareLf {
        let was_refused = std::mem::replace(&mut self.was_refused, true);
        match refused {
            BareLf::No if was_refused => BareLf::Again,
            BareLf::No => BareLf::First,
            BareLf::First | BareLf::Again => refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::proptest;

    fn seen(pieces: &[&[u8]]) -> Vec<u8> {
        let mut lines = BareLfFilter::default();
        let look = |piece: &&[u8]| {
            let mut bytes = piece.to_vec();
            let refused = lines.refuse_bare_line_feeds(&mut bytes);
            assert_eq!(refused == BareLf::No, bytes == *piece);
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
        let mut lines = BareLfFilter::default();
        let mut refused = || lines.refuse_bare_line_feeds(&mut b"\n\n".to_vec());
        assert_eq!([refused(), refused()], [BareLf::First, BareLf::Again]);
    }

    fn is_passed(text: &[u8]) -> bool {
        let pieces: Vec<_> = text.chunks(1).collect();
        seen(&[text]) == text && seen(&pieces) == text
    }

    #[test]
    fn bodies_pass_as_they_are_and_heads_behind_them_do_not() {
        let body = b"\n\r\n\r\n\na\n";
        let plain = |name: &str| {
            let head = format!("\r\nPUT / HTTP/1.1\r\nHost: h\r\n{name}: {}\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        };
        let chunked = |line: &str, trailers: &str| {
            let head = format!("POST / HTTP/1.1\r\n{line}\r\n\r\n8;x=y\r\n");
            let end = format!("\r\n0\r\n{trailers}\r\n");
            [head.as_bytes(), body, end.as_bytes()].concat()
        };
        assert_eq!(body.len(), 8);
        for message in [
            plain("Content-Length"),
            plain("content-LENGTH"),
            chunked("Transfer-Encoding: chunked", ""),
            chunked("transfer-encoding:gzip ,  Chunked\t", "a: b\r\nc: d\r\n"),
            chunked("Content-Length: 3\r\nTransfer-Encoding: chunked", ""),
        ] {
            let mut lines = BareLfFilter::default();
            for part in message.chunks(message.len() / 2) {
                assert_eq!(lines.is_between_requests(), part.as_ptr() == message.as_ptr());
                lines.refuse_bare_line_feeds(&mut part.to_vec());
            }
            assert!(lines.is_between_requests());
            let twice = message.repeat(2);
            assert!(is_passed(&twice), "{}", String::from_utf8_lossy(&twice));
            let behind = [&message[..], b"GET / HTTP/1.1\nHost: h\n\n"].concat();
            let seen = seen(&[&behind]);
            assert_eq!(seen[..message.len()], message);
            assert_eq!(&seen[message.len()..], b"GET / HTTP/1.1\0Host: h\0\0");
        }
        let trailers = chunked("Transfer-Encoding: chunked", "a: b\nc: d\r\n");
        let masked = [&trailers[..trailers.len() - 9], b"\0c: d\r\n\r\n"].concat();
        assert_eq!(seen(&[&trailers]), &masked[..]);
    }

    #[test]
    fn nothing_is_changed_behind_what_hyper_refuses() {
        for line in ["Content-Length: +3", "Content-Length: 3, 3", "Transfer-Encoding: gzip"] {
            assert!(
                is_passed(format!("PUT / HTTP/1.1\r\n{line}\r\n\r\n\n\n").as_bytes()),
                "{line}"
            );
        }
        let long = format!("Content-Length:{}3", " ".repeat(LINE_BYTES_MAX));
        assert!(is_passed(format!("PUT / HTTP/1.1\r\n{long}\r\n\r\n\n\n").as_bytes()));
        for size in ["x", "", "3 \n", "fffffffffffffffff"] {
            let head = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            assert!(is_passed(format!("{head}{size}\r\n\n\n").as_bytes()), "{size:?}");
        }
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
