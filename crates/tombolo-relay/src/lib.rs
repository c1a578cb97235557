//! tombolo-turn on real sockets.
#![forbid(unsafe_code)]
