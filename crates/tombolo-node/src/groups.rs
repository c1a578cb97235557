//! What operators see of groups, and how they end one.

use serde::{Deserialize, Serialize};
use tombolo_services::Reject;
use tombolo_wire::{GroupName, UserId};

use crate::operate::Operator;

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

impl Operator {
    /// Groups of one user, or of all, by name, after the one that is given.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn groups(
        &self,
        owner: Option<&UserId>,
        after: Option<&GroupName>,
        count: usize,
    ) -> Result<GroupPage, Reject> {
        let found = self.services().list_groups(owner, after, count).await?;
        let groups = found.groups.into_iter().map(|found| GroupOwner {
            group: found.group.to_string(),
            owner: found.owner.to_string(),
        });
        Ok(GroupPage {
            groups: groups.collect(),
            more: found.more,
        })
    }

    /// How a group is.
    ///
    /// # Errors
    /// There is none of that name, or the engine does not answer.
    pub async fn group(&self, group: &GroupName) -> Result<GroupStatus, Reject> {
        let view = self.services().view_group(group).await?;
        Ok(GroupStatus {
            group: group.to_string(),
            owner: view.owner.to_string(),
            made_ms: view.made_ms,
            title: view.title,
            open: view.is_open,
            members_about: view.members_about,
            posts: view.posts,
        })
    }

    /// Ends a group for all of its members.
    ///
    /// # Errors
    /// There is none of that name, or the engine does not answer.
    pub async fn end_group(&self, group: &GroupName) -> Result<(), Reject> {
        self.services().end_group(group).await
    }
}
