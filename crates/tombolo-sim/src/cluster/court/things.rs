//! Objects that devices make, own, hand on, change and take away, and what an owner leaves to its successor.

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tombolo_wire::v1::{self, property_change, property_value, room_act};

use super::COURT;
use crate::cluster::deed::What;
use crate::cluster::device::{COUNT, Device};

/// A device does something with one of the objects that it knows, or makes one.
pub(super) fn act(device: &mut Device, other: &str, rng: &mut ChaCha12Rng) {
    let things = device.views.get(COURT).map(|view| &view.things);
    let count = things.map_or(0, |things| things.len());
    let nth = rng.random_range(0..count.max(1));
    let known = things.and_then(|things| things.keys().nth(nth).copied());
    let dice = rng.random_range(0..100);
    match (known, dice) {
        (None, _) | (Some(_), 0..20) if count < THINGS_MAX => make(device, rng),
        (Some(object), 20..40) => {
            // To another, to itself, or to nobody.
            let owner = match dice {
                20..26 => other,
                26..36 => device.name.as_str(),
                _ => "",
            };
            let owner = owner.to_owned();
            let what = What::Own(object, owner.clone());
            let own = v1::OwnObject { object, owner };
            device.begin(COURT, what, room_act::Kind::OwnObject(own));
        }
        (Some(object), 40..90) => {
            let change = v1::ChangeProperties {
                object,
                changes: vec![change(property_change::Operation::Add(1))],
                ..v1::ChangeProperties::default()
            };
            device.begin(COURT, What::Change(object), room_act::Kind::Change(change));
        }
        (Some(object), 90..) => {
            let delete = v1::DeleteObject { object };
            device.begin(
                COURT,
                What::Delete(object),
                room_act::Kind::DeleteObject(delete),
            );
        }
        (None | Some(_), _) => {}
    }
}

fn make(device: &mut Device, rng: &mut ChaCha12Rng) {
    let kind = format!("{}/{}", device.name, device.next_number());
    let takeovers = [
        v1::Takeover::Fixed,
        v1::Takeover::Given,
        v1::Takeover::Taken,
    ];
    let zero = v1::PropertyValue {
        kind: Some(property_value::Kind::Integer(0)),
    };
    let create = v1::CreateObject {
        kind: kind.clone(),
        takeover: takeovers[rng.random_range(0..takeovers.len())].into(),
        stays: rng.random(),
        group: 0,
        properties: vec![change(property_change::Operation::Set(zero))],
    };
    device.begin(
        COURT,
        What::Make(kind),
        room_act::Kind::CreateObject(create),
    );
}

fn change(operation: property_change::Operation) -> v1::PropertyChange {
    v1::PropertyChange {
        key: COUNT.to_owned(),
        operation: Some(operation),
        ..v1::PropertyChange::default()
    }
}

/// An owner leaves something else to its successor than before.
pub(super) fn keep_state(device: &mut Device) {
    let state = format!("{} {}", device.name, device.next_number());
    if let Some(view) = device.views.get_mut(COURT) {
        // From now on it does not know what is kept, until it is told again.
        view.state = None;
    }
    let keep = v1::KeepState {
        state: state.clone().into(),
    };
    device.begin(COURT, What::Keep(state), room_act::Kind::KeepState(keep));
}

/// Objects at a time, about.
const THINGS_MAX: usize = 6;
