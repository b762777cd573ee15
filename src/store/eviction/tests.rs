//! The eviction order against the paper, written down plainly.

use super::*;
use crate::object::Sha256;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};

const FILE: u64 = charge(INLINE_BYTES_MAX);

fn key(number: u64) -> KeyHash {
    KeyHash(*Sha256::of(&number.to_le_bytes()).0.first_chunk().unwrap())
}

/// An object in a file.
fn file(number: u64) -> Entry {
    Entry { hash: key(number), sequence: number, charge: FILE }
}

/// An object in the index.
fn inline(number: u64) -> Entry {
    Entry { hash: key(number), sequence: number, charge: 1024 }
}

fn evicted(order: &mut EvictionOrder) -> Vec<u64> {
    std::iter::from_fn(|| order.evict()).map(|entry| entry.sequence).collect()
}

fn filled(numbers: std::ops::Range<u64>) -> EvictionOrder {
    let mut order = EvictionOrder::new();
    numbers.for_each(|number| assert_eq!(order.insert(file(number)), None));
    order
}

#[test]
fn who_was_used_goes_later() {
    let mut order = filled(0..4);
    order.touch(key(0));
    assert_eq!(evicted(&mut order), [1, 2, 3, 0]);
    assert_eq!((order.evict(), order.len(), order.bytes()), (None, 0, 0));
}

#[test]
fn a_scan_passes_through_a_tenth_of_the_space() {
    let mut order = filled(0..100);
    (0..80).for_each(|number| order.touch(key(number)));
    for number in 1000..2000 {
        order.evict();
        order.insert(file(number));
    }
    let stayed = (0..80).filter(|&number| order.get(key(number)).is_some()).count();
    assert_eq!((stayed, order.len()), (80, 100));
}

#[test]
fn who_comes_back_soon_is_no_newcomer() {
    let mut order = filled(0..20);
    (1..20).for_each(|number| order.touch(key(number)));
    assert_eq!(order.evict(), Some(file(0)));
    order.insert(file(0));
    order.insert(file(50));
    order.insert(file(51));
    order.insert(file(52));
    assert_eq!(order.evict(), Some(file(50)), "back in the main queue, so the newcomer goes");
}

#[test]
fn a_replaced_object_keeps_its_standing() {
    let mut order = filled(0..20);
    (0..20).for_each(|number| order.touch(key(number)));
    (60..64).for_each(|number| assert_eq!(order.insert(file(number)), None));
    assert_eq!(order.evict(), Some(file(60)), "all others were used and are in the main queue");
    let newer = Entry { sequence: 100, ..file(3) };
    assert_eq!(order.insert(newer), Some(file(3)));
    assert_eq!(order.evict(), Some(file(61)));
    assert_eq!((order.get(key(3)), order.len()), (Some(newer), 22));
}

#[test]
fn small_bodies_outlast_large_ones_up_to_a_tenth_of_the_bytes() {
    let mut order = filled(0..100);
    let inline_max = 100 * FILE / 9 / 1024;
    (1000..1000 + inline_max).for_each(|number| assert_eq!(order.insert(inline(number)), None));
    assert_eq!(order.evict(), Some(file(0)), "a flood of large ones takes no small one");
    order.insert(inline(5000));
    assert_eq!(order.evict(), Some(inline(1000)), "nor a flood of small ones more than its part");
}

#[test]
fn small_bodies_have_it_all_where_there_is_no_other() {
    let mut order = EvictionOrder::new();
    (0..10).for_each(|number| assert_eq!(order.insert(inline(number)), None));
    assert_eq!(evicted(&mut order), (0..10).collect::<Vec<_>>());
}

#[test]
fn loaded_objects_are_put_in_their_order() {
    let mut order = EvictionOrder::new();
    let shuffled = (0..100).map(|number| number * 37 % 100);
    shuffled.for_each(|number| assert_eq!(order.insert(file(number)), None));
    order.touch(key(0));
    order.sort_by_sequence();
    assert_eq!(order.bytes(), 100 * FILE);
    order.insert(file(200));
    let order = evicted(&mut order);
    assert_eq!(order.first(), Some(&90), "the newest tenth is on trial");
    let expected = (1..90).chain([0]);
    let main: Vec<u64> = order.into_iter().filter(|&number| number < 90).collect();
    assert_eq!(main, expected.collect::<Vec<_>>(), "what was used while loading goes last");
}

#[test]
fn an_object_takes_at_most_sixty_four_bytes() {
    let mut order = EvictionOrder::new();
    for number in 0..120_000 {
        order.insert(file(number));
        if number >= 100_000 {
            order.evict();
        }
    }
    let bytes = order.memory_bytes() as u64 / order.len();
    assert!((40..=64).contains(&bytes), "{bytes} bytes an object");
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u64, bool),
    Touch(u64),
    Remove(u64),
    Evict,
    Sort,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = || any::<u64>().prop_map(|number| number % 24);
    let step = prop_oneof![
        6 => (number(), any::<bool>()).prop_map(|(number, kind)| Step::Insert(number, kind)),
        6 => number().prop_map(Step::Touch),
        1 => number().prop_map(Step::Remove),
        4 => any::<u8>().prop_map(|_| Step::Evict),
        1 => any::<bool>().prop_map(|_| Step::Sort),
    ];
    proptest::collection::vec(step, 0..300)
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    entry: Entry,
    uses: u8,
}

fn sum(list: &[Kept]) -> u64 {
    list.iter().map(|kept| kept.entry.charge).sum()
}

/// One lane as two plain lists, the oldest first.
#[derive(Default)]
struct ModelLane {
    small: Vec<Kept>,
    main: Vec<Kept>,
    ghost: Ghost,
}

impl ModelLane {
    fn bytes(&self) -> u64 {
        sum(&self.small) + sum(&self.main)
    }

    fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    fn evict(&mut self) -> Option<Entry> {
        while self.len() > 0 {
            if sum(&self.small) > self.bytes() / 10 || self.main.is_empty() {
                let kept = self.small.remove(0);
                if kept.uses == 0 {
                    self.ghost.add(kept.entry.hash, self.len());
                    return Some(kept.entry);
                }
                self.main.push(Kept { uses: 0, ..kept });
            } else {
                let kept = self.main.remove(0);
                if kept.uses == 0 {
                    return Some(kept.entry);
                }
                self.main.push(Kept { uses: kept.uses - 1, ..kept });
            }
        }
        None
    }

    fn sort(&mut self) {
        let mut all: Vec<Kept> = self.small.drain(..).chain(self.main.drain(..)).collect();
        all.sort_by_key(|kept| kept.entry.sequence);
        let trial = sum(&all) / 10;
        while let Some(kept) = all.first().copied() {
            if sum(&all) <= trial {
                break;
            }
            self.main.push(kept);
            all.remove(0);
        }
        self.small = all;
    }
}

#[derive(Default)]
struct Model {
    lanes: [ModelLane; 2],
}

impl Model {
    fn find(&mut self, hash: KeyHash) -> Option<&mut Kept> {
        let lists = self.lanes.iter_mut().flat_map(|lane| [&mut lane.small, &mut lane.main]);
        lists.flatten().find(|kept| kept.entry.hash == hash)
    }

    /// What was there, and whether it was in a main queue.
    fn remove(&mut self, hash: KeyHash) -> Option<(Entry, bool)> {
        for lane in &mut self.lanes {
            for (list, is_main) in [(&mut lane.small, false), (&mut lane.main, true)] {
                if let Some(at) = list.iter().position(|kept| kept.entry.hash == hash) {
                    return Some((list.remove(at).entry, is_main));
                }
            }
        }
        None
    }

    fn insert(&mut self, entry: Entry) -> Option<Entry> {
        let replaced = self.remove(entry.hash);
        let lane = &mut self.lanes[usize::from(entry.charge >= FILE)];
        let objects = lane.len();
        let was_main = replaced.is_some_and(|(_, is_main)| is_main);
        let is_known = was_main || lane.ghost.take(entry.hash, objects);
        let list = if is_known { &mut lane.main } else { &mut lane.small };
        list.push(Kept { entry, uses: 0 });
        replaced.map(|(entry, _)| entry)
    }

    fn bytes(&self) -> u64 {
        self.lanes.iter().map(ModelLane::bytes).sum()
    }

    fn evict(&mut self) -> Option<Entry> {
        let is_inline_full = self.lanes[0].bytes() > self.bytes() / 10;
        let [inline, file] = &mut self.lanes;
        let (first, second) = if is_inline_full { (inline, file) } else { (file, inline) };
        first.evict().or_else(|| second.evict())
    }
}

proptest! {
    #[test]
    fn it_agrees_with_plain_lists(steps in steps()) {
        let (mut order, mut model, mut sequence) = (EvictionOrder::new(), Model::default(), 0);
        for step in steps {
            match step {
                Step::Insert(number, is_file) => {
                    sequence += 1;
                    let like = if is_file { file(number) } else { inline(number) };
                    let new = Entry { sequence, ..like };
                    assert_eq!(order.insert(new), model.insert(new));
                }
                Step::Touch(number) => {
                    order.touch(key(number));
                    if let Some(kept) = model.find(key(number)) {
                        kept.uses = (kept.uses + 1).min(2);
                    }
                }
                Step::Remove(number) => {
                    let removed = model.remove(key(number)).map(|(entry, _)| entry);
                    assert_eq!(order.remove(key(number)), removed);
                }
                Step::Evict => assert_eq!(order.evict(), model.evict()),
                Step::Sort => {
                    order.sort_by_sequence();
                    model.lanes.iter_mut().for_each(ModelLane::sort);
                }
            }
            let objects = model.lanes.iter().map(ModelLane::len).sum::<usize>();
            assert_eq!((order.len(), order.bytes()), (objects as u64, model.bytes()));
        }
        while let Some(entry) = model.evict() {
            assert_eq!(order.evict(), Some(entry));
        }
        assert_eq!(order.evict(), None);
    }
}
