//! Objects and whose they are.

use tombolo_wire::UserId;

use super::open::Open;
use crate::entry::{Actor, Target};
use crate::event::{By, Event, Illegal};
use crate::object::{OBJECTS_MAX, OBJECTS_PER_MEMBER_MAX, Object, ObjectPlan, Takeover};
use crate::property::Properties;
use crate::word::{ObjectId, Time};

impl Open {
    pub(super) fn on_create_object(
        &mut self,
        now: Time,
        actor: &Actor,
        plan: &ObjectPlan,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let owner = actor.user().cloned();
        if self.objects.len() >= OBJECTS_MAX || !self.may_own_more(owner.as_ref()) {
            return Err(Illegal::Limit);
        }
        let id = ObjectId(self.object_last + 1);
        let object = Object {
            kind: plan.kind.clone(),
            owner: owner.clone(),
            takeover: plan.takeover,
            stays: plan.stays,
            group: plan.group,
            properties: Properties::default(),
        };
        self.objects.insert(id, object);
        if let Err(illegal) = self.change_properties(now, &Target::Object(id), &plan.properties) {
            self.objects.remove(&id);
            return Err(illegal);
        }
        self.object_last += 1;
        self.count_object(owner.as_ref(), 1);
        let object = self.object(id)?.clone();
        let by = By::from(actor);
        events.push(Event::ObjectCreated { by, id, object });
        Ok(())
    }

    pub(super) fn on_own_object(
        &mut self,
        actor: &Actor,
        id: ObjectId,
        owner: Option<&UserId>,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let object = self.object(id)?;
        let may = match (actor, object.takeover) {
            (Actor::Server, _) => true,
            (Actor::Member { .. }, Takeover::Fixed) => false,
            (Actor::Member { .. }, Takeover::Given) => self.has_say_over(actor, object),
            (Actor::Member { user, .. }, Takeover::Taken) => {
                owner == Some(user) || self.has_say_over(actor, object)
            }
        };
        if !may {
            return Err(Illegal::NotOwner);
        }
        if owner.is_some_and(|owner| !self.member_by_user.contains_key(owner)) {
            return Err(Illegal::NoSuch);
        }
        if object.owner.as_ref() != owner && !self.may_own_more(owner) {
            return Err(Illegal::Limit);
        }
        self.give_object(By::from(actor), id, owner.cloned(), events);
        Ok(())
    }

    pub(super) fn on_delete_object(
        &mut self,
        actor: &Actor,
        id: ObjectId,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let object = self.object(id)?;
        if !self.has_say_over(actor, object) {
            return Err(Illegal::NotOwner);
        }
        self.delete_object(By::from(actor), id, events);
        Ok(())
    }

    /// Its owner has gone: objects that stay belong to nobody, the others go.
    pub(super) fn release_objects(&mut self, user: &UserId, events: &mut Vec<Event>) {
        let objects = self.objects.iter();
        let owned: Vec<_> = objects
            .filter(|(_, object)| object.owner.as_ref() == Some(user))
            .map(|(id, object)| (*id, object.stays))
            .collect();
        for (id, stays) in owned {
            if stays {
                self.give_object(By::Rule, id, None, events);
            } else {
                self.delete_object(By::Rule, id, events);
            }
        }
    }

    pub(super) fn object(&self, id: ObjectId) -> Result<&Object, Illegal> {
        self.objects.get(&id).ok_or(Illegal::NoSuch)
    }

    /// Whether it may change the object: its owner, the room's owner while it has none, or a server.
    pub(super) fn has_say_over(&self, actor: &Actor, object: &Object) -> bool {
        match &object.owner {
            Some(owner) => actor.user().is_none_or(|user| user == owner),
            None => self.is_owner(actor),
        }
    }

    fn give_object(
        &mut self,
        by: By,
        id: ObjectId,
        owner: Option<UserId>,
        events: &mut Vec<Event>,
    ) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut object.owner, owner.clone());
        let group = object.group;
        self.count_object(before.as_ref(), -1);
        self.count_object(owner.as_ref(), 1);
        events.push(Event::ObjectOwned {
            by,
            id,
            owner,
            group,
        });
    }

    fn delete_object(&mut self, by: By, id: ObjectId, events: &mut Vec<Event>) {
        let Some(object) = self.objects.remove(&id) else {
            return;
        };
        self.forget_properties(&Target::Object(id), &object.properties);
        self.count_object(object.owner.as_ref(), -1);
        let group = object.group;
        events.push(Event::ObjectDeleted { by, id, group });
    }

    fn may_own_more(&self, owner: Option<&UserId>) -> bool {
        owner
            .and_then(|owner| self.member_by_user.get(owner))
            .is_none_or(|member| member.objects < OBJECTS_PER_MEMBER_MAX)
    }

    fn count_object(&mut self, owner: Option<&UserId>, more: isize) {
        if let Some(member) = owner.and_then(|owner| self.member_by_user.get_mut(owner)) {
            member.objects = member.objects.saturating_add_signed(more);
        }
    }
}
