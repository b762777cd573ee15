//! The mount point of a folder's file system, so that the empty folder below a disk that is not
//! mounted is not taken for a new one. Blocking; no state, no locks.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The mount point of the file system that a folder is on; `None` for that of `/`, and if it
/// cannot be told. Bind mounts of one file system in itself do not count.
pub(super) fn point_of(folder: &Path) -> Option<PathBuf> {
    let folder = folder.canonicalize().ok()?;
    let ancestors = folder.ancestors().filter(|ancestor| ancestor.parent().is_some());
    for ancestor in ancestors {
        if is_point(ancestor).ok()? {
            return Some(ancestor.to_owned());
        }
    }
    None
}

/// Whether another file system than that of the folder above it is mounted here.
pub(super) fn is_point(folder: &Path) -> io::Result<bool> {
    let Some(above) = folder.parent() else { return Ok(true) };
    match folder.metadata() {
        Ok(found) => Ok(found.dev() != above.metadata()?.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_no_mount_point_and_proc_is_one() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        assert!(!is_point(&folder).unwrap(), "not there");
        std::fs::create_dir_all(&folder).unwrap();
        assert!(!is_point(&folder).unwrap());
        assert_eq!(point_of(&folder), point_of(place.path()));
        assert!(is_point(Path::new("/proc")).unwrap());
        assert_eq!(point_of(Path::new("/proc/self/task")), Some("/proc".into()));
        assert_eq!(point_of(Path::new("/nowhere/at/all")), None);
    }
}
