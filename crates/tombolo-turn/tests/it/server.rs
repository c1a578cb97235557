//! The server as its clients and peers see it, with a driver that binds every port.

mod algorithms;
mod allocate;
mod allocations;
mod auth;
mod binding;
mod counter;
mod data;
mod floods;
mod holes;
mod hook;
mod hostile;
mod icmp;
mod info;
mod lab;
mod ledger;
mod limits;
mod mobility;
mod operate;
mod peers;
mod quota_holes;
mod reach;
mod realms;
mod rfc8656;
mod shards;
mod tcp;
mod tokens;
