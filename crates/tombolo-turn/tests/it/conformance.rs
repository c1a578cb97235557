//! The tables of `docs/turn-conformance` against the tests that they name, and against the number of
//! sentences in each section of each RFC that ask for something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_conformance_tables_name_tests_that_exist() {
    let mut tables = Vec::new();
    collect(&root().join("docs/turn-conformance"), "md", &mut tables);
    assert!(!tables.is_empty());
    let mut defined: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    let mut is_missing = |test: &String| {
        let (place, name) = place_of(test);
        let tests = defined.entry(place).or_insert_with_key(|place| {
            let mut sources = Vec::new();
            match place.is_dir() {
                true => collect(place, "rs", &mut sources),
                false => sources.push(place.clone()),
            }
            let sources = sources.iter().filter(|source| source.is_file());
            sources.flat_map(|path| names_in(&read(path))).collect()
        });
        !tests.contains(name)
    };
    let named = tables.iter().flat_map(|path| tests_named_in(&read(path)));
    let missing: Vec<String> = named.filter(|test| is_missing(test)).collect();
    assert_eq!(missing, [""; 0], "rename them in the tables too");
}

#[test]
fn each_sentence_of_the_rfcs_that_asks_for_something_has_one_row() {
    for (rfc, sections) in SENTENCES {
        let mut wanted: BTreeSet<(String, u32)> = BTreeSet::new();
        for section in sections.split(", ").filter(|section| !section.is_empty()) {
            let (section, count) = section.split_once(": ").expect("is a section");
            let count: u32 = count.parse().expect("is a number");
            wanted.extend((1..=count).map(|number| (section.to_owned(), number)));
        }
        for row in rows_of(rfc) {
            for number in row.numbers {
                let key = (row.section.clone(), number);
                assert!(wanted.remove(&key), "RFC {rfc} §{} {number}", key.0);
            }
        }
        assert_eq!(wanted, BTreeSet::new(), "RFC {rfc}: these have no row");
    }
}

#[test]
fn the_overview_counts_the_rows_as_they_are() {
    let overview = read(&root().join("docs/turn-conformance.md"));
    for (rfc, _) in SENTENCES {
        let mut counts: BTreeMap<Verdict, usize> = BTreeMap::new();
        for row in rows_of(rfc) {
            *counts.entry(row.verdict).or_default() += row.numbers.len();
        }
        let count = |verdict| counts.get(&verdict).copied().unwrap_or(0);
        let (shown, partly) = (count(Verdict::Shown), count(Verdict::Partly));
        let (no, others) = (count(Verdict::No), count(Verdict::Others));
        let all = shown + partly + no + others;
        let line = format!("| {all} | {shown} | {partly} | {no} | {others} |");
        let is_it = |one: &&str| one.contains(&format!("rfc{rfc}.md"));
        let told = overview.lines().find(is_it).unwrap_or_default();
        assert!(told.ends_with(&line), "RFC {rfc}: {line}, not {told}");
    }
}

/// A row of a table.
struct Row {
    section: String,
    numbers: Vec<u32>,
    verdict: Verdict,
}

/// What a row says of its sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Shown,
    Partly,
    No,
    Others,
}

fn rows_of(rfc: &str) -> Vec<Row> {
    let table = read(&root().join(format!("docs/turn-conformance/rfc{rfc}.md")));
    let mut rows = Vec::new();
    for line in table.lines() {
        let Some(line) = line.strip_prefix("| ") else {
            continue;
        };
        let cells: Vec<&str> = line.trim_end_matches(" |").split(" | ").collect();
        let &[section, numbers, _, _, shown] = &cells[..] else {
            panic!("a row of RFC {rfc} has {} cells: {line}", cells.len());
        };
        let numbers = match numbers {
            "no." | "–" => Vec::new(),
            _ => numbers
                .split(", ")
                .map(|number| number.parse().expect("is a number"))
                .collect(),
        };
        let verdict = if shown.contains("**Partly**") {
            Verdict::Partly
        } else if shown.starts_with("**No**") {
            Verdict::No
        } else if shown.starts_with("**Others**") {
            Verdict::Others
        } else {
            Verdict::Shown
        };
        let names_a_test = !tests_named_in(shown).is_empty();
        assert!(
            verdict != Verdict::Shown || numbers.is_empty() || names_a_test,
            "RFC {rfc} §{section}: nothing shows it"
        );
        let section = section.to_owned();
        rows.push(Row {
            section,
            numbers,
            verdict,
        });
    }
    rows
}

/// Returns the tests in backquotes: those with a path, or with `unit` in front.
fn tests_named_in(table: &str) -> Vec<String> {
    let quoted = table.split('`').skip(1).step_by(2);
    let tests = quoted.filter(|text| text.contains("::") || text.contains("unit "));
    let is_word = |c: char| c.is_ascii_alphanumeric() || ":_ ".contains(c);
    tests
        .filter(|test| test.chars().all(is_word))
        .map(str::to_owned)
        .collect()
}

/// Returns the file or folder in which a test is, and its name. In front stands the crate's name, unless
/// it is this one; then `unit`, or the module.
fn place_of(test: &str) -> (PathBuf, &str) {
    let (path, name) = test.rsplit_once([':', ' ']).unwrap_or_default();
    let (before, module) = path
        .trim_end_matches(':')
        .rsplit_once(' ')
        .unwrap_or_else(|| {
            let path = path.trim_end_matches(':');
            if path == "unit" {
                ("turn", path)
            } else {
                ("", path)
            }
        });
    let (of_crate, tests) = match before {
        "" => ("tombolo-turn", "tests/it/server"),
        "interop" => ("tombolo", "tests/it/interop"),
        "client" => ("tombolo-client", "tests/it"),
        "node" => ("tombolo-node", "tests/it"),
        "path" => ("tombolo-path", "tests/it"),
        "relay" => ("tombolo-relay", "tests/it"),
        "stun" => ("tombolo-stun", "tests/it"),
        "turn" => ("tombolo-turn", "tests/it"),
        _ => panic!("no crate for {test}"),
    };
    let place = root().join("crates").join(of_crate);
    let place = match module {
        "unit" => place.join("src"),
        _ => place.join(tests).join(format!("{module}.rs")),
    };
    (place, name)
}

/// Returns the names of functions that are tests, and of tests that a macro makes (`name: …`).
fn names_in(source: &str) -> Vec<String> {
    let mut is_test = false;
    let mut names = Vec::new();
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
            continue;
        }
        let line = line.strip_prefix("async ").unwrap_or(line);
        let name = match line.strip_prefix("fn ") {
            Some(rest) if std::mem::take(&mut is_test) => rest.split('(').next(),
            Some(_) => None,
            None if line.starts_with("pub ") || line.starts_with("let ") => None,
            None => line.split_once(": ").map(|(name, _)| name),
        };
        names.extend(name.map(str::to_owned));
    }
    names
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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("is text")
}

/// How many sentences with MUST, SHALL, REQUIRED, SHOULD or RECOMMENDED each section has, but for the
/// one that explains these words.
const SENTENCES: &[(&str, &str)] = &[
    (
        "8489",
        "5: 7, 6.1: 7, 6.2: 1, 6.2.1: 13, 6.2.2: 8, 6.2.3: 9, 6.3: 2, 6.3.1: 3, 6.3.1.1: 5, \
         6.3.3: 1, 6.3.4: 3, 8: 1, 8.1: 5, 9: 2, 9.1.2: 2, 9.1.3: 13, 9.1.4: 4, 9.1.5: 1, \
         9.2: 4, 9.2.3.1: 1, 9.2.3.2: 3, 9.2.4: 24, 9.2.5: 19, 10: 8, 11: 2, 12: 7, 14: 4, \
         14.1: 3, 14.3: 2, 14.4: 1, 14.5: 1, 14.6: 2, 14.7: 1, 14.8: 11, 14.9: 1, 14.10: 1, \
         14.12: 1, 14.14: 2, 14.16: 1, 16: 2, 16.1.1: 1, 16.1.2: 1, 18.5.1.1: 1",
    ),
    (
        "8656",
        "3.1: 1, 3.7: 2, 4.1: 1, 5: 10, 6: 3, 7.1: 12, 7.2: 11, 7.3: 4, 7.4: 14, 8: 2, 8.1: \
         2, 8.2: 1, 9: 1, 10.1: 2, 10.2: 2, 11.1: 2, 11.2: 1, 11.3: 1, 11.4: 1, 11.5: 2, \
         11.6: 1, 12: 4, 12.1: 1, 12.2: 1, 12.3: 1, 12.5: 2, 12.6: 2, 13: 1, 13.1: 1, 13.2: \
         4, 13.3: 2, 14: 2, 15: 1, 16: 1, 18: 1, 18.1: 1, 18.6: 1, 18.8: 1, 18.12: 2, 18.13: \
         2, 21.1.6: 2, 21.4: 2",
    ),
    (
        "6062",
        "4.1: 4, 4.2: 1, 4.3: 9, 4.4: 5, 4.6: 1, 5.1: 8, 5.2: 12, 5.3: 5, 5.4: 4, 5.5: 3",
    ),
    ("8016", "3.1.4: 1, 3.2.1: 1, 3.2.2: 7, 5: 4"),
    (
        "5780",
        "1: 2, 3: 1, 5: 7, 6: 5, 6.1: 13, 7.4: 1, 7.5: 2, 7.6: 2",
    ),
    ("7443", ""),
    (
        "7635",
        "4.1: 2, 4.1.1: 2, 4.1.2: 1, 6.1: 2, 6.2: 4, 7: 2, 8: 2, 9: 6, 11: 1",
    ),
    ("7982", "3.1: 3, 3.2: 3, 3.3: 1"),
];
