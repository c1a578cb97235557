//! Which groups a user has made: `groups-made.<user>`, among the engine's values.
//!
//! A group is written down before it is made, so that no user has more than it may, over whatever nodes it asks, and
//! taken away when it has ended, or was not made. What a node that dies in between has left there is found out
//! when the list is full.

use std::sync::Arc;
use std::time::Duration;

use tombolo_engine::{CasError, Key, KvEntry};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{GroupName, UserId};

use super::Found;
use crate::kept::made::{MadeGroup, MadeGroups};
use crate::node::Node;
use crate::reject::Reject;
use crate::social::{time, unavailable};

/// Takes one of the places that a user has.
pub(super) async fn claim(
    node: &Arc<Node>,
    user: &UserId,
    group: &GroupName,
) -> Result<(), Reject> {
    let key = key_of(user)?;
    let groups_max = node.config.groups_per_user_max.min(GROUPS_MAX);
    for _ in 0..ATTEMPTS_MAX {
        let (mut made, found) = read(node, &key, user).await?;
        if made.groups.len() >= groups_max && !made.has(group) {
            made = sweep(node, user, made).await?;
            if made.groups.len() >= groups_max {
                let message = format!(
                    "the user has made {groups_max} groups that have not ended, as many as it may"
                );
                return Err(Reject::new(ErrorCode::Limit, message));
            }
        }
        made.add(group, time(node).as_millis());
        if write(node, &key, found, &made).await? {
            return Ok(());
        }
    }
    Err(unavailable("the user's groups change too fast"))
}

/// The groups that a user has made.
pub(super) async fn of(node: &Node, user: &UserId) -> Result<MadeGroups, Reject> {
    let (made, _) = read(node, &key_of(user)?, user).await?;
    Ok(made)
}

/// Gives a place back. When that fails it is found out later.
pub(super) async fn release(node: &Arc<Node>, user: &UserId, group: &GroupName) {
    let released = async {
        let key = key_of(user)?;
        for _ in 0..ATTEMPTS_MAX {
            let (mut made, found) = read(node, &key, user).await?;
            if !made.has(group) {
                return Ok(());
            }
            made.remove(group);
            if write(node, &key, found, &made).await? {
                return Ok(());
            }
        }
        Err(unavailable("the user's groups change too fast"))
    };
    let released: Result<(), Reject> = released.await;
    if let Err(reject) = released {
        node.counters.listings_failed.add(1);
        tracing::debug!(%user, %group, %reject, "the user has a place less for groups");
    }
}

/// Without those that are not there, unless they are about to be made.
async fn sweep(node: &Arc<Node>, user: &UserId, made: MadeGroups) -> Result<MadeGroups, Reject> {
    let since = time(node).before(MAKING_MAX).as_millis();
    let mut left = MadeGroups::none(user);
    for made in made.groups {
        if made.at_ms > since || is_made(node, user, &made).await {
            left.groups.push(made);
        }
    }
    Ok(left)
}

/// Also where nobody can say: one group that cannot be read is not to keep its maker from all others.
async fn is_made(node: &Arc<Node>, user: &UserId, made: &MadeGroup) -> bool {
    let found = Found::begin(node, &made.name).await;
    match found.and_then(|found| Ok(found.made()?.0)) {
        Ok(maker) => maker == *user,
        Err(reject) => reject.code != ErrorCode::NoSuchGroup,
    }
}

async fn read(
    node: &Node,
    key: &Key,
    user: &UserId,
) -> Result<(MadeGroups, Option<KvEntry>), Reject> {
    let found = node.within(node.engine.get(key)).await?;
    let found = found.map_err(|_| away())?;
    let made = match &found {
        Some(entry) => MadeGroups::decode(&entry.value)
            .ok_or_else(|| unavailable("a later release has written what this node cannot read"))?,
        None => MadeGroups::none(user),
    };
    Ok((made, found))
}

/// False when somebody else was faster.
async fn write(
    node: &Node,
    key: &Key,
    found: Option<KvEntry>,
    made: &MadeGroups,
) -> Result<bool, Reject> {
    let expected = found.map(|found| found.revision);
    let value = (!made.groups.is_empty()).then(|| made.encode());
    match node.within(node.engine.cas(key, expected, value)).await? {
        Ok(_) => Ok(true),
        // Unknown: then it is found there.
        Err(CasError::Conflict | CasError::Unknown) => Ok(false),
        Err(CasError::Full) => Err(unavailable("the engine is full")),
        Err(_) => Err(away()),
    }
}

fn away() -> Reject {
    unavailable("the engine does not answer")
}

fn key_of(user: &UserId) -> Result<Key, Reject> {
    let key = Key::new([GROUPS_MADE, user.as_str()]);
    key.map_err(|error| Reject::new(ErrorCode::BadName, error))
}

/// Of all users, among the values.
pub(super) const GROUPS_MADE: &str = "groups-made";

/// Each is looked into when the list is full.
const GROUPS_MAX: usize = 256;

/// For how long a group may be about to be made, by clocks that differ.
const MAKING_MAX: Duration = Duration::from_secs(5 * 60);

/// How often somebody else may be faster.
const ATTEMPTS_MAX: usize = 8;
