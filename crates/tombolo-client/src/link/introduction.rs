//! Introductions: what a peer must know to reach this device, and to recognise it.

use std::net::SocketAddr;

use bytes::Bytes;
use tombolo_path::{Candidate, CandidateKind, Credentials, NatBehaviour};
use tombolo_wire::v1;
use tombolo_wire::{EARLY_BYTES_MAX, PublicKeys};

use super::nat;

/// A peer's introduction, checked.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) attempt: u64,
    pub(crate) answers: u64,
    pub(crate) keys: PublicKeys,
    pub(super) credentials: Credentials,
    /// One of them relayed, at most: a peer is at one relay.
    pub(crate) candidates: Vec<Candidate>,
    pub(super) early: Bytes,
    pub(crate) update: bool,
    pub(super) nat: Option<NatBehaviour>,
}

impl Introduction {
    /// Whether it begins a link, as far as its sender knows.
    pub(crate) fn is_begun(&self) -> bool {
        self.answers == 0 && !self.update
    }

    /// The application has had what it says first.
    pub(crate) fn forget_early(&mut self) {
        self.early = Bytes::new();
    }

    /// Reads an introduction; `None` when it breaks the contract.
    pub(crate) fn parse(message: v1::Introduction) -> Option<Self> {
        if message.attempt == 0 || message.early.len() > EARLY_BYTES_MAX {
            return None;
        }
        let keys = PublicKeys::try_from(message.keys.as_ref()).ok()?;
        let candidates = message.candidates.iter().take(tombolo_wire::CANDIDATES_MAX);
        let mut candidates: Vec<_> = candidates.filter_map(parse_candidate).collect();
        let is_relayed = |candidate: &Candidate| candidate.kind == CandidateKind::Relayed;
        let relayed = candidates.iter().rfind(|last| is_relayed(last)).copied();
        candidates.retain(|candidate| !is_relayed(candidate));
        candidates.extend(relayed);
        Some(Self {
            attempt: message.attempt,
            answers: message.answers,
            keys,
            credentials: Credentials {
                ufrag: message.ufrag,
                password: message.password,
            },
            candidates,
            early: message.early,
            update: message.update,
            nat: message.nat.as_ref().map(nat::from_wire),
        })
    }
}

fn parse_candidate(candidate: &v1::Candidate) -> Option<Candidate> {
    let kind = match candidate.kind() {
        v1::CandidateKind::Host => CandidateKind::Host,
        v1::CandidateKind::ServerReflexive => CandidateKind::ServerReflexive,
        v1::CandidateKind::Relayed => CandidateKind::Relayed,
        v1::CandidateKind::Unspecified => return None,
    };
    let address = SocketAddr::try_from(candidate.address.as_ref()?).ok()?;
    Some(Candidate {
        kind,
        address,
        priority: candidate.priority,
    })
}

pub(super) fn write_candidate(candidate: &Candidate) -> Option<v1::Candidate> {
    let kind = match candidate.kind {
        CandidateKind::Host => v1::CandidateKind::Host,
        CandidateKind::ServerReflexive => v1::CandidateKind::ServerReflexive,
        CandidateKind::Relayed => v1::CandidateKind::Relayed,
        CandidateKind::PeerReflexive => return None,
    };
    Some(v1::Candidate {
        kind: kind.into(),
        address: Some(v1::Address::from(candidate.address)),
        priority: candidate.priority,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;

    #[test]
    fn of_relayed_addresses_the_last_one_counts() {
        let candidate = |kind, port| {
            let address = SocketAddr::from(([192, 0, 2, 1], port));
            Candidate::new(kind, address)
        };
        let host = candidate(CandidateKind::Host, 1);
        let relayed = (2..30).map(|port| candidate(CandidateKind::Relayed, port));
        let all: Vec<_> = relayed.chain([host]).collect();
        let message = v1::Introduction {
            attempt: 1,
            keys: Some((&Keys::generate().unwrap().public()).into()),
            candidates: all.iter().filter_map(write_candidate).collect(),
            ..v1::Introduction::default()
        };
        let introduction = Introduction::parse(message).unwrap();
        let last = candidate(CandidateKind::Relayed, 29);
        assert_eq!(introduction.candidates, [host, last]);
    }
}
