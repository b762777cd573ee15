//! What the file system has free, as it said at most 50 ms ago, less what was promised of it since:
//! most promises of space need no call to the disk. One per store; a short lock, never across I/O.

use crate::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What the file system has to spare beyond that, in bytes and in inodes, where it is not asked
/// before each promise.
const SPARE_BYTES_MIN: u64 = 256 * 1024 * 1024;
const SPARE_FILES_MIN: u64 = 4096;
/// Inodes that an object takes at most: two folders and its file, and one for the index.
const FILES_OF_ONE: u64 = 4;
/// How long an answer of the file system counts. If it goes away, objects that are begun meanwhile
/// reach their clients and are not stored.
const SPARE_AGE_MAX: Duration = Duration::from_millis(50);
/// What the file system had to spare when it was last asked, less what was promised of it since.
#[derive(Debug, Default)]
pub(in crate::store) struct FreeSpace(Mutex<Option<LastAnswer>>);

/// What the file system said.
#[derive(Debug)]
struct LastAnswer {
    bytes: u64,
    files: u64,
    asked: Instant,
}

impl FreeSpace {
    /// The file system was asked, and has so much to spare.
    pub(in crate::store) fn heard(&self, bytes: u64, files: u64) {
        *self.0.lock() = Some(LastAnswer { bytes, files, asked: Instant::now() });
    }

    /// Nothing that it said counts any more.
    pub(in crate::store) fn forget(&self) {
        *self.0.lock() = None;
    }

    /// Whether there is plenty beyond `bytes`.
    pub(in crate::store) fn has(&self, bytes: u64) -> bool {
        let spared = self.0.lock();
        let spared = spared.as_ref().filter(|spare| spare.asked.elapsed() < SPARE_AGE_MAX);
        spared.is_some_and(|spare| spare.bytes.saturating_sub(bytes) >= SPARE_BYTES_MIN)
    }

    /// Takes `bytes` and an object's inodes, where there is plenty of both.
    pub(in crate::store) fn take(&self, bytes: u64) -> bool {
        let mut spared = self.0.lock();
        let Some(spare) = spared.as_mut().filter(|spare| spare.asked.elapsed() < SPARE_AGE_MAX)
        else {
            return false;
        };
        let (left, files) =
            (spare.bytes.saturating_sub(bytes), spare.files.saturating_sub(FILES_OF_ONE));
        if left < SPARE_BYTES_MIN || files < SPARE_FILES_MIN {
            return false;
        }
        (spare.bytes, spare.files) = (left, files);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_system_had_to_spare_is_used_up() {
        let spare = FreeSpace::default();
        assert!(!spare.take(1), "it was never asked");
        spare.heard(SPARE_BYTES_MIN + 10, u64::MAX);
        assert!(spare.take(4) && spare.take(6));
        assert!(!spare.take(1), "no bytes");
        spare.heard(u64::MAX, SPARE_FILES_MIN + 2 * FILES_OF_ONE);
        assert!(spare.take(1) && spare.take(1));
        assert!(!spare.take(1), "no inodes");
        spare.heard(u64::MAX, u64::MAX);
        assert!(spare.take(1));
        if let Some(spared) = spare.0.lock().as_mut() {
            spared.asked = spared.asked.checked_sub(SPARE_AGE_MAX).unwrap();
        }
        assert!(!spare.take(1), "asked too long ago");
        spare.heard(u64::MAX, u64::MAX);
        spare.forget();
        assert!(!spare.take(1), "something failed since");
    }
}
