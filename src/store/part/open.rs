//! A part that is open, and the parts of one store that are, by insertion. All writers of a file
//! share one table, so that each of its bytes has one writer at most. The registry is one per
//! store; a short lock, under which no part is dropped.

use crate::object::{Key, KeyHash, Meta};
use crate::store::body::chunks::{Chunks, Sight};
use crate::store::body::read::FileView;
use crate::store::disk_store::DiskStore;
use crate::store::eviction::accounting::{Displaces, Reservation};
use crate::store::folder::NewFile;
use crate::store::part::table::ChunkTable;
use crate::sync::{Mutex, RwLock};
use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// An object that is here in part. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Part(pub(super) Arc<PartState>);

#[derive(Debug)]
pub(super) struct PartState {
    pub(super) store: Arc<DiskStore>,
    /// The parts of its store that are open.
    pub(super) open: Arc<OpenParts>,
    pub(super) key: Key,
    pub(super) hash: KeyHash,
    pub(super) sequence: u64,
    pub(super) length: u64,
    pub(super) meta: RwLock<Arc<Meta>>,
    pub(super) file: Arc<File>,
    /// What its readers know of its chunks.
    pub(super) chunks: Arc<Chunks>,
    pub(super) life: Mutex<Life>,
    /// Held while the file is synced: an error is told to one of several callers alone.
    pub(super) syncing: Mutex<()>,
    /// Whether `life` is at its end; read by what may not wait for the disk.
    pub(super) is_loose: AtomicBool,
    /// Whether one of its users completes it.
    pub(super) is_completing: AtomicBool,
    pub(super) table: Mutex<ChunkTable>,
    /// Space of chunks that are here and not in the index.
    pub(super) promised: Mutex<Reservation>,
}

impl PartState {
    pub(super) fn view(&self) -> FileView<'_> {
        FileView { file: &self.file, chunks: &self.chunks, sight: Sight::Whole }
    }
}

/// How a part stands with the index.
#[derive(Debug)]
pub(super) enum Life {
    /// It has no name yet.
    New(NewFile),
    /// It has a record.
    Recorded,
    /// It is not kept, or not as a part, any more.
    Loose,
}

impl Part {
    /// A part that is opened; if one of the same insertion was opened meanwhile, that one.
    pub(super) fn new(
        store: &Arc<DiskStore>,
        open: &Arc<OpenParts>,
        meta: Meta,
        (sequence, length): (u64, u64),
        file: Arc<File>,
        (life, table): (Life, ChunkTable),
    ) -> Self {
        let part = Self(Arc::new(PartState {
            store: Arc::clone(store),
            open: Arc::clone(open),
            key: meta.key.clone(),
            hash: meta.key.hash(),
            sequence,
            length,
            meta: RwLock::new(Arc::new(meta)),
            file,
            chunks: store.reads.bodies.of(sequence),
            life: Mutex::new(life),
            syncing: Mutex::new(()),
            is_loose: AtomicBool::new(false),
            is_completing: AtomicBool::new(false),
            table: Mutex::new(table),
            promised: Mutex::new(Reservation::nothing(
                &store.catalog.accounting,
                Displaces::Untried,
            )),
        }));
        open.enter(part)
    }

    /// Whether what comes to be here may still be kept.
    pub fn is_live(&self) -> bool {
        !self.0.is_loose.load(Ordering::Acquire)
    }

    /// Keeps nothing more of it. What is in the index is removed by what drops it. Blocking.
    pub fn let_go(&self) {
        self.loosen(&mut self.0.life.lock());
    }

    pub(super) fn loosen(&self, life: &mut Life) {
        *life = Life::Loose;
        self.0.is_loose.store(true, Ordering::Release);
    }
}

/// The open parts.
#[derive(Debug, Default)]
pub(in crate::store) struct OpenParts(Mutex<HashMap<u64, Weak<PartState>>>);

impl OpenParts {
    /// The part of an insertion, if it is open.
    pub(super) fn get(&self, sequence: u64) -> Option<Part> {
        self.0.lock().get(&sequence).and_then(Weak::upgrade).map(Part)
    }

    /// Enters a part; the one of the same insertion, if that is open.
    pub(super) fn enter(&self, part: Part) -> Part {
        let mut open = self.0.lock();
        let other = open.get(&part.0.sequence).and_then(Weak::upgrade);
        if other.is_none() {
            open.insert(part.0.sequence, Arc::downgrade(&part.0));
        }
        drop(open);
        other.map_or(part, Part)
    }
}

impl Drop for PartState {
    fn drop(&mut self) {
        let own: *const Self = self;
        let mut open = self.open.0.lock();
        if open.get(&self.sequence).is_some_and(|known| std::ptr::eq(known.as_ptr(), own)) {
            open.remove(&self.sequence);
        }
    }
}
