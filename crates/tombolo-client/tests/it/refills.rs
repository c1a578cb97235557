//! A running match that says who has left, and takes others in, through a node.

use std::time::Duration;

use tombolo_client::{Device, Error, Match, Name, Player, UserId};
use tombolo_node::MatchPool;

use crate::lab::{device, joined, node_with, soon, user};
use crate::matches::owner_of;

const RAID: &str = r#"
name = "raid"
fill = "1ms"
[[teams]]
name = "side"
quantity = 2
min = 1
max = 2
roles = [{ name = "healer", max = 1 }, { name = "fighter", max = 1 }]
[[rules]]
kind = "latency"
attribute = "ping"
regions = ["eu", "us"]
max = 100
"#;

#[tokio::test]
async fn who_has_left_a_running_match_leaves_its_role_in_its_team_to_another() {
    let node = node_with(|node| node.pool(MatchPool::parse(RAID).unwrap())).await;
    let [alice, bob, dave, erin] = [
        device(&node, "alice").await,
        device(&node, "bob").await,
        device(&node, "dave").await,
        device(&node, "erin").await,
    ];
    let both = tokio::join!(soon(found(&alice, "healer")), soon(found(&bob, "healer")));
    let both = [both.0.unwrap(), both.1.unwrap()];
    assert!(both.iter().all(|found| found.region == Some(name("us"))));
    assert_eq!(both[0].host, both[1].host);
    soon(joined(&both[0].room, "bob")).await;
    let owner = soon(owner_of(&both[0])).await;
    let [of_alice, of_bob] = both;
    let (stays, leaves, gone) = match owner == user("alice") {
        true => (of_alice, of_bob, user("bob")),
        false => (of_bob, of_alice, user("alice")),
    };
    let opening = stays.backfill(teams(&stays, &[]), LEASE);
    let backfill = soon(opening).await.unwrap();

    let joins = soon(found(&dave, "fighter")).await.unwrap();
    assert!(joins.is_running);
    assert_eq!(joins.region, Some(name("us")));
    while backfill.status().generation < 2 {
        soon(backfill.changed()).await.unwrap();
    }
    // Each team has its healer.
    let mut waiting = tokio::spawn(async move { found(&erin, "healer").await });
    let early = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(early.is_err(), "{early:?}");

    let team_of_gone = leaves.team_of(&gone).unwrap().name.clone();
    soon(leaves.room.leave()).await.unwrap();
    let mut now = teams(&stays, &[&gone]);
    let team_of_dave = joins.teams.iter().find(|team| !team.members.is_empty());
    let team_of_dave = team_of_dave.unwrap().name.clone();
    for (team, parties) in &mut now {
        if *team == team_of_dave {
            parties.push(vec![Player::new(user("dave"))]);
        }
    }
    soon(backfill.update(now)).await.unwrap();
    // Another one may have joined by now.
    assert!(backfill.status().generation >= 3);
    let joins = soon(waiting).await.unwrap().unwrap();
    assert!(joins.is_running);
    assert_eq!(joins.room.id(), stays.room.id());
    let team = joins.team_of(&user("erin")).unwrap();
    assert_eq!(team.name, team_of_gone);
    assert_eq!(team.members, [(user("erin"), Some(name("healer")))]);
}

async fn found(device: &Device, role: &str) -> Result<Match, Error> {
    let ping = [("eu", 90.0), ("us", 30.0)].map(|(region, ping)| (name(region), ping));
    let ping = tombolo_client::MatchValue::Map(ping.into());
    let ticket = device.matchmaker().ticket("raid").attribute("ping", ping);
    ticket.role(role).submit().await?.found().await
}

/// Its teams, each user by itself, but for some.
fn teams(found: &Match, but: &[&UserId]) -> Vec<(Name, Vec<Vec<Player>>)> {
    let teams = found.teams.iter().map(|team| {
        let members = team.members.iter().map(|(user, _)| user);
        let members = members.filter(|user| !but.contains(user));
        let parties = members.map(|user| vec![Player::new(user.clone())]);
        (team.name.clone(), parties.collect())
    });
    teams.collect()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

const LEASE: Duration = Duration::from_secs(30);
