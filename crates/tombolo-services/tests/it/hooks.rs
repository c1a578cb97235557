//! Where a game's own code has a say.

use std::future::pending;
use std::time::Duration;

use tombolo_services::{Decision, HookSet, Hooks, MemberMessage, Reject, Verdict};
use tombolo_wire::v1::{ErrorCode, JoinMode};
use tombolo_wire::{RoomId, UserId};

use crate::lab::{Lab, message};

/// Shorter than the patience of the devices here.
const GAME_TIMEOUT: Duration = Duration::from_millis(100);

/// A game in which "closed" lets nobody in, "stuck" never answers, "broken" panics, and messages are in
/// capitals unless they swear.
struct Game;

impl Hooks for Game {
    fn authorize_join(&self, user: UserId, room: RoomId) -> Decision {
        Box::pin(async move {
            match room.as_str() {
                "closed" => Err(refusal(&format!("{user} is not on the list"))),
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
