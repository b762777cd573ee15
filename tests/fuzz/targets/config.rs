//! Fuzzes `config::load` with the text of a file, and with flags where lines begin with `--`:
//! it either loads, or every problem is one line with a place in the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::config::{FlagOverrides, SourcePlace, ConfigProblem, Sources, load};
use std::path::PathBuf;

/// More than a path of keys, a quoted value and a sentence ever take.
const PROBLEM_BYTES_MAX: usize = 8192;

fuzz_target!(|data: &[u8]| {
    let Some(text) = narthex_fuzz::text(data) else { return };
    let flag = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
        values.next().map(str::to_owned)
    };
    let flags = FlagOverrides {
        listen: flag("--listen ").into_iter().collect(),
        admin: flag("--admin "),
        origin: flag("--origin "),
        disk: flag("--disk ").into_iter().collect(),
        disk_size: flag("--disk-size ").into_iter().collect(),
        memory_size: flag("--memory-size "),
    };
    let file: String = text.split_inclusive('\n').filter(|line| !line.starts_with("--")).collect();
    let lines = file.split('\n').count();
    let environment = vec![("HOME".to_owned(), "/home/narthex".to_owned())];
    let sources = Sources { file: Some((PathBuf::from("f.toml"), file)), environment, flags };
    let loaded = load(&sources);
    match &loaded {
        Ok(loaded) => {
            assert!(!loaded.config.sites.is_empty());
            loaded.warnings.iter().for_each(|warning| check(warning, lines));
        }
        Err(problems) => {
            assert!(!problems.0.is_empty() && problems.0.is_sorted());
            problems.0.iter().for_each(|problem| check(problem, lines));
        }
    }
    assert_eq!(
        load(&sources).map_err(|problems| problems.0),
        loaded.map_err(|problems| problems.0)
    );
});

fn check(problem: &ConfigProblem, lines: usize) {
    let printed = problem.to_string();
    assert!(!problem.message.is_empty());
    assert!(!printed.contains(char::is_control), "{printed:?}");
    assert!(printed.len() <= PROBLEM_BYTES_MAX, "{} bytes: {printed}", printed.len());
    if let SourcePlace::File { line, column, .. } = &problem.place {
        assert!((1..=lines).contains(line), "{printed} in {lines} lines");
        assert!(column.is_none_or(|column| column > 0));
    }
}
