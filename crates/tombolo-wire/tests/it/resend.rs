use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_wire::frame::{FRAME_BYTES_MAX, Frame, encode};
use tombolo_wire::resend::{
    ACK_DELAY_MAX, ACK_FRAMES_MAX, ACK_WAITING_BYTES_MAX, AckError, Gap, Inbox, Limits, Outbox,
    Overflow, Receipt,
};
use tombolo_wire::v1::{ClientFrame, Delivery, Send, ServerFrame, client_frame, server_frame};

#[test]
fn no_frame_is_lost_or_repeated_wherever_connections_break() {
    for seed in 0..100 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::new();
        for _ in 0..2_000 {
            world.step(&mut random);
        }
        world.settle();
        assert!(
            world.sent_by_device > 100 && world.sent_by_node > 100,
            "seed {seed}"
        );
        assert!(world.breaks > 10, "seed {seed}");
        let numbers = |count: u64| (0..count).collect::<Vec<_>>();
        assert_eq!(
            world.device.received,
            numbers(world.sent_by_node),
            "seed {seed}"
        );
        assert_eq!(
            world.node.received,
            numbers(world.sent_by_device),
            "seed {seed}"
        );
        assert!(
            world.device.outbox.is_empty() && world.node.outbox.is_empty(),
            "seed {seed}"
        );
        assert_eq!(
            world.device.outbox.bytes() + world.node.outbox.bytes(),
            0,
            "seed {seed}"
        );
    }
}

#[test]
fn an_outbox_is_bounded_by_frames_and_by_bytes() {
    let mut few = Outbox::new(Limits {
        frames_max: 2,
        bytes_max: 1000,
    });
    assert_eq!(few.push(client(0)), Ok(1));
    assert_eq!(few.push(client(1)), Ok(2));
    assert_eq!(few.push(client(2)), Err(Overflow::Frames { frames_max: 2 }));
    few.handle_ack(1).unwrap();
    assert_eq!(few.push(client(2)), Ok(3));

    let mut small = Outbox::new(Limits {
        frames_max: 100,
        bytes_max: 50,
    });
    assert_eq!(small.push(client(0)), Ok(1));
    let bytes = small.bytes();
    assert_eq!(small.push(client(1)), Ok(2));
    while small.push(client(2)).is_ok() {}
    assert_eq!(
        small.push(client(2)),
        Err(Overflow::Bytes { bytes_max: 50 })
    );
    assert!(small.bytes() <= 50 && small.bytes() + bytes > 50);
}

#[test]
fn frames_of_others_leave_half_of_an_outbox() {
    let mut outbox = Outbox::new(Limits {
        frames_max: 4,
        bytes_max: 1000,
    });
    assert_eq!(outbox.push_sparing(client(0)), Ok(1));
    assert_eq!(outbox.push_sparing(client(1)), Ok(2));
    assert_eq!(
        outbox.push_sparing(client(2)),
        Err(Overflow::Frames { frames_max: 2 })
    );
    assert_eq!(outbox.push(client(2)), Ok(3));
    assert_eq!(outbox.push(client(3)), Ok(4));
}

#[test]
fn an_outbox_takes_what_a_connection_carries_and_nothing_larger() {
    let mut outbox = Outbox::new(Limits::default());
    let frame = |bytes: usize| ClientFrame {
        body: Some(client_frame::Body::Send(Send {
            payload: vec![0; bytes].into(),
            ..Send::default()
        })),
        ..ClientFrame::default()
    };
    let mut bytes = FRAME_BYTES_MAX;
    while outbox.push(frame(bytes)).is_err() {
        bytes -= 1;
    }
    assert!(bytes > FRAME_BYTES_MAX - 64);
    let mut taken = outbox.poll_frame().unwrap();
    taken.set_ack(u64::MAX);
    assert!(encode(&taken).is_ok());
    assert!(matches!(
        outbox.push(frame(FRAME_BYTES_MAX)),
        Err(Overflow::Frame { .. })
    ));
    assert_eq!(outbox.last(), 1);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_an_error() {
    let mut outbox = Outbox::new(Limits::default());
    outbox.push(client(0)).unwrap();
    assert_eq!(outbox.handle_ack(2), Err(AckError { ack: 2, sent: 1 }));
    assert_eq!(
        outbox.handle_ack(u64::MAX),
        Err(AckError {
            ack: u64::MAX,
            sent: 1
        })
    );
    assert_eq!(outbox.len(), 1);
    assert_eq!(outbox.handle_ack(1), Ok(()));
    // An old acknowledgement that comes late says nothing new.
    assert_eq!(outbox.handle_ack(0), Ok(()));
    assert!(outbox.is_empty());
}

#[test]
fn a_gap_is_an_error_and_a_repetition_is_not() {
    let now = Instant::now();
    let mut inbox = Inbox::new();
    assert_eq!(inbox.handle_frame(now, 0), Ok(Receipt::Fresh));
    assert_eq!(inbox.handle_frame(now, 1), Ok(Receipt::Fresh));
    assert_eq!(inbox.handle_frame(now, 1), Ok(Receipt::Repeated));
    assert_eq!(
        inbox.handle_frame(now, 3),
        Err(Gap {
            expected: 2,
            seq: 3
        })
    );
    assert_eq!(
        inbox.handle_frame(now, u64::MAX),
        Err(Gap {
            expected: 2,
            seq: u64::MAX
        })
    );
    assert_eq!(inbox.handle_frame(now, 2), Ok(Receipt::Fresh));
    assert_eq!(inbox.received(), 2);
}

#[test]
fn acknowledgements_are_due_after_a_while_or_after_many_frames() {
    let now = Instant::now();
    let later = now + Duration::from_millis(20);
    let mut inbox = Inbox::new();
    inbox.handle_frame(now, 0).unwrap();
    assert_eq!(inbox.poll_timeout(), None);

    inbox.handle_frame(now, 1).unwrap();
    inbox.handle_frame(later, 2).unwrap();
    assert_eq!(inbox.poll_timeout(), Some(now + ACK_DELAY_MAX));
    assert_eq!(inbox.take_ack(), 2);
    assert_eq!(inbox.poll_timeout(), None);

    for seq in 3..3 + ACK_FRAMES_MAX {
        inbox.handle_frame(later, seq).unwrap();
    }
    assert_eq!(inbox.poll_timeout(), Some(later));

    // Whoever repeats a frame is told again that it has arrived.
    assert_eq!(inbox.take_ack(), 2 + ACK_FRAMES_MAX);
    inbox.handle_frame(later, 5).unwrap();
    assert!(inbox.poll_timeout().is_some());
}

#[test]
fn whoever_sends_large_frames_does_not_wait_for_the_acknowledgement() {
    let now = Instant::now();
    let mut inbox = Inbox::new();
    let mut take = |seq, bytes| {
        let delivery = Delivery {
            payload: Bytes::from(vec![0; bytes]),
            ..Delivery::default()
        };
        inbox.handle_size(&ServerFrame {
            seq,
            body: Some(server_frame::Body::Delivery(delivery)),
            ..ServerFrame::default()
        });
        inbox.handle_frame(now, seq).unwrap();
        let due = inbox.poll_timeout();
        if due == Some(now) {
            let _ = inbox.take_ack();
        }
        due
    };
    let half = ACK_WAITING_BYTES_MAX / 2;
    assert_eq!(take(0, ACK_WAITING_BYTES_MAX), None, "nobody waits for it");
    assert_eq!(take(1, half), Some(now + ACK_DELAY_MAX));
    assert_eq!(take(2, half), Some(now));
    assert_eq!(take(3, half), Some(now + ACK_DELAY_MAX));
}

#[test]
fn frames_that_come_one_by_one_within_a_moment_are_acknowledged_by_one() {
    let begin = Instant::now();
    let mut inbox = Inbox::new();
    let (mut now, mut acks) = (begin, 0);
    // What a device is told that comes into a room, and others after it.
    for seq in 1..=5 {
        inbox.handle_frame(now, seq).unwrap();
        now += Duration::from_millis(90);
        if inbox.poll_timeout().is_some_and(|at| at <= now) {
            let _ = inbox.take_ack();
            acks += 1;
        }
    }
    now = inbox.poll_timeout().unwrap();
    assert_eq!((inbox.take_ack(), acks), (5, 0));
    assert!(now <= begin + ACK_DELAY_MAX);
}

/// A device, a node, and a connection that breaks.
struct World {
    now: Instant,
    device: End<ClientFrame>,
    node: End<ServerFrame>,
    to_node: VecDeque<ClientFrame>,
    to_device: VecDeque<ServerFrame>,
    sent_by_device: u64,
    sent_by_node: u64,
    breaks: u64,
}

struct End<F> {
    outbox: Outbox<F>,
    inbox: Inbox,
    received: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let limits = Limits {
            frames_max: 64,
            bytes_max: 4096,
        };
        Self {
            now: Instant::now(),
            device: End {
                outbox: Outbox::new(limits),
                inbox: Inbox::new(),
                received: Vec::new(),
            },
            node: End {
                outbox: Outbox::new(limits),
                inbox: Inbox::new(),
                received: Vec::new(),
            },
            to_node: VecDeque::new(),
            to_device: VecDeque::new(),
            sent_by_device: 0,
            sent_by_node: 0,
            breaks: 0,
        }
    }

    fn step(&mut self, random: &mut ChaCha8Rng) {
        self.now += Duration::from_millis(random.random_range(0..20));
        match random.random_range(0..100) {
            0..20 => {
                let pushed = self.device.outbox.push(client(self.sent_by_device));
                self.sent_by_device += u64::from(pushed.is_ok());
            }
            20..40 => {
                let pushed = self.node.outbox.push(server(self.sent_by_node));
                self.sent_by_node += u64::from(pushed.is_ok());
            }
            40..65 => deliver(
                self.now,
                &mut self.node,
                &mut self.to_node,
                number_of_client,
            ),
            65..90 => deliver(
                self.now,
                &mut self.device,
                &mut self.to_device,
                number_of_server,
            ),
            90..98 => self.transmit(),
            _ => self.reconnect(),
        }
    }

    fn transmit(&mut self) {
        transmit(self.now, &mut self.device, &mut self.to_node);
        transmit(self.now, &mut self.node, &mut self.to_device);
    }

    /// What is on its way is gone; both sides tell what they have.
    fn reconnect(&mut self) {
        self.breaks += 1;
        self.to_node.clear();
        self.to_device.clear();
        self.node
            .outbox
            .handle_ack(self.device.inbox.take_ack())
            .unwrap();
        self.device
            .outbox
            .handle_ack(self.node.inbox.take_ack())
            .unwrap();
        self.node.outbox.rewind();
        self.device.outbox.rewind();
    }

    fn settle(&mut self) {
        self.reconnect();
        while !self.device.outbox.is_empty() || !self.node.outbox.is_empty() {
            self.now += ACK_DELAY_MAX;
            self.transmit();
            while !self.to_node.is_empty() {
                deliver(
                    self.now,
                    &mut self.node,
                    &mut self.to_node,
                    number_of_client,
                );
            }
            while !self.to_device.is_empty() {
                deliver(
                    self.now,
                    &mut self.device,
                    &mut self.to_device,
                    number_of_server,
                );
            }
        }
    }
}

fn transmit<F: Frame>(now: Instant, from: &mut End<F>, connection: &mut VecDeque<F>) {
    while let Some(mut frame) = from.outbox.poll_frame() {
        frame.set_ack(from.inbox.take_ack());
        connection.push_back(frame);
    }
    if from.inbox.poll_timeout().is_some_and(|at| at <= now) {
        let mut frame = F::default();
        frame.set_ack(from.inbox.take_ack());
        connection.push_back(frame);
    }
}

fn deliver<F: Frame, G: Frame>(
    now: Instant,
    to: &mut End<F>,
    connection: &mut VecDeque<G>,
    number: impl Fn(&G) -> Option<u64>,
) {
    let Some(frame) = connection.pop_front() else {
        return;
    };
    to.outbox.handle_ack(frame.ack()).unwrap();
    if to.inbox.handle_frame(now, frame.seq()).unwrap() == Receipt::Fresh {
        to.received.extend(number(&frame));
    }
}

fn client(number: u64) -> ClientFrame {
    let payload = Bytes::copy_from_slice(&number.to_be_bytes());
    let send = Send {
        payload,
        ..Default::default()
    };
    ClientFrame {
        body: Some(client_frame::Body::Send(send)),
        ..Default::default()
    }
}

fn server(number: u64) -> ServerFrame {
    let payload = Bytes::copy_from_slice(&number.to_be_bytes());
    let delivery = Delivery {
        payload,
        ..Default::default()
    };
    ServerFrame {
        body: Some(server_frame::Body::Delivery(delivery)),
        ..Default::default()
    }
}

fn number_of_client(frame: &ClientFrame) -> Option<u64> {
    let Some(client_frame::Body::Send(send)) = &frame.body else {
        return None;
    };
    Some(u64::from_be_bytes(
        send.payload.as_ref().try_into().unwrap(),
    ))
}

fn number_of_server(frame: &ServerFrame) -> Option<u64> {
    let Some(server_frame::Body::Delivery(delivery)) = &frame.body else {
        return None;
    };
    Some(u64::from_be_bytes(
        delivery.payload.as_ref().try_into().unwrap(),
    ))
}
