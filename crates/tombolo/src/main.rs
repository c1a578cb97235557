//! The one binary: `serve`, `demo`, `peer`, `doctor`, `token`.
#![forbid(unsafe_code)]

fn main() {}
