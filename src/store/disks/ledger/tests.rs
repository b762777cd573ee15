//! The ledger against a model of edges that start with any of their disks, and its file's form.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn id(number: u8) -> DiskId {
    DiskId([number; 16])
}

fn key(number: u8) -> Scope {
    Scope::Key(Key::new("main", &format!("/{number}"), None))
}

fn prefix(text: &str) -> Scope {
    Scope::Prefix { site: "main".into(), prefix: text.into() }
}

fn tagged(name: &str) -> Scope {
    Scope::Tags { site: "main".into(), tags: PurgeTags::new([Tag::parse(name).unwrap()]) }
}

fn joiner(number: u8, record: Option<Ledger>, is_empty: bool) -> Joiner {
    let place = Member { path: format!("/disk{number}"), ..Member::default() };
    Joiner { id: id(number), place, record, is_empty }
}

/// A ledger of disks that came in new, one after the other.
fn all_new(numbers: &[u8]) -> Ledger {
    let mut ledger = Ledger::default();
    let mut present = Vec::new();
    for number in numbers {
        ledger.admit(joiner(*number, None, true), &present);
        present.push(id(*number));
    }
    ledger
}

fn owes(ledger: &Ledger, number: u8) -> Vec<Scope> {
    ledger.owed(id(number)).map(Owed::scopes).unwrap_or_default()
}

#[test]
fn what_is_owed_covers_keys_prefixes_and_at_last_all_of_a_site() {
    let mut owed = Owed::default();
    let of = |path: &str| Key::new("main#1", path, None);
    assert!(owed.add(&prefix("/log/")) && !owed.add(&prefix("/log/")));
    assert!(owed.covers(&of("/log/x")) && !owed.covers(&of("/lo")));
    assert!(!owed.covers(&Key::new("other", "/log/x", None)));
    assert!(owed.add(&Scope::Key(of("/a"))) && owed.covers(&of("/a")) && !owed.covers(&of("/b")));
    assert!(owed.add(&tagged("x")) && !owed.add(&tagged("x")));
    assert!(owed.covers(&of("/b")) && !owed.covers(&Key::new("other", "/b", None)));
    assert_eq!(owed.len(), 3);
    for number in 0..OWED_MAX {
        owed.add(&Scope::Key(of(&number.to_string())));
    }
    assert_eq!(owed.scopes(), [prefix("/")]);
    assert!(owed.covers(&of("/b")) && !owed.add(&key(1)) && !owed.add(&tagged("y")));
    assert!(!owed.covers(&Key::new("other", "/b", None)), "sites are independent");
    assert!(owed.add(&Scope::All));
    assert_eq!(owed.scopes(), [Scope::All]);
}

#[test]
fn many_purges_of_some_sites_leave_the_others_alone_and_too_many_sites_are_all() {
    let mut owed = Owed::default();
    let of = |site: usize, path: usize| Key::new(&site.to_string(), &format!("/{path}"), None);
    for path in 0..6 * OWED_MAX {
        owed.add(&Scope::Key(of(path % 3, path)));
        owed.add(&Scope::Key(of(3, path / 100)));
    }
    for site in 0..3 {
        assert!(owed.covers(&of(site, OWED_MAX)), "{site}");
    }
    assert!(owed.covers(&of(3, 1)) && !owed.covers(&of(3, 100)) && !owed.covers(&of(4, 1)));
    assert!(owed.may_cover("3", of(3, 1).hash()) && !owed.may_cover("3", of(3, 100).hash()));
    assert!(owed.may_cover("0", of(0, OWED_MAX).hash()));
    for site in 4..OWED_MAX {
        owed.add(&Scope::Key(of(site, 1)));
    }
    assert!(!owed.covers(&of(4, 2)) && owed.len() <= OWED_MAX);
    for site in OWED_MAX..OWED_MAX + 8 {
        owed.add(&Scope::Key(of(site, 1)));
    }
    assert_eq!(owed.scopes(), [Scope::All]);
}

#[test]
fn who_is_out_owes_until_it_has_made_up_for_all_of_it() {
    let mut ledger = all_new(&[1, 2]);
    assert!(ledger.owe(&key(7), &[id(1)]));
    assert!(!ledger.owe(&key(7), &[id(1)]), "known already");
    assert_eq!((owes(&ledger, 1), owes(&ledger, 2)), (vec![], vec![key(7)]));
    let done = ledger.owed(id(2)).unwrap().clone();
    ledger.owe(&key(7), &[id(1)]);
    assert!(!ledger.settle(id(2), &done), "purged again meanwhile");
    let done = ledger.owed(id(2)).unwrap().clone();
    assert!(ledger.settle(id(2), &done) && ledger.owed(id(2)).is_none());
}

#[test]
fn strangers_clear_each_other_only_where_something_was_purged() {
    let purged = |number: u8| {
        let mut ledger = all_new(&[number]);
        ledger.owe(&key(1), &[id(number)]);
        ledger
    };
    let all = vec![Scope::All];
    for (present, stranger, is_empty, owed) in [
        (all_new(&[1]), all_new(&[9]), false, (vec![], vec![])),
        (purged(1), all_new(&[9]), false, (vec![], all.clone())),
        (purged(1), all_new(&[9]), true, (vec![], vec![])),
        (all_new(&[1]), purged(9), false, (all.clone(), vec![])),
        (purged(1), purged(9), true, (all.clone(), vec![])),
    ] {
        let mut ledger = present;
        assert!(!ledger.admit(joiner(9, Some(stranger), is_empty), &[id(1)]));
        assert_eq!((owes(&ledger, 1), owes(&ledger, 9)), owed);
    }
    let mut ledger = purged(1);
    ledger.admit(joiner(2, None, false), &[id(1)]);
    assert_eq!(owes(&ledger, 2), all, "no record that can be read");
}

#[test]
fn the_first_one_in_is_believed() {
    let mut record = all_new(&[1, 2]);
    record.owe(&key(3), &[id(1)]);
    let mut ledger = Ledger::default();
    assert!(ledger.admit(joiner(1, Some(record), false), &[]));
    assert_eq!((owes(&ledger, 1), owes(&ledger, 2)), (vec![], vec![key(3)]));
    let mut ledger = Ledger::default();
    assert!(ledger.admit(joiner(1, None, false), &[]), "a store of before");
    assert_eq!(owes(&ledger, 1), []);
}

#[test]
fn a_disk_that_returns_leaves_alone_who_came_while_it_was_out() {
    // 1 and 2; 2 is out; 3 comes; 7 is purged; 2 comes back.
    let old = all_new(&[1, 2]);
    let mut ledger = old.clone();
    ledger.admit(joiner(3, None, true), &[id(1)]);
    ledger.owe(&key(7), &[id(1), id(3)]);
    assert!(ledger.admit(joiner(2, Some(old.clone()), false), &[id(1), id(3)]));
    assert_eq!(
        (owes(&ledger, 1), owes(&ledger, 2), owes(&ledger, 3)),
        (vec![], vec![key(7)], vec![])
    );
    // The same, but 2 was alone for a while, and saw 8 purged, which 3 may have missed.
    let mut alone = old.clone();
    alone.owe(&key(8), &[id(2)]);
    let mut ledger = old;
    ledger.admit(joiner(3, None, true), &[id(1)]);
    ledger.admit(joiner(2, Some(alone), false), &[id(1), id(3)]);
    assert_eq!((owes(&ledger, 1), owes(&ledger, 3)), (vec![key(8)], vec![key(8)]));
}

#[test]
fn too_many_disks_are_forgotten_but_not_those_that_are_in() {
    let numbers: Vec<u8> = (0..=255).collect();
    let mut ledger = all_new(&numbers);
    let mut extra = joiner(0, None, true);
    extra.id = DiskId([0xaa, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    ledger.admit(extra, &[id(0), id(1)]);
    assert_eq!(ledger.members.len(), MEMBERS_MAX);
    assert!(ledger.members.contains_key(&id(1)) && !ledger.members.contains_key(&id(2)));
}

/// What happens to an edge with up to four disks: it starts with some of them, purges while some of
/// those fail, and stops.
#[derive(Debug, Clone)]
enum Event {
    Start {
        disks: u8,
    },
    Come {
        disk: u8,
    },
    Purge {
        key: u8,
    },
    /// The disks that are in and fail do not carry it out.
    PurgeWhile {
        key: u8,
        failing: u8,
    },
    Settle {
        disk: u8,
    },
    Fill {
        disk: u8,
        key: u8,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => (1_u8..16).prop_map(|disks| Event::Start { disks }),
        2 => (0_u8..4).prop_map(|disk| Event::Come { disk }),
        3 => (0_u8..6).prop_map(|key| Event::Purge { key }),
        1 => (0_u8..6, 0_u8..16).prop_map(|(key, failing)| Event::PurgeWhile { key, failing }),
        2 => (0_u8..4).prop_map(|disk| Event::Settle { disk }),
        4 => (0_u8..4, 0_u8..6).prop_map(|(disk, key)| Event::Fill { disk, key }),
    ];
    proptest::collection::vec(event, 1..60)
}

/// The disks, and what each holds: keys, and at which purge of them they were filled.
#[derive(Debug, Default)]
struct World {
    held: [BTreeSet<(u8, u32)>; 4],
    records: [Option<Ledger>; 4],
    ledger: Ledger,
    present: Vec<u8>,
    /// Purges so far of each key, and for each the disks that saw it.
    purges: [Vec<BTreeSet<u8>>; 6],
}

impl World {
    fn ids(&self) -> Vec<DiskId> {
        self.present.iter().map(|number| id(*number)).collect()
    }

    fn write(&mut self) {
        for number in &self.present {
            let bytes = encode(id(*number), &self.ledger).unwrap();
            let (own, read) = decode(&bytes).unwrap();
            assert_eq!(own, id(*number));
            self.records[usize::from(*number)] = Some(read);
        }
    }

    fn come(&mut self, number: u8) {
        if self.present.contains(&number) {
            return;
        }
        let at = usize::from(number);
        let joiner = joiner(number, self.records[at].clone(), self.held[at].is_empty());
        self.ledger.admit(joiner, &self.ids());
        self.present.push(number);
        self.write();
    }

    fn purge(&mut self, purged: u8, failing: u8) {
        if self.present.is_empty() {
            return;
        }
        let working: Vec<u8> = self
            .present
            .iter()
            .copied()
            .filter(|n| failing & (1 << n) == 0 && self.ledger.owed(id(*n)).is_none())
            .collect();
        for number in &working {
            self.held[usize::from(*number)].retain(|(key, _)| *key != purged);
        }
        let done: Vec<_> = working.iter().map(|number| id(*number)).collect();
        self.ledger.owe(&key(purged), &done);
        self.purges[usize::from(purged)].push(self.present.iter().copied().collect());
        self.write();
    }

    fn settle(&mut self, number: u8) {
        let Some(owed) = self.ledger.owed(id(number)).cloned() else { return };
        if !self.present.contains(&number) {
            return;
        }
        let is_owed = |key: &u8| owed.covers(&Key::new("main", &format!("/{key}"), None));
        self.held[usize::from(number)].retain(|(key, _)| !is_owed(key));
        assert!(self.ledger.settle(id(number), &owed));
        self.write();
    }

    /// Nothing is served that was purged after it was filled, as far as any disk that is in saw the
    /// purge, or was with one that saw it since.
    fn check(&self, knows: &[BTreeSet<(u8, u32)>; 4]) {
        for number in &self.present {
            for (held, filled_at) in &self.held[usize::from(*number)] {
                let path = Key::new("main", &format!("/{held}"), None);
                if self.ledger.owed(id(*number)).is_some_and(|owed| owed.covers(&path)) {
                    continue;
                }
                for other in &self.present {
                    let stale = knows[usize::from(*other)]
                        .iter()
                        .find(|(key, purge)| key == held && purge >= filled_at);
                    assert!(stale.is_none(), "disk {number} serves {held}, disk {other} knows");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nobody_serves_what_anybody_who_is_in_saw_purged(events in events()) {
        let mut world = World::default();
        // The purges that each disk saw happen while it was in.
        let mut knows: [BTreeSet<(u8, u32)>; 4] = Default::default();
        for event in events {
            match event {
                Event::Start { disks } => {
                    world.present.clear();
                    world.ledger = Ledger::default();
                    let mut order: Vec<u8> = (0..4).filter(|n| disks & (1 << n) != 0).collect();
                    order.sort_by_key(|number| {
                        let at = usize::from(*number);
                        (world.held[at].is_empty(), world.records[at].is_none())
                    });
                    for number in order {
                        world.come(number);
                    }
                }
                Event::Come { disk } if !world.present.is_empty() => world.come(disk),
                Event::Purge { key } | Event::PurgeWhile { key, failing: 0 } => world.purge(key, 0),
                Event::PurgeWhile { key, failing } => world.purge(key, failing),
                Event::Settle { disk } => world.settle(disk),
                Event::Fill { disk, key } if world.present.contains(&disk) => {
                    if world.ledger.owed(id(disk)).is_none() {
                        let now = u32::try_from(world.purges[usize::from(key)].len()).unwrap();
                        let held = &mut world.held[usize::from(disk)];
                        held.retain(|(other, _)| *other != key);
                        held.insert((key, now));
                    }
                }
                Event::Come { .. } | Event::Fill { .. } => {}
            }
            for (key, purges) in (0_u8..).zip(&world.purges) {
                for (purge, saw) in (0_u32..).zip(purges) {
                    for disk in saw {
                        knows[usize::from(*disk)].insert((key, purge));
                    }
                }
            }
            world.check(&knows);
        }
    }

    #[test]
    fn a_damaged_file_is_never_read(
        at: prop::sample::Index,
        bit in 0_u8..8,
        cut: prop::sample::Index,
    ) {
        let mut ledger = all_new(&[1, 2, 3]);
        ledger.owe(&key(4), &[id(1)]);
        ledger.owe(&prefix("/log/"), &[id(2)]);
        ledger.owe(&tagged("x"), &[id(2)]);
        let bytes = encode(id(1), &ledger).unwrap();
        let mut flipped = bytes.clone();
        let position = at.index(bytes.len());
        flipped[position] ^= 1 << bit;
        prop_assert_eq!(decode(&flipped).map(|_| ()), None);
        prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())]).map(|_| ()), None);
        prop_assert!(decode(&bytes).is_some());
    }
}

#[test]
fn the_file_is_as_it_ever_was() {
    let mut ledger = all_new(&[1, 2]);
    ledger.members.get_mut(&id(2)).unwrap().mount = "/mnt".into();
    ledger.owe(&key(5), &[id(1)]);
    ledger.owe(&prefix("/log/"), &[id(1)]);
    let older = include_str!("../../golden/purges-1.hex").trim_end();
    let digits = older.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    let older: Vec<u8> = digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    assert_eq!(owes(&decode(&older).unwrap().1, 2).len(), 2);
    ledger.owe(&tagged("a/b"), &[id(1)]);
    let bytes = encode(id(1), &ledger).unwrap();
    let text = crate::nix::hash::base16(&bytes);
    assert_eq!(text, include_str!("../../golden/purges-2.hex").trim_end());
    let place = tempfile::tempdir().unwrap();
    assert!(read(place.path()).unwrap().is_none());
    write(place.path(), id(1), &ledger).unwrap();
    let (own, again) = read(place.path()).unwrap().unwrap();
    assert_eq!((own, owes(&again, 2).len()), (id(1), 3));
    std::fs::write(place.path().join(NAME), "torn").unwrap();
    assert!(read(place.path()).unwrap().is_none());
}
