//! A process that is kept running.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::END_TIMEOUT;

/// A process that is kept running.
pub(super) struct Supervised {
    pub(super) name: String,
    pub(super) what: What,
    pub(super) command: Command,
    /// Where it writes what it has to say.
    pub(super) log: PathBuf,
}

/// What kind of process, which is how it says that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A line of its log says so.
    Nats,
    /// The first line of its standard output.
    Node,
}

impl What {
    /// A node would empty itself first if it was terminated, but there is nobody to go to.
    fn ends_by(self) -> Signal {
        match self {
            Self::Nats => Signal::SIGTERM,
            Self::Node => Signal::SIGINT,
        }
    }
}

/// What happened to a process.
pub(super) enum Happening {
    /// It serves.
    Ready {
        name: String,
        what: What,
        pid: u32,
        /// The line that says so.
        said: String,
    },
    /// It ended, and is started again.
    Ended {
        name: String,
        pid: u32,
        how: String,
        /// The last line of what it complained of in its log, if anything.
        said: Option<String>,
        again: Duration,
    },
}

/// Tells processes to end.
#[derive(Clone)]
pub(super) struct Stop(watch::Sender<bool>);

impl Stop {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(super) fn stop(&self) {
        self.0.send_replace(true);
    }

    async fn stopped(&self) {
        // The sender is this one.
        let _ = self.0.subscribe().wait_for(|is_stopped| *is_stopped).await;
    }
}

impl Supervised {
    /// Keeps the process running until it is to stop; then ends it.
    pub(super) async fn run(mut self, happenings: mpsc::Sender<Happening>, stop: Stop) {
        let mut again = AGAIN_MIN;
        loop {
            let began = Instant::now();
            let written = length(&self.log);
            let (pid, how) = match self.start() {
                Ok(mut child) => {
                    let pid = child.id().unwrap_or_default();
                    tokio::select! {
                        status = self.attend(&mut child, pid, &happenings) => (pid, told(&status)),
                        () = stop.stopped() => return end(child, self.what).await,
                    }
                }
                Err(error) => (0, error.to_string()),
            };
            if began.elapsed() > SETTLED {
                again = AGAIN_MIN;
            }
            let name = self.name.clone();
            let ended = Happening::Ended {
                name,
                pid,
                how,
                said: last_line(&self.log, written),
                again,
            };
            // Nobody listens any more once everything is about to end.
            let _ = happenings.try_send(ended);
            tokio::select! {
                () = sleep(again) => {}
                () = stop.stopped() => return,
            }
            again = (again * 2).min(AGAIN_MAX);
        }
    }

    fn start(&mut self) -> std::io::Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let command = &mut self.command;
        // Its own group, so that Ctrl-C on the terminal is for this process alone to deal with.
        command.process_group(0).kill_on_drop(true);
        match self.what {
            What::Nats => {
                command
                    .stdin(Stdio::null())
                    .stdout(log)
                    .stderr(Stdio::piped());
            }
            What::Node => {
                // It ends when the other end of its standard input is gone.
                command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(log);
            }
        }
        command.spawn()
    }

    /// Watches the process to its end, and says when it serves.
    async fn attend(
        &self,
        child: &mut Child,
        pid: u32,
        happenings: &mpsc::Sender<Happening>,
    ) -> std::io::Result<ExitStatus> {
        let log = OpenOptions::new().append(true).open(&self.log).ok();
        let ready = |said: String| {
            let (name, what) = (self.name.clone(), self.what);
            let _ = happenings.try_send(Happening::Ready {
                name,
                what,
                pid,
                said,
            });
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Waiting for the child would close it.
        let _stdin = child.stdin.take();
        let reading = async {
            match self.what {
                What::Nats => {
                    let is_ready = |line: &str| line.contains("Server is ready");
                    read(stderr.map(BufReader::new), log, is_ready, ready).await;
                }
                What::Node => read(stdout.map(BufReader::new), log, is_event, ready).await,
            }
            // It closed its output but lives: wait for its end.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            status = child.wait() => status,
            () = reading => unreachable!("it never ends"),
        }
    }
}

fn is_event(line: &str) -> bool {
    let event: Option<serde_json::Value> = serde_json::from_str(line).ok();
    event.is_some_and(|event| event["event"] == "ready")
}

/// Copies lines to the log, and tells of the one that says that the process serves.
async fn read(
    lines: Option<impl AsyncBufRead + Unpin>,
    mut log: Option<File>,
    is_ready: impl Fn(&str) -> bool,
    ready: impl FnOnce(String),
) {
    use std::io::Write as _;

    let Some(lines) = lines else {
        return;
    };
    let mut lines = lines.lines();
    let mut ready = Some(ready);
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(log) = &mut log {
            // A full disk costs the log, not the cluster.
            let _ = writeln!(log, "{line}");
        }
        if is_ready(&line)
            && let Some(ready) = ready.take()
        {
            ready(line);
        }
    }
}

/// How much is in a log.
fn length(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |file| file.len())
}

/// The last line that was written into a log after its first `written` bytes.
fn last_line(log: &Path, written: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let from = written.max(length(log).saturating_sub(LAST_BYTES));
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(str::trim).rev();
    // What a node tells programs says nothing of its end.
    let is_said = |line: &&str| !line.is_empty() && !line.starts_with('{');
    lines.find(is_said).map(str::to_owned)
}

fn told(status: &std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Asks a process to end, and ends it when it does not.
async fn end(mut child: Child, what: What) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // Fails only when it has ended.
        let _ = kill(Pid::from_raw(pid), what.ends_by());
    }
    if timeout(END_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Before a process is started again, at first and at last.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// Of a log's end that is looked at.
const LAST_BYTES: u64 = 4096;
/// A process that ran so long had started well.
const SETTLED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_log_is_that_of_this_run_and_bounded() {
        let log = std::env::temp_dir().join(format!("tombolo-log-{}", std::process::id()));
        std::fs::write(&log, "of the last run\n").unwrap();
        let written = length(&log);
        assert_eq!(last_line(&log, written), None);
        std::fs::write(&log, "of the last run\nfirst\n last \n\n").unwrap();
        assert_eq!(last_line(&log, written).as_deref(), Some("last"));
        std::fs::write(&log, "of the last run\n{\"event\":\"ready\"}\n").unwrap();
        assert_eq!(last_line(&log, written), None, "it only served");
        std::fs::write(&log, "x".repeat(10_000)).unwrap();
        let line = last_line(&log, 0).unwrap();
        assert_eq!(line.len() as u64, LAST_BYTES);
        std::fs::remove_file(&log).unwrap();
        assert_eq!(last_line(&log, 0), None, "there is no log");
    }
}
