//! One bot: connects, and does what the scenario says until it is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Duration, MissedTickBehavior, interval, sleep, timeout};
use tombolo_client::{
    Audience, Device, Error, FieldEvent, Room, RoomEvent, RoomOptions, Ticket, TicketBuilder,
    TicketEvent,
};

use super::character::Character;
use super::draw::gap;
use super::pulse::{Pulse, STAMP_BYTES};
use super::scenario::{Rooms, Scenario, Seconds, Seek, Walk};
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
struct Bot {
    run: Arc<Run>,
    number: u32,
    character: Character,
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
            () = ended => {}
        }
    }

    /// Goes from room to room: by matches, by names, or by both in turn.
    async fn meet(&self, device: &Device, dice: &mut ChaCha8Rng) {
        let scenario = &self.run.scenario;
        while device.ended().is_none() {
            if let Some(seek) = scenario.seek.as_ref().filter(|_| self.character.seeks) {
                let room = self.seek(device, seek, dice).await;
                self.stay(room, seek.stay, dice).await;
            }
            if let Some(rooms) = scenario.rooms.as_ref().filter(|_| self.character.joins) {
                let room = self.join(device, rooms, dice).await;
                self.stay(room, rooms.stay, dice).await;
            }
        }
    }

    /// Hands in a ticket and waits for its match.
    async fn seek(&self, device: &Device, seek: &Seek, dice: &mut ChaCha8Rng) -> Option<Room> {
        // The party's room is left with the end of its ticket, so that it comes together anew for the next.
        let (ticket, _party) = match seek.party {
            ..=1 => (self.submit(self.ticket(device, seek)).await?, None),
            _ => {
                let (ticket, party) = self.look_together(device, seek).await?;
                (ticket, Some(party))
            }
        };
        // Bots meet in rooms only.
        let mut ticket = ticket.links_max(0);
        let tally = &self.run.tally;
        let since = Instant::now();
        tally.start(Operation::Match);
        let waits = async {
            loop {
                match ticket.next_event().await? {
                    TicketEvent::Proposed(proposal) => {
                        let answered = match dice.random::<f64>() < seek.accept.0 {
                            true => ticket.accept(proposal).await,
                            false => ticket.decline(proposal).await,
                        };
                        // Too late is what it is when the others were quicker to say no.
                        if let Err(error) = answered {
                            tracing::debug!(user = self.character.user, %error, "a ready check was over");
                        }
                    }
                    TicketEvent::Found(found) => return Ok(Ok(found.room)),
                    TicketEvent::Ended(reason) => return Ok(Err(reason)),
                    TicketEvent::Waits(_)
                    | TicketEvent::Accepted { .. }
                    | TicketEvent::Failed
                    | _ => {}
                }
            }
        };
        match timeout(seek.give_up.duration(), waits).await {
            Ok(Ok(Ok(room))) => {
                tally.done(Operation::Match, since);
                Some(room)
            }
            Ok(Ok(Err(reason))) => {
                let word = ENDS.iter().find(|word| **word == reason);
                self.failed(Operation::Match, word.copied().unwrap_or("ended"), &reason);
                None
            }
            Ok(Err(error)) => {
                self.failed(Operation::Match, &code(&error), &error.to_string());
                None
            }
            Err(_) => {
                self.failed(Operation::Match, "no_match", "no match in time");
                // Otherwise the next ticket might come before this one has gone.
                if let Err(error) = ticket.cancel().await {
                    tracing::debug!(user = self.character.user, %error, "a ticket was over");
                }
                None
            }
        }
    }

    /// A ticket of this bot alone, or of its party.
    fn ticket<'d>(&self, device: &'d Device, seek: &Seek) -> TicketBuilder<'d> {
        let mut ticket = device.matchmaker().ticket(&seek.pool).query(&seek.query);
        for (name, value) in &self.character.attributes {
            ticket = ticket.attribute(name, value.clone());
        }
        for role in &self.character.roles {
            ticket = ticket.role(role);
        }
        for tag in &self.character.tags {
            ticket = ticket.tag(tag);
        }
        ticket
    }

    async fn submit(&self, ticket: TicketBuilder<'_>) -> Option<Ticket> {
        self.run.tally.start(Operation::Submit);
        let since = Instant::now();
        self.ended(Operation::Submit, since, ticket.submit().await)
    }

    /// Comes together with its party, one of which hands in the ticket of all.
    async fn look_together(&self, device: &Device, seek: &Seek) -> Option<(Ticket, Room)> {
        let Run {
            scenario, tally, ..
        } = &*self.run;
        tally.start(Operation::Party);
        let since = Instant::now();
        let options = RoomOptions {
            members_max: seek.party,
            ..RoomOptions::default()
        };
        let name = scenario.party_room(self.number);
        let party = match device.rooms().join_or_create(&name, options).await {
            Ok(party) => party,
            Err(error) => {
                self.failed(Operation::Party, &code(&error), &error.to_string());
                return None;
            }
        };
        let Some(gathered) = gather(device, &party, seek.party).await else {
            self.failed(Operation::Party, "over", "the party's room is over");
            return None;
        };
        tally.done(Operation::Party, since);
        let ticket = match gathered {
            Gathered::Submitted(ticket) => *ticket,
            Gathered::All => {
                let others = scenario.party_of(self.number);
                let others = others.filter(|number| *number != self.number);
                let others = others.map(|number| Character::draw(scenario, number).0.player());
                let others: Vec<_> = match others.collect::<anyhow::Result<_>>() {
                    Ok(others) => others,
                    Err(error) => {
                        tally.start(Operation::Submit);
                        self.failed(Operation::Submit, "party", &format!("{error:#}"));
                        return None;
                    }
                };
                let ticket = self.ticket(device, seek).party(&party, others);
                self.submit(ticket).await?
            }
        };
        Some((ticket, party))
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
    async fn stay(&self, room: Option<Room>, stay: Seconds, dice: &mut ChaCha8Rng) {
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
    fn ended<T>(&self, what: Operation, since: Instant, result: Result<T, Error>) -> Option<T> {
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

    fn failed(&self, what: Operation, code: &str, reason: &str) {
        self.run.tally.failed(what, code);
        (self.run.failures)(&self.character.user, what, code, reason);
    }
}

/// How a party has come together.
enum Gathered {
    /// All are there, and this bot hands in their ticket.
    All,
    /// Another has handed it in.
    Submitted(Box<Ticket>),
}

/// Waits until a party is complete, and for its ticket, unless this device is to hand it in; `None` when it is over.
async fn gather(device: &Device, party: &Room, size: u32) -> Option<Gathered> {
    let (own, matchmaker) = (device.session().user, device.matchmaker());
    let is_to_submit = || {
        let is_own = party.read(|view| view.owner.as_ref() == Some(&own));
        is_own && party.members().len() == size as usize
    };
    while !is_to_submit() {
        tokio::select! {
            Some(ticket) = matchmaker.next_ticket() => return Some(Gathered::Submitted(Box::new(ticket))),
            event = party.next_event() => {
                event?;
            }
        }
    }
    Some(Gathered::All)
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

/// How tickets end without a match.
const ENDS: [&str; 5] = ["cancelled", "gone", "declined", "unanswered", "lost"];

/// A bot that was refused waits so long, and up to twice as long.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use tombolo_node::Node;

    use super::super::scenario::Positive;
    use super::*;

    #[tokio::test]
    async fn a_bot_that_is_put_out_of_its_partys_room_waits_for_nobody_there() {
        let node = Node::builder().dev().listen([127, 0, 0, 1].into());
        let node = node.port(0).turn_port(0).turns_port(0).start().await;
        let node = node.expect("a node");
        let url = node.ready().url.to_string();
        let device = async |user: &str| {
            let device = Device::builder(&url).development_user(user).connect();
            device.await.expect("a device")
        };
        let (alice, bob) = (device("alice").await, device("bob").await);
        let join = async |device: &Device| {
            let rooms = device.rooms();
            let party = rooms.join_or_create("party-1", RoomOptions::default());
            party.await.expect("the party's room")
        };
        let (of_alice, of_bob) = (join(&alice).await, join(&bob).await);
        let bobs_user = bob.session().user;
        let gathering = timeout(Duration::from_secs(30), gather(&bob, &of_bob, 3));
        let (gathered, kicked) = tokio::join!(gathering, of_alice.kick(&bobs_user));
        kicked.expect("alice owns the room");
        assert!(gathered.expect("it does not wait on").is_none());
    }

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
