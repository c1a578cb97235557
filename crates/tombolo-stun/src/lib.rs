//! STUN and TURN wire codec, zero-copy.
#![forbid(unsafe_code)]
