//! How far nodes are.
//!
//! A QUIC server answers a first packet of a version that it does not know with those that it knows, at once and without
//! remembering anything (RFC 9000, section 6.1). So a round trip to the very port that devices connect to costs it
//! next to nothing: no connection, no key.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tombolo_wire::ServerUrl;

use super::connection::resolve;

/// Distances are looked for within this time, as nobody waits for them: many devices may have come at once.
const WITHIN: Duration = Duration::from_secs(8);
/// A node is asked so often, and the shortest time counts: a radio may have to wake up first.
const PROBES: usize = 2;
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// Servers need not answer shorter ones (RFC 9000, section 14.1).
const PROBE_BYTES: usize = 1200;
/// One of the versions that nobody will ever speak (RFC 9000, section 15).
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];
const ID_BYTES: usize = 8;
/// Form, version, and two ids behind their lengths.
const HEADER_BYTES: usize = 1 + 4 + 2 * (1 + ID_BYTES);

/// A node, and how long a round trip to it takes; `None` if it does not answer.
pub(super) type Distance = (ServerUrl, Option<Duration>);

/// Measures how far each is, some time soon.
pub(super) async fn measure(urls: Vec<ServerUrl>) -> Vec<Distance> {
    tokio::time::sleep(WITHIN.mul_f64(random())).await;
    measure_now(urls).await
}

/// From 0 to 1.
pub(super) fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

/// Measures how far each is.
pub(super) async fn measure_now(urls: Vec<ServerUrl>) -> Vec<Distance> {
    let mut measuring: JoinSet<_> = urls
        .into_iter()
        .map(|url| async {
            let addresses = resolve(&url).await.unwrap_or_default();
            (url, shortest(addresses).await)
        })
        .collect();
    let mut measured = Vec::new();
    while let Some(one) = measuring.join_next().await {
        measured.extend(one);
    }
    measured
}

/// The round trip to the first address that answers.
async fn shortest(addresses: Vec<SocketAddr>) -> Option<Duration> {
    for address in addresses {
        if address.ip().is_loopback() {
            return Some(Duration::ZERO);
        }
        if let Ok(Some(round_trip)) = round_trip(address, ANSWER_TIME).await {
            return Some(round_trip);
        }
    }
    None
}

/// The shortest of some round trips; `None` without an answer.
async fn round_trip(to: SocketAddr, answer_time: Duration) -> io::Result<Option<Duration>> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    let mut shortest = None;
    for _ in 0..PROBES {
        let asked = Instant::now();
        if let Ok(answer) = timeout(answer_time, ask(&socket)).await {
            answer?;
            let took = asked.elapsed();
            shortest = Some(shortest.map_or(took, |shortest| took.min(shortest)));
        }
    }
    Ok(shortest)
}

/// Asks once, and waits for the answer to that question.
async fn ask(socket: &UdpSocket) -> io::Result<()> {
    let mut ids = [0; 2 * ID_BYTES];
    getrandom::fill(&mut ids).map_err(io::Error::other)?;
    let (to, from) = ids.split_at(ID_BYTES);
    let mut probe = [0; PROBE_BYTES];
    probe[..HEADER_BYTES].copy_from_slice(&header(NO_VERSION, to, from));
    socket.send(&probe).await?;
    let expected = header([0; 4], from, to);
    let mut answer = [0; PROBE_BYTES];
    loop {
        let length = socket.recv(&mut answer).await?;
        // Of the first byte only the highest bit means something.
        if length > HEADER_BYTES && answer[0] >= 0x80 && answer[1..HEADER_BYTES] == expected[1..] {
            return Ok(());
        }
    }
}

/// What all versions of QUIC begin a long header with (RFC 8999, section 5.1).
fn header(version: [u8; 4], to: &[u8], from: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = 0xc0;
    header[1..5].copy_from_slice(&version);
    header[5] = ID_BYTES as u8;
    header[6..6 + ID_BYTES].copy_from_slice(to);
    header[6 + ID_BYTES] = ID_BYTES as u8;
    header[7 + ID_BYTES..].copy_from_slice(from);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than anything takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_node_answers() {
        let node = tombolo_node::Node::builder()
            .dev()
            .listen([127, 0, 0, 1].into())
            .port(0)
            .turn_port(0)
            .turns_port(0);
        let node = node.start().await.unwrap();
        let addresses = resolve(&node.ready().url).await.unwrap();
        let answered = round_trip(addresses[0], PATIENCE).await.unwrap();
        assert!(answered.is_some());
    }

    #[tokio::test]
    async fn who_answers_another_question_has_not_answered() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut probe = [0; 2 * PROBE_BYTES];
            let (length, from) = socket.recv_from(&mut probe).await.unwrap();
            assert_eq!(length, PROBE_BYTES);
            assert_eq!(probe[1..5], NO_VERSION);
            let (to, id) = (&probe[6..14], &probe[15..23]);
            for header in [header([0; 4], to, id), header(NO_VERSION, id, to)] {
                let answer = [&header[..], &[0, 0, 0, 1]].concat();
                socket.send_to(&answer, from).await.unwrap();
            }
            socket
        });
        let wait = Duration::from_millis(200);
        assert_eq!(round_trip(address, wait).await.unwrap(), None);
        drop(answering.await.unwrap());
    }
}
