//! Matches that run and ask for more users, as a script tells of them.

use std::time::Duration;

use bytes::Bytes;
use tombolo_client::{Backfill, BackfillStatus, Device, ErrorCode, Match, Name, TicketId, UserId};

use tombolo_wire::v1::{
    self, MatchResponse, Request, match_event, match_request, match_response, request, response,
};

use crate::lab::soon;
use crate::script::{Line, Script};
use crate::tickets::{begins, tell, waiting};

#[tokio::test]
async fn what_becomes_of_a_running_match_between_two_looks_is_told_by_the_next() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let (_found, backfill) = backfilled(&device, &mut line).await;
    for generation in [2, 3] {
        become_what(&mut line, generation, "").await;
    }
    reaches(&backfill, |status| status.generation == 3).await;
    assert_eq!(next(&backfill).await, Some((3, None)));

    // What the application says itself is no news to it.
    let (updated, ()) = tokio::join!(soon(backfill.update(Vec::new())), answer(&mut line, 4));
    updated.unwrap();
    become_what(&mut line, 0, "filled").await;
    reaches(&backfill, |status| status.ended.is_some()).await;
    assert_eq!(next(&backfill).await, Some((4, Some("filled".to_owned()))));
    assert_eq!(next(&backfill).await, None);
}

#[tokio::test]
async fn who_says_the_teams_anew_goes_by_what_it_was_told() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let (_found, backfill) = backfilled(&device, &mut line).await;
    // It does not look until it was refused twice.
    for is_looked_at in [false, false, true] {
        let after = if is_looked_at {
            backfill.status().generation
        } else {
            1
        };
        let refusing = async {
            let update = line.request().await;
            assert_eq!(after_of(&update), after);
            become_what(&mut line, 2, "").await;
            line.refuse(&update, ErrorCode::Conflict).await;
        };
        let (refused, ()) = tokio::join!(soon(backfill.update(Vec::new())), refusing);
        assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::Conflict));
    }
    assert_eq!(backfill.status().generation, 2);
    assert_eq!(next(&backfill).await, Some((2, None)));
}

#[tokio::test]
async fn an_answer_that_is_older_than_what_was_told_changes_nothing() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let found = found(&device, &mut line).await;
    let asking = async {
        let request = line.request().await;
        become_what(&mut line, 2, "").await;
        line.answer(&request, stands(1)).await;
    };
    let (backfill, ()) = tokio::join!(soon(found.backfill(Vec::new(), LEASE)), asking);
    let backfill = backfill.unwrap();
    assert_eq!(backfill.status().generation, 2);
    assert_eq!(next(&backfill).await, Some((2, None)));
}

#[tokio::test]
async fn with_the_teams_a_device_says_where_the_match_is_played_and_who_hosts_it() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut found = found(&device, &mut line).await;
    found.region = Some(Name::parse("eu").unwrap());
    let user = |name| Some(UserId::parse(name).unwrap());
    found.host = user("alice");
    let mut told = Vec::new();
    let asking = soon(found.backfill(Vec::new(), LEASE));
    let (backfill, venue) = tokio::join!(asking, answer_venue(&mut line, 1));
    told.push(venue);
    let backfill = backfill.unwrap();
    for host in [user("bob"), None] {
        backfill.set_host(host);
        let update = soon(backfill.update(Vec::new()));
        let (updated, venue) = tokio::join!(update, answer_venue(&mut line, 2));
        updated.unwrap();
        told.push(venue);
    }
    let at = |host: &str| {
        Some(v1::MatchVenue {
            region: "eu".into(),
            host: host.into(),
        })
    };
    assert_eq!(told, [at("alice"), at("bob"), at("")]);
}

/// A match that asks for more users for the first time.
async fn backfilled(device: &Device, line: &mut Line) -> (Match, Backfill) {
    let found = found(device, line).await;
    let asking = soon(found.backfill(Vec::new(), LEASE));
    let (backfill, ()) = tokio::join!(asking, answer(line, 1));
    (found, backfill.unwrap())
}

async fn found(device: &Device, line: &mut Line) -> Match {
    let ticket = waiting(device, line).await;
    let id = ticket.id();
    let beginning = async {
        tell(line, id, begins()).await;
        let joins = line.request().await;
        line.joined(&joins, &["alice"]).await;
    };
    let (found, ()) = soon(async { tokio::join!(ticket.found(), beginning) }).await;
    found.unwrap()
}

async fn answer(line: &mut Line, generation: u32) {
    let request = line.request().await;
    line.answer(&request, stands(generation)).await;
}

fn stands(generation: u32) -> response::Result {
    let status = match_response::Result::Backfill(status(generation, ""));
    response::Result::Matchmaker(MatchResponse {
        result: Some(status),
    })
}

/// Answers who tells the teams; returns where the match is played.
async fn answer_venue(line: &mut Line, generation: u32) -> Option<v1::MatchVenue> {
    let request = line.request().await;
    line.answer(&request, stands(generation)).await;
    open_of(&request).venue.clone()
}

/// By which generation the teams are that a device tells.
fn after_of(request: &Request) -> u32 {
    open_of(request).after
}

fn open_of(request: &Request) -> &v1::OpenBackfill {
    if let Some(request::Kind::Matchmaker(request)) = &request.kind
        && let Some(match_request::Kind::Backfill(open)) = &request.kind
    {
        return open;
    }
    panic!("teams should have been told, not {request:?}");
}

async fn become_what(line: &mut Line, generation: u32, ended: &str) {
    let kind = match_event::Kind::Backfill(status(generation, ended));
    // It is of no ticket.
    tell(line, TicketId([0; 16]), kind).await;
}

fn status(generation: u32, ended: &str) -> v1::BackfillStatus {
    v1::BackfillStatus {
        id: Bytes::copy_from_slice(&[1; 16]),
        generation,
        ended: ended.to_owned(),
    }
}

/// Waits until the device knows that it stands so.
async fn reaches(backfill: &Backfill, is_such: impl Fn(&BackfillStatus) -> bool) {
    soon(async {
        while !is_such(&backfill.status()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn next(backfill: &Backfill) -> Option<(u32, Option<String>)> {
    let status = soon(backfill.changed()).await?;
    Some((status.generation, status.ended))
}

const LEASE: Duration = Duration::from_secs(30);
