//! One room on one node: follows its log and tells the members that are here.

mod act;
mod arrive;
mod clock;
mod empty;
mod find;
mod follow;
mod moves;
mod news;
mod retire;
mod server;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::Instant;
use tombolo_engine::{Expect, Key, Offset, Purpose, Revision, latest};
use tombolo_room::{Applied, Body, GroupId, Illegal, Member, Membership, OperationId, Room, Time};
use tombolo_wire::v1::{self, ErrorCode, response};
use tombolo_wire::{NodeId, PublicKeys, RoomId, UserId};

use crate::cluster;
use crate::config::ROOM_MEMBERS_MAX;
use crate::growth::Growth;
use crate::lock::lock;
use crate::node::Node;
use crate::operate::RoomInfo;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

pub(crate) use act::{NamedAct, operation_named, operation_of, reject};
pub(crate) use empty::EmptyRooms;
pub(crate) use retire::Retirements;
pub(crate) use server::by_server;
pub use server::{MemberView, RoomMessages, RoomView, ServerActed};

/// One room on one node. It is there while the node has members in the room, or somebody joins.
pub(crate) struct Host {
    room: RoomId,
    key: Key,
    state: Mutex<State>,
    /// Grows whenever something was read from the log; 0 until all of it was read once.
    progress: latest::Sender<u64>,
    /// Whether the log is read no more.
    stopped: latest::Sender<bool>,
    /// By which write the room is listed as hosted here; empty until somebody joins.
    listed: OnceCell<Revision>,
}

pub(crate) struct State {
    /// What the members here have been told.
    room: Room,
    /// What is being read to catch up; `None` once that is done.
    ahead: Option<Room>,
    /// A later release has written here what this one cannot read: it hosts the room no further, and must
    /// not put its own view in place of what it does not understand.
    is_unreadable: bool,
    /// The last entry that was read.
    cursor: Option<Offset>,
    /// What time it was in the room when that was said last, and when this node read it.
    told: (Time, Instant),
    growth: Growth,
    /// The members whose sessions are on this node.
    session_by_user: BTreeMap<UserId, Arc<Session>>,
    /// The entries by which they became members, where they are known.
    here_since: BTreeMap<UserId, Offset>,
    pending_by_operation: BTreeMap<OperationId, Pending>,
    /// Servers that wait for an entry to be applied here.
    served_by_operation: BTreeMap<OperationId, oneshot::Sender<Applied>>,
    /// Nothing is left of the log, nor was anything appended since.
    is_retired: bool,
    /// How many joins are about.
    entrances: usize,
    /// How many members each other node has.
    members_by_node: BTreeMap<NodeId, usize>,
    departed: VecDeque<arrive::Departed>,
    /// The members that go on over other nodes, until all nodes know it.
    moved: Vec<moves::MovedMember>,
    waiting: arrive::Waiting,
    /// Whether what is public about the room may be another than what was shown.
    is_listing_stale: bool,
}

/// Somebody here waits for an entry to be applied.
struct Pending {
    session: Arc<Session>,
    request: u64,
    /// It has asked to go, and nothing else: an owner may put itself out, and is answered that.
    is_going: bool,
    /// What a joining device is to be told beside the room.
    wish: Wish,
    outcome: oneshot::Sender<Outcome>,
}

/// What a joining device is to be told beside the room.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// The last durable message that the device has, if it asks for those after it.
    pub(crate) after: Option<Position>,
    /// The device's own name for the question.
    pub(crate) tag: u64,
}

/// A durable message's place: which opening of the room, and its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) opening: OperationId,
    pub(crate) number: u64,
}

/// How an appended entry fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was applied and the device has its response.
    Done,
    /// It changed nothing.
    Illegal(Illegal),
    /// Nobody knows; plan anew.
    Again,
    /// Nobody says what became of it.
    Unsure,
}

/// What to do about a request.
pub(crate) enum Plan {
    /// Nothing: the device has its response.
    Done,
    /// Append this.
    Append(Proposal),
}

/// An entry to be appended. Dropping it gives up waiting for it.
pub(crate) struct Proposal {
    pub(crate) host: Arc<Host>,
    pub(crate) entry: Bytes,
    pub(crate) purpose: Purpose,
    pub(crate) expect: Expect,
    pub(crate) operation: OperationId,
    pub(crate) outcome: oneshot::Receiver<Outcome>,
    /// Changes when the log has been read further than the plan knows.
    pub(crate) progress: latest::Receiver<u64>,
}

impl Drop for Proposal {
    fn drop(&mut self) {
        self.outcome.close();
        let mut state = self.host.lock();
        let pending = &mut state.pending_by_operation;
        // The user may have asked for the same anew, by another session.
        let is_own = |pending: &Pending| pending.outcome.is_closed();
        if pending.get(&self.operation).is_some_and(is_own) {
            pending.remove(&self.operation);
        }
    }
}

/// Keeps a host while somebody joins.
pub(crate) struct Entrance {
    node: Arc<Node>,
    host: Arc<Host>,
}

impl Entrance {
    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.host.lock().entrances -= 1;
        self.node.release(&self.host);
    }
}

impl Node {
    /// Finds the room's host, or begins to host the room.
    pub(crate) fn enter(self: &Arc<Self>, room: &RoomId) -> Result<Entrance, Reject> {
        let mut hosts = lock(&self.host_by_room);
        let host = match hosts.get(room) {
            Some(host) => Arc::clone(host),
            None => {
                let key = Key::new(["room", room.as_str()])
                    .map_err(|error| Reject::new(ErrorCode::BadName, error))?;
                let host = Arc::new(Host::new(room.clone(), key));
                hosts.insert(room.clone(), Arc::clone(&host));
                self.runtime
                    .spawn(Arc::clone(&host).follow(Arc::clone(self)));
                host
            }
        };
        host.lock().entrances += 1;
        Ok(Entrance {
            node: Arc::clone(self),
            host,
        })
    }

    /// Ends hosting a room that nobody here is in.
    fn release(self: &Arc<Self>, host: &Arc<Host>) {
        let mut hosts = lock(&self.host_by_room);
        let state = host.lock();
        let is_needed = !state.moved.is_empty()
            || state.entrances > 0
            || !state.session_by_user.is_empty()
            || host.is_reading_anew(&state)
            || state.keeps_seats_of(self)
            || state.is_watched_here(self);
        let is_it = |found: &Arc<Host>| Arc::ptr_eq(found, host);
        if !hosts.get(&host.room).is_some_and(is_it) {
            return;
        }
        if is_needed {
            self.note_empty(host, &state);
            return;
        }
        self.empty_rooms.remove(&host.room);
        hosts.remove(&host.room);
        host.stop();
        self.catalogue.forget(&host.room);
        if let Some(last) = state.last_of_closed() {
            self.retire(host, last);
        } else if let Some(listed) = host.listed() {
            let (node, host) = (Arc::clone(self), Arc::clone(host));
            self.runtime
                .spawn(async move { cluster::unlist(&node, &host.room, listed).await });
        }
    }
}

impl Node {
    /// Notes whether nobody is in a room that is hosted on, and closes another one when there are too many such.
    fn note_empty(self: &Arc<Self>, host: &Arc<Host>, state: &State) {
        if !state.is_empty(self) {
            self.empty_rooms.remove(&host.room);
        } else if let Some(oldest) = self.empty_rooms.add(host, self.config.empty_rooms_max) {
            let node = Arc::clone(self);
            self.runtime
                .spawn(async move { oldest.close_empty(&node).await });
        }
    }
}

impl Host {
    fn new(room: RoomId, key: Key) -> Self {
        let state = State {
            room: Room::new(),
            ahead: Some(Room::new()),
            is_unreadable: false,
            cursor: None,
            told: (Time::ZERO, Instant::now()),
            growth: Growth::default(),
            session_by_user: BTreeMap::new(),
            here_since: BTreeMap::new(),
            pending_by_operation: BTreeMap::new(),
            served_by_operation: BTreeMap::new(),
            is_retired: false,
            entrances: 0,
            members_by_node: BTreeMap::new(),
            departed: VecDeque::new(),
            moved: Vec::new(),
            waiting: arrive::Waiting::default(),
            is_listing_stale: false,
        };
        let progress = latest::Sender::new(0);
        Self {
            room,
            key,
            state: Mutex::new(state),
            progress,
            stopped: latest::Sender::new(false),
            listed: OnceCell::new(),
        }
    }

    pub(crate) fn room(&self) -> &RoomId {
        &self.room
    }

    /// What operators are told of it; `None` when nobody is in it.
    pub(crate) fn info(&self) -> Option<RoomInfo> {
        let state = self.lock();
        let members_max = state.room.settings()?.members_max;
        Some(RoomInfo {
            room: self.room.to_string(),
            members: state.room.members().len(),
            members_here: state.session_by_user.len(),
            members_max,
        })
    }

    /// Whether members are this node's, or their seats are kept here, and no node that lives and whose name is before
    /// this one's has any.
    pub(crate) fn is_first(&self, node: &Node) -> bool {
        let state = self.lock();
        let is_before = |member: &Member| {
            let it = member.membership();
            it.node < *node.name() && !node.cluster.is_over(&it.node, it.incarnation)
        };
        let mut members = state.room.members();
        (!state.session_by_user.is_empty() || state.keeps_seats_of(node))
            && !members.any(|(_, member)| is_before(member))
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether all of the log has been read once.
    pub(crate) fn is_read(&self) -> bool {
        *self.progress.borrow() > 0
    }

    /// Whether the log, which had been read once, is read from its beginning: until that is done nobody knows whether
    /// the room still needs this node, as it did before.
    fn is_reading_anew(&self, state: &State) -> bool {
        self.is_read() && state.ahead.is_some() && !state.is_unreadable
    }

    /// Waits until all of the log has been read once, or is known to be of a later release.
    pub(crate) async fn synced(&self, node: &Node) -> Result<(), Reject> {
        let mut progress = self.progress.subscribe();
        let read = async {
            while !self.is_read() && !self.is_unreadable() && progress.changed().await.is_ok() {}
        };
        node.within(read).await?;
        if !self.is_read() {
            let message = "a later release has written what this node cannot read";
            return Err(Reject::new(ErrorCode::Unavailable, message));
        }
        Ok(())
    }

    /// Whether the log is read no more: this node is out of its cluster, or nobody here is in the room.
    pub(crate) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Whether a later release has written what this one cannot read.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.lock().is_unreadable
    }

    /// Waits until the log has been read as far as it went, and the room is listed as hosted here, which
    /// takes one way to the engine each: together, since somebody waits.
    pub(crate) async fn ready(&self, node: &Node) -> Result<(), Reject> {
        let listed = async {
            node.joined().await?;
            self.list(node).await
        };
        // Neither is cut short: what was listed must be known.
        let (synced, listed) = tokio::join!(self.synced(node), listed);
        synced.and(listed)
    }

    /// Lists the room as hosted here, so that whoever does what this node leaves to do finds it.
    pub(crate) async fn list(&self, node: &Node) -> Result<(), Reject> {
        let list = || cluster::list(node, &self.room);
        self.listed.get_or_try_init(list).await.map(|_| ())
    }

    pub(crate) fn listed(&self) -> Option<Revision> {
        self.listed.get().copied()
    }

    /// Ends reading the log.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Has the room drop the members that a node's lost lives left behind, whose seats are kept for a
    /// while, and refuse what those lives may still append. However long it takes the engine to take
    /// that in; returns once it was read here.
    pub(crate) async fn drop_members_of(&self, node: &Node, lost: &NodeId, incarnation: u64) {
        let body = Body::NodeLost {
            node: lost.clone(),
            incarnation,
        };
        let Some(at) = self.append_for_sure(node, body).await else {
            return;
        };
        self.read_until(at).await;
    }

    /// Forgets the session of a member that is over.
    pub(crate) fn forget(self: &Arc<Self>, node: &Arc<Node>, session: &Session) {
        {
            let mut state = self.lock();
            if state.is_member(session) {
                state.remove_session(&session.user);
            }
        }
        node.release(self);
    }

    /// Waits until the log has been read so far, or is read no more.
    async fn read_until(&self, at: Offset) {
        let mut progress = self.progress.subscribe();
        let mut stopped = self.stopped.subscribe();
        while self.lock().cursor < Some(at) {
            tokio::select! {
                biased;
                changed = progress.changed() => if changed.is_err() { return },
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
        }
    }

    /// Tells a session that it is a member, and then how the room is.
    fn welcome(
        &self,
        node: &Arc<Node>,
        state: &State,
        session: &Arc<Session>,
        request: u64,
        wish: Wish,
        coming: Coming,
    ) {
        let room = &state.room;
        // Of which groups it was nobody knows any more when its seat was not kept.
        let is_told_all =
            |number| coming == Coming::Back || !news::was_said_to_groups(room, number);
        let after = wish.after.filter(|after| {
            room.is_recoverable(after.opening, after.number) && is_told_all(after.number)
        });
        let mut joined = joined(&self.room, room, coming == Coming::First);
        joined.recovered = after.is_some();
        joined.tag = wish.tag;
        let joined = response::Result::Joined(joined);
        node.push(session, requests::answer(request, joined));
        let number = after.map(|after| after.number);
        for kind in news::of_room(room, &session.user, number, false) {
            node.push(session, self.room_event(kind, String::new()));
        }
    }
}

/// How somebody comes to be a member here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coming {
    /// With it the room opens.
    First,
    /// It was none.
    New,
    /// It has been one all the time.
    Back,
}

impl State {
    /// Follows a room no further that this release cannot read; nothing that devices want of it is done.
    fn give_up(&mut self) {
        self.is_unreadable = true;
        self.ahead.get_or_insert_with(|| self.room.clone());
    }

    /// The session of a member that is here.
    pub(crate) fn session(&self, user: &UserId) -> Option<&Arc<Session>> {
        self.session_by_user.get(user)
    }

    fn remove_session(&mut self, user: &UserId) -> Option<Arc<Session>> {
        self.here_since.remove(user);
        self.session_by_user.remove(user)
    }

    /// The members that are here.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&UserId, &Arc<Session>)> {
        self.session_by_user.iter()
    }

    /// Whether a member here was one when the log had been read so far: what was said before it came
    /// was told it where it was then, or is not for it.
    fn was_here(&self, user: &UserId, at: Offset) -> bool {
        self.here_since.get(user).is_none_or(|since| *since <= at)
    }

    /// The room, as far as its log was read.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// How a user takes part, here or elsewhere.
    pub(crate) fn membership(&self, user: &UserId) -> Option<&Membership> {
        self.room.membership(user)
    }

    /// Who has the say.
    pub(crate) fn owner(&self) -> Option<&UserId> {
        self.room.owner()
    }

    /// The members of an interest group, here and elsewhere.
    pub(crate) fn members_in(
        &self,
        group: GroupId,
    ) -> impl Iterator<Item = (&UserId, &Membership)> {
        let members = self.room.members();
        members
            .filter(move |(_, member)| member.groups().contains(&group))
            .map(|(user, member)| (user, member.membership()))
    }

    /// Counts who is elsewhere anew.
    fn count_elsewhere(&mut self, here: &NodeId) {
        self.members_by_node.clear();
        for (_, member) in self.room.members() {
            let node = &member.membership().node;
            if node != here {
                *self.members_by_node.entry(node.clone()).or_default() += 1;
            }
        }
    }

    /// The other nodes that have members, and how many.
    pub(crate) fn elsewhere(&self) -> impl Iterator<Item = (&NodeId, usize)> {
        self.members_by_node
            .iter()
            .map(|(node, members)| (node, *members))
    }

    /// How far the log has been read; `None` before its first entry.
    pub(crate) fn cursor(&self) -> Option<Offset> {
        self.cursor
    }

    /// How far the log has been read, and the room as that makes it.
    pub(crate) fn snapshot(&self) -> Option<(Offset, Bytes)> {
        let room = self.ahead.as_ref().unwrap_or(&self.room);
        Some((self.cursor?, room.snapshot()))
    }

    pub(crate) fn is_member(&self, session: &Session) -> bool {
        self.session(&session.user)
            .is_some_and(|found| found.id == session.id)
    }

    /// Whether somebody is a member here whose session is over: whoever looks for the seat, or wants to know that it
    /// is given up, comes to this node.
    fn keeps_seats_of(&self, node: &Node) -> bool {
        self.ahead.is_none()
            && self.room.members().any(|(_, member)| {
                let membership = member.membership();
                membership.node == *node.name() && membership.incarnation == node.incarnation()
            })
    }

    /// Whether members of this node have no session: their seats are kept, and nothing else.
    pub(crate) fn has_absent(&self) -> bool {
        let elsewhere: usize = self.members_by_node.values().sum();
        self.room.members().len() > self.session_by_user.len() + elsewhere
    }

    /// Why nothing is handed to a user that has no session here.
    pub(crate) fn why_not_to(&self, user: &UserId) -> Reject {
        match self.room.member(user) {
            Some(_) => requests::nothing_kept(),
            None => requests::no_such_member(user),
        }
    }

    /// Whether another user's device has the same identity key, which one of them must have copied.
    fn is_key_taken(&self, user: &UserId, keys: &PublicKeys) -> bool {
        self.room.members().any(|(other, found)| {
            other != user && found.membership().keys.identity == keys.identity
        })
    }

    /// Whether there is no place for a newcomer.
    fn is_too_full(&self, user: &UserId) -> bool {
        let is_full = self.room.is_full() && self.room.reserved_until(user).is_none();
        is_full || self.room.members().len() >= ROOM_MEMBERS_MAX as usize
    }
}

fn joined(id: &RoomId, room: &Room, created: bool) -> v1::Joined {
    let members = room.members();
    v1::Joined {
        room: id.to_string(),
        members: members
            .map(|(user, found)| news::member(user, found))
            .collect(),
        members_max: room.settings().map_or(0, |settings| settings.members_max),
        created,
        last: room.opening().map(|opening| v1::MessagePosition {
            opening: Bytes::copy_from_slice(&opening.0),
            number: room.message_last(),
        }),
        recovered: false,
        code: room
            .code()
            .map_or_else(String::new, |code| code.to_string()),
        tag: 0,
    }
}

#[cfg(test)]
mod tests {
    use tombolo_room::{Entry, SessionId, Settings};
    use tombolo_wire::resend::{Limits, Outbox};
    use tombolo_wire::v1::ServerFrame;
    use tombolo_wire::{NodeId, USER_BYTES_MAX};

    use super::*;

    #[test]
    fn the_largest_room_with_the_longest_names_is_told_in_one_frame() {
        let mut room = Room::new();
        for number in 0..u64::from(ROOM_MEMBERS_MAX) {
            let user = UserId::parse(&format!("{number:0USER_BYTES_MAX$}")).unwrap();
            let id = [number.to_be_bytes(), number.to_be_bytes()].concat();
            let id = <[u8; 16]>::try_from(id).unwrap();
            let membership = Membership {
                session: SessionId(id),
                keys: PublicKeys {
                    identity: [255; 32],
                    seal: [255; 32],
                },
                node: NodeId::parse("node").unwrap(),
                incarnation: 1,
                life: 1,
            };
            let join = tombolo_room::Join::new(user, membership);
            let settings = Settings {
                members_max: ROOM_MEMBERS_MAX,
                ..Settings::default()
            };
            let body = match number {
                0 => Body::created(settings, join),
                _ => Body::Joined(join),
            };
            let applied = room.apply(&Entry {
                operation: OperationId(id),
                time: Time::ZERO,
                node: None,
                incarnation: 0,
                body,
            });
            applied.outcome.unwrap();
        }
        let longest = RoomId::parse(&"r".repeat(tombolo_wire::ROOM_BYTES_MAX)).unwrap();
        let joined = response::Result::Joined(joined(&longest, &room, true));
        let frame = ServerFrame {
            body: Some(requests::answer(u64::MAX, joined)),
            ..ServerFrame::default()
        };
        assert_eq!(Outbox::new(Limits::default()).push(frame), Ok(1));
    }
}
