//! What is wrong with a configuration: the place, what was found, what to write instead. Values
//! only; made by every reader of this module, printed by `cli`, one line each.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// One thing that is wrong, or, among the warnings, one that is surely not meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigProblem {
    /// The source that says so.
    pub place: SourcePlace,
    /// The TOML path, such as `site[0].origin[1].url`; empty if the TOML does not parse.
    pub path: String,
    /// What was found, quoted as in TOML; `None` if nothing was, or if it may be secret.
    pub found: Option<String>,
    /// What is wrong with it, and what to write instead.
    pub message: String,
}

/// The source of a value, and the position in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourcePlace {
    /// The configuration file.
    File {
        /// Its path, as it was named.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1, if it matters.
        column: Option<usize>,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// A flag of the command line.
    Flag {
        /// Its name, with the dashes.
        name: &'static str,
    },
    /// No source: a default that does not hold here.
    Default,
}

/// Everything that is wrong, in the order of the file; never empty in an `Err`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<ConfigProblem>);

/// A TOML path and the place of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// The TOML path.
    pub(super) path: String,
    /// The place.
    pub(super) place: SourcePlace,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spotted<T> {
    /// The value.
    pub(super) value: T,
    /// The place of the value.
    pub(super) spot: Spot,
}

/// What the readers have to say so far.
#[derive(Debug, Default)]
pub(super) struct ProblemReport {
    /// What keeps the configuration from being used.
    pub(super) problems: Vec<ConfigProblem>,
    /// What is surely not meant.
    pub(super) warnings: Vec<ConfigProblem>,
}

impl ConfigProblem {
    /// The line of the file, from 1, if the file is the source.
    pub fn line(&self) -> Option<usize> {
        match &self.place {
            SourcePlace::File { line, .. } => Some(*line),
            SourcePlace::Environment { .. } | SourcePlace::Flag { .. } | SourcePlace::Default => {
                None
            }
        }
    }
}

impl Spot {
    /// A problem here, with nothing to quote.
    pub(super) fn problem(&self, message: impl Into<String>) -> ConfigProblem {
        let message = message.into();
        ConfigProblem { place: self.place.clone(), path: self.path.clone(), found: None, message }
    }

    /// A problem with the text that stands here; the secrets in it are not told.
    pub(super) fn problem_with(&self, text: &str, message: impl Into<String>) -> ConfigProblem {
        ConfigProblem { found: Some(quote(&without_secrets(text))), ..self.problem(message) }
    }

    /// The element `position` of the list that stands here.
    pub(super) fn element(&self, position: usize) -> Self {
        Self { path: format!("{}[{position}]", self.path), place: self.place.clone() }
    }
}

impl ProblemReport {
    /// Notes what keeps the configuration from being used.
    pub(super) fn problem(&mut self, problem: ConfigProblem) {
        self.problems.push(problem);
    }

    /// Notes what is surely not meant.
    pub(super) fn warning(&mut self, warning: ConfigProblem) {
        self.warnings.push(warning);
    }
}

/// A text in quotes, cut to a readable length, control characters escaped.
pub(super) fn quote(text: &str) -> String {
    const CHARACTERS_MAX: usize = 120;
    if text.chars().count() <= CHARACTERS_MAX {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(CHARACTERS_MAX).collect();
    format!("{head:?}...")
}

/// A text without the secrets that may stand in it, if it is meant for a URL of any shape: all in
/// front of the last `@`, and behind it too if that may belong to a query or a fragment; the values
/// of a query but for plain ones that hold none, and a fragment.
pub(super) fn without_secrets(text: &str) -> Cow<'_, str> {
    const PLAIN: [&str; 5] = ["addressing-style", "endpoint", "profile", "region", "scheme"];
    if !text.contains(['@', '?', '#']) {
        return text.into();
    }
    let text = match text.rsplit_once('@') {
        Some((secret, rest)) => {
            let scheme = secret.split_once("://").map_or(String::new(), |(s, _)| format!("{s}://"));
            if secret.contains(['?', '#']) {
                return format!("{scheme}***").into();
            }
            format!("{scheme}***@{rest}")
        }
        None => text.to_owned(),
    };
    let (text, fragment) = text.split_once('#').map_or((&*text, ""), |(text, _)| (text, "#***"));
    let Some((place, query)) = text.split_once('?') else {
        return format!("{text}{fragment}").into();
    };
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        // A URL may be such a value, with secrets of its own behind escapes.
        Some((name, value)) if !PLAIN.contains(&name) || value.contains(['%', '?', '@']) => {
            format!("{name}=***")
        }
        Some(_) => parameter.to_owned(),
        None => "***".to_owned(),
    });
    let parameters: Vec<String> = parameters.collect();
    format!("{place}?{}{fragment}", parameters.join("&")).into()
}

impl fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column: None } => write!(f, "{file}:{line}"),
            Self::File { file, line, column: Some(column) } => write!(f, "{file}:{line}:{column}"),
            Self::Environment { name } => f.write_str(name),
            Self::Flag { name } => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path, self.place)
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}: ", self.place);
        if !self.path.is_empty() {
            write!(text, "{}: ", self.path)?;
        }
        if let Some(found) = &self.found {
            write!(text, "{found} ")?;
        }
        text += &self.message;
        one_line(f, &text)
    }
}

/// Writes a text on one line, whatever names it has taken in: without what ends a line, or shows
/// it in another order.
fn one_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let is_plain = |character: char| {
        let orders = matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !character.is_control() && !orders
    };
    text.chars().try_for_each(|character| match character {
        plain if is_plain(plain) => f.write_char(plain),
        other => write!(f, "{}", other.escape_default()),
    })
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_its_place() {
        let place = SourcePlace::File { file: "config.toml".into(), line: 12, column: None };
        let spot = Spot { path: "site[0].origin[0].url".into(), place };
        let problem = spot.problem_with("s3:/x\n", "is not an origin URL");
        let line = r#"config.toml:12: site[0].origin[0].url: "s3:/x\n" is not an origin URL"#;
        assert_eq!(problem.to_string(), line);
        assert_eq!(problem.line(), Some(12));
        assert_eq!(Problems(vec![problem.clone(), problem]).to_string().lines().count(), 2);
        let place = SourcePlace::File { file: "a\nb".into(), line: 1, column: None };
        let spot = Spot { path: "url".into(), place };
        let line = spot.problem_with("x", "has a value of c\u{1b}\u{202e}").to_string();
        assert_eq!(line, r#"a\nb:1: url: "x" has a value of c\u{1b}\u{202e}"#);
    }

    /// FAULTS.md G17.
    #[test]
    fn a_password_is_never_told() {
        for (text, told) in [
            ("https://me:secret@h/x", "https://***@h/x"),
            ("https://me:sec/ret@h/x", "https://***@h/x"),
            ("https:/me:secret@h", "***@h"),
            ("https://me:sec#ret@h/x", "https://***"),
            ("https://me:sec?ret@h/x", "https://***"),
            ("https://h/?token=sec@ret", "https://***"),
            ("https://me:secret@h/?a#b", "https://***@h/?***#***"),
            ("s3://b?endpoint=http://me:secret@h", "s3://***"),
            ("http://h/?token=secret&region=eu", "http://h/?token=***&region=eu"),
            ("s3://b?endpoint=http://h:1&scheme=http", "s3://b?endpoint=http://h:1&scheme=http"),
            ("s3://b?endpoint=http%3A%2F%2Fme:secret%40h", "s3://b?endpoint=***"),
            ("s3://b?region=eu&endpoint=http://h/?token=secret", "s3://b?region=eu&endpoint=***"),
            ("http://h/?secret", "http://h/?***"),
            ("http://h/#secret", "http://h/#***"),
            ("https://h/a", "https://h/a"),
        ] {
            assert_eq!(without_secrets(text), told);
            let spot = Spot { path: "a".into(), place: SourcePlace::Default };
            assert_eq!(spot.problem_with(text, "").found, Some(quote(told)));
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(quote("a"), "\"a\"");
        assert!(quote(&"a".repeat(100_000)).len() < 200);
    }
}
