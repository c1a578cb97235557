//! The nodes of a scenario: one, or two of a cluster of which the first is to be drained.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::events::Ready;
use super::run::{END_MAX, RunError, Runner, gather};
use crate::lab::Lab;
use crate::process::Child;

/// All nodes, the devices' first.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    /// What they have between them; ends after them.
    _nats: Option<Nats>,
}

impl Nodes {
    pub(super) fn start(runner: &Runner, lab: &Lab, is_cluster: bool) -> Result<Self, RunError> {
        let addresses = lab.node().addresses();
        if !is_cluster {
            let node = Node::start(runner, lab, addresses, &[])?;
            return Ok(Self {
                nodes: vec![node],
                _nats: None,
            });
        }
        let nats = Nats::start(runner, lab)?;
        let url = format!("nats://{}", nats.address);
        // Each of the two has one of the public addresses in each family.
        let place = |v4: bool, index: usize| {
            let mut of_family = addresses.iter().filter(move |ip| ip.is_ipv4() == v4);
            of_family.nth(index).copied()
        };
        let mut nodes = Vec::new();
        for (index, name) in ["node-1", "node-2"].into_iter().enumerate() {
            let own: Vec<IpAddr> = [true, false]
                .into_iter()
                .filter_map(|v4| place(v4, index))
                .collect();
            let mut cluster = vec!["--name", name, "--nats", &url, "--nats-replicas", "1"];
            cluster.extend(["--drain-timeout", DRAIN_MAX_SECONDS]);
            nodes.push(Node::start(runner, lab, &own, &cluster)?);
        }
        Ok(Self {
            nodes,
            _nats: Some(nats),
        })
    }

    /// Waits until all of them are ready; returns what the first says of itself.
    pub(super) fn ready(&mut self) -> Result<Ready, RunError> {
        let ready: Vec<_> = self
            .nodes
            .iter_mut()
            .map(Node::ready)
            .collect::<Result<_, _>>()?;
        ready.into_iter().next().ok_or(RunError::Node {
            said: String::new(),
        })
    }

    /// Sends the first one's devices to the others.
    pub(super) fn drain_first(&mut self) -> Result<(), RunError> {
        self.nodes[0].terminate()
    }

    /// Ends them; returns what they said.
    pub(super) fn end(self) -> Result<String, RunError> {
        let said: Vec<_> = self
            .nodes
            .into_iter()
            .map(Node::end)
            .collect::<Result<_, _>>()?;
        Ok(said.concat())
    }
}

struct Node {
    child: Child,
    lines: Receiver<String>,
    said: JoinHandle<String>,
}

impl Node {
    fn start(
        runner: &Runner,
        lab: &Lab,
        addresses: &[IpAddr],
        more: &[&str],
    ) -> Result<Self, RunError> {
        let mut command = Command::new(&runner.binary);
        command.args(["serve", "--dev", "--json"]).args(more);
        for address in addresses {
            command.args(["--listen", &address.to_string()]);
        }
        for range in PUBLIC_RANGES {
            command.args(["--allow-peer", range]);
        }
        command
            .env("RUST_LOG", LOG)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = lab.spawn(lab.node(), command)?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // After the first line nobody listens; the pipe must be emptied all the same.
                    let _ = sender.send(line);
                }
            });
        }
        let said = gather(child.stderr.take());
        Ok(Self { child, lines, said })
    }

    fn ready(&mut self) -> Result<Ready, RunError> {
        let line = self.lines.recv_timeout(START_MAX);
        if let Some(ready) = line.as_deref().ok().and_then(Ready::parse) {
            return Ok(ready);
        }
        // Its standard error is complete only when it has ended.
        let _ = self.child.kill();
        let said = std::mem::replace(&mut self.said, thread::spawn(String::new));
        let said = said.join().unwrap_or_default();
        Err(RunError::Node {
            said: format!("{} {said}", line.unwrap_or_default()),
        })
    }

    fn terminate(&mut self) -> Result<(), RunError> {
        self.child.terminate().map_err(|source| RunError::System {
            action: "end the node",
            source,
        })
    }

    fn end(mut self) -> Result<String, RunError> {
        let failed = |source| RunError::System {
            action: "end the node",
            source,
        };
        self.terminate()?;
        if self.child.wait_at_most(END_MAX).map_err(failed)?.is_none() {
            let _ = self.child.kill();
            let said = self.said.join().unwrap_or_default();
            return Err(RunError::Node {
                said: format!("ignores SIGTERM; {said}"),
            });
        }
        Ok(self.said.join().unwrap_or_default())
    }
}

/// A NATS server beside the nodes, with a folder of its own that goes with it.
struct Nats {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Nats {
    fn start(runner: &Runner, lab: &Lab) -> Result<Self, RunError> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("natlab-{}-nats-{number}", std::process::id()));
        let ip = lab.node().addresses()[0];
        let address = SocketAddr::new(ip, 4222);
        let mut command = Command::new(program(runner));
        command
            .arg("-js")
            .arg("-sd")
            .arg(&folder)
            .args(["-a", &ip.to_string(), "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = lab.spawn(lab.node(), command)?;
        let nats = Self {
            child,
            address,
            folder,
        };
        let begun = Instant::now();
        while lab
            .enter(lab.node(), || std::net::TcpStream::connect(address))?
            .is_err()
        {
            if begun.elapsed() > START_MAX {
                return Err(RunError::Node {
                    said: "the NATS server does not listen".to_owned(),
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(nats)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // It may have ended by itself; the folder is only a temporary one.
        let _ = self.child.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The NATS server that is to be run.
fn program(runner: &Runner) -> PathBuf {
    if let Some(program) = &runner.nats_server {
        return program.clone();
    }
    let folders = runner.binary.ancestors();
    let beside = folders.map(|folder| folder.join("nats/nats-server"));
    let mut found = beside.filter(|path| Path::is_file(path));
    found.next().unwrap_or_else(|| PathBuf::from("nats-server"))
}

/// The ranges of the lab's public addresses, which a node refuses as peers unless told otherwise.
const PUBLIC_RANGES: [&str; 4] = [
    "203.0.113.0/24",
    "198.51.100.0/24",
    "192.0.2.0/24",
    "2001:db8::/32",
];
/// Beside what is wrong, how a drain ended.
const LOG: &str = "warn,tombolo::serve=info";
/// Ends well before the devices' traffic does: what still goes through a drained node then is lost.
const DRAIN_MAX_SECONDS: &str = "10";
const START_MAX: Duration = Duration::from_secs(10);
