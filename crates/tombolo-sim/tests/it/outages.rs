//! What happens when paths and NATs fail.

use std::time::Duration;

use tombolo_path::Cause;
use tombolo_sim::{Access, Behaviour, LinkConfig, NatConfig, PortRule, Seed, seed};

use crate::scene::{INTERVAL, Scene, is_direct, is_relayed, millis};

#[test]
fn the_relay_carries_again_within_600_ms_of_a_cut_and_direct_is_back_5_s_after_it() {
    for seed in seed!().several(3) {
        for nat in [
            None,
            Some(NatConfig::full_cone()),
            Some(NatConfig::port_restricted()),
        ] {
            for delay in [5, 12, 25, 60] {
                let access = nat.map_or_else(Access::open, Access::behind);
                cut_and_heal(seed, access.with_link(LinkConfig::new(millis(delay))));
            }
        }
    }
}

fn cut_and_heal(seed: Seed, access: Access) {
    let mut scene = Scene::new(seed, access.clone(), access);
    scene.connect();
    assert!(
        scene.until_direct(millis(1000)).is_some(),
        "not direct at first"
    );
    scene.run_for(Duration::from_secs(3));
    scene.cut();
    let cut = scene.now();
    scene.run_for(Duration::from_secs(10));
    let healed = scene.now();
    scene.heal();
    for (device, peer) in scene.directions() {
        let record = scene.device_at(device).record(peer).expect("introduced");
        let mut changes = record.routes.iter().filter(|change| change.at >= cut);
        let lost = changes.next().expect("the route changed");
        assert_eq!(lost.cause, Cause::Suspected);
        assert!(
            lost.at - cut <= millis(600),
            "suspected only after {:?}",
            lost.at - cut
        );
        let relayed = record
            .first_received(cut, is_relayed)
            .expect("the relay carries");
        // What was under way at the cut still arrives, and then the relay takes one way more: on slow
        // paths only the decision can come in time.
        let gap = relayed.at - cut;
        let is_slow = scene.rtt(device, peer) > millis(110);
        assert!(
            is_slow || gap <= millis(600),
            "the relay carried only after {gap:?}"
        );
        assert_eq!(changes.next(), None, "it changed once");
        let stray = record
            .sent
            .iter()
            .find(|sent| sent.at > lost.at && is_direct(sent.via));
        assert_eq!(stray, None, "something was sent into the dead path");
        assert!(
            record.longest_gap(relayed.at) < millis(100),
            "the relay carries steadily"
        );
    }
    let back = scene.until_direct(Duration::from_secs(5));
    assert!(back.is_some(), "not direct 5 s after {healed:?}");
    scene.assert_messages_flow("after the cut", is_direct);
}

#[test]
fn an_outage_of_200_ms_does_not_cost_the_direct_path() {
    for seed in seed!().several(10) {
        let mut scene = Scene::new(seed, Access::open(), Access::open());
        scene.connect();
        assert!(
            scene.until_direct(millis(1000)).is_some(),
            "not direct at first"
        );
        scene.run_for(Duration::from_secs(2));
        let before = scene.now();
        scene.cut();
        scene.run_for(millis(200));
        scene.heal();
        scene.run_for(Duration::from_secs(2));
        for (device, peer) in scene.directions() {
            let record = scene.device_at(device).record(peer).expect("introduced");
            let change = record.routes.iter().find(|change| change.at > before);
            assert_eq!(change, None, "a false alarm");
        }
    }
}

#[test]
fn steady_loss_of_5_percent_causes_no_false_alarm() {
    for seed in seed!().several(5) {
        let nat = NatConfig::port_restricted();
        let mut scene = Scene::impaired(seed, Access::behind(nat), Access::behind(nat));
        scene.connect();
        assert!(
            scene.until_direct(Duration::from_secs(5)).is_some(),
            "not direct at first"
        );
        scene.run_for(Duration::from_secs(120));
        for (device, peer) in scene.directions() {
            let record = scene.device_at(device).record(peer).expect("introduced");
            let alarm = record
                .routes
                .iter()
                .find(|change| change.cause == Cause::Suspected);
            assert_eq!(alarm, None, "a false alarm");
        }
    }
}

#[test]
fn idle_devices_keep_their_direct_path_and_their_mappings() {
    for seed in seed!().several(3) {
        let nat = NatConfig::port_restricted().with_timeout(Duration::from_secs(30));
        let mut scene = Scene::impaired(seed, Access::behind(nat), Access::behind(nat));
        scene.connect();
        assert!(
            scene.until_direct(Duration::from_secs(5)).is_some(),
            "not direct at first"
        );
        for (device, peer) in scene.directions() {
            scene.with_device(device, |_, device| device.stop_stream(peer));
        }
        scene.run_for(Duration::from_secs(600));
        for (device, peer) in scene.directions() {
            let route = scene.device_at(device).route(peer).expect("introduced");
            assert!(is_direct(route), "{route}");
        }
    }
}

#[test]
fn a_long_session_outlives_permissions_channels_and_the_allocation_lifetime() {
    let nat = NatConfig::symmetric().with_timeout(Duration::from_secs(60));
    let mut scene = Scene::impaired(seed!(), Access::behind(nat), Access::behind(nat));
    scene.connect();
    for interval in [Duration::from_secs(1), INTERVAL] {
        for (device, peer) in scene.directions() {
            scene.with_device(device, |now, device| {
                device.start_stream(now, peer, interval)
            });
        }
        scene.run_for(Duration::from_secs(45 * 60).mul_f64(interval.as_secs_f64()));
    }
    scene.assert_messages_flow("after 45 minutes", is_relayed);
}

#[test]
fn devices_recover_when_a_nat_forgets_its_mappings() {
    let random = |filtering| {
        NatConfig::new(Behaviour::EndpointIndependent, filtering).with_ports(PortRule::Random)
    };
    let nats = [
        NatConfig::full_cone(),
        NatConfig::restricted(),
        NatConfig::port_restricted(),
        random(Behaviour::EndpointIndependent),
        random(Behaviour::AddressAndPortDependent),
    ];
    for seed in seed!().several(5) {
        for nat in nats {
            let mut scene = Scene::impaired(seed, Access::behind(nat), Access::behind(nat));
            scene.connect();
            assert!(
                scene.until_direct(Duration::from_secs(10)).is_some(),
                "not direct at first"
            );
            scene.run_for(Duration::from_secs(2));
            scene.note(format_args!("{nat:?}"));
            let a = scene.a;
            scene.reboot_nats(a);
            scene.run_for(Duration::from_secs(5));
            scene.assert_messages_flow("after the reboot", |_| true);
            assert!(
                scene.until_direct(Duration::from_secs(10)).is_some(),
                "{nat:?} not direct"
            );
        }
    }
}

#[test]
fn relayed_devices_recover_when_a_symmetric_nat_forgets_its_mappings() {
    for seed in seed!().several(5) {
        let nat = NatConfig::symmetric();
        let mut scene = Scene::impaired(seed, Access::behind(nat), Access::behind(nat));
        scene.connect();
        scene.run_for(Duration::from_secs(5));
        let a = scene.a;
        scene.reboot_nats(a);
        scene.run_for(Duration::from_secs(25));
        scene.assert_messages_flow("after the reboot", is_relayed);
    }
}
