//! Tombolo's TURN client with coturn's server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tombolo_turn::client::{AllocateError, Family};

use super::echo::Echo;
use super::{PATIENCE, certificate, is_installed};
use crate::caller::{Caller, Link};
use crate::folder::Folder;

const USER: &str = "carol";
const PASSWORD: &str = "her password";

/// Which way clients go to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

macro_rules! relays {
    ($($name:ident: $server:expr, $way:ident, $family:ident, $peer:expr;)*) => {
        $(
            #[test]
            fn $name() {
                assert_relays($server, Way::$way, Family::$family, $peer);
            }
        )*
    };
}

relays! {
    coturn_relays_for_the_client: "127.0.0.1", Udp, V4, "127.0.0.9";
    coturn_relays_for_the_client_over_tcp: "127.0.0.1", Tcp, V4, "127.0.0.9";
    coturn_relays_for_the_client_over_tls: "127.0.0.1", Tls, V4, "127.0.0.9";
    coturn_relays_for_the_client_over_dtls: "127.0.0.1", Dtls, V4, "127.0.0.9";
    coturn_relays_for_the_client_over_ipv6: "::1", Udp, V6, "::1";
    coturn_relays_for_the_client_over_ipv6_and_tcp: "::1", Tcp, V6, "::1";
    coturn_relays_for_the_client_over_ipv6_and_tls: "::1", Tls, V6, "::1";
    coturn_relays_for_the_client_over_ipv6_and_dtls: "::1", Dtls, V6, "::1";
    coturn_relays_from_ipv4_to_ipv6_for_the_client: "127.0.0.1", Udp, V6, "::1";
}

/// Channels and indications in both directions, before and after everything was refreshed.
fn assert_relays(server: &str, way: Way, family: Family, peer: &str) {
    let Some(coturn) = Coturn::start(server, &[]) else {
        return;
    };
    let (bound, unbound) = (Echo::start(peer), Echo::start(peer));
    let mut caller = coturn.caller(way, family, PASSWORD);
    let (relayed, mapped) = caller.allocate().expect("an allocation");
    assert_eq!(relayed.ip(), relay_ip(family));
    assert_eq!(mapped, caller.address());
    assert_eq!(caller.connect(bound.address), Ok(()));
    // The first time within the lifetimes; then past those of permissions, channels and allocation.
    for minutes in [0, 4, 6, 15] {
        caller.advance(Duration::from_secs(60 * minutes));
        for payload in [&b"a"[..], b"four", &[7; 1000]] {
            caller.echoes(bound.address, payload);
            // The permission is for the IP, the channel only for the one port.
            caller.echoes(unbound.address, payload);
        }
    }
    assert_eq!(caller.stats().unexpected, 0);
    assert_eq!(caller.stats().malformed, 0);
    caller.close();
}

#[test]
fn coturn_tells_the_client_that_a_password_is_wrong() {
    for way in [Way::Udp, Way::Tcp, Way::Tls, Way::Dtls] {
        let Some(coturn) = Coturn::start("127.0.0.1", &[]) else {
            return;
        };
        let mut caller = coturn.caller(way, Family::V4, "a guess");
        assert_eq!(caller.allocate(), Err(AllocateError::Unauthorized));
    }
}

#[test]
fn coturn_tells_the_client_that_its_quota_is_reached_until_it_gives_an_allocation_back() {
    let Some(coturn) = Coturn::start("127.0.0.1", &["--user-quota", "1"]) else {
        return;
    };
    let caller = || coturn.caller(Way::Udp, Family::V4, PASSWORD);
    let mut first = caller();
    assert!(first.allocates());
    assert_eq!(caller().allocate(), Err(AllocateError::QuotaReached));
    first.close();
    // coturn counts an allocation for a moment after it has confirmed its end.
    let start = Instant::now();
    while caller().allocate() == Err(AllocateError::QuotaReached) {
        assert!(start.elapsed() < PATIENCE, "the quota is never free again");
    }
}

#[test]
fn coturn_tells_the_client_that_a_peer_is_forbidden() {
    let Some(coturn) = Coturn::start("127.0.0.1", &["--denied-peer-ip", "127.0.0.8"]) else {
        return;
    };
    let mut caller = coturn.caller(Way::Udp, Family::V4, PASSWORD);
    assert!(caller.allocates());
    let denied = SocketAddr::from(([127, 0, 0, 8], 4000));
    assert_eq!(caller.connect(denied), Err(403));
    let echo = Echo::start("127.0.0.9");
    assert_eq!(caller.connect(echo.address), Ok(()));
    caller.echoes(echo.address, b"another one is not");
}

#[test]
fn the_client_goes_on_after_coturn_calls_its_nonce_stale() {
    let Some(coturn) = Coturn::start("127.0.0.1", &["--stale-nonce=1"]) else {
        return;
    };
    let echo = Echo::start("127.0.0.9");
    let mut caller = coturn.caller(Way::Udp, Family::V4, PASSWORD);
    assert!(caller.allocates());
    assert_eq!(caller.connect(echo.address), Ok(()));
    let before = caller.stats().challenges;
    let start = Instant::now();
    // It refreshes once for each round, and coturn's clock is the real one.
    while caller.stats().challenges == before {
        assert!(start.elapsed() < PATIENCE, "a nonce never becomes stale");
        caller.advance(Duration::from_secs(590));
        caller.echoes(echo.address, b"still here");
    }
    caller.echoes(echo.address, b"here again");
    caller.close();
}

/// A process of coturn's server with its files in a directory of its own; dropping it ends it.
struct Coturn {
    process: Child,
    address: SocketAddr,
    tls: SocketAddr,
    certificate: PathBuf,
    _folder: Folder,
}

impl Coturn {
    /// `None` where it is not installed.
    fn start(ip: &str, more: &[&str]) -> Option<Self> {
        if !is_installed("turnserver") {
            return None;
        }
        let ip = ip.parse().unwrap();
        let (certificate, key) = certificate(ip);
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        let folder = Folder::new(&format!("coturn-{}", test.replace(':', "_")));
        let (address, tls) = (free(SocketAddr::new(ip, 0)), free(SocketAddr::new(ip, 0)));
        let log = std::fs::File::create(folder.path("log")).unwrap();
        let mut command = Command::new("turnserver");
        command
            .args(["-n", "--no-cli", "--no-rfc5780", "--lt-cred-mech"])
            .args(["--allow-loopback-peers", "--realm", "example.org"])
            .args(["--user", &format!("{USER}:{PASSWORD}")])
            .args(["--listening-ip", &ip.to_string()])
            .args(["--relay-ip", "127.0.0.1", "--relay-ip", "::1"])
            .args(["--listening-port", &address.port().to_string()])
            .args(["--tls-listening-port", &tls.port().to_string()])
            .args(["--min-port", "61000", "--max-port", "65535"])
            .args(["--userdb", &folder.path("turndb")])
            .args(["--pidfile", &folder.path("pid")])
            .args(["--log-file", "stdout"])
            .arg("--cert")
            .arg(&certificate)
            .arg("--pkey")
            .arg(&key)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let coturn = Self {
            process: command.spawn().unwrap(),
            address,
            tls,
            certificate,
            _folder: folder,
        };
        coturn.is_ready();
        Some(coturn)
    }

    /// Waits until it answers.
    fn is_ready(&self) {
        let socket = UdpSocket::bind((self.address.ip(), 0)).unwrap();
        let patience = Duration::from_millis(50);
        socket.set_read_timeout(Some(patience)).unwrap();
        let start = Instant::now();
        let mut answer = [0; 1024];
        loop {
            assert!(start.elapsed() < PATIENCE, "coturn does not start");
            // What a send comes to that is refused shows at the next one.
            let _ = socket.send_to(BINDING_REQUEST, self.address);
            if socket.recv(&mut answer).is_ok() {
                return;
            }
        }
    }

    fn caller(&self, way: Way, family: Family, password: &str) -> Caller {
        let link = match way {
            Way::Udp => Link::udp(self.address),
            Way::Tcp => Link::tcp(self.address),
            Way::Tls => Link::tls(self.tls, &self.certificate),
            Way::Dtls => Link::dtls(self.tls, &self.certificate),
        };
        Caller::over(link, family, USER, password)
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where coturn relays from.
fn relay_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// An address whose port nobody has, over UDP and TCP. coturn takes no port zero.
fn free(any: SocketAddr) -> SocketAddr {
    loop {
        let udp = UdpSocket::bind(any).unwrap();
        let address = udp.local_addr().unwrap();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

const BINDING_REQUEST: &[u8] = &[
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];
