//! Logs that the release before wrote: nodes of both releases make the same pools of them.

use std::path::{Path, PathBuf};

use tombolo_match::{Applied, Entry, Event, Formed, Pool, Rules, TicketId};

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
        let before = std::fs::read_to_string(path(seed, "changes")).unwrap();
        let mut before = before.lines();
        for (at, bytes) in parts(&log).enumerate() {
            let (operation, entry) = Entry::decode(bytes).unwrap();
            assert_eq!(
                entry.encode(operation),
                bytes,
                "log {seed}: something is lost of it"
            );
            let applied = pool.apply(&entry);
            legal += usize::from(applied.outcome.is_ok());
            assert_eq!(
                Some(changes(&applied, &pool).as_str()),
                before.next(),
                "log {seed}, entry {at}: {OTHER_RULES}"
            );
        }
        assert!(legal > 80, "log {seed}: {legal} entries say too little");
        let before = std::fs::read(path(seed, "snapshot")).unwrap();
        let before = Pool::restore(rules, &before).unwrap();
        // What this release keeps beside that stands behind it.
        assert!(
            pool.snapshot().starts_with(&before.snapshot()),
            "log {seed}: {OTHER_RULES}"
        );
    }
}

const OTHER_RULES: &str = "the rules are others than those of the release before, so entries need a greater VERSION; \
                           before there is a release, keep the logs anew (CONTRIBUTING.md)";

/// What an entry has changed, in words that are the same in all releases.
fn changes(applied: &Applied, pool: &Pool) -> String {
    let outcome = match applied.outcome {
        Ok(()) => "done",
        Err(_) => "not done",
    };
    let mut words = vec![outcome.to_owned()];
    words.extend(applied.events.iter().map(told));
    let timeout = pool.poll_timeout().map_or(0, |due| due.as_millis());
    words.push(format!(
        "clock {} due {timeout} weight {} waiting {}",
        pool.clock().as_millis(),
        pool.weight(),
        pool.waiting_count()
    ));
    words.join(", ")
}

fn told(event: &Event) -> String {
    match event {
        Event::Queued { ticket, .. } => format!("queued {}", number(ticket)),
        Event::Changed { ticket, revision } => format!("changed {} {revision}", number(ticket)),
        Event::Dropped {
            ticket,
            user,
            until,
        } => {
            let until = until.as_millis();
            format!("dropped {} {user} {until}", number(ticket))
        }
        Event::Returned { ticket, user } => format!("returned {} {user}", number(ticket)),
        Event::Asked { formed, until } => format!("asked {} {}", all(formed), until.as_millis()),
        Event::Accepted { id, user } => format!("accepted {} {user}", id.0),
        Event::Failed { id, requeued } => {
            let requeued: Vec<_> = requeued.iter().map(number).collect();
            format!("failed {} {requeued:?}", id.0)
        }
        Event::Matched(formed) => format!("matched {}", all(formed)),
        Event::Ended { ticket, reason } => {
            format!("ended {} {reason:?}", number(ticket))
        }
        Event::Refused { id } => format!("refused {}", id.0),
        Event::BackfillOpened { id, generation } => format!("opened {} {generation}", id.0[0]),
        Event::BackfillEnded { id, reason } => format!("closed {} {reason:?}", id.0[0]),
    }
}

fn number(ticket: &TicketId) -> u128 {
    u128::from_be_bytes(ticket.0)
}

fn all(formed: &Formed) -> String {
    let tickets: Vec<_> = formed
        .parties()
        .map(|party| number(&party.ticket))
        .collect();
    format!("{} {tickets:?}", formed.id.0)
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
    let (mut log, mut all) = (Vec::new(), String::new());
    let mut pool = Pool::new(writer.pool.rules().clone());
    for (bytes, _) in &writer.log {
        let (_, entry) = Entry::decode(bytes).unwrap();
        let applied = pool.apply(&entry);
        all += &changes(&applied, &pool);
        all += "\n";
        log.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        log.extend(bytes);
    }
    std::fs::create_dir_all(path(seed, "log").parent().unwrap()).unwrap();
    std::fs::write(path(seed, "toml"), rules).unwrap();
    std::fs::write(path(seed, "log"), log).unwrap();
    std::fs::write(path(seed, "changes"), all).unwrap();
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
