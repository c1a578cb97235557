//! What operators and game servers see of groups, and how they end one.

use std::collections::BTreeMap;

use tombolo_engine::{Key, WatchEvent};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{GroupName, UserId};

use super::find::Found;
use super::made::GROUPS_MADE;
use super::{end, made};
use crate::kept::made::MadeGroups;
use crate::reject::Reject;
use crate::services::Services;
use crate::social::unavailable;

/// A group and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupOwner {
    /// Its name.
    pub group: GroupName,
    /// Who made it.
    pub owner: UserId,
}

/// Some of many groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupOwners {
    /// By name.
    pub groups: Vec<GroupOwner>,
    /// Whether others follow.
    pub more: bool,
}

/// A group as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupView {
    /// Who made it.
    pub owner: UserId,
    /// When, in milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// Its title.
    pub title: String,
    /// Whoever wants to may join.
    pub is_open: bool,
    /// How many members it has: exact up to the first split of its roster, from then on an estimate.
    pub members_about: u64,
    /// The number of its last post.
    pub posts: u64,
}

impl Services {
    /// Groups of one user, or of all, by name, after the one that is given: those that users have made and that have not
    /// ended, as far as nodes have come to write that down. Takes as long as it takes to read all of their names,
    /// unless a user is named.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn list_groups(
        &self,
        owner: Option<&UserId>,
        after: Option<&GroupName>,
        count: usize,
    ) -> Result<GroupOwners, Reject> {
        let node = self.node();
        let mut found = Stretch {
            after,
            count,
            owner_by_group: BTreeMap::new(),
        };
        match owner {
            Some(owner) => found.add(made::of(node, owner).await?),
            None => node.within(self.read_groups(&mut found)).await??,
        }
        let more = found.owner_by_group.len() > count;
        let groups = found.owner_by_group.into_iter().take(count);
        let groups = groups.map(|(group, owner)| GroupOwner { group, owner });
        Ok(GroupOwners {
            groups: groups.collect(),
            more,
        })
    }

    async fn read_groups(&self, found: &mut Stretch<'_>) -> Result<(), Reject> {
        let away = || unavailable("the engine does not answer");
        let prefix = Key::new([GROUPS_MADE]);
        let prefix = prefix.map_err(|error| Reject::new(ErrorCode::BadName, error))?;
        let watch = self.node().engine.watch(&prefix).await;
        let mut watch = watch.map_err(|_| away())?;
        loop {
            match watch.next().await.ok_or_else(away)? {
                WatchEvent::Put { entry, .. } => {
                    // What a later release has written names groups that this one does not know of.
                    if let Some(made) = MadeGroups::decode(&entry.value) {
                        found.add(made);
                    }
                }
                WatchEvent::Deleted { .. } => {}
                WatchEvent::Reset => found.owner_by_group.clear(),
                WatchEvent::Synced => return Ok(()),
            }
        }
    }

    /// A group as it is.
    ///
    /// # Errors
    /// There is no such group, or the engine does not answer.
    pub async fn view_group(&self, group: &GroupName) -> Result<GroupView, Reject> {
        let node = self.node();
        let found = Found::begin(node, group).await?;
        let settings = found.settings()?;
        let (owner, made) = found.made()?;
        let leaf = found.roster(node, &owner).await?;
        Ok(GroupView {
            made_ms: made.as_millis(),
            title: settings.title,
            is_open: settings.is_open,
            members_about: leaf.members_about(),
            posts: found.last(node).await?,
            owner,
        })
    }

    /// Ends a group for all of its members, with all that was said in it.
    ///
    /// # Errors
    /// There is no such group, or the engine does not answer.
    pub async fn end_group(&self, group: &GroupName) -> Result<(), Reject> {
        let node = self.node();
        let found = Found::begin(node, group).await?;
        end(node, group, &found).await
    }
}

/// The first so many groups after one, and one more.
struct Stretch<'a> {
    after: Option<&'a GroupName>,
    count: usize,
    owner_by_group: BTreeMap<GroupName, UserId>,
}

impl Stretch<'_> {
    fn add(&mut self, made: MadeGroups) {
        for group in made.groups {
            if self.after.is_none_or(|after| group.name > *after) {
                self.owner_by_group.insert(group.name, made.user.clone());
            }
            if self.owner_by_group.len() > self.count + 1 {
                self.owner_by_group.pop_last();
            }
        }
    }
}
