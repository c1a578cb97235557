//! Everything that must pass, part after part.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::parts::{PARTS, Part, World};
use crate::summary::Summary;

/// Runs the parts named, or all, and prints a summary.
///
/// # Errors
/// When a part failed or is unknown.
pub(crate) fn run(names: &[&str]) -> anyhow::Result<()> {
    let parts = select(names)?;
    let world = World {
        skip_file: fresh_skip_file()?,
    };
    let mut summary = Summary::default();
    for (index, part) in parts.iter().enumerate() {
        let place = format!("[{}/{}] {}", index + 1, parts.len(), part.name);
        println!("\n{place}: {}", part.what);
        let start = Instant::now();
        let outcome = (part.run)(&world);
        println!(
            "{place}: {outcome} after {:.0} s",
            start.elapsed().as_secs_f64()
        );
        summary.add(part.name, outcome);
    }
    for line in std::fs::read_to_string(&world.skip_file)
        .unwrap_or_default()
        .lines()
    {
        summary.add_skipped_test(line);
    }
    // The last thing printed: scripts read these lines, so success adds none behind them.
    println!("\n{summary}");
    if summary.has_failed() {
        std::process::exit(1)
    }
    Ok(())
}

fn select(names: &[&str]) -> anyhow::Result<Vec<&'static Part>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| PARTS.iter().all(|part| part.name != **name))
    {
        bail!(
            "`{unknown}` is no part of the test; the parts are\n{}",
            crate::parts::list()
        );
    }
    Ok(PARTS
        .iter()
        .filter(|part| names.is_empty() || names.contains(&part.name))
        .collect())
}

/// An empty file for the tests to say that they cannot run.
fn fresh_skip_file() -> anyhow::Result<PathBuf> {
    let folder = Path::new(&crate::parts::target_folder()?).join("xtask");
    std::fs::create_dir_all(&folder).context("create a folder for the list of skipped tests")?;
    let path = folder.join("skipped");
    std::fs::write(&path, "").context("create the list of skipped tests")?;
    Ok(path)
}
