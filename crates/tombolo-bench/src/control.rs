//! The client side of TURN's control plane: many clients behind one socket, their requests in a
//! window.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tombolo_stun::{
    ChannelData, ChannelNumber, Class, ErrorCode, Key, Kind, Lifetime, Message, MessageWriter,
    Method, Nonce, Realm, RequestedTransport, TransactionId, Username, XorPeerAddress,
    XorRelayedAddress,
};

use crate::plan;
use crate::socket::{Inbox, Outbox, Route, UdpSocket};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Allocate, from the first request without credentials on.
    Allocate,
    /// ChannelBind to an address.
    Bind(SocketAddrV4),
    /// Refresh with a lifetime in seconds; 0 gives the allocation back.
    Refresh(u32),
    /// Binding, without credentials.
    Binding,
}

/// How a series of requests went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Series {
    pub(crate) elapsed: Duration,
    /// Requests sent again for lack of a reply.
    pub(crate) repeated: u64,
}

/// All clients of a benchmark, and what each knows of its allocation.
pub(crate) struct Clients {
    pub(crate) socket: UdpSocket,
    inbox: Inbox,
    outbox: Outbox,
    clients: Vec<Client>,
    keys: BTreeMap<usize, Key>,
    /// Put into transaction ids, so that a late reply to an earlier request answers no other.
    serial: u32,
}

#[derive(Clone, Debug, Default)]
struct Client {
    relayed: Option<SocketAddrV4>,
    nonce: String,
    waits: Option<Wait>,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
struct Wait {
    ask: Ask,
    serial: u32,
    sent: Instant,
    times: u32,
    signed: bool,
}

impl Clients {
    /// Clients that all send from `port`, each from its own address.
    pub(crate) fn new(port: u16) -> anyhow::Result<Self> {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let socket = UdpSocket::bind(any).context("bind the clients' socket")?;
        socket.report_destination()?;
        Ok(Self {
            socket,
            inbox: Inbox::new(BATCH, 2048, 0),
            outbox: Outbox::new(BATCH, 2048),
            clients: vec![Client::default(); plan::HOSTS_MAX],
            keys: BTreeMap::new(),
            serial: 0,
        })
    }

    /// Takes over what the bare forwarder was born with: a relayed address for each flow.
    pub(crate) fn presume_floor(&mut self, flows: usize) {
        for (flow, client) in self.clients.iter_mut().enumerate().take(flows) {
            let port = plan::FLOOR_PORT + flow as u16;
            client.relayed = Some(SocketAddrV4::new(*plan::SERVER.ip(), port));
        }
    }

    /// The relayed address of a client.
    pub(crate) fn relayed(&self, client: usize) -> anyhow::Result<SocketAddrV4> {
        self.clients[client]
            .relayed
            .with_context(|| format!("client {client} has no allocation"))
    }

    /// Has each of `clients` ask what `ask` says, `window` of them at a time, and waits for all
    /// replies.
    pub(crate) fn ask_all(
        &mut self,
        clients: Range<usize>,
        window: usize,
        ask: impl Fn(&Self, usize) -> anyhow::Result<Ask>,
    ) -> anyhow::Result<Series> {
        let start = Instant::now();
        let mut series = Series::default();
        let mut next = clients.clone();
        let mut waiting: VecDeque<usize> = VecDeque::with_capacity(window);
        let mut done = Vec::with_capacity(BATCH);
        let mut left = clients.len();
        while left > 0 {
            let now = Instant::now();
            while waiting.len() < window.min(left)
                && let Some(client) = next.next()
            {
                let ask = ask(self, client)?;
                self.begin(client, ask, now)?;
                waiting.push_back(client);
            }
            self.flush()?;
            done.clear();
            // Traffic may still be under way when a client asks for something.
            self.receive(now, &mut done, &mut |_, _| Ok(()))?;
            left -= done.len();
            // Those at the front have waited longest, so only they can be overdue.
            while let Some(client) = waiting.pop_front() {
                if self.repeat_if_overdue(client, now)? {
                    series.repeated += 1;
                    waiting.push_back(client);
                } else if self.is_waiting(client) {
                    waiting.push_front(client);
                    break;
                }
            }
        }
        series.elapsed = start.elapsed();
        Ok(series)
    }

    /// Keeps `window` Binding requests of the first `clients` clients under way for `time`, and
    /// returns how many were answered.
    pub(crate) fn flood_bindings(
        &mut self,
        clients: usize,
        window: usize,
        time: Duration,
    ) -> anyhow::Result<u64> {
        let start = Instant::now();
        let (mut sent, mut answered, mut last) = (0, 0, start);
        loop {
            let now = Instant::now();
            let is_over = now >= start + time;
            while !is_over && sent - answered < window as u64 && !self.outbox.is_full() {
                let client = (sent % clients as u64) as usize;
                self.serial = self.serial.wrapping_add(1);
                self.push(client, Ask::Binding, self.serial, false)?;
                sent += 1;
            }
            self.outbox.flush(&self.socket)?;
            for slot in 0..self.inbox.receive(&self.socket)? {
                let message = Message::decode(self.inbox.data(slot))?;
                ensure!(
                    message.class() == Class::Success,
                    "a Binding request was refused"
                );
                ensure!(
                    message.method() == Method::BINDING,
                    "a reply to something else"
                );
                answered += 1;
                last = now;
            }
            if is_over && answered == sent {
                return Ok(answered);
            }
            if now >= last + SILENCE {
                bail!(
                    "{} of {sent} Binding requests were not answered",
                    sent - answered
                );
            }
        }
    }

    /// Has a client ask for something, with the next [`Self::flush`].
    pub(crate) fn begin(&mut self, client: usize, ask: Ask, now: Instant) -> anyhow::Result<()> {
        let signed = matches!(ask, Ask::Bind(_) | Ask::Refresh(_));
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let wait = Wait {
            ask,
            serial,
            sent: now,
            times: 1,
            signed,
        };
        self.clients[client].waits = Some(wait);
        self.push(client, ask, serial, signed)
    }

    /// Whether the client still waits for what it asked for.
    pub(crate) fn is_waiting(&self, client: usize) -> bool {
        self.clients[client].waits.is_some()
    }

    /// Asks again if the reply is overdue, and says whether it did.
    ///
    /// # Errors
    /// It has asked often enough.
    pub(crate) fn repeat_if_overdue(
        &mut self,
        client: usize,
        now: Instant,
    ) -> anyhow::Result<bool> {
        let Some(wait) = self.clients[client].waits else {
            return Ok(false);
        };
        if now < wait.sent + PATIENCE {
            return Ok(false);
        }
        ensure!(
            wait.times < TIMES_MAX,
            "client {client} gets no reply to {:?}",
            wait.ask
        );
        let wait = Wait {
            sent: now,
            times: wait.times + 1,
            ..wait
        };
        self.clients[client].waits = Some(wait);
        self.push(client, wait.ask, wait.serial, wait.signed)?;
        Ok(true)
    }

    /// Sends `payload` on a client's channel, with the next [`Self::flush`].
    pub(crate) fn send(&mut self, client: usize, payload: &[u8]) -> anyhow::Result<()> {
        let number = ChannelNumber::new(plan::channel(client)).context("a channel number")?;
        let header = number
            .header(payload.len())
            .context("a payload that fits")?;
        let outbox = self.room()?;
        outbox.push(route(client), header.len() + payload.len(), |to| {
            let (head, body) = to.split_at_mut(header.len());
            head.copy_from_slice(&header);
            body.copy_from_slice(payload);
        });
        Ok(())
    }

    /// Sends what has been put off.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.outbox.flush(&self.socket)?)
    }

    /// Handles what has arrived: adds clients that have got what they asked for to `done`, and hands
    /// packets of peers to `data`, with the client that got them.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        done: &mut Vec<usize>,
        data: &mut dyn FnMut(usize, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for slot in 0..self.inbox.receive(&self.socket)? {
            let to = self.inbox.to(slot).and_then(plan::client_index);
            let client = to.context("a reply to nobody")?;
            let bytes = self.inbox.data(slot);
            if Kind::of(bytes) == Kind::ChannelData {
                let packet = ChannelData::decode(bytes)?;
                let channel = packet.number.number();
                ensure!(
                    channel == plan::channel(client),
                    "a packet on channel {channel:#x}"
                );
                data(client, packet.data)?;
            } else if self.on_reply(client, slot, now)? {
                done.push(client);
            }
        }
        self.flush()
    }

    /// Whether the client has got what it asked for.
    fn on_reply(&mut self, client: usize, slot: usize, now: Instant) -> anyhow::Result<bool> {
        let message = Message::decode(self.inbox.data(slot))?;
        let Some(wait) = self.clients[client].waits else {
            return Ok(false);
        };
        if message.transaction_id() != transaction(client, wait.serial) {
            return Ok(false);
        }
        if message.class() == Class::Success {
            if wait.ask == Ask::Allocate {
                let XorRelayedAddress(relayed) = message.required()?;
                let SocketAddr::V4(relayed) = relayed else {
                    bail!("a relayed address of the wrong family");
                };
                self.clients[client].relayed = Some(relayed);
            }
            self.clients[client].waits = None;
            return Ok(true);
        }
        let error: ErrorCode<'_> = message.required()?;
        let code = error.code();
        let is_challenge = code == 438 || (code == 401 && !wait.signed);
        ensure!(
            is_challenge,
            "client {client} asked {:?} and got {code}",
            wait.ask
        );
        let realm: Realm<'_> = message.required()?;
        ensure!(
            realm.as_str() == plan::REALM,
            "the server's realm is {}",
            realm.as_str()
        );
        let nonce: Nonce<'_> = message.required()?;
        nonce.as_str().clone_into(&mut self.clients[client].nonce);
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let wait = Wait {
            serial,
            sent: now,
            signed: true,
            ..wait
        };
        self.clients[client].waits = Some(wait);
        self.push(client, wait.ask, serial, true)?;
        Ok(false)
    }

    /// Adds a request to the outbox.
    fn push(&mut self, client: usize, ask: Ask, serial: u32, signed: bool) -> anyhow::Result<()> {
        let method = match ask {
            Ask::Allocate => Method::ALLOCATE,
            Ask::Bind(_) => Method::CHANNEL_BIND,
            Ask::Refresh(_) => Method::REFRESH,
            Ask::Binding => Method::BINDING,
        };
        let mut bytes = Vec::with_capacity(256);
        let id = transaction(client, serial);
        let mut message = MessageWriter::new(&mut bytes, Class::Request, method, id);
        match ask {
            Ask::Allocate => {
                message.attribute(&RequestedTransport::UDP);
            }
            Ask::Bind(peer) => {
                message.attribute(
                    &ChannelNumber::new(plan::channel(client)).context("a channel number")?,
                );
                message.attribute(&XorPeerAddress(peer.into()));
            }
            Ask::Refresh(seconds) => {
                message.attribute(&Lifetime(seconds));
            }
            Ask::Binding => {}
        }
        if signed {
            let user = plan::user(client);
            message.attribute(&Username::new(&user)?);
            message.attribute(&Realm::new(plan::REALM)?);
            message.attribute(&Nonce::new(&self.clients[client].nonce)?);
            let key = || Key::long_term(&user, plan::REALM, plan::PASSWORD);
            message.integrity(self.keys.entry(client % plan::USERS).or_insert_with(key));
        }
        self.room()?
            .push(route(client), bytes.len(), |to| to.copy_from_slice(&bytes));
        Ok(())
    }

    /// The outbox, with a place free.
    fn room(&mut self) -> anyhow::Result<&mut Outbox> {
        if self.outbox.is_full() {
            self.outbox.flush(&self.socket)?;
        }
        Ok(&mut self.outbox)
    }
}

fn route(client: usize) -> Route {
    Route {
        from: Some(plan::client(client)),
        to: plan::SERVER,
        segment: None,
    }
}

fn transaction(client: usize, serial: u32) -> TransactionId {
    let mut id = *b"tomb________";
    id[4..8].copy_from_slice(&(client as u32).to_be_bytes());
    id[8..].copy_from_slice(&serial.to_be_bytes());
    TransactionId(id)
}

const BATCH: usize = 64;
/// Until a request is sent again.
const PATIENCE: Duration = Duration::from_millis(500);
const TIMES_MAX: u32 = 7;
/// Without any reply, the rest is lost.
const SILENCE: Duration = Duration::from_millis(500);
