//! What the fuzz targets do with their input, apart from the fuzzer, so that a plain test can
//! replay a corpus or a crash: see `tests/corpus.rs`.
//!
//! Each module has one `run(data)`, which panics where an invariant does not hold.
#![forbid(unsafe_code)]

pub mod dtls;
pub mod frame;
pub mod icmp;
pub mod pool;
pub mod proxy;
pub mod rules;
pub mod strangers;
pub mod stream;
pub mod stun;
pub mod turn;
