//! A lab leaves nothing behind, and runs without root's rights.

use std::collections::BTreeSet;
use std::process::Command;

use tombolo_natlab::{Lab, Link, Means, Profile, Site, require, skip};

/// The namespaces that this process's labs have made.
fn own_namespaces() -> BTreeSet<String> {
    let mark = format!("tombolo-{}-", std::process::id());
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&mark)).collect()
}

fn lab() -> Lab {
    Lab::builder()
        .site(Site::new("a", Profile::FullCone).behind(Profile::PortRestricted))
        .site(Site::new("b", Profile::Ipv6Firewall).devices(2))
        .link(Link::delay(std::time::Duration::from_millis(5)))
        .build()
        .expect("a lab")
}

/// Other tests of this process may make labs at the same time.
fn names_of(lab: &Lab) -> Vec<String> {
    let node = lab.node().name();
    let prefix = node.strip_suffix("node").expect("the node's name");
    own_namespaces()
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .collect()
}

#[test]
fn a_dropped_lab_leaves_no_namespace() {
    require!();
    let lab = lab();
    let names = names_of(&lab);
    assert!(names.len() > 5, "{names:?}");
    drop(lab);
    let left = own_namespaces();
    assert!(names.iter().all(|name| !left.contains(name)), "{left:?}");
}

#[test]
fn a_lab_is_removed_when_its_test_panics() {
    require!();
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let lab = lab();
        sender.send(names_of(&lab)).expect("a listener");
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    let names = receiver.recv().expect("the names");
    let left = own_namespaces();
    assert!(names.iter().all(|name| !left.contains(name)), "{left:?}");
}

#[test]
fn a_sweep_removes_the_labs_of_dead_processes_only() {
    require!();
    let mut dead = Command::new("true").spawn().expect("started");
    dead.wait().expect("ended");
    let leftover = format!("tombolo-{}-0-net", dead.id());
    let made = Command::new("ip")
        .args(["netns", "add", &leftover])
        .status()
        .expect("ip");
    assert!(made.success());
    let living = lab();
    Lab::sweep().expect("swept");
    assert!(!std::path::Path::new("/run/netns").join(&leftover).exists());
    assert!(!names_of(&living).is_empty());
}

#[test]
fn several_labs_stand_side_by_side() {
    require!();
    let labs = [lab(), lab()];
    assert_ne!(labs[0].node().name(), labs[1].node().name());
}

#[test]
fn a_lab_runs_in_an_unprivileged_user_namespace() {
    require!();
    if std::env::var_os("TOMBOLO_NATLAB_INSIDE").is_some() {
        return;
    }
    // Another user may not read where this executable lies.
    let copy = std::env::temp_dir().join(format!("natlab-it-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().expect("a path"), &copy).expect("a copy");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args([
            "--exact",
            "nat::a_full_cone_maps_and_filters_by_endpoint",
            "--nocapture",
        ])
        .current_dir("/")
        .env_remove("TOMBOLO_SKIP_FILE")
        .output();
    std::fs::remove_file(&copy).expect("removed");
    let output = output.expect("setpriv");
    let said = String::from_utf8_lossy(&output.stderr);
    if let Some((_, reason)) = said.split_once("skipped: ") {
        skip(reason.lines().next().unwrap_or_default());
        return;
    }
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{told}");
    // Once inside the namespace, once around it.
    assert_eq!(told.matches("1 passed").count(), 2, "{told}");
}

#[test]
fn this_machine_says_by_what_means_labs_run() {
    require!();
    assert_eq!(Lab::check(), Ok(Means::Direct));
}

#[test]
fn a_test_that_cannot_run_says_what_to_install_and_leaves_a_record() {
    require!();
    let record = std::env::temp_dir().join(format!("natlab-skipped-{}", std::process::id()));
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .args(["mount -t tmpfs none /usr/sbin; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().expect("a path"))
        .args([
            "--exact",
            "teardown::several_labs_stand_side_by_side",
            "--nocapture",
        ])
        .env("TOMBOLO_SKIP_FILE", &record)
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let recorded = std::fs::read_to_string(&record).expect("a record");
    std::fs::remove_file(&record).expect("removed");
    let reason = "missing nft, iptables, ip6tables, conntrack: \
                  apt-get install -y nftables iptables conntrack";
    assert!(said.contains(&format!("skipped: {reason}")), "{said}");
    assert_eq!(
        recorded,
        format!("teardown::several_labs_stand_side_by_side: {reason}\n")
    );
}
