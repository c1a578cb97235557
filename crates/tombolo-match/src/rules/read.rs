//! A document to rules.

mod relaxing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::document::{Fault, Node, Plain};
use super::reader::{Table, check_new};
use super::{
    Attribute, Check, Judge, Measure, PLAYERS_MAX, QUALITY_MAX, REGIONS_MAX, RULES_MAX, Reason,
    Relax, Role, Rule, Rules, Shape, TEAM_ROLES_MAX, TEAMS_MAX, TICKETS_MAX, Team, Topology,
};
use crate::ticket::TAGS;
use crate::value::{ITEMS_MAX, Kind, Merge, Value};
use crate::word::Name;
use relaxing::{Direction, relax};

pub(super) fn rules(node: &Node) -> Result<Rules, Fault> {
    let mut table = Table::new(node)?;
    let name = table.required("name")?.name()?;
    let judges = [("each", Judge::Each), ("oldest", Judge::Oldest)];
    let judge = table.optional("judge");
    let judge = judge.map_or(Ok(Judge::Each), |node| node.choice(&judges))?;
    let tick = table.duration("tick", Duration::from_secs(1))?;
    let fill = table.duration("fill", Duration::from_secs(2))?;
    let (settle, good) = settle(&mut table)?;
    let patience = table.duration("patience", Duration::from_secs(30))?;
    let ready = table.optional("ready").map(ready).transpose()?;
    // Checked at compile time: a pool's bound fits.
    let tickets_max = table.count("tickets", Some(100_000), (1, TICKETS_MAX as u32))?;
    let priority_max = table.count("priority", Some(0), (0, i8::MAX as u32))?;
    let shape = shape(&mut table)?;
    let attributes = attributes(table.optional("attributes"))?;
    let mut kinds: BTreeMap<_, _> = attributes
        .iter()
        .map(|(name, known)| (name.clone(), known.kind))
        .collect();
    let nodes = table.list("rules")?;
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for node in nodes {
        if rules.len() == RULES_MAX {
            return node.fail(bounds("the number of rules", 0, RULES_MAX));
        }
        let rule = rule(node, &mut kinds)?;
        check_new(&mut names, &rule.name, node)?;
        check_ranges(&rules, &rule, node)?;
        rules.push(rule);
    }
    table.finish()?;
    Ok(Rules {
        name,
        shape,
        attributes,
        rules,
        judge,
        tick: tick.max(Duration::from_millis(10)),
        fill,
        settle,
        good,
        patience: patience.max(Duration::from_millis(10)),
        ready,
        tickets_max: tickets_max as usize,
        priority_max: i8::try_from(priority_max).unwrap_or(i8::MAX),
    })
}

/// How long users have to say that they are ready: somebody must be able to.
fn ready(node: &Node) -> Result<Duration, Fault> {
    let ready = node.duration()?;
    if ready < READY_MIN {
        return Err(node.expected("a time of at least 1s in which users can answer"));
    }
    Ok(ready)
}

/// Whether some number lies in a range and in all others of its attribute, in the end.
fn check_ranges(others: &[Rule], rule: &Rule, node: &Node) -> Result<(), Fault> {
    let Some((low, high)) = widest_range(rule) else {
        return Ok(());
    };
    let others = others.iter();
    let others = others.filter(|other| other.attribute() == rule.attribute());
    let mut ranges = others.filter_map(widest_range);
    if ranges.any(|(from, to)| low.max(from) > high.min(to)) {
        let why = "no number lies in this range and in the other one of the attribute, however far they relax";
        return node.fail(Reason::Never { why });
    }
    Ok(())
}

/// The range of a rule at its widest; `None` when it falls away.
fn widest_range(rule: &Rule) -> Option<(f64, f64)> {
    let Check::Range { low, high, .. } = rule.check else {
        return None;
    };
    let beside = rule.relax.widest(rule.base)?;
    Some((low - beside, high + beside))
}

/// How long a match waits that is not good, and what is good.
fn settle(table: &mut Table<'_>) -> Result<(Duration, u16), Fault> {
    let settle = table.duration("settle", Duration::ZERO)?;
    let given = table.optional("good");
    let good = table.count("good", Some(QUALITY_MAX.into()), (1, QUALITY_MAX.into()))?;
    match given {
        Some(node) if settle.is_zero() => Err(node.expected("good only together with settle")),
        _ => Ok((settle, u16::try_from(good).unwrap_or(QUALITY_MAX))),
    }
}

fn bounds(what: &'static str, min: u64, max: usize) -> Reason {
    let max = max as u64;
    Reason::Bounds { what, min, max }
}

/// Teams, or `players` for a match without.
fn shape(table: &mut Table<'_>) -> Result<Shape, Fault> {
    let (multiple, multiple_relax) = multiple(table)?;
    let players = table.optional("players");
    let nodes = table.list("teams")?;
    let mut teams = Vec::new();
    let mut names = BTreeSet::new();
    match (players, nodes) {
        (Some(players), []) => {
            let name = Name::parse("players").ok();
            add_team(players, name, &mut names, &mut teams)?;
        }
        (None, nodes) if !nodes.is_empty() => {
            for node in nodes {
                add_team(node, None, &mut names, &mut teams)?;
            }
        }
        (Some(players), _) => {
            return players.fail(Reason::Expected {
                what: "either players or teams",
            });
        }
        (None, _) => return Err(table.missing("players")),
    }
    let shape = Shape {
        teams,
        multiple,
        multiple_relax,
    };
    let all_roles = shape.teams.iter().flat_map(|team| &team.roles);
    let roles: BTreeSet<_> = all_roles.map(|role| &role.name).collect();
    let roles = roles.len();
    let place = players.or_else(|| nodes.first());
    let fail = |reason| match place {
        Some(node) => node.fail(reason),
        None => Err(Fault {
            at: table.at,
            reason,
        }),
    };
    if roles > ROLES_MAX {
        return fail(bounds("the number of different roles", 0, ROLES_MAX));
    }
    let most = shape.players_full();
    if most < 2 || shape.players_max() > PLAYERS_MAX {
        return fail(bounds("the number of users", 2, PLAYERS_MAX as usize));
    }
    if shape.players_most() < shape.players_least() {
        let why = "no multiple lies between the fewest and the most users";
        return fail(Reason::Never { why });
    }
    Ok(shape)
}

/// What the number of users is a multiple of, and when that falls away.
fn multiple(table: &mut Table<'_>) -> Result<(u32, Relax), Fault> {
    let bounds = (1, PLAYERS_MAX);
    let node = table.optional("multiple");
    let Some(node) = node.filter(|node| matches!(node.value, Plain::Table(_))) else {
        return Ok((table.count("multiple", Some(1), bounds)?, Relax::default()));
    };
    let mut table = Table::new(node)?;
    let of = table.count("of", None, bounds)?;
    let relax = relax(table.optional("relax"), of.into(), Direction::Off, 0.0)?;
    table.finish()?;
    Ok((of, relax))
}

fn add_team(
    node: &Node,
    name: Option<Name>,
    names: &mut BTreeSet<Name>,
    teams: &mut Vec<Team>,
) -> Result<(), Fault> {
    let mut table = Table::new(node)?;
    let is_named = name.is_some();
    let name = match name {
        Some(name) => name,
        None => table.required("name")?.name()?,
    };
    let (min, max) = fewest_and_most(&mut table, node)?;
    let quantity = if is_named {
        1
    } else {
        table.count("quantity", Some(1), (1, TEAMS_MAX as u32))?
    };
    let relax = relax(
        table.optional("relax"),
        f64::from(min),
        Direction::Fewer,
        1.0,
    )?;
    let (grow, most) = grow(table.optional("grow"), max)?;
    let roles = roles(table.list("roles")?, most)?;
    table.finish()?;
    let least = f64::from(min);
    let fewest = relax.widest(least).unwrap_or(least);
    // Who has no role is not in the team.
    let parts = roles.iter().map(|role| role.max);
    let parts = if roles.is_empty() { most } else { parts.sum() };
    if !grow.is_never() && parts < most {
        let why = "the roles take fewer users than the team grows to";
        return node.fail(Reason::Never { why });
    }
    let max = max.min(parts);
    if f64::from(max) < fewest {
        let why = "the roles take fewer users than the team needs";
        return node.fail(Reason::Never { why });
    }
    for number in 1..=quantity {
        let name = match quantity {
            1 => Ok(name.clone()),
            _ => Name::parse(&format!("{name}-{number}")),
        };
        let name = name.map_err(|_| node.expected("a shorter name"))?;
        check_new(names, &name, node)?;
        if teams.len() == TEAMS_MAX {
            return node.fail(bounds("the number of teams", 1, TEAMS_MAX));
        }
        teams.push(Team {
            name,
            min,
            max,
            relax: relax.clone(),
            grow: grow.clone(),
            roles: roles.clone(),
        });
    }
    Ok(())
}

fn fewest_and_most(table: &mut Table<'_>, node: &Node) -> Result<(u32, u32), Fault> {
    let min = table.count("min", None, (1, PLAYERS_MAX))?;
    let max = table.count("max", None, (1, PLAYERS_MAX))?;
    if min > max {
        let why = "the fewest are more than the most";
        return node.fail(Reason::Never { why });
    }
    Ok((min, max))
}

/// How the most users of a team become more, and how many that is in the end.
fn grow(node: Option<&Node>, max: u32) -> Result<(Relax, u32), Fault> {
    let Some(node) = node else {
        return Ok((Relax::default(), max));
    };
    let grow = relax(Some(node), max.into(), Direction::Larger, 0.0)?;
    match grow.widest(max.into()) {
        None => Err(node.expected("a number of users, and no end of the bound,")),
        Some(most) if most > PLAYERS_MAX.into() => {
            node.fail(bounds("the most users of a team", 1, PLAYERS_MAX as usize))
        }
        Some(most) => Ok((grow, most as u32)),
    }
}

fn roles(nodes: &[Node], team_max: u32) -> Result<Vec<Role>, Fault> {
    let mut names = BTreeSet::new();
    let mut roles = Vec::new();
    for node in nodes {
        if roles.len() == TEAM_ROLES_MAX {
            return node.fail(bounds("the number of roles", 0, TEAM_ROLES_MAX));
        }
        let mut table = Table::new(node)?;
        let name = table.required("name")?.name()?;
        check_new(&mut names, &name, node)?;
        let min = table.count("min", Some(0), (0, team_max))?;
        let max = table.count("max", Some(team_max), (1, team_max))?;
        let relax = relax(table.optional("relax"), min.into(), Direction::Fewer, 0.0)?;
        table.finish()?;
        if min > max {
            let why = "the fewest are more than the most";
            return node.fail(Reason::Never { why });
        }
        roles.push(Role {
            name,
            min,
            max,
            relax,
        });
        let needed = roles.iter().map(|role: &Role| role.min_at(Duration::MAX));
        if needed.sum::<u32>() > team_max {
            let why = "the roles need more users than the team takes";
            return node.fail(Reason::Never { why });
        }
    }
    Ok(roles)
}

fn attributes(node: Option<&Node>) -> Result<BTreeMap<Name, Attribute>, Fault> {
    let nodes = node.map_or(Ok(&[][..]), Node::list)?;
    let mut attributes = BTreeMap::new();
    for node in nodes {
        let mut table = Table::new(node)?;
        let name = attribute_name(table.required("name")?)?;
        let kind = table.required("kind")?.choice(&KINDS)?;
        let merge = match table.optional("party") {
            Some(node) => {
                let merge = node.choice(&MERGES)?;
                if !kind.takes(merge) {
                    return Err(node.expected("a way to merge values of this kind"));
                }
                merge
            }
            None => kind.merge_default(),
        };
        let default = table.optional("default").map(value).transpose()?;
        if let (Some(value), Some(node)) = (&default, table.optional("default")) {
            if value.kind() != kind {
                return Err(node.expected("a value of the attribute's kind"));
            }
            if value.check().is_err() {
                return Err(node.expected("a value within the limits"));
            }
        }
        table.finish()?;
        let attribute = Attribute {
            kind,
            merge,
            default,
        };
        if attributes.insert(name.clone(), attribute).is_some() {
            let what = name.to_string();
            return node.fail(Reason::Repeated { what });
        }
        if attributes.len() > ITEMS_MAX {
            return node.fail(bounds("the number of attributes", 0, ITEMS_MAX));
        }
    }
    Ok(attributes)
}

fn value(node: &Node) -> Result<Value, Fault> {
    Ok(match &node.value {
        Plain::Text(text) => Value::Text(text.clone()),
        Plain::Number(_) => Value::Number(node.number()?),
        Plain::List(nodes) => {
            let texts = nodes.iter().map(|node| Ok(node.text()?.to_owned()));
            Value::List(texts.collect::<Result<_, _>>()?)
        }
        Plain::Table(items) => {
            let mut map = BTreeMap::new();
            for (key, node) in items {
                let name = Name::parse(&key.text).map_err(|_| node.expected("a name"))?;
                map.insert(name, node.number()?);
            }
            Value::Map(map)
        }
        Plain::Boolean(_) => return Err(node.expected("a text, a number, a list or a table")),
    })
}

fn rule(node: &Node, kinds: &mut BTreeMap<Name, Kind>) -> Result<Rule, Fault> {
    let mut table = Table::new(node)?;
    let (check, base, direction) = check(&mut table, kinds)?;
    let name = rule_name(node, &mut table, &check)?;
    let weight = match table.optional("weight") {
        Some(node) => {
            let weight = node.number()?;
            if !(0.0..=1000.0).contains(&weight) {
                return node.fail(bounds("weight", 0, 1000));
            }
            weight
        }
        None => 1.0,
    };
    let relax = relax(table.optional("relax"), base, direction, 0.0)?;
    table.finish()?;
    Ok(Rule {
        name,
        check,
        base,
        relax,
        weight,
    })
}

/// What a rule looks at, its first limit, and what it means for that to ask for less.
fn check(
    table: &mut Table<'_>,
    kinds: &mut BTreeMap<Name, Kind>,
) -> Result<(Check, f64, Direction), Fault> {
    Ok(match table.required("kind")?.choice(&RULE_KINDS)? {
        RuleKind::Equal => {
            let attribute = attribute(table, kinds, Kind::Text)?;
            (Check::Equal { attribute }, 0.0, Direction::Off)
        }
        RuleKind::Overlap => {
            let attribute = attribute(table, kinds, Kind::List)?;
            let min = table.count("min", Some(1), (1, ITEMS_MAX as u32))?;
            let check = Check::Overlap { attribute };
            (check, f64::from(min), Direction::Fewer)
        }
        RuleKind::Distance => {
            let attribute = attribute(table, kinds, Kind::Number)?;
            (Check::Distance { attribute }, max(table)?, Direction::More)
        }
        RuleKind::Range => {
            let attribute = attribute(table, kinds, Kind::Number)?;
            let low = table.required("low")?.number()?;
            let node = table.required("high")?;
            let high = node.number()?;
            if low > high {
                let why = "low is above high";
                return node.fail(Reason::Never { why });
            }
            let check = Check::Range {
                attribute,
                low,
                high,
            };
            (check, 0.0, Direction::More)
        }
        RuleKind::Latency => {
            let attribute = attribute(table, kinds, Kind::Map)?;
            let regions = regions(table)?;
            let check = Check::Latency { attribute, regions };
            (check, max(table)?, Direction::More)
        }
        RuleKind::Block => (Check::Block, 0.0, Direction::Off),
        RuleKind::Balance => {
            let attribute = attribute(table, kinds, Kind::Number)?;
            let measures = [("mean", Measure::Mean), ("sum", Measure::Sum)];
            let measure = table.optional("measure");
            let measure = measure.map_or(Ok(Measure::Mean), |node| node.choice(&measures))?;
            let check = Check::Balance { attribute, measure };
            (check, max(table)?, Direction::More)
        }
        RuleKind::Connectivity => {
            let topologies = [("mesh", Topology::Mesh), ("host", Topology::Host)];
            let topology = table.optional("topology");
            let topology = topology.map_or(Ok(Topology::Mesh), |node| node.choice(&topologies))?;
            let required = table.optional("required");
            let is_required = required.map_or(Ok(false), Node::boolean)?;
            let check = Check::Connectivity {
                topology,
                is_required,
            };
            (check, 0.0, Direction::Off)
        }
    })
}

/// The attribute of a rule, which is of the kind that the rule needs.
fn attribute(
    table: &mut Table<'_>,
    kinds: &mut BTreeMap<Name, Kind>,
    wanted: Kind,
) -> Result<Name, Fault> {
    let node = table.required("attribute")?;
    let name = attribute_name(node)?;
    let known = *kinds.entry(name.clone()).or_insert(wanted);
    if known != wanted {
        return Err(node.expected("an attribute of the kind that this rule needs"));
    }
    Ok(name)
}

fn attribute_name(node: &Node) -> Result<Name, Fault> {
    let name = node.name()?;
    match name.as_str() {
        TAGS => {
            Err(node
                .expected("an attribute not called tags, as which queries see a ticket's tags,"))
        }
        _ => Ok(name),
    }
}

fn rule_name(node: &Node, table: &mut Table<'_>, check: &Check) -> Result<Name, Fault> {
    Ok(match (table.optional("name"), check) {
        (Some(node), _) => node.name()?,
        (None, Check::Block) => Name::parse("block").map_err(|_| node.expected("a name"))?,
        (None, Check::Connectivity { .. }) => {
            Name::parse("connectivity").map_err(|_| node.expected("a name"))?
        }
        (None, Check::Balance { attribute, .. }) => {
            Name::parse(&format!("balance.{attribute}")).unwrap_or_else(|_| attribute.clone())
        }
        (None, _) => table.required("attribute")?.name()?,
    })
}

fn max(table: &mut Table<'_>) -> Result<f64, Fault> {
    let node = table.required("max")?;
    let max = node.number()?;
    if max < 0.0 {
        let why = "max is negative";
        return node.fail(Reason::Never { why });
    }
    Ok(max)
}

fn regions(table: &mut Table<'_>) -> Result<Vec<Name>, Fault> {
    let node = table.required("regions")?;
    let nodes = node.list()?;
    if nodes.is_empty() || nodes.len() > REGIONS_MAX {
        return node.fail(bounds("the number of regions", 1, REGIONS_MAX));
    }
    let mut seen = BTreeSet::new();
    let mut regions = Vec::new();
    for node in nodes {
        let name = node.name()?;
        check_new(&mut seen, &name, node)?;
        regions.push(name);
    }
    Ok(regions)
}

#[derive(Clone, Copy)]
enum RuleKind {
    Equal,
    Overlap,
    Distance,
    Range,
    Latency,
    Block,
    Balance,
    Connectivity,
}

/// The most different roles of all teams.
const ROLES_MAX: usize = 64;

const RULE_KINDS: [(&str, RuleKind); 8] = [
    ("equal", RuleKind::Equal),
    ("overlap", RuleKind::Overlap),
    ("distance", RuleKind::Distance),
    ("range", RuleKind::Range),
    ("latency", RuleKind::Latency),
    ("block", RuleKind::Block),
    ("balance", RuleKind::Balance),
    ("connectivity", RuleKind::Connectivity),
];

const KINDS: [(&str, Kind); 4] = [
    ("string", Kind::Text),
    ("number", Kind::Number),
    ("list", Kind::List),
    ("map", Kind::Map),
];

const MERGES: [(&str, Merge); 6] = [
    ("avg", Merge::Average),
    ("min", Merge::Least),
    ("max", Merge::Greatest),
    ("union", Merge::Union),
    ("intersection", Merge::Intersection),
    ("first", Merge::First),
];

/// The least time in which users say that they are ready.
const READY_MIN: Duration = Duration::from_secs(1);
