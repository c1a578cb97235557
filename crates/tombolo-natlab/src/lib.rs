//! The same scenarios on the real kernel: namespaces, NATs, delay.
#![forbid(unsafe_code)]

mod delay;
mod error;
mod lab;
mod means;
mod nat;
mod nfqueue;
mod plan;
pub mod probe;
mod process;
mod require;
mod space;
mod sweep;

pub use delay::Link;
pub use error::LabError;
pub use lab::{Builder, End, Lab};
pub use means::{Means, Missing, TOOLS, Tool, packages_needed, reexec_in_user_namespace};
pub use nat::{Nat, Profile};
pub use plan::Site;
pub use process::Child;
pub use require::{is_lab_possible_here, skip};
pub use space::Host;
