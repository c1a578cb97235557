//! Tells a session of a group, at the session's pace.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tombolo_social::Place;
use tombolo_social::segment::{POSTS_MAX, Segment};
use tombolo_wire::v1::{self, group_event, server_frame, social_event};

use super::super::follower::{Agreed, Following};
use super::super::{Back, event};
use super::find::{self, Found};
use super::{on_wire, role_name};
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;

/// What a session has been told.
pub(super) struct Known {
    /// The last post.
    pub(super) cursor: u64,
    pub(super) role: u32,
    /// Of the settings.
    pub(super) revision: u64,
}

/// A session that is told of a group for as long as this is held.
pub(super) struct Telling(JoinHandle<()>);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Telling {
    pub(super) fn begin(
        node: &Arc<Node>,
        session: &Arc<Session>,
        found: Found,
        known: Known,
    ) -> Self {
        let (of, told) = (Arc::clone(node), Arc::clone(session));
        let teller = Teller {
            node: Arc::clone(node),
            session: Arc::clone(session),
            found,
            known,
            back: Back::default(),
            reading: None,
        };
        let run = async move { of.run_for(&told, teller.run()).await };
        Self(node.runtime.spawn(run))
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

struct Teller {
    node: Arc<Node>,
    session: Arc<Session>,
    found: Found,
    known: Known,
    /// What is to be said of the last post that it knows, when it was told more that is void.
    back: Back,
    reading: Option<Reading>,
}

/// The segment that is told.
#[derive(Clone)]
struct Reading {
    number: u64,
    segment: Following<Segment>,
    agreed: Agreed,
}

/// Why telling goes on otherwise.
enum Step {
    /// What is to be read is elsewhere now.
    Further,
    /// Nothing follows.
    Over(&'static str),
}

/// How far telling got.
enum Told {
    All,
    /// The device cannot take more at the moment.
    Behind,
    Step(Step),
}

impl Teller {
    async fn run(mut self) {
        loop {
            match self.follow().await {
                Ok(Step::Further) => {}
                Ok(Step::Over(reason)) => {
                    let over = v1::GroupOver {
                        reason: reason.to_owned(),
                    };
                    while !self.push(group_event::Kind::Over(over.clone())) {
                        tokio::time::sleep(TELL_DELAY).await;
                    }
                    return;
                }
                // The engine is away, or this node reads as much as it may.
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }

    /// Tells what one segment and one roster say, until others have to be read.
    async fn follow(&mut self) -> Result<Step, Reject> {
        if !self.found.is_there() {
            return Ok(Step::Over(ENDED));
        }
        let leaf = self.found.roster(&self.node, &self.session.user).await?;
        let number = find::segment_of(self.known.cursor + 1);
        let reading = self.read(number).await?;
        let mut head_changes = self.found.head().watch();
        let mut roster_changes = leaf.roster.watch();
        let mut segment_changes = reading.segment.watch();
        loop {
            head_changes.borrow_and_update();
            roster_changes.borrow_and_update();
            segment_changes.borrow_and_update();
            let mut told = self.tell_about(&leaf);
            if matches!(told, Told::All) {
                if let Some(agreed) = reading.agreed.take() {
                    self.go_back(find::number(number, 0) + agreed - 1);
                }
                told = self.tell_back();
            }
            if matches!(told, Told::All) {
                told = self.tell_posts(&reading);
            }
            match told {
                Told::Step(step) => return Ok(step),
                Told::Behind => tokio::time::sleep(TELL_DELAY).await,
                Told::All => tokio::select! {
                    biased;
                    _ = head_changes.changed() => {}
                    _ = roster_changes.changed() => {}
                    _ = segment_changes.changed() => {}
                },
            }
        }
    }

    /// The segment with a number. While that is told, nothing that becomes void of it is missed.
    async fn read(&mut self, number: u64) -> Result<Reading, Reject> {
        if let Some(reading) = &self.reading
            && reading.number == number
        {
            return Ok(reading.clone());
        }
        let segment = self.found.segment(&self.node, number).await?;
        let agreed = segment.lock().agreed();
        let reading = Reading {
            number,
            segment,
            agreed,
        };
        self.reading = Some(reading.clone());
        Ok(reading)
    }

    /// Tells how the group and this member of it are.
    fn tell_about(&mut self, leaf: &find::Leaf) -> Told {
        if !self.found.is_there() {
            return Told::Step(Step::Over(ENDED));
        }
        let (member, is_split) = {
            let state = leaf.roster.lock();
            let member = state.machine.member(&self.session.user);
            (member, state.machine.is_split())
        };
        if is_split {
            return Told::Step(Step::Further);
        }
        let Some(member) = member else {
            return Told::Step(Step::Over(GONE));
        };
        let (Ok(settings), revision) = (self.found.settings(), self.found.revision()) else {
            return Told::Step(Step::Over(ENDED));
        };
        if revision != self.known.revision {
            if !self.push(group_event::Kind::Settings((&settings).into())) {
                return Told::Behind;
            }
            self.known.revision = revision;
        }
        if member.role != self.known.role {
            if !self.push(group_event::Kind::Role(role_name(&settings, member.role))) {
                return Told::Behind;
            }
            self.known.role = member.role;
        }
        let lost = self.found.lost();
        if self.known.cursor < lost {
            let at = Place {
                epoch: self.found.epoch,
                offset: lost,
            };
            let place = v1::GroupPlace {
                at: Some(at.into()),
                lost: true,
            };
            if !self.push(group_event::Kind::Place(place)) {
                return Told::Behind;
            }
            self.known.cursor = lost;
            return Told::Step(Step::Further);
        }
        Told::All
    }

    /// What was told after a post is void.
    fn go_back(&mut self, to: u64) {
        if self.known.cursor > to {
            self.known.cursor = to;
            self.back.begin();
        }
    }

    fn tell_back(&mut self) -> Told {
        while let Some(at) = self.back.next(Place {
            epoch: self.found.epoch,
            offset: self.known.cursor,
        }) {
            let place = v1::GroupPlace {
                lost: at.is_none(),
                at: at.map(v1::Place::from),
            };
            if !self.push(group_event::Kind::Place(place)) {
                return Told::Behind;
            }
            self.back.go_on();
        }
        Told::All
    }

    fn tell_posts(&mut self, reading: &Reading) -> Told {
        let (number, state) = (reading.number, reading.segment.lock());
        if reading.agreed.is_noted() {
            // What is void is told first.
            return Told::All;
        }
        let first = find::number(number, 0);
        let skipped = usize::try_from((self.known.cursor + 1).saturating_sub(first));
        let posts = state.machine.posts().iter().enumerate();
        for (index, post) in posts.skip(skipped.unwrap_or(usize::MAX)) {
            let at = first + index as u64;
            if !self.push(group_event::Kind::Message(on_wire(at, post))) {
                return Told::Behind;
            }
            self.known.cursor = at;
            self.node.counters.delivered.add(1);
        }
        if self.known.cursor >= find::number(number, POSTS_MAX - 1) {
            return Told::Step(Step::Further);
        }
        Told::All
    }

    /// False when the device cannot take more at the moment.
    fn push(&self, kind: group_event::Kind) -> bool {
        let body: server_frame::Body = event(social_event::Kind::Group(v1::GroupEvent {
            group: self.found.name.to_string(),
            kind: Some(kind),
        }));
        self.node.push_from_log(&self.session, body).is_ok()
    }
}

/// The group is no more.
const ENDED: &str = "ended";

/// The user is no member any more: by itself or by others.
const GONE: &str = "gone";

/// Between two attempts to tell a device that is behind.
const TELL_DELAY: Duration = Duration::from_millis(50);

/// Between two attempts to read a log.
const RETRY_DELAY: Duration = Duration::from_millis(500);
