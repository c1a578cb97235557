//! Plain messages: who is to hear which, and whether everybody has.

use tombolo_room::Room;
use tombolo_wire::UserId;

use super::device::{Device, Violation};

/// A plain message that others are to hear.
pub(crate) struct Plain {
    from: String,
    /// The sender's session.
    life: u64,
    number: u64,
    /// The number of its frame.
    seq: u64,
    room: String,
    receivers: Vec<Receiver>,
}

/// A member to the sender's knowledge and its own.
struct Receiver {
    user: String,
    life: u64,
    stay: u64,
}

impl Plain {
    /// A device sends one, if it can, by a node that knows the room so.
    pub(crate) fn send(
        devices: &mut [Device],
        from: usize,
        room: &str,
        known: &Room,
    ) -> Option<Self> {
        let sender = devices.get_mut(from)?;
        let (number, seq) = sender.send(room)?;
        let sender = devices.get(from)?;
        let seen = sender.views.get(room)?;
        // A session that it does not know yet is told what comes later.
        let is_known = |device: &Device| {
            let user = UserId::parse(&device.name).ok();
            let found = user.and_then(|user| known.membership(&user));
            found.is_some_and(|found| found.session.0[..] == device.session[..])
        };
        let receivers = devices.iter().filter_map(|device| {
            let view = device.views.get(room)?;
            let is_receiver = device.name != sender.name
                && seen.is_present(&device.name)
                && view.is_joined
                && is_known(device);
            is_receiver.then(|| Receiver {
                user: device.name.clone(),
                life: device.life,
                stay: view.stay,
            })
        });
        Some(Self {
            from: sender.name.clone(),
            life: sender.life,
            number,
            seq,
            room: room.to_owned(),
            receivers: receivers.collect(),
        })
    }

    /// Counts those who have heard it. Whoever was in the room all the time, in one session, has, if
    /// the sender's session was not lost and it was not told otherwise.
    pub(crate) fn check(&self, devices: &[Device]) -> Result<u64, Violation> {
        let device = |user: &str| devices.iter().find(|device| device.name == user);
        let is_sure = device(&self.from).is_some_and(|sender| {
            sender.life == self.life && !sender.refused.contains(&(self.life, self.seq))
        });
        let mut heard = 0;
        for receiver in self.receivers.iter().filter(|_| is_sure) {
            let Some(device) = device(&receiver.user) else {
                continue;
            };
            let view = device.views.get(&self.room);
            let has_stayed =
                device.life == receiver.life && view.is_some_and(|view| view.stay == receiver.stay);
            let message = (self.from.clone(), self.life, self.number);
            match (has_stayed, device.heard_all.contains(&message)) {
                (true, true) => heard += 1,
                (false, _) => {}
                (true, false) => {
                    let (from, life, number) = message;
                    let (room, user) = (&self.room, &receiver.user);
                    return Err(format!(
                        "{room}: {user} has not heard {from}'s {life} {number}"
                    ));
                }
            }
        }
        Ok(heard)
    }
}
