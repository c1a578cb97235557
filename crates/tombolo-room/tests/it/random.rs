//! Logs in which much is legal and much is not.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tombolo_room::{
    Act, Actor, Audience, Body, Change, Entry, Expectation, GroupId, Join, LeftReason, Membership,
    ObjectId, ObjectPlan, Operation, OwnerPolicy, Password, Reserve, Room, RoomCode, SessionId,
    Settings, SettingsChange, Takeover, Target, Time, Value, Writers,
};
use tombolo_wire::UserId;

use crate::world::{entry, membership, user};

/// Makes things up.
pub(crate) struct Random(ChaCha8Rng);

/// A log in which some entries come twice.
pub(crate) fn entries(seed: u64, count: u64) -> Vec<Entry> {
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    let mut log: Vec<Entry> = Vec::new();
    let mut room = Room::new();
    for number in 0..count {
        let repeated = random.chance(0.05).then(|| log.last().cloned()).flatten();
        let mut entry = repeated.unwrap_or_else(|| random.entry(number));
        if let Body::Joined(join) = &mut entry.body
            && number % 3 == 0
        {
            join.returns_to = room.opening();
        }
        let _ = room.apply(&entry);
        log.push(entry);
    }
    log
}

impl Random {
    fn entry(&mut self, number: u64) -> Entry {
        let time = Time::from_millis(1_000_000 + 500 * number + self.below(2_000));
        let body = self.body();
        entry(number, time, body)
    }

    fn body(&mut self) -> Body {
        let (user, session) = self.member();
        match self.below(20) {
            0 | 19 => Body::Created {
                settings: self.settings(),
                first: self.chance(0.8).then(|| self.join()),
                properties: self.changes(),
                reserve: self.chance(0.3).then(|| self.reserve()),
                code: RoomCode::from_random(self.below(u64::MAX).to_be_bytes()),
            },
            1..=5 => Body::Joined(self.join()),
            6 => Body::Dropped { user, session },
            7 => Body::Returned {
                user,
                session,
                node: self.pick(&["node-1", "node-2"]).parse().unwrap(),
                incarnation: self.below(4),
            },
            8 => Body::Left {
                user,
                session,
                reason: self.pick(&[LeftReason::Left, LeftReason::Disconnected]),
            },
            9 if self.chance(0.2) => Body::NodeLost {
                node: self.pick(&["node-1", "node-2"]).parse().unwrap(),
                incarnation: self.below(2),
            },
            // While it is open that is refused.
            10 if self.chance(0.5) => Body::Forgotten,
            10 => Body::Ticked,
            _ => Body::Act {
                actor: match self.below(5) {
                    0 => Actor::Server,
                    _ => Actor::Member { user, session },
                },
                act: self.act(),
            },
        }
    }

    fn act(&mut self) -> Act {
        match self.below(16) {
            0 => Act::Configure(self.settings_change()),
            1..=3 => Act::ChangeProperties {
                target: match self.below(3) {
                    0 => Target::Room,
                    1 => Target::Member(self.user()),
                    _ => Target::Object(ObjectId(1 + self.below(6))),
                },
                changes: self.changes(),
            },
            4 => Act::Reserve(self.reserve()),
            5 => Act::Kick(self.user()),
            6 => Act::Ban {
                user: self.user(),
                lasts: self.chance(0.7).then(|| self.lasts()),
            },
            7 => Act::Unban(self.user()),
            8 => Act::SetOwner(self.chance(0.8).then(|| self.user())),
            9 => Act::KeepState(self.bytes()),
            10 => Act::CreateObject(ObjectPlan {
                kind: "ball".parse().unwrap(),
                takeover: self.pick(&[Takeover::Fixed, Takeover::Given, Takeover::Taken]),
                stays: self.chance(0.5),
                group: self.chance(0.3).then(|| self.group()),
                properties: self.changes(),
            }),
            11 => Act::OwnObject {
                object: ObjectId(1 + self.below(6)),
                owner: self.chance(0.8).then(|| self.user()),
            },
            12 if self.chance(0.5) => Act::DeleteObject(ObjectId(1 + self.below(6))),
            13 => Act::ChangeGroups {
                enter: (0..self.below(4)).map(|_| self.group()).collect(),
                exit: (0..self.below(2)).map(|_| self.group()).collect(),
            },
            14 => Act::Reach(self.below(3) as u32),
            15 if self.chance(0.05) => Act::Close,
            _ => Act::Say {
                audience: match self.below(4) {
                    0 => Audience::All,
                    1 => Audience::Others,
                    2 => Audience::Users(vec![self.user(), self.user()]),
                    _ => Audience::Group(self.group()),
                },
                payload: self.bytes(),
            },
        }
    }

    fn settings(&mut self) -> Settings {
        Settings {
            members_max: self.below(5) as u32,
            password: self.password(),
            is_locked: self.chance(0.2),
            is_hidden: self.chance(0.2),
            seat_kept: self.pick(&[Duration::ZERO, Duration::from_secs(5)]),
            empty_kept: self.pick(&[Duration::ZERO, Duration::from_secs(60)]),
            owner_policy: self.policy(),
            writers: self.pick(&[Writers::Everybody, Writers::Owner, Writers::Server]),
            history_max: self.below(8) as u32,
        }
    }

    fn settings_change(&mut self) -> SettingsChange {
        let to = self.settings();
        SettingsChange {
            members_max: self.chance(0.3).then_some(to.members_max),
            password: self.chance(0.3).then_some(to.password),
            is_locked: self.chance(0.3).then_some(to.is_locked),
            is_hidden: self.chance(0.3).then_some(to.is_hidden),
            seat_kept: self.chance(0.3).then_some(to.seat_kept),
            empty_kept: self.chance(0.3).then_some(to.empty_kept),
            owner_policy: self.chance(0.3).then_some(to.owner_policy),
            writers: self.chance(0.3).then_some(to.writers),
            history_max: self.chance(0.3).then_some(to.history_max),
        }
    }

    fn join(&mut self) -> Join {
        let (user, session) = self.member();
        let membership = Membership {
            node: self.pick(&["node-1", "node-2"]).parse().unwrap(),
            incarnation: self.below(4),
            life: self.below(3),
            ..membership(session.0[0])
        };
        Join {
            user,
            membership,
            reachability: self.below(3) as u32,
            password: self.password(),
            properties: self.changes(),
            returns_to: None,
        }
    }

    fn changes(&mut self) -> Vec<Change> {
        (0..self.below(4)).map(|_| self.change()).collect()
    }

    fn change(&mut self) -> Change {
        let operation = match self.below(3) {
            0 => Operation::Delete,
            1 => Operation::Add(self.below(100) as i64 - 50),
            _ => Operation::Set(self.value()),
        };
        let expect = match self.below(8) {
            0 => Expectation::Absent,
            1 => Expectation::Revision(self.below(20)),
            2 => Expectation::Value(self.value()),
            _ => Expectation::Any,
        };
        let key = self.pick(&["x", "y", "z"]).parse().unwrap();
        let lasts = self.chance(0.3).then(|| self.lasts());
        Change {
            key,
            operation,
            expect,
            lasts,
            is_public: self.chance(0.5).then(|| lasts.is_none()),
        }
    }

    fn value(&mut self) -> Value {
        match self.below(5) {
            0 => Value::Boolean(self.chance(0.5)),
            1 => Value::Integer(self.below(10) as i64 - 5),
            2 => Value::Number(f64::from_bits(self.0.next_u64())),
            _ => Value::Text("é".repeat(self.below(4) as usize)),
        }
    }

    fn reserve(&mut self) -> Reserve {
        Reserve {
            users: (0..self.below(3)).map(|_| self.user()).collect(),
            lasts: self.pick(&[Duration::ZERO, Duration::from_secs(8)]),
        }
    }

    fn member(&mut self) -> (UserId, SessionId) {
        let number = self.below(4) as u8;
        let session = 2 * number + u8::from(self.chance(0.1));
        (user(&format!("user-{number}")), SessionId([session; 16]))
    }

    fn user(&mut self) -> UserId {
        self.member().0
    }

    fn group(&mut self) -> GroupId {
        GroupId(NonZeroU32::new(1 + self.below(3) as u32).unwrap())
    }

    fn policy(&mut self) -> OwnerPolicy {
        self.pick(&[
            OwnerPolicy::Automatic,
            OwnerPolicy::Manual,
            OwnerPolicy::None,
        ])
    }

    fn password(&mut self) -> Option<Password> {
        self.chance(0.1)
            .then(|| Password([self.below(2) as u8; 32]))
    }

    fn lasts(&mut self) -> Duration {
        Duration::from_millis(1 + self.below(9_000))
    }

    fn bytes(&mut self) -> Bytes {
        let mut bytes = vec![0; self.below(20) as usize];
        self.0.fill_bytes(&mut bytes);
        bytes.into()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn chance(&mut self, chance: f64) -> bool {
        self.0.random_bool(chance)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0.random_range(0..end)
    }
}
