//! Three servers, three replicas.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tombolo_engine::{Bus as _, BusEvent, Engine, Key, Nats, Pattern, Subscription, conformance};

use super::one::server;
use super::servers::{self, Servers, say};
use super::{config, key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_conform() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 3, "");
    let last: RefCell<Option<Nats>> = RefCell::default();
    conformance::all(async |name| {
        say(name);
        let before = last.take();
        if let Some(before) = before {
            before.delete_all().await.unwrap();
        }
        let engine = Nats::connect(config(servers.urls(), 3, name))
            .await
            .unwrap();
        last.replace(Some(engine.clone()));
        Arc::new(engine) as Arc<dyn Engine>
    })
    .await;
}

/// A server that stands still keeps its connections. Nothing but the engine's own look at it can notice here:
/// nobody writes, and the client's pings are hours apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_on_the_bus_goes_on_when_the_server_stands_still() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 3, "");
    let urls = servers.urls();
    let connect = async |server: usize| {
        let mut config = config(vec![urls[server].clone()], 3, "t");
        config.ping_interval = Duration::from_hours(1);
        Nats::connect(config).await.unwrap()
    };
    let (speaker, hearer) = (connect(0).await, connect(1).await);
    let said = key("said");
    let mut heard = hearer
        .subscribe(&Pattern::Under(said.clone()), 16)
        .await
        .unwrap();
    servers.servers[0].signal(Signal::SIGSTOP);
    speak_until_heard(&speaker, &mut heard).await;
    assert!(speaker.stats().moves > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_elsewhere_goes_to_another_server() {
    let Some(binary) = server(servers::current()) else {
        return;
    };
    let servers = Servers::start(&binary, 3, "");
    let config = config(vec![servers.urls()[0].clone()], 3, "t");
    let engine = Nats::connect(config).await.unwrap();
    let mut heard = engine
        .subscribe(&Pattern::Under(key("said")), 16)
        .await
        .unwrap();
    engine.look_elsewhere().await;
    // It would take no notice of this if it were still there.
    servers.servers[0].signal(Signal::SIGSTOP);
    speak_until_heard(&engine, &mut heard).await;
    assert_eq!(engine.stats().moves, 1);
}

async fn speak_until_heard(speaker: &Nats, heard: &mut Subscription) {
    let subject = Key::new(["said", "again"]).unwrap();
    let speaking = async {
        loop {
            // Nobody knows whether what the server takes is passed on.
            let _ = speaker.publish(&subject, "still here".into()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        event = heard.next() => assert!(matches!(event, Some(BusEvent::Message(_))), "{event:?}"),
        () = speaking => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("nothing is heard any more"),
    }
}
