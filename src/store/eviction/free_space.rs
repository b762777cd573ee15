//! What the file system has free, as it said at most 50 ms ago, less what was promised of it since:
//! most promises of space need no call to the disk. One per store; a short lock, never across I/O.

use crate::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What the file system has to spare beyond that, in bytes and in inodes, if it is not asked
/// before each promise.
const PLENTY_BYTES_MIN: u64 = 256 * 1024 * 1024;
const PLENTY_FILES_MIN: u64 = 4096;
/// Inodes that an object takes at most: two folders and its file, and one for the index.
const FILES_OF_ONE: u64 = 4;
/// How long an answer of the file system counts. If it goes away, objects that are begun meanwhile
/// reach their clients and are not stored.
const ANSWER_AGE_MAX: Duration = Duration::from_millis(50);
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
    pub(in crate::store) fn answered(&self, bytes: u64, files: u64) {
        *self.0.lock() = Some(LastAnswer { bytes, files, asked: Instant::now() });
    }

    /// Nothing that it said counts any more.
    pub(in crate::store) fn forget(&self) {
        *self.0.lock() = None;
    }

    /// Whether there is plenty beyond `bytes`.
    pub(in crate::store) fn has(&self, bytes: u64) -> bool {
        let answer = self.0.lock();
        let answer = answer.as_ref().filter(|answer| answer.asked.elapsed() < ANSWER_AGE_MAX);
        answer.is_some_and(|answer| answer.bytes.saturating_sub(bytes) >= PLENTY_BYTES_MIN)
    }

    /// Takes `bytes` and an object's inodes, if there is plenty of both.
    pub(in crate::store) fn take(&self, bytes: u64) -> bool {
        let mut answer = self.0.lock();
        let Some(answer) = answer.as_mut().filter(|answer| answer.asked.elapsed() < ANSWER_AGE_MAX)
        else {
            return false;
        };
        let (left, files) =
            (answer.bytes.saturating_sub(bytes), answer.files.saturating_sub(FILES_OF_ONE));
        if left < PLENTY_BYTES_MIN || files < PLENTY_FILES_MIN {
            return false;
        }
        (answer.bytes, answer.files) = (left, files);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_system_had_to_spare_is_used_up() {
        let free = FreeSpace::default();
        assert!(!free.take(1), "it was never asked");
        free.answered(PLENTY_BYTES_MIN + 10, u64::MAX);
        assert!(free.take(4) && free.take(6));
        assert!(!free.take(1), "no bytes");
        free.answered(u64::MAX, PLENTY_FILES_MIN + 2 * FILES_OF_ONE);
        assert!(free.take(1) && free.take(1));
        assert!(!free.take(1), "no inodes");
        free.answered(u64::MAX, u64::MAX);
        assert!(free.take(1));
        if let Some(answer) = free.0.lock().as_mut() {
            answer.asked = answer.asked.checked_sub(ANSWER_AGE_MAX).unwrap();
        }
        assert!(!free.take(1), "asked too long ago");
        free.answered(u64::MAX, u64::MAX);
        free.forget();
        assert!(!free.take(1), "something failed since");
    }
}
