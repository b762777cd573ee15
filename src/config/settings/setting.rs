//! What is said of a setting and of a table: its path, what its value may be, what holds without.

use std::time::Duration;

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The TOML path without positions, such as `site.origin.url`.
    pub path: &'static str,
    /// What its value may be.
    pub kind: SettingKind,
    /// What holds if it is not set.
    pub fallback: Fallback,
    /// The flag of `narthex serve`, with the dashes.
    pub flag: Option<&'static str>,
    /// A value in TOML, other than the default.
    pub example: &'static str,
    /// What it does, in sentences.
    pub doc: &'static str,
    pub(super) variable: Option<&'static str>,
}

/// One table of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct SettingTable {
    /// The TOML path without positions.
    pub path: &'static str,
    /// How often it may stand in the file.
    pub shape: Shape,
    /// What it is for, in sentences.
    pub doc: &'static str,
}

/// How often a table may stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `[table]`; leaving it out is the same as leaving it empty.
    Once,
    /// `[table]`; leaving it out switches something off.
    Optional,
    /// `[[table]]`, any number of times.
    Repeated,
}

/// What holds if a key is not set.
#[derive(Debug, Clone, Copy)]
pub enum Fallback {
    /// This value, in TOML.
    Is(&'static str),
    /// What this sentence says.
    Derived(&'static str),
    /// Nothing: it must be set.
    Required,
}

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum SettingKind {
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// One of these words.
    Word(&'static [&'static str]),
    /// The path of a file or folder.
    Path,
    /// One path, or a list of them.
    Paths,
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// A number of bytes, `"512MiB"` or plain.
    Size {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// One size, or a list of them.
    Sizes {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// A duration, `"10s"`.
    Duration {
        /// The least.
        min: Duration,
        /// The greatest.
        max: Duration,
    },
    /// A sum of money of any currency, `0.0004`; read in billionths.
    Price,
    /// `ADDRESS:PORT`, or `"off"`.
    AddressOrOff,
    /// A list of `ADDRESS:PORT`.
    Addresses,
}

impl Setting {
    /// The last part of the path.
    pub fn key(&self) -> &'static str {
        split_path(self.path).1
    }

    /// The path of the table that the key stands in.
    pub fn table(&self) -> &'static str {
        split_path(self.path).0
    }

    pub(super) const fn new(path: &'static str, kind: SettingKind, fallback: Fallback) -> Self {
        Self { path, kind, fallback, flag: None, example: "", doc: "", variable: None }
    }

    pub(super) const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    pub(super) const fn named(self, variable: &'static str) -> Self {
        Self { variable: Some(variable), ..self }
    }

    pub(super) const fn example(self, example: &'static str) -> Self {
        Self { example, ..self }
    }

    pub(super) const fn doc(self, doc: &'static str) -> Self {
        Self { doc, ..self }
    }
}

impl SettingTable {
    /// The last part of the path.
    pub fn key(&self) -> &'static str {
        split_path(self.path).1
    }

    /// The path of the table that it stands in; empty at the top.
    pub fn parent(&self) -> &'static str {
        split_path(self.path).0
    }

    pub(super) const fn new(path: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self { path, shape, doc }
    }
}

/// The path before the last `.`, and the key behind it.
fn split_path(path: &'static str) -> (&'static str, &'static str) {
    path.rsplit_once('.').unwrap_or(("", path))
}
