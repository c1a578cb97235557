//! Says hi to somebody in the room `lobby`, and waits for an answer. With a node (`tombolo serve --dev`) and
//! somebody who is there (`tombolo peer --server URL --user alice --room lobby`):
//!
//! ```text
//! cargo run -p tombolo-client --example hello -- URL
//! ```

#![allow(clippy::print_stdout, reason = "it is for people")]

use std::error::Error;

use tombolo_client::{Device, Lane, RoomOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1);
    hello(&url.ok_or("say the URL that the node printed")?).await
}

/// Done when somebody has answered.
pub(crate) async fn hello(url: &str) -> Result<(), Box<dyn Error>> {
    let device = Device::builder(url)
        .development_user("bob")
        .connect()
        .await?;
    let room = device
        .rooms()
        .join_or_create("lobby", RoomOptions::default())
        .await?;
    let me = device.session().user;
    let other = loop {
        if let Some(other) = room.members().into_iter().find(|user| *user != me) {
            break other;
        }
        room.next_event().await.ok_or("the room is over")?;
    };
    let peer = room.peer(&other).connect().await?; // relayed at once, direct as soon as possible
    peer.send(Lane::Reliable, "hi")?; // the path changes underneath
    let answer = peer.recv().await.ok_or("the link is over")?;
    println!("{other} sent {} bytes", answer.payload.len());
    device.close().await; // delivers what is on its way
    Ok(())
}
