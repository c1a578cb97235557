//! What a snapshot stands for, and that nobody reads half of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use super::{append, key, soon, tail};
use crate::{Engine, Expect, SNAPSHOT_BYTES_MAX, SnapshotError, TailEvent, VALUE_BYTES_MAX};

/// Readers that are behind get the snapshot, others just go on.
pub async fn a_snapshot_stands_for_the_entries_before_it(engine: Arc<dyn Engine>) {
    let log = key(["log"]);
    let first = append(&engine, &log, b"1", Expect::Any).await;
    let second = append(&engine, &log, b"2", Expect::Any).await;
    let mut ahead = tail(&engine, &log, Some(second)).await;
    assert_eq!(soon(ahead.next()).await, Some(TailEvent::Synced));

    assert_eq!(engine.snapshot(&log, second, "1+2".into()).await, Ok(()));
    let missing = engine.snapshot(&key(["none"]), second, "".into()).await;
    assert_eq!(missing, Err(SnapshotError::NoSuchEntry));
    let third = append(&engine, &log, b"3", Expect::Last(second)).await;

    let snapshot = TailEvent::Snapshot {
        at: second,
        state: "1+2".into(),
    };
    let entry = TailEvent::Entry {
        at: third,
        entry: "3".into(),
    };
    for after in [None, Some(first)] {
        let mut behind = tail(&engine, &log, after).await;
        assert_eq!(soon(behind.next()).await, Some(snapshot.clone()));
        assert_eq!(soon(behind.next()).await, Some(entry.clone()));
        assert_eq!(soon(behind.next()).await, Some(TailEvent::Synced));
    }
    assert_eq!(soon(ahead.next()).await, Some(entry));
}

/// However the engine keeps it.
pub async fn a_large_snapshot_is_read_whole_and_one_that_is_too_large_is_refused(
    engine: Arc<dyn Engine>,
) {
    let log = key(["log"]);
    let at = append(&engine, &log, b"1", Expect::Any).await;
    let state: Bytes = (0..SNAPSHOT_LARGE).map(|at| (at >> 9) as u8).collect();
    assert_eq!(engine.snapshot(&log, at, state.clone()).await, Ok(()));
    let too_large = Bytes::from(vec![0; SNAPSHOT_BYTES_MAX + 1]);
    let next = append(&engine, &log, b"2", Expect::Any).await;
    let refused = engine.snapshot(&log, next, too_large).await;
    assert_eq!(refused, Err(SnapshotError::TooLarge));
    let mut tail = tail(&engine, &log, None).await;
    let read = soon(tail.next()).await;
    let Some(TailEvent::Snapshot {
        at: place,
        state: read,
    }) = read
    else {
        panic!("a snapshot was kept, and not {read:?}");
    };
    assert_eq!((place, read.len()), (at, state.len()));
    assert!(read == state, "the whole snapshot");
}

/// What is read is the last one that was kept, or the one that was being written if that was done after all.
pub async fn a_snapshot_whose_writer_dies_is_never_read_in_part(engine: Arc<dyn Engine>) {
    let log = key(["log"]);
    let mut last = append(&engine, &log, b"0", Expect::Any).await;
    let state =
        |version: u8| Bytes::from(vec![version; 3 * VALUE_BYTES_MAX + usize::from(version)]);
    let kept = engine.snapshot(&log, last, state(0)).await;
    assert_eq!(kept, Ok(()));
    let mut versions = BTreeMap::from([(last, 0)]);
    for version in 1..=12_u8 {
        last = append(&engine, &log, &[version], Expect::Any).await;
        versions.insert(last, version);
        let writing = engine.snapshot(&log, last, state(version));
        let is_cut = polled(writing, usize::from(version)).await.is_none();
        let mut tail = tail(&engine, &log, None).await;
        let Some(TailEvent::Snapshot { at, state: read }) = soon(tail.next()).await else {
            panic!("a snapshot was kept");
        };
        assert!(
            read == state(versions[&at]),
            "all of it, and of one version"
        );
        assert!(is_cut || at == last, "what was answered is kept");
    }
    // Whoever comes after all that keeps its own.
    let at = append(&engine, &log, b"end", Expect::Any).await;
    assert_eq!(engine.snapshot(&log, at, state(99)).await, Ok(()));
    let mut tail = tail(&engine, &log, None).await;
    let state = state(99);
    assert!(soon(tail.next()).await == Some(TailEvent::Snapshot { at, state }));
}

/// Whoever is faster; what the other one does meanwhile harms nobody.
pub async fn of_two_snapshots_at_the_same_time_one_is_read_whole(engine: Arc<dyn Engine>) {
    let log = key(["log"]);
    let state = |writer: u8| Bytes::from(vec![writer; 3 * VALUE_BYTES_MAX + usize::from(writer)]);
    for polls in 1..=12 {
        let at = append(&engine, &log, b"1", Expect::Any).await;
        let mut slow = engine.snapshot(&log, at, state(1));
        let is_done = polled(&mut slow, polls).await.is_some();
        // Each may find that the other was faster.
        let _ = engine.snapshot(&log, at, state(2)).await;
        if !is_done {
            let _ = slow.await;
        }
        let mut tail = tail(&engine, &log, None).await;
        let Some(TailEvent::Snapshot {
            at: place,
            state: read,
        }) = soon(tail.next()).await
        else {
            panic!("a snapshot was kept");
        };
        assert_eq!(place, at);
        let is_whole = read == state(1) || read == state(2);
        assert!(is_whole, "all of it, and of one writer");
    }
}

/// Polls a future so often, and then drops it unless it is done.
async fn polled<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// More than a handful of parts, and less than may be.
const SNAPSHOT_LARGE: usize = 20 * 1024 * 1024 + 1;
