//! The contract between a device and a node.
#![forbid(unsafe_code)]
