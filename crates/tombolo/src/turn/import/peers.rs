//! Whom clients may reach, from lines in coturn's terms.

use super::super::file::{Network, Peers};
use super::range;

/// What the lines say of peers.
#[derive(Default)]
pub(super) struct PeerRules {
    allow: Vec<Network>,
    deny: Vec<Network>,
    pub(super) has_loopback: bool,
}

impl PeerRules {
    pub(super) fn allow(&mut self, value: &str) -> Result<(), String> {
        self.allow.extend(range::networks(value)?);
        Ok(())
    }

    pub(super) fn deny(&mut self, value: &str) -> Result<(), String> {
        self.deny.extend(range::networks(value)?);
        Ok(())
    }

    /// In coturn what is allowed is so although it is denied; here the longest prefix counts.
    pub(super) fn finish(&self, notes: &mut Vec<String>) -> Peers {
        let mut peers = self.allowed(notes);
        for denied in &self.deny {
            if holds(&peers.deny, *denied) {
                continue;
            }
            if holds(&peers.allow, *denied) {
                notes.push(format!(
                    "denied-peer-ip {denied} has no effect: it is inside of what is allowed"
                ));
            } else {
                peers.deny.push(*denied);
            }
        }
        if self.has_loopback {
            add_loopback(&mut peers, notes);
        }
        notes.push(
            "private and special addresses are refused as peers unless `peers.allow` lists them; \
             coturn relays to private ones"
                .to_owned(),
        );
        peers
    }

    /// What is allowed, but for what coturn refuses before it looks at its lists.
    fn allowed(&self, notes: &mut Vec<String>) -> Peers {
        let loopback = networks(LOOPBACK).filter(|_| !self.has_loopback);
        let barred: Vec<Network> = networks(BARRED).chain(loopback).collect();
        let mut peers = Peers::default();
        for allowed in &self.allow {
            if holds(&barred, *allowed) {
                notes.push(format!(
                    "allowed-peer-ip {allowed} is left out: such an address is refused unless `peers.allow` \
                     lists it"
                ));
            } else {
                peers.allow.push(*allowed);
            }
        }
        peers.deny = barred;
        peers.deny.retain(|barred| holds(&peers.allow, *barred));
        peers
    }
}

/// It lifts no other denial.
fn add_loopback(peers: &mut Peers, notes: &mut Vec<String>) {
    for loopback in networks(LOOPBACK) {
        if holds(&peers.allow, loopback) {
            continue;
        }
        if holds(&peers.deny, loopback) {
            notes.push(format!(
                "allow-loopback-peers has no effect for {loopback}: it is inside of what is denied"
            ));
        } else {
            peers.allow.push(loopback);
        }
    }
}

/// Whether one of the networks has all of another one.
fn holds(networks: &[Network], other: Network) -> bool {
    let mut networks = networks.iter();
    networks.any(|network| network.0.contains_all(other.0))
}

fn networks(texts: &'static [&str]) -> impl Iterator<Item = Network> {
    texts.iter().filter_map(|text| text.parse().ok())
}

const LOOPBACK: &[&str] = &["127.0.0.0/8", "::1/128"];
/// This host, link-local, unique local, site-local, and multicast, which coturn leaves out only with
/// `no-multicast-peers`.
const BARRED: &[&str] = &[
    "0.0.0.0/8",
    "::/128",
    "169.254.0.0/16",
    "fe80::/10",
    "fc00::/7",
    "fec0::/10",
    "224.0.0.0/3",
    "ff00::/8",
];
