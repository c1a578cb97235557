//! What a device wants done once, and how it asks for it until it knows.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tombolo_wire::v1::{self, ErrorCode, request, room_act};

/// Something that a device wants done in a room.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    pub(crate) room: String,
    pub(crate) what: What,
    act: room_act::Kind,
    /// By which nodes know it when it is asked for again.
    name: Bytes,
    begun: Instant,
    /// It has been asked for before, and nobody knows what came of that.
    pub(crate) may_be_done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// The device's own number of what it says.
    Say(u64),
    Add,
    Kick(String),
    Ban(String),
    Unban(String),
    /// An object, by its kind, which no other has.
    Make(String),
    /// To whom an object belongs from now on.
    Own(u64, String),
    Change(u64),
    Delete(u64),
    /// What the next owner is to find.
    Keep(String),
}

/// What a refusal says of a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was not done, and never will be.
    Final,
    /// Whoever asks again may learn more.
    Again,
    /// Nobody knows, nor will.
    Unknown,
}

impl Deed {
    pub(crate) fn new(room: &str, what: What, act: room_act::Kind, number: u64) -> Self {
        Self {
            room: room.to_owned(),
            what,
            act,
            name: Bytes::copy_from_slice(&u128::from(number).to_be_bytes()),
            begun: Instant::now(),
            may_be_done: false,
        }
    }

    pub(crate) fn on_wire(&self) -> request::Kind {
        request::Kind::Room(v1::RoomRequest {
            room: self.room.clone(),
            act: Some(v1::RoomAct {
                kind: Some(self.act.clone()),
            }),
            operation: self.name.clone(),
            wanted_for_ms: self.begun.elapsed().as_millis().try_into().unwrap_or(0),
        })
    }

    /// Takes in that it was refused.
    pub(crate) fn on_refused(&mut self, code: ErrorCode) -> Refusal {
        self.may_be_done |= code == ErrorCode::Unsure;
        let is_passing = matches!(
            code,
            ErrorCode::Unsure | ErrorCode::Unavailable | ErrorCode::Limit | ErrorCode::NotAMember
        );
        match (self.may_be_done, is_passing) {
            (true, true) if self.begun.elapsed() < ASKED_FOR => Refusal::Again,
            (true, _) => Refusal::Unknown,
            (false, _) => Refusal::Final,
        }
    }
}

/// What is to be asked for again, in order.
#[derive(Default)]
pub(crate) struct Deeds(VecDeque<(Instant, Deed)>);

impl Deeds {
    pub(crate) fn add(&mut self, deed: Deed) {
        self.0.push_back((Instant::now() + PAUSE, deed));
    }

    /// What is due in a room that the device is in.
    pub(crate) fn take(&mut self, is_in: impl Fn(&str) -> bool) -> Option<Deed> {
        let now = Instant::now();
        let mut all = self.0.iter();
        let due = all.position(|(at, deed)| *at <= now && is_in(&deed.room))?;
        self.0.remove(due).map(|(_, deed)| deed)
    }
}

/// How long a device asks.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// Between two times.
const PAUSE: Duration = Duration::from_millis(250);
