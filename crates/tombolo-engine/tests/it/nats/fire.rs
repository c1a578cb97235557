//! Three servers under fire, briefly; `cargo xtask engine chaos` does it for longer.

use tombolo_natlab::is_lab_possible_here;

use super::chaos::{self, Fault};
use super::one::server;
use super::servers;

#[test]
fn nothing_acknowledged_is_lost_when_a_leader_is_killed() {
    survives(Fault::Kill);
}

#[test]
fn nothing_acknowledged_is_lost_when_a_leader_is_frozen() {
    survives(Fault::Freeze);
}

#[test]
fn nothing_acknowledged_is_lost_when_a_leader_is_cut_off() {
    survives(Fault::Partition);
}

/// The fault comes, every log goes on; then the checks of [`chaos::run`].
fn survives(fault: Fault) {
    if !is_lab_possible_here() {
        return;
    }
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let report = chaos::run(&binary, &[fault]);
    assert!(report.acknowledged > 100, "{report:?}");
}
