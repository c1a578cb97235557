//! A room in which the owner puts others out and leaves something to its successor, where seats are not kept
//! for long, and where devices have things.

mod things;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tombolo_wire::v1::{self, room_act};

use super::deed::What;
use super::device::Device;

/// What devices do there; the chances are its own.
pub(crate) struct Court {
    rng: ChaCha12Rng,
}

impl Court {
    pub(crate) fn new(rng: ChaCha12Rng) -> Self {
        Self { rng }
    }

    /// A device does something there.
    pub(crate) fn act(&mut self, devices: &mut [Device]) {
        let dice = self.rng.random_range(0..100);
        let other = self.rng.random_range(0..devices.len());
        let other = devices[other].name.clone();
        let index = self.rng.random_range(0..devices.len());
        let device = &mut devices[index];
        if !device.is_connected() || device.is_between(COURT) {
            return;
        }
        if !device.wants.contains(COURT) {
            device.join(COURT);
            return;
        }
        let Some(view) = device.views.get(COURT).filter(|view| view.is_joined) else {
            return;
        };
        // Others try, too, now and then.
        let is_tried = view.owner == device.name || dice % 8 == 0;
        match dice {
            0..4 => device.leave(COURT),
            4..34 if is_tried => expel(device, &other, dice),
            34..46 if is_tried => things::keep_state(device),
            _ => things::act(device, &other, &mut self.rng),
        }
    }
}

fn expel(device: &mut Device, other: &str, dice: u32) {
    let user = other.to_owned();
    let (what, act) = match dice {
        4..14 => {
            let kick = v1::Kick { user: user.clone() };
            (What::Kick(user), room_act::Kind::Kick(kick))
        }
        14..24 => {
            // Some for as long as the room lasts.
            let lasts_ms = if dice < 21 { 2_000 } else { 0 };
            let ban = v1::Ban {
                user: user.clone(),
                lasts_ms,
            };
            (What::Ban(user), room_act::Kind::Ban(ban))
        }
        _ => {
            let unban = v1::Unban { user: user.clone() };
            (What::Unban(user), room_act::Kind::Unban(unban))
        }
    };
    device.begin(COURT, what, act);
}

/// Its name.
pub(crate) const COURT: &str = "court";
