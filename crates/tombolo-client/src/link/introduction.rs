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
    pub(crate) candidates: Vec<Candidate>,
    pub(super) early: Bytes,
    pub(crate) update: bool,
    pub(super) nat: Option<NatBehaviour>,
}

impl Introduction {
    /// Reads an introduction; `None` when it breaks the contract.
    pub(crate) fn parse(message: v1::Introduction) -> Option<Self> {
        if message.attempt == 0 || message.early.len() > EARLY_BYTES_MAX {
            return None;
        }
        let keys = PublicKeys::try_from(message.keys.as_ref()).ok()?;
        let candidates = message.candidates.iter().take(tombolo_wire::CANDIDATES_MAX);
        Some(Self {
            attempt: message.attempt,
            answers: message.answers,
            keys,
            credentials: Credentials {
                ufrag: message.ufrag,
                password: message.password,
            },
            candidates: candidates.filter_map(parse_candidate).collect(),
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
