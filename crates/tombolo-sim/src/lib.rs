//! A deterministic world: virtual clock, NATs, loss.
#![forbid(unsafe_code)]
