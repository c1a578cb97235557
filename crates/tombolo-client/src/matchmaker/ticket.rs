//! A ticket that waits in a pool.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tombolo_match::{Player, Reach, TicketId};
use tombolo_wire::UserId;
use tombolo_wire::v1::{self, ErrorCode, match_event, match_request, match_response};

use super::found::Match;
use super::{ask, other_question};
use crate::device::Device;
use crate::error::Error;
use crate::retry::{patiently, persistently_for, to_the_end};
use crate::room::{Room, RoomOptions};
use crate::session;

/// A ticket that waits in a pool, of this device's user or of a party with it. Dropping it cancels it,
/// unless it has ended.
#[derive(Debug)]
pub struct Ticket {
    device: Device,
    state: Arc<TicketState>,
    options: RoomOptions,
    links_max: usize,
    /// The match that was found, until the application has it.
    joining: Option<Joining>,
}

/// A match whose room is joined, whoever waits for that.
#[derive(Debug)]
struct Joining {
    found: v1::MatchFound,
    room: JoinHandle<Result<Room, Error>>,
}

/// Something became of a ticket.
#[derive(Debug)]
#[non_exhaustive]
pub enum TicketEvent {
    /// It waits, and stands otherwise than before.
    Waits(TicketStatus),
    /// The user is asked whether it is ready: see [`Ticket::accept`].
    Proposed(Proposal),
    /// Another user of the proposed match is ready, or this one.
    Accepted {
        /// How many are.
        ready: u32,
        /// How many must be.
        users: u32,
    },
    /// Not all were ready, or a running match had no place: the ticket looks on, where it was.
    Failed,
    /// The match begins, and this device is in its room. Nothing follows.
    Found(Box<Match>),
    /// It has ended without a match: `cancelled`, `gone`, `declined`, `unanswered`, or `lost` when nobody
    /// knows what became of it. Nothing follows.
    Ended(String),
}

/// How a ticket stands that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TicketStatus {
    /// How many tickets wait in the pool.
    pub waiting: u32,
    /// Half of those like it waited less; `None` when nobody like it was matched lately.
    pub half_wait: Option<Duration>,
    /// Nine of ten of those like it waited less.
    pub most_wait: Option<Duration>,
    /// Users of it that are away: it is not matched meanwhile.
    pub away: Vec<UserId>,
}

/// A match that waits for its users to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proposal {
    /// Which.
    pub number: u64,
    /// How many users are asked.
    pub users: u32,
    /// How long they have.
    pub left: Duration,
}

/// Why a ticket has not found a match; see [`Ticket::why`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WhyNot {
    /// How many others were looked at.
    pub looked_at: u32,
    /// How many of them fit: when there are some, there are too few.
    pub fit: u32,
    /// What stands in the way, the most frequent first.
    pub obstacles: Vec<Obstacle>,
    /// What stands in the way of the one that nearly fits.
    pub nearest: Vec<String>,
    /// In what time somebody will fit, if both only wait, or those who fit are enough.
    pub relaxed_after: Option<Duration>,
    /// What stands in the way until then: the rules that widen, or `teams` where fewer users are enough.
    pub relaxed: Vec<String>,
    /// The match that it has, but which waits for a better one.
    pub settling: Option<Settling>,
}

/// A match that waits for a better one, as its pool's rules let it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settling {
    /// From 0 to 1000.
    pub quality: u32,
    /// In what time it begins as it is, if nobody better comes.
    pub after: Duration,
}

/// What stands in the way of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Obstacle {
    /// `rule:<name>`, `query`, `their query` or `teams`.
    pub what: String,
    /// In the way of how many.
    pub count: u32,
    /// How many of those would fit without.
    pub alone: u32,
}

impl Ticket {
    pub(super) fn new(device: &Device, state: Arc<TicketState>) -> Self {
        Self {
            device: device.clone(),
            state,
            options: RoomOptions::default(),
            links_max: LINKS_MAX,
            joining: None,
        }
    }

    /// Says how links to the match's members are to behave, when its room is joined.
    #[must_use]
    pub fn room_options(mut self, options: RoomOptions) -> Self {
        self.options = options;
        self
    }

    /// With how many others of its match the device is linked by itself, see [`Match::next_peer`]: with all of them, or with
    /// the match's host when they are more. 8 unless said otherwise; 0 links with nobody.
    #[must_use]
    pub fn links_max(mut self, count: usize) -> Self {
        self.links_max = count;
        self
    }

    /// Which it is.
    #[must_use]
    pub fn id(&self) -> TicketId {
        self.state.id
    }

    /// The pool in which it waits.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.state.pool
    }

    /// What becomes of the ticket next. When its match begins, the match's room is joined before this returns. Nothing
    /// is lost when it is given up before: the next call goes on.
    ///
    /// # Errors
    /// When the room of the match cannot be joined, the ticket has ended before, or the session is
    /// over.
    pub async fn next_event(&mut self) -> Result<TicketEvent, Error> {
        if self.joining.is_some() {
            return self.joined().await;
        }
        let kind = self.state.next().await;
        let kind = kind.ok_or_else(|| Error::closed("the ticket has ended"))?;
        Ok(match kind {
            match_event::Kind::Status(status) => TicketEvent::Waits(parse_status(&status)),
            match_event::Kind::Proposed(proposed) => TicketEvent::Proposed(Proposal {
                number: proposed.number,
                users: proposed.users,
                left: Duration::from_millis(proposed.left_ms),
            }),
            match_event::Kind::Accepted(accepted) => TicketEvent::Accepted {
                ready: accepted.ready,
                users: accepted.users,
            },
            match_event::Kind::Failed(_) => TicketEvent::Failed,
            match_event::Kind::Found(found) => {
                self.begin_to_join(found);
                return self.joined().await;
            }
            match_event::Kind::Ended(ended) => TicketEvent::Ended(ended.reason),
            match_event::Kind::Backfill(_) => return Err(other_question()),
        })
    }

    /// Whoever leaves a match's room does not get into it again: that must not follow from giving up to wait.
    fn begin_to_join(&mut self, found: v1::MatchFound) {
        let (device, options) = (self.device.clone(), self.options.clone());
        let room = found.room.clone();
        let join = async move {
            let rooms = device.rooms();
            rooms.join_for_good(&room, options).await
        };
        self.joining = Some(Joining {
            found,
            room: tokio::spawn(join),
        });
    }

    async fn joined(&mut self) -> Result<TicketEvent, Error> {
        let room = match &mut self.joining {
            Some(joining) => (&mut joining.room).await,
            None => return Err(Error::closed("the ticket has ended")),
        };
        let joining = self.joining.take();
        let joining = joining.ok_or_else(|| Error::closed("the ticket has ended"))?;
        let room = room.map_err(Error::local)??;
        let found = Match::new(self.pool(), room, joining.found, self.links_max)?;
        Ok(TicketEvent::Found(Box::new(found)))
    }

    /// Waits for the match, and says that this device's user is ready when it is asked.
    ///
    /// # Errors
    /// When the ticket ends without a match, its room cannot be joined, or the session is over.
    pub async fn found(mut self) -> Result<Match, Error> {
        loop {
            match self.next_event().await? {
                TicketEvent::Found(found) => return Ok(*found),
                TicketEvent::Ended(reason) => {
                    return Err(Error::closed(&format!("the ticket has ended: {reason}")));
                }
                TicketEvent::Proposed(proposal) => match self.accept(proposal).await {
                    // What becomes of the ticket then is told: others were quicker, or the node is gone.
                    Err(error) if is_told(&error) => {}
                    answered => answered?,
                },
                TicketEvent::Waits(_) | TicketEvent::Accepted { .. } | TicketEvent::Failed => {}
            }
        }
    }

    /// Says that this device's user is ready; says it again while something passing stands in the way, for as long as its
    /// users have.
    ///
    /// # Errors
    /// With code `NoSuchThing` when it is too late; when the node cannot be reached meanwhile. The ticket may look on all
    /// the same: that is told.
    pub async fn accept(&self, proposal: Proposal) -> Result<(), Error> {
        self.answer(proposal, true).await
    }

    /// Says that this device's user is not ready: its ticket ends, the others look on.
    ///
    /// # Errors
    /// As [`Ticket::accept`].
    pub async fn decline(&self, proposal: Proposal) -> Result<(), Error> {
        self.answer(proposal, false).await
    }

    async fn answer(&self, proposal: Proposal, accept: bool) -> Result<(), Error> {
        let number = proposal.number;
        let answer = match_request::Kind::Answer(v1::AnswerMatch { number, accept });
        let answered = persistently_for(proposal.left, || self.ask(answer.clone()));
        answered.await.map(drop)
    }

    /// Says who is in the party now; the ticket keeps its place. This device's user must have submitted it and be among
    /// them, and all in the room.
    ///
    /// # Errors
    /// As [`TicketBuilder::submit`](super::TicketBuilder::submit); with code `NotPermitted` when another user has submitted
    /// it, `Conflict` when its users are asked whether they are ready.
    pub async fn change_party(
        &self,
        room: &Room,
        players: impl IntoIterator<Item = Player>,
    ) -> Result<TicketStatus, Error> {
        let mut players: Vec<_> = players.into_iter().collect();
        // Whose ticket it is comes first.
        let own = self.device.session().user;
        players.sort_by_key(|player| player.user != own);
        let change = v1::ChangeTicket {
            id: self.state.id_on_wire(),
            players: players.iter().map(v1::MatchPlayer::from).collect(),
            party: room.id().to_string(),
        };
        let asked = match_request::Kind::Change(change.clone());
        match self.ask(asked).await? {
            match_response::Result::Status(status) => {
                self.state.has_changed(change);
                Ok(parse_status(&status))
            }
            match_response::Result::Done(_)
            | match_response::Result::Why(_)
            | match_response::Result::Backfill(_) => Err(other_question()),
        }
    }

    /// Why it has not found a match by now.
    ///
    /// # Errors
    /// With code `NoSuchThing` when it has ended; when the node cannot be reached.
    pub async fn why(&self) -> Result<WhyNot, Error> {
        let why = match_request::Kind::Why(v1::WhyNoMatch {
            id: self.state.id_on_wire(),
        });
        match self.ask(why).await? {
            match_response::Result::Why(why) => Ok(WhyNot {
                looked_at: why.looked_at,
                fit: why.fit,
                obstacles: why.obstacles.into_iter().map(parse_obstacle).collect(),
                nearest: why.nearest,
                relaxed_after: why.relaxed_after_ms.map(Duration::from_millis),
                relaxed: why.relaxed,
                settling: why.settling_quality.map(|quality| Settling {
                    quality,
                    after: Duration::from_millis(why.settled_after_ms.unwrap_or(0)),
                }),
            }),
            match_response::Result::Done(_)
            | match_response::Result::Status(_)
            | match_response::Result::Backfill(_) => Err(other_question()),
        }
    }

    /// Ends the ticket, for all of its party; returns when that is done. While the cluster cannot do it, it is asked
    /// again, for a minute at most, also when this is not waited for. A user that is asked whether it is ready is not.
    ///
    /// # Errors
    /// With code `NoSuchThing` when it has ended; when the session is over.
    pub async fn cancel(self) -> Result<(), Error> {
        let session = &self.device.0.session;
        let cancelling = self.state.begin_to_cancel(session).await?;
        self.state.end();
        to_the_end(cancelling).await
    }

    async fn ask(&self, kind: match_request::Kind) -> Result<match_response::Result, Error> {
        ask(&self.device.0.session, &self.state.pool, kind).await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(joining) = &self.joining {
            joining.room.abort();
        }
        let shared = &self.device.0;
        shared.matchmaker.lock().drop_ticket(self.state.id);
        if !self.state.end() {
            self.state.cancel_aside(&shared.session);
        }
    }
}

/// What the device keeps of a ticket.
#[derive(Debug)]
pub(super) struct TicketState {
    pub(super) pool: String,
    pub(super) id: TicketId,
    /// How it was submitted, with the party that it has by now; `None` when another device did it.
    submit: Mutex<Option<v1::SubmitTicket>>,
    /// How the device is reached, as was said last; `None` when the application says it.
    reach: Mutex<Option<Reach>>,
    told: Mutex<Told>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Told {
    events: VecDeque<match_event::Kind>,
    /// The match of which its users are asked whether they are ready.
    proposed: Option<u64>,
    /// Nothing more comes.
    is_over: bool,
}

impl TicketState {
    pub(super) fn new(
        pool: &str,
        id: TicketId,
        submit: Option<v1::SubmitTicket>,
        reach: Option<Reach>,
    ) -> Self {
        Self {
            pool: pool.to_owned(),
            id,
            submit: Mutex::new(submit),
            reach: Mutex::new(reach),
            told: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Submits the ticket; a node that forgets it is asked again, which its id makes harmless.
    pub(super) async fn submit(&self, session: &session::Handle) -> Result<(), Error> {
        let result = patiently(|| self.ask_to_wait(session)).await;
        if result.as_ref().is_err_and(Error::is_final) {
            self.end();
        }
        // Otherwise it may wait there all the same, and dropping it cancels it.
        result
    }

    async fn ask_to_wait(&self, session: &session::Handle) -> Result<(), Error> {
        let Some(mut submit) = self.submitted().clone() else {
            return self.ask_to_come_back(session).await;
        };
        let reach = *self.reach();
        if let (Some(reach), Some(own)) = (reach, submit.players.first_mut()) {
            own.reach = v1::MatchReach::from(reach).into();
        }
        self.ask_how_it_stands(session, submit).await?;
        let now = *self.reach();
        if let Some(now) = now.filter(|_| now != reach) {
            // It has changed meanwhile, when there was no ticket yet.
            self.say_reach(session, now).await;
        }
        Ok(())
    }

    /// Who is in the ticket comes back to it by its id alone.
    async fn ask_to_come_back(&self, session: &session::Handle) -> Result<(), Error> {
        let submit = v1::SubmitTicket {
            id: self.id_on_wire(),
            ..v1::SubmitTicket::default()
        };
        self.ask_how_it_stands(session, submit).await
    }

    async fn ask_how_it_stands(
        &self,
        session: &session::Handle,
        submit: v1::SubmitTicket,
    ) -> Result<(), Error> {
        let answer = ask(session, &self.pool, match_request::Kind::Submit(submit)).await?;
        let match_response::Result::Status(status) = answer else {
            return Err(other_question());
        };
        self.on_told(match_event::Kind::Status(status));
        Ok(())
    }

    /// Whether another device has submitted it.
    pub(super) fn is_of_others(&self) -> bool {
        self.submitted().is_none()
    }

    /// It has another party: who submits it again does so with that.
    fn has_changed(&self, change: v1::ChangeTicket) {
        if let Some(submit) = &mut *self.submitted() {
            submit.players = change.players;
            submit.party = change.party;
        }
    }

    fn submitted(&self) -> MutexGuard<'_, Option<v1::SubmitTicket>> {
        self.submit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that is another than was said last, and to be said.
    pub(super) fn is_reached_anew(&self, reach: Reach) -> bool {
        let mut said = self.reach();
        said.is_some() && said.replace(reach) != Some(reach)
    }

    /// Says how the device is reached, unless it is reached otherwise by the time that this can be said.
    pub(super) async fn say_reach(&self, session: &session::Handle, reach: Reach) {
        while !self.lock().is_over && *self.reach() == Some(reach) {
            let delay = match self.ask_reach(session, reach).await {
                Ok(()) => return,
                Err(error) => error.retry_after(),
            };
            // It has ended, or comes to be with that.
            let Some(delay) = delay else { return };
            tokio::time::sleep(delay).await;
        }
    }

    async fn ask_reach(&self, session: &session::Handle, reach: Reach) -> Result<(), Error> {
        let said = match_request::Kind::Reach(v1::SayReach {
            id: self.id_on_wire(),
            reach: v1::MatchReach::from(reach).into(),
        });
        ask(session, &self.pool, said).await.map(drop)
    }

    fn reach(&self) -> MutexGuard<'_, Option<Reach>> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes back to the ticket with another session, or over another node.
    pub(super) async fn come_back(&self, session: &session::Handle) {
        let mut delay = RETRY_DELAY_MIN;
        while !self.lock().is_over {
            let result = match self.ask_to_come_back(session).await {
                // It may never have got there.
                Err(error) if error.code() == Some(ErrorCode::NoSuchThing) => {
                    self.ask_to_wait(session).await
                }
                result => result,
            };
            match result {
                Ok(()) => return,
                // Forgotten once more: whoever was forgotten last comes back.
                Err(error) if error.is_unreachable() || error.is_closed() => return,
                Err(error) if error.is_final() => break,
                Err(_) => tokio::time::sleep(delay).await,
            }
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
        self.on_told(match_event::Kind::Ended(v1::TicketEnded {
            reason: "lost".to_owned(),
        }));
    }

    /// Never waits: of several that say how the ticket stands only the last is kept.
    pub(super) fn on_told(&self, kind: match_event::Kind) {
        let mut told = self.lock();
        // Whoever cancels it hears of this, too.
        if let match_event::Kind::Proposed(proposed) = &kind {
            told.proposed = Some(proposed.number);
        } else if let match_event::Kind::Failed(_) = &kind {
            told.proposed = None;
        }
        if told.is_over {
            return;
        }
        if matches!(kind, match_event::Kind::Status(_)) || told.events.len() >= EVENTS_MAX {
            told.events
                .retain(|kind| !matches!(kind, match_event::Kind::Status(_)));
        }
        if told.events.len() >= EVENTS_MAX {
            told.events.pop_front();
        }
        told.is_over = matches!(
            kind,
            match_event::Kind::Found(_) | match_event::Kind::Ended(_)
        );
        told.events.push_back(kind);
        drop(told);
        self.news.notify_one();
    }

    /// Ends what is told of it; whether it had ended before.
    pub(super) fn end(&self) -> bool {
        let was_over = std::mem::replace(&mut self.lock().is_over, true);
        self.news.notify_one();
        was_over
    }

    /// Whether nothing comes of it any more, and nothing has.
    pub(super) fn has_ended(&self) -> bool {
        let told = self.lock();
        let mut events = told.events.iter();
        told.is_over && !events.any(|kind| matches!(kind, match_event::Kind::Found(_)))
    }

    pub(super) fn proposed(&self) -> Option<u64> {
        self.lock().proposed
    }

    async fn next(&self) -> Option<match_event::Kind> {
        loop {
            {
                let mut told = self.lock();
                if let Some(kind) = told.events.pop_front() {
                    return Some(kind);
                }
                if told.is_over {
                    return None;
                }
            }
            self.news.notified().await;
        }
    }

    fn id_on_wire(&self) -> Bytes {
        Bytes::copy_from_slice(&self.id.0)
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an answer has come to nothing, and what becomes of the ticket is told.
fn is_told(error: &Error) -> bool {
    error.code() == Some(ErrorCode::NoSuchThing) || error.is_temporary()
}

fn parse_status(status: &v1::TicketStatus) -> TicketStatus {
    let away = status.away.iter();
    TicketStatus {
        waiting: status.waiting,
        half_wait: status.half_ms.map(Duration::from_millis),
        most_wait: status.most_ms.map(Duration::from_millis),
        away: away.filter_map(|user| UserId::parse(user).ok()).collect(),
    }
}

fn parse_obstacle(obstacle: v1::MatchObstacle) -> Obstacle {
    Obstacle {
        what: obstacle.what,
        count: obstacle.count,
        alone: obstacle.alone,
    }
}

/// Others of a match with whom a device is linked by itself, unless the application says otherwise.
const LINKS_MAX: usize = 8;

/// Things that wait to be read, of one ticket.
const EVENTS_MAX: usize = 64;

/// Between two attempts to come back to a ticket.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(250);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(4);
