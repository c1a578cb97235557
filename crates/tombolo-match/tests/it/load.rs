//! What many tickets cost that fit, and find no match.

use std::time::Duration;

use tombolo_match::{Backfill, BackfillId, Body, Ticket, Value};

use crate::world::{World, having, id, list, name, player, skilled, solo, text};

/// How many tickets a matcher has looked at until nothing is left to do.
fn work(world: &mut World) -> u64 {
    let mut work = 0;
    loop {
        let step = world.pool.propose(world.now, 100_000);
        assert!(step.matches.is_empty(), "{:?}", step.matches);
        work += step.work;
        if step.is_complete {
            return work;
        }
    }
}

fn threes(count: u128) -> impl Iterator<Item = Ticket> {
    (1..=count).map(|number| skilled(number, &[0.0; 3]))
}

#[test]
fn a_party_for_which_there_is_no_room_looks_at_each_other_a_few_times_only() {
    const COUNT: u64 = 200;
    let mut world = World::new(
        "name = \"squads\"\n[[teams]]\nname = \"squad\"\nquantity = 25\nmin = 4\nmax = 4",
    );
    world.submit_all(threes(COUNT.into()));
    let _ = work(&mut world);
    world.submit(skilled(999, &[0.0; 3])).unwrap();
    let work = work(&mut world);
    assert!(work < 20 * COUNT, "{work}");
}

#[test]
fn parties_that_cannot_play_together_are_not_put_anew_without_end() {
    const COUNT: u64 = 200;
    let mut world = World::new(
        "name = \"squads\"\n[[teams]]\nname = \"squad\"\nquantity = 25\nmin = 4\nmax = 4
        roles = [{ name = \"healer\", max = 1 }, { name = \"fighter\", max = 3 }]",
    );
    let pair = |number: u128| {
        let mut players = [player(&format!("h{number}")), player(&format!("f{number}"))];
        players[0].roles = vec![name("healer")];
        players[1].roles = vec![name("fighter")];
        Ticket::new(id(number), players.to_vec())
    };
    world.submit_all((1..=COUNT.into()).map(pair));
    let _ = work(&mut world);
    world.submit(pair(999)).unwrap();
    let work = work(&mut world);
    assert!(work < 15 * COUNT, "{work}");
}

#[test]
fn however_many_come_those_begin_who_have_waited_for_more() {
    let mut world = World::new(
        "name = \"p\"\nfill = 5\nplayers = { min = 3, max = 4 }\nrules = [{ kind = \"equal\", attribute = \"mode\" }]",
    );
    let of = |number: u128, mode: &str| having(solo(number), "mode", text(mode));
    world.submit_all((1..=3).map(|number| of(number, "a")));
    world.wait(6);
    let mut next = 4;
    for _ in 0..10 {
        for _ in 0..20 {
            world.submit(of(next, &format!("m{next}"))).unwrap();
            next += 1;
        }
        if begins(&mut world, ["u1", "u2", "u3"]) {
            return;
        }
        world.wait(1);
    }
    panic!("they wait");
}

#[test]
fn however_often_limits_widen_those_are_looked_at_who_wait() {
    let mut world = World::new(
        "name = \"p\"\nfill = 5\nplayers = { min = 3, max = 4 }
        rules = [{ kind = \"distance\", attribute = \"skill\", max = 1, relax = { every = \"1ms\", by = 0.000001, limit = 3 } }]",
    );
    world.submit_all((1..=3).map(|number| skilled(number, &[0.0])));
    world.submit_all((4..100).map(|number| skilled(number, &[number as f64 * 10.0])));
    world.wait(6);
    for _ in 0..10 {
        if begins(&mut world, ["u1", "u2", "u3"]) {
            return;
        }
        world.wait(1);
    }
    panic!("they wait");
}

#[test]
fn those_begin_who_have_waited_for_more_however_much_a_search_of_those_who_come_takes() {
    let mut world = World::new(
        "name = \"p\"\nfill = 5\nplayers = { min = 3, max = 4 }
        rules = [{ kind = \"overlap\", attribute = \"maps\", min = 1 }]",
    );
    let of = |number: u128, map: &str| having(solo(number), "maps", list(&[map]));
    world.submit_all((1..=100).map(|number| of(number, &format!("m{number}"))));
    world.submit_all((101..=103).map(|number| of(number, "a")));
    let _ = work(&mut world);
    world.wait(6);
    for number in (104..).take(10) {
        let others = [2 * number, 2 * number + 1];
        world.submit_all(others.map(|number| of(number, &format!("m{number}"))));
        if begins(&mut world, ["u101", "u102", "u103"]) {
            return;
        }
    }
    panic!("they wait");
}

/// Whether a match begins in a small step, which must be of these users.
fn begins(world: &mut World, users: [&str; 3]) -> bool {
    let step = world.pool.propose(world.now, 20);
    let [begins] = &step.matches[..] else {
        return false;
    };
    assert_eq!(crate::world::users(begins), users);
    true
}

#[test]
fn to_put_all_parties_anew_counts_for_each_of_them() {
    let work = |sizes: [usize; 4]| {
        let mut world = World::new(
            "name = \"teams\"\n[[teams]]\nname = \"side\"\nquantity = 2\nmin = 5\nmax = 5",
        );
        let all = (1..).zip(sizes);
        world.submit_all(all.map(|(number, size)| skilled(number, &vec![0.0; size])));
        let step = world.pool.propose(world.now, 100_000);
        assert_eq!(step.matches.len(), 1);
        step.work
    };
    // One in each team at first: then there is no room for five, unless the ones come together.
    assert_eq!(work([1, 1, 5, 3]), work([5, 3, 1, 1]) + 3);
}

const EVEN: &str = r#"
    [[rules]]
    kind = "balance"
    attribute = "skill"
    measure = "sum"
    max = 0
"#;

/// Two teams of so many.
fn two_teams(size: u128) -> String {
    format!(
        "name = \"teams\"\n[[teams]]\nname = \"side\"\nquantity = 2\nmin = {size}\nmax = {size}"
    )
}

#[test]
fn to_exchange_parties_between_teams_counts() {
    let work = |rules: &str| {
        let mut world = World::new(&(two_teams(16) + rules));
        world.submit_all((1..=32).map(|number| skilled(number, &[number as f64])));
        let step = world.pool.propose(world.now, 100_000);
        assert_eq!(step.matches.len(), 1);
        step.work
    };
    assert!(work(EVEN) > work(""));
}

#[test]
fn teams_that_cannot_be_even_cost_a_step_no_more_than_its_bound_however_large_they_are() {
    let mut world = World::new(&(two_teams(500) + EVEN));
    let odd_one = |number| if number == 1 { 1.0 } else { 0.0 };
    world.submit_all((1..=1000).map(|number| skilled(number, &[odd_one(number)])));
    for _ in 0..5 {
        let step = world.pool.propose(world.now, 4096);
        assert!(step.matches.is_empty());
        assert!(step.work < 40_000, "{}", step.work);
        world.wait(1);
    }
    let why = world.pool.explain(&id(1), world.now).unwrap();
    assert!(why.work < 60_000, "{}", why.work);
}

#[test]
fn large_teams_that_are_far_from_even_become_so() {
    let mut world = World::new(&(two_teams(500) + &EVEN.replace("max = 0", "max = 2")));
    // Whoever comes to the one team is much better than whoever comes to the other.
    let skill = |number: u128| (number % 2 * 1000 + number * number % 97) as f64;
    world.submit_all((1..=1000).map(|number| skilled(number, &[skill(number)])));
    assert_eq!(world.step().len(), 1);
}

#[test]
fn no_search_takes_much_longer_than_a_step_however_many_fit_who_cannot_play_together() {
    const COUNT: u128 = 40_000;
    let mut world = World::new(TRIO);
    world.submit_all((1..=COUNT).map(|number| playing(number, "fighter")));
    let step = world.pool.propose(world.now, 1_000);
    assert!(step.matches.is_empty() && !step.is_complete);
    assert!(step.work < 60_000, "{}", step.work);
}

#[test]
fn who_comes_to_many_of_one_kind_looks_at_them_only_when_there_may_be_a_match() {
    const COUNT: u128 = 2_000;
    let mut world = World::new(TRIO);
    world.submit_all((1..=COUNT).map(|number| playing(number, "fighter")));
    let _ = work(&mut world);
    world.submit(playing(COUNT + 1, "fighter")).unwrap();
    let looks = work(&mut world);
    assert!(looks < 10, "{looks}");
    world.wait(1);
    let looks = work(&mut world);
    assert!(looks < 2 * COUNT as u64, "{looks}");
    world.submit(playing(COUNT + 2, "healer")).unwrap();
    let looks = work(&mut world);
    assert!(looks < 10, "{looks}");
    world.submit(playing(COUNT + 3, "tank")).unwrap();
    let trio = world.step();
    assert_eq!(
        crate::world::users(&trio[0]),
        ["u1", "u2002", "u2003"],
        "those who could not look before are found"
    );
}

#[test]
fn parties_that_fill_no_team_do_not_look_at_each_other() {
    let mut world = World::new(
        "name = \"squads\"\n[[teams]]\nname = \"squad\"\nquantity = 2\nmin = 4\nmax = 5",
    );
    world.submit_all(threes(2_000));
    let looks = work(&mut world);
    assert!(looks < 2 * 2_000 + 10, "{looks}");
    world.submit(skilled(2_001, &[0.0; 2])).unwrap();
    assert!(world.step().is_empty(), "one team is too small");
    world.submit(skilled(2_002, &[0.0; 2])).unwrap();
    assert_eq!(world.step().len(), 1);
}

#[test]
fn what_one_search_did_not_get_to_the_next_one_looks_at() {
    let mut world = World::new(TRIO);
    let running = playing(0, "fighter");
    let ask = Body::Backfill(Backfill {
        id: BackfillId([1; 16]),
        after: 0,
        sides: vec![(name("team"), vec![running])],
        venue: None,
        lease: Duration::from_secs(60),
    });
    world.apply(ask).unwrap();
    world.submit_all((1..=20_000).map(|number| playing(number, "fighter")));
    world.submit(playing(20_001, "healer")).unwrap();
    for number in 20_002..20_006 {
        let step = world.pool.propose(world.now, 1);
        if let [joins] = &step.matches[..] {
            assert_eq!(crate::world::users(joins), ["u20001"]);
            return;
        }
        // Whenever somebody has come, the running match looks again.
        world.submit(playing(number, "fighter")).unwrap();
    }
    panic!("it begins anew each time");
}

#[test]
fn those_find_each_other_who_are_rare_and_far_from_each_other() {
    let mut world = World::new(&format!("{TRIO}\n{WIDENING}"));
    let skilled = |number, role| having(playing(number, role), "skill", Value::Number(0.0));
    let mut first = skilled(1, "fighter");
    first.priority = 1;
    world.submit_all([first, skilled(2, "healer")]);
    world.submit_all((3..=20_000).map(|number| skilled(number, "fighter")));
    world.submit(skilled(20_001, "tank")).unwrap();
    for _ in 0..4 {
        // As often as its limit widens, the first one looks.
        let step = world.pool.propose(world.now, 4);
        if let [trio] = &step.matches[..] {
            assert_eq!(crate::world::users(trio), ["u1", "u2", "u20001"]);
            return;
        }
        world.wait(1);
    }
    panic!("they wait");
}

#[test]
fn who_comes_in_front_of_those_that_were_looked_at_is_found_at_once() {
    let mut world = World::new(&format!("{TRIO}\n{WIDENING}"));
    let skilled =
        |number, role, skill| having(playing(number, role), "skill", Value::Number(skill));
    let ask = Body::Backfill(Backfill {
        id: BackfillId([1; 16]),
        after: 0,
        sides: vec![(name("team"), vec![skilled(0, "fighter", 0.0)])],
        venue: None,
        lease: Duration::from_secs(60),
    });
    world.apply(ask).unwrap();
    world.submit_all((1..=16_400).map(|number| skilled(number, "fighter", 0.5)));
    let step = world.pool.propose(world.now, 1);
    assert!(step.matches.is_empty());
    world.submit(skilled(20_001, "healer", 0.0)).unwrap();
    let step = world.pool.propose(world.now, 1);
    assert_eq!(step.matches.len(), 1);
    assert_eq!(crate::world::users(&step.matches[0]), ["u20001"]);
}

const WIDENING: &str = r#"
    [[rules]]
    kind = "distance"
    attribute = "skill"
    max = 1
    relax = { every = 1, by = 1, limit = 100 }
"#;

const TRIO: &str = r#"
    name = "trio"
    [[teams]]
    name = "team"
    min = 3
    max = 3
    roles = [{ name = "healer", max = 1 }, { name = "tank", max = 1 }, { name = "fighter", max = 1 }]
"#;

fn playing(number: u128, role: &str) -> Ticket {
    let mut ticket = solo(number);
    ticket.players[0].roles = vec![name(role)];
    ticket
}

#[test]
fn who_has_looked_at_many_in_vain_does_not_look_on_each_tick() {
    const COUNT: u64 = 400;
    const TICKS: u64 = 10;
    let mut world =
        World::new("name = \"teams\"\n[[teams]]\nname = \"side\"\nquantity = 2\nmin = 5\nmax = 5");
    world.submit_all(threes(COUNT.into()));
    let mut looks = 0;
    for _ in 0..TICKS {
        world.wait(1);
        looks += work(&mut world);
    }
    assert!(looks < 1536 * COUNT * TICKS, "{looks}");
}

#[test]
fn who_does_not_look_on_each_tick_looks_when_less_is_asked_of_its_match() {
    for (rules, after) in [
        ("min = 4\nmax = 5", "fill = 20"),
        ("min = 5\nmax = 5\nrelax = [{ after = 20, value = 4 }]", ""),
    ] {
        let mut world = World::new(&format!(
            "name = \"teams\"\n{after}\n[[teams]]\nname = \"side\"\nquantity = 2\n{rules}"
        ));
        world.submit_all((1..=400).map(|number| skilled(number, &[0.0; 4])));
        for _ in 0..19 {
            world.wait(1);
            let _ = work(&mut world);
        }
        world.wait(1);
        assert_eq!(world.step().len(), 200, "{rules}");
    }
}

#[test]
fn texts_of_their_own_of_which_none_need_be_equal_any_more_count() {
    const COUNT: u64 = 400;
    let mut world = World::new(
        "name = \"duel\"\nplayers = { min = 2, max = 2 }
        [[rules]]\nkind = \"equal\"\nattribute = \"mode\"\nrelax = { off = 5 }
        [[rules]]\nkind = \"distance\"\nattribute = \"skill\"\nmax = 1",
    );
    let own = |number: u128| {
        let ticket = skilled(number, &[number as f64 * 10.0]);
        having(ticket, "mode", text(&format!("m{number}")))
    };
    world.submit_all((1..=COUNT.into()).map(own));
    let looks = work(&mut world);
    assert!(
        looks < 10 * COUNT,
        "each looks at its own text only: {looks}"
    );
    world.wait(6);
    let step = world.pool.propose(world.now, 1_000);
    assert!(!step.is_complete, "a step has a bound");
    assert!(step.work < 1_000 + COUNT, "{}", step.work);
    let looks = work(&mut world);
    assert!(looks > COUNT * COUNT / 8, "{looks}");
    // Whoever has just come asks for its own text, which nobody else has.
    world.submit(own(1_000)).unwrap();
    let looks = work(&mut world);
    assert!(looks < 10, "{looks}");
}

#[test]
fn to_see_whom_one_blocks_counts() {
    const COUNT: u64 = 20;
    let looks = |blocks: usize| {
        let mut world = World::new(
            "name = \"p\"\nplayers = { min = 20, max = 20 }\nrules = [{ kind = \"block\" }]",
        );
        world.submit_all((1..=COUNT.into()).map(|number: u128| {
            let mut ticket = solo(number);
            let others = (0..blocks).map(|at| crate::world::user(&format!("b{number}.{at}")));
            ticket.players[0].blocks.extend(others);
            ticket
        }));
        let step = world.pool.propose(world.now, 100_000);
        assert_eq!(step.matches.len(), 1);
        step.work
    };
    let most = tombolo_match::BLOCKS_MAX;
    assert!(looks(most) >= looks(0) + COUNT * most as u64 / 32);
}
