//! Looks for a session where its token does not say: the node that gave the token has handed the session on
//! and left, or has begun a new life since, and the device was not welcomed by the next one any more.
//!
//! All other nodes are asked, as they are about a new session of the user's (see `duplicates`). So nothing is
//! kept about where sessions went.
//!
//! Whoever may connect can make a token up, or show one that is over, as often as it likes. A seal would not keep it
//! from that: it was given genuine tokens, too. So nobody is asked about a node that never was, nor when the token's
//! own node knows better (see [`giving::is_over`](super::giving::is_over)); and few sessions are looked for at the same
//! time, and fewer of one user's.

use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tombolo_wire::{NodeId, UserId};

use super::generated::{SessionRefusal, session_answer, session_question};
use super::handover::ask;
use crate::lock::lock;
use crate::node::Node;

/// Whose sessions are looked for.
#[derive(Default)]
pub(super) struct Seeks(Mutex<Vec<UserId>>);

/// A session that is looked for.
pub(super) struct Seek<'a> {
    seeks: &'a Seeks,
    user: &'a UserId,
}

impl Seeks {
    /// Begins to look for a session of a user that may have so many; `None` when as many are looked for as may be.
    pub(super) fn begin<'a>(&'a self, user: &'a UserId, of_user_max: usize) -> Option<Seek<'a>> {
        let mut users = lock(&self.0);
        let of_user = users.iter().filter(|other| *other == user).count();
        if users.len() >= SEEKS_MAX || of_user >= of_user_max {
            return None;
        }
        users.push(user.clone());
        Some(Seek { seeks: self, user })
    }
}

impl Drop for Seek<'_> {
    fn drop(&mut self) {
        let mut users = lock(&self.seeks.0);
        if let Some(at) = users.iter().position(|user| user == self.user) {
            users.swap_remove(at);
        }
    }
}

/// Asks all nodes but one; returns the one that knows most of the session.
pub(super) async fn seek(
    node: &Arc<Node>,
    want: &session_question::Kind,
    but: &NodeId,
) -> Option<NodeId> {
    let mut silent = node.cluster.others();
    silent.retain(|other| other != but);
    let (mut busy, mut given) = (None, None);
    for _ in 0..ROUNDS {
        let mut asked = JoinSet::new();
        for other in std::mem::take(&mut silent) {
            let (node, want) = (Arc::clone(node), want.clone());
            asked.spawn(async move {
                let answer = tokio::select! {
                    biased;
                    () = node.cluster.gone(&other) => return (other, Knows::Nothing),
                    answer = ask(&node, &other, want) => answer,
                };
                (
                    other,
                    answer.ok().flatten().map_or(Knows::Silent, Knows::of),
                )
            });
        }
        while let Some(Ok((other, knows))) = asked.join_next().await {
            match knows {
                Knows::Nothing => {}
                Knows::Silent => silent.push(other),
                Knows::Busy => busy = Some(other),
                // It may have gone on from there, too; whoever has it says so.
                Knows::Given(next) => {
                    if next != *node.name() && node.cluster.is_up(&next) {
                        given = Some(next);
                    }
                }
                Knows::Something => return Some(other),
            }
        }
    }
    busy.or(given)
}

/// What a node knows of a session.
enum Knows {
    Nothing,
    /// It has not answered, or not so that it is understood.
    Silent,
    /// It has the session, or is about to get it: then another one may have it yet.
    Busy,
    /// It has given the session to that node.
    Given(NodeId),
    Something,
}

impl Knows {
    fn of(answer: session_answer::Outcome) -> Self {
        let refusal = match answer {
            session_answer::Outcome::Refused(refusal) => refusal,
            session_answer::Outcome::GivenTo(next) => {
                return NodeId::parse(&next).map_or(Self::Nothing, Self::Given);
            }
            session_answer::Outcome::Offered(_) | session_answer::Outcome::Piece(_) => {
                return Self::Something;
            }
        };
        match SessionRefusal::try_from(refusal) {
            Ok(SessionRefusal::Busy) => Self::Busy,
            Ok(SessionRefusal::NotResumable) => Self::Something,
            Ok(SessionRefusal::Unknown | SessionRefusal::Over | SessionRefusal::Unspecified)
            | Err(_) => Self::Nothing,
        }
    }
}

/// How often those are asked that do not answer: the device had better begin anew than wait for a node that
/// is stuck.
const ROUNDS: usize = 2;

/// Sessions that are looked for at the same time. It takes a moment, or a second when a node is stuck.
const SEEKS_MAX: usize = 64;
