//! A device that is in a group: it posts one thing after the other there, and reads what all have posted.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_wire::v1::{
    self, ErrorCode, group_event, group_request, group_response, request, response, social_request,
    social_response,
};

use super::Violation;

/// A device's part in the group.
#[derive(Debug, Default)]
pub(crate) struct Posts {
    is_member: bool,
    /// It makes the group; else, or when there is one already, it joins it.
    makes: bool,
    /// Up to where it has read, and from where on.
    place: Option<v1::Place>,
    pub(crate) begun: u64,
    /// Who posted which, and what it says.
    pub(crate) read: BTreeMap<u64, (String, String)>,
    /// When it asks to be told of the group; `None` while it is.
    open_at: Option<Instant>,
    /// It has asked, and waits for the answer.
    is_entering: bool,
    is_open: bool,
    /// What it posted, and the number that it was told: in order.
    pub(crate) posted: Vec<Option<u64>>,
    /// When it posts the last one again.
    post_at: Option<Instant>,
}

/// What a device asks about the group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Make,
    Join,
    Open,
    Post,
}

impl Posts {
    /// A connection begins, perhaps with the session of the one before.
    pub(super) fn on_welcome(&mut self, is_resumed: bool) {
        let now = Some(Instant::now());
        self.open_at = now;
        self.is_entering &= is_resumed;
        if !is_resumed && matches!(self.posted.last(), Some(None)) {
            self.post_at = now;
        }
    }

    /// The device posts something, if what it posted before has arrived.
    pub(crate) fn post(&mut self) {
        if !matches!(self.posted.last(), Some(None)) {
            self.posted.push(None);
            self.post_at = Some(Instant::now());
        }
    }

    /// What a post says.
    pub(crate) fn text(user: &str, number: usize) -> String {
        format!("{user} posts {number}")
    }

    /// What is to be asked now.
    pub(super) fn poll(&mut self, user: &str) -> Option<(Call, request::Kind)> {
        let now = Instant::now();
        let (call, kind) = if !self.is_entering && self.open_at.is_some_and(|at| at <= now) {
            (self.open_at, self.is_entering) = (None, true);
            self.enter()
        } else {
            self.post_at.filter(|at| self.is_open && *at <= now)?;
            self.post_at = None;
            let number = self.posted.len();
            let mut id: Vec<_> = user.bytes().cycle().take(8).collect();
            id.extend((number as u64).to_be_bytes());
            let post = v1::GroupPost {
                id: id.into(),
                payload: Self::text(user, number).into(),
            };
            (Call::Post, group_request::Kind::Post(post))
        };
        let group = v1::GroupRequest {
            group: CLUB.to_owned(),
            kind: Some(kind),
        };
        let kind = Some(social_request::Kind::Group(group));
        Some((call, request::Kind::Social(v1::SocialRequest { kind })))
    }

    fn enter(&self) -> (Call, group_request::Kind) {
        if self.is_member {
            let after = self.place.clone();
            let open = v1::OpenGroup { after };
            return (Call::Open, group_request::Kind::Open(open));
        }
        if !self.makes {
            return (Call::Join, group_request::Kind::Join(v1::JoinGroup {}));
        }
        let settings = v1::GroupSettings {
            title: CLUB.to_owned(),
            open: true,
            roles: Vec::new(),
        };
        let settings = Some(settings);
        let create = group_request::Kind::Create(v1::CreateGroup { settings });
        (Call::Make, create)
    }

    pub(super) fn on_answer(
        &mut self,
        call: Call,
        result: Option<response::Result>,
    ) -> Result<(), Violation> {
        use group_response::Result as Answer;

        let now = Instant::now();
        let later = Some(now + PAUSE);
        self.is_entering &= matches!(call, Call::Post);
        match (call, group(result)) {
            (Call::Make | Call::Join, Ok(Answer::Done(_))) => {
                (self.is_member, self.open_at) = (true, Some(now));
            }
            (Call::Make, Err(ErrorCode::GroupExists)) => {
                (self.makes, self.open_at) = (false, Some(now));
            }
            (Call::Join, Err(ErrorCode::NoSuchGroup)) => {
                (self.makes, self.open_at) = (true, Some(now));
            }
            (Call::Open, Ok(Answer::Opened(opened))) => return self.on_opened(opened),
            (Call::Post, Ok(Answer::Posted(posted))) => {
                if let Some(known) = self.posted.last_mut() {
                    *known = Some(posted.number);
                }
            }
            (_, Err(ErrorCode::Unavailable | ErrorCode::Unsure | ErrorCode::Limit)) => match call {
                Call::Post => self.post_at = later,
                Call::Make | Call::Join | Call::Open => self.open_at = later,
            },
            (call, result) => return Err(format!("{call:?} is answered {result:?}")),
        }
        Ok(())
    }

    fn on_opened(&mut self, opened: v1::GroupOpened) -> Result<(), Violation> {
        self.is_open = true;
        match &self.place {
            Some(place) if !opened.recovered => Err(format!("the group has lost {place:?}")),
            Some(_) => Ok(()),
            None => {
                self.begun = opened.last.as_ref().map_or(0, |last| last.offset);
                self.place = opened.last;
                Ok(())
            }
        }
    }

    /// Posts come one by one; those that were told before come again when the group is opened again.
    pub(super) fn on_event(&mut self, event: v1::GroupEvent) -> Result<(), Violation> {
        let known = self.place.as_ref().map_or(0, |place| place.offset);
        match event.kind {
            Some(group_event::Kind::Message(post)) => {
                let text = String::from_utf8_lossy(&post.payload).into_owned();
                let heard = (post.from, text);
                if post.number <= known && self.read.get(&post.number) == Some(&heard) {
                    return Ok(());
                }
                let place = self.place.as_mut().filter(|_| post.number == known + 1);
                let Some(place) = place else {
                    let number = post.number;
                    return Err(format!("reads the post {number} {heard:?} after {known}"));
                };
                place.offset = post.number;
                self.read.insert(post.number, heard);
                Ok(())
            }
            Some(group_event::Kind::Place(place)) => {
                let is_there = place.at.as_ref().is_some_and(|at| at.offset == known);
                (is_there && !place.lost)
                    .then_some(())
                    .ok_or_else(|| format!("is at {known} in the group, and told {place:?}"))
            }
            Some(group_event::Kind::Over(over)) => Err(format!("the group is over: {over:?}")),
            Some(group_event::Kind::Settings(_) | group_event::Kind::Role(_)) | None => Ok(()),
        }
    }
}

fn group(result: Option<response::Result>) -> Result<group_response::Result, ErrorCode> {
    match result {
        Some(response::Result::Failure(failure)) => Err(failure.code()),
        Some(response::Result::Social(v1::SocialResponse {
            result: Some(social_response::Result::Group(response)),
        })) => response.result.ok_or(ErrorCode::Unspecified),
        _ => Err(ErrorCode::Unspecified),
    }
}

/// The group.
pub(crate) const CLUB: &str = "club";

/// Between two times that a device asks.
const PAUSE: Duration = Duration::from_millis(250);
