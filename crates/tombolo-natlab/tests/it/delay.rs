//! Delay, jitter and loss are what was asked for.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use tombolo_natlab::{End, Lab, Link, Profile, Site, require};

const DELAY: Duration = Duration::from_millis(25);

fn lab(link: Link) -> Lab {
    Lab::builder()
        .site(Site::new("a", Profile::NoNat))
        .site(Site::new("b", Profile::NoNat))
        .link(link)
        .build()
        .expect("a lab")
}

fn sockets(lab: &Lab) -> [UdpSocket; 2] {
    ["a", "b"].map(|site| {
        let device = lab.device(site, 0).expect("a device");
        let ip = device.ipv4().expect("an address");
        let socket = lab
            .enter(device, || UdpSocket::bind((ip, 0)))
            .expect("inside")
            .expect("open");
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("a time-out");
        socket
    })
}

/// One-way times of `count` numbered packets at `rate` per second, in the order of arrival.
fn one_way(lab: &Lab, count: u32, rate: u32) -> Vec<(u32, Duration)> {
    let [a, b] = sockets(lab);
    let target = b.local_addr().expect("bound");
    let start = Instant::now();
    let sender = thread::spawn(move || {
        for number in 0..count {
            let due = Duration::from_secs(1) * number / rate;
            thread::sleep(due.saturating_sub(start.elapsed()));
            let sent = u64::try_from(start.elapsed().as_nanos()).expect("a short test");
            let packet = [&number.to_be_bytes()[..], &sent.to_be_bytes()].concat();
            a.send_to(&packet, target).expect("sent");
        }
    });
    let mut times = Vec::new();
    let mut buffer = [0; 64];
    while times.len() < count as usize
        && let Ok(length) = b.recv(&mut buffer)
    {
        assert_eq!(length, 12);
        let number = u32::from_be_bytes(buffer[..4].try_into().expect("four bytes"));
        let sent = u64::from_be_bytes(buffer[4..12].try_into().expect("eight bytes"));
        times.push((number, start.elapsed() - Duration::from_nanos(sent)));
    }
    sender.join().expect("the sender");
    times
}

fn percentile(times: &[(u32, Duration)], percent: usize) -> Duration {
    let mut times: Vec<Duration> = times.iter().map(|(_, time)| *time).collect();
    times.sort();
    times[(times.len() - 1) * percent / 100]
}

#[test]
fn a_constant_delay_is_kept_at_2000_packets_per_second_in_order() {
    require!();
    let times = one_way(&lab(Link::delay(DELAY)), 4000, 2000);
    assert_eq!(times.len(), 4000, "none is lost");
    assert!(
        times.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "in order"
    );
    let (p1, median, p99) = (
        percentile(&times, 1),
        percentile(&times, 50),
        percentile(&times, 99),
    );
    eprintln!("one way: 1 % {p1:?}, median {median:?}, 99 % {p99:?}");
    assert!(p1 >= DELAY, "never early: {p1:?}");
    assert!(median < DELAY + Duration::from_millis(2), "{median:?}");
}

#[test]
fn a_tcp_connection_is_delayed_too() {
    require!();
    let lab = lab(Link::delay(DELAY));
    let node = lab.node();
    let ip = node.ipv4().expect("an address");
    let listener = lab
        .enter(node, || TcpListener::bind((ip, 0)))
        .expect("inside")
        .expect("open");
    let target = listener.local_addr().expect("bound");
    let device = lab.device("a", 0).expect("a device");
    let connect = || {
        let start = Instant::now();
        TcpStream::connect(target).map(|_| start.elapsed())
    };
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            lab.enter(device, connect)
                .expect("inside")
                .expect("connected")
        })
        .collect();
    times.sort();
    assert!(times[0] >= 2 * DELAY, "{times:?}");
    assert!(
        times[4] < 2 * DELAY + Duration::from_millis(10),
        "{times:?}"
    );
}

#[test]
fn jitter_spreads_the_delay_and_keeps_the_order() {
    require!();
    let jitter = Duration::from_millis(10);
    let times = one_way(&lab(Link::delay(DELAY).with_jitter(jitter)), 500, 200);
    assert!(
        times.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "in order"
    );
    assert!(percentile(&times, 1) >= DELAY - jitter);
    assert!(percentile(&times, 90) - percentile(&times, 10) > Duration::from_millis(5));
}

#[test]
fn jitter_may_be_let_to_reorder() {
    require!();
    let jitter = Duration::from_millis(10);
    let times = one_way(
        &lab(Link::delay(DELAY).with_jitter(jitter).with_reorder()),
        500,
        1000,
    );
    assert!(times.windows(2).any(|pair| pair[0].0 > pair[1].0));
}

#[test]
fn loss_takes_the_part_that_was_asked_for() {
    require!();
    let times = one_way(&lab(Link::default().with_loss(0.2)), 2000, 4000);
    let lost = 2000 - times.len();
    assert!((300..500).contains(&lost), "lost {lost} of 2000");
}

#[test]
fn a_link_between_two_ends_applies_to_one_direction() {
    require!();
    let lab = lab(Link::default());
    lab.set_link_between(End::Site("a"), End::Site("b"), Link::delay(DELAY))
        .expect("set");
    let there = one_way(&lab, 50, 500);
    lab.set_link_between(End::Site("a"), End::Site("b"), Link::default())
        .expect("set");
    lab.set_link_between(End::Site("b"), End::Site("a"), Link::delay(DELAY))
        .expect("set");
    let undelayed = one_way(&lab, 50, 500);
    assert!(percentile(&there, 50) >= DELAY);
    assert!(percentile(&undelayed, 50) < DELAY / 2);
}
