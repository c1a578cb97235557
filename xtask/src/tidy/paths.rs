//! The paths that code mentions, with `use` trees spelled out and aliases resolved.

use std::collections::BTreeMap;

use super::lexer::{Kind, Token};

/// A path in code, for example `std::time::Instant::now`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) segments: Vec<String>,
    pub(super) kind: MentionKind,
    pub(super) line: usize,
}

/// How a path is mentioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MentionKind {
    Path,
    /// `.name`
    Field,
    /// `.name(…)`
    Method,
}

/// All paths in `tokens`, a single word being one too.
pub(super) fn mentions(tokens: &[Token]) -> Vec<Mention> {
    let mut reader = Reader {
        tokens,
        at: 0,
        found: Vec::new(),
        path_by_alias: BTreeMap::new(),
    };
    reader.run();
    let Reader {
        mut found,
        path_by_alias,
        ..
    } = reader;
    for mention in found
        .iter_mut()
        .filter(|mention| mention.kind == MentionKind::Path)
    {
        if let Some(path) = path_by_alias.get(&mention.segments[0]) {
            mention.segments.splice(..1, path.iter().cloned());
        }
    }
    found
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    found: Vec<Mention>,
    /// What a `use` calls a path.
    path_by_alias: BTreeMap<String, Vec<String>>,
}

impl Reader<'_> {
    fn run(&mut self) {
        while let Some(token) = self.tokens.get(self.at) {
            if token.is_word("use") && !self.next_is("<") {
                self.at += 1;
                self.tree(&[]);
            } else if token.kind == Kind::Word {
                self.path();
            } else {
                self.at += 1;
            }
        }
    }

    fn path(&mut self) {
        let line = self.tokens[self.at].line;
        let marks = [2, 1].map(|distance| self.mark_before(distance));
        let is_member = marks[1] == "." && marks[0] != ".";
        let mut segments = Vec::new();
        if marks == [">", "::"] {
            segments.push("<_>".to_owned());
        }
        loop {
            segments.push(self.tokens[self.at].text.clone());
            self.at += 1;
            let goes_on = self.here_is("::")
                && self
                    .tokens
                    .get(self.at + 1)
                    .is_some_and(|token| token.kind == Kind::Word);
            if !goes_on {
                break;
            }
            self.at += 1;
        }
        let kind = match is_member {
            true if self.here_is("(") => MentionKind::Method,
            true => MentionKind::Field,
            false => MentionKind::Path,
        };
        self.found.push(Mention {
            segments,
            kind,
            line,
        });
    }

    /// Reads one branch of a `use` tree, up to the mark that ends it.
    fn tree(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        let mut alias = None;
        let start = self.at;
        while let Some(token) = self.tokens.get(self.at) {
            match token.text.as_str() {
                "{" => return self.group(&path),
                "," | "}" | ";" => break,
                "as" => {
                    self.at += 1;
                    alias = self.tokens.get(self.at).map(|token| token.text.clone());
                }
                "::" => {}
                "self" if !path.is_empty() => {}
                word => path.push(word.to_owned()),
            }
            self.at += 1;
        }
        if self.at > start {
            self.leaf(path, alias, self.tokens[start].line);
        }
    }

    fn group(&mut self, prefix: &[String]) {
        loop {
            self.at += 1;
            self.tree(prefix);
            if !self.here_is(",") {
                break;
            }
        }
        self.at += 1;
    }

    fn leaf(&mut self, path: Vec<String>, alias: Option<String>, line: usize) {
        if let Some(name) = alias.or_else(|| path.last().cloned()) {
            self.path_by_alias.insert(name, path.clone());
            self.found.push(Mention {
                segments: path,
                kind: MentionKind::Path,
                line,
            });
        }
    }

    /// The mark so many tokens before; empty where there is none.
    fn mark_before(&self, distance: usize) -> &str {
        let token = self.at.checked_sub(distance).map(|at| &self.tokens[at]);
        token
            .filter(|token| token.kind == Kind::Mark)
            .map_or("", |token| &token.text)
    }

    fn here_is(&self, mark: &str) -> bool {
        self.tokens
            .get(self.at)
            .is_some_and(|token| token.is_mark(mark))
    }

    fn next_is(&self, mark: &str) -> bool {
        self.tokens
            .get(self.at + 1)
            .is_some_and(|token| token.is_mark(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::lex;
    use super::*;

    #[test]
    fn a_tree_is_spelled_out() {
        check(
            "use std::{net::{self, UdpSocket}, thread as t, fs::*};",
            &[
                "std::net",
                "std::net::UdpSocket",
                "std::thread",
                "std::fs::*",
            ],
        );
    }

    #[test]
    fn aliases_are_resolved() {
        check(
            "use std::time::Instant as Clock; Clock::now",
            &["std::time::Instant", "std::time::Instant::now"],
        );
    }

    #[test]
    fn a_path_behind_a_type_in_brackets_keeps_its_end() {
        check("<Instant>::now()", &["Instant", "<_>::now"]);
    }

    #[test]
    fn members_are_not_paths() {
        check("use a::b; x.b(y.b)", &["a::b", "x", "b", "y", "b"]);
        let kinds: Vec<_> = mentions(&lex("x.b(y.c, 0..d)"))
            .iter()
            .map(|m| m.kind)
            .collect();
        use MentionKind::{Field, Method, Path};
        assert_eq!(kinds, [Path, Method, Path, Field, Path]);
    }

    #[test]
    fn captures_and_unfinished_trees_do_no_harm() {
        check(
            "fn f() -> impl T + use<'a> {}",
            &["fn", "f", "impl", "T", "use"],
        );
        mentions(&lex("use a::{b, "));
        mentions(&lex("use {{,"));
        mentions(&lex("use a::{b c}"));
    }

    fn check(text: &str, expected: &[&str]) {
        let paths: Vec<_> = mentions(&lex(text))
            .iter()
            .map(|m| m.segments.join("::"))
            .collect();
        assert_eq!(paths, expected);
    }
}
