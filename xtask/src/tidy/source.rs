//! A source file as the rules see it: production code apart from test code.

use std::collections::BTreeSet;

use super::lexer::{Kind, Token, lex};

/// A file of Rust.
#[derive(Debug)]
pub(super) struct Source {
    /// From the root of the repository.
    pub(super) path: String,
    /// All tokens.
    pub(super) tokens: Vec<Token>,
    /// The tokens outside of tests.
    pub(super) production: Vec<Token>,
    /// Files and folders (without `.rs`) that are modules of tests only, declared here.
    pub(super) test_modules: Vec<String>,
}

impl Source {
    pub(super) fn new(path: String, text: &str) -> Self {
        let tokens = lex(text);
        let mut split = Split::default();
        split.run(&tokens);
        let folder = module_folder(&path);
        let test_modules = split
            .modules
            .iter()
            .map(|name| format!("{folder}/{name}"))
            .collect();
        Self {
            path,
            tokens,
            production: split.production,
            test_modules,
        }
    }

    /// Turns all of it into test code.
    pub(super) fn make_test(&mut self) {
        self.production.clear();
    }

    /// How many lines hold production code.
    pub(super) fn production_lines(&self) -> usize {
        code_lines(&self.production)
    }

    /// The functions of production code.
    pub(super) fn functions(&self) -> Vec<Function> {
        let tokens = &self.production;
        let named = tokens
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| pair[0].is_word("fn") && pair[1].kind == Kind::Word);
        named
            .filter_map(|(at, pair)| {
                let body = item_end(&tokens[at..]);
                let tokens = &tokens[at..at + body];
                tokens
                    .last()
                    .is_some_and(|last| last.is_mark("}"))
                    .then(|| Function {
                        name: pair[1].text.clone(),
                        line: pair[0].line,
                        lines: code_lines(tokens),
                    })
            })
            .collect()
    }
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Where it begins.
    pub(super) line: usize,
    /// Lines of code from `fn` to the closing brace.
    pub(super) lines: usize,
}

/// Where the files of the modules declared in `path` are.
fn module_folder(path: &str) -> String {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        file => format!("{folder}/{}", file.trim_end_matches(".rs")),
    }
}

fn code_lines(tokens: &[Token]) -> usize {
    let lines: BTreeSet<_> = tokens
        .iter()
        .flat_map(|token| token.line..=token.last_line)
        .collect();
    lines.len()
}

/// Sorts tokens into production and test code.
#[derive(Default)]
struct Split {
    production: Vec<Token>,
    /// Names of `#[cfg(test)] mod name;`.
    modules: Vec<String>,
}

impl Split {
    fn run(&mut self, tokens: &[Token]) {
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            match attribute(rest) {
                Some(found) if found.is_test && found.is_inner => {
                    self.production.clear();
                    return;
                }
                Some(found) if found.is_test => {
                    let item = skip_attributes(&rest[found.len..]);
                    let start = found.len + item;
                    self.note_module(&rest[start..]);
                    at += start + item_end(&rest[start..]);
                }
                Some(found) => {
                    self.production.extend_from_slice(&rest[..found.len]);
                    at += found.len;
                }
                None => {
                    self.production.push(rest[0].clone());
                    at += 1;
                }
            }
        }
    }

    fn note_module(&mut self, item: &[Token]) {
        let Some(at) = item.iter().take(6).position(|token| token.is_word("mod")) else {
            return;
        };
        if let [_, name, end, ..] = &item[at..]
            && end.is_mark(";")
        {
            self.modules.push(name.text.clone());
        }
    }
}

struct Attribute {
    /// In tokens.
    len: usize,
    is_inner: bool,
    is_test: bool,
}

fn attribute(tokens: &[Token]) -> Option<Attribute> {
    let (hash, rest) = tokens.split_first()?;
    let is_inner = rest.first()?.is_mark("!");
    let open = 1 + usize::from(is_inner);
    if !hash.is_mark("#") || !tokens.get(open)?.is_mark("[") {
        return None;
    }
    let len = open + group_len(&tokens[open..]);
    let words: Vec<_> = tokens[open + 1..len]
        .iter()
        .filter(|token| token.kind == Kind::Word)
        .map(|token| token.text.as_str())
        .collect();
    let is_test = match words.as_slice() {
        ["cfg", "test"] | ["cfg", "all", "test", ..] => true,
        ["cfg" | "cfg_attr", ..] => false,
        words => words.last() == Some(&"test") || words.starts_with(&["tokio", "test"]),
    };
    Some(Attribute {
        len,
        is_inner,
        is_test,
    })
}

fn skip_attributes(tokens: &[Token]) -> usize {
    let mut at = 0;
    while let Some(found) = attribute(&tokens[at..]) {
        at += found.len;
    }
    at
}

/// The length of a bracketed group that begins at the first token.
fn group_len(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        if is_open(token) {
            depth += 1;
        } else if is_close(token) {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return at + 1;
            }
        }
    }
    tokens.len()
}

/// The length of the item, statement, field or variant that begins at the first token.
fn item_end(tokens: &[Token]) -> usize {
    let is_item = tokens
        .iter()
        .find(|token| token.kind == Kind::Word && token.text != "pub")
        .is_some_and(|token| ITEM_WORDS.contains(&token.text.as_str()));
    let is_use = tokens.iter().take(6).any(|token| token.is_word("use"));
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if is_close(token) {
            return at;
        }
        if token.is_mark(";") || (token.is_mark(",") && !is_item) {
            return at + 1;
        }
        if is_open(token) {
            at += group_len(&tokens[at..]);
            if token.is_mark("{") && !is_use {
                return at;
            }
        } else {
            at += 1;
        }
    }
    tokens.len()
}

fn is_open(token: &Token) -> bool {
    token.kind == Kind::Mark && matches!(token.text.as_str(), "(" | "[" | "{")
}

fn is_close(token: &Token) -> bool {
    token.kind == Kind::Mark && matches!(token.text.as_str(), ")" | "]" | "}")
}

/// Words that begin something which ends with `;` or `}`, not with `,`.
const ITEM_WORDS: [&str; 16] = [
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "let",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "unsafe",
    "use",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_modules_and_test_functions_are_not_production() {
        let source = source(
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\n#[test]\nfn c() {}\n\
             #[tokio::test(flavor = \"x\")]\nasync fn d() {}\nfn e() {}",
        );
        assert_eq!(names(&source), ["a", "e"]);
    }

    #[test]
    fn code_for_anything_but_tests_is_production() {
        let source = source(
            "#[cfg(not(test))] fn a() {}\n#[cfg(any(test, fuzzing))] fn b() {}\n\
             #[cfg_attr(test, derive(Debug))] struct C;\n#[cfg(all(test, unix))] fn d() {}",
        );
        assert_eq!(names(&source), ["a", "b"]);
    }

    #[test]
    fn fields_and_uses_for_tests_end_where_they_end() {
        let source = source(
            "#[cfg(test)] use a::{b, c};\nstruct S { #[cfg(test)] pub(crate) x: (u8, u8), y: u8 }\nfn f() {}",
        );
        let words: Vec<_> = source
            .production
            .iter()
            .map(|token| token.text.as_str())
            .collect();
        assert_eq!(words.join(" "), "struct S { y : u8 } fn f ( ) { }");
    }

    #[test]
    fn modules_of_tests_in_their_own_file_are_named() {
        let at_root = Source::new(
            "crates/x/src/lib.rs".into(),
            "#[cfg(test)]\npub(crate) mod lab;",
        );
        assert_eq!(at_root.test_modules, ["crates/x/src/lab"]);
        let below = Source::new("crates/x/src/server.rs".into(), "#[cfg(test)] mod tests;");
        assert_eq!(below.test_modules, ["crates/x/src/server/tests"]);
    }

    #[test]
    fn a_file_for_tests_has_no_production_code() {
        assert_eq!(source("#![cfg(test)]\nfn a() {}").production_lines(), 0);
    }

    #[test]
    fn lengths_count_code_and_not_comments() {
        let source = source(
            "fn a(\n  x: [u8; 3],\n) -> u8\n{\n  // why\n\n  /* b\n */ 1\n}\ntrait T { fn b(); }",
        );
        assert_eq!(
            source.functions(),
            [Function {
                name: "a".into(),
                line: 1,
                lines: 6
            }]
        );
        assert_eq!(source.production_lines(), 7);
    }

    fn source(text: &str) -> Source {
        Source::new("crates/x/src/x.rs".into(), text)
    }

    fn names(source: &Source) -> Vec<String> {
        source
            .functions()
            .into_iter()
            .map(|function| function.name)
            .collect()
    }
}
