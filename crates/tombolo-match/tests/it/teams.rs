//! Teams, roles and balance.

use std::collections::BTreeMap;

use tombolo_match::{Body, Illegal, Player, Ticket, TicketError};

use crate::checker::Known;
use crate::plan::{Balance, Plan};
use crate::world::{World, having, id, map, name, player, skilled, solo};

const TEAMS: &str = r#"
    name = "teams"
    [[teams]]
    name = "side"
    quantity = 2
    min = 5
    max = 5
"#;

fn party(number: u128, size: usize) -> Ticket {
    skilled(number, &vec![0.0; size])
}

#[test]
fn a_party_stays_in_one_team() {
    let mut world = World::new(TEAMS);
    world.submit_all([party(1, 4), party(2, 3), party(3, 3)]);
    assert!(
        world.matched().is_empty(),
        "three and three are too many for one team"
    );
    world.submit_all([party(4, 1), party(5, 2)]);
    let formed = world.step();
    let sides = &formed[0].sides;
    assert_eq!(sides.len(), 2);
    for side in sides {
        let users: usize = side.parties.iter().map(|party| party.users.len()).sum();
        assert_eq!(users, 5, "{side:?}");
    }
    assert_eq!(sides[0].team, name("side-1"));
}

#[test]
fn parties_move_when_a_team_is_packed_badly() {
    let mut world = World::new(TEAMS);
    // Two in each team at first: then there is no room for three, unless the twos come together.
    world.submit_all([party(1, 2), party(2, 2), party(3, 3), party(4, 3)]);
    assert_eq!(world.step().len(), 1);
}

#[test]
fn a_party_larger_than_a_team_is_refused() {
    let mut world = World::new(TEAMS);
    let error = world.submit(party(1, 6)).unwrap_err();
    assert_eq!(error.to_string(), "a party has 1 to 5 users here");
}

#[test]
fn one_stands_against_four() {
    let mut world = World::new(
        r#"
        name = "hunt"
        [[teams]]
        name = "monster"
        min = 1
        max = 1
        [[teams]]
        name = "hunters"
        min = 4
        max = 4
    "#,
    );
    world.submit_all([party(1, 2), party(2, 2), solo(3)]);
    let formed = world.step();
    assert_eq!(formed[0].sides[0].parties.len(), 1);
    assert_eq!(formed[0].sides[0].parties[0].ticket, id(3));
}

const RAID: &str = r#"
    name = "raid"
    [[teams]]
    name = "raid"
    min = 4
    max = 4
    roles = [
        { name = "tank", min = 1, max = 1 },
        { name = "healer", min = 1, max = 2 },
        { name = "fighter", max = 2 },
    ]
"#;

fn plays(number: u128, roles: &[&str]) -> Ticket {
    let roles = roles.iter().map(|role| name(role)).collect();
    let user = format!("u{number}");
    let player = Player {
        roles,
        ..player(&user)
    };
    Ticket::new(id(number), vec![player])
}

#[test]
fn a_party_of_which_no_team_has_a_role_for_each_is_refused() {
    let mut world = World::new(RAID);
    let party = |roles: [&str; 2]| {
        let mut ticket = skilled(1, &[0.0; 2]);
        for (player, role) in ticket.players.iter_mut().zip(roles) {
            player.roles = vec![name(role)];
        }
        ticket
    };
    let refused = Err(Illegal::Ticket(TicketError::Cast));
    assert_eq!(world.submit(party(["tank", "tank"])), refused);
    assert!(world.submit(party(["tank", "fighter"])).is_ok());
    let players = party(["tank", "tank"]).players;
    let ticket = id(1);
    assert_eq!(world.apply(Body::Changed { ticket, players }), refused);
    assert!(world.submit(plays(2, &["healer"])).is_ok());
}

#[test]
fn every_role_is_filled_by_who_plays_it() {
    let mut world = World::new(RAID);
    world.submit_all([
        plays(1, &["fighter"]),
        plays(2, &["fighter", "tank"]),
        plays(3, &["fighter"]),
        plays(4, &["fighter"]),
        plays(5, &["tank"]),
    ]);
    assert!(world.matched().is_empty(), "nobody heals");
    world.submit(plays(6, &["tank", "healer"])).unwrap();
    let formed = world.step();
    let party = &formed[0].sides[0].parties;
    let mut roles: Vec<_> = party
        .iter()
        .map(|party| party.users[0].1.as_ref().unwrap().as_str())
        .collect();
    roles.sort_unstable();
    assert_eq!(roles, ["fighter", "fighter", "healer", "tank"]);
    let error = world.submit(plays(7, &["bard"])).unwrap_err();
    assert_eq!(error.to_string(), "nobody plays bard here");
}

#[test]
fn teams_are_made_even() {
    let rules = TEAMS.replace("= 5", "= 2")
        + "[[rules]]\nkind = \"balance\"\nattribute = \"skill\"\nmeasure = \"sum\"\nmax = 10";
    let mut world = World::new(&rules);
    world.submit_all([
        skilled(1, &[100.0]),
        skilled(2, &[90.0]),
        skilled(3, &[10.0]),
    ]);
    assert!(world.matched().is_empty());
    world.submit(skilled(4, &[1.0])).unwrap();
    let formed = world.step();
    let first: Vec<_> = formed[0].sides[0]
        .parties
        .iter()
        .map(|party| party.ticket)
        .collect();
    assert!(
        first == [id(1), id(4)]
            || first == [id(4), id(1)]
            || first.iter().all(|ticket| [id(2), id(3)].contains(ticket))
    );
}

#[test]
fn teams_that_cannot_be_even_do_not_begin() {
    let rules = TEAMS.replace("= 5", "= 1")
        + "[[rules]]\nkind = \"balance\"\nattribute = \"skill\"\nmax = 10\nrelax = { off = 5 }";
    let mut world = World::new(&rules);
    world.submit_all([skilled(1, &[0.0]), skilled(2, &[20.0])]);
    assert!(world.matched().is_empty());
    world.submit(skilled(3, &[15.0])).unwrap();
    assert_eq!(world.matched(), [["u2", "u3"]]);
    world.submit(skilled(4, &[90.0])).unwrap();
    world.wait(5);
    assert_eq!(world.matched(), [["u1", "u4"]]);
}

#[test]
fn two_hundred_users_meet_when_the_rules_have_relaxed() {
    let plan = Plan {
        teams: vec![(175, 200)],
        fewer: vec![(10, 150), (15, 100)],
        latency: Some((150.0, Some((12, 200.0)))),
        fill: 5,
        ..Plan::default()
    };
    let mut world = World::new(&plan.document());
    let mut known = BTreeMap::new();
    let mut come = |world: &mut World, now, numbers: std::ops::RangeInclusive<u128>, ping| {
        for number in numbers {
            let ping = map(&[("eu", ping)]);
            let ticket = having(skilled(number, &[50.0]), "ping", ping);
            world.submit(ticket.clone()).unwrap();
            known.insert(ticket.id, Known { ticket, since: now });
        }
    };
    come(&mut world, 0, 1..=149, 100.0);
    come(&mut world, 0, 150..=160, 180.0);
    assert!(world.matched().is_empty());
    world.wait(11);
    assert!(
        world.matched().is_empty(),
        "149 are near enough, one too few"
    );
    world.wait(1);
    let relaxed = world.step();
    assert_eq!(relaxed[0].users().count(), 160);
    come(&mut world, 12, 1001..=1200, 100.0);
    let full = world.step();
    assert_eq!(full[0].users().count(), 200, "a full match begins at once");
    for formed in relaxed.iter().chain(&full) {
        assert_eq!(plan.wrong(&known, &[], None, formed, 12), [""; 0]);
    }
}

#[test]
fn a_thousand_users_are_the_most() {
    let mut world = World::new("name = \"crowd\"\nplayers = { min = 1000, max = 1000 }");
    world.submit_all((1..=999).map(solo));
    assert!(world.matched().is_empty());
    world.submit(solo(1000)).unwrap();
    assert_eq!(world.step()[0].users().count(), 1000);
}

#[test]
fn a_match_of_a_thousand_users_keeps_its_rules() {
    let plan = Plan {
        teams: vec![(250, 250); 4],
        distance: Some((40.0, 0.0, 40.0)),
        balance: Some(Balance {
            max: 10.0,
            is_sum: false,
            off: None,
        }),
        healers: Some((20, None)),
        ..Plan::default()
    };
    let mut world = World::new(&plan.document());
    let mut known = BTreeMap::new();
    for number in 1..=1000 {
        let mut ticket = skilled(number, &[(number * 7 % 40) as f64]);
        let role = if number <= 80 { "healer" } else { "fighter" };
        ticket.players[0].roles = vec![name(role)];
        world.submit(ticket.clone()).unwrap();
        known.insert(ticket.id, Known { ticket, since: 0 });
    }
    let formed = world.step();
    assert_eq!(formed[0].users().count(), 1000);
    assert_eq!(plan.wrong(&known, &[], None, &formed[0], 0), [""; 0]);
}

#[test]
fn teams_are_made_even_by_more_than_one_exchange_when_no_difference_is_allowed() {
    let rules = TEAMS.replace("= 5", "= 4")
        + "[[rules]]\nkind = \"balance\"\nattribute = \"skill\"\nmeasure = \"sum\"\nmax = 0";
    let mut world = World::new(&rules);
    let skills = [1.0, 8.0, 16.0, 40.0, 2.0, 5.0, 20.0, 38.0];
    world.submit_all(
        (1..)
            .zip(skills)
            .map(|(number, skill)| skilled(number, &[skill])),
    );
    let formed = world.step();
    assert_eq!(
        formed.len(),
        1,
        "1 + 8 + 16 + 40 is as much as 2 + 5 + 20 + 38"
    );
}

#[test]
fn a_team_that_may_be_smaller_by_now_leaves_its_place_to_another() {
    let mut world = World::new(
        "name = \"hunt\"\nfill = 0\nteams = [\
         { name = \"few\", min = 2, max = 2, relax = [{ after = 5, value = 1 }] }, \
         { name = \"many\", min = 2, max = 2 }]",
    );
    world.submit_all([solo(1), solo(2), solo(3)]);
    assert!(world.matched().is_empty());
    world.wait(5);
    let formed = world.step();
    let sizes = formed[0].sides.iter().map(|side| side.parties.len());
    assert_eq!(sizes.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn blocks_count_until_all_who_would_meet_have_waited() {
    let mut world = World::new(
        "name = \"duel\"\nplayers = { min = 2, max = 2 }\nrules = [{ kind = \"block\", relax = { off = 10 } }]",
    );
    let mut blocking = solo(1);
    blocking.players[0].blocks.push(crate::world::user("u2"));
    world.submit(blocking).unwrap();
    world.wait(10);
    world.submit(solo(2)).unwrap();
    assert!(world.matched().is_empty());
    world.wait(9);
    assert!(world.matched().is_empty(), "the second one has not waited");
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn who_has_not_waited_does_not_come_to_those_who_block_each_other() {
    let mut world = World::new(
        "name = \"trio\"\nfill = 0\nplayers = { min = 3, max = 3 }\nrules = [{ kind = \"block\", relax = { off = 10 } }]",
    );
    let mut blocking = solo(1);
    blocking.players[0].blocks.push(crate::world::user("u2"));
    world.submit_all([blocking, solo(2)]);
    world.wait(10);
    assert!(world.matched().is_empty());
    world.submit(solo(3)).unwrap();
    assert!(world.matched().is_empty());
    world.wait(10);
    assert_eq!(world.matched(), [["u1", "u2", "u3"]]);
}

#[test]
fn a_role_that_nobody_plays_is_not_waited_for_for_ever() {
    let mut world = World::new(
        &RAID
            .replace(
                "min = 1, max = 2 }",
                "min = 1, max = 2, relax = [{ after = 10, value = 0 }] }",
            )
            .replace("max = 2 },\n    ]", "max = 3 },\n    ]"),
    );
    world.submit_all((1..=3).map(|number| plays(number, &["fighter"])));
    world.submit(plays(4, &["tank"])).unwrap();
    world.wait(9);
    assert!(world.matched().is_empty(), "nobody heals");
    world.wait(1);
    let formed = world.step();
    let parties = formed[0].sides[0].parties.iter();
    let mut roles: Vec<_> = parties
        .map(|party| party.users[0].1.clone().unwrap())
        .collect();
    roles.sort();
    assert_eq!(roles, ["fighter", "fighter", "fighter", "tank"].map(name));
}

#[test]
fn a_team_that_may_grow_begins_without_and_takes_a_larger_party_in_time() {
    let rules =
        "name = \"teams\"\nfill = 60\n[[teams]]\nname = \"side\"\nquantity = 2\nmin = 4\nmax = 4
        grow = [{ after = 10, value = 5 }]";
    let mut world = World::new(rules);
    assert!(world.submit(party(1, 6)).is_err());
    world.submit(party(1, 5)).unwrap();
    world.submit_all([party(2, 4), party(3, 4)]);
    assert_eq!(world.matched().len(), 1, "nobody waits for a fifth one");
    world.submit(party(4, 4)).unwrap();
    world.wait(9);
    assert!(world.matched().is_empty());
    world.wait(1);
    let formed = world.step();
    let sizes = formed[0]
        .sides
        .iter()
        .map(|side| side.parties[0].users.len());
    assert_eq!(sizes.sum::<usize>(), 9);
}
