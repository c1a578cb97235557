//! The device's socket as QUIC sees it.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use noq::udp::{RecvMeta, Transmit};
use noq::{AsyncUdpSocket, UdpSender};

use super::Net;
use super::state::Received;

/// Datagrams read at a time, so that a flood neither holds the cores nor fills memory.
const READS_MAX: usize = 64;

/// Receives what is left for QUIC once STUN, TURN and envelopes are taken out.
#[derive(Debug)]
pub(crate) struct DeviceSocket(pub(crate) Arc<Net>);

impl AsyncUdpSocket for DeviceSocket {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        Box::pin(DeviceSender {
            net: self.0.clone(),
            writable: None,
        })
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let taken = self.0.take_inbox(cx, bufs, meta);
        if taken > 0 {
            return Poll::Ready(Ok(taken));
        }
        ready!(self.0.udp.poll_recv_ready(cx))?;
        let received = self.receive(bufs, meta);
        if received > 0 {
            return Poll::Ready(Ok(received));
        }
        // Nothing for QUIC so far: others have their turn before the next look.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // Always IPv6: virtual addresses are, and IPv4 peers are given in mapped form.
        Ok(SocketAddr::new(
            Ipv6Addr::UNSPECIFIED.into(),
            self.0.udp.local_addr()?.port(),
        ))
    }
}

impl DeviceSocket {
    /// Reads what the kernel has, as far as buffers and turns go; returns how many packets are for
    /// QUIC.
    fn receive(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut filled = 0;
        self.0.drive(|state, now| {
            for _ in 0..READS_MAX {
                if filled == bufs.len().min(meta.len()) {
                    break;
                }
                let buf = &mut bufs[filled];
                let (len, from) = match self.0.udp.try_recv_from(buf) {
                    Ok(received) => received,
                    // Connection refused and the like: reports about an earlier send.
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => continue,
                    Err(_) => break,
                };
                match state.handle_datagram(now, from, &buf[..len]) {
                    Received::Nothing => {}
                    Received::Quic { from, start, end } => {
                        buf.copy_within(start..end, 0);
                        meta[filled] = meta_of(from, end - start);
                        filled += 1;
                    }
                }
            }
        });
        filled
    }
}

/// Describes one packet of `len` bytes.
pub(super) fn meta_of(from: SocketAddr, len: usize) -> RecvMeta {
    let mut meta = RecvMeta::default();
    meta.addr = mapped(from);
    meta.len = len;
    meta.stride = len;
    meta
}

/// An address as an IPv6 socket names it.
pub(crate) fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

struct DeviceSender {
    net: Arc<Net>,
    /// Set while the kernel's send buffer is full.
    writable: Option<Writable>,
}

impl fmt::Debug for DeviceSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceSender")
    }
}

impl UdpSender for DeviceSender {
    fn poll_send(
        mut self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(writable) = &mut self.writable {
            ready!(writable.as_mut().poll(cx))?;
            self.writable = None;
        }
        let sent_all = self.net.send(transmit.destination, transmit.contents);
        if !sent_all {
            let net = self.net.clone();
            self.writable = Some(Box::pin(async move { net.udp.writable().await }));
        }
        Poll::Ready(Ok(()))
    }
}
