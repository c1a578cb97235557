//! What a bot is like.

use std::collections::BTreeMap;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_client::{MatchValue, Name, Player, UserId};

use super::scenario::Scenario;

/// Who a bot is: it follows from the seed and its number, so that it stays so, and others of its party know it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Character {
    pub(super) user: String,
    pub(super) attributes: BTreeMap<String, MatchValue>,
    /// The dearest first.
    pub(super) roles: Vec<String>,
    pub(super) tags: Vec<String>,
    pub(super) seeks: bool,
    pub(super) joins: bool,
    pub(super) walks: bool,
    /// Its connections break.
    pub(super) breaks: bool,
}

impl Character {
    /// Draws the bot of a number; its dice go on to decide what it does.
    pub(super) fn draw(scenario: &Scenario, number: u32) -> (Self, ChaCha8Rng) {
        let mut dice = ChaCha8Rng::seed_from_u64(scenario.seed);
        dice.set_stream(u64::from(number));
        let mut is_of = |share: Option<f64>| {
            let chance = dice.random::<f64>();
            share.is_some_and(|share| chance < share)
        };
        let mut character = Self {
            user: scenario.user(number),
            attributes: BTreeMap::new(),
            roles: Vec::new(),
            tags: Vec::new(),
            seeks: is_of(scenario.seek.as_ref().map(|seek| seek.share.0)),
            joins: is_of(scenario.rooms.as_ref().map(|rooms| rooms.share.0)),
            walks: is_of(scenario.field.as_ref().map(|walk| walk.share.0)),
            breaks: false,
        };
        if let Some(seek) = &scenario.seek {
            for (name, draw) in &seek.attributes {
                let value = draw.draw(&mut dice);
                character.attributes.insert(name.clone(), value);
            }
            let mut words = |draw: &Option<super::draw::Draw>| {
                let drawn = draw.as_ref().map(|draw| draw.words(&mut dice));
                drawn.unwrap_or_default()
            };
            character.roles = words(&seek.roles);
            character.tags = words(&seek.tags);
            // A party looks as one.
            let first = *scenario.party_of(number).start();
            if first != number {
                character.seeks = Self::draw(scenario, first).0.seeks;
            }
        }
        // Behind all else, which stays as it was for those of whom nothing breaks.
        if let Some(reconnect) = &scenario.reconnect {
            character.breaks = dice.random::<f64>() < reconnect.share.0;
        }
        (character, dice)
    }

    /// The bot as another of its party names it in a ticket.
    ///
    /// # Errors
    /// When its names can't be, which a checked scenario has none of.
    pub(super) fn player(&self) -> anyhow::Result<Player> {
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(name, value)| Ok((Name::parse(name)?, value.clone())));
        let roles = self.roles.iter().map(|role| Ok(Name::parse(role)?));
        Ok(Player {
            attributes: attributes.collect::<anyhow::Result<_>>()?,
            roles: roles.collect::<anyhow::Result<_>>()?,
            ..Player::new(UserId::parse(&self.user)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::{Seek, Share};
    use super::*;

    fn scenario() -> Scenario {
        Scenario {
            bots: 40,
            seek: Some(Seek {
                party: 2,
                roles: Some(
                    "some-of(2, healer, fighter, scout)"
                        .parse()
                        .expect("is right"),
                ),
                tags: Some("one-of(old, new)".parse().expect("is right")),
                share: Share(0.5),
                ..Seek::default()
            }),
            ..Scenario::default()
        }
    }

    #[test]
    fn a_bot_is_who_it_is_whoever_asks_and_a_party_looks_as_one() {
        let scenario = scenario();
        let all: Vec<_> = (1..=40)
            .map(|number| Character::draw(&scenario, number).0)
            .collect();
        for number in 1..=40 {
            assert_eq!(
                all[number as usize - 1],
                Character::draw(&scenario, number).0
            );
        }
        let parties = all.chunks(2);
        assert!(
            parties
                .clone()
                .all(|party| party[0].seeks == party[1].seeks)
        );
        let seek = parties.filter(|party| party[0].seeks).count();
        assert!(
            (3..=17).contains(&seek),
            "{seek} of 20 at a share of one half"
        );
        let is_spread =
            |key: fn(&Character) -> &Vec<String>| all.iter().any(|bot| key(bot) != key(&all[0]));
        assert!(is_spread(|bot| &bot.roles) && is_spread(|bot| &bot.tags));
        assert!(
            all.iter()
                .all(|bot| bot.roles.len() == 2 && bot.tags.len() == 1)
        );
        let dearest: std::collections::BTreeSet<_> = all.iter().map(|bot| &bot.roles[0]).collect();
        assert_eq!(dearest.len(), 3, "no role is dearer to all");
        assert_eq!(all[0].player().expect("is right").roles.len(), 2);
    }
}
