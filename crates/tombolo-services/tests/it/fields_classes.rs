//! Of which classes devices are in a field, and what they put there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tombolo_engine::{Local, LocalConfig};
use tombolo_field::EntityId;
use tombolo_services::{FieldClass, FieldClassUse, FieldPass, HookSet, Hooks, Marking};
use tombolo_wire::v1::{self, ErrorCode};
use tombolo_wire::{FieldId, UserId};

use crate::cluster::start_with;
use crate::lab::Lab;
use crate::walker::{Walker, enter};

/// Players, flags, bosses, and what everybody may be and put there.
fn lab(hooks: HookSet) -> Lab {
    Lab::with(|config| {
        let fields = &mut config.fields;
        fields.settings.classes = vec![FieldClass::seen_from(100.0); 5];
        fields.devices = vec![
            FieldClassUse::Enter,
            FieldClassUse::Put,
            FieldClassUse::None,
            FieldClassUse::Any,
        ];
        config.hooks = hooks.clone();
    })
}

/// Comes in as a class.
async fn comes_as(lab: &Lab, user: &str, class: u32) -> Result<Walker, ErrorCode> {
    comes_to(lab, user, class, &[0.0, 0.0]).await
}

/// The same, at a place.
async fn comes_to(lab: &Lab, user: &str, class: u32, at: &[f64]) -> Result<Walker, ErrorCode> {
    let mut walker = Walker::outside(lab.device(user).await);
    let wanted = v1::EnterField {
        dimensions: at.len() as u32,
        class,
        report: Some(walker.report(at)),
        ..v1::EnterField::default()
    };
    let entered = enter(&mut walker.device, wanted).await?;
    (walker.seat, walker.entity) = (entered.seat, EntityId(entered.entity));
    Ok(walker)
}

/// The classes of what gets there when a device puts something of each.
async fn puts(walker: &mut Walker) -> Vec<u8> {
    for class in 0..6 {
        let report = v1::FieldReport {
            own: 1 + class,
            class,
            ..walker.report(&[1.0, 0.0])
        };
        walker.tell(Some(report));
    }
    walker.hear().await;
    let mut classes: Vec<_> = walker.mirror.seen().map(|(_, seen)| seen.class).collect();
    classes.sort_unstable();
    classes
}

#[tokio::test(start_paused = true)]
async fn devices_are_and_put_there_what_the_node_lets_them() {
    for (class, expected) in [
        (0, Ok(vec![0, 1, 3])),
        (1, Err(ErrorCode::BadReport)),
        (2, Err(ErrorCode::BadReport)),
        (3, Ok(vec![1, 3])),
        // Of which nothing was said.
        (4, Ok(vec![1, 3, 4])),
    ] {
        let lab = lab(HookSet::default());
        let put = match comes_as(&lab, "alice", class).await {
            Ok(mut alice) => {
                let put = puts(&mut alice).await;
                let count = 6 - put.len();
                assert_eq!(alice.refusals, vec![ErrorCode::BadReport; count], "{class}");
                Ok(put)
            }
            Err(code) => Err(code),
        };
        assert_eq!(put, expected, "{class}");
        let refused = lab.services.stats().fields.refused;
        let reason = match &expected {
            Ok(_) => "the device may put nothing of that class there",
            Err(_) => "devices do not come in as that class",
        };
        let count = expected.map_or(1, |put| 6 - put.len() as u64);
        assert_eq!(refused, BTreeMap::from([(reason.to_owned(), count)]));
    }
}

/// Lets some put there what the node does not let them, and others nothing.
struct Game;

impl Hooks for Game {
    fn authorize_field(&self, user: UserId, _: FieldId, _: u8) -> Marking {
        let puts = match user.as_str() {
            "keeper" => Some(BTreeSet::from([2, 5])),
            "guest" => Some(BTreeSet::new()),
            _ => None,
        };
        Box::pin(async move { Ok(FieldPass { marks: 0, puts }) })
    }
}

#[tokio::test(start_paused = true)]
async fn the_game_says_what_a_device_puts_there_whatever_the_node_does() {
    for (user, expected) in [
        // There is no class 5.
        ("keeper", vec![2]),
        ("guest", vec![]),
        ("alice", vec![0, 1, 3]),
    ] {
        let lab = lab(HookSet::new(Game));
        let mut walker = comes_as(&lab, user, 0).await.unwrap();
        assert_eq!(puts(&mut walker).await, expected, "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn over_two_nodes_each_class_is_seen_from_its_range_in_space_up_to_its_ends() {
    let local = Local::new(LocalConfig::default());
    let node = |number| {
        start_with(&local, number, |config| {
            let classes = [20.0, 450.0].map(FieldClass::seen_from);
            config.fields.settings.classes = classes.into();
            // As in a node's file.
            config.fields.settings.cell = 450.0;
        })
    };
    let nodes = [node(0), node(1)];
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (number, corner) in [0.0, 1e12, -1e12].into_iter().enumerate() {
        // Away from the end.
        let along = if corner > 0.0 { -1.0 } else { 1.0 };
        let come = async |node: usize, name: &str, class: u32, away: f64| {
            let at = [corner, corner + along * away, corner];
            let user = format!("{name}-{number}");
            comes_to(&nodes[node].lab, &user, class, &at).await.unwrap()
        };
        let mut alice = come(0, "alice", 0, 0.0).await;
        let near = come(1, "near", 0, 19.0).await;
        let far = come(1, "far", 0, 21.0).await;
        let giant = come(1, "giant", 1, 440.0).await;
        let further = come(1, "further", 1, 460.0).await;
        alice.hear().await;
        let mut expected = [near.entity, giant.entity];
        expected.sort_unstable();
        assert_eq!(alice.seen(), expected, "at {corner}");
        drop((far, further));
    }
}
