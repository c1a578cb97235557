//! Commands, as the SDK shows them.

use bytes::Bytes;
use tombolo_client::ErrorCode;
use tombolo_node::{DeviceCommand, Hooks, Node, Reject, Reply};

use crate::lab::device;

struct Game;

impl Hooks for Game {
    fn on_command(&self, command: DeviceCommand) -> Reply {
        Box::pin(async move {
            if command.name.as_str() != "whoami" {
                return Err(Reject {
                    code: ErrorCode::NoSuchThing,
                    message: "the game knows no such command".to_owned(),
                    nodes: Vec::new(),
                });
            }
            Ok([command.caller.as_str().as_bytes(), &command.payload]
                .concat()
                .into())
        })
    }
}

#[tokio::test]
async fn a_command_is_answered_by_the_games_own_code() {
    let node = Node::builder()
        .dev()
        .listen([127, 0, 0, 1].into())
        .port(0)
        .turn_port(0)
        .turns_port(0)
        .hooks(Game)
        .start()
        .await
        .unwrap();
    let alice = device(&node, "alice").await;
    let answer = alice.command("whoami", "!").await.unwrap();
    assert_eq!(answer, Bytes::from_static(b"alice!"));
    let refused = alice.command("other", "").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NoSuchThing));
    node.shutdown().await;
}
