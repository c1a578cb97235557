//! The kernel, as far as the relay needs it: UDP sockets with batched receive and send, epoll, and an
//! eventfd to wake a shard.
//!
//! This is the only module of the crate with `unsafe` code; everything above it is safe Rust.
//!
//! - [`UdpSocket`] is one UDP socket;
//! - [`Slots`] is the memory that datagrams are received into, [`Sender`] the scratch space that turns
//!   "this header in front of that range of a slot" into one `sendmmsg` without copying, and several
//!   such of equal length into one message that the kernel cuts apart;
//! - [`Poller`], [`Waker`] and [`Alarm`] tell which socket has something, and when time is up.

mod address;
mod batch;
mod errors;
mod poll;
mod raw;
mod sender;
mod shared;
mod slots;
mod udp;

pub(crate) use self::{
    errors::{IcmpSocket, Reported},
    poll::{Alarm, Poller, Waker},
    raw::RawSocket,
    sender::{Outgoing, Sender, Sent, Trains},
    shared::SharedNumbers,
    slots::{SEGMENTS_MAX, SLOTS, Slots},
    udp::{UdpSocket, mtu_towards, raise_open_files_limit},
};
