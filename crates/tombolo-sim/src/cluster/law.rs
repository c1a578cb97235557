//! What may never be so in a room, by books that are kept beside it: by whom things were done and how often,
//! who is banned, and whose seat is kept.

mod things;

use std::collections::{BTreeMap, BTreeSet};

use tombolo_room::{
    Act, Actor, Applied, Body, Entry, Event, LeftReason, Operation, Room, Target, Time,
};
use tombolo_wire::UserId;

use self::things::Things;
pub(super) use self::things::count;
use super::deed::What;
use super::device::{COUNT, Device, Violation};

/// The books of one room.
#[derive(Default)]
pub(crate) struct Law {
    /// How often a user did something.
    done: BTreeMap<(String, What), i64>,
    /// Until when somebody may not come in; `None`: for as long as the room is open.
    banned: BTreeMap<UserId, Option<Time>>,
    /// Since when a member's seat is kept for it.
    dropped: BTreeMap<UserId, Time>,
    /// The room's owner.
    owner: Option<UserId>,
    things: Things,
    /// How often somebody was sent away, and how often a seat was not kept any longer.
    pub(crate) expelled: u64,
    pub(crate) expired: u64,
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "there are no books of what is not worth it"
)]
impl Law {
    /// Takes in an entry, and what the room has made of it.
    pub(crate) fn on_entry(
        &mut self,
        room: &Room,
        entry: &Entry,
        applied: &Applied,
    ) -> Result<(), Violation> {
        let now = room.clock();
        self.banned
            .retain(|_, until| until.is_none_or(|until| until > now));
        if let Body::Act { actor, act } = &entry.body
            && applied.outcome.is_ok()
        {
            self.on_act(now, actor, act)?;
        }
        for event in &applied.events {
            self.on_event(room, &entry.body, event)?;
        }
        self.things.check(room)?;
        self.check_members(room)
    }

    fn on_act(&mut self, now: Time, actor: &Actor, act: &Act) -> Result<(), Violation> {
        let Actor::Member { user, .. } = actor else {
            return Ok(());
        };
        match act {
            Act::Kick(_) | Act::Ban { .. } | Act::Unban(_) | Act::KeepState(_)
                if self.owner.as_ref() != Some(user) =>
            {
                return Err(format!("{user} is not the owner, and may not {act:?}"));
            }
            Act::Ban { user, lasts } => {
                let until = lasts.map(|lasts| now.after(lasts));
                self.banned.insert(user.clone(), until);
            }
            Act::Unban(user) => {
                self.banned.remove(user);
            }
            Act::KeepState(state) => self.things.on_keep_state(state),
            _ => {}
        }
        if let Some(what) = what(act) {
            *self.done.entry((user.to_string(), what)).or_default() += 1;
        }
        Ok(())
    }

    fn on_event(&mut self, room: &Room, body: &Body, event: &Event) -> Result<(), Violation> {
        self.things.on_event(event, self.owner.as_ref())?;
        match event {
            Event::OwnerChanged { owner, .. } => self.owner.clone_from(owner),
            Event::Dropped { user, .. } => {
                let since = self.dropped.insert(user.clone(), room.clock());
                let is_twice = since.map(|_| format!("{user} is dropped twice"));
                return is_twice.map_or(Ok(()), Err);
            }
            Event::Joined { user, .. } | Event::Returned { user, .. } => {
                self.dropped.remove(user);
            }
            Event::Left { user, reason, .. } => {
                let since = self.dropped.remove(user);
                let wants_to = matches!(body, Body::Left { user: who, .. } if who == user);
                match reason {
                    LeftReason::Disconnected if !wants_to => {
                        self.on_expired(room, user, since)?;
                    }
                    LeftReason::Kicked | LeftReason::Banned => self.expelled += 1,
                    LeftReason::Left
                    | LeftReason::Disconnected
                    | LeftReason::Replaced
                    | LeftReason::Closed => {}
                }
            }
            Event::Closed => {
                *self = Self {
                    done: std::mem::take(&mut self.done),
                    expelled: self.expelled,
                    expired: self.expired,
                    ..Self::default()
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A seat is free: once, and not before its time.
    fn on_expired(
        &mut self,
        room: &Room,
        user: &UserId,
        since: Option<Time>,
    ) -> Result<(), Violation> {
        self.expired += 1;
        let since = since.ok_or_else(|| format!("no seat was kept for {user}, and it is free"))?;
        if kept_until(room, since).is_some_and(|until| room.clock() < until) {
            return Err(format!("{user}'s seat is free before its time"));
        }
        Ok(())
    }

    fn check_members(&self, room: &Room) -> Result<(), Violation> {
        let mut seats = BTreeSet::new();
        for (user, member) in room.members() {
            if self.banned.contains_key(user) {
                return Err(format!("{user} is banned, and in"));
            }
            if member.is_present() == self.dropped.contains_key(user) {
                return Err(format!("{user} is {:?}", member.presence()));
            }
            if !seats.insert(member.seat()) {
                return Err(format!("{user} shares its seat, {}", member.seat()));
            }
        }
        let mut dropped = self.dropped.iter();
        let is_over = |since| kept_until(room, since).is_none_or(|until| until <= room.clock());
        match dropped.find(|(user, since)| room.member(user).is_none() || is_over(**since)) {
            Some((user, _)) => Err(format!("{user}'s seat is kept for too long")),
            None => Ok(()),
        }
    }

    /// Whatever a device did was done as often as it was told, and perhaps as often as nobody knows.
    pub(crate) fn check_done(&self, name: &str, devices: &[Device]) -> Result<(), Violation> {
        let mut done: BTreeMap<(&str, &What), i64> = BTreeMap::new();
        for ((user, what), count) in &self.done {
            done.insert((user, what), *count);
        }
        for device in devices {
            self.things.check_told(name, device)?;
            let who = device.name.as_str();
            for (what, (sure, unsure)) in device.done(name) {
                let count = done.remove(&(who, what)).unwrap_or(0);
                if matches!(what, What::Say(_)) {
                    continue;
                }
                if !(sure..=sure + unsure).contains(&count) {
                    return Err(format!(
                        "{who} did {what:?} {count} times, not {sure} and up to {unsure} more"
                    ));
                }
            }
        }
        match done.first_key_value() {
            Some(((who, what), count)) => {
                Err(format!("{who} did {what:?} {count} times, and was refused"))
            }
            None => Ok(()),
        }
    }
}

/// Until when a seat is kept that is since then.
fn kept_until(room: &Room, since: Time) -> Option<Time> {
    room.settings()
        .map(|settings| since.after(settings.seat_kept))
}

/// What a device calls it; `None` for what is counted elsewhere.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "there are no books of what is not worth it"
)]
fn what(act: &Act) -> Option<What> {
    match act {
        Act::ChangeProperties {
            target: Target::Room,
            changes,
        } => {
            let is_count = |change: &tombolo_room::Change| {
                change.key.as_str() == COUNT && change.operation == Operation::Add(1)
            };
            changes.iter().all(is_count).then_some(What::Add)
        }
        Act::Kick(user) => Some(What::Kick(user.to_string())),
        Act::Ban { user, .. } => Some(What::Ban(user.to_string())),
        Act::Unban(user) => Some(What::Unban(user.to_string())),
        Act::CreateObject(plan) => Some(What::Make(plan.kind.to_string())),
        Act::OwnObject { object, owner } => {
            let owner = owner.as_ref().map(ToString::to_string);
            Some(What::Own(object.0, owner.unwrap_or_default()))
        }
        Act::ChangeProperties {
            target: Target::Object(object),
            ..
        } => Some(What::Change(object.0)),
        Act::DeleteObject(object) => Some(What::Delete(object.0)),
        Act::KeepState(state) => Some(What::Keep(String::from_utf8_lossy(state).into_owned())),
        _ => None,
    }
}
