//! Who is online: what devices ask, and what their sessions say.
//!
//! Nothing of it is kept by the engine. [`exchange`] brings what nodes tell each other over the bus.

mod exchange;
mod frame;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tombolo_engine::latest;
use tombolo_room::SessionId;
use tombolo_social::presence::{Counts, DeviceChange, DeviceId, Limits, Own, Status, Watch};
use tombolo_wire::UserId;
use tombolo_wire::v1::{
    self, ErrorCode, presence_request, presence_response, social_event, social_response,
};

use super::{answer, bad_frame, event, take};
use crate::config::Config;
use crate::events::SessionEvent;
use crate::lock::lock;
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;

pub(crate) use exchange::run;

/// What one node knows of who is online.
pub(crate) struct Presence {
    own: Mutex<Own>,
    watch: Mutex<Watch>,
    /// Wakes whoever tells others.
    wake: Notify,
    /// Changes when something was heard.
    progress: latest::Sender<()>,
}

/// A request that was found to be in order.
pub(crate) enum PresenceRequest {
    SetAway(bool),
    Follow(BTreeSet<UserId>),
    Unfollow(BTreeSet<UserId>),
    Count,
}

/// A device that is told of others for as long as this is held.
pub(crate) struct Following {
    node: Arc<Node>,
    device: DeviceId,
}

impl Drop for Following {
    fn drop(&mut self) {
        let now = Instant::now().into_std();
        self.node
            .social
            .presence
            .watch()
            .handle_gone(now, self.device);
        self.node.social.presence.wake.notify_one();
    }
}

impl Presence {
    pub(super) fn new(config: &Config) -> Self {
        let limits = Limits {
            grace: config.presence_grace,
            follows_per_device_max: config.follows_per_session_max,
            follows_max: config.follows_max,
        };
        Self {
            own: Mutex::default(),
            watch: Mutex::new(Watch::new(limits)),
            wake: Notify::new(),
            progress: latest::Sender::new(()),
        }
    }

    /// Takes in what has become of a session. Its lock is held.
    pub(crate) fn on_session(&self, event: SessionEvent, session: &Session) {
        let change = match event {
            SessionEvent::Began => DeviceChange::Came,
            SessionEvent::Dropped => DeviceChange::Lost,
            SessionEvent::Returned => DeviceChange::Returned,
            SessionEvent::Ended | SessionEvent::Moved => DeviceChange::Gone,
        };
        self.change(session, change);
    }

    /// Other nodes have come or gone.
    pub(crate) fn on_nodes(&self) {
        self.wake.notify_one();
    }

    fn change(&self, session: &Session, change: DeviceChange) {
        lock(&self.own).handle_device(&session.user, device_of(session), change);
        self.wake.notify_one();
    }

    pub(crate) fn counts(&self) -> Counts {
        self.watch().counts()
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        lock(&self.watch)
    }
}

pub(super) fn parse(
    session: &Session,
    request: v1::PresenceRequest,
    now: std::time::Instant,
) -> Result<PresenceRequest, Reject> {
    use presence_request::Kind;

    let kind = request
        .kind
        .ok_or_else(|| bad_frame("the request asks for nothing known"))?;
    let request = match kind {
        Kind::SetAway(v1::SetAway { away }) => PresenceRequest::SetAway(away),
        Kind::Follow(v1::FollowUsers { users }) => PresenceRequest::Follow(parse_users(&users)?),
        Kind::Unfollow(v1::UnfollowUsers { users }) => {
            PresenceRequest::Unfollow(parse_users(&users)?)
        }
        Kind::Count(v1::CountUsers {}) => return Ok(PresenceRequest::Count),
    };
    // Nodes tell each other of it.
    take(session, now)?;
    Ok(request)
}

fn parse_users(users: &[String]) -> Result<BTreeSet<UserId>, Reject> {
    if users.len() > USERS_PER_REQUEST_MAX {
        let message = format!("a request names at most {USERS_PER_REQUEST_MAX} users");
        return Err(Reject::new(ErrorCode::TooLarge, message));
    }
    let parse =
        |user: &String| UserId::parse(user).map_err(|error| Reject::new(error.code(), error));
    users.iter().map(parse).collect()
}

pub(super) async fn carry_out(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    request: PresenceRequest,
    following: &mut Option<Following>,
) -> Result<(), Reject> {
    let presence = &node.social.presence;
    let done = presence_response::Result::Done(v1::PresenceDone {});
    let now = Instant::now().into_std();
    let result = match request {
        PresenceRequest::SetAway(is_away) => {
            let change = if is_away {
                DeviceChange::Away
            } else {
                DeviceChange::Active
            };
            presence.change(session, change);
            done
        }
        PresenceRequest::Follow(users) => {
            return follow(node, session, id, &users, following).await;
        }
        PresenceRequest::Unfollow(users) => {
            let device = device_of(session);
            let mut watch = presence.watch();
            watch.handle_unfollow(now, device, &users);
            let follows_nobody = !watch.is_following(device);
            drop(watch);
            if follows_nobody {
                *following = None;
            }
            presence.wake.notify_one();
            done
        }
        PresenceRequest::Count => {
            let counts = counts_on_wire(presence.counts());
            presence_response::Result::Counts(counts)
        }
    };
    respond(node, session, id, result);
    Ok(())
}

async fn follow(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    users: &BTreeSet<UserId>,
    following: &mut Option<Following>,
) -> Result<(), Reject> {
    let (presence, device) = (&node.social.presence, device_of(session));
    let now = Instant::now().into_std();
    following.get_or_insert_with(|| Following {
        node: Arc::clone(node),
        device,
    });
    let followed = presence.watch().handle_follow(now, device, users);
    followed.map_err(|too_many| Reject::new(ErrorCode::Limit, too_many))?;
    presence.wake.notify_one();
    let mut progress = presence.progress.subscribe();
    let current =
        async { while !presence.watch().is_current(users) && progress.changed().await.is_ok() {} };
    // Of nodes that do not answer in time it is told when they do.
    let _ = tokio::time::timeout(ANSWERS_TIMEOUT, current).await;
    // What changes from now on is told after the answer.
    let mut watch = presence.watch();
    let statuses = users.iter().map(|user| (user.clone(), watch.status(user)));
    let statuses: Vec<_> = statuses.collect();
    watch.handle_told(device, &statuses);
    let there = statuses
        .iter()
        .filter(|(_, status)| *status != Status::Offline);
    let users = there
        .map(|(user, status)| status_on_wire(user, *status))
        .collect();
    let result = presence_response::Result::Following(v1::UserStatuses { users });
    respond(node, session, id, result);
    drop(watch);
    Ok(())
}

fn respond(node: &Arc<Node>, session: &Arc<Session>, id: u64, result: presence_response::Result) {
    let response = v1::PresenceResponse {
        result: Some(result),
    };
    answer(
        node,
        session,
        id,
        social_response::Result::Presence(response),
    );
}

/// Tells devices what they have not been told; whether some cannot take more at the moment.
fn tell(node: &Arc<Node>) -> bool {
    let mut watch = node.social.presence.watch();
    let restless: Vec<_> = watch.restless().collect();
    let mut is_behind = false;
    for device in restless {
        // One that may go to another node may come back, and follows nobody anew then.
        let session = lock(&node.sessions).wherever(&SessionId(device.0));
        let news = watch.news_of(device, NEWS_USERS_MAX);
        let Some(session) = session.filter(|_| !news.is_empty()) else {
            watch.handle_told(device, &news);
            continue;
        };
        let users = news.iter();
        let users = users
            .map(|(user, status)| status_on_wire(user, *status))
            .collect();
        let told = event(social_event::Kind::Presence(v1::UserStatuses { users }));
        match node.push_from_log(&session, told) {
            Ok(()) => watch.handle_told(device, &news),
            Err(_) => is_behind = true,
        }
    }
    is_behind || watch.restless().next().is_some()
}

fn device_of(session: &Session) -> DeviceId {
    DeviceId(session.id.0)
}

fn status_on_wire(user: &UserId, status: Status) -> v1::UserStatus {
    let presence = match status {
        Status::Offline => v1::Presence::Offline,
        Status::Away => v1::Presence::Away,
        Status::Online => v1::Presence::Online,
    };
    v1::UserStatus {
        user: user.to_string(),
        presence: presence.into(),
    }
}

fn counts_on_wire(counts: Counts) -> v1::UserCounts {
    v1::UserCounts {
        online: counts.online,
        away: counts.away,
    }
}

/// Users that one request names.
const USERS_PER_REQUEST_MAX: usize = 1_000;

/// Users in one event.
const NEWS_USERS_MAX: usize = 256;

/// How long an answer waits for what other nodes say.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);

const _: () =
    assert!(USERS_PER_REQUEST_MAX * (tombolo_wire::USER_BYTES_MAX + 8) <= super::PAGE_BYTES_MAX);
