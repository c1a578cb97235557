//! The command line of `tombolo turn`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tombolo_relay::IoMode;

use super::file::{Listen, Network, Ports, PublicIp};
use super::operate::Operate;

#[derive(Debug, Args)]
#[command(
    after_help = "Ports: 3478 UDP and TCP for STUN and TURN, 49152-65535 UDP for relayed \
    traffic, and what --tls-listen says.\n\n\
    Example:\n  \
    tombolo turn --listen 192.0.2.1:3478 --realm example.org --secret \"$SECRET\" \\\n    \
    --tls cert.pem key.pem --tls-listen 192.0.2.1:5349"
)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    override_usage = "tombolo turn --listen <IP[:PORT]>... [OPTIONS]\n       \
    tombolo turn --config <FILE> [OPTIONS]\n       \
    tombolo turn --import <FILE> [--write <FILE>] [--run] [OPTIONS]\n       \
    tombolo turn <COMMAND>"
)]
pub(crate) struct TurnArgs {
    #[command(subcommand)]
    pub(crate) operate: Option<Operate>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// What runs a server.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["listen", "config", "import"]).required(true).multiple(true))]
pub(crate) struct ServerArgs {
    /// A file with all of this and more; flags go before what it says
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Read a configuration of coturn, say of every line what becomes of it, and end
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(crate) import: Option<PathBuf>,
    /// With --import: write what it becomes into a new file, to be read with --config; - prints it
    #[arg(long, value_name = "FILE", requires = "import")]
    pub(crate) write: Option<PathBuf>,
    /// With --import: run the server with it
    #[arg(long, requires = "import")]
    pub(crate) run: bool,
    /// Where to serve STUN and TURN over UDP and TCP; repeat it for more. Two IPs with two ports
    /// each let clients measure their NAT
    #[arg(long, value_name = "IP[:PORT]")]
    pub(crate) listen: Vec<Listen<3478>>,
    /// IP of this machine to relay from, at most one of each family [default: those of --listen]
    #[arg(long, value_name = "IP")]
    pub(crate) relay_ip: Vec<IpAddr>,
    /// IP that the world sees instead of the relay IP, where a one-to-one NAT is in between; repeat
    /// it for more, then with the local one behind a slash
    #[arg(long, value_name = "IP[/LOCAL]")]
    pub(crate) public_ip: Vec<PublicIp>,
    /// Ports to relay from [default: 49152-65535]
    #[arg(long, value_name = "MIN-MAX")]
    pub(crate) relay_ports: Option<Ports>,
    /// Relay TCP too (RFC 6062): clients may then connect to any public host
    #[arg(long)]
    pub(crate) relay_tcp: bool,
    /// Realm of the credentials [default: tombolo]
    #[arg(long, value_name = "R")]
    pub(crate) realm: Option<String>,
    /// A user with a password that does not expire; repeat it for more
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub(crate) user: Vec<String>,
    /// Secret of time-limited credentials (the TURN REST API); repeat it for more, all are accepted
    #[arg(long, value_name = "S")]
    pub(crate) secret: Vec<String>,
    /// File with such secrets, one a line, which other users of this machine cannot see in the list
    /// of processes; repeat it for more
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Vec<PathBuf>,
    /// Let clients relay to this otherwise refused range, for example 10.0.0.0/8; repeat it for
    /// more
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_peer: Vec<Network>,
    /// Refuse to relay to this range; repeat it for more. The longest prefix counts
    #[arg(long, value_name = "CIDR")]
    pub(crate) deny_peer: Vec<Network>,
    /// Threads that relay [default: one for each core]
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<usize>,
    /// How packets are moved [default: auto]
    #[arg(long, value_enum)]
    pub(crate) io: Option<IoArg>,
    /// Certificate chain and private key for TLS and DTLS, which are served beside plain TURN; PEM files
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"])]
    pub(crate) tls: Vec<PathBuf>,
    /// Where else to serve TURN over TLS and DTLS; repeat it for more
    #[arg(long, value_name = "IP[:PORT]")]
    pub(crate) tls_listen: Vec<Listen<5349>>,
    /// Serve nothing over UDP but DTLS, and not that without --tls
    #[arg(long)]
    pub(crate) no_plain_udp: bool,
    /// Serve nothing over TCP but TLS, and not that without --tls
    #[arg(long)]
    pub(crate) no_plain_tcp: bool,
    /// Socket for `tombolo turn list`, `drain` and the like; nobody but this user may use it
    #[arg(long, value_name = "PATH")]
    pub(crate) admin: Option<PathBuf>,
    /// Where to serve metrics over HTTP (/metrics, /healthz, /readyz)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// At SIGTERM, make no new allocations and wait for the end of those that are left, for so many
    /// seconds; a second SIGTERM ends at once [default: 0]
    #[arg(long, value_name = "S", value_parser = crate::cli::whole_seconds)]
    pub(crate) drain_timeout: Option<u64>,
    /// What is logged: a level such as debug, or what RUST_LOG may say [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = crate::cli::log_filter)]
    pub(crate) log: Option<String>,
    /// Print events as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

impl ServerArgs {
    /// Whether there is a flag for what the file says under a key, of which more can be wrong than its form.
    pub(crate) fn gives(&self, key: &str) -> bool {
        match key {
            "public-ip" => !self.public_ip.is_empty(),
            "relay-ip" => !self.relay_ip.is_empty(),
            "shards" => self.shards.is_some(),
            "tls" => !self.tls.is_empty(),
            _ => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
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
