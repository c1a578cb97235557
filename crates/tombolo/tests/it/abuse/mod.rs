//! What strangers, and users who mean harm, do to `tombolo turn`. After each of it an ordinary client
//! is served, the process has not grown, and the counters say what was refused.
//!
//! Attackers come from 127.1.0.0/16, ordinary clients from 127.0.0.1.

mod flood;
mod garbage;
mod raw;
mod slow;
mod victim;
