//! A whole inbox as bytes, and back.

use bytes::Bytes;
use prost::Message as _;

use super::entry::parse_receiver;
use super::{Inbox, Letter};
use crate::generated as wire;
use crate::word::{
    EntryError, MessageId, OperationId, SnapshotError, Time, VERSION, array, parse_user,
};

impl Inbox {
    /// The whole inbox as bytes: equal inboxes give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let epoch = self.epoch.as_ref();
        let snapshot = wire::InboxSnapshot {
            version: VERSION,
            epoch: epoch.map_or_else(Bytes::new, |epoch| Bytes::copy_from_slice(&epoch.0)),
            clock_ms: self.clock.as_millis(),
            last: self.last,
            lost: self.lost,
            copy_lost: self.copy_lost,
            read: self.read,
            blocks: self.blocks,
            letters: self.letters.iter().map(keep).collect(),
            blocked: self.blocked.iter().map(ToString::to_string).collect(),
            seen: self
                .seen
                .iter()
                .map(|key| wire::Seen {
                    from: key.0.to_string(),
                    id: Bytes::copy_from_slice(&key.1.0),
                    time_ms: self.seen_at.get(key).map_or(0, |time| time.as_millis()),
                })
                .collect(),
        };
        snapshot.encode_to_vec().into()
    }

    /// Takes an inbox out of a snapshot.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn restore(snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let mut snapshot = wire::InboxSnapshot::decode(snapshot).map_err(|_| SnapshotError)?;
        if snapshot.version != VERSION {
            return Err(SnapshotError);
        }
        number_letters(&mut snapshot)?;
        restore(snapshot).map_err(|_| SnapshotError)
    }
}

fn keep(letter: &Letter) -> wire::Letter {
    wire::Letter {
        number: letter.number,
        time_ms: letter.time.as_millis(),
        from: letter.from.to_string(),
        id: Bytes::copy_from_slice(&letter.id.0),
        payload: letter.payload.clone(),
        to: letter
            .to
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

/// Numbers the messages of a snapshot that was kept before they had numbers in it: there were no gaps among them
/// then.
fn number_letters(kept: &mut wire::InboxSnapshot) -> Result<(), SnapshotError> {
    let has_numbers = kept.lost != 0 || kept.copy_lost != 0;
    if has_numbers || kept.letters.iter().any(|letter| letter.number != 0) {
        return Ok(());
    }
    let lost = kept.last.checked_sub(kept.letters.len() as u64);
    let lost = lost.ok_or(SnapshotError)?;
    for (letter, number) in kept.letters.iter_mut().zip(lost + 1..) {
        letter.number = number;
    }
    (kept.lost, kept.copy_lost) = (lost, lost);
    Ok(())
}

fn restore(kept: wire::InboxSnapshot) -> Result<Inbox, EntryError> {
    let mut inbox = Inbox::new();
    if !kept.epoch.is_empty() {
        inbox.epoch = Some(OperationId(array(&kept.epoch)?));
    }
    inbox.clock = Time::from_millis(kept.clock_ms);
    inbox.last = kept.last;
    inbox.read = kept.read;
    inbox.blocks = kept.blocks;
    inbox.lost = kept.lost;
    inbox.copy_lost = kept.copy_lost;
    let mut before = 0;
    for letter in kept.letters {
        let number = letter.number;
        if number <= before || number > kept.last {
            return Err(EntryError::Malformed);
        }
        before = number;
        let from = parse_user(&letter.from)?;
        let to = parse_receiver(&letter.to)?;
        if number > inbox.read && to.is_none() {
            inbox.count_unread(&from, letter.payload.len());
        }
        inbox.keep(Letter {
            number,
            time: Time::from_millis(letter.time_ms),
            from,
            id: MessageId(array(&letter.id)?),
            payload: letter.payload,
            to,
        });
    }
    for user in &kept.blocked {
        inbox.blocked.insert(parse_user(user)?);
    }
    for seen in kept.seen {
        let key = (parse_user(&seen.from)?, MessageId(array(&seen.id)?));
        inbox.remember(key, Time::from_millis(seen.time_ms));
    }
    Ok(inbox)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{Body, Entry, LETTERS_MAX};

    #[test]
    fn what_was_kept_before_messages_had_numbers_is_read() {
        for count in [0, 3, LETTERS_MAX + 1] {
            let mut inbox = Inbox::new();
            let bodies = (0..count as u128).flat_map(|id| {
                let sent = Body::Sent {
                    from: "alice".parse().unwrap(),
                    id: MessageId(id.to_be_bytes()),
                    payload: Bytes::from_static(b"hello"),
                    to: None,
                };
                [sent, Body::Read(id as u64 + 1)]
            });
            for (number, body) in std::iter::once(Body::Opened).chain(bodies).enumerate() {
                let entry = Entry {
                    operation: OperationId((number as u128).to_be_bytes()),
                    time: Time::from_millis(1_000_000),
                    body,
                };
                inbox.apply(&entry).unwrap();
            }
            let mut kept = wire::InboxSnapshot::decode(inbox.snapshot()).unwrap();
            (kept.lost, kept.copy_lost) = (0, 0);
            kept.letters.iter_mut().for_each(|letter| letter.number = 0);
            let restored = Inbox::restore(&kept.encode_to_vec()).unwrap();
            assert_eq!(restored.last(), inbox.last());
            assert_eq!(restored.lost(), inbox.lost());
            assert!(restored.letters_after(0).eq(inbox.letters_after(0)));
        }
    }

    #[test]
    fn an_inbox_of_which_nothing_is_kept_has_lost_all_that_was_in_it() {
        let kept = wire::InboxSnapshot {
            version: VERSION,
            last: 7,
            ..wire::InboxSnapshot::default()
        };
        let restored = Inbox::restore(&kept.encode_to_vec()).unwrap();
        assert_eq!(restored.lost(), 7);
    }
}
