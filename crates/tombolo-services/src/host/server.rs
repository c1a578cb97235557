//! What servers want of a room. They are no members and have no session: what they ask is done, or
//! refused with the reason, before they are answered.

use std::time::Duration;

use tokio::sync::oneshot;
use tombolo_engine::{AppendError, Expect, Offset, TailEvent};
use tombolo_room::{Act, Actor, Applied, Body, Entry, Illegal, Made, Message, OperationId, Value};
use tombolo_wire::v1::ErrorCode;

use super::write::purpose;
use super::{Host, State, reject};
use crate::node::Node;
use crate::patience::Late;
use crate::reject::Reject;

/// What became of something that a server wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerActed {
    /// The number of the message that was said; 0 if none was.
    pub message: u64,
    /// The object that was made; 0 if none was.
    pub object: u64,
}

/// A room as servers see it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RoomView {
    /// Members at most.
    pub members_max: u32,
    /// Whether nobody comes in who has no seat kept.
    pub is_locked: bool,
    /// Whether those who look for rooms don't find it.
    pub is_hidden: bool,
    /// By which others may join, if it has one.
    pub code: Option<String>,
    /// The member that owns it.
    pub owner: Option<String>,
    /// The room's properties.
    pub properties: Vec<(String, Value)>,
    /// The names of those that are public.
    pub public: Vec<String>,
    /// Who is in it, in the order in which they came.
    pub members: Vec<MemberView>,
    /// The number of the last durable message.
    pub message_last: u64,
}

/// What was said durably in a room and is kept, a part of it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RoomMessages {
    /// The newest first.
    pub messages: Vec<Message>,
    /// There are older ones.
    pub more: bool,
}

/// A member as servers see it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MemberView {
    /// Who.
    pub user: String,
    /// Its place, from 0.
    pub seat: u32,
    /// Its connection broke, and its seat is kept.
    pub is_dropped: bool,
    /// What is known about it.
    pub properties: Vec<(String, Value)>,
    /// The node that holds its session.
    pub node: String,
}

impl Host {
    /// Carries out what a server wants, once: whoever repeats the operation, which was wanted first so long ago, learns
    /// that it was done. When it is answered, it has been read here.
    pub(crate) async fn act_for_server(
        &self,
        node: &Node,
        operation: OperationId,
        wanted_for: Duration,
        body: Body,
    ) -> Result<ServerActed, Reject> {
        let unavailable = |message: &str| Reject::new(ErrorCode::Unavailable, message);
        let mut wanted = None;
        let name = tombolo_engine::OperationId(operation.0);
        for _ in 0..ATTEMPTS_MAX {
            if node.cluster.is_out() {
                return Err(unavailable("this node is not part of its cluster"));
            }
            let mut progress = self.progress.subscribe();
            let plan = || self.plan_for_server(node, operation, wanted_for, &body);
            let planned = match plan() {
                // What was done on another node a moment ago may be what it depends on.
                Err(_) => {
                    self.catch_up(node).await?;
                    plan()?
                }
                planned => planned?,
            };
            let Some((expect, applied)) = planned else {
                return self.what_became(&operation);
            };
            let now = || self.lock().time(node).before(wanted_for);
            let entry = Entry {
                operation,
                // However often it is tried.
                time: *wanted.get_or_insert_with(now),
                node: Some(node.name().clone()),
                incarnation: node.incarnation(),
                body: body.clone(),
            };
            let entry = entry.encode();
            // What nobody could read must not be in the log.
            if Entry::decode(&entry).is_err() {
                return Err(reject(Illegal::Limit));
            }
            let purpose = purpose(&self.lock().room, &body);
            let key = &self.key;
            let append = node.engine.append(key, entry, purpose, expect, name);
            match node.written(append).await {
                // Whether it was written or not, the log will tell.
                Ok(Ok(_) | Err(AppendError::Unknown)) | Err(Late::Slow) => {}
                Err(late @ Late::Away) => return Err(late.into()),
                Ok(Err(AppendError::Conflict)) => {
                    // Somebody else was faster: look again once this node has seen it, too.
                    let _ = node.within(progress.changed()).await;
                    continue;
                }
                Ok(Err(error)) => return Err(unavailable(&error.to_string())),
            }
            match node.within(applied).await {
                Ok(Ok(applied)) => match applied.outcome {
                    Ok(()) => return Ok(acted(Made::of(&applied.events))),
                    Err(Illegal::Repeated) => return self.what_became(&operation),
                    Err(illegal) => return Err(reject(illegal)),
                },
                // The log was read anew: what was remembered of it tells whether it was done.
                Ok(Err(_)) => {}
                Err(late) => return Err(late.into()),
            }
        }
        Err(unavailable("the room changes too fast"))
    }

    /// Waits until all has been read here that the log had when this began: what was answered elsewhere
    /// before is seen here, too.
    pub(crate) async fn catch_up(&self, node: &Node) -> Result<(), Reject> {
        let before = self.lock().cursor;
        let read = async {
            let mut tail = node.engine.tail(&self.key, before).await.ok()?;
            let (mut last, mut is_void) = (before, false);
            loop {
                match tail.next().await? {
                    TailEvent::Entry { at, .. }
                    | TailEvent::Snapshot { at, .. }
                    | TailEvent::Retired { at } => last = Some(at),
                    TailEvent::Reset => (last, is_void) = (None, before.is_some()),
                    TailEvent::Synced => break,
                }
            }
            let mut progress = self.progress.subscribe();
            while !self.lock().has_seen(last, before, is_void) {
                progress.changed().await.ok()?;
            }
            Some(())
        };
        Ok(node.within(read).await?.ok_or(Late::Slow)?)
    }

    /// The room as it is known here; `None` when there is none.
    pub(crate) fn view(&self) -> Option<RoomView> {
        let state = self.lock();
        let room = &state.room;
        let settings = room.settings()?;
        let members = room.members().map(|(user, member)| MemberView {
            user: user.to_string(),
            seat: member.seat(),
            is_dropped: !member.is_present(),
            properties: values(member.properties()),
            node: member.membership().node.to_string(),
        });
        Some(RoomView {
            members_max: settings.members_max,
            is_locked: settings.is_locked,
            is_hidden: settings.is_hidden,
            code: room.code().map(|code| code.to_string()),
            owner: room.owner().map(ToString::to_string),
            public: room.properties().map(public).unwrap_or_default(),
            properties: room.properties().map(values).unwrap_or_default(),
            members: members.collect(),
            message_last: room.message_last(),
        })
    }

    /// Durable messages that are kept here, the newest first, whoever they are for; `None` when there is no room.
    pub(crate) fn messages(&self, before: u64, count: usize) -> Option<RoomMessages> {
        let state = self.lock();
        state.room.settings()?;
        let newest = state.room.messages().rev();
        let mut older = newest
            .filter(|message| before == 0 || message.number < before)
            .peekable();
        let mut page = RoomMessages::default();
        let mut bytes = 0;
        while page.messages.len() < count
            && let Some(message) = older.next_if(|message| {
                bytes += message.payload.len();
                page.messages.is_empty() || bytes <= MESSAGES_BYTES_MAX
            })
        {
            page.messages.push(message.clone());
        }
        page.more = older.peek().is_some();
        Some(page)
    }

    /// What has to be the case for what a server wants, and who tells when it was applied; `None` when it
    /// was done before.
    fn plan_for_server(
        &self,
        node: &Node,
        operation: OperationId,
        wanted_for: Duration,
        body: &Body,
    ) -> Result<Option<(Expect, oneshot::Receiver<Applied>)>, Reject> {
        let mut state = self.lock();
        if state.ahead.is_some() {
            let message = "this node reads the room anew";
            return Err(Reject::new(ErrorCode::Unavailable, message));
        }
        if let Some(done) = state.room.what_became(&operation) {
            return done.map(|_| None).map_err(reject);
        }
        let is_opening = matches!(body, Body::Created { .. });
        if !is_opening && state.may_have_forgotten(node, wanted_for) {
            return Err(reject(Illegal::Unsure));
        }
        let expect = match (is_opening, state.room.is_open()) {
            (true, true) => return Err(reject(Illegal::Open)),
            (false, false) => return Err(reject(Illegal::Closed)),
            (true, false) => state.cursor.map_or(Expect::Empty, Expect::Last),
            (false, true) => Expect::Any,
        };
        let (sender, applied) = oneshot::channel();
        let waiting = &mut state.served_by_operation;
        waiting.retain(|_, waits| !waits.is_closed());
        waiting.insert(operation, sender);
        Ok(Some((expect, applied)))
    }

    /// What became of an operation that came before.
    fn what_became(&self, operation: &OperationId) -> Result<ServerActed, Reject> {
        let done = self.lock().room.what_became(operation);
        // That it came has been read a moment ago.
        let done = done.unwrap_or(Err(Illegal::Repeated));
        done.map(acted).map_err(reject)
    }
}

impl State {
    /// Whether all has been read up to `last`; of a log that was begun anew, anything of it.
    fn has_seen(&self, last: Option<Offset>, before: Option<Offset>, is_void: bool) -> bool {
        let is_there = match last {
            Some(last) => self.cursor >= Some(last),
            None => !is_void || self.cursor != before,
        };
        is_there && self.ahead.is_none()
    }
}

/// What a server wants, as the log has it.
pub(crate) fn by_server(act: Act) -> Body {
    Body::Act {
        actor: Actor::Server,
        act,
    }
}

fn acted(made: Made) -> ServerActed {
    ServerActed {
        message: made.message.unwrap_or_default(),
        object: made.object.map_or(0, |object| object.0),
    }
}

fn values(properties: &tombolo_room::Properties) -> Vec<(String, Value)> {
    let all = properties.iter();
    all.map(|(key, property)| (key.to_string(), property.value.clone()))
        .collect()
}

fn public(properties: &tombolo_room::Properties) -> Vec<String> {
    let public = properties.iter().filter(|(_, property)| property.is_public);
    public.map(|(key, _)| key.to_string()).collect()
}

/// What messages say in one page, before the last of them: four of the longest.
const MESSAGES_BYTES_MAX: usize = 4 * tombolo_room::PAYLOAD_BYTES_MAX;

/// How often somebody else may be faster.
const ATTEMPTS_MAX: usize = 32;
