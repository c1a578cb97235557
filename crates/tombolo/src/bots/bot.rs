//! One bot: connects, and does what the scenario says until it is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Duration, MissedTickBehavior, interval, sleep};
use tombolo_client::{Audience, Device, Error, FieldEvent, Room, RoomEvent, RoomOptions};

use super::character::Character;
use super::draw::gap;
use super::matching::Asked;
use super::pulse::{Pulse, STAMP_BYTES};
use super::scenario::{Reconnect, Rooms, Scenario, Seconds, Walk};
use super::tally::{Heard, Operation, Tally, code};
use crate::token::Mint;

/// What all bots of a run share.
pub(super) struct Run {
    pub(super) server: String,
    pub(super) scenario: Scenario,
    pub(super) tokens: Tokens,
    pub(super) tally: Tally,
    pub(super) pulse: Pulse,
    /// How many have a session now.
    pub(super) present: watch::Sender<u32>,
    pub(super) failures: Failures,
}

/// How bots prove who they are.
pub(super) enum Tokens {
    /// The node makes a token for anybody.
    Development,
    /// Made here, good for so long.
    Made(Box<Mint>, Duration),
}

/// Tells of failures, one by one.
pub(super) type Failures = Box<dyn Fn(&str, Operation, &str, &str) + Send + Sync>;

/// One of the bots of a run.
pub(super) struct Bot {
    pub(super) run: Arc<Run>,
    pub(super) number: u32,
    pub(super) character: Character,
}

/// Lives as the bot of that number, until the run is over.
pub(super) async fn live(run: Arc<Run>, number: u32, mut over: watch::Receiver<bool>) {
    let (character, mut dice) = Character::draw(&run.scenario, number);
    let bot = Bot {
        run,
        number,
        character,
    };
    loop {
        let Some(device) = bot.connect(&mut over).await else {
            // Not all at once when the node is away, and never without a pause.
            let pause = Duration::from_secs_f64(1.0 + dice.random::<f64>());
            tokio::select! {
                _ = over.wait_for(|over| *over) => return,
                () = sleep(pause) => continue,
            }
        };
        bot.run.present.send_modify(|present| *present += 1);
        let since = Instant::now();
        let tally = &bot.run.tally;
        tally.start(Operation::Session);
        let lifetime = bot.run.scenario.lifetime;
        let lifetime = lifetime.map(|mean| gap(1.0 / mean.0, &mut dice));
        tokio::select! {
            _ = over.wait_for(|over| *over) => tally.done(Operation::Session, since),
            () = at_most(lifetime) => tally.done(Operation::Session, since),
            () = bot.act(&device, &mut dice) => {
                let why = device.ended().unwrap_or("nothing is left to do").to_owned();
                bot.failed(Operation::Session, "ended", &why);
            }
        }
        bot.run.present.send_modify(|present| *present -= 1);
        device.close().await;
        if *over.borrow() {
            return;
        }
    }
}

impl Bot {
    async fn connect(&self, over: &mut watch::Receiver<bool>) -> Option<Device> {
        self.run.tally.start(Operation::Connect);
        let since = Instant::now();
        let builder = Device::builder(&self.run.server);
        let builder = match &self.run.tokens {
            Tokens::Development => builder.development_user(&self.character.user),
            Tokens::Made(mint, good) => match mint.token(&self.character.user, *good) {
                Ok(token) => builder.token(token),
                Err(error) => {
                    self.failed(Operation::Connect, "token", &format!("{error:#}"));
                    return None;
                }
            },
        };
        let connected = tokio::select! {
            _ = over.wait_for(|over| *over) => return None,
            connected = builder.connect() => connected,
        };
        self.ended(Operation::Connect, since, connected)
    }

    /// Does all that it does, beside each other; returns when the session is over.
    async fn act(&self, device: &Device, dice: &mut ChaCha8Rng) {
        let scenario = &self.run.scenario;
        let walk = scenario.field.as_ref().filter(|_| self.character.walks);
        let steps = ChaCha8Rng::seed_from_u64(dice.random());
        let reconnect = scenario.reconnect.as_ref();
        let reconnect = reconnect.filter(|_| self.character.breaks);
        let breaks =
            reconnect.map(|reconnect| (reconnect, ChaCha8Rng::seed_from_u64(dice.random())));
        let breaking = async {
            match breaks {
                Some((reconnect, breaks)) => self.reconnect(device, reconnect, breaks).await,
                None => std::future::pending().await,
            }
        };
        let walking = async {
            match walk {
                Some(walk) => self.walk(device, walk, steps).await,
                None => std::future::pending().await,
            }
        };
        let meeting = async {
            match self.character.seeks || self.character.joins {
                true => self.meet(device, dice).await,
                false => std::future::pending().await,
            }
        };
        // Of a bot that does nothing by its share the session counts, and its end.
        let ended = async {
            let mut session = device.watch_session();
            while device.ended().is_none() && session.changed().await.is_ok() {}
        };
        tokio::select! {
            () = walking => {}
            () = meeting => {}
            () = breaking => {}
            () = ended => {}
        }
    }

    /// Goes from room to room: by matches, by names, or by both in turn.
    async fn meet(&self, device: &Device, dice: &mut ChaCha8Rng) {
        let scenario = &self.run.scenario;
        while device.ended().is_none() {
            if let Some(seek) = scenario.seek.as_ref().filter(|_| self.character.seeks) {
                let found = self.seek(device, seek, dice).await;
                let asked = match &found {
                    Some(found) => self.ask_for_more(device, found, seek, dice).await,
                    None => None,
                };
                let room = found.map(|found| found.room);
                self.stay(room, asked, seek.stay, dice).await;
            }
            if let Some(rooms) = scenario.rooms.as_ref().filter(|_| self.character.joins) {
                let room = self.join(device, rooms, dice).await;
                self.stay(room, None, rooms.stay, dice).await;
            }
        }
    }

    async fn join(&self, device: &Device, rooms: &Rooms, dice: &mut ChaCha8Rng) -> Option<Room> {
        let name = self.run.scenario.room(dice.random_range(1..=rooms.count));
        let options = RoomOptions {
            members_max: rooms.seats,
            ..RoomOptions::default()
        };
        self.run.tally.start(Operation::Join);
        let since = Instant::now();
        let joined = device.rooms().join_or_create(&name, options).await;
        self.ended(Operation::Join, since, joined)
    }

    /// Stays in a room for a while, talks and listens, and leaves it. Without one it waits a moment.
    async fn stay(
        &self,
        room: Option<Room>,
        asked: Option<Asked>,
        stay: Seconds,
        dice: &mut ChaCha8Rng,
    ) {
        let Some(room) = room else {
            // So that a node that refuses is not asked again at once.
            sleep(REFUSED_PAUSE.mul_f64(1.0 + dice.random::<f64>())).await;
            return;
        };
        // Not all talk in step.
        let phase = dice.random::<f64>();
        tokio::select! {
            () = sleep(stay.duration()) => {}
            () = self.listen(&room) => return,
            () = self.chat(&room, phase) => {}
            () = self.say(&room, phase) => {}
            never = self.fill(asked) => match never {},
        }
        self.run.tally.start(Operation::Leave);
        let since = Instant::now();
        self.ended(Operation::Leave, since, room.leave().await);
    }

    /// Hears what the others say, until this bot is not in the room any more.
    async fn listen(&self, room: &Room) {
        while let Some(event) = room.next_event().await {
            let (what, payload) = if let RoomEvent::Message { payload, .. } = &event {
                (Heard::Chat, payload)
            } else if let RoomEvent::Said(said) = &event {
                (Heard::Say, &said.payload)
            } else {
                continue;
            };
            if let Some(since) = self.run.pulse.read(payload) {
                self.run.tally.heard(what, since);
            }
        }
    }

    async fn chat(&self, room: &Room, phase: f64) {
        let chat = self.run.scenario.chat.as_ref();
        let Some((chat, every)) = chat.and_then(|chat| Some((chat, chat.every?))) else {
            return std::future::pending().await;
        };
        sleep(every.duration().mul_f64(phase)).await;
        let mut ticks = steady(every);
        loop {
            ticks.tick().await;
            let since = Instant::now();
            let said = self.run.pulse.stamp(since, chat.bytes);
            self.run.tally.start(Operation::Chat);
            let sent = room.broadcast(chat.lane.lane(), said).await;
            if self.ended(Operation::Chat, since, sent).is_none() {
                sleep(REFUSED_PAUSE).await;
            }
        }
    }

    async fn say(&self, room: &Room, phase: f64) {
        let chat = self.run.scenario.chat.as_ref();
        let Some((chat, every)) = chat.and_then(|chat| Some((chat, chat.durable_every?))) else {
            return std::future::pending().await;
        };
        sleep(every.duration().mul_f64(phase)).await;
        let mut ticks = steady(every);
        loop {
            ticks.tick().await;
            let since = Instant::now();
            let said = self.run.pulse.stamp(since, chat.bytes);
            self.run.tally.start(Operation::Say);
            let kept = room.say(Audience::Others, said).await;
            if self.ended(Operation::Say, since, kept).is_none() {
                sleep(REFUSED_PAUSE).await;
            }
        }
    }

    /// Loses its connection now and then, and goes on over another one.
    async fn reconnect(&self, device: &Device, reconnect: &Reconnect, mut dice: ChaCha8Rng) {
        let mut session = device.watch_session();
        loop {
            let pause = gap(1.0 / reconnect.every.0, &mut dice);
            at_most(Some(pause)).await;
            session.mark_unchanged();
            let since = Instant::now();
            self.run.tally.start(Operation::Reconnect);
            device.break_connection();
            if session.changed().await.is_err() || device.ended().is_some() {
                return;
            }
            match device.session().resumed {
                true => self.run.tally.done(Operation::Reconnect, since),
                false => self.failed(
                    Operation::Reconnect,
                    "lost",
                    "the node had no session any more",
                ),
            }
        }
    }

    /// Walks from place to place in a field, and sees others walk.
    async fn walk(&self, device: &Device, walk: &Walk, mut dice: ChaCha8Rng) {
        let tally = &self.run.tally;
        let mut way = Way::new(walk, &mut dice);
        let mut builder = device.field(&walk.id);
        if let Some(range) = walk.range {
            builder = builder.range(range.0);
        }
        tally.start(Operation::Enter);
        let since = Instant::now();
        let said = self.run.pulse.stamp(since, STAMP_BYTES);
        let entered = builder.enter(way.at, said).await;
        let Some(field) = self.ended(Operation::Enter, since, entered) else {
            // It cannot be in the field; what else it does goes on.
            return std::future::pending().await;
        };
        let mut ticks = steady(walk.every);
        let mut heard = HashMap::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    way.step(walk.speed.0 * walk.every.0, &mut dice);
                    let since = Instant::now();
                    tally.start(Operation::Report);
                    let said = self.run.pulse.stamp(since, STAMP_BYTES);
                    self.ended(Operation::Report, since, field.update(way.at, said));
                }
                event = field.next_event() => match event {
                    Some(FieldEvent::Updated(neighbour)) => {
                        let Some(since) = self.run.pulse.read(neighbour.payload()) else {
                            continue;
                        };
                        // What is told again for safety has been heard already.
                        let last = heard.insert(neighbour.entity(), since);
                        if last.is_none_or(|last| since > last) {
                            tally.heard(Heard::Report, since);
                        }
                    }
                    Some(FieldEvent::Left(entity)) => {
                        heard.remove(&entity);
                    }
                    Some(FieldEvent::Refused(why)) => {
                        tally.start(Operation::Report);
                        self.failed(Operation::Report, "refused", &why);
                    }
                    Some(
                        FieldEvent::Entered(_)
                        | FieldEvent::Peer(_)
                        | FieldEvent::Lagged { .. }
                        | _,
                    ) => {}
                    None => return,
                },
            }
        }
    }

    /// Counts how something ended that has been started.
    pub(super) fn ended<T>(
        &self,
        what: Operation,
        since: Instant,
        result: Result<T, Error>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.run.tally.done(what, since);
                Some(value)
            }
            Err(error) => {
                self.failed(what, &code(&error), &error.to_string());
                None
            }
        }
    }

    pub(super) fn failed(&self, what: Operation, code: &str, reason: &str) {
        self.run.tally.failed(what, code);
        (self.run.failures)(&self.character.user, what, code, reason);
    }
}

/// From place to place in a square, straight on.
struct Way {
    side: f64,
    at: [f64; 2],
    to: [f64; 2],
}

impl Way {
    fn new(walk: &Walk, dice: &mut ChaCha8Rng) -> Self {
        let side = walk.side.0;
        let mut place = || [dice.random::<f64>() * side, dice.random::<f64>() * side];
        Self {
            side,
            at: place(),
            to: place(),
        }
    }

    fn step(&mut self, length: f64, dice: &mut ChaCha8Rng) {
        let [x, y] = [self.to[0] - self.at[0], self.to[1] - self.at[1]];
        let left = x.hypot(y);
        if left <= length {
            self.at = self.to;
            self.to = [0; 2].map(|_| dice.random::<f64>() * self.side);
            return;
        }
        self.at = [
            self.at[0] + x * length / left,
            self.at[1] + y * length / left,
        ];
    }
}

fn steady(every: Seconds) -> tokio::time::Interval {
    let mut ticks = interval(every.duration());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn at_most(seconds: Option<f64>) {
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// A bot that was refused waits so long, and up to twice as long.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::super::scenario::Positive;
    use super::*;

    #[test]
    fn a_way_stays_in_its_square_and_no_step_is_too_long() {
        let walk = Walk {
            side: Positive(10.0),
            ..Walk::default()
        };
        let mut dice = ChaCha8Rng::seed_from_u64(3);
        let mut way = Way::new(&walk, &mut dice);
        let first = way.at;
        for _ in 0..1000 {
            let before = way.at;
            way.step(1.5, &mut dice);
            let moved = (way.at[0] - before[0]).hypot(way.at[1] - before[1]);
            assert!(moved <= 1.5 + 1e-9);
            assert!(way.at.iter().all(|place| (0.0..=10.0).contains(place)));
        }
        assert!(way.at != first);
    }
}
