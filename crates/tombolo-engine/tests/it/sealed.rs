//! An engine whose bus is sealed, and somebody without the key on the same one.

use std::sync::Arc;
use std::time::Duration;

use tombolo_engine::{
    Bus as _, BusEvent, Engine, Key, Local, LocalConfig, Message, Pattern, RequestError, SealKey,
    Sealed,
};

tombolo_engine::conformance_tests!(Arc::new(sealed(&open(), 1)) as Arc<dyn Engine>);

const PATIENCE: Duration = Duration::from_secs(30);

/// What everybody reaches.
fn open() -> Arc<dyn Engine> {
    let mut config = LocalConfig::default();
    config.lease_time = Duration::from_secs(1);
    Arc::new(Local::new(config))
}

/// A node's view of it.
fn sealed(engine: &Arc<dyn Engine>, key: u8) -> Sealed {
    let key = SealKey::new(&[key; 32]).unwrap();
    Sealed::new(Arc::clone(engine), &[key]).unwrap()
}

#[tokio::test]
async fn what_is_published_without_the_key_or_again_or_elsewhere_is_not_heard() {
    let open = open();
    let (node, other, stranger) = (sealed(&open, 1), sealed(&open, 1), sealed(&open, 2));
    let (inbox, beats) = (Key::new(["inbox"]).unwrap(), Key::new(["beats"]).unwrap());
    let inboxes = Pattern::Exactly(inbox.clone());
    let mut heard = node.subscribe(&inboxes, 16).await.unwrap();
    let mut overheard = open.subscribe(&Pattern::Exactly(beats.clone()), 16).await;
    let overheard = overheard.as_mut().unwrap();

    open.publish(&inbox, "plain".into()).await.unwrap();
    stranger.publish(&inbox, "mine".into()).await.unwrap();
    other.publish(&beats, "beat".into()).await.unwrap();
    let Some(BusEvent::Message(Message { payload, .. })) = overheard.next().await else {
        panic!("everybody hears that something is said");
    };
    assert!(!payload.windows(4).any(|bytes| bytes == b"beat"));
    open.publish(&inbox, payload).await.unwrap();

    let mut overheard = open.subscribe(&inboxes, 16).await.unwrap();
    other.publish(&inbox, "true".into()).await.unwrap();
    let Some(BusEvent::Message(repeated)) = overheard.next().await else {
        panic!("everybody hears that something is said");
    };
    open.publish(&inbox, repeated.payload).await.unwrap();
    other.publish(&inbox, "last".into()).await.unwrap();
    for said in ["true", "last"] {
        let event = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap();
        let Some(BusEvent::Message(message)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(
            (message.subject, &*message.payload),
            (inbox.clone(), said.as_bytes())
        );
    }
    let stats = node.stats();
    assert_eq!((stats.unsealed, stats.other_key), (1, 1));
    assert_eq!((stats.forged, stats.replayed), (1, 1));
}

#[tokio::test]
async fn requests_without_the_key_are_not_served_and_answers_without_it_not_believed() {
    let open = open();
    let (node, other) = (sealed(&open, 1), sealed(&open, 1));
    let subject = Key::new(["questions"]).unwrap();
    let mut server = node.serve(&subject, 16).await.unwrap();
    let serving = tokio::spawn(async move {
        while let Some(request) = server.next().await {
            let answer = [b"to ", &request.payload[..]].concat();
            request.answer(answer.into());
        }
    });
    let refused = open.request(&subject, "plain".into(), PATIENCE).await;
    assert_eq!(refused, Err(RequestError::Refused));
    let answer = other.request(&subject, "you".into(), PATIENCE).await;
    assert_eq!(answer.unwrap(), "to you");
    assert_eq!(node.stats().unsealed, 1);
    serving.abort();
    let _ = serving.await;

    let mut forger = open.serve(&subject, 16).await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = forger.next().await {
            // Nothing that it has heard is an answer.
            let heard = request.payload.clone();
            request.answer(heard);
        }
    });
    let forged = other.request(&subject, "you".into(), PATIENCE).await;
    assert_eq!(forged, Err(RequestError::Refused));
    assert_eq!(other.stats().forged, 1);
}
