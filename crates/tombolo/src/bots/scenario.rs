//! What bots do: read from a file, changed by flags, checked once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tombolo_client::{FieldId, Lane, MatchQuery, Name, RoomId, UserId};

use super::BotsArgs;
use super::draw::Draw;
use super::pulse::{CHAT_BYTES_MAX, STAMP_BYTES};
use crate::config_text;

/// A scenario: how many bots come how soon, and what each of them does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Scenario {
    /// Of these there are at the most.
    pub(super) bots: u32,
    /// New ones a second.
    pub(super) rate: Rate,
    pub(super) duration: Seconds,
    pub(super) seed: u64,
    /// Their users are `NAME-1`, `NAME-2`…
    pub(super) name: String,
    /// How long one is there before it goes and comes anew, on average; to the end without.
    pub(super) lifetime: Option<Seconds>,
    #[serde(rename = "match")]
    pub(super) seek: Option<Seek>,
    pub(super) rooms: Option<Rooms>,
    pub(super) chat: Option<Chat>,
    pub(super) field: Option<Walk>,
    pub(super) reconnect: Option<Reconnect>,
}

/// Bots submit tickets.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Seek {
    pub(super) pool: String,
    pub(super) attributes: BTreeMap<String, Draw>,
    /// Which a bot plays, the dearest first; any without.
    pub(super) roles: Option<Draw>,
    /// Of a bot's tickets.
    pub(super) tags: Option<Draw>,
    pub(super) query: String,
    /// How many bots look together: the first so many, the next so many…
    pub(super) party: u32,
    /// How long a ticket waits before it is cancelled.
    pub(super) give_up: Seconds,
    /// How long a bot stays in the match's room.
    pub(super) stay: Seconds,
    /// How many of the ready checks bots accept.
    pub(super) accept: Share,
    /// How many of the parties' tickets are changed while they wait.
    pub(super) change: Share,
    /// Of how many matches the owner of the room asks for more users, for as long as it stays.
    pub(super) backfill: Share,
    /// How many of the bots do this.
    pub(super) share: Share,
}

/// Bots join rooms, which are made when they are not there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Rooms {
    /// They are `NAME-room-1`, `NAME-room-2`…
    pub(super) count: u32,
    pub(super) seats: u32,
    pub(super) stay: Seconds,
    pub(super) share: Share,
}

/// Bots talk in the rooms in which they are, of matches too.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Chat {
    /// Between two plain messages of a bot.
    pub(super) every: Option<Seconds>,
    pub(super) lane: ChatLane,
    /// Between two durable ones.
    pub(super) durable_every: Option<Seconds>,
    /// Of a message.
    pub(super) bytes: usize,
}

/// Bots walk in a field.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Walk {
    pub(super) id: String,
    /// They stay in a square with sides of this length.
    pub(super) side: Positive,
    /// In units a second.
    pub(super) speed: Positive,
    /// How far they see; as far as anything is seen without.
    pub(super) range: Option<Positive>,
    /// Between two reports.
    pub(super) every: Seconds,
    pub(super) share: Share,
}

/// Bots' connections with the node break.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Reconnect {
    /// Between two times, on average.
    pub(super) every: Seconds,
    pub(super) share: Share,
}

/// How plain messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ChatLane {
    /// In order, each message once
    Reliable,
    /// At most once, any order
    Unreliable,
}

impl ChatLane {
    pub(super) fn lane(self) -> Lane {
        match self {
            Self::Reliable => Lane::Reliable,
            Self::Unreliable => Lane::Unreliable,
        }
    }
}

/// A number within bounds, from a file or a flag.
macro_rules! bounded {
    ($name:ident, $doc:literal, $holds:expr, $wrong:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Deserialize)]
        #[serde(try_from = "f64")]
        pub(crate) struct $name(pub(super) f64);

        impl TryFrom<f64> for $name {
            type Error = &'static str;

            fn try_from(number: f64) -> Result<Self, &'static str> {
                let holds: fn(f64) -> bool = $holds;
                if holds(number) {
                    Ok(Self(number))
                } else {
                    Err($wrong)
                }
            }
        }

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, &'static str> {
                text.parse::<f64>().map_err(|_| "not a number")?.try_into()
            }
        }
    };
}

bounded!(
    Seconds,
    "A time in seconds.",
    |number| (0.001..=1e6).contains(&number),
    "a time is from 0.001 to 1000000 seconds"
);
bounded!(
    Share,
    "A part of all.",
    |number| (0.0..=1.0).contains(&number),
    "a share is from 0 to 1"
);
bounded!(
    Rate,
    "How many a second.",
    |number| (0.001..=10_000.0).contains(&number),
    "a rate is from 0.001 to 10000 a second"
);
bounded!(
    Positive,
    "A length or a speed.",
    |number| number > 0.0 && number <= 1e9,
    "must be more than 0, and at most 1000000000"
);

impl Seconds {
    pub(super) fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            bots: 10,
            rate: Rate(10.0),
            duration: Seconds(30.0),
            seed: 1,
            name: "bot".to_owned(),
            lifetime: None,
            seek: None,
            rooms: None,
            chat: None,
            field: None,
            reconnect: None,
        }
    }
}

impl Default for Seek {
    fn default() -> Self {
        Self {
            pool: String::new(),
            attributes: BTreeMap::new(),
            roles: None,
            tags: None,
            query: String::new(),
            party: 1,
            give_up: Seconds(30.0),
            stay: Seconds(1.0),
            accept: Share(1.0),
            change: Share(0.0),
            backfill: Share(0.0),
            share: Share(1.0),
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            count: 1,
            seats: 64,
            stay: Seconds(10.0),
            share: Share(1.0),
        }
    }
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            every: None,
            lane: ChatLane::Reliable,
            durable_every: None,
            bytes: 64,
        }
    }
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            id: String::new(),
            side: Positive(200.0),
            speed: Positive(1.5),
            range: None,
            every: Seconds(0.1),
            share: Share(1.0),
        }
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            every: Seconds(30.0),
            share: Share(1.0),
        }
    }
}

impl Scenario {
    /// Reads the file that the command line names, puts flags in place of what it says, and checks all of it.
    ///
    /// # Errors
    /// Names the file, the line and the key, and what is wrong there.
    pub(super) fn load(args: &BotsArgs) -> anyhow::Result<Self> {
        let (scenario, text) = match &args.scenario {
            None => (Self::default(), String::new()),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("{}: cannot read it", path.display()))?;
                let parsed = config_text::parse(&text);
                (parsed.with_context(|| path.display().to_string())?, text)
            }
        };
        let source = Source {
            path: args.scenario.as_deref(),
            text: &text,
        };
        scenario.with_flags(args).checked(&source)
    }

    fn with_flags(mut self, args: &BotsArgs) -> Self {
        fn replace<T: Clone>(value: &mut T, given: &Option<T>) {
            if let Some(given) = given {
                value.clone_from(given);
            }
        }
        replace(&mut self.bots, &args.bots);
        replace(&mut self.rate, &args.rate);
        replace(&mut self.duration, &args.duration);
        replace(&mut self.seed, &args.seed);
        replace(&mut self.name, &args.name);
        if args.lifetime.is_some() {
            self.lifetime = args.lifetime;
        }
        if args.pool.is_some() || !args.attribute.is_empty() || args.query.is_some() {
            let seek = self.seek.get_or_insert_default();
            replace(&mut seek.pool, &args.pool);
            replace(&mut seek.query, &args.query);
            seek.attributes.extend(args.attribute.iter().cloned());
        }
        if let Some(count) = args.rooms {
            self.rooms.get_or_insert_default().count = count;
        }
        if args.chat_every.is_some() || args.durable_every.is_some() || args.lane.is_some() {
            let chat = self.chat.get_or_insert_default();
            chat.every = args.chat_every.or(chat.every);
            chat.durable_every = args.durable_every.or(chat.durable_every);
            replace(&mut chat.lane, &args.lane);
        }
        if let Some(id) = &args.field {
            self.field.get_or_insert_default().id.clone_from(id);
        }
        self
    }

    fn checked(self, source: &Source<'_>) -> anyhow::Result<Self> {
        let within = |number: u32, max: u32, key: &[&str]| {
            let holds = (1..=max).contains(&number);
            anyhow::ensure!(holds, "{}: from 1 to {max}", source.place(key));
            Ok(())
        };
        within(self.bots, BOTS_MAX, &["bots"])?;
        UserId::parse(&self.user(self.bots)).with_context(|| source.place(&["name"]))?;
        anyhow::ensure!(
            self.seek.is_some() || self.rooms.is_some() || self.field.is_some(),
            "bots with nothing to do: say what by [match], [rooms] or [field] in a file (--scenario), or \
             by --pool, --rooms or --field"
        );
        if let Some(seek) = &self.seek {
            self.check_seek(seek, source)?;
        }
        if let Some(rooms) = &self.rooms {
            within(rooms.count, BOTS_MAX, &["rooms", "count"])?;
            within(rooms.seats, SEATS_MAX, &["rooms", "seats"])?;
            RoomId::parse(&self.room(rooms.count)).with_context(|| source.place(&["name"]))?;
        }
        if let Some(chat) = &self.chat {
            anyhow::ensure!(
                self.seek.is_some() || self.rooms.is_some(),
                "{}: there is no room to chat in without [match] or [rooms]",
                source.place(&["chat"])
            );
            anyhow::ensure!(
                chat.every.is_some() || chat.durable_every.is_some(),
                "{}: say `every` or `durable-every`, how often",
                source.place(&["chat"])
            );
            anyhow::ensure!(
                (STAMP_BYTES..=CHAT_BYTES_MAX).contains(&chat.bytes),
                "{}: from {STAMP_BYTES} to {CHAT_BYTES_MAX}",
                source.place(&["chat", "bytes"])
            );
        }
        if let Some(field) = &self.field {
            anyhow::ensure!(
                !field.id.is_empty(),
                "{}: it has no `id`",
                source.place(&["field"])
            );
            FieldId::parse(&field.id).with_context(|| source.place(&["field", "id"]))?;
        }
        Ok(self)
    }

    fn check_seek(&self, seek: &Seek, source: &Source<'_>) -> anyhow::Result<()> {
        let place = |key: &str| source.place(&["match", key]);
        anyhow::ensure!(
            !seek.pool.is_empty(),
            "{}: it is not said in which `pool`",
            source.place(&["match"])
        );
        Name::parse(&seek.pool).with_context(|| place("pool"))?;
        for name in seek.attributes.keys() {
            Name::parse(name).with_context(|| source.place(&["match", "attributes", name]))?;
        }
        MatchQuery::parse(&seek.query).with_context(|| place("query"))?;
        for (key, draw) in [("roles", &seek.roles), ("tags", &seek.tags)] {
            let Some(draw) = draw else {
                continue;
            };
            let words = draw.all_words();
            let words = words.with_context(|| {
                format!(
                    "{}: a name, one-of(NAME, …) or some-of(N, NAME, …)",
                    place(key)
                )
            })?;
            // Tags may be any texts.
            for role in words.iter().filter(|_| key == "roles") {
                Name::parse(role).with_context(|| place(key))?;
            }
        }
        anyhow::ensure!(
            (1..=PARTY_MAX).contains(&seek.party),
            "{}: from 1 to {PARTY_MAX}",
            place("party")
        );
        anyhow::ensure!(
            self.bots.is_multiple_of(seek.party),
            "{}: {} bots are no parties of {}",
            place("party"),
            self.bots,
            seek.party
        );
        if seek.party > 1 {
            let room = self.party_room(self.bots);
            RoomId::parse(&room).with_context(|| source.place(&["name"]))?;
        }
        Ok(())
    }

    /// Those with whom a bot looks for matches, itself included.
    pub(super) fn party_of(&self, number: u32) -> RangeInclusive<u32> {
        let size = self.seek.as_ref().map_or(1, |seek| seek.party.max(1));
        let first = (number - 1) / size * size + 1;
        first..=first + size - 1
    }

    /// Where the bot's party comes together.
    pub(super) fn party_room(&self, number: u32) -> String {
        format!("party-{}", self.user(*self.party_of(number).start()))
    }

    /// The user of a bot, of those that are counted from 1.
    pub(super) fn user(&self, number: u32) -> String {
        format!("{}-{number}", self.name)
    }

    pub(super) fn room(&self, number: u32) -> String {
        format!("{}-room-{number}", self.name)
    }
}

/// An attribute as a flag gives it.
pub(crate) fn attribute(text: &str) -> Result<(String, Draw), String> {
    let (name, draw) = text
        .split_once('=')
        .ok_or_else(|| "not NAME=VALUE".to_owned())?;
    let draw = draw.parse::<Draw>().map_err(|error| error.to_string())?;
    Ok((name.to_owned(), draw))
}

/// Where a scenario comes from, so that complaints can name the place.
struct Source<'a> {
    path: Option<&'a Path>,
    text: &'a str,
}

impl Source<'_> {
    /// How complaints name a key: as a line of the file, or else as it would be in one.
    fn place(&self, key: &[&str]) -> String {
        let name = key.join(".");
        match (self.path, config_text::line_of(self.text, key)) {
            (Some(path), Some(line)) => format!("{}: line {line}, {name}", path.display()),
            _ => name,
        }
    }
}

/// Each bot has sockets of its own, of which a process has not many more.
const BOTS_MAX: u32 = 10_000;

/// As many as a ticket takes.
const PARTY_MAX: u32 = 64;

/// More seats than a room can have are refused by the node in any case.
const SEATS_MAX: u32 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Scenario> {
        let scenario: Scenario = config_text::parse(text)?;
        let path = Some(Path::new("s.toml"));
        scenario.checked(&Source { path, text })
    }

    #[test]
    fn the_documented_scenario_is_right_and_says_every_key() {
        let docs = include_str!("../../../../docs/cli.md");
        let bots = docs.split("\n## bots\n").nth(1).expect("is documented");
        let example = bots.split("```toml\n").nth(1).expect("there is one");
        let example = example.split("```").next().expect("it ends");
        let scenario = read(example).expect("it is right");
        assert!(scenario.seek.is_some() && scenario.rooms.is_some());
        assert!(scenario.chat.is_some() && scenario.field.is_some());
        for table in ["", "[match]\n", "[rooms]\n", "[chat]\n", "[field]\n"] {
            // serde tells what it knows when it finds what it does not know.
            let complaint = read(&format!("{table}no-such-key = 1\n")).expect_err("is wrong");
            let complaint = complaint.to_string();
            let keys: Vec<_> = complaint.split('`').skip(3).step_by(2).collect();
            assert!(keys.len() > 1, "{table}: {complaint}");
            for key in keys {
                let is_there = example.contains(&format!("{key} = "))
                    || example.contains(&format!("[{key}]"))
                    || example.contains(&format!("[match.{key}]"));
                assert!(is_there, "{table}{key}");
            }
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_reason() {
        for (text, says) in [
            ("bots = 5\n", "nothing to do"),
            (
                "bots = 0\n[rooms]\n",
                "s.toml: line 1, bots: from 1 to 10000",
            ),
            ("rate = 0\n[rooms]\n", "line 1, rate: a rate is"),
            ("duration = nan\n[rooms]\n", "line 1, duration: a time is"),
            (
                "[match]\nshare = 0.5\n",
                "s.toml: line 1, match: it is not said in which `pool`",
            ),
            (
                "[match]\npool = \"p\"\nshare = 1.5\n",
                "line 3, match.share: a share",
            ),
            (
                "[match]\npool = \"p\"\nquery = \"+skill:>=\"\n",
                "s.toml: line 3, match.query",
            ),
            (
                "[match]\npool = \"p\"\n[match.attributes]\nskill = \"normal(1)\"\n",
                "line 4, match.attributes.skill: normal(MEAN",
            ),
            (
                "[match]\npool = \"p\"\nroles = \"normal(1, 2)\"\n",
                "s.toml: line 3, match.roles: a name, one-of(",
            ),
            (
                "[match]\npool = \"p\"\nroles = \"one-of(healer, no such role)\"\n",
                "s.toml: line 3, match.roles",
            ),
            (
                "[match]\npool = \"p\"\ntags = 5\n",
                "s.toml: line 3, match.tags: a name",
            ),
            (
                "[match]\npool = \"p\"\nparty = 65\n",
                "s.toml: line 3, match.party: from 1 to 64",
            ),
            (
                "bots = 5\n[match]\npool = \"p\"\nparty = 2\n",
                "s.toml: line 4, match.party: 5 bots are no parties of 2",
            ),
            ("[rooms]\nseets = 3\n", "did you mean `seats`"),
            ("[rooms]\n[chat]\n", "s.toml: line 2, chat: say `every`"),
            (
                "[rooms]\n[chat]\nevery = 1\nbytes = 3\n",
                "line 4, chat.bytes: from 16",
            ),
            (
                "[field]\nid = \"p\"\n[chat]\nevery = 1\n",
                "no room to chat in",
            ),
            ("[field]\nid = \"a b\"\n", "line 2, field.id"),
            ("name = \"a b\"\n[rooms]\n", "line 1, name"),
        ] {
            let wrong = format!("{:#}", read(text).expect_err(text));
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
    }
}
