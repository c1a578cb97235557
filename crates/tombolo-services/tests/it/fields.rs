//! Devices in a field: on one node, on several, and when a node dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tombolo_engine::{Bus as _, BusEvent, Key, Pattern};
use tombolo_field::{Change, EntityId};
use tombolo_services::{
    FieldClass, FieldDimensions, FieldThing, HookSet, Hooks, Marking, Sight, Subject,
};
use tombolo_wire::v1::{self, ErrorCode, field_request, field_response};
use tombolo_wire::{FieldId, UserId};

use crate::cluster::{cluster, start, start_with};
use crate::lab::{Lab, UNIX_NOW};
use crate::walker::{Walker, enter};

fn refused(lab: &Lab) -> u64 {
    lab.services.stats().fields.refused.values().sum()
}

#[tokio::test(start_paused = true)]
async fn devices_see_each_other_come_move_and_go() {
    let lab = Lab::new();
    let mut alice = Walker::new(&lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&lab, "bob", &[90.0, 0.0]).await;
    let mut carol = Walker::new(&lab, "carol", &[190.0, 0.0]).await;
    assert_eq!(alice.hear().await, [Change::Entered(bob.entity)]);
    carol.hear().await;
    assert_eq!(carol.seen(), [bob.entity]);

    bob.go(&[95.0, 3.0]);
    assert_eq!(alice.hear().await, [Change::Updated(bob.entity)]);
    assert_eq!(alice.place_of(&bob), [95.0, 3.0, 0.0]);
    bob.go(&[160.0, 0.0]);
    assert_eq!(alice.hear().await, [Change::Left(bob.entity)]);

    let left = carol
        .ask(field_request::Kind::Leave(v1::LeaveField {}))
        .await;
    assert!(matches!(left, Ok(field_response::Result::Left(_))));
    bob.hear().await;
    assert_eq!(bob.seen(), []);
    // Its session ends.
    drop(bob.device.connection.take());
    tokio::time::sleep(Duration::from_secs(40)).await;
    let left = alice
        .ask(field_request::Kind::Leave(v1::LeaveField {}))
        .await;
    assert!(left.is_ok());
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(lab.services.stats().fields.fields, 0);
    assert_eq!(refused(&lab), 0);
}

#[tokio::test(start_paused = true)]
async fn devices_on_two_nodes_see_each_other_across_a_border_within_a_tenth_of_a_second() {
    let (nodes, _) = cluster::<2>().await;
    // Cells meet at 0.
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[-1.0, -1.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[1.0, 1.0]).await;
    alice.hear().await;
    bob.hear().await;
    assert_eq!(
        (alice.seen(), bob.seen()),
        (vec![bob.entity], vec![alice.entity])
    );
    let limit = Duration::from_millis(100);
    for step in 1..40 {
        let begin = Instant::now();
        alice.go(&[-1.0 + f64::from(step), 0.0]);
        while bob.hear_one(limit).await.unwrap() != [Change::Updated(alice.entity)] {}
        assert!(begin.elapsed() <= limit, "{:?}", begin.elapsed());
        assert_eq!(bob.place_of(&alice), [-1.0 + f64::from(step), 0.0, 0.0]);
        bob.go(&[1.0, 1.0]);
    }
    // From far away right beside the other, into cells to which nobody listens yet.
    alice.go(&[5000.0, 5000.0]);
    assert_eq!(bob.hear().await, [Change::Left(alice.entity)]);
    bob.go(&[5001.0, 5001.0]);
    let seen = (bob.hear().await, alice.hear().await);
    assert_eq!(seen.0, [Change::Entered(alice.entity)]);
    assert!(
        seen.1.contains(&Change::Entered(bob.entity)),
        "{:?}",
        seen.1
    );
    assert_eq!(nodes[1].lab.services.stats().fields.heard_refused, 0);
}

/// Waits until a device is told that another one has come; returns how long that has taken.
async fn comes(walker: &mut Walker, other: EntityId) -> Duration {
    let begin = Instant::now();
    loop {
        let told = walker.hear_one(Duration::from_secs(1)).await.unwrap();
        if told.contains(&Change::Entered(other)) {
            return begin.elapsed();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_where_its_node_does_not_listen_is_told_in_the_next_tick_after_the_answer() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[-1.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[1.0, 0.0]).await;
    // A tick, and as long as nodes gather what they tell.
    let limit = Duration::from_millis(50 + 20 + 2);
    for round in 0..25 {
        alice.go(&[-5000.0, 0.0]);
        bob.go(&[1.0, 0.0]);
        alice.hear().await;
        bob.hear().await;
        assert_eq!((alice.seen(), bob.seen()), (vec![], vec![]));
        // Anywhere between two ticks and two looks around.
        tokio::time::sleep(Duration::from_millis(1000 + 7 * round)).await;
        alice.go(&[-1.0, 0.0]);
        let (bobs, alices) = (bob.entity, alice.entity);
        let (sees, seen) = tokio::join!(comes(&mut alice, bobs), comes(&mut bob, alices));
        assert!(sees <= limit, "round {round}: {sees:?}");
        assert!(seen <= limit, "round {round}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_nodes_death_a_device_is_told_the_difference_only_and_others_nothing() {
    let (nodes, _) = cluster::<3>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let erin = Walker::new(&nodes[0].lab, "erin", &[5.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[10.0, 0.0]).await;
    let mut carol = Walker::new(&nodes[1].lab, "carol", &[20.0, 0.0]).await;
    let mut dave = Walker::new(&nodes[1].lab, "dave", &[30.0, 0.0]).await;
    alice.hear().await;
    bob.hear().await;
    assert_eq!((alice.seen().len(), bob.seen().len()), (4, 4));

    nodes[0].lab.services.kill();
    alice.device.connection = None;
    // While alice has no node, one stays, one moves, one goes away and one comes.
    carol.go(&[25.0, 0.0]);
    dave.go(&[500.0, 0.0]);
    let frank = Walker::new(&nodes[1].lab, "frank", &[40.0, 0.0]).await;
    bob.hear().await;
    alice.device.connect(&nodes[2].lab).await.unwrap();
    alice.enter(&[0.0, 0.0]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(4000)).await;
    bob.go(&[10.5, 0.0]);
    let mut changes = alice.hear().await;
    changes.dedup();
    let of = |entity: EntityId, changes: &[Change]| {
        let about = changes.iter().filter(|change| match change {
            Change::Entered(id) | Change::Updated(id) | Change::Left(id) => *id == entity,
        });
        about.copied().collect::<Vec<_>>()
    };
    assert_eq!(of(carol.entity, &changes), [Change::Updated(carol.entity)]);
    assert_eq!(of(dave.entity, &changes), [Change::Left(dave.entity)]);
    assert_eq!(of(erin.entity, &changes), [Change::Left(erin.entity)]);
    assert_eq!(of(frank.entity, &changes), [Change::Entered(frank.entity)]);
    assert_eq!(
        of(bob.entity, &changes),
        [Change::Updated(bob.entity)],
        "it moved last"
    );

    // To the others alice has been there all along; erin has not come back.
    let changes = bob.hear().await;
    assert_eq!(of(alice.entity, &changes), []);
    assert_eq!(of(erin.entity, &changes), [Change::Left(erin.entity)]);
}

#[tokio::test(start_paused = true)]
async fn who_is_there_over_a_nodes_next_life_stays_when_the_last_one_is_found_dead() {
    let (nodes, local) = cluster::<2>().await;
    let of_fields = Pattern::Under(Key::new(["field"]).unwrap());
    let mut bob = Walker::new(&nodes[0].lab, "bob", &[10.0, 0.0]).await;
    let mut alice = Walker::new(&nodes[1].lab, "alice", &[0.0, 0.0]).await;
    bob.hear().await;
    let mut heard = local.subscribe(&of_fields, 64).await.unwrap();
    alice.go(&[1.0, 0.0]);
    assert_eq!(bob.hear().await, [Change::Updated(alice.entity)]);
    let told = loop {
        if let Some(BusEvent::Message(told)) = heard.next().await
            && told
                .payload
                .windows(8)
                .any(|part| part == alice.entity.0.to_le_bytes())
        {
            break told;
        }
    };
    nodes[1].lab.services.kill();
    // The same of a later life (field 6), since alice has come back at once and has not moved.
    let later = [&told.payload[..], &[0x30], &[0xff; 9], &[0x01]].concat();
    local.publish(&told.subject, later.into()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let changes = bob.hear().await;
    assert!(
        !changes.contains(&Change::Left(alice.entity)),
        "{changes:?}"
    );
    assert_eq!(bob.seen(), [alice.entity]);
}

#[tokio::test(start_paused = true)]
async fn a_drained_nodes_device_goes_on_in_its_field() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[10.0, 0.0]).await;
    bob.hear().await;
    // The session itself moves.
    let welcome = alice.device.connect(&nodes[1].lab).await.unwrap();
    assert!(welcome.resumed);
    alice.go(&[1.0, 0.0]);
    alice.hear().await;
    assert_eq!(alice.refusals, [ErrorCode::NotInField]);
    assert_eq!(
        bob.hear().await,
        [],
        "alice is there, as far as bob can see"
    );
    alice.enter(&[1.0, 0.0]).await.unwrap();
    assert_eq!(bob.hear().await, [Change::Updated(alice.entity)]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(bob.hear().await, []);
    alice.hear().await;
    assert_eq!(alice.seen(), [bob.entity]);
}

#[tokio::test(start_paused = true)]
async fn who_moves_to_another_node_and_does_not_enter_there_has_left_after_the_grace() {
    let (nodes, _) = cluster::<3>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    // The one sees it over the node that it was on, the other one over another.
    let mut bob = Walker::new(&nodes[0].lab, "bob", &[10.0, 0.0]).await;
    let mut carol = Walker::new(&nodes[2].lab, "carol", &[20.0, 0.0]).await;
    bob.hear().await;
    carol.hear().await;
    alice.device.connect(&nodes[1].lab).await.unwrap();
    for walker in [&mut bob, &mut carol] {
        assert_eq!(walker.hear().await, []);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for walker in [&mut bob, &mut carol] {
        assert_eq!(walker.hear().await, [Change::Left(alice.entity)]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_enters_over_another_node_and_has_not_moved_has_been_there_all_along() {
    let (nodes, _) = cluster::<3>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[0].lab, "bob", &[10.0, 0.0]).await;
    let mut carol = Walker::new(&nodes[2].lab, "carol", &[20.0, 0.0]).await;
    bob.hear().await;
    carol.hear().await;
    alice.device.connect(&nodes[1].lab).await.unwrap();
    // The same report, which the others have.
    alice.sequence -= 1;
    alice.enter(&[0.0, 0.0]).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for walker in [&mut bob, &mut carol] {
            assert_eq!(walker.hear().await, []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_stays_in_its_field_when_its_session_comes_back_to_the_node_that_offered_it() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[10.0, 0.0]).await;
    bob.hear().await;
    alice.device.connection = None;
    // The offer is made, and nothing more comes through.
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    let hello = alice.device.hello();
    let asked = nodes[1].lab.attach(hello);
    let asked = timeout(Duration::from_secs(1), asked).await;
    assert!(asked.is_err());
    let welcome = alice.device.connect(&nodes[0].lab).await.unwrap();
    assert!(welcome.resumed);
    alice.go(&[1.0, 0.0]);
    alice.hear().await;
    assert_eq!((alice.seen(), &alice.refusals), (vec![bob.entity], &vec![]));
    let changes = bob.hear().await;
    assert_eq!(changes, [Change::Updated(alice.entity)]);
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_with_a_reason_and_disturbs_nobody() {
    let lab = Lab::new();
    let mut alice = Walker::new(&lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&lab, "bob", &[1.0, 0.0]).await;
    bob.hear().await;
    let bad: [&[f64]; 6] = [
        &[f64::NAN, 0.0],
        &[0.0, f64::INFINITY],
        &[f64::NEG_INFINITY, 0.0],
        &[1e13, 0.0],
        &[0.0],
        &[0.0, 0.0, 0.0],
    ];
    for at in bad {
        alice.go(at);
    }
    let mut report = alice.report(&[1.0, 1.0]);
    report.payload = vec![0; 49].into();
    alice.tell(Some(report));
    let mut report = alice.report(&[1.0, 1.0]);
    (report.own, report.class) = (1, 9);
    alice.tell(Some(report));
    alice.hear().await;
    assert_eq!(alice.refusals, [ErrorCode::BadReport; 8]);
    assert_eq!(bob.hear().await, [], "nothing else is disturbed");
    assert_eq!(bob.place_of(&alice), [0.0; 3]);

    let reasons = lab.services.stats().fields.refused;
    let counts: Vec<_> = reasons.values().copied().collect();
    assert_eq!(
        (reasons.len(), counts.iter().sum::<u64>()),
        (3, 8),
        "{reasons:?}"
    );

    let mut carol = lab.device("carol").await;
    let good = v1::EnterField {
        dimensions: 2,
        report: Some(v1::FieldReport {
            sequence: 1,
            position: vec![0.0, 0.0],
            ..v1::FieldReport::default()
        }),
        ..v1::EnterField::default()
    };
    let absurd = |range| v1::EnterField {
        range,
        ..good.clone()
    };
    for range in [f64::NAN, -1.0, f64::INFINITY, 1e300] {
        let refused = enter(&mut carol, absurd(range)).await;
        assert_eq!(refused, Err(ErrorCode::BadReport), "{range}");
    }
    let changed = |change: fn(&mut v1::EnterField)| {
        let mut wanted = good.clone();
        change(&mut wanted);
        wanted
    };
    let wanted = [
        (changed(|wanted| wanted.class = 1), ErrorCode::BadReport),
        (
            changed(|wanted| wanted.class = 1 << 20),
            ErrorCode::BadReport,
        ),
        (changed(|wanted| wanted.budget = 100), ErrorCode::BadReport),
        (
            changed(|wanted| wanted.budget = 1 << 30),
            ErrorCode::BadReport,
        ),
        (
            changed(|wanted| wanted.dimensions = 4),
            ErrorCode::BadReport,
        ),
        (
            changed(|wanted| wanted.known = vec![0; 13].into()),
            ErrorCode::BadFrame,
        ),
        (
            changed(|wanted| wanted.known = vec![0; 12 * 8001].into()),
            ErrorCode::BadFrame,
        ),
        (changed(|wanted| wanted.report = None), ErrorCode::BadFrame),
    ];
    for (wanted, code) in wanted {
        assert_eq!(
            enter(&mut carol, wanted.clone()).await,
            Err(code),
            "{wanted:?}"
        );
    }
    assert_eq!(bob.hear().await, [], "who was refused is not there");
    assert!(enter(&mut carol, good).await.is_ok());
    assert_eq!(refused(&lab), 8 + 4 + 8);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_first_decides_for_nobody_how_many_dimensions_a_field_has() {
    let lab = Lab::new();
    let mut mallory = Walker::new(&lab, "mallory", &[0.0; 3]).await;
    let mut alice = Walker::new(&lab, "alice", &[0.0; 2]).await;
    let mut bob = Walker::new(&lab, "bob", &[1.0, 0.0]).await;
    bob.hear().await;
    assert_eq!(bob.place_of(&alice), [0.0; 3]);
    assert_eq!(mallory.hear().await, [], "it is in another field");
    // Things of servers go from wherever they are.
    let field = FieldId::parse("plaza").unwrap();
    let there = FieldThing {
        position: vec![0.0; 3],
        ..chest([2.0, 0.0], Duration::from_secs(60))
    };
    lab.services.put_into_field(&field, there).await.unwrap();
    assert_ne!(mallory.hear().await, []);
    assert_eq!(alice.hear().await.len(), 1, "bob");
    lab.services.take_from_field(&field, "chest").await.unwrap();
    assert_ne!(mallory.hear().await, []);
    // Who turns to the other one leaves the first.
    bob.enter(&[0.0; 3]).await.unwrap();
    assert_ne!(alice.hear().await, []);

    let lab = Lab::with(|config| config.fields.dimensions = Some(FieldDimensions::Two));
    let mut alice = Walker::new(&lab, "alice", &[0.0; 2]).await;
    assert_eq!(alice.enter(&[0.0; 3]).await, Err(ErrorCode::BadReport));
    assert_eq!(refused(&lab), 1);
}

#[tokio::test(start_paused = true)]
async fn reports_have_a_rate_and_what_devices_put_there_a_limit() {
    let lab = Lab::with(|config| {
        config.fields.own_max = 2;
    });
    let mut alice = Walker::new(&lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&lab, "bob", &[1.0, 0.0]).await;
    for own in 1..=3 {
        let mut report = alice.report(&[f64::from(own), 0.0]);
        report.own = own;
        alice.tell(Some(report));
    }
    alice.hear().await;
    assert_eq!(alice.refusals, [ErrorCode::Limit]);
    bob.hear().await;
    assert_eq!(bob.seen().len(), 3, "alice and two things");
    let remove = field_request::Kind::Remove(v1::RemoveEntity { own: 2 });
    alice.ask(remove).await.unwrap();
    assert!(matches!(bob.hear().await[..], [Change::Left(_)]));

    alice.refusals.clear();
    for _ in 0..1000 {
        alice.go(&[0.0, 0.0]);
    }
    alice.hear().await;
    let limited = &lab.services.stats().fields.refused;
    let limited = limited["too many reports at once"];
    assert!((400..600).contains(&limited), "{limited}");
    // What it has put there goes with it.
    let leave = field_request::Kind::Leave(v1::LeaveField {});
    alice.ask(leave).await.unwrap();
    bob.hear().await;
    assert_eq!(bob.seen(), []);
}

#[tokio::test(start_paused = true)]
async fn what_has_gone_by_itself_makes_room_for_what_else_a_device_puts_there() {
    let lab = Lab::with(|config| {
        config.fields.own_max = 2;
    });
    let mut alice = Walker::new(&lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&lab, "bob", &[1.0, 0.0]).await;
    let put = |alice: &mut Walker, own| {
        let mut report = alice.report(&[f64::from(own), 0.0]);
        report.own = own;
        alice.tell(Some(report));
    };
    put(&mut alice, 1);
    put(&mut alice, 2);
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        alice.go(&[0.0, 0.0]);
        bob.go(&[1.0, 0.0]);
        put(&mut alice, 2);
    }
    put(&mut alice, 3);
    alice.hear().await;
    assert_eq!(alice.refusals, [], "the first has gone");
    put(&mut alice, 4);
    alice.hear().await;
    assert_eq!(alice.refusals, [ErrorCode::Limit], "two are there");
    bob.hear().await;
    assert_eq!(bob.seen().len(), 3, "alice and two things");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_keeps_every_devices_budget() {
    let lab = Lab::with(|config| {
        config.fields.budget = 300;
    });
    let mut crowd = Vec::new();
    for number in 0..60 {
        let at = [f64::from(number), 0.0];
        crowd.push(Walker::new(&lab, &format!("user-{number}"), &at).await);
    }
    for round in 0..40 {
        for (number, walker) in crowd.iter_mut().enumerate() {
            walker.go(&[number as f64, f64::from(round)]);
        }
        for walker in &mut crowd {
            while walker.hear_one(Duration::ZERO).await.is_some() {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for walker in &crowd {
        assert!(walker.largest <= 300, "{}", walker.largest);
        assert_eq!(
            walker.seen().len(),
            59,
            "{} is told of all with time",
            walker.device.user
        );
    }
    assert!(lab.services.stats().fields.deferred > 0);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_wants_less_gets_less_and_others_no_less_for_it() {
    let lab = Lab::new();
    let mut crowd = Vec::new();
    for number in 0..40 {
        let at = [f64::from(number), 0.0];
        crowd.push(Walker::new(&lab, &format!("user-{number}"), &at).await);
    }
    let mut modest = Walker::outside(lab.device("modest").await);
    let wanted = v1::EnterField {
        dimensions: 2,
        budget: 256,
        report: Some(modest.report(&[20.0, 0.0])),
        ..v1::EnterField::default()
    };
    modest.seat = enter(&mut modest.device, wanted).await.unwrap().seat;
    crowd.push(modest);
    for round in 0..40 {
        for (number, walker) in crowd.iter_mut().enumerate() {
            walker.go(&[number as f64 % 40.0, f64::from(round)]);
        }
        for walker in &mut crowd {
            while walker.hear_one(Duration::ZERO).await.is_some() {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let modest = crowd.pop().unwrap();
    assert!((200..=256).contains(&modest.largest), "{}", modest.largest);
    assert_eq!(modest.seen().len(), 40, "it is told of all with time");
    for walker in &crowd {
        assert!(walker.largest > 600, "{}", walker.largest);
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_split_cells_otherwise_hear_each_other() {
    let local = tombolo_engine::Local::new(tombolo_engine::LocalConfig::default());
    let nodes = [start(&local, 0), start(&local, 1)];
    let split = Lab::on(Arc::new(local.clone()), |config| {
        config.node = tombolo_wire::NodeId::parse("node-9").unwrap();
        config.fields.settings.split_above = 2;
        config.fields.settings.classes = vec![FieldClass::seen_from(30.0)];
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut here = Vec::new();
    for number in 0..8 {
        let at = [10.0 + f64::from(number) / 8.0, 10.0];
        here.push(Walker::new(&split, &format!("here-{number}"), &at).await);
    }
    let mut there = Walker::new(&nodes[0].lab, "there", &[25.0, 10.0]).await;
    there.hear().await;
    assert_eq!(there.seen().len(), 8);
    for walker in &mut here {
        walker.hear().await;
        assert_eq!(walker.seen().len(), 8, "{}", walker.device.user);
    }
    there.go(&[9.0, 9.0]);
    let changes = here[7].hear().await;
    assert!(
        changes.contains(&Change::Updated(there.entity)),
        "{changes:?}"
    );
}

/// Teams by the lowest bit of the marks; whoever has the next is seen by its own team only.
struct Game;

impl Hooks for Game {
    fn authorize_field(&self, user: UserId, _: FieldId, _: u8) -> Marking {
        Box::pin(async move {
            match user.as_str() {
                "banned" => Err(tombolo_services::Reject {
                    code: ErrorCode::Banned,
                    message: "not here".into(),
                    nodes: Vec::new(),
                }),
                name => Ok(u64::from(name.starts_with("red")).into()),
            }
        })
    }

    fn sight(&self, _: &FieldId) -> Option<Box<dyn Sight + Send + Sync>> {
        Some(Box::new(|observer: &Subject, other: &Subject| {
            assert!(other.marks != 99, "the game has a fault");
            other.marks & 2 == 0 || observer.marks & 1 == other.marks & 1
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_game_hides_is_neither_sent_nor_to_be_met() {
    let game = |config: &mut tombolo_services::Config| config.hooks = HookSet::new(Game);
    let local = tombolo_engine::Local::new(tombolo_engine::LocalConfig::default());
    let labs = [0, 1].map(|number| {
        Lab::on(Arc::new(local.clone()), |config| {
            config.node = tombolo_wire::NodeId::parse(&format!("node-{number}")).unwrap();
            game(config);
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut red = Walker::new(&labs[0], "red", &[0.0, 0.0]).await;
    let mut mate = Walker::new(&labs[1], "red-mate", &[2.0, 0.0]).await;
    let mut blue = Walker::new(&labs[1], "blue", &[1.0, 0.0]).await;
    let mut banned = labs[0].device("banned").await;
    let wanted = v1::EnterField {
        dimensions: 2,
        report: Some(v1::FieldReport {
            position: vec![0.0; 2],
            sequence: 1,
            ..v1::FieldReport::default()
        }),
        ..v1::EnterField::default()
    };
    assert_eq!(enter(&mut banned, wanted).await, Err(ErrorCode::Banned));
    blue.hear().await;
    assert!(blue.seen().contains(&red.entity));

    // The game hides it.
    let (field, user) = (
        FieldId::parse("plaza").unwrap(),
        UserId::parse("red").unwrap(),
    );
    assert!(labs[0].services.mark(&field, &user, 3).await);
    assert_eq!(blue.hear().await, [Change::Left(red.entity)]);
    mate.hear().await;
    assert!(mate.seen().contains(&red.entity));
    let meet = || {
        field_request::Kind::Meet(v1::MeetEntity {
            entity: red.entity.0,
        })
    };
    assert_eq!(blue.ask(meet()).await.unwrap_err(), ErrorCode::NotSeen);
    match mate.ask(meet()).await {
        Ok(field_response::Result::Met(met)) => assert_eq!(met.user, "red"),
        other => panic!("{other:?}"),
    }

    // Nobody is seen of whom the game's code cannot tell.
    assert!(labs[0].services.mark(&field, &user, 99).await);
    assert_eq!(mate.hear().await, [Change::Left(red.entity)]);
    assert!(labs[1].services.stats().hooks_failed > 0);
    red.hear().await;
    assert!(red.seen().contains(&blue.entity));
}

#[tokio::test(start_paused = true)]
async fn devices_in_range_are_introduced_over_one_node_and_two() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[0].lab, "bob", &[1.0, 0.0]).await;
    let mut carol = Walker::new(&nodes[1].lab, "carol", &[2.0, 0.0]).await;
    let far = Walker::new(&nodes[1].lab, "far", &[900.0, 0.0]).await;
    for walker in [&mut alice, &mut bob, &mut carol] {
        walker.hear().await;
    }
    let introduction = |attempt| v1::Introduction {
        attempt,
        keys: None,
        ..v1::Introduction::default()
    };
    for (other, attempt) in [(&mut bob, 7), (&mut carol, 8)] {
        let meet = field_request::Kind::Meet(v1::MeetEntity {
            entity: other.entity.0,
        });
        let Ok(field_response::Result::Met(met)) = alice.ask(meet).await else {
            panic!("{} is met", other.device.user);
        };
        assert_eq!(met.user, other.device.user);
        assert_eq!(met.identity, other.device.keys.identity);
        alice.introduce(other.entity, introduction(attempt));
        other.hear().await;
        let introduced = other.introduced.pop().unwrap();
        assert_eq!(
            (introduced.from.as_str(), introduced.entity),
            ("alice", alice.entity.0)
        );
        assert_eq!(introduced.field, "plaza");
        let keys = introduced.introduction.unwrap().keys.unwrap();
        assert_eq!(keys, alice.device.keys, "the node says whose keys they are");
        // Though it sees alice no more, it may answer.
        other.go(&[5000.0, 0.0]);
        other.hear().await;
        assert!(!other.seen().contains(&alice.entity));
        other.introduce(alice.entity, introduction(9));
        alice.hear().await;
        assert_eq!(alice.introduced.pop().unwrap().from, other.device.user);
    }
    for (node, user) in [(0, "alice"), (0, "bob"), (1, "carol")] {
        let permits = nodes[node].lab.relay.permits.lock().unwrap();
        assert!(
            permits.iter().any(|(permitted, _)| permitted == user),
            "{user}"
        );
    }
    alice.introduce(far.entity, introduction(10));
    alice.introduce(EntityId(12345), introduction(11));
    let own = alice.entity;
    alice.introduce(own, introduction(12));
    alice.hear().await;
    assert_eq!(alice.refusals, [ErrorCode::NotSeen; 3]);
}

fn chest(at: [f64; 2], lasts: Duration) -> FieldThing {
    FieldThing {
        name: "chest".into(),
        class: 0,
        position: at.to_vec(),
        payload: "closed".into(),
        marks: 0,
        lasts,
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_of_a_thing_that_then_stands_still_is_told_though_a_batch_is_lost() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[0.0, 0.0]).await;
    let field = FieldId::parse("plaza").unwrap();
    let lasts = Duration::from_secs(60);
    let put = |payload: &'static str| {
        let chest = FieldThing {
            payload: payload.into(),
            ..chest([2.0, 0.0], lasts)
        };
        nodes[0].lab.services.put_into_field(&field, chest)
    };
    put("closed").await.unwrap();
    for walker in [&mut alice, &mut bob] {
        assert_eq!(walker.hear().await.len(), 2);
    }
    put("open").await.unwrap();
    for walker in [&mut alice, &mut bob] {
        let lost = walker.device.connection().next_outgoing();
        timeout(Duration::from_millis(100), lost).await.unwrap();
    }
    for walker in [&mut alice, &mut bob] {
        let changes = walker.hear_one(Duration::from_secs(4)).await.unwrap();
        let [Change::Updated(thing)] = changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(walker.mirror.find(thing).unwrap().payload, b"open");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_puts_there_stays_as_long_as_it_says_and_is_seen_over_all_nodes() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[10.0, 0.0]).await;
    alice.hear().await;
    bob.hear().await;
    let field = FieldId::parse("plaza").unwrap();
    let lasts = Duration::from_secs(60);
    let services = [&nodes[0].lab.services, &nodes[1].lab.services];
    let put = services[0].put_into_field(&field, chest([3.0, 0.0], lasts));
    let entity = put.await.unwrap();
    for walker in [&mut alice, &mut bob] {
        assert_eq!(walker.hear().await, [Change::Entered(entity)]);
    }
    // Its server says nothing for longer than a device may.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        alice.go(&[0.0, 0.0]);
        bob.go(&[10.0, 0.0]);
        assert!(
            alice
                .hear()
                .await
                .iter()
                .all(|change| *change != Change::Left(entity))
        );
        assert!(
            bob.hear()
                .await
                .iter()
                .all(|change| *change != Change::Left(entity))
        );
    }
    // Another node takes it over, and takes it away.
    let again = services[1].put_into_field(&field, chest([5.0, 0.0], lasts));
    assert_eq!(again.await, Ok(entity));
    for walker in [&mut alice, &mut bob] {
        assert!(walker.hear().await.contains(&Change::Updated(entity)));
        let position = walker.mirror.find(entity).unwrap().position;
        assert_eq!(position, [5.0, 0.0, 0.0]);
    }
    // The first node takes it away, though it is not there any more.
    services[0].take_from_field(&field, "chest").await.unwrap();
    for walker in [&mut alice, &mut bob] {
        assert!(walker.hear().await.contains(&Change::Left(entity)));
    }
    let refused = services[0].take_from_field(&field, "chest").await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::NoSuchThing);
    // What has lasted goes by itself.
    let second = chest([5.0, 0.0], Duration::from_secs(1));
    services[0].put_into_field(&field, second).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    alice.go(&[0.0, 0.0]);
    let changes = alice.hear().await;
    assert!(changes.ends_with(&[Change::Left(entity)]), "{changes:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_put_into_a_field_through_one_node_stays_in_that_of_other_dimensions_on_another() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[0.0; 3]).await;
    let field = FieldId::parse("plaza").unwrap();
    let flat = chest([3.0, 0.0], Duration::from_secs(60));
    let high = FieldThing {
        position: vec![0.0; 3],
        ..flat.clone()
    };
    let services = [&nodes[0].lab.services, &nodes[1].lab.services];
    let entity = services[0].put_into_field(&field, flat).await.unwrap();
    assert_eq!(alice.hear().await, [Change::Entered(entity)]);
    services[1].put_into_field(&field, high).await.unwrap();
    assert_eq!(bob.hear().await, [Change::Entered(entity)]);
    alice.go(&[0.0, 0.0]);
    assert_eq!(alice.hear().await, []);
}

/// Marks everybody who enters as it says just then; only those with the same marks see each other.
struct Turn(Arc<AtomicU64>);

impl Hooks for Turn {
    fn authorize_field(&self, _: UserId, _: FieldId, _: u8) -> Marking {
        let marks = self.0.load(Ordering::Relaxed);
        Box::pin(async move { Ok(marks.into()) })
    }

    fn sight(&self, _: &FieldId) -> Option<Box<dyn Sight + Send + Sync>> {
        Some(Box::new(|observer: &Subject, other: &Subject| {
            observer.marks == other.marks
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn who_enters_again_has_its_new_marks_though_it_says_nothing_new() {
    let marks = Arc::new(AtomicU64::new(1));
    let lab = Lab::with(|config| config.hooks = HookSet::new(Turn(Arc::clone(&marks))));
    let mut alice = Walker::new(&lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&lab, "bob", &[1.0, 0.0]).await;
    bob.hear().await;
    assert_eq!(bob.seen(), [alice.entity]);
    marks.store(2, Ordering::Relaxed);
    alice.sequence -= 1;
    alice.enter(&[0.0, 0.0]).await.unwrap();
    assert_eq!(bob.hear().await, [Change::Left(alice.entity)]);
    alice.hear().await;
    assert_eq!(alice.seen(), []);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_has_put_where_no_device_of_its_node_is_is_told_to_those_who_come_there() {
    let (nodes, _) = cluster::<2>().await;
    let services = &nodes[0].lab.services;
    let field = FieldId::parse("plaza").unwrap();
    let put = services.put_into_field(&field, chest([3.0, 0.0], Duration::from_secs(60)));
    let entity = put.await.unwrap();
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[5000.0, 0.0]).await;
    // Right behind the time at which it is said again.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    bob.go(&[10.0, 0.0]);
    assert!(comes(&mut bob, entity).await <= Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_away_and_put_again_at_once_is_there_over_other_nodes() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[1].lab, "bob", &[10.0, 0.0]).await;
    let own = |alice: &mut Walker, at: &[f64]| {
        let mut report = alice.report(at);
        report.own = 1;
        alice.tell(Some(report));
    };
    own(&mut alice, &[1.0, 0.0]);
    bob.hear().await;
    assert_eq!(bob.seen().len(), 2);
    for x in [2.0, -2.0] {
        // In one message with what has just been told of another one.
        alice.go(&[0.0, 0.0]);
        let remove = field_request::Kind::Remove(v1::RemoveEntity { own: 1 });
        assert!(alice.ask(remove).await.is_ok());
        own(&mut alice, &[x, 0.0]);
        bob.hear().await;
        assert_eq!(bob.seen().len(), 2, "at {x}");
        alice.hear().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_jumps_on_and_on_has_its_node_listen_anew_only_now_and_then() {
    let (nodes, _) = cluster::<1>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    alice.hear().await;
    let subscribed = || nodes[0].wire.subscribed.load(Ordering::Relaxed);
    let before = subscribed();
    alice.go(&[-1e6, 0.0]);
    alice.hear().await;
    let once = subscribed() - before;
    for jump in 1..=50 {
        alice.go(&[1e6 * f64::from(jump), 0.0]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // About ten times in a second, and not fifty.
    let often = subscribed() - before - once;
    assert!(often <= 25 * once, "{often} of {once}");
}

#[tokio::test(start_paused = true)]
async fn fields_in_which_nobody_is_make_way_for_others() {
    let lab = Lab::with(|config| config.fields.fields_max = 4);
    let thing = || chest([0.0, 0.0], Duration::from_secs(60));
    for number in 0..40 {
        let field = FieldId::parse(&format!("field-{number}")).unwrap();
        let put = lab.services.put_into_field(&field, thing()).await;
        assert!(put.is_ok(), "{number}: {put:?}");
        let taken = lab.services.take_from_field(&field, "chest").await;
        assert_eq!(taken, Ok(()));
        // Not before the next tick.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn servers_put_no_more_into_a_field_than_they_may_and_the_field_ends_when_that_has_lasted() {
    let lab = Lab::with(|config| config.fields.things_max = 2);
    let field = FieldId::parse("plaza").unwrap();
    let put = async |name: &str| {
        let thing = FieldThing {
            name: name.to_owned(),
            ..chest([0.0, 0.0], Duration::from_secs(5))
        };
        lab.services
            .put_into_field(&field, thing)
            .await
            .map_err(|reject| reject.code)
    };
    assert!(put("a").await.is_ok() && put("b").await.is_ok());
    assert_eq!(put("c").await, Err(ErrorCode::Limit));
    assert!(put("a").await.is_ok(), "it moves");
    assert_eq!(put("").await, Err(ErrorCode::BadFrame));
    assert_eq!(put(&"n".repeat(65)).await, Err(ErrorCode::BadFrame));
    assert_eq!(refused(&lab), 3);
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(lab.services.stats().fields.fields, 0);
}

#[tokio::test(start_paused = true)]
async fn a_thing_is_one_thing_over_all_nodes_though_they_do_not_hear_each_other_there() {
    let local = tombolo_engine::Local::new(tombolo_engine::LocalConfig::default());
    let node = |number: usize| {
        start_with(&local, number, |config| {
            if number == 1 {
                // Through this one it is put there later.
                config.unix_now = || UNIX_NOW + Duration::from_secs(10);
            }
        })
    };
    let nodes = [node(0), node(1), node(2)];
    tokio::time::sleep(Duration::from_secs(5)).await;
    let field = FieldId::parse("plaza").unwrap();
    let lasts = Duration::from_secs(3600);
    // No device looks where it is put first, so that no other node hears of that.
    let put = async |node: usize, x: f64| {
        let services = &nodes[node].lab.services;
        tokio::time::sleep(Duration::from_secs(1)).await;
        services
            .put_into_field(&field, chest([x, 0.0], lasts))
            .await
    };
    put(0, 0.0).await.unwrap();
    let entity = put(1, 5000.0).await.unwrap();
    let mut alice = Walker::new(&nodes[2].lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&nodes[2].lab, "bob", &[5000.0, 0.0]).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        alice.go(&[0.0, 0.0]);
        bob.go(&[5000.0, 0.0]);
        alice.hear().await;
        bob.hear().await;
        assert_eq!((alice.seen(), bob.seen()), (vec![], vec![entity]));
    }
    // Any node takes it away, unless one that may have it does not answer.
    nodes[0].wire.cut(true);
    let unsure = nodes[0].lab.services.take_from_field(&field, "chest").await;
    assert_eq!(unsure.unwrap_err().code, ErrorCode::Unavailable);
    nodes[0].wire.cut(false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    bob.go(&[5000.0, 0.0]);
    bob.hear().await;
    assert_eq!(bob.seen(), [entity]);
    let taken = nodes[0].lab.services.take_from_field(&field, "chest").await;
    assert_eq!(taken, Ok(()));
    bob.hear().await;
    assert_eq!(bob.seen(), []);
}
