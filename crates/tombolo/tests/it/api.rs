//! The HTTP API for game servers, on nodes as operators run them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::command::{Running, start};
use crate::folder::Folder;
use crate::operating::certificate;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const ALL: [&str; 7] = [
    "rooms:read",
    "messages:read",
    "rooms:create",
    "rooms:send",
    "rooms:set",
    "rooms:kick",
    "fields:put",
];

/// A node, and a key of its API.
pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) ready: Value,
    pub(crate) root: CertificateDer<'static>,
    pub(crate) key: String,
}

/// A key, and what a node's file says of it.
pub(crate) async fn key(name: &str, scopes: &[&str], more: &str) -> (String, String) {
    let mut args = vec!["api-key", "--json", "--name", name];
    args.extend(scopes.iter().flat_map(|scope| ["--scope", scope]));
    let made = start(&args).ended().await;
    assert_eq!(made.status, Some(0), "{}", made.complaints);
    let made = &made.events[0];
    let table = format!(
        "[[api-key]]\nname = '{name}'\nsha256 = {}\nscopes = {}\n{more}\n",
        made["sha256"], made["scopes"]
    );
    (made["key"].as_str().unwrap().to_owned(), table)
}

impl Server {
    pub(crate) async fn start(
        folder: &Folder,
        name: &str,
        key: &str,
        table: &str,
        nats: &[&str],
    ) -> Self {
        let root = certificate(folder);
        let config = format!(
            "name = '{name}'\nlisten = ['127.0.0.1']\nport = 0\nturn-port = 0\nturns-port = 0\n\
             [tls]\ncertificate = 'cert.pem'\nkey = 'key.pem'\npin = true\n{table}\
             [relay.peers]\nallow = ['127.0.0.0/8']\n"
        );
        let config = folder.write("node.toml", &config);
        let args = ["serve", "--json", "--dev", "--config", &config];
        let mut running = start(&[&args[..], nats].concat());
        let ready = running.event("ready").await;
        Self {
            running,
            ready,
            root,
            key: key.to_owned(),
        }
    }

    /// Status and body of the answer to a request with the key.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let authorization = format!("Authorization: Bearer {}", self.key);
        self.ask_with(method, path, &[&authorization], &body.to_string())
    }

    /// A server that closes before it has read all may take its answer back with that (RFC 9112 §9.6):
    /// then it is asked again.
    pub(crate) fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> (u16, Value) {
        let mut answers = (0..100).map(|_| self.try_ask(method, path, headers, body));
        let answer = answers.find(|answer| !answer.is_empty());
        let answer = answer.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn try_ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> String {
        let http = self.ready["http"].as_str().unwrap();
        let address: SocketAddr = http.strip_prefix("https://").unwrap().parse().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(address.ip());
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        for header in headers {
            request += &format!("{header}\r\n");
        }
        // Whoever is refused may be so before all of it was sent.
        let _ = stream.write_all(format!("{request}\r\n{body}").as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// A device that stands in a field, and tells what moves.
    fn stander(&self, user: &str) -> Running {
        let url = self.ready["url"].as_str().unwrap();
        let args = ["field", "--server", url, "--user", user, "--field", "plaza"];
        start(&[&args[..], &["--json", "--moves"]].concat())
    }

    fn peer(&self, user: &str, room: &str) -> Running {
        let url = self.ready["url"].as_str().unwrap();
        let args = ["peer", "--server", url, "--user", user, "--room", room];
        start(&[&args[..], &["--json", "--watch"]].concat())
    }
}

/// Waits for what a room tells.
async fn told(peer: &mut Running, what: &str) -> Value {
    loop {
        let event = peer.event("room").await;
        if event["what"] == what {
            return event;
        }
    }
}

#[tokio::test]
async fn a_server_opens_a_room_speaks_in_it_and_sends_a_member_away_on_any_node() {
    let cluster = Cluster::up("1", "1").await;
    let nats = cluster.flags();
    let nats = nats.each_ref().map(String::as_str);
    let (key, table) = key("lobby", &ALL, "").await;
    let folders = [Folder::new("api-north"), Folder::new("api-south")];
    let north = Server::start(&folders[0], "north", &key, &table, &nats).await;
    let south = Server::start(&folders[1], "south", &key, &table, &nats).await;

    let room = json!({"room": "r", "members_max": 4, "properties": {"map": "sea", "round": 1}});
    assert_eq!(north.ask("POST", "/v1/rooms", &room).0, 201);
    let (status, again) = south.ask("POST", "/v1/rooms", &room);
    assert_eq!((status, &again["code"]), (409, &json!("room_exists")));

    let mut alice = north.peer("alice", "r");
    alice.event("joined").await;
    let (status, seen) = south.ask("GET", "/v1/rooms/r", &Value::Null);
    assert_eq!(status, 200, "{seen}");
    assert_eq!(seen["properties"], json!({"map": "sea", "round": 1}));
    assert_eq!(
        (&seen["members_max"], &seen["members"][0]["user"]),
        (&json!(4), &json!("alice"))
    );
    assert_eq!(seen["members"][0]["node"], "north");
    let (_, listed) = south.ask("GET", "/v1/rooms", &Value::Null);
    assert_eq!(listed, json!({"rooms": ["r"], "more": false}));

    let message = json!({"text": "welcome"});
    let named = [
        &format!("Authorization: Bearer {key}") as &str,
        "Idempotency-Key: one",
    ];
    let body = message.to_string();
    let said = south.ask_with("POST", "/v1/rooms/r/messages", &named, &body);
    assert_eq!(said, (200, json!({"number": 1})));
    let repeated = north.ask_with("POST", "/v1/rooms/r/messages", &named, &body);
    assert_eq!(
        repeated,
        (200, json!({"number": 1})),
        "it is not said twice"
    );
    let other = json!({"text": "farewell"}).to_string();
    let (status, refused) = north.ask_with("POST", "/v1/rooms/r/messages", &named, &other);
    assert_eq!(
        (status, &refused["code"]),
        (422, &json!("idempotency_key_used"))
    );
    let elsewhere = north.ask_with("DELETE", "/v1/rooms/r", &named, "");
    assert_eq!(elsewhere.1["code"], "idempotency_key_used");
    let heard = alice.event("said").await;
    assert_eq!(
        (&heard["text"], &heard["from"]),
        (&json!("welcome"), &Value::Null)
    );
    assert_eq!(
        south.ask("POST", "/v1/rooms/r/messages", &message).1,
        json!({"number": 2})
    );

    let (status, first) = north.ask("GET", "/v1/rooms/r/messages?limit=1", &Value::Null);
    assert_eq!((status, &first["more"]), (200, &json!(true)), "{first}");
    let newest = &first["messages"][0];
    assert_eq!(
        (&newest["number"], &newest["user"]),
        (&json!(2), &Value::Null)
    );
    let path = "/v1/rooms/r/messages?before=2";
    let (_, rest) = north.ask("GET", path, &Value::Null);
    assert_eq!(rest["more"], false);
    assert_eq!(rest["messages"].as_array().map(Vec::len), Some(1), "{rest}");
    assert_eq!(rest["messages"][0]["base64"], "d2VsY29tZQ==");
    let (status, _) = north.ask("GET", "/v1/rooms/r/messages?before=0", &Value::Null);
    assert_eq!(status, 400);

    let set = json!({"set": {"round": 2, "blob": {"base64": "AQI="}}, "delete": ["map"]});
    assert_eq!(south.ask("PATCH", "/v1/rooms/r/properties", &set).0, 200);
    let changed = told(&mut alice, "properties").await;
    assert_eq!(
        (&changed["by"], &changed["detail"]["round"]),
        (&Value::Null, &json!(2))
    );
    let (_, seen) = north.ask("GET", "/v1/rooms/r", &Value::Null);
    assert_eq!(
        seen["properties"],
        json!({"round": 2, "blob": {"base64": "AQI="}})
    );
    let more = json!({
        "add": {"round": 3}, "public": {"mode": "duel"}, "set": {"turn": "alice"}, "delete": ["blob"],
        "expect": {"round": 2, "turn": null}, "lasts_s": {"turn": 3600},
    });
    assert_eq!(south.ask("PATCH", "/v1/rooms/r/properties", &more).0, 200);
    let (status, late) = south.ask("PATCH", "/v1/rooms/r/properties", &more);
    assert_eq!((status, &late["code"]), (409, &json!("conflict")));
    let (_, seen) = north.ask("GET", "/v1/rooms/r", &Value::Null);
    assert_eq!(
        (&seen["properties"], &seen["public"]),
        (
            &json!({"round": 5, "mode": "duel", "turn": "alice"}),
            &json!(["mode"])
        )
    );

    assert_eq!(
        south
            .ask("DELETE", "/v1/rooms/r/members/alice", &Value::Null)
            .0,
        200
    );
    let ended = alice.ended().await;
    assert!(
        ended.events.iter().any(|event| event["reason"] == "kicked"),
        "{:?}",
        ended.lines
    );
    let (_, seen) = north.ask("GET", "/v1/rooms/r", &Value::Null);
    assert_eq!(seen["members"], json!([]));
    assert_eq!(
        south
            .ask("DELETE", "/v1/rooms/r/members/alice", &Value::Null)
            .0,
        404
    );
    assert_eq!(south.ask("DELETE", "/v1/rooms/r", &Value::Null).0, 200);
    assert_eq!(north.ask("GET", "/v1/rooms/r", &Value::Null).0, 404);
    cluster.down().await;
}

#[tokio::test]
async fn whoever_lacks_a_key_a_scope_or_measure_is_refused_with_the_reason() {
    let folder = Folder::new("api-refused");
    let (reader, reads) = key("reader", &["rooms:read"], "").await;
    let (slow, rarely) = key("slow", &["rooms:read"], "requests-per-second = 1").await;
    let (all, does) = key("all", &ALL, "").await;
    let tables = [reads, rarely, does].concat();
    let mut server = Server::start(&folder, "north", &all, &tables, &[]).await;
    let with = |key: &str, path: &str| {
        let authorization = format!("Authorization: Bearer {key}");
        let (status, body) = server.ask_with("GET", path, &[&authorization], "");
        (status, body["code"].clone())
    };
    let (status, nobody) = server.ask_with("GET", "/v1/rooms", &[], "");
    assert_eq!((status, &nobody["code"]), (401, &json!("key_missing")));
    assert_eq!(with("guess", "/v1/rooms"), (401, json!("key_missing")));
    assert_eq!(with(&reader, "/v1/rooms").0, 200);
    // What was said may be for somebody.
    assert_eq!(with(&reader, "/v1/rooms/r/messages").0, 403);
    assert_eq!(
        with(&reader, "/v1/rooms/none"),
        (404, json!("no_such_room"))
    );
    assert_eq!(with(&reader, "/v1/rooms/a%20b"), (400, json!("bad_name")));
    let authorization = format!("Authorization: Bearer {reader}");
    let body = json!({"room": "r"}).to_string();
    let (status, refused) = server.ask_with("POST", "/v1/rooms", &[&authorization], &body);
    assert_eq!((status, &refused["code"]), (403, &json!("scope")));
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("rooms:create")
    );
    // However slow the machine is, some come sooner than the key wants.
    let mut statuses = (0..200).map(|_| with(&slow, "/v1/rooms").0);
    assert_eq!(statuses.next(), Some(200));
    assert!(statuses.any(|status| status == 429), "it was never refused");

    for (body, status, code) in [
        (json!({"room": "a b"}), 400, "bad_name"),
        (json!({"room": "r", "writers": "all"}), 400, "bad_request"),
        (json!({"room": "r", "members_max": 100_000}), 422, "limit"),
        (
            json!({"room": "r", "owner_policy": "me"}),
            400,
            "bad_request",
        ),
        (json!({"room": "r", "history_max": 1_000_000}), 422, "limit"),
        (
            json!({"room": "r", "reserve": {"users": [], "lasts_s": 9}}),
            400,
            "bad_request",
        ),
        (
            json!({"room": "r", "public": {"k": "v".repeat(300)}}),
            422,
            "limit",
        ),
        (
            json!({"room": "r", "properties": {"k": 1}, "public": {"k": 1}}),
            400,
            "bad_request",
        ),
        (json!({"room": "r", "members_max": 0}), 422, "limit"),
        (json!({"room": "r", "empty_kept_s": u64::MAX}), 422, "limit"),
        (json!({"room": "r", "colour": "blue"}), 422, "bad_request"),
        (
            json!({"room": "r", "properties": {"": 1}}),
            400,
            "bad_request",
        ),
        (json!({"room": "tombolo-match-1"}), 422, "not_permitted"),
        (
            json!({"room": "r", "properties": {"k": "v".repeat(20_000)}}),
            400,
            "bad_request",
        ),
        (
            json!({"room": "r", "properties": {"k": "v".repeat(200_000)}}),
            413,
            "bad_request",
        ),
    ] {
        let (answer, refused) = server.ask("POST", "/v1/rooms", &body);
        let shown: String = body.to_string().chars().take(80).collect();
        assert_eq!(
            (answer, &refused["code"]),
            (status, &json!(code)),
            "{shown}: {refused}"
        );
    }
    let made = json!({
        "room": "made", "password": "sesame", "code": true, "owner_policy": "none", "history_max": 7,
        "reserve": {"users": ["alice"], "lasts_s": 60}, "public": {"mode": "duel"},
    });
    let (status, opened) = server.ask("POST", "/v1/rooms", &made);
    assert_eq!(status, 201, "{opened}");
    let (_, seen) = server.ask("GET", "/v1/rooms/made", &Value::Null);
    assert_eq!(
        (&seen["code"], &seen["public"]),
        (&opened["code"], &json!(["mode"]))
    );
    assert_eq!(opened["code"].as_str().map(str::len), Some(6));
    for (body, why) in [
        (
            json!({"expect": {"k": 1}}),
            "k is expected, but not changed",
        ),
        (
            json!({"set": {"k": 1}, "delete": ["k"]}),
            "k is changed twice",
        ),
        (
            json!({"set": {"k": 1}, "lasts_s": {"k": 0}}),
            "lasts_s is from a second to a year",
        ),
        (json!({}), "nothing is to be changed"),
    ] {
        let (status, refused) = server.ask("PATCH", "/v1/rooms/made/properties", &body);
        assert_eq!((status, &refused["message"]), (400, &json!(why)));
    }
    let nowhere = json!({"text": "hello"});
    let (status, refused) = server.ask("POST", "/v1/rooms/none/messages", &nowhere);
    assert_eq!((status, &refused["code"]), (404, &json!("no_such_room")));
    server.running.terminate();
    let ended = server.running.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    for key in [&reader, &slow, &all] {
        assert!(!ended.complaints.contains(key), "a key is logged");
    }
}

#[tokio::test]
async fn a_server_says_who_sees_what_in_a_field_by_marks() {
    let folder = Folder::new("api-marks");
    let (all, does) = key("all", &ALL, "").await;
    // What hides is seen by those of its team only.
    let table = format!("{does}\n[[fields.sight]]\nof = 1\nsame = 0x0e\n");
    let server = Server::start(&folder, "north", &all, &table, &[]).await;
    let mut device = server.stander("alice");
    device.event("in").await;
    let hidden = json!({"position": [3, 4], "text": "hidden", "marks": 3});
    let (status, put) = server.ask("PUT", "/v1/fields/plaza/entities/hidden", &hidden);
    assert_eq!(status, 200, "{put}");
    let plain = json!({"position": [3, 4], "text": "plain"});
    assert_eq!(
        server
            .ask("PUT", "/v1/fields/plaza/entities/plain", &plain)
            .0,
        200
    );
    assert_eq!(device.event("entered").await["text"], "plain");

    let marks = "/v1/fields/plaza/marks";
    let mark = |marks: u64| json!({"user": "alice", "marks": marks});
    assert_eq!(server.ask("POST", marks, &mark(2)), (200, json!({})));
    assert_eq!(device.event("entered").await["text"], "hidden");
    assert_eq!(server.ask("POST", marks, &mark(0)).0, 200);
    assert_eq!(device.event("left").await["entity"], put["entity"]);
    let nobody = json!({"user": "bob", "marks": 1});
    let (status, refused) = server.ask("POST", marks, &nobody);
    assert_eq!((status, &refused["code"]), (404, &json!("no_such_thing")));
    let (status, _) = server.ask("POST", marks, &json!({"user": "alice", "marks": -1}));
    assert_eq!(status, 422);
}

#[tokio::test]
async fn a_server_puts_something_into_a_field_moves_it_and_takes_it_away() {
    let folder = Folder::new("api-fields");
    let (all, does) = key("all", &ALL, "").await;
    let (reader, reads) = key("reader", &["rooms:read"], "").await;
    let mut server = Server::start(&folder, "north", &all, &[does, reads].concat(), &[]).await;
    let mut device = server.stander("alice");
    device.event("in").await;
    let chest = "/v1/fields/plaza/entities/chest";
    let (status, put) = server.ask("PUT", chest, &json!({"position": [3, 4], "text": "closed"}));
    assert_eq!(status, 200, "{put}");
    let seen = device.event("entered").await;
    assert_eq!(
        (&seen["entity"], &seen["text"], &seen["position"]),
        (&put["entity"], &json!("closed"), &json!([3.0, 4.0, 0.0]))
    );
    let moved = json!({"position": [5, 4], "base64": "b3Blbg=="});
    assert_eq!(server.ask("PUT", chest, &moved), (200, put.clone()));
    assert_eq!(device.event("moved").await["text"], "open");
    assert_eq!(server.ask("DELETE", chest, &json!({})).0, 200);
    assert_eq!(device.event("left").await["entity"], put["entity"]);
    let (status, refused) = server.ask("DELETE", chest, &json!({}));
    assert_eq!((status, &refused["code"]), (404, &json!("no_such_thing")));
    for (body, status, code) in [
        (json!({"position": [1]}), 422, "bad_report"),
        (json!({"position": [1, 1e13]}), 422, "bad_report"),
        (json!({"position": [1, 1], "class": 9}), 422, "bad_report"),
        (
            json!({"position": [1, 1], "text": "long".repeat(13)}),
            422,
            "bad_report",
        ),
        (json!({"position": [1, 1, 1, 1]}), 422, "bad_report"),
        (
            json!({"position": [1, 1], "lasts_s": 100_000}),
            400,
            "bad_frame",
        ),
        (
            json!({"position": [1, 1], "text": "", "base64": ""}),
            400,
            "bad_request",
        ),
        (
            json!({"position": [1, 1], "colour": "blue"}),
            422,
            "bad_request",
        ),
    ] {
        let (got, refused) = server.ask("PUT", chest, &body);
        assert_eq!((got, &refused["code"]), (status, &json!(code)), "{body}");
    }
    let many = json!({"entities": {
        "near": {"position": [1, 1]},
        "nowhere": {"position": []},
        "far": {"position": [9000, 1]},
    }});
    let (status, put) = server.ask("PUT", "/v1/fields/plaza/entities", &many);
    assert_eq!(status, 200, "{put}");
    let names: Vec<_> = put["entities"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["far", "near"]);
    assert_eq!(put["refused"]["nowhere"]["code"], "bad_report");
    let seen = device.event("entered").await;
    assert_eq!(seen["entity"], put["entities"]["near"]);
    let authorization = format!("Authorization: Bearer {reader}");
    let body = json!({"position": [1, 1]}).to_string();
    let (status, refused) = server.ask_with("PUT", chest, &[&authorization], &body);
    assert_eq!((status, &refused["code"]), (403, &json!("scope")));
    device.terminate();
    assert_eq!(device.ended().await.status, Some(0));
    server.running.terminate();
    assert_eq!(server.running.ended().await.status, Some(0));
}
