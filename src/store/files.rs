//! The disk operations of the store, in one place, so that a simulation can have them wait, fail
//! and be undone. Blocking; stateless.

use std::fs::File;
use std::io;
use std::path::Path;

/// Whether one thread simulates all: then no other may be begun.
pub(super) fn is_simulated() -> bool {
    #[cfg(test)]
    return crate::simulation::world().is_some();
    #[cfg(not(test))]
    false
}

/// Reads: `act` does.
pub(super) fn read<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    return crate::simulation::disk::read(act);
    #[cfg(not(test))]
    act()
}

/// Looks at a folder, a name, or the file system: `act` does.
pub(super) fn look<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    return crate::simulation::disk::look(act);
    #[cfg(not(test))]
    act()
}

/// Writes `length` bytes at `offset` of `file`: `act` does.
#[cfg_attr(not(test), expect(unused_variables, reason = "simulations undo it"))]
pub(super) fn write<T>(
    file: &File,
    offset: u64,
    length: usize,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    #[cfg(test)]
    return crate::simulation::disk::write(file, offset, length, act);
    #[cfg(not(test))]
    act()
}

/// Makes what was written to `file` survive a power cut.
pub(super) fn sync(file: &File) -> io::Result<()> {
    let act = || file.sync_data();
    #[cfg(test)]
    return crate::simulation::disk::sync(file, act);
    #[cfg(not(test))]
    act()
}

/// Makes everything on a file system survive a power cut: `act` does.
pub(super) fn sync_all<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    return crate::simulation::disk::sync_all(act);
    #[cfg(not(test))]
    act()
}

/// Gives a file the name `to`: `act` does.
#[cfg_attr(not(test), expect(unused_variables, reason = "simulations undo it"))]
pub(super) fn link<T>(to: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    return crate::simulation::disk::link(to, act);
    #[cfg(not(test))]
    act()
}

/// Removes the file at `path`.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let act = || std::fs::remove_file(path);
    #[cfg(test)]
    return crate::simulation::disk::remove(path, act);
    #[cfg(not(test))]
    act()
}
