//! Rosters, rule by rule, and a tree of them against a plain map.

use std::collections::BTreeMap;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_social::roster::{
    Actor, Body, Entry, Illegal, MEMBERS_MAX, Member, PARTS, Roster, Seed, part_of,
};
use tombolo_social::{OperationId, Time};

use crate::inbox::user;

fn entry(by: Option<(&str, u32)>, body: Body) -> Entry {
    let entry = Entry {
        operation: OperationId([1; 16]),
        time: Time::from_millis(7),
        by: by.map(|(name, role)| Actor {
            user: user(name),
            role,
        }),
        body,
    };
    let decoded = Entry::decode(&entry.encode()).unwrap();
    assert_eq!(decoded, entry);
    decoded
}

/// alice owns, amy administrates, bob and carol are members.
fn roster() -> Roster {
    let mut roster = Roster::new();
    let roles = [("alice", 0), ("amy", 1), ("bob", 2), ("carol", 2)];
    let since = Time::from_millis(1);
    let seed = Seed {
        members: roles
            .map(|(name, role)| (user(name), Member { role, since }))
            .into(),
        banned: [user("mallory")].into(),
    };
    roster.apply(&entry(None, Body::Seeded(seed))).unwrap();
    roster
}

fn act(roster: &mut Roster, by: (&str, u32), body: Body) -> Result<(), Illegal> {
    let before = roster.clone();
    let result = roster.apply(&entry(Some(by), body));
    if result.is_err() {
        assert_eq!(roster.revision(), before.revision());
    }
    assert_eq!(Roster::restore(&roster.snapshot()), Ok(roster.clone()));
    result
}

fn role(name: &str, role: u32) -> Body {
    let user = user(name);
    Body::RoleSet { user, role }
}

#[test]
fn nothing_is_known_of_a_roster_before_it_is_seeded_and_the_first_seed_counts() {
    let mut roster = Roster::new();
    let join = Body::Joined {
        user: user("bob"),
        role: 2,
    };
    assert_eq!(roster.apply(&entry(None, join)), Err(Illegal::Unseeded));
    roster
        .apply(&entry(None, Body::Seeded(Seed::default())))
        .unwrap();
    let other = Seed {
        banned: [user("bob")].into(),
        ..Seed::default()
    };
    roster.apply(&entry(None, Body::Seeded(other))).unwrap();
    assert!(!roster.is_banned(&user("bob")));
}

#[test]
fn members_act_on_those_below_them_only() {
    let mut roster = roster();
    let (alice, amy, bob) = (("alice", 0), ("amy", 1), ("bob", 2));
    assert_eq!(
        act(&mut roster, bob, Body::Removed(user("carol"))),
        Err(Illegal::Rank)
    );
    assert_eq!(
        act(&mut roster, amy, Body::Banned(user("alice"))),
        Err(Illegal::Rank)
    );
    assert_eq!(
        act(&mut roster, amy, role("bob", 1)),
        Err(Illegal::Rank),
        "no equals"
    );
    assert_eq!(act(&mut roster, amy, role("alice", 2)), Err(Illegal::Rank));
    assert_eq!(
        act(&mut roster, bob, role("bob", 1)),
        Err(Illegal::Rank),
        "nobody rises alone"
    );
    act(&mut roster, alice, role("bob", 1)).unwrap();
    act(&mut roster, alice, role("amy", 0)).unwrap();
    assert_eq!(
        act(&mut roster, alice, Body::Removed(user("amy"))),
        Err(Illegal::Rank)
    );
    act(&mut roster, alice, role("alice", 2)).unwrap();
    act(&mut roster, ("amy", 0), Body::Removed(user("alice"))).unwrap();
    assert_eq!(roster.len(), 3);
}

#[test]
fn a_banned_user_is_out_and_stays_out_until_it_is_unbanned() {
    let mut roster = roster();
    let join = |name: &str| Body::Joined {
        user: user(name),
        role: 2,
    };
    assert_eq!(
        act(&mut roster, ("amy", 1), join("mallory")),
        Err(Illegal::Banned)
    );
    act(&mut roster, ("amy", 1), Body::Banned(user("bob"))).unwrap();
    assert_eq!(roster.member(&user("bob")), None);
    assert_eq!(
        act(&mut roster, ("amy", 1), join("bob")),
        Err(Illegal::Banned)
    );
    act(&mut roster, ("amy", 1), Body::Unbanned(user("bob"))).unwrap();
    act(&mut roster, ("amy", 1), join("bob")).unwrap();
    assert_eq!(
        act(&mut roster, ("amy", 1), join("bob")),
        Err(Illegal::Member)
    );
}

#[test]
fn an_owner_hands_over_before_it_leaves() {
    let mut roster = roster();
    let leave = |name: &str| entry(None, Body::Left(user(name)));
    assert_eq!(roster.apply(&leave("alice")), Err(Illegal::Owner));
    roster.apply(&leave("bob")).unwrap();
    assert_eq!(roster.apply(&leave("bob")), Err(Illegal::NotMember));
    act(&mut roster, ("alice", 0), role("alice", 1)).unwrap();
    roster.apply(&leave("alice")).unwrap();
}

#[test]
fn only_a_full_roster_splits_and_then_it_is_settled() {
    let mut roster = roster();
    assert_eq!(roster.apply(&entry(None, Body::Split)), Err(Illegal::Small));
    let mut number = 0;
    let full = loop {
        let user = user(&format!("user-{number}"));
        let join = entry(None, Body::Joined { user, role: 2 });
        match roster.apply(&join) {
            Ok(()) => number += 1,
            Err(illegal) => break (illegal, join),
        }
    };
    assert_eq!(
        (full.0, roster.len()),
        (Illegal::Full, MEMBERS_MAX - 1),
        "one is banned"
    );
    let ban = Body::Banned(user("stranger"));
    assert_eq!(roster.apply(&entry(None, ban)), Err(Illegal::Full));
    roster.apply(&entry(None, Body::Split)).unwrap();
    roster.apply(&entry(None, Body::Split)).unwrap();
    let settled = roster.revision();
    assert_eq!(roster.apply(&full.1), Err(Illegal::Split));
    assert_eq!(roster.revision(), settled);

    let parts: Vec<_> = (0..PARTS).map(|number| roster.part(0, number)).collect();
    assert_eq!(
        parts.iter().map(|part| part.members.len()).sum::<usize>(),
        roster.len()
    );
    assert_eq!(parts.iter().map(|part| part.banned.len()).sum::<usize>(), 1);
    let largest = parts.iter().map(|part| part.members.len()).max().unwrap();
    assert!(
        largest < 2 * MEMBERS_MAX / usize::from(PARTS),
        "{largest} of a part"
    );
    let seeded = entry(None, Body::Seeded(parts[0].clone()));
    assert!(seeded.encode().len() < 512 * 1024);
}

/// A group's rosters, as nodes find their way in them.
#[derive(Default)]
struct Tree(BTreeMap<Vec<u8>, Roster>);

impl Tree {
    fn leaf(&mut self, name: &str) -> &mut Roster {
        let user = user(name);
        let mut path = Vec::new();
        loop {
            let depth = path.len();
            if !self.0.contains_key(&path) {
                let seed = match path.split_last() {
                    None => Seed::default(),
                    Some((number, parent)) => self.0[parent].part(depth - 1, *number),
                };
                let mut roster = Roster::new();
                roster.apply(&entry(None, Body::Seeded(seed))).unwrap();
                self.0.insert(path.clone(), roster);
            }
            if !self.0[&path].is_split() {
                return self.0.get_mut(&path).unwrap();
            }
            path.push(part_of(&user, depth));
        }
    }

    fn apply(&mut self, name: &str, body: &Body) -> Result<(), Illegal> {
        loop {
            match self.leaf(name).apply(&entry(None, body.clone())) {
                Err(Illegal::Full) => {
                    self.leaf(name).apply(&entry(None, Body::Split)).unwrap();
                }
                result => return result,
            }
        }
    }
}

#[test]
fn a_tree_of_rosters_is_as_one_large_one() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
    for step in 0..60_000 {
        let name = format!("user-{}", random.random_range(0..25_000));
        let is_member = model.contains_key(&name);
        if random.random_range(0..10) < 8 {
            let role = random.random_range(1..4);
            let user = user(&name);
            let joined = tree.apply(&name, &Body::Joined { user, role });
            let expected = if is_member {
                Err(Illegal::Member)
            } else {
                Ok(())
            };
            assert_eq!(joined, expected, "step {step}");
            model.entry(name).or_insert(role);
        } else {
            let left = tree.apply(&name, &Body::Left(user(&name)));
            let expected = if is_member {
                Ok(())
            } else {
                Err(Illegal::NotMember)
            };
            assert_eq!(left, expected, "step {step}");
            model.remove(&name);
        }
    }
    assert!(
        model.len() > 3 * MEMBERS_MAX,
        "{} are too few for two splits",
        model.len()
    );
    let leaves: Vec<_> = tree
        .0
        .values()
        .filter(|roster| !roster.is_split())
        .collect();
    assert_eq!(leaves.iter().map(|leaf| leaf.len()).sum::<usize>(), {
        // Parts that nobody has needed are in their parents still.
        let touched = |name: &String| tree.0.contains_key(&vec![part_of(&user(name), 0)]);
        model.keys().filter(|name| touched(name)).count()
    });
    for (name, role) in &model {
        assert_eq!(tree.leaf(name).member(&user(name)).unwrap().role, *role);
    }
    for leaf in tree.0.values() {
        assert!(Roster::restore(&leaf.snapshot()).as_ref() == Ok(leaf));
    }
}
