//! The machine under the benchmark: a namespace of its own, cores, and what the kernel counts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::{Gid, Pid, Uid};

use crate::plan;

/// Moves this process, which must have one thread, into a network namespace of its own and gives that
/// the addresses of the plan. The namespace goes with the process and its children.
pub(crate) fn enter_namespace() -> anyhow::Result<()> {
    if Uid::effective().is_root() {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    } else {
        let (user, group) = (Uid::effective(), Gid::effective());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
            .context("make a network namespace without being root")?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    ip(&["link", "set", "lo", "up"])?;
    let server = format!("{}/32", plan::SERVER.ip());
    ip(&["address", "add", &server, "dev", "lo"])?;
    ip(&["route", "add", "local", plan::NETWORK, "dev", "lo"])
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let program = ["/usr/sbin/ip", "/sbin/ip"]
        .into_iter()
        .find(|path| Path::new(path).is_file());
    let status = Command::new(program.unwrap_or("ip"))
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .context("`ip` cannot be run: apt-get install iproute2")?;
    ensure!(
        status.success(),
        "`ip {}` ended with {status}",
        arguments.join(" ")
    );
    Ok(())
}

/// The two cores of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    Server = 0,
    Generator = 1,
}

/// Keeps this thread, and what it starts from now on, on one core. Best effort: on a machine with a
/// single one everything shares it.
pub(crate) fn stay_on(core: Core) {
    let mut set = CpuSet::new();
    if set.set(core as usize).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Run time of all threads of a process, in nanoseconds.
pub(crate) fn run_time(pid: u32) -> anyhow::Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut total = 0;
    for task in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        // A thread that ended meanwhile is none.
        let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        total += first.parse::<u64>().context("schedstat has numbers")?;
    }
    Ok(total)
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    field(&path, "VmRSS:")
}

/// Memory of the kernel's own objects, in bytes; of the whole machine, so only differences of a quiet
/// moment mean something.
pub(crate) fn slab() -> anyhow::Result<u64> {
    field("/proc/meminfo", "Slab:")
}

/// Files and sockets that a process has open.
pub(crate) fn descriptors(pid: u32) -> anyhow::Result<usize> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).context("read the open files")?;
    Ok(open.count())
}

/// UDP sockets of the namespace.
pub(crate) fn udp_sockets() -> anyhow::Result<usize> {
    let lines = fs::read_to_string("/proc/self/net/udp").context("read the UDP sockets")?;
    Ok(lines.lines().count().saturating_sub(1))
}

fn field(path: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.with_context(|| format!("{path} has no {name}"))?;
    let kilobytes = value.trim().trim_end_matches(" kB").trim();
    Ok(kilobytes.parse::<u64>()? * 1024)
}
