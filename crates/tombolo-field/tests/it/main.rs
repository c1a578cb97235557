//! What every node and every observer of a field relies on.
#![allow(missing_docs, clippy::unwrap_used)]

mod cells;
mod circle;
mod hidden;
mod hostile;
mod model;
mod pressure;
mod resume;
mod standing;
mod world;
