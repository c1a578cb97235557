//! Nodes that read a pool late, and nodes that die.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_late_reads_the_pool_from_a_snapshot() {
    let local = Local::new(LocalConfig::default());
    let start = |name| patient(&local, name);
    let first = start("node-0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&first, "alice").await;
    let mut bob = seeker(&first, "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    for number in 0..4_200 {
        submit(&mut bob, "duel", 10 + number, &[("bob", 9000.0)])
            .await
            .unwrap();
        ask(&mut bob, "duel", cancel(10 + number)).await.unwrap();
    }
    let key = pool_key(&local, "pool").await;
    let mut tail = local.tail(&key, None).await.unwrap();
    let begin = tail.next().await.unwrap();
    assert!(matches!(begin, TailEvent::Snapshot { .. }), "{begin:?}");

    let second = start("node-1");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut carol = seeker(&second, "carol").await;
    let status = submit(&mut carol, "duel", 2, &[("carol", 0.0)]).await;
    assert_eq!(status.unwrap().waiting, 2);
    assert_eq!(
        found(&mut carol).await.room,
        found(&mut alice).await.room,
        "who waited before the snapshot is found"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_more_than_a_hundred_thousand_tickets_is_kept_in_a_snapshot_and_read_again() {
    const COUNT: u32 = 101_000;
    let text = DUEL.replace("name = \"duel\"", "name = \"duel\"\ntickets = 200000");
    let start = |local: &Local, name: &str| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            config.unix_now = now;
            config.pools.push(MatchPool::parse(&text).unwrap());
            config.node = NodeId::parse(name).unwrap();
        })
    };
    let (local, key) = filled(&start, COUNT).await;
    let first = start(&local, "node-0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&first, "alice").await;
    let status = submit(&mut alice, "duel", COUNT + 1, &[("alice", -1e9)]).await;
    assert_eq!(status.unwrap().waiting, COUNT + 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut tail = local.tail(&key, None).await.unwrap();
    let begin = tail.next().await.unwrap();
    let TailEvent::Snapshot { state, .. } = begin else {
        panic!("{begin:?}");
    };
    assert!(state.len() > 8 * 1024 * 1024, "{}", state.len());

    let second = start(&local, "node-1");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut bob = seeker(&second, "bob").await;
    let near_the_last = f64::from(COUNT - 1) * 1e6 + 50.0;
    let status = submit(&mut bob, "duel", COUNT + 2, &[("bob", near_the_last)]).await;
    assert_eq!(status.unwrap().waiting, COUNT + 2);
    let found = found(&mut bob).await;
    let last = format!("waits-{:040}", COUNT - 1);
    assert!(
        users(&found).contains(&last.as_str()),
        "{:?}",
        users(&found)
    );
}

#[tokio::test(start_paused = true)]
async fn a_killed_matchers_pool_goes_on_at_another_node_with_each_ticket() {
    let (nodes, local) = cluster::<3>().await;
    let mut acknowledged = BTreeSet::new();
    let mut dead = BTreeSet::new();
    let mut devices = Vec::new();
    for round in 0..2_u32 {
        let leader = leader(&dead, &local).await;
        for at in 0..24_u32 {
            let number = round * 100 + at;
            let node = (0..nodes.len()).filter(|node| !dead.contains(node));
            let node = node.cycle().nth(at as usize).unwrap();
            let user = format!("u{number}");
            let mut device = seeker(&nodes[node], &user).await;
            // Some in the middle of the matcher's death: those are not acknowledged, or kept.
            let id = ask_submit(&mut device, "duel", number, &[(&user, 0.0)], 60, "");
            if at == 17 {
                nodes[leader].services.kill();
                dead.insert(leader);
            }
            if node != leader || at < 17 {
                assert!(status(device.response_among(id).await).is_ok(), "{number}");
                acknowledged.insert(number);
                devices.push((node, device));
            }
        }
        let died = Instant::now();
        let next = self::leader(&dead, &local).await;
        assert_ne!(next, leader);
        assert!(
            died.elapsed() < Duration::from_secs(2),
            "{:?}",
            died.elapsed()
        );
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    let log = Reader::read(&local).await;
    assert_eq!(log.claimed_twice, 0);
    for number in acknowledged {
        assert!(log.submitted.contains(&number), "{number} is lost");
    }
    for (node, mut device) in devices {
        if dead.contains(&node) {
            continue;
        }
        // Whose partner died waits for another; the last one may be alone.
        let number: u32 = device.user[1..].parse().unwrap();
        if log.matched.contains(&number) {
            found(&mut device).await;
        } else {
            assert!(log.waits.contains(&number), "{number}");
        }
    }
    assert!(log.matched.len() > 30, "{}", log.matched.len());
}

/// Reads a pool's log by itself, and counts.
#[derive(Default)]
struct Reader {
    submitted: BTreeSet<u32>,
    matched: BTreeSet<u32>,
    waits: BTreeSet<u32>,
    claimed_twice: usize,
}

impl Reader {
    /// By the log's entries alone: a claim counts if all of its tickets wait, and nobody of them is away.
    async fn read(local: &Local) -> Self {
        let mut found = Self::default();
        let mut away: BTreeSet<u32> = BTreeSet::new();
        let mut revisions: BTreeMap<u32, u32> = BTreeMap::new();
        let number = |ticket: &tombolo_match::TicketId| {
            u32::try_from(u128::from_be_bytes(ticket.0)).unwrap()
        };
        let mut next = 1;
        let key = pool_key(local, "pool").await;
        let mut tail = local.tail(&key, None).await.unwrap();
        loop {
            let entry = match tail.next().await.unwrap() {
                TailEvent::Entry { entry, .. } => entry,
                TailEvent::Synced => return found,
                other => panic!("the log is whole, and not {other:?}"),
            };
            let (_, Entry { body, .. }) = Entry::decode(&entry).unwrap();
            match body {
                Body::Submitted(ticket) => {
                    let number = number(&ticket.id);
                    if found.submitted.insert(number) {
                        found.waits.insert(number);
                        revisions.insert(number, 0);
                    }
                }
                Body::Dropped { ticket, .. } => {
                    away.insert(number(&ticket));
                }
                Body::Returned { ticket, .. } => {
                    away.remove(&number(&ticket));
                }
                Body::Claimed(matches) => {
                    for formed in matches {
                        let is_next = formed.id.0 == next;
                        next += u64::from(is_next);
                        let tickets = formed.parties().map(|party| number(&party.ticket));
                        let tickets: Vec<_> = tickets.collect();
                        let is_good =
                            |ticket: &u32| found.waits.contains(ticket) && !away.contains(ticket);
                        if !is_next || !tickets.iter().all(is_good) {
                            continue;
                        }
                        for ticket in tickets {
                            found.waits.remove(&ticket);
                            found.claimed_twice += usize::from(!found.matched.insert(ticket));
                        }
                    }
                }
                Body::NodeLost { .. } | Body::Seated(_) | Body::Ticked => {}
                other => panic!("nobody wanted {other:?}"),
            }
        }
    }
}
