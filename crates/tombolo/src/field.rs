//! `tombolo field`: a device that walks through a field, on the command line.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use tombolo_client::{Device, EntityId, Field, FieldEvent, Neighbour, Position};

use crate::cli::{Who, milliseconds, seconds};
use crate::output::{self, Style, json, line_of_text, printable};
use crate::peer::interrupted;

/// Be a device in a field: say where it is, and tell what is near
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tombolo field --server 'tombolo://192.0.2.1:8443?pin=…' --user alice \
    --field plaza --at 0,0 --walk 50,20"
)]
pub(crate) struct FieldArgs {
    /// The node's URL, as `tombolo serve` prints it
    #[arg(long, value_name = "URL")]
    server: String,
    #[command(flatten)]
    who: Who,
    /// Field to enter
    #[arg(long, value_name = "ID")]
    field: String,
    /// Where the device is; three coordinates are a field of three dimensions
    #[arg(long, value_name = "X,Y[,Z]", default_value = "0,0", value_parser = place,
        allow_hyphen_values = true)]
    at: Place,
    /// Walk from there to here and back
    #[arg(long, value_name = "X,Y[,Z]", value_parser = place, allow_hyphen_values = true)]
    walk: Option<Place>,
    /// Units per second when it walks
    #[arg(long, value_name = "N", default_value_t = 1.5, value_parser = positive)]
    speed: f64,
    /// Time between two reports of where it is
    #[arg(long, value_name = "MS", default_value = "100", value_parser = report_time)]
    every: Duration,
    /// How far it wants to see [default: as far as anything is seen]
    #[arg(long, value_name = "R", value_parser = positive)]
    range: Option<f64>,
    /// How much the node may tell it in a tick at most, from 256 on [default: as the node has it]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(256..))]
    budget: Option<u32>,
    /// What kind of entity it is, a number that the node's settings give a meaning
    #[arg(long, value_name = "N", default_value_t = 0)]
    class: u8,
    /// What it says of itself, up to 48 bytes
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = saying)]
    say: String,
    /// Put something else there, under a number of the device's own; repeat it for more
    #[arg(long, value_name = "N=X,Y[,Z]", value_parser = own)]
    put: Vec<(u32, Place)>,
    /// Take that away after so many seconds
    #[arg(long, value_name = "S", value_parser = seconds, requires = "put")]
    remove_after: Option<Duration>,
    /// Link with every device that comes into range
    #[arg(long)]
    connect: bool,
    /// Link with devices within this distance, and part when they are far; 0: with none [default: as the
    /// node has it]
    #[arg(long, value_name = "R", value_parser = not_negative)]
    linked_within: Option<f64>,
    /// With how many it begins links by itself at most, the nearest first
    #[arg(long, value_name = "N", default_value_t = 8)]
    links_max: usize,
    /// Tell every move of others, too
    #[arg(long)]
    moves: bool,
    /// End after so many seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    duration: Option<Duration>,
    /// Print events as JSON, one a line
    #[arg(long)]
    json: bool,
}

/// A node takes far fewer reports, so that a shorter time is a mistake.
const REPORT_TIME_MIN: Duration = Duration::from_millis(10);

/// As much as nodes take.
const SAID_BYTES_MAX: usize = 48;

fn report_time(text: &str) -> Result<Duration, String> {
    let time = milliseconds(text)?;
    if time < REPORT_TIME_MIN {
        return Err(format!("at least {} ms", REPORT_TIME_MIN.as_millis()));
    }
    Ok(time)
}

/// What the device tells: names and fields as `docs/cli.md` gives them.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    In {
        field: String,
        entity: String,
    },
    Entered(Seen),
    Moved(Seen),
    Left {
        entity: String,
    },
    Put {
        number: u32,
    },
    Removed {
        number: u32,
    },
    Linked {
        entity: Option<String>,
        user: String,
    },
    Unlinked {
        entity: String,
    },
    NotLinked {
        entity: String,
        reason: String,
    },
    Refused {
        reason: String,
    },
    Lagged {
        missed: u64,
    },
    Summary {
        reports: u64,
        entered: u64,
        moved: u64,
        left: u64,
        links: u64,
    },
}

#[derive(Debug, Serialize)]
struct Seen {
    entity: String,
    class: u8,
    position: [f64; 3],
    text: String,
}

/// Runs a device until its time is over, or it is interrupted.
pub(crate) async fn run(args: FieldArgs) -> anyhow::Result<()> {
    let walk = Walk::new(&args)?;
    let mut builder = Device::builder(&args.server);
    if let Some(token) = &args.who.token {
        builder = builder.token(token);
    } else if let Some(user) = &args.who.user {
        builder = builder.development_user(user);
    }
    let mut interrupted = pin!(interrupted());
    let device = tokio::select! {
        device = builder.connect() => device?,
        () = &mut interrupted => return Ok(()),
    };
    let ended = stay(args, &device, &walk, interrupted).await;
    // What is left of the field goes out before the farewell.
    device.close().await;
    ended
}

async fn stay(
    args: FieldArgs,
    device: &Device,
    walk: &Walk,
    mut interrupted: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<()> {
    let entering = device.field(&args.field).class(args.class);
    let mut entering = entering.links_max(args.links_max);
    if let Some(range) = args.range {
        entering = entering.range(range);
    }
    if let Some(budget) = args.budget {
        entering = entering.budget(budget);
    }
    if let Some(within) = args.linked_within {
        entering = entering.linked_within(within);
    }
    let field = tokio::select! {
        field = entering.enter(walk.from, args.say.clone()) => field?,
        () = &mut interrupted => return Ok(()),
    };
    let mut stay = Stay {
        style: Style::of(args.json),
        began: Instant::now(),
        counts: Counts::default(),
        links: BTreeMap::new(),
        field,
        args,
    };
    stay.tell(&Event::In {
        field: stay.field.id().to_string(),
        entity: name(stay.field.entity()),
    });
    let over = until(stay.args.duration);
    let ended = tokio::select! {
        ended = stay.run(device, walk) => ended,
        () = over => Ok(()),
        () = interrupted => Ok(()),
    };
    stay.tell_summary();
    ended
}

/// From where to where the device walks.
struct Walk {
    from: Position,
    to: Option<Position>,
    speed: f64,
}

impl Walk {
    fn new(args: &FieldArgs) -> anyhow::Result<Self> {
        let from = args.at.0;
        let to = args.walk.map(|place| place.0);
        if to.is_some_and(|to| offsets(from, to).is_none()) {
            bail!("--at and --walk have different dimensions");
        }
        Ok(Self {
            from,
            to,
            speed: args.speed,
        })
    }

    /// Where the device is after so long: there and back, again and again.
    fn at(&self, after: Duration) -> Position {
        let Some((to, offsets)) = self.to.and_then(|to| Some((to, offsets(self.from, to)?))) else {
            return self.from;
        };
        let length = offsets.iter().map(|offset| offset * offset).sum::<f64>();
        let length = length.sqrt();
        if length == 0.0 {
            return to;
        }
        let way = (after.as_secs_f64() * self.speed / length) % 2.0;
        let part = if way <= 1.0 { way } else { 2.0 - way };
        match self.from {
            Position::Two([x, y]) => [x + offsets[0] * part, y + offsets[1] * part].into(),
            Position::Three([x, y, z]) => [
                x + offsets[0] * part,
                y + offsets[1] * part,
                z + offsets[2] * part,
            ]
            .into(),
        }
    }
}

/// How far it is in each direction; `None` between places of different dimensions.
fn offsets(from: Position, to: Position) -> Option<[f64; 3]> {
    match (from, to) {
        (Position::Two(from), Position::Two(to)) => Some([to[0] - from[0], to[1] - from[1], 0.0]),
        (Position::Three(from), Position::Three(to)) => {
            Some([0, 1, 2].map(|at: usize| to[at] - from[at]))
        }
        (Position::Two(_), Position::Three(_)) | (Position::Three(_), Position::Two(_)) => None,
    }
}

#[derive(Default)]
struct Counts {
    reports: u64,
    entered: u64,
    moved: u64,
    left: u64,
    links: u64,
}

/// The device while it is in the field.
struct Stay {
    args: FieldArgs,
    style: Style,
    began: Instant,
    field: Field,
    counts: Counts,
    /// Links end with their handles.
    links: BTreeMap<EntityId, tombolo_client::Peer>,
}

/// How an attempt to link ended.
type Linked = (
    EntityId,
    Result<tombolo_client::Peer, tombolo_client::Error>,
);

impl Stay {
    /// Does what the device is to do for as long as it is let.
    async fn run(&mut self, device: &Device, walk: &Walk) -> anyhow::Result<()> {
        let take_away = until(self.args.remove_after);
        tokio::pin!(take_away);
        self.put_all()?;
        let mut is_put = true;
        let mut steps = tokio::time::interval(self.args.every);
        let mut attempts = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                () = &mut take_away, if is_put => {
                    is_put = false;
                    self.remove_all().await?;
                }
                _ = steps.tick() => self.step(walk)?,
                event = self.field.next_event() => {
                    let Some(event) = event else {
                        bail!("{}", device.ended().unwrap_or("the node lets the device in no more"));
                    };
                    self.on_event(event, &mut attempts);
                }
                Some(Ok((entity, linked))) = attempts.join_next() => self.on_linked(entity, linked),
            }
        }
    }

    fn put_all(&self) -> anyhow::Result<()> {
        for (number, place) in &self.args.put {
            let (class, text) = (self.args.class, self.args.say.clone());
            self.field.put(*number, class, place.0, text)?;
            self.tell(&Event::Put { number: *number });
        }
        Ok(())
    }

    async fn remove_all(&self) -> anyhow::Result<()> {
        for (number, _) in &self.args.put {
            self.field.remove(*number).await?;
            self.tell(&Event::Removed { number: *number });
        }
        Ok(())
    }

    fn step(&mut self, walk: &Walk) -> anyhow::Result<()> {
        // Whoever stands still says so now and then, by itself.
        if walk.to.is_some() {
            let at = walk.at(self.began.elapsed());
            self.field.update(at, self.args.say.clone())?;
            self.counts.reports += 1;
        }
        Ok(())
    }

    fn on_event(&mut self, event: FieldEvent, attempts: &mut tokio::task::JoinSet<Linked>) {
        match event {
            FieldEvent::Entered(neighbour) => {
                self.counts.entered += 1;
                self.tell(&Event::Entered(seen(&neighbour)));
                if self.args.connect {
                    attempts.spawn(async move {
                        let linked = neighbour.connect().await;
                        (neighbour.entity(), linked)
                    });
                }
            }
            FieldEvent::Updated(neighbour) => {
                self.counts.moved += 1;
                if self.args.moves {
                    self.tell(&Event::Moved(seen(&neighbour)));
                }
            }
            FieldEvent::Left(entity) => {
                self.counts.left += 1;
                self.links.remove(&entity);
                self.tell(&Event::Left {
                    entity: name(entity),
                });
            }
            FieldEvent::Peer(peer) => {
                self.counts.links += 1;
                let user = peer.user().to_string();
                self.tell(&Event::Linked { entity: None, user });
            }
            FieldEvent::Linked(entity, peer) => {
                self.counts.links += 1;
                let user = peer.user().to_string();
                let entity = Some(name(entity));
                self.tell(&Event::Linked { entity, user });
            }
            FieldEvent::Unlinked(entity) => self.tell(&Event::Unlinked {
                entity: name(entity),
            }),
            FieldEvent::Refused(reason) => self.tell(&Event::Refused { reason }),
            FieldEvent::Lagged { missed } => self.tell(&Event::Lagged { missed }),
            _ => {}
        }
    }

    fn on_linked(
        &mut self,
        entity: EntityId,
        linked: Result<tombolo_client::Peer, tombolo_client::Error>,
    ) {
        match linked {
            Ok(peer) => {
                self.counts.links += 1;
                let user = peer.user().to_string();
                self.tell(&Event::Linked {
                    entity: Some(name(entity)),
                    user,
                });
                self.links.insert(entity, peer);
            }
            Err(error) => self.tell(&Event::NotLinked {
                entity: name(entity),
                reason: error.to_string(),
            }),
        }
    }

    fn tell_summary(&self) {
        let Counts {
            reports,
            entered,
            moved,
            left,
            links,
        } = self.counts;
        self.tell(&Event::Summary {
            reports,
            entered,
            moved,
            left,
            links,
        });
    }

    /// Tells an event. Without a listener there is nothing more to do, so the process ends.
    fn tell(&self, event: &Event) {
        let told = match self.style {
            Style::Json => json(event),
            Style::Person => {
                let seconds = self.began.elapsed().as_secs_f64();
                let dimensions = match self.args.at.0 {
                    Position::Two(_) => 2,
                    Position::Three(_) => 3,
                };
                line_of_text(&format!("{seconds:8.3}  {}", line(event, dimensions)))
            }
        };
        if let Err(error) = told {
            output::end_unheard(error);
        }
    }
}

/// The event for a person.
fn line(event: &Event, dimensions: usize) -> String {
    printable(&sentence(event, dimensions))
}

fn sentence(event: &Event, dimensions: usize) -> String {
    let place = |seen: &Seen| {
        let place = seen.position[..dimensions].iter();
        let place: Vec<_> = place.map(|at| format!("{at:.1}")).collect();
        format!("{} is at {} {}", seen.entity, place.join(", "), seen.text)
    };
    match event {
        Event::In { field, entity } => format!("in field {field} as {entity}"),
        Event::Entered(seen) => format!("in range: {}", place(seen)),
        Event::Moved(seen) => place(seen),
        Event::Left { entity } => format!("{entity} has left"),
        Event::Put { number } => format!("has put {number} there"),
        Event::Removed { number } => format!("has taken {number} away"),
        Event::Linked { user, .. } => format!("linked with {user}"),
        Event::Unlinked { entity } => format!("no longer linked with {entity}"),
        Event::NotLinked { entity, reason } => format!("not linked with {entity}: {reason}"),
        Event::Refused { reason } => format!("refused: {reason}"),
        Event::Lagged { missed } => format!("{missed} events were missed"),
        Event::Summary {
            reports,
            entered,
            moved,
            left,
            links,
        } => format!(
            "{reports} reports; {entered} came into range, {left} left, {moved} moves, {links} links"
        ),
    }
}

/// As scripts tell entities apart: numbers of 64 bits are not for all of them.
fn name(entity: EntityId) -> String {
    format!("{:016x}", entity.0)
}

fn seen(neighbour: &Neighbour) -> Seen {
    Seen {
        entity: name(neighbour.entity()),
        class: neighbour.class(),
        position: neighbour.position(),
        text: String::from_utf8_lossy(neighbour.payload()).into_owned(),
    }
}

/// A place as it was given.
#[derive(Clone, Copy, Debug)]
struct Place(Position);

/// Waits so long, or for ever.
async fn until(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

fn own(text: &str) -> Result<(u32, Place), String> {
    let (number, at) = text.split_once('=').ok_or("not N=X,Y")?;
    match number.parse() {
        Ok(number) if number > 0 => Ok((number, place(at)?)),
        Ok(_) | Err(_) => Err("not a number from 1 on".to_owned()),
    }
}

fn saying(text: &str) -> Result<String, String> {
    if text.len() > SAID_BYTES_MAX {
        return Err(format!(
            "{} bytes are more than {SAID_BYTES_MAX}",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

fn place(text: &str) -> Result<Place, String> {
    let coordinates = text.split(',').map(|part| part.trim().parse::<f64>());
    let coordinates: Vec<f64> = coordinates
        .collect::<Result<_, _>>()
        .map_err(|_| "not numbers with commas between them".to_owned())?;
    if !coordinates.iter().all(|coordinate| coordinate.is_finite()) {
        return Err("not finite".to_owned());
    }
    match coordinates[..] {
        [x, y] => Ok(Place([x, y].into())),
        [x, y, z] => Ok(Place([x, y, z].into())),
        _ => Err("not two or three numbers".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        Ok(_) | Err(_) => Err("not a number that is 0 or more".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        Ok(_) | Err(_) => Err("not a number that is more than 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_there_and_back() {
        let walk = Walk {
            from: [0.0, 10.0].into(),
            to: Some([30.0, -30.0].into()),
            speed: 5.0,
        };
        let at = |seconds| walk.at(Duration::from_secs(seconds));
        assert_eq!(at(0), [0.0, 10.0].into());
        assert_eq!(at(5), [15.0, -10.0].into());
        assert_eq!(at(10), [30.0, -30.0].into());
        assert_eq!((at(15), at(20)), (at(5), at(0)));
    }

    #[test]
    fn places_have_two_or_three_numbers() {
        assert!(place("1,-2.5").is_ok() && place("1, 2, 3").is_ok());
        for text in ["", "1", "1,2,3,4", "a,b", "1,", "nan,1", "1,inf"] {
            assert!(place(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_lies_in_a_field_controls_no_terminal() {
        let seen = Event::Moved(Seen {
            entity: "0000000000000001".to_owned(),
            class: 0,
            position: [1.0, 2.0, 3.0],
            text: "\x1b[2J\r\u{9b}2J\n".to_owned(),
        });
        let line = line(&seen, 2);
        assert!(!line.chars().any(char::is_control), "{line}");
        assert!(
            line.starts_with("0000000000000001 is at 1.0, 2.0 "),
            "{line}"
        );
    }
}
