//! Names of what a shard waits for and sends through.

use std::net::SocketAddr;

/// A socket of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketId {
    /// By its place among the server sockets.
    Server(u32),
    /// By its place among the relay ports.
    Relay(u32),
    /// What steered ports receive and send with, by family: 0 for IPv4, 1 for IPv6.
    Steered(u32),
}

/// What a shard waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Waker,
    Alarm,
    Socket(SocketId),
}

impl SocketId {
    /// What a steered address sends with.
    pub(super) fn steered(address: SocketAddr) -> Self {
        Self::Steered(u32::from(address.is_ipv6()))
    }

    /// A number that no other socket of the shard has.
    pub(super) fn rank(self) -> u32 {
        match self {
            Self::Server(index) => index,
            Self::Relay(index) => RELAY_BIT | index,
            Self::Steered(index) => STEERED_BIT | index,
        }
    }
}

impl Source {
    /// The source's name in the poller.
    pub(super) fn to_token(self) -> u64 {
        match self {
            Self::Waker => WAKE_TOKEN,
            Self::Alarm => ALARM_TOKEN,
            Self::Socket(id) => id.rank().into(),
        }
    }

    pub(super) fn from_token(token: u64) -> Option<Self> {
        match token {
            WAKE_TOKEN => return Some(Self::Waker),
            ALARM_TOKEN => return Some(Self::Alarm),
            _ => {}
        }
        let rank = u32::try_from(token).ok()?;
        let index = rank & !(RELAY_BIT | STEERED_BIT);
        Some(Self::Socket(if rank & RELAY_BIT != 0 {
            SocketId::Relay(index)
        } else if rank & STEERED_BIT != 0 {
            SocketId::Steered(index)
        } else {
            SocketId::Server(index)
        }))
    }
}

const WAKE_TOKEN: u64 = u64::MAX;
const ALARM_TOKEN: u64 = u64::MAX - 1;
const RELAY_BIT: u32 = 1 << 31;
const STEERED_BIT: u32 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_sources() {
        for source in [
            Source::Waker,
            Source::Alarm,
            Source::Socket(SocketId::Server(0)),
            Source::Socket(SocketId::Server(7)),
            Source::Socket(SocketId::Relay(0)),
            Source::Socket(SocketId::Relay(9)),
            Source::Socket(SocketId::Steered(0)),
            Source::Socket(SocketId::Steered(1)),
        ] {
            assert_eq!(Source::from_token(source.to_token()), Some(source));
        }
    }
}
