//! The engine's journal, written anew after a failure. Blocking; called by [`Index::revive`], while
//! nothing has the engine open.
//!
//! If a sync fails, the system takes the pages that it could not write for written, and the next
//! sync succeeds without them. The journal then has a hole on the disk, and a start after a power
//! cut reads it up to there: whatever was synced behind the hole is lost with it. The page cache
//! still has all of it, so that a copy that is synced makes it good.
//!
//! [`Index::revive`]: super::Index::revive

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What the names of journals end in; the engine passes over other files.
const SUFFIX: &str = "jnl";
const SUFFIX_NEW: &str = "jnl-new";
const PIECE_BYTES: usize = 64 * 1024;

/// Writes every journal in `folder` anew, each whole or not at all.
pub(super) fn rewrite(folder: &Path) -> io::Result<()> {
    // All names first: a folder that is read while names come may not end.
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    for path in entries.into_iter().map(|entry| entry.path()) {
        if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
            rewrite_one(&path)?;
        }
    }
    File::open(folder)?.sync_all()
}

fn rewrite_one(path: &Path) -> io::Result<()> {
    let new = path.with_extension(SUFFIX_NEW);
    let rewritten = copy(path, &new).and_then(|()| std::fs::rename(&new, path));
    if rewritten.is_err()
        && let Err(error) = std::fs::remove_file(&new)
    {
        tracing::debug!(%error, "an unfinished copy of the journal stays until the next one");
    }
    rewritten
}

/// Copies byte by byte and syncs: a system that copies by itself may share what the disk has.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, File::create(to)?);
    target.set_len(source.metadata()?.len())?;
    let (mut piece, mut at) = (vec![0; PIECE_BYTES], 0_u64);
    loop {
        let read = match source.read_at(&mut piece, at) {
            Ok(0) => break,
            Ok(read) => piece.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // The engine allocates ahead: most of a journal may be a hole.
        if read.iter().any(|byte| *byte != 0) {
            target.write_all_at(read, at)?;
        }
        at = at.saturating_add(read.len() as u64);
    }
    target.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn journals_become_other_files_of_the_same_bytes() {
        let place = tempfile::tempdir().unwrap();
        let [journal, other] = ["0.jnl", "lock"].map(|name| place.path().join(name));
        let length = 40 * PIECE_BYTES as u64 + 17;
        let file = File::create(&journal).unwrap();
        file.set_len(length).unwrap();
        file.write_all_at(b"narthex", PIECE_BYTES as u64 - 3).unwrap();
        file.write_all_at(b"x", 30 * PIECE_BYTES as u64).unwrap();
        std::fs::write(&other, "kept").unwrap();
        let before = std::fs::read(&journal).unwrap();
        let inodes = || [&journal, &other].map(|path| path.metadata().unwrap().ino());
        let old = inodes();
        rewrite(place.path()).unwrap();
        assert!(std::fs::read(&journal).unwrap() == before);
        assert_ne!(inodes()[0], old[0]);
        assert_eq!(inodes()[1], old[1]);
        assert!(journal.metadata().unwrap().blocks() * 512 < length, "holes stay holes");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_journal_that_cannot_be_copied_stays_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("0.jnl");
        std::fs::write(&journal, "narthex").unwrap();
        std::fs::create_dir(place.path().join("0.jnl-new")).unwrap();
        rewrite(place.path()).unwrap_err();
        assert_eq!(std::fs::read_to_string(&journal).unwrap(), "narthex");
    }
}
