//! `cargo xtask engine`: the engine under load and under fire.

use std::process::Command;

use anyhow::bail;

use crate::{cargo, run_to_end};

/// Runs the engine's lab, `chaos` or `figures`, on servers that it starts.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    if !matches!(arguments, ["chaos"] | ["chaos", _] | ["figures"]) {
        bail!("say `chaos [ROUNDS]` or `figures`");
    }
    run_to_end(
        Command::new(cargo())
            .args(["run", "--quiet", "--package", "tombolo-engine"])
            .args(["--example", "engine-lab", "--"])
            .args(arguments),
    )
}
