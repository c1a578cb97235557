//! What a device keeps of its fields.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tombolo_field::{
    CLASSES_MAX, Change, Circle, CircleChange, EntityId, KNOWN_MAX, Mirror, Reach, Seen,
};
use tombolo_path::Policy;
use tombolo_wire::v1::{self, ErrorCode, client_frame, field_request, field_response};
use tombolo_wire::{FIELD_KNOWN_MAX, FieldId, UserId};

use super::said::{LOOK_EVERY, Place, Said};
use super::{Position, ask};
use crate::error::Error;
use crate::link::Peer;
use crate::links::{Meeting, Target};
use crate::retry::persistently;
use crate::session;

/// The fields that a device is in.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    state_by_id: Mutex<BTreeMap<FieldId, Arc<FieldState>>>,
    /// The number of the last report in any of them: those of a later stay are greater, as the end of the
    /// one before may not have got around.
    reports: Arc<AtomicU32>,
}

impl Fields {
    /// Notes a field before it is entered; false when the device is in it.
    pub(crate) fn add(&self, state: &Arc<FieldState>) -> bool {
        let mut fields = self.lock();
        let is_new = !fields.contains_key(&state.id);
        if is_new {
            fields.insert(state.id.clone(), Arc::clone(state));
        }
        is_new
    }

    /// Forgets a field; false when it was forgotten before.
    pub(crate) fn remove(&self, state: &Arc<FieldState>) -> bool {
        let mut fields = self.lock();
        let known = fields.get(&state.id);
        let is_known = known.is_some_and(|known| Arc::ptr_eq(known, state));
        if is_known {
            fields.remove(&state.id);
        }
        is_known
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<FieldState>> {
        self.lock().get(id).cloned()
    }

    /// Takes in a batch.
    pub(crate) fn on_batch(&self, batch: &v1::FieldBatch) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        // What is of a seat that the device has no more is nothing.
        if let Some(state) = all.iter().find(|state| state.has_seat(batch.seat)) {
            state.on_batch(&batch.batch);
        }
    }

    /// Takes in an answer; false when the device is let into a field that it does not want any more.
    pub(super) fn on_response(&self, response: &v1::FieldResponse) -> bool {
        let Some(field_response::Result::Entered(entered)) = &response.result else {
            return true;
        };
        // Under the lock, so that whoever drops the field meanwhile knows whether to leave it.
        let fields = self.lock();
        let state = fields.get(response.field.as_str());
        if let Some(state) = state {
            state.on_entered(entered);
        }
        state.is_some()
    }

    /// A report was refused; which, is not said.
    pub(crate) fn on_refused(&self, refused: &v1::Refused) {
        let code = refused.code();
        if refused.seq == 0 && matches!(code, ErrorCode::BadReport | ErrorCode::NotInField) {
            for state in self.lock().values() {
                state.tell(Waiting::Refused(refused.message.clone()));
            }
        }
    }

    /// Another session, or another node, knows nothing of where the device is: it enters again.
    pub(crate) fn on_forgotten(&self) {
        for state in self.lock().values() {
            let was_in = state.lock().seat.take().is_some();
            // What is being entered for the first time fails by itself, what is being entered again is asked
            // again, or the new node answers.
            if was_in {
                tokio::spawn(FieldState::enter_again(Arc::clone(state)));
            }
        }
    }

    /// The session is over.
    pub(crate) fn end(&self) {
        for state in std::mem::take(&mut *self.lock()).into_values() {
            state.end();
        }
    }

    pub(super) fn reports(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.reports)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FieldId, Arc<FieldState>>> {
        lock(&self.state_by_id)
    }
}

/// How a device takes part in a field.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) class: u8,
    pub(crate) range: Option<f64>,
    /// 0 when the node's word counts.
    pub(crate) budget: u32,
    pub(crate) policy: Policy,
    /// `None` when the node's word counts.
    pub(crate) linked_within: Option<f64>,
    pub(crate) links_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            class: 0,
            range: None,
            budget: 0,
            policy: Policy::default(),
            linked_within: None,
            links_max: LINKS_MAX,
        }
    }
}

/// What a device keeps of a field.
#[derive(Debug)]
pub(crate) struct FieldState {
    pub(crate) id: FieldId,
    options: Options,
    session: session::Handle,
    inner: Mutex<Inner>,
    /// Wakes whoever reads events.
    news: Notify,
    /// Wakes whoever looks after links.
    moves: Notify,
    begun: Instant,
}

#[derive(Debug)]
struct Inner {
    mirror: Mirror,
    /// `None` while the node has not let the device in.
    seat: Option<u32>,
    entity: EntityId,
    /// The number of the last report.
    reports: Arc<AtomicU32>,
    /// Where the device, and what it has put there, was last.
    said: Said,
    waiting: VecDeque<Waiting>,
    /// Those of which an update waits: the latest is told.
    updated: BTreeSet<EntityId>,
    /// Those of which the application has heard nothing yet: that they have come waits.
    unheard: BTreeSet<EntityId>,
    missed: u64,
    is_over: bool,
    /// `None` when nobody is linked by itself.
    circle: Option<Circle>,
    /// Links that others in the circle have begun.
    begun: Vec<(EntityId, Peer)>,
    /// Those of the circle with whom messages flow.
    linked: BTreeMap<EntityId, Peer>,
}

/// What waits for the application.
#[derive(Debug)]
enum Waiting {
    Change(Change),
    Peer(Peer),
    Linked(EntityId),
    Unlinked(EntityId),
    Refused(String),
}

/// What the application is told.
#[derive(Debug)]
pub(super) enum Told {
    Entered(EntityId, Seen),
    Updated(EntityId, Seen),
    Left(EntityId),
    Peer(Peer),
    Linked(EntityId, Peer),
    Unlinked(EntityId),
    Refused(String),
    Lagged(u64),
}

impl FieldState {
    pub(super) fn new(
        id: FieldId,
        options: Options,
        position: Position,
        payload: Bytes,
        session: &session::Handle,
        reports: Arc<AtomicU32>,
    ) -> Self {
        let inner = Inner {
            mirror: Mirror::new(),
            seat: None,
            entity: EntityId(0),
            reports,
            said: Said::new(position, payload),
            waiting: VecDeque::new(),
            updated: BTreeSet::new(),
            unheard: BTreeSet::new(),
            missed: 0,
            is_over: false,
            circle: None,
            begun: Vec::new(),
            linked: BTreeMap::new(),
        };
        Self {
            id,
            options,
            session: session.clone(),
            inner: Mutex::new(inner),
            news: Notify::new(),
            moves: Notify::new(),
            begun: Instant::now(),
        }
    }

    /// Comes into the field, or comes back to it.
    pub(super) async fn enter(&self) -> Result<(), Error> {
        let wanted = self.wanted();
        let knows_some = !wanted.known.is_empty();
        match self.ask_to_enter(wanted).await {
            // A node of an earlier release takes less of what a device knows: it tells everything anew.
            Err(error) if error.code() == Some(ErrorCode::BadFrame) && knows_some => {
                let wanted = v1::EnterField {
                    known: Bytes::new(),
                    ..self.wanted()
                };
                self.ask_to_enter(wanted).await
            }
            entered => entered,
        }
    }

    async fn ask_to_enter(&self, wanted: v1::EnterField) -> Result<(), Error> {
        let kind = field_request::Kind::Enter(wanted);
        ask(&self.session, &self.id, kind).await.map(drop)
    }

    async fn enter_again(self: Arc<Self>) {
        let attempt = async || {
            if self.is_over() {
                return Ok(());
            }
            self.enter().await
        };
        match persistently(attempt).await {
            Ok(()) => {}
            // Its end ends the fields, too.
            Err(error) if error.is_closed() => {}
            Err(error) => {
                tracing::warn!(%error, field = %self.id, "not let into the field again");
                self.tell(Waiting::Refused(error.to_string()));
                self.end();
            }
        }
    }

    fn wanted(&self) -> v1::EnterField {
        let mut inner = self.lock();
        let mut known = Vec::new();
        for (entity, sequence) in inner.mirror.knowledge() {
            known.extend(entity.0.to_be_bytes());
            known.extend(sequence.to_be_bytes());
        }
        let place = inner.said.as_it_enters();
        v1::EnterField {
            dimensions: place.position.coordinates().len() as u32,
            class: self.options.class.into(),
            range: self.options.range.unwrap_or_default(),
            budget: self.options.budget,
            report: Some(inner.next_report(0, place)),
            known: known.into(),
        }
    }

    /// Says where the device, or something of its, is, and from now on says it again.
    pub(super) fn report(&self, own: u32, place: Place) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.said.say(own, place.clone())?;
        let report = inner.next_report(own, place);
        self.send(&inner, Some(report));
        drop(inner);
        self.moves.notify_one();
        Ok(())
    }

    /// Says no more that something is there.
    pub(super) fn forget(&self, own: u32) {
        self.lock().said.forget(own);
    }

    /// Says again where the device is, and what it has put there: once soon, as it may have got lost, and then so
    /// that it is not taken for gone.
    pub(super) async fn keep(state: Weak<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(state) = state.upgrade() else {
                return;
            };
            let mut inner = state.lock();
            if inner.is_over {
                return;
            }
            state.say_again(&mut inner);
        }
    }

    fn say_again(&self, inner: &mut Inner) {
        for (own, place) in inner.said.say_again() {
            let report = inner.next_report(own, place);
            self.send(inner, Some(report));
        }
    }

    pub(super) fn is_of_dimensions(&self, position: &Position) -> bool {
        let here = self.lock().said.position();
        here.coordinates().len() == position.coordinates().len()
    }

    pub(super) fn entity(&self) -> EntityId {
        self.lock().entity
    }

    /// What is in range, of all of which the application hears by this.
    pub(super) fn seen(&self) -> Vec<(EntityId, Seen)> {
        let mut inner = self.lock();
        inner.unheard.clear();
        let seen = inner.mirror.seen();
        seen.map(|(entity, seen)| (entity, seen.clone())).collect()
    }

    /// How a neighbour is reached.
    pub(crate) fn target(&self, user: UserId, entity: EntityId) -> Target {
        Target {
            meeting: Meeting::Field(self.id.clone(), entity),
            user,
            policy: self.options.policy,
        }
    }

    /// A neighbour has begun a link.
    pub(crate) fn on_peer(&self, entity: EntityId, peer: Peer) {
        if self
            .lock()
            .is_of_circle(self.begun.elapsed(), entity, &peer)
        {
            self.moves.notify_one();
        } else {
            self.tell(Waiting::Peer(peer));
        }
    }

    /// Whether links begin and end by themselves.
    pub(super) fn has_circle(&self) -> bool {
        self.lock().circle.is_some()
    }

    /// Waits until somebody has moved.
    pub(super) async fn moved(&self) {
        self.moves.notified().await;
    }

    /// Which links others have begun, and which are to begin and to end.
    pub(super) fn look(&self) -> (Vec<(EntityId, Peer)>, Vec<CircleChange>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut changes = Vec::new();
        // Without a seat nobody could be reached; whoever was near may still be.
        if let (Some(circle), Some(_)) = (&mut inner.circle, inner.seat) {
            let (now, me) = (self.begun.elapsed(), inner.said.position().in_space());
            changes = circle.look(now, inner.entity, me, &inner.mirror);
        }
        (std::mem::take(&mut inner.begun), changes)
    }

    pub(super) fn on_link_failed(&self, entity: EntityId) {
        if let Some(circle) = &mut self.lock().circle {
            circle.note_failed(self.begun.elapsed(), entity);
        }
    }

    pub(super) fn on_linked(&self, entity: EntityId, peer: Peer) {
        self.lock().linked.insert(entity, peer);
        self.tell(Waiting::Linked(entity));
    }

    pub(super) fn on_unlinked(&self, entity: EntityId, peer: &Peer) {
        let mut inner = self.lock();
        // It may be another one by now, with whom messages flow.
        if inner.linked.get(&entity) != Some(peer) {
            return;
        }
        inner.linked.remove(&entity);
        drop(inner);
        self.tell(Waiting::Unlinked(entity));
    }

    /// Those of the circle with whom messages flow.
    pub(super) fn linked(&self) -> Vec<(EntityId, Peer)> {
        let inner = self.lock();
        let linked = inner.linked.iter();
        linked
            .map(|(entity, peer)| (*entity, peer.clone()))
            .collect()
    }

    /// The next event; `None` at the end. Losing the future loses no event.
    pub(super) async fn next(&self) -> Option<Told> {
        loop {
            let news = self.news.notified();
            {
                let mut inner = self.lock();
                while let Some(waiting) = inner.waiting.pop_front() {
                    if let Some(told) = inner.told(waiting) {
                        return Some(told);
                    }
                }
                if inner.missed > 0 {
                    return Some(Told::Lagged(std::mem::take(&mut inner.missed)));
                }
                if inner.is_over {
                    // Whoever else waits is told by whoever was told.
                    self.news.notify_one();
                    return None;
                }
            }
            news.await;
        }
    }

    pub(super) fn is_in(&self) -> bool {
        self.lock().seat.is_some()
    }

    fn has_seat(&self, seat: u32) -> bool {
        self.lock().seat == Some(seat)
    }

    fn on_entered(&self, entered: &v1::EnteredField) {
        let mut inner = self.lock();
        inner.seat = Some(entered.seat);
        inner.entity = EntityId(entered.entity);
        inner.mirror.restart();
        inner.said.on_entered();
        self.say_again(&mut inner);
        if inner.circle.is_none() {
            inner.circle = self.circle(&entered.linked_within);
        }
    }

    /// With whom the device is to be linked, as its application says, or else the node; `None` when with
    /// nobody.
    fn circle(&self, by_class: &[f64]) -> Option<Circle> {
        let reach = match self.options.linked_within {
            Some(within) => Reach::Same(within),
            None => Reach::ByClass(by_class.iter().copied().take(CLASSES_MAX).collect()),
        };
        let is_wanted = match &reach {
            Reach::Same(within) => *within > 0.0,
            Reach::ByClass(within) => !within.is_empty(),
        };
        let links_max = self.options.links_max;
        (is_wanted && links_max > 0).then(|| Circle::new(reach, links_max))
    }

    fn on_batch(&self, batch: &[u8]) {
        let mut inner = self.lock();
        let Ok(changes) = inner.mirror.apply(batch) else {
            tracing::warn!(field = %self.id, "a batch breaks the contract: ignored");
            return;
        };
        for change in changes {
            inner.push(Waiting::Change(change));
        }
        if inner.mirror.wants_acknowledgement() {
            self.send(&inner, None);
        }
        drop(inner);
        self.news.notify_one();
        self.moves.notify_one();
    }

    fn tell(&self, waiting: Waiting) {
        self.lock().push(waiting);
        self.news.notify_one();
    }

    /// The device is in the field no more, and never comes back to it.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.news.notify_one();
        self.moves.notify_one();
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    fn send(&self, inner: &Inner, report: Option<v1::FieldReport>) {
        let Some(seat) = inner.seat else {
            // Where the device is, is said as it enters.
            return;
        };
        let ticks = inner.mirror.ticks();
        let update = v1::FieldUpdate {
            seat,
            report,
            ack: ticks.last,
            ack_before: ticks.before,
        };
        self.session
            .send_unreliable(client_frame::Body::FieldUpdate(update));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    fn next_report(&self, own: u32, place: Place) -> v1::FieldReport {
        let sequence = self.reports.fetch_add(1, Ordering::Relaxed) + 1;
        v1::FieldReport {
            own,
            sequence,
            position: place.position.coordinates().to_vec(),
            payload: place.payload,
            class: place.class.into(),
        }
    }

    /// Whether a link that a neighbour has begun is one of the circle; then it is kept.
    fn is_of_circle(&mut self, now: Duration, entity: EntityId, peer: &Peer) -> bool {
        let Some(circle) = &mut self.circle else {
            return false;
        };
        let me = self.said.position().in_space();
        let is_member = circle.note_linked(now, entity, me, &self.mirror);
        if is_member {
            // One for each that there may be; a later one takes the place of the one before.
            self.begun.retain(|(known, _)| *known != entity);
            self.begun.push((entity, peer.clone()));
        }
        is_member
    }

    fn push(&mut self, waiting: Waiting) {
        if let Waiting::Change(Change::Left(entity)) = waiting
            && self.unheard.remove(&entity)
        {
            return self.forget(entity);
        }
        if let Waiting::Change(Change::Updated(entity)) = waiting
            && self.updated.contains(&entity)
        {
            return;
        }
        if self.waiting.len() >= EVENTS_MAX {
            self.missed += 1;
            return;
        }
        if let Waiting::Change(Change::Updated(entity)) = waiting {
            self.updated.insert(entity);
        }
        if let Waiting::Change(Change::Entered(entity)) = waiting {
            self.unheard.insert(entity);
        }
        self.waiting.push_back(waiting);
    }

    /// Tells nothing of what has come and gone before the application has heard of it.
    fn forget(&mut self, entity: EntityId) {
        self.updated.remove(&entity);
        self.waiting.retain(|waiting| match waiting {
            Waiting::Change(Change::Entered(other) | Change::Updated(other)) => *other != entity,
            Waiting::Change(Change::Left(_))
            | Waiting::Peer(_)
            | Waiting::Linked(_)
            | Waiting::Unlinked(_)
            | Waiting::Refused(_) => true,
        });
    }

    /// What there is to tell of it now; `None` for what has left meanwhile, which is told next.
    fn told(&mut self, waiting: Waiting) -> Option<Told> {
        let seen = |entity: EntityId| self.mirror.find(entity).cloned();
        Some(match waiting {
            Waiting::Change(Change::Entered(entity)) => {
                let seen = seen(entity);
                self.unheard.remove(&entity);
                Told::Entered(entity, seen?)
            }
            Waiting::Change(Change::Updated(entity)) => {
                let seen = seen(entity);
                self.updated.remove(&entity);
                Told::Updated(entity, seen?)
            }
            Waiting::Change(Change::Left(entity)) => Told::Left(entity),
            Waiting::Peer(peer) => Told::Peer(peer),
            Waiting::Linked(entity) => Told::Linked(entity, self.linked.get(&entity)?.clone()),
            Waiting::Unlinked(entity) => Told::Unlinked(entity),
            Waiting::Refused(why) => Told::Refused(why),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Links that a device begins by itself, unless its application says otherwise.
const LINKS_MAX: usize = 8;

/// Events that wait; what comes on top is counted and dropped.
const EVENTS_MAX: usize = 4096;

// All that it knows goes into the request by which it comes back.
const _: () = assert!(KNOWN_MAX == FIELD_KNOWN_MAX);
