//! Sessions, rooms and introductions, bound to the engine.
#![forbid(unsafe_code)]
