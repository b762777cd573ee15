//! The table of known faults, `tests/faults/rows.toml`: each row has a test that names it in its
//! comment, and each test that names a row names one that there is.

use super::{Finding, Source, all_sources, expect_found, files, read, report};
use std::collections::BTreeSet;
use std::path::Path;

/// What stands before the rows of a test. In two parts here, so that this file names no row.
const MARKER: &str = concat!("FAULTS", ".md ");

/// What stands before the words of a row that was no fault.
const HELD: &str = "Held: ";

/// The letters of the parts of the list, whose rows are numbered from 1 on.
const PARTS: [char; 4] = ['G', 'S', 'F', 'C'];

fn rows() -> BTreeSet<String> {
    let table: toml::Table = read("tests/faults/rows.toml").parse().unwrap();
    table.keys().cloned().collect()
}

/// The number of a row of a part, such as 16 of `G16b`.
fn number(row: &str, part: char) -> Option<usize> {
    let rest = row.strip_prefix(part)?;
    let digits = rest.strip_suffix(|last: char| last.is_ascii_lowercase()).unwrap_or(rest);
    digits.parse().ok()
}

fn is_numbered(row: &str) -> bool {
    PARTS.iter().any(|part| number(row, *part).is_some())
}

/// The rows that a line names behind the marker.
fn named(line: &str) -> Vec<String> {
    if let Some(what) = line.strip_prefix(HELD) {
        let what = what.split(['.', ':', ';']).next().unwrap_or_default();
        return vec![format!("{HELD}{what}")];
    }
    let words = line.split(", ").map(|word| {
        let end = word.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(word.len());
        word[..end].to_owned()
    });
    words.take_while(|word| is_numbered(word)).collect()
}

/// What each marker of a text names, with its offset.
fn markers(text: &str) -> Vec<(usize, Vec<String>)> {
    let found = text.match_indices(MARKER).map(|(at, _)| {
        let line = text[at + MARKER.len()..].lines().next().unwrap_or_default();
        (at, named(line))
    });
    found.collect()
}

/// Whether the comment in which a marker stands is that of a test.
fn is_of_a_test(text: &str, marker: usize) -> bool {
    let mut is_test = false;
    for line in text[marker..].lines().skip(1).map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        } else if !line.starts_with("///") {
            return is_test && line.contains("fn ");
        }
    }
    false
}

fn check_against(source: &Source, rows: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, named) in markers(&source.text) {
        let is_rust = Path::new(&source.path).extension().is_some_and(|suffix| suffix == "rs");
        if is_rust && !is_of_a_test(&source.text, at) {
            findings.push(source.finding(at, "this is the comment of no test"));
        }
        if named.is_empty() {
            findings
                .push(source.finding(at, "this names no row: write one behind the file's name"));
        }
        for row in named.iter().filter(|row| !rows.contains(*row)) {
            let advice = format!("{row} is no row of tests/faults/rows.toml");
            findings.push(source.finding(at, advice));
        }
    }
    findings
}

fn check(source: &Source) -> Vec<Finding> {
    check_against(source, &rows())
}

/// The suites that are no Rust tests; the script of the table itself names rows as examples.
fn suites() -> Vec<Source> {
    let paths = files("tests", "/run").into_iter().filter(|path| path != "tests/faults/run");
    paths.map(|path| Source::new(&path, &read(&path))).collect()
}

#[test]
fn every_known_fault_has_a_test() {
    let rows = rows();
    for part in PARTS {
        let numbers: BTreeSet<usize> = rows.iter().filter_map(|row| number(row, part)).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len()), "{part}: a row is missing");
    }
    let mut sources = all_sources();
    sources.extend(suites());
    report(&sources.iter().flat_map(|one| check_against(one, &rows)).collect::<Vec<_>>());
    let tested: BTreeSet<String> =
        sources.iter().flat_map(|one| markers(&one.text)).flat_map(|(_, named)| named).collect();
    let untested: Vec<&String> = rows.difference(&tested).collect();
    assert!(untested.is_empty(), "no test names these rows: {untested:?}");
}

#[test]
fn a_marker_of_no_row_or_of_no_test_is_found() {
    let test = |rows: &str| format!("/// {MARKER}{rows}\n#[test]\nfn f() {{}}\n");
    expect_found(check, "tests/x.rs", &test("G3, G16a: a reason, and another."), 0);
    expect_found(check, "tests/x.rs", &test("Held: pipelined requests."), 0);
    expect_found(check, "tests/x.rs", &test("G99."), 1);
    expect_found(check, "tests/x.rs", &test("G3, G16."), 1);
    expect_found(check, "tests/x.rs", &test("Held: nothing."), 1);
    expect_found(check, "tests/x.rs", &test("of all faults"), 1);
    expect_found(check, "tests/x.rs", &format!("/// {MARKER}G3.\nfn f() {{}}\n"), 1);
    expect_found(check, "tests/x/run", &format!("\"\"\"{MARKER}S3. Much is asked for.\"\"\"\n"), 0);
}
