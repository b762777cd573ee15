//! The text of `config/reference.toml`, made from the definitions. Pure; printed by
//! `narthex config`.

use super::settings::{Fallback, Setting, SettingTable, Shape, settings, tables};
use super::sites::OFFICE;
use std::fmt::Write as _;

/// Columns of a line of prose.
const COLUMNS: usize = 90;

const HEAD: &str = "Every setting of Narthex. As it stands this file changes nothing: each key is \
     commented out, at its default, or at an example if the default is not a fixed value. To \
     change one, take away the # before it, and before the header above it if that has one.";

const SOURCES: &str = "A flag wins over an environment variable, that over this file, that over \
     the default. In a variable the elements of a list have commas between. The file is named by \
     --config or NARTHEX_CONFIG. Sizes: \"512MiB\", \"50GB\", or plain bytes. Durations: \"10s\", \
     \"500ms\", \"1h30m\", \"7d\".";

const OFFICE_HEAD: &str = "Without any [[site]] this one holds, the cache of an office. Its \
     priority is below the 40 of cache.nixos.org, so that clients which know both ask it first:";

/// Every setting, commented out, with its default and its documentation, as TOML that changes
/// nothing.
pub fn reference() -> String {
    let mut text = String::new();
    prose(&mut text, HEAD);
    text.push_str("#\n");
    prose(&mut text, SOURCES);
    for table in tables() {
        text.push_str("\n\n");
        write_table(&mut text, table);
        for setting in settings().filter(|setting| setting.table() == table.path) {
            text.push('\n');
            write_setting(&mut text, setting);
        }
    }
    text
}

fn write_table(text: &mut String, table: &SettingTable) {
    prose(text, table.doc);
    if table.path == "site" {
        prose(text, OFFICE_HEAD);
        text.push_str("#\n");
        for line in OFFICE.lines() {
            text.push_str("#     ");
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("#\n");
    }
    let _ = match table.shape {
        Shape::Repeated => writeln!(text, "#[[{}]]", table.path),
        Shape::Once if !is_inside_of_another(table) => writeln!(text, "[{}]", table.path),
        Shape::Once | Shape::Optional => writeln!(text, "#[{}]", table.path),
    };
}

/// Whether the header of `table` would call another table into being, which changes something.
fn is_inside_of_another(table: &SettingTable) -> bool {
    tables().any(|outer| {
        outer.shape != Shape::Once
            && table.path.strip_prefix(outer.path).is_some_and(|rest| rest.starts_with('.'))
    })
}

fn write_setting(text: &mut String, setting: &Setting) {
    prose(text, setting.doc);
    let variable = setting.variable();
    match (setting.flag, variable) {
        (Some(flag), Some(name)) => prose(text, &format!("Flag {flag}, variable {name}.")),
        (None, Some(name)) => prose(text, &format!("Variable {name}.")),
        (_, None) => {}
    }
    let value = match setting.fallback {
        Fallback::Is(value) => value,
        Fallback::Derived(what) => {
            prose(text, &format!("Default: {what}. For example:"));
            setting.example
        }
        Fallback::Required => {
            prose(text, "Must be set. For example:");
            setting.example
        }
    };
    let _ = writeln!(text, "#{} = {value}", setting.key());
}

/// Paragraphs, with an empty comment line between them.
fn prose(text: &mut String, paragraphs: &str) {
    for (position, words) in paragraphs.split("\n\n").enumerate() {
        if position > 0 {
            text.push_str("#\n");
        }
        paragraph(text, words);
    }
}

/// Words as comment lines of at most [`COLUMNS`].
fn paragraph(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
