//! What a relay has counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tombolo_turn::server::{self, ShardIndex};

use crate::socket::Sent;

/// What a relay has done since its start. Gauges say so.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RelayStats {
    /// One entry for each shard that has told in time.
    pub shards: Vec<ShardStats>,
    /// How many shards have not.
    pub silent_shards: usize,
    /// TURN over TCP and TLS.
    pub streams: StreamStats,
    /// Questions about users.
    pub hook: HookStats,
    /// When the certificate expires, in time since 1970; `None` where there is none.
    pub certificate_expires: Option<Duration>,
}

/// What one shard has done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ShardStats {
    /// Which one it is.
    pub shard: ShardIndex,
    /// What the protocol core counts.
    pub turn: server::Stats,
    /// What the sockets count.
    pub io: IoStats,
    /// What all clients have now, as the limits count it (gauges).
    pub usage: server::Usage,
    /// The same by the realm of the users, as far as somebody has something.
    pub usage_by_realm: BTreeMap<String, server::Usage>,
}

/// What a shard's sockets have moved and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoStats {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Of these, datagrams that left together with others in one message.
    pub sent_in_trains: u64,
    /// Datagrams dropped because a socket's send buffer was full.
    pub congested: u64,
    /// Datagrams that the kernel refused to send because they are too long for their way.
    pub too_long: u64,
    /// Datagrams that the kernel refused to send for other reasons: no route, forbidden.
    pub unsendable: u64,
    /// Errors of receiving.
    pub receive_errors: u64,
    /// Packets between two allocations of the relay, handed over in memory.
    pub handed_over: u64,
    /// Packets to allocations of other shards, dropped because these have too much to do; and to
    /// relayed addresses that nobody has.
    pub handed_over_dropped: u64,
    /// Packets of clients whose allocation is on another shard, given to that one.
    pub passed_on: u64,
    /// Such packets that the other shard had no room for.
    pub passed_on_dropped: u64,
    /// Stream connections that were closed since some of these were requests, which nobody repeats.
    pub passed_on_closed: u64,
    /// Frames from stream connections.
    pub stream_frames: u64,
    /// Frames dropped because their stream's client reads too slowly.
    pub stream_frames_dropped: u64,
    /// Packets and replies that were lost for other reasons: the client's connection has just ended, no
    /// socket has the address, or the packet is too long for its way or does not say where it came to.
    pub lost: u64,
    /// Relay ports bound now (a gauge).
    pub relay_ports: u64,
    /// Relay ports that could not be bound.
    pub relay_port_errors: u64,
}

impl IoStats {
    pub(crate) fn count(&mut self, sent: Sent) {
        self.sent += sent.sent;
        self.congested += sent.congested;
        self.sent_in_trains += sent.in_trains;
        self.too_long += sent.too_long;
        self.unsendable += sent.refused;
    }
}

/// What the fronts for TCP and TLS have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Tries to accept one that failed: there are no descriptors left, most likely.
    pub accept_failed: u64,
    /// Connections open now (a gauge).
    pub open: u64,
    /// Connections closed at once because there were too many, in all or from their source.
    pub refused: u64,
    /// Connections without an allocation that were closed for newcomers, since their networks had the
    /// most.
    pub displaced: u64,
    /// Connections closed because a trusted proxy did not say whose they are.
    pub proxy_malformed: u64,
    /// Connections closed because whom nobody trusts said whose they are.
    pub proxy_untrusted: u64,
    /// Connections closed because TLS alone is served over TCP, and they began without it.
    pub plain_tcp_refused: u64,
    /// Datagrams dropped because DTLS alone is served over UDP, and they were none of it.
    pub plain_udp_refused: u64,
    /// TLS and DTLS handshakes under way (a gauge).
    pub handshakes: u64,
    /// Handshakes not begun because there were too many, at once or in a second, in all or with their
    /// source.
    pub handshakes_refused: u64,
    /// TLS and DTLS handshakes that were given up for newcomers, since their networks had the most.
    pub handshakes_displaced: u64,
    /// TLS handshakes that failed.
    pub tls_failed: u64,
    /// First hellos of DTLS clients that were answered with a cookie.
    pub dtls_challenged: u64,
    /// Hellos of clients that speak DTLS 1.0 only, which were told so.
    pub dtls_outdated: u64,
    /// DTLS associations begun: their clients brought the cookie back.
    pub dtls_accepted: u64,
    /// DTLS handshakes that failed, cookies that were wrong, and associations that broke.
    pub dtls_failed: u64,
    /// Datagrams of DTLS that were dropped: from strangers, more than may wait, or longer than may be.
    pub dtls_dropped: u64,
    /// Datagrams of DTLS that were dropped because a socket's send buffer was full.
    pub dtls_congested: u64,
    /// Datagrams of DTLS that could not be sent for other reasons: no route, forbidden, too long, or no socket
    /// has the address.
    pub dtls_unsendable: u64,
    /// ICMP errors that were dropped: malformed, not about a relayed address, or too many.
    pub icmp_dropped: u64,
    /// Connections closed because no frame came in time.
    pub timed_out: u64,
    /// Connections closed because their client stopped reading.
    pub slow_readers: u64,
    /// Connections closed because their bytes are not TURN.
    pub malformed: u64,
    /// Connections joined with one to a peer. See RFC 6062.
    pub joined: u64,
}

impl StreamStats {
    /// Iterates over the reasons for which connections, handshakes and what came before them were
    /// refused, with how often each applied.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("too many connections", self.refused),
            ("connection closed for a newcomer", self.displaced),
            ("proxy does not say who the client is", self.proxy_malformed),
            ("proxy header of whom nobody trusts", self.proxy_untrusted),
            ("tcp without tls", self.plain_tcp_refused),
            ("udp without dtls", self.plain_udp_refused),
            ("too many handshakes", self.handshakes_refused),
            (
                "handshake given up for a newcomer",
                self.handshakes_displaced,
            ),
            ("tls handshake failed", self.tls_failed),
            ("dtls version too old", self.dtls_outdated),
            ("dtls handshake failed", self.dtls_failed),
            ("dtls of a stranger, or too much", self.dtls_dropped),
            (
                "icmp error not about a relayed address, or too many",
                self.icmp_dropped,
            ),
            (
                "connection without a frame or an allocation in time",
                self.timed_out,
            ),
            ("connection whose client stopped reading", self.slow_readers),
            ("connection that is not turn", self.malformed),
        ]
        .into_iter()
    }
}

/// What became of questions to the HTTP hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookStats {
    /// Questions.
    pub asked: u64,
    /// Users that are known.
    pub admitted: u64,
    /// Users that may not come in.
    pub refused: u64,
    failed: [u64; HookFailure::COUNT],
}

impl HookStats {
    /// Iterates over all reasons for which questions stayed without an answer, with how often.
    pub fn failures(&self) -> impl Iterator<Item = (HookFailure, u64)> + '_ {
        HookFailure::ALL.into_iter().zip(self.failed)
    }
}

/// Why a question to the HTTP hook stayed without an answer; then the user does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum HookFailure {
    /// Too many questions are waiting.
    #[error("too many questions")]
    Overloaded,
    /// The answer did not come in time.
    #[error("no answer in time")]
    TimedOut,
    /// There is no connection, or it broke.
    #[error("not reachable")]
    Unreachable,
    /// The status is neither 200, 403 nor 404.
    #[error("unexpected status")]
    Status,
    /// The answer is not signed, or by another key.
    #[error("wrong signature")]
    Signature,
    /// The answer's nonce is not the question's: it may be an old answer, sent again.
    #[error("answer to another question")]
    Nonce,
    /// The answer is too long, not JSON, or says nothing clear.
    #[error("malformed answer")]
    Malformed,
}

impl HookFailure {
    /// Every reason, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Overloaded,
        Self::TimedOut,
        Self::Unreachable,
        Self::Status,
        Self::Signature,
        Self::Nonce,
        Self::Malformed,
    ];
    const COUNT: usize = 7;
}

/// [`HookStats`] in the making.
#[derive(Debug, Default)]
pub(crate) struct HookCounters {
    pub(crate) asked: Counter,
    pub(crate) admitted: Counter,
    pub(crate) refused: Counter,
    failed: [Counter; HookFailure::COUNT],
}

impl HookCounters {
    pub(crate) fn fail(&self, failure: HookFailure) {
        if let Some(counter) = self.failed.get(failure as usize) {
            counter.add(1);
        }
    }

    pub(crate) fn stats(&self) -> HookStats {
        HookStats {
            asked: self.asked.get(),
            admitted: self.admitted.get(),
            refused: self.refused.get(),
            failed: std::array::from_fn(|i| self.failed[i].get()),
        }
    }
}

/// [`StreamStats`] in the making.
#[derive(Debug, Default)]
pub(crate) struct StreamCounters {
    pub(crate) accepted: Counter,
    pub(crate) accept_failed: Counter,
    pub(crate) open: Counter,
    pub(crate) refused: Counter,
    pub(crate) displaced: Counter,
    pub(crate) proxy_malformed: Counter,
    pub(crate) proxy_untrusted: Counter,
    pub(crate) plain_tcp_refused: Counter,
    pub(crate) plain_udp_refused: Counter,
    pub(crate) handshakes: Counter,
    pub(crate) handshakes_refused: Counter,
    pub(crate) handshakes_displaced: Counter,
    pub(crate) tls_failed: Counter,
    pub(crate) dtls_challenged: Counter,
    pub(crate) dtls_outdated: Counter,
    pub(crate) dtls_accepted: Counter,
    pub(crate) dtls_failed: Counter,
    pub(crate) dtls_dropped: Counter,
    pub(crate) dtls_congested: Counter,
    pub(crate) dtls_unsendable: Counter,
    pub(crate) icmp_dropped: Counter,
    pub(crate) timed_out: Counter,
    pub(crate) slow_readers: Counter,
    pub(crate) malformed: Counter,
    pub(crate) joined: Counter,
}

impl StreamCounters {
    pub(crate) fn stats(&self) -> StreamStats {
        StreamStats {
            accepted: self.accepted.get(),
            accept_failed: self.accept_failed.get(),
            open: self.open.get(),
            refused: self.refused.get(),
            displaced: self.displaced.get(),
            proxy_malformed: self.proxy_malformed.get(),
            proxy_untrusted: self.proxy_untrusted.get(),
            plain_tcp_refused: self.plain_tcp_refused.get(),
            plain_udp_refused: self.plain_udp_refused.get(),
            handshakes: self.handshakes.get(),
            handshakes_refused: self.handshakes_refused.get(),
            handshakes_displaced: self.handshakes_displaced.get(),
            tls_failed: self.tls_failed.get(),
            dtls_challenged: self.dtls_challenged.get(),
            dtls_outdated: self.dtls_outdated.get(),
            dtls_accepted: self.dtls_accepted.get(),
            dtls_failed: self.dtls_failed.get(),
            dtls_dropped: self.dtls_dropped.get(),
            dtls_congested: self.dtls_congested.get(),
            dtls_unsendable: self.dtls_unsendable.get(),
            icmp_dropped: self.icmp_dropped.get(),
            timed_out: self.timed_out.get(),
            slow_readers: self.slow_readers.get(),
            malformed: self.malformed.get(),
            joined: self.joined.get(),
        }
    }
}

/// A number that one thread writes and others read now and then.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
