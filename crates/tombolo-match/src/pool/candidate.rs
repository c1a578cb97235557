//! A ticket as the matcher sees it: its party merged, its texts numbered.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::demand::Demands;
use super::sides::has_team;
use super::symbols::{Symbol, Symbols};
use crate::rules::{Check, Judge, Rules};
use crate::ticket::{Player, TAGS, Ticket, TicketError};
use crate::value::{ITEMS_MAX, Kind, Value};
use crate::word::Name;

/// How many texts of a list queries see, the first by the alphabet: a party has those of all its users, where the rules
/// say so.
pub(super) const SEEN_MAX: usize = 4 * ITEMS_MAX;

/// A ticket as the matcher sees it.
#[derive(Debug)]
pub(super) struct Candidate {
    /// How many users.
    pub(super) size: u32,
    /// What each rule looks at, in the order of the rules.
    pub(super) facts: Box<[Fact]>,
    pub(super) users: Box<[Symbol]>,
    /// Whom its users block, sorted.
    pub(super) blocks: Box<[Symbol]>,
    /// The worst rank of its users' networks.
    pub(super) worst_rank: u8,
    /// The roles that each user plays, the dearest first, as numbers in [`RoleTable`]; empty for any.
    pub(super) roles: Box<[Box<[u8]>]>,
    /// What queries see, by attribute.
    pub(super) bag: Box<[(Symbol, Item)]>,
    pub(super) demands: Demands,
    /// Everything that is in use while the candidate lives.
    symbols: Vec<Symbol>,
}

/// What a rule looks at.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fact {
    None,
    Text(Symbol),
    /// Sorted.
    Set(Box<[Symbol]>),
    Number(f64),
    /// Milliseconds by region, in the rule's order; infinite where nothing is known.
    Latencies(Box<[f64]>),
}

/// What a query sees.
#[derive(Debug)]
pub(super) enum Item {
    Text(Symbol),
    Number(f64),
    /// Sorted.
    List(Box<[Symbol]>),
    Map(Box<[(Symbol, f64)]>),
}

/// How much a ticket asks of a rule now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gate {
    /// `None` when it asks for nothing.
    pub(super) limit: Option<f64>,
    /// For latencies: the regions that come into question.
    pub(super) regions: u64,
}

/// All roles of all teams, numbered.
#[derive(Debug, Default)]
pub(super) struct RoleTable(BTreeMap<Name, u8>);

impl Candidate {
    /// Looks at a ticket through the rules.
    pub(super) fn new(
        rules: &Rules,
        roles: &RoleTable,
        ticket: &Ticket,
        symbols: &mut Symbols,
    ) -> Result<Self, TicketError> {
        let merged = merged(rules, &ticket.players)?;
        let facts = facts(rules, &ticket.players, &merged)?;
        let plays = roles.of(&ticket.players)?;
        let size = u32::try_from(ticket.players.len()).unwrap_or(u32::MAX);
        if size > rules.shape.team_max() {
            let max = rules.shape.team_max() as usize;
            return Err(TicketError::Party { max });
        }
        if !has_team(&rules.shape, roles, &plays, size) {
            return Err(TicketError::Cast);
        }
        // Nothing can be refused from here: symbols are in use.
        let mut used = Used {
            symbols,
            list: Vec::new(),
        };
        let facts = facts
            .into_iter()
            .map(|plain| used.fact(plain))
            .collect::<Vec<_>>();
        let users: Vec<_> = ticket
            .players
            .iter()
            .map(|player| used.intern(player.user.as_str()))
            .collect();
        let blocks = ticket.players.iter().flat_map(|player| &player.blocks);
        let mut blocks: Vec<_> = blocks.map(|user| used.intern(user.as_str())).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let mut bag: Vec<_> = merged
            .iter()
            .map(|(name, value)| (used.intern(name.as_str()), used.item(value)))
            .collect();
        if !ticket.tags.is_empty() {
            let tags = used.set(ticket.tags.iter().map(Name::as_str));
            bag.push((used.intern(TAGS), Item::List(tags)));
        }
        bag.sort_unstable_by_key(|(attribute, _)| *attribute);
        let demands = Demands::new(&ticket.query, |text| used.intern(text));
        let ranks = ticket.players.iter().map(|player| player.reach.rank());
        Ok(Self {
            size,
            facts: facts.into(),
            users: users.into(),
            blocks: blocks.into(),
            worst_rank: ranks.max().unwrap_or(0),
            roles: plays,
            bag: bag.into(),
            demands,
            symbols: used.list,
        })
    }

    /// Ends the use of its symbols.
    pub(super) fn release(self, symbols: &mut Symbols) {
        for symbol in self.symbols {
            symbols.release(symbol);
        }
    }

    pub(super) fn item(&self, attribute: Symbol) -> Option<&Item> {
        let at = self.bag.binary_search_by_key(&attribute, |(name, _)| *name);
        at.ok().map(|at| &self.bag[at].1)
    }

    /// Every text of every attribute.
    pub(super) fn each_text(&self, mut on: impl FnMut(Symbol, Symbol)) {
        for (attribute, item) in &self.bag {
            match item {
                Item::Text(text) => on(*attribute, *text),
                Item::List(list) => list.iter().for_each(|text| on(*attribute, *text)),
                Item::Number(_) | Item::Map(_) => {}
            }
        }
    }

    /// Whether an attribute is, or has, a text.
    pub(super) fn has_text(&self, attribute: Symbol, text: Symbol) -> bool {
        match self.item(attribute) {
            Some(Item::Text(found)) => *found == text,
            Some(Item::List(list)) => list.binary_search(&text).is_ok(),
            Some(Item::Number(_) | Item::Map(_)) | None => false,
        }
    }

    /// The number that a rule looks at.
    pub(super) fn number(&self, rule: usize) -> f64 {
        match &self.facts[rule] {
            Fact::Number(number) => *number,
            Fact::None | Fact::Text(_) | Fact::Set(_) | Fact::Latencies(_) => 0.0,
        }
    }

    /// How far a region is away.
    pub(super) fn latency(&self, rule: usize, region: usize) -> f64 {
        match &self.facts[rule] {
            Fact::Latencies(latencies) => latencies[region],
            Fact::None | Fact::Text(_) | Fact::Set(_) | Fact::Number(_) => 0.0,
        }
    }

    /// What it asks of each rule after a wait.
    pub(super) fn gates(&self, rules: &Rules, waited: Duration) -> Box<[Gate]> {
        self.each_gate(rules, waited).collect()
    }

    /// The same, in place of what it asked before.
    pub(super) fn set_gates(&self, rules: &Rules, waited: Duration, gates: &mut [Gate]) {
        for (gate, next) in gates.iter_mut().zip(self.each_gate(rules, waited)) {
            *gate = next;
        }
    }

    fn each_gate<'a>(
        &'a self,
        rules: &'a Rules,
        waited: Duration,
    ) -> impl Iterator<Item = Gate> + 'a {
        rules
            .rules
            .iter()
            .zip(&self.facts)
            .map(move |(rule, fact)| {
                let limit = rule.limit(waited);
                let regions = match (fact, rules.judge) {
                    (Fact::Latencies(latencies), Judge::Each) => within(latencies, limit),
                    // An older ticket may ask for less.
                    (Fact::Latencies(latencies), Judge::Oldest) => {
                        within(latencies, rule.relax.widest(rule.base))
                    }
                    _ => u64::MAX,
                };
                Gate { limit, regions }
            })
    }
}

impl RoleTable {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut table = BTreeMap::new();
        for role in rules.shape.teams.iter().flat_map(|team| &team.roles) {
            let number = u8::try_from(table.len()).expect("rules have at most 64 roles");
            table.entry(role.name.clone()).or_insert(number);
        }
        Self(table)
    }

    pub(super) fn number(&self, role: &Name) -> u8 {
        self.0.get(role).copied().expect("a role of the rules")
    }

    fn of(&self, players: &[Player]) -> Result<Box<[Box<[u8]>]>, TicketError> {
        if self.0.is_empty() {
            return Ok(Box::new([]));
        }
        let number = |role: &Name| {
            let number = self.0.get(role).copied();
            number.ok_or_else(|| TicketError::Role { role: role.clone() })
        };
        let of = |player: &Player| player.roles.iter().map(number).collect();
        players.iter().map(of).collect()
    }
}

/// A fact before its texts are numbered.
enum Plain<'v> {
    None,
    Text(&'v str),
    List(&'v std::collections::BTreeSet<String>),
    Number(f64),
    Latencies(Box<[f64]>),
}

/// Symbols that are in use from now on.
struct Used<'s> {
    symbols: &'s mut Symbols,
    list: Vec<Symbol>,
}

impl Used<'_> {
    fn intern(&mut self, text: &str) -> Symbol {
        let symbol = self.symbols.intern(text);
        self.list.push(symbol);
        symbol
    }

    fn set<'t>(&mut self, texts: impl Iterator<Item = &'t str>) -> Box<[Symbol]> {
        let mut set: Vec<_> = texts.map(|text| self.intern(text)).collect();
        set.sort_unstable();
        set.into()
    }

    fn fact(&mut self, plain: Plain<'_>) -> Fact {
        match plain {
            Plain::None => Fact::None,
            Plain::Text(text) => Fact::Text(self.intern(text)),
            Plain::List(list) => Fact::Set(self.set(list.iter().map(String::as_str))),
            Plain::Number(number) => Fact::Number(number),
            Plain::Latencies(latencies) => Fact::Latencies(latencies),
        }
    }

    fn item(&mut self, value: &Value) -> Item {
        match value {
            Value::Text(text) => Item::Text(self.intern(text)),
            Value::Number(number) => Item::Number(*number),
            Value::List(list) => {
                let seen = list.iter().take(SEEN_MAX);
                Item::List(self.set(seen.map(String::as_str)))
            }
            Value::Map(map) => {
                let pairs = map.iter();
                let mut pairs: Vec<_> = pairs
                    .map(|(name, number)| (self.intern(name.as_str()), *number))
                    .collect();
                pairs.sort_unstable_by_key(|(name, _)| *name);
                Item::Map(pairs.into())
            }
        }
    }
}

/// The party's attributes, by name.
pub(super) fn merged<'p>(
    rules: &'p Rules,
    players: &'p [Player],
) -> Result<BTreeMap<Name, Cow<'p, Value>>, TicketError> {
    let mut values: BTreeMap<&Name, Vec<&Value>> = BTreeMap::new();
    for player in players {
        for (name, value) in &player.attributes {
            values.entry(name).or_default().push(value);
        }
    }
    let mut merged = BTreeMap::new();
    for (name, mut values) in values {
        let known = rules.attributes.get(name);
        let kind = known.map_or_else(|| values[0].kind(), |known| known.kind);
        if values.iter().any(|value| value.kind() != kind) {
            let (attribute, expected) = (name.clone(), kind.as_str());
            return Err(TicketError::Kind {
                attribute,
                expected,
            });
        }
        let default = known.and_then(|known| known.default.as_ref());
        let value = match (&values[..], default) {
            ([value], _) if players.len() == 1 => Cow::Borrowed(*value),
            (_, default) => {
                // Users who say nothing have the default.
                let missing = players.len() - values.len();
                let silent = default.into_iter().cycle().take(missing);
                values.extend(silent);
                let Some(value) = rules.merge(name, kind).merge(values) else {
                    continue;
                };
                Cow::Owned(value)
            }
        };
        merged.insert(name.clone(), value);
    }
    for (name, known) in &rules.attributes {
        if let Some(default) = &known.default {
            merged.entry(name.clone()).or_insert(Cow::Borrowed(default));
        }
    }
    Ok(merged)
}

/// What each rule looks at.
fn facts<'v>(
    rules: &Rules,
    players: &[Player],
    merged: &'v BTreeMap<Name, Cow<'_, Value>>,
) -> Result<Vec<Plain<'v>>, TicketError> {
    let mut facts = Vec::new();
    for rule in &rules.rules {
        let Some(attribute) = rule.attribute() else {
            facts.push(Plain::None);
            continue;
        };
        let missing = || TicketError::Missing {
            attribute: attribute.clone(),
        };
        let value = merged.get(attribute).ok_or_else(missing)?.as_ref();
        let fact = match (&rule.check, value) {
            (Check::Equal { .. }, Value::Text(text)) => Plain::Text(text),
            (Check::Overlap { .. }, Value::List(list)) => Plain::List(list),
            (Check::Distance { .. } | Check::Range { .. }, Value::Number(number)) => {
                Plain::Number(*number)
            }
            (Check::Balance { .. }, Value::Number(merged)) => {
                Plain::Number(sum(players, attribute, *merged))
            }
            (Check::Latency { regions, .. }, Value::Map(map)) => {
                let of = |region: &Name| map.get(region).copied().unwrap_or(f64::INFINITY);
                Plain::Latencies(regions.iter().map(of).collect())
            }
            (check, _) => {
                return Err(TicketError::Kind {
                    attribute: attribute.clone(),
                    expected: expected(check).as_str(),
                });
            }
        };
        facts.push(fact);
    }
    Ok(facts)
}

/// What the users have together; who says nothing has what the party has.
fn sum(players: &[Player], attribute: &Name, merged: f64) -> f64 {
    let of = |player: &Player| match player.attributes.get(attribute) {
        Some(Value::Number(number)) => *number,
        _ => merged,
    };
    players.iter().map(of).sum()
}

fn expected(check: &Check) -> Kind {
    match check {
        Check::Equal { .. } => Kind::Text,
        Check::Overlap { .. } => Kind::List,
        Check::Latency { .. } => Kind::Map,
        Check::Distance { .. }
        | Check::Range { .. }
        | Check::Balance { .. }
        | Check::Block
        | Check::Connectivity { .. } => Kind::Number,
    }
}

/// The regions that are reached within the limit.
fn within(latencies: &[f64], limit: Option<f64>) -> u64 {
    let Some(limit) = limit else {
        return u64::MAX;
    };
    let regions = latencies.iter().enumerate();
    let near = regions.filter(|(_, latency)| **latency <= limit);
    near.fold(0, |mask, (region, _)| mask | 1 << region)
}
