//! Fields, as the SDK shows them.

use tombolo_client::{EntityId, ErrorCode, Field, FieldEvent, Lane, Neighbour, Peer};
use tombolo_node::{FieldClass, FieldConfig, Node, NodeBuilder};

use crate::lab::{device, node, node_with, recv, soon, user};
use crate::moves::nodes_with;

async fn event(field: &Field) -> FieldEvent {
    soon(field.next_event()).await.expect("the field goes on")
}

async fn entered(field: &Field) -> Neighbour {
    let told = event(field).await;
    let FieldEvent::Entered(neighbour) = told else {
        panic!("somebody comes, not {told:?}");
    };
    neighbour
}

/// Waits until a neighbour is at a place.
async fn reaches(field: &Field, entity: EntityId, place: [f64; 3]) {
    loop {
        let neighbours = field.neighbours();
        let found = neighbours.iter().find(|found| found.entity() == entity);
        if found.is_some_and(|found| found.position() == place) {
            return;
        }
        event(field).await;
    }
}

#[tokio::test]
async fn neighbours_see_each_other_move_and_are_linked() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let bob = device(&node, "bob").await;
    let field = alice
        .field("plaza")
        .enter([0.0, 0.0], "alice")
        .await
        .unwrap();
    let twice = alice
        .field("plaza")
        .enter([0.0, 0.0], "")
        .await
        .unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");
    let other = bob
        .field("plaza")
        .range(50.0)
        .enter([30.0, 0.0], "bob")
        .await;
    let other = other.unwrap();

    let neighbour = entered(&field).await;
    assert_eq!(neighbour.entity(), other.entity());
    assert_eq!((neighbour.payload(), neighbour.class()), (&b"bob"[..], 0));
    assert_eq!(neighbour.position(), [30.0, 0.0, 0.0]);
    assert_eq!(entered(&other).await.entity(), field.entity());
    other.update([31.0, 2.0], "walking").unwrap();
    reaches(&field, other.entity(), [31.0, 2.0, 0.0]).await;

    assert_eq!(soon(neighbour.user()).await.unwrap(), user("bob"));
    let to_bob = soon(neighbour.connect()).await.unwrap();
    to_bob.send(Lane::Reliable, "near").unwrap();
    let to_alice = loop {
        if let FieldEvent::Peer(peer) = event(&other).await {
            break peer;
        }
    };
    assert_eq!(*to_alice.user(), user("alice"));
    assert_eq!(recv(&to_alice).await.payload, "near");

    // Alice is further away than bob wants to see; links go on.
    field.update([31.0, 80.0], "").unwrap();
    while !matches!(event(&other).await, FieldEvent::Left(left) if left == field.entity()) {}
    to_alice.send(Lane::Reliable, "still here").unwrap();
    assert_eq!(recv(&to_bob).await.payload, "still here");
    drop(other);
    while !matches!(event(&field).await, FieldEvent::Left(_)) {}
    let gone = soon(neighbour.user()).await.unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::NotSeen));
    field.leave().await.unwrap();
    node.shutdown().await;
}

#[tokio::test]
async fn a_device_may_want_to_be_told_less_but_not_next_to_nothing() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let enter = async |budget| {
        let field = alice.field("plaza").budget(budget);
        soon(field.enter([0.0, 0.0], "")).await.map(drop)
    };
    for budget in [100, u32::MAX] {
        let refused = enter(budget).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::BadReport), "{budget}");
    }
    enter(256).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_a_field_of_three_dimensions_is_another_one() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    for place in [[f64::NAN, 0.0], [0.0, f64::INFINITY], [1e13, 0.0]] {
        assert!(alice.field("plaza").enter(place, "").await.is_err());
    }
    let field = alice.field("plaza").enter([0.0, 0.0], "").await.unwrap();
    assert!(field.update([0.0, f64::NAN], "").is_err());
    assert!(field.update([0.0, 0.0], vec![0; 49]).is_err());
    assert!(field.update([0.0; 3], "").is_err());
    let bob = device(&node, "bob").await;
    let space = bob.field("plaza").enter([0.0; 3], "").await.unwrap();
    assert!(space.update([0.0; 2], "").is_err());
    space.leave().await.unwrap();
    let class = bob.field("plaza").class(7).enter([0.0; 2], "").await;
    assert_eq!(class.unwrap_err().code(), Some(ErrorCode::BadReport));

    // A refusal leaves the name free; and things are put there beside the device.
    let other = bob.field("plaza").enter([1.0, 0.0], "").await.unwrap();
    field.put(5, 0, [2.0, 0.0], "a thing").unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(entered(&other).await);
    }
    let thing = seen.iter().find(|found| found.payload() == b"a thing");
    let refused = soon(thing.unwrap().user()).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotSeen), "it is no device");
    field.remove(5).await.unwrap();
    let thing = thing.unwrap().entity();
    while !matches!(event(&other).await, FieldEvent::Left(left) if left == thing) {}
    node.shutdown().await;
}

fn linking(node: NodeBuilder) -> NodeBuilder {
    let mut config = FieldConfig::default();
    let class = FieldClass {
        linked_within: Some(20.0),
        ..FieldClass::seen_from(100.0)
    };
    config.settings.classes = vec![class];
    node.fields(config)
}

async fn linked(field: &Field) -> (EntityId, Peer) {
    loop {
        let told = event(field).await;
        if let FieldEvent::Linked(entity, peer) = told {
            return (entity, peer);
        }
        let is_else = matches!(told, FieldEvent::Peer(_) | FieldEvent::Unlinked(_));
        assert!(!is_else, "a link, not {told:?}");
    }
}

async fn unlinked(field: &Field) -> EntityId {
    loop {
        if let FieldEvent::Unlinked(entity) = event(field).await {
            return entity;
        }
    }
}

/// Two devices come near each other and go apart again, twice.
async fn near_and_far(one: &Node, other: &Node) {
    let (alice, bob) = (device(one, "alice").await, device(other, "bob").await);
    let alice = alice.field("plaza").enter([0.0, 0.0], "").await.unwrap();
    let bob = bob.field("plaza").enter([30.0, 0.0], "").await.unwrap();
    entered(&alice).await;
    entered(&bob).await;
    for _ in 0..2 {
        // Whether or not they would have been linked by now: they are not.
        bob.update([21.0, 0.0], "").unwrap();
        reaches(&alice, bob.entity(), [21.0, 0.0, 0.0]).await;
        assert!(alice.linked().is_empty() && bob.linked().is_empty());

        bob.update([15.0, 0.0], "").unwrap();
        let (bobs, to_bob) = linked(&alice).await;
        let (alices, to_alice) = linked(&bob).await;
        assert_eq!((bobs, alices), (bob.entity(), alice.entity()));
        assert_eq!(*to_bob.user(), user("bob"));
        assert_eq!(alice.linked(), [(bobs, to_bob.clone())]);
        to_bob.send(Lane::Reliable, "near").unwrap();
        assert_eq!(recv(&to_alice).await.payload, "near");

        // What the application holds goes on; when it holds nothing, the link ends.
        bob.update([60.0, 0.0], "").unwrap();
        assert_eq!(unlinked(&alice).await, bobs);
        assert_eq!(unlinked(&bob).await, alices);
        assert!(alice.linked().is_empty() && bob.linked().is_empty());
        to_alice.send(Lane::Reliable, "far").unwrap();
        assert_eq!(recv(&to_bob).await.payload, "far");
        drop(to_alice);
        soon(to_bob.closed()).await;
    }
}

#[tokio::test]
async fn devices_that_come_near_are_linked_by_the_field_and_parted_when_they_are_far() {
    let node = node_with(linking).await;
    near_and_far(&node, &node).await;
    node.shutdown().await;
}

#[tokio::test]
async fn devices_on_two_nodes_that_come_near_are_linked_by_the_field() {
    let [one, other] = nodes_with(linking).await;
    near_and_far(&one, &other).await;
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn an_application_says_how_near_its_device_is_linked_and_with_how_many() {
    let node = node().await;
    let mut others = Vec::new();
    for (name, x) in [("bob", 5.0), ("carol", 3.0), ("dave", 4.0)] {
        let other = device(&node, name).await;
        others.push(other.field("plaza").enter([x, 0.0], "").await.unwrap());
    }
    let alice = device(&node, "alice").await;
    let entering = alice.field("plaza").linked_within(10.0).links_max(2);
    let alice = entering.enter([0.0, 0.0], "").await.unwrap();
    let mut linked_with = Vec::new();
    while linked_with.len() < 2 {
        linked_with.push(linked(&alice).await.1.user().to_string());
    }
    linked_with.sort();
    assert_eq!(linked_with, ["carol", "dave"], "the nearest");
    // For the others it is a link that somebody has begun.
    for other in &others[1..] {
        while !matches!(event(other).await, FieldEvent::Peer(_)) {}
        assert!(other.linked().is_empty());
    }
    node.shutdown().await;
}
