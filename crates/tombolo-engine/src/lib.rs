//! Where state that outlives a node is kept.
#![forbid(unsafe_code)]
