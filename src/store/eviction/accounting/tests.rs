//! The account: promises, evictions, loading beside changes.

use super::*;

const FIRST_NEW: u64 = 1000;
const ALL: Displaces = Displaces::Anything;

/// An account before it is loaded.
fn unloaded(limit: u64, bytes: u64, objects: u64) -> Arc<Accounting> {
    let totals = Totals { next_sequence: FIRST_NEW, bytes, objects };
    Accounting::new(limit, totals, &Metrics::new().unwrap())
}

fn space(limit: u64) -> Arc<Accounting> {
    let space = unloaded(limit, 0, 0);
    space.loaded();
    space
}

fn entry(sequence: u64, charge: u64) -> EvictionEntry {
    EvictionEntry { sequence, charge }
}

fn hash(sequence: u64) -> KeyHash {
    KeyHash([u8::try_from(sequence % 251).unwrap(); 16])
}

fn promised(room: ReserveOutcome) -> (Reservation, Vec<EvictionEntry>) {
    let ReserveOutcome::Promised(reservation, evicted) = room else { panic!("{room:?}") };
    (reservation, evicted.into_iter().map(|evicted| evicted.entry).collect())
}

#[test]
fn a_dropped_promise_is_given_back() {
    let space = space(4096);
    let (reservation, _) = promised(space.reserve(4096, ALL));
    assert!(
        matches!(space.reserve(512, ALL), ReserveOutcome::Short(evicted) if evicted.is_empty())
    );
    drop(reservation);
    promised(space.reserve(4096, ALL));
    assert!(matches!(space.reserve(4608, ALL), ReserveOutcome::Never));
}

/// FAULTS.md S15c.
#[test]
fn what_a_node_cannot_count_is_never_promised() {
    let space = space(u64::MAX);
    promised(space.reserve(ENTRY_BYTES_MAX, ALL));
    assert!(matches!(space.reserve(ENTRY_BYTES_MAX + 1, ALL), ReserveOutcome::Never));
}

#[test]
fn promises_and_objects_never_pass_the_limit() {
    let space = space(4096);
    for number in 0..40 {
        let (reservation, _) = promised(space.reserve(1024, ALL));
        let usage = space.usage();
        assert!(usage.bytes + usage.reserved_bytes <= 4096, "{usage:?}");
        space.add(reservation, entry(number, 1024), hash(number), None);
    }
    assert_eq!((space.usage().bytes, space.usage().objects), (4096, 4));
    let (_, evicted) = promised(space.reserve(2048, ALL));
    assert_eq!(evicted, [entry(36, 1024), entry(37, 1024)]);
}

#[test]
fn nothing_goes_for_a_promise_that_others_stand_in_the_way_of() {
    let space = space(4096);
    let (reservation, _) = promised(space.reserve(1024, ALL));
    space.add(reservation, entry(1, 1024), hash(1), None);
    let (_held, _) = promised(space.reserve(2048, ALL));
    assert!(
        matches!(space.reserve(2560, ALL), ReserveOutcome::Short(evicted) if evicted.is_empty())
    );
    assert_eq!(space.usage().objects, 1);
}

#[test]
fn objects_without_a_file_free_no_inode() {
    let space = space(1 << 30);
    let file = charge(64 << 10);
    for number in 0..40 {
        let entry = entry(number, if number % 2 == 0 { 512 } else { file });
        let (reservation, _) = promised(space.reserve(entry.charge, ALL));
        space.add(reservation, entry, hash(number), None);
    }
    let shed = space.shed_files(15, ALL);
    assert!(shed.len() == 15 && shed.iter().all(|evicted| evicted.entry.charge == file));
    assert_eq!(space.shed_files(15, ALL).len(), 5);
    assert_eq!((space.usage().objects, space.usage().bytes), (20, 20 * 512));
}

#[test]
fn a_replaced_object_counts_once() {
    let space = space(8192);
    let mut replaced = None;
    for (sequence, charge) in [(1, 1024), (2, 2048)] {
        let (reservation, _) = promised(space.reserve(charge, ALL));
        let new = entry(sequence, charge);
        space.add(reservation, new, hash(7), replaced.replace(new));
    }
    assert_eq!((space.usage().bytes, space.usage().objects), (2048, 1));
    space.remove(entry(1, 1024));
    assert_eq!((space.usage().bytes, space.usage().objects), (2048, 1), "gone already");
    space.remove(entry(2, 2048));
    assert_eq!((space.usage().bytes, space.usage().objects), (0, 0));
}

#[test]
fn totals_hold_until_the_order_is_loaded() {
    let space = unloaded(4096, 4096, 4);
    assert!(
        matches!(space.reserve(512, ALL), ReserveOutcome::Short(evicted) if evicted.is_empty())
    );
    space.begin_page();
    space.load(&[entry(1, 1024)]);
    let (reservation, evicted) = promised(space.reserve(512, ALL));
    assert_eq!(evicted, [entry(1, 1024)]);
    space.begin_page();
    space.load(&[entry(2, 1024), entry(3, 512)]);
    space.loaded();
    assert_eq!((space.usage().bytes, space.usage().objects), (1536, 2));
    drop(reservation);
    assert_eq!(space.usage().reserved_bytes, 0);
}

#[test]
fn what_goes_while_loading_is_counted_once() {
    let space = unloaded(10_240, 10_240, 10);
    let usage = || (space.usage().bytes, space.usage().objects);
    space.begin_page();
    space.load(&[entry(1, 1024), entry(2, 1024)]);
    let (_held, evicted) = promised(space.reserve(1024, ALL));
    assert_eq!((evicted, usage()), (vec![entry(1, 1024)], (9216, 9)));
    // Its removal from disk, which follows, says so again.
    space.remove(entry(1, 1024));
    assert_eq!(usage(), (9216, 9));
    // One that was loaded, and one that is still to come: twice each.
    for _ in 0..2 {
        space.remove(entry(2, 1024));
        space.remove(entry(5, 1024));
    }
    assert_eq!(usage(), (7168, 7));
    // What was inserted since the start is in the order, or was never counted.
    space.remove(entry(FIRST_NEW + 1, 1024));
    assert_eq!(usage(), (7168, 7));
}

#[test]
fn what_goes_while_its_page_is_read_is_not_loaded() {
    let space = unloaded(10_240, 4096, 4);
    assert_eq!(space.begin_page().next, 0);
    let page = [entry(1, 1024), entry(2, 1024), entry(3, 1024)];
    space.remove(entry(2, 1024));
    let (reservation, _) = promised(space.reserve(512, ALL));
    space.add(reservation, entry(FIRST_NEW, 512), hash(3), Some(entry(3, 1024)));
    space.load(&page[..2]);
    space.remove(entry(1, 1024));
    space.load(&page[2..]);
    assert_eq!(space.begin_page().next, 4);
    space.loaded();
    assert_eq!((space.usage().bytes, space.usage().objects), (512, 1));
}

/// Charges are kept in these.
const UNIT: u64 = 4096;

#[test]
fn in_any_order_what_is_promised_and_used_stays_within_the_limit_and_is_given_back() {
    crate::sync::orders::check(2_000, || {
        let space = space(100 * UNIT);
        let storing = (0..3_u64).map(|thread| {
            let space = Arc::clone(&space);
            shuttle::thread::spawn(move || {
                for turn in 0..4 {
                    let sequence = FIRST_NEW + thread * 10 + turn;
                    let ReserveOutcome::Promised(mut reservation, _) =
                        space.reserve(30 * UNIT, ALL)
                    else {
                        continue;
                    };
                    let rest = reservation.split(5 * UNIT);
                    match turn {
                        0 => drop(reservation),
                        _ => {
                            space.add(
                                reservation,
                                entry(sequence, 25 * UNIT),
                                hash(sequence),
                                None,
                            );
                        }
                    }
                    drop(rest);
                    let usage = space.usage();
                    assert!(usage.bytes + usage.reserved_bytes <= 100 * UNIT, "{usage:?}");
                    if turn == 2 {
                        space.remove(entry(sequence, 25 * UNIT));
                    }
                }
            })
        });
        for thread in storing.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
        let usage = space.usage();
        assert_eq!((usage.reserved_bytes, usage.bytes), (0, 25 * UNIT * usage.objects));
        let left = space.shed(u64::MAX, ALL);
        assert_eq!(left.len() as u64, usage.objects);
        assert_eq!(space.usage().bytes, 0);
    });
}
