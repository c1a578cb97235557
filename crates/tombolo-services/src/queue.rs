//! What waits for a session's connection beside its frames in order: messages that may get lost, and
//! reliable ones that may come in any order.
//!
//! A device that reads slowly costs bounded memory. Of values of which only the latest counts it gets the
//! latest: a newer one takes the place of an older one that still waits. Of messages that may get lost the
//! oldest are dropped. What is reliable and does not fit is refused to its sender.

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;
use tombolo_room::PropertyKey;
use tombolo_wire::resend::{Limits, Overflow};
use tombolo_wire::v1::{Delivery, ServerFrame, server_frame};
use tombolo_wire::{RoomId, UserId};

/// Of which value only the latest counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Topic {
    pub(crate) room: RoomId,
    /// Whose value it is.
    pub(crate) from: UserId,
    pub(crate) key: PropertyKey,
}

/// What waits for a session's connection beside its frames in order.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    /// Each with its size.
    unreliable: VecDeque<(ServerFrame, usize)>,
    unreliable_bytes: usize,
    /// Reliable ones, the oldest first.
    unordered: BTreeMap<u64, Waiting>,
    unordered_bytes: usize,
    /// Where the values are of which only the latest counts.
    place_by_topic: BTreeMap<Topic, u64>,
    last: u64,
}

/// The bounds of a [`Queue`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) unreliable_max: usize,
    pub(crate) unreliable_bytes_max: usize,
    /// Of reliable frames, those in order included.
    pub(crate) reliable: Limits,
}

#[derive(Debug)]
struct Waiting {
    frame: ServerFrame,
    bytes: usize,
    topic: Option<Topic>,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            unreliable: VecDeque::new(),
            unreliable_bytes: 0,
            unordered: BTreeMap::new(),
            unordered_bytes: 0,
            place_by_topic: BTreeMap::new(),
            last: 0,
        }
    }

    /// Queues a message that may get lost; returns how many were dropped for it, perhaps itself.
    pub(crate) fn push_unreliable(&mut self, body: server_frame::Body) -> u64 {
        let frame = frame(body);
        let bytes = frame.encoded_len();
        self.unreliable_bytes += bytes;
        self.unreliable.push_back((frame, bytes));
        let mut dropped = 0;
        while self.unreliable.len() > self.limits.unreliable_max
            || self.unreliable_bytes > self.limits.unreliable_bytes_max
        {
            self.pop_unreliable();
            dropped += 1;
        }
        dropped
    }

    /// Queues a reliable message that may come in any order, beside so many others; whether it took the
    /// place of an older value.
    ///
    /// # Errors
    /// When as much as may waits already.
    pub(crate) fn push_unordered(
        &mut self,
        body: server_frame::Body,
        topic: Option<Topic>,
        (frames, bytes_before): (usize, usize),
    ) -> Result<bool, Overflow> {
        let frame = frame(body);
        let bytes = frame.encoded_len();
        let place = topic
            .as_ref()
            .and_then(|topic| self.place_by_topic.get(topic));
        let old = place.and_then(|place| self.unordered.get(place));
        let (old_frames, old_bytes) = old.map_or((0, 0), |old| (1, old.bytes));
        let Limits {
            frames_max,
            bytes_max,
        } = self.limits.reliable;
        if frames + self.unordered.len() - old_frames >= frames_max {
            return Err(Overflow::Frames { frames_max });
        }
        if bytes_before + self.unordered_bytes - old_bytes + bytes > bytes_max {
            return Err(Overflow::Bytes { bytes_max });
        }
        self.unordered_bytes = self.unordered_bytes - old_bytes + bytes;
        let place = place.copied().unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        if let Some(topic) = &topic {
            self.place_by_topic.insert(topic.clone(), place);
        }
        let waiting = Waiting {
            frame,
            bytes,
            topic,
        };
        Ok(self.unordered.insert(place, waiting).is_some())
    }

    /// The next message that may get lost.
    pub(crate) fn pop_unreliable(&mut self) -> Option<ServerFrame> {
        let (frame, bytes) = self.unreliable.pop_front()?;
        self.unreliable_bytes -= bytes;
        Some(frame)
    }

    /// As many messages that may get lost as one datagram carries, in one frame.
    pub(crate) fn pop_datagram(&mut self) -> Option<ServerFrame> {
        let mut frame = self.pop_unreliable()?;
        let Some(server_frame::Body::Delivery(first)) = &mut frame.body else {
            return Some(frame);
        };
        let mut room = DATAGRAM_BYTES.saturating_sub(first.encoded_len());
        let mut more: Vec<Delivery> = Vec::new();
        while let Some((next, bytes)) = self.unreliable.front()
            && *bytes + PART_OVERHEAD <= room
            && matches!(&next.body, Some(server_frame::Body::Delivery(_)))
            && let Some(next) = self.pop_unreliable()
        {
            room -= next.encoded_len() + PART_OVERHEAD;
            if let Some(server_frame::Body::Delivery(next)) = next.body {
                more.push(next);
            }
        }
        first.more = more;
        Some(frame)
    }

    /// The next reliable message that may come in any order.
    pub(crate) fn pop_unordered(&mut self) -> Option<server_frame::Body> {
        let (_, waiting) = self.unordered.pop_first()?;
        self.unordered_bytes -= waiting.bytes;
        if let Some(topic) = &waiting.topic {
            self.place_by_topic.remove(topic);
        }
        waiting.frame.body
    }

    pub(crate) fn has_unordered(&self) -> bool {
        !self.unordered.is_empty()
    }

    /// How many reliable messages wait.
    pub(crate) fn unordered_len(&self) -> usize {
        self.unordered.len()
    }

    /// Forgets what was for one connection only.
    pub(crate) fn clear_unreliable(&mut self) {
        self.unreliable.clear();
        self.unreliable_bytes = 0;
    }
}

fn frame(body: server_frame::Body) -> ServerFrame {
    ServerFrame {
        body: Some(body),
        ..ServerFrame::default()
    }
}

/// What fits into a datagram on every path: the smallest packet of QUIC without what is around the
/// datagram.
const DATAGRAM_BYTES: usize = 1140;

/// What a message in a datagram of several takes beside itself.
const PART_OVERHEAD: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue::new(QueueLimits {
            unreliable_max: 100,
            unreliable_bytes_max: 10_000,
            reliable: Limits {
                frames_max: 4,
                bytes_max: 1000,
            },
        })
    }

    fn body(payload: &[u8]) -> server_frame::Body {
        server_frame::Body::Delivery(Delivery {
            payload: payload.to_vec().into(),
            ..Delivery::default()
        })
    }

    fn topic(key: &str) -> Option<Topic> {
        Some(Topic {
            room: RoomId::parse("r").unwrap(),
            from: UserId::parse("alice").unwrap(),
            key: PropertyKey::parse(key).unwrap(),
        })
    }

    fn payload(body: Option<server_frame::Body>) -> Option<Vec<u8>> {
        let Some(server_frame::Body::Delivery(delivery)) = body else {
            return None;
        };
        Some(delivery.payload.to_vec())
    }

    #[test]
    fn a_newer_value_takes_the_place_of_an_older_one_that_waits() {
        let mut queue = queue();
        let nothing = (0, 0);
        for (text, key) in [(b"a1", "a"), (b"b1", "b"), (b"a2", "a"), (b"a3", "a")] {
            let replaced = queue.push_unordered(body(text), topic(key), nothing);
            assert_eq!(replaced, Ok(text[1] != b'1'));
        }
        assert_eq!(payload(queue.pop_unordered()), Some(b"a3".to_vec()));
        assert_eq!(
            queue.push_unordered(body(b"a4"), topic("a"), nothing),
            Ok(false)
        );
        assert_eq!(payload(queue.pop_unordered()), Some(b"b1".to_vec()));
        assert_eq!(payload(queue.pop_unordered()), Some(b"a4".to_vec()));
        assert!(queue.pop_unordered().is_none());
        assert!(queue.place_by_topic.is_empty() && queue.unordered_bytes == 0);
    }

    #[test]
    fn reliable_messages_are_bounded_together_with_those_in_order() {
        let mut queue = queue();
        for _ in 0..3 {
            queue.push_unordered(body(b"x"), None, (1, 0)).unwrap();
        }
        let full = queue.push_unordered(body(b"x"), None, (1, 0));
        assert_eq!(full, Err(Overflow::Frames { frames_max: 4 }));
        let large = queue.push_unordered(body(&[0; 500]), None, (0, 500));
        assert_eq!(large, Err(Overflow::Bytes { bytes_max: 1000 }));
        queue
            .push_unordered(body(&[0; 400]), topic("a"), (0, 500))
            .unwrap();
        // The old value makes room for the new one.
        assert_eq!(
            queue.push_unordered(body(&[1; 450]), topic("a"), (0, 500)),
            Ok(true)
        );
    }

    #[test]
    fn unreliable_messages_are_bounded_by_bytes_and_the_oldest_go() {
        let mut queue = queue();
        let mut dropped = 0;
        for number in 0..20 {
            dropped += queue.push_unreliable(body(&[number; 1000]));
        }
        assert_eq!(dropped, 11, "10,000 bytes hold nine of them");
        let first = queue.pop_unreliable().unwrap();
        assert_eq!(payload(first.body).unwrap()[0], 11);
        assert_eq!(
            queue.push_unreliable(body(&[0; 20_000])),
            9,
            "the eight that are left, and itself"
        );
    }

    #[test]
    fn a_datagram_carries_as_many_messages_as_fit() {
        let mut queue = queue();
        for number in 0..20 {
            queue.push_unreliable(body(&[number; 128]));
        }
        let mut numbers = Vec::new();
        let mut datagrams = 0;
        while let Some(frame) = queue.pop_datagram() {
            assert!(
                frame.encoded_len() <= DATAGRAM_BYTES + 8,
                "{}",
                frame.encoded_len()
            );
            let Some(server_frame::Body::Delivery(first)) = frame.body else {
                panic!("a message goes out");
            };
            numbers.push(first.payload[0]);
            numbers.extend(first.more.iter().map(|more| more.payload[0]));
            datagrams += 1;
        }
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
        assert_eq!(datagrams, 3);
        queue.push_unreliable(body(&[1; 1100]));
        queue.push_unreliable(body(&[2; 1100]));
        assert!(queue.pop_datagram().is_some() && queue.pop_datagram().is_some());
        assert_eq!(queue.unreliable_bytes, 0);
    }
}
