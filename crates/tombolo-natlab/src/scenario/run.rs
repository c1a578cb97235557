//! Runs a scenario with the real program.

use std::io::{self, BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Scenario;
use super::events::{Event, Line, PeerState, Ready};
use super::nodes::Nodes;
use super::outcome::{Ended, PeerRun, Run, USERS};
use crate::error::LabError;
use crate::lab::Lab;
use crate::process::Child;
use crate::space::Host;

/// Runs scenarios with one build of the program.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Runner {
    /// The `tombolo` program.
    pub binary: PathBuf,
    /// The `nats-server` program, for scenarios with several nodes; by default as
    /// `scripts/install-nats.sh` puts it beside the program, or where the system finds it.
    pub nats_server: Option<PathBuf>,
}

/// Why a scenario could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The lab could not be built or changed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The node did not say that it is ready.
    #[error("the node is not ready: {said}")]
    Node {
        /// Its output and standard error.
        said: String,
    },
    /// A device did not end by itself.
    #[error("device {user} still runs after {seconds} s: {said}")]
    Stuck {
        /// Which device.
        user: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// Its standard error.
        said: String,
    },
    /// The system refused something.
    #[error("cannot {action}")]
    System {
        /// What was attempted, as a verb.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Runner {
    /// Runs scenarios with that program.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            nats_server: None,
        }
    }

    /// Builds the lab, starts a node and two devices, waits for the devices' end, and judges.
    ///
    /// # Errors
    /// When it could not be run at all. Expectations that are not met are [`Run::failures`].
    pub fn run(&self, scenario: &Scenario) -> Result<Run, RunError> {
        let lab = scenario.lab().build()?;
        self.run_in(&lab, scenario)
    }

    /// Does the same in a lab that has been built from [`Scenario::lab`].
    ///
    /// # Errors
    /// See [`Runner::run`].
    pub fn run_in(&self, lab: &Lab, scenario: &Scenario) -> Result<Run, RunError> {
        let start = Instant::now();
        let mut nodes = Nodes::start(self, lab, scenario.drain_after.is_some())?;
        let ready = nodes.ready()?;
        let (sender, lines) = channel();
        let mut devices = Vec::new();
        for (index, host) in scenario.devices(lab)?.into_iter().enumerate() {
            let url = url_for(&ready, lab.node(), host);
            let command = self.peer_command(&url, USERS[index], scenario);
            devices.push(Device::start(lab, host, command, index, sender.clone())?);
        }
        drop(sender);
        let mut story = Story::new(scenario);
        story.follow(lab, &lines, &mut devices, &mut nodes)?;
        let mut peers = Vec::new();
        for (device, (lines, unread)) in devices.into_iter().zip(story.told) {
            peers.push(device.end(lines, unread)?);
        }
        let node_said = nodes.end()?;
        let peers: [PeerRun; 2] = match peers.try_into() {
            Ok(peers) => peers,
            Err(_) => unreachable!("two devices were started"),
        };
        let mut run = Run {
            peers,
            took: start.elapsed(),
            cut: story.cut,
            failures: Vec::new(),
            node_said,
        };
        run.failures = run.judge(scenario);
        Ok(run)
    }

    fn peer_command(&self, url: &str, user: &str, scenario: &Scenario) -> Command {
        let traffic = scenario.traffic;
        let mut command = Command::new(&self.binary);
        command
            .args([
                "peer", "--server", url, "--user", user, "--room", "lab", "--json",
            ])
            .args(["--lane", scenario.lane.name()])
            .args(["--send-every", &traffic.every.as_millis().to_string()])
            .args(["--count", &traffic.count.to_string()])
            .args(["--size", &traffic.size.to_string()])
            .args(["--duration", &duration(scenario).as_secs().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

struct Device {
    user: &'static str,
    child: Child,
    said: JoinHandle<String>,
}

/// A line of device 0 or 1; `None` when its output has ended.
type Told = (usize, Option<String>);

impl Device {
    fn start(
        lab: &Lab,
        host: &Host,
        command: Command,
        index: usize,
        lines: Sender<Told>,
    ) -> Result<Self, RunError> {
        let mut child = lab.spawn(host, command)?;
        let said = gather(child.stderr.take());
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let read = BufReader::new(stdout).lines().map_while(Result::ok);
                for line in read.map(Some).chain([None]) {
                    if lines.send((index, line)).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self {
            user: USERS[index],
            child,
            said,
        })
    }

    fn end(mut self, lines: Vec<Line>, unread: Vec<String>) -> Result<PeerRun, RunError> {
        let failed = |source| RunError::System {
            action: "wait for a device",
            source,
        };
        let status = self.child.wait_at_most(END_MAX).map_err(failed)?;
        let ended = match status {
            Some(status) if status.success() => Ended::Well,
            Some(_) | None => Ended::Badly,
        };
        let _ = self.child.kill();
        let said = self.said.join().unwrap_or_default();
        Ok(PeerRun {
            user: self.user,
            lines,
            unread,
            ended,
            said,
        })
    }
}

/// What the devices tell, and what is done to the network meanwhile.
struct Story<'a> {
    scenario: &'a Scenario,
    told: [(Vec<Line>, Vec<String>); 2],
    ended: [bool; 2],
    deadline: Instant,
    step: Step,
    cut: Option<(f64, f64)>,
    reboot_at: Option<Instant>,
    drain_at: Option<Instant>,
}

/// How far the cut has come.
#[derive(Clone, Copy)]
enum Step {
    Connecting,
    CutAt(Instant),
    HealAt(Instant, f64),
    Done,
}

impl<'a> Story<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        Self {
            scenario,
            told: Default::default(),
            ended: [false; 2],
            deadline: Instant::now() + duration(scenario) + GRACE,
            step: if scenario.cut.is_some() {
                Step::Connecting
            } else {
                Step::Done
            },
            cut: None,
            reboot_at: scenario.reboot_after.map(|after| Instant::now() + after),
            drain_at: scenario.drain_after.map(|after| Instant::now() + after),
        }
    }

    /// Listens until both devices have ended.
    fn follow(
        &mut self,
        lab: &Lab,
        lines: &Receiver<Told>,
        devices: &mut [Device],
        nodes: &mut Nodes,
    ) -> Result<(), RunError> {
        while self.ended != [true; 2] {
            self.advance(lab)?;
            if self.drain_at.take_if(|at| Instant::now() >= *at).is_some() {
                nodes.drain_first()?;
            }
            let next = match self.step {
                Step::CutAt(at) | Step::HealAt(at, _) => at.min(self.deadline),
                Step::Connecting | Step::Done => self.deadline,
            };
            let events = [self.reboot_at, self.drain_at].into_iter().flatten();
            let next = events.fold(next, Instant::min);
            match lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok((index, Some(line))) => self.hear(index, line),
                Ok((index, None)) => self.ended[index] = true,
                Err(RecvTimeoutError::Timeout) if Instant::now() < self.deadline => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(self.stuck(devices));
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, index: usize, line: String) {
        match Line::parse(&line) {
            Some(line) => self.told[index].0.push(line),
            None => self.told[index].1.push(line),
        }
    }

    fn advance(&mut self, lab: &Lab) -> Result<(), RunError> {
        if self.reboot_at.is_some_and(|at| Instant::now() >= at) {
            self.reboot_at = None;
            lab.reboot_nat(&self.scenario.a.name)?;
        }
        let (Some(cut), Some(b)) = (self.scenario.cut, &self.scenario.b) else {
            return Ok(());
        };
        let a = &self.scenario.a;
        let now = Instant::now();
        match self.step {
            Step::Connecting if self.are_direct() => self.step = Step::CutAt(now + cut.after),
            Step::CutAt(at) if now >= at => {
                // The rule takes effect at some moment of the call; the pause counts from before.
                let at = unix_time();
                lab.cut(&a.name, &b.name)?;
                self.step = Step::HealAt(now + cut.lasts, at);
            }
            Step::HealAt(at, cut_at) if now >= at => {
                lab.heal(&a.name, &b.name)?;
                self.cut = Some((cut_at, unix_time()));
                self.step = Step::Done;
            }
            Step::Connecting | Step::CutAt(_) | Step::HealAt(..) | Step::Done => {}
        }
        Ok(())
    }

    fn are_direct(&self) -> bool {
        let is_direct = |line: &Line| {
            matches!(
                line.event,
                Event::Peer {
                    state: PeerState::Direct,
                    ..
                }
            )
        };
        self.told
            .iter()
            .all(|(lines, _)| lines.iter().any(is_direct))
    }

    fn stuck(&self, devices: &mut [Device]) -> RunError {
        let index = usize::from(self.ended[0]);
        let device = &mut devices[index];
        // Its standard error is complete only when it has ended.
        let _ = device.child.kill();
        let said = std::mem::replace(&mut device.said, thread::spawn(String::new));
        RunError::Stuck {
            user: device.user,
            seconds: (duration(self.scenario) + GRACE).as_secs(),
            said: said.join().unwrap_or_default(),
        }
    }
}

/// The URL at an address of a family that the device has.
fn url_for(ready: &Ready, node: &Host, device: &Host) -> String {
    let ip = if device.ipv4().is_some() {
        node.ipv4()
    } else {
        node.ipv6()
    };
    ip.and_then(|ip| ready.url_at(ip))
        .unwrap_or_else(|| ready.url.clone())
}

/// How long a device runs at most.
fn duration(scenario: &Scenario) -> Duration {
    let sending = scenario
        .traffic
        .every
        .saturating_mul(u32::try_from(scenario.traffic.count).unwrap_or(u32::MAX));
    sending + SETTLING
}

pub(super) fn gather(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut stream) = stream {
            // What came before a broken pipe is told; what is too much is read, so that the
            // writer does not wait.
            let _ = stream.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut said);
            let _ = io::copy(&mut stream, &mut io::sink());
        }
        String::from_utf8_lossy(&said).into_owned()
    })
}

fn unix_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

pub(super) const END_MAX: Duration = Duration::from_secs(3);
/// For connecting, and for the silence that ends a device.
const SETTLING: Duration = Duration::from_secs(8);
const GRACE: Duration = Duration::from_secs(4);
const SAID_BYTES_MAX: u64 = 1 << 20;
