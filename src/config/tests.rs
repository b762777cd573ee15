//! What a whole configuration is read to: defaults, every key, precedence, every problem at once,
//! and the committed files of `config/`.

mod files;
mod keys;
mod problems;

use super::{Config, FlagOverrides, LoadedConfig, Problems, Sources, load};

/// What a file with this text gives, on a machine with a home folder.
fn load_text(text: &str) -> Result<LoadedConfig, Problems> {
    load(&Sources { file: Some(("config.toml".into(), text.into())), ..home() })
}

fn config(text: &str) -> Config {
    load_text(text).unwrap_or_else(|problems| panic!("{text}\n{problems}")).config
}

fn problems(text: &str) -> Vec<String> {
    let problems = load_text(text).unwrap_err();
    problems.0.iter().map(ToString::to_string).collect()
}

/// The problem of a text that has exactly one.
fn problem(text: &str) -> String {
    let problems = problems(text);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

fn warnings(text: &str) -> Vec<String> {
    load_text(text).unwrap().warnings.iter().map(ToString::to_string).collect()
}

/// No file, no flags, and an environment with nothing but a home folder.
fn home() -> Sources {
    Sources {
        file: None,
        environment: vec![("HOME".into(), "/home/user".into())],
        flags: FlagOverrides::default(),
    }
}
