//! Clients that come over TCP, TLS and DTLS, talk a little, and go. Each way has a thread, in which one
//! client comes after the other.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use dimpl::{Dtls, DtlsCertificate, Output};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Socket, Type};
use tombolo_stun::stream::frame_len;
use tombolo_stun::{
    ChannelData, ChannelNumber, Class, ErrorCode, Key, Kind, Lifetime, Message, MessageWriter,
    Method, Nonce, Realm, RequestedTransport, TransactionId, Username, XorPeerAddress,
};

use crate::churn::{PACKETS, payload};
use crate::plan;

/// What the server shows, and what clients need to talk to it. Its files are gone when it is dropped.
pub(crate) struct Certificate {
    folder: PathBuf,
    keys: Keys,
}

#[derive(Clone)]
struct Keys {
    /// Trusts the server's certificate.
    tls: Arc<ClientConfig>,
    /// The same for all clients, since to make one takes longer than what they do with it.
    dtls: DtlsCertificate,
}

impl Certificate {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([plan::SERVER.ip().to_string()])?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let folder = std::env::temp_dir().join(format!("tombolo-soak-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let certificate = Self {
            folder,
            keys: Keys {
                tls: Arc::new(trust),
                dtls: DtlsCertificate {
                    certificate: made.cert.der().to_vec(),
                    private_key: made.signing_key.serialize_der(),
                },
            },
        };
        let [chain, key] = certificate.paths();
        fs::write(chain, made.cert.pem())?;
        fs::write(key, made.signing_key.serialize_pem())?;
        Ok(certificate)
    }

    /// Its chain and its key.
    pub(crate) fn paths(&self) -> [PathBuf; 2] {
        ["cert.pem", "key.pem"].map(|name| self.folder.join(name))
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // What is left is in the folder of temporary files.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The threads.
pub(crate) struct Streams {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<u64>>>,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Tcp,
    Tls,
    Dtls,
}

impl Streams {
    /// A client of each way comes each `interval`, or when the one before has gone if that is later.
    pub(crate) fn start(interval: Duration, certificate: &Certificate) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let threads = [Way::Tcp, Way::Tls, Way::Dtls].map(|way| {
            let (keys, is_over) = (certificate.keys.clone(), Arc::clone(&is_over));
            thread::spawn(move || {
                let come = come_and_go(way, &keys, interval, &is_over);
                come.with_context(|| format!("over {way:?}"))
            })
        });
        Self {
            is_over,
            threads: threads.into(),
        }
    }

    /// Whether one of them has ended too early; [`Self::finish`] says why.
    pub(crate) fn have_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Lets who is there finish, and returns how many there were.
    pub(crate) fn finish(self) -> anyhow::Result<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut count = 0;
        for thread in self.threads {
            let Ok(ended) = thread.join() else {
                bail!("a thread of clients panicked");
            };
            count += ended?;
        }
        Ok(count)
    }
}

fn come_and_go(
    way: Way,
    keys: &Keys,
    interval: Duration,
    is_over: &AtomicBool,
) -> anyhow::Result<u64> {
    let (mut count, mut due) = (0, Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        live(way, keys, count).with_context(|| format!("client {count}"))?;
        count += 1;
        due = (due + interval).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(count)
}

/// One client, from its connection to its farewell.
fn live(way: Way, keys: &Keys, number: u64) -> anyhow::Result<()> {
    let index = (number % plan::HOSTS_MAX as u64) as usize;
    let peer = UdpSocket::bind((*plan::peer(index).ip(), 0))?;
    peer.set_read_timeout(Some(PATIENCE))?;
    let SocketAddr::V4(at) = peer.local_addr()? else {
        bail!("a peer of the wrong family");
    };
    let mut client = Client::new(way, keys, index)?;
    client.ask(Method::ALLOCATE, &|message| {
        message.attribute(&RequestedTransport::UDP);
    })?;
    client.bind(at)?;
    let packets = (0..PACKETS).map(|packet| payload(index, number, packet).to_vec());
    let packets: Vec<_> = packets.collect();
    for packet in &packets {
        client.send(packet)?;
    }
    let mut buffer = [0; 2048];
    for _ in &packets {
        let (length, relayed) = peer.recv_from(&mut buffer).context("a lost packet")?;
        peer.send_to(&buffer[..length], relayed)?;
    }
    let mut back = Vec::new();
    for _ in &packets {
        back.push(client.receive().context("a lost echo")?);
    }
    back.sort();
    ensure!(back == packets, "other packets than were sent came back");
    client.ask(Method::REFRESH, &|message| {
        message.attribute(&Lifetime(0));
    })
}

/// What carries messages, one after the other.
trait Wire {
    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()>;
    fn receive(&mut self) -> anyhow::Result<Vec<u8>>;
}

struct Client {
    wire: Box<dyn Wire>,
    index: usize,
    nonce: String,
    key: Key,
    serial: u8,
}

impl Client {
    fn new(way: Way, keys: &Keys, index: usize) -> anyhow::Result<Self> {
        let wire: Box<dyn Wire> = match way {
            Way::Tcp => Box::new(Framed::new(connection(index)?)),
            Way::Tls => {
                let name = SocketAddr::from(plan::SERVER).ip().into();
                let tls = ClientConnection::new(Arc::clone(&keys.tls), name)?;
                Box::new(Framed::new(StreamOwned::new(tls, connection(index)?)))
            }
            Way::Dtls => Box::new(Association::new(index, keys.dtls.clone())?),
        };
        Ok(Self {
            wire,
            index,
            nonce: String::new(),
            key: Key::long_term(&plan::user(index), plan::REALM, plan::PASSWORD),
            serial: 0,
        })
    }

    /// Asks, and again if that only brings a nonce.
    fn ask(
        &mut self,
        method: Method,
        write: &dyn Fn(&mut MessageWriter<'_>),
    ) -> anyhow::Result<()> {
        for _ in 0..2 {
            self.serial += 1;
            let id = TransactionId([self.serial; 12]);
            let mut bytes = Vec::new();
            let mut message = MessageWriter::new(&mut bytes, Class::Request, method, id);
            write(&mut message);
            if !self.nonce.is_empty() {
                message.attribute(&Username::new(&plan::user(self.index))?);
                message.attribute(&Realm::new(plan::REALM)?);
                message.attribute(&Nonce::new(&self.nonce)?);
                message.integrity(&self.key);
            }
            self.wire.send(&bytes)?;
            let reply = self.wire.receive()?;
            let reply = Message::decode(&reply)?;
            ensure!(reply.transaction_id() == id, "a reply to something else");
            if reply.class() == Class::Success {
                return Ok(());
            }
            let error: ErrorCode<'_> = reply.required()?;
            ensure!(
                error.code() == 401 && self.nonce.is_empty(),
                "the reply is {}",
                error.code()
            );
            let nonce: Nonce<'_> = reply.required()?;
            nonce.as_str().clone_into(&mut self.nonce);
        }
        bail!("the second challenge in turn")
    }

    fn bind(&mut self, peer: SocketAddrV4) -> anyhow::Result<()> {
        let number = self.channel()?;
        self.ask(Method::CHANNEL_BIND, &|message| {
            message.attribute(&number);
            message.attribute(&XorPeerAddress(peer.into()));
        })
    }

    /// Sends to the peer what needs no padding.
    fn send(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let header = self.channel()?.header(payload.len());
        let header = header.context("a payload that fits")?;
        self.wire.send(&[&header[..], payload].concat())
    }

    /// What the peer has sent.
    fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        let bytes = self.wire.receive()?;
        ensure!(Kind::of(&bytes) == Kind::ChannelData, "no data");
        Ok(ChannelData::decode(&bytes)?.data.to_vec())
    }

    fn channel(&self) -> anyhow::Result<ChannelNumber> {
        ChannelNumber::new(plan::channel(self.index)).context("a channel number")
    }
}

fn connection(index: usize) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddrV4::new(plan::client(index), 0).into())?;
    socket.connect(&plan::SERVER.into()).context("connect")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// Messages on a stream of bytes.
struct Framed<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S> Framed<S> {
    fn new(stream: S) -> Self {
        let buffer = Vec::new();
        Self { stream, buffer }
    }
}

impl<S: Read + Write> Wire for Framed<S> {
    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes)?;
        Ok(self.stream.flush()?)
    }

    fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut chunk = [0; 2048];
        loop {
            let length = frame_len(&self.buffer)?;
            if let Some(length) = length.filter(|length| *length <= self.buffer.len()) {
                return Ok(self.buffer.drain(..length).collect());
            }
            let length = self.stream.read(&mut chunk).context("nothing comes")?;
            ensure!(length > 0, "the server has hung up");
            self.buffer.extend_from_slice(&chunk[..length]);
        }
    }
}

/// Messages in an association of DTLS.
struct Association {
    dtls: Dtls,
    socket: UdpSocket,
    received: Vec<Vec<u8>>,
    is_connected: bool,
}

impl Association {
    fn new(index: usize, certificate: DtlsCertificate) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((plan::client(index), 0))?;
        socket.connect(plan::SERVER)?;
        socket.set_read_timeout(Some(DTLS_TICK))?;
        let mut dtls = Dtls::new_12(Arc::default(), certificate, Instant::now());
        dtls.set_active(true);
        let mut association = Self {
            dtls,
            socket,
            received: Vec::new(),
            is_connected: false,
        };
        association.until(|association| association.is_connected)?;
        Ok(association)
    }

    /// Goes on until something is so.
    fn until(&mut self, is_so: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut datagram = [0; 4096];
        loop {
            self.dtls.handle_timeout(Instant::now())?;
            self.flush()?;
            if is_so(self) {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "nothing comes");
            match self.socket.recv(&mut datagram) {
                Ok(length) => self.dtls.handle_packet(&datagram[..length])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let output = self.dtls.poll_output(&mut buffer);
            if let Output::Packet(packet) = output {
                self.socket.send(packet)?;
            } else if let Output::ApplicationData(data) = output {
                self.received.push(data.to_vec());
            } else if matches!(output, Output::Connected) {
                self.is_connected = true;
            } else if matches!(output, Output::Timeout(_)) {
                return Ok(());
            }
        }
    }
}

impl Wire for Association {
    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.dtls.send_application_data(bytes)?;
        self.flush()
    }

    fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        self.until(|association| !association.received.is_empty())?;
        Ok(self.received.remove(0))
    }
}

/// Says farewell, so that the server need not wait for more.
impl Drop for Association {
    fn drop(&mut self) {
        // A server that does not hear it waits a while.
        if self.dtls.close().is_ok() {
            let _ = self.flush();
        }
    }
}

/// Within which everything comes that is not lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Until the timers of DTLS are looked at.
const DTLS_TICK: Duration = Duration::from_millis(50);
