//! Teams, roles and balance.

use tombolo_match::{Player, Ticket};

use crate::world::{World, id, name, player, skilled, solo};

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
    let mut world = World::new(
        r#"
        name = "royale"
        players = { min = 175, max = 200, relax = [{ after = 10, value = 150 }, { after = 15, value = 100 }] }
        fill = 5
        [[rules]]
        kind = "latency"
        attribute = "ping"
        regions = ["eu"]
        max = 150
        relax = [{ after = 12, value = 200 }]
    "#,
    );
    let ping = |number: u128, ping| {
        crate::world::having(solo(number), "ping", crate::world::map(&[("eu", ping)]))
    };
    world.submit_all((1..=149).map(|number| ping(number, 100.0)));
    world.submit_all((150..=160).map(|number| ping(number, 180.0)));
    assert!(world.matched().is_empty());
    world.wait(11);
    assert!(
        world.matched().is_empty(),
        "149 are near enough, one too few"
    );
    world.wait(1);
    assert_eq!(world.step()[0].users().count(), 160);
    world.submit_all((1001..=1200).map(|number| ping(number, 100.0)));
    assert_eq!(
        world.step()[0].users().count(),
        200,
        "a full match begins at once"
    );
}

#[test]
fn a_thousand_users_are_the_most() {
    let mut world = World::new("name = \"crowd\"\nplayers = { min = 1000, max = 1000 }");
    world.submit_all((1..=999).map(solo));
    assert!(world.matched().is_empty());
    world.submit(solo(1000)).unwrap();
    assert_eq!(world.step()[0].users().count(), 1000);
}
