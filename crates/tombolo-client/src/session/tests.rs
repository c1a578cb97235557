use tombolo_wire::v1::{Delivery, Leave};

use super::*;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn driver() -> (Driver, Handle, mpsc::Receiver<Event>) {
    let url: ServerUrl = "tombolo://127.0.0.1:1".parse().unwrap();
    let (commands_tx, commands) = mpsc::channel(COMMANDS_MAX);
    let (events, events_rx) = mpsc::channel(EVENTS_MAX);
    let patience = Patience(PATIENCE);
    let config = Config {
        url: url.clone(),
        tokens: Arc::new(Tokens::new(Credential {
            token: Some("token".to_owned()),
            ..Credential::default()
        })),
        keys: DeviceKeys::default(),
        agent: String::new(),
        patience,
        nearer_within: None,
    };
    let driver = Driver {
        endpoint: noq::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap(),
        nodes: Nodes::new(url),
        measuring: JoinSet::new(),
        looking: JoinSet::new(),
        nearer: Nearer::new(None, Instant::now()),
        pulse: Pulse::new(patience, Instant::now()),
        config: Arc::new(config),
        state: State::default(),
        resume_token: None,
        life: 0,
        commands,
        events,
    };
    (driver, Handle(commands_tx), events_rx)
}

#[tokio::test]
async fn a_connection_that_takes_nothing_more_is_read_all_the_same() {
    const FRAMES: u64 = 5;
    let (mut driver, handle, mut events) = driver();
    let (outgoing, mut sent) = mpsc::channel(1);
    let (from_node, incoming) = mpsc::channel(1);
    for _ in 0..FRAMES {
        handle.ask_aside(request::Kind::Leave(Leave::default()));
    }
    let driving = tokio::spawn(async move {
        let mut connection = Connection::pretend(outgoing, incoming);
        driver.serve(&mut connection).await
    });
    // The second of them stands in front of a full connection when the third comes.
    for _ in 0..3 {
        let body = Some(server_frame::Body::Delivery(Delivery::default()));
        let frame = ServerFrame {
            body,
            ..ServerFrame::default()
        };
        from_node.send(frame).await.unwrap();
        let told = tokio::time::timeout(PATIENCE, events.recv()).await;
        assert!(matches!(told, Ok(Some(Event::Frame(_)))), "{told:?}");
    }
    for seq in 1..=FRAMES {
        let frame = tokio::time::timeout(PATIENCE, sent.recv()).await;
        assert_eq!(frame.unwrap().unwrap().seq, seq);
    }
    drop(from_node);
    assert!(matches!(driving.await.unwrap(), End::Broken));
}

#[tokio::test]
async fn the_device_is_told_of_a_session_that_ends_by_a_panic() {
    let (events_tx, mut events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(told_to_the_end(
        async { panic!("the test says so") },
        events_tx,
    ));
    let told = tokio::time::timeout(PATIENCE, events.recv()).await;
    assert!(matches!(told, Ok(Some(Event::Closed(_)))), "{told:?}");
}
