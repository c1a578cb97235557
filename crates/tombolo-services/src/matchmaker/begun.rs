//! The matches that began lately: whoever was away then is told when it comes back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tombolo_match::{ENDED_MAX, Formed, TicketId, Time};
use tombolo_wire::UserId;

use super::room::SEATS_KEPT;

/// Matches by the tickets that have found them.
#[derive(Default)]
pub(super) struct Begun {
    formed_by_ticket: BTreeMap<TicketId, Arc<Formed>>,
    /// When the match of which ticket began; the oldest first.
    order: VecDeque<(Time, TicketId)>,
}

impl Begun {
    /// Takes note of a match, and forgets those in whose rooms no seats are kept any more.
    pub(super) fn note(&mut self, now: Time, formed: &Arc<Formed>) {
        for party in formed.parties() {
            let (ticket, formed) = (party.ticket, Arc::clone(formed));
            self.formed_by_ticket.insert(ticket, formed);
            self.order.push_back((now, ticket));
        }
        while let Some((since, ticket)) = self.order.front().copied()
            && (self.order.len() > ENDED_MAX || now.since(since) >= SEATS_KEPT)
        {
            self.order.pop_front();
            self.formed_by_ticket.remove(&ticket);
        }
    }

    /// A ticket waits again.
    pub(super) fn forget(&mut self, ticket: &TicketId) {
        if self.formed_by_ticket.remove(ticket).is_some() {
            self.order.retain(|(_, known)| known != ticket);
        }
    }

    /// The match that a ticket of a user has found.
    pub(super) fn of(&self, ticket: &TicketId, user: &UserId) -> Option<Arc<Formed>> {
        let formed = self.formed_by_ticket.get(ticket)?;
        let mut parties = formed.parties();
        let party = parties.find(|party| party.ticket == *ticket)?;
        let is_in_it = party.users.iter().any(|(member, _)| member == user);
        is_in_it.then(|| Arc::clone(formed))
    }
}
