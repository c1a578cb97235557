//! A flood of requests without credentials, from sources that are not theirs, beside a relayed call.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tombolo_stun::{
    Class, Key, MessageWriter, Method, Nonce, Realm, RequestedTransport, TransactionId, Username,
};

use crate::machine;
use crate::measure::{Bench, Kind, Sample};
use crate::plan;
use crate::socket::{Inbox, Outbox, Route, UdpSocket};
use crate::subject::Subject;
use crate::traffic::{Far, Pace, Shape};

/// The attacker: sends from [`PREFIXES`] networks in turn and counts what comes back to them.
struct Flood {
    socket: UdpSocket,
    outbox: Outbox,
    inbox: Inbox,
    requests: Vec<Vec<u8>>,
    interval: Duration,
    due: Option<Instant>,
    count: Count,
}

#[derive(Clone, Copy, Default)]
struct Count {
    requests: u64,
    bytes_in: u64,
    replies: u64,
    bytes_out: u64,
}

/// Runs a call of ten flows, which must lose nothing, with the flood beside it.
pub(crate) fn measure(bench: &Bench, subject: Subject) -> anyhow::Result<Sample> {
    let call = Shape {
        far: Far::Peers,
        flows: 10,
        bytes: 172,
        burst: 1,
    };
    let (mut stage, mut traffic) = bench.traffic(subject, call, call.flows)?;
    let mut flood = Flood::new(bench.scale.flood_per_second)?;
    let pid = stage.server.pid();
    let pace = Pace::Every(Duration::from_millis(2));
    let mut turn = |now| flood.turn(now);
    // What is made once for the first of its kind, such as tables of sources, is there after this.
    traffic.run(&stage.clients, pace, bench.scale.time, &mut turn)?;
    let (memory, start) = (machine::resident(pid)?, Instant::now());
    let first = flood.count;
    let mut turn = |now| flood.turn(now);
    traffic.run(&stage.clients, pace, 4 * bench.scale.time, &mut turn)?;
    let elapsed = start.elapsed();
    let memory = machine::resident(pid)? as f64 - memory as f64;
    traffic.finish(&stage.clients)?;
    flood.receive()?;
    stage.server.check()?;
    let count = flood.count;
    ensure!(
        count.requests as usize > PREFIXES || bench.scale.kind == Kind::Quick,
        "too few requests for a flood"
    );
    Ok(Sample::from([
        ("out_per_in", count.bytes_out as f64 / count.bytes_in as f64),
        (
            "per_s",
            (count.requests - first.requests) as f64 / elapsed.as_secs_f64(),
        ),
        (
            "replies_per_request",
            count.replies as f64 / count.requests as f64,
        ),
        ("rss_growth_mb", memory / 1024.0 / 1024.0),
        ("call_packets", traffic.count.delivered() as f64),
    ]))
}

impl Flood {
    fn new(per_second: u32) -> anyhow::Result<Self> {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, plan::FLOOD_PORT);
        Ok(Self {
            socket: UdpSocket::bind(any).context("bind the flood's socket")?,
            outbox: Outbox::new(BATCH, 256),
            inbox: Inbox::new(BATCH, 2048, 0),
            requests: requests()?,
            interval: Duration::from_secs(1) / per_second,
            due: None,
            count: Count::default(),
        })
    }

    fn turn(&mut self, now: Instant) -> anyhow::Result<()> {
        let due = self.due.get_or_insert(now);
        // What a pause of the whole machine has held up is not made up for.
        *due = (*due).max(now.checked_sub(MISSED_MAX).unwrap_or(now));
        while *due <= now && !self.outbox.is_full() {
            *due += self.interval;
            let number = self.count.requests as usize;
            // Each network sends each kind of request in turn, as both numbers have no common part.
            let request = &self.requests[number % self.requests.len()];
            let route = Route {
                from: Some(plan::spoofed(number % PREFIXES)),
                to: plan::SERVER,
                segment: None,
            };
            self.outbox.push(route, request.len(), |to| {
                to.copy_from_slice(request);
                // Of the transaction's id.
                to[12..20].copy_from_slice(&(number as u64).to_be_bytes());
            });
            self.count.requests += 1;
            self.count.bytes_in += request.len() as u64;
        }
        self.outbox.flush(&self.socket)?;
        self.receive()
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        let received = self.inbox.receive(&self.socket)?;
        for slot in 0..received {
            ensure!(
                self.inbox.from(slot) == plan::SERVER,
                "a reply past the server"
            );
            self.count.replies += 1;
            self.count.bytes_out += self.inbox.data(slot).len() as u64;
        }
        Ok(())
    }
}

/// The kinds of requests that an attacker has most of: the shortest that are answered, and some that
/// cost more.
fn requests() -> anyhow::Result<Vec<Vec<u8>>> {
    let id = TransactionId([0; 12]);
    let make = |method, fill: &dyn Fn(&mut MessageWriter<'_>) -> anyhow::Result<()>| {
        let mut bytes = Vec::new();
        let mut message = MessageWriter::new(&mut bytes, Class::Request, method, id);
        fill(&mut message)?;
        Ok::<_, anyhow::Error>(bytes)
    };
    let nothing = |_: &mut MessageWriter<'_>| Ok(());
    let signed = |message: &mut MessageWriter<'_>| {
        message.attribute(&RequestedTransport::UDP);
        message
            .attribute(&Username::new("u0")?)
            .attribute(&Realm::new(plan::REALM)?);
        message.attribute(&Nonce::new("0123456789abcdef")?);
        message.integrity(&Key::long_term("u0", plan::REALM, "not the password"));
        Ok(())
    };
    Ok(vec![
        make(Method::BINDING, &nothing)?,
        make(Method::ALLOCATE, &|message| {
            message.attribute(&RequestedTransport::UDP);
            Ok(())
        })?,
        make(Method::REFRESH, &nothing)?,
        make(Method::ALLOCATE, &signed)?,
        make(Method::ALLOCATE, &|message| {
            message.attribute(&RequestedTransport(6)).fingerprint();
            Ok(())
        })?,
        make(Method::BINDING, &|message| {
            message.fingerprint();
            Ok(())
        })?,
        make(Method::CHANNEL_BIND, &nothing)?,
    ])
}

/// Networks that the flood seems to come from.
pub(crate) const PREFIXES: usize = 10_000;
const BATCH: usize = 64;
const MISSED_MAX: Duration = Duration::from_millis(20);
