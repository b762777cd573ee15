//! The checks of single files: length, columns, characters, words that are not used here, and
//! what every file and every error message begins with.

use super::lexer::{self, functions, words};
use super::{Finding, Source, expect_clean, expect_found};

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 100;
/// Names of fields of HTTP and of Nix's formats that look like ordinary words.
const FIELDS: [&str; 9] = [
    "Age",
    "Compression",
    "Connection",
    "Deriver",
    "Expect",
    "Host",
    "Priority",
    "Range",
    "References",
];

fn check_header(source: &Source) -> Vec<Finding> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.finding(0, "begin with //! on line 1: purpose, lifetime, locks, who calls it")]
}

fn check_file_length(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    let advice = format!("{lines} lines, {FILE_LINES_MAX} at most: split the file by duty");
    vec![source.finding(source.text.len(), advice)]
}

/// Counts as clippy's `too_many_lines` does: lines of code between the braces.
fn check_function_length(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for function in functions(&source.code) {
        let body = source.code[function.body.clone()].trim_matches(['{', '}']);
        let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > FUNCTION_LINES_MAX {
            let advice = format!(
                "function {} has {lines} lines, {FUNCTION_LINES_MAX} at most: split it",
                function.name
            );
            findings.push(source.finding(function.offset, advice));
        }
    }
    findings
}

fn check_lines(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut offset = 0;
    for line in source.text.split_inclusive('\n') {
        let columns = line.trim_end_matches('\n').chars().count();
        if columns > LINE_COLUMNS_MAX {
            let advice = format!("{columns} columns, {LINE_COLUMNS_MAX} at most: break the line");
            findings.push(source.finding(offset, advice));
        }
        if !line.is_ascii() {
            findings.push(source.finding(offset, "not ASCII: write it in ASCII or as \\u{..}"));
        }
        if line.trim_end_matches('\n').ends_with([' ', '\t']) {
            findings.push(source.finding(offset, "white space at the end of the line: remove it"));
        }
        offset += line.len();
    }
    findings
}

fn check_banned(source: &Source) -> Vec<Finding> {
    // put together here, so that this file does not hold the words it looks for
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut findings = Vec::new();
    for note in notes {
        let found = words(&source.text, note).into_iter();
        findings.extend(found.map(|at| source.finding(at, "do it, or file an issue: no notes")));
    }
    for attribute in ["#[allow(", "#![allow("] {
        let found = source.code.match_indices(attribute);
        let advice = "use #[expect(lint, reason = \"...\")]";
        findings.extend(found.map(|(at, _)| source.finding(at, advice)));
    }
    let found = words(&source.code, "unsafe").into_iter();
    findings.extend(found.map(|at| source.finding(at, "unsafe is forbidden: use a crate")));
    findings
}

fn check_expect_reasons(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, _) in source.code.match_indices("#[expect(") {
        let end = source.code[at..].find(")]").map_or(source.code.len(), |n| at + n);
        if !source.code[at..end].contains("reason = ") {
            findings.push(source.finding(at, "say why: #[expect(lint, reason = \"...\")]"));
        }
    }
    findings
}

/// Glob imports. `use super::*` in a test module may be one, and so may a `pub use`, which imports
/// nothing.
fn check_globs(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for offset in words(&source.product, "use") {
        let end = source.product[offset..].find(';').map_or(source.product.len(), |n| offset + n);
        let is_export = source.product[..offset].ends_with("pub ");
        if !is_export && source.product[offset..end].contains("::*") {
            findings.push(source.finding(offset, "no glob imports: name what is used"));
        }
    }
    findings
}

/// Names that say nothing, and `get_` before a getter.
fn check_names(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let stem = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    if ["util", "utils", "helper", "helpers", "common", "misc"].contains(&stem) {
        findings.push(source.finding(0, "name the file after what it does"));
    }
    for word in ["ctx", "mgr"] {
        let found = words(&source.code, word).into_iter();
        findings.extend(found.map(|at| source.finding(at, "use whole words of the field")));
    }
    for function in functions(&source.product) {
        // std's own name for the mutable form of `get`; a trait's names are not ours to choose
        let is_given =
            function.name == "get_mut" || is_in_trait_impl(&source.product, function.offset);
        if function.name.starts_with("get_") && !is_given {
            findings.push(source.finding(function.offset, "a getter has no get_ before its name"));
        }
    }
    findings
}

/// Whether the method at `offset` belongs to an `impl Trait for Type`.
fn is_in_trait_impl(code: &str, offset: usize) -> bool {
    let Some(start) = code[..offset].rfind("\nimpl") else { return false };
    let header = code[start..offset].split('{').next().unwrap_or_default();
    header.contains(" for ") && !code[start..offset].contains("\n}")
}

/// Parameters of type `bool`. Visitors and setters that a library's trait fixes are exempt.
fn check_bool_parameters(source: &Source) -> Vec<Finding> {
    if !source.is_library() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for function in functions(&source.product) {
        let signature = &source.product[function.signature.clone()];
        let parameters = signature.split("->").next().unwrap_or_default();
        let has_bool = words(parameters, "bool").iter().any(|at| parameters[..*at].ends_with(": "));
        if has_bool && !function.name.starts_with("visit_") {
            let advice = format!("{} takes a bool: make it an enum of two", function.name);
            findings.push(source.finding(function.offset, advice));
        }
    }
    findings
}

/// Texts of errors: lower case, no full stop.
fn check_error_texts(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let opening = "#[error(\"";
    for (at, _) in source.text.match_indices(opening) {
        let is_code = source.code[at..].starts_with(opening);
        let text = &source.text[at + opening.len()..];
        let text = &text[..text.find("\")]").or_else(|| text.find("\",")).unwrap_or(text.len())];
        // a field's name (Content-Length, StoreDir) and an abbreviation keep their capitals
        let word = text.split(' ').next().unwrap_or_default().trim_end_matches(',');
        let is_capital = word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.len() > 1
            && !FIELDS.contains(&word)
            && word.bytes().skip(1).all(|b| b.is_ascii_lowercase());
        if is_code && (is_capital || text.ends_with('.')) {
            let advice = "an error's text is lower case and has no full stop";
            findings.push(source.finding(at, advice));
        }
    }
    findings
}

#[test]
fn every_file_says_what_it_is_for() {
    expect_clean(check_header);
    expect_found(check_header, "src/x.rs", "use std::fmt;\n", 1);
    expect_found(check_header, "src/x.rs", "//! Purpose.\n", 0);
}

#[test]
fn files_are_short() {
    expect_clean(check_file_length);
    expect_found(check_file_length, "src/x.rs", &"//\n".repeat(FILE_LINES_MAX + 1), 1);
    expect_found(check_file_length, "src/x.rs", &"//\n".repeat(FILE_LINES_MAX), 0);
}

#[test]
fn functions_are_short() {
    expect_clean(check_function_length);
    let function = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines));
    expect_found(check_function_length, "src/x.rs", &function(FUNCTION_LINES_MAX + 1), 1);
    expect_found(check_function_length, "src/x.rs", &function(FUNCTION_LINES_MAX), 0);
}

#[test]
fn lines_are_short_and_ascii() {
    expect_clean(check_lines);
    expect_found(check_lines, "src/x.rs", &format!("//{}\n", "x".repeat(LINE_COLUMNS_MAX)), 1);
    expect_found(check_lines, "src/x.rs", "// \u{2192}\n", 1);
    expect_found(check_lines, "src/x.rs", "fn f() \n", 1);
    expect_found(check_lines, "src/x.rs", "// fine\n", 0);
}

#[test]
fn nothing_is_put_off_and_no_lint_is_silenced() {
    expect_clean(check_banned);
    let note = concat!("// TO", "DO: later\n");
    expect_found(check_banned, "src/x.rs", note, 1);
    expect_found(check_banned, "src/x.rs", "#[allow(dead_code)]\nunsafe fn f() {}\n", 2);
    expect_found(check_banned, "src/x.rs", "// unsafe #[allow(\n#[expect(x)]\n", 0);
}

#[test]
fn every_relaxed_lint_has_its_reason() {
    expect_clean(check_expect_reasons);
    expect_found(check_expect_reasons, "src/x.rs", "#[expect(dead_code)]\nfn f() {}\n", 1);
    let good = "#[expect(\n    dead_code,\n    reason = \"why\"\n)]\nfn f() {}\n";
    expect_found(check_expect_reasons, "src/x.rs", good, 0);
}

#[test]
fn imports_name_what_they_take() {
    expect_clean(check_globs);
    expect_found(check_globs, "src/x.rs", "use crate::{a::*,\n b};\n", 1);
    expect_found(check_globs, "src/x.rs", "pub use a::*;\n", 0);
    let tests = "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
    expect_found(check_globs, "src/x.rs", tests, 0);
}

#[test]
fn names_are_whole_words() {
    expect_clean(check_names);
    expect_found(check_names, "src/fill/util.rs", "fn f() {}\n", 1);
    expect_found(check_names, "src/x.rs", "fn get_key(ctx: u8) {}\n", 2);
    expect_found(check_names, "src/x.rs", "fn key() { map.get_key_value(1); }\n", 0);
}

#[test]
fn parameters_are_never_bare_booleans() {
    expect_clean(check_bool_parameters);
    expect_found(check_bool_parameters, "src/x.rs", "fn f(is_fresh: bool) {}\n", 1);
    expect_found(check_bool_parameters, "src/x.rs", "fn f(a: u8) -> bool {\n}\n", 0);
    expect_found(check_bool_parameters, "tests/x.rs", "fn f(is_fresh: bool) {}\n", 0);
}

#[test]
fn error_texts_have_one_form() {
    expect_clean(check_error_texts);
    expect_found(check_error_texts, "src/x.rs", "#[error(\"Bad thing\")]\n", 1);
    expect_found(check_error_texts, "src/x.rs", "#[error(\"bad thing.\")]\n", 1);
    expect_found(check_error_texts, "src/x.rs", "#[error(\"SHA-256 differs\")]\n", 0);
    expect_found(check_error_texts, "src/x.rs", "#[error(\"StoreDir is missing\")]\n", 0);
}

#[test]
fn a_finding_names_file_line_and_advice() {
    let found = check_header(&Source::new("src/x.rs", "fn f() {}\n"));
    assert!(found[0].to_string().starts_with("src/x.rs:1: begin with //!"), "{}", found[0]);
    assert_eq!(lexer::line_of("a\nb\n", 2), 2);
}
