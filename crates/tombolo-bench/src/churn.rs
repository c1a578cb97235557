//! Clients that come, talk a little, and go.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::control::{Ask, Clients};
use crate::plan;
use crate::socket::{Inbox, Outbox, Route, UdpSocket};

/// What has come and gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) started: u64,
    /// Gave their allocations back.
    pub(crate) returned: u64,
    /// Fell silent.
    pub(crate) abandoned: u64,
    /// Packets that came back whole.
    pub(crate) packets: u64,
    pub(crate) repeated: u64,
    /// At once, at most.
    pub(crate) alive_max: u64,
}

/// Allocations that come and go, each with a channel and a few packets there and back.
pub(crate) struct Churn {
    clients: Clients,
    peers: UdpSocket,
    inbox: Inbox,
    outbox: Outbox,
    interval: Duration,
    due: Option<Instant>,
    /// One in so many falls silent; nobody if `None`.
    pub(crate) abandon_every: Option<u64>,
    lives: BTreeMap<usize, Life>,
    /// Clients without an allocation: who left last comes again last.
    free: VecDeque<usize>,
    done: Vec<usize>,
    pub(crate) count: Count,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    number: u64,
    stage: Stage,
    talks_since: Instant,
    /// Packets that have come back, a bit for each.
    back: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Allocates,
    Binds,
    Talks,
    Leaves,
}

impl Churn {
    /// `per_second` clients start each second.
    pub(crate) fn new(per_second: u32) -> anyhow::Result<Self> {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, plan::CHURN_PEER_PORT);
        let peers = UdpSocket::bind(any).context("bind the passing peers' socket")?;
        peers.report_destination()?;
        Ok(Self {
            clients: Clients::new(plan::CHURN_CLIENT_PORT)?,
            peers,
            inbox: Inbox::new(BATCH, 2048, 0),
            outbox: Outbox::new(BATCH, 2048),
            interval: Duration::from_secs(1) / per_second,
            due: None,
            abandon_every: None,
            lives: BTreeMap::new(),
            free: (0..plan::HOSTS_MAX).collect(),
            done: Vec::new(),
            count: Count::default(),
        })
    }

    /// Starts who is due, and lets everybody go on.
    pub(crate) fn turn(&mut self, now: Instant) -> anyhow::Result<()> {
        let mut due = *self.due.get_or_insert(now);
        while due <= now {
            due += self.interval;
            self.start(now)?;
        }
        self.due = Some(due);
        self.go_on(now)
    }

    /// Lets everybody go on, until nobody is left.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        while !self.lives.is_empty() {
            self.go_on(Instant::now())?;
        }
        Ok(())
    }

    fn start(&mut self, now: Instant) -> anyhow::Result<()> {
        let client = self
            .free
            .pop_front()
            .context("all clients have allocations")?;
        let number = self.count.started;
        let life = Life {
            number,
            stage: Stage::Allocates,
            talks_since: now,
            back: 0,
        };
        self.lives.insert(client, life);
        self.count.started += 1;
        self.count.alive_max = self.count.alive_max.max(self.lives.len() as u64);
        self.clients.begin(client, Ask::Allocate, now)
    }

    fn go_on(&mut self, now: Instant) -> anyhow::Result<()> {
        self.clients.flush()?;
        self.echo()?;
        let (lives, count) = (&mut self.lives, &mut self.count);
        let mut silent = Vec::new();
        self.done.clear();
        self.clients
            .receive(now, &mut self.done, &mut |client, data| {
                let life = lives.get_mut(&client).context("a packet for nobody")?;
                ensure!(life.stage == Stage::Talks, "a packet after the last");
                let index = (0..PACKETS).find(|index| data == payload(client, life.number, *index));
                let bit = 1 << index.context("a packet that was not sent")?;
                ensure!(life.back & bit == 0, "a packet came twice");
                life.back |= bit;
                count.packets += 1;
                if life.back == ALL_BACK {
                    silent.push(client);
                }
                Ok(())
            })?;
        for client in std::mem::take(&mut self.done) {
            self.on_reply(client, now)?;
        }
        for client in silent {
            self.on_all_back(client, now)?;
        }
        self.look_after(now)?;
        self.clients.flush()
    }

    fn on_reply(&mut self, client: usize, now: Instant) -> anyhow::Result<()> {
        let life = self.lives.get_mut(&client).context("a reply for nobody")?;
        match life.stage {
            Stage::Allocates => {
                life.stage = Stage::Binds;
                self.clients.begin(client, Ask::Bind(peer(client)), now)
            }
            Stage::Binds => {
                (life.stage, life.talks_since) = (Stage::Talks, now);
                let number = life.number;
                (0..PACKETS).try_for_each(|index| {
                    self.clients.send(client, &payload(client, number, index))
                })
            }
            Stage::Talks => Ok(()),
            Stage::Leaves => {
                self.lives.remove(&client);
                self.free.push_back(client);
                self.count.returned += 1;
                Ok(())
            }
        }
    }

    fn on_all_back(&mut self, client: usize, now: Instant) -> anyhow::Result<()> {
        let life = self.lives.get_mut(&client).context("packets for nobody")?;
        if self
            .abandon_every
            .is_some_and(|every| life.number.is_multiple_of(every))
        {
            self.lives.remove(&client);
            self.count.abandoned += 1;
            return Ok(());
        }
        life.stage = Stage::Leaves;
        self.clients.begin(client, Ask::Refresh(0), now)
    }

    /// Peers send back what they get.
    fn echo(&mut self) -> anyhow::Result<()> {
        for slot in 0..self.inbox.receive(&self.peers)? {
            let from = self.inbox.to(slot);
            let route = Route {
                from,
                to: self.inbox.from(slot),
                segment: None,
            };
            let data = self.inbox.data(slot);
            self.outbox
                .push(route, data.len(), |to| to.copy_from_slice(data));
        }
        Ok(self.outbox.flush(&self.peers)?)
    }

    /// Repeats what got no reply, and fails when packets did not come back.
    fn look_after(&mut self, now: Instant) -> anyhow::Result<()> {
        for (client, life) in &self.lives {
            if life.stage == Stage::Talks {
                let is_late = now > life.talks_since + PATIENCE;
                ensure!(
                    !is_late,
                    "packets of client {client} were lost ({:#b} came back)",
                    life.back
                );
            } else if self.clients.repeat_if_overdue(*client, now)? {
                self.count.repeated += 1;
            }
        }
        Ok(())
    }
}

fn peer(client: usize) -> SocketAddrV4 {
    SocketAddrV4::new(*plan::peer(client).ip(), plan::CHURN_PEER_PORT)
}

/// Bytes that nobody else sends.
pub(crate) fn payload(client: usize, number: u64, index: u8) -> [u8; PAYLOAD] {
    let mut payload = [index; PAYLOAD];
    payload[..8].copy_from_slice(&(client as u64).to_be_bytes());
    payload[8..16].copy_from_slice(&number.to_be_bytes());
    payload
}

/// That a client sends to its peer.
pub(crate) const PACKETS: u8 = 4;
/// Bytes of each.
pub(crate) const PAYLOAD: usize = 100;
const ALL_BACK: u8 = (1 << PACKETS) - 1;
const BATCH: usize = 64;
/// Within which packets come back.
const PATIENCE: Duration = Duration::from_secs(2);
