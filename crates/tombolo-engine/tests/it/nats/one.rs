//! One server.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use tombolo_engine::{
    AppendError, Engine, Expect, Key, Kv as _, Leases as _, Log as _, Nats, NatsAuth, NatsError,
    Purpose, Refusal, TailEvent, VALUE_BYTES_MAX, Version, WatchEvent, conformance,
};
use tombolo_natlab::skip;

use super::servers::{self, Servers, say};
use super::{config, key, operation};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_conforms() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let last: RefCell<Option<Nats>> = RefCell::default();
    conformance::all(async |name| {
        say(name);
        let before = last.take();
        if let Some(before) = before {
            before.delete_all().await.unwrap();
        }
        let engine = Nats::connect(config(servers.urls(), 1, name))
            .await
            .unwrap();
        last.replace(Some(engine.clone()));
        Arc::new(engine) as Arc<dyn Engine>
    })
    .await;
}

#[tokio::test]
async fn where_logs_have_a_bound_some_kinds_yield_to_others_and_what_ends_has_place() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let mut bounded = config(servers.urls(), 1, "bounded");
    bounded.log_bytes_max = Some(1_000_000);
    bounded.yielding = vec!["posts"];
    let engine = Nats::connect(bounded.clone()).await.unwrap();
    let fill = async |engine: &Nats, kind: &str| {
        let log = Key::new([kind, "a"]).unwrap();
        for number in 0..1_000 {
            let entry = Bytes::from(vec![0; 10_000]);
            let appended = engine.append(&log, entry, Purpose::More, Expect::Any, operation());
            if let Err(error) = appended.await {
                assert_eq!(error, AppendError::Full);
                return number;
            }
        }
        panic!("there is a bound")
    };
    let posts = fill(&engine, "posts").await;
    assert!((70..=75).contains(&posts), "{posts} posts");
    let others = fill(&engine, "room").await;
    assert!((15..=25).contains(&others), "{others} others");
    let room = Key::new(["room", "a"]).unwrap();
    let end = engine.append(&room, "end".into(), Purpose::End, Expect::Any, operation());
    end.await.unwrap();
    // A node that comes later finds out what there is.
    let late = Nats::connect(bounded).await.unwrap();
    assert_eq!(fill(&late, "posts").await, 0);
}

#[tokio::test]
async fn a_server_whose_compare_and_swap_is_not_exclusive_is_refused_for_replicas() {
    let Some(binary) = server(servers::installed("nats-server-old")) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let found = Version::new(2, 9, 10);

    let mut with_replicas = config(servers.urls(), 3, "old");
    with_replicas.version_min = Version::new(2, 9, 0);
    let refused = Nats::connect(with_replicas).await;
    let reason = refused.as_ref().map(|_| ()).map_err(ToString::to_string);
    assert!(
        matches!(refused, Err(NatsError::Refused(Refusal::NotExclusive { found: it })) if it == found),
        "{reason:?}"
    );
    let floor = Version::TESTED_MIN;
    let refused = Nats::connect(config(servers.urls(), 1, "old")).await;
    assert!(
        matches!(refused, Err(NatsError::Refused(Refusal::BelowFloor { found: it, floor: f }))
            if it == found && f == floor),
    );
    assert!(
        reason.unwrap_err().contains("2.10.25"),
        "the reason is told"
    );
}

#[tokio::test]
async fn replicas_are_refused_where_another_server_is_too_old_though_the_connected_one_is_not() {
    let (Some(binary), Some(old)) = (
        server(servers::current()),
        server(servers::installed("nats-server-old")),
    ) else {
        return;
    };
    let mut servers = Servers::start(&binary, 2, "");
    servers.servers[1].kill();
    servers.servers[1].binary = old;
    servers.servers[1].start_again(1, &|_, mut command| command.spawn().unwrap());
    let url = servers.urls().remove(0);
    // It tells of the other once that has joined it.
    let address = servers.servers[1].address.to_string();
    loop {
        let client = async_nats::connect(&url).await.unwrap();
        if client.server_info().connect_urls.contains(&address) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let refused = Nats::connect(config(vec![url], 3, "t")).await;
    let found = Version::new(2, 9, 10);
    assert!(
        matches!(refused, Err(NatsError::Refused(Refusal::NotExclusive { found: it })) if it == found),
        "{:?}",
        refused.map(|_| ())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_while_a_watch_reads_what_there_was_is_told_to_have_gone() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let mut few = config(servers.urls(), 1, "t");
    few.events_max = 1;
    let engine = Nats::connect(few).await.unwrap();
    let names = (0..VALUES).map(|number| format!("{number:03}"));
    let keys: Vec<_> = names.map(|name| Key::new(["p", &name]).unwrap()).collect();
    let value = Bytes::from(vec![0; 256 * 1024]);
    let mut revisions = Vec::new();
    for key in &keys {
        let written = engine.cas(key, None, Some(value.clone())).await;
        revisions.push(written.unwrap());
    }
    let mut watch = engine.watch(&key("p")).await.unwrap();
    let mut there = BTreeSet::new();
    while !there.contains(&keys[0]) {
        match watch.next().await.unwrap() {
            WatchEvent::Put { key, .. } => there.insert(key),
            event @ (WatchEvent::Deleted { .. } | WatchEvent::Synced | WatchEvent::Reset) => {
                panic!("{event:?} before what there was")
            }
        };
    }
    // The servers send no more than is taken, so that the last values are not on their way yet.
    engine
        .cas(&keys[0], Some(revisions[0]), None)
        .await
        .unwrap();
    for at in VALUES - AGAIN..VALUES {
        let again = engine.cas(&keys[at], Some(revisions[at]), Some("b".into()));
        again.await.unwrap();
    }
    let (mut is_synced, mut again) = (false, 0);
    while !is_synced || again < AGAIN {
        match watch.next().await.unwrap() {
            WatchEvent::Put { key, entry } => {
                again += usize::from(entry.value == "b");
                there.insert(key);
            }
            WatchEvent::Deleted { key, .. } => {
                there.remove(&key);
            }
            WatchEvent::Synced => is_synced = true,
            WatchEvent::Reset => panic!("nothing was missed"),
        }
    }
    assert!(!there.contains(&keys[0]), "it has gone");
    assert_eq!(there.len(), VALUES - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_server_alone_serves_where_the_configuration_allows_it() {
    let Some(binary) = server(servers::installed("nats-server-old")) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let mut alone = config(servers.urls(), 1, "old");
    alone.version_min = Version::new(2, 9, 0);
    let engine: Arc<dyn Engine> = Arc::new(Nats::connect(alone.clone()).await.unwrap());
    conformance::of_contending_appends_one_wins_per_offset(Arc::clone(&engine)).await;
    conformance::of_contending_writers_one_wins_per_revision(Arc::clone(&engine)).await;
    alone.prefix = "old2".to_owned();
    let engine: Arc<dyn Engine> = Arc::new(Nats::connect(alone).await.unwrap());
    conformance::a_snapshot_stands_for_the_entries_before_it(engine).await;
}

#[tokio::test]
async fn what_was_written_outlives_a_killed_server_and_readers_go_on_by_themselves() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let mut servers = Servers::start(&binary, 1, "");
    let engine = Nats::connect(config(servers.urls(), 1, "t")).await.unwrap();
    let (log, value) = (key("log"), key("value"));
    let first = engine
        .append(&log, "1".into(), Purpose::More, Expect::Empty, operation())
        .await
        .unwrap();
    let revision = engine.cas(&value, None, Some("a".into())).await.unwrap();
    let mut tail = engine.tail(&log, Some(first)).await.unwrap();
    assert_eq!(tail.next().await, Some(TailEvent::Synced));
    let names = Key::new(["p"]).unwrap();
    let mut watch = engine.watch(&names).await.unwrap();
    assert_eq!(watch.next().await, Some(WatchEvent::Synced));

    servers.servers[0].start_again(0, &|_, mut command| command.spawn().unwrap());
    assert_eq!(watch.next().await, Some(WatchEvent::Reset));
    assert_eq!(watch.next().await, Some(WatchEvent::Synced));
    let second = engine
        .append(
            &log,
            "2".into(),
            Purpose::More,
            Expect::Last(first),
            operation(),
        )
        .await
        .unwrap();
    let entry = TailEvent::Entry {
        at: second,
        entry: "2".into(),
    };
    assert_eq!(tail.next().await, Some(entry));
    let found = engine.get(&value).await.unwrap().unwrap();
    assert_eq!(found.revision, revision);
    assert!(engine.stats().connects >= 2);
}

#[tokio::test]
async fn a_stream_that_is_lost_is_made_anew_in_another_epoch_and_fences_what_was_before() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let ours = config(servers.urls(), 1, "t");
    let engine = Nats::connect(ours.clone()).await.unwrap();
    let log = key("log");
    let old = engine
        .append(&log, "1".into(), Purpose::More, Expect::Empty, operation())
        .await
        .unwrap();
    let mut tail = engine.tail(&log, Some(old)).await.unwrap();
    assert_eq!(tail.next().await, Some(TailEvent::Synced));

    engine.delete_all().await.unwrap();
    // Another node makes them again; its first entry has the place that the old one had.
    let other = Nats::connect(ours).await.unwrap();
    let new = other
        .append(
            &log,
            "other".into(),
            Purpose::More,
            Expect::Empty,
            operation(),
        )
        .await
        .unwrap();
    assert_eq!(new.seq, old.seq);
    assert!(new.epoch > old.epoch);
    let late = engine
        .append(
            &log,
            "late".into(),
            Purpose::More,
            Expect::Last(old),
            operation(),
        )
        .await;
    assert!(late.is_err(), "{late:?}");
    assert_eq!(tail.next().await, Some(TailEvent::Reset));
    let entry = TailEvent::Entry {
        at: new,
        entry: "other".into(),
    };
    assert_eq!(tail.next().await, Some(entry));
}

/// Who has lost what it read finds out at once which stream it is now, and is told so once.
#[tokio::test]
async fn readers_of_streams_that_others_have_made_anew_go_on_with_those() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let mut ours = config(servers.urls(), 1, "t");
    ours.tail_check = Duration::from_hours(1);
    let engine = Nats::connect(ours.clone()).await.unwrap();
    let (log, names) = (key("log"), key("p"));
    let last = engine.append(&log, "1".into(), Purpose::More, Expect::Empty, operation());
    let last = last.await.unwrap();
    let mut tail = engine.tail(&log, Some(last)).await.unwrap();
    assert_eq!(tail.next().await, Some(TailEvent::Synced));
    let mut watch = engine.watch(&names).await.unwrap();
    assert_eq!(watch.next().await, Some(WatchEvent::Synced));

    engine.delete_all().await.unwrap();
    let other = Nats::connect(ours).await.unwrap();
    let new = other.append(
        &log,
        "other".into(),
        Purpose::More,
        Expect::Empty,
        operation(),
    );
    let entry = TailEvent::Entry {
        at: new.await.unwrap(),
        entry: "other".into(),
    };
    let name = Key::new(["p", "a"]).unwrap();
    let put = other.cas(&name, None, Some("other".into())).await.unwrap();
    // So that the logs are looked at.
    let client = async_nats::connect(servers.urls()).await.unwrap();
    for shard in 0..2 {
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.t_log_{shard}");
        client.publish(subject, "".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let heard = async {
        assert_eq!(tail.next().await, Some(TailEvent::Reset));
        assert_eq!(tail.next().await, Some(entry));
        assert_eq!(watch.next().await, Some(WatchEvent::Reset));
        let told = watch.next().await;
        assert!(
            matches!(&told, Some(WatchEvent::Put { entry, .. }) if entry.revision == put),
            "{told:?}"
        );
    };
    let heard = tokio::time::timeout(Duration::from_secs(30), heard).await;
    heard.expect("the readers hear of what is there now");
}

#[tokio::test]
async fn readers_of_streams_that_are_lost_begin_anew_though_nobody_writes() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let mut ours = config(servers.urls(), 1, "t");
    ours.tail_check = Duration::from_millis(50);
    let engine = Nats::connect(ours).await.unwrap();
    let (log, names) = (key("log"), key("p"));
    let last = engine.append(&log, "1".into(), Purpose::More, Expect::Empty, operation());
    let last = last.await.unwrap();
    let mut tail = engine.tail(&log, Some(last)).await.unwrap();
    assert_eq!(tail.next().await, Some(TailEvent::Synced));
    let mut watch = engine.watch(&names).await.unwrap();
    assert_eq!(watch.next().await, Some(WatchEvent::Synced));

    engine.delete_all().await.unwrap();
    assert_eq!(watch.next().await, Some(WatchEvent::Reset));
    assert_eq!(watch.next().await, Some(WatchEvent::Synced));
    assert_eq!(tail.next().await, Some(TailEvent::Reset));
    let new = engine.append(&log, "2".into(), Purpose::More, Expect::Empty, operation());
    assert!(new.await.unwrap().epoch > last.epoch);
}

#[tokio::test]
async fn what_writers_left_who_died_before_their_snapshot_was_whole_is_taken_away() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let engine = Nats::connect(config(servers.urls(), 1, "t")).await.unwrap();
    let log = key("log");
    let append = |key, text: &'static str| {
        engine.append(key, text.into(), Purpose::More, Expect::Any, operation())
    };
    let at = append(&log, "1").await.unwrap();
    // As writers leave them that die before they have said where they are: of this log and of another.
    let client = async_nats::connect(servers.urls()).await.unwrap();
    let root = snapshots(&client).await.config.subjects.remove(0);
    let root = root.strip_suffix(">").unwrap();
    let part = |key, number| format!("{root}part.{}.{}.{number}.{key}", at.epoch.0, at.seq + 7);
    let orphans = [part("log", 0), part("log", 1), part("other", 0)];
    for orphan in &orphans {
        let reply = client.request(orphan.clone(), "orphaned".into()).await;
        reply.unwrap();
    }

    let state = Bytes::from(vec![7; 2 * VALUE_BYTES_MAX + 1]);
    engine.snapshot(&log, at, state.clone()).await.unwrap();
    let mut tail = engine.tail(&log, None).await.unwrap();
    let expected = TailEvent::Snapshot { at, state };
    assert_eq!(tail.next().await, Some(expected));
    let left = snapshots(&client).await.state.subjects;
    let parts = left.keys().filter(|subject| subject.contains(".part."));
    let own = format!("{root}part.{}.{}.", at.epoch.0, at.seq);
    let (own, others): (Vec<_>, Vec<_>) = parts.partition(|part| part.starts_with(&own));
    assert_eq!((own.len(), others), (2, vec![&orphans[2]]));
}

/// What a server says of the stream of snapshots.
async fn snapshots(client: &async_nats::Client) -> Stream {
    let ask = r#"{"subjects_filter":">"}"#;
    let answer = client.request("$JS.API.STREAM.INFO.t_snapshots", ask.into());
    serde_json::from_slice(&answer.await.unwrap().payload).unwrap()
}

#[derive(serde::Deserialize)]
struct Stream {
    config: StreamConfig,
    state: StreamState,
}

#[derive(serde::Deserialize)]
struct StreamConfig {
    subjects: Vec<String>,
}

#[derive(serde::Deserialize)]
struct StreamState {
    /// Not said of a stream that is empty.
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

#[tokio::test]
async fn a_frozen_server_makes_the_engine_unavailable_and_it_comes_back_by_itself() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 1, "");
    let mut ours = config(servers.urls(), 1, "t");
    ours.request_timeout = Duration::from_millis(200);
    ours.hold_max = Duration::from_secs(1);
    let engine = Nats::connect(ours).await.unwrap();
    let log = key("log");
    servers.servers[0].signal(Signal::SIGSTOP);
    let unsure = engine
        .append(&log, "1".into(), Purpose::More, Expect::Empty, operation())
        .await;
    assert_eq!(unsure, Err(AppendError::Unknown));
    assert!(engine.get(&key("value")).await.is_err());
    servers.servers[0].signal(Signal::SIGCONT);
    // The attempts that nobody knew of are one operation: it took place once at most.
    let mut tail = engine.tail(&log, None).await.unwrap();
    let mut entries = 0;
    while let Some(TailEvent::Entry { .. }) = tail.next().await {
        entries += 1;
    }
    assert!(entries <= 1, "{entries} entries");
}

#[tokio::test]
async fn only_who_has_credentials_is_let_in() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    for (more, good, bad) in [
        (
            "authorization { token: \"secret\" }",
            NatsAuth::Token("secret".into()),
            NatsAuth::Token("wrong".into()),
        ),
        (
            "authorization { user: node, password: \"secret\" }",
            NatsAuth::User {
                name: "node".into(),
                password: "secret".into(),
            },
            NatsAuth::None,
        ),
    ] {
        let servers = Servers::start(&binary, 1, more);
        let mut ours = config(servers.urls(), 1, "t");
        ours.auth = bad;
        let refused = Nats::connect(ours.clone()).await;
        assert!(matches!(refused, Err(NatsError::Connect { .. })), "{more}");
        ours.auth = good;
        let engine = Nats::connect(ours).await.unwrap();
        let taken = engine.leases().cas(&key("a"), None, Some("b".into())).await;
        assert!(taken.is_ok(), "{more}");
    }
}

#[tokio::test]
async fn connections_are_encrypted_and_a_server_of_another_authority_is_refused() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = |name: &str| folder.join(format!("engine-{}-{name}.pem", std::process::id()));
    std::fs::write(path("certificate"), made.cert.pem()).unwrap();
    std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("other"), other.cert.pem()).unwrap();
    let more = format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}",
        path("certificate"),
        path("key")
    );
    let servers = Servers::start(&binary, 1, &more);
    let mut ours = config(servers.urls(), 1, "t");
    ours.tls.required = true;
    ours.tls.roots = Some(path("other"));
    let refused = Nats::connect(ours.clone()).await;
    assert!(matches!(refused, Err(NatsError::Connect { .. })));
    ours.tls.roots = Some(path("certificate"));
    let engine = Nats::connect(ours).await.unwrap();
    let taken = engine.cas(&key("a"), None, Some("b".into())).await;
    assert!(taken.is_ok());
    for name in ["certificate", "key", "other"] {
        let _ = std::fs::remove_file(path(name));
    }
}

#[tokio::test]
async fn an_nkey_proves_who_the_node_is() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let pair = nkeys::KeyPair::new_user();
    let (public, seed) = (pair.public_key(), pair.seed().unwrap());
    let more = format!("authorization {{ users: [ {{ nkey: {public} }} ] }}");
    let servers = Servers::start(&binary, 1, &more);
    let mut ours = config(servers.urls(), 1, "t");
    ours.auth = NatsAuth::Nkey(seed);
    assert!(Nats::connect(ours).await.is_ok());
}

/// The binary, or a word that the test cannot run here.
pub(super) fn server(found: Result<PathBuf, String>) -> Option<PathBuf> {
    match found {
        Ok(binary) => Some(binary),
        Err(reason) => {
            skip(&reason);
            None
        }
    }
}

/// Of 256 KiB each.
const VALUES: usize = 300;
/// So many of them are written once more.
const AGAIN: usize = 100;
