//! A game's server that is asked over HTTP: one that decides, one that is away, hangs, or talks nonsense.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tombolo_node::{
    Decision, DeviceCommand, HookOutcome, HookQuestion, Hooks, HttpHooksConfig, JoinQuestion,
    Marking, MatchPool, Node, NodeBuilder, Reject, Reply, Sight, Subject,
};
use tombolo_wire::v1::server_frame::Body as Down;
use tombolo_wire::v1::{
    self, ErrorCode, Join, JoinMode, field_request, match_attribute, match_event, match_request,
    request, response,
};
use tombolo_wire::{FieldId, UserId};

use crate::caller::{Caller, token_keys};
use crate::https::PATIENCE;
use crate::life;
use crate::posts::{KEY, Server, Stream, read_post, trusting};

/// What a server does when it is asked.
enum Does {
    /// Answers with 200 and JSON.
    Says(Value),
    /// Sends this and nothing more.
    Sends(String),
    /// The same, and closes the connection.
    SendsAndCloses(String),
}

/// A server that does something about each question.
struct Game {
    url: String,
    questions: mpsc::UnboundedReceiver<Value>,
    _serving: JoinSet<()>,
}

impl Game {
    async fn start(answer: impl Fn(&Value) -> Does + Send + Sync + 'static) -> Self {
        Self::on(Server::start().await, answer)
    }

    fn on(server: Server, answer: impl Fn(&Value) -> Does + Send + Sync + 'static) -> Self {
        let (told, questions) = mpsc::unbounded_channel();
        let url = server.url();
        let answer = Arc::new(answer);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = server.accept().await;
                let (told, answer) = (told.clone(), Arc::clone(&answer));
                connections.spawn(async move {
                    attend(stream, |question| {
                        let does = answer(question);
                        let _ = told.send(question.clone());
                        does
                    })
                    .await;
                });
            }
        });
        Self {
            url,
            questions,
            _serving: serving,
        }
    }

    /// What it is asked next.
    async fn asked(&mut self) -> Value {
        let asked = tokio::time::timeout(PATIENCE, self.questions.recv());
        asked.await.expect("in time").expect("it runs")
    }

    fn config(&self, questions: &[HookQuestion]) -> HttpHooksConfig {
        config(&self.url, &[], questions)
    }
}

async fn attend(mut stream: Box<dyn Stream>, answer: impl Fn(&Value) -> Does) {
    while let Some(question) = read_post(stream.as_mut()).await {
        let (text, closes) = match answer(&question) {
            Does::Says(answer) => (ok(&answer.to_string()), false),
            Does::Sends(text) => (text, false),
            Does::SendsAndCloses(text) => (text, true),
        };
        // The other side may have had enough.
        let _ = stream.write_all(text.as_bytes()).await;
        if closes {
            return;
        }
    }
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn config(
    url: &str,
    trusted: &[CertificateDer<'static>],
    questions: &[HookQuestion],
) -> HttpHooksConfig {
    let questions = questions.iter().copied();
    let mut config = HttpHooksConfig::new(url, KEY.to_vec(), trusting(trusted), questions);
    // What is to go well does so on a machine that is busy, too.
    config.timeout = HttpHooksConfig::TIMEOUT_MAX;
    config
}

fn builder(config: HttpHooksConfig) -> NodeBuilder {
    life::builder().token_keys(token_keys()).http_hooks(config)
}

async fn start(builder: NodeBuilder) -> Arc<Node> {
    Arc::new(builder.start().await.expect("loopback has free ports"))
}

async fn reload(node: &Arc<Node>, builder: NodeBuilder) {
    let node = Arc::clone(node);
    let reloaded = tokio::task::spawn_blocking(move || node.reload(builder));
    reloaded.await.expect("it ends").expect("it is taken over");
}

async fn caller(node: &Node, user: &'static str) -> Caller {
    let mut caller = Caller::new(user);
    caller.hello(node).await;
    caller
}

fn join(room: &str) -> request::Kind {
    request::Kind::Join(Join {
        room: room.to_owned(),
        mode: JoinMode::JoinOrCreate.into(),
        ..Join::default()
    })
}

fn command(name: &str, payload: &'static [u8]) -> request::Kind {
    request::Kind::Command(v1::Command {
        name: name.to_owned(),
        payload: Bytes::from_static(payload),
    })
}

async fn replied(
    caller: &mut Caller,
    command: request::Kind,
) -> Result<Bytes, (ErrorCode, String)> {
    let answer = caller.answer(command).await?;
    let response::Result::Command(reply) = answer else {
        panic!("a command is not answered by {answer:?}");
    };
    Ok(reply.payload)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_told_why_the_games_server_does_not_let_it_in() {
    let mut game = Game::start(|question| {
        Does::Says(match question["room"].as_str() {
            Some("closed") => json!({"refuse": "only for members", "code": "room_locked"}),
            Some("secret") => json!({"allow": false}),
            _ => json!({"allow": true}),
        })
    })
    .await;
    let node = start(builder(game.config(&[HookQuestion::Join]))).await;
    let mut alice = caller(&node, "alice").await;
    let refused = alice
        .answer(join("closed"))
        .await
        .expect_err("it is closed");
    assert_eq!(
        refused,
        (ErrorCode::RoomLocked, "only for members".to_owned())
    );
    let refused = alice
        .answer(join("secret"))
        .await
        .expect_err("it is secret");
    assert_eq!(refused.0, ErrorCode::NotPermitted);
    alice.answer(join("open")).await.expect("it is open");
    let first = game.asked().await;
    assert_eq!(first["question"], "join");
    assert_eq!(
        (&first["user"], &first["room"]),
        (&json!("alice"), &json!("closed"))
    );
    assert_eq!(
        (&first["opening"], &first["number"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(first["node"], node.ready().name.as_str());
    assert_eq!(first["settings"]["writers"], "everybody");

    let mut bob = caller(&node, "bob").await;
    bob.answer(join("open")).await.expect("it is open");
    game.asked().await;
    game.asked().await;
    assert_eq!(game.asked().await["opening"], false);
    let stats = node.stats().hooks;
    assert_eq!(stats.count(HookQuestion::Join, HookOutcome::Allowed), 2);
    assert_eq!(stats.count(HookQuestion::Join, HookOutcome::Refused), 2);
    let line = "tombolo_hooks_questions_total{question=\"join\",outcome=\"refused\"} 2\n";
    assert!(node.stats().to_open_metrics().contains(line));
    // It is asked about nothing else.
    let refused = replied(&mut bob, command("greet", b"")).await;
    assert_eq!(
        refused.expect_err("nobody knows it").0,
        ErrorCode::NoSuchThing
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_server_says_but_yes_nobody_comes_in() {
    let long = format!("{{\"allow\": true{}}}", " ".repeat(70_000));
    let endless = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        format!("{:x}\r\n{}\r\n", 10_000, " ".repeat(10_000)).repeat(7)
    );
    let yes = json!({"allow": true}).to_string();
    let with = |status: &str| ok(&yes).replace("200 OK", status);
    let cases = [
        (with("401 Unauthorized"), HookOutcome::Denied),
        (with("403 Forbidden"), HookOutcome::Denied),
        (with("500 Internal Server Error"), HookOutcome::Status),
        (with("201 Created"), HookOutcome::Status),
        (with("302 Found"), HookOutcome::Status),
        (
            "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            HookOutcome::Status,
        ),
        (ok("yes"), HookOutcome::Malformed),
        (ok(""), HookOutcome::Malformed),
        (ok("{}"), HookOutcome::Malformed),
        (
            ok(r#"{"allow": true, "because": 1}"#),
            HookOutcome::Malformed,
        ),
        (ok(&long), HookOutcome::Malformed),
        (endless, HookOutcome::Malformed),
        (ok(&yes).replace(&yes, "{\"allow\""), HookOutcome::Malformed),
        ("SSH-2.0-Banner\r\n".to_owned(), HookOutcome::Unreachable),
        (String::new(), HookOutcome::Unreachable),
    ];
    let texts = cases.clone().map(|(text, _)| text);
    let game = Game::start(move |question| {
        let room = question["room"].as_str().expect("a room");
        let number: usize = room.parse().expect("a number");
        Does::SendsAndCloses(texts[number].clone())
    })
    .await;
    let node = start(builder(game.config(&[HookQuestion::Join]))).await;
    let mut alice = caller(&node, "alice").await;
    for (number, (text, outcome)) in cases.iter().enumerate() {
        let count = || node.stats().hooks.count(HookQuestion::Join, *outcome);
        let before = count();
        let refused = alice.answer(join(&number.to_string())).await;
        let (code, why) = refused.expect_err(text);
        assert_eq!(code, ErrorCode::Unavailable, "{text}");
        assert!(
            why.starts_with("the game's server does not answer"),
            "{why}"
        );
        assert_eq!(count(), before + 1, "{outcome:?}: {text}");
    }
    assert_eq!(
        node.stats()
            .hooks
            .count(HookQuestion::Join, HookOutcome::Allowed),
        0
    );
    assert_eq!(node.services().stats().rooms, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_or_is_away_lets_nobody_in_and_one_that_is_back_does() {
    let hanging = Game::start(|question| {
        let begun = [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"allow\": ",
        ];
        let room = question["room"].as_str().expect("a room");
        Does::Sends(begun[usize::from(room == "slow")].to_owned())
    })
    .await;
    let quick = |url: &str| {
        let mut config = config(url, &[], &[HookQuestion::Join]);
        config.timeout = Duration::from_millis(50);
        builder(config)
    };
    let node = start(quick(&hanging.url)).await;
    let mut alice = caller(&node, "alice").await;
    for room in ["silent", "slow"] {
        let refused = alice.answer(join(room)).await.expect_err("nobody answers");
        let why = "the game's server does not answer".to_owned();
        assert_eq!(refused, (ErrorCode::Unavailable, why));
    }
    let count = |outcome| node.stats().hooks.count(HookQuestion::Join, outcome);
    assert_eq!(count(HookOutcome::TimedOut), 2);

    let away = Server::start().await.url();
    reload(&node, builder(config(&away, &[], &[HookQuestion::Join]))).await;
    let refused = alice.answer(join("lobby")).await.expect_err("it is away");
    assert_eq!(refused.0, ErrorCode::Unavailable);
    assert_eq!(count(HookOutcome::Unreachable), 1);

    let game = Game::start(|_| Does::Says(json!({"allow": true}))).await;
    reload(&node, builder(game.config(&[HookQuestion::Join]))).await;
    alice.answer(join("lobby")).await.expect("it is back");
    assert_eq!(count(HookOutcome::Allowed), 1);
    let without = life::builder().token_keys(token_keys());
    let told = node.reload(without).expect_err("that needs a restart");
    assert!(told.to_string().contains("`hooks`"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_while_as_many_are_asked_about_as_may_be_is_refused_at_once() {
    let mut game = Game::start(|question| match question["user"].as_str() {
        Some("alice") => Does::Sends(String::new()),
        _ => Does::Says(json!({"allow": true})),
    })
    .await;
    let mut one = game.config(&[HookQuestion::Join]);
    one.requests_max = 1;
    let node = start(builder(one)).await;
    let mut alice = caller(&node, "alice").await;
    let mut bob = caller(&node, "bob").await;
    let waiting = alice.ask(join("lobby")).await;
    game.asked().await;
    let refused = bob.answer(join("lobby")).await.expect_err("one at a time");
    assert_eq!(refused.0, ErrorCode::Limit);
    assert!(refused.1.contains("try again later"), "{refused:?}");
    let count = |outcome| node.stats().hooks.count(HookQuestion::Join, outcome);
    assert_eq!(
        (count(HookOutcome::Overloaded), count(HookOutcome::TimedOut)),
        (1, 0)
    );
    let ended = alice.answer_to(waiting).await;
    assert_eq!(
        ended.expect_err("nobody said yes").0,
        ErrorCode::Unavailable
    );
    bob.answer(join("lobby"))
        .await
        .expect("the place is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_take_long_keep_nobody_out_of_a_room() {
    let mut game = Game::start(|question| match question["question"].as_str() {
        Some("command") => Does::Sends(String::new()),
        _ => Does::Says(json!({"allow": true})),
    })
    .await;
    let mut one = game.config(&[HookQuestion::Join, HookQuestion::Command]);
    one.requests_max = 1;
    let node = start(builder(one)).await;
    let mut alice = caller(&node, "alice").await;
    let mut bob = caller(&node, "bob").await;
    alice.ask(command("slow", b"")).await;
    game.asked().await;
    let refused = replied(&mut bob, command("slow", b"")).await;
    assert_eq!(refused.expect_err("one at a time").0, ErrorCode::Limit);
    let joined = bob.answer(join("lobby")).await;
    joined.expect("that is another question");
}

/// Code in the process that knows one command, one room, and how devices are marked.
struct Own {
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Hooks for Own {
    fn authorize_join(&self, question: JoinQuestion) -> Decision {
        Box::pin(async move {
            match question.room.as_str() {
                "own" => Err(refusal(ErrorCode::Banned)),
                _ => Ok(()),
            }
        })
    }

    fn authorize_field(&self, _: UserId, _: FieldId, _: u8) -> Marking {
        Box::pin(async { Ok(4.into()) })
    }

    fn sight(&self, _: &FieldId) -> Option<Box<dyn Sight + Send + Sync>> {
        let seen = Arc::clone(&self.seen);
        Some(Box::new(move |observer: &Subject, other: &Subject| {
            let mut seen = seen.lock().expect("nobody panics");
            seen.extend([observer.marks, other.marks]);
            true
        }))
    }

    fn on_command(&self, command: DeviceCommand) -> Reply {
        Box::pin(async move {
            match command.name.as_str() {
                "own" => Ok(Bytes::from_static(b"mine")),
                "forbidden" => Err(refusal(ErrorCode::NotPermitted)),
                _ => Err(refusal(ErrorCode::NoSuchThing)),
            }
        })
    }
}

fn refusal(code: ErrorCode) -> Reject {
    Reject {
        code,
        message: "says the code".to_owned(),
        nodes: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_to_the_server_and_back_unless_code_in_the_process_knows_them() {
    let mut game = Game::start(|question| {
        Does::Says(match question["command"].as_str() {
            Some("echo") => json!({"base64": question["base64"]}),
            Some("greet") => {
                json!({"text": format!("hello {}", question["user"].as_str().unwrap_or_default())})
            }
            _ => json!({"refuse": "says the server", "code": "no_such_thing"}),
        })
    })
    .await;
    let hooks = Own {
        seen: Arc::default(),
    };
    let asked = [HookQuestion::Command, HookQuestion::Join];
    let node = start(builder(game.config(&asked)).hooks(hooks)).await;
    let mut alice = caller(&node, "alice").await;
    let says = |code, who: &str| Err((code, format!("says the {who}")));
    for (name, payload, expected) in [
        ("own", &b""[..], Ok(Bytes::from_static(b"mine"))),
        ("forbidden", b"", says(ErrorCode::NotPermitted, "code")),
        ("echo", &[0, 255, 7], Ok(Bytes::from_static(&[0, 255, 7]))),
        ("greet", b"", Ok(Bytes::from_static(b"hello alice"))),
        ("unknown", b"", says(ErrorCode::NoSuchThing, "server")),
    ] {
        assert_eq!(
            replied(&mut alice, command(name, payload)).await,
            expected,
            "{name}"
        );
    }
    let first = game.asked().await;
    assert_eq!(
        (&first["question"], &first["command"]),
        (&json!("command"), &json!("echo"))
    );
    assert_eq!(first["session"].as_str().map(str::len), Some(32));
    // What that code refuses nobody is asked about.
    let refused = alice.answer(join("own")).await;
    assert_eq!(refused.expect_err("it is refused").0, ErrorCode::Banned);
    let stats = node.stats().hooks;
    assert_eq!(stats.count(HookQuestion::Join, HookOutcome::Refused), 0);
    assert_eq!(stats.count(HookQuestion::Command, HookOutcome::Allowed), 2);
    assert_eq!(stats.count(HookQuestion::Command, HookOutcome::Refused), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_marks_devices_in_a_field_beside_what_code_in_the_process_does() {
    let game = Game::start(|question| {
        assert_eq!(
            (&question["marks"], &question["class"]),
            (&json!(4), &json!(0))
        );
        Does::Says(match question["user"].as_str() {
            Some("alice") => json!({"allow": true, "marks": 9}),
            Some("bob") => json!({"allow": true}),
            _ => json!({"refuse": "not here"}),
        })
    })
    .await;
    let seen = Arc::<Mutex<Vec<u64>>>::default();
    let hooks = Own {
        seen: Arc::clone(&seen),
    };
    let node = start(builder(game.config(&[HookQuestion::Field])).hooks(hooks)).await;
    let enter = request::Kind::Field(v1::FieldRequest {
        field: "plaza".to_owned(),
        kind: Some(field_request::Kind::Enter(v1::EnterField {
            dimensions: 2,
            report: Some(v1::FieldReport {
                position: vec![0.0; 2],
                sequence: 1,
                ..v1::FieldReport::default()
            }),
            ..v1::EnterField::default()
        })),
    });
    let mut callers = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let mut caller = caller(&node, user).await;
        let entered = caller.answer(enter.clone()).await;
        match (user, entered) {
            ("carol", Err(refused)) => {
                assert_eq!(refused, (ErrorCode::NotPermitted, "not here".to_owned()));
            }
            ("carol", Ok(_)) => panic!("nobody said yes"),
            (_, entered) => drop(entered.expect("it comes in")),
        }
        callers.push(caller);
    }
    let both = async {
        let has = |marks| seen.lock().expect("nobody panics").contains(&marks);
        while !has(9) || !has(4) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("both are seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_refuses_tickets_and_says_what_they_are_worth_and_what_users_are_like() {
    let mut game = Game::start(|question| {
        let skill =
            |skill: f64| json!({question["user"].as_str().unwrap_or_default(): {"skill": skill}});
        Does::Says(match question["user"].as_str() {
            Some("banned") => json!({"refuse": "you are banned", "code": "banned"}),
            // As far from carol as alice is, and before her.
            Some("vip") => json!({"allow": true, "priority": 1, "attributes": skill(180.0)}),
            Some("carol") => json!({"allow": true, "attributes": skill(90.0)}),
            Some("liar") => json!({"allow": true, "attributes": {"somebody": {"skill": 1}}}),
            _ => json!({"allow": true}),
        })
    })
    .await;
    let pool = MatchPool::parse(DUEL).expect("it is right");
    let node = start(builder(game.config(&[HookQuestion::Ticket])).pool(pool)).await;
    let submit = |user: &str| {
        request::Kind::Matchmaker(v1::MatchRequest {
            pool: "duel".to_owned(),
            kind: Some(match_request::Kind::Submit(v1::SubmitTicket {
                id: user.bytes().cycle().take(16).collect(),
                players: vec![v1::MatchPlayer {
                    user: user.to_owned(),
                    attributes: vec![v1::MatchAttribute {
                        name: "skill".to_owned(),
                        value: Some(match_attribute::Value::Number(0.0)),
                    }],
                    ..v1::MatchPlayer::default()
                }],
                ..v1::SubmitTicket::default()
            })),
        })
    };
    let mut callers = Vec::new();
    for (user, expected) in [
        ("banned", Err(ErrorCode::Banned)),
        ("liar", Err(ErrorCode::Unavailable)),
        ("alice", Ok(())),
        ("vip", Ok(())),
        ("carol", Ok(())),
    ] {
        let mut caller = caller(&node, user).await;
        let answer = caller.answer(submit(user)).await;
        assert_eq!(
            answer.map(drop).map_err(|(code, _)| code),
            expected,
            "{user}"
        );
        callers.push(caller);
    }
    let carol = callers.last_mut().expect("she is the last");
    let found = carol.until(|body| {
        if let Down::Matchmaker(event) = body
            && let Some(match_event::Kind::Found(found)) = event.kind
        {
            Some(found)
        } else {
            None
        }
    });
    let members = found.await.teams.into_iter().flat_map(|team| team.members);
    let mut users: Vec<_> = members.map(|member| member.user).collect();
    users.sort();
    assert_eq!(users, ["carol", "vip"]);
    let first = game.asked().await;
    assert_eq!(
        (&first["question"], &first["pool"]),
        (&json!("ticket"), &json!("duel"))
    );
    let player = &first["ticket"]["players"][0];
    assert_eq!(
        (&player["user"], &player["attributes"]["skill"]),
        (&json!("banned"), &json!(0.0))
    );
    let count = |outcome| node.stats().hooks.count(HookQuestion::Ticket, outcome);
    assert_eq!(
        (count(HookOutcome::Refused), count(HookOutcome::Malformed)),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_https_only_the_server_of_a_trusted_certificate_is_asked_and_a_reload_says_which() {
    let (server, certificate) = Server::start_tls().await;
    let (_, another) = Server::start_tls().await;
    let game = Game::on(server, |_| Does::Says(json!({"allow": true})));
    let trusting = |trusted| builder(config(&game.url, &[trusted], &[HookQuestion::Join]));
    let node = start(trusting(another)).await;
    let mut alice = caller(&node, "alice").await;
    let refused = alice.answer(join("lobby")).await.expect_err("who is that?");
    assert_eq!(refused.0, ErrorCode::Unavailable);
    let count = |outcome| node.stats().hooks.count(HookQuestion::Join, outcome);
    assert_eq!(count(HookOutcome::Unreachable), 1);
    reload(&node, trusting(certificate)).await;
    alice.answer(join("lobby")).await.expect("it is trusted");
    assert_eq!(count(HookOutcome::Allowed), 1);
}

const DUEL: &str = r#"
name = "duel"
players = { min = 2, max = 2 }
rules = [{ kind = "distance", attribute = "skill", max = 100 }]
[[attributes]]
name = "skill"
kind = "number"
"#;
