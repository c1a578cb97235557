//! To which node a device goes, by how far each is.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tombolo_client::{Audience, Device, RoomEvent, RoomOptions, SessionInfo};
use tombolo_engine::{Engine, Local, LocalConfig};
use tombolo_natlab::{End, Host, Lab, Link, Profile, Site, is_lab_possible_here};
use tombolo_node::Node;
use tombolo_wire::NodeId;

use crate::lab::soon;
use crate::moves::knows;

#[test]
fn a_device_goes_to_the_nearest_node_by_itself_though_others_come_before_that() {
    if !is_lab_possible_here() {
        return;
    }
    let sites = ["home", "near", "far"].map(|name| Site::new(name, Profile::NoNat));
    let lab = sites
        .into_iter()
        .fold(Lab::builder(), |lab, site| lab.site(site));
    let lab = lab.build().expect("a lab");
    // Round trips of 40 and of 80 ms.
    let home = End::Site("home");
    for (end, one_way_ms) in [(End::Node, 20), (End::Site("far"), 40)] {
        let link = Link::delay(Duration::from_millis(one_way_ms));
        for (from, to) in [(home, end), (end, home)] {
            lab.set_link_between(from, to, link).expect("delayed");
        }
    }

    let host = |site| lab.device(site, 0).expect("a device");
    let engine: Arc<dyn Engine> = Arc::new(Local::new(LocalConfig::default()));
    // Those of a node's region come first where a device is told of others.
    let places = [
        ("first", lab.node(), "here"),
        ("far", host("far"), "here"),
        ("near", host("near"), "elsewhere"),
    ];
    let nodes = places.map(|(name, host, region)| {
        let (runtime, engine) = (inside(&lab, host), Arc::clone(&engine));
        let ip = host.ipv4().expect("an address");
        let node = run(&runtime, async move {
            let node = Node::builder().dev().dev_key("dev", &[7; 32]).listen(ip);
            let node = node.name(NodeId::parse(name).unwrap()).region(region);
            let node = node.engine(engine).port(0).turn_port(0).turns_port(0);
            node.start().await.unwrap()
        });
        (runtime, node)
    });
    let url = nodes[0].1.ready().url.to_string();
    for (_, node) in &nodes {
        let waiting = inside(&lab, host("home"));
        waiting.block_on(knows(node, 2));
    }

    run(&inside(&lab, host("home")), goes_to_near(url));
    for (runtime, node) in nodes {
        run(&runtime, node.shutdown());
    }
}

/// Nobody sends the device away: it finds out by itself, and its application is not told but where it is.
async fn goes_to_near(url: String) {
    let device = Device::builder(&url).development_user("alice");
    let device = device.nearer_within(Some(Duration::from_secs(3)));
    let device = soon(device.connect()).await.unwrap();
    let rooms = device.rooms();
    let room = rooms.create("room", RoomOptions::default());
    let room = soon(room).await.unwrap();
    let mut sessions = device.watch_session();
    let at = |name: &'static str| {
        move |now: &Option<SessionInfo>| now.as_ref().is_some_and(|now| now.node == name)
    };
    soon(sessions.wait_for(at("near"))).await.unwrap();
    assert!(device.session().resumed, "it is the same session");
    soon(room.say(Audience::All, "here")).await.unwrap();
    soon(async { while !matches!(room.next_event().await, Some(RoomEvent::Said(_))) {} }).await;
    device.close().await;
}

/// A runtime whose sockets are those of a host.
fn inside(lab: &Lab, host: &Host) -> Runtime {
    let build = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build()
    };
    lab.enter(host, build)
        .expect("the lab is there")
        .expect("a runtime")
}

/// Does something on that runtime's threads.
fn run<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, done) = std::sync::mpsc::channel();
    runtime.spawn(async move { _ = sender.send(work.await) });
    done.recv().expect("it does not panic")
}
