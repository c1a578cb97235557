//! Which rooms somebody looks for.

mod contract;

use std::borrow::Cow;
use std::cmp::Ordering;

use bytes::Bytes;
use tombolo_wire::RoomId;

use crate::listing::Listing;
use crate::property::Value;
use crate::word::PropertyKey;

pub use contract::QueryError;

/// The most conditions of a [`Query`].
pub const CONDITIONS_MAX: usize = 16;

/// The most values that a [`Condition`] names.
pub const VALUES_MAX: usize = 32;

/// The most aspects by which found rooms are ordered.
pub const ORDERS_MAX: usize = 4;

/// Which rooms somebody looks for, and in which order. Hidden rooms are never found.
///
/// ```
/// use tombolo_room::{Aspect, Comparison, Query};
///
/// let query = Query::default()
///     .with(Aspect::property("mode")?, Comparison::Equal(vec!["ranked".into()]))
///     .with(Aspect::property("level")?, Comparison::AtLeast(3.into()))
///     .descending(Aspect::Members);
/// # assert_eq!(query.conditions.len(), 2);
/// # Ok::<(), tombolo_room::WordError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// All of them hold.
    pub conditions: Vec<Condition>,
    /// By the first; those that it leaves equal by the second, and so on; in the end by name.
    pub orders: Vec<Order>,
    /// How many rooms at most; 0: as many as fit into an answer.
    pub limit: u32,
    /// Goes on after a page.
    pub after: Option<PageEnd>,
    /// Rooms that are full or locked, and those with a password, are found as well.
    pub with_closed: bool,
}

/// What is known about a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// A public property.
    Property(PropertyKey),
    /// [`Listing::members`].
    Members,
    /// [`Listing::members_max`].
    MembersMax,
    /// [`Listing::free`].
    Free,
    /// [`Listing::opened`], in milliseconds since the Unix epoch.
    Opened,
}

/// What must be the case about a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub aspect: Aspect,
    /// How it must be.
    pub comparison: Comparison,
}

/// How an aspect must be. Numbers compare with numbers, text with text, booleans with booleans, bytes
/// with bytes; what differs in kind is unequal and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal to one of these.
    Equal(Vec<Value>),
    /// Equal to none of these, or absent.
    Unequal(Vec<Value>),
    /// Less than this.
    Less(Value),
    /// Less than this, or equal.
    AtMost(Value),
    /// Greater than this.
    Greater(Value),
    /// Greater than this, or equal.
    AtLeast(Value),
    /// Text that begins with this.
    Prefix(String),
    /// There.
    Present,
    /// Not there.
    Absent,
}

impl Comparison {
    /// How many values it compares with, at most.
    #[must_use]
    pub fn values(&self) -> usize {
        match self {
            Self::Equal(values) | Self::Unequal(values) => values.len(),
            Self::Less(_)
            | Self::AtMost(_)
            | Self::Greater(_)
            | Self::AtLeast(_)
            | Self::Prefix(_)
            | Self::Present
            | Self::Absent => 1,
        }
    }
}

/// By what found rooms are ordered. Those without the aspect come last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// By what.
    pub aspect: Aspect,
    /// The greatest first.
    pub is_descending: bool,
}

/// Where a page of found rooms ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEnd(Bytes);

impl Aspect {
    /// The public property of that name.
    ///
    /// # Errors
    /// When properties have no such names.
    pub fn property(key: &str) -> Result<Self, crate::WordError> {
        PropertyKey::parse(key).map(Self::Property)
    }
}

impl Query {
    /// Only rooms of which that is the case, too.
    #[must_use]
    pub fn with(mut self, aspect: Aspect, comparison: Comparison) -> Self {
        self.conditions.push(Condition { aspect, comparison });
        self
    }

    /// The least first; only among those that are equal by the orders before.
    #[must_use]
    pub fn ascending(mut self, aspect: Aspect) -> Self {
        let is_descending = false;
        self.orders.push(Order {
            aspect,
            is_descending,
        });
        self
    }

    /// The greatest first; only among those that are equal by the orders before.
    #[must_use]
    pub fn descending(mut self, aspect: Aspect) -> Self {
        let is_descending = true;
        self.orders.push(Order {
            aspect,
            is_descending,
        });
        self
    }

    /// Whether the room is meant.
    #[must_use]
    pub fn matches(&self, listing: &Listing) -> bool {
        (self.with_closed || listing.is_joinable()) && self.holds_for(listing)
    }

    /// Whether all conditions hold, never mind who may come in.
    #[must_use]
    pub fn holds_for(&self, listing: &Listing) -> bool {
        self.conditions.iter().all(|condition| {
            let value = listing.aspect(&condition.aspect);
            condition.comparison.holds(value.as_deref())
        })
    }

    /// Which of two rooms comes first.
    #[must_use]
    pub fn compare(&self, a: &Listing, b: &Listing) -> Ordering {
        let orders = self.orders.iter().map(|order| {
            let (a, b) = (listing_value(a, order), listing_value(b, order));
            order.compare(a.as_deref(), b.as_deref())
        });
        let first = { orders }.find(|order| order.is_ne());
        first.unwrap_or_else(|| a.room.cmp(&b.room))
    }

    /// Which comes first, the place or the room.
    fn compare_place(&self, place: &Place, room: &Listing) -> Ordering {
        let pairs = self.orders.iter().zip(&place.values);
        let orders = pairs.map(|(order, value)| {
            let found = listing_value(room, order);
            order.compare(value.as_ref(), found.as_deref())
        });
        let first = { orders }.find(|order| order.is_ne());
        first.unwrap_or_else(|| place.room.cmp(&room.room))
    }
}

/// A [`PageEnd`], understood.
#[derive(Debug)]
struct Place {
    /// By each of the query's orders.
    values: Vec<Option<Value>>,
    room: RoomId,
}

fn listing_value<'a>(listing: &'a Listing, order: &Order) -> Option<Cow<'a, Value>> {
    listing.aspect(&order.aspect)
}

impl Listing {
    /// `None` for a property that is absent or not public.
    fn aspect(&self, aspect: &Aspect) -> Option<Cow<'_, Value>> {
        let number = |number: u64| {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            Some(Cow::Owned(Value::Integer(number)))
        };
        match aspect {
            Aspect::Property(key) => self.properties.get(key).map(Cow::Borrowed),
            Aspect::Members => number(self.members.into()),
            Aspect::MembersMax => number(self.members_max.into()),
            Aspect::Free => number(self.free.into()),
            Aspect::Opened => number(self.opened.as_millis()),
        }
    }
}

impl Comparison {
    fn holds(&self, found: Option<&Value>) -> bool {
        let is = |wanted: &Value, is_so: fn(Ordering) -> bool| {
            let found = found.filter(|found| found.kind() == wanted.kind());
            found.is_some_and(|found| is_so(found.compare(wanted)))
        };
        match self {
            Self::Equal(values) => values.iter().any(|value| is(value, Ordering::is_eq)),
            Self::Unequal(values) => !values.iter().any(|value| is(value, Ordering::is_eq)),
            Self::Less(value) => is(value, Ordering::is_lt),
            Self::AtMost(value) => is(value, Ordering::is_le),
            Self::Greater(value) => is(value, Ordering::is_gt),
            Self::AtLeast(value) => is(value, Ordering::is_ge),
            Self::Prefix(prefix) => {
                matches!(found, Some(Value::Text(text)) if text.starts_with(prefix.as_str()))
            }
            Self::Present => found.is_some(),
            Self::Absent => found.is_none(),
        }
    }
}

impl Order {
    fn compare(&self, a: Option<&Value>, b: Option<&Value>) -> Ordering {
        match (a, b) {
            (Some(a), Some(b)) if self.is_descending => b.compare(a),
            (Some(a), Some(b)) => a.compare(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }
}

impl Value {
    /// Values compare when it is the same.
    fn kind(&self) -> u8 {
        match self {
            Self::Boolean(_) => 0,
            Self::Integer(_) | Self::Number(_) => 1,
            Self::Text(_) => 2,
            Self::Binary(_) => 3,
        }
    }

    /// A total order, in which whole and other numbers are where they are on the line of numbers.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Boolean(a), Self::Boolean(b)) => a.cmp(b),
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => one_zero(*a).total_cmp(&one_zero(*b)),
            (Self::Integer(a), Self::Number(b)) => compare_numbers(*a, *b),
            (Self::Number(a), Self::Integer(b)) => compare_numbers(*b, *a).reverse(),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Binary(a), Self::Binary(b)) => a.cmp(b),
            (
                Self::Boolean(_)
                | Self::Integer(_)
                | Self::Number(_)
                | Self::Text(_)
                | Self::Binary(_),
                _,
            ) => self.kind().cmp(&other.kind()),
        }
    }
}

/// Exactly, so that the order of all numbers together is one.
fn compare_numbers(whole: i64, number: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if number.is_nan() {
        // As `f64::total_cmp` has it.
        return if number.is_sign_negative() {
            Ordering::Greater
        } else {
            Ordering::Less
        };
    }
    if number >= LIMIT {
        return Ordering::Less;
    }
    if number < -LIMIT {
        return Ordering::Greater;
    }
    // Nothing is cut but what is after the point.
    let floor = number.floor() as i64;
    let has_more = number > number.floor();
    whole.cmp(&floor).then(if has_more {
        Ordering::Less
    } else {
        Ordering::Equal
    })
}

fn one_zero(number: f64) -> f64 {
    if number == 0.0 { 0.0 } else { number }
}
