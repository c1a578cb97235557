//! What `tombolo peer` tells: names and fields as `docs/cli.md` gives them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Serialize, Serializer};
use tombolo_client::{LinkState, LinkStatus, UserId, Verdict, Via};
use tombolo_path::{Filtering, Mapping};

use crate::output::ms;

/// One line of output.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Session {
        node: String,
        transport: &'static str,
    },
    Nat {
        mapping: &'static str,
        filtering: &'static str,
        public: Vec<SocketAddr>,
    },
    Joined {
        room: String,
        /// By which others may join.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        members: Vec<String>,
    },
    Left {
        user: String,
        reason: String,
    },
    Peer {
        user: String,
        #[serde(serialize_with = "write_state")]
        state: LinkState,
        local: Option<SocketAddr>,
        remote: Option<SocketAddr>,
        rtt_ms: Option<f64>,
    },
    Recv {
        user: String,
        lane: &'static str,
        /// `None` when another program sent it, as the time.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        bytes: usize,
        #[serde(serialize_with = "write_via")]
        via: Via,
        #[serde(skip_serializing_if = "Option::is_none")]
        one_way_ms: Option<f64>,
        /// What another program sent, if it is text.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    Why {
        user: String,
        #[serde(serialize_with = "write_verdict")]
        verdict: Verdict,
        detail: String,
    },
    Said {
        number: u64,
        /// `None` for a server.
        from: Option<String>,
        text: String,
    },
    Room {
        what: &'static str,
        by: Option<String>,
        about: String,
        detail: serde_json::Value,
    },
    Summary {
        peers: BTreeMap<String, Summary>,
    },
}

impl Event {
    /// What is told of a link.
    pub(crate) fn of_link(user: &UserId, status: &LinkStatus) -> Self {
        Self::Peer {
            user: user.to_string(),
            state: status.state,
            local: status.local,
            remote: status.remote,
            rtt_ms: status.rtt.map(ms),
        }
    }
}

/// What became of the messages between this device and one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) first_byte_ms: Option<f64>,
    pub(crate) direct_ms: Option<f64>,
    pub(crate) longest_gap_ms: Option<f64>,
    pub(crate) rtt_ms: Quantiles,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// The event's word for a state.
pub(crate) fn state_word(state: LinkState) -> &'static str {
    match state {
        LinkState::Connecting => "connecting",
        LinkState::Relayed => "relayed",
        LinkState::Direct => "direct",
        LinkState::Lost => "lost",
    }
}

/// The event's word for a way.
pub(crate) fn via_word(via: Via) -> &'static str {
    match via {
        Via::Relay => "relay",
        Via::Direct => "direct",
    }
}

/// The event's word for a mapping behaviour.
pub(crate) fn mapping_word(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::NoNat => "no-nat",
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::AddressDependent => "address-dependent",
        Mapping::AddressAndPortDependent => "address-and-port-dependent",
        Mapping::Dependent => "dependent",
        Mapping::PortIndependent => "port-independent",
        Mapping::Unknown => "unknown",
    }
}

/// The event's word for a filtering behaviour.
pub(crate) fn filtering_word(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint-independent",
        Filtering::AddressDependent => "address-dependent",
        Filtering::AddressAndPortDependent => "address-and-port-dependent",
        Filtering::Unknown => "unknown",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn write_state<S: Serializer>(value: &LinkState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state_word(*value))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn write_via<S: Serializer>(value: &Via, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(via_word(*value))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn write_verdict<S: Serializer>(value: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(event: &Event) -> String {
        serde_json::to_string(event).unwrap()
    }

    #[test]
    fn events_have_the_documented_names() {
        let event = Event::Session {
            node: "n".into(),
            transport: "quic",
        };
        assert_eq!(
            json(&event),
            r#"{"event":"session","node":"n","transport":"quic"}"#
        );
        let event = Event::Peer {
            user: "bob".into(),
            state: LinkState::Direct,
            local: None,
            remote: Some("192.0.2.1:5".parse().unwrap()),
            rtt_ms: Some(1.5),
        };
        assert_eq!(
            json(&event),
            r#"{"event":"peer","user":"bob","state":"direct","local":null,"remote":"192.0.2.1:5","rtt_ms":1.5}"#
        );
        let event = Event::Summary {
            peers: [("bob".into(), Summary::default())].into(),
        };
        assert_eq!(
            json(&event),
            r#"{"event":"summary","peers":{"bob":{"sent":0,"received":0,"lost":0,"duplicated":0,"reordered":0,"first_byte_ms":null,"direct_ms":null,"longest_gap_ms":null,"rtt_ms":{"p50":null,"p99":null}}}}"#
        );
    }
}
