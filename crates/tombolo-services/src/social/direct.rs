//! Direct messages: a user's inbox is the log `inbox.<user>`.
//!
//! A sender's node reads the receiver's inbox and so knows what became of the message; whether the
//! receiver is connected, and where, makes no difference to it. The receiver's nodes read the inbox
//! for as long as a device there has it open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tombolo_engine::{Key, Purpose};
use tombolo_social::inbox::{Body, Done, Entry, Illegal, Inbox, Letter, PAYLOAD_BYTES_MAX};
use tombolo_social::{EntryError, MessageId, OperationId, Place};
use tombolo_wire::UserId;
use tombolo_wire::v1::{
    self, ErrorCode, direct_event, direct_request, direct_response, server_frame, social_event,
    social_response,
};

use super::follower::{Applied, Followers, Following, Listening, Machine, Reached, Told};
use super::{
    Back, PAGE_BYTES_MAX, answer, bad_frame, event, is_there, on_the_way, operation_id, take,
    take_bytes, time,
};
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;

/// A request that was found to be in order.
pub(crate) enum DirectRequest {
    Open {
        after: Option<Place>,
    },
    Close,
    Send {
        to: UserId,
        id: MessageId,
        payload: Bytes,
        /// The sender's own inbox gets one, too.
        is_copied: bool,
    },
    /// By the inbox's own user.
    Change(Body),
    History {
        before: u64,
        limit: usize,
    },
}

/// A device that is told of its user's messages.
pub(super) struct InboxListener {
    session: Arc<Session>,
    /// Which count it knows.
    epoch: Option<OperationId>,
    /// The last message that it was told.
    letter: u64,
    /// What is to be said of that, when it was told more that is void.
    back: Back,
    read: u64,
    blocks: u64,
}

pub(super) fn parse(
    session: &Session,
    request: v1::DirectRequest,
    now: Instant,
) -> Result<DirectRequest, Reject> {
    use direct_request::Kind;

    let kind = request
        .kind
        .ok_or_else(|| bad_frame("the request asks for nothing known"))?;
    let parse_user =
        |user: &str| UserId::parse(user).map_err(|error| Reject::new(error.code(), error));
    Ok(match kind {
        Kind::Open(open) => {
            let parse = |place| Place::parse(place).ok_or_else(|| bad_frame("that is no place"));
            let after = open.after.as_ref().map(parse).transpose()?;
            DirectRequest::Open { after }
        }
        Kind::Close(v1::CloseInbox {}) => DirectRequest::Close,
        Kind::Send(send) => {
            let to = parse_user(&send.to)?;
            let id = send.id.as_ref().try_into();
            let id = MessageId(id.map_err(|_| bad_frame("a message's id has 16 bytes"))?);
            if send.payload.len() > PAYLOAD_BYTES_MAX {
                let message = format!("a direct message has at most {PAYLOAD_BYTES_MAX} bytes");
                return Err(Reject::new(ErrorCode::TooLarge, message));
            }
            let copies = 1 + usize::from(send.copy);
            take_bytes(session, now, copies * send.payload.len())?;
            DirectRequest::Send {
                to,
                id,
                payload: send.payload,
                is_copied: send.copy,
            }
        }
        Kind::Read(read) => {
            take(session, now)?;
            DirectRequest::Change(Body::Read(read.offset))
        }
        Kind::Block(block) => {
            let user = parse_user(&block.user)?;
            take(session, now)?;
            DirectRequest::Change(if block.blocked {
                Body::Blocked(user)
            } else {
                Body::Unblocked(user)
            })
        }
        Kind::History(history) => {
            let no_limit = |limit| limit == 0;
            let limit = usize::try_from(history.limit).unwrap_or(usize::MAX);
            DirectRequest::History {
                before: if history.before == 0 {
                    u64::MAX
                } else {
                    history.before
                },
                limit: if no_limit(limit) { usize::MAX } else { limit },
            }
        }
    })
}

pub(super) async fn carry_out(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    request: DirectRequest,
    open: &mut Option<Listening<Inbox>>,
) -> Result<(), Reject> {
    let result = match request {
        DirectRequest::Open { after } => {
            // Whoever opens it again is told anew, from where it says.
            drop(open.take());
            *open = Some(open_inbox(node, session, id, after).await?);
            return Ok(());
        }
        DirectRequest::Close => {
            drop(open.take());
            direct_response::Result::Done(v1::DirectDone {})
        }
        DirectRequest::Send {
            to,
            id: message,
            payload,
            is_copied,
        } => {
            let copy = is_copied.then(|| payload.clone());
            let sent = send(node, session, &to, message, payload).await?;
            if let Some(payload) = copy.filter(|_| to != session.user) {
                keep_copy(node, session, &to, message, payload).await;
            }
            direct_response::Result::Sent(sent)
        }
        DirectRequest::Change(body) => {
            let inbox = follow(node, &session.user).await?;
            append(node, &inbox, body).await?;
            direct_response::Result::Done(v1::DirectDone {})
        }
        DirectRequest::History { before, limit } => {
            let inbox = follow(node, &session.user).await?;
            let page = page(&inbox.lock().machine, before, limit);
            direct_response::Result::History(page)
        }
    };
    respond(node, session, id, result);
    Ok(())
}

fn respond(node: &Arc<Node>, session: &Arc<Session>, id: u64, result: direct_response::Result) {
    let response = v1::DirectResponse {
        result: Some(result),
    };
    answer(node, session, id, social_response::Result::Direct(response));
}

async fn follow(node: &Arc<Node>, user: &UserId) -> Result<Following<Inbox>, Reject> {
    let key = Key::new([INBOXES, user.as_str()]);
    let key = key.map_err(|error| Reject::new(ErrorCode::BadName, error))?;
    Following::begin(node, key).await
}

async fn open_inbox(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    after: Option<Place>,
) -> Result<Listening<Inbox>, Reject> {
    let inbox = follow(node, &session.user).await?;
    tick(node, &inbox).await;
    let is_new = inbox.lock().machine.last().is_none();
    if is_new {
        let opened = append(node, &inbox, Body::Opened).await;
        opened.map_err(on_the_way)?;
    }
    if let Some(after) = after {
        let has_it = |inbox: &Inbox| is_there(inbox.last(), after);
        inbox.reach(Reached::soon(), has_it).await?;
    }
    Ok(inbox.listen(session, |inbox| {
        let is_recovered = after.is_some_and(|after| inbox.is_recoverable(after));
        let letter = match after {
            Some(after) if is_recovered => after.offset,
            // A device that knows nothing needs what its user has not read.
            Some(_) | None => inbox.read().max(inbox.lost()),
        };
        let opened = v1::InboxOpened {
            last: inbox.last().map(v1::Place::from),
            recovered: is_recovered,
            read: inbox.read(),
            blocked: inbox.blocked().iter().map(ToString::to_string).collect(),
        };
        respond(node, session, id, direct_response::Result::Opened(opened));
        InboxListener {
            session: Arc::clone(session),
            epoch: inbox.last().map(|last| last.epoch),
            letter,
            back: Back::default(),
            read: inbox.read(),
            blocks: inbox.blocks(),
        }
    }))
}

/// Whether somebody may draw a user into something that is kept. Not who does not exist, and not by those whom a
/// user does not want to hear.
pub(super) async fn hears(node: &Arc<Node>, user: &UserId, by: &UserId) -> Result<(), Reject> {
    let inbox = follow(node, user).await?;
    let heard = inbox.lock().machine.hears(by);
    heard.map_err(reject)
}

async fn send(
    node: &Arc<Node>,
    session: &Session,
    to: &UserId,
    id: MessageId,
    payload: Bytes,
) -> Result<v1::DirectSent, Reject> {
    let inbox = follow(node, to).await?;
    tick(node, &inbox).await;
    // Nothing is written for users that don't exist, nor by those whom a user does not want to hear.
    let bytes = payload.len();
    let known = inbox
        .lock()
        .machine
        .check(time(node), &session.user, id, bytes);
    known.map_err(reject)?;
    let body = Body::Sent {
        from: session.user.clone(),
        id,
        payload,
        to: None,
    };
    let done = append(node, &inbox, body).await?;
    node.counters.directs.add(u64::from(!done.is_repeated));
    Ok(v1::DirectSent {
        time_ms: done.time.as_millis(),
        repeated: done.is_repeated,
    })
}

/// Keeps what a user has sent in its own inbox, if it has one, for its other devices. The message is sent all the
/// same if that fails; whoever sends it again has it kept again.
async fn keep_copy(
    node: &Arc<Node>,
    session: &Session,
    to: &UserId,
    id: MessageId,
    payload: Bytes,
) {
    let keep = async {
        let inbox = follow(node, &session.user).await?;
        if inbox.lock().machine.last().is_none() {
            return Ok(());
        }
        let body = Body::Sent {
            from: session.user.clone(),
            id,
            payload,
            to: Some(to.clone()),
        };
        append(node, &inbox, body).await.map(drop)
    };
    let kept: Result<(), Reject> = keep.await;
    if let Err(reject) = kept {
        node.counters.copies_failed.add(1);
        tracing::debug!(user = %session.user, %reject, "no copy of what was sent");
    }
}

async fn append(node: &Node, inbox: &Following<Inbox>, body: Body) -> Result<Done, Reject> {
    let purpose = purpose(&inbox.lock().machine, &body);
    propose(node, inbox, purpose, body).await
}

async fn propose(
    node: &Node,
    inbox: &Following<Inbox>,
    purpose: Purpose,
    body: Body,
) -> Result<Done, Reject> {
    let operation = operation_id(node)?;
    let entry = Entry {
        operation,
        time: time(node),
        body,
    };
    inbox
        .propose(operation, purpose, entry.encode())
        .await?
        .map_err(reject)
}

/// By what changes something by which there is less, something ends.
fn purpose(inbox: &Inbox, body: &Body) -> Purpose {
    let last = inbox.last().map_or(0, |last| last.offset);
    let is_end = match body {
        Body::Read(number) => (*number).min(last) > inbox.read(),
        Body::Unblocked(user) => inbox.blocked().contains(user),
        Body::Opened | Body::Sent { .. } | Body::Blocked(_) => false,
    };
    if is_end { Purpose::End } else { Purpose::More }
}

/// Ends what has been kept for as long as messages are, if nothing has told the inbox what time it is: an entry moves
/// its clock by a day at most.
async fn tick(node: &Node, inbox: &Following<Inbox>) {
    let now = tokio::time::Instant::now();
    {
        let mut state = inbox.lock();
        let is_told = state.ticked_at.is_some_and(|at| now - at < TICK_EVERY);
        if is_told || !state.machine.is_due(time(node)) {
            return;
        }
        state.ticked_at = Some(now);
    }
    // What was read up to nothing changes nothing else.
    if let Err(reject) = propose(node, inbox, Purpose::End, Body::Read(0)).await {
        tracing::debug!(%reject, "an inbox keeps what has expired");
    }
}

fn reject(illegal: Illegal) -> Reject {
    let code = match illegal {
        Illegal::NoSuchUser => ErrorCode::NoSuchUser,
        Illegal::Blocked => ErrorCode::Blocked,
        Illegal::Full | Illegal::SenderFull => ErrorCode::InboxFull,
        Illegal::Limit | _ => ErrorCode::Limit,
    };
    Reject::new(code, illegal)
}

/// As much as is asked for and fits into a frame.
fn page(inbox: &Inbox, before: u64, limit: usize) -> v1::DirectPage {
    let mut page = v1::DirectPage::default();
    let mut bytes = 0;
    for letter in inbox.letters_before(before) {
        let letter = on_wire(letter);
        bytes += letter.encoded_len() + FIELD_BYTES_MAX;
        if page.messages.len() >= limit || bytes > PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        page.messages.push(letter);
    }
    page
}

fn on_wire(letter: &Letter) -> v1::DirectMessage {
    v1::DirectMessage {
        number: letter.number,
        time_ms: letter.time.as_millis(),
        from: letter.from.to_string(),
        id: Bytes::copy_from_slice(&letter.id.0),
        payload: letter.payload.clone(),
        to: letter
            .to
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

fn direct_event(kind: direct_event::Kind) -> server_frame::Body {
    event(social_event::Kind::Direct(v1::DirectEvent {
        kind: Some(kind),
    }))
}

impl Machine for Inbox {
    type Done = Done;
    type Illegal = Illegal;
    type Listener = InboxListener;

    const SNAPSHOT_ENTRIES: usize = 256;

    fn followers(node: &Node) -> &Followers<Self> {
        &node.social.inboxes
    }

    fn restore(snapshot: &[u8]) -> Option<Self> {
        Self::restore(snapshot).ok()
    }

    fn snapshot(&self) -> Option<Bytes> {
        Some(self.snapshot())
    }

    fn apply(&mut self, entry: &[u8]) -> Result<Applied<Self>, EntryError> {
        let entry = Entry::decode(entry)?;
        Ok((entry.operation, self.apply(&entry)))
    }

    fn agreed(&self, other: &Self) -> u64 {
        self.agreed(other)
    }

    fn go_back(listener: &mut InboxListener, to: u64) {
        if listener.letter > to {
            listener.letter = to;
            listener.back.begin();
        }
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }

    fn tell(&self, node: &Arc<Node>, listener: &mut InboxListener) -> Told {
        let session = &listener.session;
        if session.lock().ended().is_some() {
            return Told::Gone;
        }
        let Some(last) = self.last() else {
            return Told::Known;
        };
        let push = |kind| node.push_from_log(session, direct_event(kind)).is_ok();
        let is_other = listener.epoch != Some(last.epoch);
        if is_other {
            // That says it already.
            listener.back = Back::default();
        }
        while let Some(at) = listener.back.next(Place {
            offset: listener.letter,
            ..last
        }) {
            let place = v1::InboxPlace {
                lost: at.is_none(),
                at: at.map(v1::Place::from),
            };
            if !push(direct_event::Kind::Place(place)) {
                return Told::Behind;
            }
            listener.back.go_on();
        }
        if is_other || listener.letter < self.lost() {
            let offset = self.lost();
            let place = v1::InboxPlace {
                at: Some(Place { offset, ..last }.into()),
                lost: true,
            };
            if !push(direct_event::Kind::Place(place)) {
                return Told::Behind;
            }
            listener.epoch = Some(last.epoch);
            listener.letter = offset;
            if is_other {
                // What is told below is told anew.
                (listener.read, listener.blocks) = (u64::MAX, u64::MAX);
            }
        }
        for letter in self.letters_after(listener.letter) {
            if !push(direct_event::Kind::Message(on_wire(letter))) {
                return Told::Behind;
            }
            listener.letter = letter.number;
            node.counters.delivered.add(1);
        }
        if listener.read != self.read() {
            let offset = self.read();
            if !push(direct_event::Kind::Read(v1::ReadInbox { offset })) {
                return Told::Behind;
            }
            listener.read = offset;
        }
        if listener.blocks != self.blocks() {
            let users = self.blocked().iter().map(ToString::to_string).collect();
            if !push(direct_event::Kind::Blocked(v1::BlockedUsers { users })) {
                return Told::Behind;
            }
            listener.blocks = self.blocks();
        }
        Told::All
    }
}

/// How often an inbox is told at most what time it is, for what has expired in it.
const TICK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Of all inboxes, among the logs.
pub(super) const INBOXES: &str = "inbox";

/// Of a message in a page, beside itself.
const FIELD_BYTES_MAX: usize = 4;

const _: () = assert!(PAYLOAD_BYTES_MAX + 256 < PAGE_BYTES_MAX);
