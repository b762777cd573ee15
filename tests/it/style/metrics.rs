//! Metrics: each is documented in `deploy/METRICS.md` and counted somewhere, each value of a label
//! stands in the code that counts, and what documentation, rules and dashboards name exists. That
//! `deploy/METRICS.md` is up to date is checked by `src/metrics/reference.rs`.

use super::lexer::{self, functions, is_word, words};
use super::{Source, all_sources, files, read};

const HOME: &str = "src/metrics.rs";
const LABELS: &str = "src/metrics/labels.rs";
const PAGE: &str = "deploy/METRICS.md";

/// The `narthex_...` names in the text, each once.
fn metric_names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (at, _) in text.match_indices("narthex_") {
        let is_start = at.checked_sub(1).is_none_or(|b| !is_word(text.as_bytes()[b]));
        let name: String = text[at..].bytes().take_while(|b| is_word(*b)).map(char::from).collect();
        if is_start && !name.ends_with('_') && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Fields of `struct Metrics`.
fn fields(home: &Source) -> Vec<String> {
    let start = home.code.find("pub struct Metrics {").expect("src/metrics.rs: struct Metrics");
    let end = lexer::closing(home.code.as_bytes(), start + "pub struct Metrics ".len());
    let lines = home.code[start..end].lines().filter_map(|line| line.trim().strip_prefix("pub "));
    lines.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

/// Fields that no other file touches, neither directly nor through a method of the home file.
fn unused_fields(home: &Source, others: &[Source]) -> Vec<String> {
    let is_named = |member: &str| {
        others.iter().any(|source| {
            let found = words(&source.product, member);
            found.iter().any(|at| source.product[..*at].ends_with('.'))
        })
    };
    let methods = functions(&home.product);
    let is_used = |field: &String| {
        let own = format!("self.{field}");
        let through = methods.iter().any(|method| {
            let body = &home.product[method.body.clone()];
            !words(body, &own).is_empty() && is_named(&method.name)
        });
        through || is_named(field)
    };
    fields(home).into_iter().filter(|field| !is_used(field)).collect()
}

/// Names that are used in `text` but that no metric has.
fn unknown_names(text: &str, known: &[String]) -> Vec<String> {
    let series = ["", "_bucket", "_sum", "_count"];
    let is_known = |name: &String| {
        series
            .iter()
            .any(|end| name.strip_suffix(end).is_some_and(|n| known.iter().any(|k| k == n)))
    };
    metric_names(text).into_iter().filter(|name| !is_known(name)).collect()
}

fn known() -> Vec<String> {
    metric_names(&lexer::without_tests(&read(HOME)))
}

#[test]
fn every_metric_is_documented() {
    let page = read(PAGE);
    let known = known();
    assert!(known.len() > 15, "{HOME}: only {} metrics read", known.len());
    let is_row = |name: &&String| page.contains(&format!("\n| `{name}` | "));
    let missing: Vec<&String> = known.iter().filter(|name| !is_row(name)).collect();
    assert!(missing.is_empty(), "{PAGE}: no row for {missing:?}");
}

/// The values of labels in the text of [`LABELS`]: what stands first in a pair of two strings.
fn label_values(text: &str) -> Vec<&str> {
    let first = |(at, _)| {
        let (value, rest) = text[at + 2..].split_once('"')?;
        rest.starts_with(", \"").then_some(value)
    };
    let is_pair = |(at, _): &(usize, &str)| !text[..*at].ends_with("given");
    text.match_indices("(\"").filter(is_pair).filter_map(first).collect()
}

#[test]
fn every_value_of_a_label_is_counted_under() {
    let text = lexer::without_tests(&read(LABELS));
    let values = label_values(&text);
    assert!(values.len() > 100, "{LABELS}: only {} values read", values.len());
    let sources = all_sources();
    let others: Vec<&Source> =
        sources.iter().filter(|source| source.is_library() && source.path != LABELS).collect();
    let is_named = |value: &str| {
        let literal = format!("\"{value}\"");
        let is_code = |source: &Source, at: usize| source.product.as_bytes().get(at) == Some(&b'"');
        others
            .iter()
            .any(|source| source.text.match_indices(&literal).any(|(at, _)| is_code(source, at)))
    };
    let unused: Vec<&str> = values.into_iter().filter(|value| !is_named(value)).collect();
    assert!(unused.is_empty(), "{LABELS}: no code counts under {unused:?}: remove them");
}

#[test]
fn every_metric_is_counted_somewhere() {
    let sources = all_sources();
    let (home, others): (Vec<Source>, Vec<Source>) =
        sources.into_iter().filter(Source::is_library).partition(|source| source.path == HOME);
    let unused = unused_fields(&home[0], &others);
    assert!(unused.is_empty(), "{HOME}: nothing counts {unused:?}: count it or remove it");
}

#[test]
fn documents_rules_and_dashboards_name_only_metrics_that_exist() {
    let known = known();
    let mut documents = files("deploy", "");
    documents.extend(["README.md".to_owned(), "src/ARCHITECTURE.md".to_owned()]);
    let mut faults = Vec::new();
    for document in &documents {
        let unknown = unknown_names(&read(document), &known);
        faults.extend(unknown.iter().map(|name| format!("{document}: {name} is no metric")));
    }
    assert!(documents.len() > 5, "only {} documents found", documents.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_dashboard_is_json_with_queries() {
    let dashboards = files("deploy", ".json");
    assert!(!dashboards.is_empty(), "deploy: no dashboard");
    for path in dashboards {
        let value: serde_json::Value = serde_json::from_str(&read(&path))
            .unwrap_or_else(|error| panic!("{path}:{}: {error}", error.line()));
        let panels = value["panels"].as_array().unwrap_or_else(|| panic!("{path}: no panels"));
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            let targets = panel["targets"].as_array();
            let asks = targets.is_some_and(|t| t.iter().any(|t| t["expr"].is_string()));
            assert!(asks, "{path}: panel {} asks for nothing", panel["title"]);
        }
    }
}

#[test]
fn an_undocumented_unused_or_unknown_metric_is_found() {
    let text = "pub struct Metrics {\n    pub a: X,\n    pub b: X,\n    pub c: X,\n}\n\
                impl Metrics { fn both(&self) { self.b.inc(); } }\n";
    let home = Source::new(HOME, text);
    let other = |text: &str| vec![Source::new("src/x.rs", text)];
    assert_eq!(unused_fields(&home, &other("fn f() { m.a.inc(); m.both(); }")), ["c"]);
    assert_eq!(unused_fields(&home, &other("fn f() { m.a.inc(); m.c.inc(); }")), ["b"]);
    let known = vec!["narthex_a_seconds".to_owned()];
    assert_eq!(unknown_names("narthex_a_seconds_bucket narthex_b", &known), ["narthex_b"]);
    assert_eq!(metric_names("`narthex_*` narthex_a_seconds x_narthex_c"), known);
    let labels = "given(\"a\", \"b\"); own(\"c\", &[(\"d\", \"\"), (\"e\", \"f\")])";
    assert_eq!(label_values(labels), ["d", "e"]);
}
