//! A room that is open.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;
use tombolo_wire::UserId;

use super::member::Member;
use super::timer::Timer;
use super::{PROPERTY_BYTES_MAX, UntilByUser};
use crate::code::RoomCode;
use crate::entry::Target;
use crate::event::{By, Changed, Event, Illegal};
use crate::message::History;
use crate::object::Object;
use crate::property::{Change, Properties};
use crate::settings::Settings;
use crate::word::{ObjectId, OperationId, Time};

/// A room that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// What opened it.
    pub(super) opening: OperationId,
    /// When that was, by the room's clock.
    pub(super) opened: Time,
    /// By which others may join.
    pub(super) code: Option<RoomCode>,
    pub(super) settings: Settings,
    /// In the order in which they joined.
    pub(super) member_by_user: IndexMap<UserId, Member>,
    pub(super) properties: Properties,
    pub(super) objects: BTreeMap<ObjectId, Object>,
    /// The number of the last change of any property.
    pub(super) revision: u64,
    /// The number of the last object that was made.
    pub(super) object_last: u64,
    pub(super) owner: Option<UserId>,
    pub(super) owner_state: Bytes,
    /// Until when seats are kept, for users that are no members.
    pub(super) reserved: UntilByUser<Time>,
    /// Until when users may not come in.
    pub(super) banned: UntilByUser<Option<Time>>,
    /// The identity keys of devices that were sent away and have not come anew, by user; the last is last.
    pub(super) sent_away: IndexMap<UserId, [u8; 32]>,
    pub(super) history: History,
    /// When it closes; `None` unless it is empty.
    pub(super) closes: Option<Time>,
    /// What is due when; follows from the rest.
    pub(super) timers: BTreeSet<(Time, Timer)>,
    /// What all properties count as; follows from the rest.
    pub(super) property_bytes: usize,
}

impl Open {
    pub(super) fn new(opening: OperationId, settings: Settings) -> Self {
        Self {
            opening,
            opened: Time::ZERO,
            code: None,
            settings,
            member_by_user: IndexMap::new(),
            properties: Properties::default(),
            objects: BTreeMap::new(),
            revision: 0,
            object_last: 0,
            owner: None,
            owner_state: Bytes::new(),
            reserved: BTreeMap::new(),
            banned: BTreeMap::new(),
            sent_away: IndexMap::new(),
            history: History::default(),
            closes: None,
            timers: BTreeSet::new(),
            property_bytes: 0,
        }
    }

    /// A member or a kept seat for each of the places.
    pub(super) fn is_full(&self) -> bool {
        self.free() == 0
    }

    pub(super) fn free(&self) -> usize {
        let taken = self.member_by_user.len() + self.reserved.len();
        (self.settings.members_max as usize).saturating_sub(taken)
    }

    /// Sets, or stops, the time at which the room closes for want of members.
    pub(super) fn watch_emptiness(&mut self, now: Time) {
        let is_empty = self.member_by_user.is_empty() && self.reserved.is_empty();
        match (is_empty, self.closes) {
            (true, None) => {
                self.closes = Some(now.after(self.settings.empty_kept));
                self.schedule(self.closes, Timer::Close);
            }
            (false, Some(_)) => {
                self.cancel(self.closes, Timer::Close);
                self.closes = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// The room is kept for another time than before when it is empty: also if it is already.
    pub(super) fn on_empty_kept(&mut self, before: Duration) {
        let Some(closes) = self.closes else {
            return;
        };
        self.cancel(self.closes, Timer::Close);
        let since = closes.before(before);
        self.closes = Some(since.after(self.settings.empty_kept));
        self.schedule(self.closes, Timer::Close);
    }

    pub(super) fn is_over(&self, now: Time) -> bool {
        self.closes.is_some_and(|closes| closes <= now)
    }

    /// Whose properties they are; `None` when there is no such member or object.
    pub(super) fn properties_of(&self, target: &Target) -> Option<&Properties> {
        match target {
            Target::Room => Some(&self.properties),
            Target::Member(user) => Some(self.member_by_user.get(user)?.properties()),
            Target::Object(id) => Some(&self.objects.get(id)?.properties),
        }
    }

    pub(super) fn properties_mut(&mut self, target: &Target) -> Option<&mut Properties> {
        match target {
            Target::Room => Some(&mut self.properties),
            Target::Member(user) => Some(&mut self.member_by_user.get_mut(user)?.properties),
            Target::Object(id) => Some(&mut self.objects.get_mut(id)?.properties),
        }
    }

    pub(super) fn set_first_properties(
        &mut self,
        now: Time,
        changes: &[Change],
    ) -> Result<(), Illegal> {
        self.change_properties(now, &Target::Room, changes)?;
        Ok(())
    }

    pub(super) fn on_change_properties(
        &mut self,
        now: Time,
        by: By,
        target: &Target,
        changes: &[Change],
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let changes = self.change_properties(now, target, changes)?;
        events.push(Event::PropertiesChanged {
            by,
            target: target.clone(),
            changes,
        });
        Ok(())
    }

    /// All changes or none.
    pub(super) fn change_properties(
        &mut self,
        now: Time,
        target: &Target,
        changes: &[Change],
    ) -> Result<Vec<Changed>, Illegal> {
        let properties = self.properties_of(target).ok_or(Illegal::NoSuch)?;
        let planned = properties.plan(now, changes, self.revision)?;
        let bytes = self.property_bytes - planned.bytes_before + planned.bytes_after;
        if bytes > PROPERTY_BYTES_MAX && planned.bytes_after > planned.bytes_before {
            return Err(Illegal::Limit);
        }
        if *target == Target::Room && !planned.is_listable(properties) {
            return Err(Illegal::Limit);
        }
        let expiries: Vec<_> = changes
            .iter()
            .filter_map(|change| Some((properties.property(change.key.as_str())?.expires, change)))
            .map(|(expires, change)| (expires, change.key.clone()))
            .collect();
        for (expires, key) in expiries {
            self.cancel(expires, Timer::Property(target.clone(), key));
        }
        self.property_bytes = bytes;
        self.revision += changes.len() as u64;
        let properties = self.properties_mut(target).ok_or(Illegal::NoSuch)?;
        let changed = properties.carry_out(planned);
        for Changed { key, property } in &changed {
            let expires = property.as_ref().and_then(|property| property.expires);
            self.schedule(expires, Timer::Property(target.clone(), key.clone()));
        }
        Ok(changed)
    }

    /// What goes with those who had the properties.
    pub(super) fn forget_properties(&mut self, target: &Target, properties: &Properties) {
        self.property_bytes -= properties.bytes();
        for (key, property) in properties.iter() {
            let timer = Timer::Property(target.clone(), key.clone());
            self.cancel(property.expires, timer);
        }
    }
}
