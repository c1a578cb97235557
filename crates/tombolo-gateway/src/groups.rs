//! Groups, as game servers and operators see them.

use serde::{Deserialize, Serialize};
use tombolo_services::{GroupOwners, GroupView};
use tombolo_wire::GroupName;

/// Some of the groups that users have made and that have not ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct GroupPage {
    /// By name.
    pub groups: Vec<GroupOwner>,
    /// Whether others follow.
    pub more: bool,
}

/// A group and who made it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct GroupOwner {
    /// Its name.
    pub group: String,
    /// Who made it.
    pub owner: String,
}

/// How a group is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// Who made it.
    pub owner: String,
    /// When, in milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// Read by people.
    pub title: String,
    /// Whoever wants to may join.
    pub open: bool,
    /// How many members it has, about.
    pub members_about: u64,
    /// The number of its last post.
    pub posts: u64,
}

impl From<GroupOwners> for GroupPage {
    fn from(found: GroupOwners) -> Self {
        let groups = found.groups.into_iter().map(|found| GroupOwner {
            group: found.group.to_string(),
            owner: found.owner.to_string(),
        });
        Self {
            groups: groups.collect(),
            more: found.more,
        }
    }
}

impl GroupStatus {
    /// What is known of a group.
    #[must_use]
    pub fn new(group: &GroupName, view: GroupView) -> Self {
        Self {
            group: group.to_string(),
            owner: view.owner.to_string(),
            made_ms: view.made_ms,
            title: view.title,
            open: view.is_open,
            members_about: view.members_about,
            posts: view.posts,
        }
    }
}
