//! What must be true when everything has come to rest.

use std::collections::BTreeMap;

use tombolo_engine::{Key, Local, Log as _, TailEvent};
use tombolo_room::{Entry, Event, PropertyKey, Room, Value};

use super::device::{COUNT, Device, Said, Violation};
use super::world::Tally;

/// A room as its log makes it, and what was ever said there.
pub(crate) struct Truth {
    room: Room,
    said: BTreeMap<u64, String>,
}

/// Reads a room's log as a reader does that had no part in it.
pub(crate) async fn read(local: &Local, name: &str) -> Result<Truth, Violation> {
    let key = Key::new(["room", name]).map_err(|error| error.to_string())?;
    let mut truth = Truth {
        room: Room::new(),
        said: BTreeMap::new(),
    };
    let mut tail = local
        .tail(&key, None)
        .await
        .map_err(|error| error.to_string())?;
    while let Some(event) = tail.next().await {
        match event {
            TailEvent::Entry { entry, .. } => {
                let entry = Entry::decode(&entry).map_err(|error| format!("{name}: {error:?}"))?;
                for event in truth.room.apply(&entry).events {
                    if let Event::Said(message) = event {
                        let text = String::from_utf8_lossy(&message.payload).into_owned();
                        truth.said.insert(message.number, text);
                    }
                }
            }
            TailEvent::Snapshot { state, .. } => {
                truth.room = Room::restore(&state).map_err(|error| format!("{name}: {error:?}"))?;
                for message in truth.room.messages() {
                    let text = String::from_utf8_lossy(&message.payload).into_owned();
                    truth.said.insert(message.number, text);
                }
            }
            TailEvent::Retired { .. } => {}
            TailEvent::Reset => return Err(format!("{name}: the log began anew")),
            TailEvent::Synced => break,
        }
    }
    Ok(truth)
}

impl Truth {
    /// Compares with what devices were promised, and see.
    pub(crate) fn check(
        &self,
        name: &str,
        devices: &[Device],
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        for device in devices {
            self.check_said(name, device, tally)?;
        }
        self.check_members(name, devices)?;
        self.check_count(name, devices)?;
        for device in devices.iter().filter(|device| device.wants.contains(name)) {
            self.check_view(name, device)?;
        }
        Ok(())
    }

    /// What was acknowledged is there, once, with its number, in the order in which it was said.
    fn check_said(&self, name: &str, device: &Device, tally: &mut Tally) -> Result<(), Violation> {
        let said = device.said.get(name).map_or(&[][..], Vec::as_slice);
        let mut last = 0;
        for (own, outcome) in said.iter().enumerate() {
            let text = format!("{} {own}", device.name);
            let places: Vec<_> = self
                .said
                .iter()
                .filter(|(_, said)| **said == text)
                .map(|(number, _)| *number)
                .collect();
            match (outcome, places.as_slice()) {
                (Said::Kept(number), [place]) if place == number => {
                    tally.kept += 1;
                    if *place < last {
                        return Err(format!(
                            "{name}: “{text}” is before what was said before it"
                        ));
                    }
                    last = *place;
                }
                (Said::KeptLate(number), [place]) if place == number => tally.kept += 1,
                (Said::Kept(number) | Said::KeptLate(number), places) => {
                    return Err(format!("{name}: “{text}” is {number}, and at {places:?}"));
                }
                (Said::Unknown, [] | [_]) => tally.unknown += 1,
                (Said::Refused, []) => tally.refused += 1,
                (outcome, places) => {
                    return Err(format!(
                        "{name}: “{text}” is {outcome:?}, and at {places:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// No ghosts: whoever is in the room wants to be, and is there.
    fn check_members(&self, name: &str, devices: &[Device]) -> Result<(), Violation> {
        for (user, member) in self.room.members() {
            let device = devices.iter().find(|device| device.name == user.as_str());
            if !device.is_some_and(|device| device.wants.contains(name)) {
                return Err(format!("{name}: {user} is a ghost"));
            }
            if !member.is_present() {
                return Err(format!("{name}: {user} is dropped, and connected"));
            }
        }
        Ok(())
    }

    /// The counter is what was acknowledged, and perhaps some of what nobody knows.
    fn check_count(&self, name: &str, devices: &[Device]) -> Result<(), Violation> {
        let added = devices.iter().filter_map(|device| device.added.get(name));
        let (sure, unsure) = added.fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        let count = self.count();
        if !(sure..=sure + unsure).contains(&count) {
            return Err(format!(
                "{name}: counts {count}, not {sure} and up to {unsure} more"
            ));
        }
        Ok(())
    }

    /// The device sees what the log says.
    fn check_view(&self, name: &str, device: &Device) -> Result<(), Violation> {
        let who = &device.name;
        let Some(view) = device
            .views
            .get(name)
            .filter(|view| view.is_joined && view.is_synced)
        else {
            return Err(format!(
                "{name}: {who} is not in it, in spite of all its tries"
            ));
        };
        let members: BTreeMap<_, _> = self
            .room
            .members()
            .map(|(user, member)| (user.to_string(), (member.seat(), !member.is_present())))
            .collect();
        if view.members != members {
            let seen = &view.members;
            return Err(format!(
                "{name}: {who} sees {seen:?}, where there are {members:?}"
            ));
        }
        let owner = self
            .room
            .owner()
            .map(ToString::to_string)
            .unwrap_or_default();
        if view.owner != owner {
            let seen = &view.owner;
            return Err(format!(
                "{name}: {who} takes “{seen}” for the owner, not “{owner}”"
            ));
        }
        if view.count != self.count() {
            let (seen, count) = (view.count, self.count());
            return Err(format!("{name}: {who} counts {seen}, not {count}"));
        }
        if view.last() != self.room.message_last() {
            let (seen, last) = (view.last(), self.room.message_last());
            return Err(format!("{name}: {who} heard {seen} of {last} messages"));
        }
        Ok(())
    }

    fn count(&self) -> i64 {
        let key = PropertyKey::parse(COUNT).ok();
        let properties = self.room.properties();
        let property = key.and_then(|key| properties?.property(key.as_str()).cloned());
        match property.map(|property| property.value) {
            Some(Value::Integer(count)) => count,
            _ => 0,
        }
    }
}
