//! A device that writes letters to other users, one after the other, and reads its own.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_wire::v1::{
    self, ErrorCode, direct_event, direct_request, direct_response, request, response,
    social_request, social_response,
};

use super::Violation;

/// The letters of a device.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    /// Up to where it has read its inbox.
    place: Option<v1::Place>,
    /// From whom which letter is, and what it says.
    pub(crate) read: BTreeMap<u64, (String, String)>,
    /// When it asks for its inbox; `None` while it has it.
    open_at: Option<Instant>,
    /// It has asked, and waits for the answer.
    is_opening: bool,
    is_open: bool,
    /// What it wrote, to whom, and whether that was kept: in order.
    pub(crate) written: Vec<(String, Outcome)>,
    /// When it sends the last one again.
    send_at: Option<Instant>,
    /// How often it has sent the last one.
    attempts: u32,
}

/// What a device knows of a letter that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Unknown,
    Kept,
    /// There is no such user, or not yet.
    Refused,
    /// There was no such user, but the letter was sent before, over another node perhaps, where it may still be on
    /// its way to whoever comes.
    RefusedLater,
}

/// What a device asks about letters.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Post {
    Open,
    Send,
}

impl Letters {
    /// A connection begins, perhaps with the session of the one before.
    pub(super) fn on_welcome(&mut self, is_resumed: bool) {
        let now = Some(Instant::now());
        self.open_at = now;
        self.is_opening &= is_resumed;
        let is_under_way = matches!(self.written.last(), Some((_, Outcome::Unknown)));
        if !is_resumed && is_under_way {
            self.send_at = now;
        }
    }

    /// The device writes to somebody, if what it wrote before has arrived.
    pub(crate) fn write(&mut self, to: &str) {
        if !matches!(self.written.last(), Some((_, Outcome::Unknown))) {
            self.written.push((to.to_owned(), Outcome::Unknown));
            self.attempts = 0;
            self.send_at = Some(Instant::now());
        }
    }

    /// What a letter says.
    pub(crate) fn text(user: &str, number: usize) -> String {
        format!("{user} {number}")
    }

    /// What is to be asked now.
    pub(super) fn poll(&mut self, user: &str) -> Option<(Post, request::Kind)> {
        let now = Instant::now();
        let (post, kind) = if !self.is_opening && self.open_at.is_some_and(|at| at <= now) {
            (self.open_at, self.is_opening) = (None, true);
            let after = self.place.clone();
            (
                Post::Open,
                direct_request::Kind::Open(v1::OpenInbox { after }),
            )
        } else {
            self.send_at.filter(|at| self.is_open && *at <= now)?;
            self.send_at = None;
            self.attempts += 1;
            let number = self.written.len();
            let (to, _) = self.written.last()?;
            let mut id: Vec<_> = user.bytes().cycle().take(8).collect();
            id.extend((number as u64).to_be_bytes());
            let send = v1::DirectSend {
                to: to.clone(),
                id: id.into(),
                payload: Self::text(user, number).into(),
                copy: false,
            };
            (Post::Send, direct_request::Kind::Send(send))
        };
        let direct = v1::DirectRequest { kind: Some(kind) };
        let kind = Some(social_request::Kind::Direct(direct));
        Some((post, request::Kind::Social(v1::SocialRequest { kind })))
    }

    pub(super) fn on_answer(
        &mut self,
        post: Post,
        result: Option<response::Result>,
    ) -> Result<(), Violation> {
        let later = Some(Instant::now() + PAUSE);
        self.is_opening &= matches!(post, Post::Send);
        match (post, direct(result)) {
            (Post::Open, Ok(direct_response::Result::Opened(opened))) => self.on_opened(opened),
            (Post::Open, Err(_)) => {
                self.open_at = later;
                Ok(())
            }
            (Post::Send, Ok(direct_response::Result::Sent(_))) => self.settle(Outcome::Kept),
            (Post::Send, Err(ErrorCode::NoSuchUser)) => self.settle(match self.attempts {
                0 | 1 => Outcome::Refused,
                2.. => Outcome::RefusedLater,
            }),
            (Post::Send, Err(ErrorCode::Unavailable | ErrorCode::Unsure | ErrorCode::Limit)) => {
                self.send_at = later;
                Ok(())
            }
            (post, result) => Err(format!("{post:?} is answered {result:?}")),
        }
    }

    fn settle(&mut self, outcome: Outcome) -> Result<(), Violation> {
        if let Some((_, known)) = self.written.last_mut() {
            *known = outcome;
        }
        Ok(())
    }

    fn on_opened(&mut self, opened: v1::InboxOpened) -> Result<(), Violation> {
        self.is_open = true;
        match &self.place {
            Some(place) if !opened.recovered => Err(format!("its inbox has lost {place:?}")),
            Some(_) => Ok(()),
            None => {
                self.place = opened.last.map(|last| v1::Place {
                    epoch: last.epoch,
                    offset: opened.read,
                });
                Ok(())
            }
        }
    }

    /// Letters come one by one; those that were told before come again when the inbox is opened again.
    pub(super) fn on_event(&mut self, event: v1::DirectEvent) -> Result<(), Violation> {
        let known = self.place.as_ref().map_or(0, |place| place.offset);
        match event.kind {
            Some(direct_event::Kind::Message(letter)) => {
                let text = String::from_utf8_lossy(&letter.payload).into_owned();
                let heard = (letter.from, text);
                if letter.number <= known && self.read.get(&letter.number) == Some(&heard) {
                    return Ok(());
                }
                let place = self.place.as_mut().filter(|_| letter.number == known + 1);
                let Some(place) = place else {
                    let number = letter.number;
                    return Err(format!("reads {number} {heard:?} after {known}"));
                };
                place.offset = letter.number;
                self.read.insert(letter.number, heard);
                Ok(())
            }
            Some(direct_event::Kind::Place(place)) => {
                let is_there = place.at.as_ref().is_some_and(|at| at.offset == known);
                (is_there && !place.lost)
                    .then_some(())
                    .ok_or_else(|| format!("is at {known}, and told {place:?}"))
            }
            _ => Ok(()),
        }
    }
}

fn direct(result: Option<response::Result>) -> Result<direct_response::Result, ErrorCode> {
    match result {
        Some(response::Result::Failure(failure)) => Err(failure.code()),
        Some(response::Result::Social(v1::SocialResponse {
            result: Some(social_response::Result::Direct(response)),
        })) => response.result.ok_or(ErrorCode::Unspecified),
        _ => Err(ErrorCode::Unspecified),
    }
}

/// Between two times that a device asks.
const PAUSE: Duration = Duration::from_millis(250);
