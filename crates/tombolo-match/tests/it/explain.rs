//! Why not.

use std::time::Duration;

use tombolo_match::{Excluded, Obstacle, Reach, Relaxation, Value};

use crate::world::{World, asking, having, id, name, skilled, solo, text};

const RULES: &str = r#"
    name = "duel"
    players = { min = 2, max = 2 }
    rules = [
        { kind = "equal", attribute = "mode", relax = { off = "1m" } },
        { kind = "distance", attribute = "skill", max = 10, relax = { every = 5, by = 10, limit = 100 } },
    ]
"#;

fn ticket(number: u128, mode: &str, skill: f64) -> tombolo_match::Ticket {
    having(skilled(number, &[skill]), "mode", text(mode))
}

#[test]
fn each_clause_counts_whom_it_keeps_away() {
    let mut world = World::new(RULES);
    world.submit_all([
        ticket(1, "a", 0.0),
        ticket(2, "a", 45.0),
        ticket(3, "b", 5.0),
        ticket(4, "b", 900.0),
    ]);
    assert!(world.matched().is_empty());
    let why = world.pool.explain(&id(1), world.now).unwrap();
    assert_eq!((why.looked_at, why.fit), (3, 0));
    let excluded = |rule, count, alone| Excluded {
        obstacle: Obstacle::Rule(name(rule)),
        count,
        alone,
    };
    assert_eq!(
        why.obstacles,
        [excluded("mode", 2, 1), excluded("skill", 2, 1)]
    );
    let nearest = why.nearest.unwrap();
    assert_eq!(nearest.ticket, id(2));
    assert_eq!(nearest.obstacles, [Obstacle::Rule(name("skill"))]);
}

#[test]
fn the_relaxation_that_will_match_is_told_and_does() {
    let mut world = World::new(RULES);
    world.submit_all([
        ticket(1, "a", 0.0),
        ticket(2, "a", 45.0),
        ticket(3, "b", 5.0),
    ]);
    world.wait(3);
    let why = world.pool.explain(&id(1), world.now).unwrap();
    let expected = Relaxation {
        ticket: id(2),
        after: Duration::from_secs(17),
        obstacles: vec![Obstacle::Rule(name("skill"))],
    };
    assert_eq!(why.relaxation, Some(expected));
    world.wait(16);
    assert!(world.matched().is_empty());
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn a_relaxation_in_many_steps_is_told_too() {
    let mut world = World::new(
        r#"
        name = "duel"
        players = { min = 2, max = 2 }
        rules = [{ kind = "distance", attribute = "skill", max = 0, relax = { every = 1, by = 1, limit = 1000 } }]
    "#,
    );
    world.submit_all([skilled(1, &[0.0]), skilled(2, &[300.0])]);
    let relaxed = |world: &World| world.pool.explain(&id(1), world.now).unwrap().relaxation;
    assert_eq!(relaxed(&world).unwrap().after, Duration::from_secs(300));
    world.wait(299);
    assert!(world.matched().is_empty());
    assert_eq!(relaxed(&world).unwrap().after, Duration::from_secs(1));
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn rules_of_the_whole_match_count_where_the_teams_are_enough_only_by_then() {
    let mut world = World::new(
        "name = \"p\"\nteams = [{ name = \"side\", quantity = 2, min = 2, max = 2, relax = [{ after = 10, value = 1 }] }]
        [[rules]]\nkind = \"distance\"\nattribute = \"skill\"\nmax = 1\nrelax = { off = \"5s\" }
        [[rules]]\nkind = \"balance\"\nattribute = \"skill\"\nmeasure = \"sum\"\nmax = 0\nrelax = { off = \"30s\" }",
    );
    world.submit_all([skilled(1, &[0.0]), skilled(2, &[50.0])]);
    let relaxed = |world: &World| world.pool.explain(&id(1), world.now).unwrap().relaxation;
    assert_eq!(relaxed(&world).unwrap().after, Duration::from_secs(30));
    world.wait(29);
    assert!(world.matched().is_empty());
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn it_is_told_when_fewer_are_enough_or_no_more_are_waited_for() {
    for rules in [
        "fill = 20\nplayers = { min = 3, max = 5 }",
        "players = { min = 5, max = 5, relax = [{ after = 10, value = 4 }, { after = 20, value = 3 }] }",
    ] {
        let mut world = World::new(&format!("name = \"p\"\n{rules}"));
        world.submit(solo(1)).unwrap();
        world.wait(5);
        let told = |world: &World| world.pool.explain(&id(1), world.now).unwrap().relaxation;
        assert_eq!(told(&world), None, "nobody is there: {rules}");
        world.submit_all([solo(2), solo(3)]);
        let expected = Relaxation {
            ticket: id(2),
            after: Duration::from_secs(15),
            obstacles: vec![Obstacle::Teams],
        };
        assert_eq!(told(&world), Some(expected), "{rules}");
        world.wait(14);
        assert!(world.matched().is_empty(), "{rules}");
        world.wait(1);
        assert_eq!(world.matched(), [["u1", "u2", "u3"]], "{rules}");
    }
}

#[test]
fn to_say_when_there_is_a_match_costs_no_more_however_many_wait() {
    let mut world = World::new(
        r#"
        name = "trio"
        fill = 20
        [[teams]]
        name = "team"
        min = 2
        max = 3
        roles = [{ name = "healer", min = 1, max = 1 }, { name = "fighter", max = 2 }]
    "#,
    );
    world.submit_all((1..=20_000).map(|number| {
        let mut ticket = solo(number);
        ticket.players[0].roles = vec![name("fighter")];
        ticket
    }));
    let why = world.pool.explain_among(&id(1), world.now, 100).unwrap();
    assert_eq!(why.relaxation, None);
    assert!(why.work < 16_384, "{}", why.work);
}

#[test]
fn nobody_who_waits_for_ever_is_promised_anything() {
    let mut world = World::new(RULES);
    world.submit_all([ticket(1, "a", 0.0), ticket(2, "a", 101.0)]);
    assert_eq!(
        world.pool.explain(&id(1), world.now).unwrap().relaxation,
        None
    );
    assert_eq!(world.pool.explain(&id(9), world.now), None);
}

#[test]
fn queries_of_both_sides_are_told_apart() {
    let mut world = World::new("name = \"duel\"\nplayers = { min = 2, max = 2 }");
    let eu = having(solo(1), "region", text("eu"));
    world.submit_all([
        asking(eu, "+region:us"),
        having(asking(solo(2), "-region:eu"), "x", Value::Number(1.0)),
    ]);
    let why = world.pool.explain(&id(1), world.now).unwrap();
    let obstacles: Vec<_> = why
        .obstacles
        .iter()
        .map(|excluded| &excluded.obstacle)
        .collect();
    assert_eq!(obstacles, [&Obstacle::Query, &Obstacle::TheirQuery]);
}

#[test]
fn too_few_who_fit_are_too_few() {
    let mut world = World::new("name = \"five\"\nplayers = { min = 5, max = 5 }");
    world.submit_all((1..=4).map(solo));
    assert!(world.matched().is_empty());
    let why = world.pool.explain(&id(1), world.now).unwrap();
    assert_eq!((why.looked_at, why.fit, why.obstacles.len()), (3, 3, 0));
}

#[test]
fn an_operator_sees_the_whole_pool() {
    let mut world = World::new(RULES);
    world.submit_all([
        ticket(1, "a", 0.0),
        ticket(2, "b", 0.0),
        ticket(3, "c", 0.0),
    ]);
    let all = world.pool.explain_all(world.now, 100, 100);
    let obstacle = Obstacle::Rule(name("mode"));
    assert_eq!(
        all,
        [Excluded {
            obstacle,
            count: 6,
            alone: 6
        }]
    );
}

#[test]
fn to_say_who_will_fit_first_is_cheap_even_where_many_never_will() {
    const OTHERS: u64 = 100;
    let mut world = World::new(
        r#"
        name = "duel"
        players = { min = 2, max = 2 }
        rules = [
            { kind = "equal", attribute = "mode" },
            { kind = "distance", attribute = "skill", max = 0, relax = { every = 1, by = 1, limit = 250 } },
        ]
    "#,
    );
    world.submit(ticket(1, "a", 0.0)).unwrap();
    world.submit_all((2..OTHERS).map(|number| {
        let is_like = number % 2 == 0;
        let mode = if is_like { "a" } else { "b" };
        let skill = 1000 - if is_like { 8 * number } else { 0 };
        ticket(number.into(), mode, skill as f64)
    }));
    let why = world.pool.explain(&id(1), world.now).unwrap();
    let relaxation = why.relaxation.unwrap();
    assert_eq!(relaxation.ticket, id(98));
    assert_eq!(relaxation.after, Duration::from_secs(216));
    assert!(why.work < 4 * OTHERS, "{}", why.work);
}

#[test]
fn rules_of_the_whole_match_are_told_where_they_keep_two_apart_and_when_they_no_longer_do() {
    for (rule, reaches) in [
        (
            "{ kind = \"balance\", attribute = \"skill\", max = 100, relax = { every = \"5s\", by = 50, limit = 400 } }",
            [Reach::Open, Reach::Open],
        ),
        (
            "{ kind = \"connectivity\", topology = \"host\", required = true, relax = { off = \"20s\" } }",
            [Reach::Symmetric, Reach::PortRestricted],
        ),
    ] {
        let rule = rule.replacen('{', "{ name = \"whole\",", 1);
        let mut world = World::new(&format!(
            "name = \"duel\"\nteams = [{{ name = \"side\", quantity = 2, min = 1, max = 1 }}]\nrules = [{rule}]"
        ));
        for ((number, skill), reach) in [(1, 1000.0), (2, 1300.0)].into_iter().zip(reaches) {
            let mut ticket = skilled(number, &[skill]);
            ticket.players[0].reach = reach;
            world.submit(ticket).unwrap();
        }
        assert!(world.matched().is_empty());
        let why = world.pool.explain(&id(1), world.now).unwrap();
        let obstacle = Obstacle::Rule(name("whole"));
        let excluded = Excluded {
            obstacle: obstacle.clone(),
            count: 1,
            alone: 1,
        };
        assert_eq!((why.looked_at, why.fit), (1, 0), "{rule}");
        assert_eq!(why.obstacles, [excluded], "{rule}");
        let expected = Relaxation {
            ticket: id(2),
            after: Duration::from_secs(20),
            obstacles: vec![obstacle],
        };
        assert_eq!(why.relaxation, Some(expected), "{rule}");
        world.wait(19);
        assert!(world.matched().is_empty(), "{rule}");
        world.wait(1);
        assert_eq!(world.matched(), [["u1", "u2"]], "{rule}");
    }
}

#[test]
fn what_relaxes_beside_limits_is_told_and_lets_them_meet() {
    let team = |rest: &str| format!("name = \"p\"\nfill = 0\n[[teams]]\nname = \"t\"\n{rest}");
    let fighters = |count| {
        (1..=count)
            .map(|number| playing(number, "fighter"))
            .collect::<Vec<_>>()
    };
    let blocking = |number: u128, other: &str| {
        let mut ticket = solo(number);
        ticket.players[0].blocks.push(crate::world::user(other));
        ticket
    };
    let parties = |sizes: &[usize]| {
        let sizes = (1..).zip(sizes);
        sizes
            .map(|(number, size)| skilled(number, &vec![0.0; *size]))
            .collect()
    };
    let healer = "{ name = \"healer\", min = 1, max = 1, relax = { off = 15 } }";
    let cases: [(String, Vec<tombolo_match::Ticket>, Obstacle); 6] = [
        (
            "name = \"p\"\nplayers = { min = 2, max = 2 }\nrules = [{ kind = \"block\", relax = { off = 15 } }]".into(),
            vec![blocking(1, "u2"), solo(2)],
            Obstacle::Rule(name("block")),
        ),
        (
            team(&format!("min = 2\nmax = 2\nroles = [{healer}, {{ name = \"fighter\" }}]")),
            fighters(2),
            Obstacle::Teams,
        ),
        (
            team(&format!("min = 4\nmax = 4\nroles = [{healer}, {{ name = \"fighter\" }}]")),
            fighters(4),
            Obstacle::Teams,
        ),
        (
            "name = \"p\"\nfill = 0\nplayers = { min = 3, max = 4 }\nmultiple = { of = 2, relax = { off = 15 } }".into(),
            vec![solo(1), solo(2), solo(3)],
            Obstacle::Teams,
        ),
        (
            team("min = 4\nmax = 4\ngrow = [{ after = 15, value = 5 }]"),
            parties(&[3, 2]),
            Obstacle::Teams,
        ),
        (
            team("quantity = 2\nmin = 4\nmax = 4\ngrow = { every = 15, by = 1, limit = 5 }"),
            parties(&[2, 3, 2, 3]),
            Obstacle::Teams,
        ),
    ];
    for (rules, tickets, obstacle) in cases {
        let mut world = World::new(&rules);
        world.submit_all(tickets);
        assert!(world.matched().is_empty(), "{rules}");
        let why = world.pool.explain(&id(1), world.now).unwrap();
        let relaxation = why.relaxation.unwrap();
        assert_eq!(relaxation.after, Duration::from_secs(15), "{rules}");
        assert_eq!(relaxation.obstacles, [obstacle], "{rules}");
        world.wait(14);
        assert!(world.matched().is_empty(), "{rules}");
        world.wait(1);
        assert_eq!(world.matched().len(), 1, "{rules}");
        assert_eq!(world.pool.ticket_count(), 0, "{rules}");
    }
}

fn playing(number: u128, role: &str) -> tombolo_match::Ticket {
    let mut ticket = solo(number);
    ticket.players[0].roles = vec![name(role)];
    ticket
}
