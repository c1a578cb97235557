use tombolo_room::{Body, Entry, Event, Illegal, LeftReason, MEMBERS_MAX, OPERATIONS_MAX, Room};

use crate::sameness::{entry, membership, user};

#[test]
fn a_room_opens_with_its_first_member_and_closes_with_its_last() {
    let mut room = Room::new();
    assert!(!room.is_open());
    assert_eq!(room.apply(&joined(1, "a", 1)), Err(Illegal::Closed));

    let opened = room.apply(&created(2, "a", 1, 3)).unwrap();
    let joining = Event::Joined {
        user: user("a"),
        membership: membership(1),
    };
    assert_eq!(opened, [Event::Opened { members_max: 3 }, joining]);
    assert_eq!(room.apply(&created(3, "b", 2, 3)), Err(Illegal::Open));
    room.apply(&joined(4, "b", 2)).unwrap();

    room.apply(&left(5, "a", 1, LeftReason::Left)).unwrap();
    let closed = room
        .apply(&left(6, "b", 2, LeftReason::Disconnected))
        .unwrap();
    let reason = LeftReason::Disconnected;
    let leaving = Event::Left {
        user: user("b"),
        membership: membership(2),
        reason,
    };
    assert_eq!(closed, [leaving, Event::Closed]);
    assert!(!room.is_open());
    assert_eq!(
        room.apply(&left(7, "b", 2, LeftReason::Left)),
        Err(Illegal::Closed)
    );

    assert!(room.apply(&created(8, "c", 3, 1)).is_ok());
    assert_eq!(room.members_max(), 1);
}

#[test]
fn a_full_room_takes_nobody_but_its_members_again() {
    let mut room = Room::new();
    room.apply(&created(1, "a", 1, 2)).unwrap();
    room.apply(&joined(2, "b", 2)).unwrap();
    assert_eq!(room.apply(&joined(3, "c", 3)), Err(Illegal::Full));
    assert!(room.apply(&joined(4, "a", 4)).is_ok());
    assert_eq!(room.apply(&joined(5, "a", 4)), Err(Illegal::Member));
}

#[test]
fn another_session_of_a_member_replaces_it() {
    let mut room = Room::new();
    room.apply(&created(1, "a", 1, 8)).unwrap();
    room.apply(&joined(2, "b", 2)).unwrap();
    let events = room.apply(&joined(3, "a", 3)).unwrap();
    let reason = LeftReason::Replaced;
    let leaving = Event::Left {
        user: user("a"),
        membership: membership(1),
        reason,
    };
    let joining = Event::Joined {
        user: user("a"),
        membership: membership(3),
    };
    assert_eq!(events, [leaving, joining]);

    // What the old session still wants to say comes too late.
    assert_eq!(
        room.apply(&left(4, "a", 1, LeftReason::Left)),
        Err(Illegal::NotMember)
    );
    assert_eq!(room.membership(&user("a")), Some(&membership(3)));
    let order: Vec<_> = room.members().map(|(user, _)| user.as_str()).collect();
    assert_eq!(order, ["b", "a"]);
}

#[test]
fn a_sole_member_is_replaced_without_closing_the_room() {
    let mut room = Room::new();
    room.apply(&created(1, "a", 1, 1)).unwrap();
    let events = room.apply(&joined(2, "a", 2)).unwrap();
    assert_eq!(events.len(), 2);
    assert!(room.is_open());
}

#[test]
fn a_repeated_operation_counts_once_even_if_it_was_illegal() {
    let mut room = Room::new();
    room.apply(&created(1, "a", 1, 1)).unwrap();
    assert_eq!(room.apply(&created(1, "a", 1, 1)), Err(Illegal::Repeated));
    assert_eq!(room.apply(&joined(2, "b", 2)), Err(Illegal::Full));
    room.apply(&left(3, "a", 1, LeftReason::Left)).unwrap();
    room.apply(&created(4, "c", 3, 8)).unwrap();
    assert_eq!(room.apply(&joined(2, "b", 2)), Err(Illegal::Repeated));
}

#[test]
fn only_so_many_operations_are_remembered() {
    let mut room = Room::new();
    room.apply(&created(1, "a", 1, 1)).unwrap();
    for number in 0..OPERATIONS_MAX as u64 {
        let _ = room.apply(&joined(100 + number, "a", 1));
    }
    assert_eq!(room.apply(&created(1, "a", 1, 1)), Err(Illegal::Open));
}

#[test]
fn a_room_for_nobody_or_for_too_many_is_illegal() {
    let mut room = Room::new();
    assert_eq!(room.apply(&created(1, "a", 1, 0)), Err(Illegal::MembersMax));
    assert_eq!(
        room.apply(&created(2, "a", 1, MEMBERS_MAX + 1)),
        Err(Illegal::MembersMax)
    );
    assert!(room.apply(&created(3, "a", 1, MEMBERS_MAX)).is_ok());
}

fn created(operation: u64, name: &str, session: u8, members_max: u32) -> Entry {
    let body = Body::Created {
        members_max,
        user: user(name),
        membership: membership(session),
    };
    entry(operation, body)
}

fn joined(operation: u64, name: &str, session: u8) -> Entry {
    entry(
        operation,
        Body::Joined {
            user: user(name),
            membership: membership(session),
        },
    )
}

fn left(operation: u64, name: &str, session: u8, reason: LeftReason) -> Entry {
    let session = membership(session).session;
    entry(
        operation,
        Body::Left {
            user: user(name),
            session,
            reason,
        },
    )
}
