//! What devices rely on, without sockets.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]
#![allow(clippy::wildcard_enum_match_arm)]

mod acts;
mod anew;
mod bombs;
mod changes;
mod cluster;
mod direct;
mod draining;
mod drops;
mod duplicates;
mod engine;
mod fields;
mod fields_classes;
mod fields_hidden;
mod fields_silence;
mod finding;
mod forged;
mod garbage;
mod group_bounds;
mod groups;
mod handover;
mod hooks;
mod hot_cells;
mod introductions;
mod kept_seats;
mod kinds;
mod lab;
mod matchmaker;
mod messages;
mod nodes;
mod notices;
mod openings;
mod presence;
mod resume;
mod retiring;
mod returning;
mod rooms;
mod seeking;
mod servers;
mod sessions;
mod social_garbage;
mod threads;
mod walker;
mod wandering;
mod wire;
