//! What operators see of groups, and how they end one.

use tombolo_gateway::{GroupPage, GroupStatus};
use tombolo_services::Reject;
use tombolo_wire::{GroupName, UserId};

use crate::operate::Operator;

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
        Ok(found.into())
    }

    /// How a group is.
    ///
    /// # Errors
    /// There is none of that name, or the engine does not answer.
    pub async fn group(&self, group: &GroupName) -> Result<GroupStatus, Reject> {
        let view = self.services().view_group(group).await?;
        Ok(GroupStatus::new(group, view))
    }

    /// Ends a group for all of its members.
    ///
    /// # Errors
    /// There is none of that name, or the engine does not answer.
    pub async fn end_group(&self, group: &GroupName) -> Result<(), Reject> {
        self.services().end_group(group).await
    }
}
