//! Where to look for tickets that may fit.
//!
//! Tickets that are alike in everything that is equal or not at all are one *class*; a ticket looks only
//! into classes that come into question for its own, and there at those nearest to it first. What queries
//! demand is looked up by text and by number.

use std::cmp::Reverse;
use std::collections::btree_set::Range;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::candidate::{Candidate, Fact, Gate, Item};
use super::demand::Need;
use super::seat::{Key, Seat};
use super::symbols::Symbol;
use crate::query::Bound;
use crate::rules::{Check, Judge, Rules};

/// A class's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(u32);

/// All tickets that can be matched now.
#[derive(Debug, Default)]
pub(super) struct Index {
    classes: Vec<Class>,
    free: Vec<ClassId>,
    class_by_signature: HashMap<Signature, ClassId>,
    /// All classes by their texts, then by what their queries need.
    by_texts: HashMap<Box<[Symbol]>, ClassesByNeed>,
    /// Classes in which some text need not be equal.
    loose: BTreeSet<ClassId>,
    /// Some query asks for texts or numbers: only then the two below are kept.
    is_asked: bool,
    /// By attribute and text.
    keys_by_text: HashMap<Text, BTreeSet<(u64, Key)>>,
    /// By attribute.
    numbers: HashMap<Symbol, BTreeSet<(Place, Key)>>,
}

/// What all tickets of a class have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Signature {
    /// The text of each rule of equality.
    texts: Box<[Symbol]>,
    /// Those that must be equal.
    strict: u32,
    /// The regions of each rule of latency.
    regions: Box<[u64]>,
    /// What the query needs of all others first.
    need: Option<Text>,
}

/// Classes by the first thing that their queries need of others.
type ClassesByNeed = HashMap<Option<Text>, BTreeSet<ClassId>>;

/// An attribute, and a text in it.
type Text = (Symbol, Symbol);

#[derive(Debug)]
struct Class {
    signature: Signature,
    members: BTreeSet<Member>,
}

/// By place, then by age.
type Member = (Place, u64, Key);

/// A number that orders as the float that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// Members of several classes, those nearest to a place first; among equals the oldest.
pub(super) struct Nearest<'i> {
    cursors: Vec<Cursor<'i>>,
    /// Distance, age, ticket, cursor.
    heads: BinaryHeap<Reverse<(Place, u64, Key, usize)>>,
    from: f64,
    limit: f64,
}

enum Cursor<'i> {
    Up(Range<'i, Member>),
    Down(std::iter::Rev<Range<'i, Member>>),
}

impl Index {
    /// Takes a ticket in.
    pub(super) fn insert(&mut self, rules: &Rules, key: Key, seat: &Seat) -> ClassId {
        let id = self.class(signature(rules, &seat.candidate, &seat.gates));
        let member = (place(rules, &seat.candidate), seat.order, key);
        self.classes[id.0 as usize].members.insert(member);
        if self.is_asked {
            self.note(key, seat);
        }
        id
    }

    /// Lets a ticket go.
    pub(super) fn remove(&mut self, rules: &Rules, key: Key, seat: &Seat, id: ClassId) {
        self.leave_class(rules, key, seat, id);
        if self.is_asked {
            self.forget(key, seat);
        }
        // Nobody is left, and nobody asks.
        self.is_asked &= !self.class_by_signature.is_empty();
    }

    /// Whether what queries demand can be looked up.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// A ticket comes whose query demands something: from now on that can be looked up, of those who are
    /// there too.
    pub(super) fn begin_to_be_asked<'s>(&mut self, here: impl Iterator<Item = (Key, &'s Seat)>) {
        self.is_asked = true;
        for (key, seat) in here {
            self.note(key, seat);
        }
    }

    fn note(&mut self, key: Key, seat: &Seat) {
        seat.candidate.each_text(|attribute, text| {
            let keys = self.keys_by_text.entry((attribute, text)).or_default();
            keys.insert((seat.order, key));
        });
        for (attribute, item) in &seat.candidate.bag {
            if let Item::Number(number) = item {
                let numbers = self.numbers.entry(*attribute).or_default();
                numbers.insert((Place::of(*number), key));
            }
        }
    }

    fn forget(&mut self, key: Key, seat: &Seat) {
        seat.candidate.each_text(|attribute, text| {
            let keys = self.keys_by_text.get_mut(&(attribute, text));
            if keys.is_some_and(|keys| keys.remove(&(seat.order, key)) && keys.is_empty()) {
                self.keys_by_text.remove(&(attribute, text));
            }
        });
        for (attribute, item) in &seat.candidate.bag {
            if let Item::Number(number) = item {
                let numbers = self.numbers.get_mut(attribute);
                let entry = (Place::of(*number), key);
                if numbers.is_some_and(|numbers| numbers.remove(&entry) && numbers.is_empty()) {
                    self.numbers.remove(attribute);
                }
            }
        }
    }

    /// Moves a ticket whose gates have changed.
    pub(super) fn reclass(&mut self, rules: &Rules, key: Key, seat: &Seat, id: ClassId) -> ClassId {
        let known = &self.classes[id.0 as usize].signature;
        if known.is_of(rules, &seat.candidate, &seat.gates) {
            return id;
        }
        let signature = signature(rules, &seat.candidate, &seat.gates);
        self.leave_class(rules, key, seat, id);
        let id = self.class(signature);
        let member = (place(rules, &seat.candidate), seat.order, key);
        self.classes[id.0 as usize].members.insert(member);
        id
    }

    /// Whether anybody else has all that a ticket's query needs, and the fewest who have some of it.
    pub(super) fn fewest(&self, seat: &Seat, key: Key) -> Fewest<'_> {
        if !self.is_asked {
            return Fewest::Unknown;
        }
        let mut fewest: Option<&BTreeSet<(u64, Key)>> = None;
        for need in seat.candidate.demands.needs() {
            match need {
                Need::Text(attribute, text) => {
                    let Some(keys) = self.keys_by_text.get(&(attribute, text)) else {
                        return Fewest::Nobody;
                    };
                    if keys.len() == 1 && keys.contains(&(seat.order, key)) {
                        return Fewest::Nobody;
                    }
                    if fewest.is_none_or(|fewest| keys.len() < fewest.len()) {
                        fewest = Some(keys);
                    }
                }
                Need::Number(attribute, bound, number) => {
                    if !self.has_number(*attribute, bound, number, key) {
                        return Fewest::Nobody;
                    }
                }
            }
        }
        fewest.map_or(Fewest::Unknown, Fewest::Of)
    }

    /// The classes that come into question for a ticket. For one that plays already every region does, and texts need not
    /// be equal where `mixed` says that they are not.
    pub(super) fn classes_for(
        &self,
        rules: &Rules,
        seat: &Seat,
        id: Option<ClassId>,
        mixed: Option<u32>,
    ) -> Suitable {
        let own;
        let signature = match id {
            Some(id) => &self.classes[id.0 as usize].signature,
            None => {
                own = signature(rules, &seat.candidate, &seat.gates);
                &own
            }
        };
        let (mut ids, mut tickets, mut visited) = (Vec::new(), 0, 0);
        let mut look = |id: ClassId| {
            visited += 1_u64;
            let class = &self.classes[id.0 as usize];
            let need = class.signature.need;
            if !class.members.is_empty()
                && signature.suits(&class.signature, rules.judge, mixed)
                && need.is_none_or(|(attribute, text)| seat.candidate.has_text(attribute, text))
            {
                tickets += class.members.len();
                ids.push(id);
            }
        };
        let is_strict = signature.is_strict();
        // Where every ticket judges, those with other texts meet only when neither asks for the same; else it may be the
        // older one that does not.
        let (any, others) = match rules.judge {
            _ if mixed.is_some_and(|mixed| mixed != 0) => (true, false),
            Judge::Each => (false, !is_strict),
            Judge::Oldest => (!is_strict, is_strict),
        };
        if any {
            let all = (0..self.classes.len()).filter_map(|id| u32::try_from(id).ok());
            all.for_each(|id| look(ClassId(id)));
        } else {
            if let Some(by_need) = self.by_texts.get(&signature.texts) {
                let mut all = |need| {
                    by_need
                        .get(&need)
                        .into_iter()
                        .flatten()
                        .copied()
                        .for_each(&mut look)
                };
                all(None);
                seat.candidate
                    .each_text(|attribute, text| all(Some((attribute, text))));
            }
            if others {
                let has_others = |id: &ClassId| {
                    let class = &self.classes[id.0 as usize];
                    class.signature.texts != signature.texts
                };
                let loose = self.loose.iter().copied();
                loose.filter(has_others).for_each(&mut look);
            }
        }
        let looks = (visited + ids.len() as u64) / CLASSES_PER_LOOK;
        Suitable {
            ids,
            tickets,
            looks,
        }
    }

    /// The members of classes, those nearest to a ticket first.
    pub(super) fn nearest(
        &self,
        rules: &Rules,
        candidate: &Candidate,
        classes: &[ClassId],
        limit: Option<f64>,
    ) -> Nearest<'_> {
        let from = primary(rules, candidate);
        let split = (Place::of(from), 0, Key::FIRST);
        let mut nearest = Nearest {
            cursors: Vec::with_capacity(2 * classes.len()),
            heads: BinaryHeap::with_capacity(2 * classes.len()),
            from,
            limit: limit.unwrap_or(f64::INFINITY),
        };
        for id in classes {
            let members = &self.classes[id.0 as usize].members;
            nearest.cursors.push(Cursor::Up(members.range(split..)));
            nearest
                .cursors
                .push(Cursor::Down(members.range(..split).rev()));
        }
        for cursor in 0..nearest.cursors.len() {
            nearest.advance(cursor);
        }
        nearest
    }

    fn has_number(&self, attribute: Symbol, bound: Bound, number: f64, but: Key) -> bool {
        let Some(numbers) = self.numbers.get(&attribute) else {
            return false;
        };
        let (first, last) = (
            (Place::of(number), Key::FIRST),
            (Place::of(number), Key::LAST),
        );
        let mut range = match bound {
            Bound::Below => numbers.range(..first),
            Bound::AtMost => numbers.range(..=last),
            Bound::AtLeast => numbers.range(first..),
            Bound::Above => {
                numbers.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded))
            }
        };
        range.any(|(_, key)| *key != but)
    }

    fn class(&mut self, signature: Signature) -> ClassId {
        if let Some(id) = self.class_by_signature.get(&signature) {
            return *id;
        }
        let class = Class {
            signature: signature.clone(),
            members: BTreeSet::new(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.classes[id.0 as usize] = class;
                id
            }
            None => {
                self.classes.push(class);
                let last = u32::try_from(self.classes.len() - 1);
                ClassId(last.expect("there are no more classes than tickets"))
            }
        };
        let by_need = self.by_texts.entry(signature.texts.clone());
        let ids = by_need.or_default().entry(signature.need);
        ids.or_default().insert(id);
        if !signature.is_strict() {
            self.loose.insert(id);
        }
        self.class_by_signature.insert(signature, id);
        id
    }

    fn leave_class(&mut self, rules: &Rules, key: Key, seat: &Seat, id: ClassId) {
        let class = &mut self.classes[id.0 as usize];
        class
            .members
            .remove(&(place(rules, &seat.candidate), seat.order, key));
        if !class.members.is_empty() {
            return;
        }
        let signature = &class.signature;
        self.class_by_signature.remove(signature);
        self.loose.remove(&id);
        if let Some(by_need) = self.by_texts.get_mut(&signature.texts) {
            let ids = by_need.get_mut(&signature.need);
            if ids.is_some_and(|ids| ids.remove(&id) && ids.is_empty()) {
                by_need.remove(&signature.need);
            }
            if by_need.is_empty() {
                self.by_texts.remove(&signature.texts);
            }
        }
        self.free.push(id);
    }
}

/// The classes that come into question for a ticket.
pub(super) struct Suitable {
    pub(super) ids: Vec<ClassId>,
    /// How many tickets they have.
    pub(super) tickets: usize,
    /// As how many looks at tickets it counts to find them, and to begin with each.
    pub(super) looks: u64,
}

/// So many classes count as one look at a ticket.
const CLASSES_PER_LOOK: u64 = 8;

/// The fewest tickets that have something that a query needs.
pub(super) enum Fewest<'i> {
    /// Nobody but the ticket itself has it.
    Nobody,
    /// These, the oldest first.
    Of(&'i BTreeSet<(u64, Key)>),
    /// The query needs nothing that can be looked up.
    Unknown,
}

impl Iterator for Nearest<'_> {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        let Reverse((distance, _, key, cursor)) = self.heads.pop()?;
        if distance.number() > self.limit {
            // All others are further.
            self.heads.clear();
            return None;
        }
        self.advance(cursor);
        Some(key)
    }
}

impl Nearest<'_> {
    fn advance(&mut self, cursor: usize) {
        let next = match &mut self.cursors[cursor] {
            Cursor::Up(range) => range.next(),
            Cursor::Down(range) => range.next(),
        };
        if let Some((place, order, key)) = next {
            let distance = Place::of((place.number() - self.from).abs());
            self.heads.push(Reverse((distance, *order, *key, cursor)));
        }
    }
}

impl Signature {
    fn is_strict(&self) -> bool {
        self.strict.count_ones() as usize == self.texts.len()
    }

    /// Whether it is that of a ticket of which only the gates may have changed.
    fn is_of(&self, rules: &Rules, candidate: &Candidate, gates: &[Gate]) -> bool {
        let mut texts = 0;
        let mut regions = self.regions.iter();
        let mut all = rules.rules.iter().zip(&candidate.facts).zip(gates);
        all.all(|((rule, fact), gate)| match (&rule.check, fact) {
            (Check::Equal { .. }, Fact::Text(_)) => {
                let is_strict = self.strict & 1 << texts != 0;
                texts += 1;
                is_strict == gate.limit.is_some()
            }
            (Check::Latency { .. }, _) => regions.next() == Some(&gate.regions),
            _ => true,
        })
    }

    /// Whether tickets of both may meet.
    fn suits(&self, other: &Self, judge: Judge, mixed: Option<u32>) -> bool {
        let strict = match judge {
            Judge::Each => self.strict | other.strict,
            // The older one judges, and may be of either class.
            Judge::Oldest => self.strict & other.strict,
        };
        let strict = strict & !mixed.unwrap_or(0);
        let mut texts = self.texts.iter().zip(&other.texts).enumerate();
        let mut regions = self.regions.iter().zip(&other.regions);
        texts.all(|(at, (a, b))| a == b || strict & 1 << at == 0)
            && (mixed.is_some() || regions.all(|(a, b)| a & b != 0))
    }
}

impl Place {
    pub(super) fn of(number: f64) -> Self {
        let bits = (number + 0.0).to_bits();
        let is_negative = bits >> 63 == 1;
        Self(if is_negative { !bits } else { bits | 1 << 63 })
    }

    pub(super) fn number(self) -> f64 {
        let is_negative = self.0 >> 63 == 0;
        f64::from_bits(if is_negative {
            !self.0
        } else {
            self.0 & !(1 << 63)
        })
    }
}

/// The number by which the members of a class are ordered: of the first rule of distance.
fn primary(rules: &Rules, candidate: &Candidate) -> f64 {
    let Some((at, _)) = primary_rule(rules) else {
        return 0.0;
    };
    match &candidate.facts[at] {
        Fact::Number(number) => *number,
        Fact::None | Fact::Text(_) | Fact::Set(_) | Fact::Latencies(_) => 0.0,
    }
}

/// The first rule of distance.
pub(super) fn primary_rule(rules: &Rules) -> Option<(usize, &crate::rules::Rule)> {
    let mut rules = rules.rules.iter().enumerate();
    rules.find(|(_, rule)| matches!(rule.check, Check::Distance { .. }))
}

fn place(rules: &Rules, candidate: &Candidate) -> Place {
    Place::of(primary(rules, candidate))
}

fn signature(rules: &Rules, candidate: &Candidate, gates: &[Gate]) -> Signature {
    let mut texts = Vec::new();
    let mut strict = 0;
    let mut regions = Vec::new();
    for ((rule, fact), gate) in rules.rules.iter().zip(&candidate.facts).zip(gates) {
        match (&rule.check, fact) {
            (Check::Equal { .. }, Fact::Text(text)) => {
                if gate.limit.is_some() {
                    strict |= 1 << texts.len();
                }
                texts.push(*text);
            }
            (Check::Latency { .. }, _) => regions.push(gate.regions),
            _ => {}
        }
    }
    Signature {
        texts: texts.into(),
        strict,
        regions: regions.into(),
        need: candidate.demands.text_need(),
    }
}
