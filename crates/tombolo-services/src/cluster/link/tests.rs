//! Two links and a bus that loses, delays and repeats.

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::generated::{Message, item};
use super::*;

#[test]
fn items_arrive_once_and_in_order_over_a_bus_that_loses_and_repeats() {
    for seed in 0..200 {
        let mut lab = Lab::new(seed);
        let mut sent = 0;
        for _ in 0..300 {
            if lab.random.random_bool(0.5) {
                sent += 1;
                lab.links[0].push(item(sent)).unwrap();
            }
            lab.step(0.3);
        }
        lab.run_out();
        assert_eq!(lab.heard[1], (1..=sent).collect::<Vec<_>>(), "seed {seed}");
        assert!(lab.links[0].is_idle(), "seed {seed}");
    }
}

#[test]
fn of_a_topic_the_latest_item_arrives_last_and_older_ones_that_wait_not_at_all() {
    for seed in 0..200 {
        let mut lab = Lab::new(seed);
        let (mut sent, mut replaced) = (0, 0);
        for _ in 0..200 {
            for _ in 0..3 {
                sent += 1;
                let taken = lab.links[0].push_latest(topic(), item(sent)).unwrap();
                replaced += usize::from(taken);
            }
            lab.step(0.3);
        }
        lab.run_out();
        let heard = &lab.heard[1];
        assert!(heard.is_sorted(), "seed {seed}: {heard:?}");
        assert_eq!(heard.last(), Some(&sent), "seed {seed}");
        let all = usize::try_from(sent).unwrap();
        assert_eq!(heard.len() + replaced, all, "seed {seed}");
        assert!(lab.links[0].is_idle(), "seed {seed}");
    }
}

#[test]
fn an_item_that_may_have_arrived_is_not_replaced() {
    let mut lab = Lab::new(1);
    lab.links[0].push(item(1)).unwrap();
    lab.run_out();
    assert_eq!(lab.links[0].push_latest(topic(), item(2)), Ok(false));
    let now = Instant::now();
    assert!(lab.links[0].poll_frame(now).is_some(), "it is on its way");
    assert_eq!(lab.links[0].push_latest(topic(), item(3)), Ok(false));
    assert_eq!(lab.links[0].push_latest(topic(), item(4)), Ok(true));
    lab.run_out();
    assert_eq!(lab.heard[1], [1, 2, 4]);
}

fn topic() -> LinkTopic {
    let topic = Topic {
        room: tombolo_wire::RoomId::parse("r").unwrap(),
        from: UserId::parse("alice").unwrap(),
        key: tombolo_room::PropertyKey::parse("x").unwrap(),
    };
    (topic, Vec::new(), None)
}

#[test]
fn what_a_node_that_was_started_anew_never_acknowledged_is_handed_back() {
    let mut lab = Lab::new(1);
    lab.links[0].push(item(1)).unwrap();
    lab.run_out();
    assert_eq!(lab.heard[1], [1]);

    lab.is_cut = true;
    for number in 2..=3 {
        lab.links[0].push(item(number)).unwrap();
    }
    lab.step(0.0);
    lab.is_cut = false;
    lab.links[1] = Link::new(LIMITS, 9);
    lab.run_out();
    assert_eq!(lab.undelivered, [2, 3]);
    assert_eq!(lab.heard[1], [1]);

    lab.links[0].push(item(4)).unwrap();
    lab.run_out();
    assert_eq!(lab.heard[1], [1, 4]);
}

#[test]
fn what_waits_to_be_sent_cannot_be_acknowledged() {
    let now = Instant::now();
    let mut link = Link::new(LIMITS, 5);
    let frame = |ack| Frame {
        epoch: 7,
        to_epoch: 5,
        ack,
        ..Frame::default()
    };
    link.handle_frame(now, frame(0)).unwrap();
    link.push(item(1)).unwrap();
    assert_eq!(link.handle_frame(now, frame(1)), Err(FrameError::Ack));
    assert_eq!(link.poll_frame(now).unwrap().items, [item(1)]);
    link.handle_frame(now, frame(1)).unwrap();
    assert!(link.is_idle());
}

#[test]
fn frames_of_other_lives_and_impossible_ones_are_refused_and_change_nothing() {
    let now = Instant::now();
    let mut link = Link::new(LIMITS, 5);
    let good = Frame {
        epoch: 7,
        to_epoch: 5,
        first: 1,
        items: vec![item(1)],
        ..Frame::default()
    };
    let table = [
        (
            Frame {
                ack: 1,
                ..good.clone()
            },
            FrameError::Ack,
        ),
        (
            Frame {
                epoch: 6,
                ..good.clone()
            },
            FrameError::Stale,
        ),
        (
            Frame {
                to_epoch: 4,
                ..good.clone()
            },
            FrameError::Misdirected,
        ),
        (
            Frame {
                to_epoch: 6,
                ..good.clone()
            },
            FrameError::Misdirected,
        ),
    ];
    let hello = Frame {
        to_epoch: 0,
        ..good.clone()
    };
    assert_eq!(link.handle_frame(now, hello), Ok(Received::default()));
    for (frame, error) in table {
        assert_eq!(link.handle_frame(now, frame), Err(error));
    }
    assert_eq!(link.handle_frame(now, good.clone()).unwrap().items.len(), 1);
    assert_eq!(link.handle_frame(now, good.clone()).unwrap().items.len(), 0);
    // Numbers that no sender reaches do no harm.
    let first = u64::MAX;
    let far = Frame {
        first,
        ..good.clone()
    };
    assert_eq!(link.handle_frame(now, far).unwrap().items, []);
    let zero = Frame { first: 0, ..good };
    assert_eq!(link.handle_frame(now, zero).unwrap().items, []);
}

#[test]
fn a_link_takes_no_more_than_it_may_and_drops_the_oldest_loose_item() {
    let mut link = Link::new(LIMITS, 1);
    for number in 0..LIMITS.items_max as u64 {
        link.push(item(number)).unwrap();
    }
    assert_eq!(link.push(item(0)), Err(Full));
    let dropped: u64 = (0..LIMITS.loose_max as u64 + 3)
        .map(|number| link.push_loose(item(number)))
        .sum();
    assert_eq!(dropped, 3);

    let mut link = Link::new(
        LinkLimits {
            bytes_max: 10_000,
            ..LIMITS
        },
        1,
    );
    assert_eq!(link.push(large(9_000)), Ok(()));
    assert_eq!(link.push(large(1_000)), Err(Full));
}

#[test]
fn many_items_share_a_frame_and_large_ones_do_not() {
    let now = Instant::now();
    let mut link = Link::new(LIMITS, 1);
    let hello = Frame {
        epoch: 2,
        ..Frame::default()
    };
    link.handle_frame(now, hello).unwrap();
    for number in 0..100 {
        link.push(item(number)).unwrap();
        link.push_loose(item(number));
    }
    let frame = link.poll_frame(now).unwrap();
    assert_eq!((frame.items.len(), frame.loose.len()), (100, 100));
    assert_eq!(link.poll_frame(now), None);
    for _ in 0..3 {
        link.push(large(FRAME_BYTES_MAX / 2 + 1)).unwrap();
    }
    let frames = std::iter::from_fn(|| link.poll_frame(now));
    assert_eq!(
        frames.map(|frame| frame.items.len()).collect::<Vec<_>>(),
        [1, 1, 1]
    );
}

struct Lab {
    now: Instant,
    random: ChaCha8Rng,
    links: [Link; 2],
    under_way: Vec<(Instant, usize, Frame)>,
    heard: [Vec<u64>; 2],
    undelivered: Vec<u64>,
    /// Whether the bus loses everything.
    is_cut: bool,
}

impl Lab {
    fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            random: ChaCha8Rng::seed_from_u64(seed),
            links: [Link::new(LIMITS, 1), Link::new(LIMITS, 2)],
            under_way: Vec::new(),
            heard: [Vec::new(), Vec::new()],
            undelivered: Vec::new(),
            is_cut: false,
        }
    }

    /// A millisecond, in which each frame is lost, and each repeated, with this probability.
    fn step(&mut self, trouble: f64) {
        self.now += Duration::from_millis(1);
        for from in 0..2 {
            self.links[from].handle_timeout(self.now);
            while let Some(frame) = self.links[from].poll_frame(self.now) {
                if self.is_cut || self.random.random_bool(trouble) {
                    continue;
                }
                let delay = Duration::from_millis(self.random.random_range(0..3));
                let at = self.now + delay;
                self.under_way.push((at, 1 - from, frame.clone()));
                if self.random.random_bool(trouble) {
                    self.under_way.push((at, 1 - from, frame));
                }
            }
        }
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.under_way = later;
        for (_, to, frame) in due {
            let Ok(received) = self.links[to].handle_frame(now, frame) else {
                continue;
            };
            self.heard[to].extend(received.items.iter().map(number));
            self.undelivered
                .extend(received.undelivered.iter().map(number));
        }
    }

    /// Ten seconds without trouble.
    fn run_out(&mut self) {
        for _ in 0..10_000 {
            self.step(0.0);
        }
    }
}

fn item(number: u64) -> Item {
    large_item(Bytes::copy_from_slice(&number.to_be_bytes()))
}

fn large(bytes: usize) -> Item {
    large_item(vec![0; bytes].into())
}

fn large_item(payload: Bytes) -> Item {
    Item {
        body: Some(item::Body::Message(Message {
            payload,
            ..Message::default()
        })),
    }
}

fn number(item: &Item) -> u64 {
    match &item.body {
        Some(item::Body::Message(message)) => {
            u64::from_be_bytes(message.payload.as_ref().try_into().unwrap())
        }
        other => panic!("nobody sent {other:?}"),
    }
}

const LIMITS: LinkLimits = LinkLimits {
    items_max: 1000,
    bytes_max: 1_000_000,
    loose_max: 100,
};
