//! Cutting, blocking, restarting.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use tombolo_natlab::probe::{Family, Responder};
use tombolo_natlab::{Host, Lab, LabError, Profile, Site, require};

fn open(lab: &Lab, host: &Host) -> UdpSocket {
    let address = host.addresses()[0];
    let socket = lab
        .enter(host, || UdpSocket::bind((address, 0)))
        .expect("inside")
        .expect("open");
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a time-out");
    socket
}

fn reaches(from: &UdpSocket, to: &UdpSocket) -> bool {
    let target: SocketAddr = to.local_addr().expect("bound");
    from.send_to(b"x", target).expect("sent");
    to.recv_from(&mut [0; 8]).is_ok()
}

fn check_cut(profile: Profile) {
    let lab = Lab::builder()
        .site(Site::new("a", profile))
        .site(Site::new("b", profile))
        .build()
        .expect("a lab");
    let [a, b] = ["a", "b"].map(|site| open(&lab, lab.device(site, 0).expect("a device")));
    let node = lab.node();
    let like_a = a.local_addr().expect("bound").is_ipv4();
    let node_ip = if like_a { node.ipv4() } else { node.ipv6() }.expect("an address");
    let node = lab
        .enter(node, || UdpSocket::bind((node_ip, 0)))
        .expect("inside")
        .expect("open");
    node.set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a time-out");
    // Opens a firewall from inside.
    reaches(&b, &a);
    reaches(&a, &b);
    assert!(reaches(&a, &b) && reaches(&b, &a), "connected at first");

    lab.cut("a", "b").expect("a cut");
    assert!(!reaches(&a, &b) && !reaches(&b, &a), "cut both ways");
    assert!(
        reaches(&a, &node) && reaches(&b, &node),
        "the node is reachable"
    );

    lab.heal("b", "a").expect("healed");
    assert!(reaches(&a, &b) && reaches(&b, &a), "connected again");
}

#[test]
fn a_cut_parts_two_sites_and_leaves_the_node_reachable() {
    require!();
    check_cut(Profile::NoNat);
}

#[test]
fn a_cut_parts_two_sites_in_ipv6() {
    require!();
    check_cut(Profile::Ipv6Firewall);
}

#[test]
fn a_restarted_nat_has_forgotten_its_mappings() {
    require!();
    for profile in [Profile::Symmetric, Profile::FullCone] {
        let lab = Lab::builder()
            .site(Site::new("a", profile))
            .build()
            .expect("a lab");
        let responder = Responder::start(&lab, Family::V4).expect("a responder");
        let device = lab.device("a", 0).expect("a device");
        let socket = open(&lab, device);
        let outer = responder
            .outer_address(&socket, 0)
            .expect("a probe")
            .expect("an answer");
        lab.reboot_nat("a").expect("restarted");
        if profile == Profile::FullCone {
            let node = open(&lab, lab.node());
            node.send_to(b"x", outer).expect("sent");
            assert!(
                socket.recv_from(&mut [0; 8]).is_err(),
                "the old mapping still lets in"
            );
        } else {
            let again = responder.outer_address(&socket, 0).expect("a probe");
            assert_ne!(again.expect("an answer"), outer);
        }
    }
}

#[test]
fn udp_can_be_blocked_and_let_through_again() {
    require!();
    let site = Site::new("a", Profile::PortRestricted);
    let lab = Lab::builder().site(site).build().expect("a lab");
    let responder = Responder::start(&lab, Family::V4).expect("a responder");
    let device = lab.device("a", 0).expect("a device");
    lab.block_udp("a").expect("blocked");
    assert_eq!(responder.classify(device).expect("a probe"), None);
    lab.unblock_udp("a").expect("let through");
    assert!(responder.classify(device).expect("a probe").is_some());
}

#[test]
fn tcp_passes_where_udp_is_blocked() {
    require!();
    let lab = Lab::builder()
        .site(Site::new("a", Profile::UdpBlocked))
        .build()
        .expect("a lab");
    let node = lab.node();
    let ip = node.ipv4().expect("an address");
    let listener = lab
        .enter(node, || std::net::TcpListener::bind((ip, 0)))
        .expect("inside")
        .expect("open");
    let target = listener.local_addr().expect("bound");
    let device = lab.device("a", 0).expect("a device");
    let connect = || std::net::TcpStream::connect_timeout(&target, Duration::from_secs(2));
    lab.enter(device, connect)
        .expect("inside")
        .expect("connected");
}

#[test]
fn devices_of_an_isolated_site_do_not_reach_each_other_inside() {
    require!();
    let lab = Lab::builder()
        .site(Site::new("a", Profile::PortRestricted).devices(2))
        .site(
            Site::new("b", Profile::PortRestricted)
                .devices(2)
                .isolated(),
        )
        .build()
        .expect("a lab");
    for (site, expected) in [("a", true), ("b", false)] {
        let [first, second] = [0, 1].map(|index| open(&lab, lab.device(site, index).expect("one")));
        assert_eq!(reaches(&first, &second), expected, "{site}");
    }
}

#[test]
fn a_process_runs_inside_its_host_and_ends_with_its_guard() {
    require!();
    let lab = Lab::builder()
        .site(Site::new("a", Profile::NoNat))
        .build()
        .expect("a lab");
    let device = lab.device("a", 0).expect("a device");
    let mut command = Command::new("sh");
    command
        .args(["-c", "readlink /proc/self/ns/net; exec sleep 60"])
        .stdout(Stdio::piped());
    let mut child = lab.spawn(device, command).expect("started");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let inside = lab
        .enter(device, || std::fs::read_link("/proc/thread-self/ns/net"))
        .expect("inside")
        .expect("a link");
    assert_eq!(line.trim(), inside.to_str().expect("plain"));
    let process = format!("/proc/{}", child.id());
    drop(child);
    assert!(!std::path::Path::new(&process).exists());
}

#[test]
fn what_is_not_in_the_lab_is_named_in_the_error() {
    require!();
    let lab = Lab::builder()
        .site(Site::new("a", Profile::NoNat))
        .build()
        .expect("a lab");
    assert!(matches!(lab.cut("a", "x"), Err(LabError::UnknownSite(name)) if name == "x"));
    assert!(matches!(
        lab.device("a", 1),
        Err(LabError::UnknownDevice { device: 1, .. })
    ));
}
