//! The two engines behind one face: fjall as the store configures it, redb with as much memory.
//! Each makes its changes as the store does: one atomic change an object or a batch of them, synced
//! every five seconds.

use crate::entries::Entry;
use fjall::config::{FilterPolicy, FilterPolicyEntry, PinningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::error::Error;
use std::path::Path;

/// What goes wrong here ends the run.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

const MIB: u64 = 1024 * 1024;
/// Memory that either engine may use to cache what it reads.
const CACHE_BYTES: u64 = 32 * MIB;
/// The least journal that fjall takes.
const JOURNAL_BYTES_MAX: u64 = 64 * MIB;
const TOTALS: &str = "totals";

/// An index, as the store uses it.
pub(crate) trait Engine {
    /// Adds entries in one atomic change; safe from a kill of the process if the engine can.
    fn add(&self, entries: &[Entry]) -> Outcome<()>;
    /// Drops entries in one atomic change.
    fn remove(&self, entries: &[Entry]) -> Outcome<()>;
    /// Whether there is a record under `hash`.
    fn find(&self, hash: [u8; 16]) -> Outcome<bool>;
    /// Reads what the order of eviction is loaded from; how many entries there are.
    fn load_order(&self) -> Outcome<u64>;
    /// Reads every record; how many there are.
    fn load_records(&self) -> Outcome<u64>;
    /// Makes everything safe from a power cut.
    fn sync(&self) -> Outcome<()>;
}

/// Opens or makes an index of the engine `name`.
pub(crate) fn open(name: &str, folder: &Path) -> Outcome<Box<dyn Engine>> {
    match name {
        "fjall" => Ok(Box::new(Fjall::open(folder)?)),
        "redb" => Ok(Box::new(Redb::open(folder)?)),
        other => Err(format!("no engine is called {other:?}: say fjall or redb").into()),
    }
}

struct Fjall {
    database: Database,
    objects: Keyspace,
    bodies: Keyspace,
    order: Keyspace,
    state: Keyspace,
}

impl Fjall {
    fn open(folder: &Path) -> Outcome<Self> {
        let database = Database::builder(folder.join("fjall"))
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(2)
            .max_cached_files(Some(256))
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(8 * MIB);
        let ordered = || options().filter_policy(FilterPolicy::all(FilterPolicyEntry::None));
        let found = || options().expect_point_read_hits(true);
        let searched = || options().filter_block_pinning_policy(PinningPolicy::all(true));
        Ok(Self {
            objects: database.keyspace("objects", searched)?,
            bodies: database.keyspace("bodies", found)?,
            order: database.keyspace("order", ordered)?,
            state: database.keyspace("state", options)?,
            database,
        })
    }
}

impl Engine for Fjall {
    fn add(&self, entries: &[Entry]) -> Outcome<()> {
        let mut batch = self.database.batch();
        for entry in entries {
            batch.insert(&self.objects, entry.hash, &*entry.record);
            batch.insert(&self.order, entry.sequence.to_be_bytes(), entry.place());
            if !entry.body.is_empty() {
                batch.insert(&self.bodies, entry.insertion(), &*entry.body);
            }
            batch.insert(&self.state, TOTALS, entry.place());
        }
        Ok(batch.commit()?)
    }

    fn remove(&self, entries: &[Entry]) -> Outcome<()> {
        let mut batch = self.database.batch();
        for entry in entries {
            batch.remove(&self.objects, entry.hash);
            batch.remove(&self.order, entry.sequence.to_be_bytes());
            if !entry.body.is_empty() {
                batch.remove(&self.bodies, entry.insertion());
            }
        }
        Ok(batch.commit()?)
    }

    fn find(&self, hash: [u8; 16]) -> Outcome<bool> {
        Ok(self.objects.get(hash)?.is_some())
    }

    fn load_order(&self) -> Outcome<u64> {
        count(&self.order)
    }

    fn load_records(&self) -> Outcome<u64> {
        count(&self.objects)
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}

fn count(keyspace: &Keyspace) -> Outcome<u64> {
    let mut count = 0;
    for guard in keyspace.iter() {
        let (_, value) = guard.into_inner()?;
        count += u64::from(!value.is_empty());
    }
    Ok(count)
}

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const OBJECTS: Table = TableDefinition::new("objects");
const BODIES: Table = TableDefinition::new("bodies");
const ORDER: Table = TableDefinition::new("order");
const STATE: Table = TableDefinition::new("state");

struct Redb(redb::Database);

impl Redb {
    fn open(folder: &Path) -> Outcome<Self> {
        let cache_bytes = usize::try_from(CACHE_BYTES + 20 * MIB)?;
        let mut builder = redb::Database::builder();
        let this = Self(builder.set_cache_size(cache_bytes).create(folder.join("redb"))?);
        this.sync()?;
        Ok(this)
    }

    fn count(&self, table: Table) -> Outcome<u64> {
        let table = self.0.begin_read()?.open_table(table)?;
        let mut count = 0;
        for entry in table.iter()? {
            count += u64::from(!entry?.1.value().is_empty());
        }
        Ok(count)
    }
}

impl Engine for Redb {
    fn add(&self, entries: &[Entry]) -> Outcome<()> {
        let mut change = self.0.begin_write()?;
        change.set_durability(Durability::None)?;
        {
            let mut objects = change.open_table(OBJECTS)?;
            let mut bodies = change.open_table(BODIES)?;
            let mut order = change.open_table(ORDER)?;
            let mut state = change.open_table(STATE)?;
            for entry in entries {
                objects.insert(&entry.hash[..], &*entry.record)?;
                order.insert(&entry.sequence.to_be_bytes()[..], &entry.place()[..])?;
                if !entry.body.is_empty() {
                    bodies.insert(&entry.insertion()[..], &*entry.body)?;
                }
                state.insert(TOTALS.as_bytes(), &entry.place()[..])?;
            }
        }
        Ok(change.commit()?)
    }

    fn remove(&self, entries: &[Entry]) -> Outcome<()> {
        let mut change = self.0.begin_write()?;
        change.set_durability(Durability::None)?;
        {
            let mut objects = change.open_table(OBJECTS)?;
            let mut bodies = change.open_table(BODIES)?;
            let mut order = change.open_table(ORDER)?;
            for entry in entries {
                objects.remove(&entry.hash[..])?;
                order.remove(&entry.sequence.to_be_bytes()[..])?;
                if !entry.body.is_empty() {
                    bodies.remove(&entry.insertion()[..])?;
                }
            }
        }
        Ok(change.commit()?)
    }

    fn find(&self, hash: [u8; 16]) -> Outcome<bool> {
        let objects = self.0.begin_read()?.open_table(OBJECTS)?;
        Ok(objects.get(&hash[..])?.is_some())
    }

    fn load_order(&self) -> Outcome<u64> {
        self.count(ORDER)
    }

    fn load_records(&self) -> Outcome<u64> {
        self.count(OBJECTS)
    }

    fn sync(&self) -> Outcome<()> {
        let change = self.0.begin_write()?;
        for table in [OBJECTS, BODIES, ORDER, STATE] {
            change.open_table(table)?;
        }
        Ok(change.commit()?)
    }
}
