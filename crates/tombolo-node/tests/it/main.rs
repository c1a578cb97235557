//! Whole nodes on loopback, seen from outside.

mod https;
mod life;
mod turn;
