//! What a node makes of what all nodes say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tombolo_wire::{NodeId, UserId};

use super::{Beat, Changes, DeviceId, Roll, Shard, Status};

/// Who follows whom on a node, and how those are.
///
/// Feed it with `handle_*`; then drain [`Watch::poll_command`] and sleep until [`Watch::poll_timeout`]. What
/// followers are to be told waits in [`Watch::news_of`], the last status of each user only.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    shards: BTreeMap<Shard, Heard>,
    up: BTreeSet<NodeId>,
    counts_by_node: BTreeMap<NodeId, Counts>,
    watched_by_user: BTreeMap<UserId, Watched>,
    follower_by_device: BTreeMap<DeviceId, Follower>,
    /// Those who are to be told something.
    restless: BTreeSet<DeviceId>,
    /// How many users all devices together follow.
    follows: usize,
    offline_at: BTreeSet<(Instant, UserId)>,
    idle_until: BTreeSet<(Instant, Shard)>,
    commands: VecDeque<Command>,
}

/// Bounds and times of a [`Watch`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a user is nowhere before it is shown as offline.
    pub grace: Duration,
    /// Users that one device follows.
    pub follows_per_device_max: usize,
    /// Users that all devices together follow, each counted as often as it is followed.
    pub follows_max: usize,
}

/// How many users there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Somebody looks at one of their devices.
    pub online: u64,
    /// Nobody does.
    pub away: u64,
}

/// What the world is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Hear what all nodes tell of the shard, and say so to [`Watch::handle_heard`].
    Hear(Shard),
    /// Hear it no more.
    Ignore(Shard),
    /// Ask a node for all that it tells of a shard.
    Ask(Ask),
}

/// A question that is answered by a [`Roll`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who is asked.
    pub node: NodeId,
    /// For what.
    pub shard: Shard,
}

/// Why the next timeout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Somebody has been nowhere for long enough.
    Offline,
    /// Nobody has followed anybody of a shard for long enough.
    Idle,
}

/// Why a user is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TooMany {
    /// The device follows as many as it may.
    #[error("a device follows at most {max} users")]
    Device {
        /// How many it may.
        max: usize,
    },
    /// All devices of the node do.
    #[error("the devices of this node follow as many users as they may")]
    Node,
}

/// A shard in which somebody is followed, or was a moment ago.
#[derive(Debug, Default)]
struct Heard {
    is_heard: bool,
    watched: usize,
    /// `None` while somebody is followed.
    idle_until: Option<Instant>,
    stream_by_node: BTreeMap<NodeId, Stream>,
}

/// What one node tells of a shard.
#[derive(Debug, Default)]
struct Stream {
    /// Which of the node's lives.
    epoch: u64,
    number: u64,
    /// What the beat before said.
    beat: u64,
    /// Nothing was missed.
    is_current: bool,
    asked_at: Option<Instant>,
    status_by_user: BTreeMap<UserId, Status>,
}

/// A user that is followed.
#[derive(Debug)]
struct Watched {
    shown: Status,
    followers: BTreeSet<DeviceId>,
    /// `None` unless the user is nowhere, but not shown so.
    offline_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Follower {
    /// What it was told last; `None` until its question is answered.
    told_by_user: BTreeMap<UserId, Option<Status>>,
    /// Of whom something may have to be told.
    changed: BTreeSet<UserId>,
}

/// How long a shard is heard in which nobody is followed.
const LINGER: Duration = Duration::from_secs(30);

/// How long an answer may take.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// Users that one node may have in a shard: some ten times what the largest node has.
const STREAM_USERS_MAX: usize = 4096;

impl Watch {
    /// Nobody follows anybody.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            shards: BTreeMap::new(),
            up: BTreeSet::new(),
            counts_by_node: BTreeMap::new(),
            watched_by_user: BTreeMap::new(),
            follower_by_device: BTreeMap::new(),
            restless: BTreeSet::new(),
            follows: 0,
            offline_at: BTreeSet::new(),
            idle_until: BTreeSet::new(),
            commands: VecDeque::new(),
        }
    }

    /// Tells a device how users are, once [`Watch::handle_told`] says that it has been answered. Those that
    /// it follows already it goes on to follow.
    ///
    /// # Errors
    /// When it would be too many: then nothing has changed.
    pub fn handle_follow(
        &mut self,
        now: Instant,
        device: DeviceId,
        users: &BTreeSet<UserId>,
    ) -> Result<(), TooMany> {
        let follower = self.follower_by_device.get(&device);
        let known = follower.map_or(0, |follower| follower.told_by_user.len());
        let is_new = |user: &&UserId| {
            !follower.is_some_and(|follower| follower.told_by_user.contains_key(*user))
        };
        let new: Vec<_> = users.iter().filter(is_new).cloned().collect();
        let max = self.limits.follows_per_device_max;
        if known + new.len() > max {
            return Err(TooMany::Device { max });
        }
        if self.follows + new.len() > self.limits.follows_max {
            return Err(TooMany::Node);
        }
        for user in new {
            self.follow(now, device, user);
        }
        Ok(())
    }

    /// Tells a device nothing of these users any more.
    pub fn handle_unfollow(&mut self, now: Instant, device: DeviceId, users: &BTreeSet<UserId>) {
        for user in users {
            self.unfollow(now, device, user);
        }
    }

    /// A device wants to be told nothing any more.
    pub fn handle_gone(&mut self, now: Instant, device: DeviceId) {
        let follower = self.follower_by_device.get(&device);
        let users = follower.map(|follower| follower.told_by_user.keys().cloned().collect());
        self.handle_unfollow(now, device, &users.unwrap_or_default());
    }

    /// Which nodes there are, this one among them.
    pub fn handle_nodes(&mut self, now: Instant, up: BTreeSet<NodeId>) {
        if up == self.up {
            return;
        }
        self.up = up;
        self.counts_by_node.retain(|node, _| self.up.contains(node));
        let shards: Vec<_> = self.shards.keys().copied().collect();
        for shard in shards {
            let Some(heard) = self.shards.get_mut(&shard) else {
                continue;
            };
            let mut over = Vec::new();
            heard.stream_by_node.retain(|node, stream| {
                let is_up = self.up.contains(node);
                if !is_up {
                    over.extend(std::mem::take(&mut stream.status_by_user).into_keys());
                }
                is_up
            });
            self.refresh(now, &over);
            self.ask(now, shard);
        }
    }

    /// From now on everything that is told of a shard is heard, or nothing any more.
    pub fn handle_heard(&mut self, now: Instant, shard: Shard, is_heard: bool) {
        if let Some(heard) = self.shards.get_mut(&shard) {
            heard.is_heard = is_heard;
            for stream in heard.stream_by_node.values_mut() {
                stream.is_current = false;
                stream.asked_at = None;
            }
            self.ask(now, shard);
        }
    }

    /// Takes in what a node tells.
    pub fn handle_changes(&mut self, now: Instant, from: &NodeId, epoch: u64, changes: Changes) {
        let Some(stream) = self.stream(from, epoch, changes.shard) else {
            return;
        };
        if !stream.is_current || changes.number <= stream.number {
            return;
        }
        if changes.number != stream.number + 1 {
            stream.is_current = false;
            return self.ask(now, changes.shard);
        }
        stream.number = changes.number;
        let mut users = Vec::with_capacity(changes.users.len());
        for (user, status) in changes.users {
            if Shard::of(&user) == changes.shard {
                stream.set(user.clone(), status);
                users.push(user);
            }
        }
        self.refresh(now, &users);
    }

    /// Takes in the answer to an [`Ask`].
    pub fn handle_roll(&mut self, now: Instant, from: &NodeId, epoch: u64, roll: Roll) {
        let Some(stream) = self.stream(from, epoch, roll.shard) else {
            return;
        };
        if stream.is_current && roll.number <= stream.number {
            return;
        }
        let mut users: Vec<_> = std::mem::take(&mut stream.status_by_user)
            .into_keys()
            .collect();
        for (user, status) in roll.users {
            if Shard::of(&user) == roll.shard {
                stream.set(user.clone(), status);
                users.push(user);
            }
        }
        (stream.number, stream.is_current, stream.asked_at) = (roll.number, true, None);
        self.refresh(now, &users);
    }

    /// Takes in what a node says now and then. What had not been heard of it by the beat before is lost.
    pub fn handle_beat(&mut self, now: Instant, from: &NodeId, epoch: u64, beat: &Beat) {
        if !self.up.contains(from) {
            return;
        }
        self.counts_by_node.insert(from.clone(), beat.counts);
        let shards: Vec<_> = self.shards.keys().copied().collect();
        for shard in shards {
            let Some(number) = beat.numbers.get(shard.index()).copied() else {
                continue;
            };
            if let Some(stream) = self.stream(from, epoch, shard) {
                stream.is_current &= stream.number >= stream.beat;
                stream.beat = number;
            }
            self.ask(now, shard);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, user)) = self.offline_at.first().cloned()
            && at <= now
        {
            self.offline_at.pop_first();
            if let Some(watched) = self.watched_by_user.get_mut(&user) {
                watched.offline_at = None;
                watched.shown = Status::Offline;
                let followers = watched.followers.clone();
                self.disturb(&user, &followers);
            }
        }
        while let Some((at, shard)) = self.idle_until.first().copied()
            && at <= now
        {
            self.idle_until.pop_first();
            self.shards.remove(&shard);
            self.commands.push_back(Command::Ignore(shard));
        }
    }

    /// What the world is to do.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Watch::handle_timeout`] is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let offline = self.offline_at.first().map(|(at, _)| (*at, Timer::Offline));
        let idle = self.idle_until.first().map(|(at, _)| (*at, Timer::Idle));
        [offline, idle]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// The devices that are to be told something.
    pub fn restless(&self) -> impl Iterator<Item = DeviceId> {
        self.restless.iter().copied()
    }

    /// What a device has not been told yet, up to so many users. Once it has been, say so to
    /// [`Watch::handle_told`].
    #[must_use]
    pub fn news_of(&self, device: DeviceId, users_max: usize) -> Vec<(UserId, Status)> {
        let Some(follower) = self.follower_by_device.get(&device) else {
            return Vec::new();
        };
        let changed = follower.changed.iter().filter_map(|user| {
            let status = self.status(user);
            let told = follower.told_by_user.get(user).copied().flatten();
            (told != Some(status)).then(|| (user.clone(), status))
        });
        changed.take(users_max).collect()
    }

    /// A device has been told these, whether they were news or the answer to its question.
    pub fn handle_told(&mut self, device: DeviceId, news: &[(UserId, Status)]) {
        let Some(follower) = self.follower_by_device.get_mut(&device) else {
            return;
        };
        for (user, status) in news {
            if let Some(told) = follower.told_by_user.get_mut(user) {
                *told = Some(*status);
            }
        }
        let (watched, told) = (&self.watched_by_user, &follower.told_by_user);
        follower.changed.retain(|user| {
            let shown = watched.get(user).map(|watched| watched.shown);
            shown != told.get(user).copied().flatten()
        });
        if follower.changed.is_empty() {
            self.restless.remove(&device);
        }
    }

    /// Whether a device follows somebody.
    #[must_use]
    pub fn is_following(&self, device: DeviceId) -> bool {
        self.follower_by_device.contains_key(&device)
    }

    /// How a user that is followed is shown.
    #[must_use]
    pub fn status(&self, user: &UserId) -> Status {
        let watched = self.watched_by_user.get(user);
        watched.map_or(Status::Offline, |watched| watched.shown)
    }

    /// Whether all that there is to know of these users is known.
    #[must_use]
    pub fn is_current(&self, users: &BTreeSet<UserId>) -> bool {
        users.iter().all(|user| {
            self.shards.get(&Shard::of(user)).is_some_and(|heard| {
                let is_current = |node| {
                    let stream = heard.stream_by_node.get(node);
                    stream.is_some_and(|stream| stream.is_current)
                };
                heard.is_heard && self.up.iter().all(is_current)
            })
        })
    }

    /// How many users there are on all nodes. Who is on several counts as often.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for counts in self.counts_by_node.values() {
            sum.online = sum.online.saturating_add(counts.online);
            sum.away = sum.away.saturating_add(counts.away);
        }
        sum
    }

    fn follow(&mut self, now: Instant, device: DeviceId, user: UserId) {
        match self.watched_by_user.get_mut(&user) {
            Some(watched) => drop(watched.followers.insert(device)),
            None => self.watch(now, &user, device),
        }
        self.follows += 1;
        let follower = self.follower_by_device.entry(device).or_default();
        follower.told_by_user.insert(user, None);
    }

    fn watch(&mut self, now: Instant, user: &UserId, device: DeviceId) {
        let shard = Shard::of(user);
        let is_new = !self.shards.contains_key(&shard);
        let heard = self.shards.entry(shard).or_default();
        heard.watched += 1;
        if let Some(at) = heard.idle_until.take() {
            self.idle_until.remove(&(at, shard));
        }
        if is_new {
            self.commands.push_back(Command::Hear(shard));
            self.ask(now, shard);
        }
        let watched = Watched {
            shown: self.merged(user),
            followers: BTreeSet::from([device]),
            offline_at: None,
        };
        self.watched_by_user.insert(user.clone(), watched);
    }

    fn unfollow(&mut self, now: Instant, device: DeviceId, user: &UserId) {
        let Some(follower) = self.follower_by_device.get_mut(&device) else {
            return;
        };
        if follower.told_by_user.remove(user).is_none() {
            return;
        }
        follower.changed.remove(user);
        if follower.changed.is_empty() {
            self.restless.remove(&device);
        }
        if follower.told_by_user.is_empty() {
            self.follower_by_device.remove(&device);
        }
        self.follows -= 1;
        let Some(watched) = self.watched_by_user.get_mut(user) else {
            return;
        };
        watched.followers.remove(&device);
        if !watched.followers.is_empty() {
            return;
        }
        if let Some(at) = watched.offline_at {
            self.offline_at.remove(&(at, user.clone()));
        }
        self.watched_by_user.remove(user);
        let shard = Shard::of(user);
        if let Some(heard) = self.shards.get_mut(&shard) {
            heard.watched -= 1;
            if heard.watched == 0 {
                let at = now + LINGER;
                heard.idle_until = Some(at);
                self.idle_until.insert((at, shard));
            }
        }
    }

    /// What a node tells of a shard; `None` when it is not to be listened to.
    fn stream(&mut self, from: &NodeId, epoch: u64, shard: Shard) -> Option<&mut Stream> {
        let heard = self.shards.get_mut(&shard)?;
        let stream = heard.stream_by_node.get_mut(from)?;
        if epoch > stream.epoch {
            // Its earlier life is over; who is still there it says when it is asked.
            (stream.epoch, stream.number, stream.beat) = (epoch, 0, 0);
            (stream.is_current, stream.asked_at) = (false, None);
        }
        (epoch == stream.epoch).then_some(stream)
    }

    /// Asks the nodes of which something is missing, unless an answer may be on its way.
    fn ask(&mut self, now: Instant, shard: Shard) {
        let Some(heard) = self.shards.get_mut(&shard) else {
            return;
        };
        for node in &self.up {
            let stream = heard.stream_by_node.entry(node.clone()).or_default();
            let is_due = stream
                .asked_at
                .is_none_or(|at| now.saturating_duration_since(at) >= ASK_INTERVAL);
            if heard.is_heard && !stream.is_current && is_due {
                stream.asked_at = Some(now);
                let node = node.clone();
                self.commands.push_back(Command::Ask(Ask { node, shard }));
            }
        }
    }

    /// How a user is by what all nodes tell.
    fn merged(&self, user: &UserId) -> Status {
        let heard = self.shards.get(&Shard::of(user));
        let streams = heard
            .into_iter()
            .flat_map(|heard| heard.stream_by_node.values());
        let statuses = streams.filter_map(|stream| stream.status_by_user.get(user));
        statuses.max().copied().unwrap_or_default()
    }

    /// Shows the users as they are now, if somebody follows them.
    fn refresh(&mut self, now: Instant, users: &[UserId]) {
        for user in users {
            let merged = self.merged(user);
            let Some(watched) = self.watched_by_user.get_mut(user) else {
                continue;
            };
            if merged == Status::Offline {
                if watched.shown != Status::Offline && watched.offline_at.is_none() {
                    let at = now + self.limits.grace;
                    watched.offline_at = Some(at);
                    self.offline_at.insert((at, user.clone()));
                }
                continue;
            }
            if let Some(at) = watched.offline_at.take() {
                self.offline_at.remove(&(at, user.clone()));
            }
            if watched.shown != merged {
                watched.shown = merged;
                let followers = watched.followers.clone();
                self.disturb(user, &followers);
            }
        }
    }

    fn disturb(&mut self, user: &UserId, followers: &BTreeSet<DeviceId>) {
        for device in followers {
            if let Some(follower) = self.follower_by_device.get_mut(device)
                && let Some(Some(_)) = follower.told_by_user.get(user)
            {
                follower.changed.insert(user.clone());
                self.restless.insert(*device);
            }
        }
    }
}

impl Stream {
    fn set(&mut self, user: UserId, status: Status) {
        match status {
            Status::Offline => drop(self.status_by_user.remove(&user)),
            Status::Away | Status::Online => {
                let is_known = self.status_by_user.contains_key(&user);
                if is_known || self.status_by_user.len() < STREAM_USERS_MAX {
                    self.status_by_user.insert(user, status);
                }
            }
        }
    }
}

impl Counts {
    pub(super) fn move_one(&mut self, from: Status, to: Status) {
        match from {
            Status::Offline => {}
            Status::Away => self.away -= 1,
            Status::Online => self.online -= 1,
        }
        match to {
            Status::Offline => {}
            Status::Away => self.away += 1,
            Status::Online => self.online += 1,
        }
    }
}
