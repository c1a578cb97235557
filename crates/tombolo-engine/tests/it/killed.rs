//! A process that writes to a folder and is killed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use tombolo_engine::{
    Expect, Key, Kv as _, Local, LocalConfig, Log as _, OperationId, Purpose, TailEvent,
};

/// Set for the process that writes: its folder and what it writes.
const CHILD: &str = "TOMBOLO_ENGINE_WRITES_TO";

const TEST: &str =
    "killed::what_was_acknowledged_is_there_when_the_process_was_killed_while_it_wrote";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_when_the_process_was_killed_while_it_wrote() {
    if let Ok(task) = std::env::var(CHILD) {
        let (folder, round) = task.split_once('|').unwrap();
        return write_until_killed(Path::new(folder), round).await;
    }
    let name = format!("killed-{}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        acknowledged.extend(run_and_kill(&folder, round, 150 + 50 * round));
        check(&folder, &acknowledged).await;
    }
    let _ = std::fs::remove_dir_all(&folder);
}

/// Starts the writer and kills it after so many acknowledgements; returns all that it told.
fn run_and_kill(folder: &Path, round: usize, count: usize) -> Vec<String> {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, format!("{}|{round}", folder.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = Vec::new();
    for line in BufReader::new(writer.stdout.take().unwrap()).lines() {
        let Some(line) = line
            .unwrap()
            .strip_prefix("acknowledged ")
            .map(str::to_owned)
        else {
            continue;
        };
        told.push(line);
        if told.len() == count {
            // SIGKILL. What it had told before is still in the pipe.
            writer.kill().unwrap();
        }
    }
    let ended = writer.wait().unwrap();
    assert!(
        !ended.success() && told.len() >= count,
        "it was killed: {ended}, {}",
        told.len()
    );
    told
}

/// Everything that was acknowledged is there, once, in its place.
async fn check(folder: &Path, acknowledged: &[String]) {
    let engine = Local::open(LocalConfig::default(), folder).unwrap();
    let mut seq_by_entry = BTreeMap::new();
    for log in 0..LOGS {
        let mut tail = engine.tail(&log_key(log), None).await.unwrap();
        let mut last = 0;
        while let Some(TailEvent::Entry { at, entry }) = tail.next().await {
            assert!(at.seq > last, "offsets grow");
            last = at.seq;
            let entry = String::from_utf8(entry.to_vec()).unwrap();
            let before = seq_by_entry.insert(entry.clone(), at.seq);
            assert_eq!(before, None, "{entry} is there twice");
        }
    }
    let mut counts = BTreeMap::new();
    for line in acknowledged {
        let (what, number) = line.rsplit_once(' ').unwrap();
        let number: u64 = number.parse().unwrap();
        match what.strip_prefix("value ") {
            Some(value) => {
                let count = counts.entry(value.to_owned()).or_insert(0);
                *count = number.max(*count);
            }
            None => assert_eq!(
                seq_by_entry.get(what),
                Some(&number),
                "{what} was acknowledged"
            ),
        }
    }
    for (value, count) in counts {
        let entry = engine
            .get(&Key::new([&*value]).unwrap())
            .await
            .unwrap()
            .unwrap();
        let found = u64::from_be_bytes(entry.value[..].try_into().unwrap());
        assert!(
            found == count || found == count + 1,
            "{value}: {found}, {count} acknowledged"
        );
    }
}

async fn write_until_killed(folder: &Path, round: &str) {
    let engine = Local::open(LocalConfig::default(), folder).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8_usize {
        let (engine, round) = (engine.clone(), round.to_owned());
        tasks.spawn(async move {
            let log = log_key(writer % LOGS);
            for number in 0_u64.. {
                let entry = format!("{round}-{writer}-{number}");
                let operation = OperationId([0; 16]);
                let appended = engine
                    .append(
                        &log,
                        Bytes::from(entry.clone()),
                        Purpose::More,
                        Expect::Any,
                        operation,
                    )
                    .await
                    .unwrap();
                tell(&format!("{entry} {}", appended.seq));
                count(&engine, writer).await;
            }
        });
    }
    tasks.join_all().await;
}

async fn count(engine: &Local, writer: usize) {
    let name = format!("count-{writer}");
    let key = Key::new([&*name]).unwrap();
    let found = engine.get(&key).await.unwrap();
    let number = found.as_ref().map_or(0, |found| {
        u64::from_be_bytes(found.value[..].try_into().unwrap())
    });
    let value = Bytes::copy_from_slice(&(number + 1).to_be_bytes());
    let expected = found.map(|found| found.revision);
    engine.cas(&key, expected, Some(value)).await.unwrap();
    tell(&format!("value {name} {}", number + 1));
}

fn tell(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "acknowledged {what}").unwrap();
    out.flush().unwrap();
}

fn log_key(log: usize) -> Key {
    Key::new(["log", &*log.to_string()]).unwrap()
}

const LOGS: usize = 4;
