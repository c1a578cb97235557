//! Which node a device goes on over, by how far each is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tombolo_client::Device;
use tombolo_engine::{Engine, Local, LocalConfig};
use tombolo_natlab::{End, Host, Lab, Link, Profile, Site, is_lab_possible_here};
use tombolo_node::Node;
use tombolo_wire::NodeId;

use crate::lab::soon;
use crate::moves::knows;

#[test]
fn a_device_goes_on_over_the_nearest_node_though_others_come_before_that() {
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
    let mut send_away: BTreeMap<_, SendAway> = BTreeMap::new();
    for ((name, ..), (_, node)) in places.iter().zip(&nodes) {
        let services = node.services().clone();
        send_away.insert((*name).to_owned(), Box::new(move || services.rebalance(1)));
    }
    for (_, node) in &nodes {
        let waiting = inside(&lab, host("home"));
        waiting.block_on(knows(node, 2));
    }

    run(
        &inside(&lab, host("home")),
        goes_on_until_near(url, send_away),
    );
    for (runtime, node) in nodes {
        run(&runtime, node.shutdown());
    }
}

/// Asks a device of a node to go; how many there were.
type SendAway = Box<dyn Fn() -> usize + Send + Sync>;

/// Sends a device away from each node where it is, until it is on the nearest: how far each is it measures some time
/// within seconds.
async fn goes_on_until_near(url: String, send_away: BTreeMap<String, SendAway>) {
    let device = Device::builder(&url).development_user("alice").connect();
    let device = soon(device).await.unwrap();
    let mut sessions = device.watch_session();
    soon(async {
        loop {
            let at = device.session().node;
            if at == "near" {
                break;
            }
            let has_gone = sessions.wait_for(|now| now.as_ref().is_some_and(|now| now.node != at));
            if send_away[&at]() == 0 {
                // The session is still on its way there.
                tokio::task::yield_now().await;
            } else {
                // It may have gone by itself just then.
                _ = tokio::time::timeout(Duration::from_secs(2), has_gone).await;
            }
        }
    })
    .await;
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
