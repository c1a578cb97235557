//! Configuration files: complaints name the line and the key, and never show what may be a secret.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads a file's text.
///
/// # Errors
/// Names the line, the key, and what is wrong there.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = line_at(text, start);
        let message = without_values(error.message());
        let hint = hint(error.message());
        match key_at(text, start).filter(|_| !error.message().starts_with("unknown field")) {
            Some(key) => anyhow::anyhow!("line {line}, {key}: {message}{hint}"),
            None => anyhow::anyhow!("line {line}: {message}{hint}"),
        }
    })
}

/// The line of a key, given with the tables around it; `None` when it is not there.
pub(crate) fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut found = None;
    for name in path {
        let (key, value) = table
            .iter()
            .find(|(key, _)| key.get_ref().as_ref() == *name)?;
        found = Some(line_at(text, key.span().start));
        let DeValue::Table(inner) = value.get_ref() else {
            break;
        };
        table = inner;
    }
    found
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.matches('\n').count() + 1
}

/// The key whose value is at that place, with the tables around it.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let root = DeTable::parse(text).ok()?;
    let path = path_in(root.get_ref(), offset)?;
    Some(path.join("."))
}

fn path_in(table: &DeTable<'_>, offset: usize) -> Option<Vec<String>> {
    for (key, value) in table {
        let name = key.get_ref().to_string();
        if let Some(inner) = inside(value, offset) {
            return Some([vec![name], inner].concat());
        }
        let is_it = value.span().contains(&offset) || key.span().contains(&offset);
        if is_it {
            return Some(vec![name]);
        }
    }
    None
}

/// The keys inside of a value that lead there.
fn inside(value: &Spanned<DeValue<'_>>, offset: usize) -> Option<Vec<String>> {
    match value.get_ref() {
        DeValue::Table(table) => path_in(table, offset),
        DeValue::Array(items) => items.iter().find_map(|item| inside(item, offset)),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    }
}

/// A message of serde without the string in it, which may be a secret.
fn without_values(message: &str) -> String {
    let expected = message.rsplit_once(", expected ");
    match (message.split_once(": string "), expected) {
        (Some((what, _)), Some((_, expected))) => {
            format!("{what}: a string, expected {expected}")
        }
        _ => message.to_owned(),
    }
}

/// What a key that nobody knows was meant to be.
fn hint(message: &str) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return String::new();
    }
    let Some(unknown) = words.next() else {
        return String::new();
    };
    alike(unknown, words)
        .map(|word| format!("; did you mean `{word}`?"))
        .unwrap_or_default()
}

/// The word that was meant by one that nobody knows.
pub(crate) fn alike<'a>(unknown: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |word: &str| strsim::jaro_winkler(unknown, word);
    // Of short words one letter, or the order of two, is much.
    let is_near = |word: &str| strsim::osa_distance(unknown, word) == 1;
    words
        .filter(|word| similarity(word) > ALIKE_MIN || is_near(word))
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
}

/// How alike two keys are when one was meant as the other.
const ALIKE_MIN: f64 = 0.8;

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only read")]
        number: Option<u16>,
        #[expect(dead_code, reason = "only read")]
        inner: Option<Inner>,
        #[expect(dead_code, reason = "only read")]
        many: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[expect(dead_code, reason = "only read")]
        flag: bool,
    }

    #[test]
    fn a_complaint_names_the_line_and_the_key() {
        for (text, says) in [
            ("number = 'x'", "line 1, number: "),
            ("\nnumber = 70000", "line 2, number: "),
            ("[inner]\nflag = 3", "line 2, inner.flag: "),
            ("inner = { flag = 'no' }", "line 1, inner.flag: "),
            (
                "[[many]]\nflag = true\n[[many]]\nflag = 1",
                "line 4, many.flag: ",
            ),
            ("number = \n", "line 1: "),
            ("numbr = 3", "line 1: unknown field `numbr`"),
        ] {
            let complaint = parse::<Outer>(text).expect_err("it is wrong").to_string();
            assert!(complaint.starts_with(says), "{text}: {complaint}");
        }
    }

    #[test]
    fn the_line_of_a_key_is_found_however_its_table_is_written() {
        let text = "a = 1\nb.c = 2\n[d]\ne = 3\n[d.f]\ng = 4\nh = { i = 5 }\n";
        for (path, line) in [
            (&["a"][..], 1),
            (&["b", "c"], 2),
            (&["d", "e"], 4),
            (&["d", "f", "g"], 6),
            (&["d", "f", "h", "i"], 7),
        ] {
            assert_eq!(line_of(text, path), Some(line), "{path:?}");
        }
        assert_eq!(line_of(text, &["d", "x"]), None);
    }
}
