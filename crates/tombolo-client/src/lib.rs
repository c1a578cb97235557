//! The Rust SDK: connect two devices.
#![forbid(unsafe_code)]
