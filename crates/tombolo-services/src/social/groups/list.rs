//! Which groups a user is in: `groups-of.<user>.<group>`, among the engine's values.
//!
//! Rosters decide; this is how to find them. It is written after a roster has changed, so it may be wrong when a
//! node dies in between: what it names wrongly is found out, and taken away, by who lists, and what it lacks is
//! put there by who opens the group.

use std::collections::BTreeSet;
use std::sync::Arc;

use tombolo_engine::{CasError, Key, KeyError, WatchEvent};
use tombolo_wire::v1::{self, ErrorCode, group_response};
use tombolo_wire::{GroupName, UserId};

use super::{Found, member, role_name};
use crate::node::Node;
use crate::reject::Reject;
use crate::social::unavailable;

/// Writes down that a user is in a group, or not.
pub(super) async fn note(node: &Node, user: &UserId, group: &GroupName, is_in: bool) {
    let Ok(key) = key_of(user, group) else {
        return;
    };
    let write = async {
        for _ in 0..ATTEMPTS_MAX {
            let Ok(found) = node.engine.get(&key).await else {
                return false;
            };
            if found.is_some() == is_in {
                return true;
            }
            let value = is_in.then(|| group.to_string().into());
            let expected = found.map(|found| found.revision);
            match node.engine.cas(&key, expected, value).await {
                Ok(_) => return true,
                Err(CasError::Conflict | CasError::Unknown) => {}
                Err(_) => return false,
            }
        }
        false
    };
    let written = node.within(write).await;
    if !written.unwrap_or_default() {
        node.counters.listings_failed.add(1);
        tracing::debug!(%user, %group, is_in, "the list of a user's groups is not as it should be");
    }
}

/// Some of a user's groups, by name.
pub(super) async fn page(
    node: &Arc<Node>,
    user: &UserId,
    wanted: &v1::ListGroups,
) -> Result<group_response::Result, Reject> {
    let limit = match usize::try_from(wanted.limit).unwrap_or(usize::MAX) {
        0 => GROUPS_PER_PAGE_MAX,
        limit => limit.min(GROUPS_PER_PAGE_MAX),
    };
    let mut names = node
        .within(names(node, user, &wanted.after, limit))
        .await??;
    let has_more = names.len() > limit;
    if has_more {
        names.pop_last();
    }
    let mut list = v1::GroupList::default();
    if let Some(last) = names.last().filter(|_| has_more) {
        list.next = last.to_string();
    }
    for name in names {
        match look(node, user, &name).await {
            Ok(listed) => list.groups.push(listed),
            Err(reject)
                if matches!(reject.code, ErrorCode::NotAMember | ErrorCode::NoSuchGroup) =>
            {
                note(node, user, &name, false).await;
            }
            Err(reject) => return Err(reject),
        }
    }
    Ok(group_response::Result::List(list))
}

async fn look(
    node: &Arc<Node>,
    user: &UserId,
    group: &GroupName,
) -> Result<v1::ListedGroup, Reject> {
    let found = Found::begin(node, group).await?;
    let member = member(node, &found, user).await?;
    let settings = found.settings()?;
    Ok(v1::ListedGroup {
        group: group.to_string(),
        title: settings.title.clone(),
        role: role_name(&settings, member.role),
    })
}

/// So many names after one, and one more if there is any.
async fn names(
    node: &Node,
    user: &UserId,
    after: &str,
    limit: usize,
) -> Result<BTreeSet<GroupName>, Reject> {
    let away = || unavailable("the engine does not answer");
    let prefix = Key::new([GROUPS_OF, user.as_str()]);
    let prefix = prefix.map_err(|error| Reject::new(ErrorCode::BadName, error))?;
    let mut watch = node.engine.watch(&prefix).await.map_err(|_| away())?;
    let mut names = BTreeSet::new();
    loop {
        match watch.next().await.ok_or_else(away)? {
            WatchEvent::Put { entry, .. } => {
                let name = std::str::from_utf8(&entry.value).ok();
                let name = name.and_then(|name| GroupName::parse(name).ok());
                names.extend(name.filter(|name| name.as_str() > after));
                if names.len() > limit + 1 {
                    names.pop_last();
                }
            }
            WatchEvent::Deleted { .. } => {}
            WatchEvent::Reset => names.clear(),
            WatchEvent::Synced => return Ok(names),
        }
    }
}

fn key_of(user: &UserId, group: &GroupName) -> Result<Key, KeyError> {
    Key::new([GROUPS_OF, user.as_str(), group.as_str()])
}

/// Of all users' groups, among the values.
const GROUPS_OF: &str = "groups-of";

/// Each is looked into.
const GROUPS_PER_PAGE_MAX: usize = 50;

/// How often somebody else may be faster.
const ATTEMPTS_MAX: usize = 4;
