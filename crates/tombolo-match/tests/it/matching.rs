//! Rules, one at a time.

use tombolo_match::{Reach, Value};

use crate::world::{World, having, list, map, name, player, skilled, solo, text, user, users};

const DUEL: &str = r#"
    name = "duel"
    players = { min = 2, max = 2 }
"#;

fn duel(rule: &str) -> World {
    World::new(&format!("{DUEL}\n[[rules]]\n{rule}"))
}

#[test]
fn two_tickets_match_on_the_arrival_of_the_second() {
    let mut world = World::new(DUEL);
    world.submit(solo(1)).unwrap();
    assert!(world.matched().is_empty());
    world.submit(solo(2)).unwrap();
    assert_eq!(world.matched(), [["u1", "u2"]]);
    assert_eq!(world.pool.ticket_count(), 0);
}

#[test]
fn equal_texts_meet_and_others_do_not() {
    let mut world = duel(
        r#"kind = "equal"
        attribute = "mode""#,
    );
    let mode = |number, mode| having(solo(number), "mode", text(mode));
    world.submit_all([mode(1, "a"), mode(2, "b"), mode(3, "c"), mode(4, "b")]);
    assert_eq!(world.matched(), [["u2", "u4"]]);
    assert_eq!(world.waiting(), [1, 3]);
}

#[test]
fn equality_that_has_relaxed_for_one_holds_until_it_has_for_the_other() {
    let mut world = duel(
        r#"kind = "equal"
        attribute = "mode"
        relax = { off = "10s" }"#,
    );
    let mode = |number, mode| having(solo(number), "mode", text(mode));
    world.submit(mode(1, "a")).unwrap();
    world.wait(10);
    world.submit(mode(2, "b")).unwrap();
    assert!(
        world.matched().is_empty(),
        "the second asks for its own mode still"
    );
    world.wait(9);
    assert!(world.matched().is_empty());
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn the_oldest_may_decide_alone() {
    let mut world = World::new(&format!(
        "judge = \"oldest\"\n{DUEL}\n[[rules]]\nkind = \"distance\"\nattribute = \"skill\"\nmax = 10
        relax = [{{ after = 5, value = 50 }}]"
    ));
    world.submit(skilled(1, &[100.0])).unwrap();
    world.wait(5);
    world.submit(skilled(2, &[150.0])).unwrap();
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn the_nearest_within_the_distance_is_taken() {
    let mut world = duel("kind = \"distance\"\nattribute = \"skill\"\nmax = 100");
    world.submit_all([
        skilled(1, &[500.0]),
        skilled(2, &[650.0]),
        skilled(3, &[390.0]),
    ]);
    assert!(world.matched().is_empty());
    world.submit(skilled(4, &[560.0])).unwrap();
    assert_eq!(world.matched(), [["u1", "u4"]]);
}

#[test]
fn a_distance_widens_step_by_step_to_its_limit() {
    let mut world = duel(
        "kind = \"distance\"\nattribute = \"skill\"\nmax = 10
        relax = { every = \"5s\", by = 20, limit = 50 }",
    );
    world.submit_all([
        skilled(1, &[0.0]),
        skilled(2, &[50.0]),
        skilled(3, &[101.0]),
    ]);
    world.wait(9);
    assert!(world.matched().is_empty(), "30 is too little");
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u2"]]);
    world.submit(skilled(4, &[50.0])).unwrap();
    world.wait(1000);
    assert!(
        world.matched().is_empty(),
        "51 is beyond the limit for ever"
    );
}

#[test]
fn a_range_keeps_out_who_is_outside() {
    let mut world = duel(
        "kind = \"range\"\nattribute = \"skill\"\nlow = 100\nhigh = 200
        relax = { every = 1, by = 10, limit = 10 }",
    );
    world.submit_all([skilled(1, &[150.0]), skilled(2, &[95.0])]);
    assert!(world.matched().is_empty());
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u2"]]);
    world.submit_all([skilled(3, &[211.0]), skilled(4, &[150.0])]);
    world.wait(100);
    assert!(world.matched().is_empty());
}

#[test]
fn lists_overlap_by_enough_items_of_all() {
    let mut world = World::new(
        r#"
        name = "three"
        players = { min = 3, max = 3 }
        rules = [{ kind = "overlap", attribute = "maps", min = 2 }]
    "#,
    );
    let likes = |number, maps: &[&str]| having(solo(number), "maps", list(maps));
    world.submit_all([
        likes(1, &["a", "b", "c"]),
        likes(2, &["b", "c", "d"]),
        likes(3, &["a", "c", "d"]),
    ]);
    assert!(
        world.matched().is_empty(),
        "each two share two maps, but not all three"
    );
    world.submit(likes(4, &["b", "c"])).unwrap();
    assert_eq!(world.matched(), [["u1", "u2", "u4"]]);
}

#[test]
fn the_region_is_the_one_in_which_the_worst_is_best() {
    let mut world = duel(
        r#"kind = "latency"
        attribute = "ping"
        regions = ["eu", "us", "jp"]
        max = 80"#,
    );
    let ping = |number, pings: &[(&str, f64)]| having(solo(number), "ping", map(pings));
    world.submit_all([
        ping(1, &[("eu", 20.0), ("us", 70.0), ("jp", 200.0)]),
        ping(2, &[("jp", 10.0)]),
        ping(3, &[("eu", 75.0), ("us", 60.0), ("mars", 1.0)]),
    ]);
    let formed = world.step();
    assert_eq!(users(&formed[0]), ["u1", "u3"]);
    assert_eq!(formed[0].region, Some(name("us")));
    assert_eq!(world.waiting(), [2]);
}

#[test]
fn who_blocks_and_who_is_blocked_do_not_meet() {
    let mut world = duel("kind = \"block\"");
    let mut first = solo(1);
    first.players[0].blocks.push(user("u2"));
    world.submit_all([first, solo(2)]);
    assert!(world.matched().is_empty());
    let mut third = solo(3);
    third.players[0].blocks.push(user("u1"));
    world.submit(third).unwrap();
    assert_eq!(world.matched(), [["u2", "u3"]]);
}

fn behind(number: u128, reach: Reach) -> tombolo_match::Ticket {
    let mut ticket = solo(number);
    ticket.players[0].reach = reach;
    ticket
}

#[test]
fn required_connectivity_keeps_pairs_apart_that_would_be_relayed() {
    let mut world = duel("kind = \"connectivity\"\nrequired = true\nrelax = { off = 20 }");
    world.submit_all([
        behind(1, Reach::Symmetric),
        behind(2, Reach::PortRestricted),
        behind(3, Reach::Symmetric),
    ]);
    assert!(world.matched().is_empty());
    world.submit(behind(4, Reach::Restricted)).unwrap();
    assert_eq!(world.matched(), [["u1", "u4"]]);
    world.wait(20);
    assert_eq!(world.matched(), [["u2", "u3"]], "better relayed than never");
}

#[test]
fn the_host_is_who_reaches_everybody() {
    let mut world = World::new(
        r#"
        name = "hosted"
        players = { min = 3, max = 3 }
        rules = [{ kind = "connectivity", topology = "host", required = true }]
    "#,
    );
    world.submit_all([
        behind(1, Reach::Symmetric),
        behind(2, Reach::PortRestricted),
        behind(3, Reach::Open),
    ]);
    let formed = world.step();
    assert_eq!(formed[0].host, Some(user("u3")));
    assert_eq!(formed[0].quality, 1000);
}

#[test]
fn preferred_connectivity_shows_in_the_quality_only() {
    let mut world = duel("kind = \"connectivity\"");
    world.submit_all([behind(1, Reach::Relayed), behind(2, Reach::Open)]);
    assert_eq!(world.step()[0].quality, 0);
}

#[test]
fn quality_falls_with_the_distance() {
    let mut world = duel("kind = \"distance\"\nattribute = \"skill\"\nmax = 100");
    world.submit_all([skilled(1, &[0.0]), skilled(2, &[25.0])]);
    assert_eq!(world.step()[0].quality, 750);
}

#[test]
fn a_party_is_what_its_users_are_together() {
    let mut world = World::new(
        r#"
        name = "party"
        players = { min = 3, max = 3 }
        rules = [{ kind = "distance", attribute = "skill", max = 0 }]
        attributes = [{ name = "skill", kind = "number", party = "max", default = 7 }]
    "#,
    );
    let mut party = skilled(1, &[3.0, 9.0]);
    party.players[0].attributes.clear();
    world.submit_all([party, skilled(2, &[6.0]), skilled(3, &[9.0])]);
    assert_eq!(world.matched(), [["u1", "u1.1", "u3"]]);
    world.submit(solo(4)).unwrap();
    world.submit(skilled(5, &[7.0, 7.0])).unwrap();
    assert_eq!(
        world.matched(),
        [["u4", "u5", "u5.1"]],
        "who says nothing has the default"
    );
}

#[test]
fn a_ticket_without_what_a_rule_needs_is_refused() {
    let mut world = duel("kind = \"distance\"\nattribute = \"skill\"\nmax = 100");
    let error = world.submit(solo(1)).unwrap_err();
    assert_eq!(error.to_string(), "attribute skill is missing");
    let error = world
        .submit(having(solo(1), "skill", text("high")))
        .unwrap_err();
    assert_eq!(error.to_string(), "attribute skill is to be a number");
    let error = world.submit(skilled(1, &[f64::NAN])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "attribute skill: a number is not finite, or beyond 1e15"
    );
}

#[test]
fn a_party_that_is_a_match_needs_nobody_else() {
    let mut world = World::new("name = \"coop\"\nplayers = { min = 2, max = 4 }");
    let players = (0..4).map(|at| player(&format!("p{at}"))).collect();
    world
        .submit(tombolo_match::Ticket::new(crate::world::id(1), players))
        .unwrap();
    assert_eq!(world.matched().len(), 1);
}

#[test]
fn a_match_waits_for_more_users_and_then_begins_without() {
    let mut world = World::new("name = \"brawl\"\nfill = 5\nplayers = { min = 2, max = 4 }");
    world.submit_all([solo(1), solo(2), solo(3)]);
    assert!(world.matched().is_empty());
    world.wait(4);
    assert!(world.matched().is_empty());
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u2", "u3"]]);
    world.submit_all([solo(4), solo(5), solo(6), solo(7)]);
    assert_eq!(world.matched().len(), 1, "a full match does not wait");
}

#[test]
fn the_number_of_users_is_a_multiple() {
    let mut world =
        World::new("name = \"even\"\nfill = 0\nmultiple = 2\nplayers = { min = 2, max = 9 }");
    world.submit_all((1..=3).map(solo));
    let matched = world.matched();
    assert_eq!(matched, [["u1", "u2"]]);
    assert_eq!(world.waiting(), [3]);
}

#[test]
fn those_with_priority_come_first() {
    let mut world = World::new(DUEL);
    let mut late = solo(3);
    late.priority = 1;
    world.submit_all([solo(1), late]);
    world.submit(solo(2)).unwrap();
    assert_eq!(world.matched(), [["u1", "u3"]]);
}

#[test]
fn whoever_waits_long_is_preferred_to_whoever_is_near() {
    let mut world = World::new(&format!(
        "patience = 10\n{DUEL}\n[[rules]]\nkind = \"distance\"\nattribute = \"skill\"\nmax = 100"
    ));
    world.submit(skilled(1, &[0.0])).unwrap();
    assert!(world.matched().is_empty());
    world.wait(10);
    world.submit(skilled(2, &[170.0])).unwrap();
    assert!(world.matched().is_empty());
    world.submit(skilled(3, &[90.0])).unwrap();
    assert_eq!(
        world.matched(),
        [["u1", "u3"]],
        "80 is nearer than 90, but came just now"
    );
}

#[test]
fn numbers_at_the_limits_do_not_confuse_the_order() {
    let mut world = duel("kind = \"distance\"\nattribute = \"skill\"\nmax = 1");
    world.submit_all([
        skilled(1, &[-1e15]),
        skilled(2, &[1e15]),
        skilled(3, &[-0.0]),
        skilled(4, &[0.0]),
    ]);
    assert_eq!(world.matched(), [["u3", "u4"]]);
    let error = world.submit(skilled(5, &[f64::INFINITY])).unwrap_err();
    assert!(error.to_string().contains("finite"), "{error}");
    let bomb = Value::List((0..65).map(|number| number.to_string()).collect());
    let error = world
        .submit(having(skilled(6, &[0.0]), "maps", bomb))
        .unwrap_err();
    assert!(error.to_string().contains("more than 64 items"), "{error}");
}

#[test]
fn a_party_that_is_enough_begins_alone_when_nobody_has_come() {
    let mut world = World::new("name = \"coop\"\nfill = 5\nplayers = { min = 2, max = 4 }");
    world.submit(skilled(1, &[0.0, 0.0])).unwrap();
    assert!(world.matched().is_empty());
    world.wait(4);
    assert!(world.matched().is_empty());
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u1.1"]]);
}

#[test]
fn a_party_that_is_enough_when_less_is_asked_begins_alone_then() {
    let mut world = World::new(
        "name = \"coop\"\nfill = 0\nplayers = { min = 5, max = 5, relax = [{ after = 20, value = 3 }] }",
    );
    world.submit(skilled(1, &[0.0, 0.0, 0.0])).unwrap();
    assert!(world.matched().is_empty());
    world.wait(19);
    assert!(world.matched().is_empty());
    world.wait(1);
    assert_eq!(world.matched().len(), 1);
}

#[test]
fn a_party_that_is_enough_takes_those_with_it_who_are_there() {
    let mut world = World::new("name = \"coop\"\nfill = 5\nplayers = { min = 2, max = 4 }");
    world.submit_all([skilled(1, &[0.0, 0.0]), solo(2)]);
    assert!(world.matched().is_empty());
    world.wait(5);
    assert_eq!(world.matched(), [["u1", "u1.1", "u2"]]);
}

#[test]
fn three_meet_however_many_fit_only_one_of_them() {
    let mut world = World::new(
        "name = \"trio\"\nplayers = { min = 3, max = 3 }\nrules = [{ kind = \"block\" }]",
    );
    let others_of = |number: u128| (1..=9).filter(move |other| *other != number);
    // Two fit the seventh and nobody else, two the eighth, and two the ninth; they came first.
    let friend = |number: u128| 7 + (number - 1) / 2;
    let ticket = |number: u128| {
        let mut ticket = solo(number);
        let unloved = others_of(number).filter(|other| number < 7 && *other != friend(number));
        let unloved = unloved.map(|other| user(&format!("u{other}")));
        ticket.players[0].blocks.extend(unloved);
        ticket
    };
    world.submit_all((1..=9).map(ticket));
    let mut matched = world.matched();
    world.wait(1);
    matched.extend(world.matched());
    assert_eq!(matched, [["u7", "u8", "u9"]]);
}

#[test]
fn how_those_of_one_party_reach_each_other_is_no_question_of_their_match() {
    for (rule, quality) in [
        ("topology = \"mesh\"", 1000),
        ("topology = \"host\"\nrequired = true", 1000),
    ] {
        let mut world = World::new(&format!(
            "name = \"trio\"\nplayers = {{ min = 3, max = 3 }}\n[[rules]]\nkind = \"connectivity\"\n{rule}"
        ));
        let mut pair = skilled(1, &[0.0, 0.0]);
        pair.players[0].reach = Reach::Symmetric;
        pair.players[1].reach = Reach::Symmetric;
        let mut alone = solo(2);
        alone.players[0].reach = Reach::Open;
        world.submit_all([pair, alone]);
        let formed = world.step();
        assert_eq!(formed[0].quality, quality, "{rule}");
        assert_eq!(formed[0].host, Some(user("u2")));
    }
}

#[test]
fn nobody_hosts_a_match_in_which_nobody_reaches_anybody() {
    let mut world = World::new("name = \"p\"\nfill = 0\nplayers = { min = 2, max = 3 }");
    let reached = |number, reach| {
        let mut ticket = solo(number);
        ticket.players[0].reach = reach;
        ticket
    };
    world.submit_all([1, 2].map(|number| reached(number, Reach::Symmetric)));
    assert_eq!(world.step()[0].host, None);
    world.submit_all([3, 4].map(|number| reached(number, Reach::Symmetric)));
    world.submit(reached(5, Reach::Open)).unwrap();
    assert_eq!(world.step()[0].host, Some(user("u5")));
    // Those of one party need no path.
    let mut pair = skilled(6, &[0.0, 0.0]);
    pair.players[0].reach = Reach::Relayed;
    world.submit_all([pair, reached(7, Reach::Symmetric)]);
    assert_eq!(world.step()[0].host, Some(user("u6.1")));
}
