//! What JetStream answers once in a blue moon: the test plays it, on a server that has none.

use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use serde_json::{Value, json};
use tombolo_engine::{
    AppendError, CasError, Epoch, Expect, Kv as _, Log as _, Nats, NatsConfig, Offset, Revision,
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
    let appended = engine.append(&log, "6".into(), last, operation()).await;
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
    let appended = engine.append(&log, "6".into(), last, operation());
    assert_eq!(appended.await, Err(AppendError::Conflict));
    let revision = Revision { epoch, number: 5 };
    let swapped = engine.cas(&value, Some(revision), Some("6".into()));
    assert_eq!(swapped.await, Err(CasError::Conflict));
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
