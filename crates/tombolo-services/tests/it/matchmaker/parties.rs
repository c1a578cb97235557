//! Parties that change while their tickets wait.

use super::*;

#[tokio::test(start_paused = true)]
async fn only_the_first_of_a_party_changes_it() {
    let lab = lab();
    let [mut alice, mut bob] = lab.members("party-1", ["alice", "bob"]).await;
    let both = [("alice", 0.0), ("bob", 0.0)];
    let asked = ask_submit(&mut alice, "teams", 1, &both, 0, "party-1");
    status(alice.response_among(asked).await).unwrap();
    let mut own = lab.device("bob").await;
    own.join("party-2", JoinMode::Create).await.unwrap();
    for (party, room) in [
        (&both[1..], ""),
        (&both[1..], "party-1"),
        (&both[1..], "party-2"),
        (&both, "party-1"),
    ] {
        for device in [&mut bob, &mut own] {
            let refused = ask(device, "teams", change(1, party, room)).await;
            assert_eq!(
                refused,
                Err(ErrorCode::NotPermitted),
                "{party:?} in {room:?}"
            );
        }
    }
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut carol, "teams", 2, &[("carol", 0.0)])
        .await
        .unwrap();
    let found = found(&mut alice).await;
    assert_eq!(users(&found), ["alice", "bob", "carol"]);
}

#[tokio::test(start_paused = true)]
async fn whom_a_party_leaves_out_is_told_on_its_node_and_whom_it_takes_in_as_well() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = seeker(&nodes[0], "alice").await;
    let mut bob = seeker(&nodes[1], "bob").await;
    let mut carol = seeker(&nodes[1], "carol").await;
    alice.join("party-1", JoinMode::Create).await.unwrap();
    for device in [&mut bob, &mut carol] {
        device.join("party-1", JoinMode::Join).await.unwrap();
    }
    alice.drain().await;
    let asked = ask_submit(
        &mut alice,
        "teams",
        1,
        &[("alice", 0.0), ("bob", 0.0)],
        0,
        "party-1",
    );
    status(alice.response_among(asked).await).unwrap();
    waits(&mut bob).await;
    let others = [("alice", 0.0), ("carol", 0.0)];
    let changed = ask(&mut alice, "teams", change(1, &others, "party-1")).await;
    assert_eq!(status(changed.map(Some)).unwrap().revision, 1);
    assert_eq!(ended(&mut bob).await, "cancelled");
    assert_eq!(waits(&mut carol).await.revision, 1);
    let mut dave = seeker(&nodes[0], "dave").await;
    submit(&mut dave, "teams", 2, &[("dave", 0.0)])
        .await
        .unwrap();
    for device in [&mut alice, &mut carol, &mut dave] {
        assert_eq!(users(&found(device).await), ["alice", "carol", "dave"]);
    }
    bob.is_quiet_of_matches().await;
    let free = submit(&mut bob, "teams", 3, &[("bob", 0.0)]).await;
    assert!(free.is_ok(), "{free:?}");
}

#[tokio::test(start_paused = true)]
async fn a_party_that_is_asked_whether_it_is_ready_changes_only_afterwards() {
    let lab = lab();
    let ([mut alice, mut bob], number) = both_asked(&lab).await;
    let changed = change(1, &[("alice", 7.0)], "");
    let held = ask(&mut alice, "ready", changed.clone()).await;
    assert_eq!(held, Err(ErrorCode::Conflict));
    ask(&mut bob, "ready", decline(number)).await.unwrap();
    event(&mut alice, |kind| match kind {
        match_event::Kind::Failed(failed) => Some(failed.number),
        _ => None,
    })
    .await;
    let changed = ask(&mut alice, "ready", changed).await;
    assert_eq!(status(changed.map(Some)).unwrap().revision, 1);
}

fn change(number: u32, party: &[(&str, f64)], room: &str) -> match_request::Kind {
    match_request::Kind::Change(v1::ChangeTicket {
        id: id(number),
        players: players(party),
        party: room.to_owned(),
    })
}

async fn waits(device: &mut Device) -> v1::TicketStatus {
    event(device, |kind| match kind {
        match_event::Kind::Status(status) => Some(status),
        _ => None,
    })
    .await
}
