//! Groups: who is in one, and what was said there, outlives sessions and nodes.

use std::sync::Arc;

use bytes::Bytes;
use tombolo_room::Time;
pub use tombolo_social::group::{Role as GroupRole, Settings as GroupSettings};
use tombolo_social::{MessageId, Place};
use tombolo_wire::v1::{
    self, group_event, group_request, group_response, request, social_request, social_response,
};
use tombolo_wire::{GroupName, UserId};

use super::feed::{Feed, Next};
use super::{ask, further, is_known, other_question};
use crate::device::Device;
use crate::error::Error;
use crate::retry::{persistently, until_known};

/// Access to groups; see [`Device::groups`].
#[derive(Debug)]
pub struct Groups<'a>(&'a Device);

/// A group that this device is told of; its user is a member. Dropping it ends the telling; the user
/// stays a member until [`Group::leave`].
#[derive(Debug)]
pub struct Group {
    device: Device,
    name: GroupName,
    state: Arc<GroupState>,
    /// The last post that the application has taken.
    place: Option<Place>,
    is_recovered: bool,
    settings: GroupSettings,
    role: String,
    members_about: u64,
}

/// Something that was said in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMessage {
    /// 1, 2, 3, …
    pub number: u64,
    /// When the cluster took it.
    pub time: Time,
    /// By whom; `None` for a server.
    pub from: Option<UserId>,
    /// Its poster's name for it.
    pub id: MessageId,
    /// What it says.
    pub payload: Bytes,
}

/// A post was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPosted {
    /// Its number.
    pub number: u64,
    /// When the cluster took it.
    pub time: Time,
    /// It had been posted before, under the same id.
    pub is_repeated: bool,
}

/// Posts that are kept; see [`Group::history`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupHistory {
    /// The newest first.
    pub messages: Vec<GroupMessage>,
    /// There are older ones: ask for those before the last of these.
    pub more: bool,
}

/// Some of this user's groups; see [`Groups::list`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupList {
    /// Some, or none.
    pub groups: Vec<ListedGroup>,
    /// What the next page begins after; `None` at the end.
    pub next: Option<GroupName>,
}

/// A group that this user is in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedGroup {
    /// Its name.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// The name of this user's role.
    pub role: String,
}

/// Some members of a group; see [`Group::members`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupMembers {
    /// Some, or none.
    pub members: Vec<GroupMember>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// Who.
    pub user: UserId,
    /// The name of its role.
    pub role: String,
    /// Since when.
    pub since: Time,
}

/// Something happened in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEvent {
    /// Somebody posted something.
    Message(GroupMessage),
    /// The group is otherwise now; see [`Group::settings`].
    Configured,
    /// This user has another role; see [`Group::role`].
    Role,
    /// Posts were missed that are not known any more.
    Lost,
    /// This user is no member any more, or the group has ended: nothing follows.
    Over {
        /// The group has ended for all.
        has_ended: bool,
    },
}

/// What the device keeps of a group.
#[derive(Debug, Default)]
pub(super) struct GroupState(pub(super) Feed<Told>);

#[derive(Debug)]
pub(super) enum Told {
    Opened(v1::GroupOpened),
    Event(group_event::Kind),
}

impl GroupState {
    pub(super) fn on_event(&self, kind: group_event::Kind) {
        let bytes = if let group_event::Kind::Message(message) = &kind {
            message.payload.len()
        } else {
            0
        };
        self.0.push(Told::Event(kind), bytes);
    }
}

impl Device {
    /// Access to groups.
    #[must_use]
    pub fn groups(&self) -> Groups<'_> {
        Groups(self)
    }
}

impl Groups<'_> {
    /// Makes a group, with this device's user as its owner, and opens it. While nobody knows whether it was made, it is
    /// asked for again, for a minute.
    ///
    /// # Errors
    /// With code `GroupExists` when the name is taken, also by a group that has ended; when the
    /// node refuses.
    pub async fn create(&self, name: &str, settings: &GroupSettings) -> Result<Group, Error> {
        let create = v1::CreateGroup {
            settings: Some(settings.into()),
        };
        let create = || self.ask(name, group_request::Kind::Create(create.clone()));
        let Err(error) = until_known(|_| false, create).await else {
            return self.open(name, None).await;
        };
        if !error.is_unsure() || error.is_closed() {
            return Err(error);
        }
        // When it is there and is this user's, it was made by one of the times before.
        let found = self.open(name, None).await;
        found.ok().filter(Group::is_own).ok_or(error)
    }

    /// Becomes a member of an open group, if need be, and opens it.
    ///
    /// # Errors
    /// With code `NotPermitted` when the group is not open, `Banned` when this user may not get in.
    pub async fn join(&self, name: &str) -> Result<Group, Error> {
        let join = || self.ask(name, group_request::Kind::Join(v1::JoinGroup {}));
        until_known(|_| false, join).await?;
        self.open(name, None).await
    }

    /// The groups that this user is in, by name, after one: 50 at most.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn list(&self, after: Option<&GroupName>) -> Result<GroupList, Error> {
        let list = v1::GroupRequest {
            group: String::new(),
            kind: Some(group_request::Kind::List(v1::ListGroups {
                after: after.map(ToString::to_string).unwrap_or_default(),
                limit: 0,
            })),
        };
        let list = social_request::Kind::Group(list);
        let social_response::Result::Group(v1::GroupResponse {
            result: Some(group_response::Result::List(list)),
            ..
        }) = ask(&self.0.0.session, list).await?
        else {
            return Err(other_question());
        };
        let groups = list.groups.into_iter().filter_map(|listed| {
            Some(ListedGroup {
                name: GroupName::parse(&listed.group).ok()?,
                title: listed.title,
                role: listed.role,
            })
        });
        Ok(GroupList {
            groups: groups.collect(),
            next: GroupName::parse(&list.next).ok(),
        })
    }

    /// Opens a group that this user is a member of: tells of the posts after a place, or of those to
    /// come.
    ///
    /// # Errors
    /// With code `NoSuchGroup` or `NotAMember`; when this device has it open already.
    pub async fn open(&self, name: &str, after: Option<Place>) -> Result<Group, Error> {
        let name = GroupName::parse(name).map_err(Error::local)?;
        let device = self.0;
        let state = Arc::new(GroupState::default());
        if !device.0.social.add_group(&name, &state) {
            return Err(Error::local(format!(
                "this device has group {name} open already"
            )));
        }
        let mut group = Group {
            device: device.clone(),
            name,
            state,
            place: after,
            is_recovered: false,
            settings: GroupSettings::default(),
            role: String::new(),
            members_about: 0,
        };
        group.open().await?;
        if let Next::Item(Told::Opened(opened)) = group.state.0.next().await {
            group.is_recovered = opened.recovered;
            group.on_opened(opened);
        }
        Ok(group)
    }

    async fn ask(
        &self,
        name: &str,
        kind: group_request::Kind,
    ) -> Result<group_response::Result, Error> {
        let name = GroupName::parse(name).map_err(Error::local)?;
        ask_group(self.0, &name, kind).await
    }
}

impl Group {
    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &GroupName {
        &self.name
    }

    /// How it is.
    #[must_use]
    pub fn settings(&self) -> &GroupSettings {
        &self.settings
    }

    /// The name of this user's role.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Whether this user is its owner.
    fn is_own(&self) -> bool {
        let first = self.settings.roles.first();
        first.is_some_and(|owner| owner.name == self.role)
    }

    /// About how many members there were when it was opened: exact up to some thousands.
    #[must_use]
    pub fn members_about(&self) -> u64 {
        self.members_about
    }

    /// The last post that was taken from [`next_event`](Self::next_event), to be kept where the
    /// application keeps things: [`Groups::open`] goes on from there.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Whether everything after the place that it was opened with is told.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.is_recovered
    }

    /// The next event; `None` when the session, or this user's part in the group, is over. What an
    /// application is too slow to take waits in the cluster, and a session that was lost is made up
    /// for: nothing is left out without [`GroupEvent::Lost`]. Losing the future loses no event.
    ///
    /// # Errors
    /// When the node refuses to go on, for example because this user was sent away while it was not
    /// connected.
    pub async fn next_event(&mut self) -> Result<Option<GroupEvent>, Error> {
        loop {
            let told = match self.state.0.next().await {
                Next::Item(told) => told,
                Next::End => return Ok(None),
                Next::Stale => {
                    persistently(|| self.open()).await?;
                    continue;
                }
            };
            let event = match told {
                Told::Opened(opened) => self.on_opened(opened),
                Told::Event(kind) => self.on_event(kind),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Says something. Once this returns it is kept, whatever happens to nodes; while the session is
    /// lost, or nobody knows whether it is kept, it is sent again, for a minute, and is there once. If
    /// nobody knows in the end ([`Error::is_unsure`]), posting it anew may post it twice, but under the same
    /// id ([`post_as`](Self::post_as)).
    ///
    /// # Errors
    /// With code `NotPermitted` when this user's role does not allow it; when it is too long, or the
    /// node cannot be reached.
    pub async fn post(&self, payload: impl Into<Bytes>) -> Result<GroupPosted, Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(Error::local)?;
        self.post_as(MessageId(id), payload).await
    }

    /// Says something under an id of the application's, so that it is there once however often it is posted.
    ///
    /// # Errors
    /// As [`Group::post`].
    pub async fn post_as(
        &self,
        id: MessageId,
        payload: impl Into<Bytes>,
    ) -> Result<GroupPosted, Error> {
        let post = v1::GroupPost {
            id: Bytes::copy_from_slice(&id.0),
            payload: payload.into(),
        };
        let post = || self.ask(group_request::Kind::Post(post.clone()));
        let posted = until_known(Error::is_unreachable, post).await?;
        let group_response::Result::Posted(posted) = posted else {
            return Err(other_question());
        };
        Ok(GroupPosted {
            number: posted.number,
            time: Time::from_millis(posted.time_ms),
            is_repeated: posted.repeated,
        })
    }

    /// Posts that are kept: those before a number, or the newest for `None`.
    ///
    /// # Errors
    /// When this user is no member, or the node cannot be reached.
    pub async fn history(&self, before: Option<u64>, limit: u32) -> Result<GroupHistory, Error> {
        let history = v1::GroupHistory {
            before: before.unwrap_or_default(),
            limit,
        };
        let answer = self.ask(group_request::Kind::History(history)).await?;
        let group_response::Result::History(page) = answer else {
            return Err(other_question());
        };
        Ok(GroupHistory {
            messages: page.messages.into_iter().filter_map(parse).collect(),
            more: page.more,
        })
    }

    /// Some members, from where a page before said that it goes on. While members come and go a large
    /// group may name one twice.
    ///
    /// # Errors
    /// When this user is no member, or the node cannot be reached.
    pub async fn members(&self, next: Option<&str>, limit: u32) -> Result<GroupMembers, Error> {
        let after = next.unwrap_or_default().to_owned();
        let members = v1::GroupMembers { after, limit };
        let answer = self.ask(group_request::Kind::Members(members)).await?;
        let group_response::Result::Members(page) = answer else {
            return Err(other_question());
        };
        Ok(GroupMembers {
            members: page.members.into_iter().filter_map(parse_member).collect(),
            next: Some(page.next).filter(|next| !next.is_empty()),
        })
    }

    /// Makes a user a member. It must have opened its inbox once, as for direct messages.
    ///
    /// # Errors
    /// With code `NotPermitted`, `NoSuchUser`, `Blocked`, `Banned`, or `Conflict` when it is one already.
    pub async fn add(&self, user: &UserId) -> Result<(), Error> {
        let user = user.to_string();
        self.change(group_request::Kind::Add(v1::AddMember { user }))
            .await
    }

    /// Sends a member of a less powerful role away.
    ///
    /// # Errors
    /// With code `NotPermitted` or `NoSuchMember`.
    pub async fn remove(&self, user: &UserId) -> Result<(), Error> {
        self.send_away(user, false).await
    }

    /// Sends a user away and does not let it in again.
    ///
    /// # Errors
    /// With code `NotPermitted`.
    pub async fn ban(&self, user: &UserId) -> Result<(), Error> {
        self.send_away(user, true).await
    }

    /// Lets a user in again.
    ///
    /// # Errors
    /// With code `NotPermitted`.
    pub async fn unban(&self, user: &UserId) -> Result<(), Error> {
        let user = user.to_string();
        self.change(group_request::Kind::Unban(v1::UnbanMember { user }))
            .await
    }

    /// Gives a member of a less powerful role another one that is less powerful than this user's own;
    /// an owner gives any, and everybody may step down.
    ///
    /// # Errors
    /// With code `NotPermitted`, `NoSuchMember`, or `NoSuchThing` for the role.
    pub async fn set_role(&self, user: &UserId, role: &str) -> Result<(), Error> {
        let (user, role) = (user.to_string(), role.to_owned());
        self.change(group_request::Kind::SetRole(v1::SetRole { user, role }))
            .await
    }

    /// Changes how the group is; the number of its roles stays.
    ///
    /// # Errors
    /// With code `NotPermitted` or `Conflict`.
    pub async fn configure(&self, settings: &GroupSettings) -> Result<(), Error> {
        self.change(group_request::Kind::Configure(settings.into()))
            .await
    }

    /// Is no member any more. An owner hands the group over, or steps down, before.
    ///
    /// # Errors
    /// With code `NotPermitted` for the owner; when the node cannot be reached.
    pub async fn leave(&self) -> Result<(), Error> {
        let leave = || self.change(group_request::Kind::Leave(v1::LeaveGroup {}));
        until_known(|_| false, leave).await
    }

    /// Ends the group for all.
    ///
    /// # Errors
    /// With code `NotPermitted`; when the node cannot be reached.
    pub async fn end(&self) -> Result<(), Error> {
        self.change(group_request::Kind::End(v1::EndGroup {})).await
    }

    async fn send_away(&self, user: &UserId, ban: bool) -> Result<(), Error> {
        let user = user.to_string();
        self.change(group_request::Kind::Remove(v1::RemoveMember { user, ban }))
            .await
    }

    async fn change(&self, kind: group_request::Kind) -> Result<(), Error> {
        self.ask(kind).await.map(drop)
    }

    async fn ask(&self, kind: group_request::Kind) -> Result<group_response::Result, Error> {
        ask_group(&self.device, &self.name, kind).await
    }

    async fn open(&self) -> Result<(), Error> {
        let after = self.place.map(v1::Place::from);
        let open = group_request::Kind::Open(v1::OpenGroup { after });
        let group_response::Result::Opened(_) = self.ask(open).await? else {
            return Err(other_question());
        };
        Ok(())
    }

    fn on_opened(&mut self, opened: v1::GroupOpened) -> Option<GroupEvent> {
        if let Some(settings) = opened.settings
            && let Ok(settings) = GroupSettings::parse(settings)
        {
            self.settings = settings;
        }
        self.role = opened.role;
        self.members_about = opened.members_about;
        let had_place = self.place.is_some();
        if !opened.recovered {
            self.place = opened.last.as_ref().and_then(Place::parse);
        }
        (had_place && !opened.recovered).then_some(GroupEvent::Lost)
    }

    fn on_event(&mut self, kind: group_event::Kind) -> Option<GroupEvent> {
        match kind {
            group_event::Kind::Message(message) => {
                let message = parse(message)?;
                if let Some(place) = &mut self.place {
                    let at = Place {
                        offset: message.number,
                        ..*place
                    };
                    if is_known(Some(*place), at) {
                        return None;
                    }
                    *place = at;
                }
                Some(GroupEvent::Message(message))
            }
            group_event::Kind::Settings(settings) => {
                self.settings = GroupSettings::parse(settings).ok()?;
                Some(GroupEvent::Configured)
            }
            group_event::Kind::Role(role) => {
                self.role = role;
                Some(GroupEvent::Role)
            }
            group_event::Kind::Place(place) => {
                let at = place.at.as_ref().and_then(Place::parse);
                self.place = at.map(|at| further(self.place, at));
                place.lost.then_some(GroupEvent::Lost)
            }
            group_event::Kind::Over(over) => {
                self.state.0.end();
                let has_ended = over.reason == "ended";
                Some(GroupEvent::Over { has_ended })
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let shared = &self.device.0;
        if shared.social.remove_group(&self.name, &self.state) {
            let close = group_request::Kind::Close(v1::CloseGroup {});
            let close = social_request::Kind::Group(on_wire(&self.name, close));
            let close = v1::SocialRequest { kind: Some(close) };
            shared.session.ask_aside(request::Kind::Social(close));
        }
    }
}

async fn ask_group(
    device: &Device,
    name: &GroupName,
    kind: group_request::Kind,
) -> Result<group_response::Result, Error> {
    let group = social_request::Kind::Group(on_wire(name, kind));
    let social_response::Result::Group(response) = ask(&device.0.session, group).await? else {
        return Err(other_question());
    };
    response.result.ok_or_else(other_question)
}

fn on_wire(name: &GroupName, kind: group_request::Kind) -> v1::GroupRequest {
    v1::GroupRequest {
        group: name.to_string(),
        kind: Some(kind),
    }
}

/// Reads a post; `None` when it breaks the contract.
fn parse(message: v1::GroupMessage) -> Option<GroupMessage> {
    let from = match message.from.as_str() {
        "" => None,
        user => Some(UserId::parse(user).ok()?),
    };
    Some(GroupMessage {
        number: message.number,
        time: Time::from_millis(message.time_ms),
        from,
        id: MessageId(message.id.as_ref().try_into().ok()?),
        payload: message.payload,
    })
}

/// Reads a member; `None` when it breaks the contract.
fn parse_member(member: v1::GroupMember) -> Option<GroupMember> {
    Some(GroupMember {
        user: UserId::parse(&member.user).ok()?,
        role: member.role,
        since: Time::from_millis(member.since_ms),
    })
}
