//! The NAR in a file at the `URL` of a narinfo, which may be compressed: whether it is the one that
//! the narinfo promises, told from pieces of the file in their order. Pure; takes CPU time in
//! proportion to the NAR, and memory for the window of the format.
//!
//! Files are read as Nix reads them (`src/libutil/compression.cc`): "none" and "br" are believed,
//! any other `Compression` means what the first bytes of the file say. Not one byte is decompressed
//! beyond `NarSize`.

use aws_lc_rs::digest;
use brotli_decompressor::DecompressorWriter;
use bzip2::write::BzDecoder;
use flate2::write::MultiGzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use liblzma::write::XzDecoder;
use std::io::{self, Write};
use zstd::stream::{raw, zio};

/// What an xz stream may need: `xz -9` needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 128 << 20;
/// First bytes that tell the format of any file.
const MAGIC_BYTES: usize = 6;
const BROTLI_BUFFER_BYTES: usize = 64 << 10;

/// What a narinfo says of the NAR in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NarContents {
    /// `NarHash`, SHA-256 of the NAR.
    pub sha256: [u8; 32],
    /// `NarSize` in bytes.
    pub bytes: u64,
    /// `Compression`.
    pub compression: NarCompression,
}

/// What `Compression` says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum NarCompression {
    /// "none": the file is the NAR.
    None,
    /// "br", which has no mark.
    Brotli,
    /// "xz". The file tells, as for all that follow.
    Xz,
    /// "zstd".
    Zstd,
    /// "bzip2".
    Bzip2,
    /// "gzip".
    Gzip,
    /// Any other.
    Other,
}

impl NarCompression {
    /// What this value of `Compression` says.
    pub fn of(text: &str) -> Self {
        match text {
            "none" => Self::None,
            "br" => Self::Brotli,
            "xz" => Self::Xz,
            "zstd" => Self::Zstd,
            "bzip2" => Self::Bzip2,
            "gzip" => Self::Gzip,
            _ => Self::Other,
        }
    }
}

/// What turned out of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NarVerdict {
    /// It holds the NAR that the narinfo promises, and is whole.
    Right,
    /// It does not.
    Wrong(NarFileError),
    /// It is of a format that cannot be read here.
    Unreadable,
}

impl NarVerdict {
    /// The same, of a file that from this offset on came in an answer that nothing ties to the one
    /// before: only readable contents tell that its parts belong together.
    pub fn of_parts(self, untied_from: Option<u64>) -> Self {
        match (self, untied_from) {
            (Self::Unreadable, Some(_)) => Self::Wrong(NarFileError::Untied),
            (verdict, _) => verdict,
        }
    }
}

/// Why a file does not hold its NAR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarFileError {
    /// It cannot be decompressed, or not to its end.
    #[error("cannot be decompressed: {0}")]
    Broken(String),
    /// The NAR goes on.
    #[error("holds more than the {limit} bytes that its narinfo says")]
    Long {
        /// `NarSize` in bytes.
        limit: u64,
    },
    /// Nothing tells that its parts are of one file.
    #[error("came in parts, and is of a format that cannot be read to prove it")]
    Untied,
    /// The NAR is another one.
    #[error("holds {bytes} bytes that do not have the NarHash of its narinfo")]
    OtherContents {
        /// Bytes of the NAR.
        bytes: u64,
    },
}

/// A file of which some pieces have come.
pub struct NarFile {
    contents: NarContents,
    decoder: NarDecoder,
}

enum NarDecoder {
    /// Too little has come to tell the format.
    Undetected(Vec<u8>),
    Plain(NarSink),
    Xz(Box<XzDecoder<NarSink>>),
    Zstd(Box<zio::Writer<NarSink, raw::Decoder<'static>>>),
    Gzip(Box<MultiGzDecoder<NarSink>>),
    Bzip2(Box<BzDecoder<NarSink>>),
    Brotli(Box<DecompressorWriter<NarSink>>),
    Unreadable,
    /// A piece was refused.
    Failed(NarFileError),
}

/// Takes the NAR.
struct NarSink {
    digest: digest::Context,
    bytes: u64,
    limit: u64,
}

/// Told through `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct LongNar(u64);

impl std::fmt::Debug for NarFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NarFile").field("contents", &self.contents).finish_non_exhaustive()
    }
}

impl NarFile {
    /// A file that is to hold `contents`, of which nothing has come.
    pub fn new(contents: NarContents) -> Self {
        let sink = NarSink::new(contents.bytes);
        let decoder = match contents.compression {
            NarCompression::None => NarDecoder::Plain(sink),
            NarCompression::Brotli => {
                NarDecoder::Brotli(Box::new(DecompressorWriter::new(sink, BROTLI_BUFFER_BYTES)))
            }
            NarCompression::Xz
            | NarCompression::Zstd
            | NarCompression::Bzip2
            | NarCompression::Gzip
            | NarCompression::Other => NarDecoder::Undetected(Vec::new()),
        };
        Self { contents, decoder }
    }

    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        let pushed = match &mut self.decoder {
            NarDecoder::Undetected(head) => {
                head.extend_from_slice(bytes);
                if head.len() < MAGIC_BYTES {
                    return;
                }
                return self.detect();
            }
            NarDecoder::Plain(sink) => sink.write_all(bytes),
            NarDecoder::Xz(decoder) => decoder.write_all(bytes),
            NarDecoder::Zstd(decoder) => decoder.write_all(bytes),
            NarDecoder::Gzip(decoder) => decoder.write_all(bytes),
            NarDecoder::Bzip2(decoder) => push_bzip2(decoder, bytes),
            NarDecoder::Brotli(decoder) => decoder.write_all(bytes),
            NarDecoder::Unreadable | NarDecoder::Failed(_) => Ok(()),
        };
        if let Err(error) = pushed {
            self.decoder = if needs_more_memory(&error) {
                NarDecoder::Unreadable
            } else {
                NarDecoder::Failed(NarFileError::from(error))
            };
        }
    }

    /// The file has ended.
    pub fn finish(mut self) -> NarVerdict {
        if matches!(self.decoder, NarDecoder::Undetected(_)) {
            self.detect();
        }
        let ended = match self.decoder {
            NarDecoder::Unreadable => return NarVerdict::Unreadable,
            NarDecoder::Failed(error) => return NarVerdict::Wrong(error),
            NarDecoder::Undetected(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            NarDecoder::Plain(sink) => Ok(sink),
            NarDecoder::Xz(decoder) => decoder.finish(),
            NarDecoder::Zstd(mut decoder) => decoder.finish().map(|()| decoder.into_inner().0),
            NarDecoder::Gzip(decoder) => decoder.finish(),
            NarDecoder::Bzip2(mut decoder) => decoder.finish(),
            NarDecoder::Brotli(mut decoder) => decoder.close().and_then(|()| {
                decoder.into_inner().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))
            }),
        };
        match ended {
            Ok(sink) => sink.judge(&self.contents),
            Err(error) => NarVerdict::Wrong(NarFileError::from(error)),
        }
    }

    /// Goes on by what the first bytes say.
    fn detect(&mut self) {
        let NarDecoder::Undetected(head) = &mut self.decoder else { return };
        let (head, sink) = (std::mem::take(head), NarSink::new(self.contents.bytes));
        self.decoder = match NarDecoder::of(&head, sink) {
            Ok(decoder) => decoder,
            Err(error) => NarDecoder::Failed(NarFileError::from(error)),
        };
        self.push(&head);
    }
}

impl NarDecoder {
    /// By the first bytes of a file.
    fn of(head: &[u8], sink: NarSink) -> io::Result<Self> {
        Ok(match head {
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_MAX, CONCATENATED)?;
                Self::Xz(Box::new(XzDecoder::new_stream(sink, stream)))
            }
            // A frame, or one to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Self::Zstd(Box::new(zio::Writer::new(sink, raw::Decoder::new()?)))
            }
            [0x1f, 0x8b, ..] => Self::Gzip(Box::new(MultiGzDecoder::new(sink))),
            [b'B', b'Z', b'h', ..] => Self::Bzip2(Box::new(BzDecoder::new(sink))),
            // lz4, lzip, lzop, lrzip, compress, and the xz of old.
            [0x04, 0x22, 0x4d, 0x18, ..]
            | [b'L', b'Z', b'I', b'P', ..]
            | [0x89, b'L', b'Z', b'O', ..]
            | [b'L', b'R', b'Z', b'I', ..]
            | [0x1f, 0x9d, ..]
            | [0x5d, 0, 0, ..] => Self::Unreadable,
            _ => Self::Failed(NarFileError::Broken("no known compression".to_owned())),
        })
    }
}

/// Whether an xz stream needs more than [`XZ_MEMORY_MAX`].
fn needs_more_memory(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>());
    inner == Some(&liblzma::stream::Error::MemLimit)
}

/// One stream may follow another.
fn push_bzip2(decoder: &mut BzDecoder<NarSink>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let taken = decoder.write(bytes)?;
        if taken == 0 {
            let sink = decoder.finish()?;
            *decoder = BzDecoder::new(sink);
        }
        bytes = bytes.get(taken..).unwrap_or_default();
    }
    Ok(())
}

impl NarSink {
    fn new(limit: u64) -> Self {
        Self { digest: digest::Context::new(&digest::SHA256), bytes: 0, limit }
    }

    fn judge(self, contents: &NarContents) -> NarVerdict {
        if self.bytes == contents.bytes && self.digest.finish().as_ref() == contents.sha256 {
            NarVerdict::Right
        } else {
            NarVerdict::Wrong(NarFileError::OtherContents { bytes: self.bytes })
        }
    }
}

impl Write for NarSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > self.limit {
            return Err(io::Error::other(LongNar(self.limit)));
        }
        self.digest.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<io::Error> for NarFileError {
    fn from(error: io::Error) -> Self {
        let long = error.get_ref().and_then(|inner| inner.downcast_ref::<LongNar>());
        match long {
            Some(LongNar(limit)) => Self::Long { limit: *limit },
            None => Self::Broken(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const NAR: &[u8] = b"nix-archive-1 and what is inside of it, again and again and again";

    fn contents(compression: NarCompression) -> NarContents {
        let sha256 = digest::digest(&digest::SHA256, NAR).as_ref().try_into().unwrap();
        NarContents { sha256, bytes: NAR.len() as u64, compression }
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut made = Vec::new();
        liblzma::read::XzEncoder::new(bytes, 6).read_to_end(&mut made).unwrap();
        made
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut made = Vec::new();
        let level = flate2::Compression::default();
        flate2::read::GzEncoder::new(bytes, level).read_to_end(&mut made).unwrap();
        made
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut made = Vec::new();
        let level = ::bzip2::Compression::default();
        ::bzip2::read::BzEncoder::new(bytes, level).read_to_end(&mut made).unwrap();
        made
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ::zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// What turns out of `file` in pieces of `size` bytes.
    fn judge(file: &[u8], size: usize, compression: NarCompression) -> NarVerdict {
        let mut judged = NarFile::new(contents(compression));
        file.chunks(size).for_each(|piece| judged.push(piece));
        judged.finish()
    }

    fn formats() -> Vec<(&'static str, Vec<u8>)> {
        let (one, two) = NAR.split_at(20);
        let twice = |of: fn(&[u8]) -> Vec<u8>| [of(one), of(two)].concat();
        vec![
            ("xz", xz(NAR)),
            ("gzip", gzip(NAR)),
            ("bzip2", bzip2(NAR)),
            ("zstd", zstd(NAR)),
            ("two of xz", twice(xz)),
            ("two of gzip", twice(gzip)),
            ("two of bzip2", twice(bzip2)),
            ("two of zstd", twice(zstd)),
        ]
    }

    #[test]
    fn every_format_is_read_in_pieces_of_every_size() {
        for (name, file) in formats() {
            for size in [1, 2, 5, 7, file.len()] {
                let verdict = judge(&file, size, NarCompression::Xz);
                assert_eq!(verdict, NarVerdict::Right, "{name} in pieces of {size}");
            }
        }
        assert_eq!(judge(NAR, 7, NarCompression::None), NarVerdict::Right);
        assert_ne!(judge(NAR, 7, NarCompression::Xz), NarVerdict::Right);
    }

    #[test]
    fn what_is_cut_or_damaged_is_wrong() {
        for (name, file) in formats() {
            for cut in 0..file.len() {
                let verdict = judge(&file[..cut], 16, NarCompression::Xz);
                assert!(
                    matches!(verdict, NarVerdict::Wrong(_)),
                    "{name} cut at {cut}: {verdict:?}"
                );
            }
            let mut missed = 0;
            for at in 0..file.len() {
                let mut damaged = file.clone();
                damaged[at] ^= 0x10;
                let verdict = judge(&damaged, 16, NarCompression::Xz);
                missed += usize::from(verdict == NarVerdict::Right);
            }
            // A few bits of a head say nothing of the contents: the time in a gzip head, flags.
            assert!(missed <= 16, "{name}: {missed} of {}", file.len());
        }
    }

    #[test]
    fn a_bomb_ends_at_its_size() {
        let zeros = vec![0; 8 << 20];
        for file in [xz(&zeros), gzip(&zeros), bzip2(&zeros), zstd(&zeros)] {
            let verdict = judge(&file, file.len(), NarCompression::Xz);
            let limit = NAR.len() as u64;
            assert_eq!(verdict, NarVerdict::Wrong(NarFileError::Long { limit }));
        }
    }

    #[test]
    fn pages_and_nothing_are_wrong_and_foreign_formats_unreadable() {
        for file in [&b""[..], b"<html>", b"<", b"Not found"] {
            for compression in [NarCompression::Xz, NarCompression::None, NarCompression::Brotli] {
                let verdict = judge(file, 3, compression);
                assert!(matches!(verdict, NarVerdict::Wrong(_)), "{compression:?} {verdict:?}");
            }
        }
        let lz4 = [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7];
        assert_eq!(judge(&lz4, 1, NarCompression::Xz), NarVerdict::Unreadable);
    }

    /// Made by `brotli`.
    #[test]
    fn brotli_is_read_if_the_narinfo_names_it() {
        let file = [0x8f, 0x02, 0x80, b'N', b'A', b'R', b'b', b'y', b't', 0x03];
        let sha256 = digest::digest(&digest::SHA256, b"NARbyt").as_ref().try_into().unwrap();
        let contents = NarContents { sha256, bytes: 6, compression: NarCompression::Brotli };
        for (cut, is_right) in [(file.len(), true), (5, false)] {
            let mut judged = NarFile::new(contents);
            file[..cut].iter().for_each(|byte| judged.push(&[*byte]));
            assert_eq!(judged.finish() == NarVerdict::Right, is_right, "{cut}");
        }
    }
}
