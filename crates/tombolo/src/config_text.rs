//! Configuration files: complaints name the line and the key, and never show what may be a secret.

use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a key, before it is known where that stands.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// With the tables around it.
    key: Vec<String>,
    /// Which of several tables of one name, from 0.
    number: Option<usize>,
    why: anyhow::Error,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.key.join("."), self.why)
    }
}

impl std::error::Error for Wrong {}

/// Says which key something is wrong with.
pub(crate) trait At<T>: Sized {
    /// It is this one, or this table and a key in it that is known already.
    fn at(self, key: &str) -> anyhow::Result<T>;

    /// The same of the table of this number, from 0, of several of one name.
    fn in_table(self, name: &str, number: usize) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> At<T> for Result<T, E> {
    fn at(self, key: &str) -> anyhow::Result<T> {
        self.map_err(|error| wrong(error.into(), key, None))
    }

    fn in_table(self, name: &str, number: usize) -> anyhow::Result<T> {
        self.map_err(|error| wrong(error.into(), name, Some(number)))
    }
}

/// Whether something makes sense, or why not.
pub(crate) fn ensure(holds: bool, why: impl FnOnce() -> String) -> anyhow::Result<()> {
    if holds {
        return Ok(());
    }
    Err(anyhow::anyhow!(why()))
}

fn wrong(error: anyhow::Error, name: &str, number: Option<usize>) -> anyhow::Error {
    let name = name.to_owned();
    let wrong = match error.downcast() {
        Ok(Wrong {
            key,
            number: known,
            why,
        }) => Wrong {
            key: [vec![name], key].concat(),
            number: known.or(number),
            why,
        },
        Err(why) => Wrong {
            key: vec![name],
            number,
            why,
        },
    };
    wrong.into()
}

/// Names the flag of a complaint, if what is wrong was given by one, which has the key's name.
///
/// # Errors
/// It is about something else.
pub(crate) fn flagged(
    error: anyhow::Error,
    is_given: impl Fn(&str) -> bool,
) -> Result<anyhow::Error, anyhow::Error> {
    let wrong: Wrong = error.downcast()?;
    match wrong.key.as_slice() {
        [key] if is_given(key) => Ok(wrong.why.context(format!("--{key}"))),
        _ => Err(wrong.into()),
    }
}

/// Names the file of a complaint, and the line of its key if the file has that, or else of the table in which it
/// should be.
pub(crate) fn placed(error: anyhow::Error, path: &Path, text: &str) -> anyhow::Error {
    let path = path.display();
    match error.downcast() {
        Ok(Wrong { key, number, why }) => {
            let name = key.join(".");
            why.context(match line_near(text, &key, number) {
                Some(line) => format!("{path}: line {line}, {name}"),
                None => format!("{path}: {name}"),
            })
        }
        Err(error) => error.context(path.to_string()),
    }
}

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

/// The line of a key, or of the innermost table around it that is there. Of several tables of one name the one of
/// that number is meant.
fn line_near(text: &str, path: &[String], number: Option<usize>) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let (mut table, mut number) = (root.get_ref(), number);
    let mut found = None;
    for name in path {
        let known = table.get_key_value(name.as_str());
        let Some((key, mut value)) = known else {
            break;
        };
        found = Some(key.span().start);
        if let DeValue::Array(items) = value.get_ref()
            && let Some(item) = number.take().and_then(|number| items.get(number))
        {
            found = Some(item.span().start);
            value = item;
        }
        let DeValue::Table(inner) = value.get_ref() else {
            break;
        };
        table = inner;
    }
    found.map(|at| line_at(text, at))
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

/// A message of serde without the string in it, which may be a secret, and with what it expects in the words of files.
fn without_values(message: &str) -> String {
    match (message.split_once(": string "), expected(message)) {
        (Some((what, _)), Some((_, expected))) => {
            format!("{what}: a string, expected {expected}")
        }
        (None, Some((found, expected))) => format!("{found}, expected {expected}"),
        (_, None) => message.to_owned(),
    }
}

/// What was found, and what was expected; `None` where a message does not say, or says it of keys and words.
fn expected(message: &str) -> Option<(&str, &str)> {
    let (found, expected) = message.rsplit_once(", expected ")?;
    let is_of_values = ["invalid type: ", "invalid value: ", "invalid length "];
    if !is_of_values.iter().any(|kind| message.starts_with(kind)) {
        return None;
    }
    Some(match expected {
        "u8" => (found, "a whole number from 0 to 255"),
        "u16" => (found, "a whole number from 0 to 65535"),
        "u32" | "u64" | "usize" => (found, "a whole number, not below 0"),
        "f64" => (found, "a number"),
        "a boolean" => (found, "true or false"),
        "a sequence" => (found, "a list"),
        "a map" => (found, "a table"),
        of_a_table if of_a_table.starts_with("struct ") => (found, "a table"),
        other => (found, other),
    })
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
            (
                "number = 70000",
                "line 1, number: invalid value: integer `70000`, expected a whole number from 0 to 65535",
            ),
            (
                "inner = 'secret'",
                "line 1, inner: invalid type: a string, expected a table",
            ),
            (
                "many = 3",
                "line 1, many: invalid type: integer `3`, expected a list",
            ),
        ] {
            let complaint = parse::<Outer>(text).expect_err("it is wrong").to_string();
            assert!(complaint.starts_with(says), "{text}: {complaint}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place_or_that_of_its_table() {
        let text =
            "a = 1\n[[t]]\nb = 2\n\n[[t]]\nc = 3\nd = { e = 4 }\n[u]\n[[u.t]]\n[[u.t]]\nf = 5\n";
        let wrong = || Err::<(), _>(anyhow::anyhow!("no"));
        for (error, says) in [
            (wrong(), "f.toml: no"),
            (wrong().at("a"), "f.toml: line 1, a: no"),
            (wrong().at("x"), "f.toml: x: no"),
            (wrong().at("b").in_table("t", 0), "f.toml: line 3, t.b: no"),
            (wrong().at("c").in_table("t", 1), "f.toml: line 6, t.c: no"),
            (
                wrong().at("e").at("d").in_table("t", 1),
                "f.toml: line 7, t.d.e: no",
            ),
            (wrong().at("x").in_table("t", 0), "f.toml: line 2, t.x: no"),
            (wrong().at("x").in_table("t", 1), "f.toml: line 5, t.x: no"),
            (
                wrong().at("f").in_table("t", 1).at("u"),
                "f.toml: line 11, u.t.f: no",
            ),
        ] {
            let error = error.expect_err("it is wrong");
            let error = placed(error, Path::new("f.toml"), text);
            assert_eq!(format!("{error:#}"), says);
        }
        let error = wrong().at("b").in_table("t", 0).expect_err("it is wrong");
        assert_eq!(format!("{error:#}"), "t.b: no", "there is no file");
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
