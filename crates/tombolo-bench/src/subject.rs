//! The servers under comparison, each a fresh process on its own core.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tombolo_stun::{Class, Message, MessageWriter, Method, TransactionId};

use crate::machine::{self, Core};
use crate::plan;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Subject {
    /// The bare forwarder.
    Floor,
    /// coturn, as Debian packages it.
    Coturn,
    /// Tombolo with a socket for each allocation.
    Sockets,
    /// Tombolo with an eBPF program and one socket for all allocations.
    Steered,
}

impl Subject {
    pub(crate) const ALL: [Self; 4] = [Self::Floor, Self::Coturn, Self::Sockets, Self::Steered];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Coturn => "coturn",
            Self::Sockets => "sockets",
            Self::Steered => "steered",
        }
    }

    pub(crate) fn is_tombolo(self) -> bool {
        matches!(self, Self::Sockets | Self::Steered)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) tombolo: PathBuf,
    pub(crate) coturn: PathBuf,
    /// Why this machine does not let Tombolo steer packets, once [`Self::probe`] has found out.
    unsteered: Option<String>,
}

impl Programs {
    /// Tombolo's binary as named, or the one that was built beside this program.
    pub(crate) fn find(tombolo: Option<PathBuf>) -> anyhow::Result<Self> {
        let beside = std::env::current_exe()?.with_file_name("tombolo");
        let tombolo = tombolo.unwrap_or(beside);
        let coturn = PathBuf::from("/usr/bin/turnserver");
        Ok(Self {
            tombolo,
            coturn,
            unsteered: None,
        })
    }

    /// Finds out, by trying, whether this machine allows what `steered` needs.
    pub(crate) fn probe(&mut self) {
        if self.missing(Subject::Steered).is_none()
            && let Err(error) = Server::start(Subject::Steered, self)
        {
            self.unsteered = Some(format!("{error:#}"));
        }
    }

    /// Why `subject` cannot be run here, if it can't.
    pub(crate) fn missing(&self, subject: Subject) -> Option<String> {
        let has = |path: &Path| path.is_file();
        match subject {
            Subject::Floor => None,
            Subject::Coturn => (!has(&self.coturn)).then(|| "apt-get install coturn".to_owned()),
            Subject::Steered if self.unsteered.is_some() => self.unsteered.clone(),
            Subject::Sockets | Subject::Steered => (!has(&self.tombolo)).then(|| {
                format!(
                    "{} is not there: cargo build --release -p tombolo",
                    self.tombolo.display()
                )
            }),
        }
    }
}

/// A running server. Ends when dropped.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts `subject` on its core and waits until it answers.
    pub(crate) fn start(subject: Subject, programs: &Programs) -> anyhow::Result<Self> {
        Self::start_with(subject, programs, &[])
    }

    /// The same with further arguments.
    pub(crate) fn start_with(
        subject: Subject,
        programs: &Programs,
        arguments: &[PathBuf],
    ) -> anyhow::Result<Self> {
        machine::stay_on(Core::Server);
        let started = command(subject, programs).and_then(|mut command| {
            Ok(command
                .args(arguments)
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?)
        });
        machine::stay_on(Core::Generator);
        let child = started.with_context(|| format!("start {subject}"))?;
        let mut server = Self { child };
        server
            .wait_until_ready(subject)
            .with_context(|| format!("wait for {subject}"))?;
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error once the server has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended with {status}");
        }
        Ok(())
    }

    fn wait_until_ready(&mut self, subject: Subject) -> anyhow::Result<()> {
        if subject == Subject::Coturn {
            // It logs nothing, and says nothing of faults in its arguments.
            self.child.stderr = None;
            return self.wait_for_binding();
        }
        let output = self.child.stdout.take().context("its output is piped")?;
        let errors = self.child.stderr.take().context("its errors are piped")?;
        let mut lines = BufReader::new(output);
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            let mut reason = String::new();
            BufReader::new(errors).read_to_string(&mut reason)?;
            bail!("it does not start: {}", reason.trim());
        }
        if subject.is_tombolo() {
            let ready: serde_json::Value = serde_json::from_str(&line)
                .with_context(|| format!("its first line is not JSON: {line:?}"))?;
            ensure!(ready["event"] == "ready", "its first line is {line:?}");
            let io = ready["io"].as_str().unwrap_or_default();
            ensure!(io == subject.name(), "it moves packets by {io:?}");
        } else {
            ensure!(line == "ready\n", "its first line is {line:?}");
        }
        // Whatever else it prints is read, so that it never waits for room in the pipe.
        thread::spawn(move || lines.lines().for_each(drop));
        thread::spawn(move || BufReader::new(errors).lines().for_each(drop));
        Ok(())
    }

    /// Asks with Binding requests until one is answered.
    fn wait_for_binding(&mut self) -> anyhow::Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(plan::SERVER)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut request = Vec::new();
        let id = TransactionId(*b"is it there?");
        MessageWriter::new(&mut request, Class::Request, Method::BINDING, id);
        let deadline = Instant::now() + READY_MAX;
        let mut reply = [0; 1500];
        while Instant::now() < deadline {
            self.check()?;
            // Refused until the server listens.
            if socket.send(&request).is_ok()
                && let Ok(len) = socket.recv(&mut reply)
                && Message::decode(&reply[..len])
                    .is_ok_and(|message| message.class() == Class::Success)
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("no reply within {READY_MAX:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to save, and a fault of the kill means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(subject: Subject, programs: &Programs) -> anyhow::Result<Command> {
    if let Some(reason) = programs.missing(subject) {
        bail!("{reason}");
    }
    let users = (0..plan::USERS).map(|user| format!("{}:{}", plan::user(user), plan::PASSWORD));
    let mut command = match subject {
        Subject::Floor => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["floor", "--flows", &FLOOR_FLOWS.to_string()]);
            command
        }
        Subject::Coturn => {
            let mut command = Command::new(&programs.coturn);
            let ip = plan::SERVER.ip();
            command.arg("-n").args([
                format!("--listening-ip={ip}"),
                format!("--relay-ip={ip}"),
                format!("--listening-port={}", plan::SERVER.port()),
                format!("--realm={}", plan::REALM),
            ]);
            command
                .args(COTURN)
                .args(users.map(|user| format!("--user={user}")));
            command
        }
        Subject::Sockets | Subject::Steered => {
            let mut command = Command::new(&programs.tombolo);
            let (listen, ip) = (plan::SERVER.to_string(), plan::SERVER.ip().to_string());
            command.args(["turn", "--json", "--shards", "1", "--io", subject.name()]);
            command.args(["--listen", &listen, "--relay-ip", &ip]);
            command.args(["--metrics", &plan::METRICS.to_string()]);
            command.args(["--realm", plan::REALM, "--allow-peer", plan::NETWORK]);
            command.args(users.flat_map(|user| ["--user".to_owned(), user]));
            command
        }
    };
    let piped = subject != Subject::Coturn;
    command.stdout(if piped { Stdio::piped() } else { Stdio::null() });
    Ok(command)
}

/// What a plain UDP relay on one core needs, and no log.
const COTURN: &[&str] = &[
    "--min-port=49152",
    "--max-port=65535",
    "--lt-cred-mech",
    "--allow-loopback-peers",
    "--no-tls",
    "--no-dtls",
    "--no-tcp",
    "--no-tcp-relay",
    "--no-cli",
    "--no-software-attribute",
    "--log-file=/dev/null",
    "--no-stdout-log",
    "--simple-log",
    "-m",
    "1",
];
/// The most that a row needs.
const FLOOR_FLOWS: usize = 100;
const READY_MAX: Duration = Duration::from_secs(10);
