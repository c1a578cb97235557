//! The path agent between two devices, over a virtual network and clock.

mod direct;
mod hostile;
mod lost;
mod world;
