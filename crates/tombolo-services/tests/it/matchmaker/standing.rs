//! What devices are told of how their tickets stand, while nothing becomes of those.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_estimate_is_told_although_nothing_else_is_another() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let status = submit(&mut alice, "duel", 1, &[("alice", 1e6)]).await;
    let status = status.unwrap();
    assert_eq!((status.waiting, status.half_ms), (1, None));
    alice.is_quiet().await;
    let [mut bob, mut carol] = [seeker(&lab, "bob").await, seeker(&lab, "carol").await];
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    submit(&mut carol, "duel", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    found(&mut carol).await;
    let told = standing(&mut alice).await;
    assert_eq!(told.waiting, 1);
    assert!(told.half_ms.is_some() && told.most_ms.is_some(), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_among_many_is_told_when_it_is_clearly_more_or_fewer() {
    let lab = lab();
    let mut devices = Vec::new();
    let come = async |number: u32| {
        let user = format!("u{number}");
        let mut device = seeker(&lab, &user).await;
        // Ids are as spread as random ones.
        let id = (u128::from(number) << 122) | (u128::from(number) << 96);
        let submit = match_request::Kind::Submit(v1::SubmitTicket {
            id: Bytes::copy_from_slice(&id.to_be_bytes()),
            players: players(&[(&user, f64::from(number) * 1e6)]),
            ..v1::SubmitTicket::default()
        });
        ask(&mut device, "duel", submit).await.unwrap();
        device
    };
    for number in 0..40 {
        devices.push(come(number).await);
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    for device in &mut devices {
        device.drain().await;
    }
    for (number, is_told) in [(40, false), (41, false), (42, true)] {
        devices.push(come(number).await);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let told = standing_by_now(&mut devices[0]).await;
        assert_eq!(told, is_told.then_some(43), "{number}");
    }
    for device in &mut devices[1..20] {
        assert_eq!(standing(device).await.waiting, 43, "{}", device.user);
    }
}

async fn standing(device: &mut Device) -> v1::TicketStatus {
    event(device, |kind| match kind {
        match_event::Kind::Status(status) => Some(status),
        _ => None,
    })
    .await
}

/// How many wait, if that was told.
async fn standing_by_now(device: &mut Device) -> Option<u32> {
    let mut waiting = None;
    while let Some(frame) = device.next_frame().await {
        if let tombolo_services::Outgoing::Reliable(frame) = frame
            && let Some(server_frame::Body::Matchmaker(told)) = frame.body
            && let Some(match_event::Kind::Status(status)) = told.kind
        {
            waiting = Some(status.waiting);
        }
    }
    waiting
}
