//! Logs that the release before wrote: nodes of both releases make the same rooms of them.

use std::path::{Path, PathBuf};

use tombolo_room::{Entry, Properties, Room};

use crate::random::entries;

/// Of logs in which much is legal, and in which it shows what is public.
const SEEDS: [u64; 3] = [170, 194, 207];

#[test]
fn a_log_of_the_release_before_gives_the_same_room() {
    for seed in SEEDS {
        if std::env::var_os("TOMBOLO_KEEP").is_some() {
            keep(seed);
        }
        let (log, snapshots) = (read(seed, "log"), read(seed, "snapshots"));
        let mut before = parts(&snapshots);
        let mut room = Room::new();
        let (mut legal, mut public) = (0, 0);
        for (at, bytes) in parts(&log).enumerate() {
            let entry = Entry::decode(bytes).unwrap();
            assert_eq!(entry.encode(), bytes, "log {seed}: something is lost of it");
            legal += usize::from(room.apply(&entry).outcome.is_ok());
            if at % SNAPSHOT_EVERY == 0 {
                let before = Room::restore(before.next().unwrap()).unwrap();
                assert!(
                    room == before,
                    "log {seed}, entry {at}: the rules are others than those of the release before, so entries need a \
                     greater VERSION; before there is a release, keep the logs anew (CONTRIBUTING.md)"
                );
                let properties = room.properties().into_iter().flat_map(Properties::iter);
                public += properties
                    .filter(|(_, property)| property.is_public)
                    .count();
            }
        }
        assert!(legal > 50, "log {seed}: {legal} entries say too little");
        assert!(public > 0, "log {seed}: nothing is public at any time");
    }
}

/// Keeps what this release writes, for the next one to be compared with.
fn keep(seed: u64) {
    let mut room = Room::new();
    let (mut log, mut snapshots) = (Vec::new(), Vec::new());
    for (at, entry) in entries(seed, 400).iter().enumerate() {
        let _ = room.apply(entry);
        put(&entry.encode(), &mut log);
        if at % SNAPSHOT_EVERY == 0 {
            put(&room.snapshot(), &mut snapshots);
        }
    }
    std::fs::create_dir_all(path(seed, "log").parent().unwrap()).unwrap();
    std::fs::write(path(seed, "log"), log).unwrap();
    std::fs::write(path(seed, "snapshots"), snapshots).unwrap();
}

fn put(part: &[u8], to: &mut Vec<u8>) {
    to.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
    to.extend(part);
}

fn read(seed: u64, kind: &str) -> Vec<u8> {
    std::fs::read(path(seed, kind)).unwrap()
}

/// How many entries lie between two looks at the room.
const SNAPSHOT_EVERY: usize = 40;

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
