//! Tickets come, change and go.

use std::time::Duration;

use tombolo_match::{
    Body, ENDED_LAST_MAX, ENDED_MAX, EndReason, Entry, Event, Illegal, LEAP_MAX, Player,
    PlayerError, Pool, Reach, WEIGHT_MAX,
};
use tombolo_wire::v1;

use crate::world::{World, ended, fat, having, id, name, player, skilled, solo, text, user};

fn trio() -> World {
    World::new("name = \"trio\"\nplayers = { min = 3, max = 3 }")
}

fn queued(number: u128) -> Event {
    let (ticket, estimate) = (id(number), None);
    Event::Queued { ticket, estimate }
}

fn dropped(number: u128) -> Body {
    Body::Dropped {
        ticket: id(number),
        user: user(&format!("u{number}")),
    }
}

#[test]
fn a_user_has_one_ticket() {
    let mut world = trio();
    world.submit(solo(1)).unwrap();
    let mut second = solo(2);
    second.players.push(player("u1"));
    assert_eq!(
        world.submit(second),
        Err(Illegal::Busy { user: user("u1") })
    );
    world.apply(Body::Cancelled(id(1))).unwrap();
    let mut third = solo(3);
    third.players.push(player("u1"));
    world.submit(third).unwrap();
}

#[test]
fn a_ticket_does_not_come_twice() {
    let mut world = trio();
    world.submit(solo(1)).unwrap();
    assert_eq!(world.submit(solo(1)), Err(Illegal::Repeated));
    let events = world.apply(Body::Cancelled(id(1))).unwrap();
    assert_eq!(ended(&events), [(1, EndReason::Cancelled)]);
    assert_eq!(
        world.submit(solo(1)),
        Err(Illegal::Repeated),
        "an entry that was appended twice"
    );
}

#[test]
fn tickets_are_refused_that_weigh_too_much_together_and_so_are_changes() {
    let mut world = trio();
    let weight = fat(solo(1)).weight();
    let places = WEIGHT_MAX / weight;
    let number = |at: usize| at as u128 + 1;
    world.submit_all((0..places - 1).map(|at| fat(solo(number(at)))));
    world.submit(solo(1_000)).unwrap();
    let mut two = fat(solo(1_001));
    two.players.extend(fat(solo(1_002)).players);
    assert_eq!(world.submit(two), Err(Illegal::Full));
    let mut change = |number: u128, players| {
        let ticket = id(number);
        world.apply(Body::Changed { ticket, players }).map(drop)
    };
    let fatter = fat(solo(1_000)).players;
    assert_eq!(
        change(1_000, fatter.clone()),
        Ok(()),
        "there is a place left"
    );
    let two = [&fatter[..], &fat(solo(1_001)).players].concat();
    assert_eq!(change(1_000, two), Err(Illegal::Full));
    assert_eq!(change(1, solo(1).players), Ok(()));
    assert_eq!(world.submit(fat(solo(1_001))), Ok(vec![queued(1_001)]));
    assert!(world.pool.weight() <= WEIGHT_MAX);
}

#[test]
fn the_kind_that_was_seen_first_is_forgotten_first() {
    let mut world = World::new(
        "name = \"duel\"\nplayers = { min = 2, max = 2 }\nrules = [{ kind = \"equal\", attribute = \"mode\" }]",
    );
    let ticket = |number: u128, mode: u128| having(solo(number), "mode", text(&format!("{mode}")));
    // One that waits for a minute, behind as many others as are remembered.
    for mode in 0..1_100 {
        world.submit(ticket(2 * mode + 1, mode)).unwrap();
        if mode == 1_097 {
            world.wait(60);
        }
        world.submit(ticket(2 * mode + 2, mode)).unwrap();
        assert_eq!(world.step().len(), 1);
    }
    world.submit(ticket(10_000, 1_097)).unwrap();
    let estimate = world.pool.estimate(&id(10_000)).unwrap();
    assert_eq!(estimate.half, Duration::from_secs(60));
}

#[test]
fn a_full_pool_takes_nobody() {
    let mut world = World::new("name = \"small\"\ntickets = 2\nplayers = { min = 3, max = 3 }");
    world.submit_all([solo(1), solo(2)]);
    assert_eq!(world.submit(solo(3)), Err(Illegal::Full));
}

#[test]
fn a_party_that_changes_keeps_its_place() {
    let mut world = trio();
    world.submit_all([solo(1), solo(2)]);
    let ticket = id(1);
    let players = vec![player("u1"), player("friend")];
    let events = world.apply(Body::Changed { ticket, players }).unwrap();
    assert_eq!(
        events,
        [Event::Changed {
            ticket,
            revision: 1
        }]
    );
    assert_eq!(world.waiting(), [1, 2]);
    assert_eq!(world.matched(), [["friend", "u1", "u2"]]);
}

#[test]
fn a_claim_for_a_party_that_has_changed_since_is_refused() {
    let mut world = World::new("name = \"duel\"\nplayers = { min = 2, max = 2 }");
    world.submit_all([solo(1), solo(2), solo(3), solo(4)]);
    let step = world.pool.propose(world.now, 1000);
    assert_eq!(step.matches.len(), 2);
    let players = vec![player("u1")];
    world
        .apply(Body::Changed {
            ticket: id(1),
            players,
        })
        .unwrap();
    let events = world.apply(Body::Claimed(step.matches.clone())).unwrap();
    assert!(matches!(
        events[..],
        [Event::Refused { .. }, Event::Matched(_)]
    ));
    let events = world.apply(Body::Claimed(step.matches)).unwrap();
    assert!(matches!(
        events[..],
        [Event::Refused { .. }, Event::Refused { .. }]
    ));
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn what_was_not_claimed_is_proposed_again() {
    let mut world = World::new("name = \"duel\"\nplayers = { min = 2, max = 2 }");
    world.submit_all([solo(1), solo(2)]);
    let first = world.pool.propose(world.now, 1000);
    let again = world.pool.propose(world.now, 1000);
    assert_eq!(first.matches, again.matches);
}

#[test]
fn a_user_without_grace_takes_its_ticket_along() {
    let mut world = trio();
    world.submit(solo(1)).unwrap();
    let events = world.apply(dropped(1)).unwrap();
    assert_eq!(ended(&events), [(1, EndReason::Gone)]);
}

#[test]
fn a_user_may_come_back_to_its_ticket() {
    let mut world = World::new("name = \"duel\"\nplayers = { min = 2, max = 2 }");
    let mut graced = solo(1);
    graced.grace = Duration::from_secs(30);
    world.submit(graced).unwrap();
    world.apply(dropped(1)).unwrap();
    world.submit(solo(2)).unwrap();
    assert!(
        world.matched().is_empty(),
        "nobody is matched with who is away"
    );
    world.wait(29);
    let (ticket, user) = (id(1), user("u1"));
    let device = None;
    world
        .apply(Body::Returned {
            ticket,
            user,
            device,
        })
        .unwrap();
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn a_user_that_does_not_come_back_is_gone() {
    let mut world = trio();
    let mut graced = solo(1);
    graced.grace = Duration::from_secs(15);
    world.submit(graced).unwrap();
    world.apply(dropped(1)).unwrap();
    assert_eq!(
        world.pool.poll_timeout(),
        Some(world.now.after(Duration::from_secs(15)))
    );
    assert_eq!(ended(&world.wait(15)), [(1, EndReason::Gone)]);
    assert_eq!(world.pool.poll_timeout(), None);
}

#[test]
fn a_node_whose_clock_is_far_ahead_ends_nobodys_wait() {
    let mut world = trio();
    let mut graced = solo(1);
    graced.grace = Duration::from_secs(600);
    world.submit(graced).unwrap();
    world.apply(dropped(1)).unwrap();
    let before = world.now;
    for hours in [1, u64::MAX / 1_000_000] {
        let time = before.after(Duration::from_secs(hours * 3600));
        let body = Body::Ticked;
        let applied = world.pool.apply(&Entry { time, body });
        assert_eq!(applied.events, []);
    }
    assert!(world.pool.clock() <= before.after(2 * LEAP_MAX));
    // Where nobody waits, the clock may be set: the pool may have been still for days.
    world
        .apply(Body::Cancelled(solo(1).id))
        .expect("the ticket is there");
    world.now = world.now.after(Duration::from_secs(86_400));
    world.apply(Body::Ticked).unwrap();
    assert_eq!(world.pool.clock(), world.now);
}

#[test]
fn while_somebody_waits_the_time_is_said_often_enough_to_be_believed() {
    let mut world = trio();
    assert_eq!(world.pool.poll_timeout(), None);
    world.submit(solo(1)).unwrap();
    let said = world.pool.poll_timeout().expect("somebody waits");
    assert!(said.since(world.now) < LEAP_MAX / 2);
}

#[test]
fn the_estimate_is_what_others_have_waited() {
    let mut world = World::new("name = \"duel\"\nplayers = { min = 2, max = 2 }");
    world.submit(solo(1)).unwrap();
    assert_eq!(world.pool.estimate(&id(1)), None);
    world.wait(8);
    world.submit(solo(2)).unwrap();
    assert_eq!(world.matched().len(), 1);
    world.submit(solo(3)).unwrap();
    let estimate = world.pool.estimate(&id(3)).unwrap();
    assert_eq!(estimate.most, Duration::from_secs(8));
}

#[test]
fn a_ticket_goes_by_how_its_users_are_reached_by_then_and_keeps_its_place() {
    let mut world = World::new(
        "name = \"direct\"\nplayers = { min = 2, max = 2 }
        rules = [{ kind = \"connectivity\", required = true }]",
    );
    let mut hard = solo(1);
    hard.players[0].reach = Reach::PortRestricted;
    world.submit_all([hard, solo(2), solo(3)]);
    assert!(world.matched().is_empty());
    let reached = |ticket, name, reach| Body::Reached {
        ticket: id(ticket),
        user: user(name),
        reach,
    };
    let before = world.pool.standing(&id(3)).unwrap();
    let before = (before.revision, before.since);
    world.wait(3);
    let stranger = world.apply(reached(3, "u2", Reach::Open));
    assert_eq!(stranger, Err(Illegal::Unknown));
    assert_eq!(world.apply(reached(3, "u3", Reach::Open)), Ok(Vec::new()));
    let now = world.pool.standing(&id(3)).unwrap();
    assert_eq!((now.revision, now.since), before);
    assert_eq!(world.matched(), [["u1", "u3"]]);
    let gone = world.apply(reached(3, "u3", Reach::Relayed));
    assert_eq!(gone, Err(Illegal::Unknown));
}

#[test]
fn no_attribute_is_called_as_queries_see_tags() {
    let mut said = v1::MatchPlayer::from(&skilled(1, &[5.0]).players[0]);
    let player = Player::parse(said.clone()).unwrap();
    assert_eq!(player.check(), Ok(()));
    said.attributes[0].name = "tags".to_owned();
    // It may be kept from before that was refused.
    let player = Player::parse(said).unwrap();
    assert_eq!(player.check(), Err(PlayerError::Tags));
}

#[test]
fn nobody_says_a_role_twice() {
    let mut player = player("u1");
    player.roles = vec![name("healer"), name("fighter"), name("healer")];
    let role = name("healer");
    assert_eq!(player.check(), Err(PlayerError::RepeatedRole { role }));
    player.roles.pop();
    assert_eq!(player.check(), Ok(()));
}

#[test]
fn the_estimate_of_all_outlives_however_many_kinds() {
    let mut world = World::new(
        "name = \"p\"\nplayers = { min = 2, max = 2 }\nrules = [{ kind = \"equal\", attribute = \"mode\" }]",
    );
    for number in 0..1_026_u128 {
        let mode = || text(&format!("mode-{number}"));
        let pair = [2 * number + 1, 2 * number + 2];
        world.submit_all(pair.map(|number| having(solo(number), "mode", mode())));
        if (1_000..1_023).contains(&number) {
            world.wait(60);
        }
        assert_eq!(world.step().len(), 1);
    }
    let ticket = having(solo(9_999), "mode", text("another"));
    world.submit(ticket).unwrap();
    let estimate = world.pool.estimate(&id(9_999)).unwrap();
    assert_eq!(estimate.most, Duration::from_secs(60));
}

#[test]
fn however_many_tickets_end_none_comes_twice_while_its_device_may_come_back() {
    const A_SECOND: u128 = 10_000;
    let mut world = trio();
    let first = solo(1);
    world.submit(first.clone()).unwrap();
    world.apply(Body::Cancelled(id(1))).unwrap();
    let mut patient = solo(2);
    patient.grace = Duration::from_secs(75);
    world.submit(patient.clone()).unwrap();
    world.apply(Body::Cancelled(id(2))).unwrap();
    let mut number = 10;
    let mut end_many = |world: &mut World, seconds: u64| {
        for _ in 0..seconds {
            world.wait(1);
            for _ in 0..A_SECOND {
                number += 1;
                let mut ticket = first.clone();
                ticket.id = id(number);
                world.submit(ticket).unwrap();
                world.apply(Body::Cancelled(id(number))).unwrap();
            }
        }
    };
    end_many(&mut world, 59);
    assert_eq!(world.submit(solo(1)), Err(Illegal::Repeated));
    let rules = world.pool.rules().clone();
    let snapshot = world.pool.snapshot();
    assert!(snapshot.len() < 16 * (ENDED_MAX + ENDED_LAST_MAX) + 64 * 1024);
    world.pool = Pool::restore(rules, &snapshot).unwrap();
    assert_eq!(world.pool.snapshot(), snapshot);
    assert_eq!(world.submit(solo(1)), Err(Illegal::Repeated));
    end_many(&mut world, 2);
    world.submit(solo(1)).unwrap();
    assert_eq!(
        world.submit(patient),
        Err(Illegal::Repeated),
        "its grace is longer"
    );
}

#[test]
fn a_ticket_that_came_back_and_ends_anew_is_remembered_from_then_on() {
    let mut world = World::new("name = \"duel\"\nplayers = { min = 2, max = 2 }");
    world.submit_all([solo(1), solo(2)]);
    let [formed] = world.step().try_into().unwrap();
    world.wait(30);
    world.apply(Body::Unseated(formed.id)).unwrap();
    world.wait(20);
    for number in [1, 2] {
        world.apply(Body::Cancelled(id(number))).unwrap();
    }
    for number in (10..).take(ENDED_LAST_MAX - 1) {
        world.submit(solo(number)).unwrap();
        world.apply(Body::Cancelled(id(number))).unwrap();
    }
    world.wait(20);
    let rules = world.pool.rules().clone();
    let snapshot = world.pool.snapshot();
    world.pool = Pool::restore(rules, &snapshot).unwrap();
    assert_eq!(world.pool.snapshot(), snapshot);
    for number in [1, 2] {
        assert_eq!(world.submit(solo(number)), Err(Illegal::Repeated));
    }
    world.wait(40);
    world.submit(solo(1)).unwrap();
    assert_eq!(
        world.submit(solo(2)),
        Err(Illegal::Repeated),
        "it is among the last"
    );
}
