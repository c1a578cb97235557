use std::cmp::Ordering;
use std::time::Duration;

use prost::Message as _;
use tombolo_room::{
    Act, Aspect, Body, Change, Comparison, Expectation, Illegal, Listing, Operation,
    PUBLIC_PROPERTIES_MAX, PUBLIC_VALUE_BYTES_MAX, PageEnd, PropertyKey, Query, QueryError,
    Reserve, RoomCode, Settings, Target, VALUES_MAX, Value,
};
use tombolo_wire::{RoomId, v1};

use crate::world::{World, join, seats, user};

#[test]
fn a_listing_shows_what_is_public_and_nothing_else() {
    let mut world = World::with(seats(5), &["a", "b"]);
    let hidden = Change::set(key("secret"), 1.into());
    change(&mut world, vec![public("mode", "duel"), hidden]).unwrap();
    let reserve = Reserve {
        users: vec![user("c")],
        lasts: Duration::from_secs(60),
    };
    world.act("a", Act::Reserve(reserve)).unwrap();
    let listing = listing(&world).unwrap();
    assert_eq!((listing.members, listing.free), (2, 2), "a seat is kept");
    assert_eq!(listing.properties.len(), 1);
    assert_eq!(listing.properties["mode"], Value::from("duel"));
    assert!(listing.is_joinable());
    let told = v1::FoundRoom::from(&listing);
    assert_eq!(Listing::parse(told).unwrap(), listing);
}

#[test]
fn what_is_public_stays_so_until_a_change_says_otherwise() {
    let mut world = World::with(seats(2), &["a"]);
    let set = |value: i64| Change::set(key("level"), value.into());
    let publish = Change::publish(key("level"), 3.into());
    let add = Change {
        operation: Operation::Add(1),
        ..set(0)
    };
    let hide = Change {
        is_public: Some(false),
        ..set(7)
    };
    let rows = [
        (set(1), None),
        (publish.clone(), Some(3)),
        (set(4), Some(4)),
        (add, Some(5)),
        (hide, None),
        (set(8), None),
        (publish.clone(), Some(3)),
    ];
    for (made, shown) in rows {
        change(&mut world, vec![made.clone()]).unwrap();
        let shown = shown.map(Value::Integer);
        let found = listing(&world).unwrap().properties.get("level").cloned();
        assert_eq!(found, shown, "{made:?}");
    }
    // What is made anew is new, within one act, too.
    change(&mut world, vec![delete("level"), set(9)]).unwrap();
    assert!(listing(&world).unwrap().properties.is_empty());
    change(&mut world, vec![publish]).unwrap();
    let long = Change::set(
        key("level"),
        "x".repeat(PUBLIC_VALUE_BYTES_MAX + 1).as_str().into(),
    );
    assert_eq!(change(&mut world, vec![long]), Err(Illegal::Limit));
}

#[test]
fn a_change_of_the_contract_before_is_read_as_it_was_meant() {
    // Bytes of a change that sets "k" to 1: without the field, and with it.
    let set = [0x0a, 0x01, b'k', 0x12, 0x02, 0x10, 0x02];
    let public = [&set[..], &[0x48, 0x01]].concat();
    for (bytes, is_public) in [(&set[..], None), (&public, Some(true))] {
        let told = v1::PropertyChange::decode(bytes).unwrap();
        let changes = Change::parse_all(vec![told]).unwrap();
        assert_eq!(changes[0].is_public, is_public);
        assert_eq!(Change::to_wire(&changes)[0].encode_to_vec(), bytes);
    }
}

#[test]
fn hidden_and_closed_rooms_have_no_listing() {
    let hidden = Settings {
        is_hidden: true,
        ..Settings::default()
    };
    assert_eq!(listing(&World::with(hidden, &["a"])), None);
    let mut world = World::with(Settings::default(), &["a"]);
    assert!(listing(&world).is_some());
    world.leave("a", 1).unwrap();
    assert_eq!(listing(&world), None);
}

#[test]
fn a_code_stays_with_the_opening_that_it_was_given_to() {
    let mut world = World::new();
    let code = RoomCode::parse("7KQ3XF").unwrap();
    let created = |code| Body::Created {
        settings: Settings::default(),
        first: Some(join("a", 1)),
        properties: Vec::new(),
        reserve: None,
        code,
    };
    world.apply(created(Some(code))).unwrap();
    let other = RoomCode::parse("CCCCCC").ok();
    assert_eq!(world.apply(created(other)), Err(Illegal::Open));
    assert_eq!(world.room.code(), Some(code));
    world.leave("a", 1).unwrap();
    assert_eq!(world.room.code(), None);
    world.apply(created(None)).unwrap();
    assert_eq!(world.room.code(), None);
}

#[test]
fn a_room_shows_no_more_than_a_listing_holds() {
    let mut world = World::with(Settings::default(), &["a"]);
    let long = "x".repeat(PUBLIC_VALUE_BYTES_MAX + 1);
    let refused = change(&mut world, vec![public("long", long.as_str())]);
    assert_eq!(refused, Err(Illegal::Limit));
    let private = Change::set(key("long"), long.as_str().into());
    change(&mut world, vec![private]).unwrap();

    let all = (0..PUBLIC_PROPERTIES_MAX).map(|number| public(&format!("p{number}"), "x"));
    change(&mut world, all.collect()).unwrap();
    let refused = change(&mut world, vec![public("more", "x")]);
    assert_eq!(refused, Err(Illegal::Limit));
    change(&mut world, vec![public("p0", "y")]).unwrap();
    let exchanged = vec![delete("p0"), public("more", "x")];
    change(&mut world, exchanged).unwrap();
    let listing = listing(&world).unwrap();
    assert_eq!(listing.properties.len(), PUBLIC_PROPERTIES_MAX);
}

#[test]
fn comparisons_hold_as_they_say() {
    let listing = with(&[("n", 5.into()), ("x", 2.5.into()), ("t", "abc".into())]);
    let holds = |name: &str, comparison: Comparison| {
        let query = Query::default().with(Aspect::property(name).unwrap(), comparison);
        let sent = Query::parse(v1::RoomQuery::from(&query)).unwrap();
        assert_eq!(sent, query, "the node sees what was asked");
        sent.holds_for(&listing)
    };
    use Comparison::{Absent, AtLeast, AtMost, Equal, Greater, Less, Prefix, Present, Unequal};

    assert!(holds("n", Equal(vec![4.into(), 5.0.into()])));
    assert!(!holds("n", Equal(vec!["5".into()])), "text is no number");
    assert!(!holds("n", Unequal(vec![4.into(), 5.into()])));
    assert!(holds("n", Unequal(vec!["5".into()])));
    assert!(holds("none", Unequal(vec![5.into()])) && !holds("none", Equal(vec![5.into()])));
    assert!(holds("n", Less(5.5.into())) && !holds("n", Less(5.into())));
    assert!(holds("n", AtMost(5.into())) && !holds("n", AtMost(4.into())));
    assert!(holds("x", Greater(2.into())) && !holds("x", Greater(2.5.into())));
    assert!(holds("x", AtLeast(2.5.into())) && !holds("x", AtLeast(3.into())));
    assert!(!holds("t", Less(9.into())) && !holds("t", Greater(9.into())));
    assert!(holds("t", Less("abd".into())) && holds("t", Prefix("ab".into())));
    assert!(!holds("t", Prefix("b".into())) && !holds("n", Prefix("5".into())));
    assert!(holds("n", Present) && !holds("none", Present));
    assert!(holds("none", Absent) && !holds("n", Absent));
}

#[test]
fn what_is_full_locked_or_closed_by_a_password_is_found_only_when_asked_for() {
    let is_found = |settings, users: &[&str]| {
        let listing = listing(&World::with(settings, users)).unwrap();
        let asked = Query {
            with_closed: true,
            ..Query::default()
        };
        assert!(asked.matches(&listing));
        Query::default().matches(&listing)
    };
    assert!(is_found(seats(2), &["a"]));
    assert!(!is_found(seats(1), &["a"]));
    let locked = Settings {
        is_locked: true,
        ..Settings::default()
    };
    assert!(!is_found(locked, &["a"]));
    let password = Some(tombolo_room::Password([1; 32]));
    let secret = Settings {
        password,
        ..Settings::default()
    };
    assert!(!is_found(secret, &["a"]));
}

#[test]
fn pages_follow_each_other_and_miss_nothing() {
    let rooms: Vec<_> = (0..50_i64)
        .map(|number| {
            let mut room = with(&[("group", (number % 3).into())]);
            if number % 7 == 0 {
                room.properties.clear();
            }
            room.room = RoomId::parse(&format!("room-{:02}", number * 13 % 50)).unwrap();
            room
        })
        .collect();
    let all = Query::default().descending(Aspect::property("group").unwrap());
    let mut expected: Vec<_> = rooms.iter().collect();
    expected.sort_by(|a, b| all.compare(a, b));
    let last = &expected[expected.len() - 1];
    assert!(last.properties.is_empty(), "those without come last");

    let (mut query, mut seen, mut pages) = (all, Vec::new(), 0);
    loop {
        let (found, end) = query.page(&rooms, 7);
        seen.extend(found.into_iter().map(|room| &room.room));
        pages += 1;
        let Some(end) = end else {
            break;
        };
        query.after = PageEnd::parse(end.to_wire());
        query = Query::parse(v1::RoomQuery::from(&query)).unwrap();
    }
    assert_eq!(pages, 8);
    let names: Vec<_> = expected.into_iter().map(|room| &room.room).collect();
    assert_eq!(seen, names);
}

#[test]
fn the_order_of_numbers_is_one_whatever_their_kind() {
    let numbers: Vec<Value> = vec![
        f64::NEG_INFINITY.into(),
        i64::MIN.into(),
        (-1).into(),
        (-0.5).into(),
        0.into(),
        0.5.into(),
        1.into(),
        9_007_199_254_740_992.0.into(),
        9_007_199_254_740_993_i64.into(),
        i64::MAX.into(),
        1e300.into(),
        f64::INFINITY.into(),
        f64::NAN.into(),
    ];
    let query = Query::default().ascending(Aspect::property("v").unwrap());
    for (i, a) in numbers.iter().enumerate() {
        for (j, b) in numbers.iter().enumerate() {
            let (a, b) = (with(&[("v", a.clone())]), with(&[("v", b.clone())]));
            assert_eq!(query.compare(&a, &b), i.cmp(&j), "{a:?} {b:?}");
        }
    }
    let zeros = [with(&[("v", 0.0.into())]), with(&[("v", (-0.0).into())])];
    assert_eq!(query.compare(&zeros[0], &zeros[1]), Ordering::Equal);
}

#[test]
fn queries_that_ask_for_nothing_known_or_too_much_are_refused() {
    let condition = |aspect, comparison, values| v1::RoomQuery {
        conditions: vec![v1::Condition {
            aspect,
            comparison,
            values,
        }],
        ..v1::RoomQuery::default()
    };
    let aspect = |kind| Some(v1::Aspect { kind: Some(kind) });
    let known = || aspect(v1::aspect::Kind::Property("x".into()));
    let five = || v1::PropertyValue {
        kind: Some(v1::property_value::Kind::Integer(5)),
    };
    let equal = v1::Comparison::Equal.into();
    let long = v1::PropertyValue {
        kind: Some(v1::property_value::Kind::Text("x".repeat(257))),
    };
    let malformed = [
        condition(None, equal, vec![five()]),
        condition(aspect(v1::aspect::Kind::Measure(99)), equal, vec![five()]),
        condition(
            aspect(v1::aspect::Kind::Property("no good".into())),
            equal,
            vec![five()],
        ),
        condition(known(), 99, vec![five()]),
        condition(known(), equal, vec![]),
        condition(known(), equal, vec![v1::PropertyValue::default()]),
        condition(known(), v1::Comparison::Less.into(), vec![five(), five()]),
        condition(known(), v1::Comparison::Prefix.into(), vec![five()]),
        condition(known(), v1::Comparison::Absent.into(), vec![five()]),
    ];
    for query in malformed {
        assert_eq!(Query::parse(query), Err(QueryError::Malformed));
    }
    let many = vec![
        v1::Order {
            aspect: known(),
            descending: false
        };
        5
    ];
    let too_much = [
        condition(known(), equal, vec![five(); VALUES_MAX + 1]),
        condition(known(), equal, vec![long]),
        v1::RoomQuery {
            orders: many,
            ..v1::RoomQuery::default()
        },
    ];
    for query in too_much {
        assert_eq!(Query::parse(query), Err(QueryError::TooMuch));
    }
    for after in [&b"no page"[..], &[0x12, 0x01, b'r', 0x0a, 0x00]] {
        let query = v1::RoomQuery {
            after: after.to_vec().into(),
            ..v1::RoomQuery::default()
        };
        assert_eq!(Query::parse(query), Err(QueryError::Page));
    }
}

fn listing(world: &World) -> Option<Listing> {
    Listing::of(&RoomId::parse("r").unwrap(), &world.room)
}

fn with(properties: &[(&str, Value)]) -> Listing {
    let mut listing = listing(&World::with(Settings::default(), &["a"])).unwrap();
    let properties = properties.iter().cloned();
    listing.properties = properties.map(|(name, value)| (key(name), value)).collect();
    listing
}

fn change(world: &mut World, changes: Vec<Change>) -> Result<(), Illegal> {
    let target = Target::Room;
    let act = Act::ChangeProperties { target, changes };
    world.act("a", act).map(drop)
}

fn public(name: &str, value: &str) -> Change {
    Change::publish(key(name), value.into())
}

fn delete(name: &str) -> Change {
    Change {
        key: key(name),
        operation: Operation::Delete,
        expect: Expectation::Any,
        lasts: None,
        is_public: None,
    }
}

fn key(name: &str) -> PropertyKey {
    PropertyKey::parse(name).unwrap()
}
