//! Which two attempts are the ends of one link.
//!
//! Each end tells its attempt, and which one of the other's it has heard of. Introductions cross, and are late or told
//! twice, and meanwhile an application may let its link go and begin another. So while a link is not up, what is
//! heard last counts, and whoever hears that the other does not know, or means another link, tells again. As no end
//! takes another attempt by what it hears, both end with the same two.

/// The attempts of a link's ends, as one of them knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pairing {
    pub(crate) own: u64,
    /// The peer's; `None` until introduced.
    pub(crate) remote: Option<u64>,
}

/// What an introduction tells a link that is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Both ends mean the same link.
    Agreed,
    /// The peer has not heard of this end: it is told, unless it shows by its handshake that it has.
    Unheard,
    /// The peer begins anew, or means another link: the handshake begins anew, and the peer is told of this end.
    Anew,
}

impl Pairing {
    /// Takes in what the peer says to be its attempt, and which of ours it answers; zero when none.
    pub(crate) fn hear(&mut self, attempt: u64, answers: u64) -> Heard {
        let before = self.remote.replace(attempt);
        match before {
            Some(before) if before != attempt => Heard::Anew,
            Some(_) | None if answers == self.own => Heard::Agreed,
            Some(_) if answers != 0 => Heard::Anew,
            Some(_) | None => Heard::Unheard,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Links that each application opens.
    const OPENED_MAX: u64 = 2;
    /// Links that are closed with no other in their place, or messages that arrive twice.
    const ODD_MAX: u32 = 1;
    /// By then two ends that hear each other agree.
    const TOLD_MAX: usize = 24;

    /// An attempt, and the one that it answers.
    type Told = (u64, u64);

    /// One end: what is on its way to it, and what it remembers.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
    struct End {
        link: Option<(u64, Option<u64>)>,
        attempts: u64,
        opened: u64,
        /// A bit for each attempt.
        begun: u64,
        /// In whatever order.
        coming: Vec<Told>,
    }

    /// Two ends, and how much more may be odd.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct World {
        ends: [End; 2],
        odd: u32,
    }

    impl World {
        fn attempt(&mut self, end: usize) -> u64 {
            self.ends[end].attempts += 1;
            10 * (end as u64 + 1) + self.ends[end].attempts
        }

        /// The application lets go of what there is, and begins anew.
        fn open(&mut self, end: usize) {
            let own = self.attempt(end);
            self.ends[end].opened += 1;
            self.ends[end].link = Some((own, None));
            self.tell(end, (own, 0));
        }

        fn tell(&mut self, end: usize, told: Told) {
            let coming = &mut self.ends[1 - end].coming;
            coming.push(told);
            coming.sort_unstable();
        }

        fn deliver(&mut self, end: usize, place: usize) {
            let (attempt, answers) = self.ends[end].coming.remove(place);
            let is_new = self.ends[end].begun & (1 << attempt) == 0;
            let Some((own, remote)) = self.ends[end].link else {
                if answers == 0 && is_new {
                    let own = self.attempt(end);
                    self.ends[end].begun |= 1 << attempt;
                    self.ends[end].link = Some((own, Some(attempt)));
                    self.tell(end, (own, attempt));
                }
                return;
            };
            self.ends[end].begun |= 1 << attempt;
            let mut pairing = Pairing { own, remote };
            match pairing.hear(attempt, answers) {
                Heard::Agreed => {}
                Heard::Unheard | Heard::Anew => self.tell(end, (own, attempt)),
            }
            self.ends[end].link = Some((own, pairing.remote));
        }

        fn nexts(&self) -> Vec<Self> {
            let mut nexts = Vec::new();
            let mut then = |change: &dyn Fn(&mut Self)| {
                let mut next = self.clone();
                change(&mut next);
                nexts.push(next);
            };
            for end in 0..2 {
                if self.ends[end].opened < OPENED_MAX {
                    then(&|next| next.open(end));
                }
                if self.odd > 0 && self.ends[end].link.is_some() {
                    then(&|next| {
                        next.odd -= 1;
                        next.ends[end].link = None;
                    });
                }
                for place in 0..self.ends[end].coming.len() {
                    then(&|next| next.deliver(end, place));
                    if self.odd > 0 {
                        then(&|next| {
                            next.odd -= 1;
                            let again = next.ends[end].coming[place];
                            next.deliver(end, place);
                            next.tell(1 - end, again);
                        });
                    }
                }
            }
            nexts
        }

        /// Once all has arrived, whoever wants a link and is wanted has it.
        fn check(&self) {
            let mut told = 0;
            let mut rest = self.clone();
            while let Some(end) = (0..2).find(|end| !rest.ends[*end].coming.is_empty()) {
                rest.deliver(end, 0);
                told += 1;
                assert!(told <= TOLD_MAX, "they go on telling each other: {self:?}");
            }
            if let [Some((a, of_a)), Some((b, of_b))] = rest.ends.map(|end| end.link) {
                assert_eq!((of_a, of_b), (Some(b), Some(a)), "{self:?}");
            }
        }
    }

    #[test]
    fn whatever_crosses_is_late_or_comes_twice_both_ends_mean_the_same_link() {
        let begin = World {
            ends: Default::default(),
            odd: ODD_MAX,
        };
        let mut seen = HashSet::from([begin.clone()]);
        let mut open = vec![begin];
        while let Some(world) = open.pop() {
            world.check();
            for next in world.nexts() {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
}
