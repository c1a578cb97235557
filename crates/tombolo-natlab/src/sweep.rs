//! Names of namespaces, and removing them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::LabError;
use crate::space::{DIRECTORY, start_ip};

/// What the names of all namespaces of one lab begin with.
pub(crate) fn prefix(process: u32, number: u32) -> String {
    format!("{MARK}-{process}-{number}-")
}

/// Removes namespaces of processes that are no more.
pub(crate) fn sweep() -> Result<Vec<String>, LabError> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Ok(Vec::new());
    };
    let mut leftovers: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|process| !is_alive(process)))
        .collect();
    leftovers.sort();
    for name in &leftovers {
        end_processes(name);
    }
    remove(&leftovers)?;
    Ok(leftovers)
}

/// Removes namespaces; those that are gone are no error.
pub(crate) fn remove(names: &[String]) -> Result<(), LabError> {
    let mut batch = String::new();
    for name in names
        .iter()
        .filter(|name| Path::new(DIRECTORY).join(name).exists())
    {
        let _ = writeln!(batch, "netns delete {name}");
    }
    if batch.is_empty() {
        Ok(())
    } else {
        start_ip(None, &batch)?.finish()
    }
}

/// The process that made a namespace of that name; `None` when no lab did.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(MARK)?
        .strip_prefix('-')?
        .split('-')
        .next()?
        .parse()
        .ok()
}

fn is_alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// Kills what a dead lab had started in its namespace: nothing else can be there.
fn end_processes(name: &str) {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(space) = fs::metadata(Path::new(DIRECTORY).join(name)) else {
        return;
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.filter_map(Result::ok) {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let inside = fs::metadata(process.path().join("ns/net"))
            .is_ok_and(|own| (own.dev(), own.ino()) == (space.dev(), space.ino()));
        if inside {
            // It may end by itself in this moment.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

const MARK: &str = "tombolo";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labs_names_tell_the_process_that_made_them() {
        assert_eq!(owner(&format!("{}net", prefix(42, 7))), Some(42));
    }

    #[test]
    fn other_namespaces_have_no_owner() {
        for name in [
            "tombolo",
            "tombolo-x-1-net",
            "other-42-0-net",
            "tombolo42-0-net",
        ] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
