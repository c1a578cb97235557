//! What the device keeps of a room.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tombolo_match::Reach;
use tombolo_room::PropertyKey;
use tombolo_wire::v1::{self, ErrorCode};
use tombolo_wire::{PublicKeys, UserId};

use super::queue::Queue;
use super::{RoomEvent, RoomOptions, RoomView};
use crate::matchmaker::said_reach;

/// What the device keeps of a room.
#[derive(Debug)]
pub(crate) struct RoomState {
    pub(crate) options: RoomOptions,
    pub(super) members: Mutex<Members>,
    /// Told whenever somebody has come, gone, or come back with other keys; true once the room is over.
    members_news: watch::Sender<bool>,
    pub(super) events: Queue,
    /// How the device is reached, as is said in the room.
    reach: Mutex<Reach>,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) keys_by_user: BTreeMap<UserId, PublicKeys>,
    /// Everything else.
    pub(super) view: RoomView,
    /// Whether the node has let this device in.
    pub(super) is_joined: bool,
}

impl RoomState {
    pub(super) fn new(options: RoomOptions) -> Self {
        Self {
            options,
            members: Mutex::default(),
            members_news: watch::Sender::new(false),
            events: Queue::default(),
            reach: Mutex::default(),
        }
    }

    /// How the device is reached, as is said here.
    pub(crate) fn reach(&self) -> Reach {
        *self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_reach(&self, reach: Reach) {
        *self.reach.lock().unwrap_or_else(PoisonError::into_inner) = reach;
    }

    /// Whether the application says for the matchmaker how the device is reached.
    pub(crate) fn says_reach_itself(&self) -> bool {
        // Something that is known would not be said.
        said_reach(Reach::Open, &self.options.member_properties).is_none()
    }

    /// Takes in who is in the room now that this device is; tells what has changed since it was
    /// there before.
    pub(crate) fn on_members(&self, joined: &v1::Joined) {
        let members = joined.members.iter().cloned();
        let now: BTreeMap<_, _> = members.filter_map(parse_member).collect();
        let (before, was_joined) = {
            let mut members = self.members();
            members.view.on_joined(joined);
            let before = std::mem::replace(&mut members.keys_by_user, now.clone());
            (before, std::mem::replace(&mut members.is_joined, true))
        };
        self.tell_of_members();
        if !was_joined {
            return;
        }
        for (user, keys) in &before {
            let reason = match now.get(user) {
                Some(same) if same == keys => continue,
                Some(_) => "replaced",
                None => "left",
            };
            self.tell(RoomEvent::Left {
                user: user.clone(),
                reason: reason.to_owned(),
            });
        }
        for (user, keys) in now {
            if before.get(&user) != Some(&keys) {
                self.tell(RoomEvent::Joined(user));
            }
        }
    }

    pub(crate) fn on_joined(&self, member: v1::Member) {
        let mut members = self.members();
        members.view.on_member(&member);
        if let Some((user, keys)) = parse_member(member) {
            members.keys_by_user.insert(user.clone(), keys);
            drop(members);
            self.tell_of_members();
            self.tell(RoomEvent::Joined(user));
        }
    }

    /// Takes in which of this device's messages did not arrive.
    pub(crate) fn on_unsent(&self, numbers: Vec<u64>, code: Option<ErrorCode>, reason: String) {
        if !numbers.is_empty() {
            self.tell(RoomEvent::Unsent {
                numbers,
                code,
                reason,
            });
        }
    }

    /// Takes in a member's message.
    pub(crate) fn on_delivery(&self, delivery: v1::Delivery) {
        if let Ok(from) = UserId::parse(&delivery.from) {
            self.tell(RoomEvent::Message {
                from,
                payload: delivery.payload,
                latest: PropertyKey::parse(&delivery.latest).ok(),
            });
        }
    }

    /// Takes in anything else that is told of the room.
    pub(crate) fn on_told(&self, by: &str, kind: v1::room_event::Kind) {
        let told = self.members().view.on_told(by, kind);
        if let Some(event) = told {
            self.tell(event);
        }
    }

    pub(crate) fn on_left(&self, user: UserId, reason: String) {
        let mut members = self.members();
        members.keys_by_user.remove(&user);
        members.view.members.remove(&user);
        drop(members);
        self.tell_of_members();
        self.tell(RoomEvent::Left { user, reason });
    }

    /// Tells of comings and goings to those who do not read the room's events.
    fn tell_of_members(&self) {
        // Nobody's value changes by that.
        self.members_news.send_modify(|_| ());
    }

    /// Never waits: what a slow application has no place for is counted and dropped.
    pub(crate) fn tell(&self, event: RoomEvent) {
        self.events.push(event);
    }

    /// Ends the room's events.
    pub(crate) fn end(&self) {
        self.events.end();
        self.members_news.send_replace(true);
    }

    /// Tells whenever [`Self::others`] are not the same; true once the room is over.
    pub(crate) fn watch_members(&self) -> watch::Receiver<bool> {
        self.members_news.subscribe()
    }

    /// Everybody else in the room, with the keys of their devices; `None` when they are more than so many.
    pub(crate) fn others(
        &self,
        own: &UserId,
        count_max: usize,
    ) -> Option<BTreeMap<UserId, PublicKeys>> {
        let keys_by_user = &self.members().keys_by_user;
        let count = keys_by_user.len() - usize::from(keys_by_user.contains_key(own));
        let others = keys_by_user.iter().filter(|(user, _)| *user != own);
        let others = others.map(|(user, keys)| (user.clone(), *keys));
        (count <= count_max).then(|| others.collect())
    }

    pub(crate) fn keys_of(&self, user: &UserId) -> Option<PublicKeys> {
        self.members().keys_by_user.get(user).copied()
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.members().is_joined
    }

    pub(super) fn members(&self) -> std::sync::MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a member; `None` when it breaks the contract.
fn parse_member(member: v1::Member) -> Option<(UserId, PublicKeys)> {
    let keys = PublicKeys::try_from(member.keys.as_ref()).ok()?;
    Some((UserId::parse(&member.user).ok()?, keys))
}
