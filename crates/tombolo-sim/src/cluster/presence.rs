//! Whom a device follows, and how it was told that they are.

use std::collections::BTreeMap;

use tombolo_wire::v1::{
    self, presence_request, presence_response, request, response, social_request, social_response,
};

use super::device::Violation;

/// Somebody who is followed, and never there.
pub(crate) const STRANGER: &str = "stranger";

/// Somebody who comes and goes, and is gone when everything has come to rest.
pub(crate) const GUEST: &str = "guest";

/// The users that a device follows.
#[derive(Debug, Default)]
pub(crate) struct Following {
    /// How each is, as the device was told last.
    pub(crate) statuses: BTreeMap<String, v1::Presence>,
}

impl Following {
    pub(crate) fn of(users: impl IntoIterator<Item = String>) -> Self {
        let users = users.into_iter();
        Self {
            statuses: users.map(|user| (user, v1::Presence::Offline)).collect(),
        }
    }

    /// What a device asks that begins a session, or goes on with one elsewhere.
    pub(crate) fn ask(&self) -> request::Kind {
        let follow = v1::FollowUsers {
            users: self.statuses.keys().cloned().collect(),
        };
        let kind = Some(presence_request::Kind::Follow(follow));
        let kind = Some(social_request::Kind::Presence(v1::PresenceRequest { kind }));
        request::Kind::Social(v1::SocialRequest { kind })
    }

    /// Takes in the answer; whether it is one.
    pub(crate) fn on_response(
        &mut self,
        result: Option<response::Result>,
    ) -> Result<bool, Violation> {
        let Some(response::Result::Social(v1::SocialResponse {
            result: Some(social_response::Result::Presence(response)),
        })) = result
        else {
            return Ok(false);
        };
        let Some(presence_response::Result::Following(known)) = response.result else {
            return Ok(false);
        };
        for status in self.statuses.values_mut() {
            *status = v1::Presence::Offline;
        }
        self.on_changes(&known).map(|()| true)
    }

    /// Takes in what has changed.
    pub(crate) fn on_changes(&mut self, changes: &v1::UserStatuses) -> Result<(), Violation> {
        for change in &changes.users {
            let (user, presence) = (&change.user, change.presence());
            let Some(status) = self.statuses.get_mut(user) else {
                return Err(format!("told of {user}, whom it does not follow"));
            };
            if user == STRANGER && presence != v1::Presence::Offline {
                return Err(format!("{user} is {presence:?}, and was never there"));
            }
            *status = presence;
        }
        Ok(())
    }

    /// At rest it is told how everybody is: those are there.
    pub(crate) fn check(&self, name: &str, there: &[&str]) -> Result<(), Violation> {
        for (user, told) in &self.statuses {
            let is = if there.contains(&user.as_str()) {
                v1::Presence::Online
            } else {
                v1::Presence::Offline
            };
            if *told != is {
                return Err(format!(
                    "{name}: told that {user} is {told:?}, who is {is:?}"
                ));
            }
        }
        Ok(())
    }
}
