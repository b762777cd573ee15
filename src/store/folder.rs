//! The disk folder: its marker, its lock, where everything in it is, and new body files. Opened
//! once with the store and locked as long as that lives; no other lock. Blocking.

use crate::object::KeyHash;
use crate::store::body::direct::DirectFile;
use crate::store::body::read::without_readahead;
use crate::store::error::{OpenError, WriteError};
use crate::store::files;
use crate::store::format::VERSION;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MARKER: &str = "NARTHEX-STORE";
const MARKER_NEW: &str = "NARTHEX-STORE.new";
const LOCK: &str = "LOCK";
const ORDER: &str = "ORDER";
const ORDER_NEW: &str = "ORDER.new";
const ORDER_BUFFER_BYTES: usize = 256 * 1024;
/// What may lie in a folder that counts as empty.
const NOTHING: [&str; 3] = ["lost+found", LOCK, MARKER_NEW];
/// Bad indexes that are kept beside each other.
const ASIDE_MAX: u32 = 1000;
/// Entries of `tmp/` that are removed at open; a live store has far fewer.
const LEFTOVERS_MAX: usize = 100_000;
/// Below this many inodes on the file system, a folder that has become empty is removed: there
/// are up to 65,792 of them.
const FILES_PLENTY: u64 = 1 << 20;
/// Tries to link a file: its folder may be removed again as soon as it is made.
const LINK_TRIES: usize = 4;

/// What a file system has free for this user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Free {
    /// Bytes.
    pub(super) bytes: u64,
    /// Bytes it has in all.
    pub(super) bytes_total: u64,
    /// Inodes.
    pub(super) files: u64,
    /// Inodes it has in all; 0 if it makes them as they are needed.
    pub(super) files_total: u64,
}

/// An open, locked disk folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Whether new files can be made without a name; else they get one in `tmp/`.
    is_nameless: bool,
    /// Whether the file system has so few inodes that empty folders count.
    is_tight: bool,
    next_name: AtomicU64,
    /// The device and inode of the lock file, to know the folder again: a file system that has
    /// failed does not tell them any more.
    identity: (u64, u64),
    /// Held for what its drop does.
    lock: Lock,
}

/// The folder's lock. Given back by name: a process that is being started holds a copy of the
/// descriptor until it runs its program, and closing ours alone would leave the lock with it.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::debug!(%error, "the disk folder's lock goes with its descriptor");
        }
    }
}

impl Folder {
    /// Opens or makes the folder. Never removes anything but the leftovers in `tmp/`.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        std::fs::create_dir_all(path).map_err(|e| OpenError::io(path, "make it", e))?;
        let is_new = !has_marker(path)?;
        let lock = lock(path)?;
        if !is_new && is_index_lost(path)? {
            return Err(OpenError::IndexLost { path: path.to_owned() });
        }
        if is_new {
            write_marker(path).map_err(|e| OpenError::io(path, "write its marker", e))?;
        }
        for name in ["objects", "tmp", "index"] {
            let path = path.join(name);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(OpenError::io(&path, "make it", error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let mut folder = Self {
            path: path.to_owned(),
            is_nameless: false,
            is_tight: free(path)
                .is_ok_and(|free| free.files_total > 0 && free.files_total < FILES_PLENTY),
            next_name: AtomicU64::new(0),
            identity: identity(&lock).map_err(|e| OpenError::io(path, "look at it", e))?,
            lock,
        };
        folder.empty_tmp().map_err(|e| OpenError::io(&path.join("tmp"), "empty it", e))?;
        folder.is_nameless = Path::new("/proc/self/fd").exists() && folder.new_nameless().is_ok();
        let probe = folder.new_file();
        probe.map_err(|e| OpenError::io(&path.join("tmp"), "write in it", e))?;
        Ok(folder)
    }

    /// Opens the folder of a store to look at it: makes nothing, removes nothing.
    pub(super) fn open_existing(path: &Path) -> Result<Self, OpenError> {
        if !path.is_dir() || !has_marker(path)? {
            return Err(OpenError::NoStore { path: path.to_owned() });
        }
        let lock = lock(path)?;
        Ok(Self {
            path: path.to_owned(),
            is_nameless: false,
            is_tight: false,
            next_name: AtomicU64::new(0),
            identity: identity(&lock).map_err(|e| OpenError::io(path, "look at it", e))?,
            lock,
        })
    }

    /// The disk folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the index.
    pub(super) fn index_path(&self) -> PathBuf {
        self.path.join("index")
    }

    /// The snapshot of the eviction order.
    pub(super) fn order_path(&self) -> PathBuf {
        self.path.join(ORDER)
    }

    /// Puts a snapshot of the eviction order in place of the one before, whole or not at all;
    /// `write` makes it. How many bytes it has.
    pub(super) fn replace_order(
        &self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<u64> {
        let new = self.path.join(ORDER_NEW);
        let replace = || {
            let mut file = BufWriter::with_capacity(ORDER_BUFFER_BYTES, File::create(&new)?);
            write(&mut file)?;
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_data()?;
            std::fs::rename(&new, self.order_path())?;
            File::open(&self.path)?.sync_all()?;
            Ok(file.metadata()?.len())
        };
        let replaced = replace();
        if replaced.is_err()
            && let Err(error) = std::fs::remove_file(&new)
        {
            tracing::debug!(%error, "an unfinished snapshot of the order stays until the next one");
        }
        replaced
    }

    /// The insertions of a key that have files; lists one folder of bodies.
    pub(super) fn insertions_of(&self, hash: KeyHash) -> io::Result<Vec<u64>> {
        let prefix = format!("{hash}-");
        let path = self.body_path(hash, 0);
        let read = std::fs::read_dir(path.parent().unwrap_or(&path));
        let entries = match read.map_err(|error| self.unless_away(error)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut sequences = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let sequence = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            sequences.extend(sequence.and_then(|hex| u64::from_str_radix(hex, 16).ok()));
        }
        Ok(sequences)
    }

    /// The file of the insertion `sequence` of a key.
    pub(super) fn body_path(&self, hash: KeyHash, sequence: u64) -> PathBuf {
        let [first, second, ..] = hash.0;
        let name = format!("objects/{first:02x}/{second:02x}/{hash}-{sequence:x}");
        self.path.join(name)
    }

    /// Whether there are bodies and nothing that knows them.
    pub(super) fn is_index_lost(&self) -> Result<bool, OpenError> {
        is_index_lost(&self.path)
    }

    /// Gives `each` everything below `objects/`: the file of an insertion, or something else. What
    /// it fails with ends the walk.
    pub(super) fn walk<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(&Path, Option<(KeyHash, u64)>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut todo = vec![self.path.join("objects")];
        while let Some(folder) = todo.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    todo.push(path);
                    continue;
                }
                let insertion = insertion_of(&path)
                    .filter(|(hash, sequence)| self.body_path(*hash, *sequence) == path);
                each(&path, insertion)?;
            }
        }
        Ok(())
    }

    /// Moves the index aside, under the first free name; the new path, `None` if no name is free.
    pub(super) fn put_index_aside(&self) -> io::Result<Option<PathBuf>> {
        let index = self.index_path();
        if !index.try_exists()? {
            return Ok(None);
        }
        for number in 1..=ASIDE_MAX {
            let aside = self.path.join(format!("index.bad-{number}"));
            if !aside.try_exists()? {
                std::fs::rename(&index, &aside)?;
                return Ok(Some(aside));
            }
        }
        Err(io::Error::other("there are too many folders index.bad-N; remove them"))
    }

    /// What the file system still has for this user.
    pub(super) fn free(&self) -> io::Result<Free> {
        free(&self.path)
    }

    /// Makes everything on the folder's file system survive a power cut: files are written without
    /// a sync each after their bodies, and a system keeps them in memory for half a minute.
    pub(super) fn sync(&self) -> io::Result<()> {
        files::sync_all(|| Ok(rustix::fs::syncfs(&self.lock.0)?))
    }

    /// Has the file system free what was removed: some do so when they write their journal next,
    /// some seconds later.
    pub(super) fn free_removed(&self) -> io::Result<()> {
        files::sync(self.new_file()?.file())
    }

    /// Whether what lies at the path is still the folder that was opened: not another file system
    /// that was mounted there, nor nothing, since this one was unmounted or removed.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        files::look(|| match rustix::fs::stat(self.path.join(LOCK)) {
            Ok(found) => Ok((found.st_dev, found.st_ino) == self.identity),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    /// The error of an operation on a file in the folder: that a file is missing says something
    /// only while the folder is in place.
    fn unless_away(&self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::NotFound {
            return error;
        }
        match self.is_in_place() {
            Ok(true) => error,
            Ok(false) => away(),
            Err(error) => error,
        }
    }

    /// A new, empty file that vanishes unless it is linked into place.
    pub(super) fn new_file(&self) -> io::Result<NewFile> {
        if self.is_nameless {
            return files::look(|| self.new_nameless());
        }
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join("tmp").join(number.to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(NewFile { file: Arc::new(without_readahead(file)), name: Some(path) })
    }

    fn new_nameless(&self) -> io::Result<NewFile> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let file = rustix::fs::open(self.path.join("tmp"), flags, mode);
        let file = file.map_err(|error| self.unless_away(error.into()))?;
        // Nothing is written to what lies under a file system that was unmounted.
        if rustix::fs::fstat(&file)?.st_dev != self.identity.0 {
            return Err(away());
        }
        Ok(NewFile { file: Arc::new(without_readahead(file.into())), name: None })
    }

    /// Opens the file of an insertion for reading. That it is gone is told only if the folder is in
    /// place.
    pub(super) fn open_body(&self, hash: KeyHash, sequence: u64) -> io::Result<File> {
        self.open_file(hash, sequence, OFlags::RDONLY)
    }

    /// The same for reading and writing.
    pub(super) fn open_part(&self, hash: KeyHash, sequence: u64) -> io::Result<File> {
        self.open_file(hash, sequence, OFlags::RDWR)
    }

    fn open_file(&self, hash: KeyHash, sequence: u64, access: OFlags) -> io::Result<File> {
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = self.body_path(hash, sequence);
        let file = files::read(|| Ok(rustix::fs::open(path, flags, Mode::empty())?));
        let file = file.map_err(|error| self.unless_away(error))?;
        Ok(without_readahead(file.into()))
    }

    /// Opens the file of an insertion for reading past the page cache; the same holds.
    pub(super) fn open_direct(&self, hash: KeyHash, sequence: u64) -> io::Result<DirectFile> {
        DirectFile::open(&self.body_path(hash, sequence)).map_err(|error| self.unless_away(error))
    }

    /// Removes the file of an insertion; one that is gone already is fine, if the folder is in
    /// place.
    pub(super) fn remove_body(&self, hash: KeyHash, sequence: u64) -> io::Result<()> {
        let path = self.body_path(hash, sequence);
        match files::remove(&path).map_err(|error| self.unless_away(error)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if self.is_tight {
            // Refused if there is anything in it, which is the rule.
            for folder in path.ancestors().skip(1).take(2) {
                if std::fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn empty_tmp(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.path.join("tmp"))?.take(LEFTOVERS_MAX) {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// A file without a name. Dropped, it leaves no trace; readers of the handle go on.
#[derive(Debug)]
pub(super) struct NewFile {
    file: Arc<File>,
    name: Option<PathBuf>,
}

impl NewFile {
    /// The open file.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives it its name, in place of whatever has it; makes the folders on the way.
    pub(super) fn link(&mut self, to: &Path) -> Result<(), WriteError> {
        let failed = |source| WriteError::Io { operation: "link", source };
        for _ in 0..LINK_TRIES {
            match self.try_link(to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_folders_of(to).map_err(failed)?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    std::fs::remove_file(to).map_err(failed)?;
                }
                other => return other.map_err(failed),
            }
        }
        self.try_link(to).map_err(failed)
    }

    fn try_link(&mut self, to: &Path) -> io::Result<()> {
        if let Some(name) = &self.name {
            std::fs::rename(name, to)?;
            self.name = None;
            return Ok(());
        }
        let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        files::link(to, || Ok(rustix::fs::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)?))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = std::fs::remove_file(name)
        {
            tracing::warn!(path = %name.display(), %error, "temporary file stays until restart");
        }
    }
}

fn identity(lock: &Lock) -> io::Result<(u64, u64)> {
    let found = rustix::fs::fstat(&lock.0)?;
    Ok((found.st_dev, found.st_ino))
}

/// Makes the two folders above a body's file. Never those above them: if they are gone, the
/// disk is.
fn make_folders_of(body: &Path) -> io::Result<()> {
    let folders: Vec<_> = body.ancestors().skip(1).take(2).collect();
    for folder in folders.into_iter().rev() {
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// What an operation on a folder that is not in place comes to.
fn away() -> io::Error {
    io::Error::other("the folder is gone, or another is mounted there")
}

fn free(path: &Path) -> io::Result<Free> {
    let figures = files::look(|| Ok(rustix::fs::statvfs(path)?))?;
    Ok(Free {
        bytes: figures.f_bavail.saturating_mul(figures.f_frsize),
        bytes_total: figures.f_blocks.saturating_mul(figures.f_frsize),
        files: figures.f_favail,
        files_total: figures.f_files,
    })
}

/// Whether there is a store in the folder, of whatever version.
pub(super) fn is_store(path: &Path) -> bool {
    path.join(MARKER).exists()
}

fn has_marker(path: &Path) -> Result<bool, OpenError> {
    let text = match std::fs::read_to_string(path.join(MARKER)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return must_be_empty(path).map(|()| false);
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(OpenError::Marker { path: path.to_owned() });
        }
        Err(error) => return Err(OpenError::io(path, "read its marker", error)),
    };
    let version = text.strip_prefix("narthex-store ").and_then(|rest| rest.trim_end().parse().ok());
    match version {
        Some(VERSION) => Ok(true),
        Some(found) if found > VERSION => {
            Err(OpenError::Future { path: path.to_owned(), found, known: VERSION })
        }
        Some(found) if found > 0 => {
            Err(OpenError::Past { path: path.to_owned(), found, known: VERSION })
        }
        Some(_) | None => Err(OpenError::Marker { path: path.to_owned() }),
    }
}

/// The insertion that a file below `objects/` is named for.
fn insertion_of(path: &Path) -> Option<(KeyHash, u64)> {
    let (hash, sequence) = path.file_name()?.to_str()?.split_once('-')?;
    if hash.len() != 32 {
        return None;
    }
    let hash = u128::from_str_radix(hash, 16).ok()?;
    Some((KeyHash(hash.to_be_bytes()), u64::from_str_radix(sequence, 16).ok()?))
}

fn must_be_empty(path: &Path) -> Result<(), OpenError> {
    let listing = |e| OpenError::io(path, "list it", e);
    for entry in std::fs::read_dir(path).map_err(listing)? {
        let name = entry.map_err(listing)?.file_name().to_string_lossy().into_owned();
        if !NOTHING.contains(&name.as_str()) {
            return Err(OpenError::Foreign { path: path.to_owned(), found: name });
        }
    }
    Ok(())
}

/// Whether there are bodies and nothing that knows them.
fn is_index_lost(path: &Path) -> Result<bool, OpenError> {
    Ok(is_empty(&path.join("index"))? && !is_empty(&path.join("objects"))?)
}

/// Whether there is nothing in a folder, or no folder; one that cannot be listed is not empty.
fn is_empty(path: &Path) -> Result<bool, OpenError> {
    let listing = |error| OpenError::io(path, "list it", error);
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().transpose().map_err(listing)?.is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(listing(error)),
    }
}

fn lock(path: &Path) -> Result<Lock, OpenError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK))
        .map_err(|e| OpenError::io(path, "make its lock file", e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: path.to_owned() }),
        Err(error) => Err(OpenError::io(path, "lock it", error.into())),
    }
}

/// Written whole or not at all, so that a crash leaves an empty folder or a store.
fn write_marker(path: &Path) -> io::Result<()> {
    let new = path.join(MARKER_NEW);
    let mut file = File::create(&new)?;
    file.write_all(format!("narthex-store {VERSION}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path.join(MARKER))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_becomes_a_store_and_stays_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new/deeper");
        drop(Folder::open(&path).unwrap());
        let golden = include_str!("golden/marker-3.txt");
        assert_eq!(std::fs::read_to_string(path.join(MARKER)).unwrap(), golden);
        std::fs::write(path.join("tmp/7"), "left over").unwrap();
        drop(Folder::open(&path).unwrap());
        assert!(!path.join("tmp/7").exists());
    }

    #[test]
    fn a_second_open_is_refused_until_the_first_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let first = Folder::open(place.path()).unwrap();
        let error = Folder::open(place.path()).unwrap_err();
        assert!(matches!(error, OpenError::Locked { .. }));
        assert!(error.to_string().contains("another narthex process"));
        drop(first);
        Folder::open(place.path()).unwrap();
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let place = tempfile::tempdir().unwrap();
        let first = lock(place.path()).unwrap();
        let copy = first.0.try_clone().unwrap();
        drop(first);
        lock(place.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn a_foreign_folder_is_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("thesis.tex"), "years of work").unwrap();
        let error = Folder::open(place.path()).unwrap_err();
        assert!(matches!(&error, OpenError::Foreign { found, .. } if found == "thesis.tex"));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_format_is_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(MARKER), "narthex-store 4\n").unwrap();
        let error = Folder::open(place.path()).unwrap_err();
        assert!(matches!(error, OpenError::Future { found: 4, known: 3, .. }));
        std::fs::write(place.path().join(MARKER), "narthex-store 2\n").unwrap();
        let error = Folder::open(place.path()).unwrap_err();
        assert!(matches!(error, OpenError::Past { found: 2, known: 3, .. }));
        assert!(error.to_string().contains("remove what is in the folder"), "{error}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
        for nonsense in ["narthex-store x\n", "", "narthex-store 0\n", "\u{fffd}"] {
            std::fs::write(place.path().join(MARKER), nonsense).unwrap();
            let error = Folder::open(place.path()).unwrap_err();
            assert!(matches!(error, OpenError::Marker { .. }), "{nonsense:?}");
        }
    }

    #[test]
    fn a_path_that_is_no_folder_is_one_clear_error() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = Folder::open(&path).unwrap_err().to_string();
        assert!(error.contains("cannot make it") && error.contains("disk.path"), "{error}");
    }

    #[test]
    fn empty_folders_go_where_inodes_are_few_and_nothing_is_made_beside_a_store_that_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("store");
        let mut folder = Folder::open(&path).unwrap();
        folder.is_tight = true;
        let (one, other) = (KeyHash([1; 16]), KeyHash([1; 16]));
        for (hash, sequence) in [(one, 1), (other, 2)] {
            folder.new_file().unwrap().link(&folder.body_path(hash, sequence)).unwrap();
        }
        folder.remove_body(one, 1).unwrap();
        assert!(path.join("objects/01/01").exists(), "the other one is in it");
        folder.remove_body(other, 2).unwrap();
        assert!(path.join("objects").exists() && !path.join("objects/01").exists());
        assert!(folder.is_in_place().unwrap());
        folder.sync().unwrap();

        let mut new = folder.new_file().unwrap();
        std::fs::rename(&path, place.path().join("away")).unwrap();
        assert!(!folder.is_in_place().unwrap());
        new.link(&folder.body_path(one, 3)).unwrap_err();
        assert!(!path.exists());
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(LOCK), "").unwrap();
        assert!(!folder.is_in_place().unwrap(), "another folder");
    }

    #[test]
    fn a_new_file_has_no_name_until_it_is_linked() {
        for is_nameless in [true, false] {
            let place = tempfile::tempdir().unwrap();
            let mut folder = Folder::open(place.path()).unwrap();
            folder.is_nameless &= is_nameless;
            let hash = KeyHash([0xab; 16]);
            drop(folder.new_file().unwrap());
            assert_eq!(std::fs::read_dir(place.path().join("tmp")).unwrap().count(), 0);
            for text in ["one", "two"] {
                let mut new = folder.new_file().unwrap();
                new.file().as_ref().write_all(text.as_bytes()).unwrap();
                new.link(&folder.body_path(hash, 9)).unwrap();
                drop(new);
                let name = format!("objects/ab/ab/{hash}-9");
                assert_eq!(std::fs::read_to_string(place.path().join(name)).unwrap(), text);
            }
            folder.remove_body(hash, 9).unwrap();
            folder.remove_body(hash, 9).unwrap();
            assert!(folder.open_body(hash, 9).is_err());
        }
    }
}
