//! A device that looks for a match: it has one ticket at a time, and asks for it until it knows its end.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_wire::v1::{self, ErrorCode, match_event, match_request, match_response};

use super::Violation;

/// A ticket's name.
pub(crate) type TicketName = [u8; 16];

/// The tickets of a device.
#[derive(Debug, Default)]
pub(crate) struct Seeking {
    /// The one that it has.
    ticket: Option<Ticket>,
    /// How many it has had.
    count: u64,
    /// What became of those before.
    pub(crate) ends: BTreeMap<TicketName, End>,
}

/// A ticket whose end the device does not know yet.
#[derive(Debug)]
struct Ticket {
    name: TicketName,
    /// It was acknowledged.
    is_kept: bool,
    /// The device does not want it any more.
    is_unwanted: bool,
    /// When the device asks for it, or for its end.
    ask_at: Option<Instant>,
}

/// What a device knows of a ticket's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In the room of its match, and who else is there.
    Found(String, Vec<String>),
    /// The device wanted it.
    Cancelled,
    /// Its user was away for too long.
    Gone,
    /// It was there, and has ended: no more is known of it.
    Past,
}

/// What a device asks about a ticket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Errand {
    Submit(TicketName),
    Cancel(TicketName),
}

impl Seeking {
    /// The ticket that the device has, and whether it was acknowledged.
    pub(crate) fn ticket(&self) -> Option<(TicketName, bool)> {
        let ticket = self.ticket.as_ref()?;
        Some((ticket.name, ticket.is_kept))
    }

    /// The device looks for a match, or for none any more.
    pub(crate) fn turn(&mut self, user: &str) {
        let Some(ticket) = &mut self.ticket else {
            self.count += 1;
            let mut name = [0; 16];
            let parts = user.bytes().cycle().take(8).chain(self.count.to_be_bytes());
            name.iter_mut()
                .zip(parts)
                .for_each(|(byte, part)| *byte = part);
            self.ticket = Some(Ticket {
                name,
                is_kept: false,
                is_unwanted: false,
                ask_at: Some(Instant::now()),
            });
            return;
        };
        if ticket.is_kept && !ticket.is_unwanted {
            (ticket.is_unwanted, ticket.ask_at) = (true, Some(Instant::now()));
        }
    }

    /// What is to be asked now.
    pub(super) fn poll(&mut self) -> Option<Errand> {
        let ticket = self.ticket.as_mut()?;
        ticket.ask_at.filter(|at| *at <= Instant::now())?;
        ticket.ask_at = None;
        Some(match ticket.is_unwanted && ticket.is_kept {
            true => Errand::Cancel(ticket.name),
            false => Errand::Submit(ticket.name),
        })
    }

    /// A session begins, which is told of no ticket that it does not name.
    pub(super) fn on_new_session(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            // What was asked for is forgotten, but not what it is about.
            ticket.is_kept &= ticket.is_unwanted;
            ticket.ask_at = Some(Instant::now());
        }
    }

    /// The session goes on over another node: the one before may have told nothing of what has become of the ticket.
    pub(super) fn on_other_node(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.ask_at = Some(Instant::now());
        }
    }

    pub(super) fn on_answer(
        &mut self,
        errand: Errand,
        result: Result<Option<match_response::Result>, ErrorCode>,
    ) -> Result<(), Violation> {
        let (Errand::Submit(name) | Errand::Cancel(name)) = errand;
        let Some(ticket) = self.ticket.as_mut().filter(|ticket| ticket.name == name) else {
            return Ok(());
        };
        match (errand, result) {
            (Errand::Submit(_), Ok(Some(match_response::Result::Status(_)))) => {
                ticket.is_kept = true;
                if ticket.is_unwanted {
                    ticket.ask_at = Some(Instant::now());
                }
            }
            (Errand::Cancel(_), Ok(Some(match_response::Result::Done(_)))) => {
                return self.on_end(name, End::Cancelled);
            }
            (Errand::Submit(_), Err(ErrorCode::Conflict)) => return self.on_end(name, End::Past),
            // It has found a match, or has ended: whoever names it again learns that.
            (Errand::Cancel(_), Err(ErrorCode::NoSuchThing)) => {
                ticket.is_kept = false;
                ticket.ask_at = Some(Instant::now() + PAUSE);
            }
            (
                _,
                Err(
                    ErrorCode::Unavailable
                    | ErrorCode::Unsure
                    | ErrorCode::Limit
                    | ErrorCode::Elsewhere,
                ),
            ) => ticket.ask_at = Some(Instant::now() + PAUSE),
            (_, result) => return Err(format!("{errand:?} is answered {result:?}")),
        }
        Ok(())
    }

    pub(super) fn on_event(&mut self, event: v1::MatchEvent) -> Result<(), Violation> {
        let name = event.ticket.as_ref().try_into();
        let name: TicketName = name.map_err(|_| format!("no ticket has the name {event:?}"))?;
        match event.kind {
            Some(match_event::Kind::Found(found)) => {
                let members = found.teams.into_iter().flat_map(|team| team.members);
                let members = members.map(|member| member.user).collect();
                self.on_end(name, End::Found(found.room, members))
            }
            Some(match_event::Kind::Ended(ended)) => match ended.reason.as_str() {
                "cancelled" => self.on_end(name, End::Cancelled),
                "gone" => self.on_end(name, End::Gone),
                reason => Err(format!("its ticket is {reason}")),
            },
            _ => Ok(()),
        }
    }

    /// A ticket has one end, whatever the device is told.
    fn on_end(&mut self, name: TicketName, end: End) -> Result<(), Violation> {
        if let Some(known) = self.ends.get(&name)
            && *known != end
            && ![known, &end].contains(&&End::Past)
        {
            return Err(format!("its ticket has ended as {known:?}, and as {end:?}"));
        }
        if self
            .ticket
            .as_ref()
            .is_some_and(|ticket| ticket.name == name)
        {
            self.ticket = None;
        }
        let known = self.ends.entry(name).or_insert_with(|| end.clone());
        if *known == End::Past {
            *known = end;
        }
        Ok(())
    }
}

impl Errand {
    pub(super) fn on_wire(self, user: &str) -> v1::MatchRequest {
        let kind = match self {
            Self::Submit(name) => {
                let player = v1::MatchPlayer {
                    user: user.to_owned(),
                    ..v1::MatchPlayer::default()
                };
                match_request::Kind::Submit(v1::SubmitTicket {
                    id: name.to_vec().into(),
                    players: vec![player],
                    grace_ms: 20_000,
                    ..v1::SubmitTicket::default()
                })
            }
            Self::Cancel(name) => match_request::Kind::Cancel(v1::CancelTicket {
                id: name.to_vec().into(),
            }),
        };
        v1::MatchRequest {
            pool: "duel".to_owned(),
            kind: Some(kind),
        }
    }
}

/// Between two times that a device asks.
const PAUSE: Duration = Duration::from_millis(250);
