//! Replays the committed corpora without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use tombolo_fuzz::turn;
use tombolo_turn::server::{Refusal, Stats};

#[test]
fn every_input_of_every_corpus_is_survived() {
    let targets: [(&str, Run); 10] = [
        ("stun_decode", tombolo_fuzz::stun::run),
        ("turn_server", turn::run),
        ("turn_strangers", tombolo_fuzz::strangers::run),
        ("turn_stream", tombolo_fuzz::stream::run),
        ("proxy_header", tombolo_fuzz::proxy::run),
        ("dtls_hello", tombolo_fuzz::dtls::run),
        ("frame_decode", tombolo_fuzz::frame::run),
        ("icmp_error", tombolo_fuzz::icmp::run),
        ("pool_log", tombolo_fuzz::pool::run),
        ("pool_rules", tombolo_fuzz::rules::run),
    ];
    for (target, run) in targets {
        for (path, input) in inputs(target) {
            println!("{}", path.display());
            run(&input);
        }
    }
}

#[test]
fn the_seeds_of_the_server_and_of_the_pool_are_in_their_corpora() {
    let is_written = std::env::var_os("WRITE_SEEDS").is_some();
    let server = turn::seeds()
        .into_iter()
        .map(|(name, bytes)| (folder("turn_server"), name.to_string(), bytes));
    let pool = tombolo_fuzz::pool::seeds()
        .into_iter()
        .map(|(name, bytes)| (folder("pool_log"), name, bytes));
    for (folder, name, bytes) in server.chain(pool) {
        let path = folder.join(&name);
        if is_written {
            fs::write(&path, &bytes).expect("is writable");
        }
        let found = fs::read(&path).ok();
        assert!(
            found == Some(bytes),
            "{name} differs: run this with WRITE_SEEDS=1"
        );
    }
}

#[test]
fn the_seeds_of_the_server_get_as_far_as_they_mean_to() {
    let all: Vec<_> = turn::seeds()
        .into_iter()
        .map(|(name, input)| {
            println!("{name}");
            turn::play(&input)
        })
        .collect();
    let reach = |what: fn(&Stats) -> u64| all.iter().map(what).max();
    assert!(reach(|stats| stats.to_peer_packets) > Some(2));
    assert!(reach(|stats| stats.to_client_packets) > Some(5));
    assert!(reach(|stats| stats.allocations_expired) > Some(0));
    assert!(reach(|stats| stats.allocations_moved) > Some(1));
    assert!(reach(|stats| stats.icmp_errors) > Some(1));
    assert!(reach(|stats| stats.refused(Refusal::ConnectFailed)) > Some(1));
    assert!(reach(|stats| stats.refused(Refusal::PeerNotPermitted)) > Some(0));
}

#[test]
fn each_seed_of_dtls_gets_to_a_handshake_as_its_name_says() {
    for (path, input) in inputs("dtls_hello") {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let has_handshake = tombolo_fuzz::dtls::play(&input);
        assert_eq!(has_handshake, name.contains("handshake"), "{name}");
    }
}

/// What a target does with one input.
type Run = fn(&[u8]);

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target)
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(folder(target)).expect("has a corpus");
    let paths = files.map(|file| file.expect("is readable").path());
    let mut inputs: Vec<_> = paths
        .map(|path| (path.clone(), fs::read(path).expect("is readable")))
        .collect();
    assert!(!inputs.is_empty(), "{target} has an empty corpus");
    inputs.sort();
    inputs
}
