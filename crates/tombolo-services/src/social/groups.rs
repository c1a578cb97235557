//! Groups: who is in one, and what was said there, for as long as the engine lasts.
//!
//! A group is three kinds of logs ([`find`]): its own, with settings and the number of the segment that
//! is written to; rosters of members, a tree that grows with the group; and segments of posts. A node
//! reads of them what its sessions need: one roster for each of its members, and the segment where they
//! are. A session that has a group open is told by a task of its own ([`tell`]).

mod find;
mod list;
mod made;
mod members;
mod open;
mod operate;
mod tell;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message as _;
use tombolo_social::group::{self, Role, Settings};
use tombolo_social::roster::{self, Actor, Member};
use tombolo_social::segment::{PAYLOAD_BYTES_MAX, POSTS_MAX, Post};
use tombolo_social::{EntryError, MessageId, Place};
use tombolo_wire::v1::{self, ErrorCode, group_request, group_response, social_response};
use tombolo_wire::{GroupName, UserId};

use super::{PAGE_BYTES_MAX, answer, bad_frame, direct, take, take_bytes, too_much};
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;
use find::{Found, Posted};
pub(super) use find::{GROUPS, POSTS, ROSTERS};
pub(super) use open::OpenGroups;
pub use operate::{GroupOwner, GroupOwners, GroupView};
use tell::Telling;

/// A request that was found to be in order.
pub(crate) struct GroupRequest(Asked);

enum Asked {
    /// Which groups the user is in.
    List(v1::ListGroups),
    /// About one.
    Of(GroupName, Kind),
}

enum Kind {
    Create(Settings),
    Open { after: Option<Place> },
    Close,
    Inside(Inside),
}

/// What is done in a group that is there.
enum Inside {
    Join,
    Leave,
    Post {
        id: MessageId,
        payload: Bytes,
    },
    History {
        before: u64,
        limit: usize,
    },
    Members {
        after: members::Cursor,
        limit: usize,
    },
    Govern(Govern),
}

/// What some roles allow.
enum Govern {
    Add(UserId),
    Remove { user: UserId, is_ban: bool },
    Unban(UserId),
    SetRole { user: UserId, role: String },
    Configure(Settings),
    End,
}

pub(super) fn parse(
    session: &Session,
    request: v1::GroupRequest,
    now: Instant,
) -> Result<GroupRequest, Reject> {
    let kind = request.kind;
    let kind = kind.ok_or_else(|| bad_frame("the request asks for nothing known"))?;
    if let group_request::Kind::List(list) = kind {
        // Each of the groups is looked into.
        take(session, now)?;
        return Ok(GroupRequest(Asked::List(list)));
    }
    let group = GroupName::parse(&request.group);
    let group = group.map_err(|error| Reject::new(error.code(), error))?;
    let kind = parse_kind(kind)?;
    match kind {
        Kind::Create(_) => {
            take(session, now)?;
            if !session.account().groups.take(now, 1) {
                return Err(Reject::new(ErrorCode::Limit, "too many new groups"));
            }
        }
        Kind::Open { .. } | Kind::Inside(Inside::History { .. } | Inside::Members { .. }) => {
            if !session.account().group_reads.take(now, 1) {
                return Err(too_much());
            }
        }
        Kind::Close => {}
        Kind::Inside(Inside::Post { ref payload, .. }) => take_bytes(session, now, payload.len())?,
        Kind::Inside(Inside::Join | Inside::Leave | Inside::Govern(_)) => take(session, now)?,
    }
    Ok(GroupRequest(Asked::Of(group, kind)))
}

fn parse_kind(kind: group_request::Kind) -> Result<Kind, Reject> {
    use group_request::Kind as On;

    let limit = |limit: u32| match limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let govern = |govern| Kind::Inside(Inside::Govern(govern));
    Ok(match kind {
        On::Create(create) => Kind::Create(parse_settings(create.settings.unwrap_or_default())?),
        On::Open(open) => {
            let parse = |place| Place::parse(place).ok_or_else(|| bad_frame("that is no place"));
            let after = open.after.as_ref().map(parse).transpose()?;
            Kind::Open { after }
        }
        On::Close(v1::CloseGroup {}) => Kind::Close,
        On::Join(v1::JoinGroup {}) => Kind::Inside(Inside::Join),
        On::Leave(v1::LeaveGroup {}) => Kind::Inside(Inside::Leave),
        On::Post(post) => Kind::Inside(parse_post(post)?),
        On::History(history) => Kind::Inside(Inside::History {
            before: match history.before {
                0 => u64::MAX,
                before => before,
            },
            limit: limit(history.limit),
        }),
        On::Members(members) => Kind::Inside(Inside::Members {
            after: members::Cursor::parse(&members.after)?,
            limit: limit(members.limit),
        }),
        On::Add(add) => govern(Govern::Add(parse_user(&add.user)?)),
        On::Remove(remove) => govern(Govern::Remove {
            user: parse_user(&remove.user)?,
            is_ban: remove.ban,
        }),
        On::Unban(unban) => govern(Govern::Unban(parse_user(&unban.user)?)),
        On::SetRole(set) => govern(Govern::SetRole {
            user: parse_user(&set.user)?,
            role: set.role,
        }),
        On::Configure(settings) => govern(Govern::Configure(parse_settings(settings)?)),
        On::End(v1::EndGroup {}) => govern(Govern::End),
        On::List(_) => return Err(bad_frame("a list is of no group")),
    })
}

fn parse_post(post: v1::GroupPost) -> Result<Inside, Reject> {
    let id = post.id.as_ref().try_into();
    let id = MessageId(id.map_err(|_| bad_frame("a post's id has 16 bytes"))?);
    if post.payload.len() > PAYLOAD_BYTES_MAX {
        let message = format!("a post has at most {PAYLOAD_BYTES_MAX} bytes");
        return Err(Reject::new(ErrorCode::TooLarge, message));
    }
    let payload = post.payload;
    Ok(Inside::Post { id, payload })
}

/// Who names no roles gets the usual ones.
fn parse_settings(mut settings: v1::GroupSettings) -> Result<Settings, Reject> {
    if settings.roles.is_empty() {
        settings.roles = v1::GroupSettings::from(&Settings::default()).roles;
    }
    Settings::parse(settings).map_err(|error| match error {
        EntryError::TooLong => Reject::new(ErrorCode::TooLarge, "the settings say too much"),
        EntryError::Malformed | EntryError::Version { .. } | _ => {
            bad_frame("a group has two roles at least, with names of their own")
        }
    })
}

fn parse_user(user: &str) -> Result<UserId, Reject> {
    UserId::parse(user).map_err(|error| Reject::new(error.code(), error))
}

pub(super) async fn carry_out(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    request: GroupRequest,
    open: &mut OpenGroups,
) -> Result<(), Reject> {
    let (group, kind) = match request.0 {
        Asked::Of(group, kind) => (group, kind),
        Asked::List(wanted) => {
            let response = v1::GroupResponse {
                group: String::new(),
                result: Some(list::page(node, &session.user, &wanted).await?),
            };
            answer(node, session, id, social_response::Result::Group(response));
            return Ok(());
        }
    };
    let result = match kind {
        Kind::Create(settings) => {
            create(node, &group, &session.user, settings).await?;
            list::note(node, &session.user, &group, true).await;
            done()
        }
        Kind::Open { after } => {
            begin(node, session, id, group, after, open).await?;
            return Ok(());
        }
        Kind::Close => {
            open.remove(&group);
            done()
        }
        Kind::Inside(inside) => {
            let found = Found::begin(node, &group).await?;
            in_group(node, session, &group, &found, inside).await?
        }
    };
    respond(node, session, id, &group, result);
    Ok(())
}

async fn create(
    node: &Arc<Node>,
    group: &GroupName,
    user: &UserId,
    settings: Settings,
) -> Result<(), Reject> {
    let vacant = find::Vacant::begin(node, group).await?;
    made::claim(node, user, group).await?;
    let created = vacant.create(node, user, settings).await;
    // Another device of the user may have been faster.
    if let Err(reject) = &created
        && reject.code != ErrorCode::Unsure
        && !vacant.is_made_by(user)
    {
        made::release(node, user, group).await;
    }
    created
}

/// Ends a group for all.
async fn end(node: &Arc<Node>, group: &GroupName, found: &Found) -> Result<(), Reject> {
    let (owner, _) = found.made()?;
    found.change(node, group::Body::Closed).await?;
    made::release(node, &owner, group).await;
    find::begin_to_forget(node, found.clone());
    Ok(())
}

fn done() -> group_response::Result {
    group_response::Result::Done(v1::GroupDone {})
}

fn respond(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    group: &GroupName,
    result: group_response::Result,
) {
    let response = v1::GroupResponse {
        group: group.to_string(),
        result: Some(result),
    };
    answer(node, session, id, social_response::Result::Group(response));
}

/// What is done in a group that is there.
async fn in_group(
    node: &Arc<Node>,
    session: &Session,
    group: &GroupName,
    found: &Found,
    inside: Inside,
) -> Result<group_response::Result, Reject> {
    let me = &session.user;
    match inside {
        Inside::Join => {
            let settings = found.settings()?;
            if !settings.is_open {
                return Err(not_permitted("only members let others into this group"));
            }
            let role = settings.newcomers();
            let join = roster::Body::Joined {
                user: me.clone(),
                role,
            };
            match find::act(node, found, me, None, join).await? {
                // Whoever asks twice is in it all the same.
                Ok(()) | Err(roster::Illegal::Member) => {}
                Err(illegal) => return Err(reject(illegal)),
            }
            list::note(node, me, group, true).await;
        }
        Inside::Leave => {
            match find::act(node, found, me, None, roster::Body::Left(me.clone())).await? {
                Ok(()) | Err(roster::Illegal::NotMember) => {}
                Err(illegal) => return Err(reject(illegal)),
            }
            list::note(node, me, group, false).await;
        }
        Inside::Post { id, payload } => {
            may(node, found, me, |role| role.may_post).await?;
            let Posted { number, done } = find::post(node, found, Some(me), id, payload).await?;
            node.counters.posts.add(u64::from(!done.is_repeated));
            return Ok(group_response::Result::Posted(v1::GroupPosted {
                number,
                time_ms: done.time.as_millis(),
                repeated: done.is_repeated,
            }));
        }
        Inside::History { before, limit } => {
            member(node, found, me).await?;
            let page = history(node, found, before, limit).await?;
            return Ok(group_response::Result::History(page));
        }
        Inside::Members { after, limit } => {
            member(node, found, me).await?;
            let page = members::page(node, found, after, limit).await?;
            return Ok(group_response::Result::Members(page));
        }
        Inside::Govern(wanted) => govern(node, me, group, found, wanted).await?,
    }
    Ok(done())
}

async fn govern(
    node: &Arc<Node>,
    me: &UserId,
    group: &GroupName,
    found: &Found,
    wanted: Govern,
) -> Result<(), Reject> {
    match wanted {
        Govern::Configure(settings) => {
            let by = may(node, found, me, |role| role.may_configure).await?;
            // Else a role could give itself what it may not do.
            if by.role != 0 && settings.roles != found.settings()?.roles {
                return Err(not_permitted("only an owner says what roles may do"));
            }
            found
                .change(node, group::Body::Configured(settings))
                .await?;
        }
        Govern::End => {
            may(node, found, me, |role| role.may_close).await?;
            end(node, group, found).await?;
        }
        Govern::Add(user) => {
            may(node, found, me, |role| role.may_add).await?;
            direct::hears(node, &user, me).await?;
            let role = found.settings()?.newcomers();
            let join = roster::Body::Joined {
                user: user.clone(),
                role,
            };
            by_member(node, found, &user, None, join).await?;
            list::note(node, &user, group, true).await;
        }
        Govern::Remove { user, is_ban } => {
            let by = may(node, found, me, |role| role.may_remove).await?;
            let body = if is_ban {
                roster::Body::Banned(user.clone())
            } else {
                roster::Body::Removed(user.clone())
            };
            by_member(node, found, &user, Some((me, by)), body).await?;
            list::note(node, &user, group, false).await;
        }
        Govern::Unban(user) => {
            let by = may(node, found, me, |role| role.may_add).await?;
            let body = roster::Body::Unbanned(user.clone());
            by_member(node, found, &user, Some((me, by)), body).await?;
        }
        Govern::SetRole { user, role } => {
            let role = found.settings()?.role(&role);
            let role = role.ok_or_else(|| no_such("the group has no such role"))?;
            let by = if user == *me {
                // Stepping down takes no permission; the roster sees to it that it is down.
                member(node, found, me).await?
            } else {
                may(node, found, me, |role| role.may_promote).await?
            };
            let body = roster::Body::RoleSet {
                user: user.clone(),
                role,
            };
            by_member(node, found, &user, Some((me, by)), body).await?;
        }
    }
    Ok(())
}

async fn by_member(
    node: &Arc<Node>,
    found: &Found,
    user: &UserId,
    by: Option<(&UserId, Member)>,
    body: roster::Body,
) -> Result<(), Reject> {
    let by = by.map(|(user, member)| Actor {
        user: user.clone(),
        role: member.role,
    });
    find::act(node, found, user, by, body)
        .await?
        .map_err(reject)
}

/// How a user is a member.
async fn member(node: &Arc<Node>, found: &Found, user: &UserId) -> Result<Member, Reject> {
    let leaf = found.roster(node, user).await?;
    let member = leaf.roster.lock().machine.member(user);
    member.ok_or_else(|| Reject::new(ErrorCode::NotAMember, "you are no member of the group"))
}

/// How a user is a member, if its role lets it; an owner may do all.
async fn may(
    node: &Arc<Node>,
    found: &Found,
    user: &UserId,
    permission: fn(&Role) -> bool,
) -> Result<Member, Reject> {
    let member = member(node, found, user).await?;
    let settings = found.settings()?;
    let number = usize::try_from(member.role).unwrap_or(usize::MAX);
    if number == 0 || settings.roles.get(number).is_some_and(permission) {
        Ok(member)
    } else {
        Err(not_permitted("your role does not allow that"))
    }
}

/// Begins to tell a session of a group.
async fn begin(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    group: GroupName,
    after: Option<Place>,
    open: &mut OpenGroups,
) -> Result<(), Reject> {
    // Whoever opens it again is told anew, from where it says.
    open.remove(&group);
    let place = open.take_place(node, session, &group)?;
    let found = Found::begin(node, &group).await?;
    let user = &session.user;
    let member = member(node, &found, user).await?;
    list::note(node, user, &group, true).await;
    let (settings, revision) = (found.settings()?, found.revision());
    let epoch = found.epoch;
    if let Some(after) = after.filter(|after| after.epoch == epoch) {
        found.reach(node, after.offset).await?;
    }
    let last = found.last(node).await?;
    let lost = found.lost();
    let is_recovered =
        after.is_some_and(|after| after.epoch == epoch && (lost..=last).contains(&after.offset));
    let cursor = match after {
        Some(after) if is_recovered => after.offset,
        Some(_) | None => last,
    };
    let leaf = found.roster(node, user).await?;
    let opened = v1::GroupOpened {
        settings: Some(v1::GroupSettings::from(&settings)),
        role: role_name(&settings, member.role),
        last: Some(v1::Place::from(Place {
            epoch,
            offset: last,
        })),
        recovered: is_recovered,
        members_about: leaf.members_about(),
    };
    respond(
        node,
        session,
        id,
        &group,
        group_response::Result::Opened(opened),
    );
    let known = tell::Known {
        cursor,
        role: member.role,
        revision,
    };
    let telling = Telling::begin(node, session, found, known);
    open.insert(group, telling, place);
    Ok(())
}

fn role_name(settings: &Settings, number: u32) -> String {
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    let role = settings.roles.get(number);
    role.map_or_else(String::new, |role| role.name.clone())
}

/// As many posts before a number as are asked for and fit into a frame.
async fn history(
    node: &Arc<Node>,
    found: &Found,
    before: u64,
    limit: usize,
) -> Result<v1::GroupPage, Reject> {
    let mut before = before.min(found.last(node).await?.saturating_add(1));
    let (lost, mut bytes) = (found.lost(), 0);
    let mut page = v1::GroupPage::default();
    while before > lost + 1 {
        let segment = found.segment(node, find::segment_of(before - 1)).await?;
        let first = find::number(find::segment_of(before - 1), 0);
        let state = segment.lock();
        let posts = state.machine.posts().iter().enumerate().rev();
        for (index, post) in posts.skip_while(|(index, _)| first + *index as u64 >= before) {
            let message = on_wire(first + index as u64, post);
            bytes += message.encoded_len() + FIELD_BYTES_MAX;
            if page.messages.len() >= limit || bytes > PAGE_BYTES_MAX {
                page.more = true;
                return Ok(page);
            }
            page.messages.push(message);
        }
        before = first;
    }
    Ok(page)
}

fn on_wire(number: u64, post: &Post) -> v1::GroupMessage {
    let from = post.from.as_ref();
    v1::GroupMessage {
        number,
        time_ms: post.time.as_millis(),
        from: from.map_or_else(String::new, ToString::to_string),
        id: Bytes::copy_from_slice(&post.id.0),
        payload: post.payload.clone(),
    }
}

fn not_permitted(message: &str) -> Reject {
    Reject::new(ErrorCode::NotPermitted, message)
}

fn no_such(message: &str) -> Reject {
    Reject::new(ErrorCode::NoSuchThing, message)
}

fn reject(illegal: roster::Illegal) -> Reject {
    use roster::Illegal;

    let code = match illegal {
        Illegal::Member => ErrorCode::Conflict,
        Illegal::NotMember => ErrorCode::NoSuchMember,
        Illegal::Banned => ErrorCode::Banned,
        Illegal::Rank | Illegal::Owner => ErrorCode::NotPermitted,
        Illegal::Unseeded | Illegal::Split | Illegal::Full | Illegal::Small | _ => {
            ErrorCode::Unavailable
        }
    };
    Reject::new(code, illegal)
}

fn reject_group(illegal: group::Illegal) -> Reject {
    use group::Illegal;

    let code = match illegal {
        Illegal::Exists => ErrorCode::GroupExists,
        Illegal::NoSuchGroup => ErrorCode::NoSuchGroup,
        Illegal::Roles => ErrorCode::Conflict,
        Illegal::Segment | _ => ErrorCode::Unavailable,
    };
    Reject::new(code, illegal)
}

/// Of a message in a page, beside itself.
const FIELD_BYTES_MAX: usize = 4;

const _: () = assert!(PAYLOAD_BYTES_MAX + 256 < PAGE_BYTES_MAX && POSTS_MAX > 0);
