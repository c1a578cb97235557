//! A node whose server is cut off from the others, and with it the node, which reaches all of them.

use std::time::Duration;

use tokio::time::timeout;
use tombolo_engine::{Bus as _, BusEvent, Nats, Pattern, Subscription};
use tombolo_natlab::is_lab_possible_here;

use super::chaos::{cut, in_lab, servers};
use super::one::server;
use super::servers::current;
use super::{config, key};

#[test]
fn whoever_is_cut_off_with_its_server_hears_itself_alone_and_others_when_it_looks_elsewhere() {
    if !is_lab_possible_here() {
        return;
    }
    let Some(binary) = server(current()) else {
        return;
    };
    in_lab(async |lab| {
        let servers = servers(lab, &binary);
        let urls = servers.urls();
        let mut nodes = [Node::at(&urls[0]).await, Node::at(&urls[1]).await];
        meet(&mut nodes).await;
        // Nothing is on its way any more.
        let last = [nodes[0].say().await, nodes[1].say().await];
        for node in &mut nodes {
            let mut waiting = last.to_vec();
            while !waiting.is_empty() {
                let heard = node.hear().await;
                waiting.retain(|text| *text != heard);
            }
        }

        cut(lab, 0, true);
        for _ in 0..20 {
            for node in &mut nodes {
                let said = node.say().await;
                assert_eq!(node.hear().await, said);
            }
        }
        assert_eq!(nodes[0].engine.stats().moves, 0);

        nodes[0].engine.look_elsewhere().await;
        meet(&mut nodes).await;
        let moves = nodes.each_ref().map(|node| node.engine.stats().moves);
        assert_eq!(moves, [1, 0]);
    });
}

struct Node {
    url: String,
    engine: Nats,
    said: usize,
    heard: Subscription,
}

impl Node {
    async fn at(url: &str) -> Self {
        let engine = Nats::connect(config(vec![url.to_owned()], 3, "t"));
        let engine = engine.await.unwrap();
        let all = Pattern::Exactly(key("said"));
        Self {
            url: url.to_owned(),
            heard: engine.subscribe(&all, 4096).await.unwrap(),
            said: 0,
            engine,
        }
    }

    /// Says something, and returns it. Nobody may hear of it.
    async fn say(&mut self) -> String {
        self.said += 1;
        let text = format!("{} {}", self.url, self.said);
        let subject = key("said");
        let said = self.engine.publish(&subject, text.clone().into());
        let _ = said.await;
        text
    }

    async fn hear(&mut self) -> String {
        loop {
            match timeout(PATIENCE, self.heard.next()).await {
                Ok(Some(BusEvent::Message(message))) => {
                    return String::from_utf8(message.payload.into()).unwrap();
                }
                // Some of what was said while it went to another server.
                Ok(Some(BusEvent::Lost(_))) => {}
                end => panic!("nothing is heard: {end:?}"),
            }
        }
    }
}

/// Both say something until each has heard of the other.
async fn meet(nodes: &mut [Node; 2]) {
    let urls = nodes.each_ref().map(|node| node.url.clone());
    let meet = async {
        let mut has_met = [false; 2];
        while has_met != [true; 2] {
            for (index, node) in nodes.iter_mut().enumerate() {
                node.say().await;
                let moment = Duration::from_millis(20);
                while let Ok(heard) = timeout(moment, node.hear()).await {
                    has_met[index] |= heard.starts_with(&urls[1 - index]);
                }
            }
        }
    };
    let met = timeout(PATIENCE, meet).await;
    met.expect("both are on one bus");
}

/// Longer than any election on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
