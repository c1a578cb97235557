//! What devices say of users, in the words of the contract.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_wire::{UserId, v1};

use crate::ticket::{ATTRIBUTES_MAX, BLOCKS_MAX, Player, ROLES_MAX, Reach, TAGS, TicketError};
use crate::value::{ITEMS_MAX, Value, ValueError};
use crate::word::{Name, NameError};

/// Why something that a device says of a user is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlayerError {
    /// The user's name, or that of somebody whom it blocks.
    #[error(transparent)]
    User(#[from] tombolo_wire::NameError),
    /// The name of an attribute, a role or a key.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An attribute without a value.
    #[error("attribute {attribute} has no value")]
    Empty {
        /// Which.
        attribute: Name,
    },
    /// An attribute is there twice.
    #[error("attribute {attribute} is there twice")]
    Repeated {
        /// Which.
        attribute: Name,
    },
    /// A role is there twice.
    #[error("role {role} is there twice")]
    RepeatedRole {
        /// Which.
        role: Name,
    },
    /// An attribute by whose name queries see a ticket's tags.
    #[error("no attribute is called tags: queries see a ticket's tags by that name")]
    Tags,
    /// A limit of all tickets.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

impl Player {
    /// Checks what newcomers may not say. What is kept may have been said before that was refused, and is read.
    ///
    /// # Errors
    /// When an attribute is called `tags`, or a role is there twice.
    pub fn check(&self) -> Result<(), PlayerError> {
        if self.attributes.keys().any(|name| name.as_str() == TAGS) {
            return Err(PlayerError::Tags);
        }
        let mut roles = BTreeSet::new();
        match self.roles.iter().find(|role| !roles.insert(*role)) {
            Some(role) => Err(PlayerError::RepeatedRole { role: role.clone() }),
            None => Ok(()),
        }
    }

    /// Reads what a device says of a user; it is told nowhere.
    ///
    /// # Errors
    /// When it breaks a limit, or says something impossible.
    pub fn parse(player: v1::MatchPlayer) -> Result<Self, PlayerError> {
        let counts = [
            (player.attributes.len(), ATTRIBUTES_MAX, "attributes"),
            (player.roles.len(), ROLES_MAX, "roles"),
            (player.blocks.len(), BLOCKS_MAX, "blocked users"),
        ];
        for (count, max, what) in counts {
            if count > max {
                return Err(TicketError::TooMany { what }.into());
            }
        }
        let reach = Reach::from(player.reach());
        let mut attributes = BTreeMap::new();
        for said in player.attributes {
            let attribute = Name::parse(&said.name)?;
            let Some(value) = said.value else {
                return Err(PlayerError::Empty { attribute });
            };
            let value = parse_value(value).and_then(|value| {
                value.check()?;
                Ok(value)
            });
            let value = value.map_err(|error| match error {
                Fault::Name(error) => PlayerError::Name(error),
                Fault::Value(error) => {
                    let attribute = attribute.clone();
                    TicketError::Value { attribute, error }.into()
                }
            })?;
            if attributes.insert(attribute.clone(), value).is_some() {
                return Err(PlayerError::Repeated { attribute });
            }
        }
        let roles = player.roles.iter().map(|role| Name::parse(role));
        let blocks = player.blocks.iter().map(|user| UserId::parse(user));
        Ok(Self {
            attributes,
            roles: roles.collect::<Result<_, _>>()?,
            reach,
            blocks: blocks.collect::<Result<_, _>>()?,
            ..Self::new(UserId::parse(&player.user)?)
        })
    }
}

impl From<&Player> for v1::MatchPlayer {
    fn from(player: &Player) -> Self {
        let attributes = player.attributes.iter();
        Self {
            user: player.user.to_string(),
            attributes: attributes
                .map(|(name, value)| v1::MatchAttribute {
                    name: name.to_string(),
                    value: Some(value_on_wire(value)),
                })
                .collect(),
            roles: player.roles.iter().map(Name::to_string).collect(),
            reach: v1::MatchReach::from(player.reach).into(),
            blocks: player.blocks.iter().map(UserId::to_string).collect(),
        }
    }
}

impl From<v1::MatchReach> for Reach {
    fn from(reach: v1::MatchReach) -> Self {
        match reach {
            v1::MatchReach::Unspecified => Self::Unknown,
            v1::MatchReach::Open => Self::Open,
            v1::MatchReach::Restricted => Self::Restricted,
            v1::MatchReach::PortRestricted => Self::PortRestricted,
            v1::MatchReach::Symmetric => Self::Symmetric,
            v1::MatchReach::Relayed => Self::Relayed,
        }
    }
}

impl From<Reach> for v1::MatchReach {
    fn from(reach: Reach) -> Self {
        match reach {
            Reach::Unknown => Self::Unspecified,
            Reach::Open => Self::Open,
            Reach::Restricted => Self::Restricted,
            Reach::PortRestricted => Self::PortRestricted,
            Reach::Symmetric => Self::Symmetric,
            Reach::Relayed => Self::Relayed,
        }
    }
}

enum Fault {
    Name(NameError),
    Value(ValueError),
}

impl From<NameError> for Fault {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}

impl From<ValueError> for Fault {
    fn from(error: ValueError) -> Self {
        Self::Value(error)
    }
}

fn parse_value(value: v1::match_attribute::Value) -> Result<Value, Fault> {
    use v1::match_attribute::Value as On;

    Ok(match value {
        On::Text(text) => Value::Text(text),
        On::Number(number) => Value::Number(number),
        On::List(list) if list.texts.len() > ITEMS_MAX => return Err(ValueError::Items.into()),
        On::List(list) => Value::List(list.texts.into_iter().collect::<BTreeSet<_>>()),
        On::Map(map) if map.numbers.len() > ITEMS_MAX => return Err(ValueError::Items.into()),
        On::Map(map) => {
            let numbers = map.numbers.iter();
            let numbers = numbers.map(|number| Ok((Name::parse(&number.name)?, number.number)));
            Value::Map(numbers.collect::<Result<_, NameError>>()?)
        }
    })
}

fn value_on_wire(value: &Value) -> v1::match_attribute::Value {
    use v1::match_attribute::Value as On;

    match value {
        Value::Text(text) => On::Text(text.clone()),
        Value::Number(number) => On::Number(*number),
        Value::List(list) => On::List(v1::MatchTexts {
            texts: list.iter().cloned().collect(),
        }),
        Value::Map(map) => On::Map(v1::MatchNumbers {
            numbers: map
                .iter()
                .map(|(name, number)| v1::MatchNumber {
                    name: name.to_string(),
                    number: *number,
                })
                .collect(),
        }),
    }
}
