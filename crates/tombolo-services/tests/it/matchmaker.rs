//! What devices rely on that look for others in a pool.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tombolo_engine::{
    Engine, Expect, Key, Leases as _, Local, LocalConfig, Log as _, Purpose, TailEvent, WatchEvent,
};
use tombolo_match::{Body, Entry};
use tombolo_services::{
    Admission, Config, HookSet, Hooks, MatchName, MatchPool, MatchTicket, Reject,
};
use tombolo_wire::v1::{
    self, ErrorCode, JoinMode, match_attribute, match_event, match_request, match_response,
    request, response, server_frame,
};
use tombolo_wire::{NodeId, UserId};

use crate::lab::{Device, Lab, UNIX_NOW};
use crate::wire::Wire;

mod anew;
mod failover;
mod game;
mod large;
mod limits;
mod lost;
mod odds;
mod panics;
mod parties;
mod returning;
mod running;
mod seats;
mod standing;
mod unsure;

const DUEL: &str = r#"
name = "duel"
players = { min = 2, max = 2 }
rules = [{ kind = "distance", attribute = "skill", max = 100, relax = [{ after = "20s", value = 500 }] }]
[[attributes]]
name = "skill"
kind = "number"
default = 0
"#;

const READY: &str = r#"
name = "ready"
players = { min = 2, max = 2 }
ready = "10s"
"#;

const TEAMS: &str = r#"
name = "teams"
[[teams]]
name = "red"
min = 1
max = 2
roles = [{ name = "healer" }, { name = "fighter" }]
[[teams]]
name = "blue"
min = 1
max = 2
roles = [{ name = "healer" }, { name = "fighter" }]
"#;

#[tokio::test(start_paused = true)]
async fn two_who_fit_find_each_other_and_a_room_that_nobody_else_gets_into() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    let mut carol = seeker(&lab, "carol").await;
    let status = submit(&mut alice, "duel", 1, &[("alice", 1000.0)]).await;
    assert_eq!(status.unwrap().waiting, 1);
    submit(&mut carol, "duel", 3, &[("carol", 5000.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 1050.0)])
        .await
        .unwrap();
    let for_alice = found(&mut alice).await;
    let for_bob = found(&mut bob).await;
    assert_eq!(for_alice, for_bob);
    assert_eq!(users(&for_alice), ["alice", "bob"]);

    // Neither in it nor before it.
    let room = for_alice.room.as_str();
    assert_eq!(
        carol.join(room, JoinMode::Join).await,
        Err(ErrorCode::RoomFull)
    );
    for (mode, code) in [
        (JoinMode::Create, ErrorCode::NotPermitted),
        (JoinMode::JoinOrCreate, ErrorCode::NoSuchRoom),
    ] {
        assert_eq!(carol.join("tombolo-match-x", mode).await, Err(code));
    }
    assert!(alice.join(room, JoinMode::Join).await.is_ok());
    let joined = bob.join(room, JoinMode::Join).await.unwrap();
    assert_eq!(crate::lab::members(&joined), ["alice", "bob"]);
    assert_eq!(lab.services.stats().matched, 1);
}

#[tokio::test(start_paused = true)]
async fn devices_on_different_nodes_find_each_other() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = seeker(&nodes[0], "alice").await;
    let mut bob = seeker(&nodes[1], "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 1000.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 1050.0)])
        .await
        .unwrap();
    let room = found(&mut alice).await.room;
    assert_eq!(found(&mut bob).await.room, room);
    assert!(alice.join(&room, JoinMode::Join).await.is_ok());
    let joined = bob.join(&room, JoinMode::Join).await.unwrap();
    assert_eq!(crate::lab::members(&joined), ["alice", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_relaxes_lets_those_meet_who_wait() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 1000.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 1400.0)])
        .await
        .unwrap();
    let why = ask(&mut alice, "duel", why(1)).await;
    let Ok(match_response::Result::Why(why)) = why else {
        panic!("{why:?}");
    };
    assert_eq!((why.looked_at, why.fit), (1, 0));
    assert_eq!(why.obstacles[0].what, "rule:skill");
    assert!(why.relaxed_after_ms.is_some_and(|after| after <= 20_000));
    let before = Instant::now();
    found(&mut alice).await;
    assert!(before.elapsed() > Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn those_who_are_asked_and_accept_begin_and_who_declines_drops_out() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut alice, "ready", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "ready", 2, &[("bob", 0.0)]).await.unwrap();
    let number = proposed(&mut alice).await;
    assert_eq!(proposed(&mut bob).await, number);
    assert_eq!(
        ask(&mut carol, "ready", accept(number)).await,
        Err(ErrorCode::NoSuchThing)
    );
    ask(&mut alice, "ready", accept(number)).await.unwrap();
    ask(&mut bob, "ready", decline(number)).await.unwrap();
    assert_eq!(ended(&mut bob).await, "declined");
    submit(&mut carol, "ready", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    let number = proposed(&mut alice).await;
    proposed(&mut carol).await;
    ask(&mut alice, "ready", accept(number)).await.unwrap();
    ask(&mut carol, "ready", accept(number)).await.unwrap();
    assert_eq!(users(&found(&mut alice).await), ["alice", "carol"]);
    assert_eq!(users(&found(&mut carol).await), ["alice", "carol"]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_whether_it_is_ready_drops_out() {
    let lab = lab();
    let ([mut alice, mut bob], number) = both_asked(&lab).await;
    ask(&mut alice, "ready", accept(number)).await.unwrap();
    assert_eq!(ended(&mut bob).await, "unanswered");
    let status = event(&mut alice, |kind| match kind {
        match_event::Kind::Failed(failed) => Some(failed.number),
        _ => None,
    });
    assert_eq!(status.await, number);
}

/// A pool in which so many wait, each far from all others.
async fn filled(start: &impl Fn(&Local, &str) -> Lab, count: u32) -> (Local, Key) {
    // The rules' digest is the same wherever they are served.
    let elsewhere = Local::new(LocalConfig::default());
    let scout = start(&elsewhere, "scout");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let key = pool_key(&elsewhere, "pool").await;
    scout.services.kill();

    let mut config = LocalConfig::default();
    config.log_entries_max = 200_000;
    let local = Local::new(config);
    let time = tombolo_match::Time::from_millis(now().as_millis() as u64);
    for number in 0..count {
        let name = tombolo_match::Name::parse("skill").unwrap();
        let user = UserId::parse(&format!("waits-{number:040}")).unwrap();
        let skill = tombolo_match::Value::Number(f64::from(number) * 1e6);
        let player = tombolo_match::Player::new(user).with(name, skill);
        let id = tombolo_match::TicketId(u128::from(number).to_be_bytes());
        let body = Body::Submitted(tombolo_match::Ticket::new(id, vec![player]));
        let operation = tombolo_match::OperationId(u128::from(number).to_be_bytes());
        let entry = Entry { time, body }.encode(operation);
        let operation = tombolo_engine::OperationId(operation.0);
        let appended = local.append(&key, entry, Purpose::More, Expect::Any, operation);
        appended.await.unwrap();
    }
    (local, key)
}

/// A log's or a lease's key, by what it begins with.
async fn pool_key(local: &Local, kind: &str) -> Key {
    let digest = lease(local).await.0;
    Key::new([kind, "duel", &digest]).unwrap()
}

/// The digest of the pool's rules, and who is its matcher.
async fn lease(local: &Local) -> (String, String) {
    let prefix = Key::new(["matcher", "duel"]).unwrap();
    let mut watch = local.leases().watch(&prefix).await.unwrap();
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Put { key, entry } => {
                let digest = key.as_str().rsplit('.').next().unwrap().to_owned();
                return (digest, String::from_utf8(entry.value.to_vec()).unwrap());
            }
            WatchEvent::Synced | WatchEvent::Deleted { .. } | WatchEvent::Reset => {}
        }
    }
}

/// Which of the nodes that live is the matcher, once one is.
async fn leader(dead: &BTreeSet<usize>, local: &Local) -> usize {
    loop {
        let (_, name) = lease(local).await;
        let number: usize = name.strip_prefix("node-").unwrap().parse().unwrap();
        if !dead.contains(&number) {
            return number;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lab() -> Lab {
    lab_with(|_| {})
}

fn lab_with(change: impl FnOnce(&mut Config)) -> Lab {
    Lab::with(|config| {
        serve_pools(config);
        change(config);
    })
}

async fn cluster<const N: usize>() -> ([Lab; N], Local) {
    let local = Local::new(LocalConfig::default());
    let nodes = (0..N).map(|number| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            serve_pools(config);
            config.node = NodeId::parse(&format!("node-{number}")).unwrap();
        })
    });
    let nodes: Vec<_> = nodes.collect();
    tokio::time::sleep(Duration::from_secs(10)).await;
    (nodes.try_into().ok().unwrap(), local)
}

/// A node that takes many tickets of one device.
fn patient(local: &Local, name: &str) -> Lab {
    let engine: Arc<dyn Engine> = Arc::new(local.clone());
    Lab::on(engine, |config| {
        serve_pools(config);
        config.tickets.burst = 100_000;
        config.rate.frames_burst = 100_000;
        config.node = NodeId::parse(name).unwrap();
    })
}

fn serve_pools(config: &mut Config) {
    config.unix_now = now;
    for text in [DUEL, READY, TEAMS] {
        config.pools.push(MatchPool::parse(text).unwrap());
    }
}

/// A clock that goes with the test's.
fn now() -> Duration {
    thread_local!(static START: OnceCell<Instant> = const { OnceCell::new() });
    let start = START.with(|start| *start.get_or_init(Instant::now));
    UNIX_NOW + start.elapsed()
}

async fn seeker(lab: &Lab, user: &str) -> Device {
    let mut device = Device::new(user);
    device.token_expires = UNIX_NOW + Duration::from_secs(86_400);
    device.connect(lab).await.unwrap();
    device
}

/// Alice and bob, who are asked whether they are ready, and for which match.
async fn both_asked(lab: &Lab) -> ([Device; 2], u64) {
    let mut alice = seeker(lab, "alice").await;
    let mut bob = seeker(lab, "bob").await;
    let alone = [("alice", 0.0)];
    submit(&mut alice, "ready", 1, &alone).await.unwrap();
    submit(&mut bob, "ready", 2, &[("bob", 0.0)]).await.unwrap();
    let number = proposed(&mut bob).await;
    ([alice, bob], number)
}

async fn submit(
    device: &mut Device,
    pool: &str,
    number: u32,
    party: &[(&str, f64)],
) -> Result<v1::TicketStatus, ErrorCode> {
    submit_for(device, pool, number, party, 0).await
}

async fn submit_for(
    device: &mut Device,
    pool: &str,
    number: u32,
    party: &[(&str, f64)],
    grace_s: u32,
) -> Result<v1::TicketStatus, ErrorCode> {
    let id = ask_submit(device, pool, number, party, grace_s, "");
    status(device.response_among(id).await)
}

fn ask_submit(
    device: &mut Device,
    pool: &str,
    number: u32,
    party: &[(&str, f64)],
    grace_s: u32,
    room: &str,
) -> u64 {
    let submit = match_request::Kind::Submit(v1::SubmitTicket {
        id: id(number),
        players: players(party),
        party: room.to_owned(),
        grace_ms: grace_s * 1000,
        ..v1::SubmitTicket::default()
    });
    device.request(Some(request::Kind::Matchmaker(v1::MatchRequest {
        pool: pool.to_owned(),
        kind: Some(submit),
    })))
}

fn status(
    answer: Result<Option<match_response::Result>, ErrorCode>,
) -> Result<v1::TicketStatus, ErrorCode> {
    match answer? {
        Some(match_response::Result::Status(status)) => Ok(status),
        other => panic!("a ticket is not answered by {other:?}"),
    }
}

async fn ask(
    device: &mut Device,
    pool: &str,
    kind: match_request::Kind,
) -> Result<match_response::Result, ErrorCode> {
    let id = device.request(Some(request::Kind::Matchmaker(v1::MatchRequest {
        pool: pool.to_owned(),
        kind: Some(kind),
    })));
    device.response_among(id).await.map(Option::unwrap)
}

impl Device {
    /// The answer to a request, whatever is told before it.
    async fn response_among(
        &mut self,
        id: u64,
    ) -> Result<Option<match_response::Result>, ErrorCode> {
        loop {
            if let server_frame::Body::Response(response) = self.next().await
                && response.id == id
            {
                return match response.result.unwrap() {
                    response::Result::Matchmaker(response) => Ok(response.result),
                    response::Result::Failure(failure) => Err(failure.code()),
                    other => panic!("{other:?}"),
                };
            }
        }
    }

    /// Why a request is refused.
    async fn refusal_among(&mut self, id: u64) -> v1::Failure {
        loop {
            if let server_frame::Body::Response(response) = self.next().await
                && response.id == id
            {
                return match response.result.unwrap() {
                    response::Result::Failure(failure) => failure,
                    other => panic!("{other:?}"),
                };
            }
        }
    }

    /// Nothing but how tickets stand is heard for a while.
    async fn is_quiet_of_matches(&mut self) {
        while let Some(frame) = self.next_frame().await {
            let text = format!("{frame:?}");
            assert!(text.contains("Status"), "{text}");
        }
    }
}

/// The next thing of a kind that is told of tickets, whatever else is told before it.
async fn event<T>(device: &mut Device, pick: impl Fn(match_event::Kind) -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < end, "{} hears nothing of it", device.user);
        let Some(tombolo_services::Outgoing::Reliable(frame)) = device.next_frame().await else {
            continue;
        };
        if let Some(server_frame::Body::Matchmaker(v1::MatchEvent {
            kind: Some(kind), ..
        })) = frame.body
            && let Some(found) = pick(kind)
        {
            return found;
        }
    }
}

async fn found(device: &mut Device) -> v1::MatchFound {
    event(device, |kind| match kind {
        match_event::Kind::Found(found) => Some(found),
        _ => None,
    })
    .await
}

async fn proposed(device: &mut Device) -> u64 {
    event(device, |kind| match kind {
        match_event::Kind::Proposed(proposed) => Some(proposed.number),
        _ => None,
    })
    .await
}

async fn ended(device: &mut Device) -> String {
    event(device, |kind| match kind {
        match_event::Kind::Ended(ended) => Some(ended.reason),
        _ => None,
    })
    .await
}

fn users(found: &v1::MatchFound) -> Vec<&str> {
    let members = found.teams.iter().flat_map(|team| &team.members);
    let mut users: Vec<_> = members.map(|member| member.user.as_str()).collect();
    users.sort_unstable();
    users
}

fn players(party: &[(&str, f64)]) -> Vec<v1::MatchPlayer> {
    let party = party.iter().map(|(user, skill)| v1::MatchPlayer {
        user: (*user).to_owned(),
        attributes: vec![v1::MatchAttribute {
            name: "skill".to_owned(),
            value: Some(match_attribute::Value::Number(*skill)),
        }],
        ..v1::MatchPlayer::default()
    });
    party.collect()
}

fn id(number: u32) -> Bytes {
    Bytes::copy_from_slice(&u128::from(number).to_be_bytes())
}

fn cancel(number: u32) -> match_request::Kind {
    match_request::Kind::Cancel(v1::CancelTicket { id: id(number) })
}

fn why(number: u32) -> match_request::Kind {
    match_request::Kind::Why(v1::WhyNoMatch { id: id(number) })
}

fn accept(number: u64) -> match_request::Kind {
    let accept = true;
    match_request::Kind::Answer(v1::AnswerMatch { number, accept })
}

fn decline(number: u64) -> match_request::Kind {
    let accept = false;
    match_request::Kind::Answer(v1::AnswerMatch { number, accept })
}

/// The generation of a running match that has changed.
async fn grown(device: &mut Device) -> u32 {
    event(device, |kind| match kind {
        match_event::Kind::Backfill(status) => Some(status.generation),
        _ => None,
    })
    .await
}

/// A match of two asks for others.
fn asks_for_more(found: &v1::MatchFound) -> match_request::Kind {
    let teams = found.teams.iter().map(|team| v1::BackfillTeam {
        name: team.name.clone(),
        parties: vec![v1::BackfillParty {
            players: players(&[(team.members[0].user.as_str(), 0.0)]),
        }],
    });
    match_request::Kind::Backfill(v1::OpenBackfill {
        id: found.id.clone(),
        after: 0,
        teams: teams.collect(),
        lease_ms: 60_000,
        venue: None,
    })
}

/// Two in the room of their match, which has place for two more; the first owns it.
async fn running() -> (Device, Device, v1::MatchFound, Lab) {
    let lab = lab();
    let (alice, bob, found) = running_on(&lab).await;
    (alice, bob, found, lab)
}

async fn running_on(lab: &Lab) -> (Device, Device, v1::MatchFound) {
    let mut alice = seeker(lab, "alice").await;
    let mut bob = seeker(lab, "bob").await;
    submit(&mut alice, "teams", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "teams", 2, &[("bob", 0.0)]).await.unwrap();
    let first = found(&mut alice).await;
    found(&mut bob).await;
    alice.join(&first.room, JoinMode::Join).await.unwrap();
    bob.join(&first.room, JoinMode::Join).await.unwrap();
    (alice, bob, first)
}
