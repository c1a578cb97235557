//! What is left of a log whose use has ended, and how it goes on.

use std::sync::Arc;

use super::{append, conflicts, key, soon, tail};
use crate::{Engine, Expect, Offset, RetireError, TailEvent};

/// An old writer that expects an empty log does not win again.
pub async fn a_retired_log_goes_on_after_its_last_entry(engine: Arc<dyn Engine>) {
    let log = key(["log"]);
    let first = append(&engine, &log, b"1", Expect::Empty).await;
    let last = append(&engine, &log, b"end", Expect::Last(first)).await;
    assert_eq!(engine.retire(&log, first).await, Err(RetireError::Conflict));
    assert_eq!(engine.retire(&log, last).await, Ok(()));

    conflicts(&engine, &log, Expect::Empty).await;
    conflicts(&engine, &log, Expect::Last(first)).await;
    let next = append(&engine, &log, b"again", Expect::Last(last)).await;
    assert!(next > last, "offsets grow");
}

/// It finds out what to expect, whatever is left of the log.
pub async fn who_reads_a_retired_log_for_the_first_time_can_append_to_it(engine: Arc<dyn Engine>) {
    let log = key(["log"]);
    let first = append(&engine, &log, b"1", Expect::Empty).await;
    let last = append(&engine, &log, b"end", Expect::Last(first)).await;
    // One that has read a part, and is not told of the rest before it is gone.
    let mut behind = tail(&engine, &log, Some(first)).await;
    assert_eq!(engine.retire(&log, last).await, Ok(()));

    let mut reader = tail(&engine, &log, None).await;
    let mut expect = Expect::Empty;
    loop {
        match soon(reader.next())
            .await
            .expect("the engine is still there")
        {
            TailEvent::Entry { at, .. }
            | TailEvent::Snapshot { at, .. }
            | TailEvent::Retired { at } => expect = Expect::Last(at),
            TailEvent::Reset => expect = Expect::Empty,
            TailEvent::Synced => break,
        }
    }
    let again = append(&engine, &log, b"again", expect).await;
    for reader in [&mut reader, &mut behind] {
        while !is_entry_at(&soon(reader.next()).await, again) {}
    }
}

/// What it held is gone at once, and who reads it is told so.
pub async fn of_a_retired_log_nothing_is_left(engine: Arc<dyn Engine>) {
    let log = key(["log"]);
    let first = append(&engine, &log, &[1; 1000], Expect::Empty).await;
    let second = append(&engine, &log, &[2; 1000], Expect::Last(first)).await;
    assert_eq!(engine.snapshot(&log, first, "1".into()).await, Ok(()));
    assert_eq!(engine.retire(&log, second).await, Ok(()));

    let gone = TailEvent::Retired { at: second };
    let mut reader = tail(&engine, &log, None).await;
    assert_eq!(soon(reader.next()).await, Some(gone.clone()));
    assert_eq!(soon(reader.next()).await, Some(TailEvent::Synced));
    let mut behind = tail(&engine, &log, Some(first)).await;
    assert_eq!(soon(behind.next()).await, Some(TailEvent::Reset));
    assert_eq!(soon(behind.next()).await, Some(gone));
}

fn is_entry_at(event: &Option<TailEvent>, at: Offset) -> bool {
    matches!(event.as_ref().expect("the engine is still there"), TailEvent::Entry { at: found, .. } if *found == at)
}
