//! The node that has a session, and gives it to the one that its device has connected to.
//!
//! 1. It is asked for the session, and *offers* it: from now on the session takes no frame from its
//!    device, and keeps what comes for it. Whoever asks last has the offer; so does the device itself
//!    when it comes back.
//! 2. It is asked for what waits, piece by piece. With the last piece the session is the other node's:
//!    what still comes for it is forwarded over the link between the two.
//! 3. It is told that the last piece has arrived. A node that leaves waits for that.
//!
//! All questions may be repeated, lost and answered late: the same question has the same answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use tombolo_engine::RequestError;
use tombolo_room::{Body, SessionId};
use tombolo_wire::{NodeId, PublicKeys, RoomId, UserId};

use super::generated::{self as wire, session_answer, session_question};
use super::{ResumeRefusal, VERSION, handover};
use crate::absence;
use crate::entropy::ResumeToken;
use crate::events::SessionEvent;
use crate::host::Host;
use crate::lock::lock;
use crate::node::{Node, SessionTable};
use crate::services::Caller;
use crate::session::{Session, State};
use crate::transit::Moved;

/// Gives sessions to other nodes for as long as it runs.
pub(super) async fn serve(node: Arc<Node>) {
    let Ok(subject) = handover::subject_of(node.name()) else {
        return;
    };
    loop {
        if let Ok(mut server) = node.engine.serve(&subject, QUESTIONS_MAX).await {
            while let Some(request) = server.next().await {
                let answer = || answer(&node, &request.payload);
                let outcome = node.take_in("a question for a session", answer);
                // As where nobody knows it: the device begins another.
                let outcome = outcome.unwrap_or_else(|| refused(wire::SessionRefusal::Unknown));
                let answer = wire::SessionAnswer {
                    version: VERSION,
                    outcome: Some(outcome),
                };
                request.answer(answer.encode_to_vec().into());
            }
        }
        tokio::time::sleep(handover::RETRY_DELAY).await;
    }
}

/// Whether a node serves these questions, which is the same as whether it is on the bus; `None` when nobody
/// knows.
pub(super) async fn knock(node: &Node, other: &NodeId) -> Option<bool> {
    let subject = handover::subject_of(other).ok()?;
    let knock = node
        .engine
        .request(&subject, Bytes::from_static(KNOCK), KNOCK_TIMEOUT);
    match tokio::time::timeout(KNOCK_TIMEOUT, knock).await {
        // Whoever has no time for it is there, too.
        Ok(Ok(_) | Err(RequestError::Refused)) => Some(true),
        Ok(Err(RequestError::NoResponder)) => Some(false),
        Ok(Err(_)) | Err(_) => None,
    }
}

fn answer(node: &Arc<Node>, payload: &[u8]) -> session_answer::Outcome {
    if payload == KNOCK {
        return refused(wire::SessionRefusal::Unknown);
    }
    match Question::decode(payload) {
        Some(Question::Want(wanted)) => offer(node, &wanted),
        Some(Question::Take(take)) => give(node, &take),
        None => {
            node.counters.cluster.items_refused.add(1);
            refused(wire::SessionRefusal::Unknown)
        }
    }
}

#[cfg_attr(test, derive(Debug, PartialEq))]
enum Question {
    Want(Wanted),
    Take(Take),
}

/// A session that another node wants, for a device that is connected there.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Wanted {
    pub(crate) token: ResumeToken,
    pub(crate) user: UserId,
    pub(crate) keys: PublicKeys,
    /// What the device has received.
    pub(crate) ack: u64,
    pub(crate) to: NodeId,
    /// In which of its lives that node asks, if it says so.
    pub(crate) life: Option<u64>,
}

/// More of a session that was offered.
#[cfg_attr(test, derive(Debug, PartialEq))]
struct Take {
    session: SessionId,
    offer: u64,
    /// The last frame that the other node has.
    after: u64,
    is_complete: bool,
}

impl Question {
    fn decode(payload: &[u8]) -> Option<Self> {
        let question = wire::SessionQuestion::decode(payload).ok()?;
        if question.version != VERSION {
            return None;
        }
        Some(match question.kind? {
            session_question::Kind::Want(wanted) => Self::Want(Wanted {
                token: wanted.token.as_ref().try_into().ok()?,
                user: UserId::parse(&wanted.user).ok()?,
                keys: PublicKeys {
                    identity: wanted.identity.as_ref().try_into().ok()?,
                    seal: wanted.seal.as_ref().try_into().ok()?,
                },
                ack: wanted.ack,
                to: NodeId::parse(&wanted.to).ok()?,
                life: Some(wanted.incarnation).filter(|life| *life != 0),
            }),
            session_question::Kind::Take(take) => Self::Take(Take {
                session: SessionId(take.session.as_ref().try_into().ok()?),
                offer: take.offer,
                after: take.after,
                is_complete: take.complete,
            }),
        })
    }
}

/// Offers a session, if all about it is in order.
fn offer(node: &Arc<Node>, wanted: &Wanted) -> session_answer::Outcome {
    let arrivals = lock(&node.arrivals);
    let mut sessions = lock(&node.sessions);
    let here = sessions.by_token.get(&wanted.token);
    let here = here.and_then(|id| sessions.by_id.get(id)).cloned();
    let Some(session) = here.or_else(|| sessions.given(&wanted.token)) else {
        let is_coming = arrivals.is_offered(&wanted.token, &wanted.to);
        return refused(match is_over(node, &sessions) {
            _ if is_coming => wire::SessionRefusal::Busy,
            true => wire::SessionRefusal::Over,
            false => wire::SessionRefusal::Unknown,
        });
    };
    if is_past(node, &wanted.to, wanted.life) {
        // Once the life before is known to be over, what was given away to it is lost.
        return refused(wire::SessionRefusal::Busy);
    }
    let mut state = session.lock();
    if session.user != wanted.user || session.keys != wanted.keys {
        node.counters.count_resume_refused(ResumeRefusal::Foreign);
        return refused(wire::SessionRefusal::NotResumable);
    }
    if !state.tokens.is_good(&wanted.token) {
        node.counters.count_resume_refused(ResumeRefusal::Replayed);
        return refused(wire::SessionRefusal::Over);
    }
    if let Some(moved) = state.moved.as_ref().filter(|moved| moved.is_taken) {
        return session_answer::Outcome::GivenTo(moved.to.to_string());
    }
    // One that is broken is about to end.
    let is_broken = state.moved.as_ref().is_some_and(|moved| moved.is_broken);
    if session.pending.load(Ordering::Relaxed) > 0 || !state.is_settled() || is_broken {
        return refused(wire::SessionRefusal::Busy);
    }
    if state.outbox.handle_ack(wanted.ack).is_err() {
        node.counters.count_resume_refused(ResumeRefusal::Ack);
        return refused(wire::SessionRefusal::NotResumable);
    }
    // Unlike any other: a late question must not be taken for one about this offer.
    let Ok(offer) = node.config.entropy.tag() else {
        return refused(wire::SessionRefusal::Busy);
    };
    let first = state.moved.as_ref().map_or(offer, |moved| moved.first);
    state.moved = Some(Moved {
        cluster: Arc::clone(&node.cluster),
        session: session.id,
        to: wanted.to.clone(),
        life: wanted.life,
        offer,
        first,
        is_taken: false,
        is_complete: false,
        is_broken: false,
    });
    if first == offer {
        state.pause();
        sessions.give(&session, &state);
        let forget = forget(Arc::clone(node), Arc::clone(&session), first);
        node.runtime.spawn(forget);
    }
    session_answer::Outcome::Offered(wire::Offered {
        session: Bytes::copy_from_slice(&session.id.0),
        offer,
        acked: state.outbox.acked(),
        received: state.inbox.received(),
        rooms: state.host_by_room.keys().map(RoomId::to_string).collect(),
        other_token: state
            .tokens
            .beside(&wanted.token)
            .map(|token| Bytes::copy_from_slice(&token))
            .unwrap_or_default(),
    })
}

/// Whether a node is not in the life in which it says that it asks.
fn is_past(node: &Node, asking: &NodeId, life: Option<u64>) -> bool {
    life.is_some_and(|life| !node.cluster.is_in_life(asking, life))
}

/// Whether a session that this node gave a token for, and does not know, is nowhere: this is the life that it was in, and
/// none has gone from here since. It may have been taken at the end of a window, waited for another one, and for one
/// more when a welcome got lost.
pub(super) fn is_over(node: &Node, sessions: &SessionTable) -> bool {
    let is_long = |time: Duration| time > 3 * node.config.resume_window;
    let last_given = sessions.last_given.map(|at| at.elapsed());
    node.cluster.age().is_some_and(is_long) && last_given.is_none_or(is_long)
}

/// Gives the next piece of a session that was offered, and with the last one the session.
fn give(node: &Arc<Node>, take: &Take) -> session_answer::Outcome {
    let sessions = lock(&node.sessions);
    let Some(session) = sessions.given_by_id.get(&take.session).cloned() else {
        return refused(wire::SessionRefusal::Unknown);
    };
    drop(sessions);
    let mut state = session.lock();
    let is_good = |moved: &&mut Moved| moved.offer == take.offer && !moved.is_broken;
    let state = &mut *state;
    let Some(moved) = state.moved.as_mut().filter(is_good) else {
        return refused(wire::SessionRefusal::Unknown);
    };
    if !moved.is_taken && is_past(node, &moved.to, moved.life) {
        // What is sent to that life is lost: the session stays here.
        return refused(wire::SessionRefusal::Unknown);
    }
    let (mut frames, mut bytes) = (Vec::new(), 0);
    let mut waiting = state.outbox.after_number(take.after);
    for frame in waiting.by_ref() {
        let frame = Bytes::from(frame.encode_to_vec());
        bytes += frame.len();
        frames.push(frame);
        if bytes >= PIECE_BYTES {
            break;
        }
    }
    let more = waiting.next().is_some();
    drop(waiting);
    if moved.is_taken && take.is_complete {
        moved.is_complete = true;
        let _ = state.outbox.handle_ack(take.after);
    }
    if !more && !moved.is_taken {
        moved.is_taken = true;
        // What it is told here it is told there from now on, and its device enters its fields there.
        state.backlog.close();
        state.seats.move_all();
        node.counters.cluster.sessions_given.add(1);
        node.emit(SessionEvent::Moved, &session);
    }
    session_answer::Outcome::Piece(wire::Piece { frames, more })
}

/// A device comes back to the node that was about to give its session away: it has it again.
///
/// # Errors
/// When the device may not go on with that session.
pub(crate) fn reclaim(
    node: &Arc<Node>,
    caller: &Caller,
    token: &ResumeToken,
) -> Result<(), ResumeRefusal> {
    let mut sessions = lock(&node.sessions);
    let Some(session) = sessions.given(token) else {
        return Ok(());
    };
    let mut state = session.lock();
    let is_ours = |moved: &Moved| !moved.is_taken && !moved.is_broken;
    if !state.moved.as_ref().is_some_and(is_ours) {
        return Ok(());
    }
    if session.user != caller.user || session.keys != caller.keys {
        return Err(ResumeRefusal::Foreign);
    }
    if !state.tokens.is_good(token) {
        return Ok(());
    }
    let acked = state.outbox.handle_ack(caller.ack);
    acked.map_err(|_| ResumeRefusal::Ack)?;
    state.moved = None;
    state.proceed();
    sessions.take_back(&session, &state);
    let connection = state.connection;
    drop(state);
    drop(sessions);
    // Until the device is welcomed nobody is connected.
    node.disconnect(&session, connection);
    Ok(())
}

/// Forgets a session after a while; when it never arrived where it went, it is over.
async fn forget(node: Arc<Node>, session: Arc<Session>, first: u64) {
    absence::wait_for_return(node.config.resume_window).await;
    for host in forget_now(&node, &session, first) {
        drop_from(&node, &session, &host).await;
    }
}

/// Has a room that never read that a session goes on elsewhere know that it is dropped here: the log has
/// it that the session is this node's, so nobody else may say so. If the other node has it after all, it
/// says that it has returned.
async fn drop_from(node: &Node, session: &Session, host: &Host) {
    let body = Body::Dropped {
        user: session.user.clone(),
        session: session.id,
    };
    host.append_for_sure(node, body).await;
}

/// Forgets it; returns the rooms that still have it, though it has gone to another node, that it takes part over this one.
fn forget_now(node: &Arc<Node>, session: &Arc<Session>, first: u64) -> Vec<Arc<Host>> {
    let mut sessions = lock(&node.sessions);
    let mut state = session.lock();
    let Some(moved) = state.moved.as_ref().filter(|moved| moved.first == first) else {
        // It was reclaimed meanwhile.
        return Vec::new();
    };
    if moved.is_taken {
        sessions.forget_given(session, &state);
        let hosts = std::mem::take(&mut state.host_by_room);
        return hosts.into_values().collect();
    }
    node.counters.expired.add(1);
    end_offered(node, &mut sessions, &mut state, session);
    Vec::new()
}

/// Ends a session that nobody has taken, or can take whole any more. Its device begins anew: its rooms keep
/// its seats.
pub(crate) fn end_offered(
    node: &Arc<Node>,
    sessions: &mut SessionTable,
    state: &mut State,
    session: &Arc<Session>,
) {
    sessions.forget_given(session, state);
    // Whoever has an offer of it must not take it any more.
    state.moved = None;
    node.emit(SessionEvent::Ended, session);
    node.count_unread(state);
    state.end_in_rooms(None);
    node.keep_seats(session, state);
}

fn spawn_drop(node: &Arc<Node>, session: &Arc<Session>, host: Arc<Host>) {
    let (runtime, node, session) = (node.runtime.clone(), Arc::clone(node), Arc::clone(session));
    runtime.spawn(async move { drop_from(&node, &session, &host).await });
}

/// A node is gone, and with it the sessions that went there: their rooms keep their seats, also those
/// that have not read that they went.
pub(crate) fn drop_given_to(node: &Arc<Node>, gone: &NodeId) {
    let given: Vec<_> = lock(&node.sessions).given_by_id.values().cloned().collect();
    for session in given {
        let mut state = session.lock();
        let is_lost = |moved: &&mut Moved| moved.is_taken && moved.to == *gone;
        let Some(moved) = state.moved.as_mut().filter(is_lost) else {
            continue;
        };
        moved.is_complete = true;
        let hosts = std::mem::take(&mut state.host_by_room);
        drop(state);
        for host in hosts.into_values() {
            spawn_drop(node, &session, host);
        }
    }
}

/// Whether no session is on its way to another node, or may yet be taken there, whole.
pub(crate) fn has_given_all(node: &Node) -> bool {
    let sessions = lock(&node.sessions);
    sessions.given_by_id.values().all(|session| {
        let state = session.lock();
        let moved = state.moved.as_ref();
        moved.is_none_or(|moved| moved.is_complete) && state.host_by_room.is_empty()
    })
}

/// Forgets all sessions that go, or have gone, to other nodes: this node is put out.
pub(crate) fn give_up_all(node: &Node, sessions: &mut SessionTable) {
    sessions.given_by_token.clear();
    for session in std::mem::take(&mut sessions.given_by_id).into_values() {
        let mut state = session.lock();
        // One that was taken has gone already, as far as anybody here is concerned.
        if state.moved.take().is_some_and(|moved| !moved.is_taken) {
            node.emit(SessionEvent::Ended, &session);
            node.count_unread(&state);
        }
        drop(state.end(None));
    }
}

impl SessionTable {
    /// A session that goes, or has gone, to another node.
    pub(crate) fn given(&self, token: &ResumeToken) -> Option<Arc<Session>> {
        self.given_by_token.get(token).cloned()
    }

    fn give(&mut self, session: &Arc<Session>, state: &State) {
        self.last_given = Some(Instant::now());
        self.remove(session);
        for token in state.tokens.listed() {
            self.by_token.remove(token);
            self.given_by_token.insert(*token, Arc::clone(session));
        }
        self.given_by_id.insert(session.id, Arc::clone(session));
    }

    fn take_back(&mut self, session: &Arc<Session>, state: &State) {
        self.forget_given(session, state);
        for token in state.tokens.listed() {
            self.by_token.insert(*token, session.id);
        }
        self.insert(session);
    }

    /// It may have come back and gone again meanwhile; that one stays.
    fn forget_given(&mut self, session: &Arc<Session>, state: &State) {
        let is_it = |given: &Arc<Session>| Arc::ptr_eq(given, session);
        if self.given_by_id.get(&session.id).is_some_and(is_it) {
            self.given_by_id.remove(&session.id);
        }
        for token in state.tokens.listed() {
            if self.given_by_token.get(token).is_some_and(is_it) {
                self.given_by_token.remove(token);
            }
        }
    }
}

fn refused(refusal: wire::SessionRefusal) -> session_answer::Outcome {
    session_answer::Outcome::Refused(refusal.into())
}

/// A question that asks for nothing but an answer; releases before it answer it, too.
const KNOCK: &[u8] = &[];

/// What says that a node is there must be said soon.
const KNOCK_TIMEOUT: Duration = Duration::from_millis(300);

/// Questions for sessions that wait for this node.
const QUESTIONS_MAX: usize = 8192;

/// About as much of a session as is given in one answer.
const PIECE_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod kept {
    //! What nodes of the release before ask each other about sessions.

    use super::*;
    use crate::before::check;

    #[test]
    fn questions_for_sessions_of_the_release_before_ask_for_the_same() {
        let want = session_question::Kind::Want(wire::Want {
            token: Bytes::from_static(&[1; 32]),
            user: "alice".into(),
            identity: Bytes::from_static(&[2; 32]),
            seal: Bytes::from_static(&[3; 32]),
            ack: 70,
            to: "node-1".into(),
            incarnation: 7,
        });
        let take = session_question::Kind::Take(wire::Take {
            session: Bytes::from_static(&[4; 16]),
            offer: 8,
            after: 69,
            complete: true,
        });
        for (name, kind) in [("session.want", want), ("session.take", take)] {
            let question = wire::SessionQuestion {
                version: VERSION,
                kind: Some(kind),
            };
            check(name, &question, Question::decode);
        }
    }

    #[test]
    fn answers_about_sessions_of_the_release_before_say_the_same() {
        let outcomes = [
            session_answer::Outcome::Offered(wire::Offered {
                session: Bytes::from_static(&[4; 16]),
                offer: 8,
                acked: 68,
                received: 50,
                rooms: vec!["lobby".into()],
                other_token: Bytes::from_static(&[5; 32]),
            }),
            session_answer::Outcome::Piece(wire::Piece {
                frames: vec![Bytes::from_static(&[8, 70])],
                more: true,
            }),
            session_answer::Outcome::GivenTo("node-2".into()),
            refused(wire::SessionRefusal::Busy),
        ];
        let names = ["offered", "piece", "given", "refused"];
        for (name, outcome) in names.into_iter().zip(outcomes) {
            let answer = wire::SessionAnswer {
                version: VERSION,
                outcome: Some(outcome),
            };
            check(&format!("session.{name}"), &answer, handover::outcome_of);
        }
    }
}
