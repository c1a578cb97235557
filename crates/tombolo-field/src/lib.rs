//! A field as a state machine: who is near whom, and what each is told of it.
//!
//! Devices and other entities [`report`](Field::report) where they are. Each [`tick`](Field::tick)
//! makes one datagram for each observer, with what has come into its range, what has changed there,
//! and what has left, within the observer's byte budget. When the budget is too small for all, those
//! that are near and those that have waited are told first, so that the near ones go on at full rate,
//! the far ones at a falling rate, and nobody starves. What an observer may not see, which a [`Sight`]
//! decides, is never in its datagrams.
//!
//! The other end is a [`Mirror`]: datagrams in, changes out, with some of them lost or out of order. A
//! [`Circle`] beside it says with whom of those whom it shows the observer is to be linked.
//!
//! ```
//! use std::time::Duration;
//! use tombolo_field::{Change, Class, EntityId, Everything, Field, Mirror, Report, Settings, Watch};
//!
//! let mut field = Field::new(Settings {
//!     classes: vec![Class::seen_from(50.0)],
//!     ..Settings::default()
//! })?;
//! let (alice, bob) = (EntityId(1), EntityId(2));
//! field.report(Duration::ZERO, alice, &Report::at([0.0, 0.0, 0.0]))?;
//! field.report(Duration::ZERO, bob, &Report::at([30.0, -10.0, 0.0]))?;
//! field.observe(alice, Watch::default())?;
//!
//! let mut mirror = Mirror::new();
//! let mut changes = Vec::new();
//! field.tick(Duration::from_millis(100), &Everything, |_, datagram| {
//!     changes = mirror.apply(datagram).unwrap();
//! });
//! assert_eq!(changes, [Change::Entered(bob)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Coordinates have no bounds that matter and no seam: neither at zero nor where cells meet. Cells are
//! what nodes subscribe to; those that are crowded split. No clock, no sockets, no engine.
#![forbid(unsafe_code)]

mod cells;
mod circle;
mod datagram;
mod field;
mod mirror;
mod settings;
mod ticks;

pub use cells::{CellId, LEVELS_MAX};
pub use circle::{Circle, CircleChange, Reach};
pub use datagram::DatagramError;
pub use field::{
    BUDGET_MAX, BUDGET_MIN, EntityId, Everything, Field, KNOWN_MAX, PAYLOAD_MAX, POSITION_MAX,
    Refused, Report, Sight, Stats, Subject, Watch,
};
pub use mirror::{Change, Mirror, Seen};
pub use settings::{
    CLASSES_MAX, Class, Dimensions, ENTITIES_MAX, RANGE_MAX, RANGE_MIN, Settings, SettingsError,
};
pub use ticks::Ticks;
