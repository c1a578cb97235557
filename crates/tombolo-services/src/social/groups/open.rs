//! The groups that a session has open, and how many those of a user may have together.

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_wire::GroupName;
use tombolo_wire::v1::ErrorCode;

use super::super::follower;
use super::tell::Telling;
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;

/// The groups that a session has open.
#[derive(Default)]
pub(in crate::social) struct OpenGroups(BTreeMap<GroupName, (Telling, Place)>);

impl OpenGroups {
    pub(in crate::social) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, group: GroupName, telling: Telling, place: Place) {
        self.0.insert(group, (telling, place));
    }

    pub(super) fn remove(&mut self, group: &GroupName) {
        self.0.remove(group);
    }

    /// Takes a place for one more.
    ///
    /// # Errors
    /// The session, or its user, has as many as it may.
    pub(super) fn take_place(
        &mut self,
        node: &Node,
        session: &Arc<Session>,
        group: &GroupName,
    ) -> Result<Place, Reject> {
        self.0.retain(|_, (telling, _)| !telling.is_over());
        if self.0.len() >= GROUPS_OPEN_MAX {
            let message = "the session has as many groups open as it may";
            return Err(Reject::new(ErrorCode::Limit, message));
        }
        let share = (follower::logs_max(node) / USERS_AT_ONCE).max(GROUPS_OPEN_MAX);
        let mut account = session.account();
        let open = &mut account.open_groups;
        if open.len() >= share && !open.contains_key(group) {
            let message = "the user has as many groups open as it may on this node";
            return Err(Reject::new(ErrorCode::Limit, message));
        }
        *open.entry(group.clone()).or_default() += 1;
        drop(account);
        Ok(Place {
            session: Arc::clone(session),
            group: group.clone(),
        })
    }
}

/// One of those that the sessions of a user may have open; what several have open counts once.
pub(super) struct Place {
    session: Arc<Session>,
    group: GroupName,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut account = self.session.account();
        let open = &mut account.open_groups;
        if let Some(sessions) = open.get_mut(&self.group) {
            *sessions -= 1;
            if *sessions == 0 {
                open.remove(&self.group);
            }
        }
    }
}

/// Of one session.
const GROUPS_OPEN_MAX: usize = 64;

/// So many users at least it takes to have the node read as much as it may.
const USERS_AT_ONCE: usize = 8;
