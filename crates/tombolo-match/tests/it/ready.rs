//! Ready checks.

use std::time::Duration;

use tombolo_match::{Answer, Body, EndReason, Event, MatchId};

use crate::world::{World, ended, id, solo, user};

fn duel() -> World {
    let mut world = World::new("name = \"duel\"\nready = 10\nplayers = { min = 2, max = 2 }");
    world.submit_all([solo(1), solo(2)]);
    assert_eq!(world.matched(), [["u1", "u2"]]);
    world
}

fn answer(name: &str, answer: Answer) -> Body {
    Body::Answered {
        id: MatchId(1),
        user: user(name),
        answer,
    }
}

#[test]
fn a_match_begins_when_all_are_ready() {
    let mut world = duel();
    assert!(world.waiting().is_empty());
    assert!(
        world.apply(Body::Cancelled(id(1))).is_err(),
        "it has found a match"
    );
    let events = world.apply(answer("u2", Answer::Accept)).unwrap();
    assert!(matches!(events[..], [Event::Accepted { .. }]));
    assert!(
        world
            .apply(answer("u2", Answer::Accept))
            .unwrap()
            .is_empty()
    );
    assert!(world.apply(answer("u3", Answer::Accept)).is_err());
    let events = world.apply(answer("u1", Answer::Accept)).unwrap();
    assert!(matches!(
        events[..],
        [Event::Accepted { .. }, Event::Matched(_)]
    ));
    assert_eq!(world.pool.ticket_count(), 0);
    assert!(world.wait(100).is_empty());
}

#[test]
fn who_declines_drops_out_and_the_others_go_back_to_the_front() {
    let mut world = duel();
    world.submit(solo(3)).unwrap();
    let events = world.apply(answer("u2", Answer::Decline)).unwrap();
    assert_eq!(ended(&events), [(2, EndReason::Declined)]);
    assert_eq!(world.waiting(), [1, 3]);
    assert_eq!(world.matched(), [["u1", "u3"]]);
}

#[test]
fn who_does_not_answer_drops_out() {
    let mut world = duel();
    world.apply(answer("u1", Answer::Accept)).unwrap();
    assert_eq!(
        world.pool.poll_timeout(),
        Some(world.now.after(Duration::from_secs(10)))
    );
    assert!(world.wait(9).is_empty());
    let events = world.wait(1);
    assert_eq!(ended(&events), [(2, EndReason::Unanswered)]);
    assert!(matches!(&events[1], Event::Failed { requeued, .. } if *requeued == [id(1)]));
    assert_eq!(world.waiting(), [1]);
    world.submit(solo(3)).unwrap();
    assert_eq!(world.matched(), [["u1", "u3"]]);
}

#[test]
fn who_is_away_when_its_match_fails_has_its_grace_still() {
    let mut world = World::new("name = \"duel\"\nready = 10\nplayers = { min = 2, max = 2 }");
    let graced = |number, seconds| {
        let mut ticket = solo(number);
        ticket.grace = Duration::from_secs(seconds);
        ticket
    };
    world.submit_all([graced(1, 30), graced(2, 5)]);
    assert_eq!(world.matched().len(), 1);
    let drop = |number: u128| Body::Dropped {
        ticket: id(number),
        user: user(&format!("u{number}")),
    };
    world.apply(answer("u1", Answer::Accept)).unwrap();
    world.apply(drop(1)).unwrap();
    let events = world.wait(10);
    assert_eq!(ended(&events), [(2, EndReason::Unanswered)]);
    assert_eq!(world.pool.ticket_count(), 1);
    assert!(world.waiting().is_empty(), "it is away");
    let events = world.wait(20);
    assert_eq!(ended(&events), [(1, EndReason::Gone)]);
}
