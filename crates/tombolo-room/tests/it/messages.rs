use std::num::NonZeroU32;

use bytes::Bytes;
use tombolo_room::{
    Act, Audience, Event, GROUPS_PER_MEMBER_MAX, GroupId, HISTORY_BYTES_MAX, Illegal, OperationId,
    PAYLOAD_BYTES_MAX, Settings, SettingsChange,
};

use crate::world::{World, seats, user};

fn say(text: &str) -> Act {
    to(Audience::All, text)
}

fn to(audience: Audience, text: &str) -> Act {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    Act::Say { audience, payload }
}

fn group(number: u32) -> GroupId {
    GroupId(NonZeroU32::new(number).unwrap())
}

#[test]
fn messages_are_numbered_and_the_last_are_kept() {
    let settings = Settings {
        history_max: 3,
        ..seats(4)
    };
    let mut world = World::with(settings, &["a"]);
    for text in ["1", "2", "3", "4", "5"] {
        world.act("a", say(text)).unwrap();
    }
    let numbers: Vec<_> = world
        .room
        .messages()
        .map(|message| message.number)
        .collect();
    assert_eq!(numbers, [3, 4, 5]);

    let fewer = SettingsChange {
        history_max: Some(1),
        ..SettingsChange::default()
    };
    world.act("a", Act::Configure(fewer)).unwrap();
    assert_eq!(world.room.messages().count(), 1);
}

#[test]
fn recovery_is_whole_or_refused() {
    let settings = Settings {
        history_max: 3,
        ..seats(4)
    };
    let mut world = World::with(settings, &["a"]);
    let opening = world.room.opening().unwrap();
    assert!(
        world.room.is_recoverable(opening, 0),
        "nothing was said yet"
    );
    for text in ["1", "2", "3", "4"] {
        world.act("a", say(text)).unwrap();
    }
    assert!(!world.room.is_recoverable(opening, 0), "the first has gone");
    for number in 1..=4 {
        assert!(world.room.is_recoverable(opening, number), "{number}");
    }
    assert!(
        !world.room.is_recoverable(opening, 5),
        "nobody can have that"
    );
    assert!(!world.room.is_recoverable(OperationId([7; 16]), 2));
}

#[test]
fn a_message_is_for_whom_it_says() {
    let mut world = World::with(seats(4), &["a", "b", "c"]);
    let enter = vec![group(7)];
    let groups = Act::ChangeGroups {
        enter,
        exit: vec![],
    };
    world.act("b", groups).unwrap();
    let heard = |world: &mut World, audience: Audience| {
        let events = world.act("a", to(audience, "hi")).unwrap();
        let [Event::Said(message)] = &events[..] else {
            panic!("{events:?}");
        };
        let members = world.room.members();
        let hear = members.filter(|(user, member)| message.is_for(user, member.groups()));
        hear.map(|(user, _)| user.to_string()).collect::<String>()
    };
    assert_eq!(heard(&mut world, Audience::All), "abc");
    assert_eq!(heard(&mut world, Audience::Others), "bc");
    let users = vec![user("c"), user("a"), user("z")];
    assert_eq!(heard(&mut world, Audience::Users(users)), "ac");
    assert_eq!(heard(&mut world, Audience::Group(group(7))), "b");
    assert_eq!(heard(&mut world, Audience::Group(group(8))), "");
}

#[test]
fn groups_change_at_once_and_are_bounded() {
    let mut world = World::with(seats(4), &["a"]);
    let change = |enter: Vec<u32>, exit: Vec<u32>| Act::ChangeGroups {
        enter: enter.into_iter().map(group).collect(),
        exit: exit.into_iter().map(group).collect(),
    };
    world.act("a", change(vec![1, 2], vec![])).unwrap();
    let events = world.act("a", change(vec![2, 3], vec![1, 9])).unwrap();
    let changed = Event::GroupsChanged {
        user: user("a"),
        entered: vec![group(3)],
        exited: vec![group(1)],
    };
    assert_eq!(events, [changed]);
    let many = (10..10 + GROUPS_PER_MEMBER_MAX as u32).collect();
    assert_eq!(world.act("a", change(many, vec![])), Err(Illegal::Limit));
    assert_eq!(
        world.serve(change(vec![1], vec![])),
        Err(Illegal::NotMember)
    );
}

#[test]
fn large_messages_push_out_old_ones() {
    let settings = Settings {
        history_max: 1_000,
        ..seats(4)
    };
    let mut world = World::with(settings, &["a"]);
    let count = HISTORY_BYTES_MAX / PAYLOAD_BYTES_MAX + 3;
    for _ in 0..count {
        let payload = Bytes::from(vec![7; PAYLOAD_BYTES_MAX]);
        let audience = Audience::All;
        world.act("a", Act::Say { audience, payload }).unwrap();
    }
    let kept: usize = world
        .room
        .messages()
        .map(|message| message.payload.len())
        .sum();
    assert!(kept <= HISTORY_BYTES_MAX && kept > HISTORY_BYTES_MAX / 2);
    assert_eq!(world.room.message_last(), count as u64);
}
