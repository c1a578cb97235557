//! Matches whose users mean no good, or are not there when it counts.

use tombolo_match::Reach;
use tombolo_wire::v1::{client_frame, room_act};

use super::*;

#[tokio::test(start_paused = true)]
async fn each_match_has_a_room_of_its_own_whatever_its_tickets_are_called() {
    let lab = lab();
    let mut mallory = seeker(&lab, "mallory").await;
    let mut rooms = BTreeSet::new();
    for (pool, other) in [("duel", "alice"), ("teams", "bob")] {
        let mut other = seeker(&lab, other).await;
        let user = other.user.clone();
        submit(&mut other, pool, 2, &[(&user, 0.0)]).await.unwrap();
        submit(&mut mallory, pool, 1, &[("mallory", 0.0)])
            .await
            .unwrap();
        let room = found(&mut other).await.room;
        assert_eq!(found(&mut mallory).await.room, room);
        let joined = other.join(&room, JoinMode::Join).await;
        assert!(joined.is_ok(), "{user} has a seat in {room}: {joined:?}");
        rooms.insert(room);
    }
    assert_eq!(rooms.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_running_match_says_of_all_in_its_room_where_they_play_and_asks_its_own_pool() {
    let (mut alice, _bob, first, lab) = running().await;
    let both = [("alice", "red"), ("bob", "blue")];
    let refused = [
        ("teams", &both[..1], ErrorCode::BadTicket),
        (
            "teams",
            &[("alice", "red"), ("alice", "blue")],
            ErrorCode::BadTicket,
        ),
        (
            "teams",
            &[("alice", "red"), ("carol", "blue")],
            ErrorCode::NotPermitted,
        ),
        ("duel", &both[..1], ErrorCode::NotPermitted),
    ];
    for (pool, players, code) in refused {
        let opened = ask(&mut alice, pool, open(&first, 0, players)).await;
        assert_eq!(opened, Err(code), "{players:?} in {pool}");
    }
    // Who has a seat kept takes one of those that are free, unless it is named.
    keep_seats(&mut alice, &first.room, &["dave"]).await;
    let opened = ask(&mut alice, "teams", open(&first, 0, &both)).await;
    assert_eq!(opened, Err(ErrorCode::BadTicket));
    let named = [both[0], both[1], ("dave", "blue")];
    let opened = ask(&mut alice, "teams", open(&first, 0, &named)).await;
    assert!(opened.is_ok(), "{opened:?}");
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut carol, "teams", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    assert_eq!(found(&mut carol).await.room, first.room);
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_in_a_running_match_looks_on_and_nobody_else_is_asked() {
    let (mut alice, _bob, first, lab) = running().await;
    let both = [("alice", "red"), ("bob", "blue")];
    let opened = ask(&mut alice, "teams", open(&first, 0, &both)).await;
    assert!(opened.is_ok(), "{opened:?}");
    keep_seats(&mut alice, &first.room, &["dave", "erin"]).await;
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut carol, "teams", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    let failed = event(&mut carol, |kind| match kind {
        match_event::Kind::Failed(failed) => Some(failed.number),
        match_event::Kind::Ended(ended) => panic!("{ended:?}"),
        _ => None,
    });
    failed.await;
    let closed = event(&mut alice, |kind| match kind {
        match_event::Kind::Backfill(status) if !status.ended.is_empty() => Some(status.ended),
        _ => None,
    });
    assert_eq!(closed.await, "closed");
    carol.is_quiet_of_matches().await;
    let mut frank = seeker(&lab, "frank").await;
    submit(&mut frank, "teams", 4, &[("frank", 0.0)])
        .await
        .unwrap();
    let second = found(&mut carol).await;
    assert_eq!(users(&second), ["carol", "frank"]);
    assert_ne!(second.room, first.room);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_whose_device_says_goodbye_behind_it_does_not_stay() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    // What it asked before is still under way.
    alice.ask_join("r", JoinMode::Create, 2);
    ask_submit(&mut alice, "duel", 1, &[("alice", 0.0)], 0, "");
    alice
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = seeker(&lab, "alice").await;
    let status = submit(&mut alice, "duel", 2, &[("alice", 0.0)]).await;
    assert_eq!(status.map(|status| status.waiting), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_is_given_up_right_before_the_goodbye_does_not_stay() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 60)
        .await
        .unwrap();
    alice.request(Some(request::Kind::Matchmaker(v1::MatchRequest {
        pool: "duel".to_owned(),
        kind: Some(cancel(1)),
    })));
    alice
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    // Its place would be kept for its device for longer than that.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut alice = seeker(&lab, "alice").await;
    let status = submit(&mut alice, "duel", 2, &[("alice", 0.0)]).await;
    assert_eq!(status.map(|status| status.waiting), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn who_was_away_already_when_its_party_was_submitted_is_away() {
    let lab = lab();
    let [mut alice, mut bob] = lab.members("party-1", ["alice", "bob"]).await;
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let both = [("alice", 0.0), ("bob", 0.0)];
    let id = ask_submit(&mut alice, "teams", 1, &both, 20, "party-1");
    assert!(status(alice.response_among(id).await).is_ok());
    let away = event(&mut alice, |kind| match kind {
        match_event::Kind::Status(status) => Some(status.away),
        _ => None,
    });
    assert_eq!(away.await, ["bob"]);
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut carol, "teams", 2, &[("carol", 0.0)])
        .await
        .unwrap();
    // Longer than a match waits for more users.
    tokio::time::sleep(Duration::from_secs(5)).await;
    carol.is_quiet_of_matches().await;
    assert!(bob.connect(&lab).await.unwrap().resumed);
    found(&mut carol).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_is_in_a_ticket_comes_back_by_its_id_alone() {
    let lab = lab();
    let [mut alice, bob] = lab.members("party-1", ["alice", "bob"]).await;
    let both = [("alice", 0.0), ("bob", 0.0)];
    let id = ask_submit(&mut alice, "teams", 1, &both, 60, "party-1");
    assert!(status(alice.response_among(id).await).is_ok());
    drop(bob);
    tokio::time::sleep(Duration::from_secs(40)).await;
    let mut bob = seeker(&lab, "bob").await;
    let status = submit(&mut bob, "teams", 1, &[]).await;
    assert_eq!(status.map(|status| status.away), Ok(Vec::new()));
    let mut carol = seeker(&lab, "carol").await;
    assert_eq!(
        submit(&mut carol, "teams", 1, &[]).await,
        Err(ErrorCode::NoSuchThing),
        "a ticket of others"
    );
    submit(&mut carol, "teams", 2, &[("carol", 0.0)])
        .await
        .unwrap();
    let room = found(&mut carol).await.room;
    assert_eq!(found(&mut bob).await.room, room);
}

#[tokio::test(start_paused = true)]
async fn who_was_away_when_its_match_began_is_told_when_it_comes_back() {
    let (nodes, local) = cluster::<2>().await;
    let matcher = leader(&BTreeSet::new(), &local).await;
    let (stays, dies) = (&nodes[matcher], &nodes[1 - matcher]);
    let mut alice = seeker(dies, "alice").await;
    submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 60)
        .await
        .unwrap();
    dies.services.kill();
    // Nobody knows of it yet.
    let mut bob = seeker(stays, "bob").await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    let room = found(&mut bob).await.room;
    let mut mallory = seeker(stays, "mallory").await;
    assert_eq!(
        submit(&mut mallory, "duel", 1, &[("mallory", 0.0)]).await,
        Err(ErrorCode::Conflict)
    );

    let mut alice = seeker(stays, "alice").await;
    let status = submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 60).await;
    assert!(status.is_ok(), "{status:?}");
    assert_eq!(found(&mut alice).await.room, room);
    assert!(alice.join(&room, JoinMode::Join).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_over_a_node_that_came_after_its_match_is_told_of_it() {
    let local = Local::new(LocalConfig::default());
    let start = |name| patient(&local, name);
    let first = start("node-0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&first, "alice").await;
    submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 60)
        .await
        .unwrap();
    alice.connection = None;
    let mut bob = seeker(&first, "bob").await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    let room = found(&mut bob).await.room;
    let mut carol = seeker(&first, "carol").await;
    for number in 0..4_200 {
        submit(&mut carol, "duel", 10 + number, &[("carol", 9000.0)])
            .await
            .unwrap();
        ask(&mut carol, "duel", cancel(10 + number)).await.unwrap();
    }
    let key = pool_key(&local, "pool").await;
    let mut tail = local.tail(&key, None).await.unwrap();
    let begin = tail.next().await.unwrap();
    assert!(matches!(begin, TailEvent::Snapshot { .. }), "{begin:?}");

    let second = start("node-1");
    tokio::time::sleep(Duration::from_secs(10)).await;
    first.services.kill();
    let mut alice = seeker(&second, "alice").await;
    let status = submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 60).await;
    assert!(status.is_ok(), "{status:?}");
    assert_eq!(found(&mut alice).await.room, room);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_this_release_cannot_read_keeps_no_other_from_knowing_who_is_away() {
    let (nodes, local) = cluster::<1>().await;
    let mut alice = seeker(&nodes[0], "alice").await;
    for pool in ["duel", "teams"] {
        submit_for(&mut alice, pool, 1, &[("alice", 0.0)], 60)
            .await
            .unwrap();
    }
    // A later release writes into one of them.
    let time = tombolo_match::Time::from_millis(now().as_millis() as u64);
    let operation = [9; 16];
    let entry = Entry {
        time,
        body: Body::Ticked,
    };
    let mut entry = entry.encode(tombolo_match::OperationId(operation)).to_vec();
    entry[1] += 1;
    let key = pool_key(&local, "pool").await;
    let operation = tombolo_engine::OperationId(operation);
    let appended = local.append(&key, entry.into(), Purpose::More, Expect::Any, operation);
    appended.await.unwrap();
    alice.connection = None;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut bob = seeker(&nodes[0], "bob").await;
    submit(&mut bob, "teams", 2, &[("bob", 0.0)]).await.unwrap();
    // Longer than a match waits for more users.
    tokio::time::sleep(Duration::from_secs(5)).await;
    bob.is_quiet_of_matches().await;
    assert!(alice.connect(&nodes[0]).await.unwrap().resumed);
    found(&mut bob).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clock_is_ahead_neither_ends_nor_relaxes_what_others_wait_for() {
    let local = Local::new(LocalConfig::default());
    let start = |name: &str, clock: fn() -> Duration| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            serve_pools(config);
            config.unix_now = clock;
            config.node = NodeId::parse(name).unwrap();
        })
    };
    let right = &start("right", now);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(right, "alice").await;
    let party = [("alice", 0.0)];
    submit_for(&mut alice, "duel", 1, &party, 300)
        .await
        .unwrap();
    alice.connection = None;
    let (mut bob, mut carol) = (seeker(right, "bob").await, seeker(right, "carol").await);
    let before = Instant::now();
    submit(&mut bob, "duel", 2, &[("bob", 2000.0)])
        .await
        .unwrap();
    submit(&mut carol, "duel", 3, &[("carol", 2400.0)])
        .await
        .unwrap();
    let ahead = start("ahead", an_hour_ahead);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut dave = seeker(&ahead, "dave").await;
    submit(&mut dave, "duel", 4, &[("dave", 9000.0)])
        .await
        .unwrap();
    assert_eq!(users(&found(&mut bob).await), ["bob", "carol"]);
    assert!(before.elapsed() > Duration::from_secs(15));
    let mut alice = seeker(right, "alice").await;
    let back = submit_for(&mut alice, "duel", 1, &party, 300).await;
    assert_eq!(back.map(|status| status.away), Ok(Vec::new()));
}

fn an_hour_ahead() -> Duration {
    now() + Duration::from_secs(3600)
}

/// Asks for more users; these play already, each in its team.
fn open(first: &v1::MatchFound, after: u32, users: &[(&str, &str)]) -> match_request::Kind {
    let teams = ["red", "blue"].map(|name| v1::BackfillTeam {
        name: name.to_owned(),
        parties: users
            .iter()
            .filter(|(_, team)| *team == name)
            .map(|(user, _)| v1::BackfillParty {
                players: players(&[(user, 0.0)]),
            })
            .collect(),
    });
    match_request::Kind::Backfill(v1::OpenBackfill {
        id: first.id.clone(),
        after,
        teams: teams.to_vec(),
        lease_ms: 60_000,
        venue: None,
    })
}

async fn keep_seats(device: &mut Device, room: &str, users: &[&str]) {
    let reserve = room_act::Kind::Reserve(v1::Reserve {
        users: users.iter().map(ToString::to_string).collect(),
        lasts_ms: 60_000,
    });
    device.act(room, reserve).await.unwrap();
}

/// Takes no device's word for how it is reached.
struct Distrustful;

impl Hooks for Distrustful {
    fn authorize_ticket(&self, _: UserId, _: MatchName, mut ticket: MatchTicket) -> Admission {
        for player in &mut ticket.players {
            player.reach = Reach::Unknown;
        }
        Box::pin(async move { Ok(ticket) })
    }
}

#[tokio::test(start_paused = true)]
async fn the_games_own_code_has_the_last_word_on_how_a_device_is_reached() {
    let direct = "name = \"direct\"\nplayers = { min = 2, max = 2 }
        rules = [{ kind = \"connectivity\", required = true }]";
    let lab = lab_with(|config| {
        config.pools.push(MatchPool::parse(direct).unwrap());
        config.hooks = HookSet::new(Distrustful);
    });
    let mut alice = seeker(&lab, "alice").await;
    let open = v1::PropertyValue {
        kind: Some(v1::property_value::Kind::Text("open".to_owned())),
    };
    let join = alice.request(Some(request::Kind::Join(v1::Join {
        room: "party-1".to_owned(),
        mode: JoinMode::JoinOrCreate.into(),
        member_properties: vec![v1::PropertyChange {
            key: Reach::PROPERTY.to_owned(),
            operation: Some(v1::property_change::Operation::Set(open)),
            ..v1::PropertyChange::default()
        }],
        ..v1::Join::default()
    })));
    alice.next_response(join).await.unwrap();
    let ticket = ask_submit(&mut alice, "direct", 1, &[("alice", 0.0)], 0, "party-1");
    status(alice.response_among(ticket).await).unwrap();
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut bob, "direct", 2, &[("bob", 0.0)])
        .await
        .unwrap();
    // Nor has it when a device says so of a ticket that waits.
    let said = match_request::Kind::Reach(v1::SayReach {
        id: id(2),
        reach: v1::MatchReach::Open.into(),
    });
    ask(&mut bob, "direct", said).await.unwrap();
    let why = ask(&mut bob, "direct", why(2)).await;
    let Ok(match_response::Result::Why(why)) = why else {
        panic!("{why:?}");
    };
    assert_eq!((why.looked_at, why.fit), (1, 0));
}
