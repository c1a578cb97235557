//! The tickets of those who have found a match: what is known of users that play, and are in the pool no more.
//!
//! Nothing follows from them in the pool itself. They are there for whoever has a running match ask for more users.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::UserId;

use super::Pool;
use super::candidate::merged;
use crate::entry::{self, parse_ticket};
use crate::generated as wire;
use crate::rules::Rule;
use crate::ticket::{ATTRIBUTES_MAX, BLOCKS_MAX, Player, Ticket};

/// What they may weigh; those of the matches that began first are forgotten first.
pub const PLAYED_WEIGHT_MAX: usize = 4 * 1024 * 1024;

/// The last ticket of each user that has found a match.
#[derive(Debug, Default)]
pub(super) struct Played {
    /// In the order in which their matches began.
    kept: BTreeMap<u64, Kept>,
    number_by_user: HashMap<UserId, u64>,
    next: u64,
    weight: usize,
}

/// A ticket as a snapshot has it: most of them nobody asks for.
#[derive(Debug)]
struct Kept {
    users: Box<[UserId]>,
    ticket: Bytes,
}

impl Kept {
    fn weight(&self) -> usize {
        let users = self.users.iter().map(|user| user.as_str().len());
        KEPT_BYTES + self.ticket.len() + users.sum::<usize>()
    }
}

impl Played {
    pub(super) fn note(&mut self, ticket: &Ticket) {
        let mut wire = entry::ticket(ticket);
        for player in &mut wire.players {
            player.device = None;
        }
        let users = ticket.players.iter().map(|player| player.user.clone());
        let kept = Kept {
            users: users.collect(),
            ticket: wire.encode_to_vec().into(),
        };
        let number = self.next;
        self.next += 1;
        for user in &kept.users {
            if let Some(before) = self.number_by_user.insert(user.clone(), number) {
                self.forget_if_replaced(before);
            }
        }
        self.weight += kept.weight();
        self.kept.insert(number, kept);
        while self.weight > PLAYED_WEIGHT_MAX
            && let Some((first, kept)) = self.kept.pop_first()
        {
            self.weight -= kept.weight();
            for user in &kept.users {
                if self.number_by_user.get(user) == Some(&first) {
                    self.number_by_user.remove(user);
                }
            }
        }
    }

    /// Forgets a ticket when each of its users has a later one.
    fn forget_if_replaced(&mut self, number: u64) {
        let Some(kept) = self.kept.get(&number) else {
            return;
        };
        let mut users = kept.users.iter();
        if users.all(|user| self.number_by_user.get(user) != Some(&number)) {
            self.weight -= kept.weight();
            self.kept.remove(&number);
        }
    }

    fn of(&self, user: &UserId) -> Option<Ticket> {
        let kept = self.kept.get(self.number_by_user.get(user)?)?;
        let wire = wire::Ticket::decode(kept.ticket.clone()).ok()?;
        parse_ticket(wire).ok()
    }

    /// What a snapshot has of them.
    pub(super) fn on_wire(&self) -> Vec<Bytes> {
        let kept = self.kept.values();
        kept.map(|kept| kept.ticket.clone()).collect()
    }
}

impl Pool {
    /// The ticket with which a user has found its last match, without its devices, as long as there is room to remember
    /// it: up to [`PLAYED_WEIGHT_MAX`].
    #[must_use]
    pub fn played(&self, user: &UserId) -> Option<Ticket> {
        self.played.of(user)
    }

    /// Puts what users have said of themselves when they looked for their match in the place of what a ticket of a
    /// running one says of them. Its roles stay, if it says any, and of blocks all count.
    pub fn recall(&self, ticket: &mut Ticket) {
        for player in &mut ticket.players {
            if let Some(played) = self.played(&player.user) {
                self.recall_player(player, &played);
            }
        }
        // What a party has asked of others it asks on, as long as nobody else is in it.
        let leader = ticket.players.first();
        let played = leader.and_then(|leader| self.played(&leader.user));
        if let Some(played) = played
            && ticket.players.iter().all(|player| played.has(&player.user))
        {
            ticket.query = played.query;
            ticket.tags = played.tags;
        }
    }

    fn recall_player(&self, player: &mut Player, played: &Ticket) {
        let mut known = played.players.iter();
        let Some(known) = known.find(|known| known.user == player.user) else {
            return;
        };
        player.attributes.clone_from(&known.attributes);
        player.reach = known.reach;
        if player.roles.is_empty() {
            player.roles.clone_from(&known.roles);
        }
        let said = std::mem::replace(&mut player.blocks, known.blocks.clone());
        for user in said {
            if player.blocks.len() < BLOCKS_MAX && !player.blocks.contains(&user) {
                player.blocks.push(user);
            }
        }
        // Who has said nothing of what a rule looks at has what its party has, which may be without it now.
        let party = merged(&self.rules, &played.players).unwrap_or_default();
        for attribute in self.rules.rules.iter().filter_map(Rule::attribute) {
            if let Some(value) = party.get(attribute)
                && player.attributes.len() < ATTRIBUTES_MAX
            {
                let value = || value.clone().into_owned();
                player
                    .attributes
                    .entry(attribute.clone())
                    .or_insert_with(value);
            }
        }
    }
}

/// What each has beside its bytes and the names of its users.
const KEPT_BYTES: usize = 128;
