//! Which peer is at which address.

use std::collections::HashMap;
use std::net::SocketAddr;

use tombolo_path::PeerId;

/// Proven addresses of all peers together; more are not needed, and cost only memory.
const PROVEN_MAX: usize = 16 * 1024;

/// The addresses of all peers. A claim never displaces a proof, nor an earlier claim.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Who claims a relayed address, in order. Nothing proves that it is theirs.
    relayed: HashMap<SocketAddr, Vec<PeerId>>,
    /// Where a peer has answered.
    proven: HashMap<SocketAddr, PeerId>,
    /// Where a peer says that it is.
    claimed: HashMap<SocketAddr, PeerId>,
}

impl Book {
    /// Whose packets come from this relayed address, as they say: the first one that did, or the next.
    pub(super) fn relayed_peer(&self, address: SocketAddr, place: usize) -> Option<PeerId> {
        self.relayed.get(&address)?.get(place).copied()
    }

    pub(super) fn claim_relayed(&mut self, id: PeerId, address: SocketAddr) {
        self.relayed.entry(address).or_default().push(id);
    }

    /// All who claim a relayed address.
    pub(super) fn claimants(&self, address: SocketAddr) -> &[PeerId] {
        self.relayed.get(&address).map_or(&[], Vec::as_slice)
    }

    /// This claimant has shown that it is there: it comes before the others.
    pub(super) fn prove_relayed(&mut self, id: PeerId, address: SocketAddr) {
        if let Some(claims) = self.relayed.get_mut(&address)
            && let Some(place) = claims.iter().position(|claim| *claim == id)
        {
            claims[..=place].rotate_right(1);
        }
    }

    /// Takes a claim back; true when nobody claims the address any more.
    pub(super) fn release_relayed(&mut self, id: PeerId, address: SocketAddr) -> bool {
        let Some(claims) = self.relayed.get_mut(&address) else {
            return true;
        };
        claims.retain(|claim| *claim != id);
        let is_free = claims.is_empty();
        if is_free {
            self.relayed.remove(&address);
        }
        is_free
    }

    /// Who is at this address, by proof or else by claim.
    pub(super) fn peer_at(&self, address: SocketAddr) -> Option<PeerId> {
        let proven = self.proven.get(&address);
        proven.or_else(|| self.claimed.get(&address)).copied()
    }

    pub(super) fn claim(&mut self, id: PeerId, address: SocketAddr) {
        self.claimed.entry(address).or_insert(id);
    }

    pub(super) fn prove(&mut self, id: PeerId, address: SocketAddr) {
        if self.proven.len() < PROVEN_MAX {
            self.proven.insert(address, id);
        }
    }

    /// Forgets where a peer is, its relayed address aside.
    pub(super) fn forget(&mut self, id: PeerId) {
        self.proven.retain(|_, peer| *peer != id);
        self.claimed.retain(|_, peer| *peer != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: PeerId = PeerId(1);
    const MALLORY: PeerId = PeerId(2);

    #[test]
    fn nobody_takes_an_address_by_claiming_it() {
        let address = "192.0.2.1:5".parse().unwrap();
        let mut book = Book::default();
        book.claim(MALLORY, address);
        assert_eq!(book.peer_at(address), Some(MALLORY), "nobody else says so");
        book.prove(ALICE, address);
        assert_eq!(book.peer_at(address), Some(ALICE));

        book.claim_relayed(ALICE, address);
        book.claim_relayed(MALLORY, address);
        let claimants = [0, 1, 2].map(|place| book.relayed_peer(address, place));
        assert_eq!(claimants, [Some(ALICE), Some(MALLORY), None]);
        book.prove_relayed(MALLORY, address);
        assert_eq!(book.claimants(address), [MALLORY, ALICE]);
        book.prove_relayed(ALICE, address);
        assert_eq!(book.claimants(address), [ALICE, MALLORY]);
        assert!(
            !book.release_relayed(MALLORY, address),
            "alice still has it"
        );
        assert_eq!(book.relayed_peer(address, 0), Some(ALICE));
        assert!(book.release_relayed(ALICE, address));
        assert_eq!(book.relayed_peer(address, 0), None);
    }
}
