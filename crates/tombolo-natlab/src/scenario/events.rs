//! The JSON lines of `tombolo serve --json` and `tombolo peer --json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of a device.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Line {
    /// Unix time, seconds.
    pub t: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Line {
    /// Reads a line; `None` when it is not one.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

/// What happened on a device.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// It has a session with a node.
    Session {
        /// The node's id.
        #[serde(default)]
        node: Value,
        /// How it is connected, such as `quic`.
        #[serde(default)]
        transport: Value,
    },
    /// It knows what NAT it is behind.
    Nat {
        /// Mapping behaviour.
        #[serde(default)]
        mapping: Value,
        /// Filtering behaviour.
        #[serde(default)]
        filtering: Value,
        /// Public addresses.
        #[serde(default)]
        public: Value,
    },
    /// It has joined a room.
    Joined {
        /// The room.
        #[serde(default)]
        room: Value,
        /// Who else is there.
        #[serde(default)]
        members: Value,
    },
    /// A member has left.
    Left {
        /// Who.
        user: String,
        /// Why.
        #[serde(default)]
        reason: Value,
    },
    /// The link to another device has changed.
    Peer {
        /// The other.
        user: String,
        /// What it is now.
        state: PeerState,
        /// The own address in use.
        #[serde(default)]
        local: Value,
        /// The other's address in use.
        #[serde(default)]
        remote: Value,
        /// Round-trip time, milliseconds.
        #[serde(default)]
        rtt_ms: Option<f64>,
    },
    /// A message has arrived.
    Recv {
        /// From whom.
        user: String,
        /// On which lane.
        #[serde(default)]
        lane: Value,
        /// Its number.
        seq: u64,
        /// Its size.
        #[serde(default)]
        bytes: u64,
        /// Which way it came.
        #[serde(default)]
        via: Option<Via>,
        /// How long it took, by the clocks of both, milliseconds.
        #[serde(default)]
        one_way_ms: Option<f64>,
    },
    /// Why the link is as it is.
    Why {
        /// To whom.
        user: String,
        /// In a word.
        #[serde(default)]
        verdict: Value,
        /// In full.
        #[serde(default)]
        detail: Value,
    },
    /// What has come of it all, by other device.
    Summary {
        /// By user id.
        peers: BTreeMap<String, PeerSummary>,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

/// What the link to another device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Not yet usable.
    Connecting,
    /// Through the relay.
    Relayed,
    /// Direct.
    Direct,
    /// Gone.
    Lost,
}

/// Which way a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Through the relay.
    Relay,
    /// Directly.
    Direct,
}

/// What has come of the link to one other device.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct PeerSummary {
    /// Messages sent.
    pub sent: u64,
    /// Messages received, each counted once.
    pub received: u64,
    /// Messages that never came.
    #[serde(default)]
    pub lost: u64,
    /// Messages that came again.
    #[serde(default)]
    pub duplicated: u64,
    /// Messages that came after a later one.
    #[serde(default)]
    pub reordered: u64,
    /// From `connect()` to the first application byte.
    #[serde(default)]
    pub first_byte_ms: Option<f64>,
    /// From the introduction to the direct path; `None` if there never was one.
    #[serde(default)]
    pub direct_ms: Option<f64>,
    /// The longest pause in what was received.
    #[serde(default)]
    pub longest_gap_ms: Option<f64>,
    /// Round-trip times.
    #[serde(default)]
    pub rtt_ms: Option<Percentiles>,
}

/// Percentiles of times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Percentiles {
    /// The median; `None` without measurements.
    pub p50: Option<f64>,
    /// The 99th percentile; `None` without measurements.
    pub p99: Option<f64>,
}

/// The first line of a node.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Ready {
    /// All that `--server` needs.
    pub url: String,
    /// STUN addresses.
    #[serde(default)]
    pub stun: Value,
    /// TURN addresses.
    #[serde(default)]
    pub turn: Value,
    /// The HTTP API's address.
    #[serde(default)]
    pub http: Value,
}

impl Ready {
    /// Reads the line; `None` when it is another.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// The URL with another of the node's addresses in it.
    pub fn url_at(&self, ip: std::net::IpAddr) -> Option<String> {
        let (scheme, rest) = self.url.split_once("://")?;
        let (authority, query) = match rest.split_once(['/', '?']) {
            Some((authority, _)) => (authority, &rest[authority.len()..]),
            None => (rest, ""),
        };
        let (_, port) = authority.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        Some(format!(
            "{scheme}://{}{query}",
            std::net::SocketAddr::new(ip, port)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Event {
        Line::parse(line).expect("a line").event
    }

    #[test]
    fn every_line_of_a_device_is_read() {
        for (line, expected) in [
            (
                r#"{"t":1.5,"event":"session","node":"n1","transport":"quic"}"#,
                "Session",
            ),
            (
                r#"{"t":1.5,"event":"nat","mapping":"endpoint-independent","filtering":null,"public":["203.0.113.2:4000"]}"#,
                "Nat",
            ),
            (
                r#"{"t":1.5,"event":"joined","room":"r","members":["alice","bob"]}"#,
                "Joined",
            ),
            (
                r#"{"t":1.5,"event":"left","user":"bob","reason":"left"}"#,
                "Left",
            ),
            (
                r#"{"t":1.5,"event":"why","user":"bob","verdict":"direct","detail":"…"}"#,
                "Why",
            ),
            (r#"{"t":1.5,"event":"news","from":"later"}"#, "Other"),
        ] {
            let read = format!("{:?}", event(line));
            assert!(read.starts_with(expected), "{line}: {read}");
        }
    }

    #[test]
    fn a_peer_line_tells_the_state() {
        let line = r#"{"t":1790000000.25,"event":"peer","user":"bob","state":"relayed","local":null,"remote":"192.0.2.10:49160","rtt_ms":51.2}"#;
        let Event::Peer {
            user,
            state,
            rtt_ms,
            ..
        } = event(line)
        else {
            panic!("a peer line")
        };
        assert_eq!(
            (user.as_str(), state, rtt_ms),
            ("bob", PeerState::Relayed, Some(51.2))
        );
    }

    #[test]
    fn a_received_message_tells_its_way() {
        let line = r#"{"t":1.0,"event":"recv","user":"bob","lane":"reliable","seq":7,"bytes":64,"via":"direct","one_way_ms":0.4}"#;
        let Event::Recv { seq, via, .. } = event(line) else {
            panic!("a recv line")
        };
        assert_eq!((seq, via), (7, Some(Via::Direct)));
    }

    #[test]
    fn a_summary_may_lack_a_direct_path() {
        let line = r#"{"t":1.0,"event":"summary","peers":{"bob":{"sent":50,"received":50,"lost":0,"duplicated":0,"reordered":0,"first_byte_ms":12.5,"direct_ms":null,"longest_gap_ms":31.0,"rtt_ms":{"p50":1.0,"p99":2.5}}}}"#;
        let Event::Summary { peers } = event(line) else {
            panic!("a summary")
        };
        let bob = &peers["bob"];
        assert_eq!((bob.received, bob.direct_ms), (50, None));
        assert_eq!(bob.rtt_ms.and_then(|rtt| rtt.p99), Some(2.5));
    }

    #[test]
    fn what_is_no_json_object_with_a_time_is_no_line() {
        for line in [
            "",
            "hello",
            "{}",
            r#"{"event":"nat"}"#,
            r#"{"t":"x","event":"nat"}"#,
        ] {
            assert_eq!(Line::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_nodes_url_is_told_at_any_of_its_addresses() {
        let line = r#"{"t":1.0,"event":"ready","url":"tombolo://192.0.2.10:8443?pin=abc","stun":[],"turn":[],"http":"x"}"#;
        let ready = Ready::parse(line).expect("ready");
        let v6 = "2001:db8:ffff::10".parse().expect("an address");
        assert_eq!(
            ready.url_at(v6).as_deref(),
            Some("tombolo://[2001:db8:ffff::10]:8443?pin=abc")
        );
        let ready = Ready {
            url: "tombolo://[2001:db8::1]:1".to_owned(),
            ..ready
        };
        let v4 = "192.0.2.11".parse().expect("an address");
        assert_eq!(ready.url_at(v4).as_deref(), Some("tombolo://192.0.2.11:1"));
    }
}
