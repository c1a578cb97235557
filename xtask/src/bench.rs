//! `cargo xtask bench`: builds what is measured and starts the harness.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::parts::target_folder;
use crate::{cargo, run_to_end};

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let [
        "relay" | "soak" | "cluster" | "joins" | "rooms" | "match" | "field" | "duels" | "tickets",
        ..,
    ] = arguments
    else {
        bail!(
            "say what to measure: `cargo xtask bench relay`, `soak`, `cluster`, `joins`, `rooms`, \
             `match`, `field`, `duels` or `tickets`"
        );
    };
    let packages = [
        "build",
        "--release",
        "--package",
        "tombolo",
        "--package",
        "tombolo-bench",
    ];
    run_to_end(Command::new(cargo()).args(packages)).context("build what is measured")?;
    let program = Path::new(&target_folder()?).join("release/tombolo-bench");
    run_to_end(Command::new(program).args(arguments))
}
