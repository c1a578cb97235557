//! The command line of `tombolo turn`.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tombolo_node::Cidr;
use tombolo_relay::IoMode;

#[derive(Debug, Args)]
#[command(
    after_help = "Ports: 3478 UDP and TCP for STUN and TURN, 49152-65535 UDP for relayed \
    traffic, and what --tls-listen says.\n\n\
    Example:\n  \
    tombolo turn --listen 192.0.2.1:3478 --realm example.org --secret \"$SECRET\" \\\n    \
    --tls cert.pem key.pem --tls-listen 192.0.2.1:5349"
)]
pub(crate) struct TurnArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// What runs a server.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Where to serve STUN and TURN over UDP and TCP; repeat it for more. Two IPs with two ports
    /// each let clients measure their NAT
    #[arg(long, value_name = "IP:PORT", value_parser = address, required = true)]
    pub(crate) listen: Vec<SocketAddr>,
    /// IP of this machine to relay from, at most one of each family [default: those of --listen]
    #[arg(long, value_name = "IP")]
    pub(crate) relay_ip: Vec<IpAddr>,
    /// IP that the world sees instead of the relay IP, where a one-to-one NAT is in between
    #[arg(long, value_name = "IP")]
    pub(crate) public_ip: Option<IpAddr>,
    /// Ports to relay from
    #[arg(long, value_name = "MIN-MAX", default_value = "49152-65535", value_parser = ports)]
    pub(crate) relay_ports: RangeInclusive<u16>,
    /// Realm of the credentials
    #[arg(long, value_name = "R", default_value = "tombolo")]
    pub(crate) realm: String,
    /// A user with a password that does not expire; repeat it for more
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub(crate) user: Vec<String>,
    /// Secret of time-limited credentials (the TURN REST API); repeat it for more, all are accepted
    #[arg(long, value_name = "S")]
    pub(crate) secret: Vec<String>,
    /// Let clients relay to this otherwise refused range, for example 10.0.0.0/8; repeat it for
    /// more
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_peer: Vec<Cidr>,
    /// Threads that relay [default: one for each core]
    #[arg(long, value_name = "N", value_parser = shards)]
    pub(crate) shards: Option<usize>,
    /// How packets are moved
    #[arg(long, value_enum, default_value_t = IoArg::Auto)]
    pub(crate) io: IoArg,
    /// Certificate chain and private key for TLS, PEM files
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"])]
    pub(crate) tls: Vec<PathBuf>,
    /// Where to serve TURN over TLS; repeat it for more
    #[arg(long, value_name = "IP:PORT", value_parser = tls_address, requires = "tls")]
    pub(crate) tls_listen: Vec<SocketAddr>,
    /// Print events as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IoArg {
    /// The fastest way that this machine allows
    Auto,
    /// A socket for each allocation; works everywhere
    Sockets,
    /// All relay ports of a shard steered to one socket by an eBPF program; needs CAP_NET_RAW and
    /// CAP_BPF
    Steered,
}

impl From<IoArg> for IoMode {
    fn from(arg: IoArg) -> Self {
        match arg {
            IoArg::Auto => Self::Auto,
            IoArg::Sockets => Self::Sockets,
            IoArg::Steered => Self::Steered,
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    with_port(text, TURN_PORT)
}

fn tls_address(text: &str) -> Result<SocketAddr, String> {
    with_port(text, TURNS_PORT)
}

/// An address, with the usual port where there is none.
fn with_port(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let ip = text.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let ip: IpAddr = ip.unwrap_or(text).parse().map_err(|_| {
        "not an address such as 192.0.2.1:3478 or [2001:db8::1]:3478 (names are not looked up)"
            .to_owned()
    })?;
    Ok(SocketAddr::new(ip, port))
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(min, max)| {
        Some(min.trim().parse::<u16>().ok()?..=max.trim().parse::<u16>().ok()?)
    });
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "not a range of ports such as 49152-65535".to_owned())
}

fn shards(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=SHARDS_MAX) => Ok(count),
        Ok(_) | Err(_) => Err(format!("not a number of threads from 1 to {SHARDS_MAX}")),
    }
}

/// RFC 8656 §18.
const TURN_PORT: u16 = 3478;
/// RFC 8656 §18.
const TURNS_PORT: u16 = 5349;
/// More threads than any machine gains from.
const SHARDS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_has_the_usual_one() {
        for (text, expected) in [
            ("192.0.2.1:99", "192.0.2.1:99"),
            ("192.0.2.1", "192.0.2.1:3478"),
            ("2001:db8::1", "[2001:db8::1]:3478"),
            ("[2001:db8::1]", "[2001:db8::1]:3478"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
        ] {
            assert_eq!(
                address(text).map(|a| a.to_string()),
                Ok(expected.to_owned())
            );
        }
        for text in ["", "example.org:3478", "192.0.2.1:65536", "192.0.2.1:"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_of_ports_are_not_empty() {
        assert_eq!(ports("5000-6000"), Ok(5000..=6000));
        assert_eq!(ports("5000-5000"), Ok(5000..=5000));
        for text in ["", "5000", "6000-5000", "5000-70000", "-", "a-b"] {
            assert!(ports(text).is_err(), "{text}");
        }
    }
}
