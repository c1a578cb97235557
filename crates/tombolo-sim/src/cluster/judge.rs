//! What must be true when everything has come to rest.

use std::collections::BTreeMap;

use super::device::{Device, Said, View, Violation};
use super::law::count;
use super::reader::Reader;
use super::tally::Tally;

impl Reader {
    /// Compares with what devices were promised, and see.
    pub(crate) fn check(&self, devices: &[Device], tally: &mut Tally) -> Result<(), Violation> {
        let name = self.name();
        tally.forgotten += self.forgotten;
        tally.expelled += self.law.expelled;
        tally.expired += self.law.expired;
        let lawful = self.law.check_done(name, devices);
        lawful.map_err(|violation| format!("{name}: {violation}"))?;
        for device in devices {
            self.check_said(name, device, tally)?;
        }
        self.check_members(name, devices)?;
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

    /// No ghosts: whoever is in the room wants to be, and is there, and nobody else takes itself for a member.
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
        for device in devices.iter().filter(|device| device.is_in(name)) {
            if !self
                .room
                .members()
                .any(|(user, _)| user.as_str() == device.name)
            {
                return Err(format!("{name}: {} is out, and does not know", device.name));
            }
        }
        Ok(())
    }

    /// The device sees the objects that there are, and has found what the owner before it left.
    fn check_things(&self, name: &str, device: &Device, view: &View) -> Result<(), Violation> {
        let who = &device.name;
        let objects = self.room.objects().map(|(id, object)| {
            let owner = object.owner.as_ref().map(ToString::to_string);
            let count = count(&object.properties);
            (id.0, (owner.unwrap_or_default(), count))
        });
        let objects: BTreeMap<_, _> = objects.collect();
        if view.things != objects {
            let seen = &view.things;
            return Err(format!(
                "{name}: {who} sees {seen:?}, where there are {objects:?}"
            ));
        }
        match (&view.state, self.room.owner_state()) {
            (Some(found), Some(left)) if found != left => Err(format!(
                "{name}: {who} has found {found:?}, where there is {left:?}"
            )),
            _ => Ok(()),
        }
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
        self.check_things(name, device, view)?;
        if view.last() != self.room.message_last() {
            let (seen, last) = (view.last(), self.room.message_last());
            return Err(format!("{name}: {who} heard {seen} of {last} messages"));
        }
        Ok(())
    }
}
