//! The part of a host that reads the log and tells the members that are here.

use std::sync::Arc;
use std::time::Duration;

use tombolo_engine::TailEvent;
use tombolo_room::{
    Body, Entry, EntryError, Event, LeftReason, Made, Member, Membership, Message, OperationId,
    Room,
};
use tombolo_wire::UserId;
use tombolo_wire::v1::{self, response, room_event, server_frame};

use super::news::{self, News};
use super::{Coming, Host, Outcome, Pending, State, act};
use crate::events::RoomEvent;
use crate::growth::Growth;
use crate::node::{Node, Parting};
use crate::requests;
use crate::session::Session;

impl Host {
    /// Reads the log until the host is released.
    pub(super) async fn follow(self: Arc<Self>, node: Arc<Node>) {
        let mut stopped = self.stopped.subscribe();
        let read = node.attend_log(&self.key, || self.read(&node), || self.let_go(&node));
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = read => {}
        }
    }

    /// Lets go of what was made of the log, since that may be wrong: the devices of members here begin anew with what it
    /// says when it has been read again.
    fn let_go(&self, node: &Arc<Node>) {
        let mut state = self.lock();
        state.is_unreadable = false;
        state.cursor = None;
        state.ahead = Some(Room::new());
        state.pending_by_operation.clear();
        state.served_by_operation.clear();
        let sessions: Vec<_> = state.session_by_user.values().cloned().collect();
        drop(state);
        for session in sessions {
            node.begin_anew(&session, "what this node knew of a room is lost");
        }
    }

    async fn read(self: &Arc<Self>, node: &Arc<Node>) {
        'anew: loop {
            let after = self.lock().cursor;
            if let Ok(mut tail) = node.engine.tail(&self.key, after).await {
                loop {
                    tokio::select! {
                        biased;
                        event = tail.next() => match event {
                            // Nothing tells when a log that was begun anew has been read, but another
                            // reader of it.
                            Some(TailEvent::Reset) => {
                                self.handle_event(node, TailEvent::Reset);
                                continue 'anew;
                            }
                            Some(event) => self.handle_event(node, event),
                            None => break,
                        },
                        () = self.tick(node) => {}
                    }
                }
            }
            tokio::time::sleep(TAIL_DELAY).await;
        }
    }

    fn handle_event(self: &Arc<Self>, node: &Arc<Node>, event: TailEvent) {
        let mut state = self.lock();
        match event {
            TailEvent::Entry { at, entry } => {
                state.cursor = Some(at);
                state.is_retired = false;
                self.on_entry(node, &mut state, &entry);
                Self::admit_waiting(node, &mut state);
                state.growth.add(&entry);
                self.keep_snapshot(node, &mut state);
            }
            TailEvent::Snapshot {
                at,
                state: snapshot,
            } => {
                state.cursor = Some(at);
                state.growth = Growth::since(snapshot.len());
                match (Room::restore(&snapshot), &mut state.ahead) {
                    (Ok(room), Some(ahead)) => *ahead = room,
                    (Ok(room), None) => self.replace(node, &mut state, room),
                    (Err(error), _) => {
                        tracing::error!(room = %self.room, %error, "bad snapshot");
                        state.give_up();
                    }
                }
                Self::admit_waiting(node, &mut state);
            }
            // Nothing was read of it, so the room is as it is: not open.
            TailEvent::Retired { at } => {
                state.cursor = Some(at);
                state.is_retired = true;
            }
            TailEvent::Reset => {
                state.is_unreadable = false;
                state.cursor = None;
                state.ahead = Some(Room::new());
            }
            TailEvent::Synced if state.is_unreadable => {}
            TailEvent::Synced => {
                if let Some(room) = state.ahead.take() {
                    self.replace(node, &mut state, room);
                }
                // Much was put there while nobody could keep it.
                self.keep_snapshot(node, &mut state);
                Self::admit_waiting(node, &mut state);
            }
        }
        let is_caught_up = state.ahead.is_none();
        if is_caught_up {
            state.follow_clock();
            self.show(node, &mut state);
        }
        let is_unreadable = state.is_unreadable;
        drop(state);
        if is_caught_up || is_unreadable {
            // Somebody may wait for what was read, understood or not.
            let more = u64::from(is_caught_up);
            self.progress.send_modify(|progress| *progress += more);
        }
        node.release(self);
    }

    fn on_entry(self: &Arc<Self>, node: &Arc<Node>, state: &mut State, entry: &[u8]) {
        let entry = match Entry::decode(entry) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::error!(room = %self.room, %error, "bad entry");
                // Malformed bytes change nothing on any node. What is of another version does, there.
                if matches!(error, EntryError::Version { version: 1.. }) {
                    state.give_up();
                }
                return;
            }
        };
        if let Some(ahead) = &mut state.ahead {
            // Who is to be told is found out when all has been read.
            let _ = ahead.apply(&entry);
            return;
        }
        let pending = state.pending_by_operation.remove(&entry.operation);
        let before = if let Body::Returned { user, .. } = &entry.body {
            state.room.member(user).cloned()
        } else {
            None
        };
        let applied = state.room.apply(&entry);
        let heard = match matches!(entry.body, Body::Created { .. }) {
            true => Heard::Opening,
            false => Heard::Entry,
        };
        for event in &applied.events {
            state.is_listing_stale |= super::find::is_public(event);
            if entry.node.as_ref() == Some(node.name()) {
                self.emit(node, &entry.body, event);
            }
            if let Event::Said(message) = event {
                self.emit_said(node, state, message, entry.operation);
            }
            match (event, &before) {
                (Event::Returned { user, membership }, Some(before)) => {
                    self.on_went_on(node, state, user, before, membership);
                }
                _ => self.on_event(node, state, event, pending.as_ref(), heard),
            }
        }
        self.drop_ghosts(node, &applied.events);
        let outcome = match applied.outcome {
            Ok(()) => Outcome::Done,
            Err(illegal) => Outcome::Illegal(illegal),
        };
        if let (Body::Act { .. }, Ok(()), Some(pending)) = (&entry.body, applied.outcome, &pending)
        {
            let acted = act::acted(Made::of(&applied.events));
            node.push(&pending.session, requests::answer(pending.request, acted));
        }
        if let Some(pending) = pending {
            let _ = pending.outcome.send(outcome);
        }
        if let Some(server) = state.served_by_operation.remove(&entry.operation) {
            let _ = server.send(applied);
        }
    }

    /// Tells of the room's beginning, or its end, which an entry of this node brings about.
    fn emit(&self, node: &Node, body: &Body, event: &Event) {
        let opener = if let Body::Created { first, .. } = body {
            first.as_ref().map(|first| &first.user)
        } else {
            None
        };
        if let Event::Opened = event {
            node.changes
                .emit_of_room(RoomEvent::Opened, &self.room, opener);
        } else if let Event::Closed = event {
            node.changes
                .emit_of_room(RoomEvent::Closed, &self.room, None);
        }
    }

    /// Tells what was said by a member on this node, or by a server that asked this node to.
    fn emit_said(&self, node: &Node, state: &State, message: &Message, operation: OperationId) {
        let user = message.from.member();
        let is_from_here = match user {
            Some(user) => {
                let membership = state.room.membership(user);
                membership.is_some_and(|membership| membership.node == *node.name())
            }
            None => state.served_by_operation.contains_key(&operation),
        };
        if is_from_here {
            let said = RoomEvent::Said(message.clone());
            node.changes.emit_of_room(said, &self.room, user);
        }
    }

    fn on_event(
        self: &Arc<Self>,
        node: &Arc<Node>,
        state: &mut State,
        event: &Event,
        pending: Option<&Pending>,
        heard: Heard<'_>,
    ) {
        // Whoever goes hears of it as an answer, or as an event, but last.
        if let Event::Left {
            user,
            membership,
            reason,
        } = event
        {
            self.on_left(node, state, user, membership, *reason, pending);
        }
        // What a member sees in other groups is much, and only for itself.
        let is_for_nobody =
            matches!(event, Event::GroupsChanged { user, .. } if state.session(user).is_none());
        if !is_for_nobody {
            for news in news::of_event(&state.room, event) {
                self.tell(node, state, &news);
            }
        }
        if let Event::Dropped { user, .. } = event {
            self.on_presence(node, state, user);
        }
        if let Event::Joined {
            user, membership, ..
        }
        | Event::Returned { user, membership } = event
        {
            state.count_elsewhere(node.name());
            if membership.node == *node.name() {
                let pending = pending.filter(|pending| pending.session.id == membership.session);
                let is_new = matches!(event, Event::Joined { .. });
                let coming = match (is_new, heard) {
                    (false, _) => Coming::Back,
                    (true, Heard::Opening) => Coming::First,
                    (true, Heard::Entry | Heard::Difference(_)) => Coming::New,
                };
                let parting = match heard.had_seat(user) || !is_new {
                    true => Parting::Drops,
                    false => NEVER_CAME,
                };
                let come = (coming, parting);
                self.on_joined_here(node, state, user, membership, pending, come);
            } else {
                self.on_gone_elsewhere(node, state, user);
            }
        }
    }

    /// One of this node's sessions has become a member, if it is still about; if not, it parts.
    fn on_joined_here(
        self: &Arc<Self>,
        node: &Arc<Node>,
        state: &mut State,
        user: &UserId,
        membership: &Membership,
        pending: Option<&Pending>,
        (coming, parting): (Coming, Parting),
    ) {
        // Two may have joined at the same time; the log says who was first.
        if let Some(pending) = pending
            && state.is_key_taken(user, &membership.keys)
        {
            let reject = requests::key_taken();
            requests::fail(node, &pending.session, pending.request, reject);
            return self.part_with(node, state, user, membership, parting);
        }
        let waits = pending.is_some_and(|pending| {
            let mut session = pending.session.lock();
            let waits = session.ended().is_none();
            if waits {
                session.enter_room(&self.room, self);
                // It may have lost its connection while it joined.
                node.tell_rooms(&pending.session, &mut session);
            }
            waits
        });
        let Some(pending) = pending.filter(|_| waits) else {
            if !self.on_come_here(node, state, user, membership) {
                self.part_with(node, state, user, membership, parting);
            }
            return;
        };
        self.make_way(node, state, user, &pending.session);
        state
            .session_by_user
            .insert(user.clone(), Arc::clone(&pending.session));
        if let Some(at) = state.cursor {
            state.here_since.insert(user.clone(), at);
        }
        let (session, request) = (&pending.session, pending.request);
        self.welcome(node, state, session, request, pending.wish, coming);
        node.changes
            .emit_of_room(RoomEvent::Joined, &self.room, Some(user));
    }

    /// The room has it that a member is dropped, or is not. Its session may be here and know better, or be over: that
    /// it had returned may have been written late.
    pub(super) fn on_presence(self: &Arc<Self>, node: &Arc<Node>, state: &State, user: &UserId) {
        let Some(member) = state.room.member(user) else {
            return;
        };
        let membership = member.membership();
        match state.session(user) {
            Some(session)
                if session.id == membership.session
                    && node.on_presence_in(session, &self.room, member.presence()) => {}
            // It is over, or is being forgotten.
            found
                if membership.node == *node.name()
                    && found.is_none_or(|session| session.id == membership.session) =>
            {
                self.part_with(node, state, user, membership, Parting::Drops);
            }
            Some(_) | None => {}
        }
    }

    /// A member has gone: from here, if its session is here.
    fn on_left(
        &self,
        node: &Arc<Node>,
        state: &mut State,
        user: &UserId,
        membership: &Membership,
        reason: LeftReason,
        pending: Option<&Pending>,
    ) {
        let left = v1::MemberLeft {
            user: user.to_string(),
            reason: reason.as_str().to_owned(),
        };
        if membership.node == *node.name() {
            // Its session may have ended before, and its seat was kept.
            node.changes
                .emit_of_room(RoomEvent::Left, &self.room, Some(user));
        } else {
            state.remember_departed(user, membership);
            state.count_elsewhere(node.name());
        }
        let is_here = |session: &&Arc<Session>| session.id == membership.session;
        if let Some(session) = state.session(user).filter(is_here).cloned() {
            state.remove_session(user);
            self.leave_to(state, &session);
            let asked =
                pending.filter(|pending| pending.is_going && pending.session.id == session.id);
            let news = match asked {
                Some(pending) => {
                    let left = v1::Left {
                        room: self.room.to_string(),
                    };
                    requests::answer(pending.request, response::Result::Left(left))
                }
                None => self.room_event(room_event::Kind::Left(left), String::new()),
            };
            node.push(&session, news);
        }
    }

    /// A member takes part by this session now: another one that had its seat here, and was dropped, is
    /// told that it has it no more.
    pub(super) fn make_way(
        &self,
        node: &Arc<Node>,
        state: &mut State,
        user: &UserId,
        newcomer: &Session,
    ) {
        let is_another = |found: &Arc<Session>| found.id != newcomer.id;
        if state.session(user).is_some_and(is_another) {
            self.on_gone_elsewhere(node, state, user);
        }
    }

    /// A member takes part over another node now: what it had here is over.
    fn on_gone_elsewhere(&self, node: &Arc<Node>, state: &mut State, user: &UserId) {
        if let Some(session) = state.remove_session(user) {
            self.leave_to(state, &session);
            let left = v1::MemberLeft {
                user: user.to_string(),
                reason: LeftReason::Replaced.as_str().to_owned(),
            };
            let news = self.room_event(room_event::Kind::Left(left), String::new());
            node.push(&session, news);
        }
    }

    /// A session takes no part any more; its device may, by another one.
    fn leave_to(&self, state: &State, session: &Session) {
        let now = state.room.membership(&session.user);
        let is_same_device =
            now.is_some_and(|now| now.session != session.id && now.keys == session.keys);
        let mut about = session.lock();
        about.leave_room(&self.room);
        about.has_begun_anew |= is_same_device;
    }

    /// Replaces the room by one whose history is not known: its members are told the difference.
    fn replace(self: &Arc<Self>, node: &Arc<Node>, state: &mut State, room: Room) {
        let old = std::mem::replace(&mut state.room, room);
        state.is_listing_stale = true;
        let mut pending = std::mem::take(&mut state.pending_by_operation);
        state.served_by_operation.clear();
        for event in difference(&old, &state.room) {
            let session =
                if let Event::Joined { membership, .. } | Event::Left { membership, .. } = &event {
                    Some(membership.session)
                } else {
                    None
                };
            let is_gone = matches!(event, Event::Left { .. });
            let operation = pending
                .iter()
                .find(|(_, pending)| {
                    Some(pending.session.id) == session && pending.is_going == is_gone
                })
                .map(|(operation, _)| *operation);
            let asked = operation.and_then(|operation| pending.remove(&operation));
            let heard = Heard::Difference(&old);
            self.on_event(node, state, &event, asked.as_ref(), heard);
            if let Some(asked) = asked {
                let _ = asked.outcome.send(Outcome::Done);
            }
        }
        // They came at some time before the snapshot.
        state.here_since.clear();
        self.on_replaced(node, state, &old);
        for (user, member) in state.room.members() {
            let session = member.membership().session;
            let was_there = old.membership(user).is_some_and(|it| it.session == session);
            // Of those who have just come it was found out whether they are here.
            if was_there || state.session(user).is_some() {
                self.on_presence(node, state, user);
            }
        }
        self.tell_presence(node, state, &old);
        self.tell_anew(node, state, &old);
        for pending in pending.into_values() {
            let _ = pending.outcome.send(Outcome::Again);
        }
    }

    /// Tells who was dropped meanwhile, or is back, and has not left in between.
    fn tell_presence(&self, node: &Arc<Node>, state: &State, old: &Room) {
        for (user, before) in old.members() {
            let now = state.room.member(user).filter(|now| {
                now.membership().session == before.membership().session
                    && now.is_present() != before.is_present()
            });
            for news in now
                .into_iter()
                .flat_map(|_| news::of_presence(&state.room, user))
            {
                self.tell(node, state, &news);
            }
        }
    }

    /// Tells the members here, who were in the room before, how it is now.
    fn tell_anew(&self, node: &Arc<Node>, state: &State, old: &Room) {
        let Some(opening) = old.opening() else {
            return;
        };
        let known = old.message_last();
        let is_kept = state.room.is_recoverable(opening, known);
        let was_said_to_groups = news::was_said_to_groups(&state.room, known);
        for (user, session) in &state.session_by_user {
            let Some(before) = old.member(user) else {
                continue;
            };
            // Of which groups it was when something was said nobody knows any more.
            let now = state.room.member(user).map(Member::groups);
            let is_told_all = !was_said_to_groups || now == Some(before.groups());
            let after = (is_kept && is_told_all).then_some(known);
            for kind in news::of_room(&state.room, user, after, after.is_none()) {
                node.push(session, self.room_event(kind, String::new()));
            }
        }
    }

    /// A member that claims to be here but is not, as its session has ended meanwhile: a newcomer leaves, and of one that
    /// was a member before the seat is kept.
    pub(super) fn part_with(
        self: &Arc<Self>,
        node: &Arc<Node>,
        state: &State,
        user: &UserId,
        membership: &Membership,
        parting: Parting,
    ) {
        if !claims_to_be_here(node, state, user, membership) {
            return;
        }
        let (host, node, user) = (Arc::clone(self), Arc::clone(node), user.clone());
        let session = membership.session;
        node.runtime.clone().spawn(async move {
            match parting {
                Parting::Leaves(reason) => host.leave(&node, &user, session, reason).await,
                Parting::Drops => {
                    let body = Body::Dropped { user, session };
                    host.append_for_sure(&node, body).await;
                }
            }
        });
    }

    /// Tells those members here whom it concerns.
    pub(super) fn tell(&self, node: &Arc<Node>, state: &State, news: &News) {
        for (user, session) in &state.session_by_user {
            if news.whom.includes(user, state.room.member(user)) {
                let event = self.room_event(news.kind.clone(), news.by.clone());
                node.push(session, event);
            }
        }
    }

    pub(super) fn room_event(&self, kind: room_event::Kind, by: String) -> server_frame::Body {
        server_frame::Body::RoomEvent(v1::RoomEvent {
            room: self.room.to_string(),
            kind: Some(kind),
            by,
        })
    }

    /// Now and then, so that logs stay short.
    fn keep_snapshot(self: &Arc<Self>, node: &Arc<Node>, state: &mut State) {
        let Some(at) = state.cursor else { return };
        if !state.growth.is_due(SNAPSHOT_ENTRIES) || state.ahead.is_some() || state.is_unreadable {
            return;
        }
        let snapshot = state.room.snapshot();
        state.growth = Growth::since(snapshot.len());
        let (host, node) = (Arc::clone(self), Arc::clone(node));
        node.runtime.clone().spawn(async move {
            if let Err(error) = node.engine.snapshot(&host.key, at, snapshot).await {
                tracing::debug!(room = %host.room, %error, "no snapshot");
            }
        });
    }
}

/// How something that happened in a room is known.
#[derive(Clone, Copy)]
enum Heard<'a> {
    /// By the entry that opened the room.
    Opening,
    /// By another entry.
    Entry,
    /// By what the room is now and was before.
    Difference(&'a Room),
}

impl Heard<'_> {
    /// Whether a member that has come is known to have had its seat before.
    fn had_seat(self, user: &UserId) -> bool {
        match self {
            Self::Opening | Self::Entry => false,
            Self::Difference(before) => before.member(user).is_some(),
        }
    }
}

/// What turns one room into the other.
fn difference(old: &Room, new: &Room) -> Vec<Event> {
    let reason = LeftReason::Disconnected;
    let left = missing(old, new).map(|(user, membership)| Event::Left {
        user,
        membership,
        reason,
    });
    let joined = missing(new, old).map(|(user, membership)| {
        let seat = new.member(&user).map_or(0, Member::seat);
        Event::Joined {
            user,
            membership,
            seat,
        }
    });
    left.chain(joined).collect()
}

/// Whether a member that is not here claims to be. What an earlier life of the node left behind is declared lost as a
/// whole, with seats kept; before this life has begun, that is all there can be. Whoever is dropped does not claim to be
/// here: its seat is kept.
fn claims_to_be_here(node: &Node, state: &State, user: &UserId, membership: &Membership) -> bool {
    let epoch = node.cluster.epoch();
    let is_of_this_life = epoch.is_some_and(|epoch| membership.incarnation >= epoch);
    is_of_this_life && state.room.member(user).is_some_and(Member::is_present)
}

/// The members of one room that are not in the other with the same session.
fn missing(here: &Room, there: &Room) -> impl Iterator<Item = (UserId, Membership)> {
    here.members()
        .map(|(user, member)| (user, member.membership()))
        .filter(|(user, membership)| {
            let found = there.membership(user);
            found.is_none_or(|found| found.session != membership.session)
        })
        .map(|(user, membership)| (user.clone(), membership.clone()))
}

/// Of a newcomer.
const NEVER_CAME: Parting = Parting::Leaves(LeftReason::Disconnected);

/// After how many entries a room is kept as a snapshot.
const SNAPSHOT_ENTRIES: usize = 512;

/// Between two attempts to read a log.
const TAIL_DELAY: Duration = Duration::from_millis(250);
