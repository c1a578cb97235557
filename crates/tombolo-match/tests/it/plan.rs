//! A plain description of a pool's rules, and the document that says the same.

/// A plain description of a pool's rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) teams: Vec<(u32, u32)>,
    /// After how many seconds the fewest of the first team are how many.
    pub(crate) fewer: Vec<(u64, u32)>,
    /// The most of the first team after how many seconds.
    pub(crate) larger: Option<(u64, u32)>,
    /// And when it falls away.
    pub(crate) multiple: Option<(u32, Option<u64>)>,
    /// When it falls away.
    pub(crate) equal: Option<Option<u64>>,
    /// How many, and when one less is enough, and nothing is asked a second later.
    pub(crate) overlap: Option<(usize, Option<u64>)>,
    /// Limit, and by how much it grows a second, and its end.
    pub(crate) distance: Option<(f64, f64, f64)>,
    /// From where to where, and by how much it widens a second.
    pub(crate) range: Option<(f64, f64, f64)>,
    /// Limit, and what it is after how many seconds.
    pub(crate) latency: Option<(f64, Option<(u64, f64)>)>,
    /// When it falls away.
    pub(crate) block: Option<Option<u64>>,
    pub(crate) balance: Option<Balance>,
    pub(crate) direct: Option<Direct>,
    /// How a party's skill is merged; the mean when nothing is said, and of who says nothing 50.
    pub(crate) party: Option<&'static str>,
    /// Whether a party likes what any of its users likes, not what all of them do.
    pub(crate) has_any_map: bool,
    /// How many each team has, and when it needs none.
    pub(crate) healers: Option<(u32, Option<u64>)>,
    pub(crate) is_oldest: bool,
    pub(crate) fill: u64,
    /// How long a match may wait for a better one, and what is good.
    pub(crate) settle: Option<(u64, u16)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Balance {
    pub(crate) max: f64,
    pub(crate) is_sum: bool,
    pub(crate) off: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Direct {
    pub(crate) is_by_host: bool,
    pub(crate) off: Option<u64>,
}

pub(crate) const REGIONS: [&str; 3] = ["eu", "us", "jp"];

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
        if let Some(multiple) = self.multiple {
            text += &match multiple {
                (of, None) => format!("multiple = {of}\n"),
                (of, Some(off)) => {
                    format!("multiple = {{ of = {of}, relax = {{ off = {off} }} }}\n")
                }
            };
        }
        for (number, (min, max)) in self.teams.iter().enumerate() {
            text += &format!("[[teams]]\nname = \"t{number}\"\nmin = {min}\nmax = {max}\n");
            if number == 0 && !self.fewer.is_empty() {
                let steps = self.fewer.iter();
                let steps =
                    steps.map(|(after, value)| format!("{{ after = {after}, value = {value} }}"));
                text += &format!("relax = [{}]\n", steps.collect::<Vec<_>>().join(", "));
            }
            if let Some((after, value)) = self.larger.filter(|_| number == 0) {
                text += &format!("grow = [{{ after = {after}, value = {value} }}]\n");
            }
            if let Some((healers, off)) = self.healers {
                let relax = off.map_or(String::new(), |off| format!(", relax = {{ off = {off} }}"));
                text += &format!(
                    "roles = [{{ name = \"healer\", min = {healers}, max = {healers}{relax} }}, {{ name = \"fighter\" }}]\n"
                );
            }
        }
        let party = self
            .party
            .map_or(String::new(), |party| format!("party = \"{party}\"\n"));
        text +=
            &format!("[[attributes]]\nname = \"skill\"\nkind = \"number\"\ndefault = 50\n{party}");
        if self.has_any_map {
            text += "[[attributes]]\nname = \"maps\"\nkind = \"list\"\nparty = \"union\"\n";
        }
        let off_of = |off: Option<u64>| {
            off.map_or(String::new(), |off| format!("relax = {{ off = {off} }}"))
        };
        let mut rules = 0;
        let mut rule = |body: String| {
            rules += 1;
            text += &format!("[[rules]]\nname = \"rule-{rules}\"\n{body}\n");
        };
        if let Some(off) = self.equal {
            let relax = off_of(off);
            rule(format!("kind = \"equal\"\nattribute = \"mode\"\n{relax}"));
        }
        if let Some((min, fewer)) = self.overlap {
            let fewer = fewer.map_or(String::new(), |after| {
                let off = format!("{{ after = {}, off = true }}", after + 1);
                match min {
                    1 => format!("relax = [{off}]"),
                    _ => format!(
                        "relax = [{{ after = {after}, value = {} }}, {off}]",
                        min - 1
                    ),
                }
            });
            rule(format!(
                "kind = \"overlap\"\nattribute = \"maps\"\nmin = {min}\n{fewer}"
            ));
        }
        if let Some((low, high, by)) = self.range {
            let relax = if by > 0.0 {
                format!("relax = {{ every = 1, by = {by}, limit = 100 }}")
            } else {
                String::new()
            };
            rule(format!(
                "kind = \"range\"\nattribute = \"skill\"\nlow = {low}\nhigh = {high}\n{relax}"
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
        if let Some((max, later)) = self.latency {
            let relax = later.map_or(String::new(), |(after, value)| {
                format!("relax = [{{ after = {after}, value = {value} }}]")
            });
            rule(format!(
                "kind = \"latency\"\nattribute = \"ping\"\nregions = {REGIONS:?}\nmax = {max}\n{relax}"
            ));
        }
        if let Some(off) = self.block {
            rule(format!("kind = \"block\"\n{}", off_of(off)));
        }
        if let Some(Balance { max, is_sum, off }) = self.balance {
            let (measure, relax) = (if is_sum { "sum" } else { "mean" }, off_of(off));
            rule(format!(
                "kind = \"balance\"\nattribute = \"skill\"\nmeasure = \"{measure}\"\nmax = {max}\n{relax}"
            ));
        }
        if let Some(Direct { is_by_host, off }) = self.direct {
            let topology = if is_by_host { "host" } else { "mesh" };
            rule(format!(
                "kind = \"connectivity\"\ntopology = \"{topology}\"\nrequired = true\n{}",
                off_of(off)
            ));
        }
        text
    }
}
