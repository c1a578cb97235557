//! `tombolo demo`: one node and two devices behind NATs, from the first packet to the way back
//! after the direct path was cut.

mod actor;
mod narrator;
mod stage;

use std::io::{self, Write};

use tombolo_natlab::{Lab, Means, reexec_in_user_namespace};

use crate::cli::DemoArgs;
use narrator::Narrator;
use stage::Stage;

/// Plays the demo; fails unless everything in the story happened.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    if args.loopback {
        return play(&Stage::loopback("as asked"));
    }
    match Lab::check() {
        Ok(Means::Direct) => play(&Stage::lab()?),
        Ok(Means::UserNamespace) if !args.inside => play_in_user_namespace(),
        Ok(Means::UserNamespace) => play(&Stage::loopback("user namespaces do not nest here")),
        Err(missing) => play(&Stage::loopback(&missing.to_string())),
    }
}

/// Starts the demo again where this user may make network namespaces.
fn play_in_user_namespace() -> anyhow::Result<()> {
    let status = reexec_in_user_namespace(["demo", "--inside"])?;
    anyhow::ensure!(
        status.success(),
        "the demo inside the user namespace failed: {status}"
    );
    Ok(())
}

fn play(stage: &Stage) -> anyhow::Result<()> {
    let mut narrator = Narrator::new(stage.headline(), stage.has_nats());
    narrator.open()?;
    stage.play(&mut narrator)?;
    let is_complete = narrator.close()?;
    anyhow::ensure!(
        is_complete,
        "not everything in the story happened; see the summary above"
    );
    Ok(())
}

/// Writes a line of the story.
fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
