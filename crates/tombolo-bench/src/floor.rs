//! The bare forwarder that servers are measured against: epoll, `recvmmsg` in and `sendto` out, one
//! socket for each flow, a fixed table. It strips and inserts ChannelData and knows nothing else.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Context as _;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::plan;
use crate::socket::{Inbox, UdpSocket};

/// Forwards `flows` flows of the plan until the process is ended.
pub(crate) fn run(flows: usize) -> anyhow::Result<()> {
    let server = UdpSocket::bind(plan::SERVER).context("bind the server socket")?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&server, EpollEvent::new(EpollFlags::EPOLLIN, SERVER_TOKEN))?;
    let mut ports = Vec::with_capacity(flows);
    for flow in 0..flows {
        let address =
            SocketAddrV4::new(*plan::SERVER.ip(), plan::FLOOR_PORT + u16::try_from(flow)?);
        let port = UdpSocket::bind(address)?;
        epoll.add(&port, EpollEvent::new(EpollFlags::EPOLLIN, flow as u64))?;
        ports.push(port);
    }
    println!("ready");
    io::stdout().flush()?;

    let mut events = [EpollEvent::empty(); 64];
    let mut from_clients = Inbox::new(64, 2048, HEADER);
    let mut from_peers = Inbox::new(8, 2048, HEADER);
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            match event.data() {
                SERVER_TOKEN => to_peers(&server, &ports, &mut from_clients)?,
                flow => to_client(
                    &server,
                    &ports[flow as usize],
                    flow as usize,
                    &mut from_peers,
                )?,
            }
        }
    }
}

fn to_peers(server: &UdpSocket, ports: &[UdpSocket], inbox: &mut Inbox) -> io::Result<()> {
    for slot in 0..inbox.receive(server)? {
        let from: SocketAddrV4 = inbox.from(slot);
        let flow = plan::client_index(*from.ip());
        let Some((flow, port)) = flow.and_then(|flow| Some((flow, ports.get(flow)?))) else {
            continue;
        };
        let data = inbox.data(slot);
        let Some((&[high, low, len_high, len_low], payload)) = data.split_first_chunk::<HEADER>()
        else {
            continue;
        };
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        if u16::from_be_bytes([high, low]) != plan::channel(flow) || len > payload.len() {
            continue;
        }
        port.send_to(&payload[..len], plan::peer(flow))?;
    }
    Ok(())
}

fn to_client(
    server: &UdpSocket,
    port: &UdpSocket,
    flow: usize,
    inbox: &mut Inbox,
) -> io::Result<()> {
    let client: Ipv4Addr = plan::client(flow);
    for slot in 0..inbox.receive(port)? {
        if inbox.from(slot) != plan::peer(flow) {
            continue;
        }
        let len = inbox.data(slot).len() as u16;
        let frame = inbox.data_with_front(slot, HEADER);
        frame[..2].copy_from_slice(&plan::channel(flow).to_be_bytes());
        frame[2..HEADER].copy_from_slice(&len.to_be_bytes());
        server.send_to(frame, SocketAddrV4::new(client, plan::CLIENT_PORT))?;
    }
    Ok(())
}

/// Of ChannelData.
const HEADER: usize = 4;
const SERVER_TOKEN: u64 = u64::MAX;
