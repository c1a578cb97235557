//! Where the demo plays: network namespaces with kernel NATs, or loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Barrier, mpsc, oneshot, watch};
use tombolo_natlab::{Host, Lab, Link, Profile, Site};
use tombolo_node::{Cidr, Node};

use super::actor::{Actor, Cue, Note};
use super::narrator::Narrator;
use super::runtime;

/// Each way between any two networks of the lab.
const DELAY: Duration = Duration::from_millis(25);
const ALICE: &str = "alice";
const BOB: &str = "bob";

/// The place and its network.
pub(super) struct Stage {
    /// `None` for loopback.
    lab: Option<Lab>,
    headline: String,
}

impl Stage {
    /// Two homes, each behind a NAT of the kernel, and a node on the internet between them.
    pub(super) fn lab() -> anyhow::Result<Self> {
        let lab = Lab::builder()
            .site(Site::new(ALICE, Profile::PortRestricted))
            .site(Site::new(BOB, Profile::PortRestricted))
            .link(Link::delay(DELAY))
            .build()
            .context(
                "the lab of network namespaces cannot be built; try `tombolo demo --loopback`",
            )?;
        let headline = "A node and two devices, each in a network namespace behind its own kernel \
                        NAT (port-restricted), 25 ms apart."
            .to_owned();
        Ok(Self {
            lab: Some(lab),
            headline,
        })
    }

    /// Everything on this machine's loopback: no NATs, no delay.
    pub(super) fn loopback(why: &str) -> Self {
        let headline = format!("A node and two devices on loopback, without NATs ({why}).");
        Self {
            lab: None,
            headline,
        }
    }

    pub(super) fn headline(&self) -> &str {
        &self.headline
    }

    pub(super) fn has_nats(&self) -> bool {
        self.lab.is_some()
    }

    /// Plays the whole story, or as much of it as there is before somebody interrupts.
    pub(super) fn play(
        &self,
        narrator: &mut Narrator,
        interrupted: &watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let (stop_node, node_stopped) = oneshot::channel();
        let (url_tx, url) = std::sync::mpsc::channel();
        let (notes_tx, notes) = mpsc::unbounded_channel();
        let (cues, cues_rx) = watch::channel(Cue::Talk);
        let ready = Arc::new(Barrier::new(2));
        thread::scope(|scope| {
            let node = scope.spawn(|| {
                self.at(Lab::node, || {
                    run_node(&self.node_ips(), &url_tx, node_stopped)
                })
            });
            let Ok(url) = url.recv() else {
                drop(notes_tx);
                return node.join().expect("the node's thread does not panic")?;
            };
            narrator.node_is_up(&url)?;
            for (who, begins) in [(ALICE, true), (BOB, false)] {
                let actor = Actor {
                    who,
                    begins,
                    url: url.clone(),
                    notes: notes_tx.clone(),
                    cues: cues_rx.clone(),
                    ready: ready.clone(),
                    blocks: self.lab.is_none(),
                };
                scope.spawn(move || {
                    self.at(
                        |lab| lab.device(who, 0).expect("the lab has both"),
                        || run_actor(actor),
                    )
                });
            }
            drop(notes_tx);
            let told = self.direct(narrator, notes, &cues, interrupted);
            // Both actors stop at this cue, or have failed.
            let last = if *interrupted.borrow() {
                Cue::Leave
            } else {
                Cue::Stop
            };
            cues.send_replace(last);
            _ = stop_node.send(());
            told
        })
    }

    /// Follows the notes, and gives the cues when their time has come.
    fn direct(
        &self,
        narrator: &mut Narrator,
        mut notes: mpsc::UnboundedReceiver<Note>,
        cues: &watch::Sender<Cue>,
        interrupted: &watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            while !*interrupted.borrow() {
                let wait = tokio::time::timeout(Duration::from_millis(20), notes.recv());
                match wait.await {
                    Ok(Some(note)) => narrator.hear(note)?,
                    Ok(None) => return Ok(()),
                    Err(_) => {}
                }
                let Some(cue) = narrator.next_cue()? else {
                    continue;
                };
                if let Some(lab) = &self.lab {
                    match cue {
                        Cue::Cut => lab.cut(ALICE, BOB)?,
                        Cue::Talk => lab.heal(ALICE, BOB)?,
                        Cue::Stop | Cue::Leave => {}
                    }
                }
                cues.send_replace(cue);
            }
            Ok(())
        })
    }

    /// Two addresses in the lab, so that devices can measure how their NAT filters.
    fn node_ips(&self) -> Vec<IpAddr> {
        match &self.lab {
            Some(lab) => {
                let all = lab.node().addresses().iter();
                all.copied().filter(IpAddr::is_ipv4).collect()
            }
            None => vec![Ipv4Addr::LOCALHOST.into()],
        }
    }

    /// Runs `f` inside a host of the lab, or right here.
    fn at<T: Send>(
        &self,
        host: impl FnOnce(&Lab) -> &Host,
        f: impl FnOnce() -> T + Send,
    ) -> anyhow::Result<T> {
        match &self.lab {
            Some(lab) => Ok(lab.enter(host(lab), f)?),
            None => Ok(f()),
        }
    }
}

fn run_node(
    ips: &[IpAddr],
    url: &std::sync::mpsc::Sender<String>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let everybody: Cidr = "0.0.0.0/0".parse().context("a range")?;
        let builder = Node::builder().dev().allow_peer(everybody);
        let builder = builder.port(0).turn_port(0).turns_port(0);
        let node = ips
            .iter()
            .fold(builder, |builder, ip| builder.listen(*ip))
            .start()
            .await?;
        url.send(node.ready().url.to_string())?;
        // An error means that the director is gone, which ends the play as well.
        _ = stopped.await;
        node.shutdown().await;
        Ok(())
    })
}

fn run_actor(actor: Actor) {
    if let Ok(runtime) = runtime() {
        runtime.block_on(actor.play());
        runtime.shutdown_background();
    }
}
