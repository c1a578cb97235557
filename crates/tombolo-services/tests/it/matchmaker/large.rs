//! A large match, through all that a node does for one.

use super::*;

const ARENA: &str = r#"
name = "arena"
ready = "30s"
tick = "5s"
[[teams]]
name = "side"
quantity = 4
min = 50
max = 50
roles = [{ name = "healer", min = 5 }, { name = "fighter" }]
[[attributes]]
name = "skill"
kind = "number"
default = 0
[[rules]]
kind = "distance"
attribute = "skill"
max = 50
relax = { every = "5s", by = 175, limit = 400 }
[[rules]]
kind = "latency"
attribute = "ping"
regions = ["eu", "us"]
max = 60
relax = [{ after = "5s", value = 120 }]
"#;

const USERS: u32 = 200;

/// The first ones are parties of two.
const PAIRED: u32 = 40;

#[tokio::test(start_paused = true)]
async fn a_thousand_users_find_one_match_and_meet_in_its_room() {
    const COUNT: u32 = 1000;
    let lab = lab_with(|config| {
        let crowd = "name = \"crowd\"\nplayers = { min = 1000, max = 1000 }";
        config.pools.push(MatchPool::parse(crowd).unwrap());
    });
    let mut devices = Vec::new();
    for number in 0..COUNT {
        // The longest names that there may be.
        let user = format!("{number:04}-{:059}", 0);
        let mut device = seeker(&lab, &user).await;
        submit(&mut device, "crowd", number, &[(&user, 0.0)])
            .await
            .unwrap();
        devices.push(device);
    }
    let mut rooms = BTreeSet::new();
    for device in &mut devices {
        let found = found(device).await;
        assert_eq!(users(&found).len(), COUNT as usize);
        rooms.insert(found.room);
    }
    assert_eq!(rooms.len(), 1);
    let room = rooms.first().unwrap();
    let mut joined = Vec::new();
    for device in &mut devices {
        joined.push(
            device
                .join(room, JoinMode::Join)
                .await
                .unwrap()
                .members
                .len(),
        );
    }
    assert_eq!(joined, (1..=COUNT as usize).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn two_hundred_users_whose_rules_relax_are_asked_and_meet_and_the_rules_hold() {
    let lab = lab_with(|config| config.pools.push(MatchPool::parse(ARENA).unwrap()));
    let mut crowd = BTreeMap::new();
    let mut waits = Vec::new();
    for number in 0..USERS {
        let own = Seeker::new(number);
        let mut device = seeker(&lab, &own.user).await;
        let is_led = number < PAIRED && number % 2 == 1;
        if number < PAIRED {
            let party = format!("party-{}", number / 2);
            device.join(&party, JoinMode::JoinOrCreate).await.unwrap();
        }
        crowd.insert(own.user.clone(), own);
        waits.push(device);
        if is_led {
            let [.., leader, _] = &mut waits[..] else {
                panic!("two of a party");
            };
            leader.drain().await;
            hand_in(leader, &[number - 1, number]).await;
        } else if number >= PAIRED {
            hand_in(&mut waits[number as usize], &[number]).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let mut numbers = BTreeSet::new();
    for device in &mut waits {
        let proposed = event(device, |kind| match kind {
            match_event::Kind::Proposed(proposed) => Some(proposed),
            _ => None,
        });
        let proposed = proposed.await;
        assert_eq!(proposed.users, USERS);
        numbers.insert(proposed.number);
    }
    let until = Instant::now();
    assert_eq!(numbers.len(), 1, "all are asked about the same match");
    let number = numbers.pop_first().unwrap();
    for device in &mut waits {
        ask(device, "arena", accept(number)).await.unwrap();
    }
    let mut told = Vec::new();
    for device in &mut waits {
        told.push(found(device).await);
    }
    assert!(told.iter().all(|one| *one == told[0]));
    check(&told[0], &crowd, until);
    for (at, device) in waits.iter_mut().enumerate() {
        let joined = device.join(&told[0].room, JoinMode::Join).await.unwrap();
        assert_eq!(joined.members.len(), at + 1);
    }
}

/// Somebody of the crowd, as it was made up here.
struct Seeker {
    user: String,
    skill: f64,
    eu: f64,
    us: f64,
    is_healer: bool,
    mate: Option<String>,
    since: Instant,
}

impl Seeker {
    fn new(number: u32) -> Self {
        let name = |number: u32| format!("u{number:03}");
        let spread = |step: u32| f64::from(number * step % USERS) / f64::from(USERS);
        Self {
            user: name(number),
            skill: 398.0 * spread(67),
            eu: 20.0 + 90.0 * spread(77),
            us: 40.0 + 200.0 * spread(31),
            is_healer: number.is_multiple_of(5),
            mate: (number < PAIRED).then(|| name(number ^ 1)),
            since: Instant::now(),
        }
    }

    fn waited(&self, until: Instant) -> f64 {
        (until - self.since).as_secs_f64()
    }

    fn on_wire(&self) -> v1::MatchPlayer {
        let role = if self.is_healer { "healer" } else { "fighter" };
        let mut player = players(&[(&self.user, self.skill)]).remove(0);
        let numbers = [("eu", self.eu), ("us", self.us)].map(|(name, number)| v1::MatchNumber {
            name: name.to_owned(),
            number,
        });
        player.attributes.push(v1::MatchAttribute {
            name: "ping".to_owned(),
            value: Some(match_attribute::Value::Map(v1::MatchNumbers {
                numbers: numbers.into(),
            })),
        });
        player.roles.push(role.to_owned());
        player
    }
}

async fn hand_in(device: &mut Device, party: &[u32]) {
    let submit = match_request::Kind::Submit(v1::SubmitTicket {
        id: id(party[0]),
        players: party
            .iter()
            .map(|number| Seeker::new(*number).on_wire())
            .collect(),
        party: format!("party-{}", party[0] / 2),
        ..v1::SubmitTicket::default()
    });
    ask(device, "arena", submit).await.unwrap();
}

/// Whether a match is one by the pool's text, as a person reads it.
fn check(found: &v1::MatchFound, crowd: &BTreeMap<String, Seeker>, until: Instant) {
    let names: Vec<_> = found.teams.iter().map(|team| team.name.as_str()).collect();
    assert_eq!(names, ["side-1", "side-2", "side-3", "side-4"]);
    let members = found.teams.iter().flat_map(|team| &team.members);
    let all: BTreeSet<_> = members.map(|member| member.user.as_str()).collect();
    assert!(all.iter().copied().eq(crowd.keys().map(String::as_str)));
    for team in &found.teams {
        assert_eq!(team.members.len(), 50, "{}", team.name);
        let mut healers = 0;
        for member in &team.members {
            let own = &crowd[&member.user];
            let role = if own.is_healer { "healer" } else { "fighter" };
            assert_eq!(member.role, role, "{}", own.user);
            healers += u32::from(own.is_healer);
            if let Some(mate) = &own.mate {
                let is_near = team.members.iter().any(|member| member.user == *mate);
                assert!(is_near, "{} without {mate}", own.user);
            }
        }
        assert!(healers >= 5, "{} has {healers} healers", team.name);
    }
    // A party is as good as its mean.
    let skill = |own: &Seeker| match &own.mate {
        Some(mate) => f64::midpoint(own.skill, crowd[mate].skill),
        None => own.skill,
    };
    for own in crowd.values() {
        let waited = own.waited(until);
        let far = (50.0 + 175.0 * (waited / 5.0).floor()).min(400.0);
        for other in crowd.values() {
            let distance = (skill(own) - skill(other)).abs();
            assert!(distance <= far, "{} and {}", own.user, other.user);
        }
        let late = if waited < 5.0 { 60.0 } else { 120.0 };
        assert!(own.eu <= late, "{} at {}", own.user, own.eu);
    }
    assert_eq!(found.region, "eu", "some have more than 120 ms to us");
}
