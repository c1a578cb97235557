//! Who is in the cluster: a sans-IO core without sockets, clock or engine.
//!
//! Each node has a record among the values, which only compare-and-swap changes. Whoever writes
//! *alive* under its name begins a life with an epoch greater than any before. Nodes say on the bus
//! several times a second that they live; who is silent is asked, and who does not answer is put out
//! of the cluster by a *fenced* record. Sooner than that goes who has left the bus, as a process does that is
//! killed: the bus says when nobody is there. One that is only busy is there. Of those who try, the swap lets one win: it is the heir and
//! does what the dead node left to do, then writes *gone*.
//!
//! Nobody deletes a record, however long its node has been gone: it is all that tells a process which was frozen, or
//! cut off, for as long that its life is over. One that finds no record takes it for lost by the engine and writes it
//! anew (see `lost`), with a life that all rooms refuse. The epoch does not say how long a node has been gone, only
//! when it began; and until the last seat is given up that a room keeps for a member on it, whoever sends something
//! to that member must be told that the node is gone.
//!
//! Nobody is judged by a node that was frozen itself, or that does not hear its own heartbeats, and
//! without the engine nobody can be fenced: then everybody goes on.
//!
//! 1. [`Directory::handle_record`] what the watch of all records tells, [`Directory::handle_synced`]
//!    once it has told all, and [`Directory::handle_reset`] when it tells all again;
//! 2. [`Directory::handle_heartbeat`] each heartbeat from the bus, this node's own too;
//! 3. sleep until [`Directory::poll_timeout`], then [`Directory::handle_timeout`];
//! 4. after each call drain [`Directory::poll_command`] and [`Directory::poll_event`]; each
//!    [`Command::Write`] is answered by [`Directory::handle_written`].

mod doubt;
mod heirs;
mod lost;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tombolo_engine::Revision;
use tombolo_wire::NodeId;

use self::doubt::Doubt;
use self::heirs::Inheritance;
use super::record::{Heartbeat, Load, Record, State};

/// Who is in the cluster.
#[derive(Debug)]
pub(crate) struct Directory {
    name: NodeId,
    /// What this node's record says, but for its life.
    facts: Record,
    /// The least epoch of the next life.
    epoch_min: u64,
    me: Me,
    is_draining: bool,
    is_leaving: bool,
    /// Whether all records have been read once.
    is_synced: bool,
    record_by_node: BTreeMap<NodeId, (Record, Revision)>,
    /// Those whose next record is how it is now, whatever its revision: they have not been told again since all are
    /// told anew, or have another record than the one that is known.
    untold: BTreeSet<NodeId>,
    peer_by_node: BTreeMap<NodeId, Peer>,
    /// The last lives that were said to be over: none of them comes up again, whatever the engine says.
    over_by_node: BTreeMap<NodeId, u64>,
    /// Something has changed of what others are shown.
    has_news: bool,
    /// When this node last heard itself.
    echo: Option<Instant>,
    /// When the time was last told.
    ticked: Instant,
    beat_at: Instant,
    try_at: Instant,
    /// From when on this node may go to another server again.
    elsewhere_at: Instant,
    next_write: u64,
    writes: BTreeMap<WriteId, NodeId>,
    /// Lives whose work is being done here.
    inherited: BTreeMap<NodeId, Inheritance>,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
}

/// This node's own life.
#[derive(Debug)]
enum Me {
    /// Not in the cluster.
    Out,
    /// In the cluster, with a record of this revision, which is to be renewed then.
    In {
        epoch: u64,
        /// `None` when the record was lost.
        revision: Option<Revision>,
        renew_at: Instant,
    },
}

/// What was heard of another node.
#[derive(Debug)]
struct Peer {
    /// Which of its lives.
    epoch: u64,
    /// Silence counts from here.
    heard: Instant,
    doubt: Doubt,
    load: Load,
}

/// Names a write, for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WriteId(u64);

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Say on the bus that this node lives, and ask another whether it does.
    Beat(Heartbeat),
    /// Ask the bus whether a node is there, for [`Directory::handle_knocked`].
    Knock { node: NodeId, epoch: u64 },
    /// Write a node's record if it has this revision.
    Write {
        id: WriteId,
        node: NodeId,
        expected: Option<Revision>,
        record: Record,
    },
    /// Read a node's record: this node's view of it may be old.
    Read { node: NodeId },
    /// Go to another server of the engine: it may be that this node is cut off with the one that it is at.
    Elsewhere,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// This node is in the cluster.
    Began { epoch: u64 },
    /// This node's life is over: it must do nothing more under this epoch.
    Ended { epoch: u64 },
    /// This node has left as it wanted to.
    Left,
    /// Another node is in the cluster.
    Up { node: NodeId, epoch: u64 },
    /// Another node's life is over.
    Down { node: NodeId, epoch: u64 },
    /// This node does what a life that is over has left to do, and says
    /// [`Directory::handle_inherited`] when it is done.
    Inherit { node: NodeId, epoch: u64 },
    /// Another process has this node's name, and lives.
    NameTaken,
}

/// How a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    At(Revision),
    Conflict,
    /// Not written, or nobody knows.
    Failed,
}

impl Peer {
    fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.doubt = Doubt::default();
    }
}

impl Directory {
    /// A node that is in no cluster yet. `facts` is what its record says beside its life; `epoch_min`
    /// must not be less than in an earlier process whose record is forgotten.
    pub(crate) fn new(now: Instant, facts: Record, epoch_min: u64) -> Self {
        Self {
            name: facts.name.clone(),
            facts,
            epoch_min: epoch_min.max(1),
            me: Me::Out,
            is_draining: false,
            is_leaving: false,
            is_synced: false,
            record_by_node: BTreeMap::new(),
            untold: BTreeSet::new(),
            peer_by_node: BTreeMap::new(),
            over_by_node: BTreeMap::new(),
            has_news: true,
            echo: None,
            ticked: now,
            beat_at: now,
            try_at: now,
            elsewhere_at: now,
            next_write: 0,
            writes: BTreeMap::new(),
            inherited: BTreeMap::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A record as it is now. Older ones than known change nothing, unless the engine may have lost those that are
    /// known.
    pub(crate) fn handle_record(&mut self, now: Instant, record: Record, revision: Revision) {
        let node = record.name.clone();
        let is_untold = self.untold.remove(&node);
        let known = self.record_by_node.get(&node);
        let is_old =
            known.is_some_and(|(_, known)| revision == *known || (revision < *known && !is_untold));
        if is_old || (known.is_none() && !self.has_place()) {
            return;
        }
        self.record_by_node
            .insert(node.clone(), (record.clone(), revision));
        self.has_news = true;
        if node == self.name {
            self.on_own_record(now, &record, revision);
        } else {
            self.on_peer_record(now, &record);
        }
        self.inherit(&record);
    }

    /// Whether one more node can be known. Those that are gone make place: nothing is left to do for them.
    fn has_place(&mut self) -> bool {
        if self.record_by_node.len() < super::NODES_MAX {
            return true;
        }
        let mut records = self.record_by_node.iter();
        let gone =
            records.find(|(name, (record, _))| record.state == State::Gone && **name != self.name);
        let gone = gone.map(|(name, _)| name.clone());
        gone.is_some_and(|gone| self.record_by_node.remove(&gone).is_some())
    }

    /// All records that there were have been told.
    pub(crate) fn handle_synced(&mut self, now: Instant) {
        self.is_synced = true;
        self.forget_untold(now);
        if let Me::In { .. } = self.me {
            return;
        }
        // Whoever has this name is given time to be heard.
        self.try_at = now + SILENCE_MAX;
        if !self.record_by_node.contains_key(&self.name) {
            self.try_at = now;
            self.begin(now);
        }
    }

    /// A heartbeat from the bus.
    pub(crate) fn handle_heartbeat(&mut self, now: Instant, beat: &Heartbeat) {
        if beat.from == self.name {
            match &self.me {
                Me::In { epoch, .. } if *epoch == beat.epoch => self.on_echo(now),
                Me::In { .. } => {}
                Me::Out => {
                    let record = self.record_by_node.get(&self.name);
                    if record.is_some_and(|(record, _)| {
                        record.epoch == beat.epoch && record.state.is_up()
                    }) {
                        self.try_at = now + SILENCE_MAX;
                        self.events.push_back(Event::NameTaken);
                    }
                }
            }
            return;
        }
        if beat.asks.as_ref() == Some(&self.name)
            && let Me::In { .. } = self.me
        {
            self.beat(now, None);
        }
        if let Some(peer) = self.peer_by_node.get_mut(&beat.from)
            && peer.epoch == beat.epoch
        {
            peer.hear(now);
            self.has_news |= peer.load != beat.load;
            peer.load = beat.load;
        }
    }

    /// This node hears itself. If it did not for a while the bus was away: then others may be back on it a moment later
    /// than this node, and what they did not say meanwhile says nothing.
    fn on_echo(&mut self, now: Instant) {
        let was_deaf = self.echo.is_none_or(|echo| now >= echo + ECHO_MAX);
        self.echo = Some(now);
        if was_deaf {
            for peer in self.peer_by_node.values_mut() {
                peer.hear(now + RETURN_MAX);
            }
        }
    }

    /// Whether a node was there when the bus was asked.
    pub(crate) fn handle_knocked(
        &mut self,
        now: Instant,
        node: &NodeId,
        epoch: u64,
        is_there: bool,
    ) {
        if let Some(peer) = self.peer_by_node.get_mut(node)
            && peer.epoch == epoch
        {
            peer.doubt.handle_knocked(now, is_there);
        }
    }

    /// The answer to a [`Command::Write`].
    pub(crate) fn handle_written(
        &mut self,
        now: Instant,
        id: WriteId,
        record: Record,
        written: Written,
    ) {
        let Some(node) = self.writes.remove(&id) else {
            return;
        };
        match written {
            Written::At(revision) => self.handle_record(now, record, revision),
            Written::Conflict => {
                self.untold.insert(node.clone());
                self.commands.push_back(Command::Read { node });
            }
            Written::Failed => {}
        }
    }

    /// Where devices connect to this node.
    pub(crate) fn handle_url(&mut self, now: Instant, url: String) {
        self.facts.url = url;
        self.has_news = true;
        self.renew_soon(now);
    }

    /// Takes newcomers no more.
    pub(crate) fn handle_drain(&mut self, now: Instant) {
        self.is_draining = true;
        self.renew_soon(now);
    }

    /// Leaves the cluster: this node puts itself out, and whoever is up does what it leaves to do.
    pub(crate) fn handle_leave(&mut self, now: Instant) {
        self.is_leaving = true;
        self.renew_soon(now);
    }

    /// The node's load, as heartbeats and records tell it.
    pub(crate) fn set_load(&mut self, load: Load) {
        self.has_news |= self.facts.load != load;
        self.facts.load = load;
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if now >= self.ticked + LAG_MAX {
            // This process stood still: what it did not hear in that time says nothing.
            for peer in self.peer_by_node.values_mut() {
                peer.hear(now);
            }
            self.echo = None;
        }
        self.ticked = now;
        if now >= self.beat_at {
            self.beat_at = now + HEARTBEAT_INTERVAL;
            self.beat(now, None);
        }
        match self.me {
            Me::Out => self.begin(now),
            Me::In { .. } => {
                self.renew(now);
                self.judge(now);
                self.settle();
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        let peers = self.peer_by_node.values();
        let judged = peers.map(|peer| peer.doubt.poll_timeout(peer.heard));
        // Who cannot be judged now is not looked at without end.
        let soonest = self.ticked + JUDGE_INTERVAL;
        judged
            .map(|at| at.max(soonest))
            .fold(self.beat_at, Instant::min)
    }

    #[must_use]
    pub(crate) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    #[must_use]
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`facts`](Self::facts), [`others`](Self::others) or [`lost`](Self::lost) may say something else than
    /// when this was asked before: most heartbeats bring nothing new.
    #[must_use]
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// This node's life; `None` while it is not in the cluster.
    #[cfg(test)]
    pub(crate) fn epoch(&self) -> Option<u64> {
        match self.me {
            Me::In { epoch, .. } => Some(epoch),
            Me::Out => None,
        }
    }

    /// What this node's record says, but for its life.
    pub(crate) fn facts(&self) -> &Record {
        &self.facts
    }

    /// The other nodes in the cluster, as their records have it, with their load as last heard.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&Record, Load)> {
        self.peer_by_node.iter().filter_map(|(node, peer)| {
            let (record, _) = self.record_by_node.get(node)?;
            Some((record, peer.load))
        })
    }

    /// The other nodes whose lives are over, and which lives.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&NodeId, u64)> + Clone {
        let records = self.record_by_node.iter();
        let lost =
            records.filter(|(node, (record, _))| !record.state.is_up() && **node != self.name);
        lost.map(|(node, (record, _))| (node, record.epoch))
    }

    fn on_own_record(&mut self, now: Instant, record: &Record, revision: Revision) {
        let is_mine = record.state.is_up() && record.process == self.facts.process;
        match &mut self.me {
            Me::In {
                epoch,
                revision: held,
                ..
            } if *epoch == record.epoch && is_mine => *held = Some(revision),
            Me::In {
                epoch,
                revision: held,
                renew_at,
            } if record.epoch < *epoch => {
                // The engine has lost the record of this life: it is written anew, over an earlier life's.
                (*held, *renew_at) = (Some(revision), now);
            }
            Me::In { epoch, .. } => {
                let epoch = *epoch;
                self.me = Me::Out;
                self.try_at = now + SILENCE_MAX;
                self.inherited.clear();
                self.echo = None;
                // What it was about to say or write it must not say any more.
                self.commands.clear();
                self.writes.clear();
                self.events
                    .retain(|event| !matches!(event, Event::Inherit { .. }));
                let is_wanted = self.is_leaving && record.heir.is_none();
                self.events.push_back(if is_wanted {
                    Event::Left
                } else {
                    Event::Ended { epoch }
                });
            }
            Me::Out if is_mine && !self.is_leaving && record.epoch >= self.epoch_min => {
                let epoch = record.epoch;
                // An earlier life's record that is read late must not revive it.
                self.epoch_min = epoch + 1;
                self.me = Me::In {
                    epoch,
                    revision: Some(revision),
                    renew_at: now + RENEW_INTERVAL,
                };
                self.beat_at = now;
                self.events.push_back(Event::Began { epoch });
            }
            Me::Out => {}
        }
    }

    fn on_peer_record(&mut self, now: Instant, record: &Record) {
        let node = record.name.clone();
        let known = self.peer_by_node.get(&node).map(|peer| peer.epoch);
        if known.is_some_and(|epoch| record.epoch < epoch) {
            // The engine has lost the record of this life, which writes it anew unless it is over.
            return;
        }
        if let Some(epoch) = known
            && (epoch != record.epoch || !record.state.is_up())
        {
            self.peer_by_node.remove(&node);
            self.note_over(&node, epoch);
            self.events.push_back(Event::Down {
                node: node.clone(),
                epoch,
            });
        }
        if record.state.is_up() && known != Some(record.epoch) && !self.is_over(record) {
            let peer = Peer {
                epoch: record.epoch,
                heard: now,
                doubt: Doubt::default(),
                load: record.load,
            };
            self.peer_by_node.insert(node.clone(), peer);
            self.events.push_back(Event::Up {
                node,
                epoch: record.epoch,
            });
        }
    }

    fn beat(&mut self, now: Instant, asks: Option<NodeId>) {
        let Me::In { epoch, .. } = self.me else {
            return;
        };
        if asks.is_none() {
            self.beat_at = now + HEARTBEAT_INTERVAL;
        }
        self.commands.push_back(Command::Beat(Heartbeat {
            from: self.name.clone(),
            epoch,
            state: self.own_state(),
            load: self.facts.load,
            asks,
        }));
    }

    fn own_state(&self) -> State {
        match (self.is_leaving, self.is_draining) {
            (true, _) => State::Fenced,
            (false, true) => State::Draining,
            (false, false) => State::Alive,
        }
    }

    /// Writes this node into the directory, unless somebody lives under its name. Its last life's heir
    /// may still be at work: whoever begins does that work, too, so that nobody waits for the other.
    fn begin(&mut self, now: Instant) {
        if !self.is_synced || self.is_leaving || now < self.try_at {
            return;
        }
        self.try_at = now + SILENCE_MAX;
        let found = self.record_by_node.get(&self.name);
        let epoch = found.map_or(0, |(record, _)| record.epoch.saturating_add(1));
        let expected = found.map(|(_, revision)| *revision);
        let record = Record {
            epoch: epoch.max(self.epoch_min),
            state: self.own_state(),
            heir: None,
            ..self.facts.clone()
        };
        self.write(expected, record);
    }

    fn renew_soon(&mut self, now: Instant) {
        if let Me::In { renew_at, .. } = &mut self.me {
            *renew_at = now;
        }
    }

    fn renew(&mut self, now: Instant) {
        let state = self.own_state();
        let Me::In {
            epoch,
            revision,
            renew_at,
        } = &mut self.me
        else {
            return;
        };
        if now < *renew_at || self.writes.values().any(|node| *node == self.name) {
            return;
        }
        *renew_at = now + RENEW_INTERVAL;
        let record = Record {
            epoch: *epoch,
            state,
            heir: None,
            ..self.facts.clone()
        };
        let expected = *revision;
        self.write(expected, record);
    }

    /// Asks those who are silent, and fences those who don't answer.
    fn judge(&mut self, now: Instant) {
        let Me::In { epoch: mine, .. } = self.me else {
            return;
        };
        // The bus is away, or this process was: silence says nothing.
        if self.echo.is_none_or(|echo| now >= echo + ECHO_MAX) {
            return;
        }
        self.look_elsewhere(now);
        let mut asked = Vec::new();
        let mut gone = Vec::new();
        for (node, peer) in &mut self.peer_by_node {
            let (silence, epoch) = (now.saturating_duration_since(peer.heard), peer.epoch);
            if peer.doubt.knocks(now, silence) {
                let node = node.clone();
                self.commands.push_back(Command::Knock { node, epoch });
            }
            if peer.doubt.asks(now, silence) {
                asked.push(node.clone());
            }
            if peer.doubt.is_sure(now) {
                gone.push(node.clone());
            }
        }
        for node in asked {
            self.beat(now, Some(node));
        }
        for node in gone {
            self.claim(&node, mine);
        }
    }

    /// Whoever hears itself and nobody else may be cut off with a server of the engine: there is time to go to another
    /// one before the others judge.
    fn look_elsewhere(&mut self, now: Instant) {
        let mut peers = self.peer_by_node.values();
        let is_silent = |peer: &Peer| now >= peer.heard + ALONE_AFTER;
        // Of two nodes it is rather the other one that is gone.
        if now >= self.elsewhere_at && peers.len() > 1 && peers.all(is_silent) {
            self.elsewhere_at = now + ELSEWHERE_PAUSE;
            self.commands.push_back(Command::Elsewhere);
        }
    }

    fn write(&mut self, expected: Option<Revision>, record: Record) {
        let id = WriteId(self.next_write);
        self.next_write += 1;
        let node = record.name.clone();
        self.writes.insert(id, node.clone());
        self.commands.push_back(Command::Write {
            id,
            node,
            expected,
            record,
        });
    }
}

/// How often a node says that it lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);

/// After how long a silence a node is asked whether it lives.
pub(crate) const SILENCE_MAX: Duration = Duration::from_millis(800);

/// After how long a silence of all others a node goes to another server, and how often it may.
const ALONE_AFTER: Duration = Duration::from_millis(500);
const ELSEWHERE_PAUSE: Duration = Duration::from_secs(5);

/// How often silent nodes are looked at, at most.
const JUDGE_INTERVAL: Duration = Duration::from_millis(50);

/// How long ago this node must have heard itself in order to judge others.
const ECHO_MAX: Duration = Duration::from_millis(500);

/// How much later than this node others may be back on a bus that was away.
const RETURN_MAX: Duration = Duration::from_secs(1);

/// A process that was not woken for so long stood still.
const LAG_MAX: Duration = Duration::from_millis(400);

/// How often a node renews its record.
const RENEW_INTERVAL: Duration = Duration::from_secs(3);

const _: () = assert!(
    LAG_MAX.as_millis() < SILENCE_MAX.as_millis() && ECHO_MAX.as_millis() < SILENCE_MAX.as_millis()
);

#[cfg(test)]
mod tests;
