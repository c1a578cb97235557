//! Runs the fuzz targets.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::{cargo, metadata, root, run_to_end};

/// Runs the targets named, or all, and stops at the first crash.
///
/// # Errors
/// When a target is unknown, does not build or finds a crash.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let (seconds, names) = parse(arguments)?;
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("`{unknown}` is no fuzz target; they are {}", all.join(", "));
    }
    install()?;
    let chosen = if names.is_empty() { &all } else { &names };
    for (index, target) in chosen.iter().enumerate() {
        println!("\n[{}/{}] {target}: {seconds} s", index + 1, chosen.len());
        let mut command = Command::new(cargo());
        command
            .args([
                "fuzz",
                "run",
                target,
                "--",
                &format!("-max_total_time={seconds}"),
            ])
            .env("RUSTC_BOOTSTRAP", "1");
        run_to_end(&mut command).with_context(|| format!("fuzz target `{target}`"))?;
    }
    println!(
        "\n{} fuzz targets ran clean, {seconds} s each",
        chosen.len()
    );
    Ok(())
}

fn parse(arguments: &[&str]) -> anyhow::Result<(u32, Vec<String>)> {
    let mut seconds = SECONDS_DEFAULT;
    let mut names = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--seconds" => {
                let value = rest.next().context("--seconds needs a number")?;
                seconds = value
                    .parse()
                    .with_context(|| format!("`{value}` is no number"))?;
            }
            flag if flag.starts_with('-') => bail!("`{flag}` is not understood; see --help"),
            name => names.push(name.to_owned()),
        }
    }
    ensure!(seconds > 0, "0 seconds would run for ever");
    Ok((seconds, names))
}

/// The programs of the package in `fuzz/`.
fn targets() -> anyhow::Result<Vec<String>> {
    let metadata = metadata(&root().join("fuzz"))?;
    let targets = metadata["packages"][0]["targets"]
        .as_array()
        .context("no fuzz targets")?;
    let names = targets.iter().filter(|target| target["kind"][0] == "bin");
    Ok(names
        .filter_map(|target| target["name"].as_str())
        .map(str::to_owned)
        .collect())
}

fn install() -> anyhow::Result<()> {
    let is_there = Command::new(cargo()).args(["fuzz", "--version"]).output();
    if is_there.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    println!("installing cargo-fuzz, once; this takes some minutes");
    run_to_end(Command::new(cargo()).args(["install", "cargo-fuzz", "--locked", "--debug"]))
}

const SECONDS_DEFAULT: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_seconds_are_understood_in_any_order() {
        assert_eq!(parse(&[]).unwrap(), (60, vec![]));
        assert_eq!(
            parse(&["a", "--seconds", "5", "b"]).unwrap(),
            (5, vec!["a".into(), "b".into()])
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            &["--seconds"][..],
            &["--seconds", "x"],
            &["--seconds", "0"],
            &["--x"],
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }
}
