//! What reaches the user wherever it is: direct messages and groups, and who is online.

mod direct;
mod feed;
mod groups;
mod notices;
mod presence;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tombolo_social::Place;
use tombolo_wire::GroupName;
use tombolo_wire::v1::{
    self, direct_response, group_response, notice_response, presence_request, presence_response,
    social_event, social_request, social_response,
};

use direct::InboxState;
pub use direct::{Direct, DirectHistory, DirectMessage, DirectSent, Inbox, InboxEvent};
use groups::GroupState;
pub use groups::{
    Group, GroupEvent, GroupHistory, GroupList, GroupMember, GroupMembers, GroupMessage,
    GroupPosted, GroupRole, GroupSettings, Groups, ListedGroup,
};

use notices::NoticesState;
pub use notices::{Notice, Notification, Notifications};
use presence::WatchState;
pub use presence::{Presence, PresenceStatus, PresenceWatch, UserCounts};

use crate::error::Error;
use crate::session;

/// What a device is told of.
#[derive(Debug, Default)]
pub(crate) struct Social {
    inbox: Mutex<Option<Arc<InboxState>>>,
    groups: Mutex<BTreeMap<GroupName, Arc<GroupState>>>,
    watch: Mutex<Option<Arc<WatchState>>>,
    /// Held by the question how users are that waits for its answer, whoever has asked.
    following: Arc<tokio::sync::Mutex<()>>,
    notices: Mutex<Option<Arc<NoticesState>>>,
    /// Nobody looks at the device.
    is_away: AtomicBool,
}

impl Social {
    /// Takes in what the node tells.
    pub(crate) fn on_event(&self, event: v1::SocialEvent) {
        match event.kind {
            Some(social_event::Kind::Direct(event)) => {
                if let Some(inbox) = &*self.inbox() {
                    inbox.on_event(event);
                }
            }
            Some(social_event::Kind::Group(v1::GroupEvent {
                group,
                kind: Some(kind),
            })) => {
                if let Some(state) = self.groups().get(group.as_str()) {
                    state.on_event(kind);
                }
            }
            Some(social_event::Kind::Notice(event)) => {
                if let Some(notices) = &*self.notices() {
                    notices.on_event(event);
                }
            }
            Some(social_event::Kind::Presence(statuses)) => {
                if let Some(watch) = &*self.watch() {
                    watch.on_event(&statuses);
                }
            }
            Some(social_event::Kind::Group(_)) | None => {}
        }
    }

    /// Takes in an answer, in order with what is told.
    pub(crate) fn on_response(&self, response: &v1::SocialResponse) {
        if let Some(social_response::Result::Group(v1::GroupResponse {
            group,
            result: Some(group_response::Result::Opened(opened)),
        })) = &response.result
            && let Some(state) = self.groups().get(group.as_str())
        {
            state.0.begin(groups::Told::Opened(opened.clone()));
        }
        if let Some(social_response::Result::Direct(response)) = &response.result
            && let Some(direct_response::Result::Opened(opened)) = &response.result
            && let Some(inbox) = &*self.inbox()
        {
            inbox.on_opened(opened);
        }
        if let Some(social_response::Result::Notices(response)) = &response.result
            && let Some(notice_response::Result::Opened(_)) = &response.result
            && let Some(notices) = &*self.notices()
        {
            notices.on_opened();
        }
        if let Some(social_response::Result::Presence(response)) = &response.result
            && let Some(presence_response::Result::Following(statuses)) = &response.result
            && let Some(watch) = &*self.watch()
        {
            watch.on_following(statuses);
        }
    }

    /// Another session, or another node, knows nothing of what this device wants to be told.
    pub(crate) fn on_forgotten(&self, session: &session::Handle) {
        if self.is_away.load(Ordering::Relaxed) {
            let set = presence_request::Kind::SetAway(v1::SetAway { away: true });
            session.ask_aside(presence::on_wire(set));
        }
        if let Some(notices) = &*self.notices() {
            notices.on_forgotten();
        }
        if let Some(watch) = &*self.watch() {
            watch.on_forgotten();
        }
        if let Some(inbox) = &*self.inbox() {
            inbox.on_forgotten();
        }
        for state in self.groups().values() {
            state.0.expire();
        }
    }

    /// The session is over for good.
    pub(crate) fn end(&self) {
        if let Some(notices) = self.notices().take() {
            notices.end();
        }
        if let Some(watch) = self.watch().take() {
            watch.end();
        }
        if let Some(inbox) = self.inbox().take() {
            inbox.end();
        }
        for state in std::mem::take(&mut *self.groups()).into_values() {
            state.0.end();
        }
    }

    /// Notes a group before it is opened; false when it is open.
    fn add_group(&self, name: &GroupName, state: &Arc<GroupState>) -> bool {
        let mut groups = self.groups();
        let is_new = !groups.contains_key(name);
        if is_new {
            groups.insert(name.clone(), Arc::clone(state));
        }
        is_new
    }

    /// Forgets a group; false when it was forgotten before.
    fn remove_group(&self, name: &GroupName, state: &Arc<GroupState>) -> bool {
        let mut groups = self.groups();
        let known = groups.get(name);
        let is_known = known.is_some_and(|known| Arc::ptr_eq(known, state));
        if is_known {
            groups.remove(name);
        }
        is_known
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupName, Arc<GroupState>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }

    fn notices(&self) -> MutexGuard<'_, Option<Arc<NoticesState>>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) -> MutexGuard<'_, Option<Arc<WatchState>>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Option<Arc<InboxState>>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an application knows what is at a place. An opening that nobody waits for any more is carried out
/// all the same, and what is told because of it is told again by the next one.
fn is_known(known: Option<Place>, at: Place) -> bool {
    known.is_some_and(|known| known.epoch == at.epoch && known.offset >= at.offset)
}

/// The further of two places of one count, else the second.
fn further(known: Option<Place>, at: Place) -> Place {
    known.filter(|_| is_known(known, at)).unwrap_or(at)
}

/// Asks the node for something.
async fn ask(
    session: &session::Handle,
    kind: social_request::Kind,
) -> Result<social_response::Result, Error> {
    let request = v1::SocialRequest { kind: Some(kind) };
    let answer = session.request(v1::request::Kind::Social(request)).await?;
    let v1::response::Result::Social(response) = answer else {
        return Err(other_question());
    };
    response.result.ok_or_else(other_question)
}

fn other_question() -> Error {
    Error::local("the node answered another question")
}
