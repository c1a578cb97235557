//! What the project does to itself: run it as `cargo xtask`, which lists the commands.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    reason = "this program talks to a person in a terminal"
)]

mod bench;
mod bpf;
#[cfg(feature = "proto")]
mod compatible;
mod engine;
mod fuzz;
mod parts;
#[cfg(feature = "proto")]
mod proto;
mod summary;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> anyhow::Result<()> {
    // What follows `bench relay` is read by the benchmark itself.
    let asks_for_help = !matches!(arguments, ["bench", _, _, ..])
        && arguments
            .iter()
            .any(|argument| matches!(*argument, "--help" | "-h"));
    match arguments {
        [] | ["help", ..] => println!("{HELP}"),
        [command, ..] if asks_for_help => println!("{}", help(command)),
        ["test", parts @ ..] => test::run(parts)?,
        ["ci"] => test::run(&[])?,
        ["tidy"] => {
            tidy::run(&root())?;
            generated_code(Generated::Check)?;
        }
        ["proto"] => generated_code(Generated::Write)?,
        ["proto", "--check"] => generated_code(Generated::Check)?,
        ["proto", "--keep"] => generated_code(Generated::Keep)?,
        ["bpf"] => bpf::write(&root())?,
        ["bpf", "--check"] => match bpf::check(&root())? {
            bpf::Checked::Matches => println!("source and object match"),
            bpf::Checked::Unknown(reason) => bail!("cannot tell: {reason}"),
        },
        ["fuzz", rest @ ..] => fuzz::run(rest)?,
        ["bench", rest @ ..] => bench::run(rest)?,
        ["engine", rest @ ..] => engine::run(rest)?,
        [command, ..] => bail!(
            "`{}` is not understood\n\n{}",
            arguments.join(" "),
            help(command)
        ),
    }
    Ok(())
}

/// What to do with the code that is generated from `proto/`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Generated {
    Check,
    Keep,
    Write,
}

/// Does it here where the compiler of contracts is built in, else in a build that has it.
fn generated_code(what: Generated) -> anyhow::Result<()> {
    #[cfg(feature = "proto")]
    match what {
        Generated::Check => proto::check(&root())?,
        Generated::Keep => proto::keep(&root())?,
        Generated::Write => {
            for path in proto::write(&root())? {
                println!("wrote {}", path.display());
            }
        }
    }
    #[cfg(not(feature = "proto"))]
    {
        let mut command = Command::new(cargo());
        command.args([
            "run",
            "--quiet",
            "--profile",
            "tool",
            "--package",
            "xtask",
            "--features",
            "proto",
            "--",
            "proto",
        ]);
        match what {
            Generated::Check => _ = command.arg("--check"),
            Generated::Keep => _ = command.arg("--keep"),
            Generated::Write => {}
        }
        run_to_end(&mut command)?;
    }
    Ok(())
}

/// The folder of the repository: of the one that is run, should two share a folder for builds.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR");
    let folder = manifest.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    folder.parent().map(Path::to_owned).unwrap_or_default()
}

/// The cargo that runs this program, so that its children use the same tool chain.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// What cargo knows of the workspace in `folder`, without its dependencies.
fn metadata(folder: &Path) -> anyhow::Result<serde_json::Value> {
    let arguments = [
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ];
    let output = Command::new(cargo())
        .args(arguments)
        .current_dir(folder)
        .output()
        .context("cannot run `cargo metadata`")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata failed: {errors}");
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

/// Runs a command at the root, its output visible; an error unless it succeeds.
fn run_to_end(command: &mut Command) -> anyhow::Result<()> {
    let name = name_of(command);
    let status = command
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run `{name}`"))?;
    ensure!(status.success(), "`{name}` ended with {status}");
    Ok(())
}

/// The program and its first argument, for messages: `cargo fmt`.
fn name_of(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args().take(1));
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn help(command: &str) -> String {
    match command {
        "test" | "ci" => format!("{HELP_TEST}\n\nParts, in order:\n{}", parts::list()),
        "tidy" => HELP_TIDY.to_owned(),
        "fuzz" => HELP_FUZZ.to_owned(),
        "bench" => HELP_BENCH.to_owned(),
        "bpf" => HELP_BPF.to_owned(),
        "proto" => HELP_PROTO.to_owned(),
        _ => HELP.to_owned(),
    }
}

const HELP: &str = "\
What the project does to itself.

  cargo xtask test [PART…]    everything that must pass, in order; or the parts named
  cargo xtask ci              the same as `test`: what .ci/run does
  cargo xtask tidy            the rules that no other tool checks, in seconds
  cargo xtask fuzz [TARGET…]  runs the fuzz targets, a minute each
  cargo xtask bench WHAT      measures: relay, soak, cluster, joins, rooms, …
  cargo xtask engine WHAT     the engine on servers that fail (chaos), or its figures
  cargo xtask bpf [--check]   compiles the relay's eBPF program, or checks that it was
  cargo xtask proto           writes the Rust types of the contracts in proto/

While you work: `cargo xtask test format clippy tidy`. Before you push: `cargo xtask test`.
`cargo xtask COMMAND --help` tells more.";

const HELP_BPF: &str = "\
cargo xtask bpf [--check]

Makes crates/tombolo-relay/bpf/steer.bpf.o of steer.bpf.c beside it, with Debian 12's clang-14 and
llvm-strip-14. With --check nothing is written: it fails unless the object in the tree is what the
source makes. Part of `cargo xtask test`, which skips it where that compiler is missing.";

const HELP_TEST: &str = "\
cargo xtask test [PART…]

Runs everything that must pass and goes on after a failure, so that one run shows all of them.
Ends with `N passed, N failed, N skipped`, which counts parts, and single tests where they said that
they cannot run here. What was skipped is named with its reason in the very last line.

As root it installs the Debian packages that the tests use (scripts/install-packages.sh); otherwise it
says which are missing. A test that cannot run here appends a line with its reason to the file named
in the environment variable TOMBOLO_SKIP_FILE and returns.

Exit status 0 when nothing failed.";

const HELP_TIDY: &str = "\
cargo xtask tidy

Fails when
  purity         layers 0 and 1 (stun, wire, turn, path, room, match, field, social) touch a socket,
                 thread, file, clock, entropy or tokio, or depend on a crate that does
  direction      a crate depends on anything but layers below it (xtask/src/tidy/policy.rs)
  long file      a file has over 600 lines of code; tests and comments don't count
  long function  a function has over 70 (exceptions: xtask/src/tidy/exceptions.rs, unused ones fail)
  unsafe         `unsafe` is outside of the socket modules of tombolo-relay and tombolo-bench
  lints          a crate does not take the workspace's lints
  hash order     layers 0 and 1 iterate over a HashMap
  ignored test   a test has `#[ignore]`
  documents      README.md or ARCHITECTURE.md is too long, or the latter does not name a crate
and when generated code is out of date (`cargo xtask proto` writes it).";

const HELP_FUZZ: &str = "\
cargo xtask fuzz [--seconds N] [TARGET…]

Runs each target in fuzz/ (or those named) for N seconds, 60 by default, and fails on the first
crash, whose input it names. Works on the stable compiler, with a C++ compiler (g++) beside it.
Installs cargo-fuzz when it is missing.";

const HELP_BENCH: &str = "\
cargo xtask bench relay [OPTIONS]

Builds the release profile and measures Tombolo's TURN server side by side with coturn (from Debian's
packages) and a bare forwarder, in a network namespace of its own: servers on one core, the load
generator on the other. Nothing else should run on the machine meanwhile. Ends with a table, and with
status 0 when every packet was delivered and every goal met.

cargo xtask bench soak [OPTIONS]

Lets 1,000 allocations a second come and go beside steady traffic, for ten minutes by default, and
then waits for those that were abandoned. Status 0 when every packet was delivered, memory stayed
flat and every port was given back.

cargo xtask bench cluster FAULT [OPTIONS]

Lets devices talk in rooms of three nodes on three NATS servers while something is killed, frozen,
cut off, drained, rolled or added, and prints what came of it as JSON. Status 0 when the rooms' logs hold
all that was acknowledged, once and in order. Needs scripts/install-nats.sh.

cargo xtask bench joins [OPTIONS]

Measures how soon a member on one node hears of a join on another. Needs scripts/install-nats.sh.

cargo xtask bench tickets [OPTIONS]

Sends tickets through three nodes on three NATS servers, kills the node that is the pool's matcher every few
seconds, and compares what devices were told with the pool's log. Status 0 when no ticket that was
acknowledged is lost, and none is in two matches. Needs scripts/install-nats.sh.

cargo xtask bench rooms [OPTIONS]

Measures the fan-out of one room on one core, or what idle sessions take.

cargo xtask bench match [OPTIONS]
cargo xtask bench field [OPTIONS]

Measure the cores of the matchmaker and of the field alone, on one core.

cargo xtask bench duels [OPTIONS]

Measures devices that find each other through one node's matchmaker.

`cargo xtask bench relay --help` lists the options; docs/measurements.md has the figures.";

const HELP_PROTO: &str = "\
cargo xtask proto [--check | --keep]

Writes the Rust types of the contracts in proto/ into the crates that use them. With --check, only
says whether they are out of date, and whether nodes and devices of the release before would still
understand the contracts: nothing that was in proto/previous.binpb may go (a field's number may be
reserved) or become something else. With --keep, once a release is made, it becomes the one before.
Its first build takes a minute; needs no protoc.";
