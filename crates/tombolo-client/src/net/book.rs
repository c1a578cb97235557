//! Which peer is at which address.

use std::collections::HashMap;
use std::net::SocketAddr;

use tombolo_path::PeerId;

/// Proven addresses of all peers together; more are not needed, and cost only memory.
const PROVEN_MAX: usize = 16 * 1024;

/// The addresses of all peers. A claim never displaces a proof, nor an earlier claim.
#[derive(Debug, Default)]
pub(super) struct Book {
    relayed: HashMap<SocketAddr, Claims>,
    /// Where a peer has answered, or was heard before anybody was: that can be forged.
    proven: HashMap<SocketAddr, PeerId>,
    /// Where a peer says that it is.
    claimed: HashMap<SocketAddr, PeerId>,
}

/// Who claims a relayed address.
#[derive(Debug, Default)]
struct Claims {
    /// In order, but for the one who has shown that it is there: that one comes first.
    peers: Vec<PeerId>,
    is_proven: bool,
}

impl Book {
    /// Whose packets come from this relayed address: that of who is proven to be there, or else those who say so, the
    /// first of them and the others.
    pub(super) fn relayed_peer(&self, address: SocketAddr, place: usize) -> Option<PeerId> {
        let claims = self.relayed.get(&address)?;
        let claimants = match claims.is_proven {
            true => claims.peers.get(..1)?,
            false => &claims.peers,
        };
        claimants.get(place).copied()
    }

    /// All who claim a relayed address, and whether the first of them is proven to be there.
    pub(super) fn claimants(&self, address: SocketAddr) -> (&[PeerId], bool) {
        let claims = self.relayed.get(&address);
        claims.map_or((&[], false), |claims| (&claims.peers, claims.is_proven))
    }

    /// Whether packets of a relayed address are surely this claimant's: nobody else says to be there, or it has shown it.
    pub(super) fn is_sure(&self, id: PeerId, address: SocketAddr) -> bool {
        let (claimants, is_proven) = self.claimants(address);
        claimants == [id] || is_proven && claimants.first() == Some(&id)
    }

    pub(super) fn claim_relayed(&mut self, id: PeerId, address: SocketAddr) {
        let claims = self.relayed.entry(address).or_default();
        if !claims.peers.contains(&id) {
            claims.peers.push(id);
        }
    }

    /// This claimant has shown that it is there, and the others are not.
    pub(super) fn prove_relayed(&mut self, id: PeerId, address: SocketAddr) {
        if let Some(claims) = self.relayed.get_mut(&address)
            && let Some(place) = claims.peers.iter().position(|claim| *claim == id)
        {
            claims.peers[..=place].rotate_right(1);
            claims.is_proven = true;
        }
    }

    /// Takes a claim back; true when nobody claims the address any more.
    pub(super) fn release_relayed(&mut self, id: PeerId, address: SocketAddr) -> bool {
        let Some(claims) = self.relayed.get_mut(&address) else {
            return true;
        };
        claims.is_proven &= claims.peers.first() != Some(&id);
        claims.peers.retain(|claim| *claim != id);
        let is_free = claims.peers.is_empty();
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

    /// A peer says, by a packet of its own from there, that it is at this address.
    pub(super) fn hear(&mut self, id: PeerId, address: SocketAddr) {
        if self.proven.len() < PROVEN_MAX {
            self.proven.entry(address).or_insert(id);
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
        book.hear(ALICE, address);
        assert_eq!(book.peer_at(address), Some(ALICE));
        book.hear(MALLORY, address);
        assert_eq!(book.peer_at(address), Some(ALICE), "anybody can forge that");
        book.prove(MALLORY, address);
        book.prove(ALICE, address);
        book.hear(MALLORY, address);
        assert_eq!(book.peer_at(address), Some(ALICE));

        book.claim_relayed(ALICE, address);
        book.claim_relayed(MALLORY, address);
        let claimants = [0, 1, 2].map(|place| book.relayed_peer(address, place));
        assert_eq!(claimants, [Some(ALICE), Some(MALLORY), None]);
        book.claim_relayed(MALLORY, address);
        assert_eq!(book.claimants(address), (&[ALICE, MALLORY][..], false));
        assert!(!book.is_sure(ALICE, address), "nobody has shown it");
        book.prove_relayed(MALLORY, address);
        assert_eq!(book.relayed_peer(address, 0), Some(MALLORY));
        book.prove_relayed(ALICE, address);
        assert_eq!(book.claimants(address), (&[ALICE, MALLORY][..], true));
        assert_eq!(book.relayed_peer(address, 1), None);
        let are_sure = [ALICE, MALLORY].map(|id| book.is_sure(id, address));
        assert_eq!(are_sure, [true, false]);
        assert!(
            !book.release_relayed(MALLORY, address),
            "alice still has it"
        );
        assert_eq!(book.relayed_peer(address, 0), Some(ALICE));
        book.claim_relayed(MALLORY, address);
        assert!(!book.release_relayed(ALICE, address));
        assert_eq!(book.claimants(address), (&[MALLORY][..], false));
        assert!(book.release_relayed(MALLORY, address));
        assert_eq!(book.relayed_peer(address, 0), None);
    }
}
