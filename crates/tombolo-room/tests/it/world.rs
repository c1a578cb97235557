//! A room with a hand on it: entries by name, the clock by seconds.

use std::time::Duration;

use tombolo_room::{
    Act, Actor, Body, Entry, Event, Illegal, Join, LeftReason, Membership, OperationId, Room,
    SessionId, Settings, Time,
};
use tombolo_wire::{PublicKeys, UserId};

/// A room, and what is needed to talk to it.
pub(crate) struct World {
    pub(crate) room: Room,
    now: Time,
    operations: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            room: Room::new(),
            now: Time::from_millis(1_000_000),
            operations: 0,
        }
    }

    /// A room that these have joined, the first of them as its creator; `a` has session 1, and so on.
    pub(crate) fn with(settings: Settings, users: &[&str]) -> Self {
        let mut world = Self::new();
        let mut joins = users
            .iter()
            .zip(1..)
            .map(|(name, session)| join(name, session));
        let first = joins.next().unwrap();
        world.apply(Body::created(settings, first)).unwrap();
        for join in joins {
            world.apply(Body::Joined(join)).unwrap();
        }
        world
    }

    pub(crate) fn apply(&mut self, body: Body) -> Result<Vec<Event>, Illegal> {
        self.operations += 1;
        let entry = entry(self.operations, self.now, body);
        let entry = through_the_log(&entry);
        let applied = self.room.apply(&entry);
        check(&self.room);
        applied.outcome.map(|()| applied.events)
    }

    pub(crate) fn act(&mut self, name: &str, act: Act) -> Result<Vec<Event>, Illegal> {
        let user = user(name);
        let session = self.room.membership(&user).map(|found| found.session);
        let session = session.unwrap_or(SessionId([0; 16]));
        let actor = Actor::Member { user, session };
        self.apply(Body::Act { actor, act })
    }

    pub(crate) fn serve(&mut self, act: Act) -> Result<Vec<Event>, Illegal> {
        let actor = Actor::Server;
        self.apply(Body::Act { actor, act })
    }

    pub(crate) fn join(&mut self, name: &str, session: u8) -> Result<Vec<Event>, Illegal> {
        self.apply(Body::Joined(join(name, session)))
    }

    pub(crate) fn drop(&mut self, name: &str, session: u8) -> Result<Vec<Event>, Illegal> {
        let session = SessionId([session; 16]);
        let user = user(name);
        self.apply(Body::Dropped { user, session })
    }

    pub(crate) fn leave(&mut self, name: &str, session: u8) -> Result<Vec<Event>, Illegal> {
        self.apply(Body::Left {
            user: user(name),
            session: SessionId([session; 16]),
            reason: LeftReason::Left,
        })
    }

    /// Lets time pass without a word.
    pub(crate) fn wait(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    /// Lets time pass, and the room notice.
    pub(crate) fn tick(&mut self, seconds: u64) -> Vec<Event> {
        self.wait(seconds);
        match self.apply(Body::Ticked) {
            Ok(events) => events,
            Err(illegal) => panic!("a tick is {illegal}"),
        }
    }

    pub(crate) fn in_seconds(&self, seconds: u64) -> Time {
        self.now.after(Duration::from_secs(seconds))
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.room.members().map(|(user, _)| user.as_str()).collect()
    }

    pub(crate) fn owner(&self) -> Option<&str> {
        self.room.owner().map(UserId::as_str)
    }

    pub(crate) fn seat(&self, name: &str) -> u32 {
        self.room.member(&user(name)).unwrap().seat()
    }
}

/// The entry as readers of the log get it.
fn through_the_log(entry: &Entry) -> Entry {
    Entry::decode(&entry.encode()).unwrap()
}

/// What always holds of a room.
pub(crate) fn check(room: &Room) {
    let restored = Room::restore(&room.snapshot()).unwrap();
    assert_eq!(&restored, room, "what a snapshot says is the room");
    assert_eq!(restored.poll_timeout(), room.poll_timeout());
    assert!(
        room.poll_timeout().is_none_or(|due| due > room.clock()),
        "nothing is overdue"
    );
    let mut seats: Vec<_> = room.members().map(|(_, member)| member.seat()).collect();
    seats.sort_unstable();
    seats.dedup();
    assert_eq!(
        seats.len(),
        room.members().len(),
        "each seat has one member"
    );
    if let Some(owner) = room.owner() {
        assert!(room.member(owner).is_some(), "the owner is a member");
    }
    for (id, object) in room.objects() {
        if let Some(owner) = &object.owner {
            assert!(room.member(owner).is_some(), "{id:?} belongs to a member");
        }
    }
    for (user, _) in room.members() {
        assert!(room.reserved_until(user).is_none(), "{user} has its seat");
        assert!(room.banned().all(|(banned, _)| banned != user));
    }
    let mut numbers: Vec<_> = room.messages().map(|message| message.number).collect();
    assert!(numbers.is_sorted());
    numbers.dedup();
    assert_eq!(numbers.len(), room.messages().count());
}

pub(crate) fn entry(operation: u64, time: Time, body: Body) -> Entry {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&operation.to_be_bytes());
    Entry {
        operation: OperationId(id),
        time,
        node: Some("node-1".parse().unwrap()),
        incarnation: 1,
        body,
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub(crate) fn join(name: &str, session: u8) -> Join {
    Join::new(user(name), membership(session))
}

pub(crate) fn membership(session: u8) -> Membership {
    Membership {
        session: SessionId([session; 16]),
        keys: PublicKeys {
            identity: [session; 32],
            seal: [session ^ 0xff; 32],
        },
        node: "node-1".parse().unwrap(),
        incarnation: 1,
        life: 0,
    }
}

/// Room for so many.
pub(crate) fn seats(members_max: u32) -> Settings {
    Settings {
        members_max,
        ..Settings::default()
    }
}
