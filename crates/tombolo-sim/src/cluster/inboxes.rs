//! The inboxes of all devices, whose logs are read by somebody who has no part in them.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tombolo_engine::{Key, Local, Log as _, TailEvent};
use tombolo_social::inbox::{Body, Entry, Inbox};

use super::device::{Device, Letters, Outcome, Violation};
use super::feed::Feed;
use super::tally::Tally;

/// What devices write to each other.
pub(crate) struct Inboxes {
    rng: ChaCha12Rng,
    /// By the user whose it is.
    books: BTreeMap<String, Book>,
}

/// One inbox.
struct Book {
    feed: Feed,
    inbox: Inbox,
    /// From whom which letter is, and what it says.
    letters: BTreeMap<u64, (String, String)>,
}

impl Inboxes {
    pub(crate) async fn new(
        local: &Local,
        devices: &[Device],
        rng: ChaCha12Rng,
    ) -> Result<Self, Violation> {
        let mut books = BTreeMap::new();
        for device in devices {
            let key = Key::new(["inbox", &device.name]).map_err(|error| error.to_string())?;
            let tail = local.tail(&key, None).await;
            let book = Book {
                feed: Feed::new(tail.map_err(|error| error.to_string())?),
                inbox: Inbox::new(),
                letters: BTreeMap::new(),
            };
            books.insert(device.name.clone(), book);
        }
        Ok(Self { rng, books })
    }

    /// A device writes to another one.
    pub(crate) fn act(&mut self, devices: &mut [Device]) {
        let to = self.rng.random_range(0..devices.len());
        let to = devices[to].name.clone();
        let from = self.rng.random_range(0..devices.len());
        let device = &mut devices[from];
        if device.name != to {
            device.letters.write(&to);
        }
    }

    /// Reads what was appended since, and looks whether the inbox's device was told so.
    pub(crate) fn read(&mut self, devices: &[Device]) -> Result<(), Violation> {
        for device in devices {
            let Some(book) = self.books.get_mut(&device.name) else {
                continue;
            };
            if book.read()? {
                book.check_read(device)?;
            }
        }
        Ok(())
    }

    /// At rest everybody has read all that is there, and what was acknowledged is there, once and in order.
    pub(crate) fn check(&self, devices: &[Device], tally: &mut Tally) -> Result<(), Violation> {
        for device in devices {
            let name = &device.name;
            let book = self.books.get(name).ok_or("a device without an inbox")?;
            book.check_read(device)?;
            if device.letters.read.len() != book.letters.len() {
                let (read, all) = (device.letters.read.len(), book.letters.len());
                return Err(format!("{name}: has read {read} of {all} letters"));
            }
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            for (number, (to, outcome)) in (1..).zip(&device.letters.written) {
                let book = self.books.get(to).ok_or("a letter to nobody")?;
                let places = book.places(name, &Letters::text(name, number));
                match (outcome, places.as_slice()) {
                    (Outcome::Kept, [place]) => {
                        tally.letters += 1;
                        let before = last.insert(to, *place).unwrap_or(0);
                        if before >= *place {
                            return Err(format!("{name}: {to} gets {number} before older ones"));
                        }
                    }
                    (Outcome::Refused | Outcome::RefusedLater, [])
                    | (Outcome::RefusedLater, [_]) => {}
                    (outcome, places) => {
                        return Err(format!(
                            "{name}: letter {number} to {to} is {outcome:?}, and at {places:?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Book {
    /// Whether there was something.
    fn read(&mut self) -> Result<bool, Violation> {
        self.feed.read();
        let events = self.feed.take();
        let is_new = !events.is_empty();
        for event in events {
            match event {
                TailEvent::Entry { entry, .. } => {
                    let entry = Entry::decode(&entry).map_err(|error| error.to_string())?;
                    if let (Ok(done), Body::Sent { from, payload, .. }) =
                        (self.inbox.apply(&entry), &entry.body)
                        && !done.is_repeated
                    {
                        let text = String::from_utf8_lossy(payload).into_owned();
                        self.letters.insert(done.number, (from.to_string(), text));
                    }
                }
                TailEvent::Synced => {}
                TailEvent::Snapshot { .. } | TailEvent::Reset | TailEvent::Retired { .. } => {
                    return Err("an inbox's log is not what was appended".to_owned());
                }
            }
        }
        Ok(is_new)
    }

    fn check_read(&self, device: &Device) -> Result<(), Violation> {
        for (number, letter) in &device.letters.read {
            let kept = self.letters.get(number);
            if kept != Some(letter) {
                let name = &device.name;
                return Err(format!(
                    "{name}: {number} is {kept:?}, and it read {letter:?}"
                ));
            }
        }
        Ok(())
    }

    fn places(&self, from: &str, text: &str) -> Vec<u64> {
        let letters = self.letters.iter();
        let these = letters.filter(|(_, (by, says))| by == from && says == text);
        these.map(|(number, _)| *number).collect()
    }
}
