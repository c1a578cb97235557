//! TURN, both ends, sans-IO.
#![forbid(unsafe_code)]
