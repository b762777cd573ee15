//! Words that comments, messages and documents do without: words for persons, and `where` in place
//! of `if` and `when`. The list is `words.txt`, which `tests/house/run` reads too.

use super::{Finding, Source, all_sources, lexer, read, report};

const DOCUMENTS: [&str; 2] = ["README.md", "src/ARCHITECTURE.md"];
const LIST: &str = include_str!("words.txt");

/// The comments and literals of a source, in lower case; all else is blank.
fn prose(source: &Source) -> String {
    let pairs = source.text.chars().zip(source.code.chars());
    pairs.map(|(c, code)| if c == code { ' ' } else { c.to_ascii_lowercase() }).collect()
}

/// The words and phrases of the list in `text`, in lower case, with their offsets. Between the
/// words of a phrase a line may end, so that the next begins as a comment.
fn listed(text: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for phrase in LIST.lines() {
        let (first, second) = phrase.split_once(' ').unwrap_or((phrase, ""));
        let is_followed = |at: &usize| {
            let rest = &text[at + first.len()..];
            let next = rest.trim_start_matches([' ', '\n', '\\', '/', '!']);
            let behind = next.strip_prefix(second);
            second.is_empty()
                || behind.is_some_and(|behind| {
                    next.len() < rest.len() && !behind.bytes().next().is_some_and(lexer::is_word)
                })
        };
        let offsets = lexer::words(text, first).into_iter().filter(is_followed);
        found.extend(offsets.map(|at| (at, phrase)));
    }
    found
}

fn check_words(source: &Source) -> Vec<Finding> {
    let advice = |phrase| {
        format!("\"{phrase}\": make a component the subject, and put a condition with if or when")
    };
    let found = listed(&prose(source)).into_iter();
    found.map(|(at, phrase)| source.finding(at, advice(phrase))).collect()
}

#[test]
fn sentences_are_about_components_and_put_conditions_with_if_and_when() {
    let sources = all_sources();
    let library = sources.iter().filter(|source| source.is_library());
    report(&library.flat_map(check_words).collect::<Vec<_>>());
    for path in DOCUMENTS {
        let text = read(path).to_ascii_lowercase();
        let found = listed(&text).into_iter();
        let found = found.map(|(at, word)| format!("{}: {word}", lexer::line_of(&text, at)));
        assert_eq!(found.collect::<Vec<_>>(), [""; 0], "{path}");
    }
}

#[test]
fn a_word_of_the_list_is_found_in_comments_and_literals_alone() {
    for (text, count) in [
        ("// Whoever asks, waits.", 1),
        ("//! None where\n//! the disk is full.", 1),
        ("const A: &str = \"nobody knows where it is\";", 2),
        ("const A: &str = \"none where \\\n    there is none\";", 1),
        ("fn whose<T>(who: T) where T: Copy {}", 0),
        ("// None whatever it is: elsewhere, or nowhere.", 0),
        ("// The folder where items lie.", 0),
    ] {
        assert_eq!(check_words(&Source::new("src/m/a.rs", text)).len(), count, "{text}");
    }
}
