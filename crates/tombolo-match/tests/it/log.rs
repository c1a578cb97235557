//! A pool's log as bytes: who reads it has the pool, from the beginning or from a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tombolo_match::{
    Answer, Backfill, BackfillId, Body, Device, Entry, EntryError, Event, Illegal, MatchId,
    NODES_LOST_MAX, OperationId, Pool, Reach, Rules, Seating, SessionId, Ticket, TicketId, Time,
    VERSION,
};
use tombolo_wire::{NodeId, UserId};

use crate::plan::Plan;
use crate::random::Dice;
use crate::world::{World, id, solo, user};

#[test]
fn a_log_that_is_read_as_bytes_or_from_a_snapshot_gives_the_same_pool() {
    let mut matched = 0;
    for seed in 0..180 {
        let mut dice = Dice::new(seed);
        let plan = dice.plan();
        let rules = rules(&plan, &mut dice);
        let mut writer = Writer::new(rules.clone());
        for _ in 0..120 {
            writer.act(&plan, &mut dice);
        }
        matched += writer.matched;
        let mut whole = Pool::new(rules.clone());
        let cut = dice.below(writer.log.len() as u64) as usize;
        let mut late = None;
        for (at, (bytes, events)) in writer.log.iter().enumerate() {
            if at == cut {
                let restored = Pool::restore(rules.clone(), &whole.snapshot());
                late = Some(restored.unwrap());
            }
            let (operation, entry) = Entry::decode(bytes).unwrap();
            assert_eq!(entry.encode(operation), bytes, "seed {seed}, entry {at}");
            for pool in [Some(&mut whole), late.as_mut()].into_iter().flatten() {
                let applied = pool.apply(&entry);
                assert_eq!(applied.events, *events, "seed {seed}, entry {at}");
            }
        }
        let late = late.unwrap();
        assert_eq!(whole.snapshot(), writer.pool.snapshot(), "seed {seed}");
        assert_eq!(late.snapshot(), writer.pool.snapshot(), "seed {seed}");
        assert_eq!(late.poll_timeout(), whole.poll_timeout(), "seed {seed}");
        assert_eq!(late.weight(), whole.weight(), "seed {seed}");
        assert!(late.waiting().eq(whole.waiting()), "seed {seed}");
    }
    assert!(
        matched > 500,
        "{matched} matches are too few to say anything"
    );
}

#[test]
fn a_pool_from_a_snapshot_proposes_the_same_matches() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let plan = dice.plan();
        let mut world = World::new(&plan.document());
        for number in 1..120 {
            let _ = world.submit(dice.ticket(&plan, number));
            if dice.below(4) == 0 {
                // Its texts have other numbers than they would have had without.
                let gone = id(1 + u128::from(dice.below(number as u64)));
                let _ = world.apply(Body::Cancelled(gone));
            }
        }
        world.wait(3);
        let rules = Rules::parse(&plan.document()).unwrap();
        let mut restored = Pool::restore(rules, &world.pool.snapshot()).unwrap();
        let proposed = world.pool.propose(world.now, u64::MAX).matches;
        let again = restored.propose(world.now, u64::MAX).matches;
        assert_eq!(again, proposed, "seed {seed}");
    }
}

#[test]
fn a_snapshot_is_not_much_larger_than_the_weight_says() {
    let mut dice = Dice::new(7);
    let plan = dice.plan();
    let mut world = World::new(&plan.document());
    for number in 1..500 {
        let _ = world.submit(dice.ticket(&plan, number));
    }
    let (weight, bytes) = (world.pool.weight(), world.pool.snapshot().len());
    assert!(bytes < weight + 1024, "{bytes} bytes weigh {weight}");
    for ticket in world.waiting() {
        world.apply(Body::Cancelled(id(ticket))).unwrap();
    }
    assert_eq!(world.pool.weight(), 0);
}

#[test]
fn what_is_cut_off_or_of_another_version_is_no_entry_and_no_snapshot() {
    let mut dice = Dice::new(3);
    let plan = dice.plan();
    let rules = rules(&plan, &mut dice);
    let mut writer = Writer::new(rules.clone());
    for _ in 0..80 {
        writer.act(&plan, &mut dice);
    }
    for (bytes, _) in &writer.log {
        for end in 0..bytes.len() {
            // It may be an entry that says less; it must only not be one that panics.
            if let Ok((operation, entry)) = Entry::decode(&bytes[..end]) {
                assert!(entry.encode(operation).len() <= end);
            }
        }
        let mut newer = bytes.to_vec();
        newer[1] = VERSION as u8 + 1;
        let version = VERSION + 1;
        assert_eq!(Entry::decode(&newer), Err(EntryError::Version { version }));
    }
    let snapshot = writer.pool.snapshot();
    for end in 0..snapshot.len() {
        if let Ok(mut pool) = Pool::restore(rules.clone(), &snapshot[..end]) {
            survive(&mut pool);
        }
    }
}

#[test]
fn bytes_that_were_tampered_with_are_survived() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let plan = dice.plan();
        let rules = rules(&plan, &mut dice);
        let mut writer = Writer::new(rules.clone());
        for _ in 0..60 {
            writer.act(&plan, &mut dice);
        }
        let snapshot = writer.pool.snapshot();
        for _ in 0..100 {
            if let Ok(mut pool) = Pool::restore(rules.clone(), &tampered(&snapshot, &mut dice)) {
                survive(&mut pool);
            }
            let at = dice.below(writer.log.len() as u64) as usize;
            let bytes = tampered(&writer.log[at].0, &mut dice);
            if let Ok((_, entry)) = Entry::decode(&bytes) {
                let _ = writer.pool.apply(&entry);
            }
        }
        survive(&mut writer.pool);
    }
}

fn tampered(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() as u64) as usize;
        bytes[at] = dice.below(256) as u8;
    }
    bytes
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let rules = Rules::parse("name = \"p\"\nplayers = { min = 2, max = 2 }").unwrap();
    let mut pool = Pool::new(rules.clone());
    let body = Body::Submitted(solo(1));
    let time = Time::from_millis(1);
    pool.apply(&Entry { time, body }).outcome.unwrap();
    let once = pool.snapshot();
    assert!(Pool::restore(rules.clone(), &once).is_ok());
    // Repeated fields add up: the same seat twice.
    let twice = [once.as_ref(), once.as_ref()].concat();
    assert!(Pool::restore(rules, &twice).is_err());
}

#[test]
fn users_of_a_lost_node_are_away_and_what_it_appends_late_is_refused() {
    let mut world = World::new("name = \"p\"\nplayers = { min = 2, max = 2 }");
    let mut ticket = at("n1", 5, solo(1));
    ticket.grace = Duration::from_secs(10);
    world.submit(ticket).unwrap();
    world.submit(at("n1", 6, solo(2))).unwrap();
    world.submit(at("n2", 5, solo(3))).unwrap();
    let lost = |node: &str, incarnation| Body::NodeLost {
        node: NodeId::parse(node).unwrap(),
        incarnation,
    };
    let events = world.apply(lost("n1", 5)).unwrap();
    assert!(
        matches!(&events[..], [Event::Dropped { ticket, .. }] if *ticket == id(1)),
        "{events:?}"
    );
    assert_eq!(world.submit(at("n1", 4, solo(4))), Err(Illegal::Lost));
    assert_eq!(world.apply(lost("n1", 5)), Ok(Vec::new()));
    let back = Body::Returned {
        ticket: id(1),
        user: user("u1"),
        device: Some(device("n2", 5)),
    };
    world.apply(back).unwrap();
    assert_eq!(world.matched(), [["u1", "u2"]]);

    for number in 0..NODES_LOST_MAX {
        world.apply(lost(&format!("m{number}"), 1)).unwrap();
    }
    assert!(world.submit(at("n1", 5, solo(5))).is_ok(), "long forgotten");
}

#[test]
fn a_user_that_comes_back_with_another_device_is_told_there() {
    let mut world = World::new("name = \"p\"\nplayers = { min = 2, max = 2 }");
    world.submit(at("n1", 5, solo(1))).unwrap();
    let back = Body::Returned {
        ticket: id(1),
        user: user("u1"),
        device: Some(device("n2", 1)),
    };
    assert_eq!(world.apply(back), Ok(Vec::new()), "it was not away");
    let ticket = world.pool.ticket_of(&user("u1")).unwrap();
    assert_eq!(ticket.players[0].device, Some(device("n2", 1)));
    let stranger = Body::Returned {
        ticket: id(1),
        user: user("u2"),
        device: Some(device("n2", 1)),
    };
    assert_eq!(world.apply(stranger), Err(Illegal::Unknown));
}

/// A pool that writes down what it is told, and what came of it.
pub(crate) struct Writer {
    pub(crate) pool: Pool,
    now: Time,
    pub(crate) log: Vec<(bytes::Bytes, Vec<Event>)>,
    tickets: u128,
    matched: usize,
    /// Those in matches that begin, or that ask whether their users are ready.
    taken: BTreeMap<TicketId, MatchId>,
    /// Matches of which somebody may have been told.
    seated: BTreeSet<MatchId>,
}

impl Writer {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            pool: Pool::new(rules),
            now: Time::from_millis(1_000_000),
            log: Vec::new(),
            tickets: 0,
            matched: 0,
            taken: BTreeMap::new(),
            seated: BTreeSet::new(),
        }
    }

    pub(crate) fn act(&mut self, plan: &Plan, dice: &mut Dice) {
        self.now = self.now.after(Duration::from_millis(dice.below(700)));
        let step = self.pool.propose(self.now, 1_000);
        if !step.matches.is_empty() {
            self.append(Body::Claimed(step.matches));
        }
        let (ticket, user) = self.somebody(dice);
        let body = match dice.below(16) {
            0..6 => {
                self.tickets += 1;
                let ticket = dice.ticket(plan, self.tickets);
                let mut ticket = at(&format!("n{}", dice.below(3)), 1 + dice.below(3), ticket);
                ticket.grace = Duration::from_secs(dice.below(3));
                Body::Submitted(ticket)
            }
            6 => Body::Cancelled(ticket),
            7 => Body::Dropped { ticket, user },
            8 => Body::Returned {
                ticket,
                user,
                device: (dice.below(2) == 0).then(|| device("n7", 1)),
            },
            9 => {
                let number = 1 + u128::from(dice.below(90));
                let players = dice.ticket(plan, number).players;
                Body::Changed { ticket, players }
            }
            10 => Body::NodeLost {
                node: NodeId::parse(&format!("n{}", dice.below(3))).unwrap(),
                incarnation: 1 + dice.below(2),
            },
            11..14 => Body::Answered {
                id: MatchId(1 + dice.below(20)),
                user: self.asked(dice).unwrap_or(user),
                answer: match dice.below(6) {
                    0 => Answer::Decline,
                    _ => Answer::Accept,
                },
            },
            14 => self.running(plan, dice),
            _ => match dice.below(3) {
                0 => self.seats(dice),
                1 => Body::Reached {
                    ticket,
                    user,
                    reach: [Reach::Open, Reach::Symmetric][dice.below(2) as usize],
                },
                _ => Body::Ticked,
            },
        };
        self.append(body);
    }

    fn append(&mut self, body: Body) {
        let entry = Entry {
            time: self.now,
            body,
        };
        let number = self.log.len() as u128;
        let bytes = entry.encode(OperationId(number.to_be_bytes()));
        let applied = self.pool.apply(&entry);
        if let Body::Seated(seated) = &entry.body {
            let seated = seated.iter().copied();
            let is_told = |id: &MatchId| self.pool.seating(*id) == Seating::Seated;
            self.seated.extend(seated.filter(is_told));
        }
        let is_match = |event: &&Event| matches!(event, Event::Matched(_));
        self.matched += applied.events.iter().filter(is_match).count();
        applied
            .events
            .iter()
            .for_each(|event| self.check_taken(event));
        self.log.push((bytes, applied.events));
    }

    /// No ticket is in two matches, unless the first has come to nothing.
    fn check_taken(&mut self, event: &Event) {
        if let Event::Failed { id, .. } = event {
            assert!(!self.seated.contains(id), "who is in {id:?} was told of it");
            self.taken.retain(|_, taken| taken != id);
        }
        if let Event::Matched(formed) | Event::Asked { formed, .. } = event {
            for party in formed.parties() {
                let before = self.taken.insert(party.ticket, formed.id);
                let is_first = before.is_none_or(|before| before == formed.id);
                assert!(
                    is_first,
                    "{:?} is in {before:?} and {:?}",
                    party.ticket, formed.id
                );
            }
        }
    }

    fn somebody(&self, dice: &mut Dice) -> (TicketId, UserId) {
        let ticket = id(1 + u128::from(dice.below(self.tickets as u64 + 1)));
        let standing = self.pool.standing(&ticket);
        let user = standing.map(|standing| standing.ticket.players[0].user.clone());
        (ticket, user.unwrap_or_else(|| user_of(1)))
    }

    fn asked(&self, dice: &mut Dice) -> Option<UserId> {
        let (formed, ..) = self.pool.asked(MatchId(1 + dice.below(20)))?;
        formed.users().next().cloned()
    }

    /// Whether the users of a claim have their seats.
    fn seats(&mut self, dice: &mut Dice) -> Body {
        // Nobody says so of a match that has not begun.
        let begun: Vec<_> = self.taken.values().copied().collect();
        let begun = begun.get(dice.below(40) as usize).copied();
        match begun.filter(|id| self.pool.asked(*id).is_none()) {
            Some(id) if dice.below(2) == 0 => Body::Seated(vec![id]),
            id => Body::Unseated(id.unwrap_or_else(|| MatchId(1 + dice.below(40)))),
        }
    }

    /// Something about a running match.
    fn running(&mut self, plan: &Plan, dice: &mut Dice) -> Body {
        let id = BackfillId([dice.below(3) as u8; 16]);
        let lease = Duration::from_secs(1 + dice.below(5));
        match dice.below(7) {
            0 => Body::Closed(id),
            1 => Body::Renewed { id, lease },
            2 => self.seats(dice),
            _ => {
                let team = self.pool.rules().shape.teams[0].name.clone();
                let number = 1_000 + u128::from(dice.below(1_000));
                let mut ticket = dice.ticket(plan, number);
                ticket.players.truncate(1);
                Body::Backfill(Backfill {
                    id,
                    after: self.pool.generation(&id).unwrap_or(0),
                    sides: vec![(team, vec![ticket])],
                    venue: dice.venue(plan, &[]),
                    lease,
                })
            }
        }
    }
}

/// The rules of a plan; of some pools users are asked whether they are ready.
fn rules(plan: &Plan, dice: &mut Dice) -> Rules {
    let mut rules = Rules::parse(&plan.document()).unwrap();
    rules.ready = (dice.below(2) == 0).then(|| Duration::from_secs(1 + dice.below(3)));
    rules
}

/// Does everything to a pool that came out of bytes of which nobody knows.
fn survive(pool: &mut Pool) {
    let now = pool.clock().after(Duration::from_secs(5));
    for body in [
        Body::Ticked,
        Body::Claimed(pool.propose(now, 1_000).matches),
    ] {
        let _ = pool.apply(&Entry { time: now, body });
    }
    let waiting: Vec<_> = pool.waiting().map(|ticket| ticket.id).collect();
    for ticket in waiting {
        let _ = pool.explain(&ticket, now);
        let body = Body::Cancelled(ticket);
        let _ = pool.apply(&Entry { time: now, body });
    }
}

fn user_of(number: u128) -> UserId {
    user(&format!("u{number}"))
}

fn device(node: &str, incarnation: u64) -> Device {
    Device {
        session: SessionId([9; 16]),
        node: NodeId::parse(node).unwrap(),
        incarnation,
    }
}

/// The ticket, with the devices of its users connected there.
fn at(node: &str, incarnation: u64, mut ticket: Ticket) -> Ticket {
    for player in &mut ticket.players {
        player.device = Some(device(node, incarnation));
    }
    ticket
}
