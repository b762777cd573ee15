//! HOSTILE.md over HTTP/2: names and values that HTTP/1 could not carry, bodies that nothing
//! announces. The origin is not asked, the connection stays sound or ends.

use super::client::get;
use super::edge::{DEADLINE, Edge};
use super::origin::Origin;
use std::io::{Read, Write};
use std::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Header fields, none of them in a table (RFC 7541 section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                block.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128 + 128).unwrap());
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

fn head<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", path)];
    fields.extend(more);
    fields
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The status, and the body's bytes.
    Answered(u16, Vec<u8>),
    /// RST_STREAM.
    Reset,
    /// GOAWAY, or the end of the connection.
    Gone,
}

struct Client {
    stream: TcpStream,
    next: u32,
}

impl Client {
    fn open(edge: &Edge) -> Self {
        let mut stream = TcpStream::connect(edge.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(PREFACE).unwrap();
        stream.write_all(&frame(4, 0, 0, b"")).unwrap();
        Self { stream, next: 1 }
    }

    fn send(&mut self, bytes: &[u8]) {
        // The other side may have closed.
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a request without a body; the answer's end.
    fn ask(&mut self, fields: &[(&str, &str)]) -> End {
        let stream = self.begin(fields, END_STREAM);
        self.end(stream)
    }

    /// Begins a request.
    fn begin(&mut self, fields: &[(&str, &str)], flags: u8) -> u32 {
        let stream = self.next;
        self.next += 2;
        self.send(&frame(1, flags | END_HEADERS, stream, &block(fields)));
        stream
    }

    /// Reads frames until the stream ends.
    fn end(&mut self, wanted: u32) -> End {
        let (mut status, mut body) = (0, Vec::new());
        loop {
            let mut head = [0; 9];
            if self.stream.read_exact(&mut head).is_err() {
                return End::Gone;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if self.stream.read_exact(&mut payload).is_err() {
                return End::Gone;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match head[3] {
                7 => return End::Gone,
                4 if head[4] == 0 => self.send(&frame(4, 1, 0, b"")),
                3 if stream == wanted => {
                    return if status == 0 { End::Reset } else { End::Answered(status, body) };
                }
                1 if stream == wanted => status = status_of(&payload),
                0 if stream == wanted => body.extend(&payload),
                _ => continue,
            }
            let is_of_it = matches!(head[3], 0 | 1) && stream == wanted;
            if is_of_it && head[4] & END_STREAM != 0 {
                return End::Answered(status, body);
            }
        }
    }
}

/// `:status`, which is the first field: from the static table (RFC 7541 appendix A), or a literal
/// with a name from it.
fn status_of(block: &[u8]) -> u16 {
    let known = [200, 204, 206, 304, 400, 404, 500];
    let mut block = block;
    // Updates of the table's size come first.
    while let [byte, rest @ ..] = block
        && byte & 0xe0 == 0x20
    {
        block = rest;
    }
    match block {
        [byte @ 0x88..=0x8e, ..] => known[usize::from(byte - 0x88)],
        [0x48, 3, a, b, c, ..] => {
            [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0'))
        }
        // In Huffman's code: two bytes for the statuses that have no 8 or 9.
        [0x48, length, code @ ..] if length & 0x80 != 0 => {
            huffman_digits(&code[..usize::from(length & 0x7f)])
        }
        _ => panic!("no status in {block:x?}"),
    }
}

/// Digits in the code of RFC 7541 appendix B: 0, 1 and 2 have five bits, 3 to 9 six.
fn huffman_digits(code: &[u8]) -> u16 {
    let bits = code.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let bits = bits.collect::<Vec<_>>();
    let (mut rest, mut number) = (&bits[..], 0);
    for _ in 0..3 {
        let value =
            |count: usize| rest[..count].iter().fold(0, |sum, bit| sum * 2 + u16::from(*bit));
        let (digit, count) = match value(5) {
            digit @ 0..=2 => (digit, 5),
            _ => (value(6) - 0x19 + 3, 6),
        };
        number = number * 10 + digit;
        rest = &rest[count..];
    }
    number
}

fn scene() -> (Origin, Edge) {
    let origin = Origin::start();
    let edge = Edge::of(origin.url());
    edge.process.stderr.wait(0, &["origin answers"]);
    assert_eq!(get(edge.address(), "/nix-cache-info").status, 200);
    (origin, edge)
}

#[test]
fn what_http1_could_not_carry_is_refused() {
    let (origin, edge) = scene();
    let asked = origin.requests().len();
    let info = "/nix-cache-info";
    let plain = |method, scheme, authority, path| {
        vec![(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
    };
    let mut rows = vec![
        head("/nar/a HTTP/1.1\r\nX: y", &[]),
        head("/nar/a\nb", &[]),
        head("/nar/a\0b", &[]),
        head("", &[]),
        head("nix-cache-info", &[]),
        head(info, &[("x", "a\r\nHost: evil")]),
        head(info, &[("x", "a\0b")]),
        head(info, &[("x\r\ny", "z")]),
        head(info, &[("X-Upper", "z")]),
        head(info, &[("x y", "z")]),
        head(info, &[("x:y", "z")]),
        head(info, &[("", "z")]),
        head(info, &[("transfer-encoding", "chunked")]),
        head(info, &[("connection", "keep-alive")]),
        head(info, &[("upgrade", "h2c")]),
        head(info, &[("content-length", "5")]),
        head(info, &[("content-length", "0"), ("content-length", "5")]),
        head(info, &[("host", "b.example")]),
        head(info, &[(":path", "/nar/second")]),
        head(info, &[("x", "y"), (":late", "z")]),
        head(info, &[("expect", "miracles")]),
        plain("GET", "http", "user@a.example", info),
        plain("GET", "http", "a.example:port", info),
        plain("GET", "http", "a b", info),
        plain("CONNECT", "http", "a.example", info),
        plain("TRACE", "http", "a.example", info),
        plain("GET / HTTP/1.1\r\nx", "http", "a.example", info),
    ];
    rows.push(vec![(":method", "CONNECT"), (":authority", "127.0.0.1:1")]);
    rows.push(vec![(":method", "GET"), (":scheme", "http"), (":path", info)]);
    for fields in rows {
        let end = Client::open(&edge).ask(&fields);
        let is_refused = match &end {
            End::Answered(status, _) => (400..500).contains(status),
            End::Reset | End::Gone => true,
        };
        assert!(is_refused, "{fields:?}: {end:?}");
        assert_eq!(origin.requests().len(), asked, "{fields:?}");
        let body = super::origin::CACHE_INFO.as_bytes().to_vec();
        assert_eq!(Client::open(&edge).ask(&head(info, &[])), End::Answered(200, body));
    }
}

/// A body that no field announces: its end comes with a later frame, or never.
#[test]
fn a_body_that_nothing_announces_harms_nobody() {
    let (origin, edge) = scene();
    let asked = origin.requests().len();
    let info = super::origin::CACHE_INFO.as_bytes().to_vec();
    let mut client = Client::open(&edge);
    for round in 0..40 {
        let stream = client.begin(&head("/nix-cache-info", &[]), 0);
        // More than a stream's first window in all: what is not read must not eat the
        // connection's window.
        let data = frame(0, 0, stream, &[b'x'; 16_000]);
        client.send(&data);
        client.send(&frame(0, END_STREAM, stream, b"GET /nar/smuggled.nar HTTP/1.1\r\n\r\n"));
        let end = client.end(stream);
        let is_sound = match &end {
            End::Answered(200, body) => *body == info,
            End::Answered(status, _) => *status == 400,
            End::Reset => true,
            End::Gone => false,
        };
        assert!(is_sound, "round {round}: {end:?}");
    }
    assert_eq!(client.ask(&head("/nix-cache-info", &[])), End::Answered(200, info.clone()));
    assert_eq!(origin.requests().len(), asked);
    // One that never ends gets its answer all the same.
    let stream = client.begin(&head("/nix-cache-info", &[]), 0);
    assert!(matches!(client.end(stream), End::Answered(200 | 400, _) | End::Reset));
    assert_eq!(client.ask(&head("/nix-cache-info", &[])), End::Answered(200, info));
    assert_eq!(edge.metric("narthex_request_panics_total", &[]), 0);
}

#[test]
fn a_bomb_of_fields_ends_its_stream_or_connection() {
    let (origin, edge) = scene();
    let asked = origin.requests().len();
    let long = "y".repeat(9_000);
    let two = [("x", long.as_str()), ("z", long.as_str())];
    let names = (0..65).map(|number| format!("x-{number}")).collect::<Vec<_>>();
    let many = names.iter().map(|name| (name.as_str(), "y")).collect::<Vec<_>>();
    for more in [&two[..], &many[..]] {
        let mut client = Client::open(&edge);
        let fields = head("/nix-cache-info", more);
        // In frames of the size that every peer takes.
        let block = block(&fields);
        let mut parts = block.chunks(16_000).peekable();
        let first = parts.next().unwrap();
        let ends = |is_last: bool| if is_last { END_HEADERS } else { 0 };
        client.send(&frame(1, END_STREAM | ends(parts.peek().is_none()), 1, first));
        while let Some(part) = parts.next() {
            client.send(&frame(9, ends(parts.peek().is_none()), 1, part));
        }
        let end = client.end(1);
        assert!(!matches!(end, End::Answered(200, _)), "{end:?}");
        assert_eq!(get(edge.address(), "/nix-cache-info").status, 200);
    }
    assert_eq!(origin.requests().len(), asked);
}
