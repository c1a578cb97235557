//! Three servers, three replicas.

use std::cell::RefCell;
use std::sync::Arc;

use tombolo_engine::{Engine, Nats, conformance};

use super::config;
use super::one::server;
use super::servers::{self, Servers, say};

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
