//! A device that keeps to the contract between devices and nodes, and checks that nodes do.

mod connect;
mod letters;
mod posts;
mod seeking;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::connect::Greeting;
use self::letters::Post;
pub(crate) use self::letters::{Letters, Outcome};
use self::posts::Call;
pub(crate) use self::posts::{CLUB, Posts};
pub(crate) use self::seeking::{End, TicketName};
use self::seeking::{Errand, Seeking};
pub(crate) use self::view::{Told, View};
use super::court::COURT;
use super::deed::{Deed, Deeds, Refusal, What};
use super::place::Line;
use super::presence::Following;
use super::trace::note;
use tombolo_wire::resend::{Inbox, Limits, Outbox, Receipt};
use tombolo_wire::v1::{
    self, ClientFrame, ErrorCode, JoinMode, client_frame, request, response, room_act,
    server_frame, social_event,
};

/// Something that a device asked for and was not answered yet.
#[derive(Clone, Debug)]
enum Asked {
    Join(String),
    Leave(String),
    Act(Deed),
    Match(Errand),
    Letter(Post),
    Group(Call),
    Follow,
}

/// What a device said that is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nobody has answered yet, or ever will.
    Unknown,
    /// It has this number in the room.
    Kept(u64),
    /// The same, but it was asked for more than once: what was said after it may be before it.
    KeptLate(u64),
    Refused,
}

pub(crate) struct Device {
    pub(crate) name: String,
    token: String,
    /// The node that it is connected to.
    pub(crate) node: Option<usize>,
    connection: Option<Line>,
    /// Its node wants it to go on over another one.
    is_asked_to_go: bool,
    /// Another node is asked for the session; the connection, if there is one, goes on until that has it.
    greeting: Option<Greeting>,
    /// Another node has sent it away, to where there is less to do.
    was_sent: bool,
    /// The node has said what it has of the session: before that nothing may be sent.
    is_welcome: bool,
    /// When it tries again.
    pub(crate) retry_at: Instant,
    /// How often it greeted a node.
    hellos: u64,
    outbox: Outbox<ClientFrame>,
    inbox: Inbox,
    resume_token: Option<Bytes>,
    /// The session that it was given last.
    pub(crate) session: Bytes,
    /// The name of the node that has it.
    host: String,
    next_request: u64,
    /// Grows whenever something is asked for, or answered.
    pub(crate) turns: u64,
    asked: BTreeMap<u64, Asked>,
    again: Deeds,
    deeds: u64,
    /// The rooms that it wants to be in.
    pub(crate) wants: BTreeSet<String>,
    pub(crate) views: BTreeMap<String, View>,
    /// By room and own number.
    pub(crate) said: BTreeMap<String, Vec<Said>>,
    /// How often it did something in a room: acknowledged, and unknown.
    done: BTreeMap<(String, What), (i64, i64)>,
    /// The objects that it made, by room and kind.
    pub(crate) made: BTreeMap<(String, String), u64>,
    /// What it found when it became a room's owner.
    pub(crate) states: Vec<(String, Bytes)>,
    /// What it was told since that was looked at last.
    pub(crate) told: Vec<Told>,
    /// Which of its sessions this is: plain messages are in order within one.
    pub(crate) life: u64,
    sent: u64,
    /// Frames that were not carried out, or not for everybody, by session.
    pub(crate) refused: BTreeSet<(u64, u64)>,
    /// The last plain message of each life of each sender. What an earlier session said may still be on its
    /// way from the node that it was on.
    heard: BTreeMap<(String, u64), u64>,
    /// All plain messages that it heard: from whom, of which session, and their numbers.
    pub(crate) heard_all: BTreeSet<(String, u64, u64)>,
    pub(crate) resumed: u64,
    pub(crate) following: Following,
    pub(crate) seeking: Seeking,
    pub(crate) letters: Letters,
    pub(crate) posts: Posts,
}

/// What went against the contract.
pub(crate) type Violation = String;

impl Device {
    pub(crate) fn new(name: &str, token: String) -> Self {
        Self {
            name: name.to_owned(),
            token,
            node: None,
            connection: None,
            is_asked_to_go: false,
            greeting: None,
            was_sent: false,
            is_welcome: false,
            retry_at: Instant::now(),
            hellos: 0,
            outbox: Outbox::new(Limits::default()),
            inbox: Inbox::new(),
            resume_token: None,
            session: Bytes::new(),
            host: String::new(),
            next_request: 1,
            turns: 0,
            asked: BTreeMap::new(),
            again: Deeds::default(),
            deeds: 0,
            wants: BTreeSet::new(),
            views: BTreeMap::new(),
            said: BTreeMap::new(),
            done: BTreeMap::new(),
            made: BTreeMap::new(),
            states: Vec::new(),
            told: Vec::new(),
            life: 0,
            sent: 0,
            refused: BTreeSet::new(),
            heard: BTreeMap::new(),
            heard_all: BTreeSet::new(),
            resumed: 0,
            following: Following::default(),
            seeking: Seeking::default(),
            letters: Letters::default(),
            posts: Posts::default(),
        }
    }

    /// Whether it takes itself for a member of a room.
    pub(crate) fn is_in(&self, room: &str) -> bool {
        is_in(&self.views, room)
    }

    /// Whether it waits for an answer about being in the room.
    pub(crate) fn is_between(&self, room: &str) -> bool {
        let mut asked = self.asked.values();
        asked.any(|asked| matches!(asked, Asked::Join(of) | Asked::Leave(of) if of == room))
    }

    /// Whether it is in a room in which its seat is kept for long, and wants to be.
    pub(crate) fn is_in_a_room(&self) -> bool {
        let mut wants = self.wants.iter();
        wants.any(|room| room != COURT && is_in(&self.views, room))
    }

    /// How often it did each thing in a room: acknowledged, and not or not yet.
    pub(crate) fn done(&self, room: &str) -> BTreeMap<&What, (i64, i64)> {
        let done = self.done.iter().filter(|((of, _), _)| of == room);
        let mut done: BTreeMap<_, _> = done.map(|((_, what), counts)| (what, *counts)).collect();
        for asked in self.asked.values() {
            if let Asked::Act(deed) = asked
                && deed.room == room
                && !deed.may_be_done
            {
                done.entry(&deed.what).or_default().1 += 1;
            }
        }
        done
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "a device ignores what it does not ask for"
    )]
    fn on_frame(&mut self, frame: v1::ServerFrame) -> Result<(), Violation> {
        let Some(body) = frame.body else {
            return Err(format!("{}: a frame says nothing", self.name));
        };
        if let server_frame::Body::Welcome(welcome) = body {
            return self.on_welcome(welcome, frame.ack);
        }
        self.outbox
            .handle_ack(frame.ack)
            .map_err(|error| format!("{}: {error:?}", self.name))?;
        let receipt = self
            .inbox
            .handle_frame(Instant::now().into_std(), frame.seq)
            .map_err(|gap| format!("{}: frames are missing: {gap:?}", self.name))?;
        if receipt == Receipt::Repeated {
            return Ok(());
        }
        note(|| format!("{} {} < {body:?}", self.name, frame.seq));
        match body {
            server_frame::Body::Response(response) => self.on_response(response),
            server_frame::Body::RoomEvent(event) => self.on_room_event(event),
            server_frame::Body::Delivery(delivery) => self.on_delivery(&delivery),
            server_frame::Body::Social(v1::SocialEvent {
                kind: Some(social_event::Kind::Presence(changes)),
            }) => {
                let told = self.following.on_changes(&changes);
                told.map_err(|violation| format!("{}: {violation}", self.name))
            }
            server_frame::Body::Social(v1::SocialEvent {
                kind: Some(social_event::Kind::Direct(event)),
            }) => {
                let told = self.letters.on_event(event);
                told.map_err(|violation| format!("{}: {violation}", self.name))
            }
            server_frame::Body::Social(v1::SocialEvent {
                kind: Some(social_event::Kind::Group(event)),
            }) => {
                let told = self.posts.on_event(event);
                told.map_err(|violation| format!("{}: {violation}", self.name))
            }
            server_frame::Body::Matchmaker(event) => {
                let told = self.seeking.on_event(event);
                told.map_err(|violation| format!("{}: {violation}", self.name))
            }
            server_frame::Body::Refused(refused) => {
                self.refused.insert((self.life, refused.seq));
                Ok(())
            }
            server_frame::Body::GoAway(_) => {
                self.is_asked_to_go = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_welcome(&mut self, welcome: v1::Welcome, ack: u64) -> Result<(), Violation> {
        note(|| format!("{} < {welcome:?}", self.name));
        self.resume_token = Some(welcome.resume_token);
        self.session = welcome.session_id;
        let before = std::mem::replace(&mut self.host, welcome.node);
        self.is_welcome = true;
        self.letters.on_welcome(welcome.resumed);
        self.posts.on_welcome(welcome.resumed);
        if welcome.resumed {
            self.resumed += 1;
            if before != self.host {
                self.seeking.on_other_node();
            }
            self.outbox
                .handle_ack(ack)
                .map_err(|error| format!("{}: {error:?}", self.name))?;
            self.outbox.rewind();
            self.follow();
            return Ok(());
        }
        self.outbox = Outbox::new(Limits::default());
        self.inbox = Inbox::new();
        self.life += 1;
        self.turns += 1;
        // What became of what was asked before is told to who asks again.
        for asked in std::mem::take(&mut self.asked).into_values() {
            if let Asked::Act(deed) = asked {
                self.on_refused(deed, ErrorCode::Unsure);
            }
        }
        self.seeking.on_new_session();
        for view in self.views.values_mut() {
            (view.is_joined, view.is_synced) = (false, false);
        }
        for room in self.wants.clone() {
            self.join(&room);
        }
        self.follow();
        Ok(())
    }

    /// Says whom it follows: that is not kept for it.
    fn follow(&mut self) {
        if !self.following.statuses.is_empty() {
            self.ask(Asked::Follow, self.following.ask());
        }
    }

    pub(crate) fn join(&mut self, room: &str) {
        self.wants.insert(room.to_owned());
        let view = self.views.entry(room.to_owned()).or_default();
        view.stay += 1;
        let after = view.last.clone().map(|last| v1::MessagePosition {
            opening: last.opening,
            number: last.number,
        });
        let join = v1::Join {
            room: room.to_owned(),
            mode: JoinMode::JoinOrCreate.into(),
            settings: Some(v1::RoomSettings {
                members_max: 16,
                seat_kept_ms: if room == COURT { 700 } else { 20_000 },
                empty_kept_ms: if room == BRIEF { 0 } else { 3_600_000 },
                owner_policy: v1::OwnerPolicy::Automatic.into(),
                writers: v1::Writers::Everybody.into(),
                history_max: 1000,
                ..v1::RoomSettings::default()
            }),
            after,
            ..v1::Join::default()
        };
        self.ask(Asked::Join(room.to_owned()), request::Kind::Join(join));
    }

    pub(crate) fn leave(&mut self, room: &str) {
        self.wants.remove(room);
        self.views.entry(room.to_owned()).or_default().stay += 1;
        let leave = v1::Leave {
            room: room.to_owned(),
        };
        self.ask(Asked::Leave(room.to_owned()), request::Kind::Leave(leave));
    }

    pub(crate) fn say(&mut self, room: &str) {
        let said = self.said.entry(room.to_owned()).or_default();
        let number = said.len() as u64;
        said.push(Said::Unknown);
        let say = v1::Say {
            audience: None,
            payload: format!("{} {number}", self.name).into(),
        };
        self.begin(room, What::Say(number), room_act::Kind::Say(say));
    }

    /// Counts up a property of the room.
    pub(crate) fn add(&mut self, room: &str) {
        let change = v1::PropertyChange {
            key: COUNT.to_owned(),
            operation: Some(v1::property_change::Operation::Add(1)),
            ..v1::PropertyChange::default()
        };
        let change = v1::ChangeProperties {
            changes: vec![change],
            ..v1::ChangeProperties::default()
        };
        self.begin(room, What::Add, room_act::Kind::Change(change));
    }

    /// Sends a plain message to everybody else; returns its number, and its frame's.
    pub(crate) fn send(&mut self, room: &str) -> Option<(u64, u64)> {
        self.sent += 1;
        let payload = format!("{} {}", self.life, self.sent);
        let seq = self.push(client_frame::Body::Send(v1::Send {
            room: room.to_owned(),
            payload: payload.into(),
            ..v1::Send::default()
        }))?;
        Some((self.sent, seq))
    }

    pub(super) fn begin(&mut self, room: &str, what: What, act: room_act::Kind) {
        self.deeds += 1;
        self.ask_act(Deed::new(room, what, act, self.deeds));
    }

    /// A number that no other of its deeds has.
    pub(crate) fn next_number(&self) -> u64 {
        self.deeds + 1
    }

    fn ask_act(&mut self, deed: Deed) {
        let kind = deed.on_wire();
        self.ask(Asked::Act(deed), kind);
    }

    fn ask(&mut self, asked: Asked, kind: request::Kind) {
        let id = self.next_request;
        self.next_request += 1;
        self.turns += 1;
        self.asked.insert(id, asked);
        self.push(client_frame::Body::Request(v1::Request {
            id,
            kind: Some(kind),
        }));
    }

    /// What does not fit is not sent: a device that is away for long says less.
    fn push(&mut self, body: client_frame::Body) -> Option<u64> {
        let frame = ClientFrame {
            body: Some(body),
            ..ClientFrame::default()
        };
        let seq = self.outbox.push(frame).ok();
        self.transmit();
        seq
    }

    fn transmit(&mut self) {
        while let Some(connection) = &self.connection {
            // Who gives the session away must not hear more of it meanwhile.
            let is_heard = self.is_welcome && connection.is_open();
            if !is_heard || self.greeting.is_some() {
                return;
            }
            let Some(mut frame) = self.outbox.poll_frame() else {
                return;
            };
            frame.ack = self.inbox.take_ack();
            note(|| format!("{} {} > {:?}", self.name, frame.seq, frame.body));
            if let Err(reject) = connection.receive(frame) {
                self.on_close(Some(&reject));
            }
        }
    }

    fn on_response(&mut self, response: v1::Response) -> Result<(), Violation> {
        let Some(asked) = self.asked.remove(&response.id) else {
            return Err(format!("{}: an answer to nothing: {response:?}", self.name));
        };
        self.turns += 1;
        let failure = match &response.result {
            Some(response::Result::Failure(failure)) => Some(failure.code()),
            _ => None,
        };
        match (asked, response.result) {
            (Asked::Join(room), Some(response::Result::Joined(joined))) => {
                self.on_joined(&room, &joined);
            }
            (Asked::Join(room), _) if failure == Some(ErrorCode::Banned) => {
                self.wants.remove(&room);
            }
            // Whoever cannot come in now tries again.
            (Asked::Join(room), _) => {
                if self.wants.contains(&room) {
                    self.lose_connection(RETRY);
                    self.resume_token = None;
                }
            }
            (Asked::Leave(room), Some(response::Result::Left(_))) => {
                self.views.entry(room).or_default().is_joined = false;
            }
            // It is still in, unless it was put out meanwhile.
            (Asked::Leave(room), _) => {
                if is_in(&self.views, &room) {
                    self.wants.insert(room);
                }
            }
            (Asked::Act(deed), Some(response::Result::Acted(acted))) => {
                self.on_acted(&deed, &acted);
            }
            (Asked::Act(deed), _) => {
                self.on_refused(deed, failure.unwrap_or(ErrorCode::Unspecified));
            }
            (Asked::Match(errand), result) => {
                let result = match result {
                    Some(response::Result::Matchmaker(response)) => Ok(response.result),
                    _ => Err(failure.unwrap_or(ErrorCode::Unspecified)),
                };
                let told = self.seeking.on_answer(errand, result);
                told.map_err(|violation| format!("{}: {violation}", self.name))?;
            }
            (Asked::Letter(post), result) => {
                let told = self.letters.on_answer(post, result);
                told.map_err(|violation| format!("{}: {violation}", self.name))?;
            }
            (Asked::Group(call), result) => {
                let told = self.posts.on_answer(call, result);
                told.map_err(|violation| format!("{}: {violation}", self.name))?;
            }
            (Asked::Follow, result) => {
                let told = self.following.on_response(result);
                if !told.map_err(|violation| format!("{}: {violation}", self.name))? {
                    self.follow();
                }
            }
        }
        Ok(())
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "most things are counted, and no more"
    )]
    fn on_acted(&mut self, deed: &Deed, acted: &v1::Acted) {
        let message = acted.message;
        if let What::Say(own) = &deed.what {
            self.told.push(Told {
                room: deed.room.clone(),
                number: message,
                text: format!("{} {own}", self.name),
            });
        }
        match &deed.what {
            What::Say(own) if deed.may_be_done => self.book(deed, *own, Said::KeptLate(message)),
            What::Say(own) => self.book(deed, *own, Said::Kept(message)),
            what => {
                match (what, self.views.get_mut(&deed.room)) {
                    (What::Make(kind), _) => {
                        let kind = (deed.room.clone(), kind.clone());
                        self.made.insert(kind, acted.object);
                    }
                    (What::Keep(_), Some(view)) => view.state = None,
                    _ => {}
                }
                let done = self.done.entry((deed.room.clone(), deed.what.clone()));
                let done = done.or_default();
                done.0 += 1;
                done.1 -= i64::from(deed.may_be_done);
            }
        }
    }

    fn on_refused(&mut self, mut deed: Deed, code: ErrorCode) {
        let was_clear = !deed.may_be_done;
        let refusal = deed.on_refused(code);
        if was_clear && deed.may_be_done && !matches!(deed.what, What::Say(_)) {
            let done = self.done.entry((deed.room.clone(), deed.what.clone()));
            done.or_default().1 += 1;
        }
        match (refusal, &deed.what) {
            (Refusal::Again, _) => self.again.add(deed),
            (Refusal::Final, What::Say(own)) => self.book(&deed, *own, Said::Refused),
            (Refusal::Final | Refusal::Unknown, _) => {}
        }
    }

    fn book(&mut self, deed: &Deed, own: u64, outcome: Said) {
        let said = self.said.entry(deed.room.clone()).or_default();
        if let Some(said) = said.get_mut(usize::try_from(own).unwrap_or(usize::MAX)) {
            *said = outcome;
        }
    }

    fn on_delivery(&mut self, delivery: &v1::Delivery) -> Result<(), Violation> {
        let text = String::from_utf8_lossy(&delivery.payload);
        let mut numbers = text
            .split(' ')
            .filter_map(|number| number.parse::<u64>().ok());
        let (Some(life), Some(number)) = (numbers.next(), numbers.next()) else {
            return Err(format!("{}: hears what nobody said: {text}", self.name));
        };
        let from = delivery.from.clone();
        self.heard_all.insert((from.clone(), life, number));
        let before = self.heard.insert((from, life), number);
        if let Some(before) = before.filter(|before| *before >= number) {
            let (name, from) = (&self.name, &delivery.from);
            return Err(format!(
                "{name}: hears {from}'s {life} {number} after {before}"
            ));
        }
        Ok(())
    }
}

fn is_in(views: &BTreeMap<String, View>, room: &str) -> bool {
    views.get(room).is_some_and(|view| view.is_joined)
}

/// A room that closes when nobody is in it: nothing is said there, devices come and go.
pub(crate) const BRIEF: &str = "brief";

/// The property that devices count up.
pub(crate) const COUNT: &str = "count";

/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(300);
