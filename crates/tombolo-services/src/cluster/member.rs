//! Drives the directory: its heartbeats over the bus, its records among the values.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tombolo_engine::{BusEvent, CasError, Key, KeyError, Pattern, Revision, WatchEvent};
use tombolo_wire::NodeId;

use super::directory::{Command, Directory, Event, WriteId, Written};
use super::record::{Heartbeat, Load, Record, State};
use super::{RELAY_IPS_MAX, giving, inbox, load, loss, news};
use crate::field;
use crate::hooks;
use crate::lock::lock;
use crate::node::Node;
use crate::social;

/// What the directory is told.
pub(crate) enum Input {
    Record(Record, Revision),
    /// There is no record of that node.
    Missing(NodeId),
    /// All records are told again.
    Reset,
    Synced,
    Heartbeat(Heartbeat),
    /// Whether a node was there, in which of its lives.
    Knocked(NodeId, u64, bool),
    Written(WriteId, Record, Written),
    Inherited(NodeId, u64),
    /// Where devices connect to this node.
    Url(String),
    Drain,
    Leave,
}

struct Driver {
    node: Arc<Node>,
    directory: Directory,
    inputs: mpsc::Sender<Input>,
    /// Ended with the driver.
    tasks: JoinSet<()>,
    cpu: load::Cpu,
    /// Nodes that are gone, and which of their lives; what waits for them does not know yet.
    gone: Vec<(NodeId, u64)>,
}

/// Takes part in the cluster for as long as it runs.
pub(crate) async fn run(node: Arc<Node>, mut waiting: mpsc::Receiver<Input>) {
    let (Ok(process), Ok(records), Ok(beats)) = (
        node.config.entropy.tag(),
        Key::new([RECORDS]),
        Key::new([BEATS]),
    ) else {
        tracing::error!("no entropy: this node stays alone");
        return;
    };
    let now = Instant::now().into_std();
    let unix_ms = u64::try_from((node.config.unix_now)().as_millis()).unwrap_or(1);
    let directory = Directory::new(now, facts(&node, process), unix_ms);
    let mut driver = Driver {
        inputs: node.cluster.inputs.clone(),
        directory,
        tasks: JoinSet::new(),
        cpu: load::Cpu::default(),
        gone: Vec::new(),
        node,
    };
    let (node, inputs) = (Arc::clone(&driver.node), driver.inputs.clone());
    let of = || Arc::clone(&node);
    driver.spawn("what other nodes say", inbox::run(of()));
    driver.spawn("sessions for other nodes", giving::serve(of()));
    driver.spawn("questions about fields", field::serve(of()));
    driver.spawn("rooms' ticks", hooks::tick(of()));
    driver.spawn("news of other nodes", news::tell(of()));
    driver.spawn("who is online", social::exchange_presence(of()));
    driver.spawn("records of nodes", watch(of(), records, inputs.clone()));
    driver.spawn("heartbeats of nodes", hear(of(), beats, inputs));
    loop {
        let until = Instant::from_std(driver.directory.poll_timeout());
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => {
                // Nobody is judged before what has come from them is read.
                for _ in 0..INPUTS_MAX {
                    let Ok(input) = waiting.try_recv() else { break };
                    driver.handle(input);
                }
                driver.weigh();
                driver.directory.handle_timeout(Instant::now().into_std());
            }
            input = waiting.recv() => match input {
                Some(input) => driver.handle(input),
                None => return,
            },
        }
        while driver.tasks.try_join_next().is_some() {}
        driver.drain();
    }
}

fn facts(node: &Node, process: u64) -> Record {
    let mut relay_ips = node.relay.relay_ips();
    if relay_ips.len() > RELAY_IPS_MAX {
        let count = relay_ips.len();
        tracing::warn!(
            count,
            "others are told of {RELAY_IPS_MAX} addresses of this relay only"
        );
        relay_ips.truncate(RELAY_IPS_MAX);
    }
    Record {
        name: node.name().clone(),
        epoch: 0,
        process,
        state: State::Alive,
        url: String::new(),
        region: node.config.region.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        relay_ips,
        load: Load::default(),
        heir: None,
    }
}

/// Tells the driver of all records.
async fn watch(node: Arc<Node>, records: Key, inputs: mpsc::Sender<Input>) {
    loop {
        if let Ok(mut watch) = node.engine.watch(&records).await {
            while let Some(event) = watch.next().await {
                let input = match event {
                    WatchEvent::Put { entry, .. } => match Record::decode(&entry.value) {
                        Ok(record) => Input::Record(record, entry.revision),
                        Err(_) => {
                            node.counters.cluster.records_refused.add(1);
                            continue;
                        }
                    },
                    WatchEvent::Synced => Input::Synced,
                    WatchEvent::Reset => Input::Reset,
                    // Nobody deletes a record (see `directory`).
                    WatchEvent::Deleted { .. } => continue,
                };
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Tells the driver of all heartbeats.
async fn hear(node: Arc<Node>, beats: Key, inputs: mpsc::Sender<Input>) {
    let pattern = Pattern::Under(beats);
    loop {
        if let Ok(mut beats) = node.engine.subscribe(&pattern, BEATS_MAX).await {
            while let Some(event) = beats.next().await {
                let BusEvent::Message(message) = event else {
                    continue;
                };
                match Heartbeat::decode(&message.payload) {
                    Ok(beat) => {
                        if inputs.send(Input::Heartbeat(beat)).await.is_err() {
                            return;
                        }
                    }
                    Err(_) => node.counters.cluster.records_refused.add(1),
                }
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

impl Driver {
    /// Has something run for as long as this does, which the node cannot do without.
    fn spawn(&mut self, task: &'static str, run: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.node.vitals.hold(task, run));
    }

    fn handle(&mut self, input: Input) {
        let now = Instant::now().into_std();
        match input {
            Input::Record(record, revision) => {
                self.directory.handle_record(now, record, revision);
            }
            Input::Missing(node) => self.directory.handle_missing(now, &node),
            Input::Reset => self.directory.handle_reset(),
            Input::Synced => self.directory.handle_synced(now),
            Input::Heartbeat(beat) => self.directory.handle_heartbeat(now, &beat),
            Input::Knocked(node, epoch, is_there) => {
                self.directory.handle_knocked(now, &node, epoch, is_there);
            }
            Input::Written(id, record, written) => {
                self.directory.handle_written(now, id, record, written);
            }
            Input::Inherited(node, epoch) => self.directory.handle_inherited(&node, epoch),
            Input::Url(url) => self.directory.handle_url(now, url),
            Input::Drain => self.directory.handle_drain(now),
            Input::Leave => self.directory.handle_leave(now),
        }
    }

    fn weigh(&mut self) {
        let now = Instant::now().into_std();
        let sessions = lock(&self.node.sessions).by_id.len();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.directory.set_load(Load {
            sessions: count(sessions),
            sessions_max: count(self.node.config.sessions_max),
            cpu_permille: self.cpu.permille(now, self.node.config.cpu_time),
        });
    }

    /// Does what the directory wants, and shows the others what it knows.
    fn drain(&mut self) {
        while let Some(event) = self.directory.poll_event() {
            self.on_event(event);
        }
        while let Some(command) = self.directory.poll_command() {
            self.on_command(command);
        }
        if !self.directory.take_news() {
            return;
        }
        let (here, others) = (self.directory.facts(), self.directory.others());
        let spread_min = self.node.config.spread_min;
        let (cluster, lost) = (&self.node.cluster, self.directory.lost());
        cluster.show(here, spread_min, others, lost);
        // Only now everybody sees that they are gone, and nothing more is taken for them.
        for (gone, epoch) in std::mem::take(&mut self.gone) {
            for item in cluster.forget(&gone, epoch) {
                inbox::return_item(&self.node, &item);
            }
            self.node.on_node_gone(&gone, epoch);
        }
    }

    fn on_event(&mut self, event: Event) {
        let node = &self.node;
        match event {
            Event::Began { epoch } => {
                tracing::info!(node = %node.name(), epoch, "in the cluster");
                node.cluster.begin(epoch);
                // What earlier lives of this name may have left behind.
                let (node, before) = (Arc::clone(node), epoch.saturating_sub(1));
                self.spawn(LOSS, async move {
                    loss::inherit(&node, node.name(), before).await;
                });
            }
            Event::Ended { epoch } => {
                tracing::warn!(node = %node.name(), epoch, "put out of the cluster");
                node.counters.cluster.fenced.add(1);
                node.cluster.end();
                node.stand_down();
            }
            Event::Left => {
                tracing::info!(node = %node.name(), "left the cluster");
                node.cluster.end();
            }
            Event::Up { node: name, epoch } => {
                tracing::info!(node = %name, epoch, "node is up");
                node.social.presence.on_nodes();
            }
            Event::Down { node: name, epoch } => {
                tracing::info!(node = %name, epoch, "node is down");
                self.gone.push((name, epoch));
            }
            Event::Inherit { node: name, epoch } => {
                tracing::warn!(node = %name, epoch, "node is lost: doing what it left to do");
                node.counters.cluster.inherited.add(1);
                let (node, inputs) = (Arc::clone(node), self.inputs.clone());
                self.spawn(LOSS, async move {
                    loss::inherit(&node, &name, epoch).await;
                    let _ = inputs.send(Input::Inherited(name, epoch)).await;
                });
            }
            // Each of its heartbeats says so.
            Event::NameTaken if node.cluster.on_name_taken() => {
                tracing::warn!(node = %node.name(), "another process lives under this name");
            }
            Event::NameTaken => {}
        }
    }

    fn on_command(&mut self, command: Command) {
        let (node, inputs) = (Arc::clone(&self.node), self.inputs.clone());
        match command {
            Command::Beat(beat) => {
                self.spawn(BEAT, async move {
                    if let Ok(subject) = Key::new([BEATS, beat.from.as_str()]) {
                        let publish = node.engine.publish(&subject, beat.encode());
                        // One that is not on its way at once says nothing any more.
                        let _ = timeout(PUBLISH_TIMEOUT, publish).await;
                    }
                });
            }
            Command::Knock { node: name, epoch } => {
                self.spawn(RECORD, async move {
                    if let Some(is_there) = giving::knock(&node, &name).await {
                        let _ = inputs.send(Input::Knocked(name, epoch, is_there)).await;
                    }
                });
            }
            Command::Write {
                id,
                node: name,
                expected,
                record,
            } => {
                self.spawn(RECORD, async move {
                    let written = write(&node, &name, expected, record.encode()).await;
                    let _ = inputs.send(Input::Written(id, record, written)).await;
                });
            }
            Command::Elsewhere => {
                self.spawn(RECORD, async move { node.engine.look_elsewhere().await });
            }
            Command::Read { node: name } => {
                self.spawn(RECORD, async move {
                    let Ok(key) = key_of(&name) else {
                        return;
                    };
                    let Ok(Ok(found)) = timeout(STORE_TIMEOUT, node.engine.get(&key)).await else {
                        return;
                    };
                    let input = match found {
                        None => Input::Missing(name),
                        Some(entry) => match Record::decode(&entry.value) {
                            Ok(record) => Input::Record(record, entry.revision),
                            Err(_) => return,
                        },
                    };
                    let _ = inputs.send(input).await;
                });
            }
        }
    }
}

async fn write(node: &Node, name: &NodeId, expected: Option<Revision>, value: Bytes) -> Written {
    let Ok(key) = key_of(name) else {
        return Written::Failed;
    };
    let write = node.engine.cas(&key, expected, Some(value));
    // What a node was found silent for must not count any more when it has been heard again.
    let limit = match name == node.name() {
        true => STORE_TIMEOUT,
        false => FENCE_TIMEOUT,
    };
    match timeout(limit, write).await {
        Ok(Ok(revision)) => Written::At(revision),
        Ok(Err(CasError::Conflict)) => Written::Conflict,
        Ok(Err(_)) | Err(_) => Written::Failed,
    }
}

fn key_of(node: &NodeId) -> Result<Key, KeyError> {
    Key::new([RECORDS, node.as_str()])
}

/// What the driver has others do, as whoever runs the node is told when that panics.
const LOSS: &str = "what lost nodes leave to do";
const BEAT: &str = "its heartbeats";
const RECORD: &str = "its record";

/// Of all nodes' records, among the values.
pub(crate) const RECORDS: &str = "nodes";

/// Of all nodes' heartbeats, on the bus.
const BEATS: &str = "beat";

/// Heartbeats that wait for the driver.
const BEATS_MAX: usize = 1024;

/// What waits for the directory.
pub(crate) const INPUTS_MAX: usize = 1024;

/// Between two attempts to be told something.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// How long the bus may take to take a heartbeat in.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(200);

/// How long the engine may take to put another node out: that is tried again for as long as it is silent.
const FENCE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the engine may take to read or write a record.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
