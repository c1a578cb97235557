//! Cores look up in hash maps but never iterate over them: the order would differ between runs.

use std::collections::BTreeSet;

use super::lexer::{Kind, Token};
use super::source::Source;
use super::{Rule, Violation};

/// Finds names declared as hash maps or sets, then the places that iterate over one of those.
pub(super) fn check(source: &Source, violations: &mut Vec<Violation>) {
    let tokens = &source.production;
    let names = hash_names(tokens);
    for (at, token) in tokens.iter().enumerate() {
        if token.kind == Kind::Word
            && names.contains(token.text.as_str())
            && is_iterated(tokens, at)
        {
            violations.push(Violation {
                path: source.path.clone(),
                line: token.line,
                rule: Rule::HashOrder,
                message: format!(
                    "`{}` is iterated in no defined order; use a BTreeMap or IndexMap",
                    token.text
                ),
            });
        }
    }
}

/// Names in `name: HashMap<…>`, `name: std::collections::HashSet<…>` and `name = HashMap::new()`.
fn hash_names(tokens: &[Token]) -> BTreeSet<&str> {
    let types = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.kind == Kind::Word && HASH_TYPES.contains(&token.text.as_str()));
    types
        .filter_map(|(at, _)| declared_name(&tokens[..at]))
        .collect()
}

fn declared_name(before: &[Token]) -> Option<&str> {
    let mut before = before;
    loop {
        match before {
            [rest @ .., word, colons] if colons.is_mark("::") && word.kind == Kind::Word => {
                before = rest
            }
            [rest @ .., mark] if mark.is_mark("&") || mark.is_word("mut") => before = rest,
            [rest @ .., lifetime] if lifetime.kind == Kind::Lifetime => before = rest,
            [.., name, mark] if mark.is_mark(":") || mark.is_mark("=") => {
                return (name.kind == Kind::Word).then_some(name.text.as_str());
            }
            _ => return None,
        }
    }
}

fn is_iterated(tokens: &[Token], at: usize) -> bool {
    match &tokens[at + 1..] {
        [dot, method, open, ..] if dot.is_mark(".") && open.is_mark("(") => {
            ITERATORS.contains(&method.text.as_str())
        }
        [open, ..] if open.is_mark("{") => follows_in(&tokens[..at]),
        _ => false,
    }
}

/// Whether `in`, `in &`, `in &mut self.` and so on come right before.
fn follows_in(before: &[Token]) -> bool {
    let last = before.iter().rev().find(|token| {
        !(token.is_mark("&") || token.is_mark(".") || token.is_word("mut") || token.is_word("self"))
    });
    last.is_some_and(|token| token.is_word("in"))
}

const HASH_TYPES: [&str; 2] = ["HashMap", "HashSet"];

const ITERATORS: [&str; 12] = [
    "drain",
    "extract_if",
    "into_iter",
    "into_keys",
    "into_values",
    "iter",
    "iter_mut",
    "keys",
    "retain",
    "union",
    "values",
    "values_mut",
];
