//! What operators see of pools, and pools in a node's file.

use serde_json::{Value, json};

use crate::api::{Server, key};
use crate::command::start;
use crate::folder::Folder;

#[tokio::test]
async fn a_party_looks_together_and_its_match_takes_others_in_while_it_runs() {
    let folder = Folder::new("parties");
    let (secret, table) = key("ops", &["pools:read"], "").await;
    let pool = "[[pool]]\nname = \"teams\"\nfill = \"1ms\"\n\
        teams = [{ name = \"many\", min = 2, max = 2 }, { name = \"few\", min = 1, max = 2 }]\n\
        [[pool.rules]]\nkind = \"distance\"\nattribute = \"skill\"\nmax = 50\n";
    let tables = [&table, pool].concat();
    let server = Server::start(&folder, "one", &secret, &tables, &[]).await;
    let url = server.ready["url"].as_str().unwrap().to_owned();
    let seeker = |user: &str, more: &[&str]| {
        let args = ["match", "--server", &url, "--user", user, "--pool", "teams"];
        let skill = ["--attribute", "skill=100"];
        start(&[&args[..], &skill, &["--json"], more].concat())
    };
    let stays = ["--members", "3", "--backfill", "300"];
    let party = [&["--party", "party-1"][..], &stays].concat();
    let mut first = vec![
        seeker("alice", &party),
        seeker("bob", &party),
        seeker("carol", &stays),
    ];
    for seeker in &mut first {
        let found = seeker.event("found").await;
        let many = &found["teams"][0]["members"];
        let users = many.as_array().unwrap().iter();
        let mut users: Vec<_> = users
            .map(|member| member["user"].as_str().unwrap())
            .collect();
        users.sort_unstable();
        assert_eq!(users, ["alice", "bob"], "{found}");
        assert_eq!(found["running"], false);
    }
    // All are linked, each with both others, and nobody has begun that.
    for seeker in &mut first {
        let mut linked = std::collections::BTreeSet::new();
        while linked.len() < 2 {
            let link = seeker.event("peer").await;
            if link["state"] != "connecting" {
                linked.insert(link["user"].to_string());
            }
        }
    }
    let found = seeker("dave", &[]).event("found").await;
    assert_eq!(found["running"], true, "{found}");
    let mut generations = Vec::new();
    for mut seeker in first {
        seeker.signal("INT");
        let ended = seeker.ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        let told = ended
            .events
            .iter()
            .filter(|event| event["event"] == "backfill");
        generations.extend(told.map(|event| event["generation"].clone()));
    }
    assert_eq!(generations[0], 1, "{generations:?}");
}

#[tokio::test]
async fn whoever_comes_into_a_partys_room_while_it_looks_is_in_its_ticket() {
    let folder = Folder::new("growing");
    let (secret, table) = key("ops", &["pools:read"], "").await;
    let pool = "[[pool]]\nname = \"trio\"\nplayers = { min = 3, max = 3 }\n";
    let tables = [&table, pool].concat();
    let server = Server::start(&folder, "one", &secret, &tables, &[]).await;
    let url = server.ready["url"].as_str().unwrap().to_owned();
    let seeker = |user: &str| {
        let args = ["match", "--server", &url, "--user", user, "--pool", "trio"];
        start(&[&args[..], &["--party", "party-1", "--json"]].concat())
    };
    let mut alice = seeker("alice");
    alice.event("session").await;
    let mut bob = seeker("bob");
    // Two are enough for a ticket, and too few for a match.
    alice.event("waits").await;
    let mut carol = seeker("carol");
    for seeker in [&mut alice, &mut bob, &mut carol] {
        let found = seeker.event("found").await;
        let members = &found["teams"][0]["members"];
        assert_eq!(members.as_array().unwrap().len(), 3, "{found}");
        assert_eq!(seeker.ended().await.status, Some(0));
    }
}

#[tokio::test]
async fn whoever_leaves_a_running_match_leaves_its_place_to_another() {
    let folder = Folder::new("leaving");
    let pool = "name = \"sides\"\nfill = \"1ms\"\n\
        teams = [{ name = \"side\", quantity = 2, min = 1, max = 2 }]\n";
    let server = server(&folder, pool).await;
    let url = server.ready["url"].as_str().unwrap().to_owned();
    let seeker = |user: &str| {
        let args = ["match", "--server", &url, "--user", user, "--pool", "sides"];
        start(&[&args[..], &["--backfill", "300", "--json"]].concat())
    };
    let mut first = [seeker("alice"), seeker("bob")];
    for seeker in &mut first {
        assert_eq!(seeker.event("found").await["running"], false);
    }
    // Twice: once there is place for another still, and once there is none.
    let mut more = Vec::new();
    for users in [&["carol"][..], &["dave", "erin"], &["frank"]] {
        let mut joined = Vec::new();
        for user in users {
            let mut seeker = seeker(user);
            assert_eq!(seeker.event("found").await["running"], true, "{user}");
            seeker.event("members").await;
            joined.push(seeker);
        }
        let mut leaves = joined.pop().unwrap();
        more.extend(joined);
        leaves.signal("INT");
        assert_eq!(leaves.ended().await.status, Some(0));
    }
}

#[tokio::test]
async fn a_party_that_is_too_large_for_the_pool_says_so_once_and_looks_on_as_it_was() {
    let folder = Folder::new("too-large");
    let pool = "name = \"pairs\"\nteams = [{ name = \"side\", quantity = 2, min = 2, max = 2 }]\n";
    let server = server(&folder, pool).await;
    let url = server.ready["url"].as_str().unwrap().to_owned();
    let seeker = |user: &str| {
        let args = ["match", "--server", &url, "--user", user, "--pool", "pairs"];
        start(&[&args[..], &["--party", "party-1", "--json"]].concat())
    };
    let mut seekers = vec![seeker("alice")];
    seekers[0].event("session").await;
    seekers.push(seeker("bob"));
    seekers[0].event("waits").await;
    for user in ["carol", "dave"] {
        seekers.push(seeker(user));
    }
    let refused = seekers[0].event("refused").await;
    assert_eq!(refused["code"], "bad_ticket", "{refused}");
    assert!(!refused["reason"].as_str().unwrap().is_empty());
    seekers[0].signal("INT");
    let ended = seekers[0].ended().await;
    let told = ended.events.iter();
    let again = told.filter(|event| event["event"] == "refused");
    assert_eq!(again.count(), 1, "{:?}", ended.events);
}

#[tokio::test]
async fn operators_see_who_waits_in_a_pool_of_the_nodes_file_and_why() {
    let folder = Folder::new("pools");
    let admin = folder.path("node.sock");
    let (secret, table) = key("ops", &["pools:read"], "").await;
    let (other, other_table) = key("other", &["rooms:read"], "").await;
    let pool = "[[pool]]\nname = \"duel\"\nplayers = { min = 2, max = 2 }\n\
        [[pool.rules]]\nkind = \"distance\"\nattribute = \"skill\"\nmax = 50\n\
        relax = { every = 3600, by = 1000, limit = 1050 }\n";
    let tables = [table, other_table, pool.to_owned()].concat();
    let server = Server::start(&folder, "one", &secret, &tables, &["--admin", &admin]).await;
    let url = server.ready["url"].as_str().unwrap().to_owned();
    let mut seekers = Vec::new();
    for (user, skill) in [("alice", "skill=100"), ("bob", "skill=900")] {
        let args = ["match", "--server", &url, "--user", user, "--pool", "duel"];
        let mut seeker = start(
            &[
                &args[..],
                &["--attribute", skill, "--why-every", "0.2", "--json"],
            ]
            .concat(),
        );
        seeker.event("waits").await;
        seekers.push(seeker);
    }
    // Whoever asks hears which rule has to widen.
    let seeker = seekers.last_mut().unwrap();
    let why = loop {
        let why = seeker.event("why").await;
        if why["looked_at"] == 1 {
            break why;
        }
    };
    assert!(why["relaxed_after_s"].as_f64() > Some(3000.0), "{why}");
    assert_eq!(why["relaxed"], why["nearest"], "{why}");

    // Tickets wait before it is known who is the matcher.
    let answer = loop {
        let (status, answer) = server.ask("GET", "/v1/pools/duel", &Value::Null);
        assert_eq!(status, 200, "{answer}");
        if !answer["matcher"].is_null() {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    let told =
        ["pool", "matcher", "tickets", "waiting", "asked", "running"].map(|key| &answer[key]);
    let whole = [
        &json!("duel"),
        &json!("one"),
        &json!(2),
        &json!(2),
        &json!(0),
        &json!(0),
    ];
    assert_eq!(told, whole, "{answer}");
    assert!(answer["longest_wait_s"].is_f64() && answer["bytes"].as_u64() > Some(50));
    let why = json!({
        "tickets": 2,
        "obstacles": [{ "what": "rule:distance", "count": 2, "alone": 2 }],
    });
    let what = answer["why"]["obstacles"][0]["what"].as_str().unwrap();
    assert!(what.starts_with("rule:"), "{answer}");
    assert_eq!(answer["why"]["tickets"], why["tickets"]);
    assert_eq!(
        answer["why"]["obstacles"][0]["alone"],
        why["obstacles"][0]["alone"]
    );

    let operate = ["pools", "--admin", &admin, "--json"];
    let listed = start(&operate).ended().await;
    assert_eq!(listed.status, Some(0), "{}", listed.complaints);
    let listed = &listed.events[0];
    assert_eq!(listed["event"], "pools");
    assert_eq!(listed["pools"][0]["rules"], answer["rules"]);
    assert!(listed["pools"][0].get("why").is_none(), "{listed}");
    let (_, all) = server.ask("GET", "/v1/pools", &Value::Null);
    assert_eq!(all["pools"][0]["waiting"], listed["pools"][0]["waiting"]);
    let named = start(&[&operate[..], &["duel"]].concat()).ended().await;
    let named = &named.events[0]["pools"][0];
    for part in ["tickets", "obstacles", "relaxed"] {
        assert_eq!(named["why"][part], answer["why"][part]);
    }
    assert_eq!(answer["why"]["relaxed"], json!([what]));
    assert!(
        answer["why"]["relaxed_after_s"].as_f64() > Some(3000.0),
        "{answer}"
    );

    for name in ["nothing", "no/pool"] {
        let none = start(&[&operate[..], &[name]].concat()).ended().await;
        assert_eq!(none.status, Some(1), "{name}");
    }
    let (status, none) = server.ask("GET", "/v1/pools/nothing", &Value::Null);
    assert_eq!((status, &none["code"]), (404, &json!("no_such_pool")));
    let without = Server {
        key: other,
        ..server
    };
    let (status, refused) = without.ask("GET", "/v1/pools", &Value::Null);
    assert_eq!((status, &refused["code"]), (403, &json!("scope")));

    for seeker in &mut seekers {
        seeker.signal("INT");
        let ended = seeker.ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    }
}

/// A node with one pool.
pub(crate) async fn server(folder: &Folder, pool: &str) -> Server {
    let (secret, table) = key("ops", &["pools:read"], "").await;
    let tables = format!("{table}[[pool]]\n{pool}");
    Server::start(folder, "one", &secret, &tables, &[]).await
}
