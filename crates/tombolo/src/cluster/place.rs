//! The folder of a cluster, and ports that nobody has.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};

/// The folder of a cluster.
pub(super) struct Place {
    folder: PathBuf,
    /// Whether it goes at the end.
    is_temporary: bool,
    /// Held for as long as the folder is used: two clusters would write into the same files.
    _lock: File,
}

impl Place {
    /// Makes the folder, closed to others: there are keys and admin sockets in it.
    pub(super) fn new(given: Option<&Path>) -> anyhow::Result<Self> {
        let folder = match given {
            Some(folder) => std::path::absolute(folder)?,
            None => {
                let name = format!("tombolo-cluster-{}", std::process::id());
                std::env::temp_dir().join(name)
            }
        };
        let mut builder = fs::DirBuilder::new();
        let made = builder
            .recursive(given.is_some())
            .mode(0o700)
            .create(&folder);
        made.with_context(|| format!("{}: cannot make the folder", folder.display()))?;
        let lock = lock(&folder)?;
        let place = Self {
            _lock: lock,
            folder,
            is_temporary: given.is_none(),
        };
        for path in [place.token_key(), place.seal_key()] {
            make_key(&path)?;
        }
        Ok(place)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    pub(super) fn admin(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sock"))
    }

    /// What all nodes sign tokens with, so that they accept each other's.
    pub(super) fn token_key(&self) -> PathBuf {
        self.folder.join("token.key")
    }

    /// What all nodes seal with what they say to each other.
    pub(super) fn seal_key(&self) -> PathBuf {
        self.folder.join("seal.key")
    }

    /// The certificate of a node and its key: its URL is the same when it is started again.
    pub(super) fn certificate(&self, name: &str, ip: IpAddr) -> anyhow::Result<[PathBuf; 2]> {
        let [chain, key] = ["crt", "key"].map(|kind| self.folder.join(format!("{name}.{kind}")));
        if !(chain.exists() && key.exists()) {
            let names = [ip.to_string(), "localhost".to_owned()];
            let certified = rcgen::generate_simple_self_signed(names)?;
            write_private(&key, certified.signing_key.serialize_pem().as_bytes())?;
            write_private(&chain, certified.cert.pem().as_bytes())?;
        }
        Ok([chain, key])
    }

    /// Leaves the folder, so that somebody can look at the logs.
    pub(super) fn keep(&mut self) {
        self.is_temporary = false;
    }

    /// Takes the folder away, unless it was given or is kept.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        if !self.is_temporary {
            return Ok(());
        }
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("{}: cannot remove it", self.folder.display()))
    }
}

/// Takes the folder for this process; the system gives it back at the end, however that comes.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("{}: cannot write it", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!("{}: another process uses the folder", folder.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{}: cannot be locked", path.display()))
        }
    }
}

/// Makes a key, unless it is there.
fn make_key(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut secret = [0; 32];
    let filled = SystemRandom::new().fill(&mut secret);
    anyhow::ensure!(filled.is_ok(), "the system gives no random numbers");
    write_private(path, STANDARD.encode(secret).as_bytes())
}

/// Writes a file that others cannot read; what was there is replaced.
fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("{}: cannot write it", path.display()))
}

impl Drop for Place {
    fn drop(&mut self) {
        // It has gone already, if all went well.
        let _ = self.clear();
    }
}

/// Ports that nobody uses over TCP or UDP, each with a free one above it. They are held until all have
/// been found. After that, and whenever a process that has one is started again, only who asks for
/// that very port can be faster: they are below those that the system gives to whoever asks for any.
pub(super) fn free_ports(ip: IpAddr, count: usize) -> anyhow::Result<Vec<u16>> {
    TcpListener::bind((ip, 0)).with_context(|| format!("{ip}: cannot listen there"))?;
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        if ports.len() == count {
            return Ok(ports);
        }
        let port = draw_port()?;
        let all = (
            TcpListener::bind((ip, port)),
            UdpSocket::bind((ip, port)),
            TcpListener::bind((ip, port + 1)),
            UdpSocket::bind((ip, port + 1)),
        );
        if let (Ok(tcp), Ok(udp), Ok(next_tcp), Ok(next_udp)) = all {
            ports.push(port);
            held.push((tcp, udp, next_tcp, next_udp));
        }
    }
    anyhow::bail!("{ip}: there are no free ports")
}

fn draw_port() -> anyhow::Result<u16> {
    let mut random = [0; 2];
    let filled = SystemRandom::new().fill(&mut random);
    anyhow::ensure!(filled.is_ok(), "the system gives no random numbers");
    Ok(PORTS.start + u16::from_be_bytes(random) % (PORTS.end - PORTS.start))
}

/// Above those of well-known services, and below Linux's `ip_local_port_range`, as it is by default.
const PORTS: Range<u16> = 10_000..32_000;
/// Far more than it takes.
const ATTEMPTS_MAX: usize = 1000;
