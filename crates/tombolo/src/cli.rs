//! The command line, as `docs/cli.md` describes it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Joins devices to each other: directly where their networks allow, relayed where not.
#[derive(Debug, Parser)]
#[command(name = "tombolo", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node
    Serve(Box<ServeArgs>),
    /// Run several nodes, and what they need, on this machine
    Cluster(crate::cluster::ClusterArgs),
    /// List the nodes of a cluster
    Nodes(crate::operate::NodesArgs),
    /// List the rooms of a cluster
    Rooms(crate::operate::PageArgs),
    /// List the pools of the matchmaker, or say why nobody is found in one
    Pools(crate::operate::PoolsArgs),
    /// List the users of a cluster
    Users(crate::operate::UsersArgs),
    /// List the groups of a user
    Groups(GroupsArgs),
    /// List the groups of a cluster, or say how one is
    AllGroups(crate::operate::AllGroupsArgs),
    /// End a group for all of its members
    EndGroup(crate::operate::EndGroupArgs),
    /// Empty a node: its devices go on over others
    Drain(crate::operate::DrainArgs),
    /// Tell users something, now or when they come back
    Notify(crate::operate::NotifyArgs),
    /// Have devices of busy nodes go on over others
    Rebalance(crate::operate::RebalanceArgs),
    /// Run just the STUN and TURN server, as operators of coturn know it
    Turn(Box<crate::turn::TurnArgs>),
    /// Make a key for a game server's use of the HTTP API
    ApiKey(crate::api_key::ApiKeyArgs),
    /// Watch one node and two devices behind NATs connect, lose their path, and find it again
    Demo(DemoArgs),
    /// Be a device: join a room, connect to its members, send messages
    Peer(PeerArgs),
    /// Be a device that looks for a match in a pool
    Match(MatchArgs),
    Field(crate::field::FieldArgs),
    Bots(Box<crate::bots::BotsArgs>),
    /// Say what NAT this machine is behind, and what will work
    Doctor(DoctorArgs),
    /// Print a token: from a development node, or signed with a key
    Token(TokenArgs),
}

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Ports: 8443 UDP and TCP for devices, 3478 UDP and TCP and 3479 UDP for STUN \
    and TURN, 5349 TCP and UDP for TURN over TLS and DTLS, 49152-65535 UDP for relayed traffic.\n\n\
    Examples:\n  \
    tombolo serve --dev --listen 192.0.2.1\n  \
    tombolo serve --config /etc/tombolo/node.toml"
)]
pub(crate) struct ServeArgs {
    /// A file with all of this and more; flags go before what it says
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Make keys, tokens and certificates up at start; hand out tokens to anybody. Not for the
    /// internet
    #[arg(long)]
    pub(crate) dev: bool,
    /// Name of this node, which no other node of its cluster has
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where this node is; devices are sent to nodes of the same region first
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Option<String>,
    /// Sessions from which on newcomers are sent to a node of the region that has a fifth fewer [default:
    /// 64]
    #[arg(long, value_name = "SESSIONS")]
    pub(crate) spread_from: Option<usize>,
    /// Address to listen on; repeat it for more [default: all]
    #[arg(long, value_name = "IP")]
    pub(crate) listen: Vec<IpAddr>,
    /// Address that devices are told, when a NAT stands in front of the node
    #[arg(long, value_name = "IP")]
    pub(crate) public: Option<IpAddr>,
    /// DNS name that devices are told instead of an address; the certificate must be for it
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,
    /// Let devices relay to this otherwise refused range, for example 10.0.0.0/8 in a lab; repeat
    /// it for more
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_peer: Vec<String>,
    /// Port for devices, UDP and TCP; 0 for any [default: 8443]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Port for STUN and TURN, UDP and TCP; the next one is STUN's alternate; 0 for any [default:
    /// 3478]
    #[arg(long, value_name = "PORT")]
    pub(crate) turn_port: Option<u16>,
    /// Port for TURN over TLS and DTLS, TCP and UDP; 0 for any [default: 5349]
    #[arg(long, value_name = "PORT")]
    pub(crate) turns_port: Option<u16>,
    /// PEM files of the certificate chain and of its private key; needed without --dev
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"])]
    pub(crate) tls: Option<Vec<PathBuf>>,
    /// Tell devices to accept exactly that certificate, for one that the web does not know
    #[arg(long, requires = "tls")]
    pub(crate) pin: bool,
    /// A key of device tokens, by the name that they call it: a file with a secret (HS256), or PEM of
    /// an Ed25519 public key; repeat it for more. Needed without --dev
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    pub(crate) token_key: Vec<(String, PathBuf)>,
    /// Rules of a pool of the matchmaker, or a folder of such files; repeat it for more
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) pools: Vec<PathBuf>,
    /// Where to serve metrics of the node over HTTP (/metrics, /healthz, /readyz)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Socket for `tombolo nodes`, `drain` and the like; nobody but this user may use it
    #[arg(long, value_name = "PATH")]
    pub(crate) admin: Option<PathBuf>,
    /// At SIGTERM, send devices to other nodes, if there are any, and wait for them to go, for so many
    /// seconds; a second SIGTERM ends at once [default: 30]
    #[arg(long, value_name = "S", value_parser = whole_seconds)]
    pub(crate) drain_timeout: Option<u64>,
    /// End when standard input ends: with the process that holds its other end
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
    /// Keep rooms in this folder, so that a restart loses nothing [default: in memory]
    #[arg(long, value_name = "DIR", conflicts_with = "nats")]
    pub(crate) data: Option<PathBuf>,
    /// Print events as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
}

/// Where the nodes of a cluster keep what they share.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "NATS")]
pub(crate) struct NatsArgs {
    /// Keep rooms on these NATS servers, which other nodes use too: nats://HOST:PORT or
    /// tls://HOST:PORT; repeat it, or separate with commas
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) nats: Vec<String>,
    /// How many servers hold each stream: 1, 3 or 5 [default: 3, or 1 with one URL]
    #[arg(long, value_name = "N")]
    pub(crate) nats_replicas: Option<usize>,
    /// First token of all subjects, so that clusters can share servers
    #[arg(long, value_name = "NAME")]
    pub(crate) nats_prefix: Option<String>,
    /// Credentials file, as `nsc` writes it
    #[arg(long, value_name = "FILE", group = "nats_auth")]
    pub(crate) nats_creds: Option<PathBuf>,
    /// File with the seed of an nkey
    #[arg(long, value_name = "FILE", group = "nats_auth")]
    pub(crate) nats_nkey: Option<PathBuf>,
    /// File with a token, or with a name and a password as NAME:PASSWORD
    #[arg(long, value_name = "FILE", group = "nats_auth")]
    pub(crate) nats_secret: Option<PathBuf>,
    /// File with the key that seals what nodes say to each other, at least 32 bytes; repeat it to
    /// change keys: the first one seals, all open
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_seal: Vec<PathBuf>,
    /// PEM file of authorities to trust beside the system's; only encrypted connections are made
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_ca: Option<PathBuf>,
    /// PEM files of this node's certificate and key
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"])]
    pub(crate) nats_cert: Option<Vec<PathBuf>>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Use loopback even where namespaces with NATs are possible
    #[arg(long)]
    pub(crate) loopback: bool,
    /// Set inside the user namespace in which the demo starts itself again
    #[arg(long, hide = true)]
    pub(crate) inside: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LaneArg {
    /// In order, each message once, up to 512 KiB
    Reliable,
    /// At most once, any order, up to one packet
    Unreliable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyArg {
    /// Relayed at once, direct as soon as possible
    Any,
    /// Never direct
    Relay,
    /// Never through the relay, but for a first message, which may come with the introduction
    Direct,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: tombolo peer --server 'tombolo://192.0.2.1:8443?pin=…' --user \
    alice --room lobby"
)]
pub(crate) struct PeerArgs {
    /// The node's URL, as `tombolo serve` prints it
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) who: Who,
    #[command(flatten)]
    pub(crate) place: Place,
    /// When the room is made, give it a short code, by which others may join it
    #[arg(long, conflicts_with = "code")]
    pub(crate) with_code: bool,
    /// What a newcomer must know to come in; set when the room is made
    #[arg(long, value_name = "TEXT")]
    pub(crate) password: Option<String>,
    /// Lane of the messages
    #[arg(long, value_enum, default_value_t = LaneArg::Reliable)]
    pub(crate) lane: LaneArg,
    /// Time between two messages to a peer
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = milliseconds)]
    pub(crate) send_every: Duration,
    /// Size of a message, at least 16
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = size)]
    pub(crate) size: usize,
    /// Messages to each peer; then end after 2 s of silence [default: no end]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// Which paths may be used
    #[arg(long, value_enum, default_value_t = PolicyArg::Any)]
    pub(crate) policy: PolicyArg,
    /// Say this in the room once: it is kept, and told to those who come back later; may be given
    /// several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) durable: Vec<String>,
    /// Tell what happens in the room: durable messages, properties, objects, its owner
    #[arg(long)]
    pub(crate) watch: bool,
    /// Print events as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: tombolo match --server 'tombolo://192.0.2.1:8443?pin=…' --user alice \
    --pool ranked --attribute skill=1200 --attribute mode=duel --accept"
)]
pub(crate) struct MatchArgs {
    /// The node's URL, as `tombolo serve` prints it
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) who: Who,
    /// The pool to look in
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: String,
    /// What the user is like: a number, a text, several texts separated by commas, or numbers by name as
    /// eu:20,us:110; repeat it for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    pub(crate) attribute: Vec<(String, tombolo_client::MatchValue)>,
    /// What the others must be like, for example '+region:eu +skill:>=10'
    #[arg(long, value_name = "QUERY", default_value = "")]
    pub(crate) query: String,
    /// A role that the user plays, the dearest first; repeat it for more
    #[arg(long, value_name = "NAME")]
    pub(crate) role: Vec<String>,
    /// A mark of the ticket, which queries see as 'tags'; repeat it for more
    #[arg(long, value_name = "NAME")]
    pub(crate) tag: Vec<String>,
    /// A user not to be met; repeat it for more
    #[arg(long, value_name = "USER")]
    pub(crate) block: Vec<tombolo_client::UserId>,
    /// For how many seconds the device may be away [default: 30]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) grace: Option<Duration>,
    /// Come before tickets of lower priority, as far as the pool takes that from devices
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        allow_negative_numbers = true
    )]
    pub(crate) priority: i8,
    /// Look as a party, all in one team: who is in this room, whose name begins with party-. It is made when it does not
    /// exist; its owner looks for all of it
    #[arg(long, value_name = "ROOM", value_parser = party_name)]
    pub(crate) party: Option<String>,
    /// How many the party is to be before its owner looks
    #[arg(long, value_name = "N", default_value = "2",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) party_size: u16,
    /// Say that the user is ready when it is asked; otherwise it is not
    #[arg(long)]
    pub(crate) accept: bool,
    /// Stay in the match's room for so many seconds, and ask for more users if this one owns it
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) backfill: Option<Duration>,
    /// Ask after so many seconds why no match has been found, and again after as many
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) why_every: Option<Duration>,
    /// Give up after so many seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// Stay in the match's room until this many members are there, or for 10 s
    #[arg(long, value_name = "N", default_value = "1",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) members: u16,
    /// Stay in the match's room until there are links with this many others, or for 10 s
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) linked: u16,
    /// With how many others of the match the device is linked at most; with its host alone when they are more
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) links_max: usize,
    /// Print events as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: tombolo groups --server 'tombolo://192.0.2.1:8443?pin=…' --user alice"
)]
pub(crate) struct GroupsArgs {
    /// The node's URL, as `tombolo serve` prints it
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) who: Who,
    /// Print them as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Place {
    /// Room to join; made when it does not exist
    #[arg(long, value_name = "ID", value_parser = room_name)]
    pub(crate) room: Option<String>,
    /// Short code of the room to join, as `--with-code` told it
    #[arg(long, value_name = "CODE")]
    pub(crate) code: Option<tombolo_client::RoomCode>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Who {
    /// A device token (JWT)
    #[arg(long, value_name = "JWT")]
    pub(crate) token: Option<String>,
    /// A user name; the token is fetched from the node, which must run with --dev
    #[arg(long, value_name = "ID")]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The node's URL, as `tombolo serve` prints it
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    /// A device token; without it the node must run with --dev
    #[arg(long, value_name = "JWT")]
    pub(crate) token: Option<String>,
    /// Print events as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tombolo token --server 'tombolo://192.0.2.1:8443?pin=…' --user alice\n  \
    tombolo token --key 2026-11=/etc/tombolo/token.key --user alice --ttl 86400")]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) from: TokenFrom,
    /// The user whom the token will prove
    #[arg(long, value_name = "ID")]
    pub(crate) user: String,
    /// With --key: seconds for which the token is good
    #[arg(long, value_name = "S", default_value_t = 3600, conflicts_with = "server",
        value_parser = clap::value_parser!(u64).range(1..=TOKEN_TTL_MAX))]
    pub(crate) ttl: u64,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TokenFrom {
    /// Ask the node with this URL, which must run with --dev
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Make the token here, with the secret in a file as `tombolo serve --token-key` takes it
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    pub(crate) key: Option<(String, PathBuf)>,
}

/// Ten years, in seconds: longer ones are mistakes.
const TOKEN_TTL_MAX: u64 = 10 * 365 * 24 * 3600;

pub(crate) fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err("not NAME=FILE".to_owned()),
    }
}

/// An attribute: numbers are numbers, and what has commas or colons is a list or a map.
fn attribute(text: &str) -> Result<(String, tombolo_client::MatchValue), String> {
    use tombolo_client::{MatchValue, Name};

    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "not NAME=VALUE".to_owned())?;
    if let Ok(number) = value.parse::<f64>() {
        return Ok((name.to_owned(), MatchValue::Number(number)));
    }
    let pairs = value.split(',').map(|item| {
        let (key, number) = item.split_once(':')?;
        Some((Name::parse(key).ok()?, number.parse::<f64>().ok()?))
    });
    let value = match pairs.collect::<Option<_>>() {
        Some(map) => MatchValue::Map(map),
        None if value.contains(',') => {
            MatchValue::List(value.split(',').map(str::to_owned).collect())
        }
        None => MatchValue::Text(value.to_owned()),
    };
    Ok((name.to_owned(), value))
}

/// How many of a list are asked for at once.
pub(crate) fn page(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=PAGE_MAX).contains(&count) => Ok(count),
        Ok(_) | Err(_) => Err(format!("not a number from 1 to {PAGE_MAX}")),
    }
}

/// As many as servers tell at once.
const PAGE_MAX: usize = 1000;

/// Where a filter is wrong, all of it is refused, lest what was to be seen is not.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) if is_no_level(text) => {
            let levels = ["off", "error", "warn", "info", "debug", "trace"];
            let meant = crate::config_text::alike(text, levels.into_iter());
            let meant = meant.map(|level| format!("; did you mean {level}?"));
            Err(format!("no level{}", meant.unwrap_or_default()))
        }
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether it is one word and no level: that would be a part of the program, and nothing else would be logged.
fn is_no_level(text: &str) -> bool {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word && text != "tombolo" && text.parse::<tracing::level_filters::LevelFilter>().is_err()
}

fn party_name(text: &str) -> Result<String, String> {
    match room_name(text)? {
        room if room.starts_with("party-") => Ok(room),
        _ => Err("not a room whose name begins with party-".to_owned()),
    }
}

fn room_name(text: &str) -> Result<String, String> {
    match tombolo_client::RoomId::parse(text) {
        Ok(room) => Ok(room.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// A year, in seconds: longer times are mistakes, and the clock does not reach much farther.
pub(crate) const TIME_MAX: u64 = 365 * 24 * 3600;

pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let most = TIME_MAX * 1000;
        format!("not a number of milliseconds, more than 0 and at most {most} (a year)")
    };
    let value: f64 = text.parse().map_err(|_| wrong())?;
    time(value / 1000.0).ok_or_else(wrong)
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("not a number of seconds, more than 0 and at most {TIME_MAX} (a year)");
    text.parse().ok().and_then(time).ok_or_else(wrong)
}

/// Seconds of which none is left over; 0 is not to wait.
pub(crate) fn whole_seconds(text: &str) -> Result<u64, String> {
    let value: Option<u64> = text.parse().ok();
    let value = value.filter(|seconds| *seconds <= TIME_MAX);
    value.ok_or_else(|| format!("not a whole number of seconds from 0 to {TIME_MAX} (a year)"))
}

fn time(seconds: f64) -> Option<Duration> {
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    (!time.is_zero() && time <= Duration::from_secs(TIME_MAX)).then_some(time)
}

fn size(text: &str) -> Result<usize, String> {
    let bytes: usize = text
        .parse()
        .map_err(|_| "not a number of bytes".to_owned())?;
    if bytes < crate::peer::HEADER_BYTES {
        return Err(format!(
            "a message has at least {} bytes",
            crate::peer::HEADER_BYTES
        ));
    }
    if bytes > tombolo_client::RELIABLE_BYTES_MAX {
        return Err(format!(
            "a message has at most {} bytes",
            tombolo_client::RELIABLE_BYTES_MAX
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn peer_needs_exactly_one_way_to_say_where_it_goes() {
        let parse = |place: &[&str]| {
            let args = ["tombolo", "peer", "--server", "u", "--user", "a"];
            Cli::try_parse_from(args.iter().chain(place)).is_ok()
        };
        assert!(parse(&["--room", "r"]) && parse(&["--room", "r", "--with-code"]));
        assert!(parse(&["--code", "7kq-3xf"]));
        assert!(!parse(&[]));
        assert!(!parse(&["--room", "a b"]));
        assert!(!parse(&["--room", "r", "--code", "7KQ3XF"]));
        assert!(!parse(&["--code", "7KQ3XF", "--with-code"]));
        assert!(!parse(&["--code", "no code"]));
    }

    #[test]
    fn a_time_is_more_than_none_and_at_most_a_year() {
        for wrong in [
            "0", "-1", "nan", "inf", "1e-30", "1e30", "31536001", "soon", "",
        ] {
            let complaint = seconds(wrong).expect_err(wrong);
            assert!(complaint.contains("at most 31536000"), "{complaint}");
        }
        assert_eq!(seconds("31536000"), Ok(Duration::from_secs(TIME_MAX)));
        assert_eq!(milliseconds("1.5"), Ok(Duration::from_micros(1500)));
        assert!(milliseconds("1e22").is_err());
        assert_eq!(whole_seconds("0"), Ok(0));
        for wrong in ["-1", "1.5", "31536001", "18446744073709551615"] {
            whole_seconds(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_not_understood() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        for right in [
            "tombolo turn --listen 127.0.0.1 --log tombolo=debug,info",
            "tombolo match --server u --user a --pool p --members 2",
            "tombolo field --server u --user a --field f --every 10",
            "tombolo drain node-1",
        ] {
            parse(right).expect(right);
        }
        for wrong in [
            "tombolo turn --listen 127.0.0.1 --log x=y=z",
            "tombolo match --server u --user a --pool p --members 0",
            "tombolo field --server u --user a --field f --every 9.9",
            "tombolo drain a/b",
            "tombolo notify ",
            "tombolo api-key --scope rooms:read --name ",
        ] {
            parse(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_node_is_asked_for_no_lifetime_of_its_tokens() {
        let parse = |from: &[&str]| {
            let args = ["tombolo", "token", "--user", "a"];
            Cli::try_parse_from(args.iter().chain(from)).is_ok()
        };
        assert!(parse(&["--server", "u"]));
        assert!(parse(&["--key", "a=b"]) && parse(&["--key", "a=b", "--ttl", "5"]));
        assert!(!parse(&["--server", "u", "--ttl", "5"]));
    }

    #[test]
    fn peer_needs_exactly_one_way_to_say_who_it_is() {
        let parse = |who: &[&str]| {
            let args = ["tombolo", "peer", "--server", "u", "--room", "r"];
            Cli::try_parse_from(args.iter().chain(who)).is_ok()
        };
        assert!(parse(&["--user", "a"]));
        assert!(parse(&["--token", "t"]));
        assert!(!parse(&[]));
        assert!(!parse(&["--user", "a", "--token", "t"]));
        assert!(
            !parse(&["--user", "a", "--size", "3"]),
            "smaller than the header"
        );
        assert!(!parse(&["--user", "a", "--send-every", "0"]));
    }
}
