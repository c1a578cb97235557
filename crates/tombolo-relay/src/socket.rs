//! The kernel, as far as the relay needs it: UDP sockets with batched receive and send, epoll, and an
//! eventfd to wake a shard.
//!
//! This is the only module of the crate with `unsafe` code; everything above it is safe Rust.
//!
//! - [`UdpSocket`] is one non-blocking socket;
//! - [`Slots`] is the memory that datagrams are received into, [`Sender`] the scratch space that turns
//!   "this header in front of that range of a slot" into one `sendmmsg` without copying;
//! - [`Poller`] and [`Waker`] tell which socket has something.

mod address;
mod batch;
mod poll;
mod udp;

pub(crate) use self::{
    batch::{Outgoing, SLOTS, Sender, Sent, Slots},
    poll::{Poller, Waker},
    udp::{UdpSocket, raise_open_files_limit},
};
