//! Matches, as the SDK shows them.

use std::time::Duration;

use tombolo_client::{
    Device, ErrorCode, Lane, Match, Name, Player, Reach, RoomOptions, SettingsChange, TicketEvent,
    UserId,
};
use tombolo_node::{MatchPool, Node};

use crate::lab::{device, joined, node_with, recv, soon, user};

const DUEL: &str = r#"
name = "duel"
players = { min = 2, max = 2 }
rules = [{ kind = "distance", attribute = "skill", max = 100 }]
"#;

const TRIO: &str = r#"
name = "trio"
players = { min = 3, max = 3 }
"#;

const QUARTET: &str = r#"
name = "quartet"
players = { min = 4, max = 4 }
"#;

const DIRECT: &str = r#"
name = "direct"
teams = [{ name = "many", min = 3, max = 3 }, { name = "one", min = 1, max = 1 }]
rules = [{ kind = "connectivity", required = true }]
"#;

const TEAMS: &str = r#"
name = "teams"
ready = "30s"
[[teams]]
name = "red"
min = 1
max = 2
[[teams]]
name = "blue"
min = 1
max = 2
"#;

#[tokio::test]
async fn two_devices_find_each_other_meet_in_the_room_and_link() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let bob = device(&node, "bob").await;
    let to_alice = alice.matchmaker().ticket("duel").attribute("skill", 1000.0);
    let ticket = to_alice.submit().await.unwrap();
    let why = ticket.why().await.unwrap();
    assert_eq!((why.looked_at, why.fit), (0, 0));
    let twice = alice.matchmaker().ticket("duel").attribute("skill", 1.0);
    assert_eq!(
        twice.submit().await.unwrap_err().code(),
        Some(ErrorCode::WaitsAlready)
    );
    let to_bob = bob.matchmaker().ticket("duel").attribute("skill", 1050.0);
    let found_by_bob = soon(to_bob.query("+skill:>=900").submit().await.unwrap().found());
    let (for_alice, for_bob) = tokio::join!(soon(ticket.found()), found_by_bob);
    let (for_alice, for_bob) = (for_alice.unwrap(), for_bob.unwrap());
    assert_eq!(for_alice.room.id(), for_bob.room.id());
    assert_eq!(for_alice.teams, for_bob.teams);
    assert!(for_alice.team_of(&user("bob")).is_some());
    // Nobody has to begin a link.
    let linked = tokio::join!(soon(for_alice.next_peer()), soon(for_bob.next_peer()));
    let (to_bob, to_alice) = (linked.0.unwrap(), linked.1.unwrap());
    assert_eq!(
        (to_bob.user(), to_alice.user()),
        (&user("bob"), &user("alice"))
    );
    to_bob.send(Lane::Reliable, "hi").unwrap();
    assert_eq!(recv(&to_alice).await.payload, "hi");
    let same = for_alice.room.peer(&user("bob")).open().unwrap();
    assert_eq!(same, to_bob);
    // The application's handles outlive the match.
    drop((for_alice, for_bob));
    to_alice.send(Lane::Reliable, "bye").unwrap();
    assert_eq!(recv(&to_bob).await.payload, "bye");
}

#[tokio::test]
async fn the_link_with_a_user_that_leaves_and_is_back_is_handed_over_once() {
    let node = node().await;
    let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
    let found = async |device: &Device| {
        let ticket = device.matchmaker().ticket("duel").attribute("skill", 1.0);
        let ticket = ticket.submit().await.unwrap().links_max(usize::MAX);
        ticket.found().await.unwrap()
    };
    let (for_alice, for_bob) = tokio::join!(soon(found(&alice)), soon(found(&bob)));
    let linked = tokio::join!(soon(for_alice.next_peer()), soon(for_bob.next_peer()));
    let (to_bob, to_alice) = (linked.0.unwrap(), linked.1.unwrap());
    let room = for_bob.room.id().clone();
    soon(for_bob.room.leave()).await.unwrap();
    let unlocked = SettingsChange {
        is_locked: Some(false),
        ..SettingsChange::default()
    };
    soon(for_alice.room.configure(unlocked)).await.unwrap();
    let rooms = bob.rooms();
    let back = rooms.join(room.as_str(), RoomOptions::default());
    let _back = soon(back).await.unwrap();
    soon(joined(&for_alice.room, "bob")).await;
    for _ in 0..10 {
        to_alice.send(Lane::Reliable, "still").unwrap();
        assert_eq!(recv(&to_bob).await.payload, "still");
    }
    soon(alice.close()).await;
    assert_eq!(soon(for_alice.next_peer()).await, None);
}

#[tokio::test]
async fn in_a_match_of_more_users_than_are_linked_with_all_each_links_with_the_host() {
    let node = node().await;
    let found = async |name, reach, links_max| {
        let device = device(&node, name).await;
        let ticket = device.matchmaker().ticket("quartet").reach(reach);
        let ticket = ticket.submit().await.unwrap().links_max(links_max);
        let found = ticket.found().await.unwrap();
        (device, found)
    };
    let all = tokio::join!(
        soon(found("alice", Reach::Symmetric, 0)),
        soon(found("bob", Reach::Symmetric, 2)),
        soon(found("carol", Reach::Open, 1)),
        soon(found("dave", Reach::Symmetric, 3)),
    );
    let ((_a, for_alice), (bob, for_bob), (carol, for_carol), (_d, for_dave)) = all;
    assert_eq!(for_bob.host, Some(user("carol")));
    for (found, others) in [
        (&for_carol, &["alice", "bob", "dave"][..]),
        (&for_dave, &["alice", "bob", "carol"]),
        (&for_bob, &["carol"]),
    ] {
        let mut linked = Vec::new();
        while linked.len() < others.len() {
            linked.push(soon(found.next_peer()).await.unwrap().user().to_string());
        }
        linked.sort_unstable();
        assert_eq!(linked, others);
    }
    assert!(soon(for_alice.next_peer()).await.is_none(), "it wants none");
    // No more come.
    for (device, found) in [(&bob, &for_bob), (&carol, &for_carol)] {
        soon(device.clone().close()).await;
        assert_eq!(soon(found.next_peer()).await, None);
    }
}

#[tokio::test]
async fn who_joins_a_running_match_of_too_many_users_links_with_its_host() {
    let node = node().await;
    let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
    let found = async |device: &Device| {
        // Where nobody reaches anybody there is no host.
        let ticket = device.matchmaker().ticket("teams").reach(Reach::Open);
        ticket.submit().await.unwrap().found().await.unwrap()
    };
    let (for_alice, for_bob) = tokio::join!(soon(found(&alice)), soon(found(&bob)));
    soon(joined(&for_alice.room, "bob")).await;
    let is_alices = soon(owner_of(&for_alice)).await == user("alice");
    let owned = if is_alices { &for_alice } else { &for_bob };
    let asking = owned.backfill(teams_of(owned), Duration::from_secs(30));
    let _backfill = soon(asking).await.unwrap();
    let carol = device(&node, "carol").await;
    let ticket = carol.matchmaker().ticket("teams").submit().await.unwrap();
    let joins = soon(ticket.links_max(1).found()).await.unwrap();
    assert!(joins.is_running);
    let host = joins.host.clone().unwrap();
    assert_eq!(soon(joins.next_peer()).await.unwrap().user(), &host);
    // Another one that comes up would be handed over.
    for name in ["alice", "bob"] {
        let peer = joins.room.peer(&user(name)).open().unwrap();
        soon(peer.ready()).await.unwrap();
    }
    soon(carol.close()).await;
    assert_eq!(soon(joins.next_peer()).await, None);
}

#[tokio::test]
async fn a_party_goes_by_how_each_of_its_devices_is_reached() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let options = RoomOptions {
        with_code: true,
        ..RoomOptions::default()
    };
    let party = alice.rooms().create("party-1", options).await.unwrap();
    let bob = device(&node, "bob").await;
    let named = bob.rooms().join("party-1", RoomOptions::default()).await;
    let _in_it = named.unwrap();
    let carol = device(&node, "carol").await;
    let code = party.code().unwrap();
    let by_code = carol.rooms().join_code(code, RoomOptions::default()).await;
    let _in_it = by_code.unwrap();
    let others = ["bob", "carol"].map(|name| Player::new(user(name)));
    let ticket = alice.matchmaker().ticket("direct").party(&party, others);
    let ticket = ticket.submit().await.unwrap();
    let dave = device(&node, "dave").await;
    let hard = dave.matchmaker().ticket("direct");
    let hard = hard.reach(Reach::PortRestricted).submit().await.unwrap();
    let (found, _) = tokio::join!(soon(ticket.found()), soon(hard.found()));
    assert_eq!(found.unwrap().teams.len(), 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_ticket_is_told_before_or_by_the_node() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let ticket = || alice.matchmaker().ticket("duel");
    for wrong in [
        ticket().attribute("skill", f64::NAN),
        ticket().attribute("no such name", 1.0),
        ticket().query("+"),
        ticket().role("-"),
    ] {
        let error = wrong.submit().await.unwrap_err();
        assert_eq!(error.code(), None, "{error}");
    }
    for (refused, code) in [
        (ticket(), ErrorCode::BadTicket),
        (ticket().attribute("skill", "a text"), ErrorCode::BadTicket),
        (alice.matchmaker().ticket("none"), ErrorCode::NoSuchPool),
    ] {
        assert_eq!(refused.submit().await.unwrap_err().code(), Some(code));
    }
}

#[tokio::test]
async fn a_ticket_that_is_dropped_or_cancelled_makes_room_for_another() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let ticket = || alice.matchmaker().ticket("duel").attribute("skill", 1.0);
    drop(ticket().submit().await.unwrap());
    ticket().submit().await.unwrap().cancel().await.unwrap();
    let mut last = ticket().submit().await.unwrap();
    let event = soon(last.next_event()).await.unwrap();
    assert!(
        matches!(&event, TicketEvent::Waits(status) if status.waiting == 1),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_party_is_asked_plays_together_and_fills_up_its_running_match() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let bob = device(&node, "bob").await;
    let carol = device(&node, "carol").await;
    let options = RoomOptions::default;
    let party = alice.rooms().create("party-1", options()).await.unwrap();
    let _also = bob.rooms().join("party-1", options()).await.unwrap();
    soon(joined(&party, "bob")).await;

    let ticket = alice.matchmaker().ticket("teams");
    let ticket = ticket.party(&party, [Player::new(user("bob"))]);
    let for_alice = ticket.submit().await.unwrap();
    let for_bob = soon(bob.matchmaker().next_ticket()).await.unwrap();
    assert_eq!(for_bob.id(), for_alice.id());
    let for_carol = carol.matchmaker().ticket("teams").submit().await.unwrap();
    let all = tokio::join!(
        soon(for_alice.found()),
        soon(for_bob.found()),
        soon(for_carol.found())
    );
    let (for_alice, for_bob, for_carol) = (all.0.unwrap(), all.1.unwrap(), all.2.unwrap());
    let team = for_alice.team_of(&user("alice")).unwrap();
    assert_eq!(for_bob.team_of(&user("bob")), Some(team));
    assert_ne!(for_carol.team_of(&user("carol")), Some(team));

    // Whoever came first owns the room, and asks for one more.
    soon(joined(&for_alice.room, "carol")).await;
    let owned = match soon(owner_of(&for_alice)).await.as_str() {
        "alice" => &for_alice,
        "bob" => &for_bob,
        _ => &for_carol,
    };
    let backfill = owned
        .backfill(teams_of(&for_alice), Duration::from_secs(30))
        .await
        .unwrap();
    let again = owned.backfill(Vec::new(), Duration::from_secs(30)).await;
    assert!(again.unwrap_err().to_string().contains("already"));
    let dave = device(&node, "dave").await;
    let joins = dave.matchmaker().ticket("teams").submit().await.unwrap();
    let joins = soon(joins.found()).await.unwrap();
    assert!(joins.is_running);
    assert_eq!(joins.room.id(), for_alice.room.id());
    let mut others = Vec::new();
    while others.len() < 3 {
        others.push(soon(joins.next_peer()).await.unwrap().user().to_string());
    }
    others.sort_unstable();
    assert_eq!(others, ["alice", "bob", "carol"]);
    let mut status = backfill.status();
    while status.ended.is_none() {
        status = soon(backfill.changed()).await.unwrap();
    }
    assert_eq!(status.ended.as_deref(), Some("filled"));
}

#[tokio::test]
async fn a_party_changes_while_its_ticket_waits() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let bob = device(&node, "bob").await;
    let options = RoomOptions::default;
    let party = alice.rooms().create("party-1", options()).await.unwrap();
    let with_bob = bob.rooms().join("party-1", options()).await.unwrap();
    soon(joined(&party, "bob")).await;
    let ticket = alice.matchmaker().ticket("trio");
    let ticket = ticket.party(&party, [Player::new(user("bob"))]);
    let for_alice = ticket.submit().await.unwrap();
    let mut for_bob = soon(bob.matchmaker().next_ticket()).await.unwrap();

    drop(with_bob);
    let alone = [Player::new(user("alice"))];
    for_alice.change_party(&party, alone).await.unwrap();
    loop {
        let event = soon(for_bob.next_event()).await.unwrap();
        if let TicketEvent::Ended(reason) = event {
            break assert_eq!(reason, "cancelled");
        }
        assert!(matches!(event, TicketEvent::Waits(_)), "{event:?}");
    }
    let mut others = Vec::new();
    for name in ["carol", "dave"] {
        let device = device(&node, name).await;
        let room = device.rooms().join("party-1", options()).await.unwrap();
        soon(joined(&party, name)).await;
        others.push((device, room));
    }
    let all = ["carol", "alice", "dave"].map(|name| Player::new(user(name)));
    for_alice.change_party(&party, all).await.unwrap();
    let found = soon(for_alice.found()).await.unwrap();
    let mut users: Vec<_> = found.teams[0]
        .members
        .iter()
        .map(|(user, _)| user.to_string())
        .collect();
    users.sort_unstable();
    assert_eq!(users, ["alice", "carol", "dave"]);
    for (device, _) in &others {
        let ticket = soon(device.matchmaker().next_ticket()).await.unwrap();
        let also = soon(ticket.found()).await.unwrap();
        assert_eq!(also.room.id(), found.room.id());
    }
}

/// Its teams, each of one party.
fn teams_of(found: &Match) -> Vec<(Name, Vec<Vec<Player>>)> {
    let teams = found.teams.iter().map(|team| {
        let members = team.members.iter().map(|(user, _)| user.clone());
        (team.name.clone(), vec![members.map(Player::new).collect()])
    });
    teams.collect()
}

/// Who owns a match's room, once that is known.
pub(crate) async fn owner_of(found: &Match) -> UserId {
    loop {
        if let Some(owner) = found.room.read(|view| view.owner.clone()) {
            return owner;
        }
        tokio::task::yield_now().await;
    }
}

async fn node() -> Node {
    node_with(|node| {
        let pool = |text| MatchPool::parse(text).unwrap();
        let node = node.pool(pool(DUEL)).pool(pool(TEAMS));
        let node = node.pool(pool(DIRECT)).pool(pool(TRIO));
        node.pool(pool(QUARTET))
    })
    .await
}
