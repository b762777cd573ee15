//! The engine's journal, written anew after a failure. Blocking; called by [`Index::revive`] and
//! [`Index::open`], while nothing has the engine open.
//!
//! If a sync fails, the system takes the pages that it could not write for written, and the next
//! sync succeeds without them. The journal then has a hole on the disk. A start after a power cut
//! reads it up to there, so that what was synced behind the hole is lost too. The page cache still
//! has all of it: a copy that is synced repairs it.
//!
//! A copy that a kill leaves unfinished is removed before the next copy, and when the index is
//! opened. No later copy need overwrite it, since the engine may never reuse the journal's name.
//!
//! [`Index::open`]: super::Index::open
//! [`Index::revive`]: super::Index::revive

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the names of journals end in; the engine passes over other files.
const SUFFIX: &str = "jnl";
const SUFFIX_NEW: &str = "jnl-new";
const PIECE_BYTES: usize = 64 * 1024;

/// Writes every journal in `folder` anew, each whole or not at all.
pub(super) fn rewrite(folder: &Path) -> io::Result<()> {
    remove_unfinished(folder);
    for path in names(folder, SUFFIX)? {
        rewrite_one(&path)?;
    }
    File::open(folder)?.sync_all()
}

/// Removes the copies in `folder` that have not become journals.
pub(super) fn remove_unfinished(folder: &Path) {
    let removed = names(folder, SUFFIX_NEW).and_then(|paths| {
        let mut removed = paths.iter().map(std::fs::remove_file);
        removed.try_for_each(|one| one)
    });
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(%error, "an unfinished copy of the journal stays until the next start");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The files in `folder` with names that end in `suffix`; all names at once, since a folder that is
/// read while names come may not end.
fn names(folder: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|own| own == suffix));
    Ok(paths)
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

    /// FAULTS.md S12b.
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

    /// FAULTS.md S12b.
    #[test]
    fn what_a_kill_leaves_of_a_copy_goes() {
        let place = tempfile::tempdir().unwrap();
        let [journal, own, of_none] =
            ["1.jnl", "1.jnl-new", "0.jnl-new"].map(|name| place.path().join(name));
        let leave = || {
            for path in [&journal, &own, &of_none] {
                std::fs::write(path, "narthex").unwrap();
            }
        };
        let there = || [&journal, &own, &of_none].map(|path| path.exists());
        leave();
        remove_unfinished(place.path());
        assert_eq!(there(), [true, false, false]);
        leave();
        rewrite(place.path()).unwrap();
        assert_eq!(there(), [true, false, false]);
        remove_unfinished(&place.path().join("none"));
    }

    #[test]
    fn an_index_that_is_opened_has_no_unfinished_copy() {
        let place = tempfile::tempdir().unwrap();
        let unfinished = place.path().join("0.jnl-new");
        for _ in ["a new index", "one that is there"] {
            std::fs::write(&unfinished, "narthex").unwrap();
            let index = super::super::Index::open(place.path()).unwrap();
            assert!(!unfinished.exists());
            drop(index);
        }
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
