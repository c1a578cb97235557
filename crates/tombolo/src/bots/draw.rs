//! What bots draw by chance: numbers and texts of which a scenario says only how they are spread.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt as _};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use tombolo_client::{MatchValue, Name};

/// How an attribute is spread over the bots.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Draw {
    /// The same number for each.
    Number(f64),
    /// Any number between two, all as likely.
    Uniform(f64, f64),
    /// A number around a mean, by a standard deviation.
    Normal(f64, f64),
    /// The same text for each.
    Text(String),
    /// One of some texts, all as likely.
    OneOf(Vec<String>),
    /// So many different ones of some texts.
    SomeOf(usize, Vec<String>),
    /// Numbers by name, each spread as it says.
    Map(BTreeMap<Name, Self>),
}

/// Why no value can be drawn from what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DrawError {
    #[error("nothing is drawn by `{0}`: there are normal, uniform, one-of and some-of")]
    Unknown(String),
    #[error("`{0}` has no closing parenthesis at its end")]
    Open(String),
    #[error("normal(MEAN, DEVIATION) takes two numbers, the second not below 0")]
    Normal,
    #[error("uniform(LOW, HIGH) takes two numbers, the first not above the second")]
    Uniform,
    #[error("one-of(TEXT, …) takes at least one text")]
    OneOf,
    #[error("some-of(N, TEXT, …) takes a number and at least as many different texts")]
    SomeOf,
    #[error("a map has numbers by name, each a number, normal or uniform")]
    Map,
    #[error("{0}")]
    Value(String),
}

impl Draw {
    /// Draws a value.
    pub(super) fn draw(&self, dice: &mut ChaCha8Rng) -> MatchValue {
        match self {
            Self::Number(_) | Self::Uniform(..) | Self::Normal(..) => {
                MatchValue::Number(self.number(dice))
            }
            Self::Text(text) => MatchValue::Text(text.clone()),
            Self::OneOf(texts) => {
                MatchValue::Text(texts[dice.random_range(0..texts.len())].clone())
            }
            Self::SomeOf(count, texts) => {
                MatchValue::List(some_of(*count, texts, dice).into_iter().collect())
            }
            Self::Map(map) => {
                let numbers = map.iter();
                let numbers = numbers.map(|(name, draw)| (name.clone(), draw.number(dice)));
                MatchValue::Map(numbers.collect())
            }
        }
    }

    /// Draws names: as many as it says, in any order; none from numbers.
    pub(super) fn words(&self, dice: &mut ChaCha8Rng) -> Vec<String> {
        match self {
            Self::Text(text) => vec![text.clone()],
            Self::OneOf(texts) => some_of(1, texts, dice),
            Self::SomeOf(count, texts) => some_of(*count, texts, dice),
            Self::Number(_) | Self::Uniform(..) | Self::Normal(..) | Self::Map(_) => Vec::new(),
        }
    }

    /// The names that may be drawn; `None` when it draws something else.
    pub(super) fn all_words(&self) -> Option<&[String]> {
        match self {
            Self::Text(text) => Some(std::slice::from_ref(text)),
            Self::OneOf(texts) | Self::SomeOf(_, texts) => Some(texts),
            Self::Number(_) | Self::Uniform(..) | Self::Normal(..) | Self::Map(_) => None,
        }
    }

    fn number(&self, dice: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Uniform(low, high) => low + (high - low) * dice.random::<f64>(),
            Self::Normal(mean, deviation) => mean + deviation * standard(dice),
            Self::Text(_) | Self::OneOf(_) | Self::SomeOf(..) | Self::Map(_) => 0.0,
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Uniform(..) | Self::Normal(..))
    }

    /// Whether the matchmaker will take what is drawn, as far as that can be told before.
    fn check(self) -> Result<Self, DrawError> {
        let samples: Vec<MatchValue> = match &self {
            Self::Number(number) => vec![(*number).into()],
            Self::Uniform(low, high) => vec![(*low).into(), (*high).into()],
            Self::Normal(mean, deviation) => vec![(*mean).into(), (*deviation).into()],
            Self::Text(text) => vec![text.as_str().into()],
            Self::OneOf(texts) => texts.iter().map(|text| text.as_str().into()).collect(),
            Self::SomeOf(_, texts) => vec![MatchValue::List(texts.iter().cloned().collect())],
            Self::Map(map) => {
                let names = map.keys().map(|name| (name.clone(), 0.0));
                vec![MatchValue::Map(names.collect())]
            }
        };
        for sample in samples {
            sample
                .check()
                .map_err(|error| DrawError::Value(error.to_string()))?;
        }
        Ok(self)
    }
}

/// So many of them, all choices and orders as likely.
fn some_of(count: usize, texts: &[String], dice: &mut ChaCha8Rng) -> Vec<String> {
    let mut left: Vec<_> = texts.iter().collect();
    let mut chosen = Vec::new();
    while chosen.len() < count && !left.is_empty() {
        chosen.push(left.swap_remove(dice.random_range(0..left.len())).clone());
    }
    chosen
}

/// A number of the standard normal distribution, by the method of Box and Muller.
fn standard(dice: &mut impl Rng) -> f64 {
    // Zero has no logarithm.
    let radius = (-2.0 * (1.0 - dice.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * dice.random::<f64>()).cos()
}

/// How long until the next of what happens so many times a second, whenever it likes.
pub(super) fn gap(rate: f64, dice: &mut impl Rng) -> f64 {
    -(1.0 - dice.random::<f64>()).ln() / rate
}

impl FromStr for Draw {
    type Err = DrawError;

    fn from_str(text: &str) -> Result<Self, DrawError> {
        let text = text.trim();
        let items = split(text);
        let named = items.iter().map(|item| item.split_once(':'));
        if let Some(pairs) = named.collect::<Option<Vec<_>>>() {
            return map(pairs
                .into_iter()
                .map(|(name, draw)| Ok((name.trim().to_owned(), draw.parse()?))));
        }
        let Some((what, rest)) = text.split_once('(') else {
            let number = text.parse().map(Self::Number);
            return number
                .unwrap_or_else(|_| Self::Text(text.to_owned()))
                .check();
        };
        let Some(inside) = rest.strip_suffix(')') else {
            return Err(DrawError::Open(text.to_owned()));
        };
        let words: Vec<_> = inside.split(',').map(str::trim).collect();
        let numbers: Option<Vec<f64>> = words.iter().map(|word| word.parse().ok()).collect();
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let drawn = match (what.trim(), numbers.as_deref()) {
            ("normal", Some(&[mean, deviation])) if deviation >= 0.0 => {
                Self::Normal(mean, deviation)
            }
            ("normal", _) => return Err(DrawError::Normal),
            ("uniform", Some(&[low, high])) if low <= high => Self::Uniform(low, high),
            ("uniform", _) => return Err(DrawError::Uniform),
            ("one-of", _) if words.iter().all(|word| !word.is_empty()) => {
                Self::OneOf(owned(&words))
            }
            ("one-of", _) => return Err(DrawError::OneOf),
            ("some-of", _) => {
                let (count, texts) = words.split_first().ok_or(DrawError::SomeOf)?;
                let count = count.parse().map_err(|_| DrawError::SomeOf)?;
                let different: BTreeSet<_> = texts.iter().collect();
                if different.len() != texts.len() || count > texts.len() {
                    return Err(DrawError::SomeOf);
                }
                Self::SomeOf(count, owned(texts))
            }
            (other, _) => return Err(DrawError::Unknown(other.to_owned())),
        };
        drawn.check()
    }
}

/// A map of numbers.
fn map(pairs: impl Iterator<Item = Result<(String, Draw), DrawError>>) -> Result<Draw, DrawError> {
    let mut numbers = BTreeMap::new();
    for pair in pairs {
        let (name, draw) = pair?;
        let name = Name::parse(&name).map_err(|error| DrawError::Value(error.to_string()))?;
        if !draw.is_number() {
            return Err(DrawError::Map);
        }
        numbers.insert(name, draw);
    }
    Draw::Map(numbers).check()
}

/// What stands between commas that are in no parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|letter: char| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    })
    .collect()
}

impl<'de> Deserialize<'de> for Draw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// Reads a draw from a file: a number, a text as on the command line, or a table of them.
struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = Draw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, or a table of numbers by name")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Draw, E> {
        self.visit_f64(number as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Draw, E> {
        Draw::Number(number).check().map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Draw, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Draw, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = table.next_entry::<String, Draw>()? {
            pairs.push(Ok(pair));
        }
        map(pairs.into_iter()).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn drawn(text: &str, seed: u64) -> MatchValue {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        text.parse::<Draw>().expect("is right").draw(&mut dice)
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_one_something_else() {
        for text in [
            "normal(1200, 300)",
            "uniform(0, 1)",
            "some-of(2, a, b, c, d, e, f, g, h)",
            "eu:normal(30,9),us:uniform(80,120)",
        ] {
            assert_eq!(drawn(text, 1), drawn(text, 1), "{text}");
            assert!(
                (2..9).any(|seed| drawn(text, seed) != drawn(text, 1)),
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_are_spread_as_it_was_said() {
        let mut dice = ChaCha8Rng::seed_from_u64(7);
        let draws = |text: &str, dice: &mut ChaCha8Rng| -> Vec<f64> {
            let draw: Draw = text.parse().expect("is right");
            (0..4000).map(|_| draw.number(dice)).collect()
        };
        let of = |numbers: &[f64]| {
            let count = numbers.len() as f64;
            let mean = numbers.iter().sum::<f64>() / count;
            let square = numbers.iter().map(|number| (number - mean).powi(2));
            (mean, (square.sum::<f64>() / count).sqrt())
        };
        let (mean, deviation) = of(&draws("normal(1200, 300)", &mut dice));
        assert!((mean - 1200.0).abs() < 20.0 && (deviation - 300.0).abs() < 15.0);
        let flat = draws("uniform(-1, 3)", &mut dice);
        assert!(flat.iter().all(|number| (-1.0..=3.0).contains(number)));
        assert!((of(&flat).0 - 1.0).abs() < 0.1);
        let gaps: Vec<_> = (0..4000).map(|_| gap(5.0, &mut dice)).collect();
        assert!(gaps.iter().all(|gap| *gap >= 0.0) && (of(&gaps).0 - 0.2).abs() < 0.02);
    }

    #[test]
    fn each_kind_of_value_can_be_drawn() {
        assert_eq!(drawn("7.5", 1), MatchValue::Number(7.5));
        assert_eq!(drawn("duel", 1), MatchValue::Text("duel".to_owned()));
        let all = MatchValue::List(["a", "b"].map(str::to_owned).into());
        assert_eq!(drawn("some-of(2, a, b)", 1), all);
        assert!(matches!(drawn("one-of(a)", 1), MatchValue::Text(text) if text == "a"));
        let MatchValue::Map(map) = drawn("eu:20,us:uniform(5,5)", 1) else {
            panic!("a map");
        };
        assert_eq!(map.into_values().collect::<Vec<_>>(), [20.0, 5.0]);
    }

    #[test]
    fn what_cannot_be_drawn_is_refused_with_a_reason() {
        for (text, says) in [
            ("normal(1)", "normal(MEAN"),
            ("normal(1, -1)", "not below 0"),
            ("uniform(2, 1)", "uniform(LOW"),
            ("normal(nan, 1)", "not finite"),
            ("uniform(0, 1e300)", "not finite"),
            ("zipf(1, 2)", "`zipf`"),
            ("normal(1, 2", "parenthesis"),
            ("one-of()", "at least one"),
            ("some-of(3, a, b)", "at least as many"),
            ("some-of(1, a, a)", "different"),
            ("eu:one-of(a),us:1", "a map has numbers"),
            ("e u:1", "name"),
            ("", "empty"),
        ] {
            let wrong = text.parse::<Draw>().expect_err(text).to_string();
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
    }
}
