//! Devices on loopback, with a real node in the same process.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod abuse;
mod backfills;
mod closing;
mod commands;
mod direct;
mod endings;
mod feeds;
mod fields;
mod fields_crowd;
mod fields_left;
mod fields_put;
mod fields_unread;
mod groups;
mod lab;
mod leaving;
mod links;
mod matches;
mod moves;
mod nearest;
mod notices;
mod once;
mod presence;
mod refills;
mod refusals;
mod returning;
mod rooms;
mod rooms_left;
mod script;
mod sessions;
mod silence;
mod state;
mod tickets;
mod tokens;
mod unsent;
