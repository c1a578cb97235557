//! Scenarios of many devices.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::command::{Ended, node_with, start};
use crate::folder::Folder;

const POOL: &str = "name = \"duel\"\nplayers = { min = 2, max = 2 }\n\
    rules = [{ kind = \"equal\", attribute = \"mode\" }]\n";

const SCENARIO: &str = r#"
bots = 6
rate = 20
duration = 8
seed = 5
name = "b"

[match]
pool = "duel"
stay = 0.5

[match.attributes]
mode = "duel"
skill = "normal(1200, 300)"

[rooms]
count = 1
stay = 1

[chat]
every = 0.2
durable-every = 0.3

[field]
id = "plaza"
side = 20
speed = 5
"#;

#[tokio::test]
async fn bots_match_join_chat_and_move_and_the_report_says_how_often() {
    let folder = Folder::new("bots-all");
    let pool = folder.write("duel.toml", POOL);
    let scenario = folder.write("scenario.toml", SCENARIO);
    let (mut serve, url) = node_with(&["--pools", &pool]).await;
    let args = ["bots", "--server", &url, "--scenario", &scenario, "--json"];
    let ended = start(&args).ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    let began = &ended.events[0];
    assert_eq!(
        (&began["event"], &began["bots"]),
        (&"began".into(), &6.into())
    );
    assert_eq!((&began["seed"], &began["rate"]), (&5.into(), &20.0.into()));
    assert!(named(&ended, "progress").len() >= 4);

    let report = ended.events.last().unwrap();
    assert_eq!(report["event"], "report");
    let operations = report["operations"].as_object().unwrap();
    for (name, least) in [
        ("connect", 6),
        ("submit", 6),
        ("match", 4),
        ("join", 4),
        ("leave", 4),
        ("chat", 20),
        ("say", 10),
        ("enter", 6),
        ("report", 100),
    ] {
        let done = operations
            .get(name)
            .unwrap_or_else(|| panic!("{name}: {report}"));
        let count = |key: &str| done[key].as_u64().unwrap();
        assert!(count("count") >= least, "{name}: {report}");
        let failed = done["failed"].as_object().unwrap();
        let failed: u64 = failed.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(
            count("started"),
            count("count") + failed + count("unfinished"),
            "{name}: {done}"
        );
        let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|key| done[key].as_f64().unwrap());
        assert!(p50 <= p99 && p99 <= max, "{name}: {done}");
    }
    assert_eq!(operations["connect"]["failed"], serde_json::json!({}));
    for name in ["chat", "say", "report"] {
        let heard = report["heard"][name]["count"].as_u64();
        assert!(heard.is_some_and(|heard| heard > 0), "{name}: {report}");
    }
    serve.terminate();
    assert_eq!(serve.ended().await.status, Some(0));
}

#[tokio::test]
async fn bots_look_in_parties_with_roles_and_tags() {
    let folder = Folder::new("bots-parties");
    let pool = "name = \"raid\"\nfill = \"1ms\"\n\
        teams = [{ name = \"side\", quantity = 2, min = 2, max = 2, roles = [{ name = \"healer\", \
        min = 1, max = 1 }, { name = \"fighter\", min = 1, max = 1 }] }]\n";
    let pool = folder.write("raid.toml", pool);
    let scenario = "bots = 4\nrate = 20\nduration = 8\nname = \"p\"\n[match]\npool = \"raid\"\nparty = 2\n\
        stay = 0.2\nroles = \"some-of(2, healer, fighter)\"\ntags = \"old\"\nquery = \"+tags:old\"\n";
    let scenario = folder.write("scenario.toml", scenario);
    let (_serve, url) = node_with(&["--pools", &pool]).await;
    let args = ["bots", "--server", &url, "--scenario", &scenario, "--json"];
    let ended = start(&args).ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    let report = ended.events.last().unwrap();
    let count = |name: &str| report["operations"][name]["count"].as_u64();
    assert!(
        count("party") >= Some(8),
        "no party has come together twice: {report}"
    );
    assert!(count("match") >= Some(8), "{report}");
    // One hands in the ticket of two.
    assert!(count("submit") < count("party"), "{report}");
}

#[tokio::test]
async fn bots_change_their_parties_fill_up_matches_and_lose_their_connections() {
    let folder = Folder::new("bots-more");
    let pool = "name = \"raid\"\nfill = \"1ms\"\n\
        teams = [{ name = \"side\", quantity = 2, min = 2, max = 4 }]\n";
    let pool = folder.write("raid.toml", pool);
    let scenario = "bots = 12\nrate = 2\nduration = 12\nname = \"m\"\n[match]\npool = \"raid\"\nparty = 2\n\
        stay = 3\nchange = 1\nbackfill = 1\n[reconnect]\nevery = 2\n";
    let scenario = folder.write("scenario.toml", scenario);
    let (_serve, url) = node_with(&["--pools", &pool]).await;
    let args = ["bots", "--server", &url, "--scenario", &scenario, "--json"];
    let ended = start(&args).ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    let report = ended.events.last().unwrap();
    let count = |name: &str| report["operations"][name]["count"].as_u64();
    for (name, least) in [
        ("change", 1),
        ("match", 8),
        ("backfill", 1),
        ("reconnect", 10),
    ] {
        assert!(count(name) >= Some(least), "{name}: {report}");
    }
    assert_eq!(count("session"), count("connect"), "{report}");
}

#[tokio::test]
async fn what_a_node_refuses_is_counted_by_its_code() {
    let (_serve, url) = node_with(&[]).await;
    let flags = ["--bots", "2", "--duration", "3", "--pool", "nowhere"];
    let more = ["--attribute", "skill=uniform(0, 9)", "--json"];
    let ended = start(&[&["bots", "--server", &url][..], &flags, &more].concat())
        .ended()
        .await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    let report = ended.events.last().unwrap();
    let submit = &report["operations"]["submit"];
    assert_eq!(submit["count"], 0, "{report}");
    assert!(
        submit["failed"]["no_such_pool"].as_u64() >= Some(2),
        "{report}"
    );
    let told = named(&ended, "failed");
    let users: BTreeSet<_> = told
        .iter()
        .map(|event| event["user"].as_str().unwrap())
        .collect();
    assert_eq!(users, ["bot-1", "bot-2"].into());
    assert!(told.iter().all(|event| event["operation"] == "submit"));
    assert!(told.iter().all(|event| event["code"] == "no_such_pool"));
}

#[tokio::test]
async fn a_scenario_that_is_wrong_and_a_node_that_is_not_there_are_failures() {
    let folder = Folder::new("bots-wrong");
    let scenario = folder.write("s.toml", "bots = 3\n[rooms]\ncount = 0\n");
    let nobody = "tombolo://127.0.0.1:9";
    for (more, says) in [
        (
            &["--scenario", scenario.as_str()][..],
            "line 3, rooms.count: from 1",
        ),
        (&[], "nothing to do"),
        (
            &["--rooms", "1", "--duration", "1"],
            "not one bot could connect",
        ),
    ] {
        let ended = start(&[&["bots", "--server", nobody][..], more].concat())
            .ended()
            .await;
        assert_eq!(ended.status, Some(1), "{says}");
        let reason = ended.complaints.lines().last().unwrap();
        assert!(reason.contains(says), "{}", ended.complaints);
    }
}

fn named<'a>(ended: &'a Ended, name: &str) -> Vec<&'a Value> {
    let events = ended.events.iter();
    events.filter(|event| event["event"] == name).collect()
}
