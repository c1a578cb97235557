//! The parts of `cargo xtask test`.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context as _;

use crate::{Generated, bpf, cargo, generated_code, metadata, name_of, root, run_to_end, tidy};

/// One thing that must pass.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    /// What it does, in a few words.
    pub(crate) what: &'static str,
    pub(crate) run: fn(&World) -> Outcome,
}

/// What the parts share.
pub(crate) struct World {
    /// Tests that cannot run here append their reason to this file.
    pub(crate) skip_file: PathBuf,
}

/// How a part ended; with the reason, unless it passed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl From<anyhow::Result<()>> for Outcome {
    fn from(result: anyhow::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(reason) => write!(f, "FAILED ({reason})"),
            Self::Skipped(reason) => write!(f, "skipped ({reason})"),
        }
    }
}

/// All parts, in order: what is quick and fails often comes first.
pub(crate) const PARTS: &[Part] = &[
    Part {
        name: "packages",
        what: "packages and foreign programs that the tests use",
        run: packages,
    },
    Part {
        name: "format",
        what: "cargo fmt --check",
        run: format,
    },
    Part {
        name: "tidy",
        what: "the project's own rules",
        run: |_| tidy_part().into(),
    },
    Part {
        name: "bpf",
        what: "the eBPF program in the tree is what its source makes",
        run: |_| bpf_part(),
    },
    Part {
        name: "deny",
        what: "licences, sources and bans of what is taken from others",
        run: deny,
    },
    Part {
        name: "clippy",
        what: "lints, warnings denied",
        run: clippy,
    },
    Part {
        name: "docs",
        what: "documentation, warnings denied",
        run: |_| docs().into(),
    },
    Part {
        name: "fuzz",
        what: "fuzz targets compile and survive their corpora",
        run: corpora,
    },
    Part {
        name: "tests",
        what: "unit and simulation tests",
        run: |world| tests(world).into(),
    },
    Part {
        name: "doctests",
        what: "examples in the documentation",
        run: |_| doctests().into(),
    },
    Part {
        name: "natlab",
        what: "devices behind NATs of the kernel",
        run: natlab,
    },
    Part {
        name: "bench",
        what: "the benchmark delivers every packet; not its figures",
        run: bench,
    },
];

/// A line per part.
pub(crate) fn list() -> String {
    let lines = PARTS
        .iter()
        .map(|part| format!("  {:<9} {}", part.name, part.what));
    lines.collect::<Vec<_>>().join("\n")
}

/// Where cargo builds.
pub(crate) fn target_folder() -> anyhow::Result<String> {
    let metadata = metadata(&root())?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("no target directory")?;
    Ok(folder.to_owned())
}

fn packages(_: &World) -> Outcome {
    with_reason(Command::new("bash").arg("scripts/install-interop.sh"))
}

fn format(_: &World) -> Outcome {
    if !has_cargo("fmt") {
        return Outcome::Skipped("rustfmt is missing: rustup component add rustfmt".to_owned());
    }
    let run = || {
        run_to_end(Command::new(cargo()).args(["fmt", "--all", "--check"]))?;
        run_to_end(Command::new(cargo()).args(["fmt", "--check", "--manifest-path", FUZZ]))
    };
    run().into()
}

fn bpf_part() -> Outcome {
    match bpf::check(&root()) {
        Ok(bpf::Checked::Matches) => Outcome::Passed,
        Ok(bpf::Checked::Unknown(reason)) => Outcome::Skipped(reason),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// Advisories change by themselves and fail what has not changed, so they are for people:
/// `cargo deny check`.
fn deny(_: &World) -> Outcome {
    if !has_cargo("deny") {
        println!("installing cargo-deny, once; this takes some minutes");
        let install = ["install", "cargo-deny", "--locked", "--debug"];
        if let Err(error) = run_to_end(Command::new(cargo()).args(install)) {
            return Outcome::Skipped(format!("cargo-deny cannot be installed: {error:#}"));
        }
    }
    // Versions that are there twice are only warned of, and are many.
    let arguments = ["deny", "--log-level", "error", "check"];
    let what = ["bans", "licenses", "sources"];
    run_to_end(Command::new(cargo()).args(arguments).args(what)).into()
}

fn tidy_part() -> anyhow::Result<()> {
    tidy::run(&root())?;
    generated_code(Generated::Check)
}

fn clippy(_: &World) -> Outcome {
    if !has_cargo("clippy") {
        return Outcome::Skipped("clippy is missing: rustup component add clippy".to_owned());
    }
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ];
    run_to_end(Command::new(cargo()).args(arguments)).into()
}

fn docs() -> anyhow::Result<()> {
    let arguments = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--all-features",
    ];
    run_to_end(
        Command::new(cargo())
            .args(arguments)
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn corpora(_: &World) -> Outcome {
    let compiler = Command::new("c++")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !compiler.is_ok_and(|status| status.success()) {
        return Outcome::Skipped("no C++ compiler: sudo apt-get install g++".to_owned());
    }
    run_to_end(Command::new(cargo()).args(["test", "--manifest-path", FUZZ])).into()
}

fn tests(world: &World) -> anyhow::Result<()> {
    let arguments: &[&str] = if has_cargo("nextest") {
        &["nextest", "run", "--workspace", "--no-fail-fast"]
    } else {
        println!("cargo-nextest is not installed: using cargo test");
        &[
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--no-fail-fast",
        ]
    };
    run_to_end(
        Command::new(cargo())
            .args(arguments)
            .env(SKIP_FILE, &world.skip_file),
    )
}

fn doctests() -> anyhow::Result<()> {
    run_to_end(Command::new(cargo()).args(["test", "--workspace", "--doc"]))
}

fn natlab(world: &World) -> Outcome {
    let folder = match build_programs() {
        Ok(folder) => folder,
        Err(error) => return Err(error).into(),
    };
    let mut command = Command::new(folder.join("natlab"));
    command
        .args(["matrix", "--runs", "1", "--binary"])
        .arg(folder.join("tombolo"));
    with_reason(command.env(SKIP_FILE, &world.skip_file))
}

fn bench(world: &World) -> Outcome {
    let folder = match build_programs() {
        Ok(folder) => folder,
        Err(error) => return Err(error).into(),
    };
    let mut command = Command::new(folder.join("tombolo-bench"));
    with_reason(
        command
            .args(["relay", "--quick"])
            .env(SKIP_FILE, &world.skip_file),
    )
}

/// Builds all programs for tests and returns where they are.
fn build_programs() -> anyhow::Result<PathBuf> {
    run_to_end(Command::new(cargo()).args(["build", "--workspace", "--bins"]))?;
    Ok(Path::new(&target_folder()?).join("debug"))
}

/// Runs a command that may say by its exit status that it cannot run here; the reason is the last
/// line that it writes on standard output.
fn with_reason(command: &mut Command) -> Outcome {
    match status_and_last_line(command) {
        Ok((status, _)) if status.success() => Outcome::Passed,
        Ok((status, reason)) if status.code() == Some(CANNOT_RUN) => Outcome::Skipped(reason),
        Ok((status, _)) => Outcome::Failed(status.to_string()),
        Err(error) => Err(error).into(),
    }
}

fn status_and_last_line(command: &mut Command) -> anyhow::Result<(ExitStatus, String)> {
    let name = name_of(command);
    let mut child = command
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{name}`"))?;
    let mut last_line = "no reason given".to_owned();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        last_line = line.with_context(|| format!("read what `{name}` prints"))?;
        println!("{last_line}");
    }
    let status = child.wait().with_context(|| format!("wait for `{name}`"))?;
    Ok((status, last_line))
}

fn has_cargo(command: &str) -> bool {
    let status = Command::new(cargo())
        .args([command, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// The variable that names the file where tests say that they cannot run.
const SKIP_FILE: &str = "TOMBOLO_SKIP_FILE";

/// The exit status of a program that cannot run here, after the custom of automake.
const CANNOT_RUN: i32 = 77;

const FUZZ: &str = "fuzz/Cargo.toml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_run_here_says_why_in_its_last_line() {
        let script = "echo looking; echo 'nft is missing'; exit 77";
        assert_eq!(shell(script), Outcome::Skipped("nft is missing".to_owned()));
    }

    #[test]
    fn a_program_that_fails_is_not_skipped() {
        assert_eq!(
            shell("echo x; exit 1"),
            Outcome::Failed("exit status: 1".to_owned())
        );
        assert_eq!(shell("exit 0"), Outcome::Passed);
        let outcome = with_reason(&mut Command::new("./no-such-program"));
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome}");
    }

    fn shell(script: &str) -> Outcome {
        with_reason(Command::new("bash").args(["-c", script]))
    }
}
