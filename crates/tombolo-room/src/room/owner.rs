//! Who has the say, found alike everywhere.

use std::cmp::Reverse;

use tombolo_wire::UserId;

use super::open::Open;
use crate::entry::Actor;
use crate::event::{Event, Illegal};
use crate::settings::OwnerPolicy;

impl Open {
    /// Finds an owner where the policy wants one.
    pub(super) fn elect(&mut self, events: &mut Vec<Event>) {
        let member = self
            .owner
            .as_ref()
            .map(|owner| self.member_by_user.get(owner));
        let owner = match (self.settings.owner_policy, member) {
            (OwnerPolicy::None, _) => None,
            (OwnerPolicy::Automatic, Some(Some(owner))) if owner.is_present() => return,
            (OwnerPolicy::Automatic, _) => self.best_reached(),
            (OwnerPolicy::Manual, Some(Some(_)) | None) => return,
            (OwnerPolicy::Manual, Some(None)) => None,
        };
        self.set_owner(owner, events);
    }

    pub(super) fn on_set_owner(
        &mut self,
        actor: &Actor,
        owner: Option<&UserId>,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let claims = match actor {
            Actor::Member { user, .. } => self.owner.is_none() && owner == Some(user),
            Actor::Server => false,
        };
        if self.settings.owner_policy == OwnerPolicy::None || !(claims || self.is_owner(actor)) {
            return Err(Illegal::NotOwner);
        }
        if owner.is_some_and(|owner| !self.member_by_user.contains_key(owner)) {
            return Err(Illegal::NoSuch);
        }
        self.set_owner(owner.cloned(), events);
        Ok(())
    }

    /// Whether it has the say; servers always have.
    pub(super) fn is_owner(&self, actor: &Actor) -> bool {
        match actor {
            Actor::Member { user, .. } => self.owner.as_ref() == Some(user),
            Actor::Server => true,
        }
    }

    pub(super) fn set_owner(&mut self, owner: Option<UserId>, events: &mut Vec<Event>) {
        if self.owner == owner {
            return;
        }
        self.owner.clone_from(&owner);
        let state = self.owner_state.clone();
        events.push(Event::OwnerChanged { owner, state });
    }

    /// Of the present members the one that is reached best, among equals the one that came first.
    fn best_reached(&self) -> Option<UserId> {
        let present = self
            .member_by_user
            .iter()
            .filter(|(_, member)| member.is_present());
        // The first of the least, which `min_by_key` promises.
        let best = present.min_by_key(|(_, member)| Reverse(member.reachability));
        best.map(|(user, _)| user.clone())
    }
}
