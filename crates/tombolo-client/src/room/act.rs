//! What a member does to a room. Everything here goes through the room's log: once it is answered, it
//! outlives any node. It is done once: when the session is lost before the answer, or nobody knows what came
//! of it, it is asked for again under the same name, for a minute at most. An error says that it was not done,
//! unless [`Error::is_unsure`].

use std::time::Duration;

use bytes::Bytes;
use ring::digest;
use tokio::time::Instant;
use tombolo_room::{
    Act, Audience, Change, GroupId, Message, ObjectId, ObjectPlan, Password, PropertyKey,
    SettingsChange, Target, Value,
};
use tombolo_wire::v1::{self, ErrorCode, request, response};
use tombolo_wire::{RoomId, UserId};

use super::{Room, RoomView};
use crate::error::Error;
use crate::retry::until_known;

/// Durable messages, the newest first; see [`Room::history`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct History {
    /// The newest first.
    pub messages: Vec<Message>,
    /// There are older ones: ask for those before the last of these.
    pub more: bool,
}

impl Room {
    /// Looks at the room as it is known here. Don't wait inside.
    pub fn read<T>(&self, look: impl FnOnce(&RoomView) -> T) -> T {
        look(&self.state.members().view)
    }

    /// Sets a property of the room, whatever it was; one that is public stays so.
    ///
    /// # Errors
    /// When the room's settings don't let this device's user, or a limit is reached.
    pub async fn set(&self, key: PropertyKey, value: Value) -> Result<(), Error> {
        self.change(Target::Room, vec![Change::set(key, value)])
            .await
    }

    /// Changes properties, all or none.
    ///
    /// # Errors
    /// With code `Conflict` when one is not as it was expected to be; when the user may not, or a
    /// limit is reached.
    pub async fn change(&self, target: Target, changes: Vec<Change>) -> Result<(), Error> {
        let act = Act::ChangeProperties { target, changes };
        self.act(&act).await.map(drop)
    }

    /// Says something that is kept: it reaches who is away now when they return, survives the death
    /// of nodes, and is in the [`history`](Self::history). Returns its number. It is said once: while the
    /// session is lost, or the cluster does not answer, it is asked for again for up to a minute.
    ///
    /// # Errors
    /// When it is too long, or could not be kept. When it may have been kept and nobody knows,
    /// [`Error::is_unsure`]: saying it again may say it twice. So it is with all that changes the room.
    pub async fn say(&self, audience: Audience, payload: impl Into<Bytes>) -> Result<u64, Error> {
        let payload = payload.into();
        let acted = self.act(&Act::Say { audience, payload }).await?;
        Ok(acted.message)
    }

    /// Durable messages that are kept and that this device may see: those before a number, or the
    /// newest for `None`.
    ///
    /// # Errors
    /// When the device is not in the room, or the session is over.
    pub async fn history(&self, before: Option<u64>, limit: u32) -> Result<History, Error> {
        let asked = v1::HistoryRequest {
            room: self.id.to_string(),
            before: before.unwrap_or_default(),
            limit,
        };
        let asked = request::Kind::History(asked);
        let answer = self.device.0.session.request(asked).await?;
        let response::Result::History(history) = answer else {
            return Err(Error::local("the node answered another question"));
        };
        let messages = history.messages.into_iter();
        Ok(History {
            messages: messages
                .filter_map(|said| Message::parse(said).ok())
                .collect(),
            more: history.more,
        })
    }

    /// Makes an object, which belongs to this device's user.
    ///
    /// # Errors
    /// When a limit is reached.
    pub async fn create_object(&self, plan: ObjectPlan) -> Result<ObjectId, Error> {
        let acted = self.act(&Act::CreateObject(plan)).await?;
        Ok(ObjectId(acted.object))
    }

    /// Gives an object to a member, takes it, or leaves it to nobody.
    ///
    /// # Errors
    /// When the object's takeover does not allow it.
    pub async fn own_object(&self, object: ObjectId, owner: Option<UserId>) -> Result<(), Error> {
        self.act(&Act::OwnObject { object, owner }).await.map(drop)
    }

    /// Takes an object away.
    ///
    /// # Errors
    /// When it is another's.
    pub async fn delete_object(&self, object: ObjectId) -> Result<(), Error> {
        self.act(&Act::DeleteObject(object)).await.map(drop)
    }

    /// Enters and leaves interest groups, whose objects and messages this device then gets.
    ///
    /// # Errors
    /// When there would be too many.
    pub async fn change_groups(
        &self,
        enter: Vec<GroupId>,
        exit: Vec<GroupId>,
    ) -> Result<(), Error> {
        self.act(&Act::ChangeGroups { enter, exit }).await.map(drop)
    }

    /// Sends a member away. Owner only.
    ///
    /// # Errors
    /// When the user is not the owner, or there is no such member.
    pub async fn kick(&self, user: &UserId) -> Result<(), Error> {
        self.act(&Act::Kick(user.clone())).await.map(drop)
    }

    /// Sends a user away and doesn't let it in again for a while, or while the room lasts. Owner only.
    ///
    /// # Errors
    /// When the user is not the owner, or too many are banned.
    pub async fn ban(&self, user: &UserId, lasts: Option<Duration>) -> Result<(), Error> {
        let user = user.clone();
        self.act(&Act::Ban { user, lasts }).await.map(drop)
    }

    /// Changes how the room behaves. Owner only.
    ///
    /// # Errors
    /// When the user is not the owner, or the settings are impossible.
    pub async fn configure(&self, change: SettingsChange) -> Result<(), Error> {
        self.act(&Act::Configure(change)).await.map(drop)
    }

    /// Does anything else that a member may; what each needs is said there.
    ///
    /// # Errors
    /// As the act says.
    pub async fn perform(&self, act: Act) -> Result<(), Error> {
        self.act(&act).await.map(drop)
    }

    /// Has an act done, once, however often it has to be asked for.
    async fn act(&self, act: &Act) -> Result<v1::Acted, Error> {
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(Error::local)?;
        let begun = Instant::now();
        let attempt = || self.ask(act, &name, begun.elapsed());
        // Whoever has lost its session comes in again by itself, unless the room is over for it.
        let is_coming_back = |error: &Error| {
            error.code() == Some(ErrorCode::NotAMember)
                && self.device.0.is_room(&self.id, &self.state)
        };
        until_known(is_coming_back, attempt).await
    }

    async fn ask(&self, act: &Act, name: &[u8], wanted_for: Duration) -> Result<v1::Acted, Error> {
        let wanted = v1::RoomRequest {
            room: self.id.to_string(),
            act: Some(act.into()),
            operation: Bytes::copy_from_slice(name),
            wanted_for_ms: wanted_for.as_millis().try_into().unwrap_or(u64::MAX),
        };
        let wanted = request::Kind::Room(wanted);
        match self.device.0.session.request(wanted).await? {
            response::Result::Acted(acted) => Ok(acted),
            response::Result::Failure(_)
            | response::Result::Joined(_)
            | response::Result::Left(_)
            | response::Result::IceServers(_)
            | response::Result::Found(_)
            | response::Result::History(_)
            | response::Result::Social(_)
            | response::Result::Matchmaker(_)
            | response::Result::Field(_)
            | response::Result::Command(_) => {
                Err(Error::local("the node answered another question"))
            }
        }
    }
}

/// What stands for a room's password: the nodes never see the password itself.
pub(super) fn password(room: &RoomId, password: &str) -> Password {
    let text = [room.as_str().as_bytes(), &[0], password.as_bytes()].concat();
    let digest = digest::digest(&digest::SHA256, &text);
    let bytes = digest.as_ref().try_into();
    Password(bytes.expect("SHA-256 has 32 bytes"))
}
