//! The server that is attacked.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tombolo_turn::client::Family;

use crate::caller::{Caller, Link};
use crate::command::{Running, turn};
use crate::folder::Folder;
use crate::interop::Echo;

/// Longer than anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Within what a process stays that forgets what it should: more than an allocator varies by.
const GROWTH_KIB_MAX: u64 = 8 * 1024;

pub(super) const USER: &str = "carol";
pub(super) const PASSWORD: &str = "her password";

/// A server with everything that listens, and small limits.
pub(super) struct Victim {
    running: Running,
    _folder: Folder,
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) admin: String,
    pub(super) certificate: PathBuf,
}

/// How an ordinary client comes.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

pub(super) const ALL_WAYS: [Way; 4] = [Way::Udp, Way::Tcp, Way::Tls, Way::Dtls];

impl Victim {
    pub(super) async fn start(name: &str) -> Self {
        let folder = Folder::new(&format!("abuse-{name}"));
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = folder.write("cert.pem", &made.cert.pem());
        folder.write("key.pem", &made.signing_key.serialize_pem());
        let config = folder.write("turn.toml", CONFIG);
        let admin = folder.path("turn.sock");
        let (running, ready) = turn(&["--config", &config, "--admin", &admin]).await;
        let address = |value: &Value| value.as_str().unwrap().parse().unwrap();
        Self {
            plain: address(&ready["listen"][0]),
            tls: address(&ready["tls"][0]),
            metrics: address(&ready["metrics"]),
            certificate: certificate.into(),
            admin,
            running,
            _folder: folder,
        }
    }

    /// An ordinary client has its data relayed, each way at the first try.
    pub(super) fn serves(&self, ways: &[Way]) {
        let echo = Echo::start("127.0.0.9");
        for way in ways {
            let link = match way {
                Way::Udp => Link::udp(self.plain),
                Way::Tcp => Link::tcp(self.plain),
                Way::Tls => Link::tls(self.tls, &self.certificate),
                Way::Dtls => Link::dtls(self.plain, &self.certificate),
            };
            let mut caller = Caller::over(link, Family::V4, USER, PASSWORD);
            caller.allocate().unwrap();
            assert_eq!(caller.connect(echo.address), Ok(()));
            caller.echoes(echo.address, b"as if nothing had happened");
            caller.close();
        }
    }

    /// Attacks once, so that the process has what it keeps at hand anyway, and then again.
    pub(super) fn stays_flat_under(&self, mut attack: impl FnMut()) {
        attack();
        let before = self.resident_kib();
        for _ in 0..3 {
            attack();
        }
        let after = self.resident_kib();
        assert!(
            after <= before + GROWTH_KIB_MAX,
            "it grew from {before} to {after} KiB"
        );
    }

    /// Memory that the process has.
    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    /// Files and sockets that the process has open.
    pub(super) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.running.id()))
    }

    /// The sum of all samples whose names begin so.
    pub(super) fn metric(&self, name: &str) -> u64 {
        let (_, body) = self.get("/metrics").expect("metrics are served");
        let samples = body.lines().filter(|line| line.starts_with(name));
        let values = samples.map(|line| line.rsplit_once(' ').unwrap().1);
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    }

    /// How often something was refused for this reason.
    pub(super) fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("tombolo_turn_refusals_total{{reason=\"{reason}\""))
    }

    /// Head and body of the answer to a GET; `None` where the connection is refused.
    pub(super) fn get(&self, path: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(self.metrics).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.to_owned(), body.to_owned()))
    }

    /// Ends the server, which must have no complaints.
    pub(super) async fn ends(mut self) {
        self.running.terminate();
        let ended = self.running.ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        assert!(
            !ended.complaints.contains("panicked"),
            "{}",
            ended.complaints
        );
        assert!(!ended.complaints.contains(PASSWORD), "a secret is logged");
    }
}

/// Waits for what must come.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// An address of an attacker.
pub(super) fn attacker(network: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(127, 1, network, host).into()
}

/// A connection from an attacker. Reading waits for as long as patience goes.
pub(super) fn connection(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Reads whatever comes until the server hangs up, in one way or another.
pub(super) fn hangs_up(mut stream: impl std::io::Read) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_timeout(&error) => panic!("the server waits for ever"),
            Err(_) => return,
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut)
}

const CONFIG: &str = "\
listen = ['127.0.0.1:0']
relay-ip = ['127.0.0.1']
relay-ports = '61000-65535'
metrics = '127.0.0.1:0'
shards = 2

[tls]
certificate = 'cert.pem'
key = 'key.pem'
listen = ['127.0.0.1:0']

[[realm]]
name = 'example.org'
users = { carol = 'her password' }

[peers]
allow = ['127.0.0.0/8']

[limits]
connections = 64
connections-per-source = 16
handshakes = 48
handshakes-per-source = 8
";
/// As the configuration says.
pub(super) const CONNECTIONS_MAX: usize = 64;
pub(super) const CONNECTIONS_PER_SOURCE: usize = 16;
pub(super) const HANDSHAKES_PER_SOURCE: usize = 8;
