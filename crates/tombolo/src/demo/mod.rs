//! `tombolo demo`: one node and two devices behind NATs, from the first packet to the way back
//! after the direct path was cut.

mod actor;
mod narrator;
mod stage;

use std::io::{self, Write};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tombolo_natlab::{Lab, Means, reexec_in_user_namespace};

use crate::cli::DemoArgs;
use narrator::Narrator;
use stage::Stage;

/// Plays the demo; fails unless everything in the story happened.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    if args.loopback {
        return play_until_interrupted(|| Ok(Stage::loopback("as asked")));
    }
    match Lab::check() {
        Ok(Means::Direct) => play_until_interrupted(Stage::lab),
        Ok(Means::UserNamespace) if !args.inside => play_in_user_namespace(),
        Ok(Means::UserNamespace) => {
            play_until_interrupted(|| Ok(Stage::loopback("user namespaces do not nest here")))
        }
        Err(missing) => play_until_interrupted(|| Ok(Stage::loopback(&missing.to_string()))),
    }
}

/// Starts the demo again where this user may make network namespaces.
fn play_in_user_namespace() -> anyhow::Result<()> {
    // Ctrl-C reaches both: the one inside ends itself, and this one waits for it.
    let runtime = runtime()?;
    let _interrupt = runtime.block_on(async { signal(SignalKind::interrupt()) })?;
    let status = reexec_in_user_namespace(["demo", "--inside"])?;
    anyhow::ensure!(
        status.success(),
        "the demo inside the user namespace failed: {status}"
    );
    Ok(())
}

/// A signal ends the play in good order, because a process that just dies leaves its namespaces behind.
fn play_until_interrupted(stage: impl FnOnce() -> anyhow::Result<Stage>) -> anyhow::Result<()> {
    let interrupted = interrupted()?;
    let played = stage().and_then(|stage| play(&stage, &interrupted));
    // What it interrupts fails in many ways, all of which were asked for.
    if *interrupted.borrow() {
        Ok(())
    } else {
        played
    }
}

/// Turns true when somebody wants the demo to end, from now on.
fn interrupted() -> anyhow::Result<watch::Receiver<bool>> {
    let runtime = runtime()?;
    let (sender, receiver) = watch::channel(false);
    let signalled = {
        let _context = runtime.enter();
        crate::peer::interrupted()
    };
    thread::Builder::new().spawn(move || {
        runtime.block_on(signalled);
        sender.send_replace(true);
    })?;
    Ok(receiver)
}

/// Each on its own thread, so that sockets open in that thread's network namespace.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn play(stage: &Stage, interrupted: &watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut narrator = Narrator::new(stage.headline(), stage.has_nats());
    narrator.open()?;
    stage.play(&mut narrator, interrupted)?;
    if *interrupted.borrow() {
        return Ok(());
    }
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
