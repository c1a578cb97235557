//! Where a group's things are: its logs, and how one finds a way through them.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Key, Purpose};
use tombolo_social::group::{self, Group, Settings};
use tombolo_social::roster::{
    self, Actor, DEPTH_MAX, Illegal, Member, PARTS, Roster, Seed, part_of,
};
use tombolo_social::segment::{self, Done, Full, POSTS_MAX, Segment};
use tombolo_social::{EntryError, MessageId, OperationId, Time};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{GroupName, UserId};

use super::super::follower::{Applied, Followers, Following, Machine, Never, Reached};
use super::super::{on_the_way, operation_id, time, unavailable};
use super::{reject, reject_group};
use crate::node::Node;
use crate::reject::Reject;

/// A group that is there.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) name: GroupName,
    head: Following<Group>,
    pub(super) epoch: OperationId,
}

/// The roster that a user is in, or would be.
pub(super) struct Leaf {
    pub(super) roster: Following<Roster>,
    /// How many splits there are above it.
    pub(super) depth: usize,
}

/// A post that is there.
pub(super) struct Posted {
    pub(super) number: u64,
    pub(super) done: Done,
}

/// The number of a post.
pub(super) fn number(segment: u64, index: usize) -> u64 {
    segment * POSTS_MAX as u64 + index as u64 + 1
}

/// Where the post with a number is.
pub(super) fn segment_of(number: u64) -> u64 {
    number.saturating_sub(1) / POSTS_MAX as u64
}

/// A name that no group has.
pub(super) struct Vacant(Following<Group>);

impl Vacant {
    pub(super) async fn begin(node: &Arc<Node>, name: &GroupName) -> Result<Self, Reject> {
        let head = follow_head(node, name).await?;
        let (is_vacant, ended) = {
            let state = head.lock();
            let is_vacant = !state.is_over && state.machine.owner().is_none();
            (is_vacant, state.machine.ended())
        };
        if is_vacant {
            return Ok(Self(head));
        }
        if let Some(epoch) = ended {
            // Whoever ended it has not come to that.
            let name = name.clone();
            begin_to_forget(node, Found { name, head, epoch });
        }
        Err(reject_group(group::Illegal::Exists))
    }

    /// Whether it is there by now, made by somebody.
    pub(super) fn is_made_by(&self, user: &UserId) -> bool {
        let state = self.0.lock();
        state
            .machine
            .owner()
            .is_some_and(|(owner, _)| owner == user)
    }

    /// Makes a group. The roster is filled by whoever first looks for it.
    pub(super) async fn create(
        &self,
        node: &Node,
        owner: &UserId,
        settings: Settings,
    ) -> Result<(), Reject> {
        let owner = owner.clone();
        change(node, &self.0, group::Body::Created { owner, settings }).await
    }
}

async fn follow_head(node: &Arc<Node>, name: &GroupName) -> Result<Following<Group>, Reject> {
    Following::begin(node, key([GROUPS, name.as_str()])?).await
}

async fn change(node: &Node, head: &Following<Group>, body: group::Body) -> Result<(), Reject> {
    let operation = operation_id(node)?;
    let purpose = match body == group::Body::Closed {
        true => Purpose::End,
        false => Purpose::More,
    };
    let entry = group::Entry {
        operation,
        time: time(node),
        body,
    };
    let result = head.propose(operation, purpose, entry.encode()).await?;
    result.map_err(reject_group)
}

impl Leaf {
    /// How many members the group has: names are spread evenly over the parts.
    pub(super) fn members_about(&self) -> u64 {
        let count = self.roster.lock().machine.len() as u64;
        count << (4 * self.depth).min(32)
    }
}

impl Found {
    pub(super) async fn begin(node: &Arc<Node>, name: &GroupName) -> Result<Self, Reject> {
        let head = follow_head(node, name).await?;
        let epoch = head.lock().machine.epoch();
        let epoch = epoch.ok_or_else(|| reject_group(group::Illegal::NoSuchGroup))?;
        let name = name.clone();
        Ok(Self { name, head, epoch })
    }

    pub(super) fn head(&self) -> &Following<Group> {
        &self.head
    }

    /// Whether it is the same group still.
    pub(super) fn is_there(&self) -> bool {
        self.head.lock().machine.epoch() == Some(self.epoch)
    }

    pub(super) fn settings(&self) -> Result<Settings, Reject> {
        let settings = self.head.lock().machine.settings().cloned();
        settings.ok_or_else(|| reject_group(group::Illegal::NoSuchGroup))
    }

    /// Who made it, and when.
    pub(super) fn made(&self) -> Result<(UserId, Time), Reject> {
        let state = self.head.lock();
        let made = state.machine.owner();
        let made = made.map(|(owner, since)| (owner.clone(), since));
        made.ok_or_else(|| reject_group(group::Illegal::NoSuchGroup))
    }

    pub(super) fn revision(&self) -> u64 {
        self.head.lock().machine.revision()
    }

    pub(super) async fn change(&self, node: &Node, body: group::Body) -> Result<(), Reject> {
        change(node, &self.head, body).await
    }

    /// The last post.
    pub(super) async fn last(&self, node: &Arc<Node>) -> Result<u64, Reject> {
        let segment = self.head.lock().machine.segment();
        let posts = self
            .segment(node, segment)
            .await?
            .lock()
            .machine
            .posts()
            .len();
        Ok(segment * POSTS_MAX as u64 + posts as u64)
    }

    /// Waits until a post is read of which somebody was told.
    pub(super) async fn reach(&self, node: &Arc<Node>, told: u64) -> Result<(), Reject> {
        let (at, until) = (segment_of(told), Reached::soon());
        let has_it = |group: &Group| group.segment() >= at;
        self.head.reach(until, has_it).await?;
        if self.head.lock().machine.segment() != at {
            return Ok(());
        }
        let segment = self.segment(node, at).await?;
        let has_it = |segment: &Segment| number(at, segment.posts().len()) > told;
        segment.reach(until, has_it).await
    }

    /// The last post that is not kept any more.
    pub(super) fn lost(&self) -> u64 {
        self.head.lock().machine.segment_first() * POSTS_MAX as u64
    }

    pub(super) async fn segment(
        &self,
        node: &Arc<Node>,
        number: u64,
    ) -> Result<Following<Segment>, Reject> {
        let number = number.to_string();
        let key = key([POSTS, self.name.as_str(), &self.tag(), &number])?;
        Following::begin(node, key).await
    }

    /// The roster of a user.
    pub(super) async fn roster(&self, node: &Arc<Node>, user: &UserId) -> Result<Leaf, Reject> {
        let path = (0..DEPTH_MAX).map(|depth| part_of(user, depth));
        self.descend(node, path).await.map(|(leaf, _)| leaf)
    }

    /// Follows a path until there is a roster that is not split; also says where that is.
    pub(super) async fn descend(
        &self,
        node: &Arc<Node>,
        path: impl IntoIterator<Item = u8>,
    ) -> Result<(Leaf, Vec<u8>), Reject> {
        let mut taken = Vec::new();
        let mut roster = self.roster_at(node, &taken).await?;
        self.seed(node, &roster, || self.first_members()).await?;
        for part in path {
            if !roster.lock().machine.is_split() {
                break;
            }
            let depth = taken.len();
            taken.push(part);
            let next = self.roster_at(node, &taken).await?;
            self.seed(node, &next, || roster.lock().machine.part(depth, part))
                .await?;
            roster = next;
        }
        let depth = taken.len();
        Ok((Leaf { roster, depth }, taken))
    }

    async fn roster_at(&self, node: &Arc<Node>, path: &[u8]) -> Result<Following<Roster>, Reject> {
        let path: String = path.iter().map(|part| format!("{part:x}")).collect();
        let path = format!("r{path}");
        let key = key([ROSTERS, self.name.as_str(), &self.tag(), &path])?;
        Following::begin(node, key).await
    }

    /// Says what is in a roster from the beginning, unless somebody has.
    async fn seed(
        &self,
        node: &Node,
        roster: &Following<Roster>,
        seed: impl FnOnce() -> Seed,
    ) -> Result<(), Reject> {
        let is_seeded = roster.lock().machine.is_seeded();
        if is_seeded {
            return Ok(());
        }
        let body = roster::Body::Seeded(seed());
        let seeded = propose(node, roster, None, body).await;
        seeded.map_err(on_the_way)?.map_err(reject)
    }

    /// Whoever made the group is its first member.
    fn first_members(&self) -> Seed {
        let mut seed = Seed::default();
        if let Some((owner, since)) = self.head.lock().machine.owner() {
            seed.members
                .insert(owner.clone(), Member { role: 0, since });
        }
        seed
    }

    /// Tells logs of this group from those of one that was lost.
    fn tag(&self) -> String {
        let tag = self.epoch.0.iter().take(8);
        tag.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Does something to a user's place in a group.
pub(super) async fn act(
    node: &Arc<Node>,
    found: &Found,
    user: &UserId,
    by: Option<Actor>,
    body: roster::Body,
) -> Result<Result<(), Illegal>, Reject> {
    for _ in 0..ATTEMPTS_MAX {
        let leaf = found.roster(node, user).await?;
        match propose(node, &leaf.roster, by.clone(), body.clone()).await? {
            // Somebody was faster: the user is elsewhere.
            Err(Illegal::Split) => {}
            Err(Illegal::Full) => {
                // Whoever else splits it makes no difference.
                let split = propose(node, &leaf.roster, None, roster::Body::Split).await;
                let _ = split.map_err(on_the_way)?;
            }
            result => return Ok(result),
        }
    }
    Err(unavailable("the group changes too fast"))
}

async fn propose(
    node: &Node,
    roster: &Following<Roster>,
    by: Option<Actor>,
    body: roster::Body,
) -> Result<Result<(), Illegal>, Reject> {
    let operation = operation_id(node)?;
    let purpose = purpose(&roster.lock().machine, &body);
    let entry = roster::Entry {
        operation,
        time: time(node),
        by,
        body,
    };
    roster.propose(operation, purpose, entry.encode()).await
}

/// By what changes something by which there is less, something ends.
fn purpose(roster: &Roster, body: &roster::Body) -> Purpose {
    let is_end = match body {
        roster::Body::Left(user) | roster::Body::Removed(user) => roster.member(user).is_some(),
        roster::Body::Unbanned(user) => roster.is_banned(user),
        roster::Body::Seeded(_)
        | roster::Body::Joined { .. }
        | roster::Body::Banned(_)
        | roster::Body::RoleSet { .. }
        | roster::Body::Split => false,
    };
    if is_end { Purpose::End } else { Purpose::More }
}

/// Posts something, once.
pub(super) async fn post(
    node: &Arc<Node>,
    found: &Found,
    from: Option<&UserId>,
    id: MessageId,
    payload: Bytes,
) -> Result<Posted, Reject> {
    for _ in 0..ATTEMPTS_MAX {
        let at = found.head.lock().machine.segment();
        // It may have been posted before the turn, or before one of those that came fast after each other.
        if let Some(posted) = posted_before(node, found, at, from, id).await? {
            return Ok(posted);
        }
        let segment = found.segment(node, at).await?;
        let operation = operation_id(node)?;
        let entry = segment::Entry {
            operation,
            time: time(node),
            from: from.cloned(),
            id,
            payload: payload.clone(),
        };
        match segment
            .propose(operation, Purpose::More, entry.encode())
            .await?
        {
            Ok(done) => {
                let number = number(at, done.index);
                return Ok(Posted { number, done });
            }
            Err(Full) => {
                let bytes = segment.lock().machine.bytes() as u64;
                turn(node, found, at + 1, bytes).await?;
            }
        }
    }
    Err(unavailable("the group changes too fast"))
}

/// Looks for a post in the segments before one: the last of them, and others that took posts a moment ago.
async fn posted_before(
    node: &Arc<Node>,
    found: &Found,
    at: u64,
    from: Option<&UserId>,
    id: MessageId,
) -> Result<Option<Posted>, Reject> {
    let first = found.head.lock().machine.segment_first();
    let since = time(node).before(REPEATED_WITHIN);
    let (mut bytes, until) = (0, Reached::soon());
    for before in (first..at).rev().take(SEGMENTS_LOOKED_THROUGH) {
        let segment = found.segment(node, before).await?;
        // It took no more, or there would be none after it; this node may not have read the last of it.
        segment.reach(until, Segment::is_full).await?;
        let state = segment.lock();
        if let Some(done) = state.machine.find(from, id) {
            let number = number(before, done.index);
            return Ok(Some(Posted { number, done }));
        }
        bytes += state.machine.bytes();
        let last = state.machine.posts().last();
        if bytes >= BYTES_LOOKED_THROUGH || last.is_none_or(|last| last.time < since) {
            break;
        }
    }
    Ok(None)
}

/// Has posts go into the next segment, and gives up the oldest ones.
async fn turn(node: &Arc<Node>, found: &Found, segment: u64, bytes: u64) -> Result<(), Reject> {
    let before = found.head.lock().machine.segment_first();
    let turned = group::Body::Turned {
        segment,
        bytes,
        kept_bytes_max: NonZeroU64::new(node.config.group_bytes_max),
    };
    let turned = found.change(node, turned).await;
    turned.map_err(on_the_way)?;
    let after = found.head.lock().machine.segment_first();
    for old in before..after {
        let segment = found.segment(node, old).await?;
        // What is not forgotten now costs some place.
        let _ = segment.retire().await;
    }
    Ok(())
}

/// Lets the engine forget a group that has ended.
pub(super) fn begin_to_forget(node: &Arc<Node>, found: Found) {
    let forgetting = Arc::clone(node);
    node.runtime.spawn(async move {
        if let Err(reject) = forget(&forgetting, &found).await {
            tracing::debug!(group = %found.name, %reject, "something is left of a group that has ended");
        }
    });
}

/// Posts and members first: the group's own log says where they are, and is kept until nothing is left of them. Of the
/// members' logs those that say where others are go last, so that whoever is interrupted finds the rest.
async fn forget(node: &Arc<Node>, found: &Found) -> Result<(), Reject> {
    let (first, last) = {
        let head = found.head.lock();
        (head.machine.segment_first(), head.machine.segment())
    };
    for number in first..=last {
        found.segment(node, number).await?.retire().await?;
    }
    let mut paths = vec![Vec::new()];
    let mut looked_at = 0;
    while let Some(path) = paths.get(looked_at).cloned() {
        let roster = found.roster_at(node, &path).await?;
        let is_split = roster.lock().machine.is_split();
        if is_split && path.len() < DEPTH_MAX {
            paths.extend((0..PARTS).map(|part| [path.as_slice(), &[part]].concat()));
        }
        looked_at += 1;
    }
    for path in paths.iter().rev() {
        found.roster_at(node, path).await?.retire().await?;
    }
    found.head.retire().await
}

fn key<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Result<Key, Reject> {
    Key::new(tokens).map_err(|error| Reject::new(ErrorCode::BadName, error))
}

impl Machine for Group {
    type Done = ();
    type Illegal = group::Illegal;
    type Listener = Never;

    const SNAPSHOT_ENTRIES: usize = 64;

    fn followers(node: &Node) -> &Followers<Self> {
        &node.social.groups
    }

    fn may_begin_anew(&self, is_over: bool) -> bool {
        is_over || self.ended().is_some()
    }

    fn restore(snapshot: &[u8]) -> Option<Self> {
        Self::restore(snapshot).ok()
    }

    fn snapshot(&self) -> Option<Bytes> {
        Some(self.snapshot())
    }

    /// Nothing in it has a number.
    fn agreed(&self, _: &Self) -> u64 {
        0
    }

    fn apply(&mut self, entry: &[u8]) -> Result<Applied<Self>, EntryError> {
        let entry = group::Entry::decode(entry)?;
        Ok((entry.operation, self.apply(&entry)))
    }

    fn bytes(&self) -> usize {
        GROUP_BYTES
    }
}

impl Machine for Roster {
    type Done = ();
    type Illegal = Illegal;
    type Listener = Never;

    const SNAPSHOT_ENTRIES: usize = 512;

    fn followers(node: &Node) -> &Followers<Self> {
        &node.social.rosters
    }

    fn restore(snapshot: &[u8]) -> Option<Self> {
        Self::restore(snapshot).ok()
    }

    fn snapshot(&self) -> Option<Bytes> {
        Some(self.snapshot())
    }

    /// Nothing in it has a number.
    fn agreed(&self, _: &Self) -> u64 {
        0
    }

    fn apply(&mut self, entry: &[u8]) -> Result<Applied<Self>, EntryError> {
        let entry = roster::Entry::decode(entry)?;
        Ok((entry.operation, self.apply(&entry)))
    }

    fn bytes(&self) -> usize {
        self.len() * MEMBER_BYTES
    }
}

impl Machine for Segment {
    type Done = Done;
    type Illegal = Full;
    type Listener = Never;

    const SNAPSHOT_ENTRIES: usize = usize::MAX;

    fn followers(node: &Node) -> &Followers<Self> {
        &node.social.segments
    }

    fn restore(_: &[u8]) -> Option<Self> {
        None
    }

    /// Its log is as short as a snapshot would be.
    fn snapshot(&self) -> Option<Bytes> {
        None
    }

    fn agreed(&self, other: &Self) -> u64 {
        self.agreed(other)
    }

    fn apply(&mut self, entry: &[u8]) -> Result<Applied<Self>, EntryError> {
        let entry = segment::Entry::decode(entry)?;
        Ok((entry.operation, self.apply(&entry)))
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }
}

/// Of all groups, among the logs.
pub(in crate::social) const GROUPS: &str = "group";

/// Of all groups' members, among the logs.
pub(in crate::social) const ROSTERS: &str = "roster";

/// Of all groups' posts, among the logs.
pub(in crate::social) const POSTS: &str = "posts";

/// About how much a group takes, and a member.
const GROUP_BYTES: usize = 2048;
const MEMBER_BYTES: usize = 128;

/// How long after the first time a post may be posted again, whatever others have posted since.
const REPEATED_WITHIN: Duration = Duration::from_secs(5 * 60);

/// Segments that are looked through for it, 4,096 posts.
const SEGMENTS_LOOKED_THROUGH: usize = 16;

/// How much those hold, about: a node must be able to keep them at hand, since each new post is looked for.
const BYTES_LOOKED_THROUGH: usize = 8 * 1024 * 1024;

/// How often something is tried anew because others were faster.
const ATTEMPTS_MAX: usize = 16;
