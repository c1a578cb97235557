//! What devices do.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tombolo_room::Room;
use tombolo_wire::RoomId;

use super::nodes::Node;
use super::{ClusterWorld, TICK};
use crate::cluster::device::{BRIEF, Device, Violation};
use crate::cluster::place::Place;
use crate::cluster::plain::Plain;

impl ClusterWorld {
    /// A device does something.
    pub(super) fn act(&mut self) {
        let room = self.rng.random_range(0..self.rooms.len() - 2);
        let room = self.rooms[room].name().to_owned();
        let dice = self.rng.random_range(0..100);
        let index = self.rng.random_range(0..self.devices.len());
        let device = &mut self.devices[index];
        let is_in = device.views.get(&room).is_some_and(|view| view.is_joined);
        if !device.is_connected() || device.is_between(&room) {
            return;
        }
        if !device.wants.contains(&room) {
            device.join(&room);
        } else if is_in {
            match dice {
                0..5 => device.leave(&room),
                5..40 => device.say(&room),
                40..60 => device.add(&room),
                _ => {
                    let known = self.known_by(index, &room).unwrap_or_default();
                    let sent = Plain::send(&mut self.devices, index, &room, &known);
                    self.plain.extend(sent);
                }
            }
        }
    }

    /// A room as the node of a device has read it.
    fn known_by(&self, device: usize, room: &str) -> Option<Room> {
        let node = self.nodes.get(self.devices.get(device)?.node?)?;
        let room = RoomId::parse(room).ok()?;
        let (_, state) = node.services.as_ref()?.room_snapshot(&room)?;
        Room::restore(&state).ok()
    }

    /// One of two comes into the brief room, or leaves it, perhaps as the last one.
    pub(super) fn come_and_go(&mut self) {
        let dice = self.brief_rng.random_range(0..4);
        let Some(device) = self.devices[..2].get_mut(dice) else {
            return;
        };
        if !device.is_connected() || device.is_between(BRIEF) {
            return;
        }
        if !device.wants.contains(BRIEF) {
            device.join(BRIEF);
        } else if device.views.get(BRIEF).is_some_and(|view| view.is_joined) {
            device.leave(BRIEF);
        }
    }

    pub(super) fn any_device(&mut self) -> &mut Device {
        let index = self.rng.random_range(0..self.devices.len());
        &mut self.devices[index]
    }

    pub(super) fn tend_devices(&mut self) -> Result<(), Violation> {
        for device in &mut self.devices {
            device.pump()?;
            find_node(device, &self.nodes, &self.place, &mut self.rng);
        }
        self.guest.pump()?;
        if self.is_guest_gone {
            return Ok(());
        }
        if self.guest.is_connected() && self.guest_rng.random_range(0..GUEST_STAYS) == 0 {
            let pause = self.guest_rng.random_range(Duration::ZERO..GUEST_AWAY_MAX);
            self.guest.lose_connection(pause);
        }
        find_node(
            &mut self.guest,
            &self.nodes,
            &self.place,
            &mut self.guest_rng,
        );
        Ok(())
    }
}

/// A device that looks for a node, or for another one, tries any.
fn find_node(device: &mut Device, nodes: &[Node], world: &Place, rng: &mut ChaCha12Rng) {
    if !device.is_looking() {
        return;
    }
    let index = rng.random_range(0..nodes.len());
    match &nodes[index].services {
        Some(services) if device.node != Some(index) => {
            device.greet(index, services, nodes[index].place(world));
        }
        Some(_) | None => device.wait(TICK),
    }
}

/// For about so many ticks the guest stays.
const GUEST_STAYS: u32 = 1000;
/// The longest that it stays away: longer than whoever is away counts as there.
const GUEST_AWAY_MAX: Duration = Duration::from_secs(20);
