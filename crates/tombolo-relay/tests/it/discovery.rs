//! Behaviour discovery (RFC 5780) over IPv6: it takes two addresses, which loopback has in a network
//! namespace of its own only.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use tombolo_natlab::{in_namespace, ip_command};
use tombolo_relay::{Relay, RelayConfig};
use tombolo_stun::{
    ChangeRequest, Class, Message, MessageWriter, Method, OtherAddress, ResponseOrigin,
    TransactionId, XorMappedAddress,
};

use crate::device::relay_config;

#[test]
fn a_client_over_ipv6_is_answered_from_the_address_and_port_that_it_asks_for() {
    in_namespace(|| {
        for address in ["2a00::1/128", "2a00::2/128", "2a00::9/128"] {
            ip_command(&["address", "add", address, "dev", "lo", "nodad"]);
        }
        let ips: [IpAddr; 2] = ["2a00::1", "2a00::2"].map(|ip| ip.parse().expect("a literal"));
        let at = |port| ips.map(|ip| SocketAddr::new(ip, port)).to_vec();
        let relay = Relay::bind(RelayConfig {
            listen: at(3478),
            listen_udp: at(3479),
            ..relay_config(ips[0])
        });
        let _relay = relay.expect("nobody else is here");
        let client = UdpSocket::bind("[2a00::9]:0").expect("the address is there");
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("it is not zero");
        let own = client.local_addr().expect("it is bound");
        for (change, origin) in [
            ((false, false), "[2a00::1]:3478"),
            ((false, true), "[2a00::1]:3479"),
            ((true, false), "[2a00::2]:3478"),
            ((true, true), "[2a00::2]:3479"),
        ] {
            let origin: SocketAddr = origin.parse().expect("a literal");
            let mut request = Vec::new();
            let (ip, port) = change;
            let id = TransactionId([1; 12]);
            MessageWriter::new(&mut request, Class::Request, Method::BINDING, id)
                .attribute(&ChangeRequest { ip, port });
            client
                .send_to(&request, (ips[0], 3478))
                .expect("loopback takes it");
            let mut reply = [0; 512];
            let (len, from) = client.recv_from(&mut reply).expect("it is answered");
            assert_eq!(from, origin);
            let reply = Message::decode(&reply[..len]).expect("it is well formed");
            assert_eq!(reply.required(), Ok(XorMappedAddress(own)));
            assert_eq!(reply.required(), Ok(ResponseOrigin(origin)));
            let other = SocketAddr::new(ips[1], 3479);
            assert_eq!(reply.required(), Ok(OtherAddress(other)));
        }
    });
}
