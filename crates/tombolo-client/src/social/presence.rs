//! Who is online.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
pub use tombolo_social::presence::{Counts as UserCounts, Status as PresenceStatus};
use tombolo_wire::UserId;
use tombolo_wire::v1::{
    self, presence_request, presence_response, request, response, social_request, social_response,
};

use super::{ask, other_question};
use crate::device::Device;
use crate::error::Error;
use crate::session;

/// Access to who is online; see [`Device::presence`].
#[derive(Debug)]
pub struct Presence<'a>(&'a Device);

/// Users that this device follows; see [`Presence::watch`]. Dropping it ends the telling.
#[derive(Debug)]
pub struct PresenceWatch {
    device: Device,
    state: Arc<WatchState>,
    /// As the application knows them.
    status_by_user: BTreeMap<UserId, PresenceStatus>,
}

/// What the device keeps of those that it follows.
#[derive(Debug, Default)]
pub(super) struct WatchState {
    followed: Mutex<Followed>,
    /// Wakes the reader.
    news: Notify,
}

#[derive(Debug, Default)]
struct Followed {
    status_by_user: BTreeMap<UserId, PresenceStatus>,
    /// Of whom the application may not know yet.
    changed: BTreeSet<UserId>,
    /// Whom the question is about that waits for its answer.
    asked: BTreeSet<UserId>,
    standing: Standing,
}

/// How the device stands with its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Current,
    /// The node has to be told anew who is followed.
    Stale,
    Over,
}

impl Device {
    /// Access to who is online.
    #[must_use]
    pub fn presence(&self) -> Presence<'_> {
        Presence(self)
    }
}

impl Presence<'_> {
    /// Says whether nobody looks at this device. Its user is away when all of its devices are; the next
    /// session is told the same.
    ///
    /// # Errors
    /// When the node cannot be reached, or refuses because it was said too often.
    pub async fn set_away(&self, away: bool) -> Result<(), Error> {
        self.0.0.social.set_away(away);
        let set = presence_request::Kind::SetAway(v1::SetAway { away });
        ask_presence(&self.0.0.session, set).await.map(drop)
    }

    /// How many users there are in the cluster, as its nodes said a moment ago; who is connected to
    /// several of them counts as often.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn counts(&self) -> Result<UserCounts, Error> {
        let count = presence_request::Kind::Count(v1::CountUsers {});
        let answer = ask_presence(&self.0.0.session, count).await?;
        let presence_response::Result::Counts(counts) = answer else {
            return Err(other_question());
        };
        Ok(UserCounts {
            online: counts.online,
            away: counts.away,
        })
    }

    /// Begins to follow users: none at first.
    ///
    /// # Errors
    /// When this device follows users already.
    pub fn watch(&self) -> Result<PresenceWatch, Error> {
        let state = Arc::new(WatchState::default());
        let mut watch = self.0.0.social.watch();
        if watch.is_some() {
            return Err(Error::local("this device follows users already"));
        }
        *watch = Some(Arc::clone(&state));
        Ok(PresenceWatch {
            device: self.0.clone(),
            state,
            status_by_user: BTreeMap::new(),
        })
    }
}

impl PresenceWatch {
    /// Follows more users. Returns once it is known how they are; see [`PresenceWatch::statuses`].
    ///
    /// # Errors
    /// With code `Limit` when they are too many, `TooLarge` for more than 1,000 at once; when the node cannot
    /// be reached.
    pub async fn follow(&mut self, users: impl IntoIterator<Item = UserId>) -> Result<(), Error> {
        let users: BTreeSet<_> = users.into_iter().collect();
        self.ask_to_follow(&users).await?;
        let mut followed = self.state.lock();
        for user in users {
            let status = followed.status_by_user.get(&user).copied();
            followed.changed.remove(&user);
            self.status_by_user.insert(user, status.unwrap_or_default());
        }
        Ok(())
    }

    /// Follows users no more.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn unfollow(&mut self, users: impl IntoIterator<Item = UserId>) -> Result<(), Error> {
        let users: BTreeSet<_> = users.into_iter().collect();
        for user in &users {
            self.status_by_user.remove(user);
        }
        self.state.forget(&users);
        let users = users.iter().map(ToString::to_string).collect();
        let unfollow = presence_request::Kind::Unfollow(v1::UnfollowUsers { users });
        let session = &self.device.0.session;
        ask_presence(session, unfollow).await.map(drop)
    }

    /// All that are followed, and how they are as far as [`next_changes`](Self::next_changes) has told.
    #[must_use]
    pub fn statuses(&self) -> &BTreeMap<UserId, PresenceStatus> {
        &self.status_by_user
    }

    /// Waits for what changes next; `None` when the session is over. An application that is slow is told
    /// the last status of each user. A user that reconnects, or whose node dies, within a grace time was
    /// never offline. Losing the future loses nothing.
    ///
    /// # Errors
    /// When the node refuses to go on; the next call tries again.
    pub async fn next_changes(
        &mut self,
    ) -> Result<Option<BTreeMap<UserId, PresenceStatus>>, Error> {
        loop {
            let state = Arc::clone(&self.state);
            let news = state.news.notified();
            let changes = self.take_changes();
            if !changes.is_empty() {
                return Ok(Some(changes));
            }
            match state.standing() {
                Standing::Over => return Ok(None),
                Standing::Stale => self.follow_anew().await?,
                Standing::Current => news.await,
            }
        }
    }

    fn take_changes(&mut self) -> BTreeMap<UserId, PresenceStatus> {
        let mut changes = BTreeMap::new();
        let mut followed = self.state.lock();
        for user in std::mem::take(&mut followed.changed) {
            if let Some(status) = followed.status_by_user.get(&user)
                && let Some(known) = self.status_by_user.get_mut(&user)
                && known != status
            {
                *known = *status;
                changes.insert(user, *status);
            }
        }
        changes
    }

    /// Tells another session, or another node, who is followed; while none can be reached that is tried
    /// until one can.
    async fn follow_anew(&self) -> Result<(), Error> {
        let users: Vec<_> = self.status_by_user.keys().cloned().collect();
        let following = FollowingAnew::begin(&self.state);
        for users in users.chunks(USERS_AT_ONCE) {
            let users = users.iter().cloned().collect();
            let mut result = self.ask_to_follow(&users).await;
            while let Err(error) = &result
                && error.is_temporary()
            {
                tokio::time::sleep(error.retry_after().unwrap_or_default()).await;
                result = self.ask_to_follow(&users).await;
            }
            if let Err(error) = result {
                // The end of the session is told by what waits.
                return if error.is_closed() {
                    Ok(())
                } else {
                    Err(error)
                };
            }
        }
        following.finish();
        Ok(())
    }

    /// Asks one question at a time, and to its end, even if nobody waits for that any more: an answer does
    /// not say whom it is about.
    async fn ask_to_follow(&self, users: &BTreeSet<UserId>) -> Result<(), Error> {
        let shared = &self.device.0;
        let turn = Arc::clone(&shared.social.following).lock_owned().await;
        self.state.lock().asked.clone_from(users);
        let users = users.iter().map(ToString::to_string).collect();
        let follow = presence_request::Kind::Follow(v1::FollowUsers { users });
        // Before anything that ends it is asked for.
        let asked = shared.session.ask(on_wire(follow)).await?;
        let asking = async move {
            let _turn = turn;
            asked.answer().await
        };
        let answer = tokio::spawn(asking).await.map_err(Error::local)??;
        if let response::Result::Social(v1::SocialResponse {
            result: Some(social_response::Result::Presence(response)),
        }) = answer
            && let Some(presence_response::Result::Following(_)) = response.result
        {
            return Ok(());
        }
        Err(other_question())
    }
}

/// The node is being told anew who is followed. Until it knows them all, the next reader has to tell it.
struct FollowingAnew<'a>(Option<&'a WatchState>);

impl<'a> FollowingAnew<'a> {
    fn begin(state: &'a WatchState) -> Self {
        // Another session that comes meanwhile makes it stale again.
        state.set_standing(Standing::Current);
        Self(Some(state))
    }

    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for FollowingAnew<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.0 {
            state.set_standing(Standing::Stale);
        }
    }
}

impl WatchState {
    /// Takes in the answer to a question, in order with what is told.
    pub(super) fn on_following(&self, statuses: &v1::UserStatuses) {
        let mut followed = self.lock();
        let mut there = parse(statuses);
        for user in std::mem::take(&mut followed.asked) {
            let status = there.remove(&user).unwrap_or_default();
            followed.set(user, status);
        }
        drop(followed);
        self.news.notify_one();
    }

    pub(super) fn on_event(&self, statuses: &v1::UserStatuses) {
        let mut followed = self.lock();
        for (user, status) in parse(statuses) {
            if followed.status_by_user.contains_key(&user) {
                followed.set(user, status);
            }
        }
        drop(followed);
        self.news.notify_one();
    }

    pub(super) fn on_forgotten(&self) {
        self.set_standing(Standing::Stale);
    }

    pub(super) fn end(&self) {
        self.set_standing(Standing::Over);
    }

    fn forget(&self, users: &BTreeSet<UserId>) {
        let mut followed = self.lock();
        for user in users {
            followed.status_by_user.remove(user);
            followed.changed.remove(user);
        }
    }

    /// All that the node may tell of.
    fn all(&self) -> Vec<String> {
        let followed = self.lock();
        let known = followed.status_by_user.keys();
        let all: BTreeSet<_> = known.chain(&followed.asked).collect();
        all.into_iter().map(ToString::to_string).collect()
    }

    fn standing(&self) -> Standing {
        self.lock().standing
    }

    /// The end stays the end.
    fn set_standing(&self, standing: Standing) {
        let mut followed = self.lock();
        if followed.standing != Standing::Over {
            followed.standing = standing;
        }
        drop(followed);
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    fn set(&mut self, user: UserId, status: PresenceStatus) {
        self.changed.insert(user.clone());
        self.status_by_user.insert(user, status);
    }
}

impl Drop for PresenceWatch {
    fn drop(&mut self) {
        let shared = &self.device.0;
        let mut watch = shared.social.watch();
        if watch
            .as_ref()
            .is_some_and(|state| Arc::ptr_eq(state, &self.state))
        {
            *watch = None;
            // Under the lock, as the next watch may follow them again.
            for users in self.state.all().chunks(USERS_AT_ONCE) {
                let users = users.to_vec();
                let unfollow = presence_request::Kind::Unfollow(v1::UnfollowUsers { users });
                shared.session.ask_aside(on_wire(unfollow));
            }
        }
    }
}

async fn ask_presence(
    session: &session::Handle,
    kind: presence_request::Kind,
) -> Result<presence_response::Result, Error> {
    let request = v1::PresenceRequest { kind: Some(kind) };
    let presence = social_request::Kind::Presence(request);
    match ask(session, presence).await? {
        social_response::Result::Presence(v1::PresenceResponse {
            result: Some(result),
        }) => Ok(result),
        social_response::Result::Presence(_)
        | social_response::Result::Notices(_)
        | social_response::Result::Direct(_)
        | social_response::Result::Group(_) => Err(other_question()),
    }
}

pub(super) fn on_wire(kind: presence_request::Kind) -> request::Kind {
    let presence = v1::PresenceRequest { kind: Some(kind) };
    request::Kind::Social(v1::SocialRequest {
        kind: Some(social_request::Kind::Presence(presence)),
    })
}

/// Reads how users are; those that break the contract are left out.
fn parse(statuses: &v1::UserStatuses) -> BTreeMap<UserId, PresenceStatus> {
    let users = statuses.users.iter().filter_map(|status| {
        let user = UserId::parse(&status.user).ok()?;
        let status = match status.presence() {
            v1::Presence::Online => PresenceStatus::Online,
            v1::Presence::Away => PresenceStatus::Away,
            v1::Presence::Offline => PresenceStatus::Offline,
            v1::Presence::Unspecified => return None,
        };
        Some((user, status))
    });
    users.collect()
}

/// Users that one request names.
const USERS_AT_ONCE: usize = 1_000;
