//! Devices on loopback, with a real node in the same process.

mod abuse;
mod lab;
mod links;
mod rooms;
mod sessions;
