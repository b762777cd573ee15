//! The virtual disk: real files. Their operations are slow, fail or hang as the seed says, and a
//! power cut may lose their unsynced changes. A step of the model stands before and after each
//! operation.

use super::{World, jobs, world};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const PAGE_BYTES: usize = 4096;
/// No body that has its name stays longer without a sync, on a disk that works.
const SYNCED_AFTER: Duration = Duration::from_secs(15);

/// How the disk behaves at present, in percent of the operations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mood {
    /// Take milliseconds.
    pub(crate) waits: u64,
    /// Take up to a second and a half.
    pub(crate) slow: u64,
    /// Fail with an input or output error.
    pub(crate) fails: u64,
    /// Writes that find no space.
    pub(crate) full: u64,
    /// The only disk that fails, is full or hangs; 0 for all.
    pub(crate) device: u64,
}

impl Mood {
    /// Whether what is wrong concerns this disk.
    fn concerns(&self, device: u64) -> bool {
        self.device == 0 || self.device == device
    }
}

/// The disk.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) mood: Cell<Mood>,
    /// How many disks this process has opened.
    devices: Cell<u64>,
    /// Operations on the disk begun before this moment end after it; on all if it is 0.
    hangs_until: Cell<Option<(Instant, u64)>>,
    /// The power is cut: nothing is read or written any more.
    is_dead: Cell<bool>,
    /// Whether a power cut may have left records of what was not synced.
    may_damage: Cell<bool>,
    /// Whether what a power cut may undo is kept.
    keeps_undo: Cell<bool>,
    undo: RefCell<Undo>,
    /// The in-memory key-value stores, by folder.
    pub(crate) databases: RefCell<BTreeMap<PathBuf, Arc<dyn Database>>>,
}

/// A key-value store that outlives the process.
pub(crate) trait Database: std::any::Any + Send + Sync {
    /// Goes back to what the next process finds: `kept` is given how many changes were persisted
    /// and how many there are, and says how many are kept.
    fn recover(&self, kept: &dyn Fn(usize, usize) -> usize);
}

/// What was not synced.
#[derive(Debug, Default)]
struct Undo {
    files: Vec<Dirty>,
    names: Vec<Name>,
    graves: u64,
}

#[derive(Debug)]
struct Dirty {
    inode: u64,
    device: u64,
    file: File,
    writes: Vec<Overwritten>,
}

/// What a write has put something else in the place of.
#[derive(Debug)]
struct Overwritten {
    offset: u64,
    length: usize,
    before: Vec<u8>,
    file_length: u64,
}

/// A change of a folder.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    device: u64,
    change: Change,
}

#[derive(Debug)]
enum Change {
    /// Made, and when.
    Made(Instant),
    /// Gone, and the path at which it still is.
    Gone(PathBuf),
}

impl Disk {
    /// How long the operation that is under way on a disk takes; `None` for next to no time.
    pub(super) fn delay(&self, world: &World, device: u64) -> Option<Duration> {
        if self.is_dead.get() {
            return None;
        }
        let now = Instant::now();
        if let Some((end, of)) = self.hangs_until.get()
            && end > now
            && (of == 0 || of == device)
        {
            return Some(end - now + world.millis(0, 5));
        }
        let (mood, drawn) = (self.mood.get(), world.below(100));
        if drawn < mood.slow {
            Some(world.millis(50, 1500))
        } else if drawn < mood.slow + mood.waits {
            Some(world.millis(1, 9))
        } else {
            None
        }
    }

    /// Has every operation of the next `time` hang until then, on one disk, or on all if it is 0.
    pub(crate) fn hang(&self, time: Duration, device: u64) {
        self.hangs_until.set(Some((Instant::now() + time, device)));
    }

    /// How many disks there are.
    pub(crate) fn devices(&self) -> u64 {
        self.devices.get()
    }

    /// A process begins that has opened no disk yet.
    pub(crate) fn begin_life(&self) {
        self.devices.set(0);
        self.mood.set(Mood::default());
    }

    /// Keeps what a power cut may undo from now on.
    pub(crate) fn keep_undo(&self) {
        self.keeps_undo.set(true);
    }

    /// Whether stored objects may be damaged.
    pub(super) fn may_damage(&self) -> bool {
        self.may_damage.get() || self.is_dead.get()
    }

    /// Whether nothing is read or written any more.
    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.get()
    }

    /// Nothing is read or written any more.
    pub(crate) fn die(&self) {
        self.is_dead.set(true);
    }

    /// Does not hang any more.
    pub(crate) fn revive(&self) {
        self.hangs_until.set(None);
    }

    /// Works again, as the next process finds it; if the power was cut, without some of what was
    /// not synced.
    pub(crate) fn recover(&self, world: &World, is_power_cut: bool) {
        self.revive();
        self.is_dead.set(false);
        let loses_all = world.chance(30);
        for database in self.databases.borrow().values() {
            database.recover(&|persisted, all| {
                if !is_power_cut {
                    return all;
                }
                if loses_all {
                    return persisted;
                }
                let lost = world.below((all - persisted) as u64 + 1);
                all - usize::try_from(lost).unwrap_or(0)
            });
        }
        // A purge syncs the index alone.
        self.may_damage.set(self.may_damage.get() || is_power_cut);
        if is_power_cut {
            self.lose(world);
        }
        *self.undo.borrow_mut() = Undo::default();
    }

    /// What is committed is safe after a while. Looked at when the power is cut.
    pub(crate) fn check_synced(&self, world: &World) {
        let undo = self.undo.borrow();
        let made = undo.names.iter().filter_map(|name| match &name.change {
            Change::Made(at) => Some(at),
            Change::Gone(_) => None,
        });
        if let Some(age) = made.map(Instant::elapsed).max().filter(|age| *age > SYNCED_AFTER) {
            let age = age.as_millis();
            world.violated(format!("a body that got its name {age} ms ago was not synced"));
        }
    }

    fn lose(&self, world: &World) {
        let Undo { files, names, .. } = self.undo.take();
        let percent = [0, 30, 70, 100][usize::try_from(world.below(4)).unwrap_or(0)];
        for mut dirty in files {
            while let Some(write) = dirty.writes.pop() {
                undo_write(world, &dirty.file, &write, percent);
            }
        }
        for name in names.into_iter().rev() {
            if !world.chance(percent) {
                continue;
            }
            let Name { path, change, .. } = name;
            match change {
                Change::Made(_) => drop(std::fs::remove_file(path)),
                Change::Gone(grave) if !path.exists() => drop(std::fs::rename(grave, path)),
                Change::Gone(_) => {}
            }
        }
    }

    fn fault(&self, world: &World, is_write: bool) -> io::Result<()> {
        if self.is_dead.get() {
            return Err(rustix::io::Errno::IO.into());
        }
        let mood = self.mood.get();
        if !mood.concerns(jobs::device()) {
            return Ok(());
        }
        if mood.fails > 0 && world.chance(mood.fails) {
            world.note("a disk error", 0);
            self.may_damage.set(true);
            return Err(rustix::io::Errno::IO.into());
        }
        if is_write && mood.full > 0 && world.chance(mood.full) {
            world.note("a full disk", 0);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn keep_write(&self, file: &File, offset: u64, length: usize) -> io::Result<()> {
        let inode = inode_of(file)?;
        let file_length = file.metadata()?.len();
        let there = usize::try_from(file_length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut before = vec![0; length.min(there)];
        file.read_exact_at(&mut before, offset)?;
        let mut undo = self.undo.borrow_mut();
        let known = undo.files.iter().position(|dirty| dirty.inode == inode);
        let at = known.unwrap_or(undo.files.len());
        if known.is_none() {
            let (device, file) = (jobs::device(), file.try_clone()?);
            undo.files.push(Dirty { inode, device, file, writes: Vec::new() });
        }
        undo.files[at].writes.push(Overwritten { offset, length, before, file_length });
        Ok(())
    }
}

fn undo_write(world: &World, file: &File, write: &Overwritten, percent: u64) {
    let mut at = 0;
    while at < write.length {
        let end = (at + PAGE_BYTES).min(write.length);
        if world.chance(percent) {
            let mut page = vec![0; end - at];
            for (byte, before) in page.iter_mut().zip(write.before.iter().skip(at)) {
                *byte = *before;
            }
            drop(file.write_all_at(&page, write.offset + at as u64));
        }
        at = end;
    }
    if percent == 100 {
        drop(file.set_len(write.file_length));
    }
}

fn inode_of(file: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(file)?.st_ino)
}

/// The number of a disk that is opened, from 1; 0 outside of simulations.
pub(crate) fn new_device() -> u64 {
    world().map_or(0, |world| {
        let device = world.disk.devices.get() + 1;
        world.disk.devices.set(device);
        device
    })
}

/// A step at the disk that neither reads nor writes a file by itself.
pub(crate) fn step(operation: &'static str) -> io::Result<()> {
    let Some(world) = world() else { return Ok(()) };
    jobs::at_disk(operation);
    world.note(operation, 0);
    world.disk.fault(&world, false)
}

/// As [`step`], before something is written.
pub(crate) fn write_step(operation: &'static str) -> io::Result<()> {
    let Some(world) = world() else { return Ok(()) };
    jobs::at_disk(operation);
    world.note(operation, 1);
    world.disk.fault(&world, true)
}

fn run<T>(
    operation: &'static str,
    is_write: bool,
    before: impl FnOnce(&Disk) -> io::Result<()>,
    act: impl FnOnce() -> io::Result<T>,
    after: impl FnOnce(&Disk),
) -> io::Result<T> {
    let Some(world) = world() else { return act() };
    jobs::at_disk(operation);
    world.note(operation, u64::from(is_write));
    world.disk.fault(&world, is_write)?;
    if world.disk.keeps_undo.get() {
        before(&world.disk)?;
    }
    let result = act()?;
    if world.disk.keeps_undo.get() {
        after(&world.disk);
    }
    drop(world);
    jobs::at_disk(operation);
    Ok(result)
}

/// Reads.
pub(crate) fn read<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    run("read", false, |_| Ok(()), act, |_| ())
}

/// Looks at a folder or at the file system.
pub(crate) fn look<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    run("look", false, |_| Ok(()), act, |_| ())
}

/// Writes `length` bytes at `offset`.
pub(crate) fn write<T>(
    file: &File,
    offset: u64,
    length: usize,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    run("write", true, |disk| disk.keep_write(file, offset, length), act, |_| ())
}

/// Syncs a file. What was written before is durable after, also if more is written meanwhile.
pub(crate) fn sync<T>(file: &File, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let inode = inode_of(file)?;
    let count = Cell::new(0);
    let before = |disk: &Disk| {
        let undo = disk.undo.borrow();
        let dirty = undo.files.iter().find(|dirty| dirty.inode == inode);
        count.set(dirty.map_or(0, |dirty| dirty.writes.len()));
        Ok(())
    };
    let after = |disk: &Disk| {
        let mut undo = disk.undo.borrow_mut();
        if let Some(dirty) = undo.files.iter_mut().find(|dirty| dirty.inode == inode) {
            dirty.writes.drain(..count.get().min(dirty.writes.len()));
        }
        undo.files.retain(|dirty| !dirty.writes.is_empty());
    };
    run("sync", false, before, act, after)
}

/// Syncs the file system of the disk that this thread belongs to.
pub(crate) fn sync_all<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    run(
        "sync all",
        false,
        |_| Ok(()),
        act,
        |disk| {
            let mut undo = disk.undo.borrow_mut();
            let device = jobs::device();
            undo.files.retain(|dirty| dirty.device != device);
            undo.names.retain(|name| name.device != device);
        },
    )
}

/// Makes a name for a file.
pub(crate) fn link<T>(to: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    run(
        "link",
        true,
        |_| Ok(()),
        act,
        |disk| {
            let (path, device) = (to.to_owned(), jobs::device());
            let change = Change::Made(Instant::now());
            disk.undo.borrow_mut().names.push(Name { path, device, change });
        },
    )
}

/// Removes a file.
pub(crate) fn remove<T>(path: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = |disk: &Disk| {
        let mut undo = disk.undo.borrow_mut();
        undo.graves += 1;
        let name = format!("simulated-grave-{}", undo.graves);
        let mut folders = path.ancestors().skip(1);
        let Some(folder) = folders.find(|folder| folder.join("LOCK").exists()) else {
            return Ok(());
        };
        let grave = folder.with_extension("graves");
        std::fs::create_dir_all(&grave)?;
        let grave = grave.join(name);
        drop(std::fs::remove_file(&grave));
        if std::fs::hard_link(path, &grave).is_ok() {
            let (path, device) = (path.to_owned(), jobs::device());
            undo.names.push(Name { path, device, change: Change::Gone(grave) });
        }
        Ok(())
    };
    run("remove", true, before, act, |_| ())
}
