//! `tombolo cluster up`, and what operators do to a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::command::{Ended, Running, start};
use crate::folder::Folder;
use crate::operating::get;

/// The NATS server that `scripts/install-nats.sh` installs.
pub(crate) fn nats_server() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let path = target.join("nats/nats-server");
    if !path.is_file() {
        let installed = Command::new(root.join("scripts/install-nats.sh")).output();
        let said = installed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        assert!(path.is_file(), "there is no nats-server: {said:?}");
    }
    path
}

/// A cluster on loopback.
pub(crate) struct Cluster {
    running: Running,
    pub(crate) nodes: Vec<Value>,
    /// The URL of the first NATS server.
    nats: String,
    folder: PathBuf,
}

impl Cluster {
    pub(crate) async fn up(nodes: &str, nats: &str) -> Self {
        Self::up_with(nodes, nats, &[]).await
    }

    pub(crate) async fn up_with(nodes: &str, nats: &str, more: &[&str]) -> Self {
        let program = nats_server();
        let program = program.to_str().unwrap();
        let args = ["cluster", "up", "--json", "--nodes", nodes, "--nats", nats];
        let mut running = start(&[&args[..], &["--nats-server", program], more].concat());
        let mut known = Vec::new();
        for _ in 0..nodes.parse().unwrap() {
            known.push(running.event("node").await);
        }
        known.sort_by_key(|node| node["name"].as_str().unwrap().to_owned());
        let ready = running.event("ready").await;
        let urls: Vec<_> = known.iter().map(|node| node["url"].clone()).collect();
        assert_eq!(ready["urls"], json!(urls));
        assert_eq!(
            ready["nats"].as_array().unwrap().len(),
            nats.parse::<usize>().unwrap()
        );
        Self {
            running,
            nodes: known,
            nats: ready["nats"][0].as_str().unwrap().to_owned(),
            folder: ready["folder"].as_str().unwrap().into(),
        }
    }

    /// How a further node finds the others, and is heard by them.
    pub(crate) fn flags(&self) -> [String; 4] {
        let key = self.folder.join("seal.key");
        let key = key.to_str().unwrap().to_owned();
        [
            "--nats".into(),
            self.nats.clone(),
            "--nats-seal".into(),
            key,
        ]
    }

    pub(crate) fn url(&self, node: usize) -> &str {
        self.nodes[node]["url"].as_str().unwrap()
    }

    /// What a command to the cluster, over its first node, says.
    pub(crate) async fn operate(&self, command: &[&str]) -> Ended {
        let at = [
            "--json",
            "--admin",
            self.nodes[0]["admin"].as_str().unwrap(),
        ];
        start(&[command, &at].concat()).ended().await
    }

    async fn answer(&self, command: &[&str]) -> Value {
        let ended = self.operate(command).await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        ended.events.last().unwrap().clone()
    }

    /// Waits until a command's answer is as wished.
    pub(crate) async fn answer_when(
        &self,
        command: &[&str],
        is_wished: impl Fn(&Value) -> bool,
    ) -> Value {
        let begin = std::time::Instant::now();
        loop {
            let answer = self.answer(command).await;
            if is_wished(&answer) {
                return answer;
            }
            assert!(begin.elapsed().as_secs() < 60, "never so: {answer}");
        }
    }

    fn peer(&self, node: usize, token: &str) -> Running {
        let args = ["peer", "--server", self.url(node), "--token", token];
        start(&[&args[..], &["--room", "r", "--json", "--send-every", "100"]].concat())
    }

    /// A device that looks for a match.
    fn seeker(&self, node: usize, token: &str, more: &[&str]) -> Running {
        let args = [
            "match",
            "--server",
            self.url(node),
            "--token",
            token,
            "--json",
        ];
        let look = ["--pool", "duel", "--members", "2", "--duration", "60"];
        start(&[&args[..], &look, more].concat())
    }

    /// A device that stands in a field, and says its name.
    async fn stander(&self, node: usize, user: &str, at: &str) -> Running {
        let token = self.token(node, user).await;
        let server = ["field", "--server", self.url(node), "--token", &token];
        let stand = ["--field", "f", "--at", at, "--say", user, "--json"];
        start(&[&server[..], &stand].concat())
    }

    fn kill(&self, node: usize) {
        let pid = self.nodes[node]["pid"].to_string();
        let killed = Command::new("kill").args(["-s", "KILL", &pid]).status();
        assert!(killed.unwrap().success());
    }

    /// A token from one of the nodes.
    pub(crate) async fn token(&self, node: usize, user: &str) -> String {
        let args = ["token", "--server", self.url(node), "--user", user];
        let made = start(&args).ended().await;
        assert_eq!(made.status, Some(0), "{}", made.complaints);
        made.lines[0].clone()
    }

    pub(crate) async fn down(mut self) {
        let pids: Vec<_> = self.nodes.iter().map(|node| node["pid"].clone()).collect();
        self.running.terminate();
        let ended = self.running.ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        assert!(!self.folder.exists(), "what was made for it is taken away");
        for pid in pids {
            assert!(
                !Path::new(&format!("/proc/{pid}")).exists(),
                "{pid} is still there"
            );
        }
    }
}

pub(crate) fn names(answer: &Value, state: &str) -> Vec<String> {
    let nodes = answer["nodes"].as_array().unwrap().iter();
    let nodes = nodes.filter(|node| node["state"] == state);
    nodes
        .map(|node| node["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_cluster_whose_nodes_do_not_start_says_why_and_leaves_the_log() {
    let program = nats_server();
    let args = ["cluster", "up", "--nodes", "1", "--nats", "1"];
    let more = ["--pools", "/nonexistent", "--nats-server"];
    let ended = start(&[&args[..], &more, &[program.to_str().unwrap()]].concat())
        .ended()
        .await;
    assert_eq!(ended.status, Some(1), "{}", ended.complaints);
    let last = ended.complaints.lines().last().unwrap();
    assert!(last.contains("node-1 does not start"), "{last}");
    assert!(last.contains("/nonexistent"), "{last}");
    let told = ended.lines.iter().filter(|line| line.contains("ended ("));
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 2, "{:?}", ended.lines);
    assert!(
        told.iter().all(|line| line.contains("/nonexistent")),
        "{told:?}"
    );
    let log = Path::new(last.rsplit(": ").next().unwrap());
    assert!(
        std::fs::read_to_string(log)
            .unwrap()
            .contains("/nonexistent")
    );
    std::fs::remove_dir_all(log.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_folder_is_that_of_one_cluster_at_a_time() {
    let folder = Folder::new("cluster-data");
    let data = folder.path("data");
    let program = nats_server();
    let args = ["cluster", "up", "--json", "--nodes", "1", "--nats", "1"];
    let more = ["--data", &data, "--nats-server", program.to_str().unwrap()];
    let up = || start(&[&args[..], &more].concat());
    let mut first = up();
    first.event("ready").await;
    let second = up().ended().await;
    assert_eq!(second.status, Some(1), "{}", second.complaints);
    let reason = "another process uses the folder";
    assert!(second.complaints.contains(reason), "{}", second.complaints);
    first.terminate();
    assert_eq!(first.ended().await.status, Some(0));
    let mut third = up();
    third.event("ready").await;
    third.terminate();
    assert_eq!(third.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_cluster_serves_devices_on_any_node_and_tells_operators_of_them() {
    let cluster = Cluster::up("3", "3").await;
    let three = ["node-1", "node-2", "node-3"];
    cluster
        .answer_when(&["nodes"], |answer| names(answer, "alive") == three)
        .await;

    // A token of one node is good on the others.
    let mut alice = cluster.peer(0, &cluster.token(1, "alice").await);
    let mut bob = cluster.peer(1, &cluster.token(0, "bob").await);
    assert_eq!(alice.event("recv").await["user"], "bob");
    assert_eq!(bob.event("recv").await["user"], "alice");

    let users = cluster.answer(&["users"]).await;
    assert_eq!(
        (&users["event"], &users["total"]),
        (&json!("users"), &json!(2))
    );
    let places = users["items"].as_array().unwrap().iter();
    let places: Vec<_> = places.map(|user| (&user["user"], &user["node"])).collect();
    let expected = [
        (json!("alice"), json!("node-1")),
        (json!("bob"), json!("node-2")),
    ];
    assert_eq!(
        places,
        expected.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>()
    );
    let of_node = cluster.answer(&["users", "--node", "node-2"]).await;
    assert_eq!(
        (&of_node["total"], &of_node["items"][0]["user"]),
        (&json!(1), &json!("bob"))
    );
    let second = cluster
        .answer(&["users", "--skip", "1", "--count", "1"])
        .await;
    assert_eq!(second["items"][0]["user"], "bob");

    let rooms = cluster.answer(&["rooms"]).await;
    assert_eq!(
        rooms["items"],
        json!([{"room": "r", "members": 2, "members_max": 64, "nodes": ["node-1", "node-2"]}])
    );
    assert_eq!(rooms["total"], 1, "a room on two nodes is one");
    let of_node = cluster.answer(&["rooms", "--node", "node-2"]).await;
    assert_eq!(of_node["total"], 1);
    let unknown = cluster.operate(&["drain", "node-9"]).await;
    assert_eq!(unknown.status, Some(1));
    assert!(
        unknown.complaints.contains("node-9"),
        "{}",
        unknown.complaints
    );
    let asked = cluster.answer(&["rebalance"]).await;
    assert_eq!(asked["nodes"].as_array().unwrap().len(), 3, "{asked}");
    for peer in [&mut alice, &mut bob] {
        peer.terminate();
        assert_eq!(peer.ended().await.status, Some(0));
    }

    // The room has closed, and can be opened again: by a node that had it, and by one that had not.
    cluster
        .answer_when(&["rooms"], |answer| answer["items"] == json!([]))
        .await;
    let mut alice = cluster.peer(0, &cluster.token(0, "alice").await);
    let mut bob = cluster.peer(2, &cluster.token(0, "bob").await);
    assert_eq!(alice.event("recv").await["user"], "bob");
    assert_eq!(bob.event("recv").await["user"], "alice");

    // Six are on one node and one on another: half of the six go.
    let mut others = Vec::new();
    for user in ["carol", "dave", "erin", "frank", "grace"] {
        others.push(cluster.peer(0, &cluster.token(0, user).await));
    }
    let on_first = ["users", "--node", "node-1"];
    cluster
        .answer_when(&on_first, |answer| answer["total"] == 6)
        .await;
    // A node that is late on a busy machine asks nobody, or does not say that it has.
    let asked = ["rebalance"];
    let is_asked = |answer: &Value| answer["nodes"][0]["asked"] != 0;
    let is_done = |answer: &Value| answer["nodes"][0]["sessions"] != 6;
    let asked = cluster
        .answer_when(&asked, |answer| is_asked(answer) || is_done(answer))
        .await;
    if is_asked(&asked) {
        let of_first = json!({"node": "node-1", "sessions": 6, "asked": 3});
        assert_eq!(asked["nodes"][0], of_first, "{asked}");
    }
    cluster
        .answer_when(&on_first, |answer| answer["total"] == 3)
        .await;
    let users = cluster.answer(&["users"]).await;
    assert_eq!(users["total"], 7, "nobody is lost: {users}");
    cluster.down().await;
}

#[tokio::test]
async fn devices_on_any_node_find_a_match_and_go_on_doing_so_when_a_node_is_killed() {
    let folder = Folder::new("cluster-pools");
    let rules = "name = \"duel\"\nplayers = { min = 2, max = 2 }\nready = \"20s\"\n\
        rules = [{ kind = \"distance\", attribute = \"skill\", max = 50 }]\n";
    let pools = folder.write("duel.toml", rules);
    let cluster = Cluster::up_with("3", "1", &["--pools", &pools]).await;
    cluster
        .answer_when(&["nodes"], |answer| names(answer, "alive").len() == 3)
        .await;
    meet(&cluster, [("alice", 0, "100"), ("bob", 1, "120")]).await;

    // Whoever is the matcher, it is one of three: a ticket waits while two of them die, one by one.
    let token = cluster.token(2, "eve").await;
    let mut eve = cluster.seeker(2, &token, &["--accept", "--attribute", "skill=900"]);
    eve.event("waits").await;
    for node in [0, 1] {
        let pid = cluster.nodes[node]["pid"].as_u64().unwrap().to_string();
        let killed = Command::new("kill").args(["-9", &pid]).status();
        assert!(killed.unwrap().success());
        let users = [
            (["carol", "erin"][node], 2, "300"),
            (["dave", "frank"][node], 2, "310"),
        ];
        meet(&cluster, users).await;
    }
    let token = cluster.token(2, "grace").await;
    let mut grace = cluster.seeker(2, &token, &["--accept", "--attribute", "skill=890"]);
    let room = grace.event("found").await["room"].clone();
    assert_eq!(eve.event("found").await["room"], room);
    for seeker in [&mut eve, &mut grace] {
        assert_eq!(seeker.ended().await.status, Some(0));
    }
    cluster.down().await;
}

#[tokio::test]
async fn devices_see_each_other_across_nodes_and_hear_the_difference_only_when_theirs_is_killed() {
    let mut cluster = Cluster::up("3", "1").await;
    cluster
        .answer_when(&["nodes"], |answer| names(answer, "alive").len() == 3)
        .await;
    // Cells meet at 0.
    let mut west = cluster.stander(0, "west", "-1,-1").await;
    let mut east = cluster.stander(1, "east", "1,1").await;
    let east_seen = west.event("entered").await;
    let west_seen = east.event("entered").await;
    assert_eq!(
        (&east_seen["text"], &west_seen["text"]),
        (&json!("east"), &json!("west"))
    );
    cluster.kill(0);
    let mut north = cluster.stander(2, "north", "0,5").await;
    let mut seen = [north.event("entered").await, north.event("entered").await];
    seen.sort_by_key(|seen| seen["text"].as_str().unwrap().to_owned());
    assert_eq!(
        (&seen[0]["entity"], &seen[1]["entity"]),
        (&east_seen["entity"], &west_seen["entity"]),
        "west is who it was"
    );
    for stander in [&mut west, &mut east] {
        assert_eq!(stander.event("entered").await["text"], "north");
    }
    let again = cluster.running.event("node").await;
    assert_eq!(again["url"], cluster.nodes[0]["url"]);
    west.terminate();
    let summary = west.event("summary").await;
    assert_eq!(
        (&summary["entered"], &summary["left"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(west.ended().await.status, Some(0));
    assert_eq!(east.event("left").await["entity"], west_seen["entity"]);
    for mut stander in [east, north] {
        stander.terminate();
        assert_eq!(stander.ended().await.status, Some(0));
    }
    cluster.down().await;
}

/// Two users look for a match, and meet in its room.
async fn meet(cluster: &Cluster, users: [(&str, usize, &str); 2]) {
    let mut seekers = Vec::new();
    for (user, node, skill) in users {
        let token = cluster.token(2, user).await;
        let skill = format!("skill={skill}");
        seekers.push(cluster.seeker(node, &token, &["--accept", "--attribute", &skill]));
    }
    let mut rooms = Vec::new();
    for seeker in &mut seekers {
        let found = seeker.event("found").await;
        assert_eq!(found["teams"][0]["members"].as_array().unwrap().len(), 2);
        rooms.push(found["room"].clone());
        let members = seeker.event("members").await;
        let both = json!([users[0].0, users[1].0]);
        assert_eq!(members["members"], both, "in order of their names");
        let ended = seeker.ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    }
    assert_eq!(rooms[0], rooms[1]);
}

#[tokio::test]
async fn a_drain_ends_when_nobody_is_left_and_says_who_is() {
    let cluster = Cluster::up("3", "1").await;
    cluster
        .answer_when(&["nodes"], |answer| names(answer, "alive").len() == 3)
        .await;
    let drain = cluster
        .operate(&["drain", "node-3", "--timeout", "60"])
        .await;
    assert_eq!(drain.status, Some(0), "{}", drain.complaints);
    let over = drain.events.last().unwrap();
    assert_eq!(
        (&over["event"], &over["node"]),
        (&json!("drained"), &json!("node-3"))
    );
    assert_eq!(
        (&over["moved"], &over["sessions_left"]),
        (&json!(0), &json!(0)),
        "{over}"
    );
    let mut progress = drain
        .events
        .iter()
        .filter(|event| event["event"] == "drain");
    let last = progress.next_back().unwrap();
    assert_eq!(
        (&last["sessions"], &last["over"]),
        (&json!(0), &json!(true))
    );
    cluster
        .answer_when(&["nodes"], |answer| names(answer, "gone") == ["node-3"])
        .await;

    // A device that does not listen does not go.
    let mut alice = cluster.peer(1, &cluster.token(1, "alice").await);
    assert_eq!(alice.event("session").await["node"], "node-2");
    alice.event("joined").await;
    alice.signal("STOP");
    let drain = cluster
        .operate(&["drain", "node-2", "--timeout", "1"])
        .await;
    assert_eq!(drain.status, Some(1));
    let says = "1 session and 1 allocation were left";
    assert!(drain.complaints.contains(says), "{}", drain.complaints);
    let over = drain.events.last().unwrap();
    let left = (&over["sessions_left"], &over["allocations_left"]);
    assert_eq!(left, (&json!(1), &json!(1)), "{over}");
    cluster.down().await;
}

#[tokio::test]
async fn a_terminated_node_drains_and_says_who_was_left() {
    let mut cluster = Cluster::up("1", "1").await;
    let flags = cluster.flags();
    let args = [
        "serve",
        "--dev",
        "--json",
        "--name",
        "extra",
        "--listen",
        "127.0.0.1",
        "--port",
        "0",
        "--turn-port",
        "0",
        "--turns-port",
        "0",
        "--drain-timeout",
        "1",
    ];
    let flags = flags.each_ref().map(String::as_str);
    let mut extra = start(&[&args[..], &flags].concat());
    cluster.nodes.push(extra.event("ready").await);
    cluster
        .answer_when(&["nodes"], |answer| names(answer, "alive").len() == 2)
        .await;
    let mut alice = cluster.peer(1, &cluster.token(1, "alice").await);
    alice.event("joined").await;
    alice.signal("STOP");
    extra.terminate();
    let ended = extra.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    assert!(
        ended.complaints.contains("sessions_left=1"),
        "{}",
        ended.complaints
    );
    cluster.nodes.pop();
    cluster
        .answer_when(&["nodes"], |answer| names(answer, "gone") == ["extra"])
        .await;
    cluster.down().await;
}

#[tokio::test]
async fn a_node_whose_name_another_one_has_is_not_ready_and_says_why() {
    let cluster = Cluster::up("1", "1").await;
    let ports = ["--port", "0", "--turn-port", "0", "--turns-port", "0"];
    let name = ["--name", "node-1", "--listen", "127.0.0.1"];
    let more = ["--metrics", "127.0.0.1:0", "--json"];
    let flags = cluster.flags();
    let flags = flags.each_ref().map(String::as_str);
    let all = [&["serve", "--dev"], &ports[..], &name, &more, &flags];
    let mut second = start(&all.concat());
    let ready = second.event("ready").await;
    let taken = "another process lives under th";
    second.complains(taken).await;
    let metrics = ready["metrics"].as_str().unwrap().parse().unwrap();
    // Long enough for many of the other's heartbeats.
    for _ in 0..5 {
        let (head, body) = get(metrics, "/readyz");
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(
            body.contains("another process lives under its name"),
            "{body}"
        );
    }
    second.signal("INT");
    let ended = second.ended().await;
    assert_eq!(
        ended.complaints.matches(taken).count(),
        1,
        "{}",
        ended.complaints
    );
    cluster.down().await;
}

#[tokio::test]
async fn a_node_that_is_killed_is_started_again_under_its_name() {
    let mut cluster = Cluster::up("2", "1").await;
    let pid = cluster.nodes[1]["pid"].to_string();
    let killed = Command::new("kill").args(["-s", "KILL", &pid]).status();
    assert!(killed.unwrap().success());
    let ended = cluster.running.event("ended").await;
    assert_eq!(
        (&ended["name"], ended["pid"].to_string()),
        (&json!("node-2"), pid)
    );
    assert!(
        ended["how"].as_str().unwrap().contains("SIGKILL"),
        "{ended}"
    );
    let again = cluster.running.event("node").await;
    assert_eq!(again["name"], "node-2");
    assert_ne!(again["pid"], ended["pid"]);
    cluster.nodes[1] = again;
    let token = cluster.token(1, "alice").await;
    let mut alice = cluster.peer(1, &token);
    assert_eq!(alice.event("joined").await["members"], json!(["alice"]));
    alice.terminate();
    assert_eq!(alice.ended().await.status, Some(0));
    cluster.down().await;
}

#[tokio::test]
async fn without_a_nats_server_it_is_said_how_to_get_one() {
    let args = ["cluster", "up", "--nats-server", "/nonexistent/nats-server"];
    let ended = start(&args).ended().await;
    assert_eq!(ended.status, Some(1));
    assert!(
        ended.complaints.contains("/nonexistent/nats-server"),
        "{}",
        ended.complaints
    );
}
