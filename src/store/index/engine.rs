//! The key-value engine: fjall. In unit tests, one in memory stands in its place if a thread
//! simulates, with the same rules: a change is in the journal whole or not at all, it is applied
//! key by key under the eyes of readers, and what was not persisted may be lost in a power cut.

#[cfg(not(test))]
pub(super) use fjall::{Database, Keyspace};
#[cfg(test)]
pub(super) use switched::{Database, Keyspace};

use fjall::{AbstractTree, Database as Fjall, DatabaseBuilder, Keyspace as Tree};
use std::path::Path;

/// How far a keyspace is behind with its writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backlog {
    /// Memtables that wait to be flushed.
    pub(super) sealed: usize,
    /// Runs of the first level that wait for compaction.
    pub(super) runs: usize,
    /// Bytes of the memtable that is written to.
    pub(super) active_bytes: u64,
}

fn backlog_of(keyspace: &Tree) -> Backlog {
    let tree = &keyspace.tree;
    Backlog {
        sealed: tree.sealed_memtable_count(),
        runs: tree.l0_run_count(),
        active_bytes: tree.active_memtable().size(),
    }
}

/// How far `keyspace` is behind.
#[cfg(not(test))]
pub(super) fn backlog(keyspace: &Keyspace) -> Backlog {
    backlog_of(keyspace)
}

/// How far `keyspace` is behind.
#[cfg(test)]
pub(super) fn backlog(keyspace: &Keyspace) -> Backlog {
    keyspace.backlog()
}

/// A builder of a database in the folder `path`.
pub(super) fn builder(path: &Path) -> DatabaseBuilder<Fjall> {
    Fjall::builder(path)
}

/// Opens or makes the database in the folder `path`.
#[cfg(not(test))]
#[expect(unused_variables, reason = "the folder is for simulations")]
pub(super) fn open(builder: DatabaseBuilder<Fjall>, path: &Path) -> fjall::Result<Database> {
    builder.open()
}

#[cfg(test)]
pub(super) use switched::{open, rewrite_journal};

/// Writes the journal of a database anew that nothing has open; `path` is its folder.
#[cfg(not(test))]
pub(super) fn rewrite_journal(path: &Path) -> std::io::Result<()> {
    super::journal::rewrite(path)
}

#[cfg(test)]
mod switched {
    use crate::simulation::{disk, world};
    use crate::store::index::engine::Backlog;
    use crate::store::index::journal;
    use crate::sync::Mutex;
    use fjall::{KeyspaceCreateOptions, PersistMode, Slice};
    use std::collections::BTreeMap;
    use std::ops::{Bound, RangeBounds};
    use std::path::Path;
    use std::sync::Arc;

    type Rows = BTreeMap<(&'static str, Vec<u8>), Slice>;
    /// A row that is set or dropped.
    type Write = (&'static str, Vec<u8>, Option<Slice>);

    /// The engine in memory.
    #[derive(Default)]
    pub(in crate::store) struct InMemory {
        rows: parking_lot::Mutex<Rows>,
        journal: parking_lot::Mutex<Journal>,
        /// Held by the one that commits.
        writer: Mutex<()>,
    }

    #[derive(Default)]
    struct Journal {
        changes: Vec<Vec<Write>>,
        persisted: usize,
        is_poisoned: bool,
        /// A persist failed: none makes anything safe before the journal is written anew.
        has_hole: bool,
    }

    impl InMemory {
        fn commit(&self, writes: Vec<Write>) -> fjall::Result<()> {
            let _one = self.writer.lock();
            if self.journal.lock().is_poisoned {
                return Err(fjall::Error::Poisoned);
            }
            if let Err(error) = disk::write_step("index write") {
                self.journal.lock().is_poisoned = true;
                return Err(error.into());
            }
            self.journal.lock().changes.push(writes.clone());
            for (keyspace, key, value) in writes {
                crate::simulation::jobs::may_lose_turn();
                let mut rows = self.rows.lock();
                match value {
                    Some(value) => drop(rows.insert((keyspace, key), value)),
                    None => drop(rows.remove(&(keyspace, key))),
                }
            }
            Ok(())
        }

        fn persist(&self) -> fjall::Result<()> {
            let _one = self.writer.lock();
            if self.journal.lock().is_poisoned {
                return Err(fjall::Error::Poisoned);
            }
            if let Err(error) = disk::write_step("index sync") {
                let mut journal = self.journal.lock();
                (journal.is_poisoned, journal.has_hole) = (true, true);
                return Err(error.into());
            }
            let mut journal = self.journal.lock();
            if !journal.has_hole {
                journal.persisted = journal.changes.len();
            }
            Ok(())
        }

        fn rewritten(&self) {
            let mut journal = self.journal.lock();
            (journal.persisted, journal.has_hole) = (journal.changes.len(), false);
        }
    }

    impl disk::Database for InMemory {
        fn recover(&self, kept: &dyn Fn(usize, usize) -> usize) {
            let mut journal = self.journal.lock();
            let (persisted, all) = (journal.persisted, journal.changes.len());
            journal.changes.truncate(kept(persisted, all));
            (journal.is_poisoned, journal.has_hole) = (false, false);
            let mut rows = Rows::new();
            for (keyspace, key, value) in journal.changes.iter().flatten() {
                match value {
                    Some(value) => drop(rows.insert((keyspace, key.clone()), value.clone())),
                    None => drop(rows.remove(&(*keyspace, key.clone()))),
                }
            }
            *self.rows.lock() = rows;
        }
    }

    #[derive(Clone)]
    pub(in crate::store) enum Database {
        Fjall(fjall::Database),
        InMemory(Arc<InMemory>),
    }

    #[derive(Clone)]
    pub(in crate::store) enum Keyspace {
        Fjall(fjall::Keyspace),
        InMemory(Arc<InMemory>, &'static str),
    }

    pub(in crate::store) enum OwnedWriteBatch {
        Fjall(fjall::OwnedWriteBatch),
        InMemory(Arc<InMemory>, Vec<Write>),
    }

    pub(in crate::store) enum Guard {
        Fjall(fjall::Guard),
        InMemory(Vec<u8>, Slice),
        /// The row could not be read.
        Failed(fjall::Error),
    }

    pub(in crate::store) fn open(
        builder: fjall::DatabaseBuilder<fjall::Database>,
        path: &Path,
    ) -> fjall::Result<Database> {
        let Some(world) = world() else { return Ok(Database::Fjall(builder.open()?)) };
        disk::step("index open")?;
        let mut databases = world.disk.databases.borrow_mut();
        let one = databases.entry(path.to_owned()).or_insert_with(|| {
            // A folder that is not empty is what tells an index that is there.
            drop(std::fs::write(path.join("simulated"), b""));
            Arc::<InMemory>::default()
        });
        let one = in_memory(one);
        one.journal.lock().is_poisoned = false;
        Ok(Database::InMemory(one))
    }

    fn in_memory(database: &Arc<dyn disk::Database>) -> Arc<InMemory> {
        let one: Arc<dyn std::any::Any + Send + Sync> = Arc::clone(database) as _;
        one.downcast::<InMemory>().expect("the only kind there is")
    }

    pub(in crate::store) fn rewrite_journal(path: &Path) -> std::io::Result<()> {
        let Some(world) = world() else { return journal::rewrite(path) };
        disk::write_step("index rewrite")?;
        if let Some(one) = world.disk.databases.borrow().get(path) {
            in_memory(one).rewritten();
        }
        Ok(())
    }

    impl Database {
        pub(in crate::store) fn keyspace(
            &self,
            name: &'static str,
            options: impl Fn() -> KeyspaceCreateOptions,
        ) -> fjall::Result<Keyspace> {
            match self {
                Self::Fjall(database) => Ok(Keyspace::Fjall(database.keyspace(name, options)?)),
                Self::InMemory(one) => Ok(Keyspace::InMemory(Arc::clone(one), name)),
            }
        }

        pub(in crate::store) fn batch(&self) -> OwnedWriteBatch {
            match self {
                Self::Fjall(database) => OwnedWriteBatch::Fjall(database.batch()),
                Self::InMemory(one) => OwnedWriteBatch::InMemory(Arc::clone(one), Vec::new()),
            }
        }

        pub(in crate::store) fn persist(&self, mode: PersistMode) -> fjall::Result<()> {
            match self {
                Self::Fjall(database) => database.persist(mode),
                Self::InMemory(one) if mode == PersistMode::Buffer => {
                    let is_poisoned = one.journal.lock().is_poisoned;
                    if is_poisoned { Err(fjall::Error::Poisoned) } else { Ok(()) }
                }
                Self::InMemory(one) => one.persist(),
            }
        }

        pub(in crate::store) fn cache_size(&self) -> u64 {
            if let Self::Fjall(database) = self { database.cache_size() } else { 0 }
        }

        pub(in crate::store) fn write_buffer_size(&self) -> u64 {
            if let Self::Fjall(database) = self { database.write_buffer_size() } else { 0 }
        }

        pub(in crate::store) fn journal_count(&self) -> usize {
            if let Self::Fjall(database) = self { database.journal_count() } else { 1 }
        }
    }

    impl Keyspace {
        pub(in crate::store) fn get(&self, key: impl AsRef<[u8]>) -> fjall::Result<Option<Slice>> {
            match self {
                Self::Fjall(keyspace) => keyspace.get(key),
                Self::InMemory(one, name) => {
                    disk::step("index read")?;
                    Ok(one.rows.lock().get(&(*name, key.as_ref().to_vec())).cloned())
                }
            }
        }

        pub(in crate::store) fn contains_key(&self, key: impl AsRef<[u8]>) -> fjall::Result<bool> {
            match self {
                Self::Fjall(keyspace) => keyspace.contains_key(key),
                Self::InMemory(..) => Ok(self.get(key)?.is_some()),
            }
        }

        pub(in crate::store) fn is_empty(&self) -> fjall::Result<bool> {
            match self {
                Self::Fjall(keyspace) => keyspace.is_empty(),
                Self::InMemory(..) => Ok(self.iter().next().map(Guard::key).transpose()?.is_none()),
            }
        }

        pub(in crate::store) fn iter(&self) -> Box<dyn Iterator<Item = Guard>> {
            match self {
                Self::Fjall(keyspace) => Box::new(keyspace.iter().map(Guard::Fjall)),
                Self::InMemory(..) => self.range::<[u8; 0], _>(..),
            }
        }

        pub(in crate::store) fn prefix(
            &self,
            prefix: impl AsRef<[u8]>,
        ) -> Box<dyn Iterator<Item = Guard>> {
            if let Self::Fjall(keyspace) = self {
                return Box::new(keyspace.prefix(prefix).map(Guard::Fjall));
            }
            let prefix = prefix.as_ref().to_vec();
            let from = self.range::<Vec<u8>, _>(prefix.clone()..);
            let has_prefix = move |guard: &Guard| match guard {
                Guard::InMemory(key, _) => key.starts_with(&prefix),
                Guard::Failed(_) => true,
                Guard::Fjall(_) => false,
            };
            Box::new(from.take_while(has_prefix))
        }

        pub(in crate::store) fn range<K: AsRef<[u8]>, R: RangeBounds<K>>(
            &self,
            range: R,
        ) -> Box<dyn Iterator<Item = Guard>> {
            let (one, name) = match self {
                Self::Fjall(keyspace) => {
                    return Box::new(keyspace.range(range).map(Guard::Fjall));
                }
                Self::InMemory(one, name) => (one, *name),
            };
            if let Err(error) = disk::step("index read") {
                return Box::new(std::iter::once(Guard::Failed(error.into())));
            }
            let bound = |bound: Bound<&K>| bound.map(|key| (name, key.as_ref().to_vec()));
            let from = match bound(range.start_bound()) {
                Bound::Unbounded => Bound::Included((name, Vec::new())),
                bound @ (Bound::Included(_) | Bound::Excluded(_)) => bound,
            };
            let rows = one.rows.lock();
            let rows = rows.range((from, bound(range.end_bound())));
            let rows = rows.take_while(|((keyspace, _), _)| *keyspace == name);
            let found: Vec<Guard> =
                rows.map(|((_, key), row)| Guard::InMemory(key.clone(), row.clone())).collect();
            Box::new(found.into_iter())
        }

        pub(in crate::store) fn rotate_memtable(&self) -> fjall::Result<()> {
            if let Self::Fjall(keyspace) = self {
                keyspace.rotate_memtable()?;
            }
            Ok(())
        }

        pub(super) fn backlog(&self) -> Backlog {
            match self {
                Self::Fjall(keyspace) => super::backlog_of(keyspace),
                Self::InMemory(..) => Backlog { sealed: 0, runs: 0, active_bytes: 0 },
            }
        }

        fn name(&self) -> &'static str {
            if let Self::InMemory(_, name) = self { name } else { "" }
        }
    }

    impl OwnedWriteBatch {
        pub(in crate::store) fn insert(
            &mut self,
            keyspace: &Keyspace,
            key: impl Into<Slice>,
            value: impl Into<Slice>,
        ) {
            match (self, keyspace) {
                (Self::Fjall(batch), Keyspace::Fjall(keyspace)) => {
                    batch.insert(keyspace, key, value);
                }
                (Self::InMemory(_, writes), keyspace) => {
                    writes.push((keyspace.name(), key.into().to_vec(), Some(value.into())));
                }
                (Self::Fjall(_), Keyspace::InMemory(..)) => unreachable!("of one database"),
            }
        }

        pub(in crate::store) fn remove(&mut self, keyspace: &Keyspace, key: impl Into<Slice>) {
            match (self, keyspace) {
                (Self::Fjall(batch), Keyspace::Fjall(keyspace)) => batch.remove(keyspace, key),
                (Self::InMemory(_, writes), keyspace) => {
                    writes.push((keyspace.name(), key.into().to_vec(), None));
                }
                (Self::Fjall(_), Keyspace::InMemory(..)) => unreachable!("of one database"),
            }
        }

        pub(in crate::store) fn commit(self) -> fjall::Result<()> {
            match self {
                Self::Fjall(batch) => batch.commit(),
                Self::InMemory(one, writes) => one.commit(writes),
            }
        }
    }

    impl Guard {
        pub(in crate::store) fn key(self) -> fjall::Result<Slice> {
            match self {
                Self::Fjall(guard) => guard.key(),
                Self::InMemory(key, _) => Ok(key.into()),
                Self::Failed(error) => Err(error),
            }
        }

        pub(in crate::store) fn into_inner(self) -> fjall::Result<(Slice, Slice)> {
            match self {
                Self::Fjall(guard) => guard.into_inner(),
                Self::InMemory(key, row) => Ok((key.into(), row)),
                Self::Failed(error) => Err(error),
            }
        }
    }
}
