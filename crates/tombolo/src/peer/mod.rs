//! `tombolo peer`: a device on the command line.

mod event;
mod link;
mod speaker;
mod tally;
mod watch;

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tombolo_client::{
    Audience, Device, NatReport, Peer, Policy, Room, RoomEvent, RoomOptions, SendError,
    UNRELIABLE_BYTES_ALWAYS, UserId,
};

use crate::cli::{LaneArg, PeerArgs, PolicyArg};
use crate::output::Style;
pub(crate) use event::{Event, filtering_word, mapping_word};
use link::{Errand, HEADER};
use speaker::Speaker;
pub(crate) use speaker::peer_line;
use tally::Tally;

/// Bytes at the front of each message: its number and its time.
pub(crate) const HEADER_BYTES: usize = HEADER;
/// With all sent, so much silence means that the others are done too.
const QUIET: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pause before a lost link to a member is begun anew.
const RELINK_PAUSE: Duration = Duration::from_secs(1);

/// The accounts of all peers that there were.
type Tallies = Arc<Mutex<BTreeMap<UserId, Tally>>>;

/// Runs a device until it is done, its time is over, or it is interrupted.
pub(crate) async fn run(args: PeerArgs) -> anyhow::Result<()> {
    let speaker = Speaker::new(Style::of(args.json));
    anyhow::ensure!(
        args.lane == LaneArg::Reliable || args.size <= UNRELIABLE_BYTES_ALWAYS,
        "--size {} is over the limit of the unreliable lane, {UNRELIABLE_BYTES_ALWAYS} bytes",
        args.size
    );
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
    tell_session(&speaker, &device);
    let stayed = stay(&args, &speaker, &device, interrupted).await;
    device.close().await;
    let Some(Stayed { ended, peers }) = stayed? else {
        return Ok(());
    };
    speaker.tell(&Event::Summary { peers });
    ended
}

/// What was while the device was in its room.
struct Stayed {
    ended: anyhow::Result<()>,
    peers: BTreeMap<String, event::Summary>,
}

/// Joins the room and stays there; `None` when it was interrupted before it was in.
async fn stay(
    args: &PeerArgs,
    speaker: &Speaker,
    device: &Device,
    mut interrupted: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<Option<Stayed>> {
    let room = tokio::select! {
        room = join(args, device) => room?,
        () = &mut interrupted => return Ok(None),
    };
    let nat = tokio::spawn(tell_nat(speaker.clone(), device.clone()));
    let mut party = Party {
        speaker: speaker.clone(),
        own: device.session().user,
        room,
        watches: args.watch || !args.durable.is_empty(),
        tallies: Tallies::default(),
        links: JoinSet::new(),
        linked: BTreeMap::new(),
        errand: Errand {
            lane: args.lane,
            every: args.send_every,
            size: args.size,
            count: args.count,
        },
        relink: mpsc::channel(64),
        session: device.watch_session(),
        device: device.clone(),
    };
    let ended = party.run(args.duration, interrupted).await;
    nat.abort();
    let peers = party.summary();
    party.links.abort_all();
    Ok(Some(Stayed { ended, peers }))
}

/// Joins the room, and says there what is to be said.
async fn join(args: &PeerArgs, device: &Device) -> anyhow::Result<Room> {
    let options = RoomOptions {
        policy: policy(args.policy),
        with_code: args.with_code,
        password: args.password.clone(),
        ..RoomOptions::default()
    };
    let rooms = device.rooms();
    let room = match (&args.place.room, args.place.code) {
        (Some(room), _) => rooms.join_or_create(room, options).await?,
        (None, Some(code)) => rooms.join_code(code, options).await?,
        (None, None) => anyhow::bail!("say which room: --room or --code"),
    };
    for text in &args.durable {
        room.say(Audience::All, text.clone()).await?;
    }
    Ok(room)
}

fn policy(arg: PolicyArg) -> Policy {
    match arg {
        PolicyArg::Any => Policy::Any,
        PolicyArg::Relay => Policy::Relay,
        PolicyArg::Direct => Policy::Direct,
    }
}

fn tell_session(speaker: &Speaker, device: &Device) {
    let session = device.session();
    speaker.tell(&Event::Session {
        node: session.node,
        transport: session.transport.as_str(),
    });
}

/// Tells how the NAT maps as soon as it is known, and how it filters when that is measured.
async fn tell_nat(speaker: Speaker, device: Device) {
    let tell = |report: &NatReport| {
        let behaviour = report.behaviour();
        speaker.tell(&Event::Nat {
            mapping: mapping_word(behaviour.mapping),
            filtering: filtering_word(behaviour.filtering),
            public: report.public(),
        });
    };
    let mapped = device.nat().unwrap_or_default();
    tell(&mapped);
    if let Ok(measured) = device.measure_nat().await
        && measured.behaviour().filtering != mapped.behaviour().filtering
    {
        let mut report = mapped;
        report.v4.filtering = measured.v4.filtering;
        report.v6.filtering = measured.v6.filtering;
        tell(&report);
    }
}

/// The device, its room, and its links.
struct Party {
    device: Device,
    speaker: Speaker,
    own: UserId,
    room: Room,
    /// Whether more is told of the room than who comes and goes.
    watches: bool,
    tallies: Tallies,
    links: JoinSet<Result<(), SendError>>,
    /// The attempt of each member's present link.
    linked: BTreeMap<UserId, Peer>,
    errand: Errand,
    /// Members whose link was lost.
    relink: (mpsc::Sender<UserId>, mpsc::Receiver<UserId>),
    session: tokio::sync::watch::Receiver<Option<tombolo_client::SessionInfo>>,
}

impl Party {
    async fn run(
        &mut self,
        duration: Option<Duration>,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> anyhow::Result<()> {
        self.tell_members();
        for user in self.room.members() {
            self.link(user)?;
        }
        self.session.mark_unchanged();
        let over = async move {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = &mut interrupted => return Ok(()),
                () = &mut over => return Ok(()),
                event = self.room.next_event() => match event {
                    Some(event) => self.on_event(event)?,
                    None => anyhow::bail!(self.ending()),
                },
                Some(user) = self.relink.1.recv() => {
                    if self.room.members().contains(&user) {
                        self.link(user)?;
                    }
                }
                Ok(()) = self.session.changed() => {
                    let session = self.session.borrow_and_update().clone();
                    if let Some(session) = session {
                        let transport = session.transport.as_str();
                        self.speaker.tell(&Event::Session { node: session.node, transport });
                    }
                }
                _ = look.tick() => {
                    while let Some(ended) = self.links.try_join_next() {
                        ended??;
                    }
                    if self.is_done() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Why there are no more events.
    fn ending(&self) -> String {
        let reason = self.device.ended().unwrap_or("the node has ended the room");
        format!("no session any more: {reason}")
    }

    fn on_event(&mut self, event: RoomEvent) -> anyhow::Result<()> {
        if self.watches
            && let Some(told) = watch::told(&self.room, &event)
        {
            self.speaker.tell(&told);
        }
        match event {
            RoomEvent::Joined(user) => {
                self.tell_members();
                self.link(user)?;
            }
            RoomEvent::Left { user, reason } => {
                let is_own = user == self.own;
                self.speaker.tell(&Event::Left {
                    user: user.to_string(),
                    reason: reason.clone(),
                });
                let own = &self.own;
                if is_own && reason == "replaced" {
                    anyhow::bail!("{own} came into the room from elsewhere");
                }
                anyhow::ensure!(!is_own, "{own} is not in the room any more: {reason}");
            }
            RoomEvent::Peer(peer) => self.follow(peer),
            RoomEvent::Message { .. } => {}
            RoomEvent::Refused(reason) => anyhow::bail!(reason),
            RoomEvent::Lagged { .. } => {
                self.tell_members();
                for user in self.room.members() {
                    self.link(user)?;
                }
            }
            // See `--watch`.
            RoomEvent::Dropped(_)
            | RoomEvent::Returned(_)
            | RoomEvent::Lost(_)
            | RoomEvent::Unsent { .. }
            | RoomEvent::Synced { .. }
            | RoomEvent::Configured { .. }
            | RoomEvent::Properties { .. }
            | RoomEvent::Object { .. }
            | RoomEvent::ObjectDeleted { .. }
            | RoomEvent::Owner(_)
            | RoomEvent::Said(_)
            | _ => {}
        }
        Ok(())
    }

    fn tell_members(&self) {
        let members = self.room.members().iter().map(UserId::to_string).collect();
        self.speaker.tell(&Event::Joined {
            room: self.room.id().to_string(),
            code: self.room.code().map(|code| code.to_string()),
            members,
        });
    }

    /// Begins a link with the first message inside its introduction.
    fn link(&mut self, user: UserId) -> anyhow::Result<()> {
        let is_linked = self.linked.get(&user).is_some_and(|peer| !peer.is_closed());
        if user == self.own || is_linked {
            return Ok(());
        }
        let device = self.room.identity_of(&user);
        let first = self.with_tally(&user, |tally| {
            if let Some(device) = device {
                tally.on_device(device);
            }
            self.errand.next_message(tally)
        });
        let has_first = first.is_some();
        let mut builder = self.room.peer(&user);
        if let Some(payload) = first {
            builder = builder.first_message(link::lane(self.errand.lane), payload);
        }
        match builder.open() {
            Ok(peer) => {
                if has_first {
                    self.with_tally(&user, |tally| tally.on_sent(Instant::now()));
                }
                self.follow(peer);
                Ok(())
            }
            // The member has gone again.
            Err(error) if error.is_closed() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn follow(&mut self, peer: Peer) {
        let user = peer.user().clone();
        // A link that we opened may be one that the peer had begun, and be told as well.
        if self.linked.get(&user) == Some(&peer) {
            return;
        }
        self.with_tally(&user, |tally| tally.on_device(peer.identity()));
        self.linked.insert(user, peer.clone());
        let relink = self.relink.0.clone();
        let link = link::Link {
            peer,
            errand: self.errand,
            tallies: self.tallies.clone(),
            speaker: self.speaker.clone(),
        };
        self.links.spawn(async move {
            let user = link.run().await?;
            tokio::time::sleep(RELINK_PAUSE).await;
            _ = relink.send(user).await;
            Ok(())
        });
    }

    fn with_tally<R>(&self, user: &UserId, f: impl FnOnce(&mut Tally) -> R) -> R {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        f(tallies
            .entry(user.clone())
            .or_insert_with(|| Tally::new(Instant::now())))
    }

    /// Whether everything is sent and nobody says anything more.
    fn is_done(&self) -> bool {
        let Some(count) = self.errand.count else {
            return false;
        };
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.room.members();
        let is_gone = |user: &UserId| {
            let is_linked = self.linked.get(user).is_some_and(|peer| !peer.is_closed());
            !members.contains(user) && !is_linked
        };
        let is_done = |(user, tally): (&UserId, &Tally)| {
            tally.last_change().elapsed() >= QUIET && (tally.sent() >= count || is_gone(user))
        };
        !tallies.is_empty() && tallies.iter().all(is_done)
    }

    fn summary(&self) -> BTreeMap<String, event::Summary> {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies
            .iter()
            .map(|(user, tally)| (user.to_string(), tally.summary()))
            .collect()
    }
}

/// Waits for SIGINT or SIGTERM, also for one that comes after the call and before the first poll: whoever
/// reads that a device is there may end it at once.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    async move {
        let [Ok(mut interrupt), Ok(mut terminate)] = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

impl std::fmt::Display for LaneArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reliable => "reliable",
            Self::Unreliable => "unreliable",
        })
    }
}

impl std::fmt::Display for PolicyArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Relay => "relay",
            Self::Direct => "direct",
        })
    }
}
