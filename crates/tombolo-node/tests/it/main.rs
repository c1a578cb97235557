//! Whole nodes on loopback, seen from outside.

mod https;
mod introduction;
mod life;
mod operate;
mod turn;
mod webhook;
