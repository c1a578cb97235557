//! Processes of the binary, and patience.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process; dropping it kills it.
pub(crate) struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    complaints: JoinHandle<String>,
    /// Standard error so far.
    said: watch::Receiver<String>,
    /// How much of that was looked at.
    heard: usize,
    lines: Vec<String>,
}

/// What a process said and how it ended.
pub(crate) struct Ended {
    /// `None` when a signal ended it.
    pub(crate) status: Option<i32>,
    pub(crate) lines: Vec<String>,
    /// The lines that are JSON.
    pub(crate) events: Vec<Value>,
    pub(crate) complaints: String,
}

pub(crate) fn start(args: &[&str]) -> Running {
    run(Command::new(env!("CARGO_BIN_EXE_tombolo")).args(args))
}

/// The same without any capability, even where tests are run by root.
pub(crate) fn start_without_rights(args: &[&str]) -> Running {
    use std::os::unix::fs::MetadataExt as _;

    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return start(args);
    }
    let mut without = Command::new("setpriv");
    without.args(["--bounding-set=-all", "--inh-caps=-all"]);
    run(without.arg(env!("CARGO_BIN_EXE_tombolo")).args(args))
}

/// The same where a file that may not grow is an error and no end.
pub(crate) fn start_on_a_disk_that_fills(args: &[&str]) -> Running {
    let script = "trap '' XFSZ; exec \"$0\" \"$@\"";
    let binary = env!("CARGO_BIN_EXE_tombolo");
    run(Command::new("sh").args(["-c", script, binary]).args(args))
}

fn run(command: &mut Command) -> Running {
    let mut child = command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, said) = watch::channel(String::new());
    let complaints = tokio::spawn(async move {
        while let Some(line) = stderr.next_line().await.unwrap() {
            sender.send_modify(|text| {
                text.push_str(&line);
                text.push('\n');
            });
        }
        sender.borrow().clone()
    });
    Running {
        stdout: BufReader::new(child.stdout.take().unwrap()).lines(),
        child,
        complaints,
        said,
        heard: 0,
        lines: Vec::new(),
    }
}

/// A node on loopback, and the URL that it prints.
pub(crate) async fn node() -> (Running, String) {
    node_with(&[]).await
}

/// A node that is told more.
pub(crate) async fn node_with(more: &[&str]) -> (Running, String) {
    let args = [
        "serve",
        "--dev",
        "--listen",
        "127.0.0.1",
        "--port",
        "0",
        "--turn-port",
        "0",
        "--turns-port",
        "0",
        "--allow-peer",
        "127.0.0.0/8",
        "--json",
    ];
    let mut serve = start(&[&args[..], more].concat());
    let ready = serve.event("ready").await;
    assert_eq!(serve.lines.len(), 1, "ready is the first line");
    assert!(ready["stun"][0].as_str().unwrap().starts_with("stun:"));
    assert!(ready["turn"][0].as_str().unwrap().starts_with("turn:"));
    assert!(ready["http"].as_str().unwrap().starts_with("https://"));
    let url = ready["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with("tombolo://127.0.0.1:"), "{url}");
    (serve, url)
}

/// A TURN server, and what its first line says.
pub(crate) async fn turn(args: &[&str]) -> (Running, Value) {
    let mut server = start(&[&["turn", "--json"], args].concat());
    let ready = server.event("ready").await;
    assert_eq!(server.lines.len(), 1, "ready is the first line");
    (server, ready)
}

impl Running {
    /// Waits for the next event of that name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        while let Some(line) = self.line().await {
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
        panic!("{name} never came: {:?}", self.lines);
    }

    /// Waits for a line with that in it.
    pub(crate) async fn says(&mut self, what: &str) {
        while let Some(line) = self.line().await {
            if line.contains(what) {
                return;
            }
        }
        panic!("it never said {what}: {:?}", self.lines);
    }

    /// Waits until standard error has that, after what was waited for before.
    pub(crate) async fn complains(&mut self, what: &str) {
        let heard = self.heard;
        let found = |said: &String| said.get(heard..).is_some_and(|new| new.contains(what));
        let said = soon(self.said.wait_for(found)).await;
        let said = said.expect("it has not ended");
        let at = said.get(heard..).and_then(|new| new.find(what)).unwrap();
        self.heard = heard + at + what.len();
    }

    /// Asks the process to end (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let mut kill = std::process::Command::new("kill");
        let status = kill.args(["-s", name, &id]).status();
        assert!(status.unwrap().success());
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> Ended {
        while self.line().await.is_some() {}
        let status = soon(self.child.wait()).await.unwrap();
        let lines = std::mem::take(&mut self.lines);
        Ended {
            status: status.code(),
            events: lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect(),
            lines,
            complaints: soon(&mut self.complaints).await.unwrap(),
        }
    }

    async fn line(&mut self) -> Option<String> {
        let next = tokio::time::timeout(PATIENCE, self.stdout.next_line()).await;
        let Ok(line) = next else {
            panic!("it says no more after {:?}", self.lines);
        };
        let line = line.unwrap()?;
        self.lines.push(line.clone());
        Some(line)
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("this should have happened by now")
}
