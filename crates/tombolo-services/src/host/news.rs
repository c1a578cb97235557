//! What members are told of a room: as it is when they join, and as it changes.

use prost::Message as _;
use tombolo_room::{
    Audience, Changed, Event, GroupId, LeftReason, Member, Message, Object, ObjectId, Properties,
    Property, PropertyKey, Room, Target,
};
use tombolo_wire::UserId;
use tombolo_wire::resend::FRAMES_MAX;
use tombolo_wire::v1::{self, DeviceKeys, room_event};

use crate::config::ROOM_MEMBERS_MAX;

/// What is to be told, and to whom.
pub(super) struct News {
    pub(super) kind: room_event::Kind,
    /// The member that made it happen; empty when none did.
    pub(super) by: String,
    pub(super) whom: Whom,
}

/// Which of the members are told.
pub(super) enum Whom {
    Everybody,
    /// Everybody but this one, whom it is about.
    Others(UserId),
    Only(UserId),
    Group(GroupId),
    Hearers(Message),
}

impl Whom {
    /// Whether a member is told.
    pub(super) fn includes(&self, user: &UserId, member: Option<&Member>) -> bool {
        let groups = member.map(Member::groups);
        match self {
            Self::Everybody => true,
            Self::Others(about) => user != about,
            Self::Only(only) => user == only,
            Self::Group(group) => groups.is_some_and(|groups| groups.contains(group)),
            Self::Hearers(message) => groups.is_some_and(|groups| message.is_for(user, groups)),
        }
    }

    fn seeing(group: Option<GroupId>) -> Self {
        group.map_or(Self::Everybody, Self::Group)
    }
}

/// What is told of an event; the room is as the event's entry has left it.
pub(super) fn of_event(room: &Room, event: &Event) -> Vec<News> {
    use room_event::Kind;

    let nobody = String::new;
    match event {
        Event::Joined { user, .. } => about_member(room, user, Kind::Joined),
        Event::Returned { user, .. } => of_return(room, user),
        Event::Dropped { user, .. } => gone(user, LeftReason::Disconnected, Kind::Dropped),
        Event::Left { user, reason, .. } => gone(user, *reason, Kind::Left),
        Event::NodeLost { users } => {
            let users = users.iter().map(UserId::to_string).collect();
            let kind = Kind::Lost(v1::MessagesLost { users });
            vec![News::new(kind, nobody(), Whom::Everybody)]
        }
        Event::Configured { by, settings } => {
            let kind = Kind::Settings(settings.to_members());
            vec![News::new(kind, name(by.member()), Whom::Everybody)]
        }
        Event::PropertiesChanged {
            by,
            target,
            changes,
        } => {
            let group = match target {
                Target::Object(id) => room.object(*id).and_then(|object| object.group),
                Target::Room | Target::Member(_) => None,
            };
            changed(target, changes)
                .map(|kind| News::new(kind, name(by.member()), Whom::seeing(group)))
                .collect()
        }
        Event::ObjectCreated { by, id, object } => told_object(*id, object)
            .into_iter()
            .map(|kind| News::new(kind, name(by.member()), Whom::seeing(object.group)))
            .collect(),
        Event::ObjectOwned { by, id, group, .. } => room
            .object(*id)
            .map(|object| Kind::Object(bare(*id, object)))
            .map(|kind| News::new(kind, name(by.member()), Whom::seeing(*group)))
            .into_iter()
            .collect(),
        Event::ObjectDeleted { by, id, group } => {
            let kind = Kind::ObjectDeleted(v1::ObjectDeleted { object: id.0 });
            vec![News::new(kind, name(by.member()), Whom::seeing(*group))]
        }
        Event::OwnerChanged { owner, .. } => told_owner(room, owner.as_ref()),
        Event::GroupsChanged {
            user,
            entered,
            exited,
        } => told_groups(room, user, entered, exited),
        Event::Said(message) => {
            let kind = Kind::Said(message.into());
            let by = name(message.from.member());
            vec![News::new(kind, by, Whom::Hearers(message.clone()))]
        }
        // Who is let in is not for everybody to know.
        Event::Opened
        | Event::Closed
        | Event::SeatsReserved { .. }
        | Event::SeatsReleased { .. }
        | Event::Banned { .. }
        | Event::Unbanned { .. } => Vec::new(),
    }
}

/// What is told of a member that was dropped and is back.
pub(super) fn of_return(room: &Room, user: &UserId) -> Vec<News> {
    about_member(room, user, room_event::Kind::Returned)
}

/// What is told of a member that has been dropped, or is back, while nobody looked.
pub(super) fn of_presence(room: &Room, user: &UserId) -> Vec<News> {
    if room.member(user).is_some_and(Member::is_present) {
        return of_return(room, user);
    }
    gone(user, LeftReason::Disconnected, room_event::Kind::Dropped)
}

/// The room as a member sees it, from nothing; but for the members themselves. `lost` when messages
/// are missing that it ought to have heard.
pub(super) fn of_room(
    room: &Room,
    user: &UserId,
    after: Option<u64>,
    lost: bool,
) -> Vec<room_event::Kind> {
    use room_event::Kind;

    let Some(member) = room.member(user) else {
        return Vec::new();
    };
    let mut kinds = vec![Kind::Reset(v1::RoomReset {})];
    kinds.extend(
        room.settings()
            .map(|settings| Kind::Settings(settings.to_members())),
    );
    kinds.push(owner(room, room.owner() == Some(user)));
    if let Some(properties) = room.properties() {
        kinds.extend(told_properties(&Target::Room, properties));
    }
    for (user, member) in room.members() {
        let target = Target::Member(user.clone());
        kinds.extend(told_properties(&target, member.properties()));
    }
    let is_seen = |object: &Object| {
        let group = object.group.as_ref();
        group.is_none_or(|group| member.groups().contains(group))
    };
    for (id, object) in room.objects().filter(|(_, object)| is_seen(object)) {
        kinds.extend(told_object(id, object));
    }
    if let Some(after) = after {
        let missed = room.messages().filter(|message| message.number > after);
        let heard = missed.filter(|message| message.is_for(user, member.groups()));
        kinds.extend(heard.map(|message| Kind::Said(message.into())));
    }
    kinds.push(Kind::Synced(v1::Synced { lost }));
    kinds
}

/// Whether something after that message, and kept, was for some of the members by what interests them.
pub(super) fn was_said_to_groups(room: &Room, after: u64) -> bool {
    let mut later = room.messages().filter(|message| message.number > after);
    later.any(|message| matches!(message.audience, Audience::Group(_)))
}

/// The durable messages that a member may see, the newest first, as many as fit.
pub(super) fn history(room: &Room, user: &UserId, before: u64, limit: u32) -> v1::History {
    let Some(member) = room.member(user) else {
        return v1::History::default();
    };
    let is_from = |message: &Message| message.from.member() == Some(user);
    let is_seen = |message: &&Message| {
        // What a member said to others is its own to look up, too.
        message.is_for(user, member.groups())
            || (message.audience == Audience::Others && is_from(message))
    };
    let newest = room.messages().rev();
    let mut older = newest
        .filter(|message| before == 0 || message.number < before)
        .filter(is_seen)
        .map(v1::RoomMessage::from)
        .peekable();
    let limit = match limit {
        0 => HISTORY_PAGE_MAX,
        limit => HISTORY_PAGE_MAX.min(limit as usize),
    };
    let (mut messages, mut bytes) = (Vec::new(), 0);
    while let Some(message) = older.peek()
        && messages.len() < limit
        && (messages.is_empty() || bytes + message.encoded_len() <= PAGE_BYTES_MAX)
        && let Some(message) = older.next()
    {
        bytes += message.encoded_len();
        messages.push(message);
    }
    let more = older.next().is_some();
    v1::History { messages, more }
}

pub(super) fn member(user: &UserId, member: &Member) -> v1::Member {
    v1::Member {
        user: user.to_string(),
        keys: Some(DeviceKeys::from(&member.membership().keys)),
        seat: member.seat(),
        dropped: !member.is_present(),
    }
}

impl News {
    fn new(kind: room_event::Kind, by: String, whom: Whom) -> Self {
        Self { kind, by, whom }
    }
}

fn about_member(room: &Room, user: &UserId, kind: fn(v1::Member) -> room_event::Kind) -> Vec<News> {
    let found = room.member(user).map(|found| kind(member(user, found)));
    let whom = || Whom::Others(user.clone());
    found
        .map(|kind| News::new(kind, String::new(), whom()))
        .into_iter()
        .collect()
}

fn gone(
    user: &UserId,
    reason: LeftReason,
    kind: fn(v1::MemberLeft) -> room_event::Kind,
) -> Vec<News> {
    let left = v1::MemberLeft {
        user: user.to_string(),
        reason: reason.as_str().to_owned(),
    };
    vec![News::new(
        kind(left),
        String::new(),
        Whom::Others(user.clone()),
    )]
}

/// Everybody learns who it is; the new owner what was left to it.
fn told_owner(room: &Room, new: Option<&UserId>) -> Vec<News> {
    let news = |is_owner, whom| News::new(owner(room, is_owner), String::new(), whom);
    match new {
        Some(new) => vec![
            news(false, Whom::Others(new.clone())),
            news(true, Whom::Only(new.clone())),
        ],
        None => vec![news(false, Whom::Everybody)],
    }
}

/// A member sees what is in the groups that it entered, and no longer what is in those that it left.
fn told_groups(room: &Room, user: &UserId, entered: &[GroupId], exited: &[GroupId]) -> Vec<News> {
    use room_event::Kind;

    let mut kinds = Vec::new();
    for (id, object) in room.objects() {
        let is_in = |groups: &[GroupId]| object.group.is_some_and(|group| groups.contains(&group));
        if is_in(entered) {
            kinds.extend(told_object(id, object));
        } else if is_in(exited) {
            kinds.push(Kind::ObjectDeleted(v1::ObjectDeleted { object: id.0 }));
        }
    }
    let whom = || Whom::Only(user.clone());
    let news = kinds.into_iter();
    news.map(|kind| News::new(kind, String::new(), whom()))
        .collect()
}

fn owner(room: &Room, is_owner: bool) -> room_event::Kind {
    let state = room.owner_state().filter(|_| is_owner);
    room_event::Kind::Owner(v1::OwnerChanged {
        user: name(room.owner()),
        state: state.cloned().unwrap_or_default(),
    })
}

/// An object and its properties, in as many frames as it takes.
fn told_object(id: ObjectId, object: &Object) -> Vec<room_event::Kind> {
    let whole = object.to_wire(id);
    if whole.encoded_len() <= PAGE_BYTES_MAX {
        return vec![room_event::Kind::Object(whole)];
    }
    let bare = room_event::Kind::Object(bare(id, object));
    let properties = told_properties(&Target::Object(id), &object.properties);
    std::iter::once(bare).chain(properties).collect()
}

/// An object without its properties, which are told apart.
fn bare(id: ObjectId, object: &Object) -> v1::RoomObject {
    let object = Object {
        properties: Properties::default(),
        ..object.clone()
    };
    object.to_wire(id)
}

fn told_properties(target: &Target, properties: &Properties) -> Vec<room_event::Kind> {
    let all = properties
        .iter()
        .map(|(key, property)| (key, Some(property)));
    in_frames(target, all)
}

fn changed(target: &Target, changes: &[Changed]) -> impl Iterator<Item = room_event::Kind> {
    let all = changes
        .iter()
        .map(|changed| (&changed.key, changed.property.as_ref()));
    in_frames(target, all).into_iter()
}

/// As few frames as hold it all.
fn in_frames<'a>(
    target: &Target,
    properties: impl Iterator<Item = (&'a PropertyKey, Option<&'a Property>)>,
) -> Vec<room_event::Kind> {
    let (member, object) = match target {
        Target::Room => (String::new(), 0),
        Target::Member(user) => (user.to_string(), 0),
        Target::Object(id) => (String::new(), id.0),
    };
    let empty = v1::PropertiesChanged {
        member,
        object,
        ..v1::PropertiesChanged::default()
    };
    let (mut frames, mut frame, mut bytes) = (Vec::new(), empty.clone(), 0);
    for (key, property) in properties {
        let property = property.map(|property| property.to_wire(key));
        let more = property
            .as_ref()
            .map_or(key.as_str().len(), v1::Property::encoded_len);
        if bytes > 0 && bytes + more > PAGE_BYTES_MAX {
            frames.push(std::mem::replace(&mut frame, empty.clone()));
            bytes = 0;
        }
        bytes += more;
        match property {
            Some(property) => frame.set.push(property),
            None => frame.deleted.push(key.to_string()),
        }
    }
    if bytes > 0 {
        frames.push(frame);
    }
    let frames = frames.into_iter();
    frames.map(room_event::Kind::Properties).collect()
}

fn name(user: Option<&UserId>) -> String {
    user.map_or_else(String::new, UserId::to_string)
}

/// The most durable messages in one answer.
const HISTORY_PAGE_MAX: usize = 100;

/// As much of a room as is told in one frame, with room for the frame around it.
const PAGE_BYTES_MAX: usize = 80 * 1024;

/// A room as it is, and all that happens in it in one moment, such as properties that expire, has a place among
/// what waits for a device.
const _: () = assert!(
    tombolo_room::OBJECTS_MAX
        + tombolo_room::HISTORY_MAX
        + ROOM_MEMBERS_MAX as usize
        + 2 * tombolo_room::PROPERTY_BYTES_MAX / PAGE_BYTES_MAX
        + 64
        < FRAMES_MAX
);

const _: () = assert!(
    PAGE_BYTES_MAX + 1024 < tombolo_wire::frame::FRAME_BYTES_MAX
        && tombolo_room::PAYLOAD_BYTES_MAX + 1024 < PAGE_BYTES_MAX
        && tombolo_room::VALUE_BYTES_MAX + 1024 < PAGE_BYTES_MAX
);
