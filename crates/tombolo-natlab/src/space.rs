//! One network namespace: entering it, configuring it, its name.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns};

use crate::error::LabError;
use crate::means;

/// A host of the lab: a network namespace with its addresses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    addresses: Vec<IpAddr>,
    namespace: Arc<File>,
}

impl Host {
    /// Opens the namespace `name`, which must exist.
    pub(crate) fn open(name: &str, addresses: Vec<IpAddr>) -> Result<Self, LabError> {
        let namespace =
            File::open(format!("{DIRECTORY}/{name}")).map_err(|source| LabError::Namespace {
                action: "open",
                space: name.to_owned(),
                source,
            })?;
        Ok(Self {
            name: name.to_owned(),
            addresses,
            namespace: Arc::new(namespace),
        })
    }

    /// The namespace's name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's addresses, IPv4 before IPv6; of a router, those of its outer side.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The host's first IPv4 address.
    pub fn ipv4(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4)
    }

    /// The host's first IPv6 address.
    pub fn ipv6(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv6)
    }

    /// Runs `f` on a thread of its own inside the namespace.
    pub(crate) fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let result = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.namespace.as_ref(), CloneFlags::CLONE_NEWNET)?;
                Ok::<T, nix::Error>(f())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        result.map_err(|errno| self.failed("enter", errno.into()))
    }

    /// Writes kernel settings, each a path under `/proc/sys/` and its value. Those that this
    /// kernel does not have are left out.
    pub(crate) fn set(&self, settings: &[(&str, String)]) -> Result<(), LabError> {
        let write =
            |(path, value): &(&str, String)| match fs::write(format!("/proc/sys/{path}"), value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                written => written,
            };
        self.enter(|| settings.iter().try_for_each(write))?
            .map_err(|source| self.failed("change a kernel setting", source))
    }

    /// Waits until all links carry packets; until then the first ones would be lost. Makes an
    /// unanswered question for a neighbour be repeated soon, not after a second.
    pub(crate) fn settle(&self) -> Result<(), LabError> {
        let deadline = Instant::now() + SETTLING_MAX;
        self.enter(|| {
            while !are_links_running()? {
                if Instant::now() > deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                thread::sleep(Duration::from_millis(1));
            }
            for interface in getifaddrs()? {
                for family in ["ipv4", "ipv6"] {
                    let name = &interface.interface_name;
                    set_here(
                        &format!("net/{family}/neigh/{name}/retrans_time_ms"),
                        REPEAT_MS,
                    )?;
                }
            }
            Ok(())
        })?
        .map_err(|source| self.failed("wait for links", source))
    }

    /// Loads nftables rules into the namespace.
    pub(crate) fn load_rules(&self, rules: &str) -> Result<(), LabError> {
        self.start_rules(rules)?.finish()
    }

    /// Starts loading nftables rules into the namespace.
    pub(crate) fn start_rules(&self, rules: &str) -> Result<Job, LabError> {
        self.start("nft", &["-f", "-"], rules)
    }

    /// Starts a tool inside the namespace with `input` on its standard input.
    pub(crate) fn start(
        &self,
        tool: &'static str,
        args: &[&str],
        input: &str,
    ) -> Result<Job, LabError> {
        let mut command = Command::new(means::path_of(tool));
        command.args(args);
        let child = self.enter(|| start(&mut command, input))?;
        Job::new(tool, &self.name, child)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> LabError {
        LabError::Namespace {
            action,
            space: self.name.clone(),
            source,
        }
    }
}

/// Runs `ip -batch -` outside the lab's namespaces, or in `space`.
pub(crate) fn start_ip(space: Option<&str>, batch: &str) -> Result<Job, LabError> {
    let mut command = Command::new(means::path_of("ip"));
    if let Some(space) = space {
        command.args(["-n", space]);
    }
    command.args(["-batch", "-"]);
    Job::new("ip", space.unwrap_or("-"), start(&mut command, batch))
}

/// A tool at work.
pub(crate) struct Job {
    tool: &'static str,
    space: String,
    child: Child,
}

impl Job {
    fn new(tool: &'static str, space: &str, child: io::Result<Child>) -> Result<Self, LabError> {
        let child = child.map_err(|source| LabError::Tool { tool, source })?;
        Ok(Self {
            tool,
            space: space.to_owned(),
            child,
        })
    }

    /// Waits for the tool's end.
    pub(crate) fn finish(self) -> Result<(), LabError> {
        let Self { tool, space, child } = self;
        let output = child
            .wait_with_output()
            .map_err(|source| LabError::Tool { tool, source })?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(LabError::Refused {
            tool,
            space,
            message,
        })
    }
}

/// Starts `command`, feeds it `input` and closes its standard input.
fn start(command: &mut Command, input: &str) -> io::Result<Child> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    Ok(child)
}

/// Writes a setting of the calling thread's namespace, if this kernel has it.
fn set_here(path: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/{path}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

fn are_links_running() -> io::Result<bool> {
    let is_running = |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_RUNNING);
    Ok(getifaddrs()?.all(|interface| is_running(interface.flags)))
}

/// Where iproute2 keeps the names of network namespaces.
pub(crate) const DIRECTORY: &str = "/run/netns";
const SETTLING_MAX: Duration = Duration::from_secs(5);
const REPEAT_MS: &str = "20";
