//! What can go wrong on the disk tier, each with the folder or the amount and what to do.
//! Values only.

use crate::tasks::BlockingError;
use std::io;
use std::path::PathBuf;

/// Why the disk tier could not be opened. Nothing on disk was changed or wiped.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder, or something in it, could not be made, read or written.
    #[error(
        "disk folder {path}: cannot {operation}: {source}; give this user write access to it, \
         or set disk.path to another folder"
    )]
    Folder {
        /// What was worked on.
        path: PathBuf,
        /// What failed.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file system is full.
    #[error("disk folder {path}: no space left; free some, or set disk.path to another folder")]
    NoSpace {
        /// What was worked on.
        path: PathBuf,
    },
    /// The disk that belongs there is not mounted.
    #[error(
        "disk folder {path}: empty, and {mount} is no mount point any more, which it was when the \
         folder was last used; mount the disk, or take the folder out of disk.path"
    )]
    NotMounted {
        /// The disk folder.
        path: PathBuf,
        /// The mount point of its disk.
        mount: PathBuf,
    },
    /// The engine of the store that was open there before still works.
    #[error("disk folder {path}: what was open there is not closed yet; it is tried again")]
    InUse {
        /// The disk folder.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error(
        "disk folder {path}: in use by another narthex process; stop that one, or set disk.path \
         to a folder of its own"
    )]
    Locked {
        /// The disk folder.
        path: PathBuf,
    },
    /// It holds something else than a store.
    #[error(
        "disk folder {path}: holds {found:?} but no NARTHEX-STORE file, so it is not a store; \
         set disk.path to an empty folder"
    )]
    Foreign {
        /// The disk folder.
        path: PathBuf,
        /// The first entry that was found in it.
        found: String,
    },
    /// A later version of the program wrote it.
    #[error(
        "disk folder {path}: format {found}, but this program knows formats up to {known}; use \
         the newer program, or set disk.path to an empty folder"
    )]
    Future {
        /// The disk folder.
        path: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest format this program knows.
        known: u32,
    },
    /// An earlier version of the program wrote it, in a form that was never released.
    #[error(
        "disk folder {path}: format {found}, but this program knows format {known} and cannot \
         convert it; everything in it can be fetched again, so remove what is in the folder, or \
         set disk.path to an empty one"
    )]
    Past {
        /// The disk folder.
        path: PathBuf,
        /// The format that was found.
        found: u32,
        /// The format this program knows.
        known: u32,
    },
    /// The marker file says something that no version wrote.
    #[error(
        "disk folder {path}: its NARTHEX-STORE file does not say `narthex-store N`; if nothing in \
         the folder is needed, empty it"
    )]
    Marker {
        /// The disk folder.
        path: PathBuf,
    },
    /// It holds no store.
    #[error("disk folder {path}: there is no store in it; name the folder of one with --disk")]
    NoStore {
        /// The disk folder.
        path: PathBuf,
    },
    /// There are bodies, and no index that knows them.
    #[error(
        "disk folder {path}: its folder index/ is gone; `narthex fsck --repair` makes a new one of \
         the bodies that are whole"
    )]
    IndexLost {
        /// The disk folder.
        path: PathBuf,
    },
    /// The index cannot be opened.
    #[error(
        "disk folder {path}: the index cannot be opened ({source}); `narthex fsck --repair` puts \
         it aside and makes a new one of the bodies that are whole"
    )]
    Index {
        /// The disk folder.
        path: PathBuf,
        /// What the engine said.
        source: IndexError,
    },
}

impl OpenError {
    /// Whether a new index would help.
    pub(super) fn is_damaged_index(&self) -> bool {
        match self {
            Self::IndexLost { .. } => true,
            Self::Index { source, .. } => source.is_damage(),
            Self::Folder { .. }
            | Self::NoSpace { .. }
            | Self::NotMounted { .. }
            | Self::InUse { .. }
            | Self::Locked { .. }
            | Self::Foreign { .. }
            | Self::Future { .. }
            | Self::Past { .. }
            | Self::Marker { .. }
            | Self::NoStore { .. } => false,
        }
    }

    /// An I/O error on `path` while trying to `operation`.
    pub(super) fn io(path: &std::path::Path, operation: &'static str, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::NoSpace { path: path.to_owned() };
        }
        Self::Folder { path: path.to_owned(), operation, source }
    }
}

/// Why an object could not be written. It leaves no trace; a fill goes on without storing.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// After repeated errors the store takes nothing for a while.
    #[error("the disk tier takes no writes for now: {detail}")]
    Refused {
        /// The last error.
        detail: String,
    },
    /// The object is larger than one object may be.
    #[error("{bytes} bytes are more than the {limit} that one object may have of the disk tier")]
    TooLarge {
        /// What the object would take.
        bytes: u64,
        /// What one object may have.
        limit: u64,
    },
    /// What is stored does not go for an object that is not proven, or all is promised to others
    /// that are being written.
    #[error("no room for {bytes} bytes of an object that is not asked for often enough")]
    Busy {
        /// What was asked for.
        bytes: u64,
    },
    /// The file system is full, and evicting did not help.
    #[error("no space on the file system for {bytes} more bytes, evicting did not help")]
    NoSpace {
        /// What was asked for.
        bytes: u64,
    },
    /// The file system has no inode left, and evicting did not help.
    #[error("no inodes left on the file system, evicting did not help; it holds too many files")]
    NoFiles,
    /// The body is not as long as was declared.
    #[error("the body has {received} bytes or more, {declared} were declared")]
    Length {
        /// What was declared.
        declared: u64,
        /// What came.
        received: u64,
    },
    /// The system refused.
    #[error("cannot {operation}: {source}")]
    Io {
        /// What failed.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The index refused.
    #[error("the index of the disk tier failed: {source}")]
    Index {
        /// What the engine said.
        #[from]
        source: IndexError,
    },
    /// The disk came no further with what it was given, for some time.
    #[error("the disk does not answer")]
    Stalled,
    /// The disk failed, and no reader is left: nothing is worth going on for.
    #[error("the disk failed under the object, and no reader is left")]
    NoReaders,
    /// An earlier write was given up half way, or its thread died.
    #[error("an earlier write of this object was given up")]
    Interrupted,
}

impl From<BlockingError> for WriteError {
    fn from(error: BlockingError) -> Self {
        match error {
            BlockingError::Late { .. } => Self::Stalled,
            BlockingError::Failed { .. } => Self::Interrupted,
        }
    }
}

impl WriteError {
    /// The label of `store_errors`; `None` if the disk is not to blame.
    pub(super) fn operation(&self) -> Option<&'static str> {
        match self {
            Self::NoSpace { .. } | Self::NoFiles => Some("space"),
            Self::Io { operation, .. } => Some(operation),
            Self::Index { .. } => Some("index"),
            Self::Stalled => Some("stall"),
            Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Busy { .. }
            | Self::Length { .. }
            | Self::NoReaders
            | Self::Interrupted => None,
        }
    }

    /// Whether there was no room for the object.
    pub(super) fn is_lack_of_room(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::NoFiles | Self::Busy { .. })
    }

    /// Whether the object alone is not stored, and the disk is well.
    pub(super) fn is_of_the_object(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::TooLarge { .. })
    }

    /// Whether an object that meets this in mid-write can go on without the disk: the body is not
    /// at fault, and nothing of it is lost.
    pub fn spares_the_body(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Busy { .. }
            | Self::NoSpace { .. }
            | Self::NoFiles
            | Self::Io { .. }
            | Self::Stalled
            | Self::Index { .. } => true,
            Self::Length { .. } | Self::NoReaders | Self::Interrupted => false,
        }
    }

    /// Whether the file system is full.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_full(source),
            Self::NoSpace { .. } | Self::NoFiles => true,
            Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Busy { .. }
            | Self::Length { .. }
            | Self::Index { .. }
            | Self::Stalled
            | Self::NoReaders
            | Self::Interrupted => false,
        }
    }
}

impl IndexError {
    /// Whether it is to be opened again.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Engine(_) | Self::Panic | Self::InDoubt { .. } => true,
            Self::Closed | Self::Stalled | Self::Listing(_) => false,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why the index did not answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It is closed after a failure, until the next attempt to open it.
    #[error("the index is closed after a failure")]
    Closed,
    /// The engine panicked while it was opened.
    #[error("the index engine panicked over its own files")]
    Panic,
    /// The engine is too far behind with writing to take more, for longer than is waited for it.
    #[error("the index is behind with its writes for seconds")]
    Stalled,
    /// The index does not tell which files an object has, nor does the folder.
    #[error("the files of a damaged object cannot be listed: {0}")]
    Listing(#[source] io::Error),
    /// What was written before a failure may be missing on the disk, and cannot be written anew.
    #[error("its journal cannot be written anew after a failure: {why}")]
    InDoubt {
        /// What the system said.
        why: String,
    },
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] fjall::Error),
}

impl IndexError {
    /// Whether what is stored is to blame: not this user's rights, a full disk, too many open files
    /// or another process, which are no reason to give an index up.
    pub(super) fn is_damage(&self) -> bool {
        let Self::Engine(error) = self else { return matches!(self, Self::Panic) };
        if matches!(error, fjall::Error::Locked) {
            return false;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return is_of_contents(error);
            }
            cause = error.source();
        }
        true
    }
}

/// Whether an error speaks of what a file holds, or that it is not there.
fn is_of_contents(error: &io::Error) -> bool {
    let is_unreadable = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    let kinds = [
        io::ErrorKind::NotFound,
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::InvalidData,
        io::ErrorKind::InvalidInput,
        io::ErrorKind::Other,
    ];
    is_unreadable || kinds.contains(&error.kind())
}

/// Why a growing object cannot be read on. The body must not be ended cleanly.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It was given up before it was whole, or turned out wrong.
    #[error("the object was given up before it was whole")]
    Abandoned,
    /// The disk failed under it, and this reader fell too far behind what is kept in memory.
    #[error("the disk failed, and the reader fell behind what memory keeps of the object")]
    Behind,
    /// What was written cannot be read back.
    #[error("cannot read back what was written: {source}")]
    Unreadable {
        /// What the system said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_damage_is_a_reason_to_give_an_index_up() {
        let of = |kind: io::ErrorKind| IndexError::Engine(fjall::Error::Io(kind.into()));
        for error in [
            IndexError::Panic,
            IndexError::Engine(fjall::Error::InvalidTrailer),
            IndexError::Engine(fjall::Error::InvalidVersion(None)),
            of(io::ErrorKind::UnexpectedEof),
            of(io::ErrorKind::NotFound),
            IndexError::Engine(fjall::Error::Storage(fjall::LsmError::Unrecoverable)),
            IndexError::Engine(fjall::Error::Io(rustix::io::Errno::IO.into())),
        ] {
            assert!(error.is_damage(), "{error:?}");
        }
        for error in [
            IndexError::Closed,
            IndexError::Engine(fjall::Error::Locked),
            of(io::ErrorKind::PermissionDenied),
            of(io::ErrorKind::StorageFull),
            of(io::ErrorKind::ReadOnlyFilesystem),
            IndexError::Engine(fjall::Error::Io(rustix::io::Errno::MFILE.into())),
        ] {
            assert!(!error.is_damage(), "{error:?}");
        }
    }
}
