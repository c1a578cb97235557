//! The NAT lab: Tombolo on the real kernel, behind the NATs that its users sit behind.
//!
//! A [`Lab`] is a small internet made of network namespaces. One namespace is the internet itself,
//! a router between public networks; on it sit a node and any number of [`Site`]s, each a router
//! with a [`Nat`] and one or more devices. Packets that cross the internet can be delayed, varied
//! and lost ([`Link`]), two sites can be cut off from each other, a router can forget its mappings.
//!
//! ```no_run
//! use std::{net::UdpSocket, time::Duration};
//! use tombolo_natlab::{Lab, Link, Profile, Site};
//!
//! let lab = Lab::builder()
//!     .site(Site::new("a", Profile::PortRestricted))
//!     .site(Site::new("b", Profile::Symmetric).behind(Profile::FullCone))
//!     .link(Link::delay(Duration::from_millis(25)))
//!     .build()?;
//! let socket = lab.enter(lab.device("a", 0)?, || UdpSocket::bind("0.0.0.0:0"))?;
//! lab.cut("a", "b")?;
//! # Ok::<(), tombolo_natlab::LabError>(())
//! ```
//!
//! It needs root, or unprivileged user namespaces ([`reexec_in_user_namespace`]), and a few
//! programs; [`Lab::check`] says what is missing and how to install it, and [`require!`] lets a
//! test say so. [`probe`] measures independently that each NAT is what it is called;
//! [`scenario`] holds the pairs that Tombolo must connect, and runs them.
//!
//! Left out: the deterministic world (`tombolo-sim`), other systems than Linux, and bandwidth.
#![forbid(unsafe_code)]

mod alone;
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
pub mod scenario;
mod space;
mod sweep;

pub use alone::{in_namespace, ip_command};
pub use delay::Link;
pub use error::LabError;
pub use lab::{Builder, End, Lab};
pub use means::{Means, Missing, TOOLS, Tool, packages_needed, reexec_in_user_namespace};
pub use nat::{Nat, Profile};
pub use plan::Site;
pub use process::Child;
pub use require::{is_lab_possible_here, skip};
pub use space::Host;
