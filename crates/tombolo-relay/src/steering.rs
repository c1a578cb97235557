//! Steering: an eBPF program hands the packets of all relay ports of a shard to one socket.
//!
//! The program is `bpf/steer.bpf.c`. It is attached to the network namespace as long as [`Steering`]
//! lives, and the kernel detaches it when the process ends, however it does.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::IpAddr,
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixDatagram},
    },
    sync::Arc,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapError, SockMap},
    programs::{ProgramError, SkLookup},
};
use thiserror::Error;

use crate::{
    owners::PortOwners,
    socket::{RawSocket, SharedNumbers, UdpSocket},
};

/// Why relay ports cannot be steered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SteeringError {
    /// Whole packets cannot be sent.
    #[error("no raw sockets: grant CAP_NET_RAW")]
    RawSocket(#[source] io::Error),
    /// A socket for steered packets cannot be opened.
    #[error("no socket for steered packets")]
    Socket(#[source] io::Error),
    /// The kernel does not load the program.
    #[error(
        "the kernel does not load the eBPF program: grant CAP_BPF and CAP_NET_ADMIN, on Linux 5.9 or \
         later"
    )]
    Load(#[source] Box<EbpfError>),
    /// The kernel does not attach the program.
    #[error(
        "the eBPF program cannot be attached: grant CAP_BPF and CAP_NET_ADMIN, on Linux 5.9 or later"
    )]
    Attach(#[source] Box<ProgramError>),
    /// The program's tables cannot be filled.
    #[error("the tables of the eBPF program cannot be used")]
    Table(#[source] Box<MapError>),
    /// The program's memory cannot be shared, or its object is not what was built.
    #[error("the memory of the eBPF program cannot be shared")]
    Memory(#[source] io::Error),
    /// Another relay steers the same IP.
    #[error("another relay steers {0}")]
    InUse(IpAddr),
}

/// The program, attached. Dropping it detaches it.
pub(crate) struct Steering {
    /// Closes programs, tables and links when it is dropped.
    _ebpf: Ebpf,
    /// Names that only one relay in the network namespace can have.
    _claims: Vec<UnixDatagram>,
}

/// What steering gives to one shard: sockets for IPv4 and IPv6, as far as there are relay IPs.
pub(crate) struct SteeredSockets(pub(crate) [Option<SteeredSocket>; 2]);

/// What all relay ports of one shard and family receive and send with.
pub(crate) struct SteeredSocket {
    pub(crate) receive: UdpSocket,
    pub(crate) send: RawSocket,
}

impl Steering {
    /// Opens sockets for each shard and steers the relay ports on `ips` to them.
    ///
    /// # Errors
    /// Says what the machine does not have or permit.
    pub(crate) fn start(
        ips: &[IpAddr],
        shards: usize,
    ) -> Result<(Self, Arc<PortOwners>, Vec<SteeredSockets>), SteeringError> {
        let claims = ips.iter().copied().map(claim).collect::<Result<_, _>>()?;
        let sockets = (0..shards).map(|_| SteeredSockets::open(ips));
        let sockets: Vec<SteeredSockets> = sockets.collect::<Result<_, _>>()?;
        let mut ebpf = load(ips)?;
        let missing = || SteeringError::Memory(io::ErrorKind::NotFound.into());
        let Some(Map::Array(owners)) = ebpf.take_map("owners") else {
            return Err(missing());
        };
        let numbers = SharedNumbers::map(owners.fd().as_fd(), PortOwners::NUMBERS);
        let numbers = numbers.map_err(SteeringError::Memory)?;
        let owners = PortOwners::shared(ips, numbers, bound_ports());
        let map = ebpf.map_mut("sockets").ok_or_else(missing)?;
        let mut table = SockMap::try_from(map).map_err(table_error)?;
        for (key, socket) in (0..).zip(sockets.iter().flat_map(|sockets| &sockets.0)) {
            if let Some(socket) = socket {
                table.set(key, &socket.receive, 0).map_err(table_error)?;
            }
        }
        attach(&mut ebpf)?;
        let steering = Self {
            _ebpf: ebpf,
            _claims: claims,
        };
        Ok((steering, Arc::new(owners), sockets))
    }
}

impl SteeredSockets {
    fn open(ips: &[IpAddr]) -> Result<Self, SteeringError> {
        let open = |ip: IpAddr| {
            Ok(SteeredSocket {
                receive: UdpSocket::bind_steered(ip).map_err(SteeringError::Socket)?,
                send: RawSocket::open(ip.is_ipv4()).map_err(SteeringError::RawSocket)?,
            })
        };
        let of = |is_v4: bool| ips.iter().copied().find(|ip| ip.is_ipv4() == is_v4);
        Ok(Self([
            of(true).map(open).transpose()?,
            of(false).map(open).transpose()?,
        ]))
    }
}

/// Makes sure that no two relays steer one IP: nothing else keeps them from taking the same port, as
/// steered ports are not bound.
fn claim(ip: IpAddr) -> Result<UnixDatagram, SteeringError> {
    let name = format!("tombolo-relay/steers/{ip}");
    let address = UnixAddr::from_abstract_name(name).map_err(SteeringError::Socket)?;
    UnixDatagram::bind_addr(&address).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            SteeringError::InUse(ip)
        } else {
            SteeringError::Socket(error)
        }
    })
}

fn load(ips: &[IpAddr]) -> Result<Ebpf, SteeringError> {
    let (mut v4, mut v6) = ([0; 1], [0; 4]);
    for ip in ips {
        match ip {
            IpAddr::V4(ip) => v4 = [u32::from_ne_bytes(ip.octets())],
            IpAddr::V6(ip) => {
                let octets = ip.octets();
                for (word, bytes) in v6.iter_mut().zip(octets.as_chunks().0) {
                    *word = u32::from_ne_bytes(*bytes);
                }
            }
        }
    }
    EbpfLoader::new()
        .override_global("relay_ip4", &v4[..], true)
        .override_global("relay_ip6", &v6[..], true)
        .load(OBJECT)
        .map_err(|error| SteeringError::Load(Box::new(error)))
}

fn attach(ebpf: &mut Ebpf) -> Result<(), SteeringError> {
    let error = |error| SteeringError::Attach(Box::new(error));
    let program = ebpf.program_mut("steer");
    let program = program.ok_or_else(|| SteeringError::Memory(io::ErrorKind::NotFound.into()))?;
    let program: &mut SkLookup = program.try_into().map_err(error)?;
    program.load().map_err(error)?;
    let namespace = File::open("/proc/thread-self/ns/net").map_err(SteeringError::Socket)?;
    program.attach(namespace).map_err(error)?;
    Ok(())
}

fn table_error(error: MapError) -> SteeringError {
    SteeringError::Table(Box::new(error))
}

/// Ports of this machine that UDP sockets of other programs are bound to, on whatever IP. They must
/// not be steered away from them.
fn bound_ports() -> BTreeSet<u16> {
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let tables = tables.map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| ports_of(table)).collect()
}

/// The local ports in one of the kernel's tables of sockets: hexadecimal, behind the IP in the second
/// column.
fn ports_of(table: &str) -> impl Iterator<Item = u16> {
    let local = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    table.lines().skip(1).filter_map(local)
}

/// What `cargo xtask bpf` makes of `steer.bpf.c`.
const OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/steer.bpf.o");

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as StdSocket;

    use super::*;

    #[test]
    fn ports_that_others_have_are_found() {
        for ip in ["127.0.0.1", "::1"] {
            let Ok(socket) = StdSocket::bind((ip, 0)) else {
                continue;
            };
            let port = socket.local_addr().expect("it is bound").port();
            assert!(bound_ports().contains(&port), "{ip}");
        }
    }
}
