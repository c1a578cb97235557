//! A pool with a hand on it: tickets by name, the clock by seconds.

use std::time::Duration;

use tombolo_match::{
    Body, EndReason, Entry, Event, Formed, Illegal, LEAP_MAX, Name, Player, Pool, Query, Rules,
    Ticket, TicketId, Time, Value,
};
use tombolo_wire::UserId;

/// A pool, its matcher, and what is needed to talk to both.
pub(crate) struct World {
    pub(crate) pool: Pool,
    pub(crate) now: Time,
}

impl World {
    pub(crate) fn new(rules: &str) -> Self {
        let rules = match Rules::parse(rules) {
            Ok(rules) => rules,
            Err(error) => panic!("{error}\n{rules}"),
        };
        Self {
            pool: Pool::new(rules),
            now: Time::from_millis(1_000_000),
        }
    }

    pub(crate) fn apply(&mut self, body: Body) -> Result<Vec<Event>, Illegal> {
        let time = self.now;
        let applied = self.pool.apply(&Entry { time, body });
        applied.outcome.map(|()| applied.events)
    }

    pub(crate) fn submit(&mut self, ticket: Ticket) -> Result<Vec<Event>, Illegal> {
        self.apply(Body::Submitted(ticket))
    }

    pub(crate) fn submit_all(&mut self, tickets: impl IntoIterator<Item = Ticket>) {
        for ticket in tickets {
            self.submit(ticket).unwrap();
        }
    }

    /// Lets time pass, and what is due happen. As on nodes, the time is said often enough to be believed.
    pub(crate) fn wait(&mut self, seconds: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let until = self.now.after(Duration::from_secs(seconds));
        while self.now < until {
            self.now = self.now.after(LEAP_MAX / 2).min(until);
            events.extend(self.apply(Body::Ticked).unwrap());
        }
        events
    }

    /// Lets the matcher work until nothing is left to do, and claims what it proposes.
    pub(crate) fn step(&mut self) -> Vec<Formed> {
        let formed = self.events().into_iter().filter_map(|event| {
            if let Event::Matched(formed) | Event::Asked { formed, .. } = event {
                return Some(*formed);
            }
            None
        });
        formed.collect()
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let step = self.pool.propose(self.now, 1_000);
            events.extend(self.apply(Body::Claimed(step.matches)).unwrap());
            if step.is_complete {
                return events;
            }
        }
    }

    /// The users of each match of a step, sorted.
    pub(crate) fn matched(&mut self) -> Vec<Vec<String>> {
        self.step().iter().map(users).collect()
    }

    pub(crate) fn waiting(&self) -> Vec<u128> {
        let waiting = self.pool.waiting();
        waiting
            .map(|ticket| u128::from_be_bytes(ticket.id.0))
            .collect()
    }
}

pub(crate) fn users(formed: &Formed) -> Vec<String> {
    let mut users: Vec<_> = formed.users().map(ToString::to_string).collect();
    users.sort();
    users
}

pub(crate) fn id(number: u128) -> TicketId {
    TicketId(number.to_be_bytes())
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

pub(crate) fn player(user: &str) -> Player {
    Player::new(self::user(user))
}

/// A ticket of users that are named `u1`, `u2`… after the ticket's number, with a skill.
pub(crate) fn skilled(number: u128, skills: &[f64]) -> Ticket {
    let players = skills.iter().enumerate().map(|(at, skill)| {
        let user = match at {
            0 => format!("u{number}"),
            _ => format!("u{number}.{at}"),
        };
        player(&user).with(name("skill"), Value::Number(*skill))
    });
    Ticket::new(id(number), players.collect())
}

pub(crate) fn solo(number: u128) -> Ticket {
    Ticket::new(id(number), vec![player(&format!("u{number}"))])
}

pub(crate) fn asking(mut ticket: Ticket, query: &str) -> Ticket {
    ticket.query = Query::parse(query).unwrap();
    ticket
}

/// The ticket with the attribute in each of its users.
pub(crate) fn having(mut ticket: Ticket, attribute: &str, value: Value) -> Ticket {
    for player in &mut ticket.players {
        player.attributes.insert(name(attribute), value.clone());
    }
    ticket
}

/// The ticket, with as much to say as its users may.
pub(crate) fn fat(mut ticket: Ticket) -> Ticket {
    let texts = (0..tombolo_match::ITEMS_MAX).map(|at| format!("{at:0128}"));
    let value = Value::List(texts.collect());
    for player in &mut ticket.players {
        for at in player.attributes.len()..tombolo_match::ATTRIBUTES_MAX {
            let attribute = name(&format!("a{at}"));
            player.attributes.insert(attribute, value.clone());
        }
    }
    ticket
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(crate) fn list(texts: &[&str]) -> Value {
    Value::List(texts.iter().map(ToString::to_string).collect())
}

pub(crate) fn map(numbers: &[(&str, f64)]) -> Value {
    let numbers = numbers.iter();
    Value::Map(numbers.map(|(key, number)| (name(key), *number)).collect())
}

pub(crate) fn ended(events: &[Event]) -> Vec<(u128, EndReason)> {
    let ended = events.iter().filter_map(|event| {
        if let Event::Ended { ticket, reason } = event {
            return Some((u128::from_be_bytes(ticket.0), *reason));
        }
        None
    });
    ended.collect()
}
