//! Connections that are opened and not used.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::victim::{
    ALL_WAYS, CONNECTIONS_MAX, CONNECTIONS_PER_SOURCE, HANDSHAKES_PER_SOURCE, PATIENCE, Victim,
    attacker, connection, hangs_up, until,
};

/// Of one source, and so more than it may have.
const CONNECTIONS_OF_ONE: usize = 40;

#[tokio::test]
async fn whoever_sends_byte_after_byte_takes_its_own_seats_only_and_is_let_go() {
    let victim = Victim::start("slow").await;
    let before = victim.descriptors();
    let client_hello = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut over = 0;
    for (to, bytes, allowed) in [
        (victim.plain, &[0, 3, 0][..], CONNECTIONS_PER_SOURCE),
        (victim.plain, &client_hello, HANDSHAKES_PER_SOURCE),
        (victim.tls, &client_hello, HANDSHAKES_PER_SOURCE),
    ] {
        over += (CONNECTIONS_OF_ONE - allowed) as u64;
        let slow = open(attacker(0, 1), to, CONNECTIONS_OF_ONE, bytes);
        victim.serves(&ALL_WAYS);
        let of_others = open(attacker(0, 2), to, 1, bytes);
        slow.into_iter().chain(of_others).for_each(hangs_up);
    }
    let refused = victim.metric("tombolo_relay_connections_refused_total")
        + victim.metric("tombolo_relay_handshakes_refused_total");
    assert!(refused >= over, "{refused} connections refused");
    let timed_out = victim.metric("tombolo_relay_connections_timed_out_total")
        + victim.metric("tombolo_relay_tls_handshakes_failed_total");
    assert!(
        timed_out >= HANDSHAKES_PER_SOURCE as u64,
        "{timed_out} let go"
    );
    until("all descriptors are given back", || {
        victim.descriptors() <= before
    });
    victim.ends().await;
}

#[tokio::test]
async fn connections_of_many_are_bounded_and_keep_no_newcomer_out() {
    let victim = Victim::start("half-open").await;
    let before = victim.descriptors();
    victim.stays_flat_under(|| {
        let held: Vec<_> = (1..=40)
            .flat_map(|host| open(attacker(0, host), victim.plain, HANDSHAKES_PER_SOURCE, &[]))
            .collect();
        assert!(victim.descriptors() <= before + CONNECTIONS_MAX + 8);
        victim.serves(&ALL_WAYS);
        drop(held);
        until("all descriptors are given back", || {
            victim.descriptors() <= before
        });
    });
    for metric in ["refused", "displaced"] {
        let metric = format!("tombolo_relay_connections_{metric}_total");
        assert!(victim.metric(&metric) > 0, "{metric}");
    }
    victim.ends().await;
}

#[tokio::test]
async fn slow_questions_about_metrics_are_bounded_and_let_go() {
    let victim = Victim::start("slow-http").await;
    let before = victim.descriptors();
    let head = b"GET /metrics HTTP/1.1\r\nX: ";
    let slow = open(attacker(0, 1), victim.metrics, 200, head);
    let slow_operators: Vec<_> = std::iter::repeat_with(|| {
        let mut stream = UnixStream::connect(&victim.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(head);
        stream
    })
    .take(100)
    .collect();
    until("those over the bound are let go", || {
        victim.descriptors() <= before + 2 * 64 + 8
    });
    victim.serves(&ALL_WAYS);
    slow.into_iter().for_each(hangs_up);
    slow_operators.into_iter().for_each(hangs_up);
    let (head, _) = victim.get("/healthz").expect("there is room again");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    until("all descriptors are given back", || {
        victim.descriptors() <= before
    });
    victim.ends().await;
}

#[tokio::test]
async fn hellos_of_dtls_leave_nothing_behind_and_handshakes_are_bounded() {
    let victim = Victim::start("half-open-dtls").await;
    victim.stays_flat_under(|| {
        for network in 0..20 {
            let socket = UdpSocket::bind((attacker(network, 1), 0)).unwrap();
            for _ in 0..50 {
                let _ = socket.send_to(HELLO, victim.plain);
            }
        }
    });
    assert_eq!(victim.metric("tombolo_relay_dtls_accepted_total"), 0);
    assert!(victim.metric("tombolo_relay_dtls_challenged_total") > 0);
    // Those who bring their cookies back and say no more.
    let mut half_open = 0;
    let mut answered = Vec::new();
    for _ in 0..4 * HANDSHAKES_PER_SOURCE {
        let socket = UdpSocket::bind((attacker(99, 1), 0)).unwrap();
        socket.connect(victim.plain).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let second = second_hello(&socket);
        socket.send(&second).unwrap();
        half_open += usize::from(socket.recv(&mut [0; 2048]).is_ok());
        answered.push(socket);
    }
    assert!(
        (1..=HANDSHAKES_PER_SOURCE).contains(&half_open),
        "{half_open}"
    );
    assert!(victim.metric("tombolo_relay_handshakes_refused_total") > 0);
    victim.serves(&ALL_WAYS);
    until("the handshakes are given up", || {
        victim.metric("tombolo_relay_handshakes ") == 0
    });
    victim.ends().await;
}

fn open(from: std::net::IpAddr, to: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let connect = || {
        let mut stream = connection(from, to);
        // Those that are refused may be gone already.
        let _ = stream.write_all(bytes);
        stream
    };
    std::iter::repeat_with(connect).take(count).collect()
}

/// Sends a first hello until it is answered, and returns the second one, which brings the cookie of
/// the HelloVerifyRequest. See RFC 6347 §4.2.1.
fn second_hello(socket: &UdpSocket) -> Vec<u8> {
    let mut answer = [0; 2048];
    until("a cookie comes", || {
        socket.send(HELLO).unwrap();
        socket.recv(&mut answer).is_ok()
    });
    assert_eq!((answer[13], answer[27]), (3, 32), "a HelloVerifyRequest");
    let mut second = HELLO.to_vec();
    // There is no session, so the cookie's length is the byte behind.
    second.splice(60..=60, [&[32], &answer[28..60]].concat());
    let body = u16::try_from(second.len() - 25).unwrap();
    for (at, value) in [(9, 1), (11, body + 12), (15, body), (17, 1), (23, body)] {
        second[at..at + 2].copy_from_slice(&u16::to_be_bytes(value));
    }
    second
}

/// The first hello of OpenSSL's client for DTLS 1.2.
const HELLO: &[u8] = &[
    0x16, 0xfe, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x8c, 0x01, 0x00, 0x00,
    0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0xfe, 0xfd, 0x87, 0xa1, 0x80, 0x30, 0xd7,
    0xbc, 0xcd, 0xae, 0x9d, 0xcf, 0xe8, 0xa2, 0xb3, 0x10, 0x45, 0x18, 0xdb, 0x55, 0xe0, 0x4d, 0x5c,
    0x07, 0xa4, 0xa3, 0xf7, 0x0e, 0x44, 0x98, 0xe0, 0x83, 0x7a, 0x19, 0x00, 0x00, 0x00, 0x04, 0xc0,
    0x2b, 0x00, 0xff, 0x01, 0x00, 0x00, 0x52, 0x00, 0x0b, 0x00, 0x04, 0x03, 0x00, 0x01, 0x02, 0x00,
    0x0a, 0x00, 0x0c, 0x00, 0x0a, 0x00, 0x1d, 0x00, 0x17, 0x00, 0x1e, 0x00, 0x19, 0x00, 0x18, 0x00,
    0x23, 0x00, 0x00, 0x00, 0x16, 0x00, 0x00, 0x00, 0x17, 0x00, 0x00, 0x00, 0x0d, 0x00, 0x2a, 0x00,
    0x28, 0x04, 0x03, 0x05, 0x03, 0x06, 0x03, 0x08, 0x07, 0x08, 0x08, 0x08, 0x09, 0x08, 0x0a, 0x08,
    0x0b, 0x08, 0x04, 0x08, 0x05, 0x08, 0x06, 0x04, 0x01, 0x05, 0x01, 0x06, 0x01, 0x03, 0x03, 0x03,
    0x01, 0x03, 0x02, 0x04, 0x02, 0x05, 0x02, 0x06, 0x02,
];
