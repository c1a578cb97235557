//! Where a game's own code has a say.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Local, LocalConfig};
use tombolo_room::Settings;
use tombolo_services::{
    COMMAND_PAYLOAD_BYTES_MAX, Decision, DeviceCommand, HookSet, Hooks, JoinQuestion,
    MemberMessage, NewRoom, Reject, Reply, RoomTick, Verdict, Work,
};
use tombolo_wire::v1::{self, ErrorCode, JoinMode, request, response};
use tombolo_wire::{NodeId, RoomId};

use crate::lab::{Device, Lab, message};

/// Shorter than the patience of the devices here.
const GAME_TIMEOUT: Duration = Duration::from_millis(100);

/// A game in which "closed" lets nobody in, "stuck" never answers, "broken" panics, and messages are in
/// capitals unless they swear.
struct Game;

impl Hooks for Game {
    fn authorize_join(&self, join: JoinQuestion) -> Decision {
        Box::pin(async move {
            match join.room.as_str() {
                "closed" => Err(refusal(&format!("{} is not on the list", join.user))),
                "ready-made" if join.is_opening => Err(refusal("only servers open it")),
                "small" if join.settings.members_max > 4 => Err(refusal("it is not small")),
                "stuck" => pending().await,
                "broken" => panic!("the game has a fault"),
                _ => Ok(()),
            }
        })
    }

    fn check_message(&self, message: &MemberMessage<'_>) -> Verdict {
        match message.payload.as_ref() {
            b"damn" => Verdict::Refuse(refusal("mind your language")),
            b"crash" => panic!("the game has a fault"),
            b"flood" => Verdict::Change(vec![0; 1 << 20].into()),
            b"as it is" => Verdict::Pass,
            other => Verdict::Change(other.to_ascii_uppercase().into()),
        }
    }

    fn on_command(&self, command: DeviceCommand) -> Reply {
        Box::pin(async move {
            match command.name.as_str() {
                "greet" => Ok([
                    b"hello ",
                    command.caller.as_str().as_bytes(),
                    &command.payload,
                ]
                .concat()
                .into()),
                "stuck" => pending().await,
                "broken" => panic!("the game has a fault"),
                "flood" => Ok(vec![0; COMMAND_PAYLOAD_BYTES_MAX + 1].into()),
                _ => Err(refusal("that is not done here")),
            }
        })
    }
}

/// A game that notes when which of its nodes has something to do for a room.
struct Clock {
    node: usize,
    ticks: Ticks,
}

type Ticks = Arc<Mutex<BTreeMap<(usize, String), u64>>>;

impl Hooks for Clock {
    fn tick_interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }

    fn on_tick(&self, tick: RoomTick) -> Work {
        let key = (self.node, tick.room.to_string());
        *self.ticks.lock().unwrap().entry(key).or_default() += 1;
        let is_stuck = tick.room.as_str() == "stuck";
        Box::pin(async move {
            if is_stuck {
                pending::<()>().await;
            }
        })
    }
}

fn refusal(why: &str) -> Reject {
    Reject {
        code: ErrorCode::Banned,
        message: why.to_owned(),
        nodes: Vec::new(),
    }
}

fn lab() -> Lab {
    Lab::with(|config| {
        config.hooks = HookSet::new(Game);
        config.hook_timeout = GAME_TIMEOUT;
    })
}

#[tokio::test(start_paused = true)]
async fn a_join_is_refused_by_what_the_game_says_and_nobody_waits_for_a_game_that_hangs() {
    let lab = lab();
    let mut alice = lab.device("alice").await;
    let refused = alice
        .join("closed", JoinMode::JoinOrCreate)
        .await
        .unwrap_err();
    assert_eq!(refused, ErrorCode::Banned);
    let broken = alice
        .join("broken", JoinMode::JoinOrCreate)
        .await
        .unwrap_err();
    assert_eq!(broken, ErrorCode::Unavailable);

    // While the game thinks about one device, others come and go.
    let mut bob = lab.device("bob").await;
    let (stuck, joined) = tokio::join!(alice.join("stuck", JoinMode::JoinOrCreate), async {
        let begin = tokio::time::Instant::now();
        bob.join("r", JoinMode::JoinOrCreate).await.unwrap();
        begin.elapsed()
    });
    assert_eq!(stuck.unwrap_err(), ErrorCode::Unavailable);
    assert!(joined < GAME_TIMEOUT, "{joined:?}");
    alice.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(lab.services.stats().hooks_failed, 2);
}

#[tokio::test(start_paused = true)]
async fn the_game_is_told_whether_a_room_is_opened_and_how_it_behaves() {
    let lab = lab();
    let mut alice = lab.device("alice").await;
    let id = RoomId::parse("ready-made").unwrap();
    for mode in [JoinMode::Create, JoinMode::JoinOrCreate] {
        let refused = alice.join("ready-made", mode).await;
        assert_eq!(refused.unwrap_err(), ErrorCode::Banned);
    }
    let none = alice.join("ready-made", JoinMode::Join).await;
    assert_eq!(none.unwrap_err(), ErrorCode::NoSuchRoom);
    let new = NewRoom {
        settings: Settings {
            empty_kept: Duration::from_secs(60),
            ..Settings::default()
        },
        ..NewRoom::default()
    };
    lab.services.create_room(&id, new, None).await.unwrap();
    let joined = alice.join("ready-made", JoinMode::JoinOrCreate).await;
    assert!(!joined.unwrap().created);

    let large = alice.join_up_to("small", JoinMode::JoinOrCreate, 5).await;
    assert_eq!(large.unwrap_err(), ErrorCode::Banned);
    let small = alice.join_up_to("small", JoinMode::JoinOrCreate, 4).await;
    assert!(small.unwrap().created);
    // What a newcomer wants does not count: the room is there.
    let mut bob = lab.device("bob").await;
    let joined = bob.join_up_to("small", JoinMode::JoinOrCreate, 9).await;
    assert_eq!(joined.unwrap().members_max, 4);
}

#[tokio::test(start_paused = true)]
async fn messages_are_changed_or_refused_by_the_game() {
    let lab = lab();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    for (said, heard) in [("hello", Some("HELLO")), ("as it is", Some("as it is"))] {
        alice.send(message("r", &[], said.as_bytes())).unwrap();
        let delivered = bob.next_delivery().await.1;
        assert_eq!(std::str::from_utf8(&delivered).ok(), heard);
    }
    for said in ["damn", "crash", "flood"] {
        alice.send(message("r", &[], said.as_bytes())).unwrap();
    }
    bob.is_quiet().await;
    assert_eq!(lab.refused(ErrorCode::Banned), 1);
    assert_eq!(lab.refused(ErrorCode::Unavailable), 2);
    assert_eq!(lab.services.stats().hooks_failed, 2);
    alice.send(message("r", &[], b"still here")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "STILL HERE");
}

#[tokio::test(start_paused = true)]
async fn commands_are_answered_or_refused_by_the_game_and_one_that_hangs_ends() {
    let lab = lab();
    let mut alice = lab.device("alice").await;
    let answer = command(&mut alice, "greet", b"!").await;
    assert_eq!(answer, Ok(Bytes::from_static(b"hello alice!")));
    let too_long = vec![0; COMMAND_PAYLOAD_BYTES_MAX + 1];
    for (name, payload, code) in [
        ("unknown", &b""[..], ErrorCode::Banned),
        ("stuck", b"", ErrorCode::Unavailable),
        ("broken", b"", ErrorCode::Unavailable),
        ("flood", b"", ErrorCode::Unavailable),
        ("no name", b"", ErrorCode::BadName),
        ("greet", &too_long, ErrorCode::TooLarge),
    ] {
        assert_eq!(
            command(&mut alice, name, payload).await,
            Err(code),
            "{name}"
        );
    }
    assert_eq!(lab.services.stats().hooks_failed, 3);
    let answer = command(&mut alice, "greet", b"").await;
    assert_eq!(answer, Ok(Bytes::from_static(b"hello alice")));

    let without = Lab::new();
    let mut alice = without.device("alice").await;
    let refused = command(&mut alice, "greet", b"").await;
    assert_eq!(refused, Err(ErrorCode::NoSuchThing));
}

#[tokio::test(start_paused = true)]
async fn one_node_at_a_time_ticks_a_room_and_another_takes_over_when_it_dies() {
    let local = Local::new(LocalConfig::default());
    let ticks = Ticks::default();
    let node = |node: usize| {
        let ticks = Arc::clone(&ticks);
        Lab::on(Arc::new(local.clone()), |config| {
            config.node = NodeId::parse(&format!("node-{node}")).unwrap();
            config.hooks = HookSet::new(Clock { node, ticks });
            config.hook_timeout = GAME_TIMEOUT * 20;
        })
    };
    let nodes = [node(0), node(1)];
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut devices = Vec::new();
    for (user, node, room) in [("a", 0, "r"), ("b", 1, "r"), ("c", 1, "stuck")] {
        let mut device = nodes[node].device(user).await;
        device.join(room, JoinMode::JoinOrCreate).await.unwrap();
        devices.push(device);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = |node: usize, room: &str| {
        let mut ticks = ticks.lock().unwrap();
        ticks.remove(&(node, room.to_owned())).unwrap_or_default()
    };
    for (node, room) in [(0, "r"), (1, "r"), (1, "stuck")] {
        count(node, room);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((count(0, "r"), count(1, "r")), (40, 0));
    assert_eq!(count(1, "stuck"), 2, "each ends after two seconds");

    nodes[0].services.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    count(0, "r");
    assert!(count(1, "r") > 20, "the other has taken over");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((count(0, "r"), count(1, "r")), (0, 40));
}

async fn command(device: &mut Device, name: &str, payload: &[u8]) -> Result<Bytes, ErrorCode> {
    let command = v1::Command {
        name: name.to_owned(),
        payload: Bytes::copy_from_slice(payload),
    };
    let id = device.request(Some(request::Kind::Command(command)));
    match device.next_response(id).await? {
        response::Result::Command(reply) => Ok(reply.payload),
        other => panic!("a command is not answered by {other:?}"),
    }
}
