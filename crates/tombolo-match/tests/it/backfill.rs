//! Running matches ask for more users.

use std::time::Duration;

use tombolo_match::{
    Answer, Backfill, BackfillEnd, BackfillId, Body, EndReason, Event, Illegal, MatchId,
    PLAYED_WEIGHT_MAX, Pool, Reach, SEATS_AWAITED, Seating, Ticket, Value, Venue,
};

use crate::world::{
    World, asking, ended, fat, having, id, map, name, player, skilled, solo, user, users,
};

const RULES: &str = r#"
    name = "sides"
    teams = [{ name = "side", quantity = 2, min = 2, max = 2 }]
    rules = [{ kind = "distance", attribute = "skill", max = 50 }]
"#;

const DUEL: &str = "name = \"duel\"\nplayers = { min = 2, max = 2 }";

const RUNNING: BackfillId = BackfillId([7; 16]);

fn running(after: u32, first: Vec<Ticket>, second: Vec<Ticket>) -> Backfill {
    Backfill {
        id: RUNNING,
        after,
        sides: vec![(name("side-1"), first), (name("side-2"), second)],
        venue: None,
        lease: Duration::from_secs(30),
    }
}

#[test]
fn those_who_wait_are_matched_however_many_running_matches_ask_for_others() {
    let mut world = World::new(RULES);
    for number in 0..50 {
        let there = skilled(100 + u128::from(number), &[5_000.0, 5_000.0]);
        let backfill = Backfill {
            id: BackfillId([number; 16]),
            ..running(0, vec![there], Vec::new())
        };
        world.apply(Body::Backfill(backfill)).unwrap();
    }
    world.submit_all([skilled(1, &[1.0, 2.0]), skilled(2, &[3.0, 4.0])]);
    let mut steps = (0..100).map(|_| world.pool.propose(world.now, 8));
    assert!(steps.any(|step| !step.matches.is_empty()));
}

/// A match that lacks two users in its second team.
fn lacking_two() -> Body {
    let first = vec![skilled(101, &[100.0, 100.0])];
    Body::Backfill(running(0, first, Vec::new()))
}

#[test]
fn newcomers_join_a_running_match_whose_teams_stay() {
    let mut world = World::new(RULES);
    let events = world.apply(lacking_two()).unwrap();
    assert_eq!(
        events,
        [Event::BackfillOpened {
            id: RUNNING,
            generation: 1
        }]
    );
    world.submit_all([skilled(1, &[300.0]), skilled(2, &[120.0])]);
    let events = world.events();
    let [
        Event::Matched(formed),
        Event::BackfillOpened { generation: 2, .. },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(formed.backfill, Some((RUNNING, 1)));
    assert_eq!(users(formed), ["u2"]);
    assert!(formed.sides[0].parties.is_empty());
    assert_eq!(formed.sides[1].parties[0].ticket, id(2));
    assert_eq!(
        world.pool.ticket_count(),
        1,
        "those who play are no tickets"
    );
    world.submit(skilled(3, &[90.0])).unwrap();
    let events = world.events();
    let filled = Event::BackfillEnded {
        id: RUNNING,
        reason: BackfillEnd::Filled,
    };
    assert_eq!(events.last(), Some(&filled));
    world.submit(skilled(4, &[100.0])).unwrap();
    assert!(world.events().is_empty());
}

#[test]
fn a_team_that_has_grown_fills_no_other_of_a_running_match() {
    let mut world = World::new(
        "name = \"teams\"\n[[teams]]\nname = \"side\"\nquantity = 2\nmin = 4\nmax = 4
        grow = [{ after = 10, value = 6 }]",
    );
    let (grown, small) = (skilled(100, &[0.0; 6]), skilled(101, &[0.0; 2]));
    let body = Body::Backfill(running(0, vec![grown], vec![small]));
    world.apply(body).unwrap();
    world.submit(solo(1)).unwrap();
    let events = world.events();
    let [
        Event::Matched(formed),
        Event::BackfillOpened { generation: 2, .. },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(formed.sides[1].parties[0].ticket, id(1));
    world.submit(solo(2)).unwrap();
    let filled = Event::BackfillEnded {
        id: RUNNING,
        reason: BackfillEnd::Filled,
    };
    assert_eq!(world.events().last(), Some(&filled));
}

#[test]
fn a_running_match_comes_before_new_ones() {
    let mut world = World::new("name = \"duel\"\nplayers = { min = 2, max = 2 }");
    let body = Body::Backfill(Backfill {
        id: RUNNING,
        after: 0,
        sides: vec![(name("players"), vec![solo(9)])],
        venue: None,
        lease: Duration::from_secs(30),
    });
    world.submit_all([solo(1), solo(2)]);
    world.apply(body).unwrap();
    let formed = world.step();
    assert_eq!(formed.len(), 1);
    assert_eq!(formed[0].backfill, Some((RUNNING, 1)));
    assert_eq!(world.waiting(), [2]);
}

#[test]
fn whoever_knows_an_older_generation_is_refused() {
    let mut world = World::new(RULES);
    world.apply(lacking_two()).unwrap();
    assert_eq!(
        world.apply(lacking_two()),
        Err(Illegal::Stale { generation: 1 })
    );
    world.submit(skilled(1, &[100.0])).unwrap();
    let step = world.pool.propose(world.now, 1000);
    assert_eq!(step.matches.len(), 1);
    let one = vec![skilled(101, &[100.0])];
    world
        .apply(Body::Backfill(running(1, one, Vec::new())))
        .unwrap();
    let events = world.apply(Body::Claimed(step.matches)).unwrap();
    assert_eq!(events, [Event::Refused { id: MatchId(1) }]);
    assert_eq!(world.events().len(), 2, "it joins the match as it is now");
}

#[test]
fn a_dead_match_leaves_no_ghost() {
    let mut world = World::new(RULES);
    world.apply(lacking_two()).unwrap();
    world.wait(29);
    let lease = Duration::from_secs(5);
    world.apply(Body::Renewed { id: RUNNING, lease }).unwrap();
    assert!(world.wait(4).is_empty());
    let expired = Event::BackfillEnded {
        id: RUNNING,
        reason: BackfillEnd::Expired,
    };
    assert_eq!(world.wait(1), [expired]);
    world.submit(skilled(1, &[100.0])).unwrap();
    assert!(world.events().is_empty());
    assert_eq!(
        world.apply(Body::Renewed { id: RUNNING, lease }),
        Err(Illegal::Unknown)
    );
    assert_eq!(world.apply(Body::Closed(RUNNING)), Err(Illegal::Unknown));
}

#[test]
fn those_who_were_to_join_a_match_that_ends_look_on() {
    let mut world = World::new(&format!("ready = 10\n{RULES}"));
    world.apply(lacking_two()).unwrap();
    world.submit(skilled(1, &[100.0])).unwrap();
    assert_eq!(world.step().len(), 1);
    assert!(world.waiting().is_empty());
    let events = world.apply(Body::Closed(RUNNING)).unwrap();
    assert!(
        matches!(&events[..], [Event::Failed { requeued, .. }, Event::BackfillEnded { .. }] if *requeued == [id(1)])
    );
    assert_eq!(world.waiting(), [1]);
}

#[test]
fn who_is_not_ready_to_join_drops_out_and_the_match_asks_on() {
    let mut world = World::new(&format!("ready = 10\n{RULES}"));
    world.apply(lacking_two()).unwrap();
    world.submit(skilled(1, &[100.0])).unwrap();
    assert_eq!(world.step().len(), 1);
    let (id, user) = (MatchId(1), user("u1"));
    let answer = Answer::Decline;
    let events = world.apply(Body::Answered { id, user, answer }).unwrap();
    assert_eq!(ended(&events), [(1, EndReason::Declined)]);
    world.submit(skilled(2, &[100.0])).unwrap();
    assert_eq!(world.step()[0].backfill, Some((RUNNING, 1)));
}

#[test]
fn running_matches_that_make_no_sense_are_refused() {
    let mut world = World::new(RULES);
    let mut refused = |backfill: Backfill| world.apply(Body::Backfill(backfill)).unwrap_err();
    assert_eq!(refused(running(0, Vec::new(), Vec::new())), Illegal::Teams);
    let three = vec![skilled(1, &[0.0, 0.0, 0.0])];
    assert_eq!(refused(running(0, three, Vec::new())), Illegal::Teams);
    let one = || vec![skilled(1, &[0.0])];
    let mut twice = running(0, one(), one());
    twice.sides[1].0 = name("side-1");
    assert_eq!(refused(twice), Illegal::Teams);
    let mut eternal = running(0, one(), Vec::new());
    eternal.lease = Duration::from_secs(601);
    assert_eq!(refused(eternal), Illegal::Lease);
    let bad = vec![solo(1)];
    assert!(matches!(
        refused(running(0, one(), bad)),
        Illegal::Ticket(_)
    ));
    assert_eq!(
        refused(running(3, one(), Vec::new())),
        Illegal::Stale { generation: 0 }
    );
    world.submit(skilled(5, &[0.0])).unwrap();
    assert!(
        world.events().is_empty(),
        "nothing is left of what was refused"
    );
}

#[test]
fn nobody_joins_a_running_match_who_plays_in_it() {
    let mut world = World::new(RULES);
    world.apply(lacking_two()).unwrap();
    let mut again = skilled(101, &[100.0]);
    again.id = id(5);
    world.submit(again).unwrap();
    assert!(world.events().is_empty());
    world.submit(skilled(1, &[100.0])).unwrap();
    assert_eq!(users(&world.step()[0]), ["u1"]);
}

#[test]
fn as_many_join_a_running_match_as_make_a_multiple_with_those_who_play() {
    let mut world = World::new(&format!("multiple = 2\n{RULES}"));
    world.apply(lacking_two()).unwrap();
    world.submit(skilled(1, &[100.0])).unwrap();
    assert!(world.events().is_empty(), "three are no multiple of two");
    world.submit(skilled(2, &[100.0])).unwrap();
    assert_eq!(users(&world.step()[0]), ["u1", "u2"]);
}

#[test]
fn running_matches_are_refused_that_do_not_fit_into_the_pool() {
    let mut world = World::new(RULES);
    let fat = |number| vec![fat(skilled(number, &[0.0]))];
    let of = |number: u8, after| Backfill {
        id: BackfillId([number; 16]),
        ..running(after, fat(u128::from(number)), Vec::new())
    };
    let mut opened = 0;
    while world.apply(Body::Backfill(of(opened, 0))).is_ok() {
        opened += 1;
    }
    assert!(world.pool.weight() <= tombolo_match::WEIGHT_MAX);
    assert_eq!(
        world.apply(Body::Backfill(of(opened, 0))),
        Err(Illegal::Full)
    );
    assert!(
        world.apply(Body::Backfill(of(0, 1))).is_ok(),
        "in the place of what it was before"
    );
}

#[test]
fn who_finds_no_place_in_a_running_match_is_back_where_it_was() {
    let mut world = World::new(RULES);
    world.apply(lacking_two()).unwrap();
    world.submit(skilled(1, &[100.0])).unwrap();
    let weight = world.pool.weight();
    world.wait(5);
    let before = world.pool.standing(&id(1)).map(|standing| standing.since);
    let formed = world.step();
    assert_eq!(formed.len(), 1);
    assert_eq!(world.pool.ticket(&id(1)), None);
    world.submit(skilled(2, &[900.0])).unwrap();
    let number = formed[0].id;
    let events = world.apply(Body::Unseated(number)).unwrap();
    assert!(
        matches!(&events[..], [Event::BackfillEnded { .. }, Event::Failed { requeued, .. }] if *requeued == [id(1)])
    );
    let since = world.pool.standing(&id(1)).map(|standing| standing.since);
    assert_eq!(since, before);
    assert_eq!(world.waiting(), [1, 2], "it came first");
    assert_eq!(world.apply(Body::Unseated(number)), Ok(Vec::new()));
    world.apply(Body::Cancelled(id(1))).unwrap();
    world.apply(Body::Cancelled(id(2))).unwrap();
    assert!(world.pool.weight() < weight, "nothing is left of them");
    // It ends, and does not come back once more.
    assert_eq!(world.apply(Body::Unseated(number)), Ok(Vec::new()));
    assert_eq!(world.waiting(), [0; 0]);
}

#[test]
fn a_pool_that_is_full_remembers_nobody_who_has_joined_a_running_match() {
    let mut world = World::new(RULES);
    let fat = |number| fat(skilled(number, &[0.0]));
    let of = |number: u8| Backfill {
        id: BackfillId([number; 16]),
        ..running(0, vec![fat(u128::from(number))], Vec::new())
    };
    let mut opened = 0;
    while world.apply(Body::Backfill(of(opened))).is_ok() {
        opened += 1;
    }
    let first = BackfillId([0; 16]);
    world.apply(Body::Closed(first)).unwrap();
    world.submit(fat(1_000)).unwrap();
    let formed = world.step();
    assert!(world.pool.weight() <= tombolo_match::WEIGHT_MAX);
    let unseated = world.apply(Body::Unseated(formed[0].id));
    assert_eq!(unseated, Err(Illegal::Unknown));
}

#[test]
fn after_a_while_whoever_has_joined_a_running_match_is_in_it_for_good() {
    let mut world = World::new(RULES);
    world.apply(lacking_two()).unwrap();
    world.submit(skilled(1, &[100.0])).unwrap();
    let formed = world.step();
    assert_eq!(world.pool.seating(formed[0].id), Seating::Awaited);
    world.wait(SEATS_AWAITED.as_secs());
    let unseated = world.apply(Body::Unseated(formed[0].id));
    assert_eq!(unseated, Err(Illegal::Unknown));
    assert_eq!(world.pool.weight(), 0);
}

#[test]
fn who_has_another_ticket_by_then_keeps_that_one() {
    let mut world = World::new(RULES);
    world.apply(lacking_two()).unwrap();
    world.submit(skilled(1, &[100.0])).unwrap();
    let formed = world.step();
    let mut other = skilled(1, &[900.0]);
    other.id = id(7);
    world.submit(other).unwrap();
    let events = world.apply(Body::Unseated(formed[0].id)).unwrap();
    assert_eq!(ended(&events), [(1, EndReason::Cancelled)]);
    assert_eq!(world.waiting(), [7]);
}

#[test]
fn a_running_match_finds_who_has_room_there_behind_many_who_have_not() {
    let mut world = World::new(
        "name = \"trio\"\nplayers = { min = 3, max = 3 }\nrules = [{ kind = \"block\" }]",
    );
    let pairs = (1..=20).map(|number| skilled(number, &[0.0, 0.0]));
    let mut alone = skilled(21, &[0.0]);
    for pair in pairs.clone() {
        let users = pair.players.into_iter().map(|player| player.user);
        alone.players[0].blocks.extend(users);
    }
    world.submit_all(pairs.chain([alone]));
    let playing = vec![skilled(101, &[0.0, 0.0])];
    world
        .apply(Body::Backfill(Backfill {
            sides: vec![(name("players"), playing)],
            ..running(0, Vec::new(), Vec::new())
        }))
        .unwrap();
    assert_eq!(world.matched(), [["u21"]]);
}

#[test]
fn a_running_match_goes_on_to_others_when_one_makes_it_uneven() {
    let rules = RULES.replace(
        "max = 50 }",
        "max = 500 }, { kind = \"balance\", attribute = \"skill\", max = 10 }",
    );
    let mut world = World::new(&rules);
    world.submit(skilled(1, &[0.0])).unwrap();
    // It comes before the nearer one, since it has waited long.
    world.wait(60);
    world.submit(skilled(2, &[95.0])).unwrap();
    let (first, second) = (
        vec![skilled(101, &[100.0, 100.0])],
        vec![skilled(102, &[100.0])],
    );
    world
        .apply(Body::Backfill(running(0, first, second)))
        .unwrap();
    assert_eq!(world.matched(), [["u2"]]);
}

#[test]
fn once_users_of_a_running_match_have_their_seats_nobody_says_otherwise() {
    let mut world = World::new(RULES);
    world.apply(lacking_two()).unwrap();
    world.submit(skilled(1, &[100.0])).unwrap();
    let number = world.step()[0].id;
    assert_eq!(world.pool.seating(number), Seating::Awaited);
    assert_eq!(world.apply(Body::Seated(vec![number])), Ok(Vec::new()));
    let unseated = world.apply(Body::Unseated(number));
    assert_eq!(unseated, Err(Illegal::Unknown));
    assert_eq!(world.waiting(), [0; 0]);
    assert_eq!(world.pool.generation(&RUNNING), Some(2), "it asks on");
}

#[test]
fn users_of_a_new_match_look_on_unless_somebody_said_before_that_they_have_their_seats() {
    let mut world = World::new(DUEL);
    world.submit_all((1..=4).map(solo));
    let [told, vain] = world.step().try_into().unwrap();
    world.apply(Body::Seated(vec![told.id])).unwrap();
    let unseated = world.apply(Body::Unseated(told.id));
    assert_eq!(unseated, Err(Illegal::Unknown), "its users were told");
    let events = world.apply(Body::Unseated(vain.id)).unwrap();
    assert!(
        matches!(&events[..], [Event::Failed { requeued, .. }] if *requeued == [id(3), id(4)]),
        "{events:?}"
    );
    let seated = world.apply(Body::Seated(vec![told.id, vain.id]));
    assert_eq!(seated, Ok(Vec::new()), "it comes too late for one");
    assert_eq!(world.pool.seating(told.id), Seating::Seated);
    assert_eq!(world.pool.seating(vain.id), Seating::Unseated);
    assert_eq!(world.waiting(), [3, 4]);
    let weights = world.pool.waiting().map(Ticket::weight);
    assert_eq!(world.pool.weight(), weights.sum::<usize>());
}

#[test]
fn a_new_match_of_a_log_in_which_nobody_says_who_is_seated_is_for_good() {
    let mut world = World::new(DUEL);
    world.submit_all((1..=2).map(solo));
    let mut formed = world.pool.propose(world.now, 1_000).matches;
    formed[0].awaits_seats = false;
    let number = formed[0].id;
    world.apply(Body::Claimed(formed)).unwrap();
    assert_eq!(world.pool.seating(number), Seating::Seated);
    assert_eq!(world.apply(Body::Unseated(number)), Err(Illegal::Unknown));
    assert_eq!(world.pool.weight(), 0);
}

#[test]
fn of_who_plays_the_last_ticket_is_remembered_also_by_a_pool_from_a_snapshot() {
    let mut world = World::new(DUEL);
    let mut pair = |first: Ticket, second: Ticket| {
        world.submit_all([first, second]);
        assert_eq!(world.step().len(), 1);
    };
    let first = asking(skilled(1, &[10.0]), "+skill:<50");
    pair(first.clone(), skilled(2, &[20.0]));
    pair(solo(3), Ticket::new(id(4), solo(2).players));
    let rules = world.pool.rules().clone();
    let restored = Pool::restore(rules, &world.pool.snapshot()).unwrap();
    assert_eq!(restored.snapshot(), world.pool.snapshot());
    for pool in [&world.pool, &restored] {
        let played = |name: &str| pool.played(&user(name));
        assert_eq!(played("u1").as_ref(), Some(&first));
        assert_eq!(played("u2").map(|ticket| ticket.id), Some(id(4)));
        assert_eq!(played("u9"), None);
    }
}

#[test]
fn what_is_remembered_of_those_who_play_has_a_bound() {
    let mut world = World::new(DUEL);
    let mut number = 0;
    let mut weight = 0;
    while weight < 2 * PLAYED_WEIGHT_MAX {
        let pair = [number + 1, number + 2].map(|number| fat(solo(number)));
        number += 2;
        weight += pair.iter().map(Ticket::weight).sum::<usize>();
        world.submit_all(pair);
        let formed = world.step();
        world.apply(Body::Seated(vec![formed[0].id])).unwrap();
    }
    let last = user(&format!("u{number}"));
    assert!(world.pool.played(&last).is_some());
    assert_eq!(world.pool.played(&user("u1")), None);
    assert_eq!(world.pool.weight(), 0, "no ticket is refused for it");
    assert!(world.pool.snapshot().len() < PLAYED_WEIGHT_MAX + 64 * 1024);
}

#[test]
fn who_plays_is_as_its_ticket_said_and_has_what_its_party_had() {
    let mut world = World::new(RULES);
    let mut party = asking(skilled(1, &[100.0, 0.0]), "-mode:ranked");
    party.players[1].attributes.clear();
    party.players[1].blocks = vec![user("mallory")];
    party.players[1].reach = Reach::Open;
    world.submit_all([party.clone(), skilled(2, &[110.0, 110.0])]);
    assert_eq!(world.step().len(), 1);
    let said = |users: &[&str]| {
        let players = users.iter().map(|name| {
            let mut player = player(name).with(crate::world::name("skill"), Value::Number(5000.0));
            player.blocks = vec![user("trudy")];
            player
        });
        Ticket::new(id(0), players.collect())
    };
    let mut whole = said(&["u1", "u1.1"]);
    world.pool.recall(&mut whole);
    assert_eq!(whole.query, party.query);
    let (first, second) = (&whole.players[0], &whole.players[1]);
    assert_eq!(first.attributes, party.players[0].attributes);
    assert_eq!(second.attributes, party.players[0].attributes);
    assert_eq!(second.blocks, [user("mallory"), user("trudy")]);
    assert_eq!(second.reach, Reach::Open);

    let mut mixed = said(&["u1.1", "stranger"]);
    world.pool.recall(&mut mixed);
    assert_eq!(
        mixed.query,
        solo(1).query,
        "the stranger has asked for nothing"
    );
    assert_eq!(mixed.players[1], said(&["stranger"]).players[0]);
}

const PLACED: &str = r#"
    name = "placed"
    players = { min = 2, max = 4 }
    fill = 0
    rules = [
        { kind = "latency", attribute = "ping", regions = ["eu", "us"], max = 100 },
        { kind = "connectivity", topology = "host", required = true },
    ]
"#;

fn at(mut ticket: Ticket, eu: f64, us: f64, reach: Reach) -> Ticket {
    ticket.players[0].reach = reach;
    having(ticket, "ping", map(&[("eu", eu), ("us", us)]))
}

/// Two who play, of whom the second would be the better host by now.
fn placed(after: u32, venue: Option<Venue>) -> Body {
    let first = at(solo(101), 20.0, 80.0, Reach::PortRestricted);
    let second = at(solo(102), 30.0, 90.0, Reach::Open);
    Body::Backfill(Backfill {
        sides: vec![(name("players"), vec![first, second])],
        venue,
        ..running(after, Vec::new(), Vec::new())
    })
}

fn eu(host: Option<&str>) -> Venue {
    Venue {
        region: Some(name("eu")),
        host: host.map(user),
    }
}

#[test]
fn whoever_joins_a_running_match_is_judged_by_and_told_the_host_and_the_region_that_it_has() {
    let mut world = World::new(PLACED);
    world.apply(placed(0, Some(eu(Some("u101"))))).unwrap();
    for other in [
        // It would be the best host, and all of them reach us; but the match is not there.
        at(solo(1), 300.0, 10.0, Reach::Open),
        // The second of those who play reaches this one, and the host does not.
        at(solo(2), 30.0, 30.0, Reach::Symmetric),
    ] {
        let id = other.id;
        world.submit(other).unwrap();
        assert!(world.events().is_empty(), "{id:?}");
        world.apply(Body::Cancelled(id)).unwrap();
    }
    world.submit(at(solo(3), 90.0, 10.0, Reach::Open)).unwrap();
    let formed = world.step();
    assert_eq!(users(&formed[0]), ["u3"]);
    assert_eq!(formed[0].region, Some(name("eu")));
    assert_eq!(formed[0].host, Some(user("u101")));
}

#[test]
fn a_running_match_stays_where_it_is_until_something_else_is_said_also_in_a_snapshot() {
    let mut world = World::new(PLACED);
    world.apply(placed(0, Some(eu(Some("u101"))))).unwrap();
    world.apply(placed(1, None)).unwrap();
    let rules = world.pool.rules().clone();
    world.pool = Pool::restore(rules, &world.pool.snapshot()).unwrap();
    let mut venue_of = |number| {
        let ticket = at(solo(number), 30.0, 10.0, Reach::Open);
        world.submit(ticket).unwrap();
        let formed = world.step().remove(0);
        (formed.region, formed.host)
    };
    assert_eq!(venue_of(1), (Some(name("eu")), Some(user("u101"))));
    assert_eq!(venue_of(2), (Some(name("eu")), Some(user("u101"))));
}

#[test]
fn nobody_hosts_a_running_match_whose_host_has_left() {
    let mut world = World::new(PLACED);
    world.apply(placed(0, Some(eu(Some("u109"))))).unwrap();
    let nowhere = Venue {
        region: Some(name("moon")),
        host: None,
    };
    world.submit(at(solo(1), 30.0, 10.0, Reach::Open)).unwrap();
    let formed = world.step();
    assert_eq!(formed[0].host, None);
    assert_eq!(formed[0].region, Some(name("eu")));
    world.apply(placed(2, Some(nowhere))).unwrap();
    world.submit(at(solo(2), 30.0, 10.0, Reach::Open)).unwrap();
    assert_eq!(world.step()[0].region, None, "the pool has no such region");
}

const RELAXING: &str = r#"
    name = "relaxing"
    players = { min = 2, max = 4 }
    fill = 0
    rules = [
        { kind = "distance", attribute = "skill", max = 100, relax = { every = 5, by = 50, limit = 400 } },
        { kind = "equal", attribute = "mode", relax = { off = "20s" } },
        { kind = "latency", attribute = "ping", regions = ["eu", "us"], max = 50, relax = [{ after = "20s", value = 200 }] },
    ]
"#;

fn relaxed(number: u128, skill: f64, mode: &str, eu: f64) -> Ticket {
    let ping = map(&[("eu", eu), ("us", 500.0)]);
    let ticket = having(skilled(number, &[skill]), "ping", ping);
    having(ticket, "mode", Value::Text(mode.to_owned()))
}

#[test]
fn what_those_who_play_break_already_keeps_nobody_away_who_is_between_them() {
    let mut world = World::new(RELAXING);
    let playing = vec![
        relaxed(101, 0.0, "a", 150.0),
        relaxed(102, 350.0, "b", 20.0),
    ];
    let open = Body::Backfill(Backfill {
        sides: vec![(name("players"), playing)],
        venue: Some(eu(None)),
        ..running(0, Vec::new(), Vec::new())
    });
    world.apply(open).unwrap();
    for (number, other) in (1..).zip([
        (360.0, "a", 20.0),
        (-1.0, "a", 20.0),
        (175.0, "c", 20.0),
        (175.0, "a", 151.0),
    ]) {
        let (skill, mode, eu) = other;
        world.submit(relaxed(number, skill, mode, eu)).unwrap();
        assert!(world.events().is_empty(), "{other:?}");
        world.apply(Body::Cancelled(id(number))).unwrap();
    }
    world.submit(relaxed(8, 175.0, "b", 140.0)).unwrap();
    assert_eq!(world.matched(), [["u8"]]);
    world.submit(relaxed(9, 5.0, "a", 20.0)).unwrap();
    assert_eq!(world.matched(), [["u9"]], "nor after the first");
}

#[test]
fn where_nobody_reaches_all_who_play_nobody_need_reach_those_who_join() {
    let mut world = World::new(PLACED);
    let playing = vec![
        at(solo(101), 20.0, 20.0, Reach::Symmetric),
        at(solo(102), 20.0, 20.0, Reach::Symmetric),
    ];
    let open = Body::Backfill(Backfill {
        sides: vec![(name("players"), playing)],
        venue: Some(eu(Some("u101"))),
        ..running(0, Vec::new(), Vec::new())
    });
    world.apply(open).unwrap();
    let newcomer = at(solo(1), 20.0, 20.0, Reach::PortRestricted);
    world.submit(newcomer).unwrap();
    assert_eq!(world.step()[0].host, Some(user("u101")));
}
