//! Tells the story as it happens, decides when its next turn is due, and sums it up.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use tombolo_client::{LinkState, LinkStatus, NatReport, Via};

use super::actor::{Cue, Note, What};
use super::say;
use crate::output::ms;

/// How long each scene is watched once it has begun.
const SCENE: Duration = Duration::from_secs(2);
/// A scene that has not begun by then is given up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where the story is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scene {
    Meeting,
    Direct,
    Cut,
    RelayAgain,
    Healed,
    DirectAgain,
    Over,
}

/// What is known of one device.
#[derive(Debug, Default)]
struct Role {
    state: Option<LinkState>,
    sent: u64,
    received: u64,
    highest: u64,
    reordered: u64,
    duplicated: u64,
    last_received: Option<Instant>,
    /// The longest silence since the cut, until the relay carried messages again.
    gap: Duration,
    /// The first relayed message after the cut has come.
    is_relayed_again: bool,
}

/// The storyteller.
pub(super) struct Narrator {
    headline: String,
    has_nats: bool,
    has_colour: bool,
    started: Instant,
    scene: Scene,
    scene_began: Instant,
    roles: BTreeMap<&'static str, Role>,
    connecting: Option<Instant>,
    first_byte: Option<Duration>,
    direct: Option<Duration>,
    rtt: Option<Duration>,
    cut_at: Option<Instant>,
    healed_at: Option<Instant>,
    direct_again: Option<Duration>,
}

impl Narrator {
    /// `has_nats`: whether NATs stand between the devices.
    pub(super) fn new(headline: &str, has_nats: bool) -> Self {
        let now = Instant::now();
        Self {
            headline: headline.to_owned(),
            has_nats,
            has_colour: io::stdout().is_terminal(),
            started: now,
            scene: Scene::Meeting,
            scene_began: now,
            roles: BTreeMap::new(),
            connecting: None,
            first_byte: None,
            direct: None,
            rtt: None,
            cut_at: None,
            healed_at: None,
            direct_again: None,
        }
    }

    pub(super) fn open(&self) -> io::Result<()> {
        say(&self.bold("Tombolo: two devices find each other"))?;
        say(&format!("{}\n", self.headline))?;
        self.draw(None)
    }

    pub(super) fn node_is_up(&self, url: &str) -> io::Result<()> {
        self.tell("node", &format!("serves at {url}"))
    }

    /// Takes a note into the story.
    pub(super) fn hear(&mut self, note: Note) -> anyhow::Result<()> {
        let who = note.who;
        match note.what {
            What::Session {
                transport,
                candidates,
            } => {
                self.tell(
                    who,
                    &format!("is connected to the node over {transport}; candidates:"),
                )?;
                for candidate in candidates {
                    say(&format!("{:>20}   {candidate}", ""))?;
                }
            }
            What::Nat(report) => self.tell(who, &nat_sentence(&report))?,
            What::Connecting => {
                self.connecting = Some(note.at);
                self.tell(who, "calls connect(), with a first message")?;
            }
            What::Status(status) => self.on_status(note.at, who, &status)?,
            What::Received { seq, via } => self.on_received(note.at, who, seq, via)?,
            What::Done { sent } => self.role(who).sent = sent,
            What::Failed(error) => anyhow::bail!("{who}: {error}"),
        }
        Ok(())
    }

    /// The next turn of the story, when it is due.
    pub(super) fn next_cue(&mut self) -> io::Result<Option<Cue>> {
        let watched = self.scene_began.elapsed();
        let is_waiting = matches!(self.scene, Scene::Cut | Scene::Healed);
        if (is_waiting || (self.scene == Scene::Meeting && self.connecting.is_some()))
            && watched > PATIENCE
        {
            self.tell("demo", "waited in vain; see the summary")?;
            self.begin(Scene::Over);
            return Ok(Some(Cue::Stop));
        }
        if watched < SCENE {
            return Ok(None);
        }
        match self.scene {
            Scene::Direct => {
                self.begin(Scene::Cut);
                self.cut_at = Some(Instant::now());
                say("")?;
                self.tell("demo", &self.bold("cuts the direct path"))?;
                Ok(Some(Cue::Cut))
            }
            Scene::RelayAgain => {
                self.begin(Scene::Healed);
                self.healed_at = Some(Instant::now());
                say("")?;
                self.tell("demo", &self.bold("mends the direct path"))?;
                Ok(Some(Cue::Talk))
            }
            Scene::DirectAgain => {
                self.begin(Scene::Over);
                Ok(Some(Cue::Stop))
            }
            Scene::Meeting | Scene::Cut | Scene::Healed | Scene::Over => Ok(None),
        }
    }

    /// Sums up; true when everything in the story happened.
    pub(super) fn close(&self) -> io::Result<bool> {
        let gap = self
            .roles
            .values()
            .map(|role| role.gap)
            .max()
            .unwrap_or_default();
        let is_cut_survived =
            self.roles.len() == 2 && self.roles.values().all(|role| role.is_relayed_again);
        let mut is_complete = true;
        say(&format!("\n{}", self.bold("Summary")))?;
        let mut check = |what: &str, value: Option<String>| {
            is_complete &= value.is_some();
            let mark = if value.is_some() {
                self.green("✓")
            } else {
                self.red("✗")
            };
            say(&format!(
                "  {mark} {what:<34} {}",
                value.unwrap_or_else(|| "did not happen".into())
            ))
        };
        let after = |duration: Option<Duration>| {
            duration.map(|duration| format!("{:.0} ms after connect()", ms(duration)))
        };
        check("first byte, relayed", after(self.first_byte))?;
        let rtt = self
            .rtt
            .map(|rtt| format!(", {:.1} ms round trip", ms(rtt)))
            .unwrap_or_default();
        check("direct path", after(self.direct).map(|text| text + &rtt))?;
        let silence = format!("{:.0} ms of silence", ms(gap));
        check(
            "cut: the relay took over",
            is_cut_survived.then_some(silence),
        )?;
        let again = self
            .direct_again
            .map(|again| format!("{:.0} ms after it was mended", ms(again)));
        check("direct again", again)?;
        for (who, role) in &self.roles {
            let peer = self.roles.iter().find(|(other, _)| *other != who);
            let sent = peer.map_or(0, |(_, peer)| peer.sent);
            let faults = format!(
                "{} of {sent}; {} lost, {} duplicated, {} reordered",
                role.received,
                sent.saturating_sub(role.received),
                role.duplicated,
                role.reordered
            );
            let is_whole =
                role.received == sent && role.duplicated + role.reordered == 0 && sent > 0;
            check(
                &format!("messages received by {who}"),
                is_whole.then_some(faults.clone()),
            )?;
            if !is_whole {
                say(&format!("      {faults}"))?;
            }
        }
        Ok(is_complete)
    }

    fn on_status(&mut self, at: Instant, who: &'static str, status: &LinkStatus) -> io::Result<()> {
        self.role(who).state = Some(status.state);
        let way = status
            .remote
            .map(|remote| format!(" ({remote})"))
            .unwrap_or_default();
        let rtt = status
            .rtt
            .map(|rtt| format!(", {:.1} ms round trip", ms(rtt)))
            .unwrap_or_default();
        match status.state {
            LinkState::Connecting => {}
            LinkState::Relayed => self.tell(who, &format!("link relayed{way}{rtt}"))?,
            LinkState::Direct => {
                if let Some(connecting) = self.connecting.filter(|_| self.direct.is_none()) {
                    self.direct = Some(at.duration_since(connecting));
                    self.rtt = status.rtt;
                }
                self.tell(who, &self.green(&format!("link direct{way}{rtt}")))?;
            }
            LinkState::Lost => self.tell(who, &self.red("link lost"))?,
        }
        let is_everyone = |state| {
            self.roles.len() == 2 && self.roles.values().all(|role| role.state == Some(state))
        };
        if is_everyone(LinkState::Direct) {
            match self.scene {
                Scene::Meeting => {
                    self.begin(Scene::Direct);
                    self.draw(Some(Via::Direct))?;
                }
                Scene::Healed => {
                    self.direct_again = self.healed_at.map(|healed| at.duration_since(healed));
                    self.begin(Scene::DirectAgain);
                    self.draw(Some(Via::Direct))?;
                }
                Scene::Direct
                | Scene::Cut
                | Scene::RelayAgain
                | Scene::DirectAgain
                | Scene::Over => {}
            }
        }
        Ok(())
    }

    fn on_received(
        &mut self,
        at: Instant,
        who: &'static str,
        seq: u64,
        via: Via,
    ) -> io::Result<()> {
        let is_after_cut = self.scene == Scene::Cut;
        let role = self.role(who);
        if seq <= role.highest {
            role.duplicated += u64::from(seq == role.highest);
            role.reordered += u64::from(seq != role.highest);
        }
        role.highest = role.highest.max(seq);
        role.received += 1;
        let silence = role
            .last_received
            .replace(at)
            .map(|last| at.duration_since(last));
        if is_after_cut && !role.is_relayed_again {
            role.gap = role.gap.max(silence.unwrap_or_default());
            role.is_relayed_again = via == Via::Relay;
            let (gap, is_now) = (role.gap, role.is_relayed_again);
            if is_now {
                self.tell(
                    who,
                    &format!(
                        "hears through the relay again after {:.0} ms of silence",
                        ms(gap)
                    ),
                )?;
                if self.roles.values().all(|role| role.is_relayed_again) {
                    self.begin(Scene::RelayAgain);
                    self.draw(Some(Via::Relay))?;
                }
            }
        }
        if self.first_byte.is_none()
            && via == Via::Relay
            && let Some(connecting) = self.connecting
        {
            let first_byte = at.duration_since(connecting);
            self.first_byte = Some(first_byte);
            self.tell(
                who,
                &format!(
                    "has the first byte, relayed, {:.0} ms after connect()",
                    ms(first_byte)
                ),
            )?;
            self.draw(Some(Via::Relay))?;
        }
        Ok(())
    }

    fn begin(&mut self, scene: Scene) {
        self.scene = scene;
        self.scene_began = Instant::now();
    }

    fn role(&mut self, who: &'static str) -> &mut Role {
        self.roles.entry(who).or_default()
    }

    fn tell(&self, who: &str, what: &str) -> io::Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        say(&format!("{seconds:8.3} s  {who:>7}   {what}"))
    }

    /// Draws the two devices, what stands before them, the node, and the way of the data.
    fn draw(&self, via: Option<Via>) -> io::Result<()> {
        let relay = if via == Some(Via::Relay) {
            "━━━━━"
        } else {
            "·····"
        };
        let direct = if via == Some(Via::Direct) {
            "━"
        } else {
            "·"
        }
        .repeat(16);
        let door = if self.has_nats {
            " NAT "
        } else {
            "─────"
        };
        say("")?;
        say(&format!("                     ┌{relay} node {relay}┐"))?;
        say(&format!(
            "      alice ──{door}──┤                ├──{door}── bob"
        ))?;
        say(&format!("                     └{direct}┘\n"))
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.has_colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn nat_sentence(report: &NatReport) -> String {
    let public: Vec<_> = report.public().iter().map(ToString::to_string).collect();
    if public.is_empty() {
        return "is behind a network that lets no UDP out".to_owned();
    }
    format!(
        "is behind: {}; seen as {}",
        report.behaviour(),
        public.join(", ")
    )
}
