//! What reaches users wherever they are, on nodes as operators run them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use tombolo_client::{
    Device, Group, GroupEvent, GroupSettings, Inbox, InboxEvent, Notification, Notifications,
    PresenceStatus, UserId,
};

use crate::api::{Server, key};
use crate::cluster::{Cluster, names};
use crate::command::start;
use crate::folder::Folder;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn servers_and_operators_tell_users_something_once() {
    let folder = Folder::new("social-notices");
    let admin = folder.path("admin.sock");
    let (key, table) = key("news", &["notices:send"], "").await;
    let server = Server::start(&folder, "north", &key, &table, &["--admin", &admin]).await;
    let url = server.ready["url"].as_str().unwrap();
    let bob = device(url, "bob").await;
    let mut his = bob.notifications(BTreeMap::new()).await.unwrap();

    let notice = json!({"to": "all", "text": "hello", "lasts_s": 600}).to_string();
    let headers = [
        &format!("Authorization: Bearer {key}") as &str,
        "Idempotency-Key: one",
    ];
    let told = json!({"number": 1, "repeated": false});
    for _ in 0..2 {
        let answer = server.ask_with("POST", "/v1/notices", &headers, &notice);
        assert_eq!(answer, (200, told.clone()), "it is told once");
    }
    let other = json!({"to": "all", "text": "other"}).to_string();
    let (status, refused) = server.ask_with("POST", "/v1/notices", &headers, &other);
    assert_eq!(
        (status, &refused["code"]),
        (422, &json!("idempotency_key_used"))
    );
    for (body, status, code) in [
        (json!({"to": "a b", "text": "x"}), 400, "bad_name"),
        (json!({"to": "all"}), 400, "bad_request"),
        (json!({"to": "all", "base64": "?"}), 400, "bad_request"),
        (
            json!({"to": "all", "text": "x".repeat(17_000)}),
            413,
            "too_large",
        ),
    ] {
        let (answer, refused) = server.ask("POST", "/v1/notices", &body);
        assert_eq!(
            (answer, &refused["code"]),
            (status, &json!(code)),
            "{refused}"
        );
    }
    let notify = ["notify", "again", "--json", "--admin", &admin];
    let notified = start(&notify).ended().await;
    assert_eq!(notified.status, Some(0), "{}", notified.complaints);
    assert_eq!(notified.events[0]["event"], "notified");
    assert_eq!(notified.events[0]["number"], 2);

    assert_eq!(next_notice(&mut his).await, "1 hello");
    assert_eq!(next_notice(&mut his).await, "2 again");
    // Who comes later is told what has not expired.
    let carol = device(url, "carol").await;
    let mut hers = carol.notifications(BTreeMap::new()).await.unwrap();
    assert_eq!(next_notice(&mut hers).await, "1 hello");
    assert_eq!(next_notice(&mut hers).await, "2 again");
    bob.close().await;
    carol.close().await;
}

#[tokio::test]
async fn servers_and_operators_list_groups_and_end_them() {
    let folder = Folder::new("social-groups");
    let admin = folder.path("admin.sock");
    let (key, table) = key("guard", &["groups:read", "groups:end"], "").await;
    let server = Server::start(&folder, "north", &key, &table, &["--admin", &admin]).await;
    let alice = device(server.ready["url"].as_str().unwrap(), "alice").await;
    let (groups, settings) = (alice.groups(), GroupSettings::default());
    for name in ["guild", "party"] {
        let group = groups.create(name, &settings).await.unwrap();
        group.post("x").await.unwrap();
    }
    let mut guild = groups.open("guild", None).await.unwrap();

    let get = |path: &str| server.ask("GET", path, &Value::Null);
    let owned = |name: &str| json!({"group": name, "owner": "alice"});
    for (path, groups, more) in [
        ("/v1/groups", json!([owned("guild"), owned("party")]), false),
        ("/v1/groups?limit=1", json!([owned("guild")]), true),
        ("/v1/groups?after=guild", json!([owned("party")]), false),
        (
            "/v1/groups?owner=alice&limit=1",
            json!([owned("guild")]),
            true,
        ),
        ("/v1/groups?owner=bob", json!([]), false),
    ] {
        let listed = json!({"groups": groups, "more": more});
        assert_eq!(get(path), (200, listed), "{path}");
    }
    let (status, shown) = get("/v1/groups/guild");
    assert_eq!(status, 200, "{shown}");
    for (key, value) in [
        ("owner", json!("alice")),
        ("members_about", json!(1)),
        ("posts", json!(1)),
    ] {
        assert_eq!(shown[key], value, "{shown}");
    }
    for (path, status, code) in [
        ("/v1/groups/none", 404, "no_such_group"),
        ("/v1/groups/a%20b", 400, "bad_name"),
        ("/v1/groups?owner=a%20b", 400, "bad_name"),
        ("/v1/groups?names=1", 400, "bad_request"),
    ] {
        let (answer, refused) = get(path);
        assert_eq!((answer, &refused["code"]), (status, &json!(code)), "{path}");
    }

    let headers = [
        &format!("Authorization: Bearer {key}") as &str,
        "Idempotency-Key: one",
    ];
    for _ in 0..2 {
        let answer = server.ask_with("DELETE", "/v1/groups/guild", &headers, "");
        assert_eq!(answer, (200, json!({})), "it ends once");
    }
    loop {
        match soon(guild.next_event()).await.unwrap() {
            Some(GroupEvent::Message(_)) => {}
            Some(GroupEvent::Over { .. }) => break,
            other => panic!("its end is waited for, not {other:?}"),
        }
    }
    assert_eq!(get("/v1/groups/guild").0, 404);

    let operate = async |args: &[&str]| {
        let args = [args, &["--json", "--admin", &admin]].concat();
        start(&args).ended().await
    };
    let listed = operate(&["all-groups"]).await;
    assert_eq!(listed.events[0]["groups"], json!([owned("party")]));
    let shown = operate(&["all-groups", "party"]).await;
    assert_eq!(shown.events[0]["posts"], 1);
    let ended = operate(&["end-group", "party"]).await;
    assert_eq!(
        ended.events[0]["event"], "group_ended",
        "{}",
        ended.complaints
    );
    let gone = operate(&["end-group", "party"]).await;
    assert_eq!(gone.status, Some(1));
    assert!(
        gone.complaints.contains("no such group"),
        "{}",
        gone.complaints
    );
    let listed = operate(&["all-groups"]).await;
    assert_eq!(listed.events[0]["groups"], json!([]));
    alice.close().await;
}

#[tokio::test]
async fn users_reach_each_other_over_three_nodes_of_which_one_is_killed() {
    let cluster = Cluster::up("3", "3").await;
    cluster
        .answer_when(&["nodes"], |answer| names(answer, "alive").len() == 3)
        .await;
    let admin = cluster.nodes[0]["admin"].as_str().unwrap();
    let mut watch = start(&["users", "--watch", "--json", "--admin", admin]);
    watch.event("watching").await;
    let mut devices = Vec::new();
    for (node, user) in ["alice", "bob", "carol"].into_iter().enumerate() {
        devices.push(device(cluster.url(node), user).await);
        let came = watch.event("user").await;
        assert_eq!(
            (&came["what"], &came["user"]),
            (&json!("came"), &json!(user))
        );
        assert_eq!(came["node"], cluster.nodes[node]["name"]);
    }
    let [alice, bob, carol] = devices.as_slice() else {
        panic!("there are three");
    };
    // To others a user is there once it has opened its inbox.
    drop(bob.inbox(None).await.unwrap());
    let mut inbox = carol.inbox(None).await.unwrap();
    let (groups, settings) = (alice.groups(), GroupSettings::default());
    let guild = groups.create("guild", &settings).await.unwrap();
    let mut groups = Vec::new();
    for device in [bob, carol] {
        guild.add(&device.session().user).await.unwrap();
        groups.push(device.groups().open("guild", None).await.unwrap());
    }
    let mut notices = carol.notifications(BTreeMap::new()).await.unwrap();
    let mut presence = alice.presence().watch().unwrap();
    presence.follow([user("bob"), user("carol")]).await.unwrap();

    let to_carol = alice.direct(&user("carol"));
    let tell = |text: &'static str| {
        let (to_carol, guild, cluster) = (&to_carol, &guild, &cluster);
        async move {
            to_carol.send(text).await.unwrap();
            guild.post(text).await.unwrap();
            let notified = cluster.operate(&["notify", text]).await;
            assert_eq!(notified.status, Some(0), "{}", notified.complaints);
        }
    };
    tell("before").await;
    assert_eq!(next_letter(&mut inbox).await, "1 before");
    for group in &mut groups {
        assert_eq!(next_post(group).await, "1 before");
    }
    assert_eq!(next_notice(&mut notices).await, "1 before");

    let pid = cluster.nodes[2]["pid"].as_u64().unwrap().to_string();
    let killed = Command::new("kill").args(["-9", &pid]).status();
    assert!(killed.unwrap().success());
    tell("after").await;
    assert_eq!(next_letter(&mut inbox).await, "2 after");
    for group in &mut groups {
        assert_eq!(next_post(group).await, "2 after");
    }
    assert_eq!(next_notice(&mut notices).await, "2 after");
    // She goes on over another node, and to those who follow her she was never offline.
    let came = loop {
        let event = watch.event("user").await;
        if event["user"] == "carol" && event["what"] == "came" {
            break event;
        }
    };
    assert_ne!(came["node"], cluster.nodes[2]["name"]);
    for user in [user("bob"), user("carol")] {
        assert_eq!(presence.statuses()[&user], PresenceStatus::Online);
    }
    let url = cluster.url(0);
    let list = ["groups", "--server", url, "--user", "carol", "--json"];
    let listed = start(&list).ended().await;
    assert_eq!(listed.status, Some(0), "{}", listed.complaints);
    let listed = &listed.events[0];
    assert_eq!(
        (&listed["name"], &listed["role"]),
        (&json!("guild"), &json!("member"))
    );
    watch.terminate();
    watch.ended().await;
    for device in devices {
        device.close().await;
    }
    cluster.down().await;
}

async fn device(url: &str, user: &str) -> Device {
    let device = Device::builder(url).development_user(user).connect();
    soon(device).await.unwrap()
}

async fn next_letter(inbox: &mut Inbox) -> String {
    match soon(inbox.next_event()).await.unwrap() {
        Some(InboxEvent::Message(message)) => told(message.number, &message.payload),
        other => panic!("a message is waited for, not {other:?}"),
    }
}

async fn next_post(group: &mut Group) -> String {
    match soon(group.next_event()).await.unwrap() {
        Some(GroupEvent::Message(message)) => told(message.number, &message.payload),
        other => panic!("a post is waited for, not {other:?}"),
    }
}

async fn next_notice(notices: &mut Notifications) -> String {
    match soon(notices.next()).await.unwrap() {
        Some(Notification::Notice(notice)) => told(notice.number, &notice.payload),
        other => panic!("a notice is waited for, not {other:?}"),
    }
}

fn told(number: u64, payload: &[u8]) -> String {
    format!("{number} {}", String::from_utf8_lossy(payload))
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("this should have happened by now")
}
