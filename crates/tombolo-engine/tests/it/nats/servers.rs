//! NATS servers for tests, each a process of its own that ends with the test.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ring::rand::{SecureRandom as _, SystemRandom};

/// The server of the tests, or why there is none.
pub(crate) fn current() -> Result<PathBuf, String> {
    installed("nats-server")
}

/// A program of `scripts/install-nats.sh`, or why it is not there.
pub(crate) fn installed(name: &str) -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let path = target.join("nats").join(name);
    if path.is_file() {
        return Ok(path);
    }
    let install = Command::new(root.join("scripts/install-nats.sh"))
        .stderr(Stdio::null())
        .output();
    if path.is_file() {
        return Ok(path);
    }
    let said = install.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    Err(said.unwrap_or_else(|error| error.to_string()))
}

/// Servers that form a cluster, or one alone.
pub(crate) struct Servers {
    pub(crate) servers: Vec<Server>,
    /// In which each server keeps what it has on disk, in a folder of its name.
    pub(crate) folder: PathBuf,
}

/// One server.
pub(crate) struct Server {
    pub(crate) binary: PathBuf,
    config: PathBuf,
    pub(crate) address: SocketAddr,
    process: Option<Child>,
}

/// For a server's configuration.
pub(crate) const WITHOUT_JETSTREAM: &str = "# It has no JetStream.";

/// Where a server runs: starts its process.
pub(crate) type Starter<'a> = &'a dyn Fn(usize, Command) -> Child;

impl Servers {
    /// Starts servers on loopback. `more` goes into the configuration of each.
    pub(crate) fn start(binary: &Path, count: usize, more: &str) -> Self {
        let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST); count];
        Self::start_at(binary, &addresses, more, &|_, mut command| {
            command.spawn().expect("the server starts")
        })
    }

    /// Starts a server at each address.
    pub(crate) fn start_at(
        binary: &Path,
        ips: &[IpAddr],
        more: &str,
        starter: Starter<'_>,
    ) -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tombolo-nats-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let ports: Vec<[u16; 2]> = ips.iter().map(|_| free_ports()).collect();
        let routes: Vec<String> = ips
            .iter()
            .zip(&ports)
            .map(|(ip, ports)| format!("nats://{}", SocketAddr::new(*ip, ports[1])))
            .collect();
        let mut servers = Vec::new();
        for (index, (ip, [port, route])) in ips.iter().zip(&ports).enumerate() {
            let address = SocketAddr::new(*ip, *port);
            let mut text = format!("server_name: n{index}\nlisten: \"{address}\"\n{more}\n");
            if more != WITHOUT_JETSTREAM {
                let store = folder.join(format!("n{index}"));
                text +=
                    &format!("jetstream {{ store_dir: {store:?}, max_mem: 256M, max_file: 4G }}\n");
            }
            if ips.len() > 1 {
                let at = SocketAddr::new(*ip, *route);
                text +=
                    &format!("cluster {{ name: test, listen: \"{at}\", routes: {routes:?} }}\n");
            }
            let config = folder.join(format!("n{index}.conf"));
            fs::write(&config, text).expect("a configuration");
            servers.push(Server {
                binary: binary.to_owned(),
                config,
                address,
                process: None,
            });
        }
        for (index, server) in servers.iter_mut().enumerate() {
            server.run(index, starter);
        }
        Self { servers, folder }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        let servers = self.servers.iter();
        servers
            .map(|server| format!("nats://{}", server.address))
            .collect()
    }
}

impl Server {
    /// Starts the process, and waits until it serves.
    fn run(&mut self, index: usize, starter: Starter<'_>) {
        // It does not outlive the test, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&self.binary)
            .arg("-c")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = starter(index, command);
        let mut log = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        let mut said = String::new();
        let is_ready = log.by_ref().map_while(Result::ok).any(|line| {
            said += &line;
            said.push('\n');
            line.contains("Server is ready")
        });
        assert!(is_ready, "the server does not start:\n{said}");
        // It would wait when nobody read.
        std::thread::spawn(move || log.for_each(drop));
        self.process = Some(process);
    }

    /// Starts it again with what it has on disk.
    pub(crate) fn start_again(&mut self, index: usize, starter: Starter<'_>) {
        self.kill();
        self.run(index, starter);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Fails only when it has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops it where it is, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            let pid = i32::try_from(process.id()).expect("a process number");
            kill(Pid::from_raw(pid), signal).expect("the process is there");
            // A process of many threads stops one after the other.
            let status = format!("/proc/{pid}/status");
            while signal == Signal::SIGSTOP
                && !fs::read_to_string(&status).is_ok_and(|text| text.contains("State:\tT"))
            {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.kill();
        }
        // What is left of a test is no matter.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Two ports that nobody uses at the moment, below those that Linux gives to whoever asks for any: a
/// server that is started again finds its own free.
fn free_ports() -> [u16; 2] {
    let mut drawn = std::iter::repeat_with(|| {
        let mut random = [0; 2];
        let filled = SystemRandom::new().fill(&mut random);
        filled.expect("the system has random numbers");
        10_000 + u16::from_be_bytes(random) % 20_000
    });
    let mut listen = || drawn.find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let listeners = [(); 2].map(|()| listen().expect("ports are drawn for ever"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

/// Says something to whoever watches a long run.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
