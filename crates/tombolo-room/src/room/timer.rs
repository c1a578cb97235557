//! What is due when.

use std::collections::BTreeMap;

use tombolo_wire::UserId;

use super::open::Open;
use crate::entry::{LeftReason, Target};
use crate::event::{By, Changed, Event};
use crate::word::{PropertyKey, Time};

/// What is to happen by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A dropped member leaves.
    Seat(UserId),
    /// A seat is not kept any longer.
    Reservation(UserId),
    /// A user may come in again.
    Ban(UserId),
    /// A property goes.
    Property(Target, PropertyKey),
    /// The room, which is empty, closes.
    Close,
}

/// The properties that have expired in a moment, by what they were of: members hear of each once.
type Gone = BTreeMap<Target, Vec<Changed>>;

fn tell(gone: &mut Gone, events: &mut Vec<Event>) {
    let told = std::mem::take(gone).into_iter();
    events.extend(told.map(|(target, changes)| Event::PropertiesChanged {
        by: By::Rule,
        target,
        changes,
    }));
}

impl Open {
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Lets everything happen that is due, the earliest first.
    pub(super) fn expire(&mut self, now: Time, events: &mut Vec<Event>) {
        let mut gone = Gone::new();
        while let Some((due, _)) = self.timers.first()
            && *due <= now
            && let Some((_, timer)) = self.timers.pop_first()
        {
            match timer {
                Timer::Seat(user) => {
                    // Properties that go with their member are told before.
                    tell(&mut gone, events);
                    self.remove_member(&user, LeftReason::Disconnected, events);
                }
                Timer::Reservation(user) => {
                    self.reserved.remove(&user);
                    events.push(Event::SeatsReleased { users: vec![user] });
                }
                Timer::Ban(user) => {
                    self.banned.remove(&user);
                    events.push(Event::Unbanned { by: By::Rule, user });
                }
                Timer::Property(target, key) => self.expire_property(now, target, key, &mut gone),
                Timer::Close => {}
            }
        }
        tell(&mut gone, events);
    }

    fn expire_property(&mut self, now: Time, target: Target, key: PropertyKey, gone: &mut Gone) {
        let Some(properties) = self.properties_mut(&target) else {
            return;
        };
        if let Some(bytes) = properties.expire(now, &key) {
            self.property_bytes -= bytes;
            let property = None;
            let changes = gone.entry(target).or_default();
            changes.push(Changed { key, property });
        }
    }

    pub(super) fn schedule(&mut self, due: Option<Time>, timer: Timer) {
        if let Some(due) = due {
            self.timers.insert((due, timer));
        }
    }

    pub(super) fn cancel(&mut self, due: Option<Time>, timer: Timer) {
        if let Some(due) = due {
            self.timers.remove(&(due, timer));
        }
    }
}
