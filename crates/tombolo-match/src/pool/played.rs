//! The tickets of those who have found a match: what is known of users that play, and are in the pool no more.
//!
//! Nothing follows from them in the pool itself. They are there for whoever has a running match ask for more users.

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::UserId;

use super::Pool;
use super::candidate::merged;
use super::memory::Memory;
use crate::entry::{self, parse_ticket};
use crate::generated as wire;
use crate::rules::Rule;
use crate::ticket::{ATTRIBUTES_MAX, BLOCKS_MAX, Player, Ticket};

/// What they may weigh; those of the matches that began first are forgotten first.
pub const PLAYED_WEIGHT_MAX: usize = 4 * 1024 * 1024;

/// The last ticket of each user that has found a match, as a snapshot has it: most of them nobody asks for.
#[derive(Debug, Default)]
pub(super) struct Played(Memory<UserId, Bytes>);

impl Played {
    pub(super) fn note(&mut self, ticket: &Ticket) {
        let mut wire = entry::ticket(ticket);
        for player in &mut wire.players {
            player.device = None;
        }
        let kept: Bytes = wire.encode_to_vec().into();
        let users = ticket.players.iter().map(|player| player.user.clone());
        let users: Box<[UserId]> = users.collect();
        let names = users.iter().map(|user| user.as_str().len());
        let weight = KEPT_BYTES + kept.len() + names.sum::<usize>();
        self.0.insert(users, kept, weight, PLAYED_WEIGHT_MAX);
    }

    fn of(&self, user: &UserId) -> Option<Ticket> {
        let wire = wire::Ticket::decode(self.0.get(user)?.clone()).ok()?;
        parse_ticket(wire).ok()
    }

    /// What a snapshot has of them.
    pub(super) fn on_wire(&self) -> Vec<Bytes> {
        self.0.iter().cloned().collect()
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
