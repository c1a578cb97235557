//! The work on one link: send at intervals, count what comes, tell what changes.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tombolo_client::{Lane, LinkState, LinkStatus, Message, Peer, SendError, UserId, Verdict};

use super::Tallies;
use super::event::Event;
use super::speaker::Speaker;
use super::tally::Tally;
use crate::cli::LaneArg;
use crate::output::{ms, unix_now};

/// Bytes of a message's number and time, both big-endian.
pub(super) const HEADER: usize = 16;
/// No peer sends so many messages, and no text is as small a number.
const NUMBER_MAX: u64 = 1 << 48;
const RTT_EVERY: Duration = Duration::from_millis(100);
const WHY_EVERY: Duration = Duration::from_millis(500);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand {
    pub(super) lane: LaneArg,
    pub(super) every: Duration,
    pub(super) size: usize,
    pub(super) count: Option<u64>,
}

impl Errand {
    /// The next message to a peer; `None` when all are sent.
    pub(super) fn next_message(&self, tally: &Tally) -> Option<Bytes> {
        if self.count.is_some_and(|count| tally.sent() >= count) {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(self.size);
        bytes.put_u64(tally.next_seq());
        bytes.put_u64(u64::try_from(unix_now().as_micros()).unwrap_or(u64::MAX));
        bytes.resize(self.size, 0);
        Some(bytes.freeze())
    }
}

pub(super) fn lane(arg: LaneArg) -> Lane {
    match arg {
        LaneArg::Reliable => Lane::Reliable,
        LaneArg::Unreliable => Lane::Unreliable,
    }
}

fn lane_word(lane: Lane) -> &'static str {
    match lane {
        Lane::Unreliable => "unreliable",
        Lane::Reliable | Lane::ReliableUnordered => "reliable",
    }
}

pub(super) struct Link {
    pub(super) peer: Peer,
    pub(super) errand: Errand,
    pub(super) tallies: Tallies,
    pub(super) speaker: Speaker,
}

impl Link {
    /// Works until the link is over; returns whose it was.
    ///
    /// # Errors
    /// When messages are too large for their lane.
    pub(super) async fn run(self) -> Result<UserId, SendError> {
        let mut changes = self.peer.changes();
        let mut send = tokio::time::interval_at(
            tokio::time::Instant::now() + self.errand.every,
            self.errand.every,
        );
        send.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut rtt = tokio::time::interval(RTT_EVERY);
        let mut why = tokio::time::interval(WHY_EVERY);
        let mut told: Option<Verdict> = None;
        loop {
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Ok(status) => {
                        self.on_status(&status);
                        if status.state == LinkState::Lost {
                            break;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                Some(message) = self.peer.recv() => self.on_message(&message),
                _ = send.tick() => self.send()?,
                _ = rtt.tick() => self.sample_rtt(),
                _ = why.tick() => self.explain(&mut told),
            }
        }
        // What arrived before the end is still there.
        while let Some(message) = self.peer.recv().await {
            self.on_message(&message);
        }
        Ok(self.peer.user().clone())
    }

    fn send(&self) -> Result<(), SendError> {
        let mut sent = Ok(());
        self.with_tally(|tally| {
            let Some(payload) = self.errand.next_message(tally) else {
                return;
            };
            match self.peer.send(lane(self.errand.lane), payload) {
                Ok(()) => tally.on_sent(Instant::now()),
                // The next tick tries again.
                Err(SendError::Full | SendError::Closed) => {}
                Err(error) => sent = Err(error),
            }
        });
        sent
    }

    fn on_message(&self, message: &Message) {
        let payload = &message.payload;
        let Some((seq, sent_us)) = numbered(payload) else {
            self.speaker.tell(&Event::Recv {
                user: self.peer.user().to_string(),
                lane: lane_word(message.lane),
                seq: None,
                bytes: payload.len(),
                via: message.via,
                one_way_ms: None,
                text: std::str::from_utf8(payload).ok().map(str::to_owned),
            });
            return;
        };
        self.with_tally(|tally| tally.on_received(Instant::now(), seq));
        let sent = Duration::from_micros(sent_us);
        let now = unix_now();
        // The peer's clock may be ahead of ours.
        let one_way_ms = match now.checked_sub(sent) {
            Some(later) => ms(later),
            None => -ms(sent.saturating_sub(now)),
        };
        self.speaker.tell(&Event::Recv {
            user: self.peer.user().to_string(),
            lane: lane_word(message.lane),
            seq: Some(seq),
            bytes: payload.len(),
            via: message.via,
            one_way_ms: Some(one_way_ms),
            text: None,
        });
    }

    fn on_status(&self, status: &LinkStatus) {
        if status.state == LinkState::Direct {
            self.with_tally(|tally| tally.on_direct(Instant::now()));
        }
        self.speaker.tell(&Event::of_link(self.peer.user(), status));
        if let Some(reason) = &status.reason
            && reason != "closed"
        {
            self.speaker
                .complain(&format!("link to {} lost: {reason}", self.peer.user()));
        }
    }

    fn sample_rtt(&self) {
        if let Some(rtt) = self.peer.rtt() {
            self.with_tally(|tally| tally.on_rtt(rtt));
        }
    }

    fn explain(&self, told: &mut Option<Verdict>) {
        let Some(explanation) = self.peer.explain() else {
            return;
        };
        let verdict = explanation.verdict;
        if verdict == Verdict::StillTrying || *told == Some(verdict) {
            return;
        }
        *told = Some(verdict);
        let user = self.peer.user().to_string();
        self.speaker.tell(&Event::Why {
            user,
            verdict,
            detail: explanation.detail,
        });
    }

    fn with_tally(&self, f: impl FnOnce(&mut Tally)) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = tallies.get_mut(self.peer.user()) {
            f(tally);
        }
    }
}

/// The number and the time of a message of `tombolo peer`; `None` for what another program sent.
fn numbered(payload: &[u8]) -> Option<(u64, u64)> {
    let (seq, sent_us) = (read_u64(payload, 0)?, read_u64(payload, 8)?);
    let is_ours = seq <= NUMBER_MAX && payload.iter().skip(HEADER).all(|byte| *byte == 0);
    is_ours.then_some((seq, sent_us))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_other_programs_are_told_from_numbered_ones() {
        let errand = Errand {
            lane: LaneArg::Reliable,
            every: RTT_EVERY,
            size: 64,
            count: None,
        };
        let own = errand.next_message(&Tally::new(Instant::now())).unwrap();
        assert_eq!(numbered(&own).map(|(seq, _)| seq), Some(1));
        assert!(numbered(&own[..HEADER]).is_some());
        let mut other = own.to_vec();
        other[HEADER] = 1;
        assert_eq!(numbered(&other), None);
        for text in [&b""[..], b"hi", b"sixteen bytes or more"] {
            assert_eq!(numbered(text), None);
        }
    }
}
