//! What nodes tell each other of who is online, as it is on the bus.

use bytes::Bytes;
use prost::Message as _;
use tombolo_social::presence::{Beat, Changes, Counts, Roll, SHARDS, Shard, Status};
use tombolo_wire::{NodeId, UserId, v1};

use super::{counts_on_wire, status_on_wire};
use crate::cluster::generated::{self as wire, presence_frame};

/// What a node tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Changes(Changes),
    Roll(Roll),
    Ask(Shard),
    Beat(Beat),
}

/// What one node tells others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) from: NodeId,
    /// Which of its lives.
    pub(super) epoch: u64,
    pub(super) body: Body,
}

/// Bytes are no frame, or of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadFrame;

impl Frame {
    pub(super) fn encode(&self) -> Bytes {
        let body = match &self.body {
            Body::Changes(changes) => {
                let Changes {
                    shard,
                    number,
                    users,
                } = changes;
                presence_frame::Body::Changes(shard_on_wire(*shard, *number, users))
            }
            Body::Roll(Roll {
                shard,
                number,
                users,
            }) => presence_frame::Body::Roll(shard_on_wire(*shard, *number, users)),
            Body::Ask(shard) => presence_frame::Body::Ask(u32::from(shard.number())),
            Body::Beat(beat) => presence_frame::Body::Beat(wire::PresenceBeat {
                numbers: beat.numbers.clone(),
                counts: Some(counts_on_wire(beat.counts)),
            }),
        };
        let frame = wire::PresenceFrame {
            version: VERSION,
            from: self.from.to_string(),
            epoch: self.epoch,
            body: Some(body),
        };
        frame.encode_to_vec().into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        let frame = wire::PresenceFrame::decode(bytes).map_err(|_| BadFrame)?;
        if frame.version != VERSION || frame.epoch == 0 {
            return Err(BadFrame);
        }
        let body = match frame.body.ok_or(BadFrame)? {
            presence_frame::Body::Changes(changes) => Body::Changes(parse_shard(&changes)?),
            presence_frame::Body::Roll(roll) => {
                let Changes {
                    shard,
                    number,
                    users,
                } = parse_shard(&roll)?;
                Body::Roll(Roll {
                    shard,
                    number,
                    users,
                })
            }
            presence_frame::Body::Ask(shard) => Body::Ask(Shard::parse(shard).ok_or(BadFrame)?),
            presence_frame::Body::Beat(beat) if beat.numbers.len() == SHARDS => {
                let counts = beat.counts.unwrap_or_default();
                Body::Beat(Beat {
                    numbers: beat.numbers,
                    counts: Counts {
                        online: counts.online,
                        away: counts.away,
                    },
                })
            }
            presence_frame::Body::Beat(_) => return Err(BadFrame),
        };
        Ok(Self {
            from: NodeId::parse(&frame.from).map_err(|_| BadFrame)?,
            epoch: frame.epoch,
            body,
        })
    }
}

fn shard_on_wire(shard: Shard, number: u64, users: &[(UserId, Status)]) -> wire::PresenceOfShard {
    let users = users.iter();
    let users = users.map(|(user, status)| status_on_wire(user, *status));
    wire::PresenceOfShard {
        shard: u32::from(shard.number()),
        number,
        users: users.collect(),
    }
}

fn parse_shard(told: &wire::PresenceOfShard) -> Result<Changes, BadFrame> {
    let users: Result<_, _> = told.users.iter().map(parse_status).collect();
    Ok(Changes {
        shard: Shard::parse(told.shard).ok_or(BadFrame)?,
        number: told.number,
        users: users?,
    })
}

fn parse_status(status: &v1::UserStatus) -> Result<(UserId, Status), BadFrame> {
    let user = UserId::parse(&status.user).map_err(|_| BadFrame)?;
    let status = match status.presence() {
        v1::Presence::Offline => Status::Offline,
        v1::Presence::Away => Status::Away,
        v1::Presence::Online => Status::Online,
        v1::Presence::Unspecified => return Err(BadFrame),
    };
    Ok((user, status))
}

/// Of what nodes tell each other of who is online.
const VERSION: u32 = 1;

#[cfg(test)]
mod kept {
    //! What nodes of the release before say of who is online.

    use super::tests::frames;
    use super::*;

    #[test]
    fn frames_of_the_release_before_say_the_same() {
        let names = ["changes", "roll", "ask", "beat"];
        for (name, frame) in names.into_iter().zip(frames()) {
            let now = wire::PresenceFrame::decode(frame.encode()).expect("a frame");
            let read = |bytes: &[u8]| Frame::decode(bytes).ok();
            crate::before::check(&format!("presence.{name}"), &now, read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn frames() -> Vec<Frame> {
        let user = UserId::parse("bob").expect("a name");
        let shard = Shard::of(&user);
        let users = vec![(user, Status::Away)];
        let bodies = [
            Body::Changes(Changes {
                shard,
                number: 7,
                users: users.clone(),
            }),
            Body::Roll(Roll {
                shard,
                number: 0,
                users,
            }),
            Body::Ask(shard),
            Body::Beat(Beat {
                numbers: (0..SHARDS as u64).collect(),
                counts: Counts { online: 3, away: 1 },
            }),
        ];
        let frame = |body| Frame {
            from: NodeId::parse("node-1").expect("a name"),
            epoch: 9,
            body,
        };
        bodies.map(frame).into()
    }

    #[test]
    fn what_is_told_is_what_is_heard() {
        for frame in frames() {
            assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn what_is_cut_off_damaged_or_of_another_version_is_refused_or_something_else() {
        for frame in frames() {
            let bytes = frame.encode();
            for length in 0..bytes.len() {
                assert_ne!(Frame::decode(&bytes[..length]), Ok(frame.clone()));
            }
            for at in 0..bytes.len() {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 0x80;
                assert_ne!(Frame::decode(&damaged), Ok(frame.clone()));
            }
            let mut later = wire::PresenceFrame::decode(bytes).expect("a frame");
            later.version += 1;
            assert_eq!(Frame::decode(&later.encode_to_vec()), Err(BadFrame));
        }
    }
}
