//! How many packets per second the relay moves on loopback, and what each costs its threads.
//!
//! ```text
//! cargo run --release -p tombolo-relay --example echo_rate -- [FLOWS [BYTES [SECONDS [WINDOW]]]]
//! ```
//!
//! Each flow has an allocation and a channel to one peer, which sends everything back; WINDOW packets
//! of BYTES are on their way all the time. One shard, so the figures are per core. Prints one line of
//! JSON; `cpu_us_per_packet` is the run time of the relay's threads over all packets in both
//! directions.
#![expect(clippy::print_stdout, reason = "the result goes to standard output")]

use std::{
    error::Error,
    fs, io,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use tombolo_relay::{Relay, RelayConfig};
use tombolo_turn::{
    client::{Client, Config, Event, Family},
    server::{Realm, Transport},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<usize>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (flows, bytes, seconds, window) = (next(32)?, next(172)?, next(3)?, next(4)?);

    let mut realm = Realm::new("tombolo");
    realm.users.insert("bench".to_owned(), "bench".to_owned());
    let mut config = RelayConfig {
        listen: vec!["127.0.0.1:0".parse()?],
        realm,
        allow_peers: vec!["127.0.0.0/8".parse()?],
        shards: Some(1),
        ..RelayConfig::default()
    };
    config.limits.per_user.allocations = Some(flows);
    let relay = Relay::bind(config)?;
    let server = relay.addrs().turn[0];
    let peer = UdpSocket::bind("127.0.0.2:0")?;
    let peer_address = peer.local_addr()?;
    thread::spawn(move || echo(&peer));

    let mut sockets = Vec::with_capacity(flows);
    for _ in 0..flows {
        sockets.push(open(server, peer_address, &vec![0; bytes], window)?);
    }
    bounce(&sockets, Duration::from_millis(300))?;
    let (start, cpu_start) = (Instant::now(), relay_cpu()?);
    let rounds = bounce(&sockets, Duration::from_secs(seconds as u64))?;
    let (elapsed, cpu) = (start.elapsed(), relay_cpu()?.saturating_sub(cpu_start));

    let packets = 2 * rounds;
    println!(
        "{{\"flows\": {flows}, \"bytes\": {bytes}, \"window\": {window}, \
         \"packets_per_second\": {:.0}, \"cpu_us_per_packet\": {:.2}}}",
        packets as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / packets as f64,
    );
    Ok(())
}

/// Allocates, binds a channel and sends the first window.
fn open(
    server: SocketAddr,
    peer: SocketAddr,
    payload: &[u8],
    window: usize,
) -> Result<UdpSocket, Box<dyn Error>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let config = Config {
        server,
        transport: Transport::Udp,
        username: "bench".to_owned(),
        password: "bench".to_owned(),
        family: Family::V4,
        lifetime: Duration::from_secs(600),
    };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let mut client = Client::new(config, seed, Instant::now());
    client.connect_peer(Instant::now(), peer);
    let mut buffer = [0; 2048];
    loop {
        while let Some(bytes) = client.poll_transmit() {
            socket.send(&bytes)?;
        }
        match client.poll_event() {
            Some(Event::ChannelBound(_)) => break,
            Some(Event::Allocated { .. }) | None => {}
            Some(other) => return Err(format!("{other:?}").into()),
        }
        if let Ok(len) = socket.recv(&mut buffer) {
            client.handle_datagram(Instant::now(), &buffer[..len]);
        }
        client.handle_timeout(Instant::now());
    }
    let header = client.send(Instant::now(), peer, payload.len())?;
    let packet = [&*header, payload].concat();
    for _ in 0..window {
        socket.send(&packet)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sends back what comes, which is framed already, and returns how much that was.
fn bounce(sockets: &[UdpSocket], duration: Duration) -> io::Result<u64> {
    let mut buffer = [0; 65_536];
    let mut rounds = 0;
    let start = Instant::now();
    while start.elapsed() < duration {
        for socket in sockets {
            while let Ok(len) = socket.recv(&mut buffer) {
                socket.send(&buffer[..len])?;
                rounds += 1;
            }
        }
    }
    Ok(rounds)
}

fn echo(peer: &UdpSocket) {
    let mut buffer = [0; 65_536];
    while let Ok((len, from)) = peer.recv_from(&mut buffer) {
        if peer.send_to(&buffer[..len], from).is_err() {
            return;
        }
    }
}

/// Run time of the relay's threads so far.
fn relay_cpu() -> io::Result<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.starts_with("relay-") {
            let times = fs::read_to_string(path.join("schedstat"))?;
            let nanos = times
                .split_whitespace()
                .next()
                .and_then(|nanos| nanos.parse().ok());
            total += Duration::from_nanos(nanos.unwrap_or(0));
        }
    }
    Ok(total)
}
