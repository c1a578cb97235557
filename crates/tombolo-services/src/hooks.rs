//! Where a game's own code has a say.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tombolo_field::{Sight, Subject};
use tombolo_match::{Name, Ticket};
use tombolo_room::Settings;
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{CommandName, FieldId, RoomId, UserId};

use crate::field::FieldPass;
use crate::lock::lock;
use crate::node::Node;
use crate::reject::Reject;

/// What a hook will have decided.
pub type Decision = Pin<Box<dyn Future<Output = Result<(), Reject>> + Send>>;

/// What a hook will have decided about a field: as what the device comes in.
pub type Marking = Pin<Box<dyn Future<Output = Result<FieldPass, Reject>> + Send>>;

/// What a hook will have made of a ticket.
pub type Admission = Pin<Box<dyn Future<Output = Result<Ticket, Reject>> + Send>>;

/// What a hook will have answered.
pub type Reply = Pin<Box<dyn Future<Output = Result<Bytes, Reject>> + Send>>;

/// What a hook will have done.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A game's own code, which is asked before something happens on this node. Everything passes by default.
///
/// What panics, or takes longer than [`Config::hook_timeout`](crate::Config::hook_timeout), refuses; other
/// devices don't wait for it.
pub trait Hooks: Send + Sync + 'static {
    /// Whether a user may come into a room, or open it. The device is told the reason.
    fn authorize_join(&self, _question: JoinQuestion) -> Decision {
        Box::pin(async { Ok(()) })
    }

    /// What becomes of a member's message to others, durable or not. Returns at once: it is called on the
    /// way of each.
    fn check_message(&self, _message: &MemberMessage<'_>) -> Verdict {
        Verdict::Pass
    }

    /// Whether a user may come into a field as an entity of that class, what it is marked with there: its team, its
    /// level, whether it hides; and of which classes it may put things there. Marks are the game's own; devices don't
    /// see them, and [`Services::mark`](crate::Services::mark) changes them.
    fn authorize_field(&self, _user: UserId, _field: FieldId, _class: u8) -> Marking {
        Box::pin(async { Ok(FieldPass::default()) })
    }

    /// Whether a user may submit a ticket to a pool, or change its party, and as what the ticket goes on: the game may
    /// give it another priority, whatever the pool takes from devices, and say itself what its users are like. Whose
    /// ticket it is stays. Of a ticket whose party changes, only what is said of its users counts: the rest stays as it
    /// was when it was submitted. Nobody is asked again who comes back to a ticket.
    ///
    /// Of a running match that asks for more users it is asked of each party that plays, with what the pool remembers of
    /// its users; `user` owns the match's room then, and may be in none of them. What counts is what is said of the
    /// party's users, and its query and tags.
    fn authorize_ticket(&self, _user: UserId, _pool: Name, ticket: Ticket) -> Admission {
        Box::pin(async { Ok(ticket) })
    }

    /// Who may see whom in a field, by their marks: what an observer may not see is never sent to it.
    /// `None` when everybody may see everything. Asked when the first device here enters; what it gives is
    /// asked about each pair that is in range, in every tick.
    fn sight(&self, _field: &FieldId) -> Option<Box<dyn Sight + Send + Sync>> {
        None
    }

    /// Answers a device's command, with at most [`COMMAND_PAYLOAD_BYTES_MAX`] bytes. The device's other
    /// requests wait for it.
    fn on_command(&self, _command: DeviceCommand) -> Reply {
        Box::pin(async { Err(no_commands()) })
    }

    /// How often something is to be done for each room; never for `None`. Asked once.
    fn tick_interval(&self) -> Option<Duration> {
        None
    }

    /// Something to do for a room with members. One of the nodes that host the room does it; which one is
    /// by the room's log, so that another takes over when it dies or its members have left. A tick for
    /// which the one before is not done is left out.
    fn on_tick(&self, _tick: RoomTick) -> Work {
        Box::pin(async {})
    }
}

/// A user wants to come into a room.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JoinQuestion {
    /// Who.
    pub user: UserId,
    /// Which room.
    pub room: RoomId,
    /// There is none of that name: the user opens it.
    pub is_opening: bool,
    /// How the room behaves; when it is opened, how the user wants it to.
    pub settings: Settings,
}

/// What a device asks of the game.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceCommand {
    /// Whose device it is.
    pub caller: UserId,
    /// Which of the user's devices.
    pub session: [u8; 16],
    /// What is to be done.
    pub name: CommandName,
    /// More about it.
    pub payload: Bytes,
}

/// Time has passed in a room.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RoomTick {
    /// Which room.
    pub room: RoomId,
    /// The tick's number on this node: those that were left out are counted.
    pub number: u64,
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MemberMessage<'a> {
    /// Where it is said.
    pub room: &'a RoomId,
    /// Who says it: a member of the room.
    pub from: &'a UserId,
    /// To whom; empty when it is for all, or for a group.
    pub to: &'a [String],
    /// To the members of this interest group only.
    pub group: Option<NonZeroU32>,
    /// What is said.
    pub payload: &'a Bytes,
    /// Whether it goes through the room's log.
    pub is_durable: bool,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It goes on as it is.
    Pass,
    /// It goes on with this in place of what was said, no longer than that may have been.
    Change(Bytes),
    /// It goes nowhere; the sender is told why.
    Refuse(Reject),
}

/// The hooks of a node, if it has any.
#[derive(Clone, Default)]
pub struct HookSet(Option<Arc<dyn Hooks>>);

impl From<Arc<dyn Hooks>> for HookSet {
    fn from(hooks: Arc<dyn Hooks>) -> Self {
        Self(Some(hooks))
    }
}

impl HookSet {
    /// These.
    pub fn new(hooks: impl Hooks) -> Self {
        Self(Some(Arc::new(hooks)))
    }

    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Who may see whom in a field; nobody anything when the game's code fails.
    pub(crate) fn sight(&self, field: &FieldId) -> Option<Box<dyn Sight + Send + Sync>> {
        let hooks = self.0.as_ref()?;
        let asked = catch_unwind(AssertUnwindSafe(|| hooks.sight(field)));
        asked.unwrap_or_else(|_| Some(Box::new(|_: &Subject, _: &Subject| false)))
    }
}

impl fmt::Debug for HookSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HookSet").field(&self.0.is_some()).finish()
    }
}

impl Node {
    /// Asks whether a user may come into a room. Only the session that asked waits for it.
    pub(crate) async fn authorize_join(&self, question: JoinQuestion) -> Result<(), Reject> {
        let Some(hooks) = self.config.hooks.0.clone() else {
            return Ok(());
        };
        self.ask_game(async move { hooks.authorize_join(question).await })
            .await
    }

    /// Asks whether a user may come into a field, and as what.
    pub(crate) async fn authorize_field(
        &self,
        user: &UserId,
        field: &FieldId,
        class: u8,
    ) -> Result<FieldPass, Reject> {
        let Some(hooks) = self.config.hooks.0.clone() else {
            return Ok(FieldPass::default());
        };
        let (user, field) = (user.clone(), field.clone());
        self.ask_game(async move { hooks.authorize_field(user, field, class).await })
            .await
    }

    /// Has the game look at a ticket.
    pub(crate) async fn authorize_ticket(
        &self,
        user: &UserId,
        pool: &Name,
        ticket: Ticket,
    ) -> Result<Ticket, Reject> {
        let Some(hooks) = self.config.hooks.0.clone() else {
            return Ok(ticket);
        };
        let users = |ticket: &Ticket| {
            let players = ticket.players.iter();
            players
                .map(|player| player.user.clone())
                .collect::<Vec<_>>()
        };
        let (id, before) = (ticket.id, users(&ticket));
        let (user, pool) = (user.clone(), pool.clone());
        let asked = self.ask_game(async move { hooks.authorize_ticket(user, pool, ticket).await });
        let ticket = asked.await?;
        if ticket.id != id || users(&ticket) != before {
            self.counters.hooks_failed.add(1);
            let why = "the game's code failed";
            return Err(Reject::new(ErrorCode::Unavailable, why));
        }
        Ok(ticket)
    }

    /// Has the game answer a device's command.
    pub(crate) async fn answer_command(&self, command: DeviceCommand) -> Result<Bytes, Reject> {
        let hooks = self.config.hooks.0.clone().ok_or_else(no_commands)?;
        let Ok(_permit) = self.commands.try_acquire() else {
            let why = "the game has as much to do as it may: try again later";
            return Err(Reject::new(ErrorCode::Limit, why));
        };
        let reply = self.ask_game(async move { hooks.on_command(command).await });
        let reply = reply.await?;
        if reply.len() > COMMAND_PAYLOAD_BYTES_MAX {
            self.counters.hooks_failed.add(1);
            let why = "the game's answer is too long";
            return Err(Reject::new(ErrorCode::Unavailable, why));
        }
        Ok(reply)
    }

    /// Waits for the game's code, for a while.
    async fn ask_game<T: Send + 'static>(
        &self,
        question: impl Future<Output = Result<T, Reject>> + Send + 'static,
    ) -> Result<T, Reject> {
        let mut asked = self.runtime.spawn(question);
        let answer = timeout(self.config.hook_timeout, &mut asked).await;
        let why = match answer {
            Ok(Ok(decision)) => return decision,
            Ok(Err(_)) => "the game's code failed",
            Err(_) => "the game's code takes too long",
        };
        asked.abort();
        self.counters.hooks_failed.add(1);
        Err(Reject::new(ErrorCode::Unavailable, why))
    }

    /// Asks what becomes of a message; returns what goes on in place of it, if anything else does.
    pub(crate) fn check_message(
        &self,
        message: &MemberMessage<'_>,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, Reject> {
        let Some(hooks) = &self.config.hooks.0 else {
            return Ok(None);
        };
        // What it has left in disorder is its own to deal with.
        let verdict = catch_unwind(AssertUnwindSafe(|| hooks.check_message(message)));
        match verdict {
            Ok(Verdict::Pass) => Ok(None),
            Ok(Verdict::Change(payload)) if payload.len() <= bytes_max => Ok(Some(payload)),
            Ok(Verdict::Refuse(reject)) => Err(reject),
            Ok(Verdict::Change(_)) | Err(_) => {
                self.counters.hooks_failed.add(1);
                let why = "the game's code failed";
                Err(Reject::new(ErrorCode::Unavailable, why))
            }
        }
    }
}

/// Ticks the rooms of a node, if the game wants it, for as long as it runs.
pub(crate) async fn tick(node: Arc<Node>) {
    let Some(hooks) = node.config.hooks.0.clone() else {
        return;
    };
    let Some(interval) = hooks.tick_interval() else {
        return;
    };
    let mut interval = tokio::time::interval(interval.max(TICK_INTERVAL_MIN));
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ticks = Ticks::default();
    loop {
        interval.tick().await;
        ticks.number += 1;
        let hosts: Vec<_> = lock(&node.host_by_room).values().cloned().collect();
        for host in hosts {
            let is_ticked = || host.is_ticked_by(&node);
            if node.take_in("a room's tick", is_ticked) == Some(true) {
                ticks.begin(&node, &hooks, host.name());
            }
        }
    }
}

/// What is being done for rooms; it ends with this.
#[derive(Default)]
struct Ticks {
    number: u64,
    tasks: JoinSet<RoomId>,
    busy: BTreeSet<RoomId>,
}

impl Ticks {
    fn begin(&mut self, node: &Arc<Node>, hooks: &Arc<dyn Hooks>, room: &RoomId) {
        while let Some(done) = self.tasks.try_join_next() {
            if let Ok(room) = done {
                self.busy.remove(&room);
            }
        }
        if self.busy.len() >= TICKS_AT_ONCE || !self.busy.insert(room.clone()) {
            return;
        }
        let (node, hooks) = (Arc::clone(node), Arc::clone(hooks));
        let tick = RoomTick {
            room: room.clone(),
            number: self.number,
        };
        self.tasks.spawn(async move {
            let room = tick.room.clone();
            let work = async move {
                hooks.on_tick(tick).await;
                Ok(())
            };
            if let Err(reject) = node.ask_game(work).await {
                tracing::debug!(%room, %reject, "tick failed");
            }
            room
        });
    }
}

fn no_commands() -> Reject {
    Reject::new(ErrorCode::NoSuchThing, "this node knows no commands")
}

/// Longest payload of a command, and of what answers it, in bytes.
pub const COMMAND_PAYLOAD_BYTES_MAX: usize = 32 * 1024;

/// Commands that a game answers at the same time.
pub(crate) const COMMANDS_AT_ONCE: usize = 1024;

/// Rooms for which a game does something at the same time.
const TICKS_AT_ONCE: usize = 1024;

/// The shortest time between ticks.
const TICK_INTERVAL_MIN: Duration = Duration::from_millis(5);
