//! Logs that the release before wrote: nodes of both releases make the same rooms of them.

use std::path::{Path, PathBuf};

use tombolo_room::{Entry, Room};

use crate::random::entries;

/// Of logs that open a room, and in which much is legal.
const SEEDS: [u64; 3] = [1, 2, 3];

#[test]
fn a_log_of_the_release_before_gives_the_same_room() {
    for seed in SEEDS {
        if std::env::var_os("TOMBOLO_KEEP").is_some() {
            keep(seed);
        }
        let mut room = Room::new();
        let mut legal = 0;
        let log = std::fs::read(path(seed, "log")).unwrap();
        for bytes in parts(&log) {
            let entry = Entry::decode(bytes).unwrap();
            assert_eq!(entry.encode(), bytes, "log {seed}: something is lost of it");
            legal += usize::from(room.apply(&entry).outcome.is_ok());
        }
        assert!(legal > 50, "log {seed}: {legal} entries say too little");
        let before = std::fs::read(path(seed, "snapshot")).unwrap();
        assert!(
            room == Room::restore(&before).unwrap(),
            "log {seed}: the rules are others than those of the release before, so entries need a greater VERSION; \
             before there is a release, keep the logs anew (CONTRIBUTING.md)"
        );
    }
}

/// Keeps what this release writes, for the next one to be compared with.
fn keep(seed: u64) {
    let mut room = Room::new();
    let mut log = Vec::new();
    for entry in entries(seed, 400) {
        let _ = room.apply(&entry);
        let bytes = entry.encode();
        log.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        log.extend(bytes);
    }
    std::fs::create_dir_all(path(seed, "log").parent().unwrap()).unwrap();
    std::fs::write(path(seed, "log"), log).unwrap();
    std::fs::write(path(seed, "snapshot"), room.snapshot()).unwrap();
}

/// What stands in a log, each behind its length.
fn parts(mut log: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = log.split_first_chunk()?;
        let (part, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        log = rest;
        Some(part)
    })
}

fn path(seed: u64, kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/kept/{seed}.{kind}"))
}
