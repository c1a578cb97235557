//! The relay sockets of a shard, one for each relayed address.

use std::{collections::HashMap, io};

use tombolo_turn::server::RelayAddr;

use crate::socket::UdpSocket;

/// A bound relay port.
pub(super) struct RelayPort {
    pub(super) socket: UdpSocket,
    pub(super) address: RelayAddr,
}

/// All bound relay ports. One is named by its index as long as it is bound.
#[derive(Default)]
pub(super) struct RelayPorts {
    ports: Vec<Option<RelayPort>>,
    free: Vec<usize>,
    index_by_address: HashMap<RelayAddr, usize>,
}

impl RelayPorts {
    /// Binds the socket of a relayed address and returns its index.
    ///
    /// # Errors
    /// The kernel's: somebody else has the port, or there are no descriptors left.
    pub(super) fn bind(&mut self, address: RelayAddr) -> io::Result<usize> {
        let socket = UdpSocket::bind_exclusive(address.0)?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.ports.push(None);
            self.ports.len() - 1
        });
        self.ports[index] = Some(RelayPort { socket, address });
        self.index_by_address.insert(address, index);
        Ok(index)
    }

    /// Closes a relay port.
    pub(super) fn release(&mut self, address: RelayAddr) {
        if let Some(index) = self.index_by_address.remove(&address) {
            self.ports[index] = None;
            self.free.push(index);
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&RelayPort> {
        self.ports.get(index)?.as_ref()
    }

    pub(super) fn index_of(&self, address: RelayAddr) -> Option<usize> {
        self.index_by_address.get(&address).copied()
    }

    pub(super) fn count(&self) -> usize {
        self.index_by_address.len()
    }
}
