//! Things in a room that members own.

use tombolo_wire::UserId;

use crate::property::{Change, Properties};
use crate::word::{GroupId, PropertyKey};

/// The most objects of a room.
pub const OBJECTS_MAX: usize = 1024;

/// Of those, the most that belong to one member.
pub const OBJECTS_PER_MEMBER_MAX: usize = 256;

/// A thing in a room; all members, or those of its group, see it change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is, in the application's words.
    pub kind: PropertyKey,
    /// Who may change it; the room's owner while it has none.
    pub owner: Option<UserId>,
    /// Who may make it its own.
    pub takeover: Takeover,
    /// Whether it outlives its owner's membership.
    pub stays: bool,
    /// Who sees it; `None` for all.
    pub group: Option<GroupId>,
    /// What is known about it.
    pub properties: Properties,
}

/// An object that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPlan {
    /// See [`Object::kind`].
    pub kind: PropertyKey,
    /// See [`Object::takeover`].
    pub takeover: Takeover,
    /// See [`Object::stays`].
    pub stays: bool,
    /// See [`Object::group`].
    pub group: Option<GroupId>,
    /// Its first properties.
    pub properties: Vec<Change>,
}

/// Who may make an object its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Nobody: it stays with who made it.
    Fixed,
    /// Whoever its owner gives it to.
    Given,
    /// Whoever wants it.
    Taken,
}
