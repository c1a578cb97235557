//! Whole nodes on loopback, seen from outside.

mod caller;
mod http_hooks;
mod https;
mod introduction;
mod life;
mod mobility;
mod operate;
mod posts;
mod turn;
mod webhook;
