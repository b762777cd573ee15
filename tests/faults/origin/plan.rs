//! Which requests go wrong, and how: rules with a chance each, drawn from a seed. What is drawn
//! for a request follows from the seed, its target and how often that was asked for, not from the
//! order in which different targets come: a run is repeated by its seed. Lives as long as its
//! origin; the locks are held for a look-up only.

use super::fault::Fault;
use super::reply::Asked;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Chances are so many parts of 1.
const PARTS: u64 = 1_000_000;

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub(crate) fault: Fault,
    /// From 0, never, to 1, always.
    pub(crate) chance: f64,
    /// The one target that it is for; else it is for all.
    pub(crate) target: Option<String>,
    /// How often it strikes; else for good.
    pub(crate) times: Option<u64>,
}

/// Rules `FAULT[@CHANCE]` with commas between. At most one of them strikes a request, so their
/// chances add up to 1 at most.
pub(crate) fn parse_rules(text: &str) -> Result<Vec<Rule>, String> {
    let rules = text.split(',').map(|rule| {
        let (fault, chance) = rule.trim().split_once('@').unwrap_or((rule.trim(), "1"));
        let chance = chance
            .parse()
            .ok()
            .filter(|chance| (0.0..=1.0).contains(chance))
            .ok_or_else(|| format!("{rule:?}: a chance is a number from 0 to 1"))?;
        Ok(Rule { fault: fault.parse()?, chance, target: None, times: None })
    });
    rules.collect()
}

/// The rules of an origin.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    seed: u64,
    rules: Mutex<Vec<Rule>>,
    /// How often each target was asked for.
    turns: Mutex<HashMap<String, u64>>,
}

impl Plan {
    /// These rules, drawn from `seed`.
    pub(crate) fn new(seed: u64, rules: Vec<Rule>) -> Result<Self, String> {
        let sum: f64 = rules.iter().map(|rule| rule.chance).sum();
        if sum > 1.0 + 1e-9 {
            return Err(format!("the chances of all faults add up to {sum}, more than 1"));
        }
        Ok(Self { seed, rules: Mutex::new(rules), turns: Mutex::default() })
    }

    /// From now on these rules alone.
    pub(crate) fn set(&self, rules: Vec<Rule>) {
        *self.rules.lock() = rules;
    }

    /// Whether a connection is refused.
    pub(crate) fn refuses(&self) -> bool {
        let drawn = self.mixed("a connection");
        self.strike(drawn, |rule| rule.fault == Fault::Refuse).is_some()
    }

    /// What strikes a request, and a number to draw a place from.
    pub(crate) fn draw(&self, asked: &Asked) -> Option<(Fault, u64)> {
        let drawn = self.mixed(&asked.target);
        let is_meant = |rule: &Rule| {
            rule.fault != Fault::Refuse
                && rule.target.as_ref().is_none_or(|target| *target == asked.target)
        };
        self.strike(drawn, is_meant).map(|fault| (fault, drawn.rotate_left(32)))
    }

    fn strike(&self, drawn: u64, is_meant: impl Fn(&Rule) -> bool) -> Option<Fault> {
        let mut at = drawn % PARTS;
        let mut rules = self.rules.lock();
        let living = rules.iter_mut().filter(|rule| rule.times != Some(0));
        for rule in living.filter(|rule| is_meant(rule)) {
            let parts = parts(rule.chance);
            if at < parts {
                rule.times = rule.times.map(|times| times - 1);
                return Some(rule.fault);
            }
            at -= parts;
        }
        None
    }

    fn mixed(&self, target: &str) -> u64 {
        let mut turns = self.turns.lock();
        let turn = turns.entry(target.to_owned()).or_insert(0);
        *turn += 1;
        let text = format!("{} {turn} {target}", self.seed);
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }
}

/// A chance in parts of 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a chance is from 0 to 1, so the product is from 0 to a million"
)]
fn parts(chance: f64) -> u64 {
    (chance * PARTS as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::super::fault::HELP;
    use super::*;

    fn asked(target: &str) -> Asked {
        let target = target.to_owned();
        let raw_target = target.clone();
        Asked { method: "GET".to_owned(), target, raw_target, fields: Vec::new() }
    }

    #[test]
    fn every_name_that_help_tells_is_a_fault_that_says_its_name() {
        for line in HELP.lines() {
            let name = line.split(&[' ', '[', ','][..]).next().unwrap();
            for text in [name.to_owned(), format!("{name}:7")] {
                let takes_number = line.starts_with(&format!("{name}[")) || name == "500";
                let fault = text.parse::<Fault>();
                assert_eq!(fault.is_ok(), takes_number || text == name, "{text}: {fault:?}");
                let Ok(fault) = fault else { continue };
                assert_eq!(fault.to_string().parse(), Ok(fault));
                assert!(fault.to_string().starts_with(name), "{fault}");
            }
        }
        for wrong in ["", "5000", "100", "cut:", "cut:x", "cut@2", "cut@-1", "cut@x", "none"] {
            assert!(parse_rules(wrong).is_err(), "{wrong}");
        }
        let rules = parse_rules("cut@0.6, hang@0.5").unwrap();
        assert!(Plan::new(1, rules).is_err(), "more than all");
    }

    #[test]
    fn chances_are_kept_and_repeat_by_their_seed() {
        let plan = |seed| Plan::new(seed, parse_rules("500@0.2,cut@0.2").unwrap()).unwrap();
        let draw = |seed, targets: &[usize]| {
            let plan = plan(seed);
            let drawn = targets.iter().map(|n| (*n, plan.draw(&asked(&format!("/{n}")))));
            let mut drawn: Vec<_> = drawn.collect();
            drawn.sort_unstable_by_key(|(n, _)| *n);
            drawn
        };
        let forth: Vec<usize> = (0..10_000).collect();
        let back: Vec<usize> = (0..10_000).rev().collect();
        let drawn = draw(1, &forth);
        assert_eq!(drawn, draw(1, &back));
        assert_ne!(drawn, draw(2, &forth));
        for name in ["500", "cut"] {
            let is_it = |fault: &Fault| fault.to_string() == name;
            let hit =
                drawn.iter().filter(|(_, drawn)| drawn.is_some_and(|(fault, _)| is_it(&fault)));
            let hit = hit.count();
            assert!((1_800..2_200).contains(&hit), "{name}: {hit}");
        }
    }
}
