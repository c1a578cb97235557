//! Tickets, whatever becomes of sessions and handles.

use bytes::Bytes;
use tombolo_client::{
    Device, Error, ErrorCode, Player, RoomOptions, Ticket, TicketEvent, TicketId,
};
use tombolo_wire::v1::{
    MatchDone, MatchEvent, MatchFailed, MatchFound, MatchProposed, MatchResponse, Request,
    TicketEnded, TicketStatus, Welcome, match_event, match_request, match_response, request,
    response, server_frame,
};

use crate::lab::soon;
use crate::script::{Line, Script, given_up, welcome};

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
    let dropped = waiting(&device, &mut line).await.id();
    // The node tells of it until it knows.
    let invitation = TicketId([9; 16]);
    for id in [dropped, invitation] {
        let status = match_event::Kind::Status(TicketStatus::default());
        tell(&mut line, id, status).await;
    }
    let ticket = soon(device.matchmaker().next_ticket()).await.unwrap();
    assert_eq!(ticket.id(), invitation);
}

#[tokio::test]
async fn invitations_that_have_ended_leave_their_places_to_others() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    for number in 0..16 {
        let id = TicketId([number; 16]);
        let status = match_event::Kind::Status(TicketStatus::default());
        tell(&mut line, id, status).await;
        let reason = "cancelled".to_owned();
        tell(
            &mut line,
            id,
            match_event::Kind::Ended(TicketEnded { reason }),
        )
        .await;
    }
    let waits = TicketId([99; 16]);
    tell(
        &mut line,
        waits,
        match_event::Kind::Status(TicketStatus::default()),
    )
    .await;
    // All of that was told before the answer to this.
    let _own = waiting(&device, &mut line).await;
    let ticket = soon(device.matchmaker().next_ticket()).await.unwrap();
    assert_eq!(ticket.id(), waits);
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
async fn a_lost_ticket_is_submitted_with_the_party_that_it_has_by_then() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let rooms = device.rooms();
    let joining = async {
        let join = line.request().await;
        line.joined(&join, &["alice", "bob"]).await;
    };
    let (room, ()) = tokio::join!(rooms.join("party-1", RoomOptions::default()), joining);
    let room = room.unwrap();
    let ticket = waiting(&device, &mut line).await;
    let party = ["bob", "alice"].map(|name| Player::new(name.parse().unwrap()));
    let changing = async {
        let change = line.request().await;
        line.answer(&change, waits()).await;
    };
    let (changed, ()) = tokio::join!(ticket.change_party(&room, party), changing);
    changed.unwrap();

    let mut line = script.forget(line).await;
    let again = loop {
        let request = line.request().await;
        match &request.kind {
            Some(request::Kind::Join(_)) => line.joined(&request, &["alice", "bob"]).await,
            Some(_) if comes_back(&request) => line.refuse(&request, ErrorCode::NoSuchThing).await,
            Some(request::Kind::Matchmaker(about)) => match &about.kind {
                Some(match_request::Kind::Submit(submit)) => break submit.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    let users: Vec<_> = again
        .players
        .iter()
        .map(|player| &player.user[..])
        .collect();
    assert_eq!(users, ["alice", "bob"], "whose ticket it is comes first");
    assert_eq!(again.party, "party-1");
}

#[tokio::test]
async fn a_session_that_goes_on_over_another_node_comes_back_to_its_tickets() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let ticket = waiting(&device, &mut line).await;
    let seq = line.seq;
    drop(line);
    let mut line = script.accept().await;
    let other = Welcome {
        node: "other".into(),
        ..welcome(true)
    };
    line.welcome_with(other).await;
    line.seq = seq;
    // The match began meanwhile, and the node that the session has left has told nobody.
    let again = loop {
        let request = line.request().await;
        assert_eq!(
            about(&request),
            (true, Bytes::copy_from_slice(&ticket.id().0))
        );
        // That it was submitted at all the script has never acknowledged.
        if comes_back(&request) {
            break request;
        }
    };
    line.answer(&again, waits()).await;
    tell(&mut line, ticket.id(), begins()).await;
    let joining = async {
        let join = line.request().await;
        line.joined(&join, &["alice"]).await;
    };
    let (found, ()) = tokio::join!(soon(ticket.found()), joining);
    assert_eq!(found.unwrap().room.id().as_str(), ROOM);
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

#[tokio::test]
async fn a_ticket_of_which_nobody_knows_whether_it_waits_is_submitted_again() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let answering = async {
        let first = line.request().await;
        line.refuse(&first, ErrorCode::Unsure).await;
        let again = line.request().await;
        assert_eq!(about(&again), about(&first));
        line.answer(&again, waits()).await;
    };
    let (ticket, ()) = tokio::join!(submit(&device), answering);
    ticket.unwrap();
}

#[tokio::test]
async fn a_ticket_is_cancelled_again_when_the_node_could_not_do_it() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    for is_waited_for in [true, false] {
        let ticket = waiting(&device, &mut line).await;
        let id = ticket.id();
        let cancelling = async {
            if is_waited_for {
                ticket.cancel().await.unwrap();
            } else {
                drop(ticket);
            }
        };
        let answering = async {
            for code in [ErrorCode::Unavailable, ErrorCode::Limit] {
                let cancel = cancelled(&mut line, id).await;
                line.refuse(&cancel, code).await;
            }
            let last = cancelled(&mut line, id).await;
            // One of those before was done after all.
            line.refuse(&last, ErrorCode::NoSuchThing).await;
        };
        soon(async { tokio::join!(cancelling, answering) }).await;
    }
}

#[tokio::test]
async fn a_ticket_that_waits_although_it_was_dropped_is_cancelled_or_its_match_declined() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let id = waiting(&device, &mut line).await.id();
    let cancel = cancelled(&mut line, id).await;
    line.refuse(&cancel, ErrorCode::NoSuchThing).await;
    let failed = match_event::Kind::Failed(MatchFailed { number: 1 });
    for kind in [match_event::Kind::Status(TicketStatus::default()), failed] {
        tell(&mut line, id, kind).await;
        cancelled(&mut line, id).await;
    }
    tell(&mut line, id, proposes(2)).await;
    assert_eq!(declined(&mut line).await, 2);
}

#[tokio::test]
async fn a_ticket_that_is_dropped_while_its_user_is_asked_whether_it_is_ready_declines() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut ticket = waiting(&device, &mut line).await;
    tell(&mut line, ticket.id(), proposes(1)).await;
    while !matches!(
        soon(ticket.next_event()).await.unwrap(),
        TicketEvent::Proposed(_)
    ) {}
    let id = ticket.id();
    drop(ticket);
    let cancel = cancelled(&mut line, id).await;
    line.refuse(&cancel, ErrorCode::Conflict).await;
    assert_eq!(declined(&mut line).await, 1);
}

#[tokio::test]
async fn a_user_that_is_asked_whether_it_is_ready_while_its_ticket_is_cancelled_is_not() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let ticket = waiting(&device, &mut line).await;
    let id = ticket.id();
    let answering = async {
        let cancel = cancelled(&mut line, id).await;
        tell(&mut line, id, proposes(1)).await;
        line.refuse(&cancel, ErrorCode::Conflict).await;
        let decline = line.request().await;
        assert_eq!(declined_by(&decline), 1);
        line.answer(&decline, done()).await;
    };
    let (cancelled, ()) = soon(async { tokio::join!(ticket.cancel(), answering) }).await;
    cancelled.unwrap();
}

#[tokio::test]
async fn a_ticket_that_looks_on_since_another_has_declined_is_cancelled_once_more() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    for is_told_before in [true, false] {
        let ticket = waiting(&device, &mut line).await;
        let id = ticket.id();
        let answering = async {
            let cancel = cancelled(&mut line, id).await;
            tell(&mut line, id, proposes(1)).await;
            let failed = match_event::Kind::Failed(MatchFailed { number: 1 });
            if is_told_before {
                tell(&mut line, id, failed).await;
                line.refuse(&cancel, ErrorCode::Conflict).await;
            } else {
                line.refuse(&cancel, ErrorCode::Conflict).await;
                let decline = line.request().await;
                assert_eq!(declined_by(&decline), 1);
                tell(&mut line, id, failed).await;
                line.refuse(&decline, ErrorCode::NoSuchThing).await;
            }
            let again = cancelled(&mut line, id).await;
            line.answer(&again, done()).await;
        };
        let (cancelled, ()) = soon(async { tokio::join!(ticket.cancel(), answering) }).await;
        cancelled.unwrap();
    }
}

#[tokio::test]
async fn who_accepts_too_late_looks_on_when_another_has_declined() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let ticket = waiting(&device, &mut line).await;
    let id = ticket.id();
    let answering = async {
        tell(&mut line, id, proposes(1)).await;
        let accepts = line.request().await;
        line.refuse(&accepts, ErrorCode::NoSuchThing).await;
        let failed = match_event::Kind::Failed(MatchFailed { number: 1 });
        tell(&mut line, id, failed).await;
        tell(&mut line, id, begins()).await;
        let joins = line.request().await;
        line.joined(&joins, &["bob"]).await;
    };
    let (found, ()) = soon(async { tokio::join!(ticket.found(), answering) }).await;
    assert_eq!(found.unwrap().room.id().as_str(), ROOM);
}

#[tokio::test]
async fn who_cannot_say_that_it_is_ready_says_it_again_while_there_is_time() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let ticket = waiting(&device, &mut line).await;
    let id = ticket.id();
    let answering = async {
        tell(&mut line, id, proposes(1)).await;
        let accepts = line.request().await;
        line.refuse(&accepts, ErrorCode::Unavailable).await;
        let again = line.request().await;
        assert_eq!(again.kind, accepts.kind);
        line.answer(&again, done()).await;
        tell(&mut line, id, begins()).await;
        let joins = line.request().await;
        line.joined(&joins, &["bob"]).await;
    };
    let (found, ()) = soon(async { tokio::join!(ticket.found(), answering) }).await;
    assert_eq!(found.unwrap().room.id().as_str(), ROOM);
}

#[tokio::test]
async fn a_ticket_that_has_ended_is_no_invitation() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let ticket = waiting(&device, &mut line).await;
    let (ended, invitation) = (ticket.id(), TicketId([9; 16]));
    let ending = async {
        tell(&mut line, ended, begins()).await;
        let joins = line.request().await;
        line.joined(&joins, &["bob"]).await;
    };
    let (found, ()) = soon(async { tokio::join!(ticket.found(), ending) }).await;
    let _found = found.unwrap();
    for id in [ended, invitation] {
        // A node that was slow may have put it back into its pool.
        let status = match_event::Kind::Status(TicketStatus::default());
        tell(&mut line, id, status).await;
    }
    let ticket = soon(device.matchmaker().next_ticket()).await.unwrap();
    assert_eq!(ticket.id(), invitation);
}

#[tokio::test]
async fn a_match_is_kept_for_who_did_not_wait_until_its_room_was_joined() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut ticket = waiting(&device, &mut line).await;
    tell(&mut line, ticket.id(), begins()).await;
    let joins = given_up(
        async { while !matches!(ticket.next_event().await, Ok(TicketEvent::Found(_))) {} },
        &mut line,
    )
    .await;
    line.joined(&joins, &["bob"]).await;
    let event = soon(ticket.next_event()).await.unwrap();
    let TicketEvent::Found(found) = event else {
        panic!("{event:?}");
    };
    assert_eq!(found.room.members().len(), 1);
    assert!(soon(ticket.next_event()).await.is_err(), "nothing follows");
}

#[tokio::test]
async fn the_room_of_a_match_is_not_left_while_it_is_asked_for_again() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut ticket = waiting(&device, &mut line).await;
    tell(&mut line, ticket.id(), begins()).await;
    let joining = async {
        let join = line.request().await;
        line.refuse(&join, ErrorCode::Unavailable).await;
        // It was done all the same, and whoever leaves does not get in again.
        line.member_joined(ROOM, "bob").await;
        let again = line.request().await;
        line.joined(&again, &["alice", "bob"]).await;
    };
    let found =
        async { while !matches!(ticket.next_event().await.unwrap(), TicketEvent::Found(_)) {} };
    soon(async { tokio::join!(found, joining) }).await;
}

const ROOM: &str = "tombolo-match-1";

pub(crate) fn begins() -> match_event::Kind {
    match_event::Kind::Found(MatchFound {
        id: Bytes::copy_from_slice(&[1; 16]),
        room: ROOM.into(),
        ..MatchFound::default()
    })
}

pub(crate) async fn tell(line: &mut Line, ticket: TicketId, kind: match_event::Kind) {
    line.tell(server_frame::Body::Matchmaker(MatchEvent {
        pool: "duel".into(),
        ticket: Bytes::copy_from_slice(&ticket.0),
        kind: Some(kind),
    }))
    .await;
}

fn proposes(number: u64) -> match_event::Kind {
    match_event::Kind::Proposed(MatchProposed {
        number,
        users: 2,
        left_ms: 10_000,
    })
}

/// The device's next request, which is to cancel a ticket.
async fn cancelled(line: &mut Line, ticket: TicketId) -> Request {
    let request = line.request().await;
    assert_eq!(about(&request), (false, Bytes::copy_from_slice(&ticket.0)));
    request
}

/// Of which match the device says next that its user is not ready.
async fn declined(line: &mut Line) -> u64 {
    declined_by(&line.request().await)
}

fn declined_by(request: &Request) -> u64 {
    if let Some(request::Kind::Matchmaker(request)) = &request.kind
        && let Some(match_request::Kind::Answer(answer)) = &request.kind
        && !answer.accept
    {
        return answer.number;
    }
    panic!("a match should have been declined, not {request:?}");
}

/// A ticket of which the node has said that it waits.
pub(crate) async fn waiting(device: &Device, line: &mut Line) -> Ticket {
    let waiting = async {
        let submit = line.request().await;
        line.answer(&submit, waits()).await;
    };
    let (ticket, ()) = tokio::join!(submit(device), waiting);
    ticket.unwrap()
}

async fn submit(device: &Device) -> Result<Ticket, Error> {
    device.matchmaker().ticket("duel").submit().await
}

fn done() -> response::Result {
    let done = match_response::Result::Done(MatchDone {});
    response::Result::Matchmaker(MatchResponse { result: Some(done) })
}

fn waits() -> response::Result {
    let status = TicketStatus::default();
    response::Result::Matchmaker(MatchResponse {
        result: Some(match_response::Result::Status(status)),
    })
}

/// Whether a request names a ticket and says no more of it.
fn comes_back(request: &Request) -> bool {
    let Some(request::Kind::Matchmaker(request)) = &request.kind else {
        return false;
    };
    matches!(&request.kind, Some(match_request::Kind::Submit(submit)) if submit.players.is_empty())
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
