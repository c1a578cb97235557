//! What every engine does, as one suite: [`conformance_tests!`](crate::conformance_tests) makes a
//! test of each function here.
//!
//! Each takes an engine that nobody else uses and whose leases last a few seconds at most, and
//! panics when the engine does otherwise.

mod macros;
mod retired;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::{
    AppendError, BusEvent, CasError, Engine, Expect, Key, Offset, OperationId, Pattern,
    PublishError, Purpose, RequestError, Revision, Tail, TailEvent, VALUE_BYTES_MAX, Watch,
    WatchEvent,
};

pub use retired::{
    a_retired_log_goes_on_after_its_last_entry, of_a_retired_log_nothing_is_left,
    who_reads_a_retired_log_for_the_first_time_can_append_to_it,
};
pub use snapshots::{
    a_large_snapshot_is_read_whole_and_one_that_is_too_large_is_refused,
    a_snapshot_stands_for_the_entries_before_it,
    a_snapshot_whose_writer_dies_is_never_read_in_part,
    of_two_snapshots_at_the_same_time_one_is_read_whole,
};

/// All requirements, one after the other, for engines that are dear to make. `new_engine` is given
/// the name of each.
pub async fn all(new_engine: impl AsyncFn(&'static str) -> Arc<dyn Engine>) {
    crate::conformance_requirements! { conformance_one_after_the_other new_engine }
}

/// Patterns choose by whole tokens.
pub async fn a_message_reaches_every_subscriber_and_nobody_else(engine: Arc<dyn Engine>) {
    let inbox = key(["node", "a", "inbox"]);
    let mut exact = subscribe(&engine, &Pattern::Exactly(inbox.clone()), 8).await;
    let mut under = subscribe(&engine, &Pattern::Under(key(["node"])), 8).await;
    let mut other = subscribe(&engine, &Pattern::Under(key(["nod"])), 8).await;

    engine.publish(&inbox, "1".into()).await.expect("published");
    engine
        .publish(&key(["nod", "x"]), "2".into())
        .await
        .expect("published");

    for subscription in [&mut exact, &mut under] {
        let Some(BusEvent::Message(message)) = soon(subscription.next()).await else {
            panic!("the subscriber gets the message");
        };
        assert_eq!(
            (message.subject, &message.payload[..]),
            (inbox.clone(), &b"1"[..])
        );
    }
    let Some(BusEvent::Message(message)) = soon(other.next()).await else {
        panic!("the other subscriber gets its message");
    };
    assert_eq!(&message.payload[..], b"2");
}

/// The buffer is bounded, the publisher does not wait, and nothing vanishes uncounted.
pub async fn a_slow_subscriber_loses_messages_and_is_told_how_many(engine: Arc<dyn Engine>) {
    let subject = key(["busy"]);
    let mut subscription = subscribe(&engine, &Pattern::Exactly(subject.clone()), 4).await;
    let mut other = subscribe(&engine, &Pattern::Exactly(subject.clone()), 200).await;
    for number in 0_u64..100 {
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        engine.publish(&subject, payload).await.expect("published");
    }
    for _ in 0..100 {
        assert!(matches!(
            soon(other.next()).await,
            Some(BusEvent::Message(_))
        ));
    }

    let (mut received, mut lost) = (0, 0);
    while received + lost < 100 {
        match soon(subscription.next()).await {
            Some(BusEvent::Message(_)) => received += 1,
            Some(BusEvent::Lost(count)) => lost += count,
            None => panic!("the engine is still there"),
        }
    }
    assert_eq!(received + lost, 100);
    assert!(received >= 1, "some messages arrive");
    assert!(lost >= 1, "a buffer of 4 does not hold 100 messages");
}

/// Each request goes to exactly one.
pub async fn a_request_is_answered_by_one_of_the_servers(engine: Arc<dyn Engine>) {
    let subject = key(["echo"]);
    for name in ["a", "b"] {
        let mut server = engine.serve(&subject, 8).await.expect("available");
        tokio::spawn(async move {
            while let Some(request) = server.next().await {
                let answer = [name.as_bytes(), &request.payload].concat();
                request.answer(answer.into());
            }
        });
    }
    for number in 0..10 {
        let payload = Bytes::from(format!("{number}"));
        let answer = engine
            .request(&subject, payload, LONG)
            .await
            .expect("answered");
        assert!(answer == format!("a{number}") || answer == format!("b{number}"));
    }
}

/// Nobody waits for an answer that cannot come.
pub async fn a_request_without_a_server_fails_at_once(engine: Arc<dyn Engine>) {
    let subject = key(["nobody"]);
    let answer = soon(engine.request(&subject, "?".into(), Duration::from_secs(3600))).await;
    assert_eq!(answer, Err(RequestError::NoResponder));

    drop(engine.serve(&subject, 8).await.expect("available"));
    // A request may be quicker than the news that nobody serves any more.
    let is_news = |answer: &Result<Bytes, RequestError>| {
        !matches!(answer, Err(RequestError::Timeout | RequestError::Refused))
    };
    let answer = soon(async {
        loop {
            let answer = engine.request(&subject, "?".into(), BRIEF).await;
            if is_news(&answer) {
                return answer;
            }
        }
    });
    assert_eq!(answer.await, Err(RequestError::NoResponder));
}

/// The asker learns of it, at the latest when its time is up.
pub async fn a_request_that_is_dropped_or_forgotten_has_no_answer(engine: Arc<dyn Engine>) {
    let subject = key(["silent"]);
    let mut server = engine.serve(&subject, 8).await.expect("available");
    let ask = engine.request(&subject, "?".into(), Duration::from_millis(50));
    let (answer, kept) = tokio::join!(ask, server.next());
    assert_eq!(answer, Err(RequestError::Timeout));
    drop(kept);
}

/// The bound is the same for all three parts.
pub async fn too_large_values_are_refused_and_not_written(engine: Arc<dyn Engine>) {
    let name = key(["large"]);
    let fits = Bytes::from(vec![0; VALUE_BYTES_MAX]);
    let large = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    // A little more may pass on the bus, for a seal around it.
    let larger = Bytes::from(vec![0; VALUE_BYTES_MAX + 1024]);

    assert_eq!(engine.publish(&name, fits.clone()).await, Ok(()));
    assert_eq!(
        engine.publish(&name, larger.clone()).await,
        Err(PublishError::TooLarge)
    );
    let asked = engine.request(&name, larger, LONG).await;
    assert_eq!(asked, Err(RequestError::TooLarge));
    let appended = engine
        .append(
            &name,
            large.clone(),
            Purpose::More,
            Expect::Any,
            operation(),
        )
        .await;
    assert_eq!(appended, Err(AppendError::TooLarge));
    assert!(
        engine
            .append(
                &name,
                fits.clone(),
                Purpose::More,
                Expect::Empty,
                operation()
            )
            .await
            .is_ok()
    );
    let written = engine.cas(&name, None, Some(large)).await;
    assert_eq!(written, Err(CasError::TooLarge));
    assert!(engine.cas(&name, None, Some(fits)).await.is_ok());
}

/// A tail that was there before and one that comes after read the same.
pub async fn appended_entries_come_in_order_to_every_tail(engine: Arc<dyn Engine>) {
    let log = key(["log"]);
    let mut early = tail(&engine, &log, None).await;
    assert_eq!(soon(early.next()).await, Some(TailEvent::Synced));

    let mut offsets = Vec::new();
    for number in 0_u8..20 {
        offsets.push(append(&engine, &log, &[number], Expect::Any).await);
    }
    assert!(offsets.is_sorted_by(|a, b| a < b), "offsets grow");

    let mut late = tail(&engine, &log, None).await;
    for (number, offset) in (0_u8..).zip(&offsets) {
        let event = TailEvent::Entry {
            at: *offset,
            entry: Bytes::copy_from_slice(&[number]),
        };
        assert_eq!(soon(early.next()).await, Some(event.clone()));
        assert_eq!(soon(late.next()).await, Some(event));
    }
    assert_eq!(soon(late.next()).await, Some(TailEvent::Synced));
}

/// That is how a reader goes on after it was away.
pub async fn a_tail_begins_after_the_offset_that_it_is_given(engine: Arc<dyn Engine>) {
    let log = key(["log"]);
    let first = append(&engine, &log, b"1", Expect::Empty).await;
    let second = append(&engine, &log, b"2", Expect::Any).await;

    let mut reader = tail(&engine, &log, Some(first)).await;
    let event = TailEvent::Entry {
        at: second,
        entry: "2".into(),
    };
    assert_eq!(soon(reader.next()).await, Some(event));
    assert_eq!(soon(reader.next()).await, Some(TailEvent::Synced));

    let mut foreign = first;
    foreign.epoch.0 += 1;
    let mut reader = tail(&engine, &log, Some(foreign)).await;
    assert_eq!(soon(reader.next()).await, Some(TailEvent::Reset));
    let event = TailEvent::Entry {
        at: first,
        entry: "1".into(),
    };
    assert_eq!(soon(reader.next()).await, Some(event));
}

/// Each expectation with each state of the log.
pub async fn an_append_wins_only_with_the_right_expectation(engine: Arc<dyn Engine>) {
    let (log, other) = (key(["log"]), key(["other"]));
    let elsewhere = append(&engine, &other, b"x", Expect::Empty).await;
    conflicts(&engine, &log, Expect::Last(elsewhere)).await;

    let first = append(&engine, &log, b"1", Expect::Empty).await;
    conflicts(&engine, &log, Expect::Empty).await;
    let second = append(&engine, &log, b"2", Expect::Last(first)).await;
    conflicts(&engine, &log, Expect::Last(first)).await;
    let mut foreign = second;
    foreign.epoch.0 += 1;
    conflicts(&engine, &log, Expect::Last(foreign)).await;
    append(&engine, &log, b"3", Expect::Any).await;
    conflicts(&engine, &log, Expect::Last(second)).await;
    assert_eq!(entries(&engine, &log).await, ["1", "2", "3"]);
}

/// 8 writers, each with 25 wins: every entry names its real predecessor, none is missing.
pub async fn of_contending_appends_one_wins_per_offset(engine: Arc<dyn Engine>) {
    let log = key(["contended"]);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0_u8..8 {
        let (engine, log) = (Arc::clone(&engine), log.clone());
        writers.spawn(async move { win_appends(&engine, &log, writer, 25).await });
    }
    let mut bases = BTreeSet::new();
    while let Some(won) = writers.join_next().await {
        for base in won.expect("the writer does not panic") {
            assert!(bases.insert(base), "two appends won at {base:?}");
        }
    }
    assert_eq!(bases.len(), 200);
    assert_eq!(entries(&engine, &log).await.len(), 200);
}

/// All of them, although nobody takes them at first.
pub async fn a_watch_reads_more_values_than_may_wait(engine: Arc<dyn Engine>) {
    let count = 1_500_u64;
    for number in 0..count {
        let name = key(["many", &number.to_string()]);
        engine
            .cas(&name, None, Some("x".into()))
            .await
            .expect("absent");
    }
    for _ in 0..3 {
        let mut watch = watch(&engine, &key(["many"])).await;
        let mut found = 0;
        loop {
            match soon(watch.next()).await.expect("the engine is still there") {
                WatchEvent::Put { .. } => found += 1,
                WatchEvent::Synced => break,
                event @ (WatchEvent::Deleted { .. } | WatchEvent::Reset) => {
                    panic!("nothing changes, and not {event:?}")
                }
            }
            // Slower than the servers tell: each is asked for before the next one is taken.
            let _ = engine.get(&key(["many", "0"])).await;
        }
        assert_eq!(found, count);
    }
}

/// Logs are told apart by their whole keys.
pub async fn logs_do_not_share_entries(engine: Arc<dyn Engine>) {
    let (a, b) = (key(["room", "a"]), key(["room", "a", "b"]));
    append(&engine, &a, b"1", Expect::Empty).await;
    append(&engine, &b, b"2", Expect::Empty).await;
    assert_eq!(entries(&engine, &a).await, ["1"]);
    assert_eq!(entries(&engine, &b).await, ["2"]);
}

/// Each expectation with each state of the value.
pub async fn a_value_changes_only_from_its_revision(engine: Arc<dyn Engine>) {
    let name = key(["value"]);
    assert_eq!(engine.get(&name).await, Ok(None));
    let first = engine
        .cas(&name, None, Some("1".into()))
        .await
        .expect("absent");
    let taken = engine.cas(&name, None, Some("x".into())).await;
    assert_eq!(taken, Err(CasError::Conflict));
    let second = engine
        .cas(&name, Some(first), Some("2".into()))
        .await
        .expect("unchanged");
    assert!(second > first, "revisions grow");
    let stale = engine.cas(&name, Some(first), Some("x".into())).await;
    assert_eq!(stale, Err(CasError::Conflict));
    let stale = engine.cas(&name, Some(first), None).await;
    assert_eq!(stale, Err(CasError::Conflict));
    let entry = engine
        .get(&name)
        .await
        .expect("available")
        .expect("written");
    assert_eq!((&entry.value[..], entry.revision), (&b"2"[..], second));
}

/// So a revision is a fencing token for ever.
pub async fn revisions_grow_over_deletion(engine: Arc<dyn Engine>) {
    let name = key(["value"]);
    let first = engine
        .cas(&name, None, Some("1".into()))
        .await
        .expect("absent");
    let deleted = engine
        .cas(&name, Some(first), None)
        .await
        .expect("unchanged");
    assert_eq!(engine.get(&name).await, Ok(None));
    let stale = engine.cas(&name, Some(first), Some("x".into())).await;
    assert_eq!(stale, Err(CasError::Conflict));
    let again = engine
        .cas(&name, None, Some("2".into()))
        .await
        .expect("absent");
    assert!(
        first < deleted && deleted < again,
        "revisions grow over deletion"
    );
}

/// 8 writers count to 200 together.
pub async fn of_contending_writers_one_wins_per_revision(engine: Arc<dyn Engine>) {
    let name = key(["counter"]);
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (engine, name) = (Arc::clone(&engine), name.clone());
        writers.spawn(async move {
            for _ in 0..25 {
                while !increment(&engine, &name).await {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("the writer does not panic");
    }
    let entry = engine
        .get(&name)
        .await
        .expect("available")
        .expect("written");
    assert_eq!(number(&entry.value), 200);
}

/// 8 creators for each of 20 keys.
pub async fn of_contending_creators_one_wins(engine: Arc<dyn Engine>) {
    for round in 0..20 {
        let name = key(["created", &*round.to_string()]);
        let mut creators = tokio::task::JoinSet::new();
        for creator in 0_u8..8 {
            let (engine, name) = (Arc::clone(&engine), name.clone());
            creators.spawn(async move {
                let value = Bytes::copy_from_slice(&[creator]);
                engine.cas(&name, None, Some(value)).await
            });
        }
        let results = creators.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    }
}

/// Renewals keep it, however many; without them it is gone, its watchers are told, and the next
/// holder has a greater revision.
pub async fn a_lease_ends_unless_it_is_renewed(engine: Arc<dyn Engine>) {
    let (leases, time) = (engine.leases(), engine.lease_time());
    let (held, let_go) = (key(["node", "a"]), key(["node", "b"]));
    let mut watch = leases.watch(&key(["node"])).await.expect("available");
    assert_eq!(soon(watch.next()).await, Some(WatchEvent::Synced));

    let mut held_at = leases.cas(&held, None, Some("a".into())).await;
    let first = leases
        .cas(&let_go, None, Some("b".into()))
        .await
        .expect("absent");
    let mut seen = BTreeMap::new();
    let mut renewal = tokio::time::interval(time / 4);
    loop {
        tokio::select! {
            _ = renewal.tick() => {
                let revision = held_at.expect("a lease that is renewed in time is kept");
                held_at = leases.cas(&held, Some(revision), Some("a".into())).await;
            }
            event = soon(watch.next()) => match event.expect("the engine is still there") {
                WatchEvent::Put { key, entry } => { seen.insert(key, entry.revision); }
                WatchEvent::Deleted { key, .. } => { seen.remove(&key); }
                WatchEvent::Synced | WatchEvent::Reset => {}
            }
        }
        let is_gone = leases.get(&let_go).await.expect("available").is_none();
        if is_gone && seen.contains_key(&held) && !seen.contains_key(&let_go) {
            break;
        }
    }
    let stale = leases.cas(&let_go, Some(first), Some("b".into())).await;
    assert_eq!(stale, Err(CasError::Conflict), "a lease that ended is lost");
    let again = leases
        .cas(&let_go, None, Some("c".into()))
        .await
        .expect("absent");
    assert!(first < again, "revisions grow over the end of a lease");
    let mut last = again;
    while leases
        .get(&let_go)
        .await
        .expect("available")
        .is_some_and(|entry| {
            last = entry.revision;
            true
        })
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(last, again, "a lease that was taken again ends, too");
}

/// 8 takers for each of 5 leases; who lost cannot write with what it knows.
pub async fn of_contending_takers_of_a_lease_one_wins_and_its_revision_fences(
    engine: Arc<dyn Engine>,
) {
    for round in 0..5 {
        let name = key(["lease", &*round.to_string()]);
        let mut takers = tokio::task::JoinSet::new();
        for taker in 0_u8..8 {
            let (engine, name) = (Arc::clone(&engine), name.clone());
            takers.spawn(async move {
                let value = Bytes::copy_from_slice(&[taker]);
                engine.leases().cas(&name, None, Some(value)).await
            });
        }
        let results = takers.join_all().await;
        let mut won = results.iter().flatten();
        let (Some(first), None) = (won.next(), won.next()) else {
            panic!("one taker wins, not {results:?}");
        };
        let leases = engine.leases();
        let fenced = leases
            .cas(&name, Some(*first), Some("fenced".into()))
            .await
            .expect("the revision is the winner's");
        let late = leases.cas(&name, Some(*first), Some("late".into())).await;
        assert_eq!(
            late,
            Err(CasError::Conflict),
            "the fenced holder is refused"
        );
        let entry = leases.get(&name).await.expect("available").expect("taken");
        assert_eq!((&entry.value[..], entry.revision), (&b"fenced"[..], fenced));
    }
}

/// The prefix ends at a token, and `Synced` comes for an empty prefix, too.
pub async fn a_watch_reads_what_is_there_and_follows_changes(engine: Arc<dyn Engine>) {
    let (a, b, other) = (key(["p", "a"]), key(["p", "b"]), key(["pp", "c"]));
    let mut empty = watch(&engine, &key(["q"])).await;
    assert_eq!(soon(empty.next()).await, Some(WatchEvent::Synced));

    let first = engine
        .cas(&a, None, Some("1".into()))
        .await
        .expect("absent");
    engine
        .cas(&other, None, Some("x".into()))
        .await
        .expect("absent");
    let mut watch = watch(&engine, &key(["p"])).await;
    assert_eq!(
        put(soon(watch.next()).await),
        (a.clone(), "1".into(), first)
    );
    assert_eq!(soon(watch.next()).await, Some(WatchEvent::Synced));

    let second = engine
        .cas(&b, None, Some("2".into()))
        .await
        .expect("absent");
    let revision = engine.cas(&a, Some(first), None).await.expect("unchanged");
    let mut events = [soon(watch.next()).await, soon(watch.next()).await];
    // Changes of different values come in any order.
    events.sort_by_key(|event| matches!(event, Some(WatchEvent::Deleted { .. })));
    let [created, deleted] = events;
    assert_eq!(put(created), (b, "2".into(), second));
    assert_eq!(deleted, Some(WatchEvent::Deleted { key: a, revision }));
}

/// What a watcher believes at `Synced` is what is there, however much it has missed.
pub async fn a_slow_watch_is_reset_and_ends_up_with_what_is_there(engine: Arc<dyn Engine>) {
    let mut watch = watch(&engine, &key(["p"])).await;
    let name = key(["p", "a"]);
    let mut revision = None;
    for number in 0_u64..2_000 {
        let value = Bytes::copy_from_slice(&number.to_be_bytes());
        revision = Some(
            engine
                .cas(&name, revision, Some(value))
                .await
                .expect("alone"),
        );
    }

    let mut believed = None;
    while believed != Some(1_999) {
        match soon(watch.next()).await.expect("the engine is still there") {
            WatchEvent::Put { entry, .. } => believed = Some(number(&entry.value)),
            WatchEvent::Reset | WatchEvent::Deleted { .. } => believed = None,
            WatchEvent::Synced => {}
        }
    }
}

async fn subscribe(
    engine: &Arc<dyn Engine>,
    pattern: &Pattern,
    messages_max: usize,
) -> crate::Subscription {
    engine
        .subscribe(pattern, messages_max)
        .await
        .expect("available")
}

async fn tail(engine: &Arc<dyn Engine>, log: &Key, after: Option<Offset>) -> Box<dyn Tail> {
    engine.tail(log, after).await.expect("available")
}

async fn watch(engine: &Arc<dyn Engine>, prefix: &Key) -> Box<dyn Watch> {
    engine.watch(prefix).await.expect("available")
}

async fn append(engine: &Arc<dyn Engine>, log: &Key, entry: &[u8], expect: Expect) -> Offset {
    let entry = Bytes::copy_from_slice(entry);
    engine
        .append(log, entry, Purpose::More, expect, operation())
        .await
        .expect("the expectation holds")
}

async fn conflicts(engine: &Arc<dyn Engine>, log: &Key, expect: Expect) {
    let appended = engine
        .append(log, "x".into(), Purpose::More, expect, operation())
        .await;
    assert_eq!(appended, Err(AppendError::Conflict), "{expect:?}");
}

/// Appends until it has won `wins` times; returns after which offsets.
async fn win_appends(
    engine: &Arc<dyn Engine>,
    log: &Key,
    writer: u8,
    wins: usize,
) -> Vec<Option<Offset>> {
    let mut reader = tail(engine, log, None).await;
    let mut last = None;
    let mut bases = Vec::new();
    while bases.len() < wins {
        let expect = last.map_or(Expect::Empty, Expect::Last);
        let entry = Bytes::copy_from_slice(&[writer]);
        match engine
            .append(log, entry, Purpose::More, expect, operation())
            .await
        {
            Ok(_) => bases.push(last),
            Err(AppendError::Conflict) => {}
            Err(error) => panic!("the engine is available: {error}"),
        }
        if let Some(TailEvent::Entry { at, .. }) = soon(reader.next()).await {
            last = Some(at);
        }
        tokio::task::yield_now().await;
    }
    bases
}

/// One attempt to add 1; whether it won.
async fn increment(engine: &Arc<dyn Engine>, name: &Key) -> bool {
    let entry = engine.get(name).await.expect("available");
    let revision: Option<Revision> = entry.as_ref().map(|entry| entry.revision);
    let next = entry.map_or(0, |entry| number(&entry.value)) + 1;
    let value = Bytes::copy_from_slice(&next.to_be_bytes());
    match engine.cas(name, revision, Some(value)).await {
        Ok(_) => true,
        Err(CasError::Conflict) => false,
        Err(error) => panic!("the engine is available: {error}"),
    }
}

/// What is in the log now.
async fn entries(engine: &Arc<dyn Engine>, log: &Key) -> Vec<Bytes> {
    let mut reader = tail(engine, log, None).await;
    let mut entries = Vec::new();
    while let Some(TailEvent::Entry { entry, .. }) = soon(reader.next()).await {
        entries.push(entry);
    }
    entries
}

fn put(event: Option<WatchEvent>) -> (Key, Bytes, Revision) {
    let Some(WatchEvent::Put { key, entry }) = event else {
        panic!("a value, not {event:?}")
    };
    (key, entry.value, entry.revision)
}

/// A future that is a bug when it takes long.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future)
        .await
        .expect("the engine is alive")
}

fn key<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Key {
    Key::new(tokens).expect("the tokens are good")
}

/// An operation like no other.
fn operation() -> OperationId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = u128::from(LAST.fetch_add(1, Ordering::Relaxed));
    OperationId(number.to_be_bytes())
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}

const LONG: Duration = Duration::from_secs(30);
/// Between two questions to somebody who may have gone.
const BRIEF: Duration = Duration::from_millis(100);
