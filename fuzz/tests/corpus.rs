//! Replays the committed corpora without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_input_of_every_corpus_is_survived() {
    let targets: [(&str, Run); 3] = [
        ("stun_decode", tombolo_fuzz::stun::run),
        ("turn_server", tombolo_fuzz::turn::run),
        ("frame_decode", tombolo_fuzz::frame::run),
    ];
    for (target, run) in targets {
        for (path, input) in inputs(target) {
            println!("{}", path.display());
            run(&input);
        }
    }
}

#[test]
fn the_corpus_of_the_server_gets_as_far_as_data_both_ways() {
    let stats: Vec<_> = inputs("turn_server")
        .iter()
        .map(|(_, input)| tombolo_fuzz::turn::play(input))
        .collect();
    assert!(stats.iter().any(|stats| stats.to_peer_packets > 0));
    assert!(stats.iter().any(|stats| stats.to_client_packets > 0));
    assert!(stats.iter().any(|stats| stats.allocations_expired > 0));
}

/// What a target does with one input.
type Run = fn(&[u8]);

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let files = fs::read_dir(folder).expect("has a corpus");
    let paths = files.map(|file| file.expect("is readable").path());
    let mut inputs: Vec<_> = paths
        .map(|path| (path.clone(), fs::read(path).expect("is readable")))
        .collect();
    assert!(!inputs.is_empty(), "{target} has an empty corpus");
    inputs.sort();
    inputs
}
