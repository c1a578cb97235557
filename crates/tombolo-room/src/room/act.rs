//! What members and servers want, and whether they may.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tombolo_wire::UserId;

use super::open::Open;
use super::timer::Timer;
use super::{BANS_MAX, OWNER_STATE_BYTES_MAX};
use crate::entry::{Act, Actor, LeftReason, Target};
use crate::event::{By, Event, Illegal};
use crate::message::{Audience, Message, PAYLOAD_BYTES_MAX};
use crate::settings::{SettingsChange, Writers};
use crate::word::{GROUPS_PER_MEMBER_MAX, GroupId, Time};

impl Open {
    pub(super) fn on_act(
        &mut self,
        now: Time,
        actor: &Actor,
        act: &Act,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        if let Actor::Member { user, session } = actor
            && !self.member_with(user, *session)?.is_present()
        {
            return Err(Illegal::NotMember);
        }
        let by = By::from(actor);
        match act {
            Act::Configure(change) => self.on_configure(actor, change, events),
            Act::ChangeProperties { target, changes } => {
                self.check_writer(actor, target)?;
                self.on_change_properties(now, by, target, changes, events)
            }
            Act::Reserve(reserve) => {
                self.check_owner(actor)?;
                self.on_reserve(now, by, reserve, events)
            }
            Act::Kick(user) => {
                self.check_owner(actor)?;
                if !self.member_by_user.contains_key(user) {
                    return Err(Illegal::NoSuch);
                }
                self.remove_member(user, LeftReason::Kicked, events);
                Ok(())
            }
            Act::Ban { user, lasts } => self.on_ban(now, actor, user, *lasts, events),
            Act::Unban(user) => self.on_unban(actor, user, events),
            Act::SetOwner(owner) => self.on_set_owner(actor, owner.as_ref(), events),
            Act::KeepState(state) => self.on_keep_state(actor, state),
            Act::CreateObject(plan) => self.on_create_object(now, actor, plan, events),
            Act::OwnObject { object, owner } => {
                self.on_own_object(actor, *object, owner.as_ref(), events)
            }
            Act::DeleteObject(object) => self.on_delete_object(actor, *object, events),
            Act::ChangeGroups { enter, exit } => self.on_change_groups(actor, enter, exit, events),
            Act::Say { audience, payload } => self.on_say(now, by, audience, payload, events),
            Act::Reach(reachability) => self.on_reach(actor, *reachability),
            Act::Close => self.on_close(now, actor, events),
        }
    }

    fn on_configure(
        &mut self,
        actor: &Actor,
        change: &SettingsChange,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        self.check_owner(actor)?;
        let settings = self.settings.changed(change);
        if !settings.is_good() {
            return Err(Illegal::Settings);
        }
        self.history.trim(settings.history_max as usize);
        let before = std::mem::replace(&mut self.settings, settings.clone());
        self.on_empty_kept(before.empty_kept);
        let by = By::from(actor);
        events.push(Event::Configured { by, settings });
        Ok(())
    }

    fn on_ban(
        &mut self,
        now: Time,
        actor: &Actor,
        user: &UserId,
        lasts: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        self.check_owner(actor)?;
        if self.banned.len() >= BANS_MAX && !self.banned.contains_key(user) {
            return Err(Illegal::Limit);
        }
        let until = lasts.map(|lasts| now.after(lasts));
        let before = self.banned.insert(user.clone(), until);
        self.cancel(before.flatten(), Timer::Ban(user.clone()));
        self.schedule(until, Timer::Ban(user.clone()));
        if let Some(reserved) = self.reserved.remove(user) {
            self.cancel(Some(reserved), Timer::Reservation(user.clone()));
            let users = vec![user.clone()];
            events.push(Event::SeatsReleased { users });
        }
        events.push(Event::Banned {
            by: By::from(actor),
            user: user.clone(),
            until,
        });
        self.remove_member(user, LeftReason::Banned, events);
        Ok(())
    }

    fn on_unban(
        &mut self,
        actor: &Actor,
        user: &UserId,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        self.check_owner(actor)?;
        let until = self.banned.remove(user).ok_or(Illegal::NoSuch)?;
        self.cancel(until, Timer::Ban(user.clone()));
        events.push(Event::Unbanned {
            by: By::from(actor),
            user: user.clone(),
        });
        Ok(())
    }

    fn on_keep_state(&mut self, actor: &Actor, state: &Bytes) -> Result<(), Illegal> {
        self.check_owner(actor)?;
        if state.len() > OWNER_STATE_BYTES_MAX {
            return Err(Illegal::Limit);
        }
        self.owner_state = state.clone();
        Ok(())
    }

    fn on_change_groups(
        &mut self,
        actor: &Actor,
        enter: &[GroupId],
        exit: &[GroupId],
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let user = actor.user().ok_or(Illegal::NotMember)?;
        let member = self
            .member_by_user
            .get_mut(user)
            .ok_or(Illegal::NotMember)?;
        let mut groups = member.groups.clone();
        for group in exit {
            groups.remove(group);
        }
        groups.extend(enter);
        if groups.len() > GROUPS_PER_MEMBER_MAX {
            return Err(Illegal::Limit);
        }
        let before: BTreeSet<_> = std::mem::replace(&mut member.groups, groups.clone());
        events.push(Event::GroupsChanged {
            user: user.clone(),
            entered: groups.difference(&before).copied().collect(),
            exited: before.difference(&groups).copied().collect(),
        });
        Ok(())
    }

    fn on_say(
        &mut self,
        now: Time,
        from: By,
        audience: &Audience,
        payload: &Bytes,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Illegal::Limit);
        }
        let message = Message {
            number: self.history.last + 1,
            time: now,
            from,
            audience: audience.clone(),
            payload: payload.clone(),
        };
        let messages_max = self.settings.history_max as usize;
        self.history.push(message.clone(), messages_max);
        events.push(Event::Said(message));
        Ok(())
    }

    fn on_reach(&mut self, actor: &Actor, reachability: u32) -> Result<(), Illegal> {
        let user = actor.user().ok_or(Illegal::NotMember)?;
        let member = self
            .member_by_user
            .get_mut(user)
            .ok_or(Illegal::NotMember)?;
        member.reachability = reachability;
        Ok(())
    }

    /// Sends everybody away; being empty, the room is over at once.
    fn on_close(
        &mut self,
        now: Time,
        actor: &Actor,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        self.check_owner(actor)?;
        let users: Vec<_> = self.member_by_user.keys().cloned().collect();
        for user in users {
            self.remove_member(&user, LeftReason::Closed, events);
        }
        self.closes = Some(now);
        self.reserved.clear();
        Ok(())
    }

    fn check_owner(&self, actor: &Actor) -> Result<(), Illegal> {
        if self.is_owner(actor) {
            Ok(())
        } else {
            Err(Illegal::NotOwner)
        }
    }

    /// Whether it may change those properties.
    fn check_writer(&self, actor: &Actor, target: &Target) -> Result<(), Illegal> {
        let may = match (target, actor, self.settings.writers) {
            (_, Actor::Server, _) | (Target::Room, _, Writers::Everybody) => true,
            (Target::Room, _, Writers::Owner) => self.is_owner(actor),
            (Target::Room, _, Writers::Server) => false,
            (Target::Member(whose), Actor::Member { user, .. }, _) => {
                user == whose || self.is_owner(actor)
            }
            (Target::Object(id), _, _) => self.has_say_over(actor, self.object(*id)?),
        };
        if may { Ok(()) } else { Err(Illegal::NotOwner) }
    }
}

impl Actor {
    /// The member; `None` for a server.
    pub(super) fn user(&self) -> Option<&UserId> {
        match self {
            Self::Member { user, .. } => Some(user),
            Self::Server => None,
        }
    }
}

impl From<&Actor> for By {
    fn from(actor: &Actor) -> Self {
        actor.user().cloned().into()
    }
}

impl From<Option<UserId>> for By {
    fn from(member: Option<UserId>) -> Self {
        member.map_or(Self::Server, Self::Member)
    }
}
