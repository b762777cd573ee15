//! The slab against a sorted map and plain lists.

use super::*;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use std::collections::BTreeMap;

const UNIT: u64 = CHARGE_UNIT;

fn entry(sequence: u64) -> EvictionEntry {
    EvictionEntry { sequence, charge: UNIT * (1 + sequence % 7) }
}

/// What a queue holds, from its oldest on; checks the links on the way.
fn held(slab: &Slab, stage: QueueStage) -> Vec<u64> {
    let queue = slab.queue(BodyKind::Inline, stage);
    let (mut held, mut position, mut older) = (Vec::new(), queue.oldest, NONE);
    let mut bytes = 0;
    while let Some(seen) = slab.seen(position) {
        assert_eq!(slab.position(seen.entry.sequence), Some(position));
        assert_eq!((seen.stage, slab.node(position).unwrap().older), (stage, older));
        bytes += seen.entry.charge;
        held.push(seen.entry.sequence);
        older = position;
        position = slab.node(position).unwrap().newer;
    }
    assert_eq!((position, queue.newest), (NONE, older));
    assert_eq!((queue.bytes, queue.objects), (bytes, held.len()));
    held
}

#[test]
fn a_node_is_small() {
    assert_eq!(size_of::<OrderNode>(), 16);
}

/// FAULTS.md S15c.
#[test]
fn a_charge_comes_back_up_to_the_largest() {
    let mut slab = Slab::new();
    for (sequence, charge) in [(1, 0), (2, UNIT), (3, CHARGE_MAX), (4, CHARGE_MAX + UNIT)] {
        assert!(slab.add(
            EvictionEntry { sequence, charge },
            QueueStage::Main,
            2,
            QueueEnd::Newest
        ));
        let seen = slab.seen(slab.position(sequence).unwrap()).unwrap();
        let entry = EvictionEntry { sequence, charge: charge.min(CHARGE_MAX) };
        assert_eq!(seen, OrderedObject { entry, stage: QueueStage::Main, uses: 2 });
    }
    assert!(!slab.add(entry(2), QueueStage::Small, 0, QueueEnd::Newest), "it is there already");
}

/// FAULTS.md S15c.
#[test]
fn a_charge_that_changes_is_counted_up_to_the_largest() {
    let mut slab = Slab::new();
    assert!(slab.add(
        EvictionEntry { sequence: 1, charge: CHARGE_MAX },
        QueueStage::Main,
        0,
        QueueEnd::Newest
    ));
    let position = slab.position(1).unwrap();
    for charge in [CHARGE_MAX + UNIT, CHARGE_MAX - UNIT, 1 << 50, CHARGE_MAX] {
        slab.recharge(position, charge);
        let counted = slab.seen(position).unwrap().entry.charge;
        assert_eq!(counted, charge.min(CHARGE_MAX));
        assert_eq!(slab.queue(BodyKind::File, QueueStage::Main).bytes, counted);
    }
    slab.remove(position);
    assert_eq!(slab.queue(BodyKind::File, QueueStage::Main).bytes, 0);
}

#[test]
fn far_and_late_sequences_have_their_place() {
    let mut slab = Slab::new();
    let far = 1 << 40;
    let sequences = [far, 5, far + 1, 3, u64::MAX, 4, far - 1, far + (1 << 33), 0];
    for sequence in sequences {
        assert!(slab.add(entry(sequence), QueueStage::Small, 0, QueueEnd::Newest), "{sequence}");
    }
    assert_eq!(held(&slab, QueueStage::Small), sequences);
    for sequence in sequences {
        assert!(slab.remove(slab.position(sequence).unwrap()).is_some(), "{sequence}");
        assert!(slab.position(sequence).is_none());
    }
    assert_eq!((held(&slab, QueueStage::Small).len(), slab.places.len()), (0, 0));
}

#[test]
fn a_chunk_grows_from_any_length() {
    // A chunk that was written anew has no room to spare, whatever its length.
    for kept in 1..700_u64 {
        let mut slab = Slab::new();
        let add = |slab: &mut Slab, number| {
            assert!(slab.add(entry(number), QueueStage::Main, 0, QueueEnd::Newest));
        };
        (0..kept).for_each(|number| add(&mut slab, number));
        slab.rewrite(0, 1);
        (kept..CHUNK as u64 + 2).for_each(|number| add(&mut slab, number));
        assert_eq!(held(&slab, QueueStage::Main).len(), CHUNK + 2);
    }
}

#[test]
fn memory_shrinks_with_what_is_held() {
    let mut slab = Slab::new();
    let all = 200_000_u64;
    (0..all).for_each(|number| {
        slab.add(entry(number), QueueStage::Main, 0, QueueEnd::Newest);
    });
    assert!(slab.memory_bytes() as u64 <= all * 17, "{}", slab.memory_bytes());
    for kept_part in [2, 10, 100] {
        for number in (0..all).filter(|number| number % kept_part != 0) {
            if let Some(position) = slab.position(number) {
                slab.remove(position);
            }
        }
        let kept = all / kept_part;
        let bytes = slab.memory_bytes() as u64 / kept;
        assert!(bytes <= 26, "{bytes} bytes an object if one in {kept_part} is kept");
        let expected: Vec<u64> = (0..all).filter(|number| number % kept_part == 0).collect();
        assert_eq!(held(&slab, QueueStage::Main), expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u64, bool),
    Load,
    Remove(u64),
    Move(u64),
    Walk,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Late ones by some places, in any chunk.
    let late = prop_oneof![6 => Just(0), 3 => 0..4_u64, 1 => 0..5000_u64];
    let step = prop_oneof![
        30 => (late, any::<bool>()).prop_map(|(late, is_main)| Step::Add(late, is_main)),
        20 => Just(Step::Load),
        30 => any::<u64>().prop_map(Step::Remove),
        5 => any::<u64>().prop_map(Step::Move),
        5 => Just(Step::Walk),
    ];
    proptest::collection::vec((step, 1..60_u32), 0..150).prop_map(|runs| {
        let run = |(step, times): (Step, u32)| (0..times).map(move |_| step.clone());
        runs.into_iter().flat_map(run).collect()
    })
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn a_guess_changes_no_answer(
        steps in proptest::collection::vec(0..5_u32, 0..80),
        guess in 0..100_usize,
        wanted in 0..250_u32,
    ) {
        let sums = steps.iter().scan(0, |sum, step| { *sum += step; Some(*sum) });
        let items: Vec<u32> = sums.collect();
        let is_before = |item: &u32| *item < wanted;
        let expected = items.partition_point(is_before);
        assert_eq!(partition_point_near(&items, guess, is_before), expected);
    }

    #[test]
    fn it_agrees_with_a_sorted_map_and_plain_lists(steps in steps()) {
        let mut slab = Slab::new();
        let mut model: BTreeMap<u64, QueueStage> = BTreeMap::new();
        let (mut small, mut main): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        let (mut newest, mut loaded, mut front) = (1_u64 << 30, 0_u64, 0_usize);
        let mut spread = 0_u64;
        let mut walking = false;
        for step in steps {
            spread += 1;
            match step {
                Step::Add(late, is_main) => {
                    newest += 1 + 100 * late;
                    let sequence = newest - 90 * late.min(20);
                    let stage = if is_main { QueueStage::Main } else { QueueStage::Small };
                    let is_new = slab.add(entry(sequence), stage, 0, QueueEnd::Newest);
                    assert_eq!(is_new, !model.contains_key(&sequence));
                    if is_new {
                        model.insert(sequence, stage);
                        if is_main { main.push(sequence) } else { small.push(sequence) }
                    }
                }
                Step::Load => {
                    loaded += 1 + spread % 3;
                    slab.add(entry(loaded), QueueStage::Small, 0, QueueEnd::Loaded);
                    model.insert(loaded, QueueStage::Small);
                    small.insert(front, loaded);
                    front += 1;
                }
                Step::Remove(which) | Step::Move(which) if !model.is_empty() => {
                    let nth = usize::try_from(which % model.len() as u64).unwrap();
                    let (&sequence, &stage) = model.iter().nth(nth).unwrap();
                    let position = slab.position(sequence).unwrap();
                    let list = if stage == QueueStage::Main { &mut main } else { &mut small };
                    let at = list.iter().position(|&other| other == sequence).unwrap();
                    list.remove(at);
                    if stage == QueueStage::Small && at < front {
                        front -= 1;
                    }
                    if matches!(step, Step::Move(_)) {
                        slab.move_to(position, QueueStage::Main, 1, QueueEnd::Newest);
                        main.push(sequence);
                        model.insert(sequence, QueueStage::Main);
                    } else {
                        assert_eq!(slab.remove(position).unwrap().entry, entry(sequence));
                        assert_eq!(slab.position(sequence), None);
                        model.remove(&sequence);
                    }
                }
                Step::Remove(_) | Step::Move(_) => {}
                Step::Walk => {
                    if !walking {
                        slab.begin_walk(BodyKind::Inline, QueueStage::Small);
                    }
                    let seen = slab.walk(BodyKind::Inline, QueueStage::Small, 10);
                    walking = !seen.is_empty();
                    for seen in seen {
                        assert!(model.contains_key(&seen.entry.sequence));
                    }
                }
            }
        }
        assert_eq!(held(&slab, QueueStage::Small), small);
        assert_eq!(held(&slab, QueueStage::Main), main);
        for (&sequence, &stage) in &model {
            let seen = slab.seen(slab.position(sequence).unwrap()).unwrap();
            assert_eq!((seen.entry, seen.stage), (entry(sequence), stage));
        }
        let nodes: usize = slab.chunks.iter().map(|chunk| chunk.live).sum();
        assert_eq!(nodes, model.len());
    }
}
