//! Queries in the words of the contract.

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::{RoomId, v1};

use super::{
    Aspect, CONDITIONS_MAX, Comparison, Condition, ORDERS_MAX, Order, PageEnd, Place, Query,
    VALUES_MAX,
};
use crate::entry::{self, parse_key, parse_value};
use crate::listing::Listing;
use crate::property::{PUBLIC_VALUE_BYTES_MAX, Value};

/// Why a query is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// Something in it is missing, or of no known kind.
    #[error("query asks for nothing known")]
    Malformed,
    /// More than [`CONDITIONS_MAX`] conditions, [`VALUES_MAX`] values or [`ORDERS_MAX`] orders.
    #[error("query asks for too much at once")]
    TooMuch,
    /// It goes on after the page of another query.
    #[error("query goes on after another query's page")]
    Page,
}

type Parsed<T> = Result<T, QueryError>;

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// When it asks for nothing known, or too much.
    pub fn parse(query: v1::RoomQuery) -> Parsed<Self> {
        if query.conditions.len() > CONDITIONS_MAX || query.orders.len() > ORDERS_MAX {
            return Err(QueryError::TooMuch);
        }
        let conditions = query.conditions.into_iter().map(parse_condition);
        let orders = query.orders.into_iter().map(parse_order);
        let query = Self {
            conditions: conditions.collect::<Parsed<_>>()?,
            orders: orders.collect::<Parsed<_>>()?,
            limit: query.limit,
            after: (!query.after.is_empty()).then(|| PageEnd(query.after)),
            with_closed: query.closed,
        };
        query.place()?;
        Ok(query)
    }

    /// Takes so many rooms off the front of those that come after the query's page, in order; the page's
    /// end when there are more.
    #[must_use]
    pub fn page<'a>(
        &self,
        rooms: impl IntoIterator<Item = &'a Listing>,
        rooms_max: usize,
    ) -> (Vec<&'a Listing>, Option<PageEnd>) {
        let place = self.place().ok().flatten();
        let is_next = |room: &&Listing| {
            let place = place.as_ref();
            place.is_none_or(|place| self.compare_place(place, room).is_lt())
        };
        let mut found: Vec<_> = rooms.into_iter().filter(is_next).collect();
        let has_more = found.len() > rooms_max;
        if has_more && rooms_max > 0 {
            found.select_nth_unstable_by(rooms_max - 1, |a, b| self.compare(a, b));
        }
        found.truncate(rooms_max);
        found.sort_unstable_by(|a, b| self.compare(a, b));
        let end = found.last().filter(|_| has_more);
        let end = end.map(|last| self.end_at(last));
        (found, end)
    }

    fn end_at(&self, last: &Listing) -> PageEnd {
        let values = self.orders.iter().map(|order| {
            let value = super::listing_value(last, order);
            v1::PageValue {
                value: value.map(|value| entry::value(&value)),
            }
        });
        let end = v1::PageEnd {
            values: values.collect(),
            room: last.room.to_string(),
        };
        PageEnd(end.encode_to_vec().into())
    }

    fn place(&self) -> Parsed<Option<Place>> {
        let Some(PageEnd(end)) = &self.after else {
            return Ok(None);
        };
        let end = v1::PageEnd::decode(end.clone()).map_err(|_| QueryError::Page)?;
        if end.values.len() != self.orders.len() {
            return Err(QueryError::Page);
        }
        let parse = |value: v1::PageValue| value.value.map(value_of).transpose();
        let values = end.values.into_iter().map(parse);
        let values = values
            .collect::<Parsed<_>>()
            .map_err(|_| QueryError::Page)?;
        let room = RoomId::parse(&end.room).map_err(|_| QueryError::Page)?;
        Ok(Some(Place { values, room }))
    }
}

impl PageEnd {
    /// Reads where a page ended; nothing is empty.
    #[must_use]
    pub fn parse(end: Bytes) -> Option<Self> {
        (!end.is_empty()).then_some(Self(end))
    }

    /// Says where a page ended.
    #[must_use]
    pub fn to_wire(&self) -> Bytes {
        self.0.clone()
    }
}

impl From<&Query> for v1::RoomQuery {
    fn from(query: &Query) -> Self {
        let after = query.after.as_ref();
        Self {
            conditions: query.conditions.iter().map(condition).collect(),
            orders: query.orders.iter().map(order).collect(),
            limit: query.limit,
            after: after.map(PageEnd::to_wire).unwrap_or_default(),
            closed: query.with_closed,
        }
    }
}

fn parse_condition(condition: v1::Condition) -> Parsed<Condition> {
    use v1::Comparison as On;

    let kind = condition.comparison();
    if condition.values.len() > VALUES_MAX {
        return Err(QueryError::TooMuch);
    }
    let values = condition.values.into_iter().map(value_of);
    let values = values.collect::<Parsed<Vec<_>>>()?;
    let one = |values: Vec<Value>| match <[Value; 1]>::try_from(values) {
        Ok([value]) => Ok(value),
        Err(_) => Err(QueryError::Malformed),
    };
    let comparison = match kind {
        On::Equal if !values.is_empty() => Comparison::Equal(values),
        On::Unequal if !values.is_empty() => Comparison::Unequal(values),
        On::Less => Comparison::Less(one(values)?),
        On::LessOrEqual => Comparison::AtMost(one(values)?),
        On::Greater => Comparison::Greater(one(values)?),
        On::GreaterOrEqual => Comparison::AtLeast(one(values)?),
        On::Prefix => match one(values)? {
            Value::Text(text) => Comparison::Prefix(text),
            Value::Boolean(_) | Value::Integer(_) | Value::Number(_) | Value::Binary(_) => {
                return Err(QueryError::Malformed);
            }
        },
        On::Present if values.is_empty() => Comparison::Present,
        On::Absent if values.is_empty() => Comparison::Absent,
        On::Equal | On::Unequal | On::Present | On::Absent | On::Unspecified => {
            return Err(QueryError::Malformed);
        }
    };
    Ok(Condition {
        aspect: parse_aspect(condition.aspect)?,
        comparison,
    })
}

fn parse_order(order: v1::Order) -> Parsed<Order> {
    Ok(Order {
        aspect: parse_aspect(order.aspect)?,
        is_descending: order.descending,
    })
}

fn parse_aspect(aspect: Option<v1::Aspect>) -> Parsed<Aspect> {
    use v1::aspect::Kind;

    match aspect.and_then(|aspect| aspect.kind) {
        Some(Kind::Property(key)) => parse_key(&key)
            .map(Aspect::Property)
            .map_err(|_| QueryError::Malformed),
        Some(Kind::Measure(measure)) => match v1::Measure::try_from(measure) {
            Ok(v1::Measure::Members) => Ok(Aspect::Members),
            Ok(v1::Measure::MembersMax) => Ok(Aspect::MembersMax),
            Ok(v1::Measure::Free) => Ok(Aspect::Free),
            Ok(v1::Measure::Opened) => Ok(Aspect::Opened),
            Ok(v1::Measure::Unspecified) | Err(_) => Err(QueryError::Malformed),
        },
        None => Err(QueryError::Malformed),
    }
}

fn value_of(value: v1::PropertyValue) -> Parsed<Value> {
    let value = parse_value(value).map_err(|_| QueryError::Malformed)?;
    if value.bytes() > PUBLIC_VALUE_BYTES_MAX {
        return Err(QueryError::TooMuch);
    }
    Ok(value)
}

fn condition(condition: &Condition) -> v1::Condition {
    use v1::Comparison as On;

    let one = |value: &Value| vec![entry::value(value)];
    let all = |values: &[Value]| values.iter().map(entry::value).collect();
    let (comparison, values) = match &condition.comparison {
        Comparison::Equal(values) => (On::Equal, all(values)),
        Comparison::Unequal(values) => (On::Unequal, all(values)),
        Comparison::Less(value) => (On::Less, one(value)),
        Comparison::AtMost(value) => (On::LessOrEqual, one(value)),
        Comparison::Greater(value) => (On::Greater, one(value)),
        Comparison::AtLeast(value) => (On::GreaterOrEqual, one(value)),
        Comparison::Prefix(text) => (On::Prefix, one(&Value::Text(text.clone()))),
        Comparison::Present => (On::Present, Vec::new()),
        Comparison::Absent => (On::Absent, Vec::new()),
    };
    v1::Condition {
        aspect: Some(aspect(&condition.aspect)),
        comparison: comparison.into(),
        values,
    }
}

fn order(order: &Order) -> v1::Order {
    v1::Order {
        aspect: Some(aspect(&order.aspect)),
        descending: order.is_descending,
    }
}

fn aspect(aspect: &Aspect) -> v1::Aspect {
    use v1::aspect::Kind;

    let measure = |measure: v1::Measure| Kind::Measure(measure.into());
    let kind = match aspect {
        Aspect::Property(key) => Kind::Property(key.to_string()),
        Aspect::Members => measure(v1::Measure::Members),
        Aspect::MembersMax => measure(v1::Measure::MembersMax),
        Aspect::Free => measure(v1::Measure::Free),
        Aspect::Opened => measure(v1::Measure::Opened),
    };
    v1::Aspect { kind: Some(kind) }
}
