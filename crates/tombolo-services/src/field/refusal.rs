//! Why something is refused in a field.

use tombolo_field::{PAYLOAD_MAX, Refused};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{FIELD_KNOWN_BYTES, FIELD_KNOWN_MAX};

use crate::field::things::{THING_LASTS_MAX, THING_NAME_BYTES_MAX};
use crate::reject::Reject;

/// Why something is refused in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a position is not finite, beyond 1e12, or has other dimensions than the field")]
    Position,
    #[error("a range is more than 0 and at most 1e9")]
    Range,
    #[error("there is no such class here")]
    Class,
    #[error("devices do not come in as that class")]
    ClassEntered,
    #[error("the device may put nothing of that class there")]
    ClassPut,
    #[error("a payload is at most {PAYLOAD_MAX} bytes long")]
    Payload,
    #[error("a batch is as long as the node has it or shorter, but at least 256 bytes")]
    Budget,
    #[error(
        "what is known is {FIELD_KNOWN_BYTES} bytes for each of at most {FIELD_KNOWN_MAX} entities"
    )]
    Known,
    #[error("a field has two or three dimensions, and here not those")]
    Dimensions,
    #[error("a later report has come already")]
    Late,
    #[error("too many reports at once")]
    Rate,
    #[error("the field is behind: try again later")]
    Behind,
    #[error("the field is full")]
    Full,
    #[error("the node has as many fields as it may")]
    TooManyFields,
    #[error("the session is in as many fields as it may")]
    TooManySeats,
    #[error("the device has put as much there as it may")]
    TooManyOwn,
    #[error("servers have put as much there as they may")]
    TooManyThings,
    #[error("no server has put that there")]
    NoSuchThing,
    #[error("the device is not in that field")]
    NotInField,
    #[error("the device sees no such device there")]
    NotSeen,
    #[error(
        "a thing has a name of 1 to {THING_NAME_BYTES_MAX} bytes, and lasts from 1 to {} s",
        THING_LASTS_MAX.as_secs()
    )]
    Thing,
    #[error("the request says something impossible")]
    Malformed,
}

impl Refusal {
    /// What the device is told.
    pub(super) fn into_reject(self) -> Reject {
        Reject::new(self.code(), self)
    }

    fn code(self) -> ErrorCode {
        match self {
            Self::Position
            | Self::Range
            | Self::Class
            | Self::ClassEntered
            | Self::ClassPut
            | Self::Payload
            | Self::Budget
            | Self::Dimensions
            | Self::Late => ErrorCode::BadReport,
            Self::Known | Self::Thing | Self::Malformed => ErrorCode::BadFrame,
            Self::Rate
            | Self::Behind
            | Self::TooManyFields
            | Self::TooManySeats
            | Self::TooManyOwn
            | Self::TooManyThings => ErrorCode::Limit,
            Self::NoSuchThing => ErrorCode::NoSuchThing,
            Self::Full => ErrorCode::FieldFull,
            Self::NotInField => ErrorCode::NotInField,
            Self::NotSeen => ErrorCode::NotSeen,
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Position => Self::Position,
            Refused::Class => Self::Class,
            Refused::Payload => Self::Payload,
            Refused::Late => Self::Late,
            Refused::Full => Self::Full,
            Refused::Budget => Self::Budget,
            Refused::Range => Self::Range,
            Refused::Knowledge => Self::Known,
            Refused::Unknown | _ => Self::NotInField,
        }
    }
}
