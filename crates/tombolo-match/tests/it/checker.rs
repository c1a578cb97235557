//! An independent opinion on whether a match keeps the rules: from the text of the tickets and a plain
//! description of the rules, by looking at everything.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_match::{Formed, Player, Reach, Ticket, TicketId, Value};

/// A plain description of a pool's rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) teams: Vec<(u32, u32)>,
    /// `(seconds, users)`: how the fewest of the first team become fewer.
    pub(crate) equal: Option<Option<u64>>,
    pub(crate) overlap: Option<usize>,
    /// Limit, and by how much it grows a second, and its end.
    pub(crate) distance: Option<(f64, f64, f64)>,
    pub(crate) latency: Option<f64>,
    pub(crate) has_blocks: bool,
    pub(crate) balance: Option<f64>,
    pub(crate) is_direct: bool,
    pub(crate) healers: Option<u32>,
    pub(crate) is_oldest: bool,
    pub(crate) fill: u64,
    /// How long a match may wait for a better one, and what is good.
    pub(crate) settle: Option<(u64, u16)>,
}

pub(crate) const REGIONS: [&str; 3] = ["eu", "us", "jp"];

/// A ticket as it was submitted, and when.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) ticket: Ticket,
    pub(crate) since: u64,
}

impl Plan {
    pub(crate) fn document(&self) -> String {
        let mut text = format!(
            "name = \"random\"\nfill = {}\njudge = \"{}\"\n",
            self.fill,
            if self.is_oldest { "oldest" } else { "each" }
        );
        if let Some((settle, good)) = self.settle {
            text += &format!("settle = {settle}\ngood = {good}\n");
        }
        for (number, (min, max)) in self.teams.iter().enumerate() {
            text += &format!("[[teams]]\nname = \"t{number}\"\nmin = {min}\nmax = {max}\n");
            if let Some(healers) = self.healers {
                text += &format!(
                    "roles = [{{ name = \"healer\", min = {healers}, max = {healers} }}, {{ name = \"fighter\" }}]\n"
                );
            }
        }
        let mut rule = |body: String| text += &format!("[[rules]]\n{body}\n");
        if let Some(off) = self.equal {
            let relax = off.map_or(String::new(), |off| format!("relax = {{ off = {off} }}"));
            rule(format!("kind = \"equal\"\nattribute = \"mode\"\n{relax}"));
        }
        if let Some(min) = self.overlap {
            rule(format!(
                "kind = \"overlap\"\nattribute = \"maps\"\nmin = {min}"
            ));
        }
        if let Some((max, by, limit)) = self.distance {
            let relax = if by > 0.0 {
                format!("relax = {{ every = 1, by = {by}, limit = {limit} }}")
            } else {
                String::new()
            };
            rule(format!(
                "kind = \"distance\"\nattribute = \"skill\"\nmax = {max}\n{relax}"
            ));
        }
        if let Some(max) = self.latency {
            rule(format!(
                "kind = \"latency\"\nattribute = \"ping\"\nregions = {REGIONS:?}\nmax = {max}"
            ));
        }
        if self.has_blocks {
            rule("kind = \"block\"".to_owned());
        }
        if let Some(max) = self.balance {
            rule(format!(
                "kind = \"balance\"\nattribute = \"skill\"\nmax = {max}"
            ));
        }
        if self.is_direct {
            rule("kind = \"connectivity\"\nrequired = true".to_owned());
        }
        text
    }

    /// What is wrong with a match that was made at `now`, in seconds.
    pub(crate) fn wrong(
        &self,
        known: &BTreeMap<TicketId, Known>,
        formed: &Formed,
        now: u64,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut tickets = Vec::new();
        let mut seen = BTreeSet::new();
        for party in formed.parties() {
            match known.get(&party.ticket) {
                Some(ticket) if seen.insert(party.ticket) => tickets.push(ticket),
                _ => wrong.push(format!("{:?} is not there, or twice", party.ticket)),
            }
        }
        self.check_teams(formed, now, &tickets, &mut wrong);
        wrong.extend(self.discord(&tickets, now).into_iter().map(str::to_owned));
        if let Some(max) = self.latency {
            let region = formed.region.as_ref().map(|region| region.as_str());
            let worst = region.map(|region| worst(&tickets, region));
            if worst.is_none_or(|worst| worst > max) {
                wrong.push(format!("region {region:?} has {worst:?}"));
            }
            let best = REGIONS.iter().map(|region| self::worst(&tickets, region));
            if best.fold(f64::INFINITY, f64::min) < worst.unwrap_or(f64::INFINITY) {
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
            let skills = tickets.iter().map(|known| skill(&known.ticket));
            let (low, high) = skills.fold((f64::MAX, f64::MIN), |(low, high), skill| {
                (low.min(skill), high.max(skill))
            });
            if let Some((max, by, limit)) = self.distance
                && high - low > (max + by * waited as f64).min(limit.max(max))
            {
                wrong.insert("distance");
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
                for (one, other) in pairs(&a.ticket, &b.ticket) {
                    if self.has_blocks && one.blocks.contains(&other.user) {
                        wrong.insert("block");
                    }
                    if self.is_direct && !direct(one.reach, other.reach) {
                        wrong.insert("connectivity");
                    }
                }
                if !asks(&a.ticket, &b.ticket) {
                    wrong.insert("query");
                }
            }
        }
        if let Some(least) = self.overlap {
            let mut common: Option<BTreeSet<&String>> = None;
            for known in tickets {
                let maps = maps(&known.ticket);
                common = Some(match common {
                    Some(common) => common.intersection(&maps).copied().collect(),
                    None => maps,
                });
            }
            if common.map_or(0, |common| common.len()) < least {
                wrong.insert("overlap");
            }
        }
        if let Some(max) = self.latency
            && !REGIONS.iter().any(|region| worst(tickets, region) <= max)
        {
            wrong.insert("latency");
        }
        wrong
    }

    fn check_teams(&self, formed: &Formed, now: u64, tickets: &[&Known], wrong: &mut Vec<String>) {
        let mut means = Vec::new();
        let mut is_full = true;
        for (side, (min, max)) in formed.sides.iter().zip(&self.teams) {
            let users: Vec<_> = side.parties.iter().flat_map(|party| &party.users).collect();
            let count = users.len() as u32;
            is_full &= count == *max;
            if !(*min..=*max).contains(&count) {
                wrong.push(format!("{} has {count} users", side.team));
            }
            let healers = users
                .iter()
                .filter(|(_, role)| role.as_ref().is_some_and(|role| role.as_str() == "healer"));
            if self
                .healers
                .is_some_and(|least| healers.count() as u32 != least)
            {
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
                    sum += number(player, "skill");
                }
            }
            means.push(sum / f64::from(count.max(1)));
        }
        let oldest = tickets.iter().map(|known| known.since).min().unwrap_or(now);
        if !is_full && now - oldest < self.fill {
            wrong.push("it did not wait for more users".to_owned());
        }
        if let Some((settle, good)) = self.settle
            && tickets.len() > 1
            && now - oldest < settle
        {
            let asked = f64::from(good) * (settle - (now - oldest)) as f64 / settle as f64;
            if f64::from(formed.quality) < asked {
                wrong.push(format!("{} is less than {asked}", formed.quality));
            }
        }
        let gap = means.iter().fold(f64::MIN, |a, b| a.max(*b))
            - means.iter().fold(f64::MAX, |a, b| a.min(*b));
        if self.balance.is_some_and(|max| gap > max + 1e-9) {
            wrong.push(format!("teams differ by {gap}"));
        }
    }
}

fn pairs<'t>(a: &'t Ticket, b: &'t Ticket) -> impl Iterator<Item = (&'t Player, &'t Player)> {
    a.players
        .iter()
        .flat_map(|one| b.players.iter().map(move |other| (one, other)))
}

fn number(player: &Player, attribute: &str) -> f64 {
    match player.attributes.get(attribute) {
        Some(Value::Number(number)) => *number,
        _ => f64::NAN,
    }
}

/// The mean over the party.
fn skill(ticket: &Ticket) -> f64 {
    let sum: f64 = ticket
        .players
        .iter()
        .map(|player| number(player, "skill"))
        .sum();
    sum / ticket.players.len() as f64
}

/// The leader's.
fn mode(ticket: &Ticket) -> Option<&Value> {
    ticket.players[0].attributes.get("mode")
}

/// What all of the party like.
fn maps(ticket: &Ticket) -> BTreeSet<&String> {
    let mut lists = ticket
        .players
        .iter()
        .map(|player| match player.attributes.get("maps") {
            Some(Value::List(maps)) => maps.iter().collect(),
            _ => BTreeSet::new(),
        });
    let first = lists.next().unwrap_or_default();
    lists.fold(first, |common, list| {
        common.intersection(&list).copied().collect()
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

/// The few queries that the random tickets have.
fn asks(a: &Ticket, b: &Ticket) -> bool {
    match a.query.as_str() {
        "" => true,
        "+mode:a" => mode(b) == Some(&Value::Text("a".to_owned())),
        "-mode:b" => mode(b) != Some(&Value::Text("b".to_owned())),
        "+skill:>=40" => skill(b) >= 40.0,
        "+nobody:has" => false,
        other => panic!("what does {other} mean?"),
    }
}

pub(crate) const QUERIES: [&str; 4] = ["+mode:a", "-mode:b", "+skill:>=40", "+nobody:has"];
