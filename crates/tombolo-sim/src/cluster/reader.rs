//! A reader of a room's log that has no part in the room: after each step it says whether nodes and
//! devices have what the log has.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tombolo_engine::{Key, Local, Log as _, Offset, TailEvent};
use tombolo_room::{Entry, Event, Message, PropertyKey, Room, Value};
use tombolo_services::Services;
use tombolo_wire::RoomId;

use super::deed::What;
use super::device::{COUNT, Device, Told, Violation};
use super::feed::Feed;
use super::law::Law;
use super::trace::note;

/// A room as its log makes it, and what was ever said there.
pub(crate) struct Reader {
    name: String,
    id: RoomId,
    pub(super) feed: Feed,
    pub(super) room: Room,
    pub(super) said: BTreeMap<u64, String>,
    /// How often it was forgotten after it had closed.
    pub(super) forgotten: u64,
    pub(super) law: Law,
    /// What the room is after each entry: the same wherever it is hosted.
    state_by_offset: BTreeMap<Offset, Bytes>,
    /// With which turns of devices the counter was last found right; `None` when it may have changed since.
    counted: Option<u64>,
}

impl Reader {
    pub(crate) async fn new(local: &Local, name: &str) -> Result<Self, Violation> {
        let key = Key::new(["room", name]).map_err(|error| error.to_string())?;
        let tail = local.tail(&key, None).await;
        Ok(Self {
            name: name.to_owned(),
            id: RoomId::parse(name).map_err(|error| error.to_string())?,
            feed: Feed::new(tail.map_err(|error| error.to_string())?),
            room: Room::new(),
            said: BTreeMap::new(),
            forgotten: 0,
            law: Law::default(),
            state_by_offset: BTreeMap::new(),
            counted: None,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reads what was appended since, and looks whether devices were told so.
    pub(crate) fn read(&mut self, devices: &[Device]) -> Result<(), Violation> {
        self.feed.read();
        let events = self.feed.take();
        if events.is_empty() {
            return Ok(());
        }
        self.counted = None;
        self.on_events(events)?;
        let lawful = self.law.check_done(&self.name, devices);
        lawful.map_err(|violation| format!("{}: {violation}", self.name))
    }

    fn on_events(&mut self, events: VecDeque<TailEvent>) -> Result<(), Violation> {
        for event in events {
            let name = &self.name;
            match event {
                TailEvent::Entry { at, entry } => {
                    let entry =
                        Entry::decode(&entry).map_err(|error| format!("{name}: {error:?}"))?;
                    note(|| format!("{name}: {at} {entry:?}"));
                    let applied = self.room.apply(&entry);
                    for event in &applied.events {
                        if let Event::Said(message) = event {
                            self.on_said(message)?;
                        }
                    }
                    let lawful = self.law.on_entry(&self.room, &entry, &applied);
                    lawful.map_err(|violation| format!("{}: {violation}", self.name))?;
                    self.forgotten += u64::from(self.room.is_new());
                    self.check_owner()?;
                    self.state_by_offset.insert(at, self.room.snapshot());
                }
                TailEvent::Snapshot { .. } => {
                    return Err(format!(
                        "{name}: a snapshot has taken the place of what is new"
                    ));
                }
                TailEvent::Reset => return Err(format!("{name}: the log began anew")),
                TailEvent::Retired { .. } => {
                    return Err(format!("{name}: the log was retired before it was read"));
                }
                TailEvent::Synced => {}
            }
        }
        Ok(())
    }

    fn on_said(&mut self, message: &Message) -> Result<(), Violation> {
        let last = self.said.last_key_value().map_or(0, |(last, _)| *last);
        if message.number != last + 1 {
            let (name, number) = (&self.name, message.number);
            return Err(format!("{name}: message {number} comes after {last}"));
        }
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        self.said.insert(message.number, text);
        Ok(())
    }

    /// Whoever is present is led by one of the members.
    fn check_owner(&self) -> Result<(), Violation> {
        let name = &self.name;
        let is_anybody_present = self.room.members().any(|(_, member)| member.is_present());
        match self.room.owner() {
            Some(owner) if self.room.member(owner).is_none() => {
                Err(format!("{name}: its owner {owner} is no member"))
            }
            None if is_anybody_present => Err(format!("{name}: nobody owns it")),
            Some(_) | None => Ok(()),
        }
    }

    /// A node has made of the log what it says, as far as it has read it.
    pub(crate) fn check_node(
        &self,
        services: &Services,
        checked: &mut Option<Offset>,
    ) -> Result<(), Violation> {
        let read_to = services.room_read_to(&self.id);
        if read_to.is_none() || read_to == *checked {
            return Ok(());
        }
        let Some((at, state)) = services.room_snapshot(&self.id) else {
            return Ok(());
        };
        *checked = Some(at);
        let (name, node) = (&self.name, services.name());
        match self.state_by_offset.get(&at) {
            Some(truth) if *truth == state => Ok(()),
            Some(truth) => {
                let [seen, truth] = [&state, truth].map(|state| Room::restore(state));
                Err(format!(
                    "{name}: at {at} {node} has\n{seen:#?}, not\n{truth:#?}"
                ))
            }
            None => Err(format!(
                "{name}: {node} has read what is not there, at {at}"
            )),
        }
    }

    /// What a device was told of this room is so.
    pub(crate) fn check_told(&self, device: &str, told: &Told) -> Result<(), Violation> {
        let said = self.said.get(&told.number);
        if said == Some(&told.text) {
            return Ok(());
        }
        let (name, Told { number, text, .. }) = (&self.name, told);
        Err(format!(
            "{name}: {device} was told that {number} is “{text}”; it is {said:?}"
        ))
    }

    /// The counter is what was acknowledged, and perhaps some of what nobody knows.
    pub(crate) fn check_count(&mut self, devices: &[Device]) -> Result<(), Violation> {
        let turns = devices.iter().map(|device| device.turns).sum();
        if self.counted.replace(turns) == Some(turns) {
            return Ok(());
        }
        let name = &self.name;
        let added = devices.iter().map(|device| {
            let done = device.done(name);
            done.get(&What::Add).copied().unwrap_or_default()
        });
        let (sure, unsure) = added.fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        let count = self.count();
        if !(sure..=sure + unsure).contains(&count) {
            return Err(format!(
                "{name}: counts {count}, not {sure} and up to {unsure} more"
            ));
        }
        Ok(())
    }

    pub(super) fn count(&self) -> i64 {
        let key = PropertyKey::parse(COUNT).ok();
        let properties = self.room.properties();
        let property = key.and_then(|key| properties?.property(key.as_str()).cloned());
        match property.map(|property| property.value) {
            Some(Value::Integer(count)) => count,
            _ => 0,
        }
    }
}
