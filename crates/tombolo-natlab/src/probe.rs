//! Measures what a NAT does from outside it, independently of Tombolo's own STUN: a responder on
//! the node's addresses, and a prober on a device, with a wire format of their own.
//!
//! The tests are those of RFC 5780 §4.3 and §4.4.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::lab::Lab;
use crate::space::Host;

/// What a mapping or a filter depends on, RFC 4787 §4.1 and §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// On nothing but the inner address and port.
    Endpoint,
    /// On the other end's address too.
    Address,
    /// On the other end's address and port.
    AddressAndPort,
}

/// How outer ports are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The same as inside.
    Preserved,
    /// Counting upwards in small steps.
    Sequential,
    /// Otherwise.
    Random,
}

/// What was measured for one device in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// What the outer address depends on.
    pub mapping: Dependence,
    /// From whom packets come in.
    pub filtering: Dependence,
    /// How outer ports are chosen.
    pub ports: Ports,
    /// Whether two sockets of the device reach each other through their outer addresses.
    pub hairpin: bool,
    /// Whether the outer address is the device's own.
    pub translated: bool,
}

/// Answers probes on two addresses with two ports each, in one family.
#[derive(Debug)]
pub struct Responder {
    addresses: [SocketAddr; 4],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Responder {
    /// Starts on the node of a lab, on its first two addresses of that family.
    ///
    /// # Errors
    /// When the node has only one address, or a socket cannot be opened.
    pub fn start(lab: &Lab, family: Family) -> Result<Self, LabError> {
        let node = lab.node();
        let failed = |source| LabError::Namespace {
            action: "open sockets",
            space: node.name().to_owned(),
            source,
        };
        let ips: Vec<IpAddr> = family.of(node).collect();
        let [first, second] = ips[..] else {
            return Err(failed(io::Error::other("the node needs two addresses")));
        };
        let sockets = node.enter(|| bind_pairs(first, second))?.map_err(failed)?;
        let mut addresses = [SocketAddr::new(first, 0); 4];
        for (socket, address) in sockets.iter().zip(&mut addresses) {
            socket.set_read_timeout(Some(TICK)).map_err(failed)?;
            *address = socket.local_addr().map_err(failed)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let sockets = Arc::new(sockets);
        let threads = (0..addresses.len())
            .map(|index| {
                let (sockets, stop) = (Arc::clone(&sockets), Arc::clone(&stop));
                thread::spawn(move || respond(&sockets, index, &stop))
            })
            .collect();
        Ok(Self {
            addresses,
            stop,
            threads,
        })
    }

    /// Measures what is between a device and the node. `None` when no answer came at all.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn classify(&self, device: &Host) -> Result<Option<Behaviour>, LabError> {
        let failed = |source| LabError::Namespace {
            action: "probe",
            space: device.name().to_owned(),
            source,
        };
        let unspecified = self.unspecified();
        let open = || {
            device
                .enter(|| UdpSocket::bind(unspecified))?
                .map_err(failed)
        };
        // Filtering first, with a socket that has sent nowhere else.
        let socket = open()?;
        let Some(filtering) = self.filtering(&socket).map_err(failed)? else {
            return Ok(None);
        };
        let Some(mapped) = self.mapped(&socket).map_err(failed)? else {
            return Ok(None);
        };
        let second = open()?;
        let hairpin = self.hairpin(&socket, &second).map_err(failed)?;
        let inner = socket.local_addr().map_err(failed)?;
        Ok(Some(Behaviour {
            mapping: mapping(&mapped),
            filtering,
            ports: ports(inner.port(), &mapped),
            hairpin,
            translated: !device.addresses().contains(&mapped[0].ip()),
        }))
    }

    /// The outer address of a socket of a device, seen from the node's address number `from`, 0
    /// to 3: first address, its second port, then the same for the second address.
    ///
    /// # Errors
    /// What the system said.
    pub fn outer_address(&self, socket: &UdpSocket, from: usize) -> io::Result<Option<SocketAddr>> {
        for _ in 0..ATTEMPTS {
            send(socket, self.addresses[from], from)?;
            if let Some((_, mapped)) = receive(socket, ANSWER)?.first() {
                return Ok(Some(*mapped));
            }
        }
        Ok(None)
    }

    /// RFC 5780 §4.4.
    fn filtering(&self, socket: &UdpSocket) -> io::Result<Option<Dependence>> {
        if self.outer_address(socket, 0)?.is_none() {
            return Ok(None);
        }
        let mut heard = [false; 4];
        for _ in 0..ATTEMPTS {
            for answerer in [OTHER_PORT, OTHER_BOTH] {
                send(socket, self.addresses[0], answerer)?;
            }
            for (answerer, _) in receive(socket, SILENCE)? {
                heard[answerer] = true;
            }
        }
        Ok(Some(match (heard[OTHER_BOTH], heard[OTHER_PORT]) {
            (true, _) => Dependence::Endpoint,
            (false, true) => Dependence::Address,
            (false, false) => Dependence::AddressAndPort,
        }))
    }

    /// RFC 5780 §4.3: the outer address towards each of the node's addresses.
    fn mapped(&self, socket: &UdpSocket) -> io::Result<Option<[SocketAddr; 4]>> {
        let mut mapped = Vec::new();
        for index in 0..self.addresses.len() {
            let Some(address) = self.outer_address(socket, index)? else {
                return Ok(None);
            };
            mapped.push(address);
        }
        Ok(mapped.try_into().ok())
    }

    /// RFC 5780 §3.4.
    fn hairpin(&self, first: &UdpSocket, second: &UdpSocket) -> io::Result<bool> {
        let Some(target) = self.outer_address(second, 0)? else {
            return Ok(false);
        };
        for _ in 0..ATTEMPTS {
            first.send_to(&reply(0, target), target)?;
            if !receive(second, SILENCE)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn unspecified(&self) -> SocketAddr {
        let ip: IpAddr = match self.addresses[0] {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, 0)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    fn of(self, host: &Host) -> impl Iterator<Item = IpAddr> + '_ {
        host.addresses()
            .iter()
            .copied()
            .filter(move |ip| ip.is_ipv4() == (self == Self::V4))
    }
}

/// Whether two devices get packets through to each other, once each knows the other's outer
/// address: both send every 20 ms, to where packets come from as soon as one has come.
///
/// The second begins `late` after the first.
///
/// # Errors
/// When a socket cannot be opened.
pub fn punch(responder: &Responder, a: &Host, b: &Host, late: Duration) -> Result<bool, LabError> {
    let unspecified = responder.unspecified();
    let mut ends = Vec::new();
    for host in [a, b] {
        let failed = |source| LabError::Namespace {
            action: "punch",
            space: host.name().to_owned(),
            source,
        };
        let socket = host
            .enter(|| UdpSocket::bind(unspecified))?
            .map_err(failed)?;
        let Some(outer) = responder.outer_address(&socket, 0).map_err(failed)? else {
            return Ok(false);
        };
        socket.set_nonblocking(true).map_err(failed)?;
        ends.push((socket, outer));
    }
    let mut targets = [ends[1].1, ends[0].1];
    let mut heard = [false; 2];
    let start = Instant::now();
    while start.elapsed() < late + PUNCHING {
        for (index, (socket, _)) in ends.iter().enumerate() {
            if index == 1 && start.elapsed() < late {
                continue;
            }
            // Unreachable is an outcome, not an error.
            let _ = socket.send_to(
                &reply(usize::from(heard[index]), targets[index]),
                targets[index],
            );
        }
        thread::sleep(Duration::from_millis(20));
        for (index, (socket, _)) in ends.iter().enumerate() {
            let mut buffer = [0; 128];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                targets[index] = from;
                // An acknowledgement of ours says that both ways work.
                if let Some((1, _)) = buffer.get(..length).and_then(parse_reply) {
                    return Ok(true);
                }
                heard[index] = true;
            }
        }
    }
    Ok(false)
}

/// Two addresses with the same two ports.
fn bind_pairs(first: IpAddr, second: IpAddr) -> io::Result<[UdpSocket; 4]> {
    Ok([
        UdpSocket::bind((first, 0))?,
        UdpSocket::bind((first, 0))?,
        UdpSocket::bind((second, 0))?,
        UdpSocket::bind((second, 0))?,
    ])
}

fn respond(sockets: &[UdpSocket; 4], index: usize, stop: &AtomicBool) {
    let mut buffer = [0; 128];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = sockets[index].recv_from(&mut buffer) else {
            continue;
        };
        let answerer = match buffer.get(..length) {
            Some([b'?', answerer]) => usize::from(*answerer),
            _ => continue,
        };
        if let Some(socket) = sockets.get(answerer) {
            // A lost answer is asked for again.
            let _ = socket.send_to(&reply(answerer, from), from);
        }
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, answerer: usize) -> io::Result<()> {
    let answerer = u8::try_from(answerer).map_err(io::Error::other)?;
    match socket.send_to(&[b'?', answerer], to) {
        Ok(_) => Ok(()),
        // A firewall may say so at once; nobody answers then.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Who answers, and where from the probe came as the answerer saw it.
fn reply(answerer: usize, seen: SocketAddr) -> Vec<u8> {
    format!("!{answerer} {seen}").into_bytes()
}

fn parse_reply(bytes: &[u8]) -> Option<(usize, SocketAddr)> {
    let (answerer, seen) = std::str::from_utf8(bytes)
        .ok()?
        .strip_prefix('!')?
        .split_once(' ')?;
    Some((answerer.parse().ok()?, seen.parse().ok()?))
}

/// What arrives until nothing has come for `patience`, or until one answer when it is [`ANSWER`].
fn receive(socket: &UdpSocket, patience: Duration) -> io::Result<Vec<(usize, SocketAddr)>> {
    let mut replies = Vec::new();
    let mut buffer = [0; 128];
    socket.set_read_timeout(Some(patience))?;
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        replies.extend(buffer.get(..length).and_then(parse_reply));
        if patience == ANSWER {
            break;
        }
    }
    Ok(replies)
}

fn mapping(mapped: &[SocketAddr; 4]) -> Dependence {
    let [first, other_port, other_address, other_both] = mapped;
    if first != other_port || other_address != other_both {
        Dependence::AddressAndPort
    } else if first != other_address {
        Dependence::Address
    } else {
        Dependence::Endpoint
    }
}

fn ports(inner: u16, mapped: &[SocketAddr; 4]) -> Ports {
    let outer = mapped.map(|address| address.port());
    if outer.iter().all(|port| *port == inner) {
        return Ports::Preserved;
    }
    let rises = |pair: &[u16]| (1..=SEQUENTIAL_STEP_MAX).contains(&pair[1].wrapping_sub(pair[0]));
    if outer.windows(2).all(rises) {
        Ports::Sequential
    } else {
        Ports::Random
    }
}

/// Positions in [`Responder::addresses`], seen from the first.
const OTHER_PORT: usize = 1;
const OTHER_BOTH: usize = 3;
const ATTEMPTS: usize = 3;
const ANSWER: Duration = Duration::from_millis(250);
const SILENCE: Duration = Duration::from_millis(60);
const TICK: Duration = Duration::from_millis(20);
const PUNCHING: Duration = Duration::from_millis(500);
const SEQUENTIAL_STEP_MAX: u16 = 16;
