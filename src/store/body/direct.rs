//! Reading a body file past the page cache, for the checks of what is stored: a page that lies in
//! memory says nothing about the disk, and a check of everything must not push out what clients
//! ask for. Owned by one check of one file; no locks; blocking.
//!
//! `O_DIRECT` does both. If a file system does not know it (a tmpfs has no disk below it), the
//! page cache is asked to let go of each piece before it is read and afterwards.

use crate::store::body::read::without_readahead;
use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What offsets, lengths and memory are multiples of: no disk has larger sectors.
const ALIGNMENT: usize = 4096;
/// Bytes of one read.
const PIECE_BYTES: usize = 1024 * 1024;

/// A file that is read past the page cache.
#[derive(Debug)]
pub(in crate::store) struct DirectFile {
    file: File,
    path: PathBuf,
    is_direct: bool,
    memory: Vec<u8>,
}

impl DirectFile {
    /// Opens a file.
    pub(in crate::store) fn open(path: &Path) -> io::Result<Self> {
        let (file, is_direct) = match open(path, OFlags::DIRECT) {
            Err(Errno::INVAL) => (open(path, OFlags::empty())?, false),
            opened => (opened?, true),
        };
        let memory = vec![0; PIECE_BYTES + ALIGNMENT];
        Ok(Self { file, path: path.to_owned(), is_direct, memory })
    }

    /// Bytes of the file.
    pub(in crate::store) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Gives `each` the bytes from `start` to `end` in pieces of up to 1 MiB, in order. What it
    /// fails with ends the reading. A file that ends before is an error.
    pub(in crate::store) fn read<E: From<io::Error>>(
        &mut self,
        start: u64,
        end: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = start;
        while at < end {
            let skipped = at % ALIGNMENT as u64;
            let piece = self.piece(at - skipped)?;
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
            let skipped = usize::try_from(skipped).unwrap_or(0);
            let piece = piece.get(skipped..).unwrap_or_default();
            let piece = piece.get(..wanted.min(piece.len())).unwrap_or_default();
            if piece.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            each(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Up to a piece from `offset`, which is aligned; less only at the end of the file.
    fn piece(&mut self, offset: u64) -> io::Result<&[u8]> {
        match self.fill(offset) {
            // Some file systems take the flag and refuse the reads.
            Err(error)
                if self.is_direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
            {
                self.file = open(&self.path, OFlags::empty())?;
                self.is_direct = false;
                let read = self.fill(offset)?;
                Ok(self.filled(read))
            }
            read => {
                let read = read?;
                Ok(self.filled(read))
            }
        }
    }

    fn filled(&self, read: usize) -> &[u8] {
        let start = aligned_start(&self.memory);
        self.memory.get(start..start + read).unwrap_or_default()
    }

    fn fill(&mut self, offset: u64) -> io::Result<usize> {
        self.forget(offset);
        let start = aligned_start(&self.memory);
        let buffer = self.memory.get_mut(start..start + PIECE_BYTES).unwrap_or_default();
        let mut read = 0;
        while read < buffer.len() && read % ALIGNMENT == 0 {
            let rest = buffer.get_mut(read..).unwrap_or_default();
            match self.file.read_at(rest, offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.forget(offset);
        Ok(read)
    }

    fn forget(&self, offset: u64) {
        if !self.is_direct {
            let length = NonZeroU64::new(PIECE_BYTES as u64);
            // Only a wish.
            let _ = rustix::fs::fadvise(&self.file, offset, length, Advice::DontNeed);
        }
    }
}

fn open(path: &Path, more: OFlags) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
    Ok(without_readahead(rustix::fs::open(path, flags, Mode::empty())?.into()))
}

/// Where in `memory` the first aligned address is.
fn aligned_start(memory: &[u8]) -> usize {
    memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(path: &Path, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut got = Vec::new();
        DirectFile::open(path)?.read(start, end, |piece| {
            got.extend_from_slice(piece);
            io::Result::Ok(())
        })?;
        Ok(got)
    }

    #[test]
    fn any_range_of_a_file_is_read() {
        // The build folder is on a disk where /tmp may be none; both ways are taken over all.
        let disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        for place in [tempfile::tempdir().unwrap(), tempfile::tempdir_in(disk).unwrap()] {
            let path = place.path().join("file");
            let body: Vec<u8> = (0..3_000_007_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
            std::fs::write(&path, &body).unwrap();
            let length = body.len();
            for (start, end) in
                [(0, length), (0, 0), (1, 2), (4095, 4097), (1 << 20, length), (length - 1, length)]
            {
                let got = range(&path, start as u64, end as u64).unwrap();
                assert_eq!(got, body[start..end], "{start}..{end}");
            }
            let error = range(&path, 5, length as u64 + 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert!(DirectFile::open(&place.path().join("none")).is_err());
        }
    }
}
