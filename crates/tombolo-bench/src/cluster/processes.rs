//! The servers and nodes, each a process that ends with the harness.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tombolo_wire::UserId;
use tombolo_wire::token::{Claims, SigningKey};

use super::wires::{self, Wires};

/// A process, which is killed when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid(), signal).context("signal a process")
    }

    /// `kill -9`; returns when it has ended.
    pub(crate) fn kill(&mut self) {
        // Fails only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Whether it has ended, and well.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<bool>> {
        let status = self.0.try_wait().context("look at a process")?;
        Ok(status.map(|status| status.success()))
    }

    /// Processor time so far.
    pub(crate) fn cpu(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        // What follows the name, which may hold anything: the state is field 3, times are 14 and 15.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder that is removed when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let path = Self::ours();
        fs::create_dir_all(&path).context("a folder for the servers")?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn ours() -> PathBuf {
        std::env::temp_dir().join(format!("tombolo-bench-{}", std::process::id()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of a run is no matter.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// NATS servers that form a cluster.
pub(crate) struct Nats {
    binary: PathBuf,
    configs: Vec<PathBuf>,
    pub(crate) urls: Vec<String>,
    pub(crate) servers: Vec<Option<Process>>,
    /// Between each server and the others.
    pub(crate) wires: Vec<Wires>,
}

impl Nats {
    pub(crate) fn start(binary: &Path, folder: &Folder, count: usize) -> anyhow::Result<Self> {
        let ports: Vec<_> = (0..count).map(|_| free_ports()).collect::<Result<_, _>>()?;
        let wires: Vec<_> = (0..count).map(|_| Wires::new()).collect();
        let mut nats = Self {
            binary: binary.to_owned(),
            configs: Vec::new(),
            urls: Vec::new(),
            servers: Vec::new(),
            wires: Vec::new(),
        };
        for (index, [port, route]) in ports.iter().copied().enumerate() {
            let others = (0..count).filter(|other| *other != index);
            let routes = others.map(|other| {
                let there = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[other][1]));
                let wire = wires::lay(there, [&wires[index], &wires[other]])?;
                Ok(format!("nats://127.0.0.1:{wire}"))
            });
            let routes = routes.collect::<anyhow::Result<Vec<_>>>()?;
            let text = format!(
                "server_name: n{index}\nlisten: \"127.0.0.1:{port}\"\n\
                 jetstream {{ store_dir: {:?}, max_mem: 256M, max_file: 4G }}\n\
                 cluster {{ name: bench, listen: \"127.0.0.1:{route}\", routes: {routes:?} }}\n",
                folder.0.join(format!("n{index}"))
            );
            let config = folder.0.join(format!("n{index}.conf"));
            fs::write(&config, text).context("a configuration")?;
            nats.configs.push(config);
            nats.urls.push(format!("nats://127.0.0.1:{port}"));
            nats.servers.push(None);
        }
        nats.wires = wires;
        for index in 0..count {
            nats.start_server(index)?;
        }
        Ok(nats)
    }

    /// Starts a server with what it has on disk; returns when it serves.
    pub(crate) fn start_server(&mut self, index: usize) -> anyhow::Result<()> {
        let mut command = ends_with_us(&self.binary);
        command.arg("-c").arg(&self.configs[index]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process(command.spawn().context("start a NATS server")?);
        let log = process.0.stderr.take().context("a pipe")?;
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        let is_ready = lines.by_ref().any(|line| line.contains("Server is ready"));
        ensure!(is_ready, "a NATS server does not start");
        // It would wait when nobody read.
        std::thread::spawn(move || lines.for_each(drop));
        self.servers[index] = Some(process);
        Ok(())
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.servers[index] = None;
    }
}

/// A Tombolo node.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) url: String,
    /// What it is called in the cluster.
    name: String,
}

/// How a node is reached, and what it is called by devices that are on it.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Node {
    pub(crate) fn address(&self) -> Address {
        Address {
            url: self.url.clone(),
            name: self.name.clone(),
        }
    }

    /// Starts a node that is alone, with one thread; returns when it serves.
    pub(crate) fn start_alone(program: &Path) -> anyhow::Result<Self> {
        Self::start_alone_with(program, &[])
    }

    /// The same, with more on its command line.
    pub(crate) fn start_alone_with(program: &Path, more: &[&OsStr]) -> anyhow::Result<Self> {
        let mut command = ends_with_us(program);
        command
            .args(["serve", "--dev", "--json"])
            .args(["--listen", "127.0.1.1"])
            .args(["--port", "0", "--turn-port", "0", "--turns-port", "0"])
            .args(more)
            .env("TOKIO_WORKER_THREADS", "1");
        Self::start(command)
    }

    fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = Process(command.spawn().context("start a node")?);
        let output = process.0.stdout.take().context("a pipe")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let begun = Instant::now();
        let first = lines.next().context("a node does not start")?;
        std::thread::spawn(move || lines.for_each(drop));
        let ready: Value = serde_json::from_str(&first).context("what a node says first")?;
        let url = ready["url"].as_str().context("a URL")?.to_owned();
        let name = ready["name"].as_str().context("a name")?.to_owned();
        eprintln!("a node serves at {url} after {:.1?}", begun.elapsed());
        Ok(Self { process, url, name })
    }
}

/// How nodes are started.
pub(crate) struct Nodes<'a> {
    pub(crate) program: &'a Path,
    pub(crate) nats: &'a [String],
}

impl Nodes<'_> {
    /// Starts the node with a number, each on a loopback address of its own; returns when it serves.
    pub(crate) fn start(&self, index: usize) -> anyhow::Result<Node> {
        self.start_with(index, &[])
    }

    /// The same, with more on its command line.
    pub(crate) fn start_with(&self, index: usize, more: &[&OsStr]) -> anyhow::Result<Node> {
        // Another harness that runs at the same time has addresses of its own.
        let ours = u8::try_from(std::process::id() % 250 + 1).context("an address")?;
        let number = u8::try_from(index + 1).context("too many nodes")?;
        let ip = Ipv4Addr::new(127, ours, 1, number);
        let mut command = ends_with_us(self.program);
        command
            .args(["serve", "--dev", "--json"])
            .args(["--listen", &ip.to_string()])
            .args([
                "--token-key",
                &format!("{KEY_NAME}={}", key_file()?.display()),
            ])
            .args(["--allow-peer", "127.0.0.0/8"])
            .args(["--nats", &self.nats.join(",")])
            .args(more);
        Node::start(command).with_context(|| format!("node {index}"))
    }
}

/// A token for a device, as an application's server would make it: devices that come back need not ask
/// a node for one.
pub(crate) fn token(user: &str) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let claims = Claims::new(UserId::parse(user)?, now + TOKEN_LASTS);
    let key = SigningKey::hs256(KEY_NAME, KEY)?;
    key.mint(&claims).context("make a token")
}

/// Where nodes read the key of tokens.
fn key_file() -> anyhow::Result<PathBuf> {
    let path = Folder::ours().join("token.key");
    fs::write(&path, KEY).context("the key of tokens")?;
    Ok(path)
}

/// A command whose process ends when this one does, however that ends.
fn ends_with_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// Two ports that nobody uses at the moment.
fn free_ports() -> anyhow::Result<[u16; 2]> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners = [TcpListener::bind(any)?, TcpListener::bind(any)?];
    let [first, second] = listeners.map(|listener| listener.local_addr());
    Ok([first?.port(), second?.port()])
}

/// The key that signs tokens in a run, and nowhere else.
const KEY_NAME: &str = "bench";
const KEY: &[u8] = b"a secret of the benchmark, which serves nobody else";

/// Longer than any run.
const TOKEN_LASTS: Duration = Duration::from_hours(24);

/// `USER_HZ`, which Linux fixes for all programs.
const TICKS_PER_SECOND: u64 = 100;
