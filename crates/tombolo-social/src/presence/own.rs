//! What a node says of its own users.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_wire::UserId;

use super::{Beat, Changes, Counts, DeviceId, Roll, SHARDS, Shard, Status};

/// The users of a node. Feed it with [`Own::handle_device`]; what is to be told then waits in
/// [`Own::poll_changes`], where changes that undo each other before they are told vanish.
#[derive(Debug)]
pub struct Own {
    devices_by_user: BTreeMap<UserId, BTreeMap<DeviceId, Device>>,
    /// Indexed by shard.
    shards: Vec<Told>,
    /// Those with something to tell.
    restless: BTreeSet<Shard>,
    counts: Counts,
}

/// Something has become of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChange {
    /// Its session has begun.
    Came,
    /// Its connection is lost.
    Lost,
    /// Its connection is back.
    Returned,
    /// Somebody looks at it.
    Active,
    /// Nobody looks at it.
    Away,
    /// Its session is over, or goes on over another node.
    Gone,
}

#[derive(Clone, Copy, Debug, Default)]
struct Device {
    is_away: bool,
    is_lost: bool,
}

/// What has been told of a shard.
#[derive(Debug, Default)]
struct Told {
    number: u64,
    status_by_user: BTreeMap<UserId, Status>,
    /// Of whom something may have to be told.
    changed: BTreeSet<UserId>,
}

/// Users in one [`Changes`], at most.
const CHANGES_USERS_MAX: usize = 1024;

impl Default for Own {
    fn default() -> Self {
        Self {
            devices_by_user: BTreeMap::new(),
            shards: std::iter::repeat_with(Told::default).take(SHARDS).collect(),
            restless: BTreeSet::new(),
            counts: Counts::default(),
        }
    }
}

impl Own {
    /// Takes in what has become of a user's device. Changes of a device that never came are ignored.
    pub fn handle_device(&mut self, user: &UserId, device: DeviceId, change: DeviceChange) {
        let devices = match change {
            DeviceChange::Came => self.devices_by_user.entry(user.clone()).or_default(),
            DeviceChange::Lost
            | DeviceChange::Returned
            | DeviceChange::Active
            | DeviceChange::Away
            | DeviceChange::Gone => {
                let Some(devices) = self.devices_by_user.get_mut(user) else {
                    return;
                };
                devices
            }
        };
        match (change, devices.get_mut(&device)) {
            (DeviceChange::Came, None) => drop(devices.insert(device, Device::default())),
            (DeviceChange::Lost, Some(device)) => device.is_lost = true,
            (DeviceChange::Returned, Some(device)) => device.is_lost = false,
            (DeviceChange::Active, Some(device)) => device.is_away = false,
            (DeviceChange::Away, Some(device)) => device.is_away = true,
            (DeviceChange::Gone, Some(_)) => drop(devices.remove(&device)),
            (_, None) | (DeviceChange::Came, Some(_)) => return,
        }
        if devices.is_empty() {
            self.devices_by_user.remove(user);
        }
        let shard = Shard::of(user);
        self.shards[shard.index()].changed.insert(user.clone());
        self.restless.insert(shard);
    }

    /// What is to be told next.
    #[must_use]
    pub fn poll_changes(&mut self) -> Option<Changes> {
        while let Some(shard) = self.restless.first().copied() {
            let users = self.take_changed(shard);
            let told = &mut self.shards[shard.index()];
            if told.changed.is_empty() {
                self.restless.remove(&shard);
            }
            if !users.is_empty() {
                told.number += 1;
                return Some(Changes {
                    shard,
                    number: told.number,
                    users,
                });
            }
        }
        None
    }

    /// Whether there is something to tell.
    #[must_use]
    pub fn is_restless(&self) -> bool {
        !self.restless.is_empty()
    }

    /// Everything that was told of a shard.
    #[must_use]
    pub fn roll(&self, shard: Shard) -> Roll {
        let told = &self.shards[shard.index()];
        let users = told.status_by_user.iter();
        Roll {
            shard,
            number: told.number,
            users: users
                .map(|(user, status)| (user.clone(), *status))
                .collect(),
        }
    }

    /// How far everything has been told.
    #[must_use]
    pub fn beat(&self) -> Beat {
        Beat {
            numbers: self.shards.iter().map(|told| told.number).collect(),
            counts: self.counts,
        }
    }

    /// How the user is on this node.
    fn status(&self, user: &UserId) -> Status {
        let devices = self.devices_by_user.get(user).into_iter().flatten();
        let statuses = devices.map(|(_, device)| device.status());
        statuses.max().unwrap_or_default()
    }

    /// Notes as told what has changed, as much as fits into one message.
    fn take_changed(&mut self, shard: Shard) -> Vec<(UserId, Status)> {
        let mut users = Vec::new();
        while users.len() < CHANGES_USERS_MAX
            && let Some(user) = self.shards[shard.index()].changed.pop_first()
        {
            let status = self.status(&user);
            let known = &mut self.shards[shard.index()].status_by_user;
            let before = match status {
                Status::Offline => known.remove(&user),
                Status::Away | Status::Online => known.insert(user.clone(), status),
            };
            let before = before.unwrap_or_default();
            if before != status {
                self.counts.move_one(before, status);
                users.push((user, status));
            }
        }
        users
    }
}

impl Device {
    fn status(self) -> Status {
        match self {
            Self { is_lost: true, .. } => Status::Offline,
            Self { is_away: true, .. } => Status::Away,
            Self { .. } => Status::Online,
        }
    }
}
