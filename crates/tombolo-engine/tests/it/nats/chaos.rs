//! Writers, readers, and servers that are killed, frozen and cut off meanwhile; afterwards an
//! independent reader says whether the engine kept its word.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tombolo_engine::{
    AppendError, CasError, Expect, Key, Kv as _, Log as _, Nats, NatsConfig, Offset, OperationId,
    Purpose, Revision, TailEvent,
};
use tombolo_natlab::{Host, Lab, Profile, Site};

use crate::servers::{Servers, say};

/// What is done to the server that leads the first stream of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`, and started again.
    Kill,
    /// Stopped for a while, so that it believes no time has passed.
    Freeze,
    /// Cut off from the other servers, while clients reach it.
    Partition,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    pub(crate) refused: usize,
    pub(crate) swaps: u64,
    /// From each fault to the next acknowledged append of the log that waited longest.
    pub(crate) pauses: Vec<(Fault, Duration)>,
}

/// Does one fault after the other, each until every log has been appended to again; then checks.
///
/// # Panics
/// When the engine broke its word, or does not come back.
pub(crate) fn run(binary: &Path, faults: &[Fault]) -> Report {
    in_lab(async |lab| story(lab, binary, faults).await)
}

/// Tells a story from where all servers are reached, each in a namespace of its own.
pub(super) fn in_lab<T: Send>(story: impl AsyncFnOnce(&Lab) -> T + Send) -> T {
    let mut lab = Lab::builder();
    for name in SITES {
        lab = lab.site(Site::new(name, Profile::NoNat));
    }
    let lab = lab.build().expect("a lab");
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(story(&lab))
    };
    lab.enter(lab.node(), inside).expect("the lab is there")
}

async fn story(lab: &Lab, binary: &Path, faults: &[Fault]) -> Report {
    let starter = |index, command| start(lab, index, &command);
    let mut servers = servers(lab, binary);
    let mut config = NatsConfig::new(servers.urls());
    config.log_shards = 4;
    config.value_shards = 1;
    config.hold_max = Duration::from_secs(15);
    let engines = [
        Nats::connect(config.clone()).await.expect("connected"),
        Nats::connect(config.clone()).await.expect("connected"),
    ];
    let work = Work::start(&engines);

    let mut report = Report::default();
    work.progress().await;
    for fault in faults {
        let leader = leader(&servers).await;
        say(&format!("{fault:?} of n{leader}"));
        let begun = Instant::now();
        match fault {
            Fault::Kill => servers.servers[leader].kill(),
            Fault::Freeze => servers.servers[leader].signal(Signal::SIGSTOP),
            Fault::Partition => cut(lab, leader, true),
        }
        work.progress().await;
        report.pauses.push((*fault, begun.elapsed()));
        match fault {
            Fault::Kill => servers.servers[leader].start_again(leader, &starter),
            Fault::Freeze => servers.servers[leader].signal(Signal::SIGCONT),
            Fault::Partition => cut(lab, leader, false),
        }
        work.progress().await;
    }
    let history = work.stop().await;
    say(&format!(
        "{:?}\n{:?}",
        engines[0].stats(),
        engines[1].stats()
    ));
    drop(engines);
    let reader = Nats::connect(config).await.expect("connected");
    history.check(&reader, &mut report).await;
    report
}

/// Starts the servers, as long as this thread lives.
pub(super) fn servers(lab: &Lab, binary: &Path) -> Servers {
    let ips = SITES.map(|name| host(lab, name).ipv4().expect("it has an address"));
    Servers::start_at(binary, &ips, "", &|index, command| {
        start(lab, index, &command)
    })
}

fn start(lab: &Lab, index: usize, command: &Command) -> Child {
    inside(host(lab, SITES[index]).name(), command)
}

fn host<'a>(lab: &'a Lab, name: &str) -> &'a Host {
    lab.device(name, 0).expect("the site is there")
}

/// Runs a command in a namespace. Its parent is this thread, with which it ends.
fn inside(space: &str, command: &Command) -> Child {
    let mut inside = Command::new("ip");
    inside
        .args(["netns", "exec", space])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    inside.spawn().expect("the server starts")
}

/// Cuts a server off from the others, or undoes that.
pub(super) fn cut(lab: &Lab, server: usize, is_cut: bool) {
    let name = SITES[server];
    for other in SITES.into_iter().filter(|other| *other != name) {
        let done = if is_cut {
            lab.cut(name, other)
        } else {
            lab.heal(name, other)
        };
        done.expect("the lab is there");
    }
}

/// The server that leads the first stream of logs.
async fn leader(servers: &Servers) -> usize {
    let client = async_nats::connect(servers.urls())
        .await
        .expect("connected");
    loop {
        let info = client.request("$JS.API.STREAM.INFO.tombolo_log_0", "".into());
        if let Ok(info) = info.await
            && let Ok(info) = serde_json::from_slice::<serde_json::Value>(&info.payload)
            && let Some(name) = info["cluster"]["leader"].as_str()
            && let Some(index) = name.strip_prefix('n').and_then(|index| index.parse().ok())
        {
            return index;
        }
        tokio::task::yield_now().await;
    }
}

/// An attempt to append, as its writer saw it.
#[derive(Clone, Debug)]
struct Attempt {
    log: usize,
    entry: Bytes,
    /// After what; `None` for anything.
    after: Option<u64>,
    outcome: Result<Offset, AppendError>,
}

/// Everything that the writers did and the readers saw.
#[derive(Default)]
struct History {
    attempts: Vec<Attempt>,
    /// What each reader read, and of which log.
    read: Vec<(usize, Vec<(Offset, Bytes)>)>,
    /// From which revisions the counter was won.
    swaps: Vec<Option<Revision>>,
    unknown_swaps: u64,
}

struct Work {
    is_over: Arc<AtomicBool>,
    /// Acknowledged appends, by log.
    acknowledged: Arc<Vec<AtomicU64>>,
    tasks: JoinSet<()>,
    history: Arc<Mutex<History>>,
    readers: JoinSet<(usize, Vec<(Offset, Bytes)>)>,
    stop_readers: tokio::sync::watch::Sender<bool>,
}

impl Work {
    fn start(engines: &[Nats]) -> Self {
        let mut work = Self {
            is_over: Arc::default(),
            acknowledged: Arc::new((0..LOGS).map(|_| AtomicU64::new(0)).collect()),
            tasks: JoinSet::new(),
            history: Arc::default(),
            readers: JoinSet::new(),
            stop_readers: tokio::sync::watch::Sender::new(false),
        };
        for log in 0..LOGS {
            for (number, engine) in engines.iter().enumerate() {
                for is_conditional in [true, false] {
                    let writer = Writer {
                        engine: engine.clone(),
                        log,
                        name: format!("{log}-{number}-{is_conditional}"),
                        is_conditional,
                        is_over: Arc::clone(&work.is_over),
                        acknowledged: Arc::clone(&work.acknowledged),
                        history: Arc::clone(&work.history),
                    };
                    work.tasks.spawn(writer.run());
                }
                let stop = work.stop_readers.subscribe();
                work.readers.spawn(read(engine.clone(), log, stop));
            }
        }
        for engine in engines {
            let (engine, is_over) = (engine.clone(), Arc::clone(&work.is_over));
            let history = Arc::clone(&work.history);
            work.tasks.spawn(count(engine, is_over, history));
        }
        work
    }

    /// Waits until every log has been appended to several times from now on.
    async fn progress(&self) {
        let read = || -> Vec<u64> {
            let all = self.acknowledged.iter();
            all.map(|count| count.load(Ordering::Relaxed)).collect()
        };
        let before = read();
        let deadline = Instant::now() + PATIENCE;
        while read()
            .iter()
            .zip(&before)
            .any(|(now, before)| *now < before + 10)
        {
            assert!(
                Instant::now() < deadline,
                "no progress: {before:?}, then {:?}",
                read()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(mut self) -> History {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.expect("the writer does not panic");
        }
        self.stop_readers.send_replace(true);
        let mut history = std::mem::take(&mut *lock(&self.history));
        while let Some(read) = self.readers.join_next().await {
            history.read.push(read.expect("the reader does not panic"));
        }
        history
    }
}

struct Writer {
    engine: Nats,
    log: usize,
    name: String,
    is_conditional: bool,
    is_over: Arc<AtomicBool>,
    acknowledged: Arc<Vec<AtomicU64>>,
    history: Arc<Mutex<History>>,
}

impl Writer {
    /// Appends one entry after the other; each names its log, its writer and its number.
    async fn run(self) {
        let key = log_key(self.log);
        let mut last: Option<Offset> = None;
        let mut number = 0_u64;
        while !self.is_over.load(Ordering::Relaxed) {
            if self.is_conditional {
                match newest(&self.engine, &key, last).await {
                    Some(found) => last = found,
                    None => {
                        // An engine that is away says so at once, and comes back only when others run.
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                }
            }
            number += 1;
            let entry = Bytes::from(format!("{} {} {number}", self.log, self.name));
            let expect = match (self.is_conditional, last) {
                (false, _) => Expect::Any,
                (true, None) => Expect::Empty,
                (true, Some(last)) => Expect::Last(last),
            };
            let operation = OperationId(random());
            let outcome = self
                .engine
                .append(&key, entry.clone(), Purpose::More, expect, operation)
                .await;
            if outcome.is_ok() {
                self.acknowledged[self.log].fetch_add(1, Ordering::Relaxed);
            }
            let after = match expect {
                Expect::Any => None,
                Expect::Empty => Some(0),
                Expect::Last(last) => Some(last.seq),
            };
            lock(&self.history).attempts.push(Attempt {
                log: self.log,
                entry,
                after,
                outcome,
            });
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The last entry of a log; `None` when the engine is away.
async fn newest(engine: &Nats, key: &Key, after: Option<Offset>) -> Option<Option<Offset>> {
    let mut tail = engine.tail(key, after).await.ok()?;
    let mut last = after;
    loop {
        let event = tokio::time::timeout(Duration::from_secs(5), tail.next());
        match event.await.ok()?? {
            TailEvent::Entry { at, .. } => last = Some(at),
            TailEvent::Synced => return Some(last),
            event @ (TailEvent::Snapshot { .. } | TailEvent::Retired { .. } | TailEvent::Reset) => {
                panic!("neither snapshots nor losses: {event:?}")
            }
        }
    }
}

/// Follows a log from its beginning until all is over, and nothing more comes.
async fn read(
    engine: Nats,
    log: usize,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> (usize, Vec<(Offset, Bytes)>) {
    let mut tail = engine.tail(&log_key(log), None).await.expect("connected");
    let mut entries = Vec::new();
    let mut is_over = false;
    loop {
        tokio::select! {
            event = tail.next() => match event.expect("the engine is there") {
                TailEvent::Entry { at, entry } => entries.push((at, entry)),
                TailEvent::Synced => {}
                event @ (TailEvent::Snapshot { .. } | TailEvent::Retired { .. } | TailEvent::Reset) => panic!("neither snapshots nor losses: {event:?}"),
            },
            _ = stop.changed(), if !is_over => is_over = true,
            // Longer than the tail check takes to find what the live feed lost.
            () = tokio::time::sleep(Duration::from_secs(8)), if is_over => return (log, entries),
        }
    }
}

/// Counts up a value, in competition.
async fn count(engine: Nats, is_over: Arc<AtomicBool>, history: Arc<Mutex<History>>) {
    let key = Key::new(["counter"]).expect("a key");
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let Ok(found) = engine.get(&key).await else {
            continue;
        };
        let base = found.as_ref().map(|found| found.revision);
        let next = found.map_or(0, |found| number(&found.value)) + 1;
        let value = Bytes::copy_from_slice(&next.to_be_bytes());
        match engine.cas(&key, base, Some(value)).await {
            Ok(_) => lock(&history).swaps.push(base),
            Err(CasError::Unknown) => lock(&history).unknown_swaps += 1,
            Err(_) => {}
        }
    }
}

impl History {
    async fn check(&self, reader: &Nats, report: &mut Report) {
        let mut logs = Vec::new();
        for log in 0..LOGS {
            logs.push(whole(reader, &log_key(log)).await);
        }
        self.check_entries(&logs, report);
        for (log, read) in &self.read {
            assert_eq!(
                read, &logs[*log],
                "a reader of log {log} saw something else"
            );
        }
        self.check_counter(reader, report).await;
    }

    fn check_entries(&self, logs: &[Vec<(Offset, Bytes)>], report: &mut Report) {
        let mut places: Vec<BTreeMap<&Bytes, usize>> = Vec::new();
        for log in logs {
            assert!(log.is_sorted_by(|a, b| a.0 < b.0), "offsets grow");
            let places_here: BTreeMap<_, _> = log
                .iter()
                .enumerate()
                .map(|(place, (_, entry))| (entry, place))
                .collect();
            assert_eq!(places_here.len(), log.len(), "an entry is there twice");
            places.push(places_here);
        }
        let mut winners = BTreeSet::new();
        let mut last_of_writer: BTreeMap<(usize, String), usize> = BTreeMap::new();
        for attempt in &self.attempts {
            let place = places[attempt.log].get(&attempt.entry).copied();
            match (attempt.outcome, place) {
                (Ok(offset), Some(place)) => {
                    report.acknowledged += 1;
                    assert_eq!(logs[attempt.log][place].0, offset, "moved: {attempt:?}");
                }
                (Ok(_), None) => panic!("lost: {attempt:?}"),
                (Err(AppendError::Unknown), _) => report.unknown += 1,
                (Err(_), None) => report.refused += 1,
                (Err(_), Some(_)) => panic!("refused, and written: {attempt:?}"),
            }
            let Some(place) = place else {
                continue;
            };
            if let Some(after) = attempt.after {
                let before = place
                    .checked_sub(1)
                    .map_or(0, |before| logs[attempt.log][before].0.seq);
                assert_eq!(before, after, "not where it was expected: {attempt:?}");
                assert!(
                    winners.insert((attempt.log, after)),
                    "two winners: {attempt:?}"
                );
            }
            if attempt.outcome.is_ok() {
                let text = String::from_utf8_lossy(&attempt.entry);
                let writer = text.rsplit_once(' ').expect("a number").0.to_owned();
                let last = last_of_writer.insert((attempt.log, writer), place);
                assert!(
                    last.is_none_or(|last| last < place),
                    "reordered: {attempt:?}"
                );
            }
        }
    }

    async fn check_counter(&self, reader: &Nats, report: &mut Report) {
        let bases: BTreeSet<_> = self.swaps.iter().collect();
        assert_eq!(bases.len(), self.swaps.len(), "two winners of one revision");
        let key = Key::new(["counter"]).expect("a key");
        // The stream of values may have no leader yet: nothing waited for it.
        let read = async {
            loop {
                match reader.get(&key).await {
                    Ok(found) => return found,
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, read)
            .await
            .expect("connected");
        let counted = found.map_or(0, |found| number(&found.value));
        report.swaps = self.swaps.len() as u64;
        assert!(
            (report.swaps..=report.swaps + self.unknown_swaps).contains(&counted),
            "{counted} counted, {} acknowledged, {} unknown",
            report.swaps,
            self.unknown_swaps
        );
    }
}

/// All entries of a log, read by somebody who had no part in it.
async fn whole(reader: &Nats, key: &Key) -> Vec<(Offset, Bytes)> {
    let begin = async {
        loop {
            match reader.tail(key, None).await {
                Ok(tail) => return tail,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    let mut tail = tokio::time::timeout(PATIENCE, begin)
        .await
        .expect("connected");
    let mut entries = Vec::new();
    while let Some(TailEvent::Entry { at, entry }) = tail.next().await {
        entries.push((at, entry));
    }
    entries
}

fn log_key(log: usize) -> Key {
    Key::new(["chaos", &*log.to_string()]).expect("a key")
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}

fn random() -> [u8; 16] {
    use std::hash::{BuildHasher as _, RandomState};
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let halves = [RandomState::new().hash_one(number), number];
    let mut id = [0; 16];
    for (to, half) in id.chunks_mut(8).zip(halves) {
        to.copy_from_slice(&half.to_be_bytes());
    }
    id
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const SITES: [&str; 3] = ["n0", "n1", "n2"];
const LOGS: usize = 8;

/// Between two writes of one writer.
const PAUSE: Duration = Duration::from_millis(5);

/// Longer than any election on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
