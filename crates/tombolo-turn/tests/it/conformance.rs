//! The tables of `docs/turn-conformance` against the tests that they name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_conformance_tables_name_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = Vec::new();
    collect(&root.join("crates"), "rs", &mut sources);
    let defined: BTreeSet<String> = sources
        .iter()
        .flat_map(|path| names_in(&read(path)))
        .collect();
    let mut tables = Vec::new();
    collect(&root.join("docs/turn-conformance"), "md", &mut tables);
    assert!(!tables.is_empty());
    let named = tables.iter().flat_map(|path| tests_named_in(&read(path)));
    let missing: Vec<String> = named.filter(|name| !defined.contains(name)).collect();
    assert_eq!(missing, [""; 0], "rename them in the tables too");
}

/// Returns the names of tests in backquotes: those with a path, or with `unit` in front.
fn tests_named_in(table: &str) -> Vec<String> {
    let quoted = table.split('`').skip(1).step_by(2);
    let tests = quoted.filter(|text| text.contains("::") || text.starts_with("unit "));
    let name = |text: &str| {
        text.rsplit([':', ' '])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let is_name = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    tests.map(name).filter(is_name).collect()
}

/// Returns the names of functions, and of tests that a macro makes (`name: …`).
fn names_in(source: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("async ").unwrap_or(line);
        let name = match line.strip_prefix("fn ") {
            Some(rest) => rest.split('(').next(),
            None => line.split_once(": ").map(|(name, _)| name),
        };
        name.map(str::to_owned)
    };
    source.lines().filter_map(of_line).collect()
}

fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("is a folder") {
        let path = entry.expect("can be read").path();
        if path.is_dir() {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|one| one == extension) {
            files.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("is text")
}
