//! Tickets, whatever becomes of sessions and handles.

use bytes::Bytes;
use tombolo_client::{Device, Error, ErrorCode, Ticket, TicketId};
use tombolo_wire::v1::{
    MatchEvent, MatchResponse, Request, TicketStatus, match_event, match_request, match_response,
    request, response, server_frame,
};

use crate::lab::soon;
use crate::script::Script;

#[tokio::test]
async fn whoever_waits_for_a_ticket_is_told_that_the_session_is_over() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let matchmaker = device.matchmaker();
    let ending = line.reject(ErrorCode::Replaced);
    let (ticket, ()) = tokio::join!(soon(matchmaker.next_ticket()), ending);
    assert!(ticket.is_none());
    assert!(soon(matchmaker.next_ticket()).await.is_none());
}

#[tokio::test]
async fn a_ticket_that_was_dropped_is_no_invitation() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let waiting = async {
        let submit = line.request().await;
        line.answer(&submit, waits()).await;
    };
    let (ticket, ()) = tokio::join!(submit(&device), waiting);
    let dropped = ticket.unwrap().id();
    // The node tells of it until it knows.
    let invitation = TicketId([9; 16]);
    for id in [dropped, invitation] {
        line.tell(server_frame::Body::Matchmaker(MatchEvent {
            pool: "duel".into(),
            ticket: Bytes::copy_from_slice(&id.0),
            kind: Some(match_event::Kind::Status(TicketStatus::default())),
        }))
        .await;
    }
    let ticket = soon(device.matchmaker().next_ticket()).await.unwrap();
    assert_eq!(ticket.id(), invitation);
}

#[tokio::test]
async fn a_ticket_is_submitted_again_when_the_session_is_lost_before_it_waits() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let losing = async {
        let first = line.request().await;
        let mut line = script.forget(line).await;
        loop {
            // The device comes back to it, and its application submits it.
            let again = line.request().await;
            assert_eq!(about(&again), about(&first));
            line.answer(&again, waits()).await;
        }
    };
    let ticket = soon(async {
        tokio::select! {
            ticket = submit(&device) => ticket,
            () = losing => panic!("that does not end"),
        }
    });
    ticket.await.unwrap();
}

#[tokio::test]
async fn a_ticket_that_may_wait_although_it_was_refused_is_cancelled() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let refusing = async {
        let submit = line.request().await;
        line.refuse(&submit, ErrorCode::Unavailable).await;
        about(&submit)
    };
    let (refused, submitted) = tokio::join!(submit(&device), refusing);
    assert!(refused.unwrap_err().is_temporary());
    let cancelled = about(&line.request().await);
    assert_eq!(cancelled, (false, submitted.1));
}

async fn submit(device: &Device) -> Result<Ticket, Error> {
    device.matchmaker().ticket("duel").submit().await
}

fn waits() -> response::Result {
    let status = TicketStatus::default();
    response::Result::Matchmaker(MatchResponse {
        result: Some(match_response::Result::Status(status)),
    })
}

/// Whether a ticket is submitted, or else cancelled, and which.
fn about(request: &Request) -> (bool, Bytes) {
    let Some(request::Kind::Matchmaker(request)) = &request.kind else {
        panic!("not about a ticket: {request:?}");
    };
    match &request.kind {
        Some(match_request::Kind::Submit(submit)) => (true, submit.id.clone()),
        Some(match_request::Kind::Cancel(cancel)) => (false, cancel.id.clone()),
        other => panic!("not about a ticket that waits: {other:?}"),
    }
}
