//! Bounds and times.

use std::time::{Duration, SystemTime};

use tombolo_wire::frame::SERVER_FRAME_BYTES_MAX;
use tombolo_wire::resend::Limits;
use tombolo_wire::{NodeId, ROOM_BYTES_MAX, USER_BYTES_MAX};

use crate::cluster::cpu_time;
use crate::entropy::Entropy;
use crate::field::{FieldClassUse, FieldSight};
use crate::hooks::HookSet;
use crate::matchmaker::MatchPool;

/// Bounds and times; the defaults are meant for the open internet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// This node's name, as devices and other nodes see it; each node of a cluster has its own.
    pub node: NodeId,
    /// Where this node is: devices are sent to nodes of the same region first.
    pub region: String,
    /// How long a session outlives its connection.
    pub resume_window: Duration,
    /// After how long without a connection a session's rooms are told that it is dropped. Costs an entry
    /// in each room's log, and one more when it is back.
    pub drop_after: Duration,
    /// Sessions on this node.
    pub sessions_max: usize,
    /// From so many sessions on newcomers are sent to a node of the same region that has a fifth fewer, in
    /// proportion to how many each may have; or, when one of the two is busy, to one whose processor has
    /// a fifth less to do. By default 64; `usize::MAX` takes in all who come.
    pub spread_min: usize,
    /// Of those, of one user: one for each of its devices.
    pub sessions_per_user_max: usize,
    /// What becomes of a further session of a user that has as many as it may.
    pub duplicates: Duplicates,
    /// Reliable frames that a device has not acknowledged; a device that is further behind is
    /// disconnected. What other devices send to it fills at most half; then they are refused, and
    /// the other half is left to what the node itself has to say. Its memory is what a silent device
    /// can hold.
    pub outbox: Limits,
    /// Unreliable frames that wait for a connection; older ones are dropped.
    pub unreliable_queue_max: usize,
    /// Their bytes.
    pub unreliable_bytes_max: usize,
    /// How long a device may acknowledge nothing while there is no place for what others send to it;
    /// then it is disconnected.
    pub behind_max: Duration,
    /// Joins and leaves of a session that are not answered yet.
    pub requests_max: usize,
    /// How long the engine may take to carry out a join or a leave.
    pub engine_timeout: Duration,
    /// Rooms that a session may be a member of.
    pub rooms_per_session_max: usize,
    /// Members of a room whose creator did not say.
    pub members_default: u32,
    /// The most members that a creator may ask for, up to [`ROOM_MEMBERS_MAX`].
    pub members_max: u32,
    /// How long a room may outlive its last member, and a seat may be kept, at most; what devices say is
    /// cut to it. Servers may say more.
    pub room_kept_max: Duration,
    /// Frames from one user and their payload bytes, messages, introductions and requests alike.
    pub rate: RateLimit,
    /// Messages of one user as they are handed over: each counts as often as it has recipients.
    /// Larger than [`Config::rate`], so that broadcasts pass in rooms of the usual sizes: by default
    /// 20,000 frames and 64 MiB per second, twice that at once.
    pub deliveries: RateLimit,
    /// Sessions that one user begins, and those of which it wants to go on with one that is not on this node: other
    /// nodes are told of each, or asked for it. One that is found does not count. By default 2 per second and 32 at
    /// once, as a user needs that comes back with all of its devices after their node has died.
    pub hellos: Pace,
    /// Sessions of one user that come from other nodes, found or not: each has something written into the log of each of
    /// its rooms. By default 1 per second and 32 at once, as many as come when a node is drained, and some more.
    pub moves: Pace,
    /// Introductions from one user: each makes the relay install permissions and has its receiver
    /// open a link. By default 20 per second and 200 at once, as a device that joins a room of 64
    /// needs, with candidates that come later.
    pub introductions: Pace,
    /// Joins of one user, because all members are told of each. By default 5 per second and 128 at
    /// once, as two devices need that come back to all of their rooms.
    pub joins: Pace,
    /// Joins of one user that open a room, beside that. By default 1 per second and 128 at once.
    pub opens: Pace,
    /// Rooms on this node that nobody is in, seats kept or not: when there are more, the oldest are closed. Those
    /// that are kept for longer than [`Config::room_kept_max`], as servers may say, do not count.
    pub empty_rooms_max: usize,
    /// How often a user may look for rooms, because all that are known may have to be looked through. By
    /// default 5 per second and 50 at once.
    pub finds: Pace,
    /// Joins of one user by short codes, because codes can be guessed. By default 1 per second and 20 at
    /// once: so it takes a user years to meet a room that it was not told of.
    pub codes: Pace,
    /// Direct messages of one user, what it does to its own inbox, and what it says and does in groups:
    /// each is an entry in a log. By default 10 per second and 100 at once.
    pub directs: Pace,
    /// Bytes of what a user says directly and in groups, because it is kept; a copy for its own devices counts, too. By
    /// default 32 KiB per second and 1 MiB at once.
    pub direct_bytes: Pace,
    /// How long a user has no connection before others see it as offline. By default 10 seconds: longer
    /// than devices take to come back after their node has died.
    pub presence_grace: Duration,
    /// Users whose presence one session follows.
    pub follows_per_session_max: usize,
    /// Users whose presence all sessions of this node together follow; each takes some 200 bytes.
    pub follows_max: usize,
    /// How many devices this node tells of notices: a notice to all of its devices takes as long as this
    /// says. By default 5,000 per second and 500 at once.
    pub notices: Pace,
    /// Acts of a user, because each goes through the log of its room. By default 200 per second and 1,000
    /// at once; what members are told of them counts as [`Config::deliveries`].
    pub acts: Pace,
    /// Bytes of a user's acts: every member is told of them, and one that does not keep up is let go. By
    /// default 256 KiB per second and 1 MiB at once.
    pub act_bytes: Pace,
    /// Groups that one user makes. By default 1 per second and 20 at once.
    pub groups: Pace,
    /// Groups that one user has made and that have not ended, over all nodes, up to 256; 32 by default.
    pub groups_per_user_max: usize,
    /// How many bytes of posts a group keeps beside those of the last segment, 128 more for each, up to
    /// [`KEPT_BYTES_MAX`](tombolo_social::group::KEPT_BYTES_MAX); 16 MiB by default.
    pub group_bytes_max: u64,
    /// How often a user opens groups and reads pages of their posts and members: each may have the node read a
    /// log. By default 20 per second and 500 at once, as devices need that come back to all of their groups.
    pub group_reads: Pace,
    /// Tickets of one user, and what it asks about them: most are entries in a pool's log. By default 5 per
    /// second and 50 at once; those that it cancels have the same pace for themselves.
    pub tickets: Pace,
    /// Tickets that one user may have at once: at most one in each pool.
    pub tickets_per_user_max: usize,
    /// The pools that the matchmaker serves: all nodes of a cluster have the same.
    pub pools: Vec<MatchPool>,
    /// How fields are here.
    pub fields: FieldConfig,
    /// The game's own code that is asked; none by default.
    pub hooks: HookSet,
    /// How long that code may take to let somebody into a room.
    pub hook_timeout: Duration,
    /// The time since the Unix epoch, for tokens.
    pub unix_now: fn() -> Duration,
    /// How much processor time this process has taken, for the node's load; `None` where nobody knows.
    pub cpu_time: fn() -> Option<Duration>,
    /// Where names and secrets come from.
    pub entropy: Entropy,
}

/// How fields are on a node. All nodes of a cluster have the same.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FieldConfig {
    /// How each field behaves. How many dimensions it has, [`dimensions`](Self::dimensions) says.
    pub settings: tombolo_field::Settings,
    /// How many dimensions all fields have: who comes with others is refused. By default there are two fields of each
    /// name, one of two dimensions and one of three.
    pub dimensions: Option<tombolo_field::Dimensions>,
    /// Who sees whom, by their marks: all of these must let it, and [`Hooks::sight`](crate::Hooks::sight), too. None by
    /// default.
    pub sight: Vec<FieldSight>,
    /// What devices may do with each class, by number; with further ones, that devices come in as them and put their like
    /// there.
    pub devices: Vec<FieldClassUse>,
    /// Between two batches for the same device; 50 ms by default.
    pub tick: Duration,
    /// The longest batch, in bytes. By default, and at most, as much as goes into a datagram on every path.
    pub budget: usize,
    /// Fields that this node has devices in.
    pub fields_max: usize,
    /// Fields that a session may be in.
    pub per_session_max: usize,
    /// What a device may put into a field beside itself.
    pub own_max: usize,
    /// What servers may put into a field through this node; 10,000 by default.
    pub things_max: usize,
    /// Reports and acknowledgements of one user. By default 100 per second and 500 at once.
    pub reports: Pace,
}

/// What becomes of a further session of a user that has as many as it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// It takes the place of the oldest that has no connection; when all have one it is refused.
    #[default]
    ReplaceDisconnected,
    /// It takes the place of the oldest, whose device is told (`ERROR_CODE_REPLACED`) if it is
    /// connected.
    ReplaceOldest,
    /// It is refused (`ERROR_CODE_LIMIT`) until one of the others has ended.
    RefuseNewcomer,
}

/// How much may come at once and per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// Frames per second.
    pub frames_per_second: u32,
    /// Frames at once.
    pub frames_burst: u32,
    /// Payload bytes per second.
    pub bytes_per_second: u32,
    /// Payload bytes at once.
    pub bytes_burst: u32,
}

/// How many may come at once and per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pace {
    /// Per second.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// Most members of a room: `Joined` names all of them in one frame.
pub const ROOM_MEMBERS_MAX: u32 = 1024;

/// The longest name, two keys, and what the encoding adds to them.
const MEMBER_BYTES_MAX: usize = 3 + (2 + USER_BYTES_MAX) + 2 + 2 * (2 + 32);

/// Of a `Joined`, without members.
const JOINED_BYTES_MAX: usize = ROOM_BYTES_MAX + 64;

/// Of a field's batch: with the frame around it, it goes into a datagram on every path.
pub(crate) const FIELD_BATCH_BYTES_MAX: usize = 1100;

const _: () = assert!(
    ROOM_MEMBERS_MAX as usize * MEMBER_BYTES_MAX + JOINED_BYTES_MAX <= SERVER_FRAME_BYTES_MAX
        && ROOM_MEMBERS_MAX <= tombolo_room::MEMBERS_MAX
);

impl Default for Config {
    fn default() -> Self {
        Self {
            node: NodeId::parse("node").expect("the name is good"),
            region: String::new(),
            resume_window: Duration::from_secs(30),
            drop_after: Duration::from_secs(1),
            sessions_max: 100_000,
            spread_min: 64,
            sessions_per_user_max: 16,
            duplicates: Duplicates::default(),
            outbox: Limits::default(),
            unreliable_queue_max: 256,
            unreliable_bytes_max: 256 * 1024,
            behind_max: Duration::from_secs(10),
            requests_max: 64,
            engine_timeout: Duration::from_secs(10),
            rooms_per_session_max: 64,
            members_default: 64,
            members_max: ROOM_MEMBERS_MAX,
            room_kept_max: Duration::from_secs(3600),
            rate: RateLimit::default(),
            deliveries: DELIVERIES,
            hellos: HELLOS,
            moves: MOVES,
            introductions: Pace {
                per_second: 20,
                burst: 200,
            },
            joins: Pace {
                per_second: 5,
                burst: 128,
            },
            opens: OPENS,
            empty_rooms_max: 10_000,
            finds: LOOKS,
            codes: CODES,
            directs: Pace {
                per_second: 10,
                burst: 100,
            },
            direct_bytes: DIRECT_BYTES,
            presence_grace: Duration::from_secs(10),
            follows_per_session_max: 1_000,
            follows_max: 1_000_000,
            notices: Pace {
                per_second: 5_000,
                burst: 500,
            },
            acts: ACTS,
            act_bytes: ACT_BYTES,
            groups: Pace {
                per_second: 1,
                burst: 20,
            },
            groups_per_user_max: 32,
            group_bytes_max: 16 * 1024 * 1024,
            group_reads: GROUP_READS,
            tickets: LOOKS,
            tickets_per_user_max: 8,
            pools: Vec::new(),
            fields: FieldConfig::default(),
            hooks: HookSet::default(),
            hook_timeout: Duration::from_secs(5),
            unix_now: system_time,
            cpu_time,
            entropy: Entropy::default(),
        }
    }
}

/// A message counts as often as it has recipients.
const DELIVERIES: RateLimit = RateLimit {
    frames_per_second: 20_000,
    frames_burst: 40_000,
    bytes_per_second: 64 * 1024 * 1024,
    bytes_burst: 128 * 1024 * 1024,
};

/// How fast a user may begin sessions.
const HELLOS: Pace = Pace {
    per_second: 2,
    burst: 32,
};

/// How fast a user's sessions may come from other nodes.
const MOVES: Pace = Pace {
    per_second: 1,
    burst: 32,
};

/// How fast a user may look for rooms, and for matches.
const LOOKS: Pace = Pace {
    per_second: 5,
    burst: 50,
};

/// How fast a user may open rooms.
const OPENS: Pace = Pace {
    per_second: 1,
    burst: 128,
};

/// How much a user may do in rooms.
const ACTS: Pace = Pace {
    per_second: 200,
    burst: 1_000,
};
const ACT_BYTES: Pace = Pace {
    per_second: 256 * 1024,
    burst: 1024 * 1024,
};

/// How much a user may say that is kept.
const DIRECT_BYTES: Pace = Pace {
    per_second: 32 * 1024,
    burst: 1024 * 1024,
};

/// How fast a user may open groups, and read them.
const GROUP_READS: Pace = Pace {
    per_second: 20,
    burst: 500,
};

/// How fast codes may be tried.
const CODES: Pace = Pace {
    per_second: 1,
    burst: 20,
};

impl Default for FieldConfig {
    fn default() -> Self {
        Self {
            settings: tombolo_field::Settings::default(),
            dimensions: None,
            sight: Vec::new(),
            devices: Vec::new(),
            tick: Duration::from_millis(50),
            budget: FIELD_BATCH_BYTES_MAX,
            fields_max: 1024,
            per_session_max: 4,
            own_max: 16,
            things_max: 10_000,
            reports: Pace {
                per_second: 100,
                burst: 500,
            },
        }
    }
}

impl Default for RateLimit {
    /// 2,000 frames and 8 MiB per second, twice that at once.
    fn default() -> Self {
        Self {
            frames_per_second: 2_000,
            frames_burst: 4_000,
            bytes_per_second: 8 * 1024 * 1024,
            bytes_burst: 16 * 1024 * 1024,
        }
    }
}

fn system_time() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
