//! Bounds of what users may ask of pools.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_breaks_a_limit_is_refused_with_a_reason_and_counted() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let good = || v1::SubmitTicket {
        id: id(1),
        players: players(&[("alice", 0.0)]),
        ..v1::SubmitTicket::default()
    };
    let number = |number| Some(match_attribute::Value::Number(number));
    let with = |value| {
        let mut ticket = good();
        ticket.players[0].attributes[0].value = value;
        ticket
    };
    let many = |count: usize| {
        let mut ticket = good();
        ticket.players[0].attributes = (0..count)
            .map(|at| v1::MatchAttribute {
                name: format!("a{at}"),
                value: Some(match_attribute::Value::Text("t".repeat(128))),
            })
            .collect();
        ticket
    };
    let list = |count: usize| {
        let texts = (0..count).map(|at| format!("{at}")).collect();
        with(Some(match_attribute::Value::List(v1::MatchTexts { texts })))
    };
    let heavy = |count: usize| {
        let mut ticket = good();
        let texts: Vec<_> = (0..64).map(|at| format!("{at:0128}")).collect();
        ticket.players[0].attributes = (0..count)
            .map(|at| v1::MatchAttribute {
                name: format!("a{at}"),
                value: Some(match_attribute::Value::List(v1::MatchTexts {
                    texts: texts.clone(),
                })),
            })
            .collect();
        ticket
    };
    let asking = |query: &str| v1::SubmitTicket {
        query: query.to_owned(),
        ..good()
    };
    let cases = [
        (with(number(f64::NAN)), ErrorCode::BadTicket),
        (with(number(f64::INFINITY)), ErrorCode::BadTicket),
        (with(number(1e300)), ErrorCode::BadTicket),
        (with(None), ErrorCode::BadTicket),
        (
            with(Some(match_attribute::Value::Text("x".into()))),
            ErrorCode::BadTicket,
        ),
        (many(33), ErrorCode::BadTicket),
        (list(65), ErrorCode::BadTicket),
        (heavy(4), ErrorCode::TooLarge),
        (asking("+skill:>=x"), ErrorCode::BadTicket),
        (asking(&"a:b ".repeat(33)), ErrorCode::BadTicket),
        (
            v1::SubmitTicket {
                id: Bytes::from_static(b"short"),
                ..good()
            },
            ErrorCode::BadFrame,
        ),
        (
            v1::SubmitTicket {
                grace_ms: u32::MAX,
                ..good()
            },
            ErrorCode::BadTicket,
        ),
        (
            v1::SubmitTicket {
                tags: (0..33).map(|at| at.to_string()).collect(),
                ..good()
            },
            ErrorCode::BadTicket,
        ),
        (
            v1::SubmitTicket {
                players: Vec::new(),
                ..good()
            },
            // That is to come back to one.
            ErrorCode::NoSuchThing,
        ),
        (
            v1::SubmitTicket {
                players: players(&[("alice", 0.0), ("alice", 0.0)]),
                ..good()
            },
            ErrorCode::BadTicket,
        ),
    ];
    let mut counts: BTreeMap<ErrorCode, u64> = BTreeMap::new();
    for (ticket, code) in cases {
        let kind = match_request::Kind::Submit(ticket.clone());
        assert_eq!(ask(&mut alice, "duel", kind).await, Err(code), "{ticket:?}");
        *counts.entry(code).or_default() += 1;
    }
    assert_eq!(
        ask(&mut alice, "nowhere", cancel(1)).await,
        Err(ErrorCode::NoSuchPool)
    );
    assert_eq!(
        ask(&mut alice, "duel", cancel(1)).await,
        Err(ErrorCode::NoSuchThing)
    );
    *counts.entry(ErrorCode::NoSuchThing).or_default() += 1;
    for (code, count) in counts {
        assert_eq!(lab.refused(code), count, "{code:?}");
    }
    // Nothing else is disturbed.
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    found(&mut alice).await;
}

#[tokio::test(start_paused = true)]
async fn a_user_may_not_fill_pools_nor_ask_without_end() {
    let lab = lab_with(|config| {
        config.tickets_per_user_max = 1;
        config.tickets.burst = 10;
    });
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    assert_eq!(
        submit(&mut alice, "teams", 2, &[("alice", 0.0)]).await,
        Err(ErrorCode::Limit)
    );
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(ask(&mut alice, "duel", why(1)).await == Err(ErrorCode::Limit));
    }
    assert!(refused >= 10, "{refused}");
    // What it has must come to an end all the same.
    let cancelled = ask(&mut alice, "duel", cancel(1)).await;
    assert!(
        matches!(cancelled, Ok(match_response::Result::Done(_))),
        "{cancelled:?}"
    );
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(ask(&mut alice, "duel", cancel(1)).await == Err(ErrorCode::Limit));
    }
    assert!(refused >= 10, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_says_so() {
    let lab = lab_with(|config| {
        let text = DUEL.replace("name = \"duel\"", "name = \"small\"\ntickets = 1");
        config.pools.push(MatchPool::parse(&text).unwrap());
    });
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut alice, "small", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    assert_eq!(
        submit(&mut bob, "small", 2, &[("bob", 9000.0)]).await,
        Err(ErrorCode::PoolFull)
    );
}

#[tokio::test(start_paused = true)]
async fn who_has_more_priority_comes_first_and_a_device_has_as_much_as_the_pool_takes_from_it() {
    let ranked = DUEL.replace("\"duel\"", "\"ranked\"\npriority = 2");
    let lab = lab_with(|config| config.pools.push(MatchPool::parse(&ranked).unwrap()));
    let submit = |user: &str, pool: &str, skill: f64, priority: i32| {
        request::Kind::Matchmaker(v1::MatchRequest {
            pool: pool.to_owned(),
            kind: Some(match_request::Kind::Submit(v1::SubmitTicket {
                id: id(u32::from(user.as_bytes()[0])),
                players: players(&[(user, skill)]),
                priority,
                ..v1::SubmitTicket::default()
            })),
        })
    };
    let mut devices = BTreeMap::new();
    for (user, pool, skill, priority, expected) in [
        ("alice", "duel", 0.0, 1, Err(ErrorCode::BadTicket)),
        ("alice", "ranked", 0.0, 3, Err(ErrorCode::BadTicket)),
        ("alice", "ranked", 0.0, -200, Err(ErrorCode::BadTicket)),
        ("alice", "ranked", 0.0, -1, Ok(())),
        ("bob", "ranked", 180.0, 2, Ok(())),
        ("carol", "ranked", 90.0, 0, Ok(())),
    ] {
        if !devices.contains_key(user) {
            devices.insert(user, seeker(&lab, user).await);
        }
        let device = devices.get_mut(user).unwrap();
        let request = device.request(Some(submit(user, pool, skill, priority)));
        let answer = status(device.response_among(request).await);
        assert_eq!(answer.map(drop), expected, "{user} {priority}");
    }
    let found = found(devices.get_mut("carol").unwrap()).await;
    assert_eq!(users(&found), ["bob", "carol"]);
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_why_the_pool_goes_on() {
    let start = |local: &Local, name: &str| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            config.unix_now = now;
            config.pools.push(MatchPool::parse(DUEL).unwrap());
            config.node = NodeId::parse(name).unwrap();
            config.tickets.burst = 1_000;
        })
    };
    let (local, _) = filled(&start, 1_500).await;
    let lab = start(&local, "node-0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 2_000, &[("alice", -1e9)])
        .await
        .unwrap();
    let mut ask_often = async || {
        let mut answered = 0;
        for _ in 0..200 {
            match ask(&mut alice, "duel", why(2_000)).await {
                Ok(_) => answered += 1,
                Err(code) => assert_eq!(code, ErrorCode::Limit),
            }
        }
        answered
    };
    let answered = ask_often().await;
    assert!((1..150).contains(&answered), "{answered}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(ask_often().await > 0, "later there is more to be had");
}
