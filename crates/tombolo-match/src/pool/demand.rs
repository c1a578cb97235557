//! What a ticket's query asks of other tickets.

use super::candidate::{Candidate, Item};
use super::symbols::{Symbol, Symbols};
use crate::query::{Bound, Occur, Query, Test};

/// What a ticket's query asks of others.
#[derive(Debug, Default)]
pub(super) struct Demands {
    /// Whether it asks for anything.
    pub(super) is_strict: bool,
    /// Whether it would like anything.
    pub(super) is_fond: bool,
    clauses: Box<[Demand]>,
}

/// One clause.
#[derive(Debug)]
pub(super) struct Demand {
    occur: Occur,
    attribute: Symbol,
    /// When the attribute's name has a dot: the map, and its key.
    inside: Option<(Symbol, Symbol)>,
    test: Numbered,
}

#[derive(Debug)]
enum Numbered {
    Any,
    /// The word, and the number that it is.
    Word(Symbol, Option<f64>),
    Prefix(Box<str>),
    Pattern(Box<str>),
    Number(Bound, f64),
}

/// What all who come into question must have.
pub(super) enum Need<'d> {
    /// This text in this attribute, which is none of a number.
    Text(Symbol, Symbol),
    /// A number in this range of this attribute.
    Number(&'d Symbol, Bound, f64),
}

impl Demands {
    pub(super) fn new(query: &Query, mut intern: impl FnMut(&str) -> Symbol) -> Self {
        let clauses: Box<[_]> = query
            .clauses()
            .iter()
            .map(|clause| {
                let name = clause.attribute.as_str();
                let inside = name.rsplit_once('.');
                let inside = inside.map(|(map, key)| (intern(map), intern(key)));
                Demand {
                    occur: clause.occur,
                    attribute: intern(name),
                    inside,
                    test: match &clause.test {
                        Test::Any => Numbered::Any,
                        Test::Word(word) => Numbered::Word(intern(word), word.parse().ok()),
                        Test::Prefix(prefix) => Numbered::Prefix(prefix.as_str().into()),
                        Test::Pattern(pattern) => Numbered::Pattern(pattern.as_str().into()),
                        Test::Number(bound, number) => Numbered::Number(*bound, *number),
                    },
                }
            })
            .collect();
        let is_strict = clauses
            .iter()
            .any(|demand| !matches!(demand.occur, Occur::Should(_)));
        let is_fond = clauses
            .iter()
            .any(|demand| matches!(demand.occur, Occur::Should(_)));
        Self {
            is_strict,
            is_fond,
            clauses,
        }
    }

    /// Whether another ticket is as it must be.
    pub(super) fn accept(&self, other: &Candidate, symbols: &Symbols) -> bool {
        self.clauses.iter().all(|demand| match demand.occur {
            Occur::Must => demand.holds(other, symbols),
            Occur::MustNot => !demand.holds(other, symbols),
            Occur::Should(_) => true,
        })
    }

    /// How much of what would be better another ticket has, from 0 to 1; `None` when nothing would.
    pub(super) fn liking(&self, other: &Candidate, symbols: &Symbols) -> Option<f64> {
        let mut wanted = 0.0;
        let mut had = 0.0;
        for demand in &self.clauses {
            if let Occur::Should(boost) = demand.occur {
                wanted += boost;
                if demand.holds(other, symbols) {
                    had += boost;
                }
            }
        }
        (wanted > 0.0).then(|| had / wanted)
    }

    /// The first text that all who come into question must have.
    pub(super) fn text_need(&self) -> Option<(Symbol, Symbol)> {
        self.needs().find_map(|need| {
            if let Need::Text(attribute, text) = need {
                return Some((attribute, text));
            }
            None
        })
    }

    /// What all who come into question must have, where it can be looked up.
    pub(super) fn needs(&self) -> impl Iterator<Item = Need<'_>> {
        let musts = self.clauses.iter();
        let musts = musts.filter(|demand| demand.occur == Occur::Must && demand.inside.is_none());
        musts.filter_map(|demand| match &demand.test {
            Numbered::Word(word, None) => Some(Need::Text(demand.attribute, *word)),
            Numbered::Number(bound, number) => {
                Some(Need::Number(&demand.attribute, *bound, *number))
            }
            Numbered::Word(_, Some(_))
            | Numbered::Any
            | Numbered::Prefix(_)
            | Numbered::Pattern(_) => None,
        })
    }
}

impl Demand {
    /// What it takes is bounded: [`WILDCARDS_MAX`](crate::WILDCARDS_MAX) clauses of a query go through a list, of
    /// [`SEEN_MAX`](super::candidate::SEEN_MAX) texts at most, byte by byte.
    fn holds(&self, other: &Candidate, symbols: &Symbols) -> bool {
        symbols.count(1);
        match other.item(self.attribute) {
            Some(Item::Text(text)) => self.test.holds_one_of(&[*text], symbols),
            Some(Item::Number(number)) => self.test.holds_number(*number),
            Some(Item::List(list)) => self.test.holds_one_of(list, symbols),
            Some(Item::Map(_)) => matches!(self.test, Numbered::Any),
            None => self.inside.is_some_and(|(map, key)| {
                let Some(Item::Map(pairs)) = other.item(map) else {
                    return false;
                };
                let at = pairs.binary_search_by_key(&key, |(name, _)| *name);
                at.is_ok_and(|at| self.test.holds_number(pairs[at].1))
            }),
        }
    }
}

impl Numbered {
    /// Whether one of these is so; they are sorted.
    fn holds_one_of(&self, texts: &[Symbol], symbols: &Symbols) -> bool {
        match self {
            Self::Any => !texts.is_empty(),
            Self::Word(word, _) => texts.binary_search(word).is_ok(),
            Self::Prefix(prefix) => symbols.any_begins(texts, prefix),
            Self::Pattern(pattern) => symbols.is_any_like(texts, pattern),
            Self::Number(..) => false,
        }
    }

    fn holds_number(&self, number: f64) -> bool {
        match self {
            Self::Any => true,
            Self::Word(_, word) => *word == Some(number),
            Self::Prefix(_) | Self::Pattern(_) => false,
            Self::Number(bound, than) => bound.holds(number, *than),
        }
    }
}
