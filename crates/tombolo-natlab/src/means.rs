//! What this machine allows, and what it lacks.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::nat::{Nat, Profile};

/// How a lab can be run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// This process may make namespaces: it is root, or runs in a user namespace of its own.
    Direct,
    /// A child in a new user namespace may: see [`reexec_in_user_namespace`].
    UserNamespace,
}

/// Why no lab can be run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// Programs are not installed.
    #[error("missing {}: {}", names(.0), install_command(.0))]
    Tools(Vec<Tool>),
    /// Neither root's rights nor unprivileged user namespaces.
    #[error(
        "network namespaces need root or unprivileged user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=1000): {0}"
    )]
    Namespaces(String),
    /// The kernel refuses a rule that a NAT is made of.
    #[error("the kernel does not take the lab's rules: {0}")]
    Kernel(String),
}

/// A program that the lab runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The program's name.
    pub name: &'static str,
    /// The Debian package that holds it.
    pub package: &'static str,
}

impl Tool {
    /// The command that installs it, as root, on Debian.
    pub fn install_command(self) -> String {
        install_command(&[self])
    }
}

/// The programs that the lab runs.
pub const TOOLS: [Tool; 6] = [
    Tool {
        name: "ip",
        package: "iproute2",
    },
    Tool {
        name: "nft",
        package: "nftables",
    },
    Tool {
        name: "iptables",
        package: "iptables",
    },
    Tool {
        name: "ip6tables",
        package: "iptables",
    },
    Tool {
        name: "conntrack",
        package: "conntrack",
    },
    Tool {
        name: "unshare",
        package: "util-linux",
    },
];

/// Finds out how a lab can be run here, by trying: a namespace, and rules in it.
///
/// # Errors
/// What is missing, with what to do about it.
pub(crate) fn check() -> Result<Means, Missing> {
    let missing = missing_tools();
    if !missing.is_empty() {
        return Err(Missing::Tools(missing));
    }
    match try_namespace() {
        Ok(Ok(())) => Ok(Means::Direct),
        Ok(Err(message)) => Err(Missing::Kernel(message)),
        Err(refusal) if env::var_os(INSIDE).is_some() => Err(Missing::Namespaces(refusal)),
        Err(_) => try_user_namespace().map(|()| Means::UserNamespace),
    }
}

/// The Debian packages that hold the missing programs, each once; empty when all are here.
pub fn packages_needed() -> Vec<&'static str> {
    packages(&missing_tools())
}

/// Runs the current executable again with `args`, as root of a new user namespace with a network
/// and a mount namespace of its own, and waits for its end. Standard streams are inherited.
///
/// Inside, [`Lab::check`](crate::Lab::check) answers [`Means::Direct`].
///
/// # Errors
/// When the executable cannot be found or `unshare` cannot be started.
pub fn reexec_in_user_namespace<I, S>(args: I) -> io::Result<ExitStatus>
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    user_namespace(PREPARE)
        .arg(env::current_exe()?)
        .args(args)
        .status()
}

/// The path of a program of [`TOOLS`], looked for where root's programs are too.
pub(crate) fn path_of(tool: &str) -> PathBuf {
    find(tool).unwrap_or_else(|| PathBuf::from(tool))
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|candidate| Path::is_file(candidate))
}

fn missing_tools() -> Vec<Tool> {
    TOOLS
        .into_iter()
        .filter(|tool| find(tool.name).is_none())
        .collect()
}

/// Makes a namespace on a thread of its own, which takes it along when it ends, and loads into it
/// rules of every kind. `Err` when namespaces are refused, `Ok(Err)` when rules are.
fn try_namespace() -> Result<Result<(), String>, String> {
    thread::scope(|scope| {
        let attempt = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| errno.to_string())?;
            if !writable_name_directory() {
                return Err("/run/netns cannot be written".to_owned());
            }
            Ok(try_rules())
        });
        attempt
            .join()
            .unwrap_or_else(|_| Err("the attempt panicked".to_owned()))
    })
}

/// Whether `ip netns add` will find a place for its names.
fn writable_name_directory() -> bool {
    use nix::unistd::{AccessFlags, access};
    access("/run/netns", AccessFlags::W_OK).is_ok() || access("/run", AccessFlags::W_OK).is_ok()
}

fn try_rules() -> Result<(), String> {
    use std::io::Write as _;
    let wan = std::net::Ipv4Addr::new(192, 0, 2, 1);
    let rules = Nat::new(Profile::FullCone)
        .with_hairpin()
        .ruleset(Some(wan));
    let attempt = Command::new(path_of("nft"))
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            if let Some(mut stdin) = child.stdin.take() {
                // What nft did not read, it complains about.
                let _ = stdin.write_all(rules.as_bytes());
            }
            child.wait_with_output()
        });
    match attempt {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(first_line(&output.stderr)),
        Err(error) => Err(error.to_string()),
    }
}

fn try_user_namespace() -> Result<(), Missing> {
    let attempt = user_namespace(PREPARE)
        .arg("true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    match attempt {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Missing::Namespaces(first_line(&output.stderr))),
        Err(error) => Err(Missing::Namespaces(error.to_string())),
    }
}

/// `unshare` with a script that ends in `exec "$@"`.
fn user_namespace(script: &str) -> Command {
    let mut command = Command::new(path_of("unshare"));
    command
        .args([
            "--map-root-user",
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
        ])
        .args([script, "natlab"])
        .env(INSIDE, "1");
    command
}

fn first_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output)
        .lines()
        .next()
        .unwrap_or("no reason given")
        .to_owned()
}

fn names(tools: &[Tool]) -> String {
    tools
        .iter()
        .map(|tool| tool.name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn install_command(tools: &[Tool]) -> String {
    format!("apt-get install -y {}", packages(tools).join(" "))
}

fn packages(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools.iter().map(|tool| tool.package).collect();
    packages.dedup();
    packages
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "network namespaces",
            Self::UserNamespace => "network namespaces in a user namespace",
        })
    }
}

/// Set for a process that [`reexec_in_user_namespace`] started.
const INSIDE: &str = "TOMBOLO_NATLAB_INSIDE";

/// `ip netns` keeps names under /run, which only the outer root may write.
const PREPARE: &str = r#"mount -t tmpfs none /run
mkdir -p /run/netns
PATH="$PATH:/usr/sbin:/sbin" ip link set lo up
exec "$@""#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_named_with_one_install_command() {
        let missing = Missing::Tools(vec![TOOLS[1], TOOLS[2], TOOLS[3]]);
        assert_eq!(
            missing.to_string(),
            "missing nft, iptables, ip6tables: apt-get install -y nftables iptables"
        );
    }
}
