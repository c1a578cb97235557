//! What servers want of a room. They are no members and have no session: what they ask is done, or
//! refused with the reason, before they are answered.

use tokio::sync::watch;
use tokio::time::timeout;
use tombolo_engine::{AppendError, Expect, Offset};
use tombolo_room::{Act, Actor, Applied, Body, Entry, Event, Illegal, OperationId, Value};
use tombolo_wire::v1::ErrorCode;

use super::{Host, reject};
use crate::node::Node;
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
    /// The member that owns it.
    pub owner: Option<String>,
    /// The room's properties.
    pub properties: Vec<(String, Value)>,
    /// Who is in it, in the order in which they came.
    pub members: Vec<MemberView>,
    /// The number of the last durable message.
    pub message_last: u64,
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

/// What an entry would do, if nothing comes before it.
struct Rehearsal {
    applied: Applied,
    /// The last entry that was read.
    cursor: Option<Offset>,
    progress: watch::Receiver<u64>,
}

impl Host {
    /// Carries out what a server wants, once: whoever repeats the operation learns that it was done.
    pub(crate) async fn act_for_server(
        &self,
        node: &Node,
        operation: OperationId,
        body: Body,
    ) -> Result<ServerActed, Reject> {
        let unavailable = |message: &str| Reject::new(ErrorCode::Unavailable, message);
        for _ in 0..ATTEMPTS_MAX {
            if node.cluster.is_out() {
                return Err(unavailable("this node is not part of its cluster"));
            }
            let entry = Entry {
                operation,
                time: node.time(),
                body: body.clone(),
            };
            let mut rehearsal = self.rehearse(&entry)?;
            let acted = match rehearsal.applied.outcome {
                Ok(()) => acted(&rehearsal.applied.events),
                Err(Illegal::Repeated) => return self.what_became(&operation),
                Err(illegal) => return Err(reject(illegal)),
            };
            // What was rehearsed is what happens only if nobody else was faster.
            let expect = rehearsal.cursor.map_or(Expect::Empty, Expect::Last);
            let name = tombolo_engine::OperationId(operation.0);
            let append = node.engine.append(&self.key, entry.encode(), expect, name);
            match timeout(node.config.engine_timeout, append).await {
                Ok(Ok(at)) => {
                    self.read_up_to(node, at).await;
                    return Ok(acted);
                }
                Ok(Err(AppendError::Conflict | AppendError::Unknown)) | Err(_) => {
                    let wait = rehearsal.progress.changed();
                    let _ = timeout(node.config.engine_timeout, wait).await;
                }
                Ok(Err(error)) => return Err(unavailable(&error.to_string())),
            }
        }
        Err(unavailable("the room changes too fast"))
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
            owner: room.owner().map(ToString::to_string),
            properties: room.properties().map(values).unwrap_or_default(),
            members: members.collect(),
            message_last: room.message_last(),
        })
    }

    fn rehearse(&self, entry: &Entry) -> Result<Rehearsal, Reject> {
        let progress = self.progress.subscribe();
        let state = self.lock();
        if state.ahead.is_some() {
            let message = "this node reads the room anew";
            return Err(Reject::new(ErrorCode::Unavailable, message));
        }
        let mut copy = state.room.clone();
        Ok(Rehearsal {
            applied: copy.apply(entry),
            cursor: state.cursor,
            progress,
        })
    }

    /// What became of an operation that came before.
    fn what_became(&self, operation: &OperationId) -> Result<ServerActed, Reject> {
        match self.lock().room.was_legal(operation) {
            Some(true) => Ok(ServerActed::default()),
            Some(false) | None => {
                let message = "it was refused when it was tried before";
                Err(Reject::new(ErrorCode::Conflict, message))
            }
        }
    }

    /// Waits until members here have been told, so that whoever asks next sees what was done.
    async fn read_up_to(&self, node: &Node, at: Offset) {
        let mut progress = self.progress.subscribe();
        let read = async {
            while self.lock().cursor < Some(at) {
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(node.config.engine_timeout, read).await;
    }
}

/// What a server wants, as the log has it.
pub(crate) fn by_server(act: Act) -> Body {
    Body::Act {
        actor: Actor::Server,
        act,
    }
}

fn acted(events: &[Event]) -> ServerActed {
    let mut acted = ServerActed::default();
    for event in events {
        if let Event::ObjectCreated { id, .. } = event {
            acted.object = id.0;
        } else if let Event::Said(message) = event {
            acted.message = message.number;
        }
    }
    acted
}

fn values(properties: &tombolo_room::Properties) -> Vec<(String, Value)> {
    let all = properties.iter();
    all.map(|(key, property)| (key.to_string(), property.value.clone()))
        .collect()
}

/// How often somebody else may be faster.
const ATTEMPTS_MAX: usize = 32;
