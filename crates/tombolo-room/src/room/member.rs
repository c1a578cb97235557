//! Who takes part, and in which seat.

use std::collections::BTreeSet;

use tombolo_wire::{NodeId, UserId};

use super::SENT_AWAY_MAX;
use super::open::Open;
use super::timer::Timer;
use crate::entry::{Join, LeftReason, Membership, Reserve, Target};
use crate::event::{By, Event, Illegal};
use crate::property::Properties;
use crate::settings::Password;
use crate::word::{GroupId, SessionId, Time};

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(super) membership: Membership,
    pub(super) seat: u32,
    pub(super) presence: Presence,
    pub(super) reachability: u32,
    pub(super) properties: Properties,
    pub(super) groups: BTreeSet<GroupId>,
    /// How many objects are its own.
    pub(super) objects: usize,
}

/// Whether a member's device can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// As far as is known.
    Present,
    /// Its connection broke, and its seat is kept.
    Dropped {
        /// Until when.
        until: Time,
    },
}

impl Member {
    /// How it takes part.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Its place, from 0; stays its own over drops, returns and other sessions.
    #[must_use]
    pub fn seat(&self) -> u32 {
        self.seat
    }

    /// Whether its device can be reached.
    #[must_use]
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// Whether its device can be reached.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.presence == Presence::Present
    }

    /// How well it is reached by others.
    #[must_use]
    pub fn reachability(&self) -> u32 {
        self.reachability
    }

    /// What is known about it.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Its interest groups.
    #[must_use]
    pub fn groups(&self) -> &BTreeSet<GroupId> {
        &self.groups
    }

    fn dropped_until(&self) -> Option<Time> {
        match self.presence {
            Presence::Present => None,
            Presence::Dropped { until } => Some(until),
        }
    }
}

impl Open {
    pub(super) fn on_joined(
        &mut self,
        now: Time,
        join: &Join,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        self.check_return(join)?;
        let user = &join.user;
        let Some(member) = self.member_by_user.get_mut(user) else {
            return self.on_newcomer(now, join, events);
        };
        if join.membership.is_older_than(&member.membership) {
            return Err(Illegal::Stale);
        }
        let (is_present, is_same) = (
            member.is_present(),
            member.membership.session == join.membership.session,
        );
        if !is_same {
            // It may be on another network by now.
            member.reachability = join.reachability;
        }
        if !is_present || is_same {
            return self.on_returned(user, join.membership.clone(), events);
        }
        let membership = std::mem::replace(&mut member.membership, join.membership.clone());
        let seat = member.seat;
        events.push(Event::Left {
            user: user.clone(),
            membership,
            reason: LeftReason::Replaced,
        });
        events.push(Event::Joined {
            user: user.clone(),
            membership: join.membership.clone(),
            seat,
        });
        Ok(())
    }

    /// Whether a device that comes back still has a place to come back to; one that comes anew needs none.
    pub(super) fn check_return(&self, join: &Join) -> Result<(), Illegal> {
        let (user, identity) = (&join.user, &join.membership.keys.identity);
        let Some(opening) = join.returns_to else {
            return Ok(());
        };
        if opening != self.opening {
            return Err(Illegal::Closed);
        }
        if self.banned.contains_key(user) {
            return Err(Illegal::Banned);
        }
        if self.sent_away.get(user) == Some(identity) {
            return Err(Illegal::Kicked);
        }
        let member = self.member_by_user.get(user);
        match member.is_some_and(|member| member.membership.keys.identity != *identity) {
            true => Err(Illegal::Stale),
            false => Ok(()),
        }
    }

    /// Whether a newcomer may come in.
    pub(super) fn admits(&self, user: &UserId, password: Option<Password>) -> Result<(), Illegal> {
        let is_expected = self.reserved.contains_key(user);
        if self.banned.contains_key(user) {
            return Err(Illegal::Banned);
        }
        if self.settings.password.is_some() && self.settings.password != password {
            return Err(Illegal::Password);
        }
        if self.settings.is_locked && !is_expected {
            return Err(Illegal::Locked);
        }
        if self.is_full() && !is_expected {
            return Err(Illegal::Full);
        }
        Ok(())
    }

    fn on_newcomer(
        &mut self,
        now: Time,
        join: &Join,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let user = &join.user;
        self.admits(user, join.password)?;
        let member = Member {
            membership: join.membership.clone(),
            seat: self.free_seat(),
            presence: Presence::Present,
            reachability: join.reachability,
            properties: Properties::default(),
            groups: BTreeSet::new(),
            objects: 0,
        };
        let seat = member.seat;
        self.member_by_user.insert(user.clone(), member);
        let target = Target::Member(user.clone());
        if let Err(illegal) = self.change_properties(now, &target, &join.properties) {
            self.member_by_user.pop();
            return Err(illegal);
        }
        let reserved = self.reserved.remove(user);
        self.cancel(reserved, Timer::Reservation(user.clone()));
        self.sent_away.shift_remove(user);
        events.push(Event::Joined {
            user: user.clone(),
            membership: join.membership.clone(),
            seat,
        });
        Ok(())
    }

    pub(super) fn on_returned(
        &mut self,
        user: &UserId,
        membership: Membership,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let member = self
            .member_by_user
            .get_mut(user)
            .ok_or(Illegal::NotMember)?;
        if member.is_present() && member.membership == membership {
            return Err(Illegal::Member);
        }
        let until = member.dropped_until();
        member.presence = Presence::Present;
        member.membership = membership.clone();
        self.cancel(until, Timer::Seat(user.clone()));
        events.push(Event::Returned {
            user: user.clone(),
            membership,
        });
        Ok(())
    }

    pub(super) fn on_dropped(
        &mut self,
        now: Time,
        user: &UserId,
        session: SessionId,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        if !self.member_with(user, session)?.is_present() {
            return Err(Illegal::NotMember);
        }
        self.drop_member(now, user, events);
        Ok(())
    }

    /// Drops those whose sessions a lost incarnation of a node held.
    pub(super) fn drop_members_of(
        &mut self,
        now: Time,
        node: &NodeId,
        incarnation: u64,
        events: &mut Vec<Event>,
    ) {
        let is_lost = |member: &Member| {
            let membership = &member.membership;
            membership.node == *node && membership.incarnation <= incarnation
        };
        let members = self.member_by_user.iter();
        let lost = members.filter(|(_, member)| is_lost(member));
        let (mut users, mut present) = (Vec::new(), Vec::new());
        for (user, member) in lost {
            users.push(user.clone());
            present.extend(member.is_present().then(|| user.clone()));
        }
        if !users.is_empty() {
            events.push(Event::NodeLost { users });
        }
        for user in present {
            self.drop_member(now, &user, events);
        }
    }

    fn drop_member(&mut self, now: Time, user: &UserId, events: &mut Vec<Event>) {
        if self.settings.seat_kept.is_zero() {
            return self.remove_member(user, LeftReason::Disconnected, events);
        }
        let until = now.after(self.settings.seat_kept);
        let Some(member) = self.member_by_user.get_mut(user) else {
            return;
        };
        member.presence = Presence::Dropped { until };
        self.schedule(Some(until), Timer::Seat(user.clone()));
        events.push(Event::Dropped {
            user: user.clone(),
            until,
        });
    }

    /// Takes a member out, with what goes with it. The order of the others stays.
    pub(super) fn remove_member(
        &mut self,
        user: &UserId,
        reason: LeftReason,
        events: &mut Vec<Event>,
    ) {
        let Some(member) = self.member_by_user.shift_remove(user) else {
            return;
        };
        self.cancel(member.dropped_until(), Timer::Seat(user.clone()));
        self.forget_properties(&Target::Member(user.clone()), &member.properties);
        if matches!(reason, LeftReason::Kicked | LeftReason::Banned) {
            self.remember_sent_away(user, member.membership.keys.identity);
        }
        events.push(Event::Left {
            user: user.clone(),
            membership: member.membership,
            reason,
        });
        if member.objects > 0 {
            self.release_objects(user, events);
        }
    }

    /// Its device may have lost its session, and not hear of it.
    fn remember_sent_away(&mut self, user: &UserId, identity: [u8; 32]) {
        self.sent_away.shift_remove(user);
        if self.sent_away.len() >= SENT_AWAY_MAX {
            self.sent_away.shift_remove_index(0);
        }
        self.sent_away.insert(user.clone(), identity);
    }

    pub(super) fn on_reserve(
        &mut self,
        now: Time,
        by: By,
        reserve: &Reserve,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let absent = |user: &&UserId| !self.member_by_user.contains_key(*user);
        let users: BTreeSet<_> = reserve.users.iter().filter(absent).cloned().collect();
        if reserve.lasts.is_zero() {
            let is_kept = |user: &UserId| self.reserved.contains_key(user);
            let users: Vec<_> = users.into_iter().filter(is_kept).collect();
            for user in &users {
                let until = self.reserved.remove(user);
                self.cancel(until, Timer::Reservation(user.clone()));
            }
            events.push(Event::SeatsReleased { users });
            return Ok(());
        }
        let is_new = |user: &&UserId| !self.reserved.contains_key(*user);
        let taken =
            self.member_by_user.len() + self.reserved.len() + users.iter().filter(is_new).count();
        if taken > self.settings.members_max as usize {
            return Err(Illegal::Full);
        }
        let until = now.after(reserve.lasts);
        for user in &users {
            let before = self.reserved.insert(user.clone(), until);
            self.cancel(before, Timer::Reservation(user.clone()));
            self.schedule(Some(until), Timer::Reservation(user.clone()));
        }
        events.push(Event::SeatsReserved {
            by,
            users: users.into_iter().collect(),
            until,
        });
        Ok(())
    }

    /// The member, if it is this session that takes part.
    pub(super) fn member_with(
        &self,
        user: &UserId,
        session: SessionId,
    ) -> Result<&Member, Illegal> {
        let member = self.member_by_user.get(user);
        member
            .filter(|member| member.membership.session == session)
            .ok_or(Illegal::NotMember)
    }

    /// The lowest seat that nobody has.
    fn free_seat(&self) -> u32 {
        let taken: BTreeSet<_> = self.member_by_user.values().map(Member::seat).collect();
        let mut seats = 0..;
        seats
            .find(|seat| !taken.contains(seat))
            .expect("there are fewer members than numbers")
    }
}
