//! What a device knows of a room, and how it is told.

use std::collections::BTreeMap;

use bytes::Bytes;
use tombolo_wire::v1::{self, property_value, room_event};

use super::{COUNT, Device, Violation};
use crate::cluster::court::COURT;

/// A durable message of which a device was told.
pub(crate) struct Told {
    pub(crate) room: String,
    pub(crate) number: u64,
    pub(crate) text: String,
}

/// A durable message's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) opening: Bytes,
    pub(super) number: u64,
}

/// What a device knows of a room.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) is_joined: bool,
    pub(crate) is_synced: bool,
    /// Seats, and who is dropped.
    pub(crate) members: BTreeMap<String, (u32, bool)>,
    pub(crate) owner: String,
    pub(crate) count: i64,
    /// Objects: whose, and how often they were changed.
    pub(crate) things: BTreeMap<u64, (String, i64)>,
    /// What it has found as the room's owner; `None` when it is not, or may have left something else since.
    pub(crate) state: Option<Bytes>,
    /// Grows whenever the device comes or goes.
    pub(crate) stay: u64,
    pub(super) last: Option<Place>,
}

impl View {
    /// The number of the last durable message that this device knows of.
    pub(crate) fn last(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.number)
    }

    /// Whether this user takes part, as far as this device knows.
    pub(crate) fn is_present(&self, user: &str) -> bool {
        let member = self.members.get(user);
        member.is_some_and(|(_, dropped)| !dropped)
    }

    /// Durable messages come one by one: none is missing, none comes twice.
    fn on_said(&mut self, said: &v1::RoomMessage) -> Result<Told, Violation> {
        let text = String::from_utf8_lossy(&said.payload).into_owned();
        let Some(last) = &mut self.last else {
            return Err(format!("hears “{text}” of a room that it is not in"));
        };
        if said.number != last.number + 1 {
            let before = last.number;
            return Err(format!("hears {} “{text}” after {before}", said.number));
        }
        last.number = said.number;
        Ok(Told {
            room: String::new(),
            number: said.number,
            text,
        })
    }

    fn on_properties(&mut self, changed: &v1::PropertiesChanged) {
        let Some(count) = count(&changed.set).filter(|_| changed.member.is_empty()) else {
            return;
        };
        match changed.object {
            0 => self.count = count,
            object => self.things.entry(object).or_default().1 = count,
        }
    }

    /// An object is new, or another's.
    fn on_object(&mut self, object: v1::RoomObject) {
        let thing = self.things.entry(object.id).or_default();
        thing.0 = object.owner;
        if let Some(count) = count(&object.properties) {
            thing.1 = count;
        }
    }
}

impl Device {
    pub(super) fn on_joined(&mut self, room: &str, joined: &v1::Joined) {
        let view = self.views.entry(room.to_owned()).or_default();
        view.is_joined = true;
        let last = joined.last.as_ref().map(|last| Place {
            opening: last.opening.clone(),
            number: last.number,
        });
        if !joined.recovered {
            // What was said meanwhile is lost to this device, and it knows that.
            view.last = last;
        }
        view.members = joined.members.iter().map(seat).collect();
    }

    pub(super) fn on_room_event(&mut self, event: v1::RoomEvent) -> Result<(), Violation> {
        use room_event::Kind;

        let name = self.name.clone();
        let room = event.room;
        let view = self.views.entry(room.clone()).or_default();
        match event.kind {
            Some(Kind::Joined(member) | Kind::Returned(member)) => {
                view.members.extend([seat(&member)]);
            }
            Some(Kind::Dropped(dropped)) => {
                if let Some(member) = view.members.get_mut(&dropped.user) {
                    member.1 = true;
                }
            }
            Some(Kind::Left(left)) => {
                view.members.remove(&left.user);
                if left.user == name {
                    self.on_put_out(&room, &left.reason)?;
                }
            }
            Some(Kind::Owner(owner)) => {
                view.owner = owner.user;
                view.state = None;
                if view.owner == name {
                    view.state = Some(owner.state.clone());
                    self.states.push((room, owner.state));
                } else if !owner.state.is_empty() {
                    return Err(format!("{name}: told what is for {}", view.owner));
                }
            }
            Some(Kind::Object(object)) => view.on_object(object),
            Some(Kind::ObjectDeleted(deleted)) => {
                view.things.remove(&deleted.object);
            }
            Some(Kind::Reset(_)) => {
                view.is_synced = false;
                view.count = 0;
                view.things.clear();
            }
            Some(Kind::Synced(_)) => view.is_synced = true,
            Some(Kind::Properties(changed)) => view.on_properties(&changed),
            Some(Kind::Said(said)) => {
                let told = view.on_said(&said);
                let told = told.map_err(|violation| format!("{name}: {violation}"))?;
                self.told.push(Told { room, ..told });
            }
            _ => {}
        }
        Ok(())
    }

    /// It is a member no more. In the court that happens; else whoever wants to be in, is.
    fn on_put_out(&mut self, room: &str, reason: &str) -> Result<(), Violation> {
        let view = self.views.entry(room.to_owned()).or_default();
        (view.is_joined, view.is_synced) = (false, false);
        view.stay += 1;
        if !self.wants.contains(room) || self.is_between(room) {
            return Ok(());
        }
        if room != COURT {
            return Err(format!("{}: put out of {room}, {reason}", self.name));
        }
        self.wants.remove(room);
        Ok(())
    }
}

fn seat(member: &v1::Member) -> (String, (u32, bool)) {
    (member.user.clone(), (member.seat, member.dropped))
}

/// What the count is, if these say it.
fn count(properties: &[v1::Property]) -> Option<i64> {
    let property = properties.iter().find(|property| property.key == COUNT)?;
    match property.value.as_ref()?.kind.as_ref()? {
        property_value::Kind::Integer(count) => Some(*count),
        property_value::Kind::Boolean(_)
        | property_value::Kind::Number(_)
        | property_value::Kind::Text(_)
        | property_value::Kind::Binary(_) => None,
    }
}
