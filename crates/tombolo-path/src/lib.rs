//! The path agent: candidates, checks, path choice, liveness.
#![forbid(unsafe_code)]
