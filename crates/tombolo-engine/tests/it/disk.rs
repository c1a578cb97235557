//! The engine of a single node that keeps what it holds in a folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{
    AppendError, CasError, Engine, Epoch, Expect, Key, Kv as _, Leases as _, Local, LocalConfig,
    Log as _, Offset, OpenError, OperationId, Purpose, TailEvent,
};

tombolo_engine::conformance_tests!(Arc::new(Folder::new().open()) as Arc<dyn Engine>);

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = Folder::new();
    let [log, kept, gone] = ["log", "kept", "gone"].map(key);
    let (offsets, revision, deleted) = {
        let engine = folder.open();
        let mut offsets = Vec::new();
        for entry in ["1", "2", "3", "4"] {
            offsets.push(append(&engine, &log, entry, Expect::Any).await.unwrap());
        }
        engine
            .snapshot(&log, offsets[1], "1+2".into())
            .await
            .unwrap();
        let revision = engine.cas(&kept, None, Some("a".into())).await.unwrap();
        let first = engine.cas(&gone, None, Some("b".into())).await.unwrap();
        let deleted = engine.cas(&gone, Some(first), None).await.unwrap();
        (offsets, revision, deleted)
    };

    let engine = folder.open();
    let expected = [
        TailEvent::Snapshot {
            at: offsets[1],
            state: "1+2".into(),
        },
        entry(offsets[2], "3"),
        entry(offsets[3], "4"),
        TailEvent::Synced,
    ];
    let mut tail = engine.tail(&log, None).await.unwrap();
    for event in expected {
        assert_eq!(tail.next().await, Some(event));
    }
    let mut tail = engine.tail(&log, Some(offsets[2])).await.unwrap();
    assert_eq!(tail.next().await, Some(entry(offsets[3], "4")));
    let next = append(&engine, &log, "5", Expect::Last(offsets[3])).await;
    assert!(next.unwrap() > offsets[3]);

    let found = engine.get(&kept).await.unwrap().unwrap();
    assert_eq!((found.revision, &found.value[..]), (revision, &b"a"[..]));
    assert_eq!(engine.get(&gone).await, Ok(None));
    let again = engine.cas(&gone, None, Some("c".into())).await.unwrap();
    assert!(again > deleted, "revisions grow over a restart");
}

#[tokio::test]
async fn a_retired_log_stays_retired_over_a_restart_and_is_forgotten_for_good() {
    let folder = Folder::new();
    let [a, b] = ["a", "b"].map(key);
    let (old, other) = {
        let engine = folder.open();
        let old = append(&engine, &a, "1", Expect::Empty).await.unwrap();
        engine.retire(&a, old).await.unwrap();
        let other = append(&engine, &b, "2", Expect::Empty).await.unwrap();
        (old, other)
    };
    {
        let engine = folder.open();
        let refused = append(&engine, &a, "x", Expect::Empty).await;
        assert_eq!(refused, Err(AppendError::Conflict));
        let mut tail = engine.tail(&a, None).await.unwrap();
        let gone = TailEvent::Retired { at: old };
        assert_eq!(tail.next().await, Some(gone), "nothing is on the disk");
        drop(tail);
        // The folder's engines remember one retired log.
        engine.retire(&b, other).await.unwrap();
    }
    let engine = folder.open();
    let refused = append(&engine, &b, "x", Expect::Empty).await;
    assert_eq!(refused, Err(AppendError::Conflict));
    let new = append(&engine, &a, "3", Expect::Empty).await.unwrap();
    assert!(new > old, "no offset is given twice");
}

#[tokio::test]
async fn a_lease_ends_with_the_process_and_fences_over_a_restart() {
    let folder = Folder::new();
    let name = key("node");
    let first = {
        let engine = folder.open();
        let lease = engine.leases().cas(&name, None, Some("1".into()));
        lease.await.unwrap()
    };
    let engine = folder.open();
    let leases = engine.leases();
    let stale = leases.cas(&name, Some(first), Some("2".into())).await;
    assert_eq!(stale, Err(CasError::Conflict));
    let second = leases.cas(&name, None, Some("2".into())).await.unwrap();
    assert!(second > first, "later holders have greater revisions");
}

#[tokio::test]
async fn a_folder_has_one_engine_at_a_time() {
    let folder = Folder::new();
    let engine = folder.open();
    let second = Local::open(LocalConfig::default(), &folder.0);
    assert!(matches!(second, Err(OpenError::InUse)), "{second:?}");
    drop(engine);
    assert!(Local::open(LocalConfig::default(), &folder.0).is_ok());
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused() {
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("engine.redb"), "something else").unwrap();
    let opened = Local::open(LocalConfig::default(), &folder.0);
    assert!(matches!(opened, Err(OpenError::Store(_))), "{opened:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_kept_is_for_nobody_else_on_the_machine() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = Folder::new();
    let _engine = folder.open();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.0), 0o700);
    assert_eq!(mode(&folder.0.join("engine.redb")), 0o600);
}

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("engine-{}-{number}", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn open(&self) -> Local {
        let mut config = LocalConfig::default();
        config.retired_logs_max = 1;
        config.lease_time = Duration::from_secs(1);
        // The clock stands still, or was set back.
        config.epoch = Some(Epoch(7));
        Local::open(config, &self.0).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // An open file stays usable; one that was never made is no matter.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn entry(at: Offset, entry: &str) -> TailEvent {
    TailEvent::Entry {
        at,
        entry: Bytes::copy_from_slice(entry.as_bytes()),
    }
}

fn key(name: &str) -> Key {
    Key::new([name]).unwrap()
}

async fn append(
    engine: &Local,
    log: &Key,
    entry: &str,
    expect: Expect,
) -> Result<Offset, AppendError> {
    let entry = Bytes::copy_from_slice(entry.as_bytes());
    let operation = OperationId([0; 16]);
    engine
        .append(log, entry, Purpose::More, expect, operation)
        .await
}
