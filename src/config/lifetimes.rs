//! How long the objects of a binary cache stay fresh, as the rest of the crate sees it. Values
//! only.

use super::caching::PathPattern;
use crate::nix::Class;
use std::ops::RangeInclusive;
use std::time::Duration;

/// `[site.lifetimes]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifetimes {
    /// A 200 of each class stays fresh this long, in the order of [`Class::ALL`].
    pub fresh: [Duration; Class::ALL.len()],
    /// What holds if no rule says otherwise; the lifetime of a 200 is that of its class.
    pub otherwise: LifetimeTerms,
    /// The rules by path and class; the first that matches counts.
    pub rules: Vec<LifetimeRule>,
}

/// How long an object stays fresh, and serves when it is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LifetimeTerms {
    /// A 200 stays fresh this long, or less if its origin says so.
    pub fresh: Duration,
    /// A 200 stays fresh this long whatever its origin says, but never longer than `fresh`.
    pub fresh_min: Duration,
    /// An absence is remembered this long.
    pub absent: Duration,
    /// A stale object still serves this long while it is confirmed.
    pub stale_while_revalidate: Duration,
    /// A stale object still serves this long while no origin gives a usable answer.
    pub stale_if_error: Duration,
    /// A request waits this long for an origin to confirm a stale object that may serve.
    pub revalidation_wait: Duration,
}

impl LifetimeTerms {
    /// How long a 200 stays fresh, at least and at most.
    pub fn bounds(&self) -> RangeInclusive<Duration> {
        self.fresh_min.min(self.fresh)..=self.fresh
    }
}

/// `[[site.lifetimes.rule]]`: what is other for some paths or classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LifetimeRule {
    /// The paths that it is for; empty for all.
    pub paths: Vec<PathPattern>,
    /// The classes that it is for; empty for all.
    pub classes: Vec<Class>,
    /// See [`LifetimeTerms::fresh`].
    pub fresh: Option<Duration>,
    /// See [`LifetimeTerms::fresh_min`].
    pub fresh_min: Option<Duration>,
    /// See [`LifetimeTerms::absent`].
    pub absent: Option<Duration>,
    /// See [`LifetimeTerms::stale_while_revalidate`].
    pub stale_while_revalidate: Option<Duration>,
    /// See [`LifetimeTerms::stale_if_error`].
    pub stale_if_error: Option<Duration>,
    /// See [`LifetimeTerms::revalidation_wait`].
    pub revalidation_wait: Option<Duration>,
}

impl Lifetimes {
    /// How long a 200 of `class` stays fresh if no rule says otherwise.
    pub fn fresh(&self, class: Class) -> Duration {
        let fresh = self.fresh.get(class.index());
        debug_assert!(fresh.is_some(), "each class has a lifetime");
        fresh.copied().unwrap_or_default()
    }

    /// What counts for the object at `path`.
    pub fn of(&self, class: Class, path: &str) -> LifetimeTerms {
        let terms = LifetimeTerms { fresh: self.fresh(class), ..self.otherwise };
        let Some(rule) = self.rules.iter().find(|rule| rule.is_of(class, path)) else {
            return terms;
        };
        LifetimeTerms {
            fresh: rule.fresh.unwrap_or(terms.fresh),
            fresh_min: rule.fresh_min.unwrap_or(terms.fresh_min),
            absent: rule.absent.unwrap_or(terms.absent),
            stale_while_revalidate: rule
                .stale_while_revalidate
                .unwrap_or(terms.stale_while_revalidate),
            stale_if_error: rule.stale_if_error.unwrap_or(terms.stale_if_error),
            revalidation_wait: rule.revalidation_wait.unwrap_or(terms.revalidation_wait),
        }
    }
}

impl LifetimeRule {
    fn is_of(&self, class: Class, path: &str) -> bool {
        (self.classes.is_empty() || self.classes.contains(&class))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.is_of(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_rule_that_matches_path_and_class_counts() {
        let rule = |path: &str, classes: &[Class], fresh| LifetimeRule {
            paths: if path.is_empty() { vec![] } else { vec![PathPattern::new(path)] },
            classes: classes.to_vec(),
            fresh: Some(seconds(fresh)),
            ..LifetimeRule::default()
        };
        let lifetimes = Lifetimes {
            fresh: [seconds(9); Class::ALL.len()],
            otherwise: LifetimeTerms { absent: seconds(8), ..LifetimeTerms::default() },
            rules: vec![
                rule("/log/a*", &[], 1),
                rule("/log/*", &[Class::Log], 2),
                rule("", &[Class::Narinfo, Class::Listing], 3),
            ],
        };
        for (class, path, fresh) in [
            (Class::Log, "/log/a", 1),
            (Class::Log, "/log/b", 2),
            (Class::Other, "/log/b", 9),
            (Class::Narinfo, "/x.narinfo", 3),
            (Class::Nar, "/nar/x", 9),
        ] {
            let terms = lifetimes.of(class, path);
            assert_eq!((terms.fresh, terms.absent), (seconds(fresh), seconds(8)), "{path}");
        }
    }

    #[test]
    fn the_least_is_never_more_than_the_most() {
        let terms = |fresh, fresh_min| LifetimeTerms {
            fresh: seconds(fresh),
            fresh_min: seconds(fresh_min),
            ..LifetimeTerms::default()
        };
        assert_eq!(terms(9, 4).bounds(), seconds(4)..=seconds(9));
        assert_eq!(terms(4, 9).bounds(), seconds(4)..=seconds(4));
    }
}
