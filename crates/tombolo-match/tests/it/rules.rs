//! Rules that are refused, and where.

use tombolo_match::{DOCUMENT_BYTES_MAX, Rules};

fn error(text: &str) -> String {
    match Rules::parse(text) {
        Ok(rules) => panic!("these are good: {rules:?}"),
        Err(error) => error.to_string(),
    }
}

const GOOD: &str = "name = \"pool\"\nplayers = { min = 2, max = 8 }\n";

fn with(rest: &str) -> String {
    error(&format!("{GOOD}{rest}"))
}

#[test]
fn toml_and_json_say_the_same() {
    let toml = Rules::parse(
        r#"
        name = "pool"
        judge = "oldest"
        ready = "10s"
        [[teams]]
        name = "side"
        quantity = 2
        min = 1
        max = 3
        roles = [{ name = "goal", min = 1, max = 1 }, { name = "field" }]
        [[attributes]]
        name = "skill"
        kind = "number"
        party = "max"
        default = 1000
        [[rules]]
        kind = "distance"
        attribute = "skill"
        max = 100
        relax = { every = "1500ms", by = 10, limit = 200, off = "1m" }
        [[rules]]
        kind = "equal"
        attribute = "mode"
        relax = [{ after = 30, off = true }]
    "#,
    );
    let json = Rules::parse(
        r#"{
        "name": "pool", "judge": "oldest", "ready": 10,
        "teams": [{ "name": "side", "quantity": 2, "min": 1, "max": 3,
            "roles": [{ "name": "goal", "min": 1, "max": 1 }, { "name": "field" }] }],
        "attributes": [{ "name": "skill", "kind": "number", "party": "max", "default": 1e3 }],
        "rules": [
            { "kind": "distance", "attribute": "skill", "max": 100,
              "relax": { "every": 1.5, "by": 10, "limit": 200, "off": 60 } },
            { "kind": "equal", "attribute": "mode", "relax": { "off": "30s" } }
        ]
    }"#,
    );
    assert_eq!(toml.unwrap(), json.unwrap());
}

#[test]
fn mistakes_are_told_with_line_and_column() {
    assert_eq!(
        error("name = "),
        "line 1, column 8: string values must be quoted, expected literal string"
    );
    assert_eq!(
        error("name = \"pool\""),
        "line 1, column 1: players is missing here"
    );
    assert_eq!(
        error("name = \"x\"\nplayrs = { min = 1, max = 2 }"),
        "line 2, column 1: players is missing; was playrs meant to be it?"
    );
    assert_eq!(
        error("name = \"pool\"\nplayers = { min = 4, max = 2 }"),
        "line 2, column 11: no match can ever satisfy this: the fewest are more than the most"
    );
    assert_eq!(
        with("[[rules]]\nkind = \"distanse\""),
        "line 4, column 8: distanse is none of equal, overlap, distance, range, latency, block, \
         balance, connectivity"
    );
    assert_eq!(
        with("[[rules]]\nkind = \"equal\""),
        "line 3, column 1: attribute is missing here"
    );
    for rule in [
        "[[rules]]\nkind = \"overlap\"\nmin = 1\nattribute = \"tags\"",
        "[[attributes]]\nkind = \"list\"\n\nname = \"tags\"",
    ] {
        let error = with(rule);
        assert!(
            error.ends_with("an attribute not called tags, as which queries see a ticket's tags, is expected here"),
            "{error}"
        );
    }
    assert_eq!(
        with("tick = \"soon\""),
        "line 3, column 8: a time of at most a day, such as 500ms, 5s or 2m is expected here"
    );
    assert_eq!(
        with("settle = 5\ngood = 1001"),
        "line 4, column 8: good is from 1 to 1000"
    );
    assert_eq!(
        with("good = 900"),
        "line 3, column 8: good only together with settle is expected here"
    );
    assert_eq!(
        with("settle = -1"),
        "line 3, column 10: a time of at most a day, such as 500ms, 5s or 2m is expected here"
    );
    assert_eq!(
        with(
            "[[rules]]\nkind = \"equal\"\nattribute = \"mode\"\n[[rules]]\nkind = \"equal\"\nattribute = \"mode\""
        ),
        "line 6, column 1: mode is there twice"
    );
}

#[test]
fn mistakes_in_json_are_told_with_line_and_column() {
    assert_eq!(
        error("{\n  \"name\": \"pool\",\n  \"players\": { \"min\": 2, \"max\": true }\n}"),
        "line 3, column 33: a number within 1e15 is expected here"
    );
    assert_eq!(
        error("{\n \"name\": \"a\",\n \"name\": \"b\" }"),
        "line 3, column 2: name is there twice"
    );
    assert_eq!(
        error("{\n \"name\": \"a\",, }"),
        "line 2, column 14: key must be a string"
    );
    assert_eq!(
        error("{ \"name\": null }"),
        "line 1, column 11: no null is expected here"
    );
    let deep = format!("{{ \"name\": {}{} }}", "[".repeat(40), "]".repeat(40));
    assert!(
        error(&deep).ends_with("less nesting is expected here"),
        "{}",
        error(&deep)
    );
}

#[test]
fn nobody_is_given_less_than_a_second_to_say_that_it_is_ready() {
    for ready in ["0", "\"999ms\""] {
        let error = with(&format!("ready = {ready}"));
        assert_eq!(
            error,
            "line 3, column 9: a time of at least 1s in which users can answer is expected here"
        );
    }
}

#[test]
fn ranges_that_meet_once_they_have_relaxed_are_taken() {
    let relaxed = range(0, 1) + "relax = { every = 1, by = 1, limit = 4 }\n" + &range(5, 6);
    let text = format!("name = \"a\"\nplayers = {{ min = 2, max = 2 }}\n{relaxed}");
    assert!(Rules::parse(&text).is_ok());
}

fn range(low: u32, high: u32) -> String {
    format!(
        "[[rules]]\nname = \"r{low}\"\nkind = \"range\"\nattribute = \"a\"\nlow = {low}\nhigh = {high}\n"
    )
}

#[test]
fn rules_that_no_match_can_satisfy_are_refused() {
    for rest in [
        "multiple = 10",
        "[[rules]]\nkind = \"distance\"\nattribute = \"a\"\nmax = -1",
        "[[rules]]\nkind = \"range\"\nattribute = \"a\"\nlow = 2\nhigh = 1",
        &(range(0, 1) + "relax = { every = 1, by = 1, limit = 3 }\n" + &range(5, 6)),
    ] {
        assert!(
            with(rest).contains("no match can ever satisfy this"),
            "{rest}: {}",
            with(rest)
        );
    }
    let roles = "name = \"a\"\n[[teams]]\nname = \"t\"\nmin = 1\nmax = 2
        roles = [{ name = \"x\", min = 2 }, { name = \"y\", min = 1 }]";
    assert!(error(roles).contains("the roles need more users than the team takes"));
    assert!(error("name = \"a\"\nplayers = { min = 1, max = 1 }").contains("from 2 to 1000"));
    assert!(
        error("name = \"a\"\nplayers = { min = 1, max = 1001 }").contains("max is from 1 to 1000")
    );
}

#[test]
fn relaxing_asks_for_less_and_less() {
    let distance = "[[rules]]\nkind = \"distance\"\nattribute = \"a\"\nmax = 10\nrelax = ";
    for relax in [
        "{ every = 1, by = 1, limit = 9 }",
        "[{ after = 1, value = 9 }]",
        "[{ after = 2, value = 20 }, { after = 1, value = 30 }]",
        "[{ after = 2, off = true }, { after = 3, value = 30 }]",
    ] {
        let error = with(&format!("{distance}{relax}"));
        assert!(
            error.contains("relaxing must ask for less"),
            "{relax}: {error}"
        );
    }
    for relax in [
        "{ every = 0, by = 1, limit = 20 }",
        "{ every = 1, by = 0, limit = 20 }",
        "3",
        "[]",
    ] {
        with(&format!("{distance}{relax}"));
    }
    let block = "[[rules]]\nkind = \"block\"\nrelax = ";
    assert!(with(&format!("{block}{{ every = 1, by = 1, limit = 3 }}")).contains("off"));
    assert!(Rules::parse(&format!("{GOOD}{block}{{ off = 3 }}")).is_ok());
    let more = "name = \"a\"\nplayers = { min = 2, max = 8, relax = [{ after = 1, value = 3 }] }";
    assert!(
        error(more).contains("relaxing must ask for less"),
        "{}",
        error(more)
    );
}

#[test]
fn absurd_documents_are_refused() {
    assert!(error(&" ".repeat(DOCUMENT_BYTES_MAX + 1)).contains("rules are at most"));
    assert!(error(&format!("{GOOD}tick = {}", "[".repeat(10_000))).starts_with("line 3"));
    let many = "[[rules]]\nkind = \"block\"\nname = \"x\"\n".repeat(2);
    assert!(with(&many).contains("x is there twice"));
    let many: String = (0..33)
        .map(|at| format!("[[rules]]\nkind = \"block\"\nname = \"x{at}\"\n"))
        .collect();
    assert!(with(&many).contains("the number of rules is from 0 to 32"));
    assert!(
        with("[[rules]]\nkind = \"distance\"\nattribute = \"a\"\nmax = nan").contains("a number")
    );
    assert!(
        with("[[rules]]\nkind = \"distance\"\nattribute = \"a\"\nmax = 1e300").contains("a number")
    );
    assert!(
        with("[[rules]]\nkind = \"latency\"\nattribute = \"a\"\nregions = []\nmax = 1")
            .contains("from 1 to 64")
    );
    let clash = "[[rules]]\nkind = \"equal\"\nattribute = \"a\"\n[[rules]]\nkind = \"distance\"\nattribute = \"a\"\nmax = 1";
    assert!(with(clash).contains("of the kind that this rule needs"));
}

#[test]
fn the_example_of_the_documentation_is_good() {
    let page = include_str!("../../../../docs/matchmaking.md");
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let rules = Rules::parse(example).unwrap();
    assert_eq!(rules.shape.teams.len(), 2);
    assert_eq!(rules.rules.len(), 1);
}

#[test]
fn rules_in_tables_of_a_larger_document_are_those_of_a_document_of_their_own() {
    let text = "name = \"node-1\"\n\n[[pool]]\nname = \"duel\"\nplayers = { min = 2, max = 2 }\n\n\
        [[pool.rules]]\nkind = \"distance\"\nattribute = \"skill\"\nmax = 100 # near\n\n\
        [[pool]]\nname = \"four\"\nplayers = { min = 4, max = 4 }\n\n[tls]\npin = true\n";
    let tables = Rules::parse_tables(text, "pool").unwrap();
    let names: Vec<_> = tables
        .iter()
        .map(|(rules, _)| rules.name.as_str())
        .collect();
    assert_eq!(names, ["duel", "four"]);
    for (rules, text) in &tables {
        assert_eq!(Rules::parse(text).as_ref(), Ok(rules));
    }
    // However they are written, their text is the same.
    let other = "[[pool]]\nrules = [{ max = 100, attribute = \"skill\", kind = \"distance\" }]\n\
        players = { max = 2, min = 2 }\nname = \"duel\"";
    assert_eq!(Rules::parse_tables(other, "pool").unwrap(), tables[..1]);
    assert_eq!(Rules::parse_tables("name = 'x'", "pool").unwrap(), []);
    for (from, to, line) in [
        ("max = 100", "max = \"far\"", 10),
        ("min = 4, max = 4", "min = 4, max = 3", 14),
        ("[[pool]]\nname = \"four\"", "[[pool]]", 12),
    ] {
        let wrong = Rules::parse_tables(&text.replace(from, to), "pool").unwrap_err();
        assert_eq!(wrong.line, line, "{to}: {wrong}");
    }
    for text in ["pool = 3", "pool = [1]", "[pool]\nname = 'x'", "[[pool"] {
        assert!(Rules::parse_tables(text, "pool").is_err(), "{text}");
    }
}

#[test]
fn roles_that_take_fewer_users_than_a_team_needs_are_refused_and_others_bound_it() {
    let team = |relax: &str| {
        let text = format!(
            "name = \"raid\"\n[[teams]]\nname = \"raid\"\nmin = 4\nmax = 5\n{relax}\n\
             roles = [{{ name = \"healer\", max = 1 }}, {{ name = \"tank\", max = 2 }}]"
        );
        Rules::parse(&text)
    };
    let refused = team("").unwrap_err().to_string();
    assert!(refused.contains("fewer users than the team"), "{refused}");
    let rules = team("relax = [{ after = 10, value = 3 }]").unwrap();
    assert_eq!(rules.shape.players_max(), 3);
}

#[test]
fn what_teams_are_to_be_like_relaxes_to_less_only() {
    let team = |rest: &str| {
        let text = format!("name = \"a\"\n[[teams]]\nname = \"t\"\nmin = 2\nmax = 4\n{rest}");
        Rules::parse(&text).map_err(|error| error.to_string())
    };
    for (rest, why) in [
        (
            "grow = [{ after = 5, value = 3 }]",
            "line 6, column 9: relaxing must ask for less and less",
        ),
        (
            "grow = [{ after = 5, value = 4.5 }]",
            "line 6, column 9: a whole number",
        ),
        (
            "grow = [{ after = 5, off = true }]",
            "line 6, column 8: a number of users, and no end of the bound, is expected",
        ),
        (
            "grow = { every = 1, by = 1, limit = 1001 }",
            "line 6, column 8: the most users of a team is from 1 to 1000",
        ),
        (
            "grow = { every = 1, by = 1, limit = 6 }\nroles = [{ name = \"x\", max = 5 }]",
            "line 2, column 1: no match can ever satisfy this: the roles take fewer users than the team grows to",
        ),
        (
            "roles = [{ name = \"x\", min = 1, relax = [{ after = 5, value = 2 }] }]",
            "relaxing must ask for less and less",
        ),
    ] {
        let error = team(rest).unwrap_err();
        assert!(error.contains(why), "{rest}: {error}");
    }
    let multiple = |rest: &str| {
        let text = format!("name = \"a\"\nplayers = {{ min = 2, max = 8 }}\nmultiple = {rest}");
        Rules::parse(&text).map_err(|error| error.to_string())
    };
    let error = multiple("{ of = 2, relax = [{ after = 5, value = 1 }] }").unwrap_err();
    assert!(
        error.contains("line 3, column 31: either a value or off = true"),
        "{error}"
    );
    let error = multiple("{ of = 10, relax = { off = 5 } }").unwrap_err();
    assert!(error.contains("no multiple lies between"), "{error}");
    let rules = multiple("{ of = 2, relax = { off = 5 } }").unwrap();
    assert_eq!(rules.shape.multiple, 2);
    // Needed by nobody in the end, the roles are not too many for the team.
    let roles =
        "roles = [{ name = \"x\", min = 3, relax = { off = 5 } }, { name = \"y\", min = 2 }]";
    assert_eq!(team(roles).unwrap().shape.players_max(), 4);
    assert_eq!(
        team("grow = { every = 5, by = 1, limit = 6 }")
            .unwrap()
            .shape
            .players_max(),
        6
    );
}
