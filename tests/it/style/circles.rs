//! Inside a module as between modules: no circle of files that import each other. An import counts
//! for the file that defines what is named, also through a re-export; a `mod` line and a `pub use`
//! are no imports, nor is what tests alone use.

use super::{Finding, Source, all_sources, lexer, report};
use std::collections::{BTreeMap, BTreeSet};

/// Re-exports of re-exports that are followed.
const EXPORTS_MAX: usize = 8;

/// The path of a module or of an item, from the crate's root.
type Path = Vec<String>;

/// One name that a `use` brings in.
struct Use {
    target: Path,
    name: String,
    visibility: Visibility,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visibility {
    Private,
    Exported,
}

/// The files of the library by the paths of their modules, and what each brings in.
struct Tree<'a> {
    sources: BTreeMap<Path, &'a Source>,
    uses: BTreeMap<Path, Vec<Use>>,
}

impl<'a> Tree<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let product = sources.iter().filter(|s| s.is_library() && !s.product.is_empty());
        let mut tree = Self { sources: BTreeMap::new(), uses: BTreeMap::new() };
        tree.sources.extend(product.map(|source| (module_path(&source.path), source)));
        for (own, source) in &tree.sources {
            tree.uses.insert(own.clone(), tree.uses_of(own, &source.product));
        }
        tree
    }

    fn uses_of(&self, own: &[String], code: &str) -> Vec<Use> {
        let mut uses = Vec::new();
        for (start, end) in use_statements(code) {
            let before = code[..start].rsplit(['\n', ';', '{', '}', ']']).next();
            let is_exported = before.is_some_and(|text| text.trim_start().starts_with("pub"));
            let visibility = if is_exported { Visibility::Exported } else { Visibility::Private };
            for (segments, name) in leaves(&code[start + "use".len()..end]) {
                if let Some(target) = self.absolute(own, &segments) {
                    uses.push(Use { target, name, visibility });
                }
            }
        }
        uses
    }

    /// A path of the file `own` from the crate's root; none if it leads out of the crate.
    fn absolute(&self, own: &[String], segments: &[String]) -> Option<Path> {
        let first = segments.first()?;
        if first == "crate" {
            return Some(segments[1..].to_vec());
        }
        let is_turn = |segment: &&String| *segment == "super" || *segment == "self";
        let turns = segments.iter().take_while(is_turn).count();
        let ups = segments[..turns].iter().filter(|segment| *segment == "super").count();
        let path = [&own[..own.len().checked_sub(ups)?], &segments[turns..]].concat();
        let is_child = || self.sources.contains_key([own, &segments[..1]].concat().as_slice());
        (turns > 0 || is_child()).then_some(path)
    }

    /// The file that defines what a path names.
    fn definer(&self, path: &[String], exports_max: usize) -> Option<&Path> {
        let lengths = (0..=path.len()).rev();
        let mut files = lengths.filter_map(|n| self.sources.get_key_value(&path[..n]));
        let (file, _) = files.next()?;
        let Some(item) = path.get(file.len()) else { return Some(file) };
        let export = self.uses[file].iter().find(|one| one.name == *item && one.target != path);
        match export {
            Some(export) if exports_max > 0 => {
                let rest = &path[file.len() + 1..];
                self.definer(&[&export.target, rest].concat(), exports_max - 1)
            }
            Some(_) | None => Some(file),
        }
    }

    /// The other files of its module that a file imports from.
    fn imports(&self, own: &Path) -> BTreeSet<&Path> {
        let body = without_uses(&self.sources[own].product);
        let is_used = |one: &&Use| {
            one.visibility == Visibility::Private || !lexer::words(&body, &one.name).is_empty()
        };
        let used = self.uses[own].iter().filter(is_used).map(|one| one.target.clone());
        let named = named_paths(&body).into_iter();
        let named = named.filter_map(|segments| self.absolute(own, &segments));
        let files = used.chain(named).filter_map(|path| self.definer(&path, EXPORTS_MAX));
        files.filter(|file| *file != own && file.first() == own.first()).collect()
    }

    /// The groups of files that reach each other by imports.
    fn circles(&self) -> Vec<Vec<&'a Source>> {
        let imports: BTreeMap<_, _> =
            self.sources.keys().map(|own| (own, self.imports(own))).collect();
        let reached: BTreeMap<_, _> =
            imports.keys().map(|own| (*own, reached_from(own, &imports))).collect();
        let mut groups = BTreeSet::new();
        for (own, others) in &reached {
            if others.contains(own) {
                let is_back = |other: &&&Path| reached[**other].contains(own);
                groups.insert(others.iter().filter(is_back).copied().collect::<Vec<_>>());
            }
        }
        groups.into_iter().map(|g| g.into_iter().map(|file| self.sources[file]).collect()).collect()
    }

    /// A finding for each circle.
    fn check(&self) -> Vec<Finding> {
        let finding = |circle: Vec<&Source>| {
            let files: Vec<_> = circle.iter().map(|source| source.path.as_str()).collect();
            let advice = format!(
                "these files import each other in a circle: {}; move what they share to a leaf \
                 file, or the caller up",
                files.join(" ")
            );
            circle[0].finding(0, advice)
        };
        self.circles().into_iter().map(finding).collect()
    }
}

fn module_path(file: &str) -> Path {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut path: Path = inner.split('/').map(str::to_owned).collect();
    path.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
    path
}

/// Where each `use` statement begins and ends; `use<'a>` in a type is none.
fn use_statements(code: &str) -> Vec<(usize, usize)> {
    let starts = lexer::words(code, "use").into_iter();
    let starts = starts.filter(|start| code[start + "use".len()..].starts_with([' ', '\n']));
    starts.filter_map(|start| Some((start, start + code[start..].find(';')?))).collect()
}

/// The paths of a `use` tree, each with the name that it is known by.
fn leaves(tree: &str) -> Vec<(Path, String)> {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let mut words = tree.split_whitespace();
        let mut path = segments(words.next().unwrap_or_default());
        path.pop_if(|last| last == "self");
        let name = words.nth(1).map(str::to_owned).or_else(|| path.last().cloned());
        return vec![(path, name.unwrap_or_default())];
    };
    let group = group.rsplit_once('}').map_or(group, |(inner, _)| inner);
    let (mut found, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, character) in group.char_indices().chain([(group.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let entry = group[start..at].trim();
                let whole = format!("{}{entry}", head.trim());
                found.extend(if entry.is_empty() { Vec::new() } else { leaves(&whole) });
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The segments of a path. One with `::` in front leads out of the crate: its first is empty.
fn segments(path: &str) -> Path {
    path.split("::").map(|segment| segment.trim().to_owned()).collect()
}

/// The code without its `use` statements and without `pub(in path)`, which import nothing.
fn without_uses(code: &str) -> String {
    let mut body = code.to_owned();
    for (start, end) in use_statements(code).into_iter().rev() {
        body.replace_range(start..end, "");
    }
    while let Some(start) = body.find("pub(in ") {
        let end = body[start..].find(')').map_or(body.len(), |length| start + length);
        body.replace_range(start..end, "");
    }
    body
}

/// The paths of two segments and more that the code names in place.
fn named_paths(body: &str) -> Vec<Path> {
    let is_path = |c: char| c == ':' || c == '_' || c.is_ascii_alphanumeric();
    let words = body.split(|c: char| !is_path(c)).filter(|word| word.contains("::"));
    words.map(|word| segments(word.trim_end_matches(':'))).collect()
}

/// The files that `own` reaches by imports: `own` too, if it is in a circle.
fn reached_from<'p>(
    own: &'p Path,
    imports: &BTreeMap<&'p Path, BTreeSet<&'p Path>>,
) -> BTreeSet<&'p Path> {
    let mut reached = BTreeSet::new();
    let mut next = vec![own];
    while let Some(file) = next.pop() {
        next.extend(imports[file].iter().filter(|other| reached.insert(**other)));
    }
    reached
}

#[test]
fn no_files_of_a_module_import_each_other_in_a_circle() {
    let sources = all_sources();
    let tree = Tree::new(&sources);
    assert!(tree.sources.len() > 200, "only {} files of the library found", tree.sources.len());
    report(&tree.check());
}

/// The circles of a library of these files, as their paths.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let tree = Tree::new(&sources);
    let paths = |circle: &Vec<&Source>| circle.iter().map(|one| one.path.clone()).collect();
    tree.circles().iter().map(paths).collect()
}

#[test]
fn a_circle_is_found() {
    let two = [["src/m/a.rs", "src/m/b.rs"]];
    for (a, b) in [
        ("use super::b::B;", "use crate::m::a::A;"),
        ("use super::b::{self, B};", "use crate::m::{a::{A as C}};"),
        ("fn f() { super::b::g() }", "fn g() -> crate::m::a::A {}"),
        ("use super::b::B;", "pub(super) use super::a::A;\nstruct S(A);"),
    ] {
        assert_eq!(circles_of(&[("src/m/a.rs", a), ("src/m/b.rs", b)]), two, "{a} {b}");
    }
    let root = ("src/m/mod.rs", "mod a;\nuse a::A;\nstruct M(A);");
    let child = ("src/m/a.rs", "use super::M;\nstruct A(M);");
    assert_eq!(circles_of(&[root, child]), [["src/m/mod.rs", "src/m/a.rs"]]);
    let three = [
        ("src/m/a.rs", "use super::b::B;"),
        ("src/m/b.rs", "use super::c::C;"),
        ("src/m/c.rs", "use super::a::A;"),
        ("src/m/d.rs", "use super::a::A;"),
    ];
    assert_eq!(circles_of(&three), [["src/m/a.rs", "src/m/b.rs", "src/m/c.rs"]]);
}

#[test]
fn an_import_counts_for_the_file_that_defines_what_is_named() {
    let root = ("src/m/mod.rs", "mod a;\nmod b;\npub use a::A;\npub use b::B;");
    let through = [root, ("src/m/a.rs", "use super::B;"), ("src/m/b.rs", "use super::A;")];
    assert_eq!(circles_of(&through), [["src/m/a.rs", "src/m/b.rs"]]);
    let one_way = [root, ("src/m/a.rs", "use super::B;"), ("src/m/b.rs", "struct B;")];
    assert_eq!(circles_of(&one_way), [[""; 0]; 0]);
}

#[test]
fn what_is_no_import_makes_no_circle() {
    let a = ("src/m/a.rs", "use super::b::B;");
    for b in [
        "// use super::a::A;",
        "const T: &str = \"super::a::A\";",
        "#[cfg(test)]\nmod tests { use super::super::a::A; }",
        "pub use super::a::A;",
        "pub(in crate::m::a) struct B;",
        "use ::a::A;\nfn f() -> impl Sized + use<> {}",
        "use std::fmt;",
    ] {
        assert_eq!(circles_of(&[a, ("src/m/b.rs", b)]), [[""; 0]; 0], "{b}");
    }
    let modules = [("src/a.rs", "use crate::b::B;"), ("src/b.rs", "use crate::a::A;")];
    assert_eq!(circles_of(&modules), [[""; 0]; 0]);
}

#[test]
fn a_circle_is_named_by_its_files() {
    let circle = [
        Source::new("src/m/a.rs", "use super::b::B;"),
        Source::new("src/m/b.rs", "use super::a::A;"),
    ];
    let found = Tree::new(&circle).check();
    assert_eq!(found.len(), 1);
    assert!(found[0].to_string().starts_with("src/m/a.rs:1: these files import"), "{}", found[0]);
}
