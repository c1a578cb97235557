//! Whether a node that is silent is gone.
//!
//! Who is busy, or stands still, is silent too, so that silence alone takes its time: the node is asked, and has a
//! while to answer. That the bus knows of nobody there is another matter: the connection of a process that was
//! killed ends with it. One that has lost its connection has another one within a moment, or is as good as gone.

use std::time::{Duration, Instant};

use super::SILENCE_MAX;

/// What speaks for a silent node being gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    /// When it was asked whether it lives.
    asked: Option<Instant>,
    /// When the bus was last asked whether it is there.
    knocked: Option<Instant>,
    /// When it was not there for the first time, and for the last time since.
    absent: Option<(Instant, Instant)>,
}

impl Doubt {
    /// Whether the node is to be asked now, once.
    pub(super) fn asks(&mut self, now: Instant, silence: Duration) -> bool {
        let is_due = self.asked.is_none() && silence >= SILENCE_MAX;
        if is_due {
            self.asked = Some(now);
        }
        is_due
    }

    /// Whether the bus is to be asked now.
    pub(super) fn knocks(&mut self, now: Instant, silence: Duration) -> bool {
        let is_due = match self.knocked {
            Some(knocked) => now >= knocked + KNOCK_INTERVAL,
            None => silence >= KNOCK_AFTER,
        };
        if is_due {
            self.knocked = Some(now);
        }
        is_due
    }

    /// Whether the node was there when the bus was asked, during this silence.
    pub(super) fn handle_knocked(&mut self, now: Instant, is_there: bool) {
        if self.knocked.is_some() {
            let first = self.absent.map_or(now, |(first, _)| first);
            self.absent = (!is_there).then_some((first, now));
        }
    }

    /// Whether the node is gone.
    pub(super) fn is_sure(&self, now: Instant) -> bool {
        let is_mute = self.asked.is_some_and(|asked| now >= asked + ANSWER_MAX);
        is_mute || self.is_absent()
    }

    /// When there is something to do for a node that was heard then.
    pub(super) fn poll_timeout(&self, heard: Instant) -> Instant {
        if self.is_absent() {
            return heard;
        }
        let ask = self.asked.map_or(heard + SILENCE_MAX, |at| at + ANSWER_MAX);
        let knock = self.knocked;
        let knock = knock.map_or(heard + KNOCK_AFTER, |at| at + KNOCK_INTERVAL);
        ask.min(knock)
    }

    fn is_absent(&self) -> bool {
        let absent = self.absent;
        absent.is_some_and(|(first, last)| last >= first + ABSENCE_MAX)
    }
}

/// How long a node that was asked has to answer.
const ANSWER_MAX: Duration = Duration::from_millis(200);

/// After how long a silence the bus is asked whether a node is there, and how often from then on.
const KNOCK_AFTER: Duration = Duration::from_millis(400);
const KNOCK_INTERVAL: Duration = Duration::from_millis(100);

/// A node is without a connection for so long, and goes on.
const ABSENCE_MAX: Duration = Duration::from_millis(200);
