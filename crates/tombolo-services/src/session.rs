//! One device's session: what outlives its connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tombolo_engine::latest;
use tombolo_room::SessionId;
use tombolo_wire::frame::Frame as _;
use tombolo_wire::resend::{Inbox, Limits, Outbox, Overflow, Receipt};
use tombolo_wire::v1::{self, ErrorCode, ServerFrame, server_frame};
use tombolo_wire::{NodeId, PublicKeys, RoomId, TagName, UserId};

use crate::absence::Absence;
use crate::cluster::Sender as Member;
use crate::config::Config;
use crate::connection::Outgoing;
use crate::entropy::ResumeToken;
use crate::field::Seats;
use crate::host::Host;
use crate::lock::lock;
use crate::queue::{Queue, QueueLimits, Topic};
use crate::rate::{Account, SharedAccount};
use crate::reject::Reject;
use crate::requests::backlog::Backlog;
use crate::services::Caller;
use crate::transit::{Arriving, Moved};

/// One device's session.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) user: UserId,
    pub(crate) keys: PublicKeys,
    /// Which of the device's sessions it is; 0 when the device does not count.
    pub(crate) life: u64,
    /// When it came to this node, since the Unix epoch.
    pub(crate) began: Duration,
    account: SharedAccount,
    /// Frames and requests of the device that are being carried out. Grows under the lock only.
    pub(crate) pending: AtomicUsize,
    /// Whether nothing of another node's is on its way for the session.
    settled: latest::Sender<bool>,
    state: Mutex<State>,
}

/// What changes about a session.
pub(crate) struct State {
    pub(crate) outbox: Outbox<ServerFrame>,
    pub(crate) inbox: Inbox,
    /// Frames of this connection only, before all others.
    urgent: VecDeque<ServerFrame>,
    queue: Queue,
    /// Whose turn it is when several kinds wait.
    unreliable_next: bool,
    unordered_next: bool,
    /// Since when there has been no place for what others send, and nothing was acknowledged.
    behind_since: Option<Instant>,
    /// How many connections the session has had.
    pub(crate) connection: u64,
    pub(crate) is_connected: bool,
    /// Wakes the connection.
    wake: Arc<Notify>,
    /// Set when the session is over; what the connection is told.
    ended: Option<Ended>,
    pub(crate) tokens: ResumeTokens,
    /// When the token of the last `Hello` expires, since the Unix epoch.
    pub(crate) expires: Duration,
    /// Of that token.
    pub(crate) tags: Vec<TagName>,
    /// When its device was asked last to go on over another node, so that this one has less to do.
    pub(crate) asked_to_go: Option<tokio::time::Instant>,
    /// Ends the session unless it is resumed; `None` while it is connected.
    pub(crate) expiry: Option<AbortHandle>,
    /// Closed once the session is over.
    pub(crate) backlog: Backlog,
    pub(crate) host_by_room: BTreeMap<RoomId, Arc<Host>>,
    pub(crate) absence: Absence,
    /// Its device takes part in one of its rooms by another session.
    pub(crate) has_begun_anew: bool,
    /// The fields that the session is in.
    pub(crate) seats: Seats,
    /// The node that had the session before this one.
    pub(crate) came_from: Option<NodeId>,
    /// `None` once the session has settled here.
    pub(crate) arriving: Option<Arriving>,
    /// `None` unless the session goes, or has gone, to another node.
    pub(crate) moved: Option<Moved>,
}

/// Whose frame it is that a session is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The node's own: a session that cannot be told it is over.
    Node,
    /// Another device's, which is told when there is no place.
    Peer,
}

impl Sender {
    pub(crate) fn push(
        self,
        outbox: &mut Outbox<ServerFrame>,
        frame: ServerFrame,
    ) -> Result<(), Overflow> {
        let pushed = match self {
            Self::Node => outbox.push(frame),
            Self::Peer => outbox.push_sparing(frame),
        };
        pushed.map(drop)
    }
}

/// How a session ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// `None` when the device said goodbye.
    pub(crate) reject: Option<Reject>,
}

/// Which tokens continue the session: a `Welcome` may get lost, so the token before it is good until
/// the device has been heard on the new connection.
#[derive(Clone, Debug)]
pub(crate) struct ResumeTokens {
    /// The device has this one.
    held: Option<ResumeToken>,
    /// The device was sent this one.
    issued: ResumeToken,
    /// Those that the table of sessions knows; more than are good.
    listed: Vec<ResumeToken>,
}

impl ResumeTokens {
    pub(crate) fn new(issued: ResumeToken) -> Self {
        Self {
            held: None,
            issued,
            listed: vec![issued],
        }
    }

    /// Of a session that another node had: the device may have either.
    pub(crate) fn taken(presented: ResumeToken, other: Option<ResumeToken>) -> Self {
        Self {
            held: other,
            issued: presented,
            listed: std::iter::once(presented).chain(other).collect(),
        }
    }

    /// The one that is good beside this one.
    pub(crate) fn beside(&self, token: &ResumeToken) -> Option<ResumeToken> {
        let mut good = std::iter::once(self.issued).chain(self.held);
        good.find(|good| good != token)
    }

    pub(crate) fn is_good(&self, token: &ResumeToken) -> bool {
        self.issued == *token || self.held.as_ref() == Some(token)
    }

    /// The device has shown that it has what was issued.
    fn confirm(&mut self) {
        self.held = Some(self.issued);
    }

    /// The device presented one and is sent the next; returns those to be taken off the table.
    pub(crate) fn replace(
        &mut self,
        presented: ResumeToken,
        issued: ResumeToken,
    ) -> Vec<ResumeToken> {
        self.held = Some(presented);
        self.issued = issued;
        let mut old = std::mem::replace(&mut self.listed, vec![presented, issued]);
        old.retain(|token| *token != presented);
        old
    }

    pub(crate) fn listed(&self) -> &[ResumeToken] {
        &self.listed
    }
}

impl Session {
    pub(crate) fn new(
        id: SessionId,
        caller: &Caller,
        account: SharedAccount,
        issued: ResumeToken,
        config: &Config,
    ) -> Self {
        let state = State {
            outbox: Outbox::new(config.outbox),
            inbox: Inbox::new(),
            urgent: VecDeque::new(),
            queue: Queue::new(QueueLimits {
                unreliable_max: config.unreliable_queue_max,
                unreliable_bytes_max: config.unreliable_bytes_max,
                reliable: Limits {
                    frames_max: config.outbox.frames_max / 2,
                    bytes_max: config.outbox.bytes_max / 2,
                },
            }),
            unreliable_next: true,
            unordered_next: true,
            behind_since: None,
            connection: 0,
            is_connected: false,
            wake: Arc::default(),
            ended: None,
            tokens: ResumeTokens::new(issued),
            expires: caller.expires,
            tags: caller.tags.clone(),
            asked_to_go: None,
            expiry: None,
            backlog: Backlog::default(),
            host_by_room: BTreeMap::new(),
            absence: Absence::default(),
            has_begun_anew: false,
            seats: Seats::default(),
            came_from: None,
            arriving: None,
            moved: None,
        };
        Self {
            id,
            user: caller.user.clone(),
            keys: caller.keys,
            began: (config.unix_now)(),
            life: caller.life,
            account,
            pending: AtomicUsize::new(0),
            settled: latest::Sender::new(true),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Tells when nothing of another node's is on its way any more.
    pub(crate) fn watch_settled(&self) -> latest::Receiver<bool> {
        self.settled.subscribe()
    }

    pub(crate) fn set_settled(&self, is_settled: bool) {
        self.settled.send_replace(is_settled);
    }

    /// What is left to the session's user.
    pub(crate) fn account(&self) -> MutexGuard<'_, Account> {
        Account::lock(&self.account)
    }
}

impl State {
    /// Begins a connection with its first frame; the one before is told to close.
    pub(crate) fn connect(&mut self, welcome: ServerFrame) -> (u64, Arc<Notify>) {
        self.wake.notify_one();
        self.wake = Arc::default();
        self.connection += 1;
        self.is_connected = true;
        self.stop_expiry();
        self.outbox.rewind();
        self.urgent.clear();
        self.queue.clear_unreliable();
        self.behind_since = None;
        self.urgent.push_back(welcome);
        (self.connection, Arc::clone(&self.wake))
    }

    /// Goes to another node: the connection is told to close, and nothing more is taken from it.
    pub(crate) fn pause(&mut self) {
        // What has no order yet has one from now on; it was counted as if it were there already.
        while let Some(body) = self.queue.pop_unordered() {
            let frame = ServerFrame {
                body: Some(body),
                ..ServerFrame::default()
            };
            let pushed = self.outbox.push(frame);
            debug_assert!(pushed.is_ok(), "{pushed:?}");
        }
        self.backlog.pause();
        self.is_connected = false;
        self.stop_expiry();
        self.wake();
    }

    /// Goes on here after all.
    pub(crate) fn proceed(&mut self) {
        self.backlog.proceed();
    }

    /// Whether nothing is being done about the session.
    pub(crate) fn is_settled(&self) -> bool {
        self.arriving.is_none() && !self.absence.is_telling()
    }

    /// Wakes the connection.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The session is a member of a room, and present there.
    pub(crate) fn enter_room(&mut self, room: &RoomId, host: &Arc<Host>) {
        self.host_by_room.insert(room.clone(), Arc::clone(host));
        self.absence.forget(room);
    }

    /// The session is no member of a room any more.
    pub(crate) fn leave_room(&mut self, room: &RoomId) {
        self.host_by_room.remove(room);
        self.absence.forget(room);
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// How many reliable messages of other devices the session's has not acknowledged.
    pub(crate) fn unread(&self) -> u64 {
        let is_message = |body: &&server_frame::Body| {
            matches!(
                body,
                server_frame::Body::Delivery(_) | server_frame::Body::Introduced(_)
            )
        };
        let sent = self.outbox.after_number(self.outbox.acked());
        let sent = sent.filter_map(|frame| frame.body.as_ref());
        let held = self.arriving.iter().flat_map(Arriving::held);
        let messages = sent.chain(held).filter(is_message).count();
        (messages + self.queue.unordered_len()) as u64
    }

    /// Ends the session; the first reason stays. Returns the rooms that it was in.
    pub(crate) fn end(&mut self, reject: Option<Reject>) -> BTreeMap<RoomId, Arc<Host>> {
        self.end_in_rooms(reject);
        std::mem::take(&mut self.host_by_room)
    }

    /// The same for one whose rooms are yet to be told that it is dropped.
    pub(crate) fn end_in_rooms(&mut self, reject: Option<Reject>) {
        self.ended.get_or_insert(Ended { reject });
        self.backlog.close();
        self.seats.leave_all();
        self.stop_expiry();
        self.wake.notify_one();
    }

    fn stop_expiry(&mut self) {
        if let Some(expiry) = self.expiry.take() {
            expiry.abort();
        }
    }

    /// Takes note of a received frame's numbers.
    ///
    /// # Errors
    /// How they break the contract.
    pub(crate) fn handle_numbers(
        &mut self,
        now: Instant,
        frame: &v1::ClientFrame,
    ) -> Result<Receipt, String> {
        // The device is heard on this connection, so it has the token of its `Welcome`.
        self.tokens.confirm();
        let before = self.outbox.len();
        self.outbox
            .handle_ack(frame.ack)
            .map_err(|error| error.to_string())?;
        if self.outbox.len() < before {
            self.behind_since = None;
            if self.queue.has_unordered() {
                self.wake.notify_one();
            }
        }
        let due = self.inbox.poll_timeout();
        self.inbox.handle_size(frame);
        let receipt = self
            .inbox
            .handle_frame(now, frame.seq)
            .map_err(|error| error.to_string())?;
        if self.inbox.poll_timeout() != due {
            self.wake.notify_one();
        }
        Ok(receipt)
    }

    /// Queues a reliable frame.
    ///
    /// # Errors
    /// When the frame can never be sent, or the device is too far behind: its session must be ended
    /// then.
    pub(crate) fn push(&mut self, body: server_frame::Body) -> Result<(), Overflow> {
        self.push_of(Sender::Node, body, None)
    }

    /// The same for one that comes from the node before, and goes on to the next.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(crate) fn pass_on(
        &mut self,
        body: server_frame::Body,
        member: Option<&Member>,
    ) -> Result<(), Overflow> {
        self.push_of(Sender::Node, body, member)
    }

    /// Queues a reliable frame that another device has sent: that of a member of a room, if it is one.
    ///
    /// # Errors
    /// When the device is so far behind that what is left belongs to the node's own frames.
    pub(crate) fn push_from_peer(
        &mut self,
        body: server_frame::Body,
        member: Option<&Member>,
    ) -> Result<(), Overflow> {
        self.push_of(Sender::Peer, body, member)
    }

    /// Queues a reliable frame of which the node has more where it comes from.
    ///
    /// # Errors
    /// As [`Self::push_from_peer`]; and while nobody knows on which node the session goes on.
    pub(crate) fn push_from_log(&mut self, body: server_frame::Body) -> Result<(), Overflow> {
        if self.moved.as_ref().is_some_and(|moved| !moved.is_taken) {
            return Err(Overflow::Frames { frames_max: 0 });
        }
        self.push_from_peer(body, None)
    }

    fn push_of(
        &mut self,
        sender: Sender,
        body: server_frame::Body,
        member: Option<&Member>,
    ) -> Result<(), Overflow> {
        if self.ended.is_some() {
            return Ok(());
        }
        let Some(body) = self.push_in_transit(sender, body, member)? else {
            return Ok(());
        };
        let frame = ServerFrame {
            body: Some(body),
            ..ServerFrame::default()
        };
        sender.push(&mut self.outbox, frame)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Queues a frame of this connection only; false when too many wait.
    pub(crate) fn push_urgent(&mut self, body: server_frame::Body) -> bool {
        if self.urgent.len() >= URGENT_MAX {
            return false;
        }
        self.urgent.push_back(ServerFrame {
            body: Some(body),
            ..ServerFrame::default()
        });
        self.wake.notify_one();
        true
    }

    /// Queues an unreliable frame; returns how many were dropped for it.
    pub(crate) fn push_unreliable(&mut self, body: server_frame::Body) -> u64 {
        if let Some(moved) = &self.moved {
            return moved.forward_loose(body);
        }
        if self.ended.is_some() || !self.is_connected {
            return 1;
        }
        let dropped = self.queue.push_unreliable(body);
        self.wake.notify_one();
        dropped
    }

    /// Queues a reliable frame that another device has sent and that may come in any order; whether it
    /// took the place of an older one of the same topic.
    ///
    /// # Errors
    /// As [`Self::push_from_peer`].
    pub(crate) fn push_unordered(
        &mut self,
        member: &Member,
        body: server_frame::Body,
        topic: Option<Topic>,
    ) -> Result<bool, Overflow> {
        if self.ended.is_some() {
            return Ok(false);
        }
        if self.moved.is_some() || self.arriving.is_some() {
            // It takes its turn among all others.
            return self.push_from_peer(body, Some(member)).map(|()| false);
        }
        let before = (self.outbox.len(), self.outbox.bytes());
        let replaced = self.queue.push_unordered(body, topic, before)?;
        self.wake.notify_one();
        Ok(replaced)
    }

    /// Whether a device for whose messages there is no place has not acknowledged anything for so long.
    pub(crate) fn is_stuck(&mut self, now: Instant, behind_max: Duration) -> bool {
        let since = *self.behind_since.get_or_insert(now);
        self.is_connected && now.saturating_duration_since(since) >= behind_max
    }

    /// What connection number `connection` is to do next, or when to ask again at the latest.
    pub(crate) fn poll_outgoing(
        &mut self,
        connection: u64,
        now: Instant,
    ) -> Result<Outgoing, Option<Instant>> {
        if let Some(ended) = &self.ended {
            return Ok(Outgoing::Close(ended.reject.clone()));
        }
        if self.moved.is_some() {
            return Ok(Outgoing::Close(None));
        }
        if connection != self.connection {
            let reject = Reject::new(ErrorCode::Replaced, "the session goes on elsewhere");
            return Ok(Outgoing::Close(Some(reject)));
        }
        if let Some(frame) = self.urgent.pop_front() {
            return Ok(Outgoing::Reliable(self.acknowledging(frame)));
        }
        self.unreliable_next = !self.unreliable_next;
        let is_reliable_next = self.outbox.is_pending() || self.may_send_unordered();
        if (self.unreliable_next || !is_reliable_next)
            && let Some(frame) = self.queue.pop_datagram()
        {
            return Ok(Outgoing::Unreliable(frame));
        }
        self.number_unordered();
        if let Some(frame) = self.outbox.poll_frame() {
            return Ok(Outgoing::Reliable(self.acknowledging(frame)));
        }
        let due = self.inbox.poll_timeout();
        if due.is_some_and(|due| due <= now) {
            let body = Some(server_frame::Body::Acknowledge(v1::Ack {}));
            let frame = ServerFrame {
                body,
                ..ServerFrame::default()
            };
            return Ok(Outgoing::Reliable(self.acknowledging(frame)));
        }
        Err(due)
    }

    /// Messages without an order get their place as late as may be, so that newer values can still take
    /// the place of older ones, and what is in order does not wait for them.
    fn may_send_unordered(&self) -> bool {
        self.queue.has_unordered() && self.outbox.len() < UNORDERED_FRAMES_MAX
    }

    /// Puts the next message without an order behind those in order, when it is its turn.
    fn number_unordered(&mut self) {
        self.unordered_next = !self.unordered_next;
        let is_turn = self.unordered_next || !self.outbox.is_pending();
        if is_turn
            && self.may_send_unordered()
            && let Some(body) = self.queue.pop_unordered()
        {
            let frame = ServerFrame {
                body: Some(body),
                ..ServerFrame::default()
            };
            // It was counted as if it were there already, so there is a place.
            let pushed = self.outbox.push(frame);
            debug_assert!(pushed.is_ok(), "{pushed:?}");
        }
    }

    fn acknowledging(&mut self, mut frame: ServerFrame) -> ServerFrame {
        frame.set_ack(self.inbox.take_ack());
        frame
    }
}

/// So many frames may be on their way to a device, or it is not told anything without an order.
const UNORDERED_FRAMES_MAX: usize = 256;

/// Pongs and the like that wait for a connection.
const URGENT_MAX: usize = 16;
