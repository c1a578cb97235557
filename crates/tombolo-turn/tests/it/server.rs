//! The server as its clients and peers see it, with a driver that binds every port.

mod allocate;
mod allocations;
mod auth;
mod binding;
mod data;
mod hook;
mod hostile;
mod icmp;
mod info;
mod lab;
mod peers;
mod tcp;
mod tokens;
