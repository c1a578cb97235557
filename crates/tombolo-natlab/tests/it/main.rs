//! The lab on the real kernel.

mod control;
mod delay;
mod nat;
mod scenario;
mod teardown;
