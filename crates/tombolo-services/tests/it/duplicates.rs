//! Several devices of one user.

use tombolo_services::Duplicates;
use tombolo_wire::v1::{self, ErrorCode, client_frame};

use crate::lab::{Device, Lab};

fn lab(duplicates: Duplicates) -> Lab {
    Lab::with(|config| {
        config.sessions_per_user_max = 2;
        config.duplicates = duplicates;
    })
}

#[tokio::test(start_paused = true)]
async fn a_user_has_as_many_devices_as_it_may() {
    for duplicates in [
        Duplicates::ReplaceDisconnected,
        Duplicates::ReplaceOldest,
        Duplicates::RefuseNewcomer,
    ] {
        let lab = lab(duplicates);
        let [mut first, mut second] = [lab.device("alice").await, lab.device("alice").await];
        let _other = lab.device("bob").await;
        first.is_quiet().await;
        second.is_quiet().await;
        assert_eq!(lab.services.stats().sessions, 3, "{duplicates:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_gives_way_and_is_told() {
    let lab = lab(Duplicates::ReplaceOldest);
    let [mut first, mut second] = [lab.device("alice").await, lab.device("alice").await];
    let mut third = lab.device("alice").await;
    assert_eq!(first.next_close().await, Some(ErrorCode::Replaced));
    second.is_quiet().await;
    third.is_quiet().await;
    // It cannot come back to what is over, but as a newcomer.
    first.connection = None;
    assert!(!first.connect(&lab).await.unwrap().resumed);
    assert_eq!(second.next_close().await, Some(ErrorCode::Replaced));
    assert_eq!(lab.services.stats().sessions, 2);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_refused_even_if_a_device_has_no_connection() {
    let lab = lab(Duplicates::RefuseNewcomer);
    let [mut first, mut second] = [lab.device("alice").await, lab.device("alice").await];
    second.connection = None;
    let refused = Device::new("alice").connect(&lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Limit);
    assert!(second.connect(&lab).await.unwrap().resumed);
    first
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    assert!(Device::new("alice").connect(&lab).await.is_ok());
}
