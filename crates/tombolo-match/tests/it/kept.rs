//! Logs that the release before wrote: nodes of both releases make the same pools of them.

use std::path::{Path, PathBuf};

use tombolo_match::{Entry, Pool, Rules};

use crate::log::Writer;
use crate::random::Dice;

/// Of logs that are kept.
const SEEDS: [u64; 3] = [1, 2, 3];

#[test]
fn a_log_of_the_release_before_gives_the_same_pool() {
    for seed in SEEDS {
        if std::env::var_os("TOMBOLO_KEEP").is_some() {
            keep(seed);
        }
        let rules = std::fs::read_to_string(path(seed, "toml")).unwrap();
        let rules = Rules::parse(&rules).unwrap();
        let mut pool = Pool::new(rules.clone());
        let mut legal = 0;
        let log = std::fs::read(path(seed, "log")).unwrap();
        for bytes in parts(&log) {
            let (operation, entry) = Entry::decode(bytes).unwrap();
            assert_eq!(
                entry.encode(operation),
                bytes,
                "log {seed}: something is lost of it"
            );
            legal += usize::from(pool.apply(&entry).outcome.is_ok());
        }
        assert!(legal > 80, "log {seed}: {legal} entries say too little");
        let before = std::fs::read(path(seed, "snapshot")).unwrap();
        let before = Pool::restore(rules, &before).unwrap();
        assert_eq!(
            pool.snapshot(),
            before.snapshot(),
            "log {seed}: the rules are others than those of the release before, so entries need a greater VERSION; \
             before there is a release, keep the logs anew (CONTRIBUTING.md)"
        );
    }
}

/// Keeps what this release writes, for the next one to be compared with.
fn keep(seed: u64) {
    let mut dice = Dice::new(seed);
    let plan = dice.plan();
    let rules = format!("ready = \"2s\"\n{}", plan.document());
    let mut writer = Writer::new(Rules::parse(&rules).unwrap());
    for _ in 0..300 {
        writer.act(&plan, &mut dice);
    }
    let mut log = Vec::new();
    for (bytes, _) in &writer.log {
        log.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        log.extend(bytes);
    }
    std::fs::create_dir_all(path(seed, "log").parent().unwrap()).unwrap();
    std::fs::write(path(seed, "toml"), rules).unwrap();
    std::fs::write(path(seed, "log"), log).unwrap();
    std::fs::write(path(seed, "snapshot"), writer.pool.snapshot()).unwrap();
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
