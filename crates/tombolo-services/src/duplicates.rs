//! As many sessions as a user may have, over all nodes.
//!
//! A node counts its own when a device comes ([`Services::attach`](crate::Services::attach)). Of those on other nodes it
//! hears a moment later: it says on the bus that the user has a new session, `user-sessions.<node>`, and nodes that
//! have some of the user say which. If those are too many together, it ends some as the policy has it, here or
//! there. Nothing is kept for it and nobody waits for it, so a login costs one message to each node, twice, since
//! one may get lost. In exchange a user may have more sessions than it may for a moment, and for as long as
//! nodes do not hear of each other; a newcomer that is to be refused is told after it was welcomed.
//!
//! Nodes that do so at the same time choose alike: by age, and then by the session's id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::timeout;
use tombolo_engine::{BusEvent, Key, Pattern};
use tombolo_room::SessionId;
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{NodeId, UserId};

use crate::config::Duplicates;
use crate::kept::VERSION;
use crate::kept::generated as wire;
use crate::lock::lock;
use crate::node::{Node, Parting};
use crate::reject::Reject;
use crate::session::Session;

/// The users whose sessions on other nodes are asked for.
pub(crate) type Gathers = Mutex<BTreeMap<UserId, Gather>>;

/// What is known of a user's sessions.
#[derive(Default)]
pub(crate) struct Gather {
    /// Those here that began a moment ago.
    fresh: BTreeSet<SessionId>,
    elsewhere: BTreeMap<NodeId, Vec<Seen>>,
}

/// A session as its node tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    since_ms: u64,
    id: SessionId,
    node: NodeId,
    is_connected: bool,
    is_fresh: bool,
}

/// What a node says of a user.
#[cfg_attr(test, derive(Debug, PartialEq))]
struct Told {
    from: NodeId,
    user: UserId,
    sessions: Vec<Seen>,
    asks: bool,
    ended: Vec<SessionId>,
    code: ErrorCode,
}

/// Finds out whether a user has more sessions than it may, now that it has this one.
pub(crate) fn announce(node: &Arc<Node>, session: &Arc<Session>) {
    if node.cluster.is_alone() {
        return;
    }
    let mut gathers = lock(&node.gathers);
    if gathers.len() >= GATHERS_MAX && !gathers.contains_key(&session.user) {
        return node.counters.cluster.items_refused.add(1);
    }
    let gather = gathers.entry(session.user.clone()).or_default();
    gather.fresh.insert(session.id);
    drop(gathers);
    let (node, user, id) = (Arc::clone(node), session.user.clone(), session.id);
    node.runtime.clone().spawn(async move {
        for pause in PAUSES {
            // A node that has none of them any more does not say so.
            if let Some(gather) = lock(&node.gathers).get_mut(&user) {
                gather.elsewhere.clear();
            }
            say(&node, &user, true, Vec::new()).await;
            tokio::time::sleep(pause).await;
            settle(&node, &user).await;
        }
        let mut gathers = lock(&node.gathers);
        if let Some(gather) = gathers.get_mut(&user) {
            gather.fresh.remove(&id);
            if gather.fresh.is_empty() {
                gathers.remove(&user);
            }
        }
    });
}

/// Hears what other nodes say for as long as it runs.
pub(crate) async fn run(node: Arc<Node>) {
    let Ok(all) = Key::new([SUBJECT]).map(Pattern::Under) else {
        return;
    };
    loop {
        if let Ok(mut subscription) = node.engine.subscribe(&all, MESSAGES_MAX).await {
            while let Some(event) = subscription.next().await {
                match event {
                    BusEvent::Message(message) => take_in(&node, &message.payload).await,
                    BusEvent::Lost(count) => node.counters.cluster.bus_lost.add(count),
                }
            }
        }
        tokio::time::sleep(SUBSCRIBE_DELAY).await;
    }
}

async fn take_in(node: &Arc<Node>, payload: &[u8]) {
    let Some(told) = Told::decode(payload) else {
        return node.counters.cluster.items_refused.add(1);
    };
    if told.from == *node.name() {
        return;
    }
    if !node.cluster.is_up(&told.from) {
        return node.counters.cluster.items_refused.add(1);
    }
    for id in &told.ended {
        end(node, &told.user, *id, told.code);
    }
    if let Some(gather) = lock(&node.gathers).get_mut(&told.user)
        && (gather.elsewhere.len() < NODES_MAX || gather.elsewhere.contains_key(&told.from))
    {
        gather.elsewhere.insert(told.from, told.sessions);
    }
    let is_here = !lock(&node.sessions).of_user(&told.user).is_empty();
    if told.asks && is_here {
        say(node, &told.user, false, Vec::new()).await;
    }
}

/// Ends what is too much, as far as it is known here.
async fn settle(node: &Arc<Node>, user: &UserId) {
    let mut all = here(node, user);
    if let Some(gather) = lock(&node.gathers).get(user) {
        for seen in gather.elsewhere.values().flatten() {
            let is_known = all.iter().any(|known| known.id == seen.id);
            if !is_known && node.cluster.is_up(&seen.node) {
                all.push(seen.clone());
            }
        }
    }
    let config = &node.config;
    let (ended, code) = too_many(all, config.sessions_per_user_max, config.duplicates);
    let mut elsewhere = Vec::new();
    for seen in ended {
        if seen.node == *node.name() {
            end(node, user, seen.id, code_of(code, &seen));
        } else if !seen.is_fresh {
            // Whoever has just begun there is for that node to refuse.
            elsewhere.push(seen.id);
        }
    }
    if !elsewhere.is_empty() {
        say(node, user, false, elsewhere).await;
    }
}

/// Those that are to end so that the user has as many as it may, and why.
fn too_many(mut all: Vec<Seen>, sessions_max: usize, policy: Duplicates) -> (Vec<Seen>, ErrorCode) {
    // The oldest first.
    all.sort_by_key(|seen| (seen.since_ms, seen.id));
    let code = match policy {
        Duplicates::ReplaceDisconnected => ErrorCode::NotResumable,
        Duplicates::ReplaceOldest => ErrorCode::Replaced,
        Duplicates::RefuseNewcomer => ErrorCode::Limit,
    };
    let mut ended = Vec::new();
    while all.len() > sessions_max.max(1) {
        let newest = all.iter().rposition(|seen| seen.is_fresh);
        let victim = match policy {
            Duplicates::ReplaceDisconnected => {
                let gone = all.iter().position(|seen| !seen.is_connected);
                gone.or(newest)
            }
            Duplicates::ReplaceOldest => Some(0),
            Duplicates::RefuseNewcomer => newest,
        };
        let Some(victim) = victim else {
            break;
        };
        ended.push(all.remove(victim));
    }
    (ended, code)
}

/// A newcomer for which there is no place is told so.
fn code_of(code: ErrorCode, seen: &Seen) -> ErrorCode {
    if code == ErrorCode::NotResumable && seen.is_connected {
        return ErrorCode::Limit;
    }
    code
}

fn end(node: &Arc<Node>, user: &UserId, id: SessionId, code: ErrorCode) {
    let mut sessions = lock(&node.sessions);
    let mut found = sessions.of_user(user).iter();
    let found = found.find(|session| session.id == id).cloned();
    if let Some(session) = found {
        let mut state = session.lock();
        if code == ErrorCode::NotResumable && state.is_connected {
            // Its device was gone, and has come back since.
            return;
        }
        let message = if code == ErrorCode::Limit {
            "the user has as many sessions as it may"
        } else {
            "a newer session took its place"
        };
        let reject = Reject::new(code, message);
        node.counters.count_refused(code);
        let parting = Parting::of_replaced(&state);
        node.end_locked(&mut sessions, &mut state, &session, parting, Some(reject));
    }
}

/// The user's sessions on this node.
fn here(node: &Node, user: &UserId) -> Vec<Seen> {
    let sessions = lock(&node.sessions).of_user(user).to_vec();
    let gathers = lock(&node.gathers);
    let fresh = gathers.get(user).map(|gather| &gather.fresh);
    let seen = sessions.iter().map(|session| Seen {
        since_ms: u64::try_from(session.began.as_millis()).unwrap_or(u64::MAX),
        id: session.id,
        node: node.name().clone(),
        is_connected: session.lock().is_connected,
        is_fresh: fresh.is_some_and(|fresh| fresh.contains(&session.id)),
    });
    seen.collect()
}

/// Says which sessions a user has here, and which ones elsewhere are to end.
async fn say(node: &Node, user: &UserId, asks: bool, ended: Vec<SessionId>) {
    let Some(epoch) = node.cluster.epoch() else {
        return;
    };
    let mut sessions = here(node, user);
    sessions.truncate(SESSIONS_MAX);
    let code = match node.config.duplicates {
        Duplicates::ReplaceOldest => ErrorCode::Replaced,
        Duplicates::ReplaceDisconnected => ErrorCode::NotResumable,
        Duplicates::RefuseNewcomer => ErrorCode::Limit,
    };
    let told = wire::UserSessions {
        version: VERSION,
        from: node.name().to_string(),
        epoch,
        user: user.to_string(),
        sessions: sessions.iter().map(Seen::on_wire).collect(),
        asks,
        ended: ended
            .iter()
            .map(|id| Bytes::copy_from_slice(&id.0))
            .collect(),
        code: u32::try_from(i32::from(code)).unwrap_or_default(),
    };
    let Ok(subject) = Key::new([SUBJECT, node.name().as_str()]) else {
        return;
    };
    let publish = node.engine.publish(&subject, told.encode_to_vec().into());
    if !matches!(timeout(PUBLISH_TIMEOUT, publish).await, Ok(Ok(()))) {
        node.counters.cluster.frames_failed.add(1);
    }
}

impl Seen {
    fn on_wire(&self) -> wire::UserSession {
        wire::UserSession {
            id: Bytes::copy_from_slice(&self.id.0),
            since_ms: self.since_ms,
            connected: self.is_connected,
            fresh: self.is_fresh,
        }
    }
}

impl Told {
    fn decode(payload: &[u8]) -> Option<Self> {
        let told = wire::UserSessions::decode(payload).ok()?;
        let is_good = told.version == VERSION
            && told.sessions.len() <= SESSIONS_MAX
            && told.ended.len() <= SESSIONS_MAX;
        is_good.then_some(())?;
        let id = |bytes: &Bytes| bytes.as_ref().try_into().ok().map(SessionId);
        let from = NodeId::parse(&told.from).ok()?;
        let sessions = told.sessions.iter().map(|session| {
            Some(Seen {
                since_ms: session.since_ms,
                id: id(&session.id)?,
                node: from.clone(),
                is_connected: session.connected,
                is_fresh: session.fresh,
            })
        });
        let code = i32::try_from(told.code).ok()?;
        Some(Self {
            user: UserId::parse(&told.user).ok()?,
            sessions: sessions.collect::<Option<_>>()?,
            asks: told.asks,
            ended: told.ended.iter().map(id).collect::<Option<_>>()?,
            code: ErrorCode::try_from(code).ok()?,
            from,
        })
    }
}

/// Of what is said of users' sessions, on the bus.
const SUBJECT: &str = "user-sessions";

/// How long answers are waited for, the first time and the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(300)];

/// Users that are asked for at the same time; of others only what is here counts.
const GATHERS_MAX: usize = 16 * 1024;

/// Nodes whose answers about one user are kept.
const NODES_MAX: usize = 256;

/// Sessions in one message.
const SESSIONS_MAX: usize = 256;

/// Messages that wait to be taken in.
const MESSAGES_MAX: usize = 4096;

const SUBSCRIBE_DELAY: Duration = Duration::from_millis(250);

/// How long the bus may take to take a message in.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: u8, is_connected: bool, is_fresh: bool) -> Seen {
        Seen {
            since_ms: number.into(),
            id: SessionId([number; 16]),
            node: NodeId::parse("a").unwrap(),
            is_connected,
            is_fresh,
        }
    }

    fn ended(all: &[Seen], sessions_max: usize, policy: Duplicates) -> Vec<u64> {
        let (ended, _) = too_many(all.to_vec(), sessions_max, policy);
        ended.iter().map(|seen| seen.since_ms).collect()
    }

    #[test]
    fn the_policy_says_which_sessions_end() {
        let all = [
            seen(4, true, true),
            seen(1, true, false),
            seen(3, true, true),
            seen(2, false, false),
        ];
        assert_eq!(ended(&all, 4, Duplicates::ReplaceOldest), [0_u64; 0]);
        assert_eq!(ended(&all, 2, Duplicates::ReplaceOldest), [1, 2]);
        assert_eq!(ended(&all, 2, Duplicates::ReplaceDisconnected), [2, 4]);
        assert_eq!(ended(&all, 2, Duplicates::RefuseNewcomer), [4, 3]);
        assert_eq!(ended(&all, 1, Duplicates::RefuseNewcomer), [4, 3]);
    }

    #[test]
    fn what_a_node_says_is_read_as_written_and_a_cut_or_wrong_one_is_refused() {
        let told = wire::UserSessions {
            version: VERSION,
            from: "b".into(),
            epoch: 1,
            user: "alice".into(),
            sessions: vec![seen(1, true, false).on_wire()],
            asks: true,
            ended: vec![Bytes::copy_from_slice(&[2; 16])],
            code: 0,
        };
        let bytes = told.encode_to_vec();
        let read = Told::decode(&bytes).unwrap();
        assert_eq!((read.sessions.len(), read.ended.len()), (1, 1));
        for end in 0..bytes.len() {
            let _ = Told::decode(&bytes[..end]);
        }
        let mut many = told.clone();
        many.ended = vec![Bytes::copy_from_slice(&[2; 16]); SESSIONS_MAX + 1];
        assert!(Told::decode(&many.encode_to_vec()).is_none());
        let mut short = told;
        short.ended = vec![Bytes::from_static(b"short")];
        assert!(Told::decode(&short.encode_to_vec()).is_none());
    }
}

#[cfg(test)]
mod kept {
    //! What nodes of the release before say of users' sessions.

    use super::*;

    #[test]
    fn what_the_release_before_says_of_sessions_is_read_the_same() {
        let told = wire::UserSessions {
            version: VERSION,
            from: "node-1".into(),
            epoch: 1,
            user: "alice".into(),
            sessions: vec![wire::UserSession {
                id: Bytes::from_static(&[1; 16]),
                since_ms: 1_793_000_000_000,
                connected: true,
                fresh: true,
            }],
            asks: true,
            ended: vec![Bytes::from_static(&[2; 16])],
            code: 15,
        };
        crate::before::check("sessions", &told, Told::decode);
    }
}
