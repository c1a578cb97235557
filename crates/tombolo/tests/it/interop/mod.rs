//! `tombolo turn`, and its client, with the programs of others. `scripts/install-interop.sh` installs them; where one
//! is missing, its tests say so.

mod coturn;
mod echo;
mod openssl;
mod turnserver;
mod webrtc;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tombolo_natlab::skip;

use crate::command::{Running, turn};

pub(crate) use echo::Echo;

/// Longer than any of the programs takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server on loopback that knows the user `carol` and the secret `shared`, with a certificate.
pub(crate) struct Server {
    pub(crate) process: Running,
    /// UDP and TCP, also DTLS and TLS.
    pub(crate) plain: SocketAddr,
    /// TLS.
    pub(crate) tls: SocketAddr,
    /// PEM, for whoever has to trust it.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Server {
    pub(crate) async fn start(ip: &str, more: &[&str]) -> Self {
        Self::start_with(ip, certificate(ip.parse().unwrap()), more).await
    }

    /// One with that certificate and its key.
    async fn start_with(ip: &str, (certificate, key): (PathBuf, PathBuf), more: &[&str]) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let listen = SocketAddr::new(ip, 0).to_string();
        let relay = ip.to_string();
        let args = [
            "--listen",
            &listen,
            "--tls-listen",
            &listen,
            "--relay-ip",
            &relay,
            "--tls",
            certificate.to_str().unwrap(),
            key.to_str().unwrap(),
            "--realm",
            "example.org",
            "--user",
            "carol:her password",
            "--secret",
            "shared",
            "--allow-peer",
            "127.0.0.0/8",
            "--allow-peer",
            "::1/128",
            // Beyond the ports that the kernel gives out by itself.
            "--relay-ports",
            "61000-65535",
        ];
        let (process, ready) = turn(&[&args[..], more].concat()).await;
        let address = |field: &str| ready[field][0].as_str().unwrap().parse().unwrap();
        Self {
            plain: address("listen"),
            tls: address("tls"),
            process,
            certificate,
            key,
        }
    }

    /// Ends the server, which must not have complained.
    pub(crate) async fn stop(mut self) {
        self.process.terminate();
        let ended = self.process.ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    }
}

/// Makes a certificate for the address; PEM files, one pair for each test.
fn certificate(ip: IpAddr) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed([ip.to_string()]).unwrap();
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace(':', "_");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = |kind: &str| folder.join(format!("{test}-{kind}.pem"));
    std::fs::write(path("certificate"), made.cert.pem()).unwrap();
    std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    (path("certificate"), path("key"))
}

/// Whether a program can be run; says so for the calling test if not.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !is_there {
        skip(&format!("{program} is missing: scripts/install-interop.sh"));
    }
    is_there
}

/// Where `scripts/install-interop.sh` put what is not Debian's.
pub(crate) fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../interop");
    if folder.join("stamp").is_file() {
        return Some(folder);
    }
    skip("foreign programs are missing: scripts/install-interop.sh");
    None
}

/// Runs a program to its end, which must be a success.
pub(crate) async fn run(mut command: tokio::process::Command) -> String {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output: Output = tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap_or_else(|_| panic!("{command:?} goes on and on"))
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(status.success(), "{command:?}: {status}\n{text}{errors}");
    text
}
