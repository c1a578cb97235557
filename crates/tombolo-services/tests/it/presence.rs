//! Who is online, on one node and on several.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_engine::{Bus as _, Key};
use tombolo_services::Outgoing;
use tombolo_wire::v1::{
    self, ErrorCode, client_frame, presence_request, presence_response, request, response,
    server_frame, social_event, social_request, social_response,
};

use crate::cluster::cluster;
use crate::lab::{Device, Lab};

#[tokio::test(start_paused = true)]
async fn followers_on_all_nodes_are_told_who_comes_is_away_and_goes() {
    let (nodes, _) = cluster::<3>().await;
    let mut alice = Watcher::new(&nodes[0].lab, "alice").await;
    let mut dave = Watcher::new(&nodes[1].lab, "dave").await;
    let carol = nodes[2].lab.device("carol").await;
    for watcher in [&mut alice, &mut dave] {
        let there = watcher.follow(&["bob", "carol"]).await.unwrap();
        assert_eq!(there, ["carol Online"]);
    }
    let mut bob = Watcher::new(&nodes[1].lab, "bob").await;
    bob.set_away(true).await.unwrap();
    let mut bob2 = nodes[2].lab.device("bob").await;
    for watcher in [&mut alice, &mut dave] {
        assert_eq!(watcher.changes().await.last().unwrap(), "bob Online");
    }
    let goodbye = client_frame::Body::Goodbye(v1::Goodbye {});
    bob2.send(goodbye.clone()).unwrap();
    for watcher in [&mut alice, &mut dave] {
        assert_eq!(watcher.changes().await, ["bob Away"]);
    }
    bob.device.send(goodbye).unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    for watcher in [&mut alice, &mut dave] {
        assert_eq!(watcher.changes().await, ["bob Offline"]);
    }
    drop(carol);
}

#[tokio::test(start_paused = true)]
async fn many_changes_come_in_few_frames() {
    let lab = Lab::new();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = Watcher::new(&lab, "alice").await;
    let names: Vec<_> = (0..500).map(|number| format!("user-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(alice.follow(&names).await.unwrap(), [""; 0]);
    let mut devices = Vec::new();
    for name in &names {
        devices.push(lab.device(name).await);
    }
    let mut frames = 0;
    let mut told = 0;
    while let Some(outgoing) = alice.device.next_frame().await {
        frames += 1;
        told += changes_in(&outgoing).len();
    }
    assert_eq!(told, 500);
    assert!(frames <= 10, "{frames} frames for 500 changes");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_breaks_resumes_or_moves_within_the_grace_time_never_is_offline() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Watcher::new(&nodes[0].lab, "alice").await;
    let mut bob = nodes[0].lab.device("bob").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(alice.follow(&["bob"]).await.unwrap(), ["bob Online"]);
    for node in [0, 1, 0] {
        bob.connection = None;
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert!(bob.connect(&nodes[node].lab).await.unwrap().resumed);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(alice.changes().await, [""; 0]);
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(alice.changes().await, ["bob Offline"]);
    assert!(bob.connect(&nodes[0].lab).await.unwrap().resumed);
    assert_eq!(alice.changes().await, ["bob Online"]);
}

#[tokio::test(start_paused = true)]
async fn users_of_a_dead_node_are_offline_unless_they_came_back_elsewhere() {
    let (nodes, _) = cluster::<3>().await;
    let mut alice = Watcher::new(&nodes[0].lab, "alice").await;
    let bob = nodes[1].lab.device("bob").await;
    let carol = nodes[1].lab.device("carol").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.follow(&["bob", "carol"]).await.unwrap();
    nodes[1].lab.services.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let carol2 = nodes[2].lab.device("carol").await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(alice.changes().await, ["bob Offline"]);
    assert_eq!(alice.count().await, (2, 0));
    drop((bob, carol, carol2));
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_has_lost_is_made_up_for() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Watcher::new(&nodes[0].lab, "alice").await;
    alice.follow(&["bob"]).await.unwrap();
    let is_lost = &nodes[1].wire.is_presence_lost;
    is_lost.store(true, Ordering::Relaxed);
    let bob = nodes[1].lab.device("bob").await;
    assert_eq!(alice.changes().await, [""; 0]);
    is_lost.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(alice.changes().await, ["bob Online"]);
    drop(bob);
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_a_session_is_offered_is_told_when_it_comes_back() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Watcher::new(&nodes[0].lab, "alice").await;
    let mut bob = nodes[0].lab.device("bob").await;
    assert_eq!(alice.follow(&["bob"]).await.unwrap(), ["bob Online"]);
    alice.device.connection = None;
    // The offer is made, and nothing more comes through.
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    let hello = alice.device.hello();
    let asked = nodes[1].lab.attach(hello);
    let asked = tokio::time::timeout(Duration::from_secs(1), asked).await;
    assert!(asked.is_err());
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let welcome = alice.device.connect(&nodes[0].lab).await.unwrap();
    assert!(welcome.resumed);
    assert_eq!(alice.changes().await, ["bob Offline"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_followed_any_more_is_not_told_of_and_too_many_are_refused() {
    let lab = Lab::with(|config| config.follows_per_session_max = 2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = Watcher::new(&lab, "alice").await;
    alice.follow(&["bob", "carol"]).await.unwrap();
    let too_many = alice.follow(&["dave"]).await;
    assert_eq!(too_many, Err(ErrorCode::Limit));
    alice.unfollow(&["bob"]).await.unwrap();
    alice.follow(&["dave"]).await.unwrap();
    let mut devices = Vec::new();
    for user in ["bob", "carol", "dave"] {
        devices.push(lab.device(user).await);
    }
    assert_eq!(alice.changes().await, ["carol Online", "dave Online"]);
    let names = vec!["x"; 1_001];
    assert_eq!(alice.follow(&names).await, Err(ErrorCode::TooLarge));
    assert_eq!(alice.follow(&["no user"]).await, Err(ErrorCode::BadName));
    let nothing = alice.ask(None).await.map(drop);
    assert_eq!(nothing, Err(ErrorCode::BadFrame));
}

#[tokio::test(start_paused = true)]
async fn garbage_on_the_bus_is_counted_and_changes_nothing() {
    let (nodes, local) = cluster::<2>().await;
    let mut alice = Watcher::new(&nodes[0].lab, "alice").await;
    alice.follow(&["bob"]).await.unwrap();
    let before = nodes[0].lab.services.stats().cluster.items_refused;
    let unknown = unknown_frame();
    for payload in [&b""[..], b"\xff\xff\xff", &[0; 1000], &unknown] {
        for subject in ["presence-beat", "presence-of"] {
            let subject = Key::new([subject, "node-0"]).unwrap();
            let payload = Bytes::copy_from_slice(payload);
            local.publish(&subject, payload).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let refused = nodes[0].lab.services.stats().cluster.items_refused - before;
    assert_eq!(refused, 2 * 4, "each in two ways");
    let bob = nodes[1].lab.device("bob").await;
    assert_eq!(alice.changes().await, ["bob Online"]);
    drop(bob);
}

/// As if a node that nobody knows asked for all users of a shard.
fn unknown_frame() -> Vec<u8> {
    #[derive(prost::Message)]
    struct Ask {
        #[prost(uint32, tag = "1")]
        version: u32,
        #[prost(string, tag = "2")]
        from: String,
        #[prost(uint64, tag = "3")]
        epoch: u64,
        #[prost(uint32, tag = "6")]
        ask: u32,
    }

    let ask = Ask {
        version: 1,
        from: "nobody".into(),
        epoch: 7,
        ask: 9,
    };
    ask.encode_to_vec()
}

struct Watcher {
    device: Device,
    told: Vec<String>,
}

impl Watcher {
    async fn new(lab: &Lab, user: &str) -> Self {
        Self {
            device: lab.device(user).await,
            told: Vec::new(),
        }
    }

    async fn ask(
        &mut self,
        kind: Option<presence_request::Kind>,
    ) -> Result<presence_response::Result, ErrorCode> {
        let kind = Some(social_request::Kind::Presence(v1::PresenceRequest { kind }));
        let request = request::Kind::Social(v1::SocialRequest { kind });
        let id = self.device.request(Some(request));
        loop {
            let Some(outgoing) = self.device.next_frame().await else {
                continue;
            };
            let Outgoing::Reliable(v1::ServerFrame {
                body: Some(server_frame::Body::Response(response)),
                ..
            }) = &outgoing
            else {
                self.told.extend(changes_in(&outgoing));
                continue;
            };
            assert_eq!(response.id, id);
            return match response.result.clone().unwrap() {
                response::Result::Social(v1::SocialResponse {
                    result: Some(social_response::Result::Presence(response)),
                }) => Ok(response.result.unwrap()),
                response::Result::Failure(failure) => Err(failure.code()),
                other => panic!("a request is not answered by {other:?}"),
            };
        }
    }

    async fn follow(&mut self, users: &[&str]) -> Result<Vec<String>, ErrorCode> {
        let users = users.iter().map(ToString::to_string).collect();
        let follow = presence_request::Kind::Follow(v1::FollowUsers { users });
        match self.ask(Some(follow)).await? {
            presence_response::Result::Following(statuses) => Ok(in_words(&statuses)),
            other => panic!("following is not answered by {other:?}"),
        }
    }

    async fn unfollow(&mut self, users: &[&str]) -> Result<(), ErrorCode> {
        let users = users.iter().map(ToString::to_string).collect();
        let unfollow = presence_request::Kind::Unfollow(v1::UnfollowUsers { users });
        self.ask(Some(unfollow)).await.map(drop)
    }

    async fn set_away(&mut self, away: bool) -> Result<(), ErrorCode> {
        let set = presence_request::Kind::SetAway(v1::SetAway { away });
        self.ask(Some(set)).await.map(drop)
    }

    async fn count(&mut self) -> (u64, u64) {
        let count = presence_request::Kind::Count(v1::CountUsers {});
        match self.ask(Some(count)).await {
            Ok(presence_response::Result::Counts(counts)) => (counts.online, counts.away),
            other => panic!("counting is not answered by {other:?}"),
        }
    }

    /// All that is told until nothing comes for a while.
    async fn changes(&mut self) -> Vec<String> {
        let mut told = std::mem::take(&mut self.told);
        while let Some(outgoing) = self.device.next_frame().await {
            told.extend(changes_in(&outgoing));
        }
        told
    }
}

fn changes_in(outgoing: &Outgoing) -> Vec<String> {
    match outgoing {
        Outgoing::Reliable(v1::ServerFrame {
            body:
                Some(server_frame::Body::Social(v1::SocialEvent {
                    kind: Some(social_event::Kind::Presence(statuses)),
                })),
            ..
        }) => in_words(statuses),
        other => panic!("{other:?} is not about presence"),
    }
}

fn in_words(statuses: &v1::UserStatuses) -> Vec<String> {
    let users = statuses.users.iter();
    let words = users.map(|status| format!("{} {:?}", status.user, status.presence()));
    words.collect()
}
