//! The values that a TOML text gives, sorted by the setting each belongs to, and what is wrong
//! with the text: syntax, unknown keys, wrong values. Lives while a configuration is read.

use super::problem::{ConfigProblem, ProblemReport, SourcePlace, Spot, Spotted};
use super::settings::{self, Setting, SettingTable, Shape};
use super::value::{self, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The values of one repeated table, or of everything outside of those.
///
/// Keys are whole paths without positions, such as `site.origin.timeouts.connect`: the string that
/// also names the setting. A value that is not set or wrong reads as its default, so that one
/// mistake is reported once. The problem in the report keeps the result of such a read from being
/// used.
#[derive(Debug, Clone)]
pub(super) struct TableValues {
    /// The table's path without positions; empty at the top.
    table: &'static str,
    spot: Spot,
    values: BTreeMap<&'static str, GivenValue>,
    tables: BTreeMap<&'static str, Spot>,
    scopes: BTreeMap<&'static str, Vec<TableValues>>,
}

/// What was given for a setting.
#[derive(Debug, Clone)]
struct GivenValue {
    /// `None` if it was wrong.
    value: Option<Value>,
    spot: Spot,
}

/// Whether the text could be read as TOML at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// It could.
    Good,
    /// It could not: nothing was read.
    Bad,
}

/// Reads a whole TOML text; `file` is its name in problems.
pub(super) fn read(file: &str, text: &str, report: &mut ProblemReport) -> (TableValues, Syntax) {
    let reader = TableReader::new(file, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let spot = Spot { path: String::new(), place: reader.place(0) };
    let mut scope = TableValues { spot, ..TableValues::empty() };
    if errors.is_empty() {
        reader.table("", table.get_ref(), "", &mut scope, report);
        return (scope, Syntax::Good);
    }
    for error in errors {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        let message = format!("this is not TOML: {message}");
        let place = reader.place_with_column(offset);
        report.problem(ConfigProblem { place, path: String::new(), found: None, message });
    }
    (scope, Syntax::Bad)
}

impl TableValues {
    /// Nothing given at all.
    pub(super) fn empty() -> Self {
        Self::at("", Spot { path: String::new(), place: SourcePlace::Default })
    }

    /// A repeated table at `spot` with nothing in it.
    pub(super) fn at(table: &'static str, spot: Spot) -> Self {
        let (values, tables, scopes) = Default::default();
        Self { table, spot, values, tables, scopes }
    }

    /// The place of the table.
    pub(super) fn spot(&self) -> &Spot {
        &self.spot
    }

    /// The place of the setting or table at `path`, set or not.
    pub(super) fn spot_of(&self, path: &str) -> Spot {
        if let Some(given) = self.values.get(path) {
            return given.spot.clone();
        }
        if let Some(spot) = self.tables.get(path) {
            return spot.clone();
        }
        let rest = path.strip_prefix(self.table).unwrap_or(path);
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        Spot { path: join(&self.spot.path, rest), place: self.spot.place.clone() }
    }

    /// Sets a value, wrong (`None`) or good.
    pub(super) fn set(&mut self, setting: &'static Setting, value: Option<Value>, spot: Spot) {
        self.values.insert(setting.path, GivenValue { value, spot });
    }

    /// Replaces every repeated table at `path`.
    pub(super) fn set_scopes(&mut self, path: &'static str, scopes: Vec<Self>) {
        self.scopes.insert(path, scopes);
    }

    /// The repeated tables at `path`, in the order of the file.
    pub(super) fn scopes(&self, path: &str) -> &[Self] {
        self.scopes.get(path).map_or(&[], Vec::as_slice)
    }

    /// Whether the setting at `path` was given, rightly or wrongly.
    pub(super) fn is_given(&self, path: &str) -> bool {
        self.values.contains_key(path)
    }

    /// Whether the setting at `path` was given wrongly.
    pub(super) fn is_wrong(&self, path: &str) -> bool {
        self.values.get(path).is_some_and(|given| given.value.is_none())
    }

    /// Whether the table at `path`, or anything in it, was given.
    pub(super) fn has_table(&self, path: &str) -> bool {
        let is_inside =
            |key: &&'static str| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        self.tables.contains_key(path)
            || self.values.keys().any(is_inside)
            || self.scopes.keys().any(is_inside)
    }

    /// A text, with its spot.
    pub(super) fn text(&self, path: &str) -> Option<Spotted<String>> {
        match self.value(path) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A path.
    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        self.text(path).map(|text| PathBuf::from(text.value))
    }

    /// A list of texts, each with its spot.
    pub(super) fn texts(&self, path: &str) -> Vec<Spotted<String>> {
        match self.value(path) {
            Some(Value::Texts(texts)) => texts,
            _ => Vec::new(),
        }
    }

    /// A list of paths, each with its spot.
    pub(super) fn paths(&self, path: &str) -> Vec<Spotted<PathBuf>> {
        let spotted = |text: Spotted<String>| Spotted { value: text.value.into(), spot: text.spot };
        self.texts(path).into_iter().map(spotted).collect()
    }

    /// A list of sizes in bytes, each with its spot.
    pub(super) fn sizes(&self, path: &str) -> Vec<Spotted<u64>> {
        match self.value(path) {
            Some(Value::Numbers(sizes)) => sizes,
            _ => Vec::new(),
        }
    }

    /// A list of addresses, each with its spot; empty if it is off.
    pub(super) fn addresses(&self, path: &str) -> Vec<Spotted<SocketAddr>> {
        match self.value(path) {
            Some(Value::Addresses(addresses)) => addresses,
            _ => Vec::new(),
        }
    }

    /// A boolean; `None` if it is not set and has no default.
    pub(super) fn boolean(&self, path: &str) -> Option<bool> {
        match self.value(path) {
            Some(Value::Boolean(boolean)) => Some(boolean),
            _ => None,
        }
    }

    /// Whether a boolean is set to true, or is true by default.
    pub(super) fn is_true(&self, path: &str) -> bool {
        self.boolean(path).unwrap_or(false)
    }

    /// A number, or bytes; `None` if it is not set and has no default.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        match self.value(path) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// A number that has a default, as the type it is used in.
    pub(super) fn count<T: TryFrom<u64> + Default>(&self, path: &str) -> T {
        self.number(path).and_then(|number| T::try_from(number).ok()).unwrap_or_default()
    }

    /// A duration that has a default.
    pub(super) fn duration(&self, path: &str) -> Duration {
        match self.value(path) {
            Some(Value::Duration(duration)) => duration,
            _ => Duration::ZERO,
        }
    }

    fn value(&self, path: &str) -> Option<Value> {
        if let Some(value) = self.values.get(path).and_then(|given| given.value.clone()) {
            return Some(value);
        }
        value::fallback(settings::setting(path)?, &self.spot_of(path))
    }
}

struct TableReader<'a> {
    file: &'a str,
    text: &'a str,
    /// The offset of each line but the first.
    line_starts: Vec<usize>,
}

impl<'a> TableReader<'a> {
    fn new(file: &'a str, text: &'a str) -> Self {
        let line_starts = text.match_indices('\n').map(|(offset, _)| offset + 1).collect();
        Self { file, text, line_starts }
    }

    /// Reads `table` into `scope`. Its path is `path` without positions and `spotted` with them.
    /// Calls itself no deeper than the known tables nest.
    fn table(
        &self,
        path: &'static str,
        table: &DeTable<'_>,
        spotted: &str,
        scope: &mut TableValues,
        report: &mut ProblemReport,
    ) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let known = join(path, name);
            let place = self.place(key.span().start);
            let spot = Spot { path: join(spotted, &bare(name)), place };
            if let Some(setting) = settings::setting(&known) {
                let spot = Spot { place: self.place(value.span().start), ..spot };
                let spot_of = |position: usize, element: &Spanned<DeValue<'_>>| {
                    let place = self.place(element.span().start);
                    Spot { place, ..spot.element(position) }
                };
                let value = value::from_toml(setting, value.get_ref(), &spot, &spot_of, report);
                scope.set(setting, value, spot);
            } else if let Some(table) = settings::table(&known) {
                self.inner_table(table, value.get_ref(), spot, scope, report);
            } else {
                report.problem(spot.problem(unknown(path, name)));
            }
        }
    }

    fn inner_table(
        &self,
        table: &'static SettingTable,
        value: &DeValue<'_>,
        spot: Spot,
        scope: &mut TableValues,
        report: &mut ProblemReport,
    ) {
        let path = table.path;
        if table.shape != Shape::Repeated {
            match value.as_table() {
                Some(inner) => {
                    self.table(path, inner, &spot.path, scope, report);
                    scope.tables.insert(path, spot);
                }
                None => report.problem(spot.problem(format!("is not one table; write [{path}]"))),
            }
            return;
        }
        let Some(elements) = value.as_array() else {
            let message = format!("is not a list of tables; write [[{path}]], with two brackets");
            report.problem(spot.problem(message));
            return;
        };
        if elements.is_empty() {
            let message = format!("is an empty list; write [[{path}]], or leave it out");
            report.problem(spot.problem(message));
        }
        let mut scopes = Vec::new();
        for (position, element) in elements.iter().enumerate() {
            let place = self.place(element.span().start);
            let spot = Spot { place, ..spot.element(position) };
            let Some(inner) = element.get_ref().as_table() else {
                report.problem(spot.problem(format!("is not a table; write [[{path}]]")));
                continue;
            };
            let mut scope = TableValues::at(path, spot.clone());
            self.table(path, inner, &spot.path, &mut scope, report);
            scopes.push(scope);
        }
        scope.tables.insert(path, spot);
        scope.scopes.insert(path, scopes);
    }

    fn place(&self, offset: usize) -> SourcePlace {
        let line = self.line_starts.partition_point(|start| *start <= offset) + 1;
        SourcePlace::File { file: self.file.to_owned(), line, column: None }
    }

    fn place_with_column(&self, offset: usize) -> SourcePlace {
        let lines = self.line_starts.partition_point(|start| *start <= offset);
        let start = lines.checked_sub(1).and_then(|last| self.line_starts.get(last)).copied();
        let end = self.text.floor_char_boundary(offset);
        let before = self.text.get(start.unwrap_or(0)..end).unwrap_or("");
        let column = Some(before.chars().count() + 1);
        SourcePlace::File { file: self.file.to_owned(), line: lines + 1, column }
    }
}

/// What to say of the key `name` that the table at `path` does not know.
fn unknown(path: &str, name: &str) -> String {
    let setting_keys = settings::settings().map(|setting| (setting.table(), setting.key()));
    let table_keys = settings::tables().map(|table| (table.parent(), table.key()));
    let all: Vec<_> = setting_keys.chain(table_keys).collect();
    let here: Vec<_> =
        all.iter().filter(|(table, _)| *table == path).map(|(_, key)| *key).collect();
    let elsewhere: Vec<_> =
        all.iter().filter(|(_, key)| *key == name).map(|(table, key)| join(table, key)).collect();
    if let [first, ..] = elsewhere.as_slice() {
        let table = first.rsplit_once('.').map_or("the top", |(table, _)| table);
        return format!("is not a setting here; {first} is: write it under {table}");
    }
    if let Some((nearest, _)) = near(name, &here) {
        return format!("is not a setting; the nearest is {}", join(path, nearest));
    }
    let keys: Vec<_> = all.iter().map(|(_, key)| *key).collect();
    if let Some((nearest, _)) = near(name, &keys)
        && let Some((table, _)) = all.iter().find(|(_, key)| *key == nearest)
    {
        return format!("is not a setting; the nearest is {}", join(table, nearest));
    }
    format!("is not a setting; those known here are {}", here.join(", "))
}

/// The candidate most like `name`, and how like (0 to 1), if it is like enough to be meant.
pub(super) fn near<'a>(name: &str, candidates: &[&'a str]) -> Option<(&'a str, f64)> {
    const LIKENESS_MIN: f64 = 0.8;
    const CHARACTERS_MAX: usize = 100;
    if name.chars().count() > CHARACTERS_MAX {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    candidates
        .iter()
        .map(|candidate| (*candidate, strsim::jaro_winkler(&name, &candidate.to_lowercase())))
        .filter(|(_, likeness)| *likeness >= LIKENESS_MIN)
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
}

/// The key as it may stand in a path: in quotes if TOML needs them.
fn bare(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.len() <= 100 && key.chars().all(is_bare) {
        return key.to_owned();
    }
    super::problem::quote(key)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
