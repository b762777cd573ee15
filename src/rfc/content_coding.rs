//! Content codings (RFC 9110 section 8.4, RFC 7932, RFC 8878) and the plain bytes under them. Pure;
//! blocking for some milliseconds at most. Called by `fill` for small bodies.
//!
//! What comes out is bounded while it is decoded, and so is the memory that a decoder takes: a body
//! that unpacks to gigabytes, or asks for a window of them, is refused.

use super::grammar;
use brotli_decompressor::Decompressor;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use std::io::{self, Read};
use zstd::stream::read::Decoder as ZstdDecoder;

/// Codings that one body may have on top of each other.
const CODINGS_MAX: usize = 2;
/// The window of a body under zstd, as a power of two: RFC 9659 permits no more than 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Memory that the decoder of xz may take, in bytes: enough for its largest preset.
const XZ_MEMORY_MAX: u64 = 80 << 20;
/// Bytes that the decoder of brotli reads at once.
const BROTLI_BUFFER: usize = 4096;

/// A coding that can be taken off a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCoding {
    /// `gzip`, or `x-gzip`.
    Gzip,
    /// `deflate`: the zlib format.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
    /// `xz`. It is not registered; Nix and its caches use it.
    Xz,
}

/// The codings of one body, in the order in which they were applied. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentCodings(Vec<ContentCoding>);

/// Why a body has no plain form here.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It unpacks to more than is permitted.
    #[error("it unpacks to more than {max} bytes")]
    TooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// It is not a whole body of its coding.
    #[error("it is not a whole body of the coding {}: {source}", .coding.as_str())]
    Broken {
        /// The coding that it should have.
        coding: ContentCoding,
        /// What the decoder said.
        source: io::Error,
    },
}

impl ContentCoding {
    /// The name in `Content-Encoding`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"x-gzip") {
            return Some(Self::Gzip);
        }
        [Self::Gzip, Self::Deflate, Self::Brotli, Self::Zstd, Self::Xz]
            .into_iter()
            .find(|coding| name.eq_ignore_ascii_case(coding.as_str().as_bytes()))
    }

    /// Takes this coding off `body`, which has at most `max` plain bytes.
    fn decode(self, body: &[u8], max: usize) -> Result<Vec<u8>, DecodeError> {
        let broken = |source| DecodeError::Broken { coding: self, source };
        let read = match self {
            Self::Gzip => read_to(MultiGzDecoder::new(body), max),
            Self::Deflate => read_to(ZlibDecoder::new(body), max),
            Self::Brotli => read_to(Decompressor::new(body, BROTLI_BUFFER), max),
            Self::Zstd => zstd(body).and_then(|decoder| read_to(decoder, max)),
            Self::Xz => xz(body).and_then(|decoder| read_to(decoder, max)),
        };
        let plain = read.map_err(broken)?;
        if plain.len() > max { Err(DecodeError::TooLarge { max }) } else { Ok(plain) }
    }
}

impl ContentCodings {
    /// Those of a body with these fields. `None` if it has none, one that is not known, or too many
    /// of them.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(header::CONTENT_ENCODING).iter();
        let names = lines.flat_map(|line| grammar::list_members(line.as_bytes()));
        let names = names.filter(|name| !name.eq_ignore_ascii_case(b"identity"));
        let codings = names.map(ContentCoding::named).collect::<Option<Vec<_>>>()?;
        (1..=CODINGS_MAX).contains(&codings.len()).then_some(Self(codings))
    }

    /// The plain bytes of `body`, at most `max` of them.
    pub fn decode(&self, body: &[u8], max: usize) -> Result<Vec<u8>, DecodeError> {
        let mut plain = body.to_vec();
        for coding in self.0.iter().rev() {
            plain = coding.decode(&plain, max)?;
        }
        Ok(plain)
    }
}

/// Reads one byte more than `max` at most.
fn read_to(decoder: impl Read, max: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(limit).read_to_end(&mut plain)?;
    Ok(plain)
}

fn zstd(body: &[u8]) -> io::Result<ZstdDecoder<'_, io::BufReader<&[u8]>>> {
    let mut decoder = ZstdDecoder::new(body)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn xz(body: &[u8]) -> io::Result<XzDecoder<&[u8]>> {
    let stream = Stream::new_stream_decoder(XZ_MEMORY_MAX, CONCATENATED)?;
    Ok(XzDecoder::new_stream(body, stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::{GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use liblzma::read::XzEncoder;
    use proptest::prelude::{any, proptest};

    const TEXT: &[u8] = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";
    const MAX: usize = 1 << 20;
    /// `brotli -q 11` of [`TEXT`].
    const TEXT_UNDER_BROTLI: &[u8] = &[
        0x0f, 0x19, 0x80, 0x53, 0x74, 0x6f, 0x72, 0x65, 0x44, 0x69, 0x72, 0x3a, 0x20, 0x2f, 0x6e,
        0x69, 0x78, 0x2f, 0x73, 0x74, 0x6f, 0x72, 0x65, 0x0a, 0x57, 0x61, 0x6e, 0x74, 0x4d, 0x61,
        0x73, 0x73, 0x51, 0x75, 0x65, 0x72, 0x79, 0x3a, 0x20, 0x31, 0x0a, 0x50, 0x72, 0x69, 0x6f,
        0x72, 0x69, 0x74, 0x79, 0x3a, 0x20, 0x34, 0x30, 0x0a, 0x03,
    ];
    /// `brotli -q 11` of 4,000,000 zeros.
    const ZEROS_UNDER_BROTLI: &[u8] =
        &[0x9f, 0xff, 0x08, 0x3d, 0xf8, 0x27, 0x00, 0xe2, 0xb1, 0x40, 0x20, 0x17, 0xa0, 0x07];

    fn all(mut reader: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn under(coding: ContentCoding, body: &[u8]) -> Option<Vec<u8>> {
        Some(match coding {
            ContentCoding::Gzip => all(GzEncoder::new(body, Compression::fast())),
            ContentCoding::Deflate => all(ZlibEncoder::new(body, Compression::fast())),
            ContentCoding::Zstd => zstd::encode_all(body, 1).unwrap(),
            ContentCoding::Xz => all(XzEncoder::new(body, 0)),
            ContentCoding::Brotli => return None,
        })
    }

    fn codings(lines: &[&'static str]) -> Option<ContentCodings> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(line));
        }
        ContentCodings::of(&headers)
    }

    const PACKED: [ContentCoding; 4] =
        [ContentCoding::Gzip, ContentCoding::Deflate, ContentCoding::Zstd, ContentCoding::Xz];

    #[test]
    fn each_coding_is_taken_off() {
        for coding in PACKED {
            let packed = under(coding, TEXT).unwrap();
            let plain = codings(&[coding.as_str()]).unwrap().decode(&packed, MAX);
            assert_eq!(plain.unwrap(), TEXT, "{coding:?}");
        }
        let plain = codings(&["br"]).unwrap().decode(TEXT_UNDER_BROTLI, MAX);
        assert_eq!(plain.unwrap(), TEXT);
    }

    #[test]
    fn the_last_coding_is_taken_off_first() {
        let packed = under(ContentCoding::Gzip, TEXT_UNDER_BROTLI).unwrap();
        for lines in [&["br, X-GZIP"][..], &["br", "gzip"], &["br", "identity, gzip"]] {
            assert_eq!(codings(lines).unwrap().decode(&packed, MAX).unwrap(), TEXT, "{lines:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_to_the_caller() {
        for lines in [&[][..], &["identity"], &["lzip"], &["gzip, lzip"], &["br, br, br"]] {
            assert_eq!(codings(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 4_000_000];
        let packed = PACKED.map(|coding| (coding, under(coding, &zeros).unwrap()));
        let brotli = (ContentCoding::Brotli, ZEROS_UNDER_BROTLI.to_vec());
        for (coding, body) in packed.into_iter().chain([brotli]) {
            assert!(body.len() < 40_000, "{coding:?}");
            let decoded = coding.decode(&body, MAX);
            assert!(matches!(decoded, Err(DecodeError::TooLarge { max: MAX })), "{coding:?}");
            assert_eq!(coding.decode(&body, zeros.len()).unwrap(), zeros, "{coding:?}");
        }
        // A window of 128 MiB.
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        io::Write::write_all(&mut encoder, TEXT).unwrap();
        let wide = encoder.finish().unwrap();
        let decoded = ContentCoding::Zstd.decode(&wide, MAX);
        assert!(matches!(decoded, Err(DecodeError::Broken { .. })));
    }

    #[test]
    fn a_body_that_is_cut_is_never_plain() {
        let packed = PACKED.map(|coding| (coding, under(coding, TEXT).unwrap()));
        let brotli = (ContentCoding::Brotli, TEXT_UNDER_BROTLI.to_vec());
        for (coding, body) in packed.into_iter().chain([brotli]) {
            for length in 1..body.len() {
                let decoded = coding.decode(&body[..length], MAX);
                assert!(decoded.is_err(), "{coding:?} {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(body in any::<Vec<u8>>()) {
            for coding in PACKED.into_iter().chain([ContentCoding::Brotli]) {
                if let Ok(plain) = coding.decode(&body, 100) {
                    assert!(plain.len() <= 100);
                }
            }
        }
    }
}
