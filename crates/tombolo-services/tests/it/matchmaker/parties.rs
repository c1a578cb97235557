//! Parties that change while their tickets wait.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_party_of_a_room_plays_together_and_each_of_its_devices_is_told() {
    let lab = lab();
    let mut party = lab.members("party-1", ["alice", "bob"]).await;
    let mut carol = seeker(&lab, "carol").await;
    let [alice, bob] = &mut party;
    let both = [("alice", 0.0), ("bob", 0.0)];
    let id = ask_submit(alice, "teams", 1, &both, 0, "party-1");
    assert!(status(alice.response_among(id).await).is_ok());
    event(bob, |kind| match kind {
        match_event::Kind::Status(status) => Some(status.waiting),
        _ => None,
    })
    .await;
    submit(&mut carol, "teams", 2, &[("carol", 0.0)])
        .await
        .unwrap();
    let seen = [
        found(alice).await,
        found(bob).await,
        found(&mut carol).await,
    ];
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    let teams: Vec<_> = seen[0]
        .teams
        .iter()
        .map(|team| team.members.len())
        .collect();
    assert_eq!(teams.iter().sum::<usize>(), 3);
    let party = seen[0].teams.iter().find(|team| team.members.len() == 2);
    let party = party.unwrap().members.iter();
    let mut party: Vec<_> = party.map(|member| member.user.as_str()).collect();
    party.sort_unstable();
    assert_eq!(party, ["alice", "bob"]);
    let mut roles = seen[0].teams.iter().flat_map(|team| &team.members);
    assert!(roles.all(|member| !member.role.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_drawn_into_a_party_who_is_not_in_its_room() {
    let lab = lab();
    let [mut alice, mut bob] = lab.members("party-1", ["alice", "bob"]).await;
    let _carol = seeker(&lab, "carol").await;
    for (players, room) in [
        (&[("alice", 0.0), ("carol", 0.0)][..], "party-1"),
        (&[("alice", 0.0), ("bob", 0.0)], ""),
        (&[("alice", 0.0), ("bob", 0.0)], "elsewhere"),
        (&[("bob", 0.0)], "party-1"),
    ] {
        let id = ask_submit(&mut alice, "teams", 1, players, 0, room);
        assert_eq!(
            status(alice.response_among(id).await),
            Err(ErrorCode::NotPermitted),
            "{players:?} in {room:?}"
        );
    }
    // A party that changes keeps its ticket, and whoever is in it may end it.
    submit(&mut alice, "teams", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    let change = match_request::Kind::Change(v1::ChangeTicket {
        id: id(1),
        players: players(&[("alice", 0.0), ("bob", 0.0)]),
        party: "party-1".into(),
    });
    let changed = status(ask(&mut alice, "teams", change).await.map(Some));
    assert_eq!(changed.unwrap().revision, 1);
    ask(&mut bob, "teams", cancel(1)).await.unwrap();
    assert_eq!(ended(&mut alice).await, "cancelled");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_drawn_into_a_party_who_has_not_joined_its_owners_room_for_that() {
    let lab = lab_with(|config| config.tickets_per_user_max = 1);
    let both = [("alice", 0.0), ("mallory", 0.0)];
    let [mut mallory, _] = lab.members("lobby", ["mallory", "alice"]).await;
    let request = ask_submit(&mut mallory, "teams", 1, &both, 0, "lobby");
    let drawn_in = status(mallory.response_among(request).await);
    assert_eq!(drawn_in, Err(ErrorCode::NotPermitted), "it is no party's");
    let [mut alice, mut mallory] = lab.members("party-1", ["alice", "mallory"]).await;
    let request = ask_submit(&mut mallory, "teams", 1, &both, 0, "party-1");
    let drawn_in = status(mallory.response_among(request).await);
    assert_eq!(
        drawn_in,
        Err(ErrorCode::NotPermitted),
        "it is another's party"
    );
    submit(&mut mallory, "duel", 2, &[("mallory", 0.0)])
        .await
        .unwrap();
    let request = ask_submit(&mut alice, "teams", 3, &both, 0, "party-1");
    let drawn_in = status(alice.response_among(request).await);
    assert_eq!(
        drawn_in,
        Err(ErrorCode::Limit),
        "who has as many tickets as it may"
    );
    submit(&mut alice, "teams", 4, &[("alice", 0.0)])
        .await
        .unwrap();
    // Nor by another way.
    let change = match_request::Kind::Change(v1::ChangeTicket {
        id: id(4),
        players: players(&both),
        party: "party-1".into(),
    });
    let drawn_in = ask(&mut alice, "teams", change).await;
    assert_eq!(drawn_in.map(drop), Err(ErrorCode::Limit));
}

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
