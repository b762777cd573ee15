//! The text of `deploy/METRICS.md`, made from the definitions. Pure; printed by
//! `narthex config --metrics`.

use super::definition::{Label, LabelValue, LabelValues};
use super::labels::SHARED;
use super::registrar::MetricEntry;
use std::fmt::Write as _;

const HEAD: &str = "\
# Metrics

`GET /metrics` on the admin listener prints these in the Prometheus text format. The command
`narthex config --metrics` prints this page.

| metric | type | labels | meaning |
|---|---|---|---|
";

const LABELS: &str = "
## Labels of several metrics

| label | values |
|---|---|
";

/// The metrics in the order of their registration, then the labels that several have.
pub(super) fn of(entries: &[MetricEntry]) -> String {
    let mut text = HEAD.to_owned();
    for MetricEntry { kind, definition } in entries {
        let labels: Vec<String> = definition.labels.iter().map(in_row).collect();
        let (name, kind, help) = (definition.name, kind.as_str(), definition.help);
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join("; "));
    }
    text.push_str(LABELS);
    for label in &SHARED {
        let values = match &label.values {
            LabelValues::Given(what) => (*what).to_owned(),
            LabelValues::Shared(values) => list(&values()),
            LabelValues::Own(values) => list(values),
        };
        let _ = writeln!(text, "| `{}` | {values} |", label.name);
    }
    text
}

/// A label in the row of its metric: with its values if no other metric has them.
fn in_row(label: &Label) -> String {
    match &label.values {
        LabelValues::Given(_) | LabelValues::Shared(_) => format!("`{}`", label.name),
        LabelValues::Own(values) => format!("`{}`: {}", label.name, list(values)),
    }
}

fn list(values: &[LabelValue]) -> String {
    let values = values.iter().map(|(value, meaning)| match *meaning {
        "" => format!("`{value}`"),
        meaning => format!("`{value}` ({meaning})"),
    });
    values.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use std::path::Path;

    #[test]
    fn the_committed_page_is_the_generated_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/METRICS.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == Metrics::new().unwrap().reference(),
            "deploy/METRICS.md is out of date; write it anew: \
             cargo run -- config --metrics > deploy/METRICS.md"
        );
    }
}
