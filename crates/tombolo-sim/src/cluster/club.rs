//! A group in which all devices are, whose logs are read by somebody who is not.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use futures_util::FutureExt as _;
use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tombolo_engine::{Expect, Key, Local, Log as _, OperationId, Purpose, TailEvent};
use tombolo_social::segment::{self, POSTS_MAX, Segment};
use tombolo_social::{MessageId, Time, group};

use super::device::{CLUB, Device, Posts, Violation};
use super::feed::Feed;
use super::tally::Tally;

/// What devices post.
pub(crate) struct Club {
    rng: ChaCha12Rng,
    local: Local,
    head: Feed,
    group: group::Group,
    /// In order; none until there is a group.
    segments: Vec<(Feed, Segment)>,
    /// Who posted which, and what it says.
    posts: BTreeMap<u64, (String, String)>,
}

impl Club {
    pub(crate) fn new(local: &Local, rng: ChaCha12Rng) -> Result<Self, Violation> {
        Ok(Self {
            rng,
            local: local.clone(),
            head: follow(local, &key(&["group", CLUB])?)?,
            group: group::Group::new(),
            segments: Vec::new(),
            posts: BTreeMap::new(),
        })
    }

    /// A device posts something.
    pub(crate) fn act(&mut self, devices: &mut [Device]) {
        let index = self.rng.random_range(0..devices.len());
        devices[index].posts.post();
    }

    /// Reads what was appended since, and looks whether devices were told so.
    pub(crate) fn read(&mut self, devices: &[Device]) -> Result<(), Violation> {
        for entry in entries(&self.head)? {
            let entry = group::Entry::decode(&entry).map_err(|error| error.to_string())?;
            // Who comes second makes no other one.
            let _ = self.group.apply(&entry);
        }
        let Some(epoch) = self.group.epoch() else {
            return Ok(());
        };
        while self.segments.len() as u64 <= self.group.segment() {
            let tag = epoch.0.iter().take(8);
            let tag: String = tag.map(|byte| format!("{byte:02x}")).collect();
            let key = key(&["posts", CLUB, &tag, &self.segments.len().to_string()])?;
            if self.segments.is_empty() {
                self.fill(&key)?;
            }
            let feed = follow(&self.local, &key)?;
            self.segments.push((feed, Segment::new()));
        }
        if !self.read_segments()? {
            return Ok(());
        }
        devices
            .iter()
            .try_for_each(|device| self.check_read(device))
    }

    /// Before anybody else has posted something there is so much that the story goes on in the next segment.
    fn fill(&mut self, segment: &Key) -> Result<(), Violation> {
        let room = self.rng.random_range(ROOM);
        for number in 0..(POSTS_MAX - room) as u128 {
            let id = number.to_be_bytes();
            let entry = segment::Entry {
                operation: tombolo_social::OperationId(id),
                time: Time::ZERO,
                from: None,
                id: MessageId(id),
                payload: Bytes::new(),
            };
            let (entry, operation) = (entry.encode(), OperationId(id));
            let local = &self.local;
            let appended = local.append(segment, entry, Purpose::More, Expect::Any, operation);
            let appended = appended.now_or_never().ok_or("nobody is away here")?;
            appended.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Whether there was something new.
    fn read_segments(&mut self) -> Result<bool, Violation> {
        let (mut is_new, last) = (false, self.group.segment() as usize);
        for (number, (feed, segment)) in self.segments.iter_mut().enumerate() {
            for entry in entries(feed)? {
                is_new = true;
                let entry = segment::Entry::decode(&entry).map_err(|error| error.to_string())?;
                // Whoever has not heard of the turn is refused, and posts in the next one.
                if let Ok(done) = segment.apply(&entry)
                    && !done.is_repeated
                {
                    let from = entry.from.map(|from| from.to_string());
                    let text = String::from_utf8_lossy(&entry.payload).into_owned();
                    let number = (number * POSTS_MAX + done.index) as u64 + 1;
                    self.posts.insert(number, (from.unwrap_or_default(), text));
                }
            }
            if number < last && !segment.is_full() {
                return Err(format!("{CLUB}: after {number} comes another segment"));
            }
        }
        Ok(is_new)
    }

    fn check_read(&self, device: &Device) -> Result<(), Violation> {
        for (number, post) in &device.posts.read {
            let kept = self.posts.get(number);
            if kept != Some(post) {
                let name = &device.name;
                return Err(format!(
                    "{name}: the post {number} is {kept:?}, and it read {post:?}"
                ));
            }
        }
        Ok(())
    }

    /// At rest everybody has read all that was posted since it came in, and what was acknowledged is there, once
    /// and in order, under the number that was told.
    pub(crate) fn check(&self, devices: &[Device], tally: &mut Tally) -> Result<(), Violation> {
        tally.turned += self.group.segment();
        for device in devices {
            self.check_read(device)?;
            let (name, posts) = (&device.name, &device.posts);
            let all = self.posts.len() as u64 - posts.begun;
            if posts.read.len() as u64 != all {
                let read = posts.read.len();
                return Err(format!("{name}: has read {read} of {all} posts"));
            }
            let mut last = 0;
            for (number, told) in (1..).zip(&posts.posted) {
                let text = Posts::text(name, number);
                let these = self.posts.iter();
                let these = these.filter(|(_, (from, says))| from == name && *says == text);
                let places: Vec<_> = these.map(|(place, _)| *place).collect();
                match (told, places.as_slice()) {
                    (Some(told), [place]) if told == place && *place > last => last = *place,
                    (told, places) => {
                        return Err(format!(
                            "{name}: post {number} is {told:?}, and at {places:?} after {last}"
                        ));
                    }
                }
                tally.posts += 1;
            }
        }
        Ok(())
    }
}

fn key(tokens: &[&str]) -> Result<Key, Violation> {
    Key::new(tokens.iter().copied()).map_err(|error| error.to_string())
}

fn follow(local: &Local, key: &Key) -> Result<Feed, Violation> {
    let tail = local.tail(key, None).now_or_never();
    let tail = tail.ok_or("nobody is away here")?;
    Ok(Feed::new(tail.map_err(|error| error.to_string())?))
}

fn entries(feed: &Feed) -> Result<Vec<Bytes>, Violation> {
    feed.read();
    let mut entries = Vec::new();
    for event in feed.take() {
        match event {
            TailEvent::Entry { entry, .. } => entries.push(entry),
            TailEvent::Synced => {}
            TailEvent::Snapshot { .. } | TailEvent::Reset | TailEvent::Retired { .. } => {
                return Err("a group's log is not what was appended".to_owned());
            }
        }
    }
    Ok(entries)
}

/// How many posts fit into the first segment: fewer than a story has, mostly.
const ROOM: Range<usize> = 2..20;
