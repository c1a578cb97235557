//! A cluster in one process under virtual time: nodes, the engine that they share, and devices.
//!
//! The nodes are those of production (`tombolo-services`), each with its own bad access to one engine.
//! Devices speak the contract, and complain when a node breaks it. A [`ClusterWorld`] kills nodes, cuts
//! them off, freezes those that have a process of their own, empties nodes, starts others, has them share
//! their load, takes the engine away and lets connections break, as its [`Seed`](crate::Seed) says, while
//! devices join, leave, talk, count and follow each other. One room closes whenever it is empty, and is
//! opened anew; in another one devices put each other out, lose their seats, and have objects. They look for matches
//! of two, write to each other, and post to a group.
//!
//! All the while a reader of the rooms' logs, who has no part in them, looks whether every node has made
//! of a log what it says, and whether all that devices were told is there. In the end everything comes to
//! rest, and what devices were promised and what they see is compared with the logs.

mod club;
mod court;
mod deed;
mod device;
mod feed;
mod inboxes;
mod judge;
mod law;
mod place;
mod plain;
mod pool;
mod presence;
mod reader;
mod surroundings;
mod tally;
mod trace;
mod weather;
mod world;

pub use tally::Tally;
pub use weather::Weather;
pub use world::ClusterWorld;
