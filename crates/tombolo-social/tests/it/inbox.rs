//! Inboxes, rule by rule.

use tombolo_social::inbox::{
    BLOCKED_MAX, Body, CLOCK_STEP_MAX, COPIES_MAX, Done, Entry, Illegal, Inbox, KEPT_FOR,
    LETTER_BYTES_MAX, LETTERS_MAX, PAYLOAD_BYTES_MAX, SEEN_MAX, UNREAD_BYTES_PER_SENDER_MAX,
    UNREAD_PER_SENDER_MAX,
};
use tombolo_social::{EntryError, MessageId, OperationId, Place, Time};
use tombolo_wire::UserId;

pub(crate) struct World {
    pub(crate) inbox: Inbox,
    pub(crate) now: u64,
    operations: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self::unopened();
        world.apply(Body::Opened).unwrap();
        world
    }

    fn unopened() -> Self {
        Self {
            inbox: Inbox::new(),
            now: 1_000_000_000_000,
            operations: 0,
        }
    }

    pub(crate) fn apply(&mut self, body: Body) -> Result<Done, Illegal> {
        self.operations += 1;
        let entry = Entry {
            operation: OperationId(u128::from(self.operations).to_be_bytes()),
            time: Time::from_millis(self.now),
            body,
        };
        let decoded = Entry::decode(&entry.encode()).unwrap();
        assert_eq!(decoded, entry);
        self.inbox.apply(&decoded)
    }

    pub(crate) fn send(&mut self, from: &str, id: u128, payload: &[u8]) -> Result<Done, Illegal> {
        self.apply(Body::Sent {
            from: user(from),
            id: MessageId(id.to_be_bytes()),
            payload: payload.to_vec().into(),
            to: None,
        })
    }

    fn copy(&mut self, to: &str, id: u128, payload: &[u8]) -> Result<Done, Illegal> {
        self.apply(Body::Sent {
            from: user("owner"),
            id: MessageId(id.to_be_bytes()),
            payload: payload.to_vec().into(),
            to: Some(user(to)),
        })
    }

    /// All that is kept is a month older then.
    pub(crate) fn pass_a_month(&mut self) {
        let days = KEPT_FOR.as_secs() / CLOCK_STEP_MAX.as_secs();
        for _ in 0..days {
            self.now += CLOCK_STEP_MAX.as_millis() as u64;
            self.apply(Body::Read(0)).unwrap();
        }
        self.now += 1;
        self.apply(Body::Read(0)).unwrap();
    }

    fn numbers(&self) -> Vec<u64> {
        self.inbox
            .letters_after(0)
            .map(|letter| letter.number)
            .collect()
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

#[test]
fn messages_are_numbered_and_keep_their_order() {
    let mut world = World::new();
    for id in 1..=3 {
        assert_eq!(world.send("alice", id, b"x").unwrap().number, id as u64);
    }
    assert_eq!(world.numbers(), [1, 2, 3]);
    let newest: Vec<_> = world
        .inbox
        .letters_before(3)
        .map(|letter| letter.number)
        .collect();
    assert_eq!(newest, [2, 1]);
    assert_eq!(world.inbox.letters_before(u64::MAX).count(), 3);
    assert_eq!(world.inbox.letters_before(0).count(), 0);
    assert_eq!(world.inbox.letters_after(u64::MAX).count(), 0);
}

#[test]
fn an_inbox_is_there_once_its_user_has_opened_it() {
    let mut world = World::unopened();
    assert_eq!(world.send("alice", 1, b"x"), Err(Illegal::NoSuchUser));
    assert_eq!(world.inbox.last(), None);
    world.apply(Body::Opened).unwrap();
    let epoch = world.inbox.last().unwrap().epoch;
    assert!(!world.send("alice", 1, b"x").unwrap().is_repeated);
    world.apply(Body::Opened).unwrap();
    let last = world.inbox.last().unwrap();
    assert_eq!(
        (last.epoch, last.offset),
        (epoch, 1),
        "the first opening counts"
    );
}

#[test]
fn a_message_that_is_sent_again_is_there_once_and_says_so() {
    let mut world = World::new();
    let first = world.send("alice", 7, b"x").unwrap();
    world.now += 5;
    let again = world.send("alice", 7, b"x").unwrap();
    assert_eq!(
        (again.number, again.is_repeated, again.time),
        (1, true, first.time)
    );
    assert_eq!(
        world.send("bob", 7, b"x").unwrap().number,
        2,
        "ids are the senders' own"
    );
    assert_eq!(world.numbers(), [1, 2]);
}

#[test]
fn a_repeated_message_is_recognised_although_it_is_not_kept_or_its_sender_blocked_since() {
    let mut world = World::new();
    world.send("alice", 1, b"x").unwrap();
    world.apply(Body::Blocked(user("alice"))).unwrap();
    assert!(world.send("alice", 1, b"x").unwrap().is_repeated);
    world.pass_a_month();
    let again = world.send("alice", 1, b"x").unwrap();
    assert_eq!((again.number, again.is_repeated), (0, true));
    assert_eq!(world.send("alice", 2, b"x"), Err(Illegal::Blocked));
}

#[test]
fn copies_of_what_the_user_sends_are_numbered_and_make_place_for_each_other() {
    let mut world = World::unopened();
    assert_eq!(world.copy("bob", 1, b"x"), Err(Illegal::NoSuchUser));
    let mut world = World::new();
    // More than a sender may have unread, and all that an inbox keeps of them.
    for id in 0..COPIES_MAX as u128 {
        assert_eq!(
            u128::from(world.copy("bob", id, b"x").unwrap().number),
            id + 1
        );
    }
    assert!(world.copy("bob", 0, b"x").unwrap().is_repeated);
    let first = world.inbox.letters_after(0).next().unwrap();
    assert_eq!((&first.to, first.number), (&Some(user("bob")), 1));
    let epoch = world.inbox.last().unwrap().epoch;
    let from_the_first = Place { epoch, offset: 0 };
    assert!(world.inbox.is_recoverable(from_the_first));
    world.copy("bob", 5000, b"x").unwrap();
    assert_eq!(world.numbers()[0], 2);
    assert_eq!(world.inbox.lost(), 0, "nothing that the user has to read");
    assert!(!world.inbox.is_recoverable(from_the_first));
    world.copy("bob", 5001, &[0; PAYLOAD_BYTES_MAX]).unwrap();
    let snapshot = world.inbox.snapshot();
    assert_eq!(Inbox::restore(&snapshot).unwrap(), world.inbox);
}

#[test]
fn what_the_user_sends_takes_no_place_from_what_others_send() {
    let mut world = World::new();
    world.send("alice", 1, b"read").unwrap();
    world.apply(Body::Read(1)).unwrap();
    world.send("alice", 2, b"unread").unwrap();
    for id in 0..2 * LETTERS_MAX as u128 {
        world.copy("bob", id, b"x").unwrap();
    }
    assert_eq!(world.numbers()[..2], [1, 2]);
    assert_eq!(world.numbers().len(), 2 + COPIES_MAX);
    let mut others = 0;
    for id in 2..LETTERS_MAX as u128 {
        let from = format!("user-{}", id % 20);
        others += usize::from(world.send(&from, 10_000 + id, b"x").is_ok());
    }
    assert_eq!(others, LETTERS_MAX - 2, "there is place for all");
    world
        .send("carol", 1, b"in place of what was read")
        .unwrap();
    assert_eq!(world.inbox.lost(), 1);
    assert_eq!(world.send("carol", 2, b"x"), Err(Illegal::Full));
    world.copy("bob", 9000, b"x").unwrap();
    let read: Vec<_> = world
        .inbox
        .letters_before(3)
        .map(|kept| kept.number)
        .collect();
    assert_eq!(read, [2], "numbers are as they were");
    let snapshot = world.inbox.snapshot();
    assert_eq!(Inbox::restore(&snapshot).unwrap(), world.inbox);
}

#[test]
fn so_many_ids_are_remembered() {
    let mut world = World::new();
    for id in 0..=SEEN_MAX as u128 {
        world.send("alice", id, b"").unwrap();
        world.apply(Body::Read(u64::MAX)).unwrap();
    }
    assert!(world.send("alice", 1, b"").unwrap().is_repeated);
    assert!(!world.send("alice", 0, b"").unwrap().is_repeated);
}

#[test]
fn what_was_read_makes_place_and_what_was_not_read_stays() {
    let mut world = World::new();
    for id in 0..LETTERS_MAX as u128 {
        let sender = format!("user-{}", id % 20);
        world.send(&sender, id, b"").unwrap();
    }
    assert_eq!(world.send("bob", 0, b""), Err(Illegal::Full));
    world.apply(Body::Read(2)).unwrap();
    assert_eq!(world.inbox.lost(), 0, "nothing goes before it has to");
    world.send("bob", 0, b"").unwrap();
    world.send("bob", 1, b"").unwrap();
    assert_eq!(world.inbox.lost(), 2);
    assert_eq!(world.send("bob", 2, b""), Err(Illegal::Full));
    assert_eq!(world.numbers().len(), LETTERS_MAX);
}

#[test]
fn an_inbox_is_bounded_by_its_bytes() {
    let mut world = World::new();
    let payload = vec![0; PAYLOAD_BYTES_MAX];
    let fit = LETTER_BYTES_MAX / PAYLOAD_BYTES_MAX;
    for id in 0..fit as u128 {
        world.send(&format!("u{}", id % 8), id, &payload).unwrap();
    }
    assert_eq!(world.send("bob", 0, b"x"), Err(Illegal::Full));
    world.send("bob", 1, b"").unwrap();
    world.apply(Body::Read(1)).unwrap();
    world.send("bob", 2, &payload).unwrap();
    assert_eq!(world.inbox.lost(), 1);
}

#[test]
fn one_sender_cannot_fill_an_inbox() {
    let mut world = World::new();
    for id in 0..UNREAD_PER_SENDER_MAX as u128 {
        world.send("alice", id, b"").unwrap();
    }
    assert_eq!(world.send("alice", 1000, b""), Err(Illegal::SenderFull));
    world.send("bob", 0, b"").unwrap();
    world.apply(Body::Read(1)).unwrap();
    world.send("alice", 1000, b"").unwrap();
    assert_eq!(world.send("alice", 1001, b""), Err(Illegal::SenderFull));
}

#[test]
fn one_sender_cannot_fill_an_inbox_with_long_messages_either() {
    let mut world = World::new();
    let payload = vec![0; PAYLOAD_BYTES_MAX];
    let fit = (UNREAD_BYTES_PER_SENDER_MAX / PAYLOAD_BYTES_MAX) as u128;
    for id in 0..fit {
        world.send("alice", id, &payload).unwrap();
    }
    assert_eq!(world.send("alice", fit, b"x"), Err(Illegal::SenderFull));
    world.send("bob", 0, &payload).unwrap();
    world.apply(Body::Read(1)).unwrap();
    world.send("alice", fit, &payload).unwrap();
}

#[test]
fn reading_only_goes_forward_and_not_beyond_the_last() {
    let mut world = World::new();
    world.apply(Body::Read(9)).unwrap();
    assert_eq!(world.inbox.read(), 0);
    world.send("alice", 0, b"").unwrap();
    world.send("alice", 1, b"").unwrap();
    world.apply(Body::Read(2)).unwrap();
    world.apply(Body::Read(1)).unwrap();
    assert_eq!(world.inbox.read(), 2);
}

#[test]
fn a_blocked_user_is_refused_until_it_is_unblocked() {
    let mut world = World::new();
    world.apply(Body::Blocked(user("alice"))).unwrap();
    assert_eq!(world.send("alice", 0, b""), Err(Illegal::Blocked));
    world.send("bob", 0, b"").unwrap();
    world.apply(Body::Unblocked(user("alice"))).unwrap();
    assert_eq!(world.send("alice", 0, b"").unwrap().number, 2);
    world.apply(Body::Unblocked(user("alice"))).unwrap();
    assert_eq!(
        world.inbox.blocks(),
        2,
        "what changed nothing does not count"
    );
}

#[test]
fn the_list_of_blocked_users_is_bounded() {
    let mut world = World::new();
    for number in 0..BLOCKED_MAX {
        world
            .apply(Body::Blocked(user(&format!("user-{number}"))))
            .unwrap();
    }
    assert_eq!(
        world.apply(Body::Blocked(user("alice"))),
        Err(Illegal::Limit)
    );
    world.apply(Body::Blocked(user("user-0"))).unwrap();
    world.apply(Body::Unblocked(user("user-1"))).unwrap();
    world.apply(Body::Blocked(user("alice"))).unwrap();
}

#[test]
fn messages_end_after_a_month_and_leave_place_for_their_sender() {
    let mut world = World::new();
    for id in 0..UNREAD_PER_SENDER_MAX as u128 {
        world.send("alice", id, b"").unwrap();
    }
    world.pass_a_month();
    world.send("alice", 1000, b"").unwrap();
    assert_eq!(world.numbers(), [UNREAD_PER_SENDER_MAX as u64 + 1]);
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let mut world = World::new();
    let first = world.send("alice", 0, b"").unwrap();
    world.now -= 1000;
    assert_eq!(world.send("alice", 1, b"").unwrap().time, first.time);
}

#[test]
fn a_clock_that_is_far_ahead_or_behind_ends_nothing_that_is_kept() {
    let mut world = World::new();
    for id in 0..10 {
        world.send("alice", id, b"").unwrap();
    }
    let right = world.now;
    for wrong in [u64::MAX, right + 40 * 86_400_000, 0] {
        world.now = wrong;
        world.send("bob", u128::from(wrong), b"").unwrap();
        world.now = right;
        assert!(world.send("alice", 5, b"").unwrap().is_repeated);
    }
    assert_eq!(world.numbers(), (1..=13).collect::<Vec<_>>());
    // An empty inbox takes the time as it is told.
    let mut world = World::new();
    world.now += 40 * 86_400_000;
    let told = world.send("alice", 1, b"").unwrap().time;
    assert_eq!(told.as_millis(), world.now);
}

#[test]
fn a_place_is_recoverable_while_everything_after_it_is_kept() {
    let mut world = World::new();
    world.send("alice", 0, b"").unwrap();
    let Place { epoch, offset } = world.inbox.last().unwrap();
    assert_eq!(offset, 1);
    let at = |offset| Place { epoch, offset };
    let other = Place {
        epoch: OperationId([9; 16]),
        offset: 1,
    };
    assert!(world.inbox.is_recoverable(at(0)));
    assert!(world.inbox.is_recoverable(at(1)));
    assert!(
        !world.inbox.is_recoverable(at(2)),
        "nobody has been told of it"
    );
    assert!(!world.inbox.is_recoverable(other));
    world.pass_a_month();
    assert!(!world.inbox.is_recoverable(at(0)));
    assert!(world.inbox.is_recoverable(at(1)));
}

#[test]
fn what_is_no_entry_is_refused_whole() {
    let entry = Entry {
        operation: OperationId([1; 16]),
        time: Time::from_millis(5),
        body: Body::Sent {
            from: user("alice"),
            id: MessageId([2; 16]),
            payload: vec![0; PAYLOAD_BYTES_MAX + 1].into(),
            to: None,
        },
    };
    assert_eq!(Entry::decode(&entry.encode()), Err(EntryError::TooLong));
    assert_eq!(Entry::decode(b""), Err(EntryError::Version { version: 0 }));
    let mut world = World::new();
    world.send("alice", 1, b"payload").unwrap();
    let good = Entry {
        body: Body::Blocked(user("bob")),
        ..entry
    };
    let good = good.encode();
    for end in 0..good.len() {
        assert!(Entry::decode(&good[..end]).is_err(), "cut at {end}");
    }
    let snapshot = world.inbox.snapshot();
    assert!(Inbox::restore(&snapshot).is_ok());
    assert!(Inbox::restore(b"").is_err());
    assert!(Inbox::restore(&snapshot[..snapshot.len() - 1]).is_err());
}
