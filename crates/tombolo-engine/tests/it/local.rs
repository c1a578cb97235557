use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{
    AppendError, CasError, Engine, Epoch, Expect, Key, Kv as _, Local, LocalConfig, Log as _,
    LogShare, OperationId, Purpose, TailEvent,
};

tombolo_engine::conformance_tests!(Arc::new(Local::new(config())) as Arc<dyn Engine>);

fn config() -> LocalConfig {
    let mut config = LocalConfig::default();
    config.lease_time = Duration::from_secs(1);
    config
}

#[tokio::test]
async fn a_full_engine_refuses_and_takes_up_again_what_it_forgets() {
    let mut config = LocalConfig::default();
    config.logs_max = 2;
    config.log_entries_max = 3;
    config.values_max = 1;
    let engine = Local::new(config);
    let [a, b, c] = ["a", "b", "c"].map(|name| Key::new([name]).unwrap());

    let first = append(&engine, &a, Expect::Empty).await.unwrap();
    append(&engine, &b, Expect::Empty).await.unwrap();
    assert_eq!(
        append(&engine, &c, Expect::Empty).await,
        Err(AppendError::Full)
    );
    engine.retire(&a, first).await.unwrap();
    append(&engine, &c, Expect::Empty).await.unwrap();

    append(&engine, &b, Expect::Any).await.unwrap();
    let last = append(&engine, &b, Expect::Any).await.unwrap();
    assert_eq!(
        append(&engine, &b, Expect::Any).await,
        Err(AppendError::Full)
    );
    engine.snapshot(&b, last, "state".into()).await.unwrap();
    append(&engine, &b, Expect::Last(last)).await.unwrap();

    engine.cas(&a, None, Some(Bytes::new())).await.unwrap();
    assert_eq!(
        engine.cas(&b, None, Some(Bytes::new())).await,
        Err(CasError::Full)
    );
}

#[tokio::test]
async fn logs_have_a_bound_of_bytes_and_give_them_back_when_they_are_retired() {
    let mut config = LocalConfig::default();
    config.log_bytes_max = 10_000;
    let engine = Local::new(config);
    let key = |kind: &str, name: &str| Key::new([kind, name]).unwrap();
    let append = async |purpose, log: &Key, bytes: usize| {
        let entry = Bytes::from(vec![0; bytes]);
        let id = OperationId([0; 16]);
        engine.append(log, entry, purpose, Expect::Any, id).await
    };
    let put = async |log: &Key, bytes| append(Purpose::More, log, bytes).await;
    let end = async |log: &Key, bytes| append(Purpose::End, log, bytes).await;
    let [posts, others, room] = [key("posts", "a"), key("posts", "b"), key("room", "a")];
    let last = put(&posts, 7_000).await.unwrap();
    assert_eq!(put(&others, 600).await, Err(AppendError::Full), "it is new");
    put(&posts, 800).await.unwrap();
    let more = put(&posts, 10).await;
    assert_eq!(more, Err(AppendError::Full), "others have some");
    end(&posts, 400).await.unwrap();
    put(&room, 500).await.unwrap();
    let more = put(&room, 500).await;
    assert_eq!(more, Err(AppendError::Full), "the rest is for ends");
    end(&room, 900).await.unwrap();
    let full = end(&room, 400).await;
    assert_eq!(full, Err(AppendError::Full), "that is all");

    engine.snapshot(&posts, last, "x".into()).await.unwrap();
    put(&room, 5_000).await.unwrap();
    let last = put(&room, 800).await.unwrap();
    assert_eq!(put(&posts, 3_000).await, Err(AppendError::Full));
    engine.retire(&room, last).await.unwrap();
    put(&posts, 3_000).await.unwrap();
}

#[tokio::test]
async fn logs_of_one_kind_leave_place_for_others_and_some_kinds_have_less() {
    let mut config = LocalConfig::default();
    config.logs_max = 20;
    config.log_bytes_max = 100_000;
    config.shares = ["posts", "roster"].map(share).into();
    let engine = Local::new(config);
    let key = |kind: &str, number: usize| Key::new([kind, &number.to_string()]).unwrap();
    let put = async |key: &Key, purpose, bytes: usize| {
        let entry = Bytes::from(vec![0; bytes]);
        let id = OperationId([0; 16]);
        engine.append(key, entry, purpose, Expect::Any, id).await
    };
    let more = async |key: &Key, bytes| put(key, Purpose::More, bytes).await;
    let full = Err(AppendError::Full);
    for kind in ["posts", "roster"] {
        for number in 0..5 {
            more(&key(kind, number), 10).await.unwrap();
        }
        assert_eq!(more(&key(kind, 5), 10).await, full, "there are 5 of 20");
        more(&key(kind, 0), 20_000).await.unwrap();
        assert_eq!(more(&key(kind, 0), 5_000).await, full, "it has a quarter");
        more(&key(kind, 0), 4_000).await.unwrap();
        put(&key(kind, 0), Purpose::End, 1_000).await.unwrap();
    }
    for number in 0..10 {
        more(&key("room", number), 3_000).await.unwrap();
    }
    assert_eq!(more(&key("room", 10), 10).await, full, "there are 20");
    more(&key("room", 0), 9_000).await.unwrap();
}

fn share(kind: &'static str) -> LogShare {
    let percent = 25;
    LogShare { kind, percent }
}

#[tokio::test]
async fn values_of_one_kind_leave_place_for_others() {
    let mut config = LocalConfig::default();
    config.values_max = 20;
    let engine = Local::new(config);
    let put = async |kind: &str, name: &str, value: Option<Bytes>| {
        let key = Key::new([kind, name]).unwrap();
        let found = engine.get(&key).await.unwrap();
        engine
            .cas(&key, found.map(|found| found.revision), value)
            .await
    };
    for number in 0..18 {
        let name = number.to_string();
        put("groups-of", &name, Some("".into())).await.unwrap();
    }
    let more = put("groups-of", "18", Some("".into())).await;
    assert_eq!(more, Err(CasError::Full));
    put("rooms-of", "0", Some("".into())).await.unwrap();
    put("groups-of", "0", Some("again".into())).await.unwrap();
    put("groups-of", "0", None).await.unwrap();
    put("groups-of", "18", Some("".into())).await.unwrap();
    put("nodes", "0", Some("".into())).await.unwrap();
    let more = put("nodes", "1", Some("".into())).await;
    assert_eq!(more, Err(CasError::Full), "there are 20");
}

#[tokio::test]
async fn a_forgotten_log_never_gives_an_offset_twice() {
    let mut config = LocalConfig::default();
    config.retired_logs_max = 1;
    config.epoch = Some(Epoch(7));
    let engine = Local::new(config);
    let [a, b] = ["a", "b"].map(|name| Key::new([name]).unwrap());

    let old = append(&engine, &a, Expect::Empty).await.unwrap();
    let mut reader = engine.tail(&a, Some(old)).await.unwrap();
    assert_eq!(reader.next().await, Some(TailEvent::Synced));
    engine.retire(&a, old).await.unwrap();
    let other = append(&engine, &b, Expect::Empty).await.unwrap();
    engine.retire(&b, other).await.unwrap();

    assert_eq!(
        append(&engine, &a, Expect::Last(old)).await,
        Err(AppendError::Conflict)
    );
    let new = append(&engine, &a, Expect::Empty).await.unwrap();
    assert!(new > old);
    let entry = TailEvent::Entry {
        at: new,
        entry: "x".into(),
    };
    assert_eq!(reader.next().await, Some(entry));
}

async fn append(
    engine: &Local,
    log: &Key,
    expect: Expect,
) -> Result<tombolo_engine::Offset, AppendError> {
    engine
        .append(log, "x".into(), Purpose::More, expect, OperationId([0; 16]))
        .await
}
