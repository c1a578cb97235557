//! What rules hide in fields.

use std::sync::Arc;
use std::time::Duration;

use tombolo_field::Change;
use tombolo_services::{FieldSight, FieldThing};
use tombolo_wire::v1::{self, ErrorCode, field_request};
use tombolo_wire::{FieldId, NodeId, UserId};

use crate::lab::Lab;
use crate::walker::Walker;

/// The team is in the lowest four bits; whoever has this one hides from other teams.
const HIDES: u64 = 0x10;
/// Whoever has this one finds them.
const FINDS: u64 = 0x20;

fn labs() -> [Lab; 2] {
    let local = tombolo_engine::Local::new(tombolo_engine::LocalConfig::default());
    [0, 1].map(|number| {
        Lab::on(Arc::new(local.clone()), |config| {
            config.node = NodeId::parse(&format!("node-{number}")).unwrap();
            config.fields.sight = vec![FieldSight {
                of: HIDES,
                same: 0x0f,
                by: FINDS,
                ..FieldSight::default()
            }];
        })
    })
}

#[tokio::test(start_paused = true)]
async fn what_a_rule_hides_is_never_sent_over_one_node_and_two() {
    let labs = labs();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let field = FieldId::parse("plaza").unwrap();
    let mut red = Walker::new(&labs[0], "red", &[0.0, 0.0]).await;
    let mut mate = Walker::new(&labs[1], "mate", &[1.0, 0.0]).await;
    let mut near = Walker::new(&labs[0], "near", &[2.0, 0.0]).await;
    let mut far = Walker::new(&labs[1], "far", &[3.0, 0.0]).await;
    let mark = async |name: &str, marks| {
        let user = UserId::parse(name).unwrap();
        // Through the other node, half of them.
        labs[1].services.mark_in_field(&field, &user, marks).await
    };
    for (name, marks) in [("red", 1), ("mate", 1), ("near", 2), ("far", 2)] {
        mark(name, marks).await.unwrap();
    }
    for walker in [&mut mate, &mut near, &mut far] {
        walker.hear().await;
        assert!(walker.seen().contains(&red.entity));
    }

    mark("red", 1 | HIDES).await.unwrap();
    mate.hear().await;
    assert!(mate.seen().contains(&red.entity));
    for walker in [&mut near, &mut far] {
        assert_eq!(walker.hear().await, [Change::Left(red.entity)]);
    }
    for step in 1..5 {
        red.go(&[0.0, f64::from(step)]);
        assert!(mate.hear().await.contains(&Change::Updated(red.entity)));
        for walker in [&mut near, &mut far] {
            assert_eq!(walker.hear().await, [], "it is hidden");
        }
    }
    let entity = red.entity.0;
    for walker in [&mut near, &mut far] {
        let meet = field_request::Kind::Meet(v1::MeetEntity { entity });
        assert_eq!(walker.ask(meet).await.unwrap_err(), ErrorCode::NotSeen);
    }

    // One finds it, on either node; and to the others nothing happens.
    mark("far", 2 | FINDS).await.unwrap();
    assert_eq!(far.hear().await, [Change::Entered(red.entity)]);
    assert_eq!(near.hear().await, []);
    let nobody = mark("nobody", 1).await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::NoSuchThing);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_puts_there_is_hidden_by_its_marks_from_the_first_moment() {
    let labs = labs();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let field = FieldId::parse("plaza").unwrap();
    let mut alice = Walker::new(&labs[0], "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&labs[1], "bob", &[1.0, 0.0]).await;
    alice.hear().await;
    bob.hear().await;
    let chest = FieldThing {
        name: "chest".into(),
        class: 0,
        position: vec![2.0, 0.0],
        payload: "gold".into(),
        marks: 1 | HIDES,
        lasts: Duration::from_secs(60),
    };
    let chest = labs[0]
        .services
        .put_into_field(&field, chest)
        .await
        .unwrap();
    assert_eq!((alice.hear().await, bob.hear().await), (vec![], vec![]));
    let user = UserId::parse("bob").unwrap();
    let marked = labs[0].services.mark_in_field(&field, &user, 1);
    marked.await.unwrap();
    assert_eq!(bob.hear().await, [Change::Entered(chest)]);
    assert_eq!(alice.hear().await, []);
}
