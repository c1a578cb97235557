//! tombolo-turn on real sockets.
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "system calls that the standard library does not have")]
mod socket;
