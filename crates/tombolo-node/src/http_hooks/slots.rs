//! How many questions are under way, and whose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tombolo_wire::UserId;

/// Those under way.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_user: BTreeMap<UserId, usize>,
}

/// One of them; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    user: UserId,
}

impl Slots {
    /// One for a user, unless so many are taken, or most of those that one user may have by this one.
    pub(super) fn take(self: &Arc<Self>, user: &UserId, most: usize) -> Option<Slot> {
        let mut taken = self.lock();
        let of_user = taken.by_user.get(user).copied().unwrap_or_default();
        let most_of_user = (most / USER_SHARE).max(USER_MIN);
        if taken.all >= most || of_user >= most_of_user {
            return None;
        }
        taken.all += 1;
        taken.by_user.insert(user.clone(), of_user + 1);
        Some(Slot {
            slots: Arc::clone(self),
            user: user.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.all -= 1;
        let Some(of_user) = taken.by_user.get_mut(&self.user) else {
            return;
        };
        *of_user -= 1;
        if *of_user == 0 {
            taken.by_user.remove(&self.user);
        }
    }
}

/// One user has this part of them.
const USER_SHARE: usize = 4;
/// As many as the services ask for a running match of one user.
const USER_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a name")
    }

    #[test]
    fn one_user_takes_a_quarter_and_leaves_the_rest_to_others() {
        let slots = Arc::new(Slots::default());
        let take = |name: &str| slots.take(&user(name), 256);
        let mut of_alice: Vec<_> = (0..100).map_while(|_| take("alice")).collect();
        assert_eq!(of_alice.len(), 64);
        let _of_bob = take("bob").expect("there are more");
        of_alice.pop();
        assert!(take("alice").is_some());
    }

    #[test]
    fn there_are_so_many_for_all_and_none_gets_lost() {
        let slots = Arc::new(Slots::default());
        let names: Vec<_> = (0..100).map(|number| user(&format!("u{number}"))).collect();
        let take_all = || {
            names
                .iter()
                .filter_map(|user| slots.take(user, 40))
                .collect()
        };
        let all: Vec<Slot> = take_all();
        assert_eq!(all.len(), 40);
        drop(all);
        let again: Vec<Slot> = take_all();
        assert_eq!(again.len(), 40);
        drop(again);
        assert!(slots.lock().by_user.is_empty());
    }
}
