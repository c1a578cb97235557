//! Cores get time, randomness and bytes from their driver and read nothing from the world.

use super::paths::{Mention, MentionKind, mentions};
use super::source::Source;
use super::{Rule, Violation};

pub(super) fn check(source: &Source, violations: &mut Vec<Violation>) {
    for mention in mentions(&source.production) {
        if let Some(why) = why_impure(&mention) {
            violations.push(Violation {
                path: source.path.clone(),
                line: mention.line,
                rule: Rule::Purity,
                message: format!("`{}` {why}", mention.segments.join("::")),
            });
        }
    }
}

fn why_impure(mention: &Mention) -> Option<&'static str> {
    let segments: Vec<_> = mention.segments.iter().map(String::as_str).collect();
    match mention.kind {
        MentionKind::Path => {}
        MentionKind::Field => return None,
        MentionKind::Method => return find(METHODS, |name| segments[0] == name),
    }
    if segments.len() > 1 && segments.last() == Some(&"now") {
        return Some(CLOCK);
    }
    find(WORDS, |word| segments.contains(&word)).or_else(|| {
        find(PATHS, |path| {
            let path: Vec<_> = path.split("::").collect();
            segments.windows(path.len()).any(|part| part == path)
        })
    })
}

fn find(
    table: &[(&'static [&'static str], &'static str)],
    matches: impl Fn(&'static str) -> bool,
) -> Option<&'static str> {
    table
        .iter()
        .find(|(names, _)| names.iter().any(|name| matches(name)))
        .map(|&(_, why)| why)
}

const CLOCK: &str = "reads a clock; take `now` from the caller";
const SOCKET: &str = "is a socket; return bytes and let the driver send them";
const THREAD: &str = "is about threads or tasks; a core is driven by its caller";
const ENTROPY: &str = "takes the system's entropy; take a seed from the caller";
const WORLD: &str = "reaches for files, processes or the environment; a core knows only its inputs";

/// Methods that no core may call.
const METHODS: &[(&[&str], &str)] = &[
    (&["elapsed"], CLOCK),
    (
        &["to_socket_addrs"],
        "asks the name service; take addresses from the caller",
    ),
];

/// Words that no path of a core may hold.
const WORDS: &[(&[&str], &str)] = &[
    (
        &[
            "TcpListener",
            "TcpStream",
            "ToSocketAddrs",
            "UdpSocket",
            "UnixDatagram",
            "UnixListener",
            "UnixStream",
            "socket2",
            "mio",
        ],
        SOCKET,
    ),
    (&["tokio", "async_std", "smol", "rayon"], THREAD),
    (
        &[
            "OsRng",
            "SysRng",
            "ThreadRng",
            "from_entropy",
            "from_os_rng",
            "getrandom",
            "thread_rng",
            "try_from_os_rng",
        ],
        ENTROPY,
    ),
];

/// Parts of paths that no path of a core may hold.
const PATHS: &[(&[&str], &str)] = &[
    (&["std::thread"], THREAD),
    (&["rand::rng", "rand::random"], ENTROPY),
    (
        &[
            "std::fs",
            "std::process",
            "std::env",
            "std::os",
            "std::io::stdin",
            "std::io::stdout",
            "std::io::stderr",
            "std::*",
        ],
        WORLD,
    ),
];
