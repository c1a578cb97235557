//! Pools of which half can be matched.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_match::{Name, Player, Query, Ticket, TicketId, Value};

/// Rules, and the tickets that come.
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) rules: &'static str,
    form: Form,
}

/// Why half of the tickets find nobody.
#[derive(Clone, Copy)]
enum Form {
    /// Their text is nobody else's.
    Text,
    /// Their number is far from all others.
    Number,
    /// Their query asks for what nobody has.
    Query,
    /// Their query asks for what many have, who do not want them.
    Unwanted,
}

pub(super) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "2 to 2, equal and distance",
        rules: PAIR,
        form: Form::Text,
    },
    Workload {
        name: "4 to 10, equal and distance",
        rules: GROUP,
        form: Form::Text,
    },
    Workload {
        name: "2 to 2, alone by distance",
        rules: PAIR,
        form: Form::Number,
    },
    Workload {
        name: "4 to 10, alone by distance",
        rules: GROUP,
        form: Form::Number,
    },
    Workload {
        name: "2 to 2, queries",
        rules: PLAIN_PAIR,
        form: Form::Query,
    },
    Workload {
        name: "4 to 10, queries",
        rules: PLAIN_GROUP,
        form: Form::Query,
    },
    Workload {
        name: "2 to 2, queries that disagree",
        rules: PLAIN_PAIR,
        form: Form::Unwanted,
    },
];

const PAIR: &str = r#"
name = "pair"
tickets = 1000000
players = { min = 2, max = 2 }
rules = [
    { kind = "equal", attribute = "mode" },
    { kind = "distance", attribute = "skill", max = 50, relax = { every = "5s", by = 50, limit = 200 } },
]
"#;

const GROUP: &str = r#"
name = "group"
tickets = 1000000
players = { min = 4, max = 10 }
rules = [
    { kind = "equal", attribute = "mode" },
    { kind = "distance", attribute = "skill", max = 50, relax = { every = "5s", by = 50, limit = 200 } },
]
"#;

const PLAIN_PAIR: &str = "name = \"pair\"\ntickets = 1000000\nplayers = { min = 2, max = 2 }";

const PLAIN_GROUP: &str = "name = \"group\"\ntickets = 1000000\nplayers = { min = 4, max = 10 }";

impl Workload {
    /// Tickets of one user each, every second one with nobody to be matched with.
    pub(super) fn tickets(&self, count: usize, seed: u64) -> anyhow::Result<Vec<Ticket>> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|number| self.ticket(number, &mut random))
            .collect()
    }

    fn ticket(&self, number: usize, random: &mut ChaCha8Rng) -> anyhow::Result<Ticket> {
        let is_alone = number % 2 == 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let mode = ["casual", "ranked", "event"][random.random_range(0..3)];
        // Three dice: many in the middle, few at the ends.
        let skill: f64 = (0..3).map(|_| random.random_range(0.0..700.0)).sum();
        let (mode, skill) = match self.form {
            Form::Text if is_alone => (format!("mode-{number}"), skill),
            Form::Number if is_alone => (mode.to_owned(), 1e6 + number as f64 * 1000.0),
            Form::Unwanted if is_alone => ("unwanted".to_owned(), skill),
            Form::Text | Form::Number | Form::Query | Form::Unwanted => (mode.to_owned(), skill),
        };
        let query = match self.form {
            Form::Query if is_alone => "+mode:nobody +skill:>=0".to_owned(),
            Form::Query => format!(
                "+mode:{mode} +skill:>={} +skill:<={}",
                skill - 200.0,
                skill + 200.0
            ),
            Form::Unwanted if is_alone => "+mode:casual".to_owned(),
            Form::Unwanted => format!("+mode:{mode}"),
            Form::Text | Form::Number => String::new(),
        };
        let player = Player::new(format!("user-{number}").parse()?)
            .with(Name::parse("mode")?, Value::Text(mode))
            .with(Name::parse("skill")?, Value::Number(skill));
        let mut ticket = Ticket::new(TicketId(id), vec![player]);
        ticket.query = Query::parse(&query)?;
        Ok(ticket)
    }
}
