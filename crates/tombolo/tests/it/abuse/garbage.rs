//! Bytes that make no sense.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tombolo_stun::Method;

use super::raw::{Noise, Raw, udp};
use super::victim::{ALL_WAYS, PASSWORD, Victim, attacker, connection, hangs_up};

#[tokio::test]
async fn garbage_in_datagrams_changes_nothing() {
    let victim = Victim::start("garbage-udp").await;
    let mut noise = Noise::new(1);
    victim.stays_flat_under(|| {
        for network in 0..16 {
            let socket = UdpSocket::bind((attacker(network, 1), 0)).unwrap();
            for _ in 0..500 {
                let datagram = disguised(&mut noise);
                let _ = socket.send_to(&datagram, victim.plain);
            }
        }
    });
    victim.serves(&ALL_WAYS);
    assert!(victim.refused("not stun") > 0);
    assert!(victim.refused("malformed") > 0);
    assert!(victim.metric("tombolo_relay_dtls_dropped_total") > 0);
    assert_eq!(victim.metric("tombolo_turn_allocations{"), 0);
    victim.ends().await;
}

#[tokio::test]
async fn garbage_in_streams_closes_them_and_changes_nothing_else() {
    let victim = Victim::start("garbage-tcp").await;
    let mut noise = Noise::new(2);
    let tls = connector(&victim);
    let before = victim.descriptors();
    victim.stays_flat_under(|| {
        for host in 1..=16 {
            for to in [victim.plain, victim.tls, victim.metrics] {
                let mut stream = connection(attacker(0, host), to);
                // The server may hang up before it has all of it.
                let _ = stream.write_all(&disguised(&mut noise));
                let _ = stream.shutdown(Shutdown::Write);
                hangs_up(stream);
            }
            let mut stream = tls(attacker(1, host), victim.tls);
            let _ = stream.write_all(&disguised(&mut noise));
            stream.conn.send_close_notify();
            let _ = stream.flush();
            let _ = stream.sock.shutdown(Shutdown::Write);
            hangs_up(stream);
            let mut stream = UnixStream::connect(&victim.admin).unwrap();
            let _ = stream.write_all(&disguised(&mut noise));
            let _ = stream.shutdown(Shutdown::Write);
            hangs_up(stream);
        }
    });
    victim.serves(&ALL_WAYS);
    assert!(victim.metric("tombolo_relay_connections_malformed_total") > 0);
    assert!(victim.metric("tombolo_relay_tls_handshakes_failed_total") > 0);
    super::victim::until("all descriptors are given back", || {
        victim.descriptors() <= before
    });
    victim.ends().await;
}

#[tokio::test]
async fn messages_that_are_too_long_or_cut_short_change_nothing() {
    let victim = Victim::start("lengths").await;
    victim.stays_flat_under(|| {
        let mut raw = Raw::new(attacker(0, 1), victim.plain, PASSWORD);
        raw.is_challenged();
        let whole = raw.request(Method::ALLOCATE, &udp);
        for length in 0..whole.len() {
            raw.send(&whole[..length]);
            // One whose header speaks of more than there is, or less.
            let mut lying = whole.clone();
            lying[2..4].copy_from_slice(&u16::try_from(length * 4).unwrap().to_be_bytes());
            if length * 4 + 20 != whole.len() {
                raw.send(&lying);
            }
        }
        for length in [1500, 9000, 65_507] {
            let mut long = whole.clone();
            long.resize(length, 0);
            raw.send(&long);
        }
        for to in [victim.plain, victim.tls] {
            // A frame of 65,552 bytes of which 1,000 come; one of ChannelData; one cut short.
            for (head, length) in [
                (&[0, 3, 0xff, 0xfc, 0x21, 0x12, 0xa4, 0x42][..], 1000),
                (&[0x40, 0, 0xff, 0xff], 1000),
                (&whole[..30], 30),
            ] {
                let mut stream = connection(attacker(0, 2), to);
                let mut bytes = head.to_vec();
                bytes.resize(length, 0);
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Write);
                hangs_up(stream);
            }
        }
    });
    victim.serves(&ALL_WAYS);
    assert!(victim.refused("malformed") > 0);
    assert_eq!(
        victim.metric("tombolo_turn_allocations_created_total"),
        ALL_WAYS.len() as u64
    );
    victim.ends().await;
}

/// Noise that begins as STUN, ChannelData, TLS, DTLS or HTTP do, or as nothing does.
fn disguised(noise: &mut Noise) -> Vec<u8> {
    let length = noise.next() as usize % 1400;
    let mut bytes = noise.bytes(length);
    let head: &[u8] = match noise.next() % 8 {
        0 => &[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42],
        1 => &[0, 3, 0, 64, 0x21, 0x12, 0xa4, 0x42],
        2 => &[0x40, 0x01, 0, 16],
        3 => &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3],
        4 => &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99, 1, 0, 0, 87],
        5 => b"GET / HTTP/1.1\r\nHost",
        6 => b"PROXY TCP4 1.2.3.4 ",
        _ => &[],
    };
    bytes.splice(..0, head.iter().copied());
    bytes
}

type TlsStream = StreamOwned<ClientConnection, std::net::TcpStream>;

/// Makes TLS connections as attackers.
fn connector(victim: &Victim) -> impl Fn(std::net::IpAddr, SocketAddr) -> TlsStream + use<> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(&victim.certificate).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    move |from, to| {
        let client = ClientConnection::new(Arc::clone(&config), to.ip().into()).unwrap();
        StreamOwned::new(client, connection(from, to))
    }
}
