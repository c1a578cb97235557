//! What reaches users wherever they are: direct messages and groups, and who is online.
//!
//! Each thing is a state machine of `tombolo-social` fed by a log of its own, and is read on a node for as long as
//! somebody here needs it ([`follower`]). A session that wants to be told of it has a listener there,
//! which knows up to where it has been told; what a slow device cannot take waits in the thing itself.
//! So nothing is queued for devices here, and nothing can be left out: who has missed something is told
//! from where it was, or that it is lost.

mod direct;
mod follower;
mod groups;
mod notices;
mod presence;

use std::sync::Arc;

use tombolo_engine::LogShare;
use tombolo_social::board::Board;
use tombolo_social::group::Group;
use tombolo_social::inbox::Inbox;
use tombolo_social::roster::Roster;
use tombolo_social::segment::Segment;
use tombolo_social::{OperationId, Place};
use tombolo_wire::frame::FRAME_BYTES_MAX;
use tombolo_wire::v1::{self, ErrorCode, response, server_frame, social_request, social_response};

use crate::config::Config;
use crate::entropy::NoEntropy;
use crate::node::Node;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;
use follower::{Followers, Listening};

pub(crate) use direct::DirectRequest;
pub(crate) use groups::GroupRequest;
pub use groups::{GroupOwner, GroupOwners, GroupView};
pub(crate) use notices::NoticeRequest;
pub use notices::Notified;
pub(crate) use presence::{PresenceRequest, run as exchange_presence};

/// How much a [`Local`](tombolo_engine::Local) engine keeps of what users say: rooms have place whatever that is, inboxes whatever groups do.
pub const LOG_SHARES: [LogShare; 4] = [
    LogShare {
        kind: direct::INBOXES,
        percent: 25,
    },
    LogShare {
        kind: groups::POSTS,
        percent: 25,
    },
    LogShare {
        kind: groups::ROSTERS,
        percent: 15,
    },
    LogShare {
        kind: groups::GROUPS,
        percent: 10,
    },
];

/// What one node reads.
pub(crate) struct Social {
    inboxes: Followers<Inbox>,
    groups: Followers<Group>,
    rosters: Followers<Roster>,
    segments: Followers<Segment>,
    boards: Followers<Board>,
    tellers: notices::Tellers,
    pub(crate) presence: presence::Presence,
}

impl Social {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            inboxes: Followers::default(),
            groups: Followers::default(),
            rosters: Followers::default(),
            segments: Followers::default(),
            boards: Followers::default(),
            tellers: notices::Tellers::new(config),
            presence: presence::Presence::new(config),
        }
    }

    /// How many logs are read.
    pub(crate) fn logs(&self) -> usize {
        let of_groups = self.groups.len() + self.rosters.len() + self.segments.len();
        self.inboxes.len() + of_groups + self.boards.len()
    }
}

/// What a session is told of; it ends with the session.
#[derive(Default)]
pub(crate) struct Open {
    inbox: Option<Listening<Inbox>>,
    groups: groups::OpenGroups,
    following: Option<presence::Following>,
    boards: notices::OpenBoards,
}

impl Open {
    pub(crate) fn is_empty(&self) -> bool {
        self.inbox.is_none()
            && self.groups.is_empty()
            && self.following.is_none()
            && self.boards.is_empty()
    }
}

/// A request that was found to be in order.
pub(crate) enum SocialRequest {
    Direct(DirectRequest),
    Group(GroupRequest),
    Presence(PresenceRequest),
    Notices(NoticeRequest),
}

/// Reads a request.
pub(crate) fn parse(
    session: &Session,
    request: v1::SocialRequest,
    now: std::time::Instant,
) -> Result<SocialRequest, Reject> {
    match request.kind {
        Some(social_request::Kind::Direct(direct)) => {
            direct::parse(session, direct, now).map(SocialRequest::Direct)
        }
        Some(social_request::Kind::Group(group)) => {
            groups::parse(session, group, now).map(SocialRequest::Group)
        }
        Some(social_request::Kind::Presence(request)) => {
            presence::parse(session, request, now).map(SocialRequest::Presence)
        }
        Some(social_request::Kind::Notices(request)) => {
            notices::parse(session, request, now).map(SocialRequest::Notices)
        }
        None => Err(bad_frame("the request asks for nothing known")),
    }
}

/// Carries a request out and answers it, unless it fails.
pub(crate) async fn carry_out(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    request: SocialRequest,
    open: &mut Open,
) -> Result<(), Reject> {
    match request {
        SocialRequest::Direct(request) => {
            direct::carry_out(node, session, id, request, &mut open.inbox).await
        }
        SocialRequest::Group(request) => {
            groups::carry_out(node, session, id, request, &mut open.groups).await
        }
        SocialRequest::Notices(request) => {
            notices::carry_out(node, session, id, request, &mut open.boards).await
        }
        SocialRequest::Presence(request) => {
            presence::carry_out(node, session, id, request, &mut open.following).await
        }
    }
}

/// What a device is told when the log has lost what it knew, and numbers come again: first that it is nowhere,
/// since within one count places only go forward, then where it is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Back {
    #[default]
    Told,
    Where,
    Nowhere,
}

impl Back {
    fn begin(&mut self) {
        *self = Self::Nowhere;
    }

    /// What is to be told next.
    fn next(self, at: Place) -> Option<Option<Place>> {
        match self {
            Self::Told => None,
            Self::Where => Some(Some(at)),
            Self::Nowhere => Some(None),
        }
    }

    /// That was told.
    fn go_on(&mut self) {
        *self = match self {
            Self::Nowhere => Self::Where,
            Self::Where | Self::Told => Self::Told,
        };
    }
}

/// Whether a place of which somebody was told has been read, or is none any more.
fn is_there(last: Option<Place>, told: Place) -> bool {
    last.is_some_and(|last| last.epoch != told.epoch || last.offset >= told.offset)
}

fn answer(node: &Arc<Node>, session: &Arc<Session>, id: u64, result: social_response::Result) {
    let response = v1::SocialResponse {
        result: Some(result),
    };
    let body = requests::answer(id, response::Result::Social(response));
    node.push(session, body);
}

fn event(kind: v1::social_event::Kind) -> server_frame::Body {
    server_frame::Body::Social(v1::SocialEvent { kind: Some(kind) })
}

fn operation_id(node: &Node) -> Result<OperationId, Reject> {
    match node.config.entropy.operation_id() {
        Ok(id) => Ok(OperationId(id.0)),
        Err(NoEntropy) => Err(unavailable("no entropy")),
    }
}

fn time(node: &Node) -> tombolo_social::Time {
    tombolo_social::Time::from_millis(node.time().as_millis())
}

/// What is written to a log is paid for by its user.
fn take(session: &Session, now: std::time::Instant) -> Result<(), Reject> {
    if session.account().directs.take(now, 1) {
        Ok(())
    } else {
        Err(too_much())
    }
}

/// So are its bytes.
fn take_bytes(session: &Session, now: std::time::Instant, bytes: usize) -> Result<(), Reject> {
    take(session, now)?;
    let mut account = session.account();
    match account.direct_bytes.take(now, bytes) {
        true => Ok(()),
        false => Err(Reject::new(
            ErrorCode::Limit,
            format!(
                "a user says at most {} bytes a second that are kept: try again later",
                account.direct_bytes.per_second()
            ),
        )),
    }
}

fn too_much() -> Reject {
    Reject::new(ErrorCode::Limit, "too much at once: try again later")
}

fn bad_frame(message: &str) -> Reject {
    Reject::new(ErrorCode::BadFrame, message)
}

fn unavailable(message: &str) -> Reject {
    Reject::new(ErrorCode::Unavailable, message)
}

/// Of a step on the way to what was asked for: that has not been done, whatever became of the step.
fn on_the_way(reject: Reject) -> Reject {
    if reject.code == ErrorCode::Unsure {
        return unavailable(&reject.message);
    }
    reject
}

/// Of what answers with many things, with room for the frame around them.
const PAGE_BYTES_MAX: usize = FRAME_BYTES_MAX - 64;
