//! DTLS, with the clients of the library that the relay uses; `tombolo`'s tests have those of others.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use dimpl::{Config, Dtls, DtlsCertificate, Output};
use tombolo_relay::{Relay, RelayConfig};
use tombolo_turn::client as turn;
use tombolo_turn::server::Transport;

use crate::device::{certificate, relay_config, relay_with_tls, unless_late, v4};

#[test]
fn a_client_of_each_version_gets_its_answer_over_ipv4_and_ipv6() {
    for ip in [v4(), Ipv6Addr::LOCALHOST.into()] {
        let relay = relay_at(ip);
        for version in [Dtls::new_12, Dtls::new_13, Dtls::new_auto] {
            let mut client = Client::new(version, relay.addrs().turn[0]);
            client.connect();
            let answer = client.ask(&BINDING);
            assert_eq!(answer[..2], [1, 1], "a success");
            assert_eq!(answer[8..20], BINDING[8..20], "of this transaction");
        }
        let stats = relay.stats().streams;
        assert_eq!((stats.dtls_challenged, stats.dtls_accepted), (3, 3));
    }
}

#[test]
fn dtls_is_served_where_tls_alone_is_too_unless_it_is_off() {
    let with = |dtls| {
        let (relay, _) = relay_with_tls(RelayConfig {
            dtls,
            ..relay_config(v4())
        });
        relay
    };
    let relay = with(true);
    let mut client = Client::new(Dtls::new_12, relay.addrs().turns[0]);
    client.connect();
    assert_eq!(client.ask(&BINDING)[..2], [1, 1], "a success");

    let relay = with(false);
    let plain = relay.addrs().turn[0];
    let mut client = Client::new(Dtls::new_12, plain);
    let hello = client.next_packet();
    client.socket.send_to(&hello, plain).expect("it is there");
    client.socket.send_to(&BINDING, plain).expect("it is there");
    let mut answer = [0; 512];
    let length = client.socket.recv(&mut answer).expect("it answers");
    assert_eq!(answer[..length][..2], [1, 1], "to what is not DTLS");
    assert_eq!(relay.stats().streams.dtls_challenged, 0);
}

#[test]
fn a_certificate_that_is_replaced_is_that_of_the_next_associations() {
    let (certificates, _) = certificate();
    let config = RelayConfig {
        tls: Some(certificates.clone()),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let shown = |version| {
        let mut client = Client::new(version, relay.addrs().turn[0]);
        let certificate = client.connect();
        (client, certificate)
    };
    for version in [Dtls::new_12, Dtls::new_13] {
        let (mut before, first) = shown(version);
        assert!(!first.is_empty());
        assert_eq!(shown(version).1, first);
        certificates.replace(&certificate().0);
        assert_ne!(shown(version).1, first);
        assert_eq!(before.ask(&BINDING)[..2], [1, 1], "it goes on");
    }
}

#[test]
fn a_client_that_lost_its_keys_begins_anew_from_the_same_port() {
    let relay = relay();
    let mut client = Client::new(Dtls::new_12, relay.addrs().turn[0]);
    client.connect();
    client.ask(&BINDING);
    let mut again = client.begin_anew(Dtls::new_13);
    assert_eq!(again.ask(&BINDING)[..2], [1, 1]);
    assert_eq!(relay.stats().streams.dtls_accepted, 2);
}

/// A client that begins anew has shown again that the address is its own. What it had before ends, and
/// whatever the first association still does is nothing to the second one.
#[test]
fn an_association_displaces_the_one_before_it_from_the_same_address_with_all_that_it_had() {
    let relay = relay();
    let mut client = Client::new(Dtls::new_12, relay.addrs().turn[0]);
    client.connect();
    let first = client.allocate();
    assert_eq!(relay.stats().shards[0].turn.allocations, 1);

    // Records of an association that is over: what its client would send next, and its farewell.
    client
        .dtls
        .send_application_data(&BINDING)
        .expect("there are keys");
    let mut late = client.packets();
    client.dtls.close().expect("it is open");
    late.extend(client.packets());
    assert!(late.len() >= 2, "{}", late.len());

    let mut again = client.begin_anew(Dtls::new_12);
    let second = again.allocate();
    assert_ne!(first, second, "the port before rests");
    for record in late {
        again
            .socket
            .send_to(&record, again.server)
            .expect("it is there");
    }
    assert_eq!(again.ask(&BINDING)[..2], [1, 1], "it goes on");
    let stats = relay.stats();
    let turn = &stats.shards[0].turn;
    assert_eq!((turn.allocations, turn.allocations_created), (1, 2));
    let streams = stats.streams;
    assert_eq!((streams.dtls_accepted, streams.open), (2, 1));
}

/// GHSA-5x2p-4vqj-f6m4: state for whoever sends a hello.
#[test]
fn dtls_keeps_nothing_of_an_address_that_has_not_brought_a_cookie_back() {
    let relay = relay();
    for _ in 0..50 {
        let mut client = Client::new(Dtls::new_auto, relay.addrs().turn[0]);
        let hello = client.next_packet();
        client
            .socket
            .send_to(&hello, client.server)
            .expect("it is there");
        let reply = client.receive();
        assert!(reply.len() <= hello.len(), "no amplifier");
    }
    let stats = relay.stats().streams;
    assert_eq!(
        (stats.dtls_challenged, stats.dtls_accepted, stats.open),
        (50, 0, 0)
    );
}

#[test]
fn a_cookie_is_good_for_its_own_address_alone() {
    let relay = relay();
    for version in [Dtls::new_12, Dtls::new_13] {
        let mut client = Client::new(version, relay.addrs().turn[0]);
        let hello = client.next_packet();
        client
            .socket
            .send_to(&hello, client.server)
            .expect("it is there");
        let challenge = client.receive();
        client
            .dtls
            .handle_packet(&challenge)
            .expect("it is a challenge");
        let with_cookie = client.next_packet();
        let thief = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        thief
            .send_to(&with_cookie, client.server)
            .expect("it is there");
        // The owner is served, and so whatever the thief sent has been looked at.
        client
            .socket
            .send_to(&with_cookie, client.server)
            .expect("it is there");
        client.receive();
        thief.set_nonblocking(true).expect("it can be");
        assert!(
            thief.recv(&mut [0; 2000]).is_err(),
            "the thief is not answered"
        );
    }
    let stats = relay.stats().streams;
    assert_eq!((stats.dtls_failed, stats.dtls_accepted), (2, 2));
}

#[test]
fn what_is_no_hello_is_dropped_and_counted() {
    let relay = relay();
    let mut client = Client::new(Dtls::new_12, relay.addrs().turn[0]);
    let hello = client.next_packet();
    let mut sent = 0;
    for len in 1..hello.len() {
        client
            .socket
            .send_to(&hello[..len], client.server)
            .expect("it is there");
        sent += 1;
    }
    for first in 20..64 {
        client
            .socket
            .send_to(&[first; 100], client.server)
            .expect("it is there");
        sent += 1;
    }
    Client::new(Dtls::new_12, client.server).connect();
    assert_eq!(relay.stats().streams.dtls_dropped, sent);
}

/// Whoever speaks 1.0 only would try for a long time.
#[test]
fn a_client_of_a_version_that_is_too_old_is_told() {
    let relay = relay();
    let mut client = Client::new(Dtls::new_12, relay.addrs().turn[0]);
    let mut hello = client.next_packet();
    hello[25..27].copy_from_slice(&[0xfe, 0xff]);
    let patience = Some(Duration::from_secs(10));
    client
        .socket
        .set_read_timeout(patience)
        .expect("it is not zero");
    client
        .socket
        .send_to(&hello, client.server)
        .expect("it is there");
    let mut answer = [0; 64];
    let (length, _) = client.socket.recv_from(&mut answer).expect("it is told");
    assert_eq!(length, 15);
    assert_eq!((answer[0], &answer[13..15]), (21, &[2, 70][..]), "an alert");
    let streams = relay.stats().streams;
    assert_eq!((streams.dtls_outdated, streams.dtls_challenged), (1, 0));
}

#[test]
fn a_datagram_of_a_peer_that_no_record_holds_is_lost_and_its_association_is_not() {
    let relay = relay();
    let mut client = Client::new(Dtls::new_12, relay.addrs().turn[0]);
    client.connect();
    let (mut device, relayed) = client.device();
    let peer = UdpSocket::bind("127.0.0.2:0").expect("loopback is there");
    let address = peer.local_addr().expect("it is bound");
    device.connect_peer(Instant::now(), address);
    client.exchange(&mut device);
    let bound = std::iter::from_fn(|| device.poll_event()).last();
    assert_eq!(bound, Some(turn::Event::ChannelBound(address)));

    // More than a record may hold, and more than any datagram of DTLS has room for.
    for len in [16_384, 20_000, 65_000] {
        peer.send_to(&vec![7; len], relayed)
            .expect("loopback takes it");
    }
    peer.send_to(b"short", relayed).expect("loopback takes it");
    let frame = client.next_data();
    let received = device.handle_datagram(Instant::now(), &frame);
    let range = received.expect("it is data").range;
    assert_eq!(&frame[range], b"short");
    let stats = relay.stats();
    assert_eq!(stats.streams.dtls_dropped, 3);
    assert_eq!(stats.shards[0].turn.allocations, 1);
}

#[test]
fn the_hello_of_an_association_that_comes_once_more_changes_nothing() {
    for version in [Dtls::new_12, Dtls::new_13] {
        let relay = relay();
        let mut client = Client::new(version, relay.addrs().turn[0]);
        let with_cookie = client.second_hello();
        client.send(&with_cookie);
        client.connect();
        client.allocate();
        client.send(&with_cookie);
        assert_eq!(client.ask(&BINDING)[..2], [1, 1], "it goes on");
        let stats = relay.stats();
        assert_eq!(stats.streams.dtls_accepted, 1);
        assert_eq!(stats.shards[0].turn.allocations, 1);
    }
}

#[test]
fn a_source_that_has_all_its_handshakes_uses_up_none_of_those_of_all() {
    let (certificates, _) = certificate();
    let relay = Relay::bind(RelayConfig {
        tls: Some(certificates),
        shards: Some(1),
        handshakes_per_source_max: 1,
        ..relay_config(v4())
    })
    .expect("there are free ports");
    let server = relay.addrs().turn[0];
    let mut clients = [(); 2].map(|()| Client::new(Dtls::new_12, server));
    let [first, second] = &mut clients;
    let hello = first.second_hello();
    first.send(&hello);
    first.receive();
    let hello = second.second_hello();
    let handled = || {
        let streams = relay.stats().streams;
        streams.handshakes_refused + streams.dtls_dropped
    };
    // More than are begun in a second for all, and never more at once than may wait.
    for sent in (50..=1500).step_by(50) {
        for _ in 0..50 {
            second.send(&hello);
        }
        let start = Instant::now();
        while handled() < sent {
            assert!(start.elapsed() < Duration::from_secs(20), "one was lost");
        }
    }
    Client::of("127.9.0.1", Dtls::new_12, server).connect();
    assert_eq!(relay.stats().streams.dtls_accepted, 2);
}

/// Each costs the server a signature, and the seat of one that has failed is free again.
#[test]
fn a_source_whose_handshakes_fail_at_once_leaves_some_for_others() {
    let (certificates, _) = certificate();
    let relay = Relay::bind(RelayConfig {
        tls: Some(certificates),
        shards: Some(1),
        handshakes_per_second_max: 10,
        ..relay_config(v4())
    })
    .expect("there are free ports");
    let server = relay.addrs().turn[0];
    let mut client = Client::new(Dtls::new_12, server);
    let hello = client.second_hello();
    let start = Instant::now();
    while relay.stats().streams.handshakes_refused == 0 {
        client.send(&hello);
        client.send(&FATAL_ALERT);
        assert!(start.elapsed() < Duration::from_secs(20), "all are begun");
    }
    Client::of("127.9.0.1", Dtls::new_12, server).connect();
}

/// `handshake_failure` in a record that is not encrypted. See RFC 5246 §7.2.
const FATAL_ALERT: [u8; 15] = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];

/// What came after it from the same port was given to the dead task.
#[test]
fn a_client_whose_handshake_panics_may_begin_again_from_the_same_port() {
    let (certificates, _) = certificate();
    let relay = Relay::bind(RelayConfig {
        tls: Some(certificates),
        shards: Some(1),
        // No clock goes so far: the task panics as it reckons with it.
        first_frame_timeout: Duration::MAX,
        ..relay_config(v4())
    })
    .expect("there are free ports");
    let mut client = Client::new(Dtls::new_12, relay.addrs().turn[0]);
    let hello = client.second_hello();
    for accepted in 1..=3 {
        let start = Instant::now();
        while relay.stats().streams.dtls_accepted < accepted {
            assert!(start.elapsed() < Duration::from_secs(20), "it is deaf");
            client.send(&hello);
        }
    }
}

fn relay() -> Relay {
    relay_at(v4())
}

fn relay_at(ip: IpAddr) -> Relay {
    let (certificates, _) = certificate();
    Relay::bind(RelayConfig {
        tls: Some(certificates),
        // So that what is sent first is looked at first.
        shards: Some(1),
        ..relay_config(ip)
    })
    .expect("there are free ports")
}

pub(crate) type Version = fn(Arc<Config>, DtlsCertificate, Instant) -> Dtls;

fn new(version: Version) -> Dtls {
    let made = rcgen::generate_simple_self_signed(["client".to_owned()]).expect("it is valid");
    let certificate = DtlsCertificate {
        certificate: made.cert.der().to_vec(),
        private_key: made.signing_key.serialize_der(),
    };
    let mut dtls = version(Arc::new(Config::default()), certificate, Instant::now());
    dtls.set_active(true);
    dtls.handle_timeout(Instant::now()).expect("it begins");
    dtls
}

pub(crate) struct Client {
    dtls: Dtls,
    socket: UdpSocket,
    server: SocketAddr,
}

impl Client {
    pub(crate) fn new(version: Version, server: SocketAddr) -> Self {
        Self::of(&server.ip().to_string(), version, server)
    }

    /// One with an IP of its own.
    fn of(ip: &str, version: Version, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("loopback is there");
        let client = Self {
            dtls: new(version),
            socket,
            server,
        };
        client.set_patience(Duration::from_secs(20));
        client
    }

    /// How long it waits for a datagram.
    pub(crate) fn set_patience(&self, time: Duration) {
        let is_set = self.socket.set_read_timeout(Some(time));
        is_set.expect("it is not zero");
    }

    /// Returns the certificate that the server has shown.
    pub(crate) fn connect(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut is_connected = |output: &Output<'_>| {
            if let Output::PeerCert(certificate) = output {
                shown = certificate.to_vec();
            }
            matches!(output, Output::Connected)
        };
        while !self.drain(&mut is_connected) {
            let datagram = self.receive();
            self.dtls.handle_packet(&datagram).expect("it is good");
        }
        shown
    }

    /// Connects again from the same address, as one that has lost its keys.
    pub(crate) fn begin_anew(self, version: Version) -> Self {
        let mut again = Self {
            dtls: new(version),
            ..self
        };
        again.set_patience(Duration::from_secs(20));
        again.connect();
        again
    }

    /// Exchanges a cookie; returns the hello that brings it back, which is not sent yet.
    fn second_hello(&mut self) -> Vec<u8> {
        let hello = self.next_packet();
        self.send(&hello);
        let challenge = self.receive();
        self.dtls
            .handle_packet(&challenge)
            .expect("it is a challenge");
        self.next_packet()
    }

    fn send(&self, datagram: &[u8]) {
        self.socket
            .send_to(datagram, self.server)
            .expect("it is there");
    }

    /// Sends a message and returns the answer.
    pub(crate) fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        self.send_data(message);
        self.next_data()
    }

    pub(crate) fn send_data(&mut self, message: &[u8]) {
        let is_sent = self.dtls.send_application_data(message);
        is_sent.expect("there are keys");
        self.drain(|_| false);
    }

    /// Waits for what the server has to say.
    fn next_data(&mut self) -> Vec<u8> {
        loop {
            let datagram = self.receive();
            if let Some(data) = self.data_of(&datagram) {
                return data;
            }
        }
    }

    /// What the server has to say, if it comes soon.
    pub(crate) fn data_soon(&mut self) -> Option<Vec<u8>> {
        let mut datagram = [0; 4096];
        let len = unless_late(self.socket.recv(&mut datagram))?;
        self.data_of(&datagram[..len])
    }

    fn data_of(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        self.dtls.handle_packet(datagram).expect("it is good");
        let mut data = None;
        self.drain(|output| {
            if let Output::ApplicationData(bytes) = output {
                data = Some(bytes.to_vec());
            }
            false
        });
        data
    }

    /// Sends what is to be sent; whether any output was the wanted one.
    fn drain(&mut self, mut wanted: impl FnMut(&Output<'_>) -> bool) -> bool {
        let mut buffer = [0; 4096];
        let mut is_found = false;
        loop {
            let output = self.dtls.poll_output(&mut buffer);
            is_found |= wanted(&output);
            match output {
                Output::Packet(packet) => {
                    self.socket
                        .send_to(packet, self.server)
                        .expect("it is there");
                }
                Output::Timeout(_) => return is_found,
                Output::BufferTooSmall { .. }
                | Output::Connected
                | Output::PeerCert(_)
                | Output::KeyingMaterial(..)
                | Output::ApplicationData(_)
                | Output::CloseNotify
                | _ => {}
            }
        }
    }

    /// Makes an allocation and returns its relayed address.
    fn allocate(&mut self) -> SocketAddr {
        self.device().1
    }

    /// Makes an allocation and returns who keeps it, and its relayed address.
    fn device(&mut self) -> (turn::Client, SocketAddr) {
        let config = turn::Config {
            server: self.server,
            transport: Transport::Dtls,
            username: "alice".to_owned(),
            password: "alice's password".to_owned(),
            family: turn::Family::V4,
            lifetime: Duration::ZERO,
            patience: turn::Patience::default(),
        };
        let mut device = turn::Client::new(config, [1; 32], Instant::now());
        self.exchange(&mut device);
        match device.poll_event() {
            Some(turn::Event::Allocated { relayed, .. }) => (device, relayed),
            event => panic!("there is no allocation: {event:?}"),
        }
    }

    /// Asks what the device has to ask.
    fn exchange(&mut self, device: &mut turn::Client) {
        while let Some(request) = device.poll_transmit() {
            let answer = self.ask(&request);
            device.handle_datagram(Instant::now(), &answer);
        }
    }

    /// Takes what is to be sent.
    fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 4096];
        let mut packets = Vec::new();
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => packets.push(packet.to_vec()),
                Output::Timeout(_) => return packets,
                Output::BufferTooSmall { .. }
                | Output::Connected
                | Output::PeerCert(_)
                | Output::KeyingMaterial(..)
                | Output::ApplicationData(_)
                | Output::CloseNotify
                | _ => {}
            }
        }
    }

    fn next_packet(&mut self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => return packet.to_vec(),
                Output::Timeout(_) => panic!("there is nothing to send"),
                Output::BufferTooSmall { .. }
                | Output::Connected
                | Output::PeerCert(_)
                | Output::KeyingMaterial(..)
                | Output::ApplicationData(_)
                | Output::CloseNotify
                | _ => {}
            }
        }
    }

    fn receive(&self) -> Vec<u8> {
        let mut datagram = [0; 4096];
        let len = self.socket.recv(&mut datagram).expect("it comes");
        datagram[..len].to_vec()
    }
}

/// A Binding request (RFC 8489 §5) with nothing in it.
pub(crate) const BINDING: [u8; 20] = [
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];
