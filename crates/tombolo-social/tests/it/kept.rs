//! Logs that the release before wrote: nodes of both releases make the same of them.

mod logs;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tombolo_social::board::{self, Board};
use tombolo_social::group::{self, Group};
use tombolo_social::inbox::{self, Inbox};
use tombolo_social::presence::{SHARDS, Shard};
use tombolo_social::roster::{self, Roster, part_of};
use tombolo_social::segment::{self, Segment};

use crate::inbox::user;

/// What a log feeds.
trait Fed: Default + Debug {
    /// Applies an entry; says what became of it, in words that are the same in all releases, and how it is written
    /// again.
    fn feed(&mut self, entry: &[u8]) -> (String, Bytes);

    fn snapshot(&self) -> Bytes;

    /// Whether a snapshot is of this.
    fn is(&self, snapshot: &[u8]) -> bool;
}

#[test]
fn a_log_of_the_release_before_gives_the_same_inbox() {
    check::<Inbox>("inbox", logs::inbox, 150);
}

#[test]
fn a_log_of_the_release_before_gives_the_same_board() {
    check::<Board>("board", logs::board, 10);
}

#[test]
fn a_log_of_the_release_before_gives_the_same_segment() {
    check::<Segment>("segment", logs::segment, 250);
}

#[test]
fn a_log_of_the_release_before_gives_the_same_group() {
    check::<Group>("group", logs::group, 10);
}

#[test]
fn a_log_of_the_release_before_gives_the_same_roster() {
    check::<Roster>("roster", logs::roster, 50);
    check::<Roster>("split", logs::split, 3);
}

#[test]
fn the_release_before_had_the_same_bounds_and_spread_users_alike() {
    let now = bounds();
    if is_keeping() {
        std::fs::write(path("bounds"), &now).unwrap();
    }
    let before = std::fs::read_to_string(path("bounds")).unwrap();
    for (before, now) in before.lines().zip(now.lines()) {
        assert_eq!(before, now, "{OTHER_RULES}");
    }
    assert_eq!(before.lines().count(), now.lines().count());
}

fn check<F: Fed>(name: &str, entries: fn() -> Vec<Bytes>, legal_min: usize) {
    if is_keeping() {
        keep::<F>(name, &entries());
    }
    let log = std::fs::read(path(&format!("{name}.log"))).unwrap();
    let snapshots = std::fs::read(path(&format!("{name}.snapshots"))).unwrap();
    let changes = std::fs::read_to_string(path(&format!("{name}.changes"))).unwrap();
    let (mut snapshots, mut changes) = (parts(&snapshots), changes.lines());
    let mut fed = F::default();
    let (count, mut legal) = (parts(&log).count(), 0);
    for (at, entry) in parts(&log).enumerate() {
        let (change, again) = fed.feed(entry);
        assert_eq!(again, entry, "{name}, entry {at}: something is lost of it");
        legal += usize::from(change != REFUSED);
        assert_eq!(
            Some(&*change),
            changes.next(),
            "{name}, entry {at}: {OTHER_RULES}"
        );
        if is_snapshot_due(at, count) {
            let before = snapshots.next().unwrap();
            assert!(fed.is(before), "{name}, entry {at}: {OTHER_RULES}");
        }
    }
    assert!(legal >= legal_min, "{name}: {legal} entries say too little");
    assert!(legal < count, "{name}: nothing is refused");
}

const OTHER_RULES: &str = "the rules are others than those of the release before, so entries need a greater VERSION; \
                           before there is a release, keep the logs anew (CONTRIBUTING.md)";

/// What became of an entry that changes nothing.
const REFUSED: &str = "refused";

/// Keeps what this release writes, for the next one to be compared with.
fn keep<F: Fed>(name: &str, entries: &[Bytes]) {
    let mut fed = F::default();
    let (mut log, mut snapshots, mut changes) = (Vec::new(), Vec::new(), String::new());
    for (at, entry) in entries.iter().enumerate() {
        changes += &fed.feed(entry).0;
        changes += "\n";
        put(entry, &mut log);
        if is_snapshot_due(at, entries.len()) {
            put(&fed.snapshot(), &mut snapshots);
        }
    }
    std::fs::create_dir_all(path("")).unwrap();
    std::fs::write(path(&format!("{name}.log")), log).unwrap();
    std::fs::write(path(&format!("{name}.snapshots")), snapshots).unwrap();
    std::fs::write(path(&format!("{name}.changes")), changes).unwrap();
}

fn is_keeping() -> bool {
    std::env::var_os("TOMBOLO_KEEP").is_some()
}

/// In the middle, when little has been dropped, and in the end.
fn is_snapshot_due(at: usize, count: usize) -> bool {
    at + 1 == count / 2 || at + 1 == count
}

fn put(part: &[u8], to: &mut Vec<u8>) {
    to.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
    to.extend(part);
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

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kept")
        .join(name)
}

impl Fed for Inbox {
    fn feed(&mut self, entry: &[u8]) -> (String, Bytes) {
        let entry = inbox::Entry::decode(entry).unwrap();
        let change = match self.apply(&entry) {
            Ok(done) => format!(
                "number {} at {}{}",
                done.number,
                done.time.as_millis(),
                repeated(done.is_repeated)
            ),
            Err(_) => REFUSED.to_owned(),
        };
        (change, entry.encode())
    }

    fn snapshot(&self) -> Bytes {
        self.snapshot()
    }

    fn is(&self, snapshot: &[u8]) -> bool {
        Self::restore(snapshot).as_ref() == Ok(self)
    }
}

impl Fed for Board {
    fn feed(&mut self, entry: &[u8]) -> (String, Bytes) {
        // A board refuses nothing; what it has already changes it as little.
        let entry = board::Entry::decode(entry).unwrap();
        let done = self.apply(&entry);
        let change = match done.is_repeated {
            true => REFUSED.to_owned(),
            false => format!("number {}, lost {}", done.number, self.lost()),
        };
        (change, entry.encode())
    }

    fn snapshot(&self) -> Bytes {
        self.snapshot()
    }

    fn is(&self, snapshot: &[u8]) -> bool {
        Self::restore(snapshot).as_ref() == Ok(self)
    }
}

impl Fed for Segment {
    fn feed(&mut self, entry: &[u8]) -> (String, Bytes) {
        let entry = segment::Entry::decode(entry).unwrap();
        let change = match self.apply(&entry) {
            Ok(done) => format!(
                "index {} at {}{}",
                done.index,
                done.time.as_millis(),
                repeated(done.is_repeated)
            ),
            Err(segment::Full) => REFUSED.to_owned(),
        };
        (change, entry.encode())
    }

    /// A segment has none: how much it holds stands for it, which its group adds up.
    fn snapshot(&self) -> Bytes {
        format!("{} posts, {} bytes", self.posts().len(), self.bytes()).into()
    }

    fn is(&self, snapshot: &[u8]) -> bool {
        Fed::snapshot(self) == snapshot
    }
}

impl Fed for Group {
    fn feed(&mut self, entry: &[u8]) -> (String, Bytes) {
        let entry = group::Entry::decode(entry).unwrap();
        let change = match self.apply(&entry) {
            Ok(()) => format!(
                "revision {}, segments {} to {}",
                self.revision(),
                self.segment_first(),
                self.segment()
            ),
            Err(_) => REFUSED.to_owned(),
        };
        (change, entry.encode())
    }

    fn snapshot(&self) -> Bytes {
        self.snapshot()
    }

    fn is(&self, snapshot: &[u8]) -> bool {
        Self::restore(snapshot).as_ref() == Ok(self)
    }
}

impl Fed for Roster {
    fn feed(&mut self, entry: &[u8]) -> (String, Bytes) {
        let entry = roster::Entry::decode(entry).unwrap();
        let change = match self.apply(&entry) {
            Ok(()) => format!("revision {}, {} members", self.revision(), self.len()),
            Err(_) => REFUSED.to_owned(),
        };
        (change, entry.encode())
    }

    fn snapshot(&self) -> Bytes {
        self.snapshot()
    }

    fn is(&self, snapshot: &[u8]) -> bool {
        Self::restore(snapshot).as_ref() == Ok(self)
    }
}

fn repeated(is_repeated: bool) -> &'static str {
    if is_repeated { ", again" } else { "" }
}

/// What nodes have to agree on that logs of this size do not reach.
fn bounds() -> String {
    let bounds = [
        ("letters of an inbox", inbox::LETTERS_MAX as u64),
        ("their bytes", inbox::LETTER_BYTES_MAX as u64),
        ("copies in an inbox", inbox::COPIES_MAX as u64),
        ("their bytes", inbox::COPY_BYTES_MAX as u64),
        ("unread of a sender", inbox::UNREAD_PER_SENDER_MAX as u64),
        ("their bytes", inbox::UNREAD_BYTES_PER_SENDER_MAX as u64),
        ("bytes of a letter", inbox::PAYLOAD_BYTES_MAX as u64),
        ("blocked users", inbox::BLOCKED_MAX as u64),
        ("letters recognised", inbox::SEEN_MAX as u64),
        ("seconds a letter is kept", inbox::KEPT_FOR.as_secs()),
        ("seconds of a step", inbox::CLOCK_STEP_MAX.as_secs()),
        ("notices on a board", board::NOTICES_MAX as u64),
        ("their bytes", board::NOTICE_BYTES_MAX as u64),
        ("bytes of a notice", board::PAYLOAD_BYTES_MAX as u64),
        ("posts of a segment", segment::POSTS_MAX as u64),
        ("bytes of a post", segment::PAYLOAD_BYTES_MAX as u64),
        ("bytes beside its payload", segment::POST_BYTES as u64),
        ("segments of a group", group::SEGMENTS_KEPT as u64),
        ("bytes of a group", group::KEPT_BYTES_MAX),
        ("bytes of a title", group::TITLE_BYTES_MAX as u64),
        ("roles of a group", group::ROLES_MAX as u64),
        ("bytes of a role", group::ROLE_BYTES_MAX as u64),
        ("users of a roster", roster::MEMBERS_MAX as u64),
        ("parts of a roster", roster::PARTS.into()),
        ("splits of a roster", roster::DEPTH_MAX as u64),
        ("shards of presence", SHARDS as u64),
    ];
    let bounds = bounds.map(|(name, bound)| format!("{name}: {bound}\n"));
    let places = ["a", "alice", "user-1", "user-2", "omega"].map(|name| {
        let user = user(name);
        let path: Vec<_> = (0..=roster::DEPTH_MAX)
            .map(|depth| part_of(&user, depth))
            .collect();
        let shard = Shard::of(&user).number();
        format!("{name}: shard {shard}, path {path:?}\n")
    });
    bounds.concat() + &places.concat()
}
