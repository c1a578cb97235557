//! Services on an engine that fails.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tombolo_engine::{
    AppendError, BoxFuture, Bus, CasError, Expect, Key, Kv, KvEntry, Leases, Local, LocalConfig,
    Log, Offset, OperationId, Pattern, PublishError, Purpose, RequestError, RetireError, Revision,
    Server, SnapshotError, Subscription, Tail, Unavailable, Watch,
};
use tombolo_services::{MatchPool, Outgoing};
use tombolo_wire::v1::{
    self, ErrorCode, JoinMode, direct_request, group_request, match_request, request, response,
    room_act, server_frame, social_request,
};

use crate::lab::{Device, Lab, members};
use crate::wire::Wire;
use crate::{direct, groups};

#[tokio::test(start_paused = true)]
async fn without_the_engine_rooms_are_unavailable_and_recover_by_themselves() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let mut carol = lab.device("carol").await;

    engine.set(Mood::Away);
    assert_eq!(
        carol.join("r", JoinMode::Join).await,
        Err(ErrorCode::Unavailable)
    );
    assert_eq!(bob.leave("r").await, Err(ErrorCode::Unavailable));
    alice
        .send(crate::lab::message("r", &[], b"messages go on"))
        .unwrap();
    assert_eq!(bob.next_delivery().await.1, "messages go on");

    engine.set(Mood::Fine);
    assert!(carol.join("r", JoinMode::Join).await.is_ok());
    bob.drain().await;
    assert_eq!(bob.leave("r").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_engine_cannot_write_any_more_is_not_ready() {
    let wire = Wire::new(&Local::new(LocalConfig::default()));
    let lab = Lab::on(wire.clone(), |_| {});
    lab.services.in_cluster().await.unwrap();
    wire.is_broken.store(true, Ordering::Relaxed);
    let why = lab.services.in_cluster().await.unwrap_err();
    assert_eq!(why.message, "the engine cannot write any more");
}

#[tokio::test(start_paused = true)]
async fn without_the_engine_whatever_needs_it_is_unavailable_within_two_seconds() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |config| {
        config.pools.push(MatchPool::parse(POOL).unwrap());
    });
    let [mut member] = lab.members("r", ["member"]).await;
    let act = room_act::Kind::Say(v1::Say {
        payload: "gg".into(),
        ..v1::Say::default()
    });
    let act = request::Kind::Room(v1::RoomRequest {
        room: "r".into(),
        act: Some(v1::RoomAct { kind: Some(act) }),
        ..v1::RoomRequest::default()
    });
    let mut asked = Vec::new();
    for (number, kind) in needs_the_engine().into_iter().enumerate() {
        asked.push((lab.device(&format!("user{number}")).await, kind));
    }
    engine.set(Mood::Away);
    // What is under way when it goes, and what is asked of one that has been away for long.
    for away in [Duration::ZERO, Duration::from_secs(20)] {
        tokio::time::sleep(away).await;
        is_unavailable_soon(&mut member, act.clone()).await;
        for (device, kind) in &mut asked {
            is_unavailable_soon(device, kind.clone()).await;
        }
    }
}

/// What a device may ask that is in no room.
fn needs_the_engine() -> Vec<request::Kind> {
    let join = |room: &str, mode: JoinMode| v1::Join {
        room: room.into(),
        mode: mode.into(),
        ..v1::Join::default()
    };
    let by_query = v1::Join {
        found: Some(v1::JoinFound {
            query: Some(v1::RoomQuery::default()),
            ..v1::JoinFound::default()
        }),
        ..join("", JoinMode::JoinOrCreate)
    };
    let by_code = v1::Join {
        code: "7KQ3XF".into(),
        ..join("", JoinMode::Join)
    };
    let social = |kind| request::Kind::Social(v1::SocialRequest { kind: Some(kind) });
    let direct = |kind| {
        social(social_request::Kind::Direct(v1::DirectRequest {
            kind: Some(kind),
        }))
    };
    let group = |group: &str, kind| {
        social(social_request::Kind::Group(v1::GroupRequest {
            group: group.into(),
            kind: Some(kind),
        }))
    };
    let ticket = v1::SubmitTicket {
        id: Bytes::from_static(&[1; 16]),
        players: vec![v1::MatchPlayer::default()],
        ..v1::SubmitTicket::default()
    };
    vec![
        request::Kind::Join(join("r", JoinMode::Join)),
        request::Kind::Join(join("hosted-nowhere", JoinMode::JoinOrCreate)),
        request::Kind::Join(by_query),
        request::Kind::Join(by_code),
        request::Kind::Find(v1::FindRooms {
            query: Some(v1::RoomQuery::default()),
            ..v1::FindRooms::default()
        }),
        direct(direct_request::Kind::Open(v1::OpenInbox::default())),
        direct(direct_request::Kind::Send(v1::DirectSend {
            to: "member".into(),
            id: Bytes::from_static(&[1; 16]),
            payload: "hello".into(),
            ..v1::DirectSend::default()
        })),
        group("guild", group_request::Kind::Join(v1::JoinGroup::default())),
        group("guild", group_request::Kind::Open(v1::OpenGroup::default())),
        group("", group_request::Kind::List(v1::ListGroups::default())),
        request::Kind::Matchmaker(v1::MatchRequest {
            pool: "duel".into(),
            kind: Some(match_request::Kind::Submit(ticket)),
        }),
    ]
}

async fn is_unavailable_soon(device: &mut Device, mut kind: request::Kind) {
    if let request::Kind::Matchmaker(v1::MatchRequest {
        kind: Some(match_request::Kind::Submit(ticket)),
        ..
    }) = &mut kind
    {
        ticket.players[0].user.clone_from(&device.user);
    }
    let begun = Instant::now();
    let id = device.request(Some(kind.clone()));
    let result = loop {
        match device.next_frame().await {
            Some(Outgoing::Reliable(frame)) => {
                if let Some(server_frame::Body::Response(response)) = frame.body {
                    assert_eq!(response.id, id);
                    break response.result.unwrap();
                }
            }
            None if begun.elapsed() < Duration::from_secs(100) => {}
            other => panic!("{other:?}"),
        }
    };
    let response::Result::Failure(failure) = result else {
        panic!("{kind:?}: {result:?}");
    };
    assert_eq!(failure.code(), ErrorCode::Unavailable, "{kind:?}");
    let waited = begun.elapsed();
    assert!(waited <= Duration::from_secs(2), "{kind:?}: {waited:?}");
}

const POOL: &str = r#"
name = "duel"
players = { min = 2, max = 2 }
"#;

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_without_the_engine_leaves_when_it_is_back() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    engine.set(Mood::Away);
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(100)).await;
    alice.is_quiet().await;
    engine.set(Mood::Fine);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(alice.next_event().await, "?bob");
    assert_eq!(alice.next_event().await, "-bob disconnected");
    assert!(!bob.connect(&lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn an_unsure_answer_is_settled_by_the_log() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    engine.set(Mood::Unsure);
    let mut alice = lab.device("alice").await;
    assert!(alice.join("r", JoinMode::Create).await.unwrap().created);
    let mut bob = lab.device("bob").await;
    let joined = bob.join("r", JoinMode::JoinOrCreate).await.unwrap();
    assert_eq!(
        (members(&joined), joined.created),
        (vec!["alice", "bob"], false)
    );
    alice.drain().await;

    // A leave that is repeated because nobody knows counts once.
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(31)).await;
    engine.set(Mood::Fine);
    assert_eq!(alice.next_event().await, "?bob");
    assert_eq!(alice.next_event().await, "-bob disconnected");
    tokio::time::sleep(Duration::from_secs(10)).await;
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_of_is_done_once_when_it_is_asked_for_again_by_its_name() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.hears_all = true;
    let named = |wanted_for_ms| v1::RoomRequest {
        operation: Bytes::from_static(&[7; 16]),
        wanted_for_ms,
        ..said("once")
    };
    engine.set(Mood::Late);
    let asked = alice.request(Some(request::Kind::Room(named(0))));
    tokio::time::sleep(Duration::from_secs(11)).await;
    let unsure = alice.response_among_events(asked).await;
    assert_eq!(unsure, Err(ErrorCode::Unsure));

    // By another session, for the first one is lost.
    engine.set(Mood::Fine);
    let mut again = lab.device("alice").await;
    again.join("r", JoinMode::Join).await.unwrap();
    again.drain().await;
    for _ in 0..2 {
        let acted = again.act_as(named(11_000)).await;
        assert_eq!(acted.unwrap().message, 1);
        engine.catch_up().await;
    }
    // Nobody else has the name.
    bob.drain().await;
    assert_eq!(bob.act_as(named(11_000)).await.unwrap().message, 2);
    // A refusal has its reason whenever it is asked for.
    let kick = room_act::Kind::Kick(v1::Kick { user: "bob".into() });
    let kick = v1::RoomRequest {
        act: Some(v1::RoomAct { kind: Some(kick) }),
        operation: Bytes::from_static(&[8; 16]),
        ..said("")
    };
    for _ in 0..2 {
        assert_eq!(bob.act_as(kick.clone()).await, Err(ErrorCode::NotOwner));
    }
    let short = v1::RoomRequest {
        operation: Bytes::from_static(&[7; 15]),
        ..said("named badly")
    };
    assert_eq!(bob.act_as(short).await, Err(ErrorCode::BadFrame));
    assert_eq!(bob.act_as(said("unnamed")).await.unwrap().message, 3);

    engine.set(Mood::Away);
    let not_done = bob.act_as(said("never")).await;
    assert_eq!(not_done, Err(ErrorCode::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_message_of_which_nobody_knows_is_there_once_when_it_is_sent_again_under_its_id() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    let mut alice = direct::Talker::new(&lab, "alice").await;
    let mut bob = direct::Talker::new(&lab, "bob").await;
    bob.open(None).await.unwrap();
    engine.set(Mood::Late);
    let asked = alice.ask_direct("bob", 1, b"gg");
    tokio::time::sleep(Duration::from_secs(11)).await;
    let unsure = alice.direct_response(asked).await;
    assert_eq!(unsure.unwrap_err(), ErrorCode::Unsure);

    engine.set(Mood::Fine);
    alice.direct("bob", 1, b"gg").await.unwrap();
    engine.catch_up().await;
    assert!(alice.direct("bob", 1, b"gg").await.unwrap().repeated);
    assert_eq!(bob.directs().await, ["1 alice gg"]);

    engine.set(Mood::Away);
    let not_sent = alice.direct("bob", 2, b"never").await;
    assert_eq!(not_sent.unwrap_err(), ErrorCode::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn nobody_knows_of_a_post_when_the_engine_goes_with_it() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    let mut alice = groups::Talker::new(&lab, "alice").await;
    alice.create(true).await.unwrap();
    alice.post(1, b"before").await.unwrap();
    engine.set(Mood::Going);
    let asked = alice.ask_post(2, b"gg");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let unsure = alice.response(asked).await;
    assert_eq!(unsure.unwrap_err(), ErrorCode::Unsure);

    engine.set(Mood::Fine);
    let again = alice.post(2, b"gg").await.unwrap();
    assert_eq!((again.number, again.repeated), (2, true));
}

fn said(text: &'static str) -> v1::RoomRequest {
    let kind = room_act::Kind::Say(v1::Say {
        audience: None,
        payload: text.into(),
    });
    v1::RoomRequest {
        room: "r".into(),
        act: Some(v1::RoomAct { kind: Some(kind) }),
        ..v1::RoomRequest::default()
    }
}

/// An engine with moods: what it does with appends and new tails.
#[derive(Clone)]
pub(crate) struct Flaky {
    local: Local,
    mood: Arc<AtomicU8>,
    late: Arc<Mutex<Vec<Written>>>,
    since: Arc<Mutex<Option<Instant>>>,
}

type Written = (Key, Bytes, Purpose, Expect, OperationId);

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub(crate) enum Mood {
    Fine,
    /// There are no logs of rooms.
    Roomless,
    /// There is nobody to talk to.
    Away,
    /// It is written, but nobody knows.
    Unsure,
    /// It is written when the test says so, and nobody knows.
    Late,
    /// It is written, and then there is nobody to talk to.
    Going,
}

impl Flaky {
    fn new() -> Arc<Self> {
        Self::on(Local::new(LocalConfig::default()))
    }

    /// With what others write, too.
    pub(crate) fn on(local: Local) -> Arc<Self> {
        Arc::new(Self {
            local,
            mood: Arc::default(),
            late: Arc::default(),
            since: Arc::default(),
        })
    }

    /// Writes what is late.
    async fn catch_up(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (key, entry, purpose, expect, operation) in late {
            let appended = self.local.append(&key, entry, purpose, expect, operation);
            appended.await.unwrap();
        }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
        *self.since.lock().unwrap() = (mood == Mood::Away).then(Instant::now);
    }

    /// Whether a log can be written and read.
    fn is_there(&self, key: &Key) -> bool {
        let is_of_room = key.as_str().starts_with("room.");
        !(self.is(Mood::Away) || self.is(Mood::Roomless) && is_of_room)
    }

    fn is(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::Relaxed) == mood as u8
    }
}

impl Log for Flaky {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        entry: Bytes,
        purpose: Purpose,
        expect: Expect,
        operation: OperationId,
    ) -> BoxFuture<'a, Result<Offset, AppendError>> {
        Box::pin(async move {
            if !self.is_there(key) {
                return Err(AppendError::Unavailable);
            }
            if self.is(Mood::Late) {
                let written = (key.clone(), entry, purpose, expect, operation);
                self.late.lock().unwrap().push(written);
                return Err(AppendError::Unknown);
            }
            let appended = self
                .local
                .append(key, entry, purpose, expect, operation)
                .await;
            if self.is(Mood::Going) {
                self.set(Mood::Away);
                std::future::pending::<()>().await;
            }
            if self.is(Mood::Unsure) {
                Err(AppendError::Unknown)
            } else {
                appended
            }
        })
    }

    fn tail<'a>(
        &'a self,
        key: &'a Key,
        after: Option<Offset>,
    ) -> BoxFuture<'a, Result<Box<dyn Tail>, Unavailable>> {
        if !self.is_there(key) {
            return Box::pin(async { Err(Unavailable) });
        }
        self.local.tail(key, after)
    }

    fn snapshot<'a>(
        &'a self,
        key: &'a Key,
        at: Offset,
        state: Bytes,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        self.local.snapshot(key, at, state)
    }

    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>> {
        self.local.retire(key, at)
    }
}

impl Bus for Flaky {
    fn publish<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        if self.is(Mood::Away) {
            return Box::pin(async { Err(PublishError::Unavailable) });
        }
        self.local.publish(subject, payload)
    }

    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        messages_max: usize,
    ) -> BoxFuture<'a, Result<Subscription, Unavailable>> {
        if self.is(Mood::Away) {
            return Box::pin(async { Err(Unavailable) });
        }
        self.local.subscribe(pattern, messages_max)
    }

    fn request<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, RequestError>> {
        if self.is(Mood::Away) {
            return Box::pin(async { Err(RequestError::Unavailable) });
        }
        self.local.request(subject, payload, timeout)
    }

    fn serve<'a>(
        &'a self,
        subject: &'a Key,
        requests_max: usize,
    ) -> BoxFuture<'a, Result<Server, Unavailable>> {
        if self.is(Mood::Away) {
            return Box::pin(async { Err(Unavailable) });
        }
        self.local.serve(subject, requests_max)
    }

    fn away_for(&self) -> Option<Duration> {
        self.since.lock().unwrap().map(|since| since.elapsed())
    }
}

impl Kv for Flaky {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        if self.is(Mood::Away) {
            return Box::pin(async { Err(Unavailable) });
        }
        self.local.get(key)
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        if self.is(Mood::Away) {
            return Box::pin(async { Err(CasError::Unavailable) });
        }
        self.local.cas(key, expected, value)
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        if self.is(Mood::Away) {
            return Box::pin(async { Err(Unavailable) });
        }
        self.local.watch(prefix)
    }
}

impl Leases for Flaky {
    fn leases(&self) -> &dyn Kv {
        self.local.leases()
    }

    fn lease_time(&self) -> Duration {
        self.local.lease_time()
    }
}
