//! Measures the NAT from a socket of its own, filtering included.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::UdpSocket;
use tombolo_path::probe::{NatProbe, NatReport, ProbeConfig, ProbeEvent};

use super::{canonical, interfaces, mapped, seed};

const DATAGRAM_BYTES_MAX: usize = 2048;

/// Asks `servers` how the NAT maps and filters (RFC 5780 §4).
///
/// Uses a fresh socket, since filtering can be measured only before the device's own socket has
/// opened its filters. Takes up to a few seconds where packets are filtered.
///
/// # Errors
/// When no socket can be bound.
pub async fn measure_nat(servers: &[SocketAddr]) -> io::Result<NatReport> {
    let (socket, is_dual_stack) = super::bind_socket()?;
    let socket = UdpSocket::from_std(socket.into())?;
    let port = socket.local_addr()?.port();
    let reachable = servers
        .iter()
        .copied()
        .filter(|server| (is_dual_stack || server.is_ipv4()) && interfaces::has_route(*server))
        .collect();
    let mut config = ProbeConfig::new(reachable);
    config.filtering = true;
    config.hairpinning = true;
    config.local = interfaces::host_addresses(true)
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect();
    let mut probe = NatProbe::new(config, seed()?, Instant::now());
    let mut datagram = [0; DATAGRAM_BYTES_MAX];
    loop {
        while let Some(transmit) = probe.poll_transmit() {
            let to = if is_dual_stack {
                mapped(transmit.to)
            } else {
                transmit.to
            };
            if let Err(error) = socket.send_to(&transmit.bytes, to).await {
                tracing::debug!(%to, %error, "probe not sent");
            }
        }
        while let Some(event) = probe.poll_event() {
            if let ProbeEvent::Done(report) = event {
                return Ok(report);
            }
        }
        let Some((at, _)) = probe.poll_timeout() else {
            return Ok(probe.report().clone());
        };
        tokio::select! {
            received = socket.recv_from(&mut datagram) => {
                if let Ok((len, from)) = received {
                    probe.handle_datagram(Instant::now(), canonical(from), &datagram[..len]);
                }
            }
            () = tokio::time::sleep_until(at.into()) => probe.handle_timeout(Instant::now()),
        }
    }
}
