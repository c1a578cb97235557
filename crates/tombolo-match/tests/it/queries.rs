//! The query form.

use tombolo_match::{Body, Entry, OperationId, Pool, Query, Ticket, Value};

use crate::world::{World, asking, having, id, list, map, solo, text};

fn duel() -> World {
    World::new("name = \"duel\"\nplayers = { min = 2, max = 2 }")
}

#[test]
fn what_must_be_must_be_on_both_sides() {
    let mut world = duel();
    let eu = |number| having(solo(number), "region", text("eu"));
    world.submit_all([asking(eu(1), "+region:us"), asking(eu(2), "+region:eu")]);
    assert!(
        world.matched().is_empty(),
        "the first does not want the second"
    );
    world
        .submit(asking(eu(3), "+properties.region:eu *"))
        .unwrap();
    assert_eq!(world.matched(), [["u2", "u3"]]);
}

#[test]
fn whoever_asks_finds_those_who_came_before_anybody_asked() {
    for (attribute, value, query) in [
        ("region", text("eu"), "+region:eu"),
        ("rank", Value::Number(12.0), "+rank:>=10"),
    ] {
        let blocked = |number: u128, other: &str| {
            let mut ticket = having(solo(number), attribute, value.clone());
            ticket.players[0].blocks.push(crate::world::user(other));
            ticket
        };
        let mut world = World::new(
            "name = \"duel\"\nplayers = { min = 2, max = 2 }\nrules = [{ kind = \"block\" }]",
        );
        world.submit_all([blocked(1, "u2"), blocked(2, "u1")]);
        assert!(world.matched().is_empty(), "neither wants the other");
        let asking = asking(having(solo(3), attribute, value.clone()), query);
        world.submit(asking).unwrap();
        assert_eq!(world.matched(), [["u1", "u3"]], "{query}");
        assert_eq!(world.waiting(), [2]);
    }
}

#[test]
fn what_must_not_be_keeps_apart() {
    let mut world = duel();
    let mode = |number, mode| having(solo(number), "mode", text(mode));
    world.submit_all([asking(mode(1, "casual"), "-mode:ranked"), mode(2, "ranked")]);
    assert!(world.matched().is_empty());
    world.submit(mode(3, "casual")).unwrap();
    assert_eq!(world.matched(), [["u1", "u3"]]);
}

#[test]
fn numbers_lie_in_ranges() {
    let mut world = duel();
    let rank = |number, rank: f64| having(solo(number), "rank", Value::Number(rank));
    world.submit_all([
        asking(rank(1, 5.0), "+rank:>=10 +rank:<20"),
        rank(2, 9.5),
        rank(3, 20.0),
    ]);
    assert_eq!(
        world.matched(),
        [["u2", "u3"]],
        "who asks for nothing takes anybody"
    );
    world.submit(rank(4, 10.0)).unwrap();
    assert_eq!(world.matched(), [["u1", "u4"]]);
}

#[test]
fn lists_tags_maps_and_prefixes_are_asked_for() {
    let mut world = duel();
    let mut tagged = having(solo(1), "maps", list(&["dust", "inferno"]));
    tagged.tags.insert(crate::world::name("beta"));
    let tagged = having(tagged, "ping", map(&[("eu", 40.0)]));
    let query = "+tags:beta +maps:inf* +ping.eu:<50 -ping.us:* +maps:*";
    world.submit_all([asking(solo(2), query)]);
    world
        .submit(having(solo(3), "maps", list(&["inferno"])))
        .unwrap();
    assert!(world.matched().is_empty());
    world.submit(tagged).unwrap();
    let matched = world.matched();
    assert!(matched.contains(&vec!["u1".to_owned(), "u2".to_owned()]) || matched == [["u1", "u3"]]);
}

#[test]
fn what_would_be_better_is_taken_first_and_shows_in_the_quality() {
    let mut world = duel();
    let mode = |number, mode| having(solo(number), "mode", text(mode));
    let blocker = |ticket| asking(ticket, "+wants:me");
    world.submit_all([blocker(mode(1, "ranked")), blocker(mode(2, "casual"))]);
    assert!(world.matched().is_empty());
    let chooser = having(mode(3, "any"), "wants", text("me"));
    world
        .submit(asking(chooser, "mode:casual^3 mode:ranked mode:any"))
        .unwrap();
    let formed = world.step();
    assert_eq!(crate::world::users(&formed[0]), ["u2", "u3"]);
    assert_eq!(formed[0].quality, 600);
}

#[test]
fn bad_queries_say_where() {
    let error = |text: &str| Query::parse(text).unwrap_err().to_string();
    assert_eq!(error("+region"), "column 8: a colon is expected");
    assert_eq!(
        error("a:b  +:x"),
        "column 7: the name of an attribute is expected"
    );
    assert_eq!(error("a:>=x"), "column 5: a number is expected");
    assert_eq!(error("a:>=NaN"), "column 5: a number is expected");
    assert_eq!(error("a:\"x"), "column 5: a closing quote is expected");
    assert_eq!(error("+a:x^2"), "column 7: no ^ after + or - is expected");
    assert_eq!(
        error("a:x^-1"),
        "column 5: a number from 0 to 1000 is expected"
    );
    assert_eq!(error(&"a:b ".repeat(33)), "a query has at most 32 clauses");
    assert_eq!(
        error(&"a".repeat(1025)),
        "a query is at most 1024 bytes long"
    );
    assert_eq!(
        error("-blocked:/.*id7.*/"),
        "column 10: a word such as *id7*, and no regular expression, is expected"
    );
    assert_eq!(
        error("name:/^a b$/"),
        "column 6: a word such as *id7*, and no regular expression, is expected"
    );
    for likely in ["-name:abc~", "-name:abc~2", "-name:abc~0.5"] {
        assert_eq!(
            error(likely),
            "column 7: a word such as ab?d*, and not how like it others may be (~), is expected"
        );
    }
    assert_eq!(
        error("-name:a\\:b"),
        "column 7: a word in quotes, and no backslash, is expected"
    );
    assert_eq!(
        error(&"-a:*x ".repeat(9)),
        "column 49: a query has at most 8 words with * or ? in them"
    );
    assert!(Query::parse(&"-a:* -a:\"?\" -b:x*  ".repeat(8)).is_ok());
    for plain in ["a:\"/.*x/\"", "a:\"x~2\"", "a:~", "a:x/y", "a:~x"] {
        assert!(Query::parse(plain).is_ok(), "{plain}");
    }
    assert!(Query::parse("é:è").is_err());
    assert!(Query::parse("a:\"b c\"^2 *").is_ok());
}

#[test]
fn words_have_wildcards_in_them() {
    for (query, fits, does_not) in [
        ("-blocked:*u1*", "u2 u3", "u7 u1 u9"),
        ("+name:a?c", "abc", "abbc"),
        ("+name:a?c", "aéc", "ac"),
        ("+name:*b*d", "abcd", "abdc"),
        ("+name:a*c*", "aXcX", "Xac"),
        ("+name:?*", "a", ""),
        ("+name:\"a*c\"", "a*c", "abc"),
        ("-name:**", "", "any"),
    ] {
        let name = |number, name: &str| match name {
            "" => solo(number),
            _ if query.starts_with("-blocked") => having(solo(number), "blocked", text(name)),
            _ => having(solo(number), "name", text(name)),
        };
        let mut world = duel();
        world.submit_all([asking(solo(1), query), name(2, does_not)]);
        assert!(world.matched().is_empty(), "{query}: {does_not}");
        world.submit(name(3, fits)).unwrap();
        let matched = world.matched();
        assert_eq!(matched, [["u1", "u3"]], "{query}: {fits}");
    }
    let mut world = duel();
    let asking = asking(solo(1), "-maps:*st");
    world.submit_all([asking, having(solo(2), "maps", list(&["inferno", "dust"]))]);
    assert!(world.matched().is_empty(), "one of the list is so");
}

/// As many long names as one user may have, all alike but for their ends.
fn named_at_length(number: u128) -> Ticket {
    let texts: Vec<_> = (10..74)
        .map(|at| format!("{}{at}", "a".repeat(126)))
        .collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    having(solo(number), "name", list(&texts))
}

/// What it costs to compare ten of those with one who asks for this, and for what nobody has.
fn work_of(query: &str) -> u64 {
    let mut world = duel();
    world.submit_all((2..12).map(|number| asking(named_at_length(number), "-name:*")));
    while !world.pool.propose(world.now, 1000).is_complete {}
    world
        .submit(asking(solo(1), &format!("{query} +other:*")))
        .unwrap();
    let step = world.pool.propose(world.now, 100_000);
    assert!(step.matches.is_empty());
    step.work
}

#[test]
fn to_compare_with_patterns_and_prefixes_counts() {
    // Ten others, of 64 texts each.
    let patterns = work_of(&format!("+name:*{}b*", "a".repeat(60)));
    assert!(patterns >= 10 * 64 * 128 / 256, "{patterns}");
    let prefixes = work_of(&"-name:b* ".repeat(8)) - work_of("");
    assert!(prefixes >= 8 * 10 * 64 / 256, "{prefixes}");
}

#[test]
fn no_pattern_costs_more_than_a_step_for_each_letter_that_it_is_compared_with() {
    let worst = format!("-name:*{}b* ", "a".repeat(110)).repeat(8);
    let work = work_of(&worst);
    // Eight, each with 64 texts of ten others.
    assert!(work < 8 * 10 * (64 * 129 + 256) / 256 + 100, "{work}");
}

#[test]
fn a_step_ends_however_much_it_takes_to_compare_those_who_come_into_question() {
    let worst = format!("{{}}name:*{}b* ", "a".repeat(110)).repeat(8);
    // They would like something; or they refuse each other in the end; or take much to accept each other.
    for sign in ["", "+", "-"] {
        let query = worst.replace("{}", sign);
        for rules in ["min = 80, max = 100", "min = 2, max = 2"] {
            let mut world = World::new(&format!("name = \"p\"\nplayers = {{ {rules} }}"));
            world.submit(solo(1)).unwrap();
            world.submit_all((2..100).map(|number| asking(named_at_length(number), &query)));
            for _ in 0..3 {
                let step = world.pool.propose(world.now, 4096);
                assert!(step.work < 60_000, "{sign} {rules}: {}", step.work);
                world.wait(1);
            }
            if let Some(why) = world.pool.explain(&id(99), world.now) {
                assert!(why.work < 60_000, "{sign} {rules}: {}", why.work);
            }
        }
    }
}

#[test]
fn who_is_kept_away_by_a_rule_that_relaxes_costs_no_more_however_much_queries_take() {
    let worst = format!("-name:*{}b* ", "a".repeat(110)).repeat(8);
    let mut world = World::new(
        "name = \"duel\"\nplayers = { min = 2, max = 2 }
        rules = [{ kind = \"distance\", attribute = \"skill\", max = 1, relax = { every = \"1s\", by = 1, limit = 1000 } }]",
    );
    let far = |number: u128| {
        let skill = Value::Number(number as f64 * 100.0);
        asking(having(named_at_length(number), "skill", skill), &worst)
    };
    world.submit_all([far(1), far(2)]);
    let why = world.pool.explain(&id(1), world.now).unwrap();
    assert!(why.relaxation.is_some());
    // Twice both ways for what stands in the way, and a search.
    let comparison = 8 * (64 * 129 + 256) / 256;
    assert!(why.work < 8 * comparison + 200, "{}", why.work);
}

#[test]
fn a_query_of_a_log_from_before_such_were_refused_is_read() {
    let body = Body::Submitted(asking(solo(1), "-blocked:0.*id7.*/"));
    let time = duel().now;
    let entry = Entry { time, body };
    let mut bytes = entry.encode(OperationId([1; 16])).to_vec();
    let at = bytes.windows(4).position(|part| part == b":0.*").unwrap();
    bytes[at + 1] = b'/';
    let (_, entry) = Entry::decode(&bytes).unwrap();
    let mut world = duel();
    world.apply(entry.body).unwrap();
    let query = world.pool.ticket(&id(1)).unwrap().query.to_string();
    assert_eq!(query, "-blocked:/.*id7.*/");
    let rules = world.pool.rules().clone();
    assert!(Pool::restore(rules, &world.pool.snapshot()).is_ok());
}

#[test]
fn a_query_of_a_log_with_more_wildcards_than_are_taken_now_is_read() {
    let body = Body::Submitted(asking(solo(1), &"-name:x0 ".repeat(9)));
    let entry = Entry {
        time: duel().now,
        body,
    };
    let mut bytes = entry.encode(OperationId([1; 16])).to_vec();
    for at in 0..bytes.len() - 1 {
        if bytes[at..].starts_with(b"x0") {
            bytes[at + 1] = b'*';
        }
    }
    let (_, entry) = Entry::decode(&bytes).unwrap();
    let mut world = duel();
    world.apply(entry.body).unwrap();
    world.submit(having(solo(2), "name", text("xy"))).unwrap();
    assert!(world.matched().is_empty(), "it is as it was");
    let rules = world.pool.rules().clone();
    assert!(Pool::restore(rules, &world.pool.snapshot()).is_ok());
}
