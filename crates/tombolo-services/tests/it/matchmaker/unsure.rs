//! What devices are told when nobody knows what became of their requests.

use super::*;

#[tokio::test(start_paused = true)]
async fn of_a_ticket_that_may_wait_nobody_says_that_it_does_not() {
    let (lab, wire) = wired().await;
    let mut alice = seeker(&lab, "alice").await;
    // It is written, and not read here.
    wire.is_slow.store(true, Ordering::Relaxed);
    let told = submit(&mut alice, "duel", 1, &[("alice", 0.0)]).await;
    assert_eq!(told.unwrap_err(), ErrorCode::Unsure);
    wire.is_slow.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = submit(&mut alice, "duel", 1, &[("alice", 0.0)]).await;
    assert_eq!(again.map(|status| status.waiting), Ok(1));

    // Once more it does no harm to ask for these.
    wire.is_slow.store(true, Ordering::Relaxed);
    let back = submit(&mut alice, "duel", 1, &[("alice", 0.0)]).await;
    assert_eq!(back.unwrap_err(), ErrorCode::Unavailable);
    let cancelled = ask(&mut alice, "duel", cancel(1)).await;
    assert_eq!(cancelled.unwrap_err(), ErrorCode::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn of_users_for_whom_a_match_may_ask_nobody_says_that_it_does_not() {
    let (lab, wire) = wired().await;
    let (mut alice, _bob, first) = running_on(&lab).await;
    wire.is_slow.store(true, Ordering::Relaxed);
    let told = ask(&mut alice, "teams", asks_for_more(&first)).await;
    assert_eq!(told.unwrap_err(), ErrorCode::Unsure);
}

#[tokio::test(start_paused = true)]
async fn of_a_ticket_that_was_not_taken_it_is_said_that_it_does_not_wait() {
    let (lab, wire) = wired().await;
    let mut alice = seeker(&lab, "alice").await;
    wire.are_pools_closed.store(true, Ordering::Relaxed);
    let told = submit(&mut alice, "duel", 1, &[("alice", 0.0)]).await;
    assert_eq!(told.unwrap_err(), ErrorCode::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_matcher_whose_lease_is_not_renewed_at_once_goes_on() {
    let (lab, wire) = wired().await;
    wire.lose_leases();
    // A renewal is due every five seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    for (number, device, user) in [(1, &mut alice, "alice"), (2, &mut bob, "bob")] {
        let told = submit(device, "duel", number, &[(user, 0.0)]).await;
        told.unwrap();
    }
    assert_eq!(found(&mut alice).await, found(&mut bob).await);
}

#[tokio::test(start_paused = true)]
async fn a_matcher_whose_lease_is_not_renewed_ends_what_it_has_begun() {
    let (lab, wire) = wired().await;
    wire.lose_leases();
    tokio::time::sleep(Duration::from_secs(6)).await;
    // Longer than it takes until it asks for its lease again.
    wire.pool_ms.store(400, Ordering::Relaxed);
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    for (number, device, user) in [(1, &mut alice, "alice"), (2, &mut bob, "bob")] {
        let told = submit(device, "duel", number, &[(user, 0.0)]).await;
        told.unwrap();
    }
    assert_eq!(found(&mut alice).await, found(&mut bob).await);
    assert_eq!(lab.services.stats().claims_conflicted, 0);
}

/// A node that has read its pools, and its way to the engine.
async fn wired() -> (Lab, Arc<Wire>) {
    let wire = Wire::new(&Local::new(LocalConfig::default()));
    let engine = Arc::clone(&wire) as Arc<dyn Engine>;
    let lab = Lab::on(engine, |config| {
        serve_pools(config);
        config.engine_timeout = Duration::from_millis(500);
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    (lab, wire)
}
