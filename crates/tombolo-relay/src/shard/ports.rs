//! The relay sockets of a shard, one for each relayed address.

use std::{io, net::SocketAddr};

use tombolo_turn::server::RelayAddr;

use crate::socket::UdpSocket;

/// A bound relay port.
pub(super) struct RelayPort {
    pub(super) socket: UdpSocket,
    pub(super) address: RelayAddr,
    /// The turn in which something was received last.
    pub(super) last_turn: u32,
    /// Whether it had several datagrams when it was offered room for them last.
    pub(super) has_more: bool,
    /// The batch in which it was chosen to send last, where it only sends.
    pub(super) last_batch: u32,
    /// The shortest payload that it had to cut up so far, where it only sends.
    pub(super) divided_bytes_min: usize,
}

/// All bound relay ports. One is named by its index as long as it is bound.
#[derive(Default)]
pub(super) struct RelayPorts {
    ports: Vec<Option<RelayPort>>,
    free: Vec<u32>,
    v4: ByPort,
    v6: ByPort,
}

/// Index of the relay port, by its number. A shard has one relay IP of each family.
#[derive(Default)]
struct ByPort(Vec<Option<u32>>);

impl RelayPorts {
    /// Keeps the socket of a relayed address and returns its index.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn insert(&mut self, address: RelayAddr, socket: UdpSocket) -> io::Result<u32> {
        let port = RelayPort {
            socket,
            address,
            last_turn: 0,
            has_more: false,
            last_batch: 0,
            divided_bytes_min: usize::MAX,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.ports[index as usize] = Some(port);
                index
            }
            None => {
                let index = u32::try_from(self.ports.len());
                self.ports.push(Some(port));
                index.map_err(|_| io::ErrorKind::OutOfMemory)?
            }
        };
        let by_port = self.by_port(address);
        let number = usize::from(address.0.port());
        if by_port.0.len() <= number {
            by_port.0.resize(number + 1, None);
        }
        by_port.0[number] = Some(index);
        Ok(index)
    }

    /// Closes a relay port.
    pub(super) fn release(&mut self, address: RelayAddr) {
        let Some(index) = self.index_of(address) else {
            return;
        };
        self.by_port(address).0[usize::from(address.0.port())] = None;
        self.ports[index as usize] = None;
        self.free.push(index);
    }

    pub(super) fn get(&self, index: u32) -> Option<&RelayPort> {
        self.ports.get(index as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut RelayPort> {
        self.ports.get_mut(index as usize)?.as_mut()
    }

    pub(super) fn index_of(&self, address: RelayAddr) -> Option<u32> {
        let by_port = match address.0 {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => &self.v6,
        };
        let index = (*by_port.0.get(usize::from(address.0.port()))?)?;
        self.get(index)
            .is_some_and(|port| port.address == address)
            .then_some(index)
    }

    fn by_port(&mut self, address: RelayAddr) -> &mut ByPort {
        match address.0 {
            SocketAddr::V4(_) => &mut self.v4,
            SocketAddr::V6(_) => &mut self.v6,
        }
    }
}
