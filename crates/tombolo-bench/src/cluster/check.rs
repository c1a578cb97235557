//! Compares what was sent with what came, and with what the logs say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tombolo_engine::{Key, Log as _, Nats, NatsConfig, TailEvent};
use tombolo_room::{Entry, Event, Message, Room};

use super::bots::{Bot, Place, room_name};
use super::record::{Kind, Note, lock};

/// What is wrong, or not.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Verdict {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) received: u64,
    /// Sent and accepted, and never received by somebody who should have.
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
}

/// Looks at one kind of message, sender by sender and receiver by receiver.
pub(crate) fn deliveries(bots: &[Arc<Bot>], kind: Kind) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_room: BTreeMap<usize, Vec<&Arc<Bot>>> = BTreeMap::new();
    for bot in bots {
        by_room.entry(bot.room_index).or_default().push(bot);
    }
    for members in by_room.values() {
        for sender in members {
            let (sent, failed) = {
                let record = lock(&sender.record);
                let failed = record.failed.get(&kind).cloned().unwrap_or_default();
                (record.sent.get(&kind).copied().unwrap_or_default(), failed)
            };
            verdict.sent += sent;
            verdict.failed += failed.len() as u64;
            let number = u32::try_from(sender.index).unwrap_or(u32::MAX);
            for receiver in members.iter().filter(|bot| bot.index != sender.index) {
                let record = lock(&receiver.record);
                let stream = record.streams.get(&(kind, number)).cloned();
                let stream = stream.unwrap_or_default();
                verdict.received += stream.received;
                verdict.repeated += stream.repeated;
                verdict.reordered += stream.reordered;
                verdict.lost += stream.lost(sent, |number| !failed.contains(&number));
            }
        }
    }
    verdict
}

/// What an independent reader of the logs finds.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Kept {
    /// Durable messages in the logs.
    pub(crate) in_logs: u64,
    pub(crate) acknowledged: u64,
    /// Acknowledged, but not in the log, or not there with that number.
    pub(crate) lost: u64,
    /// Refused, and in the log nevertheless.
    pub(crate) refused_and_there: u64,
    /// Of which nobody knew whether they were kept, and those of them that are in the log.
    pub(crate) unsure: u64,
    pub(crate) unsure_and_there: u64,
    /// Acknowledged without their numbers.
    pub(crate) unnumbered: u64,
    pub(crate) repeated: u64,
    /// Of one sender, not in the order in which it sent them.
    pub(crate) reordered: u64,
    /// Rooms whose members are not just those devices, each once, and none dropped.
    pub(crate) rooms_with_ghosts: u64,
}

/// Reads the logs of all rooms, and compares.
pub(crate) async fn logs(bots: &[Arc<Bot>], urls: &[String], rooms: usize) -> anyhow::Result<Kept> {
    let reader = Nats::connect(NatsConfig::new(urls.to_vec()))
        .await
        .context("connect to read the logs")?;
    let mut kept = Kept::default();
    for index in 0..rooms {
        let members: Vec<_> = bots.iter().filter(|bot| bot.room_index == index).collect();
        let (room, said) = read(&reader, index).await?;
        let there: BTreeSet<_> = room.members().map(|(user, _)| user.clone()).collect();
        let here: BTreeSet<_> = members.iter().map(|bot| bot.user.clone()).collect();
        let dropped = room.members().filter(|(_, member)| !member.is_present());
        if there != here || dropped.count() > 0 {
            kept.rooms_with_ghosts += 1;
        }
        kept.in_logs += said.len() as u64;
        let mut seen = BTreeMap::new();
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for (number, note) in said {
            if seen.insert((note.bot, note.number), number).is_some() {
                kept.repeated += 1;
            }
            let before = last.insert(note.bot, note.number);
            if before.is_some_and(|before| before >= note.number) {
                kept.reordered += 1;
            }
        }
        for bot in members {
            let number = u32::try_from(bot.index).unwrap_or(u32::MAX);
            let record = lock(&bot.record);
            let is_there = |own: &&u64| seen.contains_key(&(number, **own));
            kept.refused_and_there += record.not_kept.iter().filter(is_there).count() as u64;
            kept.unsure += record.unsure.len() as u64;
            kept.unsure_and_there += record.unsure.iter().filter(is_there).count() as u64;
            for (own, of_room) in &record.kept {
                kept.acknowledged += 1;
                match seen.get(&(number, *own)) {
                    Some(there) if there == of_room => {}
                    // Its answer got lost, and that it was kept was found out later.
                    Some(_) if *of_room == 0 => kept.unnumbered += 1,
                    there => {
                        let name = room_name(index);
                        eprintln!("{name}: {number} {own} is {of_room}, and at {there:?}");
                        kept.lost += 1;
                    }
                }
            }
        }
    }
    Ok(kept)
}

/// A room as its log makes it, and all that was ever said there.
async fn read(reader: &Nats, index: usize) -> anyhow::Result<(Room, Vec<(u64, Note)>)> {
    let key = Key::new(["room", &room_name(index)]).context("the key of a room")?;
    let mut tail = reader.tail(&key, None).await.context("read a log")?;
    let mut room = Room::new();
    // A room that closed and was opened again counts from 1 again.
    let mut openings = Vec::new();
    let mut said = BTreeMap::new();
    while let Some(event) = tail.next().await {
        let messages: Vec<_> = match event {
            TailEvent::Entry { entry, .. } => {
                let entry = Entry::decode(&entry).context("an entry of a log")?;
                let events = room.apply(&entry).events.into_iter();
                events.filter_map(into_message).collect()
            }
            TailEvent::Snapshot { state, .. } => {
                room = Room::restore(&state).context("a snapshot of a log")?;
                room.messages().cloned().collect()
            }
            TailEvent::Reset | TailEvent::Retired { .. } => {
                room = Room::new();
                Vec::new()
            }
            TailEvent::Synced => break,
        };
        if room.opening() != openings.last().copied() {
            openings.extend(room.opening());
        }
        for message in messages {
            let place = (openings.len(), message.number);
            said.extend(Note::decode(&message.payload).map(|note| (place, note)));
        }
    }
    let said = said.into_iter().map(|((_, number), note)| (number, note));
    Ok((room, said.collect()))
}

fn into_message(event: Event) -> Option<Message> {
    if let Event::Said(message) = event {
        Some(message)
    } else {
        None
    }
}

/// How devices fared that had to go elsewhere.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Returns {
    /// Devices that were on the node.
    pub(crate) devices: usize,
    /// Of these, those that are on another node, in their rooms, with their seats.
    pub(crate) back: usize,
    /// Those that have not connected since.
    pub(crate) unconnected: usize,
    /// Those that have, and are not in their rooms.
    pub(crate) outside: usize,
    /// Those that are there, but not where they were.
    pub(crate) reseated: usize,
    pub(crate) resumed: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// Looks at the devices that were on a node, `places` being where all devices were before.
pub(crate) fn returns(bots: &[Arc<Bot>], node: &str, fault: Instant, places: &[Place]) -> Returns {
    let mut returns = Returns::default();
    let mut times = Vec::new();
    for (bot, was) in bots.iter().zip(places) {
        if was.node != node {
            continue;
        }
        returns.devices += 1;
        let record = lock(&bot.record);
        let after = record.connected.iter().find(|(when, ..)| *when > fault);
        let Some((when, _, is_resumed)) = after else {
            returns.unconnected += 1;
            continue;
        };
        let back = if *is_resumed {
            Some(*when)
        } else {
            record.synced.iter().copied().find(|synced| *synced > fault)
        };
        drop_in(&mut times, back, fault);
        returns.resumed += usize::from(*is_resumed);
        match (back, bot.note_seat()) {
            (Some(_), seat) if seat.is_some() && seat == was.seat => returns.back += 1,
            (Some(_), Some(_)) => returns.reseated += 1,
            _ => returns.outside += 1,
        }
    }
    returns.p50_ms = milliseconds(quantile(&mut times, 0.5));
    returns.p99_ms = milliseconds(quantile(&mut times, 0.99));
    returns.max_ms = milliseconds(quantile(&mut times, 1.0));
    returns
}

fn drop_in(times: &mut Vec<Duration>, back: Option<Instant>, fault: Instant) {
    times.extend(back.map(|back| back - fault));
}

/// The time that this part of all times does not exceed; zero of none.
pub(crate) fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let place = (last as f64 * part).ceil() as usize;
    times.get(place.min(last)).copied().unwrap_or_default()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
