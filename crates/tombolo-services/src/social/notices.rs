//! Notices: what servers tell all users, or those with a tag. A board is the log `notices.<board>`.
//!
//! Each node reads the boards that some device here is told of. A notice to a hundred thousand devices is
//! one entry; the nodes spread the telling over time ([`Config::notices`]), each at a pace of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tombolo_engine::{Key, Purpose};
use tombolo_social::board::{Board, Done, Entry, Notice, PAYLOAD_BYTES_MAX};
use tombolo_social::{EntryError, MessageId, OperationId, Place, Time};
use tombolo_wire::v1::{
    self, ErrorCode, notice_event, notice_request, notice_response, server_frame, social_event,
    social_response,
};
use tombolo_wire::{TAGS_MAX, TagName};

use super::follower::{Applied, Followers, Following, Listening, Machine, Never, Reached, Told};
use super::{answer, bad_frame, event, is_there, on_the_way, operation_id, take, time};
use crate::config::Config;
use crate::lock::lock;
use crate::node::Node;
use crate::rate::Bucket;
use crate::reject::Reject;
use crate::services::Services;
use crate::session::Session;

/// How fast this node tells devices of notices.
pub(super) struct Tellers(Mutex<Bucket>);

/// A request that was found to be in order.
pub(crate) enum NoticeRequest {
    Open(BTreeMap<TagName, Place>),
    Close,
}

/// The boards that a session is told of.
pub(super) type OpenBoards = Vec<Listening<Board>>;

/// A device that is told what is on a board.
pub(super) struct NoticeListener {
    session: Arc<Session>,
    board: TagName,
    /// Up to where it was told; `None` when it knows nothing.
    at: Option<Place>,
    /// It was told more, which is void.
    has_lost: bool,
}

/// A notice was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notified {
    /// Its number on its board.
    pub number: u64,
    /// It had been sent before, under the same id.
    pub is_repeated: bool,
}

impl Tellers {
    pub(super) fn new(config: &Config) -> Self {
        let now = Instant::now().into_std();
        Self(Mutex::new(Bucket::new(config.notices, now)))
    }

    fn may_tell(&self) -> bool {
        lock(&self.0).take(Instant::now().into_std(), 1)
    }

    /// Nobody was told after all.
    fn put_back(&self) {
        lock(&self.0).put_back(1);
    }
}

impl Services {
    /// Tells something to the users whose tokens have a tag, or to everybody for the tag `all`: to their
    /// devices that are connected, and to others when they come back, until it expires. Under the same id,
    /// random for `None`, it is told once.
    ///
    /// # Errors
    /// It is too long, or lasts too long, or the engine does not answer: of what has no id nobody knows
    /// then whether it was done ([`ErrorCode::Unsure`]).
    pub async fn notify(
        &self,
        board: &TagName,
        id: Option<[u8; 16]>,
        payload: Bytes,
        lasts: Duration,
    ) -> Result<Notified, Reject> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!("a notice has at most {PAYLOAD_BYTES_MAX} bytes");
            return Err(Reject::new(ErrorCode::TooLarge, message));
        }
        if lasts.is_zero() || lasts > LASTS_MAX {
            let message = "a notice lasts for a millisecond to 30 days";
            return Err(Reject::new(ErrorCode::Limit, message));
        }
        let node = self.node();
        let following = follow(node, board).await?;
        let (operation, now) = (operation_id(node)?, time(node));
        let entry = Entry {
            operation,
            time: now,
            expires: now.after(lasts),
            id: MessageId(id.unwrap_or(operation.0)),
            payload,
        };
        let result = following
            .propose(operation, Purpose::More, entry.encode())
            .await;
        let result = match id {
            // Whoever asks again does it once.
            Some(_) => result.map_err(on_the_way)?,
            None => result?,
        };
        let Done {
            number,
            is_repeated,
        } = match result {
            Ok(done) => done,
            Err(never) => match never {},
        };
        node.counters.notices.add(u64::from(!is_repeated));
        Ok(Notified {
            number,
            is_repeated,
        })
    }
}

pub(super) fn parse(
    session: &Session,
    request: v1::NoticeRequest,
    now: std::time::Instant,
) -> Result<NoticeRequest, Reject> {
    let kind = request
        .kind
        .ok_or_else(|| bad_frame("the request asks for nothing known"))?;
    match kind {
        notice_request::Kind::Open(v1::OpenNotices { after }) => {
            if after.len() > TAGS_MAX + 1 {
                return Err(bad_frame("there are not as many boards"));
            }
            let after = after.iter().map(|place| {
                let board = TagName::parse(&place.board);
                let board = board.map_err(|error| Reject::new(error.code(), error))?;
                let at = place.at.as_ref().and_then(Place::parse);
                Ok((board, at.ok_or_else(|| bad_frame("that is no place"))?))
            });
            let after = after.collect::<Result<_, Reject>>()?;
            take(session, now)?;
            Ok(NoticeRequest::Open(after))
        }
        notice_request::Kind::Close(v1::CloseNotices {}) => Ok(NoticeRequest::Close),
    }
}

pub(super) async fn carry_out(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    request: NoticeRequest,
    open: &mut OpenBoards,
) -> Result<(), Reject> {
    // Whoever opens them again is told anew, from where it says.
    open.clear();
    let NoticeRequest::Open(after) = request else {
        let closed = notice_response::Result::Closed(v1::NoticesClosed {});
        respond(node, session, id, closed);
        return Ok(());
    };
    let mut boards: BTreeSet<_> = session.lock().tags.iter().cloned().collect();
    boards.insert(everybody());
    let mut followings = Vec::new();
    for board in &boards {
        followings.push(follow(node, board).await?);
    }
    let until = Reached::soon();
    for (board, following) in boards.iter().zip(&followings) {
        if let Some(at) = after.get(board) {
            let has_it = |board: &Board| is_there(board.last(), *at);
            following.reach(until, has_it).await?;
        }
    }
    let opened = v1::NoticesOpened {
        boards: boards.iter().map(ToString::to_string).collect(),
    };
    respond(node, session, id, notice_response::Result::Opened(opened));
    for (board, following) in boards.into_iter().zip(followings) {
        let listener = NoticeListener {
            session: Arc::clone(session),
            at: after.get(&board).copied(),
            has_lost: false,
            board,
        };
        open.push(following.listen(session, |_| listener));
    }
    Ok(())
}

fn respond(node: &Arc<Node>, session: &Arc<Session>, id: u64, result: notice_response::Result) {
    let response = v1::NoticeResponse {
        result: Some(result),
    };
    answer(
        node,
        session,
        id,
        social_response::Result::Notices(response),
    );
}

async fn follow(node: &Arc<Node>, board: &TagName) -> Result<Following<Board>, Reject> {
    let key = Key::new([BOARDS, board.as_str()]);
    let key = key.map_err(|error| Reject::new(ErrorCode::BadName, error))?;
    Following::begin(node, key).await
}

fn everybody() -> TagName {
    TagName::parse(EVERYBODY).expect("the name is good")
}

impl NoticeListener {
    /// Whether the device has been told.
    fn tell(&mut self, node: &Arc<Node>, at: Place, kind: notice_event::Kind) -> bool {
        let told = v1::NoticeEvent {
            at: Some(v1::NoticePlace {
                board: self.board.to_string(),
                at: Some(at.into()),
            }),
            kind: Some(kind),
        };
        let body: server_frame::Body = event(social_event::Kind::Notice(told));
        let is_told = node.push_from_log(&self.session, body).is_ok();
        if is_told {
            self.at = Some(at);
        }
        is_told
    }
}

fn on_wire(notice: &Notice) -> v1::Notice {
    v1::Notice {
        time_ms: notice.time.as_millis(),
        expires_ms: notice.expires.as_millis(),
        id: Bytes::copy_from_slice(&notice.id.0),
        payload: notice.payload.clone(),
    }
}

impl Machine for Board {
    type Done = Done;
    type Illegal = Never;
    type Listener = NoticeListener;

    const SNAPSHOT_ENTRIES: usize = 64;

    fn followers(node: &Node) -> &Followers<Self> {
        &node.social.boards
    }

    fn restore(snapshot: &[u8]) -> Option<Self> {
        Self::restore(snapshot).ok()
    }

    fn snapshot(&self) -> Option<Bytes> {
        Some(self.snapshot())
    }

    fn agreed(&self, other: &Self) -> u64 {
        self.agreed(other)
    }

    fn go_back(listener: &mut NoticeListener, to: u64) {
        if let Some(at) = &mut listener.at
            && at.offset > to
        {
            at.offset = to;
            listener.has_lost = true;
        }
    }

    fn apply(&mut self, entry: &[u8]) -> Result<Applied<Self>, EntryError> {
        let entry = Entry::decode(entry)?;
        let operation: OperationId = entry.operation;
        Ok((operation, Ok(self.apply(&entry))))
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }

    fn tell(&self, node: &Arc<Node>, listener: &mut NoticeListener) -> Told {
        let Some(last) = self.last() else {
            return Told::Known;
        };
        if listener.at == Some(last) && !listener.has_lost {
            return Told::Known;
        }
        if listener.session.lock().ended().is_some() {
            return Told::Gone;
        }
        if let Some(at) = listener.at
            && (listener.has_lost || !self.is_recoverable(at))
        {
            let offset = match at {
                at if self.is_recoverable(at) => at.offset,
                at if at.epoch == last.epoch => self.lost(),
                _ => 0,
            };
            let lost = notice_event::Kind::Lost(v1::NoticesLost {});
            if !listener.tell(node, Place { offset, ..last }, lost) {
                return Told::Behind;
            }
            listener.has_lost = false;
        }
        let after = listener.at.map_or(0, |at| at.offset);
        let now: Time = time(node);
        let tellers = &node.social.tellers;
        let mut behind = Told::Behind;
        for notice in self.notices_after(after) {
            let offset = notice.number;
            if notice.expires <= now {
                continue;
            }
            let kind = notice_event::Kind::Notice(on_wire(notice));
            if !tellers.may_tell() {
                return behind;
            }
            if !listener.tell(node, Place { offset, ..last }, kind) {
                tellers.put_back();
                return behind;
            }
            behind = Told::Some;
            node.counters.delivered.add(1);
        }
        listener.at = Some(last);
        Told::All
    }
}

/// Of all boards, among the logs.
const BOARDS: &str = "notices";

/// The board that is for everybody.
const EVERYBODY: &str = "all";

/// How long a notice may last.
const LASTS_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
