//! A node as a library.
#![forbid(unsafe_code)]
