use tombolo_wire::v1::ErrorCode;
use tombolo_wire::v1::server_frame::Body as Down;

use crate::device::{PATIENCE, TRANSPORTS, Transport, hello};
use crate::fixture::{Fixture, token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_told_to_go_when_the_gateway_shuts_down() {
    let fixture = Fixture::start();
    let mut devices = Vec::new();
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        device.hello(&token("alice")).await;
        devices.push(device);
    }
    let shutdown = tokio::spawn(fixture.gateway.shutdown());
    for device in &mut devices {
        device
            .receive_until(|frame| match frame.body {
                Some(Down::GoAway(_)) => Some(()),
                _ => None,
            })
            .await;
        assert_eq!(device.receive().await, None, "nothing follows");
    }
    shutdown.await.expect("it does not panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_drains_the_gateway_says_so() {
    let fixture = Fixture::start_with(|config| config.limits.farewell_timeout = PATIENCE);
    let mut slow = fixture.connect(Transport::WebSocket).await;
    slow.hello(&token("alice")).await;
    let server = fixture.server.clone();
    let shutdown = tokio::spawn(fixture.gateway.shutdown());
    slow.receive_until(|frame| match frame.body {
        Some(Down::GoAway(_)) => Some(()),
        _ => None,
    })
    .await;

    // The slow device has not closed its side yet.
    assert_eq!(server.get("/readyz", "").await.status, 503);
    assert_eq!(server.get("/healthz", "").await.status, 200);
    for transport in TRANSPORTS {
        let mut late = server.connect(transport).await;
        late.send_frame(&hello(&token("bob"))).await;
        assert_eq!(late.rejected().await.0, ErrorCode::Unavailable);
        late.close().await;
    }
    assert_eq!(slow.receive().await, None);
    drop(slow);
    shutdown.await.expect("it does not panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in_before_the_node_is_ready() {
    let fixture = Fixture::start_unready(|_| {});
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        device.send_frame(&hello(&token("alice"))).await;
        assert_eq!(device.rejected().await.0, ErrorCode::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_is_free_after_shutdown() {
    let fixture = Fixture::start();
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        device.hello(&token("alice")).await;
        device.vanish();
    }
    let port = fixture.server.addr.port();
    fixture.gateway.shutdown().await;
    let again = Fixture::start_with(|config| config.port = port);
    let mut device = again.connect(TRANSPORTS[0]).await;
    device.hello(&token("alice")).await;
}
