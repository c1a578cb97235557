//! A server that comes back with what it had earlier.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Expect, Key, Log as _, Nats, Offset, Purpose, Tail, TailEvent};

use super::one::server;
use super::servers::{self, Servers};
use super::{config, key, operation};

#[tokio::test]
async fn readers_begin_anew_when_a_server_comes_back_with_what_it_had_earlier() {
    come_back(1).await;
}

#[tokio::test]
async fn readers_begin_anew_when_all_servers_come_back_with_what_they_had_earlier() {
    come_back(3).await;
}

async fn come_back(replicas: usize) {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let mut servers = Servers::start(&binary, replicas, "");
    let mut ours = config(servers.urls(), replicas, "t");
    ours.leader_stale_max = Duration::from_millis(100);
    let log = key("log");
    let engine = Nats::connect(ours.clone()).await.unwrap();
    let earlier = append(&engine, &log, ["1", "2"]).await;
    drop(engine);
    kill(&mut servers);
    let backup = servers.folder.with_extension("backup");
    copy(&servers.folder, &backup);
    start_again(&mut servers);
    let engine = Nats::connect(ours).await.unwrap();
    let later = append(&engine, &log, ["3", "4"]).await;
    let mut tail = engine.tail(&log, None).await.unwrap();
    expect(&mut *tail, earlier.iter().chain(&later)).await;
    assert_eq!(tail.next().await, Some(TailEvent::Synced));

    kill(&mut servers);
    copy(&backup, &servers.folder);
    start_again(&mut servers);
    assert_eq!(tail.next().await, Some(TailEvent::Reset));
    expect(&mut *tail, &earlier).await;
    let last = Expect::Last(earlier[1].0);
    let next = engine
        .append(&log, "5".into(), Purpose::More, last, operation())
        .await;
    expect(&mut *tail, &[(next.unwrap(), "5".into())]).await;
    assert_eq!(engine.stats().rolled_back, 1);
    // Whoever had read more finds that out when it comes back.
    let mut tail = engine.tail(&log, Some(later[1].0)).await.unwrap();
    while tail.next().await.expect("the engine is there") != TailEvent::Reset {}
    std::fs::remove_dir_all(backup).unwrap();
}

#[tokio::test]
async fn readers_begin_anew_when_others_have_written_as_much_again_since_then() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let mut servers = Servers::start(&binary, 1, "");
    let mut elsewhere = Servers::start(&binary, 1, "");
    let ours = config(servers.urls(), 1, "t");
    let log = key("log");
    let engine = Nats::connect(ours.clone()).await.unwrap();
    let earlier = append(&engine, &log, ["1", "2"]).await;
    drop(engine);
    servers.servers[0].kill();
    elsewhere.servers[0].kill();
    copy(&store(&servers), &store(&elsewhere));
    start_again(&mut servers);
    start_again(&mut elsewhere);
    let engine = Nats::connect(ours).await.unwrap();
    let later = append(&engine, &log, ["3", "4"]).await;
    let mut tail = engine.tail(&log, None).await.unwrap();
    expect(&mut *tail, earlier.iter().chain(&later)).await;
    assert_eq!(tail.next().await, Some(TailEvent::Synced));
    let kept = engine.snapshot(&log, later[1].0, "1+2+3+4".into()).await;
    assert_eq!(kept, Ok(()));

    // The logs are as they were, and grow again beyond what was read; the snapshot stays.
    let other = Nats::connect(config(elsewhere.urls(), 1, "t"));
    let other = other.await.unwrap();
    let again = append(&other, &log, ["5", "6", "7"]).await;
    assert_eq!(again[1].0, later[1].0);
    drop(other);
    elsewhere.servers[0].kill();
    servers.servers[0].kill();
    for shard in ["t_log_0", "t_log_1"] {
        let stream = Path::new("jetstream/$G/streams").join(shard);
        copy(
            &store(&elsewhere).join(&stream),
            &store(&servers).join(&stream),
        );
    }
    start_again(&mut servers);
    assert_eq!(tail.next().await, Some(TailEvent::Reset));
    expect(&mut *tail, earlier.iter().chain(&again)).await;
    let mut tail = engine.tail(&log, None).await.unwrap();
    expect(&mut *tail, earlier.iter().chain(&again)).await;
    // It is of another log, and does not keep this one's from being kept.
    let at = again[1].0;
    assert_eq!(engine.snapshot(&log, at, "1+2+5+6".into()).await, Ok(()));
    let state = "1+2+5+6".into();
    let mut tail = engine.tail(&log, None).await.unwrap();
    assert_eq!(tail.next().await, Some(TailEvent::Snapshot { at, state }));
    expect(&mut *tail, &again[2..]).await;
}

/// Where the only server keeps what it has on disk.
fn store(servers: &Servers) -> PathBuf {
    servers.folder.join("n0")
}

/// Puts a copy of a folder in the place of another, as whoever brings back a backup does.
fn copy(from: &Path, to: &Path) {
    // There may be none.
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

fn kill(servers: &mut Servers) {
    for server in &mut servers.servers {
        server.kill();
    }
}

fn start_again(servers: &mut Servers) {
    for (index, server) in servers.servers.iter_mut().enumerate() {
        server.start_again(index, &|_, mut command| command.spawn().unwrap());
    }
}

async fn append<const N: usize>(
    engine: &Nats,
    log: &Key,
    entries: [&'static str; N],
) -> Vec<(Offset, Bytes)> {
    let mut appended = Vec::new();
    for entry in entries {
        let entry = Bytes::from(entry);
        let at = engine.append(log, entry.clone(), Purpose::More, Expect::Any, operation());
        appended.push((at.await.unwrap(), entry));
    }
    appended
}

async fn expect(tail: &mut dyn Tail, entries: impl IntoIterator<Item = &(Offset, Bytes)>) {
    for (at, entry) in entries {
        let (at, entry) = (*at, entry.clone());
        assert_eq!(tail.next().await, Some(TailEvent::Entry { at, entry }));
    }
}
