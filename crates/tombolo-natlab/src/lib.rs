//! The same scenarios on the real kernel: namespaces, NATs, delay.
#![forbid(unsafe_code)]
