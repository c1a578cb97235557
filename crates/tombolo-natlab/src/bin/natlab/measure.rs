//! What the lab itself costs: building, removing, and the error of its delay.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tombolo_natlab::{Lab, Link, Profile, Site};

/// Figures of the lab, times in milliseconds.
pub(crate) struct Figures {
    /// Median time to build a lab of two sites behind NATs.
    pub(crate) build_ms: f64,
    /// Median time to remove it.
    pub(crate) remove_ms: f64,
    /// How much later than asked packets arrive, by percentile.
    pub(crate) late_ms: [(usize, f64); 4],
    /// Packets sent, and of those lost and overtaken.
    pub(crate) packets: (usize, usize, usize),
}

/// Measures, in some ten seconds.
pub(crate) fn measure() -> anyhow::Result<Figures> {
    let mut build = Vec::new();
    let mut remove = Vec::new();
    for _ in 0..BUILDS {
        let start = Instant::now();
        let lab = pair(Profile::PortRestricted, Link::default())?;
        build.push(ms(start.elapsed()));
        let start = Instant::now();
        drop(lab);
        remove.push(ms(start.elapsed()));
    }
    let arrivals = delays()?;
    let mut late: Vec<f64> = arrivals
        .iter()
        .map(|(_, time)| ms(*time) - ms(DELAY))
        .collect();
    let overtaken = arrivals
        .windows(2)
        .filter(|pair| pair[0].0 > pair[1].0)
        .count();
    let sent = usize::try_from(PACKETS)?;
    Ok(Figures {
        build_ms: percentile(&mut build, 50),
        remove_ms: percentile(&mut remove, 50),
        late_ms: [1, 50, 99, 100].map(|percent| (percent, percentile(&mut late, percent))),
        packets: (sent, sent - arrivals.len(), overtaken),
    })
}

fn pair(profile: Profile, link: Link) -> anyhow::Result<Lab> {
    let [a, b] = ["a", "b"].map(|name| Site::new(name, profile));
    Ok(Lab::builder().site(a).site(b).link(link).build()?)
}

/// Number and one-way time of each packet, in the order of arrival.
fn delays() -> anyhow::Result<Vec<(u32, Duration)>> {
    let lab = pair(Profile::NoNat, Link::delay(DELAY))?;
    let open = |site| {
        let device = lab.device(site, 0)?;
        let ip = device.ipv4().context("an address")?;
        anyhow::Ok(lab.enter(device, || UdpSocket::bind((ip, 0)))??)
    };
    let (sender, receiver) = (open("a")?, open("b")?);
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let target = receiver.local_addr()?;
    let start = Instant::now();
    let sending = thread::spawn(move || -> anyhow::Result<()> {
        for number in 0..PACKETS {
            let due = Duration::from_secs(1) * number / RATE;
            thread::sleep(due.saturating_sub(start.elapsed()));
            let sent = u64::try_from(start.elapsed().as_nanos())?;
            let mut packet = [0; PACKET_BYTES];
            packet[..4].copy_from_slice(&number.to_be_bytes());
            packet[4..12].copy_from_slice(&sent.to_be_bytes());
            sender.send_to(&packet, target)?;
        }
        Ok(())
    });
    let mut arrivals = Vec::new();
    let mut packet = [0; PACKET_BYTES];
    while arrivals.len() < usize::try_from(PACKETS)? && receiver.recv(&mut packet).is_ok() {
        let now = start.elapsed();
        let number = u32::from_be_bytes(*packet.first_chunk().context("four bytes")?);
        let sent = u64::from_be_bytes(*packet[4..].first_chunk().context("eight bytes")?);
        arrivals.push((number, now - Duration::from_nanos(sent)));
    }
    sending
        .join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok(arrivals)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get(last * percent / 100)
        .copied()
        .unwrap_or(f64::NAN)
}

const BUILDS: usize = 20;
const DELAY: Duration = Duration::from_millis(25);
const RATE: u32 = 2000;
const PACKETS: u32 = 10_000;
const PACKET_BYTES: usize = 200;
