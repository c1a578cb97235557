//! What a device has said of where it is, and of what it has put into a field. Reports may get lost, and what nothing is
//! said of is taken away: all of it is said again and again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Position;
use crate::error::Error;

/// Where something is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) class: u8,
    pub(super) position: Position,
    pub(super) payload: Bytes,
}

/// What was said last, of each.
#[derive(Debug)]
pub(super) struct Said {
    device: Saying,
    things_by_own: BTreeMap<u32, Saying>,
}

#[derive(Debug)]
struct Saying {
    place: Place,
    /// When it is said again.
    due: Instant,
}

impl Said {
    /// The device is there; the node is asked to let it in.
    pub(super) fn new(position: Position, payload: Bytes) -> Self {
        let place = Place {
            class: 0,
            position,
            payload,
        };
        Self {
            device: Saying::new(place),
            things_by_own: BTreeMap::new(),
        }
    }

    /// Keeps what is said now of the device (0), or of something of its.
    ///
    /// # Errors
    /// When the device has put [`THINGS_MAX`] others there.
    pub(super) fn say(&mut self, own: u32, place: Place) -> Result<(), Error> {
        if own == 0 {
            self.device = Saying::new(place);
            return Ok(());
        }
        let things = &mut self.things_by_own;
        if things.len() >= THINGS_MAX && !things.contains_key(&own) {
            return Err(Error::local(format!(
                "a device puts at most {THINGS_MAX} things into a field"
            )));
        }
        things.insert(own, Saying::new(place));
        Ok(())
    }

    /// Says nothing any more of something that the device has put there.
    pub(super) fn forget(&mut self, own: u32) {
        self.things_by_own.remove(&own);
    }

    /// Where the device is.
    pub(super) fn position(&self) -> Position {
        self.device.place.position
    }

    /// What is said of the device as it enters, which does not get lost.
    pub(super) fn as_it_enters(&mut self) -> Place {
        self.device.again(Instant::now())
    }

    /// The device is in the field: the node knows nothing yet of what it has put there.
    pub(super) fn on_entered(&mut self) {
        let now = Instant::now();
        for thing in self.things_by_own.values_mut() {
            thing.due = now;
        }
    }

    /// What is to be said again now, by number: the device, and of its things those that have waited longest.
    pub(super) fn say_again(&mut self) -> Vec<(u32, Place)> {
        let now = Instant::now();
        let things = self.things_by_own.iter_mut();
        let mut due: Vec<_> = things
            .map(|(own, thing)| (*own, thing))
            .filter(|(_, thing)| thing.due <= now)
            .collect();
        due.sort_by_key(|(own, thing)| (thing.due, *own));
        due.truncate(AT_ONCE_MAX);
        let device = (self.device.due <= now).then_some((0, &mut self.device));
        let all = device.into_iter().chain(due);
        all.map(|(own, saying)| (own, saying.again(now))).collect()
    }
}

impl Saying {
    fn new(place: Place) -> Self {
        // It may have got lost.
        let due = Instant::now() + LOOK_EVERY;
        Self { place, due }
    }

    fn again(&mut self, now: Instant) -> Place {
        self.due = now + REPEAT;
        self.place.clone()
    }
}

/// A report that may have got lost is repeated after so long.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// So often the same is said again.
const REPEAT: Duration = Duration::from_secs(3);

/// Things of which a device says again that they are there. Nodes take 16 of a device, unless they are told otherwise.
const THINGS_MAX: usize = 256;

/// How many of them are said again at a time. A user has 100 reports a second.
const AT_ONCE_MAX: usize = 16;

/// After how long the least patient node takes away what nothing is said of.
const SILENCE_MIN: Duration = Duration::from_secs(5);

// All have their turn by then.
const _: () = assert!(
    THINGS_MAX.div_ceil(AT_ONCE_MAX) as u128 * LOOK_EVERY.as_millis() < SILENCE_MIN.as_millis()
);

#[cfg(test)]
mod tests {
    use super::*;

    fn place(x: f64) -> Place {
        Place {
            class: 0,
            position: [x, 0.0].into(),
            payload: Bytes::new(),
        }
    }

    #[test]
    fn all_things_have_their_turn_after_the_device_has_entered() {
        let mut said = Said::new([0.0, 0.0].into(), Bytes::new());
        for own in 1..=THINGS_MAX as u32 {
            said.say(own, place(1.0)).unwrap();
        }
        said.say(7, place(2.0)).unwrap();
        let beyond = said.say(1000, place(1.0)).unwrap_err();
        assert!(beyond.to_string().contains("at most 256"), "{beyond}");
        said.forget(9);
        said.say(1000, place(1.0)).unwrap();

        said.on_entered();
        let mut again = Vec::new();
        while again.len() < THINGS_MAX {
            let some = said.say_again();
            assert!((1..=AT_ONCE_MAX + 1).contains(&some.len()), "{some:?}");
            again.extend(some.into_iter().map(|(own, _)| own).filter(|own| *own != 0));
        }
        again.sort_unstable();
        again.dedup();
        assert_eq!(again.len(), THINGS_MAX);
        assert!(!again.contains(&9));
    }
}
