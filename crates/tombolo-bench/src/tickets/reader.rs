//! Reads a pool's log by itself and works out what became of each ticket, without the matcher's code: only
//! the entries are parsed by it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Instant;

use tombolo_match::{
    BEGUN_KEPT, Body, Device, ENDED_LAST_MAX, Entry, Formed, MatchId, TicketId, Time,
};
use tombolo_wire::{NodeId, UserId};

/// What became of the tickets, by the log.
#[derive(Debug, Default)]
pub(super) struct Reader {
    clock: Time,
    next_match: u64,
    waiting: HashMap<TicketId, Waiting>,
    /// The ticket of each user.
    by_user: HashMap<UserId, TicketId>,
    lost_by_node: BTreeMap<NodeId, u64>,
    /// Those in matches of which nobody has said whether their users have their seats; nothing when they have not.
    begun: BTreeMap<MatchId, Vec<(TicketId, Waiting)>>,
    /// Each ticket's match, by that match's first ticket.
    pub(super) matched: HashMap<TicketId, TicketId>,
    pub(super) cancelled: HashSet<TicketId>,
    /// Their users were away for too long.
    pub(super) gone: HashSet<TicketId>,
    /// Those whose repetition pools refuse.
    remembered: Remembered,
    /// When users who are away are not waited for any more.
    dues: BTreeMap<(Time, TicketId), ()>,
    pub(super) entries: u64,
    pub(super) matches: u64,
    /// Claims that came too late: of tickets that had gone, or under a number that was taken.
    pub(super) claims_refused: u64,
    /// Tickets that a second claim got.
    pub(super) matched_twice: u64,
    /// When matches were read that count.
    pub(super) last_match: Option<Instant>,
}

/// The last ones, and those to which devices may come back: a minute, or for the grace of each.
#[derive(Debug, Default)]
struct Remembered {
    last: (HashSet<TicketId>, VecDeque<TicketId>),
    until: HashMap<TicketId, Time>,
}

#[derive(Debug)]
struct Waiting {
    user: UserId,
    device: Option<Device>,
    grace: std::time::Duration,
    /// Until when its user may come back.
    away: Option<Time>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            next_match: 1,
            ..Self::default()
        }
    }

    /// Whether the log has the ticket, whatever became of it.
    pub(super) fn knows(&self, id: &TicketId) -> bool {
        self.waits(id)
            || self.matched.contains_key(id)
            || self.cancelled.contains(id)
            || self.gone.contains(id)
    }

    pub(super) fn waits(&self, id: &TicketId) -> bool {
        self.waiting.contains_key(id)
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Takes in the next entry.
    pub(super) fn read(&mut self, entry: Entry) {
        self.entries += 1;
        self.clock = self.clock.max(entry.time);
        while let Some(((due, id), ())) = self.dues.first_key_value() {
            if *due > self.clock {
                break;
            }
            let id = *id;
            self.end(&id);
            self.gone.insert(id);
        }
        match entry.body {
            Body::Submitted(ticket) => self.on_submitted(ticket),
            Body::Cancelled(id) => {
                if self.end(&id).is_some() {
                    self.cancelled.insert(id);
                }
            }
            Body::Dropped { ticket, user } => {
                let is_its = |waiting: &Waiting| waiting.user == user;
                if self.waiting.get(&ticket).is_some_and(is_its) {
                    self.drop_user(&ticket);
                }
            }
            Body::Returned {
                ticket,
                user,
                device,
            } => self.on_returned(&ticket, &user, device),
            Body::NodeLost { node, incarnation } => self.on_node_lost(&node, incarnation),
            Body::Claimed(matches) => {
                for formed in matches {
                    let is_next = formed.id.0 == self.next_match;
                    self.next_match += u64::from(is_next);
                    self.on_claim(is_next, &formed);
                }
            }
            Body::Seated(seated) => {
                for id in seated {
                    // Who was put back once, stays so.
                    if self.begun.get(&id).is_some_and(|begun| !begun.is_empty()) {
                        self.begun.remove(&id);
                    }
                }
            }
            Body::Unseated(id) => self.on_unseated(id),
            // This pool asks nobody whether it is ready, and its matches take nobody in later.
            Body::Changed { .. }
            | Body::Reached { .. }
            | Body::Answered { .. }
            | Body::Backfill(_)
            | Body::Renewed { .. }
            | Body::Closed(_)
            | Body::Ticked => {}
        }
    }

    fn on_submitted(&mut self, ticket: tombolo_match::Ticket) {
        let [player] = ticket.players.as_slice() else {
            return;
        };
        let is_repeated = self.waiting.contains_key(&ticket.id) || self.remembers(&ticket.id);
        if is_repeated || self.by_user.contains_key(&player.user) || self.is_lost(&player.device) {
            return;
        }
        self.by_user.insert(player.user.clone(), ticket.id);
        let waiting = Waiting {
            user: player.user.clone(),
            device: player.device.clone(),
            grace: ticket.grace,
            away: None,
        };
        self.waiting.insert(ticket.id, waiting);
    }

    fn on_returned(&mut self, id: &TicketId, user: &UserId, device: Option<Device>) {
        let is_lost = self.is_lost(&device);
        let Some(waiting) = self.waiting.get_mut(id) else {
            return;
        };
        if waiting.user != *user || is_lost {
            return;
        }
        if device.is_some() {
            waiting.device = device;
        }
        if let Some(until) = waiting.away.take() {
            self.dues.remove(&(until, *id));
        }
    }

    fn on_node_lost(&mut self, node: &NodeId, incarnation: u64) {
        let last = self.lost_by_node.entry(node.clone()).or_default();
        if *last >= incarnation {
            return;
        }
        *last = incarnation;
        let is_there = |device: &Device| device.node == *node && device.incarnation <= incarnation;
        let lost = self.waiting.iter();
        let lost = lost.filter(|(_, waiting)| waiting.device.as_ref().is_some_and(is_there));
        let lost: Vec<_> = lost.map(|(id, _)| *id).collect();
        for id in lost {
            self.drop_user(&id);
        }
    }

    fn on_claim(&mut self, is_next: bool, formed: &Formed) {
        let tickets: Vec<_> = formed.parties().map(|party| party.ticket).collect();
        let is_free = |id: &TicketId| {
            let waiting = self.waiting.get(id);
            waiting.is_some_and(|waiting| waiting.away.is_none())
        };
        let different: HashSet<_> = tickets.iter().collect();
        let is_good = is_next && different.len() == tickets.len() && tickets.iter().all(is_free);
        let Some(first) = tickets.first().filter(|_| is_good) else {
            self.claims_refused += 1;
            return;
        };
        let mut begun = Vec::new();
        for id in &tickets {
            begun.extend(self.end(id).map(|waiting| (*id, waiting)));
            let before = self.matched.insert(*id, *first);
            self.matched_twice += u64::from(before.is_some());
        }
        self.begun.insert(formed.id, begun);
        self.matches += 1;
        self.last_match = Some(Instant::now());
    }

    fn drop_user(&mut self, id: &TicketId) {
        let Some(waiting) = self.waiting.get_mut(id) else {
            return;
        };
        if waiting.away.is_some() {
            return;
        }
        let until = self.clock.after(waiting.grace);
        waiting.away = Some(until);
        self.dues.insert((until, *id), ());
    }

    /// The tickets of a match without seats wait again, if their users have no others.
    fn on_unseated(&mut self, id: MatchId) {
        let Some(begun) = self.begun.get_mut(&id).map(std::mem::take) else {
            return;
        };
        self.matches -= u64::from(!begun.is_empty());
        for (id, waiting) in begun {
            self.matched.remove(&id);
            if self.by_user.contains_key(&waiting.user) {
                self.cancelled.insert(id);
                continue;
            }
            let is_lost = self.is_lost(&waiting.device);
            self.by_user.insert(waiting.user.clone(), id);
            self.waiting.insert(id, waiting);
            if is_lost {
                self.drop_user(&id);
            }
        }
    }

    /// Takes a ticket out, if it is there.
    fn end(&mut self, id: &TicketId) -> Option<Waiting> {
        let waiting = self.waiting.remove(id)?;
        self.by_user.remove(&waiting.user);
        if let Some(until) = waiting.away {
            self.dues.remove(&(until, *id));
        }
        let (all, order) = &mut self.remembered.last;
        if all.insert(*id) {
            order.push_back(*id);
        }
        if order.len() > ENDED_LAST_MAX
            && let Some(first) = order.pop_front()
        {
            all.remove(&first);
        }
        let until = self.clock.after(waiting.grace.max(BEGUN_KEPT));
        self.remembered.until.insert(*id, until);
        Some(waiting)
    }

    fn remembers(&self, id: &TicketId) -> bool {
        let until = self.remembered.until.get(id);
        let may_come = until.is_some_and(|until| *until > self.clock);
        self.remembered.last.0.contains(id) || may_come
    }

    fn is_lost(&self, device: &Option<Device>) -> bool {
        let device = device.as_ref();
        device.is_some_and(|device| {
            let lost = self.lost_by_node.get(&device.node);
            lost.is_some_and(|lost| device.incarnation <= *lost)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tombolo_match::{Party, Player, SessionId, Side, Ticket};

    use super::*;

    #[test]
    fn a_claim_of_tickets_that_wait_counts_once_and_a_later_one_of_them_does_not() {
        let mut reader = Reader::new();
        for number in 1..=4 {
            reader.read(submitted(0, number, "a", 1));
        }
        reader.read(claimed(1, 1, &[1, 2]));
        reader.read(claimed(2, 2, &[2, 3]));
        reader.read(claimed(2, 2, &[3, 4]));
        assert_eq!((reader.matches, reader.claims_refused), (1, 2));
        assert_eq!(reader.matched[&id(2)], id(1));
        assert!(reader.waits(&id(3)) && reader.waits(&id(4)));
        // A number whose match came to nothing is used up.
        reader.read(claimed(3, 3, &[3, 4]));
        assert_eq!((reader.matches, reader.waiting_count()), (2, 0));
        assert_eq!(reader.matched_twice, 0);
    }

    #[test]
    fn tickets_of_a_match_without_seats_wait_again_unless_it_was_said_that_it_has_them() {
        let mut reader = Reader::new();
        for number in 1..=4 {
            reader.read(submitted(0, number, "a", 1));
        }
        reader.read(claimed(1, 1, &[1, 2]));
        reader.read(claimed(1, 2, &[3, 4]));
        reader.read(entry(2, Body::Seated(vec![MatchId(1)])));
        for number in [1, 2, 2] {
            reader.read(entry(2, Body::Unseated(MatchId(number))));
        }
        reader.read(entry(2, Body::Seated(vec![MatchId(2)])));
        assert_eq!((reader.matches, reader.waiting_count()), (1, 2));
        reader.read(claimed(3, 3, &[3, 4]));
        assert_eq!((reader.matches, reader.matched_twice), (2, 0));
    }

    #[test]
    fn a_ticket_that_comes_anew_and_is_matched_again_is_found() {
        let mut reader = Reader::new();
        reader.read(submitted(0, 1, "a", 1));
        reader.read(claimed(0, 1, &[1]));
        reader.read(submitted(0, 1, "a", 1));
        assert!(!reader.waits(&id(1)), "a repetition is refused");
        // Not even one that pools have forgotten goes unnoticed.
        reader.remembered = Remembered::default();
        reader.read(submitted(0, 1, "a", 1));
        reader.read(claimed(0, 2, &[1]));
        assert_eq!(reader.matched_twice, 1);
    }

    #[test]
    fn who_was_on_a_lost_node_may_come_back_within_its_grace() {
        let mut reader = Reader::new();
        for number in 1..=3 {
            reader.read(submitted(0, number, "a", 7));
        }
        let node = node("a");
        let body = Body::NodeLost {
            node,
            incarnation: 7,
        };
        reader.read(entry(1, body));
        reader.read(submitted(1, 9, "a", 7));
        assert!(
            !reader.knows(&id(9)),
            "what a lost life says comes too late"
        );
        reader.read(claimed(2, 1, &[1, 2]));
        assert_eq!(reader.claims_refused, 1);
        let device = Some(device("b", 1));
        for number in [1, 2] {
            let body = Body::Returned {
                ticket: id(number),
                user: user(number),
                device: device.clone(),
            };
            reader.read(entry(3, body));
        }
        reader.read(claimed(4, 2, &[1, 2]));
        assert_eq!(reader.matches, 1);
        reader.read(entry(1000, Body::Ticked));
        assert!(reader.gone.contains(&id(3)) && reader.knows(&id(3)));
        assert_eq!(reader.waiting_count(), 0);
    }

    fn entry(seconds: u64, body: Body) -> Entry {
        Entry {
            time: Time::from_millis(seconds * 1000),
            body,
        }
    }

    fn id(number: u128) -> TicketId {
        TicketId(number.to_be_bytes())
    }

    fn user(number: u128) -> UserId {
        UserId::parse(&format!("u{number}")).unwrap()
    }

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn device(name: &str, incarnation: u64) -> Device {
        Device {
            session: SessionId([1; 16]),
            node: node(name),
            incarnation,
        }
    }

    fn submitted(seconds: u64, number: u128, node: &str, incarnation: u64) -> Entry {
        let mut player = Player::new(user(number));
        player.device = Some(device(node, incarnation));
        let ticket = Ticket {
            grace: Duration::from_secs(30),
            ..Ticket::new(id(number), vec![player])
        };
        entry(seconds, Body::Submitted(ticket))
    }

    fn claimed(seconds: u64, number: u64, tickets: &[u128]) -> Entry {
        let parties = tickets.iter().map(|number| Party {
            ticket: id(*number),
            revision: 0,
            users: vec![(user(*number), None)],
        });
        let formed = Formed {
            id: MatchId(number),
            backfill: None,
            sides: vec![Side {
                team: tombolo_match::Name::parse("players").unwrap(),
                parties: parties.collect(),
            }],
            region: None,
            host: None,
            quality: 1000,
            awaits_seats: true,
        };
        entry(seconds, Body::Claimed(vec![formed]))
    }
}
