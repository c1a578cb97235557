//! Which groups a user has made, as it is kept among the values.

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::{GroupName, UserId};

use super::VERSION;
use super::generated as wire;

/// The groups that a user has made and that have not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MadeGroups {
    pub(crate) user: UserId,
    pub(crate) groups: Vec<MadeGroup>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MadeGroup {
    pub(crate) name: GroupName,
    /// When it was about to be made, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
}

impl MadeGroups {
    pub(crate) fn none(user: &UserId) -> Self {
        let user = user.clone();
        let groups = Vec::new();
        Self { user, groups }
    }

    pub(crate) fn has(&self, name: &GroupName) -> bool {
        self.groups.iter().any(|made| made.name == *name)
    }

    /// Adds a group, which is about to be made.
    pub(crate) fn add(&mut self, name: &GroupName, at_ms: u64) {
        self.remove(name);
        let name = name.clone();
        self.groups.push(MadeGroup { name, at_ms });
    }

    pub(crate) fn remove(&mut self, name: &GroupName) {
        self.groups.retain(|made| made.name != *name);
    }

    pub(crate) fn encode(&self) -> Bytes {
        let group = |made: &MadeGroup| wire::MadeGroup {
            name: made.name.to_string(),
            at_ms: made.at_ms,
        };
        wire::MadeGroups {
            version: VERSION,
            groups: self.groups.iter().map(group).collect(),
            user: self.user.to_string(),
        }
        .encode_to_vec()
        .into()
    }

    /// `None` of what another release has written that this one cannot read.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let made = wire::MadeGroups::decode(value).ok()?;
        (made.version == VERSION).then_some(())?;
        let group = |group: wire::MadeGroup| {
            let name = GroupName::parse(&group.name).ok()?;
            let at_ms = group.at_ms;
            Some(MadeGroup { name, at_ms })
        };
        Some(Self {
            user: UserId::parse(&made.user).ok()?,
            groups: made.groups.into_iter().map(group).collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_a_user_are_the_same_as_in_the_release_before() {
        let made = wire::MadeGroups {
            version: VERSION,
            groups: vec![wire::MadeGroup {
                name: "guild".into(),
                at_ms: 1_793_000_000_000,
            }],
            user: "alice".into(),
        };
        crate::before::check("groups-made", &made, MadeGroups::decode);
    }

    #[test]
    fn groups_are_read_as_written_and_a_cut_value_never_panics() {
        let mut made = MadeGroups::none(&UserId::parse("alice").unwrap());
        for (at_ms, name) in ["guild", "party", "guild"].into_iter().enumerate() {
            made.add(&GroupName::parse(name).unwrap(), at_ms as u64);
        }
        assert_eq!(made.groups.len(), 2);
        let bytes = made.encode();
        assert_eq!(MadeGroups::decode(&bytes), Some(made));
        for end in 0..bytes.len() {
            let _ = MadeGroups::decode(&bytes[..end]);
        }
        let later = wire::MadeGroups {
            version: VERSION + 1,
            groups: Vec::new(),
            user: "alice".into(),
        };
        assert_eq!(MadeGroups::decode(&later.encode_to_vec()), None);
    }
}
