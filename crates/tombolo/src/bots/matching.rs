//! Bots that look for matches: alone, or as a party that comes together first.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use tokio::time::timeout;
use tombolo_client::{
    Backfill, BackfillStatus, Device, Match, Player, Room, RoomOptions, Ticket, TicketBuilder,
    TicketEvent,
};

use super::bot::{Bot, Run};
use super::character::Character;
use super::scenario::{Seek, Share};
use super::tally::{Operation, code};

impl Bot {
    /// Hands in a ticket and waits for its match.
    pub(super) async fn seek(
        &self,
        device: &Device,
        seek: &Seek,
        dice: &mut ChaCha8Rng,
    ) -> Option<Match> {
        // The party's room is left with the end of its ticket, so that it comes together anew for the next.
        let (ticket, _party) = match seek.party {
            ..=1 => (self.submit(self.ticket(device, seek)).await?, None),
            _ => {
                let (ticket, party) = self.look_together(device, seek, dice).await?;
                (ticket, Some(party))
            }
        };
        // Bots meet in rooms only.
        let mut ticket = ticket.links_max(0);
        let tally = &self.run.tally;
        let since = Instant::now();
        tally.start(Operation::Match);
        let waits = async {
            loop {
                match ticket.next_event().await? {
                    TicketEvent::Proposed(proposal) => {
                        let answered = match dice.random::<f64>() < seek.accept.0 {
                            true => ticket.accept(proposal).await,
                            false => ticket.decline(proposal).await,
                        };
                        // Too late is what it is when the others were quicker to say no.
                        if let Err(error) = answered {
                            tracing::debug!(user = self.character.user, %error, "a ready check was over");
                        }
                    }
                    TicketEvent::Found(found) => return Ok(Ok(*found)),
                    TicketEvent::Ended(reason) => return Ok(Err(reason)),
                    TicketEvent::Waits(_)
                    | TicketEvent::Accepted { .. }
                    | TicketEvent::Failed
                    | _ => {}
                }
            }
        };
        match timeout(seek.give_up.duration(), waits).await {
            Ok(Ok(Ok(found))) => {
                tally.done(Operation::Match, since);
                Some(found)
            }
            Ok(Ok(Err(reason))) => {
                let word = ENDS.iter().find(|word| **word == reason);
                self.failed(Operation::Match, word.copied().unwrap_or("ended"), &reason);
                None
            }
            Ok(Err(error)) => {
                self.failed(Operation::Match, &code(&error), &error.to_string());
                None
            }
            Err(_) => {
                self.failed(Operation::Match, "no_match", "no match in time");
                // Otherwise the next ticket might come before this one has gone.
                if let Err(error) = ticket.cancel().await {
                    tracing::debug!(user = self.character.user, %error, "a ticket was over");
                }
                None
            }
        }
    }

    /// A ticket of this bot alone, or of its party.
    fn ticket<'d>(&self, device: &'d Device, seek: &Seek) -> TicketBuilder<'d> {
        let mut ticket = device.matchmaker().ticket(&seek.pool).query(&seek.query);
        for (name, value) in &self.character.attributes {
            ticket = ticket.attribute(name, value.clone());
        }
        for role in &self.character.roles {
            ticket = ticket.role(role);
        }
        for tag in &self.character.tags {
            ticket = ticket.tag(tag);
        }
        ticket
    }

    async fn submit(&self, ticket: TicketBuilder<'_>) -> Option<Ticket> {
        self.run.tally.start(Operation::Submit);
        let since = Instant::now();
        self.ended(Operation::Submit, since, ticket.submit().await)
    }

    /// Comes together with its party, one of which hands in the ticket of all.
    async fn look_together(
        &self,
        device: &Device,
        seek: &Seek,
        dice: &mut ChaCha8Rng,
    ) -> Option<(Ticket, Room)> {
        let Run {
            scenario, tally, ..
        } = &*self.run;
        tally.start(Operation::Party);
        let since = Instant::now();
        let options = RoomOptions {
            members_max: seek.party,
            ..RoomOptions::default()
        };
        let name = scenario.party_room(self.number);
        let party = match device.rooms().join_or_create(&name, options).await {
            Ok(party) => party,
            Err(error) => {
                self.failed(Operation::Party, &code(&error), &error.to_string());
                return None;
            }
        };
        let Some(gathered) = gather(device, &party, seek.party).await else {
            self.failed(Operation::Party, "over", "the party's room is over");
            return None;
        };
        tally.done(Operation::Party, since);
        let ticket = match gathered {
            Gathered::Submitted(ticket) => *ticket,
            Gathered::All => {
                let others = scenario.party_of(self.number);
                let others = others.filter(|number| *number != self.number);
                let others = others.map(|number| Character::draw(scenario, number).0.player());
                let others: Vec<_> = match others.collect::<anyhow::Result<_>>() {
                    Ok(others) => others,
                    Err(error) => {
                        tally.start(Operation::Submit);
                        self.failed(Operation::Submit, "party", &format!("{error:#}"));
                        return None;
                    }
                };
                let ticket = self.ticket(device, seek).party(&party, others.clone());
                let ticket = self.submit(ticket).await?;
                if happens(seek.change, dice) {
                    self.change(&ticket, &party, others).await;
                }
                ticket
            }
        };
        Some((ticket, party))
    }

    /// Says of a party's ticket that waits who is in it, and what they are like: the same as before.
    async fn change(&self, ticket: &Ticket, party: &Room, mut all: Vec<Player>) {
        let tally = &self.run.tally;
        tally.start(Operation::Change);
        let since = Instant::now();
        match self.character.player() {
            Ok(own) => all.push(own),
            Err(error) => return self.failed(Operation::Change, "party", &format!("{error:#}")),
        }
        let changed = ticket.change_party(party, all).await;
        self.ended(Operation::Change, since, changed);
    }

    /// Asks for more users of a match that begins, if this bot owns its room.
    pub(super) async fn ask_for_more(
        &self,
        device: &Device,
        found: &Match,
        seek: &Seek,
        dice: &mut ChaCha8Rng,
    ) -> Option<Asked> {
        if found.is_running || !happens(seek.backfill, dice) {
            return None;
        }
        // Who owns it is told behind who is in it.
        let owner = loop {
            match found.room.read(|view| view.owner.clone()) {
                Some(owner) => break owner,
                None => _ = found.room.next_event().await?,
            }
        };
        if owner != device.session().user {
            return None;
        }
        let teams = found.teams.iter().map(|team| {
            let members = team.members.iter().map(|(user, _)| user.clone());
            let parties = members.map(|user| vec![Player::new(user)]);
            (team.name.clone(), parties.collect())
        });
        let since = Instant::now();
        self.run.tally.start(Operation::Backfill);
        match found.backfill(teams.collect(), LEASE).await {
            Ok(backfill) => Some(Asked { backfill, since }),
            Err(error) => {
                self.failed(Operation::Backfill, &code(&error), &error.to_string());
                None
            }
        }
    }

    /// Waits for somebody to join the match, and keeps its place open then.
    pub(super) async fn fill(&self, asked: Option<Asked>) -> Infallible {
        if let Some(Asked { backfill, since }) = &asked {
            let status = match backfill.status() {
                status if has_joined(&status) => Some(status),
                _ => backfill.changed().await,
            };
            match status {
                Some(status) if has_joined(&status) => {
                    self.run.tally.done(Operation::Backfill, *since);
                }
                Some(BackfillStatus { ended, .. }) => {
                    let reason = ended.unwrap_or_default();
                    self.failed(Operation::Backfill, "ended", &reason);
                }
                None => {}
            }
        }
        std::future::pending().await
    }
}

/// A match that asks for more users, and since when.
pub(super) struct Asked {
    backfill: Backfill,
    since: Instant,
}

/// The first generation is the asking.
fn has_joined(status: &BackfillStatus) -> bool {
    status.generation > 1 || status.ended.as_deref() == Some("filled")
}

/// Whether what happens to a part of all happens now. What never happens leaves the dice as they are.
fn happens(share: Share, dice: &mut ChaCha8Rng) -> bool {
    share.0 > 0.0 && dice.random::<f64>() < share.0
}

/// How a party has come together.
enum Gathered {
    /// All are there, and this bot hands in their ticket.
    All,
    /// Another has handed it in.
    Submitted(Box<Ticket>),
}

/// Waits until a party is complete, and for its ticket, unless this device is to hand it in; `None` when it is over.
async fn gather(device: &Device, party: &Room, size: u32) -> Option<Gathered> {
    let (own, matchmaker) = (device.session().user, device.matchmaker());
    let is_to_submit = || {
        let is_own = party.read(|view| view.owner.as_ref() == Some(&own));
        is_own && party.members().len() == size as usize
    };
    while !is_to_submit() {
        tokio::select! {
            Some(ticket) = matchmaker.next_ticket() => return Some(Gathered::Submitted(Box::new(ticket))),
            event = party.next_event() => {
                event?;
            }
        }
    }
    Some(Gathered::All)
}

/// How tickets end without a match.
const ENDS: [&str; 5] = ["cancelled", "gone", "declined", "unanswered", "lost"];

/// How long a match asks for more users when nothing is heard of its bot.
const LEASE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use tombolo_node::Node;

    use super::*;

    #[tokio::test]
    async fn a_bot_that_is_put_out_of_its_partys_room_waits_for_nobody_there() {
        let node = Node::builder().dev().listen([127, 0, 0, 1].into());
        let node = node.port(0).turn_port(0).turns_port(0).start().await;
        let node = node.expect("a node");
        let url = node.ready().url.to_string();
        let device = async |user: &str| {
            let device = Device::builder(&url).development_user(user).connect();
            device.await.expect("a device")
        };
        let (alice, bob) = (device("alice").await, device("bob").await);
        let join = async |device: &Device| {
            let rooms = device.rooms();
            let party = rooms.join_or_create("party-1", RoomOptions::default());
            party.await.expect("the party's room")
        };
        let (of_alice, of_bob) = (join(&alice).await, join(&bob).await);
        let bobs_user = bob.session().user;
        let gathering = timeout(Duration::from_secs(30), gather(&bob, &of_bob, 3));
        let (gathered, kicked) = tokio::join!(gathering, of_alice.kick(&bobs_user));
        kicked.expect("alice owns the room");
        assert!(gathered.expect("it does not wait on").is_none());
    }
}
