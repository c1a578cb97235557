//! What JetStream answers once in a blue moon: the test plays it, on a server that has none.

use std::time::Duration;

use async_nats::Message;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tombolo_engine::{
    AppendError, CasError, Epoch, Expect, Kv as _, Log as _, Nats, NatsConfig, Offset, Purpose,
    Revision,
};

use super::one::server;
use super::servers::{self, Servers, WITHOUT_JETSTREAM};
use super::{config, key, operation};

#[tokio::test]
async fn what_a_leader_does_not_know_yet_is_not_taken_for_a_lost_race() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let mut attempts = 0;
    let servers = play(&binary, move |message| {
        if message.subject.contains("MSG.GET") {
            return is_of_last(message).then(|| stored(4));
        }
        let stream = stream_of(&message.subject)?;
        attempts += 1;
        Some(match attempts {
            1..=3 => refused(10164),
            _ => json!({ "stream": stream, "seq": 6 }),
        })
    });
    let (_servers, ours) = servers.await;
    let engine = Nats::connect(ours).await.unwrap();
    let (epoch, log) = (EPOCH, key("log"));
    let last = Expect::Last(Offset { epoch, seq: 5 });
    let appended = engine
        .append(&log, "6".into(), Purpose::More, last, operation())
        .await;
    assert_eq!(appended, Ok(Offset { epoch, seq: 6 }));
}

#[tokio::test]
async fn a_leader_that_never_knows_what_was_expected_is_believed_in_the_end() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = play(&binary, |message| {
        if message.subject.contains("MSG.GET") {
            return is_of_last(message).then(|| stored(4));
        }
        let is_asked = message.subject.starts_with("$JS.");
        (!is_asked).then(|| refused(10071))
    });
    let (_servers, mut ours) = servers.await;
    ours.hold_max = Duration::from_millis(300);
    let engine = Nats::connect(ours).await.unwrap();
    let (epoch, log, value) = (EPOCH, key("log"), key("value"));
    let last = Expect::Last(Offset { epoch, seq: 5 });
    let appended = engine.append(&log, "6".into(), Purpose::More, last, operation());
    assert_eq!(appended.await, Err(AppendError::Conflict));
    let revision = Revision { epoch, number: 5 };
    let swapped = engine.cas(&value, Some(revision), Some("6".into()));
    assert_eq!(swapped.await, Err(CasError::Conflict));
}

#[tokio::test]
async fn what_could_not_be_removed_of_a_retired_log_is_removed_later() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let (told, mut purged) = mpsc::unbounded_channel();
    let (mut is_marked, mut attempts) = (false, 0);
    let servers = play(&binary, move |message| {
        let subject = message.subject.as_str();
        if stream_of(subject).is_some() {
            is_marked = true;
            return Some(json!({ "stream": stream_of(subject)?, "seq": 6 }));
        }
        if subject.starts_with("$JS.API.STREAM.MSG.GET") && is_of_last(message) {
            return Some(match subject.ends_with("t_snapshots") {
                true => stored_with(3, "Tombolo-At: 7/4\r\nTombolo-Parts: 1"),
                false if is_marked => stored_with(6, "Tombolo-Retired: 5"),
                false => stored(5),
            });
        }
        let stream = subject.strip_prefix("$JS.API.STREAM.PURGE.")?.to_owned();
        attempts += 1;
        if attempts == 1 {
            return Some(refused(10_008));
        }
        let purge: Value = serde_json::from_slice(&message.payload).unwrap();
        let filter = purge["filter"].as_str()?.to_owned();
        told.send((stream, filter, purge["seq"].as_u64())).unwrap();
        Some(json!({ "success": true, "purged": 1 }))
    });
    let (_servers, mut ours) = servers.await;
    ours.log_shards = 1;
    ours.tail_check = Duration::from_millis(50);
    let engine = Nats::connect(ours).await.unwrap();
    let (epoch, seq) = (EPOCH, 5);
    let retired = engine.retire(&key("log"), Offset { epoch, seq }).await;
    assert_eq!(retired, Ok(()));
    for (stream, filter, seq) in [
        ("t_log_0", "t.log.0.7.log", 6),
        ("t_snapshots", "t.snapshot.7.part.*.*.*.log", 3),
        ("t_snapshots", "t.snapshot.7.first.log", 4),
    ] {
        let expected = (stream.to_owned(), filter.to_owned(), Some(seq));
        assert_eq!(purged.recv().await, Some(expected));
    }
    assert_eq!(engine.stats().unpurged, 0);
}

#[tokio::test]
async fn answers_of_several_messages_all_come_over_one_subscription() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let (told, mut inboxes) = mpsc::unbounded_channel();
    let servers = play(&binary, move |message| {
        if message.subject.contains("DIRECT.GET") {
            let reply = message.reply.as_ref()?;
            let (inbox, number) = reply.rsplit_once('.')?;
            // The test may have seen enough.
            let _ = told.send((inbox.to_owned(), number.parse::<u64>()));
        }
        None
    });
    let (_servers, mut ours) = servers.await;
    ours.request_timeout = Duration::from_millis(100);
    let engine = Nats::connect(ours).await.unwrap();
    let _tails = [
        engine.tail(&key("one"), None).await.unwrap(),
        engine.tail(&key("two"), None).await.unwrap(),
    ];
    let [first, second] = [inboxes.recv().await.unwrap(), inboxes.recv().await.unwrap()];
    assert_eq!(first.0, second.0, "the inbox");
    assert_ne!(first.1.unwrap(), second.1.unwrap(), "the questions");
}

#[tokio::test]
async fn a_watch_of_which_a_part_has_no_leader_leaves_nothing_of_the_others_behind() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let (told, mut heard) = mpsc::unbounded_channel();
    let servers = play(&binary, move |message| {
        let subject = message.subject.strip_prefix("$JS.API.CONSUMER.")?;
        let mut words = subject.split('.');
        let (verb, stream, consumer) = (words.next()?, words.next()?, words.next()?);
        if verb == "CREATE" && stream == "KV_t_values_1" {
            return Some(refused(10_008));
        }
        // The test may have seen enough.
        let _ = told.send((verb.to_owned(), consumer.to_owned()));
        Some(json!({ "success": true, "num_pending": 0 }))
    });
    let (_servers, mut ours) = servers.await;
    ours.value_shards = 2;
    let engine = Nats::connect(ours).await.unwrap();
    let _watch = engine.watch(&key("some")).await;
    let (verb, made) = heard.recv().await.unwrap();
    assert_eq!(verb, "CREATE");
    let next = heard.recv().await.unwrap();
    assert_eq!(next, ("DELETE".to_owned(), made));
}

/// Starts a server, and answers what JetStream is asked, and messages for its streams. What the test leaves
/// unanswered is answered so: streams are there, messages are not.
async fn play(
    binary: &std::path::Path,
    mut answer: impl FnMut(&Message) -> Option<Value> + Send + 'static,
) -> (Servers, NatsConfig) {
    let servers = Servers::start(binary, 1, WITHOUT_JETSTREAM);
    let client = async_nats::connect(servers.urls()).await.unwrap();
    let mut asked = Vec::new();
    for subject in ["$JS.API.>", "$KV.>", "t.log.>", "t.snapshot.>"] {
        asked.push(client.subscribe(subject).await.unwrap());
    }
    client.flush().await.unwrap();
    tokio::spawn(async move {
        let mut asked = select_all(asked);
        while let Some(message) = asked.next().await {
            let answer = answer(&message).unwrap_or_else(|| {
                let stream = message.subject.strip_prefix("$JS.API.STREAM.INFO.");
                stream.map_or_else(|| refused(10037), info)
            });
            if let Some(asker) = message.reply {
                let _ = client.publish(asker, answer.to_string().into()).await;
            }
        }
    });
    let ours = config(servers.urls(), 3, "t");
    (servers, ours)
}

fn info(stream: &str) -> Value {
    let (root, max_age) = match stream {
        "t_snapshots" => ("t.snapshot".to_owned(), 0),
        "KV_t_leases" => ("$KV.t_leases".to_owned(), 2_000_000_000),
        _ => match stream.strip_prefix("KV_") {
            Some(bucket) => (format!("$KV.{bucket}"), 0),
            None => (stream.replace('_', "."), 0),
        },
    };
    let subject = format!("{root}.{}.>", EPOCH.0);
    json!({ "config": { "subjects": [subject], "num_replicas": 3, "max_age": max_age } })
}

fn refused(code: u32) -> Value {
    json!({ "error": { "code": 400, "err_code": code, "description": "refused" } })
}

fn stored(seq: u64) -> Value {
    json!({ "message": { "subject": "", "seq": seq } })
}

fn stored_with(seq: u64, headers: &str) -> Value {
    let headers = STANDARD.encode(format!("NATS/1.0\r\n{headers}\r\n\r\n"));
    json!({ "message": { "subject": "", "seq": seq, "hdrs": headers } })
}

/// Whether the last message of a subject is asked for.
fn is_of_last(message: &Message) -> bool {
    let question: Value = serde_json::from_slice(&message.payload).unwrap();
    !question["last_by_subj"].is_null()
}

/// The stream of logs whose subject it is.
fn stream_of(subject: &str) -> Option<String> {
    let shard = subject.strip_prefix("t.log.")?.split('.').next()?;
    Some(format!("t_log_{shard}"))
}

const EPOCH: Epoch = Epoch(7);
