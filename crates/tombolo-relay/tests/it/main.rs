//! The relay over loopback, driven by the TURN client core on real sockets.

mod bind;
mod device;
mod relaying;
mod streams;
