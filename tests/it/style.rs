//! The checks that keep STYLE and the layering: each reads the sources and names file, line and
//! what to do. Each is also shown a small spoilt sample, since a check that cannot fail is none.

mod circles;
mod faults;
mod layers;
mod lexer;
mod metrics;
mod sources;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};

/// A source file, or a sample of one.
pub(crate) struct Source {
    /// Relative to the package.
    pub(crate) path: String,
    pub(crate) text: String,
    /// [`lexer::code_only`] of the text.
    pub(crate) code: String,
    /// [`lexer::without_tests`] of the code.
    pub(crate) product: String,
}

/// What is wrong, where, and what to do.
pub(crate) struct Finding {
    path: String,
    line: usize,
    advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.advice)
    }
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = lexer::code_only(text);
        let product = lexer::without_tests(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, product }
    }

    pub(crate) fn finding(&self, offset: usize, advice: impl Into<String>) -> Finding {
        let line = lexer::line_of(&self.text, offset);
        Finding { path: self.path.clone(), line, advice: advice.into() }
    }

    /// The module under the crate root that the file belongs to; `None` outside `src` and for
    /// the two roots themselves.
    pub(crate) fn module(&self) -> Option<&str> {
        let inner = self.path.strip_prefix("src/")?;
        let name = inner.split('/').next()?;
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (name != "lib" && name != "main").then_some(name)
    }

    pub(crate) fn is_library(&self) -> bool {
        self.path.starts_with("src/")
    }
}

pub(crate) fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    let full = package().join(path);
    std::fs::read_to_string(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()))
}

/// Every file below `folder` whose name ends in `suffix`, relative to the package, sorted.
pub(crate) fn files(folder: &str, suffix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = vec![package().join(folder)];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path.strip_prefix(package()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every Rust file of the package. Files that are compiled for tests alone have no product code.
pub(crate) fn all_sources() -> Vec<Source> {
    let paths = ["src", "tests", "benches"].iter().flat_map(|folder| files(folder, ".rs"));
    let mut sources: Vec<Source> = paths.map(|path| Source::new(&path, &read(&path))).collect();
    let of_tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs");
        if of_tests.iter().any(|t| stem == t || stem.starts_with(&format!("{t}/"))) {
            source.product.clear();
        }
    }
    sources
}

/// The modules that a file declares as `#[cfg(test)] mod name;`, as paths without `.rs`.
fn test_modules(source: &Source) -> Vec<String> {
    let (folder, stem) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let folder = match stem.trim_end_matches(".rs") {
        "lib" | "main" | "mod" => folder.to_owned(),
        stem => format!("{folder}/{stem}"),
    };
    let after = source.code.split("#[cfg(test)]").skip(1);
    let declared = after.filter_map(|rest| {
        let item = rest.trim_start().split_once(';')?.0;
        let item = item.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        item.strip_prefix("mod ").filter(|name| !name.contains('{'))
    });
    declared.map(|name| format!("{folder}/{name}")).collect()
}

/// Runs a check over every source and fails with all findings at once.
pub(crate) fn expect_clean(check: fn(&Source) -> Vec<Finding>) {
    let sources = all_sources();
    assert!(sources.len() > 20, "only {} sources found: is this the package?", sources.len());
    report(&sources.iter().flat_map(check).collect::<Vec<_>>());
}

pub(crate) fn report(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}

/// Fails unless the check finds exactly `count` faults in the sample.
pub(crate) fn expect_found(
    check: fn(&Source) -> Vec<Finding>,
    path: &str,
    text: &str,
    count: usize,
) {
    let found = check(&Source::new(path, text));
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), count, "in {text:?}: {lines:?}");
}

#[test]
fn files_of_tests_are_told_from_the_product() {
    let text =
        "#[cfg(test)]\npub(crate) mod testing;\n#[cfg(test)]\nmod tests { fn f(); }\nmod a;\n";
    assert_eq!(test_modules(&Source::new("src/x.rs", text)), ["src/x/testing"]);
    assert_eq!(test_modules(&Source::new("src/x/mod.rs", text)), ["src/x/testing"]);
}
