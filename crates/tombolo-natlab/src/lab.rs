//! A running lab: its hosts, and what can be done to its networks.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use crate::delay::{Delayer, Link, Links};
use crate::error::LabError;
use crate::means::{self, Means, Missing};
use crate::nfqueue::Queue;
use crate::plan::{NET, Plan, Prefix, Site, SitePlan};
use crate::process::Child;
use crate::space::{Host, Job, start_ip};
use crate::sweep;

/// Namespaces with a node, routers and devices. Dropping it removes them, also in a panic.
///
/// ```no_run
/// use tombolo_natlab::{Lab, Profile, Site};
///
/// let lab = Lab::builder()
///     .site(Site::new("a", Profile::PortRestricted))
///     .site(Site::new("b", Profile::Symmetric))
///     .build()?;
/// let device = lab.device("a", 0)?;
/// let socket = lab.enter(device, || std::net::UdpSocket::bind("0.0.0.0:0"))?;
/// # Ok::<(), tombolo_natlab::LabError>(())
/// ```
#[derive(Debug)]
pub struct Lab {
    /// First, so that packets still flow while it ends.
    delayer: Mutex<Option<Delayer>>,
    links: Arc<Mutex<Links>>,
    seed: u64,
    sites: Vec<SitePlan>,
    hosts: Vec<(String, Host)>,
    /// Last: it removes the namespaces.
    _names: Names,
}

/// Describes a lab to build.
#[derive(Debug)]
pub struct Builder {
    node_addresses: usize,
    sites: Vec<Site>,
    link: Option<Link>,
    seed: u64,
}

/// An end of the internet: the node or a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// The node.
    Node,
    /// The site of that name.
    Site(&'a str),
}

impl Lab {
    /// Finds out how a lab can be run here. Takes some 20 ms: it tries.
    ///
    /// # Errors
    /// What is missing, with what to do about it.
    pub fn check() -> Result<Means, Missing> {
        means::check()
    }

    /// A lab with a node of two public addresses in each family, no sites and no delay.
    pub fn builder() -> Builder {
        Builder {
            node_addresses: 2,
            sites: Vec::new(),
            link: None,
            seed: 1,
        }
    }

    /// Removes what labs of processes that are no more have left behind: their namespaces, and the
    /// processes that still run in them. Returns the namespaces' names.
    ///
    /// # Errors
    /// When a namespace cannot be removed.
    pub fn sweep() -> Result<Vec<String>, LabError> {
        sweep::sweep()
    }

    /// The node's host, on the public internet.
    pub fn node(&self) -> &Host {
        self.space("node")
    }

    /// Device `index`, from 0, of a site.
    ///
    /// # Errors
    /// When there is no such site or device.
    pub fn device(&self, site: &str, index: usize) -> Result<&Host, LabError> {
        let unknown = || LabError::UnknownDevice {
            site: site.to_owned(),
            device: index,
        };
        let name = self.site(site)?.devices.get(index).ok_or_else(unknown)?;
        Ok(self.space(name))
    }

    /// The outermost router of a site.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn router(&self, site: &str) -> Result<&Host, LabError> {
        Ok(self.space(&self.site(site)?.router))
    }

    /// Runs `f` on a thread of its own inside a host. Sockets that it opens stay the host's
    /// wherever they are used afterwards, and threads that it starts stay inside.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `f` panics.
    pub fn enter<T: Send>(&self, host: &Host, f: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        host.enter(f)
    }

    /// Starts a process inside a host; dropping the guard kills it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, host: &Host, mut command: Command) -> Result<Child, LabError> {
        let failed = |source| LabError::Namespace {
            action: "start a program",
            space: host.name().to_owned(),
            source,
        };
        host.enter(|| command.spawn())?
            .map(Child::new)
            .map_err(failed)
    }

    /// Sets what the internet does to all packets, from now on.
    ///
    /// # Errors
    /// When the kernel refuses to queue packets.
    pub fn set_link(&self, link: Link) -> Result<(), LabError> {
        self.links().set(link);
        self.start_delayer()
    }

    /// Sets what the internet does to packets from one end to another, that way only.
    ///
    /// # Errors
    /// When there is no such site, or the kernel refuses to queue packets.
    pub fn set_link_between(&self, from: End<'_>, to: End<'_>, link: Link) -> Result<(), LabError> {
        let (from, to) = (self.prefixes(from)?, self.prefixes(to)?);
        self.links().set_between(from, to, link);
        self.start_delayer()
    }

    /// Cuts the internet between two sites, both ways, at once. Both still reach the node.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn cut(&self, a: &str, b: &str) -> Result<(), LabError> {
        let table = cut_table(a, b);
        let mut rules = format!(
            "table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n  \
             chain forward {{\n    type filter hook forward priority -300\n"
        );
        let (a, b) = (self.prefixes(End::Site(a))?, self.prefixes(End::Site(b))?);
        for (from, to) in a.iter().zip(&b) {
            let family = if from.address.is_ipv4() { "ip" } else { "ip6" };
            for (from, to) in [(from, to), (to, from)] {
                let _ = writeln!(
                    rules,
                    "    {family} saddr {}/{} {family} daddr {}/{} drop",
                    from.address, from.bits, to.address, to.bits
                );
            }
        }
        rules.push_str("  }\n}\n");
        self.net().load_rules(&rules)
    }

    /// Undoes [`Lab::cut`]. Harmless when nothing is cut.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn heal(&self, a: &str, b: &str) -> Result<(), LabError> {
        self.site(a)?;
        self.site(b)?;
        let table = cut_table(a, b);
        self.net()
            .load_rules(&format!("table inet {table}\ndelete table inet {table}\n"))
    }

    /// Makes a site's routers forget all mappings, as a restart does.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn reboot_nat(&self, site: &str) -> Result<(), LabError> {
        for (router, learns) in &self.site(site)?.routers {
            let router = self.space(router);
            let forgotten = router.start("conntrack", &["-F"], "")?;
            if *learns {
                router
                    .load_rules("flush map ip lab_nat owner\nflush set ip lab_nat permitted\n")?;
            }
            forgotten.finish()?;
        }
        Ok(())
    }

    /// Makes a site's outermost router drop all UDP, both ways, from now on.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn block_udp(&self, site: &str) -> Result<(), LabError> {
        self.router(site)?.load_rules(
            "table inet lab_block\ndelete table inet lab_block\ntable inet lab_block {\n  \
             chain forward {\n    type filter hook forward priority -10\n    \
             meta l4proto udp drop\n  }\n}\n",
        )
    }

    /// Undoes [`Lab::block_udp`]. Harmless when nothing is blocked.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn unblock_udp(&self, site: &str) -> Result<(), LabError> {
        self.router(site)?
            .load_rules("table inet lab_block\ndelete table inet lab_block\n")
    }

    fn net(&self) -> &Host {
        self.space("net")
    }

    fn space(&self, name: &str) -> &Host {
        let found = self.hosts.iter().find(|(key, _)| key == name);
        found
            .map(|(_, host)| host)
            .expect("the plan's own names have hosts")
    }

    fn site(&self, name: &str) -> Result<&SitePlan, LabError> {
        let found = self.sites.iter().find(|site| site.name == name);
        found.ok_or_else(|| LabError::UnknownSite(name.to_owned()))
    }

    fn prefixes(&self, end: End<'_>) -> Result<Vec<Prefix>, LabError> {
        match end {
            End::Site(name) => Ok(self.site(name)?.prefixes.clone()),
            End::Node => Ok(self
                .node()
                .addresses()
                .iter()
                .map(|address| host(*address))
                .collect()),
        }
    }

    fn links(&self) -> std::sync::MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the internet's packets through the delayer, once.
    fn start_delayer(&self) -> Result<(), LabError> {
        let mut delayer = self.delayer.lock().unwrap_or_else(PoisonError::into_inner);
        if delayer.is_some() {
            return Ok(());
        }
        let net = self.net();
        let failed = |source: io::Error| LabError::Namespace {
            action: "queue packets",
            space: net.name().to_owned(),
            source,
        };
        let queue = net.enter(|| Queue::bind(QUEUE))?.map_err(failed)?;
        *delayer = Some(Delayer::start(queue, Arc::clone(&self.links), self.seed).map_err(failed)?);
        // nftables' own queue statement is not in every kernel; the older one is. A queue that
        // nobody serves is passed by.
        let number = QUEUE.to_string();
        let rule = [
            "-t",
            "mangle",
            "-A",
            "FORWARD",
            "-j",
            "NFQUEUE",
            "--queue-bypass",
        ];
        let rule = [&rule[..], &["--queue-num", &number]].concat();
        let rules = [
            net.start("iptables", &rule, "")?,
            net.start("ip6tables", &rule, "")?,
        ];
        rules.into_iter().try_for_each(Job::finish)
    }
}

impl Builder {
    /// Gives the node one or two public addresses in each family.
    #[must_use]
    pub fn node_addresses(mut self, count: usize) -> Self {
        self.node_addresses = count;
        self
    }

    /// Adds a site.
    #[must_use]
    pub fn site(mut self, site: Site) -> Self {
        self.sites.push(site);
        self
    }

    /// Sets what the internet does to all packets.
    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        self.link = Some(link);
        self
    }

    /// Sets the seed that jitter and loss come from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Builds the lab.
    ///
    /// # Errors
    /// When the description is unsound, or the machine refuses: see [`Lab::check`].
    pub fn build(self) -> Result<Lab, LabError> {
        let plan = Plan::new(&self.sites, self.node_addresses)?;
        sweep_once();
        let names = Names::new(&plan);
        let hosts = make(&plan, &names)?;
        let lab = Lab {
            delayer: Mutex::new(None),
            links: Arc::default(),
            seed: self.seed,
            sites: plan.sites,
            hosts,
            _names: names,
        };
        if let Some(link) = self.link {
            lab.set_link(link)?;
        }
        Ok(lab)
    }
}

/// The lab's namespaces by name; removes them.
#[derive(Debug)]
struct Names {
    prefix: String,
    names: Vec<String>,
}

impl Names {
    fn new(plan: &Plan) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let prefix = sweep::prefix(std::process::id(), number);
        let names = plan
            .spaces
            .iter()
            .map(|space| format!("{prefix}{}", space.name))
            .collect();
        Self { prefix, names }
    }

    fn of(&self, space: &str) -> String {
        format!("{}{space}", self.prefix)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Err(error) = sweep::remove(&self.names) {
            tracing::error!(%error, "namespaces are left behind");
        }
    }
}

/// Makes what the plan says: namespaces, then links, then everything inside them at once.
fn make(plan: &Plan, names: &Names) -> Result<Vec<(String, Host)>, LabError> {
    let mut batch = String::new();
    for space in &plan.spaces {
        let _ = writeln!(batch, "netns add {}", names.of(&space.name));
    }
    start_ip(None, &batch)?.finish()?;
    let mut hosts = Vec::new();
    for space in &plan.spaces {
        let host = Host::open(&names.of(&space.name), space.addresses.clone())?;
        host.set(&space.settings)?;
        hosts.push((space.name.clone(), host));
    }

    let mut batch = String::new();
    for cable in &plan.cables {
        let ((left, left_if), (right, right_if)) = (&cable.left, &cable.right);
        let (left, right) = (names.of(left), names.of(right));
        let _ = writeln!(
            batch,
            "link add name {left_if} netns {left} type veth peer name {right_if} netns {right}"
        );
    }
    start_ip(Some(&names.of(&plan.spaces[NET].name)), &batch)?.finish()?;

    let mut jobs = Vec::new();
    for (space, (_, host)) in plan.spaces.iter().zip(&hosts) {
        jobs.push(start_ip(Some(host.name()), &(space.ip.join("\n") + "\n"))?);
        if !space.rules.is_empty() {
            jobs.push(host.start_rules(&space.rules)?);
        }
    }
    jobs.into_iter().try_for_each(Job::finish)?;
    hosts.iter().try_for_each(|(_, host)| host.settle())?;
    Ok(hosts)
}

/// Leftovers are removed at a process's first lab; failing to is no reason not to build it.
fn sweep_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = sweep::sweep() {
            tracing::warn!(%error, "leftovers of earlier labs stay");
        }
    });
}

fn cut_table(a: &str, b: &str) -> String {
    let (first, second) = if a < b { (a, b) } else { (b, a) };
    format!("cut_{first}_{second}")
}

fn host(address: IpAddr) -> Prefix {
    Prefix {
        address,
        bits: if address.is_ipv4() { 32 } else { 128 },
    }
}

static COUNTER: AtomicU32 = AtomicU32::new(0);
const QUEUE: u16 = 0;
