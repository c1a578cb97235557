//! What the game's own code has to say of tickets.

use super::*;

#[tokio::test(start_paused = true)]
async fn of_who_has_not_agreed_neither_the_game_is_asked_nor_its_tickets_are_told() {
    let lab = lab_with(|config| {
        config.tickets_per_user_max = 1;
        config.hooks = HookSet::new(Doorman);
    });
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    let mut banned = seeker(&lab, "banned").await;
    let both = [("banned", 0.0), ("alice", 0.0)];
    let id = ask_submit(&mut banned, "teams", 2, &both, 0, "party-1");
    let drawn_in = banned.refusal_among(id).await;
    assert!(
        drawn_in.message.contains("alice is in no room"),
        "{drawn_in:?}"
    );
}

/// Lets nobody in who is banned, and those first who have paid.
struct Doorman;

impl Hooks for Doorman {
    fn authorize_ticket(&self, user: UserId, _: MatchName, mut ticket: MatchTicket) -> Admission {
        Box::pin(async move {
            if user.as_str() == "banned" {
                return Err(Reject {
                    code: ErrorCode::NotPermitted,
                    message: "not here".to_owned(),
                    nodes: Vec::new(),
                });
            }
            ticket.priority = i8::from(user.as_str() == "vip");
            Ok(ticket)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_games_own_code_refuses_tickets_and_gives_them_their_priority() {
    let lab = lab_with(|config| config.hooks = HookSet::new(Doorman));
    let mut banned = seeker(&lab, "banned").await;
    let refused = submit(&mut banned, "duel", 1, &[("banned", 0.0)]).await;
    assert_eq!(refused, Err(ErrorCode::NotPermitted));
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 2, &[("alice", 0.0)])
        .await
        .unwrap();
    let mut vip = seeker(&lab, "vip").await;
    submit(&mut vip, "duel", 3, &[("vip", 180.0)])
        .await
        .unwrap();
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut carol, "duel", 4, &[("carol", 90.0)])
        .await
        .unwrap();
    assert_eq!(users(&found(&mut carol).await), ["carol", "vip"]);
}
