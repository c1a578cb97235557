//! Notices from servers, to all users or to those with a tag.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tombolo_room::Time;
use tombolo_social::{MessageId, Place};
use tombolo_wire::TagName;
use tombolo_wire::v1::{
    self, notice_event, notice_request, notice_response, request, social_request, social_response,
};

use super::feed::{Feed, Next};
use super::{ask, is_known, other_question};
use crate::device::Device;
use crate::error::Error;

/// What servers tell this device's user; see [`Device::notifications`]. Dropping it ends the telling; what
/// comes is kept until it expires.
#[derive(Debug)]
pub struct Notifications {
    device: Device,
    state: Arc<NoticesState>,
    places: BTreeMap<TagName, Place>,
}

/// Something that a server tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notification {
    /// It tells this.
    Notice(Notice),
    /// Notices were missed that are not known any more although they have not expired.
    Lost(TagName),
}

/// A notice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// For whom it is: `all`, or those with this tag.
    pub board: TagName,
    /// 1, 2, 3, … for each board.
    pub number: u64,
    /// When the cluster took it.
    pub time: Time,
    /// It means nothing any more after this.
    pub expires: Time,
    /// The server's name for it.
    pub id: MessageId,
    /// What it says.
    pub payload: Bytes,
}

/// What the device keeps of its notices.
#[derive(Debug, Default)]
pub(super) struct NoticesState(Feed<Option<v1::NoticeEvent>>);

impl NoticesState {
    pub(super) fn on_event(&self, event: v1::NoticeEvent) {
        let bytes = if let Some(notice_event::Kind::Notice(notice)) = &event.kind {
            notice.payload.len()
        } else {
            0
        };
        self.0.push(Some(event), bytes);
    }

    pub(super) fn on_opened(&self) {
        self.0.begin(None);
    }

    pub(super) fn on_forgotten(&self) {
        self.0.expire();
    }

    pub(super) fn end(&self) {
        self.0.end();
    }
}

impl Device {
    /// Opens what servers tell this device's user: tells of the notices after these places, of all that
    /// have not expired where there is none, and of those to come.
    ///
    /// # Errors
    /// When this device has it open already, or the node refuses.
    pub async fn notifications(
        &self,
        after: BTreeMap<TagName, Place>,
    ) -> Result<Notifications, Error> {
        let state = Arc::new(NoticesState::default());
        {
            let mut notices = self.0.social.notices();
            if notices.is_some() {
                return Err(Error::local("this device has its notices open already"));
            }
            *notices = Some(Arc::clone(&state));
        }
        let notifications = Notifications {
            device: self.clone(),
            state,
            places: after,
        };
        notifications.open().await?;
        Ok(notifications)
    }
}

impl Notifications {
    /// Up to where [`next`](Self::next) has told, to be kept where the application keeps things:
    /// [`Device::notifications`] goes on from there, in another process too.
    #[must_use]
    pub fn places(&self) -> &BTreeMap<TagName, Place> {
        &self.places
    }

    /// The next notice; `None` when the session is over. What an application is too slow to take waits in
    /// the cluster, and a session that was lost is made up for: nothing is left out without
    /// [`Notification::Lost`], and nothing comes twice. Losing the future loses nothing.
    ///
    /// # Errors
    /// When the node refuses to go on; the next call tries again.
    pub async fn next(&mut self) -> Result<Option<Notification>, Error> {
        loop {
            match self.state.0.next().await {
                Next::Item(told) => {
                    if let Some(told) = told.and_then(|event| self.take(event)) {
                        return Ok(Some(told));
                    }
                }
                Next::End => return Ok(None),
                Next::Stale => self.reopen().await?,
            }
        }
    }

    /// Notes up to where was told; `None` when the event breaks the contract, or was told before.
    fn take(&mut self, event: v1::NoticeEvent) -> Option<Notification> {
        let place = event.at?;
        let board = TagName::parse(&place.board).ok()?;
        let at = place.at.as_ref().and_then(Place::parse)?;
        let known = self.places.get(&board).copied();
        let told = match event.kind? {
            notice_event::Kind::Notice(_) if is_known(known, at) => return None,
            notice_event::Kind::Lost(v1::NoticesLost {}) => Notification::Lost(board.clone()),
            notice_event::Kind::Notice(notice) => Notification::Notice(Notice {
                board: board.clone(),
                number: at.offset,
                time: Time::from_millis(notice.time_ms),
                expires: Time::from_millis(notice.expires_ms),
                id: MessageId(notice.id.as_ref().try_into().ok()?),
                payload: notice.payload,
            }),
        };
        self.places.insert(board, at);
        Some(told)
    }

    /// Opens it again from where the application is; while the node cannot be reached that is tried
    /// until it can.
    async fn reopen(&self) -> Result<(), Error> {
        loop {
            match self.open().await {
                Err(error) if error.is_temporary() => {
                    tokio::time::sleep(error.retry_after().unwrap_or_default()).await;
                }
                // The end of the session is told by the feed.
                Err(error) if error.is_closed() => return Ok(()),
                result => return result,
            }
        }
    }

    async fn open(&self) -> Result<(), Error> {
        let after = self.places.iter().map(|(board, at)| v1::NoticePlace {
            board: board.to_string(),
            at: Some((*at).into()),
        });
        let open = notice_request::Kind::Open(v1::OpenNotices {
            after: after.collect(),
        });
        let request = v1::NoticeRequest { kind: Some(open) };
        let request = social_request::Kind::Notices(request);
        match ask(&self.device.0.session, request).await? {
            social_response::Result::Notices(v1::NoticeResponse {
                result: Some(notice_response::Result::Opened(_)),
            }) => Ok(()),
            social_response::Result::Notices(_)
            | social_response::Result::Direct(_)
            | social_response::Result::Group(_)
            | social_response::Result::Presence(_) => Err(other_question()),
        }
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        let shared = &self.device.0;
        let mut notices = shared.social.notices();
        let is_this = |state: &Arc<NoticesState>| Arc::ptr_eq(state, &self.state);
        if notices.as_ref().is_some_and(is_this) {
            *notices = None;
            drop(notices);
            let close = notice_request::Kind::Close(v1::CloseNotices {});
            let request = v1::NoticeRequest { kind: Some(close) };
            let kind = Some(social_request::Kind::Notices(request));
            let social = request::Kind::Social(v1::SocialRequest { kind });
            shared.session.ask_aside(social);
        }
    }
}
