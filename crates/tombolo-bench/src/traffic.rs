//! Packets through allocations: one generator thread that plays all clients and all peers, checks
//! every byte that arrives, and counts.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::control::{Ask, Clients};
use crate::plan;
use crate::socket::{Inbox, Outbox, Route, UdpSocket};

/// Who sends a client's packets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Far {
    /// Peers with an address of their own.
    Peers,
    /// The next client, through an allocation of the same server.
    Clients,
}

/// What travels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) far: Far,
    pub(crate) flows: usize,
    /// Payload of a datagram.
    pub(crate) bytes: usize,
    /// Datagrams that a flow sends at once.
    pub(crate) burst: usize,
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As many bursts on their way as this, all the time.
    Window(usize),
    /// A burst each such time, evenly.
    Every(Duration),
}

/// What has happened since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) sent: u64,
    /// Datagrams that arrived at the far end, and those that came back.
    pub(crate) arrived: [u64; 2],
    /// Datagrams out of their flow's order, or twice.
    pub(crate) disordered: u64,
    /// Turns of the loop, and those that found nothing to do.
    pub(crate) turns: u64,
    pub(crate) idle: u64,
}

impl Count {
    pub(crate) fn delivered(&self) -> u64 {
        self.arrived[0] + self.arrived[1]
    }
}

/// All flows of a benchmark.
pub(crate) struct Traffic {
    shape: Shape,
    flows: Vec<Flow>,
    peers: UdpSocket,
    inbox: Inbox,
    to_server: Outbox,
    from_peers: Outbox,
    /// What follows the mark in each payload.
    filling: Vec<u8>,
    start: Instant,
    /// The flow whose turn it is.
    next: usize,
    due: Option<Instant>,
    bursts_in_flight: usize,
    pub(crate) count: Count,
    /// Nanoseconds to the far end, and back.
    pub(crate) latencies: [Vec<u32>; 2],
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    client: Ipv4Addr,
    peer: Ipv4Addr,
    relayed: SocketAddrV4,
    channel: u16,
    sent: u32,
    /// The number that the next datagram must have at least, at the far end and back.
    expected: [u32; 2],
}

/// What each payload begins with.
#[derive(Clone, Copy, Debug)]
struct Mark {
    flow: u32,
    leg: Leg,
    number: u32,
    nanoseconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Out = 0,
    Back = 1,
}

impl Traffic {
    /// Binds a channel for each flow; the first `shape.flows` clients must have allocations.
    pub(crate) fn bind(clients: &mut Clients, shape: Shape) -> anyhow::Result<()> {
        clients.ask_all(0..shape.flows, SETUP_WINDOW, |clients, flow| {
            Ok(Ask::Bind(match shape.far {
                Far::Peers => plan::peer(flow),
                Far::Clients => clients.relayed(flow ^ 1)?,
            }))
        })?;
        Ok(())
    }

    /// Prepares flows over channels that are bound.
    pub(crate) fn new(clients: &Clients, shape: Shape) -> anyhow::Result<Self> {
        ensure!(shape.bytes >= MARK, "a payload has at least {MARK} bytes");
        ensure!(
            shape.burst * (shape.bytes + HEADER) <= DATAGRAM_MAX,
            "a burst is a datagram to the kernel"
        );
        let flows = (0..shape.flows).map(|flow| {
            Ok(Flow {
                client: plan::client(flow),
                peer: *plan::peer(flow).ip(),
                relayed: clients.relayed(flow)?,
                channel: plan::channel(flow),
                sent: 0,
                expected: [0; 2],
            })
        });
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, plan::PEER_PORT);
        let peers = UdpSocket::bind(any).context("bind the peers' socket")?;
        if shape.burst > 1 {
            peers.receive_bursts()?;
            clients.socket.receive_bursts()?;
        }
        let bytes = (shape.bytes + HEADER) * shape.burst;
        let batch = if shape.burst > 1 { BURST_BATCH } else { BATCH };
        Ok(Self {
            shape,
            flows: flows.collect::<anyhow::Result<_>>()?,
            peers,
            inbox: if shape.burst > 1 {
                // A server may join what a flow sent in several bursts.
                Inbox::new(BURST_BATCH, DATAGRAM_MAX, 0)
            } else {
                Inbox::new(BATCH, bytes, 0)
            },
            to_server: Outbox::new(batch, bytes),
            from_peers: Outbox::new(batch, bytes),
            filling: (0..shape.bytes - MARK).map(|i| (i * 7) as u8).collect(),
            start: Instant::now(),
            next: 0,
            due: None,
            bursts_in_flight: 0,
            count: Count::default(),
            latencies: [Vec::new(), Vec::new()],
        })
    }

    /// Keeps packets moving for `time`; `between` is called in each turn of the loop.
    ///
    /// # Errors
    /// Something arrived that was not sent, or nothing arrives any more.
    pub(crate) fn run(
        &mut self,
        clients: &Clients,
        pace: Pace,
        time: Duration,
        between: &mut dyn FnMut(Instant) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        let mut progress = (self.count.delivered(), Instant::now());
        self.due = None;
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            self.send_due(clients, pace, now)?;
            self.turn(clients)?;
            between(now)?;
            let delivered = self.count.delivered();
            if delivered != progress.0 {
                progress = (delivered, now);
            } else if now > progress.1 + SILENCE {
                let (sent, [out, back]) = (self.count.sent, self.count.arrived);
                bail!("of {sent} packets {out} arrived and {back} came back; now nothing does");
            }
        }
    }

    /// Waits for what is on its way, and fails unless all that was sent has come back in order.
    pub(crate) fn finish(&mut self, clients: &Clients) -> anyhow::Result<()> {
        let mut progress = (self.count.delivered(), Instant::now());
        while self.count.arrived[1] < self.count.sent && progress.1.elapsed() < SILENCE {
            self.turn(clients)?;
            if self.count.delivered() != progress.0 {
                progress = (self.count.delivered(), Instant::now());
            }
        }
        let Count {
            sent,
            arrived: [out, back],
            disordered,
            ..
        } = self.count;
        ensure!(
            (out, back) == (sent, sent),
            "of {sent} packets {} were lost on their way out and {} on their way back",
            sent - out,
            out - back
        );
        ensure!(
            disordered == 0,
            "{disordered} packets overtook others of their flow"
        );
        Ok(())
    }

    fn send_due(&mut self, clients: &Clients, pace: Pace, now: Instant) -> anyhow::Result<()> {
        match pace {
            Pace::Window(window) => {
                while self.bursts_in_flight < window {
                    self.send_next(clients)?;
                }
            }
            Pace::Every(interval) => {
                let due = self.due.get_or_insert(now);
                // After a pause of the whole machine what was missed is left out.
                if now > *due + MISSED_MAX {
                    *due = now;
                }
                let mut count = 0;
                while *due <= now {
                    *due += interval;
                    count += 1;
                }
                for _ in 0..count {
                    self.send_next(clients)?;
                }
            }
        }
        Ok(self.to_server.flush(&clients.socket)?)
    }

    /// Sends a burst of the flow whose turn it is.
    fn send_next(&mut self, clients: &Clients) -> anyhow::Result<()> {
        let index = self.next;
        self.next = (index + 1) % self.flows.len();
        let flow = &mut self.flows[index];
        let first = flow.sent;
        flow.sent = first.wrapping_add(self.shape.burst as u32);
        self.bursts_in_flight += 1;
        self.count.sent += self.shape.burst as u64;
        self.push(clients, index, Leg::Out, first)
    }

    /// Adds a burst to the outbox of the end that it starts from.
    fn push(
        &mut self,
        clients: &Clients,
        index: usize,
        leg: Leg,
        first: u32,
    ) -> anyhow::Result<()> {
        let flow = self.flows[index];
        let Shape {
            far, burst, bytes, ..
        } = self.shape;
        let nanoseconds = self.start.elapsed().as_nanos() as u64;
        let mark = |number| Mark {
            flow: index as u32,
            leg,
            number,
            nanoseconds,
        };
        let sender = match (far, leg) {
            (Far::Peers, Leg::Back) => None,
            (Far::Clients, Leg::Back) => Some(self.flows[index ^ 1]),
            (_, Leg::Out) => Some(flow),
        };
        let header = if sender.is_some() { HEADER } else { 0 };
        let route = match sender {
            Some(sender) => (sender.client, plan::SERVER),
            None => (flow.peer, flow.relayed),
        };
        let datagram = header + bytes;
        let route = Route {
            from: Some(route.0),
            to: route.1,
            segment: (burst > 1).then_some(datagram as u16),
        };
        let outbox = if sender.is_some() {
            &mut self.to_server
        } else {
            &mut self.from_peers
        };
        if outbox.is_full() {
            outbox.flush(if sender.is_some() {
                &clients.socket
            } else {
                &self.peers
            })?;
        }
        let filling = &self.filling;
        outbox.push(route, datagram * burst, |to| {
            for (datagram, number) in to.chunks_exact_mut(datagram).zip(first..) {
                let (head, payload) = datagram.split_at_mut(header);
                if let Some(sender) = sender {
                    head[..2].copy_from_slice(&sender.channel.to_be_bytes());
                    head[2..].copy_from_slice(&(bytes as u16).to_be_bytes());
                }
                payload[..MARK].copy_from_slice(&mark(number).to_bytes());
                payload[MARK..].copy_from_slice(filling);
            }
        });
        Ok(())
    }

    /// Takes what has arrived at both ends and sends back what is at the far one.
    fn turn(&mut self, clients: &Clients) -> anyhow::Result<()> {
        let before = self.count.delivered();
        if self.shape.far == Far::Peers {
            self.take(clients, End::Peers)?;
            self.from_peers.flush(&self.peers)?;
        }
        self.take(clients, End::Clients)?;
        self.to_server.flush(&clients.socket)?;
        self.count.turns += 1;
        self.count.idle += u64::from(self.count.delivered() == before);
        Ok(())
    }

    fn take(&mut self, clients: &Clients, end: End) -> anyhow::Result<()> {
        let socket = match end {
            End::Peers => &self.peers,
            End::Clients => &clients.socket,
        };
        let received = self.inbox.receive(socket)?;
        for slot in 0..received {
            let len = self.inbox.data(slot).len();
            let segment = self.inbox.segment(slot).unwrap_or(len).max(1);
            for start in (0..len).step_by(segment) {
                let range = start..len.min(start + segment);
                let (mark, index) = self.check(end, slot, range)?;
                self.on_arrival(clients, mark, index)?;
            }
        }
        Ok(())
    }

    /// Checks that a datagram is one that was sent, whole, by the right way.
    fn check(
        &self,
        end: End,
        slot: usize,
        range: std::ops::Range<usize>,
    ) -> anyhow::Result<(Mark, usize)> {
        let data = &self.inbox.data(slot)[range];
        let payload = match end {
            End::Peers => data,
            End::Clients => {
                let len = (self.shape.bytes as u16).to_be_bytes();
                ensure!(
                    data.get(2..HEADER) == Some(&len),
                    "not the ChannelData that was sent: {data:?}"
                );
                &data[HEADER..]
            }
        };
        ensure!(
            payload.len() == self.shape.bytes,
            "a payload of {} bytes",
            payload.len()
        );
        let mark = Mark::from_bytes(payload).context("a payload that was not sent")?;
        ensure!(
            payload[MARK..] == self.filling,
            "a payload with other bytes"
        );
        let index = mark.flow as usize;
        let flow = self.flows.get(index).context("a flow that is not there")?;
        match (end, mark.leg) {
            (End::Peers, Leg::Out) => {
                ensure!(
                    self.inbox.from(slot) == flow.relayed,
                    "not from the relayed address"
                );
            }
            (End::Peers, Leg::Back) => bail!("a packet went the wrong way"),
            (End::Clients, leg) => {
                let pair = self.shape.far == Far::Clients;
                ensure!(pair || leg == Leg::Back, "a packet went the wrong way");
                let at = if leg == Leg::Back {
                    flow
                } else {
                    &self.flows[index ^ 1]
                };
                ensure!(
                    data[..2] == at.channel.to_be_bytes(),
                    "a packet on the wrong channel"
                );
                ensure!(
                    self.inbox.to(slot) == Some(at.client),
                    "a packet to the wrong client"
                );
                ensure!(
                    self.inbox.from(slot) == plan::SERVER,
                    "a packet past the server"
                );
            }
        }
        Ok((mark, index))
    }

    fn on_arrival(&mut self, clients: &Clients, mark: Mark, index: usize) -> anyhow::Result<()> {
        let leg = mark.leg as usize;
        let now = self.start.elapsed().as_nanos() as u64;
        let latency = now.saturating_sub(mark.nanoseconds);
        self.latencies[leg].push(u32::try_from(latency).unwrap_or(u32::MAX));
        self.count.arrived[leg] += 1;
        let expected = &mut self.flows[index].expected[leg];
        if mark.number < *expected {
            self.count.disordered += 1;
        }
        *expected = mark.number + 1;
        let burst = self.shape.burst as u32;
        if !(mark.number + 1).is_multiple_of(burst) {
            return Ok(());
        }
        match mark.leg {
            Leg::Out => self.push(clients, index, Leg::Back, mark.number + 1 - burst),
            Leg::Back => {
                self.bursts_in_flight = self.bursts_in_flight.saturating_sub(1);
                Ok(())
            }
        }
    }
}

/// Where something arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Peers,
    Clients,
}

impl Mark {
    fn to_bytes(self) -> [u8; MARK] {
        let mut bytes = [0; MARK];
        bytes[..4].copy_from_slice(&self.flow.to_be_bytes());
        bytes[4..8].copy_from_slice(&(self.leg as u32).to_be_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_be_bytes());
        bytes[12..].copy_from_slice(&self.nanoseconds.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = bytes.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_be_bytes(*bytes))
        };
        let leg = match word(4)? {
            0 => Leg::Out,
            1 => Leg::Back,
            _ => return None,
        };
        let nanoseconds = u64::from(word(12)?) << 32 | u64::from(word(16)?);
        Some(Self {
            flow: word(0)?,
            leg,
            number: word(8)?,
            nanoseconds,
        })
    }
}

/// Of ChannelData.
const HEADER: usize = 4;
const MARK: usize = 20;
const DATAGRAM_MAX: usize = 65_507;
const BATCH: usize = 64;
/// Few, so that the generator's memory does not push the server's out of the shared cache.
const BURST_BATCH: usize = 8;
const SETUP_WINDOW: usize = 32;
/// Without any arrival the rest is lost.
const SILENCE: Duration = Duration::from_millis(500);
const MISSED_MAX: Duration = Duration::from_millis(20);
