//! Whole nodes on loopback, seen from outside.

mod https;
mod introduction;
mod life;
mod turn;
mod webhook;
