//! What a node knows of those who play when their match asks for more users.

use std::sync::{Arc, Mutex};

use tombolo_wire::v1::room_act;

use super::*;

const CIRCLE: &str = r#"
name = "circle"
players = { min = 2, max = 4 }
fill = 0
[[rules]]
kind = "block"
[[rules]]
kind = "distance"
attribute = "skill"
max = 100
"#;

#[tokio::test(start_paused = true)]
async fn who_asks_for_more_users_hears_of_them_over_the_node_to_which_it_has_moved() {
    let (nodes, _) = cluster::<2>().await;
    let (mut alice, _bob, first) = running_on(&nodes[0]).await;
    let opened = ask(&mut alice, "teams", asks_for_more(&first)).await;
    assert!(opened.is_ok(), "{opened:?}");
    alice.connection = None;
    assert!(alice.connect(&nodes[1]).await.unwrap().resumed);
    // By then nothing is sent after it from where it was.
    tokio::time::sleep(Duration::from_secs(45)).await;
    let renew = match_request::Kind::Renew(v1::RenewBackfill {
        id: first.id.clone(),
        lease_ms: 60_000,
    });
    let renewed = ask(&mut alice, "teams", renew).await;
    let Ok(match_response::Result::Backfill(renewed)) = renewed else {
        panic!("{renewed:?}");
    };
    assert_eq!(renewed.generation, 1);
    let mut carol = seeker(&nodes[0], "carol").await;
    submit(&mut carol, "teams", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    found(&mut carol).await;
    assert_eq!(grown(&mut alice).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_running_match_is_filled_up_and_newcomers_get_a_seat_in_its_room() {
    let (mut alice, mut bob, first, lab) = running().await;

    let open = asks_for_more(&first);
    assert_eq!(
        ask(&mut bob, "teams", open.clone()).await,
        Err(ErrorCode::NotOwner)
    );
    let opened = ask(&mut alice, "teams", open.clone()).await;
    let Ok(match_response::Result::Backfill(opened)) = opened else {
        panic!("{opened:?}");
    };
    assert_eq!(opened.generation, 1);
    assert_eq!(
        ask(&mut alice, "teams", open).await,
        Err(ErrorCode::Conflict),
        "of a generation that is over"
    );
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut carol, "teams", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    let joins = found(&mut carol).await;
    assert!(joins.running);
    assert_eq!(joins.room, first.room);
    assert_eq!(users(&joins), ["carol"]);
    assert!(carol.join(&joins.room, JoinMode::Join).await.is_ok());
    assert_eq!(grown(&mut alice).await, 2);
}

#[tokio::test(start_paused = true)]
async fn whom_a_user_has_blocked_joins_none_of_its_matches_whoever_asks() {
    let lab = lab_with(serve_circle);
    let (mut bob, _alice, running) = playing(&lab).await;
    ask_for_one(&mut bob, &running).await.unwrap();
    let mut mallory = seeker(&lab, "mallory").await;
    seek(&mut mallory, 3, 425.0, &[]).await;
    mallory.is_quiet_of_matches().await;
    let mut carol = seeker(&lab, "carol").await;
    seek(&mut carol, 4, 595.0, &["bob"]).await;
    carol.is_quiet_of_matches().await;
    let mut dave = seeker(&lab, "dave").await;
    seek(&mut dave, 5, 500.0, &["mallory", "carol"]).await;
    assert_eq!(found(&mut dave).await.room, running.room);
}

#[tokio::test(start_paused = true)]
async fn who_plays_is_as_its_ticket_said_whatever_the_owner_of_the_room_says() {
    let lab = lab_with(serve_circle);
    let (mut bob, _alice, running) = playing(&lab).await;
    let lies = [("bob", 0.0), ("alice", 0.0)].map(|player| players(&[player]));
    let opened = ask(&mut bob, "circle", asking(&running, lies.into())).await;
    assert!(opened.is_ok(), "{opened:?}");
    let mut beginner = seeker(&lab, "beginner").await;
    seek(&mut beginner, 3, 0.0, &[]).await;
    beginner.is_quiet_of_matches().await;
    let mut dave = seeker(&lab, "dave").await;
    seek(&mut dave, 4, 560.0, &[]).await;
    assert_eq!(found(&mut dave).await.room, running.room);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_later_and_loses_the_others_knows_who_plays() {
    let local = Local::new(LocalConfig::default());
    let start = |number: usize| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            serve_pools(config);
            serve_circle(config);
            config.node = NodeId::parse(&format!("node-{number}")).unwrap();
        })
    };
    let first = start(0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (mut bob, _alice, running) = playing(&first).await;
    let second = start(1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    bob.connection = None;
    assert!(bob.connect(&second).await.unwrap().resumed);
    first.services.kill();
    tokio::time::sleep(Duration::from_secs(10)).await;
    ask_for_one(&mut bob, &running).await.unwrap();
    let mut mallory = seeker(&second, "mallory").await;
    seek(&mut mallory, 3, 500.0, &[]).await;
    mallory.is_quiet_of_matches().await;
    let mut dave = seeker(&second, "dave").await;
    seek(&mut dave, 4, 500.0, &["mallory"]).await;
    assert_eq!(found(&mut dave).await.room, running.room);
}

/// Knows how good everybody is, and who has asked.
#[derive(Default)]
struct Database {
    asked: Mutex<Vec<(String, Vec<String>)>>,
}

struct Game(Arc<Database>);

impl Hooks for Game {
    fn authorize_ticket(&self, user: UserId, _: MatchName, mut ticket: MatchTicket) -> Admission {
        let users = ticket.players.iter().map(|player| player.user.to_string());
        let asked = (user.to_string(), users.collect());
        self.0.asked.lock().unwrap().push(asked);
        for player in &mut ticket.players {
            let skill = tombolo_match::Value::Number(900.0);
            let name = MatchName::parse("skill").unwrap();
            player.attributes.insert(name, skill);
        }
        Box::pin(async move { Ok(ticket) })
    }
}

#[tokio::test(start_paused = true)]
async fn the_games_own_code_says_what_those_are_like_who_play() {
    let database = Arc::new(Database::default());
    let lab = lab_with(|config| {
        serve_circle(config);
        config.hooks = HookSet::new(Game(Arc::clone(&database)));
    });
    let (mut bob, _alice, running) = playing(&lab).await;
    // Somebody of whom the pool knows nothing has a seat there.
    let mut eve = seeker(&lab, "eve").await;
    let reserve = room_act::Kind::Reserve(v1::Reserve {
        users: vec!["eve".to_owned()],
        lasts_ms: 60_000,
    });
    bob.act(&running.room, reserve).await.unwrap();
    eve.join(&running.room, JoinMode::Join).await.unwrap();
    bob.drain().await;
    database.asked.lock().unwrap().clear();
    let said = [
        players(&[("bob", 0.0)]),
        players(&[("alice", 0.0)]),
        players(&[("eve", 0.0)]),
    ];
    let opened = ask(&mut bob, "circle", asking(&running, said.into())).await;
    assert!(opened.is_ok(), "{opened:?}");
    let mut asked = database.asked.lock().unwrap().clone();
    asked.sort();
    let of = |user: &str| ("bob".to_owned(), vec![user.to_owned()]);
    assert_eq!(asked, [of("alice"), of("bob"), of("eve")]);
    let mut dave = seeker(&lab, "dave").await;
    seek(&mut dave, 3, 0.0, &[]).await;
    assert_eq!(found(&mut dave).await.room, running.room, "all are as good");
}

#[tokio::test(start_paused = true)]
async fn whoever_joins_is_told_the_region_and_the_host_of_the_match() {
    let lab = lab_with(|config| config.pools.push(MatchPool::parse(PLACED).unwrap()));
    let mut devices = Vec::new();
    let open = v1::MatchReach::Open;
    for (number, (user, eu, us, reach)) in (1..).zip([
        ("alice", 20.0, 80.0, v1::MatchReach::Restricted),
        ("bob", 25.0, 85.0, v1::MatchReach::PortRestricted),
        ("carol", 70.0, 10.0, open),
        ("dave", 75.0, 10.0, open),
        ("eve", 80.0, 10.0, open),
    ]) {
        devices.push((seeker(&lab, user).await, number, eu, us, reach));
    }
    let mut devices = devices.into_iter();
    let mut next = async || {
        let (mut device, number, eu, us, reach) = devices.next().unwrap();
        let user = device.user.to_string();
        let submit = match_request::Kind::Submit(v1::SubmitTicket {
            id: id(number),
            players: vec![placed(&user, eu, us, reach)],
            ..v1::SubmitTicket::default()
        });
        ask(&mut device, "placed", submit).await.unwrap();
        device
    };
    let (mut alice, mut bob) = (next().await, next().await);
    let running = found(&mut alice).await;
    found(&mut bob).await;
    assert_eq!((&*running.region, &*running.host), ("eu", "alice"));
    alice.join(&running.room, JoinMode::Join).await.unwrap();
    bob.join(&running.room, JoinMode::Join).await.unwrap();

    // What nobody says the pool knows.
    let teams = |users: &[&str]| users.iter().map(|user| players(&[(user, 0.0)])).collect();
    let mut backfill = asking(&running, teams(&["alice", "bob"]));
    ask(&mut alice, "placed", backfill).await.unwrap();
    let mut carol = next().await;
    let joined = found(&mut carol).await;
    assert_eq!(joined.room, running.room);
    assert_eq!((&*joined.region, &*joined.host), ("eu", "alice"));
    carol.join(&running.room, JoinMode::Join).await.unwrap();

    // Another host is one when the owner says so.
    backfill = asking(&running, teams(&["alice", "bob", "carol"]));
    if let match_request::Kind::Backfill(open) = &mut backfill {
        open.after = 2;
        open.venue = Some(v1::MatchVenue {
            region: "eu".into(),
            host: "carol".into(),
        });
    }
    ask(&mut alice, "placed", backfill).await.unwrap();
    let mut dave = next().await;
    let joined = found(&mut dave).await;
    assert_eq!((&*joined.region, &*joined.host), ("eu", "carol"));
    let mut eve = next().await;
    assert_eq!(found(&mut eve).await.host, "carol");
}

#[tokio::test(start_paused = true)]
async fn each_node_tells_the_region_and_the_host_of_a_match() {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            serve_pools(config);
            config.pools.push(MatchPool::parse(PLACED).unwrap());
            config.node = NodeId::parse(&format!("node-{number}")).unwrap();
        })
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut devices = Vec::new();
    for (number, node, user, eu, us, reach) in [
        (1, 0, "alice", 90.0, 30.0, v1::MatchReach::Symmetric),
        (2, 1, "bob", 95.0, 20.0, v1::MatchReach::Restricted),
        (3, 0, "carol", 20.0, 80.0, v1::MatchReach::Open),
    ] {
        let mut device = seeker(&nodes[node], user).await;
        let submit = match_request::Kind::Submit(v1::SubmitTicket {
            id: id(number),
            players: vec![placed(user, eu, us, reach)],
            ..v1::SubmitTicket::default()
        });
        ask(&mut device, "placed", submit).await.unwrap();
        devices.push(device);
        if let [alice, bob] = &mut devices[..] {
            let told = [found(alice).await, found(bob).await];
            for (told, device) in told.iter().zip([alice, bob]) {
                assert_eq!((&*told.region, &*told.host), ("us", "bob"));
                device.join(&told.room, JoinMode::Join).await.unwrap();
            }
            let playing = ["alice", "bob"].map(|user| players(&[(user, 0.0)]));
            let asking = asking(&told[0], playing.into());
            ask(&mut devices[0], "placed", asking).await.unwrap();
        }
    }
    let told = found(&mut devices[2]).await;
    assert_eq!((&*told.region, &*told.host), ("us", "bob"));
}

#[tokio::test(start_paused = true)]
async fn a_match_that_is_not_renewed_asks_for_nobody_any_more() {
    let lab = lab_with(serve_circle);
    let (mut bob, _alice, running) = playing(&lab).await;
    ask_for_one(&mut bob, &running).await.unwrap();
    let renew = match_request::Kind::Renew(v1::RenewBackfill {
        id: running.id.clone(),
        lease_ms: 60_000,
    });
    tokio::time::sleep(Duration::from_secs(50)).await;
    ask(&mut bob, "circle", renew.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    let mut carol = seeker(&lab, "carol").await;
    seek(&mut carol, 3, 500.0, &[]).await;
    assert_eq!(found(&mut carol).await.room, running.room);
    assert_eq!(grown(&mut bob).await, 2);
    tokio::time::sleep(Duration::from_secs(70)).await;
    let over = event(&mut bob, |kind| match kind {
        match_event::Kind::Backfill(status) => Some(status.ended),
        _ => None,
    });
    assert_eq!(over.await, "expired");
    let mut dave = seeker(&lab, "dave").await;
    seek(&mut dave, 4, 500.0, &[]).await;
    dave.is_quiet_of_matches().await;
    let late = ask(&mut bob, "circle", renew).await;
    assert_eq!(late, Err(ErrorCode::NoSuchThing));
}

const PLACED: &str = r#"
name = "placed"
players = { min = 2, max = 5 }
fill = 0
[[rules]]
kind = "latency"
attribute = "ping"
regions = ["eu", "us"]
max = 100
"#;

fn placed(user: &str, eu: f64, us: f64, reach: v1::MatchReach) -> v1::MatchPlayer {
    let number = |(name, number): (&str, f64)| v1::MatchNumber {
        name: name.to_owned(),
        number,
    };
    v1::MatchPlayer {
        user: user.to_owned(),
        attributes: vec![v1::MatchAttribute {
            name: "ping".to_owned(),
            value: Some(match_attribute::Value::Map(v1::MatchNumbers {
                numbers: [("eu", eu), ("us", us)].map(number).into(),
            })),
        }],
        reach: reach.into(),
        ..v1::MatchPlayer::default()
    }
}

fn serve_circle(config: &mut Config) {
    config.pools.push(MatchPool::parse(CIRCLE).unwrap());
}

/// Two who play, of whom one owns the room, and the other blocks mallory.
async fn playing(lab: &Lab) -> (Device, Device, v1::MatchFound) {
    let (mut alice, mut bob) = (seeker(lab, "alice").await, seeker(lab, "bob").await);
    seek(&mut alice, 1, 500.0, &["mallory"]).await;
    seek(&mut bob, 2, 520.0, &[]).await;
    let running = found(&mut bob).await;
    found(&mut alice).await;
    bob.join(&running.room, JoinMode::Join).await.unwrap();
    alice.join(&running.room, JoinMode::Join).await.unwrap();
    (bob, alice, running)
}

async fn seek(device: &mut Device, number: u32, skill: f64, blocks: &[&str]) {
    let user = device.user.to_string();
    let mut players = players(&[(&user, skill)]);
    players[0].blocks = blocks.iter().map(ToString::to_string).collect();
    let submit = match_request::Kind::Submit(v1::SubmitTicket {
        id: id(number),
        players,
        ..v1::SubmitTicket::default()
    });
    let answer = ask(device, "circle", submit).await;
    assert!(answer.is_ok(), "{answer:?}");
}

/// Says no more than who plays.
async fn ask_for_one(
    device: &mut Device,
    running: &v1::MatchFound,
) -> Result<match_response::Result, ErrorCode> {
    let nothing_of = |user: &str| {
        vec![v1::MatchPlayer {
            user: user.to_owned(),
            ..v1::MatchPlayer::default()
        }]
    };
    let parties = vec![nothing_of("bob"), nothing_of("alice")];
    ask(device, "circle", asking(running, parties)).await
}

fn asking(running: &v1::MatchFound, parties: Vec<Vec<v1::MatchPlayer>>) -> match_request::Kind {
    let parties = parties.into_iter();
    match_request::Kind::Backfill(v1::OpenBackfill {
        id: running.id.clone(),
        after: 0,
        teams: vec![v1::BackfillTeam {
            name: running.teams[0].name.clone(),
            parties: parties
                .map(|players| v1::BackfillParty { players })
                .collect(),
        }],
        lease_ms: 60_000,
        venue: None,
    })
}
