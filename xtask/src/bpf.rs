//! The eBPF program of `tombolo-relay`: its object is in the tree, so that nobody needs a compiler for
//! it, and this makes and checks it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::name_of;

/// What became of a check.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Matches,
    /// The compiler that would tell is not here; with its reason.
    Unknown(String),
}

/// Compiles the source and replaces the object.
pub(crate) fn write(root: &Path) -> anyhow::Result<()> {
    if let Some(reason) = missing() {
        bail!("{reason}");
    }
    let object = compile(root)?;
    let path = root.join(FOLDER).join(OBJECT);
    fs::write(&path, object).with_context(|| format!("cannot write {}", path.display()))
}

/// Compiles the source and compares it with the object.
pub(crate) fn check(root: &Path) -> anyhow::Result<Checked> {
    if let Some(reason) = missing() {
        return Ok(Checked::Unknown(reason));
    }
    let path = root.join(FOLDER).join(OBJECT);
    let committed = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        compile(root)? == committed,
        "{FOLDER}/{OBJECT} is not what {SOURCE} makes: run `cargo xtask bpf`"
    );
    Ok(Checked::Matches)
}

/// Why the object cannot be made here: another compiler makes another one.
fn missing() -> Option<String> {
    for program in [CLANG, STRIP] {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!(
                "{program} is missing: apt-get install clang-14 llvm-14"
            ));
        }
    }
    None
}

fn compile(root: &Path) -> anyhow::Result<Vec<u8>> {
    let folder = root.join(FOLDER);
    let made = std::env::temp_dir().join(format!("tombolo-bpf-{}.o", std::process::id()));
    let headers = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let mut clang = Command::new(CLANG);
    clang
        .args([
            "-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Werror",
        ])
        // Nothing of this machine shall be in the object.
        .args(["-fdebug-compilation-dir=.", &headers, "-c", SOURCE, "-o"])
        .arg(&made);
    let mut strip = Command::new(STRIP);
    // The types of maps stay, what only a debugger reads goes.
    strip.arg("--strip-debug").arg(&made);
    for command in [&mut clang, &mut strip] {
        let name = name_of(command);
        let output = command.current_dir(&folder).output();
        let output = output.with_context(|| format!("cannot run `{name}`"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{name}` failed: {errors}");
    }
    let object = fs::read(&made).context("the compiler made nothing")?;
    fs::remove_file(&made).context("cannot remove what was compiled")?;
    Ok(object)
}

const FOLDER: &str = "crates/tombolo-relay/bpf";
const SOURCE: &str = "steer.bpf.c";
const OBJECT: &str = "steer.bpf.o";
/// Debian 12's.
const CLANG: &str = "clang-14";
const STRIP: &str = "llvm-strip-14";
