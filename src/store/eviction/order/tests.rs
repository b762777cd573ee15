//! The eviction order against the paper, written down plainly.

use super::*;
use crate::object::Sha256;
use crate::store::format::{INLINE_BYTES_MAX, charge};
use proptest::prelude::{Strategy, any, prop_oneof, proptest};

const FILE: u64 = charge(INLINE_BYTES_MAX);

fn key(number: u64) -> KeyHash {
    KeyHash(*Sha256::of(&number.to_le_bytes()).0.first_chunk().unwrap())
}

/// An object in a file.
fn file(number: u64) -> EvictionEntry {
    EvictionEntry { sequence: number, charge: FILE }
}

/// An object in the index.
fn inline(number: u64) -> EvictionEntry {
    EvictionEntry { sequence: number, charge: 1024 }
}

fn insert(order: &mut EvictionOrder, entry: EvictionEntry) {
    assert_eq!(order.insert(entry, key(entry.sequence), None), None);
}

/// Evicts as the store does.
fn evict(order: &mut EvictionOrder) -> Option<EvictionEntry> {
    let Evicted { entry, was_on_trial } = order.evict()?;
    if was_on_trial {
        order.remember(key(entry.sequence), entry.charge);
    }
    Some(entry)
}

fn evicted(order: &mut EvictionOrder) -> Vec<u64> {
    std::iter::from_fn(|| evict(order)).map(|entry| entry.sequence).collect()
}

fn filled(numbers: std::ops::Range<u64>) -> EvictionOrder {
    let mut order = EvictionOrder::new();
    numbers.for_each(|number| insert(&mut order, file(number)));
    order
}

/// Objects in files, loaded and put in their order where `snapshot` says nothing of it.
fn loaded(numbers: std::ops::Range<u64>) -> EvictionOrder {
    let mut order = EvictionOrder::new();
    numbers.for_each(|number| order.load(file(number)));
    order
}

#[test]
fn who_was_used_goes_later() {
    let mut order = filled(0..4);
    order.touch(0);
    assert_eq!(evicted(&mut order), [1, 2, 3, 0]);
    assert_eq!((evict(&mut order), order.len(), order.bytes()), (None, 0, 0));
}

#[test]
fn a_scan_passes_through_a_tenth_of_the_space() {
    let mut order = filled(0..100);
    (0..80).for_each(|number| order.touch(number));
    for number in 1000..2000 {
        evict(&mut order);
        insert(&mut order, file(number));
    }
    let stayed = (0..80).filter(|&number| order.get(number).is_some()).count();
    assert_eq!((stayed, order.len()), (80, 100));
}

#[test]
fn who_comes_back_soon_is_no_newcomer() {
    let mut order = filled(0..20);
    (1..20).for_each(|number| order.touch(number));
    assert_eq!(evict(&mut order), Some(file(0)));
    order.insert(file(49), key(0), None);
    (50..53).for_each(|number| insert(&mut order, file(number)));
    assert_eq!(evict(&mut order), Some(file(50)), "back in the main queue, so the newcomer goes");
}

#[test]
fn a_replaced_object_keeps_its_standing() {
    let mut order = filled(0..20);
    (0..20).for_each(|number| order.touch(number));
    (60..64).for_each(|number| insert(&mut order, file(number)));
    assert_eq!(evict(&mut order), Some(file(60)), "all others were used and are in the main queue");
    assert_eq!(order.insert(file(100), key(3), Some(3)), Some(file(3)));
    assert_eq!(evict(&mut order), Some(file(61)));
    assert_eq!((order.get(3), order.get(100), order.len()), (None, Some(file(100)), 22));
}

#[test]
fn small_bodies_outlast_large_ones_up_to_a_tenth_of_the_bytes() {
    let mut order = filled(0..100);
    let inline_max = 100 * FILE / 9 / 1024;
    (1000..1000 + inline_max).for_each(|number| insert(&mut order, inline(number)));
    assert_eq!(evict(&mut order), Some(file(0)), "a flood of large ones takes no small one");
    insert(&mut order, inline(5000));
    assert_eq!(
        evict(&mut order),
        Some(inline(1000)),
        "nor a flood of small ones more than its part"
    );
}

#[test]
fn small_bodies_have_it_all_where_there_is_no_other() {
    let mut order = EvictionOrder::new();
    (0..10).for_each(|number| insert(&mut order, inline(number)));
    assert_eq!(evicted(&mut order), (0..10).collect::<Vec<_>>());
}

#[test]
fn without_a_snapshot_the_order_is_that_of_insertion() {
    let mut order = loaded(0..100);
    order.touch(0);
    insert(&mut order, file(200));
    while order.settle(7, Unplaced::All) {}
    assert_eq!(order.bytes(), 101 * FILE);
    let order = evicted(&mut order);
    assert_eq!(order.first(), Some(&90), "the newest tenth is on trial");
    let main: Vec<u64> = order.into_iter().filter(|&number| number < 90).collect();
    let expected = (1..90).chain([0]);
    assert_eq!(main, expected.collect::<Vec<_>>(), "what was used while loading goes last");
}

#[test]
fn a_snapshot_puts_objects_back_where_they_were() {
    let mut order = filled(0..100);
    (0..100).step_by(3).for_each(|number| order.touch(number));
    (0..40).for_each(|_| assert!(evict(&mut order).is_some()));
    (100..130).for_each(|number| insert(&mut order, file(number)));
    (0..130).step_by(7).for_each(|number| order.touch(number));
    order.begin_walk();
    let pages = std::iter::from_fn(|| Some(order.walk(9)).filter(|seen| !seen.is_empty()));
    let snapshot: Vec<OrderedObject> = pages.flatten().collect();
    assert_eq!(snapshot.len() as u64, order.len());

    let mut again = EvictionOrder::new();
    (0..130).filter_map(|number| order.get(number)).for_each(|entry| again.load(entry));
    // Some came after the snapshot, one while it was loaded; some that it names are gone.
    (130..133).for_each(|number| again.load(file(number)));
    insert(&mut again, file(140));
    for seen in &snapshot {
        again.place(seen.entry.sequence, seen.stage, seen.uses);
    }
    again.place(7777, QueueStage::Main, 1);
    while again.settle(2, Unplaced::Newcomers) {}
    for number in [130, 131, 132, 140] {
        insert(&mut order, file(number));
    }
    assert_eq!((again.len(), again.bytes()), (order.len(), order.bytes()));
    assert_eq!(evicted(&mut again), evicted(&mut order));
}

#[test]
fn an_object_takes_at_most_twenty_four_bytes() {
    let mut order = EvictionOrder::new();
    for number in 0..400_000 {
        insert(&mut order, file(number));
        if number % 5 == 0 {
            order.touch(number);
        }
        if number >= 100_000 {
            evict(&mut order);
        }
    }
    assert_eq!(order.len(), 100_000);
    let bytes = order.memory_bytes() as u64 / order.len();
    assert!((16..=24).contains(&bytes), "{bytes} bytes an object");
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u64, bool),
    Touch(u64),
    Remove(u64),
    Evict,
    /// As the process starts again, with the snapshot of the last `Step::Write`.
    Restart,
    Write,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = || any::<u64>().prop_map(|number| number % 24);
    let step = prop_oneof![
        6 => (number(), any::<bool>()).prop_map(|(number, kind)| Step::Insert(number, kind)),
        6 => number().prop_map(Step::Touch),
        1 => number().prop_map(Step::Remove),
        4 => any::<u8>().prop_map(|_| Step::Evict),
        1 => any::<bool>().prop_map(|_| Step::Write),
        1 => any::<bool>().prop_map(|_| Step::Restart),
    ];
    proptest::collection::vec(step, 0..300)
}

#[derive(Debug, Clone, Copy)]
struct KeepOutcome {
    entry: EvictionEntry,
    uses: u8,
}

fn sum(list: &[KeepOutcome]) -> u64 {
    list.iter().map(|kept| kept.entry.charge).sum()
}

/// One kind as two plain lists, the oldest first.
#[derive(Default)]
struct ModelKind {
    small: Vec<KeepOutcome>,
    main: Vec<KeepOutcome>,
    ghost: Ghost,
}

impl ModelKind {
    fn bytes(&self) -> u64 {
        sum(&self.small) + sum(&self.main)
    }

    fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    fn evict(&mut self, keys: &Keys) -> Option<EvictionEntry> {
        while self.len() > 0 {
            if sum(&self.small) > self.bytes() / 10 || self.main.is_empty() {
                let kept = self.small.remove(0);
                if kept.uses == 0 {
                    self.ghost.add(keys.key(kept.entry), self.len());
                    return Some(kept.entry);
                }
                self.main.push(KeepOutcome { uses: 0, ..kept });
            } else {
                let kept = self.main.remove(0);
                if kept.uses == 0 {
                    return Some(kept.entry);
                }
                self.main.push(KeepOutcome { uses: kept.uses - 1, ..kept });
            }
        }
        None
    }

    /// The state after a restart with a snapshot of `small` and `main`, or without.
    fn restart(&mut self, snapshot: Option<&[Vec<(u64, u8)>; 2]>) {
        let mut all: Vec<KeepOutcome> = self.small.drain(..).chain(self.main.drain(..)).collect();
        all.sort_by_key(|kept| kept.entry.sequence);
        for kept in &mut all {
            kept.uses = 0;
        }
        self.ghost = Ghost::default();
        let bytes = sum(&all);
        if let Some(snapshot) = snapshot {
            for (list, written) in [&mut self.small, &mut self.main].into_iter().zip(snapshot) {
                for &(sequence, uses) in written {
                    if let Some(at) = all.iter().position(|k| k.entry.sequence == sequence) {
                        list.push(KeepOutcome { uses, ..all.remove(at) });
                    }
                }
            }
        } else {
            while sum(&all) > bytes / 10 && !all.is_empty() {
                self.main.push(all.remove(0));
            }
        }
        self.small.extend(all);
    }
}

/// Which key an insertion is of.
#[derive(Default)]
struct Keys(Vec<u64>);

impl Keys {
    fn insert(&mut self, number: u64) -> u64 {
        self.0.push(number);
        self.0.len() as u64 - 1
    }

    fn key(&self, entry: EvictionEntry) -> KeyHash {
        key(self.0[usize::try_from(entry.sequence).unwrap()])
    }
}

#[derive(Default)]
struct Model {
    kinds: [ModelKind; 2],
}

impl Model {
    fn lists(&mut self) -> impl Iterator<Item = (&mut Vec<KeepOutcome>, bool)> {
        self.kinds
            .iter_mut()
            .flat_map(|ModelKind { small, main, .. }| [(small, false), (main, true)])
    }

    fn find(&mut self, sequence: u64) -> Option<&mut KeepOutcome> {
        let all = self.lists().flat_map(|(list, _)| list);
        all.into_iter().find(|kept| kept.entry.sequence == sequence)
    }

    /// What was there, and whether it was in a main queue.
    fn remove(&mut self, sequence: u64) -> Option<(EvictionEntry, bool)> {
        self.lists().find_map(|(list, is_main)| {
            let at = list.iter().position(|kept| kept.entry.sequence == sequence)?;
            Some((list.remove(at).entry, is_main))
        })
    }

    fn insert(
        &mut self,
        entry: EvictionEntry,
        key: KeyHash,
        replaced: Option<u64>,
    ) -> Option<EvictionEntry> {
        let replaced = replaced.and_then(|sequence| self.remove(sequence));
        let kind = &mut self.kinds[usize::from(entry.charge >= FILE)];
        let objects = kind.len();
        let was_main = replaced.is_some_and(|(_, is_main)| is_main);
        let is_known = was_main || kind.ghost.take(key, objects);
        let list = if is_known { &mut kind.main } else { &mut kind.small };
        list.push(KeepOutcome { entry, uses: 0 });
        replaced.map(|(entry, _)| entry)
    }

    fn bytes(&self) -> u64 {
        self.kinds.iter().map(ModelKind::bytes).sum()
    }

    fn evict(&mut self, keys: &Keys) -> Option<EvictionEntry> {
        let is_inline_full = self.kinds[0].bytes() > self.bytes() / 10;
        let [inline, file] = &mut self.kinds;
        let (first, second) = if is_inline_full { (inline, file) } else { (file, inline) };
        first.evict(keys).or_else(|| second.evict(keys))
    }

    fn all(&self) -> Vec<EvictionEntry> {
        let lists = self.kinds.iter().flat_map(|kind| [&kind.small, &kind.main]);
        let mut all: Vec<EvictionEntry> = lists.flatten().map(|kept| kept.entry).collect();
        all.sort_by_key(|entry| entry.sequence);
        all
    }

    fn restart(&mut self, snapshot: Option<&Vec<OrderedObject>>) {
        let snapshot = snapshot.map(|seen| {
            [QueueStage::Small, QueueStage::Main].map(|stage| {
                let of_stage = seen.iter().filter(|seen| seen.stage == stage);
                of_stage.map(|seen| (seen.entry.sequence, seen.uses)).collect::<Vec<_>>()
            })
        });
        self.kinds.iter_mut().for_each(|kind| kind.restart(snapshot.as_ref()));
    }
}

fn restarted(model: &Model, snapshot: Option<&Vec<OrderedObject>>) -> EvictionOrder {
    let mut order = EvictionOrder::new();
    model.all().into_iter().for_each(|entry| order.load(entry));
    for seen in snapshot.into_iter().flatten() {
        order.place(seen.entry.sequence, seen.stage, seen.uses);
    }
    let unplaced = if snapshot.is_some() { Unplaced::Newcomers } else { Unplaced::All };
    while order.settle(3, unplaced) {}
    order
}

fn written(order: &mut EvictionOrder) -> Vec<OrderedObject> {
    order.begin_walk();
    let pages = std::iter::from_fn(|| Some(order.walk(5)).filter(|seen| !seen.is_empty()));
    pages.flatten().collect()
}

fn evict_with(order: &mut EvictionOrder, keys: &Keys) -> Option<EvictionEntry> {
    let Evicted { entry, was_on_trial } = order.evict()?;
    if was_on_trial {
        order.remember(keys.key(entry), entry.charge);
    }
    Some(entry)
}

proptest! {
    #[test]
    fn it_agrees_with_plain_lists(steps in steps()) {
        let (mut order, mut model) = (EvictionOrder::new(), Model::default());
        let (mut keys, mut snapshot) = (Keys::default(), None);
        let mut latest = [None; 24];
        for step in steps {
            match step {
                Step::Insert(number, is_file) => {
                    let sequence = keys.insert(number);
                    let new = if is_file { file(sequence) } else { inline(sequence) };
                    let replaced = latest[usize::try_from(number).unwrap()].replace(sequence);
                    let expected = model.insert(new, key(number), replaced);
                    assert_eq!(order.insert(new, key(number), replaced), expected);
                }
                Step::Touch(number) => {
                    let sequence = latest[usize::try_from(number).unwrap()].unwrap_or(0);
                    order.touch(sequence);
                    if let Some(kept) = model.find(sequence) {
                        kept.uses = (kept.uses + 1).min(2);
                    }
                }
                Step::Remove(number) => {
                    let sequence = latest[usize::try_from(number).unwrap()].unwrap_or(0);
                    let removed = model.remove(sequence).map(|(entry, _)| entry);
                    assert_eq!(order.remove(sequence), removed);
                }
                Step::Evict => {
                    assert_eq!(evict_with(&mut order, &keys), model.evict(&keys));
                }
                Step::Write => snapshot = Some(written(&mut order)),
                Step::Restart => {
                    order = restarted(&model, snapshot.as_ref());
                    model.restart(snapshot.as_ref());
                }
            }
            let objects = model.kinds.iter().map(ModelKind::len).sum::<usize>();
            assert_eq!((order.len(), order.bytes()), (objects as u64, model.bytes()));
        }
        while let Some(entry) = model.evict(&keys) {
            assert_eq!(evict_with(&mut order, &keys), Some(entry));
        }
        assert_eq!(order.evict(), None);
    }
}
