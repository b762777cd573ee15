//! Reads netrc files, as Nix's `netrc-file` is one and curl reads it: `machine HOST login NAME
//! password WORD`, `default`, `account`, `macdef`, words in quotes, comments. Pure. Stricter than
//! curl: what it does not know is an error, by its line; no word of the file is ever told, as it
//! may be a password.

use std::fmt;

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct NetrcLogin {
    /// The name; empty if the file has none, as for services that only look at the password.
    pub login: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for NetrcLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry(..)")
    }
}

/// Why a netrc file does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NetrcError {
    /// It does not follow the grammar.
    #[error("line {line}: {what}")]
    Grammar {
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Nothing in it is for the host.
    #[error("it has no entry for the host {host}; write: machine {host} login NAME password WORD")]
    Host {
        /// The host.
        host: String,
    },
    /// The entry for the host has no password.
    #[error("its entry for the host {host} has no password")]
    Password {
        /// The host.
        host: String,
    },
}

/// The first entry of `text` that is for `host`, or the default if it comes before.
pub(super) fn entry(text: &str, host: &str) -> Result<NetrcLogin, NetrcError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = read(text, host)?.ok_or_else(|| NetrcError::Host { host: host.to_owned() })?;
    let password = found.password.ok_or_else(|| NetrcError::Password { host: host.to_owned() })?;
    Ok(NetrcLogin { login: found.login.unwrap_or_default(), password })
}

#[derive(Default)]
struct NetrcFields {
    login: Option<String>,
    password: Option<String>,
}

/// Reads to the end, so that a mistake in the lines of any host is reported.
fn read(text: &str, host: &str) -> Result<Option<NetrcFields>, NetrcError> {
    let words = words(text)?;
    let mut words = words.into_iter();
    let mut found: Option<NetrcFields> = None;
    let (mut is_open, mut is_ours) = (false, false);
    while let Some((line, word)) = words.next() {
        let wrong = |what| NetrcError::Grammar { line, what };
        let mut value = |what| words.next().map(|(_, value)| value).ok_or(wrong(what));
        match word.as_str() {
            "machine" => {
                let name = value("no host behind `machine`")?;
                let name = name.trim_start_matches('[').trim_end_matches(']');
                is_ours = found.is_none() && name.eq_ignore_ascii_case(host);
            }
            "default" => is_ours = found.is_none(),
            "login" | "password" | "account" => {
                if !is_open {
                    return Err(wrong("a login, password or account stands behind no `machine`"));
                }
                let value = value("no word behind `login`, `password` or `account`")?;
                let place =
                    found.as_mut().filter(|_| is_ours).and_then(|found| match word.as_str() {
                        "login" => Some(&mut found.login),
                        "password" => Some(&mut found.password),
                        _ => None,
                    });
                if place.is_some_and(|place| place.replace(value).is_some()) {
                    return Err(wrong("a second login or password of one machine"));
                }
                continue;
            }
            _ => {
                return Err(wrong(
                    "a word that is none of machine, default, login, password, account, macdef",
                ));
            }
        }
        is_open = true;
        if is_ours {
            found = Some(NetrcFields::default());
        }
    }
    Ok(found)
}

/// The words with their lines, without comments and macros.
fn words(text: &str) -> Result<Vec<(usize, String)>, NetrcError> {
    let mut words = Vec::new();
    let mut is_macro = false;
    for (line, content) in (1..).zip(text.lines()) {
        if is_macro {
            // A macro goes on to the next empty line.
            is_macro = !content.trim().is_empty();
            continue;
        }
        let before = words.len();
        words_of_line(line, content, &mut words)?;
        let here = words.iter().skip(before);
        if let Some(at) = here.clone().position(|(_, word)| word == "macdef")
            && is_keyword(&words, before + at)
        {
            words.truncate(before + at);
            is_macro = true;
        }
    }
    Ok(words)
}

/// Whether the word at `at` is no value of the word before it.
fn is_keyword(words: &[(usize, String)], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| words.get(before));
    !before.is_some_and(|(_, word)| {
        matches!(word.as_str(), "machine" | "login" | "password" | "account")
    })
}

fn words_of_line(
    line: usize,
    content: &str,
    words: &mut Vec<(usize, String)>,
) -> Result<(), NetrcError> {
    let mut chars = content.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.peek() {
            None | Some('#') => return Ok(()),
            Some('"') => {
                chars.next();
                words.push((line, quoted(line, &mut chars)?));
            }
            Some(_) => {
                let mut word = String::new();
                while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                    word.push(c);
                }
                words.push((line, word));
            }
        }
    }
}

/// The rest of a word in quotes, with curl's escapes.
fn quoted(line: usize, chars: &mut impl Iterator<Item = char>) -> Result<String, NetrcError> {
    let mut word = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(word),
            '\\' => match chars.next() {
                Some('n') => word.push('\n'),
                Some('r') => word.push('\r'),
                Some('t') => word.push('\t'),
                Some(other) => word.push(other),
                None => break,
            },
            other => word.push(other),
        }
    }
    Err(NetrcError::Grammar { line, what: "a quote that does not end on its line" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::proptest;

    fn found(text: &str, host: &str) -> (String, String) {
        let NetrcLogin { login, password } = entry(text, host).unwrap();
        (login, password)
    }

    fn pair(login: &str, password: &str) -> (String, String) {
        (login.to_owned(), password.to_owned())
    }

    #[test]
    fn the_first_entry_for_the_host_counts() {
        let text = "# a comment\nmachine a.example.org login me password one\n\
            machine B.example.org\n\tlogin \"an other\"\n\tpassword \"t\\\"wo\" # behind\n\
            machine a.example.org password late\nmachine [::1] password six\n\
            machine login login password password machine\ndefault login any password last\n";
        assert_eq!(found(text, "a.example.org"), pair("me", "one"));
        assert_eq!(found(text, "b.EXAMPLE.org"), pair("an other", "t\"wo"));
        assert_eq!(found(text, "[::1]"), pair("", "six"));
        assert_eq!(found(text, "login"), pair("password", "machine"));
        assert_eq!(found(text, "c.example.org"), pair("any", "last"));
    }

    #[test]
    fn accounts_and_macros_are_passed_over() {
        let text = "machine a account x login me password one\nmacdef init\nlogin secret word\n\
            machine b password of-a-macro\n\nmachine b password two\n";
        assert_eq!(found(text, "a"), pair("me", "one"));
        assert_eq!(found(text, "b"), pair("", "two"));
        assert_eq!(found("machine a password macdef", "a"), pair("", "macdef"));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_never_quoted() {
        for (text, wanted) in [
            ("machine a login hush\npassword\n", "line 2: no word behind"),
            ("\nlogin hush\n", "line 2: a login, password or account stands behind no"),
            ("machine a hush", "line 1: a word that is none of"),
            ("machine", "line 1: no host behind"),
            ("machine a password \"hush", "line 1: a quote"),
            ("machine a password hush\npassword other", "line 2: a second"),
            ("machine b password hush", "no entry for the host a"),
            ("machine a login hush", "has no password"),
            ("", "no entry for the host a"),
        ] {
            let error = entry(text, "a").unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}: {text}");
            assert!(!error.contains("hush"), "{error}");
        }
        let hidden = format!("{:?}", entry("machine a password hush", "a"));
        assert!(!hidden.contains("hush"), "{hidden}");
    }

    proptest! {
        #[test]
        fn a_word_in_quotes_comes_back(word in "\\PC{1,20}") {
            let quoted = word.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("machine a login \"{quoted}\" password \"{quoted}\"");
            assert_eq!(found(&text, "a"), pair(&word, &word));
        }

        #[test]
        fn no_text_upsets_it(text in "(\\PC|\n|machine |password |\"){0,60}") {
            let _ = entry(&text, "a");
        }
    }
}
