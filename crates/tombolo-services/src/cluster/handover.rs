//! The node that takes a session over, for a device that has connected to it.
//!
//! A resume token names the node that gave it; the node that is shown one of another node asks that one
//! for the session. So there is no list of sessions to be kept anywhere. The session keeps its name:
//! the log of each of its rooms only says that its member goes on over another node, and nobody in the
//! room is told anything.
//!
//! Until all rooms have *settled* (see `host::moves`) the session waits, and its device with it: what
//! was sent to it over the other node comes first.
//!
//! When the node that had it is dead, and no other one knows of it (see [`seek`](super::seek)), the session is
//! lost, and its device gets a new one.

mod taking;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_engine::{Key, KeyError, RequestError, latest};
use tombolo_room::SessionId;
use tombolo_wire::NodeId;
use tombolo_wire::resend::Limits;
use tombolo_wire::v1::{ErrorCode, ServerFrame};

use super::arrival::{Sender, sender_on_wire};
use super::generated::{self as wire, Item, item, session_answer, session_question};
use super::seek::seek;
use super::{VERSION, giving};
use crate::entropy::ResumeToken;
use crate::lock::lock;
use crate::node::Node;
use crate::reject::Reject;
use crate::services::Caller;
use crate::session::Session;
use crate::transit::Held;

pub(super) use taking::{handle_forward, handle_settled};

/// Why a device does not go on with the session that it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum ResumeRefusal {
    #[error("token is malformed")]
    Malformed,
    #[error("session is not known")]
    Unknown,
    #[error("token was used before")]
    Replayed,
    #[error("session is another device's")]
    Foreign,
    #[error("more was received than was sent")]
    Ack,
    #[error("session's node is gone")]
    NodeGone,
    #[error("session's node does not answer")]
    NoAnswer,
    #[error("too many sessions are looked for")]
    Unsought,
    #[error("more waits for the session than is kept")]
    Behind,
}

/// Sessions that are about to come from other nodes.
#[derive(Default)]
pub(crate) struct Arrivals {
    by_token: BTreeMap<ResumeToken, Coming>,
}

/// A session that is about to come.
struct Coming {
    done: latest::Receiver<Option<Fetched>>,
    /// Known once it was offered.
    session: Option<(SessionId, NodeId)>,
    /// What came for it before itself.
    strays: Held<ServerFrame>,
    /// Why it cannot be taken in whole any more.
    broken: Option<ResumeRefusal>,
}

/// How asking for a session went.
#[derive(Clone, Debug)]
enum Fetched {
    /// It is here.
    Here,
    /// There is no such session: the device begins another.
    Lost(ResumeRefusal),
    /// The device is turned away.
    Refused(ResumeRefusal),
}

impl Arrivals {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    /// This node is put out: what was sent to its life for them is lost, and none must go on in its next one.
    pub(crate) fn break_all(&mut self) {
        for coming in self.by_token.values_mut() {
            coming.broken.get_or_insert(ResumeRefusal::NodeGone);
        }
    }

    /// Whether another node than that one has offered a session to this one.
    pub(crate) fn is_offered(&self, token: &ResumeToken, but: &NodeId) -> bool {
        let coming = self.by_token.get(token);
        let offered = coming.and_then(|coming| coming.session.as_ref());
        offered.is_some_and(|(_, holder)| holder != but)
    }
}

/// What a device shows in order to go on with a session: a secret, and the node that gave it.
#[derive(Clone)]
pub(crate) struct ResumeName {
    pub(crate) token: ResumeToken,
    pub(crate) node: NodeId,
}

impl ResumeName {
    pub(crate) fn issue(token: &ResumeToken, node: &NodeId) -> Bytes {
        [token, node.as_str().as_bytes()].concat().into()
    }

    pub(crate) fn parse(bytes: &Bytes) -> Option<Self> {
        let (token, node) = bytes.split_at_checked(size_of::<ResumeToken>())?;
        let node = NodeId::parse(std::str::from_utf8(node).ok()?).ok()?;
        let token = token.try_into().ok()?;
        Some(Self { token, node })
    }
}

/// Has the session that a caller wants to go on with be here, if there is one. When it returns `Ok`
/// the session is here and settled, or lost.
pub(crate) async fn fetch(node: &Arc<Node>, caller: &Caller) -> Result<(), Reject> {
    let Some(resume) = &caller.resume else {
        return Ok(());
    };
    let ResumeName {
        token,
        node: holder,
    } = resume;
    let unavailable = || {
        node.counters.count_resume_refused(ResumeRefusal::NoAnswer);
        Reject {
            nodes: node.cluster.urls(),
            ..Reject::new(ErrorCode::Unavailable, ResumeRefusal::NoAnswer)
        }
    };
    let refused = |refusal| {
        node.counters.count_resume_refused(refusal);
        Reject::new(ErrorCode::NotResumable, refusal)
    };
    giving::reclaim(node, caller, token).map_err(refused)?;
    if session_here(node, token).is_none() {
        let given = lock(&node.sessions).given(token);
        let given_to = given.and_then(|given| Some(given.lock().moved.as_ref()?.to.clone()));
        let holder = given_to.unwrap_or_else(|| holder.clone());
        // Until then it might be given away to this node's life before, and be lost with that.
        let joined = node.cluster.joined(FETCH_TIME).await;
        joined.map_err(|_| unavailable())?;
        let mut done = ask_for(node, caller, *token, holder)?;
        let fetched = tokio::time::timeout(FETCH_TIME, done.wait_for(Option::is_some)).await;
        let fetched = fetched.ok().and_then(|done| done.ok()?.clone());
        match fetched.ok_or_else(unavailable)? {
            Fetched::Here => {}
            Fetched::Lost(ResumeRefusal::NoAnswer) => return Err(unavailable()),
            Fetched::Lost(refusal) => {
                node.counters.count_resume_refused(refusal);
                return Ok(());
            }
            Fetched::Refused(refusal) => return Err(refused(refusal)),
        }
    }
    let Some(session) = session_here(node, token) else {
        return Ok(());
    };
    let mut settled = session.watch_settled();
    let is_settled = tokio::time::timeout(FETCH_TIME, settled.wait_for(|settled| *settled)).await;
    is_settled
        .map_err(|_| unavailable())?
        .map_err(|_| unavailable())?;
    Ok(())
}

fn session_here(node: &Node, token: &ResumeToken) -> Option<Arc<Session>> {
    let sessions = lock(&node.sessions);
    let id = sessions.by_token.get(token)?;
    sessions.by_id.get(id).cloned()
}

/// Begins to ask for a session, unless that has begun.
fn ask_for(
    node: &Arc<Node>,
    caller: &Caller,
    token: ResumeToken,
    holder: NodeId,
) -> Result<latest::Receiver<Option<Fetched>>, Reject> {
    let limit = |message: &str| Reject {
        nodes: node.cluster.urls(),
        ..Reject::new(ErrorCode::Limit, message)
    };
    let mut arrivals = lock(&node.arrivals);
    if let Some(coming) = arrivals.by_token.get(&token) {
        return Ok(coming.done.clone());
    }
    let mut sessions = lock(&node.sessions);
    if sessions.by_id.len() + arrivals.by_token.len() >= node.config.sessions_max {
        return Err(limit("this node has as many sessions as it may"));
    }
    sessions.pace_hello(&caller.user, &node.config)?;
    sessions.pace_move(&caller.user, &node.config)?;
    drop(sessions);
    let (sender, done) = latest::channel(None);
    let coming = Coming {
        done: done.clone(),
        session: None,
        strays: Held::new(Limits {
            frames_max: STRAYS_MAX,
            bytes_max: node.config.outbox.bytes_max,
        }),
        broken: None,
    };
    arrivals.by_token.insert(token, coming);
    drop(arrivals);
    let (node, caller) = (Arc::clone(node), caller.clone());
    node.runtime.clone().spawn(async move {
        // One of those who listen is the list of arrivals.
        let is_wanted = || sender.receiver_count() > 1;
        let fetched = take_over(&node, &caller, token, holder, is_wanted).await;
        if matches!(fetched, Fetched::Here) {
            lock(&node.sessions).put_hello_back(&caller.user);
        }
        lock(&node.arrivals).by_token.remove(&token);
        sender.send_replace(Some(fetched));
    });
    Ok(done)
}

/// Asks until the session is here, or it is clear that it will not be.
async fn take_over(
    node: &Arc<Node>,
    caller: &Caller,
    token: ResumeToken,
    mut holder: NodeId,
    is_wanted: impl Fn() -> bool,
) -> Fetched {
    let want = session_question::Kind::Want(wire::Want {
        token: Bytes::copy_from_slice(&token),
        user: caller.user.to_string(),
        identity: Bytes::copy_from_slice(&caller.keys.identity),
        seal: Bytes::copy_from_slice(&caller.keys.seal),
        ack: caller.ack,
        to: node.name().to_string(),
        incarnation: node.cluster.epoch().unwrap_or_default(),
    });
    let (mut hops, mut seeks) = (0, 0);
    // A device that has gone may have its session elsewhere by now: it must not be taken from there.
    while is_wanted() {
        match try_at(node, caller, token, &holder, &want).await {
            Tried::Done(fetched) => return fetched,
            // The device had better try again than wait.
            Tried::Away => break,
            Tried::Again => {}
            Tried::GivenTo(next) => {
                hops += 1;
                if next == *node.name() || hops > HOPS_MAX {
                    // It went on from here, too, and was forgotten.
                    return Fetched::Lost(ResumeRefusal::Replayed);
                }
                holder = next;
            }
            Tried::NotThere(refusal) => {
                seeks += 1;
                let of_user_max = node.config.sessions_per_user_max;
                let Some(_seek) = node.cluster.seeks.begin(&caller.user, of_user_max) else {
                    return Fetched::Lost(ResumeRefusal::Unsought);
                };
                let found = match seeks {
                    1..=SEEKS_MAX => seek(node, &want, &holder).await,
                    _ => None,
                };
                match found {
                    Some(found) => holder = found,
                    None => return Fetched::Lost(refusal),
                }
            }
        }
    }
    Fetched::Lost(ResumeRefusal::NoAnswer)
}

/// How asking one node for a session went.
enum Tried {
    Done(Fetched),
    /// The engine is away.
    Away,
    Again,
    GivenTo(NodeId),
    /// That node does not have it, another one may.
    NotThere(ResumeRefusal),
}

async fn try_at(
    node: &Arc<Node>,
    caller: &Caller,
    token: ResumeToken,
    holder: &NodeId,
    want: &session_question::Kind,
) -> Tried {
    if holder == node.name() {
        return not_known(giving::is_over(node, &lock(&node.sessions)));
    }
    let answer = tokio::select! {
        biased;
        () = node.cluster.gone(holder) => {
            return match node.cluster.is_known(holder) {
                true => Tried::NotThere(ResumeRefusal::NodeGone),
                false => Tried::Done(Fetched::Lost(ResumeRefusal::NodeGone)),
            };
        }
        answer = ask(node, holder, want.clone()) => answer,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(RequestError::Unavailable) => return Tried::Away,
        Err(_) => None,
    };
    match answer {
        Some(session_answer::Outcome::Offered(offered)) => {
            if let Some(fetched) = take(node, caller, token, holder, offered).await {
                return Tried::Done(fetched);
            }
            // Two nodes that want it in turn are not to go on in step.
            let jitter = Duration::from_millis(node.config.entropy.number() % VOID_JITTER_MS);
            tokio::time::sleep(BUSY_DELAY + jitter).await;
        }
        Some(session_answer::Outcome::GivenTo(next)) => {
            return match NodeId::parse(&next) {
                Ok(next) => Tried::GivenTo(next),
                Err(_) => Tried::Done(Fetched::Lost(ResumeRefusal::Malformed)),
            };
        }
        Some(session_answer::Outcome::Refused(refusal)) => {
            match wire::SessionRefusal::try_from(refusal) {
                Ok(wire::SessionRefusal::Busy) => tokio::time::sleep(BUSY_DELAY).await,
                Ok(wire::SessionRefusal::NotResumable) => {
                    return Tried::Done(Fetched::Refused(ResumeRefusal::Foreign));
                }
                Ok(wire::SessionRefusal::Over) => {
                    let gave = caller.resume.as_ref().map(|resume| &resume.node);
                    return not_known(gave == Some(holder));
                }
                Ok(wire::SessionRefusal::Unknown | wire::SessionRefusal::Unspecified) | Err(_) => {
                    return not_known(false);
                }
            }
        }
        Some(session_answer::Outcome::Piece(_)) | None => {
            // Devices of a dead node wait for its end to be known, and no longer.
            let _ = tokio::time::timeout(RETRY_DELAY, node.cluster.gone(holder)).await;
        }
    }
    Tried::Again
}

/// A node does not know a session, and perhaps that no other does.
fn not_known(is_over: bool) -> Tried {
    match is_over {
        true => Tried::Done(Fetched::Lost(ResumeRefusal::Unknown)),
        false => Tried::NotThere(ResumeRefusal::Unknown),
    }
}

/// Takes a session that was offered; `None` when the offer is void, since it was offered anew.
async fn take(
    node: &Arc<Node>,
    caller: &Caller,
    token: ResumeToken,
    holder: &NodeId,
    offered: wire::Offered,
) -> Option<Fetched> {
    let lost = |refusal| Some(Fetched::Lost(refusal));
    let Some(id) = offered.session.as_ref().try_into().ok().map(SessionId) else {
        return lost(ResumeRefusal::Malformed);
    };
    if let Some(coming) = lock(&node.arrivals).by_token.get_mut(&token) {
        coming.session = Some((id, holder.clone()));
    }
    let mut after = offered.acked;
    let mut frames = Vec::new();
    let question = |after, complete| {
        session_question::Kind::Take(wire::Take {
            session: offered.session.clone(),
            offer: offered.offer,
            after,
            complete,
        })
    };
    // Once the other node has given it this one must have it, so there is no end but the other's.
    loop {
        if !node.cluster.is_up(holder) || node.cluster.is_out() {
            return lost(ResumeRefusal::NodeGone);
        }
        match ask(node, holder, question(after, false))
            .await
            .ok()
            .flatten()
        {
            Some(session_answer::Outcome::Piece(piece)) => {
                for frame in piece.frames {
                    let frame = ServerFrame::decode(frame).ok();
                    let Some(frame) = frame.filter(|frame| frame.seq == after + 1) else {
                        return lost(ResumeRefusal::Malformed);
                    };
                    after = frame.seq;
                    frames.push(frame);
                }
                if !piece.more {
                    break;
                }
            }
            Some(session_answer::Outcome::Refused(_)) => return None,
            Some(session_answer::Outcome::Offered(_) | session_answer::Outcome::GivenTo(_))
            | None => tokio::time::sleep(RETRY_DELAY).await,
        }
    }
    let installed = taking::install(node, caller, token, holder, id, &offered, frames);
    let told = say_complete(Arc::clone(node), holder.clone(), question(after, true));
    node.runtime.spawn(told);
    Some(match installed {
        Ok(()) => Fetched::Here,
        Err(refusal) => Fetched::Lost(refusal),
    })
}

/// Tells the node that had a session that it need not keep anything of it, and may leave; it forgets it anyhow
/// after a while.
async fn say_complete(node: Arc<Node>, holder: NodeId, complete: session_question::Kind) {
    let say = async {
        while !matches!(ask(&node, &holder, complete.clone()).await, Ok(Some(_))) {
            tokio::time::sleep(RETRY_DELAY).await;
        }
    };
    tokio::select! {
        biased;
        () = node.cluster.gone(&holder) => {}
        _ = tokio::time::timeout(node.config.resume_window, say) => {}
    }
}

pub(super) async fn ask(
    node: &Node,
    holder: &NodeId,
    kind: session_question::Kind,
) -> Result<Option<session_answer::Outcome>, RequestError> {
    let Ok(subject) = subject_of(holder) else {
        return Ok(None);
    };
    let question = wire::SessionQuestion {
        version: VERSION,
        kind: Some(kind),
    };
    let payload = question.encode_to_vec().into();
    let answer = node.engine.request(&subject, payload, ASK_TIMEOUT).await?;
    Ok(outcome_of(&answer))
}

/// What an answer says, if it is one.
pub(super) fn outcome_of(answer: &[u8]) -> Option<session_answer::Outcome> {
    let answer = wire::SessionAnswer::decode(answer).ok();
    let answer = answer.filter(|answer| answer.version == VERSION);
    answer.and_then(|answer| answer.outcome)
}

/// A frame for the device of a session that has gone to another node.
pub(crate) fn forward_item(
    session: SessionId,
    frame: &ServerFrame,
    is_reliable: bool,
    sender: Option<&Sender>,
) -> Item {
    let forward = wire::Forward {
        session: Bytes::copy_from_slice(&session.0),
        frame: frame.encode_to_vec().into(),
        reliable: is_reliable,
        sender: sender.map(sender_on_wire),
    };
    Item {
        body: Some(item::Body::Forward(forward)),
    }
}

pub(super) fn subject_of(node: &NodeId) -> Result<Key, KeyError> {
    Key::new(["node", node.as_str(), "sessions"])
}

/// Between two attempts of anything.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long another node may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// How soon a session is asked for again whose frames or requests are being carried out.
const BUSY_DELAY: Duration = Duration::from_millis(10);

/// How much later at most when its offer was void.
const VOID_JITTER_MS: u64 = 40;

/// How long a device waits for its session, and then for its rooms.
const FETCH_TIME: Duration = Duration::from_secs(2);

/// How many nodes a session may have been given on by, one to the next, before its device is heard.
const HOPS_MAX: usize = 8;

/// How often a session is looked for elsewhere: where it was about to come it may not have come.
const SEEKS_MAX: usize = 3;

/// Frames that wait for their session.
const STRAYS_MAX: usize = 4096;
