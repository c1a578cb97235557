//! Direct messages, from user to user.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tombolo_room::Time;
use tombolo_social::{MessageId, Place};
use tombolo_wire::UserId;
use tombolo_wire::v1::{
    self, direct_event, direct_request, direct_response, request, social_request, social_response,
};

use super::feed::{Feed, Next};
use super::{ask, further, is_known, other_question};
use crate::device::Device;
use crate::error::Error;
use crate::retry::until_known;

/// Another user, as one writes to it; see [`Device::direct`].
#[derive(Clone, Debug)]
pub struct Direct {
    device: Device,
    user: UserId,
    is_copied: bool,
}

/// The messages that others have sent to this device's user; see [`Device::inbox`]. Dropping it ends
/// the telling; what comes is kept.
#[derive(Debug)]
pub struct Inbox {
    device: Device,
    state: Arc<InboxState>,
    /// The count and number of the last event that the application has taken.
    place: Option<Place>,
    is_recovered: bool,
    read: u64,
    blocked: BTreeSet<UserId>,
}

/// A message from another user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectMessage {
    /// 1, 2, 3, …
    pub number: u64,
    /// When the cluster took it.
    pub time: Time,
    /// From whom.
    pub from: UserId,
    /// Its sender's name for it.
    pub id: MessageId,
    /// What it says.
    pub payload: Bytes,
    /// Of what this user has sent: to whom. `None` of what it was sent.
    pub to: Option<UserId>,
}

/// A message was taken; it is kept until its receiver has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectSent {
    /// When the cluster took it.
    pub time: Time,
    /// It had been sent before, under the same id.
    pub is_repeated: bool,
}

/// Messages that are kept; see [`Inbox::history`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DirectHistory {
    /// The newest first.
    pub messages: Vec<DirectMessage>,
    /// There are older ones: ask for those before the last of these.
    pub more: bool,
}

/// Something happened in the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboxEvent {
    /// A message came, or waited.
    Message(DirectMessage),
    /// This user has sent a message, with this or another device.
    Sent(DirectMessage),
    /// The user has read up to this number, here or on another device.
    Read(u64),
    /// The user takes nothing from these any more, and from all others.
    Blocked(BTreeSet<UserId>),
    /// Messages were missed that are not known any more: the cluster has lost them, or they were away
    /// for longer than they are kept.
    Lost,
}

/// What the device keeps of its inbox.
#[derive(Debug, Default)]
pub(super) struct InboxState(Feed<Told>);

#[derive(Debug)]
enum Told {
    Opened(v1::InboxOpened),
    Event(direct_event::Kind),
}

impl InboxState {
    pub(super) fn on_event(&self, event: v1::DirectEvent) {
        let Some(kind) = event.kind else {
            return;
        };
        let bytes = if let direct_event::Kind::Message(message) = &kind {
            message.payload.len()
        } else {
            0
        };
        self.0.push(Told::Event(kind), bytes);
    }

    pub(super) fn on_opened(&self, opened: &v1::InboxOpened) {
        self.0.begin(Told::Opened(opened.clone()));
    }

    pub(super) fn on_forgotten(&self) {
        self.0.expire();
    }

    pub(super) fn end(&self) {
        self.0.end();
    }
}

impl Device {
    /// Another user, to write to: it need not be connected, nor in the same room.
    #[must_use]
    pub fn direct(&self, user: &UserId) -> Direct {
        Direct {
            device: self.clone(),
            user: user.clone(),
            is_copied: true,
        }
    }

    /// Opens the inbox of this device's user: tells of the messages after a place, or, without one,
    /// of those that the user has not read on any device, and of those to come. A user can be
    /// written to once it has opened its inbox for the first time.
    ///
    /// # Errors
    /// When this device has it open already, or the node refuses.
    pub async fn inbox(&self, after: Option<Place>) -> Result<Inbox, Error> {
        let state = Arc::new(InboxState::default());
        {
            let mut inbox = self.0.social.inbox();
            if inbox.is_some() {
                return Err(Error::local("this device has its inbox open already"));
            }
            *inbox = Some(Arc::clone(&state));
        }
        let mut inbox = Inbox {
            device: self.clone(),
            state,
            place: after,
            is_recovered: false,
            read: 0,
            blocked: BTreeSet::new(),
        };
        inbox.open().await?;
        if let Next::Item(Told::Opened(opened)) = inbox.state.0.next().await {
            inbox.is_recovered = opened.recovered;
            inbox.on_opened(opened);
        }
        Ok(inbox)
    }
}

impl Direct {
    /// Who it is.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Keeps no copy of what is sent in this user's own inbox, where its other devices see it: it costs as much
    /// as the message.
    #[must_use]
    pub fn without_copies(mut self) -> Self {
        self.is_copied = false;
        self
    }

    /// Sends a message. Once this returns it is kept for the user, whatever happens to nodes. While
    /// the session is lost, or nobody knows whether it is kept, it is sent again, for a minute, and arrives
    /// once. If nobody knows in the end ([`Error::is_unsure`]), sending it anew may send it twice, but
    /// under the same id ([`send_as`](Self::send_as)).
    ///
    /// # Errors
    /// With code `NoSuchUser` when the user has never opened its inbox, `Blocked` when it takes nothing from this
    /// one, `InboxFull` when it has too many unread messages; when the message is too long, or the
    /// node cannot be reached.
    pub async fn send(&self, payload: impl Into<Bytes>) -> Result<DirectSent, Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(Error::local)?;
        self.send_as(MessageId(id), payload).await
    }

    /// Sends a message under an id of the application's, so that it arrives once however often it is sent.
    ///
    /// # Errors
    /// As [`Direct::send`].
    pub async fn send_as(
        &self,
        id: MessageId,
        payload: impl Into<Bytes>,
    ) -> Result<DirectSent, Error> {
        let message = v1::DirectSend {
            to: self.user.to_string(),
            id: Bytes::copy_from_slice(&id.0),
            payload: payload.into(),
            copy: self.is_copied,
        };
        let send = || ask_direct(&self.device, direct_request::Kind::Send(message.clone()));
        match until_known(Error::is_unreachable, send).await? {
            direct_response::Result::Sent(sent) => Ok(DirectSent {
                time: Time::from_millis(sent.time_ms),
                is_repeated: sent.repeated,
            }),
            direct_response::Result::Opened(_)
            | direct_response::Result::History(_)
            | direct_response::Result::Done(_) => Err(other_question()),
        }
    }

    /// Takes nothing from the user any more.
    ///
    /// # Errors
    /// When too many are blocked, or the node cannot be reached.
    pub async fn block(&self) -> Result<(), Error> {
        self.set_blocked(true).await
    }

    /// Takes messages from the user again.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn unblock(&self) -> Result<(), Error> {
        self.set_blocked(false).await
    }

    async fn set_blocked(&self, blocked: bool) -> Result<(), Error> {
        let user = self.user.to_string();
        let block = direct_request::Kind::Block(v1::SetBlocked { user, blocked });
        let block = || ask_direct(&self.device, block.clone());
        until_known(|_| false, block).await.map(drop)
    }
}

impl Inbox {
    /// The last message that was taken from [`next_event`](Self::next_event), to be kept where the
    /// application keeps things: [`Device::inbox`] goes on from there, in another process too.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Whether everything after the place that it was opened with is told.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.is_recovered
    }

    /// Up to where the user has read, on any device.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    /// From whom nothing is taken.
    #[must_use]
    pub fn blocked(&self) -> &BTreeSet<UserId> {
        &self.blocked
    }

    /// The next event; `None` when the session is over. What an application is too slow to take waits
    /// in the cluster, and a session that was lost is made up for: nothing is left out without
    /// [`InboxEvent::Lost`]. Losing the future loses no event.
    ///
    /// # Errors
    /// When the node refuses to go on; the next call tries again.
    pub async fn next_event(&mut self) -> Result<Option<InboxEvent>, Error> {
        loop {
            let told = match self.state.0.next().await {
                Next::Item(told) => told,
                Next::End => return Ok(None),
                Next::Stale => {
                    self.reopen().await?;
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

    /// Says that the user has read what came up to a number.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn mark_read(&self, number: u64) -> Result<(), Error> {
        let read = direct_request::Kind::Read(v1::ReadInbox { offset: number });
        let read = || ask_direct(&self.device, read.clone());
        until_known(|_| false, read).await.map(drop)
    }

    /// Messages that are kept: those before a number, or the newest for `None`.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn history(&self, before: Option<u64>, limit: u32) -> Result<DirectHistory, Error> {
        let history = direct_request::Kind::History(v1::DirectHistory {
            before: before.unwrap_or_default(),
            limit,
        });
        let answer = ask_direct(&self.device, history).await?;
        let direct_response::Result::History(page) = answer else {
            return Err(other_question());
        };
        Ok(DirectHistory {
            messages: page.messages.into_iter().filter_map(parse).collect(),
            more: page.more,
        })
    }

    /// Opens it again from where the application is; while the node cannot be reached, or cannot do it, that is tried
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
        let after = self.place.map(v1::Place::from);
        let open = direct_request::Kind::Open(v1::OpenInbox { after });
        match ask_direct(&self.device, open).await? {
            direct_response::Result::Opened(_) => Ok(()),
            direct_response::Result::Sent(_)
            | direct_response::Result::History(_)
            | direct_response::Result::Done(_) => Err(other_question()),
        }
    }

    fn on_opened(&mut self, opened: v1::InboxOpened) -> Option<InboxEvent> {
        self.blocked = parse_users(&opened.blocked);
        self.read = opened.read;
        let had_place = self.place.is_some();
        if !opened.recovered {
            let last = opened.last.as_ref().and_then(Place::parse);
            self.place = last.map(|last| {
                // Messages follow from the first that is unread and kept.
                let offset = opened.read;
                let known = self.place.filter(|known| known.offset <= last.offset);
                further(known, Place { offset, ..last })
            });
        }
        (had_place && !opened.recovered).then_some(InboxEvent::Lost)
    }

    fn on_event(&mut self, kind: direct_event::Kind) -> Option<InboxEvent> {
        match kind {
            direct_event::Kind::Message(message) => {
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
                Some(match &message.to {
                    None => InboxEvent::Message(message),
                    Some(_) => InboxEvent::Sent(message),
                })
            }
            direct_event::Kind::Read(read) => {
                self.read = read.offset;
                Some(InboxEvent::Read(read.offset))
            }
            direct_event::Kind::Blocked(blocked) => {
                self.blocked = parse_users(&blocked.users);
                Some(InboxEvent::Blocked(self.blocked.clone()))
            }
            direct_event::Kind::Place(place) => {
                let at = place.at.as_ref().and_then(Place::parse);
                self.place = at.map(|at| further(self.place, at));
                place.lost.then_some(InboxEvent::Lost)
            }
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let shared = &self.device.0;
        let mut inbox = shared
            .social
            .inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if inbox
            .as_ref()
            .is_some_and(|state| Arc::ptr_eq(state, &self.state))
        {
            *inbox = None;
            shared
                .session
                .ask_aside(on_wire(direct_request::Kind::Close(v1::CloseInbox {})));
        }
    }
}

async fn ask_direct(
    device: &Device,
    kind: direct_request::Kind,
) -> Result<direct_response::Result, Error> {
    let direct = social_request::Kind::Direct(v1::DirectRequest { kind: Some(kind) });
    match ask(&device.0.session, direct).await? {
        social_response::Result::Direct(v1::DirectResponse {
            result: Some(result),
        }) => Ok(result),
        social_response::Result::Direct(_)
        | social_response::Result::Group(_)
        | social_response::Result::Notices(_)
        | social_response::Result::Presence(_) => Err(other_question()),
    }
}

fn on_wire(kind: direct_request::Kind) -> request::Kind {
    let direct = v1::DirectRequest { kind: Some(kind) };
    request::Kind::Social(v1::SocialRequest {
        kind: Some(social_request::Kind::Direct(direct)),
    })
}

/// Reads a message; `None` when it breaks the contract.
fn parse(message: v1::DirectMessage) -> Option<DirectMessage> {
    Some(DirectMessage {
        number: message.number,
        time: Time::from_millis(message.time_ms),
        from: UserId::parse(&message.from).ok()?,
        id: MessageId(message.id.as_ref().try_into().ok()?),
        payload: message.payload,
        to: match message.to.as_str() {
            "" => None,
            to => Some(UserId::parse(to).ok()?),
        },
    })
}

fn parse_users(users: &[String]) -> BTreeSet<UserId> {
    let users = users.iter();
    users.filter_map(|user| UserId::parse(user).ok()).collect()
}
