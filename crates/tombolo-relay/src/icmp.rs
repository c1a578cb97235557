//! ICMP errors about datagrams that left steered ports: no UDP socket has these, so raw ones read what
//! the kernel would have told it. See RFC 8656 §11.5.
//!
//! Whoever can send to the relay can send such packets. So they are read on the thread of the streams,
//! away from those that relay, and no more of them in a second than can be judged in a moment; the
//! core asks for a permission and bounds what a client is told.

mod quoted;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};
use tombolo_turn::server::{PeerAddr, RelayAddr};
use tracing::{debug, error, warn};

pub use self::quoted::{IcmpError, IcmpUnusable};
use crate::{
    link::{FromStream, ShardLink},
    owners::PortOwners,
    socket::IcmpSocket,
    stats::StreamCounters,
};

/// Reads ICMP errors until the streams' thread ends.
pub(crate) struct IcmpWatch {
    owners: Arc<PortOwners>,
    shards: Arc<[ShardLink]>,
    counters: Arc<StreamCounters>,
}

impl IcmpWatch {
    pub(crate) fn new(
        owners: &Arc<PortOwners>,
        shards: &Arc<[ShardLink]>,
        counters: &Arc<StreamCounters>,
    ) -> Self {
        Self {
            owners: Arc::clone(owners),
            shards: Arc::clone(shards),
            counters: Arc::clone(counters),
        }
    }

    /// Watches the relay IPs; where the machine does not permit that, clients just get no errors.
    pub(crate) fn start(self, streams: &Handle, relay_ips: &[IpAddr]) {
        let watch = Arc::new(self);
        for ip in relay_ips.iter().copied() {
            match IcmpSocket::open(ip) {
                Ok(socket) => {
                    streams.spawn(Arc::clone(&watch).serve(socket, ip.is_ipv4()));
                }
                Err(error) => warn!(%error, "cannot read ICMP errors"),
            }
        }
    }

    async fn serve(self: Arc<Self>, socket: IcmpSocket, is_v4: bool) {
        let socket = match socket.watch() {
            Ok(socket) => socket,
            Err(error) => return error!(%error, "cannot read ICMP errors"),
        };
        let mut buffer = [0; PACKET_BYTES_MAX];
        let mut left = ERRORS_PER_SECOND;
        let mut second_ends = Instant::now() + SECOND;
        loop {
            let Ok(mut ready) = socket.readable().await else {
                return;
            };
            let Ok(result) = ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) else {
                continue;
            };
            self.handle(result, &buffer, is_v4);
            let now = Instant::now();
            if now >= second_ends {
                (left, second_ends) = (ERRORS_PER_SECOND, now + SECOND);
            }
            left -= 1;
            if left == 0 {
                // What comes in the meantime fills the socket's small buffer, and is lost.
                sleep_until(second_ends).await;
                (left, second_ends) = (ERRORS_PER_SECOND, Instant::now() + SECOND);
            }
        }
    }

    fn handle(&self, received: io::Result<usize>, buffer: &[u8], is_v4: bool) {
        let Some(packet) = received.ok().and_then(|len| buffer.get(..len)) else {
            return;
        };
        let parsed = match is_v4 {
            true => IcmpError::parse_v4(packet),
            false => IcmpError::parse_v6(packet),
        };
        let unusable = match parsed {
            Ok(error) => match self.owners.owner(error.from) {
                Some(owner) => return self.tell(usize::from(owner.0), error),
                None => IcmpUnusable::NotOurs,
            },
            Err(unusable) => unusable,
        };
        debug!(reason = %unusable, "ICMP error dropped");
        self.counters.icmp_dropped.add(1);
    }

    fn tell(&self, shard: usize, IcmpError { from, to, error }: IcmpError) {
        let error = FromStream::PeerError(RelayAddr(from), PeerAddr(to), error);
        let told = self.shards.get(shard).map(|shard| shard.pass_on(error));
        if !matches!(told, Some(Ok(()))) {
            self.counters.icmp_dropped.add(1);
        }
    }
}

/// ICMP errors of one family that are looked at in a second; each costs some microseconds.
const ERRORS_PER_SECOND: u32 = 2000;
const SECOND: Duration = Duration::from_secs(1);
/// As much of a packet as matters: an ICMP error quotes a datagram's beginning at its own beginning. It
/// is not cut, though: its checksum covers all of it, and no router makes one longer (RFC 1812 §4.3.2.3).
const PACKET_BYTES_MAX: usize = 2048;
