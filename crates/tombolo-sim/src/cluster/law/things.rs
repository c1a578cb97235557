//! Whose the objects of a room are, and what its owner has left to its successor.

use std::collections::BTreeMap;

use bytes::Bytes;
use tombolo_room::{By, Event, Object, Properties, Room, Takeover, Target, Value};
use tombolo_wire::UserId;

use crate::cluster::device::{COUNT, Device, Violation};

/// The books of one room's objects.
#[derive(Default)]
pub(super) struct Things {
    /// What was ever made.
    made: BTreeMap<u64, String>,
    things: BTreeMap<u64, Thing>,
    /// All that owners ever left, the last one last.
    states: Vec<Bytes>,
}

struct Thing {
    owner: Option<UserId>,
    takeover: Takeover,
    stays: bool,
    count: i64,
}

impl Things {
    pub(super) fn on_keep_state(&mut self, state: &Bytes) {
        self.states.push(state.clone());
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "this is about objects and owners"
    )]
    /// Takes in what has become of an object, or of the room's owner; `ruler` is the one that the room had.
    pub(super) fn on_event(
        &mut self,
        event: &Event,
        ruler: Option<&UserId>,
    ) -> Result<(), Violation> {
        match event {
            Event::OwnerChanged { state, .. } if *state != self.state() => {
                let left = self.state();
                Err(format!("{state:?} is left to the next owner, not {left:?}"))
            }
            Event::ObjectCreated { id, object, .. } => self.on_made(id.0, object),
            Event::ObjectOwned { by, id, owner, .. } => {
                let thing = self.thing(id.0)?;
                let may = match (thing.takeover, by) {
                    (_, By::Server) => true,
                    (_, By::Rule) => owner.is_none(),
                    (Takeover::Fixed, By::Member(_)) => false,
                    (Takeover::Given, By::Member(by)) => thing.is_of(by, ruler),
                    (Takeover::Taken, By::Member(by)) => {
                        owner.as_ref() == Some(by) || thing.is_of(by, ruler)
                    }
                };
                thing.owner.clone_from(owner);
                may.then_some(())
                    .ok_or_else(|| format!("{by:?} may not give {} to {owner:?}", id.0))
            }
            Event::ObjectDeleted { by, id, .. } => {
                let thing = self.thing(id.0)?;
                let may = match by {
                    By::Server => true,
                    By::Rule => !thing.stays,
                    By::Member(by) => thing.is_of(by, ruler),
                };
                self.things.remove(&id.0);
                may.then_some(())
                    .ok_or_else(|| format!("{by:?} may not take {} away", id.0))
            }
            Event::PropertiesChanged {
                by,
                target: Target::Object(id),
                ..
            } => {
                let thing = self.thing(id.0)?;
                thing.count += 1;
                let may = matches!(by, By::Member(by) if thing.is_of(by, ruler));
                may.then_some(())
                    .ok_or_else(|| format!("{by:?} may not change {}", id.0))
            }
            _ => Ok(()),
        }
    }

    fn on_made(&mut self, id: u64, object: &Object) -> Result<(), Violation> {
        let last = self.made.last_key_value().map_or(0, |(last, _)| *last);
        if id <= last {
            return Err(format!("object {id} is made after {last}"));
        }
        self.made.insert(id, object.kind.to_string());
        let thing = Thing {
            owner: object.owner.clone(),
            takeover: object.takeover,
            stays: object.stays,
            count: 0,
        };
        self.things.insert(id, thing);
        Ok(())
    }

    fn thing(&mut self, id: u64) -> Result<&mut Thing, Violation> {
        let thing = self.things.get_mut(&id);
        thing.ok_or_else(|| format!("there is no object {id}"))
    }

    fn state(&self) -> Bytes {
        self.states.last().cloned().unwrap_or_default()
    }

    /// Objects are those that are in the books, each of a member, or of nobody.
    pub(super) fn check(&self, room: &Room) -> Result<(), Violation> {
        let (there, booked) = (room.objects().count(), self.things.len());
        if there != booked {
            return Err(format!("there are {there} objects, not {booked}"));
        }
        for (id, object) in room.objects() {
            let thing = self.things.get(&id.0);
            let thing = thing.ok_or_else(|| format!("object {} is nowhere from", id.0))?;
            if object.owner != thing.owner {
                let (is, ought) = (&object.owner, &thing.owner);
                return Err(format!("object {} is {is:?}'s, not {ought:?}'s", id.0));
            }
            let mut owner = object.owner.iter();
            if let Some(owner) = owner.find(|owner| room.member(owner).is_none()) {
                return Err(format!("object {} is {owner}'s, who is out", id.0));
            }
            if count(&object.properties) != thing.count {
                let count = count(&object.properties);
                return Err(format!("object {} has {count}, not {}", id.0, thing.count));
            }
        }
        Ok(())
    }

    /// What a device was told is so: which objects it has made, and what it found when it became owner.
    pub(super) fn check_told(&self, name: &str, device: &Device) -> Result<(), Violation> {
        for ((room, kind), id) in &device.made {
            if room == name && self.made.get(id) != Some(kind) {
                let made = self.made.get(id);
                return Err(format!("{} made {kind}, and {id} is {made:?}", device.name));
            }
        }
        let mut before = 0;
        let told = device.states.iter().filter(|(room, _)| room == name);
        for (_, state) in told.filter(|(_, state)| !state.is_empty()) {
            let place = self.states.iter().position(|left| left == state);
            let place = place.ok_or_else(|| format!("nobody left {state:?}"))?;
            if place < before {
                return Err(format!("{} finds the older {state:?}", device.name));
            }
            before = place;
        }
        Ok(())
    }
}

impl Thing {
    /// Whether a user has the say over it.
    fn is_of(&self, user: &UserId, ruler: Option<&UserId>) -> bool {
        self.owner.as_ref().or(ruler) == Some(user)
    }
}

/// How often an object was changed.
pub(in crate::cluster) fn count(properties: &Properties) -> i64 {
    match properties.property(COUNT).map(|property| &property.value) {
        Some(Value::Integer(count)) => *count,
        _ => 0,
    }
}
