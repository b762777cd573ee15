//! The layering: a module names only modules of earlier layers, siblings never name each other,
//! and the pure modules stay pure.

use super::{Finding, Source, all_sources, expect_found, lexer, package, read, report};

/// The modules of each layer, in order, as `src/lib.rs` declares them.
struct Layers(Vec<(String, usize)>);

impl Layers {
    /// Reads `// N name` comments and the `mod` lines below each of them.
    fn parse(root: &str) -> Self {
        let mut modules = Vec::new();
        let mut layer = None;
        for line in root.lines() {
            if let Some(comment) = line.strip_prefix("// ") {
                layer = comment.split(' ').next().and_then(|n| n.parse().ok()).or(layer);
            }
            let declared = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "));
            if let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')) {
                let layer = layer.unwrap_or_else(|| panic!("src/lib.rs: {name} is in no layer"));
                modules.push((name.to_owned(), layer));
            }
        }
        assert!(modules.is_sorted_by_key(|(_, layer)| *layer), "src/lib.rs: layers out of order");
        Self(modules)
    }

    fn of(&self, module: &str) -> Option<usize> {
        self.0.iter().find(|(name, _)| name == module).map(|(_, layer)| *layer)
    }

    fn check(&self, source: &Source) -> Vec<Finding> {
        let Some(module) = source.module() else { return Vec::new() };
        let Some(own) = self.of(module) else {
            let advice = format!("module {module} is not in src/lib.rs: add it to its layer");
            return vec![source.finding(0, advice)];
        };
        let mut findings = climbs_to_the_root(source);
        for (offset, named) in crate_names(&source.product) {
            let Some(layer) = self.of(&named) else { continue };
            if named != module && layer >= own {
                let advice = format!(
                    "{module} (layer {own}) names crate::{named} (layer {layer}): a module names \
                     only modules of earlier layers; move the shared part down, or the use up"
                );
                findings.push(source.finding(offset, advice));
            }
        }
        findings
    }
}

/// The modules that the code names by `crate::`, grouped braces included, with their offsets.
fn crate_names(code: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for offset in lexer::words(code, "crate") {
        let rest = &code[offset + "crate".len()..];
        if let Some(tail) = rest.strip_prefix("::") {
            let start = offset + "crate::".len();
            match tail.strip_prefix('{') {
                Some(_) => names.extend(group_heads(code, start)),
                None => names.push((offset, identifier(tail))),
            }
        }
    }
    names
}

/// The first identifier of each entry of the brace group that opens at `open`.
fn group_heads(code: &str, open: usize) -> Vec<(usize, String)> {
    let end = lexer::closing(code.as_bytes(), open);
    let mut heads = Vec::new();
    let (mut depth, mut is_head) = (0_usize, false);
    for (at, character) in code[open..end].char_indices() {
        match character {
            '{' => {
                depth += 1;
                is_head = depth == 1;
            }
            '}' => depth -= 1,
            ',' => is_head = depth == 1,
            _ if is_head && !character.is_whitespace() => {
                heads.push((open + at, identifier(&code[open + at..])));
                is_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.bytes().take_while(|b| lexer::is_word(*b)).map(char::from).collect()
}

/// `super::` chains that reach the crate root, where they would escape the check.
fn climbs_to_the_root(source: &Source) -> Vec<Finding> {
    let parts = source.path.trim_start_matches("src/").trim_end_matches(".rs").split('/');
    let depth = parts.filter(|part| *part != "mod").count();
    let chain = "super::".repeat(depth);
    let found = source.product.match_indices(&chain);
    found
        .map(|(at, _)| source.finding(at, "this super:: is the crate root: write crate::"))
        .collect()
}

/// Layer 0 (but the clock), `object` and `policy`: no awaiting, no clock, no input or output.
fn check_purity(source: &Source) -> Vec<Finding> {
    let pure = ["nix", "outcome", "rfc", "units", "object", "policy"];
    if !source.module().is_some_and(|module| pure.contains(&module)) {
        return Vec::new();
    }
    let impure = ["async fn", ".await", "SystemTime::now", "Instant::now", "std::fs", "tokio::"];
    let all = impure.iter().flat_map(|word| source.product.match_indices(word));
    let advice = "this module is pure: take the value as an argument, do the work in a later layer";
    all.map(|(at, _)| source.finding(at, advice)).collect()
}

/// `store` and `memory` know keys, metadata and bytes, never HTTP connections.
fn check_stores_know_no_http(source: &Source) -> Vec<Finding> {
    if !matches!(source.module(), Some("store" | "memory")) {
        return Vec::new();
    }
    let found = lexer::words(&source.product, "hyper");
    found.into_iter().map(|at| source.finding(at, "a store knows no HTTP: move this up")).collect()
}

/// Time comes from `clock`, tasks from `tasks`.
fn check_single_places(source: &Source) -> Vec<Finding> {
    let rules = [
        ("SystemTime::now(", "clock", "take the time from crate::clock::Clock"),
        ("tokio::spawn(", "tasks", "spawn through crate::tasks::Tasks, with a name"),
        ("spawn_blocking(", "tasks", "use crate::tasks::Tasks::blocking, with a name"),
    ];
    let Some(module) = source.module() else { return Vec::new() };
    let mut findings = Vec::new();
    for (word, home, advice) in rules {
        if module != home {
            let found = source.product.match_indices(word);
            findings.extend(found.map(|(at, _)| source.finding(at, advice)));
        }
    }
    findings
}

/// The visible top level, which operators and tests rely on.
const TOP_LEVEL: [&str; 8] =
    ["Cargo.lock", "Cargo.toml", "README.md", "benches", "config", "deploy", "src", "tests"];

/// What differs between the wanted and the present entries; hidden ones and `target` aside.
fn top_level_faults(present: &[String]) -> Vec<String> {
    let visible = |name: &&String| !name.starts_with('.') && *name != "target";
    let surplus = present.iter().filter(visible).filter(|name| !TOP_LEVEL.contains(&name.as_str()));
    let missing = TOP_LEVEL.iter().filter(|name| !present.iter().any(|have| have == *name));
    let surplus = surplus.map(|name| format!("{name}: not part of the top level: move it"));
    surplus.chain(missing.map(|name| format!("{name}: missing from the top level"))).collect()
}

#[test]
fn every_module_names_only_earlier_layers() {
    let layers = Layers::parse(&read("src/lib.rs"));
    assert!(layers.0.len() > 20, "src/lib.rs: only {} modules read", layers.0.len());
    let sources = all_sources();
    let library = sources.iter().filter(|source| source.is_library());
    report(&library.flat_map(|source| layers.check(source)).collect::<Vec<_>>());
}

#[test]
fn a_name_of_a_later_layer_or_a_sibling_is_found() {
    let layers = Layers::parse("// 0 base\npub mod a;\npub mod b;\n// 1 next\nmod c;\n");
    let found = |path: &str, text: &str| layers.check(&Source::new(path, text)).len();
    assert_eq!(found("src/c.rs", "use crate::a::X;\nuse crate::{b::Y, a::{Z, c}};"), 0);
    assert_eq!(found("src/a.rs", "use crate::c::X;"), 1);
    assert_eq!(found("src/a/deep.rs", "fn f() -> crate::b::X {}"), 1);
    assert_eq!(found("src/a.rs", "use crate::{\n    a::Own,\n    b::{self, Y},\n    c,\n};"), 2);
    assert_eq!(found("src/a.rs", "// crate::c::X\nconst T: &str = \"crate::c\";"), 0);
    assert_eq!(found("src/a.rs", "#[cfg(test)]\nmod tests { use crate::c::X; }"), 0);
    assert_eq!(found("src/a.rs", "use super::c::X;"), 1);
    assert_eq!(found("src/a/deep.rs", "use super::Own;"), 0);
    assert_eq!(found("src/a/deep.rs", "use super::super::c::X;"), 1);
    assert_eq!(found("src/unknown.rs", ""), 1);
}

#[test]
fn the_pure_modules_never_wait_and_never_look_around() {
    super::expect_clean(check_purity);
}

#[test]
fn impurity_is_found() {
    expect_found(check_purity, "src/policy/x.rs", "async fn f() { g().await }", 2);
    expect_found(check_purity, "src/clock.rs", "fn f() { SystemTime::now() }", 0);
    expect_found(check_purity, "src/nix/x.rs", "use std::fs::File;", 1);
}

#[test]
fn the_stores_know_no_http() {
    super::expect_clean(check_stores_know_no_http);
}

#[test]
fn http_in_a_store_is_found() {
    expect_found(check_stores_know_no_http, "src/store/file.rs", "use hyper::Request;", 1);
    expect_found(check_stores_know_no_http, "src/front.rs", "use hyper::Request;", 0);
}

#[test]
fn time_and_tasks_come_from_one_place() {
    super::expect_clean(check_single_places);
}

#[test]
fn a_second_place_for_time_or_tasks_is_found() {
    let text = "fn f() { tokio::spawn(g()); SystemTime::now(); }";
    expect_found(check_single_places, "src/fill.rs", text, 2);
    expect_found(check_single_places, "src/tasks.rs", "fn f() { tokio::spawn(g()); }", 0);
}

#[test]
fn the_top_level_is_the_contracts() {
    let entries = std::fs::read_dir(package()).unwrap();
    let present: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    let faults = top_level_faults(&present);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_surplus_or_missing_top_level_entry_is_found() {
    let mut present: Vec<String> = TOP_LEVEL.iter().map(ToString::to_string).collect();
    present.extend([".ci".to_owned(), "target".to_owned()]);
    assert!(top_level_faults(&present).is_empty());
    present.push("notes".to_owned());
    present.retain(|name| name != "deploy");
    assert_eq!(top_level_faults(&present).len(), 2);
}
