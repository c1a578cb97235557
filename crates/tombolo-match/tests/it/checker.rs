//! An independent opinion on whether a match keeps the rules: from the text of the tickets and a plain
//! description of the rules, by looking at everything.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_match::{Formed, Party, Player, Reach, Ticket, TicketId, Value, Venue};

use crate::plan::{Balance, Plan, REGIONS};

/// A ticket as it was submitted, and when.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) ticket: Ticket,
    pub(crate) since: u64,
}

impl Plan {
    /// What is wrong with a match that was made at `now`, in seconds; of a running one, whose users those are.
    pub(crate) fn wrong(
        &self,
        known: &BTreeMap<TicketId, Known>,
        running: &[Vec<Known>],
        venue: Option<&Venue>,
        formed: &Formed,
        now: u64,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut tickets: Vec<&Known> = running.iter().flatten().collect();
        let mut seen = BTreeSet::new();
        for party in formed.parties() {
            match known.get(&party.ticket) {
                Some(ticket) if seen.insert(party.ticket) => tickets.push(ticket),
                _ => wrong.push(format!("{:?} is not there, or twice", party.ticket)),
            }
        }
        let mut whole = formed.clone();
        for (side, running) in whole.sides.iter_mut().zip(running) {
            side.parties.extend(running.iter().map(Known::party));
        }
        let playing: Vec<&Known> = running.iter().flatten().collect();
        self.check_teams(&whole, now, &tickets, running, &mut wrong);
        self.check_host(formed, now, &tickets, &playing, &mut wrong);
        if venue.is_none() && formed.host.is_some() != is_anybody_reached(&tickets) {
            wrong.push(format!("{:?} hosts", formed.host));
        }
        let region = venue.and_then(|venue| venue.region.as_ref());
        let regions = match region {
            Some(region) => vec![region.as_str()],
            None => REGIONS.to_vec(),
        };
        let discord = self.discord(&tickets, now).into_iter();
        let discord = discord.filter(|rule| !self.was_broken(rule, &playing, &tickets, &regions));
        wrong.extend(discord.map(str::to_owned));
        if let Some(venue) = venue
            && (&venue.region, &venue.host) != (&formed.region, &formed.host)
        {
            wrong.push(format!("it is at {venue:?}"));
        }
        // Where those who play reach no region, nobody who joins them is further off.
        let is_nowhere = !playing.is_empty()
            && REGIONS
                .iter()
                .all(|region| worst(&playing, region).is_infinite());
        let is_anywhere = is_nowhere || venue.is_some_and(|venue| venue.region.is_none());
        if self.latency.is_some() && !is_anywhere {
            let max = self.strictest(&tickets, now, |waited| self.latency_at(waited));
            let region = formed.region.as_ref().map(|region| region.as_str());
            let worst = region.map(|region| worst(&tickets, region));
            let played = region.filter(|_| !playing.is_empty());
            let played = played.map_or(0.0, |region| self::worst(&playing, region));
            if worst.is_none_or(|worst| max.is_some_and(|max| worst > max.max(played))) {
                wrong.push(format!("region {region:?} has {worst:?}"));
            }
            let best = REGIONS.iter().map(|region| self::worst(&tickets, region));
            let least = best.fold(f64::INFINITY, f64::min);
            if venue.is_none() && least < worst.unwrap_or(f64::INFINITY) {
                wrong.push("another region is better".to_owned());
            }
        }
        wrong
    }

    /// Which rules tickets break that are in one match.
    pub(crate) fn discord(&self, tickets: &[&Known], now: u64) -> BTreeSet<&'static str> {
        let mut wrong = BTreeSet::new();
        let oldest = tickets.iter().map(|known| known.since).min().unwrap_or(now);
        for a in tickets {
            // Whose patience counts.
            let waited = now - if self.is_oldest { oldest } else { a.since };
            let skills = tickets.iter().map(|known| self.skill(&known.ticket));
            let (low, high) = skills.fold((f64::MAX, f64::MIN), |(low, high), skill| {
                (low.min(skill), high.max(skill))
            });
            if let Some((from, to, by)) = self.range {
                let wider = (by * waited as f64).min(100.0);
                if low < from - wider || high > to + wider {
                    wrong.insert("range");
                }
            }
            if let Some((max, by, limit)) = self.distance
                && high - low > (max + by * waited as f64).min(limit.max(max))
            {
                wrong.insert("distance");
            }
            // Whoever asks for a mesh asks for all of it.
            let is_asked = self.direct.is_some_and(|direct| {
                !direct.is_by_host && direct.off.is_none_or(|off| waited < off)
            });
            if is_asked && !is_mesh(tickets) {
                wrong.insert("connectivity");
            }
            // And whoever asks that nobody is blocked asks it of all.
            let is_asked = self
                .block
                .is_some_and(|off| off.is_none_or(|off| waited < off));
            if is_asked && has_blocked(tickets, &[]) {
                wrong.insert("block");
            }
            for b in tickets {
                if self
                    .equal
                    .is_some_and(|off| off.is_none_or(|off| waited < off))
                    && tickets.iter().any(|c| mode(&b.ticket) != mode(&c.ticket))
                {
                    wrong.insert("equal");
                }
                if a.ticket.id == b.ticket.id {
                    continue;
                }
                if !self.asks(&a.ticket, &b.ticket) {
                    wrong.insert("query");
                }
            }
        }
        if let Some(least) = self.strictest(tickets, now, |waited| self.overlap_at(waited)) {
            let mut common: Option<BTreeSet<&String>> = None;
            for known in tickets {
                let maps = self.maps(&known.ticket);
                common = Some(match common {
                    Some(common) => common.intersection(&maps).copied().collect(),
                    None => maps,
                });
            }
            if (common.map_or(0, |common| common.len()) as f64) < -least {
                wrong.insert("overlap");
            }
        }
        if let Some(max) = self.strictest(tickets, now, |waited| self.latency_at(waited))
            && !REGIONS.iter().any(|region| worst(tickets, region) <= max)
        {
            wrong.insert("latency");
        }
        wrong
    }

    /// Whether those who play break a rule already, and those who join them are no further off.
    fn was_broken(&self, rule: &str, playing: &[&Known], all: &[&Known], regions: &[&str]) -> bool {
        if playing.is_empty() {
            return false;
        }
        let least = |tickets: &[&Known]| {
            let regions = regions.iter().map(|region| worst(tickets, region));
            regions.fold(f64::INFINITY, f64::min)
        };
        let ends = |tickets: &[&Known]| {
            let skills = tickets.iter().map(|known| self.skill(&known.ticket));
            skills.fold((f64::MAX, f64::MIN), |(low, high), skill| {
                (low.min(skill), high.max(skill))
            })
        };
        let (before, after) = (ends(playing), ends(all));
        let harder = |tickets: &[&Known]| {
            let players = tickets.iter().flat_map(|known| &known.ticket.players);
            players.map(|player| player.reach.rank()).max()
        };
        match rule {
            "distance" => after.1 - after.0 <= before.1 - before.0,
            "range" => {
                let (from, to, _) = self.range.unwrap();
                let off = |(low, high): (f64, f64)| (from - low).max(high - to);
                off(after) <= off(before)
            }
            "equal" => {
                let is_known = |known: &&&Known| {
                    let mut playing = playing.iter();
                    playing.any(|other| mode(&other.ticket) == mode(&known.ticket))
                };
                all.iter().filter(is_known).count() == all.len()
            }
            "overlap" => self.common(all).len() >= self.common(playing).len(),
            "latency" => least(all) <= least(playing),
            "block" => !has_blocked(all, playing),
            "connectivity" => !is_mesh(playing) && harder(all) <= harder(playing),
            _ => false,
        }
    }

    fn common<'t>(&self, tickets: &[&'t Known]) -> BTreeSet<&'t String> {
        let mut maps = tickets.iter().map(|known| self.maps(&known.ticket));
        let first = maps.next().unwrap_or_default();
        maps.fold(first, |common, maps| {
            common.intersection(&maps).copied().collect()
        })
    }

    fn check_teams(
        &self,
        formed: &Formed,
        now: u64,
        tickets: &[&Known],
        running: &[Vec<Known>],
        wrong: &mut Vec<String>,
    ) {
        let mut values = Vec::new();
        let oldest = tickets.iter().map(|known| known.since).min().unwrap_or(now);
        let mut all = 0;
        for (number, (side, (min, max))) in formed.sides.iter().zip(&self.teams).enumerate() {
            let users: Vec<_> = side.parties.iter().flat_map(|party| &party.users).collect();
            let count = users.len() as u32;
            all += count;
            let is_running = formed.backfill.is_some();
            let min = match is_running {
                true => 0,
                false => self.fewest(number, *min, now - oldest),
            };
            let max = self.most(number, *max, now - oldest);
            if !(min..=max).contains(&count) {
                wrong.push(format!("{} has {count} users", side.team));
            }
            let healers = users
                .iter()
                .filter(|(_, role)| role.as_ref().is_some_and(|role| role.as_str() == "healer"));
            let healers = healers.count() as u32;
            if self.healers.is_some_and(|(wanted, off)| {
                let is_asked = off.is_none_or(|off| now - oldest < off);
                healers > wanted || is_asked && healers < wanted
            }) {
                wrong.push(format!("{} has not as many healers as it must", side.team));
            }
            let mut sum = 0.0;
            for party in &side.parties {
                let Some(known) = tickets.iter().find(|known| known.ticket.id == party.ticket)
                else {
                    continue;
                };
                for (player, (user, role)) in known.ticket.players.iter().zip(&party.users) {
                    if player.user != *user {
                        wrong.push(format!("{user} is not in its place"));
                    }
                    let role = role.as_ref();
                    if self.healers.is_some()
                        && !player.roles.is_empty()
                        && role.is_none_or(|role| !player.roles.contains(role))
                    {
                        wrong.push(format!("{user} does not play {role:?}"));
                    }
                    let merged = self.skill(&known.ticket);
                    sum += said(player, "skill").unwrap_or(merged);
                }
            }
            let is_sum = self.balance.is_some_and(|balance| balance.is_sum);
            let count = if is_sum { 1 } else { count.max(1) };
            values.push(sum / f64::from(count));
        }
        if !self.is_multiple(all, now - oldest) {
            wrong.push(format!("{all} is no multiple of {:?}", self.multiple));
        }
        let is_full = all >= self.full();
        if !is_full && formed.backfill.is_none() && now - oldest < self.fill {
            wrong.push("it did not wait for more users".to_owned());
        }
        if let Some((settle, good)) = self.settle
            && formed.backfill.is_none()
            && tickets.len() > 1
            && now - oldest < settle
        {
            let asked = f64::from(good) * (settle - (now - oldest)) as f64 / settle as f64;
            if f64::from(formed.quality) < asked {
                wrong.push(format!("{} is less than {asked}", formed.quality));
            }
        }
        let gap = values.iter().fold(f64::MIN, |a, b| a.max(*b))
            - values.iter().fold(f64::MAX, |a, b| a.min(*b));
        let most = self.strictest(tickets, now, |waited| self.balance_at(waited));
        let before = running.iter().map(|side| self.mean(side));
        let before = before.collect::<Option<Vec<_>>>();
        let is_mean = self.balance.is_some_and(|balance| !balance.is_sum);
        let before = before.filter(|before| !before.is_empty() && is_mean);
        let before = before.map_or(0.0, |means| {
            means.iter().fold(f64::MIN, |a, b| a.max(*b))
                - means.iter().fold(f64::MAX, |a, b| a.min(*b))
        });
        if most.is_some_and(|max| gap > max.max(before) + 1e-9) {
            wrong.push(format!("teams differ by {gap}"));
        }
    }
}

impl Plan {
    /// Whether the match has one who reaches all who are not of its party, when that is asked.
    fn check_host(
        &self,
        formed: &Formed,
        now: u64,
        tickets: &[&Known],
        playing: &[&Known],
        wrong: &mut Vec<String>,
    ) {
        let is_asked = self.strictest(tickets, now, |waited| {
            let direct = self.direct.filter(|direct| direct.is_by_host)?;
            direct.off.is_none_or(|off| waited < off).then_some(0.0)
        });
        if is_asked.is_none() {
            return;
        }
        let reaches = |host: &Player, tickets: &[&Known]| {
            let others = tickets
                .iter()
                .filter(|known| !known.ticket.players.contains(host));
            let mut others = others.flat_map(|known| &known.ticket.players);
            others.all(|other| direct(host.reach, other.reach))
        };
        let players = |tickets: &[&'_ Known]| -> Vec<Player> {
            let players = tickets.iter().flat_map(|known| &known.ticket.players);
            players.cloned().collect()
        };
        let host = players(tickets)
            .into_iter()
            .find(|player| Some(&player.user) == formed.host.as_ref());
        let was_host = host.as_ref().filter(|host| players(playing).contains(host));
        let was_reached = playing.is_empty()
            || match was_host {
                Some(host) => reaches(host, playing),
                None => players(playing).iter().any(|host| reaches(host, playing)),
            };
        let is_reached = host.is_some_and(|host| reaches(&host, tickets));
        if was_reached && !is_reached {
            wrong.push(format!("{:?} does not reach all", formed.host));
        }
    }

    /// The least that is asked of a match by anybody, or by whoever waits longest.
    fn strictest(
        &self,
        tickets: &[&Known],
        now: u64,
        limit: impl Fn(u64) -> Option<f64>,
    ) -> Option<f64> {
        let waits = tickets.iter().map(|known| now - known.since);
        if self.is_oldest {
            return limit(waits.max()?);
        }
        waits.filter_map(limit).reduce(f64::min)
    }

    fn latency_at(&self, waited: u64) -> Option<f64> {
        let (max, later) = self.latency?;
        Some(
            later
                .filter(|(after, _)| *after <= waited)
                .map_or(max, |(_, max)| max),
        )
    }

    /// Below zero, so that more is less.
    fn overlap_at(&self, waited: u64) -> Option<f64> {
        let (least, fewer) = self.overlap?;
        match fewer {
            Some(after) if after < waited => None,
            Some(after) if after <= waited && least > 1 => Some(-(least as f64 - 1.0)),
            Some(_) | None => Some(-(least as f64)),
        }
    }

    fn balance_at(&self, waited: u64) -> Option<f64> {
        let Balance { max, off, .. } = self.balance?;
        off.is_none_or(|off| waited < off).then_some(max)
    }

    /// Whether no rule but those of equality and distance ever asks for less.
    pub(crate) fn relaxes_nothing_else(&self) -> bool {
        self.overlap.is_none_or(|(_, fewer)| fewer.is_none())
            && self.range.is_none_or(|(.., by)| by == 0.0)
            && self.latency.is_none_or(|(_, later)| later.is_none())
            && self.balance.is_none_or(|balance| balance.off.is_none())
            && self.direct.is_none_or(|direct| direct.off.is_none())
    }

    /// Whether tickets are enough for a match, and find room in its teams.
    pub(crate) fn could_begin(&self, tickets: &[&Known], now: u64) -> bool {
        let sizes = tickets
            .iter()
            .map(|known| known.ticket.players.len() as u32);
        let sizes: Vec<u32> = sizes.collect();
        let all: u32 = sizes.iter().sum();
        let waits = tickets.iter().map(|known| now - known.since);
        let waited = waits.max().unwrap_or(0);
        let is_time = all >= self.full() || waited >= self.fill;
        if !is_time || all < 2 || !self.is_multiple(all, waited) {
            return false;
        }
        let loads = vec![0; self.teams.len()];
        self.find_room(&sizes, loads, waited)
    }

    fn find_room(&self, sizes: &[u32], loads: Vec<u32>, waited: u64) -> bool {
        let Some((first, others)) = sizes.split_first() else {
            let teams = self.teams.iter().zip(&loads).enumerate();
            let mut teams =
                teams.map(|(at, ((min, _), load))| (self.fewest(at, *min, waited), load));
            return teams.all(|(min, load)| *load >= min);
        };
        (0..loads.len()).any(|at| {
            let mut loads = loads.clone();
            loads[at] += first;
            loads[at] <= self.most(at, self.teams[at].1, waited)
                && self.find_room(others, loads, waited)
        })
    }

    /// How many users a match has in which nobody is missing.
    fn full(&self) -> u32 {
        let most: u32 = self.teams.iter().map(|(_, max)| max).sum();
        let of = self.multiple.map_or(1, |(of, _)| of);
        most / of * of
    }

    fn is_multiple(&self, users: u32, waited: u64) -> bool {
        self.multiple
            .filter(|(_, off)| off.is_none_or(|off| waited < off))
            .is_none_or(|(of, _)| users.is_multiple_of(of))
    }

    fn most(&self, team: usize, max: u32, waited: u64) -> u32 {
        let larger = self
            .larger
            .filter(|(after, _)| team == 0 && *after <= waited);
        larger.map_or(max, |(_, most)| most)
    }

    fn fewest(&self, team: usize, min: u32, waited: u64) -> u32 {
        let steps = self.fewer.iter().filter(|_| team == 0);
        let mut due = steps.filter(|(after, _)| *after <= waited);
        due.next_back().map_or(min, |(_, fewest)| *fewest)
    }

    /// What a team's users have on average; `None` without any.
    fn mean(&self, side: &[Known]) -> Option<f64> {
        let skills = side.iter().flat_map(|known| {
            let merged = self.skill(&known.ticket);
            let players = known.ticket.players.iter();
            players.map(move |player| said(player, "skill").unwrap_or(merged))
        });
        let skills: Vec<f64> = skills.collect();
        (!skills.is_empty()).then(|| skills.iter().sum::<f64>() / skills.len() as f64)
    }

    /// A party's skill: of users who say nothing it is 50.
    pub(crate) fn skill(&self, ticket: &Ticket) -> f64 {
        let players = ticket.players.iter();
        let skills = players.map(|player| said(player, "skill").unwrap_or(50.0));
        match self.party {
            Some("min") => skills.fold(f64::INFINITY, f64::min),
            Some("max") => skills.fold(f64::NEG_INFINITY, f64::max),
            _ => skills.sum::<f64>() / ticket.players.len() as f64,
        }
    }
}

fn pairs<'t>(a: &'t Ticket, b: &'t Ticket) -> impl Iterator<Item = (&'t Player, &'t Player)> {
    a.players
        .iter()
        .flat_map(|one| b.players.iter().map(move |other| (one, other)))
}

/// Whether somebody reaches somebody else, or is of one party with somebody, or alone.
fn is_anybody_reached(tickets: &[&Known]) -> bool {
    let is_party = tickets.iter().any(|known| known.ticket.players.len() > 1);
    let all = tickets
        .iter()
        .flat_map(|a| tickets.iter().map(move |b| (a, b)));
    let others = all.filter(|(a, b)| a.ticket.id != b.ticket.id);
    let mut pairs = others.flat_map(|(a, b)| pairs(&a.ticket, &b.ticket));
    is_party || tickets.len() == 1 || pairs.any(|(one, other)| direct(one.reach, other.reach))
}

/// Whether somebody blocks somebody else, who do not both play already.
fn has_blocked(tickets: &[&Known], playing: &[&Known]) -> bool {
    let plays = |known: &Known| {
        let mut playing = playing.iter();
        playing.any(|other| other.ticket.id == known.ticket.id)
    };
    let all = tickets
        .iter()
        .flat_map(|a| tickets.iter().map(move |b| (a, b)));
    let others = all.filter(|(a, b)| a.ticket.id != b.ticket.id && !(plays(a) && plays(b)));
    let mut pairs = others.flat_map(|(a, b)| pairs(&a.ticket, &b.ticket));
    pairs.any(|(one, other)| one.blocks.contains(&other.user))
}

/// Whether all who are not of one party reach each other directly.
fn is_mesh(tickets: &[&Known]) -> bool {
    let mut all = tickets.iter().enumerate().flat_map(|(at, a)| {
        let others = tickets[at + 1..].iter();
        others.flat_map(|b| pairs(&a.ticket, &b.ticket))
    });
    all.all(|(one, other)| direct(one.reach, other.reach))
}

fn said(player: &Player, attribute: &str) -> Option<f64> {
    match player.attributes.get(attribute) {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    }
}

/// The leader's.
fn mode(ticket: &Ticket) -> Option<&Value> {
    ticket.players[0].attributes.get("mode")
}

impl Plan {
    /// What all, or any, of the party like.
    fn maps<'t>(&self, ticket: &'t Ticket) -> BTreeSet<&'t String> {
        if self.has_any_map {
            return lists(ticket).flatten().collect();
        }
        let mut lists = lists(ticket);
        let first = lists.next().unwrap_or_default();
        lists.fold(first, |common, list| {
            common.intersection(&list).copied().collect()
        })
    }
}

impl Known {
    /// As a party of a match.
    fn party(&self) -> Party {
        let players = self.ticket.players.iter();
        Party {
            ticket: self.ticket.id,
            revision: 0,
            users: players.map(|player| (player.user.clone(), None)).collect(),
        }
    }
}

fn lists(ticket: &Ticket) -> impl Iterator<Item = BTreeSet<&String>> {
    ticket
        .players
        .iter()
        .map(|player| match player.attributes.get("maps") {
            Some(Value::List(maps)) => maps.iter().collect(),
            _ => BTreeSet::new(),
        })
}

fn worst(tickets: &[&Known], region: &str) -> f64 {
    let players = tickets.iter().flat_map(|known| &known.ticket.players);
    let pings = players.map(|player| match player.attributes.get("ping") {
        Some(Value::Map(pings)) => pings.get(region).copied().unwrap_or(f64::INFINITY),
        _ => f64::INFINITY,
    });
    pings.fold(0.0, f64::max)
}

fn direct(a: Reach, b: Reach) -> bool {
    use Reach::{Open, PortRestricted, Restricted};
    let is_easy = |reach| matches!(reach, Open | Restricted | PortRestricted);
    let is_wide = |reach| matches!(reach, Open | Restricted);
    let is_hard = |reach| matches!(reach, Reach::Symmetric | Reach::Unknown);
    is_easy(a) && is_easy(b) || is_hard(a) && is_wide(b) || is_hard(b) && is_wide(a)
}

impl Plan {
    /// The few queries that the random tickets have.
    fn asks(&self, a: &Ticket, b: &Ticket) -> bool {
        match a.query.as_str() {
            "" => true,
            "+mode:a" => mode(b) == Some(&Value::Text("a".to_owned())),
            "-mode:b" => mode(b) != Some(&Value::Text("b".to_owned())),
            "+skill:>=40" => self.skill(b) >= 40.0,
            "+maps:x*" => self.maps(b).contains(&"x".to_owned()),
            "-maps:*z" => !self.maps(b).contains(&"z".to_owned()),
            "+nobody:has" => false,
            other => panic!("what does {other} mean?"),
        }
    }
}

pub(crate) const QUERIES: [&str; 6] = [
    "+mode:a",
    "-mode:b",
    "+skill:>=40",
    "+maps:x*",
    "+nobody:has",
    "-maps:*z",
];
