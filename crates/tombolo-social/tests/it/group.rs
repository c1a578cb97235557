//! Groups and segments, rule by rule.

use std::num::NonZeroU64;

use tombolo_social::group::{
    Body, Entry, Group, Illegal, KEPT_BYTES_MAX, ROLES_MAX, SEGMENTS_KEPT, Settings,
};
use tombolo_social::segment::{self, Full, POSTS_MAX, SEGMENT_BYTES_MAX, Segment};
use tombolo_social::{EntryError, MessageId, OperationId, Time};
use tombolo_wire::v1;

use crate::inbox::user;

struct World {
    group: Group,
    operations: u64,
}

impl World {
    fn new() -> Self {
        let (group, operations) = (Group::new(), 0);
        Self { group, operations }
    }

    fn apply(&mut self, body: Body) -> Result<(), Illegal> {
        self.operations += 1;
        let entry = Entry {
            operation: OperationId(u128::from(self.operations).to_be_bytes()),
            time: Time::from_millis(self.operations),
            body,
        };
        let entry = Entry::decode(&entry.encode()).unwrap();
        let result = self.group.apply(&entry);
        assert_eq!(
            Group::restore(&self.group.snapshot()),
            Ok(self.group.clone())
        );
        result
    }
}

fn created(owner: &str) -> Body {
    Body::Created {
        owner: user(owner),
        settings: Settings::default(),
    }
}

fn turned(segment: u64, bytes: u64) -> Body {
    Body::Turned {
        segment,
        bytes,
        kept_bytes_max: None,
    }
}

#[test]
fn a_group_is_made_once_and_its_name_is_not_given_again() {
    let mut world = World::new();
    assert_eq!(world.apply(Body::Closed), Err(Illegal::NoSuchGroup));
    world.apply(created("alice")).unwrap();
    let epoch = world.group.epoch();
    assert_eq!(world.apply(created("bob")), Err(Illegal::Exists));
    assert_eq!(world.group.owner().unwrap().0, &user("alice"));
    assert_eq!(world.group.epoch(), epoch);
    world.apply(Body::Closed).unwrap();
    assert_eq!(world.group.epoch(), None);
    assert_eq!(world.apply(created("bob")), Err(Illegal::Exists));
    assert_eq!(world.apply(turned(1, 0)), Err(Illegal::NoSuchGroup));
}

#[test]
fn segments_follow_one_another_and_the_oldest_are_given_up() {
    let mut world = World::new();
    world.apply(created("alice")).unwrap();
    assert_eq!(world.apply(turned(2, 0)), Err(Illegal::Segment));
    for segment in 1..=SEGMENTS_KEPT as u64 {
        world.apply(turned(segment, 1)).unwrap();
        world.apply(turned(segment - 1, 1)).unwrap();
        assert_eq!(world.group.segment(), segment);
    }
    assert_eq!(world.group.segment_first(), 1);
    assert_eq!(world.group.revision(), 1, "turns are not told");
}

#[test]
fn segments_are_kept_up_to_a_bound_in_bytes() {
    let mut world = World::new();
    world.apply(created("alice")).unwrap();
    let full = SEGMENT_BYTES_MAX as u64;
    let kept = KEPT_BYTES_MAX / full;
    for segment in 1..=2 * kept {
        // Nobody says more than a segment holds.
        world.apply(turned(segment, u64::MAX)).unwrap();
    }
    assert_eq!(world.group.segment_first(), kept);
    for segment in 1..=kept {
        world.apply(turned(2 * kept + segment, 0)).unwrap();
    }
    assert_eq!(world.group.segment_first(), kept, "those hold nothing");
}

#[test]
fn whoever_turns_says_how_much_is_kept_up_to_a_bound() {
    let mut world = World::new();
    world.apply(created("alice")).unwrap();
    let full = SEGMENT_BYTES_MAX as u64;
    let mut first_after = |segment, kept_bytes_max| {
        let turned = Body::Turned {
            segment,
            bytes: full,
            kept_bytes_max: NonZeroU64::new(kept_bytes_max),
        };
        world.apply(turned).unwrap();
        world.group.segment_first()
    };
    let kept = KEPT_BYTES_MAX / full;
    for segment in 1..=kept {
        assert_eq!(first_after(segment, u64::MAX), 0);
    }
    assert_eq!(first_after(kept + 1, u64::MAX), 1);
    assert_eq!(first_after(kept + 2, 3 * full), kept - 1);
}

#[test]
fn settings_keep_the_number_of_roles() {
    let mut world = World::new();
    world.apply(created("alice")).unwrap();
    let mut settings = Settings {
        title: "new".to_owned(),
        ..Settings::default()
    };
    world.apply(Body::Configured(settings.clone())).unwrap();
    assert_eq!(world.group.settings(), Some(&settings));
    settings.roles.pop();
    assert_eq!(world.apply(Body::Configured(settings)), Err(Illegal::Roles));
}

#[test]
fn settings_with_impossible_roles_are_none() {
    let usual = v1::GroupSettings::from(&Settings::default());
    let parse = |change: fn(&mut v1::GroupSettings)| {
        let mut settings = usual.clone();
        change(&mut settings);
        Settings::parse(settings)
    };
    assert_eq!(parse(|_| {}), Ok(Settings::default()));
    assert_eq!(parse(|s| s.roles.truncate(1)), Err(EntryError::Malformed));
    assert_eq!(
        parse(|s| s.roles[0].name.clear()),
        Err(EntryError::Malformed)
    );
    assert_eq!(
        parse(|s| s.roles[0].name = "admin".into()),
        Err(EntryError::Malformed)
    );
    assert_eq!(
        parse(|s| s.roles[0].name = "x".repeat(33)),
        Err(EntryError::TooLong)
    );
    assert_eq!(
        parse(|s| s.title = "x".repeat(257)),
        Err(EntryError::TooLong)
    );
    let many = |s: &mut v1::GroupSettings| {
        s.roles.resize(ROLES_MAX + 1, v1::GroupRole::default());
    };
    assert_eq!(parse(many), Err(EntryError::TooLong));
    let roles = Settings::default();
    assert_eq!((roles.role("admin"), roles.role("king")), (Some(1), None));
    assert_eq!(roles.newcomers(), 2);
}

fn post(segment: &mut Segment, from: Option<&str>, id: u128) -> Result<segment::Done, Full> {
    let entry = segment::Entry {
        operation: OperationId([0; 16]),
        time: Time::from_millis(1000 - id as u64 % 7),
        from: from.map(user),
        id: MessageId(id.to_be_bytes()),
        payload: id.to_string().into(),
    };
    segment.apply(&segment::Entry::decode(&entry.encode()).unwrap())
}

#[test]
fn a_segment_takes_so_many_posts_each_once_and_in_order() {
    let mut segment = Segment::new();
    for id in 0..POSTS_MAX as u128 {
        let done = post(&mut segment, Some("alice"), id).unwrap();
        assert_eq!((done.index as u128, done.is_repeated), (id, false));
        assert!(
            post(&mut segment, Some("alice"), id / 2)
                .unwrap()
                .is_repeated
        );
    }
    assert!(segment.is_full());
    assert_eq!(
        post(&mut segment, Some("bob"), 0),
        Err(Full),
        "ids are the posters' own"
    );
    assert_eq!(post(&mut segment, None, 0), Err(Full));
    assert_eq!(post(&mut segment, Some("alice"), 9).unwrap().index, 9);
    assert!(
        segment.posts().is_sorted_by_key(|post| post.time),
        "time does not go back"
    );
    assert_eq!(segment.posts().len(), POSTS_MAX);
}

#[test]
fn every_truncation_of_an_entry_is_none() {
    let group = Entry {
        operation: OperationId([1; 16]),
        time: Time::from_millis(1),
        body: created("alice"),
    }
    .encode();
    let post = segment::Entry {
        operation: OperationId([1; 16]),
        time: Time::from_millis(1),
        from: None,
        id: MessageId([2; 16]),
        payload: vec![0; segment::PAYLOAD_BYTES_MAX].into(),
    };
    for end in 0..group.len() {
        assert!(Entry::decode(&group[..end]).is_err(), "cut at {end}");
    }
    let bytes = post.encode();
    // The payload comes last: without it there is a shorter post, but a cut one is none.
    for end in 0..40 {
        assert!(
            segment::Entry::decode(&bytes[..end]).is_err(),
            "cut at {end}"
        );
    }
    let long = segment::Entry {
        payload: vec![0; segment::PAYLOAD_BYTES_MAX + 1].into(),
        ..post
    };
    assert_eq!(
        segment::Entry::decode(&long.encode()),
        Err(EntryError::TooLong)
    );
}
